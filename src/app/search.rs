//! Searching: tokens of the text by what they say, and rows of a table or lines of a text in the focused figure.
//!
//! Invariant: a hit exists, and hits are in reading order, each once. Small letters find large ones too; a query with a large letter is
//! taken as it is. To search in another shape of figures, add its arm in [`App::hits`].

use super::cursor::{self, FigureCell};
use super::layout::Pane;
use super::{App, Effect};
use crate::engine::{PaneName, Token};
use crate::figure::{Body, Figure};
use crate::text;

/// What is searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// A text, which may go over several tokens.
    Words(String),
    /// A token by its id.
    Token(u32),
}

/// A place that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hit {
    /// The token in which the words begin.
    Token(usize),
    /// A row of a table, or a line of a text.
    Row(PaneName, FigureCell),
}

/// Which way a search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchWay {
    Forward,
    Backward,
}

impl App {
    /// Moves to the next hit after the cursor, or before it; behind the last one it begins anew. Says which of how many it is.
    ///
    /// # Errors
    ///
    /// A sentence, where nothing is searched for or found.
    pub(super) fn search(&mut self, way: SearchWay) -> Result<Vec<Effect>, String> {
        let query = self.query.clone().ok_or(
            "nothing is searched for yet: / asks for a text, * takes the token under the cursor",
        )?;
        let (hits, here, within) = self.hits(&query);
        let said = match &query {
            Query::Words(words) => format!("“{}”", text::line(words)),
            Query::Token(id) => format!("token {id}"),
        };
        let at = |hit: &Hit| match hit {
            Hit::Token(position) => (0, *position),
            Hit::Row(_, cell) => (cell.column, cell.row),
        };
        let next = match way {
            SearchWay::Forward => hits.iter().position(|hit| at(hit) > here).or(Some(0)),
            SearchWay::Backward => hits
                .iter()
                .rposition(|hit| at(hit) < here)
                .or(hits.len().checked_sub(1)),
        };
        let Some((number, hit)) = next.and_then(|i| Some((i, *hits.get(i)?))) else {
            return Err(format!("{said} is not in {within}"));
        };
        self.go_to_hit(hit);
        self.inform(format!(
            "{} of {}: {said} in {within} · ; next, previous",
            number + 1,
            hits.len()
        ));
        Ok(Vec::new())
    }

    /// All hits, where the cursor is among them, and where they were searched, in words.
    fn hits(&self, query: &Query) -> (Vec<Hit>, (usize, usize), String) {
        if let (Query::Words(words), Pane::Figure(slot)) = (query, self.layout.focus)
            && let Some(figure) = self.figure(slot)
        {
            let rows = rows(figure, &Matcher::new(words));
            if let Some(rows) = rows {
                let spot = self
                    .shown
                    .get(slot)
                    .map_or_else(FigureCell::default, |s| s.spot);
                let here = cursor::locate(figure, self.cursor, spot).unwrap_or_default();
                let hits = rows.into_iter().map(|cell| Hit::Row(slot, cell)).collect();
                return (hits, (here.column, here.row), format!("the {slot} figure"));
            }
        }
        let found = match query {
            Query::Words(words) => tokens(&self.transcript.tokens, &Matcher::new(words)),
            Query::Token(id) => {
                let same = self
                    .transcript
                    .tokens
                    .iter()
                    .filter(|token| token.id == *id);
                same.map(|token| token.position).collect()
            }
        };
        let hits = found.into_iter().map(Hit::Token).collect();
        (hits, (0, self.cursor.position), "the text".into())
    }

    fn go_to_hit(&mut self, hit: Hit) {
        match hit {
            Hit::Token(position) => {
                self.cursor.position = position;
                self.cursor.follow = false;
                self.cursor.at_run_start = false;
            }
            Hit::Row(slot, cell) => {
                let anchor = self
                    .figure(slot)
                    .and_then(|figure| cursor::read(figure, cell));
                if let Some(shown) = self.shown.get_mut(slot) {
                    shown.spot = cell;
                }
                if let Some(found) = anchor {
                    self.cursor.follow = false;
                    self.point_at(found.anchor);
                }
            }
        }
    }
}

/// Finds words in texts.
struct Matcher {
    words: String,
    /// Whether large and small letters differ.
    exact: bool,
}

impl Matcher {
    fn new(words: &str) -> Self {
        let exact = words.chars().any(char::is_uppercase);
        Self {
            words: words.into(),
            exact,
        }
    }

    /// A character as it is compared.
    fn folded(&self, letter: char) -> impl Iterator<Item = char> {
        let small = letter.to_lowercase().filter(|_| !self.exact);
        small.chain(Some(letter).filter(|_| self.exact))
    }

    fn finds(&self, text: &str) -> bool {
        let folded: String = text
            .chars()
            .flat_map(|letter| self.folded(letter))
            .collect();
        folded.contains(&self.words)
    }
}

/// The tokens in which the words begin. Characters may be cut by the ends of tokens.
fn tokens(all: &[Token], matcher: &Matcher) -> Vec<usize> {
    let mut bytes = Vec::new();
    let mut starts = Vec::with_capacity(all.len());
    for token in all {
        starts.push(bytes.len());
        bytes.extend(&token.bytes);
    }
    // The text as it is compared, and for every byte of it where its character is in `bytes`.
    let (mut text, mut origin) = (String::new(), Vec::new());
    let mut start = 0;
    for chunk in bytes.utf8_chunks() {
        for (offset, letter) in chunk.valid().char_indices() {
            text.extend(matcher.folded(letter));
            origin.resize(text.len(), start + offset);
        }
        start += chunk.valid().len();
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            origin.resize(text.len(), start);
        }
        start += chunk.invalid().len();
    }
    let found = text.match_indices(&matcher.words);
    let place = |(at, _): (usize, &str)| {
        let byte = *origin.get(at)?;
        let token = starts
            .partition_point(|start| *start <= byte)
            .checked_sub(1)?;
        all.get(token).map(|token| token.position)
    };
    let mut found: Vec<usize> = found.filter_map(place).collect();
    found.dedup();
    found
}

/// The rows of a table or text in which the words are, by page; none for other shapes.
fn rows(figure: &Figure, matcher: &Matcher) -> Option<Vec<FigureCell>> {
    let mut found = Vec::new();
    match &figure.body {
        Body::Table(table) => {
            for (column, page) in table.pages.iter().enumerate() {
                for (row, own) in page.rows.iter().enumerate() {
                    if own
                        .entries
                        .iter()
                        .any(|entry| matcher.finds(&cursor::spell(entry)))
                    {
                        found.push(FigureCell { row, column });
                    }
                }
            }
        }
        Body::Text(text) => {
            let lines = text.lines.iter().enumerate();
            let of_words = lines.filter(|(_, line)| matcher.finds(line));
            found.extend(of_words.map(|(row, _)| FigureCell { row, column: 0 }));
        }
        Body::Grid(_) | Body::Series(_) | Body::Graph(_) => return None,
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pieces: &[&[u8]]) -> Vec<Token> {
        let token = |(position, bytes): (usize, &&[u8])| Token::of_prompt(position, bytes);
        pieces.iter().enumerate().map(token).collect()
    }

    #[test]
    fn words_begin_in_a_token_and_may_go_over_several() {
        let all = text(&[
            b"The",
            b" cap",
            b"ital of",
            b" Fran",
            b"ce is the",
            b" capital",
        ]);
        let found = |words: &str| tokens(&all, &Matcher::new(words));
        assert_eq!(found("capital"), [1, 5]);
        assert_eq!(found("the"), [0, 4]);
        assert_eq!(found("The"), [0]);
        assert_eq!(found("ance is"), [3]);
        assert_eq!(found("s"), [4]);
        assert!(found("Capital").is_empty());
    }

    #[test]
    fn characters_that_tokens_cut_are_found() {
        // é and 日 are cut by the ends of tokens; a byte that is no text stands between.
        let all = text(&[
            b"caf\xc3",
            b"\xa9 ",
            b"\xff",
            b"\xe6\x97",
            b"\xa5 \xc3\x89t\xc3\xa9",
        ]);
        let found = |words: &str| tokens(&all, &Matcher::new(words));
        assert_eq!(found("é"), [0, 4]);
        assert_eq!(found("日"), [3]);
        assert_eq!(found("été"), [4]);
        assert_eq!(found("fé"), [0]);
    }
}
