//! What `probe` is asked, and the lists that it reads.
//!
//! Invariant: both lists are placed by one rule. To add a parameter, add a field.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::instruments::params::{Count, Fraction, choices, params};
use crate::lab::Lab;
use crate::lab::prompt_list::{self, PlacedPrompt, PositionRole};
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
        /// yes: every prompt is one user turn of the chat template
        chat: bool,
        /// where in the block states are read
        site: ProbeSite = "resid_post",
        /// last: the last token; entity: the last token of the entity that the list names; response-mean: the mean over the answer's tokens
        positions: ProbePosition = "last",
        /// the kind of probe that chooses the layer and is saved; the table has both
        method: ProbeKind = "logistic",
        /// the share of each list that is held out, and as much again to choose the layer
        held_out as "held-out": Fraction = "0.2",
        /// how many probes with shuffled labels stand beside them at every layer
        shuffles: Count<0, 100> = "10",
        /// a safetensors file to save the probe of the best layer in, as a direction with a bias
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

impl ProbeParams {
    /// The prompts of both classes, the plus class first.
    pub(super) fn lists(&self, lab: &Lab) -> Result<[Vec<PlacedPrompt>; 2]> {
        let read = |name: &str, path: &Option<PathBuf>| -> Result<Vec<PlacedPrompt>> {
            let path = path
                .as_ref()
                .ok_or_else(|| Error::argument(name, "", "a file of prompts, one a line"))?;
            let prompts = prompt_list::read(path)?.into_iter();
            prompts
                .map(|prompt| prompt.place(lab, self.chat, self.positions.role()))
                .collect()
        };
        let lists = [read("plus", &self.plus)?, read("minus", &self.minus)?];
        let tokens = |i: usize| lists[i].iter().map(|prompt| &prompt.tokens);
        if tokens(0).eq(tokens(1)) {
            let given = self
                .minus
                .as_deref()
                .map_or_else(String::new, |p| p.display().to_string());
            let expected = "another list than that of `plus`: both have the same prompts";
            return Err(Error::argument("minus", given, expected));
        }
        Ok(lists)
    }
}
