//! The circuits of attention heads, out of the weights alone: how strongly heads compose, and what a head reads and writes.
//!
//! A head reads the stream by its queries and keys (the QK circuit, `x_q Qᵀ K x_kᵀ`) and moves what its values read to its output (the
//! OV circuit, `x Vᵀ O`). [`composition`] compares circuits of two heads, [`singular`] takes one apart. Invariant: what stands here
//! holds for every text; scales of norms, biases and the rotation by positions are left out, and the figures say so. To show something
//! else of a circuit, add a file here.

pub mod composition;
pub mod factors;
pub mod singular;

use crate::error::{Error, Result};
use crate::instruments::params::{ParamKind, ParameterValue};
use crate::lab::Lab;
use crate::vectors::function_vector::Head;

/// A head, as `LAYER.HEAD`; `LAYER/HEAD` is read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadName(pub Head);

/// What is expected of the name of a head.
const EXPECTED: &str = "a head as LAYER.HEAD, such as 3.1";

impl HeadName {
    /// The head, after checking that the model has it.
    ///
    /// # Errors
    ///
    /// When it has not.
    pub fn on(self, lab: &Lab) -> Result<Head> {
        let (card, (layer, head)) = (&lab.model.card, self.0);
        if layer < card.layers && head < card.heads {
            return Ok(self.0);
        }
        let expected = format!(
            "a head from 0.0 to {}.{}",
            card.layers - 1,
            card.heads.saturating_sub(1)
        );
        Err(Error::argument("head", self.print(), expected))
    }
}

impl ParameterValue for HeadName {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let parts = text.trim().split_once(['.', '/']);
        let head = parts.and_then(|(l, h)| Some((l.parse().ok()?, h.parse().ok()?)));
        head.map(Self).ok_or_else(|| EXPECTED.into())
    }

    fn print(&self) -> String {
        format!("{}.{}", self.0.0, self.0.1)
    }
}

impl ParameterValue for Option<HeadName> {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        HeadName::parse(text).map(Some)
    }

    fn print(&self) -> String {
        self.as_ref().map_or_else(String::new, HeadName::print)
    }
}
