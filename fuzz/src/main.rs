//! libFuzzer on the kinds: `LMSCOPE_KIND=edit fuzz/run edit -runs=20000`, see `.ci/nightly fuzz`.
//!
//! Invariant: an input is read exactly as the gate reads it. At its end the process prints a line with the kind, how many
//! inputs were read and accepted, the slowest, and the most that one allocated.

#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use lmscope_fuzz::kinds::{self, KINDS, Kind, Place, guard::Guard, named};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[global_allocator]
static GUARD: Guard = Guard;

/// The state of a campaign.
struct Campaign {
    kind: &'static Kind,
    place: Place,
    inputs: u64,
    accepted: u64,
    peak: usize,
    longest: Duration,
    /// Whether what is said of refused inputs is printed.
    says: bool,
}

impl Drop for Campaign {
    fn drop(&mut self) {
        eprintln!(
            "KIND {} {} {} {} {}",
            self.kind.name,
            self.inputs,
            self.accepted,
            self.longest.as_millis(),
            self.peak >> 10
        );
    }
}

thread_local! {
    static CAMPAIGN: RefCell<Option<Campaign>> = const { RefCell::new(None) };
}

fn kind() -> &'static Kind {
    let name = std::env::var("LMSCOPE_KIND").unwrap_or_default();
    named(&name).unwrap_or_else(|| {
        let all: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        panic!("LMSCOPE_KIND is {name:?}; one of {}", all.join(", "))
    })
}

fuzz_target!(
    init: {
        let kind = kind();
        // The seeds of a kind as files, for libFuzzer to begin with.
        if let Ok(folder) = std::env::var("LMSCOPE_SEEDS") {
            for (i, seed) in (kind.seeds)().iter().enumerate() {
                std::fs::write(format!("{folder}/seed-{i}"), seed).unwrap();
            }
            std::process::exit(0);
        }
        let place = Place::open();
        place.warm();
        let campaign = Campaign { kind, place, inputs: 0, accepted: 0, peak: 0, longest: Duration::ZERO, says: std::env::var_os("LMSCOPE_SAY").is_some() };
        CAMPAIGN.with(|at| *at.borrow_mut() = Some(campaign));
    },
    |bytes: &[u8]| {
        CAMPAIGN.with(|at| {
            let mut at = at.borrow_mut();
            let campaign = at.as_mut().unwrap();
            let read = kinds::read(campaign.kind, &campaign.place, bytes);
            let read = read.unwrap_or_else(|wrong| panic!("{wrong}"));
            campaign.inputs += 1;
            campaign.accepted += u64::from(read.refused.is_none());
            if let (Some(said), true) = (&read.refused, campaign.says) {
                eprintln!("{said}");
            }
            campaign.peak = campaign.peak.max(read.peak);
            campaign.longest = campaign.longest.max(read.took);
        });
    }
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut rng = StdRng::seed_from_u64(u64::from(seed));
    // Half of them as libFuzzer does it, half by the form of the kind.
    if rng.random_bool(0.5) {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut bytes = data[..size].to_vec();
    kind().form.damage(&mut bytes, &mut rng);
    let length = bytes.len().min(max_size).max(1);
    bytes.resize(length, b' ');
    data[..length].copy_from_slice(&bytes);
    length
});
