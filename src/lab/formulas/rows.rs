//! The arithmetic that edit formulas use, on one row of f32 on the CPU.
//!
//! Invariant: sums are in f64, no memory is allocated, and values that a formula does not change are not written.
//! To add a method, see [`super::HiddenState`].

use super::{HiddenState, Numbers, RowNumber};

/// The value at one position.
pub(crate) struct HostRow<'a> {
    /// `[width]`.
    pub(crate) x: &'a mut [f32],
    pub(crate) position: usize,
    /// The post-activation values of the layer's neurons at that position, `[d_mlp]`; empty unless the operation is an overlay.
    pub(crate) neurons: &'a [f32],
}

impl RowNumber for f64 {
    fn within(self, low: f64, high: f64) -> Self {
        self.clamp(low, high)
    }
}

impl HiddenState for HostRow<'_> {
    type Number = f64;

    fn number(&self, number: f64) -> f64 {
        number
    }

    fn dot(&self, v: &Numbers<f32>) -> f64 {
        dot(self.x, &v.host)
    }

    fn length(&self) -> f64 {
        length(self.x)
    }

    fn add(&mut self, n: f64, v: &Numbers<f32>) {
        if n != 0.0 {
            add(self.x, &v.host, n as f32);
        }
    }

    fn turn(&mut self, n: f64, from: &Numbers<f32>, to: &Numbers<f32>) {
        for ((x, s), t) in self.x.iter_mut().zip(&from.host).zip(&to.host) {
            *x += n as f32 * (t - s);
        }
    }

    fn stretch(&mut self, n: f64) {
        self.x.iter_mut().for_each(|x| *x *= n as f32);
    }

    fn scale(&mut self, mask: &Numbers<u8>, factor: f64) {
        let units = self.x.iter_mut().zip(&mask.host).filter(|(_, m)| **m != 0);
        units.for_each(|(x, _)| *x *= factor as f32);
    }

    fn towards(&mut self, mask: &Numbers<u8>, target: &Numbers<f32>, c: f64) {
        let width = self.x.len();
        let last = (target.host.len() / width.max(1)).saturating_sub(1);
        let target = &target.host[self.position.min(last) * width..][..width];
        for ((x, target), chosen) in self.x.iter_mut().zip(target).zip(&mask.host) {
            #[allow(clippy::float_cmp)] // exactly full strength
            if *chosen != 0 && c == 1.0 {
                *x = *target;
            } else if *chosen != 0 {
                *x += (f64::from(target - *x) * c) as f32;
            }
        }
    }

    fn overlay(&mut self, units: &[u32], deltas: &Numbers<f32>) {
        let rows = deltas.host.chunks_exact(self.x.len());
        for (unit, delta) in units.iter().zip(rows) {
            let act = self.neurons.get(*unit as usize).copied();
            add(self.x, delta, act.unwrap_or(0.0));
        }
    }
}

/// `x += factor·v`.
fn add(x: &mut [f32], v: &[f32], factor: f32) {
    x.iter_mut().zip(v).for_each(|(x, v)| *x += factor * v);
}

/// `x·v`, in four independent partial sums.
fn dot(x: &[f32], v: &[f32]) -> f64 {
    let mut lanes = [0f64; 4];
    let (xs, vs) = (x.chunks_exact(4), v.chunks_exact(4));
    let rest = xs.remainder().iter().zip(vs.remainder());
    let rest: f64 = rest.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (x, v) in xs.zip(vs) {
        for i in 0..4 {
            lanes[i] += f64::from(x[i]) * f64::from(v[i]);
        }
    }
    rest + lanes.iter().sum::<f64>()
}

/// The norm `‖x‖`.
pub(crate) fn length(x: &[f32]) -> f64 {
    dot(x, x).sqrt()
}
