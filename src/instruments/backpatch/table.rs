//! The table over a file of two-hop questions: how many are right before, and how many some pair of layers sets right, by case.
//!
//! Invariant: cases do not overlap within a group; every rate of *any* pair is an oracle's and is named so; the same rates for
//! all controls are in the same row, the matched one first.

use std::path::Path;

use super::{Backpatch, BackpatchParams};
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow};
use crate::instruments::backpatch::layer_pairs::{
    PairScore, SourceAndTarget, is_backward, pairs as all_pairs,
};
use crate::instruments::backpatch::two_hop::{
    HopPlace, HopsRequest, PairsTried, QuestionResult, TwoHopQuestion, read,
};
use crate::instruments::{Draft, lines};
use crate::lab::Lab;
use crate::lab::bootstrap::WithInterval;
use crate::lab::draws::DRAWS;
use crate::lab::run::Run;
use crate::model::Fingerprint;
use crate::vectors::proportion::Proportion;
use crate::vectors::selection::average;

const COLUMNS: [&str; 16] = [
    "case",
    "at",
    "questions",
    "right before",
    "pairs that work",
    "low",
    "high",
    "any pair (oracle)",
    "matched: pairs",
    "matched: any (oracle)",
    "unrelated: pairs",
    "unrelated: any (oracle)",
    "random: pairs",
    "random: any (oracle)",
    "against matched",
    "best single pair",
];

pub fn table(params: &BackpatchParams, file: &Path, run: &Run, lab: &mut Lab) -> Result<Draft> {
    if !run.tokens.is_empty() {
        let expected = "either a prompt or a file of questions, not both";
        return Err(Error::argument("questions", file.display(), expected));
    }
    let questions = read(file)?;
    let layers = lab.model.card.layers;
    let back = all_pairs(layers).into_iter().filter(|p| is_backward(*p));
    let measure = HopsRequest {
        places: params.positions_of_file()?,
        pairs: back.collect(),
        tokens: params.tokens_to_generate(),
        chat: params.chat,
        renormed: params.scales_norm(),
        seed: run.seed,
    };
    measure.check(lab, &questions)?;
    let mut digest = Fingerprint::default();
    digest.write(format!("{questions:?}").as_bytes());
    let mut parameters = lines::<Backpatch>(params);
    parameters.push((
        "questions' digest".into(),
        format!("{:016x}", digest.finish()),
    ));
    let found = lab.trials(run, parameters, questions.len(), 1, |lab, range| {
        let each = range.map(|i| measure.question(lab, &questions, i));
        each.collect::<Result<Vec<QuestionResult>>>()
    })?;
    let done: Vec<(usize, &QuestionResult)> = found
        .results
        .iter()
        .enumerate()
        .filter_map(|(i, f)| Some((i, f.as_ref()?)))
        .collect();
    let mut rows = Vec::new();
    for (name, keep) in CASES {
        let some: Vec<&QuestionResult> = done.iter().map(|d| d.1).filter(|f| keep(f)).collect();
        if some.is_empty() {
            continue;
        }
        for place in &measure.places {
            rows.extend(summary(name, *place, &some, (&measure.pairs, run.seed)));
        }
    }
    let each = done.iter().flat_map(|(i, found)| {
        let question = &questions[*i];
        let pairs = &measure.pairs;
        found
            .tried
            .iter()
            .map(move |tried| of_one(question, found, tried, pairs))
    });
    let pages = vec![
        TablePage::of("by case", Anchor::default(), rows),
        TablePage::of("by question", Anchor::default(), each.collect()),
    ];
    Ok(Draft::of(Table::paged(&COLUMNS, pages))
        .titled(format!("{} two-hop questions", done.len()))
        .notes(notes(&measure, &done, layers))
        .note("low, high: 95 % of the mean share of pairs that work, the questions drawn again 1000 times; against matched: whether that share goes beyond the matched control's, question by question")
        .notes(found.note()))
}

/// Whether a question belongs to a case.
type QuestionFilter = fn(&QuestionResult) -> bool;

/// Cases, each with the questions that belong to it.
const CASES: &[(&str, QuestionFilter)] = &[
    ("all", |_| true),
    ("right by itself (kept right)", |f| f.right),
    ("wrong by itself (set right)", |f| !f.right),
    ("both hops known, right", |f| known(f) && f.right),
    ("both hops known, wrong", |f| known(f) && !f.right),
    ("only the first hop known", |f| {
        hops(f) == Some((true, false))
    }),
    ("only the second hop known", |f| {
        hops(f) == Some((false, true))
    }),
    ("neither hop known", |f| hops(f) == Some((false, false))),
];

/// Whether the model knows the first hop and the second; none unless both were asked separately.
fn hops(found: &QuestionResult) -> Option<(bool, bool)> {
    found.first.zip(found.second)
}

fn known(found: &QuestionResult) -> bool {
    hops(found) == Some((true, true))
}

/// Two rates for one kind of vector, as means over questions: the share of pairs that give the answer, and the share of
/// questions that any pair answers.
fn rates(pairs: &[SourceAndTarget], hits: &[&[bool]]) -> [f32; 2] {
    let mut sums = [0.0; 2];
    for hits in hits {
        let score = PairScore::of(pairs, hits, is_backward);
        sums[0] += score.share();
        sums[1] += f32::from(u8::from(score.any_success()));
    }
    sums.map(|sum| sum / hits.len().max(1) as f32)
}

/// The pair that answers most questions, and the share of questions that it answers.
fn best_pair(pairs: &[SourceAndTarget], hits: &[&[bool]]) -> Option<(SourceAndTarget, f32)> {
    let count = |i: usize| hits.iter().filter(|h| h[i]).count();
    // The first pair among equals.
    let best = (0..pairs.len()).max_by_key(|i| (count(*i), std::cmp::Reverse(*i)))?;
    Some((pairs[best], count(best) as f32 / hits.len().max(1) as f32))
}

/// The vectors that were patched in, in the order of the columns: the question's own, then the controls.
const KINDS: [fn(&PairsTried) -> &[bool]; 4] =
    [|t| &t.own, |t| &t.matched, |t| &t.unrelated, |t| &t.random];

fn summary(
    name: &str,
    place: HopPlace,
    some: &[&QuestionResult],
    (pairs, seed): (&[SourceAndTarget], u64),
) -> Option<TableRow> {
    let here = |found: &&&QuestionResult| found.tried.iter().any(|t| t.place == place);
    let some: Vec<&QuestionResult> = some.iter().filter(here).copied().collect();
    let tried: Vec<&PairsTried> = some
        .iter()
        .flat_map(|f| f.tried.iter().filter(|t| t.place == place))
        .collect();
    if tried.is_empty() {
        return None;
    }
    let right = some.iter().filter(|f| f.right).count() as f32 / some.len() as f32;
    let mut entries = entries![name, place.word(), tried.len(), right];
    let hits = KINDS.map(|pick| {
        let all = tried.iter().map(|t| pick(t));
        all.filter(|hits| !hits.is_empty()).collect::<Vec<_>>()
    });
    let shares = |hits: &[&[bool]]| -> Vec<f64> {
        let each = hits
            .iter()
            .map(|hits| PairScore::of(pairs, hits, is_backward));
        each.map(|score| f64::from(score.share())).collect()
    };
    let (own, matched) = (shares(&hits[0]), shares(&hits[1]));
    for (kind, hits) in hits.iter().enumerate() {
        let rates = Some(rates(pairs, hits)).filter(|_| !hits.is_empty());
        entries.push(rates.map(|rates| rates[0]).into());
        if kind == 0 {
            // One question says nothing of others.
            let over = WithInterval::over(own.len(), seed, |chosen| {
                average(chosen.iter().map(|i| own[*i]))
            });
            let over = Some(over).filter(|_| own.len() > 1);
            entries.push(over.map(|over| over.low as f32).into());
            entries.push(over.map(|over| over.high as f32).into());
        }
        entries.push(rates.map(|rates| rates[1]).into());
    }
    let verdict = if own.len() > 1 && own.len() == matched.len() {
        // Question by question: each has both.
        let apart = WithInterval::over(own.len(), seed, |chosen| {
            average(chosen.iter().map(|i| own[*i] - matched[*i]))
        });
        if apart.low > 0.0 { "more" } else { "no more" }
    } else {
        ""
    };
    entries.push(verdict.into());
    let best = best_pair(pairs, &hits[0]).map_or_else(String::new, |((s, t), share)| {
        format!("{s} → {t}: {:.0} %", 100.0 * share)
    });
    entries.push(best.into());
    Some(TableRow::at(Anchor::default(), entries))
}

fn of_one(
    question: &TwoHopQuestion,
    found: &QuestionResult,
    tried: &PairsTried,
    pairs: &[SourceAndTarget],
) -> TableRow {
    let word = |known: Option<bool>| match known {
        Some(true) => "known",
        Some(false) => "not known",
        None => "not tested",
    };
    let mut entries = entries![
        format!(
            "{} → {}; generates {}; first hop {}, second hop {}",
            question.prompt,
            question.answer[0].trim(),
            found.says.trim(),
            word(found.first),
            word(found.second)
        ),
        tried.place.word(),
        1.0,
        f32::from(u8::from(found.right)),
    ];
    for (kind, hits) in KINDS.map(|pick| pick(tried)).into_iter().enumerate() {
        let score = Some(PairScore::of(pairs, hits, is_backward)).filter(|_| !hits.is_empty());
        entries.push(score.map(PairScore::share).into());
        if kind == 0 {
            entries.extend([Entry::Missing, Entry::Missing]);
        }
        let any = score.map(|score| f32::from(u8::from(score.any_success())));
        entries.push(any.into());
    }
    entries.push("".into());
    let first = pairs.iter().zip(&tried.own).find(|(_, hit)| **hit);
    let pair = first.map_or_else(String::new, |((s, t), _)| format!("{s} → {t}"));
    entries.push(pair.into());
    let anchor = first.map_or_else(Anchor::default, |((s, _), _)| Anchor::layer(*s));
    TableRow::at(anchor, entries)
}

fn notes(measure: &HopsRequest, done: &[(usize, &QuestionResult)], layers: usize) -> Vec<String> {
    let mut notes = Vec::new();
    for place in &measure.places {
        for right in [false, true] {
            let some: Vec<&PairsTried> = done
                .iter()
                .filter(|(_, f)| f.right == right)
                .flat_map(|(_, f)| f.tried.iter().filter(|t| t.place == *place))
                .collect();
            if some.is_empty() {
                continue;
            }
            let any = KINDS.map(|pick| {
                let all = some.iter().map(|t| pick(t)).filter(|hits| !hits.is_empty());
                Proportion::count(all.map(|hits| hits.iter().any(|hit| *hit)))
            });
            let [own, matched, unrelated, random] = any;
            // The interval of the share holds the control's.
            let beaten = matched.of > 0 && matched.share() >= own.interval().0;
            notes.push(format!(
                "of {} questions that are answered {} without a patch, some pair at {} {} {}{}; controls: with the state of the same question about another entity {}, with an unrelated question's state {}, with random numbers of the same norm {} (all oracles; intervals of 95 %)",
                some.len(),
                if right { "rightly" } else { "wrongly" },
                place.word(),
                if right { "keeps right" } else { "sets right" },
                own.sentence(),
                if beaten { ", NO MORE THAN ITS MATCHED CONTROL" } else { "" },
                matched.sentence(),
                unrelated.sentence(),
                random.sentence()
            ));
        }
    }
    notes.push(format!(
        "{} pairs of {layers} layers, source above target; a success: {}; shares are from 0 to 1; the best single pair is chosen after the fact as well",
        measure.pairs.len(),
        match measure.tokens {
            Some(count) => format!("a spelling of the answer occurs in the {count} generated tokens, whatever the case"),
            None => "the answer's first token is the top prediction".into(),
        }
    ));
    notes.push("oracle: it takes the best of all pairs, with knowledge of the answer; the more pairs, the more often chance alone succeeds, and frequent answers are easily hit; the controls had as many tries".into());
    notes.push(format!(
        "unrelated: the control, the state at the same layer and place of a question with another answer and another bridge, drawn with seed {}",
        measure.seed
    ));
    let noised = done.iter().filter(|(_, f)| f.swapped.is_none()).count();
    notes.push(format!(
        "matched: the control, the state at the same layer and place of the same question with another question's entity in it, drawn with the seed; for {noised} questions there is none, and the entity's own embeddings got noise ({DRAWS} draws, 3 standard deviations), or, where a question names no entity, there is no such control"
    ));
    let alone = done.iter().filter(|(_, f)| f.unrelated.is_none()).count();
    if alone > 0 {
        notes.push(format!(
            "for {alone} of {} questions no other one is unrelated; the end of a text that the model generated is used instead",
            done.len()
        ));
    }
    if done
        .iter()
        .all(|(_, f)| f.first.is_none() && f.second.is_none())
    {
        notes.push(
            "the file has no question for a single hop, so the cases by known hops are left out"
                .into(),
        );
    }
    notes
}
