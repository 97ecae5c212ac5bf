//! What a hub answers: bytes of HTTP, from a server on loopback that says what the input says.
//!
//! An input is answers with a line `====` between them: what a repository holds, what a file is, its bytes; the last one
//! where there are fewer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lmscope::error::Result;
use lmscope::model::hub::{DownloadWatch, HubSettings, resolve_under};
use lmscope::model::network::families::FAMILIES;

use super::Place;

/// How long the user waits: a hub that asks for patience is given up then.
const PATIENCE: Duration = Duration::from_secs(1);

/// A server and what it says next.
pub struct Server {
    address: String,
    answers: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let shared = answers.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever hangs up is gone.
                let _gone = serve(stream, &shared);
            }
        });
        Self { address, answers }
    }
}

/// Reads one request, says the next answer, hangs up.
fn serve(mut stream: TcpStream, answers: &Mutex<Vec<Vec<u8>>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    let (mut request, mut piece) = (Vec::new(), [0; 1024]);
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&piece[..count]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let asked = match &request {
        head if head.starts_with("HEAD ") => 1,
        file if file.contains("/resolve/") => 2,
        _ => 0,
    };
    let answer = {
        let all = answers.lock().unwrap();
        all.get(asked).or(all.last()).cloned().unwrap_or_default()
    };
    stream.write_all(&answer)?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// A repository, its files, and refusals.
pub fn answers() -> Vec<Vec<u8>> {
    let commit = "1".repeat(40);
    let say = |status: &str, headers: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let about = |names: &str| {
        say(
            "200 OK",
            "content-type: application/json\r\n",
            &format!("{{\"id\": \"a/b\", \"sha\": \"{commit}\", \"siblings\": [{names}]}}"),
        )
    };
    let config = &(FAMILIES[0].tiny)().to_string();
    let head = |length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\netag: \"abc\"\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )
    };
    let files = about("{\"rfilename\": \"config.json\"}, {\"rfilename\": \"model.safetensors\"}");
    [
        [files.clone(), head(config.len()), say("200 OK", "", config)].join("\n====\n"),
        about("{\"rfilename\": \"x-Q4_0.gguf\"}, {\"rfilename\": \"y.gguf\"}"),
        say(
            "404 Not Found",
            "x-error-code: RepoNotFound\r\nx-error-message: no\r\n",
            "",
        ),
        say(
            "401 Unauthorized",
            "x-error-code: GatedRepo\r\n",
            "{\"error\": \"no\"}",
        ),
        say("429 Too Many Requests", "retry-after: 0\r\n", ""),
        [
            files,
            say(
                "302 Found",
                "location: /x\r\netag: \"abc\"\r\nx-linked-size: 3\r\n",
                "",
            ),
        ]
        .join("\n====\n"),
        about("{\"rfilename\": \"adapter_config.json\"}, {\"rfilename\": \"../x\"}"),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// Asks for a model.
pub fn read(place: &Place, bytes: &[u8]) -> Result<()> {
    let mut server = place.hub.borrow_mut();
    let server = server.get_or_insert_with(Server::start);
    let mark = b"\n====\n";
    let mut answers = vec![Vec::new()];
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(mark) {
            answers.push(Vec::new());
            at += mark.len();
        } else {
            answers.last_mut().unwrap().push(bytes[at]);
            at += 1;
        }
    }
    *server.answers.lock().unwrap() = answers;
    let cache = place.folder("cache");
    let settings = || {
        Ok(HubSettings {
            cache: cache.clone(),
            endpoint: format!("http://{}", server.address),
            token: None,
            offline: None,
        })
    };
    let began = Instant::now();
    let mut watch = DownloadWatch {
        show: &mut |_| {},
        cancelled: &|| began.elapsed() > PATIENCE,
    };
    let outcome = resolve_under("a/b", &cache, settings, &mut watch).map(drop);
    assert!(
        began.elapsed() < 8 * PATIENCE,
        "it does not stop when it is told to"
    );
    std::fs::remove_dir_all(&cache).unwrap();
    outcome
}
