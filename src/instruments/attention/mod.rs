//! Attention: patterns, the strongest sources, the outputs of heads, and their types.
//!
//! Probabilities are shown as they are. The first position, an attention sink in many models, is left out of the colour scale
//! and of the strongest sources, unless asked for. Scores are in [`crate::instruments::attention::head_scores`]. Invariant:
//! every figure of a run is about that run's edits; scores on random tokens are about the model alone, and the figure says so.
//! To show something else of attention, add a choice of `show` and its function.

pub mod edges;
pub mod head_scores;
pub mod heads;
mod one_head;
mod scores;

use std::ops::Range;

use candle_core::DType;

use super::{Draft, Measurement, Reads};
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{
    Anchor, AxisLabel, Body, Cell, Grid, OpeningRows, Scale, Table, TablePage, TableRow, Unit,
};
use crate::instruments::attention::edges::{
    EdgeMeasure, Edges, HeadOutput, entropy, head_outputs, largest_outputs, output_addresses,
    strongest,
};
use crate::instruments::attention::head_scores::HeadScore;
use crate::instruments::over_prompts::numbers::{
    ListAnswers, NumberRow, OverPrompts, PromptNumbers, PromptPart, PromptPlace, RowOrder,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::{Count, LayerOrAll, ParameterValue, Position, choices};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::run::Run;
use crate::lab::trials::SweepCost;
use crate::model::Card;
use crate::model::host::ToHost;
use crate::model::network::finite::order;
use crate::model::network::site::{Address, Site};

choices! {
    /// What the figure shows.
    pub enum AttentionView { Heads = "heads", Pattern = "pattern", Head = "head", Writes = "outputs" | "writes", Scores = "scores" }
}

choices! {
    /// How an edge is weighted; or the entropy of a head's row.
    pub enum EdgeWeight {
        Probability = "probability",
        Value = "value",
        Write = "output" | "write",
        Entropy = "entropy",
    }
}

choices! {
    /// Whether the first position counts for colours and strongest sources.
    pub enum First { Apart = "apart", Counted = "counted" }
}

choices! {
    /// The text on which heads are scored.
    pub enum ScoredText { Random = "random", Prompt = "prompt" }
}

choices! {
    for HeadScore { Induction = "induction", Previous = "previous", Duplicate = "duplicate", Sink = "sink" }
}

params_over_prompts! {
    /// What `attention` is asked.
    pub struct AttentionParams {
        /// heads: what each head attends to most, at each position; pattern: the attention matrix of one head; head: what one head attends to and what its output promotes, at each position; outputs: the tokens that the outputs of heads promote; scores: how far each head is an induction, previous-token, duplicate-token or sink head
        show: AttentionView = "heads",
        /// one layer, or all
        layer: LayerOrAll = "all",
        /// with show=pattern or head: the head
        head: Count<0, 1023> = "0",
        /// the last query position that is shown; with show=outputs the only one
        position: Position,
        /// how many positions up to that one to show
        window: Count<1, 1024> = "64",
        /// how an edge is weighted: probability: the attention probability; value: that times the norm of the value vector; output: times the norm of the value vector after the output projection; entropy (only show=heads): how spread out a head's attention is, in nats
        value: EdgeWeight = "probability",
        /// position 0, an attention sink in many models: apart: left out of the colour scale and of the strongest sources; counted: treated like any other
        first: First = "apart",
        /// with show=outputs: how many heads to list
        count: Count<1, 200> = "12",
        /// with show=scores, mean attention: induction: to the token after an earlier occurrence of the current one; previous: to the token before; duplicate: to an earlier occurrence of the current token; sink: to position 0
        score: HeadScore = "induction",
        /// with show=scores, the text: random: random tokens, repeated once; prompt: the prompt
        on: ScoredText = "random",
        /// how many random tokens one copy has
        period: Count<2, 512> = "20",
        /// how many random sequences are read
        trials: Count<1, 100> = "8",
        /// with show=scores on random tokens: ablates this many of the highest heads, and as many random others as a control, and measures how well the model still copies
        ablate was "silence": Count<0, 64> = "0",
    }
}

/// A figure of more heads opens with some of them.
const ALL: usize = 24;
/// How many those are.
const OPENING: usize = 12;

pub struct Attention;

impl Measurement for Attention {
    type Params = AttentionParams;
    const NAME: &'static str = "attention";
    const ABOUT: &'static str = "Attention patterns: what each head attends to, which tokens its output promotes, and induction, previous-token, duplicate-token and sink scores";
    const SOURCE: &'static str = "induction heads: Olsson et al. 2022 (2209.11895); duplicate and previous token heads: Wang et al. 2023 (2211.00593)";
    const READS: Reads<AttentionParams> = Reads::TextWhere(|params| {
        params.show != AttentionView::Scores || params.on == ScoredText::Prompt
    });

    const OVER_PROMPTS: Option<OverPrompts<AttentionParams>> = Some(OverPrompts {
        asked: AttentionParams::asked,
        alone: AttentionParams::alone,
        numbers: AttentionParams::numbers,
        note: "mean attention over the positions of a prompt: induction: to the token after an earlier occurrence of the current token; previous: to the token before; duplicate: to an earlier occurrence of the current token; sink: to position 0; a prompt without such a token has no score: induction and duplicate need one that occurs twice, previous and sink are of any text",
        order: |_| RowOrder::LargestFirst,
        reads: PromptPart::Whole,
        answers: ListAnswers::Unasked,
    });

    fn cost(params: &AttentionParams, tokens: usize, _card: &Card) -> Option<SweepCost> {
        if params.show != AttentionView::Scores {
            return None;
        }
        if params.on == ScoredText::Prompt {
            return Some(SweepCost { passes: 1, tokens });
        }
        let copying = if params.ablate.0 == 0 {
            0
        } else {
            scores::RUNS
        };
        Some(SweepCost {
            passes: params.trials.0 * (1 + copying),
            tokens: 2 * params.period.0 + 1,
        })
    }

    fn live(params: &AttentionParams, card: &Card) -> bool {
        params.show == AttentionView::Heads
            && params.position == Position(-1)
            && params.weight() == EdgeMeasure::Probability
            && params.layer.within(card.layers).is_ok()
    }

    fn needs(params: &AttentionParams, _run: &Run, lab: &Lab) -> Result<Needs> {
        Ok(params.needs_of(&params.layers(lab.model.card.layers)?))
    }

    fn figure(params: &AttentionParams, of: &Capture, lab: &mut Lab) -> Result<Draft> {
        let layers = params.layers(lab.model.card.layers)?;
        let mut cells = vec![Vec::new(); of.positions.len()];
        params.read(of, &layers, of.positions.start, &mut cells, lab)?;
        Ok(params.head_grid(&of.run, of.positions.clone(), cells, &layers, lab))
    }

    fn measure(params: &AttentionParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        match params.show {
            AttentionView::Heads => params.heads(run, lab),
            AttentionView::Pattern => params.pattern(run, lab),
            AttentionView::Head => params.one_head(run, lab),
            AttentionView::Writes => params.writes(run, lab),
            AttentionView::Scores => params.scores(run, lab),
        }
    }
}

impl AttentionParams {
    /// The same about one prompt of a list: the scores of heads on it.
    fn alone(&self, _place: &PromptPlace) -> Result<Self> {
        // What opens for one text is read so of a list.
        if !matches!(self.show, AttentionView::Scores | AttentionView::Heads) {
            let expected = "scores with a list: sources and patterns differ between prompts";
            return Err(Error::argument("show", self.show.print(), expected));
        }
        Ok(Self {
            show: AttentionView::Scores,
            on: ScoredText::Prompt,
            ..self.clone()
        })
    }

    /// The score of every head.
    fn numbers(&self, body: &Body, _place: &PromptPlace) -> Result<PromptNumbers> {
        let name = format!("{} score", self.score.print());
        let found = PromptNumbers::of_cells(body, "head", &[&name], |cell| vec![cell.value])?;
        // Attention is never exactly 0 where it may look: these were averaged over no positions.
        let none = found.rows.iter().all(|row| row.values == [Some(0.0)]);
        let rows = found.rows.into_iter().map(|row| NumberRow {
            values: if none { vec![None] } else { row.values },
            ..row
        });
        Ok(PromptNumbers {
            rows: rows.collect(),
            ..found
        })
    }

    fn layers(&self, layers: usize) -> Result<Vec<usize>> {
        let one = self.layer.within(layers)?;
        Ok(one.map_or_else(|| (0..layers).collect(), |layer| vec![layer]))
    }

    fn weight(&self) -> EdgeMeasure {
        match self.value {
            EdgeWeight::Value => EdgeMeasure::Value,
            EdgeWeight::Write => EdgeMeasure::Write,
            EdgeWeight::Probability | EdgeWeight::Entropy => EdgeMeasure::Probability,
        }
    }

    fn apart(&self) -> bool {
        self.first == First::Apart
    }

    /// The positions that a figure shows.
    fn shown_positions(&self, run: &Run) -> Result<Range<usize>> {
        let last = self.position.within(run.tokens.len())?;
        let count = self.window.0.min(last + 1);
        Ok(last + 1 - count..last + 1)
    }

    /// The cell of one query of a head: its strongest source, followed by the next strongest.
    fn query_cell(
        &self,
        row: &[f32],
        (layer, head): (usize, usize),
        query: usize,
        run: &Run,
        lab: &Lab,
    ) -> Cell {
        let found = strongest(row, query, 5, self.apart());
        let name = |j: usize| format!("{} {j}", lab.visible(run.tokens[j]));
        let spread = entropy(&row[..=query]);
        let mut more: Vec<(String, f32)> = found.iter().map(|(j, v)| (name(*j), *v)).collect();
        let by_entropy = self.value == EdgeWeight::Entropy;
        if by_entropy {
            more.insert(0, ("entropy".into(), spread));
        }
        let (label, value) = match found.first() {
            Some((j, v)) => (lab.visible(run.tokens[*j]), *v),
            None => (String::new(), 0.0),
        };
        let value = if by_entropy { spread } else { value };
        let anchor = Anchor::cell(layer, query).with(Unit::Head(head as u32));
        Cell::of(label, value, anchor).more(more)
    }

    fn needs_of(&self, layers: &[usize]) -> Needs {
        let weight = self.weight();
        Needs {
            record: layers.iter().flat_map(|l| weight.addresses(*l)).collect(),
            ..Needs::default()
        }
    }

    /// The positions to capture in order to show some: weights by value norms need all sources.
    fn captured_positions(&self, run: &Run, shown: &Range<usize>) -> Range<usize> {
        match self.weight() {
            EdgeMeasure::Probability => shown.clone(),
            EdgeMeasure::Value | EdgeMeasure::Write => 0..run.tokens.len(),
        }
    }

    /// Adds the strongest sources of the heads of some layers to the columns, which belong to the positions from `first` on.
    fn read(
        &self,
        of: &Capture,
        layers: &[usize],
        first: usize,
        cells: &mut [Vec<Cell>],
        lab: &Lab,
    ) -> Result<()> {
        for layer in layers {
            let edges = Edges::read(lab, of, *layer, self.weight())?;
            for (query, cells) in (first..).zip(cells.iter_mut()) {
                let heads = 0..lab.model.card.heads;
                let cell = |head| {
                    let row = edges.row(head, query);
                    self.query_cell(row, (*layer, head), query, &of.run, lab)
                };
                cells.extend(heads.map(cell));
            }
        }
        Ok(())
    }

    /// The strongest sources of all heads, heads by positions, capturing as many layers at a time as fit the memory budget.
    fn heads(&self, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let layers = self.layers(lab.model.card.layers)?;
        let shown = self.shown_positions(run)?;
        let captured = self.captured_positions(run, &shown);
        let mut cells: Vec<Vec<Cell>> = vec![Vec::new(); shown.len()];
        let most = lab.attention_layers(run.tokens.len());
        for (done, some) in layers.chunks(most).enumerate() {
            lab.report((done * most) as f32 / layers.len() as f32)?;
            let needs = self.needs_of(some);
            let capture = lab.capture(run, captured.clone(), &needs)?;
            self.read(&capture, some, shown.start, &mut cells, lab)?;
        }
        let last = shown.end - 1;
        let mut draft = self.head_grid(run, shown, cells, &layers, lab);
        if let Body::Grid(grid) = &mut draft.body
            && grid.rows.len() > ALL
        {
            grid.opening = self.opening(run, last, &layers, lab)?;
        }
        Ok(draft)
    }

    /// Which of many heads text opens with: those that add most after a position. None where the family has no outputs of heads.
    fn opening(
        &self,
        run: &Run,
        position: usize,
        layers: &[usize],
        lab: &mut Lab,
    ) -> Result<Option<OpeningRows>> {
        if lab.model.transformer.check_head_writes().is_err() {
            return Ok(None);
        }
        let (normed, heads) = (lab.model.card.norms_writes, lab.model.card.heads);
        let mut wanted: Vec<Address> = layers
            .iter()
            .flat_map(|l| output_addresses(*l, normed))
            .collect();
        wanted.extend(layers.iter().map(|l| Site::ResidPre.at(*l)));
        wanted.sort_unstable();
        wanted.dedup();
        let recording = lab.record(run, &wanted)?;
        let places: Vec<_> = layers
            .iter()
            .flat_map(|l| (0..heads).map(move |h| ((*l, h), position)))
            .collect();
        let largest = largest_outputs(lab, &recording, &places, OPENING)?;
        let rows = places.iter().enumerate();
        let rows = rows.filter(|(_, (head, _))| largest.contains(head));
        let token = lab.visible(run.tokens[position]);
        Ok(Some(OpeningRows {
            rows: rows.map(|(row, _)| row).collect(),
            why: format!(
                "the heads whose outputs at {token} {position} are the largest shares of the stream there"
            ),
        }))
    }

    fn head_grid(
        &self,
        run: &Run,
        positions: Range<usize>,
        cells: Vec<Vec<Cell>>,
        layers: &[usize],
        lab: &Lab,
    ) -> Draft {
        let heads = lab.model.card.heads;
        let rows = layers
            .iter()
            .flat_map(|l| (0..heads).map(move |h| AxisLabel::head(*l, h)));
        let judged = cells.iter().flatten();
        let judged = judged.filter(|c| !self.apart() || c.anchor.position != Some(0));
        let hi = judged.map(|c| c.value).fold(0f32, f32::max);
        let word = self.value.print();
        let (value, scale) = match self.value {
            EdgeWeight::Entropy => ("entropy of the attention, nats".into(), Scale::up_to(hi)),
            EdgeWeight::Probability => ("attention to the strongest source".into(), Scale::Unit),
            EdgeWeight::Value | EdgeWeight::Write => (
                format!("attention times the norm of the {word}, at the strongest source"),
                Scale::up_to(hi),
            ),
        };
        let columns = ("position", lab.headers(run, positions));
        let grid: Grid = Grid::filled(("head", rows.collect()), columns, value, cells);
        Draft::of(grid.scaled(scale))
            .titled(format!("strongest sources · {word}"))
            .note("each cell: the token that the head attends to most from that position")
            .notes(self.first_position_note())
    }

    fn first_position_note(&self) -> Option<String> {
        self.apart().then(|| {
            "position 0 is an attention sink in many models: it is left out of the strongest sources and of the colour scale (first=counted includes it); probabilities are unchanged".into()
        })
    }

    /// The attention pattern of one head: one row for each query position, one column for each key position.
    fn pattern(&self, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let (layer, head) = self.named_head(lab)?;
        let shown = self.shown_positions(run)?;
        let weight = self.weight();
        let captured = self.captured_positions(run, &shown);
        let capture = lab.capture(run, captured, &self.needs_of(&[layer]))?;
        let edges = Edges::read(lab, &capture, layer, weight)?;
        let cell = |row: usize, column: usize| {
            let (query, source) = (shown.end - 1 - row, shown.start + column);
            let weight = edges.row(head, query)[source];
            let [reader, read] = [query, source].map(|p| lab.visible(run.tokens[p]));
            let anchor = Anchor::cell(layer, query).with(Unit::Head(head as u32));
            Cell::of("", weight, anchor).more([(
                format!("{reader} {query} attends to {read} {source}"),
                weight,
            )])
        };
        let value = self.value.print();
        // Reversed, because rows are drawn from the bottom and the first query should be on top.
        let rows = ("query position", lab.headers(run, shown.clone().rev()));
        let columns = ("key position", lab.headers(run, shown.clone()));
        let grid = Grid::of(rows, columns, &value, cell);
        let apart = usize::from(self.apart() && shown.start == 0);
        let judged = grid.cells.iter().skip(apart).flatten();
        let hi = judged.map(|c| c.value).fold(0f32, f32::max);
        let first = shown.start;
        let left_out =
            format!("positions before {first} are left out, so rows do not sum to 1 here");
        Ok(Draft::of(grid.scaled(Scale::up_to(hi)))
            .titled(format!("head {layer}.{head} · {value}"))
            .note("each row: a query position; each column: a key position that it attends to; masked edges are 0")
            .notes((first > 0).then_some(left_out))
            .notes(self.first_position_note()))
    }

    /// The strongest source of each of some heads at a position, with its share of the head's attention.
    fn strongest_sources(
        &self,
        heads: &[HeadOutput],
        run: &Run,
        position: usize,
        lab: &mut Lab,
    ) -> Result<Vec<(usize, f32)>> {
        let mut layers: Vec<usize> = heads.iter().map(|own| own.head.0).collect();
        layers.sort_unstable();
        layers.dedup();
        let mut read = vec![(0, 0.0); heads.len()];
        for some in layers.chunks(lab.attention_layers(run.tokens.len())) {
            let wanted: Vec<Address> = some.iter().map(|l| Site::AttnProbs.at(*l)).collect();
            let recording = lab.record(run, &wanted)?;
            for (own, read) in heads.iter().zip(&mut read) {
                let (layer, head) = own.head;
                if !some.contains(&layer) {
                    continue;
                }
                let probs = recording.get(Site::AttnProbs.at(layer))?.get(head)?;
                let probs = probs
                    .get(position)?
                    .to_dtype(DType::F32)?
                    .host_vec1::<f32>()?;
                let most = strongest(&probs, position, 1, self.apart());
                *read = most.first().copied().unwrap_or_default();
            }
        }
        Ok(read)
    }

    /// The heads with the largest outputs at a position, their strongest sources, and the tokens that they promote.
    fn writes(&self, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let layers = self.layers(lab.model.card.layers)?;
        let position = self.position.within(run.tokens.len())?;
        let normed = lab.model.card.norms_writes;
        let wanted: Vec<Address> = layers
            .iter()
            .flat_map(|l| output_addresses(*l, normed))
            .collect();
        let recording = lab.record(run, &wanted)?;
        let heads: Vec<(usize, usize)> = layers
            .iter()
            .flat_map(|l| (0..lab.model.card.heads).map(move |h| (*l, h)))
            .collect();
        let places: Vec<_> = heads.iter().map(|head| (*head, position)).collect();
        let mut found = head_outputs(lab, &recording, &places, 5)?;
        found.sort_by(|a, b| order(b.size, a.size));
        found.truncate(self.count.0);
        let read = self.strongest_sources(&found, run, position, lab)?;
        let mut rows = Vec::with_capacity(found.len());
        for (own, (source, prob)) in found.iter().zip(read) {
            let (layer, head) = own.head;
            let words = |side: &[(u32, f32)]| lab.visibles(side.iter().map(|(id, _)| *id));
            let anchor = Anchor::cell(layer, position).with(Unit::Head(head as u32));
            rows.push(TableRow::at(
                anchor,
                entries![
                    format!("{layer}.{head}"),
                    own.size,
                    format!("{} {source}", lab.visible(run.tokens[source])),
                    prob,
                    words(&own.promoted),
                    words(&own.suppressed),
                ],
            ));
        }
        let columns = [
            "head",
            "size",
            "attends to",
            "probability",
            "promotes",
            "suppresses",
        ];
        let title = format!("after {}", lab.visible(run.tokens[position]));
        let page = TablePage::of(title, Anchor::position(position), rows);
        Ok(Draft::of(Table::paged(&columns, vec![page]))
            .titled("head outputs")
            .note("size: the norm of the head's output (what it adds to the residual stream); promotes, suppresses: direct logit attribution of that output, through the final norm's gain and the unembedding")
            .notes(self.first_position_note()))
    }
}
