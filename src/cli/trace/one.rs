//! The activations of one prompt in a safetensors file.
//!
//! Invariant: one f32 tensor for each address, named as the address prints and shaped as `lmscope sites` says, and `tokens` as
//! i64; the file is written completely or not at all. To store something else, add a site.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use clap::ArgMatches;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::super::{arguments, output};
use super::wanted::sites;
use crate::error::{Error, Result};
use crate::file;
use crate::lab::Lab;
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::text;

/// Writes the file of one prompt.
pub(super) fn run(matches: &ArgMatches) -> Result<()> {
    let edits = arguments::parse_edits(matches)?;
    let path = arguments::output(matches)?.cloned().unwrap_or_default();
    let mut lab = arguments::open(matches)?;
    if path.extension().is_some_and(|ending| ending == "npz") {
        let expected = "a file name that ends in .safetensors; .npz is for lists (--prompts)";
        return Err(Error::argument("-o", path.display(), expected));
    }
    let wanted = sites(matches, &lab)?;
    let run = arguments::run(matches, &lab, edits)?;
    let (recording, broken) = match lab.record(&run, &wanted) {
        // A user who looks for NaN wants to see it: the file is written, and the exit code reports the error.
        Err(error @ Error::NotFinite { .. }) => {
            let as_is = Pass {
                record: wanted.clone(),
                lenient: true,
                ..Pass::of(run.clone())
            };
            (Arc::new(lab.run_one(&as_is)?), Some(error))
        }
        recording => (recording?, None),
    };
    let receipts = output::measured(&mut lab, &run, &recording.receipts);

    let mut tensors = vec![tokens(&run)];
    for at in &wanted {
        tensors.push(tensor(at.to_string(), recording.get(*at)?)?);
    }
    let about = metadata(&lab, &run, arguments::text(matches, "sites"), &receipts)?;
    file::write(&path, &packed(&path, &tensors, about)?, lab.overwrite)?;
    output::receipts(&receipts);
    let bytes: usize = tensors.iter().map(|t| t.bytes.len()).sum();
    output::note(&format!(
        "{} tensors over {} tokens, {}, in {}",
        wanted.len(),
        run.tokens.len(),
        text::size(bytes as u64),
        path.display()
    ));
    match broken {
        Some(error) => {
            output::note("WARNING: the file holds NaN or infinity.");
            Err(error)
        }
        None => Ok(()),
    }
}

/// A tensor, ready to be written.
struct TracedTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn tokens(run: &Run) -> TracedTensor {
    let bytes = run.tokens.iter().flat_map(|t| i64::from(*t).to_le_bytes());
    TracedTensor {
        name: "tokens".into(),
        dtype: Dtype::I64,
        shape: vec![run.tokens.len()],
        bytes: bytes.collect(),
    }
}

fn tensor(name: String, value: &Tensor) -> Result<TracedTensor> {
    let values = value
        .to_dtype(DType::F32)?
        .flatten_all()?
        .host_vec1::<f32>()?;
    Ok(TracedTensor {
        name,
        dtype: Dtype::F32,
        shape: value.dims().to_vec(),
        bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    })
}

/// The metadata of the file: what the tensors were measured on.
fn metadata(
    lab: &Lab,
    run: &Run,
    sites: &str,
    receipts: &[crate::edit::receipt::Receipt],
) -> Result<HashMap<String, String>> {
    let parameters = vec![
        ("command".to_string(), "trace".to_string()),
        ("sites".to_string(), sites.to_string()),
    ];
    let spell = |json: serde_json::Result<String>| json.map_err(|e| Error::Engine(e.to_string()));
    let provenance = spell(serde_json::to_string(&lab.provenance(run, parameters)))?;
    let receipts = spell(serde_json::to_string(receipts))?;
    Ok(HashMap::from([
        ("lmscope.provenance".to_string(), provenance),
        ("lmscope.receipts".to_string(), receipts),
    ]))
}

/// The bytes of the file; its path is for error messages.
fn packed(
    path: &Path,
    tensors: &[TracedTensor],
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>> {
    let fail = |e: safetensors::SafeTensorError| {
        Error::bad_file(path, e.to_string(), "Ask for fewer sites, or report this.")
    };
    let mut views = Vec::with_capacity(tensors.len());
    for entry in tensors {
        views.push((
            entry.name.as_str(),
            TensorView::new(entry.dtype, entry.shape.clone(), &entry.bytes).map_err(fail)?,
        ));
    }
    safetensors::serialize(views, Some(metadata)).map_err(fail)
}
