//! The one way from tensors to numbers of the host, and from one device to another: what crosses is counted here.
//!
//! Invariant: no other file calls candle's own ways (`to_vec*`, `to_scalar`, `to_device`, a tensor's storage): `clippy.toml` forbids them.
//! A call of one of these functions waits for the device once. The counts are those of the thread, because one thread owns all
//! tensors; `counted_here` carries them home from a pool's thread. To let numbers leave by another way, add it here, with its count.
#![allow(clippy::disallowed_methods)] // this is the place that they are kept for

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::{AddAssign, Deref, Sub};

use candle_core::quantized::QTensor;
use candle_core::{Device, Layout, Result, Storage, Tensor, WithDType};

/// What crossed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossings {
    /// Bytes that became numbers of the host.
    pub bytes: usize,
    /// How often the host waited for a device to give them.
    pub synchronisations: usize,
    /// How often a tensor went from one device to another on the way through a model's blocks.
    pub borders: usize,
    /// Bytes that did.
    pub border_bytes: usize,
}

impl AddAssign for Crossings {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.synchronisations += more.synchronisations;
        self.borders += more.borders;
        self.border_bytes += more.border_bytes;
    }
}

impl Sub for Crossings {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            synchronisations: self.synchronisations - before.synchronisations,
            borders: self.borders - before.borders,
            border_bytes: self.border_bytes - before.border_bytes,
        }
    }
}

thread_local! {
    /// Counts alone: nothing that is computed depends on them.
    static CROSSED: Cell<Crossings> = const {
        Cell::new(Crossings { bytes: 0, synchronisations: 0, borders: 0, border_bytes: 0 })
    };
}

/// What crossed on this thread since it began. The difference of two calls is what the work between them took.
pub fn crossed() -> Crossings {
    CROSSED.get()
}

/// Runs `work` on whatever thread this is, and says what crossed meanwhile, for the thread that waits for it to [`add`].
pub(crate) fn counted_here<R>(work: impl FnOnce() -> R) -> (R, Crossings) {
    let before = CROSSED.replace(Crossings::default());
    let done = work();
    (done, CROSSED.replace(before))
}

/// Adds what crossed on another thread to the counts of this one.
pub(crate) fn add(more: Crossings) {
    let mut all = CROSSED.get();
    all += more;
    CROSSED.set(all);
}

fn read_back(bytes: usize) {
    add(Crossings {
        bytes,
        synchronisations: 1,
        ..Crossings::default()
    });
}

/// What is going to cross, alone: a copy from a device takes the whole storage of which a tensor is a view.
fn alone(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        return Ok(x.clone());
    }
    x.force_contiguous()
}

fn size(x: &Tensor) -> usize {
    x.elem_count() * x.dtype().size_in_bytes()
}

/// Numbers of a tensor, on the host. Each call waits for the device: put what is wanted into one tensor first.
pub trait ToHost {
    /// The number of a scalar.
    fn host_scalar<T: WithDType>(&self) -> Result<T>;
    /// The numbers of a tensor `[n]`.
    fn host_vec1<T: WithDType>(&self) -> Result<Vec<T>>;
    /// The numbers of a tensor `[n, m]`.
    fn host_vec2<T: WithDType>(&self) -> Result<Vec<Vec<T>>>;
    /// The tensor on another device; itself where it is there already.
    fn on_device(&self, device: &Device) -> Result<Tensor>;
}

impl ToHost for Tensor {
    fn host_scalar<T: WithDType>(&self) -> Result<T> {
        read_back(size(self));
        alone(self)?.to_scalar()
    }

    fn host_vec1<T: WithDType>(&self) -> Result<Vec<T>> {
        read_back(size(self));
        alone(self)?.to_vec1()
    }

    fn host_vec2<T: WithDType>(&self) -> Result<Vec<Vec<T>>> {
        read_back(size(self));
        alone(self)?.to_vec2()
    }

    fn on_device(&self, device: &Device) -> Result<Tensor> {
        if self.device().same_device(device) {
            return Ok(self.clone());
        }
        if self.device().is_cpu() {
            return self.to_device(device);
        }
        // Between two devices by way of the host: candle's own copy needs both in one context.
        read_back(size(self));
        alone(self)?.to_device(&Device::Cpu)?.to_device(device)
    }
}

/// A tensor on the device of the next blocks, by way of the host: candle's own copy needs both in one context. Not counted as what the
/// host reads.
pub(crate) fn across(x: &Tensor, device: &Device) -> Result<Tensor> {
    add(Crossings {
        borders: 1,
        border_bytes: size(x),
        ..Crossings::default()
    });
    if x.device().same_device(device) {
        return Ok(x.clone());
    }
    alone(x)?.to_device(&Device::Cpu)?.to_device(device)
}

/// The storage of a tensor, for kernels that compute where it lies: nothing is copied, and on a device it is none of the host's.
pub(crate) fn lent(x: &Tensor) -> (impl Deref<Target = Storage> + '_, &Layout) {
    x.storage_and_layout()
}

/// The bytes of a matrix in blocks.
pub(crate) fn block_bytes(blocks: &QTensor) -> Result<Cow<'_, [u8]>> {
    if !blocks.device().is_cpu() {
        read_back(blocks.storage_size_in_bytes());
    }
    blocks.data()
}
