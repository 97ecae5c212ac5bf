//! Direct logit attribution: a token's log-probability or logit as a sum over all component outputs in the stream (nostalgebraist 2020; Elhage et al.
//! 2021; TransformerLens `logit_attrs`).
//!
//! `z[t] = Σ_c c·u + constants`, where `u` is the token's direction ([`crate::lab::effect`]) pulled back through the final norm
//! with its scale at that position held constant. The parts `c` are the embedding, every attention output, every MLP output, and the changes by edits
//! of the stream. Invariants: the sum is exact up to rounding and the figure carries its error; sums are in f64; the logit is
//! taken after the multiplier and before a soft-cap. [`super::decomposition`] splits a component output into heads, neurons and
//! source tokens. To add a part, add a variant of [`LogitPart`] and its row in [`Attribution::read`].

use std::collections::HashSet;

use candle_core::{DType, Device, Tensor};

use crate::edit::op::Op;
use crate::error::{Error, Result};
use crate::figure::Check;
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::effect::{EffectDirections, EffectScale, saturation};
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::model::host::ToHost;
use crate::model::network::blueprint::BlockOrder;
use crate::model::network::linear::Precision;
use crate::model::network::readout::StatisticsOn;
use crate::model::network::site::{Address, Site};
use crate::model::{Card, Model};

/// The rounding error of a dot product in f32, relative to the norms of its factors.
const EXACT: f32 = 1e-6;

/// The rounding error to expect in a logit, relative to the sum of the magnitudes of its parts: in f16 and bf16 the stream
/// itself is rounded after every addition, and quantized kernels round their inputs.
pub fn rounding(model: &Model) -> f32 {
    match model.transformer.precision {
        Precision::Dense(DType::F32 | DType::F64) => 1e-5,
        Precision::Dense(DType::BF16) => 2e-2,
        Precision::Dense(_) => 2e-3,
        Precision::Q8 | Precision::Stored(_) => 1e-3,
    }
}

/// A part of the sum that makes up a logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogitPart {
    /// The stream that enters block 0.
    Embed,
    /// The token's embedding, if positions are learned and no edit changed the sum with the position's vector.
    Token,
    /// The position's learned vector.
    Position,
    /// The attention output of a block, as added.
    Attention(usize),
    /// The MLP output of a block, as added.
    Mlp(usize),
    /// The change by edits of the stream at this address.
    Edits(Address),
    /// The bias of the final norm.
    NormBias,
    /// The bias of the unembedding.
    TokenBias,
}

impl LogitPart {
    /// The name in figures.
    pub fn name(self) -> String {
        match self {
            Self::Embed => "embed".into(),
            Self::Token => "token".into(),
            Self::Position => "position".into(),
            Self::Attention(layer) => format!("attn {layer}"),
            Self::Mlp(layer) => format!("mlp {layer}"),
            Self::Edits(at) => format!("edit {at}"),
            Self::NormBias => "norm bias".into(),
            Self::TokenBias => "token bias".into(),
        }
    }

    /// The block whose output it is; none for other parts.
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::Attention(layer) | Self::Mlp(layer) => Some(layer),
            Self::Edits(at) => Some(usize::from(at.layer)),
            Self::Embed | Self::Token | Self::Position | Self::NormBias | Self::TokenBias => None,
        }
    }
}

/// A part at one position.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartAtPosition {
    /// Its contribution to the target's logit.
    pub effect: f32,
    /// Its norm.
    pub size: f32,
    /// The cosine with the stream that it was added to; 0 for the embedding and for constants.
    pub cosine: f32,
    /// Its proximity to the final stream, as a share of all parts: `max(‖x‖₁ − ‖x − c‖₁, 0)`, normalised (Ferrando and Voita
    /// 2024, 2403.00824). It does not depend on the logit.
    pub share: f32,
}

/// A target's logit as a sum of parts, at some positions.
#[derive(Clone, Debug)]
pub struct Attribution {
    pub positions: Vec<usize>,
    /// The target at each position.
    pub targets: Vec<LogitTarget>,
    /// The parts, in the order of the forward pass.
    pub parts: Vec<LogitPart>,
    /// `[positions][parts]`.
    pub shares: Vec<Vec<PartAtPosition>>,
    /// The model's own value of the target before a soft-cap, at each position.
    pub logits: Vec<f32>,
    /// The error of the sum against the model's own value, at the worst position.
    pub check: Check,
    /// The error of the sum of all parts as a vector against the final residual stream, relative to its largest entry.
    pub stream_error: f32,
    /// What the effects are effects on.
    pub scale: EffectScale,
    /// A caution where answers are as good as certain.
    pub saturated: Option<String>,
    /// The directions `u`, including the final norm's scale: `[positions, d_model]`, f32.
    pub directions: Tensor,
}

/// What is attributed, and on which scale.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttributionRequest {
    /// The target; if none, the top prediction at each position.
    pub target: Option<LogitTarget>,
    /// What an effect on it is an effect on.
    pub scale: EffectScale,
}

/// The addresses at which active edits change values; for overlays that is where they act.
pub(crate) fn edited(run: &Run, layers: usize) -> Result<HashSet<Address>> {
    let mut out = HashSet::new();
    for (_, edits) in run.schedule.spans() {
        for edit in edits.iter().filter(|e| e.active()) {
            for at in edit.place.addresses(layers)? {
                out.insert(if matches!(edit.op, Op::Rewrite(_)) {
                    Site::MlpOut.at(usize::from(at.layer))
                } else {
                    at
                });
            }
        }
    }
    Ok(out)
}

/// The addresses to record: every component output, the final stream, and the stream at edited addresses.
pub fn addresses(card: &Card, run: &Run) -> Result<Vec<Address>> {
    let mut out = vec![Site::Embed.at(0), Site::ResidPost.at(card.layers - 1)];
    for layer in 0..card.layers {
        out.extend([Site::AttnAdd.at(layer), Site::MlpAdd.at(layer)]);
    }
    let touched = edited(run, card.layers)?;
    for layer in 0..card.layers {
        if touched.contains(&Site::ResidPre.at(layer)) {
            out.push(Site::ResidPre.at(layer));
        }
        if touched.contains(&Site::ResidMid.at(layer)) {
            out.push(Site::ResidMid.at(layer));
        }
        if touched.contains(&Site::ResidPost.at(layer)) && layer + 1 < card.layers {
            out.push(Site::ResidPost.at(layer));
        }
    }
    Ok(out)
}

/// Refuses architectures whose stream is not a sum of component outputs.
pub fn check_sum(model: &Model) -> Result<()> {
    if model.transformer.blueprint.arrangement != BlockOrder::NormedStream {
        return Ok(());
    }
    Err(Error::Refused {
        address: "resid_post.*".into(),
        why: "this family normalizes the stream after every component, so the stream is not a sum of component outputs and nothing has a direct effect. Use the lens, or patching.".into(),
    })
}

impl Lab {
    /// Attributes the logits after the positions of a run from `first` to the last.
    pub fn attribute(
        &mut self,
        run: &Run,
        positions: std::ops::Range<usize>,
        question: AttributionRequest,
    ) -> Result<Attribution> {
        let needs = needs(&self.model, run)?;
        let capture = self.capture(run, positions, &needs)?;
        Attribution::read(self, &capture, question)
    }
}

/// What a capture must contain for [`Attribution::read`].
///
/// # Errors
///
/// For architectures whose stream is not a sum of component outputs, and for edits at addresses that the model lacks.
pub fn needs(model: &Model, run: &Run) -> Result<Needs> {
    check_sum(model)?;
    Ok(Needs {
        record: addresses(&model.card, run)?,
        ..Needs::default()
    })
}

impl Attribution {
    /// Attributes the logits of a capture that fulfils [`needs`].
    pub fn read(lab: &Lab, capture: &Capture, question: AttributionRequest) -> Result<Self> {
        let model = &lab.model;
        let positions: Vec<usize> = capture.positions.clone().collect();
        let last = capture.get(Site::ResidPost.at(model.card.layers - 1))?;
        let targets = question.target.map(|target| vec![target; positions.len()]);
        let along = lab.effect_directions(last, targets.as_deref(), question.scale)?;
        let (directions, constants) = directions(model, last, &along)?;
        let EffectDirections {
            targets,
            values: logits,
            shares: certainty,
            ..
        } = along;
        let parts = stream_parts(model, capture)?;
        let rows: Vec<&Tensor> = parts.iter().map(|(_, rows)| rows).collect();
        let rows = Tensor::stack(&rows, 0)?;
        let sums = match model.transformer.statistics {
            StatisticsOn::Host => sums_on_host(&rows, &directions, last)?,
            StatisticsOn::Device => sums_on_device(&rows, &directions, last)?,
        };
        let mut shares = Vec::with_capacity(positions.len());
        let mut check = Check {
            error: 0.0,
            tolerance: 0.0,
        };
        let mut stream_error = 0f32;
        for (i, sums) in sums.iter().enumerate() {
            let (mut own, gap) = sums.parts();
            stream_error = stream_error.max(gap);
            own.extend(constants[i].iter().map(|effect| PartAtPosition {
                effect: *effect,
                ..PartAtPosition::default()
            }));
            let sum: f64 = own.iter().map(|s| f64::from(s.effect)).sum();
            let length = sums.direction.sqrt();
            let mass: f64 = own.iter().map(|s| f64::from(s.size) * length).sum();
            let effects: f32 = own.iter().map(|s| s.effect.abs()).sum();
            check = check.worst(Check {
                error: (sum - f64::from(logits[i])).abs() as f32,
                tolerance: rounding(model) * effects.max(1.0) + EXACT * mass as f32,
            });
            shares.push(own);
        }
        let mut names: Vec<LogitPart> = parts.into_iter().map(|(part, _)| part).collect();
        names.extend(constant_parts(model));
        Ok(Self {
            positions,
            targets,
            parts: names,
            shares,
            logits,
            check,
            stream_error,
            scale: question.scale,
            saturated: saturation(&certainty),
            directions,
        })
    }

    /// The effect of a part at the `i`th captured position.
    pub fn effect(&self, i: usize, part: LogitPart) -> f32 {
        let found = self.parts.iter().position(|p| *p == part);
        found.map_or(0.0, |k| self.shares[i][k].effect)
    }
}

fn constant_parts(model: &Model) -> Vec<LogitPart> {
    let mut out = Vec::new();
    if model.transformer.norm.bias.is_some() {
        out.push(LogitPart::NormBias);
    }
    if model.transformer.head.bias.is_some() {
        out.push(LogitPart::TokenBias);
    }
    out
}

/// The values of a tensor on the host, f32, row after row.
pub(crate) fn to_host(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.on_device(&Device::Cpu)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .host_vec1()?)
}

/// The directions of the targets pulled back through the final norm, `[positions, d_model]`, and the contributions of the
/// biases after the stream, one number for each of [`constant_parts`].
fn directions(
    model: &Model,
    last: &Tensor,
    along: &EffectDirections,
) -> Result<(Tensor, Vec<Vec<f32>>)> {
    let transformer = &model.transformer;
    let norm = &transformer.norm;
    let seen = along.of_stream(model)?;
    let seen = seen.broadcast_mul(&norm.inverse_scale(last)?)?;
    let fixed = match &norm.bias {
        Some(bias) => Some(
            along
                .after_norm
                .matmul(&bias.unsqueeze(1)?)?
                .squeeze(1)?
                .host_vec1::<f32>()?,
        ),
        None => None,
    };
    let constants = (0..along.targets.len())
        .map(|i| {
            let of_norm = fixed.iter().map(|f| f[i]);
            let of_head = transformer.head.bias.iter().map(|_| along.biases[i]);
            of_norm.chain(of_head).collect()
        })
        .collect();
    Ok((seen, constants))
}

/// The parts of the stream as rows `[positions, d_model]`, f32, in the order of the forward pass.
fn stream_parts(model: &Model, capture: &Capture) -> Result<Vec<(LogitPart, Tensor)>> {
    let get = |at: Address| capture.get(at).cloned();
    let layers = model.card.layers;
    let touched = edited(&capture.run, layers)?;
    let embed = get(Site::Embed.at(0))?;
    let learned = model
        .transformer
        .position_vectors(capture.positions.start, capture.positions.len())?
        .filter(|_| !touched.contains(&Site::Embed.at(0)));
    let mut out = match learned {
        Some(own) => vec![
            (LogitPart::Token, (&embed - &own)?),
            (LogitPart::Position, own),
        ],
        None => vec![(LogitPart::Embed, embed.clone())],
    };
    // The stream without the next edit of the stream: the latest recorded state plus the component outputs since.
    let mut stream = embed;
    let moved =
        |at: Address, stream: &mut Tensor, out: &mut Vec<(LogitPart, Tensor)>, after: Tensor| {
            out.push((LogitPart::Edits(at), (&after - &*stream)?));
            *stream = after;
            Ok::<(), Error>(())
        };
    for layer in 0..layers {
        let pre = Site::ResidPre.at(layer);
        if touched.contains(&pre) {
            moved(pre, &mut stream, &mut out, get(pre)?)?;
        }
        let attention = get(Site::AttnAdd.at(layer))?;
        stream = (stream + &attention)?;
        out.push((LogitPart::Attention(layer), attention));
        let mid = Site::ResidMid.at(layer);
        if touched.contains(&mid) {
            moved(mid, &mut stream, &mut out, get(mid)?)?;
        }
        let mlp = get(Site::MlpAdd.at(layer))?;
        stream = (stream + &mlp)?;
        out.push((LogitPart::Mlp(layer), mlp));
        let post = Site::ResidPost.at(layer);
        if touched.contains(&post) {
            moved(post, &mut stream, &mut out, get(post)?)?;
        }
    }
    Ok(out)
}

/// Sums over the entries of one part.
#[derive(Clone, Copy, Debug, Default)]
struct PartSums {
    /// With the direction.
    effect: f64,
    /// Of squares.
    square: f64,
    /// With the stream that it was added to.
    dot: f64,
    /// Of that stream's squares.
    before: f64,
    /// Of what is left of the final stream without it, absolute.
    without: f64,
}

/// Sums over the entries of all parts at one position.
#[derive(Clone, Debug, Default)]
struct PositionSums {
    parts: Vec<PartSums>,
    /// Of the absolute entries of the final stream.
    whole: f64,
    /// The largest difference between the sum of all parts and the final stream, and that stream's largest entry.
    gap: f64,
    reach: f64,
    /// Of the direction's squares.
    direction: f64,
}

impl PositionSums {
    /// The statistics of the parts, and the error of their sum relative to the final stream.
    fn parts(&self) -> (Vec<PartAtPosition>, f32) {
        let near = |part: &PartSums| (self.whole - part.without).max(0.0);
        let total: f64 = self.parts.iter().map(near).sum();
        let one = |part: &PartSums| {
            let lengths = part.square.sqrt() * part.before.sqrt();
            PartAtPosition {
                effect: part.effect as f32,
                size: part.square.sqrt() as f32,
                cosine: if lengths > 0.0 {
                    (part.dot / lengths) as f32
                } else {
                    0.0
                },
                share: if total > 0.0 {
                    (near(part) / total) as f32
                } else {
                    0.0
                },
            }
        };
        let error = self.gap as f32 / (self.reach as f32).max(f32::MIN_POSITIVE);
        (self.parts.iter().map(one).collect(), error)
    }
}

/// The sums of parts `[parts, positions, d_model]`, for directions and the final stream, `[positions, d_model]`: by position.
fn sums_on_host(parts: &Tensor, directions: &Tensor, last: &Tensor) -> Result<Vec<PositionSums>> {
    let (_, positions, width) = parts.dims3()?;
    let (seen, end) = (to_host(directions)?, to_host(last)?);
    // One read-back for all parts.
    let values = to_host(parts)?;
    let values: Vec<&[f32]> = values.chunks(positions * width).collect();
    let at = |i: usize| {
        let row = |of: &[f32]| of[i * width..(i + 1) * width].to_vec();
        let (u, end) = (row(&seen), row(&end));
        let mut stream = vec![0f64; width];
        let sum = |part: &&[f32]| {
            let mut out = PartSums::default();
            for (((c, u), x), end) in row(part).iter().zip(&u).zip(&mut stream).zip(&end) {
                let c = f64::from(*c);
                out.effect += c * f64::from(*u);
                out.square += c * c;
                out.dot += c * *x;
                out.before += *x * *x;
                out.without += (f64::from(*end) - c).abs();
                *x += c;
            }
            out
        };
        let parts = values.iter().map(sum).collect();
        let gaps = stream
            .iter()
            .zip(&end)
            .map(|(sum, x)| (sum - f64::from(*x)).abs());
        PositionSums {
            parts,
            whole: end.iter().map(|x| f64::from(*x).abs()).sum(),
            gap: gaps
                .reduce(|a, b| if b > a || b.is_nan() { b } else { a })
                .unwrap_or_default(),
            reach: f64::from(end.iter().fold(0f32, |most, x| most.max(x.abs()))),
            direction: u.iter().map(|v| f64::from(*v).powi(2)).sum(),
        }
    };
    Ok((0..positions).map(at).collect())
}

/// The same where the parts are: five numbers a part come back, at once.
fn sums_on_device(parts: &Tensor, directions: &Tensor, last: &Tensor) -> Result<Vec<PositionSums>> {
    // Metal has no f64.
    let dtype = if parts.device().is_metal() {
        DType::F32
    } else {
        DType::F64
    };
    let wide = |t: &Tensor| t.to_dtype(dtype);
    let (all, u, end) = (wide(parts)?, wide(directions)?, wide(last)?);
    let (count, positions, _) = all.dims3()?;
    let up_to = all.cumsum(0)?;
    let before = (&up_to - &all)?;
    let sums = [
        all.broadcast_mul(&u)?.sum(2)?,
        all.sqr()?.sum(2)?,
        (&all * &before)?.sum(2)?,
        before.sqr()?.sum(2)?,
        all.broadcast_sub(&end)?.abs()?.sum(2)?,
    ];
    let gap = (up_to.get(count - 1)? - &end)?.abs()?;
    // A maximum passes over what is not a number; a sum does not.
    let gap = (gap.max(1)? + (gap * 0.0)?.sum(1)?)?;
    let ends = [
        end.abs()?.sum(1)?,
        gap,
        end.abs()?.max(1)?,
        u.sqr()?.sum(1)?,
    ];
    let flat = sums.iter().chain(&ends).map(Tensor::flatten_all);
    let flat = flat.collect::<candle_core::Result<Vec<_>>>()?;
    let numbers = Tensor::cat(&flat, 0)?.to_dtype(DType::F64)?;
    let numbers = numbers.host_vec1::<f64>()?;
    let (sums, ends) = numbers.split_at(5 * count * positions);
    let at = |i: usize| {
        let part = |part: usize| {
            let sum = |which: usize| sums[(which * count + part) * positions + i];
            PartSums {
                effect: sum(0),
                square: sum(1),
                dot: sum(2),
                before: sum(3),
                without: sum(4),
            }
        };
        let end = |which: usize| ends[which * positions + i];
        PositionSums {
            parts: (0..count).map(part).collect(),
            whole: end(0),
            gap: end(1),
            reach: end(2),
            direction: end(3),
        }
    };
    Ok((0..positions).map(at).collect())
}
