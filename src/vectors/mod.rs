//! Directions made from data: prompts of two kinds, demonstrations of a task, other directions; choosing and judging them.
//!
//! Invariant: every direction says what it was made from. To add a way from two lists of prompts see [`contrast`], from
//! demonstrations [`task_vector`].

pub mod combine;
pub mod contrast;
pub mod evaluate;
pub mod few_shot;
pub mod function_vector;
pub mod selection;
pub mod task_vector;
