//! Circuits: which edges of a model carry what one text says and another does not, and how much of it they keep alone.
//!
//! Scores every edge of the model's graph on pairs of a clean and a corrupted text (EAP, EAP-IG), or tries them one by one (ACDC), keeps a few,
//! and always evaluates what is kept: the model with every other edge at the corrupted run's value, and with the circuit's own edges there,
//! beside random circuits of the same size. The graph and a pass under a circuit are in [`crate::lab::circuit`].
//! Invariant: no circuit is shown without its faithfulness, its completeness and its controls. To choose edges in another way, add a word
//! to [`CircuitMethod`] and its arm in `found`.

mod acdc;
pub mod evaluate;
mod figure;
mod graph;
pub mod scores;
pub mod select;
pub mod task;

use std::path::{Path, PathBuf};

pub use acdc::{Discovered, discover};
use evaluate::{Evaluated, evaluate, sizes};
use scores::edge_scores_with;
use select::{EdgeSelection, first};
use task::{CircuitTask, Outside};

use super::pairs::{EdgeCount, Threshold};
use super::params::{Arguments, Count, ParamKind, ParameterValue, Params, choices, params};
use super::{Draft, Measurement, Reads, lines};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::circuit::edges::EdgeSet;
use crate::lab::circuit::file::CircuitFile;
use crate::lab::circuit::means::SenderMeans;
use crate::lab::pairs::{MetricKind, PairSource, measured};
use crate::lab::run::Run;
use crate::model::Fingerprint;

choices! {
    /// How edges are found.
    pub enum CircuitMethod {
        /// Edge attribution patching: the gradient of the clean run.
        Eap = "eap",
        /// With integrated gradients over the embeddings.
        EapIg = "eap-ig",
        /// Edges tried one after the other, among the strongest by EAP-IG.
        Acdc = "acdc",
    }
}

choices! {
    /// What the figure shows.
    pub enum CircuitView { Edges = "edges", Curve = "curve", Graph = "graph" }
}

choices! {
    /// What comes over edges outside a circuit.
    pub enum CircuitOthers {
        /// What the sender writes in the corrupted run.
        Corrupted = "corrupted",
        /// The mean of what it writes over the corrupted runs, as under the edit `only`.
        Mean = "mean",
    }
}

params! {
    /// What `circuit` is asked.
    pub struct CircuitParams {
        /// the corrupted prompt, with as many tokens as the run's own, which is the clean one
        corrupt: Option<String>,
        /// a JSON file of clean and corrupted prompts instead of the run's own text; every number is the mean over the pairs
        pairs: Option<PathBuf>,
        metric: MetricKind,
        /// the clean run's answer, or two answers as " Ann" - " Bob"; by default the top prediction of each run
        answer: Option<String>,
        /// eap: edge attribution patching, one gradient of the clean run; eap-ig: the mean gradient over embeddings between the two runs; acdc: edges tried one by one from the logits down, among the strongest by eap-ig
        method: CircuitMethod = "eap-ig",
        /// how many gradients eap-ig takes the mean of
        steps: Count<1, 1000> = "5",
        /// the budget: how many edges are kept at most, as a number or a share of all (eap, eap-ig)
        edges: EdgeCount = "5%",
        /// instead of a budget, the least strength of an edge, in the metric's unit; with acdc the least loss for which an edge stays (default 1 % of the metric's difference)
        threshold: Threshold,
        /// top: the strongest edges of all; greedy: from the logits down, the strongest that lead into what is there; what is on no path from the embedding to the logits is left out
        select: EdgeSelection = "top",
        /// among how many of the strongest edges by eap-ig acdc searches
        candidates: EdgeCount = "10%",
        /// what comes over every edge outside the circuit, when edges are scored and when it is evaluated: corrupted: what the corrupted run has there; mean: the mean over the corrupted runs (that of a loaded circuit), as under the edit only:FILE@edges
        others: CircuitOthers = "corrupted",
        /// edges: the circuit's edges, strongest first; curve: faithfulness and completeness against the number of edges; graph: nodes and edges to walk along, pruned step by step beside that curve
        show: CircuitView = "edges",
        /// how many random circuits of the same size stand beside each
        controls: Count<1, 100> = "5",
        /// how many sizes the curve has, and the graph is pruned to
        points: Count<2, 100> = "9",
        /// how many of the circuit's edges are kept in the end, the strongest that lie on a path; all if it is empty. A graph or a curve of the larger circuits stays (on the screen: the step of pruning that is shown)
        keep: KeptEdges,
        /// a saved circuit that is evaluated on these pairs, instead of finding one
        load: Option<PathBuf>,
        /// a file to which the circuit is saved, as JSON
        save: Option<PathBuf>,
        /// yes: the corrupted prompt, and every prompt of the file, is one user turn of the chat template
        chat: bool,
    }
}

/// How many edges are kept in the end; all where it is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptEdges(pub Option<usize>);

impl ParameterValue for KeptEdges {
    const KIND: ParamKind = ParamKind::Text;
    const DEFAULT: &'static str = "";

    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text.trim() {
            "" => Ok(Self(None)),
            text => match text.parse() {
                Ok(0) | Err(_) => Err("a number from 1, or nothing".into()),
                Ok(edges) => Ok(Self(Some(edges))),
            },
        }
    }

    fn print(&self) -> String {
        self.0.map_or_else(String::new, |edges| edges.to_string())
    }
}

impl CircuitParams {
    /// A note on what was given and has no part in the circuit, because of what else was given.
    fn unused(&self) -> Option<String> {
        let (idle, because): (&[&str], &str) = match (self.method, self.threshold.0) {
            _ if self.load.is_some() => (
                &["method", "steps", "edges", "threshold", "candidates"],
                "the circuit is loaded whole",
            ),
            (CircuitMethod::Acdc, _) => (
                &["edges"],
                "acdc keeps every edge whose loss is large enough",
            ),
            (CircuitMethod::Eap, None) => (
                &["steps", "candidates"],
                "eap takes one gradient of the clean run",
            ),
            (CircuitMethod::Eap, Some(_)) => (
                &["steps", "candidates", "edges"],
                "the threshold decides on what eap's one gradient gives",
            ),
            (CircuitMethod::EapIg, None) => {
                (&["candidates"], "only acdc searches among candidates")
            }
            (CircuitMethod::EapIg, Some(_)) => (&["candidates", "edges"], "the threshold decides"),
        };
        let default = Self::parse(&Arguments::default()).ok()?.print();
        let rows = Self::ROWS.iter().zip(self.print().into_iter().zip(default));
        let given = rows.filter(|(row, (own, default))| idle.contains(&row.name) && own != default);
        let given: Vec<&str> = given.map(|(row, _)| row.name).collect();
        (!given.is_empty()).then(|| format!("not used, because {because}: {}", given.join(", ")))
    }
}

/// A circuit with what it was chosen by.
struct FoundCircuit {
    edges: EdgeSet,
    /// A number for every edge: its score, or what it took from the metric when it was tried.
    scores: Vec<f64>,
    /// What the numbers are called.
    called: &'static str,
    /// Whether every edge has one, and not only those that are kept.
    whole: bool,
    notes: Vec<String>,
}

pub struct Circuit;

impl Measurement for Circuit {
    type Params = CircuitParams;
    const NAME: &'static str = "circuit";
    const ABOUT: &'static str = "Circuits: the edges between heads and MLPs that carry what one text says and another does not (EAP, EAP-IG, ACDC), and how much of it they keep alone";
    const SOURCE: &'static str = "EAP: Syed et al. 2023 (2310.10348); EAP-IG: Hanna et al. 2024 (2403.17806); ACDC: Conmy et al. 2023 (2304.14997)";
    const READS: Reads<CircuitParams> = Reads::TextWhere(|params| params.pairs.is_none());
    const READS_END: bool = true;

    fn measure(params: &CircuitParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        if let Some(path) = &params.save {
            CircuitFile::check(path, lab.overwrite)?;
        }
        let source = PairSource {
            corrupt: params.corrupt.as_deref(),
            pairs: params.pairs.as_deref(),
            answer: params.answer.as_deref(),
            chat: params.chat,
            ends: false,
        };
        crate::lab::circuit::graph::CircuitGraph::of(&lab.model)?;
        let runs = source.runs(run, lab)?;
        let pairs = lab.part(0.0..0.1, |lab| measured(lab, params.metric, runs))?;
        let task = lab.part(0.1..0.15, |lab| CircuitTask::new(lab, pairs))?;
        let outside = outside(params, lab, &task)?;
        let found = lab.part(0.15..0.6, |lab| found(params, run, lab, &outside))?;
        let mut found = found;
        let kept = kept(params, &task, &found)?;
        let mut circuits = match params.show {
            CircuitView::Edges => vec![kept.clone()],
            CircuitView::Curve | CircuitView::Graph => {
                let mut circuits = curve(params, &task, &found);
                circuits.push(kept.clone());
                circuits
            }
        };
        circuits.sort_by_key(EdgeSet::len);
        circuits.dedup();
        found.edges = kept;
        let evaluated = lab.part(0.6..1.0, |lab| {
            evaluate(lab, &outside, &circuits, params.controls.0, run.seed)
        })?;
        let own = circuits.iter().position(|own| *own == found.edges);
        let own = &evaluated[own.unwrap_or_default()];
        let all = (circuits.as_slice(), evaluated.as_slice());
        let mut draft = figure::draft(params, lab, &outside, &found, own, all, run.seed);
        if let Some(path) = &params.save {
            let kept = WithMeans::measure(params, lab, &task, &found, own)?;
            let file = file(params, lab, &task, &found, own);
            let whole = file.save(path, &kept.means, kept.faithfulness, lab.overwrite)?;
            let name = crate::text::plain(path.display().to_string().as_bytes());
            let count = crate::text::counted(found.edges.len(), "edge");
            draft = draft.note(if whole {
                format!(
                    "the circuit of {count} is saved as {name}, with the means of what heads and MLPs write beside it: --load {name} evaluates it on other pairs, and the edit only:{}@edges leaves it alone, with means elsewhere, where it keeps {:.3} of the metric",
                    crate::edit::quotes::named(&name),
                    kept.faithfulness
                )
            } else {
                format!("the circuit is written to {name} without means, which need a file beside it: it can be evaluated, and not be switched on as an edit")
            });
        }
        draft.run = params.pairs.as_ref().map(|_| Run {
            seed: run.seed,
            ..Run::default()
        });
        Ok(draft)
    }
}

/// What the circuit is evaluated with: the task, and what everything outside has.
fn outside<'a>(
    params: &CircuitParams,
    lab: &mut Lab,
    task: &'a CircuitTask,
) -> Result<Outside<'a>> {
    match params.others {
        CircuitOthers::Corrupted => Ok(Outside::corrupted(task)),
        CircuitOthers::Mean => {
            let means = match &params.load {
                Some(path) => CircuitFile::load(path, &lab.model.card)?.means(path, &lab.model)?,
                None => task.means(lab)?,
            };
            Outside::means(lab, task, means)
        }
    }
}

/// The circuit pruned, or grown, to as many edges as are to be kept, in the order in which a budget takes them.
fn kept(params: &CircuitParams, task: &CircuitTask, found: &FoundCircuit) -> Result<EdgeSet> {
    let own = found.edges.len();
    // A circuit alone is as large as its budget lets it be; beside larger ones it may be one of them.
    let more = params.show != CircuitView::Edges;
    let Some(keep) = params
        .keep
        .0
        .filter(|keep| *keep < own || more && *keep > own)
    else {
        return Ok(found.edges.clone());
    };
    let mut order = params.select.order(&task.graph, &found.scores);
    // Edges outside have a score of the same kind only where all were scored at once.
    if keep < own || !found.whole {
        order.retain(|edge| found.edges.contains(*edge));
    }
    let of_size = |size: usize| first(&task.graph, &order, size);
    // What is on no path is left out, so that more edges may have to be taken than are kept.
    let (mut least, mut most) = (keep, order.len());
    while least < most {
        let middle = usize::midpoint(least, most);
        if of_size(middle).len() < keep {
            least = middle + 1;
        } else {
            most = middle;
        }
    }
    let own = of_size(least);
    if own.is_empty() {
        return Err(nothing_connected(params));
    }
    Ok(own)
}

/// The circuits of a curve: of growing budgets, with the one that was found.
fn curve(params: &CircuitParams, task: &CircuitTask, found: &FoundCircuit) -> Vec<EdgeSet> {
    let graph = &task.graph;
    let order = params.select.order(graph, &found.scores);
    let of_size = |size: usize| first(graph, &order, size);
    let mut circuits: Vec<EdgeSet> = sizes(graph, found.edges.len(), params.points.0)
        .into_iter()
        .map(of_size)
        .filter(|own| !own.is_empty())
        .collect();
    circuits.push(found.edges.clone());
    circuits.sort_by_key(EdgeSet::len);
    circuits.dedup();
    circuits
}

/// The circuit that the parameters ask for.
fn found(
    params: &CircuitParams,
    run: &Run,
    lab: &mut Lab,
    outside: &Outside,
) -> Result<FoundCircuit> {
    let task = outside.task;
    let graph = &task.graph;
    if let Some(path) = &params.load {
        let file = CircuitFile::load(path, &lab.model.card)?;
        let (edges, scores) = file.edges(path, graph)?;
        let kept = if file.faithfulness.is_finite() {
            format!(
                "where it kept {:.3} of the metric ({})",
                file.faithfulness, file.metric
            )
        } else {
            "how much of the metric it kept there is not known: the file does not say, or was changed after it was saved".into()
        };
        let note = format!(
            "a saved circuit, found by {} on {} ({} pairs), {kept}",
            file.method, file.pairs, file.count
        );
        let mut notes = vec![crate::text::plain(note.as_bytes())];
        notes.extend(params.unused());
        return Ok(FoundCircuit {
            edges,
            scores,
            called: "score",
            whole: false,
            notes,
        });
    }
    if params.method == CircuitMethod::Acdc && params.others == CircuitOthers::Mean {
        return Err(Error::argument(
            "others",
            "mean",
            "corrupted where method=acdc, which goes on from the corrupted run's values from trial to trial; or take eap-ig",
        ));
    }
    let steps = match params.method {
        CircuitMethod::Eap => None,
        CircuitMethod::EapIg | CircuitMethod::Acdc => Some(params.steps.0),
    };
    let share = match params.method {
        CircuitMethod::Acdc => 0.2,
        CircuitMethod::Eap | CircuitMethod::EapIg => 1.0,
    };
    let found = lab.part(0.0..share, |lab| edge_scores_with(lab, outside, steps))?;
    let error = found.out_of_embedding - found.whole;
    let mut notes = vec![format!(
        "edges out of the embedding sum to {:+.4}, and the {} metric less the clean ones' is {:+.4}: completeness error {error:+.2e} ({:.1} %){}",
        found.out_of_embedding,
        match params.others {
            CircuitOthers::Corrupted => "corrupted runs'",
            CircuitOthers::Mean => "means'",
        },
        found.whole,
        100.0 * (error / found.whole).abs(),
        match steps {
            Some(steps) => format!(
                ", with {steps} gradients between {others} and clean embeddings, the {others} ones among them",
                others = params.others.print()
            ),
            None => ", which the slope of the clean run alone leaves".into(),
        }
    )];
    notes.extend(params.unused());
    if params.method == CircuitMethod::Acdc {
        let candidates = params.candidates.of(graph.edges());
        let candidates = EdgeSelection::Top.circuit(graph, &found.scores, candidates);
        if candidates.is_empty() {
            return Err(nothing_connected(params));
        }
        let whole = (task.clean - task.corrupt).abs();
        let threshold = params.threshold.0.unwrap_or(0.01 * whole);
        let found = lab.part(share..1.0, |lab| {
            lab.resumable(
                run,
                lines::<Circuit>(params),
                graph.edges(),
                |lab, tried| discover(lab, task, &candidates, threshold, tried),
            )
        })?;
        notes.push(format!(
            "ACDC: {} of {} candidates are left (the strongest {} by EAP-IG that lie on a path), {} tried; an edge stays if without it the metric loses {threshold:.4} or more",
            found.edges.len(),
            candidates.len(),
            params.candidates.of(graph.edges()),
            found.trials
        ));
        return Ok(FoundCircuit {
            edges: found.edges,
            scores: found.losses,
            called: "loss",
            whole: false,
            notes,
        });
    }
    let edges = if let Some(threshold) = params.threshold.0 {
        let order = params.select.order(graph, &found.scores).into_iter();
        // Both orders take the strongest that there is, so that all that follow are weaker.
        let strong = order.take_while(|edge| found.scores[*edge].abs() >= threshold);
        EdgeSet::of(graph, strong).connected(graph)
    } else {
        let budget = params.edges.of(graph.edges());
        params.select.circuit(graph, &found.scores, budget)
    };
    if edges.is_empty() {
        return Err(nothing_connected(params));
    }
    Ok(FoundCircuit {
        edges,
        scores: found.scores,
        called: "score",
        whole: true,
        notes,
    })
}

/// The error for a choice of edges of which none lies on a path.
fn nothing_connected(params: &CircuitParams) -> Error {
    let (name, given) = match (params.keep.0, params.threshold.0) {
        (Some(_), _) => ("keep", params.keep.print()),
        (None, Some(_)) => ("threshold", params.threshold.print()),
        (None, None) => ("edges", params.edges.print()),
    };
    let expected = "one that leaves an edge on a path from the embedding to the logits: more edges, a lower threshold, or select=greedy";
    Error::argument(name, given, expected)
}

/// What a circuit is as an edit.
struct WithMeans {
    means: SenderMeans,
    /// The share of the metric that it keeps with them.
    faithfulness: f64,
}

impl WithMeans {
    fn measure(
        params: &CircuitParams,
        lab: &mut Lab,
        task: &CircuitTask,
        found: &FoundCircuit,
        own: &Evaluated,
    ) -> Result<Self> {
        let means = task.means(lab)?;
        let faithfulness = match (params.others, &params.load) {
            (CircuitOthers::Mean, None) => own.faithfulness,
            (CircuitOthers::Mean, Some(_)) | (CircuitOthers::Corrupted, _) => {
                let outside = Outside::means(lab, task, means.clone())?;
                outside.share(outside.under(lab, &found.edges)?)
            }
        };
        Ok(Self {
            means,
            faithfulness,
        })
    }
}

/// What is saved of a circuit.
fn file(
    params: &CircuitParams,
    lab: &Lab,
    task: &CircuitTask,
    found: &FoundCircuit,
    own: &Evaluated,
) -> CircuitFile {
    let mut digest = Fingerprint::default();
    for pair in &task.pairs {
        digest.write(&pair.runs.clean.digest().to_le_bytes());
        digest.write(&pair.runs.corrupt.digest().to_le_bytes());
    }
    let pairs = match &params.pairs {
        Some(path) => Path::new(path).display().to_string(),
        None => params.corrupt.clone().unwrap_or_default(),
    };
    CircuitFile {
        method: ParameterValue::print(&params.method),
        metric: ParameterValue::print(&params.metric),
        others: params.others.print(),
        pairs,
        count: task.pairs.len(),
        digest: format!("{:016x}", digest.finish()),
        faithfulness: own.faithfulness,
        ..CircuitFile::of(&task.graph, &found.edges, &found.scores, &lab.model.card)
    }
}
