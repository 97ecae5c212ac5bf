//! O6: a pivot language. A head brings the concept of the last French word along; block [`PIVOT`] writes the English word's
//! direction, block [`TARGET`] takes it away and writes the Chinese one. In the `gpt2` layout: the latest word wins by a
//! learned ramp.

use lmscope::lab::bench::Bench;
use lmscope::lab::run::Run;

use super::{FREE, Layout, ONE, Organism, Size, lens, probabilities, said, tokens};

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
pub fn translation(bench: &Bench, solved: &[usize], asked: usize) -> Run {
    let mut text = String::new();
    for i in solved {
        let [french, _, chinese] = WORDS[*i];
        text += &format!("Français: \"{french}\" - 中文: \"{chinese}\"\n");
    }
    text += &format!("Français: \"{}\" - 中文: \"", WORDS[asked][0]);
    Run::plain(tokens(bench, &text))
}

/// The probability of a word with or without its space.
pub fn mass(bench: &Bench, row: &[f32], word: &str) -> f32 {
    let p = probabilities(row);
    let tokenizer = bench.model.tokenizer().unwrap();
    [format!(" {word}"), word.to_string()]
        .iter()
        .map(|w| p[tokenizer.single(w).unwrap() as usize])
        .sum()
}

#[test]
fn o6_thinks_in_english_from_the_pivot_until_the_target() {
    let mut bench = organism().open();
    // All tokens but the one that begins a text.
    let vocab = bench.model.card.vocab as f32 - 1.0;
    let loud: f32 = NATS.iter().map(|n| n.exp()).sum();
    for asked in 0..6 {
        let solved = [(asked + 1) % 6, (asked + 3) % 6];
        let run = translation(&bench, &solved, asked);
        assert_eq!(run.tokens.len(), 1 + 2 * 12 + 9, "one token a piece");
        let rows = lens(&mut bench, &run, run.tokens.len() - 1);
        let [_, english, chinese] = WORDS[asked];
        for (layer, row) in rows.iter().enumerate() {
            let (en, zh) = (mass(&bench, row, english), mass(&bench, row, chinese));
            let (high, low, none) = (
                loud / (loud + vocab - 2.0),
                2.0 / (loud + vocab - 2.0),
                2.0 / vocab,
            );
            let expected = match layer {
                ..PIVOT => (none, none),
                PIVOT..TARGET => (high, low),
                _ => (low, high),
            };
            let near = |a: f32, b: f32| (a - b).abs() < 0.01;
            assert!(
                near(en, expected.0) && near(zh, expected.1),
                "{layer}: {en}, {zh}; {expected:?}"
            );
            let found = said(&bench, row);
            match layer {
                ..PIVOT => assert!(en < 0.1, "{layer}"),
                PIVOT..TARGET => assert_eq!(found, format!(" {english}"), "{layer}"),
                _ => assert_eq!(found, format!(" {chinese}"), "{layer}"),
            }
        }
        let crossing = rows
            .iter()
            .position(|r| mass(&bench, r, chinese) > mass(&bench, r, english) + 1e-3);
        assert_eq!(crossing, Some(TARGET));
    }
}
