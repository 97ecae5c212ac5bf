//! The hub for real: the built binary against a small HTTP server on loopback, which counts what it is asked.
//!
//! Invariant: no test reaches further than loopback, and every one has a cache of its own. To add a misbehaviour of the
//! hub, add a field to [`Script`] and what it does to `answer`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::pty;

const COMMIT: &str = "1111111111111111111111111111111111111111";
const TAGGED: &str = "2222222222222222222222222222222222222222";
const MODEL: &str = "tiny/llama";
const WEIGHTS: &str = "model.safetensors";

/// A request that came.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    range: Option<String>,
    token: Option<String>,
    storage: bool,
}

/// How the hub behaves.
#[derive(Default)]
struct Script {
    /// Files by name.
    files: BTreeMap<String, Vec<u8>>,
    /// Breaks the connection after so many bytes of this file, so often.
    cut: Option<(String, usize, usize)>,
    /// Sends so many bytes of this file and then nothing more.
    stall: Option<(String, usize)>,
    /// Answers requests whose path holds this with a status and headers, so often.
    refuse: Option<(String, u16, &'static str, usize)>,
    /// Sends other bytes of this file than it announced, so often.
    spoil: Option<(String, usize)>,
    /// Announces this length for a file.
    length: Option<(&'static str, u64)>,
    /// Describes a repository without an end.
    endless: bool,
    /// Sends whole files, whatever is asked for.
    deaf: bool,
    /// Sends chunks of so many bytes, with so long between them.
    pace: Option<(usize, Duration)>,
}

/// The hub, and beside it the storage host that it redirects to.
struct Hub {
    address: String,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Hub {
    fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let (hub, storage) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let address = hub.local_addr().unwrap().to_string();
        let elsewhere = storage.local_addr().unwrap().to_string();
        let script = Arc::new(Mutex::new(Script {
            files,
            ..Script::default()
        }));
        let asked = Arc::new(Mutex::new(Vec::new()));
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let (script, asked, elsewhere) = (script.clone(), asked.clone(), elsewhere.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (script, asked, elsewhere) =
                        (script.clone(), asked.clone(), elsewhere.clone());
                    std::thread::spawn(move || {
                        // Whoever hangs up is gone.
                        let _gone = serve(stream, is_storage, &elsewhere, &script, &asked);
                    });
                }
            });
        }
        Self {
            address,
            script,
            asked,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn forget(&self) {
        self.asked.lock().unwrap().clear();
    }

    /// GET requests for a file, with their ranges.
    fn ranges(&self, file: &str) -> Vec<Option<String>> {
        let asked = self.asked();
        let of = asked
            .iter()
            .filter(|a| a.method == "GET" && a.storage && a.path.ends_with(file));
        of.map(|a| a.range.clone()).collect()
    }
}

/// Reads one request and answers it.
fn serve(
    mut stream: TcpStream,
    storage: bool,
    elsewhere: &str,
    script: &Mutex<Script>,
    asked: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(String::from);
    let mut request = Asked {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        range: None,
        token: None,
        storage,
    };
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        match name.to_lowercase().as_str() {
            "range" => request.range = Some(value.to_string()),
            "authorization" => request.token = Some(value.to_string()),
            _ => {}
        }
    }
    asked.lock().unwrap().push(request.clone());
    answer(&mut stream, &request, elsewhere, script)
}

fn etag(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in Sha256::digest(bytes) {
        std::fmt::Write::write_fmt(&mut out, format_args!("{byte:02x}")).unwrap();
    }
    out
}

fn head(stream: &mut TcpStream, status: u16, headers: &str, length: u64) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    )
}

fn answer(
    stream: &mut TcpStream,
    request: &Asked,
    elsewhere: &str,
    script: &Mutex<Script>,
) -> std::io::Result<()> {
    let path = request.path.as_str();
    let mut now = script.lock().unwrap();
    if let Some((part, status, headers, times)) = &mut now.refuse
        && path.contains(part.as_str())
        && *times > 0
    {
        *times -= 1;
        let (status, headers) = (*status, *headers);
        return head(stream, status, headers, 0);
    }
    if let Some(rest) = path.strip_prefix(&format!("/api/models/{MODEL}")) {
        let commit = match rest {
            "" | "/revision/main" | "/revision/1111111111111111111111111111111111111111" => COMMIT,
            "/revision/v1" | "/revision/refs%2Fpr%2F1" => TAGGED,
            _ => return head(stream, 404, "X-Error-Code: RevisionNotFound\r\n", 0),
        };
        if now.endless {
            drop(now);
            write!(
                stream,
                "HTTP/1.1 200 x\r\nConnection: close\r\n\r\n{{\"sha\": \"1\", \"siblings\": ["
            )?;
            let more = r#"{"rfilename": "a"},"#.repeat(5000);
            loop {
                stream.write_all(more.as_bytes())?;
            }
        }
        let names: Vec<Value> = now
            .files
            .keys()
            .map(|n| json!({ "rfilename": n }))
            .collect();
        let body = json!({ "id": MODEL, "sha": commit, "siblings": names }).to_string();
        head(stream, 200, "", body.len() as u64)?;
        return stream.write_all(body.as_bytes());
    }
    // Behind the revision, or what the hub redirected to.
    let after = path
        .split_once("/resolve/")
        .and_then(|(_, rest)| rest.split_once('/'));
    let name = after
        .or_else(|| path.split_once("/storage/"))
        .map(|(_, name)| name);
    let name = name.unwrap_or_default().to_string();
    let Some(bytes) = now.files.get(&name).cloned() else {
        return head(stream, 404, "", 0);
    };
    let length = now
        .length
        .filter(|(of, _)| *of == name)
        .map_or(bytes.len() as u64, |(_, length)| length);
    if !request.storage {
        // As the hub does it: what it says of the file is in the redirect.
        let headers = format!(
            "Location: http://{elsewhere}/storage/{name}\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: {length}\r\nX-Repo-Commit: {COMMIT}\r\nETag: \"of-the-redirect\"\r\n",
            etag(&bytes)
        );
        return head(stream, 302, &headers, 0);
    }
    let from: usize = match &request.range {
        Some(range) if !now.deaf => range["bytes=".len()..]
            .trim_end_matches('-')
            .parse()
            .unwrap(),
        _ => 0,
    };
    let mut body = bytes[from..].to_vec();
    if let Some((spoiled, times)) = &mut now.spoil
        && *spoiled == name
        && *times > 0
    {
        *times -= 1;
        body.iter_mut().for_each(|b| *b ^= 0xff);
    }
    let mut send = body.len();
    if let Some((cut, at, times)) = &mut now.cut
        && *cut == name
        && *times > 0
    {
        *times -= 1;
        send = (*at).min(send);
    }
    let stall = now.stall.clone().filter(|(stalled, _)| *stalled == name);
    let pace = now.pace;
    drop(now);
    let range = format!(
        "Content-Range: bytes {from}-{}/{}\r\n",
        bytes.len() - 1,
        bytes.len()
    );
    let (status, range) = if from > 0 {
        (206, range.as_str())
    } else {
        (200, "")
    };
    head(stream, status, range, body.len() as u64)?;
    if let Some((_, at)) = stall {
        stream.write_all(&body[..at])?;
        stream.flush()?;
        std::thread::sleep(Duration::from_secs(20));
        return Ok(());
    }
    let (chunk, wait) = pace.unwrap_or((send.max(1), Duration::ZERO));
    for part in body[..send].chunks(chunk) {
        stream.write_all(part)?;
        std::thread::sleep(wait);
    }
    Ok(())
}

fn reference(case: &str, file: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references");
    std::fs::read(folder.join(case).join(file)).unwrap()
}

/// A repository as people have them: a small model, and much that nobody needs.
fn llama() -> BTreeMap<String, Vec<u8>> {
    let junk = || b"nobody asks for this".to_vec();
    [
        ("config.json", reference("llama", "config.json")),
        (WEIGHTS, reference("llama", WEIGHTS)),
        ("README.md", junk()),
        ("flax_model.msgpack", junk()),
        ("pytorch_model.bin", junk()),
    ]
    .map(|(name, bytes)| (name.to_string(), bytes))
    .into()
}

fn sharded() -> BTreeMap<String, Vec<u8>> {
    let names = [
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    names
        .map(|name| (name.to_string(), reference("llama_sharded", name)))
        .into()
}

/// A hub, and a home with an empty cache.
struct Stage {
    hub: Hub,
    home: TempDir,
}

fn stage(files: BTreeMap<String, Vec<u8>>) -> Stage {
    Stage {
        hub: Hub::new(files),
        home: tempfile::tempdir().unwrap(),
    }
}

/// How a command ended.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    err: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// Asserts the exit code, and words on standard error.
    fn is(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "lacks {word:?}: {}", self.err);
        }
    }
}

impl Stage {
    fn command(&self, arguments: &[&str]) -> Process {
        let mut command = Process::new(env!("CARGO_BIN_EXE_lmscope"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("HF_HOME", self.home.path().join("hf"))
            .env("HF_ENDPOINT", format!("http://{}", self.hub.address))
            .env("NO_PROXY", "*")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn generate(&self, model: &str) -> Outcome {
        self.generate_with(model, &[])
    }

    fn generate_with(&self, model: &str, environment: &[(&str, &str)]) -> Outcome {
        let mut command = self.command(&["generate", model, "--ids", "1,2,3", "-n", "1"]);
        command.envs(environment.iter().copied());
        command.output().unwrap().into()
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hf/hub")
    }

    fn folder(&self) -> PathBuf {
        self.cache().join("models--tiny--llama")
    }

    fn incomplete(&self) -> PathBuf {
        let name = etag(&reference("llama", WEIGHTS));
        self.folder().join(format!("blobs/{name}.incomplete"))
    }

    /// Asserts that the snapshot has the weights, through a link, and nothing is left over.
    fn is_whole(&self) {
        let pointer = self.folder().join(format!("snapshots/{COMMIT}/{WEIGHTS}"));
        let weights = reference("llama", WEIGHTS);
        assert!(std::fs::read(&pointer).unwrap() == weights, "other bytes");
        let target = std::fs::read_link(&pointer).unwrap();
        let expected = PathBuf::from(format!("../../blobs/{}", etag(&weights)));
        assert_eq!(target, expected);
        assert!(!self.incomplete().exists());
    }
}

#[test]
fn a_description_without_an_end_is_given_up() {
    let stage = stage(llama());
    stage.hub.change(|hub| hub.endless = true);
    let outcome: Outcome = stage
        .command(&["lens", MODEL, "--ids", "1"])
        .output()
        .unwrap()
        .into();
    outcome.is(1, &["does not end", "HF_ENDPOINT"]);
}

#[test]
fn a_small_file_is_not_announced_as_a_large_one_and_names_cannot_act() {
    let mut files = llama();
    files.insert("x\u{202e}\u{200b}.gguf".into(), b"GGUF".to_vec());
    files.remove("config.json");
    files.remove(WEIGHTS);
    files.remove("pytorch_model.bin");
    let named = stage(files);
    let outcome: Outcome = named
        .command(&["lens", MODEL, "--ids", "1"])
        .output()
        .unwrap()
        .into();
    outcome.is(1, &["as in", "U+202E"]);
    assert!(lmscope::text::is_safe(&outcome.err), "{}", outcome.err);
    let stage = stage(llama());
    stage
        .hub
        .change(|hub| hub.length = Some(("config.json", 1 << 50)));
    let outcome: Outcome = stage
        .command(&["lens", MODEL, "--ids", "1"])
        .output()
        .unwrap()
        .into();
    outcome.is(
        1,
        &["config.json is a small file, but the hub announces 1.0 PiB for it"],
    );
}

#[test]
fn a_link_in_the_cache_is_not_written_through() {
    let stage = stage(llama());
    let victim = stage.home.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let part = stage.incomplete();
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&victim, &part).unwrap();
    let outcome: Outcome = stage
        .command(&["lens", MODEL, "--ids", "1"])
        .output()
        .unwrap()
        .into();
    outcome.is(0, &["is in the cache"]);
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    stage.is_whole();
}

#[test]
fn a_download_is_what_python_would_have_made_and_is_not_asked_for_twice() {
    let stage = stage(llama());
    let file = stage.home.path().join("trace.safetensors");
    let arguments = ["trace", MODEL, "--ids", "1,2,3", "--sites", "logits", "-o"];
    let mut trace = stage.command(&arguments);
    let first: Outcome = trace.arg(&file).output().unwrap().into();
    first.is(0, &["downloading tiny/llama: 2 files", "is in the cache"]);
    assert!(
        first.err.lines().count() < 6,
        "a log is not flooded: {}",
        first.err
    );
    assert!(file.exists());
    stage.is_whole();
    let refs = std::fs::read_to_string(stage.folder().join("refs/main")).unwrap();
    assert_eq!(refs, COMMIT, "no newline, as Python writes it");
    let names = |folder: &str| {
        let entries = std::fs::read_dir(stage.folder().join(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let mut blobs = [etag(&llama()["config.json"]), etag(&llama()[WEIGHTS])];
    blobs.sort();
    assert_eq!(names("blobs"), blobs);
    assert_eq!(
        names(&format!("snapshots/{COMMIT}")),
        ["config.json", WEIGHTS]
    );
    for name in ["README.md", "flax_model", "pytorch_model"] {
        let asked = stage.hub.asked();
        assert!(
            !asked.iter().any(|a| a.path.contains(name)),
            "{name} was asked for"
        );
    }
    stage.hub.forget();
    let second = stage.generate(MODEL);
    second.is(0, &[]);
    assert!(!second.err.contains("download"), "{}", second.err);
    assert_eq!(stage.hub.asked().len(), 0, "everything was there");
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let stage = stage(llama());
    let half = reference("llama", WEIGHTS).len() / 2;
    stage
        .hub
        .change(|s| s.cut = Some((WEIGHTS.into(), half, 1)));
    let first = stage.generate(MODEL);
    first.is(
        1,
        &[
            "was lost",
            "are in the cache",
            "Run the same command again: it goes on from there.",
        ],
    );
    assert_eq!(
        std::fs::metadata(stage.incomplete()).unwrap().len(),
        half as u64
    );
    let listed = stage.command(&["models"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let row = listed
        .lines()
        .find(|l| l.starts_with(MODEL))
        .unwrap_or_default();
    assert!(row.contains("incomplete: the weights"), "{listed}");

    stage.hub.forget();
    let second = stage.generate(MODEL);
    second.is(0, &["of which"]);
    assert_eq!(stage.hub.ranges(WEIGHTS), [Some(format!("bytes={half}-"))]);
    assert_eq!(stage.hub.ranges("config.json"), [], "that was there");
    stage.is_whole();
}

#[test]
fn a_long_download_survives_a_broken_connection_by_itself() {
    let bytes: Vec<u8> = (0..18u32 << 20).map(|i| (i % 251) as u8).collect();
    let stage = stage([("x.gguf".to_string(), bytes.clone())].into());
    stage
        .hub
        .change(|s| s.cut = Some(("x.gguf".into(), 17 << 20, 1)));
    let outcome = stage.generate(&format!("{MODEL}/x.gguf"));
    assert!(!outcome.err.contains("was lost"), "{}", outcome.err);
    let rest = format!("bytes={}-", 17 << 20);
    assert_eq!(stage.hub.ranges("x.gguf"), [None, Some(rest)]);
    let pointer = stage.folder().join(format!("snapshots/{COMMIT}/x.gguf"));
    assert!(std::fs::read(pointer).unwrap() == bytes);
}

#[test]
fn a_server_that_knows_no_ranges_sends_everything_again() {
    let stage = stage(llama());
    stage
        .hub
        .change(|s| s.cut = Some((WEIGHTS.into(), 9000, 1)));
    stage.generate(MODEL).is(1, &["was lost"]);
    stage.hub.change(|s| s.deaf = true);
    stage.generate(MODEL).is(0, &[]);
    stage.is_whole();
}

#[test]
fn revisions_are_kept_apart() {
    let stage = stage(llama());
    stage.generate("tiny/llama@v1").is(0, &[]);
    stage.generate("tiny/llama@refs/pr/1").is(0, &[]);
    let refs =
        |name: &str| std::fs::read_to_string(stage.folder().join("refs").join(name)).unwrap();
    assert_eq!(
        (refs("v1"), refs("refs/pr/1")),
        (TAGGED.into(), TAGGED.into())
    );
    assert!(
        stage
            .folder()
            .join("snapshots")
            .join(TAGGED)
            .join(WEIGHTS)
            .exists()
    );
    assert!(!stage.folder().join("refs/main").exists());
    let unknown = stage.generate("tiny/llama@v9");
    unknown.is(
        1,
        &["`tiny/llama` has no revision `v9`", "/tiny/llama/tree/main"],
    );
    stage.hub.forget();
    let commit = format!("{MODEL}@{TAGGED}");
    stage.generate(&commit).is(0, &[]);
    assert_eq!(stage.hub.asked().len(), 0, "a commit that is there");
}

/// Path, status, headers, environment, and words of the sentence.
type Row<'a> = (
    &'a str,
    u16,
    &'static str,
    &'a [(&'a str, &'a str)],
    [&'a str; 3],
);

#[test]
fn refusals_say_what_to_do() {
    let stage = stage(llama());
    let gated = "X-Error-Code: GatedRepo\r\n";
    let missing = "X-Error-Code: RepoNotFound\r\n";
    let wrong = "X-Error-Message: Invalid credentials in Authorization header\r\n";
    let token = [("HF_TOKEN", "hf_x")];
    let page = format!("http://{}/tiny/llama", stage.hub.address);
    let rows: [Row; 7] = [
        ("resolve", 401, gated, &[], ["is gated", &page, "HF_TOKEN"]),
        (
            "resolve",
            403,
            gated,
            &token,
            ["is gated", "Accept the terms", &page],
        ),
        (
            "revision",
            401,
            missing,
            &[],
            ["nor a model of that name", "spelling", "HF_TOKEN"],
        ),
        (
            "revision",
            404,
            missing,
            &[],
            ["neither a folder", "tiny/llama", "spelling"],
        ),
        (
            "revision",
            401,
            wrong,
            &token,
            ["does not accept your token", "HF_TOKEN", "settings/tokens"],
        ),
        (
            "revision",
            401,
            "",
            &[],
            ["gated or private", &page, "HF_TOKEN"],
        ),
        (
            "api",
            404,
            "",
            &[],
            ["nor a model of that name", "tiny/llama", "spelling"],
        ),
    ];
    for (path, status, headers, environment, words) in rows {
        stage
            .hub
            .change(|s| s.refuse = Some((path.into(), status, headers, 9)));
        let outcome = stage.generate_with(MODEL, environment);
        outcome.is(1, &words);
        assert_eq!(outcome.err.trim().lines().count(), 1, "{}", outcome.err);
    }
    stage.hub.change(|s| s.refuse = None);
    let other = stage.generate("no/such");
    other.is(
        1,
        &["neither a folder `no/such` here nor a model of that name"],
    );
}

#[test]
fn a_token_goes_to_the_hub_and_nowhere_else() {
    let stage = stage(llama());
    std::fs::create_dir_all(stage.home.path().join("hf")).unwrap();
    std::fs::write(stage.home.path().join("hf/token"), "hf_from_file\n").unwrap();
    stage.generate(MODEL).is(0, &[]);
    let asked = stage.hub.asked();
    assert!(asked.iter().any(|a| a.storage));
    for request in asked {
        let expected = (!request.storage).then(|| "Bearer hf_from_file".to_string());
        assert_eq!(request.token, expected, "{request:?}");
    }
}

#[test]
fn a_hub_that_limits_requests_is_waited_for_within_reason() {
    let stage = stage(llama());
    stage
        .hub
        .change(|s| s.refuse = Some(("revision".into(), 429, "Retry-After: 1\r\n", 1)));
    let began = Instant::now();
    stage
        .generate(MODEL)
        .is(0, &["limits requests, going on in 1 s"]);
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "it was asked at once"
    );

    let stage = self::stage(llama());
    stage
        .hub
        .change(|s| s.refuse = Some(("resolve".into(), 503, "", 2)));
    stage.generate(MODEL).is(0, &[]);

    let stage = self::stage(llama());
    let limit = "RateLimit: \"resolvers\";r=0;t=600\r\n";
    stage
        .hub
        .change(|s| s.refuse = Some(("resolve".into(), 429, limit, 9)));
    let began = Instant::now();
    stage.generate(MODEL).is(1, &["(429)", "600 s", "HF_TOKEN"]);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "that is no wait for a user"
    );
}

#[test]
fn offline_opens_no_socket() {
    let stage = stage(llama());
    for variable in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        let outcome = stage.generate_with("tiny/llama@v1", &[(variable, "1")]);
        outcome.is(1, &[variable, "`hf download tiny/llama --revision v1`"]);
    }
    stage.hub.change(|s| s.cut = Some((WEIGHTS.into(), 100, 1)));
    stage.generate(MODEL).is(1, &[]);
    stage.hub.forget();
    let partly = stage.generate_with(MODEL, &[("HF_HUB_OFFLINE", "1")]);
    partly.is(1, &["only partly in the cache", "the weights is missing"]);
    assert_eq!(stage.hub.asked().len(), 0);
    stage.generate(MODEL).is(0, &[]);
    stage.hub.forget();
    stage
        .generate_with(MODEL, &[("HF_HUB_OFFLINE", "1")])
        .is(0, &[]);
    assert_eq!(stage.hub.asked().len(), 0);
}

#[test]
fn nobody_there_is_said_at_once() {
    let stage = stage(llama());
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = format!("http://{free}");
    let began = Instant::now();
    let outcome = stage.generate_with(MODEL, &[("HF_ENDPOINT", &nobody)]);
    outcome.is(
        1,
        &[
            "cannot be reached",
            "HF_ENDPOINT",
            "`hf download tiny/llama`",
        ],
    );
    assert!(began.elapsed() < Duration::from_secs(5));
    let nonsense = stage.generate_with(MODEL, &[("HF_ENDPOINT", "nonsense")]);
    nonsense.is(2, &["HF_ENDPOINT", "address of a hub"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_and_keeps_what_is_there() {
    let stage = stage(llama());
    stage
        .hub
        .change(|s| s.stall = Some((WEIGHTS.into(), 20_000)));
    let child = stage
        .command(&["generate", MODEL, "--ids", "1,2,3", "-n", "1"])
        .spawn()
        .unwrap();
    let there = || std::fs::metadata(stage.incomplete()).is_ok_and(|m| m.len() == 20_000);
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing came");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    let pressed = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let outcome: Outcome = child.wait_with_output().unwrap().into();
    assert!(
        pressed.elapsed() < Duration::from_secs(1),
        "{:?}",
        pressed.elapsed()
    );
    outcome.is(130, &["Stopped", "are in the cache", "goes on from there"]);
    assert!(there(), "the part stays");
    stage.hub.change(|s| s.stall = None);
    stage.hub.forget();
    stage.generate(MODEL).is(0, &[]);
    assert_eq!(
        stage.hub.ranges(WEIGHTS),
        [Some("bytes=20000-".to_string())]
    );
    stage.is_whole();
}

#[test]
fn a_partial_snapshot_is_completed() {
    let stage = stage(sharded());
    // As Python leaves it when it is stopped: links, a ref, one shard and a part of the other.
    let files = sharded();
    let last = "model-00002-of-00002.safetensors";
    let snapshot = stage.folder().join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(stage.folder().join("blobs")).unwrap();
    std::fs::create_dir_all(stage.folder().join("refs")).unwrap();
    std::fs::write(stage.folder().join("refs/main"), COMMIT).unwrap();
    for (name, bytes) in &files {
        let blob = stage.folder().join("blobs").join(etag(bytes));
        if name == last {
            std::fs::write(blob.with_extension("incomplete"), &bytes[..1000]).unwrap();
        } else {
            std::fs::write(blob, bytes).unwrap();
            let target = format!("../../blobs/{}", etag(bytes));
            std::os::unix::fs::symlink(target, snapshot.join(name)).unwrap();
        }
    }
    stage.generate(MODEL).is(0, &["4 files"]);
    let asked = stage.hub.asked();
    let fetched: Vec<&str> = asked
        .iter()
        .filter(|a| a.storage)
        .map(|a| a.path.as_str())
        .collect();
    assert_eq!(fetched, [format!("/storage/{last}")]);
    assert_eq!(stage.hub.ranges(last), [Some("bytes=1000-".to_string())]);
    assert!(std::fs::read(snapshot.join(last)).unwrap() == files[last]);
}

#[test]
fn damaged_bytes_are_thrown_away() {
    let stage = stage(llama());
    stage.hub.change(|s| s.spoil = Some((WEIGHTS.into(), 1)));
    stage.generate(MODEL).is(
        1,
        &["arrived damaged", "SHA-256", "Run the same command again"],
    );
    assert!(!stage.incomplete().exists());
    // A part that somebody else damaged is noticed at the end, and fetched once more from its beginning.
    std::fs::write(stage.incomplete(), vec![7; 500]).unwrap();
    stage.hub.forget();
    stage.generate(MODEL).is(0, &[]);
    assert_eq!(
        stage.hub.ranges(WEIGHTS),
        [Some("bytes=500-".to_string()), None]
    );
    stage.is_whole();
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_said_with_what_is_needed() {
    let stage = stage(llama());
    stage.hub.change(|s| s.length = Some((WEIGHTS, 1 << 60)));
    stage
        .generate(MODEL)
        .is(1, &["too full", "PiB are needed", "HF_HUB_CACHE"]);
    stage.hub.change(|s| s.length = None);
    // A device that is always full, in the place of the file; making one takes rights that not everybody has.
    let part = stage.incomplete();
    let made = Process::new("mknod")
        .arg(&part)
        .args(["c", "1", "7"])
        .output();
    let full = |e: std::io::Error| e.kind() == std::io::ErrorKind::StorageFull;
    if made.is_ok_and(|m| m.status.success()) && std::fs::write(&part, "x").is_err_and(full) {
        stage
            .generate(MODEL)
            .is(1, &["too full", "41.", "HF_HUB_CACHE"]);
    } else {
        println!("skipped: no device can be made here");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_said() {
    let stage = stage(llama());
    let file = stage.home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let cache = file.join("hub");
    let outcome = stage.generate_with(MODEL, &[("HF_HUB_CACHE", cache.to_str().unwrap())]);
    outcome.is(1, &["cannot be written", "HF_HUB_CACHE"]);
}

#[test]
fn gguf_files_are_chosen_by_name() {
    let files = ["x.Q4_0.gguf", "x.Q8_0.gguf"].map(|n| (n.to_string(), b"GGUF".to_vec()));
    let stage = stage(files.into());
    let several = stage.generate(MODEL);
    several.is(
        1,
        &[
            "one of them must be chosen",
            "as in tiny/llama/x.Q4_0.gguf",
            "x.Q8_0.gguf",
        ],
    );
    assert!(
        stage
            .hub
            .asked()
            .iter()
            .all(|a| a.path.starts_with("/api/"))
    );
    let none = stage.generate("tiny/llama/y.gguf");
    none.is(1, &["no file y.gguf", "x.Q4_0.gguf"]);
    stage.generate("tiny/llama/x.Q8_0.gguf").is(1, &[]);
    let fetched = stage.folder().join("snapshots").join(COMMIT);
    assert_eq!(std::fs::read(fetched.join("x.Q8_0.gguf")).unwrap(), b"GGUF");
    assert!(!fetched.join("x.Q4_0.gguf").exists());
    let listed = stage
        .command(&["models", "--format", "json"])
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let ids: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| r["id"].as_str())
        .collect();
    assert_eq!(ids, ["demo", "tiny/llama/x.Q8_0.gguf"]);
}

#[test]
fn an_adapter_is_named_with_its_base() {
    let config = br#"{"peft_type": "LORA", "base_model_name_or_path": "acme/base-1b"}"#;
    let stage = stage(BTreeMap::from([
        ("adapter_config.json".to_owned(), config.to_vec()),
        ("adapter_model.safetensors".to_owned(), vec![0; 64]),
    ]));
    let words = [
        "is a LoRA adapter for another model (acme/base-1b)",
        "Open acme/base-1b",
    ];
    stage.generate(MODEL).is(1, &words);
    let native = ["params.json", "consolidated.safetensors", "tekken.json"];
    let native = native.map(|name| (name.to_owned(), b"{}".to_vec()));
    self::stage(BTreeMap::from(native))
        .generate(MODEL)
        .is(1, &["Mistral's own layout"]);
}

#[test]
fn weights_of_a_model_that_nobody_serves_are_not_fetched() {
    let mut files = llama();
    let config = String::from_utf8(files["config.json"].clone()).unwrap();
    let strange = config.replace("\"model_type\": \"llama\"", "\"model_type\": \"mamba\"");
    files.insert("config.json".into(), strange.into_bytes());
    let stage = stage(files);
    for _ in 0..2 {
        stage.generate(MODEL).is(1, &["model_type `mamba`"]);
        assert_eq!(stage.hub.ranges(WEIGHTS), []);
    }
    assert_eq!(stage.hub.ranges("config.json").len(), 1);
}

#[test]
fn two_processes_take_turns() {
    let stage = stage(llama());
    let locks = stage.cache().join(".locks/models--tiny--llama");
    std::fs::create_dir_all(&locks).unwrap();
    let name = format!("{}.lock", etag(&llama()[WEIGHTS]));
    let lock = std::fs::File::create(locks.join(name)).unwrap();
    lock.lock().unwrap();
    let mut child = stage
        .command(&["generate", MODEL, "--ids", "1,2,3", "-n", "1"])
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let waiting = said
        .by_ref()
        .find(|l| l.as_ref().unwrap().contains("another process"));
    assert!(waiting.is_some());
    assert_eq!(stage.hub.ranges(WEIGHTS), []);
    drop(lock);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    stage.is_whole();
}

#[test]
fn an_answer_that_hf_hub_does_not_understand_is_read_all_the_same() {
    let stage = stage(llama());
    // Without an id, and with a field of another type.
    let body = json!({ "sha": COMMIT, "downloads": "many", "siblings": [
        { "rfilename": "config.json" }, { "rfilename": WEIGHTS }
    ]});
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let elsewhere = stage.hub.address.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut stream, body, elsewhere) = (stream, body.to_string(), elsewhere.clone());
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
            let path = first.split(' ').nth(1).unwrap();
            let _gone = if path.starts_with("/api/") {
                head(&mut stream, 200, "", body.len() as u64)
                    .and_then(|()| stream.write_all(body.as_bytes()))
            } else {
                // A mirror that sends everything else to the hub.
                head(
                    &mut stream,
                    307,
                    &format!("Location: http://{elsewhere}{path}\r\n"),
                    0,
                )
            };
        }
    });
    let mirror = format!("http://{address}");
    let environment = [("HF_ENDPOINT", mirror.as_str()), ("HF_TOKEN", "hf_x")];
    stage.generate_with(MODEL, &environment).is(0, &[]);
    let asked = stage.hub.asked();
    assert!(asked.iter().any(|a| a.method == "HEAD"));
    assert!(
        asked.iter().all(|a| a.token.is_none()),
        "the token was for the mirror alone"
    );
    stage.is_whole();
}

#[cfg(unix)]
#[test]
fn the_screen_shows_a_download_and_ctrl_c_stops_it() {
    let stage = stage(llama());
    stage
        .hub
        .change(|s| s.stall = Some((WEIGHTS.into(), 20_000)));
    let home = stage.home.path().join("hf");
    let endpoint = format!("http://{}", stage.hub.address);
    let environment = [
        ("HF_HOME", home.to_str().unwrap()),
        ("HF_ENDPOINT", endpoint.as_str()),
        ("NO_PROXY", "*"),
    ];
    let mut terminal = pty::open(24, 80, &environment, &[MODEL]);
    let shown = terminal.wait("the download", |t| t.contains("20.3 KiB of 42.2 KiB"));
    for words in [
        "tiny/llama: downloading",
        "file 2 of 2: model.safetensors",
        "ctrl-c stop",
    ] {
        assert!(shown.contains(words), "lacks {words:?}:\n{shown}");
    }
    // A prompt that waits for the model has nothing to say when there is none.
    terminal.press("\r");
    terminal.press("\x03");
    let shown = terminal.wait("the end of it", |t| t.contains("Stopped; 20.3 KiB"));
    assert!(shown.contains("not loaded"), "{shown}");
    assert_eq!(std::fs::metadata(stage.incomplete()).unwrap().len(), 20_000);
    std::thread::sleep(Duration::from_millis(100));
    assert!(terminal.text().contains("Stopped; 20.3 KiB"));
    stage.hub.change(|s| s.stall = None);
    terminal.press("L");
    terminal.wait("the model", |t| t.contains("f32"));
    terminal.press("q");
    assert_eq!(terminal.ended(), 0);
    stage.is_whole();
}

/// A repository of dictionaries, each in a folder: what is asked for is downloaded, and nothing else.
#[test]
fn a_dictionary_is_a_folder_of_a_repository() {
    let config: Value = serde_json::from_slice(&reference("llama", "config.json")).unwrap();
    let width = config["hidden_size"].as_u64().unwrap() as usize;
    let made = tempfile::tempdir().unwrap();
    let numbers = |count: usize| {
        (0..count)
            .map(|i| (i % 7) as f32 - 3.0)
            .collect::<Vec<f32>>()
    };
    let (w_enc, w_dec) = (numbers(width * 9), numbers(width * 9));
    crate::dictionaries::hostile::saelens(made.path(), width, 9, &w_enc, &w_dec, "standard");
    let weights = std::fs::read(made.path().join("sae_weights.safetensors")).unwrap();
    let own = std::fs::read(made.path().join("cfg.json")).unwrap();
    let mut files = BTreeMap::new();
    for folder in ["saes/one", "saes/two"] {
        for (name, bytes) in [("sae_weights.safetensors", &weights), ("cfg.json", &own)] {
            files.insert(format!("{folder}/{name}"), bytes.clone());
        }
        files.insert(format!("{folder}/sparsity.safetensors"), weights.clone());
    }
    files.insert("README.md".into(), b"nobody asks for this".to_vec());
    let stage = stage(files);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/llama");
    let model = model.to_str().unwrap();
    let features = |dictionary: &str, environment: &[(&str, &str)]| {
        let arguments = [
            "features",
            model,
            "--ids",
            "1,2,3",
            "--dictionary",
            dictionary,
        ];
        let mut command = stage.command(&arguments);
        command.envs(environment.iter().copied());
        let output = command.output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        (out, Outcome::from(output))
    };
    let (_, offline) = features("tiny/llama/saes/one", &[("HF_HUB_OFFLINE", "1")]);
    offline.is(
        1,
        &[
            "HF_HUB_OFFLINE",
            "hf download tiny/llama --include 'saes/one/*'",
        ],
    );
    let (out, outcome) = features("tiny/llama:saes/one", &[]);
    outcome.is(0, &[]);
    assert!(
        out.contains("tiny/llama:saes/one: sparse autoencoder"),
        "{out}"
    );
    let fetched: Vec<String> = stage
        .hub
        .asked()
        .into_iter()
        .filter(|a| a.method == "GET" && a.storage)
        .map(|a| a.path)
        .collect();
    assert_eq!(
        fetched,
        [
            "/storage/saes/one/sae_weights.safetensors",
            "/storage/saes/one/cfg.json"
        ]
    );
    // As Python has it.
    let pointer = stage
        .folder()
        .join(format!("snapshots/{COMMIT}/saes/one/cfg.json"));
    assert!(
        std::fs::read_link(&pointer)
            .unwrap()
            .starts_with("../../../../blobs")
    );
    // A second time without any request, and offline.
    stage.hub.forget();
    let (_, outcome) = features(
        "tiny/llama/saes/one@resid_post.0",
        &[("HF_HUB_OFFLINE", "1")],
    );
    outcome.is(0, &[]);
    assert!(stage.hub.asked().is_empty());
    let (_, outcome) = features("tiny/llama/saes/three", &[]);
    outcome.is(
        1,
        &["`tiny/llama` has no dictionary of a known format at `saes/three`"],
    );
    let (_, outcome) = features("tiny/llama", &[]);
    outcome.is(1, &["as in tiny/llama/saes/one: `saes/one`, `saes/two`"]);
    // Interrupted, and gone on with.
    stage
        .hub
        .change(|hub| hub.cut = Some(("saes/two/sae_weights.safetensors".into(), 300, 9)));
    let (_, outcome) = features("tiny/llama/saes/two", &[]);
    outcome.is(0, &[]);
}
