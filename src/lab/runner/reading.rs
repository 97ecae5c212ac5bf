//! The gradient of how a state is read: of the KL divergence between what it says through the final norm and the unembedding, and
//! given distributions.
//!
//! Invariant: it goes through the same norm, product, multiplier and soft-cap as every reading, by their plain paths.

use candle_core::{D, DType, Tensor, Var};

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::model::host::ToHost;
use crate::model::network::tap::GradientTap;

impl Lab {
    /// `KL(given ‖ read)` in nats of every row of states, `[n, d_model]`, from the natural log-probabilities that are given, `[n, vocab]`;
    /// and the gradient of each with respect to its row, `[n, d_model]`, f32.
    ///
    /// # Errors
    ///
    /// When shapes do not fit or the device has no gradients.
    pub fn reading_gradient(&self, rows: &Tensor, given: &Tensor) -> Result<(Vec<f32>, Tensor)> {
        let transformer = &self.model.transformer;
        transformer.precision.check_gradients(&transformer.device)?;
        transformer.on_thread_pool(|| {
            let leaf = Var::from_tensor(&rows.to_dtype(transformer.dtype())?.unsqueeze(0)?)?;
            let logits = transformer.read_out(leaf.as_tensor(), &mut GradientTap)?;
            let read = candle_nn::ops::log_softmax(&logits.squeeze(0)?, D::Minus1)?;
            let shares = given.exp()?;
            // Tokens without probability have no part in it.
            let known = given.clamp(-1e4f32, 0f32)?;
            let each = (shares * (known - read)?)?.sum(D::Minus1)?;
            let gradients = each.sum_all()?.backward()?;
            let own = gradients
                .get(&leaf)
                .ok_or_else(|| Error::Engine("a reading without a gradient".into()))?;
            Ok((each.host_vec1()?, own.squeeze(0)?.to_dtype(DType::F32)?))
        })
    }
}
