//! Formulas on one row of f32, for a CPU.
//!
//! Invariant: sums are in f64, no memory is allocated but for an `icv` step, and what is not moved is not written.
//! To add a formula, see [`super`].

use super::Change;

impl Change {
    /// Changes the value of one position, `[width]`. `act` is what the neurons of the layer were there, `[d_mlp]`.
    pub(crate) fn row(&self, x: &mut [f32], position: usize, act: Option<&[f32]>) {
        match self {
            Self::Add(v) => add(x, &v.host, 1.0),
            Self::AddUnitNorm(v, c) => add(x, &v.host, (length(x) * c) as f32),
            Self::AddRenorm(v) => {
                let before = length(x);
                add(x, &v.host, 1.0);
                let factor = (before / (length(x) + 1e-12)) as f32;
                x.iter_mut().for_each(|x| *x *= factor);
            }
            Self::Icv(v, c) => {
                let size = length(x);
                let shrink = 1.0 / (size + 1e-12);
                let away = (-dot(x, &v.host) * shrink).max(0.0);
                x.iter_mut().for_each(|x| *x *= shrink as f32);
                add(x, &v.host, ((away + 1.0) * c) as f32);
                let factor = (size / (length(x) + 1e-12)) as f32;
                x.iter_mut().for_each(|x| *x *= factor);
            }
            Self::ProjectOut(v, c) => add(x, &v.host, (-dot(x, &v.host) * c) as f32),
            Self::SetAlong(v, value, c) => {
                add(x, &v.host, ((value - dot(x, &v.host)) * c) as f32);
            }
            Self::ClampAlong {
                unit,
                low,
                high,
                strength,
            } => {
                let now = dot(x, &unit.host);
                if !(*low..=*high).contains(&now) {
                    let missing = now.clamp(*low, *high) - now;
                    add(x, &unit.host, (missing * strength) as f32);
                }
            }
            Self::Swap { from, to, strength } => {
                let amount = (dot(x, &from.host) * strength) as f32;
                for ((x, s), t) in x.iter_mut().zip(&from.host).zip(&to.host) {
                    *x += amount * (t - s);
                }
            }
            Self::Towards {
                mask,
                target,
                strength,
            } => {
                let rows = target.host.len() / x.len().max(1);
                let row = position.min(rows.saturating_sub(1));
                let target = &target.host[row * x.len()..][..x.len()];
                let chosen = mask.host.iter().map(|m| *m != 0);
                for ((x, target), chosen) in x.iter_mut().zip(target).zip(chosen) {
                    // At full strength the target itself, not a rounding of it.
                    #[allow(clippy::float_cmp)] // exactly full strength
                    if chosen && *strength == 1.0 {
                        *x = *target;
                    } else if chosen {
                        *x += (f64::from(target - *x) * strength) as f32;
                    }
                }
            }
            Self::Times { mask, factor } => {
                for (x, chosen) in x.iter_mut().zip(&mask.host) {
                    if *chosen != 0 {
                        *x *= *factor as f32;
                    }
                }
            }
            Self::Cut(_) => {}
            Self::Overlay { units, deltas } => {
                let width = x.len();
                let act = act.unwrap_or(&[]);
                for (unit, delta) in units.iter().zip(deltas.host.chunks_exact(width)) {
                    add(x, delta, act.get(*unit as usize).copied().unwrap_or(0.0));
                }
            }
        }
    }
}

/// `x += factor·v`.
fn add(x: &mut [f32], v: &[f32], factor: f32) {
    x.iter_mut().zip(v).for_each(|(x, v)| *x += factor * v);
}

/// `x·v`, in four sums side by side.
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

/// `‖x‖`.
pub(crate) fn length(x: &[f32]) -> f64 {
    dot(x, x).sqrt()
}
