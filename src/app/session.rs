//! The session: what the user asked for, as lines of JSON that can be read and replayed by hand.
//!
//! Invariant: writing it can fail, and then nothing else does. One line a request, in the order they were made.
//! To record another request, add an arm in [`line`].

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::engine::{Prompt, Request};

/// The requests so far.
#[derive(Clone, Debug, Default)]
pub struct Session {
    lines: Vec<String>,
}

impl Session {
    /// Notes a request.
    pub fn note(&mut self, request: &Request) {
        if let Some(value) = line(request) {
            self.lines.push(value.to_string());
        }
    }

    /// Whether there is anything worth keeping: something was generated.
    pub fn worth_keeping(&self) -> bool {
        self.lines.iter().any(|l| l.contains("\"generate\""))
    }

    /// The file's content.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.lines.join("\n");
        out.push('\n');
        out.into_bytes()
    }

    /// A file name in a folder that tells when it was begun.
    pub fn path(folder: &Path, stamp: u64) -> PathBuf {
        folder.join(format!("session-{stamp}.jsonl"))
    }
}

/// What is kept of a request; nothing of those that only look.
fn line(request: &Request) -> Option<Value> {
    Some(match request {
        Request::Load { model, options } => json!({
            "request": "load", "model": model, "dtype": options.dtype, "device": options.device,
            "context": options.context, "version": env!("CARGO_PKG_VERSION"),
        }),
        Request::Generate { prompt, count } => {
            let (kind, text) = match prompt {
                Prompt::Text(text) => ("text", json!(text)),
                Prompt::Chat(text) => ("chat", json!(text)),
                Prompt::Ids(ids) => ("ids", json!(ids)),
            };
            json!({ "request": "generate", kind: text, "count": count })
        }
        Request::Continue { count } => json!({ "request": "continue", "count": count }),
        Request::Rewind { position } => json!({ "request": "rewind", "position": position }),
        Request::Restore(number) => json!({ "request": "restore", "number": number }),
        Request::Sampling(sampling) => json!({ "request": "sampling", "sampling": sampling }),
        Request::Edits { edits, mode } => {
            let rows: Vec<Value> = edits
                .iter()
                .map(|e| json!({ "edit": e.to_string(), "on": e.on }))
                .collect();
            json!({ "request": "edits", "edits": rows, "mode": mode.name() })
        }
        Request::Observe(question) => json!({
            "request": "observe", "instrument": question.instrument, "arguments": question.arguments.0, "unedited": question.unedited,
        }),
        Request::Direction {
            name, layer, chat, ..
        } => json!({ "request": "direction", "name": name, "layer": layer, "chat": chat }),
        Request::Beside(beside) => json!({ "request": "beside", "beside": beside }),
        Request::Group { name, set, .. } => {
            let units: Vec<String> = set.units.iter().map(|(l, u)| format!("{l}/{u}")).collect();
            json!({ "request": "group", "name": name, "site": set.site.spec().name, "units": units })
        }
        Request::Stop | Request::Live(_) | Request::Baseline | Request::Panic => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::Mode;

    #[test]
    fn a_session_is_one_json_line_a_request() {
        let mut session = Session::default();
        session.note(&Request::Live(vec![]));
        assert!(!session.worth_keeping());
        session.note(&Request::Generate {
            prompt: Prompt::Text("a \"b\"\n".into()),
            count: 3,
        });
        session.note(&Request::Edits {
            edits: vec!["zero:1@mlp_act.0".parse().unwrap()],
            mode: Mode::FromNow,
        });
        assert!(session.worth_keeping());
        let text = String::from_utf8(session.bytes()).unwrap();
        let values: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(values[0]["text"], "a \"b\"\n");
        assert_eq!(values[1]["edits"][0]["edit"], "zero:1@mlp_act.0");
    }
}
