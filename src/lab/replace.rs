//! Values of one run put into another: pairs of prompts, pairs of layers, two-hop questions.
//!
//! Invariant: what is put in and where is said by [`crate::lab::pass::Patch`]; [`crate::lab::runner`] reads it. To add a
//! method that replaces values, give it a file.
