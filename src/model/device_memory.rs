//! Memory over several devices: how many blocks go to each, and whether each device's share fits.
//!
//! Invariant: a share is counted by the arithmetic of [`super::memory`]: the blocks, with keys and values beside them; on the first device
//! the embedding, on the last the unembedding, which is a second matrix where one device would share it. Logical CPU devices share one
//! memory, so what counts there is the sum. To count something else for a device, see [`BlocksOverDevices::shares`].

use std::ops::Range;

use super::memory::{MemoryNeed, available, end_bytes, need, trunk_bytes};
use super::network::blueprint::Blueprint;
use super::network::linear::Precision;
use super::network::placement::{NamedDevice, Placement, evenly};
use crate::error::{Error, Result};
use crate::text::size;

/// A model that is about to be put on several devices.
#[derive(Clone, Copy, Debug)]
pub struct BlocksOverDevices<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    pub blueprint: &'a Blueprint,
    pub precision: Precision,
    pub context: usize,
    /// The size of the tensors in their file, in bytes, if they stay as they are.
    pub stored: Option<u64>,
}

/// What one device gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceShare {
    pub device: String,
    pub blocks: Range<usize>,
    pub need: MemoryNeed,
    /// Its free memory, in bytes; none if it is unknown or shared with the other devices.
    pub free: Option<u64>,
}

impl BlocksOverDevices<'_> {
    /// Puts the blocks on devices: so many on each as `split` says or, where it says nothing, in proportion to the devices' free memory;
    /// evenly where that is unknown or shared. Refuses what does not fit a device.
    ///
    /// # Errors
    ///
    /// When there are more devices than blocks, the split does not fit, or a device is too small for its share.
    pub fn place(
        &self,
        devices: Vec<NamedDevice>,
        split: &[usize],
    ) -> Result<(Placement, Vec<DeviceShare>)> {
        let blocks = self.blueprint.layers.len();
        if devices.len() > blocks {
            let given = super::devices::spelled(&devices);
            let expected = format!(
                "at most {blocks} devices, because {} has {blocks} blocks and every device takes at least one",
                self.name
            );
            return Err(Error::argument("--device", given, expected));
        }
        let frees: Vec<Option<u64>> = devices.iter().map(free).collect();
        let counts = match split {
            [] => self.counts(&frees),
            given => given.to_vec(),
        };
        let placement = Placement::split(devices, &counts, blocks)?;
        let shares = self.shares(&placement, &frees);
        for share in &shares {
            self.check(share)?;
        }
        Ok((placement, shares))
    }

    /// Blocks in proportion to free memory, the matrices at the ends counted; evenly where it is unknown.
    fn counts(&self, frees: &[Option<u64>]) -> Vec<usize> {
        let blocks = self.blueprint.layers.len();
        let known: Option<Vec<u64>> = frees.iter().copied().collect();
        let Some(known) = known.filter(|known| known.iter().sum::<u64>() > 0) else {
            return evenly(blocks, frees.len());
        };
        let (end, block) = (self.end() as f64, self.block() as f64);
        let free: f64 = known.iter().map(|free| *free as f64).sum();
        let whole = 2.0 * end + blocks as f64 * block;
        let last = known.len() - 1;
        // Every device has one block; the others go one by one to the device that is emptiest for its size.
        let mut counts = vec![1; known.len()];
        for _ in known.len()..blocks {
            let left = |number: usize| {
                let ends = usize::from(number == 0) + usize::from(number == last);
                let taken = counts[number] as f64 * block + ends as f64 * end;
                known[number] as f64 / free - taken / whole
            };
            let next = (0..known.len()).max_by(|a, b| left(*a).total_cmp(&left(*b)));
            counts[next.unwrap_or(last)] += 1;
        }
        counts
    }

    /// The bytes of the embedding, and of the unembedding.
    fn end(&self) -> u64 {
        end_bytes(self.blueprint, self.precision)
    }

    /// The bytes of a block's weights, and of its keys and values.
    fn block(&self) -> u64 {
        let whole = self.whole();
        let ends = if self.blueprint.tied { 1 } else { 2 };
        let blocks = whole.weights.saturating_sub(ends * self.end()) + whole.cache;
        blocks / self.blueprint.layers.len().max(1) as u64
    }

    fn whole(&self) -> MemoryNeed {
        need(self.blueprint, self.precision, self.context, self.stored)
    }

    /// What each device needs.
    fn shares(&self, placement: &Placement, frees: &[Option<u64>]) -> Vec<DeviceShare> {
        let whole = self.whole();
        let counts = placement.counts();
        let (blocks, last) = (self.blueprint.layers.len().max(1) as u64, counts.len() - 1);
        let cache = whole.cache / blocks;
        let mut first = 0;
        let each = placement.devices().iter().zip(counts).enumerate();
        each.map(|(number, (device, count))| {
            let ends = u64::from(number == 0) + u64::from(number == last);
            let own = first..first + count;
            first = own.end;
            DeviceShare {
                device: device.name.clone(),
                blocks: own,
                need: MemoryNeed {
                    weights: count as u64 * (self.block() - cache) + ends * self.end(),
                    cache: count as u64 * cache,
                    pass: if number == last {
                        whole.pass
                    } else {
                        trunk_bytes(self.blueprint, self.precision, self.context)
                    },
                    loading: whole.loading,
                    program: if number == 0 { whole.program } else { 0 },
                },
                free: frees[number],
            }
        })
        .collect()
    }

    fn check(&self, share: &DeviceShare) -> Result<()> {
        let total = share.need.total();
        let Some(free) = share.free.filter(|free| total > *free) else {
            return Ok(());
        };
        let (first, last) = (share.blocks.start, share.blocks.end - 1);
        Err(Error::TooLarge {
            name: format!(
                "{}, blocks {first} to {last} on {}",
                self.name, share.device
            ),
            need: format!("{} in {}", size(total), self.precision.name()),
            free: size(free),
            next: "Give that device fewer blocks (--split), or name another one (--device)".into(),
        })
    }
}

/// The free memory that a device has for itself.
fn free(device: &NamedDevice) -> Option<u64> {
    if device.device.is_cpu() {
        return None;
    }
    available(&device.device)
}

/// What shares come to, in a sentence: `blocks 0 to 14 are on cpu:0 (about 300 MB), ...`.
pub fn sentence(shares: &[DeviceShare]) -> String {
    let each = shares.iter().map(|share| {
        let (first, last) = (share.blocks.start, share.blocks.end - 1);
        let blocks = if first == last {
            format!("block {first} on")
        } else {
            format!("blocks {first} to {last} on")
        };
        format!(
            "{blocks} {} (about {})",
            share.device,
            size(share.need.total())
        )
    });
    let each: Vec<String> = each.collect();
    format!(
        "the model is on {} devices: {}; the embedding is on the first, the unembedding on the last.",
        shares.len(),
        each.join(", ")
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::network::families::FAMILIES;
    use crate::model::network::placement::tests::cpus;
    use candle_core::DType;

    fn blueprint(blocks: usize, vocab: usize) -> Blueprint {
        let family = FAMILIES.iter().find(|f| f.name == "llama").unwrap();
        let mut config = (family.tiny)();
        config["num_hidden_layers"] = blocks.into();
        config["vocab_size"] = vocab.into();
        (family.blueprint)(&config).unwrap()
    }

    fn over(b: &Blueprint) -> BlocksOverDevices<'_> {
        BlocksOverDevices {
            name: "a model",
            blueprint: b,
            precision: Precision::Dense(DType::F32),
            context: 64,
            stored: None,
        }
    }

    #[test]
    fn larger_devices_get_more_blocks_and_the_ends_count() {
        let b = blueprint(30, 61);
        let gb = |n: u64| Some(n << 30);
        assert_eq!(over(&b).counts(&[gb(1), gb(1), gb(1)]), [10, 10, 10]);
        let uneven = over(&b).counts(&[gb(1), gb(4)]);
        assert!(
            (5..=7).contains(&uneven[0]) && uneven.iter().sum::<usize>() == 30,
            "{uneven:?}"
        );
        // An unembedding as large as ten blocks.
        let vocab = 10 * over(&b).block() as usize / (4 * b.d_embed);
        let b = blueprint(30, vocab);
        let heavy = over(&b).counts(&[gb(1), gb(1), gb(1)]);
        assert!(
            heavy[1] > heavy[0] + 8 && heavy[1] > heavy[2] + 8,
            "{heavy:?}"
        );
        assert_eq!(
            over(&b).counts(&[None, gb(1), gb(1)]),
            [10, 10, 10],
            "unknown"
        );
    }

    #[test]
    fn shares_are_the_whole_and_each_is_held_against_its_device() {
        let b = blueprint(6, 5000);
        let (placement, shares) = over(&b).place(cpus(3), &[1, 3, 2]).unwrap();
        let whole = over(&b).whole();
        let weights: u64 = shares.iter().map(|share| share.need.weights).sum();
        let cache: u64 = shares.iter().map(|share| share.need.cache).sum();
        assert!(
            weights.abs_diff(whole.weights) < 64,
            "{weights} {}",
            whole.weights
        );
        assert!(cache.abs_diff(whole.cache) < 64);
        assert!(
            shares[2].need.pass > shares[1].need.pass,
            "the vocabulary is read on the last"
        );
        let blocks: Vec<_> = shares.iter().map(|share| share.blocks.clone()).collect();
        assert_eq!(blocks, [0..1, 1..4, 4..6]);
        let tight: Vec<Option<u64>> = shares.iter().map(|s| Some(s.need.total())).collect();
        let fits = over(&b).shares(&placement, &tight);
        assert!(fits.iter().all(|share| over(&b).check(share).is_ok()));
        let less: Vec<Option<u64>> = tight.iter().map(|free| free.map(|free| free - 1)).collect();
        let error = over(&b)
            .check(&over(&b).shares(&placement, &less)[1])
            .unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("blocks 1 to 3 on cpu:1") && error.contains("--split"),
            "{error}"
        );
        let many = over(&b).place(cpus(7), &[]).unwrap_err().to_string();
        assert!(many.contains("at most 6 devices"), "{many}");
    }
}
