//! Applies compiled edits: a [`Program`] is a schedule of edits ready to run on a model, with a tally of what each edit did at
//! each position.
//!
//! The formulas of the edits are in `lab/formulas/`; `lab/compile.rs` compiles a schedule into a program. Invariants: a neutral
//! edit is never applied; values at positions or units outside an edit keep their bits; tallies are read back from the device
//! after the pass and never inside it, except for conditions, whose truth must be known before the edit acts.
//! To add an operation, see [`crate::edit::op`].

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use candle_core::{DType, Tensor};

use super::conditions::ConditionWatch;
use super::formulas::{self, Change, HostRow};
use super::inactive::explain_inactive;
use super::only::OnlyCircuit;
use super::readout::RowStats;
use crate::edit::Edit;
use crate::edit::receipt::{FiredAt, Receipt};
use crate::error::{Error, Result};
use crate::model::host::ToHost;
use crate::model::network::finite;
use crate::model::network::site::{Address, Axis, Site};
use crate::model::network::tap::PassSpan;

#[derive(Clone, Debug)]
pub(crate) struct EditAtAddress {
    pub(crate) edit: Edit,
    pub(crate) receipt: usize,
    pub(crate) span: Range<usize>,
    pub(crate) change: Change,
    /// The index in [`Program::watches`] of the condition that must hold; none for an edit without a condition.
    pub(crate) watch: Option<usize>,
}

/// What one edit did so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct EditTally {
    fired: usize,
    relative: f64,
    /// Whether a pass was aborted because a value of this edit was not finite.
    broken: bool,
    /// Notes for the receipt, without duplicates.
    remarks: Vec<String>,
    /// The edit with its positions resolved, the span of positions in which it is in force, and the index of its watch: from
    /// these [`explain_inactive`] says why the edit did nothing.
    pub(crate) rules: Vec<(Edit, Range<usize>, Option<usize>)>,
}

/// Relative changes measured in a pass that are still on the device.
#[derive(Clone, Debug)]
struct Pending {
    receipt: usize,
    positions: Vec<usize>,
    values: Tensor,
}

/// A schedule of edits compiled for a model, with tallies and receipts.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub(super) prompt: usize,
    /// The prompt that the program was compiled for, if its edits depend on the prompt's tokens; such a program acts on no
    /// other prompt.
    bound: Option<Vec<u32>>,
    pub(crate) acts: HashMap<Address, Vec<EditAtAddress>>,
    /// The circuits outside of which everything has its mean, at most one at every position.
    pub(crate) circuits: Vec<OnlyCircuit>,
    /// Values of this pass that are needed further on: the neurons of an MLP (`mlp_act`), until its output, where an overlay needs
    /// them; and what dictionaries read, until where they write.
    pub(crate) remembered: HashMap<Address, Option<Tensor>>,
    pub(crate) watches: Vec<ConditionWatch>,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) tallies: Vec<EditTally>,
    pending: Vec<Pending>,
    pub(super) measured: Vec<(usize, usize, f64)>,
    latest: Vec<FiredAt>,
    /// The number of positions covered by passes so far.
    seen: usize,
}

impl Program {
    /// A program without edits, for a run whose prompt has `prompt` tokens.
    pub(crate) fn after(prompt: usize) -> Self {
        Self {
            prompt,
            ..Self::default()
        }
    }

    /// Restricts the program to the prompt that it was compiled for.
    pub(crate) fn bind(&mut self, prompt: Vec<u32>) {
        self.bound = Some(prompt);
    }

    /// Refuses the tokens `[batch, tokens]` of a pass when the program was compiled for another prompt.
    ///
    /// # Errors
    ///
    /// When the tokens of a row differ from that prompt.
    pub fn admit(&self, tokens: &Tensor, span: PassSpan) -> Result<()> {
        let Some(own) = self.bound.as_ref().filter(|_| !self.is_idle()) else {
            return Ok(());
        };
        let end = own.len().min(span.start + span.len);
        let Some(own) = own.get(span.start..end).filter(|own| !own.is_empty()) else {
            return Ok(());
        };
        let read = tokens.narrow(1, 0, own.len())?;
        let read = read.to_dtype(DType::U32)?.host_vec2::<u32>()?;
        if read.iter().all(|row| row == own) {
            return Ok(());
        }
        Err(Error::Engine(
            "edits that were prepared for one prompt met another".into(),
        ))
    }

    /// The index of an edit's receipt; a new receipt is begun if the edit has none.
    pub(crate) fn receipt_for(&mut self, edit: &Edit) -> usize {
        if let Some(i) = self.receipts.iter().position(|r| r.id == edit.id) {
            self.receipts[i].active |= edit.active();
            return i;
        }
        let neutral = edit.on && !edit.active();
        self.receipts.push(Receipt {
            id: edit.id,
            edit: edit.to_string(),
            active: edit.active(),
            why: if neutral {
                format!("at strength {} it changes nothing", edit.strength)
            } else {
                String::new()
            },
            ..Receipt::default()
        });
        self.tallies.push(EditTally::default());
        self.receipts.len() - 1
    }

    /// Adds a note to a receipt, unless the receipt has it already.
    pub(crate) fn remark(&mut self, receipt: usize, words: String) {
        let held = &mut self.tallies[receipt].remarks;
        if !words.is_empty() && !held.contains(&words) {
            held.push(words);
            self.receipts[receipt].note = held.join("; ");
        }
    }

    /// Whether the program edits, remembers or measures the value at this address.
    pub fn touches(&self, at: Address) -> bool {
        self.edits(at) || self.has_circuit_at(at)
    }

    /// Whether an edit of values acts at this address, or something is remembered or measured there.
    pub(crate) fn edits(&self, at: Address) -> bool {
        !self.is_idle()
            && (self.acts.contains_key(&at)
                || self.remembered.contains_key(&at)
                || self.watches.iter().any(|w| w.looks_at(at)))
    }

    /// Whether the program has no active edit at any address.
    pub fn is_idle(&self) -> bool {
        self.acts.is_empty() && self.circuits.is_empty()
    }

    /// Where this program and another one on the same text would change values differently: each such address, with the first
    /// position before `end` at which they differ.
    pub(crate) fn differences(&self, other: &Self, end: usize) -> Vec<(Address, usize)> {
        let addresses: BTreeSet<&Address> = self.acts.keys().chain(other.acts.keys()).collect();
        let mut out = Vec::new();
        for at in addresses {
            let of =
                |program: &'_ Self| program.acts.get(at).map_or(&[][..], Vec::as_slice).to_vec();
            let (own, others) = (of(self), of(other));
            // Edits of one address are applied in order, so the programs differ from the first unequal edit on.
            let same = own.iter().zip(&others);
            let same = same
                .take_while(|(a, b)| a.edit == b.edit && a.span == b.span)
                .count();
            let acts = own[same..].iter().chain(&others[same..]);
            let first = acts.filter_map(|act| {
                let mut covered = act.span.start.min(end)..act.span.end.min(end);
                covered.find(|position| act.edit.covers(*position, self.prompt))
            });
            let Some(position) = first.min() else {
                continue;
            };
            out.push((*at, position));
            // What their features are read from has to be visited again, too.
            let changed = own[same..].iter().chain(&others[same..]);
            for act in changed {
                if let Change::Dictionary(change) = &act.change {
                    out.extend(change.reads.iter().map(|read| (*read, position)));
                }
            }
        }
        out
    }

    /// Whether a condition depends on a probability of the unedited model, which [`Program::set_base_log_probs`] must supply.
    pub fn asks_probability(&self) -> bool {
        self.watches.iter().any(|w| w.token().is_some())
    }

    /// The tokens whose probabilities in the unedited model the conditions depend on.
    pub fn watched_tokens(&self) -> Vec<u32> {
        self.watches
            .iter()
            .filter_map(ConditionWatch::token)
            .collect()
    }

    /// Supplies the unedited model's statistics after a position, with the log-probabilities of the tokens of
    /// [`Program::watched_tokens`]. To be called before the pass that covers the position.
    pub fn set_base_log_probs(&mut self, position: usize, stats: &RowStats) {
        for watch in &mut self.watches {
            if let Some(token) = watch.token() {
                watch.note(position, stats.token(token).logprob.exp());
            }
        }
    }

    /// Resets the tallies to zero, before the whole text is read again.
    pub fn forget(&mut self) {
        self.pending.clear();
        self.measured.clear();
        for tally in &mut self.tallies {
            tally.fired = 0;
            tally.relative = 0.0;
        }
    }

    /// Drops the measurements of a pass that was aborted before [`Program::settle`], except for which edits caused the abort.
    pub(crate) fn abandon(&mut self) {
        for (receipt, .., moved) in &self.measured {
            self.tallies[*receipt].broken |= !moved.is_finite();
        }
        self.pending.clear();
        self.measured.clear();
        self.explain();
    }

    /// Prepares for a pass over the positions of `span`; to be called before its first site.
    pub fn begin(&mut self, span: PassSpan) {
        self.seen = self.seen.max(span.start + span.len);
        self.remembered.values_mut().for_each(|held| *held = None);
        self.watches.iter_mut().for_each(ConditionWatch::begin);
        self.circuits.iter_mut().for_each(OnlyCircuit::begin);
    }

    /// Applies all edits of an address to `x`, `[batch, tokens, ..width]`. Returns `x` unchanged where the program does not
    /// touch the address.
    pub fn apply(&mut self, at: Address, x: Tensor, span: PassSpan) -> Result<Tensor> {
        if !self.edits(at) {
            return Ok(x);
        }
        if at.site.spec().axis == Axis::Positions {
            return self.by_edges(at, x, span);
        }
        let dims = x.dims().to_vec();
        let (batch, tokens) = (dims[0], dims[1]);
        for watch in &mut self.watches {
            watch.look(at, &x, span, batch)?;
        }
        let x = match self.acts.get(&at) {
            Some(acts) => {
                let masks: Vec<Vec<bool>> = acts
                    .iter()
                    .map(|act| covered_by(act, &self.watches, self.prompt, span, batch, tokens))
                    .collect();
                if masks.iter().flatten().any(|m| *m) {
                    let flat = x.reshape((batch, tokens, ()))?;
                    // Dictionaries are read on the host: on another device with one read-back for all edits here.
                    let reads_back = acts
                        .iter()
                        .any(|act| matches!(act.change, Change::Dictionary(_)));
                    let on_host = flat.device().is_cpu() || reads_back;
                    let changed = if on_host && !flat.track_op() {
                        self.by_rows(at, &flat, &masks, span)?
                    } else {
                        self.by_tensors(at, &flat, &masks, span)?
                    };
                    changed.reshape(dims)?
                } else {
                    x
                }
            }
            None => x,
        };
        if let Some(held) = self.remembered.get_mut(&at) {
            *held = Some(x.clone());
        }
        Ok(x)
    }

    /// Applies attention knockouts to scores `[batch, heads, tokens, positions]`.
    fn by_edges(&mut self, at: Address, x: Tensor, span: PassSpan) -> Result<Tensor> {
        let (batch, _, tokens, _) = x.dims4()?;
        let mut scores = x;
        for act in self.acts.get(&at).into_iter().flatten() {
            let Change::Cut(rule) = &act.change else {
                continue;
            };
            let covered = covered_by(act, &self.watches, self.prompt, span, batch, tokens);
            let Some(severed) = rule.apply(&scores, &covered, span, self.prompt)? else {
                continue;
            };
            let positions = severed.hit.iter();
            self.pending.push(Pending {
                receipt: act.receipt,
                positions: positions
                    .map(|i| span.start + *i as usize % tokens)
                    .collect(),
                values: severed.moved,
            });
            scores = severed.scores;
        }
        Ok(scores)
    }

    /// The post-activation values of the neurons of the same layer, `[batch, tokens, d_mlp]`, for an edit of the MLP's output.
    fn neurons(&self, at: Address) -> Option<&Tensor> {
        let from = Site::MlpAct.at(usize::from(at.layer));
        self.remembered.get(&from).and_then(Option::as_ref)
    }

    fn by_rows(
        &mut self,
        at: Address,
        x: &Tensor,
        masks: &[Vec<bool>],
        span: PassSpan,
    ) -> Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let mut values = x.flatten_all()?.to_dtype(DType::F32)?.host_vec1::<f32>()?;
        let neurons = match self.neurons(at) {
            Some(held) => Some(
                held.to_dtype(DType::F32)?
                    .flatten_to(1)?
                    .host_vec2::<f32>()?,
            ),
            None => None,
        };
        let mut before = vec![0f32; width];
        for (act, mask) in self.acts[&at].iter().zip(masks) {
            let change = match &act.change {
                Change::Values(change) => change,
                Change::Dictionary(change) => {
                    let changed = self.by_dictionary(change, at, x, &mut values, mask, span)?;
                    let changed = changed.into_iter();
                    self.measured
                        .extend(changed.map(|(position, moved)| (act.receipt, position, moved)));
                    continue;
                }
                Change::Cut(_) => continue,
            };
            for (i, row) in values.chunks_exact_mut(width).enumerate() {
                if !mask.get(i).is_some_and(|m| *m) {
                    continue;
                }
                before.copy_from_slice(row);
                let position = span.start + i % tokens;
                change.on(&mut HostRow {
                    x: row,
                    position,
                    neurons: neurons.as_ref().map_or(&[], |n| n[i].as_slice()),
                });
                let moved = formulas::moved(&before, row);
                self.measured.push((act.receipt, position, moved));
            }
        }
        let out = Tensor::from_vec(values, (batch, tokens, width), x.device())?;
        Ok(out.to_dtype(x.dtype())?)
    }

    fn by_tensors(
        &mut self,
        at: Address,
        x: &Tensor,
        masks: &[Vec<bool>],
        span: PassSpan,
    ) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let mut flat = x.clone();
        for (act, mask) in self.acts[&at].iter().zip(masks) {
            if matches!(act.change, Change::Cut(_)) {
                continue;
            }
            let flags: Vec<u8> = mask.iter().map(|m| u8::from(*m)).collect();
            let hit: Vec<u32> = (0..flags.len() as u32)
                .filter(|i| flags[*i as usize] == 1)
                .collect();
            if hit.is_empty() {
                continue;
            }
            let changed = match &act.change {
                Change::Values(change) => change.on_tensor(&flat, span.start, self.neurons(at))?,
                Change::Dictionary(change) => {
                    change.on_tensor(&flat, &self.inputs(change, at, &flat)?)?
                }
                Change::Cut(_) => continue,
            };
            let next = if hit.len() == flags.len() {
                changed
            } else {
                let mask = Tensor::from_vec(flags, (batch, tokens, 1), flat.device())?;
                mask.broadcast_as(flat.shape())?
                    .where_cond(&changed, &flat)?
            };
            self.pending.push(Pending {
                receipt: act.receipt,
                positions: hit
                    .iter()
                    .map(|i| span.start + *i as usize % tokens)
                    .collect(),
                values: formulas::ratio(&flat.detach(), &next.detach(), &hit)?,
            });
            flat = next;
        }
        Ok(flat)
    }

    /// Reads back the measurements of all passes since the last call, in one transfer for all edits, and updates the receipts.
    pub fn settle(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            let first = pending[0].values.device();
            let all = pending.iter().map(|p| p.values.on_device(first));
            let all = all.collect::<candle_core::Result<Vec<_>>>()?;
            let values = Tensor::cat(&all, 0)?.host_vec1::<f32>()?;
            let owners = pending
                .iter()
                .flat_map(|p| p.positions.iter().map(|position| (p.receipt, *position)));
            let read = owners.zip(values).map(|((r, p), v)| (r, p, f64::from(v)));
            self.measured.extend(read);
        }
        self.latest.clear();
        let mut measured = std::mem::take(&mut self.measured);
        measured.sort_by_key(|(receipt, position, _)| (*receipt, *position));
        for group in measured.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (receipt, position, _) = group[0];
            let sum: f64 = group.iter().map(|(.., moved)| moved).sum();
            self.tallies[receipt].fired += group.len();
            self.tallies[receipt].relative += sum;
            self.latest.push(FiredAt {
                edit: self.receipts[receipt].id,
                position,
                fired: group.len(),
                relative: (sum / group.len() as f64) as f32,
            });
        }
        measured.clear();
        self.measured = measured;
        self.explain();
        Ok(())
    }

    /// Updates the receipts from the tallies. An edit that has changed nothing gets the reason.
    pub(crate) fn explain(&mut self) {
        for (tally, receipt) in self.tallies.iter().zip(&mut self.receipts) {
            receipt.fired = tally.fired;
            receipt.not_finite = tally.broken || !tally.relative.is_finite();
            receipt.relative = if tally.fired == 0 {
                0.0
            } else {
                (tally.relative / tally.fired as f64) as f32
            };
            if !receipt.active {
                continue;
            }
            receipt.why = if tally.fired == 0 {
                let mut reasons = tally.rules.iter().map(|(edit, span, watch)| {
                    let watch = watch.and_then(|w| self.watches.get(w));
                    explain_inactive(edit, span, watch, self.prompt, self.seen)
                });
                reasons.next_back().unwrap_or_default()
            } else if tally.relative == 0.0 {
                format!(
                    "it acted {} times and changed nothing: the activations already had these values",
                    tally.fired
                )
            } else {
                String::new()
            };
        }
    }

    /// Whether an edit produced a value that is not finite, judged from the measurements that are already on the host.
    pub(crate) fn overflowed(&self) -> bool {
        let mut tallied = self.tallies.iter().map(|t| t.relative);
        self.measured.iter().any(|(.., moved)| !moved.is_finite())
            || tallied.any(|moved| !moved.is_finite())
    }

    /// As [`Program::overflowed`] for the measurements that are still on the device: the verdict as a tensor, see
    /// [`crate::model::network::finite`].
    pub(crate) fn verdicts(&self) -> Result<Option<Tensor>> {
        let values: Vec<&Tensor> = self.pending.iter().map(|p| &p.values).collect();
        if values.is_empty() {
            return Ok(None);
        }
        Ok(Some(finite::values(&Tensor::cat(&values, 0)?)?))
    }

    /// The edits that produced values that are not finite, each as its line of the edit grammar.
    pub(crate) fn broken_edits(&self) -> Vec<String> {
        let pending = self.pending.iter().filter(|p| {
            let verdict = finite::values(&p.values);
            verdict.is_ok_and(|v| !finite::passed(&[v]).unwrap_or(true))
        });
        let measured = self.measured.iter().filter(|m| !m.2.is_finite());
        let tallied = self.tallies.iter().enumerate();
        let tallied = tallied.filter(|(_, t)| !t.relative.is_finite());
        let found: BTreeSet<usize> = pending
            .map(|p| p.receipt)
            .chain(measured.map(|m| m.0))
            .chain(tallied.map(|(i, _)| i))
            .collect();
        let spell = |i: usize| self.receipts[i].edit.clone();
        found.into_iter().map(spell).collect()
    }

    /// The active edits, each as its line of the edit grammar.
    pub(crate) fn active_edits(&self) -> Vec<String> {
        let active = self.receipts.iter().filter(|r| r.active);
        active.map(|r| r.edit.clone()).collect()
    }

    /// What each edit did at the positions covered between the last two calls of [`Program::settle`], sorted by edit and
    /// position.
    pub fn latest(&self) -> &[FiredAt] {
        &self.latest
    }

    /// The receipts, in the order of the edits of the schedule's latest stage.
    pub fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }

    /// Continues the tallies and the conditions of an earlier program that has the same edits.
    pub fn carry(&mut self, earlier: &Self) {
        self.seen = self.seen.max(earlier.seen);
        for (i, receipt) in self.receipts.iter().enumerate() {
            if let Some(j) = earlier.receipts.iter().position(|r| r.id == receipt.id) {
                let (own, old) = (&mut self.tallies[i], &earlier.tallies[j]);
                own.fired = old.fired;
                own.relative = old.relative;
                // A `once` condition that held under the earlier program goes on holding.
                let began = old.rules.iter().filter_map(|r| r.2);
                let began = began.filter_map(|w| earlier.watches[w].since()).min();
                for watch in own.rules.iter().filter_map(|r| r.2) {
                    self.watches[watch].carry(began);
                }
            }
        }
        self.explain();
    }
}

/// Whether the edit changes each (row, token) value of a pass, row by row: `rows * tokens` flags.
fn covered_by(
    act: &EditAtAddress,
    watches: &[ConditionWatch],
    prompt: usize,
    span: PassSpan,
    rows: usize,
    tokens: usize,
) -> Vec<bool> {
    let held = (&act.span, act.watch);
    covered(&act.edit, held, watches, prompt, span, rows, tokens)
}

/// The same for an edit that is in force in a span, under the condition of an index.
pub(super) fn covered(
    edit: &Edit,
    held: (&Range<usize>, Option<usize>),
    watches: &[ConditionWatch],
    prompt: usize,
    span: PassSpan,
    rows: usize,
    tokens: usize,
) -> Vec<bool> {
    let (force, watch) = held;
    let watch = watch.and_then(|w| watches.get(w));
    (0..rows * tokens)
        .map(|i| {
            let position = span.start + i % tokens;
            force.contains(&position)
                && edit.covers(position, prompt)
                && watch.is_none_or(|w| w.holds(i / tokens, position))
        })
        .collect()
}
