//! The writer: a text that grows token by token under edits, with a cache, receipts and an unedited shadow.
//!
//! Invariant: the cache always holds exactly the tokens of the run but for none, under the run's schedule; the
//! shadow holds the same tokens unedited. One call of [`Writer::step`] is one turn of the engine.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use super::apply::{Null, Program};
use super::bench::Bench;
use super::edit::Edit;
use super::figure::Check;
use super::receipt::Receipt;
use super::run::{Keep, Run, RunTap};
use super::sample::{Sampling, kl, log_softmax, rank};
use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::cache::Cache;
use crate::model::site::{Address, Site};
use crate::model::tap::{Phase, Span, Tap};

/// What is read at every new position besides the model's own output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Addresses whose last row is recorded.
    pub record: Vec<Address>,
    /// Residual addresses whose last row is unembedded together with the model's own output.
    pub unembed: Vec<Address>,
}

impl Needs {
    /// Adds another reader's needs.
    pub fn merge(&mut self, other: Self) {
        for (own, more) in [
            (&mut self.record, other.record),
            (&mut self.unembed, other.unembed),
        ] {
            more.into_iter().for_each(|a| {
                if !own.contains(&a) {
                    own.push(a);
                }
            });
        }
    }
}

/// What is known of a token that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its position.
    pub position: usize,
    /// Its id.
    pub id: u32,
    /// Natural log-probability before temperature.
    pub logprob: f32,
    /// How many tokens were more probable.
    pub rank: u32,
    /// KL(unedited ‖ edited) of the distribution it was drawn from, nats, while edits are active.
    pub kl: Option<f32>,
}

/// One token written and read back in.
#[derive(Debug)]
pub struct Step {
    /// The token.
    pub choice: Choice,
    /// Recorded rows at its position, `[width]`, f32, on the model's device.
    pub rows: HashMap<Address, Tensor>,
    /// Logits of residual rows at its position, in the order of the needs.
    pub unembedded: Vec<(Address, Vec<f32>)>,
    /// The model's own logits after it.
    pub logits: Vec<f32>,
    /// Last lens row against the model's own logits, when the lens was read.
    pub check: Option<Check>,
    /// The run so far, this token included.
    pub run: Run,
}

/// The unedited run on the same tokens.
struct Shadow {
    cache: Cache,
    logits: Vec<f32>,
}

/// A growing text.
pub struct Writer {
    /// Tokens, prompt and schedule.
    pub run: Run,
    /// How tokens are chosen.
    pub sampling: Sampling,
    cache: Cache,
    program: Program,
    shadow: Option<Shadow>,
    logits: Tensor,
}

/// The largest difference of logits that the self-check tolerates: 1e-4 in f32, more in narrower dtypes.
pub fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 | DType::F64 => 1e-4,
        _ => 5e-2,
    }
}

impl Writer {
    /// Reads a prompt.
    pub fn begin(
        bench: &mut Bench,
        tokens: Vec<u32>,
        schedule: Schedule,
        sampling: Sampling,
    ) -> Result<Self> {
        bench.model.check_prompt(&tokens)?;
        let run = Run {
            prompt: tokens.len(),
            tokens,
            schedule,
            seed: sampling.seed,
        };
        let program = bench.compile(&run.schedule, &run.tokens, run.prompt, Null::No)?;
        let logits = Tensor::zeros(1, DType::F32, &candle_core::Device::Cpu)?;
        let mut writer = Self {
            run,
            sampling,
            cache: bench.model.cache(1)?,
            program,
            shadow: None,
            logits,
        };
        writer.read_prompt(bench)?;
        Ok(writer)
    }

    /// Reads every token again into a new cache.
    fn read_prompt(&mut self, bench: &mut Bench) -> Result<()> {
        let (cache, logits) = prefill(bench, &self.run, &mut self.program)?;
        self.cache = cache;
        self.cache.digest = self.run.schedule.digest();
        self.logits = logits;
        self.program.settle()?;
        self.cast_shadow(bench)
    }

    /// Starts, renews or drops the unedited run beside this one.
    fn cast_shadow(&mut self, bench: &mut Bench) -> Result<()> {
        self.shadow = None;
        if !self.program.is_idle() {
            let (cache, logits) = prefill(bench, &self.run.unedited(), &mut Program::default())?;
            self.shadow = Some(Shadow {
                cache,
                logits: logits.to_vec1()?,
            });
        }
        Ok(())
    }

    /// Whether the context has room for another token.
    pub fn has_room(&self, bench: &Bench) -> bool {
        self.run.tokens.len() < bench.model.card.context
    }

    /// Chooses the next token, reads it in, and returns what was asked for at its position.
    /// When the pass is cancelled the token is not kept.
    pub fn step(&mut self, bench: &mut Bench, needs: &Needs) -> Result<Step> {
        let position = self.run.tokens.len();
        let id = self.sampling.choose(&self.logits, position)?;
        let mut own = self.logits.to_vec1::<f32>()?;
        log_softmax(&mut own);
        let kl = self.shadow.as_ref().map(|shadow| {
            let mut base = shadow.logits.clone();
            log_softmax(&mut base);
            kl(&base, &own)
        });
        let choice = Choice {
            position,
            id,
            logprob: own[id as usize],
            rank: rank(&own, id),
            kl,
        };

        let mut text = self.run.tokens.clone();
        text.push(id);
        let prompt = self.run.prompt;
        let mut wanted = needs.record.clone();
        wanted.extend(needs.unembed.iter().filter(|a| !needs.record.contains(a)));
        let transformer = &bench.model.transformer;
        let passed = (|| -> Result<_> {
            let mut tap = RunTap::new(&mut self.program, &[], &wanted, Keep::Last, &bench.cancel);
            let x = extend(&bench.model, &text, prompt, &mut self.cache, &mut tap)?;
            let lens = needs
                .unembed
                .iter()
                .map(|a| {
                    let row = tap.recorded.get(a).ok_or_else(|| Error::Refused {
                        address: a.to_string(),
                        why: "it was not visited by this pass. Unembed a residual site.".into(),
                    })?;
                    Ok(row.flatten_all()?)
                })
                .collect::<Result<Vec<_>>>()?;
            let lens = if lens.is_empty() {
                None
            } else {
                Some(Tensor::stack(&lens, 0)?)
            };
            let (logits, riders) = transformer.read_out(&x, lens.as_ref(), &mut tap)?;
            let shadow = match &mut self.shadow {
                None => None,
                Some(shadow) => {
                    let mut idle = Program::default();
                    let mut tap = RunTap::new(&mut idle, &[], &[], Keep::Last, &bench.cancel);
                    let x = extend(&bench.model, &text, prompt, &mut shadow.cache, &mut tap)?;
                    Some(
                        transformer
                            .read_out(&x, None, &mut tap)?
                            .0
                            .flatten_all()?
                            .to_vec1()?,
                    )
                }
            };
            Ok((
                std::mem::take(&mut tap.recorded),
                logits.flatten_all()?,
                riders,
                shadow,
            ))
        })();
        let (recorded, logits, riders, shadow) = match passed {
            Ok(parts) => parts,
            Err(error) => {
                // Nothing of an interrupted pass may stay behind.
                self.cache.truncate(position);
                if let Some(shadow) = &mut self.shadow {
                    shadow.cache.truncate(position);
                }
                return Err(error);
            }
        };
        self.program.settle()?;
        self.run.tokens.push(id);
        self.logits = logits;
        if let (Some(held), Some(next)) = (&mut self.shadow, shadow) {
            held.logits = next;
        }
        let logits = self.logits.to_vec1::<f32>()?;
        let unembedded: Vec<(Address, Vec<f32>)> = match riders {
            Some(riders) => needs
                .unembed
                .iter()
                .copied()
                .zip(riders.to_vec2::<f32>()?)
                .collect(),
            None => Vec::new(),
        };
        let last = Site::ResidPost.at(bench.model.card.layers - 1);
        let check = unembedded
            .iter()
            .find(|(a, _)| *a == last)
            .filter(|_| self.output_is_plain())
            .map(|(_, row)| {
                let error = row
                    .iter()
                    .zip(&logits)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                Check {
                    error,
                    tolerance: tolerance(bench.model.transformer.dtype()),
                }
            });
        let rows = recorded
            .into_iter()
            .filter(|(a, _)| needs.record.contains(a))
            .map(|(a, t)| Ok((a, t.flatten_all()?.to_dtype(DType::F32)?)))
            .collect::<Result<_>>()?;
        Ok(Step {
            choice,
            rows,
            unembedded,
            logits,
            check,
            run: self.run.clone(),
        })
    }

    /// Whether no edit acts after the last block, where the lens does not look.
    fn output_is_plain(&self) -> bool {
        !self.program.touches(Site::FinalNorm.at(0))
    }

    /// The receipts so far, in the order of the edits.
    pub fn receipts(&self) -> &[Receipt] {
        self.program.receipts()
    }

    /// Changes the edits from the next position on; what was computed stays. Returns that position.
    pub fn edit_from_now(&mut self, bench: &mut Bench, edits: Vec<Edit>) -> Result<usize> {
        let position = self.run.tokens.len();
        let mut schedule = self.run.schedule.clone();
        schedule.change(position, edits);
        let mut program = bench.compile(&schedule, &self.run.tokens, self.run.prompt, Null::No)?;
        program.carry(&self.program);
        self.program = program;
        self.run.schedule = schedule;
        self.cache.digest = self.run.schedule.digest();
        if self.shadow.is_none() || self.program.is_idle() {
            self.cast_shadow(bench)?;
        }
        Ok(position)
    }

    /// Changes the edits as if they had always been so: the tokens stay, everything is computed again.
    pub fn edit_always(&mut self, bench: &mut Bench, edits: Vec<Edit>) -> Result<()> {
        let schedule = Schedule::always(edits);
        let program = bench.compile(&schedule, &self.run.tokens, self.run.prompt, Null::No)?;
        let before = (
            std::mem::replace(&mut self.run.schedule, schedule),
            std::mem::replace(&mut self.program, program),
        );
        self.read_prompt(bench)
            .inspect_err(|_| (self.run.schedule, self.program) = before)
    }

    /// Forgets everything from `position` on, and computes the rest again so that receipts stay true.
    pub fn rewind(&mut self, bench: &mut Bench, position: usize) -> Result<()> {
        let position = position.clamp(1, self.run.tokens.len());
        self.run.tokens.truncate(position);
        self.run.prompt = self.run.prompt.min(position);
        self.run.schedule.rewind(position);
        self.program = bench.compile(
            &self.run.schedule,
            &self.run.tokens,
            self.run.prompt,
            Null::No,
        )?;
        self.read_prompt(bench)
    }
}

/// Brings a cache to the whole text and returns the last row of the stream, `[1, 1, d_model]`. It reads what the cache
/// does not hold: one token as a rule, and all of them when an interrupted pass left it behind, or when the text has
/// just grown into other rotary frequencies ([`crate::model::rope::Rope::regime`]).
fn extend(
    model: &Model,
    text: &[u32],
    prompt: usize,
    cache: &mut Cache,
    tap: &mut dyn Tap,
) -> Result<Tensor> {
    let transformer = &model.transformer;
    if transformer.regime(cache.len().max(1)) != transformer.regime(text.len()) {
        cache.truncate(0);
    }
    let start = cache.len();
    let len = text.len() - start;
    let phase = if start == 0 {
        Phase::Prefill
    } else {
        Phase::Decode
    };
    let span = Span {
        start,
        len,
        prompt,
        phase,
    };
    let x = transformer.trunk(&model.tokens(&text[start..])?, span, Some(cache), tap)?;
    if len == 1 {
        return Ok(x);
    }
    // What follows reads the last position alone.
    tap.begin(Span {
        start: text.len() - 1,
        len: 1,
        ..span
    });
    Ok(x.narrow(1, len - 1, 1)?.contiguous()?)
}

/// Reads a run's tokens into a new cache; returns it and the logits after the last one, `[vocab]`, f32.
fn prefill(bench: &Bench, run: &Run, program: &mut Program) -> Result<(Cache, Tensor)> {
    let mut cache = bench.model.cache(1)?;
    let mut tap = RunTap::new(program, &[], &[], Keep::Last, &bench.cancel);
    let last = extend(&bench.model, &run.tokens, run.prompt, &mut cache, &mut tap)?;
    let (logits, _) = bench.model.transformer.read_out(&last, None, &mut tap)?;
    Ok((cache, logits.flatten_all()?))
}
