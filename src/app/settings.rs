//! The settings that the app starts with.
//!
//! Invariant: they say what was asked for at the start, and what changes later is said where it changes. To add one, add a field, its default and
//! where it comes from in `cli/screen.rs`.

use std::path::PathBuf;

use super::session::recorded::RecordedSession;
use super::setting::Background;
use super::{Density, TokenTint};
use crate::edit::Edit;
use crate::instruments::INSTRUMENTS;
use crate::lab::sample::Sampling;
use crate::model::load::Options;

/// The settings at the start, all decided by the caller.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// The model argument.
    pub model: String,
    /// How to load it.
    pub options: Options,
    /// A prompt to run at the start.
    pub prompt: Option<String>,
    /// Whether it is encoded by the chat template.
    pub chat: bool,
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// The most tokens to generate.
    pub count: usize,
    /// Preset files with their contents; their edits come before the others.
    pub presets: Vec<(PathBuf, crate::edit::preset::EditPreset)>,
    /// Edits that are in force from the start.
    pub edits: Vec<Edit>,
    /// Dictionaries whose features are shown from the start.
    pub dictionaries: Vec<String>,
    /// The file with labels of their features.
    pub labels: Option<String>,
    pub theme: String,
    /// The themes for a terminal whose background is dark or light; empty for `theme`.
    pub theme_dark: String,
    pub theme_light: String,
    /// Whether the theme was asked for, so that the background does not decide it.
    pub theme_given: bool,
    /// The terminal's background, once it is known.
    pub background: Option<Background>,
    /// Whether the mouse is listened to.
    pub mouse: bool,
    /// Whether sessions are kept from the next start on.
    pub save: bool,
    /// The instrument whose figure stands beside the text at the start.
    pub figure: String,
    /// How much a grid cell shows at the start.
    pub density: Density,
    /// Whether grids have their first layer on top at the start.
    pub flip: bool,
    /// What tokens are coloured by at the start.
    pub tint: TokenTint,
    /// The folder of config.toml, into which settings are written; none to remember none.
    pub config: Option<PathBuf>,
    /// All themes: name and description.
    pub themes: Vec<(String, String)>,
    /// The names of all export formats.
    pub formats: Vec<String>,
    /// The user's `keys.toml`: path and contents.
    pub keys: Option<(PathBuf, String)>,
    /// The folder for the session file; none to keep no session.
    pub session: Option<PathBuf>,
    /// The folder with the sessions that were kept; none without a home.
    pub sessions: Option<PathBuf>,
    /// Whether it begins with the tour.
    pub tour: bool,
    /// A session to go on with.
    pub resume: Option<RecordedSession>,
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
            dictionaries: Vec::new(),
            labels: None,
            theme: "terminal".into(),
            theme_dark: String::new(),
            theme_light: String::new(),
            theme_given: false,
            background: None,
            mouse: false,
            save: true,
            figure: INSTRUMENTS.first().map_or("", |of| of.name()).into(),
            density: Density::default(),
            flip: false,
            tint: TokenTint::default(),
            config: None,
            themes: Vec::new(),
            formats: Vec::new(),
            keys: None,
            session: None,
            sessions: None,
            tour: false,
            resume: None,
        }
    }
}
