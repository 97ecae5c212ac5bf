//! Themes: what each role and each number looks like, at every colour depth.
//!
//! Invariant: every theme answers every [`Role`] at every [`Depth`]; with no colour at all, the cursor and the
//! selection still differ from plain text. A theme names meanings, never widgets. To add a theme, write
//! `themes/x.toml` and add its word to [`THEMES`].

mod colour_depth;
mod file;
mod role;

use ratatui::style::{Color, Modifier, Style};

use crate::export::colour::{self, Rgb};

pub use colour_depth::{Depth, Glyphs};
pub use role::{ROLES, Role};

/// The least contrast of faint text on a colour (WCAG 2.2, 1.4.3).
const QUIET: f32 = 4.5;

/// A theme that is part of the program.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// What the user calls it: the file's name without `.toml`.
    pub name: &'static str,
    pub source: &'static str,
}

macro_rules! themes {
    ($($name:literal),* $(,)?) => {
        &[$(Embedded { name: $name, source: include_str!(concat!("../../../themes/", $name, ".toml")) }),*]
    };
}

/// Every embedded theme; the first is the default.
pub const THEMES: &[Embedded] = themes![
    "terminal",
    "mocha",
    "nord",
    "gruvbox-dark",
    "latte",
    "solarized-light",
    "high-contrast-dark",
    "high-contrast-light",
    "colour-blind-dark",
    "colour-blind-light",
    "mono",
];

/// What background a theme is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThemeVariant {
    /// Whatever the terminal has; the theme paints none.
    #[default]
    Any,
    Dark,
    Light,
}

/// The look of everything, settled for one colour depth.
#[derive(Clone, Debug, PartialEq)]
pub struct Theme {
    /// What the user calls it.
    pub name: String,
    /// The theme's name as lists show it.
    pub title: String,
    /// The background it is made for.
    pub variant: ThemeVariant,
    /// The contrast that all of its text has at least, beside what each role asks for.
    pub contrast: f32,
    /// The depth it is settled for.
    pub depth: Depth,
    /// Which characters may be drawn.
    pub glyphs: Glyphs,
    /// Text and background of the whole screen; [`Color::Reset`] leaves the terminal's own.
    ground: (Color, Color),
    /// A style a role, in the order of [`ROLES`].
    roles: [Style; ROLES.len()],
    /// Colours of magnitudes and of signed numbers, low to high.
    ramps: [Vec<Rgb>; 2],
    /// Whether the theme's file has ramps of its own.
    own_ramps: bool,
    /// Loud and quiet styles a level, made from the ramps.
    heat: Vec<[Style; 2]>,
    sign: Vec<[Style; 2]>,
}

impl Default for Theme {
    fn default() -> Self {
        Self::embedded(0)
    }
}

impl Theme {
    /// The embedded theme of that name, for truecolor; narrow it with [`Theme::adapt`].
    pub fn named(name: &str) -> Option<Self> {
        let index = THEMES.iter().position(|theme| theme.name == name);
        index.map(Self::embedded)
    }

    /// All embedded themes, for truecolor.
    pub fn all() -> Vec<Self> {
        (0..THEMES.len()).map(Self::embedded).collect()
    }

    /// Reads one theme file. Mistakes in single entries leave their fallbacks; each is a warning with its line.
    pub fn parse(name: &str, path: &std::path::Path, source: &str) -> (Option<Self>, Vec<String>) {
        file::parse(name, path, source)
    }

    /// Reads every `*.toml` of a folder, in order of name. A folder that is not there has no themes.
    pub fn load_folder(folder: &std::path::Path) -> (Vec<Self>, Vec<String>) {
        file::load_folder(folder)
    }

    fn embedded(index: usize) -> Self {
        let Embedded { name, source } = THEMES[index];
        let path = format!("themes/{name}.toml");
        Self::parse(name, path.as_ref(), source)
            .0
            .unwrap_or_else(|| Self::bare(name))
    }

    /// A theme without colours, on which files build.
    fn bare(name: &str) -> Self {
        let mut roles = [Style::new(); ROLES.len()];
        for role in [Role::Selection, Role::Cursor] {
            roles[role as usize] = Style::new().add_modifier(Modifier::REVERSED);
        }
        Self {
            name: name.to_owned(),
            title: name.to_owned(),
            variant: ThemeVariant::Any,
            contrast: 1.0,
            depth: Depth::None,
            glyphs: Glyphs::default(),
            ground: (Color::Reset, Color::Reset),
            roles,
            ramps: [Vec::new(), Vec::new()],
            own_ramps: false,
            heat: Vec::new(),
            sign: Vec::new(),
        }
    }

    /// The style of a role. Most leave the background alone.
    pub fn style(&self, role: Role) -> Style {
        self.roles[role as usize]
    }

    /// The contrast with its background that a role has at least, where the background is known.
    pub fn least(&self, role: Role) -> f32 {
        role.contrast().max(self.contrast)
    }

    /// What the whole screen is painted with first. The default theme paints nothing.
    pub fn ground(&self) -> Style {
        Style::new().fg(self.ground.0).bg(self.ground.1)
    }

    /// Whether numbers have background colours here; where not, draw [`Theme::glyph`] beside the text.
    pub fn paints(&self) -> bool {
        !self.heat.is_empty()
    }

    /// Background and readable text for a magnitude, `place` from 0 to 1.
    pub fn heat(&self, place: f32) -> Style {
        self.level(&self.heat, place, 0)
    }

    /// As [`Theme::heat`], with text that stands back.
    pub fn heat_faint(&self, place: f32) -> Style {
        self.level(&self.heat, place, 1)
    }

    /// Background and readable text for a signed number, `place` from 0 to 1 with zero at 0.5.
    pub fn sign(&self, place: f32) -> Style {
        self.level(&self.sign, place, 0)
    }

    /// As [`Theme::sign`], with text that stands back.
    pub fn sign_faint(&self, place: f32) -> Style {
        self.level(&self.sign, place, 1)
    }

    /// The magnitude as a character, for when colour cannot say it: ` ░▒▓█`.
    pub fn glyph(&self, place: f32) -> char {
        let ramp = self.glyphs.ramp();
        ramp[nearest(place, ramp.len())]
    }

    /// The sign of a place whose zero is 0.5, as a character; blank where the magnitude's own glyph is.
    pub fn sign_mark(&self, place: f32) -> char {
        if self.glyph((2.0 * place - 1.0).abs()) == ' ' {
            ' '
        } else if place > 0.5 {
            '+'
        } else {
            '-'
        }
    }

    fn level(&self, styles: &[[Style; 2]], place: f32, voice: usize) -> Style {
        styles.get(nearest(place, styles.len())).map_or_else(
            || self.style(if voice == 0 { Role::Text } else { Role::Faint }),
            |pair| pair[voice],
        )
    }

    /// The theme on a light background that is the terminal's own: numbers have the colours of light themes.
    #[must_use]
    pub fn on_light(&self) -> Self {
        let mut out = self.clone();
        if self.variant == ThemeVariant::Any && !self.own_ramps {
            out.ramps = file::usual_ramps(ThemeVariant::Light);
            out.heat = out.levels(0);
            out.sign = out.levels(1);
        }
        out
    }

    /// Settles the theme for a depth. Depth is only ever given up, so adapt what [`Theme::named`] returned.
    ///
    /// With 16 colours a theme of its own colours borrows the roles of `terminal`, whose colours the user chose;
    /// with none, every theme borrows those of `mono`.
    #[must_use]
    pub fn adapt(&self, depth: Depth) -> Self {
        let depth = depth.min(self.depth);
        let mut out = self.clone();
        out.depth = depth;
        match depth {
            Depth::True => {}
            Depth::Ansi256 => {
                let ground = (index(self.ground.0), index(self.ground.1));
                for (role, style) in ROLES.iter().zip(&mut out.roles) {
                    let back = style.bg.map_or(ground.1, index);
                    style.bg = style.bg.map(index);
                    style.fg = style.fg.map(|fg| readable(fg, back, self.least(*role)));
                }
                out.ground = ground;
            }
            Depth::Ansi16 | Depth::None => {
                let own = depth == Depth::Ansi16 && self.roles.iter().all(ansi);
                if !own {
                    let has_colours = depth == Depth::Ansi16;
                    let lender = if has_colours { "terminal" } else { "mono" };
                    let lent = Self::named(lender).unwrap_or_else(|| Self::bare(lender));
                    out.roles = lent.roles;
                }
                out.ground = (Color::Reset, Color::Reset);
            }
        }
        if depth == Depth::None {
            for style in &mut out.roles {
                style.fg = style.fg.map(|_| Color::Reset);
                style.bg = style.bg.map(|_| Color::Reset);
            }
        }
        out.heat = out.levels(0);
        out.sign = out.levels(1);
        out
    }

    /// The styles of a ramp at this depth: few, so that equal neighbours are common and frames stay small.
    /// A signed ramp has one more, so that zero has a level of its own.
    fn levels(&self, which: usize) -> Vec<[Style; 2]> {
        let count = match self.depth {
            Depth::True => 16 + which,
            Depth::Ansi256 => 8 + which,
            Depth::Ansi16 | Depth::None => return Vec::new(),
        };
        let ground = self.ground();
        let quiet_ground = ground.patch(self.style(Role::Faint));
        // What says nothing is left unpainted, where the theme knows that this looks like nothing.
        let empty = match (which, self.variant) {
            (0, ThemeVariant::Any) => None,
            (0, ThemeVariant::Dark | ThemeVariant::Light) => Some(0),
            _ => Some(count / 2),
        };
        (0..count)
            .map(|level| {
                if Some(level) == empty {
                    return [ground, quiet_ground];
                }
                let back = colour::sample(&self.ramps[which], level as f32 / (count - 1) as f32);
                let settle = |rgb: Rgb| match self.depth {
                    Depth::Ansi256 => index(rgb.into()),
                    Depth::True | Depth::Ansi16 | Depth::None => rgb.into(),
                };
                let back = settle(back);
                let shown = colour::rgb(back).unwrap_or_default();
                let ink = colour::ink(shown);
                let style = Style::new().bg(back);
                // Text that stands back is still text: it has the contrast of text.
                let quiet = (6..10)
                    .map(|step| settle(colour::mix(shown, ink, step as f32 / 10.0)))
                    .find(|quiet| {
                        let quiet = colour::rgb(*quiet).unwrap_or(ink);
                        colour::contrast(quiet, shown) >= QUIET.max(self.contrast)
                    });
                let quiet = quiet.unwrap_or(settle(ink));
                [style.fg(settle(ink)), style.fg(quiet)]
            })
            .collect()
    }
}

/// The nearest of `count` levels; not-a-number is the first.
fn nearest(place: f32, count: usize) -> usize {
    let last = count.saturating_sub(1);
    ((place.clamp(0.0, 1.0) * last as f32).round() as usize).min(last)
}

/// Whether a style uses nothing but the terminal's own 16 colours.
fn ansi(style: &Style) -> bool {
    [style.fg, style.bg]
        .iter()
        .flatten()
        .all(|color| !matches!(color, Color::Rgb(..) | Color::Indexed(_)))
}

/// The nearest of the 256 colours.
fn index(color: Color) -> Color {
    if let Color::Rgb(r, g, b) = color {
        Color::Indexed(colour::nearest(Rgb(r, g, b)))
    } else {
        color
    }
}

/// The nearest of the 256 colours that can still be read on `back`.
fn readable(color: Color, back: Color, contrast: f32) -> Color {
    let (Some(wanted), Some(behind)) = (colour::rgb(color), colour::rgb(back)) else {
        return index(color);
    };
    let ink = colour::ink(behind);
    (0..=10)
        .map(|step| colour::mix(wanted, ink, step as f32 / 10.0))
        .map(|rgb| index(rgb.into()))
        .find(|&color| {
            colour::rgb(color).is_none_or(|rgb| colour::contrast(rgb, behind) >= contrast)
        })
        .unwrap_or(index(color))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DEPTHS: [Depth; 4] = [Depth::None, Depth::Ansi16, Depth::Ansi256, Depth::True];

    /// What is seen of a style: text, background (after reversing) and modifiers.
    fn seen(theme: &Theme, role: Role) -> (Option<Color>, Option<Color>, Modifier) {
        let style = theme.ground().patch(theme.style(role));
        (style.fg, style.bg, style.add_modifier)
    }

    fn every(check: impl Fn(&Theme)) {
        for theme in Theme::all() {
            for depth in DEPTHS {
                let theme = theme.adapt(depth);
                assert_eq!(theme.depth, depth);
                check(&theme);
            }
        }
    }

    /// Text that stands back on a colour keeps the contrast of text.
    #[test]
    fn faint_text_on_a_colour_can_be_read() {
        every(|theme| {
            for step in 0..=40 {
                let place = step as f32 / 40.0;
                for style in [theme.heat_faint(place), theme.sign_faint(place)] {
                    // The level that is left unpainted has the theme's own faint text.
                    if style.bg == theme.ground().bg {
                        continue;
                    }
                    let seen = |color: Option<Color>| color.and_then(colour::rgb);
                    let (Some(ink), Some(back)) = (seen(style.fg), seen(style.bg)) else {
                        continue;
                    };
                    let loud = colour::contrast(colour::ink(back), back);
                    let seen = colour::contrast(ink, back);
                    assert!(
                        seen >= QUIET || seen >= loud - 0.3,
                        "{} {:?} at {place}: {seen}",
                        theme.name,
                        theme.depth
                    );
                }
            }
        });
    }

    #[test]
    fn embedded_themes_have_no_mistakes_and_match_the_folder() {
        for Embedded { name, source } in THEMES {
            let (theme, warnings) = Theme::parse(name, "t".as_ref(), source);
            assert_eq!(warnings, Vec::<String>::new(), "{name}");
            assert!(theme.is_some());
        }
        let mut files: Vec<String> =
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/themes"))
                .unwrap()
                .map(|entry| {
                    entry
                        .unwrap()
                        .path()
                        .file_stem()
                        .unwrap()
                        .to_string_lossy()
                        .into_owned()
                })
                .collect();
        files.sort();
        let mut names: Vec<&str> = THEMES.iter().map(|t| t.name).collect();
        names.sort_unstable();
        assert_eq!(files, names);
    }

    #[test]
    fn no_depth_uses_colours_it_does_not_have() {
        every(|theme| {
            let mut styles: Vec<Style> = ROLES.map(|role| theme.style(role)).to_vec();
            for place in [0.0, 0.4, 1.0] {
                styles.extend([
                    theme.heat(place),
                    theme.sign(place),
                    theme.heat_faint(place),
                    theme.sign_faint(place),
                ]);
            }
            styles.push(theme.ground());
            for color in styles.iter().flat_map(|s| [s.fg, s.bg]).flatten() {
                #[expect(clippy::wildcard_enum_match_arm, reason = "sixteen colours by name")]
                let deep = match color {
                    Color::Reset => Depth::None,
                    Color::Rgb(..) => Depth::True,
                    Color::Indexed(_) => Depth::Ansi256,
                    _ => Depth::Ansi16,
                };
                assert!(
                    deep <= theme.depth,
                    "{} at {:?}: {color:?}",
                    theme.name,
                    theme.depth
                );
            }
        });
    }

    #[test]
    fn text_can_be_read_where_the_background_is_known() {
        every(|theme| {
            for role in ROLES {
                let (fg, bg, _) = seen(theme, role);
                let (Some(fg), Some(bg)) = (colour::rgb(fg.unwrap()), colour::rgb(bg.unwrap()))
                else {
                    continue;
                };
                let found = colour::contrast(fg, bg);
                assert!(
                    found >= theme.least(role),
                    "{} {:?} {}: {found}",
                    theme.name,
                    theme.depth,
                    role.name()
                );
            }
            for level in 0..=20 {
                for style in [
                    theme.heat(level as f32 / 20.0),
                    theme.sign(level as f32 / 20.0),
                ] {
                    if let (Some(Some(fg)), Some(Some(bg))) =
                        (style.fg.map(colour::rgb), style.bg.map(colour::rgb))
                    {
                        assert!(
                            colour::contrast(fg, bg) >= theme.contrast.max(4.5),
                            "{} {:?} {level}",
                            theme.name,
                            theme.depth
                        );
                    }
                }
            }
        });
    }

    /// High contrast is that of WCAG 1.4.6 for all text, on every colour.
    #[test]
    fn high_contrast_is_seven_to_one() {
        for name in ["high-contrast-dark", "high-contrast-light"] {
            let theme = Theme::named(name).unwrap();
            assert!(theme.contrast >= 7.0, "{name}");
            for depth in [Depth::True, Depth::Ansi256] {
                let theme = theme.adapt(depth);
                for step in 0..=40 {
                    let place = step as f32 / 40.0;
                    for style in [theme.heat_faint(place), theme.sign_faint(place)] {
                        let [ink, back] =
                            [style.fg, style.bg].map(|c| colour::rgb(c.unwrap()).unwrap());
                        assert!(
                            colour::contrast(ink, back) >= 7.0,
                            "{name} {depth:?} {place}"
                        );
                    }
                }
            }
        }
    }

    /// A colour as it is seen without one kind of cone (Viénot, Brettel and Mollon 1999): protanopia, deuteranopia.
    fn without_a_cone(Rgb(r, g, b): Rgb) -> [Rgb; 2] {
        let linear = |c: u8| (f32::from(c) / 255.0).powf(2.2);
        let [r, g, b] = [r, g, b].map(linear);
        let back = |c: f32| (c.clamp(0.0, 1.0).powf(1.0 / 2.2) * 255.0).round() as u8;
        [[0.112_38, 0.887_62, 0.004], [0.292_75, 0.707_25, -0.022_34]].map(|[red, green, blue]| {
            let yellow = red * r + green * g;
            Rgb(back(yellow), back(yellow), back(blue * r - blue * g + b))
        })
    }

    /// What must be told apart by colour differs for people without one kind of cone as well.
    #[test]
    fn colour_blind_themes_need_no_red_and_green() {
        let apart = |a: Rgb, b: Rgb| {
            let kinds = without_a_cone(a).into_iter().zip(without_a_cone(b));
            let far = |(a, b): (Rgb, Rgb)| {
                let one = |a: u8, b: u8| (f32::from(a) - f32::from(b)).powi(2);
                (one(a.0, b.0) + one(a.1, b.1) + one(a.2, b.2)).sqrt()
            };
            kinds.map(far).fold(f32::INFINITY, f32::min)
        };
        for name in ["colour-blind-dark", "colour-blind-light"] {
            let theme = Theme::named(name).unwrap();
            let of = |role: Role| colour::rgb(theme.style(role).fg.unwrap()).unwrap();
            for (a, b) in [
                (Role::Ok, Role::Error),
                (Role::Ok, Role::Warning),
                (Role::Ok, Role::Edited),
                (Role::User, Role::Model),
                (Role::Edited, Role::Model),
            ] {
                let found = apart(of(a), of(b));
                assert!(found > 60.0, "{name}: {} {}: {found}", a.name(), b.name());
            }
            let at = |place: f32| colour::rgb(theme.sign(place).bg.unwrap()).unwrap();
            for place in [0.0, 0.2] {
                assert!(apart(at(place), at(1.0 - place)) > 60.0, "{name} {place}");
                let (low, high) = (at(place), at(1.0 - place));
                assert!(low.2 > low.0 && high.0 > high.2, "{name}: blue and orange");
            }
            let light =
                |place: f32| colour::luminance(colour::rgb(theme.heat(place).bg.unwrap()).unwrap());
            let steps: Vec<f32> = (1..16).map(|i| light(i as f32 / 15.0)).collect();
            let falls = steps.iter().rev().is_sorted();
            assert!(steps.is_sorted() || falls, "{name}: {steps:?}");
        }
        // The pair that such a theme avoids.
        assert!(apart(Rgb(0xb0, 0x40, 0x20), Rgb(0x70, 0x70, 0x20)) < 60.0);
    }

    #[test]
    fn the_terminals_own_colours_have_the_ramps_of_its_background() {
        let plain = Theme::default();
        assert_ne!(plain.on_light().heat(0.0), plain.heat(0.0));
        let back = |theme: &Theme, place| {
            colour::luminance(colour::rgb(theme.heat(place).bg.unwrap()).unwrap())
        };
        assert!(back(&plain.on_light(), 0.0) > 0.7 && back(&plain, 0.0) < 0.1);
        assert_eq!(
            plain.on_light().ground(),
            plain.ground(),
            "nothing is painted"
        );
        let nord = Theme::named("nord").unwrap();
        assert_eq!(nord.on_light(), nord);
    }

    #[test]
    fn a_known_background_is_painted_and_an_unknown_one_never() {
        for theme in Theme::all() {
            let painted = theme.ground().bg != Some(Color::Reset);
            assert_eq!(
                painted,
                theme.variant != ThemeVariant::Any,
                "{}",
                theme.name
            );
        }
        let plain = Theme::default();
        assert_eq!(plain.name, "terminal");
        assert_eq!(plain.style(Role::Text), Style::new().fg(Color::Reset));
        assert!(ROLES.iter().all(|role| plain.style(*role).bg.is_none()));
    }

    #[test]
    fn cursor_selection_and_text_differ_at_every_depth() {
        every(|theme| {
            let at = |role| seen(theme, role);
            for (a, b) in [
                (Role::Selection, Role::Text),
                (Role::Selection, Role::Muted),
                (Role::Cursor, Role::Text),
                (Role::Cursor, Role::Selection),
                (Role::Muted, Role::Text),
                (Role::Error, Role::Text),
                (Role::Error, Role::Warning),
                (Role::Key, Role::Hint),
                (Role::Edited, Role::Model),
            ] {
                assert_ne!(
                    at(a),
                    at(b),
                    "{} {:?}: {} {}",
                    theme.name,
                    theme.depth,
                    a.name(),
                    b.name()
                );
            }
            let (_, bg, modifier) = at(Role::Cursor);
            assert!(
                bg != theme.ground().bg || modifier.contains(Modifier::REVERSED),
                "{}",
                theme.name
            );
        });
    }

    #[test]
    fn numbers_become_few_levels_with_zero_in_the_middle() {
        let distinct = |styles: Vec<Style>| {
            styles
                .iter()
                .collect::<std::collections::HashSet<_>>()
                .len()
        };
        for (depth, levels) in [(Depth::True, 16), (Depth::Ansi256, 8)] {
            for theme in Theme::all() {
                let theme = theme.adapt(depth);
                let heat = (0..1000).map(|i| theme.heat(i as f32 / 999.0)).collect();
                assert!(
                    (levels - 2..=levels).contains(&distinct(heat)),
                    "{} {depth:?}",
                    theme.name
                );
                assert_eq!(theme.sign(0.5), theme.ground(), "zero is not painted");
                assert_ne!(theme.sign(0.0), theme.sign(1.0));
            }
        }
        let plain = Theme::default().adapt(Depth::Ansi16);
        assert!(!plain.paints());
        assert_eq!(plain.heat(1.0), plain.style(Role::Text));
        assert_eq!(
            [0.0, 0.3, 0.5, 0.8, 1.0, f32::NAN].map(|p| plain.glyph(p)),
            [' ', '░', '▒', '▓', '█', ' ']
        );
        assert_eq!(
            [0.0, 0.5, 0.52, 1.0].map(|p| plain.sign_mark(p)),
            ['-', ' ', ' ', '+']
        );
    }

    #[test]
    fn depth_is_never_gained() {
        let narrow = Theme::named("nord").unwrap().adapt(Depth::Ansi16);
        assert_eq!(narrow.adapt(Depth::True).depth, Depth::Ansi16);
    }
}
