//! JSON: the figure itself, with the version of the schema.
//!
//! Invariant: reading inverts writing; numbers that are not finite become null, and characters that act on a terminal are
//! escaped, so that showing the file is safe.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::figure::Figure;

/// Incremented when a field changes its name or meaning; added fields do not count.
pub const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    figure: &'a Figure,
}

pub(super) fn write(figure: &Figure) -> Result<String> {
    let text = serde_json::to_string_pretty(&Document {
        schema: SCHEMA,
        figure,
    })
    .map_err(|error| {
        Error::argument(
            "figure",
            &figure.title,
            format!("a figure that JSON can hold ({error})"),
        )
    })?;
    Ok(crate::text::json(&text) + "\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::export::samples;

    #[test]
    fn what_is_written_reads_back() {
        for figure in samples::all() {
            let text = write(&figure).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["schema"], SCHEMA);
            assert!(text.starts_with("{\n  \"schema\": 1"));
            let back: Figure = serde_json::from_value(value).unwrap();
            assert_eq!(back, figure);
        }
    }
}
