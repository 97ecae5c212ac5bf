//! The one form of a dictionary, whatever its file: sparse autoencoders, transcoders, cross-layer transcoders and crosscoders.
//!
//! Row vectors. Each input `x` is normalised, `less` is subtracted, and the products with the encoder are scaled and added:
//! `h = Σ (norm(x) − less) W_enc · scale + bias`. The gate makes features `f` of `h`. Each target is `norm⁻¹(Σ f_i · scale_i ·
//! W_dec[i] + bias) + x W_skip`.
//!
//! Invariant: what a file folds or leaves to be folded is a scale or a vector here; matrices stay as they are stored. To serve
//! another architecture, add a [`FeatureGate`].
//!
//! Sources: Cunningham 2309.08600; Bricken et al. 2023; transcoders Dunefsky 2406.11944; skip transcoders 2501.18823; crosscoders
//! and cross-layer transcoders: Lindsey et al. 2024, Ameisen et al. 2025.

use super::Report;
use super::gate::FeatureGate;
use super::matrix::{FeatureMatrix, FeatureScale};
use super::norms::{InputNorm, Normalised};
use super::place::DictionaryPlace;
use crate::error::{Error, Result};
use crate::lab::features::ActiveRow;
use crate::model::memory;
use crate::model::network::finite;

/// Bytes of products that are laid out at once.
const ROOM: usize = 64 << 20;

/// What a dictionary reads.
#[derive(Clone, Debug)]
pub struct Input {
    pub place: DictionaryPlace,
    pub norm: InputNorm,
    /// Subtracted after the norm, `[width]`: the bias of the decoder in most autoencoders.
    pub less: Option<Vec<f32>>,
    pub encoder: FeatureMatrix,
    /// A factor on the products, before the bias.
    pub scale: FeatureScale,
}

/// What a dictionary reconstructs.
#[derive(Clone, Debug)]
pub struct Target {
    pub place: DictionaryPlace,
    pub decoder: FeatureMatrix,
    /// A factor on the features' vectors.
    pub scale: FeatureScale,
    /// `[width]`; empty where another dictionary of the set has it.
    pub bias: Vec<f32>,
    /// Whether the norm of the first input is undone.
    pub undo: bool,
    /// A linear part from the first input: rows of outputs, `[width, input]`.
    pub skip: Option<FeatureMatrix>,
}

/// A dictionary.
#[derive(Clone, Debug)]
pub struct Dictionary {
    /// Safe visible text.
    pub name: String,
    /// The format of its file.
    pub format: &'static str,
    /// The model that its file names; safe visible text.
    pub made_for: Option<String>,
    /// Several in a crosscoder.
    pub inputs: Vec<Input>,
    /// `[features]`; zeros where the gate has biases of its own.
    pub bias: Vec<f32>,
    pub gate: FeatureGate,
    /// Several in a crosscoder and in cross-layer transcoders.
    pub targets: Vec<Target>,
    /// What a reader must know about the file.
    pub remarks: Vec<String>,
}

/// The features of some rows, with what undoes their norms.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    /// By row.
    pub features: Vec<ActiveRow>,
    /// Of the first input, by row.
    pub norms: Vec<Normalised>,
}

impl Dictionary {
    pub fn features(&self) -> usize {
        self.bias.len()
    }

    /// Whether it reconstructs what it reads, rather than something else.
    pub fn is_autoencoder(&self) -> bool {
        let places = |places: Vec<&DictionaryPlace>| -> Vec<DictionaryPlace> {
            places.into_iter().cloned().collect()
        };
        places(self.inputs.iter().map(|i| &i.place).collect())
            == places(self.targets.iter().map(|t| &t.place).collect())
    }

    /// What it is, in a line.
    pub fn about(&self) -> String {
        let kind = match (self.inputs.len(), self.targets.len(), self.is_autoencoder()) {
            (1, 1, true) => "sparse autoencoder",
            (1, 1, false) => "transcoder",
            (1, _, _) => "cross-layer transcoder",
            _ => "crosscoder",
        };
        let read = self
            .inputs
            .first()
            .map_or(String::new(), |i| i.place.to_string());
        let target = self
            .targets
            .first()
            .map_or(String::new(), |t| t.place.to_string());
        let places = if kind == "transcoder" {
            format!("from {read} to {target}")
        } else {
            format!("of {read}")
        };
        format!(
            "{}: {kind} ({}, {} features) {places}, {} file",
            self.name,
            self.gate.name(),
            self.features(),
            self.format
        )
    }

    /// Refuses a dictionary whose parts do not fit each other or are not finite. Matrices are not read.
    ///
    /// # Errors
    ///
    /// Says which part and what was expected.
    pub fn check(&self) -> Result<()> {
        let features = self.features();
        let refuse = |what: String| {
            Err(Error::bad_file(
                &self.name,
                what,
                "Are config and weights of one dictionary?",
            ))
        };
        let vector = |what: &str, vector: &[f32], expected: usize| {
            if vector.len() != expected {
                return refuse(format!(
                    "its {what} has {} numbers, and {expected} are expected",
                    vector.len()
                ));
            }
            if !finite::all(vector) {
                return refuse(format!("its {what} has a number that is not finite"));
            }
            Ok(())
        };
        if self.inputs.is_empty() || self.targets.is_empty() || features == 0 {
            return refuse("it has no features, or nothing that they read or reconstruct".into());
        }
        vector("encoder bias", &self.bias, features)?;
        let scale = |what: &str, scale: &FeatureScale| match scale {
            FeatureScale::One => Ok(()),
            FeatureScale::All(one) => vector(what, &[*one], 1),
            FeatureScale::Each(each) => vector(what, each, features),
        };
        let widths = self.inputs.iter().map(|i| i.encoder.width);
        if widths
            .chain(self.targets.iter().map(|t| t.decoder.width))
            .any(|width| width == 0)
        {
            return refuse("one of its matrices has width 0".into());
        }
        for input in &self.inputs {
            let encoder = &input.encoder;
            if encoder.features != features {
                return refuse(format!(
                    "its encoder is for {} features and width {}, and its biases for {features}: is it transposed?",
                    encoder.features, encoder.width
                ));
            }
            if let Some(less) = &input.less {
                vector("bias on the input", less, encoder.width)?;
            }
            scale("scale", &input.scale)?;
        }
        for target in &self.targets {
            let decoder = &target.decoder;
            if decoder.features != features {
                return refuse(format!(
                    "its decoder is for {} features and width {}, and its encoder for {features}: is it transposed?",
                    decoder.features, decoder.width
                ));
            }
            if !target.bias.is_empty() {
                vector("decoder bias", &target.bias, decoder.width)?;
            }
            scale("scale of the decoder", &target.scale)?;
            if let (Some(skip), Some(input)) = (&target.skip, self.inputs.first())
                && (skip.features, skip.width) != (decoder.width, input.encoder.width)
            {
                return refuse(format!(
                    "its skip connection goes from width {} to {}, and {} to {} is expected",
                    skip.width, skip.features, input.encoder.width, decoder.width
                ));
            }
        }
        match &self.gate {
            FeatureGate::Relu => Ok(()),
            FeatureGate::AbsTopK(k) | FeatureGate::TopK(k) if (1..=features).contains(k) => Ok(()),
            FeatureGate::Threshold(threshold) => vector("threshold", &[*threshold], 1),
            FeatureGate::JumpRelu(thresholds) => vector("thresholds", thresholds, features),
            FeatureGate::GroupMax(k) if *k > 0 && features.is_multiple_of(*k) => Ok(()),
            FeatureGate::TopK(k) | FeatureGate::AbsTopK(k) | FeatureGate::GroupMax(k) => {
                refuse(format!("its k is {k}, for {features} features"))
            }
            FeatureGate::Gated {
                gate,
                scale,
                magnitude,
            } => {
                vector("gate bias", gate, features)?;
                vector("magnitude scale", scale, features)?;
                vector("magnitude bias", magnitude, features)
            }
        }
    }

    /// The features of rows: one slice `[rows, width]` an input.
    ///
    /// # Errors
    ///
    /// When the number of inputs or a width does not fit, or a product is not finite.
    pub fn encode(&self, inputs: &[&[f32]]) -> Result<Encoded> {
        self.encode_watched(inputs, &|_| Ok(()))
    }

    /// As [`Dictionary::encode`]; `report` is told what share is done, and its error ends it.
    ///
    /// # Errors
    ///
    /// As [`Dictionary::encode`], what `report` says, and where the products do not fit the free memory.
    pub fn encode_watched(&self, inputs: &[&[f32]], report: Report) -> Result<Encoded> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::Engine(format!(
                "{} reads {} places, and {} were given",
                self.name,
                self.inputs.len(),
                inputs.len()
            )));
        }
        let features = self.features();
        let width = |i: usize| self.inputs[i].encoder.width.max(1);
        let rows = inputs.first().map_or(0, |x| x.len() / width(0));
        let at_once = (ROOM / (4 * features).max(1)).clamp(1, 512);
        let needed = 8 * features as u64 * at_once.min(rows) as u64;
        memory::check_free(
            &self.name,
            "the products of a token with its encoder",
            needed,
        )?;
        let mut encoded = Encoded::default();
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            let mut h = vec![0f32; count * features];
            for (i, (input, x)) in self.inputs.iter().zip(inputs).enumerate() {
                let span = first * width(i)..(first + count) * width(i);
                let x = x
                    .get(span)
                    .ok_or_else(|| Error::Engine("inputs of unequal length".into()))?;
                let mut x = x.to_vec();
                for row in x.chunks_exact_mut(width(i)) {
                    let norm = input.norm.apply(row);
                    if i == 0 {
                        encoded.norms.push(norm);
                    }
                    if let Some(less) = &input.less {
                        row.iter_mut().zip(less).for_each(|(x, b)| *x -= b);
                    }
                }
                let told = |done: f32| {
                    let of = (i as f32 + done) / inputs.len() as f32;
                    report((first as f32 + of * count as f32) / rows as f32)
                };
                if let FeatureScale::One = input.scale {
                    input.encoder.add_products(&x, &mut h, &told)?;
                    continue;
                }
                let mut products = vec![0f32; count * features];
                input.encoder.add_products(&x, &mut products, &told)?;
                for (h, products) in h
                    .chunks_exact_mut(features)
                    .zip(products.chunks_exact(features))
                {
                    let scaled = products.iter().enumerate();
                    h.iter_mut()
                        .zip(scaled)
                        .for_each(|(h, (f, p))| *h += p * input.scale.of(f));
                }
            }
            for h in h.chunks_exact_mut(features) {
                h.iter_mut().zip(&self.bias).for_each(|(h, b)| *h += b);
                if !finite::all(h) {
                    return Err(Error::not_finite(
                        format!(
                            "The encoder of {} gives numbers that are not finite",
                            self.name
                        ),
                        "Does the dictionary belong to this model and place, and is its file whole",
                    ));
                }
                encoded.features.push(self.gate.active(h));
            }
        }
        Ok(encoded)
    }

    /// The reconstruction of a target, `[rows, width]`; `x` is the first input, for a skip connection.
    ///
    /// # Errors
    ///
    /// When there is no such target, or a vector of an active feature is not finite.
    pub fn decode(&self, target: usize, encoded: &Encoded, x: &[f32]) -> Result<Vec<f32>> {
        self.decode_watched(target, encoded, x, &|_| Ok(()))
    }

    /// As [`Dictionary::decode`]; `report` is told what share is done, and its error ends it.
    ///
    /// # Errors
    ///
    /// As [`Dictionary::decode`], and what `report` says.
    pub fn decode_watched(
        &self,
        target: usize,
        encoded: &Encoded,
        x: &[f32],
        report: Report,
    ) -> Result<Vec<f32>> {
        let Some(target) = self.targets.get(target) else {
            return Err(Error::Engine(format!(
                "{} has no target {target}",
                self.name
            )));
        };
        let width = target.decoder.width.max(1);
        let active = &encoded.features;
        let mut sums = target.decoder.sums(active, &target.scale, report)?;
        for (row, norm) in sums.chunks_exact_mut(width).zip(&encoded.norms) {
            row.iter_mut().zip(&target.bias).for_each(|(s, b)| *s += b);
            if target.undo {
                norm.undo(row);
            }
        }
        if let Some(skip) = &target.skip {
            skip.add_products(x, &mut sums, report)?;
        }
        if let Some(row) = sums.chunks_exact(width).position(|row| !finite::all(row)) {
            let mut features = active.get(row).into_iter().flatten();
            let bad = features.find(|(f, _)| !finite::all(&target.decoder.row(*f as usize)));
            let what = match bad {
                Some((f, _)) => format!(
                    "The decoder of {} has numbers that are not finite in the vector of feature {f}",
                    self.name
                ),
                None => format!(
                    "What {} reconstructs of {} is not finite",
                    self.name, target.place
                ),
            };
            return Err(Error::not_finite(
                what,
                "Is its file whole? No number of this dictionary can be trusted",
            ));
        }
        Ok(sums)
    }

    /// The vector that one unit of a feature adds to a target, `[width]`, before the norm is undone.
    pub fn direction(&self, target: usize, feature: usize) -> Option<Vec<f32>> {
        let target = self.targets.get(target)?;
        if feature >= self.features() {
            return None;
        }
        let mut row = target.decoder.row(feature);
        let scale = target.scale.of(feature);
        row.iter_mut().for_each(|w| *w *= scale);
        Some(row)
    }

    /// The dictionary with some of its features alone, their vectors in memory and numbered anew; without skip connections. None
    /// where whether a feature is active depends on the others.
    pub fn of(&self, features: &[u32]) -> Option<Self> {
        let gate = self.gate.of(features)?;
        let input = |input: &Input| Input {
            encoder: input.encoder.of(features),
            scale: input.scale.among(features),
            ..input.clone()
        };
        let target = |target: &Target| Target {
            decoder: target.decoder.of(features),
            scale: target.scale.among(features),
            skip: None,
            ..target.clone()
        };
        Some(Self {
            inputs: self.inputs.iter().map(input).collect(),
            bias: features.iter().map(|f| self.bias[*f as usize]).collect(),
            gate,
            targets: self.targets.iter().map(target).collect(),
            ..self.clone()
        })
    }

    /// The norms of the decoder's vectors, scaled, over all targets together: `[features]`. Reads the decoder once.
    pub fn decoder_norms(&self) -> Vec<f32> {
        self.decoder_norms_watched(&|_| Ok(())).unwrap_or_default()
    }

    /// As [`Dictionary::decoder_norms`]; `report` is told what share is done, and its error ends it.
    ///
    /// # Errors
    ///
    /// What `report` says.
    pub fn decoder_norms_watched(&self, report: Report) -> Result<Vec<f32>> {
        let mut squares = vec![0f64; self.features()];
        for (i, target) in self.targets.iter().enumerate() {
            let told = |done: f32| report((i as f32 + done) / self.targets.len() as f32);
            let norms = target.decoder.norms(&told)?;
            for (f, (square, norm)) in squares.iter_mut().zip(norms).enumerate() {
                *square += f64::from(norm * target.scale.of(f)).powi(2);
            }
        }
        Ok(squares.into_iter().map(|s| s.sqrt() as f32).collect())
    }

    /// Gives every feature a decoder vector of length one and activations that are as much larger. What is reconstructed stays
    /// the same. Reads the decoder once.
    ///
    /// # Errors
    ///
    /// Where the choice of features would change.
    pub fn fold_decoder_norms(&mut self) -> Result<()> {
        self.fold_decoder_norms_watched(&|_| Ok(()))
    }

    /// As [`Dictionary::fold_decoder_norms`]; `report` is told what share is done, and its error ends it.
    ///
    /// # Errors
    ///
    /// As [`Dictionary::fold_decoder_norms`], and what `report` says.
    pub fn fold_decoder_norms_watched(&mut self, report: Report) -> Result<()> {
        let n = self.decoder_norms_watched(report)?;
        let Some(gate) = self.gate.folded(&n) else {
            return Err(Error::Engine(format!(
                "the decoder norms of a {} dictionary cannot be folded: the choice of features would change",
                self.gate.name()
            )));
        };
        self.gate = gate;
        self.rescale(&n);
        Ok(())
    }

    /// Multiplies every feature's encoder and bias by `n` and divides its decoder by it, with the gate as it is: top-k over
    /// activations times decoder norms.
    pub fn rescale(&mut self, n: &[f32]) {
        let features = self.features();
        // A feature with a decoder vector of zeros writes nothing, whatever its activation.
        let inverse = |f: usize| if n[f] > 0.0 { n[f].recip() } else { 0.0 };
        for input in &mut self.inputs {
            input.scale = input.scale.times(|f| n[f], features);
        }
        self.bias.iter_mut().zip(n).for_each(|(b, n)| *b *= n);
        for target in &mut self.targets {
            target.scale = target.scale.times(inverse, features);
        }
    }

    /// Folds in that the input was multiplied by `s` before it was encoded, and what is reconstructed divided by it.
    pub fn fold_input_scale(&mut self, s: f32) {
        for input in &mut self.inputs {
            input.scale = input.scale.scaled(s);
            // (s x − b) W = s (x − b / s) W.
            if let Some(less) = &mut input.less {
                less.iter_mut().for_each(|b| *b /= s);
            }
        }
        for target in &mut self.targets {
            target.scale = target.scale.scaled(s.recip());
            target.bias.iter_mut().for_each(|b| *b /= s);
        }
    }
}
