//! The key-value cache: preallocated, truncated in place, copied by value.
//!
//! Invariant: entries below `len` are exactly what the forward pass computed for those positions under the edits whose digest
//! the cache carries. Storage grows by doubling up to the context.
//!
//! A branch of a cache is for several rows that begin with the same positions. It refers to those positions in the original, as
//! a single copy for all rows, and stores the later positions itself. The shared positions must not be overwritten while the
//! branch lives.

use candle_core::{DType, Device, Tensor};

use super::blueprint::Blueprint;
use super::placement::Placement;
use crate::error::Result;

/// Keys (rotated) and values of one layer: `[batch, kv_heads, capacity, head_dim]` each.
#[derive(Clone, Debug)]
struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl LayerCache {
    fn zeros(shape: [usize; 4], dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            keys: Tensor::zeros(&shape, dtype, device)?,
            values: Tensor::zeros(&shape, dtype, device)?,
        })
    }
}

/// The positions that all rows of a branch share, as a single copy.
#[derive(Clone, Debug)]
struct SharedPrefix {
    /// Views of the original cache, `[1, kv_heads, len, head_dim]`.
    layers: Vec<LayerCache>,
    len: usize,
}

/// Whether a branch stores its own keys and values, or only hands them to the attention of the current pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchCache {
    /// Stored, so that the rows can be continued.
    Kept,
    /// Not stored: the branch serves a single pass.
    Passing,
}

/// The keys and values of earlier positions. A clone shares storage with the original, so only one of the two may grow.
#[derive(Clone, Debug)]
pub struct Cache {
    /// One entry for each layer. Those of a branch are created by the first pass that reaches the layer.
    layers: Vec<Option<LayerCache>>,
    stem: Option<SharedPrefix>,
    own: BranchCache,
    /// The number of positions after those of the stem.
    len: usize,
    capacity: usize,
    context: usize,
    /// Digest of the edits under which the entries were computed; 0 without edits.
    pub digest: u64,
}

impl Cache {
    /// An empty cache for `batch` rows of at most `context` tokens: keys and values lie beside their block.
    pub fn new(
        blueprint: &Blueprint,
        batch: usize,
        context: usize,
        dtype: DType,
        placement: &Placement,
    ) -> Result<Self> {
        let capacity = context.min(128);
        let shape = [batch, blueprint.kv_heads, capacity, blueprint.head_dim];
        let layer = |at| LayerCache::zeros(shape, dtype, placement.device(at)).map(Some);
        let layers = (0..blueprint.layers.len()).map(layer);
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self {
            layers,
            stem: None,
            own: BranchCache::Kept,
            len: 0,
            capacity,
            context,
            digest: 0,
        })
    }

    /// The number of positions held, those of the stem included.
    pub fn len(&self) -> usize {
        self.shared() + self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of positions that all rows share.
    pub fn shared(&self) -> usize {
        self.stem.as_ref().map_or(0, |s| s.len)
    }

    /// Keys and values of the shared positions of a layer, `[1, kv_heads, shared, head_dim]` each.
    pub fn stem(&self, layer: usize) -> Option<(&Tensor, &Tensor)> {
        let held = &self.stem.as_ref()?.layers[layer];
        Some((&held.keys, &held.values))
    }

    /// The most positions that the cache can hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes held on the device, without the shared positions.
    pub fn bytes(&self) -> usize {
        self.layers
            .iter()
            .flatten()
            .map(|l| 2 * l.keys.elem_count() * l.keys.dtype().size_in_bytes())
            .sum()
    }

    /// Allocates room for `more` positions. The caller has checked them against the context.
    pub fn reserve(&mut self, more: usize) -> Result<()> {
        let needed = self.len + more;
        if needed <= self.capacity {
            return Ok(());
        }
        let most = self.context.saturating_sub(self.shared()).max(needed);
        let capacity = needed.next_power_of_two().min(most);
        for layer in self.layers.iter_mut().flatten() {
            for tensor in [&mut layer.keys, &mut layer.values] {
                let (batch, heads, _, width) = tensor.dims4()?;
                let shape = (batch, heads, capacity, width);
                let grown = Tensor::zeros(shape, tensor.dtype(), tensor.device())?;
                if self.len > 0 {
                    grown.slice_set(&tensor.narrow(2, 0, self.len)?.contiguous()?, 2, 0)?;
                }
                *tensor = grown;
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Stores the keys and values of a pass, `[batch, kv_heads, tokens, head_dim]`, after those held. Returns all that the
    /// cache itself holds at this layer, `[batch, kv_heads, own + tokens, head_dim]`. [`Cache::advance`] completes the pass.
    pub fn extend(
        &mut self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (keys, values) = (keys.contiguous()?, values.contiguous()?);
        if self.own == BranchCache::Passing {
            return Ok((keys, values));
        }
        let (start, capacity) = (self.len, self.capacity);
        let held = match &mut self.layers[layer] {
            Some(held) => held,
            empty @ None => {
                let (batch, heads, _, width) = keys.dims4()?;
                let shape = [batch, heads, capacity, width];
                empty.insert(LayerCache::zeros(shape, keys.dtype(), keys.device())?)
            }
        };
        held.keys.slice_set(&keys, 2, start)?;
        held.values.slice_set(&values, 2, start)?;
        let total = start + keys.dim(2)?;
        Ok((
            held.keys.narrow(2, 0, total)?,
            held.values.narrow(2, 0, total)?,
        ))
    }

    /// Adds the positions of a completed pass to the length.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Drops everything from position `len` on. If that cuts into the stem of a branch, nothing is left.
    pub fn truncate(&mut self, len: usize) {
        if len < self.shared() {
            self.stem = None;
            self.len = 0;
            self.own = BranchCache::Kept;
        } else {
            self.len = self.len.min(len - self.shared());
        }
    }

    /// A branch whose rows share the positions before `from` of this cache, which has a single row. The first pass determines
    /// the number of rows.
    pub fn branch(&self, from: usize, own: BranchCache) -> Result<Self> {
        let stem = (from > 0)
            .then(|| {
                let layers = self.layers.iter().flatten().map(|l| {
                    Ok(LayerCache {
                        keys: l.keys.narrow(0, 0, 1)?.narrow(2, 0, from)?,
                        values: l.values.narrow(0, 0, 1)?.narrow(2, 0, from)?,
                    })
                });
                let layers = layers.collect::<Result<_>>()?;
                Ok::<_, crate::error::Error>(SharedPrefix { layers, len: from })
            })
            .transpose()?;
        Ok(Self {
            layers: vec![None; self.layers.len()],
            stem,
            own,
            len: 0,
            capacity: 0,
            context: self.context,
            digest: self.digest,
        })
    }

    /// Brings a branch to `rows` rows at every layer. Rows that no pass computed at a layer get the keys and values of `of`,
    /// the single-row cache from which the branch was made.
    pub fn complete(&mut self, rows: usize, of: &Self) -> Result<()> {
        let (from, count, capacity) = (self.shared(), self.len, self.capacity);
        for (own, whole) in self.layers.iter_mut().zip(of.layers.iter().flatten()) {
            let have = match own {
                Some(own) => own.keys.dim(0)?,
                None => 0,
            };
            if have == rows {
                continue;
            }
            let filled = |own: Option<&Tensor>, whole: &Tensor| -> Result<Tensor> {
                let (_, heads, _, width) = whole.dims4()?;
                let shape = (rows, heads, capacity, width);
                let out = Tensor::zeros(shape, whole.dtype(), whole.device())?;
                let rest = whole.narrow(2, from, count)?;
                let rest = rest.repeat((rows - have, 1, 1, 1))?;
                let all = match own {
                    Some(own) => Tensor::cat(&[&own.narrow(2, 0, count)?, &rest], 0)?,
                    None => rest,
                };
                out.slice_set(&all.contiguous()?, 2, 0)?;
                Ok(out)
            };
            *own = Some(LayerCache {
                keys: filled(own.as_ref().map(|l| &l.keys), &whole.keys)?,
                values: filled(own.as_ref().map(|l| &l.values), &whole.values)?,
            });
        }
        Ok(())
    }

    /// The cache of one row of a batch, with storage of its own.
    pub fn row(&self, row: usize) -> Result<Self> {
        self.with(|t| Ok(t.narrow(0, row, 1)?.force_contiguous()?))
    }

    /// A copy with storage of its own; a cache with a single row is repeated `batch` times.
    pub fn copy(&self, batch: usize) -> Result<Self> {
        self.with(|t| {
            Ok(if batch > 1 {
                t.repeat((batch, 1, 1, 1))?
            } else {
                t.copy()?
            })
        })
    }

    /// The cache with every tensor outside the stem replaced by `own` of it.
    fn with(&self, own: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let layers = self.layers.iter().map(|layer| {
            let Some(layer) = layer else {
                return Ok(None);
            };
            Ok(Some(LayerCache {
                keys: own(&layer.keys)?,
                values: own(&layer.values)?,
            }))
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            stem: self.stem.clone(),
            ..*self
        })
    }
}
