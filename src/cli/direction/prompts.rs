//! `lmscope direction --plus FILE --minus FILE`: a direction from two lists of prompts.
//!
//! Invariant: an answer-letter direction is measured at the answer letters of the two sides, or refused.
//! To add a method, add it to `vectors/contrast.rs`.

use std::path::PathBuf;

use clap::ArgMatches;

use super::{DirectionMethod, arguments, layers, other_method, output, write};
use crate::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::model::network::address::site_named;
use crate::vectors::contrast::{Contrast, ContrastRequest, Method, check_letters};

pub(super) fn run(matches: &ArgMatches) -> Result<()> {
    let prompts = |name: &str| {
        matches
            .get_one::<PathBuf>(name)
            .map_or_else(|| Ok(Vec::new()), |path| crate::file::prompts(path))
    };
    let (plus, minus) = (prompts("plus")?, prompts("minus")?);
    let method = match matches.get_one("method") {
        None => Method::Mean,
        Some(DirectionMethod::Lists(method)) => *method,
        Some(DirectionMethod::Demos(_)) => {
            let next = "or --demos FILE with it";
            return Err(other_method(matches, &Method::names(), next));
        }
    };
    let site = matches
        .get_one::<String>("site")
        .map_or_else(|| Ok(method.site()), |name| site_named(name))?;
    let positions: Positions = arguments::text(matches, "positions").parse()?;
    let chat = matches.get_flag("chat");
    if method == Method::Caa && chat {
        return Err(Error::argument(
            "--chat",
            "true",
            "texts with their turn marks written out, because the answer's letter is in the reply; leave --chat out",
        ));
    }
    let mut lab = arguments::open(matches)?;
    if method == Method::Caa {
        check_letters(&lab.model, &plus, &minus, &positions)?;
    }
    let measure = ContrastRequest {
        site,
        layers: layers(arguments::text(matches, "layer"), lab.model.card.layers)?,
        positions,
        chat,
    };
    let contrast = arguments::showing_progress(&mut lab, "direction", |lab| {
        Contrast::measure(lab, &plus, &minus, measure)
    })?;
    let direction = contrast.direction(method, &lab)?;
    let file = write(matches, direction.clone())?;
    let notes = direction.origin.notes.iter();
    notes.for_each(|note| output::note(&format!("{file}: {note}.")));
    // All layers of the file; some formats cannot hold the first.
    let several = direction.rows.len() > 1;
    let place = match direction.rows[0].0 {
        first if several => format!("{}.*", first.site.spec().name),
        first => first.to_string(),
    };
    let usage = match method {
        Method::Icv => format!("--edit 'icv:{file}@mlp_out.*:all*0.1'"),
        // At every position from the last token of the user's prompt on, generated tokens included.
        Method::Caa => {
            format!("--edit 'add:{file}@{place}:last' --edit 'add:{file}@{place}:generated'")
        }
        Method::Mean | Method::Pca | Method::PcaDiff => {
            let out = format!(" or --edit 'project_out:{file}@writes'");
            let out = if several { "" } else { &out };
            format!("--edit 'add:{file}@{place}'{out}")
        }
    };
    output::note(&format!(
        "{file}: {method}, from {} and {} prompts at {}, norm {:.3}. Use it as {usage}.",
        plus.len(),
        minus.len(),
        direction.span(),
        direction.norm(),
    ));
    Ok(())
}
