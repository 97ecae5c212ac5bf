//! Many cuts of one text side by side: what becomes of the answer when some positions cannot read some others (Geva et al.
//! 2023, 2304.14767, section 4).
//!
//! Everything before the first position that loses something is the same under every cut, and is read once. Invariants: a row without a
//! cut is the run itself, which every slice measures beside the others; edits of the run stay in force; a position always
//! reads itself. To ask something else of cuts, read it from the logits of [`Knockouts::logits`].

use std::ops::Range;

use candle_core::Tensor;

use crate::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::lab::apply::{Null, Program};
use crate::lab::bench::Bench;
use crate::lab::cut::Cut;
use crate::lab::run::{Keep, Run, RunTap};
use crate::model::network::cache::Cache;
use crate::model::network::site::{Address, Site};
use crate::model::network::tap::{Leaving, Phase, Span, Tap};

/// Bytes that the repeated cache of one pass may take.
const BYTES: usize = 256 << 20;

/// One cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knockout {
    /// The layers in which it acts.
    pub layers: Range<usize>,
    /// The heads; empty for all.
    pub heads: Vec<u32>,
    /// The positions that cannot be read.
    pub sources: Vec<usize>,
    /// The positions that cannot read them.
    pub targets: Vec<usize>,
    /// Cuts as many random other edges of the same positions and heads instead.
    pub null: Option<u64>,
}

impl Knockout {
    /// The sources that a query loses in a layer.
    fn hidden(&self, layer: usize, query: usize, window: Option<usize>) -> Vec<usize> {
        if !self.layers.contains(&layer) || !self.targets.contains(&query) {
            return Vec::new();
        }
        let spans = self.sources.iter().map(|j| Positions::Span(*j, j + 1));
        let cut = Cut {
            heads: Vec::new(),
            sources: spans.collect(),
            strength: 1.0,
            window,
            null: self.null.map(|seed| seed.wrapping_add(layer as u64)),
        };
        cut.hidden(query, usize::MAX)
    }

    /// How many edges it takes away, heads apart.
    pub fn edges(&self, windows: &[Option<usize>]) -> usize {
        let own = self.layers.clone().map(|layer| {
            let queries = self.targets.iter();
            queries
                .map(|q| self.hidden(layer, *q, windows[layer]).len())
                .sum::<usize>()
        });
        own.sum()
    }
}

/// A run, read once, ready for cuts.
pub struct Knockouts {
    run: Run,
    cache: Cache,
    program: Program,
    first: usize,
    windows: Vec<Option<usize>>,
    /// Bytes of a layer's scores in one row, with what cuts them.
    scores: usize,
    /// Logits after the last token, `[vocab]`.
    pub logits: Vec<f32>,
}

impl Bench {
    /// Reads a run under its edits; cuts will act on positions from `first` on.
    pub fn knockouts(&mut self, run: &Run, first: usize) -> Result<Knockouts> {
        self.model.check_prompt(&run.tokens)?;
        let length = run.tokens.len();
        if first >= length {
            let expected = format!("positions before {length}");
            return Err(Error::argument("targets", first.to_string(), expected));
        }
        let mut program = self.compile(run, Null::No)?;
        let model = &self.model;
        let mut cache = model.cache(1)?;
        let span = Span {
            start: 0,
            len: length,
            prompt: run.prompt,
            phase: Phase::Prefill,
        };
        let mut tap = RunTap::new(&mut program, &[], &[], Keep::Last, self.guard());
        let tokens = model.tokens(&run.tokens)?;
        let transformer = &model.transformer;
        let x = transformer.trunk(&tokens, span, Some(&mut cache), &mut tap)?;
        let last = x.narrow(1, length - 1, 1)?.contiguous()?;
        tap.begin(Span {
            start: length - 1,
            len: 1,
            ..span
        });
        let (logits, _) = transformer.read_out(&last, None, &mut tap)?;
        program.settle()?;
        cache.truncate(first);
        let layers = &transformer.blueprint.layers;
        Ok(Knockouts {
            run: run.clone(),
            cache,
            program,
            first,
            windows: layers.iter().map(|l| l.window).collect(),
            // Two numbers and a flag an edge.
            scores: 9 * transformer.blueprint.heads * (length - first) * length,
            logits: logits.flatten_all()?.to_vec1()?,
        })
    }
}

impl Knockouts {
    /// How many cuts go into one pass, beside the row that is left alone.
    pub fn slice(&self) -> usize {
        (BYTES / (self.cache.bytes() + self.scores).max(1)).clamp(2, 33) - 1
    }

    /// How many positions a query sees in every layer; none for all.
    pub fn windows(&self) -> &[Option<usize>] {
        &self.windows
    }

    /// Logits after the last token, a row a cut, `[cuts][vocab]`; the last row is the run itself without one.
    pub fn logits(&mut self, bench: &Bench, cuts: &[Knockout]) -> Result<Vec<Vec<f32>>> {
        let model = &bench.model;
        let rows = cuts.len() + 1;
        let mut cache = self.cache.copy(rows)?;
        let span = Span {
            start: self.first,
            len: self.run.tokens.len() - self.first,
            prompt: self.run.prompt,
            phase: Phase::Prefill,
        };
        let tokens = model.tokens(&self.run.tokens[self.first..])?;
        let tokens = tokens.repeat((rows, 1))?;
        let mut program = self.program.clone();
        let mut tap = CutTap {
            inner: RunTap::new(&mut program, &[], &[], Keep::Last, bench.guard().lenient()),
            cuts,
            windows: &self.windows,
            first: self.first,
        };
        let transformer = &model.transformer;
        let x = transformer.trunk(&tokens, span, Some(&mut cache), &mut tap)?;
        let x = x.narrow(1, span.len - 1, 1)?.contiguous()?;
        tap.begin(Span {
            start: span.start + span.len - 1,
            len: 1,
            ..span
        });
        let (logits, _) = transformer.read_out(&x, None, &mut tap)?;
        Ok(logits.squeeze(1)?.to_vec2()?)
    }
}

/// Edits and recordings as ever, and a cut a row.
struct CutTap<'a> {
    inner: RunTap<'a>,
    cuts: &'a [Knockout],
    windows: &'a [Option<usize>],
    first: usize,
}

impl CutTap<'_> {
    /// Scores `[rows, heads, tokens, positions]` with every row's edges at -inf.
    fn cut(&self, layer: usize, scores: Tensor) -> Result<Tensor> {
        let (rows, heads, tokens, positions) = scores.dims4()?;
        let mut flags = vec![0u8; rows * heads * tokens * positions];
        let mut any = false;
        for (row, cut) in self.cuts.iter().enumerate() {
            for token in 0..tokens {
                let hidden = cut.hidden(layer, self.first + token, self.windows[layer]);
                any |= !hidden.is_empty();
                let chosen =
                    (0..heads).filter(|h| cut.heads.is_empty() || cut.heads.contains(&(*h as u32)));
                for head in chosen {
                    let line = ((row * heads + head) * tokens + token) * positions;
                    hidden.iter().for_each(|source| flags[line + source] = 1);
                }
            }
        }
        if !any {
            return Ok(scores);
        }
        let flags = Tensor::from_vec(flags, scores.shape(), scores.device())?;
        let gone = Tensor::new(f32::NEG_INFINITY, scores.device())?.broadcast_as(scores.shape())?;
        Ok(flags.where_cond(&gone, &scores)?)
    }
}

impl Tap for CutTap<'_> {
    fn reads(&mut self, tokens: &Tensor, span: Span) -> Result<()> {
        self.inner.reads(tokens, span)
    }

    fn begin(&mut self, span: Span) {
        self.inner.begin(span);
    }

    fn visit(&mut self, at: Address, x: Tensor) -> Result<Tensor> {
        let x = self.inner.visit(at, x)?;
        if at.site == Site::AttnScores {
            return self.cut(usize::from(at.layer), x);
        }
        Ok(x)
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.inner.checkpoint()
    }

    fn leaves(&mut self, leaving: Leaving<'_>) -> Result<()> {
        self.inner.leaves(leaving)
    }
}
