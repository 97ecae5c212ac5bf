//! The parameters of a Patchscope, and the types that only they have.
//!
//! Invariant: everything that can be checked without a model is checked here; the number of layers comes in with `within`. To
//! add a parameter, add a field to [`PatchscopeParams`].

use std::path::{Path, PathBuf};

use super::placeholders::PlaceholderChoice;
use super::templates::{self, PatchscopeTemplate};
use crate::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::figure::Body;
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, PromptPlace, RowOrder, table_of,
};
use crate::instruments::over_prompts::parameters::{
    ListView, PromptPositions, PromptsAsked, PromptsFile,
};
use crate::instruments::params::{Count, NonNegative, ParamKind, ParameterValue, choices, params};
use crate::model::network::site::Site;

/// A layer, or -1 for the embedding.
pub type LayerOrEmbedding = i32;

/// The source layer and the target layer of a patch.
pub type LayerPair = (LayerOrEmbedding, LayerOrEmbedding);

choices! {
    /// What the figure shows.
    pub enum PatchscopeView { Table = "table", Grid = "grid", Curves = "curves", Items = "items" }
}

choices! {
    /// Which controls are decoded as well.
    pub enum ControlSources { Matched = "matched", Unrelated = "unrelated" | "beside", Both = "both", No = "no" }
}

choices! {
    for PlaceholderChoice { Last = "last", All = "all", Each = "each" }
}

choices! {
    /// Sites of residual width from which states are taken and which they overwrite.
    pub enum StateSite {
        ResidPost = "resid_post",
        ResidMid = "resid_mid",
        ResidPre = "resid_pre",
        AttnOut = "attn_out",
        AttnAdd = "attn_add",
        MlpOut = "mlp_out",
        MlpAdd = "mlp_add",
    }
}

impl StateSite {
    pub fn site(self) -> Site {
        match self {
            Self::ResidPost => Site::ResidPost,
            Self::ResidMid => Site::ResidMid,
            Self::ResidPre => Site::ResidPre,
            Self::AttnOut => Site::AttnOut,
            Self::AttnAdd => Site::AttnAdd,
            Self::MlpOut => Site::MlpOut,
            Self::MlpAdd => Site::MlpAdd,
        }
    }
}

params! {
    /// What `patchscope` is asked.
    pub struct PatchscopeParams {
        /// the target prompt: the name of a built-in one, or of yours in the library or in templates.toml of the config folder
        template: TemplateName = "description",
        /// source layers: all, 3, 2-5, 0,4,8; -1 is the embedding
        layer: LayerSpans = "all",
        /// source position; also a span A..B (with placeholders=each) or token:" text"
        position: SourcePosition = "-1",
        /// target layers: same (as the source), same+2, same-1, all, 3, 2-5; -1 is the embedding
        target: TargetLayers = "same",
        /// table: the continuation at every layer; grid: source by target layers, coloured by the first token's probability; curves: the same over source layers; items: one row for each subject of `attributes`
        show: PatchscopeView = "table",
        /// how many tokens to generate
        tokens: Count<1, 200> = "12",
        /// texts separated by |, in quotes or not, or ids such as #17; shown is the probability that the continuation begins with one of their first tokens
        answers: Option<String>,
        /// which occurrences of the placeholder are overwritten: last; all: each with the same state; each: each with the state of one of several source tokens
        placeholders was "slots": PlaceholderChoice = "last",
        /// a target prompt of your own, instead of the template
        prompt: Option<String>,
        /// the placeholder: the text in the target prompt whose last token is overwritten; a template has its own, mostly x
        placeholder was "slot": Option<String>,
        /// the controls: matched: the state of the same prompt with noise on the entity; unrelated: the state of an unrelated text (for a list of subjects always those of the others)
        control was "null": ControlSources = "matched",
        /// the text whose embeddings get noise for the matched control (last occurrence; 3 standard deviations of its own embeddings); by default the word at the source position, or, at the end of a prompt, an earlier word on which the prediction there depends, where the last word alone does not decode to the same
        entity: Option<String>,
        /// how the source state is mapped to the target layer: identity; norm (scaled to the norm of what it replaces); a .safetensors file of affine maps; or a text file to fit affine maps on
        map: MapChoice = "identity",
        /// ridge penalty of fitted maps, in units of the mean square of a coordinate; it pulls them towards the identity
        ridge: NonNegative = "0.01",
        /// a .safetensors file to save the fitted maps in
        save: Option<PathBuf>,
        /// a source prompt instead of the run's own text, or @FILE for a file with one a line; read without edits
        from: SourceTexts,
        /// yes: every source prompt is one user turn of the chat template; the target prompt stays as it is
        chat: bool,
        /// the site of the source states
        site: StateSite = "resid_post",
        /// the site that is overwritten
        into: StateSite = "resid_post",
        /// a file of subjects and answers (TSV or JSON); shown is the share of subjects whose answer appears in the continuation, by layer
        attributes: Option<PathBuf>,
        /// a TOML file of templates: [[template]] with name, prompt, placeholder and about
        library: Option<PathBuf>,
        prompts: PromptsFile,
        at: PromptPositions,
        list: ListView,
    }
}

impl PatchscopeParams {
    /// How it takes lists of prompts.
    pub(super) const OVER_PROMPTS: OverPrompts<Self> = OverPrompts {
        asked: |params| PromptsAsked {
            file: params.prompts.0.clone(),
            at: params.at.clone(),
            view: params.list,
            rows: 0,
            chat: params.chat,
        },
        alone: Self::alone,
        numbers: Self::numbers,
        note: "p answers: the probability that the continuation begins with the answer, p matched and p unrelated: the same of the controls; p first: of its first token; ‖h‖ ratio: norm of the source state over the norm of what it replaced",
        order: |_| RowOrder::AsMeasured,
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    };

    /// The same about one prompt of a list.
    fn alone(&self, place: &PromptPlace) -> Result<Self> {
        if !self.of_the_run() {
            let expected = "either a list of prompts, or `from` or `attributes`";
            let file = self.prompts.print();
            return Err(Error::argument("prompts", file, expected));
        }
        if self.show != PatchscopeView::Table {
            let expected = "table with a list";
            return Err(Error::argument("show", self.show.print(), expected));
        }
        // The entity is that of the state only where the state is the entity's.
        let entity = place.entity.clone();
        Ok(Self {
            position: SourcePosition(Positions::Span(place.position, place.position + 1)),
            answers: place.token(self.answers.as_ref()),
            entity: self.entity.clone().or(entity),
            ..self.clone()
        })
    }

    /// The numbers of every pair of layers.
    fn numbers(&self, body: &Body, _place: &PromptPlace) -> Result<PromptNumbers> {
        let table = table_of(body)?;
        let named = |name: &&str| NUMBERS.iter().position(|own| own == name);
        let names = table.columns.iter().map(String::as_str);
        let mut names: Vec<&str> = names.filter(|name| named(name).is_some()).collect();
        names.sort_by_key(named);
        let mut found = PromptNumbers::of_table(body, "layer", &names, |_| true)?;
        let rows = table.pages.iter().flat_map(|page| &page.rows);
        for (own, row) in found.rows.iter_mut().zip(rows) {
            if let Some(into) = row.entries.get(1).filter(|into| **into != row.entries[0]) {
                own.label = format!("{} into {}", own.label.exact(), into.exact()).into();
            }
        }
        Ok(found)
    }
}

/// The columns of the table that are numbers, those of answers first.
const NUMBERS: [&str; 5] = [
    "p answers",
    "p matched",
    "p unrelated",
    "p first",
    "‖h‖ ratio",
];

impl PatchscopeParams {
    /// Whether the states come from the run itself.
    pub(super) fn of_the_run(&self) -> bool {
        self.from == SourceTexts::Run && self.attributes.is_none()
    }

    /// How many tokens every branch generates; curves and grids of one source show only the first.
    pub(super) fn written(&self) -> usize {
        match self.show {
            PatchscopeView::Grid | PatchscopeView::Curves if self.attributes.is_none() => 1,
            PatchscopeView::Grid
            | PatchscopeView::Curves
            | PatchscopeView::Table
            | PatchscopeView::Items => self.tokens.0,
        }
    }

    /// The target prompt and its placeholder.
    pub(super) fn template(&self) -> Result<PatchscopeTemplate> {
        let mut found = match &self.prompt {
            None => templates::find(&self.template.0, self.library.as_deref())?,
            Some(own) => PatchscopeTemplate {
                name: "own prompt".into(),
                prompt: own.clone(),
                placeholder: "x".into(),
                about: String::new(),
            },
        };
        if let Some(placeholder) = &self.placeholder {
            found.placeholder.clone_from(placeholder);
        }
        Ok(found)
    }

    /// The source layers in a model of `count` layers, the pairs of layers, and how many source layers have no target layer.
    pub(super) fn pairs(
        &self,
        count: usize,
    ) -> Result<(Vec<LayerOrEmbedding>, Vec<LayerPair>, usize)> {
        let sources = self.layer.within("layer", count)?;
        let all = TargetLayers::These(LayerSpans(None));
        let grid = self.show == PatchscopeView::Grid && self.target == TargetLayers::Same(0);
        let targets = if grid { &all } else { &self.target };
        let (pairs, dropped) = targets.of(&sources, count)?;
        Ok((sources, pairs, dropped))
    }

    /// An estimate of the number of patched branches for one source, and of the tokens that a branch reads and generates after
    /// the first placeholder.
    pub(super) fn size(&self, layers: usize) -> Option<(usize, usize)> {
        let (_, pairs, _) = self.pairs(layers).ok()?;
        let controls = match self.control {
            ControlSources::Both => 3,
            ControlSources::Matched | ControlSources::Unrelated => 2,
            ControlSources::No => 1,
        };
        let template = self.template().ok()?;
        // A branch starts at the first placeholder that it overwrites.
        let rest = match self.placeholders {
            PlaceholderChoice::Last => template.prompt.rsplit(&template.placeholder).next(),
            PlaceholderChoice::All | PlaceholderChoice::Each => template
                .prompt
                .split_once(&template.placeholder)
                .map(|s| s.1),
        }?;
        let tokens = rest.split_whitespace().count() + self.written();
        Some((pairs.len() * controls, tokens))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateName(pub String);

impl ParameterValue for TemplateName {
    const KIND: ParamKind = ParamKind::Word(&templates::NAMES);

    fn parse(text: &str) -> std::result::Result<Self, String> {
        Ok(Self(text.into()))
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

/// Ranges of layers, both ends included; none for all layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSpans(Option<Vec<(LayerOrEmbedding, LayerOrEmbedding)>>);

impl LayerSpans {
    /// The layers in a model of `count`, ascending; `name` is the parameter, for error messages.
    ///
    /// # Errors
    ///
    /// When the model lacks one of them.
    pub fn within(&self, name: &str, count: usize) -> Result<Vec<LayerOrEmbedding>> {
        let Some(spans) = &self.0 else {
            return Ok((0..count as LayerOrEmbedding).collect());
        };
        if spans.iter().any(|span| span.1 >= count as LayerOrEmbedding) {
            let expected = format!(
                "all, layers from 0 to {} such as 3, 2-5 or 0,4, or -1 for the embedding",
                count - 1
            );
            return Err(Error::argument(name, self.print(), expected));
        }
        let mut out: Vec<LayerOrEmbedding> = spans.iter().flat_map(|(a, b)| *a..=*b).collect();
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }
}

impl ParameterValue for LayerSpans {
    const KIND: ParamKind = ParamKind::Layer;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text == "all" {
            return Ok(Self(None));
        }
        let layer = |text: &str| {
            text.trim()
                .parse()
                .ok()
                .filter(|l: &LayerOrEmbedding| *l >= -1)
        };
        let span = |part: &str| match part.trim().split_once('-') {
            Some((first, last)) if !first.is_empty() => {
                let span = (layer(first)?, layer(last)?);
                (span.0 <= span.1).then_some(span)
            }
            _ => layer(part).map(|l| (l, l)),
        };
        let spans: Option<Vec<_>> = text.split(',').map(span).collect();
        let expected = "all, layers such as 3, 2-5 or 0,4, or -1 for the embedding";
        spans.map(|s| Self(Some(s))).ok_or_else(|| expected.into())
    }

    fn print(&self) -> String {
        let Some(spans) = &self.0 else {
            return "all".into();
        };
        let span = |(a, b): &(LayerOrEmbedding, LayerOrEmbedding)| {
            if a == b {
                a.to_string()
            } else {
                format!("{a}-{b}")
            }
        };
        spans.iter().map(span).collect::<Vec<_>>().join(",")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetLayers {
    /// The source's own layer, plus an offset.
    Same(LayerOrEmbedding),
    /// These layers for every source.
    These(LayerSpans),
}

impl TargetLayers {
    /// The pairs of source and target layers, and how many source layers have no target layer.
    fn of(&self, sources: &[LayerOrEmbedding], count: usize) -> Result<(Vec<LayerPair>, usize)> {
        let offset = match self {
            Self::These(layers) => {
                let targets = layers.within("target", count)?;
                let all = sources.iter();
                let all = all.flat_map(|s| targets.iter().map(|t| (*s, *t)));
                return Ok((all.collect(), 0));
            }
            Self::Same(offset) => *offset,
        };
        let all = sources.iter();
        let all = all.filter_map(|s| Some((*s, s.checked_add(offset)?)));
        let known = -1..count as LayerOrEmbedding;
        let out: Vec<_> = all.filter(|(_, target)| known.contains(target)).collect();
        if out.is_empty() {
            let expected = format!(
                "a target layer from -1 to {} for at least one source layer",
                count - 1
            );
            return Err(Error::argument("target", self.print(), expected));
        }
        let dropped = sources.len() - out.len();
        Ok((out, dropped))
    }
}

impl ParameterValue for TargetLayers {
    const KIND: ParamKind = ParamKind::Word(&["same", "all", "0", "-1"]);

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let Some(offset) = text.strip_prefix("same") else {
            return LayerSpans::parse(text).map(Self::These);
        };
        let signed = offset.starts_with(['+', '-']);
        let offset = match offset {
            "" => Some(0),
            offset => offset.parse().ok().filter(|_| signed),
        };
        let expected = "same, same+2, same-1, all, or layers such as 3, 2-5 or -1";
        offset.map(Self::Same).ok_or_else(|| expected.into())
    }

    fn print(&self) -> String {
        match self {
            Self::Same(0) => "same".into(),
            Self::Same(offset) => format!("same{offset:+}"),
            Self::These(layers) => layers.print(),
        }
    }
}

/// The source tokens whose states are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePosition(pub Positions);

impl ParameterValue for SourcePosition {
    const KIND: ParamKind = ParamKind::Position;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        Positions::parse(text).map(Self)
    }

    fn print(&self) -> String {
        self.0.print()
    }
}

/// The texts whose states are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceTexts {
    Run,
    One(String),
    /// The texts of a file, one in each line.
    List(PathBuf),
}

impl ParameterValue for SourceTexts {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        Ok(match text.strip_prefix('@') {
            _ if text.is_empty() => Self::Run,
            Some(path) => Self::List(path.into()),
            None => Self::One(text.into()),
        })
    }

    fn print(&self) -> String {
        match self {
            Self::Run => String::new(),
            Self::One(text) => text.clone(),
            Self::List(path) => format!("@{}", path.display()),
        }
    }
}

/// The map from source state to overwriting value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapChoice {
    Identity,
    /// A scaling to the norm of the state that is overwritten.
    Norm,
    /// The affine maps of a file.
    Kept(PathBuf),
    /// Affine maps that are fitted on a file of prompts.
    Fitted(PathBuf),
}

impl ParameterValue for MapChoice {
    const KIND: ParamKind = ParamKind::Word(&["identity", "norm"]);

    fn parse(text: &str) -> std::result::Result<Self, String> {
        Ok(match text {
            "identity" => Self::Identity,
            "norm" => Self::Norm,
            file if Path::new(file)
                .extension()
                .is_some_and(|e| e == "safetensors") =>
            {
                Self::Kept(file.into())
            }
            file => Self::Fitted(file.into()),
        })
    }

    fn print(&self) -> String {
        match self {
            Self::Identity => "identity".into(),
            Self::Norm => "norm".into(),
            Self::Kept(file) | Self::Fitted(file) => file.display().to_string(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_in_every_spelling() {
        let layers = |text: &str| {
            let read = LayerSpans::parse(text).ok()?;
            assert_eq!(LayerSpans::parse(&read.print()).unwrap(), read);
            read.within("layer", 6).ok()
        };
        let read = |text: &str| layers(text).unwrap();
        assert_eq!(read("all"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(read("-1"), [-1]);
        assert_eq!(read("2-4"), [2, 3, 4]);
        assert_eq!(read("5, -1,0-1,0"), [-1, 0, 1, 5]);
        for text in ["6", "-2", "4-2", "2-9", "", "a", "1,,2"] {
            assert!(layers(text).is_none(), "{text}");
        }
    }

    #[test]
    fn targets_follow_their_source_or_stand_alone() {
        let targets = |text: &str| {
            let read = TargetLayers::parse(text).ok()?;
            assert_eq!(TargetLayers::parse(&read.print()).unwrap(), read);
            read.of(&[0, 3, 5], 6).ok()
        };
        let read = |text: &str| targets(text).unwrap();
        assert_eq!(read("same"), (vec![(0, 0), (3, 3), (5, 5)], 0));
        assert_eq!(read("same+2"), (vec![(0, 2), (3, 5)], 1));
        assert_eq!(read("same-1"), (vec![(0, -1), (3, 2), (5, 4)], 0));
        assert_eq!(read("-1,4").0.len(), 6);
        assert_eq!(read("-1,4").0[1], (0, 4));
        for text in ["same2", "same+", "same+x", "same+9", "some", "6"] {
            assert!(targets(text).is_none(), "{text}");
        }
    }
}
