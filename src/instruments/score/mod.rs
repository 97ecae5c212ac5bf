//! Score: how well a model predicts given texts, as it is and under edits: loss, perplexity and accuracy of the next tokens.
//!
//! Loss is cross-entropy, the mean of `-ln p` of each token given those before it, in nats; perplexity is `e` to that; accuracy is the
//! share of tokens that were the top prediction. Means are over tokens, not over texts. Under edits the same tokens are scored again
//! (teacher forcing), so that ΔCE, the edited loss minus the plain one, is about the edits alone; beside it stands the ΔCE of random
//! edits of equal size. Intervals are of texts drawn again ([`crate::lab::bootstrap::WithInterval`]).
//!
//! Invariant: every token of a text but the first is scored exactly once, whatever the windows; the first is where a text has a begin
//! token before it.
//!
//! Source: perplexity, Jelinek et al. 1977; strided windows, the guide of Hugging Face transformers, "Perplexity of fixed-length models".

mod figure;
mod measure;
pub mod parameters;
mod windows;

use self::measure::score;
use self::parameters::ScoreParams;
use crate::error::Result;
use crate::instruments::{Draft, Measurement, Reads, lines};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::model::Fingerprint;

pub struct Score;

impl Measurement for Score {
    type Params = ScoreParams;
    const NAME: &'static str = "score";
    const ABOUT: &'static str = "Loss, perplexity and accuracy of the next tokens of given texts, as the model is and under the edits";
    const SOURCE: &'static str = "perplexity: Jelinek et al. 1977; windows with a stride: the guide of Hugging Face transformers";
    const READS: Reads<ScoreParams> =
        Reads::TextWhere(|params| params.text.is_none() && params.prompts.is_none());
    const EDITS_ITS_TEXTS: bool = true;

    fn measure(params: &ScoreParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let (texts, listed) = params.texts(run, lab)?;
        let of = texts.iter().flat_map(|text| &text.tokens);
        let digest = Fingerprint::of(of.map(|token| u64::from(*token)));
        let mut parameters = lines::<Self>(params);
        parameters.push(("digest of tokens".into(), format!("{digest:016x}")));
        let scored = score(lab, texts, run, (params.draws.0, parameters))?;
        let mut draft = figure::draft((&scored, &listed), params, run, lab);
        draft.prompts = listed.iter().map(|prompt| prompt.given(false)).collect();
        draft.resolved = vec![
            ("texts".into(), scored.texts.len().to_string()),
            ("digest of tokens".into(), format!("{digest:016x}")),
        ];
        Ok(draft)
    }
}
