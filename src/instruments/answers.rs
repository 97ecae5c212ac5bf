//! Answers: how probable an answer is after a text, and how many tokens are more so.
//!
//! Invariant: the numbers are of the model's own output, edits included, before temperature. Over a list of prompts each has the answer
//! that the list names. To say more of an answer, add a column and its name to `NUMBERS`. Source: surprisal, Shannon 1948.

use super::{Draft, Measurement};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow};
use crate::instruments::over_prompts::numbers::{
    ListAnswers, OverPrompts, PromptNumbers, PromptPart, RowOrder,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::lab::Lab;
use crate::lab::capture::Output;
use crate::lab::run::Run;
use crate::lab::sample::NO_RANK;
use crate::lab::target::first_token;

params_over_prompts! {
    /// What `answers` is asked.
    pub struct AnswersParams {
        /// the answer: a text (its first token) or #ID; by default the model's top prediction
        token: Option<String>,
    }
}

/// The columns that are numbers.
const NUMBERS: [&str; 5] = ["p", "rank", "surprisal", "first", "entropy"];

pub struct Answers;

impl Measurement for Answers {
    type Params = AnswersParams;
    const NAME: &'static str = "answers";
    const ABOUT: &'static str = "The answer after a text: its probability, rank and surprisal, and what comes out on top; of a list of prompts, with the edits' effect on each";
    const SOURCE: &'static str = "surprisal: Shannon 1948";
    const READS_END: bool = true;
    const OVER_PROMPTS: Option<OverPrompts<AnswersParams>> = Some(OverPrompts {
        asked: AnswersParams::asked,
        alone: |params, place| {
            Ok(AnswersParams {
                token: place.token(params.token.as_ref()),
                ..params.clone()
            })
        },
        numbers: |_, body, _| PromptNumbers::of_table(body, "", &NUMBERS, |_| true),
        note: "p: probability of the answer after the position; rank: how many tokens have a higher logit; surprisal: -ln p, nats; first: 1 where the answer is the top prediction, so that its mean is the accuracy; entropy: of the whole prediction, nats",
        order: |_| RowOrder::AsMeasured,
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    });

    fn measure(params: &AnswersParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let own = params.token.as_deref();
        let own = own.map(|text| first_token("token", text, &lab.model));
        let answer = match own.transpose()? {
            Some(answer) => answer,
            // Beside an edited run, the answer is the edited run's.
            None => lab.top_prediction(run.answers.as_deref().unwrap_or(run))?,
        };
        let output = Output {
            ranks: true,
            entropy: true,
            ..Output::tokens(&[answer])
        };
        let stats = lab.last(run, output)?;
        let token = stats.token(answer);
        let position = run.tokens.len() - 1;
        let columns = [
            "answer",
            "id",
            "p",
            "rank",
            "surprisal",
            "first",
            "entropy",
            "top",
            "top p",
        ];
        let (top, p) = stats.first();
        let row = entries![
            lab.visible(answer),
            answer,
            token.logprob.exp(),
            match token.rank {
                NO_RANK => Entry::from(f32::NAN),
                rank => rank.into(),
            },
            -token.logprob,
            if top == answer { 1.0 } else { 0.0 },
            stats.entropy,
            lab.visible(top),
            p,
        ];
        let at = Anchor::position(position);
        let title = format!("after {} at {position}", lab.visible(run.tokens[position]));
        let page = TablePage::of(title, at, vec![TableRow::at(at, row)]);
        let mut draft = Draft::of(Table::paged(&columns, vec![page]))
            .titled(lab.visible(answer))
            .note("rank: how many tokens have a higher logit; surprisal: -ln p, nats; first: 1 where the answer is the top prediction; entropy: of the whole prediction, nats");
        draft.named = vec![answer];
        Ok(draft)
    }
}
