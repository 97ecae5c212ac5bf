//! The pairs of runs that are patched: one pair of prompts, one for every draw of noise, or a file of pairs.
//!
//! Invariant: the two runs of a case differ somewhere, and their positions are aligned. To make the corrupted run in another
//! way, add a branch to [`cases`].

use super::{Pairing, PatchingParams};
use crate::error::{Error, Result};
use crate::instruments::params::{ParamKind, ParameterValue, Position};
use crate::lab::Lab;
use crate::lab::draws::draw_seed;
use crate::lab::pairs::{Alignment, PairSource, PairedRuns, embedding_spread, pair_error, span_of};
use crate::lab::run::Run;

/// A clean and a corrupted run.
pub struct PatchingCase {
    /// The clean run, whose answer is measured.
    pub clean: Run,
    /// The corrupted run.
    pub corrupt: Run,
    /// The positions of the corrupted run to which noise is added, and the seed.
    pub noise: Option<(std::ops::Range<usize>, u64)>,
    /// Which positions of the two runs correspond.
    pub alignment: Alignment,
    /// The answer, if one was given.
    pub answer: Option<String>,
    /// The other answer of a logit difference, if one was given.
    pub other: Option<String>,
}

/// The pairs of runs that the parameters ask for, with noise if the corrupted run is made by noise.
pub fn cases(
    params: &PatchingParams,
    run: &Run,
    lab: &mut Lab,
) -> Result<(Vec<PatchingCase>, Option<f64>)> {
    let PatchingParams {
        corrupt, subject, ..
    } = params;
    let source = params.source();
    if let Some(file) = &params.pairs {
        if !run.tokens.is_empty() {
            let expected = "either a prompt or a file of pairs, not both";
            return Err(Error::argument("pairs", file.display(), expected));
        }
        for (name, given) in [("corrupt", corrupt), ("subject", subject)] {
            if let Some(given) = given {
                let expected = "nothing when a file of pairs is given; the file has the prompts";
                return Err(Error::argument(name, given, expected));
            }
        }
        let pairs = source.of_file(file, run, lab)?;
        return Ok((pairs.into_iter().map(PatchingCase::of).collect(), None));
    }
    lab.model.check_prompt(&run.tokens)?;
    match (corrupt, subject) {
        (None, None) if run.tokens.len() == 1 => Err(Error::argument(
            "corrupt",
            "",
            "a corrupted prompt, because a prompt of a single token has nothing to add noise to",
        )),
        (Some(_), Some(subject)) => Err(Error::argument(
            "subject",
            subject,
            "nothing where `corrupt` gives another prompt",
        )),
        (Some(corrupt), None) => {
            let pair = source.of_prompt(corrupt, run, lab)?;
            Ok((vec![PatchingCase::of(pair)], None))
        }
        (None, subject) => {
            // The first token's state is unlike any other and is not noised.
            let positions = match subject {
                None => 1..run.tokens.len(),
                Some(subject) => span_of(lab, &run.tokens, "subject", subject)?,
            };
            let sigma = params.sigma.0 * embedding_spread(lab, &run.tokens[positions.clone()])?;
            let case = |sample: usize| PatchingCase {
                clean: run.clone(),
                corrupt: run.clone(),
                noise: Some((positions.clone(), draw_seed(run.seed, sample))),
                alignment: Alignment {
                    pairs: (0..run.tokens.len()).map(|i| (i, i)).collect(),
                    first: positions.start,
                },
                answer: params.answer.clone(),
                other: None,
            };
            Ok(((0..params.samples.0).map(case).collect(), Some(sigma)))
        }
    }
}

impl PatchingCase {
    fn of(pair: PairedRuns) -> Self {
        Self {
            clean: pair.clean,
            corrupt: pair.corrupt,
            noise: None,
            alignment: pair.alignment,
            answer: pair.answer,
            other: pair.other,
        }
    }
}

impl PatchingParams {
    /// Where its pairs come from.
    fn source(&self) -> PairSource<'_> {
        PairSource {
            corrupt: self.corrupt.as_deref(),
            pairs: self.pairs.as_deref(),
            answer: self.answer.as_deref(),
            chat: self.chat,
            ends: self.align == Pairing::Ends,
        }
    }
}

/// The aligned pairs of positions to patch, from the first that differs on; an error if cases have different ones.
pub fn positions(cases: &[PatchingCase]) -> Result<Vec<usize>> {
    let first = cases
        .iter()
        .map(|case| case.alignment.first)
        .min()
        .unwrap_or(0);
    let pairs = &cases[0].alignment.pairs;
    if let Some(other) = cases.iter().find(|case| case.alignment.pairs != *pairs) {
        return Err(Error::argument(
            "site",
            "a grid of positions",
            format!(
                "prompts of one length in the whole file, but some have {} and some {} tokens; site=heads takes any",
                cases[0].clean.tokens.len(),
                other.clean.tokens.len()
            ),
        ));
    }
    let found: Vec<usize> = (first..pairs.len()).collect();
    if found.is_empty() {
        return Err(nothing_in_common());
    }
    Ok(found)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadsAt {
    /// From the first position that differs to the end.
    All,
    /// The last position of both prompts.
    Last,
    /// A position of the clean prompt; negative counts from the end.
    One(i64),
}

impl ParameterValue for HeadsAt {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "last" => Ok(Self::Last),
            text => Position::parse(text).map(|position| Self::One(position.0)),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::All => "all".into(),
            Self::Last => "last".into(),
            Self::One(position) => position.to_string(),
        }
    }
}

impl HeadsAt {
    /// The aligned pairs of a case that the parameter selects; an error if there are none, because nothing would be patched.
    fn pairs(self, case: &PatchingCase) -> Result<Vec<(usize, usize)>> {
        let Alignment { pairs, first } = &case.alignment;
        let differ = pairs.get(*first..).unwrap_or_default();
        let (clean, corrupt) = (case.clean.tokens.len(), case.corrupt.tokens.len());
        let last = differ
            .last()
            .filter(|pair| **pair == (clean - 1, corrupt - 1));
        let found = match self {
            Self::All => differ.to_vec(),
            Self::Last => last.copied().into_iter().collect(),
            Self::One(position) => {
                let at = Position(position).named("positions", clean)?;
                let at = differ.iter().find(|pair| pair.0 == at);
                at.copied().into_iter().collect()
            }
        };
        match (found.is_empty(), differ.first()) {
            (false, _) => Ok(found),
            (true, Some((from, _))) => {
                let expected = format!(
                    "a position of the clean prompt that is paired with one of the corrupted prompt and does not come before the first difference: from {from} to {}",
                    clean - 1
                );
                Err(Error::argument("positions", self.print(), expected))
            }
            (true, None) => Err(nothing_in_common()),
        }
    }
}

/// The aligned pairs of positions at which heads are patched, for every case; an error if a case has none.
pub fn heads_pairs(
    params: &PatchingParams,
    cases: &[PatchingCase],
) -> Result<Vec<Vec<(usize, usize)>>> {
    let found = |(i, case)| {
        let pairs = params.positions.pairs(case);
        pairs.map_err(|error| match &params.pairs {
            None => error,
            Some(file) => pair_error(file, i, &error),
        })
    };
    cases.iter().enumerate().map(found).collect()
}

/// The expectation to state for prompts that have no token in common after they diverge.
fn nothing_in_common() -> Error {
    Error::argument(
        "corrupt",
        "a prompt that goes on where the other one ends",
        "prompts that have tokens in common after the first difference",
    )
}
