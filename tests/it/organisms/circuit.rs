//! O9: a known circuit. Of 24 nodes two heads and an MLP carry the task; the others write what nobody reads.
//!
//! A head of block 0 brings the name that was said to the question, the MLP of block 2 turns it into an answer's code, and a head of block
//! 3 copies the code to where the logits read it; the logits read a fifth of it from the MLP as well. The other heads and MLPs write other
//! numbers for every name, into slots that lie across everything that is read.

use super::{BALLAST, FREE, Layout, ONE, Organism, Size};

pub const NAMES: [&str; 4] = [" Alma", " Boris", " Clara", " David"];
pub const ANSWERS: [&str; 4] = [" amber", " brass", " coral", " denim"];
/// The edges that carry the task.
pub const PLANTED: [&str; 5] = [
    "input->a0.h1<v>",
    "a0.h1->m2",
    "m2->a3.h0<v>",
    "a3.h0->logits",
    "m2->logits",
];
pub const LAYERS: usize = 4;
pub const HEADS: usize = 5;
const ENTITY: usize = FREE;
const QUESTION: usize = FREE + 1;
const NAMED: usize = FREE + 2;
const BROUGHT: usize = NAMED + 4;
const CODE: usize = BROUGHT + 4;
const ANSWER: usize = CODE + 4;
const ASIDE: usize = ANSWER + 4;
/// Slots that nobody reads.
const UNREAD: usize = 6;

pub fn organism(layout: Layout) -> Organism {
    let size = Size {
        layout,
        layers: LAYERS,
        heads: HEADS,
        slots: ASIDE + UNREAD,
        terms: 6,
        neurons: 8,
        extra: 5.0,
    };
    let words = [NAMES.as_slice(), &ANSWERS, &[" stone"]].concat();
    let mut o = Organism::new(size, &words);
    let question = o.id(" stone");
    o.embed(question, QUESTION, 1.0);
    for i in 0..4 {
        let id = o.id(NAMES[i]);
        o.embed(id, ENTITY, 1.0);
        o.embed(id, NAMED + i, 1.0);
        let id = o.id(ANSWERS[i]);
        o.unembed(id, ANSWER + i, 12.0);
        o.unembed(id, CODE + i, 2.4);
    }
    let mut number = 0u32;
    let mut drawn = move || {
        number = number.wrapping_add(1);
        let mixed = number
            .wrapping_mul(0x9e37_79b9)
            .rotate_left(13)
            .wrapping_mul(0x85eb_ca6b);
        (mixed >> 8) as f32 / (1 << 24) as f32
    };
    for layer in 0..LAYERS {
        for head in 0..HEADS {
            match (layer, head) {
                (0, 1) => {
                    o.look(layer, head, &[(QUESTION, 1.0)], &[(ENTITY, 1.0)], 80.0);
                    o.rest(layer, head, 40.0);
                    (0..4).for_each(|i| o.copy(layer, head, NAMED + i, BROUGHT + i));
                }
                (3, 0) => {
                    o.look(layer, head, &[(QUESTION, 1.0)], &[(QUESTION, 1.0)], 80.0);
                    o.rest(layer, head, 40.0);
                    (0..4).for_each(|i| o.copy(layer, head, CODE + i, ANSWER + i));
                }
                _ => {
                    let seen = if head % 2 == 0 { ENTITY } else { QUESTION };
                    o.look(layer, head, &[(QUESTION, 1.0)], &[(seen, 1.0)], 80.0);
                    o.rest(layer, head, 40.0);
                    for i in 0..4 {
                        let from = if head % 2 == 0 { NAMED } else { BROUGHT };
                        let to = ASIDE + (drawn() * UNREAD as f32) as usize;
                        o.copy_times(layer, head, (from + i, to), drawn() - 0.5);
                    }
                }
            }
        }
        for i in 0..4 {
            let reads = [(BROUGHT + i, 1.0), (ONE, -0.5 / BALLAST)];
            if layer == 2 {
                o.neuron(layer, &reads, &[(CODE + i, 2.0)]);
            } else {
                let to = ASIDE + (drawn() * UNREAD as f32) as usize;
                o.neuron(layer, &reads, &[(to, drawn() - 0.5)]);
            }
        }
    }
    o
}
