//! `lmscope direction --plus FILE --minus FILE`: a direction from two lists of prompts.
//!
//! Invariant: an answer-letter direction is measured at the answer letters of the two sides, or refused.
//! To add a method, add it to `vectors/contrast.rs`.

use std::path::PathBuf;

use clap::ArgMatches;

use super::{DirectionMethod, arguments, layers, other_method, output, print_json, write};
use crate::error::{Error, Result};
use crate::lab::prompt_list::{self, ListedPrompt, PromptText};
use crate::model::network::address::site_named;
use crate::vectors::contrast::{Contrast, Method, check_letters};
use crate::vectors::contrast_prompt::{ContrastPositions, ContrastPrompt, RESPONSE};

/// The positions that the flag names.
fn positions(matches: &ArgMatches) -> Result<ContrastPositions> {
    match arguments::text(matches, "positions") {
        RESPONSE => Ok(ContrastPositions::Response),
        rule => Ok(ContrastPositions::Rule(rule.parse()?)),
    }
}

/// Says that a list has answers which the positions leave out.
fn say_unread<'a>(
    positions: &ContrastPositions,
    mut prompts: impl Iterator<Item = &'a ListedPrompt>,
) {
    if matches!(positions, ContrastPositions::Rule(_))
        && prompts.any(|prompt| prompt.answer.is_some())
    {
        output::note(
            "the lists have answers, which were not read: --positions response takes the mean over the tokens of the answer.",
        );
    }
}

/// The texts of a list without conversations.
fn plain(list: &[ListedPrompt]) -> Option<Vec<String>> {
    let text = |prompt: &ListedPrompt| match &prompt.text {
        PromptText::Plain(text) => Some(text.clone()),
        PromptText::Turns(_) => None,
    };
    list.iter().map(text).collect()
}

pub(super) fn run(matches: &ArgMatches) -> Result<()> {
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
    let positions = positions(matches)?;
    let chat = arguments::chat(matches);
    if method == Method::Caa && chat {
        return Err(Error::argument(
            "--chat",
            "true",
            "texts with their turn marks written out, because the answer's letter is in the reply; leave --chat out",
        ));
    }
    let prompts = |name: &str| {
        let path = matches.get_one::<PathBuf>(name);
        path.map_or_else(|| Ok(Vec::new()), |path| prompt_list::read(path))
    };
    let (plus, minus) = (prompts("plus")?, prompts("minus")?);
    let mut lab = arguments::open(matches)?;
    if method == Method::Caa {
        let (ContrastPositions::Rule(rule), Some(plus), Some(minus)) =
            (&positions, plain(&plus), plain(&minus))
        else {
            let expected =
                "mean, pca, pca-diff or icv: caa is measured at the letter that ends a plain text";
            return Err(Error::argument("--method", "caa", expected));
        };
        check_letters(&lab.model, &plus, &minus, rule)?;
    }
    let layers = layers(arguments::text(matches, "layer"), lab.model.card.layers)?;
    let place = |list: &[ListedPrompt]| -> Result<Vec<ContrastPrompt>> {
        let each = list
            .iter()
            .map(|prompt| ContrastPrompt::listed(&lab, prompt, chat, &positions));
        each.collect()
    };
    let sides = (place(&plus)?, place(&minus)?);
    say_unread(&positions, plus.iter().chain(&minus));
    let contrast = arguments::showing_progress(&mut lab, "direction", |lab| {
        Contrast::of(lab, (&sides.0, &sides.1), (site, layers), &positions)
    })?;
    let mut direction = contrast.direction(method, &lab)?;
    let seed = arguments::seed(matches);
    let quality = contrast.quality(method, seed);
    direction.origin.shuffled = contrast.shuffled_rows(method, &direction, seed);
    let places: Vec<String> = contrast.places().iter().map(ToString::to_string).collect();
    match &quality {
        Some(all) => {
            // Where the lists are told apart best; of one layer that one.
            let best = (0..all.len()).max_by(|a, b| {
                let more = all[*a].auroc.total_cmp(&all[*b].auroc);
                more.then(all[*a].cosine.total_cmp(&all[*b].cosine))
            });
            if let Some(best) = best {
                let which = match all.len() {
                    1 => String::new(),
                    n => format!(", where it is highest of {n} layers (a selected maximum)"),
                };
                let said = format!("at {}{which}: {}", places[best], all[best].sentence(seed));
                direction.origin.notes.push(said);
            }
        }
        None => direction.origin.notes.push(
            "no held-out AUROC: give at least 4 prompts on each side, so that half of them can judge the other half's direction"
                .into(),
        ),
    }
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
    let measured = contrast
        .places()
        .into_iter()
        .map(|at| usize::from(at.layer));
    let quality: Vec<_> = measured.zip(quality.unwrap_or_default()).collect();
    print_json(matches, &file, &direction, &quality)
}
