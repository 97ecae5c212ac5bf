//! The logit lens: what would the model say if it stopped here?
//!
//! Reads a state of every layer, by default `resid_post`, through the final norm and the unembedding, and keeps the
//! strongest tokens, or a number of the whole distribution. The last state is the model itself; the figure checks that
//! against the model's own logits. Sources: nostalgebraist 2020; Kao et al. 2001.09309; Belrose et al. 2303.08112 and
//! 2607.15495 where a file of maps is given.

use crate::error::{Error, Result};
use crate::figure::also::{Also, Number, Story, TOP};
use crate::figure::{Anchor, Body, Cell, Check, Figure, Grid, Header};
use crate::instruments::logit_lens::numbers::{Asked, Of, Show, Shown};
use crate::instruments::logit_lens::reading::{NormOf, SITES, Seen, View, see};
use crate::instruments::logit_lens::view::{MapsFile, ReadSite, shared};
use crate::instruments::params::ParameterValue;
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::Bench;
use crate::lab::readout::{Ask, Said, Tokens, read_row};
use crate::lab::run::Run;
use crate::lab::writer::{Needs, Step};
use crate::model::Card;
use crate::model::network::site::Site;

/// The instrument.
pub struct Lens;

/// Tokens from which on a vocabulary is large: the strongest token of an early layer says little there, and the rank of
/// the answer says more.
pub const LARGE: usize = 8192;

/// Where a lens reads.
pub(crate) const SITE: Parameter = shared::<ReadSite>("site");

/// Whose statistics the final norm uses.
pub(crate) const NORM: Parameter = shared::<NormOf>("norm");

/// A file of maps.
pub(crate) const FILE: Parameter = shared::<MapsFile>("maps");

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
        kind: Kind::Choice(&[
            "auto",
            "rank",
            "probability",
            "reciprocal_rank",
            "entropy",
            "kl",
        ]),
        default: "auto",
        about: "the number of a cell: of a token (ranks count from 1), or the cell's entropy or its KL from the model's output, in nats; auto: rank where the vocabulary has more than 8192 tokens, else probability",
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
pub(crate) fn view(of: &dyn Instrument, arguments: &Arguments, bench: &Bench) -> Result<View> {
    let site = ParameterValue::parse(arguments.text(of, "site"));
    let norm = ParameterValue::parse(arguments.text(of, "norm"));
    let maps = MapsFile(arguments.text(of, "maps").into());
    let bad = |expected| Error::argument("site", arguments.text(of, "site"), expected);
    crate::instruments::logit_lens::view::view(site.map_err(bad)?, norm.map_err(bad)?, &maps, bench)
}

/// What a reader must know of such a reading.
pub(crate) fn cautions(view: &View, layers: usize) -> Vec<String> {
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

    fn steady(&self) -> bool {
        true
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
        let last = Site::ResidPost.at(bench.model.card.layers - 1);
        let output = step.unembedded.iter().find(|(at, _)| *at == last);
        let Some((_, output)) = output else {
            return Err(Error::Engine("the last layer was not read".into()));
        };
        let keep = Ask {
            top: 1,
            keep: true,
            ..Ask::default()
        };
        let output = read_row(output, known, &keep, None);
        let answer = output.first().0;
        let ids = [match shown.subject {
            Of::Token(id) => id,
            Of::Own | Of::Answer => answer,
        }];
        let ask = Ask {
            top: shown.top,
            tokens: Tokens::Same(&ids),
            ranks: true,
            entropy: true,
            ..Ask::default()
        };
        // One after the other: waking a second thread costs more than a vocabulary of exponentials.
        let rows = step.unembedded.iter();
        let rows = rows.filter(|(at, _)| at.site == view.site);
        let said: Vec<(usize, Said)> = rows
            .map(|(at, row)| (at.layer.into(), read_row(row, known, &ask, Some(&output))))
            .collect();
        let cell =
            |(layer, said): &(usize, Said)| shown.cell(bench, said, Anchor::cell(*layer, position));
        let cells = said.iter().map(cell).collect();
        let values = said.iter().map(|(_, said)| shown.all(said)).collect();
        let strongest: Vec<u32> = said.iter().map(|(_, said)| said.first().0).collect();
        let story = shown.story(bench, position, answer, said.iter().map(|(_, said)| said));
        let settled = {
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
        };
        let notes = [settled]
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
                values: vec![values],
                stories: vec![story],
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
        let (mut cells, mut values, mut stories) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..total - first {
            let (mut column, mut numbers) = (Vec::new(), Vec::new());
            for (layer, said) in seen.layers.iter().enumerate() {
                let anchor = Anchor::cell(layer, first + i);
                let plain = seen.plain.get(layer);
                for said in [Some(said), plain].into_iter().flatten() {
                    column.push(shown.cell(bench, &said[i], anchor));
                    numbers.push(shown.all(&said[i]));
                }
            }
            let answer = seen.answers[i];
            let rows = seen.layers.iter().map(|layer| &layer[i]);
            stories.push(shown.story(bench, first + i, answer, rows));
            cells.push(column);
            values.push(numbers);
        }
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
                values,
                stories,
                check: seen.check,
                notes,
            },
        ))
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
    /// By column, row, and then number.
    values: Vec<Vec<Vec<f32>>>,
    stories: Vec<Story>,
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
        let number = |(i, asked): (usize, Asked)| {
            let column = |rows: &Vec<Vec<f32>>| rows.iter().map(|row| row[i]).collect();
            let values: Vec<Vec<f32>> = grown.values.iter().map(column).collect();
            Number {
                value: Shown::words(asked, bench),
                scale: Shown::scale(asked, bench, &grown.cells, &values),
                values,
            }
        };
        let numbers: Vec<Number> = shown
            .numbers()
            .into_iter()
            .enumerate()
            .map(number)
            .collect();
        let opens = &numbers[shown.opens()];
        let value = opens.value.clone();
        let told = grown.stories.last().map(|story| {
            let at = story.anchor.position.unwrap_or_default() as usize;
            format!("after {}: {story}", bench.visible(run.tokens[at]))
        });
        let grid = Grid {
            row_axis: "layer".into(),
            column_axis: "position".into(),
            scale: opens.scale,
            value: value.clone(),
            rows,
            columns,
            cells: grown.cells,
            also: Also {
                candidates: Some(Shown::words((Show::Probability, Of::Own), bench)),
                numbers,
                stories: grown.stories,
            },
        };
        let site = view.site.spec().name;
        let norm = match view.norm {
            NormOf::Own => "own",
            NormOf::Final => "final",
        };
        let mut notes = vec![format!(
            "each cell: the most probable next token after its position, read from {site} of its layer"
        )];
        notes.extend(told);
        notes.extend(grown.notes);
        let mut title = format!("lens · norm {norm} · ");
        if let Some(kind) = kind {
            title.extend([kind, " · "]);
        }
        if view.site != Site::ResidPost {
            title.extend([site, " · "]);
        }
        title += match shown.first {
            (Show::Probability, Of::Own) => TOP,
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
