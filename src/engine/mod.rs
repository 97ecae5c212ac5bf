//! The engine: one named thread that owns the model, and the channel to it.
//!
//! Invariant: tensors stay inside; only tokens, small figures and sentences cross. A newer request for a pane
//! replaces the waiting one; a token is one turn, so requests slip in between tokens.
//! To add something the engine can do, add a variant of [`Request`], its arm in `worker/mod.rs`, and an [`Update`].

mod worker;

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
use crate::figure::{Check, Figure};
use crate::instruments::{Arguments, instrument};
use crate::lab::sample::Sampling;
use crate::lab::writer::BaselineMode;
use crate::model::hub::Progress;
use crate::model::load::Options;
use crate::model::network::site::Address;

pub use crate::edit::schedule::Mode;

/// Which pane a figure is for: the name of the instrument that fills it.
pub type PaneName = &'static str;

/// What a text starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptSource {
    /// Text as the model's tokenizer reads it, with its BOS.
    Text(String),
    /// One user turn through the chat template.
    Chat(String),
    /// Token ids as they are.
    Ids(Vec<u32>),
}

/// A question to an instrument about the current run.
#[derive(Clone, Debug, PartialEq)]
pub struct FigureRequest {
    /// The instrument's name.
    pub instrument: PaneName,
    /// Its parameters, by name.
    pub arguments: Arguments,
    /// Whether to leave the edits out (the baseline of the same tokens).
    pub unedited: bool,
    /// How many tokens of the text it is about; all by default.
    pub until: Option<usize>,
}

impl FigureRequest {
    /// Whether it is about the text that is there; some instruments read files alone.
    ///
    /// # Errors
    ///
    /// When there is no such instrument.
    pub fn needs_text(&self) -> Result<bool> {
        Ok(instrument(self.instrument)?.needs_prompt(&self.arguments))
    }
}

/// What the engine can be asked.
#[derive(Debug)]
pub enum Request {
    /// Load a model; answered by `Loaded` or `Failed`.
    Load {
        /// The model argument.
        model: String,
        /// Wishes.
        options: Options,
    },
    /// Start a new text and write `count` tokens.
    Generate {
        /// The prompt: text, a chat turn, or token ids.
        prompt: PromptSource,
        /// Most tokens to write.
        count: usize,
    },
    /// Write `count` more tokens.
    Continue {
        /// Most tokens to write.
        count: usize,
    },
    /// Stop writing (also [`Handle::cancel`], which interrupts a pass).
    Stop,
    /// Forget everything from a position on; the next token is chosen again.
    Rewind {
        /// The first position to forget; at least 1.
        position: usize,
    },
    /// Bring a kept text back, by the number that [`Update::Kept`] gave it; the present one is kept instead.
    Restore(u64),
    /// Change temperature, seed and cuts; holds from the next token.
    Sampling(Sampling),
    /// Replace the edits.
    Edits {
        /// All of them, on and off.
        edits: Vec<Edit>,
        /// What this means for the past.
        mode: Mode,
    },
    /// Which instruments are live, with their parameters: each sends a figure now and a column a token.
    Live(Vec<FigureRequest>),
    /// Ask once. A newer question for the same instrument replaces a waiting one.
    Observe(FigureRequest),
    /// Write the same prompt without edits, same seed and length; answered by `Baseline`.
    Baseline,
    /// What runs beside the text, from the next token on; answered by `Beside`. Holds for later texts as well.
    Beside(BaselineMode),
    /// Keep units under a name that edits can use.
    Group {
        name: String,
        set: UnitSet,
        save: Option<PathBuf>,
    },
    /// Make a direction by difference of means from two prompt lists.
    Direction {
        /// The name it gets in edits.
        name: String,
        /// Prompts that show the behaviour.
        plus: Vec<String>,
        /// Prompts that do not.
        minus: Vec<String>,
        /// Whether prompts go through the chat template.
        chat: bool,
        /// `resid_pre` of this layer, at the last prompt token.
        layer: usize,
        save: Option<PathBuf>,
    },
    /// Panic inside, to test that the model survives. Only tests send it.
    #[doc(hidden)]
    Panic,
}

/// A token with what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    pub position: usize,
    pub id: u32,
    pub bytes: Vec<u8>,
    /// Whether it is special (begin, end, turn marks).
    pub special: bool,
    /// Natural logarithm of the probability it was chosen with (before temperature); none for prompt tokens.
    pub logprob: Option<f32>,
    /// How many tokens were more probable.
    pub rank: Option<u32>,
    /// KL(unedited ‖ edited) of the distribution it was drawn from, nats, when edits are in force.
    pub kl: Option<f32>,
    /// What the edits did at its position, counted as receipts are.
    #[serde(default)]
    pub fired: Vec<FiredAt>,
    /// In lockstep: what the other of the two runs chose here, with its probability in that run.
    #[serde(default)]
    pub other: Option<Box<Token>>,
}

/// A direction that edits can name.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownDirection {
    pub name: String,
    /// Where it has a vector, in order.
    pub addresses: Vec<Address>,
    /// Whether nothing says where those were measured: the addresses are stand-ins.
    pub anywhere: bool,
    /// Euclidean length of the first vector.
    pub length: f32,
    /// What to know before it is used, and how it was made, in sentences.
    pub remarks: Vec<String>,
    /// The strength to start with.
    pub strength: f32,
}

impl KnownDirection {
    /// What is told of a direction under a name.
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

    /// The first address that the direction was measured at, if its file says.
    pub fn home(&self) -> Option<Address> {
        let first = self.addresses.first().copied();
        first.filter(|_| !self.anywhere)
    }

    /// Where it was measured and what else is known of it, for people.
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

/// How far the loading of a model is.
#[derive(Clone, Debug, PartialEq)]
pub struct Loading {
    /// What is being done, in a few words.
    pub phase: String,
    /// How far the download is, while there is one.
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

/// What a loaded model offers the screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub card: crate::model::Card,
    /// Seconds it took.
    pub seconds: f32,
    /// Directions that edits can name.
    pub directions: Vec<KnownDirection>,
    /// What a user should know of how it was loaded.
    pub notes: Vec<String>,
}

/// Why writing stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The requested number of tokens was generated.
    Count,
    /// The model ended its text.
    EndToken,
    /// The context is full.
    Context,
    /// The user stopped it.
    Stopped,
    /// The numbers are not finite any more; no token was chosen from them.
    NotFinite,
}

/// What the engine tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A model is being loaded.
    Loading(Loading),
    /// The model is loaded.
    Loaded(Box<Loaded>),
    /// A new text began with these tokens.
    Began(Vec<Token>),
    /// The model wrote a token.
    Token {
        token: Token,
        /// Receipts of the edits so far, in the order of the edits.
        receipts: Vec<Receipt>,
    },
    /// Writing stopped.
    Ended {
        /// Why.
        ending: Ending,
        /// Tokens written since the request.
        written: usize,
        /// Tokens a second, wall time.
        rate: f32,
    },
    /// The edits could not be changed; these are in force, as before.
    Refused(Vec<Edit>),
    /// The text is about to be cut or replaced, or its edits to be forgotten, and is kept whole under this number for [`Request::Restore`].
    Kept(u64),
    /// The text was cut: this many tokens are left.
    Rewound(usize),
    /// The text that was kept under this number is back, as it was.
    Restored(u64),
    /// The edits in force; `boundary` is the first position of a change made from now.
    Edited {
        /// Where a boundary belongs in the transcript.
        boundary: Option<usize>,
        /// Receipts, in the order of the edits.
        receipts: Vec<Receipt>,
    },
    /// A whole figure.
    Figure {
        slot: PaneName,
        /// Whether it shows the unedited run.
        unedited: bool,
        figure: Box<Figure>,
    },
    /// The newest token's part of a live figure, for [`Figure::append`].
    Column {
        slot: PaneName,
        /// The part.
        column: Box<Column>,
    },
    /// A figure is being made: how far, 0 to 1.
    Working {
        slot: PaneName,
        /// How far.
        done: f32,
        /// What the rest will take at the pace so far; none while that is a guess.
        left: Option<Duration>,
    },
    /// A figure that was asked for is not made: it was stopped, or a new text came first.
    Dropped(PaneName),
    /// How many positions a second the latest whole pass read.
    Pace(f32),
    /// The self-check of the newest pass: last lens row against the model's own logits.
    Checked(Check),
    /// A pass came to numbers that are not finite; the way out, in a few words.
    NotFinite(&'static str),
    /// Receipts with their KL filled in, in the order of the edits.
    Receipts(Vec<Receipt>),
    /// What the edits did at every position that was just read again.
    Fired(Vec<FiredAt>),
    /// How the unedited run is generated next to the text.
    Beside {
        beside: BaselineMode,
        /// In lockstep, the unedited run's own text after the prompt; empty where both are still one.
        tokens: Vec<Token>,
        /// The first position at which the two runs chose differently.
        diverged: Option<usize>,
    },
    /// A group of units has this name now.
    Grouped(String),
    /// The unedited continuation of the same prompt with the same seed.
    Baseline {
        /// What was written, prompt excluded.
        tokens: Vec<Token>,
        /// The first position at which it differs from the current text.
        diverges: Option<usize>,
    },
    /// A direction is ready.
    Direction(KnownDirection),
    /// Something that a user should know came up.
    Noted(String),
    /// Something could not be done; the state is as before.
    Failed {
        /// The pane it belongs to, if any.
        slot: Option<PaneName>,
        /// What went wrong and what to do.
        message: String,
    },
}

/// The other end of the engine: ask it, stop it.
#[derive(Debug)]
pub struct Handle {
    sender: Sender<Request>,
    cancel: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Handle {
    /// Sends a request. A dead engine is not an error here: its last update said why.
    pub fn ask(&self, request: Request) {
        if self.sender.send(request).is_err() {
            tracing::warn!("the engine has stopped");
        }
    }

    /// Interrupts what runs now, within one layer.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// Asks the thread to end and waits for it, at most about one layer's time.
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

/// Starts the engine. `deliver` is called on its thread for every update; `false` ends it.
pub fn spawn(deliver: impl Fn(Update) -> bool + Send + 'static) -> Result<Handle> {
    let (sender, requests): (Sender<Request>, Receiver<Request>) = std::sync::mpsc::channel();
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    let thread = std::thread::Builder::new()
        .name("lmscope-engine".into())
        .spawn(move || worker::Worker::new(requests, flag, deliver).work())
        .map_err(|e| crate::error::Error::Engine(format!("its thread did not start: {e}")))?;
    Ok(Handle {
        sender,
        cancel,
        thread: Some(thread),
    })
}
