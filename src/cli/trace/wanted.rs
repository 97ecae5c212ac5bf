//! The addresses that `--sites` asks for.
//!
//! Invariant: a name of TransformerLens is said to mean what it means on this model.

use clap::ArgMatches;

use super::super::{arguments, output};
use crate::error::Result;
use crate::lab::Lab;
use crate::model::network::address::{Pattern, expand, written};
use crate::model::network::site::Address;

/// The addresses, each of which the model has.
pub(super) fn sites(matches: &ArgMatches, lab: &Lab) -> Result<Vec<Address>> {
    let given = arguments::text(matches, "sites");
    let wanted = expand(given, &lab.model.card.blueprint)?;
    wanted.iter().try_for_each(|at| lab.model.offers(*at))?;
    for text in given.split(',') {
        if let Ok(Pattern::Foreign(name)) = text.parse() {
            let site = name.on(&lab.model.card.blueprint)?;
            let ours = written(site, name.layers);
            output::note(&format!("{name} means {ours} on this model."));
        }
    }
    Ok(wanted)
}
