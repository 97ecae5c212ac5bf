//! Colours as numbers: ramps, contrast, and the appearance of a terminal's named colours.
//!
//! Invariant: the screen, SVG and HTML get their ramps from here, so that a number has the same colour everywhere.
//! To add a ramp, add a row to [`RAMPS`], dark to light.

use ratatui::style::Color;

/// Red, green and blue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rgb(pub u8, pub u8, pub u8);

impl std::fmt::Display for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

impl From<Rgb> for Color {
    fn from(Rgb(r, g, b): Rgb) -> Self {
        Self::Rgb(r, g, b)
    }
}

impl Rgb {
    /// From `0xrrggbb`.
    pub const fn hex(value: u32) -> Self {
        Self((value >> 16) as u8, (value >> 8) as u8, value as u8)
    }
}

const fn stops<const N: usize>(values: [u32; N]) -> [Rgb; N] {
    let mut out = [Rgb(0, 0, 0); N];
    let mut i = 0;
    while i < N {
        out[i] = Rgb::hex(values[i]);
        i += 1;
    }
    out
}

/// A ramp: its name and its colours, evenly spaced.
pub type Ramp = (&'static str, &'static [Rgb]);

/// All named ramps. Signed ones have their neutral colour in the middle.
///
/// viridis and magma: Smith and van der Walt 2015; cividis: Nuñez, Anderton and Renslow 2018, made for colour-vision
/// deficiency; `purple-orange`: `ColorBrewer` `PuOr`; `blue-orange`: after Moreland 2009.
pub const RAMPS: &[Ramp] = &[
    (
        "viridis",
        &stops([
            0x44_01_54, 0x48_28_78, 0x3e_4a_89, 0x31_68_8e, 0x26_82_8e, 0x1f_9e_89, 0x35_b7_79,
            0x6e_ce_58, 0xb5_de_2b, 0xfd_e7_25,
        ]),
    ),
    (
        "cividis",
        &stops([
            0x00_22_4e, 0x12_35_70, 0x3b_49_6c, 0x57_5d_6d, 0x70_71_73, 0x8a_86_78, 0xa5_9c_74,
            0xc3_b3_69, 0xe1_cc_55, 0xfe_e8_38,
        ]),
    ),
    (
        "magma",
        &stops([
            0x00_00_04, 0x18_0f_3d, 0x44_0f_76, 0x72_1f_81, 0x9e_2f_7f, 0xcd_40_71, 0xf1_60_5d,
            0xfd_96_68, 0xfe_ca_8d, 0xfc_fd_bf,
        ]),
    ),
    ("grey", &stops([0x18_18_18, 0xf0_f0_f0])),
    (
        "purple-orange",
        &stops([
            0x54_27_88, 0x80_73_ac, 0xb2_ab_d2, 0xf0_f0_f0, 0xfd_b8_63, 0xe0_82_14, 0xb3_58_06,
        ]),
    ),
    (
        "blue-orange",
        &stops([
            0x2b_8c_ff, 0x1d_5a_a8, 0x1a_33_55, 0x20_20_20, 0x55_38_14, 0xa8_68_14, 0xff_a0_2b,
        ]),
    ),
];

/// The colours of the ramp with a name.
pub fn ramp(name: &str) -> Option<&'static [Rgb]> {
    RAMPS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, stops)| *stops)
}

/// The colour of a ramp at `place`, 0 to 1, interpolated.
pub fn sample(stops: &[Rgb], place: f32) -> Rgb {
    let last = stops.len().saturating_sub(1);
    let at = place.clamp(0.0, 1.0) * last as f32;
    let low = (at as usize).min(last);
    let (Some(&a), Some(&b)) = (stops.get(low), stops.get((low + 1).min(last))) else {
        return Rgb::default();
    };
    mix(a, b, at - low as f32)
}

/// A mixture of `a` with the share `share`, 0 to 1, of `b`.
pub fn mix(a: Rgb, b: Rgb, share: f32) -> Rgb {
    let one = |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * share).round() as u8;
    Rgb(one(a.0, b.0), one(a.1, b.1), one(a.2, b.2))
}

/// Relative luminance, 0 to 1 (WCAG 2.2).
pub fn luminance(Rgb(r, g, b): Rgb) -> f32 {
    let linear = |c: u8| {
        let c = f32::from(c) / 255.0;
        if c <= 0.040_45 {
            c / 12.92
        } else {
            ((c + 0.055) / 1.055).powf(2.4)
        }
    };
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
}

/// The contrast ratio of two colours, 1 to 21 (WCAG 2.2).
pub fn contrast(a: Rgb, b: Rgb) -> f32 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// Black or white, whichever is more legible on a background.
pub fn ink(back: Rgb) -> Rgb {
    let (black, white) = (Rgb(0, 0, 0), Rgb(255, 255, 255));
    if contrast(black, back) >= contrast(white, back) {
        black
    } else {
        white
    }
}

/// The default appearance of the 16 named colours: subdued, and legible on a dark background.
const ANSI: [u32; 16] = [
    0x1d_1f_21, 0xcc_66_66, 0x8c_b4_6a, 0xe0_b0_5c, 0x6f_9b_d8, 0xb2_8c_d0, 0x6c_bc_b8, 0xc5_c8_c6,
    0x80_84_88, 0xff_7b_7b, 0xb0_e0_80, 0xff_d7_70, 0x8f_bf_ff, 0xd8_a8_f8, 0x8a_e6_e0, 0xff_ff_ff,
];

/// The colour of an index of the 256 palette (xterm's cube and greys).
pub fn indexed(index: u8) -> Rgb {
    let step = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
    match index {
        0..=15 => Rgb::hex(ANSI[usize::from(index)]),
        16..=231 => {
            let i = index - 16;
            Rgb(step(i / 36), step(i / 6 % 6), step(i % 6))
        }
        232..=255 => {
            let grey = 8 + 10 * (index - 232);
            Rgb(grey, grey, grey)
        }
    }
}

/// The index of the nearest colour in the 256 palette. The first 16 are left out, because the user may have changed them.
///
/// The distance is Euclidean in RGB, because perceptual distances turn the dark end of viridis grey.
pub fn nearest(Rgb(r, g, b): Rgb) -> u8 {
    let far = |index: &u8| {
        let it = indexed(*index);
        let one = |a: u8, b: u8| u32::from(a.abs_diff(b)).pow(2);
        one(r, it.0) + one(g, it.1) + one(b, it.2)
    };
    (16..=255).min_by_key(far).unwrap_or(16)
}

/// The appearance of a terminal colour; `None` for the terminal's own text and background.
pub fn rgb(color: Color) -> Option<Rgb> {
    let named = |index: u8| Some(indexed(index));
    match color {
        Color::Reset => None,
        Color::Rgb(r, g, b) => Some(Rgb(r, g, b)),
        Color::Indexed(index) => named(index),
        Color::Black => named(0),
        Color::Red => named(1),
        Color::Green => named(2),
        Color::Yellow => named(3),
        Color::Blue => named(4),
        Color::Magenta => named(5),
        Color::Cyan => named(6),
        Color::Gray => named(7),
        Color::DarkGray => named(8),
        Color::LightRed => named(9),
        Color::LightGreen => named(10),
        Color::LightYellow => named(11),
        Color::LightBlue => named(12),
        Color::LightMagenta => named(13),
        Color::LightCyan => named(14),
        Color::White => named(15),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn contrast_is_wcags() {
        let (black, white) = (Rgb(0, 0, 0), Rgb(255, 255, 255));
        assert!((contrast(black, white) - 21.0).abs() < 1e-3);
        assert!(
            (contrast(Rgb(0x77, 0x77, 0x77), white) - 4.48).abs() < 0.01,
            "the textbook grey"
        );
        assert_eq!(ink(Rgb(250, 230, 40)), black);
        assert_eq!(ink(Rgb(68, 1, 84)), white);
    }

    #[test]
    fn ramps_run_from_dark_to_light_or_through_a_neutral_middle() {
        for (name, stops) in RAMPS {
            let light: Vec<f32> = (0..=16)
                .map(|i| luminance(sample(stops, i as f32 / 16.0)))
                .collect();
            if name.contains("orange") {
                let middle = sample(stops, 0.5);
                assert_eq!(
                    (middle.0, middle.1),
                    (middle.1, middle.2),
                    "{name} is grey in the middle"
                );
            } else {
                assert!(light.is_sorted(), "{name} {light:?}");
            }
        }
    }

    #[test]
    fn samples_hit_the_stops() {
        let stops = [Rgb(0, 0, 0), Rgb(100, 0, 0), Rgb(100, 200, 0)];
        assert_eq!(sample(&stops, 0.5), stops[1]);
        assert_eq!(sample(&stops, 0.75), Rgb(100, 100, 0));
        assert_eq!(sample(&stops, 7.0), stops[2]);
        assert_eq!(sample(&stops, f32::NAN), stops[0]);
        assert_eq!(sample(&[], 0.5), Rgb::default());
    }

    #[test]
    fn the_palette_is_xterms() {
        assert_eq!(indexed(16), Rgb(0, 0, 0));
        assert_eq!(indexed(196), Rgb(255, 0, 0));
        assert_eq!(indexed(67), Rgb(95, 135, 175));
        assert_eq!(indexed(244), Rgb(128, 128, 128));
        assert!(
            (16..=231).all(|i| nearest(indexed(i)) == i),
            "colours of the palette are themselves"
        );
        assert_eq!(nearest(Rgb(72, 40, 120)), 54, "a dark purple stays purple");
        assert_eq!(rgb(Color::Reset), None);
        assert_eq!(rgb(Color::White), Some(Rgb(255, 255, 255)));
        assert_eq!(Rgb(1, 160, 255).to_string(), "#01a0ff");
    }
}
