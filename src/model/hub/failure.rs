//! Errors of the hub, as sentences that end in the next step.
//!
//! Invariant: the sentence on an interrupted download says what is kept; a server's words are shortened and made safe. To
//! distinguish a situation, add an arm in [`sentence`].

use std::io::ErrorKind;
use std::path::Path;

use super::Reference;
use super::cache::Repository;
use super::progress::Progress;
use super::remote::RemoteError;
use super::settings::HubSettings;
use crate::error::Error;
use crate::text;

/// The page where access tokens are created.
const TOKENS: &str = "https://huggingface.co/settings/tokens";

/// The error for a model that is not in the cache while the network is forbidden.
pub fn offline(
    reference: &Reference,
    settings: &HubSettings,
    repository: &Repository,
    variable: &str,
) -> Error {
    let (id, cache, command) = (&reference.id, settings.cache.display(), reference.by_hand());
    let what = match repository.lacks(reference) {
        Some(part) => format!(
            "`{id}` is only partly in the cache {cache} ({part} is missing), and {variable} forbids downloading the rest"
        ),
        None => format!(
            "`{id}` is neither a folder here nor in the cache {cache}, and {variable} forbids downloading it"
        ),
    };
    Error::Hub {
        what,
        next: format!("Unset {variable}, or fetch it with the same HF_HOME: `{command}`."),
    }
}

/// The error sentence, with what is kept of the download.
pub fn sentence(
    trouble: RemoteError,
    reference: &Reference,
    settings: &HubSettings,
    now: &Progress,
) -> Error {
    let (id, endpoint, cache) = (&reference.id, &settings.endpoint, settings.cache.display());
    let command = reference.by_hand();
    let kept = if now.done == 0 {
        String::new()
    } else {
        format!("; {} are in the cache", now.amount())
    };
    let (what, next) = match trouble {
        RemoteError::Said(error) => return error,
        RemoteError::Stopped => {
            return Error::DownloadStopped(if now.done == 0 {
                format!("Stopped before anything of `{id}` was there")
            } else {
                format!("Stopped{kept}")
            });
        }
        RemoteError::Lost { why, .. } if now.done == 0 => (
            format!(
                "`{id}` is not in the cache, and {endpoint} cannot be reached ({})",
                short(&why)
            ),
            format!(
                "Check the network, the proxy and HF_ENDPOINT, or fetch it elsewhere: `{command}`."
            ),
        ),
        RemoteError::Lost { why, .. } => (
            format!(
                "The connection to {endpoint} was lost ({}){kept}",
                short(&why)
            ),
            "Run the same command again: it goes on from there.".into(),
        ),
        RemoteError::Refused {
            status,
            code,
            message,
            after,
        } => refused(status, &code, &message, after, reference, settings, &kept),
        RemoteError::Odd(why) => (
            format!(
                "{endpoint} does not answer as a model hub does: {}",
                short(&why)
            ),
            "Check HF_ENDPOINT, or try again later.".into(),
        ),
        RemoteError::Damaged { file, why } => (
            format!("{file} of `{id}` arrived damaged ({why}), and was thrown away{kept}"),
            format!("Run the same command again; if it happens again, fetch it with `{command}`."),
        ),
        RemoteError::Full { needed, free } => full(&settings.cache, Some((needed, free)), &kept),
        RemoteError::Disk(_, error)
            if [ErrorKind::StorageFull, ErrorKind::QuotaExceeded].contains(&error.kind()) =>
        {
            let missing = now.total.saturating_sub(now.done);
            let needed = (missing > 0).then_some((missing, 0));
            full(&settings.cache, needed, &kept)
        }
        RemoteError::Disk(path, error) => (
            format!(
                "The cache cannot be written at {} ({error}){kept}",
                path.display()
            ),
            format!(
                "Make sure that you may write to {cache}, or set HF_HUB_CACHE to a folder where you may."
            ),
        ),
    };
    Error::Hub { what, next }
}

fn full(cache: &Path, needed: Option<(u64, u64)>, kept: &str) -> (String, String) {
    let what = match needed {
        Some((needed, free)) => format!(
            "The disk of {} is too full: {} are needed and {} are free{kept}",
            cache.display(),
            text::size(needed),
            text::size(free),
        ),
        None => format!("The disk of {} is full{kept}", cache.display()),
    };
    (
        what,
        "Make room (`hf cache delete` removes models), or set HF_HUB_CACHE to a folder on a larger disk; the same command goes on.".into(),
    )
}

fn refused(
    status: u16,
    code: &str,
    message: &str,
    after: Option<u64>,
    reference: &Reference,
    settings: &HubSettings,
    kept: &str,
) -> (String, String) {
    let (id, revision) = (&reference.id, &reference.revision);
    let (page, endpoint) = (settings.page(id), &settings.endpoint);
    let signed = settings.token.is_some();
    let bad_token = message.contains("credentials") || message.contains("token");
    match (status, code) {
        (404, "RevisionNotFound") => (
            format!("`{id}` has no revision `{revision}`"),
            format!(
                "{page}/tree/main lists its branches and tags; without @{revision} the newest is taken."
            ),
        ),
        (404, "EntryNotFound") => (
            format!("The hub lists a file of `{id}` that it does not have"),
            format!("Look at {page}/tree/{revision}, and try again later."),
        ),
        (_, "GatedRepo") | (403, "") if signed => (
            format!("`{id}` is gated, and the account of your token may not read it"),
            format!(
                "Accept the terms at {page} with that account, wait for the approval where there is one, and run this again."
            ),
        ),
        (_, "GatedRepo") => (
            format!("`{id}` is gated: its owners want to know who uses it"),
            format!(
                "Accept the terms at {page}, make a token at {TOKENS}, and set HF_TOKEN to it or run `hf auth login`."
            ),
        ),
        (401, _) if signed && (bad_token || code.is_empty()) => (
            "The hub does not accept your token".into(),
            format!(
                "Set HF_TOKEN to a valid one from {TOKENS} (or `hf auth login`); public models need none."
            ),
        ),
        (404, _) | (401, "RepoNotFound") => (
            format!("There is neither a folder `{id}` here nor a model of that name at {endpoint}"),
            if signed {
                format!(
                    "Check the spelling; a private model needs a token of somebody who may read it, see {TOKENS}."
                )
            } else {
                "Check the spelling; a private model needs HF_TOKEN.".into()
            },
        ),
        (401 | 403, _) => (
            format!(
                "`{id}` is gated or private, and the hub does not show it to {} ({status})",
                if signed { "your account" } else { "strangers" }
            ),
            format!(
                "Accept the terms at {page}, and set HF_TOKEN to a token of an account that may read it, from {TOKENS}."
            ),
        ),
        (429, _) => (
            match after {
                Some(after) => format!(
                    "The hub limits how often it is asked (429) and asks for a pause of {after} s{kept}"
                ),
                None => format!("The hub limits how often it is asked (429){kept}"),
            },
            format!(
                "Run the same command again {}: it goes on from there.{}",
                after.map_or("in a few minutes".into(), |a| format!("in {a} s")),
                if signed {
                    ""
                } else {
                    " With HF_TOKEN set, the limit is higher."
                }
            ),
        ),
        (500.., _) => (
            format!("The hub at {endpoint} has trouble ({status}){kept}"),
            "Run the same command again in a few minutes: it goes on from there.".into(),
        ),
        (_, _) => (
            format!(
                "{endpoint} refused `{id}` with status {status} {}{kept}",
                short(message)
            ),
            format!("Look at {page}, and check HF_ENDPOINT and the token."),
        ),
    }
}

/// A server's or library's words, shortened and made safe.
fn short(words: &str) -> String {
    let first = words.lines().next().unwrap_or_default().trim();
    text::fit(&text::plain(first.as_bytes()), 120)
        .trim_end()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fills_up_is_said_with_what_is_missing() {
        let reference = Reference {
            id: "a/b".into(),
            revision: "main".into(),
            file: None,
        };
        let settings = HubSettings {
            cache: "/cache".into(),
            endpoint: "https://h".into(),
            token: None,
            offline: None,
        };
        let now = Progress {
            done: 1 << 20,
            total: 42 << 20,
            ..Progress::of("a/b")
        };
        let full = RemoteError::Disk("/cache/x".into(), ErrorKind::StorageFull.into());
        let said = sentence(full, &reference, &settings, &now).to_string();
        for word in ["too full", "41.0 MiB", "HF_HUB_CACHE", "/cache"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}
