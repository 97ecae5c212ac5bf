//! The triggers of a neuron: its activations over a text of any length, and the strongest with their contexts.
//!
//! The key side of the memories of Geva et al. 2021 (2012.14913, section 3): the prefixes with the largest activation.
//! Invariant: a text is read in windows, and the first position of a window is never counted, because its activations are
//! unlike any other's; every token of the text is counted once, except for the very first if the model has no BOS. A token's
//! context is the part of the window before it. To keep something else of every position, add a field to [`ContextScan`].

use std::io::Read;
use std::path::Path;

use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::site::Site;
use candle_core::DType;

/// How many bytes of a file are tokenized at once.
const PIECE: usize = 1 << 14;

/// A token of the text at which the neuron is strongly active.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// The neuron's activation there.
    pub act: f32,
    /// The index of the token in the text, from 0.
    pub at: usize,
    /// The tokens up to and including the trigger, as far back as its window.
    pub context: Vec<u32>,
    /// The token that follows in the text.
    pub next: Option<u32>,
}

/// The neuron to scan for, and how the text is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scanner {
    /// The neuron's block.
    pub layer: usize,
    /// Its index in the MLP.
    pub neuron: u32,
    /// Tokens read in one pass.
    pub window: usize,
    /// How many of the strongest triggers are kept.
    pub count: usize,
    /// Whether the most negative activations count as the strongest.
    pub negative: bool,
}

/// The results of a scan.
#[derive(Clone, Debug, Default)]
pub struct ContextScan {
    /// The strongest triggers, strongest first; ties in the order of the text.
    pub best: Vec<Trigger>,
    /// All activations counted, in the order of the text.
    pub acts: Vec<f32>,
    /// The number of tokens of the text.
    pub tokens: usize,
}

impl ContextScan {
    /// Scans a UTF-8 text file under a schedule, reporting progress by bytes.
    pub fn file(lab: &mut Lab, path: &Path, schedule: &Schedule, scanner: Scanner) -> Result<Self> {
        let fail = |e| Error::io(path, e);
        let mut file = crate::file::open(path)?;
        let size = file.metadata().map_err(fail)?.len().max(1);
        let bos = lab
            .model
            .tokenizer()?
            .encode("", crate::model::tokenizer::Bos::Add)?;
        let bos = bos.first().copied();
        let mut scan = Self::default();
        let mut rest: Vec<u8> = Vec::new();
        // Tokens that are not read yet: less than a window, and one more that is the token after it.
        let mut waiting: Vec<u32> = Vec::new();
        let mut read = 0u64;
        loop {
            let before = rest.len();
            (&mut file)
                .take(PIECE as u64)
                .read_to_end(&mut rest)
                .map_err(fail)?;
            let came = rest.len() - before;
            if read == 0 {
                crate::text::refuse_wide(path, &rest)?;
                if rest.starts_with("\u{feff}".as_bytes()) {
                    rest.drain(.."\u{feff}".len());
                }
            }
            read += came as u64;
            let last = came == 0;
            let cut = if last {
                rest.len()
            } else {
                cut_position(&rest)
            };
            let piece: Vec<u8> = rest.drain(..cut).collect();
            let text = String::from_utf8(piece).map_err(|_| {
                Error::bad_file(path, "it is not UTF-8 text", "Give a plain text file.")
            })?;
            if !text.is_empty() {
                waiting.extend(lab.model.tokenizer()?.encode_literal(&text)?);
            }
            scan.read_windows(lab, &mut waiting, bos, last, schedule, scanner)?;
            if last {
                return Ok(scan);
            }
            lab.report(read as f32 / size as f32)?;
        }
    }

    /// Scans token ids, as [`ContextScan::file`] does; `bos` is put before every window.
    pub fn tokens(
        lab: &mut Lab,
        tokens: &[u32],
        bos: Option<u32>,
        schedule: &Schedule,
        scanner: Scanner,
    ) -> Result<Self> {
        let mut scan = Self::default();
        let mut waiting = tokens.to_vec();
        scan.read_windows(lab, &mut waiting, bos, true, schedule, scanner)?;
        Ok(scan)
    }

    /// Reads all complete windows of the waiting tokens, and at the end of the text the rest.
    fn read_windows(
        &mut self,
        lab: &mut Lab,
        waiting: &mut Vec<u32>,
        bos: Option<u32>,
        last: bool,
        schedule: &Schedule,
        scanner: Scanner,
    ) -> Result<()> {
        let window = scanner.window.min(lab.model.card.context).max(2);
        // Without a BOS the first token of a window is not counted. So consecutive windows share one token, which is counted as
        // the last token of the earlier window.
        let (room, shared) = if bos.is_some() {
            (window - 1, 0)
        } else {
            (window, 1)
        };
        let mut start = 0;
        loop {
            let left = waiting.len() - start;
            let whole = left > room;
            let enough = if last { left > shared } else { whole };
            if !enough {
                break;
            }
            let own = &waiting[start..start + left.min(room)];
            let tokens: Vec<u32> = bos.into_iter().chain(own.iter().copied()).collect();
            let next = waiting.get(start + own.len()).copied();
            // The index in the text of the first token that the window counts.
            let first = self.tokens;
            self.window(lab, &tokens, next, first, bos.is_some(), schedule, scanner)?;
            let step = if whole { own.len() - shared } else { own.len() };
            self.tokens += step;
            start += step;
        }
        waiting.drain(..start);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // the parts of one window
    fn window(
        &mut self,
        lab: &mut Lab,
        tokens: &[u32],
        next: Option<u32>,
        first: usize,
        bos: bool,
        schedule: &Schedule,
        scanner: Scanner,
    ) -> Result<()> {
        let run = Run::plain(tokens.to_vec()).under(schedule);
        let at = Site::MlpAct.at(scanner.layer);
        lab.model.check_prompt(tokens)?;
        // Run without caching the capture: a long text would push everything else out of the lab.
        let recording = lab.run_one(&Pass {
            record: vec![at],
            ..Pass::of(run)
        })?;
        let acts = recording
            .get(at)?
            .narrow(1, scanner.neuron as usize, 1)?
            .squeeze(1)?
            .to_dtype(DType::F32)?
            .host_vec1::<f32>()?;
        for (i, act) in acts.iter().enumerate().skip(1) {
            self.acts.push(*act);
            let strength = |act: f32| if scanner.negative { -act } else { act };
            let weakest = self.best.last().map(|b| strength(b.act));
            let full = self.best.len() >= scanner.count;
            if full && weakest.is_some_and(|w| strength(*act) <= w) {
                continue;
            }
            let trigger = Trigger {
                act: *act,
                at: first + i - usize::from(bos),
                context: tokens[usize::from(bos)..=i].to_vec(),
                next: tokens.get(i + 1).copied().or(next),
            };
            let place = self
                .best
                .partition_point(|b| strength(b.act) >= strength(*act));
            self.best.insert(place, trigger);
            self.best.truncate(scanner.count);
        }
        Ok(())
    }

    /// The activations at these shares of the sorted list, 0 the smallest and 1 the largest; empty if nothing was read.
    pub fn quantiles(&self, shares: &[f32]) -> Vec<f32> {
        let mut sorted = self.acts.clone();
        sorted.sort_by(f32::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return Vec::new();
        };
        let at = |share: &f32| sorted[(share.clamp(0.0, 1.0) * last as f32).round() as usize];
        shares.iter().map(at).collect()
    }

    /// How many activations fall into each of `bins` equal intervals between the smallest and the largest.
    pub fn histogram(&self, bins: usize) -> Vec<usize> {
        let ends = self.quantiles(&[0.0, 1.0]);
        let mut out = vec![0; bins];
        if let [low, high] = ends[..] {
            let wide = (high - low).max(f32::MIN_POSITIVE);
            for act in &self.acts {
                let bin = ((act - low) / wide * bins as f32) as usize;
                out[bin.min(bins - 1)] += 1;
            }
        }
        out
    }
}

/// Where to cut a piece of a file: after the last line, else before the last word, else after the last complete character.
fn cut_position(bytes: &[u8]) -> usize {
    let after = |wanted: u8| bytes.iter().rposition(|b| *b == wanted).map(|i| i + 1);
    if let Some(end) = after(b'\n') {
        return end;
    }
    // Before the space, because tokens begin with their space.
    if let Some(end) = after(b' ').filter(|end| *end > 1) {
        return end - 1;
    }
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(e) => e.valid_up_to(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_between_lines_words_or_characters() {
        assert_eq!(cut_position(b"one\ntwo th"), 4);
        assert_eq!(cut_position(b"one two"), 3);
        assert_eq!(cut_position("ä".as_bytes()), 2);
        assert_eq!(cut_position(&"aä".as_bytes()[..2]), 1);
    }

    #[test]
    fn quantiles_and_bins_count_what_there_is() {
        let scan = ContextScan {
            acts: vec![4.0, 0.0, 1.0, 2.0, 3.0],
            ..ContextScan::default()
        };
        let found = scan.quantiles(&[0.0, 0.5, 1.0]);
        assert!(
            found
                .iter()
                .zip([0.0, 2.0, 4.0])
                .all(|(a, b)| (a - b).abs() < 1e-6)
        );
        assert_eq!(scan.histogram(2), [2, 3]);
        assert!(ContextScan::default().quantiles(&[0.5]).is_empty());
        assert_eq!(ContextScan::default().histogram(2), [0, 0]);
    }
}
