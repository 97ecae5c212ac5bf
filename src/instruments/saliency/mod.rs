//! Saliency: how much each token of a text matters for the token that comes next (input attribution).
//!
//! Three methods side by side, each about the embedding of one token against a baseline in its place: gradient × input
//! (Simonyan et al. 2013, 1312.6034; Shrikumar et al. 2016, 1605.01713), integrated gradients (Sundararajan et al. 2017,
//! 1703.01365) and erasing the token (Li et al. 2016, 1612.08220). Direct logit attribution, which takes a logit apart by
//! component of the model and not by token, is `residual`. Invariant: the three are in the same unit, and with the numbers
//! come the error of the one that has an exact sum, how well they agree, and a control. How they are computed is in
//! `methods.rs`; gradient × input alone, cheap enough to follow the cursor of the screen, in `slope.rs`. To add a method, add a
//! column there.

mod methods;
mod path;
mod slope;

use methods::{InputEffects, SaliencyMethods};

use super::params::{Count, choices, params};
use super::{Draft, Measurement};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, AxisLabel, Body, Cell, Grid, Scale, Table, TableRow};
use crate::lab::Lab;
use crate::lab::capture::Output;
use crate::lab::ranks::rank_correlation;
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::lab::trials::SweepCost;
use crate::model::Card;

choices! {
    /// Which number of the target is attributed.
    pub enum SaliencyOf { LogProbability = "logprob", Logit = "logit" }
}

choices! {
    /// What stands in the place of an embedding.
    pub enum EmbeddingBaseline { Zero = "zero", Mean = "mean" }
}

choices! {
    /// Which methods are measured.
    pub enum SaliencyMethod { All = "all", Gradient = "gradient" }
}

choices! {
    /// How the numbers are shown.
    pub enum SaliencyView { Table = "table", Grid = "grid" }
}

params! {
    /// What `saliency` is asked.
    pub struct SaliencyParams {
        /// the target, the next token that is explained: a text (its first token) or #ID; "A" - "B" for a logit difference; by default the top prediction
        token: Option<String>,
        /// logprob: the target's log-probability in nats; logit: its logit; of a difference they are the same
        of: SaliencyOf = "logprob",
        /// what takes the place of a token's embedding: zero: nothing; mean: the mean of the embedding table without special tokens; a learned position vector stays
        baseline: EmbeddingBaseline = "mean",
        /// all: gradient x input, integrated gradients and erasing; gradient: gradient x input alone, from one gradient, which on the screen follows the cursor
        method: SaliencyMethod = "all",
        /// at how many points of the way from the baseline to the text integrated gradients take a gradient, at most: they stop when their sum fits
        steps: Count<2, 4096> = "128",
        /// how many random words stand for the control: put in a token's place, or, of gradient x input alone, scored there
        swaps: Count<1, 64> = "8",
        /// table: a row a token; grid: a column a token, coloured around zero
        show: SaliencyView = "table",
    }
}

pub struct Saliency;

impl Measurement for Saliency {
    type Params = SaliencyParams;
    const NAME: &'static str = "saliency";
    const ABOUT: &'static str = "Input attribution: how much each token of the text matters for the next token, by gradient x input, integrated gradients, and erasing it";
    const SOURCE: &'static str = "gradient x input: Simonyan et al. 2013 (1312.6034), Shrikumar et al. 2016 (1605.01713); integrated gradients: Sundararajan et al. 2017 (1703.01365); erasing: Li et al. 2016 (1612.08220)";
    const READS_END: bool = true;
    const FOLLOWS: &'static [(&'static str, &'static str)] = &[("method", "gradient")];

    fn cost(params: &SaliencyParams, tokens: usize, _card: &Card) -> Option<SweepCost> {
        if params.method == SaliencyMethod::Gradient {
            return None;
        }
        // A gradient takes about three passes; what comes before an erased token is read once.
        Some(SweepCost {
            passes: 4 * params.steps.0 + (1 + params.swaps.0) * tokens.div_ceil(2),
            tokens,
        })
    }

    fn measure(params: &SaliencyParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let target = match LogitTarget::chosen(params.token.as_deref(), &lab.model)? {
            Some(target) => target,
            None => LogitTarget::one(lab.last(run, Output::top(1))?.first().0),
        };
        let methods = SaliencyMethods { params, target };
        if params.method == SaliencyMethod::Gradient {
            return slope::figure(&methods, run, lab);
        }
        let found = methods.measure(run, lab)?;
        let name = target.spell(lab);
        let what = params.what(target);
        let body: Body = match params.show {
            SaliencyView::Table => table(&found, run, lab).into(),
            SaliencyView::Grid => grid(
                &found,
                run,
                lab,
                &format!("effect on the {what} of {name}, {}", params.unit()),
            )
            .into(),
        };
        let mut draft = Draft::of(body)
            .titled(format!("{what} of {name}, by input token"))
            .notes(params.notes(&found, target, run, lab));
        draft.resolved = vec![
            ("target".into(), name),
            (
                "completeness error".into(),
                found.completeness_error().to_string(),
            ),
        ];
        Ok(draft)
    }
}

/// The methods as columns and rows, and what they are called.
const METHODS: [&str; 4] = [GRADIENT, "integrated", "erased", "swapped"];

const GRADIENT: &str = "gradient x input";

fn numbers(found: &InputEffects, position: usize) -> [f32; 4] {
    let of = |list: &[f64]| list[position] as f32;
    [
        of(&found.gradient),
        of(&found.integrated),
        of(&found.erased),
        of(&found.swapped),
    ]
}

fn table(found: &InputEffects, run: &Run, lab: &Lab) -> Table {
    let [gradient, integrated, erased, swapped] = METHODS;
    let columns = ["position", "token", gradient, integrated, erased, swapped];
    let rows = (0..run.tokens.len()).map(|position| {
        let [gradient, integrated, erased, swapped] = numbers(found, position);
        let token = lab.visible(run.tokens[position]);
        let entries = entries![position, token, gradient, integrated, erased, swapped];
        TableRow::at(Anchor::position(position), entries)
    });
    Table::of(&columns, rows.collect())
}

fn grid(found: &InputEffects, run: &Run, lab: &Lab, value: &str) -> Grid {
    let tokens = run.tokens.len();
    // Rows are drawn from the first up, so that the first method comes last.
    let rows: Vec<usize> = (0..METHODS.len()).rev().collect();
    let titles = rows
        .iter()
        .map(|method| AxisLabel::of(METHODS[*method], Anchor::default()));
    let cell = |row: usize, position: usize| {
        let own = numbers(found, position);
        let value = own[rows[row]];
        let all = METHODS.into_iter().zip(own);
        Cell::of("", value, Anchor::position(position)).more(all)
    };
    let grid = Grid::of(
        ("method", titles.collect()),
        ("position", lab.headers(run, 0..tokens)),
        value,
        cell,
    );
    coloured(grid)
}

/// A grid with a column a token, coloured around zero.
fn coloured(grid: Grid) -> Grid {
    // The first position of a text, a sink in many models, has no part in the colours.
    let first = usize::from(grid.columns.len() > 1);
    let judged = grid.cells.iter().skip(first).flatten();
    let sizes = judged.map(|cell| cell.value.abs());
    let reach = sizes.filter(|v| v.is_finite()).fold(1e-6, f32::max);
    grid.scaled(Scale::Diverging { reach })
}

impl SaliencyParams {
    /// What is attributed, in words.
    fn what(&self, target: LogitTarget) -> &'static str {
        match (target.minus, self.of) {
            (Some(_), _) => "logit difference",
            (None, SaliencyOf::LogProbability) => "log-probability",
            (None, SaliencyOf::Logit) => "logit",
        }
    }

    /// In which unit.
    fn unit(&self) -> &'static str {
        match self.of {
            SaliencyOf::LogProbability => "nats",
            SaliencyOf::Logit => "logits",
        }
    }

    fn baseline_in_words(&self) -> &'static str {
        match self.baseline {
            EmbeddingBaseline::Zero => "zero",
            EmbeddingBaseline::Mean => "the mean of the embedding table",
        }
    }

    /// What a reader must know.
    fn notes(
        &self,
        found: &InputEffects,
        target: LogitTarget,
        run: &Run,
        lab: &Lab,
    ) -> Vec<String> {
        let (what, name) = (self.what(target), target.spell(lab));
        let last = run
            .tokens
            .last()
            .map_or_else(String::new, |id| lab.visible(*id));
        let baseline = self.baseline_in_words();
        let difference = found.value - found.at_baseline;
        let error = found.completeness_error();
        let share = 100.0 * error.abs() / difference.abs().max(1e-9);
        let mut complete = format!(
            "integrated (gradients at {} points) sums to {:.4}, and the whole difference is {difference:.4}: completeness error {error:+.2e} ({share:.1} %)",
            found.points,
            found.integrated.iter().sum::<f64>(),
        );
        if share > 5.0 {
            complete += ", too large to read the numbers as parts of a sum: ";
            complete += match self.baseline {
                EmbeddingBaseline::Mean => "give more --steps",
                EmbeddingBaseline::Zero => {
                    "on the way from zero, embeddings are so short that norms magnify them without end; take --baseline mean"
                }
            };
        }
        let mut notes = vec![
            format!(
                "the {what} of {name} after {last} is {:.4}; with every embedding at the baseline ({baseline}) it is {:.4}. Positive: the token raises it",
                found.value, found.at_baseline
            ),
            complete,
        ];
        notes.extend(agreement(found));
        notes.push(format!(
            "erased: what the {what} loses when this token's embedding alone is the baseline; swapped, the control: when it is that of a random word, the mean of {} (seed {}). Where the two are alike, any other input would have done what the loss did",
            self.swaps.0, run.seed
        ));
        notes.push("not shown: what tokens do together (erasing one of two that say the same costs nothing), where in the model it happens, and what another baseline would say. Gradient x input is the slope at this text and no change of it; baselines and erased texts are unlike any text the model has read".into());
        if run.tokens.len() > 1 {
            notes.push("many models use the first position as a place to attend to when nothing else matters: losing it disturbs everything, so that the colours of the grid leave it out".into());
        }
        notes
    }
}

/// How well the methods agree, where there are enough positions to say.
fn agreement(found: &InputEffects) -> Option<String> {
    let count = found.gradient.len();
    if count < 3 {
        return None;
    }
    let between = |a: &[f64], b: &[f64]| {
        rank_correlation(a, b).map_or_else(|| "undefined".into(), |rho| format!("{rho:.2}"))
    };
    Some(format!(
        "rank correlation (Spearman) over the {count} positions: gradient x input with integrated {}, gradient x input with erased {}, integrated with erased {}",
        between(&found.gradient, &found.integrated),
        between(&found.gradient, &found.erased),
        between(&found.integrated, &found.erased),
    ))
}
