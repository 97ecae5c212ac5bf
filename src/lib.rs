//! lmscope: an oscilloscope for language models, in a terminal.
//!
//! # Map
//!
//! Arrows point one way: `ui -> app -> engine -> instruments -> vectors, dictionaries -> lab -> edit -> figure -> model`; a module uses what
//! stands to its right. `cli` drives the lab and the instruments itself, `export` reads figures. `tests/it/architecture.rs`
//! checks this.
//!
//! | module | subject |
//! |---|---|
//! | [`model`] | tensors: the one forward pass and its families, checkpoints, tokenizer, hub |
//! | [`figure`] | what instruments return: grid, table, curves, text; no tensors |
//! | [`edit`] | what an intervention is: operations, the one-line grammar, positions, conditions, direction files |
//! | [`lab`] | a model under edits, recorded: runs, captures, compiled edits, generation, sweeps |
//! | [`vectors`] | directions made from data, selected and evaluated |
//! | [`dictionaries`] | sparse autoencoders and transcoders: readers of their files, encoding, reconstruction |
//! | [`instruments`] | a file or folder for each method; each turns a question about a run into a figure |
//! | [`engine`] | one thread that owns the model, and the channel to it |
//! | [`app`] | what the user is doing; no terminal, no tensors |
//! | [`ui`] | paints the app; owns the terminal |
//! | [`export`] | figures and screens as files |
//! | [`cli`] | subcommands, built from the same lists |
//! | [`config`] | the user's config.toml |
//! | [`error`], [`text`], [`mod@file`], [`out`] | leaves that everybody uses: errors; safe spelling; files; standard output and error |
//!
//! # Words
//!
//! - *site*: a named place in the forward pass; *address*: a site at a layer, `resid_post.10`.
//! - *tap*: the hook that the forward pass calls at every site.
//! - *edit*: one intervention: address, positions, phase, operation, strength, on or off.
//! - *run*: tokens, edits, seed. *capture*: what was recorded of a run or of a row of a pass.
//! - *instrument*: turns a question into a *figure* (grid, table, curves, text); cells carry *anchors* (layer, position, unit).
//! - *receipt*: what an edit really did. *control* (in files: `null`): what a claim is compared with.
//!
//! # To add something
//!
//! | to add | touch |
//! |---|---|
//! | a model family | one file in `model/network/families` and a word in its list |
//! | a site | a row in `model/network/site.rs` and a line in the forward pass |
//! | an instrument | one file or folder in `instruments` and a word in its list |
//! | a command or key | a row in `app/commands` |
//! | a theme | a file in `themes` and a word in the list of `ui/theme/mod.rs` |
//! | an export format | one file in `export` and a word in its list |

pub mod app;
pub mod cli;
pub mod config;
pub mod dictionaries;
pub mod edit;
pub mod engine;
pub mod error;
pub mod export;
pub mod figure;
pub mod file;
pub mod instruments;
pub mod lab;
pub mod model;
pub mod out;
pub mod text;
pub mod ui;
pub mod vectors;
