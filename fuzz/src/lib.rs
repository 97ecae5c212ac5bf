//! What lmscope reads, fed with what nobody expects.
//!
//! [`kinds`] are shared with the gate's tests (`tests/it/lies`), which replay the corpus and a few thousand inputs;
//! here libFuzzer looks for new ones, guided by what they reach.
//! To add a kind of input, see [`kinds`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod gguf;
pub mod kinds;
#[path = "../../tests/it/recorded.rs"]
pub mod recorded;
