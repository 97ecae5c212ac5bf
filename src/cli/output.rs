//! Output: results to standard output, everything else to standard error.
//!
//! Invariant: everything is written by [`crate::out`], which makes it safe for a terminal.
//! To add a kind of note, add a function that ends in [`note`].

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::edit::receipt::Receipt;
use crate::error::Result;
use crate::export;
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::model::network::finite::NOT_FINITE;
use crate::text as spelling;

pub use crate::out::{
    bytes, clear_status, json_line, line, note, status, stderr_is_terminal, stdout_is_terminal,
    text,
};

/// The receipts of a run with their measured effects; the counts are those of `counted`, from generating the text.
pub fn measured(lab: &mut Lab, run: &Run, counted: &[Receipt]) -> Vec<Receipt> {
    match lab.receipts(run) {
        Ok(mut receipts) => {
            for (own, kept) in receipts.iter_mut().zip(counted) {
                own.count_as(kept);
            }
            receipts
        }
        // Measuring is additional work; if it is interrupted or fails, the counts are still correct.
        Err(error) => {
            tracing::warn!("receipts were not measured: {error}");
            counted.to_vec()
        }
    }
}

/// Prints what each edit did; an edit that did nothing gives a warning.
pub fn receipts(receipts: &[Receipt]) {
    for receipt in receipts {
        note(&receipt_line(receipt));
    }
}

fn receipt_line(receipt: &Receipt) -> String {
    let edit = spelling::line(&receipt.edit);
    if !receipt.active {
        return format!("edit {edit} is off or neutral and was not applied.");
    }
    let mut out = if receipt.not_finite {
        format!(
            "WARNING: edit {edit} is NOT FINITE: it turns activations into NaN or infinity (it acted {} times). Lower its strength",
            receipt.fired
        )
    } else if receipt.idle() && receipt.fired == 0 {
        format!("WARNING: edit {edit} NEVER FIRED: {}", receipt.why)
    } else if receipt.idle() {
        format!("WARNING: edit {edit} CHANGED NOTHING: {}", receipt.why)
    } else {
        format!(
            "edit {edit} fired {} times, mean ‖Δh‖/‖h‖ {:.3}",
            receipt.fired, receipt.relative
        )
    };
    if let (Some(kl), false) = (receipt.kl, receipt.idle() || receipt.not_finite) {
        let _ = write!(out, ", KL {kl:.4} nats");
        if let Some(median) = receipt.median() {
            let count = receipt.positions.len();
            let _ = write!(out, ", mean over {count} positions, median {median:.4}");
        }
        if let Some((kl, count)) = receipt.generated() {
            let _ = write!(out, "; {kl:.4} where {count} tokens were generated");
        }
        let control = match receipt.control_is.as_str() {
            "" => "control: random edits of equal size".to_string(),
            chosen => format!("control: {chosen}"),
        };
        let controls = [
            (control.as_str(), receipt.control),
            ("unrelated text", receipt.elsewhere),
        ];
        let measured = controls.into_iter().filter_map(|(name, kl)| match kl? {
            kl if kl.is_finite() => Some(format!("{name} {kl:.4}")),
            _ => Some(format!("{name} {NOT_FINITE}")),
        });
        let mut controls: Vec<String> = measured.collect();
        if !receipt.no_control.is_empty() {
            controls.push(format!("no control of equal size: {}", receipt.no_control));
        }
        if let (Some((low, high)), Some(first)) = (receipt.control_range(), controls.first_mut()) {
            let draws = receipt.draws.len();
            let _ = write!(first, ", {low:.4} to {high:.4} in {draws} draws");
            let (side, verdict) = if receipt.keeps {
                ("above", "KEEPS NO MORE THAN ITS CONTROL")
            } else {
                ("below", "DOES NO MORE THAN ITS CONTROL")
            };
            if let Some(bound) = receipt.bound() {
                let _ = write!(first, ", another one {side} {bound:.4} in 95 %");
            }
            if receipt.within_control() {
                let _ = write!(first, ", SO THAT THE EDIT {verdict}");
            }
        }
        if !controls.is_empty() {
            let _ = write!(out, " ({}; seed {})", controls.join(", "), receipt.seed);
        }
    }
    if !receipt.note.is_empty() {
        let _ = write!(out, "; {}", receipt.note);
    }
    out.push('.');
    out
}

/// The forms in which a command prints what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrintedForm {
    /// To read.
    Text,
    Json,
    Csv,
}

impl PrintedForm {
    /// Whether it is for scripts, which want numbers as they are.
    pub fn for_scripts(self) -> bool {
        self != Self::Text
    }
}

/// A document for scripts, as JSON, or as CSV with a line for each row of its list `rows`; nothing in a form to read.
pub fn document(document: &Value, rows: &str, form: PrintedForm) -> Result<()> {
    match form {
        PrintedForm::Text => Ok(()),
        PrintedForm::Json => json_line(document),
        PrintedForm::Csv => text(&export::document::csv(document, rows)),
    }
}

/// Rows under column names, as aligned text, as a JSON array of objects, or as CSV.
pub fn listing(columns: &[&str], rows: &[Vec<Value>], form: PrintedForm) -> Result<()> {
    match form {
        PrintedForm::Text => {}
        PrintedForm::Json => {
            let named = |row: &Vec<Value>| {
                let names = columns.iter().map(ToString::to_string);
                names.zip(row.iter().cloned()).collect::<Map<_, _>>()
            };
            return json_line(&json!(rows.iter().map(named).collect::<Vec<_>>()));
        }
        PrintedForm::Csv => return text(&export::document::listing(columns, rows)),
    }
    let spelled = rows.iter().map(|row| row.iter().map(spell).collect());
    let spelled: Vec<Vec<String>> = spelled.collect();
    let wide = |i: usize| {
        let widths = spelled.iter().map(|row| spelling::width(&row[i]));
        widths.max().unwrap_or(0).max(columns[i].len())
    };
    let widths: Vec<usize> = (0..columns.len()).map(wide).collect();
    let mut out = String::new();
    let heads = columns.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&heads).chain(&spelled) {
        let mut cells = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            cells.push_str(cell);
            cells.extend(std::iter::repeat_n(' ', width - spelling::width(cell) + 2));
        }
        out.push_str(cells.trim_end());
        out.push('\n');
    }
    text(&out)
}

fn spell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(words) => spelling::line(words),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_that_did_nothing_is_loud() {
        let receipt = Receipt {
            edit: "zero@mlp_out.0:100..".into(),
            active: true,
            why: "its positions are not there".into(),
            ..Receipt::default()
        };
        let line = receipt_line(&receipt);
        assert!(line.contains("NEVER FIRED") && line.contains("not there"));
        let fired = Receipt {
            why: String::new(),
            fired: 3,
            relative: 0.5,
            kl: Some(0.25),
            ..receipt
        };
        let line = receipt_line(&fired);
        assert!(
            line.contains("3 times") && line.contains("0.2500 nats"),
            "{line}"
        );
        let measured = Receipt {
            control: Some(0.2),
            draws: vec![0.1, 0.3],
            positions: vec![(0, 0.1), (1, 0.25), (2, 0.4)],
            prompt: 2,
            ..fired
        };
        let line = receipt_line(&measured);
        for said in [
            "mean over 3 positions, median 0.2500",
            "0.2500 where 1 tokens were generated",
            "0.2000, 0.1000 to 0.3000 in 2 draws, another one below",
            "SO THAT THE EDIT DOES NO MORE",
        ] {
            assert!(line.contains(said), "{line}");
        }
        // A circuit is to keep what is said: a smaller KL is more.
        let kept = Receipt {
            keeps: true,
            draws: vec![4.8, 5.5, 6.3],
            ..measured.clone()
        };
        assert!(!receipt_line(&kept).contains("NO MORE"), "{kept:?}");
        let lost = Receipt {
            kl: Some(5.0),
            ..kept
        };
        let line = receipt_line(&lost);
        assert!(line.contains("SO THAT THE EDIT KEEPS NO MORE"), "{line}");
    }

    #[test]
    fn an_edit_whose_numbers_are_none_is_loud_and_has_no_kl() {
        let receipt = Receipt {
            edit: "add:v@resid_pre.3*3e38".into(),
            active: true,
            fired: 7,
            relative: f32::INFINITY,
            kl: Some(f32::NAN),
            not_finite: true,
            ..Receipt::default()
        };
        let line = receipt_line(&receipt);
        assert!(
            line.contains("NOT FINITE") && !line.contains("KL"),
            "{line}"
        );
        let json = serde_json::to_value(&receipt).unwrap();
        assert!(json["kl"].is_null() && json["relative"].is_null());
        assert_eq!(json["not_finite"], true);
        let back: Receipt = serde_json::from_value(json).unwrap();
        assert!(back.not_finite && back.relative.is_nan());
    }
}
