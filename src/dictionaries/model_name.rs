//! Names of models, which files write in many ways.
//!
//! Invariant: names that are of one model are found equal, and of a larger or another version never.

/// Whether two names of models are of one: with or without owner, as a folder or in a hub cache, in any spelling.
pub fn same_model(a: &str, b: &str) -> bool {
    let parts = |name: &str| -> Vec<String> {
        let plain = |part: &str| -> String {
            let kept = part.chars().filter(char::is_ascii_alphanumeric);
            let kept: String = kept.map(|c| c.to_ascii_lowercase()).collect();
            // TransformerLens has a name of its own for this one.
            if kept == "gpt2small" {
                "gpt2".into()
            } else {
                kept
            }
        };
        let name = name.replace("--", "/");
        let name = name.split('@').next().unwrap_or_default();
        let parts = name.split('/').map(plain);
        parts.filter(|part| !part.is_empty()).collect()
    };
    let (a, b) = (parts(a), parts(b));
    let last = |of: &[String], all: &[String]| of.last().is_some_and(|one| all.contains(one));
    last(&a, &b) || last(&b, &a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_the_same_under_their_many_names() {
        for (a, b) in [
            ("google/gemma-2-2b", "gemma-2-2b"),
            ("gemma-2-2b", "/models/gemma-2-2b"),
            ("gpt2-small", "openai-community/gpt2"),
            (
                "Qwen/Qwen3-0.6B",
                "/c/models--Qwen--Qwen3-0.6B/snapshots/abc",
            ),
            ("SmolLM2_135M", "HuggingFaceTB/SmolLM2-135M@main"),
        ] {
            assert!(same_model(a, b) && same_model(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("gpt2", "gpt2-xl"),
            ("google/gemma-2-2b", "google/gemma-2-2b-it"),
            ("tiny", "demo"),
            ("", "demo"),
        ] {
            assert!(!same_model(a, b) && !same_model(b, a), "{a} {b}");
        }
    }
}
