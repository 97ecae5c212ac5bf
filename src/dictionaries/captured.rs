//! Activations of captured positions, as dictionaries read them.
//!
//! Invariant: the first position of a text, and activations that are many times as large as usual, are outside what dictionaries are
//! trained on; who trains, evaluates, indexes or shows features says so by the same rule. To read captures in another way, add a function.

use candle_core::DType;

use super::dictionary::Encoded;
use super::opened::PlacedDictionary;
use crate::edit::direction::norm;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::site::Address;

/// How many times as large as usual an activation may be: beyond that it is a sink of attention, and one such row outweighs all
/// others of a batch.
pub const OUTLIER: f32 = 10.0;

/// The usual norm: the median of some; none of none.
pub fn usual(mut norms: Vec<f32>) -> Option<f32> {
    norms.sort_by(f32::total_cmp);
    norms.get(norms.len() / 2).copied()
}

/// The norms of rows, `[.., width]`.
pub fn norms_of(rows: &[f32], width: usize) -> Vec<f32> {
    rows.chunks_exact(width.max(1)).map(norm).collect()
}

/// The values of a capture at an address, `[positions, width]`, f32.
///
/// # Errors
///
/// When the address was not recorded.
pub fn values(capture: &Capture, at: Address) -> Result<Vec<f32>> {
    Ok(capture
        .get(at)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .host_vec1()?)
}

/// The same without the first position, `[positions − 1, width]`.
///
/// # Errors
///
/// As [`values`].
pub fn later_values(capture: &Capture, at: Address) -> Result<Vec<f32>> {
    let all = capture.get(at)?;
    let later = all.narrow(0, 1, all.dim(0)? - 1)?;
    Ok(later.to_dtype(DType::F32)?.flatten_all()?.host_vec1()?)
}

/// What texts have at some addresses; blocks above the last of them are not computed.
///
/// # Errors
///
/// When the work is stopped, or numbers are not finite.
pub fn captures(
    lab: &mut Lab,
    texts: impl IntoIterator<Item = Vec<u32>>,
    wanted: &[Address],
) -> Result<Vec<Capture>> {
    lab.run(&Pass {
        record: wanted.to_vec(),
        only_recorded: true,
        ..Pass::texts(Run::plain(Vec::new()), texts)
    })
}

impl PlacedDictionary {
    /// Its features where it reads; `read` takes the rows of an address from a capture ([`values`] or [`later_values`]).
    ///
    /// # Errors
    ///
    /// When an address was not recorded, or a product is not finite.
    pub fn encode(
        &self,
        capture: &Capture,
        read: impl Fn(&Capture, Address) -> Result<Vec<f32>>,
    ) -> Result<Encoded> {
        let inputs = self.reads.iter().map(|at| read(capture, *at));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        self.dictionary.encode(&inputs)
    }
}
