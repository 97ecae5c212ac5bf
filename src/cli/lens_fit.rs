//! `lmscope lens-fit`: fits a Jacobian lens or a tuned lens to a model on a text.
//!
//! Invariant: what is written is complete after every save, Ctrl-C keeps what was fitted so far, and a fit goes on only on what it was
//! begun on. To fit another kind of lens, add a variant of `LensFitKind` and its part in `instruments/logit_lens/fit`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgMatches, Command, value_parser};

use super::{Subcommand, arguments, output};
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::instruments::logit_lens::fit::jacobian::{JacobianFit, LENGTH, SKIPPED};
use crate::instruments::logit_lens::fit::saved::{LensOrigin, resume, save, save_tuned};
use crate::instruments::logit_lens::fit::tuned::TunedFit;
use crate::lab::Lab;
use crate::lab::statistics::pieces;

/// How often an unfinished fit is saved.
const EVERY: Duration = Duration::from_mins(1);

/// Over how many prompts the change must stay below `--until`.
const WINDOW: usize = 10;

/// The share of the pieces, at the end of the text, on which a tuned lens is measured and not fitted.
const HELD_OUT: usize = 10;

/// The kind of lens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LensFitKind {
    Jacobian,
    Tuned,
}

pub const LENS_FIT: Subcommand = Subcommand {
    name: "lens-fit",
    about: "Fits a lens to a model, for `lens --maps FILE`: a Jacobian lens (the mean Jacobian of the last state with respect to the state after each block) or a tuned lens (affine maps that read what the model will say)",
    arguments: build,
    run,
};

fn build(command: Command) -> Command {
    let count = |name: &'static str, help: String| {
        arguments::value(name, "N", help).value_parser(value_parser!(u32).range(1..1_000_000))
    };
    let kinds = PossibleValuesParser::new(["jacobian", "tuned"]).map(|kind| match kind.as_str() {
        "tuned" => LensFitKind::Tuned,
        _ => LensFitKind::Jacobian,
    });
    arguments::model(command)
        .arg(Arg::new("text").value_name("TEXT_FILE").required(true).value_parser(value_parser!(PathBuf)).help("A text; it is cut into prompts"))
        .arg(arguments::value("kind", "KIND", "jacobian, or tuned").value_parser(kinds).default_value("jacobian"))
        .arg(count("length", format!("Tokens of a prompt [default: {LENGTH}, or the context if that is shorter]")))
        .arg(count("prompts", "jacobian: the most prompts that are read (100 are usable, 1 000 were used in the paper)".into()).default_value("100"))
        .arg(arguments::value("skip", "N", format!("jacobian: how many first positions of a prompt are left out, attention sinks among them [default: {SKIPPED}]")).value_parser(value_parser!(u32).range(0..1_000_000)))
        .arg(arguments::value("until", "CHANGE", "jacobian: stops early when the relative change of the mean by a prompt has been below this for ten prompts (2e-3 is usual)").value_parser(value_parser!(f64)))
        .arg(super::switch("resume", "jacobian: goes on from the file, if it is there: with more prompts, or after an interruption"))
        .arg(count("steps", "tuned: how many steps are taken".into()).default_value("250"))
        .arg(count("batch", "tuned: how many prompts a step is taken on".into()).default_value("16"))
        .arg(arguments::value("output", "FILE", "jacobian: the .pt file to write; tuned: the folder, with params.pt and config.json").short('o').required(true).value_parser(value_parser!(PathBuf)))
        .arg(arguments::force())
}

fn run(matches: &ArgMatches) -> Result<()> {
    let kind = matches.get_one::<LensFitKind>("kind").copied();
    let target = matches
        .get_one::<PathBuf>("output")
        .cloned()
        .unwrap_or_default();
    match kind {
        Some(LensFitKind::Tuned) => tuned(matches, &target),
        Some(LensFitKind::Jacobian) | None => jacobian(matches, &target),
    }
}

/// A text cut into prompts of one length, and what a fit on them is made on.
struct CutText {
    lab: Lab,
    prompts: Vec<Vec<u32>>,
    origin: LensOrigin,
}

fn number(matches: &ArgMatches, name: &str) -> Option<usize> {
    matches.get_one::<u32>(name).map(|n| *n as usize)
}

fn prompts(matches: &ArgMatches, skipped: usize) -> Result<CutText> {
    let source = matches
        .get_one::<PathBuf>("text")
        .cloned()
        .unwrap_or_default();
    let words = arguments::words(&source, "Give a text of one prompt or more.")?;
    let lab = arguments::open(matches)?;
    let card = &lab.model.card;
    let length = number(matches, "length").unwrap_or(LENGTH.min(card.context));
    if length > card.context || length < 3 {
        let expected = format!("3 to {} tokens, the context of the model", card.context);
        return Err(Error::argument("--length", length, expected));
    }
    if skipped + 2 > length {
        let expected = format!("at most {} of the {length} tokens of a prompt", length - 2);
        return Err(Error::argument("--skip", skipped, expected));
    }
    let tokens = lab.model.encode(&words, false)?;
    let cut = pieces(&tokens, lab.model.tokenizer()?.bos(), length);
    let prompts: Vec<Vec<u32>> = cut.into_iter().filter(|p| p.len() == length).collect();
    if prompts.is_empty() {
        return Err(Error::bad_file(
            &source,
            format!(
                "its {} tokens are fewer than one prompt of {length}",
                tokens.len()
            ),
            "Give a longer text, or a smaller --length.",
        ));
    }
    let origin = LensOrigin {
        model: card.name.clone(),
        revision: card.revision.clone(),
        text: arguments::file_name(&source),
        tokens: format!("{} tokens, {:08x}", tokens.len(), checksum(&tokens)),
        length,
        skipped,
    };
    Ok(CutText {
        lab,
        prompts,
        origin,
    })
}

fn jacobian(matches: &ArgMatches, target: &Path) -> Result<()> {
    let goes_on = matches.get_flag("resume") && target.exists();
    let overwrite = if goes_on {
        Overwrite::Allowed
    } else {
        arguments::overwrite(matches)
    };
    file::check(target, overwrite)?;
    let skipped = number(matches, "skip").unwrap_or(SKIPPED);
    let CutText {
        mut lab,
        prompts,
        origin,
    } = prompts(matches, skipped)?;
    let mut fit = if goes_on {
        resume(target, &origin, &lab.model.card)?
    } else {
        JacobianFit::new(lab.model.card.layers, lab.model.card.d_model)?
    };
    let begun = fit.prompts;
    let most = number(matches, "prompts").unwrap_or(100).min(prompts.len());
    let asked = FitLimits {
        skipped,
        until: matches.get_one::<f64>("until").copied(),
    };
    let mut saved = goes_on;
    let end = arguments::showing_progress(&mut lab, "lens-fit", |lab| {
        add_prompts(lab, &mut fit, &prompts[..most], &asked, &mut |fit| {
            let overwrite = if saved { Overwrite::Allowed } else { overwrite };
            saved = true;
            save(fit, &origin, target, overwrite)
        })
    })?;
    let last = fit.changes.last();
    let change = last.map_or_else(String::new, |c| {
        format!(", the last of which changed the mean by {c:.1e}")
    });
    let file = target.display();
    output::note(&format!(
        "{file}: a Jacobian lens of {} prompts of {} tokens{change}{}.",
        fit.prompts,
        origin.length,
        match end {
            FitEnd::Prompts if fit.prompts == begun => "; there were no more prompts to add",
            FitEnd::Prompts => "",
            FitEnd::Settled => "; it changes less than --until asks",
            FitEnd::Cancelled => "; stopped: --resume goes on",
        }
    ));
    tell_changes(&fit, begun);
    finish(matches, target, matches!(end, FitEnd::Cancelled))
}

/// Says how the mean settled: the change by the first, second, fifth, tenth, ... prompt.
fn tell_changes(fit: &JacobianFit, begun: usize) {
    let shown = |n: &usize| {
        let mut unit = *n;
        while unit >= 10 && unit.is_multiple_of(10) {
            unit /= 10;
        }
        matches!(unit, 1 | 2 | 5)
    };
    let numbered = fit.changes.iter().enumerate();
    let all = numbered.map(|(i, change)| (begun + i + 1, change));
    let some: Vec<String> = all
        .filter(|(n, _)| shown(n) && *n > 1)
        .map(|(n, change)| format!("{n}: {change:.1e}"))
        .collect();
    if !some.is_empty() {
        output::note(&format!(
            "Relative change of the mean by prompt: {}.",
            some.join(", ")
        ));
    }
}

fn finish(matches: &ArgMatches, target: &Path, cancelled: bool) -> Result<()> {
    output::note(&format!(
        "Read with it: lmscope lens {} -p TEXT --maps {}",
        arguments::model_name(matches),
        target.display()
    ));
    if cancelled {
        return Err(Error::Cancelled);
    }
    Ok(())
}

/// Why a fit ended.
enum FitEnd {
    /// All prompts were read.
    Prompts,
    /// The mean changes no more.
    Settled,
    Cancelled,
}

struct FitLimits {
    skipped: usize,
    until: Option<f64>,
}

/// Adds the prompts that the fit has not seen, and keeps it now and then.
fn add_prompts(
    lab: &mut Lab,
    fit: &mut JacobianFit,
    prompts: &[Vec<u32>],
    asked: &FitLimits,
    keep: &mut dyn FnMut(&JacobianFit) -> Result<()>,
) -> Result<FitEnd> {
    let begun = fit.prompts.min(prompts.len());
    let new = prompts.len() - begun;
    let mut kept = Instant::now();
    let mut end = FitEnd::Prompts;
    for (i, prompt) in prompts[begun..].iter().enumerate() {
        let share = i as f32 / new as f32..(i + 1) as f32 / new as f32;
        match lab.part(share, |lab| fit.add(lab, prompt, asked.skipped)) {
            Ok(()) => {}
            Err(Error::Cancelled) if fit.prompts > 0 => {
                end = FitEnd::Cancelled;
                break;
            }
            Err(error) => return Err(error),
        }
        let latest = &fit.changes[fit.changes.len().saturating_sub(WINDOW)..];
        if let Some(until) = asked.until
            && latest.len() == WINDOW
            && latest.iter().all(|change| *change < until)
        {
            end = FitEnd::Settled;
            break;
        }
        if kept.elapsed() > EVERY {
            keep(fit)?;
            kept = Instant::now();
        }
    }
    keep(fit)?;
    Ok(end)
}

fn tuned(matches: &ArgMatches, folder: &Path) -> Result<()> {
    if matches.get_flag("resume") {
        return Err(Error::argument(
            "--resume",
            "--kind tuned",
            "a Jacobian lens: a tuned lens is fitted in one go",
        ));
    }
    let overwrite = arguments::overwrite(matches);
    for name in ["params.pt", "config.json"] {
        file::check(&folder.join(name), overwrite)?;
    }
    let CutText {
        mut lab,
        prompts,
        origin,
    } = prompts(matches, 0)?;
    let held = prompts.len().div_ceil(HELD_OUT);
    let (trained, held_out) = prompts.split_at(prompts.len() - held);
    if trained.is_empty() {
        return Err(Error::argument(
            "text",
            format!("{} prompts of {} tokens", prompts.len(), origin.length),
            "two prompts or more: the last tenth of the text is held out",
        ));
    }
    let steps = number(matches, "steps").unwrap_or(250);
    let batch = number(matches, "batch").unwrap_or(16);
    let mut fit = TunedFit::new(&lab, steps)?;
    let mut cancelled = false;
    arguments::showing_progress(&mut lab, "lens-fit", |lab| -> Result<()> {
        for step in 0..steps {
            let texts: Vec<Vec<u32>> = (0..batch)
                .map(|i| trained[(step * batch + i) % trained.len()].clone())
                .collect();
            let share = step as f32 / steps as f32..(step + 1) as f32 / steps as f32;
            match lab.part(share, |lab| fit.train(lab, &texts)) {
                Ok(()) => {}
                Err(Error::Cancelled) if step > 0 => {
                    cancelled = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    save_tuned(&fit, &origin, &lab.model.card, folder, overwrite)?;
    let (first, last) = (fit.losses.first(), fit.losses.last());
    output::note(&format!(
        "{}: a tuned lens after {} of {steps} steps of {batch} prompts of {} tokens{}; mean KL over blocks {:.3} at first, {:.3} at last, nats.",
        folder.display(),
        fit.step,
        origin.length,
        if cancelled { ", stopped" } else { "" },
        first.copied().unwrap_or(f64::NAN),
        last.copied().unwrap_or(f64::NAN),
    ));
    if !cancelled {
        let measured = arguments::showing_progress(&mut lab, "held-out text", |lab| {
            fit.held_out(lab, held_out)
        })?;
        output::note(&format!(
            "On the last {} prompts, held out, mean KL(model ‖ read) in nats of the plain lens and of this one:",
            held_out.len()
        ));
        for (block, (plain, tuned)) in measured.iter().enumerate() {
            output::note(&format!("  resid_pre.{block:<3} {plain:8.4} {tuned:8.4}"));
        }
    }
    finish(matches, folder, cancelled)
}

/// A checksum of tokens, so that a fit goes on only on the text that it was begun on.
fn checksum(tokens: &[u32]) -> u32 {
    let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    crc32fast::hash(&bytes)
}
