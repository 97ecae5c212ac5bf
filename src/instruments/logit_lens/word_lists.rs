//! Word lists in several languages, and the tokens with which a word of each may begin.
//!
//! Invariant: a word's set holds every known token whose bytes are a prefix of the word, with or without a space before it, and
//! no other token; so the first byte of a multi-byte character counts, and the space alone does not. To read another layout of
//! lists, extend [`WordList::parse`].
//!
//! Source: Wendler et al. 2024 (2402.10588), section 3.2 (prompts) and 3.3 (token sets).

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::model::{Fingerprint, Model};
use crate::text;

/// The same words in several languages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordList {
    /// The names of the languages in prompts.
    pub languages: Vec<String>,
    /// By word, then language: the spellings of the word; prompts use the first.
    pub rows: Vec<Vec<Vec<String>>>,
    /// A digest of the file.
    pub digest: u64,
}

const NEXT: &str = "A word list has a line of language names, such as `English,Français,中文`, then one line for each word; several spellings are separated by |, and lines that begin with # are ignored.";

impl WordList {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When the file does not exist or is not a word list.
    pub fn load(path: &Path) -> Result<Self> {
        let text = crate::file::words(path)?;
        Self::parse(&text, path)
    }

    /// Parses a list. Cells are separated by tabs if the first line has tabs, else by commas; `path` is for error messages.
    ///
    /// # Errors
    ///
    /// When the text is not a word list; names the line.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let bad = |what: String| Error::bad_file(path, what, NEXT);
        let mut lines = text
            .trim_start_matches('\u{feff}')
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let (_, header) = lines.next().ok_or_else(|| bad("it is empty".into()))?;
        let between = if header.contains('\t') { '\t' } else { ',' };
        let cells = |line: &str| -> Vec<String> {
            line.split(between).map(|c| c.trim().to_string()).collect()
        };
        let languages = cells(header);
        if languages.len() < 2 || languages.iter().any(String::is_empty) {
            return Err(bad("its first line names fewer than two languages".into()));
        }
        if let Some(twice) = (1..languages.len()).find(|i| languages[..*i].contains(&languages[*i]))
        {
            return Err(bad(format!("it names {} twice", languages[twice])));
        }
        let mut rows = Vec::new();
        for (number, line) in lines {
            let cells = cells(line);
            if cells.len() != languages.len() {
                return Err(bad(format!(
                    "line {} has {} cells and there are {} languages",
                    number + 1,
                    cells.len(),
                    languages.len()
                )));
            }
            let spellings = |cell: &String| -> Vec<String> {
                let all = cell.split('|').map(|w| w.trim().to_string());
                all.filter(|w| !w.is_empty()).collect()
            };
            let row: Vec<Vec<String>> = cells.iter().map(spellings).collect();
            if row.iter().any(Vec::is_empty) {
                return Err(bad(format!("line {} lacks a word", number + 1)));
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(bad("it has languages but no words".into()));
        }
        let mut digest = Fingerprint::default();
        digest.write(text.as_bytes());
        Ok(Self {
            languages,
            rows,
            digest: digest.finish(),
        })
    }

    /// The column of a language.
    ///
    /// # Errors
    ///
    /// When there is no such language; lists those in the file.
    pub fn language(&self, parameter: &str, name: &str) -> Result<usize> {
        let found = self.languages.iter().position(|l| l == name);
        found.ok_or_else(|| {
            let known: Vec<String> = self
                .languages
                .iter()
                .map(|l| text::visible(l.as_bytes()))
                .collect();
            Error::argument(parameter, name, format!("one of {}", known.join(", ")))
        })
    }
}

/// Known tokens by their bytes.
pub struct KnownTokens {
    tokens: HashMap<Vec<u8>, Vec<u32>>,
}

impl KnownTokens {
    /// The known tokens of a model.
    ///
    /// # Errors
    ///
    /// When the model has no tokenizer.
    pub fn of(model: &Model) -> Result<Self> {
        let tokenizer = model.tokenizer()?;
        let mut tokens: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
        for id in (0..model.known_tokens() as u32).filter(|id| !tokenizer.is_special(*id)) {
            tokens
                .entry(tokenizer.bytes(id).to_vec())
                .or_default()
                .push(id);
        }
        Ok(Self { tokens })
    }

    /// The tokens with which one of these words may begin, sorted by id.
    pub fn beginnings(&self, words: &[String]) -> Vec<u32> {
        let mut ids = Vec::new();
        for word in words {
            for spelled in [word.clone(), format!(" {word}")] {
                let bytes = spelled.as_bytes();
                for end in 1..=bytes.len() {
                    let begin = &bytes[..end];
                    if begin != b" " {
                        ids.extend(self.tokens.get(begin).into_iter().flatten());
                    }
                }
            }
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Whether two sorted sets have nothing in common.
pub fn share_nothing(a: &[u32], b: &[u32]) -> bool {
    a.iter().all(|id| b.binary_search(id).is_err())
}

/// A prompt with solved lines, and one that ends where the answer begins: `Français: "fleur" - 中文: "`.
pub fn task(from: &str, to: &str, solved: &[(&str, &str)], word: &str) -> String {
    let line =
        |(given, answer): &(&str, &str)| format!("{from}: \"{given}\" - {to}: \"{answer}\"\n");
    let mut lines: Vec<String> = solved.iter().map(line).collect();
    lines.push(format!("{from}: \"{word}\" - {to}: \""));
    lines.concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WordList> {
        WordList::parse(text, Path::new("words.csv"))
    }

    #[test]
    fn a_list_is_languages_and_words() {
        let list =
            parse("# made by hand\nEnglish, Français,中文\n\nflower|bloom, fleur ,花\n").unwrap();
        assert_eq!(list.languages, ["English", "Français", "中文"]);
        assert_eq!(
            list.rows,
            [[
                vec!["flower".to_string(), "bloom".into()],
                vec!["fleur".into()],
                vec!["花".into()]
            ]]
        );
        assert_eq!(list.language("to", "中文").unwrap(), 2);
        let why = list.language("to", "Deutsch").unwrap_err().to_string();
        assert!(why.contains("English, Français, 中文"), "{why}");
        let tabs = parse("a\tb\nx, y\tz\n").unwrap();
        assert_eq!(
            tabs.rows[0][0],
            ["x, y"],
            "commas are words where tabs are between"
        );
    }

    #[test]
    fn what_is_no_list_says_why() {
        for (given, why) in [
            ("", "empty"),
            ("English\nflower\n", "fewer than two"),
            ("a,a\nx,y\n", "twice"),
            ("a,b\nx\n", "line 2 has 1 cells"),
            ("a,b\nx,y\nx,\n", "line 3 lacks a word"),
            ("a,b\n", "no words"),
        ] {
            let said = parse(given).unwrap_err().to_string();
            assert!(
                said.contains(why) && said.contains("A word list has"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_word_begins_with_every_token_that_begins_it() {
        let mut tokens: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
        let words: [&[u8]; 9] = [
            b" ",
            b"fl",
            b" flower",
            b"flowers",
            b"\xe8",
            "花".as_bytes(),
            b"\xe8\x8a",
            b"o",
            b" f",
        ];
        for (id, bytes) in words.iter().enumerate() {
            tokens.entry(bytes.to_vec()).or_default().push(id as u32);
        }
        let vocabulary = KnownTokens { tokens };
        assert_eq!(vocabulary.beginnings(&["flower".into()]), [1, 2, 8]);
        assert_eq!(vocabulary.beginnings(&["花".into()]), [4, 5, 6]);
        assert_eq!(
            vocabulary.beginnings(&["flower".into(), "o".into()]),
            [1, 2, 7, 8]
        );
        assert!(share_nothing(&[1, 2], &[3]) && !share_nothing(&[1, 2], &[2, 3]));
    }

    #[test]
    fn a_task_ends_where_the_answer_begins() {
        assert_eq!(
            task("Français", "中文", &[("fleur", "花")], "livre"),
            "Français: \"fleur\" - 中文: \"花\"\nFrançais: \"livre\" - 中文: \""
        );
    }
}
