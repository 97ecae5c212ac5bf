//! Where a dictionary reads and what it reconstructs: as its file says it, and as an address of a model.
//!
//! Invariant: a name is read as the tensor that its tool has under it, or refused; nothing is guessed. To read names of another
//! tool, add a function that makes a [`DictionaryPlace`].

use std::fmt;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::network::address::resolve;
use crate::model::network::site::{Address, Site, check_layer};
use crate::text;

/// A place as a file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DictionaryPlace {
    /// A name of TransformerLens, or one of ours.
    Named(String),
    /// A place that the format or the folder says.
    At(Address),
    /// One for which there is no site here, with the nearest one.
    Missing(String, Address),
    /// The file does not say.
    Unsaid,
}

impl fmt::Display for DictionaryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) | Self::Missing(name, _) => {
                f.write_str(&text::visible(name.as_bytes()))
            }
            Self::At(at) => write!(f, "{at}"),
            Self::Unsaid => f.write_str("a place that its file does not say"),
        }
    }
}

impl DictionaryPlace {
    /// The place as an address of a model, with the site there and its width checked. Errors name the dictionary.
    ///
    /// # Errors
    ///
    /// When the model has no such place, or activations of another width there.
    pub fn on(&self, model: &Model, width: usize, dictionary: &str) -> Result<Address> {
        let bad = |what: String, next: &str| Err(Error::bad_file(dictionary, what, next));
        let at = match self {
            Self::Named(name) => resolve(name, &model.card.blueprint)?,
            Self::At(at) => *at,
            Self::Missing(_, near) => {
                return bad(
                    format!("it reads {self}, and there is no site with that tensor"),
                    &format!("The nearest one is {near}; say FILE@{near} if that is close enough."),
                );
            }
            Self::Unsaid => {
                return bad(
                    "its file does not say where it reads".into(),
                    "Say it: FILE@ADDRESS, for example FILE@resid_post.12. The page of the dictionary says the layer and the hook.",
                );
            }
        };
        check_layer(at, model.card.layers)?;
        model.offers(at)?;
        let there = model.width(at.site);
        if there != width {
            return bad(
                format!(
                    "it is for activations of width {width}, and {} has width {there} at {at}",
                    model.card.name
                ),
                "Take a dictionary of this model, or name another place: FILE@ADDRESS.",
            );
        }
        Ok(at)
    }
}

/// The layer that a path of a dictionary names: the number after the last of these words.
pub fn layer_after(path: &str, words: &[&str]) -> Option<usize> {
    let found = words.iter().filter_map(|word| {
        let mut rest = path;
        let mut last = None;
        let mut passed = 0;
        while let Some(at) = rest.find(word) {
            let after = &rest[at + word.len()..];
            let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
            // `layer` in `player3` names no layer.
            let begins = !rest[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            if begins && let Ok(layer) = digits.parse::<usize>() {
                last = Some((passed + at, layer));
            }
            passed += at + word.len();
            rest = after;
        }
        last
    });
    found.max().map(|(_, layer)| layer)
}

/// A module of Hugging Face as `model.layers.5.mlp.output` names it.
pub fn hugging_face(name: &str) -> DictionaryPlace {
    let parts: Vec<&str> = name.split('.').collect();
    let layer = parts
        .iter()
        .position(|part| *part == "layers")
        .and_then(|at| Some((at, parts.get(at + 1)?.parse::<usize>().ok()?)));
    let Some((at, layer)) = layer else {
        return DictionaryPlace::Named(name.to_string());
    };
    match parts[at + 2..].join(".").as_str() {
        "" | "output" => DictionaryPlace::At(Site::ResidPost.at(layer)),
        "input" => DictionaryPlace::At(Site::ResidPre.at(layer)),
        "self_attn.o_proj.input" => DictionaryPlace::At(Site::Z.at(layer)),
        "self_attn.output" | "self_attn.o_proj.output" => {
            DictionaryPlace::At(Site::AttnOut.at(layer))
        }
        "post_attention_layernorm.input" => DictionaryPlace::At(Site::AttnOut.at(layer)),
        "pre_feedforward_layernorm.output" | "mlp.input" => {
            DictionaryPlace::At(Site::MlpIn.at(layer))
        }
        "pre_feedforward_layernorm.input" => DictionaryPlace::At(Site::ResidMid.at(layer)),
        "post_feedforward_layernorm.output" => DictionaryPlace::At(Site::MlpAdd.at(layer)),
        "post_feedforward_layernorm.input" | "mlp.output" => {
            DictionaryPlace::At(Site::MlpOut.at(layer))
        }
        _ => DictionaryPlace::Named(name.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_the_number_after_its_word() {
        let layer = |path: &str| layer_after(path, &["layer_", "layer", "blocks.", "l"]);
        assert_eq!(layer("layer_12/width_16k/average_l0_72"), Some(0));
        let layer = |path: &str| layer_after(path, &["layer_", "layer"]);
        assert_eq!(layer("layer_12/width_16k/average_l0_72"), Some(12));
        assert_eq!(layer("gpt2/layer3.sae.pt"), Some(3));
        assert_eq!(layer("layer_1/layer_7.pt"), Some(7));
        assert_eq!(layer("player3/x"), None);
        assert_eq!(layer("layers/x"), None);
    }
}
