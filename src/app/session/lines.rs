//! The lines of a session file: written and read by the same types, so that what is written is what is read.
//!
//! Invariant: a line is parsed once, here. What cannot be had any more (an edit of an operation that is gone, a figure that no
//! longer exists) is left out and said. What a file says is never shown but through [`crate::text::line`]. To record another
//! request, add a variant of `RequestLine` and its arms in `RequestLine::of` and `RequestLine::request`.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::app::cursor::Cursor;
use crate::app::layout::{Resized, Zoom};
use crate::app::{Density, TokenTint};
use crate::edit::Edit;
use crate::edit::unit_set::UnitSet;
use crate::engine::{FigureRequest, Mode, OtherText, PromptSource, Request, Token};
use crate::error::{Error, Result};
use crate::instruments::{Arguments, instrument};
use crate::lab::sample::Sampling;
use crate::lab::writer::BaselineMode;
use crate::model::load::Options;
use crate::model::network::address::site_named;
use crate::text;

/// How many tokens a request writes of which the line does not say it, as those of the first versions.
const COUNT: usize = 64;

/// A request, as its line has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(super) enum RequestLine {
    Load {
        model: String,
        #[serde(default)]
        dtype: Option<String>,
        #[serde(default)]
        device: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        split: Vec<usize>,
        #[serde(default)]
        context: Option<usize>,
        #[serde(default)]
        version: String,
    },
    Generate {
        #[serde(flatten)]
        prompt: PromptSource,
        #[serde(default = "usual_count")]
        count: usize,
    },
    Continue {
        #[serde(default = "usual_count")]
        count: usize,
    },
    Rewind {
        position: usize,
    },
    Restore {
        number: u64,
    },
    Sampling {
        sampling: Sampling,
    },
    Edits {
        edits: Vec<EditLine>,
        #[serde(default)]
        mode: Mode,
    },
    Observe {
        instrument: String,
        #[serde(default)]
        arguments: BTreeMap<String, String>,
        #[serde(default)]
        unedited: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<usize>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        other: Option<OtherText>,
    },
    Direction {
        name: String,
        layer: usize,
        #[serde(default)]
        chat: bool,
        /// The first versions did not write the prompts.
        #[serde(default)]
        plus: Vec<String>,
        #[serde(default)]
        minus: Vec<String>,
    },
    Beside {
        beside: BaselineMode,
    },
    Group {
        name: String,
        site: String,
        units: Vec<String>,
        #[serde(default)]
        revision: String,
    },
}

fn usual_count() -> usize {
    COUNT
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EditLine {
    edit: String,
    #[serde(default = "switched_on")]
    on: bool,
}

fn switched_on() -> bool {
    true
}

impl RequestLine {
    /// The line for a request; none for requests that only measure, or that the screen makes again by itself.
    fn of(request: &Request) -> Option<Self> {
        Some(match request {
            Request::Load { model, options } => Self::Load {
                model: model.clone(),
                dtype: options.dtype.clone(),
                device: options.device.clone(),
                split: options.split.clone(),
                context: options.context,
                version: env!("CARGO_PKG_VERSION").into(),
            },
            Request::Generate { prompt, count } => Self::Generate {
                prompt: prompt.clone(),
                count: *count,
            },
            Request::Continue { count } => Self::Continue { count: *count },
            Request::Rewind { position } => Self::Rewind {
                position: *position,
            },
            Request::Restore(number) => Self::Restore { number: *number },
            Request::Sampling(sampling) => Self::Sampling {
                sampling: *sampling,
            },
            Request::Edits { edits, mode } => {
                let row = |edit: &Edit| EditLine {
                    edit: edit.to_string(),
                    on: edit.on,
                };
                Self::Edits {
                    edits: edits.iter().map(row).collect(),
                    mode: *mode,
                }
            }
            Request::Observe(question) => Self::Observe {
                instrument: question.instrument.into(),
                arguments: question.arguments.given.clone(),
                unedited: question.unedited,
                until: question.until,
                other: question.other.clone(),
            },
            Request::Direction {
                name,
                plus,
                minus,
                chat,
                layer,
                save: _,
            } => Self::Direction {
                name: name.clone(),
                layer: *layer,
                chat: *chat,
                plus: plus.clone(),
                minus: minus.clone(),
            },
            Request::Beside(beside) => Self::Beside { beside: *beside },
            Request::Group { name, set, save: _ } => Self::Group {
                name: name.clone(),
                site: set.site.spec().name.into(),
                units: set.units.iter().map(|(l, u)| format!("{l}/{u}")).collect(),
                revision: set.revision.clone(),
            },
            Request::Stop
            | Request::CountTokens { .. }
            | Request::ListModels(_)
            | Request::Follow(_)
            | Request::Live(_)
            | Request::View { .. }
            | Request::Baseline
            | Request::Panic => return None,
        })
    }

    /// The request. What it names and does not exist is left out, and added to `missing`; none if that is all of it.
    pub fn request(self, missing: &mut Vec<String>) -> Option<Request> {
        let mut lacks = |why: String| missing.push(text::line(&why));
        Some(match self {
            Self::Load {
                model,
                dtype,
                device,
                split,
                context,
                version: _,
            } => Request::Load {
                model,
                options: Options {
                    dtype,
                    device,
                    split,
                    context,
                    ..Options::default()
                },
            },
            Self::Generate { prompt, count } => Request::Generate { prompt, count },
            Self::Continue { count } => Request::Continue { count },
            Self::Rewind { position } => Request::Rewind {
                position: position.max(1),
            },
            Self::Restore { number } => Request::Restore(number),
            Self::Sampling { sampling } => {
                let fits = (0.0..=10.0).contains(&sampling.temperature)
                    && sampling.top_p > 0.0
                    && sampling.top_p <= 1.0;
                if !fits {
                    lacks(format!(
                        "sampling at temperature {} and top-p {}, which cannot be",
                        sampling.temperature, sampling.top_p
                    ));
                    return None;
                }
                Request::Sampling(sampling)
            }
            Self::Edits { edits, mode } => {
                let read = |row: EditLine| {
                    let edit: Edit = row.edit.parse().map_err(|e: Error| e.to_string())?;
                    Ok(Edit { on: row.on, ..edit })
                };
                let rows = edits.into_iter().map(read);
                let rows =
                    rows.filter_map(|row: Result<Edit, String>| row.map_err(&mut lacks).ok());
                Request::Edits {
                    edits: rows.collect(),
                    mode,
                }
            }
            Self::Observe {
                instrument: name,
                arguments,
                unedited,
                until,
                other,
            } => {
                let Ok(of) = instrument(&name) else {
                    lacks(format!("the figure `{name}`, which does not exist"));
                    return None;
                };
                let mut arguments = Arguments::of(arguments);
                // A file that was written is not written again.
                arguments.forget_saved();
                Request::Observe(FigureRequest {
                    instrument: of.name(),
                    arguments,
                    unedited,
                    until,
                    other,
                })
            }
            Self::Direction {
                name,
                layer,
                chat,
                plus,
                minus,
            } => {
                if plus.is_empty() || minus.is_empty() {
                    lacks(format!(
                        "the direction `{name}`, of which this older file does not hold the prompts"
                    ));
                    return None;
                }
                Request::Direction {
                    name,
                    plus,
                    minus,
                    chat,
                    layer,
                    save: None,
                }
            }
            Self::Beside { beside } => Request::Beside(beside),
            Self::Group {
                name,
                site,
                units,
                revision,
            } => {
                let unit = |unit: &String| {
                    let (layer, unit) = unit.split_once('/')?;
                    Some((layer.parse().ok()?, unit.parse().ok()?))
                };
                let units: Option<Vec<(u16, u32)>> = units.iter().map(unit).collect();
                let (Ok(site), Some(units)) = (site_named(&site), units) else {
                    lacks(format!(
                        "the unit set `{name}`, whose units are no units of a site"
                    ));
                    return None;
                };
                Request::Group {
                    name,
                    set: UnitSet::new(site, units, &revision),
                    save: None,
                }
            }
        })
    }
}

/// What the screen was, apart from what was asked of the model.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own that the user flips
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScreenLine {
    /// The panes by name: the one with the keys, and the one shown beside the text.
    pub focus: String,
    pub side: String,
    /// The instruments of the chosen figure, and of the one beside the first.
    pub figure: String,
    pub second: String,
    /// That of the one below the second; empty in older files.
    pub third: String,
    /// What was changed of the panes' sizes.
    pub resized: Resized,
    pub zoom: Zoom,
    /// The text that is kept for comparison, and how many of its tokens are the prompt.
    pub reference: Vec<Token>,
    pub reference_prompt: usize,
    pub density: Density,
    pub flip: bool,
    pub folded: bool,
    pub tint: TokenTint,
    pub difference: bool,
    pub compare: bool,
    pub theme: String,
    pub cursor: Cursor,
    /// The arguments of each pane's instrument.
    pub arguments: BTreeMap<String, BTreeMap<String, String>>,
    /// How each pane's figure is looked at.
    pub views: BTreeMap<String, ViewLine>,
    /// The step of the tour, if it is on.
    pub tour: Option<usize>,
    /// The index of the selected edit.
    pub selected: usize,
    pub mode: Mode,
    /// Marked units, as `UNIT@ADDRESS`.
    pub marks: Vec<String>,
    /// Prompts that were picked as examples.
    pub examples: Vec<ExampleLine>,
    /// How many tokens are written at most.
    pub count: Option<usize>,
    /// Whether what is written goes through the chat template.
    pub chat: bool,
    /// The prompt that was being written.
    pub draft: String,
    /// What was written before, oldest first.
    pub prompts: Vec<String>,
    /// The command lines before, oldest first.
    pub commands: Vec<String>,
}

/// How a figure is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ViewLine {
    /// The row and column of the cursor.
    pub row: usize,
    pub column: usize,
    /// The column by which the rows of a table are sorted, and whether backwards.
    pub sorted: Option<(String, bool)>,
    /// The index of the cells' number, if one was chosen.
    pub number: Option<usize>,
    /// The index of the graph's step of pruning, if one was chosen.
    pub step: Option<usize>,
    /// How many columns of a table are scrolled away.
    pub aside: usize,
}

/// A prompt that was picked as an example of a behaviour or of its absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExampleLine {
    pub text: String,
    pub chat: bool,
    pub plus: bool,
}

/// Tokens that were written after the request on line `after` was taken up, and before the next one was.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenLine {
    pub written: Vec<u32>,
    pub after: usize,
}

/// The request on this line was not carried out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FailedLine {
    pub failed: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct ScreenHolder {
    screen: ScreenLine,
}

/// A line.
#[derive(Debug)]
pub(super) enum Line {
    Request(RequestLine),
    Written(WrittenLine),
    Failed(FailedLine),
    Screen(Box<ScreenLine>),
}

fn json(line: &impl Serialize) -> String {
    // These types have no map with other keys than texts, and no number that is not finite.
    serde_json::to_string(line).unwrap_or_default()
}

/// The line for a request; none for requests that are not recorded.
pub(super) fn of_request(request: &Request) -> Option<String> {
    RequestLine::of(request).map(|line| json(&line))
}

/// The line for tokens that were written after the request on a line.
pub(super) fn of_written(written: Vec<u32>, after: usize) -> String {
    json(&WrittenLine { written, after })
}

/// The line that takes back the request on another.
pub(super) fn of_failed(failed: usize) -> String {
    json(&FailedLine { failed })
}

/// The line for the screen.
pub(super) fn of_screen(screen: ScreenLine) -> String {
    json(&ScreenHolder { screen })
}

impl Line {
    pub fn read(text: &str) -> Result<Self, String> {
        // Its own line is always the first.
        let fail = |e: serde_json::Error| {
            format!(
                "it is no JSON: {}",
                e.to_string().replace(" at line 1 ", " at ")
            )
        };
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(fail)?;
        let has = |name: &str| fields.contains_key(name);
        if has("request") {
            as_type(fields).map(Self::Request)
        } else if has("written") {
            as_type(fields).map(Self::Written)
        } else if has("failed") {
            as_type(fields).map(Self::Failed)
        } else if has("screen") {
            as_type(fields).map(|held: ScreenHolder| Self::Screen(Box::new(held.screen)))
        } else {
            Err("it has none of `request`, `written`, `failed` and `screen`".into())
        }
    }
}

fn as_type<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(fields)).map_err(|e| e.to_string())
}
