//! The residual stream as a sum, and a logit as the same sum: direct logit attribution.
//!
//! At one position the sum is told write by write (embedding, every attention write, every MLP write, biases) and opens to
//! heads, to neurons, and to the tokens that attention read; over several positions it is a grid. The sums are
//! [`crate::lab::attribution`]; what makes up a write is [`crate::lab::decomposition`]. Invariant: every figure carries the error of the sum that it shows.
//! Sources: nostalgebraist 2020; Elhage et al. 2021; TransformerLens `logit_attrs`; shares: Ferrando and Voita 2024
//! (2403.00824).

mod open;

use std::collections::HashMap;

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::Result;
use crate::figure::{
    Anchor, Body, Cell, Check, Curve, Figure, Grid, Header, Scale, Series, Style, Unit,
};
use crate::lab::attribution::{Attribution, Part, Question, Share, addresses, check_sum};
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::target::Target;
use crate::lab::writer::{Needs, Step};
use crate::model::Card;

/// The instrument.
pub struct Residual;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "token",
        kind: Kind::Text,
        default: "",
        about: "whose logit is taken apart: a text (its first token) or #ID; \"A\" - \"B\" for a difference; by default the favoured one at each position",
    },
    Parameter {
        name: "by",
        kind: Kind::Choice(&["layer", "head", "neuron", "source"]),
        default: "layer",
        about: "layer: every write; head, neuron: what writes are made of; source: the tokens that attention read",
    },
    Parameter {
        name: "layer",
        kind: Kind::Layer,
        default: "all",
        about: "the layer that is opened to heads, neurons or sources, or all",
    },
    Parameter {
        name: "position",
        kind: Kind::Position,
        default: "-1",
        about: "the position after which the logit is read",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 1, hi: 256 },
        default: "1",
        about: "how many positions, up to that one; more than one make a grid",
    },
    Parameter {
        name: "value",
        kind: Kind::Choice(&["effect", "size", "cosine", "share"]),
        default: "effect",
        about: "by layer: the effect on the logit, length of the write, its cosine with the stream before it, or its share in the end of the stream (not additive in logits)",
    },
    Parameter {
        name: "centred",
        kind: Kind::Choice(&["no", "yes"]),
        default: "no",
        about: "yes: takes the mean over the vocabulary away from the logit of a single token",
    },
    Parameter {
        name: "count",
        kind: Kind::Count { lo: 1, hi: 200 },
        default: "12",
        about: "how many neurons to list",
    },
];

impl Instrument for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn about(&self) -> &'static str {
        "Where a logit came from: the residual stream as a sum of writes, opened to heads, neurons and source tokens"
    }

    fn source(&self) -> &'static str {
        "direct logit attribution: nostalgebraist 2020; Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn live(&self, card: &Card, arguments: &Arguments) -> Option<Needs> {
        let newest =
            arguments.text(self, "by") == "layer" && arguments.text(self, "position") == "-1";
        if !newest || card.norms_stream {
            return None;
        }
        // What edits of the stream move is recorded as well, and a step that lacks it would not sum.
        Some(Needs {
            record: every_address(card),
            unembed: Vec::new(),
        })
    }

    fn rows_follow_edits(&self) -> bool {
        // What an edit of the stream moves is a row of its own.
        true
    }

    fn column(&self, step: &Step, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let rows = step.rows.iter();
        let rows = rows
            .map(|(at, row)| Ok((*at, row.unsqueeze(0)?)))
            .collect::<Result<HashMap<_, _>>>()?;
        let positions = vec![step.choice.position];
        let question = self.question(arguments, bench)?;
        let sum = Attribution::read(bench, &step.run, positions, &rows, question)?;
        self.by_layer(&sum, &step.run, arguments, bench)
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        check_sum(&bench.model)?;
        let last = arguments.position(self, "position", run.tokens.len())?;
        let count = arguments.count(self, "window")?.min(last + 1);
        let question = self.question(arguments, bench)?;
        match arguments.text(self, "by") {
            "head" => self.by_head(run, last + 1 - count..last + 1, question, arguments, bench),
            "neuron" => self.by_neuron(run, last + 1 - count..last + 1, question, arguments, bench),
            "source" => self.by_source(run, last, question, arguments, bench),
            _ => {
                let sum = bench.attribute(run, last + 1 - count..last + 1, question)?;
                self.by_layer(&sum, run, arguments, bench)
            }
        }
    }
}

/// Everything that a sum may need, whatever edits are in force.
fn every_address(card: &Card) -> Vec<crate::model::network::site::Address> {
    use crate::model::network::site::Site;
    let mut out = vec![Site::Embed.at(0)];
    for layer in 0..card.layers {
        out.extend([
            Site::ResidPre.at(layer),
            Site::AttnAdd.at(layer),
            Site::MlpAdd.at(layer),
            Site::ResidPost.at(layer),
        ]);
    }
    out
}

impl Residual {
    fn question(&self, arguments: &Arguments, bench: &Bench) -> Result<Question> {
        let target = match arguments.text(self, "token") {
            "" => None,
            text => Some(Target::parse("token", text, &bench.model)?),
        };
        Ok(Question {
            target,
            centred: arguments.text(self, "centred") == "yes",
        })
    }

    fn by_layer(
        &self,
        sum: &Attribution,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
    ) -> Result<Figure> {
        let many = arguments.count(self, "window")? > 1;
        let value = arguments.text(self, "value");
        // A grid of one column is about the favoured tokens too: more columns may come.
        let whose = if many && arguments.text(self, "token").is_empty() {
            FAVOURED.to_owned()
        } else {
            spelled(sum, bench)
        };
        let title = match (many, value) {
            (false, "effect") => format!("residual · what made {whose}"),
            _ => format!("residual · {}", measured(value, &whose)),
        };
        let body = if many {
            Body::Grid(grid(sum, run, value, &whose, bench))
        } else {
            Body::Series(series(sum, value, &whose))
        };
        let mut notes = self.notes(sum, run, arguments, bench);
        if value == "share" {
            notes.push("share: max(|x| - |x - c|, 0) of a write c in the end of the stream x, in sums of magnitudes, over all writes; it says nothing of logits".into());
        }
        Ok(Figure {
            title,
            body,
            notes,
            check: Some(sum.check),
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }

    /// What a reader of any of these figures must know.
    fn notes(
        &self,
        sum: &Attribution,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
    ) -> Vec<String> {
        let shape = &bench.model.transformer.blueprint;
        let i = sum.positions.len() - 1;
        let of = sum.targets[i];
        let total: f64 = sum.shares[i].iter().map(|s| f64::from(s.effect)).sum();
        let mut notes = vec![format!(
            "after {}: the parts sum to {total:.6}, the model's own value is {:.6}; they sum to the end of the stream within {:.0e} of its largest entry",
            bench.visible(run.tokens[sum.positions[i]]),
            sum.logits[i],
            sum.stream_error.max(1e-9)
        )];
        notes.push("direct effects alone: what later layers make of a write is theirs; the final norm's scale is held at what it was".into());
        if let Some(cap) = shape.logit_cap {
            notes.push(format!(
                "the logits of this model are capped softly at {cap}; attributed is the logit before the cap, where the sum is exact"
            ));
        }
        if of.less.is_none() {
            notes.push(if arguments.text(self, "centred") == "yes" {
                "centred: the mean over the vocabulary is taken away".into()
            } else {
                "the logit of one token has no zero of its own: compare with another token (\"A\" - \"B\") or use centred=yes".to_string()
            });
        }
        if run
            .schedule
            .acts_at(crate::model::network::site::Site::FinalNorm)
        {
            notes.push("an edit acts after the last block (final_norm), which is not in this sum: the value is that of the unedited end".into());
        }
        notes
    }
}

/// The targets where none is given.
const FAVOURED: &str = "the favoured token of each position";

/// The targets of a figure in words.
pub(crate) fn spelled(sum: &Attribution, bench: &Bench) -> String {
    match sum.targets.as_slice() {
        [first, rest @ ..] if rest.iter().all(|t| t == first) => first.spell(bench),
        _ => FAVOURED.to_owned(),
    }
}

/// Where a part was written.
fn anchor(part: Part, position: usize) -> Anchor {
    match part.layer() {
        Some(layer) => Anchor::cell(layer, position),
        None => Anchor::position(position),
    }
}

/// The sum at one position, part by part; its total is the model's own logit, which is measured apart.
fn series(sum: &Attribution, value: &str, whose: &str) -> Series {
    let kept = kept(sum, value);
    let values: Vec<f32> = kept
        .iter()
        .map(|k| pick(&sum.shares[0][*k], value))
        .collect();
    let reach = values.iter().fold(1e-6, |most: f32, v| most.max(v.abs()));
    let adds = value == "effect";
    Series {
        axis: "write".into(),
        value: measured(value, whose),
        // Only the layer: a live figure that named a position here would grow instead of being replaced.
        points: kept.iter().map(|k| header(sum.parts[*k])).collect(),
        curves: vec![Curve {
            label: value.into(),
            anchor: Anchor::position(sum.positions[0]),
            values,
            total: adds.then(|| sum.logits[0]),
        }],
        scale: match value {
            "size" => Scale::Range { lo: 0.0, hi: reach },
            "share" => Scale::Unit,
            "cosine" => Scale::Diverging { reach: 1.0 },
            _ => Scale::Diverging { reach },
        },
        style: if adds { Style::Waterfall } else { Style::Bars },
    }
}

fn header(part: Part) -> Header {
    Header {
        label: part.name(),
        anchor: part.layer().map_or_else(Anchor::default, Anchor::layer),
    }
}

/// Which parts have such a number: constants have an effect and nothing else.
fn kept(sum: &Attribution, value: &str) -> Vec<usize> {
    (0..sum.parts.len())
        .filter(|k| value == "effect" || !matches!(sum.parts[*k], Part::NormBias | Part::TokenBias))
        .collect()
}

fn pick(share: &Share, value: &str) -> f32 {
    match value {
        "size" => share.size,
        "cosine" => share.cosine,
        "share" => share.share,
        _ => share.effect,
    }
}

/// What the numbers are.
fn measured(value: &str, whose: &str) -> String {
    match value {
        "effect" => format!("effect on the logit of {whose}"),
        "size" => "length of the write".into(),
        "cosine" => "cosine of the write with the stream before it".into(),
        _ => "share of the write in the end of the stream".into(),
    }
}

/// Parts by positions.
fn grid(sum: &Attribution, run: &Run, value: &str, whose: &str, bench: &Bench) -> Grid {
    let kept = kept(sum, value);
    let cells = sum.positions.iter().enumerate().map(|(i, position)| {
        let cell = |k: &usize| {
            let share = &sum.shares[i][*k];
            Cell {
                label: String::new(),
                value: pick(share, value),
                anchor: anchor(sum.parts[*k], *position),
                more: vec![
                    ("effect".into(), share.effect),
                    ("size".into(), share.size),
                    ("cosine".into(), share.cosine),
                ],
            }
        };
        kept.iter().map(cell).collect::<Vec<_>>()
    });
    let cells: Vec<Vec<Cell>> = cells.collect();
    let columns = match value {
        "effect" => targets(sum, run, bench),
        _ => columns(&sum.positions, run, bench),
    };
    Grid {
        also: crate::figure::also::Also::default(),
        row_axis: "write".into(),
        column_axis: "position".into(),
        value: measured(value, whose),
        rows: kept.iter().map(|k| header(sum.parts[*k])).collect(),
        columns,
        scale: scale(&sum.positions, &cells, value),
        cells,
    }
}

/// Headers of positions.
pub(crate) fn columns(positions: &[usize], run: &Run, bench: &Bench) -> Vec<Header> {
    let header = |p: &usize| Header {
        label: bench.visible(run.tokens[*p]),
        anchor: Anchor::position(*p),
    };
    positions.iter().map(header).collect()
}

/// Headers of positions with the token whose logit it is, so that two runs that favour different tokens are told apart.
pub(crate) fn targets(sum: &Attribution, run: &Run, bench: &Bench) -> Vec<Header> {
    let mut columns = columns(&sum.positions, run, bench);
    for (column, target) in columns.iter_mut().zip(&sum.targets) {
        column.anchor = column.anchor.with(Unit::Token(target.token));
    }
    columns
}

/// The colour scale of a grid: the first position of a text, a sink in many models, has no part in it.
fn scale(positions: &[usize], cells: &[Vec<Cell>], value: &str) -> Scale {
    let columns = positions.iter().zip(cells);
    let judged = columns.filter(|(p, _)| positions.len() == 1 || **p > 0);
    let values = judged.flat_map(|(_, column)| column.iter().map(|c| c.value));
    let reach = values.fold(0f32, |most, v| most.max(v.abs())).max(1e-6);
    match value {
        "size" => Scale::Range { lo: 0.0, hi: reach },
        "share" => Scale::Unit,
        "cosine" => Scale::Diverging { reach: 1.0 },
        _ => Scale::Diverging { reach },
    }
}

/// The worse of a sum's check and the rests of what was opened.
pub(crate) fn with_rests(check: Check, pieces: &[crate::lab::decomposition::Pieces]) -> Check {
    pieces.iter().filter(|p| !p.edited).fold(check, |check, p| {
        let error = p.rest.iter().fold(0f32, |most, r| most.max(r.abs()));
        let own = Check {
            error,
            tolerance: p.tolerance,
        };
        if own.passed() && check.passed() {
            check.worst(own)
        } else if check.passed() {
            own
        } else {
            check
        }
    })
}

/// Addresses of the sum and more.
fn all_addresses(
    bench: &Bench,
    run: &Run,
    more: Vec<crate::model::network::site::Address>,
) -> Result<Vec<crate::model::network::site::Address>> {
    let mut wanted = addresses(&bench.model.card, run)?;
    more.into_iter().for_each(|at| {
        if !wanted.contains(&at) {
            wanted.push(at);
        }
    });
    Ok(wanted)
}
