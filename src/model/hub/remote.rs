//! Requests to the hub: the files of a repository, the name and length of a file, and its bytes from a position on.
//!
//! A request that is refused for its rate (429), or because of a server error (5xx), is repeated after the time that the answer
//! names, as long as the waits of one request stay below [`PATIENCE`]; any other error is returned at once. The token is sent
//! only to the hub: it is removed from redirects to another host.
//!
//! Invariant: every wait checks ten times a second whether it was cancelled. To make another request, add a method to
//! [`Remote`].

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hf_hub::split_id;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION,
    RANGE, RETRY_AFTER,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::Deserialize;

use super::progress::{ByteCounter, DownloadPhase, TICK};
use super::settings::HubSettings;
use crate::error::Error;

/// The longest total time that one request waits because the hub asks for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time between updates while waiting.
const SECOND: Duration = Duration::from_secs(1);
/// The most attempts for one request.
const TRIES: u32 = 4;
/// The longest time to establish a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// The longest time without any data on a connection.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest description of a repository in bytes; a hundred thousand files take a third of it.
const LONGEST: usize = 32 << 20;
/// The longest time to receive a description.
const SLOWEST: Duration = Duration::from_mins(2);
/// The most redirects within the hub.
const REDIRECTS: usize = 10;

/// An error in a request or download.
#[derive(Debug)]
pub enum RemoteError {
    /// The user stopped it.
    Stopped,
    /// No connection, or a broken one; `passing` tells whether an immediate retry may help.
    Lost { why: String, passing: bool },
    /// The hub refused the request.
    Refused {
        status: u16,
        /// The hub's own name for the situation, such as `GatedRepo`.
        code: String,
        /// The message of the error.
        message: String,
        /// Seconds to wait before a retry.
        after: Option<u64>,
    },
    /// The answer is not that of a hub.
    Odd(String),
    /// The received bytes are not the announced ones.
    Damaged { file: String, why: String },
    /// The cache cannot be written.
    Disk(PathBuf, std::io::Error),
    /// The disk has less space than needed.
    Full { needed: u64, free: u64 },
    /// An error that is a complete sentence already.
    Said(Error),
}

impl From<(PathBuf, std::io::Error)> for RemoteError {
    fn from((path, error): (PathBuf, std::io::Error)) -> Self {
        Self::Disk(path, error)
    }
}

impl From<Error> for RemoteError {
    fn from(error: Error) -> Self {
        if matches!(error, Error::Cancelled) {
            Self::Stopped
        } else {
            Self::Said(error)
        }
    }
}

impl From<reqwest::Error> for RemoteError {
    fn from(error: reqwest::Error) -> Self {
        // The innermost cause is the most informative: "Connection refused", "unexpected EOF".
        let mut inner: &dyn std::error::Error = &error;
        while let Some(source) = inner.source() {
            inner = source;
        }
        let why = if error.is_timeout() {
            "no data arrived for too long".to_string()
        } else {
            inner.to_string()
        };
        Self::Lost {
            why,
            passing: !error.is_timeout(),
        }
    }
}

impl RemoteError {
    /// How long to wait before a retry, if that may help.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "nothing else is worth another try"
    )]
    fn pause(&self, tries: u32) -> Option<Duration> {
        match self {
            Self::Refused {
                status: 429, after, ..
            } => Some(after.map_or(Duration::from_secs(1 << tries), Duration::from_secs)),
            Self::Refused {
                status: 408 | 500 | 502..=504,
                after,
                ..
            } => Some(after.map_or(Duration::from_millis(250 << tries), Duration::from_secs)),
            Self::Lost { passing: true, .. } if tries < 3 => {
                Some(Duration::from_millis(150 << tries))
            }
            _ => None,
        }
    }
}

/// The contents of a repository at a revision.
#[derive(Debug)]
pub struct Repo {
    pub commit: String,
    /// The names of its files.
    pub names: Vec<String>,
}

/// A file on the hub.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    /// Its name in the repository.
    pub name: String,
    /// The name of its blob.
    pub etag: String,
    /// Its length, if the hub reports it.
    pub size: Option<u64>,
}

/// The bytes of a file.
#[derive(Debug)]
pub enum RemoteBody {
    /// The bytes from the requested position on.
    Rest(Response),
    /// The whole file from its first byte, although a later position was requested.
    Whole(Response),
    /// The position is beyond the end.
    Beyond,
}

/// A connection to a hub, for one repository.
pub struct Remote {
    http: Client,
    heads: Client,
    endpoint: String,
    token: Option<String>,
    id: String,
}

impl Remote {
    pub fn open(settings: &HubSettings, id: &str) -> Result<Self, RemoteError> {
        let agent = concat!("lmscope/", env!("CARGO_PKG_VERSION"));
        let client = || {
            Client::builder()
                .user_agent(agent)
                .connect_timeout(CONNECT)
                .read_timeout(SILENCE)
        };
        let http = client().build()?;
        let heads = client().redirect(redirect::Policy::none()).build()?;
        Ok(Self {
            http,
            heads,
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            id: id.to_string(),
        })
    }

    /// The contents of the repository at a revision.
    pub async fn repository(
        &self,
        meter: &mut ByteCounter<'_, '_>,
        revision: &str,
    ) -> Result<Repo, RemoteError> {
        let (owner, name) = split_id(&self.id);
        let whole = self.url(&["api", "models", owner, name])?;
        let mut at = whole.clone();
        append(&mut at, &["revision", revision])?;
        let asked = persist(meter, async || {
            let found = self.description(&at).await?;
            let commit = found
                .sha
                .ok_or_else(|| RemoteError::Odd("it names no commit".into()))?;
            Ok(Repo {
                commit,
                names: found.siblings.into_iter().map(|s| s.rfilename).collect(),
            })
        })
        .await;
        match asked {
            // The answer does not name what is missing: repository or revision?
            Err(RemoteError::Refused {
                status: 404,
                code,
                message,
                after,
            }) if code.is_empty() => {
                let there = persist(meter, async || self.description(&whole).await).await;
                let code = match there {
                    Ok(_) => "RevisionNotFound",
                    Err(RemoteError::Stopped) => return Err(RemoteError::Stopped),
                    Err(_) => "RepoNotFound",
                };
                Err(RemoteError::Refused {
                    status: 404,
                    code: code.into(),
                    message,
                    after,
                })
            }
            other => other,
        }
    }

    /// The hub's description of a repository, up to a reasonable length. For a compressed answer the uncompressed length
    /// counts.
    async fn description(&self, url: &Url) -> Result<Description, RemoteError> {
        let until = Instant::now() + SLOWEST;
        let mut answer = checked(self.signed(self.http.get(url.clone())).send().await?)?;
        let mut bytes = Vec::new();
        loop {
            let chunk = match answer.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(e) if e.is_decode() => {
                    return Err(RemoteError::Odd(
                        "its description of the repository is damaged".into(),
                    ));
                }
                Err(e) => return Err(e.into()),
            };
            if bytes.len() + chunk.len() > LONGEST || Instant::now() > until {
                return Err(RemoteError::Odd(
                    "its description of the repository does not end".into(),
                ));
            }
            bytes.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&bytes).map_err(|e| {
            RemoteError::Odd(format!(
                "its description of the repository is not JSON ({e})"
            ))
        })
    }

    /// The name and length of a file, as the hub reports them rather than the storage host to which it redirects.
    pub async fn describe(
        &self,
        meter: &mut ByteCounter<'_, '_>,
        commit: &str,
        name: &str,
    ) -> Result<RemoteFile, RemoteError> {
        let start = self.file(commit, name)?;
        persist(meter, async || {
            let mut url = start.clone();
            for _ in 0..REDIRECTS {
                let mut request = self
                    .heads
                    .head(url.clone())
                    .header(ACCEPT_ENCODING, "identity");
                if url.origin() == start.origin() {
                    request = self.signed(request);
                }
                let answer = request.send().await?;
                let headers = answer.headers().clone();
                let etag =
                    header(&headers, "x-linked-etag").or_else(|| header(&headers, ETAG.as_str()));
                if answer.status().is_redirection() {
                    let next = header(&headers, LOCATION.as_str()).and_then(|l| url.join(&l).ok());
                    let next = next.ok_or_else(|| {
                        RemoteError::Odd(format!("a redirect of {name} without a target"))
                    })?;
                    // A renamed repository redirects within the hub, and only the last answer describes the file.
                    if next.origin() == url.origin() || etag.is_none() {
                        url = next;
                        continue;
                    }
                } else {
                    checked(answer)?;
                }
                let etag = etag.as_deref().and_then(blob_name);
                let etag =
                    etag.ok_or_else(|| RemoteError::Odd(format!("no usable ETag for {name}")))?;
                let size = header(&headers, "x-linked-size")
                    .or_else(|| header(&headers, CONTENT_LENGTH.as_str()));
                return Ok(RemoteFile {
                    name: name.to_string(),
                    etag,
                    size: size.and_then(|s| s.parse().ok()),
                });
            }
            Err(RemoteError::Odd(format!(
                "more than {REDIRECTS} redirects of {name}"
            )))
        })
        .await
    }

    /// The bytes of a file from a position on.
    pub async fn bytes(
        &self,
        meter: &mut ByteCounter<'_, '_>,
        commit: &str,
        name: &str,
        from: u64,
    ) -> Result<RemoteBody, RemoteError> {
        let url = self.file(commit, name)?;
        let send = async || {
            let mut request = self
                .signed(self.http.get(url.clone()))
                .header(ACCEPT_ENCODING, "identity");
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let answer = request.send().await?;
            match answer.status() {
                StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => return Ok(RemoteBody::Beyond),
                StatusCode::PARTIAL_CONTENT if from > 0 => {
                    let range =
                        header(answer.headers(), CONTENT_RANGE.as_str()).unwrap_or_default();
                    return if range.starts_with(&format!("bytes {from}-")) {
                        Ok(RemoteBody::Rest(answer))
                    } else {
                        Err(RemoteError::Odd(format!(
                            "asked for {name} from byte {from}, and got {range:?}"
                        )))
                    };
                }
                _ => {}
            }
            checked(answer).map(RemoteBody::Whole)
        };
        persist(meter, send).await
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    fn file(&self, commit: &str, name: &str) -> Result<Url, RemoteError> {
        let parts: Vec<&str> = self
            .id
            .split('/')
            .chain(["resolve", commit])
            .chain(name.split('/'))
            .collect();
        self.url(&parts)
    }

    fn url(&self, parts: &[&str]) -> Result<Url, RemoteError> {
        let mut url = Url::parse(&self.endpoint).map_err(|e| RemoteError::Odd(e.to_string()))?;
        append(&mut url, parts)?;
        Ok(url)
    }
}

/// Appends parts to a path, each encoded as one segment.
fn append(url: &mut Url, parts: &[&str]) -> Result<(), RemoteError> {
    let mut path = url
        .path_segments_mut()
        .map_err(|()| RemoteError::Odd("its address has no path".into()))?;
    path.pop_if_empty().extend(parts);
    Ok(())
}

/// The relevant fields of a repository's description; others are ignored.
#[derive(Deserialize)]
struct Description {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<RepositoryFile>,
}

#[derive(Deserialize)]
struct RepositoryFile {
    rfilename: String,
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_string())
}

/// The blob's name in an ETag, without quotes and the prefix of weak ones.
fn blob_name(etag: &str) -> Option<String> {
    let name = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = (1..=200).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain);
    good.then(|| name.to_string())
}

/// The answer if it is a success, else the hub's error.
fn checked(answer: Response) -> Result<Response, RemoteError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let word = |name: &str| header(answer.headers(), name);
    let (code, message) = (word("x-error-code"), word("x-error-message"));
    // The hub's own header: `RateLimit: "resolvers";r=0;t=55`.
    let limit = word("ratelimit");
    let until = limit
        .as_deref()
        .and_then(|l| l.split(';').find_map(|p| p.trim().strip_prefix("t=")));
    let after = word(RETRY_AFTER.as_str());
    let after = after.as_deref().or(until).and_then(|s| s.parse().ok());
    Err(RemoteError::Refused {
        status: status.as_u16(),
        code: code.unwrap_or_default(),
        message: message.unwrap_or_default(),
        after,
    })
}

/// Repeats a request until there is an answer, the time limit is reached, or a retry would not help.
async fn persist<T>(
    meter: &mut ByteCounter<'_, '_>,
    ask: impl AsyncFn() -> Result<T, RemoteError>,
) -> Result<T, RemoteError> {
    let mut waited = Duration::ZERO;
    let mut tries = 0;
    loop {
        let trouble = match attend(meter, ask()).await? {
            Ok(answer) => return Ok(answer),
            Err(trouble) => trouble,
        };
        tries += 1;
        let pause = trouble
            .pause(tries)
            .filter(|p| tries < TRIES && waited + *p <= PATIENCE);
        let Some(pause) = pause else {
            return Err(trouble);
        };
        tracing::info!("trying again in {pause:?}: {trouble:?}");
        waited += pause;
        let phase = meter.now.phase;
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if matches!(trouble, RemoteError::Refused { status: 429, .. }) {
                meter.phase(DownloadPhase::Waiting(left.as_secs_f64().ceil() as u64));
            }
            attend(meter, tokio::time::sleep(left.min(SECOND))).await?;
        }
        meter.phase(phase);
    }
}

/// Waits for a future; returns early if the user asks to stop.
pub async fn attend<T>(
    meter: &mut ByteCounter<'_, '_>,
    work: impl Future<Output = T>,
) -> Result<T, RemoteError> {
    let mut work = std::pin::pin!(work);
    loop {
        meter.check()?;
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(TICK) => meter.tick(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn etags_become_names_or_nothing() {
        assert_eq!(blob_name("\"abc123\"").as_deref(), Some("abc123"));
        assert_eq!(blob_name("W/\"a-b\"").as_deref(), Some("a-b"));
        for bad in ["", "\"\"", "../x", "a/b", ".hidden", "a b"] {
            assert_eq!(blob_name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let refused = |status, after| RemoteError::Refused {
            status,
            code: String::new(),
            message: String::new(),
            after,
        };
        assert_eq!(refused(429, Some(7)).pause(1), Some(Duration::from_secs(7)));
        assert_eq!(refused(429, None).pause(1), Some(Duration::from_secs(2)));
        assert!(refused(503, None).pause(1).is_some());
        for status in [400, 401, 403, 404, 416] {
            assert_eq!(refused(status, None).pause(1), None, "{status}");
        }
    }

    #[test]
    fn addresses_are_encoded_by_segment() {
        let mut url = Url::parse("http://h/hub/").unwrap();
        append(&mut url, &["a", "b", "resolve", "refs/pr/1", "x y.json"]).unwrap();
        assert_eq!(
            url.as_str(),
            "http://h/hub/a/b/resolve/refs%2Fpr%2F1/x%20y.json"
        );
    }
}
