//! What the model makes of a subject: the states of its last token, and the state from which the object is read.
//!
//! Invariant: the subject's token is the last one of its last occurrence, found by bytes, whatever the tokenizer does with
//! spaces; states are those of the unedited model. To read other states, add a field to [`SubjectStates`].

use candle_core::{DType, Tensor};

use crate::edit::relation_map::{RelationPair, RelationPrompts};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::Output;
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};
use crate::text;

/// A subject in its prompt, and what the model makes of it.
#[derive(Clone, Debug)]
pub struct SubjectStates {
    pub pair: RelationPair,
    /// The prompt.
    pub tokens: Vec<u32>,
    /// The position of the subject's last token.
    pub at: usize,
    /// The states there after every asked block, `[d_model]` each.
    pub states: Vec<Vec<f32>>,
    /// The state at the last token after the last block, before the final norm: `o`, `[d_model]`.
    pub object: Vec<f32>,
    /// What the model says: its top prediction and the probability.
    pub says: (u32, f32),
    /// Whether that begins the object.
    pub right: bool,
}

/// The address from which objects are read.
pub fn object_address(model: &Model) -> Address {
    Site::ResidPost.at(model.card.layers - 1)
}

/// The tokens of a subject's prompt and the position of the subject's last token.
///
/// # Errors
///
/// When the prompt does not fit the model.
pub fn located(
    model: &Model,
    prompts: &RelationPrompts,
    subject: &str,
) -> Result<(Vec<u32>, usize)> {
    let tokens = model.encode(&prompts.text(subject), false)?;
    model.check_prompt(&tokens)?;
    let ends: Vec<usize> = tokens
        .iter()
        .scan(0, |end, id| {
            *end += model.bytes(*id).len();
            Some(*end)
        })
        .collect();
    let bytes: Vec<u8> = tokens.iter().flat_map(|id| model.bytes(*id)).collect();
    let wanted = subject.as_bytes();
    let found = bytes
        .windows(wanted.len().max(1))
        .rposition(|w| w == wanted);
    let found = found.and_then(|start| {
        let last = start + wanted.len() - 1;
        ends.iter().position(|end| *end > last)
    });
    match found {
        Some(at) => Ok((tokens, at)),
        None => Err(Error::argument(
            "subject",
            text::plain(wanted),
            "a text that its tokens spell again; this tokenizer changes it",
        )),
    }
}

/// Whether a token begins an object: its text, without spaces around it and whatever its case, is a beginning of the object, and
/// not empty (Hernandez et al. 2024, appendix on evaluation).
pub fn begins(model: &Model, token: u32, object: &str) -> bool {
    let spelled = String::from_utf8_lossy(&model.bytes(token)).to_lowercase();
    let spelled = spelled.trim();
    !spelled.is_empty() && object.trim().to_lowercase().starts_with(spelled)
}

impl SubjectStates {
    /// Reads the prompt of a subject and keeps its states after these blocks.
    ///
    /// # Errors
    ///
    /// When the prompt does not fit the model, or numbers are not finite.
    pub fn measure(
        lab: &mut Lab,
        prompts: &RelationPrompts,
        pair: &RelationPair,
        layers: &[usize],
    ) -> Result<Self> {
        let (tokens, at) = located(&lab.model, prompts, &pair.subject)?;
        let end = object_address(&lab.model);
        let mut record: Vec<Address> = layers.iter().map(|l| Site::ResidPost.at(*l)).collect();
        record.push(end);
        record.sort_unstable();
        record.dedup();
        let read = lab.run_one(&Pass {
            record,
            ..Pass::after(Run::plain(tokens.clone()), Output::top(1))
        })?;
        let row = |address: Address, position: usize| -> Result<Vec<f32>> {
            let row = read.get(address)?.get(position - read.positions.start)?;
            Ok(row.to_dtype(DType::F32)?.host_vec1()?)
        };
        let states = layers.iter().map(|l| row(Site::ResidPost.at(*l), at));
        let says = read.last().first();
        Ok(Self {
            states: states.collect::<Result<_>>()?,
            object: row(end, tokens.len() - 1)?,
            right: begins(&lab.model, says.0, &pair.object),
            says,
            pair: pair.clone(),
            tokens,
            at,
        })
    }
}

/// Vectors as the rows of a matrix, `[n, d_model]`, f32, on the model's device.
///
/// # Errors
///
/// When there is none, or they differ in length.
pub fn rows<'a>(lab: &Lab, vectors: impl IntoIterator<Item = &'a [f32]>) -> Result<Tensor> {
    let d = lab.model.card.d_model;
    let values: Vec<f32> = vectors.into_iter().flatten().copied().collect();
    let count = values.len() / d;
    Ok(Tensor::from_vec(
        values,
        (count, d),
        &lab.model.transformer.device,
    )?)
}
