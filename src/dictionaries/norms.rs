//! What a dictionary does to a row before it is encoded, and undoes after it is decoded.
//!
//! Invariant: undoing is exact up to rounding. To add one, add a variant and its arm in [`InputNorm::apply`].
//!
//! Source: `SAELens` `saes/sae.py`, `run_time_activation_norm_fn_in` and `_out`; `sparse_autoencoder` of OpenAI, `LN`.

/// What is done to every row of activations first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputNorm {
    #[default]
    Nothing,
    /// Times `√width / ‖x‖`.
    ConstantNorm,
    /// `(x − mean) / (σ + 1e-5)`, with the standard deviation of a sample: divided by `width − 1`.
    LayerNorm,
    /// Minus its mean: the stream of a model whose writing weights were centred.
    Centred,
}

/// How a row was normalised: `x' = (x − mean) · scale`, and back `x' · back + mean`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalised {
    pub mean: f32,
    pub scale: f32,
    /// `1 / scale`; of a LayerNorm σ itself, as its tools have it.
    pub back: f32,
}

impl Normalised {
    /// A row back to what it was.
    pub fn undo(self, row: &mut [f32]) {
        row.iter_mut().for_each(|v| *v = *v * self.back + self.mean);
    }
}

impl InputNorm {
    /// Normalises a row in place; sums in f64.
    pub fn apply(self, row: &mut [f32]) -> Normalised {
        let count = row.len().max(1) as f64;
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let squares = |less: f64| {
            row.iter()
                .map(|v| (f64::from(*v) - less).powi(2))
                .sum::<f64>()
        };
        let done = match self {
            Self::Nothing => {
                return Normalised {
                    mean: 0.0,
                    scale: 1.0,
                    back: 1.0,
                };
            }
            Self::ConstantNorm => Normalised {
                mean: 0.0,
                scale: (count / squares(0.0)).sqrt() as f32,
                back: (squares(0.0) / count).sqrt() as f32,
            },
            Self::LayerNorm => {
                let deviation = (squares(mean) / (count - 1.0).max(1.0)).sqrt();
                Normalised {
                    mean: mean as f32,
                    scale: (deviation + 1e-5).recip() as f32,
                    back: deviation as f32,
                }
            }
            Self::Centred => Normalised {
                mean: mean as f32,
                scale: 1.0,
                back: 1.0,
            },
        };
        row.iter_mut()
            .for_each(|v| *v = (*v - done.mean) * done.scale);
        done
    }
}
