//! The contents of a small file of `torch.save`: tensors anywhere in its dicts and lists, and numbers and texts next to them.
//!
//! Invariant: as in checkpoints, the pickle is parsed and never executed, and shared values cause no more work than [`VALUES`].
//! To read a layout with more structure than tensors by name, add a function such as [`capping`].

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::pickle::{Node, Pickle, ValueId};
use super::{located, tensor, unpickled};
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::memory_map::map_file;

/// A tensor of a small file with its numbers.
#[derive(Debug)]
pub struct SmallTensor {
    /// Its key in the dict; empty if the file is the tensor itself.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements as f32, row-major.
    pub values: Vec<f32>,
}

/// The most values that are searched for tensors: through sharing, few bytes can describe many values.
const VALUES: usize = 200_000;

/// The floating-point tensors of a small file, including f64: the file itself, or those in its dicts and lists, named by their
/// path: `vectors.calm`, `4`, `[2]`.
pub fn values(path: &Path) -> Result<Vec<SmallTensor>> {
    let bad = bad(path);
    let map = map_file(path)?;
    let (archive, pickle) = unpickled(&map).map_err(bad)?;
    let mut found = Vec::new();
    let mut total = 0usize;
    for (name, at) in loose(&pickle).map_err(bad)? {
        let place = located(&pickle, &archive, &name, at, 0).map_err(bad)?;
        let dtype = match place.kind.as_str() {
            "torch.DoubleStorage" => Some(DType::F64),
            _ => place.dtype,
        };
        let Some(dtype) = dtype else { continue };
        total = total.saturating_add(place.shape.iter().product());
        if total > SMALL {
            return Err(bad(
                "its tensors have too many numbers for directions".into()
            ));
        }
        let bytes = place.gather(&map[place.storage.clone()], dtype.size_in_bytes());
        let count = [bytes.len() / dtype.size_in_bytes()];
        let raw = Tensor::from_raw_buffer(&bytes, dtype, &count, &Device::Cpu)?;
        found.push(SmallTensor {
            name,
            shape: place.shape,
            values: raw.to_dtype(DType::F32)?.host_vec1()?,
        });
    }
    Ok(found)
}

/// The names and shapes of the tensors of a file, as in [`values`], without their numbers.
pub fn shapes(path: &Path) -> Result<Vec<SmallTensor>> {
    let map = map_file(path)?;
    let (_, pickle) = unpickled(&map).map_err(bad(path))?;
    let found = loose(&pickle).map_err(bad(path))?.into_iter();
    let heads = found.filter_map(|(name, at)| {
        Some(SmallTensor {
            name,
            shape: tensor(&pickle, at, 0)?.shape,
            values: Vec::new(),
        })
    });
    Ok(heads.collect())
}

/// The most numbers in a small file.
const SMALL: usize = 1 << 27;

/// All tensors in a pickle with their paths, in order.
fn loose(pickle: &Pickle) -> Result<Vec<(String, ValueId)>, String> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), pickle.root(), 0)];
    let mut seen = 0;
    while let Some((name, at, depth)) = open.pop() {
        seen += 1;
        if seen > VALUES {
            return Err("it holds too many values for directions".into());
        }
        match pickle.get(at) {
            Node::Call(..) => found.push((name, at)),
            Node::Dict(pairs) if depth < 5 => {
                let inner = pairs.iter().rev().filter_map(|(inner, value)| {
                    Some((within(&name, &key(pickle, *inner)?), *value, depth + 1))
                });
                open.extend(inner.take(VALUES));
            }
            Node::List(items) | Node::Tuple(items) if depth < 5 => {
                let inner = items.iter().enumerate().rev();
                open.extend(
                    inner
                        .take(VALUES)
                        .map(|(i, at)| (format!("{name}[{i}]"), *at, depth + 1)),
                );
            }
            Node::Dict(_)
            | Node::List(_)
            | Node::Tuple(_)
            | Node::Int(_)
            | Node::Float(_)
            | Node::Text(_)
            | Node::Global(_)
            | Node::Storage(_)
            | Node::Other => {}
        }
    }
    Ok(found)
}

fn bad(path: &Path) -> impl Fn(String) -> Error + Copy {
    move |what| Error::bad_file(path, what, "Save it again with `torch.save`.")
}

/// A key of a dict as text.
fn key(pickle: &Pickle, at: ValueId) -> Option<String> {
    if let Node::Int(n) = pickle.get(at) {
        return Some(n.to_string());
    }
    pickle.text(at).map(str::to_owned)
}

/// The path of the value of a key.
fn within(outer: &str, key: &str) -> String {
    match outer {
        "" => key.to_owned(),
        outer => format!("{outer}.{key}"),
    }
}

/// An experiment that caps activations along vectors: assistant-axis' `capping_config.pt`.
#[derive(Debug, Default)]
pub struct CappingConfig {
    /// The names and layers of its vectors.
    pub vectors: BTreeMap<String, usize>,
    /// Its experiments: a name, and the vectors with their caps.
    pub experiments: Vec<(String, Vec<(String, f64)>)>,
}

/// Reads a file of capping experiments; none if the file is something else.
pub fn capping(path: &Path) -> Result<Option<CappingConfig>> {
    let map = map_file(path)?;
    let (archive, pickle) = unpickled(&map).map_err(bad(path))?;
    let field = |at: ValueId, wanted: &str| {
        let pairs = pickle.dict(at)?.iter();
        let mut found = pairs.filter(|(key, _)| pickle.text(*key) == Some(wanted));
        found.next().map(|(_, value)| *value)
    };
    let items = |at: Option<ValueId>| match at.map(|at| pickle.get(at)) {
        Some(Node::List(items) | Node::Tuple(items)) => items.clone(),
        _ => Vec::new(),
    };
    let experiments = items(field(pickle.root(), "experiments"));
    let vectors = field(pickle.root(), "vectors").and_then(|at| pickle.dict(at));
    let Some(pairs) = vectors.filter(|_| !experiments.is_empty()) else {
        return Ok(None);
    };
    // A number, or a tensor with a single element.
    let number = |at: ValueId| -> Option<f64> {
        if let Some(number) = pickle.number(at) {
            return Some(number);
        }
        let place = located(&pickle, &archive, "cap", at, 0).ok()?;
        let dtype = place.dtype?;
        let bytes = place.gather(&map[place.storage.clone()], dtype.size_in_bytes());
        let raw = Tensor::from_raw_buffer(&bytes, dtype, &[1], &Device::Cpu);
        let numbers = raw.and_then(|t| t.to_dtype(DType::F32)?.host_vec1::<f32>());
        numbers.ok()?.first().map(|cap| f64::from(*cap))
    };
    let mut found = CappingConfig::default();
    for (key, value) in pairs {
        let layer = field(*value, "layer").and_then(|at| pickle.size(at));
        if let (Some(name), Some(layer)) = (pickle.text(*key), layer) {
            found.vectors.insert(name.to_string(), layer);
        }
    }
    for experiment in experiments {
        let id = field(experiment, "id")
            .and_then(|at| key(&pickle, at))
            .unwrap_or_default();
        let caps = items(field(experiment, "interventions"))
            .into_iter()
            .filter_map(|at| {
                let name = pickle.text(field(at, "vector")?)?;
                Some((name.to_string(), number(field(at, "cap")?)?))
            });
        found.experiments.push((id, caps.collect()));
    }
    Ok(Some(found))
}

/// The numbers and texts in a file in addition to its tensors; those of a nested dict are named `outer.inner`.
pub fn facts(path: &Path) -> Result<BTreeMap<String, String>> {
    let map = map_file(path)?;
    let pickle = unpickled(&map).map_err(bad(path))?.1;
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), pickle.root(), 0)];
    while let Some((name, at, depth)) = open.pop() {
        let said = if let Node::Float(x) = pickle.get(at) {
            Some(x.to_string())
        } else {
            key(&pickle, at)
        };
        if let (Node::Dict(pairs), true) = (pickle.get(at), depth < 3) {
            open.extend(pairs.iter().filter_map(|(key, value)| {
                Some((within(&name, pickle.text(*key)?), *value, depth + 1))
            }));
        }
        found.extend(said.map(|said| (name, said)));
    }
    Ok(found)
}
