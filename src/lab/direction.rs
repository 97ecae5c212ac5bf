//! Directions: vectors that edits add or project out, made from two prompt lists, kept as safetensors.
//!
//! Invariant: a direction knows where, how and on which model it was measured, and is refused elsewhere.
//! To add a method, add a function that returns a [`Direction`].

use std::collections::HashMap;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Card;
use crate::model::site::Address;
use crate::model::weights::normals;

/// Where a direction came from; stored as JSON in the file's metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The model argument.
    pub model: String,
    /// Fingerprint of its weights.
    pub revision: String,
    /// The method, for example `difference of means`.
    pub method: String,
    /// The position rule.
    pub positions: String,
    /// How many prompts on each side.
    pub prompts: (usize, usize),
    /// The dtype of the activations it was measured on.
    pub dtype: String,
    /// A strength at which it was seen to do what it is for; 1 where nobody looked.
    #[serde(default = "one")]
    pub strength: f32,
    /// What else a reader should know, in sentences: which heads, which layer was chosen and on what.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The version of this program.
    pub version: String,
}

fn one() -> f32 {
    1.0
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            model: String::new(),
            revision: String::new(),
            method: String::new(),
            positions: String::new(),
            prompts: (0, 0),
            dtype: String::new(),
            strength: one(),
            notes: Vec::new(),
            version: String::new(),
        }
    }
}

/// A vector for one address or several.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// The vector at each address it was measured at.
    pub rows: Vec<(Address, Vec<f32>)>,
    /// Where it came from.
    pub origin: Origin,
}

/// The key of the metadata entry.
const ORIGIN: &str = "lmscope.direction";

impl Direction {
    /// The vector for an address: the one measured there, or the only one there is.
    pub fn at(&self, address: Address) -> Result<&[f32]> {
        let exact = self.rows.iter().find(|(a, _)| *a == address);
        let only = (self.rows.len() == 1).then(|| &self.rows[0]);
        exact
            .or(only)
            .map(|(_, v)| v.as_slice())
            .ok_or_else(|| Error::Refused {
                address: address.to_string(),
                why: format!(
                    "the direction was measured at {} and has no vector for it. Edit one of those.",
                    self.places()
                ),
            })
    }

    /// Where it was measured, for people.
    pub fn places(&self) -> String {
        self.rows
            .iter()
            .map(|(a, _)| a.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Euclidean length of the first vector.
    pub fn norm(&self) -> f32 {
        self.rows.first().map_or(0.0, |(_, v)| norm(v))
    }

    /// Refuses another model's direction.
    pub fn check(&self, card: &Card) -> Result<()> {
        let other = !self.origin.revision.is_empty() && self.origin.revision != card.revision;
        if other {
            return Err(Error::argument(
                "direction",
                format!("{} ({})", self.origin.model, self.origin.revision),
                format!(
                    "one measured on this model, {} ({})",
                    card.name, card.revision
                ),
            ));
        }
        Ok(())
    }

    /// Writes one f32 tensor an address, named as the address prints.
    pub fn save(&self, path: &Path) -> Result<()> {
        let data: Vec<(String, Vec<u8>)> = self
            .rows
            .iter()
            .map(|(a, v)| {
                (
                    a.to_string(),
                    v.iter().flat_map(|x| x.to_le_bytes()).collect(),
                )
            })
            .collect();
        let fail = |e: String| Error::bad_file(path, e, "Choose another file name.");
        let views: Vec<(String, TensorView)> = data
            .iter()
            .map(|(name, bytes)| {
                Ok((
                    name.clone(),
                    TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes)
                        .map_err(|e| fail(e.to_string()))?,
                ))
            })
            .collect::<Result<_>>()?;
        let origin = serde_json::to_string(&self.origin).map_err(|e| fail(e.to_string()))?;
        let bytes =
            safetensors::serialize(views, Some(HashMap::from([(ORIGIN.to_string(), origin)])))
                .map_err(|e| fail(e.to_string()))?;
        std::fs::write(path, bytes).map_err(|e| Error::io(path, e))
    }

    /// Reads a file that [`Direction::save`] wrote.
    pub fn load(path: &Path) -> Result<Self> {
        Self::parse(&std::fs::read(path).map_err(|e| Error::io(path, e))?, path)
    }

    /// Reads the bytes of such a file; `path` is for messages.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let next = "A direction is a safetensors file with one f32 vector an address, such as `lmscope direction` writes.";
        let fail = |e: String| Error::bad_file(path, e, next);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| fail(e.to_string()))?;
        let origin = header.metadata().as_ref().and_then(|m| m.get(ORIGIN));
        let origin = origin
            .map(|o| serde_json::from_str(o))
            .transpose()
            .map_err(|e| fail(format!("its provenance is damaged ({e})")))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| fail(e.to_string()))?;
        let mut rows = Vec::new();
        for (name, view) in file.tensors() {
            let address: Address = name.parse()?;
            if view.dtype() != Dtype::F32 || view.shape().len() != 1 {
                return Err(fail(format!(
                    "`{name}` is {:?} {:?} and should be a vector of f32",
                    view.dtype(),
                    view.shape()
                )));
            }
            let vector: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            if let Some(bad) = vector.iter().find(|v| !v.is_finite()) {
                return Err(fail(format!("`{name}` holds {bad}")));
            }
            rows.push((address, vector));
        }
        rows.sort_by_key(|(a, _)| *a);
        if rows.is_empty() {
            return Err(fail("it holds no vector".into()));
        }
        Ok(Self {
            rows,
            origin: origin.unwrap_or_default(),
        })
    }
}

/// The directions that are part of the binary: they belong to the demo model (see demo/CARD.md).
#[cfg(feature = "demo")]
pub fn embedded() -> &'static [(&'static str, &'static [u8])] {
    &[
        (
            "mood",
            include_bytes!("../../demo/vectors/mood.safetensors"),
        ),
        (
            "politeness",
            include_bytes!("../../demo/vectors/politeness.safetensors"),
        ),
        (
            "refusal",
            include_bytes!("../../demo/vectors/refusal.safetensors"),
        ),
    ]
}

/// This build has no demo model, and so none of its directions.
#[cfg(not(feature = "demo"))]
pub fn embedded() -> &'static [(&'static str, &'static [u8])] {
    &[]
}

/// Euclidean length, summed in f64.
pub fn norm(v: &[f32]) -> f32 {
    v.iter()
        .map(|x| f64::from(*x) * f64::from(*x))
        .sum::<f64>()
        .sqrt() as f32
}

/// `v / (‖v‖ + 1e-8)`, as the refusal code normalises (Arditi et al. 2024).
pub fn unit(v: &[f32]) -> Vec<f32> {
    let length = norm(v) + 1e-8;
    v.iter().map(|x| x / length).collect()
}

/// A seeded random vector of the same length: the null of a direction.
pub fn random_like(v: &[f32], seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let raw = normals(&mut rng, v.len());
    let length = norm(v);
    unit(&raw).iter().map(|x| x * length).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::site::Site;

    #[test]
    fn a_file_gives_back_the_vector_and_its_origin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.safetensors");
        let origin = Origin {
            model: "m".into(),
            revision: "r".into(),
            method: "difference of means".into(),
            prompts: (3, 4),
            ..Origin::default()
        };
        let direction = Direction {
            rows: vec![(Site::ResidPre.at(2), vec![1.0, -0.5, 3.25])],
            origin,
        };
        direction.save(&path).unwrap();
        assert_eq!(Direction::load(&path).unwrap(), direction);
        std::fs::write(&path, b"short").unwrap();
        assert!(
            Direction::load(&path)
                .unwrap_err()
                .to_string()
                .contains("d.safetensors")
        );
    }

    #[test]
    fn a_null_has_the_same_length_and_another_way() {
        let v = vec![3.0, 0.0, 4.0, 0.0];
        let null = random_like(&v, 1);
        assert!((norm(&null) - 5.0).abs() < 1e-4);
        assert_ne!(null, random_like(&v, 2));
        assert_eq!(null, random_like(&v, 1));
    }
}
