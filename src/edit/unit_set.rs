//! Unit sets: neurons or heads of several layers under a common name, so that they can be edited as a group.
//!
//! An edit refers to a set as `{NAME}`: `zero:{facts}@mlp_act.*`. Invariant: a set belongs to one site, and an edit at another
//! site is refused. To store something else in a set, add a field to [`UnitSet`]; unknown fields are refused when a file is
//! read.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file::Overwrite;
use crate::model::Card;
use crate::model::network::address::site_named;
use crate::model::network::site::Site;

/// Units of one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSet {
    /// The site: `mlp_act`, `z`, ...
    pub site: Site,
    /// Layer and unit, sorted, without duplicates.
    pub units: Vec<(u16, u32)>,
    /// Fingerprint of the model they were chosen on; empty if unknown.
    pub revision: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitSetFile {
    site: String,
    #[serde(default)]
    revision: String,
    /// Units as `layer/unit`.
    units: Vec<String>,
}

impl UnitSet {
    /// A set of these units.
    pub fn new(site: Site, mut units: Vec<(u16, u32)>, revision: &str) -> Self {
        units.sort_unstable();
        units.dedup();
        Self {
            site,
            units,
            revision: revision.into(),
        }
    }

    pub fn at(&self, layer: u16) -> Vec<u32> {
        let here = self.units.iter().filter(|(l, _)| *l == layer);
        here.map(|(_, unit)| *unit).collect()
    }

    /// Refuses a set of another model.
    pub fn check(&self, card: &Card) -> Result<()> {
        if self.revision.is_empty() || self.revision == card.revision {
            return Ok(());
        }
        let expected = format!(
            "a set chosen on this model, {} ({})",
            card.name, card.revision
        );
        Err(Error::argument("unit set", &self.revision, expected))
    }

    /// Reads a TOML file: `site = "mlp_act"`, `units = ["3/17", "5/2"]`.
    pub fn load(path: &Path) -> Result<Self> {
        let text = crate::file::words(path)?;
        let next =
            "A unit set is a TOML file with site = \"mlp_act\" and units = [\"LAYER/UNIT\", ...].";
        let fail = |why: String| Error::bad_file(path, why, next);
        let written: UnitSetFile =
            toml::from_str(&text).map_err(|e| fail(e.message().trim_end().replace('\n', " ")))?;
        let site = site_named(&written.site)?;
        let read = |unit: &String| {
            let parts = unit.split_once('/');
            let numbers = parts.and_then(|(l, u)| Some((l.parse().ok()?, u.parse().ok()?)));
            numbers.ok_or_else(|| fail(format!("`{unit}` is not LAYER/UNIT")))
        };
        let units = written.units.iter().map(read).collect::<Result<Vec<_>>>()?;
        if units.is_empty() {
            return Err(fail("it names no units".into()));
        }
        Ok(Self::new(site, units, &written.revision))
    }

    /// Writes such a file; an existing file is not overwritten.
    pub fn save(&self, path: &Path) -> Result<()> {
        let written = UnitSetFile {
            site: self.site.spec().name.into(),
            revision: self.revision.clone(),
            units: self.units.iter().map(|(l, u)| format!("{l}/{u}")).collect(),
        };
        let text = toml::to_string(&written)
            .map_err(|e| Error::bad_file(path, e.to_string(), "Choose another file name."))?;
        crate::file::write(path, text.as_bytes(), Overwrite::Never)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_set_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facts.toml");
        let set = UnitSet::new(Site::MlpAct, vec![(3, 17), (1, 2), (3, 17)], "r");
        assert_eq!(set.units, [(1, 2), (3, 17)]);
        assert_eq!(set.at(3), [17]);
        set.save(&path).unwrap();
        assert_eq!(UnitSet::load(&path).unwrap(), set);
        for (text, why) in [
            ("site = \"mlp_act\"\nunits = []", "no unit"),
            ("site = \"mlp_act\"\nunits = [\"3-1\"]", "LAYER/UNIT"),
            ("site = \"mlp_akt\"\nunits = [\"3/1\"]", "mlp_act"),
            ("site = \"mlp_act\"\nunits = [\"3/1\"]\nextra = 1", "extra"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = UnitSet::load(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
