//! `lmscope trace`: stores activations: those of a prompt at all positions, or of a list of prompts at positions by role.
//!
//! Invariant: a file is there completely or not at all. To store something else, add a site.

mod list;
mod one;
mod wanted;

use std::path::PathBuf;

use clap::{ArgAction, ArgMatches, Command, value_parser};

use super::{Subcommand, arguments};
use crate::error::Result;
use crate::lab::prompt_list::PositionRole;

pub const TRACE: Subcommand = Subcommand {
    name: "trace",
    about: "Saves the activations of a prompt, or of a list of prompts, to a file of arrays",
    arguments: build,
    run,
};

/// What stands below the help.
const LISTS: &str = "Of a prompt: one f32 tensor an address, shaped as `lmscope sites` says, and `tokens`.
Of a list: one f32 array an address, [prompts, width], or with --positions all [prompts, tokens, width]; `tokens` (i64, -1 behind the end)
and `mask` (0 or 1), [prompts, tokens]; `positions` (i64) [prompts, 2], from and to; and `labels` (i64) [prompts] where there are several
files, or the list has labels. A list is a prompt a line; a .tsv with named columns prompt, label, entity, answer; or a .json or .jsonl of
texts or objects with prompt or messages, label, entity, answer. With response-mean a prompt is a user turn and `answer` the answer to it.
A stopped command goes on when it is given again.";

fn build(command: Command) -> Command {
    let command = arguments::edits(arguments::prompt(arguments::model(command)));
    let others = ["prompt", "ids", "messages"];
    let prompts = arguments::value(
        "prompts",
        "FILE",
        "A list of prompts instead of one; may be repeated, and each file is then a label",
    );
    let prompts = prompts
        .action(ArgAction::Append)
        .value_parser(value_parser!(PathBuf));
    let positions = arguments::one_of(
        "positions",
        PositionRole::NAMES,
        "Of each prompt of a list: its last token, the last token of its entity, all tokens, or the mean over its answer's tokens",
    );
    command
        .mut_group("start", |start| start.arg("prompts"))
        .arg(prompts.conflicts_with_all(others))
        .arg(positions.requires("prompts"))
        .arg(arguments::value("sites", "SITES", "Addresses, for example 'resid_post.*,mlp_act.2,logits'; `lmscope sites` lists them").required(true))
        .arg(arguments::value("output", "FILE", "The file to write: .safetensors, or of a list also .npz").short('o').required(true).value_parser(value_parser!(PathBuf)))
        .arg(arguments::force())
        .after_help(LISTS)
}

fn run(matches: &ArgMatches) -> Result<()> {
    if matches.contains_id("prompts") {
        list::run(matches)
    } else {
        one::run(matches)
    }
}
