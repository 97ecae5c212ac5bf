//! `.npy` and `.npz` files of numpy: a vector, a table with one row for each layer, or several arrays by layer or by name.
//!
//! Invariant: read as in [`super::arrays`]; the format is not written, because it cannot hold where a vector belongs. To read
//! another element type, see `model/checkpoint/numpy.rs`.

use std::path::Path;

use super::{Direction, VectorFiles, VectorFormat, arrays};
use crate::error::{Error, Result};
use crate::model::checkpoint::numpy;

pub(crate) const FORMAT: VectorFormat = VectorFormat {
    name: "numpy arrays",
    extensions: &["npy", "npz"],
    about: "a vector, a table with one row for each layer, or several arrays named after layers or otherwise (FILE#NAME), with a JSON file beside it as for safetensors; read only",
    recognises: |first| first.starts_with(b"\x93NUMPY"),
    read: |path, key| arrays::read(path, numpy::arrays(path)?, key, "array of numpy"),
    write,
};

fn write(direction: &Direction, _: &Path) -> Result<(VectorFiles, String)> {
    Err(Error::Refused {
        address: direction.span(),
        why: "numpy files have no place for the address of a vector and can only be read. Write .safetensors, .gguf or .pt.".into(),
    })
}
