//! The read-out: statistics of the vocabulary for rows of states, in one pass over the unembedding.
//!
//! A strip of tokens at a time is multiplied with all rows, and what is asked of the logits is taken of them while they are in
//! the cache: strongest tokens, log-sum-exp, entropy, KL divergence and largest difference from another row, ranks of chosen
//! tokens. They are laid out only where somebody asks for them. Logits that are there already are read by the same code.
//!
//! Invariant: strips have [`STRIP`] tokens, and their sums are merged in the order of the strips, in f64, so a row has the same
//! statistics, to the bit, whatever rows stand beside it and however many threads there are. A row with a logit that is NaN or
//! plus infinity names no token, and all its numbers are not-a-number; minus infinity bans a token.
//! To take something else of a row, add it to [`RowQuestion`] and [`RowSums`], and its sum to `strip`.
//!
//! Source: the running maximum and sum of Milakov & Gimelshein 2018 (1805.02867), with more sums beside.
#![allow(unsafe_code)] // Columns that threads write side by side.

mod request;
mod strip;

use std::ops::Range;

pub use request::{LogitScale, Matrix, OtherRow, RowQuestion, RowSums, STRIP, Unembedding};
use strip::{LEAST, RowFindings, RunningSums, StripSums, StripTask, padded};

use super::activations::Activations;
use super::machine::Processor;
use super::packed::GROUP;
use super::threads::{self, OutputColumns};
use super::{blocks, dense};

/// The tokens that a strip has.
fn tokens(strip: usize, vocab: usize) -> Range<usize> {
    strip * STRIP..vocab.min((strip + 1) * STRIP)
}

/// Rows as the products take them.
enum Prepared<'a> {
    Plain(&'a [f32]),
    Packed(Activations),
}

/// Rows that are being read: strip after strip, so that somebody may look on and stop it.
pub struct Reading<'a> {
    on: Processor,
    unembedding: Unembedding<'a>,
    x: Prepared<'a>,
    rows: usize,
    questions: &'a [RowQuestion<'a>],
    /// Logits of the tokens of interest, by question.
    marks: Vec<Vec<(u32, f32)>>,
    found: Vec<RowFindings>,
    sums: Vec<RunningSums>,
}

/// Rows of logits that are laid out.
#[derive(Default)]
pub struct LaidOut<'a> {
    /// So many of the first rows, `[rows, vocab]`, with the bias and before multiplier and soft-cap.
    pub raw: &'a mut [f32],
    /// The rows in `which`, `[which, vocab]`, as they are.
    pub whole: &'a mut [f32],
    pub which: &'a [usize],
}

/// What one thread needs for its strips and finds in them.
struct StripWorker {
    /// `[rows, STRIP]`.
    logits: Vec<f32>,
    found: Vec<RowFindings>,
    /// By strip, and by question.
    sums: Vec<(usize, Vec<StripSums>)>,
}

impl<'a> Reading<'a> {
    /// Rows `x` `[rows, input]` as the unembedding takes them.
    pub fn new(unembedding: Unembedding<'a>, x: &'a [f32], questions: &'a [RowQuestion]) -> Self {
        Self::new_on(Processor::best(), unembedding, x, questions)
    }

    /// The same with chosen instructions, for tests and measurements.
    pub fn new_on(
        on: Processor,
        unembedding: Unembedding<'a>,
        x: &'a [f32],
        questions: &'a [RowQuestion],
    ) -> Self {
        let input = unembedding.matrix.input();
        let rows = x.len() / input;
        debug_assert_eq!(x.len(), rows * input);
        let prepared = match unembedding.matrix {
            Matrix::Plain(..) => Prepared::Plain(x),
            Matrix::Packed(_) => {
                Prepared::Packed(Activations::new(x, rows, input / 32, on.tiles()))
            }
        };
        let mut reading = Self {
            on,
            unembedding,
            x: prepared,
            rows,
            questions,
            marks: Vec::new(),
            found: questions.iter().map(RowFindings::of).collect(),
            sums: vec![RunningSums::NOTHING; questions.len()],
        };
        reading.marks = reading.marks();
        reading
    }

    /// How many strips there are.
    pub fn strips(&self) -> usize {
        self.unembedding.matrix.out().div_ceil(STRIP)
    }

    /// Logits of the tokens of interest: those of all tokens that are interleaved with them, so that the bits are those of
    /// the strips.
    fn marks(&self) -> Vec<Vec<(u32, f32)>> {
        let vocab = self.unembedding.matrix.out();
        let inside = |id: &&u32| (**id as usize) < vocab;
        let asked = self.questions.iter().flat_map(|q| q.tokens);
        let mut groups: Vec<usize> = asked
            .filter(inside)
            .map(|id| *id as usize / GROUP)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        let cost = groups.len() * GROUP * self.rows * self.unembedding.matrix.input();
        let logits = threads::map(groups.len(), cost, |i| {
            let mut logits = vec![0.0; self.rows * GROUP];
            let start = groups[i] * GROUP;
            self.products(start..vocab.min(start + GROUP), &mut logits, GROUP);
            self.finish(start, &mut logits, GROUP);
            logits
        });
        let marks = self.questions.iter().map(|question| {
            let one = |id: &u32| {
                let (group, at) = (*id as usize / GROUP, *id as usize % GROUP);
                let group = groups.binary_search(&group).unwrap_or(0);
                (*id, logits[group][question.row * GROUP + at])
            };
            question.tokens.iter().filter(inside).map(one).collect()
        });
        marks.collect()
    }

    /// Products of all rows with some tokens, in rows of `width`, padded with nothing.
    fn products(&self, range: Range<usize>, logits: &mut [f32], width: usize) {
        for row in logits.chunks_exact_mut(width) {
            row[range.len()..].fill(0.0);
        }
        let y = OutputColumns::new(logits, self.rows, width);
        match (&self.x, self.unembedding.matrix) {
            (Prepared::Plain(x), Matrix::Plain(weights, input)) => {
                dense::strip(self.on, weights, input, range.clone(), x, &y);
            }
            (Prepared::Packed(x), Matrix::Packed(packed)) => {
                blocks::alone(self.on, packed, range.clone(), x, &y);
            }
            // `new_on` prepares what the matrix takes.
            (Prepared::Plain(_), Matrix::Packed(_)) | (Prepared::Packed(_), Matrix::Plain(..)) => {}
        }
        if let Some(bias) = self.unembedding.scale.bias {
            for row in logits.chunks_exact_mut(width) {
                for (z, bias) in row.iter_mut().zip(&bias[range.clone()]) {
                    *z += bias;
                }
            }
        }
    }

    /// Makes logits of products.
    #[allow(clippy::float_cmp)] // the default is exactly one
    fn finish(&self, start: usize, logits: &mut [f32], width: usize) {
        let scale = &self.unembedding.scale;
        if scale.scale != 1.0 || scale.cap.is_some() {
            strip::scaled_on(self.on, logits, scale);
        }
        let count = self
            .unembedding
            .matrix
            .out()
            .saturating_sub(start)
            .min(width);
        for row in logits.chunks_exact_mut(width) {
            row[count..].fill(LEAST);
        }
    }

    /// Reads some strips, those that follow on the ones before.
    pub fn take(&mut self, strips: Range<usize>, lay: &mut LaidOut) {
        let (vocab, input) = (
            self.unembedding.matrix.out(),
            self.unembedding.matrix.input(),
        );
        let raw_rows = lay.raw.len() / vocab;
        let raw = OutputColumns::new(lay.raw, raw_rows, vocab);
        let whole = OutputColumns::new(lay.whole, lay.which.len(), vocab);
        let which = lay.which;
        let begin = || StripWorker {
            logits: vec![0.0; self.rows * STRIP],
            found: self.questions.iter().map(RowFindings::of).collect(),
            sums: Vec::new(),
        };
        let first = strips.start;
        let cost = self.rows * strips.len() * STRIP * input;
        let workers = threads::pull(strips.len(), cost, begin, |worker, i| {
            let range = tokens(first + i, vocab);
            let logits = &mut worker.logits;
            self.products(range.clone(), logits, STRIP);
            for (row, logits) in logits.chunks_exact(STRIP).enumerate().take(raw_rows) {
                // SAFETY: every strip has columns of its own.
                unsafe { raw.put(row, range.start, &logits[..range.len()]) }
            }
            self.finish(range.start, logits, STRIP);
            for (to, row) in which.iter().enumerate() {
                // SAFETY: as above.
                unsafe { whole.put(to, range.start, &logits[row * STRIP..][..range.len()]) }
            }
            let length = range.len().next_multiple_of(16);
            let row = |row: usize| &logits[row * STRIP..][..length];
            let mut end = [LEAST; STRIP];
            let mut sums = Vec::with_capacity(self.questions.len());
            for ((question, marks), found) in self
                .questions
                .iter()
                .zip(&self.marks)
                .zip(&mut worker.found)
            {
                let other = match question.against {
                    None => None,
                    Some(OtherRow::Row(at)) => Some(row(at)),
                    Some(OtherRow::Logits(all)) => Some(padded(all, &range, &mut end)),
                };
                let task = StripTask {
                    logits: row(question.row),
                    other,
                    count: range.len(),
                    start: range.start,
                    known: self.unembedding.known,
                    question,
                    marks,
                };
                sums.push(strip::take_on(self.on, &task, found));
            }
            worker.sums.push((i, sums));
        });
        let mut all: Vec<(usize, Vec<StripSums>)> = Vec::with_capacity(strips.len());
        for worker in workers {
            for ((found, own), question) in
                self.found.iter_mut().zip(&worker.found).zip(self.questions)
            {
                found.join(own, question.top);
            }
            all.extend(worker.sums);
        }
        all.sort_unstable_by_key(|(strip, _)| *strip);
        for (_, strip) in &all {
            for (sums, strip) in self.sums.iter_mut().zip(strip) {
                sums.add(strip);
            }
        }
    }

    /// What the rows say, in the order of the questions.
    pub fn into_sums(self) -> Vec<RowSums> {
        let each = self.found.into_iter().zip(self.sums).zip(self.questions);
        each.zip(&self.marks)
            .map(|(((found, sums), question), marks)| found.finish(question, &sums.0, marks))
            .collect()
    }
}

/// Reads rows of logits that are there already, each of one length; a question about another row means one of these.
pub fn read_rows(rows: &[&[f32]], known: usize, questions: &[RowQuestion]) -> Vec<RowSums> {
    read_rows_on(Processor::best(), rows, known, questions)
}

/// The same with chosen instructions, for tests and measurements.
pub fn read_rows_on(
    on: Processor,
    rows: &[&[f32]],
    known: usize,
    questions: &[RowQuestion],
) -> Vec<RowSums> {
    let numbers: usize = questions.iter().map(|q| rows[q.row].len()).sum();
    // Waking a second thread costs as much as a vocabulary of exponentials.
    threads::map(questions.len(), numbers, |i| {
        let question = &questions[i];
        let row = rows[question.row];
        let mark = |id: &u32| row.get(*id as usize).map(|z| (*id, *z));
        let marks: Vec<(u32, f32)> = question.tokens.iter().filter_map(mark).collect();
        let other = question.against.map(|against| match against {
            OtherRow::Row(at) => rows[at],
            OtherRow::Logits(other) => other,
        });
        let (mut found, mut sums) = (RowFindings::of(question), RunningSums::NOTHING);
        let mut ends = [[LEAST; STRIP]; 2];
        for number in 0..row.len().div_ceil(STRIP) {
            let range = tokens(number, row.len());
            let [end, their_end] = &mut ends;
            let task = StripTask {
                logits: padded(row, &range, end),
                other: other.map(|other| padded(other, &range, their_end)),
                count: range.len(),
                start: range.start,
                known,
                question,
                marks: &marks,
            };
            let taken = strip::take_on(on, &task, &mut found);
            sums.add(&taken);
        }
        found.finish(question, &sums.0, &marks)
    })
}

/// Soft-caps logits that are laid out, to the bits that strips have.
pub fn soft_cap(logits: &mut [f32], cap: f32) {
    let scale = LogitScale {
        bias: None,
        scale: 1.0,
        cap: Some(cap),
    };
    let whole = logits.len() / 16 * 16;
    let (vectors, rest) = logits.split_at_mut(whole);
    strip::scaled_on(Processor::best(), vectors, &scale);
    let mut last = [0.0; 16];
    last[..rest.len()].copy_from_slice(rest);
    strip::scaled_on(Processor::best(), &mut last, &scale);
    rest.copy_from_slice(&last[..rest.len()]);
}

/// In each row of logits, how many are larger than that of a token of it.
pub fn ranks(rows: &[&[f32]], token: u32) -> Vec<u32> {
    let numbers = rows.iter().map(|row| row.len()).sum();
    threads::map(rows.len(), numbers, |i| {
        let own = rows[i].get(token as usize).copied().unwrap_or(f32::NAN);
        // Without branches, so that the compiler uses vectors.
        rows[i].iter().map(|z| u32::from(*z > own)).sum()
    })
}

#[cfg(test)]
mod tests;
