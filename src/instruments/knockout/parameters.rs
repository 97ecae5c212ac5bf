//! The parameters of a knockout, and the texts and rules that name positions.
//!
//! Invariant: positions are resolved in the run's text once, before any pass. To add a way of naming positions, add it to
//! [`NamedPositions`].

use crate::edit::positions::Positions;
use crate::edit::quotes;
use crate::error::{Error, Result};
use crate::figure::{AxisLabel, Body, Cell};
use crate::instruments::over_prompts::numbers::{
    ListAnswers, NumberRow, OverPrompts, PromptNumbers, PromptPart, PromptPlace, RowOrder, grid_of,
};
use crate::instruments::over_prompts::parameters::params_over_prompts;
use crate::instruments::params::{Count, ParamKind, ParameterValue, choices};
use crate::lab::Lab;
use crate::lab::run::Run;

choices! {
    /// What the columns of the figure are.
    pub enum KnockoutColumns { Source = "source", Head = "head" }
}

choices! {
    /// Which change of the answer is shown.
    pub enum AnswerChange { Probability = "change", Relative = "relative", Logprob = "logprob" }
}

impl AnswerChange {
    /// The number of a cell: the change from `base` to `logprob`.
    pub(super) fn of(self, logprob: f32, base: f32) -> f32 {
        match self {
            Self::Probability => logprob.exp() - base.exp(),
            Self::Relative => (logprob - base).exp() - 1.0,
            Self::Logprob => logprob - base,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Probability => "change of the probability",
            Self::Relative => "relative change of the probability",
            Self::Logprob => "change of the log-probability",
        }
    }
}

params_over_prompts! {
    /// What `knockout` is asked.
    pub struct KnockoutParams {
        /// the answer: a text (its first token) or #ID; by default the model's top prediction
        token: Option<String>,
        /// the tokens that cannot be attended to, in groups: `subject=Marco Silva; rest`; a group is a text of the prompt, a position rule, or `rest` (everything else except position 0); by default each token but the first, on which attention rests in many models (an attention sink), is a group; `0` names it
        sources: Groups,
        /// the positions that cannot attend to them: a position rule, counted over the whole text, or a text that occurs in it
        targets: NamedPositions = "last",
        /// what a column is: source: one group of sources, all heads; head: one head, all groups together
        by: KnockoutColumns = "source",
        /// with by=source: only these heads, such as 0,2; by default all heads
        heads: HeadList,
        /// how many consecutive layers are knocked out at once, centred on each layer; 0 means a fifth of all layers
        window: Count<0, 256> = "0",
        /// what a cell shows: change: of the answer's probability; relative: that change divided by the probability before; logprob: change of the log-probability
        value: AnswerChange = "change",
    }
}

impl KnockoutParams {
    /// How it takes lists of prompts.
    pub(super) const OVER_PROMPTS: OverPrompts<Self> = OverPrompts {
        asked: Self::asked,
        alone: Self::alone,
        numbers: Self::numbers,
        note: "the change for the answer after the position when the targets cannot attend to the sources, in a window of layers around the row; random: the same with as many random other edges of the same layers and heads, where there are as many",
        order: |_| RowOrder::AsMeasured,
        reads: PromptPart::Positions,
        answers: ListAnswers::Asked,
    };

    /// The same about one prompt of a list. Without sources they are the entity and the rest: single tokens are others in every prompt.
    fn alone(&self, place: &PromptPlace) -> Result<Self> {
        let mut sources = self.sources.clone();
        if sources.groups.is_empty() && self.by == KnockoutColumns::Source {
            let entity = place.entity.as_ref().ok_or_else(|| {
                let expected = "with a list, sources that every prompt has, such as first=1; rest; or a list that names entities; or by=head";
                Error::argument("sources", "", expected)
            })?;
            let groups = format!("entity=text:{}; rest", quotes::quoted(entity));
            sources =
                Groups::parse(&groups).map_err(|why| Error::argument("sources", &groups, why))?;
        }
        Ok(Self {
            token: place.token(self.token.as_ref()),
            sources,
            ..self.clone()
        })
    }

    /// The numbers of every layer: of each column, and of its control.
    fn numbers(&self, body: &Body, _place: &PromptPlace) -> Result<PromptNumbers> {
        let grid = grid_of(body)?;
        let which = match self.by {
            KnockoutColumns::Source => "",
            KnockoutColumns::Head => "head ",
        };
        let named = |column: &AxisLabel| {
            let own = format!("{which}{}", column.label);
            [own.clone(), format!("{own}, random")]
        };
        let names = grid.columns.iter().flat_map(named);
        let both = |cell: &Cell| {
            let of = |name: &str| cell.named(name).map_or(f32::NAN, f32::ln);
            [cell.value, self.value.of(of("random edges"), of("before"))]
        };
        let row = |(r, row): (usize, &AxisLabel)| {
            let cells = grid.cells.iter().flat_map(|column| both(&column[r]));
            NumberRow::of(row.entry(), row.anchor, cells.collect())
        };
        let rows = grid.rows.iter().enumerate().map(row).collect();
        Ok(PromptNumbers::of(&grid.row_axis, names, rows))
    }
}

/// A list of heads; empty for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadList(Vec<u32>);

impl HeadList {
    /// The heads, checked against a model's number of heads.
    pub(super) fn within(&self, heads: usize) -> Result<Vec<u32>> {
        if self.0.iter().all(|h| (*h as usize) < heads) {
            return Ok(self.0.clone());
        }
        let expected = format!("heads from 0 to {}, such as 0,1", heads - 1);
        Err(Error::argument("heads", self.print(), expected))
    }
}

impl ParameterValue for HeadList {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let read: Option<_> = text.split(',').map(|h| h.trim().parse().ok()).collect();
        read.map(Self).ok_or_else(|| "heads, such as 0,1".into())
    }

    fn print(&self) -> String {
        let heads: Vec<String> = self.0.iter().map(u32::to_string).collect();
        heads.join(",")
    }
}

/// Named positions: a rule, counted in the whole text, or a literal text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPositions {
    text: String,
    pub rule: Positions,
}

impl NamedPositions {
    /// The positions in a run's text; `name` is the parameter, for error messages.
    pub(super) fn within(&self, name: &str, run: &Run, lab: &Lab) -> Result<Vec<usize>> {
        let bad = |expected: String| Error::argument(name, &self.text, expected);
        let spelled = lab.model.pieces(&run.tokens);
        let rule = self.rule.resolve(&spelled).map_err(|_| {
            bad("a position rule (last, 3, 2..5, -2, text:\"...\") or a text that occurs in the run".into())
        })?;
        // The prediction after the run's last token is measured, so negative positions count from the end of the text rather
        // than of the prompt.
        let whole = !matches!(rule, Positions::Prompt | Positions::Generated);
        let count = run.tokens.len();
        let end = if whole { count } else { run.prompt.min(count) };
        let found: Vec<usize> = (0..count).filter(|p| rule.covers(*p, end)).collect();
        if found.is_empty() {
            return Err(bad(format!(
                "positions of this text, which has {count} tokens"
            )));
        }
        Ok(found)
    }
}

impl ParameterValue for NamedPositions {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let rule = match <Positions as ParameterValue>::parse(text) {
            Ok(rule) => rule,
            Err(why) if ["token:", "text:"].iter().any(|w| text.starts_with(w)) => return Err(why),
            // Anything that is not a rule is a literal text, with or without quotation marks.
            Err(_) => Positions::Text(quotes::read(text).map_err(|why| format!("a text: {why}"))?),
        };
        let text = text.to_string();
        Ok(Self { text, rule })
    }

    fn print(&self) -> String {
        self.text.clone()
    }
}

/// Named groups of positions; without any, every token is a group of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    text: String,
    /// Names with positions; none stands for all positions that no other group has.
    groups: Vec<(String, Option<NamedPositions>)>,
}

impl Groups {
    /// The number of groups in a text of `tokens` tokens.
    pub(super) fn count(&self, tokens: usize) -> usize {
        match self.groups.len() {
            0 => tokens.saturating_sub(2).max(1),
            some => some,
        }
    }

    /// Whether the first position, an attention sink in many models, is left out because nobody named it.
    pub(super) fn leaves_sink_out(&self, last: usize) -> bool {
        self.groups.is_empty() && last > 1
    }

    /// The groups, restricted to positions before `last`.
    pub(super) fn before(
        &self,
        last: usize,
        run: &Run,
        lab: &Lab,
    ) -> Result<Vec<(String, Vec<usize>)>> {
        if self.groups.is_empty() {
            let alone = |p: usize| (lab.visible(run.tokens[p]), vec![p]);
            // Where there is nothing else, the first position is asked about after all.
            return Ok((usize::from(last > 1)..last).map(alone).collect());
        }
        let mut out: Vec<(String, Vec<usize>)> = Vec::new();
        for (name, place) in &self.groups {
            let mut found = Vec::new();
            if let Some(place) = place {
                found = place.within("sources", run, lab)?;
                found.retain(|p| *p < last);
                if found.is_empty() {
                    let expected =
                        "positions before the targets; a position can always attend to itself";
                    return Err(Error::argument("sources", &place.text, expected));
                }
            }
            out.push((name.clone(), found));
        }
        if let Some(rest) = self.groups.iter().rposition(|g| g.1.is_none()) {
            let taken: Vec<usize> = out.iter().flat_map(|g| g.1.clone()).collect();
            out[rest].1 = (1..last).filter(|p| !taken.contains(p)).collect();
            if out[rest].1.is_empty() {
                let expected = "positions that the other groups do not cover";
                return Err(Error::argument("sources", "rest", expected));
            }
        }
        Ok(out)
    }
}

impl ParameterValue for Groups {
    const KIND: ParamKind = ParamKind::Text;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let group = |piece: &String| {
            let (name, rule) = match piece.split_once('=') {
                Some((name, rule)) if !name.contains('"') && !rule.trim().is_empty() => {
                    (name.trim(), rule.trim())
                }
                _ => (piece.as_str(), piece.as_str()),
            };
            let place = (rule != "rest")
                .then(|| NamedPositions::parse(rule))
                .transpose()?;
            Ok((name.to_string(), place))
        };
        Ok(Self {
            text: text.to_string(),
            groups: pieces(text)
                .iter()
                .map(group)
                .collect::<std::result::Result<_, String>>()?,
        })
    }

    fn print(&self) -> String {
        self.text.clone()
    }
}

/// Splits a text at semicolons outside of quotation marks.
fn pieces(text: &str) -> Vec<String> {
    let (mut out, mut quoted, mut escaped) = (vec![String::new()], false, false);
    for c in text.chars() {
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        if c == ';' && !quoted {
            out.push(String::new());
        } else if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out.retain(|piece| !piece.trim().is_empty());
    out.iter().map(|piece| piece.trim().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_split_outside_of_quotation_marks() {
        assert_eq!(
            pieces("subject=text:\"a; b\"; rest ;"),
            ["subject=text:\"a; b\"", "rest"]
        );
        assert_eq!(pieces(" ; "), [""; 0]);
    }
}
