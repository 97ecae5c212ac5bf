//! What methods are asked about a list of prompts.
//!
//! Invariant: the words mean the same in every method. To name positions in another way, add it to [`PromptPositions`]; to show
//! something else of a list, a word to [`ListView`] and its table in `figure`.

use std::path::PathBuf;

use crate::edit::positions::Positions;
use crate::error::Error;
use crate::instruments::params::{Count, ParamKind, ParameterValue};
use crate::lab::prompt_list::PositionRole;

/// What is shown of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListView {
    /// A row a number: its mean over the prompts and its interval.
    Means,
    /// Rows of every prompt.
    Prompts,
}

impl ParameterValue for ListView {
    const KIND: ParamKind = ParamKind::Choice(&["means", "prompts"]);
    const DEFAULT: &'static str = "means";
    const ABOUT: &'static str = "with a list: means: the mean of each number over the prompts, with its 95 % interval; prompts: the numbers of every prompt";
    const OF_LISTS: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "means" => Ok(Self::Means),
            "prompts" => Ok(Self::Prompts),
            _ => Err("one of means, prompts".into()),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Means => "means",
            Self::Prompts => "prompts",
        }
        .into()
    }
}

/// The list, if one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptsFile(pub Option<PathBuf>);

impl ParameterValue for PromptsFile {
    const KIND: ParamKind = ParamKind::Text;
    const OF_LISTS: bool = true;
    const ABOUT: &'static str = "a list of prompts instead of one: a line each, or .tsv, .csv, .json, .jsonl with prompt or messages, answer, alternatives, entity, label, id; shown are means over the prompts";

    fn parse(text: &str) -> Result<Self, String> {
        Option::parse(text).map(Self)
    }

    fn print(&self) -> String {
        self.0.print()
    }
}

/// The positions of each prompt that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptPositions {
    /// By what stands there.
    Role(PositionRole),
    /// By a rule of the edit grammar.
    Rule(Positions),
}

impl ParameterValue for PromptPositions {
    const KIND: ParamKind = ParamKind::Word(&["last", "entity", "response"]);
    const DEFAULT: &'static str = "last";
    const OF_LISTS: bool = true;
    const ABOUT: &'static str = "with a list, the positions of each prompt that are read: last; entity: the last token of the entity that the list names; response: the tokens of the answer that a conversation ends in; or a rule as in edits, such as token:\" is\", -2 or 3..5; numbers of several positions are averaged";

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text {
            "last" => Ok(Self::Role(PositionRole::Last)),
            "entity" => Ok(Self::Role(PositionRole::Entity)),
            "response" => Ok(Self::Role(PositionRole::ResponseMean)),
            _ => text.parse().map(Self::Rule).map_err(|error| {
                if let Error::BadArgument { expected, .. } = error {
                    format!("entity, response, or {expected}")
                } else {
                    error.to_string()
                }
            }),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Role(PositionRole::ResponseMean) => "response".into(),
            Self::Role(role) => role.name().into(),
            Self::Rule(rule) => rule.to_string(),
        }
    }
}

impl PromptPositions {
    /// What they are, for titles.
    pub(super) fn in_words(&self) -> String {
        match self {
            Self::Role(PositionRole::Last) => "the last token".into(),
            Self::Role(PositionRole::Entity) => "the entity's last token".into(),
            Self::Role(PositionRole::ResponseMean) => "the tokens of the answer".into(),
            Self::Role(PositionRole::All) => "all tokens".into(),
            Self::Rule(rule) => rule.to_string(),
        }
    }
}

/// How many rows of means are shown where there is an order by size; 0 for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeansShown(pub usize);

impl ParameterValue for MeansShown {
    const KIND: ParamKind = ParamKind::Count {
        lo: 0,
        hi: 1_000_000,
    };
    const DEFAULT: &'static str = "24";
    const ABOUT: &'static str = "with a list, how many rows of means of heads or neurons are shown, the largest first; 0 for all";
    const OF_LISTS: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let count = Count::<0, 1_000_000>::parse(text);
        count.map(|count| Self(count.0))
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

/// Whether a plain text of the list is one user turn of the chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListChat(pub bool);

impl ParameterValue for ListChat {
    const KIND: ParamKind = bool::KIND;
    const DEFAULT: &'static str = bool::DEFAULT;
    const ABOUT: &'static str =
        "yes: every prompt of the list is one user turn of the chat template";
    const OF_LISTS: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        bool::parse(text).map(Self)
    }

    fn print(&self) -> String {
        self.0.print()
    }
}

/// What is asked about a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptsAsked {
    /// The list; none where the run's own text is asked about.
    pub file: Option<PathBuf>,
    pub at: PromptPositions,
    pub view: ListView,
    /// How many rows of means are shown where there is an order by size; 0 for all.
    pub rows: usize,
    /// Whether a plain text is one user turn of the chat template.
    pub chat: bool,
}

/// Declares the parameters of a method that takes lists of prompts: those of [`params!`](crate::instruments::params), those of lists
/// behind them, and `asked`, which gathers these.
macro_rules! params_over_prompts {
    ($(#[$meta:meta])* pub struct $name:ident { $($fields:tt)* }) => {
        $crate::instruments::params::params! {
            $(#[$meta])*
            pub struct $name {
                $($fields)*
                prompts: $crate::instruments::over_prompts::parameters::PromptsFile,
                at: $crate::instruments::over_prompts::parameters::PromptPositions,
                list: $crate::instruments::over_prompts::parameters::ListView,
                rows: $crate::instruments::over_prompts::parameters::MeansShown,
                chat: $crate::instruments::over_prompts::parameters::ListChat,
            }
        }

        impl $name {
            /// What is asked about a list of prompts.
            fn asked(&self) -> $crate::instruments::over_prompts::parameters::PromptsAsked {
                $crate::instruments::over_prompts::parameters::PromptsAsked {
                    file: self.prompts.0.clone(),
                    at: self.at.clone(),
                    view: self.list,
                    rows: self.rows.0,
                    chat: self.chat.0,
                }
            }
        }
    };
}

pub(in crate::instruments) use params_over_prompts;
