//! Patchscopes: what does a hidden state mean when another prompt reads it?
//!
//! Takes states of a source (`resid_post.L[i]` of the run, or any other site of residual width, or another prompt), patches
//! them into placeholders of a target prompt at one target layer, once, while that prompt is read, and continues the prompt
//! greedily (Ghandeharioun et al. 2024, 2401.06102, section 3). Invariant: every continuation is shown with that of the
//! unpatched target, and for a list of subjects also with those of unrelated sources: few-shot targets produce plausible
//! answers by themselves.
//! To add a way to show it, add a variant of [`parameters::PatchscopeView`] and a file like `table`.

pub mod attributes;
mod curves;
mod extract;
pub mod fit;
mod grid;
pub mod map;
pub mod parameters;
pub mod placeholders;
mod plan;
pub mod ridge;
mod subject;
mod sweep;
mod table;
pub mod target;
pub mod templates;

use self::parameters::{PatchscopeParams, PatchscopeView, SourceTexts};
use self::plan::PatchscopePlan;
use super::over_prompts::numbers::OverPrompts;
use super::{Draft, Measurement, Reads};
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::lab::trials::SweepCost;
use crate::model::Card;

pub struct Patchscope;

impl Measurement for Patchscope {
    type Params = PatchscopeParams;
    const NAME: &'static str = "patchscope";
    const ABOUT: &'static str = "Patchscope: a hidden state patched into another prompt, whose continuation shows what the state encodes; for one source layer or all";
    const SOURCE: &'static str = "Patchscopes: Ghandeharioun et al. 2024 (2401.06102)";
    const READS: Reads<PatchscopeParams> = Reads::TextWhere(PatchscopeParams::of_the_run);
    const READS_CELL: bool = true;
    const OVER_PROMPTS: Option<OverPrompts<PatchscopeParams>> =
        Some(PatchscopeParams::OVER_PROMPTS);

    fn cost(params: &PatchscopeParams, _tokens: usize, card: &Card) -> Option<SweepCost> {
        // The number of sources in a file is unknown before it is read.
        if matches!(params.from, SourceTexts::List(_)) || params.attributes.is_some() {
            return None;
        }
        let (passes, tokens) = params.size(card.layers)?;
        Some(SweepCost { passes, tokens })
    }

    fn measure(params: &PatchscopeParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let mut plan = PatchscopePlan::new(params, run, lab)?;
        plan.key_word = subject::of_the_end(&plan, lab)?;
        let drawn = match (params.attributes.is_none(), params.show) {
            (true, PatchscopeView::Grid) => grid::draw(&plan, lab)?,
            (true, PatchscopeView::Curves) => curves::draw(&plan, lab)?,
            (true, PatchscopeView::Table | PatchscopeView::Items) => table::draw(&plan, lab)?,
            (false, show) => extract::draw(&plan, show, lab)?,
        };
        let unread = Run {
            seed: run.seed,
            ..Run::default()
        };
        Ok(Draft {
            title: plan.template.name.clone() + &drawn.title,
            notes: plan
                .notes(run, lab)
                .into_iter()
                .chain(drawn.notes)
                .collect(),
            run: (!params.of_the_run()).then_some(unread),
            resolved: vec![plan.target_prompt()],
            ..drawn
        })
    }
}
