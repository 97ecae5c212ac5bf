//! Answers that are given without the space before them: most tokenizers have a token of its own for a word that begins a text and for
//! one that follows another.
//!
//! Invariant: the answer stays the one that was given; what is found out is only asked about. To ask about another slip, add a function.

use super::capture::Output;
use super::lab::Lab;
use super::run::Run;
use super::target::token_texts;
use crate::error::Result;

/// How many times likelier the token with a leading space must be to be asked about.
const LIKELIER: f32 = 1000.0;

/// What is to be asked about a parameter's texts that begin without a space, where the same word with a space is far likelier after
/// the run: most tokenizers have a token of their own for each.
///
/// # Errors
///
/// Those of the pass.
pub fn without_space(name: &str, texts: &str, run: &Run, lab: &mut Lab) -> Result<Vec<String>> {
    if run.tokens.is_empty() {
        return Ok(Vec::new());
    }
    let mut pairs: Vec<(String, u32, u32)> = Vec::new();
    if let Some(tokenizer) = lab.model.tokenizer.as_ref() {
        let word = |text: &&str| text.chars().next().is_some_and(char::is_alphanumeric);
        for text in token_texts(name, texts).filter(word) {
            let first = |text: &str| tokenizer.encode_literal(text).ok()?.first().copied();
            let own = first(text).zip(first(&format!(" {text}")));
            pairs.extend(
                own.filter(|(a, b)| a != b)
                    .map(|(a, b)| (text.into(), a, b)),
            );
        }
    }
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<u32> = pairs.iter().flat_map(|(_, a, b)| [*a, *b]).collect();
    let read = lab.last(run, Output::tokens(&ids))?;
    let asked = pairs.into_iter().filter_map(|(text, own, spaced)| {
        let [p, with] = [own, spaced].map(|id| read.token(id).logprob.exp());
        let said = crate::text::line(&text);
        (with > LIKELIER * p).then(|| {
            format!(
                "`{name}`: is “ {said}” meant, with a space before it? Its token {} has probability {with:.2e} after the last token, and {} of “{said}” {p:.2e}",
                lab.visible(spaced),
                lab.visible(own)
            )
        })
    });
    Ok(asked.collect())
}
