//! Chat templates: messages to the text that a model was trained to answer.
//!
//! Invariant: a template is a downloaded program; it sees only messages and special tokens, and it runs on a budget of
//! fuel that bounds its time and memory. What it renders is what Python's `apply_chat_template(tokenize=False)` gives.
//! To add a function that templates may call, add a line in `environment`.
//!
//! The rendered text already holds the BOS that the model wants, so it is encoded with `Bos::Raw`: with `Bos::Add` most
//! models would see two.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::tokenizer::{parse, token_named};
use crate::error::{Error, Result};

/// How much a template may do for one rendering: instructions, and the data it makes at 64 bytes each.
const FUEL: u64 = 2_000_000;

/// The only template of an environment; no file ending, so nothing is escaped.
const NAME: &str = "chat";

/// The special tokens that a template may print.
const SPECIALS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
];

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; some templates know more.
    pub role: String,
    /// What was said, as it is: the template decides how to trim it.
    pub content: String,
}

impl Message {
    /// Makes one turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A chat template, compiled.
#[derive(Clone, Debug)]
pub struct Template {
    environment: Environment<'static>,
    specials: Vec<(&'static str, String)>,
}

impl Template {
    /// Finds and compiles the template of a model, in the order of Python: `chat_template.jinja`, then `chat_template` of
    /// `tokenizer_config.json` (a string, or a list of named ones, of which `default` is taken).
    ///
    /// Returns `None` when the model has none: a base model. An error is a template that cannot be read; the model works
    /// without it, so keep the error until a chat is asked for.
    pub fn from_sources(
        chat_template_jinja: Option<&str>,
        tokenizer_config_json: Option<&[u8]>,
    ) -> Result<Option<Self>> {
        let config = parse("tokenizer_config.json", tokenizer_config_json)?;
        let source = match chat_template_jinja {
            Some(source) => Some(source),
            None => in_config(&config["chat_template"])?,
        };
        let Some(source) = source else {
            return Ok(None);
        };
        let mut environment = environment().map_err(unreadable)?;
        environment
            .add_template_owned(NAME, without_generation_marks(source))
            .map_err(unreadable)?;
        let specials = SPECIALS
            .iter()
            .filter_map(|&key| Some((key, token_named(&config, key)?.to_owned())))
            .collect();
        Ok(Some(Self {
            environment,
            specials,
        }))
    }

    /// Renders a conversation; with `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// Encode the text with `Bos::Raw`. A template refuses what its model was not trained on (a system turn, two user turns
    /// in a row); its own words are in the error.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let given = [
            ("messages", Value::from(Serde(messages))),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            // Python passes both, so that templates ask `is not none` rather than `is defined`.
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        let specials = self
            .specials
            .iter()
            .map(|(key, token)| (*key, Value::from(token.as_str())));
        let context = Value::from_pairs(given.into_iter().chain(specials));
        let rendered = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(context));
        rendered.map_err(|e| match e.kind() {
            ErrorKind::OutOfFuel => Error::Text {
                what: "The chat template did not come to an end".into(),
                next: "Shorten the conversation; if it is short, do not trust this template".into(),
            },
            _ => Error::Text {
                what: format!("The chat template refused the conversation: {}", told(&e)),
                next: "Change the roles or their order, or leave --chat out and write the turns into the prompt".into(),
            },
        })
    }
}

/// Describes a template that does not compile.
#[allow(clippy::needless_pass_by_value)] // for map_err
fn unreadable(error: minijinja::Error) -> Error {
    Error::Text {
        what: format!("The chat template cannot be read: {}", told(&error)),
        next:
            "Leave --chat out and write the turns into the prompt, or correct chat_template.jinja"
                .into(),
    }
}

/// Returns the template that a `tokenizer_config.json` holds.
fn in_config(given: &serde_json::Value) -> Result<Option<&str>> {
    match given {
        serde_json::Value::String(source) => Ok(Some(source)),
        serde_json::Value::Array(named) if !named.is_empty() => {
            let default = named
                .iter()
                .find(|t| t["name"] == "default")
                .and_then(|t| t["template"].as_str());
            default.map(Some).ok_or_else(|| Error::Text {
                what: format!(
                    "tokenizer_config.json has chat templates named {}, and none named default",
                    named
                        .iter()
                        .filter_map(|t| t["name"].as_str())
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
                next: "Put the one you want into chat_template.jinja".into(),
            })
        }
        _ => Ok(None),
    }
}

/// The environment that Python's transformers gives to templates.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .lstrip_blocks(true)
        .trim_blocks(true)
        .build()?;
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    environment.add_function("strftime_now", |format: String| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        strftime(&format, now)
    });
    Ok(environment)
}

/// Says what went wrong in the template's own words where it has some, and in which line.
fn told(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    let what = what.trim_end_matches('.');
    error
        .line()
        .map_or_else(|| what.to_owned(), |line| format!("{what} (line {line})"))
}

/// Turns `{% generation %}` blocks, which mark the assistant's words for training, into blocks that do nothing but keep
/// their white space control and their scope.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (inside, after) = (&tag[2..end], &tag[end + 2..]);
        let mark = |c| matches!(c, '-' | '+');
        match inside.trim_matches(mark).trim() {
            "generation" => out.extend(["{%", &inside.replace("generation", "with"), "%}"]),
            "endgeneration" => {
                out.extend(["{%", &inside.replace("endgeneration", "endwith"), "%}"]);
            }
            _ => out.push_str(&tag[..end + 2]),
        }
        rest = after;
    }
    out + rest
}

/// `tojson` as Python's transformers has it: `json.dumps` with its separators, nothing escaped for HTML.
#[allow(clippy::needless_pass_by_value)] // the signature of a filter
fn tojson(
    state: &State,
    value: &Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<Value, minijinja::Error> {
    let indent = indent
        .or(options.get::<Option<usize>>("indent")?)
        .map(|n| n.min(16));
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = options
        .get::<Option<bool>>("ensure_ascii")?
        .unwrap_or(false);
    options.assert_all_used()?;
    let refuse = |e: serde_json::Error| {
        minijinja::Error::new(
            ErrorKind::InvalidOperation,
            "a value cannot be written as JSON",
        )
        .with_source(e)
    };
    let mut value = serde_json::to_value(value).map_err(refuse)?;
    if sort {
        value.sort_all_objects();
    }
    let mut out = Vec::new();
    match indent {
        Some(n) => {
            let indent = " ".repeat(n);
            value.serialize(&mut Serializer::with_formatter(
                &mut out,
                PrettyFormatter::with_indent(indent.as_bytes()),
            ))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, PythonFormatter)),
    }
    .map_err(refuse)?;
    state.consume_fuel((out.len() / 64) as u64)?;
    let mut text = String::from_utf8_lossy(&out).into_owned();
    if ascii {
        text = text
            .encode_utf16()
            .map(|unit| match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
                _ => format!("\\u{unit:04x}"),
            })
            .collect();
    }
    Ok(Value::from_safe_string(text))
}

/// `json.dumps` puts a space after `,` and `:`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Formats a time, in UTC (Python uses the local zone), with the directives that templates use; others stay as written.
fn strftime(format: &str, unix_seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
    ];
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days as usize + 4) % 7]);
    let twelve = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = rest.next();
        let bare = directive == Some('-');
        if bare {
            directive = rest.next();
        }
        let number = |n: u64| {
            if bare {
                n.to_string()
            } else {
                format!("{n:02}")
            }
        };
        let said = match directive {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100),
            Some('m') => number(month),
            Some('d') => number(day),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => number(hour),
            Some('I') => number(twelve),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => number(minute),
            Some('S') => number(second),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') | None => "%".to_owned(),
            Some(other) => format!("%{}{other}", if bare { "-" } else { "" }),
        };
        out.push_str(&said);
    }
    out
}

/// Year, month and day of a count of days since 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn compiled(source: &str) -> Template {
        Template::from_sources(Some(source), None).unwrap().unwrap()
    }

    fn rendered(source: &str) -> String {
        compiled(source)
            .render(&[Message::new("user", " Hi ")], true)
            .unwrap()
    }

    #[test]
    fn the_demo_template() {
        let source = "{{ bos_token }}{% for m in messages %}{% if m['role']=='user' %}<|user|>{{ m['content'] }}{% elif \
                      m['role']=='assistant' %}<|assistant|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}{% if \
                      add_generation_prompt %}<|assistant|>{% endif %}";
        let config = br#"{"bos_token": {"content": "<|endoftext|>", "special": true}, "eos_token": "<|end|>"}"#;
        let template = Template::from_sources(Some(source), Some(config))
            .unwrap()
            .unwrap();
        let turns = [
            Message::new("user", "one"),
            Message::new("assistant", "two"),
            Message::new("user", "three"),
        ];
        let want = "<|endoftext|><|user|>one<|assistant|>two<|end|><|user|>three";
        assert_eq!(
            template.render(&turns, true).unwrap(),
            format!("{want}<|assistant|>")
        );
        assert_eq!(template.render(&turns, false).unwrap(), want);
    }

    #[test]
    fn sources_in_the_order_of_python() {
        let text = |jinja, config: &str| {
            let template = Template::from_sources(jinja, Some(config.as_bytes()))?;
            template.map(|t| t.render(&[], false)).transpose()
        };
        assert_eq!(
            text(Some("file"), r#"{"chat_template": "config"}"#)
                .unwrap()
                .unwrap(),
            "file"
        );
        assert_eq!(
            text(None, r#"{"chat_template": "config"}"#)
                .unwrap()
                .unwrap(),
            "config"
        );
        let named = r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#;
        assert_eq!(text(None, named).unwrap().unwrap(), "d");
        assert_eq!(text(None, r#"{"chat_template": null}"#).unwrap(), None);
        assert!(Template::from_sources(None, None).unwrap().is_none());
        let none = text(
            None,
            r#"{"chat_template": [{"name": "rag", "template": "r"}]}"#,
        )
        .unwrap_err();
        assert!(none.to_string().contains("named rag"), "{none}");
        assert!(
            text(None, "{")
                .unwrap_err()
                .to_string()
                .contains("tokenizer_config.json")
        );
        assert!(
            text(Some("{% if %}"), "{}")
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
    }

    #[test]
    fn blocks_are_trimmed_and_python_methods_work() {
        assert_eq!(
            rendered(
                "{% for m in messages %}\n    {% if true %}\n{{ m.content.strip() }}\n    {% endif %}\n{% endfor %}\n"
            ),
            "Hi\n"
        );
        assert_eq!(
            rendered(
                "{{ messages[0]['content'].lstrip().split('i')[0] }}{{ messages[::-1][0].role }}"
            ),
            "Huser"
        );
        assert_eq!(
            rendered(
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
            ),
            "1"
        );
        assert_eq!(
            rendered("{{ tools is none }}{{ bos_token is defined }}{{ strftime_now is defined }}"),
            "TrueFalseTrue"
        );
        assert_eq!(rendered("<b>{{ messages[0].content }}"), "<b> Hi ");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        assert_eq!(
            rendered(r#"{{ {"b": [1, 2.0, none], "a": "<é'>"} | tojson }}"#),
            r#"{"b": [1, 2.0, null], "a": "<é'>"}"#
        );
        assert_eq!(
            rendered(r#"{{ {"b": 1, "a": {}} | tojson(sort_keys=true) }}"#),
            r#"{"a": {}, "b": 1}"#
        );
        assert_eq!(
            rendered(r#"{{ {"b": [1]} | tojson(indent=2) }}"#),
            "{\n  \"b\": [\n    1\n  ]\n}"
        );
        assert_eq!(
            rendered(r#"{{ "é👍" | tojson(ensure_ascii=true) }}"#),
            r#""\u00e9\ud83d\udc4d""#
        );
    }

    #[test]
    fn generation_marks_vanish_and_keep_their_white_space_control() {
        assert_eq!(
            rendered("a {%- generation -%} b {%- endgeneration %} c"),
            "ab c"
        );
        assert_eq!(rendered("{% generation %}\nb{% endgeneration %}\nc"), "bc");
        assert_eq!(
            without_generation_marks("{% set generation = 1 %}{% x"),
            "{% set generation = 1 %}{% x"
        );
    }

    #[test]
    fn a_template_can_refuse_and_cannot_run_away() {
        let refused = compiled("{{ raise_exception('Roles must alternate.') }}")
            .render(&[], false)
            .unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("Roles must alternate (line 1). "),
            "{refused}"
        );
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        let stopped = compiled(endless).render(&[], false).unwrap_err();
        assert!(
            stopped.to_string().contains("did not come to an end"),
            "{stopped}"
        );
    }

    #[test]
    fn dates() {
        assert_eq!(strftime("%d %b %Y", 1_721_952_000), "26 Jul 2024");
        assert_eq!(
            strftime("%A, %B %-d, %Y %H:%M:%S %I%p", 951_782_399 + 13 * 3600),
            "Tuesday, February 29, 2000 12:59:59 12PM"
        );
        assert_eq!(strftime("%F %a %y%% %Q", 0), "1970-01-01 Thu 70% %Q");
        assert_eq!(rendered("{{ strftime_now('%Y')|length }}"), "4");
    }
}
