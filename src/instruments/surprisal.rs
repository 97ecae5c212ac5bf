//! Surprisal: how unexpected each token was, and how unsure the model was before it: `-ln p` under the distribution that the token
//! was drawn from (edits included, before temperature), and that distribution's entropy. Invariant: the first token has neither.

use super::{Draft, Measurement};
use crate::error::Result;
use crate::figure::{Anchor, Body, Curve, Series, Style};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Needs};
use crate::lab::readout::RowStats;
use crate::lab::run::Run;
use crate::model::Card;

pub struct Surprisal;

impl Measurement for Surprisal {
    type Params = ();
    const NAME: &'static str = "surprisal";
    const ABOUT: &'static str = "Surprisal of each token (how unexpected it was, -ln p) and entropy of the prediction before it, in nats";
    const SOURCE: &'static str =
        "surprisal and entropy: Shannon 1948; perplexity: Jelinek et al. 1977";

    fn live(_params: &(), _card: &Card) -> bool {
        true
    }

    fn needs(_params: &(), _run: &Run, _lab: &Lab) -> Result<Needs> {
        Ok(Needs {
            before: true,
            ..Needs::default()
        })
    }

    fn figure(_params: &(), of: &Capture, lab: &mut Lab) -> Result<Draft> {
        let curve = |label: &str, number: fn(&RowStats) -> f32| {
            let rows = of.before.iter().map(Option::as_ref);
            let values = rows.map(|row| row.map_or(f32::NAN, number)).collect();
            Curve::of(label, Anchor::default(), values)
        };
        let surprisal = curve("-ln p", |row| -row.tokens[0].logprob);
        let curves = vec![surprisal, curve("entropy", |row| row.entropy)];
        let points = lab.headers(&of.run, of.positions.clone());
        Ok(Draft::of(Series::of("position", "nats", points, curves, Style::Lines))
            .titled("-ln p and entropy")
            .note("of each token under the model's prediction for its position; the first token has no prediction before it, hence no number"))
    }

    fn summary(body: &Body) -> Option<String> {
        let series = body.series()?;
        let values = series.measured(0);
        let (most, nats) = *values.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let mean = values.iter().map(|(_, v)| f64::from(*v)).sum::<f64>() / values.len() as f64;
        let (count, perplexity, point) = (values.len(), mean.exp(), &series.points[most]);
        let (token, at) = (&point.label, point.anchor.position?);
        Some(format!(
            "mean {mean:.3} nats, perplexity {perplexity:.2}, over {count} tokens; most surprising: {token} at position {at}, {nats:.2} nats"
        ))
    }
}
