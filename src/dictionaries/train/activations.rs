//! The text that a dictionary is trained on, in contexts, and their activations at a site.
//!
//! Invariant: the last part of a text is held out and never trained on; the first position of a context gives no row, and neither do
//! rows with ten times the usual norm ([`OUTLIER`]): what is there is unlike everything else (attention sinks). To divide a text in another way, add a function that makes a [`SplitText`].

use rand::seq::SliceRandom;

use super::super::captured::{OUTLIER, captures, later_values, norms_of, usual};
use super::super::place::DictionaryPlace;
use crate::edit::direction::norm;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::statistics::pieces;
use crate::model::network::finite;
use crate::model::network::site::{Address, Axis};
use crate::model::{Fingerprint, Model};

/// How a text becomes contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextCut {
    /// The most tokens of a context, with the token that begins a text if the model has one.
    pub context: usize,
    /// Whether every line is a context of its own, rather than a part of one long text.
    pub lines: bool,
}

/// A text in contexts.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitText {
    pub training: Vec<Vec<u32>>,
    /// The last tenth.
    pub held_out: Vec<Vec<u32>>,
    /// A digest of text and cut.
    pub digest: u64,
}

/// The rows that contexts give.
pub fn rows_of(contexts: &[Vec<u32>]) -> usize {
    contexts.iter().map(|context| context.len() - 1).sum()
}

/// The contexts of a text, in order; those without a second token are left out.
///
/// # Errors
///
/// When the context does not fit the model, or the text cannot be encoded.
pub fn contexts(model: &Model, words: &str, cut: TextCut) -> Result<Vec<Vec<u32>>> {
    let most = model.card.context;
    if !(2..=most).contains(&cut.context) {
        let expected = match most {
            0..2 => "2 tokens or more".to_string(),
            most => format!("2 to {most} tokens"),
        };
        return Err(Error::argument("--context", cut.context, expected));
    }
    let bos = model.tokenizer()?.bos();
    let mut found = Vec::new();
    let texts: Vec<&str> = if cut.lines {
        words
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect()
    } else {
        vec![words]
    };
    for text in texts {
        let tokens = model.encode(text, false)?;
        found.extend(pieces(&tokens, bos, cut.context));
    }
    found.retain(|context| context.len() > 1);
    Ok(found)
}

impl SplitText {
    /// Divides a text: nine tenths are trained on, the last tenth is held out.
    ///
    /// # Errors
    ///
    /// When there are fewer than two contexts, or as [`contexts`].
    pub fn of(model: &Model, words: &str, cut: TextCut) -> Result<Self> {
        let mut training = contexts(model, words, cut)?;
        if training.len() < 2 {
            let tokens: usize = training.iter().map(Vec::len).sum();
            return Err(Error::argument(
                "--text",
                format!("a text of {tokens} tokens"),
                format!(
                    "a text that is longer than one context of {} tokens: the last tenth is held out for the report. Give a longer text, or a shorter --context",
                    cut.context
                ),
            ));
        }
        let held = training.len().div_ceil(10);
        let held_out = training.split_off(training.len() - held);
        let mut digest = Fingerprint::default();
        digest.write(words.as_bytes());
        digest.write(&(cut.context as u64).to_le_bytes());
        digest.write(&[u8::from(cut.lines)]);
        Ok(Self {
            training,
            held_out,
            digest: digest.finish(),
        })
    }
}

/// Refuses a site without one vector a position, and those behind the last block.
///
/// # Errors
///
/// Says what to take instead.
pub fn check_site(model: &Model, at: Address) -> Result<usize> {
    let refused = |why: &str| {
        Err(Error::Refused {
            address: at.to_string(),
            why: why.into(),
        })
    };
    match at.site.spec().axis {
        Axis::Positions => {
            return refused(
                "it has one row for each query, not a vector for each position. Use z, the output of each head, or resid_post.",
            );
        }
        Axis::Vocab | Axis::Experts => {
            return refused(
                "it is no place of features. Use resid_post, mlp_out, attn_out, mlp_act or z.",
            );
        }
        Axis::Model | Axis::Mlp | Axis::Heads | Axis::KvHeads => {}
    }
    let width = model.width(at.site);
    DictionaryPlace::At(at).on(model, width, "the one to train")?;
    Ok(width)
}

/// The rows of contexts at an address, `[rows, width]`, in the order of the contexts.
///
/// # Errors
///
/// When the work is stopped, or numbers are not finite.
pub fn rows(lab: &mut Lab, contexts: &[Vec<u32>], at: Address) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(rows_of(contexts) * lab.model.width(at.site));
    for capture in captures(lab, contexts.iter().cloned(), &[at])? {
        out.extend(later_values(&capture, at)?);
    }
    if finite::all(&out) {
        return Ok(out);
    }
    Err(Error::Refused {
        address: at.to_string(),
        why: "its activations are not finite in this dtype. Use --dtype f32.".into(),
    })
}

/// The norm beyond which a row is an outlier: [`OUTLIER`] times the usual one of rows, `[.., width]`.
pub fn limit_of(rows: &[f32], width: usize) -> f32 {
    usual(norms_of(rows, width)).map_or(f32::INFINITY, |n| OUTLIER * n)
}

/// The rows within a limit.
pub fn inside(rows: &[f32], width: usize, limit: f32) -> Vec<f32> {
    let kept = rows
        .chunks_exact(width.max(1))
        .filter(|row| norm(row) <= limit);
    kept.flatten().copied().collect()
}

/// Numbers from 0 on in an order that a seed and a purpose decide.
pub fn shuffled(count: usize, seed: u64, purpose: u64) -> Vec<usize> {
    use rand::SeedableRng;
    let mut rng = rand::rngs::StdRng::seed_from_u64(Fingerprint::of([seed, purpose]));
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut rng);
    order
}
