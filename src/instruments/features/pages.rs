//! The table of features: a page a position, and of every dictionary its strongest features, L0, reconstruction, error and
//! control; and what all pages say together.
//!
//! Invariant: features of a position that is outside training are not listed, and the summary leaves it out. To add a row, add
//! it in [`rows`]; what the summary reads is found by the names here.

use super::reconstruction::Reconstruction;
use super::shown::ShownDictionary;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TableRow};
use crate::lab::capture::Capture;
use crate::model::network::finite::order;

pub const COLUMNS: &[&str] = &["feature", "act", "size", "share", "label"];
const ACT: usize = 1;
const SHARE: usize = 3;
const LABEL: usize = 4;
const L0: &str = "L0";
const RECONSTRUCTION: &str = "reconstruction";
const ERROR: &str = "error";
const CONTROL: &str = "control";
const OUTSIDE: &str = "outside training";
/// The label of a feature that an edit acts on: the value that was set is not what the encoder makes of the edited activation.
const EDITED: &str = "edited: what the encoder reads after the edit";

/// A control that explains this much less than the reconstruction, or more, explains as much.
const AS_MUCH: f32 = 0.02;

/// The features of a position with what each adds, the largest first: size, number, activation.
pub fn by_size(read: &Reconstruction, i: usize) -> Vec<(f32, u32, f32)> {
    let active = read.features[i].iter().zip(&read.norms[i]);
    let mut sized: Vec<(f32, u32, f32)> = active
        .map(|((f, act), norm)| (act.abs() * norm, *f, *act))
        .collect();
    sized.sort_by(|a, b| order(b.0, a.0).then(a.1.cmp(&b.1)));
    sized
}

/// The rows of a dictionary, by position.
pub fn rows(
    read: &Reconstruction,
    shown: &ShownDictionary,
    of: &Capture,
    count: usize,
) -> Vec<Vec<TableRow>> {
    let layer = shown.layer();
    let placed = shown.placed;
    let edited = shown.edited(&of.run);
    let position = |(i, position): (usize, usize)| {
        let anchor = Anchor::cell(layer, position);
        let row = |name: &str, numbers: [Option<f32>; 3], label: String| {
            let mut entries = vec![Entry::Text(shown.row(name))];
            entries.extend(numbers.map(Entry::from));
            entries.push(label.into());
            TableRow::at(anchor, entries)
        };
        let outside = read.outside[i];
        let listed = if outside.is_some() { 0 } else { count };
        let mut rows: Vec<TableRow> = by_size(read, i)
            .iter()
            .take(listed)
            .map(|(size, f, act)| {
                let mut acting = edited.iter().filter(|(span, _)| span.contains(&position));
                let own = shown.labels.get(layer, *f);
                let label = if !acting.any(|(_, features)| features.contains(f)) {
                    own.to_string()
                } else if own.is_empty() {
                    EDITED.into()
                } else {
                    format!("{own} · {EDITED}")
                };
                let entries = entries![shown.feature(*f), *act, *size, Entry::Missing, label];
                TableRow::feature(anchor, shown.handle(*f, *act), entries)
            })
            .collect();
        let (fit, (control_l0, control)) = (read.fits[i], read.controls[i]);
        let l0 = read.features[i].len() as f32;
        let of_all = format!("of {} features", placed.dictionary.features());
        rows.push(row(L0, [Some(l0), None, None], of_all));
        let target = placed.writes[0].to_string();
        let mark = outside.map_or(format!("of {target}"), |why| format!("of {target} · {why}"));
        let sizes = [None, Some(fit.size), Some(fit.explained)];
        rows.push(row(RECONSTRUCTION, sizes, mark));
        let rest = "what the dictionary leaves out".to_string();
        let sizes = [None, Some(fit.error), Some(1.0 - fit.explained)];
        rows.push(row(ERROR, sizes, rest));
        let turned = "the same numbers in reverse order (act: L0)";
        let turned = if control.explained + AS_MUCH > fit.explained {
            format!("EXPLAINS AS MUCH: no finding. {turned}")
        } else {
            turned.into()
        };
        let sizes = [Some(control_l0 as f32), None, Some(control.explained)];
        rows.push(row(CONTROL, sizes, turned));
        rows
    };
    of.positions.clone().enumerate().map(position).collect()
}

/// The middle of some values; NaN of none.
fn median(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    let upper = values.len() / 2;
    let at = |i: usize| values.get(i).copied().unwrap_or(f32::NAN);
    if values.len().is_multiple_of(2) && upper > 0 {
        f32::midpoint(at(upper - 1), at(upper))
    } else {
        at(upper)
    }
}

/// What the pages say of every dictionary, in a sentence each; what is wrong comes first.
pub fn summary(table: &Table) -> Option<String> {
    let name = |row: &TableRow| match row.entries.first() {
        Some(Entry::Text(name)) => name.clone(),
        Some(Entry::Whole(_) | Entry::Number(_) | Entry::Missing) | None => String::new(),
    };
    let label = |row: &TableRow| match row.entries.get(LABEL) {
        Some(Entry::Text(label)) => label.clone(),
        Some(Entry::Whole(_) | Entry::Number(_) | Entry::Missing) | None => String::new(),
    };
    let rows = || table.pages.iter().flat_map(|page| &page.rows);
    let mut tags: Vec<String> = Vec::new();
    for row in rows() {
        if let Some(tag) = name(row).strip_prefix(RECONSTRUCTION)
            && !tags.iter().any(|held| held == tag)
        {
            tags.push(tag.to_string());
        }
    }
    let sentence = |tag: &String| {
        let named = |row: &str, column: usize| -> Vec<f32> {
            let row = format!("{row}{tag}");
            let whole = format!("{RECONSTRUCTION}{tag}");
            let counted = table.pages.iter().filter(|page| {
                let mut all = page.rows.iter();
                all.any(|row| name(row) == whole && !label(row).contains(OUTSIDE))
            });
            let rows = counted.flat_map(|page| &page.rows);
            rows.filter(|found| name(found) == row)
                .filter_map(|row| match row.entries.get(column) {
                    Some(Entry::Number(number)) if number.is_finite() => Some(*number),
                    Some(_) | None => None,
                })
                .collect()
        };
        let explained = named(RECONSTRUCTION, SHARE);
        if explained.is_empty() {
            return None;
        }
        let l0 = named(L0, ACT);
        let (count, l0) = (
            explained.len(),
            l0.iter().sum::<f32>() / l0.len().max(1) as f32,
        );
        let (explained, control) = (median(explained), median(named(CONTROL, SHARE)));
        let who = tag
            .strip_prefix(" · ")
            .map_or(String::new(), |tag| format!("{tag}: "));
        let mut said = String::new();
        if control + AS_MUCH > explained {
            said.push_str("THE CONTROL EXPLAINS AS MUCH, so nothing here is a finding: ");
        } else if explained < 0.5 {
            said.push_str(
                "LESS THAN HALF IS EXPLAINED (does it belong to this model, layer and place?): ",
            );
        }
        Some(format!(
            "{who}{said}median share explained {explained:.2} (control {control:.2}), mean L0 {l0:.1}, positions: {count}"
        ))
    };
    let said: Vec<String> = tags.iter().filter_map(sentence).collect();
    (!said.is_empty()).then(|| said.join(". "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_even_number_lies_between_the_middle_two() {
        assert!((median(vec![0.9, 0.7]) - 0.8).abs() < 1e-6);
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-6);
        assert!(median(Vec::new()).is_nan());
    }
}
