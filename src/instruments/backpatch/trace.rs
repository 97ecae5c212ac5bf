//! The trace of the entities: at which layers the bridge and the answer can be decoded, at the entity and at the last token.
//!
//! There are two decoders: the logit lens (the token's rank through the final norm and the unembedding), and a Patchscope (its
//! rank after a prompt whose placeholder the state overwrites, at the same layer or at the best one). Invariant: every cell
//! shows the same ranks for the states of an unrelated text as well.

use candle_core::Tensor;

use super::{BackpatchParams, PatchPlace, quoted, spelled, spellings};
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Cell, Grid, Unit};
use crate::instruments::Draft;
use crate::instruments::backpatch::layer_pairs::{WantedAnswer, block_outputs, rank};
use crate::instruments::backpatch::two_hop::last_token_of;
use crate::lab::Lab;
use crate::lab::capture::Output;
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::run::Run;
use crate::model::network::site::Site;

/// An entity to decode: its name and first tokens.
struct SoughtEntity {
    name: &'static str,
    firsts: Vec<u32>,
}

/// The ranks of one entity in the states of one position, by layer.
struct Ranks {
    lens: Vec<u32>,
    /// By a Patchscope that overwrites the layer the state was taken from.
    same: Vec<u32>,
    /// By a Patchscope at the target layer with the best rank.
    best: Vec<u32>,
}

pub fn trace(params: &BackpatchParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
    lab.model.check_prompt(&run.tokens)?;
    let mut sought = Vec::new();
    let bridge = spellings(&params.bridge);
    if !bridge.is_empty() {
        sought.push(SoughtEntity {
            name: "bridge",
            firsts: WantedAnswer::new(lab, "bridge", &bridge, None)?.firsts,
        });
    }
    sought.push(SoughtEntity {
        name: "answer",
        firsts: params.wanted_answer(run, lab)?.firsts,
    });
    let last = run.tokens.len() - 1;
    let mut positions = if params.position == PatchPlace::Auto && params.entity.is_none() {
        Vec::new()
    } else {
        vec![params.position(run, lab)?]
    };
    if !positions.contains(&last) {
        positions.push(last);
    }
    let reader = StateReader::new(lab, &params.reader, &params.placeholder)?;
    let other = params.unrelated_run(run, lab)?;
    let elsewhere = block_outputs(lab, &other, other.tokens.len() - 1)?;
    let work = (positions.len() + 1) as f32;
    let away = reader.ranks(lab, &elsewhere, &sought)?;
    let mut columns = Vec::new();
    for (i, position) in positions.iter().enumerate() {
        lab.report((i + 1) as f32 / work)?;
        let own = block_outputs(lab, run, *position)?;
        columns.push((*position, reader.ranks(lab, &own, &sought)?));
    }
    Ok(draft(run, lab, &reader, &sought, &columns, &away, &other))
}

/// A Patchscope: a prompt with a placeholder.
struct StateReader {
    run: Run,
    placeholder: usize,
    /// The text of the prompt, for notes.
    prompt: String,
}

impl StateReader {
    fn new(lab: &mut Lab, prompt: &str, placeholder: &str) -> Result<Self> {
        let run = Run::plain(lab.model.encode(prompt, false)?);
        let expected = "a text that occurs in the reader, letter for letter";
        let position = last_token_of(lab, &run.tokens, "placeholder", placeholder)
            .map_err(|_| Error::argument("placeholder", placeholder, expected))?;
        if position == 0 {
            let expected = "a text after the reader's first token, whose state is unlike any other";
            return Err(Error::argument("placeholder", placeholder, expected));
        }
        Ok(Self {
            run,
            placeholder: position,
            prompt: prompt.to_string(),
        })
    }

    /// The ranks of all entities in states given by layer.
    fn ranks(
        &self,
        lab: &mut Lab,
        states: &[Tensor],
        sought: &[SoughtEntity],
    ) -> Result<Vec<Ranks>> {
        let layers = states.len();
        let output = Output {
            ranks: true,
            ..Output::tokens(
                &sought
                    .iter()
                    .flat_map(|s| s.firsts.clone())
                    .collect::<Vec<_>>(),
            )
        };
        let lens = lab.read(&Tensor::stack(states, 0)?, &output.ask(0, 0))?;
        // Every source layer at every target layer, the lowest target first.
        let rows_of: Vec<PassRow> = (0..layers * layers)
            .map(|i| {
                let at = Site::ResidPost.at(i / layers);
                PassRow::patched(vec![Patch::new(
                    at,
                    self.placeholder,
                    states[i % layers].clone(),
                )])
            })
            .collect();
        let pass = Pass {
            run: self.run.clone(),
            from: Some(self.placeholder),
            rows: rows_of,
            output: output.clone(),
            ..Pass::default()
        };
        let rows = lab.run(&pass)?;
        let read = |row: usize, k: usize| rank(rows[row].last(), &sought[k].firsts);
        let of = |k: usize| Ranks {
            lens: lens.iter().map(|s| rank(s, &sought[k].firsts)).collect(),
            same: (0..layers).map(|l| read(l * layers + l, k)).collect(),
            best: (0..layers)
                .map(|s| {
                    (0..layers)
                        .map(|t| read(t * layers + s, k))
                        .min()
                        .unwrap_or(0)
                })
                .collect(),
        };
        Ok((0..sought.len()).map(of).collect())
    }
}

fn draft(
    run: &Run,
    lab: &Lab,
    reader: &StateReader,
    sought: &[SoughtEntity],
    found: &[(usize, Vec<Ranks>)],
    away: &[Ranks],
    other: &Run,
) -> Draft {
    let layers = lab.model.card.layers;
    let mut columns = Vec::new();
    let mut cells = Vec::new();
    let mut firsts = Vec::new();
    for (k, sought) in sought.iter().enumerate() {
        for (position, ranks) in found {
            let readers: [(&str, &Vec<u32>, &Vec<u32>); 3] = [
                ("lens", &ranks[k].lens, &away[k].lens),
                ("scope", &ranks[k].same, &away[k].same),
                ("oracle", &ranks[k].best, &away[k].best),
            ];
            for (name, own, control) in readers {
                let token = Unit::Token(sought.firsts[0]);
                let place = lab.visible(run.tokens[*position]);
                columns.push(AxisLabel::of(
                    format!("{} {position} {name}", sought.name),
                    Anchor::position(*position).with(token),
                ));
                let cell = |layer: usize| {
                    let (rank, away) = (own[layer], control[layer] as f32);
                    let anchor = Anchor::cell(layer, *position).with(token);
                    Cell::of(rank.to_string(), 1.0 / (rank as f32 + 1.0), anchor)
                        .more([("rank", rank as f32), ("rank, control", away)])
                };
                cells.push((0..layers).map(cell).collect());
                let earliest = |ranks: &[u32]| match ranks.iter().position(|r| *r == 0) {
                    Some(layer) => format!("layer {layer}"),
                    None => "no layer".to_string(),
                };
                firsts.push(format!(
                    "{} {position} {name}: {} at {place} is the top prediction first at {} (control: {})",
                    sought.name,
                    spelled(lab, &sought.firsts),
                    earliest(own),
                    earliest(control)
                ));
            }
        }
    }
    let named: Vec<String> = sought
        .iter()
        .map(|s| format!("{} {}", s.name, spelled(lab, &s.firsts)))
        .collect();
    let mut notes = firsts;
    notes.push("each cell: the rank of the first token (0 is the top prediction), coloured by 1 / (rank + 1); columns: which entity, at which position, and how it is read: lens (logit lens), scope (Patchscope into the same layer) or oracle (Patchscope into whichever target layer reads it best; its control had as many tries)".into());
    notes.push(format!(
        "patchscope: the state overwrites position {} of the {} of {:?}",
        reader.placeholder,
        reader.run.tokens.len(),
        reader.prompt
    ));
    notes.push(format!(
        "control: the last token of an unrelated text, {}; seed {}",
        quoted(lab, &other.tokens),
        run.seed
    ));
    let columns = ("entity, position, reading", columns);
    let rows = ("layer", AxisLabel::layers(layers));
    Draft::of(Grid::filled(rows, columns, "reciprocal rank", cells))
        .titled(format!("trace of {}", named.join(" and ")))
        .notes(notes)
}
