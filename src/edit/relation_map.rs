//! Relation maps: an affine map from the state of a subject to the state from which its object is read (linear relational
//! embedding, LRE; Hernandez et al. 2024, 2308.09124), as it is kept in a file and named by edits.
//!
//! With `s` the state at the last token of the subject after a block and `o` the state at the last token of the prompt after the
//! last block, `LRE(s) = β W s + b` (section 3), and the state changes by `Δs = W†(o' − o)` to make the object another one
//! (equation 5), where `W†` is the pseudo-inverse of the best approximation of `W` of some rank.
//!
//! A map is read at one layer and may be inverted at another, with the matrix of that one. A file is safetensors with
//! `resid_post.L>resid_post.M.weight` `[d_model, d_model]` of both and `.bias` `[d_model]` of the first, as the maps of a Patchscope
//! are, and `singular_values` `[n]`, `singular_vectors` `[n, d_model]` (the right ones) of the second. Invariant: a map of other
//! weights is refused. To keep something else of how it was made, add a field to [`RelationOrigin`].

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::spectrum::Spectrum;
use super::tensor_file::{self, NamedTensor, SavedTensors};
use crate::error::Result;
use crate::file::{self, Overwrite};
use crate::model::Card;
use crate::model::network::site::Site;

/// The key of the metadata entry that holds the origin.
const ORIGIN: &str = "lmscope.relation";

const NEXT: &str = "A relation map is a safetensors file that `lmscope relation MODEL --relation FILE --save NAME` writes.";

/// What takes the place of the subject in a template.
pub const SUBJECT: &str = "{}";

/// A subject and its object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationPair {
    pub subject: String,
    pub object: String,
}

/// How a relation is asked about: a template, and examples that are shown before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationPrompts {
    /// A sentence with `{}` for the subject, up to the object.
    pub template: String,
    /// Shown before the question, a line each; empty for the question alone.
    pub examples: Vec<RelationPair>,
}

impl RelationPrompts {
    /// The question about a subject.
    pub fn question(&self, subject: &str) -> String {
        let question = self.template.replacen(SUBJECT, subject, 1);
        question.trim_end().to_string()
    }

    /// The prompt for a subject: the examples of other subjects, a line each, and the question.
    pub fn text(&self, subject: &str) -> String {
        let others = self.examples.iter().filter(|pair| pair.subject != subject);
        let mut text = String::new();
        for pair in others {
            text += &self.question(&pair.subject);
            text.push(' ');
            text += &pair.object;
            text.push('\n');
        }
        text + &self.question(subject)
    }
}

/// How a map was made, stored as JSON in the file's metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RelationOrigin {
    /// The model argument.
    pub model: String,
    /// Fingerprint of its weights.
    pub revision: String,
    /// The relation's name.
    pub relation: String,
    /// How subjects were asked about.
    pub prompts: RelationPrompts,
    /// The pairs that the map was made from.
    pub fitted: Vec<RelationPair>,
    /// The block after which the subject's state is read.
    pub layer: usize,
    /// The scale of `W s`.
    pub beta: f64,
    /// The block after which edits change the subject's state.
    pub edit_layer: usize,
    /// The rank of the pseudo-inverse of edits.
    pub rank: usize,
    /// The seed that chose the pairs.
    pub seed: u64,
    /// The version of lmscope.
    pub version: String,
}

/// A matrix that takes subjects' states to objects', to be inverted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelationInverse {
    /// `W`, `[d_model, d_model]`, row after row.
    pub weight: Vec<f32>,
    pub spectrum: Spectrum,
}

impl RelationInverse {
    /// The inverse of a matrix `[width, width]`.
    ///
    /// # Errors
    ///
    /// When its spectrum cannot be computed.
    pub fn new(weight: Vec<f32>, width: usize) -> Result<Self> {
        Ok(Self {
            spectrum: Spectrum::of(&weight, width)?,
            weight,
        })
    }

    /// `W†_ρ Δo = Σ_{i ≤ ρ} v_i (σ_i⁻¹ u_iᵀ Δo)`, with `u_i = W v_i / σ_i`; a rank above that of `W` is the latter.
    pub fn apply(&self, object: &[f32], rank: usize) -> Vec<f32> {
        let d = object.len();
        let mut back = vec![0f64; d];
        for (row, o) in self.weight.chunks(d.max(1)).zip(object) {
            for (sum, w) in back.iter_mut().zip(row) {
                *sum += f64::from(*w) * f64::from(*o);
            }
        }
        let mut out = vec![0f64; d];
        let parts = self.spectrum.vectors.chunks(d.max(1));
        for (v, value) in parts.zip(&self.spectrum.values).take(rank) {
            let along: f64 = v.iter().zip(&back).map(|(v, x)| f64::from(*v) * x).sum();
            let share = along / (value * value);
            for (sum, v) in out.iter_mut().zip(v) {
                *sum += share * f64::from(*v);
            }
        }
        out.into_iter().map(|x| x as f32).collect()
    }
}

/// A relation map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelationMap {
    pub origin: RelationOrigin,
    /// `W` of [`RelationOrigin::layer`], `[d_model, d_model]`, row after row.
    pub weight: Vec<f32>,
    /// `b`, `[d_model]`.
    pub bias: Vec<f32>,
    /// That of `W` of [`RelationOrigin::edit_layer`].
    pub inverse: RelationInverse,
}

impl RelationMap {
    /// `β W s + b`, summed in f64.
    pub fn object(&self, s: &[f32]) -> Vec<f32> {
        let rows = self.weight.chunks(s.len().max(1)).zip(&self.bias);
        let sum = |row: &[f32]| -> f64 {
            let products = row.iter().zip(s);
            products.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        rows.map(|(row, b)| (self.origin.beta * sum(row) + f64::from(*b)) as f32)
            .collect()
    }

    /// Writes the file; an existing file is overwritten only if `overwrite` allows it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, path: &Path, card: &Card, overwrite: Overwrite) -> Result<()> {
        let d = self.bias.len();
        let reads = pair(self.origin.layer, card.layers);
        let edits = pair(self.origin.edit_layer, card.layers);
        let spectrum = &self.inverse.spectrum;
        let rank = spectrum.rank();
        let values: Vec<f32> = spectrum.values.iter().map(|v| *v as f32).collect();
        let tensor = |name: &str, shape: &[usize], values| NamedTensor {
            name: name.into(),
            shape: shape.to_vec(),
            values,
        };
        let mut tensors = vec![
            tensor(&format!("{reads}.weight"), &[d, d], &self.weight[..]),
            tensor(&format!("{reads}.bias"), &[d], &self.bias),
            tensor("singular_values", &[rank], &values),
            tensor("singular_vectors", &[rank, d], &spectrum.vectors),
        ];
        if edits != reads {
            let name = format!("{edits}.weight");
            tensors.push(tensor(&name, &[d, d], &self.inverse.weight));
        }
        tensor_file::write(path, &tensors, Some((ORIGIN, &self.origin)), overwrite)
    }

    /// Reads a file for a model.
    ///
    /// # Errors
    ///
    /// When the file does not exist, is of another kind, or was made on other weights.
    pub fn load(path: &Path, card: &Card) -> Result<Self> {
        Self::parse(&file::read(path, file::NUMBERS)?, path, card)
    }

    /// The same for bytes; `path` is for messages.
    ///
    /// # Errors
    ///
    /// As [`RelationMap::load`].
    pub fn parse(bytes: &[u8], path: &Path, card: &Card) -> Result<Self> {
        let file = SavedTensors::parse(bytes, path, NEXT)?;
        let origin: Option<RelationOrigin> = file.origin(ORIGIN)?;
        let origin = origin.ok_or_else(|| file.bad("it is no relation map"))?;
        let made_on = (origin.model.as_str(), origin.revision.as_str());
        card.check_made_on("relation map", made_on, "a map made on")?;
        let d = card.d_model;
        for layer in [origin.layer, origin.edit_layer] {
            if layer >= card.layers {
                let what = format!("it names layer {layer}, and this model has {}", card.layers);
                return Err(file.bad(what));
            }
        }
        if !origin.prompts.template.contains(SUBJECT) || !origin.beta.is_finite() {
            return Err(file.bad("its template has no {}, or its beta is no number"));
        }
        let reads = pair(origin.layer, card.layers);
        let edits = pair(origin.edit_layer, card.layers);
        let given = |name: &str, shape: &[usize]| {
            let values = file.values(name, shape)?;
            values.ok_or_else(|| file.bad(format!("it lacks `{name}`")))
        };
        let weight = given(&format!("{reads}.weight"), &[d, d])?;
        let bias = given(&format!("{reads}.bias"), &[d])?;
        let inverted = given(&format!("{edits}.weight"), &[d, d])?;
        let rank = file.shape("singular_values").first().copied().unwrap_or(0);
        let values = given("singular_values", &[rank])?;
        let vectors = given("singular_vectors", &[rank, d])?;
        if rank > d || values.iter().any(|v| *v <= 0.0) {
            return Err(file.bad("its singular values are none of this matrix"));
        }
        Ok(Self {
            origin,
            weight,
            bias,
            inverse: RelationInverse {
                weight: inverted,
                spectrum: Spectrum {
                    values: values.into_iter().map(f64::from).collect(),
                    vectors,
                },
            },
        })
    }
}

/// The addresses that a map leads from and to.
fn pair(layer: usize, layers: usize) -> String {
    format!(
        "{}>{}",
        Site::ResidPost.at(layer),
        Site::ResidPost.at(layers.saturating_sub(1))
    )
}

/// The relation maps embedded in the binary, for the demo model (see demo/CARD.md).
#[cfg(feature = "demo")]
pub fn embedded() -> &'static [(&'static str, &'static [u8])] {
    &[(
        "capital",
        include_bytes!("../../demo/vectors/capital.safetensors"),
    )]
}

/// This build contains neither the demo model nor its maps.
#[cfg(not(feature = "demo"))]
pub fn embedded() -> &'static [(&'static str, &'static [u8])] {
    &[]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pair(subject: &str, object: &str) -> RelationPair {
        RelationPair {
            subject: subject.into(),
            object: object.into(),
        }
    }

    #[test]
    fn a_prompt_shows_the_examples_of_other_subjects() {
        let prompts = RelationPrompts {
            template: "The capital of {} is ".into(),
            examples: vec![pair("France", "Paris"), pair("Peru", "Lima")],
        };
        assert_eq!(
            prompts.text("France"),
            "The capital of Peru is Lima\nThe capital of France is"
        );
        assert!(
            prompts
                .text("Japan")
                .starts_with("The capital of France is Paris\n")
        );
    }

    /// `W = diag(4, 2, 0)`.
    fn diagonal() -> Vec<f32> {
        vec![4.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    }

    #[test]
    fn beta_scales_what_the_matrix_makes_and_not_the_bias() {
        let map = RelationMap {
            origin: RelationOrigin {
                beta: 3.0,
                ..RelationOrigin::default()
            },
            weight: diagonal(),
            bias: vec![0.5, 0.0, 1.0],
            inverse: RelationInverse::default(),
        };
        assert_eq!(map.object(&[1.0, 1.0, 1.0]), [12.5, 6.0, 1.0]);
    }

    #[test]
    fn the_inverse_goes_back_along_as_many_directions_as_its_rank() {
        let inverse = RelationInverse::new(diagonal(), 3).unwrap();
        assert_eq!(inverse.spectrum.rank(), 2);
        let close = |rank: usize, expected: [f32; 3]| {
            let found = inverse.apply(&[4.0, 4.0, 4.0], rank);
            let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 1e-6, "{rank}: {found:?}");
        };
        close(1, [1.0, 0.0, 0.0]);
        close(2, [1.0, 2.0, 0.0]);
        close(3, [1.0, 2.0, 0.0]);
    }
}
