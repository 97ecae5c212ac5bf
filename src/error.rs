//! The one error type: each variant is a situation, and its message ends in what to do next.
//!
//! To add a situation, add a variant whose message says what was expected, what was found, and what to do.

use std::path::{Path, PathBuf};

/// Everything that can go wrong, as situations a user can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model argument names nothing that can be loaded.
    #[error(
        "`{given}` is not a model: {found}. Give `demo`, a folder in Hugging Face layout, a .gguf file, or a hub id such as Qwen/Qwen3-0.6B."
    )]
    NotAModel {
        /// The model argument, as the user wrote it.
        given: String,
        /// What was found under that name.
        found: String,
    },
    /// The model argument names something that exists, but is not a model that can be opened.
    #[error("`{given}` cannot be opened: {found}. {next}.")]
    NotThisKind {
        /// The model argument, as the user wrote it.
        given: String,
        found: String,
        next: String,
    },
    /// The hub or its cache does not provide what is needed.
    #[error("{what}. {next}")]
    Hub {
        /// What was requested, and what failed.
        what: String,
        next: String,
    },
    /// The user stopped a download; the text says what is kept.
    #[error("{0}. The same command goes on from there.")]
    DownloadStopped(String),
    /// A `model_type` that no family supports.
    #[error(
        "No model family supports model_type `{found}`. Known: {known}. A new family is one file in src/model/network/families."
    )]
    UnknownFamily {
        /// The `model_type` of config.json.
        found: String,
        /// The supported families.
        known: String,
    },
    /// A configuration value that is missing or not supported.
    #[error("config.json: {what}. {next}")]
    Config {
        /// The key, what was expected and what was found.
        what: String,
        next: String,
    },
    /// A model does not fit into the free memory.
    #[error("{name} needs about {need}, and {free} are free. {next}.")]
    TooLarge {
        name: String,
        /// How much memory it needs, and for what.
        need: String,
        /// How much memory is free.
        free: String,
        /// What would fit.
        next: String,
    },
    /// A tensor is not in the checkpoint.
    #[error(
        "The checkpoint has no tensor `{name}` (looked in {place}). {holds}. Does config.json belong to these weights?"
    )]
    MissingTensor {
        /// The tensor's full name.
        name: String,
        /// The file or files searched.
        place: String,
        /// What the file contains instead, as a sentence without its end.
        holds: String,
    },
    /// A tensor has another shape than config.json implies.
    #[error(
        "Tensor `{name}` has shape {found:?}, and config.json asks for {expected:?}. Do weights and config.json belong together?"
    )]
    TensorShape {
        /// The tensor's full name.
        name: String,
        /// The shape that config.json implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A file that cannot be parsed.
    #[error("{}: {what}. {next}", path.display())]
    BadFile {
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        next: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}. Check that the path exists and that you may use it.", path.display())]
    Io {
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A site name that does not exist.
    #[error("There is no site `{given}`.{} `lmscope sites` lists them all.", near.as_ref().map(|n| format!(" Did you mean `{n}`?")).unwrap_or_default())]
    UnknownSite {
        /// The text that was given.
        given: String,
        /// The closest name.
        near: Option<String>,
    },
    /// An address with a syntax error.
    #[error("`{given}` is not an address: {why}")]
    BadAddress {
        /// The text that was given.
        given: String,
        /// What is wrong with it, ending in what to write.
        why: String,
    },
    /// A site that this model does not have, or that cannot be edited.
    #[error("`{address}` does not exist here: {why}")]
    Refused {
        /// The address, as it prints.
        address: String,
        /// The reason, ending in what to use instead.
        why: String,
    },
    /// An edit that cannot be parsed or applied.
    #[error(
        "Edit `{edit}`: {}. An edit is OP[:WHAT]@ADDRESS[:POSITIONS][*STRENGTH], for example zero:17@mlp_act.3",
        why.trim_end_matches('.')
    )]
    BadEdit {
        /// The edit as written.
        edit: String,
        /// What is wrong.
        why: String,
    },
    /// A parameter or flag with a value that it does not accept.
    #[error("`{name}` is `{given}`; expected {expected}.")]
    BadArgument {
        /// The parameter or flag.
        name: String,
        given: String,
        /// What is accepted.
        expected: String,
    },
    /// Two figures that cannot be subtracted.
    #[error("There is no difference to show: {why}. {next}.")]
    NoDifference {
        /// The reason.
        why: String,
        next: String,
    },
    /// The prompt has no tokens.
    #[error("The prompt is empty. Give at least one token, with -p TEXT or --ids 1,2,3.")]
    EmptyPrompt,
    /// The prompt has more tokens than fit.
    #[error(
        "The prompt has {tokens} tokens and the context holds {context}. {}",
        shorter(*context, *allows)
    )]
    PromptTooLong {
        /// How many tokens were given.
        tokens: usize,
        /// How many fit.
        context: usize,
        /// The longest context that the model itself allows.
        allows: usize,
    },
    /// A chat template or tokenizer problem.
    #[error("{what}. {next}")]
    Text {
        /// What went wrong.
        what: String,
        next: String,
    },
    /// The requested device cannot be used.
    #[error("Device `{device}`: {why}. Use --device cpu, or a build with that feature.")]
    Device {
        /// The device, as it was requested.
        device: String,
        /// The reason.
        why: String,
    },
    /// The numbers of a pass or a measurement are not finite.
    #[error("{what}. {next}.")]
    NotFinite {
        /// What is not finite, where that begins, and why.
        what: String,
        /// What to do.
        next: String,
        /// What to do, in a few words for a header.
        brief: &'static str,
    },
    /// Identities that hold for any weights do not hold on a model.
    #[error(
        "{model} breaks {failed}, of {count} identities that hold for any weights. Are the files whole, and does the dtype suit it (--dtype f32)? If so, trust no number of it and please report this."
    )]
    Identities {
        model: String,
        /// The names of those that do not hold.
        failed: String,
        /// How many were measured.
        count: usize,
    },
    /// The user stopped the work.
    #[error("Stopped.")]
    Cancelled,
    /// A signal with this number ended the program in an orderly way.
    #[error("Ended by signal {0}.")]
    Signal(i32),
    /// The engine panicked; the model is still loaded.
    #[error(
        "The engine failed: {0}. The model is still loaded; try again, and please report this."
    )]
    Engine(String),
    /// The tensor library failed.
    #[error(
        "Tensor operation failed: {}. Please report this with the command that led here.",
        without_backtrace(.0)
    )]
    Tensor(#[from] candle_core::Error),
}

/// What to do about a prompt that is too long: a flag helps only up to what the model allows.
fn shorter(context: usize, allows: usize) -> String {
    if context < allows {
        format!("Shorten it, or raise --context (the model allows {allows}).")
    } else {
        "Shorten it: the model was made for no more.".into()
    }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The tensor library's message, without the stack frames that it adds when backtraces are enabled.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what else it says is one line"
)]
fn without_backtrace(error: &candle_core::Error) -> String {
    use candle_core::Error as E;
    match error {
        E::WithBacktrace { inner, .. } => without_backtrace(inner),
        E::Context { inner, context } => format!("{context}: {}", without_backtrace(inner)),
        E::WithPath { inner, path } => {
            format!("{}: {}", path.display(), without_backtrace(inner))
        }
        other => {
            let said = other.to_string();
            said.lines().next().unwrap_or_default().to_string()
        }
    }
}

impl Error {
    /// The error for a measurement that is not finite, and what to do.
    pub fn not_finite(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::NotFinite {
            what: what.into(),
            next: next.into(),
            brief: "see the notice",
        }
    }

    /// Wraps an I/O error with the path it happened at.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    /// The error for a file that was read but could not be parsed.
    pub fn bad_file(
        path: impl AsRef<Path>,
        what: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self::BadFile {
            path: path.as_ref().to_path_buf(),
            what: what.into(),
            next: next.into(),
        }
    }

    /// The error for a parameter with a value that it does not accept.
    pub fn argument(
        name: impl Into<String>,
        given: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::BadArgument {
            name: name.into(),
            given: given.to_string(),
            expected: expected.into(),
        }
    }
}
