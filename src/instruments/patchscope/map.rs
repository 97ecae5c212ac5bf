//! The map from a source state to the value that overwrites the placeholder: the identity, a scaling, or an affine map.
//!
//! Files of maps are safetensors with `FROM>TO.weight` `[d_model, d_model]` and `FROM>TO.bias` `[d_model]` (optional), where
//! FROM and TO are addresses (`resid_post.2>resid_post.7`); tensors `weight` and `bias` without addresses apply to every pair.
//! Invariant: a map that was fitted on other weights is refused. To add a map, add a variant of [`Map`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::edit::direction::norm;
use crate::edit::tensor_file::{self, NamedTensor, SavedTensors};
use crate::error::{Error, Result};
use crate::file::Overwrite;
use crate::instruments::patchscope::ridge::Affine;
use crate::model::Card;
use crate::model::network::site::Address;

/// The key of the metadata entry that holds the origin.
const ORIGIN: &str = "lmscope.maps";

/// Source and target address; none for a map that applies to every pair.
pub type MapEnds = Option<(Address, Address)>;

#[derive(Clone, Debug)]
pub enum Map {
    Identity,
    /// Scaled to the norm of the state it overwrites (not in the paper).
    Norm,
    /// `W h + b`.
    Affine(AffineMaps),
}

impl Map {
    /// The value that overwrites the placeholder, `[d_model]`; `replaced` is the norm of the state it overwrites.
    ///
    /// # Errors
    ///
    /// When there is no map for the pair.
    pub fn apply(&self, h: &[f32], pair: (Address, Address), replaced: f32) -> Result<Vec<f32>> {
        match self {
            Self::Identity => Ok(h.to_vec()),
            Self::Norm => {
                let length = norm(h);
                let factor = if length > 0.0 { replaced / length } else { 1.0 };
                Ok(h.iter().map(|v| v * factor).collect())
            }
            Self::Affine(maps) => Ok(maps.get(pair)?.apply(h)),
        }
    }
}

/// The quality of a fitted map, as unexplained shares of the target's variance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The unexplained share on the positions used for fitting.
    pub residual: f64,
    /// The unexplained share on held-out positions.
    pub held_out: f64,
    /// The share that the identity map leaves unexplained on held-out positions.
    pub identity: f64,
}

/// The origin of maps, stored as JSON in the file's metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MapOrigin {
    /// The model argument.
    pub model: String,
    /// Fingerprint of its weights.
    pub revision: String,
    /// The file of prompts.
    pub text: String,
    pub prompts: usize,
    /// The number of positions used for fitting.
    pub positions: usize,
    /// The number of positions held out.
    pub held_out: usize,
    /// The ridge penalty.
    pub ridge: f64,
    /// The quality of each map, by `FROM>TO`.
    pub fits: BTreeMap<String, Fit>,
    /// The version of lmscope.
    pub version: String,
}

/// Affine maps between addresses.
#[derive(Clone, Debug, Default)]
pub struct AffineMaps {
    pub maps: Vec<(MapEnds, Affine)>,
    /// How the maps were fitted; none for files that another program wrote.
    pub origin: Option<MapOrigin>,
}

pub fn spelled(pair: (Address, Address)) -> String {
    format!("{}>{}", pair.0, pair.1)
}

impl AffineMaps {
    /// The map of a pair.
    ///
    /// # Errors
    ///
    /// When there is none; lists the pairs that have one.
    pub fn get(&self, pair: (Address, Address)) -> Result<&Affine> {
        let own = self.maps.iter().find(|(b, _)| *b == Some(pair));
        let any = || self.maps.iter().find(|(b, _)| b.is_none());
        own.or_else(any).map(|(_, m)| m).ok_or_else(|| {
            let known: Vec<String> = self
                .maps
                .iter()
                .filter_map(|(b, _)| b.map(spelled))
                .collect();
            let shown = known.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            let more = if known.len() > 8 { ", ..." } else { "" };
            Error::argument(
                "map",
                spelled(pair),
                format!("a pair that the file has a map for: {shown}{more}"),
            )
        })
    }

    /// The quality of a pair's map, if the file has it.
    pub fn fit(&self, pair: (Address, Address)) -> Option<Fit> {
        self.origin.as_ref()?.fits.get(&spelled(pair)).copied()
    }

    /// Writes the file; an existing file is overwritten only if `overwrite` allows it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&self, path: &Path, overwrite: Overwrite) -> Result<()> {
        let mut data = Vec::new();
        for (between, map) in &self.maps {
            let prefix = between.map_or_else(String::new, |pair| format!("{}.", spelled(pair)));
            let out = map.bias.len();
            let wide = map.weight.len() / out.max(1);
            data.push(NamedTensor {
                name: format!("{prefix}weight"),
                shape: vec![out, wide],
                values: &map.weight,
            });
            data.push(NamedTensor {
                name: format!("{prefix}bias"),
                shape: vec![out],
                values: &map.bias,
            });
        }
        let origin = self.origin.as_ref().map(|origin| (ORIGIN, origin));
        tensor_file::write(path, &data, origin, overwrite)
    }

    /// Reads a file of maps for a model.
    ///
    /// # Errors
    ///
    /// When the file does not exist, is of another kind, has another width, or was fitted on other weights.
    pub fn load(path: &Path, card: &Card) -> Result<Self> {
        let next = "Maps are a safetensors file with FROM>TO.weight [d_model, d_model] and FROM>TO.bias, for example resid_post.2>resid_post.7.weight.";
        let file = SavedTensors::read(path, next)?;
        let origin: Option<MapOrigin> = file.origin(ORIGIN)?;
        if let Some(origin) = &origin {
            card.check_made_on("map", (&origin.model, &origin.revision), "maps fitted on")?;
        }
        let d = card.d_model;
        let mut maps = Vec::new();
        for name in file.names() {
            let Some(prefix) = name.strip_suffix("weight") else {
                continue;
            };
            let between = match prefix.strip_suffix('.') {
                None if prefix.is_empty() => None,
                Some(pair) => {
                    Some(addresses(pair).map_err(|why| file.bad(format!("`{name}`: {why}")))?)
                }
                None => continue,
            };
            let weight = file.values(name, &[d, d])?.unwrap_or_default();
            let bias = file.values(&format!("{prefix}bias"), &[d])?;
            maps.push((
                between,
                Affine {
                    weight,
                    bias: bias.unwrap_or_else(|| vec![0.0; d]),
                },
            ));
        }
        if maps.is_empty() {
            return Err(file.bad("it holds no map"));
        }
        Ok(Self { maps, origin })
    }
}

fn addresses(pair: &str) -> Result<(Address, Address), String> {
    let (from, to) = pair
        .split_once('>')
        .ok_or("expected FROM>TO before `.weight`")?;
    let address = |text: &str| text.parse::<Address>().map_err(|e| e.to_string());
    Ok((address(from)?, address(to)?))
}
