//! Scores: what the model says of every token of the texts, plain, under the edits, and under random edits in their place.
//!
//! Invariant: all cases score the same tokens in the same windows, a few windows in every case before the next few, so that what is
//! stopped has whole windows and goes on. To measure something else of a token, add a field to [`TokenScore`].

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::windows::{TextWindow, WindowedText};
use crate::edit::receipt::{Receipt, add_up};
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::bootstrap::WithInterval;
use crate::lab::capture::{Capture, Output};
use crate::lab::control_units::ControlDraws;
use crate::lab::draws::draw_seed;
use crate::lab::list_cost::{ListCost, SLACK};
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::lab::sample::NO_TOKEN;

/// Tokens that are read at once; what is read when the user stops it is lost.
const AT_ONCE: usize = 2048;

/// What the model says of a token, from what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TokenScore {
    /// `-ln p` of the token, nats.
    pub loss: f32,
    /// The top prediction.
    pub top: u32,
}

/// The scores of one case, by text and window; a window that was not reached has none.
type ByWindow = Vec<Vec<Vec<TokenScore>>>;

/// Texts with their scores.
pub(super) struct ScoredTexts {
    pub texts: Vec<WindowedText>,
    pub plain: ByWindow,
    /// Under the edits, where there are any.
    pub edited: Option<ByWindow>,
    /// Under random edits in their place, one a draw.
    pub controls: Vec<ByWindow>,
    /// Why there are none; empty where there are, or where none were asked for.
    pub no_control: String,
    /// What each edit did over all texts.
    pub receipts: Vec<Receipt>,
    /// How many windows were scored before it was stopped; none where all were.
    pub stopped: Option<usize>,
}

/// Some windows of equal shape: the numbers of text and window of each.
type WindowGroup = Vec<(usize, usize)>;

/// What was scored of a group of windows.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GroupScores {
    /// By case (plain, edited, its controls), window and token.
    cases: Vec<Vec<Vec<TokenScore>>>,
    /// What each edit did in them.
    receipts: Vec<Receipt>,
}

/// A group of tokens whose means are resampled together: a text, or a window of the only text.
pub(super) struct ScoredUnit {
    pub text: usize,
    pub window: Option<usize>,
}

/// Means over the tokens of some units.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    pub tokens: usize,
    /// Σ −ln p, nats.
    pub loss: f64,
    /// How many tokens were the top prediction.
    pub hits: usize,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.loss += other.loss;
        self.hits += other.hits;
    }

    /// The mean loss, nats a token.
    pub fn mean(self) -> f64 {
        self.loss / self.tokens as f64
    }

    pub fn accuracy(self) -> f64 {
        self.hits as f64 / self.tokens as f64
    }
}

/// Scores texts: plain, and under the edits of the run if it has any, with so many random draws beside them. Where the user stops it,
/// what was scored so far is returned, and the same call goes on from there.
///
/// # Errors
///
/// When no text has a token to score, an edit does not fit, numbers are not finite, or the user stops it before anything was scored.
pub(super) fn score(
    lab: &mut Lab,
    texts: Vec<WindowedText>,
    run: &Run,
    (draws, parameters): (usize, Vec<(String, String)>),
) -> Result<ScoredTexts> {
    if texts.iter().all(|text| text.windows.is_empty()) {
        let tokens: usize = texts.iter().map(|text| text.tokens.len()).sum();
        let given = format!("{tokens} tokens in {} texts", texts.len());
        return Err(Error::argument(
            "text",
            given,
            "a text of two tokens or more",
        ));
    }
    let edited = !run.schedule.is_idle();
    let draws = if edited {
        lab.control_draws(&run.schedule, draws)?
    } else {
        ControlDraws::default()
    };
    let mut cases = vec![Schedule::none()];
    if edited {
        cases.push(run.schedule.clone());
        let control = |draw| run.schedule.control(draw_seed(run.seed, draw));
        cases.extend((0..draws.count).map(control));
    }
    let groups = groups(&texts);
    let mut said = lab.announce.is_none();
    let found = lab.trials(run, parameters, groups.len(), 1, |lab, range| {
        let each = range.map(|i| {
            let began = Instant::now();
            let scored = group(lab, &texts, &groups[i], &cases)?;
            if !std::mem::replace(&mut said, true) {
                say_cost(lab, &texts, &groups[i..], began.elapsed());
            }
            Ok(scored)
        });
        each.collect()
    })?;
    let empty: ByWindow = texts
        .iter()
        .map(|text| vec![Vec::new(); text.windows.len()])
        .collect();
    let (mut by_case, mut receipts, mut windows) = (vec![empty; cases.len()], Vec::new(), 0);
    let stopped = found.stopped();
    for (group, scored) in groups.iter().zip(found.results) {
        let Some(scored) = scored else { continue };
        windows += group.len();
        add_up(&mut receipts, &scored.receipts);
        for (out, own) in by_case.iter_mut().zip(scored.cases) {
            for ((text, window), scores) in group.iter().zip(own) {
                out[*text][*window] = scores;
            }
        }
    }
    let mut by_case = by_case.into_iter();
    let out = ScoredTexts {
        texts,
        plain: by_case.next().unwrap_or_default(),
        edited: by_case.next(),
        controls: by_case.collect(),
        no_control: draws.why,
        receipts,
        stopped: stopped.then_some(windows),
    };
    // Parts of texts are kept, but no text is there to show.
    if out.units().is_empty() {
        return Err(Error::Cancelled);
    }
    Ok(out)
}

/// The windows of all texts in groups that are read at once, the shortest first.
fn groups(texts: &[WindowedText]) -> Vec<WindowGroup> {
    let mut windows: Vec<(usize, usize, &TextWindow)> = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let own = text.windows.iter().enumerate();
        windows.extend(own.map(|(j, window)| (i, j, window)));
    }
    let shape = |w: &TextWindow| (w.tokens.len(), w.scored.start);
    windows.sort_by_key(|(.., window)| shape(window));
    let alike = windows.chunk_by(|a, b| shape(a.2) == shape(b.2));
    let groups = alike.flat_map(|alike| alike.chunks((AT_ONCE / alike[0].2.tokens.len()).max(1)));
    groups
        .map(|group| {
            group
                .iter()
                .map(|(text, window, _)| (*text, *window))
                .collect()
        })
        .collect()
}

/// Scores the windows of one group in every case; the second case is that of the edits.
fn group(
    lab: &mut Lab,
    texts: &[WindowedText],
    group: &WindowGroup,
    cases: &[Schedule],
) -> Result<GroupScores> {
    let own = || {
        group
            .iter()
            .map(|(text, window)| &texts[*text].windows[*window])
    };
    let scored = own().next().map_or(0..0, |window| window.scored.clone());
    let mut out = GroupScores {
        cases: Vec::with_capacity(cases.len()),
        receipts: Vec::new(),
    };
    for (number, schedule) in cases.iter().enumerate() {
        lab.report(number as f32 / cases.len() as f32)?;
        let tokens = || own().map(|window| &window.tokens);
        let pass = Pass {
            output: Output::next_tokens(tokens().map(Vec::as_slice), scored.clone()),
            ..Pass::texts(Run::plain(Vec::new()).under(schedule), tokens().cloned())
        };
        let captures = lab.without_progress(|lab| lab.run(&pass))?;
        out.cases.push(captures.iter().map(scores).collect());
        if number == 1 {
            for capture in &captures {
                add_up(&mut out.receipts, &capture.receipts);
            }
        }
    }
    Ok(out)
}

/// Says what the groups will take, where the first of them took so long.
fn say_cost(lab: &Lab, texts: &[WindowedText], groups: &[WindowGroup], took: Duration) {
    let length = |group: &WindowGroup| -> usize {
        let windows = group
            .iter()
            .map(|(text, window)| &texts[*text].windows[*window]);
        windows.map(|window| window.tokens.len()).sum()
    };
    let (first, all) = (
        groups.first().map_or(1, length).max(1),
        groups.iter().map(length).sum::<usize>(),
    );
    let cost = ListCost {
        what: "window",
        count: groups.iter().map(Vec::len).sum(),
        tokens: all,
        time: took.mul_f64(SLACK * all as f64 / first as f64),
        memory: lab.most_memory(),
        keeps: true,
    };
    if let Some(say) = lab.announce.filter(|_| groups.len() > 1) {
        say(&format!("score: {cost}"));
    }
}

fn scores(capture: &Capture) -> Vec<TokenScore> {
    let losses = capture.next_token_losses();
    let tops = capture.output.iter().map(|row| row.first().0);
    losses
        .zip(tops)
        .map(|(loss, top)| TokenScore {
            loss: loss as f32,
            top,
        })
        .collect()
}

impl ScoredTexts {
    /// Whether every window of a text was scored before it was stopped.
    pub fn reached(&self, text: usize) -> bool {
        self.plain[text].iter().all(|window| !window.is_empty())
    }

    /// Texts with a token to score; where there is one text, its windows. Where it was stopped, those that were reached.
    pub fn units(&self) -> Vec<ScoredUnit> {
        if let [only] = self.texts.as_slice() {
            let window = |window| ScoredUnit {
                text: 0,
                window: (only.windows.len() > 1).then_some(window),
            };
            let windows = (0..only.windows.len()).filter(|w| !self.plain[0][*w].is_empty());
            return windows.map(window).collect();
        }
        let texts = self.texts.iter().enumerate();
        texts
            .filter(|(i, text)| !text.windows.is_empty() && self.reached(*i))
            .map(|(text, _)| ScoredUnit { text, window: None })
            .collect()
    }

    /// The sums of a case over one unit.
    pub fn sums(&self, case: &ByWindow, unit: &ScoredUnit) -> Sums {
        let (text, scored) = (&self.texts[unit.text], &case[unit.text]);
        let mut sums = Sums::default();
        let windows = text.windows.iter().zip(scored).enumerate();
        for (_, (window, scores)) in
            windows.filter(|(i, _)| unit.window.is_none_or(|own| own == *i))
        {
            for (score, token) in scores.iter().zip(&window.tokens[window.scored.clone()]) {
                sums.add(Sums {
                    tokens: 1,
                    loss: f64::from(score.loss),
                    hits: usize::from(score.top == *token && score.top != NO_TOKEN),
                });
            }
        }
        sums
    }

    /// The scores of a text by position; none for what is not scored.
    pub fn by_position(&self, case: &ByWindow, text: usize) -> Vec<Option<TokenScore>> {
        let own = &self.texts[text];
        let mut out = vec![None; own.tokens.len()];
        for (window, scores) in own.windows.iter().zip(&case[text]) {
            for (place, score) in out[window.at..].iter_mut().zip(scores) {
                *place = Some(*score);
            }
        }
        out
    }
}

/// A case against the plain one over units: the mean loss and its difference from the plain one, with intervals.
pub(super) fn difference(plain: &[Sums], other: &[Sums], seed: u64) -> WithInterval {
    WithInterval::over(plain.len(), seed, |chosen| {
        let sum = |of: &[Sums]| {
            let mut all = Sums::default();
            chosen.iter().for_each(|i| all.add(of[*i]));
            all.mean()
        };
        sum(other) - sum(plain)
    })
}

/// The mean loss over units, with its interval.
pub(super) fn loss(of: &[Sums], seed: u64) -> WithInterval {
    WithInterval::over(of.len(), seed, |chosen| {
        let mut all = Sums::default();
        chosen.iter().for_each(|i| all.add(of[*i]));
        all.mean()
    })
}

/// The sums of all units.
pub(super) fn total(of: &[Sums]) -> Sums {
    let mut all = Sums::default();
    of.iter().for_each(|own| all.add(*own));
    all
}
