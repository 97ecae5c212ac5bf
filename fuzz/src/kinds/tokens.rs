//! Tokenizers and chat templates.

use std::sync::OnceLock;

use lmscope::error::Result;
use lmscope::model::tokenizer::template::{ChatTemplate, Message, Sources};
use lmscope::model::tokenizer::{Bos, Tokenizer, TokenizerFiles};
use serde_json::Value;

use super::{Place, file, folders, references};

/// A file of every tokenizer that the tests have.
fn each(name: &str) -> Vec<Vec<u8>> {
    ["tokenizers", "tokenizers_more"]
        .iter()
        .flat_map(|folder| folders(&references().join(folder)))
        .map(|folder| file(&folder.join(name)))
        .collect()
}

/// Of every shape that the tests have.
pub fn tokenizers() -> Vec<Vec<u8>> {
    each("tokenizer.json")
}

/// Reads it, and uses it.
pub fn read_tokenizer(_: &Place, bytes: &[u8]) -> Result<()> {
    let files = TokenizerFiles {
        tokenizer: bytes,
        ..TokenizerFiles::default()
    };
    speak(&Tokenizer::from_files(&files)?);
    Ok(())
}

/// Uses a tokenizer.
pub fn speak(tokenizer: &Tokenizer) {
    for text in [
        "",
        "the <|im_end|> <s>",
        " é日本 👍\u{301}\n\n  1234567",
        "▁a\u{0}",
    ] {
        let both = [
            tokenizer.encode(text, Bos::Add),
            tokenizer.encode_literal(text),
        ];
        for ids in both.into_iter().flatten() {
            let _ = (tokenizer.text(&ids), tokenizer.join(&ids));
        }
    }
    let _ = (
        tokenizer.visible(0),
        tokenizer.visible(u32::MAX),
        tokenizer.single(" the"),
    );
}

/// What stands beside a tokenizer, and how a model writes.
pub fn configs() -> Vec<Vec<u8>> {
    let mut all = each("tokenizer_config.json");
    all.push(
        br#"{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "temperature": 0.7}"#
            .to_vec(),
    );
    all
}

/// Every file beside a tokenizer at once.
pub fn read_config(_: &Place, bytes: &[u8]) -> Result<()> {
    static TOKENIZER: OnceLock<Vec<u8>> = OnceLock::new();
    let tokenizer =
        TOKENIZER.get_or_init(|| file(&references().join("tokenizers_more/gpt_2/tokenizer.json")));
    let files = TokenizerFiles {
        tokenizer,
        tokenizer_config: Some(bytes),
        special_tokens_map: Some(bytes),
        generation: Some(bytes),
        config: Some(bytes),
        ..TokenizerFiles::default()
    };
    speak(&Tokenizer::from_files(&files)?);
    let sources = Sources {
        tokenizer_config: Some(bytes),
        special_tokens_map: Some(bytes),
        ..Sources::default()
    };
    if let Some(template) = ChatTemplate::from_sources(&sources)? {
        template.render(&[Message::new("user", "hi")], true)?;
    }
    Ok(())
}

/// Those that are compared with Python.
pub fn templates() -> Vec<Vec<u8>> {
    let all: Value =
        serde_json::from_slice(&file(&references().join("templates/templates.json"))).unwrap();
    let cases = all["cases"].as_array().unwrap().iter();
    cases
        .map(|case| case["template"].as_str().unwrap().into())
        .collect()
}

/// Renders a conversation.
pub fn read_template(_: &Place, bytes: &[u8]) -> Result<()> {
    let source = String::from_utf8_lossy(bytes);
    let sources = Sources {
        jinja: Some(&source),
        ..Sources::default()
    };
    let turns = [
        ("system", "Be."),
        ("user", "Hi é\n"),
        ("assistant", "<think>\n</think> ho"),
    ];
    let turns = turns.map(|(role, content)| Message::new(role, content));
    if let Some(template) = ChatTemplate::from_sources(&sources)? {
        template.render(&turns, true)?;
    }
    Ok(())
}
