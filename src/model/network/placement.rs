//! Where the parts of a model lie: blocks over several devices, in their order.
//!
//! The embedding is with the first block; the final norm and the unembedding are with the last, and that device is the model's home.
//! Invariant: in a pass the stream goes from device to device by [`Placement::cross`] alone, and what a tap records comes home by
//! [`Placement::bring_home`]: both are counted ([`crate::model::host::Crossings`]). Keys and values stay with their block. Places of
//! one device are told apart by their number alone, so logical ones (`cpu:0-3`) take the same way as real ones.

use candle_core::{Device, Tensor};

use super::site::{Address, Site};
use crate::error::{Error, Result};
use crate::model::host;

/// A device with its name, as flags write it.
#[derive(Clone, Debug)]
pub struct NamedDevice {
    /// `cpu`, `cuda:1`, `metal`; of logical ones `cpu:0`.
    pub name: String,
    pub device: Device,
}

/// Which blocks are on which device.
#[derive(Clone, Debug)]
pub struct Placement {
    devices: Vec<NamedDevice>,
    /// By block, the number of its device.
    of_block: Vec<usize>,
}

impl Placement {
    /// A model on one device.
    pub fn whole(device: NamedDevice, blocks: usize) -> Self {
        Self {
            devices: vec![device],
            of_block: vec![0; blocks],
        }
    }

    /// So many blocks on each device, in their order.
    ///
    /// # Errors
    ///
    /// When they are not the model's blocks, or a device has none.
    pub fn split(devices: Vec<NamedDevice>, counts: &[usize], blocks: usize) -> Result<Self> {
        let given = || {
            let words: Vec<String> = counts.iter().map(ToString::to_string).collect();
            words.join(",")
        };
        if counts.len() != devices.len() {
            let many = devices.len();
            let expected = format!(
                "{many} numbers, one for each device of --device, such as {}",
                example(blocks, many)
            );
            return Err(Error::argument("--split", given(), expected));
        }
        let total = counts
            .iter()
            .fold(0usize, |all, own| all.saturating_add(*own));
        if total != blocks || counts.contains(&0) {
            let expected = format!(
                "{} numbers above 0 that add up to the model's {blocks} blocks (these add up to {total}), such as {}",
                counts.len(),
                example(blocks, counts.len())
            );
            return Err(Error::argument("--split", given(), expected));
        }
        let of_block = counts.iter().enumerate();
        let of_block = of_block.flat_map(|(number, count)| vec![number; *count]);
        Ok(Self {
            of_block: of_block.collect(),
            devices,
        })
    }

    /// The devices, in the order of the blocks.
    pub fn devices(&self) -> &[NamedDevice] {
        &self.devices
    }

    /// How many blocks each device has.
    pub fn counts(&self) -> Vec<usize> {
        let own = |number| self.of_block.iter().filter(|at| **at == number).count();
        (0..self.devices.len()).map(own).collect()
    }

    /// The number of a block's device; of one behind the last block, that of the last device.
    pub fn of(&self, block: usize) -> usize {
        self.of_block.get(block).copied().unwrap_or(self.last())
    }

    /// The device of a block.
    pub fn device(&self, block: usize) -> &Device {
        &self.devices[self.of(block)].device
    }

    /// The number of the device that a value is computed on.
    pub fn at(&self, at: Address) -> usize {
        match at.site {
            Site::Embed => 0,
            Site::FinalNorm | Site::LogitsRaw | Site::Logits => self.last(),
            Site::ResidPre
            | Site::AttnIn
            | Site::Q
            | Site::K
            | Site::V
            | Site::AttnScores
            | Site::AttnProbs
            | Site::Z
            | Site::AttnOut
            | Site::AttnAdd
            | Site::ResidMid
            | Site::MlpNormed
            | Site::MlpIn
            | Site::MlpGate
            | Site::MlpUp
            | Site::MlpAct
            | Site::Router
            | Site::MlpOut
            | Site::MlpAdd
            | Site::ResidPost => self.of(usize::from(at.layer)),
        }
    }

    /// The device that a value is computed on.
    pub fn device_at(&self, at: Address) -> &Device {
        &self.devices[self.at(at)].device
    }

    fn last(&self) -> usize {
        self.devices.len().saturating_sub(1)
    }

    /// A tensor of one device on another, by their numbers; itself where they are one.
    pub fn cross(&self, x: &Tensor, from: usize, to: usize) -> Result<Tensor> {
        if from == to {
            return Ok(x.clone());
        }
        Ok(host::across(x, &self.devices[to].device)?)
    }

    /// What was taken at an address, where the model's output is.
    pub fn bring_home(&self, at: Address, x: &Tensor) -> Result<Tensor> {
        self.cross(x, self.at(at), self.last())
    }
}

/// Blocks evenly over devices.
pub fn evenly(blocks: usize, devices: usize) -> Vec<usize> {
    let devices = devices.max(1);
    // Devices at the ends have the embedding and the unembedding as well: what is left over goes to the first ones but one.
    let (each, over) = (blocks / devices, blocks % devices);
    let place = |number: usize| (number + devices - 1) % devices;
    let own = |number: usize| each + usize::from(place(number) < over);
    (0..devices).map(own).collect()
}

fn example(blocks: usize, devices: usize) -> String {
    let words: Vec<String> = evenly(blocks, devices)
        .iter()
        .map(ToString::to_string)
        .collect();
    words.join(",")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// Logical devices of the CPU.
    pub(crate) fn cpus(count: usize) -> Vec<NamedDevice> {
        let one = |number| NamedDevice {
            name: format!("cpu:{number}"),
            device: Device::Cpu,
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn every_block_has_a_device_and_the_ends_have_theirs() {
        let place = Placement::split(cpus(3), &[2, 1, 4], 7).unwrap();
        assert_eq!(place.counts(), [2, 1, 4]);
        let of: Vec<usize> = (0..7).map(|block| place.of(block)).collect();
        assert_eq!(of, [0, 0, 1, 2, 2, 2, 2]);
        assert_eq!(place.at(Site::Embed.at(0)), 0);
        assert_eq!(place.at(Site::ResidPost.at(2)), 1);
        assert_eq!(place.at(Site::Logits.at(0)), 2);
    }

    #[test]
    fn a_split_that_does_not_fit_is_refused_with_one_that_does() {
        for counts in [&[3, 3][..], &[usize::MAX, 8], &[7], &[7, 0], &[2, 2, 3]] {
            let error = Placement::split(cpus(2), counts, 7)
                .unwrap_err()
                .to_string();
            assert!(error.contains("such as 3,4"), "{error}");
        }
        for devices in 1..9 {
            let even = evenly(31, devices);
            assert_eq!(even.iter().sum::<usize>(), 31);
            let (least, most) = (even.iter().min().unwrap(), even.iter().max().unwrap());
            assert!(most - least <= 1, "{even:?}");
        }
    }
}
