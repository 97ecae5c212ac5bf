//! The splitting of lists, and the probes of every layer.
//!
//! Invariant: no prompt is in two parts. To judge a probe by something else, add a field to [`JudgedProbe`].

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::parameters::{ProbeKind, ProbeParams};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::draws::draw_seed;
use crate::lab::prompt_list::PlacedPrompt;
use crate::lab::prompt_values::{each, values};
use crate::lab::run::Run;
use crate::model::network::site::Address;
use crate::vectors::probe::{LinearProbe, ProbeMethod, ProbeRows, auroc, separation, shuffled};

/// The numbers of the prompts of each part, by class.
pub(super) struct ProbeSplit {
    pub making: [Vec<usize>; 2],
    pub choosing: [Vec<usize>; 2],
    pub held: [Vec<usize>; 2],
}

/// A probe and what it is worth.
pub(super) struct JudgedProbe {
    pub probe: LinearProbe,
    /// AUROC on the prompts that the layer is chosen on.
    pub chosen: f64,
    /// How far apart the classes are there, which tells layers apart that are all right.
    pub apart: f64,
    /// How many of them are on the side of their label, and the AUROC.
    pub right: usize,
    pub area: f64,
}

/// The probes of one layer.
pub(super) struct LayerProbes {
    pub layer: usize,
    pub logistic: JudgedProbe,
    pub mass_mean: JudgedProbe,
    /// AUROC on the held-out prompts of probes that were made with shuffled labels.
    pub shuffled: Vec<f64>,
}

impl LayerProbes {
    pub fn of(&self, kind: ProbeKind) -> &JudgedProbe {
        match kind {
            ProbeKind::Logistic => &self.logistic,
            ProbeKind::MassMean => &self.mass_mean,
        }
    }
}

impl ProbeSplit {
    /// Splits both lists: `share` of each is held out, and as much again chooses the layer.
    pub fn of(lists: &[Vec<PlacedPrompt>; 2], share: f64, seed: u64) -> Result<Self> {
        if share <= 0.0 {
            let expected =
                "a share above 0, because prompts that a probe was made from do not judge it";
            return Err(Error::argument("held-out", share, expected));
        }
        let mut parts: [[Vec<usize>; 2]; 3] = Default::default();
        for (class, list) in lists.iter().enumerate() {
            let mut order: Vec<usize> = (0..list.len()).collect();
            order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(class as u64)));
            let part = ((list.len() as f64 * share).round() as usize).max(1);
            if list.len() < 2 * part + 2 {
                let given = format!(
                    "{} prompts, of which {part} and {part} are held out",
                    list.len()
                );
                let expected = "at least two prompts of each list to make probes from: give more, or a smaller `held-out`";
                return Err(Error::argument("held-out", given, expected));
            }
            parts[2][class] = order.split_off(order.len() - part);
            parts[1][class] = order.split_off(order.len() - part);
            parts[0][class] = order;
        }
        let [making, choosing, held] = parts;
        Ok(Self {
            making,
            choosing,
            held,
        })
    }

    /// The labels of the held-out prompts: those of the plus class, then the others.
    pub fn held_labels(&self) -> Vec<bool> {
        labels(&self.held)
    }
}

/// The labels of a part: those of the plus class, then the others.
fn labels(part: &[Vec<usize>; 2]) -> Vec<bool> {
    let class = |class: usize| std::iter::repeat_n(class == 0, part[class].len());
    class(0).chain(class(1)).collect()
}

/// The probes of all layers.
///
/// # Errors
///
/// Those of reading the prompts.
pub(super) fn probes(
    lab: &mut Lab,
    params: &ProbeParams,
    lists: &[Vec<PlacedPrompt>; 2],
    split: &ProbeSplit,
    run: &Run,
) -> Result<Vec<LayerProbes>> {
    let layers = lab.model.card.layers;
    let wanted: Vec<Address> = (0..layers).map(|layer| params.site.at(layer)).collect();
    wanted.iter().try_for_each(|at| lab.model.offers(*at))?;
    // By layer, class and prompt.
    let mut rows: Vec<[Vec<Vec<f32>>; 2]> = vec![Default::default(); layers];
    let role = params.positions.role();
    for (class, list) in lists.iter().enumerate() {
        let share = class as f32 * 0.4..(class + 1) as f32 * 0.4;
        lab.part(share, |lab| {
            each(lab, list, &wanted, &run.schedule, 0, |own, captures| {
                for (prompt, capture) in list[own].iter().zip(captures) {
                    for (rows, at) in rows.iter_mut().zip(&wanted) {
                        rows[class].push(values(capture, *at, prompt, role)?);
                    }
                }
                Ok(())
            })
        })?;
    }
    let mut out = Vec::with_capacity(layers);
    for (layer, rows) in rows.iter().enumerate() {
        lab.report(0.8 + 0.2 * layer as f32 / layers as f32)?;
        let part = |of: &[Vec<usize>; 2]| -> Vec<Vec<f32>> {
            let class = |class: usize| of[class].iter().map(move |i| rows[class][*i].clone());
            class(0).chain(class(1)).collect()
        };
        let (making, choosing, held) = (
            part(&split.making),
            part(&split.choosing),
            part(&split.held),
        );
        let (own, choice, truth) = (
            labels(&split.making),
            labels(&split.choosing),
            labels(&split.held),
        );
        let from = ProbeRows::of(&making);
        let area = |probe: &LinearProbe, rows: &[Vec<f32>], truth: &[bool]| {
            let scores: Vec<f64> = rows.iter().map(|row| probe.score(row)).collect();
            (auroc(&scores, truth), scores)
        };
        let judged = |method: ProbeMethod| {
            let probe = from.fit(method, &own);
            let (area_held, _) = area(&probe, &held, &truth);
            let (chosen, choice_scores) = area(&probe, &choosing, &choice);
            JudgedProbe {
                chosen,
                apart: separation(&choice_scores, &choice),
                right: probe.right(&held, &truth),
                area: area_held,
                probe,
            }
        };
        let drawn = (0..params.shuffles.0).map(|draw| {
            let labels = shuffled(&own, draw_seed(run.seed, draw));
            area(&from.fit(ProbeMethod::Logistic, &labels), &held, &truth).0
        });
        out.push(LayerProbes {
            layer,
            logistic: judged(ProbeMethod::Logistic),
            mass_mean: judged(ProbeMethod::MassMean),
            shuffled: drawn.collect(),
        });
    }
    Ok(out)
}
