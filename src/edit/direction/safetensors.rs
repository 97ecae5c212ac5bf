//! Directions as safetensors: one f32 vector for each address, with the address as its name, the same for every draw with shuffled
//! labels (`shuffled.0.resid_pre.4`), and the provenance in the metadata.
//!
//! Invariant: reading inverts [`write`]. Files of other programs are read as well: tensors named by addresses (also those of
//! TransformerLens), or a single tensor with a JSON file beside it that says where it was measured.
//! To add a spelling of that JSON, see [`super::sidecar`].

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::DType;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::controls::DirectionRows;
use super::{
    Direction, DirectionOrigin, VectorFiles, VectorFormat, arrays, finite, numbers, whole,
};
use crate::error::{Error, Result};
use crate::model::checkpoint::torch::SmallTensor;
use crate::model::network::site::Address;

pub(crate) const FORMAT: VectorFormat = VectorFormat {
    name: "safetensors",
    extensions: &["safetensors"],
    about: "lmscope's own format: one vector for each address, with its provenance; or any one vector with a JSON file beside it",
    recognises: |first| first.get(8) == Some(&b'{') && first.get(4..8) == Some(&[0; 4]),
    read: |path, key| parse(&whole(path)?, path, key),
    write,
};

/// The key of the metadata entry with the provenance.
const ORIGIN: &str = "lmscope.direction";

/// How the tensors of draws with shuffled labels begin.
const SHUFFLED: &str = "shuffled.";

/// What to do if a file cannot be read.
const NEXT: &str = "A direction file holds one vector for each address, as `lmscope direction` writes it, or one vector with a JSON file beside it.";

fn write(direction: &Direction, path: &Path) -> Result<(VectorFiles, String)> {
    let own = direction.rows.iter().map(|(a, v)| (a.to_string(), v));
    let draws = direction.origin.shuffled.iter().enumerate();
    let draws = draws.flat_map(|(draw, rows)| {
        rows.iter()
            .map(move |(a, v)| (format!("{SHUFFLED}{draw}.{a}"), v))
    });
    let data: Vec<(String, Vec<u8>)> = own
        .chain(draws)
        .map(|(name, v)| (name, v.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let fail = |e: String| Error::bad_file(path, e, "Choose another file name.");
    let views: Vec<(String, TensorView)> = data
        .iter()
        .map(|(name, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes);
            Ok((name.clone(), view.map_err(|e| fail(e.to_string()))?))
        })
        .collect::<Result<_>>()?;
    let origin = serde_json::to_string(&direction.origin).map_err(|e| fail(e.to_string()))?;
    let metadata = HashMap::from([(ORIGIN.to_string(), origin)]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| fail(e.to_string()))?;
    Ok((vec![(path.into(), bytes)], String::new()))
}

/// Parses the bytes of a file; `path` is for error messages, and to find the JSON file beside it.
pub(crate) fn parse(bytes: &[u8], path: &Path, key: &str) -> Result<Direction> {
    let fail = |e: String| Error::bad_file(path, e, NEXT);
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| fail(e.to_string()))?;
    let origin = header.metadata().as_ref().and_then(|m| m.get(ORIGIN));
    let origin: Option<DirectionOrigin> = origin
        .map(|o| serde_json::from_str(o))
        .transpose()
        .map_err(|e| fail(format!("its provenance is damaged ({e})")))?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| fail(e.to_string()))?;
    let tensors = file.tensors();
    if tensors.is_empty() {
        return Err(fail("it holds no vector".into()));
    }
    // A file of another program: look at the shapes first, because a dictionary may be large.
    let heads = tensors.iter().map(|(name, view)| SmallTensor {
        name: name.clone(),
        shape: view.shape().to_vec(),
        values: Vec::new(),
    });
    if origin.is_none() {
        arrays::dictionary(path, &heads.collect::<Vec<_>>())?;
    }
    let read = |name: &str, view: &TensorView| -> Result<Vec<f32>> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "other types are refused by name"
        )]
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(fail(format!(
                    "`{name}` is of type {other:?}; vectors must be floating-point"
                )));
            }
        };
        let vector = numbers(dtype, view.data())?;
        finite(path, name, &vector, NEXT)?;
        Ok(vector)
    };
    let Some(mut origin) = origin else {
        // Integer tensors next to vectors are metadata and ignored; a file that contains only integers is refused.
        let whole = |d: Dtype| !matches!(d, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16);
        let some = tensors.iter().any(|(_, view)| !whole(view.dtype()));
        let kept = tensors
            .iter()
            .filter(|(_, view)| !(some && whole(view.dtype())));
        let found = kept.map(|(name, view)| {
            Ok(SmallTensor {
                name: name.clone(),
                shape: view.shape().to_vec(),
                values: read(name, view)?,
            })
        });
        return arrays::read(path, found.collect::<Result<_>>()?, key, "");
    };
    arrays::refuse_name(path, key)?;
    let mut rows = Vec::new();
    let mut shuffled: BTreeMap<usize, DirectionRows> = BTreeMap::new();
    for (name, view) in &tensors {
        let drawn = name.strip_prefix(SHUFFLED).and_then(|rest| {
            let (draw, address) = rest.split_once('.')?;
            Some((draw.parse::<usize>().ok()?, address))
        });
        let place = drawn.map_or(name.as_str(), |(_, address)| address);
        let address: Address = place.parse().map_err(|e| {
            fail(format!(
                "its tensor `{name}` is not named after an address such as resid_post.10 ({e})"
            ))
        })?;
        if view.shape().len() != 1 {
            let shape = view.shape();
            return Err(fail(format!(
                "`{name}` is {shape:?} and should be a vector"
            )));
        }
        let into = match drawn {
            Some((draw, _)) => shuffled.entry(draw).or_default(),
            None => &mut rows,
        };
        into.push((address, read(name, view)?));
    }
    rows.sort_by_key(|(a, _)| *a);
    origin.shuffled = shuffled.into_values().collect();
    for rows in &mut origin.shuffled {
        rows.sort_by_key(|(a, _)| *a);
    }
    Ok(Direction { rows, origin })
}
