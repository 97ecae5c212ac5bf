//! Tokens followed through the layers: when does an answer rise, and what does it overtake?
//!
//! Reads one position at every layer through a lens and follows chosen tokens: probability, log-probability, rank, or
//! reciprocal rank, in which an answer's rise shows as a step. To follow another number, add a word to `show` and its arm
//! in `Track::number`. Sources: Merullo et al. 2305.16130 (reciprocal ranks); the lens's own.

use super::lens::{FILE, NORM, SITE, cautions, view};
use crate::error::{Error, Result};
use crate::figure::{Anchor, Body, Curve, Figure, Header, Scale, Series, Style, Unit};
use crate::instruments::logit_lens::reading::{Wish, see};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::{Bench, reading};
use crate::lab::readout::{Said, Told};
use crate::lab::run::Run;
use crate::lab::target::first_token;

/// The instrument.
pub struct Track;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "tokens",
        kind: Kind::Text,
        default: "",
        about: "the tokens to follow, with | between: texts (the first token of each, spaces count) or #ID; by default the strongest of the output",
    },
    Parameter {
        name: "count",
        kind: Kind::Count { lo: 1, hi: 12 },
        default: "4",
        about: "how many of the output's strongest tokens are followed when none are named",
    },
    Parameter {
        name: "show",
        kind: Kind::Choice(&["probability", "logprob", "rank", "reciprocal_rank"]),
        default: "probability",
        about: "the number that is followed; log-probabilities in nats, rank 0 is the strongest",
    },
    Parameter {
        name: "position",
        kind: Kind::Position,
        default: "-1",
        about: "the position that is read; negative counts from the end",
    },
    SITE,
    NORM,
    FILE,
];

/// The most tokens that are followed.
const MOST: usize = 12;

impl Instrument for Track {
    fn name(&self) -> &'static str {
        "track"
    }

    fn about(&self) -> &'static str {
        "Tokens followed through the layers: the probability or rank that every layer would have given them"
    }

    fn source(&self) -> &'static str {
        "logit lens with reciprocal ranks: Merullo et al. 2024 (2305.16130)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let view = view(self, arguments, bench)?;
        let position = arguments.position(self, "position", run.tokens.len())?;
        let tokens = self.tokens(run, arguments, bench, position)?;
        let show = arguments.text(self, "show");
        let wish = Wish {
            top: 1,
            tokens: tokens.clone(),
            ranks: matches!(show, "rank" | "reciprocal_rank"),
            ..Wish::default()
        };
        let seen = see(bench, run, &view, position..position + 1, &wish, true)?;
        let layers = seen.layers.len();
        let curve = |i: usize, rows: &[Vec<Said>], suffix: &str| Curve {
            label: format!("{}{suffix}", bench.visible(tokens[i])),
            anchor: Anchor::position(position).with(Unit::Token(tokens[i])),
            values: rows
                .iter()
                .map(|row| number(show, &row[0].tokens[i]))
                .collect(),
            total: None,
        };
        let mut curves: Vec<Curve> = (0..tokens.len())
            .map(|i| curve(i, &seen.layers, ""))
            .collect();
        if !seen.plain.is_empty() {
            curves.extend((0..tokens.len()).map(|i| curve(i, &seen.plain, " plain")));
        }
        let scale = scale(show, &curves);
        let answer = bench.visible(seen.finals[0].first().0);
        let mut notes = vec![match seen.settles(0) {
            Some(layer) => format!(
                "the answer {answer} settles at layer {layer} of 0-{}",
                layers - 1
            ),
            None => format!("the answer {answer} is the strongest at no last layer of this lens"),
        }];
        notes.push(match show {
            "rank" | "reciprocal_rank" => {
                "rank: how many tokens are strictly stronger; the lens is biased in early layers"
                    .into()
            }
            _ => "layers differ in temperature as well: where that matters, compare ranks".into(),
        });
        notes.extend(cautions(&view, bench.model.card.layers));
        let name = show.replace('_', " ");
        let kind = view
            .file
            .as_ref()
            .map_or_else(String::new, |f| format!("{} · ", f.kind.name()));
        let after = bench.visible(run.tokens[position]);
        Ok(Figure {
            title: format!(
                "track · {kind}{} · after {after} at {position}",
                view.site.spec().name
            ),
            body: Body::Series(Series {
                axis: "layer".into(),
                value: if show == "logprob" {
                    "log-probability (nats)".into()
                } else {
                    name
                },
                points: (0..layers)
                    .map(|l| Header {
                        label: l.to_string(),
                        anchor: Anchor::layer(l),
                    })
                    .collect(),
                curves,
                scale,
                style: Style::Lines,
            }),
            notes,
            check: seen.check,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }
}

impl Track {
    /// The tokens that are followed.
    fn tokens(
        &self,
        run: &Run,
        arguments: &Arguments,
        bench: &mut Bench,
        position: usize,
    ) -> Result<Vec<u32>> {
        let text = arguments.text(self, "tokens");
        let mut tokens = Vec::new();
        if text.is_empty() {
            let count = arguments.count(self, "count")?;
            let logits = bench.last_logits(&run.clone().until(position + 1))?;
            let known = bench.model.known_tokens();
            tokens.extend(reading(&logits, known, count).top.iter().map(|t| t.0));
        } else {
            for part in text.split('|').filter(|part| !part.is_empty()) {
                let id = first_token("tokens", part, &bench.model)?;
                if !tokens.contains(&id) {
                    tokens.push(id);
                }
            }
        }
        if tokens.is_empty() || tokens.len() > MOST {
            let expected = format!("from 1 to {MOST} tokens, with | between");
            return Err(Error::argument("tokens", text, expected));
        }
        Ok(tokens)
    }
}

fn number(show: &str, told: &Told) -> f32 {
    match show {
        "logprob" => told.logprob,
        "rank" => told.rank(),
        "reciprocal_rank" => 1.0 / (told.rank() + 1.0),
        _ => told.logprob.exp(),
    }
}

fn scale(show: &str, curves: &[Curve]) -> Scale {
    let values = || curves.iter().flat_map(|c| c.values.iter().copied());
    match show {
        "logprob" => Scale::Range {
            lo: values().filter(|v| v.is_finite()).fold(-1.0, f32::min),
            hi: 0.0,
        },
        "rank" => Scale::Range {
            lo: 0.0,
            hi: values().fold(1.0, f32::max),
        },
        _ => Scale::Unit,
    }
}
