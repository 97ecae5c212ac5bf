//! Chat as people have it: system turns, several turns, a begun answer, variables of the template, the begin token; prompts from
//! files and pipes; the same for every subcommand.

use std::path::Path;

use lmscope::model::tokenizer::encoding::{BosRule, TextEncoding};
use lmscope::model::tokenizer::template::Message;
use serde_json::Value;

use super::demo::demo;
use super::tools::lmscope_on;

/// What `lmscope` prints; panics with what it says where it fails.
fn lmscope(given: &[&str], input: &str) -> String {
    let (code, out, said) = lmscope_on(input, given);
    assert_eq!(code, Some(0), "{given:?}: {said}");
    out + &said
}

/// The tokens of the figure that an instrument makes with these flags.
fn tokens(given: &[&str], input: &str) -> Vec<u64> {
    let given = [&["surprisal", "demo", "--format", "json"], given].concat();
    let printed = lmscope(&given, input);
    let json: Value = serde_json::Deserializer::from_str(&printed)
        .into_iter()
        .next()
        .unwrap()
        .unwrap();
    let tokens = json["provenance"]["tokens"].as_array().unwrap();
    tokens.iter().map(|t| t.as_u64().unwrap()).collect()
}

#[test]
fn a_prompt_comes_from_a_file_or_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.txt");
    std::fs::write(&path, "The capital of France is\n").unwrap();
    let plain = tokens(&["-p", "The capital of France is"], "");
    let file = format!("@{}", path.display());
    assert_eq!(tokens(&["-p", &file], ""), plain);
    assert_eq!(tokens(&["-p", "-"], "The capital of France is\n"), plain);
    assert_ne!(tokens(&["-p", "@@home"], ""), tokens(&["-p", "home"], ""));
    let written = lmscope(&["generate", "demo", "-n", "1", "-p", &file], "");
    assert!(written.contains("Paris"), "{written}");
}

#[test]
fn a_conversation_is_rendered_by_the_template_and_goes_on() {
    let mut lab = demo();
    let user = |text: &str| Message::new("user", text);
    let turns = [user("one"), Message::new("assistant", "two"), user("three")];
    let raw = |lab: &lmscope::lab::Lab, text: &str| {
        let tokenizer = lab.model.tokenizer().unwrap();
        tokenizer
            .encode(text, lmscope::model::tokenizer::Bos::Raw)
            .unwrap()
    };
    let whole = "<|endoftext|><|user|>one<|assistant|>two<|end|><|user|>three<|assistant|>";
    let found = lab.model.encode_chat(&turns).unwrap();
    assert_eq!(found.tokens, raw(&lab, whole));
    assert_eq!(found.response, Some(found.tokens.len()));
    // A last turn of the assistant is gone on with, and so is a begun answer.
    let begun = [&turns[..], &[Message::new("assistant", "The capital")]].concat();
    let found = lab.model.encode_chat(&begun).unwrap();
    assert_eq!(found.tokens, raw(&lab, &format!("{whole}The capital")));
    assert_eq!(found.response, Some(raw(&lab, whole).len()));
    lab.model.encoding.prefill = Some("The capital".into());
    assert_eq!(lab.model.encode_chat(&turns).unwrap(), found);
    assert!(lab.model.encode_chat(&begun).is_err());
}

#[test]
fn every_subcommand_reads_the_same_conversation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.json");
    let chat = r#"[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Say"}]"#;
    std::fs::write(&path, chat).unwrap();
    let file = path.to_str().unwrap();
    let expected = tokens(
        &[
            "-p",
            "<|user|>Hello<|assistant|>Hi<|end|><|user|>Say<|assistant|>The",
        ],
        "",
    );
    assert_eq!(
        tokens(&["--messages", file, "--prefill", "The"], ""),
        expected
    );
    // The prompt is one more user turn.
    std::fs::write(
        &path,
        chat.replace(r#", {"role": "user", "content": "Say"}"#, ""),
    )
    .unwrap();
    assert_eq!(
        tokens(&["--messages", file, "-p", "Say", "--prefill", "The"], ""),
        expected
    );
    let traced = folder.path().join("x.safetensors");
    let traced = traced.to_str().unwrap();
    lmscope(
        &[
            "trace",
            "demo",
            "--messages",
            file,
            "-p",
            "Say",
            "--prefill",
            "The",
            "--sites",
            "embed",
            "-o",
            traced,
        ],
        "",
    );
    let held = candle_core::safetensors::load(traced, &candle_core::Device::Cpu).unwrap();
    let held: Vec<i64> = held["tokens"].to_vec1().unwrap();
    assert_eq!(held.iter().map(|t| *t as u64).collect::<Vec<_>>(), expected);
    let line = lmscope(
        &[
            "generate",
            "demo",
            "--messages",
            file,
            "-p",
            "Say",
            "-n",
            "1",
            "--format",
            "jsonl",
        ],
        "",
    );
    assert!(
        line.contains(&format!("\"prompt_tokens\":{}", expected.len() - 1)),
        "{line}"
    );
}

/// A copy of the demo with another chat template.
fn with_template(folder: &Path, template: &str) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
    folder.to_str().unwrap().to_string()
}

#[test]
fn a_system_turn_and_variables_reach_the_template() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if enable_thinking is defined and not enable_thinking %}quiet {{ mode }}\n{% endif %}{% if add_generation_prompt %}answer:{% endif %}";
    let model = with_template(folder.path(), template);
    let read = |given: &[&str]| {
        let given = [&["surprisal", &model, "--format", "json"], given].concat();
        let printed = lmscope(&given, "");
        let json: Value = serde_json::Deserializer::from_str(&printed)
            .into_iter()
            .next()
            .unwrap()
            .unwrap();
        (json["provenance"].clone(), printed)
    };
    let (own, said) = read(&[
        "-p",
        "Hi",
        "--system",
        "Be brief",
        "--template-arg",
        "enable_thinking=false",
        "--template-arg",
        "mode=slow",
    ]);
    let text = "system: Be brief\nuser: Hi\nquiet slow\nanswer:";
    let (plain, _) = read(&["--bos", "no", "-p", text]);
    assert_eq!(own["tokens"], plain["tokens"]);
    let parameters = own["parameters"].to_string();
    assert!(
        parameters.contains(r#"["system","Be brief"]"#),
        "{parameters}"
    );
    assert!(parameters.contains("enable_thinking=false"), "{parameters}");
    assert!(!said.contains("changes nothing"), "{said}");
    let (_, said) = read(&["-p", "Hi", "--template-arg", "enable_thoughts=false"]);
    assert!(said.contains("does not use `enable_thoughts`"), "{said}");
}

#[test]
fn the_begin_token_is_there_as_the_rule_says() {
    let mut lab = demo();
    let bos = lab.model.tokenizer().unwrap().bos().unwrap();
    let mut read = |rule: BosRule, text: &str, chat: bool| {
        lab.model.encoding = TextEncoding {
            bos: rule,
            ..TextEncoding::default()
        };
        lab.model.encode(text, chat).unwrap()
    };
    let auto = read(BosRule::Auto, "Paris", false);
    assert_eq!(auto[0], bos);
    assert_eq!(read(BosRule::Yes, "Paris", false), auto);
    assert_eq!(read(BosRule::No, "Paris", false), auto[1..]);
    // What a text spells out stays.
    assert_eq!(read(BosRule::No, "<|endoftext|>Paris", false), auto);
    assert_eq!(
        read(BosRule::Yes, "Paris", true),
        read(BosRule::Auto, "Paris", true)
    );
    assert_eq!(
        read(BosRule::No, "Paris", true),
        read(BosRule::Auto, "Paris", true)[1..]
    );
}
