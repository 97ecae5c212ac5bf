//! The methods, filters, tests and functions that Python's transformers provides to templates.
//!
//! Invariant: everything here terminates, and creates no more data than its fuel or a fixed limit allows, for any arguments:
//! the numbers in a template come from a download.
//! To add a string method, add an arm in [`string_method`]; to add a filter, test or function, a line in [`add_to`].

use std::collections::HashSet;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::dates::strftime;

/// The largest field width in a template: a few digits can ask for that many bytes.
const WIDEST: usize = 4096;

/// The deepest nesting of lists, and the most parts in all, of a stored value.
const DEEPEST: usize = 64;
const MOST_PARTS: u64 = 100_000;

fn refusal(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Adds everything to an environment.
pub(crate) fn add_to(environment: &mut Environment<'static>) {
    minijinja_contrib::add_to_environment(environment);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_filter("iterated", iterated);
    environment.add_filter("bounded", bounded);
    environment.add_filter("percent", percent);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("trim", |text: String, chars: Option<String>| {
        strip(&text, chars.as_deref(), true, true).to_owned()
    });
    environment.add_filter("center", |text: String, width: Option<usize>| {
        padded(&text, width.unwrap_or(80), ' ', |room| room / 2)
    });
    environment.add_filter("wordcount", |text: String| text.split_whitespace().count());
    environment.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined
        )
    });
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> { Err(refusal(message)) },
    );
    environment.add_function("strftime_now", |format: String| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        strftime(&format, now)
    });
}

/// Refuses to loop over none, as Python does.
fn iterated(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(refusal("'NoneType' object is not iterable"));
    }
    Ok(value)
}

/// Refuses values with more parts than any conversation needs; a shared part counts as often as it is reached.
fn bounded(state: &State, value: Value) -> Result<Value, Error> {
    let mut parts = 0;
    if count(&value, 0, &mut parts) {
        state.consume_fuel(parts / 8)?;
        return Ok(value);
    }
    Err(refusal(
        "a value has too many elements, or is nested too deeply",
    ))
}

/// Counts the parts of a value; false if there are too many, or if they are nested too deeply.
#[expect(clippy::wildcard_enum_match_arm, reason = "other kinds have no parts")]
fn count(value: &Value, depth: usize, parts: &mut u64) -> bool {
    *parts += 1;
    if depth > DEEPEST || *parts > MOST_PARTS {
        return false;
    }
    match value.kind() {
        // An iterator of unknown length creates its items one by one, possibly only once, so it is not counted.
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => value
            .try_iter()
            .is_ok_and(|mut items| items.all(|item| count(&item, depth + 1, parts))),
        ValueKind::Map => value.try_iter().is_ok_and(|mut keys| {
            keys.all(|key| {
                let part = value.get_item(&key).unwrap_or_default();
                count(&key, depth + 1, parts) && count(&part, depth + 1, parts)
            })
        }),
        _ => true,
    }
}

/// `format % values`.
fn percent(state: &State, format: &str, values: Value) -> Result<String, Error> {
    check_field_widths(state, format)?;
    let values = match values.downcast_object_ref::<Tuple>() {
        Some(tuple) => tuple.to_vec(),
        None => vec![values],
    };
    minijinja::formatting::format(minijinja::formatting::FormatStyle::Printf, format, &values)
}

/// Refuses field widths that are larger than any text needs.
fn check_field_widths(state: &State, format: &str) -> Result<(), Error> {
    let widths = format.split(|c: char| !c.is_ascii_digit());
    let mut sum = 0;
    for width in widths.filter(|digits| !digits.is_empty()) {
        sum += width
            .parse::<usize>()
            .ok()
            .filter(|&width| width <= WIDEST)
            .ok_or_else(|| refusal(format!("a field is {width} wide; {WIDEST} is the most")))?;
    }
    state.consume_fuel((sum / 64) as u64)
}

/// `int(value)`, or 0, or the given default.
fn int(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    options: Kwargs,
) -> Result<Value, Error> {
    let given = default.clone().or(options.get("default")?);
    let or = given.unwrap_or_else(|| Value::from(0));
    Ok(minijinja::filters::int(state, value, default, base, options).unwrap_or(or))
}

/// `float(value)`, or 0.0, or the given default.
fn float(
    state: &State,
    value: &Value,
    default: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let given = default.clone().or(options.get("default")?);
    let or = given.unwrap_or_else(|| Value::from(0.0));
    Ok(minijinja::filters::float(state, value, default, options).unwrap_or(or))
}

/// Python's methods: our own if `minijinja_contrib` lacks them or differs.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "other kinds have no methods of ours"
)]
fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => value
            .as_str()
            .map_or(Ok(None), |text| string_method(state, text, name, arguments))?,
        ValueKind::Seq if matches!(name, "index" | "count") => {
            state.consume_fuel(value.len().unwrap_or_default() as u64)?;
            if name == "count" {
                return unknown_method_callback(state, value, name, arguments);
            }
            let [what] = arguments else {
                return Err(refusal("index takes one argument"));
            };
            let found = value.try_iter()?.position(|item| item == *what);
            Some(Value::from(
                found.ok_or_else(|| refusal(format!("{what} is not in list")))?,
            ))
        }
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => unknown_method_callback(state, value, name, arguments),
    }
}

/// A string method of our own; `None` leaves it to `minijinja_contrib`.
fn string_method(
    state: &State,
    text: &str,
    name: &str,
    arguments: &[Value],
) -> Result<Option<Value>, Error> {
    let word = |n: usize| arguments.get(n).and_then(|value| value.as_str());
    let width = || {
        let width = arguments
            .first()
            .and_then(|value| usize::try_from(value.clone()).ok());
        width.ok_or_else(|| refusal(format!("{name} takes a width")))
    };
    let fill = || word(1).and_then(|fill| fill.chars().next()).unwrap_or(' ');
    let separator = || {
        word(0)
            .filter(|separator| !separator.is_empty())
            .ok_or_else(|| refusal(format!("{name} takes a separator")))
    };
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" if arguments.len() < 2 => {
            Value::from(strip(text, word(0), name != "rstrip", name != "lstrip"))
        }
        "center" => Value::from(padded(text, width()?, fill(), |room| {
            // For an odd width, CPython puts the additional blank on the left.
            room / 2 + (room & width().unwrap_or(0) & 1)
        })?),
        "ljust" => Value::from(padded(text, width()?, fill(), |_| 0)?),
        "rjust" => Value::from(padded(text, width()?, fill(), |room| room)?),
        "zfill" => {
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            let room = width()?.saturating_sub(sign.len());
            Value::from(sign.to_owned() + &padded(digits, room, '0', |room| room)?)
        }
        "rsplit" => {
            let most = arguments.get(1).and_then(|n| i64::try_from(n.clone()).ok());
            let most = most
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(usize::MAX - 1);
            let mut parts: Vec<&str> = match word(0) {
                Some(_) => text.rsplitn(most + 1, separator()?).collect(),
                None => right_words(text, most),
            };
            parts.reverse();
            parts.into_iter().map(Value::from).collect()
        }
        "partition" | "rpartition" => {
            let separator = separator()?;
            let last = name == "rpartition";
            let found = if last {
                text.rsplit_once(separator)
            } else {
                text.split_once(separator)
            };
            let parts = match found {
                Some((left, right)) => [left, separator, right],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(Tuple::new(parts.map(Value::from).to_vec()))
        }
        "index" | "rindex" => {
            let what = word(0).ok_or_else(|| refusal(format!("{name} takes a string")))?;
            let found = if name == "index" {
                text.find(what)
            } else {
                text.rfind(what)
            };
            let at = found.ok_or_else(|| refusal("substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "removeprefix" | "removesuffix" => {
            let what = word(0).ok_or_else(|| refusal(format!("{name} takes a string")))?;
            let cut = if name == "removeprefix" {
                text.strip_prefix(what)
            } else {
                text.strip_suffix(what)
            };
            Value::from(cut.unwrap_or(text))
        }
        "swapcase" => text
            .chars()
            .map(|c| {
                if c.is_uppercase() {
                    c.to_lowercase().to_string()
                } else {
                    c.to_uppercase().to_string()
                }
            })
            .collect::<String>()
            .into(),
        "casefold" => Value::from(text.to_lowercase()),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(char::is_numeric)),
        "format" => {
            check_field_widths(state, text)?;
            return Ok(None);
        }
        _ => return Ok(None),
    }))
}

/// Splits at white space from the right, at most `most` times; the remaining text keeps its inner white space.
fn right_words(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end();
    while !rest.is_empty() {
        let cut = rest
            .rfind(char::is_whitespace)
            .filter(|_| parts.len() < most);
        let start = cut.map_or(0, |at| {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        });
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end();
    }
    parts
}

/// `strip`, `lstrip` and `rstrip`; Python's white space includes four more control characters than Unicode's.
fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let chars = chars.map(|chars| chars.chars().collect::<HashSet<char>>());
    let goes = |c: char| match &chars {
        Some(chars) => chars.contains(&c),
        None => c.is_whitespace() || matches!(c, '\x1c'..='\x1f'),
    };
    let text = if left {
        text.trim_start_matches(goes)
    } else {
        text
    };
    if right {
        text.trim_end_matches(goes)
    } else {
        text
    }
}

/// Pads a text to a width; `before` gives the part of the padding to its left.
fn padded(
    text: &str,
    width: usize,
    fill: char,
    before: impl Fn(usize) -> usize,
) -> Result<String, Error> {
    if width > WIDEST {
        return Err(refusal(format!(
            "a field is {width} wide; {WIDEST} is the most"
        )));
    }
    let room = width.saturating_sub(text.chars().count());
    let left = before(room).min(room);
    let fills = |n: usize| std::iter::repeat_n(fill, n);
    Ok(fills(left)
        .chain(text.chars())
        .chain(fills(room - left))
        .collect())
}

/// `tojson` as in Python's transformers: `json.dumps` with its separators, nothing escaped for HTML.
#[allow(clippy::needless_pass_by_value)] // the signature of a filter
fn tojson(
    state: &State,
    value: &Value,
    ascii: Option<bool>,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let ascii = match ascii {
        Some(ascii) => ascii,
        None => options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
    };
    let indent = indent
        .or(options.get("indent")?)
        .filter(|given| !given.is_none());
    let indent = indent.map(|given| match given.as_str() {
        Some(text) => text.chars().take(16).collect(),
        None => " ".repeat(usize::try_from(given.clone()).unwrap_or(0).min(16)),
    });
    let separators = options
        .get::<Option<Value>>("separators")?
        .filter(|given| !given.is_none())
        .map(|pair| {
            let part = |n: usize| {
                let part = pair.get_item_by_index(n).ok();
                part.and_then(|part| part.as_str().map(str::to_owned))
                    .ok_or_else(|| refusal("separators are two strings"))
            };
            Ok::<_, Error>((part(0)?, part(1)?))
        });
    let (item, key) = match separators.transpose()? {
        Some(given) => given,
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(refusal("Object of type Undefined is not JSON serializable"));
    }
    let refuse = |e: serde_json::Error| refusal("a value cannot be written as JSON").with_source(e);
    let mut value = serde_json::to_value(value).map_err(refuse)?;
    if sort {
        value.sort_all_objects();
    }
    let mut out = Vec::new();
    let form = PythonJson {
        indent,
        item,
        key,
        depth: 0,
        filled: false,
    };
    value
        .serialize(&mut Serializer::with_formatter(&mut out, form))
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

/// The format of `json.dumps`: a space after `,` and `:`, or line breaks and indentation.
struct PythonJson {
    indent: Option<String>,
    item: String,
    key: String,
    depth: usize,
    /// Whether the innermost list or object has items.
    filled: bool,
}

impl PythonJson {
    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = &self.indent else {
            return Ok(());
        };
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }

    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        if self.filled {
            self.line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.line(writer)
    }
}

impl Formatter for PythonJson {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }
}
