//! The directions that are embedded in the binary.
//!
//! Invariant: they were made for the demo model, and only it gets them. To embed another one, add it to [`embedded`].

use std::collections::HashMap;
use std::path::Path;

use super::Direction;
use crate::error::Result;
use crate::model::Card;

/// The directions embedded in the binary, for the demo model (see demo/CARD.md).
#[cfg(feature = "demo")]
pub fn embedded() -> &'static [(&'static str, &'static [u8])] {
    &[
        (
            "mood",
            include_bytes!("../../../demo/vectors/mood.safetensors"),
        ),
        (
            "politeness",
            include_bytes!("../../../demo/vectors/politeness.safetensors"),
        ),
        (
            "refusal",
            include_bytes!("../../../demo/vectors/refusal.safetensors"),
        ),
    ]
}

/// This build contains neither the demo model nor its directions.
#[cfg(not(feature = "demo"))]
pub fn embedded() -> &'static [(&'static str, &'static [u8])] {
    &[]
}

impl Direction {
    /// The embedded directions that were made for this model, by name.
    pub fn embedded_for(card: &Card) -> Result<HashMap<String, Self>> {
        let mut found = HashMap::new();
        for (name, bytes) in embedded() {
            let direction = Self::parse(bytes, Path::new(name))?;
            if direction.origin.revision == card.revision {
                found.insert((*name).to_string(), direction);
            }
        }
        Ok(found)
    }
}
