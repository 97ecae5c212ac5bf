//! `lmscope direction --plus FILE --minus FILE`: a direction from two lists of prompts.
//!
//! Invariant: an answer-letter direction is measured where the two sides' letters stand, or refused.
//! To add a method, add it to `vectors/contrast.rs`.

use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::{arguments, layers, output, write};
use crate::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::model::network::address::site_named;
use crate::vectors::contrast::{Contrast, Measure, Method, check_letters};

pub(super) fn run(matches: &ArgMatches) -> Result<()> {
    let prompts = |name: &str| {
        matches
            .get_one::<PathBuf>(name)
            .map_or_else(|| Ok(Vec::new()), |path| lines(path))
    };
    let (plus, minus) = (prompts("plus")?, prompts("minus")?);
    let method: Method = match arguments::text(matches, "method") {
        "" => Method::Mean,
        name => name.parse().map_err(|_| {
            let expected = format!(
                "one of {}, or --demos FILE with it",
                Method::names().join(", ")
            );
            Error::argument("--method", name, expected)
        })?,
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
    let measure = Measure {
        site,
        layers: layers(arguments::text(matches, "layer"), lab.model.card.layers)?,
        positions,
        chat,
    };
    let contrast = arguments::showing_progress(&mut lab, "direction", |lab| {
        Contrast::measure(lab, &plus, &minus, measure)
    })?;
    let direction = contrast.direction(method, &lab)?;
    let path = write(matches, direction.clone())?;
    let notes = direction.origin.notes.iter();
    notes.for_each(|note| output::note(&format!("{}: {note}.", path.display())));
    let file = path.display();
    // Every layer that the file has; some formats have no place for the first.
    let several = direction.rows.len() > 1;
    let place = match direction.rows[0].0 {
        first if several => format!("{}.*", first.site.spec().name),
        first => first.to_string(),
    };
    let usage = match method {
        Method::Icv => format!("--edit 'icv:{file}@mlp_out.*:all*0.1'"),
        // At every position after the user's prompt: its last token, and what is written.
        Method::Caa => {
            format!("--edit 'add:{file}@{place}:last' --edit 'add:{file}@{place}:generated'")
        }
        Method::Mean | Method::Pca | Method::PcaDiff if several => {
            format!("--edit 'add:{file}@{place}'")
        }
        Method::Mean | Method::Pca | Method::PcaDiff => {
            format!("--edit 'add:{file}@{place}' or --edit 'project_out:{file}@writes'")
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

/// The prompts of a file: one a line, empty lines left out.
fn lines(path: &Path) -> Result<Vec<String>> {
    let text = crate::file::words(path)?;
    let prompts: Vec<String> = text
        .lines()
        .filter(|l| !l.trim().is_empty())
        .map(ToString::to_string)
        .collect();
    if prompts.is_empty() {
        return Err(Error::bad_file(
            path,
            "it holds no prompts",
            "Write one prompt a line.",
        ));
    }
    Ok(prompts)
}
