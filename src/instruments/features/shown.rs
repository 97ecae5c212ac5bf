//! The dictionaries that a figure shows: those that were named, each once, with what tells them from each other.
//!
//! Invariant: no two of them have the same tag, and one alone has none; what is said of a dictionary is said under its tag. To say
//! something else of a dictionary, add it to [`ShownDictionary::notes`].

use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use super::FeaturesParams;
use crate::dictionaries::labels::FeatureLabels;
use crate::dictionaries::model_name::same_model;
use crate::dictionaries::opened::{DictionarySet, OpenDictionaries, PlacedDictionary, named};
use crate::error::{Error, Result};
use crate::figure::FeatureHandle;
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::model::Card;
use crate::text;

/// The longest name that is shown, in columns.
const NAME: usize = 24;

/// A set of dictionaries that is shown, or some of its layers.
pub struct ShownSet {
    pub set: Rc<DictionarySet>,
    /// Which of its dictionaries.
    pub chosen: Vec<usize>,
    labels: Rc<FeatureLabels>,
    /// A short name, another one than that of any other set.
    pub name: String,
    /// Whether there are other sets.
    among: bool,
}

/// One dictionary of it.
pub struct ShownDictionary<'a> {
    pub placed: &'a PlacedDictionary,
    pub labels: &'a FeatureLabels,
    /// What tells it from the others that are shown; empty where it is alone.
    pub tag: String,
    /// What stands before the number of a feature.
    before: String,
    /// What edits call it: the name that was given, and the layer in a set of several.
    given: &'a str,
    layer: Option<u16>,
}

/// What a user named: several are separated by commas; nothing is what is embedded for the model.
pub fn names(given: &str, card: &Card) -> Vec<String> {
    let given = given.trim();
    // A path may hold a comma.
    if given.is_empty() || Path::new(given).exists() {
        return named(given, card).into_iter().collect();
    }
    let names = given.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(String::from)
        .collect()
}

impl ShownSet {
    /// The sets that the parameters name, at the layers that they choose.
    ///
    /// # Errors
    ///
    /// When one cannot be opened, or none has the layer.
    pub fn all(params: &FeaturesParams, lab: &Lab) -> Result<Vec<Self>> {
        let open = lab.derived::<OpenDictionaries>();
        let mut sets: Vec<Rc<DictionarySet>> = Vec::new();
        for name in names(&params.dictionary, &lab.model.card) {
            let set = open.get(&name, lab)?;
            if !sets.iter().any(|held| held.is_same(&set)) {
                sets.push(set);
            }
        }
        let only = params.layer.within(lab.model.card.layers)?;
        let short = short_names(&sets.iter().map(|set| set.name.clone()).collect::<Vec<_>>());
        let among = sets.len() > 1;
        let mut shown = Vec::new();
        for (set, name) in sets.iter().zip(short) {
            let own = set.dictionaries.iter().enumerate();
            let at = own.filter(|(_, d)| only.is_none_or(|l| usize::from(d.reads[0].layer) == l));
            let chosen: Vec<usize> = at.map(|(i, _)| i).collect();
            if chosen.is_empty() {
                continue;
            }
            let labels = params.labels.trim();
            let labels = match &set.labels {
                Some(own) if labels.is_empty() => open.labels(own)?,
                Some(_) | None => open.labels(Path::new(labels))?,
            };
            shown.push(Self {
                set: set.clone(),
                chosen,
                labels,
                name,
                among,
            });
        }
        if let Some(layer) = only.filter(|_| shown.is_empty() && !sets.is_empty()) {
            let all = sets.iter().flat_map(|set| &set.dictionaries);
            let mut layers: Vec<u16> = all.map(|d| d.reads[0].layer).collect();
            layers.sort_unstable();
            layers.dedup();
            let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
            let expected = format!("a layer with a dictionary: {}", layers.join(", "));
            return Err(Error::argument("layer", layer, expected));
        }
        Ok(shown)
    }

    /// The chosen dictionaries.
    pub fn dictionaries(&self) -> impl Iterator<Item = ShownDictionary<'_>> {
        let several = self.set.dictionaries.len() > 1;
        let layers = self.chosen.len() > 1;
        self.chosen.iter().map(move |i| {
            let placed = &self.set.dictionaries[*i];
            let layer = placed.reads[0].layer;
            let name = &self.name;
            let tag = match (self.among, layers) {
                (false, false) => String::new(),
                (false, true) => format!("layer {layer}"),
                (true, false) => name.clone(),
                (true, true) => format!("{name} layer {layer}"),
            };
            let before = match (self.among, several) {
                (false, _) => format!("{layer}/"),
                (true, false) => format!("{name}#"),
                (true, true) => format!("{name}#{layer}/"),
            };
            ShownDictionary {
                placed,
                labels: &self.labels,
                tag,
                before,
                given: &self.set.name,
                layer: several.then_some(layer),
            }
        })
    }

    /// What it is called in a title.
    pub fn title(&self) -> String {
        let places: Vec<String> = self
            .dictionaries()
            .map(|d| d.placed.reads[0].to_string())
            .collect();
        let places = match places.as_slice() {
            [] | [_] => places.concat(),
            [first, .., last] => format!("{first} to {last}"),
        };
        if self.among {
            format!("{} ({places})", self.name)
        } else {
            places
        }
    }
}

impl ShownDictionary<'_> {
    /// A feature as it is written.
    pub fn feature(&self, number: u32) -> String {
        format!("{}{number}", self.before)
    }

    /// A feature as edits name it, with its activation.
    pub fn handle(&self, feature: u32, activation: f32) -> FeatureHandle {
        FeatureHandle {
            dictionary: self.given.to_string(),
            layer: self.layer,
            feature,
            place: self.placed.written_at(),
            activation: Some(activation),
        }
    }

    /// The features that active edits of a run act on, with the positions from which and until which those are on.
    pub fn edited(&self, run: &Run) -> Vec<(Range<usize>, Vec<u32>)> {
        let own = run
            .schedule
            .on_features()
            .filter(|(.., chosen)| chosen.dictionary == self.given && chosen.layer == self.layer);
        own.map(|(span, _, chosen)| (span, chosen.numbers.clone()))
            .collect()
    }

    pub fn layer(&self) -> usize {
        usize::from(self.placed.reads[0].layer)
    }

    /// The name of a row about the dictionary as a whole.
    pub fn row(&self, name: &str) -> String {
        if self.tag.is_empty() {
            name.into()
        } else {
            format!("{name} · {}", self.tag)
        }
    }

    /// What a reader must know of it.
    pub fn notes(&self, card: &Card) -> Vec<String> {
        let dictionary = &self.placed.dictionary;
        let mut notes = self.placed.notes(card);
        notes.extend(
            self.labels
                .misfit(self.layer(), dictionary.features(), &|model| {
                    same_model(model, &card.name)
                }),
        );
        if self.tag.is_empty() {
            return notes;
        }
        let tagged = notes
            .into_iter()
            .map(|note| format!("{}: {note}", self.tag));
        tagged.collect()
    }
}

/// For each name the shortest end of its path that no other path has; of the same path with its address.
fn short_names(names: &[String]) -> Vec<String> {
    fn base(name: &str) -> &str {
        let path = name.rsplit_once('@').map_or(name, |(path, _)| path);
        path.trim_end_matches('/')
    }
    let end = |name: &str, count: usize| {
        let parts: Vec<&str> = base(name).split('/').collect();
        parts[parts.len().saturating_sub(count)..].join("/")
    };
    let shortest = |(i, name): (usize, &String)| {
        let others = || names.iter().enumerate().filter(move |(j, _)| *j != i);
        let other_paths = || others().filter(|(_, other)| base(other) != base(name));
        let most = base(name).split('/').count();
        let alone = |count: &usize| {
            let own = end(name, *count);
            !other_paths().any(|(_, other)| end(other, *count) == own)
        };
        let mut own = end(name, (1..most).find(alone).unwrap_or(most));
        if others().any(|(_, other)| base(other) == base(name))
            && let Some((_, address)) = name.rsplit_once('@')
        {
            own = format!("{own}@{address}");
        }
        let own = text::visible(own.as_bytes());
        if text::width(&own) <= NAME {
            return own;
        }
        // The end of a path says more than its beginning.
        let kept: Vec<char> = own.chars().collect();
        let kept: String = kept[kept.len().saturating_sub(NAME - 1)..].iter().collect();
        format!("…{kept}")
    };
    let mut short: Vec<String> = names.iter().enumerate().map(shortest).collect();
    for i in 0..short.len() {
        if short[..i].contains(&short[i]) {
            short[i] = format!("{} {}", i + 1, short[i]);
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_shortest_end_that_no_other_has() {
        let short = |names: &[&str]| {
            short_names(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(short(&["/a/b/c"]), ["c"]);
        assert_eq!(short(&["/a/x/sae", "/a/y/sae/"]), ["x/sae", "y/sae"]);
        assert_eq!(short(&["res8", "/x/mlp"]), ["res8", "mlp"]);
        assert_eq!(
            short(&["/a/x/sae", "/a/y/sae@mlp_out.1"]),
            ["x/sae", "y/sae"]
        );
        assert_eq!(
            short(&["/a/sae", "/a/sae@mlp_out.1"]),
            ["sae", "sae@mlp_out.1"]
        );
        let long = format!("/a/{}", "l".repeat(60));
        assert_eq!(text::width(&short(&[&long, "b"])[0]), NAME);
        // Of equal ends one has a number.
        let [a, b] = [
            format!("/a/{}", "l".repeat(60)),
            format!("/a/m{}", "l".repeat(60)),
        ];
        let both = short(&[&a, &b]);
        assert_ne!(both[0], both[1]);
    }
}
