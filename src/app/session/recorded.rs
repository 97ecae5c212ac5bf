//! A session as its file has it: the requests that were carried out, what was written after each, and the screen at the end.
//!
//! Invariant: a file that holds anything but lines of a session, and blank ones, is refused, with the number of the line; nothing
//! of it is shown unsafely. To read another kind of line, add its arm in [`RecordedSession::parse`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::lines::{Line, RequestLine, ScreenLine};
use crate::engine::Request;
use crate::error::{Error, Result};
use crate::text;

/// What to do about a file that cannot be read.
const NEXT: &str = "Is it a file of `sessions/`, or one that :session wrote?";

/// How many columns of a reason are shown.
const WHY: usize = 200;

/// A request of a session, and what was written after it.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    pub request: Request,
    /// The tokens that were written until the next request about the text; none if the file does not say it.
    pub written: Option<Vec<u32>>,
}

/// A session as it was read from its file.
#[derive(Clone, Debug)]
pub struct RecordedSession {
    pub path: PathBuf,
    /// Those that were carried out, in order; the first one loads the model.
    pub requests: Vec<RecordedRequest>,
    /// What the screen was at the end; none if the program was killed.
    pub screen: Option<ScreenLine>,
    /// What the file names and does not exist any more, in words.
    pub missing: Vec<String>,
}

impl RecordedSession {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or a line is none of a session's.
    pub fn read(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !found.is_file() {
            let what = if found.is_dir() {
                "a folder"
            } else {
                "a device or a pipe"
            };
            return Err(Error::bad_file(
                path,
                format!("it is {what}, and no file"),
                NEXT,
            ));
        }
        let bytes = crate::file::read(path, crate::file::WORDS)?;
        // No line of JSON has a zero in it.
        if bytes.contains(&0) {
            return Err(Error::bad_file(path, "it is no text", NEXT));
        }
        let content = text::decode(bytes).map_err(|(what, _)| Error::bad_file(path, what, NEXT))?;
        Self::parse(path, &content)
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    ///
    /// When a line is none of a session's.
    pub fn parse(path: &Path, content: &str) -> Result<Self> {
        let rows: Vec<&str> = content.lines().collect();
        let mut lines = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            if row.trim().is_empty() {
                // Numbers of lines count those that say something.
                continue;
            }
            let torn = i + 1 == rows.len() && !content.ends_with('\n');
            match Line::read(row) {
                Ok(line) => lines.push(line),
                // The program was killed while it wrote this line.
                Err(_) if torn && i > 0 => {}
                Err(why) => {
                    let why = text::clip(&text::line(&why), WHY);
                    let what = format!("line {} is no line of a session: {why}", i + 1);
                    return Err(Error::bad_file(path, what, NEXT));
                }
            }
        }
        let mut out = Self {
            path: path.to_path_buf(),
            requests: Vec::new(),
            screen: None,
            missing: Vec::new(),
        };
        let mut written: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        let mut failed = Vec::new();
        let mut requests = Vec::new();
        for (i, line) in lines.into_iter().enumerate() {
            match line {
                Line::Request(line) => requests.push((i + 1, line)),
                Line::Written(line) => written.entry(line.after).or_default().extend(line.written),
                Line::Failed(line) => failed.push(line.failed),
                Line::Screen(screen) => out.screen = Some(*screen),
            }
        }
        requests.retain(|(number, _)| !failed.contains(number));
        // A model that is loaded begins anew, so that nothing before it matters.
        let first = requests
            .iter()
            .rposition(|(_, line)| matches!(line, RequestLine::Load { .. }));
        let Some(first) = first else {
            return Err(Error::bad_file(path, "it says no model", NEXT));
        };
        for (number, line) in requests.split_off(first) {
            if let Some(request) = line.request(&mut out.missing) {
                let written = written.remove(&number);
                out.requests.push(RecordedRequest { request, written });
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::super::lines::{of_request, of_screen};
    use super::*;
    use crate::app::cursor::Cursor;
    use crate::app::layout::{Resized, Zoom};
    use crate::app::{Density, TokenTint};
    use crate::edit::Edit;
    use crate::edit::unit_set::UnitSet;
    use crate::engine::{FigureRequest, Mode, OtherText, PromptSource, Token};
    use crate::instruments::Arguments;
    use crate::lab::sample::Sampling;
    use crate::lab::writer::BaselineMode;
    use crate::model::load::Options;
    use crate::model::network::site::Site;
    use crate::model::tokenizer::template::Message;

    /// A request of every kind that is recorded, and of each way to give a prompt.
    fn recorded() -> Vec<Request> {
        let prompt = |prompt| Request::Generate { prompt, count: 3 };
        let question = FigureRequest {
            instrument: "lens",
            arguments: Arguments::default().with("top", 3),
            unedited: true,
            until: Some(5),
            other: Some(OtherText {
                tokens: vec![3, 1],
                prompt: 1,
            }),
        };
        let off = Edit {
            on: false,
            .."add:calm@resid_pre.2*1.5".parse().unwrap()
        };
        vec![
            Request::Load {
                model: "demo".into(),
                options: Options {
                    dtype: Some("f32".into()),
                    context: Some(128),
                    ..Options::default()
                },
            },
            prompt(PromptSource::Text("a \"b\"\n\u{1b}[31m".into())),
            prompt(PromptSource::Chat("hello".into())),
            prompt(PromptSource::Ids(vec![0, 5, u32::MAX])),
            prompt(PromptSource::Messages(vec![
                Message::new("system", "be brief"),
                Message::new("user", "hello"),
            ])),
            prompt(PromptSource::Spliced {
                before: vec![1, 2],
                text: " x".into(),
                after: vec![],
            }),
            Request::Continue { count: 7 },
            Request::Rewind { position: 4 },
            Request::Restore(2),
            Request::Sampling(Sampling {
                temperature: 0.7,
                top_p: 0.9,
                top_k: 40,
                seed: u64::MAX,
            }),
            Request::Edits {
                edits: vec!["zero:1@mlp_act.0".parse().unwrap(), off],
                mode: Mode::AsIfAlways,
            },
            Request::Observe(question),
            Request::Direction {
                name: "calm".into(),
                plus: vec!["yes".into()],
                minus: vec!["no".into(), "never".into()],
                chat: true,
                layer: 3,
                save: None,
            },
            Request::Beside(BaselineMode::Forced),
            Request::Group {
                name: "facts".into(),
                set: UnitSet::new(Site::MlpAct, vec![(3, 17), (1, 2)], "00d1ce"),
                save: None,
            },
        ]
    }

    fn parse(content: &str) -> Result<RecordedSession> {
        RecordedSession::parse(Path::new("x.jsonl"), content)
    }

    fn refused(content: &str) -> String {
        parse(content).unwrap_err().to_string()
    }

    const LOAD: &str = r#"{"request":"load","model":"demo"}"#;

    #[test]
    fn every_recorded_request_comes_back() {
        let requests = recorded();
        let lines: Vec<String> = requests.iter().filter_map(of_request).collect();
        assert_eq!(lines.len(), requests.len());
        let kinds: std::collections::BTreeSet<String> = lines
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["request"].to_string())
            .collect();
        assert_eq!(kinds.len(), 11, "a request of every kind: {kinds:?}");
        let read = parse(&(lines.join("\n") + "\n")).unwrap();
        assert_eq!(read.missing, Vec::<String>::new());
        let words = |request: &Request| format!("{request:?}");
        let found: Vec<String> = read.requests.iter().map(|r| words(&r.request)).collect();
        assert_eq!(found, requests.iter().map(words).collect::<Vec<_>>());
    }

    #[test]
    fn the_screen_comes_back() {
        let screen = ScreenLine {
            focus: "lens".into(),
            third: "residual".into(),
            resized: Resized {
                columns: 8,
                rows: -2,
            },
            folded: true,
            reference: vec![Token {
                position: 0,
                id: 7,
                bytes: b" a".to_vec(),
                special: false,
                logprob: None,
                rank: None,
                kl: None,
                fired: Vec::new(),
                other: None,
            }],
            reference_prompt: 1,
            zoom: Zoom::Wide,
            tint: TokenTint::Surprisal,
            density: Density::Colour,
            cursor: Cursor {
                layer: 3,
                position: 9,
                unit: Some(crate::figure::Unit::Neuron(4)),
                follow: false,
                at_run_start: true,
            },
            marks: vec!["4@mlp_act.3".into()],
            mode: Mode::AsIfAlways,
            count: Some(12),
            prompts: vec!["one\ntwo".into()],
            ..ScreenLine::default()
        };
        let read = parse(&format!("{LOAD}\n{}\n", of_screen(screen.clone()))).unwrap();
        assert_eq!(read.screen, Some(screen));
        // One of which nothing is said is as at the start.
        let read = parse(&format!("{LOAD}\n{{\"screen\":{{}}}}\n")).unwrap();
        assert_eq!(read.screen, Some(ScreenLine::default()));
    }

    #[test]
    fn what_was_written_belongs_to_its_request_and_what_failed_is_left_out() {
        let lines = [
            r#"{"request":"load","model":"gone"}"#,
            r#"{"failed":1}"#,
            LOAD,
            r#"{"request":"generate","text":"a","count":9}"#,
            r#"{"request":"edits","edits":[{"edit":"zero:1@mlp_act.0"}]}"#,
            r#"{"written":[5,6],"after":4}"#,
            r#"{"request":"rewind","position":900}"#,
            r#"{"failed":7}"#,
            r#"{"written":[],"after":5}"#,
        ];
        let read = parse(&lines.join("\n")).unwrap();
        let written: Vec<_> = read.requests.iter().map(|r| r.written.clone()).collect();
        assert_eq!(written, [None, Some(vec![5, 6]), Some(vec![])]);
        let Request::Edits { edits, mode } = &read.requests[2].request else {
            unreachable!("the rewinding failed");
        };
        assert!(
            edits[0].on && *mode == Mode::FromNow,
            "as older files mean it"
        );
    }

    #[test]
    fn what_does_not_exist_any_more_is_said_and_the_rest_is_read() {
        let lines = [
            LOAD,
            r#"{"request":"observe","instrument":"crystal\u001b[31mball"}"#,
            r#"{"request":"direction","name":"calm","layer":3,"chat":false}"#,
            r#"{"request":"edits","edits":[{"edit":"melt@resid_pre.1","on":true},{"edit":"zero:1@mlp_act.0","on":true}]}"#,
            r#"{"request":"group","name":"facts","site":"mlp_act","units":["3-1"]}"#,
            r#"{"request":"sampling","sampling":{"temperature":-1.0,"top_p":1.0,"top_k":0,"seed":1}}"#,
            r#"{"request":"observe","instrument":"circuit","arguments":{"save":"/tmp/x.json"}}"#,
        ];
        let read = parse(&lines.join("\n")).unwrap();
        assert_eq!(read.missing.len(), 5, "{:?}", read.missing);
        for word in ["ball", "calm", "melt", "facts", "temperature"] {
            let said = |what: &String| what.contains(word) && !what.contains('\u{1b}');
            assert!(read.missing.iter().any(said), "{word}: {:?}", read.missing);
        }
        let Request::Edits { edits, .. } = &read.requests[1].request else {
            unreachable!("the second that can be had");
        };
        assert_eq!(edits.len(), 1);
        let Request::Observe(question) = &read.requests[2].request else {
            unreachable!("the third");
        };
        assert_eq!(
            question.arguments.given["save"], "",
            "no file is written anew"
        );
    }

    #[test]
    fn blank_lines_are_passed_over_and_not_counted() {
        let generate = r#"{"request":"generate","text":"a","count":9}"#;
        let written = r#"{"written":[5],"after":2}"#;
        let read = parse(&format!("\n{LOAD}\n\n{generate}\n  \n{written}\n\n")).unwrap();
        assert_eq!(read.requests[1].written, Some(vec![5]));
    }

    #[test]
    fn what_is_no_file_of_text_is_called_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        // As a compressed or compiled file begins: UTF-16 it is not.
        std::fs::write(&file, [0x7f, b'E', 0, 0, 0, 0, 0, 0, b'a', 0, 0, 0]).unwrap();
        let said = |path: &str| {
            RecordedSession::read(Path::new(path))
                .unwrap_err()
                .to_string()
        };
        for (path, word) in [
            (file.to_str().unwrap(), "it is no text"),
            (folder.path().to_str().unwrap(), "it is a folder"),
            ("/dev/zero", "it is a device"),
            ("/dev/tty", "it is a device"),
        ] {
            let said = said(path);
            assert!(
                said.contains(word) && said.contains(":session wrote"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_file_that_is_no_session_is_refused_with_its_line() {
        let deep = format!("{LOAD}\n{}\n", "[".repeat(100_000));
        let deep_value = format!("{LOAD}\n{{\"screen\":{}", "{\"a\":".repeat(100_000));
        let long = format!("{LOAD}\n{{\"request\":\"{}\"}}\n", "x".repeat(1 << 20));
        for (content, line) in [
            ("\n\nhello\n", 3),
            ("hello\n", 1),
            ("{}\n", 1),
            ("[1]\n", 1),
            ("\u{0}\u{1}\n", 1),
            (deep.as_str(), 2),
            (long.as_str(), 2),
            (&format!("{LOAD}\n{{\"request\":\"melt\u{1b}[31m\"}}\n"), 2),
            (
                &format!("{LOAD}\n{{\"request\":\"rewind\",\"position\":-4}}\n"),
                2,
            ),
            (&format!("{LOAD}\n{{\"request\":\"rewind\"}}\n"), 2),
            (
                &format!("{LOAD}\n{{\"request\":\"generate\",\"text\":5}}\n"),
                2,
            ),
            (&format!("{LOAD}\n{{\"written\":[-1],\"after\":1}}\n"), 2),
            (
                &format!("{LOAD}\n{{\"screen\":{{\"zoom\":\"huge\"}}}}\n"),
                2,
            ),
            (&format!("{LOAD}\n{LOAD}\n{LOAD} {LOAD}\n"), 3),
            (&format!("{deep_value}\n"), 2),
        ] {
            let said = refused(content);
            let start: String = content.chars().take(60).collect();
            assert!(
                said.contains(&format!("x.jsonl: line {line} is no line")),
                "{start}: {said}"
            );
            assert!(
                said.len() < 600 && !said.contains('\u{1b}'),
                "{start}: {said}"
            );
        }
        assert!(refused("").contains("says no model"));
        assert!(refused("\n").contains("says no model"));
        assert!(refused(r#"{"request":"continue","count":3}"#).contains("says no model"));
        // A line that was being written when the program was killed is none.
        let read = parse(&format!("{LOAD}\n{{\"request\":\"gen"));
        assert_eq!(read.unwrap().requests.len(), 1);
    }
}
