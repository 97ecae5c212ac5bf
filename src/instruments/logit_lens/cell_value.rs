//! The numbers in the cells of a lens figure: which quantity, of which token, and the course of a token's rank along the
//! layers.
//!
//! Invariant: every row has all of the numbers in one order, so that the figure can switch between them without measuring
//! again; ranks count from 1. To add a number, add a variant of [`LensNumber`]; the compiler lists the places to visit.

use crate::error::Result;
use crate::figure::cell_details::RankStory;
use crate::figure::{Anchor, Cell, Scale};
use crate::instruments::params::choices;
use crate::lab::Lab;
use crate::lab::capture::Readout;
use crate::lab::readout::RowStats;
use crate::lab::target::first_token;
use crate::model::Model;
use crate::model::network::finite::NOT_FINITE;

/// The vocabulary size above which a lens opens with ranks: in a large vocabulary the top prediction of an early layer says
/// little, and the rank of the answer says more.
pub const LARGE: usize = 8192;

choices! {
    /// The number that a lens figure shows first.
    pub enum Opening {
        Auto = "auto",
        Rank = "rank",
        Probability = "probability",
        ReciprocalRank = "reciprocal_rank",
        Entropy = "entropy",
        Kl = "kl",
    }
}

/// The quantity that a cell's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LensNumber {
    Rank,
    Probability,
    ReciprocalRank,
    Entropy,
    Kl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenChoice {
    /// The cell's own top prediction.
    Own,
    /// The model's top prediction at that position.
    Answer,
    Token(u32),
}

pub(crate) type CellNumber = (LensNumber, TokenChoice);

/// What a lens figure shows in its cells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LensCell {
    /// The number shown first.
    pub(crate) first: CellNumber,
    /// The token whose ranks are shown: the answer, or a chosen token.
    pub(crate) subject: TokenChoice,
    pub(crate) top: usize,
}

impl LensCell {
    pub(crate) fn of(opening: Opening, of: &str, top: usize, model: &Model) -> Result<Self> {
        let show = match opening {
            Opening::Rank => LensNumber::Rank,
            Opening::ReciprocalRank => LensNumber::ReciprocalRank,
            Opening::Entropy => LensNumber::Entropy,
            Opening::Kl => LensNumber::Kl,
            Opening::Auto if model.card.vocab > LARGE => LensNumber::Rank,
            Opening::Auto | Opening::Probability => LensNumber::Probability,
        };
        let of = match (of, show) {
            ("answer", _) | ("", LensNumber::Rank | LensNumber::ReciprocalRank) => {
                TokenChoice::Answer
            }
            ("", _) => TokenChoice::Own,
            (text, _) => TokenChoice::Token(first_token("of", text, model)?),
        };
        Ok(Self {
            first: (show, of),
            subject: match of {
                TokenChoice::Own | TokenChoice::Answer => TokenChoice::Answer,
                TokenChoice::Token(id) => TokenChoice::Token(id),
            },
            top,
        })
    }

    /// Short names of [`LensCell::numbers`], for columns of tables.
    pub(crate) const SHORT: [&'static str; 6] =
        ["rank", "p", "top p", "KL", "entropy", "reciprocal rank"];

    /// All numbers of a cell, in the order in which the user cycles through them.
    pub(crate) fn numbers(self) -> Vec<CellNumber> {
        let mut all = vec![
            (LensNumber::Rank, self.subject),
            (LensNumber::Probability, self.subject),
            (LensNumber::Probability, TokenChoice::Own),
            (LensNumber::Kl, TokenChoice::Own),
            (LensNumber::Entropy, TokenChoice::Own),
        ];
        if self.first.0 == LensNumber::ReciprocalRank {
            all.push(self.first);
        }
        all
    }

    /// The index in [`LensCell::numbers`] of the number shown first. Entropy and KL belong to no token, so only the quantity is
    /// compared for them.
    pub(crate) fn opening_index(self) -> usize {
        let same = |params: &CellNumber| {
            params.0 == self.first.0
                && (params.1 == self.first.1
                    || matches!(params.0, LensNumber::Entropy | LensNumber::Kl))
        };
        self.numbers().iter().position(same).unwrap_or(0)
    }

    /// A readout with all statistics that the numbers need.
    pub(crate) fn request(self, of: Readout) -> Readout {
        Readout {
            plain: true,
            top: self.top,
            tokens: match self.subject {
                TokenChoice::Token(id) => vec![id],
                TokenChoice::Own | TokenChoice::Answer => Vec::new(),
            },
            answer: self.subject == TokenChoice::Answer,
            ranks: true,
            entropy: true,
            kl: true,
            ..of
        }
    }

    /// A number, from the statistics of a row. Ranks count from 1.
    pub(crate) fn number((show, of): CellNumber, stats: &RowStats) -> f32 {
        let token = stats.tokens.first();
        let rank = token.map(|t| t.rank() + 1.0);
        match (show, of) {
            (LensNumber::Probability, TokenChoice::Own) => stats.first().1,
            (LensNumber::Probability, _) => token.map_or(f32::NAN, |t| t.logprob.exp()),
            (LensNumber::Rank, _) => rank.unwrap_or(f32::NAN),
            (LensNumber::ReciprocalRank, _) => rank.map_or(f32::NAN, |r| 1.0 / r),
            (LensNumber::Entropy, _) => stats.entropy,
            (LensNumber::Kl, _) => stats.kl,
        }
    }

    pub(crate) fn number_in_words((show, of): CellNumber, lab: &Lab) -> String {
        let of = match of {
            TokenChoice::Own => String::new(),
            TokenChoice::Answer => " of the answer".into(),
            TokenChoice::Token(id) => format!(" of {}", lab.visible(id)),
        };
        match show {
            LensNumber::Probability => format!("probability{of}"),
            LensNumber::Rank => format!("rank{of}"),
            LensNumber::ReciprocalRank => format!("reciprocal rank{of}"),
            LensNumber::Entropy => "entropy (nats)".into(),
            LensNumber::Kl => "KL divergence from the output (nats)".into(),
        }
    }

    pub(crate) fn scale(
        (show, _): CellNumber,
        lab: &Lab,
        cells: &[Vec<Cell>],
        values: &[Vec<f32>],
    ) -> Scale {
        let largest = || {
            // The first position is often an attention sink with extreme values, so it does not determine the colours of the
            // others.
            let columns = cells.iter().zip(values).filter(|(cells, _)| {
                let sink = cells.first().is_some_and(|c| c.anchor.position == Some(0));
                values.len() == 1 || !sink
            });
            let all = columns.flat_map(|(_, values)| values.iter().copied());
            all.filter(|v| v.is_finite()).fold(0.0f32, f32::max)
        };
        match show {
            LensNumber::Probability | LensNumber::ReciprocalRank => Scale::Unit,
            LensNumber::Rank => Scale::Rank {
                worst: lab.model.card.vocab as f32,
            },
            LensNumber::Entropy => Scale::up_to((lab.model.card.vocab as f32).ln()),
            LensNumber::Kl => Scale::up_to(largest()),
        }
    }

    /// The cell of a row with its top predictions; [`Lens::figure`] adds the numbers.
    pub(crate) fn cell(self, lab: &Lab, stats: &RowStats, anchor: Anchor) -> Cell {
        let spelled = stats.top.iter().map(|(id, p)| (lab.visible(*id), *p));
        let more: Vec<(String, f32)> = spelled.collect();
        let label = more.first().map_or(NOT_FINITE, |m| &m.0);
        let ids = stats.top.iter().map(|(id, _)| *id).collect();
        Cell::of(label, Self::number(self.first, stats), anchor)
            .more(more)
            .ids(ids)
    }

    /// All numbers of a row, in the order of [`LensCell::numbers`].
    pub(crate) fn all_numbers(self, stats: &RowStats) -> Vec<f32> {
        let number = |params: &CellNumber| Self::number(*params, stats);
        self.numbers().iter().map(number).collect()
    }

    /// As many numbers that are none, for a state that was not read yet.
    pub(crate) fn no_numbers(self) -> Vec<f32> {
        vec![f32::NAN; self.numbers().len()]
    }

    /// The course of the token's rank and probability along a column.
    pub(crate) fn rank_story<'a>(
        self,
        lab: &Lab,
        position: usize,
        answer: u32,
        rows: impl Iterator<Item = &'a RowStats>,
    ) -> RankStory {
        let token = match self.subject {
            TokenChoice::Token(id) => id,
            TokenChoice::Own | TokenChoice::Answer => answer,
        };
        let tokens = rows.filter_map(|stats| stats.tokens.first());
        let (ranks, shares) = tokens
            .map(|t| (t.rank.saturating_add(1), t.logprob.exp()))
            .unzip();
        let at = Anchor::position(position);
        RankStory::of(lab.visible(token), at, ranks, shares)
    }
}
