//! The logit lens: what would the model say if it stopped here?
//!
//! Reads a state of every layer, by default `resid_post`, through the final norm and the unembedding, and keeps the
//! strongest tokens, or a number of the whole distribution. The last state is the model itself; the figure checks that
//! against the model's own logits. Sources: nostalgebraist 2020; Kao et al. 2001.09309; Belrose et al. 2303.08112 and
//! 2607.15495 where a file of maps is given.

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::{Error, Result};
use crate::lab::bench::{Bench, reading};
use crate::lab::figure::{Anchor, Body, Cell, Check, Figure, Grid, Header, Scale};
use crate::lab::lens::{NormOf, SITES, Seen, View, Wish, see};
use crate::lab::lens_file::LensFile;
use crate::lab::readout::{Said, Told};
use crate::lab::run::Run;
use crate::lab::sample::{entropy, kl, log_softmax, rank};
use crate::lab::target::first_token;
use crate::lab::writer::{Needs, Step};
use crate::model::Card;
use crate::model::finite::NOT_FINITE;
use crate::model::site::Site;

/// The instrument.
pub struct Lens;

/// Where a lens reads.
pub(super) const SITE: Parameter = Parameter {
    name: "site",
    kind: Kind::Choice(&[
        "resid_post",
        "resid_mid",
        "resid_pre",
        "attn_add",
        "mlp_add",
    ]),
    default: "resid_post",
    about: "what is read at every layer: the stream, or what attention or the MLP adds to it",
};

/// Whose statistics the final norm uses.
pub(super) const NORM: Parameter = Parameter {
    name: "norm",
    kind: Kind::Choice(&["own", "final"]),
    default: "own",
    about: "the statistics of the final norm: of each row itself, or of the model's last state at that position",
};

/// A file of maps.
pub(super) const FILE: Parameter = Parameter {
    name: "maps",
    kind: Kind::Text,
    default: "",
    about: "a tuned lens (its folder) or a Jacobian lens (its .pt file); the plain lens stands beside",
};

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "top",
        kind: Kind::Count { lo: 1, hi: 50 },
        default: "5",
        about: "how many tokens to keep in every cell",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 1, hi: 4096 },
        default: "64",
        about: "how many of the last positions to read",
    },
    Parameter {
        name: "show",
        kind: Kind::Choice(&["probability", "rank", "reciprocal_rank", "entropy", "kl"]),
        default: "probability",
        about: "the number of a cell: of a token, or the entropy of the cell or its KL from the model's output, in nats",
    },
    Parameter {
        name: "of",
        kind: Kind::Text,
        default: "",
        about: "the token that the number is of: a text, or `answer`, the model's own there; else the cell's strongest, for ranks the answer",
    },
    SITE,
    NORM,
    FILE,
];

/// Reads the parameters that say what is read and how.
pub(super) fn view(of: &dyn Instrument, arguments: &Arguments, bench: &Bench) -> Result<View> {
    let name = arguments.text(of, "site");
    let site = SITES.iter().copied().find(|s| s.spec().name == name);
    let file = arguments.text(of, "maps").trim();
    Ok(View {
        site: site.ok_or_else(|| Error::argument("site", name, "a state of the stream"))?,
        norm: match arguments.text(of, "norm") {
            "final" => NormOf::Final,
            _ => NormOf::Own,
        },
        file: match file {
            "" => None,
            file => Some(LensFile::open(file, &bench.model)?),
        },
    })
}

/// What a reader must know of such a reading.
pub(super) fn cautions(view: &View, layers: usize) -> Vec<String> {
    let mut notes = Vec::new();
    match (view.site, view.norm) {
        (Site::AttnAdd | Site::MlpAdd, NormOf::Own) => notes.push(
            "a write is read as a direction: its own norm makes it as long as a state, however small it was".into(),
        ),
        (Site::AttnAdd | Site::MlpAdd, NormOf::Final) => notes.push(
            "a write with the last state's norm: its part of the logits, and no distribution that the model ever has".into(),
        ),
        (_, NormOf::Final) => notes.push(
            "all rows with the last state's norm: early ones, which are shorter, look nearly uniform".into(),
        ),
        (_, NormOf::Own) => {}
    }
    if let Some(file) = &view.file {
        notes.push(file.about.clone());
        let lacks = file.lacks(view.site, layers);
        if !lacks.is_empty() {
            let names: Vec<String> = lacks.iter().map(ToString::to_string).collect();
            notes.push(format!(
                "the file has no map for {} of {}: what is said there is the plain lens",
                view.site.spec().name,
                match names.as_slice() {
                    [one] => format!("layer {one}"),
                    many => format!("layers {}", many.join(", ")),
                }
            ));
        }
    }
    notes
}

/// What a cell's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    Probability,
    Rank,
    ReciprocalRank,
    Entropy,
    Kl,
}

/// Whose number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The cell's strongest token.
    Own,
    /// The model's strongest token at that position.
    Answer,
    /// One token.
    Token(u32),
}

/// What is shown.
#[derive(Clone, Copy, Debug)]
struct Shown {
    show: Show,
    of: Of,
    top: usize,
}

impl Shown {
    fn parse(lens: &Lens, arguments: &Arguments, bench: &Bench) -> Result<Self> {
        let show = match arguments.text(lens, "show") {
            "rank" => Show::Rank,
            "reciprocal_rank" => Show::ReciprocalRank,
            "entropy" => Show::Entropy,
            "kl" => Show::Kl,
            _ => Show::Probability,
        };
        let of = match (arguments.text(lens, "of"), show) {
            ("answer", _) | ("", Show::Rank | Show::ReciprocalRank) => Of::Answer,
            ("", _) => Of::Own,
            (text, _) => Of::Token(first_token("of", text, &bench.model)?),
        };
        Ok(Self {
            show,
            of,
            top: arguments.count(lens, "top")?,
        })
    }

    fn wish(self) -> Wish {
        Wish {
            top: self.top,
            tokens: match self.of {
                Of::Token(id) => vec![id],
                Of::Own | Of::Answer => Vec::new(),
            },
            answer: self.of == Of::Answer,
            ranks: matches!(self.show, Show::Rank | Show::ReciprocalRank),
            entropy: self.show == Show::Entropy,
            kl: self.show == Show::Kl,
        }
    }

    /// The number of a row.
    fn number(self, said: &Said) -> f32 {
        let told = said.tokens.first();
        match self.show {
            Show::Probability => told.map_or(said.first().1, |t| t.logprob.exp()),
            Show::Rank => told.map_or(f32::NAN, Told::rank),
            Show::ReciprocalRank => told.map_or(f32::NAN, |t| 1.0 / (t.rank() + 1.0)),
            Show::Entropy => said.entropy,
            Show::Kl => said.kl,
        }
    }

    /// What the number is, in words.
    fn words(self, bench: &Bench) -> String {
        let of = match self.of {
            Of::Own => String::new(),
            Of::Answer => " of the answer".into(),
            Of::Token(id) => format!(" of {}", bench.visible(id)),
        };
        match self.show {
            Show::Probability => format!("probability{of}"),
            Show::Rank => format!("rank{of}"),
            Show::ReciprocalRank => format!("reciprocal rank{of}"),
            Show::Entropy => "entropy (nats)".into(),
            Show::Kl => "KL from the output (nats)".into(),
        }
    }

    fn scale(self, bench: &Bench, cells: &[Vec<Cell>]) -> Scale {
        let largest = || {
            // The first position often is a sink whose rows say nothing: it does not set the colours of the others.
            let counts = |c: &&Cell| cells.len() == 1 || c.anchor.position != Some(0);
            let values = cells.iter().flatten().filter(counts).map(|c| c.value);
            values.filter(|v| v.is_finite()).fold(0.0f32, f32::max)
        };
        match self.show {
            Show::Probability | Show::ReciprocalRank => Scale::Unit,
            Show::Entropy => Scale::Range {
                lo: 0.0,
                hi: (bench.model.card.vocab as f32).ln(),
            },
            Show::Rank | Show::Kl => Scale::Range {
                lo: 0.0,
                hi: largest().max(1e-6),
            },
        }
    }

    /// The cell of a row: its strongest token and the number. Runners-up stand there where the number is their own too.
    fn cell(self, bench: &Bench, said: &Said, anchor: Anchor) -> Cell {
        let spelled = said.top.iter().map(|(id, p)| (bench.visible(*id), *p));
        let more: Vec<(String, f32)> = spelled.collect();
        let label = more
            .first()
            .map_or_else(|| NOT_FINITE.into(), |m| m.0.clone());
        let own = self.show == Show::Probability && self.of == Of::Own;
        Cell {
            label,
            value: self.number(said),
            anchor,
            more: if own { more } else { Vec::new() },
        }
    }
}

impl Instrument for Lens {
    fn name(&self) -> &'static str {
        "lens"
    }

    fn about(&self) -> &'static str {
        "What every layer would have said: the residual stream read through the final norm and the unembedding"
    }

    fn source(&self) -> &'static str {
        "logit lens: nostalgebraist 2020; Kao et al. 2020 (2001.09309)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn live(&self, card: &Card, arguments: &Arguments) -> Option<Needs> {
        let site = arguments.text(self, "site");
        let site = SITES.iter().copied().find(|s| s.spec().name == site)?;
        // Riders of the model's own product have their own norm and go through no map; and not every model has a
        // state between attention and MLP.
        let live = arguments.text(self, "norm") == "own"
            && arguments.text(self, "maps").trim().is_empty()
            && site != Site::ResidMid;
        live.then(|| Needs {
            record: Vec::new(),
            unembed: View {
                site,
                ..View::plain()
            }
            .wanted(card.layers),
        })
    }

    fn column(&self, step: &Step, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let shown = Shown::parse(self, arguments, bench)?;
        let view = view(self, arguments, bench)?;
        let known = bench.model.known_tokens();
        let position = step.choice.position;
        let plain = shown.show == Show::Probability && shown.of == Of::Own;
        let last = Site::ResidPost.at(bench.model.card.layers - 1);
        let output = step.unembedded.iter().find(|(at, _)| *at == last);
        let output = match output {
            Some((_, row)) if !plain => Some(Output::of(row)),
            _ => None,
        };
        // One after the other: waking a second thread costs more than a vocabulary of exponentials.
        let (mut cells, mut strongest) = (Vec::new(), Vec::new());
        for (at, row) in step
            .unembedded
            .iter()
            .filter(|(at, _)| at.site == view.site)
        {
            let read = reading(row, known, shown.top);
            let mut said = Said {
                top: read.top,
                ..Said::default()
            };
            if let Some(output) = &output {
                output.measure(row, shown, &mut said);
            }
            strongest.push(said.first().0);
            cells.push(shown.cell(bench, &said, Anchor::cell(at.layer.into(), position)));
        }
        let answer = step.unembedded.iter().find(|(at, _)| *at == last);
        let answer = answer.and_then(|(_, row)| Some(reading(row, known, 1).top.first()?.0));
        let newest = answer.map(|answer| {
            let agree = strongest.iter().rev().take_while(|t| **t == answer).count();
            let layers = strongest.len();
            let settles = match agree {
                0 => "is the strongest at no last layer of this lens".into(),
                _ => format!("settles at layer {} of 0-{}", layers - agree, layers - 1),
            };
            format!(
                "after {} the answer {} {settles}",
                bench.visible(step.run.tokens[position]),
                bench.visible(answer)
            )
        });
        let notes = newest
            .into_iter()
            .chain(cautions(&view, bench.model.card.layers))
            .collect();
        Ok(self.figure(
            bench,
            &step.run,
            arguments,
            &view,
            shown,
            Grown {
                positions: vec![position],
                cells: vec![cells],
                check: step.check,
                notes,
            },
        ))
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let shown = Shown::parse(self, arguments, bench)?;
        let view = view(self, arguments, bench)?;
        let total = run.tokens.len();
        let first = total - arguments.count(self, "window")?.min(total);
        let seen = see(bench, run, &view, first..total, &shown.wish(), true)?;
        let cells = (0..total - first)
            .map(|i| {
                let mut column = Vec::new();
                for (layer, said) in seen.layers.iter().enumerate() {
                    let anchor = Anchor::cell(layer, first + i);
                    column.push(shown.cell(bench, &said[i], anchor));
                    if let Some(plain) = seen.plain.get(layer) {
                        column.push(shown.cell(bench, &plain[i], anchor));
                    }
                }
                column
            })
            .collect();
        let notes = settled(&seen, &view, run, bench);
        Ok(self.figure(
            bench,
            run,
            arguments,
            &view,
            shown,
            Grown {
                positions: (first..total).collect(),
                cells,
                check: seen.check,
                notes,
            },
        ))
    }
}

/// The model's own output at a position that was written, for what is compared with it.
struct Output {
    answer: u32,
    logprobs: Vec<f32>,
}

impl Output {
    fn of(row: &[f32]) -> Self {
        let mut logprobs = row.to_vec();
        log_softmax(&mut logprobs);
        let most = logprobs.iter().enumerate();
        let most = most.reduce(|a, b| if b.1 > a.1 { b } else { a });
        Self {
            answer: most.map_or(0, |m| m.0 as u32),
            logprobs,
        }
    }

    fn measure(&self, row: &[f32], shown: Shown, said: &mut Said) {
        let mut logprobs = row.to_vec();
        log_softmax(&mut logprobs);
        let id = match shown.of {
            Of::Own => None,
            Of::Answer => Some(self.answer),
            Of::Token(id) => Some(id),
        };
        said.tokens = id
            .map(|id| Told {
                id,
                logprob: logprobs.get(id as usize).copied().unwrap_or(f32::NAN),
                rank: rank(row, id),
            })
            .into_iter()
            .collect();
        said.entropy = entropy(&logprobs);
        said.kl = kl(&self.logprobs, &logprobs);
    }
}

/// From which layer on the answer stands, at the last position and over all of them.
fn settled(seen: &Seen, view: &View, run: &Run, bench: &Bench) -> Vec<String> {
    let layers = seen.layers.len();
    let count = seen.positions.len();
    let from = usize::from(count > 1 && seen.positions.start == 0);
    let mut all: Vec<usize> = (from..count).filter_map(|i| seen.settles(i)).collect();
    all.sort_unstable();
    let mut notes = Vec::new();
    if let Some(i) = count.checked_sub(1) {
        let answer = bench.visible(seen.finals[i].first().0);
        let last = match seen.settles(i) {
            Some(layer) => format!("settles at layer {layer} of 0-{}", layers - 1),
            None => "is the strongest at no last layer of this lens".into(),
        };
        let after = bench.visible(run.tokens[seen.positions.end - 1]);
        let share = if all.len() + from < count {
            format!("; {} of {} positions settle", all.len(), count - from)
        } else {
            String::new()
        };
        let median = all.get(all.len() / 2).map_or_else(String::new, |median| {
            format!("; median over {} positions: layer {median}", all.len())
        });
        notes.push(format!(
            "after {after} the answer {answer} {last}{median}{share}"
        ));
    }
    notes.extend(cautions(view, layers));
    notes
}

/// What a figure is made of.
struct Grown {
    positions: Vec<usize>,
    cells: Vec<Vec<Cell>>,
    check: Option<Check>,
    notes: Vec<String>,
}

impl Lens {
    fn figure(
        &self,
        bench: &Bench,
        run: &Run,
        arguments: &Arguments,
        view: &View,
        shown: Shown,
        grown: Grown,
    ) -> Figure {
        let kind = view.file.as_ref().map(|file| file.kind.name());
        let rows = (0..bench.model.card.layers)
            .flat_map(|l| {
                let own = Header {
                    label: l.to_string(),
                    anchor: Anchor::layer(l),
                };
                let plain = kind.map(|_| Header {
                    label: format!("{l} plain"),
                    anchor: Anchor::layer(l),
                });
                std::iter::once(own).chain(plain)
            })
            .collect();
        let columns = grown
            .positions
            .into_iter()
            .map(|p| Header {
                label: bench.visible(run.tokens[p]),
                anchor: Anchor::position(p),
            })
            .collect();
        let value = shown.words(bench);
        let grid = Grid {
            row_axis: "layer".into(),
            column_axis: "position".into(),
            scale: shown.scale(bench, &grown.cells),
            value: value.clone(),
            rows,
            columns,
            cells: grown.cells,
        };
        let site = view.site.spec().name;
        let norm = match view.norm {
            NormOf::Own => "own",
            NormOf::Final => "final",
        };
        let mut notes = vec![format!(
            "each cell: the most probable next token after its position, read from {site} of its layer"
        )];
        notes.extend(grown.notes);
        let mut title = format!("lens · norm {norm} · ");
        if let Some(kind) = kind {
            title.extend([kind, " · "]);
        }
        if view.site != Site::ResidPost {
            title.extend([site, " · "]);
        }
        title += match (shown.show, shown.of) {
            (Show::Probability, Of::Own) => "top-1",
            _ => &value,
        };
        Figure {
            title,
            body: Body::Grid(grid),
            notes,
            check: grown.check,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }
}
