//! What a knockout cuts, cell by cell, and its measurement as trials.
//!
//! Invariant: positions are read from the prompt once, before anything is cut; a trial and its null lose as many edges, or the
//! trial has no null. To add a way of naming positions, add it to [`positions`].

use serde::{Deserialize, Serialize};

use super::Knock;
use crate::edit::positions::Positions;
use crate::edit::quotes;
use crate::error::{Error, Result};
use crate::figure::{Anchor, Check, Unit};
use crate::instruments::Arguments;
use crate::lab::bench::{Bench, reading};
use crate::lab::pass::{Knockout, Logits, Pass, PassRow, RowCapture};
use crate::lab::run::Run;
use crate::lab::sample::{log_softmax, rank};
use crate::lab::target::first_token;
use crate::model::network::finite;

/// Cells of one slice.
const SLICE: usize = 16;

/// Draws of the null for the strongest cell.
const DRAWS: u64 = 8;

/// A column: what is cut in it.
pub(super) struct Column {
    pub(super) label: String,
    pub(super) anchor: Anchor,
    pub(super) sources: Vec<usize>,
    pub(super) heads: Vec<u32>,
}

/// What is to be measured.
pub(super) struct Plan {
    pub(super) answer: u32,
    pub(super) targets: Vec<usize>,
    pub(super) columns: Vec<Column>,
    pub(super) window: usize,
    pub(super) layers: usize,
}

/// The answer under a cut and under its null.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) logprob: f32,
    pub(super) rank: u32,
    /// None where there are not as many other edges.
    pub(super) null: Option<f32>,
    /// What the row without a cut lies from the run itself.
    pub(super) gap: f32,
}

pub(super) struct Found {
    pub(super) base: f32,
    pub(super) base_rank: u32,
    /// The largest of the run's own logits.
    pub(super) reach: f32,
    pub(super) outcomes: Vec<Option<Outcome>>,
    pub(super) stopped: Option<String>,
    pub(super) null: Option<String>,
}

/// What became of the answer, as the number of a cell.
pub(super) fn change(value: &str, logprob: f32, base: f32) -> f32 {
    match value {
        "relative" => (logprob - base).exp() - 1.0,
        "logprob" => logprob - base,
        _ => logprob.exp() - base.exp(),
    }
}

/// A probability with three significant digits.
pub(super) fn short(p: f32) -> String {
    if p >= 0.1 {
        format!("{p:.3}")
    } else if p >= 0.001 {
        let digits = 2 + (-p.log10()).ceil() as usize;
        format!("{p:.digits$}")
    } else {
        format!("{p:.2e}")
    }
}

/// Pieces between semicolons that stand outside of quotation marks.
pub(super) fn pieces(text: &str) -> Vec<String> {
    let (mut out, mut quoted, mut escaped) = (vec![String::new()], false, false);
    for c in text.chars() {
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        if c == ';' && !quoted {
            out.push(String::new());
        } else if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out.retain(|piece| !piece.trim().is_empty());
    out.iter().map(|piece| piece.trim().to_string()).collect()
}

/// The positions of a rule, counted in the whole text, or of a text as it is written.
fn positions(name: &str, text: &str, run: &Run, bench: &Bench) -> Result<Vec<usize>> {
    // What is no rule is a text, with or without quotation marks.
    let rule = match text.parse::<Positions>() {
        Ok(rule) => rule,
        Err(why) if ["token:", "text:"].iter().any(|w| text.starts_with(w)) => return Err(why),
        Err(_) => Positions::Text(
            quotes::read(text)
                .map_err(|why| Error::argument(name, text, format!("a text: {why}")))?,
        ),
    };
    let spelled: Vec<Vec<u8>> = run.tokens.iter().map(|t| bench.model.bytes(*t)).collect();
    let rule = rule.resolve(&spelled).map_err(|_| {
        let expected = "a position rule (last, 3, 2..5, -2, text:\"...\"), or a text that occurs in the run's text";
        Error::argument(name, text, expected)
    })?;
    // What is asked is what follows the run's last token, so ends are counted from there and not from the prompt's.
    let end = match rule {
        Positions::Prompt | Positions::Generated => run.prompt.min(run.tokens.len()),
        _ => run.tokens.len(),
    };
    let found = (0..run.tokens.len()).filter(|p| rule.covers(*p, end));
    let found: Vec<usize> = found.collect();
    if found.is_empty() {
        let expected = format!("positions of this text, which has {}", run.tokens.len());
        return Err(Error::argument(name, text, expected));
    }
    Ok(found)
}

impl Plan {
    pub(super) fn read(
        of: &Knock,
        run: &Run,
        arguments: &Arguments,
        bench: &mut Bench,
    ) -> Result<Self> {
        let (layers, heads) = (bench.model.card.layers, bench.model.card.heads);
        let answer = match arguments.text(of, "token") {
            "" => {
                let logits = bench.last_logits(run)?;
                reading(&logits, bench.model.known_tokens(), 1).first().0
            }
            text => first_token("token", text, &bench.model)?,
        };
        let targets = positions("targets", arguments.text(of, "targets"), run, bench)?;
        let last = targets.iter().copied().max().unwrap_or(0);
        let groups = groups(arguments.text(of, "sources"), last, run, bench)?;
        if groups.is_empty() {
            let expected = "targets that have something before them to read";
            return Err(Error::argument(
                "targets",
                arguments.text(of, "targets"),
                expected,
            ));
        }
        let by_head = arguments.text(of, "by") == "head";
        let only = match arguments.text(of, "heads") {
            "" => Vec::new(),
            text if by_head => {
                let expected = "nothing with by=head, where every head is a column; by=source cuts only these heads";
                return Err(Error::argument("heads", text, expected));
            }
            text => {
                let read = text.split(',').map(|h| h.trim().parse::<u32>().ok());
                let read: Option<Vec<u32>> = read.collect();
                read.filter(|list| list.iter().all(|h| (*h as usize) < heads))
                    .ok_or_else(|| {
                        let expected = format!("heads from 0 to {}, such as 0,1", heads - 1);
                        Error::argument("heads", text, expected)
                    })?
            }
        };
        let columns = if by_head {
            let mut sources: Vec<usize> = groups.iter().flat_map(|g| g.1.clone()).collect();
            sources.sort_unstable();
            sources.dedup();
            (0..heads as u32)
                .map(|head| Column {
                    label: head.to_string(),
                    anchor: Anchor::default().with(Unit::Head(head)),
                    sources: sources.clone(),
                    heads: vec![head],
                })
                .collect()
        } else {
            groups
                .into_iter()
                .map(|(label, sources)| Column {
                    label,
                    anchor: sources
                        .last()
                        .map_or_else(Anchor::default, |p| Anchor::position(*p)),
                    sources,
                    heads: only.clone(),
                })
                .collect()
        };
        let window = match arguments.count(of, "window")? {
            0 => layers.div_ceil(5),
            some => some.min(layers),
        };
        Ok(Self {
            answer,
            targets,
            columns,
            window,
            layers,
        })
    }

    /// The layers that are cut around one.
    fn around(&self, layer: usize) -> std::ops::Range<usize> {
        let first = layer.saturating_sub((self.window - 1) / 2);
        first..(layer + self.window / 2 + 1).min(self.layers)
    }

    fn cut(&self, i: usize, null: Option<u64>) -> Knockout {
        let column = &self.columns[i / self.layers];
        Knockout {
            layers: self.around(i % self.layers),
            heads: column.heads.clone(),
            sources: column.sources.clone(),
            targets: self.targets.clone(),
            null,
        }
    }

    pub(super) fn measure(
        &self,
        of: &Knock,
        run: &Run,
        arguments: &Arguments,
        bench: &mut Bench,
    ) -> Result<Found> {
        let first = self.targets.iter().copied().min().unwrap_or(0);
        let answer = self.answer as usize;
        let logged = |row: &[f32]| {
            let mut row = row.to_vec();
            log_softmax(&mut row);
            row
        };
        let plain = Pass {
            from: Some(first),
            logits: Logits::Last(1),
            ..Pass::of(run.clone())
        };
        let base = bench.run_one(&plain)?;
        let own = logged(base.last());
        let count = self.columns.len() * self.layers;
        let parameters = arguments.provenance(of);
        let trials = bench.trials(run, parameters, count, SLICE, |bench, range| {
            let size = range.len();
            let real = range.clone().map(|i| self.cut(i, None));
            let null = range.clone().map(|i| self.cut(i, Some(run.seed)));
            let all: Vec<Knockout> = real.chain(null).collect();
            // A row that loses nothing, read as the others are.
            let whole = Knockout {
                sources: Vec::new(),
                ..self.cut(range.start, None)
            };
            let rows = bench.run(&cutting(&plain, all.iter().chain([&whole])))?;
            let gap = Check::of(rows[2 * size].last(), base.last(), 0.0).error;
            let model = &bench.model;
            let outcome = |(k, i): (usize, usize)| {
                let row = logged(rows[k].last());
                let fair = self.cut(i, None).edges(model) == all[size + k].edges(model);
                Outcome {
                    logprob: row[answer],
                    rank: rank(&row, self.answer),
                    null: fair.then(|| logged(rows[size + k].last())[answer]),
                    gap,
                }
            };
            Ok(range.enumerate().map(outcome).collect())
        })?;
        let value = arguments.text(of, "value");
        let size = |logprob: f32| change(value, logprob, own[answer]).abs();
        let strongest = trials
            .results
            .iter()
            .enumerate()
            .filter_map(|(i, o)| o.as_ref().map(|o| (i, o.logprob)))
            // A cut whose numbers are not finite is not the strongest.
            .filter(|(_, logprob)| size(*logprob).is_finite())
            .max_by(|a, b| size(a.1).total_cmp(&size(b.1)));
        let null = match strongest {
            Some((i, logprob)) => Some(self.strongest(bench, &plain, &base, i, logprob)?),
            None => None,
        };
        Ok(Found {
            base: own[answer],
            base_rank: rank(&own, self.answer),
            reach: base.last().iter().fold(1.0, |most, z| most.max(z.abs())),
            stopped: trials.note(),
            outcomes: trials.results,
            null,
        })
    }
}

impl Plan {
    /// The strongest cut in words, beside several draws of its null.
    fn strongest(
        &self,
        bench: &mut Bench,
        plain: &Pass,
        base: &RowCapture,
        i: usize,
        logprob: f32,
    ) -> Result<String> {
        let (answer, run) = (self.answer as usize, &plain.run);
        let probability = |row: &[f32]| {
            let mut row = row.to_vec();
            log_softmax(&mut row);
            row[answer].exp()
        };
        let layers = self.around(i % self.layers);
        let edges = self.cut(i, None).edges(&bench.model);
        let column = &self.columns[i / self.layers];
        let name = match column.anchor.unit {
            Some(Unit::Head(head)) => format!("head {head}"),
            _ => column.label.clone(),
        };
        let said = format!(
            "strongest: `{name}` cut in layers {} to {} ({edges} edges a head), p {} to {}",
            layers.start,
            layers.end - 1,
            short(probability(base.last())),
            short(logprob.exp())
        );
        let draws: Vec<Knockout> = (0..DRAWS)
            .map(|draw| self.cut(i, Some(run.seed.wrapping_add(1000 * draw))))
            .collect();
        let others = draws[0].edges(&bench.model);
        if others < edges {
            return Ok(format!(
                "{said}; it has no fair null: of other edges there are only {others}"
            ));
        }
        let rows = bench.run(&cutting(plain, &draws))?;
        let found: Vec<f32> = rows.iter().map(|r| probability(r.last())).collect();
        if !finite::all(&found) {
            return Ok(format!("{said}; its null is not finite"));
        }
        Ok(format!(
            "{said}; null: as many random other edges there, mean {}, {} to {} in {DRAWS} draws (seed {})",
            short(found.iter().sum::<f32>() / found.len() as f32),
            short(found.iter().copied().fold(1.0, f32::min)),
            short(found.iter().copied().fold(0.0, f32::max)),
            run.seed
        ))
    }
}

/// A run with a row a cut.
fn cutting<'a>(plain: &Pass, cuts: impl IntoIterator<Item = &'a Knockout>) -> Pass {
    let row = |cut: &Knockout| PassRow {
        knockout: Some(cut.clone()),
        ..PassRow::default()
    };
    Pass {
        rows: cuts.into_iter().map(row).collect(),
        ..plain.clone()
    }
}

/// Named groups of positions before `last`; every token by itself where none are given.
fn groups(text: &str, last: usize, run: &Run, bench: &Bench) -> Result<Vec<(String, Vec<usize>)>> {
    let pieces = pieces(text);
    if pieces.is_empty() {
        return Ok((0..last)
            .map(|p| (bench.visible(run.tokens[p]), vec![p]))
            .collect());
    }
    let mut out: Vec<(String, Vec<usize>)> = Vec::new();
    let mut rest = None;
    for piece in &pieces {
        let (name, rule) = match piece.split_once('=') {
            Some((name, rule)) if !name.contains('"') && !rule.trim().is_empty() => {
                (name.trim(), rule.trim())
            }
            _ => (piece.as_str(), piece.as_str()),
        };
        if rule == "rest" {
            rest = Some(out.len());
            out.push((name.to_string(), Vec::new()));
        } else {
            let found = positions("sources", rule, run, bench)?;
            let before: Vec<usize> = found.into_iter().filter(|p| *p < last).collect();
            if before.is_empty() {
                let expected = "positions before the targets: a position always reads itself";
                return Err(Error::argument("sources", rule, expected));
            }
            out.push((name.to_string(), before));
        }
    }
    if let Some(i) = rest {
        let taken: Vec<usize> = out.iter().flat_map(|g| g.1.clone()).collect();
        out[i].1 = (1..last).filter(|p| !taken.contains(p)).collect();
        if out[i].1.is_empty() {
            let expected = "something that the other groups leave";
            return Err(Error::argument("sources", "rest", expected));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_probabilities_keep_their_digits() {
        let said = [0.5, 0.04321, 0.00123, 0.000_012_3].map(short);
        assert_eq!(said, ["0.500", "0.0432", "0.00123", "1.23e-5"]);
    }

    #[test]
    fn groups_are_split_outside_of_quotation_marks() {
        assert_eq!(
            pieces("subject=text:\"a; b\"; rest ;"),
            ["subject=text:\"a; b\"", "rest"]
        );
        assert_eq!(pieces(" ; "), [""; 0]);
    }
}
