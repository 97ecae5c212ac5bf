//! Which devices a flag names: `auto`, `cpu`, `metal`, `cuda:1`, `cuda:0-3`, `cuda:0,2`, and logical ones of a CPU, `cpu:0-3`.
//!
//! Invariant: what is named is there, each device once and all of one kind, or it is refused with what can be named. Logical CPU devices
//! share the machine's memory and make nothing faster: they take the way that several GPUs take, on a machine that has none. To add a
//! kind of device, add an arm in `open`.

use std::ops::RangeInclusive;

use candle_core::Device;

use super::network::placement::NamedDevice;
use crate::error::{Error, Result};

/// The most devices of one model.
const MOST: usize = 64;

/// What can be named.
const EXPECTED: &str = "auto, cpu, cuda:N or metal; several as cuda:0-3 or cuda:0,2, each once and all of one kind (cpu:0-3 are logical devices of one CPU, to try it)";

/// The devices of a flag; `auto` chooses an accelerator if this build supports one and it works.
///
/// # Errors
///
/// When it is no list of devices, or one of them is not there.
pub fn parse(given: &str) -> Result<Vec<NamedDevice>> {
    let wrong = || Error::argument("--device", given, EXPECTED);
    let (kind, numbers) = match given.split_once(':') {
        None => (given, Vec::new()),
        Some((kind, list)) => (kind, numbers(kind, list).ok_or_else(wrong)?),
    };
    let mut once = numbers.clone();
    once.sort_unstable();
    once.dedup();
    let several = numbers.len() > 1;
    if once.len() != numbers.len() || several && !matches!(kind, "cpu" | "cuda") {
        return Err(wrong());
    }
    if !several {
        return Ok(vec![open(
            kind,
            numbers.first().copied().unwrap_or(0),
            given,
        )?]);
    }
    let named = numbers.into_iter().map(|number| {
        let name = format!("{kind}:{number}");
        let NamedDevice { device, .. } = open(kind, number, &name)?;
        Ok(NamedDevice { name, device })
    });
    named.collect()
}

/// The numbers of a list such as `0-3,6`, whose later parts may repeat the kind; none if it is no such list.
fn numbers(kind: &str, list: &str) -> Option<Vec<usize>> {
    let mut out = Vec::new();
    for part in list.split(',') {
        let part = match part.split_once(':') {
            Some((again, part)) if again == kind => part,
            Some(_) => return None,
            None => part,
        };
        let range: RangeInclusive<usize> = match part.split_once('-') {
            Some((from, to)) => from.parse().ok()?..=to.parse().ok()?,
            None => part.parse().ok().map(|number| number..=number)?,
        };
        if range.is_empty() || range.end() - range.start() >= MOST || out.len() >= MOST {
            return None;
        }
        out.extend(range);
    }
    Some(out)
}

fn open(kind: &str, number: usize, given: &str) -> Result<NamedDevice> {
    let refuse = |why: &str| Error::Device {
        device: given.to_string(),
        why: why.to_string(),
    };
    let device = match kind {
        "auto" => accelerator(0).unwrap_or(Device::Cpu),
        "cpu" => Device::Cpu,
        "cuda" if !cfg!(feature = "cuda") => {
            return Err(refuse("this build has no CUDA (feature `cuda`)"));
        }
        "metal" if !cfg!(feature = "metal") => {
            return Err(refuse("this build has no Metal (feature `metal`)"));
        }
        "cuda" | "metal" => accelerator(number).ok_or_else(|| refuse("it does not answer"))?,
        _ => return Err(Error::argument("--device", given, EXPECTED)),
    };
    let name = match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { .. } => "metal".into(),
    };
    Ok(NamedDevice { name, device })
}

fn accelerator(number: usize) -> Option<Device> {
    if cfg!(feature = "cuda") {
        Device::new_cuda(number).ok()
    } else if cfg!(feature = "metal") {
        Device::new_metal(number).ok()
    } else {
        None
    }
}

/// Devices as a flag spells them: `cuda:0-3` for those that follow each other.
pub fn spelled(devices: &[NamedDevice]) -> String {
    let parts: Vec<(&str, Option<usize>)> = devices
        .iter()
        .map(|device| match device.name.split_once(':') {
            Some((kind, number)) => (kind, number.parse().ok()),
            None => (device.name.as_str(), None),
        })
        .collect();
    let (Some((kind, Some(first))), [.., (_, Some(last))]) = (parts.first(), parts.as_slice())
    else {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        return names.join(",");
    };
    let follow = parts
        .windows(2)
        .all(|pair| pair[1].1 == pair[0].1.map(|number| number + 1));
    if parts.len() == 1 {
        format!("{kind}:{first}")
    } else if follow {
        format!("{kind}:{first}-{last}")
    } else {
        let numbers = parts.iter().filter_map(|(_, number)| *number);
        let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
        format!("{kind}:{}", numbers.join(","))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_spelled() {
        for (given, names, again) in [
            ("cpu", &["cpu"][..], "cpu"),
            ("cpu:0", &["cpu"], "cpu"),
            ("cpu:0-2", &["cpu:0", "cpu:1", "cpu:2"], "cpu:0-2"),
            ("cpu:0,cpu:2", &["cpu:0", "cpu:2"], "cpu:0,2"),
            ("cpu:3,1", &["cpu:3", "cpu:1"], "cpu:3,1"),
            ("cpu:0-1,2", &["cpu:0", "cpu:1", "cpu:2"], "cpu:0-2"),
        ] {
            let devices = parse(given).unwrap();
            let found: Vec<&str> = devices.iter().map(|d| d.name.as_str()).collect();
            assert_eq!(found, names, "{given}");
            assert_eq!(spelled(&devices), again);
        }
    }

    #[test]
    fn what_is_no_list_of_devices_is_refused() {
        for given in [
            "cpu:",
            "cpu:x",
            "cpu:2-1",
            "cpu:0,0",
            "cpu:0-1,1",
            "cpu:0,cuda:1",
            "cpu:0-99999999",
            "metal:0-1",
            "auto:0-1",
            "abacus",
            "cpu:0-",
            "cpu:-1",
        ] {
            let error = parse(given).unwrap_err().to_string();
            assert!(
                error.contains("cuda:0-3") && error.contains("logical"),
                "{given}: {error}"
            );
        }
    }
}
