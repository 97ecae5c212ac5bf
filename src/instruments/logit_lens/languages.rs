//! The latent language: which language do the middle layers predict before the model answers in another?
//!
//! Reads the last position of a prompt at every layer, and sums the probabilities of all tokens with which the answer may begin
//! in each language of a word list. The prompts are the run's own text, or translations and repetitions made from the list,
//! whose curves are averaged. To ask in another way, add a variant of [`Task`] and its arm in `LanguagesParams::prompts`.
//! Source: Wendler et al. 2402.10588.

use std::path::PathBuf;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::lens::cautions;
use super::lens_view::{LensView, MapsFile, ReadSite, view};
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Curve, Scale, Series, Style};
use crate::instruments::logit_lens::word_lists::{KnownTokens, WordList, share_nothing, task};
use crate::instruments::params::{Count, ParameterValue, choices, params};
use crate::instruments::{Draft, Measurement, Reads, lines};
use crate::lab::Lab;
use crate::lab::capture::{Needs, NormOf, Readout};
use crate::lab::run::Run;
use crate::lab::trials::SweepCost;
use crate::model::Card;

choices! {
    /// The prompts that are read.
    pub enum Task { Own = "prompt", Translate = "translate", Repeat = "repeat" }
}

choices! {
    /// The quantity that is drawn.
    pub enum LanguageFigure { Mass = "mass", Entropy = "entropy" }
}

params! {
    /// What `languages` is asked.
    pub struct LanguagesParams {
        /// a word list: a line of language names, then a line a word, commas or tabs between
        words: Option<PathBuf>,
        /// prompt: the run's own text; translate, repeat: prompts made from the word list
        task: Task = "prompt",
        /// with task=prompt: the answer, as it stands in the list; by default all words together
        word: String,
        /// the language that is translated from; by default one that is neither the answer's nor the pivot's, else the other one
        from: String,
        /// the language of the answer; by default the second
        to: String,
        /// the language to test for as an internal pivot; only words that differ from the answer in it are used; by default the first
        pivot: String,
        /// how many words are tested
        count: Count<1, 1000> = "20",
        /// how many solved examples stand before the question
        shots: Count<0, 16> = "4",
        /// mass: the probability of each language's tokens; entropy: of the whole distribution, in nats
        show: LanguageFigure = "mass",
        site: ReadSite,
        norm: NormOf,
        maps: MapsFile,
    }
}

/// A prompt, and for each language the tokens with which the answer may begin.
struct LanguageQuestion {
    run: Run,
    sets: Vec<Vec<u32>>,
    /// The token sets of an unrelated word.
    control: Option<Vec<Vec<u32>>>,
}

/// The measurements of one prompt at every layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    /// Total probability of each language's tokens, by layer, then language.
    mass: Vec<Vec<f32>>,
    control: Vec<Vec<f32>>,
    entropy: Vec<f32>,
}

/// The columns of the word list that a task uses.
struct LanguageRoles {
    from: usize,
    to: usize,
    pivot: usize,
}

pub struct Languages;

impl Measurement for Languages {
    type Params = LanguagesParams;
    const NAME: &'static str = "languages";
    const ABOUT: &'static str = "Latent language: the probability of the answer's words in each language, by layer of the logit lens";
    const SOURCE: &'static str = "latent language: Wendler et al. 2024 (2402.10588)";
    const READS: Reads<LanguagesParams> = Reads::TextWhere(|asked| asked.task == Task::Own);
    const READS_END: bool = true;

    fn cost(asked: &LanguagesParams, tokens: usize, _card: &Card) -> Option<SweepCost> {
        Some(match asked.task {
            Task::Own => SweepCost { passes: 1, tokens },
            Task::Translate | Task::Repeat => SweepCost {
                passes: asked.count.0,
                // An estimate: each example is a line with two language names and two words.
                tokens: 16 * (asked.shots.0 + 1),
            },
        })
    }

    fn measure(asked: &LanguagesParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let list = match &asked.words {
            None => {
                let expected = "the file of a word list: a line of language names, then one line for each word";
                return Err(Error::argument("words", "", expected));
            }
            Some(path) => WordList::load(path)?,
        };
        let view = view(asked.site, asked.norm, &asked.maps, lab)?;
        let vocabulary = KnownTokens::of(&lab.model)?;
        let (questions, mut notes) = match asked.task {
            Task::Own => asked.questions_of_run(run, &list, &vocabulary)?,
            Task::Translate => {
                let roles = asked.roles(&list)?;
                if roles.from == roles.to {
                    let expected = "another language than the target language";
                    return Err(Error::argument(
                        "from",
                        &list.languages[roles.from],
                        expected,
                    ));
                }
                asked.prompts(&roles, run, lab, &list, &vocabulary)?
            }
            Task::Repeat => {
                let roles = asked.roles(&list)?;
                let same = LanguageRoles {
                    from: roles.to,
                    ..roles
                };
                asked.prompts(&same, run, lab, &list, &vocabulary)?
            }
        };
        let mut parameters = lines::<Self>(asked);
        parameters.push(("digest".into(), format!("{:016x}", list.digest)));
        let count = questions.len();
        let trials = lab.trials(run, parameters, count, 1, |lab, range| {
            let asked = questions[range].iter();
            asked.map(|q| read_answer(lab, q, &view)).collect()
        })?;
        notes.extend(trials.note());
        let answers: Vec<Answer> = trials.results.into_iter().flatten().collect();
        let layers = lab.model.card.layers;
        let curve = |label: String, at: &dyn Fn(&Answer, usize) -> f32| {
            let values = (0..layers).map(|l| mean(answers.iter().map(|a| at(a, l))).0);
            Curve::of(label, Anchor::default(), values.collect())
        };
        let (value, curves, scale) = match asked.show {
            LanguageFigure::Entropy => {
                let hi = (lab.model.card.vocab as f32).ln();
                let curves = vec![curve("entropy".into(), &|a, l| a.entropy[l])];
                ("nats", curves, Scale::up_to(hi))
            }
            LanguageFigure::Mass => {
                notes.extend(uncertainty_notes(&list, &answers));
                let named = list.languages.iter().enumerate().map(|(i, name)| {
                    let name = crate::text::visible(name.as_bytes());
                    curve(name, &|a, l| a.mass[l][i])
                });
                ("probability", named.collect(), Scale::Unit)
            }
        };
        let points = AxisLabel::layers(layers);
        Ok(Draft::of(Series {
            scale,
            ..Series::of("layer", value, points, curves, Style::Lines)
        })
        .titled(format!("{} · {}", asked.task.print(), asked.show.print()))
        .notes(notes)
        .note("a set: all tokens that the word, with or without a space before it, begins with")
        .notes(cautions(&view, layers)))
    }
}

impl LanguagesParams {
    /// The run's own text as the prompt; the token sets are those of the given answer, or of all words.
    fn questions_of_run(
        &self,
        run: &Run,
        list: &WordList,
        vocabulary: &KnownTokens,
    ) -> Result<(Vec<LanguageQuestion>, Vec<String>)> {
        let word = self.word.trim();
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
        let (rows, control, note) = if word.is_empty() {
            let all: Vec<usize> = (0..list.rows.len()).collect();
            let note = format!(
                "all {} words of each language together; no control",
                all.len()
            );
            (all, None, note)
        } else {
            let row = list
                .rows
                .iter()
                .position(|row| row.iter().flatten().any(|w| w == word));
            let row = row.ok_or_else(|| Error::argument("word", word, "a word of the list"))?;
            let other = (row + 1) % list.rows.len();
            let control = (other != row).then(|| sets(&[other]));
            (
                vec![row],
                control,
                format!("the word {}", list.rows[row][0][0]),
            )
        };
        let question = LanguageQuestion {
            run: run.clone(),
            sets: sets(&rows),
            control,
        };
        let shared = shared_tokens_note(list, &question.sets);
        Ok((
            vec![question],
            std::iter::once(note).chain(shared).collect(),
        ))
    }

    /// The languages of a task, from the parameters.
    fn roles(&self, list: &WordList) -> Result<LanguageRoles> {
        let last = list.languages.len() - 1;
        let role = |name: &str, given: &str, otherwise: usize| match given.trim() {
            "" => Ok(otherwise.min(last)),
            given => list.language(name, given),
        };
        let (to, pivot) = (role("to", &self.to, 1)?, role("pivot", &self.pivot, 0)?);
        // By default, the source is a third language if there is one, else any language but the target.
        let others = || (0..=last).filter(|l| *l != to);
        let from = others().find(|l| *l != pivot).or_else(|| others().next());
        Ok(LanguageRoles {
            from: role("from", &self.from, from.unwrap_or(0))?,
            to,
            pivot,
        })
    }

    /// Prompts made from the list. It uses words whose token sets in the pivot and in the target language are disjoint.
    fn prompts(
        &self,
        roles: &LanguageRoles,
        run: &Run,
        lab: &Lab,
        list: &WordList,
        vocabulary: &KnownTokens,
    ) -> Result<(Vec<LanguageQuestion>, Vec<String>)> {
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
                    || (share_nothing(&sets[roles.pivot], &sets[roles.to]) && !inside))
        };
        let mut rows: Vec<&Vec<Vec<String>>> = list.rows.iter().filter(usable).collect();
        let left = list.rows.len() - rows.len();
        let shots = self.shots.0;
        if rows.len() < shots + 1 {
            return Err(Error::argument(
                "words",
                self.words.print(),
                format!(
                    "at least {} words whose tokens in {} and {} do not overlap; there are {} of {}",
                    shots + 1,
                    list.languages[roles.pivot],
                    list.languages[roles.to],
                    rows.len(),
                    list.rows.len()
                ),
            ));
        }
        rows.shuffle(&mut StdRng::seed_from_u64(run.seed));
        let count = self.count.0.min(rows.len());
        let mut questions = Vec::new();
        for i in 0..count {
            let word = |k: usize, language: usize| rows[(i + k) % rows.len()][language][0].as_str();
            let solved: Vec<(&str, &str)> = (1..=shots)
                .map(|k| (word(k, roles.from), word(k, roles.to)))
                .collect();
            let (a, b) = (&list.languages[roles.from], &list.languages[roles.to]);
            let text = task(a, b, &solved, word(0, roles.from));
            let tokens = lab.model.encode(&text, false)?;
            lab.model.check_prompt(&tokens)?;
            questions.push(LanguageQuestion {
                run: Run {
                    schedule: run.schedule.clone(),
                    seed: run.seed,
                    ..Run::plain(tokens)
                },
                sets: sets(rows[i]),
                // A word that does not occur in the prompt, if there is one.
                control: (rows.len() > shots + 1).then(|| sets(rows[(i + shots + 1) % rows.len()])),
            });
        }
        let note = format!(
            "{count} words of {}, {left} left out because their tokens in {} and {} overlap; {shots} solved examples before each",
            list.rows.len(),
            list.languages[roles.pivot],
            list.languages[roles.to],
        );
        Ok((questions, vec![note]))
    }
}

/// Reads the last position of a question.
fn read_answer(lab: &mut Lab, question: &LanguageQuestion, view: &LensView) -> Result<Answer> {
    let groups = [Some(&question.sets), question.control.as_ref()];
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
    let readout = Readout {
        top: 1,
        tokens: tokens.clone(),
        entropy: true,
        ..view.readout(lab.model.card.layers)
    };
    let last = question.run.tokens.len() - 1;
    // No progress: the sweep reports its own.
    let needs = Needs::of(readout);
    let capture = lab.without_progress(|b| b.capture(&question.run, last..last + 1, &needs))?;
    let seen = capture.read;
    let mass = |sets: &Vec<Vec<u32>>| -> Vec<Vec<f32>> {
        let row = |stats: &crate::lab::readout::RowStats| {
            let share = |id: &u32| {
                let at = tokens.binary_search(id).unwrap_or(0);
                f64::from(stats.tokens[at].logprob).exp()
            };
            sets.iter()
                .map(|set| set.iter().map(share).sum::<f64>() as f32)
                .collect()
        };
        seen.layers.iter().map(|layer| row(&layer[0])).collect()
    };
    Ok(Answer {
        mass: mass(&question.sets),
        control: question.control.as_ref().map_or_else(Vec::new, mass),
        entropy: seen.layers.iter().map(|layer| layer[0].entropy).collect(),
    })
}

/// A note on languages whose token sets overlap; shared tokens count for each.
fn shared_tokens_note(list: &WordList, sets: &[Vec<u32>]) -> Option<String> {
    let pairs: Vec<String> = (0..sets.len())
        .flat_map(|a| (0..a).map(move |b| (b, a)))
        .filter(|(a, b)| !share_nothing(&sets[*a], &sets[*b]))
        .map(|(a, b)| format!("{} and {}", list.languages[a], list.languages[b]))
        .collect();
    (!pairs.is_empty()).then(|| format!("tokens in common, counted for both: {}", pairs.join(", ")))
}

/// Notes on the standard errors of the means, and on the probability of the unrelated words.
fn uncertainty_notes(list: &WordList, answers: &[Answer]) -> Vec<String> {
    let mut notes = Vec::new();
    let layers = answers.first().map_or(0, |a| a.mass.len());
    if answers.len() > 1 {
        let errors = (0..layers).flat_map(|l| {
            (0..list.languages.len()).map(move |g| mean(answers.iter().map(|a| a.mass[l][g])).1)
        });
        let most = errors.fold(0.0, f32::max);
        notes.push(format!("means; standard error at most {most:.3}"));
    }
    if answers.iter().any(|a| !a.control.is_empty()) {
        let most = |g: usize| {
            let at = |l: usize| mean(answers.iter().filter_map(|a| Some(a.control.get(l)?[g]))).0;
            (0..layers).map(at).fold(0.0, f32::max)
        };
        let each: Vec<String> = (0..list.languages.len())
            .map(|g| format!("{} {:.3}", list.languages[g], most(g)))
            .collect();
        notes.push(format!(
            "control, the token sets of another word, maximum over the layers: {}",
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
