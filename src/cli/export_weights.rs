//! `lmscope export-weights`: writes a model whose weights do what edits do.
//!
//! Invariant: what is changed is printed and stands in the folder's manifest; where the result is not the same function as the
//! live edits, a warning says so. To merge another edit, see `lab/merged.rs`.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::{ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::output::PrintedForm;
use super::{Subcommand, arguments, loading, models, output};
use crate::edit::Edit;
use crate::edit::direction::norm;
use crate::error::{Error, Result};
use crate::export::number::significant;
use crate::lab::merged::{MergeSources, MergedDirection, MergedEdits, merge};
use crate::model::checkpoint::changed::arithmetic::ChangeSizes;
use crate::model::checkpoint::changed::copy::CopiedTensor;
use crate::model::checkpoint::changed::stream::StreamPart;
use crate::model::folder_copy::{CopiedFile, FolderCopy, FolderSource, MANIFEST};
use crate::model::hub::resolve;
use crate::text::{self, hexadecimal};

pub const EXPORT_WEIGHTS: Subcommand = Subcommand {
    name: "export-weights",
    about: "Writes a model with edits merged into its weights: directions taken out of everything that writes to the stream (abliteration), neurons and heads silenced, value vectors edited",
    arguments: build,
    run,
};

const MERGED: &str = "Edits that can be merged, at all positions and without a condition:
  project_out:DIRECTION@writes       every matrix that writes to the stream is made orthogonal to the direction
  project_out or scale_along at attn_out.L, mlp_out.L
  zero or scale of neurons (mlp_act.L) and heads (z.L)
  rewrite@mlp_act.L                  value vectors turned to another token, as edit-value makes them
Others are refused with the reason. The folder has the layout of the one that was read, and a manifest, lmscope_export.json.";

const COLUMNS: &[&str] = &["part", "tensors", "norm", "change", "rounding"];

fn build(command: Command) -> Command {
    let output = arguments::value(
        "output",
        "FOLDER",
        "The folder to write; with --force one that export-weights has written is replaced",
    );
    let edits = arguments::value(
        "edit",
        "EDIT",
        "An edit to merge, for example project_out:refusal.safetensors@writes; may be repeated",
    );
    models::format(arguments::model(command))
        .arg(edits.action(clap::ArgAction::Append))
        .arg(arguments::preset())
        .arg(
            output
                .short('o')
                .required(true)
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(super::switch(
            "force",
            "Replaces the folder if export-weights has written it",
        ))
        .after_help(MERGED)
}

fn run(matches: &ArgMatches) -> Result<()> {
    let target = matches.get_one::<PathBuf>("output");
    let target = target.cloned().unwrap_or_default();
    let edits = arguments::parse_edits(matches)?;
    let given = arguments::model_name(matches);
    let (source, interrupt) = loading::watched(|watch| {
        let source = resolve(given, watch)?;
        watch.reading(given);
        FolderSource::open(given, source)
    })?;
    let overwrite = arguments::overwrite(matches);
    source.check_target(&target, overwrite)?;
    let merged = merge(
        &edits,
        MergeSources {
            card: &source.card,
            output_gain: &|part| source.output_gain(part),
            open: &mut || arguments::open(matches),
        },
    )?;
    for caution in &merged.cautions {
        output::note(&format!("WARNING: {caution}."));
    }
    let active: Vec<&Edit> = edits.iter().filter(|edit| edit.active()).collect();
    let manifest = |copy: &FolderCopy| manifest(&source, &active, &merged, copy);
    let total = source.length().max(1);
    let shows = output::stderr_is_terminal();
    let mut watch = |done: u64| {
        if interrupt.requested.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if shows {
            let share = 100.0 * done as f64 / total as f64;
            output::status(&format!("export-weights {:3.0} %", share.min(100.0)));
        }
        Ok(())
    };
    let copied = source.copy(&merged.changes, (&target, overwrite), &manifest, &mut watch);
    if shows {
        output::clear_status();
    }
    let copy = copied?;
    match models::form(matches) {
        PrintedForm::Text => output::listing(COLUMNS, &rows(&copy), PrintedForm::Text)?,
        form @ (PrintedForm::Json | PrintedForm::Csv) => {
            output::document(&manifest(&copy), "tensors", form)?;
        }
    }
    if copy.untied {
        output::note(
            "embedding and unembedding shared one tensor and are two now, so that the unembedding stays as it was: tie_word_embeddings is false in the new config.json.",
        );
    }
    if !copy.left_out.is_empty() {
        output::note(&format!(
            "left out, because it would hold other weights or is no file of the model: {}.",
            copy.left_out.join(", ")
        ));
    }
    let bytes: u64 = copy.files.iter().map(|file| file.bytes).sum();
    let folder = target.display();
    output::note(&format!(
        "{folder}: {} changed, {} in {} files; what was done stands in {MANIFEST}. Open it as `lmscope {folder}`.",
        text::counted(changed(&copy).count(), "tensor"),
        text::size(bytes),
        copy.files.len() + 1,
    ));
    Ok(())
}

/// The changed tensors, each with its file and the part of the model that it belongs to.
fn changed(copy: &FolderCopy) -> impl Iterator<Item = &(CopiedTensor, String, Option<StreamPart>)> {
    copy.tensors.iter().filter(|(t, ..)| t.sizes.is_some())
}

/// A row for each part of the model: how much its tensors changed together.
fn rows(copy: &FolderCopy) -> Vec<Vec<Value>> {
    let mut parts: Vec<StreamPart> = changed(copy).filter_map(|(.., part)| *part).collect();
    parts.sort_unstable();
    parts.dedup();
    let row = |part: StreamPart| {
        let own: Vec<_> = changed(copy)
            .filter(|(.., of)| *of == Some(part))
            .filter_map(|(t, ..)| t.sizes)
            .collect();
        let root = |squares: f64| Value::String(significant(squares.sqrt() as f32));
        let sum = |of: fn(&ChangeSizes) -> f64| root(own.iter().map(|s| of(s) * of(s)).sum());
        vec![
            json!(part.label()),
            json!(own.len()),
            sum(|s| s.before),
            sum(|s| s.change),
            sum(|s| s.rounding),
        ]
    };
    parts.into_iter().map(row).collect()
}

/// What was done, for the folder's manifest.
fn manifest(
    source: &FolderSource,
    edits: &[&Edit],
    merged: &MergedEdits,
    copy: &FolderCopy,
) -> Value {
    let direction = |own: &MergedDirection| {
        let mut digest = Sha256::new();
        own.vector
            .iter()
            .for_each(|x| digest.update(x.to_le_bytes()));
        json!({
            "name": own.name, "method": own.method, "measured_at": own.measured_at, "norm": norm(&own.vector),
            "sha256_of_f32": hexadecimal(&digest.finalize()),
        })
    };
    let tensor = |(own, file, part): &(CopiedTensor, String, Option<StreamPart>)| {
        let mut row = json!({
            "name": own.name, "file": file, "dtype": format!("{:?}", own.dtype), "shape": own.shape,
            "part": part.map(StreamPart::label),
        });
        match own.sizes {
            Some(sizes) => {
                row["norm"] = json!(sizes.before);
                row["change"] = json!(sizes.change);
                row["rounding"] = json!(sizes.rounding);
            }
            None => row["copy_of"] = json!("the embedding, as it was"),
        }
        row
    };
    let file = |own: &CopiedFile| {
        json!({
            "name": own.name, "bytes": own.bytes, "sha256": own.sha256,
            "source_sha256": own.source_sha256, "as_it_was": own.sha256 == own.source_sha256,
        })
    };
    json!({
        "format": 1,
        "made_by": format!("lmscope {}", env!("CARGO_PKG_VERSION")),
        "source": {
            "model": source.card.name, "family": source.card.family, "revision": source.card.revision,
            "commit": source.commit, "manifest": copy.source_manifest,
        },
        "edits": edits.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "directions": merged.directions.iter().map(direction).collect::<Vec<_>>(),
        "same_as_live_edits": merged.cautions.is_empty(),
        "cautions": merged.cautions,
        "untied": copy.untied,
        "about_tensors": "norm, change and rounding are Euclidean norms over all numbers of a tensor: before, of what was written minus that, and of what rounding to the stored dtype added; sums are in f64",
        "tensors": copy.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "files": copy.files.iter().map(file).collect::<Vec<_>>(),
        "left_out": copy.left_out,
    })
}
