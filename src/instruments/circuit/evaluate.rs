//! How much of a behaviour a circuit keeps, beside random circuits of the same size.
//!
//! Faithfulness is the share of the metric that is left when every edge outside the circuit has the corrupted run's value, or a mean; completeness the
//! share that is left when the circuit's own edges have it (Wang et al. 2022, 2211.00593, section 4; Hanna et al. 2024, 2403.17806, section 4). Both are normalised: 0 is
//! the metric without any edge, 1 that of the clean runs. Invariant: a control circuit has as many edges into each block as the circuit that it stands beside.

use super::task::{Outside, mean};
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::circuit::edges::EdgeSet;
use crate::lab::circuit::graph::CircuitGraph;
use crate::lab::draws::draw_seed;

/// What a circuit keeps.
#[derive(Clone, Debug)]
pub struct Evaluated {
    pub edges: usize,
    /// The mean metric under the circuit.
    pub metric: f64,
    /// The share that is left under the circuit.
    pub faithfulness: f64,
    /// Between which shares it lies with 95 %, where other pairs of texts are drawn; none of one or two pairs.
    pub interval: Option<(f64, f64)>,
    /// The share that is left under everything but the circuit.
    pub without: f64,
    /// The faithfulness of random circuits.
    pub random: Vec<f64>,
}

impl Evaluated {
    /// The least and the greatest faithfulness of the random circuits.
    pub fn band(&self) -> (f64, f64) {
        let least = self.random.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self
            .random
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    }
}

/// Evaluates circuits, each beside `controls` random ones.
///
/// # Errors
///
/// When the work is stopped.
pub fn evaluate(
    lab: &mut Lab,
    outside: &Outside,
    circuits: &[EdgeSet],
    controls: usize,
    seed: u64,
) -> Result<Vec<Evaluated>> {
    let whole = (circuits.len() * (controls + 2)).max(1) as f32;
    let mut done = 0;
    let mut share = |lab: &mut Lab, edges: EdgeSet| {
        let part = done as f32 / whole..(done + 1) as f32 / whole;
        done += 1;
        lab.report(part.start)?;
        lab.part(part, |lab| outside.each(lab, &edges))
    };
    let mut out = Vec::with_capacity(circuits.len());
    for circuit in circuits {
        let each = share(lab, circuit.clone())?;
        let metric = mean(&each);
        let without = outside.share(mean(&share(lab, circuit.complement())?));
        let mut random = Vec::with_capacity(controls);
        for control in 0..controls {
            let seed = draw_seed(seed, control);
            let other = share(lab, circuit.random_like(&outside.task.graph, seed))?;
            random.push(outside.share(mean(&other)));
        }
        out.push(Evaluated {
            edges: circuit.len(),
            metric,
            faithfulness: outside.share(metric),
            interval: outside.interval(&each, seed),
            without,
            random,
        });
    }
    Ok(out)
}

/// The circuit sizes of a curve up to a budget and beyond: a few to all edges, each about the same factor larger.
pub fn sizes(graph: &CircuitGraph, budget: usize, points: usize) -> Vec<usize> {
    let all = graph.edges() as f64;
    let first = (all * 0.002).max(4.0).min(budget.max(1) as f64);
    let step = |i: usize| first * (all / first).powf(i as f64 / (points.max(2) - 1) as f64);
    let mut sizes: Vec<usize> = (0..points).map(|i| step(i).round() as usize).collect();
    sizes.push(budget);
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_with_all_edges_and_has_the_budget() {
        let graph = CircuitGraph {
            layers: 4,
            heads: 3,
            kv_heads: 3,
            parallel: false,
        };
        let sizes = sizes(&graph, 30, 8);
        assert!(sizes.contains(&30) && sizes.last() == Some(&graph.edges()));
        assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
