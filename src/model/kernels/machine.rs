//! Which instructions the kernels use, found out once.
//!
//! Invariant: a function compiled for some instructions is called only with a [`Machine`] that has them, and only
//! [`Machine::all`] makes one. To add instructions, implement [`super::lanes::Lanes`] and add a row here.
#![allow(unsafe_code)] // SAFETY of the whole file: the invariant above.

use std::sync::OnceLock;

use super::blocks::{self, Block, Strip};
use super::dense::{self, Element, Part};
#[cfg(target_arch = "aarch64")]
use super::lanes::Neon;
use super::lanes::Plain;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};

/// Instructions that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Machine {
    /// The fastest.
    pub fn best() -> Self {
        static BEST: OnceLock<Machine> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().pop().unwrap_or(Self(Level::Plain)))
    }

    /// All that there are, the fastest last.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Level::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                all.push(Level::Avx2);
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Level::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        all.push(Level::Neon);
        all.into_iter().map(Self).collect()
    }

    /// Rows of activations that go with sixteen rows of weights: many, some, or one.
    pub(super) fn tiles(self) -> [usize; 2] {
        match self.0 {
            Level::Plain => [1, 1],
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => [4, 2],
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => [8, 3],
            #[cfg(target_arch = "aarch64")]
            Level::Neon => [4, 2],
        }
    }

    /// As a header writes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "NEON",
        }
    }
}

/// # Safety
/// As [`blocks::strip`], but for the machine.
pub(super) unsafe fn strip<B: Block>(on: Machine, task: Strip) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<B: Block>(task: Strip) {
        unsafe { blocks::strip::<Avx2, B, 4, 2>(task) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
    unsafe fn avx512<B: Block>(task: Strip) {
        unsafe { blocks::strip::<Avx512, B, 8, 3>(task) }
    }
    unsafe {
        match on.0 {
            Level::Plain => blocks::strip::<Plain, B, 1, 1>(task),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::<B>(task),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::<B>(task),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => blocks::strip::<Neon, B, 4, 2>(task),
        }
    }
}

/// # Safety
/// As [`dense::part`], but for the machine.
pub(super) unsafe fn part<E: Element>(on: Machine, task: Part<E>) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<E: Element>(task: Part<E>) {
        unsafe { dense::part::<Avx2, E, 4, 2, 3, 6>(task) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
    unsafe fn avx512<E: Element>(task: Part<E>) {
        unsafe { dense::part::<Avx512, E, 4, 4, 3, 6>(task) }
    }
    unsafe {
        match on.0 {
            Level::Plain => dense::part::<Plain, E, 1, 1, 1, 1>(task),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::<E>(task),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::<E>(task),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => dense::part::<Neon, E, 8, 4, 3, 6>(task),
        }
    }
}
