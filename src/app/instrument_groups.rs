//! Instruments by what they are about, to be picked from a list, each with what it costs here.
//!
//! Invariant: every instrument is in one group. To add one, name it in its group.

use super::App;
use super::arrival::WORTH_WAITING;
use crate::instruments::{Instrument, instrument};
use crate::text;

/// What they are about, and their names.
const GROUPS: [(&str, &[&str]); 8] = [
    (
        "layers",
        &[
            "lens",
            "track",
            "settle",
            "trajectory",
            "languages",
            "surprisal",
        ],
    ),
    (
        "neurons",
        &["neurons", "value", "triggers", "promoters", "fact", "dose"],
    ),
    (
        "features",
        &["features", "feature", "feature-search", "feature-logits"],
    ),
    (
        "attention",
        &["attention", "heads", "knockout", "composition", "head-svd"],
    ),
    (
        "causes",
        &["residual", "saliency", "attribution", "patching", "circuit"],
    ),
    ("directions", &["select", "sweep", "meters", "probe"]),
    (
        "meanings",
        &["patchscope", "backpatch", "relation", "attribute-lens"],
    ),
    ("lists", &["answers", "score"]),
];

impl App {
    /// Opens the list of instruments: each with its group, what it costs for the text that is there, and what it shows.
    pub(super) fn open_instruments(&mut self) {
        let groups = GROUPS.iter().flat_map(|(group, names)| {
            let own = names.iter().filter_map(|name| instrument(name).ok());
            own.map(move |own| (*group, own))
        });
        let all = groups
            .map(|(group, own)| {
                let cost = self.price(own);
                let about = format!("{group} · {cost}{}", own.about());
                (own.name().to_string(), about)
            })
            .collect();
        self.open_picker("show", "instruments", all);
    }

    /// What a figure costs as it would be asked for now: nothing said where it is not known, or hardly anything.
    fn price(&self, of: &'static dyn Instrument) -> String {
        if self.is_live(of.name()) {
            return "live · ".into();
        }
        let arguments = of.read(&self.prefilled(of)).ok();
        let cost = arguments.and_then(|arguments| self.cost_of(of, &arguments));
        let time = cost.and_then(|(_, time)| time.filter(|time| *time >= WORTH_WAITING));
        time.map_or_else(String::new, |time| {
            format!("at most {} · ", text::duration(time))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruments::INSTRUMENTS;

    #[test]
    fn every_instrument_is_in_one_group() {
        let named: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        for own in INSTRUMENTS {
            let count = named.iter().filter(|name| **name == own.name()).count();
            assert_eq!(count, 1, "{}", own.name());
        }
        assert_eq!(named.len(), INSTRUMENTS.len());
    }
}
