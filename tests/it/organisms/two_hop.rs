//! O1: two hops in tables whose layers we choose. `[<bos>, e, home]`: a head of block 0 brings `e` to the last position; the
//! MLP of one block turns it into its bridge, that of another the bridge into the answer.
//!
//! Where the second table lies below the first, the model knows both hops and answers nothing; putting the state that has the
//! bridge back below the second table mends it, and from which layer to which is known exactly.

use std::collections::BTreeSet;

use lmscope::instruments::{Arguments, instrument};
use lmscope::lab::Lab;
use lmscope::lab::pass::Patch;
use lmscope::lab::run::Run;
use lmscope::model::network::site::Site;

use super::super::tools::edited;
use super::{
    END_ID, FREE, Layout, ONE, Organism, Size, best, patched, probabilities, said, state, tokens,
};

/// Who is asked about, whom that leads to, and the answers.
pub const SUBJECTS: [&str; 6] = [" Ember", " Frost", " Grove", " Haven", " Iris", " Juno"];
pub const BRIDGES: [&str; 6] = [" Karl", " Lena", " Mira", " Nils", " Olga", " Pavel"];
pub const ANSWERS: [&str; 6] = [" Quito", " Riga", " Sofia", " Tunis", " Utrecht", " Vaduz"];
/// A permutation of six for each hop.
pub const FIRST: [usize; 6] = [2, 4, 0, 5, 1, 3];
pub const SECOND: [usize; 6] = [1, 3, 5, 0, 2, 4];
/// The second hop of a world in which some answers are shared.
pub const SHARED: [usize; 6] = [1, 1, 1, 0, 0, 4];
pub const LAYERS: usize = 4;
const ENTITY: usize = FREE;
const QUESTION: usize = FREE + 1;
const ASKED: usize = FREE + 2;
const STOP: usize = FREE + 3;
const NAMED: usize = FREE + 4;
const SUBJECT: usize = NAMED + 6;
const BRIDGE: usize = SUBJECT + 6;
const ANSWER: usize = BRIDGE + 6;
const SPOKEN: usize = ANSWER + 6;

/// Which block's MLP holds which hop, and the hops.
#[derive(Clone, Copy, Debug)]
pub struct TwoHop {
    pub layout: Layout,
    pub hop1: usize,
    pub hop2: usize,
    pub first: [usize; 6],
    pub second: [usize; 6],
}

impl TwoHop {
    pub fn new(layout: Layout, hop1: usize, hop2: usize) -> Self {
        Self {
            layout,
            hop1,
            hop2,
            first: FIRST,
            second: SECOND,
        }
    }

    pub fn organism(&self) -> Organism {
        let size = Size {
            layout: self.layout,
            layers: LAYERS,
            heads: 2,
            slots: SPOKEN + 6,
            terms: 8,
            neurons: 12,
            extra: 2.0,
        };
        let words: Vec<&str> = [SUBJECTS, BRIDGES, ANSWERS].concat();
        let mut o = Organism::new(
            size,
            &[words.as_slice(), &[" home", " it", " is", " x"]].concat(),
        );
        for i in 0..6 {
            let subject = o.id(SUBJECTS[i]);
            o.embed(subject, ENTITY, 1.0);
            o.embed(subject, NAMED + i, 1.0);
            for word in [BRIDGES[i], ANSWERS[i]] {
                let id = o.id(word);
                o.embed(id, STOP, 1.0);
            }
            // The read-outs: an answer outweighs any bridge, a bridge the subject that led to it.
            o.unembed(subject, SUBJECT + i, 3.0);
            let bridge = o.id(BRIDGES[i]);
            o.unembed(bridge, BRIDGE + i, 6.0);
            o.unembed(bridge, SPOKEN + i, 30.0);
            let answer = o.id(ANSWERS[i]);
            o.unembed(answer, ANSWER + i, 30.0);
        }
        o.unembed(END_ID, STOP, 30.0);
        let (question, asked) = (o.id(" home"), o.id(" is"));
        o.embed(question, QUESTION, 1.0);
        o.embed(asked, ASKED, 1.0);
        // The head that brings the subject: the question looks for an entity, everything else rests.
        o.look(0, 1, &[(QUESTION, 1.0)], &[(ENTITY, 1.0)], 80.0);
        o.rest(0, 1, 40.0);
        for i in 0..6 {
            o.copy(0, 1, NAMED + i, SUBJECT + i);
        }
        let half = (ONE, -0.5 / super::BALLAST);
        for i in 0..6 {
            let bridge = BRIDGE + self.first[i];
            o.neuron(self.hop1, &[(SUBJECT + i, 1.0), half], &[(bridge, 2.0)]);
            let answer = ANSWER + self.second[i];
            o.neuron(self.hop2, &[(BRIDGE + i, 1.0), half], &[(answer, 2.0)]);
        }
        // The head that describes: `is` looks for a bridge, wherever one lies, and says it.
        let bridges: Vec<(usize, f32)> = (0..6).map(|i| (BRIDGE + i, 1.0)).collect();
        o.look(3, 0, &[(ASKED, 1.0)], &bridges, 80.0);
        o.rest(3, 0, 40.0);
        for i in 0..6 {
            o.copy(3, 0, BRIDGE + i, SPOKEN + i);
        }
        o
    }

    pub fn open(&self) -> Lab {
        self.organism().open()
    }

    pub fn prompt(subject: usize) -> String {
        format!("{} home", SUBJECTS[subject].trim())
    }

    pub fn answer(&self, subject: usize) -> &'static str {
        ANSWERS[self.second[self.first[subject]]]
    }
}

/// Both layouts: what is wired does not depend on the architecture.
pub const LAYOUTS: [Layout; 2] = [Layout::Llama, Layout::Gpt2];

pub fn run_of(lab: &Lab, subject: usize) -> Run {
    let tokens = tokens(lab, &TwoHop::prompt(subject));
    assert_eq!(tokens.len(), 3, "<bos>, the subject, the question");
    Run::plain(tokens)
}

/// How many of the six come out, with the state of `from` of the question about `donor(subject)` put at `to`, last position.
fn solved(lab: &mut Lab, world: &TwoHop, pair: Option<(usize, usize)>, shift: usize) -> usize {
    (0..6)
        .filter(|subject| {
            let run = run_of(lab, *subject);
            let row = match pair {
                None => lab.last_logits(&run).unwrap(),
                Some((from, to)) => {
                    let donor = run_of(lab, (subject + shift) % 6);
                    let value = state(lab, &donor, Site::ResidPost.at(from), 2);
                    let patch = Patch::new(Site::ResidPost.at(to), 2, value);
                    patched(lab, &run, patch)
                }
            };
            said(lab, &row) == world.answer(*subject)
        })
        .count()
}

pub fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..LAYERS).flat_map(|from| (0..LAYERS).map(move |to| (from, to)))
}

#[test]
fn in_order_answers_all_six_in_one_pass() {
    for layout in LAYOUTS {
        let world = TwoHop::new(layout, 1, 2);
        let mut lab = world.open();
        assert_eq!(solved(&mut lab, &world, None, 0), 6, "{layout:?}");
        let logits = lab.last_logits(&run_of(&lab, 3)).unwrap();
        let sure = probabilities(&logits)[best(&logits) as usize];
        assert!(sure > 0.999, "{layout:?}: {sure}");
    }
}

#[test]
fn out_of_order_is_mended_by_exactly_the_pairs_that_theory_names() {
    for layout in LAYOUTS {
        for (hop1, hop2) in [(2, 1), (1, 1), (2, 2), (3, 1), (3, 2)] {
            let world = TwoHop::new(layout, hop1, hop2);
            let mut lab = world.open();
            let what = format!("{layout:?}, hops at {hop1} and {hop2}");
            assert_eq!(solved(&mut lab, &world, None, 0), 0, "{what}");
            let mut mended = BTreeSet::new();
            for pair in pairs() {
                match solved(&mut lab, &world, Some(pair), 0) {
                    0 => {}
                    6 => drop(mended.insert(pair)),
                    some => panic!("{what}: {some} of 6 at {pair:?}"),
                }
            }
            // From any layer that has the bridge to any below the second table.
            let expected: BTreeSet<_> = pairs()
                .filter(|(from, to)| *from >= hop1 && *to < hop2)
                .collect();
            assert_eq!(mended, expected, "{what}");
            if (hop1, hop2) == (2, 1) {
                assert_eq!(mended, BTreeSet::from([(2, 0), (3, 0)]), "{what}");
            }
        }
    }
}

/// The state of a question about another subject answers that one: right by chance only.
#[test]
fn unrelated_states_succeed_as_often_as_answers_are_shared() {
    for second in [SECOND, SHARED] {
        let world = TwoHop {
            second,
            ..TwoHop::new(Layout::Llama, 2, 1)
        };
        let mut lab = world.open();
        let mut found = 0;
        let mut chance = 0;
        for shift in 1..6 {
            found += solved(&mut lab, &world, Some((2, 0)), shift);
            chance += (0..6)
                .filter(|s| world.answer(*s) == world.answer((s + shift) % 6))
                .count();
        }
        assert_eq!(found, chance, "of 30");
        assert_eq!(chance, if second == SECOND { 0 } else { 8 });
    }
}

#[test]
fn shows_the_bridge_from_the_layer_of_the_first_hop_on() {
    for layout in LAYOUTS {
        for (hop1, hop2) in [(2, 1), (1, 2)] {
            let world = TwoHop::new(layout, hop1, hop2);
            let mut lab = world.open();
            for subject in 0..6 {
                let run = run_of(&lab, subject);
                let given = Arguments::default();
                let figure = instrument("lens").unwrap().observe(&run, &given, &mut lab);
                let figure = figure.unwrap();
                assert!(figure.check.unwrap().passed());
                let found: Vec<String> = (0..LAYERS)
                    .map(|layer| {
                        figure
                            .cell(layer as u16, 2)
                            .unwrap()
                            .label
                            .replace('␣', " ")
                    })
                    .collect();
                let bridge = BRIDGES[world.first[subject]];
                let expected = if hop1 == 2 {
                    [SUBJECTS[subject], SUBJECTS[subject], bridge, bridge]
                } else {
                    let answer = world.answer(subject);
                    [SUBJECTS[subject], bridge, answer, answer]
                };
                assert_eq!(found, expected, "{layout:?}");
            }
        }
    }
}

/// Attention knockout: the answer needs the question to read the subject in block 0, and nothing else.
#[test]
fn forgets_the_subject_when_the_one_edge_that_brings_it_is_cut() {
    for layout in LAYOUTS {
        let world = TwoHop::new(layout, 1, 2);
        let mut lab = world.open();
        let mut right = |edit: &str| {
            (0..6)
                .filter(|subject| {
                    let run = edited(run_of(&lab, *subject).tokens, &[edit]);
                    let row = lab.last_logits(&run).unwrap();
                    said(&lab, &row) == world.answer(*subject)
                })
                .count()
        };
        for cut in ["cut:1=1@attn_scores.0:last", "cut:=1@attn_scores.0:2"] {
            assert_eq!(right(cut), 0, "{layout:?}: {cut}");
        }
        for spared in [
            "cut:0=1@attn_scores.0:last",
            "cut:1=0@attn_scores.0:last",
            "cut:=1@attn_scores.1-3:last",
            "cut:=0@attn_scores.0:1",
        ] {
            assert_eq!(right(spared), 6, "{layout:?}: {spared}");
        }
    }
}

/// A description prompt reads the bridge out of a state from the layer of the first hop on, and nothing of it unpatched.
#[test]
fn is_described_from_the_layer_of_the_first_hop_on() {
    for layout in LAYOUTS {
        let world = TwoHop::new(layout, 1, 2);
        let mut lab = world.open();
        let target = Run::plain(tokens(&lab, "it is"));
        for subject in 0..6 {
            let bridge = lab.model.tokenizer().unwrap();
            let bridge = bridge.single(BRIDGES[world.first[subject]]).unwrap() as usize;
            let plain = lab.last_logits(&target).unwrap();
            assert!(probabilities(&plain)[bridge] < 0.1);
            let run = run_of(&lab, subject);
            for (from, to) in pairs() {
                let value = state(&mut lab, &run, Site::ResidPost.at(from), 2);
                let patch = Patch::new(Site::ResidPost.at(to), 1, value);
                let row = patched(&mut lab, &target, patch);
                // Below the first hop the target prompt takes that hop itself; above the reader nobody reads.
                let readable = (from >= 1 || to < 1) && to < 3;
                let p = probabilities(&row)[bridge];
                assert_eq!(p > 0.9, readable, "{layout:?} {from} to {to}: {p}");
            }
        }
    }
}
