//! The screen: paints the app and owns the terminal.
//!
//! Invariant: the engine is never waited for; a frame is drawn only when the app's revision moved, thirty times a
//! second at most, and none while nothing happens. Whatever ends the loop, the terminal is given back.
//! To add an effect, add its arm in `Screen::perform`.

mod draw;
pub mod figures;
mod input;
mod overlay;
pub mod panes;
mod script;
pub mod terminal;
pub mod theme;
pub mod widgets;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossterm::event::EventStream;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::app::{App, Effect, Event, Settings};
use crate::config::UserConfig;
use crate::engine::{self, Handle, Update};
use crate::error::{Error, Result};
use crate::export;
use crate::file::{self, Overwrite};
use crate::lab::edit::Edit;
use crate::lab::preset::Preset;
use crate::lab::sample::Sampling;
use crate::model::load::Options;

pub use draw::draw;
pub use panes::Memory;
pub use theme::Theme;

use terminal::Terminal;
use theme::{Depth, Glyphs, Variant};

/// The shortest time between two frames.
const FRAME: Duration = Duration::from_millis(33);
/// The most events taken in before a frame.
const BATCH: usize = 512;

/// A picture of a scripted session, instead of a terminal.
#[derive(Clone, Debug)]
pub struct Shot {
    /// Where the SVG goes.
    pub path: PathBuf,
    /// Columns and rows.
    pub size: (u16, u16),
    /// Keys pressed after the first text was written, as `keys.toml` writes them, with spaces between.
    pub keys: String,
}

/// What the screen starts with.
#[derive(Clone, Debug)]
pub struct ScreenOptions {
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
    /// Preset files with what they hold, before the edits.
    pub presets: Vec<(PathBuf, Preset)>,
    /// Edits in force from the start.
    pub edits: Vec<Edit>,
    /// The theme; by default the first one, which uses the terminal's own colours.
    pub theme: Option<String>,
    /// The value of `--color`.
    pub color: Option<String>,
    /// The folder with `keys.toml` and `themes/`; by default the user's.
    pub config: Option<PathBuf>,
    /// The folder for session files; by default the user's.
    pub state: Option<PathBuf>,
    /// Whether the session is kept, where the user's config.toml does not forbid it.
    pub keep_session: bool,
    /// Write a picture of a scripted session and end.
    pub shot: Option<Shot>,
}

impl Default for ScreenOptions {
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
            theme: None,
            color: None,
            config: None,
            state: None,
            keep_session: true,
            shot: None,
        }
    }
}

/// Opens the screen and stays until the user leaves.
#[allow(clippy::needless_pass_by_value)] // it is over when this returns
pub fn run(options: ScreenOptions) -> Result<()> {
    let wardrobe = Wardrobe::open(&options)?;
    if let Some(shot) = options.shot.clone() {
        return script::run(&shot, settings(&options, &wardrobe, None), &wardrobe);
    }
    let settings = settings(&options, &wardrobe, sessions(&options)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("the event loop", e))?;
    runtime.block_on(Screen::open(settings, wardrobe)?.stay())
}

fn folders() -> Option<directories::ProjectDirs> {
    directories::ProjectDirs::from("", "", "lmscope")
}

fn config(options: &ScreenOptions) -> Option<PathBuf> {
    options
        .config
        .clone()
        .or_else(|| folders().map(|f| f.config_dir().to_path_buf()))
}

/// The folder where the session is kept; none where the user wants none.
fn sessions(options: &ScreenOptions) -> Result<Option<PathBuf>> {
    let settled = match config(options) {
        Some(folder) => UserConfig::read(&folder)?,
        None => UserConfig::default(),
    };
    if !(settled.save && options.keep_session) {
        return Ok(None);
    }
    let usual = || {
        folders().map(|f| {
            f.state_dir()
                .unwrap_or_else(|| f.data_local_dir())
                .join("sessions")
        })
    };
    let own = || {
        let folder = usual()?;
        // Those of earlier versions were open to everybody.
        if folder.is_dir() {
            let _kept = std::fs::set_permissions(&folder, Permissions::from_mode(0o700));
        }
        Some(folder)
    };
    Ok(options.state.clone().or_else(own))
}

fn settings(options: &ScreenOptions, wardrobe: &Wardrobe, session: Option<PathBuf>) -> Settings {
    Settings {
        model: options.model.clone(),
        options: options.options.clone(),
        prompt: options.prompt.clone(),
        chat: options.chat,
        sampling: options.sampling,
        count: options.count,
        presets: options.presets.clone(),
        edits: options.edits.clone(),
        theme: wardrobe.first.clone(),
        themes: wardrobe
            .themes
            .iter()
            .map(|t| (t.name.clone(), about(t)))
            .collect(),
        formats: export::FORMATS.iter().map(|f| f.name.to_string()).collect(),
        keys: wardrobe.keys.clone(),
        session,
    }
}

fn about(theme: &Theme) -> String {
    let ground = match theme.variant {
        Variant::Any => "any background",
        Variant::Dark => "dark",
        Variant::Light => "light",
    };
    format!("{}, {ground}", theme.title)
}

/// What the user's folder holds: every theme, settled for this terminal, and the keys.
struct Wardrobe {
    themes: Vec<Theme>,
    first: String,
    /// `keys.toml`: path and content.
    keys: Option<(PathBuf, String)>,
    warnings: Vec<String>,
}

impl Wardrobe {
    fn open(options: &ScreenOptions) -> Result<Self> {
        let env = |name: &str| std::env::var(name).ok();
        let depth = if options.shot.is_some() && options.color.is_none() {
            Depth::True
        } else {
            Depth::detect(options.color.as_deref(), env)?
        };
        let glyphs = if options.shot.is_some() {
            Glyphs::Unicode
        } else {
            Glyphs::detect(env)
        };
        let (own, mut warnings) = config(options).map_or_else(Default::default, |folder| {
            Theme::load_folder(&folder.join("themes"))
        });
        let mut themes: Vec<Theme> = Theme::all();
        themes.retain(|t| !own.iter().any(|o| o.name == t.name));
        themes.extend(own);
        themes = themes.iter().map(|t| t.adapt(depth)).collect();
        for theme in &mut themes {
            theme.glyphs = glyphs;
        }
        let usual = themes.first().map_or_else(String::new, |t| t.name.clone());
        let first = options.theme.clone().unwrap_or_else(|| usual.clone());
        let first = if themes.iter().any(|t| t.name == first) {
            first
        } else {
            warnings.push(format!(
                "There is no theme `{first}`; `lmscope themes` lists them. {usual} is used."
            ));
            usual
        };
        let keys = config(options).map(|folder| folder.join("keys.toml"));
        let keys = keys.filter(|path| path.exists()).and_then(|path| {
            let text = file::words(&path).map_err(|why| warnings.push(why.to_string()));
            Some((path, text.ok()?))
        });
        Ok(Self {
            themes,
            first,
            keys,
            warnings,
        })
    }

    fn theme(&self, name: &str) -> Theme {
        self.themes
            .iter()
            .find(|t| t.name == name)
            .or(self.themes.first())
            .cloned()
            .unwrap_or_default()
    }
}

/// Paints the app on a buffer of its size.
fn paint(app: &App, theme: &Theme, memory: &mut Memory) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, app.size.0, app.size.1));
    draw(app, theme, memory, &mut buffer);
    buffer
}

/// Writes a picture of the app.
fn shoot(app: &App, theme: &Theme, memory: &mut Memory, path: &Path) -> Result<String> {
    use export::colour::{Rgb, rgb};
    let (usual_back, usual_fore) = match theme.variant {
        Variant::Any | Variant::Dark => (Rgb::hex(0x16_18_1d), Rgb::hex(0xd6_da_e0)),
        Variant::Light => (Rgb::hex(0xfa_fa_f7), Rgb::hex(0x24_28_30)),
    };
    let ground = theme.ground();
    let back = ground.bg.and_then(rgb).unwrap_or(usual_back);
    let fore = ground.fg.and_then(rgb).unwrap_or(usual_fore);
    let svg = export::screen::svg(&paint(app, theme, memory), back, fore, "lmscope");
    create(path, svg.as_bytes())
}

/// Writes a new file, making its folder; one that is there stays.
fn create(path: &Path, bytes: &[u8]) -> Result<String> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    file::write(path, bytes, Overwrite::Never)?;
    Ok(format!(
        "written: {} ({} bytes)",
        path.display(),
        bytes.len()
    ))
}

/// A figure as text in a format.
fn exported(format: &str, figure: &crate::lab::figure::Figure) -> Result<String> {
    (export::format_named(format)?.write)(figure)
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    Over,
}

/// The app on a terminal.
struct Screen {
    app: App,
    engine: Handle,
    updates: UnboundedReceiver<Update>,
    terminal: Terminal,
    wardrobe: Wardrobe,
    theme: Theme,
    memory: Memory,
    began: Instant,
    drawn: (u64, Instant),
    first: Vec<Effect>,
}

impl Screen {
    fn open(settings: Settings, wardrobe: Wardrobe) -> Result<Self> {
        let began = Instant::now();
        let terminal = Terminal::enter()?;
        let (sender, updates) = unbounded_channel();
        let engine = engine::spawn(move |update| sender.send(update).is_ok())?;
        let (mut app, first) = App::new(settings);
        let (width, height) = terminal.size()?;
        app.update(Event::Resize(width, height));
        for warning in &wardrobe.warnings {
            app.warn(warning.clone());
        }
        let theme = wardrobe.theme(&app.theme);
        Ok(Self {
            app,
            engine,
            updates,
            terminal,
            wardrobe,
            theme,
            memory: Memory::default(),
            began,
            drawn: (0, began),
            first,
        })
    }

    async fn stay(mut self) -> Result<()> {
        // Something to look at before the model is touched.
        self.frame()?;
        let first = std::mem::take(&mut self.first);
        self.perform(first)?;
        let outcome = self.turn_round().await;
        self.terminal.leave();
        if let Some(failure) = self.app.session.finish() {
            crate::out::note(&format!("{failure}."));
        }
        // The engine ends within a layer's time; a stuck one is not waited for.
        let (done, ended) = std::sync::mpsc::channel();
        let engine = self.engine;
        let closing = std::thread::spawn(move || {
            engine.close();
            let _told = done.send(());
        });
        if ended.recv_timeout(Duration::from_millis(800)).is_ok() {
            let _joined = closing.join();
        }
        outcome
    }

    async fn turn_round(&mut self) -> Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let on = |kind| signal(kind).map_err(|e| Error::io("signals", e));
        let (mut term, mut hup, mut int) = (
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
            on(SignalKind::interrupt())?,
        );
        let (gone_sender, mut gone) = unbounded_channel::<()>();
        terminal::watch_hangup(move || {
            let _told = gone_sender.send(());
            std::thread::sleep(Duration::from_millis(1500));
            // Somebody still holds on to a terminal that is not there.
            std::process::exit(129);
        })
        .map_err(|e| Error::io("the terminal's watch", e))?;
        let mut input = EventStream::new();
        loop {
            let wait = self.wait();
            let mut queue: Vec<Event> = Vec::new();
            tokio::select! {
                events = input::gather(&mut input) => queue.extend(events),
                update = self.updates.recv() => queue.extend(update.map(Event::Engine)),
                _ = term.recv() => queue.push(Event::Terminate),
                _ = hup.recv() => queue.push(Event::Terminate),
                _ = int.recv() => queue.push(Event::Terminate),
                Some(()) = gone.recv() => queue.push(Event::Terminate),
                () = pause(wait) => {}
            }
            while queue.len() < BATCH
                && let Ok(update) = self.updates.try_recv()
            {
                queue.push(Event::Engine(update));
            }
            self.app.update(Event::Tick(self.began.elapsed()));
            for event in queue {
                let effects = self.app.update(event);
                if self.perform(effects)? == Flow::Over {
                    return Ok(());
                }
            }
            if self.app.revision != self.drawn.0 && self.drawn.1.elapsed() >= FRAME {
                self.frame()?;
            }
        }
    }

    /// How long nothing needs to happen by itself; none is for ever.
    fn wait(&self) -> Option<Duration> {
        let due = self
            .app
            .deadline()
            .map(|at| at.saturating_sub(self.began.elapsed()));
        let frame = (self.app.revision != self.drawn.0)
            .then(|| FRAME.saturating_sub(self.drawn.1.elapsed()));
        [due, frame].into_iter().flatten().min()
    }

    fn frame(&mut self) -> Result<()> {
        if self.theme.name != self.app.theme {
            self.theme = self.wardrobe.theme(&self.app.theme);
        }
        let (app, theme, memory) = (&self.app, &self.theme, &mut self.memory);
        self.terminal
            .frame(|frame| draw(app, theme, memory, frame.buffer_mut()))?;
        self.drawn = (self.app.revision, Instant::now());
        Ok(())
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<Flow> {
        for effect in effects {
            match effect {
                Effect::Ask(request) => self.engine.ask(request),
                Effect::Cancel => self.engine.cancel(),
                Effect::Copy(text) => {
                    let outcome = self.terminal.copy(&text).map(terminal::Outcome::sentence);
                    self.report(outcome);
                }
                Effect::Write(path, bytes) => {
                    let outcome = create(&path, &bytes);
                    self.report(outcome);
                }
                Effect::Export {
                    format,
                    path,
                    figure,
                } => {
                    let outcome =
                        exported(&format, &figure).and_then(|text| create(&path, text.as_bytes()));
                    self.report(outcome);
                }
                Effect::Shot(path) => {
                    let outcome = shoot(&self.app, &self.theme, &mut self.memory, &path);
                    self.report(outcome);
                }
                Effect::Suspend => {
                    self.terminal.leave();
                    // The whole group, as the terminal driver does it, so that a wrapper such as `cargo run` stops too.
                    let stopped =
                        rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
                    self.take_again()?;
                    stopped.map_err(|e| Error::io("the terminal", e.into()))?;
                }
                Effect::Redraw => {
                    self.terminal.leave();
                    self.take_again()?;
                }
                Effect::Quit => return Ok(Flow::Over),
            }
        }
        Ok(Flow::On)
    }

    /// Takes the terminal anew. Clearing it in place would ask where its cursor is, and the input stream would eat the answer.
    fn take_again(&mut self) -> Result<()> {
        self.terminal = Terminal::enter()?;
        let (width, height) = self.terminal.size()?;
        self.app.update(Event::Resize(width, height));
        Ok(())
    }

    fn report(&mut self, outcome: Result<String>) {
        self.app.report(outcome.map_err(|e| e.to_string()));
    }
}

/// Waits so long, or for ever.
async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
