//! Prepares the source of a template for an engine whose syntax differs from Python's jinja2 in a few places.
//!
//! Invariant: strings, comments and raw text are unchanged except for their line ends; rewritten constructs have the same
//! meaning in the engine as in Python. A source that ends within a tag is passed on, and the engine reports the error. To
//! rewrite another construct, add it to [`block`] (tags) or [`expression`] (both kinds).

use std::borrow::Cow;

/// Prepares a source for the engine.
///
/// - Line ends become `\n`, as in jinja2.
/// - `{% generation %}`, which marks the assistant's words for training, becomes a block that only keeps its white space
///   control and its scope.
/// - `{% raw %}` keeps the line end after it: jinja2 does not trim that one.
/// - `{% for x in tools %}` refuses none, which the engine would treat as an empty list.
/// - The value stored by `{% set %}` is limited: nested lists that double at each level would cost more than any fuel.
/// - `'%s' % x` becomes a filter that formats.
///
/// Also returns the length of the longest tag, in bytes.
pub(crate) fn prepare(source: &str) -> (String, usize) {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + source.len() / 16);
    let mut rest = source.as_str();
    let mut longest = 0;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let taken = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map(|end| {
                out.push_str(&tag[..end + 2]);
                end + 2
            }),
            Some(b'{') => closing(tag, "}}").map(|end| {
                longest = longest.max(end);
                out.push_str(&expression(&tag[..end]));
                out.push_str("}}");
                end + 2
            }),
            Some(b'%') => closing(tag, "%}").map(|end| {
                let inside = &tag[2..end];
                longest = longest.max(end);
                if bare(inside) != "raw" {
                    out.push_str(&block(inside));
                    return end + 2;
                }
                out.push_str(&tag[..end + 2]);
                let raw = &tag[end + 2..];
                if !inside.ends_with('-') && raw.starts_with('\n') {
                    out.push('\n');
                }
                let length = raw_length(raw);
                out.push_str(&raw[..length]);
                end + 2 + length
            }),
            _ => {
                out.push('{');
                Some(1)
            }
        };
        let Some(length) = taken else {
            rest = tag;
            break;
        };
        rest = &tag[length..];
    }
    longest = longest.max(if rest.starts_with('{') { rest.len() } else { 0 });
    (out + rest, longest)
}

/// The end of a tag, skipping strings in it.
fn closing(tag: &str, end: &str) -> Option<usize> {
    let mut at = 2;
    // A brace that is opened in an expression is closed before the tag ends.
    let mut depth = 0usize;
    loop {
        let rest = tag.get(at..)?;
        if depth == 0 && rest.starts_with(end) {
            return Some(at);
        }
        match rest.chars().next()? {
            quote @ ('"' | '\'') => at += string_length(rest, quote)?,
            c => {
                match c {
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                at += c.len_utf8();
            }
        }
    }
}

/// The length of a string, including its quotes.
fn string_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The length of raw text, up to `{% endraw %}`.
fn raw_length(text: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("{%").map(|at| from + at) {
        let inside = text[at + 2..].split("%}").next().unwrap_or_default();
        if bare(inside) == "endraw" {
            return at;
        }
        from = at + 2;
    }
    text.len()
}

/// The inside of a tag without white space control.
fn bare(inside: &str) -> &str {
    inside.trim_matches(|c| matches!(c, '-' | '+')).trim()
}

/// Rewrites a block tag.
fn block(inside: &str) -> String {
    let inside = match bare(inside) {
        "generation" => Cow::Owned(inside.replace("generation", "with")),
        "endgeneration" => Cow::Owned(inside.replace("endgeneration", "endwith")),
        words if words.starts_with("for ") => looped(inside),
        words if words.starts_with("set ") => kept(inside),
        _ => Cow::Borrowed(inside),
    };
    format!("{{%{}%}}", expression(&inside))
}

/// Makes a loop over a name refuse none.
fn looped(inside: &str) -> Cow<'_, str> {
    let Some(at) = inside.find(" in ").map(|at| at + 4) else {
        return Cow::Borrowed(inside);
    };
    let rest = &inside[at..];
    let start = rest.len() - rest.trim_start().len();
    let length = rest[start..]
        .find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '.'))
        .unwrap_or(rest.len() - start);
    let (name, after) = (&rest[start..start + length], &rest[start + length..]);
    let follows = after.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
    let ends = follows.is_empty()
        || (after.starts_with(char::is_whitespace)
            && ["if ", "if(", "recursive"]
                .iter()
                .any(|word| follows.starts_with(word)));
    if ends && name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        Cow::Owned(format!("{}{name}|iterated{after}", &inside[..at + start]))
    } else {
        Cow::Borrowed(inside)
    }
}

/// Limits the size of the value that a `set` stores.
fn kept(inside: &str) -> Cow<'_, str> {
    let mut at = 0;
    while let Some(c) = inside[at..].chars().next() {
        match c {
            '"' | '\'' => match string_length(&inside[at..], c) {
                Some(length) => at += length,
                None => return Cow::Borrowed(inside),
            },
            '=' => {
                let (left, right) = (&inside[..=at], &inside[at + 1..]);
                let end = right.trim_end_matches(['-', '+']).len();
                let (value, control) = right.split_at(end);
                return Cow::Owned(format!("{left} ({})|bounded {control}", value.trim()));
            }
            _ => at += c.len_utf8(),
        }
    }
    Cow::Borrowed(inside)
}

/// Rewrites `'%s' % x` as a filter; the rest is unchanged.
fn expression(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\'']) {
        let quote = if rest[at..].starts_with('"') {
            '"'
        } else {
            '\''
        };
        let Some(length) = string_length(&rest[at..], quote) else {
            break;
        };
        out.push_str(&rest[..at + length]);
        rest = &rest[at + length..];
        let Some(operand) = rest.trim_start().strip_prefix('%') else {
            continue;
        };
        let operand = operand.trim_start();
        if let Some(length) = operand_length(operand).filter(|&length| length > 0) {
            out.push_str("|percent(");
            out.push_str(&operand[..length]);
            out.push(')');
            rest = &operand[length..];
        }
    }
    Cow::Owned(out + rest)
}

/// The length of an operand: a name, number, string or bracketed expression, with the attributes, items and calls after it.
fn operand_length(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        match rest.chars().next() {
            Some(quote @ ('"' | '\'')) if at == 0 => at += string_length(rest, quote)?,
            Some('(' | '[') => at += bracket_length(rest)?,
            Some(c) if c.is_alphanumeric() || matches!(c, '_' | '.') => at += c.len_utf8(),
            _ => return Some(at),
        }
    }
}

/// The length of a bracketed expression, up to the closing bracket.
fn bracket_length(text: &str) -> Option<usize> {
    let (mut at, mut depth) = (0, 0usize);
    loop {
        let rest = &text[at..];
        let c = rest.chars().next()?;
        match c {
            '"' | '\'' => {
                at += string_length(rest, c)?;
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += c.len_utf8();
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    fn prepare(source: &str) -> String {
        super::prepare(source).0
    }

    #[test]
    fn generation_marks_vanish_and_keep_their_white_space_control() {
        assert_eq!(
            prepare("a {%- generation -%} b {%- endgeneration %} c"),
            "a {%- with -%} b {%- endwith %} c"
        );
        assert_eq!(
            prepare("{# {% generation %} #}{% set generation = 1 %}{% x"),
            "{# {% generation %} #}{% set generation = (1)|bounded %}{% x"
        );
    }

    #[test]
    fn strings_comments_and_raw_text_stay() {
        for same in [
            "{{ '{% generation %}' }}{{ \"%}\" }}",
            "{% raw %}{% generation %}{{ 'a' % 1 }}{% endraw %}",
            "{% if x == {'a': {'b': 1}} %}{{ {'a': {}} }}{% set x %}",
            "{{ '}}' }}{ {",
            "{{ 7 % 2 }}{{ 'a' }} % {{ 'b'",
            "{% for x in range(3) %}{% for k, v in d.items() %}",
        ] {
            assert_eq!(prepare(same), same);
        }
    }

    #[test]
    fn raw_keeps_its_line_end() {
        assert_eq!(
            prepare("{% raw %}\r\n{% endraw %}"),
            "{% raw %}\n\n{% endraw %}"
        );
        assert_eq!(
            prepare("{% raw -%}\n{% endraw %}"),
            "{% raw -%}\n{% endraw %}"
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
        assert_eq!(
            prepare("{%- set a, b = 1, 'x=y' -%}"),
            "{%- set a, b = (1, 'x=y')|bounded -%}"
        );
        assert_eq!(
            prepare("{% set ns.x = ns.x + [1] if a == 1 else 2 %}"),
            "{% set ns.x = (ns.x + [1] if a == 1 else 2)|bounded %}"
        );
    }

    #[test]
    fn loops_and_formats() {
        assert_eq!(
            prepare("{%- for t in tools -%}"),
            "{%- for t in tools|iterated -%}"
        );
        assert_eq!(
            prepare("{% for t in m.calls if t %}"),
            "{% for t in m.calls|iterated if t %}"
        );
        assert_eq!(
            prepare("{{ '%s' % (a, ')') ~ 'x%' % b.c[0] + 1 }}"),
            "{{ '%s'|percent((a, ')')) ~ 'x%'|percent(b.c[0]) + 1 }}"
        );
    }

    #[test]
    fn the_longest_tag_is_told() {
        assert_eq!(
            super::prepare("{{ 1 }}{% if 1234 %}x{# 123456789 #}{% endif %}").1,
            11
        );
        assert_eq!(super::prepare("{{ '123").1, 7);
    }
}
