//! Settings: what `config.toml` remembers and `:set` changes, as rows. `:set`, its completions and the table of the reference are
//! derived from them.
//!
//! Invariant: a value is understood in one place, whether it comes from the file or from the screen; one that cannot be is
//! refused with what it may be, and changes nothing. To add a setting, add a row to [`SETTINGS`].

use std::str::FromStr;

use super::{App, AppSettings, Density, Effect, TokenTint};
use crate::instruments::{INSTRUMENTS, instrument};
use crate::lab::sample::Sampling;

/// What kind of value a setting has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    /// `true` or `false`.
    Switch,
    Number,
    /// A word, in quotes in the file.
    Word,
}

/// A setting.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    /// What it is, in a sentence without its end, which fits a list of 80 columns.
    pub about: &'static str,
    pub kind: SettingKind,
    /// What its value may be, for a refusal.
    pub wants: &'static str,
    /// The values to choose from; none where there are too many.
    pub values: fn(&AppSettings) -> Vec<String>,
    /// Its value now.
    pub now: fn(&App) -> String,
    /// Puts a value into the settings that the program starts with; none if it cannot be one.
    put: fn(&mut AppSettings, &str) -> Option<()>,
    /// Makes the screen follow the settings.
    follow: fn(&mut App) -> Vec<Effect>,
}

/// All settings, in the order in which they are listed.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "theme",
        about: "the colours",
        kind: SettingKind::Word,
        wants: "the name of a theme",
        values: themes,
        now: |app| app.settings.theme.clone(),
        put: |start, word| {
            start.theme = theme(start, word)?;
            Some(())
        },
        follow: nothing,
    },
    Setting {
        name: "theme-dark",
        about: "the theme on a dark background; empty: that of theme",
        kind: SettingKind::Word,
        wants: "the name of a theme, or nothing in quotes",
        values: themes,
        now: |app| app.settings.theme_dark.clone(),
        put: |start, word| {
            start.theme_dark = theme_or_none(start, word)?;
            Some(())
        },
        follow: follow_background,
    },
    Setting {
        name: "theme-light",
        about: "the theme on a light background; empty: that of theme",
        kind: SettingKind::Word,
        wants: "the name of a theme, or nothing in quotes",
        values: themes,
        now: |app| app.settings.theme_light.clone(),
        put: |start, word| {
            start.theme_light = theme_or_none(start, word)?;
            Some(())
        },
        follow: follow_background,
    },
    Setting {
        name: "mouse",
        about: "whether the mouse moves the cursor and scrolls",
        kind: SettingKind::Switch,
        wants: "true or false",
        values: switch,
        now: |app| app.settings.mouse.to_string(),
        put: |start, word| read(word).map(|on| start.mouse = on),
        follow: nothing,
    },
    Setting {
        name: "save",
        about: "whether sessions are kept, from the next start on",
        kind: SettingKind::Switch,
        wants: "true or false",
        values: switch,
        now: |app| app.settings.save.to_string(),
        put: |start, word| read(word).map(|on| start.save = on),
        follow: nothing,
    },
    Setting {
        name: "count",
        about: "how many tokens are generated at most",
        kind: SettingKind::Number,
        wants: "a whole number, 1 or more",
        values: any,
        now: |app| app.settings.count.to_string(),
        put: |start, word| {
            let count = read::<usize>(word).filter(|count| *count > 0)?;
            start.count = count;
            Some(())
        },
        follow: nothing,
    },
    Setting {
        name: "temperature",
        about: "how random tokens are; 0 takes the most probable one",
        kind: SettingKind::Number,
        wants: "a number from 0 to 10",
        values: any,
        now: |app| app.history.sampling().temperature.to_string(),
        put: |start, word| {
            let number = read::<f64>(word).filter(|t| (0.0..=10.0).contains(t))?;
            start.sampling.temperature = number;
            Some(())
        },
        follow: |app| sample(app, |now, start| now.temperature = start.temperature),
    },
    Setting {
        name: "top-p",
        about: "sampling keeps tokens with this much probability",
        kind: SettingKind::Number,
        wants: "a number above 0, up to 1",
        values: any,
        now: |app| app.history.sampling().top_p.to_string(),
        put: |start, word| {
            let number = read::<f64>(word).filter(|p| *p > 0.0 && *p <= 1.0)?;
            start.sampling.top_p = number;
            Some(())
        },
        follow: |app| sample(app, |now, start| now.top_p = start.top_p),
    },
    Setting {
        name: "top-k",
        about: "sampling keeps this many tokens; 0 keeps all",
        kind: SettingKind::Number,
        wants: "a whole number, 0 or more",
        values: any,
        now: |app| app.history.sampling().top_k.to_string(),
        put: |start, word| read(word).map(|k| start.sampling.top_k = k),
        follow: |app| sample(app, |now, start| now.top_k = start.top_k),
    },
    Setting {
        name: "seed",
        about: "the random seed",
        kind: SettingKind::Number,
        wants: "a whole number, 0 or more",
        values: any,
        now: |app| app.history.sampling().seed.to_string(),
        put: |start, word| read(word).map(|seed| start.sampling.seed = seed),
        follow: |app| sample(app, |now, start| now.seed = start.seed),
    },
    Setting {
        name: "chat",
        about: "whether what you write goes through the chat template",
        kind: SettingKind::Switch,
        wants: "true or false",
        values: switch,
        now: |app| app.settings.chat.to_string(),
        put: |start, word| read(word).map(|on| start.chat = on),
        follow: nothing,
    },
    Setting {
        name: "figure",
        about: "the figure beside the text at the start",
        kind: SettingKind::Word,
        wants: "the name of an instrument",
        values: |_| INSTRUMENTS.iter().map(|of| of.name().to_string()).collect(),
        now: |app| app.settings.figure.clone(),
        put: |start, word| {
            start.figure = instrument(word).ok()?.name().into();
            Some(())
        },
        follow: nothing,
    },
    Setting {
        name: "cells",
        about: "what cells of grids show: full, token or colour",
        kind: SettingKind::Word,
        wants: "full, token or colour",
        values: |_| DENSITIES.map(|(name, _)| name.into()).to_vec(),
        now: |app| name_of(&DENSITIES, app.density),
        put: |start, word| {
            start.density = named(&DENSITIES, word)?;
            Some(())
        },
        follow: |app| {
            app.density = app.settings.density;
            Vec::new()
        },
    },
    Setting {
        name: "flip",
        about: "whether grids have their first layer on top",
        kind: SettingKind::Switch,
        wants: "true or false",
        values: switch,
        now: |app| app.flip.to_string(),
        put: |start, word| read(word).map(|on| start.flip = on),
        follow: |app| {
            app.flip = app.settings.flip;
            Vec::new()
        },
    },
    Setting {
        name: "tint",
        about: "what tokens of the text are coloured by",
        kind: SettingKind::Word,
        wants: "nothing, surprisal or figure",
        values: |_| TINTS.map(|(name, _)| name.into()).to_vec(),
        now: |app| name_of(&TINTS, app.tint),
        put: |start, word| {
            start.tint = named(&TINTS, word)?;
            Some(())
        },
        follow: |app| {
            app.tint = app.settings.tint;
            Vec::new()
        },
    },
];

const DENSITIES: [(&str, Density); 3] = [
    ("full", Density::Full),
    ("token", Density::Token),
    ("colour", Density::Colour),
];

const TINTS: [(&str, TokenTint); 3] = [
    ("nothing", TokenTint::Nothing),
    ("surprisal", TokenTint::Surprisal),
    ("figure", TokenTint::Figure),
];

fn named<T: Copy>(all: &[(&str, T)], word: &str) -> Option<T> {
    let found = all.iter().find(|(name, _)| *name == word);
    found.map(|(_, value)| *value)
}

fn name_of<T: Copy + PartialEq>(all: &[(&str, T)], value: T) -> String {
    let found = all.iter().find(|(_, own)| *own == value);
    found.map_or_else(String::new, |(name, _)| (*name).to_string())
}

fn read<T: FromStr>(word: &str) -> Option<T> {
    word.parse().ok()
}

fn any(_: &AppSettings) -> Vec<String> {
    Vec::new()
}

fn switch(_: &AppSettings) -> Vec<String> {
    vec!["true".into(), "false".into()]
}

fn nothing(_: &mut App) -> Vec<Effect> {
    Vec::new()
}

fn themes(start: &AppSettings) -> Vec<String> {
    start.themes.iter().map(|(name, _)| name.clone()).collect()
}

fn theme(start: &AppSettings, word: &str) -> Option<String> {
    themes(start).into_iter().find(|name| name == word)
}

fn theme_or_none(start: &AppSettings, word: &str) -> Option<String> {
    if word.is_empty() {
        return Some(String::new());
    }
    theme(start, word)
}

fn follow_background(app: &mut App) -> Vec<Effect> {
    app.follow_background();
    Vec::new()
}

/// Changes how tokens are sampled, as one step of undo.
fn sample(app: &mut App, with: fn(&mut Sampling, &Sampling)) -> Vec<Effect> {
    let start = app.settings.sampling;
    app.change(|state| with(&mut state.sampling, &start))
}

impl Setting {
    /// The setting of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|own| own.name == name)
    }

    /// Puts a value into the settings that the program starts with.
    ///
    /// # Errors
    ///
    /// When it cannot be its value, with what can.
    pub fn put(&self, start: &mut AppSettings, word: &str) -> Result<(), String> {
        (self.put)(start, word).ok_or_else(|| {
            let known = (self.values)(start);
            let known = if known.is_empty() || self.kind == SettingKind::Switch {
                String::new()
            } else {
                format!(": {}", known.join(", "))
            };
            format!(
                "`{}` cannot be {}, but {}{known}",
                self.name,
                crate::text::quoted(&[word], 1),
                self.wants
            )
        })
    }

    /// A value as the file spells it.
    pub fn in_file(&self, word: &str) -> String {
        match self.kind {
            SettingKind::Switch | SettingKind::Number => word.into(),
            SettingKind::Word => toml::Value::String(word.into()).to_string(),
        }
    }
}

impl App {
    /// Gives a setting a value, now and in the file.
    ///
    /// # Errors
    ///
    /// When it cannot be its value, with what can.
    pub(super) fn set_setting(
        &mut self,
        of: &'static Setting,
        word: &str,
    ) -> Result<Vec<Effect>, String> {
        of.put(&mut self.settings, word)?;
        let mut effects = (of.follow)(self);
        match self.settings.config.clone() {
            Some(folder) => effects.push(Effect::Configure {
                folder,
                name: of.name,
                value: of.in_file(word),
            }),
            None => self.inform(format!("{} is {word}, until you leave", of.name)),
        }
        Ok(effects)
    }

    /// Takes the theme that is meant for the terminal's background, if it is known and there is one.
    pub(super) fn follow_background(&mut self) {
        let theme = match self.settings.background {
            Some(Background::Dark) => &self.settings.theme_dark,
            Some(Background::Light) => &self.settings.theme_light,
            None => return,
        };
        if !theme.is_empty() && !self.settings.theme_given {
            self.settings.theme = theme.clone();
        }
    }
}

/// What the terminal says of its background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    Dark,
    Light,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn start() -> AppSettings {
        AppSettings {
            themes: ["terminal", "nord"].map(|t| (t.into(), t.into())).to_vec(),
            ..AppSettings::default()
        }
    }

    /// A value that is not the default, for every setting.
    const OTHERS: [(&str, &str); 15] = [
        ("theme", "nord"),
        ("theme-dark", "nord"),
        ("theme-light", "nord"),
        ("mouse", "true"),
        ("save", "false"),
        ("count", "7"),
        ("temperature", "0.5"),
        ("top-p", "0.9"),
        ("top-k", "40"),
        ("seed", "9"),
        ("chat", "true"),
        ("figure", "neurons"),
        ("cells", "colour"),
        ("flip", "true"),
        ("tint", "surprisal"),
    ];

    #[test]
    fn every_setting_can_be_set_at_the_start_and_later() {
        assert_eq!(
            OTHERS.map(|own| own.0).to_vec(),
            SETTINGS.iter().map(|own| own.name).collect::<Vec<_>>()
        );
        for (own, (name, other)) in SETTINGS.iter().zip(OTHERS) {
            let before = (own.now)(&App::new(start()).0);
            assert_ne!(before, other, "{name}");
            let mut given = start();
            own.put(&mut given, other).unwrap();
            assert_eq!((own.now)(&App::new(given).0), other, "{name} at the start");
            let (mut app, _) = App::new(start());
            app.settings.config = Some("/c".into());
            let effects = app.set_setting(own, other).unwrap();
            assert_eq!((own.now)(&app), other, "{name}");
            let wrote = effects.iter().any(|effect| {
                matches!(effect, Effect::Configure { name: own, value, .. } if *own == name && value.trim_matches('"') == other)
            });
            assert!(wrote, "{name}: {effects:?}");
            assert!(own.about.len() <= 54, "{name}: {}", own.about.len());
            let values = (own.values)(&start());
            assert!(
                values.is_empty() || values.iter().any(|value| value == other),
                "{name}"
            );
            let why = own.put(&mut start(), "-7x").unwrap_err();
            assert!(why.contains(name) && why.contains(own.wants), "{why}");
        }
    }

    #[test]
    fn the_theme_for_the_background_is_taken_unless_another_was_asked_for() {
        for (given, expected) in [(false, "nord"), (true, "terminal")] {
            let (mut app, _) = App::new(AppSettings {
                theme_light: "nord".into(),
                theme_given: given,
                ..start()
            });
            app.update(crate::app::Event::Background(Background::Dark));
            assert_eq!(app.settings.theme, "terminal");
            app.update(crate::app::Event::Background(Background::Light));
            assert_eq!(app.settings.theme, expected);
        }
    }
}
