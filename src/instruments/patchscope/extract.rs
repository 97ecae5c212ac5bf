//! Attribute extraction, scored: the share of a list's subjects whose answer is in the continuation, by source and target layer
//! (Ghandeharioun et al. 2024, section 4.2), compared with the unpatched target and with the states of unrelated subjects.
//!
//! Invariant: the control of a subject is how often the states of other subjects, in the same placeholder at the same layers,
//! give its answer; subjects that share an answer are excluded.

use std::collections::BTreeMap;

use super::curves;
use super::grid;
use super::parameters::PatchscopeView;
use super::plan::{PatchscopePlan, layer_entry, spelled};
use super::sweep::{self, DecodedText, PatchscopeResult};
use super::table::{anchor, or_dash, words_in};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Body, Cell, Table, TablePage, TableRow};
use crate::instruments::Draft;
use crate::instruments::patchscope::attributes::{SubjectAnswers, SubjectFact, Words};
use crate::lab::Lab;
use crate::text;
use crate::vectors::proportion::Proportion;

/// How many subjects' continuations are shown in a cell of the grid.
const SHOWN: usize = 3;

/// The continuations with their scores. Pairs that were not reached, because the sweep was stopped, count nowhere.
struct ExtractionScores {
    found: PatchscopeResult,
    /// Continuations as text, `[subject][pair]`.
    texts: Vec<Vec<Option<String>>>,
    /// Whether the continuation contains the answer, `[subject][pair]`.
    hits: Vec<Vec<Option<bool>>>,
    /// Whether the unpatched target's continuation contains it.
    unpatched: Vec<bool>,
    /// The share of unrelated subjects whose continuations contain it, `[subject][pair]`; none if all others share an answer.
    control: Vec<Vec<Option<f32>>>,
    /// How many subjects have no control.
    without_control: usize,
}

/// The mean, or none for no values.
fn mean(values: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, count) = values.fold((0.0, 0usize), |(s, n), v| (s + f64::from(v), n + 1));
    (count > 0).then(|| (sum / count as f64) as f32)
}

fn one(hit: bool) -> f32 {
    if hit { 1.0 } else { 0.0 }
}

impl ExtractionScores {
    fn new(plan: &PatchscopePlan, lab: &mut Lab) -> Result<Self> {
        let found = sweep::all(plan, &plan.sources, lab)?;
        let text = |continuation: &Option<DecodedText>| {
            continuation.as_ref().map(|s| words_in(lab, &s.tokens))
        };
        let texts: Vec<Vec<Option<String>>> = found
            .continuations
            .iter()
            .map(|row| row.iter().map(text).collect())
            .collect();
        // Every text and answer is normalised once, because each answer is searched for in all texts.
        let words = |text: &Option<String>| text.as_deref().map(Words::new);
        let words: Vec<Vec<Option<Words>>> = texts
            .iter()
            .map(|row| row.iter().map(words).collect())
            .collect();
        let looks: Vec<SubjectAnswers> = plan
            .subjects
            .iter()
            .map(SubjectFact::prepare_answers)
            .collect();
        let read =
            |look: &SubjectAnswers, text: &Option<Words>| text.as_ref().map(|t| look.said_in(t));
        let hits = looks
            .iter()
            .zip(&words)
            .map(|(look, row)| row.iter().map(|t| read(look, t)).collect())
            .collect();
        let unpatched = looks
            .iter()
            .zip(&plan.sources)
            .map(|(look, source)| {
                let says = |tokens| look.said_in(&Words::new(&words_in(lab, tokens)));
                let target = found.target(source);
                target.is_some_and(|target| says(&target.control.tokens))
            })
            .collect();
        // Subjects with the same answers have the same control.
        let mut controls: BTreeMap<&SubjectAnswers, (bool, Vec<Option<f32>>)> = BTreeMap::new();
        for look in &looks {
            if controls.contains_key(look) {
                continue;
            }
            // A user who has stopped the sweep wants to see the results so far, so cancelling is not checked again.
            if found.note.is_none() {
                lab.report(1.0)?;
            }
            let others: Vec<usize> = (0..looks.len())
                .filter(|j| !look.shares(&looks[*j]))
                .collect();
            let share = |pair: usize| {
                let read = others.iter().filter_map(|j| read(look, &words[*j][pair]));
                mean(read.map(one))
            };
            let shares = (0..plan.pairs.len()).map(share).collect();
            controls.insert(look, (others.is_empty(), shares));
        }
        let without_control = looks.iter().filter(|look| controls[*look].0).count();
        let control = looks.iter().map(|look| controls[look].1.clone()).collect();
        Ok(Self {
            found,
            texts,
            hits,
            unpatched,
            control,
            without_control,
        })
    }

    /// The share of subjects whose answer is decoded at a pair.
    fn share(&self, pair: usize) -> Option<f32> {
        mean(self.hits.iter().filter_map(|row| row[pair]).map(one))
    }

    /// How many of the subjects that were reached are decoded at a pair.
    fn read(&self, pair: usize) -> Proportion {
        Proportion::count(self.hits.iter().filter_map(|row| row[pair]))
    }

    /// The share of subjects whose answer the unpatched target gives.
    fn alone(&self) -> f32 {
        mean(self.unpatched.iter().copied().map(one)).unwrap_or(0.0)
    }

    /// The mean control at a pair; none if no subject has one.
    fn unrelated(&self, pair: usize) -> Option<f32> {
        mean(self.control.iter().filter_map(|row| row[pair]))
    }

    /// The pair at which most answers are decoded; the first of several.
    fn best(&self, plan: &PatchscopePlan) -> usize {
        let mut best = 0;
        for pair in 1..plan.pairs.len() {
            if self.share(pair) > self.share(best) {
                best = pair;
            }
        }
        best
    }

    fn notes(&self, plan: &PatchscopePlan, lab: &Lab) -> Vec<String> {
        let best = self.best(plan);
        let (from, to) = plan.pairs[best];
        let hit = |h: &Option<bool>| *h == Some(true);
        let any = self.hits.iter().filter(|row| row.iter().any(hit)).count();
        let count = self.hits.len();
        let control = self
            .unrelated(best)
            .map_or_else(|| "none".into(), |n| format!("{n:.3}"));
        let mut out = vec![
            format!(
                "best: source layer {} into {}: {} read, unpatched {:.3}, control {control}; over {} pairs, {any} of {count} are read at some pair (oracle: the best pair, chosen with knowledge of the answer)",
                spelled(from),
                spelled(to),
                self.read(best).sentence(),
                self.alone(),
                plan.pairs.len(),
            ),
            format!(
                "read: an answer occurs in the {} generated tokens, as whole words in any case; read from, read to: its interval of 95 % (Wilson); unrelated: the control, the mean over states of the other subjects of the list that share no answer with this one",
                plan.count
            ),
        ];
        if self.without_control > 0 {
            out.push(format!(
                "{} of {count} subjects share an answer with every other subject and have no control; add subjects with other answers",
                self.without_control
            ));
        }
        out.extend(self.found.notes(plan, lab));
        out
    }
}

/// The figure and its notes.
pub(super) fn draw(plan: &PatchscopePlan, show: PatchscopeView, lab: &mut Lab) -> Result<Draft> {
    let scores = ExtractionScores::new(plan, lab)?;
    let body: Body = match show {
        PatchscopeView::Table => table(plan, &scores).into(),
        PatchscopeView::Items => items(plan, &scores).into(),
        PatchscopeView::Grid => {
            let cell = |place, pair| cell(plan, &scores, place, pair);
            grid::over(plan, "share of subjects read", cell).into()
        }
        PatchscopeView::Curves => {
            // Together with the curves of unrelated states and of the unpatched target.
            let mut over = curves::over(plan, "read", &|pair| scores.share(pair));
            over.extend(curves::over(plan, "unrelated", &|p| scores.unrelated(p)));
            over.push(curves::flat(plan, "unpatched", scores.alone()));
            curves::body(plan, Anchor::default(), "share of subjects read", over).into()
        }
    };
    Ok(Draft::of(body)
        .titled(format!(" · {} subjects", plan.subjects.len()))
        .notes(scores.notes(plan, lab)))
}

fn table(plan: &PatchscopePlan, scores: &ExtractionScores) -> Table {
    let row = |(pair, (from, to)): (usize, &(i32, i32))| {
        let (low, high) = scores.read(pair).interval();
        let between = |end: f64| or_dash(scores.share(pair).map(|_| end as f32));
        let entries = entries![
            layer_entry(*from),
            layer_entry(*to),
            or_dash(scores.share(pair)),
            between(low),
            between(high),
            scores.alone(),
            or_dash(scores.unrelated(pair)),
        ];
        TableRow::at(anchor(&plan.sources[0], *from), entries)
    };
    let rows = plan.pairs.iter().enumerate().map(row).collect();
    let title = format!(
        "share of {} subjects whose answer is generated",
        plan.subjects.len()
    );
    Table::paged(
        &[
            "layer",
            "into",
            "read",
            "read from",
            "read to",
            "unpatched",
            "unrelated",
        ],
        vec![TablePage::of(title, Anchor::default(), rows)],
    )
}

fn cell(
    plan: &PatchscopePlan,
    scores: &ExtractionScores,
    place: Anchor,
    pair: usize,
) -> Option<Cell> {
    let share = scores.share(pair)?;
    let read = scores.read(pair);
    let (low, high) = read.interval();
    let mut more = vec![("read".to_string(), share)];
    more.push(("read from".into(), low as f32));
    more.push(("read to".into(), high as f32));
    more.push(("unpatched".into(), scores.alone()));
    more.extend(scores.unrelated(pair).map(|n| ("unrelated".into(), n)));
    let continuation = plan.subjects.iter().zip(&scores.texts).zip(&scores.hits);
    let continuation = continuation.filter_map(|((subject, texts), hits)| {
        let text = texts[pair].as_ref()?;
        let name = text::plain(subject.subject.as_bytes());
        Some((format!("{name}: {text}"), one(hits[pair] == Some(true))))
    });
    more.extend(continuation.take(SHOWN));
    Some(Cell::of(read.hits.to_string(), share, place).more(more))
}

/// A table of the subjects: the first layer that decodes the answer, how many layers do, and the continuation at the best pair.
fn items(plan: &PatchscopePlan, scores: &ExtractionScores) -> Table {
    let best = scores.best(plan);
    let (from, to) = plan.pairs[best];
    let row = |(i, subject): (usize, &SubjectFact)| {
        let hits = &scores.hits[i];
        let first = hits.iter().position(|h| *h == Some(true));
        let first = first.map(|p| plan.pairs[p].0);
        let entries = entries![
            text::plain(subject.subject.as_bytes()),
            text::plain(subject.answers.join("|").as_bytes()),
            first.map_or_else(|| "never".into(), spelled),
            or_dash(mean(hits.iter().flatten().map(|h| one(*h)))),
            or_dash(scores.texts[i][best].clone()),
            or_dash(scores.control[i][best]),
        ];
        TableRow::at(anchor(&plan.sources[i], first.unwrap_or(from)), entries)
    };
    let rows = plan.subjects.iter().enumerate().map(row).collect();
    let title = format!(
        "continuations at source layer {} into target layer {}",
        spelled(from),
        spelled(to)
    );
    Table::paged(
        &[
            "subject",
            "answers",
            "first layer",
            "pairs",
            "says",
            "unrelated",
        ],
        vec![TablePage::of(title, Anchor::default(), rows)],
    )
}
