//! What tokens are coloured by.
//!
//! Invariant: a figure colours the tokens that it is about and no others, and none where it is outdated. To colour by something
//! else, add a variant of [`TokenTint`].

use serde::{Deserialize, Serialize};

use super::{App, cursor};
use crate::figure::by_token::TokenNumbers;

/// What tokens are coloured by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenTint {
    #[default]
    Nothing,
    /// How unexpected each token was.
    Surprisal,
    /// The number that the chosen figure has for each token.
    Figure,
}

impl App {
    /// The next thing to colour tokens by: the figure's numbers only where it has some.
    pub(super) fn next_tint(&self) -> TokenTint {
        match self.tint {
            TokenTint::Nothing => TokenTint::Surprisal,
            TokenTint::Surprisal if self.token_numbers().is_some() => TokenTint::Figure,
            TokenTint::Surprisal | TokenTint::Figure => TokenTint::Nothing,
        }
    }

    /// The numbers that the chosen figure has for the tokens of the text, at the cursor's row; none if it has no such numbers or
    /// is about other tokens.
    pub fn token_numbers(&self) -> Option<TokenNumbers> {
        let slot = self.layout.figure;
        let shown = self.shown.get(slot)?;
        let figure = self.figure(slot)?;
        let about = &figure.provenance.tokens;
        let mut own = self.transcript.tokens.iter().map(|token| token.id);
        let same = !about.is_empty() && about.iter().all(|id| own.next() == Some(*id));
        if !same || shown.stale.is_some() || !shown.is_about_text(slot) {
            return None;
        }
        let spot = cursor::locate(figure, self.cursor, shown.spot)?;
        figure.by_token(spot.row)
    }

    /// What tokens are coloured by, in words; none if they are not.
    pub fn tint_in_words(&self) -> Option<String> {
        let slot = self.layout.figure;
        match self.tint {
            TokenTint::Nothing => None,
            TokenTint::Surprisal => Some("by surprisal".into()),
            TokenTint::Figure => Some(match self.token_numbers() {
                Some(numbers) => format!("by {}", numbers.name),
                None => format!("by nothing: {slot} has no number for each token here"),
            }),
        }
    }
}
