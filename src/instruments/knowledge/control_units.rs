//! Control units, with which a claim about units is compared. Invariant: the draw is seeded, and no unit of the claim is drawn.
//! To add another kind of control, add a function.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// As many other units of the same layer, each drawn among those next to one of `units` in the ranking by size. Fewer if the
/// layer does not have enough units.
pub fn near_in_size(sizes: &[f32], units: &[u32], seed: u64) -> Vec<u32> {
    crate::lab::prepare::alike(units, sizes, seed)
}

/// As many random units of `0..count` that are not among `units`.
pub fn any(count: usize, units: &[u32], seed: u64) -> Vec<u32> {
    let mut others: Vec<u32> = (0..count as u32).filter(|u| !units.contains(u)).collect();
    others.shuffle(&mut StdRng::seed_from_u64(seed));
    others.truncate(units.len());
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_units_are_never_the_units_themselves() {
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
