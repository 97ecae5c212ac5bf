//! Removes what other programs add to tensor names: `torch.compile`, DDP, FSDP, PEFT, and models inside models.
//!
//! Invariant: names are unwrapped only if the result matches the family's names, in exactly one way. To remove another wrapper,
//! add its name to [`WRAPPERS`].

use std::collections::{BTreeMap, BTreeSet};

/// The components that other programs insert into names.
const WRAPPERS: [&str; 6] = [
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "base_layer",
];

/// The most names that an error lists.
const LISTED: usize = 6;

/// The family's names with the file's names; only those that differ.
pub(crate) type Renamed = BTreeMap<String, String>;

/// Names by which a family's checkpoint is recognised.
pub struct NameProbes<'a> {
    /// Possible prefixes of all names except the unembedding's.
    pub prefixes: &'a [&'static str],
    /// Names without a prefix that every checkpoint of the family has.
    pub first: Vec<String>,
    pub head_prefixes: &'a [&'static str],
    /// Names of the unembedding without a prefix.
    pub head: Vec<String>,
}

/// A name without wrappers.
fn bare(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').filter(|p| !WRAPPERS.contains(p)).collect();
    let bare = parts.join(".");
    match bare.strip_prefix("base_model.model.") {
        Some(inside) => inside.to_owned(),
        None => bare,
    }
}

/// The prefix of a name that ends with `probe`.
fn before<'a>(name: &'a str, probe: &str) -> Option<&'a str> {
    let outer = name.strip_suffix(probe)?;
    (outer.is_empty() || outer.ends_with('.')).then_some(outer)
}

/// The unwrapped names of a file; `None` if that gives no match, or two.
pub(crate) fn unwrap<'a>(
    names: impl Iterator<Item = &'a str>,
    probes: &NameProbes<'_>,
) -> Option<Renamed> {
    let all: Vec<(String, &str)> = names.map(|name| (bare(name), name)).collect();
    let places: BTreeSet<&str> = all
        .iter()
        .flat_map(|(bare, _)| probes.first.iter().filter_map(|p| before(bare, p)))
        .collect();
    let mut places = places.into_iter();
    let (Some(outer), None) = (places.next(), places.next()) else {
        return None;
    };
    let prefix = probes.prefixes.first().copied().unwrap_or_default();
    let head_prefix = probes.head_prefixes.first().copied().unwrap_or_default();
    let mut renamed = Renamed::new();
    for (bare, stored) in &all {
        let mut heads = probes.head.iter().flat_map(|head| {
            let bias = head.replace(".weight", ".bias");
            [head.clone(), bias]
        });
        let head = heads.find(|head| before(bare, head).is_some());
        let name = match (head, bare.strip_prefix(outer)) {
            (Some(head), _) => format!("{head_prefix}{head}"),
            (None, Some(inside)) => format!("{prefix}{inside}"),
            (None, None) => bare.clone(),
        };
        if renamed.insert(name, (*stored).to_owned()).is_some() {
            return None;
        }
    }
    renamed.retain(|name, stored| name != stored);
    Some(renamed).filter(|renamed| !renamed.is_empty())
}

/// A short description of a file's contents: names with the same ending as the wanted one come first, those of blocks last.
pub(crate) fn holds(mut names: Vec<&str>, wanted: &str) -> String {
    if names.is_empty() {
        return "It holds no tensors".into();
    }
    let last = |name: &str| {
        name.rsplit('.')
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let inside = |name: &str| name.split('.').any(|p| p.parse::<usize>().is_ok());
    names.sort_by_key(|name| (last(name) != last(wanted), inside(name), (*name).to_owned()));
    format!("It holds {}", crate::text::quoted(&names, LISTED))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn probes() -> NameProbes<'static> {
        NameProbes {
            prefixes: &["model.", ""],
            first: vec![
                "embed_tokens.weight".into(),
                "layers.0.self_attn.o_proj.weight".into(),
            ],
            head_prefixes: &[""],
            head: vec!["lm_head.weight".into()],
        }
    }

    fn unwrapped(names: &[&str]) -> Option<Vec<(String, String)>> {
        Some(
            unwrap(names.iter().copied(), &probes())?
                .into_iter()
                .collect(),
        )
    }

    #[test]
    fn wrappers_come_off_before_and_between() {
        for wrap in [
            "_orig_mod.",
            "module.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "base_model.model.",
            "module.base_model.model.",
            "transformer.",
            "model.",
            "language_model.",
            "llm.backbone.",
        ] {
            let (embed, out, head) = (
                format!("{wrap}model.embed_tokens.weight"),
                format!("{wrap}model.layers.0._orig_mod.self_attn.o_proj.weight"),
                format!("{wrap}lm_head.weight"),
            );
            let found = unwrapped(&[&embed, &out, &head]).unwrap();
            let pair = |a: &str, b: &String| (a.to_owned(), b.clone());
            assert_eq!(
                found,
                [
                    pair("lm_head.weight", &head),
                    pair("model.embed_tokens.weight", &embed),
                    pair("model.layers.0.self_attn.o_proj.weight", &out)
                ],
                "{wrap}"
            );
        }
    }

    #[test]
    fn two_places_or_none_are_left_alone() {
        assert_eq!(unwrapped(&["a.weight"]), None);
        assert_eq!(
            unwrapped(&["a.embed_tokens.weight", "b.embed_tokens.weight"]),
            None
        );
        assert_eq!(
            unwrapped(&["module.x.embed_tokens.weight", "x.embed_tokens.weight"]),
            None
        );
        assert_eq!(unwrapped(&["model.embed_tokens.weight"]), None);
    }

    #[test]
    fn what_a_file_holds_begins_with_what_is_alike() {
        let held = holds(vec!["a.b", "z.embed_tokens.weight"], "embed_tokens.weight");
        assert_eq!(held, "It holds `z.embed_tokens.weight`, `a.b`");
        assert_eq!(holds(vec![], "x"), "It holds no tensors");
        let many: Vec<String> = (0..9).map(|i| format!("t{i}")).collect();
        let many = holds(many.iter().map(String::as_str).collect(), "x");
        assert!(many.ends_with("and 3 more"), "{many}");
    }
}
