//! Chat templates against Python's jinja2, construct by construct; tokenizers in the shapes of real models.
//!
//! To compare templates of your own, write a file like tests/references/templates/templates.json and name it in
//! LMSCOPE_TEMPLATES: every case whose rendering differs is listed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lmscope::model::checkpoint::gguf::Gguf;
use lmscope::model::tokenizer::template::{ChatTemplate, Message, Sources};
use lmscope::model::tokenizer::{Bos, Older, Tokenizer, TokenizerFiles};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::gguf::file::Meta;
use crate::gguf::vocabulary::{Listed, as_gguf, gguf_of, listed};

type Outcome = Result<(), Box<dyn std::error::Error>>;

pub fn references() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references")
}

/// One template and what Python makes of it.
#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    expected: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Templates {
    messages: Vec<Turn>,
    specials: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

/// What jinja2 does and this engine does not, each rarer than the last: methods as values, floats in `e` notation, a
/// slash after a backslash, the arguments that a macro did not name, and filters that no chat template has.
const DIFFERENT: [&str; 10] = [
    "'a'.upper is defined",
    "'é'.encode is defined",
    "'abc' | attr('upper') is defined",
    "1.5e-7",
    "1e16",
    r"'\\d \t \x41 \u00e9 \/'",
    "'a b' | urlencode",
    "'one two three four' | truncate(9)",
    "cycler('a', 'b').next()",
    "macro_kwargs",
];

#[test]
fn templates_render_as_in_python() -> Outcome {
    let own = std::env::var_os("LMSCOPE_TEMPLATES").map(PathBuf::from);
    let file = own
        .clone()
        .unwrap_or_else(|| references().join("templates/templates.json"));
    let all: Templates = serde_json::from_slice(&std::fs::read(file)?)?;
    let turns: Vec<Message> = all
        .messages
        .into_iter()
        .map(|turn| Message::new(turn.role, turn.content))
        .collect();
    let config = serde_json::to_vec(&all.specials)?;
    let mut wrong = Vec::new();
    for case in &all.cases {
        let template = ChatTemplate::from_sources(&Sources {
            jinja: Some(&case.template),
            tokenizer_config: Some(&config),
            ..Sources::default()
        })?;
        let found = template.ok_or("no template")?.render(&turns, true);
        let right = match (&found, &case.expected, &case.error) {
            (Ok(found), Some(expected), _) => found == expected,
            // A template's own refusal keeps its words; of other errors only that there is one.
            (Err(found), None, Some(error)) => match error.strip_prefix("TemplateError: ") {
                Some(words) => found.to_string().contains(words.trim_end_matches('.')),
                None => true,
            },
            _ => false,
        };
        if right == (own.is_none() && DIFFERENT.contains(&case.name.as_str())) {
            wrong.push(format!(
                "{}: Python {:?}{:?}, here {found:?}",
                case.name, case.expected, case.error
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        all.cases.len(),
        wrong.join("\n")
    );
    assert!(own.is_some() || all.cases.len() > 380);
    Ok(())
}

/// What Python says of the tokenizers in `tokenizers_more`.
#[derive(Deserialize)]
struct Shapes {
    texts: Vec<String>,
    tokenizers: HashMap<String, Shape>,
}

#[derive(Deserialize)]
struct Shape {
    bos: Option<u32>,
    eos: u32,
    size: usize,
    /// What stands before and after every text.
    first: Vec<u32>,
    last: Vec<u32>,
    /// The ids of each text.
    ids: Vec<Vec<u32>>,
    /// Whether Python decodes them to the text again.
    decoded: Vec<bool>,
}

impl Shapes {
    fn read() -> Result<Self, Box<dyn std::error::Error>> {
        let file = references().join("tokenizers_more/expected.json");
        Ok(serde_json::from_slice(&std::fs::read(file)?)?)
    }

    /// Lists the texts whose ids or bytes are others than Python's.
    fn differences(&self, name: &str, tokenizer: &Tokenizer) -> Vec<String> {
        let shape = &self.tokenizers[name];
        let mut wrong = Vec::new();
        for ((text, ids), decoded) in self.texts.iter().zip(&shape.ids).zip(&shape.decoded) {
            let raw = tokenizer.encode(text, Bos::Raw).unwrap();
            let whole = tokenizer.encode(text, Bos::Add).unwrap();
            if raw != *ids || whole != [&shape.first[..], ids, &shape.last].concat() {
                wrong.push(format!(
                    "{name} {text:?}: Python {ids:?}, here {raw:?}, {whole:?}"
                ));
            }
            let bytes = tokenizer.join(&raw);
            let spaced = bytes.strip_prefix(b" ").unwrap_or(&bytes);
            if *decoded && bytes != text.as_bytes() && spaced != text.as_bytes() {
                wrong.push(format!(
                    "{name} {text:?}: joined {:?}",
                    tokenizer.text(&raw)
                ));
            }
        }
        wrong
    }
}

fn from_folder(folder: &Path) -> Result<Tokenizer, Box<dyn std::error::Error>> {
    Ok(Tokenizer::from_files(&TokenizerFiles {
        tokenizer: &std::fs::read(folder.join("tokenizer.json"))?,
        tokenizer_config: Some(&std::fs::read(folder.join("tokenizer_config.json"))?),
        ..TokenizerFiles::default()
    })?)
}

#[test]
fn tokenizers_in_the_shapes_of_real_models() -> Outcome {
    let shapes = Shapes::read()?;
    assert_eq!(
        (shapes.tokenizers.len(), shapes.texts.len() > 50),
        (9, true)
    );
    let mut wrong = Vec::new();
    for (name, shape) in &shapes.tokenizers {
        let tokenizer = from_folder(&references().join("tokenizers_more").join(name))?;
        assert_eq!(
            (tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()),
            (shape.bos, &[shape.eos][..], shape.size),
            "{name}"
        );
        wrong.extend(shapes.differences(name, &tokenizer));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A SentencePiece model of the same pieces, as its protocol buffer.
fn as_sentence_piece(list: &Listed, dummy_prefix: bool) -> Vec<u8> {
    fn number(out: &mut Vec<u8>, mut n: u64) {
        while n > 0x7f {
            out.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }
    fn bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
        number(out, field << 3 | 2);
        number(out, content.len() as u64);
        out.extend(content);
    }
    let mut out = Vec::new();
    for (((_, text), score), kind) in list.pieces.iter().zip(&list.scores).zip(&list.kinds) {
        let mut piece = Vec::new();
        bytes(&mut piece, 1, text.as_bytes());
        number(&mut piece, 2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        number(&mut piece, 3 << 3);
        number(&mut piece, u64::from(kind.unsigned_abs()));
        bytes(&mut out, 1, &piece);
    }
    let mut trainer = Vec::new();
    number(&mut trainer, 3 << 3);
    number(&mut trainer, 2); // BPE
    bytes(&mut out, 2, &trainer);
    let mut normalizer = Vec::new();
    for (field, flag) in [(3, dummy_prefix), (4, false), (5, true)] {
        number(&mut normalizer, field << 3);
        number(&mut normalizer, u64::from(flag));
    }
    bytes(&mut out, 3, &normalizer);
    out
}

/// Folders of older models have other files than `tokenizer.json`; they give the same ids.
#[test]
fn older_files_give_the_ids_of_python() -> Outcome {
    let shapes = Shapes::read()?;
    let mut wrong = Vec::new();
    for (name, class) in [
        ("gpt_2", "GPT2Tokenizer"),
        ("qwen_2", "Qwen2Tokenizer"),
        ("llama_2", "LlamaTokenizer"),
    ] {
        let mut list = listed(&references().join("tokenizers_more").join(name));
        list.config["tokenizer_class"] = class.into();
        let (plain, added): (Vec<_>, Vec<_>) = list
            .pieces
            .iter()
            .zip(&list.kinds)
            .partition(|(_, kind)| !(3..=4).contains(*kind));
        let table = |rows: &[(&(u64, String), &i32)]| {
            let rows = rows
                .iter()
                .map(|((id, piece), _)| (piece.clone(), Value::from(*id)));
            serde_json::to_vec(&rows.collect::<serde_json::Map<_, _>>()).unwrap()
        };
        let (vocab, more) = (table(&plain), table(&added));
        let merges = format!("#version: 0.2\n{}\n", list.merges.join("\n"));
        let model = as_sentence_piece(&list, true);
        // What is special and no BOS or EOS is named in the configuration.
        let special = list
            .pieces
            .iter()
            .zip(&list.kinds)
            .filter(|(_, kind)| **kind == 3);
        list.config["additional_special_tokens"] =
            special.map(|((_, piece), _)| piece.clone()).collect();
        let older = if class == "LlamaTokenizer" {
            Older::SentencePiece {
                model: &model,
                added: None,
            }
        } else {
            Older::ByteLevel {
                vocab: &vocab,
                merges: merges.as_bytes(),
                added: Some(&more),
            }
        };
        let tokenizer = Tokenizer::from_files(&TokenizerFiles {
            older: Some(older),
            tokenizer_config: Some(&serde_json::to_vec(&list.config)?),
            ..TokenizerFiles::default()
        })?;
        let shape = &shapes.tokenizers[name];
        assert_eq!(
            (tokenizer.eos()[0], tokenizer.vocab_size()),
            (shape.eos, shape.size),
            "{name}"
        );
        wrong.extend(shapes.differences(name, &tokenizer));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A Unigram model, and a file that ends half way.
    let refusal = |model: &[u8]| {
        let older = Some(Older::SentencePiece { model, added: None });
        let files = TokenizerFiles {
            older,
            ..TokenizerFiles::default()
        };
        Tokenizer::from_files(&files).unwrap_err().to_string()
    };
    assert!(refusal(&[0x12, 2, 0x18, 1]).contains("Unigram"));
    let list = listed(&references().join("tokenizers_more/llama_2"));
    let whole = as_sentence_piece(&list, true);
    assert!(refusal(&whole[..whole.len() / 2]).contains("tokenizer.model"));
    Ok(())
}

fn from_gguf(bytes: Vec<u8>) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::from_bytes(bytes).unwrap()).unwrap()
}

#[test]
fn gguf_vocabularies_give_the_ids_of_python() -> Outcome {
    let shapes = Shapes::read()?;
    let more = references().join("tokenizers_more");
    let bos = [("tokenizer.ggml.add_bos_token", Meta::Bool(true))];
    let no_prefix = [("tokenizer.ggml.add_space_prefix", Meta::Bool(false))];
    let rows: [(&str, &str, &str, &[_]); 7] = [
        ("llama_3", "gpt2", "llama-bpe", &[]),
        ("qwen_2", "gpt2", "qwen2", &[]),
        ("gpt_2", "gpt2", "gpt-2", &[]),
        ("neox", "gpt2", "olmo", &[]),
        ("deepseek", "gpt2", "deepseek-v3", &bos),
        ("llama_2", "llama", "default", &[]),
        ("gemma", "llama", "default", &no_prefix),
    ];
    let mut wrong = Vec::new();
    for (name, model, pre, entries) in rows {
        let tokenizer = from_gguf(as_gguf(&more.join(name), model, pre, entries));
        let shape = &shapes.tokenizers[name];
        assert_eq!(
            (tokenizer.eos()[0], tokenizer.vocab_size()),
            (shape.eos, shape.size),
            "{name}"
        );
        assert!(
            shape.bos.is_none() || shape.bos == tokenizer.bos(),
            "{name}"
        );
        wrong.extend(shapes.differences(name, &tokenizer));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The two tokenizers whose ids the other references hold.
#[test]
fn gguf_vocabularies_of_the_first_references() -> Outcome {
    #[derive(Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
        raw: Vec<u32>,
    }
    let folder = references().join("tokenizers");
    let all: Value = serde_json::from_slice(&std::fs::read(folder.join("tokenizers.json"))?)?;
    let bos = [("tokenizer.ggml.add_bos_token", Meta::Bool(true))];
    let mut seen = 0;
    for (name, model, pre) in [
        ("byte_level", "gpt2", "dbrx"),
        ("sentence_piece", "llama", "default"),
    ] {
        let tokenizer = from_gguf(as_gguf(&folder.join(name), model, pre, &bos));
        for case in all[name]["cases"].as_array().unwrap() {
            let case: Case = serde_json::from_value(case.clone())?;
            // These two take the spaces around them, which a GGUF file cannot say.
            if name == "byte_level" && ["<|pad|>", "</tool>"].iter().any(|t| case.text.contains(t))
            {
                continue;
            }
            seen += 1;
            assert_eq!(
                tokenizer.encode(&case.text, Bos::Raw)?,
                case.raw,
                "{name} {:?}",
                case.text
            );
            assert_eq!(
                tokenizer.encode(&case.text, Bos::Add)?,
                case.ids,
                "{name} {:?}",
                case.text
            );
        }
    }
    assert!(seen > 60, "{seen}");
    Ok(())
}

#[test]
fn gguf_vocabularies_that_are_not_served_are_named() {
    let folder = references().join("tokenizers_more/gpt_2");
    let refused = |bytes: Vec<u8>| {
        Tokenizer::from_gguf(&Gguf::from_bytes(bytes).unwrap())
            .unwrap_err()
            .to_string()
    };
    let split = refused(as_gguf(&folder, "gpt2", "kimi-k2", &[]));
    assert!(
        split.contains("`kimi-k2`") && split.contains("tokenizer.ggml.pre"),
        "{split}"
    );
    let kind = refused(as_gguf(&folder, "t5", "default", &[]));
    assert!(kind.contains("`t5`"), "{kind}");
    let none = refused(gguf_of(&[(
        "tokenizer.ggml.model",
        Meta::Text("gpt2".into()),
    )]));
    assert!(none.contains("no list of tokens"), "{none}");
    let few = gguf_of(&[
        ("tokenizer.ggml.model", Meta::Text("llama".into())),
        (
            "tokenizer.ggml.tokens",
            Meta::Texts(vec!["a".into(), "b".into()]),
        ),
        ("tokenizer.ggml.scores", Meta::Floats(vec![0.0])),
    ]);
    let few = refused(few);
    assert!(
        few.contains("`tokenizer.ggml.scores` has 1 entries for 2 tokens"),
        "{few}"
    );
}

#[test]
fn gguf_ends_and_templates() {
    let folder = references().join("tokenizers_more/llama_3");
    let more = [
        (
            "tokenizer.chat_template",
            Meta::Text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}".into()),
        ),
        ("tokenizer.ggml.add_bos_token", Meta::Bool(false)),
        ("tokenizer.ggml.add_eos_token", Meta::Bool(true)),
    ];
    let gguf = Gguf::from_bytes(as_gguf(&folder, "gpt2", "llama-bpe", &more)).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let id = |piece: &str| tokenizer.id(piece).unwrap();
    assert_eq!(
        tokenizer.eos(),
        [id("<|eot_id|>"), id("<|im_end|>")],
        "the second by its text"
    );
    assert!(tokenizer.is_special(id("<|im_end|>")));
    assert_eq!(
        tokenizer.encode("a", Bos::Add).unwrap(),
        [id("a"), id("<|eot_id|>")]
    );
    let template = ChatTemplate::from_gguf(&gguf).unwrap();
    let said = template
        .render(&[Message::new("user", "hi")], true)
        .unwrap();
    assert_eq!(said, "<|begin_of_text|>hi<|eot_id|>");
    assert!(ChatTemplate::from_gguf(&Gguf::from_bytes(gguf_of(&[])).unwrap()).is_none());
}

static BYTES: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = references().join("tokenizers_more/llama_3");
    from_gguf(as_gguf(&folder, "gpt2", "llama-bpe", &[]))
});
static PIECES: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = references().join("tokenizers_more/llama_2");
    from_gguf(as_gguf(&folder, "llama", "default", &[]))
});

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn gguf_tokens_are_the_text(given in "[^▁](\\PC|[ \n\t]|<\\|eot_id\\|>| the|👍){0,24}") {
        for ids in [BYTES.encode(&given, Bos::Raw)?, BYTES.encode_literal(&given)?] {
            prop_assert_eq!(BYTES.join(&ids), given.as_bytes());
        }
        let given = given.replace('▁', " ");
        let ids = PIECES.encode_literal(&given)?;
        prop_assert_eq!(PIECES.join(&ids), format!(" {given}").into_bytes());
    }
}
