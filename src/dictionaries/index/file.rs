//! The file of an index.
//!
//! Invariant: every length of a file is checked before it is believed, and a place in it lies within its text.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{BINS, FeatureIndex, IndexOrigin, LayerIndex, MOST_KEPT, NOWHERE};
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::model::network::finite::all as all_finite;

/// The key of the file's metadata entry that holds the origin.
const ORIGIN: &str = "lmscope.features";

/// The longest file that is read, in bytes.
const LONGEST: u64 = 4 << 30;

const NEXT: &str = "An index is a file that `lmscope dictionary index` writes.";

impl FeatureIndex {
    /// Reads an index, finished or not, of any model.
    ///
    /// # Errors
    ///
    /// When the file does not exist or is of another kind.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&file::read(path, LONGEST)?, path)
    }

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or exists and must not be replaced.
    pub fn save(&self, path: &Path, overwrite: Overwrite) -> Result<()> {
        file::write(path, &self.bytes()?, overwrite)
    }

    /// The bytes of the file: safetensors with the origin as metadata, `tokens`, and of the `n`th dictionary `n.active`, `n.sum`,
    /// `n.act`, `n.at` and `n.histogram`.
    ///
    /// # Errors
    ///
    /// When the format cannot hold them.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let fail = |e: String| Error::Engine(format!("the index was not written: {e}"));
        let integers =
            |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_le_bytes()).collect() };
        let mut data = vec![(
            "tokens".to_string(),
            Dtype::U32,
            vec![self.tokens.len()],
            integers(&self.tokens),
        )];
        for (n, layer) in self.layers.iter().enumerate() {
            let features = layer.features();
            let name = |what: &str| format!("{n}.{what}");
            let sum = layer.sum.iter().flat_map(|v| v.to_le_bytes()).collect();
            let act = layer.act.iter().flat_map(|v| v.to_le_bytes()).collect();
            data.extend([
                (
                    name("active"),
                    Dtype::U32,
                    vec![features],
                    integers(&layer.active),
                ),
                (name("sum"), Dtype::F64, vec![features], sum),
                (name("act"), Dtype::F32, vec![features, layer.keep], act),
                (
                    name("at"),
                    Dtype::U32,
                    vec![features, layer.keep],
                    integers(&layer.at),
                ),
                (
                    name("histogram"),
                    Dtype::U32,
                    vec![features, BINS],
                    integers(&layer.histogram),
                ),
            ]);
        }
        let views = data.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            Ok((name.as_str(), view.map_err(|e| fail(e.to_string()))?))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let origin = serde_json::to_string(&self.origin).map_err(|e| fail(e.to_string()))?;
        safetensors::serialize(views, Some(HashMap::from([(ORIGIN.to_string(), origin)])))
            .map_err(|e| fail(e.to_string()))
    }

    /// Reads the bytes of such a file; `path` is for error messages.
    ///
    /// # Errors
    ///
    /// When they are not of the form that [`FeatureIndex::bytes`] makes.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let bad = |what: String| Error::bad_file(path, what, NEXT);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| bad(e.to_string()))?;
        let origin = header.metadata().as_ref().and_then(|m| m.get(ORIGIN));
        let origin = origin.ok_or_else(|| bad("it holds no index of features".into()))?;
        let origin: IndexOrigin = serde_json::from_str(origin)
            .map_err(|e| bad(format!("its provenance is damaged ({e})")))?;
        if !(2..=1 << 20).contains(&origin.context) || !(1..=MOST_KEPT).contains(&origin.keep) {
            return Err(bad(format!(
                "its windows of {} tokens and {} contexts a feature are impossible",
                origin.context, origin.keep
            )));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|e| bad(e.to_string()))?;
        let stored = |name: &str, dtype: Dtype, shape: &[usize]| -> Result<Vec<u8>> {
            let view = file
                .tensor(name)
                .map_err(|_| bad(format!("it lacks `{name}`")))?;
            if view.dtype() != dtype || view.shape() != shape {
                return Err(bad(format!(
                    "`{name}` is {:?} {:?}, and {dtype:?} {shape:?} is expected",
                    view.dtype(),
                    view.shape()
                )));
            }
            Ok(view.data().to_vec())
        };
        let integers = |name: &str, shape: &[usize]| -> Result<Vec<u32>> {
            let bytes = stored(name, Dtype::U32, shape)?;
            let each = bytes.chunks_exact(4);
            Ok(each
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect())
        };
        let count = file.tensor("tokens").map(|view| view.shape().to_vec());
        let count = count.map_err(|_| bad("it lacks `tokens`".into()))?;
        let tokens = integers("tokens", &[count.first().copied().unwrap_or(0)])?;
        let mut layers = Vec::new();
        for (n, one) in origin.dictionaries.iter().enumerate() {
            let name = |what: &str| format!("{n}.{what}");
            let (features, keep) = (one.features, origin.keep);
            let sum = stored(&name("sum"), Dtype::F64, &[features])?;
            let act = stored(&name("act"), Dtype::F32, &[features, keep])?;
            let sum = sum.chunks_exact(8).map(|b| {
                let mut eight = [0u8; 8];
                eight.copy_from_slice(b);
                f64::from_le_bytes(eight)
            });
            let act = act.chunks_exact(4);
            let layer = LayerIndex {
                layer: one.layer,
                positions: origin.positions,
                keep,
                active: integers(&name("active"), &[features])?,
                sum: sum.collect(),
                act: act
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
                at: integers(&name("at"), &[features, keep])?,
                histogram: integers(&name("histogram"), &[features, BINS])?,
            };
            if !all_finite(&layer.act) || layer.sum.iter().any(|v| !v.is_finite()) {
                return Err(bad(format!(
                    "an activation of dictionary {n} is not finite (NaN or infinity)"
                )));
            }
            let outside = |at: &&u32| **at != NOWHERE && **at as usize >= tokens.len();
            if let Some(at) = layer.at.iter().find(outside) {
                return Err(bad(format!(
                    "it names token {at} of a text of {} tokens",
                    tokens.len()
                )));
            }
            if layer.active.iter().any(|n| *n as usize > origin.positions) {
                return Err(bad(
                    "a feature is active at more positions than were read".into()
                ));
            }
            layers.push(layer);
        }
        if layers.is_empty() || origin.positions > tokens.len() {
            return Err(bad(
                "it holds no features, or more positions than tokens".into()
            ));
        }
        Ok(Self {
            origin,
            tokens,
            layers,
        })
    }
}
