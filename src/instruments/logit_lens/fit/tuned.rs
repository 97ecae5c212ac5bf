//! The tuned lens: for the state that enters each block an affine map `h + A h + b`, after which the final norm and the unembedding read
//! what the model will say (Belrose et al. 2023, 2303.08112, section 3).
//!
//! The loss of a map is the mean KL(model's own output ‖ read) over tokens; it begins as the plain logit lens, at zero. The optimiser is
//! that of the authors' program: SGD with Nesterov's momentum 0.9, a learning rate that falls from `1 − momentum` to zero, weight decay
//! 1e-3, and gradients whose norm over all maps together is clipped at 1. Invariant: maps of different blocks share nothing but that
//! clipping.

use candle_core::{D, DType, Tensor};

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{After, Output};
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::site::Site;

const MOMENTUM: f64 = 0.9;
const DECAY: f64 = 1e-3;
const CLIP: f64 = 1.0;

/// How many rows of logits are held at once.
const ROWS: usize = 256;

/// Tokens at the beginning of a piece that are left out of the held-out measure: position 0 is an attention sink.
const SINK: usize = 1;

/// The map of one block.
#[derive(Clone, Debug)]
struct Translator {
    /// `[d_model, d_model]` and `[d_model]`, f32.
    weight: Tensor,
    bias: Tensor,
    weight_momentum: Tensor,
    bias_momentum: Tensor,
}

/// Maps on their way.
#[derive(Clone, Debug)]
pub struct TunedFit {
    maps: Vec<Translator>,
    pub width: usize,
    /// Steps done, and steps in all.
    pub step: usize,
    pub steps: usize,
    /// By step: the mean KL over tokens and blocks, nats, before the step.
    pub losses: Vec<f64>,
}

/// What a lens reads on held-out text, by block: mean KL(model ‖ read) of the plain lens and of the fitted one, nats.
pub type HeldOut = Vec<(f64, f64)>;

impl TunedFit {
    /// Maps of zeros for a model.
    ///
    /// # Errors
    ///
    /// When a tensor cannot be made.
    pub fn new(lab: &Lab, steps: usize) -> Result<Self> {
        let (card, device) = (&lab.model.card, &lab.model.transformer.device);
        let width = card.d_model;
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, device);
        let map = |_| -> Result<Translator> {
            Ok(Translator {
                weight: zeros(&[width, width])?,
                bias: zeros(&[width])?,
                weight_momentum: zeros(&[width, width])?,
                bias_momentum: zeros(&[width])?,
            })
        };
        Ok(Self {
            maps: (0..card.layers).map(map).collect::<Result<_>>()?,
            width,
            step: 0,
            steps,
            losses: Vec::new(),
        })
    }

    /// The map of the state that enters a block: weight `[d_model, d_model]`, row after row, and bias `[d_model]`.
    ///
    /// # Errors
    ///
    /// When the device cannot be read.
    pub fn map(&self, block: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let map = &self.maps[block];
        Ok((
            map.weight.flatten_all()?.host_vec1()?,
            map.bias.host_vec1()?,
        ))
    }

    /// One step on a batch of texts.
    ///
    /// # Errors
    ///
    /// When a loss is not finite, or the work is stopped: then nothing has changed.
    pub fn train(&mut self, lab: &mut Lab, texts: &[Vec<u32>]) -> Result<()> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for map in &self.maps {
            weights.push(map.weight.zeros_like()?);
            biases.push(map.bias.zeros_like()?);
        }
        let (mut loss, mut count) = (0f64, 0usize);
        let tokens: usize = texts.iter().map(Vec::len).sum();
        for (i, text) in texts.iter().enumerate() {
            let share = i as f32 / texts.len() as f32..(i + 1) as f32 / texts.len() as f32;
            lab.part(share, |lab| -> Result<()> {
                let (states, given) = read(lab, text)?;
                for (block, x) in states.iter().enumerate() {
                    lab.report(block as f32 / states.len() as f32)?;
                    for (x, given) in batches(x, &given)? {
                        let mapped = self.maps[block].apply(&x)?;
                        let (kl, gradient) = lab.reading_gradient(&mapped, &given)?;
                        loss += kl.iter().map(|x| f64::from(*x)).sum::<f64>();
                        count += kl.len();
                        let gradient = (gradient / tokens as f64)?;
                        weights[block] = (&weights[block] + gradient.t()?.matmul(&x)?)?;
                        biases[block] = (&biases[block] + gradient.sum(0)?)?;
                    }
                }
                Ok(())
            })?;
        }
        let mut square = 0f64;
        for gradient in weights.iter().chain(&biases) {
            square += f64::from(gradient.sqr()?.sum_all()?.host_scalar::<f32>()?);
        }
        let mean = loss / count.max(1) as f64;
        if !mean.is_finite() || !square.is_finite() {
            return Err(lab.not_finite("The loss of a tuned lens is"));
        }
        let clip = (CLIP / square.sqrt().max(f64::MIN_POSITIVE)).min(1.0);
        let rate = (1.0 - MOMENTUM) * (1.0 - self.step as f64 / self.steps as f64);
        for ((map, weight), bias) in self.maps.iter_mut().zip(weights).zip(biases) {
            step(
                &mut map.weight,
                &mut map.weight_momentum,
                &(weight * clip)?,
                rate,
                self.step,
            )?;
            step(
                &mut map.bias,
                &mut map.bias_momentum,
                &(bias * clip)?,
                rate,
                self.step,
            )?;
        }
        self.step += 1;
        self.losses.push(mean);
        Ok(())
    }

    /// The mean KL divergences on texts, of the plain lens and of the fitted one, without the first position.
    ///
    /// # Errors
    ///
    /// When a text cannot be read, or the work is stopped.
    pub fn held_out(&self, lab: &mut Lab, texts: &[Vec<u32>]) -> Result<HeldOut> {
        let mut sums = vec![(0f64, 0f64); self.maps.len()];
        let mut count = 0usize;
        for (i, text) in texts.iter().enumerate() {
            lab.report(i as f32 / texts.len() as f32)?;
            if text.len() <= SINK {
                continue;
            }
            let (states, given) = read(lab, text)?;
            let kept = text.len() - SINK;
            count += kept;
            let given = given.narrow(0, SINK, kept)?;
            for ((map, x), sums) in self.maps.iter().zip(&states).zip(&mut sums) {
                for (x, given) in batches(&x.narrow(0, SINK, kept)?, &given)? {
                    sums.0 += lab.reading_divergence(&x, &given)?;
                    sums.1 += lab.reading_divergence(&map.apply(&x)?, &given)?;
                }
            }
        }
        if count == 0 {
            return Err(Error::argument("text", "no tokens", "held-out tokens"));
        }
        let mean = |(plain, tuned): (f64, f64)| (plain / count as f64, tuned / count as f64);
        Ok(sums.into_iter().map(mean).collect())
    }
}

impl Translator {
    /// `h + A h + b` of rows.
    fn apply(&self, rows: &Tensor) -> Result<Tensor> {
        let moved = rows.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?;
        Ok((rows + moved)?)
    }
}

/// A step of SGD with decay and Nesterov's momentum, as PyTorch does it.
fn step(
    value: &mut Tensor,
    momentum: &mut Tensor,
    gradient: &Tensor,
    rate: f64,
    number: usize,
) -> Result<()> {
    let gradient = (gradient + (&*value * DECAY)?)?;
    *momentum = if number == 0 {
        gradient.clone()
    } else {
        ((&*momentum * MOMENTUM)? + &gradient)?
    };
    let along = (gradient + (&*momentum * MOMENTUM)?)?;
    *value = (&*value - (along * rate)?)?;
    Ok(())
}

/// The state that enters every block, `[tokens, d_model]`, f32, and the model's own log-probabilities, `[tokens, vocab]`.
fn read(lab: &mut Lab, text: &[u32]) -> Result<(Vec<Tensor>, Tensor)> {
    let at: Vec<_> = (0..lab.model.card.layers)
        .map(|l| Site::ResidPre.at(l))
        .collect();
    let logits = Site::Logits.at(0);
    let pass = Pass {
        record: at.iter().copied().chain([logits]).collect(),
        output: Output {
            after: After::Nothing,
            ..Output::default()
        },
        ..Pass::of(Run::plain(text.to_vec()))
    };
    let read = lab.run_one(&pass)?;
    let states = at.iter().map(|at| Ok(read.get(*at)?.to_dtype(DType::F32)?));
    let logits = read.get(logits)?.to_dtype(DType::F32)?;
    let given = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
    Ok((states.collect::<Result<_>>()?, given))
}

/// States and log-probabilities, some rows at a time.
fn batches(x: &Tensor, given: &Tensor) -> Result<Vec<(Tensor, Tensor)>> {
    let rows = x.dim(0)?;
    let some = |first: usize| -> Result<(Tensor, Tensor)> {
        let count = ROWS.min(rows - first);
        let own = |t: &Tensor| t.narrow(0, first, count)?.contiguous();
        Ok((own(x)?, own(given)?))
    };
    (0..rows).step_by(ROWS).map(some).collect()
}
