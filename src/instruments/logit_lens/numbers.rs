//! The numbers of a lens: what a cell's number is, whose it is, and what becomes of a token along the layers.
//!
//! Invariant: every row has all of them, in one order, so that one can be shown in another's place without measuring again; ranks
//! count from 1. To add a number, add a variant of [`Show`]; the compiler lists the places to visit.

use crate::error::Result;
use crate::figure::also::Story;
use crate::figure::{Anchor, Cell, Scale};
use crate::instruments::params::choices;
use crate::lab::Lab;
use crate::lab::capture::Readout;
use crate::lab::readout::Said;
use crate::lab::target::first_token;
use crate::model::Model;
use crate::model::network::finite::NOT_FINITE;

/// Tokens from which on a vocabulary is large: the strongest token of an early layer says little there, and the rank of
/// the answer says more.
pub const LARGE: usize = 8192;

choices! {
    /// The number that a lens opens with.
    pub enum Opening {
        Auto = "auto",
        Rank = "rank",
        Probability = "probability",
        ReciprocalRank = "reciprocal_rank",
        Entropy = "entropy",
        Kl = "kl",
    }
}

/// What a cell's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    Rank,
    Probability,
    ReciprocalRank,
    Entropy,
    Kl,
}

/// Whose number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The cell's strongest token.
    Own,
    /// The model's strongest token at that position.
    Answer,
    /// One token.
    Token(u32),
}

/// A number of a cell.
pub(crate) type CellNumber = (Show, Of);

/// What is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// The number that the figure opens with.
    pub(crate) first: CellNumber,
    /// Whose ranks are told: the answer's, or one token's.
    pub(crate) subject: Of,
    pub(crate) top: usize,
}

impl Shown {
    pub(crate) fn of(opening: Opening, of: &str, top: usize, model: &Model) -> Result<Self> {
        let show = match opening {
            Opening::Rank => Show::Rank,
            Opening::ReciprocalRank => Show::ReciprocalRank,
            Opening::Entropy => Show::Entropy,
            Opening::Kl => Show::Kl,
            Opening::Auto if model.card.vocab > LARGE => Show::Rank,
            Opening::Auto | Opening::Probability => Show::Probability,
        };
        let of = match (of, show) {
            ("answer", _) | ("", Show::Rank | Show::ReciprocalRank) => Of::Answer,
            ("", _) => Of::Own,
            (text, _) => Of::Token(first_token("of", text, model)?),
        };
        Ok(Self {
            first: (show, of),
            subject: match of {
                Of::Own | Of::Answer => Of::Answer,
                Of::Token(id) => Of::Token(id),
            },
            top,
        })
    }

    /// Every number of a cell, in the order in which one key goes through them.
    pub(crate) fn numbers(self) -> Vec<CellNumber> {
        let mut all = vec![
            (Show::Rank, self.subject),
            (Show::Probability, self.subject),
            (Show::Probability, Of::Own),
            (Show::Kl, Of::Own),
            (Show::Entropy, Of::Own),
        ];
        if self.first.0 == Show::ReciprocalRank {
            all.push(self.first);
        }
        all
    }

    /// Where the number that the figure opens with stands among them; entropy and KL are nobody's.
    pub(crate) fn opens(self) -> usize {
        let same = |asked: &CellNumber| {
            asked.0 == self.first.0
                && (asked.1 == self.first.1 || matches!(asked.0, Show::Entropy | Show::Kl))
        };
        self.numbers().iter().position(same).unwrap_or(0)
    }

    /// What must be known of every state.
    pub(crate) fn ask(self, of: Readout) -> Readout {
        Readout {
            plain: true,
            top: self.top,
            tokens: match self.subject {
                Of::Token(id) => vec![id],
                Of::Own | Of::Answer => Vec::new(),
            },
            answer: self.subject == Of::Answer,
            ranks: true,
            entropy: true,
            kl: true,
            ..of
        }
    }

    /// A number of a row. Ranks count from 1.
    pub(crate) fn number((show, of): CellNumber, said: &Said) -> f32 {
        let told = said.tokens.first();
        let rank = told.map(|t| t.rank() + 1.0);
        match (show, of) {
            (Show::Probability, Of::Own) => said.first().1,
            (Show::Probability, _) => told.map_or(f32::NAN, |t| t.logprob.exp()),
            (Show::Rank, _) => rank.unwrap_or(f32::NAN),
            (Show::ReciprocalRank, _) => rank.map_or(f32::NAN, |r| 1.0 / r),
            (Show::Entropy, _) => said.entropy,
            (Show::Kl, _) => said.kl,
        }
    }

    /// What a number is, in words.
    pub(crate) fn words((show, of): CellNumber, lab: &Lab) -> String {
        let of = match of {
            Of::Own => String::new(),
            Of::Answer => " of the answer".into(),
            Of::Token(id) => format!(" of {}", lab.visible(id)),
        };
        match show {
            Show::Probability => format!("probability{of}"),
            Show::Rank => format!("rank{of}"),
            Show::ReciprocalRank => format!("reciprocal rank{of}"),
            Show::Entropy => "entropy (nats)".into(),
            Show::Kl => "KL divergence from the output (nats)".into(),
        }
    }

    pub(crate) fn scale(
        (show, _): CellNumber,
        lab: &Lab,
        cells: &[Vec<Cell>],
        values: &[Vec<f32>],
    ) -> Scale {
        let largest = || {
            // The first position often is a sink whose rows say nothing: it does not set the colours of the others.
            let columns = cells.iter().zip(values).filter(|(cells, _)| {
                let sink = cells.first().is_some_and(|c| c.anchor.position == Some(0));
                values.len() == 1 || !sink
            });
            let all = columns.flat_map(|(_, values)| values.iter().copied());
            all.filter(|v| v.is_finite()).fold(0.0f32, f32::max)
        };
        match show {
            Show::Probability | Show::ReciprocalRank => Scale::Unit,
            Show::Rank => Scale::Rank {
                worst: lab.model.card.vocab as f32,
            },
            Show::Entropy => Scale::up_to((lab.model.card.vocab as f32).ln()),
            Show::Kl => Scale::up_to(largest()),
        }
    }

    /// The cell of a row: its strongest tokens; its numbers are put there by [`Lens::figure`].
    pub(crate) fn cell(self, lab: &Lab, said: &Said, anchor: Anchor) -> Cell {
        let spelled = said.top.iter().map(|(id, p)| (lab.visible(*id), *p));
        let more: Vec<(String, f32)> = spelled.collect();
        let label = more.first().map_or(NOT_FINITE, |m| &m.0);
        Cell::of(label, Self::number(self.first, said), anchor).more(more)
    }

    /// All numbers of a row.
    pub(crate) fn all(self, said: &Said) -> Vec<f32> {
        let number = |asked: &CellNumber| Self::number(*asked, said);
        self.numbers().iter().map(number).collect()
    }

    /// What becomes of the subject along a column.
    pub(crate) fn story<'a>(
        self,
        lab: &Lab,
        position: usize,
        answer: u32,
        rows: impl Iterator<Item = &'a Said>,
    ) -> Story {
        let token = match self.subject {
            Of::Token(id) => id,
            Of::Own | Of::Answer => answer,
        };
        let told = rows.filter_map(|said| said.tokens.first());
        let (ranks, shares) = told
            .map(|t| (t.rank.saturating_add(1), t.logprob.exp()))
            .unzip();
        let at = Anchor::position(position);
        Story::of(lab.visible(token), at, ranks, shares)
    }
}
