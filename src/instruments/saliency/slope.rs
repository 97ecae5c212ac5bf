//! Gradient × input alone: one gradient a text, so that it can be had wherever the cursor rests.
//!
//! Invariant: beside every number stands what random words would have scored in that place with the same gradient, and the
//! notes say how far the sum, a first-order term, is from the difference that it approximates. To say more of a text at this
//! price, add it here; what takes more passes belongs to `methods.rs`.

use super::methods::{InputSlopes, SaliencyMethods};
use super::{GRADIENT, SaliencyView, coloured};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, AxisLabel, Body, Cell, Grid, Table, TableRow};
use crate::instruments::Draft;
use crate::lab::Lab;
use crate::lab::run::Run;

/// The control's column.
const RANDOM: &str = "random words";

pub(super) fn figure(methods: &SaliencyMethods, run: &Run, lab: &mut Lab) -> Result<Draft> {
    let (params, target) = (methods.params, methods.target);
    let found = methods.slopes(run, lab)?;
    let (name, what) = (target.spell(lab), params.what(target));
    let body: Body = match params.show {
        SaliencyView::Table => table(&found, run, lab).into(),
        SaliencyView::Grid => {
            let value = format!("effect on the {what} of {name}, {}", params.unit());
            grid(&found, run, lab, &value).into()
        }
    };
    let sum: f64 = found.gradient.iter().sum();
    let difference = found.value - found.at_baseline;
    let last = run
        .tokens
        .last()
        .map_or_else(String::new, |id| lab.visible(*id));
    let mut draft = Draft::of(body)
        .titled(format!("{what} of {name}, by input token"))
        .note(format!(
            "gradient x input alone: the slope of the {what} of {name} after {last} ({:.4}), times the token's embedding less the baseline ({}). Positive: the token raises it",
            found.value,
            params.baseline_in_words()
        ))
        .note(format!(
            "{RANDOM}, the control: what {} random words would have scored in the token's place, root mean square (seed {}). A number that is no larger is no news of the token",
            params.swaps.0, run.seed
        ))
        .note(format!(
            "the numbers sum to {sum:.4}, and going to the baseline with every embedding changes the {what} by {difference:.4}: they are slopes and no parts of a whole. Method all (o on the screen) measures integrated gradients, whose sum fits, and erasing"
        ))
        .note("it takes one gradient, as long as about four passes over the text; on the screen it is measured where the cursor rests, when the model has nothing else to do, and delays no token");
    draft.resolved = vec![("target".into(), name)];
    Ok(draft)
}

fn table(found: &InputSlopes, run: &Run, lab: &Lab) -> Table {
    let columns = ["position", "token", GRADIENT, RANDOM];
    let rows = (0..run.tokens.len()).map(|position| {
        let token = lab.visible(run.tokens[position]);
        let (own, random) = (found.gradient[position], found.random[position]);
        let entries = entries![position, token, own as f32, random as f32];
        TableRow::at(Anchor::position(position), entries)
    });
    Table::of(&columns, rows.collect())
}

fn grid(found: &InputSlopes, run: &Run, lab: &Lab, value: &str) -> Grid {
    // Rows are drawn from the first up, so that the method comes last.
    let titles = [RANDOM, GRADIENT].map(|name| AxisLabel::of(name, Anchor::default()));
    let cell = |row: usize, position: usize| {
        let own = [
            found.random[position] as f32,
            found.gradient[position] as f32,
        ];
        let all = [RANDOM, GRADIENT].into_iter().zip(own);
        Cell::of("", own[row], Anchor::position(position)).more(all)
    };
    coloured(Grid::of(
        ("method", titles.to_vec()),
        ("position", lab.headers(run, 0..run.tokens.len())),
        value,
        cell,
    ))
}
