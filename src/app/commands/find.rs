//! Commands that find: tokens, and rows of the focused figure.
//!
//! Invariant: none of them asks the engine for anything, and a search that finds nothing moves nothing. To add a command, add a row.

use super::{CommandResult, Unavailable, has_text};
use crate::app::App;
use crate::app::search::{Query, SearchWay};

rows! {
    "find" ["/"] find, "finds tokens by text, or rows where a table has the focus; small letters find large ones too", takes "TEXT", when has_text;
    "find-next" [";"] |app, _| search(app, SearchWay::Forward), "goes to the next place that was found", when has_text;
    "find-previous" [","] |app, _| search(app, SearchWay::Backward), "goes to the previous place that was found", when has_text;
    "same-token" ["*"] same_token, "goes to the next place of the token under the cursor", when has_text;
}

fn find(app: &mut App, text: &str) -> CommandResult {
    if text.is_empty() {
        return Err("write what to find".into());
    }
    let before = app.query.replace(Query::Words(text.into()));
    // What is not there is no search to go on with.
    search(app, SearchWay::Forward).inspect_err(|_| app.query = before)
}

fn same_token(app: &mut App, _: &str) -> CommandResult {
    let token = app.token().ok_or("no token is under the cursor")?;
    app.query = Some(Query::Token(token.id));
    search(app, SearchWay::Forward)
}

fn search(app: &mut App, way: SearchWay) -> CommandResult {
    app.search(way).map_err(Unavailable)
}
