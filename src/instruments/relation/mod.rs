//! Linear relations: does an affine map of the subject's state say what the model says of it, and does its inverse change that?
//!
//! Makes the map of a relation from a few pairs of subject and object (linear relational embedding, LRE; Hernandez et al. 2024,
//! 2308.09124), counts on held-out subjects how often it says what the model says (faithfulness, section 4) and how often the
//! change that it implies makes the model say the object of another subject (causality, section 5). Invariant: layer, scale and
//! rank are chosen on the training pairs alone, and every count stands beside the baselines and controls that it has to beat.
//! The map itself is in `vectors/relation` and `edit/relation_map`; to show something else of it, add a variant of
//! `RelationView` and its part here.

pub mod attribute_lens;
mod causality;
mod faithfulness;
mod parameters;
mod plan;

use self::causality::Causality;
use self::faithfulness::Faithfulness;
pub use self::parameters::RelationParams;
use self::plan::RelationPlan;
use super::{Draft, Measurement, Reads};
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::lab::trials::SweepCost;
use crate::model::Card;

pub struct RelationInstrument;

impl Measurement for RelationInstrument {
    type Params = RelationParams;
    const NAME: &'static str = "relation";
    const ABOUT: &'static str = "Linear relational embedding: an affine map from a subject's state to its object, how often it says what the model says, and whether its inverse changes that";
    const SOURCE: &'static str = "linear relational embedding: Hernandez et al. 2024 (2308.09124)";
    const READS: Reads<RelationParams> = Reads::Others;

    fn cost(params: &RelationParams, _tokens: usize, card: &Card) -> Option<SweepCost> {
        // A gradient takes about three passes over the tokens from the subject on; where a map is given, none is taken.
        let passes = 3 * params.examples.0 * card.d_model;
        params
            .map
            .is_none()
            .then_some(SweepCost { passes, tokens: 6 })
    }

    fn measure(params: &RelationParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        if let Some(path) = &params.save {
            crate::file::check(path, lab.overwrite)?;
        }
        let edits = params.save.is_some() || params.show.is_about_edits();
        let whole = if edits { 0.6 } else { 0.9 };
        let mut plan = lab.part(0.0..whole, |lab| RelationPlan::new(params, run, lab))?;
        let causality = if edits {
            let found = lab.part(whole..0.95, |lab| {
                Causality::measure(params, &mut plan, run, lab)
            })?;
            Some(found)
        } else {
            None
        };
        let shown = causality.as_ref().filter(|_| params.show.is_about_edits());
        let mut draft = if let Some(found) = shown {
            found.draw(params.show, &plan)
        } else {
            let found = lab.part(0.95..1.0, |lab| Faithfulness::measure(params, &plan, lab))?;
            let edits = causality.as_ref().map(Causality::sentence);
            found.draw(params.show, &plan, lab).notes(edits)
        };
        let choice = causality.as_ref().map(|found| found.choice);
        draft.resolved = plan.resolved(choice);
        if let Some(path) = &params.save {
            plan.map(choice, run, lab)?
                .save(path, &lab.model.card, lab.overwrite)?;
            let name = crate::text::plain(path.display().to_string().as_bytes());
            let layer = choice.map_or(plan.layer, |choice| choice.layer);
            draft = draft.note(format!(
                "the map is saved as {name}: `attribute-lens --map {name}` reads with it, and relate:{name}=\"A\">\"B\"@resid_post.{layer}:token:\"A\" gives subject A the object of subject B"
            ));
        }
        draft.run = Some(Run {
            seed: run.seed,
            ..Run::default()
        });
        Ok(draft.notes(plan.notes(params.show.is_about_edits())))
    }
}
