//! The app: what the user is doing. No terminal, no tensors.
//!
//! Invariant: [`App::update`] is a plain function from state and event to state and effects; it never waits, never
//! fails, and bumps [`App::revision`] exactly when something may look different.
//! To add something the user can do, add a row in `commands/`; something the engine tells, an arm in `updates.rs`.

pub mod baseline;
pub mod commands;
pub mod cursor;
pub mod form;
pub mod history;
pub mod key;
mod key_press;
pub mod keymap;
pub mod layout;
pub mod line_editor;
pub mod mark;
pub mod notice;
pub mod palette;
pub mod ready_prompts;
mod requests;
pub mod session;
mod shown_figure;
pub mod transcript;
mod updates;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::edit::receipt::Receipt;
use crate::edit::{Edit, EditId};
use crate::engine::{
    FigureRequest, KnownDirection, Loaded, Loading, PaneName, Request, Token, Update,
};
use crate::figure::{Check, Figure};
use crate::instruments::INSTRUMENTS;
use crate::lab::sample::Sampling;
use crate::lab::writer::BaselineMode;
use crate::model::load::Options;

use baseline::Baseline;
use commands::Command;
use cursor::Cursor;
use form::Form;
use history::{Experiment, History};
use key::Key;
use keymap::Keymap;
use layout::{Arrangement, LayoutRequest, Pane, Zoom};
use line_editor::PromptInput;
use notice::{Level, Notices};
use palette::Listing;
use ready_prompts::ReadyPrompt;
use session::Session;
pub use shown_figure::{CursorFocus, FigureProgress, ShownFigure};
use transcript::Transcript;

/// What happens to the app.
#[derive(Debug)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// Text was pasted.
    Paste(String),
    /// The screen has this size now: columns, rows.
    Resize(u16, u16),
    /// The engine told something.
    Engine(Update),
    /// So much time has passed since the start.
    Tick(Duration),
    /// The program has to end now.
    Terminate,
}

/// What the app wants done.
#[derive(Debug)]
pub enum Effect {
    /// Ask the engine.
    Ask(Request),
    /// Interrupt the engine.
    Cancel,
    /// Put text on the clipboard.
    Copy(String),
    /// Write a file, making its folder.
    Write(PathBuf, Vec<u8>),
    /// Writes a file that only the user may read.
    WritePrivate(PathBuf, Vec<u8>),
    /// Write a figure to a file.
    Export {
        /// One of the export formats.
        format: String,
        path: PathBuf,
        figure: Box<Figure>,
    },
    /// Write the screen as a picture.
    Shot(PathBuf),
    /// Hand the terminal to the shell.
    Suspend,
    /// Paint everything again.
    Redraw,
    /// End the program.
    Quit,
}

/// How much a grid cell says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Density {
    /// Token and number.
    #[default]
    Full,
    /// Token; its colour is the number.
    Token,
    /// Colour alone.
    Colour,
}

impl Density {
    /// One step towards more text.
    #[must_use]
    pub fn more(self) -> Self {
        match self {
            Self::Colour => Self::Token,
            Self::Token | Self::Full => Self::Full,
        }
    }

    /// One step towards more cells.
    #[must_use]
    pub fn less(self) -> Self {
        match self {
            Self::Full => Self::Token,
            Self::Token | Self::Colour => Self::Colour,
        }
    }
}

/// What lies over the panes and takes the keys.
#[derive(Clone, Debug)]
pub enum Overlay {
    /// A list to choose from: palette, help, pickers.
    Listing(Listing),
    /// The parameters of an instrument.
    Form(Form),
    /// The argument of a command.
    Line(ArgumentLine),
    /// All notes of the chosen figure.
    Notes {
        /// Lines scrolled down from the first.
        scroll: usize,
    },
    /// Everything that was said.
    Notices {
        /// Lines scrolled up from the newest.
        scroll: usize,
    },
}

/// The argument of a command being written.
#[derive(Clone, Debug)]
pub struct ArgumentLine {
    pub command: &'static Command,
    /// The argument's name, as the command's row gives it.
    pub label: String,
    /// What is written.
    pub value: PromptInput,
    /// Why it was refused.
    pub error: Option<String>,
}

/// What the app starts with; everything in it was settled by the caller.
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// The model argument.
    pub model: String,
    /// How to load it.
    pub options: Options,
    /// A prompt to run at once.
    pub prompt: Option<String>,
    /// Whether it goes through the chat template.
    pub chat: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// How many tokens are written at most.
    pub count: usize,
    /// Preset files with what they hold; their edits come before the others.
    pub presets: Vec<(PathBuf, crate::edit::preset::EditPreset)>,
    /// Edits that are in force from the start.
    pub edits: Vec<Edit>,
    pub theme: String,
    /// Every theme: name and sentence.
    pub themes: Vec<(String, String)>,
    /// Every export format.
    pub formats: Vec<String>,
    /// The user's `keys.toml`: path and content.
    pub keys: Option<(PathBuf, String)>,
    /// The folder where the session is kept; none keeps none.
    pub session: Option<PathBuf>,
}

impl Default for AppSettings {
    fn default() -> Self {
        Self {
            model: "demo".into(),
            options: Options::default(),
            prompt: None,
            chat: false,
            sampling: Sampling::default(),
            count: 64,
            presets: Vec::new(),
            edits: Vec::new(),
            theme: "terminal".into(),
            themes: Vec::new(),
            formats: Vec::new(),
            keys: None,
            session: None,
        }
    }
}

/// The state.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own that the user flips
#[derive(Debug)]
pub struct App {
    /// Bumped whenever something may look different.
    pub revision: u64,
    /// Time since the start.
    pub now: Duration,
    /// What it started with; how much is written and how, and the theme, may have changed since.
    pub settings: AppSettings,
    /// What the layout depends on: the size of the screen, which panes are chosen, and which has the keys.
    pub layout: LayoutRequest,
    pub model: Option<Loaded>,
    /// What the engine says while loading.
    pub loading: Option<Loading>,
    /// When that began.
    pub loading_since: Duration,
    /// Directions that edits can name, with where they were measured.
    pub directions: Vec<KnownDirection>,
    pub transcript: Transcript,
    /// The prompt that was run last.
    pub last: Option<(String, bool)>,
    /// What each instrument shows.
    pub shown: BTreeMap<PaneName, ShownFigure>,
    /// What the engine was last told to keep live.
    watched: Vec<FigureRequest>,
    /// The shared cursor.
    pub cursor: Cursor,
    /// How much a grid cell says.
    pub density: Density,
    /// Whether grids have their first row on top.
    pub flip: bool,
    /// Whether tokens are tinted by surprise.
    pub tint: bool,
    /// Whether figures are shown less the unedited run.
    pub difference: bool,
    /// The edits, the mode, how tokens are chosen and what is marked, with undo and redo.
    pub history: History,
    /// Their receipts, in their order.
    pub receipts: Vec<Receipt>,
    /// Positions a second of the latest whole pass.
    pub pace: Option<f32>,
    /// The self-check of this run.
    pub check: Option<Check>,
    /// How the engine generates the unedited run next to the text.
    pub baseline_mode: BaselineMode,
    /// The unedited run's text.
    pub baseline: Option<Baseline>,
    /// Whether the unedited run's text is being generated.
    pub baseline_asked: bool,
    /// Where the cursor goes back to when a text that is written again has come so far.
    pub return_to: Option<usize>,
    /// Whether the unedited run is shown next to the text.
    pub compare: bool,
    pub presets: Vec<ReadyPrompt>,
    /// The selected one.
    pub preset: usize,
    /// Whether the ready prompts are shown although there is a text.
    pub show_presets: bool,
    /// The prompt being written.
    pub prompt: PromptInput,
    /// Whether the prompt has the keys.
    pub writing: bool,
    /// What lies over the panes.
    pub overlay: Option<Overlay>,
    /// The beginning of a longer binding.
    pub pending: Vec<Key>,
    /// What the program has to say.
    pub notices: Notices,
    /// The keys.
    pub keymap: Keymap,
    /// What was asked for so far.
    pub session: Session,
    /// Until when a second ctrl-c leaves.
    pub leaving: Option<Duration>,
    /// Named groups of marked units.
    groups: BTreeMap<String, Vec<mark::Mark>>,
    /// The edits that were on when the engine last took them in.
    in_force: Vec<EditId>,
    theme_before: Option<String>,
}

impl App {
    /// The app before anything happened, and what it wants done first.
    pub fn new(settings: AppSettings) -> (Self, Vec<Effect>) {
        let keys = settings
            .keys
            .as_ref()
            .map(|(path, text)| (path.as_path(), text.as_str()));
        let (keymap, warnings) = Keymap::new(keys);
        let first = INSTRUMENTS.first().map_or("", |i| i.name());
        let second = INSTRUMENTS.get(1).map_or(first, |i| i.name());
        let mut app = Self {
            revision: 1,
            now: Duration::ZERO,
            layout: LayoutRequest {
                size: (0, 0),
                focus: Pane::Transcript,
                last_side_pane: Pane::Figure(first),
                first,
                figure: first,
                second,
                zoom: Zoom::Normal,
            },
            model: None,
            loading: None,
            loading_since: Duration::ZERO,
            directions: Vec::new(),
            transcript: Transcript::default(),
            last: None,
            shown: INSTRUMENTS
                .iter()
                .map(|i| {
                    (
                        i.name(),
                        ShownFigure {
                            arguments: ready_prompts::defaults(&settings.model, *i),
                            ..ShownFigure::default()
                        },
                    )
                })
                .collect(),
            watched: Vec::new(),
            cursor: Cursor::default(),
            density: Density::default(),
            flip: false,
            tint: false,
            difference: false,
            history: History::new(Experiment {
                sampling: settings.sampling,
                ..Experiment::default()
            }),
            receipts: Vec::new(),
            pace: None,
            check: None,
            baseline_mode: BaselineMode::default(),
            baseline: None,
            baseline_asked: false,
            return_to: None,
            compare: false,
            presets: ready_prompts::presets(&settings.model),
            preset: 0,
            show_presets: false,
            prompt: PromptInput::paragraph(),
            writing: false,
            overlay: None,
            pending: Vec::new(),
            notices: Notices::default(),
            keymap,
            session: Session::kept_in(settings.session.clone()),
            leaving: None,
            groups: BTreeMap::new(),
            in_force: Vec::new(),
            theme_before: None,
            settings,
        };
        for warning in warnings {
            app.notices.say(Duration::ZERO, Level::Warning, warning);
        }
        let effects = app.load();
        (app, effects)
    }

    /// Asks for the model.
    pub(super) fn load(&mut self) -> Vec<Effect> {
        self.loading = Some("starting".into());
        self.loading_since = self.now;
        let load = Request::Load {
            model: self.settings.model.clone(),
            options: self.settings.options.clone(),
        };
        vec![self.send_request(load)]
    }

    /// Takes an event and says what is to be done.
    pub fn update(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Tick(now) => {
                self.tick(now);
                Vec::new()
            }
            Event::Key(key) => {
                self.revision += 1;
                let mut effects = self.press(key);
                effects.extend(self.update_live_instruments());
                effects
            }
            Event::Paste(text) => {
                self.revision += 1;
                self.paste(&text);
                Vec::new()
            }
            Event::Resize(width, height) => {
                self.revision += 1;
                self.layout.size = (width, height);
                Vec::new()
            }
            Event::Engine(update) => {
                self.revision += 1;
                self.apply_update(update)
            }
            Event::Terminate => self.quit(),
        }
    }

    fn tick(&mut self, now: Duration) {
        // Elapsed seconds are shown while the engine is at work.
        if self.waiting() && now.as_secs() != self.now.as_secs() {
            self.revision += 1;
        }
        self.now = now;
        if self.leaving.is_some_and(|until| until <= now) {
            self.leaving = None;
            self.revision += 1;
        }
        if self.notices.expire(now) {
            self.revision += 1;
        }
    }

    /// Whether something is shown whose elapsed time counts up.
    fn waiting(&self) -> bool {
        self.loading.is_some() || self.transcript.activity == transcript::Activity::Reading
    }

    /// When a tick is needed next; none when nothing will change by itself.
    pub fn deadline(&self) -> Option<Duration> {
        let second = self
            .waiting()
            .then(|| Duration::from_secs(self.now.as_secs() + 1));
        [second, self.leaving, self.notices.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Where everything is; none when the screen is too small.
    pub fn arrangement(&self) -> Option<Arrangement> {
        layout::arrange(&self.layout)
    }

    /// The panes that Tab visits.
    pub fn panes(&self) -> Vec<Pane> {
        layout::order(&self.layout)
    }

    /// Gives a pane the keys.
    pub fn set_focus(&mut self, pane: Pane) {
        self.layout.focus = pane;
        if pane != Pane::Transcript {
            self.layout.last_side_pane = pane;
        }
        if let Pane::Figure(slot) = pane {
            self.layout.figure = slot;
            if INSTRUMENTS.first().is_some_and(|i| i.name() != slot) {
                self.layout.second = slot;
            }
            if self.difference && self.shown.get(slot).is_some_and(|s| s.difference.is_none()) {
                self.difference = false;
            }
        }
    }

    /// Whether the ready prompts are shown.
    pub fn choosing(&self) -> bool {
        self.show_presets || (self.transcript.tokens.is_empty() && !self.transcript.busy())
    }

    /// Whether the model has a chat template; until it is loaded, perhaps.
    pub fn chat_possible(&self) -> bool {
        self.model.as_ref().is_none_or(|m| m.card.chat)
    }

    /// The token under the cursor.
    pub fn token(&self) -> Option<&Token> {
        self.transcript.tokens.get(self.cursor.position)
    }

    /// Says something for a short while.
    pub fn inform(&mut self, text: impl Into<String>) {
        self.notices.say(self.now, Level::Info, text);
    }

    /// Says something worth a second look.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.notices.say(self.now, Level::Warning, text);
    }

    /// Says that something failed; stays until dismissed.
    pub fn warn_loudly(&mut self, text: impl Into<String>) {
        self.notices.say(self.now, Level::Error, text);
    }

    /// Shows a notice about the result of an effect.
    pub fn report(&mut self, outcome: Result<String, String>) {
        self.revision += 1;
        match outcome {
            Ok(text) => self.inform(text),
            Err(text) => self.warn_loudly(text),
        }
    }
}
