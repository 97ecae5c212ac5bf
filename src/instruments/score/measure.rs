//! Scores: what the model says of every token of the texts, plain, under the edits, and under random edits in their place.
//!
//! Invariant: all cases score the same tokens in the same windows. To measure something else of a token, add a field to [`TokenScore`].

use super::windows::{TextWindow, WindowedText};
use crate::edit::receipt::{Receipt, add_up};
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::bootstrap::WithInterval;
use crate::lab::capture::{Capture, Output};
use crate::lab::control_units::ControlDraws;
use crate::lab::draws::draw_seed;
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::lab::sample::NO_TOKEN;

/// Tokens that are read at once.
const AT_ONCE: usize = 4096;

/// What the model says of a token, from what stands before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TokenScore {
    /// `-ln p` of the token, nats.
    pub loss: f32,
    /// The top prediction.
    pub top: u32,
}

/// The scores of one case, by text and window.
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

/// Scores texts: plain, and under the edits of the run if it has any, with so many random draws beside them.
///
/// # Errors
///
/// When no text has a token to score, an edit does not fit, numbers are not finite, or the user stops it.
pub(super) fn score(
    lab: &mut Lab,
    texts: Vec<WindowedText>,
    run: &Run,
    draws: usize,
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
    let cases = 1 + usize::from(edited) + draws.count;
    let share = |case: usize| case as f32 / cases as f32..(case + 1) as f32 / cases as f32;
    let none = Schedule::none();
    let (plain, _) = lab.part(share(0), |lab| case(lab, &texts, &none))?;
    let (mut under, mut controls, mut receipts) = (None, Vec::new(), Vec::new());
    if edited {
        let (found, did) = lab.part(share(1), |lab| case(lab, &texts, &run.schedule))?;
        (under, receipts) = (Some(found), did);
        for draw in 0..draws.count {
            let seed = draw_seed(run.seed, draw);
            let (found, _) = lab.part(share(2 + draw), |lab| {
                case(lab, &texts, &run.schedule.control(seed))
            })?;
            controls.push(found);
        }
    }
    Ok(ScoredTexts {
        texts,
        plain,
        edited: under,
        controls,
        no_control: draws.why,
        receipts,
    })
}

/// The scores of all windows under one schedule, and what its edits did in all.
fn case(
    lab: &mut Lab,
    texts: &[WindowedText],
    schedule: &Schedule,
) -> Result<(ByWindow, Vec<Receipt>)> {
    let mut windows: Vec<(usize, usize, &TextWindow)> = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let own = text.windows.iter().enumerate();
        windows.extend(own.map(|(j, window)| (i, j, window)));
    }
    let mut out: ByWindow = texts
        .iter()
        .map(|text| vec![Vec::new(); text.windows.len()])
        .collect();
    let shape = |w: &TextWindow| (w.tokens.len(), w.scored.start);
    windows.sort_by_key(|(.., window)| shape(window));
    let mut receipts: Vec<Receipt> = Vec::new();
    let total = windows.len() as f32;
    let mut done = 0;
    for alike in windows.chunk_by(|a, b| shape(a.2) == shape(b.2)) {
        let (length, scored) = (alike[0].2.tokens.len(), alike[0].2.scored.clone());
        for group in alike.chunks((AT_ONCE / length).max(1)) {
            lab.report(done as f32 / total)?;
            done += group.len();
            let own = || group.iter().map(|(.., window)| &window.tokens);
            let run = Run::plain(Vec::new()).under(schedule);
            let pass = Pass {
                output: Output::next_tokens(own().map(Vec::as_slice), scored.clone()),
                ..Pass::texts(run, own().cloned())
            };
            let captures = lab.without_progress(|lab| lab.run(&pass))?;
            for ((text, window, _), capture) in group.iter().zip(&captures) {
                out[*text][*window] = scores(capture);
                add_up(&mut receipts, &capture.receipts);
            }
        }
    }
    Ok((out, receipts))
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
    /// The tokens of all texts, one after the other.
    pub fn tokens(&self) -> impl Iterator<Item = u32> {
        self.texts
            .iter()
            .flat_map(|text| text.tokens.iter().copied())
    }

    /// Texts with a token to score; where there is one text, its windows.
    pub fn units(&self) -> Vec<ScoredUnit> {
        if let [only] = self.texts.as_slice() {
            let window = |window| ScoredUnit {
                text: 0,
                window: (only.windows.len() > 1).then_some(window),
            };
            return (0..only.windows.len()).map(window).collect();
        }
        let texts = self.texts.iter().enumerate();
        texts
            .filter(|(_, text)| !text.windows.is_empty())
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
