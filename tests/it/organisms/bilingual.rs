//! O6: a pivot language. A head brings the concept of the last French word along; block [`PIVOT`] writes the English word's
//! direction, block [`TARGET`] takes it away and writes the Chinese one. In the `gpt2` layout: the latest word wins by a
//! learned ramp.

use std::fmt::Write as _;

use lmscope::figure::{Body, Figure, Series, Style};
use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::run::Run;

use super::{FREE, Layout, ONE, Organism, Size, lens, probabilities, tokens};

/// The block that writes English, and the one that replaces it.
pub const PIVOT: usize = 2;
pub const TARGET: usize = 4;
pub const LAYERS: usize = 6;
/// French, English, Chinese.
pub const WORDS: [[&str; 3]; 6] = [
    ["fleur", "flower", "花"],
    ["eau", "water", "水"],
    ["livre", "book", "书"],
    ["feu", "fire", "火"],
    ["main", "hand", "手"],
    ["neige", "snow", "雪"],
];
/// The nats of a word with and without its space.
pub const NATS: [f32; 2] = [6.0, 5.0];
/// What stands around the words of a translation prompt.
const AROUND: [&str; 11] = [
    " Français",
    "Français",
    ":",
    " \"",
    "\"",
    " -",
    " 中文",
    "中文",
    "\n",
    "\"\n",
    " English",
];
const FRENCH: usize = FREE;
const RAMP: usize = FREE + 1;
const MEANT: usize = FREE + 2;
const CONCEPT: usize = MEANT + 6;
const ENGLISH: usize = CONCEPT + 6;
const CHINESE: usize = ENGLISH + 6;

pub fn organism() -> Organism {
    let size = Size {
        layout: Layout::Gpt2,
        layers: LAYERS,
        heads: 2,
        slots: CHINESE + 6,
        terms: 8,
        neurons: 8,
        extra: 3.0,
    };
    let mut words: Vec<String> = AROUND.iter().map(ToString::to_string).collect();
    for word in WORDS.iter().flatten() {
        words.push(format!(" {word}"));
        words.push((*word).to_string());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut o = Organism::new(size, &words).literal();
    for position in 0..o.context() {
        let height = position as f32 / o.context() as f32;
        o.position(position, RAMP, height);
    }
    for (i, [french, english, chinese]) in WORDS.iter().enumerate() {
        for (space, nats) in [" ", ""].iter().zip(NATS) {
            let id = o.id(&format!("{space}{french}"));
            o.embed(id, FRENCH, 1.0);
            o.embed(id, MEANT + i, 1.0);
            let id = o.id(&format!("{space}{english}"));
            o.unembed(id, ENGLISH + i, nats);
            let id = o.id(&format!("{space}{chinese}"));
            o.unembed(id, CHINESE + i, nats);
        }
        o.copy(0, 1, MEANT + i, CONCEPT + i);
        let reads = [(CONCEPT + i, 1.0), (ONE, -0.5 / super::BALLAST)];
        o.neuron(PIVOT, &reads, &[(ENGLISH + i, 2.0)]);
        o.neuron(TARGET, &reads, &[(ENGLISH + i, -2.0), (CHINESE + i, 2.0)]);
    }
    // Every place looks for French words, among them for the latest: 8 nats a position, and a word is worth more than all of
    // them. Before the first one it rests.
    let always = [(ONE, 1.0 / super::BALLAST)];
    let steep = 8.0 * o.context() as f32;
    o.look(0, 1, &always, &[(FRENCH, 1.0)], 1.5 * steep);
    o.look(0, 1, &always, &[(RAMP, 1.0)], steep);
    o.rest(0, 1, 1.25 * steep);
    o
}

/// Solved lines and one to solve, as in the translation task of the latent-language experiment.
pub fn translation(lab: &Lab, solved: &[usize], asked: usize) -> Run {
    let mut text = String::new();
    for i in solved {
        let [french, _, chinese] = WORDS[*i];
        text += &format!("Français: \"{french}\" - 中文: \"{chinese}\"\n");
    }
    text += &format!("Français: \"{}\" - 中文: \"", WORDS[asked][0]);
    Run::plain(tokens(lab, &text))
}

/// The probability of a word with or without its space.
pub fn mass(lab: &Lab, row: &[f32], word: &str) -> f32 {
    let p = probabilities(row);
    let tokenizer = lab.model.tokenizer().unwrap();
    [format!(" {word}"), word.to_string()]
        .iter()
        .map(|w| p[tokenizer.single(w).unwrap() as usize])
        .sum()
}

/// What a word's two tokens have together after a layer, in the language of a block that writes it, and in the other one.
fn predicted(lab: &Lab, layer: usize) -> (f32, f32) {
    // All tokens but the one that begins a text.
    let vocab = lab.model.card.vocab as f32 - 1.0;
    let loud: f32 = NATS.iter().map(|n| n.exp()).sum();
    let high = loud / (loud + vocab - 2.0);
    let low = 2.0 / (loud + vocab - 2.0);
    match layer {
        ..PIVOT => (2.0 / vocab, 2.0 / vocab),
        PIVOT..TARGET => (high, low),
        _ => (low, high),
    }
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() < 0.01
}

#[test]
fn thinks_in_english_from_the_pivot_until_the_target() {
    let mut lab = organism().open();
    let layers = lab.model.card.layers;
    for asked in 0..6 {
        let run = translation(&lab, &[(asked + 1) % 6, (asked + 3) % 6], asked);
        assert_eq!(run.tokens.len(), 1 + 2 * 12 + 9, "one token a piece");
        let last = run.tokens.len() - 1;
        let rows = lens(&mut lab, &run, last);
        let given = Arguments::default();
        let figure = instrument("lens").unwrap().observe(&run, &given, &mut lab);
        let figure = figure.unwrap();
        assert!(figure.check.unwrap().passed());
        let [_, english, chinese] = WORDS[asked];
        for layer in 0..layers {
            let row = &rows[layer];
            let (en, zh) = (mass(&lab, row, english), mass(&lab, row, chinese));
            let expected = predicted(&lab, layer);
            let what = format!("{layer}: {en}, {zh}; {expected:?}");
            assert!(near(en, expected.0) && near(zh, expected.1), "{what}");
            let said = &figure.cell(layer as u16, last as u32).unwrap().label;
            match layer {
                ..PIVOT => assert!(en < 0.1, "{what}"),
                PIVOT..TARGET => assert_eq!(said, &format!("␣{english}")),
                _ => assert_eq!(said, &format!("␣{chinese}")),
            }
        }
    }
}

fn series(figure: &Figure) -> &Series {
    match &figure.body {
        Body::Series(series) => series,
        _ => panic!("curves"),
    }
}

/// A curve by the beginning of its name.
fn curve<'a>(series: &'a Series, name: &str) -> &'a [f32] {
    let found = series.curves.iter().find(|c| c.label.starts_with(name));
    &found.unwrap_or_else(|| panic!("no curve {name}")).values
}

/// The layer from which on the second curve is above the first.
fn crossing(before: &[f32], after: &[f32]) -> Option<usize> {
    (0..before.len()).find(|l| (*l..before.len()).all(|i| after[i] > before[i]))
}

/// The experiment as a user does it: a word list, prompts made of it, and two curves that cross where the target is written.
#[test]
fn languages_curves_cross_where_the_target_is_written() {
    let mut lab = organism().open();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.csv");
    let mut list = "English,中文,Français\n".to_string();
    for [french, english, chinese] in WORDS {
        writeln!(list, "{english},{chinese},{french}").unwrap();
    }
    std::fs::write(&file, list).unwrap();
    let languages = instrument("languages").unwrap();
    let given = Arguments::default().with("words", file.display());
    let own = translation(&lab, &[0, 3], 5);
    let tasks = [
        (
            Run::default(),
            given.clone().with("task", "translate").with("shots", 2),
        ),
        (own, given.with("word", "neige")),
    ];
    for (run, given) in tasks {
        let figure = languages.observe(&run, &given, &mut lab).unwrap();
        let series = series(&figure);
        assert_eq!(series.style, Style::Lines);
        let (en, zh) = (curve(series, "English"), curve(series, "中文"));
        assert_eq!(en.len(), LAYERS);
        for (point, layer) in series.points.iter().zip(0..) {
            assert_eq!(point.anchor.layer, Some(layer));
            let expected = predicted(&lab, usize::from(layer));
            let found = (en[usize::from(layer)], zh[usize::from(layer)]);
            assert!(
                near(found.0, expected.0) && near(found.1, expected.1),
                "{layer}: {found:?}, not {expected:?}"
            );
        }
        assert_eq!(crossing(en, zh), Some(TARGET));
        // The language that was asked in is never answered in.
        assert!(curve(series, "Français").iter().all(|p| *p < 0.1));
    }
}

/// Two tokens followed through the layers, and the layer at which the answer settles.
#[test]
fn is_followed_and_settles_where_the_target_is_written() {
    let mut lab = organism().open();
    let run = translation(&lab, &[1], 2);
    let [_, english, chinese] = WORDS[2];
    let given = Arguments::default().with("tokens", format!(" {english}| {chinese}"));
    let figure = instrument("track").unwrap().observe(&run, &given, &mut lab);
    let figure = figure.unwrap();
    let series = series(&figure);
    let (en, zh) = (&series.curves[0].values, &series.curves[1].values);
    assert_eq!(crossing(en, zh), Some(TARGET));
    assert!((PIVOT..TARGET).all(|l| en[l] > 0.5 && zh[l] < 0.1));
    let settle = instrument("settle").unwrap();
    let figure = settle
        .observe(&run, &Arguments::default(), &mut lab)
        .unwrap();
    let Body::Table(table) = &figure.body else {
        panic!("a table")
    };
    let last = table.pages[0].rows.last().unwrap();
    let layer = Some(TARGET as u16);
    let position = Some(run.tokens.len() as u32 - 1);
    assert_eq!((last.anchor.layer, last.anchor.position), (layer, position));
}
