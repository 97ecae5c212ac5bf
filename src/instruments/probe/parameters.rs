//! What `probe` is asked, and the lists that it reads.
//!
//! Invariant: all lists are placed by one rule. To add a parameter, add a field.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::instruments::params::{Count, Fraction, choices, params};
use crate::lab::Lab;
use crate::lab::prompt_list::{self, ListedPrompt, PlacedPrompt, PositionRole};
use crate::model::network::site::{Address, Site};

choices! {
    /// The kind of probe that chooses the layer and is saved.
    pub enum ProbeKind { Logistic = "logistic", MassMean = "mass-mean" }
}

choices! {
    /// Where states are read.
    pub enum ProbeSite { Post = "resid_post", Pre = "resid_pre", Attention = "attn_out", Mlp = "mlp_out" }
}

choices! {
    /// Which position of a prompt is read.
    pub enum ProbePosition { Last = "last", Entity = "entity", Response = "response-mean" }
}

params! {
    /// What `probe` is asked.
    pub struct ProbeParams {
        /// a list of prompts of the one class: one a line, or .tsv, .json, .jsonl as for `trace`
        plus: Option<PathBuf>,
        /// a list of prompts of the other class
        minus: Option<PathBuf>,
        /// instead of both, three classes or more: a list each with commas between, or one list whose prompts have a label
        classes: Option<String>,
        /// yes: every prompt is one user turn of the chat template
        chat: bool,
        /// where in the block states are read
        site: ProbeSite = "resid_post",
        /// last: the last token; entity: the last token of the entity that the list names; response-mean: the mean over the answer's tokens
        positions: ProbePosition = "last",
        /// how many positions are probed: that one, and those before it
        back: Count<1, 64> = "1",
        /// the kind of probe that chooses the layer and is saved; the table has both
        method: ProbeKind = "logistic",
        /// the share of each list that is held out, and as much again to choose the layer
        held_out as "held-out": Fraction = "0.2",
        /// how many probes with shuffled labels stand beside them at every layer
        shuffles: Count<0, 100> = "10",
        /// a safetensors file to save the best probe in, as a direction with a bias; of three classes or more, a file for each with its name in the file's
        save: Option<PathBuf>,
    }
}

impl ProbeSite {
    pub(super) fn at(self, layer: usize) -> Address {
        self.site().at(layer)
    }

    pub(super) fn name(self) -> &'static str {
        self.site().spec().name
    }

    fn site(self) -> Site {
        match self {
            Self::Post => Site::ResidPost,
            Self::Pre => Site::ResidPre,
            Self::Attention => Site::AttnOut,
            Self::Mlp => Site::MlpOut,
        }
    }
}

impl ProbePosition {
    pub(super) fn role(self) -> PositionRole {
        match self {
            Self::Last => PositionRole::Last,
            Self::Entity => PositionRole::Entity,
            Self::Response => PositionRole::ResponseMean,
        }
    }

    pub(super) fn name(self) -> &'static str {
        self.role().name()
    }
}

/// The prompts of a class.
pub(super) struct ProbeClass {
    pub name: String,
    pub prompts: Vec<PlacedPrompt>,
    /// How many were left out because they stood there before.
    pub twice: usize,
}

impl ProbeParams {
    /// The classes with their prompts: of two lists the plus class first.
    pub(super) fn classes(&self, lab: &Lab) -> Result<Vec<ProbeClass>> {
        let named = match &self.classes {
            Some(_) if self.plus.is_some() || self.minus.is_some() => {
                let expected = "either `classes`, or `plus` and `minus`";
                return Err(Error::argument("classes", "both", expected));
            }
            Some(classes) => named(classes)?,
            None => {
                let read = |name: &str, path: &Option<PathBuf>| -> Result<_> {
                    let path = path.as_ref().ok_or_else(|| {
                        Error::argument(name, "", "a file of prompts, one a line")
                    })?;
                    Ok((name.to_string(), prompt_list::read(path)?))
                };
                vec![read("plus", &self.plus)?, read("minus", &self.minus)?]
            }
        };
        let role = self.positions.role();
        let placed = |(name, prompts): (String, Vec<ListedPrompt>)| {
            let prompts = prompts.into_iter();
            let prompts = prompts.map(|prompt| prompt.place(lab, self.chat, role));
            let mut prompts: Vec<PlacedPrompt> = prompts.collect::<Result<_>>()?;
            let all = prompts.len();
            // A prompt that a probe is made from does not judge it, nor does its double.
            let mut seen = HashSet::new();
            prompts.retain(|prompt| seen.insert(prompt.tokens.clone()));
            Ok(ProbeClass {
                name,
                twice: all - prompts.len(),
                prompts,
            })
        };
        let classes: Vec<ProbeClass> = named.into_iter().map(placed).collect::<Result<_>>()?;
        let tokens = |class: &ProbeClass| -> Vec<Vec<u32>> {
            class.prompts.iter().map(|p| p.tokens.clone()).collect()
        };
        for (i, class) in classes.iter().enumerate() {
            if let Some(other) = classes[..i].iter().find(|own| tokens(own) == tokens(class)) {
                let expected = format!(
                    "another list than that of `{}`: both have the same prompts",
                    other.name
                );
                let name = self.classes.as_ref().map_or("minus", |_| "classes");
                return Err(Error::argument(name, &class.name, expected));
            }
        }
        self.check_back(&classes)?;
        Ok(classes)
    }

    /// Every prompt must have so many positions up to that which is named.
    fn check_back(&self, classes: &[ProbeClass]) -> Result<()> {
        if self.back.0 > 1 && self.positions == ProbePosition::Response {
            let expected = "1: of a response the mean over all of its positions is read";
            return Err(Error::argument("back", self.back.0, expected));
        }
        let least = classes
            .iter()
            .flat_map(|class| &class.prompts)
            .map(|p| p.positions.end);
        match least.min() {
            Some(least) if least < self.back.0 => {
                let expected = format!(
                    "at most {least}, for one of the prompts has no more tokens up to there"
                );
                Err(Error::argument("back", self.back.0, expected))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The lists of `classes` by name: files, or one file whose prompts have labels.
fn named(classes: &str) -> Result<Vec<(String, Vec<ListedPrompt>)>> {
    let files = classes.split(',').map(str::trim).filter(|f| !f.is_empty());
    let files: Vec<PathBuf> = files.map(PathBuf::from).collect();
    let wrong = |expected: &str| Err(Error::argument("classes", classes, expected));
    let mut out: Vec<(String, Vec<ListedPrompt>)> = Vec::new();
    if let [one] = files.as_slice() {
        for prompt in prompt_list::read(one)? {
            let Some(label) = prompt.label.clone() else {
                return wrong(
                    "a list whose every prompt has a `label`, or several lists with commas between",
                );
            };
            match out.iter_mut().find(|(name, _)| *name == label) {
                Some((_, prompts)) => prompts.push(prompt),
                None => out.push((label, vec![prompt])),
            }
        }
    } else {
        for file in &files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            if out.iter().any(|(other, _)| *other == name) {
                return wrong("files of different names, because a class is called as its file");
            }
            out.push((name.into_owned(), prompt_list::read(file)?));
        }
    }
    if out.len() < 2 {
        return wrong("two classes or more");
    }
    Ok(out)
}
