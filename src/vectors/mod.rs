//! Directions made from data (pairs of prompt lists, demonstrations of a task, other directions), their selection and their
//! evaluation.
//!
//! Invariant: every direction records what it was made from. To add a way from two lists of prompts see [`contrast`], from
//! demonstrations [`task_vector`]; maps of relations are in [`relation`].

pub mod combine;
pub mod contrast;
pub mod contrast_prompt;
pub mod evaluate;
pub mod few_shot;
pub mod function_vector;
pub mod interval;
pub mod jacobian;
mod labels;
pub mod probe;
pub mod proportion;
pub mod quality;
pub mod relation;
pub mod selection;
pub mod task_vector;
