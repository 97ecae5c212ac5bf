//! Sites: the named places in the forward pass, and addresses (a site at a layer).
//!
//! Invariant: [`SITES`] is the only list of our names. [`super::address`] reads addresses from text.
//! To add a site, add a row and one `visit` line in the forward pass.

use std::fmt;

use crate::error::{Error, Result};

/// What the last axis of a site counts, and therefore what the indices of an edit mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// The residual width `d_model`.
    Model,
    /// Neurons, `d_mlp`.
    Mlp,
    /// Query heads times `head_dim`.
    Heads,
    /// Key-value heads times `head_dim`.
    KvHeads,
    /// Experts of a mixture.
    Experts,
    /// Attended positions.
    Positions,
    /// The vocabulary.
    Vocab,
}

/// One row of [`SITES`].
#[derive(Debug)]
pub struct SiteSpec {
    pub site: Site,
    /// The name, as addresses print it.
    pub name: &'static str,
    /// Whether the site exists in every layer, rather than once.
    pub layered: bool,
    /// Shape for one prompt.
    pub shape: &'static str,
    /// The last axis.
    pub axis: Axis,
    /// A one-sentence description.
    pub about: &'static str,
}

macro_rules! rows {
    ($($site:ident $name:literal $layered:literal $shape:literal $axis:ident $about:literal;)*) => {
        /// A named place in the forward pass.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Site {
            $(#[doc = $about] $site,)*
        }

        /// All sites, in the order of the forward pass.
        pub const SITES: &[SiteSpec] = &[$(SiteSpec { site: Site::$site, name: $name, layered: $layered, shape: $shape, axis: Axis::$axis, about: $about }),*];
    };
}

rows! {
    Embed "embed" false "[tokens, d_model]" Model "input of block 0: the embedding after its multiplier, with learned positions if the family has them";
    ResidPre "resid_pre" true "[tokens, d_model]" Model "residual stream entering block L";
    AttnIn "attn_in" true "[tokens, d_model]" Model "input of attention, after the norm before it, if the family has one";
    Q "q" true "[tokens, heads, head_dim]" Heads "queries before the rotation (after their norm, if the family has one)";
    K "k" true "[tokens, kv_heads, head_dim]" KvHeads "keys before the rotation (after their norm, if the family has one)";
    V "v" true "[tokens, kv_heads, head_dim]" KvHeads "values";
    AttnScores "attn_scores" true "[heads, tokens, tokens]" Positions "attention scores before the softmax, scaled and soft-capped; masked entries are -inf";
    AttnProbs "attn_probs" true "[heads, tokens, tokens]" Positions "attention probabilities, one row for each query";
    Z "z" true "[tokens, heads, head_dim]" Heads "output of each head (attention probabilities times values), before the output projection";
    AttnOut "attn_out" true "[tokens, d_model]" Model "attention output, as the attention module returns it";
    AttnAdd "attn_add" true "[tokens, d_model]" Model "attention output, as it is added to the residual stream: after an output norm or multiplier, if there is one";
    ResidMid "resid_mid" true "[tokens, d_model]" Model "residual stream between attention and MLP (not in parallel blocks)";
    MlpNormed "mlp_normed" true "[tokens, d_model]" Model "input of the MLP, normed, before the gain and bias of the norm, if the block has a norm there";
    MlpIn "mlp_in" true "[tokens, d_model]" Model "input of the MLP, after the norm before it, if the family has one";
    MlpGate "mlp_gate" true "[tokens, d_mlp]" Mlp "gate before its activation function (gated MLPs)";
    MlpUp "mlp_up" true "[tokens, d_mlp]" Mlp "up projection; in MLPs without a gate before the activation function";
    MlpAct "mlp_act" true "[tokens, d_mlp]" Mlp "neuron activations: act(gate) * up, or act(up)";
    Router "router" true "[tokens, experts]" Experts "weight of every expert in the sum, zero if it is not chosen (mixtures of experts)";
    MlpOut "mlp_out" true "[tokens, d_model]" Model "MLP output, as the MLP module returns it";
    MlpAdd "mlp_add" true "[tokens, d_model]" Model "MLP output, as it is added to the residual stream: after an output norm or multiplier, if there is one";
    ResidPost "resid_post" true "[tokens, d_model]" Model "residual stream leaving block L";
    FinalNorm "final_norm" false "[tokens, d_model]" Model "output of the final norm";
    LogitsRaw "logits_raw" false "[tokens, vocab]" Vocab "logits before multiplier and soft-cap";
    Logits "logits" false "[tokens, vocab]" Vocab "logits of the model";
}

impl Site {
    /// The site's row of [`SITES`].
    pub fn spec(self) -> &'static SiteSpec {
        &SITES[self as usize]
    }

    /// The address of the site at a layer; the layer is ignored for a site that exists once.
    pub fn at(self, layer: usize) -> Address {
        Address {
            site: self,
            layer: if self.spec().layered { layer as u16 } else { 0 },
        }
    }
}

/// A site at a layer. Sites that exist once have layer 0, which is not printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    pub site: Site,
    /// The block, 0-based.
    pub layer: u16,
}

impl Address {
    /// Whether a pass that is visiting `other` has reached this address, or is at it.
    pub fn seen_by(self, other: Self) -> bool {
        let order = |at: Self| {
            if at.site == Site::Embed {
                (0, 0, 0)
            } else if at.site.spec().layered {
                (1, at.layer, at.site as usize)
            } else {
                (2, 0, at.site as usize)
            }
        };
        order(self) <= order(other)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = self.site.spec();
        if spec.layered {
            write!(f, "{}.{}", spec.name, self.layer)
        } else {
            f.write_str(spec.name)
        }
    }
}

/// Refuses a layer the model does not have.
pub fn check_layer(address: Address, layers: usize) -> Result<()> {
    if usize::from(address.layer) < layers {
        return Ok(());
    }
    let why = format!(
        "the model has {layers} layers, 0 to {}. Use one of those.",
        layers - 1
    );
    Err(Error::Refused {
        address: address.to_string(),
        why,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_variants() {
        for (i, spec) in SITES.iter().enumerate() {
            assert_eq!(spec.site as usize, i, "{}", spec.name);
        }
    }
}
