//! The screen: draws the app and owns the terminal.
//!
//! Invariant: the app's effects are performed here and in the files of this folder, and nowhere else; `screen.rs` has the main
//! loop and the end of the program. To add an effect, add its arm in `perform`.

mod cast;
mod decode;
mod draw;
mod editor;
pub mod figures;
mod input;
mod output_thread;
mod overlay;
mod paint;
pub mod panes;
mod screen;
mod script;
mod signals;
pub mod terminal;
pub mod theme;
pub mod widgets;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::app::session::kept::newest_in;
use crate::app::session::recorded::RecordedSession;
use crate::app::setting::Setting;
use crate::app::{App, AppSettings, Effect};
use crate::config::{ConfigMistake, UserConfig};
use crate::engine::Handle;
use crate::error::Result;
use crate::export;
use crate::file::{self, Overwrite};
use crate::model::load::Options;
use crate::text;

pub use draw::draw;
pub use panes::Memory;
pub use theme::Theme;

use theme::{Depth, Glyphs, ThemeVariant};

/// A picture of a scripted session, made without a terminal.
#[derive(Clone, Debug)]
pub struct Shot {
    /// The path of the SVG file.
    pub path: PathBuf,
    /// Columns and rows.
    pub size: (u16, u16),
    /// Keys to press after the first text was generated, as `keys.toml` spells them, separated by spaces.
    pub keys: String,
    /// How many seconds each screen is shown in an animation of all of them; 0 for a picture of the last one.
    pub seconds: f32,
}

/// A session that was left.
#[derive(Clone, Debug)]
pub enum Resume {
    /// The newest one that was kept.
    Newest,
    /// That of a file.
    File(PathBuf),
}

/// The settings of the screen.
#[derive(Clone, Debug)]
pub struct ScreenOptions {
    /// The app's settings, as far as the caller decides them; themes, keys, formats and the session's folder are filled in
    /// here.
    pub start: AppSettings,
    /// The theme; by default the first one, which uses the terminal's own colours.
    pub theme: Option<String>,
    /// The value of `--color`.
    pub color: Option<String>,
    /// The names of the settings that flags have given, which config.toml does not change.
    pub given: Vec<&'static str>,
    /// The folder with `config.toml`, `keys.toml` and `themes/`; by default the user's.
    pub config: Option<PathBuf>,
    /// The folder for session files; by default the user's.
    pub state: Option<PathBuf>,
    /// Whether the session is kept, unless the user's config.toml forbids it.
    pub keep_session: bool,
    /// The session to go on with.
    pub resume: Option<Resume>,
    /// If given, writes a picture of a scripted session and ends.
    pub shot: Option<Shot>,
}

/// Opens the screen and returns when the user quits.
pub fn run(options: ScreenOptions) -> Result<()> {
    let mut themes = ThemeSet::open(&options)?;
    let folder = config(&options).filter(|_| options.shot.is_none());
    let (own, mistakes) = match &folder {
        Some(folder) => UserConfig::read_on(folder)?,
        None => (UserConfig::default(), Vec::new()),
    };
    let start = AppSettings {
        themes: themes
            .themes
            .iter()
            .map(|t| (t.name.clone(), about(t)))
            .collect(),
        save: own.save,
        theme_given: options.theme.is_some(),
        theme: themes.first.clone(),
        ..options.start.clone()
    };
    let (start, wrong) = with_settings(start, &own, &options.given);
    let doubtful = wrong.iter().chain(&mistakes).any(|own| own.doubtful);
    let file = folder
        .as_ref()
        .map(|folder| folder.join(crate::config::NAME));
    let file = file.unwrap_or_default();
    let said = mistakes.iter().chain(&wrong);
    themes
        .warnings
        .extend(said.map(|own| format!("{}, {}", file.display(), own.what)));
    if doubtful {
        themes.warnings.push(format!(
            "No session is kept until {} is mended: a line there may have been meant to forbid it.",
            file.display()
        ));
    }
    let keeps = own.save && options.keep_session && options.shot.is_none() && !doubtful;
    let session = keeps.then(|| sessions(&options)).flatten();
    let mut resume = options
        .resume
        .as_ref()
        .map(|from| recorded(from, &options))
        .transpose()?;
    if let Some(screen) = resume
        .as_mut()
        .and_then(|recorded| recorded.screen.as_mut())
        && options.theme.is_some()
    {
        screen.theme.clear();
    }
    let settings = AppSettings {
        formats: export::FORMATS.iter().map(|f| f.name.to_string()).collect(),
        keys: themes.keys.clone(),
        session,
        sessions: options.state.clone().or_else(usual),
        resume,
        options: Options {
            config: config(&options),
            ..start.options
        },
        config: folder,
        ..start
    };
    match &options.shot {
        Some(shot) => script::run(shot, settings, &themes),
        None => screen::run(settings, themes),
    }
}

/// Puts the user's settings in place, but for those that flags have given.
fn with_settings(
    mut start: AppSettings,
    own: &UserConfig,
    given: &[&str],
) -> (AppSettings, Vec<ConfigMistake>) {
    let mut wrong = Vec::new();
    for own in &own.settings {
        let name = own.name.as_str();
        let why = match Setting::named(name) {
            None => Some(format!(
                "there is no setting {}; :set lists those that there are",
                text::quoted(&[name], 1)
            )),
            Some(_) if given.contains(&name) => None,
            Some(setting) => setting.put(&mut start, &own.words).err(),
        };
        wrong.extend(why.map(|why| ConfigMistake {
            what: format!("line {}: {why}", own.line),
            doubtful: Setting::named(name).is_none(),
        }));
    }
    (start, wrong)
}

fn folders() -> Option<directories::ProjectDirs> {
    directories::ProjectDirs::from("", "", "lmscope")
}

fn config(options: &ScreenOptions) -> Option<PathBuf> {
    options.config.clone().or_else(crate::config::folder)
}

/// The folder for session files.
fn sessions(options: &ScreenOptions) -> Option<PathBuf> {
    let own = || {
        let folder = usual()?;
        // Earlier versions created the folder readable by everybody.
        if folder.is_dir() {
            let _kept = std::fs::set_permissions(&folder, Permissions::from_mode(0o700));
        }
        Some(folder)
    };
    options.state.clone().or_else(own)
}

/// The user's folder for session files.
fn usual() -> Option<PathBuf> {
    let folders = folders()?;
    let state = folders
        .state_dir()
        .unwrap_or_else(|| folders.data_local_dir());
    Some(state.join("sessions"))
}

/// Reads the session to go on with.
fn recorded(from: &Resume, options: &ScreenOptions) -> Result<RecordedSession> {
    match from {
        Resume::File(path) => RecordedSession::read(path),
        Resume::Newest => {
            let folder = options.state.clone().or_else(usual).unwrap_or_default();
            newest_in(&folder)
        }
    }
}

fn about(theme: &Theme) -> String {
    let ground = match theme.variant {
        ThemeVariant::Any => "any background",
        ThemeVariant::Dark => "dark",
        ThemeVariant::Light => "light",
    };
    format!("{}, {ground}", theme.title)
}

/// The user's themes, adapted to this terminal, and keys.
struct ThemeSet {
    themes: Vec<Theme>,
    first: String,
    /// `keys.toml`: path and contents.
    keys: Option<(PathBuf, String)>,
    warnings: Vec<String>,
}

impl ThemeSet {
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

/// Draws the app on a buffer of its size.
fn paint(app: &App, theme: &Theme, memory: &mut Memory) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, app.layout.size.0, app.layout.size.1));
    draw(app, theme, memory, &mut buffer);
    buffer
}

/// Writes a picture of the app to a file.
fn paint_buffer(app: &App, theme: &Theme, memory: &mut Memory, path: &Path) -> Result<String> {
    let (back, fore) = grounds(theme);
    let svg = export::screen::svg(&paint(app, theme, memory), back, fore, "lmscope");
    create(path, svg.as_bytes())
}

/// The colours in a picture that stand for the terminal's own: of the ground and of plain text.
fn grounds(theme: &Theme) -> (export::colour::Rgb, export::colour::Rgb) {
    use export::colour::{Rgb, rgb};
    let (usual_back, usual_fore) = match theme.variant {
        ThemeVariant::Any | ThemeVariant::Dark => (Rgb::hex(0x16_18_1d), Rgb::hex(0xd6_da_e0)),
        ThemeVariant::Light => (Rgb::hex(0xfa_fa_f7), Rgb::hex(0x24_28_30)),
    };
    let ground = theme.ground();
    let back = ground.bg.and_then(rgb).unwrap_or(usual_back);
    let fore = ground.fg.and_then(rgb).unwrap_or(usual_fore);
    (back, fore)
}

/// Writes a new file, creating its folder; an existing file is not overwritten.
fn create(path: &Path, bytes: &[u8]) -> Result<String> {
    create_by(file::write, path, bytes)
}

fn create_by(
    write: fn(&Path, &[u8], Overwrite) -> Result<()>,
    path: &Path,
    bytes: &[u8],
) -> Result<String> {
    // This thread handles the keys, so it must not wait for a pipe.
    file::check_is_file(path)?;
    write(path, bytes, Overwrite::Never)?;
    Ok(format!(
        "written: {} ({} bytes)",
        path.display(),
        bytes.len()
    ))
}

/// An effect that needs the terminal.
enum OnTerminal {
    Copy(String),
    Edit(String),
    Record(Option<PathBuf>),
    Suspend,
    Redraw,
    Quit,
}

/// Performs an effect and reports the result to the app; returns the effect if it needs the terminal.
fn perform(
    effect: Effect,
    app: &mut App,
    engine: &Handle,
    theme: &Theme,
    memory: &mut Memory,
) -> Option<OnTerminal> {
    let outcome = match effect {
        Effect::Ask(request) => {
            engine.ask(request);
            return None;
        }
        Effect::Cancel => {
            engine.cancel();
            return None;
        }
        Effect::Write(path, bytes) => create(&path, &bytes),
        Effect::WritePrivate(path, bytes) => create_by(file::write_private, &path, &bytes),
        Effect::Export {
            format,
            path,
            figure,
        } => export::format_named(&format)
            .and_then(|format| (format.write)(&figure))
            .and_then(|text| create(&path, text.as_bytes())),
        Effect::Configure {
            folder,
            name,
            value,
        } => UserConfig::set(&folder, name, &value)
            .map(|path| format!("{name} = {value}, remembered in {}", path.display())),
        Effect::Shot(path) => paint_buffer(app, theme, memory, &path),
        Effect::Copy(text) => return Some(OnTerminal::Copy(text)),
        Effect::EditText(text) => return Some(OnTerminal::Edit(text)),
        Effect::Record(path) => return Some(OnTerminal::Record(path)),
        Effect::Suspend => return Some(OnTerminal::Suspend),
        Effect::Redraw => return Some(OnTerminal::Redraw),
        Effect::Quit => return Some(OnTerminal::Quit),
    };
    app.report(outcome.map_err(|e| e.to_string()));
    None
}

/// Whether the main loop continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoopControl {
    On,
    Over,
}
