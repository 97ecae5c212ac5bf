//! A feature as a user names it to an instrument: `1234`, `LAYER/1234`, `NAME#1234` or `NAME#LAYER/1234`.
//!
//! Invariant: what is left out is left to the instrument, which knows the dictionaries that it shows; edits name features in full
//! ([`crate::edit::feature`]).

use crate::error::{Error, Result};
use crate::text;

/// A feature as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureName {
    /// The dictionary before the `#`.
    pub dictionary: Option<String>,
    pub layer: Option<usize>,
    pub feature: u32,
}

impl FeatureName {
    /// Reads `1234`, `#1234`, `NAME#1234`, `LAYER/1234` or `NAME#LAYER/1234`.
    ///
    /// # Errors
    ///
    /// When it is none of these.
    pub fn parse(given: &str) -> Result<Self> {
        let (name, number) = given.rsplit_once('#').unwrap_or(("", given));
        let (layer, feature) = match number.split_once('/') {
            Some((layer, feature)) => (Some(layer.trim().parse().ok()), feature),
            None => (None, number),
        };
        match (layer, feature.trim().parse()) {
            (None | Some(Some(_)), Ok(feature)) => Ok(Self {
                dictionary: Some(name.trim().to_string()).filter(|name| !name.is_empty()),
                layer: layer.flatten(),
                feature,
            }),
            _ => Err(Error::argument(
                "feature",
                text::visible(given.as_bytes()),
                "the number of a feature, 1234, with its layer in a set of several, 12/1234, and its dictionary, NAME#12/1234",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_a_number_perhaps_with_name_and_layer() {
        let parsed = |text: &str| {
            let name = FeatureName::parse(text).ok()?;
            Some((
                name.dictionary.unwrap_or_default(),
                name.layer,
                name.feature,
            ))
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
