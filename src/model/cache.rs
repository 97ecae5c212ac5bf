//! The key-value cache: preallocated, truncated in place, copied by value.
//!
//! Invariant: entries below `len` are exactly what the forward pass computed for those positions under the
//! edits whose digest the cache carries. Storage grows by doubling up to the context.

use candle_core::{DType, Device, Tensor};

use super::blueprint::Blueprint;
use crate::error::Result;

/// Keys (rotated) and values of one layer: `[batch, kv_heads, capacity, head_dim]` each.
#[derive(Clone, Debug)]
struct Layer {
    keys: Tensor,
    values: Tensor,
}

/// What earlier positions left behind for attention. A clone shares its storage, so that of two only one may grow.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<Layer>,
    len: usize,
    capacity: usize,
    context: usize,
    /// Digest of the edits that made it; 0 without edits.
    pub digest: u64,
}

impl Cache {
    /// An empty cache for `batch` runs of at most `context` tokens.
    pub fn new(
        blueprint: &Blueprint,
        batch: usize,
        context: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let capacity = context.min(128);
        let shape = (batch, blueprint.kv_heads, capacity, blueprint.head_dim);
        let layers = blueprint
            .layers
            .iter()
            .map(|_| {
                Ok(Layer {
                    keys: Tensor::zeros(shape, dtype, device)?,
                    values: Tensor::zeros(shape, dtype, device)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            layers,
            len: 0,
            capacity,
            context,
            digest: 0,
        })
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most positions it can hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes held on the device.
    pub fn bytes(&self) -> usize {
        self.layers
            .iter()
            .map(|l| 2 * l.keys.elem_count() * l.keys.dtype().size_in_bytes())
            .sum()
    }

    /// Makes room for `more` positions. The caller has checked them against the context.
    pub fn reserve(&mut self, more: usize) -> Result<()> {
        let needed = self.len + more;
        if needed <= self.capacity {
            return Ok(());
        }
        let capacity = needed.next_power_of_two().min(self.context.max(needed));
        for layer in &mut self.layers {
            for tensor in [&mut layer.keys, &mut layer.values] {
                let (batch, heads, _, width) = tensor.dims4()?;
                let grown = Tensor::zeros(
                    (batch, heads, capacity, width),
                    tensor.dtype(),
                    tensor.device(),
                )?;
                if self.len > 0 {
                    grown.slice_set(&tensor.narrow(2, 0, self.len)?.contiguous()?, 2, 0)?;
                }
                *tensor = grown;
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Writes the pass's keys and values `[batch, kv_heads, tokens, head_dim]` after the held ones and
    /// returns all of them, `[batch, kv_heads, len + tokens, head_dim]`. [`Cache::advance`] ends the pass.
    pub fn extend(&self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let held = &self.layers[layer];
        held.keys.slice_set(&keys.contiguous()?, 2, self.len)?;
        held.values.slice_set(&values.contiguous()?, 2, self.len)?;
        let total = self.len + keys.dim(2)?;
        Ok((
            held.keys.narrow(2, 0, total)?,
            held.values.narrow(2, 0, total)?,
        ))
    }

    /// Counts the positions of a finished pass.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Forgets everything from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// One run of several, with storage of its own.
    pub fn row(&self, row: usize) -> Result<Self> {
        let own = |t: &Tensor| t.narrow(0, row, 1)?.force_contiguous();
        let layers = self.layers.iter().map(|l| {
            Ok(Layer {
                keys: own(&l.keys)?,
                values: own(&l.values)?,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            ..*self
        })
    }

    /// A copy with storage of its own, repeated `batch` times when this one holds a single run.
    pub fn copy(&self, batch: usize) -> Result<Self> {
        let own = |t: &Tensor| -> Result<Tensor> {
            let t = if batch > 1 {
                t.repeat((batch, 1, 1, 1))?
            } else {
                t.copy()?
            };
            Ok(t)
        };
        let layers = self
            .layers
            .iter()
            .map(|l| {
                Ok(Layer {
                    keys: own(&l.keys)?,
                    values: own(&l.values)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            layers,
            len: self.len,
            capacity: self.capacity,
            context: self.context,
            digest: self.digest,
        })
    }
}
