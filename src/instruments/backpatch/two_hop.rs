//! Two-hop questions: a file of them, and the results of back-patching for each (Biran et al. 2024, 2406.12775).
//!
//! A file is a JSON list of `{"prompt": "The capital of the country of Ann is", "answer": " Paris", "entity": "Ann", "bridge":
//! " France", "first": "Ann was born in", "second": "The capital of France is"}`; answer and bridge may be lists of spellings,
//! and all keys except prompt and answer are optional. Invariant: a question is asked literally or, with all its prompts, as a
//! user turn of the chat template; an answer is compared with the space that it begins with. To measure something else of each
//! question, add a field to [`QuestionResult`].

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::instruments::backpatch::layer_pairs::{
    SourceAndTarget, Vector, WantedAnswer, block_outputs, block_outputs_from, trials, written_text,
};
use crate::lab::Lab;
use crate::lab::draws::draw_seed;
use crate::lab::pairs::span_of;
use crate::lab::pass::{Pass, PassRow};
use crate::lab::run::Run;
use crate::model::Fingerprint;

/// One spelling or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Spellings {
    One(String),
    Many(Vec<String>),
}

/// A question as it is in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionLine {
    prompt: String,
    answer: Spellings,
    entity: Option<String>,
    bridge: Option<Spellings>,
    first: Option<String>,
    second: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwoHopQuestion {
    pub prompt: String,
    /// Spellings of the answer.
    pub answer: Vec<String>,
    /// The text whose last token ends the first hop.
    pub entity: Option<String>,
    /// Spellings of the bridge entity between the hops.
    pub bridge: Vec<String>,
    /// The first hop as a separate question; its answer is the bridge.
    pub first: Option<String>,
    /// The second hop as a separate question; its answer is that of the whole.
    pub second: Option<String>,
}

/// Reads a file of questions.
///
/// # Errors
///
/// When the file cannot be read, or a question lacks its prompt or answer.
pub fn read(path: &Path) -> Result<Vec<TwoHopQuestion>> {
    let text = crate::file::words(path)?;
    let fail = |why: String| {
        Error::bad_file(
            path,
            why,
            "Write a JSON list of {\"prompt\": \"...\", \"answer\": \" ...\", \"entity\": \"...\", \"bridge\": \" ...\", \"first\": \"...\", \"second\": \"...\"}.",
        )
    };
    let lines: Vec<QuestionLine> = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
    if lines.is_empty() {
        return Err(fail("it holds no questions".into()));
    }
    let list = |given: Option<Spellings>| match given {
        None => Vec::new(),
        Some(Spellings::One(one)) => vec![one],
        Some(Spellings::Many(many)) => many,
    };
    let mut out = Vec::with_capacity(lines.len());
    for (i, line) in lines.into_iter().enumerate() {
        let question = TwoHopQuestion {
            prompt: line.prompt,
            answer: list(Some(line.answer)),
            entity: line.entity.filter(|e| !e.is_empty()),
            bridge: list(line.bridge),
            first: line.first,
            second: line.second,
        };
        let empty = |texts: &[String]| texts.iter().any(|t| t.trim().is_empty());
        let faults = [
            (question.prompt.is_empty(), "has no prompt"),
            (
                question.answer.is_empty() || empty(&question.answer),
                "has no answer, or an empty one",
            ),
            (empty(&question.bridge), "has an empty bridge"),
            (
                question.first.is_some() && question.bridge.is_empty(),
                "has a first hop and no bridge to answer it",
            ),
        ];
        if let Some((_, why)) = faults.iter().find(|(wrong, _)| *wrong) {
            return Err(fail(format!("question {} {why}", i + 1)));
        }
        out.push(question);
    }
    Ok(out)
}

/// The position at which states are taken and overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HopPlace {
    /// The last token of the entity's last occurrence.
    Entity,
    /// The last token of the question.
    Last,
}

impl HopPlace {
    /// The place's name in figures.
    pub fn word(self) -> &'static str {
        match self {
            Self::Entity => "entity",
            Self::Last => "last",
        }
    }
}

/// The last token of the last occurrence of a text in some tokens.
///
/// # Errors
///
/// When the text does not occur.
pub fn last_token_of(lab: &Lab, tokens: &[u32], name: &str, text: &str) -> Result<usize> {
    let pieces = lab.model.pieces(tokens);
    match Positions::Token(text.to_string()).resolve(&pieces) {
        Ok(Positions::Span(at, _)) => Ok(at),
        _ => Err(Error::argument(
            name,
            text,
            "a text that occurs in the prompt, letter for letter",
        )),
    }
}

/// The results of all pairs at one position: whether each gave the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairsTried {
    pub place: HopPlace,
    /// Successes with the question's own state, by pair of layers.
    pub own: Vec<bool>,
    /// Control: successes with the state of the same question about another entity, by pair of layers.
    pub matched: Vec<bool>,
    /// Control: successes with the state of an unrelated question, by pair of layers.
    pub unrelated: Vec<bool>,
    /// Control: successes with random numbers of equal norm, by pair of layers.
    pub random: Vec<bool>,
}

/// The results of one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuestionResult {
    /// Whether the unpatched model answers the question.
    pub right: bool,
    pub says: String,
    /// Whether the model answers the first hop alone, if it is given.
    pub first: Option<bool>,
    /// Whether the model answers the second hop alone, if it is given.
    pub second: Option<bool>,
    /// The index of the unrelated question whose state was the control; none if all other questions share the answer or the
    /// bridge, and a text generated by the model was used.
    pub unrelated: Option<usize>,
    /// What the matched control was: the entity that was put in the place of the question's own, or none where its embeddings got
    /// noise.
    pub swapped: Option<String>,
    /// The results of the pairs, by position.
    pub tried: Vec<PairsTried>,
}

/// The length, in tokens, of the generated text that replaces an unrelated question.
const WRITTEN: usize = 16;

/// How questions are measured.
#[derive(Clone, Debug)]
pub struct HopsRequest {
    /// The positions at which states are taken and overwritten.
    pub places: Vec<HopPlace>,
    pub pairs: Vec<SourceAndTarget>,
    /// How many tokens are generated; none if the next token decides.
    pub tokens: Option<usize>,
    /// Whether every prompt of a question is one user turn of the chat template.
    pub chat: bool,
    /// Whether every vector is scaled to the norm of the state it overwrites.
    pub renormed: bool,
    /// The seed of the random controls.
    pub seed: u64,
}

impl HopsRequest {
    /// Checks every question before the first one is measured: that prompts fit into the context, and that answers and entities
    /// exist.
    ///
    /// # Errors
    ///
    /// Names the first question that cannot be measured, and the reason.
    pub fn check(&self, lab: &Lab, all: &[TwoHopQuestion]) -> Result<()> {
        let fits = |question: &TwoHopQuestion| -> Result<()> {
            WantedAnswer::new(lab, "answer", &question.answer, self.tokens)?;
            if question.first.is_some() {
                WantedAnswer::new(lab, "bridge", &question.bridge, self.tokens)?;
            }
            for prompt in [&question.first, &question.second].into_iter().flatten() {
                let tokens = lab.model.encode(prompt, self.chat)?;
                lab.model.check_prompt(&tokens)?;
            }
            let run = Run::plain(lab.model.encode(&question.prompt, self.chat)?);
            lab.model.check_prompt(&run.tokens)?;
            self.positions(lab, question, &run).map(|_| ())
        };
        for (i, question) in all.iter().enumerate() {
            fits(question).map_err(|error| {
                Error::argument(
                    "questions",
                    format!("question {}", i + 1),
                    format!("one that can be measured: {error}"),
                )
            })?;
        }
        Ok(())
    }

    /// Measures the question at an index of a list.
    ///
    /// # Errors
    ///
    /// When a prompt does not fit into the context, or the work is stopped.
    pub fn question(
        &self,
        lab: &mut Lab,
        all: &[TwoHopQuestion],
        at: usize,
    ) -> Result<QuestionResult> {
        let question = &all[at];
        let wanted = WantedAnswer::new(lab, "answer", &question.answer, self.tokens)?;
        let run = Run::plain(lab.model.encode(&question.prompt, self.chat)?);
        let positions = self.positions(lab, question, &run)?;
        let from = positions.iter().map(|(_, p)| *p).min();
        let from = from.unwrap_or(run.tokens.len() - 1);
        let unpatched = wanted
            .of(lab, &run, from, vec![PassRow::default()])?
            .swap_remove(0);
        let other = unrelated(all, at, self.seed);
        let swap = swapped(all, at, self.seed);
        let mut tried = Vec::new();
        for (place, position) in positions {
            let elsewhere = self.control_state(lab, other.map(|j| &all[j]), place)?;
            let matched =
                self.matched_states(lab, &run, question, swap.as_ref(), position, place)?;
            let states = block_outputs_from(lab, &run, from, position)?;
            let mut hits = |vector: Vector| -> Result<Vec<bool>> {
                let rows = trials(&states, position, &self.pairs, vector, self.renormed)?;
                let became = wanted.of(lab, &run, from, rows)?;
                Ok(became.into_iter().map(|b| b.hit).collect())
            };
            tried.push(PairsTried {
                place,
                own: hits(Vector::Own)?,
                matched: if matched.is_empty() {
                    Vec::new()
                } else {
                    hits(Vector::Draws(&matched))?
                },
                unrelated: hits(Vector::Other(&elsewhere))?,
                random: hits(Vector::Random(draw_seed(self.seed, at)))?,
            });
        }
        let mut alone = |prompt: &Option<String>, spellings: &[String]| -> Result<Option<bool>> {
            let Some(prompt) = prompt else {
                return Ok(None);
            };
            let wanted = WantedAnswer::new(lab, "bridge", spellings, self.tokens)?;
            Ok(Some(self.answers(lab, prompt, &wanted)?))
        };
        Ok(QuestionResult {
            first: alone(&question.first, &question.bridge)?,
            second: alone(&question.second, &question.answer)?,
            right: unpatched.hit,
            says: match self.tokens {
                Some(_) => written_text(lab, &unpatched.written),
                None => lab.visible(unpatched.top),
            },
            unrelated: other,
            swapped: swap.map(|(entity, _)| entity),
            tried,
        })
    }

    /// The positions of a question's places; only the last token if it has no entity.
    fn positions(
        &self,
        lab: &Lab,
        question: &TwoHopQuestion,
        run: &Run,
    ) -> Result<Vec<(HopPlace, usize)>> {
        let mut out = Vec::new();
        for place in &self.places {
            match (place, &question.entity) {
                (HopPlace::Last, _) => out.push((*place, run.tokens.len() - 1)),
                (HopPlace::Entity, Some(entity)) => {
                    let at = last_token_of(lab, &run.tokens, "entity", entity)?;
                    out.push((*place, at));
                }
                (HopPlace::Entity, None) => {}
            }
        }
        Ok(out)
    }

    /// The control states, by layer: of an unrelated question at the corresponding position or, without one, of a generated
    /// text at its end.
    fn control_state(
        &self,
        lab: &mut Lab,
        other: Option<&TwoHopQuestion>,
        place: HopPlace,
    ) -> Result<Vec<Tensor>> {
        let Some(other) = other else {
            let run = lab.unrelated(self.seed, WRITTEN)?;
            return block_outputs(lab, &run, run.tokens.len() - 1);
        };
        let run = Run::plain(lab.model.encode(&other.prompt, self.chat)?);
        let last = run.tokens.len() - 1;
        let position = match (place, &other.entity) {
            (HopPlace::Entity, Some(entity)) => last_token_of(lab, &run.tokens, "entity", entity)?,
            _ => last,
        };
        block_outputs(lab, &run, position)
    }

    /// The states of the matched control, by draw and layer: of the question about another entity, or without one of the question
    /// with noise on its entity; nothing where it names none.
    fn matched_states(
        &self,
        lab: &mut Lab,
        run: &Run,
        question: &TwoHopQuestion,
        swap: Option<&(String, String)>,
        position: usize,
        place: HopPlace,
    ) -> Result<Vec<Vec<Tensor>>> {
        if let Some((entity, prompt)) = swap {
            let other = Run::plain(lab.model.encode(prompt, self.chat)?);
            let at = match place {
                HopPlace::Entity => last_token_of(lab, &other.tokens, "entity", entity)?,
                HopPlace::Last => other.tokens.len() - 1,
            };
            return Ok(vec![block_outputs(lab, &other, at)?]);
        }
        let Some(entity) = &question.entity else {
            return Ok(Vec::new());
        };
        let run = Run {
            seed: self.seed,
            ..run.clone()
        };
        let span = span_of(lab, &run.tokens, "entity", entity)?;
        lab.noised_states(&run, &span, position)
    }

    /// Whether the unpatched model answers a prompt.
    fn answers(&self, lab: &mut Lab, prompt: &str, wanted: &WantedAnswer) -> Result<bool> {
        let tokens = lab.model.encode(prompt, self.chat)?;
        let read = lab.run_one(&Pass {
            tail: wanted.tokens.unwrap_or(0),
            ..Pass::after(Run::plain(tokens), wanted.output())
        })?;
        Ok(wanted.read(lab, &read).hit)
    }
}

/// Another entity and the question about it: that of another question with a different answer and bridge, in the place of the
/// question's own; none where there is none.
fn swapped(all: &[TwoHopQuestion], at: usize, seed: u64) -> Option<(String, String)> {
    let own = all[at].entity.as_ref()?;
    let start = all[at].prompt.rfind(own.as_str())?;
    let other = others(all, at, seed, |other| {
        other.entity.as_ref().is_some_and(|entity| entity != own)
    })?;
    let entity = all[other].entity.clone()?;
    let mut prompt = all[at].prompt.clone();
    prompt.replace_range(start..start + own.len(), &entity);
    Some((entity, prompt))
}

/// The index of a question with a different answer and bridge, chosen by the seed.
fn unrelated(all: &[TwoHopQuestion], at: usize, seed: u64) -> Option<usize> {
    others(all, at, seed, |_| true)
}

/// The same among those that `fit`.
fn others(
    all: &[TwoHopQuestion],
    at: usize,
    seed: u64,
    fit: impl Fn(&TwoHopQuestion) -> bool,
) -> Option<usize> {
    let start = Fingerprint::of([seed, at as u64]) % all.len() as u64;
    let start = start as usize;
    let shares = |a: &[String], b: &[String]| {
        a.iter()
            .any(|x| b.iter().any(|y| x.trim().eq_ignore_ascii_case(y.trim())))
    };
    let apart = |j: &usize| {
        let (own, other) = (&all[at], &all[*j]);
        *j != at
            && fit(other)
            && !shares(&own.answer, &other.answer)
            && !shares(&own.bridge, &other.bridge)
    };
    let mut order = (0..all.len()).map(|i| (start + i) % all.len());
    order.find(apart)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_and_what_is_missing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hops.json");
        let read_text = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path)
        };
        let found =
            read_text(r#"[{"prompt": "a", "answer": " b", "bridge": [" c", " d"], "first": "e"}]"#);
        let found = found.unwrap().remove(0);
        assert_eq!(
            (found.answer, found.bridge),
            (
                vec![" b".to_string()],
                vec![" c".to_string(), " d".to_string()]
            )
        );
        assert_eq!(found.entity, None);
        for (text, why) in [
            ("[]", "no question"),
            (
                r#"[{"prompt": "", "answer": "b"}]"#,
                "question 1 has no prompt",
            ),
            (
                r#"[{"prompt": "a", "answer": "b"}, {"prompt": "a", "answer": []}]"#,
                "question 2 has no answer",
            ),
            (
                r#"[{"prompt": "a", "answer": "b", "first": "x"}]"#,
                "no bridge",
            ),
            (r#"[{"prompt": "a"}]"#, "answer"),
            (r#"[{"prompt": "a", "answer": "b", "hop": "x"}]"#, "hop"),
            ("a\tb", "expected value"),
        ] {
            let error = read_text(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn the_unrelated_question_shares_neither_answer_nor_bridge() {
        let question = |answer: &str, bridge: &str| TwoHopQuestion {
            answer: vec![answer.into()],
            bridge: vec![bridge.into()],
            ..TwoHopQuestion::default()
        };
        let all = [
            question(" Rome", " Italy"),
            question(" rome ", " Spain"),
            question(" Madrid", " Italy"),
            question(" Tokyo", " Japan"),
        ];
        for seed in 0..20 {
            assert_eq!(unrelated(&all, 0, seed), Some(3));
            assert_eq!(
                unrelated(&all[..1], 0, seed),
                None,
                "a question is not unrelated to itself"
            );
            let of_japan = unrelated(&all, 3, seed).unwrap();
            assert_ne!(of_japan, 3);
        }
        let drawn: Vec<usize> = (0..20)
            .map(|seed| unrelated(&all, 3, seed).unwrap())
            .collect();
        assert!(drawn.iter().any(|d| *d != drawn[0]), "the seed draws");
    }

    #[test]
    fn the_matched_question_is_the_same_about_another_entity() {
        let question = |entity: &str, answer: &str| TwoHopQuestion {
            prompt: format!("The capital of {entity} is"),
            entity: Some(entity.into()),
            answer: vec![answer.into()],
            bridge: vec![answer.into()],
            ..TwoHopQuestion::default()
        };
        let all = [
            question("Ann", " Rome"),
            question("Bob", " rome"),
            question("Eve", " Oslo"),
        ];
        for seed in 0..9 {
            let found = swapped(&all, 0, seed).unwrap();
            assert_eq!(found, ("Eve".into(), "The capital of Eve is".into()));
        }
        assert_eq!(
            swapped(&all[..2], 0, 1),
            None,
            "an entity with the same answer is no control"
        );
    }
}
