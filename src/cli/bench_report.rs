//! The report of `lmscope bench`, as JSON for scripts and as a table for people.
//!
//! Invariant: both contain the same numbers. To add one, add a field, a key in [`BenchReport::json`] and a line in
//! [`BenchReport::table`].

use serde_json::{Value, json};

use crate::model::Card;
use crate::text;

/// The measurements.
#[derive(Clone, Debug)]
pub struct BenchReport {
    pub card: Card,
    /// The CPU's name.
    pub cpu: String,
    /// The number of threads of the pool.
    pub threads: usize,
    /// The length of the prompt that rounds continue, in tokens.
    pub prompt_tokens: usize,
    /// Tokens generated in a round.
    pub tokens: usize,
    /// The number of rounds of each kind.
    pub rounds: usize,
    /// Milliseconds from process start to the loaded model.
    pub load_ms: f64,
    /// Milliseconds from process start to the first token.
    pub first_token_ms: f64,
    /// Tokens a second without instruments and edits.
    pub bare: f64,
    /// Tokens a second with the steady instruments live.
    pub live: f64,
    /// Live over bare, the median over pairs of rounds.
    pub ratio: f64,
    /// With those on, the bytes that a device gave to the host and how often it was waited for, by token, the reading of the prompt
    /// included; none on a CPU, where the numbers are at hand.
    pub read_back: Option<(f64, f64)>,
    /// Tokens a second with those on, of which the lens reads the layers that a screen of 80 columns and 24 lines shows; it reads
    /// the others when writing pauses.
    pub view: f64,
    /// View over bare, the median over pairs of rounds.
    pub view_ratio: f64,
    /// The dictionaries whose features were live as well; empty for none.
    pub dictionaries: String,
    /// Tokens a second with their features live beside what is in view, and that over view.
    pub features: Option<(f64, f64)>,
    /// Tokens a second under the edits of [`BenchReport::edits`], without a baseline run.
    pub edited: f64,
    /// Edited over bare, the median over pairs of rounds.
    pub edited_ratio: f64,
    /// Tokens a second under these edits with the baseline run in the same passes, which gives KL at every token.
    pub accompanied: f64,
    /// Accompanied over bare.
    pub accompanied_ratio: f64,
    /// The edits of those rounds.
    pub edits: Vec<String>,
    /// The live instruments.
    pub instruments: Vec<&'static str>,
    /// The length of the prompt whose reading was timed, in tokens.
    pub prefill_tokens: usize,
    /// Prompt tokens a second.
    pub prefill: f64,
    /// The peak memory of this process in bytes; none if the system does not report it.
    pub peak_memory: Option<u64>,
    /// The memory estimated for it before the model was loaded, with a full context, in bytes.
    pub estimated_memory: u64,
}

impl BenchReport {
    /// The report as JSON for scripts; its keys are stable.
    pub fn json(&self) -> Value {
        let card = &self.card;
        json!({
            "model": card.name,
            "family": card.family,
            "revision": card.revision,
            "parameters": card.parameters,
            "dtype": card.dtype,
            "device": card.device,
            "cpu": self.cpu,
            "threads": self.threads,
            "version": env!("CARGO_PKG_VERSION"),
            "profile": profile(),
            "load_ms": self.load_ms,
            "first_token_ms": self.first_token_ms,
            "bare_tokens_per_second": self.bare,
            "live_tokens_per_second": self.live,
            "live_ratio": self.ratio,
            "live_instruments": self.instruments,
            "read_back_bytes_per_token": self.read_back.map(|each| each.0),
            "synchronisations_per_token": self.read_back.map(|each| each.1),
            "view_tokens_per_second": self.view,
            "view_ratio": self.view_ratio,
            "dictionaries": self.dictionaries,
            "features_tokens_per_second": self.features.map(|of| of.0),
            "features_ratio": self.features.map(|of| of.1),
            "edited_tokens_per_second": self.edited,
            "edited_ratio": self.edited_ratio,
            "accompanied_tokens_per_second": self.accompanied,
            "accompanied_ratio": self.accompanied_ratio,
            "edits": self.edits,
            "prompt_tokens_per_second": self.prefill,
            "prefill_tokens": self.prefill_tokens,
            "peak_memory_bytes": self.peak_memory,
            "estimated_memory_bytes": self.estimated_memory,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "rounds": self.rounds,
        })
    }

    /// The report as a table for people.
    pub fn table(&self) -> String {
        let Self {
            card,
            cpu,
            threads,
            prompt_tokens,
            tokens,
            rounds,
            load_ms,
            first_token_ms,
            bare,
            live,
            ratio,
            view,
            view_ratio,
            edited,
            edited_ratio,
            accompanied,
            accompanied_ratio,
            prefill_tokens,
            prefill,
            ..
        } = self;
        let (dtype, device) = (&card.dtype, &card.device);
        let parameters = text::count(card.parameters as u64);
        let (profile, version) = (profile(), env!("CARGO_PKG_VERSION"));
        let peak = self.peak_memory.map_or("unknown".into(), text::size);
        let estimated = text::size(self.estimated_memory);
        let features = self.features.map_or(String::new(), |(rate, ratio)| {
            format!(
                "generating, with features       {rate:.1} tokens/s, {ratio:.2} of live in 80x24\n"
            )
        });
        let read_back = self.read_back.map_or(String::new(), |(bytes, waits)| {
            let bytes = text::size(bytes as u64);
            format!("read back a token, live         {bytes}, waited for {waits:.1} times\n")
        });
        format!(
            "\
model                           {}, {}, {parameters} parameters, {dtype} on {device}
machine                         {cpu}, {threads} threads, {profile} build of {version}
process start to loaded model   {load_ms:.0} ms
process start to first token    {first_token_ms:.0} ms
generating, plain               {bare:.1} tokens/s
generating, live                {live:.1} tokens/s with {}
live / plain                    {ratio:.2}
{read_back}generating, live in 80x24       {view:.1} tokens/s, {view_ratio:.2} of plain; the layers that do not fit are read when it pauses
{features}generating, edited              {edited:.1} tokens/s under {} edits, {edited_ratio:.2} of plain
generating, edited and unedited {accompanied:.1} tokens/s side by side, {accompanied_ratio:.2} of plain
reading                         {prefill:.1} tokens/s over {prefill_tokens} tokens
peak memory                     {peak} (estimated {estimated} with a full context)
measured                        medians of {rounds} rounds of {tokens} tokens after {prompt_tokens}
",
            card.name,
            card.family,
            self.instruments.join(", "),
            self.edits.len(),
        )
    }
}

/// The cargo profile of this binary.
pub(super) fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    }
}
