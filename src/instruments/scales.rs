//! On what effects on a token are measured, as parameters of instruments.
//!
//! Invariant: the words are the same in every instrument. To add a scale, see [`crate::lab::effect`].

use crate::instruments::params::choices;

choices! {
    for crate::lab::effect::EffectScale { LogProb = "logprob", Centred = "centred", Logit = "logit" }
    = "logprob", "what an effect on a token is an effect on: its log-probability; its logit minus the mean logit of the vocabulary (centred); its logit. A difference of two tokens is the same on all three"
}

choices! {
    for crate::lab::effect::AnswerMeasure { LogProb = "logprob", Probability = "probability", Centred = "centred", Logit = "logit" }
    = "logprob", "what an effect on the answer is an effect on: its log-probability; its probability (as in the papers on function vectors); its logit minus the mean logit (centred); its logit"
}
