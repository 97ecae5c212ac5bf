//! Probes on the demo's planted mood: found, held out, beside shuffled labels, saved with a bias that conditions and meters read.

use lmscope::edit::direction::Direction;
use lmscope::figure::{Body, Entry, Figure};
use lmscope::instruments::{Arguments, instrument, observe};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;
use lmscope::model::network::site::Site;
use lmscope::vectors::proportion::auroc_interval;

use super::demo::demo;

fn list(name: &str) -> String {
    format!("{}/demo/lists/{name}.txt", env!("CARGO_MANIFEST_DIR"))
}

fn asked(plus: &str, minus: &str) -> Arguments {
    Arguments::default().with("plus", plus).with("minus", minus)
}

fn probe(lab: &mut Lab, given: &Arguments) -> Figure {
    observe(instrument("probe").unwrap(), &Run::default(), given, lab).unwrap()
}

/// The numbers of a column, a layer each.
fn column(figure: &Figure, name: &str) -> Vec<f32> {
    let Body::Table(table) = &figure.body else {
        panic!("a table")
    };
    let at = table.columns.iter().position(|c| c == name).unwrap();
    let rows = table.pages[0].rows.iter();
    rows.map(|row| match row.entries[at] {
        Entry::Whole(value) => value as f32,
        Entry::Number(value) => value,
        Entry::Missing | Entry::Text(_) => f32::NAN,
    })
    .collect()
}

#[test]
fn a_planted_mood_is_found_and_shuffled_labels_are_not() {
    let mut lab = demo();
    let layers = lab.model.card.layers;
    let figure = probe(&mut lab, &asked(&list("mood_plus"), &list("mood_minus")));
    for name in ["logistic AUROC", "mass-mean AUROC"] {
        let areas = column(&figure, name);
        assert_eq!(areas.len(), layers);
        let best = areas.iter().copied().fold(0.0, f32::max);
        assert!(best > 0.95, "{name} {areas:?}");
    }
    let shuffled = column(&figure, "shuffled AUROC");
    let mean = shuffled.iter().sum::<f32>() / layers as f32;
    assert!((mean - 0.5).abs() < 0.2, "{shuffled:?}");
    assert!(figure.notes[0].contains("held out: "), "{:?}", figure.notes);
    // Six and six prompts in order are no proof that all would be: Newcombe's interval has a width.
    let (low, high) = auroc_interval(1.0, 6, 6);
    assert!(low < 0.75 && high == 1.0);
    assert!(
        figure.notes[0].contains(&format!("AUROC 1.000 (95 % {low:.3} to {high:.3})")),
        "{:?}",
        figure.notes
    );
    // Nothing can be read where both lists are halves of one.
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read_to_string(list("mood_plus")).unwrap();
    let halves = ["even", "odd"].map(|name| folder.path().join(name).to_str().unwrap().to_string());
    for (i, half) in halves.iter().enumerate() {
        let own: Vec<&str> = whole.lines().skip(i).step_by(2).collect();
        std::fs::write(half, own.join("\n")).unwrap();
    }
    let none = probe(
        &mut lab,
        &asked(&halves[0], &halves[1]).with("shuffles", "0"),
    );
    let areas = column(&none, "logistic AUROC");
    assert!(areas.iter().all(|area| *area < 0.9), "{areas:?}");
    assert!(
        column(&none, "shuffled AUROC").iter().all(|v| v.is_nan()),
        "no column without draws"
    );
}

#[test]
fn what_cannot_judge_a_probe_is_refused() {
    let mut lab = demo();
    let (plus, minus) = (list("mood_plus"), list("mood_minus"));
    let mut error = |given: Arguments| {
        let of = instrument("probe").unwrap();
        let error = observe(of, &Run::default(), &given, &mut lab).unwrap_err();
        error.to_string()
    };
    let all = error(asked(&plus, &minus).with("held-out", "0"));
    assert!(all.contains("a share above 0"), "{all}");
    // A prompt that stands twice is read once: its double would be judged by a probe that was made from it.
    let folder = tempfile::tempdir().unwrap();
    let twice = folder.path().join("twice.txt");
    std::fs::write(&twice, std::fs::read_to_string(&plus).unwrap().repeat(2)).unwrap();
    let twice = asked(twice.to_str().unwrap(), &minus).with("shuffles", "0");
    let of = instrument("probe").unwrap();
    let found = observe(of, &Run::default(), &twice, &mut lab).unwrap();
    let lines = std::fs::read_to_string(&plus).unwrap().lines().count();
    let said = format!("{lines} prompts left out, because the same prompt stands before");
    assert!(
        found.notes.iter().any(|note| note.contains(&said)),
        "{:?}",
        found.notes
    );
    let mut error = |given: Arguments| {
        let error = observe(of, &Run::default(), &given, &mut lab).unwrap_err();
        error.to_string()
    };
    let same = error(asked(&plus, &plus));
    assert!(same.contains("both have the same prompts"), "{same}");
}

#[test]
fn the_saved_probe_has_a_bias_that_meters_and_conditions_read() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mood.safetensors");
    let file = path.to_str().unwrap();
    let figure = probe(
        &mut lab,
        &asked(&list("mood_plus"), &list("mood_minus")).with("save", file),
    );
    let saved = Direction::open(file).unwrap().unwrap();
    let bias = saved.origin.bias.unwrap();
    let (at, weights) = saved.rows[0].clone();
    assert_eq!(at.site, Site::ResidPost);
    let mut right = 0;
    let mut all = 0;
    for (name, positive) in [("mood_plus", true), ("mood_minus", false)] {
        for line in std::fs::read_to_string(list(name)).unwrap().lines() {
            let run = Run::plain(lab.model.encode(line, false).unwrap());
            let recording = lab.record(&run, &[at]).unwrap();
            let rows = recording.get(at).unwrap().to_vec2::<f32>().unwrap();
            let score: f32 = rows
                .last()
                .unwrap()
                .iter()
                .zip(&weights)
                .map(|(x, w)| x * w)
                .sum::<f32>()
                + bias;
            right += usize::from((score > 0.0) == positive);
            all += 1;
            if all == 1 {
                let given = Arguments::default()
                    .with("direction", file)
                    .with("site", "resid_post")
                    .with("layer", at.layer);
                let meter = observe(instrument("meters").unwrap(), &run, &given, &mut lab).unwrap();
                let Body::Grid(grid) = &meter.body else {
                    panic!("a grid")
                };
                let cell = &grid.cells.last().unwrap()[0];
                let p = cell
                    .more
                    .iter()
                    .find(|(name, _)| name == "probe p")
                    .unwrap()
                    .1;
                let wanted = 1.0 / (1.0 + (-score).exp());
                assert!((p - wanted).abs() < 1e-3, "{p} {wanted}");
            }
        }
    }
    assert!(right * 10 >= all * 9, "{right} of {all}");
    // The condition that it names parses, and its border is where the probe says one half.
    let note = figure
        .notes
        .iter()
        .find(|note| note.contains("as a condition"))
        .unwrap();
    let condition = note.split_once("when ").unwrap().1;
    let edit: lmscope::edit::Edit = format!("zero@mlp_out.1 when {condition}").parse().unwrap();
    let border: f32 = condition.rsplit_once('>').unwrap().1.parse().unwrap();
    let length = lmscope::edit::direction::norm(&weights);
    assert!(
        (border * length + bias).abs() < 1e-3 * length.max(1.0),
        "{border} {bias} {length}"
    );
    assert!(edit.when.is_some());
}

/// Moods and a neutral list are three classes, by files or by labels; each has a probe, and shuffled labels know none.
#[test]
fn several_classes_and_positions_are_probed() {
    let mut lab = demo();
    let layers = lab.model.card.layers;
    let folder = tempfile::tempdir().unwrap();
    let lines = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(list(name)).unwrap();
        text.lines().map(String::from).collect()
    };
    let facts = [
        "France", "Norway", "Italy", "Spain", "Greece", "Egypt", "Kenya", "Japan", "Peru", "Chile",
    ];
    let facts: Vec<String> = facts
        .iter()
        .map(|name| format!("The capital of {name} is"))
        .collect();
    let classes = [
        ("happy", lines("mood_plus")),
        ("sad", lines("mood_minus")),
        ("a fact", facts),
    ];
    let mut files = Vec::new();
    let mut table = "prompt\tlabel\n".to_string();
    for (name, prompts) in &classes {
        let file = folder.path().join(format!("{name}.txt"));
        std::fs::write(&file, prompts.join("\n")).unwrap();
        files.push(file.to_str().unwrap().to_string());
        prompts
            .iter()
            .for_each(|prompt| table.push_str(&format!("{prompt}\t{name}\n")));
    }
    let by_label = folder.path().join("labelled.tsv");
    std::fs::write(&by_label, table).unwrap();
    let save = folder.path().join("mood.safetensors");
    let given = Arguments::default()
        .with("classes", files.join(","))
        .with("back", 2)
        .with("save", save.display());
    let figure = probe(&mut lab, &given);
    let whole = |name: &str| -> Vec<usize> {
        let Body::Table(table) = &figure.body else {
            panic!("a table")
        };
        let at = table.columns.iter().position(|c| c == name).unwrap();
        let entries = table.pages[0].rows.iter().map(|row| &row.entries[at]);
        entries
            .map(|entry| match entry {
                Entry::Whole(value) => *value as usize,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let places: Vec<(usize, usize)> = whole("layer").into_iter().zip(whole("before")).collect();
    let all: Vec<(usize, usize)> = (0..layers)
        .flat_map(|layer| [(layer, 0), (layer, 1)])
        .collect();
    assert_eq!(places, all);
    let best = column(&figure, "logistic accuracy")
        .into_iter()
        .fold(0.0, f32::max);
    assert!(best > 0.9, "{best}");
    let shuffled = column(&figure, "shuffled AUROC");
    let mean = shuffled.iter().sum::<f32>() / shuffled.len() as f32;
    assert!((mean - 0.5).abs() < 0.2, "{mean}");
    let said = |what: &str| figure.notes.iter().any(|note| note.contains(what));
    assert!(
        said("a fact against all others: AUROC"),
        "{:?}",
        figure.notes
    );
    assert!(
        said("always saying the largest class would have"),
        "{:?}",
        figure.notes
    );
    // A file a class, each with a bias; its own prompts are above the border, others mostly below.
    for (name, prompts) in &classes {
        let file = folder
            .path()
            .join(format!("mood.{}.safetensors", name.replace(' ', "_")));
        let saved = Direction::open(file.to_str().unwrap()).unwrap().unwrap();
        let (at, weights) = saved.rows[0].clone();
        let bias = saved.origin.bias.unwrap();
        assert!(
            saved.origin.method.contains(name),
            "{}",
            saved.origin.method
        );
        let mut inside = |text: &str| {
            let run = Run::plain(lab.model.encode(text, false).unwrap());
            let recording = lab.record(&run, &[at]).unwrap();
            let rows = recording.get(at).unwrap().to_vec2::<f32>().unwrap();
            // The best position may be that before the last one.
            rows.iter()
                .rev()
                .take(2)
                .any(|row| row.iter().zip(&weights).map(|(x, w)| x * w).sum::<f32>() + bias > 0.0)
        };
        let own = prompts.iter().filter(|prompt| inside(prompt)).count();
        assert!(
            own * 10 >= prompts.len() * 8,
            "{name}: {own} of {}",
            prompts.len()
        );
    }
    // One list with labels is the same question.
    let labelled = probe(
        &mut lab,
        &Arguments::default()
            .with("classes", by_label.display())
            .with("back", 2),
    );
    for name in ["logistic accuracy", "mass-mean AUROC"] {
        assert_eq!(column(&labelled, name), column(&figure, name), "{name}");
    }
    let mut error = |given: Arguments| {
        let of = instrument("probe").unwrap();
        observe(of, &Run::default(), &given, &mut lab)
            .unwrap_err()
            .to_string()
    };
    let none = error(Arguments::default().with("classes", &files[0]));
    assert!(none.contains("a `label`"), "{none}");
    let both = error(asked(&files[0], &files[1]).with("classes", files.join(",")));
    assert!(both.contains("either `classes`"), "{both}");
    let far = error(
        Arguments::default()
            .with("classes", files.join(","))
            .with("back", 60),
    );
    assert!(far.contains("at most"), "{far}");
}

#[test]
fn lists_that_are_too_short_are_refused() {
    let mut lab = demo();
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short.txt");
    std::fs::write(&short, "one\ntwo\nthree\n").unwrap();
    let given = asked(short.to_str().unwrap(), &list("mood_minus"));
    let error = observe(
        instrument("probe").unwrap(),
        &Run::default(),
        &given,
        &mut lab,
    )
    .unwrap_err();
    assert!(error.to_string().contains("held-out"), "{error}");
    let given = Arguments::default().with("plus", list("mood_plus"));
    assert!(
        observe(
            instrument("probe").unwrap(),
            &Run::default(),
            &given,
            &mut lab
        )
        .is_err()
    );
}

/// The command line says what reading the lists will take, once the first of them were read.
#[test]
fn the_command_line_announces_a_probe() {
    let (plus, minus) = (list("mood_plus"), list("mood_minus"));
    let (_, said) = super::tools::lmscope(&["probe", "demo", "--plus", &plus, "--minus", &minus]);
    assert!(said.contains("probe, reading: 64 prompts, "), "{said}");
}
