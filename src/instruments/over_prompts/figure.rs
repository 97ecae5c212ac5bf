//! The figures of a list: the mean of each number with its interval, or the numbers of every prompt.
//!
//! Invariant: both tables are of the same numbers, and in long form: a line says what it is about, so that a data frame can join it. To
//! say something else of a prompt, add a column in `prompts`.

use serde::{Deserialize, Serialize};

use super::list::{PlacedList, PlacedText};
use super::numbers::{
    ListAnswers, ListedNumber, NumbersByRow, PromptNumbers, PromptPart, RowOfPrompts, RowOrder,
};
use super::parameters::{ListView, PromptPositions, PromptsAsked};
use crate::edit::receipt::{Receipt, add_up, in_words};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Check, Entry, Table, TableRow};
use crate::instruments::Draft;
use crate::lab::Lab;
use crate::lab::bootstrap::WithInterval;
use crate::lab::prompt_list::PositionRole;
use crate::lab::run::Run;
use crate::lab::trials::Trials;
use crate::text;

/// What is kept of one prompt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct MeasuredPrompt {
    pub numbers: PromptNumbers,
    pub check: Option<Check>,
    /// What the edits did in it.
    pub receipts: Vec<Receipt>,
    /// Whether a control stands beside them.
    pub controlled: bool,
    /// What is asked about an answer that begins without a space.
    pub asked: Option<String>,
}

/// A list that was measured, and how it is shown.
pub(super) struct ShownList<'a> {
    pub list: &'a PlacedList,
    pub asked: PromptsAsked,
    pub found: Trials<MeasuredPrompt>,
    /// What the numbers are.
    pub note: &'a str,
    pub order: RowOrder,
    pub reads: PromptPart,
    pub answers: ListAnswers,
}

impl ShownList<'_> {
    pub(super) fn draft(&self, run: &Run, lab: &Lab) -> Draft {
        let (list, results) = (self.list, &self.found.results);
        let mut cut = None;
        let table = match self.asked.view {
            ListView::Means => {
                let numbers =
                    NumbersByRow::of(results.iter().map(|own| Some(&own.as_ref()?.numbers)));
                let most = Some(self.asked.rows).filter(|most| {
                    (1..numbers.rows.len()).contains(most) && self.order != RowOrder::AsMeasured
                });
                cut = most.map(|most| {
                    let all = numbers.rows.len();
                    format!("{most} of {all} rows of each number are shown; rows=0 shows all")
                });
                means(&numbers, self.order, most, run.seed)
            }
            ListView::Prompts => prompts(self, lab),
        };
        let none = table.pages.iter().all(|page| page.rows.is_empty());
        let place = match self.reads {
            PromptPart::Positions => format!(", at {}", self.asked.at.in_words()),
            PromptPart::Whole => String::new(),
        };
        let mut draft = Draft::of(table)
            .titled(format!(
                "{} · {}{place}",
                text::line(&list.file.display().to_string()),
                text::counted(self.found.done(), "prompt"),
            ))
            .notes(self.notes(run, lab))
            .notes(cut.filter(|_| !none))
            .notes(none.then(|| "no prompt has this number".to_string()))
            .checked(
                self.measured()
                    .filter_map(|own| own.check)
                    .reduce(Check::worst),
            );
        if self.asked.view == ListView::Prompts {
            let texts = list.texts.iter();
            draft.named = self.named();
            draft.prompts = texts
                .map(|text| text.prompt.given(self.asked.chat))
                .collect();
        }
        draft.resolved = vec![
            ("prompts measured".into(), self.found.done().to_string()),
            (
                "digest of prompts".into(),
                format!("{:016x}", list.digest()),
            ),
        ];
        draft
    }

    /// The tokens that the lines of prompts name by their ids.
    fn named(&self) -> Vec<u32> {
        let last = |text: &PlacedText| text.tokens.get(*text.positions.last()?).copied();
        let texts = self.list.texts.iter();
        texts
            .flat_map(|text| last(text).into_iter().chain(text.answer))
            .collect()
    }

    fn measured(&self) -> impl Iterator<Item = &MeasuredPrompt> {
        self.found.results.iter().flatten()
    }

    fn notes(&self, run: &Run, lab: &Lab) -> Vec<String> {
        let mut notes = Vec::new();
        if self.found.stopped() {
            notes.push(format!(
                "stopped after {} of {} prompts; the same command continues from there",
                self.found.done(),
                self.found.results.len()
            ));
        }
        if self.asked.view == ListView::Means {
            notes.push(format!(
                "mean: over the prompts that have the number, of which there are `prompts`; low to high: the 95 % interval, the prompts drawn again 1000 times, seed {}",
                run.seed
            ));
        }
        notes.push(self.note.to_string());
        let asked = self.answers == ListAnswers::Asked;
        let read = self.asked.at == PromptPositions::Role(PositionRole::ResponseMean);
        let answers = match self.list.answers() {
            (false, _) if read => "the answers of the list are what is read: where a token is asked about, it is the top prediction at each position, unless a parameter names it".into(),
            (true, true) => "the answer of each prompt is the list's; where a difference is asked for, from its first alternative".to_string(),
            (true, false) => "the answer of each prompt is the list's".into(),
            (false, _) => "the list names no answers (a column or key `answer`): where one is asked about, it is each prompt's own top prediction, unless a parameter names it".into(),
        };
        notes.extend(Some(answers).filter(|_| asked));
        notes.extend((self.answers == ListAnswers::Overruled).then(|| {
            "a parameter names the token for all prompts: the list's own answers are not asked about".to_string()
        }));
        notes.extend(self.list.cut_answers(lab).filter(|_| asked));
        let unspaced: Vec<&String> = self
            .measured()
            .filter_map(|own| own.asked.as_ref())
            .collect();
        if let Some(first) = unspaced.first() {
            let (some, all) = (unspaced.len(), self.found.done());
            notes.push(format!("{some} of {all} answers begin without a space where the word with one is far likelier; the first of them: {first}"));
        }
        let mut receipts: Vec<Receipt> = Vec::new();
        self.measured()
            .for_each(|own| add_up(&mut receipts, &own.receipts));
        if !receipts.is_empty() {
            notes.push(
                "plain: without the edits; change: under the edits minus plain, prompt by prompt"
                    .into(),
            );
            notes.push(if self.measured().any(|own| own.controlled) {
                "control: the change under random directions or units of equal size instead, another draw for every prompt; beyond control: |change| minus |control|, prompt by prompt; a change is no more than its control where the interval of that reaches 0".into()
            } else {
                "no control: the edits change all or most units of a site, so there are no others of equal size".to_string()
            });
        }
        notes.extend(in_words(&receipts));
        notes
    }
}

/// The mean of one number of a row over the prompts that have it, and how many these are.
fn mean(row: &RowOfPrompts, name: usize, seed: u64) -> (WithInterval, usize) {
    let known = row.values[name].iter().flatten();
    let known: Vec<f64> = known.map(|value| f64::from(*value)).collect();
    let of = WithInterval::over(known.len(), seed, |chosen| {
        chosen.iter().map(|i| known[*i]).sum::<f64>() / chosen.len() as f64
    });
    (of, known.len())
}

/// A line for each number of each row: its mean and interval. Rows are ordered by the first number, in all numbers alike.
fn means(numbers: &NumbersByRow, order: RowOrder, most: Option<usize>, seed: u64) -> Table {
    let mut rows: Vec<&RowOfPrompts> = numbers.rows.iter().collect();
    if order != RowOrder::AsMeasured {
        let first = |row: &&RowOfPrompts| {
            let known: Vec<f64> = row.values[0]
                .iter()
                .flatten()
                .map(|v| f64::from(*v))
                .collect();
            let size = known.iter().sum::<f64>().abs() / known.len().max(1) as f64;
            let count = match order {
                RowOrder::MostPromptsFirst => known.len(),
                RowOrder::AsMeasured | RowOrder::LargestFirst => 0,
            };
            (count, size)
        };
        rows.sort_by(|a, b| {
            let (a, b) = (first(a), first(b));
            b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
        });
        rows.truncate(most.unwrap_or(usize::MAX));
    }
    let mut lines = Vec::with_capacity(numbers.numbers.len() * rows.len());
    let controlled = numbers.numbers.iter().any(|own| own.judged_by.is_some());
    for (name, own) in numbers.numbers.iter().enumerate() {
        for row in &rows {
            let (of, count) = mean(row, name, seed);
            if count == 0 {
                continue;
            }
            let mut line = entries![own.name.clone()];
            line.extend((!numbers.axis.is_empty()).then(|| row.label.clone()));
            line.push(Entry::Number(of.value as f32));
            // One prompt says nothing of others.
            let interval = [of.low, of.high].map(|v| match count {
                1 => Entry::Missing,
                _ => Entry::Number(v as f32),
            });
            line.extend(interval);
            line.push(Entry::from(count));
            line.extend(controlled.then(|| Entry::from(verdict(numbers, row, name, seed))));
            lines.push(TableRow::at(row.anchor, line));
        }
    }
    let mut columns = vec!["number"];
    columns.extend(Some(numbers.axis.as_str()).filter(|axis| !axis.is_empty()));
    columns.extend(["mean", "low", "high", "prompts"]);
    columns.extend(controlled.then_some("against control"));
    Table::of(&columns, lines)
}

/// Whether a change goes beyond its control: `no more` where the interval of the difference reaches 0. Nothing of what is no change, or
/// was measured of one prompt.
fn verdict(numbers: &NumbersByRow, row: &RowOfPrompts, name: usize, seed: u64) -> &'static str {
    let beyond = numbers.numbers[name].judged_by.as_deref();
    let beyond = beyond.and_then(|name| numbers.column(name));
    match beyond.map(|name| mean(row, name, seed)) {
        Some((of, 2..)) if of.low > 0.0 => "more",
        Some((_, 2..)) => "no more",
        Some(_) | None => "",
    }
}

/// The lines of every prompt that was measured.
fn prompts(shown: &ShownList, lab: &Lab) -> Table {
    let (list, results) = (shown.list, &shown.found.results);
    let first = results.iter().flatten().next();
    let (axis, numbers) = first.map_or((String::new(), Vec::new()), |own| {
        (own.numbers.axis.clone(), own.numbers.numbers.clone())
    });
    let known = |of: fn(&PlacedText) -> bool| list.texts.iter().any(of);
    let (labels, ids, answers) = (
        known(|t| t.prompt.label.is_some()),
        known(|t| t.prompt.id.is_some()),
        shown.answers != ListAnswers::Overruled && known(|t| t.answer.is_some()),
    );
    let several = known(|text| text.positions.len() > 1);
    // What a reader looks for comes first, for narrow screens show as many columns as fit.
    let mut columns = vec!["prompt"];
    columns.extend(Some(axis.as_str()).filter(|axis| !axis.is_empty()));
    columns.extend(answers.then_some("answer"));
    columns.extend(numbers.iter().map(|own| own.name.as_str()));
    columns.extend(["text", "position", "token", "token id"]);
    columns.extend(several.then_some("positions"));
    columns.extend(answers.then_some("answer id"));
    columns.extend(labels.then_some("label"));
    columns.extend(ids.then_some("id"));
    let mut rows = Vec::new();
    for (i, (text, own)) in list.texts.iter().zip(results).enumerate() {
        let Some(own) = own else { continue };
        let last = text.positions.last().copied().unwrap_or(0);
        let token = text.tokens.get(last).copied().unwrap_or_default();
        let answer = text.answer.filter(|_| answers);
        let label = text.prompt.label.as_deref().unwrap_or_default();
        let id = text.prompt.id.as_deref().unwrap_or_default();
        for row in &own.numbers.rows {
            let mut line = vec![Entry::from(i + 1)];
            line.extend((!axis.is_empty()).then(|| row.label.clone()));
            line.extend(answer.map(|id| Entry::from(lab.visible(id))));
            let number = |(of, value): (&ListedNumber, &Option<f32>)| match value {
                None => Entry::Missing,
                Some(value) if of.whole => Entry::Whole(*value as u64),
                Some(value) => Entry::from(*value),
            };
            line.extend(own.numbers.numbers.iter().zip(&row.values).map(number));
            line.push(text::line(text.prompt.words()).into());
            line.extend([last.into(), lab.visible(token).into(), token.into()]);
            line.extend(several.then(|| Entry::from(text.positions.len())));
            line.extend(answer.map(Entry::from));
            line.extend(labels.then(|| Entry::from(text::line(label))));
            line.extend(ids.then(|| Entry::from(text::line(id))));
            rows.push(TableRow::at(
                Anchor {
                    position: None,
                    ..row.anchor
                },
                line,
            ));
        }
    }
    Table::of(&columns, rows)
}
