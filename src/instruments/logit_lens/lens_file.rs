//! Files of tuned lenses and Jacobian lenses: a linear map for each layer, applied before the final norm.
//!
//! Invariant: a map is applied to the state it was fitted on and to no other, whatever the file calls its layers; shapes are
//! checked against the model before anything is computed. Translator i of a tuned lens maps the state that enters block i
//! (`resid_pre.i`); `J[l]` of a Jacobian lens maps the state that leaves block l (`resid_post.l`), unless the file says
//! otherwise. To read another layout, add a variant of [`MapKind`] and its part in [`LensFile::open`].
//!
//! Sources: Belrose et al. 2023 (2303.08112), files of `AlignmentResearch/tuned-lens`; the Jacobian lens of
//! `anthropics/jacobian-lens` (2607.15495).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::lab::capture::StateMaps;
use crate::model::Model;
use crate::model::checkpoint::torch::{Pickled, facts};
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};
use crate::text;

/// The kind of a file's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `h + W h + b`.
    Tuned,
    /// `J h`.
    Jacobian,
}

impl MapKind {
    /// The field's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tuned => "tuned lens",
            Self::Jacobian => "Jacobian lens",
        }
    }
}

/// An open file of maps; matrices are read on demand.
pub struct LensFile {
    pub kind: MapKind,
    /// A description for users: the model that the maps were fitted on, and how many prompts.
    pub about: String,
    path: PathBuf,
    file: Pickled,
    /// The tensor names of each map's matrix and bias; the key is the number of blocks that the map's state has passed.
    maps: BTreeMap<usize, (String, Option<String>)>,
}

const NEXT: &str = "A tuned lens is a folder with params.pt and config.json; a Jacobian lens is one .pt file with J.";

impl StateMaps for LensFile {
    fn check(&self, at: Address) -> Result<()> {
        self.has_map(at).map(drop)
    }

    fn map(&self, at: Address, rows: &Tensor) -> Result<Tensor> {
        self.apply(at, rows)
    }
}

impl LensFile {
    /// Opens a folder with `params.pt` and `config.json`, the `params.pt` itself, or the file of a Jacobian lens.
    ///
    /// # Errors
    ///
    /// When the file is of another kind, or belongs to a model of another shape.
    pub fn open(given: &str, model: &Model) -> Result<Self> {
        let given = Path::new(given);
        let path = if given.is_dir() {
            given.join("params.pt")
        } else {
            given.to_path_buf()
        };
        let file = Pickled::open(std::slice::from_ref(&path))?;
        let layers = model.card.layers;
        let numbered = |prefix: &str, suffix: &str| -> BTreeMap<usize, String> {
            let number = |name: &str| -> Option<usize> {
                let inner = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
                inner.parse().ok()
            };
            let names = file.names();
            names
                .filter_map(|name| Some((number(name)?, name.to_string())))
                .collect()
        };
        let jacobians = numbered("J.", "");
        if !jacobians.is_empty() {
            let facts = facts(&path)?;
            let after = extra_blocks(&path, &facts)?;
            let maps = jacobians
                .into_iter()
                .map(|(layer, name)| (layer + after, (name, None)))
                .collect();
            let mut about = "Jacobian lens".to_string();
            if let Some(prompts) = facts.get("n_prompts") {
                about.extend([", fitted on ", prompts, " prompts"]);
            }
            let named = ["model", "model_name", "provenance.model"];
            if let Some(of) = named.iter().find_map(|key| facts.get(*key)) {
                about.extend([", made for ", &text::visible(of.as_bytes())]);
            }
            return Self {
                kind: MapKind::Jacobian,
                about,
                path,
                file,
                maps,
            }
            .checked(model);
        }
        let mut weights = numbered("", ".weight");
        if weights.is_empty() {
            weights = numbered("layer_translators.", ".weight");
        }
        if weights.is_empty() {
            let what = "it holds neither translators (0.weight, 0.bias, ...) nor J";
            return Err(Error::bad_file(&path, what, NEXT));
        }
        let config = config(&path)?;
        let bias = config.get("bias").and_then(Value::as_bool).unwrap_or(true);
        let of = config
            .get("base_model_name_or_path")
            .and_then(Value::as_str);
        for (key, here) in [
            ("d_model", model.card.d_model),
            ("num_hidden_layers", layers),
        ] {
            if let Some(there) = config.get(key).and_then(Value::as_u64)
                && there != here as u64
            {
                let of = of.unwrap_or("another model");
                return Err(Error::bad_file(
                    &path,
                    format!(
                        "it was made for {}, with {key} {there}, and this model has {here}",
                        text::visible(of.as_bytes())
                    ),
                    "Take the lens of this model; a lens of another model has no meaning here.",
                ));
            }
        }
        let maps = weights
            .into_iter()
            .map(|(i, name)| {
                let own = name.replace(".weight", ".bias");
                let own = (bias && file.contains(&own)).then_some(own);
                (i, (name, own))
            })
            .collect();
        let of = of.map_or_else(String::new, |of| {
            format!(", made for {}", text::visible(of.as_bytes()))
        });
        Self {
            kind: MapKind::Tuned,
            about: format!("tuned lens{of}"),
            path,
            file,
            maps,
        }
        .checked(model)
    }

    /// Refuses maps that do not fit the model.
    fn checked(self, model: &Model) -> Result<Self> {
        let (d, layers) = (model.card.d_model, model.card.layers);
        let other = |what: String| {
            let next = "Take the lens of this model; a lens of another model has no meaning here.";
            Err(Error::bad_file(&self.path, what, next))
        };
        if let Some(last) = self.maps.keys().next_back().filter(|last| **last > layers) {
            return other(format!(
                "it has a map for the state after {last} blocks, and this model has {layers} blocks"
            ));
        }
        for (name, bias) in self.maps.values() {
            let shape = self.file.sample(name).map_or(&[][..], |s| s.0);
            if shape != [d, d] {
                return other(format!(
                    "its `{name}` is {shape:?}, and this model's residual stream has width {d}"
                ));
            }
            if let Some(bias) = bias {
                let shape = self.file.sample(bias).map_or(&[][..], |s| s.0);
                if shape != [d] {
                    return other(format!(
                        "its `{bias}` is {shape:?}, and this model's residual stream has width {d}"
                    ));
                }
            }
        }
        Ok(self)
    }

    /// Whether there is a map for the state at an address.
    ///
    /// # Errors
    ///
    /// When no file can have a map for the site; lists the sites that can be read.
    pub fn has_map(&self, at: Address) -> Result<bool> {
        Ok(self.maps.contains_key(&self.blocks(at)?))
    }

    /// The layers whose state at a site has no map and is read without one. The model's last state, which needs none, is not
    /// included.
    pub fn layers_without_map(&self, site: Site, layers: usize) -> Vec<usize> {
        let needs = |l: &usize| (site, l + 1) != (Site::ResidPost, layers);
        let lacks = |l: &usize| !self.has_map(site.at(*l)).unwrap_or(false);
        (0..layers).filter(needs).filter(lacks).collect()
    }

    /// The number of blocks that the state at an address has passed.
    fn blocks(&self, at: Address) -> Result<usize> {
        let layer = usize::from(at.layer);
        if at.site == Site::ResidPre {
            return Ok(layer);
        }
        if at.site == Site::ResidPost {
            return Ok(layer + 1);
        }
        Err(Error::Refused {
            address: at.to_string(),
            why: format!(
                "a {} was fitted on the residual stream between blocks. Read resid_post or resid_pre with it.",
                self.kind.name()
            ),
        })
    }

    /// Rows `[n, d_model]` of the stream at an address after their map; unchanged if there is none. Computed in f32, because
    /// the products overflow f16.
    ///
    /// # Errors
    ///
    /// As [`LensFile::has_map`], and when the file cannot be read.
    pub fn apply(&self, at: Address, rows: &Tensor) -> Result<Tensor> {
        let Some((weight, bias)) = self.maps.get(&self.blocks(at)?) else {
            return Ok(rows.clone());
        };
        let wide = rows.to_dtype(DType::F32)?;
        let mapped = wide.matmul(&self.tensor(weight, rows)?.t()?)?;
        let mapped = match self.kind {
            // Added last and in f32, so that a translator of zeros changes no bit.
            MapKind::Tuned => (wide + mapped)?,
            MapKind::Jacobian => mapped,
        };
        let mapped = match bias {
            Some(bias) => mapped.broadcast_add(&self.tensor(bias, rows)?)?,
            None => mapped,
        };
        Ok(mapped.to_dtype(rows.dtype())?)
    }

    /// Directions `[n, d_model]` of the mapped state pulled back to the state at an address, f32: the transpose of the map.
    ///
    /// # Errors
    ///
    /// As [`LensFile::apply`], and when there is no map.
    pub fn pulled_back(&self, at: Address, directions: &Tensor) -> Result<Tensor> {
        let Some((weight, _)) = self.maps.get(&self.blocks(at)?) else {
            return Err(Error::Refused {
                address: at.to_string(),
                why: "the lens has no map for it.".into(),
            });
        };
        let wide = directions.to_dtype(DType::F32)?;
        let back = wide.matmul(&self.tensor(weight, &wide)?)?;
        Ok(match self.kind {
            MapKind::Tuned => (wide + back)?,
            MapKind::Jacobian => back,
        })
    }

    fn tensor(&self, name: &str, like: &Tensor) -> Result<Tensor> {
        let stored = self.file.get(name)?;
        let stored = stored
            .ok_or_else(|| Error::bad_file(&self.path, format!("it lacks `{name}`"), NEXT))?;
        let tensor = stored.load()?.to_dtype(DType::F32)?;
        let sum = tensor.abs()?.max_all()?.host_scalar::<f32>()?;
        if !sum.is_finite() {
            let what = format!("its `{name}` holds a number that is not finite (NaN or infinity)");
            return Err(Error::bad_file(
                &self.path,
                what,
                "Fit or download it again.",
            ));
        }
        Ok(tensor.on_device(like.device())?)
    }
}

/// How many blocks the states of a Jacobian lens have passed beyond their layer number.
fn extra_blocks(path: &Path, facts: &BTreeMap<String, String>) -> Result<usize> {
    let bad = |what: String| {
        let next =
            "Take one that was fitted on the output (block_output) or input (attn_in) of blocks.";
        Err(Error::bad_file(path, what, next))
    };
    // For models with several streams: the file maps their mean or sum, and no state here is that.
    if let Some(how) = facts
        .get("provenance.stream_reduce")
        .filter(|how| *how != "none")
    {
        let of = facts
            .get("provenance.stream_index")
            .map_or(String::new(), |i| format!(" {i}"));
        return bad(format!(
            "it was fitted on streams reduced by `{}`{of}, and there is one here",
            text::visible(how.as_bytes())
        ));
    }
    let Some(point) = facts.get("provenance.capture_point") else {
        return Ok(1);
    };
    match point.as_str() {
        "block_output" | "resid_post" => Ok(1),
        "attn_in" | "resid_pre" => Ok(0),
        "mlp_in" | "resid_mid" => bad(format!(
            "it was fitted at `{point}`, inside a block between attention and MLP (resid_mid), but states between blocks are read here"
        )),
        "attn_out" | "mlp_out" => bad(format!(
            "it was fitted at `{point}`, on what a block adds to the residual stream, but the stream itself is read here"
        )),
        other => bad(format!(
            "it was fitted at `{}`, which is not a known place between blocks",
            text::visible(other.as_bytes())
        )),
    }
}

/// The `config.json` in the folder of a `params.pt`; empty if there is none.
fn config(params: &Path) -> Result<Value> {
    let path = params.with_file_name("config.json");
    match crate::file::read_if_there(&path, crate::file::WORDS)? {
        Some(text) => serde_json::from_slice(&text)
            .map_err(|e| Error::bad_file(&path, format!("it is not JSON ({e})"), NEXT)),
        None => Ok(Value::Null),
    }
}
