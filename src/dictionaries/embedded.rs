//! Dictionaries in the binary: those of the demo.
//!
//! Invariant: an embedded dictionary belongs to one set of weights, by their revision; for other weights it does not exist. To
//! embed another one, add a row to [`EMBEDDED`].

use crate::model::Card;

/// A dictionary in the binary.
#[derive(Debug)]
pub struct EmbeddedDictionary {
    /// As it is called by users: in `--dictionary NAME` and `NAME#1234`.
    pub name: &'static str,
    /// The revision of the weights that it was trained on, as the card of the model has it.
    pub revision: &'static str,
    /// The files of its folder, by name, in any format that is read.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// All of them.
#[cfg(feature = "demo")]
pub const EMBEDDED: &[EmbeddedDictionary] = &[EmbeddedDictionary {
    name: "world",
    revision: "600364b3b99080f4",
    files: &[
        (
            "cfg.json",
            include_bytes!("../../demo/dictionaries/world/cfg.json"),
        ),
        (
            "sae_weights.safetensors",
            include_bytes!("../../demo/dictionaries/world/sae_weights.safetensors"),
        ),
    ],
}];

/// This build contains neither the demo model nor its dictionary.
#[cfg(not(feature = "demo"))]
pub const EMBEDDED: &[EmbeddedDictionary] = &[];

impl EmbeddedDictionary {
    /// A file of it.
    pub fn file(&self, name: &str) -> Option<&'static [u8]> {
        let found = self.files.iter().find(|(own, _)| *own == name);
        found.map(|(_, bytes)| *bytes)
    }
}

/// The dictionaries that were trained on the weights of a model; the first one is meant where none is named.
pub fn embedded(card: &Card) -> impl Iterator<Item = &'static EmbeddedDictionary> {
    EMBEDDED.iter().filter(|row| row.revision == card.revision)
}
