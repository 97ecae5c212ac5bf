//! The app: the state of the user's work. No terminal, no tensors.
//!
//! Invariant: [`App::update`] is a plain function from state and event to state and effects; it never waits, never fails, and
//! increments [`App::revision`] exactly when something may look different.
//! To add something the user can do, add a row in `commands/`; for a new message of the engine, add an arm in `updates.rs`.

mod arrival;
pub mod baseline;
pub mod commands;
mod completion;
pub mod cursor;
mod density;
mod following;
pub mod form;
mod graph_walk;
pub mod history;
mod instrument_groups;
pub mod key;
mod key_press;
pub mod keymap;
pub mod layout;
pub mod line_editor;
pub mod mark;
mod models;
pub mod notice;
pub mod palette;
mod panes;
pub mod pointer;
pub mod prompt_work;
pub mod ready_prompts;
mod reference;
mod replay;
mod requests;
mod screen_state;
mod search;
pub mod session;
pub mod setting;
mod settings;
mod shown_figure;
mod tint;
pub mod tour;
pub mod transcript;
mod updates;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::edit::EditId;
use crate::edit::receipt::Receipt;
use crate::engine::{
    FigureRequest, KnownDirection, Loaded, Loading, PaneName, PromptSource, Request, Token, Update,
};
use crate::figure::{Check, Figure};
use crate::instruments::INSTRUMENTS;
use crate::lab::writer::BaselineMode;

use baseline::Baseline;
use commands::Command;
use cursor::Cursor;
pub use density::Density;
use form::Form;
use history::{Experiment, History};
use key::Key;
use keymap::Keymap;
use layout::{ContentRows, LayoutRequest, Pane, Resized, Zoom};
use line_editor::PromptInput;
use notice::{Level, Notices};
use palette::Listing;
use pointer::Pointer;
use prompt_work::PromptLength;
use ready_prompts::ReadyPrompt;
use replay::Replay;
use search::Query;
use session::Session;
pub use settings::AppSettings;
pub use shown_figure::{CursorFocus, FigureProgress, ShownFigure};
pub use tint::TokenTint;
use tour::Tour;
use transcript::Transcript;

/// How long after a change the screen is recorded: what it was is lost at most for this long where the program is killed.
const SCREEN: Duration = Duration::from_secs(1);

/// An event that the app handles.
#[derive(Debug)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// The mouse was moved or pressed.
    Pointer(Pointer),
    /// Text was pasted.
    Paste(String),
    /// The screen was resized: columns, rows.
    Resize(u16, u16),
    /// The user's editor has left this text.
    Edited(String),
    /// The engine sent an update.
    Engine(Update),
    /// The terminal has said what its background is.
    Background(setting::Background),
    /// The time since the start.
    Tick(Duration),
    /// The program must end now.
    Terminate,
}

/// An effect that the caller performs for the app.
#[derive(Debug)]
pub enum Effect {
    /// Send a request to the engine.
    Ask(Request),
    /// Hand a text to the user's editor; what it leaves is the prompt.
    EditText(String),
    /// Interrupt the engine.
    Cancel,
    /// Put text on the clipboard.
    Copy(String),
    /// Write a file, making its folder.
    Write(PathBuf, Vec<u8>),
    /// Write a file that only the user may read.
    WritePrivate(PathBuf, Vec<u8>),
    /// Write a figure to a file.
    Export {
        /// The name of an export format.
        format: String,
        path: PathBuf,
        figure: Box<Figure>,
    },
    /// Write the screen as a picture.
    Shot(PathBuf),
    /// Record what the screen shows in a file from now on; none ends the recording.
    Record(Option<PathBuf>),
    /// Write a setting into config.toml.
    Configure {
        /// The folder of the file.
        folder: PathBuf,
        name: &'static str,
        /// The value as TOML spells it.
        value: String,
    },
    /// Suspend the program and return to the shell.
    Suspend,
    /// Repaint the whole screen.
    Redraw,
    /// End the program.
    Quit,
}

/// An overlay in front of the panes, which gets the keys.
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
    /// All notices so far.
    Notices {
        /// Lines scrolled up from the newest.
        scroll: usize,
    },
}

/// A command's argument that is being written.
#[derive(Clone, Debug)]
pub struct ArgumentLine {
    pub command: &'static Command,
    /// The argument's name, as the command's row gives it.
    pub label: String,
    /// The text of the argument.
    pub value: PromptInput,
    /// Why it was refused.
    pub error: Option<String>,
}

/// The state of the app.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own that the user flips
#[derive(Debug)]
pub struct App {
    /// Incremented whenever something may look different.
    pub revision: u64,
    /// Time since the start.
    pub now: Duration,
    /// The settings at the start; generation settings and theme may have changed since.
    pub settings: AppSettings,
    /// The inputs of the layout: the size of the screen, the chosen panes, and the focus.
    pub layout: LayoutRequest,
    /// The tour, where it is on.
    pub tour: Option<Tour>,
    /// Where the tour was when it was ended.
    left_tour: Option<Tour>,
    pub model: Option<Loaded>,
    /// The engine's progress in loading a model.
    pub loading: Option<Loading>,
    /// When loading began.
    pub loading_since: Duration,
    /// Directions that edits can name, with where they were measured.
    pub directions: Vec<KnownDirection>,
    pub transcript: Transcript,
    /// The prompt that was run last.
    pub last: Option<PromptSource>,
    /// The state of each instrument's pane.
    pub shown: BTreeMap<PaneName, ShownFigure>,
    /// What is searched for.
    query: Option<Query>,
    /// The panes of cards and nodes that were opened, each with the pane that it was opened in.
    opened: Vec<(PaneName, PaneName)>,
    /// The live instruments, as last sent to the engine.
    watched: Vec<FigureRequest>,
    /// The shared cursor.
    pub cursor: Cursor,
    /// How much a grid cell shows.
    pub density: Density,
    /// Whether grids have their first row on top.
    pub flip: bool,
    /// Whether rows of a grid that say little are folded where not all of them fit.
    pub folded: bool,
    /// What tokens are coloured by.
    pub tint: TokenTint,
    /// Whether figures show the difference from the unedited run.
    pub difference: bool,
    /// Edits, mode, sampling and marks, with undo and redo.
    pub history: History,
    /// The receipts of the edits, in the same order.
    pub receipts: Vec<Receipt>,
    /// The speed of the latest whole pass, in positions a second.
    pub pace: Option<f32>,
    /// The worst self-check of the current run.
    pub check: Option<Check>,
    /// How the engine makes the baseline run.
    pub baseline_mode: BaselineMode,
    /// The text of the baseline run.
    pub baseline: Option<Baseline>,
    /// Whether that text is being generated.
    pub baseline_asked: bool,
    /// The position to which the cursor returns when a text that is generated again reaches it.
    pub return_to: Option<usize>,
    /// Whether the text of the baseline run, or the kept text, is shown.
    pub compare: bool,
    /// The text that is kept to compare others with.
    pub reference: Option<Transcript>,
    pub presets: Vec<ReadyPrompt>,
    /// The index of the selected ready prompt.
    pub preset: usize,
    /// Whether the ready prompts are shown even if there is a text.
    pub show_presets: bool,
    /// The prompt being written.
    pub prompt: PromptInput,
    /// How many tokens a text has that was being written.
    pub prompt_counted: Option<PromptLength>,
    /// Whether the prompt gets the keys.
    pub writing: bool,
    /// The overlay in front of the panes, if any.
    pub overlay: Option<Overlay>,
    /// The keys pressed so far of a longer binding.
    pub pending: Vec<Key>,
    /// Notices for the user.
    pub notices: Notices,
    /// The bindings of keys.
    pub keymap: Keymap,
    /// The requests so far.
    pub session: Session,
    /// The time until which a second ctrl-c quits.
    pub leaving: Option<Duration>,
    /// Whether quitting was refused once, because the session is not on the disk.
    quit_asked: bool,
    /// Named sets of marked units.
    groups: BTreeMap<String, Vec<mark::Mark>>,
    /// What was run in the palette, oldest first.
    commands: Vec<String>,
    /// The session that is being replayed.
    replay: Option<Replay>,
    /// The session that is replayed when its model can be loaded.
    unopened: Option<Replay>,
    /// When the screen is recorded next, because it may have changed.
    screen_due: Option<Duration>,
    /// The edits that were active when the engine last accepted a change.
    in_force: Vec<EditId>,
    theme_before: Option<String>,
    /// The border that the mouse drags, and where it was last.
    dragged: Option<(pointer::Border, (u16, u16))>,
}

impl App {
    /// The initial state, and the first effects.
    pub fn new(mut settings: AppSettings) -> (Self, Vec<Effect>) {
        let resume = settings.resume.take();
        let mut app = Self::at_start(settings);
        let effects = match resume {
            Some(recorded) => app.open_session(recorded),
            None => app.load(),
        };
        (app, effects)
    }

    /// The state before anything was asked of the engine.
    fn at_start(settings: AppSettings) -> Self {
        let keys = settings
            .keys
            .as_ref()
            .map(|(path, text)| (path.as_path(), text.as_str()));
        let (keymap, warnings) = Keymap::new(keys);
        let first = INSTRUMENTS.first().map_or("", |i| i.name());
        let second = INSTRUMENTS.get(1).map_or(first, |i| i.name());
        let figure = INSTRUMENTS.iter().find(|i| i.name() == settings.figure);
        let figure = figure.map_or(first, |i| i.name());
        let mut app = Self {
            revision: 1,
            now: Duration::ZERO,
            layout: LayoutRequest {
                size: (0, 0),
                focus: Pane::Transcript,
                last_side_pane: Pane::Figure(figure),
                first,
                figure,
                second: if [first, second].contains(&figure) {
                    second
                } else {
                    figure
                },
                third: INSTRUMENTS.get(2).map_or(first, |i| i.name()),
                rows: ContentRows::default(),
                resized: Resized::default(),
                zoom: Zoom::Normal,
            },
            tour: settings.tour.then_some(Tour { step: 0 }),
            left_tour: None,
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
            query: None,
            opened: Vec::new(),
            watched: Vec::new(),
            cursor: Cursor::default(),
            density: settings.density,
            flip: settings.flip,
            folded: false,
            tint: settings.tint,
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
            reference: None,
            presets: ready_prompts::presets(&settings.model),
            preset: 0,
            show_presets: false,
            prompt: PromptInput::paragraph(),
            prompt_counted: None,
            writing: false,
            overlay: None,
            pending: Vec::new(),
            notices: Notices::default(),
            keymap,
            session: Session::kept_in(settings.session.clone()),
            leaving: None,
            quit_asked: false,
            groups: BTreeMap::new(),
            commands: Vec::new(),
            replay: None,
            unopened: None,
            screen_due: None,
            in_force: Vec::new(),
            theme_before: None,
            dragged: None,
            settings,
        };
        for warning in warnings {
            app.notices.say(Duration::ZERO, Level::Warning, warning);
        }
        app.show_dictionaries();
        app
    }

    /// Puts the features of the dictionaries of the settings on the screen.
    fn show_dictionaries(&mut self) {
        let given = self.settings.dictionaries.join(",");
        let labels = self.settings.labels.clone().unwrap_or_default();
        if given.is_empty() && labels.is_empty() {
            return;
        }
        for of in INSTRUMENTS {
            let reads = |name: &str| of.parameters().iter().any(|p| p.name == name);
            let Some(shown) = self
                .shown
                .get_mut(of.name())
                .filter(|_| reads(commands::DICTIONARY))
            else {
                continue;
            };
            let arguments = shown
                .arguments
                .clone()
                .with(commands::DICTIONARY, given.as_str());
            shown.arguments = if reads(commands::LABELS) {
                arguments.with(commands::LABELS, labels.as_str())
            } else {
                arguments
            };
        }
        if let Ok(slot) = commands::features() {
            self.layout.choose(slot);
            self.layout.last_side_pane = Pane::Figure(slot);
        }
    }

    /// Requests the model.
    pub(super) fn load(&mut self) -> Vec<Effect> {
        self.loading = Some("starting".into());
        self.loading_since = self.now;
        let load = Request::Load {
            model: self.settings.model.clone(),
            options: self.settings.options.clone(),
        };
        vec![self.send_request(load)]
    }

    /// Handles an event; returns the effects to perform.
    pub fn update(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = match event {
            Event::Tick(now) => {
                self.tick(now);
                return Vec::new();
            }
            Event::Key(key) => {
                self.revision += 1;
                let mut effects = self.press(key);
                effects.extend(self.update_live_instruments());
                effects
            }
            Event::Pointer(pointer) => {
                self.revision += 1;
                let mut effects = self.point(pointer);
                effects.extend(self.update_live_instruments());
                effects
            }
            Event::Paste(text) => {
                self.revision += 1;
                self.paste(&text);
                if self.writing {
                    self.count_prompt()
                } else {
                    Vec::new()
                }
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
            Event::Background(background) => {
                self.revision += 1;
                self.settings.background = Some(background);
                self.follow_background();
                Vec::new()
            }
            Event::Edited(text) => {
                self.revision += 1;
                self.writing = true;
                self.prompt.set(&text);
                self.count_prompt()
            }
            Event::Terminate => return self.quit(),
        };
        effects.extend(self.follow_cursor());
        self.go_on_with_tour();
        self.screen_due.get_or_insert(self.now + SCREEN);
        effects
    }

    fn tick(&mut self, now: Duration) {
        // The elapsed seconds are shown while the engine works.
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
        if self.screen_due.take_if(|due| *due <= now).is_some() {
            let screen = self.screen_line();
            if let Some(failure) = self.session.note_screen(screen) {
                self.revision += 1;
                self.notices.say(now, Level::Error, failure);
            }
        }
    }

    /// Whether elapsed time is shown on the screen.
    fn waiting(&self) -> bool {
        self.loading.is_some() || self.transcript.activity == transcript::Activity::Reading
    }

    /// The time of the next necessary tick; none if nothing will change by itself.
    pub fn deadline(&self) -> Option<Duration> {
        let second = self
            .waiting()
            .then(|| Duration::from_secs(self.now.as_secs() + 1));
        [
            second,
            self.leaving,
            self.notices.deadline(),
            self.screen_due,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the ready prompts are shown.
    pub fn choosing(&self) -> bool {
        self.show_presets || (self.transcript.tokens.is_empty() && !self.transcript.busy())
    }

    /// Whether the model has a chat template; true until it is loaded.
    pub fn chat_possible(&self) -> bool {
        self.model.as_ref().is_none_or(|m| m.card.chat)
    }

    /// What the token that the other run chose at a position is called.
    pub fn other_run_name(&self, position: usize) -> &'static str {
        match self.transcript.baseline_mode_at(position) {
            BaselineMode::Forced => "edited run's choice ",
            BaselineMode::Nothing | BaselineMode::SameText | BaselineMode::OwnText => "unedited ",
        }
    }

    /// The token under the cursor.
    pub fn token(&self) -> Option<&Token> {
        self.transcript.tokens.get(self.cursor.position)
    }

    /// Shows a notice for a short while.
    pub fn inform(&mut self, text: impl Into<String>) {
        self.notices.say(self.now, Level::Info, text);
    }

    /// Shows a warning.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.notices.say(self.now, Level::Warning, text);
    }

    /// Shows an error, which stays until dismissed.
    pub fn warn_loudly(&mut self, text: impl Into<String>) {
        self.notices.say(self.now, Level::Error, text);
    }

    /// Shows a notice on the outcome of an effect.
    pub fn report(&mut self, outcome: Result<String, String>) {
        self.revision += 1;
        match outcome {
            Ok(text) => self.inform(text),
            Err(text) => self.warn_loudly(text),
        }
    }
}
