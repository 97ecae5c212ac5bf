//! Features of dictionaries as edits name them: `NAME#12`, several as `NAME#12,40`, in a set of several layers `NAME#LAYER/12`.
//!
//! Invariant: printing and parsing are inverse, and nothing here knows whether there is such a dictionary: that is looked up in
//! `lab/features.rs`. To name features in another way, add it to `FeatureChoice::read` and to its `Display`.

use std::fmt;

use super::quotes::{LinePiece, QuotedLine, named, read};

/// Features of one dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureChoice {
    /// The dictionary's name or path.
    pub dictionary: String,
    /// The layer, in a set with a dictionary for each of several layers.
    pub layer: Option<u16>,
    /// At least one.
    pub numbers: Vec<u32>,
}

impl fmt::Display for FeatureChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", named(&self.dictionary), self.list())
    }
}

impl FeatureChoice {
    /// Reads `NAME#[LAYER/]N,N`; none where there is no `#` with a name before it.
    ///
    /// # Errors
    ///
    /// When what follows the `#` are not numbers of features.
    pub(crate) fn read(piece: LinePiece<'_>) -> Result<Option<Self>, String> {
        let piece = piece.trim();
        let (name, list) = match piece.rsplit_once('#') {
            Some((name, list)) => (name.trim().read()?, list.text.to_string()),
            // The quotation marks may be around all of it.
            None => match piece.text.contains('#').then(|| piece.read()).transpose()? {
                Some(whole) => match whole.rsplit_once('#') {
                    Some((name, list)) => (name.trim().to_string(), list.to_string()),
                    None => return Ok(None),
                },
                None => return Ok(None),
            },
        };
        if name.is_empty() {
            return Ok(None);
        }
        Self::of(&name, &list).map(Some).ok_or_else(|| {
            format!(
                "`{}` after `{name}#` is not the number of a feature; write NAME#12, several as NAME#12,40, of a set of several layers NAME#LAYER/12",
                list.trim()
            )
        })
    }

    /// The one feature that the name of a direction means, if `name` has the form of one; `NAME#-1`, a direction moved by layers,
    /// has not.
    pub fn of_direction(name: &str) -> Option<Self> {
        let (dictionary, list) = name.rsplit_once('#')?;
        let found = Self::of(dictionary, list)?;
        (found.numbers.len() == 1 && !found.dictionary.is_empty()).then_some(found)
    }

    fn of(dictionary: &str, list: &str) -> Option<Self> {
        let (layer, list) = match list.split_once('/') {
            Some((layer, list)) => (Some(number(layer)?), list),
            None => (None, list),
        };
        let numbers = list.split(',').map(number);
        Some(Self {
            dictionary: dictionary.to_string(),
            layer,
            numbers: numbers.collect::<Option<Vec<u32>>>()?,
        })
    }

    /// What stands behind the `#`.
    fn list(&self) -> String {
        let numbers: Vec<String> = self.numbers.iter().map(u32::to_string).collect();
        let layer = self
            .layer
            .map_or(String::new(), |layer| format!("{layer}/"));
        format!("{layer}{}", numbers.join(","))
    }

    /// One of its features alone.
    #[must_use]
    pub fn only(&self, feature: u32) -> Self {
        Self {
            numbers: vec![feature],
            ..self.clone()
        }
    }

    /// As the name of a direction, without quotation marks of its own.
    pub fn direction(&self) -> String {
        format!("{}#{}", self.dictionary, self.list())
    }
}

/// Digits alone: `+1` and `-1` move a direction by layers.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let text = text.trim();
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The name of a direction as it is typed: quotation marks around all of it, or around what stands before `#12`.
pub(crate) fn direction_name(piece: LinePiece<'_>) -> Result<String, String> {
    let piece = piece.trim();
    match piece.read() {
        Ok(name) => Ok(name),
        Err(why) => match FeatureChoice::read(piece) {
            Ok(Some(feature)) => Ok(feature.direction()),
            Ok(None) | Err(_) => Err(why),
        },
    }
}

impl std::str::FromStr for FeatureChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let line = QuotedLine::new(text)?;
        let found = Self::read(line.whole())?;
        found.ok_or_else(|| {
            format!(
                "`{}` names no feature; write NAME#12",
                read(text).unwrap_or_default()
            )
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn features_print_and_parse_inversely() {
        for (typed, printed) in [
            ("sae#12", "sae#12"),
            ("a/b#c#0", "a/b#c#0"),
            ("sae#6/12,40", "sae#6/12,40"),
            (" sae # 12 , 40 ", "sae#12,40"),
            ("\"my sae\"#12", "\"my sae\"#12"),
            ("\"my sae#12\"", "\"my sae\"#12"),
            ("\"l6@resid_post.6\"#3", "\"l6@resid_post.6\"#3"),
        ] {
            let found: FeatureChoice = typed.parse().unwrap();
            assert_eq!(found.to_string(), printed);
            assert_eq!(printed.parse::<FeatureChoice>().unwrap(), found);
        }
        for typed in [
            "sae#", "sae#x", "sae#-1", "sae#+1", "sae#1/", "sae#1,", "sae#/1", "#1", "sae",
        ] {
            assert!(typed.parse::<FeatureChoice>().is_err(), "{typed}");
        }
    }

    #[test]
    fn a_direction_that_is_moved_is_no_feature() {
        assert_eq!(FeatureChoice::of_direction("calm#-1"), None);
        assert_eq!(FeatureChoice::of_direction("calm.npz#angry"), None);
        assert_eq!(FeatureChoice::of_direction("calm#1,2"), None);
        let found = FeatureChoice::of_direction("l6@resid_post.6#3/12").unwrap();
        assert_eq!(
            (found.layer, found.numbers.as_slice()),
            (Some(3), &[12][..])
        );
        assert_eq!(found.direction(), "l6@resid_post.6#3/12");
    }
}
