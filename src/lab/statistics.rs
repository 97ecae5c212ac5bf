//! Statistics: mean and variance of every coordinate of an address over a neutral text, for mean ablation.
//!
//! Invariant: sums are in f64 (Welford 1962, so that a large mean takes no digits from the variance); the first positions of
//! every piece of text are left out because of attention sinks; the file records model, text and number of tokens, and is
//! refused for other models. To keep another statistic, add it to [`Moments`] and to its two tensors in [`Statistics::bytes`].

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use candle_core::DType;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::lab::Lab;
use super::pass::Pass;
use super::run::Run;
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::model::Card;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Axis};
use crate::text::{self, grouped};

/// The number of tokens below which a mean gets a caution.
pub const WANTED: usize = 10_000;

/// The key of the file's metadata entry that holds the origin.
const ORIGIN: &str = "lmscope.statistics";

/// Where statistics came from; stored as JSON in the file's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsOrigin {
    /// The model argument.
    pub model: String,
    /// Fingerprint of its weights.
    pub revision: String,
    /// How weight matrices were stored.
    pub dtype: String,
    /// The name of the text.
    pub text: String,
    /// How many positions were averaged.
    pub tokens: usize,
    /// How many positions were left out in total.
    pub skipped: usize,
    /// How many positions were left out at the beginning of every piece.
    pub skip: usize,
    /// The most tokens in a piece.
    pub piece: usize,
    /// A caution for users of the file; empty if there is none.
    #[serde(default)]
    pub caution: String,
    /// The version of lmscope.
    pub version: String,
}

/// Mean and variance of one address.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub at: Address,
    /// Mean, `[width]`.
    pub mean: Vec<f32>,
    /// Population variance, `[width]`: the mean squared distance from the mean.
    pub variance: Vec<f32>,
}

/// The means and variances of a model's activations over a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// One entry for each address, in the order of addresses.
    pub rows: Vec<Moments>,
    /// Model, text and settings that the statistics were measured with.
    pub origin: StatisticsOrigin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextReading {
    /// Positions left out at the beginning of every piece.
    pub skip: usize,
    /// The most tokens in a piece, the begin token included.
    pub piece: usize,
    /// The name of the text, for the file.
    pub text: String,
}

/// Running mean and sum of squared distances of many coordinates, in f64.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunningMoments {
    count: usize,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl RunningMoments {
    /// Adds a row; all rows must have the same width.
    pub fn take(&mut self, row: &[f32]) {
        self.mean.resize(row.len(), 0.0);
        self.squares.resize(row.len(), 0.0);
        self.count += 1;
        let share = 1.0 / self.count as f64;
        for ((mean, squares), value) in self.mean.iter_mut().zip(&mut self.squares).zip(row) {
            let value = f64::from(*value);
            let before = value - *mean;
            *mean += before * share;
            *squares += before * (value - *mean);
        }
    }

    /// Adds the rows of a piece, except for the first `skip`. Returns how many rows were added.
    pub fn take_piece(&mut self, rows: &[Vec<f32>], skip: usize) -> usize {
        let rows = rows.get(skip..).unwrap_or_default();
        rows.iter().for_each(|row| self.take(row));
        rows.len()
    }

    /// Mean and population variance.
    pub fn moments(&self) -> (Vec<f32>, Vec<f32>) {
        let share = 1.0 / self.count.max(1) as f64;
        (
            self.mean.iter().map(|m| *m as f32).collect(),
            self.squares.iter().map(|s| (s * share) as f32).collect(),
        )
    }
}

/// Cuts a text into pieces of at most `length` tokens; if the text begins with the begin token, every piece does.
pub fn pieces(tokens: &[u32], bos: Option<u32>, length: usize) -> Vec<Vec<u32>> {
    let bos = bos.filter(|b| tokens.first() == Some(b));
    let body = &tokens[usize::from(bos.is_some())..];
    let room = length.saturating_sub(usize::from(bos.is_some())).max(1);
    body.chunks(room)
        .map(|piece| bos.into_iter().chain(piece.iter().copied()).collect())
        .collect()
}

impl Statistics {
    /// Measures the statistics of a text, unedited, with one pass for each piece.
    ///
    /// # Errors
    ///
    /// When an address does not have one vector at each position, when no position is left, or when an activation is not
    /// finite.
    pub fn measure(
        lab: &mut Lab,
        pieces: &[Vec<u32>],
        wanted: &[Address],
        how: &TextReading,
    ) -> Result<Self> {
        for at in wanted {
            lab.model.offers(*at)?;
            if at.site.spec().axis == Axis::Positions {
                return Err(Error::Refused {
                    address: at.to_string(),
                    why: "it has one row for each query, not a vector for each position. Use z, the output of each head."
                        .into(),
                });
            }
        }
        let mut sums = vec![RunningMoments::default(); wanted.len()];
        let (mut counted, mut skipped) = (0, 0);
        for (i, piece) in pieces.iter().enumerate() {
            lab.report(i as f32 / pieces.len() as f32)?;
            let kept = piece.len().saturating_sub(how.skip);
            skipped += piece.len() - kept;
            counted += kept;
            if kept == 0 {
                continue;
            }
            let run = Run::plain(piece.clone());
            let recording = lab.run_one(&Pass {
                record: wanted.to_vec(),
                ..Pass::of(run)
            })?;
            for (sums, at) in sums.iter_mut().zip(wanted) {
                let rows = recording.get(*at)?.flatten_from(1)?.to_dtype(DType::F32)?;
                sums.take_piece(&rows.host_vec2::<f32>()?, how.skip);
            }
        }
        if counted == 0 {
            return Err(Error::argument(
                "text",
                format!("{skipped} tokens"),
                format!("more tokens than the first {} of every piece", how.skip),
            ));
        }
        let mut rows = Vec::with_capacity(wanted.len());
        for (sums, at) in sums.iter().zip(wanted) {
            let (mean, variance) = sums.moments();
            if mean.iter().chain(&variance).any(|v| !v.is_finite()) {
                return Err(Error::Refused {
                    address: at.to_string(),
                    why: "its activations are not finite in this dtype. Use --dtype f32.".into(),
                });
            }
            rows.push(Moments {
                at: *at,
                mean,
                variance,
            });
        }
        rows.sort_by_key(|row| row.at);
        let card = &lab.model.card;
        Ok(Self {
            rows,
            origin: StatisticsOrigin {
                model: card.name.clone(),
                revision: card.revision.clone(),
                dtype: card.dtype.into(),
                text: how.text.clone(),
                tokens: counted,
                skipped,
                skip: how.skip,
                piece: how.piece,
                caution: caution(counted),
                version: env!("CARGO_PKG_VERSION").into(),
            },
        })
    }

    /// The mean of an address, `[width]`.
    ///
    /// # Errors
    ///
    /// When the address was not measured; the error lists those that were.
    pub fn mean(&self, at: Address) -> Result<&[f32]> {
        Ok(&self.row(at)?.mean)
    }

    /// The variance of an address, `[width]`.
    ///
    /// # Errors
    ///
    /// As [`Statistics::mean`].
    pub fn variance(&self, at: Address) -> Result<&[f32]> {
        Ok(&self.row(at)?.variance)
    }

    fn row(&self, at: Address) -> Result<&Moments> {
        let row = self.rows.iter().find(|row| row.at == at);
        row.ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: format!(
                "the statistics of {} have {}. Measure it with `lmscope stats --sites {at}`.",
                self.origin.text,
                self.places()
            ),
        })
    }

    /// The measured addresses, abbreviated for users: `mlp_act.0-7, z.0-7`.
    pub fn places(&self) -> String {
        let mut runs: Vec<(Address, Address)> = Vec::new();
        for at in self.rows.iter().map(|row| row.at) {
            match runs.last_mut() {
                Some((_, last)) if last.site == at.site && last.layer + 1 == at.layer => *last = at,
                _ => runs.push((at, at)),
            }
        }
        let mut out = String::new();
        for (first, last) in runs {
            let _ = write!(out, "{}{first}", if out.is_empty() { "" } else { ", " });
            if last != first {
                let _ = write!(out, "-{}", last.layer);
            }
        }
        out
    }

    /// Describes a mean of this file for receipts: `mean over 12 345 tokens of neutral.txt`.
    pub fn about(&self) -> String {
        let few = if self.origin.caution.is_empty() {
            String::new()
        } else {
            format!(", fewer than the {} wanted", grouped(WANTED))
        };
        format!(
            "mean over {} tokens of {}{few}",
            grouped(self.origin.tokens),
            text::visible(self.origin.text.as_bytes())
        )
    }

    /// Refuses statistics that were measured on another model.
    ///
    /// # Errors
    ///
    /// When the fingerprint of the weights differs.
    pub fn check(&self, card: &Card) -> Result<()> {
        if self.origin.revision == card.revision {
            return Ok(());
        }
        Err(Error::argument(
            "statistics",
            format!("{} ({})", self.origin.model, self.origin.revision),
            format!(
                "statistics of this model, {} ({}); `lmscope stats` measures them",
                card.name, card.revision
            ),
        ))
    }

    /// The bytes of the file: `mean.ADDRESS` and `variance.ADDRESS`, f32 vectors, with the origin as metadata.
    ///
    /// # Errors
    ///
    /// When the safetensors format cannot hold them.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let fail = |e: String| Error::Engine(format!("the statistics were not written: {e}"));
        let mut data: Vec<(String, Vec<u8>)> = Vec::new();
        for row in &self.rows {
            for (name, values) in [("mean", &row.mean), ("variance", &row.variance)] {
                let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                data.push((format!("{name}.{}", row.at), bytes));
            }
        }
        let views = data
            .iter()
            .map(|(name, bytes)| {
                let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes);
                Ok((name.as_str(), view.map_err(|e| fail(e.to_string()))?))
            })
            .collect::<Result<Vec<_>>>()?;
        let origin = serde_json::to_string(&self.origin).map_err(|e| fail(e.to_string()))?;
        safetensors::serialize(views, Some(HashMap::from([(ORIGIN.to_string(), origin)])))
            .map_err(|e| fail(e.to_string()))
    }

    /// Writes the file; an existing file is not overwritten.
    ///
    /// # Errors
    ///
    /// When the file cannot be written or exists.
    pub fn save(&self, path: &Path) -> Result<()> {
        file::write(path, &self.bytes()?, Overwrite::Never)
    }

    /// Reads a file that [`Statistics::save`] wrote.
    ///
    /// # Errors
    ///
    /// When the file does not exist or is of another kind.
    pub fn load(path: &Path) -> Result<Self> {
        Self::parse(&file::read(path, file::NUMBERS)?, path)
    }

    /// Reads the bytes of such a file; `path` is for error messages.
    ///
    /// # Errors
    ///
    /// When the bytes are not of the form that [`Statistics::bytes`] makes.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let next = "Statistics are a safetensors file that `lmscope stats` writes.";
        let fail = |e: String| Error::bad_file(path, e, next);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| fail(e.to_string()))?;
        let origin = header.metadata().as_ref().and_then(|m| m.get(ORIGIN));
        let origin = origin.ok_or_else(|| fail("it holds no statistics".into()))?;
        let origin: StatisticsOrigin = serde_json::from_str(origin)
            .map_err(|e| fail(format!("its provenance is damaged ({e})")))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| fail(e.to_string()))?;
        let vector = |name: &str| -> Result<Vec<f32>> {
            let view = file
                .tensor(name)
                .map_err(|_| fail(format!("it lacks `{name}`")))?;
            if view.dtype() != Dtype::F32 || view.shape().len() != 1 {
                return Err(fail(format!(
                    "`{name}` is {:?} {:?} and should be a vector of f32",
                    view.dtype(),
                    view.shape()
                )));
            }
            let values = view.data().chunks_exact(4);
            let values: Vec<f32> = values
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            match values.iter().find(|v| !v.is_finite()) {
                Some(bad) => Err(fail(format!("`{name}` holds {bad}"))),
                None => Ok(values),
            }
        };
        let mut rows = Vec::new();
        for name in file.names() {
            let Some(place) = name.strip_prefix("mean.") else {
                continue;
            };
            let row = Moments {
                at: place.parse()?,
                mean: vector(name)?,
                variance: vector(&format!("variance.{place}"))?,
            };
            if row.mean.len() != row.variance.len() {
                return Err(fail(format!(
                    "`{place}` has {} means and {} variances",
                    row.mean.len(),
                    row.variance.len()
                )));
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(fail("it holds no means".into()));
        }
        rows.sort_by_key(|row| row.at);
        Ok(Self { rows, origin })
    }
}

/// A caution if the text is short, else empty.
fn caution(tokens: usize) -> String {
    if tokens >= WANTED {
        return String::new();
    }
    format!(
        "only {} tokens: means over so short a text are noisy, {} or more are recommended",
        grouped(tokens),
        grouped(WANTED)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    /// For a mean of 1e8 and a variance of 1, sums of squares in f32 lose the variance, and in f64 nearly so.
    #[test]
    fn a_large_mean_takes_no_digits_from_the_variance() {
        let mut sums = RunningMoments::default();
        for i in 0..1000 {
            sums.take(&[if i % 2 == 0 { 1.0e8 } else { 1.0e8 + 16.0 }]);
        }
        let (mean, variance) = sums.moments();
        assert_eq!(mean, [1.0e8 + 8.0]);
        assert!((variance[0] - 64.0).abs() < 1e-3, "{variance:?}");
    }

    #[test]
    fn every_piece_begins_as_the_text_does() {
        let tokens = [9, 1, 2, 3, 4, 5];
        assert_eq!(
            pieces(&tokens, Some(9), 3),
            [vec![9, 1, 2], vec![9, 3, 4], vec![9, 5]]
        );
        assert_eq!(
            pieces(&tokens, Some(7), 4),
            [vec![9, 1, 2, 3], vec![4, 5]],
            "no begin token"
        );
        assert_eq!(pieces(&tokens, None, 4).concat(), tokens);
    }
}
