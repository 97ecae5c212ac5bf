//! Directions: vectors that edits add or project out, with the address, method and model of their measurement.
//!
//! Invariants: a direction of another model is refused if its file names the model; what a file leaves open or in doubt is
//! reported at every use ([`Direction::caution`]). Whatever numbering a file uses, layer L is block L here, 0-based. To add a
//! file format, write a module with a [`VectorFormat`] and add a word to [`FORMATS`]; to add a method, see
//! `vectors/contrast.rs`.

mod arrays;
pub mod controls;
mod ds4;
mod embedded;
mod gguf;
mod numpy;
mod row_layers;
mod safetensors;
mod sidecar;
mod torch;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

pub use self::controls::random_like;
pub use self::embedded::embedded;
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::model::Card;
use crate::model::checkpoint::gguf::names::ARCHITECTURES;
use crate::model::host::ToHost;
use crate::model::network::address::site_named;
use crate::model::network::finite;
use crate::model::network::site::{Address, Site};

/// One row of [`FORMATS`].
#[derive(Debug)]
pub struct VectorFormat {
    pub name: &'static str,
    /// File name extensions; the first is used for new files.
    pub extensions: &'static [&'static str],
    /// Which program writes it, and what its layer numbers mean, in a sentence.
    pub about: &'static str,
    /// Whether a file begins like this format, for files whose name does not tell.
    recognises: fn(&[u8]) -> bool,
    /// Reads a file; the second argument names one of several vectors.
    read: fn(&Path, &str) -> Result<Direction>,
    /// Makes the files, the one at this path first, and a sentence on what they cannot hold.
    write: fn(&Direction, &Path) -> Result<(VectorFiles, String)>,
}

/// A norm below this is only rounding.
pub const NOTHING: f32 = 1e-12;

/// The paths and contents of files that belong together.
type VectorFiles = Vec<(PathBuf, Vec<u8>)>;

/// The key of our own provenance in JSON files beside other formats.
const OWN: &str = "lmscope";

pub const FORMATS: &[VectorFormat] = &[
    safetensors::FORMAT,
    gguf::FORMAT,
    torch::FORMAT,
    numpy::FORMAT,
    ds4::FORMAT,
];

/// The format of a file's extension.
pub fn format_named(path: &Path) -> Option<&'static VectorFormat> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    FORMATS
        .iter()
        .find(|f| f.extensions.contains(&extension.as_str()))
}

/// The format of an existing file: by its extension, else by its first bytes.
pub fn format_of(path: &Path) -> Result<&'static VectorFormat> {
    use std::io::Read;
    if let Some(format) = format_named(path) {
        return Ok(format);
    }
    let mut first = Vec::new();
    let read = file::open(path)?.take(16).read_to_end(&mut first);
    read.map_err(|e| Error::io(path, e))?;
    FORMATS
        .iter()
        .find(|f| (f.recognises)(&first))
        .ok_or_else(|| {
            Error::bad_file(
                path,
                "it is not a file of directions",
                format!("Directions are read from {}.", extensions()),
            )
        })
}

fn extensions() -> String {
    let all = FORMATS.iter().map(|f| format!(".{}", f.extensions[0]));
    all.collect::<Vec<_>>().join(", ")
}

/// The origin of a direction, stored as JSON in the file's metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DirectionOrigin {
    /// The model argument.
    pub model: String,
    /// The model's type (`llama`), as in the hint of control vectors.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub family: String,
    /// Fingerprint of its weights.
    pub revision: String,
    /// The method, for example `difference of means`.
    pub method: String,
    /// The rule for the positions that were averaged.
    pub positions: String,
    /// The number of prompts on each side.
    pub prompts: (usize, usize),
    /// The dtype of the activations it was measured on.
    pub dtype: String,
    /// A strength at which the direction was tested successfully; 1 if it was not tested.
    #[serde(default = "one")]
    pub strength: f32,
    /// The bias of a probe: a state `x` is of the first class where `w·x + b > 0`, with the vector as it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<f32>,
    /// Whether it is unknown where the vectors were measured; their addresses are then placeholders.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anywhere: bool,
    /// The number of rows in the file's table. Compared with the number of the model's blocks, it tells which states the rows
    /// belong to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows: usize,
    /// Cautions for users of the direction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cautions: Vec<String>,
    /// Further notes, in sentences: which heads, which layer was selected and on what data.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Controls of the direction: the same method on the same prompts with shuffled labels, at the same lengths, one list of rows for
    /// each draw; nothing where it was not made from two lists.
    #[serde(skip)]
    pub shuffled: Vec<controls::DirectionRows>,
    /// The version of lmscope.
    pub version: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks so
fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn one() -> f32 {
    1.0
}

impl DirectionOrigin {
    /// The origin of a direction that is measured on this model by this version.
    pub fn of(card: &Card) -> Self {
        Self {
            model: card.name.clone(),
            family: card.family.into(),
            revision: card.revision.clone(),
            dtype: card.dtype.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Self::default()
        }
    }
}

impl Default for DirectionOrigin {
    fn default() -> Self {
        Self {
            model: String::new(),
            family: String::new(),
            revision: String::new(),
            method: String::new(),
            positions: String::new(),
            prompts: (0, 0),
            dtype: String::new(),
            strength: one(),
            bias: None,
            anywhere: false,
            rows: 0,
            cautions: Vec::new(),
            notes: Vec::new(),
            shuffled: Vec::new(),
            version: String::new(),
        }
    }
}

/// Where a direction was measured, for users: its addresses, or what is known if they are placeholders.
pub fn places(addresses: &[Address], anywhere: bool) -> String {
    let all = addresses.iter();
    if anywhere && addresses.len() > 1 {
        let layers: Vec<String> = all.map(|at| at.layer.to_string()).collect();
        return format!(
            "layers {} of a site that its file does not name",
            layers.join(", ")
        );
    }
    if anywhere {
        return "a place that its file does not name".into();
    }
    all.map(Address::to_string).collect::<Vec<_>>().join(", ")
}

/// A vector for one address or several.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// The address of each vector, and the vector.
    pub rows: Vec<(Address, Vec<f32>)>,
    /// Its origin.
    pub origin: DirectionOrigin,
}

impl Direction {
    /// The vector for an address: the one measured at that point of the stream, or the only one.
    pub fn at(&self, address: Address) -> Result<&[f32]> {
        let exact = self.rows.iter().find(|(a, _)| *a == address);
        let same = || self.rows.iter().find(|(a, _)| same_point(*a, address));
        let only = (self.rows.len() == 1).then(|| &self.rows[0]);
        let found = if self.origin.anywhere && only.is_none() {
            // Only the layer of each vector is known.
            let layered = address.site.spec().layered;
            let mut rows = self.rows.iter().filter(|_| layered);
            rows.find(|(a, _)| a.layer == address.layer)
        } else {
            exact.or_else(same).or(only)
        };
        if let Some((at, _)) = found.filter(|(_, v)| norm(v) <= NOTHING) {
            return Err(Error::Refused {
                address: address.to_string(),
                why: format!("the direction's vector at {at} is zero. Edit where it is not."),
            });
        }
        found
            .map(|(_, v)| v.as_slice())
            .ok_or_else(|| Error::Refused {
                address: address.to_string(),
                why: format!(
                    "the direction was measured at {} and has no vector for this address. Edit one of those.",
                    self.span()
                ),
            })
    }

    /// The addresses at which it was measured, for users.
    pub fn places(&self) -> String {
        let addresses: Vec<Address> = self.rows.iter().map(|(at, _)| *at).collect();
        places(&addresses, self.origin.anywhere)
    }

    /// As [`Direction::places`], with consecutive layers abbreviated: `resid_post.1-7`.
    pub fn span(&self) -> String {
        let mut runs: Vec<(Address, u16)> = Vec::new();
        for (at, _) in &self.rows {
            match runs.last_mut() {
                Some((first, last)) if first.site == at.site && *last + 1 == at.layer => {
                    *last = at.layer;
                }
                _ => runs.push((*at, at.layer)),
            }
        }
        let spelled = runs.iter().map(|(first, last)| match *last {
            last if last == first.layer => first.to_string(),
            last => format!("{first}-{last}"),
        });
        if self.origin.anywhere {
            self.places()
        } else {
            spelled.collect::<Vec<_>>().join(", ")
        }
    }

    /// The norm of the first vector.
    pub fn norm(&self) -> f32 {
        self.rows.first().map_or(0.0, |(_, v)| norm(v))
    }

    /// Refuses a direction of another model.
    pub fn check(&self, card: &Card) -> Result<()> {
        let origin = &self.origin;
        if origin.revision.is_empty() {
            return Ok(());
        }
        let made_on = (origin.model.as_str(), origin.revision.as_str());
        card.check_made_on("direction", made_on, "a direction measured on")
    }

    /// The cautions for using it on a model; empty if there are none.
    pub fn caution(&self, card: &Card) -> String {
        let origin = &self.origin;
        let mut all = origin.cautions.clone();
        if origin.revision.is_empty() && !hint_matches_family(&origin.family, card.family) {
            all.push(format!(
                "its file says it was made for `{}`, and this model is `{}`",
                origin.family, card.family
            ));
        }
        let last = Site::ResidPost.at(card.layers.saturating_sub(1));
        if gguf::by_repeng(origin) && self.rows.iter().any(|(a, _)| *a == last) {
            all.push(gguf::NORMED.into());
        }
        let beyond = self.rows.iter().map(|(a, _)| a);
        let beyond: Vec<String> = beyond
            .filter(|a| usize::from(a.layer) >= card.layers)
            .map(|a| {
                if origin.anywhere {
                    format!("layer {}", a.layer)
                } else {
                    a.to_string()
                }
            })
            .collect();
        let told = !origin.anywhere || self.rows.len() > 1;
        if !beyond.is_empty() && told {
            all.push(format!(
                "this model has {} layers and nothing at {}",
                card.layers,
                beyond.join(", ")
            ));
        }
        all.join("; ")
    }

    /// The direction with every vector moved by this many layers.
    pub fn shifted(&self, by: i32) -> Result<Self> {
        let rows = self.rows.iter().map(|(at, vector)| {
            let layer = i32::from(at.layer).checked_add(by);
            let layer = layer.and_then(|l| u16::try_from(l).ok());
            let known = !self.origin.anywhere || self.rows.len() > 1;
            let moved = layer.filter(|_| at.site.spec().layered && known);
            let place = if self.origin.anywhere {
                self.places()
            } else {
                at.to_string()
            };
            let layer = moved.ok_or_else(|| {
                Error::argument(
                    "direction",
                    format!("#{by:+}"),
                    format!("a number of layers by which its vector of {place} can be moved"),
                )
            })?;
            Ok((Address { layer, ..*at }, vector.clone()))
        });
        let mut origin = self.origin.clone();
        origin.shuffled.clear();
        if by != 0 {
            // A user who moves the layers has read this caution.
            origin.cautions.retain(|c| c != gguf::OFFSET);
            let note = format!("moved by {by:+} layers, as `#{by:+}` after its name asks");
            origin.notes.push(note);
        }
        Ok(Self {
            rows: rows.collect::<Result<_>>()?,
            origin,
        })
    }

    /// The same vectors at another place: a single one at an address, several at a site, each at its layer.
    pub fn moved_to(&self, place: &str) -> Result<Self> {
        let mut moved = self.clone();
        let one = self.rows.len() == 1;
        if let (true, Ok(address)) = (one, place.parse::<Address>()) {
            moved.rows[0].0 = address;
            moved.origin.anywhere = false;
            moved.origin.cautions.retain(|c| c != sidecar::ANYWHERE);
        } else {
            let site = site_named(place.trim_end_matches(".*")).ok();
            let numbered = !one || !self.origin.anywhere;
            let known = site.filter(|s| s.spec().layered && numbered);
            let Some(site) = known else {
                let expected = match (one, !numbered) {
                    (_, true) => "an address such as resid_post.10",
                    (true, false) => "an address such as resid_post.10, or a site such as attn_out",
                    (false, false) => {
                        "a site such as attn_out, because every vector keeps its layer"
                    }
                };
                return Err(Error::argument("place", place, expected));
            };
            for (at, _) in &mut moved.rows {
                *at = site.at(usize::from(at.layer));
            }
            moved.origin.anywhere = false;
            let open = [sidecar::OPEN, arrays::BY_LAYER];
            moved
                .origin
                .cautions
                .retain(|c| !open.contains(&c.as_str()));
        }
        let note = format!("moved to {place}; its file says {}", self.span());
        moved.origin.notes.push(note);
        Ok(moved)
    }

    /// Writes a file in the format of its extension, or safetensors without one; an existing file is not overwritten. Returns a
    /// sentence on what the format cannot hold.
    pub fn save(&self, path: &Path) -> Result<String> {
        self.save_as(path, Overwrite::Never)
    }

    /// As [`Direction::save`]; an existing file is replaced if `overwrite` allows it.
    pub fn save_as(&self, path: &Path, overwrite: Overwrite) -> Result<String> {
        if let Some((at, _)) = self.rows.iter().find(|(_, v)| !finite::all(v)) {
            return Err(Error::not_finite(
                format!("The vector at {at} is not finite (NaN or infinity), so it is not saved"),
                "Load the model with --dtype f32, or lower the strength of what made it",
            ));
        }
        let format = match (path.extension(), format_named(path)) {
            (None, _) => &FORMATS[0],
            (_, Some(format)) => format,
            (Some(extension), None) => {
                return Err(Error::argument(
                    "file name",
                    format!(".{}", extension.to_string_lossy()),
                    format!("a name that ends in one of {}", extensions()),
                ));
            }
        };
        if self.is_zero_or_not_finite() {
            return Err(Error::argument(
                "direction",
                "a vector of norm zero",
                "a vector that is not zero: prompts that differ where it is measured, or directions that do not cancel out",
            ));
        }
        let (files, lost) = (format.write)(self, path)?;
        file::write_together(&files, overwrite)?;
        Ok(lost)
    }

    /// Whether all its vectors are zero, or a number is not finite.
    pub fn is_zero_or_not_finite(&self) -> bool {
        self.rows.iter().all(|(_, v)| norm(v) <= NOTHING)
            || self.rows.iter().any(|(_, v)| !norm(v).is_finite())
    }

    /// Reads a file of any format.
    pub fn load(path: &Path) -> Result<Self> {
        Self::load_one(path, "")
    }

    /// Reads the vector `key` from a file of several named vectors.
    pub fn load_one(path: &Path, key: &str) -> Result<Self> {
        let found = (format_of(path)?.read)(path, key)?;
        if found.is_zero_or_not_finite() {
            return Err(Error::bad_file(
                path,
                "its vector is zero or not finite, and has no direction",
                "Make it again, from prompts that differ where it is measured.",
            ));
        }
        Ok(found)
    }

    /// Reads the file `name`; in `calm.npz#angry` the part after `#` is one of several vectors, unless it is a number, which
    /// moves layers. None if there is no such file.
    pub fn at_path(name: &str) -> Result<Option<Self>> {
        let path = Path::new(name);
        if path.exists() {
            return Self::load(path).map(Some);
        }
        match name.rsplit_once('#') {
            Some((file, key)) if key.parse::<i32>().is_err() && Path::new(file).exists() => {
                Self::load_one(Path::new(file), key).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Reads the file `name`; `calm.gguf#-1` moves its vectors by that many layers. None if there is no such file.
    pub fn open(name: &str) -> Result<Option<Self>> {
        resolve(name, &Self::at_path)
    }

    /// Reads the bytes of a safetensors file that [`Direction::save`] wrote; `path` is for error messages.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        safetensors::parse(bytes, path, "")
    }
}

/// Looks up a name: the result of `find` for it or, for `NAME#-1`, that of NAME moved by that many layers.
pub fn resolve(
    name: &str,
    find: &dyn Fn(&str) -> Result<Option<Direction>>,
) -> Result<Option<Direction>> {
    if let Some(whole) = find(name)? {
        return Ok(Some(whole));
    }
    let Some((name, by)) = name.rsplit_once('#') else {
        return Ok(None);
    };
    let Ok(by) = by.parse::<i32>() else {
        return Ok(None);
    };
    resolve(name, find)?.map(|d| d.shifted(by)).transpose()
}

/// The index of a point of the residual stream between blocks: the output of a block is the input of the next.
fn point_between_blocks(at: Address) -> Option<usize> {
    let layer = usize::from(at.layer);
    let enters = (at.site == Site::ResidPre).then_some(layer);
    enters.or((at.site == Site::ResidPost).then_some(layer + 1))
}

/// Whether two addresses have the same value.
pub(crate) fn same_point(a: Address, b: Address) -> bool {
    if a == b {
        return true;
    }
    point_between_blocks(a).is_some_and(|place| point_between_blocks(b) == Some(place))
}

/// Whether a hint may mean a family: its own name, or llama.cpp's for it, which several families share.
fn hint_matches_family(hint: &str, family: &str) -> bool {
    let bare = |s: &str| s.replace(['-', '_'], "").to_ascii_lowercase();
    let (hint, family) = (bare(hint), bare(family));
    let shared = || {
        let mut rows = ARCHITECTURES.iter();
        rows.any(|a| bare(a.name) == hint && bare(a.model_type) == family)
    };
    // llama.cpp calls files of Mistral models `llama` as well.
    hint.is_empty() || hint == family || (hint == "llama" && family == "mistral") || shared()
}

/// The bytes of a small file.
fn whole(path: &Path) -> Result<Vec<u8>> {
    const MOST: u64 = 1 << 30;
    let length = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if length.len() > MOST {
        return Err(Error::bad_file(
            path,
            format!(
                "it has {} bytes, too many for a file of directions",
                length.len()
            ),
            "Is it a model? Name a file of directions.",
        ));
    }
    file::read(path, MOST)
}

/// Numbers of any floating-point type, converted to f32, row-major.
fn numbers(dtype: DType, bytes: &[u8]) -> Result<Vec<f32>> {
    let count = bytes.len() / dtype.size_in_bytes();
    let raw = Tensor::from_raw_buffer(bytes, dtype, &[count], &Device::Cpu)?;
    Ok(raw.to_dtype(DType::F32)?.host_vec1()?)
}

/// Refuses a vector with a number that is not finite.
fn finite(path: &Path, name: &str, vector: &[f32], next: &str) -> Result<()> {
    match vector.iter().find(|v| !v.is_finite()) {
        Some(bad) => Err(Error::bad_file(path, format!("`{name}` holds {bad}"), next)),
        None => Ok(()),
    }
}

/// The norm, summed in f64.
pub fn norm(v: &[f32]) -> f32 {
    v.iter()
        .map(|x| f64::from(*x) * f64::from(*x))
        .sum::<f64>()
        .sqrt() as f32
}

/// `v / (‖v‖ + 1e-8)`, as the refusal code normalises (Arditi et al. 2024).
pub fn unit(v: &[f32]) -> Vec<f32> {
    let length = norm(v) + 1e-8;
    v.iter().map(|x| x / length).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::network::site::Site;

    #[test]
    fn a_file_gives_back_the_vector_and_its_origin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.safetensors");
        let origin = DirectionOrigin {
            model: "m".into(),
            revision: "r".into(),
            method: "difference of means".into(),
            prompts: (3, 4),
            ..DirectionOrigin::default()
        };
        let direction = Direction {
            rows: vec![(Site::ResidPre.at(2), vec![1.0, -0.5, 3.25])],
            origin,
        };
        direction.save(&path).unwrap();
        assert_eq!(Direction::load(&path).unwrap(), direction);
        std::fs::write(&path, b"short").unwrap();
        assert!(
            Direction::load(&path)
                .unwrap_err()
                .to_string()
                .contains("d.safetensors")
        );
    }

    #[test]
    fn a_random_control_has_the_same_length_and_another_direction() {
        let v = vec![3.0, 0.0, 4.0, 0.0];
        let null = random_like(&v, 1);
        assert!((norm(&null) - 5.0).abs() < 1e-4);
        assert_ne!(null, random_like(&v, 2));
        assert_eq!(null, random_like(&v, 1));
    }
}
