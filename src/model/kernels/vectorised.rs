//! Code that is written once for any lanes and compiled for every machine.
//!
//! Invariant: code compiled for certain instructions runs only with a [`Processor`] that has them.
//! To add work, implement [`Vectorised`]; all functions that its `run` calls must be `#[inline(always)]`.

use super::lanes::Lanes;
use super::machine::{Instructions, Processor};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::plain::Plain;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// Work on lanes.
pub(super) trait Vectorised: Sized {
    /// # Safety
    ///
    /// The machine has the instructions of `S`.
    #[allow(unsafe_code)]
    unsafe fn run<S: Lanes>(self);
}

/// Does the work with the instructions of a processor.
pub(super) fn run<W: Vectorised>(on: Processor, work: W) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2<W: Vectorised>(work: W) {
        // SAFETY: these features are those of the lanes.
        #[allow(unsafe_code)]
        unsafe {
            work.run::<Avx2>();
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512vnni")]
    fn avx512<W: Vectorised>(work: W) {
        // SAFETY: these features are those of the lanes.
        #[allow(unsafe_code)]
        unsafe {
            work.run::<Avx512>();
        }
    }
    // SAFETY: only `Processor::all` makes a processor, of instructions that the machine has.
    #[allow(unsafe_code)]
    unsafe {
        match on.0 {
            Instructions::Plain => work.run::<Plain>(),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => avx2(work),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => avx512(work),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => work.run::<Neon>(),
        }
    }
}
