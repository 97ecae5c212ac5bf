//! The names that TransformerLens gives to tensors, and the sites that hold them.
//!
//! A foreign name is a claim about a tensor. Each row of [`SPELLINGS`] says which of our sites holds the tensor that
//! TransformerLens 4's bridge has under that name (weights as they are: no folding, no centring), or that no site holds it and
//! which is nearest; some rows depend on the architecture. Invariant: no name is read as another tensor; `tests/it/names.rs`
//! compares every row with measurements by `tests/references/transformer_lens_names.py`. To add a spelling, add a row, and make
//! that table anew.

use super::blueprint::{BlockOrder, Blueprint, Gain, MlpKind, NormKind, PositionEncoding};
use super::site::Site;

/// A TransformerLens name.
#[derive(Debug)]
pub struct Spelling {
    /// The name as TransformerLens writes it, with `{}` for the layer.
    pub name: &'static str,
    /// The site that holds the tensor or, if none does, the nearest one.
    pub near: Site,
    /// On which architectures the name means that site.
    pub rule: NameRule,
}

impl Spelling {
    /// The meaning of the name at a layer of an architecture.
    pub fn meaning(&self, blueprint: &Blueprint, layer: usize) -> NameMeaning {
        match &self.rule {
            NameRule::Always => Is(self.near),
            NameRule::Depends(_, decide) => decide(blueprint, layer),
            NameRule::Never(has, there) if there(blueprint, layer) => Holds(has, self.near),
            NameRule::Never(..) => Absent,
        }
    }
}

/// How the meaning of a name depends on the architecture.
#[derive(Debug)]
pub enum NameRule {
    /// The site holds the tensor on every architecture.
    Always,
    /// The architecture decides, at each layer. The text says where the site holds the tensor.
    Depends(&'static str, fn(&Blueprint, usize) -> NameMeaning),
    /// No site holds the tensor. The text says what the tensor is; the function, on which architectures the name exists.
    Never(&'static str, fn(&Blueprint, usize) -> bool),
}

/// The meaning of a name at a layer of an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameMeaning {
    Is(Site),
    /// The tensor that the text describes, which no site holds; the site is the nearest one.
    Holds(&'static str, Site),
    /// The name does not exist on this architecture.
    Absent,
    /// Unknown: TransformerLens cannot run this architecture.
    Unmeasured,
}

use NameMeaning::{Absent, Holds, Is, Unmeasured};
use NameRule::{Always, Depends, Never};
use Site::{
    AttnAdd, AttnIn, AttnOut, AttnProbs, AttnScores, Embed, FinalNorm, K, MlpAct, MlpAdd, MlpGate,
    MlpIn, MlpNormed, MlpOut, MlpUp, Q, ResidMid, Router, V,
};

macro_rules! spellings {
    ($($name:literal $near:ident $rule:expr;)*) => {
        /// Every name that TransformerLens 4's bridge lists on the architectures that we serve, well-known ones first.
        pub const SPELLINGS: &[Spelling] = &[$(Spelling { name: $name, near: Site::$near, rule: $rule }),*];
    };
}

const COPY: &str = "a copy of the stream for every head, made on request only";
const SCALE: &str = "what the norm divides by, one number a token";
const ROTATION: &str = "what rotates queries and keys";
const IDS: &str = "token ids or positions, which are not activations";
const FUSED: &str = "nothing: it never fires";
const PLAIN_QK: &str = "where queries and keys are neither normed nor clipped";
const NORMED_QK: &str = "where queries and keys are normed, and not clipped";
const GAINLESS: &str = "where norms have no gain";
const PRE_NORMS: &str = "where attention's own norm stands before it";
const MLP_NORMS: &str = "where the MLP's own norm stands before it";
const POST_NORMS: &str = "where component outputs are normalized";
const GATED: &str = "where the MLP has a gate";
const NO_GATE: &str = "where the MLP has a gate; mlp_up where it has none";
const DENSE: &str = "where a block has one MLP";
const MIXTURES: &str = "in mixtures of experts";
const DENSE_AMONG: &str = "in the blocks with one MLP of a model with mixtures";

spellings! {
    "hook_embed" Embed Depends("where positions are not learned", embedding);
    "embed.hook_out" Embed Depends("where positions are not learned", embedding);
    "embed.hook_in" Embed Never(IDS, everywhere);
    "hook_tokens" Embed Never(IDS, everywhere);
    "hook_pos_embed" Embed Never("the vectors of learned positions alone, and nothing where positions are rotated", everywhere);
    "pos_embed.hook_out" Embed Never("the vectors of learned positions alone", learned);
    "pos_embed.hook_in" Embed Never(IDS, learned);
    "rotary_emb.hook_in" Embed Never("a copy of the stream, used only for its data type", rotary);
    "rotary_emb.hook_out" Q Never(FUSED, rotary);
    "rotary_emb.hook_cos" Q Never(ROTATION, rotary);
    "rotary_emb.hook_sin" Q Never(ROTATION, rotary);
    "blocks.{}.hook_resid_pre" ResidPre Always;
    "blocks.{}.hook_in" ResidPre Always;
    "blocks.{}.hook_attn_in" AttnIn Never(COPY, everywhere);
    "blocks.{}.hook_q_input" AttnIn Never(COPY, everywhere);
    "blocks.{}.hook_k_input" AttnIn Never(COPY, everywhere);
    "blocks.{}.hook_v_input" AttnIn Never(COPY, everywhere);
    "blocks.{}.ln1.hook_in" ResidPre Never("the stream as the norm reads it: an edit there does not change the stream itself", attn_norm);
    "blocks.{}.ln1.hook_out" AttnIn Depends(PRE_NORMS, attn_normed);
    "blocks.{}.ln1.hook_normalized" AttnIn Depends(GAINLESS, attn_normalized);
    "blocks.{}.ln1.hook_scale" AttnIn Never(SCALE, attn_norm);
    "blocks.{}.attn.hook_in" AttnIn Always;
    "blocks.{}.attn.hook_attn_in" AttnIn Never(COPY, everywhere);
    "blocks.{}.attn.hook_q_input" AttnIn Never(COPY, everywhere);
    "blocks.{}.attn.hook_k_input" AttnIn Never(COPY, everywhere);
    "blocks.{}.attn.hook_v_input" AttnIn Never(COPY, everywhere);
    "blocks.{}.attn.q.hook_in" AttnIn Never("what attention reads, as the queries alone read it", everywhere);
    "blocks.{}.attn.k.hook_in" AttnIn Never("what attention reads, as the keys alone read it", everywhere);
    "blocks.{}.attn.v.hook_in" AttnIn Never("what attention reads, as the values alone read it", everywhere);
    "blocks.{}.attn.qkv.hook_in" AttnIn Never(FUSED, everywhere);
    "blocks.{}.attn.qkv.hook_out" Q Never(FUSED, everywhere);
    "blocks.{}.attn.hook_q" Q Depends(PLAIN_QK, query);
    "blocks.{}.attn.q.hook_out" Q Depends(PLAIN_QK, query);
    "blocks.{}.attn.hook_q_normed" Q Depends(NORMED_QK, normed_query);
    "blocks.{}.attn.q_norm.hook_out" Q Depends(NORMED_QK, normed_query);
    "blocks.{}.attn.q_norm.hook_in" Q Never("queries before their norm", qk_normed);
    "blocks.{}.attn.q_norm.hook_normalized" Q Never("normed queries before the gain", qk_normed);
    "blocks.{}.attn.q_norm.hook_scale" Q Never(SCALE, qk_normed);
    "blocks.{}.attn.hook_rot_q" Q Never("queries after the rotation", rotary);
    "blocks.{}.attn.hook_k" K Depends(PLAIN_QK, key);
    "blocks.{}.attn.k.hook_out" K Depends(PLAIN_QK, key);
    "blocks.{}.attn.hook_k_normed" K Depends(NORMED_QK, normed_key);
    "blocks.{}.attn.k_norm.hook_out" K Depends(NORMED_QK, normed_key);
    "blocks.{}.attn.k_norm.hook_in" K Never("keys before their norm", qk_normed);
    "blocks.{}.attn.k_norm.hook_normalized" K Never("normed keys before the gain", qk_normed);
    "blocks.{}.attn.k_norm.hook_scale" K Never(SCALE, qk_normed);
    "blocks.{}.attn.hook_rot_k" K Never("keys after the rotation", rotary);
    "blocks.{}.attn.hook_cos" Q Never(ROTATION, rotary);
    "blocks.{}.attn.hook_sin" Q Never(ROTATION, rotary);
    "blocks.{}.attn.hook_v" V Depends("where values are not clipped", value);
    "blocks.{}.attn.v.hook_out" V Depends("where values are not clipped", value);
    "blocks.{}.attn.hook_attn_scores" AttnScores Depends("in all families but opt", scores);
    "blocks.{}.attn.hook_pattern" AttnProbs Always;
    "blocks.{}.attn.hook_z" Z Always;
    "blocks.{}.attn.o.hook_in" Z Always;
    "blocks.{}.attn.hook_result" Z Never("the output of every head in the residual stream, made on request only", everywhere);
    "blocks.{}.hook_attn_out" AttnAdd Always;
    "blocks.{}.attn.hook_out" AttnOut Always;
    "blocks.{}.attn.o.hook_out" AttnOut Always;
    "blocks.{}.attn.hook_hidden_states" AttnOut Never("a second copy of what attention returns, in some architectures only", everywhere);
    "blocks.{}.ln1_post.hook_in" AttnOut Depends(POST_NORMS, attn_before_norm);
    "blocks.{}.ln1_post.hook_out" AttnAdd Depends(POST_NORMS, attn_after_norm);
    "blocks.{}.ln1_post.hook_normalized" AttnAdd Never("attention's normed output before the gain", writes_normed);
    "blocks.{}.ln1_post.hook_scale" AttnAdd Never(SCALE, writes_normed);
    "blocks.{}.hook_resid_mid" ResidMid Depends("where attention and MLP follow each other", between);
    "blocks.{}.hook_mlp_in" MlpIn Never(COPY, everywhere);
    "blocks.{}.ln2.hook_in" ResidMid Never("the stream as the norm reads it: an edit there does not change the stream itself", mlp_norm);
    "blocks.{}.ln2.hook_out" MlpIn Depends(MLP_NORMS, mlp_normed);
    "blocks.{}.ln2.hook_normalized" MlpNormed Depends(MLP_NORMS, mlp_normalized);
    "blocks.{}.ln2.hook_scale" MlpIn Never(SCALE, mlp_norm);
    "blocks.{}.mlp.hook_in" MlpIn Always;
    "blocks.{}.mlp.hook_pre" MlpGate Depends(NO_GATE, before_activation);
    "blocks.{}.mlp.hook_pre_linear" MlpUp Depends(GATED, linear);
    "blocks.{}.mlp.hook_post" MlpAct Depends(DENSE, neurons);
    "blocks.{}.mlp.gate.hook_in" MlpIn Never("what the MLP reads, as the gate or the router alone reads it", gated_or_mixed);
    "blocks.{}.mlp.gate.hook_out" MlpGate Depends(GATED, gate);
    "blocks.{}.mlp.in.hook_in" MlpIn Never("what the MLP reads, as the up projection alone reads it", dense_alone);
    "blocks.{}.mlp.in.hook_out" MlpUp Depends(DENSE, up);
    "blocks.{}.mlp.out.hook_in" MlpAct Depends(DENSE, down);
    "blocks.{}.mlp.out.hook_out" MlpOut Depends(DENSE, written);
    "blocks.{}.mlp.dense_gate.hook_in" MlpIn Never("what the MLP reads, as the gate alone reads it", dense_among);
    "blocks.{}.mlp.dense_gate.hook_out" MlpGate Depends(DENSE_AMONG, among_gate);
    "blocks.{}.mlp.dense_in.hook_in" MlpIn Never("what the MLP reads, as the up projection alone reads it", dense_among);
    "blocks.{}.mlp.dense_in.hook_out" MlpUp Depends(DENSE_AMONG, among_up);
    "blocks.{}.mlp.dense_out.hook_in" MlpAct Depends(DENSE_AMONG, among_act);
    "blocks.{}.mlp.dense_out.hook_out" MlpOut Depends(DENSE_AMONG, among_out);
    "blocks.{}.mlp.hook_expert_weights" Router Depends(MIXTURES, router);
    "blocks.{}.mlp.gate.hook_expert_weights" Router Depends(MIXTURES, router);
    "blocks.{}.mlp.hook_expert_indices" Router Never("the numbers of the chosen experts, which are not activations", mixed);
    "blocks.{}.mlp.gate.hook_expert_indices" Router Never("the numbers of the chosen experts, which are not activations", mixed);
    "blocks.{}.mlp.hook_router_scores" Router Never(FUSED, mixed);
    "blocks.{}.hook_mlp_out" MlpAdd Always;
    "blocks.{}.mlp.hook_out" MlpOut Always;
    "blocks.{}.ln2_post.hook_in" MlpOut Depends(POST_NORMS, mlp_before_norm);
    "blocks.{}.ln2_post.hook_out" MlpAdd Depends(POST_NORMS, mlp_after_norm);
    "blocks.{}.ln2_post.hook_normalized" MlpAdd Never("the MLP's normed output before the gain", writes_normed);
    "blocks.{}.ln2_post.hook_scale" MlpAdd Never(SCALE, writes_normed);
    "blocks.{}.hook_resid_post" ResidPost Always;
    "blocks.{}.hook_out" ResidPost Always;
    "ln_final.hook_in" ResidPost Never("what leaves the last block, as the final norm alone reads it", everywhere);
    "ln_final.hook_out" FinalNorm Always;
    "ln_final.hook_normalized" FinalNorm Depends(GAINLESS, final_normalized);
    "ln_final.hook_scale" FinalNorm Never(SCALE, everywhere);
    "unembed.hook_in" FinalNorm Depends("where the unembedding is as wide as the stream", unembedded);
    "unembed.hook_out" LogitsRaw Always;
    "hook_unembed" LogitsRaw Always;
}

fn everywhere(_: &Blueprint, _: usize) -> bool {
    true
}

fn learned(b: &Blueprint, _: usize) -> bool {
    matches!(b.positions, PositionEncoding::Learned { .. })
}

fn rotary(b: &Blueprint, layer: usize) -> bool {
    !learned(b, layer)
}

fn qk_normed(b: &Blueprint, _: usize) -> bool {
    b.qk_norm.is_some()
}

fn writes_normed(b: &Blueprint, _: usize) -> bool {
    b.arrangement.norms_writes()
}

fn attn_norm(b: &Blueprint, layer: usize) -> bool {
    matches!(attn_normed(b, layer), Is(_) | Holds(..))
}

fn mlp_norm(b: &Blueprint, layer: usize) -> bool {
    matches!(mlp_normed(b, layer), Is(_))
}

fn mixed(b: &Blueprint, layer: usize) -> bool {
    b.layers[layer].mlp == MlpKind::Experts
}

fn dense_alone(b: &Blueprint, layer: usize) -> bool {
    !mixed(b, layer) && b.experts.is_none()
}

fn dense_among(b: &Blueprint, layer: usize) -> bool {
    !mixed(b, layer) && b.experts.is_some()
}

fn gated_or_mixed(b: &Blueprint, layer: usize) -> bool {
    match b.layers[layer].mlp {
        MlpKind::Gated => b.experts.is_none(),
        MlpKind::Plain => false,
        MlpKind::Experts => true,
    }
}

fn embedding(b: &Blueprint, _: usize) -> NameMeaning {
    match b.positions {
        _ if b.d_embed != b.d_model => Holds(
            "rows of the embedding table before they are projected",
            Embed,
        ),
        PositionEncoding::Learned { .. } => Holds(
            "the embedding of the tokens before positions are added",
            Embed,
        ),
        PositionEncoding::Rotary(_) => Is(Embed),
    }
}

/// Whether norms have neither gain nor bias, so that their output is what TransformerLens calls normalized.
fn gainless(b: &Blueprint) -> bool {
    b.norm.kind != NormKind::Identity && b.norm.gain == Gain::None && !b.norm.bias
}

fn attn_normed(b: &Blueprint, _: usize) -> NameMeaning {
    match b.arrangement {
        BlockOrder::PreNorm | BlockOrder::SandwichNorm | BlockOrder::Parallel => Is(AttnIn),
        BlockOrder::ParallelSharedNorm => {
            Holds("what attention and the MLP read both, in one place", AttnIn)
        }
        BlockOrder::PostNorm => Absent,
        BlockOrder::NormedStream => Unmeasured,
    }
}

fn attn_normalized(b: &Blueprint, layer: usize) -> NameMeaning {
    let normed = attn_normed(b, layer);
    if !matches!(normed, Is(_) | Holds(..)) || gainless(b) {
        return normed;
    }
    Holds(
        "what attention reads, normed but before the gain of the norm",
        AttnIn,
    )
}

fn mlp_normed(b: &Blueprint, _: usize) -> NameMeaning {
    match b.arrangement {
        BlockOrder::PreNorm | BlockOrder::SandwichNorm | BlockOrder::Parallel => Is(MlpIn),
        BlockOrder::ParallelSharedNorm | BlockOrder::PostNorm => Absent,
        BlockOrder::NormedStream => Unmeasured,
    }
}

fn mlp_normalized(b: &Blueprint, layer: usize) -> NameMeaning {
    match mlp_normed(b, layer) {
        Is(_) if !gainless(b) => Is(MlpNormed),
        same @ (Is(_) | Holds(..) | Absent | Unmeasured) => same,
    }
}

fn between(b: &Blueprint, _: usize) -> NameMeaning {
    match b.arrangement {
        BlockOrder::NormedStream => Unmeasured,
        // Parallel blocks have no `resid_mid`; the model itself refuses that site.
        BlockOrder::PreNorm
        | BlockOrder::SandwichNorm
        | BlockOrder::PostNorm
        | BlockOrder::Parallel
        | BlockOrder::ParallelSharedNorm => Is(ResidMid),
    }
}

fn query(b: &Blueprint, _: usize) -> NameMeaning {
    match (b.qk_norm, b.clip_qkv) {
        (None, None) => Is(Q),
        (Some(_), _) => Holds("queries before their norm", Q),
        (None, Some(_)) => Holds("queries before they are clipped", Q),
    }
}

fn key(b: &Blueprint, _: usize) -> NameMeaning {
    match (b.qk_norm, b.clip_qkv) {
        (None, None) => Is(K),
        (Some(_), _) => Holds("keys before their norm", K),
        (None, Some(_)) => Holds("keys before they are clipped", K),
    }
}

fn value(b: &Blueprint, _: usize) -> NameMeaning {
    match b.clip_qkv {
        None => Is(V),
        Some(_) => Holds("values before they are clipped", V),
    }
}

fn normed_query(b: &Blueprint, _: usize) -> NameMeaning {
    match (b.qk_norm, b.clip_qkv) {
        (None, _) => Absent,
        (Some(_), None) => Is(Q),
        (Some(_), Some(_)) => Holds("normed queries before they are clipped", Q),
    }
}

fn normed_key(b: &Blueprint, _: usize) -> NameMeaning {
    match (b.qk_norm, b.clip_qkv) {
        (None, _) => Absent,
        (Some(_), None) => Is(K),
        (Some(_), Some(_)) => Holds("normed keys before they are clipped", K),
    }
}

fn scores(b: &Blueprint, _: usize) -> NameMeaning {
    if b.family == "opt" {
        return Holds("the attention probabilities again", AttnProbs);
    }
    Is(AttnScores)
}

/// What a component output is before and after the norm of component outputs.
fn around_norm(b: &Blueprint, site: Site) -> NameMeaning {
    #[allow(clippy::float_cmp)] // the default is exactly one
    let unscaled = b.residual_scale == 1.0;
    match (b.arrangement.norms_writes(), site) {
        (false, _) => Absent,
        (true, AttnAdd | MlpAdd) if !unscaled => Holds(
            "the normalized component output before its multiplier",
            site,
        ),
        (true, _) => Is(site),
    }
}

fn attn_before_norm(b: &Blueprint, _: usize) -> NameMeaning {
    around_norm(b, AttnOut)
}

fn attn_after_norm(b: &Blueprint, _: usize) -> NameMeaning {
    around_norm(b, AttnAdd)
}

fn mlp_before_norm(b: &Blueprint, _: usize) -> NameMeaning {
    around_norm(b, MlpOut)
}

fn mlp_after_norm(b: &Blueprint, _: usize) -> NameMeaning {
    around_norm(b, MlpAdd)
}

fn before_activation(b: &Blueprint, layer: usize) -> NameMeaning {
    match b.layers[layer].mlp {
        MlpKind::Gated => Is(MlpGate),
        MlpKind::Plain => Is(MlpUp),
        MlpKind::Experts => Holds("what the whole mixture reads", MlpIn),
    }
}

fn linear(b: &Blueprint, layer: usize) -> NameMeaning {
    match b.layers[layer].mlp {
        MlpKind::Gated => Is(MlpUp),
        MlpKind::Plain | MlpKind::Experts => Absent,
    }
}

fn neurons(b: &Blueprint, layer: usize) -> NameMeaning {
    match b.layers[layer].mlp {
        MlpKind::Gated | MlpKind::Plain => Is(MlpAct),
        MlpKind::Experts => Holds("what the whole mixture returns", MlpOut),
    }
}

/// The names of MLP matrices apply to models without mixtures of experts; in other models dense blocks use other names.
fn alone(b: &Blueprint, layer: usize, site: Site) -> NameMeaning {
    if dense_alone(b, layer) {
        Is(site)
    } else {
        Absent
    }
}

fn among(b: &Blueprint, layer: usize, site: Site) -> NameMeaning {
    if dense_among(b, layer) {
        Is(site)
    } else {
        Absent
    }
}

fn gate(b: &Blueprint, layer: usize) -> NameMeaning {
    match b.layers[layer].mlp {
        MlpKind::Gated => alone(b, layer, MlpGate),
        MlpKind::Plain => Absent,
        MlpKind::Experts => Holds("the scores of the router before their softmax", Router),
    }
}

fn up(b: &Blueprint, layer: usize) -> NameMeaning {
    alone(b, layer, MlpUp)
}

fn down(b: &Blueprint, layer: usize) -> NameMeaning {
    alone(b, layer, MlpAct)
}

fn written(b: &Blueprint, layer: usize) -> NameMeaning {
    alone(b, layer, MlpOut)
}

fn among_gate(b: &Blueprint, layer: usize) -> NameMeaning {
    match b.layers[layer].mlp {
        MlpKind::Gated => among(b, layer, MlpGate),
        MlpKind::Plain | MlpKind::Experts => Absent,
    }
}

fn among_up(b: &Blueprint, layer: usize) -> NameMeaning {
    among(b, layer, MlpUp)
}

fn among_act(b: &Blueprint, layer: usize) -> NameMeaning {
    among(b, layer, MlpAct)
}

fn among_out(b: &Blueprint, layer: usize) -> NameMeaning {
    among(b, layer, MlpOut)
}

fn router(b: &Blueprint, layer: usize) -> NameMeaning {
    match b.layers[layer].mlp {
        MlpKind::Experts => Is(Router),
        MlpKind::Gated | MlpKind::Plain => Absent,
    }
}

fn final_normalized(b: &Blueprint, _: usize) -> NameMeaning {
    match (b.final_norm, gainless(b)) {
        (false, _) => Absent,
        (true, true) => Is(FinalNorm),
        (true, false) => Holds(
            "the last stream normed, but before the gain of the norm",
            FinalNorm,
        ),
    }
}

fn unembedded(b: &Blueprint, _: usize) -> NameMeaning {
    if b.d_embed == b.d_model {
        return Is(FinalNorm);
    }
    Holds(
        "what the unembedding reads, after it was projected",
        FinalNorm,
    )
}
