//! ds4's directional steering: `X.f32`, a flat table of f32 `[layers, d_model]`, and `X.json`, which gives its shape.
//!
//! Invariant: ds4 computes `y - scale·d·(d·y)` on the attention or MLP output, so a positive scale removes the direction. The
//! edit for it is therefore `project_out`, and the direction's notes say so. A row of zeros is a layer without a vector.
//! To add a component, add it to `COMPONENTS`.

use std::path::Path;

use candle_core::DType;
use serde_json::{Value, json};

use super::arrays::refuse_name;
use super::sidecar::{Sidecar, json};
use super::{Direction, DirectionOrigin, VectorFiles, VectorFormat, finite, norm, numbers, whole};
use crate::error::{Error, Result};
use crate::model::network::site::Site;

pub(crate) const FORMAT: VectorFormat = VectorFormat {
    name: "ds4",
    extensions: &["f32"],
    about: "directional steering files of ds4, with their X.json: one row for each layer, of the MLP or attention output; ds4 removes the direction, as project_out does",
    recognises: |_| false,
    read: |path, key| {
        refuse_name(path, key)?;
        read(path)
    },
    write,
};

/// The values of `component`, with the site of each.
const COMPONENTS: &[(&str, Site)] = &[
    ("ffn_out", Site::MlpOut),
    ("mlp_out", Site::MlpOut),
    ("attn_out", Site::AttnOut),
    ("attention_out", Site::AttnOut),
];

/// The value of `format` in ds4's JSON.
const NAME: &str = "ds4-directional-steering-v1";

const NOTE: &str = "ds4 removes with a positive scale: use it as project_out, not add";

fn read(path: &Path) -> Result<Direction> {
    let beside = path.with_extension("json");
    let next = "The two files of ds4 belong together: take both from one place.";
    if !beside.exists() {
        let what = format!(
            "its shape is given in {}, which does not exist",
            beside.display()
        );
        return Err(Error::bad_file(path, what, next));
    }
    let json = Sidecar::read(beside, None)?;
    let said = json.text(&["format"]);
    if said != NAME {
        return Err(json.bad(format!("its `format` is `{said}`; only `{NAME}` is read")));
    }
    let side = |i: usize| {
        let shape = json.value(&["shape"]).and_then(Value::as_array);
        let number = shape.filter(|s| s.len() == 2).and_then(|s| s[i].as_u64());
        number
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n > 0)
    };
    let (Some(layers), Some(width)) = (side(0), side(1)) else {
        return Err(json.bad("its `shape` is not [layers, d_model]"));
    };
    let component = json.text(&["component"]);
    let Some((_, site)) = COMPONENTS.iter().find(|(name, _)| *name == component) else {
        let known: Vec<&str> = COMPONENTS.iter().map(|c| c.0).collect();
        return Err(json.bad(format!(
            "its `component` is `{component}`; known are {}",
            known.join(", ")
        )));
    };
    let bytes = whole(path)?;
    let expected = layers.checked_mul(width).and_then(|n| n.checked_mul(4));
    if expected != Some(bytes.len()) || layers > usize::from(u16::MAX) {
        return Err(Error::bad_file(
            path,
            format!(
                "it has {} bytes, but {layers} x {width} numbers were announced",
                bytes.len()
            ),
            next,
        ));
    }
    let values = numbers(DType::F32, &bytes)?;
    finite(path, "the table", &values, next)?;
    let rows = values.chunks_exact(width).enumerate();
    let rows: Vec<_> = rows
        .filter(|(_, v)| norm(v) > 0.0)
        .map(|(l, v)| (site.at(l), v.to_vec()))
        .collect();
    if rows.is_empty() {
        return Err(Error::bad_file(path, "all its numbers are zero", next));
    }
    let mut origin = json.origin("ds4 directional steering");
    if origin.cautions.is_empty() {
        origin.cautions.push(NOTE.into());
    }
    Ok(Direction { rows, origin })
}

/// Rows are written with unit norm, as ds4 expects; layers without a vector are zeros.
fn write(direction: &Direction, path: &Path) -> Result<(VectorFiles, String)> {
    let site = direction.rows.first().map(|(a, _)| a.site);
    let component = COMPONENTS
        .iter()
        .find(|(_, s)| Some(*s) == site)
        .filter(|_| direction.rows.iter().all(|(a, _)| Some(a.site) == site));
    let Some((component, _)) = component else {
        return Err(Error::Refused {
            address: direction.span(),
            why: "ds4 steers the MLP or attention output, mlp_out or attn_out. Measure there, or write GGUF or safetensors.".into(),
        });
    };
    let width = direction.rows[0].1.len();
    let last = direction
        .rows
        .iter()
        .map(|(a, _)| usize::from(a.layer))
        .max();
    let layers = last.map_or(0, |l| l + 1);
    let mut values = vec![0f32; layers * width];
    for (at, vector) in &direction.rows {
        let length = norm(vector);
        let start = usize::from(at.layer) * width;
        if length > 0.0 {
            let row = values[start..start + width].iter_mut();
            row.zip(vector).for_each(|(o, v)| *o = v / length);
        }
    }
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let origin = DirectionOrigin {
        cautions: vec![NOTE.into()],
        ..direction.origin.clone()
    };
    let theirs = json!({
        "format": NAME,
        "shape": [layers, width],
        "component": component,
        "model": origin.model,
        "note": origin.method,
    });
    let lost = format!(
        "its rows have unit norm and end at layer {}; ds4 removes the direction they point to",
        layers - 1
    );
    let beside = (path.with_extension("json"), json(&origin, theirs));
    Ok((vec![(path.into(), bytes), beside], lost))
}
