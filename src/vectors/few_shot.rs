//! Prompts from demonstrations: pairs of input and output, laid out as examples and a query (in-context learning).
//!
//! Invariants: the position that counts is the last token of the prompt, the one that predicts the answer, and the answer is
//! its first token, found by reading prompt and answer together; a query is never among its own examples, and in a
//! label-shuffled prompt its label is not either. Everything drawn is drawn from a seed.
//! To add a kind of prompt, add a method to [`Shots`].

use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{SliceRandom, index};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::{Fingerprint, Model};
use crate::text;

/// One demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShotPair {
    /// What is asked.
    pub input: String,
    /// What is answered.
    pub output: String,
}

/// Reads demonstrations: a pair a line with a tab between, or JSON: a list of `{"input": .., "output": ..}` or of
/// `[input, output]`, or one object from inputs to outputs. Exact repeats are left out.
pub fn read(path: &Path) -> Result<Vec<ShotPair>> {
    let text = crate::file::words(path)?;
    parse(&text, path)
}

/// Parses pairs from text; `path` is for messages.
pub fn parse(text: &str, path: &Path) -> Result<Vec<ShotPair>> {
    let bad = |what: String| {
        let next = "Write one pair a line: input, tab, output; or a JSON list of {\"input\": .., \"output\": ..}.";
        Error::bad_file(path, what, next)
    };
    let found = if text.trim_start().starts_with(['[', '{']) {
        let value: Value =
            serde_json::from_str(text).map_err(|e| bad(format!("it is not JSON ({e})")))?;
        from_json(&value).map_err(bad)?
    } else {
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim().is_empty());
        let pairs = lines.map(|(number, line)| {
            let parts: Vec<&str> = line.split('\t').map(str::trim).collect();
            match parts.as_slice() {
                [input, output] if !input.is_empty() && !output.is_empty() => {
                    Ok(pair(input, output))
                }
                _ => Err(bad(format!(
                    "line {} is not `input<TAB>output`",
                    number + 1
                ))),
            }
        });
        pairs.collect::<Result<Vec<_>>>()?
    };
    let mut pairs: Vec<ShotPair> = Vec::with_capacity(found.len());
    for pair in found {
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    if pairs.is_empty() {
        return Err(bad("it holds no pairs".into()));
    }
    Ok(pairs)
}

fn pair(input: &str, output: &str) -> ShotPair {
    ShotPair {
        input: input.into(),
        output: output.into(),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "JSON has kinds that are no pairs"
)]
fn from_json(value: &Value) -> Result<Vec<ShotPair>, String> {
    let word = |value: &Value, number: usize| match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text.trim().to_string()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!(
            "pair {number} holds {other} where one text should be"
        )),
    };
    match value {
        Value::Object(map) => map
            .iter()
            .enumerate()
            .map(|(i, (input, output))| Ok(pair(input.trim(), &word(output, i + 1)?)))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, item)| {
                let (input, output) = match item {
                    Value::Array(two) if two.len() == 2 => (&two[0], &two[1]),
                    other => (&other["input"], &other["output"]),
                };
                Ok(pair(&word(input, i + 1)?, &word(output, i + 1)?))
            })
            .collect(),
        _ => Err("it is neither a list nor an object".into()),
    }
}

/// How examples look and what stands between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShotLayout {
    before: String,
    between: String,
    after: String,
    separator: String,
}

impl ShotLayout {
    /// From a template such as `Q: {x}\nA: {y}` and a separator such as `\n\n`; `\n`, `\t` and `\\` may be spelled.
    pub fn new(template: &str, separator: &str) -> Result<Self> {
        let whole = unescaped(template);
        let parts = whole
            .split_once("{x}")
            .and_then(|(before, rest)| Some((before, rest.split_once("{y}")?)))
            .filter(|(before, (between, after))| {
                [before, between, after]
                    .iter()
                    .all(|p| !p.contains("{x}") && !p.contains("{y}"))
            });
        let Some((before, (between, after))) = parts else {
            let expected = "one {x} for the input and after it one {y} for the output, such as `Q: {x}\\nA: {y}` or `{x} -> {y}`";
            return Err(Error::argument("template", template, expected));
        };
        Ok(Self {
            before: before.into(),
            between: between.into(),
            after: after.into(),
            separator: unescaped(separator),
        })
    }

    fn example(&self, input: &str, output: &str) -> String {
        format!(
            "{}{input}{}{output}{}{}",
            self.before, self.between, self.after, self.separator
        )
    }

    /// The query up to its answer, and the answer. Spaces before the answer belong to it: models write them as part of
    /// their first token, and a prompt that ends in one would ask for something else.
    fn query(&self, pair: &ShotPair) -> (String, String) {
        let open = format!("{}{}{}", self.before, pair.input, self.between);
        let prompt = open.trim_end_matches(' ');
        (
            prompt.to_string(),
            format!("{}{}", &open[prompt.len()..], pair.output),
        )
    }
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, letters.clone().next()) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('\\')) => out.push('\\'),
            _ => {
                out.push(letter);
                continue;
            }
        }
        letters.next();
    }
    out
}

/// A prompt and the first token of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FewShotPrompt {
    /// The prompt; its last token is the one that predicts the answer.
    pub tokens: Vec<u32>,
    /// The first token of the answer.
    pub answer: u32,
}

/// Where prompts are drawn from.
#[derive(Clone, Copy)]
pub struct Shots<'a> {
    /// The model that reads them.
    pub model: &'a Model,
    /// Examples, and queries where none are given.
    pub pairs: &'a [ShotPair],
    /// The form of a demonstration.
    pub layout: &'a ShotLayout,
    /// How a query looks that stands without examples.
    pub query_layout: &'a ShotLayout,
    /// Examples a prompt.
    pub count: usize,
    /// The seed of everything that is drawn.
    pub seed: u64,
}

impl Shots<'_> {
    /// Prompts with true labels, each with a query of its own (Todd et al. 2024, 2310.15213).
    pub fn clean(&self, prompts: usize) -> Result<Vec<FewShotPrompt>> {
        self.drawn(prompts, "clean", false)
    }

    fn drawn(&self, prompts: usize, purpose: &str, shuffled: bool) -> Result<Vec<FewShotPrompt>> {
        let mut rng = self.rng(purpose);
        let one = |_| {
            let query = &self.pairs[self.draw(&mut rng, 1, self.pairs.len())?[0]];
            let mut shown = self.examples(&mut rng, query, shuffled)?;
            if shuffled {
                permute(&mut rng, &mut shown)?;
            }
            self.ask(&shown, query)
        };
        (0..prompts).map(one).collect()
    }

    /// Prompts whose labels are permuted among the examples: they say what inputs and labels look like, and not how they
    /// belong together (the corrupted prompts of Todd et al. 2024). No example has the query's own label.
    pub fn shuffled(&self, prompts: usize) -> Result<Vec<FewShotPrompt>> {
        self.drawn(prompts, "shuffled", true)
    }

    /// One set of examples with several queries that do not matter (Hendel et al. 2023, 2310.15916).
    pub fn with_dummy_queries(&self, queries: usize) -> Result<Vec<FewShotPrompt>> {
        let mut rng = self.rng("dummies");
        let chosen = self.draw(&mut rng, self.count + queries, self.pairs.len())?;
        let (queries, shown) = chosen.split_at(queries);
        let shown: Vec<ShotPair> = shown.iter().map(|i| self.pairs[*i].clone()).collect();
        queries
            .iter()
            .map(|i| self.ask(&shown, &self.pairs[*i]))
            .collect()
    }

    /// Queries without examples, as many as asked for, in turns.
    pub fn zero_shot(&self, prompts: usize) -> Result<Vec<FewShotPrompt>> {
        let mut queries = self.pairs.to_vec();
        queries.shuffle(&mut self.rng("unshown"));
        let turns: Vec<ShotPair> = queries.iter().cycle().take(prompts).cloned().collect();
        self.bare(&turns)
    }

    /// Queries alone.
    pub fn bare(&self, queries: &[ShotPair]) -> Result<Vec<FewShotPrompt>> {
        let alone = Self {
            layout: self.query_layout,
            ..*self
        };
        queries.iter().map(|query| alone.ask(&[], query)).collect()
    }

    /// Queries behind true examples.
    pub fn answered(&self, queries: &[ShotPair]) -> Result<Vec<FewShotPrompt>> {
        let mut rng = self.rng("answered");
        queries
            .iter()
            .map(|query| {
                let shown = self.examples(&mut rng, query, false)?;
                self.ask(&shown, query)
            })
            .collect()
    }

    /// The prompt of some examples and a query.
    pub fn ask(&self, shown: &[ShotPair], query: &ShotPair) -> Result<FewShotPrompt> {
        let (question, answer) = self.layout.query(query);
        let examples = shown
            .iter()
            .map(|p| self.layout.example(&p.input, &p.output));
        let prompt = examples.collect::<String>() + &question;
        let tokens = self.model.encode(&prompt, false)?;
        let whole = self.model.encode(&format!("{prompt}{answer}"), false)?;
        self.model.check_prompt(&tokens)?;
        match whole.get(tokens.len()) {
            Some(first) if whole.starts_with(&tokens) => Ok(FewShotPrompt {
                tokens,
                answer: *first,
            }),
            _ => Err(Error::argument(
                "template",
                text::plain(format!("{question}{answer}").as_bytes()),
                "a form in which the answer begins with a token of its own; a space before {y} often makes the difference",
            )),
        }
    }

    /// Examples for a query: never the query's input, and `without_label` not its label either.
    fn examples(
        &self,
        rng: &mut StdRng,
        query: &ShotPair,
        without_label: bool,
    ) -> Result<Vec<ShotPair>> {
        let offered: Vec<&ShotPair> = self
            .pairs
            .iter()
            .filter(|p| p.input != query.input)
            .filter(|p| !without_label || p.output != query.output)
            .collect();
        let chosen = self.draw(rng, self.count, offered.len())?;
        Ok(chosen.into_iter().map(|i| offered[i].clone()).collect())
    }

    fn draw(&self, rng: &mut StdRng, count: usize, of: usize) -> Result<Vec<usize>> {
        if count > of {
            let all = self.pairs.len();
            let expected = format!(
                "fewer, or more demonstrations: {count} have to be drawn, but only {of} of {all} can be"
            );
            return Err(Error::argument("shots", self.count, expected));
        }
        Ok(index::sample(rng, of, count).into_vec())
    }

    fn rng(&self, purpose: &str) -> StdRng {
        seeded(self.seed, purpose)
    }
}

/// A generator for one purpose, so that no two share a stream whatever the seed.
pub(crate) fn seeded(seed: u64, purpose: &str) -> StdRng {
    let mut hash = Fingerprint::default();
    hash.write(&seed.to_le_bytes());
    hash.write(purpose.as_bytes());
    StdRng::seed_from_u64(hash.finish())
}

/// Permutes the labels until they are not as they were.
fn permute(rng: &mut StdRng, shown: &mut [ShotPair]) -> Result<()> {
    let before: Vec<String> = shown.iter().map(|p| p.output.clone()).collect();
    if before.iter().all(|label| *label == before[0]) {
        return Err(Error::argument(
            "shots",
            before.len(),
            "enough for two different labels, because shuffling needs them",
        ));
    }
    let mut labels = before.clone();
    while labels == before {
        labels.shuffle(rng);
    }
    shown
        .iter_mut()
        .zip(labels)
        .for_each(|(pair, label)| pair.output = label);
    Ok(())
}

/// Pairs to make a vector from, and pairs held out to judge it: a share of `held`, at least one on each side.
pub fn split(pairs: &[ShotPair], held: f32, seed: u64) -> Result<(Vec<ShotPair>, Vec<ShotPair>)> {
    if pairs.len() < 2 || !(0.0..1.0).contains(&held) {
        return Err(Error::argument(
            "held-out",
            format!("{held} of {} pairs", pairs.len()),
            "a share from 0 to 1, of at least two pairs",
        ));
    }
    let mut shuffled = pairs.to_vec();
    shuffled.shuffle(&mut seeded(seed, "split"));
    let count = ((pairs.len() as f32 * held).round() as usize).clamp(1, pairs.len() - 1);
    let rest = shuffled.split_off(count);
    Ok((rest, shuffled))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<Vec<ShotPair>> {
        parse(text, Path::new("demos"))
    }

    #[test]
    fn demonstrations_are_read_in_every_spelling() {
        let expected = [pair("hot", "cold"), pair("big cat", "small cat")];
        for text in [
            "hot\tcold\n\nbig cat\t small cat\nhot\tcold\n",
            r#"[{"input": "hot", "output": "cold"}, {"input": "big cat", "output": "small cat"}]"#,
            r#"[["hot", "cold"], ["big cat", "small cat"]]"#,
            r#"{"hot": "cold", "big cat": "small cat"}"#,
        ] {
            assert_eq!(pairs(text).unwrap(), expected, "{text}");
        }
        for (text, why) in [
            ("hot cold\n", "line 1"),
            ("hot\tcold\nbig\t\n", "line 2"),
            ("a\tb\tc", "line 1"),
            ("\n", "no pair"),
            ("[1", "JSON"),
            (r#"[{"input": "hot"}]"#, "pair 1"),
            (
                r#"[{"input": "hot", "output": ["cold", "cool"]}]"#,
                "pair 1",
            ),
        ] {
            let error = pairs(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_layout_moves_the_space_to_the_answer() {
        let layout = ShotLayout::new("Q: {x}\\nA: {y}.", "\\n\\n").unwrap();
        assert_eq!(layout.example("hot", "cold"), "Q: hot\nA: cold.\n\n");
        let (prompt, answer) = layout.query(&pair("hot", "cold"));
        assert_eq!((prompt.as_str(), answer.as_str()), ("Q: hot\nA:", " cold"));
        for bad in ["{x}", "{y} {x}", "{x} {y} {y}", "{x} {x} {y}", ""] {
            assert!(ShotLayout::new(bad, "").is_err(), "{bad}");
        }
        assert_eq!(unescaped(r"a\\n\n\t\q"), "a\\n\n\t\\q");
    }

    #[test]
    fn a_split_keeps_both_sides() {
        let all: Vec<ShotPair> = (0..10).map(|i| pair(&i.to_string(), "x")).collect();
        for (share, sizes) in [(0.0, (9, 1)), (0.3, (7, 3)), (0.99, (1, 9))] {
            let (made, held) = split(&all, share, 1).unwrap();
            assert_eq!((made.len(), held.len()), sizes);
            assert!(held.iter().all(|p| !made.contains(p)));
        }
        assert!(split(&all[..1], 0.3, 1).is_err());
        assert!(split(&all, 1.5, 1).is_err());
    }
}
