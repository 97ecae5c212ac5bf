//! The report of a dictionary, as a table or as JSON.
//!
//! Invariant: every number stands beside its control. To show another one, add a row to [`rows`].

use serde_json::{Value, json};

use super::super::output;
use crate::dictionaries::evaluate::DictionaryReport;
use crate::error::Result;
use crate::lab::bootstrap::WithInterval;
use crate::text::grouped;

const COLUMNS: &[&str] = &[
    "measure",
    "value",
    "95 % interval",
    "control",
    "what the control is",
];

/// Prints a report; `control` is the same measurement of an untrained dictionary.
pub fn print(
    report: &DictionaryReport,
    control: Option<&DictionaryReport>,
    as_json: bool,
) -> Result<()> {
    if as_json {
        return output::json_line(&value(report, control));
    }
    output::listing(COLUMNS, &rows(report, control), false)
}

/// A report with its control as JSON.
pub fn value(report: &DictionaryReport, control: Option<&DictionaryReport>) -> Value {
    let mut value = json!(report);
    if let Some(control) = control {
        value["untrained"] = json!(control);
    }
    value
}

fn rows(report: &DictionaryReport, control: Option<&DictionaryReport>) -> Vec<Vec<Value>> {
    let number = |n: f64| json!(format!("{n:.3}"));
    let interval = |n: &WithInterval| json!(format!("{:.3} to {:.3}", n.low, n.high));
    let nothing = || json!("");
    let mut rows = vec![
        vec![
            json!("L0"),
            json!(format!("{:.1}", report.l0)),
            nothing(),
            json!(grouped(report.features)),
            json!("all features"),
        ],
        vec![
            json!("explained variance"),
            number(report.explained.value),
            interval(&report.explained),
            number(report.explained_control),
            json!("the vectors of other features"),
        ],
        vec![
            json!("CE recovered"),
            number(report.ce_recovered.value),
            interval(&report.ce_recovered),
            number(report.ce_recovered_control),
            json!("the mean of the activations"),
        ],
        vec![
            json!("CE base"),
            number(report.ce_base),
            nothing(),
            nothing(),
            json!(""),
        ],
        vec![
            json!("CE spliced"),
            number(report.ce_spliced),
            nothing(),
            number(report.ce_mean),
            json!("the mean of the activations"),
        ],
        vec![
            json!("CE zero"),
            number(report.ce_zero),
            nothing(),
            nothing(),
            json!(""),
        ],
        vec![
            json!("left out"),
            json!(grouped(report.left_out)),
            nothing(),
            nothing(),
            json!("positions with ten times the usual norm"),
        ],
        vec![
            json!("never active"),
            json!(format!("{:.1} %", 100.0 * report.dead)),
            nothing(),
            nothing(),
            json!(""),
        ],
    ];
    if let Some(untrained) = control {
        let untrained = [
            json!(format!("{:.1}", untrained.l0)),
            number(untrained.explained.value),
            number(untrained.ce_recovered.value),
        ];
        let places = [(1, "L0"), (3, "explained variance"), (5, "CE recovered")];
        for ((at, name), value) in places.into_iter().zip(untrained) {
            let row = vec![
                json!(name),
                nothing(),
                nothing(),
                value,
                json!("the same dictionary before training"),
            ];
            rows.insert(at, row);
        }
    }
    rows
}
