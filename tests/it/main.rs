//! The integration tests: one binary, because candle links slowly. A module a subject.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::float_cmp,
    clippy::format_push_string,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::manual_midpoint,
    clippy::format_collect,
    clippy::disallowed_methods, // tests read what they want
    clippy::wildcard_enum_match_arm // a test says what it wants, and panics at all else
)]

/// Counts allocations, for the files that lie.
#[global_allocator]
static GUARD: lies::guard::Guard = lies::guard::Guard;

mod absent_keys;
mod adding;
mod architecture;
mod attention;
mod backpatch;
mod circuits;
mod claims;
mod cli;
mod conversations;
mod crossings;
mod demo;
mod devices;
mod dictionaries;
mod doctor;
mod documented;
mod engine;
mod experiment;
mod export_weights;
mod finite;
mod gguf;
mod gradient;
mod grammar;
mod graphs;
mod head_circuits;
mod honest;
mod hub;
mod in_context;
mod invariants;
mod json;
mod knowledge;
mod lens;
mod lens_curves;
mod lens_files;
mod lens_fit;
mod lies;
mod loading;
mod memories;
mod meters;
mod mouse;
mod names;
mod only;
mod organisms;
mod outside;
mod over_prompts;
mod parity;
mod patching;
mod patchscope;
mod pickle;
mod probe;
mod prompt_lists;
mod prompts;
mod pty;
mod reading;
mod recorded;
mod registry;
mod relation;
mod replace;
mod residual;
mod safe;
mod saliency;
mod score;
mod screens;
mod scripts;
mod selection;
mod series;
mod sessions;
mod settings;
mod sizes;
mod statistics;
mod surprisal;
mod sweep;
mod text;
mod tools;
mod transformer_lens;
mod vectors;
