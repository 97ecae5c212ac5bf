//! Reading many residual rows through the unembedding at once: the strongest tokens, entropy, KL, ranks.
//!
//! Invariant: every row is read against the whole vocabulary, with statistics in f32 and f64; a row with a logit that is
//! NaN or infinite names no token, has no ranks, and all its numbers are not-a-number; and no row of logits is ever held
//! whole unless it is asked for ([`crate::model::kernels::vocabulary`] reads strips of tokens). To read something else of a
//! row, add a field to [`RowRequest`], one to [`RowStats`], and its sum there.

use candle_core::{D, DType, Tensor};

use super::sample::{NO_RANK, NO_TOKEN};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::kernels::vocabulary::{self, OtherRow, RowQuestion, RowSums};
use crate::model::network::readout::{ReadoutRequest, on_host};

/// The largest difference of logits that the self-check tolerates: 1e-4 in f32, more in narrower dtypes.
pub fn tolerance(dtype: DType) -> f32 {
    let wide = matches!(dtype, DType::F32 | DType::F64);
    if wide { 1e-4 } else { 5e-2 }
}

/// Whose log-probability and rank a row is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub enum Tokens<'a> {
    /// Nobody's.
    #[default]
    None,
    /// The same tokens in every row.
    Same(&'a [u32]),
    /// One token a row.
    Each(&'a [u32]),
}

/// What a row's distribution is compared with: for every row, which of these rows of logits.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceRows<'a> {
    /// Rows that were read with [`RowRequest::keep`].
    pub rows: &'a [RowStats],
    /// For every row the number of its own.
    pub of: &'a [usize],
}

impl<'a> ReferenceRows<'a> {
    /// That of a row; none where its logits were not kept.
    fn row(&self, row: usize) -> Option<OtherRow<'a>> {
        let logits = &self.rows[self.of[row]].logits;
        (!logits.is_empty()).then_some(OtherRow::Logits(logits))
    }
}

/// What is asked of every row.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowRequest<'a> {
    /// How many of the strongest tokens.
    pub top: usize,
    /// Tokens of interest.
    pub tokens: Tokens<'a>,
    /// Whether the ranks of those tokens are counted too.
    pub ranks: bool,
    pub entropy: bool,
    /// KL from other rows.
    pub against: Option<ReferenceRows<'a>>,
    /// Whether the logits themselves are kept.
    pub keep: bool,
}

/// A token of interest in one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenStats {
    pub id: u32,
    pub logit: f32,
    /// Its natural log-probability.
    pub logprob: f32,
    /// How many tokens are strictly more probable; 0 where it was not counted, [`NO_RANK`] where the row is no distribution.
    pub rank: u32,
}

impl TokenStats {
    /// A token with this logit in a row whose logits have this log-sum-exp.
    pub(crate) fn of(id: u32, logit: f32, total: f64, rank: u32) -> Self {
        Self {
            id,
            logit,
            logprob: (f64::from(logit) - total) as f32,
            rank,
        }
    }

    /// The rank as a number; not-a-number where there is none.
    pub fn rank(&self) -> f32 {
        if self.rank == NO_RANK {
            f32::NAN
        } else {
            self.rank as f32
        }
    }
}

/// What a row says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowStats {
    /// The strongest tokens and their probabilities.
    pub top: Vec<(u32, f32)>,
    /// Tokens of interest, in the order they were asked for.
    pub tokens: Vec<TokenStats>,
    /// Nats; not-a-number where it was not asked for.
    pub entropy: f32,
    /// KL(other row ‖ this row), nats; not-a-number where it was not asked for.
    pub kl: f32,
    /// The largest difference of its logits from those of the other row; not-a-number where it was not asked for.
    pub gap: f32,
    /// `ln Σ exp(z)`.
    pub total: f64,
    /// `[vocab]` logits, where they were to be kept.
    pub logits: Vec<f32>,
}

impl<'a> RowRequest<'a> {
    /// What is asked of the `row`th row.
    fn question(&self, row: usize) -> RowQuestion<'a> {
        RowQuestion {
            row,
            top: self.top,
            tokens: match self.tokens {
                Tokens::None => &[],
                Tokens::Same(ids) => ids,
                Tokens::Each(ids) => &ids[row..=row],
            },
            ranks: self.ranks,
            entropy: self.entropy,
            against: self.against.and_then(|against| against.row(row)),
        }
    }
}

impl RowStats {
    /// What sums over a row come to; `logits` where they were to be kept.
    pub(crate) fn of(sums: RowSums, ranks: bool, logits: Vec<f32>) -> Self {
        let total = sums.total;
        let broken = total.is_nan();
        let token = |(id, logit, above): (u32, f32, u32)| {
            let rank = match (broken, ranks) {
                (true, _) => NO_RANK,
                (false, true) => above,
                (false, false) => 0,
            };
            TokenStats::of(id, logit, total, rank)
        };
        let share = |(id, z): (u32, f32)| (id, (f64::from(z) - total).exp() as f32);
        Self {
            top: sums.top.into_iter().map(share).collect(),
            tokens: sums.tokens.into_iter().map(token).collect(),
            entropy: sums.entropy as f32,
            kl: sums.kl as f32,
            gap: sums.gap,
            total,
            logits,
        }
    }

    /// The strongest token and its probability; [`NO_TOKEN`] and not-a-number where the row is no distribution, or none was
    /// asked for.
    pub fn first(&self) -> (u32, f32) {
        self.top.first().copied().unwrap_or((NO_TOKEN, f32::NAN))
    }

    /// Whether it is a distribution.
    pub fn is_finite(&self) -> bool {
        self.total.is_finite()
    }

    /// A token of interest; of one that was not asked for, numbers that are none.
    pub fn token(&self, id: u32) -> TokenStats {
        let token = self.tokens.iter().find(|token| token.id == id);
        token.copied().unwrap_or(TokenStats {
            id,
            logit: f32::NAN,
            logprob: f32::NAN,
            rank: NO_RANK,
        })
    }

    /// The probability of all tokens of interest together.
    pub fn share(&self) -> f64 {
        let each = self
            .tokens
            .iter()
            .map(|token| f64::from(token.logprob).exp());
        each.sum()
    }
}

/// Reads rows `[n, d_embed]` that [`prepared`](crate::model::network::transformer::Transformer::normalize_for_unembed) made; `report` is told
/// how far it is, 0 to 1, and may stop it.
pub fn read(
    model: &Model,
    rows: &Tensor,
    ask: &RowRequest,
    report: &mut dyn FnMut(f32) -> Result<()>,
) -> Result<Vec<RowStats>> {
    let numbers: Vec<usize> = (0..rows.dim(0)?).collect();
    let questions: Vec<RowQuestion> = numbers.iter().map(|row| ask.question(*row)).collect();
    let whole = if ask.keep { &numbers[..] } else { &[] };
    read_questions(model, rows, &questions, whole, report)
}

/// The same with questions of their own; the rows in `whole` keep their logits.
pub(crate) fn read_questions(
    model: &Model,
    rows: &Tensor,
    questions: &[RowQuestion],
    whole: &[usize],
    report: &mut dyn FnMut(f32) -> Result<()>,
) -> Result<Vec<RowStats>> {
    let vocab = model.transformer.head.out;
    check_tokens(questions, vocab)?;
    let request = ReadoutRequest {
        questions,
        whole,
        known: model.known_tokens(),
        ..ReadoutRequest::default()
    };
    let output = model
        .transformer
        .row_statistics(rows, &request, Vec::new(), report)?;
    let logits = |row: usize| {
        let at = whole.iter().position(|kept| *kept == row);
        at.map_or_else(Vec::new, |at| output.whole[at * vocab..][..vocab].to_vec())
    };
    let each = output.sums.into_iter().zip(questions);
    Ok(each
        .map(|(sums, question)| RowStats::of(sums, question.ranks, logits(question.row)))
        .collect())
}

/// Refuses tokens that the vocabulary has not.
fn check_tokens(questions: &[RowQuestion], vocab: usize) -> Result<()> {
    let mut tokens = questions.iter().flat_map(|question| question.tokens);
    match tokens.find(|id| **id as usize >= vocab) {
        Some(id) => Err(Error::Engine(format!(
            "token {id} of a vocabulary of {vocab}"
        ))),
        None => Ok(()),
    }
}

/// Reads rows of logits that are there already.
pub fn read_rows(rows: &[&[f32]], known: usize, ask: &RowRequest) -> Vec<RowStats> {
    let requests: Vec<RowQuestion> = (0..rows.len()).map(|row| ask.question(row)).collect();
    let sums = vocabulary::read_rows(rows, known, &requests).into_iter();
    let kept = |row: &&[f32]| if ask.keep { row.to_vec() } else { Vec::new() };
    sums.zip(rows)
        .map(|(sums, row)| RowStats::of(sums, ask.ranks, kept(row)))
        .collect()
}

/// Reads a tensor of logits, `[.., vocab]`, of which something else may be asked in every row.
pub(crate) fn read_logits<'a>(
    logits: &Tensor,
    known: usize,
    ask: impl Fn(usize) -> RowRequest<'a>,
) -> Result<Vec<RowStats>> {
    let vocab = logits.dim(D::Minus1)?;
    on_host(logits, |all| {
        let rows: Vec<&[f32]> = all.chunks_exact(vocab).collect();
        let asks: Vec<RowRequest> = (0..rows.len()).map(&ask).collect();
        let questions = questions(&asks);
        let sums = vocabulary::read_rows(&rows, known, &questions);
        let each = sums.into_iter().zip(&asks).zip(&rows);
        each.map(|((sums, ask), row)| {
            let kept = if ask.keep { row.to_vec() } else { Vec::new() };
            RowStats::of(sums, ask.ranks, kept)
        })
        .collect()
    })
}

/// What is asked of rows, each by a request of its own for one row.
pub(crate) fn questions<'a>(asks: &[RowRequest<'a>]) -> Vec<RowQuestion<'a>> {
    let each = asks.iter().enumerate();
    each.map(|(row, ask)| RowQuestion {
        row,
        ..ask.question(0)
    })
    .collect()
}
