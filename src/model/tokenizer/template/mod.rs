//! Chat templates: convert messages to the text format on which a model was trained.
//!
//! Invariant: a template is a downloaded program; it can access only messages, special tokens and the user's own
//! arguments, and its time and memory are
//! limited by a budget of fuel. Its result equals that of Python's `apply_chat_template(tokenize=False)`.
//! To add a function that templates may call, see `python.rs`; differences in syntax are handled in `source.rs`.
//!
//! The rendered text already contains the BOS that the model needs, so it is encoded with `Bos::Raw`: with `Bos::Add` most
//! models would get two.

mod dates;
mod python;
mod source;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde::{Deserialize, Serialize};

use super::{SPECIALS, parse, token_named, with_special_tokens_map};
use crate::error::{Error, Result};
use crate::model::checkpoint::gguf::Gguf;

/// The fuel for one rendering (instructions, and created data at 64 bytes each): for the template itself, for every message,
/// and for every byte of their contents (some templates process them letter by letter). The time of some methods is not paid
/// for by fuel and can be up to the square of this.
const FUEL: u64 = 200_000;
const FUEL_PER_MESSAGE: u64 = 10_000;
const FUEL_PER_BYTE: u64 = 16;

/// The stack for a template, most of which is never used: enough for the longest source, nested at every byte.
const STACK: usize = 256 << 20;

/// The longest source in bytes (the engine counts columns in 16 bits), and the longest tag, every byte of which may nest; real
/// ones have up to 20 000 and 1 000.
const LONGEST: usize = 65_000;
const LONGEST_TAG: usize = 16_000;

/// The name of the only template in an environment; without a file extension, so nothing is escaped.
const NAME: &str = "chat";

/// The keys of [`SPECIALS`] in GGUF files (one of them is misspelt).
const SPECIALS_IN_GGUF: [&str; 7] = [
    "bos",
    "eos",
    "unknown",
    "padding",
    "seperator",
    "cls",
    "mask",
];

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; some templates support more.
    pub role: String,
    /// The text, unchanged: the template decides how to trim it.
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

/// The possible places of a model's template, and the special tokens that it may print.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// `chat_template.jinja`.
    pub jinja: Option<&'a str>,
    /// The files of `chat_templates/`, by their names without the extension.
    pub named: Vec<(String, String)>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`, of older models.
    pub special_tokens_map: Option<&'a [u8]>,
}

/// A compiled chat template; or the error, which is reported when a chat is requested.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Result<Environment<'static>, String>,
    specials: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// Finds and compiles the template of a model, in Python's order of precedence: `chat_template.jinja` (and the named files
    /// in `chat_templates/`), then `chat_template` of `tokenizer_config.json`, which is a string or a list of named templates.
    /// Of named ones, `default` is used.
    ///
    /// Returns `None` if the model has none: a base model. A template that cannot be parsed is not an error here, because the
    /// model works without it; [`Self::render`] returns the error.
    pub fn from_sources(sources: &Sources) -> Result<Option<Self>> {
        let config = parse("tokenizer_config.json", sources.tokenizer_config)?;
        let map = parse("special_tokens_map.json", sources.special_tokens_map)?;
        let config = with_special_tokens_map(config, &map);
        let specials = SPECIALS
            .iter()
            .filter_map(|&key| Some((key, token_named(&config, key)?.to_owned())))
            .collect();
        let source = match sources.jinja {
            Some(source) => Some(Ok(source)),
            None if !sources.named.is_empty() => {
                let named = sources.named.iter();
                Some(default_of(
                    named.map(|(name, text)| (name.as_str(), text.as_str())),
                ))
            }
            None => in_config(&config["chat_template"]),
        };
        Ok(source.map(|source| Self::new(source, specials)))
    }

    /// Finds and compiles the template in the metadata of a GGUF file; `None` and errors as for [`Self::from_sources`].
    pub fn from_gguf(gguf: &Gguf) -> Option<Self> {
        let pieces = gguf.strings("tokenizer.ggml.tokens").unwrap_or_default();
        let specials = SPECIALS
            .iter()
            .zip(SPECIALS_IN_GGUF)
            .filter_map(|(&name, key)| {
                let id = gguf.u32(&format!("tokenizer.ggml.{key}_token_id"))?;
                Some((name, (*pieces.get(id as usize)?).to_owned()))
            });
        let source = match gguf.string("tokenizer.chat_template") {
            Some(source) => Ok(source),
            None => Err(format!(
                "there are templates named {}, and no default; give the turns in the prompt",
                gguf.strings("tokenizer.chat_templates")?.join(", ")
            )),
        };
        Some(Self::new(source, specials.collect()))
    }

    fn new(source: Result<&str, String>, specials: Vec<(&'static str, String)>) -> Self {
        Self {
            environment: source.and_then(|source| {
                let compiled = on_large_stack(|| compile(source).map_err(|e| error_in_words(&e)));
                compiled.unwrap_or_else(|| Err("its compiler failed".into()))
            }),
            specials,
        }
    }

    /// Those of the arguments whose variable the template does not read.
    pub fn unknown<'a>(&self, arguments: &'a [(String, serde_json::Value)]) -> Vec<&'a str> {
        let template = self.environment.as_ref().ok();
        let template = template.and_then(|environment| environment.get_template(NAME).ok());
        let read = template.map(|template| template.undeclared_variables(false));
        let names = arguments.iter().map(|(name, _)| name.as_str());
        names
            .filter(|name| read.as_ref().is_some_and(|read| !read.contains(*name)))
            .collect()
    }

    /// Renders a conversation; with `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// The text must be encoded with `Bos::Raw`. A template refuses conversations on which its model was not trained (a system
    /// turn, two user turns in a row); the error contains its own message.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, add_generation_prompt, &[])
    }

    /// The same with values of variables that the template reads, such as `enable_thinking`.
    pub fn render_with(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        arguments: &[(String, serde_json::Value)],
    ) -> Result<String> {
        let given = [
            ("messages", Value::from(Serde(messages))),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            // Python passes both, so templates test `is not none` rather than `is defined`.
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        let specials = self
            .specials
            .iter()
            .map(|(key, token)| (*key, Value::from(token.as_str())));
        let arguments = arguments
            .iter()
            .map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        // Of two values of a name the last one counts.
        let context = Value::from_pairs(given.into_iter().chain(specials).chain(arguments));
        let environment = self.environment.as_ref().map_err(|what| Error::Text {
            what: format!("The chat template cannot be read: {what}"),
            next: "Leave --chat out and write the turns into the prompt, or correct chat_template.jinja"
                .into(),
        })?;
        let said: usize = messages.iter().map(|turn| turn.content.len()).sum();
        let fuel = FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + FUEL_PER_BYTE * said as u64;
        let mut environment = environment.clone();
        environment.set_fuel(Some(fuel));
        let rendered = on_large_stack(|| {
            let template = environment.get_template(NAME)?;
            template.render(&context)
        });
        let rendered = rendered.unwrap_or_else(|| {
            Err(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                "its engine failed",
            ))
        });
        rendered.map_err(|e| {
            if e.kind() == ErrorKind::OutOfFuel {
                return Error::Text {
                    what: "The chat template did not finish".into(),
                    next: "Shorten the conversation; if it is short, do not trust this template".into(),
                };
            }
            Error::Text {
                what: format!("The chat template refused the conversation: {}", error_in_words(&e)),
                next: "Change the roles or their order, or leave --chat out and write the turns into the prompt".into(),
            }
        })
    }
}

/// The template in a `tokenizer_config.json`.
#[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is a template")]
fn in_config(given: &serde_json::Value) -> Option<Result<&str, String>> {
    match given {
        serde_json::Value::String(source) => Some(Ok(source)),
        serde_json::Value::Array(named) if !named.is_empty() => {
            Some(default_of(named.iter().filter_map(|t| {
                Some((t["name"].as_str()?, t["template"].as_str()?))
            })))
        }
        _ => None,
    }
}

/// The template named `default`; the error lists the names.
fn default_of<'a>(named: impl Iterator<Item = (&'a str, &'a str)>) -> Result<&'a str, String> {
    let mut names = Vec::new();
    for (name, source) in named {
        if name == "default" {
            return Ok(source);
        }
        names.push(name);
    }
    Err(format!(
        "there are templates named {}, and none named default; put the one you want into chat_template.jinja",
        names.join(", ")
    ))
}

/// Runs a step of the engine on a stack that is large enough for its recursion, which follows the nesting of expressions and
/// values. `None` if the engine panics.
fn on_large_stack<T: Send>(step: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat template".into())
            .stack_size(STACK)
            .spawn_scoped(scope, step);
        thread.ok()?.join().ok()
    })
}

/// Compiles a source in an environment like that of Python's transformers.
fn compile(source: &str) -> Result<Environment<'static>, minijinja::Error> {
    let (source, tag) = source::prepare(source);
    for (what, found, most) in [
        ("it", source.len(), LONGEST),
        ("a tag of it", tag, LONGEST_TAG),
    ] {
        if found > most {
            let what = format!("{what} has {found} bytes; {most} is the most");
            return Err(minijinja::Error::new(ErrorKind::SyntaxError, what));
        }
    }
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .lstrip_blocks(true)
        .trim_blocks(true)
        .build()?;
    environment.set_syntax(syntax);
    python::add_to(&mut environment);
    environment.add_template_owned(NAME, source)?;
    Ok(environment)
}

/// The template's own error message, if it raised one, and the line.
fn error_in_words(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    let what = what.trim_end_matches('.');
    error
        .line()
        .map_or_else(|| what.to_owned(), |line| format!("{what} (line {line})"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn compiled(source: &str) -> ChatTemplate {
        ChatTemplate::new(Ok(source), Vec::new())
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
        let template = ChatTemplate::from_sources(&Sources {
            jinja: Some(source),
            tokenizer_config: Some(config),
            ..Sources::default()
        });
        let template = template.unwrap().unwrap();
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
        let text = |jinja, named: &[&str], config: &str| {
            let named = named
                .iter()
                .map(|&name| (name.to_owned(), format!("{name} file")));
            let template = ChatTemplate::from_sources(&Sources {
                jinja,
                named: named.collect(),
                tokenizer_config: Some(config.as_bytes()),
                special_tokens_map: None,
            })?;
            template.map(|t| t.render(&[], false)).transpose()
        };
        let string = r#"{"chat_template": "config"}"#;
        assert_eq!(
            text(Some("file"), &["default"], string).unwrap().unwrap(),
            "file"
        );
        assert_eq!(
            text(None, &["rag", "default"], string).unwrap().unwrap(),
            "default file"
        );
        assert_eq!(text(None, &[], string).unwrap().unwrap(), "config");
        let named = r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#;
        assert_eq!(text(None, &[], named).unwrap().unwrap(), "d");
        assert_eq!(text(None, &[], r#"{"chat_template": null}"#).unwrap(), None);
        assert!(
            ChatTemplate::from_sources(&Sources::default())
                .unwrap()
                .is_none()
        );
        let none = r#"{"chat_template": [{"name": "rag", "template": "r"}]}"#;
        for none in [text(None, &[], none), text(None, &["rag"], "{}")] {
            let none = none.unwrap_err().to_string();
            assert!(none.contains("named rag, and none named default"), "{none}");
        }
        let broken = text(None, &[], "{").unwrap_err().to_string();
        assert!(broken.contains("tokenizer_config.json"), "{broken}");
    }

    #[test]
    fn a_broken_template_waits_until_it_is_asked_for() {
        let broken = compiled("{% if %}");
        let error = broken.render(&[], false).unwrap_err().to_string();
        assert!(
            error.starts_with("The chat template cannot be read: "),
            "{error}"
        );
        assert!(error.contains("(line 1)"), "{error}");
    }

    #[test]
    fn special_tokens_of_older_models() {
        let bos = |config: &str| {
            let template = ChatTemplate::from_sources(&Sources {
                jinja: Some("{{ bos_token }}"),
                tokenizer_config: Some(config.as_bytes()),
                special_tokens_map: Some(br#"{"bos_token": "<s>"}"#),
                ..Sources::default()
            });
            template.unwrap().unwrap().render(&[], false).unwrap()
        };
        assert_eq!(
            (bos("{}"), bos(r#"{"bos_token": "<a>"}"#)),
            ("<s>".into(), "<s>".into())
        );
        let current = r#"{"bos_token": "<a>", "added_tokens_decoder": {}}"#;
        assert_eq!(
            bos(current),
            "<a>",
            "as Python: the old file is not read beside the new key"
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
        assert!(stopped.to_string().contains("did not finish"), "{stopped}");
    }
}
