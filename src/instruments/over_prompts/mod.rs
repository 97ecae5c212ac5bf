//! A method over a list of prompts: the mean of each of its numbers with an interval over prompts, and the table prompt by prompt.
//!
//! A method takes lists where its row says how ([`numbers::OverPrompts`]): with which parameters one prompt is measured alone, and which
//! numbers of that figure count. Everything else is here, once for all methods: the list is read and placed ([`list`]), measured prompt
//! by prompt, stopped and gone on with (`measure`), and drawn (`figure`).
//!
//! Invariant: a mean is the mean of what the same command shows of each prompt alone; intervals draw whole prompts again
//! ([`crate::lab::bootstrap::WithInterval`]). To let a method take lists, declare its parameters with
//! `params_over_prompts!`, and say
//! [`Measurement::OVER_PROMPTS`](crate::instruments::Measurement::OVER_PROMPTS).

mod figure;
pub mod list;
pub(super) mod measure;
pub mod numbers;
pub mod parameters;
