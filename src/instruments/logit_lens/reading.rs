//! Lenses: which states are read, with whose norm, through which map; and the reading of many at once.
//!
//! Invariant: the model's own output is read with every lens, so that "the answer" and "KL to final" mean the same under
//! all of them: the last block's stream, its own norm, no map. To read another state, see [`SITES`]; to read something
//! else of it, see [`crate::lab::readout`].
//!
//! Sources: logit lens, nostalgebraist 2020, Kao et al. 2020 (2001.09309); entropy and KL along the layers, Ali et al.
//! 2025 (2502.16570); reciprocal ranks, Merullo et al. 2024 (2305.16130).

use std::ops::Range;

use candle_core::Tensor;

use super::lens_file::LensFile;
use crate::error::Result;
use crate::figure::Check;
use crate::lab::bench::Bench;
use crate::lab::readout::{Against, Ask, Said, Tokens, read};
use crate::lab::run::{Recording, Run};
use crate::lab::writer::tolerance;
use crate::model::network::site::{Address, Site};

/// The states that a lens reads: the stream, and what sub-layers add to it.
pub const SITES: &[Site] = &[
    Site::ResidPost,
    Site::ResidMid,
    Site::ResidPre,
    Site::AttnAdd,
    Site::MlpAdd,
];

/// Rows that go through the unembedding together.
const ROWS: usize = 1536;

/// Bytes of whole rows of logits that are held at a time, where some must be.
const HELD: usize = 256 << 20;

/// Whose statistics the final norm uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormOf {
    /// Those of the row that is read.
    Own,
    /// Those of the model's last state at the same position: what a part contributes, not what it would say alone.
    Final,
}

/// What is read, and how.
pub struct View {
    /// Where.
    pub site: Site,
    /// With whose statistics.
    pub norm: NormOf,
    /// Through which maps.
    pub file: Option<LensFile>,
}

/// What is asked of every state.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // questions that have nothing to do with each other
pub struct Wish {
    /// How many of the strongest tokens.
    pub top: usize,
    /// Tokens of interest, in every row.
    pub tokens: Vec<u32>,
    /// Whether the model's own strongest token at each position is of interest instead.
    pub answer: bool,
    /// Whether ranks are counted.
    pub ranks: bool,
    /// Entropies.
    pub entropy: bool,
    /// KL from the model's own output.
    pub kl: bool,
}

/// Everything that was read of a run.
pub struct Seen {
    /// By layer, then position from the first one read.
    pub layers: Vec<Vec<Said>>,
    /// The same through no map, where there are maps and it was asked for.
    pub plain: Vec<Vec<Said>>,
    /// The last block's stream with its own norm, by position.
    pub finals: Vec<Said>,
    /// What is called the answer at each position: the model's own strongest token, or that of [`Bench::answers_of`].
    pub answers: Vec<u32>,
    /// The positions.
    pub positions: Range<usize>,
    /// The last of the finals against the model's own logits.
    pub check: Option<Check>,
}

impl View {
    /// The plain logit lens.
    pub fn plain() -> Self {
        Self {
            site: Site::ResidPost,
            norm: NormOf::Own,
            file: None,
        }
    }

    /// Whether the rows of the last layer are the model's own output.
    pub fn ends_in_output(&self) -> bool {
        self.site == Site::ResidPost && self.file.is_none()
    }

    /// What must be recorded.
    pub fn wanted(&self, layers: usize) -> Vec<Address> {
        let mut wanted: Vec<Address> = (0..layers).map(|l| self.site.at(l)).collect();
        let last = Site::ResidPost.at(layers - 1);
        if !wanted.contains(&last) {
            wanted.push(last);
        }
        wanted
    }

    /// Rows of one layer as the unembedding takes them; `scale` is that of the last states.
    fn rows(&self, bench: &Bench, rows: &Tensor, at: Address, scale: &Tensor) -> Result<Tensor> {
        let last = Site::ResidPost.at(bench.model.card.layers - 1);
        let mapped = match &self.file {
            // The last state is the output; maps end before it.
            Some(file) if at != last => file.apply(at, rows)?,
            Some(_) | None => rows.clone(),
        };
        let scale = match self.norm {
            NormOf::Own => None,
            NormOf::Final => Some(scale),
        };
        bench.model.transformer.prepared(&mapped, scale)
    }
}

/// Reads positions of a run through a lens. `beside` adds the reading through no map.
///
/// # Errors
///
/// When the model lacks the site, the file has no map for it, or the user stops it.
pub fn see(
    bench: &mut Bench,
    run: &Run,
    view: &View,
    positions: Range<usize>,
    wish: &Wish,
    beside: bool,
) -> Result<Seen> {
    let layers = bench.model.card.layers;
    let wanted = view.wanted(layers);
    if let Some(file) = &view.file {
        file.serves(wanted[0])?;
    }
    let (recording, own) = bench.record_with_output(run, &wanted)?;
    let last = recording.get(Site::ResidPost.at(layers - 1))?;
    let check = check(bench, run, last, &own)?;
    let other = match bench.answers_of.clone() {
        Some(other) if wish.answer => {
            let at = Site::ResidPost.at(layers - 1);
            Some(bench.record_with_output(&other, &[at])?.0)
        }
        _ => None,
    };
    let beside = beside && view.file.is_some();
    let mut seen = Seen {
        layers: vec![Vec::new(); layers],
        plain: vec![Vec::new(); if beside { layers } else { 0 }],
        finals: Vec::new(),
        answers: Vec::new(),
        positions: positions.clone(),
        check,
    };
    let total = positions.len().max(1);
    let most = ROWS / layers.max(1);
    let most = if wish.kl {
        most.min(HELD / (4 * bench.model.card.vocab))
    } else {
        most
    };
    for start in positions.clone().step_by(most.max(1)) {
        let end = (start + most.max(1)).min(positions.end);
        let done = (start - positions.start) as f32 / total as f32;
        let share = (end - start) as f32 / total as f32;
        piece(
            bench,
            (&recording, other.as_deref()),
            view,
            start..end,
            wish,
            (done, share),
            &mut seen,
        )?;
    }
    Ok(seen)
}

/// The last state against the model's own logits of the same pass; none where an edit acts after the last block, which
/// no lens sees.
fn check(bench: &Bench, run: &Run, last: &Tensor, own: &[f32]) -> Result<Option<Check>> {
    if run.schedule.acts_at(Site::FinalNorm) {
        return Ok(None);
    }
    let row = last.narrow(0, last.dim(0)? - 1, 1)?.contiguous()?;
    let lens = bench.model.transformer.unembed(&row)?;
    let lens = lens.flatten_all()?.to_vec1::<f32>()?;
    let tolerance = tolerance(bench.model.transformer.dtype());
    Ok(Some(Check::of(own, &lens, tolerance)))
}

/// Reads a few positions at all layers; the answers are those of another run where one is given.
fn piece(
    bench: &mut Bench,
    (recording, other): (&Recording, Option<&Recording>),
    view: &View,
    positions: Range<usize>,
    wish: &Wish,
    (done, share): (f32, f32),
    seen: &mut Seen,
) -> Result<()> {
    let layers = bench.model.card.layers;
    let count = positions.len();
    let part = |recording: &Recording, at: Address| -> Result<Tensor> {
        Ok(recording
            .get(at)?
            .narrow(0, positions.start, count)?
            .contiguous()?)
    };
    let of = |at: Address| part(recording, at);
    let last = of(Site::ResidPost.at(layers - 1))?;
    let transformer = &bench.model.transformer;
    let scale = transformer.norm.inverse_scale(&last)?;
    let finals = transformer.prepared(&last, None)?;
    let blocks = (0..layers).map(|l| {
        let at = view.site.at(l);
        view.rows(bench, &of(at)?, at, &scale)
    });
    let mut blocks = blocks.collect::<Result<Vec<_>>>()?;
    if !seen.plain.is_empty() {
        let bare = View {
            site: view.site,
            norm: view.norm,
            file: None,
        };
        for l in 0..layers {
            let at = bare.site.at(l);
            blocks.push(bare.rows(bench, &of(at)?, at, &scale)?);
        }
    }
    // Where the model's own output decides what is asked of the others, it is read first; else all of it at once.
    let first = wish.answer || wish.kl || !view.ends_in_output();
    let own = if first {
        let ask = Ask {
            top: wish.top.max(1),
            tokens: Tokens::Same(&wish.tokens),
            ranks: wish.ranks,
            entropy: wish.entropy,
            keep: wish.kl,
            against: None,
        };
        let rows = finals;
        reading(bench, &rows, &ask, (done, share * 0.1))?
    } else {
        Vec::new()
    };
    let theirs = match other {
        Some(other) => {
            let rows = part(other, Site::ResidPost.at(layers - 1))?;
            let rows = bench.model.transformer.prepared(&rows, None)?;
            let ask = Ask {
                top: 1,
                ..Ask::default()
            };
            reading(bench, &rows, &ask, (done, share * 0.1))?
        }
        None => Vec::new(),
    };
    let named: Vec<u32> = if other.is_some() { &theirs } else { &own }
        .iter()
        .map(|said| said.first().0)
        .collect();
    let rows = Tensor::cat(&blocks, 0)?;
    let groups = blocks.len();
    drop(blocks);
    let answers: Vec<u32> = (0..groups).flat_map(|_| named.iter().copied()).collect();
    let numbers: Vec<usize> = (0..groups).flat_map(|_| 0..count).collect();
    let ask = Ask {
        top: wish.top,
        tokens: if wish.answer {
            Tokens::Each(&answers)
        } else {
            Tokens::Same(&wish.tokens)
        },
        ranks: wish.ranks,
        entropy: wish.entropy,
        against: wish.kl.then_some(Against {
            rows: &own,
            of: &numbers,
        }),
        keep: false,
    };
    let from = if first { 0.1 } else { 0.0 };
    let part = (done + share * from, share * (1.0 - from));
    let mut said = reading(bench, &rows, &ask, part)?.into_iter();
    for layer in seen.layers.iter_mut().chain(&mut seen.plain) {
        layer.extend(said.by_ref().take(count));
    }
    if let Some(i) = (0..count).find(|i| {
        let finals = if first { own.get(*i) } else { None };
        let last = seen.layers.last().and_then(|l| l.get(l.len() - count + i));
        !finals.or(last).is_none_or(Said::is_finite)
    }) {
        let after = positions.start + i;
        return Err(bench.not_finite(&format!("The model's logits after position {after} are")));
    }
    if first {
        // The logits have served.
        seen.finals.extend(own.into_iter().map(|said| Said {
            logits: Vec::new(),
            ..said
        }));
    } else if let Some(layer) = seen.layers.last() {
        let read = layer[layer.len() - count..].to_vec();
        seen.finals.extend(read);
    }
    let own = &seen.finals[seen.finals.len() - count..];
    seen.answers.extend(if other.is_some() {
        named
    } else {
        own.iter().map(|said| said.first().0).collect()
    });
    Ok(())
}

/// Reads rows and tells how far it is.
fn reading(
    bench: &mut Bench,
    rows: &Tensor,
    ask: &Ask,
    (done, share): (f32, f32),
) -> Result<Vec<Said>> {
    bench.part(done..done + share, |bench| {
        read(&bench.model, rows, ask, &mut |part| bench.report(part))
    })
}

impl Seen {
    /// The layer from which on the strongest token never changes again, at the `i`th position read: the answer is the
    /// model's own, so this is none only where no layer of this lens gives it last.
    pub fn settles(&self, i: usize) -> Option<usize> {
        let answer = self.finals.get(i)?.first().0;
        let agree = |l: &usize| {
            self.layers[*l]
                .get(i)
                .is_some_and(|s| s.first().0 == answer)
        };
        (0..self.layers.len()).rev().take_while(agree).last()
    }
}
