//! The heat map of a patching sweep.
//!
//! Invariant: rows are layers; columns are positions (labelled with the tokens of both prompts) or heads. A cell's number is
//! the share of the metric's way from the base run, which is patched, to the source run, from which the values come.

use std::fmt::Write;

use super::plan::{PatchKind, PatchSpot, PatchingPlan, PatchingResult};
use crate::edit::receipt::{claim, exceeds, mark, marked, mean as average, range};
use crate::figure::{Anchor, AxisLabel, Cell, Grid};
use crate::instruments::Draft;
use crate::lab::Lab;
use crate::lab::run::Run;

/// The most differing positions that a note lists.
const SPELLED: usize = 12;

pub fn draft(
    run: &Run,
    lab: &Lab,
    plan: &PatchingPlan,
    found: &PatchingResult,
    controls: &[(PatchSpot, Vec<f32>)],
) -> Draft {
    let layers = lab.model.card.layers;
    let columns = plan.spots.iter().step_by(layers);
    let anchor = |spot: PatchSpot| {
        let (unit, position) = plan.place(spot.column);
        let at = match position {
            Some(position) => Anchor::cell(spot.layer, position),
            None => Anchor::layer(spot.layer),
        };
        unit.map_or(at, |unit| at.with(unit))
    };
    let cell = |layer: usize, column: usize| {
        let at = column * layers + layer;
        let anchor = anchor(plan.spots[at]);
        let Some(mean) = &found.cells[at] else {
            return Cell::of("", f32::NAN, anchor);
        };
        let label = match plan.params.site {
            PatchKind::Heads => String::new(),
            PatchKind::Resid | PatchKind::Attn | PatchKind::Mlp => lab.visible(mean.top),
        };
        let own = controls.iter().find(|(spot, _)| *spot == plan.spots[at]);
        let less = own.map_or("", |(_, shares)| mark(mean.share(), shares));
        let beside = own
            .and_then(|(_, shares)| range(shares))
            .map(|(low, high)| {
                [
                    ("random, from".to_string(), low),
                    ("random, to".into(), high),
                ]
            });
        let over = mean.interval.map(|(low, high)| {
            [
                ("patched, from".to_string(), low),
                ("patched, to".into(), high),
            ]
        });
        let numbers = [
            (lab.visible(mean.top), mean.share()),
            ("patched".into(), mean.patched),
            ("before".into(), mean.base),
            ("other run".into(), mean.source),
            ("change".into(), mean.patched - mean.base),
        ];
        let beside = over.into_iter().chain(beside).flatten();
        Cell::of(format!("{less}{label}"), mean.share(), anchor)
            .more(numbers.into_iter().chain(beside))
    };
    let mut title = format!(
        "{} · {}",
        match plan.params.site {
            PatchKind::Resid => "residual stream",
            PatchKind::Attn => "attention output",
            PatchKind::Mlp => "MLP output",
            PatchKind::Heads => "heads",
        },
        if plan.is_denoising() {
            "clean into corrupted"
        } else {
            "corrupted into clean"
        }
    );
    if plan.is_control() {
        title.push_str(" · control: random changes of equal size");
    }
    let strongest = controls.first().and_then(|(spot, shares)| {
        let at = plan.spots.iter().position(|own| own == spot)?;
        Some(claim(found.cells[at]?.share(), shares))
    });
    title.push_str(&strongest.unwrap_or_default());
    let axis = match plan.params.site {
        PatchKind::Heads => "head",
        PatchKind::Resid | PatchKind::Attn | PatchKind::Mlp => "position",
    };
    let titles = columns.map(|spot| header(lab, plan, spot.column));
    let zero = plan.zero_share(found).map_or_else(String::new, |share| {
        format!("; the logit difference is 0 at {share:.2}")
    });
    let marks = controls.iter().filter_map(|(spot, shares)| {
        let at = plan.spots.iter().position(|own| own == spot)?;
        Some(mark(found.cells[at]?.share(), shares))
    });
    let grid = Grid::of(
        ("layer", AxisLabel::layers(layers)),
        (axis, titles.collect()),
        marked(
            format!("normalized effect (0: no change, 1: like the other run{zero})"),
            marks,
        ),
        cell,
    );
    Draft::of(grid.around_zero())
        .titled(title)
        .notes(notes(lab, plan, found, controls, run.seed))
}

/// The label of a column: the head, or the tokens of both prompts.
fn header(lab: &Lab, plan: &PatchingPlan, column: usize) -> AxisLabel {
    let (unit, position) = plan.place(column);
    if let Some(unit) = unit {
        return AxisLabel::of(column.to_string(), Anchor::default().with(unit));
    }
    let (clean, corrupt, alignment) = plan.first_case();
    let (a, b) = alignment.pairs[column];
    let (own, other) = (clean.tokens[a], corrupt.tokens[b]);
    let label = if plan.cases() > 1 && plan.sigma.is_none() {
        // Pairs of a file have different tokens here.
        a.to_string()
    } else if own == other {
        lab.visible(own)
    } else {
        format!("{}/{}", lab.visible(own), lab.visible(other))
    };
    AxisLabel::of(
        label,
        position.map_or_else(Anchor::default, Anchor::position),
    )
}

fn notes(
    lab: &Lab,
    plan: &PatchingPlan,
    found: &PatchingResult,
    controls: &[(PatchSpot, Vec<f32>)],
    seed: u64,
) -> Vec<String> {
    let mut notes = Vec::new();
    let (base, source) = if plan.is_denoising() {
        ("corrupted", "clean")
    } else {
        ("clean", "corrupted")
    };
    if let Some(mean) = found.cells.iter().flatten().next() {
        let mut note = format!(
            "{}: 0 is the {base} run ({:.4}), 1 the {source} run ({:.4})",
            plan.metric_words, mean.base, mean.source
        );
        let most = if found.stopped.is_some() {
            "up to "
        } else {
            ""
        };
        let over = match (plan.cases(), plan.sigma) {
            (1, _) => String::new(),
            (n, Some(_)) => format!(", mean over {most}{n} noise samples"),
            (n, None) => {
                format!(
                    ", mean over {most}{n} pairs of prompts; the tokens shown are those of the first"
                )
            }
        };
        note.push_str(&over);
        notes.push(note);
    }
    notes.push(format!(
        "each cell: {} of the {source} run patched into the {base} run, once{}",
        match plan.params.site {
            PatchKind::Resid => "resid_pre".to_string(),
            PatchKind::Attn => "attn_out".to_string(),
            PatchKind::Mlp => "mlp_out".to_string(),
            PatchKind::Heads => format!("z of one head {}", plan.heads_at()),
        },
        match plan.params.window.0 {
            1 => String::new(),
            n => format!(", at {n} layers around the cell's together"),
        }
    ));
    notes.push(spelled(lab, plan));
    if let Some(sigma) = plan.sigma {
        notes.push(format!(
            "Gaussian noise of standard deviation {sigma:.4} ({} times that of the entries of these embeddings) added to the input of block 0 at {}, {} draws, seed {seed}",
            plan.params.sigma.0,
            plan.noised_positions(),
            plan.cases()
        ));
    }
    for (spot, shares) in controls {
        let share = average(shares);
        let Some((low, high)) = range(shares) else {
            continue;
        };
        let at = plan.spots.iter().position(|s| s == spot);
        let own = at
            .and_then(|i| found.cells[i])
            .map_or(f32::NAN, |m| m.share());
        let place = match plan.place(spot.column) {
            (Some(_), _) => format!("head {}.{}", spot.layer, spot.column),
            (None, Some(position)) => format!("layer {} at {position}", spot.layer),
            (None, None) => format!("layer {}", spot.layer),
        };
        notes.push(format!(
            "control: {place} {own:+.3}; random changes of equal size in the same place {share:+.3}, {low:+.3} to {high:+.3} in {} draws (seed {seed}){}",
            shares.len(),
            if exceeds(own, shares) {
                ""
            } else {
                ", NO MORE THAN THAT"
            }
        ));
    }
    if plan.params.site == PatchKind::Heads {
        notes.push("other heads can take over from one that is patched, so effects need not sum to 1, and a small effect does not show that a head does nothing".into());
    }
    if let Some(share) = plan.zero_share(found) {
        notes.push(format!(
            "an effect of {share:.2} is a logit difference of 0, where neither answer is ahead: a change that erases all information comes to that, so only what lies beyond it restores anything"
        ));
    }
    notes.extend(found.stopped.clone());
    notes
}

/// The positions at which the prompts differ, with both tokens.
fn spelled(lab: &Lab, plan: &PatchingPlan) -> String {
    let (clean, corrupt, alignment) = plan.first_case();
    if plan.sigma.is_some() {
        if alignment.first == 0 {
            return "the noise starts at the first token, so no position is left out".into();
        }
        return format!(
            "positions before the subject, 0 to {}, are left out, because the runs are equal there",
            alignment.first.saturating_sub(1)
        );
    }
    let pairs = &alignment.pairs;
    let differ: Vec<String> = pairs
        .iter()
        .filter(|(a, b)| clean.tokens[*a] != corrupt.tokens[*b])
        .map(|(a, b)| {
            let (own, other) = (clean.tokens[*a], corrupt.tokens[*b]);
            format!(
                "{a} {} against {b} {}",
                lab.visible(own),
                lab.visible(other)
            )
        })
        .collect();
    let mut note = format!(
        "clean against corrupted, token by token: {}",
        differ[..differ.len().min(SPELLED)].join(", ")
    );
    if differ.len() > SPELLED {
        let _ = write!(note, " and {} more", differ.len() - SPELLED);
    }
    let alone = clean.tokens.len().max(corrupt.tokens.len()) - pairs.len();
    if alone > 0 {
        let _ = write!(
            note,
            "; {} and {} tokens; {alone} tokens of the longer prompt are not paired and stay as they are",
            clean.tokens.len(),
            corrupt.tokens.len()
        );
    }
    note.push_str(
        "; positions before the first difference are left out, because the runs are equal there",
    );
    note
}
