//! Tokens followed through the layers: when does an answer rise, and which tokens does it overtake?
//!
//! Reads one position at every layer through a lens and follows chosen tokens: probability, log-probability, rank, or
//! reciprocal rank, in which an answer's rise shows as a step. To follow another number, add a variant to [`TrackedNumber`].
//! Sources: Merullo et al. 2305.16130 (reciprocal ranks); the lens's own.

use super::lens::cautions;
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Body, Curve, Scale, Series, Style, Unit};
use crate::instruments::logit_lens::lens_view::{MapsFile, ReadSite, answer_settles, view};
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, PromptPlace, RowOrder, series_of,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::{Count, ParameterValue, Position, choices};
use crate::instruments::{Draft, Measurement};
use crate::lab::Lab;
use crate::lab::capture::{Needs, NormOf, Output, Readout};
use crate::lab::readout::{RowStats, TokenStats};
use crate::lab::run::Run;
use crate::lab::target::first_token;

choices! {
    /// The number that is followed.
    pub enum TrackedNumber {
        Probability = "probability",
        Logprob = "logprob",
        Rank = "rank",
        ReciprocalRank = "reciprocal_rank",
    }
}

params_over_prompts! {
    /// What `track` is asked.
    pub struct TrackParams {
        /// the tokens to follow, separated by |: texts (the first token of each, spaces count) or #ID; by default the top predictions
        tokens: String,
        /// how many of the top predictions are followed when no tokens are named
        count: Count<1, MOST> = "4",
        /// the number that is followed; log-probabilities in nats, rank 0 is the top prediction
        show: TrackedNumber = "probability",
        /// the position that is read; negative numbers count from the end
        position: Position,
        site: ReadSite,
        norm: NormOf,
        maps: MapsFile,
    }
}

/// How the curves of the lens without maps are told apart.
const PLAIN: &str = " plain";

/// The most tokens that can be followed.
const MOST: usize = 12;

pub struct Track;

impl Measurement for Track {
    type Params = TrackParams;
    const NAME: &'static str = "track";
    const ABOUT: &'static str =
        "Logit lens of chosen tokens: their probability or rank at every layer";
    const SOURCE: &'static str =
        "logit lens with reciprocal ranks: Merullo et al. 2024 (2305.16130)";
    const OVER_PROMPTS: Option<OverPrompts<TrackParams>> = Some(OverPrompts {
        asked: TrackParams::asked,
        alone: |params, place| Ok(params.alone(place)),
        numbers: TrackParams::numbers,
        note: "a token at every layer; layers differ in how peaked their predictions are",
        order: |_| RowOrder::AsMeasured,
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    });

    fn measure(params: &TrackParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let view = view(params.site, params.norm, &params.maps, lab)?;
        let position = params.position.within(run.tokens.len())?;
        let tokens = params.followed(run, lab, position)?;
        let ranked = matches!(
            params.show,
            TrackedNumber::Rank | TrackedNumber::ReciprocalRank
        );
        let readout = Readout {
            plain: true,
            top: 1,
            tokens: tokens.clone(),
            ranks: ranked,
            ..view.readout(lab.model.card.layers)
        };
        let capture = lab.capture(run, position..position + 1, &Needs::of(readout))?;
        let seen = &capture.read;
        let curve = |rows: &[Vec<RowStats>], suffix: &str, i: usize, id: u32| {
            let values = rows.iter().map(|row| params.show.number(&row[0].tokens[i]));
            Curve::of(
                format!("{}{suffix}", lab.visible(id)),
                Anchor::position(position).with(Unit::Token(id)),
                values.collect(),
            )
        };
        let lenses = [(&seen.layers, ""), (&seen.plain, PLAIN)];
        let curves: Vec<Curve> = lenses
            .into_iter()
            .filter(|(rows, _)| !rows.is_empty())
            .flat_map(|(rows, suffix)| {
                let each = tokens.iter().enumerate();
                each.map(move |(i, id)| curve(rows, suffix, i, *id))
            })
            .collect();
        let kind = view.file.as_ref().map(|f| format!("{} · ", f.kind.name()));
        let value = if params.show == TrackedNumber::Logprob {
            "log-probability (nats)".into()
        } else {
            params.show.print().replace('_', " ")
        };
        let points = AxisLabel::layers(seen.layers.len());
        let scale = params.show.scale(&curves);
        let series = Series::of("layer", &value, points, curves, Style::Lines);
        Ok(Draft::of(Series { scale, ..series })
            .titled(format!(
                "{}{} · after {} at {position}",
                kind.unwrap_or_default(),
                view.site.spec().name,
                lab.visible(run.tokens[position])
            ))
            .note(answer_settles(seen, lab))
            .note(if ranked {
                "rank: how many tokens have a higher logit; the logit lens is biased in early layers"
            } else {
                "layers differ in how peaked their predictions are; where that matters, compare ranks"
            })
            .notes(cautions(&view, lab.model.card.layers))
            .checked(capture.check))
    }
}

impl TrackParams {
    /// The same about one prompt of a list: its answer and the alternatives, if no tokens are named.
    fn alone(&self, place: &PromptPlace) -> Self {
        let own = place.answer.iter().chain(&place.alternatives);
        let own: Vec<String> = own.map(|id| format!("#{id}")).collect();
        Self {
            tokens: if self.tokens.is_empty() {
                own.join("|")
            } else {
                self.tokens.clone()
            },
            count: Count(1),
            position: Position(place.position as i64),
            ..self.clone()
        }
    }

    /// The numbers of every layer, by what the token is to the prompt.
    fn numbers(&self, body: &Body, place: &PromptPlace) -> Result<PromptNumbers> {
        let series = series_of(body)?;
        let named = !self.tokens.is_empty();
        let number = self.show.print().replace('_', " ");
        let plain = |label: &str| label.ends_with(PLAIN);
        let count = series.curves.iter().filter(|c| !plain(&c.label)).count();
        let names = series.curves.iter().enumerate().map(|(i, curve)| {
            let token = match i % count.max(1) {
                _ if named => curve.label.trim_end_matches(PLAIN).to_string(),
                0 if place.answer.is_some() => "answer".into(),
                0 => "top prediction".into(),
                other => format!("alternative {other}"),
            };
            let plain = if plain(&curve.label) { PLAIN } else { "" };
            format!("{number} of {token}{plain}")
        });
        PromptNumbers::of_series(body, &names.collect::<Vec<_>>())
    }

    /// The tokens that are followed.
    fn followed(&self, run: &Run, lab: &mut Lab, position: usize) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        if self.tokens.is_empty() {
            let output = Output::top(self.count.0);
            let strongest = lab.last(&run.clone().until(position + 1), output)?;
            tokens.extend(strongest.top.iter().map(|t| t.0));
        } else {
            for part in self.tokens.split('|').filter(|part| !part.is_empty()) {
                let id = first_token("tokens", part, &lab.model)?;
                if !tokens.contains(&id) {
                    tokens.push(id);
                }
            }
        }
        if tokens.is_empty() || tokens.len() > MOST {
            let expected = format!("1 to {MOST} tokens, separated by |");
            return Err(Error::argument("tokens", &self.tokens, expected));
        }
        Ok(tokens)
    }
}

impl TrackedNumber {
    fn number(self, token: &TokenStats) -> f32 {
        match self {
            Self::Probability => token.logprob.exp(),
            Self::Logprob => token.logprob,
            Self::Rank => token.rank(),
            Self::ReciprocalRank => 1.0 / (token.rank() + 1.0),
        }
    }

    fn scale(self, curves: &[Curve]) -> Scale {
        let values = || curves.iter().flat_map(|c| c.values.iter().copied());
        match self {
            Self::Logprob => Scale::Range {
                lo: values().filter(|v| v.is_finite()).fold(-1.0, f32::min),
                hi: 0.0,
            },
            Self::Rank => Scale::up_to(values().fold(1.0, f32::max)),
            Self::Probability | Self::ReciprocalRank => Scale::Unit,
        }
    }
}
