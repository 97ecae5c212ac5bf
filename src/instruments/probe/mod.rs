//! Probes: whether a line through the activations tells two lists of prompts apart, at which layer, and how sure that is.
//!
//! Prompts are split into three parts by label: probes are made from the first, the layer is chosen on the second, and every number in
//! the table is of the third, which nothing was chosen on. Beside them stand probes that were made with shuffled labels. A probe shows what
//! can be read from a state, not what the model reads.
//!
//! Source: Alain & Bengio 2016 (1610.01644); mass-mean probes, Marks & Tegmark 2023 (2310.06824); controls, Hewitt & Liang 2019 (1909.03368).

mod measure;
pub mod parameters;

use self::measure::{LayerProbes, ProbeSplit, probes};
use self::parameters::{ProbeKind, ProbeParams};
use crate::edit::direction::{Direction, DirectionOrigin, norm};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Table, TableRow};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::vectors::proportion::{Proportion, auroc_interval};

pub struct Probe;

const COLUMNS: &[&str] = &[
    "layer",
    "logistic accuracy",
    "logistic AUROC",
    "mass-mean accuracy",
    "mass-mean AUROC",
    "shuffled AUROC",
    "shuffled highest",
];

impl Measurement for Probe {
    type Params = ProbeParams;
    const NAME: &'static str = "probe";
    const ABOUT: &'static str = "Linear probes on two lists of prompts, by layer: held-out accuracy and AUROC beside shuffled labels; the best is saved as a direction";
    const SOURCE: &'static str = "linear probes: Alain & Bengio 2016 (1610.01644); mass-mean: Marks & Tegmark 2023 (2310.06824)";
    const READS: Reads<ProbeParams> = Reads::Others;
    const EDITS_ITS_TEXTS: bool = true;

    fn measure(params: &ProbeParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        if let Some(path) = &params.save {
            crate::file::check(path, lab.overwrite)?;
        }
        let lists = params.lists(lab)?;
        let split = ProbeSplit::of(&lists, params.held_out.0, run.seed)?;
        let found = probes(lab, params, &lists, &split, run)?;
        let rank = |own: &LayerProbes| {
            let own = own.of(params.method);
            (own.chosen, own.apart)
        };
        let chosen = found.iter().max_by(|a, b| {
            let (a, b) = (rank(a), rank(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        let rows = found.iter().map(|own| row(own, &split)).collect();
        let mut notes = vec![format!(
            "made from {} + {} prompts, the layer chosen on {} + {}, every number of the {} + {} that were held out (plus + minus), seed {}",
            split.making[0].len(),
            split.making[1].len(),
            split.choosing[0].len(),
            split.choosing[1].len(),
            split.held[0].len(),
            split.held[1].len(),
            run.seed
        )];
        if let Some(best) = chosen {
            notes.insert(0, sentence(best, params, &split));
            if let Some(path) = &params.save {
                let direction = direction(best, params, &split, lab);
                direction.save_as(path, lab.overwrite)?;
                let own = best.of(params.method);
                let (at, border) = (
                    params.site.at(best.layer),
                    -own.probe.bias / norm(&own.probe.weights),
                );
                notes.insert(
                    1,
                    format!(
                        "it was saved in {0}; as a condition of an edit: when {0}@{at}>{border:.4}",
                        path.display()
                    ),
                );
            }
        }
        notes.push(format!("shuffled: {} logistic probes made with shuffled labels, mean and highest AUROC on the true labels of the held-out prompts", params.shuffles.0));
        notes
            .push("a probe says what can be read from a state, not that the model reads it".into());
        Ok(Draft::of(Table::of(COLUMNS, rows))
            .titled(format!(
                "{} · {}",
                params.site.name(),
                params.positions.name()
            ))
            .notes(notes))
    }
}

fn row(own: &LayerProbes, split: &ProbeSplit) -> TableRow {
    let all = split.held_labels().len() as f32;
    let mean = own.shuffled.iter().sum::<f64>() / own.shuffled.len() as f64;
    let highest = own
        .shuffled
        .iter()
        .copied()
        .fold(f64::NEG_INFINITY, f64::max);
    let share = |right: usize| right as f32 / all;
    let mut entries = entries![
        own.layer,
        share(own.logistic.right),
        own.logistic.area as f32,
        share(own.mass_mean.right),
        own.mass_mean.area as f32,
    ];
    entries.extend(match own.shuffled.as_slice() {
        [] => entries!["", ""],
        _ => entries![mean as f32, highest as f32],
    });
    TableRow::at(Anchor::layer(own.layer), entries)
}

/// What the chosen probe is worth.
fn sentence(best: &LayerProbes, params: &ProbeParams, split: &ProbeSplit) -> String {
    let own = best.of(params.method);
    let labels = split.held_labels();
    let right = Proportion {
        hits: own.right,
        of: labels.len(),
    };
    let (low, high) = auroc_interval(own.area, split.held[0].len(), split.held[1].len());
    format!(
        "layer {} is best on the prompts that it is chosen on (AUROC {:.3}, the classes {:.1} standard deviations apart); held out: {} right, AUROC {:.3} (95 % {low:.3} to {high:.3})",
        best.layer,
        own.chosen,
        own.apart,
        right.sentence(),
        own.area
    )
}

/// The chosen probe as a direction with its bias.
fn direction(best: &LayerProbes, params: &ProbeParams, split: &ProbeSplit, lab: &Lab) -> Direction {
    let (card, own) = (&lab.model.card, best.of(params.method));
    let kind = match params.method {
        ProbeKind::Logistic => "logistic probe",
        ProbeKind::MassMean => "mass-mean probe",
    };
    let method = format!(
        "{kind}, held-out accuracy {} of {}, AUROC {:.3}",
        own.right,
        split.held_labels().len(),
        own.area
    );
    Direction {
        rows: vec![(params.site.at(best.layer), own.probe.weights.clone())],
        origin: DirectionOrigin {
            model: card.name.clone(),
            revision: card.revision.clone(),
            method,
            positions: params.positions.name().into(),
            prompts: (split.making[0].len(), split.making[1].len()),
            dtype: card.dtype.into(),
            bias: Some(own.probe.bias),
            version: env!("CARGO_PKG_VERSION").into(),
            ..DirectionOrigin::default()
        },
    }
}
