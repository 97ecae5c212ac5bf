//! How much a grid cell shows.
//!
//! Invariant: one step towards more and one towards less are each other's undoing, but at the ends. To show another amount, add
//! a variant of [`Density`].

use serde::{Deserialize, Serialize};

/// How much a grid cell shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Density {
    /// Token and number.
    #[default]
    Full,
    /// Token; the number is its colour.
    Token,
    /// Colour alone.
    Colour,
}

impl Density {
    /// One step towards more text in a cell.
    #[must_use]
    pub fn more(self) -> Self {
        match self {
            Self::Colour => Self::Token,
            Self::Token | Self::Full => Self::Full,
        }
    }

    /// One step towards more cells on the screen.
    #[must_use]
    pub fn less(self) -> Self {
        match self {
            Self::Full => Self::Token,
            Self::Token | Self::Colour => Self::Colour,
        }
    }
}
