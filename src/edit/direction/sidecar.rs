//! JSON beside a file of numbers: where a vector was measured, how and on what, in the spellings that are in use.
//!
//! Invariant: what it does not say stays open; nothing is guessed. refusal_direction's `layer` is the input of that
//! block, so its `direction_metadata.json` means `resid_pre`; other files have to name their site.
//! To add a spelling, add it to the keys of the method that reads it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Direction, DirectionOrigin};
use crate::error::{Error, Result};
use crate::model::network::address::{Pattern, site_named};
use crate::model::network::site::{Address, Site};

/// What such a file may look like, for messages.
const EXAMPLE: &str =
    r#"Write for example {"site": "resid_post", "layer": 10} into the JSON file beside it."#;

/// What is said of a vector whose file leaves its place open.
pub(crate) const ANYWHERE: &str =
    "its file does not say where it was measured, so it can be used anywhere";

/// What is said of a table whose file leaves its site open.
pub(crate) const OPEN: &str = "its file does not name the site of its rows: as many rows as the model has blocks are their outputs; one more are transformers' hidden states";

/// The JSON beside a file.
pub(crate) struct Sidecar {
    path: PathBuf,
    map: Map<String, Value>,
    /// The site where it names none: of refusal_direction's files.
    usual: Option<Site>,
}

/// `X_metadata.json` of refusal_direction or `X.json`, beside `X.anything`.
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

/// `X_metadata.json` beside `X.anything`.
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

    /// The first of some keys that is there.
    pub(crate) fn value(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter()
            .find_map(|k| self.map.get(*k))
            .filter(|v| !v.is_null())
    }

    /// The first of some keys that holds text.
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

    /// The site, or the whole address, that it names; a layer that stands apart is left to [`Sidecar::address`].
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

    /// Where one vector was measured; `None` where it does not say.
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

    /// What it says of how and on what the vector was measured, by `maker` where it does not say; our own provenance whole.
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

/// A direction from one tensor: a vector at the place that the JSON says, or a row a layer of the site that it says.
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
    // Sides of 1 do not count: a row, a column and a vector are one.
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

/// Our own provenance and what others read, as the bytes of such a file.
pub(crate) fn json(origin: &DirectionOrigin, theirs: Value) -> Vec<u8> {
    let mut map = if let Value::Object(map) = theirs {
        map
    } else {
        Map::from_iter([("value".to_string(), theirs)])
    };
    map.insert(super::OWN.into(), json!(origin));
    format!("{:#}\n", Value::Object(map)).into_bytes()
}
