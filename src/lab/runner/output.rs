//! What a pass says at its end: the model's own output, reduced to what is asked of it.
//!
//! Invariant: rows whose logits are wanted whole, or which somebody looks at or changes, say the same as those that nobody lays
//! out. To ask for something else, see [`crate::lab::readout`].

use candle_core::Tensor;

use crate::error::Result;
use crate::lab::readout::{RowRequest, RowStats, questions};
use crate::model::Model;
use crate::model::network::readout::ReadoutRequest;
use crate::model::network::tap::Tap;

/// The model's own output after `[batch, rows, d_model]`, of which something else may be asked in every row; logits are laid out
/// where they are kept.
pub(super) fn read_output<'a>(
    model: &Model,
    x: &Tensor,
    tap: &mut dyn Tap,
    ask: impl Fn(usize) -> RowRequest<'a>,
) -> Result<Vec<RowStats>> {
    let vocab = model.transformer.head.out;
    let (batch, rows, _) = x.dims3()?;
    let asks: Vec<RowRequest> = (0..batch * rows).map(ask).collect();
    let questions = questions(&asks);
    let kept = asks.iter().enumerate().filter(|(_, ask)| ask.keep);
    let whole: Vec<usize> = kept.map(|(row, _)| row).collect();
    let request = ReadoutRequest {
        questions: &questions,
        whole: &whole,
        known: model.known_tokens(),
        ..ReadoutRequest::default()
    };
    let output = model.transformer.read_out_statistics(x, &request, tap)?;
    let mut logits = output.whole.chunks_exact(vocab);
    let each = output.sums.into_iter().zip(&asks);
    Ok(each
        .map(|(sums, ask)| {
            let kept = ask.keep.then(|| logits.next()).flatten();
            RowStats::of(sums, ask.ranks, kept.unwrap_or_default().to_vec())
        })
        .collect())
}
