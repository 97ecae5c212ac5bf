//! Figures that split component outputs: into heads, neurons, and the tokens that attention read.
//!
//! Invariant: both the parts shown and those left out (biases, the remaining neurons, edits of the component output) are
//! reported, so that a reader can add them up to the whole. To split into something else, add a choice of `by` and its function
//! here.

use std::ops::Range;

use super::{ResidualParams, all_addresses, spelled, targets, worst_check};
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{
    Anchor, AxisLabel, Body, Cell, Curve, Grid, Scale, Series, Style, Table, TablePage, TableRow,
    Unit,
};
use crate::instruments::Draft;
use crate::instruments::residual::attribution::{Attribution, AttributionRequest, LogitPart};
use crate::instruments::residual::decomposition::{OutputParts, of_attention, of_mlp};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::lab::sample::top;

/// A diverging colour scale up to the largest cell; cells of position 0, an attention sink, count only if `sink` is true.
fn diverging(grid: Grid, sink: bool) -> Grid {
    let cells = grid.cells.iter().flatten();
    let judged = cells.filter(|c| sink || c.anchor.position != Some(0));
    let reach = judged.map(|c| c.value.abs()).fold(1e-6, f32::max);
    grid.scaled(Scale::Diverging { reach })
}

/// A sentence on what biases and edits add in addition to the pieces; none if they add nothing.
fn biases_in_words(pieces: &[OutputParts], i: usize) -> Option<String> {
    let bias: f32 = pieces.iter().map(|p| p.bias[i]).sum();
    let moved: f32 = pieces.iter().filter(|p| p.edited).map(|p| p.rest[i]).sum();
    let mut words = Vec::new();
    if bias.abs() > 0.0 {
        words.push(format!("their biases add {bias:+.4}"));
    }
    if moved.abs() > 0.0 {
        words.push(format!(
            "edits of the component outputs themselves {moved:+.4}"
        ));
    }
    (!words.is_empty()).then(|| format!("besides these, {}", words.join(", ")))
}

impl ResidualParams {
    /// The layers whose outputs are split.
    fn layers_to_split(&self, lab: &Lab) -> Result<Vec<usize>> {
        let layers = lab.model.card.layers;
        Ok(match self.layer.within(layers)? {
            Some(one) => vec![one],
            None => (0..layers).collect(),
        })
    }

    /// A grid of heads: layers by heads at one position, or heads by positions.
    pub(super) fn by_head(
        &self,
        run: &Run,
        positions: Range<usize>,
        question: AttributionRequest,
        lab: &mut Lab,
    ) -> Result<Draft> {
        let layers = self.layers_to_split(lab)?;
        let normed = lab.model.card.norms_writes;
        let wanted = all_addresses(lab, run, of_attention(&layers, normed, false))?;
        let recording = lab.record(run, &wanted)?;
        let sum = lab.attribute(run, positions, question)?;
        let mut pieces = Vec::with_capacity(layers.len());
        for (done, layer) in layers.iter().enumerate() {
            lab.report(done as f32 / layers.len() as f32)?;
            pieces.push(sum.heads(lab, run, &recording, *layer)?);
        }
        let heads = lab.model.card.heads;
        let cell = |k: usize, i: usize, head: usize| {
            let layer = layers[k];
            let anchor = Anchor::cell(layer, sum.positions[i]).with(Unit::Head(head as u32));
            let all = sum.effect(i, LogitPart::Attention(layer));
            Cell::of("", pieces[k].values[i][head], anchor)
                .more([(format!("all heads of layer {layer}"), all)])
        };
        let last = sum.positions.len() - 1;
        let effect = format!("direct effect on the {}", spelled(&sum, lab));
        let body: Body = if let ([layer], 0) = (layers.as_slice(), last) {
            attention_series(&pieces[0], *layer, &sum, &effect).into()
        } else if last == 0 {
            let rows = layers.iter().map(|l| AxisLabel::layer(*l)).collect();
            let columns = ("head", AxisLabel::heads(heads));
            let cell = |k: usize, h: usize| cell(k, 0, h);
            let grid = Grid::of(("layer", rows), columns, effect, cell);
            diverging(grid, true).into()
        } else {
            let all: Vec<(usize, usize)> = (0..layers.len())
                .flat_map(|k| (0..heads).map(move |h| (k, h)))
                .collect();
            let rows = all
                .iter()
                .map(|(k, h)| AxisLabel::head(layers[*k], *h))
                .collect();
            let columns = ("position", targets(&sum, run, lab));
            let cell = |row: usize, i: usize| cell(all[row].0, i, all[row].1);
            diverging(Grid::of(("head", rows), columns, effect, cell), false).into()
        };
        Ok(Draft::of(body)
            .titled(format!("{}, by head", spelled(&sum, lab)))
            .notes(self.notes(&sum, run, lab))
            .note("each cell: what the head's output, after the output projection, adds to it")
            .notes(biases_in_words(&pieces, last))
            .checked(Some(worst_check(sum.check, &pieces))))
    }

    /// A table of the neurons with the largest effects, one page for each position, with the total of those not listed.
    pub(super) fn by_neuron(
        &self,
        run: &Run,
        positions: Range<usize>,
        question: AttributionRequest,
        lab: &mut Lab,
    ) -> Result<Draft> {
        let known = lab.model.card.neuron_layers.clone();
        if known.is_empty() {
            return Err(lab.model.transformer.no_neurons());
        }
        let mut layers = self.layers_to_split(lab)?;
        if let [one] = layers.as_slice()
            && !known.contains(one)
        {
            return Err(Error::argument(
                "layer",
                one,
                format!("a layer with one MLP: {known:?}; the others are mixtures of experts"),
            ));
        }
        layers.retain(|l| known.contains(l));
        let normed = lab.model.card.norms_writes;
        let wanted = all_addresses(lab, run, of_mlp(&layers, normed))?;
        let recording = lab.record(run, &wanted)?;
        let sum = lab.attribute(run, positions, question)?;
        let mut pieces = Vec::with_capacity(layers.len());
        for (done, layer) in layers.iter().enumerate() {
            lab.report(done as f32 / layers.len() as f32)?;
            pieces.push(sum.neurons(lab, run, &recording, *layer)?);
        }
        let count = self.count.0;
        let pages = (0..sum.positions.len())
            .map(|i| neuron_page(&sum, &pieces, &layers, i, count, run, lab))
            .collect();
        Ok(Draft::of(Table::paged(&["neuron", "effect", "of its MLP"], pages))
            .titled(format!("{}, by neuron", spelled(&sum, lab)))
            .notes(self.notes(&sum, run, lab))
            .note("effect: direct effect, activation times what the value vector adds to it; `other neurons`, `biases` and the listed neurons sum to the MLP outputs")
            .checked(Some(worst_check(sum.check, &pieces))))
    }

    /// A grid of the source tokens of attention: layers by sources, or the heads of one layer by sources.
    pub(super) fn by_source(
        &self,
        run: &Run,
        position: usize,
        question: AttributionRequest,
        lab: &mut Lab,
    ) -> Result<Draft> {
        let layers = self.layers_to_split(lab)?;
        let normed = lab.model.card.norms_writes;
        let sum = lab.attribute(run, position..position + 1, question)?;
        let mut pieces = Vec::with_capacity(layers.len());
        for some in layers.chunks(lab.attention_layers(run.tokens.len())) {
            let wanted = all_addresses(lab, run, of_attention(some, normed, true))?;
            let recording = lab.record(run, &wanted)?;
            for layer in some {
                lab.report(pieces.len() as f32 / layers.len() as f32)?;
                pieces.push(sum.sources(lab, run, &recording, *layer, 0)?);
            }
        }
        let (heads, sources) = (lab.model.card.heads, position + 1);
        let one = self.layer.within(lab.model.card.layers)?;
        let effect = |k: usize, h: usize, j: usize| pieces[k].values[0][h * sources + j];
        let cell = |row: usize, j: usize| {
            if let Some(layer) = one {
                let anchor = Anchor::cell(layer, j).with(Unit::Head(row as u32));
                return Cell::of("", effect(0, row, j), anchor);
            }
            let all: f64 = (0..heads).map(|h| f64::from(effect(row, h, j))).sum();
            let strongest = top_heads(&pieces[row], heads, sources, j).into_iter();
            Cell::of("", all as f32, Anchor::cell(layers[row], j))
                .more(strongest.map(|(h, e)| (format!("head {h}"), e)))
        };
        let rows = match one {
            Some(layer) => (
                "head",
                (0..heads).map(|h| AxisLabel::head(layer, h)).collect(),
            ),
            None => (
                "layer",
                layers.iter().map(|l| AxisLabel::layer(*l)).collect(),
            ),
        };
        let columns = ("source", lab.headers(run, 0..sources));
        let whose = spelled(&sum, lab);
        let grid = Grid::of(rows, columns, format!("direct effect on the {whose}"), cell);
        let after = lab.visible(run.tokens[position]);
        Ok(Draft::of(diverging(grid, sources == 1))
            .titled(format!("{whose}, by source token, after {after}"))
            .notes(self.notes(&sum, run, lab))
            .note("each cell: what attention to that token adds to it: attention probability times the token's value vector, after the output projection")
            .notes(biases_in_words(&pieces, 0))
            .checked(Some(worst_check(sum.check, &pieces))))
    }
}

/// One attention output at one position as a waterfall: its heads, its biases and the change by edits, up to its whole effect.
fn attention_series(pieces: &OutputParts, layer: usize, sum: &Attribution, value: &str) -> Series {
    let heads = pieces.values[0].iter().enumerate();
    let heads = heads.map(|(h, v)| (format!("head {h}"), Anchor::head(layer, h), *v));
    let beside = [
        ("biases", pieces.bias[0], true),
        ("edits", pieces.rest[0], pieces.edited),
    ];
    let beside = beside
        .into_iter()
        .filter(|(_, v, said)| *said && v.abs() > 0.0)
        .map(|(name, v, _)| (name.to_string(), Anchor::layer(layer), v));
    let (mut points, mut values) = (Vec::new(), Vec::new());
    for (label, anchor, value) in heads.chain(beside) {
        points.push(AxisLabel { label, anchor });
        values.push(value);
    }
    let reach = values.iter().fold(1e-6, |most: f32, v| most.max(v.abs()));
    let curve = Curve {
        total: Some(sum.effect(0, LogitPart::Attention(layer))),
        ..Curve::of("effect", Anchor::position(sum.positions[0]), values)
    };
    Series {
        scale: Scale::Diverging { reach },
        ..Series::of("head", value, points, vec![curve], Style::Waterfall)
    }
}

/// The heads that contribute most through one source, at most three.
fn top_heads(pieces: &OutputParts, heads: usize, sources: usize, j: usize) -> Vec<(u32, f32)> {
    let effects: Vec<f32> = (0..heads)
        .map(|h| pieces.values[0][h * sources + j])
        .collect();
    let sizes: Vec<f32> = effects.iter().map(|e| e.abs()).collect();
    let strongest = top(&sizes, heads, 3.min(heads));
    strongest
        .into_iter()
        .map(|(h, _)| (h, effects[h as usize]))
        .collect()
}

fn neuron_page(
    sum: &Attribution,
    pieces: &[OutputParts],
    layers: &[usize],
    i: usize,
    count: usize,
    run: &Run,
    lab: &Lab,
) -> TablePage {
    let mut all: Vec<(usize, u32, f32)> = Vec::new();
    for (piece, layer) in pieces.iter().zip(layers) {
        let sizes: Vec<f32> = piece.values[i].iter().map(|v| v.abs()).collect();
        let best = top(&sizes, sizes.len(), count.min(sizes.len()));
        all.extend(
            best.into_iter()
                .map(|(n, _)| (*layer, n, piece.values[i][n as usize])),
        );
    }
    all.sort_by(|a, b| {
        b.2.abs()
            .total_cmp(&a.2.abs())
            .then((a.0, a.1).cmp(&(b.0, b.1)))
    });
    all.truncate(count);
    let position = sum.positions[i];
    let whole: f64 = layers
        .iter()
        .map(|l| f64::from(sum.effect(i, LogitPart::Mlp(*l))))
        .sum();
    let listed: f64 = all.iter().map(|(.., e)| f64::from(*e)).sum();
    let neurons: f64 = pieces
        .iter()
        .flat_map(|p| &p.values[i])
        .map(|v| f64::from(*v))
        .sum();
    let biases: f64 = pieces.iter().map(|p| f64::from(p.bias[i])).sum();
    let row = |(layer, neuron, effect): &(usize, u32, f32)| {
        let anchor = Anchor::cell(*layer, position).with(Unit::Neuron(*neuron));
        let own = sum.effect(i, LogitPart::Mlp(*layer));
        TableRow::at(anchor, entries![format!("{layer}/{neuron}"), *effect, own])
    };
    let mut rows: Vec<TableRow> = all.iter().map(row).collect();
    let mut line = |name: &str, value: f64| {
        let entries = entries![name, value as f32, whole as f32];
        rows.push(TableRow::at(Anchor::position(position), entries));
    };
    line("other neurons", neurons - listed);
    line("biases", biases);
    let moved: f64 = pieces
        .iter()
        .filter(|p| p.edited)
        .map(|p| f64::from(p.rest[i]))
        .sum();
    if moved.abs() > 0.0 {
        line("edits of outputs", moved);
    }
    let title = format!(
        "after {} · {}: {:.4}",
        lab.visible(run.tokens[position]),
        sum.scale.of(sum.targets[i], lab),
        sum.logits[i]
    );
    TablePage::of(title, Anchor::position(position), rows)
}
