//! The parameters of `relation`.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::instruments::params::{Count, ParamKind, ParameterValue, choices, params};

choices! {
    /// What the figure shows.
    pub enum RelationView {
        Faithfulness = "faithfulness",
        Subjects = "subjects",
        Layers = "layers",
        Betas = "betas",
        Causality = "causality",
        EditLayers = "edit-layers",
        EditRanks = "edit-ranks",
    }
}

impl RelationView {
    /// Whether it needs runs under edits.
    pub(super) fn is_about_edits(self) -> bool {
        match self {
            Self::Causality | Self::EditLayers | Self::EditRanks => true,
            Self::Faithfulness | Self::Subjects | Self::Layers | Self::Betas => false,
        }
    }
}

choices! {
    /// Whether the examples are shown before every question.
    pub enum RelationShots { Few = "few-shot", Zero = "zero-shot" }
}

/// A block. It is no [`ParamKind::Layer`], which the screen sets to the layer under the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerChoice {
    /// The best one on the training pairs.
    Chosen,
    Given(usize),
}

impl LayerChoice {
    /// The block, checked against the number of layers; none where it is to be chosen.
    ///
    /// # Errors
    ///
    /// When the model has no such layer.
    pub fn within(self, name: &str, layers: usize) -> Result<Option<usize>> {
        match self {
            Self::Chosen => Ok(None),
            Self::Given(layer) if layer < layers => Ok(Some(layer)),
            Self::Given(layer) => {
                let expected = format!("`chosen` or a layer from 0 to {}", layers - 1);
                Err(Error::argument(name, layer, expected))
            }
        }
    }
}

impl ParameterValue for LayerChoice {
    const KIND: ParamKind = ParamKind::Word(&["chosen"]);

    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text == "chosen" {
            return Ok(Self::Chosen);
        }
        let number = text.trim().parse().map(Self::Given);
        number.map_err(|_| "`chosen` or the number of a layer".into())
    }

    fn print(&self) -> String {
        match self {
            Self::Chosen => "chosen".into(),
            Self::Given(layer) => layer.to_string(),
        }
    }
}

/// The scale of `W s`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BetaChoice {
    /// The best one on the training pairs.
    Chosen,
    Given(f64),
}

impl ParameterValue for BetaChoice {
    const KIND: ParamKind = ParamKind::Word(&["chosen", "1", "2.25"]);

    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text == "chosen" {
            return Ok(Self::Chosen);
        }
        let number = text.trim().parse::<f64>().ok();
        let number = number.filter(|n| n.is_finite() && *n > 0.0);
        number
            .map(Self::Given)
            .ok_or_else(|| "`chosen` or a number above 0".into())
    }

    fn print(&self) -> String {
        match self {
            Self::Chosen => "chosen".into(),
            Self::Given(beta) => beta.to_string(),
        }
    }
}

/// The rank of the inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankChoice {
    /// The best one on the training pairs.
    Chosen,
    Given(usize),
}

impl ParameterValue for RankChoice {
    const KIND: ParamKind = ParamKind::Word(&["chosen", "8", "64"]);

    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text == "chosen" {
            return Ok(Self::Chosen);
        }
        let number = text.trim().parse().ok().filter(|n| *n > 0);
        number
            .map(Self::Given)
            .ok_or_else(|| "`chosen` or a whole number above 0".into())
    }

    fn print(&self) -> String {
        match self {
            Self::Chosen => "chosen".into(),
            Self::Given(rank) => rank.to_string(),
        }
    }
}

params! {
    /// What `relation` is asked.
    pub struct RelationParams {
        /// a file with the relation: JSON with name, prompt_templates and samples of subject and object
        relation: Option<PathBuf>,
        /// a saved map that is judged instead of making one; its own pairs are not held out
        map: Option<PathBuf>,
        /// how many pairs the map is made from
        examples: Count<2, 64> = "8",
        /// how many other subjects it is judged on, at most
        held_out as "held-out": Count<1, 4096> = "64",
        /// few-shot: the other pairs stand before every question; zero-shot: the question alone
        prompts: RelationShots = "few-shot",
        /// which template of the file, from 0
        template: Count<0, 64> = "0",
        /// the block after which the subject's state is read, or `chosen` on the training pairs
        layer: LayerChoice = "chosen",
        /// the scale of W s, or `chosen` on the training pairs
        beta: BetaChoice = "chosen",
        /// the block after which the edit changes the state, or `chosen` on the training pairs
        edit_layer as "edit-layer": LayerChoice = "chosen",
        /// the rank of the inverse of W, or `chosen` on the training pairs
        rank: RankChoice = "chosen",
        /// faithfulness: the map beside its baselines; subjects: what model and map say of each; layers, betas: the curves of the choice; causality: the edit beside its controls; edit-layers, edit-ranks: the curves of that choice
        show: RelationView = "faithfulness",
        /// a file for the map, to be used by edits (relate) and by attribute-lens
        save: Option<PathBuf>,
    }
}
