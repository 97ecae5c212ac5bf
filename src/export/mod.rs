//! Exports: a figure as a file.
//!
//! Invariant: every format writes the numbers of the figure and its provenance; none writes anything that was not measured, and
//! none writes text that could act on a terminal or spreadsheet. To add a format, write `export/x.rs` with a `write` and add
//! its row to [`FORMATS`].

pub mod colour;
mod csv;
pub mod document;
mod dot;
mod graph_plot;
mod html;
mod json;
mod markup;
pub mod number;
mod plot;
mod provenance;
#[cfg(test)]
pub(crate) mod samples;
mod sanitized;
pub mod screen;
mod svg;
mod text;

use crate::error::{Error, Result};
use crate::figure::Figure;

pub use dot::not_a_graph;
pub use json::SCHEMA;

/// A file format for figures.
#[derive(Clone, Copy, Debug)]
pub struct ExportFormat {
    /// The name for users.
    pub name: &'static str,
    /// The file name extension.
    pub extension: &'static str,
    /// Its purpose, in a sentence.
    pub about: &'static str,
    /// Whether it has a place for graphs alone.
    pub only_graphs: bool,
    /// Writes a figure, with a line feed at the end.
    pub write: fn(&Figure) -> Result<String>,
}

/// All formats; the first is what the command line prints by default.
pub const FORMATS: &[ExportFormat] = &[
    ExportFormat {
        name: "text",
        extension: "txt",
        about: "A text table with aligned columns.",
        only_graphs: false,
        write: |figure| Ok(text::write(&sanitized::clean(figure))),
    },
    ExportFormat {
        name: "json",
        extension: "json",
        about: "The whole figure, with its provenance.",
        only_graphs: false,
        write: json::write,
    },
    ExportFormat {
        name: "csv",
        extension: "csv",
        about: "One number a line, for spreadsheets and data frames.",
        only_graphs: false,
        write: |figure| Ok(csv::write(&sanitized::clean(figure))),
    },
    ExportFormat {
        name: "svg",
        extension: "svg",
        about: "A vector picture, with its legend.",
        only_graphs: false,
        write: |figure| Ok(svg::write(&sanitized::clean(figure))),
    },
    ExportFormat {
        name: "html",
        extension: "html",
        about: "A single-file web page.",
        only_graphs: false,
        write: |figure| Ok(html::write(&sanitized::clean(figure))),
    },
    ExportFormat {
        name: "dot",
        extension: "dot",
        about: "A graph for Graphviz; other figures have none.",
        only_graphs: true,
        write: |figure| dot::write(&sanitized::clean(figure)),
    },
];

/// The format with a name or file extension.
pub fn format_named(name: &str) -> Result<&'static ExportFormat> {
    let wanted = name.trim_start_matches('.').to_ascii_lowercase();
    FORMATS
        .iter()
        .find(|format| format.name == wanted || format.extension == wanted)
        .ok_or_else(|| {
            let known: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
            Error::argument("format", name, format!("one of {}", known.join(", ")))
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_endings_are_unique_and_found() {
        for (i, format) in FORMATS.iter().enumerate() {
            for other in &FORMATS[..i] {
                assert!(format.name != other.name && format.extension != other.extension);
            }
            assert_eq!(format_named(format.name).unwrap().name, format.name);
            assert_eq!(
                format_named(&format!(".{}", format.extension.to_uppercase()))
                    .unwrap()
                    .name,
                format.name
            );
            assert!(format.about.ends_with('.'));
        }
        let error = format_named("xlsx").err().unwrap().to_string();
        assert!(error.contains("text, json, csv, svg, html, dot"), "{error}");
    }

    /// Whether a format has a place for a shape: all do but DOT, which is for graphs, and refuses the others (`export/dot.rs`).
    fn writes(format: &ExportFormat, figure: &Figure) -> bool {
        format.name != "dot" || matches!(figure.body, crate::figure::Body::Graph(_))
    }

    #[test]
    fn every_format_writes_every_shape_with_its_provenance() {
        for format in FORMATS {
            for figure in samples::all().into_iter().filter(|own| writes(format, own)) {
                let out = (format.write)(&figure).unwrap();
                assert!(
                    out.ends_with('\n') && !out.contains('\u{1b}'),
                    "{}",
                    format.name
                );
                for word in [
                    "demo",
                    "3f2a9c",
                    "f32",
                    "cpu",
                    "add:calm@resid_post.4*1.5",
                    "logit lens",
                    "rows use their own norm",
                    "norm",
                ] {
                    assert!(out.contains(word), "{} lacks {word}:\n{out}", format.name);
                }
            }
        }
    }

    /// Text that would act on a terminal, a browser or a spreadsheet if it were written literally.
    const HOSTILE: &str =
        "=x\u{1b}]52;c;aGFja2Vk\u{7}\u{9b}2J\u{202e}\u{200b}\u{7f}\r\nlmscope: forged<b>";

    /// The figure with hostile text in every text field.
    fn poisoned(figure: &Figure) -> Figure {
        fn poison(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::String(text) => text.push_str(HOSTILE),
                serde_json::Value::Array(all) => all.iter_mut().for_each(poison),
                serde_json::Value::Object(all) => {
                    for (name, inner) in all.iter_mut() {
                        // These are our own words; any others could not be parsed.
                        if !["style", "scale"].contains(&name.as_str()) {
                            poison(inner);
                        }
                    }
                }
                serde_json::Value::Null
                | serde_json::Value::Bool(_)
                | serde_json::Value::Number(_) => {}
            }
        }
        let mut value = serde_json::to_value(figure).unwrap();
        poison(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn hostile_words_come_out_harmless_in_every_format() {
        for figure in samples::all() {
            let bad = poisoned(&figure);
            assert!(bad.title.ends_with(HOSTILE) && bad.provenance.model.ends_with(HOSTILE));
            for format in FORMATS.iter().filter(|own| writes(own, &bad)) {
                let out = (format.write)(&bad).unwrap();
                assert!(crate::text::is_safe(&out), "{}: {out:?}", format.name);
                assert!(!out.contains("\nlmscope: forged"), "{}", format.name);
                assert!(out.contains("forged"), "{}", format.name);
                if format.name == "json" {
                    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
                    assert_eq!(serde_json::from_value::<Figure>(value).unwrap(), bad);
                } else if format.name == "csv" {
                    let clean = (format.write)(&figure).unwrap();
                    assert_eq!(
                        out.lines().count(),
                        clean.lines().count(),
                        "{}",
                        format.name
                    );
                }
            }
        }
    }

    #[test]
    fn text_of_a_figure_cannot_leave_its_place() {
        let mut figure = samples::text();
        figure.title = "<script>alert(1)</script>\nx,\"y\"".into();
        figure.provenance.model = "a\nb,c".into();
        for name in ["svg", "html"] {
            let out = (format_named(name).unwrap().write)(&figure).unwrap();
            assert!(
                !out.contains("<script>alert") && out.contains("&lt;script&gt;"),
                "{name}"
            );
        }
        let csv = (format_named("csv").unwrap().write)(&figure).unwrap();
        let data: Vec<&str> = csv.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            data,
            [
                "line,text",
                "0,\"It means <Paris> & \"\"more\"\".\"",
                "1,Two."
            ]
        );
    }
}
