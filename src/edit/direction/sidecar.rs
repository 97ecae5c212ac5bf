//! The JSON file beside a file of numbers: where a vector was measured, by which method and on what, in several common
//! spellings.
//!
//! Invariant: nothing is guessed; what the file does not say stays open. refusal_direction's `layer` is the input of that
//! block, so its `direction_metadata.json` means `resid_pre`; other files have to name their site.
//! To add a spelling, add it to the keys of the method that reads it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Direction, DirectionOrigin};
use crate::error::{Error, Result};
use crate::model::network::address::{Pattern, site_named};
use crate::model::network::site::{Address, Site};

/// An example of such a file, for error messages.
const EXAMPLE: &str =
    r#"Write for example {"site": "resid_post", "layer": 10} into the JSON file beside it."#;

/// The caution for a vector whose file does not say where it was measured.
pub(crate) const ANYWHERE: &str =
    "its file does not say where it was measured, so it can be used anywhere";

/// The caution for a table whose file does not name its site.
pub(crate) const OPEN: &str = "its file does not name the site of its rows: as many rows as the model has blocks are their outputs; one more are transformers' hidden states";

/// The JSON beside a file.
pub(crate) struct Sidecar {
    path: PathBuf,
    map: Map<String, Value>,
    /// The site if the file does not name one: for refusal_direction's files.
    usual: Option<Site>,
}

/// The JSON file of `X.anything`: `X_metadata.json` of refusal_direction, or `X.json`.
pub(crate) fn implied_site(path: &Path) -> Result<Option<Sidecar>> {
    for (path, usual) in [
        (metadata_path(path), Some(Site::ResidPre)),
        (path.with_extension("json"), None),
    ] {
        if path.exists() {
            return Sidecar::read(path, usual).map(Some);
        }
    }
    Ok(None)
}

/// The path `X_metadata.json` for `X.anything`.
pub(crate) fn metadata_path(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}_metadata.json"))
}

impl Sidecar {
    /// Reads a JSON object.
    pub(crate) fn read(path: PathBuf, usual: Option<Site>) -> Result<Self> {
        let text = super::whole(&path)?;
        let map = serde_json::from_slice::<Map<String, Value>>(&text).map_err(|e| {
            Error::bad_file(&path, format!("it is not a JSON object ({e})"), EXAMPLE)
        })?;
        Ok(Self { path, map, usual })
    }

    /// The error that names this file.
    pub(crate) fn bad(&self, what: impl Into<String>) -> Error {
        Error::bad_file(&self.path, what, EXAMPLE)
    }

    /// The value of the first of these keys that is present.
    pub(crate) fn value(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter()
            .find_map(|k| self.map.get(*k))
            .filter(|v| !v.is_null())
    }

    /// The text of the first of these keys that has one.
    pub(crate) fn text(&self, keys: &[&str]) -> &str {
        self.value(keys).and_then(Value::as_str).unwrap_or("")
    }

    fn layer(&self) -> Result<Option<u16>> {
        let Some(given) = self.value(&["layer"]) else {
            return Ok(None);
        };
        let layer = given.as_u64().and_then(|l| u16::try_from(l).ok());
        layer
            .map(Some)
            .ok_or_else(|| self.bad(format!("its `layer` is {given}, which is not a layer")))
    }

    /// The site, or the whole address, that the file names; [`Sidecar::address`] adds a layer under a key of its own.
    pub(crate) fn place(&self) -> Result<Option<(Site, Option<u16>)>> {
        let given = self.text(&["site", "point", "hook_name", "hook_point"]);
        if given.is_empty() {
            return Ok(self.usual.map(|site| (site, None)));
        }
        if given.parse::<Pattern>().is_ok() {
            let address: Address = given.parse().map_err(|e: Error| self.bad(e.to_string()))?;
            let layer = address.site.spec().layered.then_some(address.layer);
            return Ok(Some((address.site, layer)));
        }
        let site = site_named(given).map_err(|e| self.bad(e.to_string()))?;
        Ok(Some((site, None)))
    }

    /// The address at which a single vector was measured; `None` if the file does not say.
    fn address(&self) -> Result<Option<Address>> {
        let (layer, place) = (self.layer()?, self.place()?);
        let Some((site, own)) = place else {
            return match layer {
                Some(layer) => Err(self.bad(format!("it has layer {layer} and no site"))),
                None => Ok(None),
            };
        };
        if let (Some(a), Some(b)) = (own, layer)
            && a != b
        {
            return Err(self.bad(format!("it says layer {b}, but its site is at {a}")));
        }
        Ok(match own.or(layer) {
            Some(layer) => Some(site.at(usize::from(layer))),
            None if !site.spec().layered => Some(site.at(0)),
            None => None,
        })
    }

    /// The origin that the file describes, with `maker` as the method if it names none; our own provenance is taken as a whole.
    pub(crate) fn origin(&self, maker: &str) -> DirectionOrigin {
        if let Some(own) = self.map.get(super::OWN)
            && let Ok(origin) = serde_json::from_value(own.clone())
        {
            return origin;
        }
        let positions = match self.value(&["pos", "position", "positions"]) {
            Some(Value::String(words)) => words.clone(),
            Some(number) => number.to_string(),
            None => String::new(),
        };
        let strength = self
            .value(&["strength", "coefficient"])
            .and_then(Value::as_f64);
        DirectionOrigin {
            model: self.text(&["model", "model_name"]).to_string(),
            family: self.text(&["model_type"]).to_string(),
            method: match self.text(&["method"]) {
                "" => maker.to_string(),
                method => method.to_string(),
            },
            positions,
            strength: strength.map_or(1.0, |s| s as f32),
            ..DirectionOrigin::default()
        }
    }
}

/// A direction from one tensor: a vector at the address that the JSON gives, or one row for each layer of its site.
pub(crate) fn table(
    path: &Path,
    shape: &[usize],
    values: &[f32],
    sidecar: Option<&Sidecar>,
    maker: &str,
) -> Result<Direction> {
    let unknown = || DirectionOrigin {
        method: maker.to_string(),
        ..DirectionOrigin::default()
    };
    let mut origin = sidecar.map_or_else(unknown, |s| s.origin(maker));
    // Dimensions of 1 do not count: a row, a column and a vector are equal.
    let dims: Vec<usize> = shape.iter().copied().filter(|d| *d != 1).collect();
    match dims.as_slice() {
        [_] => {
            let place = sidecar.map(Sidecar::address).transpose()?.flatten();
            if place.is_none() {
                origin.anywhere = true;
                origin.cautions.push(ANYWHERE.into());
            }
            let at = place.unwrap_or_else(|| Site::ResidPost.at(0));
            Ok(Direction {
                rows: vec![(at, values.to_vec())],
                origin,
            })
        }
        [layers, width] if u16::try_from(*layers).is_ok() && *width > 0 => {
            let site = match sidecar.map(Sidecar::place).transpose()?.flatten() {
                Some((site, None)) if site.spec().layered => site,
                Some(_) => {
                    return Err(Error::bad_file(
                        path,
                        format!(
                            "it holds {layers} vectors, and the JSON beside it gives one place"
                        ),
                        r#"Name the site alone, as in {"site": "resid_post"}, where row L is of layer L; or take the JSON away."#,
                    ));
                }
                None => {
                    origin.anywhere = true;
                    origin.cautions.push(OPEN.into());
                    Site::ResidPost
                }
            };
            origin.rows = *layers;
            let rows = values.chunks_exact(*width).enumerate();
            Ok(Direction {
                rows: rows.map(|(l, v)| (site.at(l), v.to_vec())).collect(),
                origin,
            })
        }
        _ => Err(Error::bad_file(
            path,
            format!("its tensor has shape {shape:?}, but a direction is one vector"),
            "Of refusal_direction, take direction.pt; mean_diffs.pt holds every candidate.",
        )),
    }
}

/// The bytes of such a file, with our own provenance and the keys that other programs read.
pub(crate) fn json(origin: &DirectionOrigin, theirs: Value) -> Vec<u8> {
    let mut map = if let Value::Object(map) = theirs {
        map
    } else {
        Map::from_iter([("value".to_string(), theirs)])
    };
    map.insert(super::OWN.into(), json!(origin));
    format!("{:#}\n", Value::Object(map)).into_bytes()
}
