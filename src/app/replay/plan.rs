//! What a session asks for again, in order: requests without those that a later one settles anew.
//!
//! Invariant: the text comes about by the same requests, each with as many tokens as were written then. To replay another kind
//! of request, say in [`needs_text`] and [`settles`] when it can be left out.

use std::collections::{BTreeMap, VecDeque};

use crate::app::AppSettings;
use crate::app::session::recorded::RecordedRequest;
use crate::engine::Request;

/// A request that is still to be sent.
#[derive(Debug)]
pub(super) struct Step {
    pub request: Request,
    /// What was written after it then.
    pub written: Option<Vec<u32>>,
    /// Of a change of edits.
    pub trial: EditTrial,
}

/// Which edits of a request are tried, because the engine refuses all of them where it refuses one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EditTrial {
    All,
    /// This one, with those before it.
    One(usize),
    /// Those that were not refused.
    Rest,
}

impl Step {
    /// Loading the model again.
    pub fn load(settings: &AppSettings) -> Self {
        let request = Request::Load {
            model: settings.model.clone(),
            options: settings.options.clone(),
        };
        Self {
            request,
            written: None,
            trial: EditTrial::All,
        }
    }

    /// The steps of a recorded request: it writes as many tokens as it wrote then, and where another one changed how the text that
    /// was being written went on, it goes on.
    fn of(request: Request, written: Option<Vec<u32>>) -> Vec<Self> {
        let step = |request, written| Self {
            request,
            written,
            trial: EditTrial::All,
        };
        let count = written.as_ref().map(Vec::len);
        match request {
            Request::Generate {
                prompt,
                count: asked,
            } => {
                let count = count.unwrap_or(asked);
                vec![step(Request::Generate { prompt, count }, written)]
            }
            Request::Continue { count: asked } => {
                let count = count.unwrap_or(asked);
                vec![step(Request::Continue { count }, written)]
            }
            request @ (Request::Load { .. }
            | Request::CountTokens { .. }
            | Request::ListModels(_)
            | Request::Stop
            | Request::Rewind { .. }
            | Request::Restore(_)
            | Request::Sampling(_)
            | Request::Edits { .. }
            | Request::Live(_)
            | Request::View { .. }
            | Request::Observe(_)
            | Request::Follow(_)
            | Request::Baseline
            | Request::Beside(_)
            | Request::Group { .. }
            | Request::Direction { .. }
            | Request::Panic) => {
                let on = count.filter(|count| *count > 0);
                let on = on.map(|count| step(Request::Continue { count }, written));
                std::iter::once(step(request, None)).chain(on).collect()
            }
        }
    }
}

/// Whether a request works on the text that is there.
fn needs_text(request: &Request) -> bool {
    match request {
        Request::Generate { .. }
        | Request::Continue { .. }
        | Request::Rewind { .. }
        | Request::Restore(_) => true,
        Request::Observe(question) => question.needs_text().unwrap_or(true),
        Request::Load { .. }
        | Request::CountTokens { .. }
        | Request::ListModels(_)
        | Request::Stop
        | Request::Sampling(_)
        | Request::Edits { .. }
        | Request::Live(_)
        | Request::View { .. }
        | Request::Follow(_)
        | Request::Baseline
        | Request::Beside(_)
        | Request::Group { .. }
        | Request::Direction { .. }
        | Request::Panic => false,
    }
}

/// What a request settles that a later one settles anew, so that only the last one counts: a pane's figure and, `before` the text
/// begins, the edits and how it is written.
fn settles(request: &Request, before: bool) -> Option<String> {
    match request {
        Request::Observe(question) => Some(format!(
            "{} {}",
            question.instrument,
            question.is_compared_with()
        )),
        Request::Sampling(_) if before => Some("sampling".into()),
        Request::Edits { .. } if before => Some("edits".into()),
        Request::Beside(_) if before => Some("beside".into()),
        Request::Load { .. }
        | Request::Generate { .. }
        | Request::CountTokens { .. }
        | Request::ListModels(_)
        | Request::Continue { .. }
        | Request::Stop
        | Request::Rewind { .. }
        | Request::Restore(_)
        | Request::Sampling(_)
        | Request::Edits { .. }
        | Request::Live(_)
        | Request::View { .. }
        | Request::Follow(_)
        | Request::Baseline
        | Request::Beside(_)
        | Request::Group { .. }
        | Request::Direction { .. }
        | Request::Panic => None,
    }
}

/// What has to be asked for again. Texts that were replaced later are left out, unless a request brings one back.
pub(super) fn plan(requests: Vec<RecordedRequest>) -> VecDeque<Step> {
    let place = |fits: fn(&Request) -> bool| requests.iter().rposition(|row| fits(&row.request));
    let restored = place(|request| matches!(request, Request::Restore(_)));
    let newest = place(|request| matches!(request, Request::Generate { .. }));
    // From here on, the text is the last one.
    let from = newest
        .filter(|at| restored.is_none_or(|restored| restored < *at))
        .unwrap_or(0);
    let mut last_of: BTreeMap<String, usize> = BTreeMap::new();
    for (at, row) in requests.iter().enumerate() {
        last_of.extend(settles(&row.request, at < from).map(|what| (what, at)));
    }
    let needed = |at: usize, request: &Request| {
        let settled = settles(request, at < from);
        let is_last = settled.is_none_or(|what| last_of.get(&what) == Some(&at));
        is_last && (at >= from || !needs_text(request))
    };
    let mut steps = VecDeque::new();
    for (at, RecordedRequest { request, written }) in requests.into_iter().enumerate() {
        if needed(at, &request) {
            steps.extend(Step::of(request, written.filter(|_| at >= from)));
        }
    }
    steps
}
