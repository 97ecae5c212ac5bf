//! The activations of a list of prompts in a file of arrays, written a few prompts at a time.
//!
//! Invariant: the file appears under its name when it is complete. Until then its rows are in `FILE.unfinished`, and
//! `FILE.unfinished.json` says how many there are and of which command, which goes on from there; another command begins anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::{arguments, output};
use super::wanted::sites;
use crate::error::{Error, Result};
use crate::file::{self, Overwrite, beside};
use crate::lab::Lab;
use crate::lab::prompt_list::{self, PlacedPrompt, PositionRole, in_list};
use crate::lab::prompt_values::{check, each, values};
use crate::lab::run::Run;
use crate::model::Fingerprint;
use crate::model::checkpoint::array_file::{ArrayFile, ArrayKind, ArraySpec, Container};
use crate::model::network::site::Address;
use crate::text::{self, grouped};

/// How far an unfinished file is.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Unfinished {
    /// A digest of everything that the rows depend on.
    key: String,
    /// How many prompts are in it.
    prompts: usize,
}

/// A list of prompts, ready to be read.
struct PromptRows {
    prompts: Vec<PlacedPrompt>,
    role: PositionRole,
    /// The class of each prompt, and their names; empty without labels.
    labels: Vec<usize>,
    /// What the reader calls each prompt, where it is called something.
    ids: Vec<Option<String>>,
    names: Vec<String>,
    /// The tokens of the longest prompt.
    longest: usize,
}

pub(super) fn run(matches: &ArgMatches) -> Result<()> {
    let edits = arguments::parse_edits(matches)?;
    let path = arguments::output(matches)?.cloned().unwrap_or_default();
    let container = Container::of(&path)?;
    if file::is_pipe(&path) {
        let expected =
            "the name of a file: rows are written where they belong, which a pipe has not";
        return Err(Error::argument("-o", path.display(), expected));
    }
    let mut lab = arguments::open(matches)?;
    let wanted = sites(matches, &lab)?;
    wanted.iter().try_for_each(|at| check(&lab, *at))?;
    let rows = PromptRows::read(matches, &lab)?;
    let run = Run {
        schedule: arguments::schedule(edits, &lab)?,
        seed: arguments::seed(matches),
        ..Run::default()
    };
    let parameters = rows.parameters(matches);
    let key = format!("{:016x}", lab.sweep_key(&run, parameters.clone())?);
    let metadata = rows.metadata(&lab, &run, parameters)?;
    let arrays = rows.arrays(&lab, &wanted);
    let bytes: u64 = arrays.iter().map(ArraySpec::bytes).sum();
    let tokens: usize = rows.prompts.iter().map(|prompt| prompt.tokens.len()).sum();
    output::note(&format!(
        "{} prompts, {} tokens, {} address{}: {}",
        grouped(rows.prompts.len()),
        grouped(tokens),
        wanted.len(),
        if wanted.len() == 1 { "" } else { "es" },
        text::size(bytes)
    ));
    let (part, ledger) = (
        beside(&path, "unfinished"),
        beside(&path, "unfinished.json"),
    );
    let done = begun(&part, &ledger, &key);
    if done > 0 {
        output::note(&format!("going on behind prompt {done}"));
    } else if ledger.exists() {
        output::note(&format!(
            "{} is of another command, and is begun anew",
            part.display()
        ));
        // Before the rows are gone: a ledger that outlives them would have that command go on behind rows that are not there.
        std::fs::remove_file(&ledger).map_err(|error| Error::io(&ledger, error))?;
    }
    let file = ArrayFile::begin(&part, container, arrays, &metadata, done > 0)?;
    rows.write_known(&file)?;
    let mut finished = done;
    let read = arguments::showing_progress(&mut lab, "trace", |lab| {
        each(
            lab,
            &rows.prompts,
            &wanted,
            &run.schedule,
            done,
            |own, captures| {
                for (i, capture) in own.clone().zip(captures) {
                    for (array, at) in wanted.iter().enumerate() {
                        let values = values(capture, *at, &rows.prompts[i], rows.role)?;
                        let width = values.len() / rows.prompts[i].rows(rows.role);
                        let row = i * rows.rows_each() * width;
                        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                        file.write(array + rows.known(), row, &bytes)?;
                    }
                }
                finished = own.end;
                let so_far = Unfinished {
                    key: key.clone(),
                    prompts: finished,
                };
                let so_far =
                    serde_json::to_vec(&so_far).map_err(|e| Error::Engine(e.to_string()))?;
                file::write(&ledger, &so_far, Overwrite::Allowed)
            },
        )
    });
    let receipts = match read {
        Err(Error::Cancelled) => {
            let all = rows.prompts.len();
            output::note(&format!(
                "stopped after {finished} of {all} prompts; the same command continues from there"
            ));
            return Err(Error::Cancelled);
        }
        read => read?,
    };
    file.finish()?;
    file::move_to(&part, &path, lab.overwrite)?;
    let _absent = std::fs::remove_file(&ledger);
    output::receipts(&receipts);
    output::note(&format!("{} in {}", text::size(bytes), path.display()));
    Ok(())
}

/// How many prompts an unfinished file holds of this command.
fn begun(part: &Path, ledger: &Path, key: &str) -> usize {
    let kept = std::fs::read(ledger).ok().filter(|_| part.is_file());
    let kept = kept.and_then(|bytes| serde_json::from_slice::<Unfinished>(&bytes).ok());
    kept.filter(|kept| kept.key == key)
        .map_or(0, |kept| kept.prompts)
}

impl PlacedPrompt {
    /// How many rows a role takes of it.
    fn rows(&self, role: PositionRole) -> usize {
        match role {
            PositionRole::All => self.positions.len(),
            PositionRole::Last | PositionRole::Entity | PositionRole::ResponseMean => 1,
        }
    }
}

impl PromptRows {
    fn read(matches: &ArgMatches, lab: &Lab) -> Result<Self> {
        let files: Vec<&PathBuf> = matches.get_many("prompts").into_iter().flatten().collect();
        let role = PositionRole::named(arguments::text(matches, "positions"))
            .unwrap_or(PositionRole::Last);
        let chat = arguments::chat(matches);
        let (mut prompts, mut labels, mut names) = (Vec::new(), Vec::new(), Vec::<String>::new());
        let mut ids = Vec::new();
        for (number, file) in files.iter().enumerate() {
            if files[..number].contains(file) {
                let expected = "each list once: the class of a prompt is its list";
                return Err(Error::argument("--prompts", file.display(), expected));
            }
            for (i, prompt) in prompt_list::read(file)?.iter().enumerate() {
                let placed = prompt.place(lab, chat, role);
                prompts.push(placed.map_err(|error| in_list(file, i, error))?);
                ids.push(prompt.id.clone());
                let label = match &prompt.label {
                    Some(label) => label.clone(),
                    None if files.len() > 1 => arguments::file_name(file),
                    None => String::new(),
                };
                let known = names.iter().position(|name| *name == label);
                labels.push(known.unwrap_or(names.len()));
                if known.is_none() {
                    names.push(label);
                }
            }
        }
        if let [only] = names.as_slice()
            && only.is_empty()
        {
            (labels, names) = (Vec::new(), Vec::new());
        }
        let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max();
        Ok(Self {
            prompts,
            role,
            labels,
            names,
            ids,
            longest: longest.unwrap_or(0),
        })
    }

    /// How many arrays stand before those of the addresses.
    fn known(&self) -> usize {
        2 + usize::from(!self.labels.is_empty()) + 1
    }

    /// How many rows of an address a prompt has.
    fn rows_each(&self) -> usize {
        match self.role {
            PositionRole::All => self.longest,
            PositionRole::Last | PositionRole::Entity | PositionRole::ResponseMean => 1,
        }
    }

    fn arrays(&self, lab: &Lab, wanted: &[Address]) -> Vec<ArraySpec> {
        let count = self.prompts.len();
        let of = |name: &str, kind, shape: &[usize]| ArraySpec::new(name, kind, shape);
        let mut arrays = vec![
            of("tokens", ArrayKind::I64, &[count, self.longest]),
            of("positions", ArrayKind::I64, &[count, 2]),
        ];
        if !self.labels.is_empty() {
            arrays.push(of("labels", ArrayKind::I64, &[count]));
        }
        arrays.push(of("mask", ArrayKind::Bool, &[count, self.longest]));
        arrays.extend(wanted.iter().map(|at| {
            let width = lab.model.width(at.site);
            let shape = match self.role {
                PositionRole::All => vec![count, self.longest, width],
                PositionRole::Last | PositionRole::Entity | PositionRole::ResponseMean => {
                    vec![count, width]
                }
            };
            of(&at.to_string(), ArrayKind::F32, &shape)
        }));
        arrays
    }

    /// Writes what is known before anything is read: tokens, positions, labels, masks.
    fn write_known(&self, file: &ArrayFile) -> Result<()> {
        let whole = |numbers: &[i64]| {
            numbers
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        for (i, prompt) in self.prompts.iter().enumerate() {
            let mut tokens: Vec<i64> = prompt.tokens.iter().map(|t| i64::from(*t)).collect();
            let mut mask = vec![1u8; tokens.len()];
            tokens.resize(self.longest, -1);
            mask.resize(self.longest, 0);
            file.write(0, i * self.longest, &whole(&tokens))?;
            let span = [prompt.positions.start as i64, prompt.positions.end as i64];
            file.write(1, 2 * i, &whole(&span))?;
            file.write(self.known() - 1, i * self.longest, &mask)?;
        }
        if !self.labels.is_empty() {
            let labels: Vec<i64> = self.labels.iter().map(|label| *label as i64).collect();
            file.write(2, 0, &whole(&labels))?;
        }
        Ok(())
    }

    /// What the rows depend on beside the model and the edits.
    fn parameters(&self, matches: &ArgMatches) -> Vec<(String, String)> {
        let mut digest = Fingerprint::default();
        for prompt in &self.prompts {
            let numbers = [
                prompt.positions.start,
                prompt.positions.end,
                prompt.tokens.len(),
            ];
            numbers
                .iter()
                .for_each(|n| digest.write(&(*n as u64).to_le_bytes()));
            prompt
                .tokens
                .iter()
                .for_each(|t| digest.write(&t.to_le_bytes()));
        }
        self.labels
            .iter()
            .for_each(|label| digest.write(&(*label as u64).to_le_bytes()));
        let line = |name: &str, value: &str| (name.to_string(), value.to_string());
        let mut lines = vec![
            line("command", "trace"),
            line("sites", arguments::text(matches, "sites")),
            line("positions", self.role.name()),
        ];
        let files = matches.get_many::<PathBuf>("prompts").into_iter().flatten();
        lines.extend(files.map(|file| line("prompts", &file.display().to_string())));
        lines.push(line("count", &self.prompts.len().to_string()));
        lines.push(line("digest", &format!("{:016x}", digest.finish())));
        lines
    }

    fn metadata(
        &self,
        lab: &Lab,
        run: &Run,
        parameters: Vec<(String, String)>,
    ) -> Result<BTreeMap<String, String>> {
        let provenance = serde_json::to_string(&lab.provenance(run, parameters));
        let provenance = provenance.map_err(|e| Error::Engine(e.to_string()))?;
        let mut metadata = BTreeMap::from([("lmscope.provenance".to_string(), provenance)]);
        if !self.names.is_empty() {
            metadata.insert("lmscope.labels".into(), json!(self.names).to_string());
        }
        if self.ids.iter().any(Option::is_some) {
            metadata.insert("lmscope.ids".into(), json!(self.ids).to_string());
        }
        Ok(metadata)
    }
}
