//! Reads theme files: a base16 palette, and optional further settings.
//!
//! Invariant: a mistake invalidates only the entry it is in; it is reported as `file:line: what`.
//! To add a section, add an arm to [`parse`].

use std::path::Path;

use ratatui::style::{Color, Modifier, Style};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Depth, ROLES, Role, Theme, ThemeVariant};
use crate::export::colour::{self, Rgb};

/// Reads every `*.toml` of a folder, in order of name.
pub(super) fn load_folder(folder: &Path) -> (Vec<Theme>, Vec<String>) {
    let (mut themes, mut warnings) = (Vec::new(), Vec::new());
    let Ok(entries) = std::fs::read_dir(folder) else {
        return (themes, warnings);
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        match crate::file::words(&path) {
            Ok(source) => {
                let (theme, mistakes) = parse(&name, &path, &source);
                themes.extend(theme);
                warnings.extend(mistakes);
            }
            Err(error) => warnings.push(error.to_string()),
        }
    }
    (themes, warnings)
}

/// A key with its value, both with their location in the file.
type KeyValue<'a> = (&'a str, &'a Spanned<DeValue<'a>>);

/// The state of reading a theme.
struct ThemeReader<'a> {
    path: &'a Path,
    source: &'a str,
    warnings: Vec<String>,
    palette: Vec<(String, Color)>,
}

/// Reads one theme for truecolor. A file that is not TOML gives none.
pub(super) fn parse(name: &str, path: &Path, source: &str) -> (Option<Theme>, Vec<String>) {
    let mut reader = ThemeReader {
        path,
        source,
        warnings: Vec::new(),
        palette: Vec::new(),
    };
    let table = match DeTable::parse(source) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            reader.warn(error.span().map_or(0, |span| span.start), error.message());
            return (None, reader.warnings);
        }
    };
    let mut theme = Theme::bare(name);
    theme.depth = Depth::True;
    let mut written: Vec<(Role, &str, usize)> = Vec::new();
    let mut ramps: [Option<Vec<Rgb>>; 2] = [None, None];
    // The palette comes first, because every other section may use its names.
    let mut sections = items(&table);
    sections.sort_by_key(|(key, _)| *key != "palette");
    for (key, value) in sections {
        let at = value.span().start;
        match key {
            "name" => reader
                .string(key, value)
                .unwrap_or(name)
                .clone_into(&mut theme.title),
            "variant" => match reader.string(key, value) {
                Some("dark") => theme.variant = ThemeVariant::Dark,
                Some("light") => theme.variant = ThemeVariant::Light,
                Some("any") | None => {}
                Some(other) => {
                    reader.warn(
                        at,
                        format!("variant `{other}`; expected dark, light or any"),
                    );
                }
            },
            "contrast" => match reader.contrast(value) {
                Some(least) => theme.contrast = least,
                None => reader.warn(at, "`contrast` must be a whole number from 1 to 21"),
            },
            "palette" => {
                for (slot, value) in reader.section(key, value) {
                    let at = value.span().start;
                    let Some(word) = reader.string(slot, value) else {
                        continue;
                    };
                    if !slot_name(slot) {
                        let what =
                            format!("`{slot}` is not a palette slot; there are base00 to base0F");
                        reader.warn(at, what);
                    } else if let Some(color) = reader.color(word, at) {
                        reader.palette.push((slot.to_owned(), color));
                    }
                }
            }
            "roles" => {
                for (role, value) in reader.section(key, value) {
                    let at = value.span().start;
                    let Some(words) = reader.string(role, value) else {
                        continue;
                    };
                    if let Some(&role) = ROLES.iter().find(|r| r.name() == role) {
                        written.push((role, words, at));
                    } else {
                        let known = ROLES.map(Role::name).join(" ");
                        reader.warn(at, format!("there is no role `{role}`; there are {known}"));
                    }
                }
            }
            "ramps" => {
                for (which, value) in reader.section(key, value) {
                    match which {
                        "heat" => ramps[0] = reader.ramp(value),
                        "sign" => ramps[1] = reader.ramp(value),
                        other => {
                            let what =
                                format!("there is no ramp `{other}`; there are heat and sign");
                            reader.warn(value.span().start, what);
                        }
                    }
                }
            }
            other => {
                let expected = "expected name, variant, contrast, palette, roles or ramps";
                reader.warn(at, format!("unknown key `{other}`; {expected}"));
            }
        }
    }
    theme.ground = (
        reader.slot("base05").unwrap_or(Color::Reset),
        reader.slot("base00").unwrap_or(Color::Reset),
    );
    let mut style = |(role, words, at)| Some((role, reader.style(words, at)?));
    let own: Vec<(Role, Style)> = written.into_iter().filter_map(&mut style).collect();
    for role in ROLES {
        theme.roles[role as usize] = reader.settle(role, &own);
    }
    for role in [Role::Selection, Role::Cursor] {
        let style = &mut theme.roles[role as usize];
        if style.bg.is_none() {
            // Whatever the file says, these two must be visible.
            *style = style.add_modifier(Modifier::REVERSED);
        }
    }
    if let Some(fg) = theme.style(Role::Text).fg {
        theme.ground.0 = fg;
    }
    theme.own_ramps = ramps.iter().any(Option::is_some);
    let [heat, sign] = ramps;
    let [usual_heat, usual_sign] = usual_ramps(theme.variant);
    theme.ramps = [heat.unwrap_or(usual_heat), sign.unwrap_or(usual_sign)];
    (Some(theme.adapt(Depth::True)), reader.warnings)
}

fn items<'a>(table: &'a DeTable<'a>) -> Vec<KeyValue<'a>> {
    let names = table.keys().map(|key| key.get_ref().as_ref());
    names.zip(table.values()).collect()
}

/// The ramps of magnitudes and of signed numbers that a theme has without its own.
pub(super) fn usual_ramps(variant: ThemeVariant) -> [Vec<Rgb>; 2] {
    [usual_heat(variant), usual_sign(variant)]
}

/// The default ramp, which begins near the background's brightness: viridis, and on light backgrounds magma from its light end.
fn usual_heat(variant: ThemeVariant) -> Vec<Rgb> {
    let named = |name| colour::ramp(name).unwrap_or_default().to_vec();
    match variant {
        ThemeVariant::Any | ThemeVariant::Dark => named("viridis"),
        ThemeVariant::Light => named("magma").into_iter().rev().collect(),
    }
}

fn usual_sign(variant: ThemeVariant) -> Vec<Rgb> {
    let name = match variant {
        ThemeVariant::Any | ThemeVariant::Dark => "blue-orange",
        ThemeVariant::Light => "purple-orange",
    };
    colour::ramp(name).unwrap_or_default().to_vec()
}

/// Whether a name is `base00` to `base0F`.
fn slot_name(name: &str) -> bool {
    name.strip_prefix("base0")
        .is_some_and(|digit| digit.len() == 1 && digit.chars().all(|c| c.is_ascii_hexdigit()))
}

impl ThemeReader<'_> {
    fn warn(&mut self, at: usize, what: impl AsRef<str>) {
        let before = self.source.get(..at).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        let what = what.as_ref().lines().collect::<Vec<_>>().join(" ");
        let warning = format!("{}:{line}: {what}", self.path.display());
        self.warnings.push(warning);
    }

    fn string<'v>(&mut self, key: &str, value: &'v Spanned<DeValue<'_>>) -> Option<&'v str> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(text);
        }
        self.warn(
            value.span().start,
            format!("`{key}` must be text in quotes"),
        );
        None
    }

    fn contrast(&self, value: &Spanned<DeValue<'_>>) -> Option<f32> {
        let least: u8 = self.source.get(value.span())?.parse().ok()?;
        (1..=21).contains(&least).then_some(f32::from(least))
    }

    fn section<'v>(&mut self, key: &str, value: &'v Spanned<DeValue<'v>>) -> Vec<KeyValue<'v>> {
        if let DeValue::Table(table) = value.get_ref() {
            return items(table);
        }
        self.warn(
            value.span().start,
            format!("`{key}` must be a section: [{key}]"),
        );
        Vec::new()
    }

    fn slot(&self, name: &str) -> Option<Color> {
        let mut all = self.palette.iter();
        let found = all.find(|(slot, _)| slot.eq_ignore_ascii_case(name));
        found.map(|(_, color)| *color)
    }

    /// A colour: a palette slot, `rrggbb` with or without `#`, an ANSI name, or `default`.
    fn color(&mut self, word: &str, at: usize) -> Option<Color> {
        let hex = word.strip_prefix('#').unwrap_or(word);
        let color = if slot_name(word) {
            self.slot(word)
        } else if word == "default" {
            Some(Color::Reset)
        } else if hex.len() == 6 && hex.chars().all(|c| c.is_ascii_hexdigit()) {
            let number = u32::from_str_radix(hex, 16).ok();
            number.map(|number| Rgb::hex(number).into())
        } else {
            let named = word.parse().ok();
            named.filter(|color| !matches!(color, Color::Rgb(..)))
        };
        if color.is_none() {
            self.warn(at, format!("`{word}` is not a colour; expected rrggbb, a palette slot such as base0D, an ANSI name, or default"));
        }
        color
    }

    /// A style: `COLOUR [on COLOUR] [bold dim italic underlined reversed]...`.
    fn style(&mut self, words: &str, at: usize) -> Option<Style> {
        let mut style = Style::new();
        let mut behind = false;
        for word in words.split_whitespace() {
            match word {
                "on" => behind = true,
                "bold" => style = style.add_modifier(Modifier::BOLD),
                "dim" => style = style.add_modifier(Modifier::DIM),
                "italic" => style = style.add_modifier(Modifier::ITALIC),
                "underlined" => style = style.add_modifier(Modifier::UNDERLINED),
                "reversed" => style = style.add_modifier(Modifier::REVERSED),
                word => {
                    let color = self.color(word, at)?;
                    style = if std::mem::take(&mut behind) {
                        style.bg(color)
                    } else {
                        style.fg(color)
                    };
                }
            }
        }
        Some(style)
    }

    /// A ramp: a name, or three and more colours.
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is a ramp")]
    fn ramp(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Vec<Rgb>> {
        let at = value.span().start;
        match value.get_ref() {
            DeValue::String(name) => {
                let back = name.strip_suffix(" reversed");
                let name = back.unwrap_or(name);
                let Some(stops) = colour::ramp(name) else {
                    let known: Vec<&str> = colour::RAMPS.iter().map(|(name, _)| *name).collect();
                    let known = known.join(", ");
                    self.warn(at, format!("there is no ramp `{name}`; there are {known}, each also with ` reversed`"));
                    return None;
                };
                let mut stops = stops.to_vec();
                if back.is_some() {
                    stops.reverse();
                }
                Some(stops)
            }
            DeValue::Array(items) => {
                let mut stops = Vec::new();
                for item in items {
                    let word = self.string("ramp", item)?.to_owned();
                    let color = self.color(&word, item.span().start)?;
                    stops.push(colour::rgb(color).unwrap_or_default());
                }
                if stops.len() < 3 {
                    self.warn(at, "a ramp needs three colours or more");
                    return None;
                }
                Some(stops)
            }
            _ => {
                self.warn(at, "a ramp is a name in quotes or a list of colours");
                None
            }
        }
    }

    /// The style of a role: as written in the file, else the default if the palette has its colours, else that of its fallback.
    fn settle(&self, role: Role, own: &[(Role, Style)]) -> Style {
        if let Some((_, style)) = own.iter().rev().find(|(r, _)| *r == role) {
            return *style;
        }
        if let Some(words) = role.usual() {
            let known = words
                .split_whitespace()
                .filter(|w| slot_name(w))
                .all(|w| self.slot(w).is_some());
            if known {
                let mut quiet = ThemeReader {
                    path: self.path,
                    source: "",
                    warnings: Vec::new(),
                    palette: self.palette.clone(),
                };
                if let Some(style) = quiet.style(words, 0) {
                    return style;
                }
            }
        }
        match role.fallback() {
            Some(next) => self.settle(next, own),
            None => Style::new().fg(Color::Reset),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(source: &str) -> (Option<Theme>, Vec<String>) {
        parse("x", Path::new("my/x.toml"), source)
    }

    #[test]
    fn three_lines_are_a_theme_and_chains_fill_the_rest() {
        let (theme, warnings) = read("[roles]\naccent = \"#ff8800\"\nmuted = \"cyan\"");
        assert_eq!(warnings, Vec::<String>::new());
        let theme = theme.unwrap();
        let orange = Some(Color::Rgb(255, 136, 0));
        assert_eq!(theme.style(Role::Key).fg, orange);
        assert_eq!(
            theme.style(Role::Stale).fg,
            Some(Color::Cyan),
            "stale, faint, muted"
        );
        assert_eq!(theme.style(Role::Model).fg, Some(Color::Reset));
        assert!(
            theme
                .style(Role::Selection)
                .add_modifier
                .contains(Modifier::REVERSED)
        );
    }

    #[test]
    fn a_palette_gives_the_usual_roles_and_roles_win() {
        let (theme, warnings) = read(
            "variant = \"light\"\n[palette]\nbase00 = \"ffffff\"\nbase05 = \"111111\"\nbase08 = \"aa0000\"\n\
             base02 = \"dddddd\"\n[roles]\nwarning = \"base08 on base00 bold\"\nbar = \"green\"",
        );
        assert_eq!(warnings, Vec::<String>::new());
        let theme = theme.unwrap();
        assert_eq!(theme.variant, ThemeVariant::Light);
        assert_eq!(
            theme.ground(),
            Style::new()
                .fg(Color::Rgb(17, 17, 17))
                .bg(Color::Rgb(255, 255, 255))
        );
        let warning = theme.style(Role::Warning);
        assert_eq!(
            (warning.fg, warning.bg),
            (Some(Color::Rgb(170, 0, 0)), Some(Color::Rgb(255, 255, 255)))
        );
        assert!(warning.add_modifier.contains(Modifier::BOLD));
        assert_eq!(theme.style(Role::Bar).fg, Some(Color::Green));
        assert_eq!(
            theme.style(Role::Edited),
            warning,
            "without base09, edited looks like warning"
        );
    }

    #[test]
    fn mistakes_are_warnings_with_file_and_line_and_cost_one_entry() {
        let (theme, warnings) = read(
            "name = \"X\"\ncolour = 1\n[palette]\nbase0D = \"12345\"\nbase0G = \"123456\"\n\n[roles]\n\
             akcent = \"red\"\naccent = \"base0D\"\nok = \"green\"\n[ramps]\nheat = \"jet\"\nsign = [\"red\"]",
        );
        let starts: Vec<String> = warnings
            .iter()
            .map(|w| w.split(": ").next().unwrap().to_owned())
            .collect();
        let lines = [4, 5, 2, 12, 13, 8, 9].map(|line| format!("my/x.toml:{line}"));
        assert_eq!(
            {
                let mut s = starts.clone();
                s.sort();
                s
            },
            {
                let mut l = lines.to_vec();
                l.sort();
                l
            },
            "{warnings:#?}"
        );
        assert!(
            warnings
                .iter()
                .any(|w| w.contains("akcent") && w.contains("accent"))
        );
        let theme = theme.unwrap();
        assert_eq!(theme.style(Role::Ok).fg, Some(Color::Green));
        assert!(theme.paints());
    }

    #[test]
    fn what_is_not_toml_gives_no_theme_but_a_line() {
        let (theme, warnings) = read("name = \"X\"\n[palette\n");
        assert!(theme.is_none());
        assert!(warnings[0].starts_with("my/x.toml:2: "), "{warnings:?}");
    }

    #[test]
    fn a_folder_is_read_in_order_and_a_missing_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("b.toml", ""),
            ("a.toml", "name = \"A!\""),
            ("broken.toml", "="),
            ("c.txt", ""),
        ] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        let (themes, warnings) = load_folder(folder.path());
        let names: Vec<(&str, &str)> = themes
            .iter()
            .map(|t| (t.name.as_str(), t.title.as_str()))
            .collect();
        assert_eq!(names, [("a", "A!"), ("b", "b")]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("broken.toml:1: "), "{warnings:?}");
        assert_eq!(load_folder(&folder.path().join("none")), (vec![], vec![]));
    }
}
