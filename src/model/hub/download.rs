//! Downloads: the order of requests, and receiving a file.
//!
//! Invariant: bytes are written to `blobs/<etag>.incomplete`, where a later download, ours or Python's, resumes; the blob gets
//! its final name if its length is right and, if its name is a SHA-256, its content too. To check more of a file, add it to
//! `PartialFile::finish`.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::cache::Repository;
use super::progress::{ByteCounter, DownloadPhase, DownloadWatch};
use super::remote::{Remote, RemoteBody, RemoteError, RemoteFile, attend};
use super::settings::HubSettings;
use super::{ModelSource, Reference, failure, files};
use crate::error::{Error, Result};
use crate::file;
use crate::model::network::families;

/// A connection that carried at least this many bytes before it broke is made again, so that long downloads survive. If it
/// broke sooner, the download ends with an error, because the next connection would likely break as well.
const WORTHWHILE: u64 = 16 << 20;

/// The file that decides whether the others are needed.
const CONFIG: &str = "config.json";

/// The time between attempts to lock a file that another process holds.
const QUEUE: Duration = Duration::from_millis(300);

/// The space that is left free on the disk, in bytes.
const SPARE: u64 = 1 << 20;

/// Downloads the missing files of a reference, and returns its source.
pub fn fetch(
    given: &str,
    reference: &Reference,
    settings: &HubSettings,
    repository: &Repository,
    watch: &mut DownloadWatch<'_>,
) -> Result<ModelSource> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("the network", e))?;
    let mut meter = ByteCounter::new(given, watch);
    let outcome = runtime.block_on(Box::pin(run(reference, settings, repository, &mut meter)));
    // Does not wait for pending name lookups or servers.
    runtime.shutdown_background();
    outcome.map_err(|trouble| failure::sentence(trouble, reference, settings, &meter.now))
}

/// Downloads the missing files of a part, of all files of the repository those that `choose` names; the folder of the snapshot.
pub fn fetch_part(
    reference: &Reference,
    settings: &HubSettings,
    repository: &Repository,
    choose: &dyn Fn(&[String]) -> Result<Vec<String>>,
    watch: &mut DownloadWatch<'_>,
) -> Result<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("the network", e))?;
    let mut meter = ByteCounter::new(&reference.id, watch);
    let work = part(reference, settings, repository, choose, &mut meter);
    let outcome = runtime.block_on(Box::pin(work));
    runtime.shutdown_background();
    outcome.map_err(|trouble| failure::sentence(trouble, reference, settings, &meter.now))
}

async fn part(
    reference: &Reference,
    settings: &HubSettings,
    repository: &Repository,
    choose: &dyn Fn(&[String]) -> Result<Vec<String>>,
    meter: &mut ByteCounter<'_, '_>,
) -> Result<PathBuf, RemoteError> {
    let remote = Remote::open(settings, &reference.id)?;
    let found = remote.repository(meter, &reference.revision).await?;
    let commit = found.commit;
    if !files::is_safe(&commit) || commit.contains('/') {
        return Err(RemoteError::Odd("its commit is not a commit id".into()));
    }
    let names = choose(&found.names)?;
    if let Some(name) = names.iter().find(|name| !files::is_safe(name)) {
        let name = crate::text::visible(name.as_bytes());
        return Err(RemoteError::Odd(format!("it lists a file `{name}`")));
    }
    repository.prepare(&commit)?;
    repository.note(&reference.revision, &commit)?;
    meter.phase(DownloadPhase::Asking);
    let (items, present) = plan(&remote, repository, &commit, &names, meter).await?;
    room(&settings.cache, &items)?;
    meter.now.files = names.len();
    meter.now.number = present;
    for item in &items {
        meter.file(&item.meta.name);
        file(&remote, repository, &commit, item, meter).await?;
    }
    Ok(repository.snapshot(&commit))
}

/// A file to fetch, with the number of bytes that existed when it was planned.
struct FileToFetch {
    meta: RemoteFile,
    present: u64,
}

async fn run(
    reference: &Reference,
    settings: &HubSettings,
    repository: &Repository,
    meter: &mut ByteCounter<'_, '_>,
) -> Result<ModelSource, RemoteError> {
    let remote = Remote::open(settings, &reference.id)?;
    let found = remote.repository(meter, &reference.revision).await?;
    let commit = found.commit;
    if !files::is_safe(&commit) || commit.contains('/') {
        return Err(RemoteError::Odd("its commit is not a commit id".into()));
    }
    if reference.file.is_none() && files::is_adapter(&found.names) {
        return Err(adapter(&remote, reference, repository, &commit, meter)
            .await?
            .into());
    }
    let mut names = files::choose(reference, &found.names)?;
    repository.prepare(&commit)?;
    repository.note(&reference.revision, &commit)?;
    let snapshot = repository.snapshot(&commit);
    if let Some(index) = names.last().filter(|n| files::is_index(n)).cloned() {
        if !snapshot.join(&index).is_file() {
            let meta = remote.describe(meter, &commit, &index).await?;
            check_plausible_size(&meta)?;
            let item = FileToFetch { meta, present: 0 };
            file(&remote, repository, &commit, &item, meter).await?;
        }
        names.extend(files::shards(&snapshot.join(&index))?);
    }
    meter.phase(DownloadPhase::Asking);
    let (items, present) = plan(&remote, repository, &commit, &names, meter).await?;
    room(&settings.cache, &items)?;
    meter.now.files = names.len();
    meter.now.number = present;
    served(&snapshot)?;
    for item in &items {
        meter.file(&item.meta.name);
        file(&remote, repository, &commit, item, meter).await?;
        if item.meta.name == CONFIG {
            served(&snapshot)?;
        }
    }
    repository
        .find(&Reference {
            revision: commit,
            ..reference.clone()
        })
        .ok_or_else(|| {
            RemoteError::Odd(format!("the files of {} do not make a model", reference.id))
        })
}

/// The error for a repository that contains only an adapter; its configuration is fetched, because it names the base model.
async fn adapter(
    remote: &Remote,
    reference: &Reference,
    repository: &Repository,
    commit: &str,
    meter: &mut ByteCounter<'_, '_>,
) -> Result<Error, RemoteError> {
    repository.prepare(commit)?;
    let path = repository.snapshot(commit).join(files::ADAPTER);
    if !path.is_file() {
        let meta = remote.describe(meter, commit, files::ADAPTER).await?;
        let item = FileToFetch { meta, present: 0 };
        file(remote, repository, commit, &item, meter).await?;
    }
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let config = serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::Null);
    let (what, next) = crate::model::checkpoint::folder::adapter(&config);
    Ok(Error::Hub {
        what: format!("`{}` is {what}", reference.id),
        next: format!("{next}."),
    })
}

/// Refuses a model that no family supports as soon as its configuration is downloaded, before the weights are.
fn served(snapshot: &Path) -> Result<(), RemoteError> {
    let path = snapshot.join(CONFIG);
    let Some(bytes) = file::read_if_there(&path, file::SMALL)? else {
        return Ok(());
    };
    let config = serde_json::from_slice(&bytes).map_err(|e| {
        let next = "The file is like this on the hub; tell the model's owners.";
        Error::bad_file(&path, e.to_string(), next)
    })?;
    Ok(families::read(&config).map(drop)?)
}

/// Requests the name and length of every file that the snapshot lacks; counts those that exist.
async fn plan(
    remote: &Remote,
    repository: &Repository,
    commit: &str,
    names: &[String],
    meter: &mut ByteCounter<'_, '_>,
) -> Result<(Vec<FileToFetch>, usize), RemoteError> {
    let length = |path: &Path| std::fs::metadata(path).map(|m| m.len()).ok();
    let (mut items, mut present, mut total, mut before) = (Vec::new(), 0, 0, 0);
    for name in names {
        if let Some(size) = length(&repository.snapshot(commit).join(name)) {
            present += 1;
            total += size;
            before += size;
            continue;
        }
        let meta = remote.describe(meter, commit, name).await?;
        check_plausible_size(&meta)?;
        let there = length(&repository.blob(&meta.etag))
            .or_else(|| length(&repository.incomplete(&meta.etag)))
            .unwrap_or(0);
        // A partial file longer than the file is useless.
        let fits = meta.size.is_none_or(|s| there <= s);
        let there = if fits { there } else { 0 };
        total += meta.size.unwrap_or(there);
        before += there;
        items.push(FileToFetch {
            meta,
            present: there,
        });
    }
    meter.now.total = total;
    meter.now.done = 0;
    meter.now.before = 0;
    meter.reuse(before);
    Ok((items, present))
}

/// Refuses a small file whose announced size is large.
fn check_plausible_size(meta: &RemoteFile) -> Result<(), RemoteError> {
    let size = meta.size.unwrap_or(0);
    if files::is_weights(&meta.name) || size <= file::SMALL {
        return Ok(());
    }
    let size = crate::text::size(size);
    Err(RemoteError::Odd(format!(
        "{} is a small file, but the hub announces {size} for it",
        meta.name
    )))
}

/// Refuses if the disk has no room for the missing files.
fn room(cache: &Path, items: &[FileToFetch]) -> Result<(), RemoteError> {
    let missing = |i: &FileToFetch| i.meta.size.unwrap_or(0).saturating_sub(i.present);
    let needed: u64 = items.iter().map(missing).sum();
    // If the file system does not report its space, assume that there is enough.
    let Ok(disk) = rustix::fs::statvfs(cache) else {
        return Ok(());
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed > 0 && free < needed.saturating_add(SPARE) {
        return Err(RemoteError::Full { needed, free });
    }
    Ok(())
}

/// Downloads one file into the cache and links it.
async fn file(
    remote: &Remote,
    repository: &Repository,
    commit: &str,
    item: &FileToFetch,
    meter: &mut ByteCounter<'_, '_>,
) -> Result<(), RemoteError> {
    let meta = &item.meta;
    let _held = queue(repository, meta, meter).await?;
    let mut counted = item.present;
    if !repository.blob(&meta.etag).is_file() {
        let mut afresh = false;
        loop {
            let mut rest = PartialFile::open(repository, meta, meter, &mut counted).await?;
            let began = rest.length;
            match rest.receive(remote, commit, meter, &mut counted).await {
                Ok(()) => {}
                // The bytes of the earlier download may be wrong, so download once more from the first byte.
                Err(RemoteError::Damaged { .. }) if began > 0 && !afresh => {
                    afresh = true;
                    continue;
                }
                Err(other) => return Err(other),
            }
            break;
        }
    } else if let Some(size) = meta.size {
        // Another process has completed the file in the meantime.
        meter.reuse(size.saturating_sub(counted));
    }
    Ok(repository.link(commit, &meta.name, &meta.etag)?)
}

/// Waits until no other process downloads the file. If files cannot be locked, does not wait.
async fn queue(
    repository: &Repository,
    meta: &RemoteFile,
    meter: &mut ByteCounter<'_, '_>,
) -> Result<Option<File>, RemoteError> {
    let Ok(lock) = repository.lock(&meta.etag) else {
        return Ok(None);
    };
    loop {
        match lock.try_lock() {
            Ok(()) => {
                meter.phase(DownloadPhase::Downloading);
                return Ok(Some(lock));
            }
            Err(TryLockError::WouldBlock) => {
                meter.phase(DownloadPhase::Queued);
                attend(meter, tokio::time::sleep(QUEUE)).await?;
            }
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
}

/// A file that is being received.
struct PartialFile<'a> {
    meta: &'a RemoteFile,
    path: PathBuf,
    blob: PathBuf,
    file: File,
    length: u64,
    /// The running SHA-256 of the received bytes, if the blob is named after its SHA-256.
    digest: Option<Sha256>,
}

impl<'a> PartialFile<'a> {
    /// Opens a partial file, and reads its bytes for the digest.
    async fn open(
        repository: &Repository,
        meta: &'a RemoteFile,
        meter: &mut ByteCounter<'_, '_>,
        counted: &mut u64,
    ) -> Result<Self, RemoteError> {
        let path = repository.incomplete(&meta.etag);
        // In a shared cache somebody may have created a link there, whose target must not be written.
        if path.is_symlink() {
            std::fs::remove_file(&path).map_err(|e| (path.clone(), e))?;
        }
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(|e| (path.clone(), e))?;
        let length = file.metadata().map_err(|e| (path.clone(), e))?.len();
        let named = meta.etag.len() == 64 && meta.etag.bytes().all(|b| b.is_ascii_hexdigit());
        let mut out = Self {
            meta,
            blob: repository.blob(&meta.etag),
            path,
            file,
            length,
            digest: named.then(Sha256::new),
        };
        if meta.size.is_some_and(|size| length > size) {
            out.empty(meter, counted)?;
        }
        // Another process may have continued the file since it was counted.
        if out.length > *counted {
            meter.reuse(out.length - *counted);
        } else {
            meter.discard(*counted - out.length);
        }
        *counted = out.length;
        out.read_again(meter).await?;
        Ok(out)
    }

    async fn read_again(&mut self, meter: &mut ByteCounter<'_, '_>) -> Result<(), RemoteError> {
        let Some(digest) = self.digest.as_mut().filter(|_| self.length > 0) else {
            return Ok(());
        };
        meter.phase(DownloadPhase::Checking);
        let fail = |e| (self.path.clone(), e);
        self.file.seek(SeekFrom::Start(0)).map_err(fail)?;
        let mut buffer = vec![0u8; 1 << 20];
        loop {
            // So that cancelling is noticed.
            attend(meter, tokio::task::yield_now()).await?;
            match self.file.read(&mut buffer).map_err(fail)? {
                0 => break,
                n => digest.update(&buffer[..n]),
            }
        }
        meter.phase(DownloadPhase::Downloading);
        Ok(())
    }

    /// Drops the received bytes.
    fn empty(
        &mut self,
        meter: &mut ByteCounter<'_, '_>,
        counted: &mut u64,
    ) -> Result<(), RemoteError> {
        if self.length > 0 {
            self.file.set_len(0).map_err(|e| (self.path.clone(), e))?;
        }
        meter.discard(*counted);
        *counted = 0;
        self.length = 0;
        self.digest = self.digest.take().map(|_| Sha256::new());
        Ok(())
    }

    /// Fetches the missing bytes, and gives the blob its final name.
    async fn receive(
        &mut self,
        remote: &Remote,
        commit: &str,
        meter: &mut ByteCounter<'_, '_>,
        counted: &mut u64,
    ) -> Result<(), RemoteError> {
        while self.meta.size != Some(self.length) {
            let from = self.length;
            let body = remote.bytes(meter, commit, &self.meta.name, from).await?;
            meter.phase(DownloadPhase::Downloading);
            let mut response = match body {
                RemoteBody::Rest(response) => response,
                RemoteBody::Whole(response) => {
                    self.empty(meter, counted)?;
                    response
                }
                RemoteBody::Beyond => {
                    self.empty(meter, counted)?;
                    continue;
                }
            };
            let from = self.length;
            let broken = loop {
                match attend(meter, response.chunk()).await? {
                    Ok(Some(chunk)) => self.take(&chunk, meter, counted)?,
                    Ok(None) => break None,
                    Err(e) => break Some(RemoteError::from(e)),
                }
            };
            let broken = match (broken, self.meta.size) {
                (None, None) => break,
                (None, Some(size)) if size == self.length => break,
                (None, Some(_)) => RemoteError::Lost {
                    why: "the answer ended too early".into(),
                    passing: true,
                },
                (Some(broken), _) => broken,
            };
            if self.length - from < WORTHWHILE {
                return Err(broken);
            }
            tracing::info!("going on with {} from byte {}", self.meta.name, self.length);
        }
        self.finish(meter, counted)
    }

    fn take(
        &mut self,
        chunk: &[u8],
        meter: &mut ByteCounter<'_, '_>,
        counted: &mut u64,
    ) -> Result<(), RemoteError> {
        let length = self.length + chunk.len() as u64;
        if self.meta.size.is_some_and(|size| length > size) {
            return self.damaged("it is longer than announced", meter, counted);
        }
        if !files::is_weights(&self.meta.name) && length > file::SMALL {
            return self.damaged("it does not end", meter, counted);
        }
        self.file
            .write_all(chunk)
            .map_err(|e| (self.path.clone(), e))?;
        if let Some(digest) = &mut self.digest {
            digest.update(chunk);
        }
        self.length = length;
        *counted = length;
        meter.add(chunk.len() as u64);
        Ok(())
    }

    fn finish(
        &mut self,
        meter: &mut ByteCounter<'_, '_>,
        counted: &mut u64,
    ) -> Result<(), RemoteError> {
        if let Some(digest) = self.digest.take() {
            let found = crate::text::hexadecimal(&digest.finalize());
            if !found.eq_ignore_ascii_case(&self.meta.etag) {
                let why = "its SHA-256 is not the one that was announced";
                return self.damaged(why, meter, counted);
            }
        }
        std::fs::rename(&self.path, &self.blob)
            .map_err(|e| RemoteError::from((self.blob.clone(), e)))
    }

    fn damaged(
        &mut self,
        why: &str,
        meter: &mut ByteCounter<'_, '_>,
        counted: &mut u64,
    ) -> Result<(), RemoteError> {
        self.empty(meter, counted)?;
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err((self.path.clone(), e).into()),
            _ => {}
        }
        Err(RemoteError::Damaged {
            file: self.meta.name.clone(),
            why: why.to_string(),
        })
    }
}
