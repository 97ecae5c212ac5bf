//! Value vectors that promote a token: all neurons of all layers, ranked by what one unit of activation adds to the token's
//! log-probability, or to its logit.
//!
//! This is `v_i · u`, one product for each layer (the search of Geva et al. 2022, 2203.14680, and LM-Debugger), with the direction
//! `u` of [`crate::lab::effect`]: that of the log-probability after the run's last token, or, without a text, that of the centred
//! logit, which is the log-probability at an even distribution. The scale of the final norm is left out.

use super::value_card::ValueCards;
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Check, Table, TablePage, TableRow, Unit};
use crate::instruments::params::{Count, LayerOrAll, params};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::effect::{EffectDirections, EffectScale, saturation};
use crate::lab::run::Run;
use crate::lab::sample::top;
use crate::lab::target::LogitTarget;
use crate::model::host::ToHost;
use crate::model::network::finite::order;

params! {
    /// What `promoters` is asked.
    pub struct PromotersParams {
        /// the token: a text (its first token) or #ID; "A" - "B" for a logit difference; by default the top prediction
        token: String,
        on: EffectScale,
        /// how many neurons to list on each side
        count: Count<1, 200> = "12",
        /// one layer, or all
        layer: LayerOrAll = "all",
    }
}

pub struct Promoters;

impl Measurement for Promoters {
    type Params = PromotersParams;
    const NAME: &'static str = "promoters";
    const ABOUT: &'static str = "The neurons of all layers whose value vectors (output weights) promote a token most, and those that suppress it most";
    const SOURCE: &'static str =
        "sub-updates: Geva et al. 2022 (2203.14680), LM-Debugger (2204.12130)";
    const READS: Reads<PromotersParams> = Reads::TextWhere(|params| params.token.is_empty());

    fn measure(params: &PromotersParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let layers = lab.model.card.neuron_layers.clone();
        if layers.is_empty() {
            return Err(lab.model.transformer.no_neurons());
        }
        let target = match params.token.as_str() {
            "" if run.tokens.is_empty() => {
                return Err(Error::argument("token", "", "a text or #ID"));
            }
            "" => LogitTarget::one(lab.top_prediction(run)?),
            text => LogitTarget::parse("token", text, &lab.model)?,
        };
        let along = if run.tokens.is_empty() {
            EffectDirections::without_text(&lab.model, target, params.on)?
        } else {
            lab.effect_direction(run, target, params.on)?
        };
        let stream = along.of_stream(&lab.model)?;
        let count = params.count.0;
        let only = params.layer.within(lab.model.card.layers)?;
        let mut found: Vec<(f32, u16, u32)> = Vec::new();
        let mut left_out = 0;
        for (done, layer) in layers.iter().enumerate() {
            lab.report(done as f32 / layers.len() as f32)?;
            if only.is_some_and(|only| only != *layer) {
                continue;
            }
            let mut view = (lab.model.transformer.neuron_views(*layer, &stream)?)
                .squeeze(0)?
                .host_vec1::<f32>()?;
            let broken = view.iter().filter(|z| !z.is_finite()).count();
            if broken == view.len() {
                return Err(lab.not_finite(&format!("The value vectors of layer {layer} are")));
            }
            left_out += broken;
            // Values that are not finite are made neither the largest nor the smallest.
            view.iter_mut()
                .filter(|z| !z.is_finite())
                .for_each(|z| *z = 0.0);
            // The largest values of the layer and, with the sign flipped, the smallest; the sign is restored for the latter.
            for sign in [1.0, -1.0] {
                let best = top(&view, view.len(), count);
                found.extend(best.iter().map(|(i, z)| (z * sign, *layer as u16, *i)));
                view.iter_mut().for_each(|z| *z = -*z);
            }
        }
        found.sort_by(|a, b| order(b.0, a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        found.dedup();
        if found.len() > 2 * count {
            found.drain(count..found.len() - count);
        }
        let name = along.scale.of(target, lab);
        let page = TablePage::of(
            format!("what one unit of activation adds to the {name}"),
            Anchor::default(),
            rows(&found, lab)?,
        );
        let heading = along.scale.heading(target);
        let columns = ["neuron", heading, "length", "promotes", "suppresses"];
        let of_text = along.scale == EffectScale::LogProb && target.minus.is_none();
        let distribution = match (of_text, params.on) {
            (true, _) => format!("log p: v·(γ⊙(W_U[t] − Σ p W_U)), with the distribution p after {}", lab.visible(run.tokens[run.tokens.len() - 1])),
            (false, EffectScale::LogProb) if target.minus.is_none() => "centred: v·(γ⊙(W_U[t] − mean W_U)), the effect on the log-probability at an even distribution, because there is no text; with a text (-p) it is that at the text's own".into(),
            (false, _) => format!("{heading}: v·(γ⊙u), where u is W_U[t], that minus the mean (centred), or the difference of two rows"),
        };
        let single = target.minus.is_none() && !of_text && params.on != EffectScale::LogProb;
        let columns: Vec<&str> = columns.to_vec();
        Ok(Draft::of(Table::paged(&columns, vec![page]))
            .titled(name)
            .note(format!("{distribution}; γ is the final norm's gain, and its scale is left out; at a positive activation, positive values promote and negative ones suppress"))
            .notes(saturation(&along.shares))
            .notes(single.then(|| params.on.note().to_string()))
            .note("the activations of a text are not used; `neurons` and `triggers` show when a neuron is active")
            .notes((left_out > 0).then(|| {
                format!("{left_out} neurons are left out, because their value vectors are not finite (NaN or infinity)")
            }))
            .checked((left_out > 0).then(Check::not_finite)))
    }
}

fn rows(found: &[(f32, u16, u32)], lab: &mut Lab) -> Result<Vec<TableRow>> {
    let neurons: Vec<(u16, u32)> = found.iter().map(|(_, l, i)| (*l, *i)).collect();
    let cards = ValueCards::on(lab);
    let mut cards = cards.borrow_mut();
    cards.prepare(&lab.model, &neurons)?;
    let norms = cards.norms(&lab.model)?.to_vec();
    let row = |&(logit, layer, unit): &(f32, u16, u32)| {
        let card = cards.get(layer, unit)?;
        let length = norms[usize::from(layer)][unit as usize];
        let row = TableRow::at(
            Anchor::layer(usize::from(layer)).with(Unit::Neuron(unit)),
            entries![format!("{layer}/{unit}"), logit, length],
        );
        Some(card.sides.listed(1.0, lab, row))
    };
    Ok(found.iter().filter_map(row).collect())
}
