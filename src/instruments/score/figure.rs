//! The figures of `score`: a row for each text, a row for each token, or curves along the tokens.

use super::measure::{ScoredTexts, ScoredUnit, Sums, TokenScore, difference, loss, total};
use super::parameters::{ScoreParams, ScoreView};
use crate::edit::receipt::in_words;
use crate::figure::builders::entries;
use crate::figure::{
    Anchor, AxisLabel, Body, Curve, Entry, Series, Style, Table, TablePage, TableRow, Unit,
};
use crate::instruments::Draft;
use crate::lab::Lab;
use crate::lab::bootstrap::WithInterval;
use crate::lab::prompt_list::ListedPrompt;
use crate::lab::run::Run;
use crate::lab::sample::NO_TOKEN;
use crate::text::{self, grouped};

/// The width of the beginning of a text, in columns.
const WIDE: usize = 32;

/// The sums of all cases over units.
struct CaseSums {
    plain: Vec<Sums>,
    edited: Option<Vec<Sums>>,
    controls: Vec<Vec<Sums>>,
}

pub(super) fn draft(
    (scored, listed): (&ScoredTexts, &[ListedPrompt]),
    params: &ScoreParams,
    run: &Run,
    lab: &Lab,
) -> Draft {
    let units = scored.units();
    let of = |case: &_| {
        units
            .iter()
            .map(|unit| scored.sums(case, unit))
            .collect::<Vec<_>>()
    };
    let sums = CaseSums {
        plain: of(&scored.plain),
        edited: scored.edited.as_ref().map(of),
        controls: scored.controls.iter().map(of).collect(),
    };
    let own = params.text.is_none() && params.prompts.is_none();
    let body = match params.show {
        ScoreView::Texts => texts((scored, listed), &units, &sums, lab),
        ScoreView::Tokens => tokens(scored, own, lab),
        ScoreView::Curve => curve(scored, own, lab),
    };
    let all = total(&sums.plain);
    let file = params.text.as_ref().or(params.prompts.as_ref());
    let title = format!(
        "{}{} tokens, perplexity {}",
        file.map_or_else(String::new, |f| format!(
            "{} · ",
            text::line(&f.display().to_string())
        )),
        grouped(all.tokens),
        digits(all.mean().exp()),
    );
    Draft::of(body)
        .titled(title)
        .notes(notes(scored, &units, &sums, run))
        .notes(cut(scored, params, lab))
        // Those of the run's own text have receipts elsewhere.
        .notes(in_words(if own { &[] } else { &scored.receipts }))
}

/// A number with five significant digits.
fn digits(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return value.to_string().to_lowercase();
    }
    let whole = value.abs().log10().floor().clamp(-8.0, 12.0) as i32;
    format!("{value:.*}", (4 - whole).max(0) as usize)
}

/// `+0.123 (95 % 0.101 to 0.145)`; without the interval where there is one unit.
fn with_interval(of: WithInterval, units: usize, signed: bool) -> String {
    let one = |value: f64| {
        if signed {
            format!("{value:+.4}")
        } else {
            format!("{value:.4}")
        }
    };
    match units {
        0 | 1 => one(of.value),
        _ => format!(
            "{} (95 % {} to {})",
            one(of.value),
            one(of.low),
            one(of.high)
        ),
    }
}

fn notes(scored: &ScoredTexts, units: &[ScoredUnit], sums: &CaseSums, run: &Run) -> Vec<String> {
    let (seed, all) = (run.seed, total(&sums.plain));
    let count = units.len();
    let mut notes = vec![format!(
        "loss {} nats a token, perplexity {}, accuracy {:.4} over {} tokens",
        with_interval(loss(&sums.plain, seed), count, false),
        digits(all.mean().exp()),
        all.accuracy(),
        grouped(all.tokens),
    )];
    if let Some(edited) = &sums.edited {
        let own = total(edited);
        notes.push(format!(
            "under the edits loss {:.4}, perplexity {}, accuracy {:.4}: ΔCE {}",
            own.mean(),
            digits(own.mean().exp()),
            own.accuracy(),
            with_interval(difference(&sums.plain, edited, seed), count, true),
        ));
        let drawn = sums.controls.iter();
        let drawn: Vec<f64> = drawn.map(|c| total(c).mean() - all.mean()).collect();
        let least = drawn.iter().copied().fold(f64::INFINITY, f64::min);
        let most = drawn.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        notes.push(match drawn.as_slice() {
            [] if scored.no_control.is_empty() => "no control stands beside the edits: `draws` is 0".into(),
            [] => format!("no control of equal size stands beside the edits: {}", scored.no_control),
            [one] => format!("control: a random edit of equal size has ΔCE {one:+.4}, seed {seed}"),
            many => format!(
                "control: {} random edits of equal size have ΔCE {:+.4} on average ({least:+.4} to {most:+.4}), seed {seed}",
                many.len(),
                many.iter().sum::<f64>() / many.len() as f64,
            ),
        });
    }
    if count > 1 {
        let what = if scored.texts.len() > 1 {
            "texts"
        } else {
            "windows of the text"
        };
        notes.push(format!(
            "intervals: the {count} {what} drawn again 1000 times, seed {seed}"
        ));
    }
    if let Some(windows) = scored.stopped {
        let all: usize = scored.texts.iter().map(|text| text.windows.len()).sum();
        notes.push(format!(
            "stopped after {windows} of {all} windows, the shortest first; the same request continues from there"
        ));
    }
    let silent = scored
        .texts
        .iter()
        .filter(|text| text.windows.is_empty())
        .count();
    if silent > 0 {
        notes.push(format!(
            "{silent} of {} texts have one token, which nothing stands before; they are not scored",
            scored.texts.len()
        ));
    }
    notes
}

/// How long texts were cut.
fn cut(scored: &ScoredTexts, params: &ScoreParams, lab: &Lab) -> Option<String> {
    let mut long = scored.texts.iter().filter(|text| text.windows.len() > 1);
    let bos = long.next()?.begins_again;
    let which = match scored.texts.len() {
        1 => "the text is".to_string(),
        _ => format!("{} of the texts are", 1 + long.count()),
    };
    let most = params.window.0.min(lab.model.card.context);
    let stride = params.stride.0.min(most);
    let clipped = if params.stride.0 > stride {
        " (no more than a window, so that no token is left out)"
    } else {
        ""
    };
    let before = (most - usize::from(bos)).saturating_sub(stride) + usize::from(bos);
    Some(format!(
        "{which} read in windows of {most} tokens, {stride} apart{clipped}{}: beyond the first window a token has {before} to {} tokens before it in its window; positions of edits are those of the window",
        if bos {
            ", each with the begin token"
        } else {
            ""
        },
        most - 1,
    ))
}

fn texts(
    (scored, listed): (&ScoredTexts, &[ListedPrompt]),
    units: &[ScoredUnit],
    sums: &CaseSums,
    lab: &Lab,
) -> Body {
    let mut columns = vec!["text", "begins", "tokens", "loss", "perplexity", "accuracy"];
    if sums.edited.is_some() {
        columns.extend(["edited loss", "edited perplexity", "edited accuracy", "ΔCE"]);
    }
    if !sums.controls.is_empty() {
        columns.push("control ΔCE");
    }
    let ids = listed.iter().any(|prompt| prompt.id.is_some());
    columns.extend(ids.then_some("id"));
    // `text` is its number in the list; of all there is none.
    let row = |text: Option<usize>, begins: String, pick: &dyn Fn(&[Sums]) -> Sums| {
        let plain = pick(&sums.plain);
        let numbers = |of: Sums| [of.mean(), of.mean().exp(), of.accuracy()];
        let mut entries = entries![text.map(|text| text + 1), begins, plain.tokens];
        entries.extend(numbers(plain).map(|n| Entry::from(n as f32)));
        let apart = |of: Sums| (of.mean() - plain.mean()) as f32;
        if let Some(edited) = &sums.edited {
            let edited = pick(edited);
            entries.extend(numbers(edited).map(|n| Entry::from(n as f32)));
            entries.push(apart(edited).into());
        }
        if !sums.controls.is_empty() {
            let drawn = sums.controls.iter().map(|control| apart(pick(control)));
            entries.push((drawn.sum::<f32>() / sums.controls.len() as f32).into());
        }
        let id = text.and_then(|text| listed.get(text)?.id.as_deref());
        entries.extend(ids.then(|| Entry::from(text::line(id.unwrap_or_default()))));
        TableRow::at(Anchor::default(), entries)
    };
    let mut rows = vec![row(None, "(all)".into(), &total)];
    let own = units.iter().enumerate().filter(|_| units.len() > 1);
    rows.extend(own.map(|(i, unit)| {
        let of = &scored.texts[unit.text];
        let tokens = match unit.window {
            Some(window) => &of.windows[window].tokens[of.windows[window].scored.clone()],
            None => &of.tokens,
        };
        let special = |id: &u32| {
            lab.model
                .tokenizer
                .as_ref()
                .is_some_and(|t| t.bos() == Some(*id))
        };
        let tokens = &tokens[usize::from(tokens.first().is_some_and(special))..];
        // More tokens than columns are never seen.
        let bytes: Vec<u8> = tokens
            .iter()
            .take(WIDE)
            .flat_map(|id| lab.model.bytes(*id))
            .collect();
        let number = unit.window.unwrap_or(unit.text);
        let begins = text::clip(&text::visible(&bytes), WIDE);
        row(Some(number), begins, &|case| case[i])
    }));
    Table::of(&columns, rows).into()
}

/// The scores of a text by position: plain, edited, and the control's first draw.
fn cases(scored: &ScoredTexts, text: usize) -> [Option<Vec<Option<TokenScore>>>; 3] {
    let of = |case| scored.by_position(case, text);
    [
        Some(of(&scored.plain)),
        scored.edited.as_ref().map(of),
        scored.controls.first().map(of),
    ]
}

/// The place in the run of a position of its own text; that of a file has none.
fn anchor(own: bool, position: usize) -> Anchor {
    if own {
        Anchor::position(position)
    } else {
        Anchor::default()
    }
}

fn tokens(scored: &ScoredTexts, own: bool, lab: &Lab) -> Body {
    let mut columns = vec!["index", "token", "id", "loss", "top"];
    if scored.edited.is_some() {
        columns.extend(["edited loss", "edited top", "ΔCE"]);
    }
    if !scored.controls.is_empty() {
        columns.push("control ΔCE");
    }
    let page = |number: usize| {
        let of = &scored.texts[number];
        let [plain, edited, control] = cases(scored, number);
        let at =
            |case: &Option<Vec<Option<TokenScore>>>, i: usize| case.as_ref().and_then(|c| c[i]);
        let row = |(i, id): (usize, &u32)| {
            let mut entries = entries![i, lab.visible(*id), *id];
            let base = at(&plain, i);
            let top = |of: Option<TokenScore>| {
                Entry::from(of.map_or_else(String::new, |of| lab.visible(of.top)))
            };
            let apart = |of: Option<TokenScore>| {
                Entry::from(of.zip(base).map(|(of, base)| of.loss - base.loss))
            };
            entries.extend([base.map(|of| of.loss).into(), top(base)]);
            if edited.is_some() {
                let own = at(&edited, i);
                entries.extend([own.map(|of| of.loss).into(), top(own), apart(own)]);
            }
            if control.is_some() {
                entries.push(apart(at(&control, i)));
            }
            let tops = base.map(|base| base.top).filter(|top| *top != NO_TOKEN);
            let row = TableRow::at(anchor(own, i), entries)
                .naming("token", [*id])
                .naming("top", tops);
            match at(&edited, i) {
                Some(edited) => row.naming(
                    "edited top",
                    Some(edited.top).filter(|top| *top != NO_TOKEN),
                ),
                None => row,
            }
        };
        let title = match scored.texts.len() {
            1 => String::new(),
            count => format!("text {} of {count}", number + 1),
        };
        TablePage::of(
            title,
            Anchor::default(),
            of.tokens.iter().enumerate().map(row).collect(),
        )
    };
    let reached =
        (0..scored.texts.len()).filter(|text| scored.texts.len() == 1 || scored.reached(*text));
    Table::paged(&columns, reached.map(page).collect()).into()
}

fn curve(scored: &ScoredTexts, own: bool, lab: &Lab) -> Body {
    let mut points = Vec::new();
    let names = ["loss", "edited loss", "control loss"];
    let mut values: [Vec<f32>; 3] = Default::default();
    for (number, of) in scored.texts.iter().enumerate() {
        let tokens = of.tokens.iter().enumerate();
        let place = |i: usize, id: u32| anchor(own, i).with(Unit::Token(id));
        points.extend(tokens.map(|(i, id)| AxisLabel::of(lab.visible(*id), place(i, *id))));
        for (all, case) in values.iter_mut().zip(cases(scored, number)) {
            let losses = case.into_iter().flatten();
            all.extend(losses.map(|score| score.map_or(f32::NAN, |score| score.loss)));
        }
    }
    let curves = names
        .into_iter()
        .zip(values)
        .filter(|(_, values)| !values.is_empty());
    let curves = curves
        .map(|(name, values)| Curve::of(name, Anchor::default(), values))
        .collect();
    Series::of("position", "nats", points, curves, Style::Lines).into()
}
