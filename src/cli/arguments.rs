//! Arguments that subcommands share: model, prompt, edits.
//!
//! Invariant: a flag has the same meaning everywhere, and is read in one place. To add a shared flag, add it to the function of
//! its group and read it in the function next to it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::builder::{IntoResettable, StyledStr};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};

use super::loading;
use super::output;
use crate::dictionaries::handles;
use crate::edit::Edit;
use crate::edit::grammar::understood;
use crate::edit::preset::EditPreset;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::file::{self, Overwrite};
use crate::lab::Lab;
use crate::lab::run::Run;
use crate::lab::trials::time_left;
use crate::model::load::Options;
use crate::model::tokenizer::encoding::{self, BosRule, TextEncoding};
use crate::model::tokenizer::template::Message;
use crate::text;

/// Names that are flags already, so an instrument's parameter cannot use them.
#[rustfmt::skip]
pub const RESERVED: &[&str] = &[
    "prompt", "ids", "messages", "chat", "system", "prefill", "template-arg", "bos", "edit", "preset", "seed", "format", "output", "force", "dtype", "device", "split", "context",
    "threads", "log-level", "model", "help", "version",
];

/// A flag `--NAME VALUE`.
pub fn value(
    name: &'static str,
    value_name: &'static str,
    help: impl IntoResettable<StyledStr>,
) -> Arg {
    Arg::new(name).long(name).value_name(value_name).help(help)
}

/// A flag whose value is one of a few words; the first one is the default.
pub fn one_of<const N: usize>(
    name: &'static str,
    words: [&'static str; N],
    help: &'static str,
) -> Arg {
    let flag = Arg::new(name).long(name).help(help);
    flag.value_parser(words).default_value(words[0])
}

/// Flags for loading a model.
pub fn loading() -> [Arg; 5] {
    [
        value(
            "dtype",
            "DTYPE",
            "Data type of the weight matrices: f32, f16, bf16 or q8_0 [default: f32 if twice its size is free, else f16 or q8_0; on CUDA bf16]",
        ),
        value(
            "device",
            "DEVICE",
            "auto, cpu, cuda:N or metal; several as cuda:0-3 or cuda:0,2, the model's blocks over them in that order (cpu:0-3: logical devices of one CPU, to try it) [default: auto]",
        ),
        value(
            "split",
            "N,N,...",
            "Blocks on each of several devices, such as 20,20,20,20 [default: by their free memory; evenly where that is shared]",
        )
        .value_delimiter(',')
        .value_parser(value_parser!(usize)),
        value(
            "context",
            "N",
            "Maximum tokens of one run [default: the model's own, at most 8192]",
        )
        .value_parser(value_parser!(usize)),
        value(
            "threads",
            "N",
            "CPU threads [default: RAYON_NUM_THREADS, or one per core]",
        )
        .value_parser(value_parser!(usize)),
    ]
}

/// The model argument with the flags for loading.
pub fn model(command: Command) -> Command {
    let model = Arg::new("model")
        .value_name("MODEL")
        .required(true)
        .help("`demo`, a folder in Hugging Face layout, a .gguf file, or a hub id: OWNER/NAME[/FILE.gguf][@REVISION]");
    command.arg(model).args(loading())
}

/// The start of a run: a prompt, a conversation, or token ids.
pub fn prompt(command: Command) -> Command {
    let start = ArgGroup::new("start").args(["prompt", "ids", "messages"]);
    let others = [
        "prompt",
        "messages",
        "chat",
        "system",
        "prefill",
        "template-arg",
        "bos",
    ];
    let command = command
        .arg(
            value(
                "prompt",
                "TEXT",
                "The prompt, encoded as the model's tokenizer does it, with its BOS token; @FILE reads it from a file, - from standard input, @@ begins a text that begins with @",
            )
            .short('p')
            .allow_hyphen_values(true),
        )
        .arg(
            value(
                "ids",
                "1,2,3",
                "Token ids instead of a prompt, used as they are",
            )
            .allow_hyphen_values(true)
            .conflicts_with_all(others),
        )
        .arg(
            value(
                "messages",
                "FILE",
                "A conversation: a JSON list of turns with role and content; with -p, the prompt is one more user turn; a last turn of the assistant is gone on with",
            )
            .value_parser(value_parser!(PathBuf)),
        )
        .arg(super::switch("chat", "Wraps the prompt as one user turn of the chat template"));
    encoding_flags(command).group(start.required(true).multiple(true))
}

/// The flags for how texts become tokens, whichever texts a subcommand reads.
pub fn encoding_flags(command: Command) -> Command {
    let bos = "Whether texts begin with the model's BOS token; auto: as its tokenizer and chat template have it";
    let text = |name, help| value(name, "TEXT", help).allow_hyphen_values(true);
    let argument = "A variable of the chat template, such as enable_thinking=false; VALUE is read as JSON, or else as text; implies --chat; may be repeated";
    command
        .arg(text(
            "system",
            "The system turn before every conversation, or @FILE; implies --chat",
        ))
        .arg(text(
            "prefill",
            "The beginning of the answer, or @FILE, which is gone on with; implies --chat",
        ))
        .arg(value("template-arg", "NAME=VALUE", argument).action(ArgAction::Append))
        .arg(one_of("bos", ["auto", "yes", "no"], bos))
}

/// The flags for edits and the seed.
pub fn edits(command: Command) -> Command {
    command
        .arg(value("edit", "EDIT", "An edit (intervention) that applies from the first position on, for example zero:17@mlp_act.3; may be repeated").action(ArgAction::Append))
        .arg(preset())
        .arg(value("seed", "N", "Random seed").value_parser(value_parser!(u64)).default_value("1"))
}

/// The flag for preset files.
pub fn preset() -> Arg {
    value("preset", "FILE", "A file of edits saved by :save-edits; those that are on apply from the first position on, before any --edit; may be repeated").value_parser(value_parser!(PathBuf)).action(ArgAction::Append)
}

/// The flag that allows overwriting, for every subcommand that writes a file.
pub fn force() -> Arg {
    let help = "Overwrites the output file if it exists";
    super::switch("force", help)
}

/// Whether existing files may be overwritten.
pub fn overwrite(matches: &ArgMatches) -> Overwrite {
    match matches.try_get_one::<bool>("force") {
        Ok(Some(true)) => Overwrite::Allowed,
        _ => Overwrite::Never,
    }
}

/// The file to write; an error before any work if it must not be overwritten.
pub fn output(matches: &ArgMatches) -> Result<Option<&PathBuf>> {
    let path = matches.get_one::<PathBuf>("output");
    if let Some(path) = path {
        file::check(path, overwrite(matches))?;
    }
    Ok(path)
}

/// The preset files in order; empty for a subcommand without that flag.
pub fn presets(matches: &ArgMatches) -> Result<Vec<(PathBuf, EditPreset)>> {
    let files = matches.try_get_many::<PathBuf>("preset").ok().flatten();
    let load = |path: &PathBuf| Ok((path.clone(), EditPreset::load(path)?));
    files.into_iter().flatten().map(load).collect()
}

/// The text of an argument, or an empty text.
pub fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}

/// The model argument, or `demo` by default.
pub fn model_name(matches: &ArgMatches) -> &str {
    matches
        .get_one::<String>("model")
        .map_or("demo", String::as_str)
}

/// The user's options for loading.
pub fn options(matches: &ArgMatches) -> Options {
    let word = |name: &str| matches.get_one::<String>(name).cloned();
    Options {
        dtype: word("dtype"),
        device: word("device"),
        split: matches
            .get_many::<usize>("split")
            .map_or_else(Vec::new, |counts| counts.copied().collect()),
        context: matches.get_one::<usize>("context").copied(),
        memory: None,
        config: crate::config::folder(),
    }
}

/// The limit on the number of threads: more than a few for each core only cost memory.
fn most_threads(cores: usize) -> usize {
    (4 * cores).max(64)
}

/// The environment variable for the number of threads.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Sets the number of threads of rayon's global pool. The pool of our own products has the same number, so this must be called
/// before the first work of either.
pub fn threads(matches: &ArgMatches) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = most_threads(cores);
    let within = |name: &str, count: usize| {
        if (1..=most).contains(&count) {
            return Ok(());
        }
        let expected =
            format!("1 to {most} threads: this machine has {cores} cores, and more make it slower");
        Err(Error::argument(name, count.to_string(), expected))
    };
    let Some(count) = matches.get_one::<usize>("threads") else {
        let wished = std::env::var(THREADS).ok();
        // Rayon treats 0 and anything that is not a number as its default.
        return match wished.and_then(|w| w.parse().ok()) {
            None | Some(0) => Ok(()),
            Some(count) => within(THREADS, count),
        };
    };
    within("--threads", *count)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(*count);
    pool.build_global().map_err(|e| {
        let expected = format!("a number of threads that the system can start ({e})");
        Error::argument("--threads", count, expected)
    })
}

/// Loads the model, after downloading it if necessary. Ctrl-C stops the download and, from then on, the model's work.
pub fn open(matches: &ArgMatches) -> Result<Lab> {
    threads(matches)?;
    let encoding = encoding(matches)?;
    let (mut lab, interrupt) = loading::watched(|watch| {
        handles::open_watched(model_name(matches), &options(matches), watch)
    })?;
    lab.cancel = interrupt.requested;
    lab.overwrite = overwrite(matches);
    lab.model.encoding = encoding;
    lab.model.notes.iter().for_each(|n| output::note(n));
    lab.model.remarks.listener = Some(output::note);
    for (path, preset) in presets(matches)? {
        if let Some(caution) = preset.caution(&path, &lab.model.card) {
            output::note(&caution);
        }
    }
    Ok(lab)
}

/// The longest text that is read, in bytes.
const LONGEST: u64 = 1 << 30;

/// The text of a file, which must hold some; `next` says what to give otherwise.
///
/// # Errors
///
/// When it cannot be read, or is empty.
pub fn words(path: &Path, next: &str) -> Result<String> {
    let words = file::words_of(path, LONGEST)?;
    if words.trim().is_empty() {
        return Err(Error::bad_file(path, "it holds no text", next));
    }
    Ok(words)
}

/// The name of a file as a file that is made of it keeps it: without its folder, safe and visible.
pub fn file_name(path: &Path) -> String {
    let name = path.file_name().map(std::ffi::OsStr::as_encoded_bytes);
    name.map_or_else(String::new, text::plain)
}

/// A text that a flag gives: itself, `@FILE` for the text of a file, `-` for standard input; without the line break at its end.
///
/// # Errors
///
/// When it cannot be read, or is not UTF-8.
pub fn given_text(flag: &str, given: &str) -> Result<String> {
    let whole = match given.strip_prefix('@') {
        None if given != "-" => return Ok(given.to_string()),
        None => {
            let name = Path::new("(standard input)");
            let mut bytes = Vec::new();
            let read = std::io::stdin().take(LONGEST + 1).read_to_end(&mut bytes);
            read.map_err(|source| Error::io(name, source))?;
            if bytes.len() as u64 > LONGEST {
                return Err(Error::bad_file(
                    name,
                    "it is longer than 1 GB",
                    "Give less.",
                ));
            }
            text::decode(bytes).map_err(|(what, next)| Error::bad_file(name, what, next))?
        }
        // Two of them stand for one.
        Some(rest) if rest.starts_with('@') => return Ok(rest.to_string()),
        Some("") => {
            let expected =
                "@FILE with the name of a file; @@ stands for one @ at the beginning of a text";
            return Err(Error::argument(flag, given, expected));
        }
        Some(file) => file::words_of(Path::new(file), LONGEST)?,
    };
    let line = whole.strip_suffix('\n').unwrap_or(&whole);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_string())
}

/// Whether a run's own text is given.
pub fn has_prompt(matches: &ArgMatches) -> bool {
    ["prompt", "ids", "messages"]
        .iter()
        .any(|name| matches.contains_id(name))
}

/// Whether prompts are turns of a conversation: by the switch, or by a flag that says something of one.
pub fn chat(matches: &ArgMatches) -> bool {
    let said = ["system", "prefill", "template-arg", "messages"].iter();
    matches.get_flag("chat")
        || said
            .into_iter()
            .any(|name| matches.try_contains_id(name).unwrap_or(false))
}

/// How texts become tokens, by the flags; the default for a subcommand without them.
///
/// # Errors
///
/// When a file cannot be read, or a variable is no `NAME=VALUE`.
pub fn encoding(matches: &ArgMatches) -> Result<TextEncoding> {
    let word = |name: &str| matches.try_get_one::<String>(name).ok().flatten();
    let text = |name: &str| {
        word(name)
            .map(|given| given_text(&format!("--{name}"), given))
            .transpose()
    };
    let arguments = matches
        .try_get_many::<String>("template-arg")
        .ok()
        .flatten();
    let arguments = arguments
        .into_iter()
        .flatten()
        .map(|given| template_argument(given));
    Ok(TextEncoding {
        bos: match word("bos").map(String::as_str) {
            Some("yes") => BosRule::Yes,
            Some("no") => BosRule::No,
            Some(_) | None => BosRule::Auto,
        },
        system: text("system")?,
        prefill: text("prefill")?,
        arguments: arguments.collect::<Result<_>>()?,
    })
}

/// A variable of the chat template and its value.
fn template_argument(given: &str) -> Result<(String, serde_json::Value)> {
    let flag = "--template-arg";
    let parts = given
        .split_once('=')
        .filter(|(name, _)| !name.trim().is_empty());
    let Some((name, value)) = parts else {
        return Err(Error::argument(
            flag,
            given,
            "NAME=VALUE, such as enable_thinking=false",
        ));
    };
    let name = name.trim();
    if ["messages", "add_generation_prompt"].contains(&name) {
        let expected =
            "another variable: the turns are those of -p, --system, --messages and --prefill";
        return Err(Error::argument(flag, given, expected));
    }
    let json = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_string(), json))
}

/// The turns of a conversation's file.
fn conversation(path: &Path) -> Result<Vec<Message>> {
    let bad = |what: String| Error::bad_file(path, what, encoding::EXPECTED);
    let words = file::words(path)?;
    let json = serde_json::from_str(&words).map_err(|e| bad(format!("it is no JSON ({e})")))?;
    encoding::messages(&json).map_err(bad)
}

/// The token ids of the prompt, checked against the context.
pub fn tokens(matches: &ArgMatches, lab: &Lab) -> Result<Vec<u32>> {
    let given = |flag: &str| match matches.get_one::<String>(flag) {
        Some(text) => given_text("-p", text).map(Some),
        None => Ok(None),
    };
    let ids = match matches.get_one::<String>("ids") {
        Some(list) => parse_ids(list)?,
        None => match (matches.get_one::<PathBuf>("messages"), given("prompt")?) {
            (None, None) => return Err(Error::EmptyPrompt),
            (None, Some(text)) => lab.model.encode(&text, chat(matches))?,
            (Some(file), text) => {
                let mut turns = conversation(file)?;
                turns.extend(text.map(|text| Message::new("user", text)));
                if turns.iter().all(|turn| turn.role == "assistant") {
                    let what =
                        "its only turn is the assistant's, the beginning of an answer to nothing";
                    return Err(Error::bad_file(
                        file,
                        what,
                        "Put the user's turn before it, or use --prefill with -p.",
                    ));
                }
                lab.model.encode_chat(&turns)?.tokens
            }
        },
    };
    lab.model.check_prompt(&ids)?;
    lab.model.tokens(&ids)?;
    Ok(ids)
}

fn parse_ids(list: &str) -> Result<Vec<u32>> {
    let parts = list.split(',').map(str::trim).filter(|p| !p.is_empty());
    let refuse = |part: &str| Error::argument("--ids", part, "token ids such as 1,2,3");
    parts.map(|p| p.parse().map_err(|_| refuse(p))).collect()
}

/// The active edits of the presets and the edits of the flags, parsed before anything is loaded.
pub fn parse_edits(matches: &ArgMatches) -> Result<Vec<Edit>> {
    let presets = presets(matches)?;
    let kept = presets.into_iter().flat_map(|(_, preset)| preset.edits);
    let mut edits: Vec<Edit> = kept.filter(|e| e.on).collect();
    edits.extend(written_edits(matches)?);
    Ok(edits)
}

/// The edits of the flags only.
pub fn written_edits(matches: &ArgMatches) -> Result<Vec<Edit>> {
    let lines = matches.get_many::<String>("edit");
    let lines = lines.into_iter().flatten();
    lines
        .map(|line| {
            let edit = line.parse()?;
            if let Some(note) = understood(line, &edit) {
                output::note(&note);
            }
            Ok(edit)
        })
        .collect()
}

/// The first and the last layer of `3` or `2-5`, checked against the number of layers.
pub fn layers(flag: &str, given: &str, count: usize, expected: String) -> Result<(usize, usize)> {
    let (first, last) = given.split_once('-').unwrap_or((given, given));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last && last < count => Ok((first, last)),
        _ => Err(Error::argument(flag, given, expected)),
    }
}

pub fn seed(matches: &ArgMatches) -> u64 {
    matches.get_one::<u64>("seed").copied().unwrap_or(1)
}

/// A run of the prompt under the edits.
pub fn run(matches: &ArgMatches, lab: &Lab, edits: Vec<Edit>) -> Result<Run> {
    let tokens = tokens(matches, lab)?;
    Ok(Run {
        schedule: schedule(edits, lab)?,
        seed: seed(matches),
        ..Run::plain(tokens)
    })
}

/// Edits resolved for this model, in force from the first position on.
pub fn schedule(edits: Vec<Edit>, lab: &Lab) -> Result<Schedule> {
    if edits.is_empty() {
        return Ok(Schedule::none());
    }
    Ok(Schedule::always(resolved(edits, lab)?))
}

/// Edits resolved for this model; replaced TransformerLens names are reported.
pub fn resolved(edits: Vec<Edit>, lab: &Lab) -> Result<Vec<Edit>> {
    let on = |edit: Edit| {
        let resolved = edit.on(&lab.model.card.blueprint)?;
        if resolved.place != edit.place {
            output::note(&format!("{edit} means {resolved} on this model."));
        }
        Ok(resolved)
    };
    edits.into_iter().map(on).collect()
}

/// Does `work` and shows its progress on standard error, if that is a terminal.
pub fn showing_progress<T>(
    lab: &mut Lab,
    what: &'static str,
    work: impl FnOnce(&mut Lab) -> T,
) -> T {
    if !output::stderr_is_terminal() {
        return work(lab);
    }
    let since = std::time::Instant::now();
    let show = move |done: f32| {
        // Short work needs no progress bar.
        let spent = since.elapsed();
        if spent.as_millis() > 400 {
            let left = time_left(spent, done).map_or_else(String::new, |left| {
                format!(" · about {} left", text::duration(left))
            });
            output::status(&format!("{what} {:3.0} %{left}", done * 100.0));
        }
    };
    let done = lab.with_progress(show, work);
    output::clear_status();
    done
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_itself_or_that_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompt.txt");
        std::fs::write(&path, " The capital\r\nof France is \r\n").unwrap();
        let file = format!("@{}", path.display());
        assert_eq!(
            given_text("-p", &file).unwrap(),
            " The capital\r\nof France is "
        );
        for (given, text) in [
            ("plain", "plain"),
            ("@@home", "@home"),
            ("a@b", "a@b"),
            ("", ""),
        ] {
            assert_eq!(given_text("-p", given).unwrap(), text);
        }
        assert!(given_text("-p", "@").is_err() && given_text("-p", "@no/such").is_err());
    }

    #[test]
    fn variables_of_a_template_are_json_or_text() {
        let read = |given| template_argument(given).unwrap();
        assert_eq!(
            read("enable_thinking=false"),
            ("enable_thinking".into(), false.into())
        );
        assert_eq!(read("n= 3"), ("n".into(), 3.into()));
        assert_eq!(read("mode=a=b"), ("mode".into(), "a=b".into()));
        for bad in [
            "enable_thinking",
            "=1",
            "messages=[]",
            "add_generation_prompt=false",
        ] {
            assert!(template_argument(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_numbers_between_commas() {
        assert_eq!(parse_ids("1, 2,3").unwrap(), [1, 2, 3]);
        assert!(parse_ids("").unwrap().is_empty());
        assert!(parse_ids("1,x").unwrap_err().to_string().contains("--ids"));
    }
}
