//! Directions from arrays in files of other programs: one vector, a table, a vector for each layer, or several by name.
//!
//! Invariant: a layer is read only if the file names it, and nothing else is guessed: what a file leaves open is reported, and
//! is settled by the model ([`Direction::with_row_layers`]) or by a JSON file beside it. To read another spelling of layers,
//! add it to `WORDS`.

use std::collections::BTreeMap;
use std::path::Path;

use super::sidecar::{implied_site, table};
use super::{Direction, DirectionOrigin, finite};
use crate::edit::quotes::named;
use crate::error::{Error, Result};
use crate::model::checkpoint::torch::SmallTensor;
use crate::model::network::address::site_named;
use crate::model::network::site::{Address, Site};

/// Words before the number of a layer.
const WORDS: &[&str] = &[
    "",
    "layer",
    "layers",
    "l",
    "block",
    "blocks",
    "h",
    "direction",
    "directions",
    "vector",
    "vectors",
    "steering_vector",
];

/// Names that dictionaries (sparse autoencoders, transcoders) give to their decoder.
const DECODERS: &[&str] = &["w_dec", "decoder.weight", "decoder_linear.weight", "w_d"];

/// Names that dictionaries give to their encoder.
const ENCODERS: &[&str] = &["w_enc", "encoder.weight", "encoder_linear.weight", "w_e"];

/// Names that dictionaries give to tensors with one number for each feature.
const BIASES: &[&str] = &[
    "b_enc",
    "encoder.bias",
    "encoder_linear.bias",
    "b_e",
    "latent_bias",
    "threshold",
];

/// The caution for vectors with layer numbers but no site.
pub(crate) const BY_LAYER: &str = "its file has layer numbers but no site, so the vector of a layer can be used at every site of that layer";

/// [`BY_LAYER`], or the caution for a single vector: it can be used at other layers, too.
fn which_layers(rows: &[(Address, Vec<f32>)]) -> String {
    match rows {
        [(at, _)] => format!(
            "its file has layer {} but no site; its vector can be used anywhere",
            at.layer
        ),
        _ => BY_LAYER.into(),
    }
}

const NEXT: &str =
    "A direction is one vector, one vector for each layer, or a table with one row for each layer.";

/// The layer or address that the name of a vector gives.
#[derive(Clone, Copy)]
enum VectorPlace {
    At(Address),
    Layer(u16),
}

/// Parses the name of an array: `resid_post.4`, `4`, `layer_4`, `layers.4.vector`, `resid_pre_4`.
fn place(name: &str) -> Option<VectorPlace> {
    if let Ok(address) = name.parse::<Address>() {
        return Some(VectorPlace::At(address));
    }
    let numbered = |part: &str| {
        let word = part.trim_end_matches(|c: char| c.is_ascii_digit());
        let layer = part[word.len()..].parse::<u16>().ok()?;
        let word = word.trim_end_matches(['_', '-', ' ']).to_ascii_lowercase();
        if WORDS.contains(&word.as_str()) {
            return Some(VectorPlace::Layer(layer));
        }
        let site = site_named(&word).ok().filter(|s| s.spec().layered)?;
        Some(VectorPlace::At(site.at(usize::from(layer))))
    };
    let mut found = name.split('.').filter_map(numbered);
    found.next().filter(|_| found.next().is_none())
}

/// A direction from the arrays of a file; `key` names one of several arrays, or is empty.
pub(crate) fn read(
    path: &Path,
    mut found: Vec<SmallTensor>,
    key: &str,
    maker: &str,
) -> Result<Direction> {
    dictionary(path, &found)?;
    // Some files contain the direction's mean projection as well, a single number.
    found.retain(|t| t.values.len() > 1);
    if !key.is_empty() {
        let all = names(&found);
        let ends = format!(".{key}");
        let begins = format!("{key}.");
        found.retain(|SmallTensor { name, .. }| {
            name == key || name.ends_with(&ends) || name.starts_with(&begins)
        });
        if found.is_empty() {
            let what = format!("it holds no vector called `{key}`; it holds {all}");
            return Err(Error::bad_file(path, what, NEXT));
        }
    }
    for array in &found {
        let name = Some(array.name.as_str()).filter(|name| !name.is_empty());
        finite(path, name.unwrap_or("the tensor"), &array.values, NEXT)?;
    }
    let sidecar = implied_site(path)?;
    let listed = (0..found.len()).all(|i| found.iter().any(|t| t.name == format!("[{i}]")));
    let places: Option<Vec<VectorPlace>> = found.iter().map(|t| place(&t.name)).collect();
    match (found.as_slice(), places) {
        ([], _) => Err(Error::bad_file(path, "it holds no vector", NEXT)),
        (many, _) if listed && many.len() > 1 => {
            // A list is read as a table: its entries have numbers instead of names.
            let number = |t: &SmallTensor| t.name.get(1..t.name.len() - 1)?.parse::<usize>().ok();
            let mut rows: Vec<&SmallTensor> = many.iter().collect();
            rows.sort_by_key(|t| number(t));
            let width = widths(path, many)?;
            let values: Vec<f32> = rows.iter().flat_map(|t| &t.values).copied().collect();
            table(path, &[many.len(), width], &values, sidecar.as_ref(), maker)
        }
        ([one], Some(_)) if sidecar.is_none() && vector(one) => by_layer(path, &found, maker),
        ([one], _) => table(path, &one.shape, &one.values, sidecar.as_ref(), maker),
        (many, Some(_)) => {
            let mut direction = by_layer(path, many, maker)?;
            if let Some(sidecar) = &sidecar {
                let anywhere = direction.origin.anywhere;
                direction.origin = sidecar.origin(maker);
                if let (true, Some((site, None))) = (anywhere, sidecar.place()?) {
                    let rows = direction.rows.iter_mut();
                    rows.for_each(|(at, _)| *at = site.at(usize::from(at.layer)));
                } else if anywhere {
                    direction.origin.anywhere = true;
                    direction
                        .origin
                        .cautions
                        .push(which_layers(&direction.rows));
                }
            }
            Ok(direction)
        }
        (many, None) => {
            let first = named(&format!("{}#{}", path.display(), many[0].name));
            Err(Error::bad_file(
                path,
                format!("it holds {} tensors: {}", many.len(), names(many)),
                format!("Name one after the file, such as {first}."),
            ))
        }
    }
}

/// Whether an array has exactly one dimension longer than 1.
fn vector(array: &SmallTensor) -> bool {
    array.shape.iter().filter(|d| **d != 1).count() == 1
}

fn names(arrays: &[SmallTensor]) -> String {
    let mut all: Vec<String> = arrays.iter().map(|t| t.name.clone()).collect();
    let more = all.len().saturating_sub(12);
    all.truncate(12);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all.join(", ")
}

fn widths(path: &Path, arrays: &[SmallTensor]) -> Result<usize> {
    let width = arrays.first().map_or(0, |t| t.values.len());
    let mut odd = arrays.iter();
    let Some(SmallTensor { name, shape, .. }) = odd.find(|t| !vector(t) || t.values.len() != width)
    else {
        return Ok(width);
    };
    let what = format!("its `{name}` is {shape:?} and its first vector has {width} numbers");
    Err(Error::bad_file(path, what, NEXT))
}

/// A direction with one vector for each layer, at the site that the names give, or at none.
fn by_layer(path: &Path, arrays: &[SmallTensor], maker: &str) -> Result<Direction> {
    widths(path, arrays)?;
    let mut origin = DirectionOrigin {
        method: maker.to_string(),
        ..DirectionOrigin::default()
    };
    let mut rows: BTreeMap<Address, Vec<f32>> = BTreeMap::new();
    for array in arrays {
        let at = match place(&array.name) {
            Some(VectorPlace::At(at)) => at,
            Some(VectorPlace::Layer(layer)) => {
                origin.anywhere = true;
                Site::ResidPost.at(usize::from(layer))
            }
            None => continue,
        };
        if rows.insert(at, array.values.clone()).is_some() {
            let all = names(arrays);
            let what = format!("two of its vectors are for layer {}: {all}", at.layer);
            return Err(Error::bad_file(path, what, NEXT));
        }
    }
    if origin.anywhere {
        if rows.keys().any(|at| at.site != Site::ResidPost) {
            let all = names(arrays);
            let what = format!("some of its vectors name a site and some only a layer: {all}");
            return Err(Error::bad_file(path, what, NEXT));
        }
        let rows: Vec<_> = rows.into_iter().collect();
        origin.cautions.push(which_layers(&rows));
        return Ok(Direction { rows, origin });
    }
    Ok(Direction {
        rows: rows.into_iter().collect(),
        origin,
    })
}

/// Refuses a key for a file whose vectors have no names.
pub(crate) fn refuse_name(path: &Path, key: &str) -> Result<()> {
    if key.is_empty() {
        return Ok(());
    }
    Err(Error::bad_file(
        path,
        format!("its vectors belong to layers and have no names, and `#{key}` asks for one"),
        "Name the file alone, or with a number of layers to move by, such as #-1.",
    ))
}

/// Refuses a dictionary of features, and says how to save one of its directions.
pub(crate) fn dictionary(path: &Path, arrays: &[SmallTensor]) -> Result<()> {
    let called = |names: &[&str]| {
        arrays.iter().find(|t| {
            let name = t.name.to_ascii_lowercase();
            let ends = |n: &&str| name == **n || name.ends_with(&format!(".{n}"));
            t.shape.len() >= 2 && names.iter().any(ends)
        })
    };
    let (Some(decoder), Some(_)) = (called(DECODERS), called(ENCODERS)) else {
        return Ok(());
    };
    let (name, shape) = (&decoder.name, &decoder.shape);
    // An encoder bias has one number for each feature. Without one, assume that there are more features than dimensions.
    let biases = arrays.iter().filter(|t| t.shape.len() == 1);
    let bias = biases.filter(|t| {
        let name = t.name.to_ascii_lowercase();
        BIASES.iter().any(|n| name.ends_with(n))
    });
    let count = bias.map(|t| t.shape[0]).find(|n| shape.contains(n));
    let features = count.or(shape.iter().max().copied()).unwrap_or(0);
    let width = shape.iter().find(|d| **d != features).unwrap_or(&features);
    let one = if shape.first() == Some(&features) {
        "[FEATURE]"
    } else {
        "[:, FEATURE]"
    };
    Err(Error::bad_file(
        path,
        format!(
            "it is a dictionary (a sparse autoencoder or transcoder) of {features} features over {width} numbers, and dictionaries are not read yet"
        ),
        format!(
            "The direction of one feature is a part of its decoder; save it alone: numpy.save(\"feature.npy\", D[\"{name}\"]{one}), where D is the file as Python loads it."
        ),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_say_layers_in_the_spellings_that_are_in_use() {
        let spelled = |name: &str| match place(name) {
            None => String::new(),
            Some(VectorPlace::At(at)) => at.to_string(),
            Some(VectorPlace::Layer(layer)) => layer.to_string(),
        };
        for (name, said) in [
            ("4", "4"),
            ("layer_4", "4"),
            ("layers.4", "4"),
            ("Layer 4", "4"),
            ("layer4", "4"),
            ("vectors.layer-4.vector", "4"),
            ("direction.4", "4"),
            ("resid_pre_4", "resid_pre.4"),
            ("blocks.4.hook_resid_pre", "resid_pre.4"),
            ("resid_post.4", "resid_post.4"),
            ("calm", ""),
            ("calm4", ""),
            ("layer_4.5", ""),
            ("vector", ""),
            ("", ""),
            ("layer_99999", ""),
        ] {
            assert_eq!(spelled(name), said, "{name}");
        }
    }
}
