//! Selects the instructions that the kernels use, once.
//!
//! Invariant: a function compiled for certain instructions is called only with a [`Processor`] that has them, and only
//! [`Processor::all`] creates one. To add instructions, implement `Lanes`, and add a variant here and an arm to both `run`s.

use std::sync::OnceLock;

use super::activations::TileSizes;

/// Calls a function over lanes with the instructions of a processor.
macro_rules! with_lanes {
    ($on:expr, $function:ident($($argument:ident: $type:ty),*) $(-> $returned:ty)?) => {{
        use $crate::model::kernels::machine::Instructions;
        #[cfg(target_arch = "x86_64")]
        use $crate::model::kernels::x86::{Avx2, Avx512};
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2($($argument: $type),*) $(-> $returned)? {
            // SAFETY: the caller's machine has what this function is compiled for.
            unsafe { $function::<Avx2>($($argument),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
        unsafe fn avx512($($argument: $type),*) $(-> $returned)? {
            // SAFETY: the caller's machine has what this function is compiled for.
            unsafe { $function::<Avx512>($($argument),*) }
        }
        // SAFETY: a processor has the instructions that it names.
        unsafe {
            match $on.0 {
                Instructions::Plain => $function::<$crate::model::kernels::plain::Plain>($($argument),*),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => avx2($($argument),*),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => avx512($($argument),*),
                #[cfg(target_arch = "aarch64")]
                Instructions::Neon => $function::<$crate::model::kernels::neon::Neon>($($argument),*),
            }
        }
    }};
}
pub(super) use with_lanes;

/// A set of instructions that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor(pub(super) Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instructions {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Processor {
    /// The fastest set of instructions.
    pub fn best() -> Self {
        static BEST: OnceLock<Processor> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().pop().unwrap_or(Self(Instructions::Plain)))
    }

    /// All sets of instructions of this machine, the fastest last.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Instructions::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                all.push(Instructions::Avx2);
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Instructions::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        all.push(Instructions::Neon);
        all.into_iter().map(Self).collect()
    }

    /// How many rows of activations are combined with sixteen rows of weights: many, some, few, or (always possible) one.
    pub(super) fn tiles(self) -> TileSizes {
        match self.0 {
            Instructions::Plain => [1; 3],
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => [4, 2, 1],
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => [12, 6, 3],
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => [4, 2, 1],
        }
    }

    /// The name, as in headers.
    pub fn name(self) -> &'static str {
        match self.0 {
            Instructions::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => "AVX-512",
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => "NEON",
        }
    }
}
