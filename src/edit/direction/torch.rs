//! `direction.pt` of refusal_direction, and any other tensor that `torch.save` wrote: a vector, also of shape `[1, 1,
//! d_model]`.
//!
//! Invariant: the pickle is parsed and never executed (`model/checkpoint/torch`). Layer L of `direction_metadata.json` is the
//! input of block L, `resid_pre.L` (Arditi et al. 2024, 2406.11717); without a JSON file the vector can be used at any address.
//! To read another layout, see [`super::arrays`].

use std::path::Path;

use serde_json::json;

use super::sidecar::{json, metadata_path};
use super::{Direction, VectorFiles, VectorFormat, arrays, point_between_blocks};
use crate::edit::quotes::named;
use crate::error::{Error, Result};
use crate::model::checkpoint::torch::{
    CappingConfig, SmallTensor, archive_of, capping, facts, shapes, values,
};
use crate::text::visible;

pub(crate) const FORMAT: VectorFormat = VectorFormat {
    name: "PyTorch tensor",
    extensions: &["pt", "pth", "bin"],
    about: "direction.pt of refusal_direction with its direction_metadata.json (layer L is resid_pre.L), function vectors, {layer: tensor}, tables of persona vectors and of the assistant axis",
    recognises: |first| first.starts_with(b"PK"),
    read,
    write,
};

fn read(path: &Path, key: &str) -> Result<Direction> {
    arrays::dictionary(path, &shapes(path)?)?;
    if let Some(config) = capping(path)? {
        return capping_vector(path, &config, key);
    }
    let mut found = arrays::read(path, values(path)?, key, "tensor of PyTorch")?;
    // A layer without a site is not an address, but is worth a note.
    if let ([_], true, Some(layer)) = (
        found.rows.as_slice(),
        found.origin.anywhere,
        facts(path)?.get("layer"),
    ) {
        found
            .origin
            .cautions
            .push(format!("it names layer {}", visible(layer.as_bytes())));
    }
    Ok(found)
}

/// One vector of a file with capping experiments; for the name of an experiment, the error says which edits to type. A cap is a
/// clamp with one bound, at the output of the vector's block.
fn capping_vector(path: &Path, config: &CappingConfig, key: &str) -> Result<Direction> {
    let file = path.display().to_string();
    if let Some(layer) = config.vectors.get(key) {
        let ours = |t: &SmallTensor| {
            t.name == format!("vectors.{key}.vector") || t.name == format!("vectors.{key}")
        };
        let mut found: Vec<SmallTensor> = values(path)?.into_iter().filter(ours).collect();
        found
            .iter_mut()
            .for_each(|t| t.name = format!("resid_post.{layer}"));
        return arrays::read(
            path,
            found,
            "",
            "vector of a capping configuration (assistant-axis)",
        );
    }
    let chosen = config.experiments.iter().find(|(id, _)| id == key);
    let (id, caps) = match chosen.or(config.experiments.first()) {
        Some((id, caps)) => (id.as_str(), caps.as_slice()),
        None => ("", &[][..]),
    };
    let lines = caps.iter().filter_map(|(name, cap)| {
        let layer = config.vectors.get(name)?;
        let vector = named(&format!("{file}#{name}"));
        Some(format!(
            "--edit 'clamp_along:{vector}=-1000000..{cap}@resid_post.{layer}'"
        ))
    });
    let ids: Vec<&str> = config
        .experiments
        .iter()
        .map(|(id, _)| id.as_str())
        .collect();
    Err(Error::bad_file(
        path,
        format!(
            "it is a capping configuration (assistant-axis): {} vectors, and the experiments {}",
            config.vectors.len(),
            ids.join(", ")
        ),
        format!(
            "A vector is named after the file, {}; the experiment {id} is {}; another one is shown for {}.",
            named(&format!(
                "{file}#{}",
                config.vectors.keys().next().map_or("NAME", String::as_str)
            )),
            lines.collect::<Vec<_>>().join(" "),
            named(&format!("{file}#EXPERIMENT")),
        ),
    ))
}

fn write(direction: &Direction, path: &Path) -> Result<(VectorFiles, String)> {
    let refused = |why: &str| Error::Refused {
        address: direction.span(),
        why: why.into(),
    };
    let [(at, vector)] = direction.rows.as_slice() else {
        return Err(refused(
            "a PyTorch direction is one vector. Measure at one layer, or write GGUF or safetensors.",
        ));
    };
    let layer = match point_between_blocks(*at) {
        _ if direction.origin.anywhere => None,
        Some(place) => Some(place),
        None => {
            return Err(refused(
                "refusal_direction's vectors are measured on the input of a block, resid_pre. Measure there, or write safetensors.",
            ));
        }
    };
    let mut files = vec![(path.into(), archive_of(vector))];
    let origin = &direction.origin;
    // Their positions count from the end of the prompt; -1 is the last token.
    let position = match origin.positions.as_str() {
        "last" | "last prompt token" => Some(-1),
        other => other.parse::<i64>().ok(),
    };
    if let Some(layer) = layer {
        let theirs = json!({ "pos": position, "layer": layer });
        files.push((metadata_path(path), json(origin, theirs)));
    }
    Ok((files, String::new()))
}
