//! The report of a dictionary, as a table or as JSON.
//!
//! Invariant: every number stands beside its control. To show another one, add a row to [`rows`].

use serde_json::{Value, json};

use super::super::output::{self, PrintedForm};
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
    "against control",
];

/// Prints a report; `control` is the same measurement of an untrained dictionary.
pub fn print(
    report: &DictionaryReport,
    control: Option<&DictionaryReport>,
    form: PrintedForm,
) -> Result<()> {
    match form {
        PrintedForm::Text => output::listing(COLUMNS, &rows(report, control), form),
        form @ (PrintedForm::Json | PrintedForm::Csv) => {
            output::document(&value(report, control), "", form)
        }
    }
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
    const NONE: &str = "";
    let number = |n: f64| format!("{n:.3}");
    let line = |name: &str, value: String, control: String, what: &str| -> Vec<Value> {
        [name, &value, NONE, &control, what, NONE]
            .map(Value::from)
            .to_vec()
    };
    let judged = |name: &str, of: &WithInterval, control: f64, what: &str| -> Vec<Value> {
        if of.value.is_nan() {
            let why = "none: zeros in its place make this text no less probable";
            return line(name, why.into(), NONE.into(), NONE);
        }
        let interval = format!("{:.3} to {:.3}", of.low, of.high);
        let verdict = if of.low > control { "more" } else { "NO MORE" };
        let (value, control) = (number(of.value), number(control));
        [name, &value, &interval, &control, what, verdict]
            .map(Value::from)
            .to_vec()
    };
    let mean = "the mean of the activations";
    let mut rows = vec![
        line(
            "L0",
            format!("{:.1}", report.l0),
            grouped(report.features),
            "all features",
        ),
        judged(
            "explained variance",
            &report.explained,
            report.explained_control,
            "the vectors of other features",
        ),
        judged(
            "CE recovered",
            &report.ce_recovered,
            report.ce_recovered_control,
            mean,
        ),
        line("CE base", number(report.ce_base), NONE.into(), NONE),
        line(
            "CE spliced",
            number(report.ce_spliced),
            number(report.ce_mean),
            mean,
        ),
        line("CE zero", number(report.ce_zero), NONE.into(), NONE),
        line(
            "left out",
            grouped(report.left_out),
            NONE.into(),
            "positions with ten times the usual norm",
        ),
        line(
            "never active",
            format!("{:.1} %", 100.0 * report.dead),
            NONE.into(),
            NONE,
        ),
    ];
    if let Some(untrained) = control {
        let before = "the same dictionary before training";
        let of = |own: &WithInterval| own.value;
        let added = [
            (
                1,
                line("L0", NONE.into(), format!("{:.1}", untrained.l0), before),
            ),
            (
                3,
                judged(
                    "explained variance",
                    &report.explained,
                    of(&untrained.explained),
                    before,
                ),
            ),
            (
                5,
                judged(
                    "CE recovered",
                    &report.ce_recovered,
                    of(&untrained.ce_recovered),
                    before,
                ),
            ),
        ];
        for (at, row) in added {
            rows.insert(at, row);
        }
    }
    rows
}
