//! The hub's settings in the environment: cache folder, access token, endpoint, and whether requests are allowed.
//!
//! Invariant: the variables of Python's huggingface_hub are read only here, with its precedence. To honour another variable,
//! add a field to [`HubSettings`].

use std::path::PathBuf;

use crate::error::{Error, Result};

/// The default endpoint.
const ENDPOINT: &str = "https://huggingface.co";

/// The settings from the environment, read once.
#[derive(Clone)]
pub struct HubSettings {
    /// The cache folder.
    pub cache: PathBuf,
    /// The hub's address, without a trailing slash.
    pub endpoint: String,
    /// The access token of the user.
    pub token: Option<String>,
    /// The variable that forbids requests, if one does.
    pub offline: Option<&'static str>,
}

impl HubSettings {
    /// Reads the environment.
    pub fn read() -> Result<Self> {
        Self::from(&|name| std::env::var_os(name).map(PathBuf::from))
    }

    fn from(var: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Self> {
        let word = |name: &str| {
            let value = var(name)?.to_str()?.trim().to_string();
            (!value.is_empty()).then_some(value)
        };
        let endpoint = word("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let valid = reqwest::Url::parse(&endpoint)
            .is_ok_and(|u| ["http", "https"].contains(&u.scheme()) && u.has_host());
        if !valid {
            let expected = format!("the address of a hub, such as {ENDPOINT}");
            return Err(Error::argument("HF_ENDPOINT", endpoint, expected));
        }
        let yes = |name: &str| {
            word(name).is_some_and(|v| {
                ["1", "ON", "YES", "TRUE"].contains(&v.to_ascii_uppercase().as_str())
            })
        };
        Ok(Self {
            cache: cache(var),
            endpoint: endpoint.trim_end_matches('/').to_string(),
            token: token(var),
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
                .into_iter()
                .find(|name| yes(name)),
        })
    }

    /// The web page of a repository.
    pub fn page(&self, id: &str) -> String {
        format!("{}/{id}", self.endpoint)
    }
}

/// The hub cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`, `XDG_CACHE_HOME/huggingface/hub`,
/// `~/.cache/huggingface/hub`.
pub fn cache_folder() -> PathBuf {
    cache(&|name| std::env::var_os(name).map(PathBuf::from))
}

fn cache(var: &dyn Fn(&str) -> Option<PathBuf>) -> PathBuf {
    filled(var, "HF_HUB_CACHE")
        .or_else(|| filled(var, "HUGGINGFACE_HUB_CACHE"))
        .unwrap_or_else(|| home(var).join("hub"))
}

/// `HF_HOME`, `XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface`.
fn home(var: &dyn Fn(&str) -> Option<PathBuf>) -> PathBuf {
    filled(var, "HF_HOME")
        .or_else(|| filled(var, "XDG_CACHE_HOME").map(|h| h.join("huggingface")))
        .or_else(|| directories::BaseDirs::new().map(|d| d.home_dir().join(".cache/huggingface")))
        .unwrap_or_else(|| PathBuf::from("huggingface"))
}

/// `HF_TOKEN`, the file `HF_TOKEN_PATH`, the file that `hf auth login` writes; none if `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set.
fn token(var: &dyn Fn(&str) -> Option<PathBuf>) -> Option<String> {
    if filled(var, "HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return None;
    }
    let cleaned = |s: String| {
        let s = s.trim().to_string();
        (!s.is_empty()).then_some(s)
    };
    let file = |path: PathBuf| crate::file::words(&path).ok().and_then(cleaned);
    filled(var, "HF_TOKEN")
        .and_then(|t| t.into_os_string().into_string().ok())
        .and_then(cleaned)
        .or_else(|| filled(var, "HF_TOKEN_PATH").and_then(file))
        .or_else(|| file(home(var).join("token")))
}

/// A variable that is not empty, with a leading `~` expanded as in Python.
fn filled(var: &dyn Fn(&str) -> Option<PathBuf>, name: &str) -> Option<PathBuf> {
    let value = var(name).filter(|v| !v.as_os_str().is_empty())?;
    match value.strip_prefix("~") {
        Ok(rest) => directories::BaseDirs::new()
            .map_or_else(|| Some(value.clone()), |d| Some(d.home_dir().join(rest))),
        Err(_) => Some(value),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<HubSettings> {
        let var = |name: &str| {
            let found = pairs.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| PathBuf::from(v))
        };
        HubSettings::from(&var)
    }

    #[test]
    fn the_order_is_that_of_python() {
        let all = [
            ("HF_HUB_CACHE", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b"),
            ("HF_HOME", "/c"),
            ("XDG_CACHE_HOME", "/d"),
        ];
        let expected = ["/a", "/b", "/c/hub", "/d/huggingface/hub"];
        for (i, expected) in expected.iter().enumerate() {
            let found = settings(&all[i..]).unwrap().cache;
            assert_eq!(found, PathBuf::from(expected));
        }
    }

    #[test]
    fn a_token_comes_from_the_environment_or_a_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        std::fs::write(home.path().join("token"), " from-file\n").unwrap();
        let of = |pairs: &[(&str, &str)]| settings(pairs).unwrap().token;
        assert_eq!(of(&[("HF_HOME", path)]), Some("from-file".into()));
        assert_eq!(
            of(&[("HF_HOME", path), ("HF_TOKEN", "own")]),
            Some("own".into())
        );
        let file = home.path().join("token");
        let named = [
            ("HF_HOME", "/nowhere"),
            ("HF_TOKEN_PATH", file.to_str().unwrap()),
        ];
        assert_eq!(of(&named), Some("from-file".into()));
        let off = [("HF_TOKEN", "own"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(of(&off), None);
    }

    #[test]
    fn an_address_is_checked_and_offline_has_several_spellings() {
        assert!(settings(&[("HF_ENDPOINT", "not an address")]).is_err());
        let mirror = settings(&[("HF_ENDPOINT", "http://127.0.0.1:1/")]).unwrap();
        assert_eq!(mirror.endpoint, "http://127.0.0.1:1");
        for (value, off) in [("1", true), ("true", true), ("0", false), ("", false)] {
            let found = settings(&[("HF_HUB_OFFLINE", value)]).unwrap().offline;
            assert_eq!(found.is_some(), off, "{value:?}");
        }
        let other = settings(&[("TRANSFORMERS_OFFLINE", "yes")]).unwrap();
        assert_eq!(other.offline, Some("TRANSFORMERS_OFFLINE"));
    }
}
