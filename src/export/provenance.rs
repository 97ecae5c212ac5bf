//! The provenance of a figure in words.
//!
//! Invariant: every exporter writes the same facts in the same order.

use crate::figure::Figure;

/// Names and values; each value is a single line.
pub(super) fn lines(figure: &Figure) -> Vec<(&'static str, String)> {
    let from = &figure.provenance;
    let list = |items: &[String]| match items {
        [] => "none".to_owned(),
        items => items.join(", "),
    };
    let parameters = from
        .parameters
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let tokens: Vec<String> = from.tokens.iter().map(u32::to_string).collect();
    let mut lines = vec![
        ("figure", figure.title.clone()),
        ("model", from.model.clone()),
        ("revision", from.revision.clone()),
        ("dtype", from.dtype.clone()),
        ("device", from.device.clone()),
        ("edits", list(&from.edits)),
        ("parameters", list(&parameters.collect::<Vec<_>>())),
        ("seed", from.seed.to_string()),
        ("tokens", tokens.join(" ")),
        ("lmscope", from.version.clone()),
    ];
    if let Some(check) = figure.check {
        lines.push(("check", verdict(check)));
    }
    lines.extend(figure.notes.iter().map(|note| ("note", note.clone())));
    for (_, value) in &mut lines {
        *value = value.split(['\n', '\r']).collect::<Vec<_>>().join(" ");
    }
    lines
}

/// The self-check in words.
pub(super) fn verdict(check: crate::figure::Check) -> String {
    let word = if check.passed() { "passed" } else { "FAILED" };
    format!(
        "{word}: largest difference {:.1e}, tolerated {:.1e}",
        check.error, check.tolerance
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::export::samples;
    use crate::figure::Check;

    #[test]
    fn all_of_it_on_one_line_each() {
        let mut figure = samples::text();
        figure.notes.push("two\nlines".into());
        figure.provenance.edits.clear();
        let lines = lines(&figure);
        let find = |name| {
            lines
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.as_str())
                .unwrap()
        };
        assert_eq!(
            (
                find("edits"),
                find("parameters"),
                find("tokens"),
                find("seed")
            ),
            ("none", "norm=own", "1 20 3", "7")
        );
        assert_eq!(lines.last().unwrap().1, "two lines");
        assert!(find("check").starts_with("passed: largest difference 1.5e-6"));
    }

    #[test]
    fn a_failed_check_is_loud() {
        assert!(
            verdict(Check {
                error: 0.5,
                tolerance: 1e-3
            })
            .starts_with("FAILED")
        );
        assert!(
            verdict(Check {
                error: f32::NAN,
                tolerance: 1e-3
            })
            .starts_with("FAILED")
        );
    }
}
