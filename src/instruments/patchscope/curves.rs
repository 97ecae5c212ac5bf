//! Curves over source layers: the probability of the first token, or of chosen ones, into each target layer.
//!
//! Invariant: what the unpatched target gives is a curve of its own, level, so that nothing is read without it.

use super::plan::{Plan, spelled};
use super::sweep::{self, Said};
use super::words::{anchor, shared_slot, unrelated};
use crate::error::Result;
use crate::figure::{Anchor, Body, Curve, Header, Scale, Series, Style};
use crate::lab::bench::Bench;
use crate::lab::run::Run;

/// A curve a target layer, or one where every source has its own; a layer that was not measured is a gap.
pub(super) fn over(plan: &Plan, name: &str, value: &dyn Fn(usize) -> Option<f32>) -> Vec<Curve> {
    let curve = |label: String, pairs: Vec<Option<usize>>| Curve {
        label,
        anchor: Anchor::default(),
        values: pairs
            .into_iter()
            .map(|p| p.and_then(value).unwrap_or(f32::NAN))
            .collect(),
        total: None,
    };
    let of = |source: &i32, target: Option<i32>| {
        let fits = |p: &(i32, i32)| p.0 == *source && target.is_none_or(|t| t == p.1);
        plan.pairs.iter().position(fits)
    };
    let mut targets: Vec<i32> = plan.pairs.iter().map(|p| p.1).collect();
    targets.sort_unstable();
    targets.dedup();
    if plan.pairs.len() <= plan.layers.len() {
        let pairs = plan.layers.iter().map(|s| of(s, None)).collect();
        return vec![curve(name.to_string(), pairs)];
    }
    let each = targets.iter().map(|t| {
        let pairs = plan.layers.iter().map(|s| of(s, Some(*t))).collect();
        curve(format!("{name}, into {}", spelled(*t)), pairs)
    });
    each.collect()
}

/// The same number everywhere.
pub(super) fn flat(plan: &Plan, name: &str, value: f32) -> Curve {
    Curve {
        label: name.into(),
        anchor: Anchor::default(),
        values: vec![value; plan.layers.len()],
        total: None,
    }
}

/// Curves over the plan's source layers; `place` says at which position they were taken.
pub(super) fn body(plan: &Plan, place: Anchor, value: &str, curves: Vec<Curve>) -> Body {
    Body::Series(Series {
        axis: "source layer".into(),
        value: value.into(),
        points: plan
            .layers
            .iter()
            .map(|l| Header {
                label: spelled(*l),
                anchor: Anchor {
                    layer: u16::try_from(*l).ok(),
                    ..place
                },
            })
            .collect(),
        curves,
        scale: Scale::Unit,
        style: Style::Lines,
    })
}

/// Title, body and notes.
pub(super) fn draw(
    plan: &Plan,
    run: &Run,
    bench: &mut Bench,
) -> Result<(String, Body, Vec<String>)> {
    let null = unrelated(plan, run, bench)?;
    let sources: Vec<_> = plan.sources.iter().chain(&null).cloned().collect();
    let found = sweep::all(plan, &sources, bench)?;
    let mut curves = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let name = match (plan.sources.len(), i == plan.sources.len()) {
            (_, true) => "unrelated",
            (1, false) => "patched",
            _ => source.label.as_str(),
        };
        let p = |pair: usize| found.said[i].get(pair)?.as_ref().map(Said::p);
        curves.extend(over(plan, name, &p));
    }
    let source = &plan.sources[0];
    if let Some(target) = found.target(source) {
        curves.push(flat(plan, "unpatched", target.control.p()));
    }
    let names: Vec<String> = plan.watched.iter().map(|t| bench.visible(*t)).collect();
    let (value, what) = if names.is_empty() {
        let what = "the probability of whatever token comes first, which need not be the same at every layer";
        ("probability of the first token", what.to_string())
    } else {
        ("probability of the answers", names.join(" or "))
    };
    let mut notes = vec![format!("curves: {what}")];
    if null.is_some() {
        notes.push(format!(
            "unrelated: the same with the last token of a text that the model wrote by itself, seed {}",
            run.seed
        ));
    }
    notes.extend(shared_slot(plan, &found, bench));
    notes.extend(found.note.clone());
    let alone = plan.sources.len() == 1;
    let place = if alone {
        Anchor {
            layer: None,
            ..anchor(source, 0)
        }
    } else {
        Anchor::default()
    };
    let title = if alone {
        format!(" · {}", source.label)
    } else {
        format!(" · {} sources", plan.sources.len())
    };
    Ok((title, body(plan, place, value, curves), notes))
}
