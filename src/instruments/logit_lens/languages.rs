//! The latent language: in which language does the model think before it answers in another?
//!
//! Reads the last position of a prompt at every layer and adds up the probability of all tokens that the answer may begin
//! with in each language of a word list. The prompts are the run's own, or translations and repetitions made of the list
//! itself, whose curves are means. To ask in another way, add a word to `task` and its arm in `Languages::prompts`.
//! Source: Wendler et al. 2402.10588.

use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::lens::{FILE, NORM, SITE, cautions, view};
use crate::error::{Error, Result};
use crate::figure::{Anchor, Body, Curve, Figure, Header, Scale, Series, Style};
use crate::instruments::logit_lens::reading::{View, Wish, see};
use crate::instruments::logit_lens::word_lists::{Vocabulary, WordList, disjoint, task};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::trials::Cost;
use crate::model::Card;

/// The instrument.
pub struct Languages;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "words",
        kind: Kind::Text,
        default: "",
        about: "a word list: a line of language names, then a line a word, commas or tabs between",
    },
    Parameter {
        name: "task",
        kind: Kind::Choice(&["prompt", "translate", "repeat"]),
        default: "prompt",
        about: "prompt: the run's own text; translate, repeat: texts made of the list",
    },
    Parameter {
        name: "word",
        kind: Kind::Text,
        default: "",
        about: "for a prompt of your own: the answer, as it stands in the list; by default all words together",
    },
    Parameter {
        name: "from",
        kind: Kind::Text,
        default: "",
        about: "the language that is translated from; by default one that is neither the answer's nor the pivot's, else the other one",
    },
    Parameter {
        name: "to",
        kind: Kind::Text,
        default: "",
        about: "the language of the answer; by default the second",
    },
    Parameter {
        name: "pivot",
        kind: Kind::Text,
        default: "",
        about: "the language whose words must differ from the answer's; by default the first",
    },
    Parameter {
        name: "count",
        kind: Kind::Count { lo: 1, hi: 1000 },
        default: "20",
        about: "how many words are asked for",
    },
    Parameter {
        name: "shots",
        kind: Kind::Count { lo: 0, hi: 16 },
        default: "4",
        about: "how many solved lines stand before the question",
    },
    Parameter {
        name: "show",
        kind: Kind::Choice(&["mass", "entropy"]),
        default: "mass",
        about: "the probability of each language's tokens, or the entropy of the whole distribution in nats",
    },
    SITE,
    NORM,
    FILE,
];

/// A question: its tokens, and the sets of tokens that answer it in each language.
struct Question {
    run: Run,
    sets: Vec<Vec<u32>>,
    /// The sets of another word.
    null: Option<Vec<Vec<u32>>>,
}

/// What one question showed at every layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    /// By layer, then language.
    mass: Vec<Vec<f32>>,
    null: Vec<Vec<f32>>,
    entropy: Vec<f32>,
}

/// The columns that a task uses.
struct Roles {
    from: usize,
    to: usize,
    pivot: usize,
}

impl Instrument for Languages {
    fn name(&self) -> &'static str {
        "languages"
    }

    fn about(&self) -> &'static str {
        "The language of thought: probability of an answer's words in each language, over the layers"
    }

    fn source(&self) -> &'static str {
        "latent language: Wendler et al. 2024 (2402.10588)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "task") == "prompt"
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn cost(&self, tokens: usize, arguments: &Arguments, _card: &Card) -> Option<Cost> {
        if self.needs_prompt(arguments) {
            return Some(Cost { passes: 1, tokens });
        }
        let shots = arguments.count(self, "shots").ok()?;
        Some(Cost {
            passes: arguments.count(self, "count").ok()?,
            // A line of two names and two words.
            tokens: 16 * (shots + 1),
        })
    }

    fn reads_end(&self) -> bool {
        true
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let list = match arguments.text(self, "words").trim() {
            "" => {
                let expected = "the file of a word list: a line of languages, then a line a word";
                return Err(Error::argument("words", "", expected));
            }
            path => WordList::load(Path::new(path))?,
        };
        let view = view(self, arguments, bench)?;
        let vocabulary = Vocabulary::of(&bench.model)?;
        let (questions, mut notes) = if self.needs_prompt(arguments) {
            self.own(run, arguments, &list, &vocabulary)?
        } else {
            self.prompts(run, arguments, bench, &list, &vocabulary)?
        };
        let mut parameters = arguments.provenance(self);
        parameters.push(("digest".into(), format!("{:016x}", list.digest)));
        let count = questions.len();
        let trials = bench.trials(run, parameters, count, 1, |bench, range| {
            let asked = questions[range].iter();
            asked.map(|q| answer(bench, q, &view)).collect()
        })?;
        notes.extend(trials.note());
        let answers: Vec<Answer> = trials.results.into_iter().flatten().collect();
        let layers = bench.model.card.layers;
        let entropy = arguments.text(self, "show") == "entropy";
        let curves = if entropy {
            vec![Curve {
                label: "entropy".into(),
                anchor: Anchor::default(),
                values: (0..layers)
                    .map(|l| mean(answers.iter().map(|a| a.entropy[l])).0)
                    .collect(),
                total: None,
            }]
        } else {
            (0..list.languages.len())
                .map(|language| Curve {
                    label: crate::text::visible(list.languages[language].as_bytes()),
                    anchor: Anchor::default(),
                    values: (0..layers)
                        .map(|l| mean(answers.iter().map(|a| a.mass[l][language])).0)
                        .collect(),
                    total: None,
                })
                .collect()
        };
        if !entropy {
            notes.extend(doubts(&list, &answers));
        }
        notes.push(
            "a set: every token that the word, with or without a space before it, begins with"
                .into(),
        );
        notes.extend(cautions(&view, bench.model.card.layers));
        let most = (bench.model.card.vocab as f32).ln();
        Ok(Figure {
            title: format!(
                "languages · {} · {}",
                arguments.text(self, "task"),
                if entropy { "entropy" } else { "mass" }
            ),
            body: Body::Series(Series {
                axis: "layer".into(),
                value: if entropy { "nats" } else { "probability" }.into(),
                points: (0..layers)
                    .map(|l| Header {
                        label: l.to_string(),
                        anchor: Anchor::layer(l),
                    })
                    .collect(),
                curves,
                scale: if entropy {
                    Scale::Range { lo: 0.0, hi: most }
                } else {
                    Scale::Unit
                },
                style: Style::Lines,
            }),
            notes,
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }
}

impl Languages {
    /// The run's own text, and the answer or all words.
    fn own(
        &self,
        run: &Run,
        arguments: &Arguments,
        list: &WordList,
        vocabulary: &Vocabulary,
    ) -> Result<(Vec<Question>, Vec<String>)> {
        let word = arguments.text(self, "word").trim();
        let languages = 0..list.languages.len();
        let sets = |rows: &[usize]| -> Vec<Vec<u32>> {
            let words = |l: usize| -> Vec<String> {
                rows.iter()
                    .flat_map(|r| list.rows[*r][l].iter().cloned())
                    .collect()
            };
            languages
                .clone()
                .map(|l| vocabulary.beginnings(&words(l)))
                .collect()
        };
        let (rows, null, note) = if word.is_empty() {
            let all: Vec<usize> = (0..list.rows.len()).collect();
            let note = format!("all {} words of each language together; no null", all.len());
            (all, None, note)
        } else {
            let row = list
                .rows
                .iter()
                .position(|row| row.iter().flatten().any(|w| w == word));
            let row = row.ok_or_else(|| Error::argument("word", word, "a word of the list"))?;
            let other = (row + 1) % list.rows.len();
            let null = (other != row).then(|| sets(&[other]));
            (
                vec![row],
                null,
                format!("the word {}", list.rows[row][0][0]),
            )
        };
        let question = Question {
            run: run.clone(),
            sets: sets(&rows),
            null,
        };
        let shared = shared(list, &question.sets);
        Ok((
            vec![question],
            std::iter::once(note).chain(shared).collect(),
        ))
    }

    /// Which languages a task is about.
    fn roles(&self, arguments: &Arguments, list: &WordList) -> Result<Roles> {
        let last = list.languages.len() - 1;
        let role = |name: &str, otherwise: usize| match arguments.text(self, name).trim() {
            "" => Ok(otherwise.min(last)),
            given => list.language(name, given),
        };
        let (to, pivot) = (role("to", 1)?, role("pivot", 0)?);
        // A third language where there is one; else the other one.
        let others = || (0..=last).filter(|l| *l != to);
        let from = others().find(|l| *l != pivot).or_else(|| others().next());
        Ok(Roles {
            from: role("from", from.unwrap_or(0))?,
            to,
            pivot,
        })
    }

    /// Questions made of the list: words whose sets in the pivot and in the answer's language share nothing.
    fn prompts(
        &self,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
        list: &WordList,
        vocabulary: &Vocabulary,
    ) -> Result<(Vec<Question>, Vec<String>)> {
        let roles = self.roles(arguments, list)?;
        let from = match arguments.text(self, "task") {
            "repeat" => roles.to,
            _ => roles.from,
        };
        if from == roles.to && arguments.text(self, "task") == "translate" {
            let expected = "another language than the one that is translated to";
            return Err(Error::argument("from", &list.languages[from], expected));
        }
        let sets = |row: &[Vec<String>]| -> Vec<Vec<u32>> {
            row.iter()
                .map(|words| vocabulary.beginnings(words))
                .collect()
        };
        let usable = |row: &&Vec<Vec<String>>| {
            let sets = sets(row);
            let (pivot, to) = (&row[roles.pivot], row[roles.to][0].to_lowercase());
            let inside = pivot.iter().any(|w| to.contains(&w.to_lowercase()));
            let answered = !sets[roles.to].is_empty() && !sets[roles.pivot].is_empty();
            answered
                && (roles.pivot == roles.to
                    || (disjoint(&sets[roles.pivot], &sets[roles.to]) && !inside))
        };
        let mut rows: Vec<&Vec<Vec<String>>> = list.rows.iter().filter(usable).collect();
        let left = list.rows.len() - rows.len();
        let shots = arguments.count(self, "shots")?;
        if rows.len() < shots + 1 {
            return Err(Error::argument(
                "words",
                arguments.text(self, "words"),
                format!(
                    "at least {} words whose tokens in {} and {} have nothing in common; there are {} of {}",
                    shots + 1,
                    list.languages[roles.pivot],
                    list.languages[roles.to],
                    rows.len(),
                    list.rows.len()
                ),
            ));
        }
        rows.shuffle(&mut StdRng::seed_from_u64(run.seed));
        let count = arguments.count(self, "count")?.min(rows.len());
        let mut questions = Vec::new();
        for i in 0..count {
            let word = |k: usize, language: usize| rows[(i + k) % rows.len()][language][0].as_str();
            let solved: Vec<(&str, &str)> = (1..=shots)
                .map(|k| (word(k, from), word(k, roles.to)))
                .collect();
            let (a, b) = (&list.languages[from], &list.languages[roles.to]);
            let text = task(a, b, &solved, word(0, from));
            let tokens = bench.model.encode(&text, false)?;
            bench.model.check_prompt(&tokens)?;
            questions.push(Question {
                run: Run {
                    schedule: run.schedule.clone(),
                    seed: run.seed,
                    ..Run::plain(tokens)
                },
                sets: sets(rows[i]),
                // A word that no line of the prompt holds, where there is one.
                null: (rows.len() > shots + 1).then(|| sets(rows[(i + shots + 1) % rows.len()])),
            });
        }
        let note = format!(
            "{count} words of {}, {left} left out as their tokens in {} and {} overlap; {shots} solved lines before each",
            list.rows.len(),
            list.languages[roles.pivot],
            list.languages[roles.to],
        );
        Ok((questions, vec![note]))
    }
}

/// Reads the last position of a question.
fn answer(bench: &mut Bench, question: &Question, view: &View) -> Result<Answer> {
    let groups = [Some(&question.sets), question.null.as_ref()];
    let mut tokens: Vec<u32> = groups
        .iter()
        .flatten()
        .copied()
        .flatten()
        .flatten()
        .copied()
        .collect();
    tokens.sort_unstable();
    tokens.dedup();
    let wish = Wish {
        top: 1,
        tokens: tokens.clone(),
        entropy: true,
        ..Wish::default()
    };
    let last = question.run.tokens.len() - 1;
    // The sweep tells how far it is.
    let progress = bench.progress.take();
    let seen = see(bench, &question.run, view, last..last + 1, &wish, false);
    bench.progress = progress;
    let seen = seen?;
    let mass = |sets: &Vec<Vec<u32>>| -> Vec<Vec<f32>> {
        let row = |said: &crate::lab::readout::Said| {
            let share = |id: &u32| {
                let at = tokens.binary_search(id).unwrap_or(0);
                f64::from(said.tokens[at].logprob).exp()
            };
            sets.iter()
                .map(|set| set.iter().map(share).sum::<f64>() as f32)
                .collect()
        };
        seen.layers.iter().map(|layer| row(&layer[0])).collect()
    };
    Ok(Answer {
        mass: mass(&question.sets),
        null: question.null.as_ref().map_or_else(Vec::new, mass),
        entropy: seen.layers.iter().map(|layer| layer[0].entropy).collect(),
    })
}

/// Languages whose sets share tokens, which then count for both.
fn shared(list: &WordList, sets: &[Vec<u32>]) -> Option<String> {
    let pairs: Vec<String> = (0..sets.len())
        .flat_map(|a| (0..a).map(move |b| (b, a)))
        .filter(|(a, b)| !disjoint(&sets[*a], &sets[*b]))
        .map(|(a, b)| format!("{} and {}", list.languages[a], list.languages[b]))
        .collect();
    (!pairs.is_empty()).then(|| format!("tokens in common, counted for both: {}", pairs.join(", ")))
}

/// How sure the means are, and the masses of words that were not asked for.
fn doubts(list: &WordList, answers: &[Answer]) -> Vec<String> {
    let mut notes = Vec::new();
    let layers = answers.first().map_or(0, |a| a.mass.len());
    if answers.len() > 1 {
        let errors = (0..layers).flat_map(|l| {
            (0..list.languages.len()).map(move |g| mean(answers.iter().map(|a| a.mass[l][g])).1)
        });
        let most = errors.fold(0.0, f32::max);
        notes.push(format!("means; standard error at most {most:.3}"));
    }
    if answers.iter().any(|a| !a.null.is_empty()) {
        let most = |g: usize| {
            let at = |l: usize| mean(answers.iter().filter_map(|a| Some(a.null.get(l)?[g]))).0;
            (0..layers).map(at).fold(0.0, f32::max)
        };
        let each: Vec<String> = (0..list.languages.len())
            .map(|g| format!("{} {:.3}", list.languages[g], most(g)))
            .collect();
        notes.push(format!(
            "null, the sets of another word, at most over the layers: {}",
            each.join(", ")
        ));
    }
    notes
}

/// Mean and its standard error, in f64.
fn mean(values: impl Iterator<Item = f32>) -> (f32, f32) {
    let all: Vec<f64> = values.map(f64::from).collect();
    let count = all.len().max(1) as f64;
    let mean = all.iter().sum::<f64>() / count;
    let spread = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    let error = (spread / (count - 1.0).max(1.0) / count).sqrt();
    (mean as f32, error as f32)
}
