//! The splitting of lists, and the probes of every layer and position.
//!
//! Invariant: no prompt is in two parts. To judge a probe by something else, add a field to [`JudgedProbes`].

use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::parameters::{ProbeClass, ProbeKind, ProbeParams};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::draws::draw_seed;
use crate::lab::list_cost::{ListCost, SLACK};
use crate::lab::prompt_list::PlacedPrompt;
use crate::lab::prompt_values::{each, values};
use crate::lab::run::Run;
use crate::lab::trials::WORTH_SAYING;
use crate::model::network::site::Address;
use crate::text;
use crate::vectors::probe::{ClassProbes, ProbeMethod, ProbeRows, auroc, separation, shuffled};
use crate::vectors::selection::average;

/// The numbers of the prompts of each part, by class.
pub(super) struct ProbeSplit {
    pub making: Vec<Vec<usize>>,
    pub choosing: Vec<Vec<usize>>,
    pub held: Vec<Vec<usize>>,
}

/// Probes of one kind and what they are worth.
pub(super) struct JudgedProbes {
    pub own: ClassProbes,
    /// Mean AUROC on the prompts that layer and position are chosen on.
    pub chosen: f64,
    /// How far apart the classes are there, which tells layers apart that are all right.
    pub apart: f64,
    /// How many held-out prompts of each class are called so.
    pub right: Vec<usize>,
    /// AUROC of each probe on the held-out prompts.
    pub areas: Vec<f64>,
}

/// The probes of one layer and position.
pub(super) struct PlaceProbes {
    pub layer: usize,
    /// How many positions before the one that is named.
    pub back: usize,
    pub logistic: JudgedProbes,
    pub mass_mean: JudgedProbes,
    /// Mean AUROC on the held-out prompts of probes that were made with shuffled labels.
    pub shuffled: Vec<f64>,
}

impl JudgedProbes {
    /// The mean of what each probe has.
    pub fn area(&self) -> f64 {
        average(self.areas.iter().copied())
    }

    pub fn all_right(&self) -> usize {
        self.right.iter().sum()
    }
}

impl PlaceProbes {
    pub fn of(&self, kind: ProbeKind) -> &JudgedProbes {
        match kind {
            ProbeKind::Logistic => &self.logistic,
            ProbeKind::MassMean => &self.mass_mean,
        }
    }
}

impl ProbeSplit {
    /// Splits every list: `share` of each is held out, and as much again chooses layer and position.
    pub fn of(classes: &[ProbeClass], share: f64, seed: u64) -> Result<Self> {
        if share <= 0.0 {
            let expected =
                "a share above 0, because prompts that a probe was made from do not judge it";
            return Err(Error::argument("held-out", share, expected));
        }
        let mut split = Self {
            making: Vec::new(),
            choosing: Vec::new(),
            held: Vec::new(),
        };
        for (number, class) in classes.iter().enumerate() {
            let count = class.prompts.len();
            let mut order: Vec<usize> = (0..count).collect();
            order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(number as u64)));
            let part = ((count as f64 * share).round() as usize).max(1);
            if count < 2 * part + 2 {
                let given = format!(
                    "{count} prompts of `{}`, of which {part} and {part} are held out",
                    class.name
                );
                let expected = "at least two prompts of each list to make probes from: give more, or a smaller `held-out`";
                return Err(Error::argument("held-out", given, expected));
            }
            split.held.push(order.split_off(order.len() - part));
            split.choosing.push(order.split_off(order.len() - part));
            split.making.push(order);
        }
        Ok(split)
    }

    /// How many prompts are held out.
    pub fn held_out(&self) -> usize {
        self.held.iter().map(Vec::len).sum()
    }
}

/// The classes of a part's prompts, class by class.
fn classes_of(part: &[Vec<usize>]) -> Vec<usize> {
    let class = |(class, own): (usize, &Vec<usize>)| std::iter::repeat_n(class, own.len());
    part.iter().enumerate().flat_map(class).collect()
}

/// Values by place, class and prompt.
type PlaceRows = Vec<Vec<Vec<Vec<f32>>>>;

/// What is read of every prompt, at every place.
fn read(
    lab: &mut Lab,
    params: &ProbeParams,
    classes: &[ProbeClass],
    places: &[(Address, usize)],
    run: &Run,
) -> Result<PlaceRows> {
    let began = Instant::now();
    let mut said = lab.announce.is_none();
    let lengths = classes.iter().flat_map(|class| &class.prompts);
    let lengths: Vec<usize> = lengths.map(|prompt| prompt.tokens.len()).collect();
    let mut wanted: Vec<Address> = places.iter().map(|(at, _)| *at).collect();
    wanted.dedup();
    wanted.iter().try_for_each(|at| lab.model.offers(*at))?;
    let mut rows: PlaceRows = vec![vec![Vec::new(); classes.len()]; places.len()];
    let role = params.positions.role();
    let (announce, memory) = (lab.announce, lab.most_memory());
    let held: usize = places.iter().map(|(at, _)| lab.model.width(at.site)).sum();
    let part = 0.8 / classes.len() as f32;
    for (class, list) in classes.iter().enumerate() {
        let (prompts, share) = (
            &list.prompts,
            class as f32 * part..(class + 1) as f32 * part,
        );
        lab.part(share, |lab| {
            each(lab, prompts, &wanted, &run.schedule, 0, |own, captures| {
                for (prompt, capture) in prompts[own.clone()].iter().zip(captures) {
                    for (rows, (at, back)) in rows.iter_mut().zip(places) {
                        rows[class].push(values(capture, *at, &earlier(prompt, *back), role)?);
                    }
                }
                if !std::mem::replace(&mut said, true)
                    && let Some(say) = announce
                {
                    let read: usize = lengths[own].iter().sum();
                    let all: usize = lengths.iter().sum();
                    let cost = ListCost {
                        what: "prompt",
                        count: lengths.len(),
                        tokens: all,
                        time: began
                            .elapsed()
                            .mul_f64(SLACK * all as f64 / read.max(1) as f64),
                        memory: memory + (4 * held * lengths.len()) as u64,
                        keeps: false,
                    };
                    say(&format!("probe, reading: {cost}"));
                }
                Ok(())
            })
        })?;
    }
    Ok(rows)
}

/// A prompt placed so many positions earlier.
fn earlier(prompt: &PlacedPrompt, back: usize) -> PlacedPrompt {
    let own = &prompt.positions;
    PlacedPrompt {
        tokens: Vec::new(),
        positions: own.start - back..own.end - back,
    }
}

/// The probes of all layers and positions.
///
/// # Errors
///
/// Those of reading the prompts.
pub(super) fn probes(
    lab: &mut Lab,
    params: &ProbeParams,
    classes: &[ProbeClass],
    split: &ProbeSplit,
    run: &Run,
) -> Result<Vec<PlaceProbes>> {
    let layers = 0..lab.model.card.layers;
    let places: Vec<(Address, usize)> = layers
        .flat_map(|layer| (0..params.back.0).map(move |back| (layer, back)))
        .map(|(layer, back)| (params.site.at(layer), back))
        .collect();
    let all = read(lab, params, classes, &places, run)?;
    let count = classes.len();
    let mut out = Vec::with_capacity(places.len());
    let began = Instant::now();
    for (i, ((at, back), rows)) in places.iter().zip(&all).enumerate() {
        let part = |of: &[Vec<usize>]| -> Vec<Vec<f32>> {
            let class = |(class, own): (usize, &Vec<usize>)| {
                own.iter()
                    .map(|i| rows[class][*i].clone())
                    .collect::<Vec<_>>()
            };
            of.iter().enumerate().flat_map(class).collect()
        };
        let (making, choosing, held) = (
            part(&split.making),
            part(&split.choosing),
            part(&split.held),
        );
        let (own, choice, truth) = (
            classes_of(&split.making),
            classes_of(&split.choosing),
            classes_of(&split.held),
        );
        let from = ProbeRows::of(&making);
        let areas = |probes: &ClassProbes, rows: &[Vec<f32>], truth: &[usize]| -> Vec<f64> {
            let each = probes.scores(rows, truth);
            each.iter()
                .map(|(scores, own)| auroc(scores, own))
                .collect()
        };
        let judged = |method: ProbeMethod| {
            let probes = ClassProbes::of(&from, method, &own, count);
            let at_choice = probes.scores(&choosing, &choice);
            let mut right = vec![0; count];
            for (row, class) in held.iter().zip(&truth) {
                right[*class] += usize::from(probes.class(row) == *class);
            }
            JudgedProbes {
                chosen: average(at_choice.iter().map(|(scores, own)| auroc(scores, own))),
                apart: average(
                    at_choice
                        .iter()
                        .map(|(scores, own)| separation(scores, own)),
                ),
                right,
                areas: areas(&probes, &held, &truth),
                own: probes,
            }
        };
        let (logistic, mass_mean) = (judged(ProbeMethod::Logistic), judged(ProbeMethod::MassMean));
        let mut drawn = Vec::with_capacity(params.shuffles.0);
        for draw in 0..params.shuffles.0 {
            let done = i as f32 + draw as f32 / params.shuffles.0 as f32;
            lab.report(0.8 + 0.2 * done / places.len() as f32)?;
            let labels = shuffled(&own, draw_seed(run.seed, draw));
            let none = ClassProbes::of(&from, ProbeMethod::Logistic, &labels, count);
            drawn.push(average(areas(&none, &held, &truth).into_iter()));
        }
        out.push(PlaceProbes {
            layer: usize::from(at.layer),
            back: *back,
            logistic,
            mass_mean,
            shuffled: drawn,
        });
        let time = began.elapsed().mul_f64(SLACK * places.len() as f64);
        if let Some(say) = lab.announce.filter(|_| i == 0 && time >= WORTH_SAYING) {
            say(&format!(
                "probe, fitting: {} probes at {}, at most about {}",
                (2 + params.shuffles.0) * ClassProbes::count(count) * places.len(),
                text::counted(places.len(), "place"),
                text::duration(time)
            ));
        }
    }
    Ok(out)
}
