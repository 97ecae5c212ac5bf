//! The map from a source state to the value that overwrites the placeholder: the identity, a scaling, or an affine map.
//!
//! Files of maps are safetensors with `FROM>TO.weight` `[d_model, d_model]` and `FROM>TO.bias` `[d_model]` (optional), where
//! FROM and TO are addresses (`resid_post.2>resid_post.7`); tensors `weight` and `bias` without addresses apply to every pair.
//! Invariant: a map that was fitted on other weights is refused. To add a map, add a variant of [`Map`].

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::edit::direction::norm;
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
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
        let fail = |e: String| Error::Engine(format!("the maps were not written: {e}"));
        let mut data: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for (between, map) in &self.maps {
            let prefix = between.map_or_else(String::new, |pair| format!("{}.", spelled(pair)));
            let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let out = map.bias.len();
            let wide = map.weight.len() / out.max(1);
            data.push((
                format!("{prefix}weight"),
                vec![out, wide],
                bytes(&map.weight),
            ));
            data.push((format!("{prefix}bias"), vec![out], bytes(&map.bias)));
        }
        let views = data
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
                Ok((name.as_str(), view.map_err(|e| fail(e.to_string()))?))
            })
            .collect::<Result<Vec<_>>>()?;
        let metadata = match &self.origin {
            Some(origin) => {
                let json = serde_json::to_string(origin).map_err(|e| fail(e.to_string()))?;
                Some(HashMap::from([(ORIGIN.to_string(), json)]))
            }
            None => None,
        };
        let bytes = safetensors::serialize(views, metadata).map_err(|e| fail(e.to_string()))?;
        file::write(path, &bytes, overwrite)
    }

    /// Reads a file of maps for a model.
    ///
    /// # Errors
    ///
    /// When the file does not exist, is of another kind, has another width, or was fitted on other weights.
    pub fn load(path: &Path, card: &Card) -> Result<Self> {
        let bytes = file::read(path, file::NUMBERS)?;
        let next = "Maps are a safetensors file with FROM>TO.weight [d_model, d_model] and FROM>TO.bias, for example resid_post.2>resid_post.7.weight.";
        let fail = |what: String| Error::bad_file(path, what, next);
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| fail(e.to_string()))?;
        let held = header.metadata().as_ref().and_then(|m| m.get(ORIGIN));
        let origin: Option<MapOrigin> = held
            .map(|text| serde_json::from_str(text))
            .transpose()
            .map_err(|e| fail(format!("its provenance is damaged ({e})")))?;
        if let Some(origin) = origin.as_ref().filter(|o| o.revision != card.revision) {
            return Err(Error::argument(
                "map",
                format!("{} ({})", origin.model, origin.revision),
                format!(
                    "maps fitted on this model, {} ({})",
                    card.name, card.revision
                ),
            ));
        }
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| fail(e.to_string()))?;
        let d = card.d_model;
        let values = |name: &str, shape: &[usize]| -> Result<Option<Vec<f32>>> {
            let Some(tensor) = tensors.get(name) else {
                return Ok(None);
            };
            if tensor.dims() != shape {
                let found = tensor.dims();
                return Err(fail(format!(
                    "`{name}` has shape {found:?}, but this model needs {shape:?}"
                )));
            }
            let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            if values.iter().any(|v: &f32| !v.is_finite()) {
                return Err(fail(format!(
                    "`{name}` holds a number that is not finite (NaN or infinity)"
                )));
            }
            Ok(Some(values))
        };
        let mut names: Vec<&String> = tensors.keys().collect();
        names.sort();
        let mut maps = Vec::new();
        for name in names {
            let Some(prefix) = name.strip_suffix("weight") else {
                continue;
            };
            let between = match prefix.strip_suffix('.') {
                None if prefix.is_empty() => None,
                Some(pair) => {
                    Some(addresses(pair).map_err(|why| fail(format!("`{name}`: {why}")))?)
                }
                None => continue,
            };
            let weight = values(name, &[d, d])?.unwrap_or_default();
            let bias = values(&format!("{prefix}bias"), &[d])?;
            maps.push((
                between,
                Affine {
                    weight,
                    bias: bias.unwrap_or_else(|| vec![0.0; d]),
                },
            ));
        }
        if maps.is_empty() {
            return Err(fail("it holds no map".into()));
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
