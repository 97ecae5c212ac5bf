//! Automatic circuit discovery, ACDC (Conmy et al. 2023, 2304.14997, section 3): edges are tried one after the other, from the logits down,
//! and removed for good where that takes less than a threshold from the metric.
//!
//! Receivers are visited in the order opposite to that in which they read, and of each the latest sender first. A trial goes on from the run
//! under the edges that are left, so that below the receiver's block, and wherever nothing has changed, nothing is computed again. An edge into
//! what leads nowhere any more, or from what is as in the corrupted run, is removed without a trial: it changes nothing.
//! Invariant: what is left loses at most the threshold times the number of removed edges, and every edge that is left costs at least the threshold in the circuit as it was when it was tried.

use std::sync::Arc;

use super::task::CircuitTask;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::circuit::edges::EdgeSet;
use crate::lab::circuit::states::SenderChanges;

/// What ACDC came to.
#[derive(Clone, Debug)]
pub struct Discovered {
    pub edges: EdgeSet,
    /// What each edge that is left took from the metric when it was tried, by edge; zero for others.
    pub losses: Vec<f64>,
    /// How many edges were tried.
    pub trials: usize,
    /// How many candidates there were.
    pub candidates: usize,
}

/// Removes edges of a candidate circuit that take less than `threshold` from the metric, in its unit. `tried` has what each edge took that
/// was tried before, none for the others; it grows with the work, so that work that was stopped goes on from it.
///
/// # Errors
///
/// When the work is stopped.
pub fn discover(
    lab: &mut Lab,
    task: &CircuitTask,
    candidates: &EdgeSet,
    threshold: f64,
    tried: &mut [Option<f64>],
) -> Result<Discovered> {
    let graph = &task.graph;
    let mut left = candidates.connected(graph);
    let mut losses = vec![0.0; graph.edges()];
    let (mut trials, mut seen) = (0, 0);
    for (edge, loss) in tried.iter().enumerate() {
        match loss {
            Some(loss) if *loss < threshold => left.set(edge, false),
            Some(loss) => losses[edge] = *loss,
            None => continue,
        }
        seen += 1;
    }
    let mut left = Arc::new(left);
    let all = (candidates.connected(graph).len()).max(1) as f32;
    let (mut metric, mut states) =
        lab.without_progress(|lab| task.under(lab, &left, None, true))?;
    for number in (0..graph.receivers()).rev() {
        let receiver = graph.receiver(number);
        // What comes later has been tried, so that this is decided.
        let leads = left.receivers_that_lead(graph)[number];
        for edge in graph.into_receiver(receiver).rev() {
            if !left.contains(edge) || tried[edge].is_some() {
                continue;
            }
            seen += 1;
            lab.report((seen as f32 / all).min(1.0))?;
            let mut less = (*left).clone();
            less.set(edge, false);
            let (from, _) = graph.ends(edge);
            let sender = graph.sender_number(from);
            let still = states.iter().all(|state| state.by_sender[sender].is_none());
            let less = Arc::new(less);
            if still || !leads {
                states = under_other(&states, &less);
                left = less;
                tried[edge] = Some(0.0);
                continue;
            }
            trials += 1;
            let (own, changed) =
                lab.without_progress(|lab| task.under(lab, &less, Some(&states), true))?;
            let loss = task.loss(metric, own);
            tried[edge] = Some(loss);
            if loss < threshold {
                (left, metric, states) = (less, own, changed);
            } else {
                losses[edge] = loss;
            }
        }
    }
    let edges = left.connected(graph);
    Ok(Discovered {
        edges,
        losses,
        trials,
        candidates: candidates.len(),
    })
}

/// The same values under a circuit that gives them as well.
fn under_other(states: &[Arc<SenderChanges>], edges: &Arc<EdgeSet>) -> Vec<Arc<SenderChanges>> {
    let own = states.iter().map(|state| {
        Arc::new(SenderChanges {
            edges: edges.clone(),
            by_sender: state.by_sender.clone(),
        })
    });
    own.collect()
}
