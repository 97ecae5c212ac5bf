//! Sites: the named places in the forward pass, and addresses (a site at a layer).
//!
//! Invariant: printing and parsing an [`Address`] are inverse, and [`SITES`] is the only list of names.
//! To add a site, add a variant, a row in [`SITES`] in the same order, and one `visit` line in the forward pass.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A named place in the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// What enters block 0.
    Embed,
    /// What enters a block.
    ResidPre,
    /// The normed input of attention.
    AttnIn,
    /// Queries before rotation.
    Q,
    /// Keys before rotation.
    K,
    /// Values.
    V,
    /// Scaled scores before the softmax.
    AttnScores,
    /// Attention probabilities.
    AttnProbs,
    /// Probabilities times values, per head, before the output projection.
    Z,
    /// What the attention module returns.
    AttnOut,
    /// What attention adds to the residual stream.
    AttnAdd,
    /// The residual stream between attention and MLP.
    ResidMid,
    /// The normed input of the MLP.
    MlpIn,
    /// The gate before its activation.
    MlpGate,
    /// The up projection (gated families), or the pre-activation.
    MlpUp,
    /// The neurons.
    MlpAct,
    /// The weight of every expert, in a mixture.
    Router,
    /// What the MLP module returns.
    MlpOut,
    /// What the MLP adds to the residual stream.
    MlpAdd,
    /// What leaves a block.
    ResidPost,
    /// The final norm's output.
    FinalNorm,
    /// Logits before multiplier and soft-cap.
    LogitsRaw,
    /// The model's logits.
    Logits,
}

/// What the last axis of a site counts, which decides what an edit's indices mean.
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
    /// The site.
    pub site: Site,
    /// Its name, as addresses print it.
    pub name: &'static str,
    /// The TransformerLens spelling, with `{}` for the layer; empty when there is none.
    pub alias: &'static str,
    /// Whether it exists once a layer.
    pub layered: bool,
    /// Shape for one prompt.
    pub shape: &'static str,
    /// The last axis.
    pub axis: Axis,
    /// One sentence.
    pub about: &'static str,
}

macro_rules! rows {
    ($($site:ident $name:literal $alias:literal $layered:literal $shape:literal $axis:ident $about:literal;)*) => {
        /// Every site, in the order of the forward pass.
        pub const SITES: &[SiteSpec] = &[$(SiteSpec { site: Site::$site, name: $name, alias: $alias, layered: $layered, shape: $shape, axis: Axis::$axis, about: $about }),*];
    };
}

rows! {
    Embed "embed" "hook_embed" false "[tokens, d_model]" Model "what enters block 0: the embedding after its multiplier, with learned positions where the family has them";
    ResidPre "resid_pre" "blocks.{}.hook_resid_pre" true "[tokens, d_model]" Model "the residual stream entering block L";
    AttnIn "attn_in" "blocks.{}.ln1.hook_normalized" true "[tokens, d_model]" Model "what attention reads: normed, where the family norms it";
    Q "q" "blocks.{}.attn.hook_q" true "[tokens, heads, head_dim]" Heads "queries as they enter the rotation: after their norm, where the family has one";
    K "k" "blocks.{}.attn.hook_k" true "[tokens, kv_heads, head_dim]" KvHeads "keys as they enter the rotation: after their norm, where the family has one";
    V "v" "blocks.{}.attn.hook_v" true "[tokens, kv_heads, head_dim]" KvHeads "values";
    AttnScores "attn_scores" "blocks.{}.attn.hook_attn_scores" true "[heads, tokens, tokens]" Positions "scaled and soft-capped scores before the softmax; masked entries are -inf";
    AttnProbs "attn_probs" "blocks.{}.attn.hook_pattern" true "[heads, tokens, tokens]" Positions "attention probabilities, a row a query";
    Z "z" "blocks.{}.attn.hook_z" true "[tokens, heads, head_dim]" Heads "probabilities times values, before the output projection";
    AttnOut "attn_out" "blocks.{}.hook_attn_out" true "[tokens, d_model]" Model "what the attention module returns";
    AttnAdd "attn_add" "" true "[tokens, d_model]" Model "what attention adds to the residual stream: after a norm of its output or a multiplier, where there is one";
    ResidMid "resid_mid" "blocks.{}.hook_resid_mid" true "[tokens, d_model]" Model "the residual stream between attention and MLP (not in parallel blocks)";
    MlpIn "mlp_in" "blocks.{}.ln2.hook_normalized" true "[tokens, d_model]" Model "what the MLP reads: normed, where the family norms it";
    MlpGate "mlp_gate" "blocks.{}.mlp.hook_pre" true "[tokens, d_mlp]" Mlp "the gate before its activation (gated MLPs)";
    MlpUp "mlp_up" "blocks.{}.mlp.hook_pre_linear" true "[tokens, d_mlp]" Mlp "the up projection; before the activation in MLPs without a gate";
    MlpAct "mlp_act" "blocks.{}.mlp.hook_post" true "[tokens, d_mlp]" Mlp "the neurons: act(gate) * up, or act(up)";
    Router "router" "blocks.{}.mlp.hook_expert_weights" true "[tokens, experts]" Experts "the weight of every expert in the sum, zero where it is not chosen (mixtures of experts)";
    MlpOut "mlp_out" "blocks.{}.hook_mlp_out" true "[tokens, d_model]" Model "what the MLP module returns";
    MlpAdd "mlp_add" "" true "[tokens, d_model]" Model "what the MLP adds to the residual stream: after a norm of its output or a multiplier, where there is one";
    ResidPost "resid_post" "blocks.{}.hook_resid_post" true "[tokens, d_model]" Model "the residual stream leaving block L";
    FinalNorm "final_norm" "ln_final.hook_normalized" false "[tokens, d_model]" Model "the final norm's output";
    LogitsRaw "logits_raw" "" false "[tokens, vocab]" Vocab "logits before multiplier and soft-cap";
    Logits "logits" "" false "[tokens, vocab]" Vocab "the model's logits";
}

impl Site {
    /// The site's row.
    pub fn spec(self) -> &'static SiteSpec {
        &SITES[self as usize]
    }

    /// The site at a layer, or the site itself where it exists once.
    pub fn at(self, layer: usize) -> Address {
        Address {
            site: self,
            layer: if self.spec().layered { layer as u16 } else { 0 },
        }
    }
}

/// A site at a layer; sites that exist once carry layer 0, which does not print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The site.
    pub site: Site,
    /// The block, 0-based.
    pub layer: u16,
}

impl Address {
    /// Whether a pass has been here, or is here, when it visits another address.
    pub fn seen_by(self, other: Self) -> bool {
        let order = |at: Self| match at.site {
            Site::Embed => (0, 0, 0),
            Site::FinalNorm | Site::LogitsRaw | Site::Logits => (2, 0, at.site as usize),
            _ => (1, at.layer, at.site as usize),
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

impl FromStr for Address {
    type Err = Error;

    /// Parses `resid_post.10` and the TransformerLens spelling `blocks.10.hook_resid_post`.
    fn from_str(s: &str) -> Result<Self> {
        let text = s.trim();
        for spec in SITES {
            if !spec.layered
                && (text == spec.name || (!spec.alias.is_empty() && text == spec.alias))
            {
                return Ok(spec.site.at(0));
            }
            if spec.layered {
                let own = text
                    .strip_prefix(spec.name)
                    .and_then(|r| r.strip_prefix('.'));
                let foreign = spec
                    .alias
                    .split_once("{}")
                    .and_then(|(a, b)| text.strip_prefix(a)?.strip_suffix(b));
                if let Some(layer) = own.or(foreign).and_then(|n| n.parse::<u16>().ok()) {
                    return Ok(Address {
                        site: spec.site,
                        layer,
                    });
                }
            }
        }
        Err(unknown(text))
    }
}

/// Finds a site by its bare name.
pub fn site_named(name: &str) -> Result<Site> {
    SITES
        .iter()
        .find(|s| s.name == name)
        .map(|s| s.site)
        .ok_or_else(|| unknown(name))
}

/// The error for a name that is no site, with the nearest one.
pub fn unknown(given: &str) -> Error {
    let (base, layer) = given.split_once('.').unwrap_or((given, ""));
    // The name is right: what is wrong is its layer.
    if let Some(spec) = SITES.iter().find(|s| s.name == base) {
        let many = format!("{base}.2-5 or {base}.* where several can be meant");
        let why = match (spec.layered, layer) {
            (false, _) => format!("{base} is there once and has no layers; write {base} alone"),
            (true, "") => {
                format!("{base} is at every layer; say which, such as {base}.3 (or {many})")
            }
            (true, layer) => {
                format!("`{layer}` is no layer; write {base}.3 for that of layer 3 (or {many})")
            }
        };
        return Error::BadAddress {
            given: given.to_string(),
            why,
        };
    }
    let near = SITES
        .iter()
        .map(|s| (distance(base, s.name), s.name))
        .min()
        .filter(|(d, n)| *d <= n.len().div_ceil(2));
    Error::UnknownSite {
        given: given.to_string(),
        near: near.map(|(_, n)| n.to_string()),
    }
}

/// Levenshtein distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut previous = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = previous + usize::from(ca != *cb);
            previous = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(previous + 1);
        }
    }
    row[b.len()]
}

/// Expands a pattern: `resid_post.*`, `resid_post.4-9`, `mlp_act.2`, `logits`, comma-separated.
pub fn expand(patterns: &str, layers: usize) -> Result<Vec<Address>> {
    let mut out: Vec<Address> = Vec::new();
    for pattern in patterns.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        for address in expand_one(pattern, layers)? {
            if !out.contains(&address) {
                out.push(address);
            }
        }
    }
    if out.is_empty() {
        return Err(Error::argument(
            "sites",
            patterns,
            "at least one address such as resid_post.* or logits",
        ));
    }
    Ok(out)
}

fn expand_one(pattern: &str, layers: usize) -> Result<Vec<Address>> {
    if let Ok(address) = pattern.parse::<Address>() {
        check_layer(address, layers)?;
        return Ok(vec![address]);
    }
    let Some((name, range)) = pattern.split_once('.') else {
        let site = site_named(pattern)?;
        return Ok((0..layers).map(|l| site.at(l)).collect());
    };
    let site = site_named(name)?;
    let bad = || {
        Error::argument(
            "layers",
            pattern,
            format!(
                "{name}.L, {name}.A-B or {name}.* with layers 0..{}",
                layers - 1
            ),
        )
    };
    if !site.spec().layered {
        return Err(bad());
    }
    if range == "*" {
        return Ok((0..layers).map(|l| site.at(l)).collect());
    }
    let (a, b) = range.split_once('-').ok_or_else(bad)?;
    let (a, b) = (
        a.parse::<usize>().map_err(|_| bad())?,
        b.parse::<usize>().map_err(|_| bad())?,
    );
    if a > b || b >= layers {
        return Err(bad());
    }
    Ok((a..=b).map(|l| site.at(l)).collect())
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
    fn addresses_print_and_parse_inversely() {
        for (i, spec) in SITES.iter().enumerate() {
            assert_eq!(spec.site as usize, i, "SITES is in the order of Site");
            let address = spec.site.at(7);
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            if !spec.alias.is_empty() {
                assert_eq!(
                    spec.alias.replace("{}", "7").parse::<Address>().unwrap(),
                    address,
                    "{}",
                    spec.alias
                );
            }
        }
    }

    #[test]
    fn a_typo_names_its_neighbour() {
        let error = "resid_pots.3".parse::<Address>().unwrap_err().to_string();
        assert!(error.contains("resid_post"), "{error}");
    }

    #[test]
    fn a_name_without_its_layer_is_not_offered_as_it_is() {
        for (given, says) in [
            ("mlp_act", "mlp_act.3"),
            ("resid_post.", "resid_post.3"),
            ("resid_post.x", "`x` is no layer"),
            ("resid_post.99999", "`99999` is no layer"),
            ("logits.3", "write logits alone"),
        ] {
            let error = given.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(says), "{given}: {error}");
            assert!(!error.contains("Did you mean"), "{given}: {error}");
        }
    }

    #[test]
    fn patterns_expand_and_refuse() {
        assert_eq!(expand("resid_post.*,logits", 3).unwrap().len(), 4);
        assert_eq!(
            expand("mlp_act.1-2", 3).unwrap(),
            [Site::MlpAct.at(1), Site::MlpAct.at(2)]
        );
        assert!(expand("resid_post.3", 3).is_err());
        assert!(expand("resid_post.2-3", 3).is_err());
        assert!(expand("logits.1", 3).is_err());
    }
}
