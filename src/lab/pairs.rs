//! Clean and corrupted runs: where pairs come from, the alignment of their positions, the metric of the difference, and noise on a
//! subject instead of another prompt (causal tracing: Meng et al. 2022, 2202.05262; activation patching: Zhang and Nanda 2023, 2309.16042).
//!
//! Invariant: only positions that exist in both runs are aligned, in order; a metric is a number computed from the logits after
//! the last token. To add a metric, add a variant of [`Metric`] and its arms in [`Metric::output`] and [`Metric::of`].

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{After, Output};
use crate::lab::gradient::Scalar;
use crate::lab::pass::{Pass, Patch};
use crate::lab::readout::{RowStats, read_rows};
use crate::lab::run::Run;
use crate::lab::sample::log_probs;
use crate::lab::target::LogitTarget;
use crate::model::gaussian::normals;
use crate::model::host::ToHost;
use crate::model::network::site::Site;
use crate::text::last_in;

/// The metric of a run, from the logits after the last token.
#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// The answer's logit minus another token's.
    Difference(LogitTarget),
    /// The answer's probability.
    Probability(u32),
    /// KL(clean ‖ this run) in nats; holds the clean run's logits as whole rows.
    Kl(Arc<Vec<Vec<RowStats>>>),
}

impl Metric {
    /// The output to request of a run for [`Metric::of`].
    pub fn output(&self) -> Output {
        match self {
            Self::Difference(target) => Output::tokens(&target.tokens()),
            Self::Probability(token) => Output::tokens(&[*token]),
            Self::Kl(clean) => Output {
                kl: Some(clean.clone()),
                ..Output::top(1)
            },
        }
    }

    /// The metric, from the statistics of a run.
    pub fn of(&self, stats: &RowStats) -> f32 {
        match self {
            Self::Difference(target) => target.logit(stats),
            Self::Probability(token) => stats.token(*token).logprob.exp(),
            Self::Kl(_) => stats.kl,
        }
    }

    /// The output to request of rows that have these metrics, in their order, for [`Metric::of`] of each.
    pub fn outputs(metrics: &[&Self]) -> Output {
        let mut all = Output::top(1);
        let mut kl = Vec::new();
        for metric in metrics {
            let own = metric.output();
            for token in own.tokens {
                if !all.tokens.contains(&token) {
                    all.tokens.push(token);
                }
            }
            kl.extend(own.kl.iter().flat_map(|rows| rows.iter().cloned()));
        }
        all.kl = (!kl.is_empty()).then(|| Arc::new(kl));
        all
    }

    /// The scalar whose gradient is the metric's, but for a factor: that of a probability is its log-probability's times itself.
    pub fn scalar(&self) -> Scalar {
        match self {
            Self::Difference(target) => Scalar::Logit(*target),
            Self::Probability(token) => Scalar::LogProbability(*token),
            Self::Kl(clean) => {
                let own = clean.first().and_then(|rows| rows.last());
                Scalar::Kl(Arc::new(
                    own.map_or_else(Vec::new, |row| log_probs(&row.logits)),
                ))
            }
        }
    }

    /// That factor, where the scalar is `scalar`.
    pub fn factor(&self, scalar: f32) -> f32 {
        match self {
            Self::Difference(_) | Self::Kl(_) => 1.0,
            Self::Probability(_) => scalar.exp(),
        }
    }

    /// What it is, with its tokens.
    pub fn in_words(&self, lab: &Lab) -> String {
        match self {
            Self::Difference(target) => format!("logit difference {}", target.spell(lab)),
            Self::Probability(token) => format!("probability of {}", lab.visible(*token)),
            Self::Kl(_) => "KL divergence from the clean run, nats".into(),
        }
    }

    /// The metric, from whole logits; the first `known` tokens count.
    pub fn of_logits(&self, logits: &[f32], known: usize) -> f32 {
        let output = self.output();
        let stats = read_rows(&[logits], known, &output.ask(0, 0));
        self.of(&stats[0])
    }
}

/// The answer's logit minus that of the other run's top prediction or, if that is the answer too, of its second.
pub fn strongest_other(answer: u32, other: &RowStats) -> LogitTarget {
    let mut less = other.top.iter().take(2).map(|(id, _)| *id);
    LogitTarget {
        token: answer,
        minus: less.find(|id| *id != answer),
    }
}

/// The alignment: pairs of positions (in the clean run, in the corrupted one), in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alignment {
    pub pairs: Vec<(usize, usize)>,
    /// The index of the first pair at which the runs differ.
    pub first: usize,
}

/// Aligns the positions of two texts. Texts of different lengths are refused unless `ends` is set: then their common beginnings
/// and ends are aligned, and the positions between from the end backwards.
///
/// # Errors
///
/// When the texts are the same, or their lengths differ and `ends` is not set.
pub fn align(lab: &Lab, clean: &[u32], corrupt: &[u32], ends: bool) -> Result<Alignment> {
    let alike = |(a, b): &(&u32, &u32)| a == b;
    let begin = clean.iter().zip(corrupt).take_while(alike).count();
    let spell = |ids: &[u32]| {
        ids.get(begin)
            .map_or("its end".into(), |id| lab.visible(*id))
    };
    if begin == clean.len() && begin == corrupt.len() {
        return Err(Error::argument(
            "corrupt",
            "the same tokens",
            "a prompt that differs from the clean one",
        ));
    }
    if clean.len() != corrupt.len() && !ends {
        return Err(Error::argument(
            "corrupt",
            format!("{} tokens", corrupt.len()),
            format!(
                "as many tokens as the clean prompt, {} (they differ from position {begin} on: {} against {}). Choose words with equally many tokens (`patching` and `attribution` can also take align=ends)",
                clean.len(),
                spell(clean),
                spell(corrupt)
            ),
        ));
    }
    let shorter = clean.len().min(corrupt.len());
    let tail = clean.iter().rev().zip(corrupt.iter().rev());
    let end = tail.take_while(alike).count().min(shorter - begin);
    // The last token of the differing part carries its meaning, so the part is aligned from its end.
    let middle = shorter - begin - end;
    let late = (0..middle + end).rev();
    let late = late.map(|i| (clean.len() - 1 - i, corrupt.len() - 1 - i));
    Ok(Alignment {
        pairs: (0..begin).map(|i| (i, i)).chain(late).collect(),
        first: begin,
    })
}

/// The tokens that contain a text's last occurrence.
///
/// # Errors
///
/// When the text does not occur.
pub fn span_of(lab: &Lab, tokens: &[u32], name: &str, text: &str) -> Result<Range<usize>> {
    let pieces = lab.model.pieces(tokens);
    let whole = pieces.concat();
    let needle = text.as_bytes();
    let missing = || {
        let expected = "a text that occurs in the prompt, letter for letter";
        Error::argument(name, text, expected)
    };
    let start = last_in(&whole, needle).ok_or_else(missing)?;
    let end = start + needle.len();
    let mut seen = 0;
    let mut found = Vec::new();
    for (position, piece) in pieces.iter().enumerate() {
        let own = seen..seen + piece.len();
        if own.start < end && own.end > start {
            found.push(position);
        }
        seen = own.end;
    }
    match (found.first(), found.last()) {
        (Some(first), Some(last)) => Ok(*first..last + 1),
        _ => Err(missing()),
    }
}

/// The standard deviation of the entries of some tokens' embeddings, scaled as they enter the stream: for the noise of causal
/// tracing those of the subjects (Meng et al. 2022, 2202.05262; their code takes all subjects of its data together).
///
/// # Errors
///
/// When a tensor operation fails.
pub fn embedding_spread(lab: &Lab, tokens: &[u32]) -> Result<f64> {
    let transformer = &lab.model.transformer;
    let rows = transformer.embed_tokens(&Tensor::new(tokens, &transformer.device)?)?;
    let rows = rows
        .to_dtype(DType::F32)?
        .flatten_all()?
        .host_vec1::<f32>()?;
    let count = rows.len() as f64;
    let mean = rows.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let square: f64 = rows.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum();
    Ok((square / (count - 1.0).max(1.0)).sqrt())
}

/// Patches that add Gaussian noise to the stream that enters block 0, at some positions of a run.
///
/// # Errors
///
/// When the run does not fit into the context, or the work is stopped.
pub fn noised(
    lab: &mut Lab,
    run: &Run,
    positions: Range<usize>,
    sigma: f64,
    seed: u64,
) -> Result<Vec<Patch>> {
    let at = Site::Embed.at(0);
    let recording = lab.record(run, &[at])?;
    let embedded = recording.get(at)?;
    let width = lab.model.card.d_model;
    let mut rng = StdRng::seed_from_u64(seed);
    let slot = |position: usize| {
        let row = embedded.narrow(0, position, 1)?.flatten_all()?;
        let mut numbers = row.to_dtype(DType::F32)?.host_vec1::<f32>()?;
        for (number, noise) in numbers.iter_mut().zip(normals(&mut rng, width)) {
            *number += (f64::from(noise) * sigma) as f32;
        }
        let value = Tensor::new(numbers.as_slice(), row.device())?;
        Ok(Patch::new(at, position, value.to_dtype(row.dtype())?))
    };
    positions.map(slot).collect()
}

/// A pair of prompts with their answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptPair {
    /// The clean prompt, whose answer is measured.
    pub clean: String,
    /// The corrupted prompt.
    pub corrupt: String,
    /// The answer of the clean prompt; by default its top prediction.
    pub answer: Option<String>,
    /// The answer of the corrupted prompt; by default its top prediction.
    pub other: Option<String>,
}

/// Reads a JSON list of pairs of prompts.
///
/// # Errors
///
/// When the file cannot be read or holds no pair.
pub fn read(path: &Path) -> Result<Vec<PromptPair>> {
    let text = crate::file::words(path)?;
    let fail = |why: String| {
        Error::bad_file(
            path,
            why,
            "Write a JSON list of {\"clean\": \"...\", \"corrupt\": \"...\", \"answer\": \" ...\", \"other\": \" ...\"}.",
        )
    };
    let all: Vec<PromptPair> = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
    if all.is_empty() {
        return Err(fail("it holds no pairs of prompts".into()));
    }
    for (i, pair) in all.iter().enumerate() {
        if pair.clean.is_empty() || pair.corrupt.is_empty() {
            return Err(fail(format!("pair {} has an empty prompt", i + 1)));
        }
    }
    Ok(all)
}

/// Which metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Difference,
    Probability,
    Kl,
}

impl MetricKind {
    /// The metric of a pair of runs with these answers, if they are given: by default the clean run's top prediction, and of a difference
    /// the corrupted run's.
    ///
    /// # Errors
    ///
    /// When a text has no token.
    pub fn metric(
        self,
        lab: &Lab,
        (answer, other): (Option<&str>, Option<&str>),
        clean: &RowStats,
        corrupt: &RowStats,
    ) -> Result<Metric> {
        let given = match answer {
            Some(text) => LogitTarget::parse("answer", text, &lab.model)?,
            None => LogitTarget::one(clean.first().0),
        };
        Ok(match self {
            Self::Kl => Metric::Kl(Arc::new(vec![vec![clean.clone()]])),
            Self::Probability => Metric::Probability(given.token),
            Self::Difference => {
                let other = other.map(|text| {
                    let found = LogitTarget::parse("other", text, &lab.model)?;
                    Ok::<_, Error>(Some(found.token))
                });
                let minus = other.transpose()?.flatten().or(given.minus);
                Metric::Difference(match minus {
                    Some(minus) => LogitTarget {
                        minus: Some(minus),
                        ..given
                    },
                    None => strongest_other(given.token, corrupt),
                })
            }
        })
    }
}

/// Refuses runs that have the same metric.
///
/// # Errors
///
/// Says so.
pub fn ensure_metric_separates(base: f32, source: f32) -> Result<()> {
    if (base - source).abs() > 1e-6 * base.abs().max(source.abs()).max(1e-3) {
        return Ok(());
    }
    Err(Error::argument(
        "metric",
        format!("{base} on both runs"),
        "a metric that differs between the clean and the corrupted run; choose another answer, metric or prompt",
    ))
}

/// A clean and a corrupted run, and what is measured of their difference.
#[derive(Clone, Debug)]
pub struct PairedRuns {
    /// The clean run, whose answer is measured.
    pub clean: Run,
    pub corrupt: Run,
    /// Which positions of the two correspond.
    pub alignment: Alignment,
    /// The answer, if one was given.
    pub answer: Option<String>,
    /// The other answer of a logit difference, if one was given.
    pub other: Option<String>,
}

/// Where pairs come from: a run and a corrupted prompt, or a file.
#[derive(Clone, Copy, Debug)]
pub struct PairSource<'a> {
    pub corrupt: Option<&'a str>,
    /// A file of pairs, see [`read`].
    pub pairs: Option<&'a Path>,
    /// The answer of pairs that have none.
    pub answer: Option<&'a str>,
    /// Whether every text is one user turn of the chat template; the run's own was encoded before.
    pub chat: bool,
    /// Whether texts of unequal length are aligned at both ends.
    pub ends: bool,
}

impl PairSource<'_> {
    /// The pairs, all of them checked before anything is measured.
    ///
    /// # Errors
    ///
    /// When there is neither a corrupted prompt nor a file, or a text does not fit.
    pub fn runs(&self, run: &Run, lab: &Lab) -> Result<Vec<PairedRuns>> {
        match (self.pairs, self.corrupt) {
            (Some(file), None) if run.tokens.is_empty() => self.of_file(file, run, lab),
            (Some(file), None) => {
                let expected = "either a prompt or a file of pairs, not both";
                Err(Error::argument("pairs", file.display(), expected))
            }
            (Some(_), Some(given)) => {
                let expected = "nothing when a file of pairs is given; the file has the prompts";
                Err(Error::argument("corrupt", given, expected))
            }
            (None, Some(corrupt)) => Ok(vec![self.of_prompt(corrupt, run, lab)?]),
            (None, None) => Err(Error::argument(
                "corrupt",
                "",
                "a corrupted prompt, as long as the run's own, or a file of pairs",
            )),
        }
    }

    /// The run with a corrupted prompt.
    ///
    /// # Errors
    ///
    /// When the prompts cannot be aligned.
    pub fn of_prompt(&self, corrupt: &str, run: &Run, lab: &Lab) -> Result<PairedRuns> {
        lab.model.check_prompt(&run.tokens)?;
        // The clean prompt was encoded before, with or without the chat template.
        let tokens = lab.model.encode(corrupt, self.chat)?;
        Ok(PairedRuns {
            alignment: align(lab, &run.tokens, &tokens, self.ends)?,
            clean: run.clone(),
            corrupt: Run {
                schedule: run.schedule.clone(),
                seed: run.seed,
                ..Run::plain(tokens)
            },
            answer: self.answer.map(Into::into),
            other: None,
        })
    }

    /// The pairs of a file, under the edits of a run.
    ///
    /// # Errors
    ///
    /// Names the pair that does not fit.
    pub fn of_file(&self, file: &Path, run: &Run, lab: &Lab) -> Result<Vec<PairedRuns>> {
        let pairs = read(file)?;
        if let Some(answer) = self
            .answer
            .filter(|_| pairs.iter().all(|pair| pair.answer.is_some()))
        {
            let expected = "none: every pair of the file has its own";
            return Err(Error::argument("answer", answer, expected));
        }
        let pairs = pairs.into_iter().enumerate();
        let runs = pairs.map(|(i, pair)| {
            let own = self.of_pair(pair, run, lab);
            own.map_err(|error| pair_error(file, i, &error))
        });
        runs.collect()
    }

    fn of_pair(&self, pair: PromptPair, run: &Run, lab: &Lab) -> Result<PairedRuns> {
        let read = |text: &str| -> Result<Run> {
            let tokens = lab.model.encode(text, self.chat)?;
            lab.model.check_prompt(&tokens)?;
            Ok(Run::plain(tokens).under(&run.schedule))
        };
        let (clean, corrupt) = (read(&pair.clean)?, read(&pair.corrupt)?);
        for (name, text) in [("answer", &pair.answer), ("other", &pair.other)] {
            if let Some(text) = text {
                LogitTarget::parse(name, text, &lab.model)?;
            }
        }
        Ok(PairedRuns {
            alignment: align(lab, &clean.tokens, &corrupt.tokens, self.ends)?,
            clean,
            corrupt,
            answer: pair.answer.or_else(|| self.answer.map(Into::into)),
            other: pair.other,
        })
    }
}

/// An error in one pair of a file.
pub fn pair_error(file: &Path, index: usize, error: &Error) -> Error {
    let what = error.to_string();
    let next = format!("Look at pair {} of the file.", index + 1);
    Error::bad_file(file, what.trim_end_matches('.'), next)
}

/// A pair whose two runs were read.
#[derive(Clone, Debug)]
pub struct MeasuredPair {
    pub runs: PairedRuns,
    pub metric: Metric,
    /// The metric of the clean run.
    pub clean: f32,
    /// The metric of the corrupted run.
    pub corrupt: f32,
}

/// Reads both runs of every pair, and fixes each pair's metric.
///
/// # Errors
///
/// When a run cannot be read, or the metric is the same in both.
pub fn measured(
    lab: &mut Lab,
    kind: MetricKind,
    pairs: Vec<PairedRuns>,
) -> Result<Vec<MeasuredPair>> {
    let output = || Output {
        top: 2,
        ..Output::whole(After::Last(1))
    };
    let (known, count) = (lab.model.known_tokens(), pairs.len().max(1) as f32);
    let mut out = Vec::with_capacity(pairs.len());
    for (i, pair) in pairs.into_iter().enumerate() {
        lab.report(i as f32 / count)?;
        let clean = lab.run_one(&Pass::after(pair.clean.clone(), output()))?;
        let corrupt = lab.run_one(&Pass::after(pair.corrupt.clone(), output()))?;
        let answers = (pair.answer.as_deref(), pair.other.as_deref());
        let metric = kind.metric(lab, answers, clean.last(), corrupt.last())?;
        out.push(MeasuredPair {
            clean: metric.of_logits(clean.logits(), known),
            corrupt: metric.of_logits(corrupt.logits(), known),
            runs: pair,
            metric,
        });
    }
    let mean = |of: fn(&MeasuredPair) -> f32| {
        let sum: f64 = out.iter().map(|pair| f64::from(of(pair))).sum();
        (sum / f64::from(count)) as f32
    };
    ensure_metric_separates(mean(|pair| pair.clean), mean(|pair| pair.corrupt))?;
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::model::network::families::FAMILIES;

    fn lab() -> Lab {
        Lab::new(Model::tiny(&FAMILIES[0], 7).unwrap())
    }

    #[test]
    fn equal_lengths_pair_one_by_one_and_others_only_at_their_ends() {
        let lab = lab();
        let pairs =
            |a: &[u32], b: &[u32], ends| align(&lab, a, b, ends).map(|a| (a.pairs, a.first));
        let same: Vec<_> = (0..4).map(|i| (i, i)).collect();
        assert_eq!(
            pairs(&[1, 2, 3, 4], &[1, 5, 3, 4], false).unwrap(),
            (same, 1)
        );
        let error = pairs(&[1, 2, 3, 4], &[1, 5, 6, 3, 4], false)
            .unwrap_err()
            .to_string();
        for part in [
            "5 tokens",
            "4 (they differ from position 1 on",
            "[2] against [5]",
            "align=ends",
        ] {
            assert!(error.contains(part), "{error}");
        }
        // One token against two: the last of the two is aligned with it.
        let (found, first) = pairs(&[1, 2, 3, 4], &[1, 5, 6, 3, 4], true).unwrap();
        assert_eq!((found, first), (vec![(0, 0), (1, 2), (2, 3), (3, 4)], 1));
        // In a repetitive text no token is aligned twice.
        let (found, first) = pairs(&[7, 7], &[7, 7, 7], true).unwrap();
        assert_eq!((found, first), (vec![(0, 0), (1, 1)], 2));
        assert!(
            pairs(&[1, 2], &[1, 2], true)
                .unwrap_err()
                .to_string()
                .contains("same tokens")
        );
        let error = pairs(&[1, 2], &[1], false).unwrap_err().to_string();
        assert!(error.contains("[2] against its end"), "{error}");
    }

    #[test]
    fn metrics_are_what_their_names_say() {
        let logits = [1.0f32, 3.0, 0.5];
        let p: Vec<f32> = {
            let sum: f32 = logits.iter().map(|z| z.exp()).sum();
            logits.iter().map(|z| z.exp() / sum).collect()
        };
        let target = LogitTarget {
            token: 1,
            minus: Some(0),
        };
        let of = |metric: &Metric, logits: &[f32]| metric.of_logits(logits, 3);
        assert!((of(&Metric::Difference(target), &logits) - 2.0).abs() < 1e-6);
        assert!((of(&Metric::Probability(1), &logits) - p[1]).abs() < 1e-6);
        let whole = Output::whole(After::Last(1));
        let clean = read_rows(&[&logits], 3, &whole.ask(0, 0));
        let from_clean = Metric::Kl(Arc::new(vec![clean]));
        assert!(of(&from_clean, &logits).abs() < 1e-6);
        let other = [3.0f32, 1.0, 0.5];
        let expected: f32 = (0..3).map(|i| p[i] * (logits[i] - other[i])).sum();
        assert!((of(&from_clean, &other) - expected).abs() < 1e-5);
        let two = Output::top(2);
        let beside = |answer, logits: &[f32]| {
            super::strongest_other(answer, &read_rows(&[logits], 3, &two.ask(0, 0))[0])
        };
        assert_eq!(
            beside(1, &[0.0, 5.0, 2.0]),
            LogitTarget {
                token: 1,
                minus: Some(2)
            }
        );
        assert_eq!(
            beside(0, &[0.0, 5.0, 2.0]),
            LogitTarget {
                token: 0,
                minus: Some(1)
            }
        );
    }

    #[test]
    fn a_span_holds_every_token_of_the_last_occurrence() {
        let lab = lab();
        let tokens = [4, 12, 3, 12, 3, 9];
        assert_eq!(span_of(&lab, &tokens, "subject", "[12][3]").unwrap(), 3..5);
        assert_eq!(span_of(&lab, &tokens, "subject", "2][").unwrap(), 3..5);
        assert_eq!(span_of(&lab, &tokens, "subject", "[4]").unwrap(), 0..1);
        for missing in ["[5]", "", &"x".repeat(99)] {
            let error = span_of(&lab, &tokens, "subject", missing).unwrap_err();
            assert!(error.to_string().contains("occurs in the prompt"));
        }
    }

    #[test]
    fn noise_has_the_size_asked_for_and_its_seed() {
        let mut lab = lab();
        let run = Run::plain((1..40).collect());
        let at = Site::Embed.at(0);
        let plain = lab.record(&run, &[at]).unwrap();
        let plain = plain.get(at).unwrap().host_vec2::<f32>().unwrap();
        let mut add = |seed| noised(&mut lab, &run, 3..39, 0.7, seed).unwrap();
        let (slots, again, other) = (add(5), add(5), add(6));
        assert_eq!((slots.len(), slots[0].position), (36, 3));
        let noise: Vec<f32> = slots
            .iter()
            .flat_map(|s| {
                let row = s.value.host_vec1::<f32>().unwrap();
                let own = plain[s.position].clone();
                row.into_iter()
                    .zip(own)
                    .map(|(a, b)| a - b)
                    .collect::<Vec<_>>()
            })
            .collect();
        let count = noise.len() as f32;
        let mean = noise.iter().sum::<f32>() / count;
        let spread = (noise.iter().map(|n| n * n).sum::<f32>() / count).sqrt();
        assert!(
            mean.abs() < 0.1 && (spread - 0.7).abs() < 0.07,
            "{mean} {spread}"
        );
        let first = |slots: &[Patch]| slots[0].value.host_vec1::<f32>().unwrap();
        assert_eq!(first(&slots), first(&again));
        assert!(first(&slots) != first(&other));
        assert!(
            first(&slots)
                .iter()
                .zip(&first(&slots[1..]))
                .any(|(a, b)| (a - b).abs() > 0.1)
        );
    }
}
