//! Features over the text: some features followed from position to position, and the strongest feature of every dictionary.
//!
//! Invariant: a grid has a column a position, so that it grows with a text; a position outside training is marked and has no
//! feature. To show another number of a cell, add it in [`strongest`].

use super::pages::by_size;
use super::reconstruction::{Reconstruction, features_alone};
use super::shown::{ShownDictionary, ShownSet};
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Cell, Grid, Scale};
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::text;

/// How many features a cell tells of.
const TOLD: usize = 5;

/// A feature as a user writes it: `1234`, `LAYER/1234`, `NAME#1234` or `NAME#LAYER/1234`.
#[derive(Clone, Debug, PartialEq)]
struct FeatureName {
    dictionary: Option<String>,
    layer: Option<usize>,
    number: u32,
}

impl FeatureName {
    fn parse(text: &str) -> Option<Self> {
        let (dictionary, rest) = match text.rsplit_once('#') {
            Some((name, rest)) => (Some(name).filter(|n| !n.is_empty()), rest),
            None => (None, text),
        };
        let (layer, number) = match rest.split_once('/') {
            Some((layer, number)) => (Some(layer.parse().ok()?), number),
            None => (None, rest),
        };
        Some(Self {
            dictionary: dictionary.map(String::from),
            layer,
            number: number.parse().ok()?,
        })
    }

    fn is_of(&self, set: &ShownSet, shown: &ShownDictionary) -> bool {
        let named = |name: &String| *name == set.set.name || *name == set.name;
        self.dictionary.as_ref().is_none_or(named)
            && self.layer.is_none_or(|layer| layer == shown.layer())
            && (self.number as usize) < shown.placed.dictionary.features()
    }
}

/// The activations of some features at every position.
///
/// # Errors
///
/// When no dictionary that is shown has one of them.
pub fn followed(given: &str, sets: &[ShownSet], of: &Capture, lab: &Lab) -> Result<Grid> {
    let names: Vec<&str> = given.split([' ', ',']).filter(|n| !n.is_empty()).collect();
    let mut rows = Vec::new();
    for name in names {
        let expected =
            |what: &str| Error::argument("feature", text::visible(name.as_bytes()), what);
        let feature = FeatureName::parse(name).ok_or_else(|| {
            expected("features such as 1234, 5/1234 (layer 5) or NAME#1234, separated by commas")
        })?;
        let before = rows.len();
        for (s, set) in sets.iter().enumerate() {
            let all = set.dictionaries().enumerate();
            let own = all.filter(|(_, shown)| feature.is_of(set, shown));
            rows.extend(own.map(|(d, _)| (s, d, feature.number)));
        }
        if rows.len() == before {
            let known: Vec<String> = sets
                .iter()
                .flat_map(|set| {
                    set.dictionaries().map(|shown| {
                        let last = shown.placed.dictionary.features().saturating_sub(1);
                        format!("{} to {last}", shown.feature(0))
                    })
                })
                .collect();
            let known = known.join(", ");
            return Err(expected(&format!("a feature that is there: {known}")));
        }
    }
    let mut read = Vec::new();
    let steps = sets
        .iter()
        .map(|set| set.chosen.len())
        .sum::<usize>()
        .max(1);
    let mut step = 0;
    for (s, set) in sets.iter().enumerate() {
        for (d, shown) in set.dictionaries().enumerate() {
            step += 1;
            if rows.iter().any(|row| (row.0, row.1) == (s, d)) {
                let told = |done: f32| lab.report((step as f32 - 1.0 + done) / steps as f32);
                let made = features_alone(shown.placed, of, lab, &told)?;
                read.push(((s, d), made));
            }
        }
    }
    let label = |(s, d, f): &(usize, usize, u32)| {
        let shown = sets[*s].dictionaries().nth(*d);
        shown.map_or_else(AxisLabel::default, |shown| {
            let words = shown.labels.get(shown.layer(), *f);
            let name = format!("{} {words}", shown.feature(*f));
            AxisLabel::of(name.trim_end(), Anchor::layer(shown.layer()))
        })
    };
    let labels: Vec<AxisLabel> = rows.iter().map(label).collect();
    let positions: Vec<usize> = of.positions.clone().collect();
    let cell = |row: usize, i: usize| {
        let (s, d, f) = rows[row];
        let anchor = Anchor {
            position: Some(positions[i] as u32),
            ..labels[row].anchor
        };
        let made = read.iter().find(|(at, _)| *at == (s, d));
        let Some((_, (features, outside))) = made else {
            return Cell::of("", 0.0, anchor);
        };
        if let Some(why) = outside[i] {
            return Cell::of("×", 0.0, anchor).more([(why, 1.0)]);
        }
        let active = features[i].iter().find(|(own, _)| *own == f);
        let act = active.map_or(0.0, |(_, act)| *act);
        let label = if act == 0.0 {
            String::new()
        } else {
            format!("{act:.1}")
        };
        Cell::of(label, act, anchor)
    };
    let columns = lab.headers(&of.run, of.positions.clone());
    let grid = Grid::of(
        ("feature", labels.clone()),
        ("position", columns),
        "activation",
        cell,
    );
    let reach = grid.reach();
    Ok(grid.scaled(Scale::up_to(reach)))
}

/// The strongest feature of every dictionary at every position.
pub fn strongest(sets: &[ShownSet], read: &[Vec<Reconstruction>], of: &Capture, lab: &Lab) -> Grid {
    let mut rows = Vec::new();
    for (set, read) in sets.iter().zip(read) {
        rows.extend(set.dictionaries().zip(read));
    }
    // Layers from below, as in every grid of layers.
    rows.sort_by_key(|(shown, _)| shown.layer());
    let label = |shown: &ShownDictionary| {
        let name = match shown.tag.as_str() {
            "" => shown.layer().to_string(),
            tag => tag.trim_start_matches("layer ").to_string(),
        };
        AxisLabel::of(name, Anchor::layer(shown.layer()))
    };
    let labels = rows.iter().map(|(shown, _)| label(shown)).collect();
    let positions: Vec<usize> = of.positions.clone().collect();
    let cell = |row: usize, i: usize| {
        let (shown, read) = &rows[row];
        let layer = shown.layer();
        let anchor = Anchor::cell(layer, positions[i]);
        if let Some(why) = read.outside[i] {
            return Cell::of("×", 0.0, anchor).more([(why, 1.0)]);
        }
        let sized = by_size(read, i);
        let told = |f: u32| {
            format!("{f} {}", shown.labels.get(layer, f))
                .trim_end()
                .to_string()
        };
        let Some((size, f, _)) = sized.first() else {
            return Cell::of("none", 0.0, anchor);
        };
        let share = |size: f32| size / read.fits[i].size.max(f32::MIN_POSITIVE);
        let more = sized.iter().skip(1).take(TOLD - 1);
        let more = more.map(|(size, f, _)| (told(*f), share(*size)));
        Cell::of(told(*f), share(*size), anchor).more(more)
    };
    let columns = lab.headers(&of.run, of.positions.clone());
    let grid = Grid::of(
        ("layer", labels),
        ("position", columns),
        "size of the strongest feature / ‖reconstruction‖",
        cell,
    );
    grid.scaled(Scale::up_to(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_a_number_perhaps_with_name_and_layer() {
        let parsed = |text: &str| {
            let name = FeatureName::parse(text)?;
            Some((name.dictionary.unwrap_or_default(), name.layer, name.number))
        };
        assert_eq!(parsed("12"), Some((String::new(), None, 12)));
        assert_eq!(parsed("3/12"), Some((String::new(), Some(3), 12)));
        assert_eq!(parsed("res8#12"), Some(("res8".into(), None, 12)));
        assert_eq!(parsed("/a/b#3/12"), Some(("/a/b".into(), Some(3), 12)));
        for bad in ["", "a", "1/", "a#", "-3", "1/2/3", "#x"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
