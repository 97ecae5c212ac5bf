//! The engine: one thread that owns the model, and the channel to it.
//!
//! Invariant: tensors stay inside the engine; only tokens, small figures and sentences cross the channel. A newer request for a
//! pane replaces one that is still waiting; a turn writes one token, so requests are handled between tokens.
//! To add something the engine can do, add a variant of [`Request`], its arm in `worker/mod.rs`, and an [`Update`].

mod worker;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::edit::Edit;
use crate::edit::direction::{Direction, places};
use crate::edit::receipt::{FiredAt, Receipt};
use crate::edit::unit_set::UnitSet;
use crate::error::Result;
use crate::figure::column::Column;
use crate::figure::{Check, Figure, GivenPrompt};
use crate::instruments::{Arguments, instrument};
use crate::lab::sample::Sampling;
use crate::lab::writer::BaselineMode;
use crate::model::hub::Progress;
use crate::model::known::KnownModel;
use crate::model::load::Options;
use crate::model::network::site::Address;
use crate::model::tokenizer::template::Message;

pub use crate::edit::schedule::Mode;

/// The pane that a figure is for, named after the instrument that fills it.
pub type PaneName = &'static str;

/// The beginning of a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptSource {
    /// Text, encoded with its BOS.
    Text(String),
    /// One user turn, encoded by the chat template.
    Chat(String),
    /// Token ids as they are.
    Ids(Vec<u32>),
    /// A conversation, by the chat template.
    Messages(Vec<Message>),
    /// A text between token ids, encoded by itself.
    Spliced {
        before: Vec<u32>,
        text: String,
        after: Vec<u32>,
    },
}

impl PromptSource {
    /// What it asks: of a conversation the last turn; none of one that is given by token ids.
    pub fn last_words(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Chat(text) => Some(text),
            Self::Messages(turns) => turns.last().map(|turn| turn.content.as_str()),
            Self::Ids(_) | Self::Spliced { .. } => None,
        }
    }

    /// Whether the chat template is in it.
    pub fn is_chat(&self) -> bool {
        match self {
            Self::Chat(_) | Self::Messages(_) => true,
            Self::Text(_) | Self::Ids(_) | Self::Spliced { .. } => false,
        }
    }

    /// The words of a plain prompt, and whether they are a turn of chat; none of other prompts.
    pub fn words(&self) -> Option<(&str, bool)> {
        match self {
            Self::Text(text) => Some((text, false)),
            Self::Chat(text) => Some((text, true)),
            Self::Ids(_) | Self::Messages(_) | Self::Spliced { .. } => None,
        }
    }
}

impl From<GivenPrompt> for PromptSource {
    fn from(given: GivenPrompt) -> Self {
        match given {
            GivenPrompt::Text(text) => Self::Text(text),
            GivenPrompt::Chat(text) => Self::Chat(text),
            GivenPrompt::Messages(turns) => {
                let turns = turns.into_iter();
                Self::Messages(
                    turns
                        .map(|turn| Message::new(turn.role, turn.content))
                        .collect(),
                )
            }
        }
    }
}

/// A request for a figure of the current run.
#[derive(Clone, Debug, PartialEq)]
pub struct FigureRequest {
    /// The instrument's name.
    pub instrument: PaneName,
    /// Its parameters, by name.
    pub arguments: Arguments,
    /// Whether the figure is of the unedited run over the same tokens.
    pub unedited: bool,
    /// How many tokens of the text the figure is about; by default all.
    pub until: Option<usize>,
    /// The text that it is about instead of the current one, read under the edits that are on from its first position on.
    pub other: Option<OtherText>,
}

/// A text that figures are compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherText {
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt: usize,
}

impl FigureRequest {
    /// Whether it is of a run that another figure is compared with.
    pub fn is_compared_with(&self) -> bool {
        self.unedited || self.other.is_some()
    }

    /// Whether the figure is about the current text; some instruments read only files.
    ///
    /// # Errors
    ///
    /// When there is no such instrument.
    pub fn needs_text(&self) -> Result<bool> {
        Ok(instrument(self.instrument)?.needs_prompt(&self.arguments))
    }
}

/// A request to the engine.
#[derive(Clone, Debug)]
pub enum Request {
    /// Load a model, unless it is the one that is loaded, and forget every text, the edits and the settings of sampling; answered by
    /// `Loaded` or `Failed`.
    Load {
        /// The model argument.
        model: String,
        /// How to load it.
        options: Options,
    },
    /// Start a new text and generate up to `count` tokens.
    Generate {
        /// The prompt: text, a chat turn, or token ids.
        prompt: PromptSource,
        /// The most tokens to generate.
        count: usize,
    },
    /// Say how many tokens a text has; answered by `Counted`, or by nothing where it cannot be encoded.
    CountTokens {
        text: String,
        /// Whether it is encoded by the chat template.
        chat: bool,
    },
    /// Say which models can be opened here: the demo, those of the cache, and those in these folders; answered by `Models`.
    ListModels(Vec<PathBuf>),
    /// Generate up to `count` more tokens.
    Continue {
        /// The most tokens to generate.
        count: usize,
    },
    /// Stop generating. ([`Handle::cancel`] interrupts a pass as well.)
    Stop,
    /// Drop everything from a position on; the next token is chosen again.
    Rewind {
        /// The first position to drop; at least 1.
        position: usize,
    },
    /// Restore a kept text by the number that [`Update::Kept`] gave it; the current text is kept in exchange.
    Restore(u64),
    /// Change how tokens are sampled, from the next token on.
    Sampling(Sampling),
    /// Replace the edits.
    Edits {
        /// All edits, including those that are switched off.
        edits: Vec<Edit>,
        /// Whether the new edits apply to what was read before.
        mode: Mode,
    },
    /// Set which instruments are live: each sends a whole figure now and a column for each new token.
    Live(Vec<FigureRequest>),
    /// Which layers the screen shows of a figure whose rows are layers; the others are read when writing pauses.
    View {
        slot: PaneName,
        /// Of all layers, from 0.
        layers: Range<usize>,
    },
    /// Request a figure once. It replaces a request for the same instrument that is still waiting.
    Observe(FigureRequest),
    /// Request a figure when nothing else is to be done: it waits while a text is written, and any other request interrupts it
    /// within a layer, after which it begins again. It replaces such a request for the same instrument.
    Follow(FigureRequest),
    /// Generate the unedited continuation of the same prompt, with the same seed and length; answered by `Baseline`.
    Baseline,
    /// Set the baseline run, from the next token on and for later texts; answered by `Beside`.
    Beside(BaselineMode),
    /// Store a set of units under a name that edits can use.
    Group {
        name: String,
        set: UnitSet,
        save: Option<PathBuf>,
    },
    /// Make a direction by difference of means from two prompt lists.
    Direction {
        /// Its name in edits.
        name: String,
        /// Prompts that show the behaviour.
        plus: Vec<String>,
        /// Prompts that do not show it.
        minus: Vec<String>,
        /// Whether the prompts are encoded by the chat template.
        chat: bool,
        /// The direction is measured at `resid_pre` of this layer, at the last prompt token.
        layer: usize,
        save: Option<PathBuf>,
    },
    /// Panic inside the engine, to test that the model survives. Only tests send it.
    #[doc(hidden)]
    Panic,
}

impl Request {
    /// Whether it changes the text, or how its next tokens come about: the engine says when it takes up such a request, by
    /// [`Update::TakenUp`].
    pub fn is_about_text(&self) -> bool {
        match self {
            Self::Load { .. }
            | Self::Generate { .. }
            | Self::Continue { .. }
            | Self::Rewind { .. }
            | Self::Restore(_)
            | Self::Sampling(_)
            | Self::Edits { .. }
            | Self::Beside(_) => true,
            Self::CountTokens { .. }
            | Self::ListModels(_)
            | Self::Stop
            | Self::Live(_)
            | Self::View { .. }
            | Self::Observe(_)
            | Self::Follow(_)
            | Self::Baseline
            | Self::Group { .. }
            | Self::Direction { .. }
            | Self::Panic => false,
        }
    }
}

/// A token with its statistics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    pub position: usize,
    pub id: u32,
    pub bytes: Vec<u8>,
    /// Whether it is a special token (begin, end, turn marks).
    pub special: bool,
    /// Natural log-probability in the distribution it was drawn from, before temperature; none for prompt tokens.
    pub logprob: Option<f32>,
    /// How many tokens had a higher probability.
    pub rank: Option<u32>,
    /// KL(unedited ‖ edited) in nats of the distribution it was drawn from; only while edits are active.
    pub kl: Option<f32>,
    /// What each edit did at its position, counted as in receipts.
    #[serde(default)]
    pub fired: Vec<FiredAt>,
    /// In lockstep: the token that the other of the two runs chose here, with its probability in that run.
    #[serde(default)]
    pub other: Option<Box<Token>>,
}

#[cfg(test)]
impl Token {
    /// A token of a prompt, for tests.
    pub(crate) fn of_prompt(position: usize, bytes: &[u8]) -> Self {
        Self {
            position,
            id: 0,
            bytes: bytes.to_vec(),
            special: false,
            logprob: None,
            rank: None,
            kl: None,
            fired: Vec::new(),
            other: None,
        }
    }
}

/// A direction that edits can name.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownDirection {
    pub name: String,
    /// The addresses at which it has a vector, in order.
    pub addresses: Vec<Address>,
    /// Whether the file does not say where the vectors were measured; `addresses` are then placeholders.
    pub anywhere: bool,
    /// The norm of its first vector.
    pub length: f32,
    /// Cautions, and how it was made, in sentences.
    pub remarks: Vec<String>,
    /// A suitable strength to begin with.
    pub strength: f32,
}

impl KnownDirection {
    /// Describes a direction that is known under a name.
    pub fn of(name: &str, direction: &Direction) -> Self {
        Self {
            name: name.to_string(),
            addresses: direction.rows.iter().map(|(at, _)| *at).collect(),
            anywhere: direction.origin.anywhere,
            length: direction.norm(),
            remarks: direction.origin.cautions.clone(),
            strength: direction.origin.strength,
        }
    }

    /// The first address at which it was measured, if its file says so.
    pub fn home(&self) -> Option<Address> {
        let first = self.addresses.first().copied();
        first.filter(|_| !self.anywhere)
    }

    /// A description for users: where it was measured, and its remarks.
    pub fn about(&self) -> String {
        let mut parts = vec![format!(
            "{}, length {:.2}",
            places(&self.addresses, self.anywhere),
            self.length
        )];
        parts.extend_from_slice(&self.remarks);
        parts.join("; ")
    }
}

/// Progress in loading a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Loading {
    /// The current phase, in a few words.
    pub phase: String,
    /// The progress of the download, during one.
    pub download: Option<Progress>,
}

impl From<&str> for Loading {
    fn from(phase: &str) -> Self {
        Self {
            phase: phase.into(),
            download: None,
        }
    }
}

/// A loaded model, described for the screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub card: crate::model::Card,
    /// The time it took to load, in seconds.
    pub seconds: f32,
    /// Directions that edits can name.
    pub directions: Vec<KnownDirection>,
    /// Saved circuits that edits can name, each with what it is.
    pub circuits: Vec<(String, String)>,
    /// Notes on loading for the user.
    pub notes: Vec<String>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The requested number of tokens was generated.
    Count,
    /// The model generated an end token.
    EndToken,
    /// The context is full.
    Context,
    /// The user stopped generation.
    Stopped,
    /// The logits were no longer finite, so no token was chosen.
    NotFinite,
}

/// A message from the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The oldest request about the text that was not yet taken up is taken up now: the tokens before this update were written
    /// before it.
    TakenUp,
    /// A model is being loaded.
    Loading(Loading),
    /// The model is loaded.
    Loaded(Box<Loaded>),
    /// How many tokens a text has, by the chat template or without.
    Counted {
        text: String,
        chat: bool,
        tokens: usize,
    },
    /// The models that can be opened here.
    Models(Vec<KnownModel>),
    /// A new text has begun with these tokens.
    Began(Vec<Token>),
    /// The model has generated a token.
    Token {
        token: Token,
        /// Receipts of the edits so far, in the order of the edits.
        receipts: Vec<Receipt>,
    },
    /// Generation has ended.
    Ended {
        /// The reason.
        ending: Ending,
        /// The number of tokens generated since the request.
        written: usize,
        /// Tokens a second of wall time.
        rate: f32,
    },
    /// The edits could not be changed; these are still in force.
    Refused(Vec<Edit>),
    /// The current text is kept under this number for [`Request::Restore`], because it is about to be cut or replaced, or its
    /// edit schedule to be dropped.
    Kept(u64),
    /// The text was cut to this many tokens.
    Rewound(usize),
    /// The text kept under this number is restored.
    Restored(u64),
    /// The edits in force have changed.
    Edited {
        /// The first position read under the new edits, if earlier positions keep the old ones.
        boundary: Option<usize>,
        /// Receipts, in the order of the edits.
        receipts: Vec<Receipt>,
    },
    /// A whole figure.
    Figure {
        slot: PaneName,
        /// Whether it shows the run that is compared with: the unedited one, or that of another text.
        unedited: bool,
        figure: Box<Figure>,
    },
    /// The newest token's column of a live figure, for [`Figure::append`].
    Column {
        slot: PaneName,
        /// The part.
        column: Box<Column>,
    },
    /// Columns of a live figure, the layers that were left for later among them, for [`Figure::complete`].
    Completed {
        slot: PaneName,
        /// The columns.
        column: Box<Column>,
    },
    /// Progress of a figure.
    Working {
        slot: PaneName,
        /// The share done, from 0 to 1.
        done: f32,
        /// The estimated time left at the pace so far; none while too little is done for an estimate.
        left: Option<Duration>,
    },
    /// A requested figure will not come: it was stopped, or a new text came first.
    Dropped(PaneName),
    /// The speed of the latest whole pass, in positions a second.
    Pace(f32),
    /// The self-check of the newest pass: the last row of the lens against the model's own logits.
    Checked(Check),
    /// The numbers of a pass are not finite; holds what to do, in a few words.
    NotFinite(&'static str),
    /// Receipts with their KL, in the order of the edits.
    Receipts(Vec<Receipt>),
    /// What each edit did at every position that was just read again.
    Fired(Vec<FiredAt>),
    /// How the baseline run is now made.
    Beside {
        beside: BaselineMode,
        /// In lockstep, the baseline run's own text after the prompt; empty until the runs diverge.
        tokens: Vec<Token>,
        /// The first position at which the two runs chose different tokens.
        diverged: Option<usize>,
    },
    /// A set of units is stored under this name.
    Grouped(String),
    /// The unedited continuation of the same prompt with the same seed.
    Baseline {
        /// The generated tokens, without the prompt.
        tokens: Vec<Token>,
        /// The first position at which it differs from the current text.
        diverges: Option<usize>,
    },
    /// A direction is ready.
    Direction(KnownDirection),
    /// A note for the user.
    Noted(String),
    /// A request failed; the state is as before.
    Failed {
        /// The pane that requested it, if any.
        slot: Option<PaneName>,
        /// The error sentence.
        message: String,
    },
}

/// A handle on the running engine: sends requests and stops work.
#[derive(Debug)]
pub struct Handle {
    sender: Sender<Request>,
    cancel: Arc<AtomicBool>,
    /// Raised with every request, so that work which waits for quiet makes way.
    hurry: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Handle {
    /// Sends a request. If the engine has ended, nothing happens: its last update said why.
    pub fn ask(&self, request: Request) {
        if self.sender.send(request).is_err() {
            tracing::warn!("the engine has stopped");
        }
        // After the request is sent, so that whoever makes way finds it.
        self.hurry.store(true, Ordering::Release);
    }

    /// Interrupts the work in progress, within one layer.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
        self.hurry.store(true, Ordering::Release);
    }

    /// Asks the thread to end and waits for it; that takes at most about the time of one layer.
    pub fn close(mut self) {
        self.cancel();
        let (gone, _) = std::sync::mpsc::channel();
        self.sender = gone;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine thread panicked while closing");
        }
    }
}

/// Starts the engine. `deliver` is called on its thread for every update; if it returns `false`, the engine ends.
pub fn spawn(deliver: impl Fn(Update) -> bool + Send + 'static) -> Result<Handle> {
    let (sender, requests): (Sender<Request>, Receiver<Request>) = std::sync::mpsc::channel();
    let cancel = Arc::new(AtomicBool::new(false));
    let hurry = Arc::new(AtomicBool::new(false));
    let flags = (cancel.clone(), hurry.clone());
    let thread = std::thread::Builder::new()
        .name("lmscope-engine".into())
        .spawn(move || worker::Worker::new(requests, flags, deliver).work())
        .map_err(|e| crate::error::Error::Engine(format!("its thread did not start: {e}")))?;
    Ok(Handle {
        sender,
        cancel,
        hurry,
        thread: Some(thread),
    })
}
