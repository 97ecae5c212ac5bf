//! GGUF control vectors: `direction.N`, F32, one for each layer, N from 1 on, as in llama.cpp and repeng.
//!
//! Invariants: what llama.cpp's loader refuses is refused, what it sums is summed, and `direction.N` is added to the output of
//! block N, as llama.cpp does: `resid_post.N`. The vectors in a file of llama-cvector-generator were measured one block
//! earlier; a caution says so and offers the shift (`NAME#-1`), which is never made automatically. To recognise another program
//! that makes such files, add it to `origin`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;

use super::arrays::refuse_name;
use super::{
    Direction, DirectionOrigin, VectorFiles, VectorFormat, finite, norm, numbers,
    point_between_blocks,
};
use crate::error::{Error, Result};
use crate::model::checkpoint::gguf::Gguf;
use crate::model::checkpoint::gguf::write::{MetadataValue, file};
use crate::model::network::site::Site;

pub(crate) const FORMAT: VectorFormat = VectorFormat {
    name: "GGUF control vector",
    extensions: &["gguf"],
    about: "control vectors of llama.cpp and repeng: `direction.N` is added to the output of block N, resid_post.N; block 0 has none",
    recognises: |first| first.starts_with(b"GGUF"),
    read: |path, key| {
        refuse_name(path, key)?;
        parse(&Gguf::open(path)?, path)
    },
    write,
};

/// What to do if a file cannot be used.
const NEXT: &str = "A control vector file holds `direction.N` in F32, one vector for each layer, N from 1 on, and nothing else.";

/// The metadata key of our own provenance, in files that we write; other readers ignore it.
const ORIGIN: &str = "lmscope.direction";

/// The caution for a file whose number of layers is stored as a signed integer.
pub(crate) const OFFSET: &str = "the file seems to be made by llama-cvector-generator, which calls the output of block N `direction.N+1`: loaded as llama.cpp applies it, each vector acts one block after the one it was measured on; `#-1` after its name moves them back";

fn parse(gguf: &Gguf, path: &Path) -> Result<Direction> {
    let bad = |what: String| Error::bad_file(path, what, NEXT);
    let mut found: BTreeMap<u16, (Vec<f32>, usize)> = BTreeMap::new();
    let mut width = None;
    for (name, info) in gguf.tensors() {
        let layer = layer_of(name).map_err(bad)?;
        let readable = gguf.bytes(name).filter(|_| info.kind.name() == "F32");
        let Some(bytes) = readable else {
            return Err(bad(format!("`{name}` is {}", info.kind.name())));
        };
        // Leading dimensions of 1 do not count, as in ggml.
        if info.shape.iter().skip_while(|d| **d == 1).count() > 1 {
            return Err(bad(format!(
                "`{name}` is {:?}, which is not a vector",
                info.shape
            )));
        }
        let vector = numbers(DType::F32, bytes)?;
        finite(path, name, &vector, NEXT)?;
        let expected = *width.get_or_insert(vector.len());
        if vector.len() != expected {
            return Err(bad(format!(
                "`{name}` has {} numbers and another has {expected}",
                vector.len()
            )));
        }
        let (sum, count) = found
            .entry(layer)
            .or_insert_with(|| (vec![0.0; expected], 0));
        sum.iter_mut().zip(&vector).for_each(|(s, v)| *s += v);
        *count += 1;
    }
    if found.is_empty() {
        return Err(bad("it holds no vector".into()));
    }
    let (mut summed, mut empty) = (Vec::new(), Vec::new());
    for (layer, (vector, count)) in &found {
        if *count > 1 {
            summed.push(layer.to_string());
        }
        if norm(vector) <= 0.0 {
            empty.push(layer.to_string());
        }
    }
    let (summed, empty) = (summed.join(", "), empty.join(", "));
    let mut origin = origin(gguf).map_err(bad)?;
    // In our own files the provenance contains this already.
    let foreign = gguf.string(ORIGIN).is_none();
    for (what, layers) in [("summed, as llama.cpp does", summed), ("zero", empty)] {
        if foreign && !layers.is_empty() {
            let caution = format!("its vectors of layer {layers} are {what}");
            origin.cautions.push(caution);
        }
    }
    Ok(Direction {
        rows: found
            .into_iter()
            .map(|(layer, (v, _))| (Site::ResidPost.at(usize::from(layer)), v))
            .collect(),
        origin,
    })
}

/// N of `direction.N` as llama.cpp parses it: C's `stoi` on everything after the first dot.
fn layer_of(name: &str) -> Result<u16, String> {
    let Some(("direction", rest)) = name.split_once('.') else {
        return Err(format!(
            "it holds `{name}`, which is not a direction (is it a model?)"
        ));
    };
    match stoi(rest) {
        None | Some(..0) => Err(format!("`{name}` names no layer")),
        Some(0) => Err(format!(
            "`{name}` is for layer 0, which llama.cpp never steers and refuses"
        )),
        Some(n) => {
            u16::try_from(n).map_err(|_| format!("`{name}` is for a layer that no model has"))
        }
    }
}

/// C's `stoi`: leading blanks, a sign, digits; the rest is ignored.
fn stoi(text: &str) -> Option<i32> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let sign = if text.starts_with('-') { "-" } else { "" };
    format!("{sign}{}", &digits[..end]).parse().ok()
}

/// The caution for repeng's vector of the last block: it was measured on the last of transformers' hidden states, after the
/// final norm.
pub(crate) const NORMED: &str =
    "repeng measured its vector for the last block after the final norm, and it is added before";

/// Whether a direction comes from a file with repeng's layout.
pub(crate) fn by_repeng(origin: &DirectionOrigin) -> bool {
    origin.method == layout_of("repeng")
}

fn layout_of(maker: &str) -> String {
    format!("control vector, by its layout of {maker}")
}

fn origin(gguf: &Gguf) -> Result<DirectionOrigin, String> {
    if let Some(own) = gguf.string(ORIGIN) {
        return serde_json::from_str(own).map_err(|e| format!("its provenance is damaged ({e})"));
    }
    let (maker, cautions) = match gguf.signed("controlvector.layer_count") {
        Some(true) => ("llama-cvector-generator", vec![OFFSET.to_string()]),
        Some(false) => ("repeng", Vec::new()),
        None => ("an unknown program", Vec::new()),
    };
    Ok(DirectionOrigin {
        family: gguf.string("controlvector.model_hint").unwrap_or("").into(),
        method: layout_of(maker),
        cautions,
        ..DirectionOrigin::default()
    })
}

fn write(direction: &Direction, path: &Path) -> Result<(VectorFiles, String)> {
    let refused = |why: String| Error::Refused {
        address: direction.span(),
        why,
    };
    if direction.origin.anywhere {
        let why = "a control vector belongs to a layer, and no layer is given. Name it: `lmscope vectors FILE --at resid_post.LAYER -o FILE.gguf`.";
        return Err(refused(why.into()));
    }
    let mut rows: BTreeMap<usize, &[f32]> = BTreeMap::new();
    let mut left = Vec::new();
    for (at, vector) in &direction.rows {
        let Some(place) = point_between_blocks(*at) else {
            return Err(refused(format!(
                "a control vector is added to the output of a block, resid_post, and {at} is another place. Write safetensors instead."
            )));
        };
        // The input of block N + 1 is the output of block N. The format cannot hold anything before the output of block 1.
        if place < 2 {
            left.push(at.to_string());
        } else if rows.insert(place - 1, vector).is_some() {
            return Err(refused(format!(
                "two vectors are for the output of block {}. Write only one of them.",
                place - 1
            )));
        }
    }
    if rows.is_empty() {
        return Err(refused(
            "llama.cpp steers the outputs of blocks 1 and later only. Measure at a later layer, or write safetensors.".into(),
        ));
    }
    let origin = serde_json::to_string(&direction.origin)
        .map_err(|e| Error::bad_file(path, e.to_string(), "Choose another file name."))?;
    let hint = match direction.origin.family.as_str() {
        "" => "unknown",
        family => family,
    };
    let metadata = [
        ("general.architecture", MetadataValue::Text("controlvector")),
        ("controlvector.model_hint", MetadataValue::Text(hint)),
        (
            "controlvector.layer_count",
            MetadataValue::U32(rows.len() as u32),
        ),
        (
            "lmscope.convention",
            MetadataValue::Text("direction.N is added to the output of block N, 0-based"),
        ),
        (ORIGIN, MetadataValue::Text(&origin)),
    ];
    let tensors: Vec<(String, &[f32])> = rows
        .into_iter()
        .map(|(layer, vector)| (format!("direction.{layer}"), vector))
        .collect();
    let lost = if left.is_empty() {
        String::new()
    } else {
        format!(
            "{} left out: llama.cpp steers the outputs of blocks 1 and later only",
            left.join(", ")
        )
    };
    Ok((vec![(path.into(), file(&metadata, &tensors))], lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_as_c_reads_them() {
        for (name, layer) in [
            ("direction.7", Some(7)),
            ("direction.07", Some(7)),
            ("direction. +7b.9", Some(7)),
            ("direction.0", None),
            ("direction.-1", None),
            ("direction.", None),
            ("direction.x", None),
            ("direction.99999999999", None),
            ("direction.70000", None),
            ("directions.7", None),
            ("blk.7.attn_q.weight", None),
            ("direction", None),
        ] {
            assert_eq!(layer_of(name).ok(), layer, "{name}");
        }
    }
}
