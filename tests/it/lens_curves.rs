//! Tokens followed over layers, where answers settle, a position in numbers, and the languages of an answer.

use lmscope::figure::{Body, Entry, Figure, Series, Table};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::progress::WorkProgress;
use lmscope::lab::run::Run;
use lmscope::lab::sample::{entropy, kl, log_softmax, rank};
use lmscope::model::load::Options;
use lmscope::model::network::site::Site;

use super::tools::{every_family, prompt, tiny, values};

fn series(figure: &Figure) -> &Series {
    match &figure.body {
        Body::Series(series) => series,
        Body::Grid(_) | Body::Table(_) | Body::Graph(_) | Body::Text(_) => panic!("a series"),
    }
}

fn table(figure: &Figure) -> &Table {
    match &figure.body {
        Body::Table(table) => table,
        Body::Grid(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => panic!("a table"),
    }
}

fn text(entry: &Entry) -> String {
    match entry {
        Entry::Whole(_) | Entry::Missing | Entry::Text(_) => entry.exact(),
        Entry::Number(number) => panic!("{number} was measured"),
    }
}

fn value(entry: &Entry) -> f32 {
    match entry {
        Entry::Whole(value) => *value as f32,
        Entry::Number(value) => *value,
        Entry::Missing => panic!("no number"),
        Entry::Text(text) => panic!("{text} is no number"),
    }
}

fn observe(name: &str, lab: &mut Lab, run: &Run, arguments: &Arguments) -> Figure {
    instrument(name)
        .unwrap()
        .observe(run, arguments, lab)
        .unwrap()
}

/// The logits of every layer's state at a position, a whole row each.
fn rows(lab: &mut Lab, run: &Run, position: usize) -> Vec<Vec<f32>> {
    let layers = lab.model.card.layers;
    let wanted: Vec<_> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();
    let recording = lab.record(run, &wanted).unwrap();
    let row = |l: usize| {
        let row = recording
            .get(wanted[l])
            .unwrap()
            .narrow(0, position, 1)
            .unwrap();
        values(
            &lab.model
                .transformer
                .unembed(&row.contiguous().unwrap())
                .unwrap(),
        )
    };
    (0..layers).map(row).collect()
}

#[test]
fn curves_are_the_numbers_of_the_layers() {
    for mut lab in every_family() {
        let run = Run::plain(prompt(6));
        let rows = rows(&mut lab, &run, 3);
        for show in ["probability", "logprob", "rank", "reciprocal_rank"] {
            let arguments = Arguments::default()
                .with("tokens", "#9|#41")
                .with("position", 3)
                .with("show", show);
            let figure = observe("track", &mut lab, &run, &arguments);
            let series = series(&figure);
            assert_eq!(series.curves.len(), 2);
            for (curve, token) in series.curves.iter().zip([9u32, 41]) {
                for (l, row) in rows.iter().enumerate() {
                    let mut logprobs = row.clone();
                    log_softmax(&mut logprobs);
                    let place = rank(row, token) as f32;
                    let expected = match show {
                        "logprob" => logprobs[token as usize],
                        "rank" => place,
                        "reciprocal_rank" => 1.0 / (place + 1.0),
                        _ => logprobs[token as usize].exp(),
                    };
                    let got = curve.values[l];
                    assert!(
                        (got - expected).abs() <= 1e-5 * (1.0 + expected.abs()),
                        "{show} {l}: {got} {expected}"
                    );
                }
            }
            let anchor = series.anchor(1, 1);
            assert_eq!((anchor.layer, anchor.position), (Some(1), Some(3)));
        }
    }
}

#[test]
fn without_names_the_strongest_of_the_output_are_followed() {
    let mut lab = tiny(&lmscope::model::network::families::FAMILIES[0]);
    let run = Run::plain(prompt(6));
    let rows = rows(&mut lab, &run, 3);
    let best = lmscope::lab::sample::top(rows.last().unwrap(), 1000, 3);
    let arguments = Arguments::default().with("count", 3).with("position", 3);
    let figure = observe("track", &mut lab, &run, &arguments);
    let labels: Vec<&str> = series(&figure)
        .curves
        .iter()
        .map(|c| c.label.as_str())
        .collect();
    let expected: Vec<String> = best.iter().map(|b| lab.visible(b.0)).collect();
    assert_eq!(
        labels, expected,
        "of the position that is read, not of the end"
    );
    let refused = |tokens: &str| {
        let arguments = Arguments::default().with("tokens", tokens);
        let run = Run::plain(prompt(6));
        let mut lab = tiny(&lmscope::model::network::families::FAMILIES[0]);
        let given = instrument("track")
            .unwrap()
            .observe(&run, &arguments, &mut lab);
        given.unwrap_err().to_string()
    };
    assert!(refused("|").contains("1 to 12 tokens"));
    let many: Vec<String> = (0..13).map(|i| format!("#{i}")).collect();
    assert!(refused(&many.join("|")).contains("1 to 12 tokens"));
    assert!(refused("#99999").contains("token id below"));
}

/// Settling by its definition: the last stretch of layers that agree with the output, nothing else.
#[test]
fn answers_settle_where_no_later_layer_disagrees() {
    let (mut late, mut apart_from_top) = (0, 0);
    for mut lab in every_family() {
        let run = Run::plain(prompt(12));
        let layers = lab.model.card.layers;
        let arguments = Arguments::default().with("kl", "0.05");
        let figure = observe("settle", &mut lab, &run, &arguments);
        let rows = &table(&figure).pages[0].rows;
        assert_eq!(rows.len(), 12);
        for (p, row) in rows.iter().enumerate() {
            let logits = self::rows(&mut lab, &run, p);
            let best = |l: usize| lmscope::lab::sample::top(&logits[l], 1000, 1)[0].0;
            let answer = best(layers - 1);
            let mut from = layers - 1;
            while from > 0 && best(from - 1) == answer {
                from -= 1;
            }
            let first = (0..layers).find(|l| best(*l) == answer).unwrap();
            assert_eq!(text(&row.entries[2]), lab.visible(answer));
            let mut output = logits[layers - 1].clone();
            log_softmax(&mut output);
            let apart = |l: usize| {
                let mut own = logits[l].clone();
                log_softmax(&mut own);
                kl(&output, &own)
            };
            let mut close = layers - 1;
            while close > from && apart(close - 1) <= 0.05 {
                close -= 1;
            }
            assert_eq!(text(&row.entries[4]), close.to_string(), "position {p}");
            assert_eq!(text(&row.entries[5]), from.to_string(), "position {p}");
            assert_eq!(text(&row.entries[6]), first.to_string());
            assert_eq!(row.anchor.layer, Some(close as u16));
            apart_from_top += usize::from(close > from);
            late += usize::from(from > first);
        }
    }
    assert!(
        late > 0,
        "some answer comes and goes, so that the two are told apart"
    );
    assert!(
        apart_from_top > 0,
        "some top prediction agrees before the distribution does"
    );
}

#[test]
fn a_position_in_numbers() {
    for mut lab in every_family() {
        let run = Run::plain(prompt(6));
        let layers = lab.model.card.layers;
        let arguments = Arguments::default().with("position", 3);
        let figure = observe("trajectory", &mut lab, &run, &arguments);
        let logits = rows(&mut lab, &run, 3);
        let mut output = logits[layers - 1].clone();
        let answer = lmscope::lab::sample::top(&output, 1000, 1)[0].0;
        log_softmax(&mut output);
        let sites = [Site::ResidPre, Site::ResidPost, Site::AttnAdd, Site::MlpAdd];
        let wanted: Vec<_> = sites
            .iter()
            .flat_map(|s| (0..layers).map(|l| s.at(l)))
            .collect();
        let recording = lab.record(&run, &wanted).unwrap();
        for (l, row) in table(&figure).pages[0].rows.iter().enumerate() {
            let mut own = logits[l].clone();
            log_softmax(&mut own);
            let close = |i: usize, expected: f32| {
                let got = value(&row.entries[i]);
                assert!(
                    (got - expected).abs() <= 2e-5 * (1.0 + expected.abs()),
                    "column {i}: {got} {expected}"
                );
            };
            close(3, own[answer as usize].exp());
            assert_eq!(text(&row.entries[4]), rank(&logits[l], answer).to_string());
            close(5, entropy(&own));
            close(6, kl(&output, &own));
            let state = |site: Site| values(&recording.get(site.at(l)).unwrap().get(3).unwrap());
            let length = |x: &[f32]| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let (a, b) = (state(Site::ResidPre), state(Site::ResidPost));
            let dot: f64 = a
                .iter()
                .zip(&b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum();
            close(7, (dot / length(&a) / length(&b)) as f32);
            close(8, length(&b) as f32);
            close(9, length(&state(Site::AttnAdd)) as f32);
            close(10, length(&state(Site::MlpAdd)) as f32);
            assert_eq!(
                (row.anchor.layer, row.anchor.position),
                (Some(l as u16), Some(3))
            );
        }
    }
}

/// The lens says in a note where the answer settles, and `settle` says the same.
#[test]
fn the_demo_settles_on_paris() {
    let mut lab = Lab::open("demo", &Options::default()).unwrap();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let figure = observe("settle", &mut lab, &run, &Arguments::default());
    let last = table(&figure).pages[0].rows.last().unwrap();
    let layer = text(&last.entries[5]);
    assert_eq!(text(&last.entries[2]), "␣Paris");
    let note = observe("lens", &mut lab, &run, &Arguments::default())
        .notes
        .join("\n");
    assert!(
        note.contains(&format!("␣Paris converges at layer {layer} of 0-7")),
        "{note}"
    );
}

/// Two "languages" of the demo's world: countries and their capitals. Asked for a capital, the country's name is read
/// first and the capital's last, each beyond the words of another country.
#[test]
fn the_demo_thinks_of_the_country_first() {
    let mut lab = Lab::open("demo", &Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.csv");
    std::fs::write(
        &file,
        "country,capital\nFrance,Paris\nItaly,Rome\nPoland,Warsaw\n",
    )
    .unwrap();
    let run = Run::plain(lab.model.encode("The capital of France is", false).unwrap());
    let arguments = Arguments::default().with("words", file.display());
    let figure = observe(
        "languages",
        &mut lab,
        &run,
        &arguments.clone().with("word", "France"),
    );
    let one = series(&figure);
    assert_eq!(one.curves[1].label, "capital");
    let capital = &one.curves[1].values;
    assert!(capital.last().unwrap() > &0.9, "{capital:?}");
    assert!(
        figure
            .notes
            .iter()
            .any(|n| n.contains("control, the token sets of another word")),
        "{:?}",
        figure.notes
    );
    // The mass of a set is that of its tokens.
    let mut logprobs = lab.last_logits(&run).unwrap();
    log_softmax(&mut logprobs);
    let vocabulary =
        lmscope::instruments::logit_lens::word_lists::KnownTokens::of(&lab.model).unwrap();
    let set = vocabulary.beginnings(&["Paris".to_string()]);
    assert!(!set.is_empty());
    let mass: f32 = set.iter().map(|id| logprobs[*id as usize].exp()).sum();
    assert!((capital.last().unwrap() - mass).abs() < 1e-5);
    let all = observe("languages", &mut lab, &run, &arguments);
    let all = series(&all);
    for (a, b) in all.curves[1].values.iter().zip(capital) {
        assert!(a + 1e-6 >= *b, "all capitals hold what one holds");
    }
    let refused = instrument("languages").unwrap().observe(
        &run,
        &Arguments::default()
            .with("words", file.display())
            .with("word", "Spain"),
        &mut lab,
    );
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("a word of the list")
    );
}

/// A task made of the list: no text is needed, means and their error are told, too few words are refused, and a sweep that
/// was resumed is the sweep that was not.
#[test]
fn a_task_is_made_of_the_list() {
    let mut lab = Lab::open("demo", &Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.tsv");
    let words = "country\tcapital\nFrance\tParis\nItaly\tRome\nPoland\tWarsaw\nSpain\tMadrid\nRussia\tMoscow\n";
    std::fs::write(&file, words).unwrap();
    let arguments = Arguments::default()
        .with("words", file.display())
        .with("task", "translate")
        .with("from", "country")
        .with("shots", 2);
    let languages = instrument("languages").unwrap();
    assert!(!languages.needs_prompt(&arguments) && !languages.always_needs_prompt());
    assert_eq!(
        languages
            .cost(0, &arguments, &lab.model.card)
            .unwrap()
            .passes,
        20
    );
    let run = Run::plain(vec![]);
    let figure = languages.observe(&run, &arguments, &mut lab).unwrap();
    // Of two languages it is the other one that is translated from.
    let mut alone = arguments.clone();
    alone.given.remove("from");
    let unsaid = languages.observe(&run, &alone, &mut lab).unwrap();
    assert_eq!(unsaid.body, figure.body);
    let back = alone.with("to", "country").with("pivot", "capital");
    assert!(languages.observe(&run, &back, &mut lab).is_ok());
    let notes = figure.notes.join("\n");
    assert!(
        notes.contains("5 words of 5, 0 left out") && notes.contains("standard error"),
        "{notes}"
    );
    assert_eq!(series(&figure).curves.len(), 2);
    let entropies = languages
        .observe(&run, &arguments.clone().with("show", "entropy"), &mut lab)
        .unwrap();
    assert_eq!(series(&entropies).value, "nats");
    assert!(series(&entropies).curves[0].values.iter().all(|v| *v > 0.0));
    let many = languages.observe(&run, &arguments.clone().with("shots", 5), &mut lab);
    assert!(many.unwrap_err().to_string().contains("at least 6 words"));
    let same = languages.observe(&run, &arguments.clone().with("from", "capital"), &mut lab);
    assert!(same.unwrap_err().to_string().contains("another language"));
    // Stopped at the third question, then asked again.
    let mut other = Lab::open("demo", &Options::default()).unwrap();
    let (cancel, mut seen) = (other.cancel.clone(), 0);
    other.progress = WorkProgress::reporting_to(move |_| {
        seen += 1;
        if seen == 3 {
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let part = languages.observe(&run, &arguments, &mut other).unwrap();
    assert!(
        part.notes.iter().any(|n| n.contains("stopped after")),
        "{:?}",
        part.notes
    );
    other.progress = WorkProgress::default();
    let rest = languages.observe(&run, &arguments, &mut other).unwrap();
    assert_eq!(rest.body, figure.body);
}

/// The README's example: from French to German the demo does not pass through English.
#[test]
fn the_demo_translates_without_a_pivot() {
    let mut lab = Lab::open("demo", &Options::default()).unwrap();
    let words = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/lists/languages.tsv");
    let arguments = Arguments::default()
        .with("words", words.display())
        .with("task", "translate")
        .with("from", "French")
        .with("to", "German")
        .with("pivot", "English");
    let run = Run {
        seed: 1,
        ..Run::default()
    };
    let figure = observe("languages", &mut lab, &run, &arguments);
    let curves = &series(&figure).curves;
    let most = |i: usize| curves[i].values.iter().copied().fold(0.0, f32::max);
    let labels: Vec<&str> = curves.iter().map(|c| c.label.as_str()).collect();
    assert_eq!(labels[..3], ["English", "French", "German"]);
    assert!(most(0) < 0.05, "English {:?}", curves[0].values);
    assert!(most(1) > 0.2, "French {:?}", curves[1].values);
    let (french, german) = (&curves[1].values, &curves[2].values);
    assert!(french.last().unwrap() < &0.01 && german.last().unwrap() > &0.8);
}
