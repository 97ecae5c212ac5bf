//! Control units, with which a claim about units is compared: others of the same site, as many and as large.
//!
//! Invariant: a draw is seeded, no unit of the claim is in it, and the draws of one seed are different units as far as there are enough.
//! Where fewer others than units are left there is no control of equal size, and none is made up. To add another kind of control, add a
//! function.

use std::collections::HashSet;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::draws::{DRAWS, draw_number};
use super::lab::Lab;
use super::named_vectors::unit_size;
use crate::edit::op::UnitChoice;
use crate::edit::{Edit, schedule::Schedule};
use crate::error::Result;
use crate::model::network::finite;

/// How many draws of a control there are, and why it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlDraws {
    pub count: usize,
    /// Empty where there are some.
    pub why: String,
}

impl ControlDraws {
    /// The draws of `own` of `count` units at each of some places, at most `most`: no more than there are ways to choose others.
    pub fn of_units(places: impl IntoIterator<Item = (usize, usize)>, most: usize) -> Self {
        let mut ways = 1usize;
        for (count, own) in places.into_iter().filter(|(_, own)| *own > 0) {
            let others = count.saturating_sub(own);
            if others < own {
                let why = match others {
                    0 => "it changes all units of a site, so there are no others".to_string(),
                    _ => format!(
                        "it changes {own} of {count} units, which leaves fewer others than that"
                    ),
                };
                return Self { count: 0, why };
            }
            ways = ways.saturating_mul(choices(others, own, most));
        }
        Self {
            count: most.min(ways),
            why: String::new(),
        }
    }
}

/// How many ways there are to choose `own` of `others`, counted up to `most`.
fn choices(others: usize, own: usize, most: usize) -> usize {
    let mut ways = 1usize;
    for i in 0..own.min(others - own) {
        ways = ways.saturating_mul(others - i) / (i + 1);
        if ways >= most {
            return most;
        }
    }
    ways
}

impl Lab {
    /// How many draws of other units or random directions the edits of a schedule leave, at most `most`. Knockouts are exempt from
    /// what is said of units: there are other edges of the same heads.
    ///
    /// # Errors
    ///
    /// When an edit names a set of units that is not there, or a layer that the model lacks.
    pub fn control_draws(&mut self, schedule: &Schedule, most: usize) -> Result<ControlDraws> {
        let stages = schedule.stages.iter();
        let edits = stages.flat_map(|stage| stage.edits.iter().filter(|e| e.active()));
        let (mut places, mut other) = (Vec::new(), false);
        for edit in edits {
            let own = self.edited_units(edit)?;
            other |= own.is_empty();
            places.extend(own);
        }
        let mut draws = ControlDraws::of_units(places, most);
        if other && draws.why.is_empty() {
            draws.count = most;
        }
        Ok(draws)
    }

    /// Of how many units an edit changes how many, at each of its addresses; nothing where its control is not other units.
    fn edited_units(&mut self, edit: &Edit) -> Result<Vec<(usize, usize)>> {
        let mentions = edit.op.argument().mentions();
        let Some(units) = mentions.units.filter(|_| mentions.sources.is_none()) else {
            return Ok(Vec::new());
        };
        // The controls of features are other active features, and are chosen where these are known.
        if matches!(units, UnitChoice::Features(_)) {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        for at in edit.place.addresses(self.model.card.layers)? {
            let count = self.model.width(at.site) / unit_size(at.site, &self.model);
            let own = match units {
                UnitChoice::All => count,
                UnitChoice::List(list) => list.iter().collect::<HashSet<_>>().len(),
                UnitChoice::Set(name) => self.unit_set(name)?.at(at.layer).len(),
                UnitChoice::Features(_) => 0,
            };
            out.push((count, own));
        }
        Ok(out)
    }
}

/// As many other units, each near one of `units` in the ranking by magnitude, so that a strongly active neuron is not compared with
/// silent ones; fewer if there are not enough. `sizes` has the magnitude of every unit. The draws of one seed choose among different
/// neighbours.
pub fn near_in_size(sizes: &[f32], units: &[u32], seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..sizes.len() as u32).collect();
    order.sort_by(|a, b| {
        let (x, y) = (sizes[*a as usize], sizes[*b as usize]);
        finite::order(y, x).then(a.cmp(b))
    });
    let mut free: Vec<u32> = order
        .iter()
        .copied()
        .filter(|u| !units.contains(u))
        .collect();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut out = Vec::with_capacity(units.len());
    for unit in units {
        let rank = order.iter().take_while(|u| *u != unit);
        // The rank counted among the units that are still free.
        let rank = rank.filter(|u| free.contains(u)).count();
        let reach = (order.len() / 50).max(DRAWS);
        let first = rank.saturating_sub(reach);
        let first = first.min(free.len().saturating_sub(2 * DRAWS));
        let near = &free[first..(rank + reach).max(first + 2 * DRAWS).min(free.len())];
        // Every draw has neighbours of its own, two or more where there are enough, so that seeds differ too.
        let own = near.iter().skip(draw_number(seed)).step_by(DRAWS);
        let own: Vec<u32> = own.copied().collect();
        let other = own.choose(&mut rng).or_else(|| near.choose(&mut rng));
        let Some(other) = other.copied() else {
            continue;
        };
        free.retain(|u| *u != other);
        out.push(other);
    }
    out
}

/// As many random units of `0..count` that are not among `units`.
pub fn any(count: usize, units: &[u32], seed: u64) -> Vec<u32> {
    let mut others: Vec<u32> = (0..count as u32).filter(|u| !units.contains(u)).collect();
    others.shuffle(&mut StdRng::seed_from_u64(seed));
    others.truncate(units.len());
    others
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::draws::draw_seed;
    use super::*;

    #[test]
    fn control_units_are_as_large_as_the_edited_ones() {
        let sizes: Vec<f32> = (0..200).map(|i| (i * 37 % 200) as f32).collect();
        for (unit, seed) in [(3u32, 1), (100, 2), (199, 3), (0, 4)] {
            let other = near_in_size(&sizes, &[unit], seed);
            assert_eq!(other.len(), 1);
            assert_ne!(other[0], unit);
            let apart = sizes[other[0] as usize] - sizes[unit as usize];
            assert!(apart.abs() <= 16.0, "{unit}: {apart}");
            assert_eq!(
                other,
                near_in_size(&sizes, &[unit], seed),
                "a seed is a choice"
            );
        }
        let many: Vec<u32> = (0..100).collect();
        let others = near_in_size(&sizes, &many, 1);
        assert!(others.len() == 100 && others.iter().all(|u| *u >= 100));
        let mut unique = others.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), 100);
    }

    #[test]
    fn the_draws_of_a_seed_are_different_units() {
        for count in [9usize, 12, 40, 1536] {
            let sizes: Vec<f32> = (0..count).map(|i| (i * 7 % count) as f32).collect();
            for unit in [0u32, 4, 8] {
                let draws = (0..DRAWS).map(|d| near_in_size(&sizes, &[unit], draw_seed(1, d))[0]);
                let draws: HashSet<u32> = draws.collect();
                assert_eq!(draws.len(), DRAWS, "{count} {unit}");
            }
        }
    }

    #[test]
    fn there_are_no_more_draws_than_others() {
        let of = |places: &[(usize, usize)]| ControlDraws::of_units(places.iter().copied(), DRAWS);
        // Of 9 heads one leaves 8 others, of 4 heads one leaves 3; two of 4 leave one pair.
        assert_eq!(
            [of(&[(9, 1)]), of(&[(4, 1)]), of(&[(4, 2)])].map(|d| d.count),
            [8, 3, 1]
        );
        assert_eq!(of(&[(4, 1), (4, 1)]).count, 8);
        assert_eq!(of(&[(1536, 700)]).count, 8);
        let few = of(&[(9, 1), (9, 6)]);
        assert_eq!(few.count, 0);
        assert!(few.why.contains("6 of 9 units"), "{}", few.why);
        assert!(of(&[(9, 9)]).why.contains("all units"));
        assert_eq!(of(&[(9, 0), (1536, 1)]).count, 8);
    }

    #[test]
    fn random_units_are_never_the_units_themselves() {
        for seed in 0..20 {
            let control = any(9, &[3, 5, 8], seed);
            assert_eq!(control, any(9, &[3, 5, 8], seed), "a seed decides");
            assert!(control.len() == 3 && control.iter().all(|u| ![3, 5, 8].contains(u)));
        }
        let draws: Vec<Vec<u32>> = (0..9).map(|s| any(90, &[3], s)).collect();
        assert!(draws.iter().any(|d| *d != draws[0]), "seeds differ");
        assert_eq!(any(3, &[1, 2], 5), [0], "no more than are left");
    }
}
