//! Labels of features, from a local file: Neuronpedia's export of explanations.
//!
//! Invariant: a label is safe visible text of one line. Read are a JSON list, or a JSON object a line, with `index` and
//! `description`, and optionally `layer`, whose first number is the layer; and a JSON object of labels by index.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::file;
use crate::text;

/// The longest label, in columns.
const WIDTH: usize = 80;

const NEXT: &str = "Give Neuronpedia's export of explanations: a list of {\"index\": \"17\", \"description\": \"...\"}, unpacked.";

/// Labels by layer, where the file says it, and feature.
#[derive(Debug, Default)]
pub struct FeatureLabels {
    by_feature: HashMap<(Option<usize>, u32), String>,
    /// The models that the file names.
    models: BTreeSet<String>,
}

impl FeatureLabels {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it has no label, or labels of several models.
    pub fn open(path: &Path) -> Result<Self> {
        let words = file::words(path)?;
        let bad = |what: String| Error::bad_file(path, what, NEXT);
        let mut labels = Self::default();
        match serde_json::from_str(&words) {
            Ok(all) => labels.take(&all),
            Err(whole) => {
                for line in words.lines().filter(|line| !line.trim().is_empty()) {
                    let one: Value = serde_json::from_str(line).map_err(|_| {
                        bad(format!("it is neither JSON nor JSON a line ({whole})"))
                    })?;
                    labels.take(&one);
                }
            }
        }
        if labels.by_feature.is_empty() {
            return Err(bad("it has no label".into()));
        }
        if labels.models.len() > 1 {
            let models: Vec<&String> = labels.models.iter().collect();
            return Err(bad(format!(
                "it has labels of {} models: {}",
                models.len(),
                text::quoted(&models, 4)
            )));
        }
        Ok(labels)
    }

    fn take(&mut self, value: &Value) {
        match value {
            Value::Array(all) => all.iter().for_each(|one| self.take(one)),
            Value::Object(map) => {
                if let Some(inner) = map.get("explanations").filter(|inner| inner.is_array()) {
                    return self.take(inner);
                }
                if let (Some(index), Some(Value::String(words))) =
                    (map.get("index"), map.get("description"))
                {
                    let layer = map.get("layer").and_then(number);
                    if let Some(Value::String(model)) = map.get("modelId") {
                        self.models.insert(text::line(model));
                    }
                    if let Some(index) = number(index) {
                        self.insert((layer, index as u32), words);
                    }
                    return;
                }
                for (key, words) in map {
                    if let (Ok(index), Value::String(words)) = (key.parse::<u32>(), words) {
                        self.insert((None, index), words);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn insert(&mut self, key: (Option<usize>, u32), words: &str) {
        let label = text::clip(&text::line(words.trim()), WIDTH);
        // The first explanation of a feature stands.
        self.by_feature.entry(key).or_insert(label);
    }

    /// The label of a feature of a layer; empty without one.
    pub fn get(&self, layer: usize, feature: u32) -> &str {
        let own = self.by_feature.get(&(Some(layer), feature));
        own.or_else(|| self.by_feature.get(&(None, feature)))
            .map_or("", String::as_str)
    }

    /// What does not fit a dictionary of so many features at a layer: labels of other layers or numbers, or of another model,
    /// which `same` tells.
    pub fn misfit(
        &self,
        layer: usize,
        features: usize,
        same: &dyn Fn(&str) -> bool,
    ) -> Option<String> {
        let all = self.by_feature.len();
        let fits = |(own, feature): &&(Option<usize>, u32)| {
            own.is_none_or(|own| own == layer) && (*feature as usize) < features
        };
        let fitting = self.by_feature.keys().filter(fits).count();
        let other = self.models.iter().find(|model| !same(model));
        let of = other.map_or(String::new(), |model| format!(", and they are of {model}"));
        if all == 0 || fitting == all && other.is_none() {
            return None;
        }
        let layers: BTreeSet<usize> = self.by_feature.keys().filter_map(|key| key.0).collect();
        let layers: Vec<String> = layers.iter().take(8).map(ToString::to_string).collect();
        let said = if layers.is_empty() {
            String::new()
        } else {
            format!(" (the file has layer {})", layers.join(", "))
        };
        Some(if fitting == 0 {
            format!("NONE of the {all} labels fit{said}{of}")
        } else {
            format!("{fitting} of {all} labels fit layer {layer}{said}{of}")
        })
    }
}

/// A number, or the one with which a text begins: `20-gemmascope-res-16k`.
fn number(value: &Value) -> Option<usize> {
    match value {
        Value::Number(n) => n.as_u64().and_then(|n| usize::try_from(n).ok()),
        Value::String(words) => {
            let digits: String = words.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(words: &str) -> Result<FeatureLabels> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.json");
        std::fs::write(&path, words).unwrap();
        FeatureLabels::open(&path)
    }

    #[test]
    fn labels_of_another_layer_or_model_are_told() {
        let list = r#"[{"modelId": "m", "layer": "3-res", "index": "7", "description": "a"}, {"modelId": "m", "layer": "3-res", "index": "90", "description": "b"}]"#;
        let labels = of(list).unwrap();
        let misfit = |layer, features, model: &'static str| {
            labels.misfit(layer, features, &move |own| own == model)
        };
        assert_eq!(misfit(3, 100, "m"), None);
        let some = misfit(3, 50, "m").unwrap();
        assert!(some.contains("1 of 2 labels fit layer 3"), "{some}");
        let none = misfit(4, 100, "m").unwrap();
        assert!(
            none.contains("NONE of the 2 labels fit") && none.contains("layer 3"),
            "{none}"
        );
        let other = misfit(3, 100, "n").unwrap();
        assert!(other.contains("they are of m"), "{other}");
        assert_eq!(FeatureLabels::default().misfit(0, 1, &|_| false), None);
        let mixed = list.replacen("\"m\"", "\"n\"", 1);
        let mixed = of(&mixed).unwrap_err().to_string();
        assert!(mixed.contains("labels of 2 models: `m`, `n`"), "{mixed}");
    }

    #[test]
    fn all_forms_are_read_and_nothing_else() {
        let list = r#"[{"modelId": "m", "layer": "3-res", "index": "7", "description": " about\u001b[2J time "}, {"index": 8, "description": "b"}]"#;
        let labels = of(list).unwrap();
        assert_eq!(labels.get(3, 7), "about␛[2J time");
        assert_eq!(
            (labels.get(4, 7), labels.get(4, 8), labels.get(3, 9)),
            ("", "b", "")
        );
        let lines = "{\"index\": \"1\", \"description\": \"a\"}\n\n{\"index\": \"2\", \"description\": \"b\"}\n";
        assert_eq!(of(lines).unwrap().get(0, 2), "b");
        assert_eq!(of(r#"{"5": "five"}"#).unwrap().get(9, 5), "five");
        assert!(of("[]").unwrap_err().to_string().contains("no label"));
        assert!(
            of("words")
                .unwrap_err()
                .to_string()
                .contains("neither JSON")
        );
    }
}
