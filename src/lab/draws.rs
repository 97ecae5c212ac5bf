//! The seeds of random draws, of which a claim has several.
//!
//! Invariant: two seeds share no draw: re-seeding replaces every one of them, so that what does not change under it is no accident
//! of common draws.

use crate::model::Fingerprint;

/// How many draws a control has, unless something else is asked for.
pub const DRAWS: usize = 8;

/// The seed that a run has where none is named.
pub const FIRST_SEED: u64 = 1;

/// The seed of one draw of a run with this seed. Its last bits are the draw's number, so that controls of which there is a fixed list can
/// be told from it ([`draw_number`]).
pub fn draw_seed(seed: u64, draw: usize) -> u64 {
    let count = DRAWS as u64;
    Fingerprint::of([seed, draw as u64]) / count * count + draw as u64 % count
}

/// Which draw this seed is of, below [`DRAWS`].
pub fn draw_number(seed: u64) -> usize {
    (seed % DRAWS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_share_no_draw() {
        let all: std::collections::HashSet<u64> = (0..200)
            .flat_map(|seed| (0..DRAWS).map(move |draw| draw_seed(seed, draw)))
            .collect();
        assert_eq!(all.len(), 200 * DRAWS);
        assert!((0..DRAWS).all(|draw| draw_number(draw_seed(5, draw)) == draw));
    }
}
