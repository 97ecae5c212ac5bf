//! Probes: whether a line through the activations tells lists of prompts apart, at which layer and position, and how sure that is.
//!
//! Prompts are split into three parts by class: probes are made from the first, layer and position are chosen on the second, and every
//! number in the table is of the third, which nothing was chosen on. Beside them stand probes that were made with shuffled labels. Of more
//! than two classes each has a probe against all others, and a prompt is of the class whose probe says most. A probe shows what can be
//! read from a state, not what the model reads.
//!
//! Source: Alain & Bengio 2016 (1610.01644); mass-mean probes, Marks & Tegmark 2023 (2310.06824); controls, Hewitt & Liang 2019 (1909.03368).

mod measure;
pub mod parameters;

use std::path::{Path, PathBuf};

use self::measure::{PlaceProbes, ProbeSplit, probes};
use self::parameters::{ProbeClass, ProbeKind, ProbeParams};
use crate::edit::direction::{Direction, DirectionOrigin, norm};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TableRow};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::text;
use crate::vectors::proportion::{Proportion, auroc_interval};

pub struct Probe;

const COLUMNS: [&str; 6] = [
    "logistic accuracy",
    "logistic AUROC",
    "mass-mean accuracy",
    "mass-mean AUROC",
    "shuffled AUROC",
    "shuffled highest",
];

/// Probes that were made, with what they were made from.
struct ProbeReport<'a> {
    params: &'a ProbeParams,
    classes: &'a [ProbeClass],
    split: ProbeSplit,
    lab: &'a Lab,
}

impl Measurement for Probe {
    type Params = ProbeParams;
    const NAME: &'static str = "probe";
    const ABOUT: &'static str = "Linear probes on two lists of prompts or more, by layer and position: held-out accuracy and AUROC beside shuffled labels; the best is saved as a direction";
    const SOURCE: &'static str = "linear probes: Alain & Bengio 2016 (1610.01644); mass-mean: Marks & Tegmark 2023 (2310.06824)";
    const READS: Reads<ProbeParams> = Reads::Others;
    const EDITS_ITS_TEXTS: bool = true;

    fn measure(params: &ProbeParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let classes = params.classes(lab)?;
        let files = files(params, &classes);
        for file in &files {
            crate::file::check(file, lab.overwrite)?;
        }
        let split = ProbeSplit::of(&classes, params.held_out.0, run.seed)?;
        let found = probes(lab, params, &classes, &split, run)?;
        let rank = |own: &PlaceProbes| {
            let own = own.of(params.method);
            (own.chosen, own.apart)
        };
        let chosen = found.iter().max_by(|a, b| {
            let (a, b) = (rank(a), rank(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        let report = ProbeReport {
            params,
            classes: &classes,
            split,
            lab,
        };
        let mut notes = Vec::new();
        if let Some(best) = chosen {
            notes.extend(report.sentences(best));
            notes.extend(report.save(best, &files)?);
        }
        notes.push(format!(
            "made from {} prompts, layer and position chosen on {}, every number of the {} that were held out ({}), seed {}",
            sizes(&report.split.making),
            sizes(&report.split.choosing),
            sizes(&report.split.held),
            report.names().join(" + "),
            run.seed
        ));
        let twice: usize = classes.iter().map(|class| class.twice).sum();
        notes.extend((twice > 0).then(|| {
            format!(
                "{} left out, because the same prompt stands before in its list",
                text::counted(twice, "prompt")
            )
        }));
        notes.push(format!("shuffled: {} logistic probes made with shuffled labels, mean and highest AUROC on the true labels of the held-out prompts", params.shuffles.0));
        notes
            .push("a probe says what can be read from a state, not that the model reads it".into());
        let mut columns = vec!["layer"];
        columns.extend((params.back.0 > 1).then_some("before"));
        columns.extend(COLUMNS);
        let rows = found.iter().map(|own| report.row(own)).collect();
        Ok(Draft::of(Table::of(&columns, rows))
            .titled(format!(
                "{} · {}",
                params.site.name(),
                params.positions.name()
            ))
            .notes(notes))
    }
}

/// The numbers of prompts of every class: `10 + 12`.
fn sizes(part: &[Vec<usize>]) -> String {
    let each: Vec<String> = part.iter().map(|own| own.len().to_string()).collect();
    each.join(" + ")
}

/// The files that probes are saved in: of two classes the one that was named, of more one a class.
fn files(params: &ProbeParams, classes: &[ProbeClass]) -> Vec<PathBuf> {
    let Some(file) = &params.save else {
        return Vec::new();
    };
    if classes.len() == 2 {
        return vec![file.clone()];
    }
    let plain = |c: char| {
        if c.is_alphanumeric() || "-_".contains(c) {
            c
        } else {
            '_'
        }
    };
    let each = classes.iter().enumerate().map(|(number, class)| {
        let name: String = class.name.chars().map(plain).collect();
        // Two names may become one.
        let taken = classes[..number]
            .iter()
            .any(|other| other.name.chars().map(plain).collect::<String>() == name);
        let name = if taken {
            format!("{name}-{number}")
        } else {
            name
        };
        inserted(file, &name)
    });
    each.collect()
}

/// A path with a name before its ending.
fn inserted(file: &Path, name: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let ending = file
        .extension()
        .map_or_else(String::new, |e| format!(".{}", e.to_string_lossy()));
    file.with_file_name(format!("{stem}.{name}{ending}"))
}

impl ProbeReport<'_> {
    /// What the classes are called, safe to show.
    fn names(&self) -> Vec<String> {
        let names = self.classes.iter().map(|class| text::line(&class.name));
        names.collect()
    }

    fn row(&self, own: &PlaceProbes) -> TableRow {
        let all = self.split.held_out() as f32;
        let mean = own.shuffled.iter().sum::<f64>() / own.shuffled.len() as f64;
        let highest = own
            .shuffled
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        let mut entries = entries![own.layer];
        entries.extend((self.params.back.0 > 1).then(|| own.back.into()));
        for judged in [&own.logistic, &own.mass_mean] {
            entries.extend(entries![
                judged.all_right() as f32 / all,
                judged.area() as f32
            ]);
        }
        entries.extend(match own.shuffled.as_slice() {
            [] => vec![Entry::Missing; 2],
            _ => entries![mean as f32, highest as f32],
        });
        TableRow::at(Anchor::layer(own.layer), entries)
    }

    /// What the chosen probes are worth.
    fn sentences(&self, best: &PlaceProbes) -> Vec<String> {
        let own = best.of(self.params.method);
        let right = Proportion {
            hits: own.all_right(),
            of: self.split.held_out(),
        };
        let back = match best.back {
            0 => String::new(),
            back => format!(
                ", {} before the one that is named,",
                text::counted(back, "position")
            ),
        };
        let chosen = format!(
            "layer {}{back} is best on the prompts that it is chosen on ({} {:.3}, the classes {:.1} standard deviations apart); held out: {} right",
            best.layer,
            if own.areas.len() == 1 {
                "AUROC"
            } else {
                "mean AUROC"
            },
            own.chosen,
            own.apart,
            right.sentence(),
        );
        let held: Vec<usize> = self.split.held.iter().map(Vec::len).collect();
        if let [area] = own.areas[..] {
            let (low, high) = auroc_interval(area, held[0], held[1]);
            return vec![format!(
                "{chosen}, AUROC {area:.3} (95 % {low:.3} to {high:.3})"
            )];
        }
        let most = held.iter().copied().max().unwrap_or(0);
        let mut out = vec![format!(
            "{chosen}; always saying the largest class would have {most} right"
        )];
        let total: usize = held.iter().sum();
        for (class, name) in self.names().into_iter().enumerate() {
            let (low, high) = auroc_interval(own.areas[class], held[class], total - held[class]);
            out.push(format!(
                "{name} against all others: AUROC {:.3} (95 % {low:.3} to {high:.3}); {} of {} held-out prompts are called so",
                own.areas[class], own.right[class], held[class]
            ));
        }
        out
    }

    /// Saves the chosen probes as directions with a bias, and says how a condition of an edit names them.
    fn save(&self, best: &PlaceProbes, files: &[PathBuf]) -> Result<Vec<String>> {
        let (own, mut out) = (best.of(self.params.method), Vec::new());
        for (number, file) in files.iter().enumerate() {
            let direction = self.direction(best, number);
            direction.save_as(file, self.lab.overwrite)?;
            let probe = &own.own.probes[number];
            let (at, border) = (
                self.params.site.at(best.layer),
                -probe.bias / norm(&probe.weights),
            );
            let whose = match files.len() {
                1 => "it".to_string(),
                _ => format!("the probe of {}", self.names().swap_remove(number)),
            };
            out.push(format!(
                "{whose} was saved in {0}; as a condition of an edit: when {0}@{at}>{border:.4}",
                file.display()
            ));
        }
        Ok(out)
    }

    /// A chosen probe as a direction with its bias.
    fn direction(&self, best: &PlaceProbes, number: usize) -> Direction {
        let (card, own) = (&self.lab.model.card, best.of(self.params.method));
        let kind = match self.params.method {
            ProbeKind::Logistic => "logistic probe",
            ProbeKind::MassMean => "mass-mean probe",
        };
        let of = match own.areas.len() {
            1 => String::new(),
            _ => format!(
                " of {} against all others",
                self.names().swap_remove(number)
            ),
        };
        let method = format!(
            "{kind}{of}, held-out accuracy {} of {}, AUROC {:.3}",
            own.all_right(),
            self.split.held_out(),
            own.areas[number]
        );
        let making: Vec<usize> = self.split.making.iter().map(Vec::len).collect();
        let probe = &own.own.probes[number];
        Direction {
            rows: vec![(self.params.site.at(best.layer), probe.weights.clone())],
            origin: DirectionOrigin {
                model: card.name.clone(),
                revision: card.revision.clone(),
                method,
                positions: self.params.positions.name().into(),
                prompts: (
                    making[number],
                    making.iter().sum::<usize>() - making[number],
                ),
                dtype: card.dtype.into(),
                bias: Some(probe.bias),
                version: env!("CARGO_PKG_VERSION").into(),
                ..DirectionOrigin::default()
            },
        }
    }
}
