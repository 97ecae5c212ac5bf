//! `direction.pt` of refusal_direction, and any other tensor that `torch.save` wrote: a vector, `[1, 1, d_model]` too.
//!
//! Invariant: the pickle is read and never run (`model/pickle`). Layer L of `direction_metadata.json` is the input of
//! block L, `resid_pre.L` (Arditi et al. 2024, 2406.11717); without a JSON file the vector serves wherever it is put.
//! To read another layout, see [`super::sidecar`].

use std::path::Path;

use serde_json::json;

use super::sidecar::{beside, json, metadata_path, table};
use super::{Direction, Format, VectorFiles, finite, stream};
use crate::error::{Error, Result};
use crate::model::pickle::{archive_of, values};

/// The row.
pub(super) const FORMAT: Format = Format {
    name: "PyTorch tensor",
    extensions: &["pt", "pth", "bin"],
    about: "refusal_direction's direction.pt with its direction_metadata.json (layer L is resid_pre.L), and function vectors",
    begins: |first| first.starts_with(b"PK"),
    read,
    write,
};

fn read(path: &Path) -> Result<Direction> {
    let next = "A direction is one tensor, such as direction.pt of refusal_direction.";
    let mut found = values(path)?;
    // Beside the direction some files keep its mean projection, a single number.
    found.retain(|t| t.values.len() > 1);
    let [tensor] = found.as_slice() else {
        let names: Vec<&str> = found.iter().map(|t| t.name.as_str()).collect();
        let what = match names.len() {
            0 => "it holds no vector".to_string(),
            n => format!("it holds {n} tensors: {}", names.join(", ")),
        };
        return Err(Error::bad_file(path, what, next));
    };
    let name = if tensor.name.is_empty() {
        "the tensor"
    } else {
        &tensor.name
    };
    finite(path, name, &tensor.values, next)?;
    let sidecar = beside(path)?;
    table(
        path,
        &tensor.shape,
        &tensor.values,
        sidecar.as_ref(),
        "tensor of PyTorch",
    )
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
    let layer = match stream(*at) {
        _ if direction.origin.anywhere => None,
        Some(place) => Some(place),
        None => {
            return Err(refused(
                "refusal_direction's vectors are of what enters a block, resid_pre. Measure there, or write safetensors.",
            ));
        }
    };
    let mut files = vec![(path.into(), archive_of(vector))];
    let origin = &direction.origin;
    // Theirs count from the end of the prompt; -1 is the last token.
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
