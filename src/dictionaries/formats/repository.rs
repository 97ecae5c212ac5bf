//! Which files of a repository on the hub are a dictionary: those that the formats read, of one folder.
//!
//! Invariant: nothing else is downloaded, neither other folders nor what training left beside the weights; configs come last, so
//! that a folder in the cache that has them is complete. To read another format from the hub, add its files to the lists.

use crate::error::{Error, Result};
use crate::model::hub::RepositoryPart;
use crate::text;

/// Weights by name.
const WEIGHTS: &[&str] = &[
    "sae_weights.safetensors",
    "params.npz",
    "params.safetensors",
    "ae.pt",
    "sae.safetensors",
    "cc_weights.pt",
    "model.safetensors",
    "checkpoints/final.safetensors",
];

/// Weights of a layer: what stands before and after its number.
const LAYERS: &[(&str, &str)] = &[
    ("W_enc_", ".safetensors"),
    ("W_dec_", ".safetensors"),
    ("layer_", ".safetensors"),
];

/// Weights that are named as files.
const ENDINGS: &[&str] = &[".sae.pt", ".pt", ".pth", ".npz", ".safetensors"];

/// What stands beside them.
const CONFIGS: &[&str] = &[
    "activation_scaler.json",
    "hyperparams.json",
    "config.yaml",
    "config.json",
    "cfg.json",
];

/// How many dictionaries an error lists.
const LISTED: usize = 8;

fn is_weights(name: &str) -> bool {
    let numbered = |(before, after): &(&str, &str)| {
        let middle = name
            .strip_prefix(before)
            .and_then(|n| n.strip_suffix(after));
        middle.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    WEIGHTS.contains(&name) || LAYERS.iter().any(numbered)
}

/// The files of the dictionary at a part of a repository, of all that it has.
///
/// # Errors
///
/// When there is none, with those that there are.
pub fn files(of: &RepositoryPart, names: &[String]) -> Result<Vec<String>> {
    let has = |name: &String| names.contains(name);
    let part = of.part();
    if names.iter().any(|name| name == part) {
        let folder = part.rsplit_once('/').map_or("", |(folder, _)| folder);
        let beside = CONFIGS.iter().map(|name| joined(folder, name));
        let mut all = vec![part.to_string()];
        all.extend(beside.filter(|name| has(name) && name != part));
        return Ok(all);
    }
    let inner = |name: &String| {
        let rest = match part {
            "" => Some(name.as_str()),
            part => name.strip_prefix(part).and_then(|n| n.strip_prefix('/')),
        };
        rest.is_some_and(is_weights)
    };
    let mut all: Vec<String> = names.iter().filter(|name| inner(name)).cloned().collect();
    if all.is_empty() {
        return Err(none(of, names));
    }
    // sparsify names the model in the folder above.
    if all.iter().any(|name| name.ends_with("/sae.safetensors"))
        && let Some((above, _)) = part.rsplit_once('/')
    {
        all.push(joined(above, "config.json"));
    }
    all.extend(CONFIGS.iter().map(|name| joined(part, name)));
    all.retain(has);
    all.dedup();
    Ok(all)
}

fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.into()
    } else {
        format!("{folder}/{name}")
    }
}

/// The error where a part has no dictionary, with the parts below it that have one.
fn none(of: &RepositoryPart, names: &[String]) -> Error {
    let below = names.iter().filter(|name| match of.part() {
        "" => true,
        part => name.starts_with(part),
    });
    let mut parts: Vec<String> = Vec::new();
    for name in below {
        let file = name.rsplit('/').next().unwrap_or_default();
        let folder = name.strip_suffix(file).unwrap_or_default();
        let part = if name.ends_with(WEIGHTS[WEIGHTS.len() - 1]) {
            folder
                .trim_end_matches("checkpoints/")
                .trim_end_matches('/')
        } else if is_weights(file) {
            folder.trim_end_matches('/')
        } else if ENDINGS.iter().any(|end| file.ends_with(end)) {
            name
        } else {
            continue;
        };
        if !parts.iter().any(|held| held == part) {
            parts.push(part.to_string());
        }
    }
    let id = of.id();
    let at = match of.part() {
        "" => String::new(),
        part => format!(" at `{}`", text::visible(part.as_bytes())),
    };
    let next = match parts.as_slice() {
        [] => "Look at its page for the folder of one dictionary.".to_string(),
        [first, ..] => format!(
            "Name one of its {}, as in {id}/{}: {}.",
            parts.len(),
            text::visible(first.as_bytes()),
            text::quoted(&parts, LISTED)
        ),
    };
    Error::Hub {
        what: format!("`{id}` has no dictionary of a known format{at}"),
        next,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chosen(given: &str, names: &[&str]) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        files(&RepositoryPart::parse(given).unwrap(), &names)
    }

    #[test]
    fn only_the_files_of_the_folder_are_chosen_configs_last() {
        let names = [
            "README.md",
            "a/cfg.json",
            "a/sae_weights.safetensors",
            "a/sparsity.safetensors",
            "a/optimizer.pt",
            "ab/cfg.json",
            "ab/sae_weights.safetensors",
        ];
        assert_eq!(
            chosen("o/n/a", &names).unwrap(),
            ["a/sae_weights.safetensors", "a/cfg.json"]
        );
        let error = chosen("o/n", &names).unwrap_err().to_string();
        assert!(
            error.contains("one of its 3, as in o/n/a: `a`, `a/optimizer.pt`, `ab`"),
            "{error}"
        );
        let error = chosen("o/n/c", &names).unwrap_err().to_string();
        assert!(
            error.contains("at `c`") && error.contains("its page"),
            "{error}"
        );
    }

    #[test]
    fn a_file_brings_its_config_and_a_set_all_layers() {
        let names = ["layer3.sae.pt", "layer4.sae.pt", "config.json"];
        assert_eq!(
            chosen("o/n/layer3.sae.pt", &names).unwrap(),
            ["layer3.sae.pt", "config.json"]
        );
        let names = [
            "W_dec_0.safetensors",
            "W_enc_0.safetensors",
            "config.yaml",
            "x.bin",
        ];
        assert_eq!(chosen("o/n", &names).unwrap(), names[..3]);
        let names = ["l/checkpoints/final.safetensors", "l/hyperparams.json"];
        assert_eq!(chosen("o/n/l", &names).unwrap(), names);
        let error = chosen("o/n", &names).unwrap_err().to_string();
        assert!(error.contains("as in o/n/l:"), "{error}");
        let names = [
            "s/config.json",
            "s/layers.1/cfg.json",
            "s/layers.1/sae.safetensors",
        ];
        assert_eq!(
            chosen("o/n/s/layers.1", &names).unwrap(),
            [
                "s/layers.1/sae.safetensors",
                "s/config.json",
                "s/layers.1/cfg.json"
            ]
        );
    }
}
