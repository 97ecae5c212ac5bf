//! What `score` is asked, and the texts that it reads.
//!
//! Invariant: files are read whole before anything is scored. To add a parameter, add a field.

use std::path::PathBuf;

use super::windows::WindowedText;
use crate::error::{Error, Result};
use crate::instruments::params::{Count, choices, params};
use crate::lab::Lab;
use crate::lab::prompt_list::{self, ListedPrompt};
use crate::lab::run::Run;

choices! {
    /// What the figure shows.
    pub enum ScoreView { Texts = "texts", Tokens = "tokens", Curve = "curve" }
}

params! {
    /// What `score` is asked.
    pub struct ScoreParams {
        /// a file with one text, read in windows; by default the run's own text
        text: Option<PathBuf>,
        /// a list of texts: one a line, or .tsv, .json, .jsonl as for `trace`; also conversations
        prompts: Option<PathBuf>,
        /// texts: a row for each text, or for each window of a single one; tokens: a row for each token, with its loss (-ln p, nats); curve: the loss along the tokens
        show: ScoreView = "texts",
        /// the most tokens that are read at once
        window: Count<2, 1_000_000> = "512",
        /// how many tokens further the next window of a long text begins; a window scores only tokens that no earlier one scored
        stride: Count<1, 1_000_000> = "256",
        /// how many random edits of equal size are scored beside the edits, as a control
        draws: Count<0, 100> = "8",
    }
}

impl ScoreParams {
    /// The texts that are scored, in windows; and where they are a list, its prompts.
    pub(super) fn texts(
        &self,
        run: &Run,
        lab: &Lab,
    ) -> Result<(Vec<WindowedText>, Vec<ListedPrompt>)> {
        let context = lab.model.card.context;
        let window = self.window.0.min(context);
        let stride = self.stride.0.min(window);
        let file = self.text.as_ref().or(self.prompts.as_ref());
        if let (Some(text), Some(_)) = (&self.text, &self.prompts) {
            let expected = "either `text` or `prompts`, not both";
            return Err(Error::argument("text", text.display(), expected));
        }
        let Some(file) = file else {
            let own = WindowedText::cut(run.tokens.clone(), None, window, stride);
            return Ok((vec![own], Vec::new()));
        };
        if !run.tokens.is_empty() {
            let expected = "either a prompt or a file of texts, not both";
            return Err(Error::argument("prompts", file.display(), expected));
        }
        let bos = lab.model.tokenizer()?.bos();
        let cut = |tokens| WindowedText::cut(tokens, bos, window, stride);
        if self.text.is_some() {
            let tokens = lab.model.encode(
                &crate::file::words(crate::file::or_standard_input(file))?,
                false,
            )?;
            return Ok((vec![cut(tokens)], Vec::new()));
        }
        let listed = prompt_list::read(file)?;
        let texts = listed
            .iter()
            .map(|text| Ok(cut(text.tokens(lab, false)?.tokens)));
        Ok((texts.collect::<Result<_>>()?, listed))
    }
}
