//! Reading on: a cache brought to the end of texts that have grown.
//!
//! Invariant: afterwards the cache holds exactly the tokens of the texts. To read on in another way, write it beside [`extend`].

use candle_core::Tensor;

use crate::error::Result;
use crate::model::Model;
use crate::model::network::cache::Cache;
use crate::model::network::tap::{Phase, Span, Tap};

/// Brings a cache to the whole text of every row and returns the last row of each stream, `[rows, 1, d_model]`. It reads
/// what the cache does not hold: one token as a rule, and all of them when an interrupted pass left it behind, or when the
/// text has just grown into other rotary frequencies ([`crate::model::network::rope::Rope::regime`]). Texts are of one length.
pub(crate) fn extend(
    model: &Model,
    texts: &[Vec<u32>],
    prompt: usize,
    cache: &mut Cache,
    tap: &mut dyn Tap,
) -> Result<Tensor> {
    let transformer = &model.transformer;
    let total = texts[0].len();
    if transformer.regime(cache.len().max(1)) != transformer.regime(total) {
        cache.truncate(0);
    }
    let start = cache.len();
    let len = total - start;
    let phase = if start == 0 {
        Phase::Prefill
    } else {
        Phase::Decode
    };
    let span = Span {
        start,
        len,
        prompt,
        phase,
    };
    let news: Vec<Tensor> = texts
        .iter()
        .map(|text| model.tokens(&text[start..]))
        .collect::<Result<_>>()?;
    let news = if news.len() == 1 {
        news[0].clone()
    } else {
        Tensor::cat(&news, 0)?
    };
    let x = transformer.trunk(&news, span, Some(cache), tap)?;
    if len == 1 {
        return Ok(x);
    }
    // What follows reads the last position alone.
    tap.begin(Span {
        start: total - 1,
        len: 1,
        ..span
    });
    Ok(x.narrow(1, len - 1, 1)?.contiguous()?)
}
