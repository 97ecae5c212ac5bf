//! Files: written completely or not at all, under a free name or with consent to overwrite, and read up to a size limit.
//!
//! Invariant: a file has its old content or its new one, never a part; nothing is written through a symbolic link; of two
//! writers of a free name one succeeds and the other gets an error. Pipes and devices that the user names are written directly.
//! To write another kind of file, make its bytes and call [`write()`].

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::error::{Error, Result};

/// The longest text file that is read, in bytes: a list, a preset, a theme, keys, a template.
pub const WORDS: u64 = 64 << 20;

/// The longest small file of a model, in bytes: configuration, tokenizer, templates, index.
pub const SMALL: u64 = 512 << 20;

/// The longest file of numbers that is read as a whole, in bytes: directions, statistics, maps.
pub const NUMBERS: u64 = 16 << 30;

/// How long to wait for a reader of a pipe.
const READER: Duration = Duration::from_secs(5);

/// The mode of private files.
const PRIVATE: u32 = 0o600;

/// Whether an existing file may be replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// An existing file is an error.
    #[default]
    Never,
    /// The user has agreed (`--force`).
    Allowed,
}

/// Refuses a path that [`write()`] would refuse; to be called before long work.
///
/// # Errors
///
/// When the file exists and must not be replaced, or when the path is a link, a folder, or not a file name.
pub fn check(path: &Path, overwrite: Overwrite) -> Result<()> {
    if path.file_name().is_none() {
        let given = path.display().to_string();
        return Err(Error::argument("file", given, "a file name"));
    }
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let refuse = |what: &str, next: &str| Err(Error::bad_file(path, what, next));
    let kind = found.file_type();
    if is_stream(path) || is_endless(&found) {
        Ok(())
    } else if kind.is_dir() {
        refuse("it is a folder", "Name a file in it.")
    } else if overwrite == Overwrite::Allowed && (kind.is_file() || kind.is_symlink()) {
        Ok(())
    } else if kind.is_symlink() {
        refuse(
            "it is a link, and nothing is written through a link",
            "Name the file itself, or choose another name; on the command line --force replaces the link.",
        )
    } else if kind.is_file() {
        refuse(
            "this name is taken, and nothing was overwritten",
            "Choose another name; on the command line --force replaces the file.",
        )
    } else {
        refuse("it is not a file", "Choose another name.")
    }
}

/// Writes a file completely or not at all: first to a temporary file in the same folder, which is then renamed.
///
/// # Errors
///
/// Those of [`check`], and errors of the file system; nothing has changed then.
pub fn write(path: &Path, bytes: &[u8], overwrite: Overwrite) -> Result<()> {
    place(path, bytes, overwrite, None)
}

/// As [`write()`], with a file that only the user can read.
///
/// # Errors
///
/// As [`write()`].
pub fn write_private(path: &Path, bytes: &[u8], overwrite: Overwrite) -> Result<()> {
    place(path, bytes, overwrite, Some(PRIVATE))
}

/// Writes files that belong together: all of them are on the disk before the first one is renamed.
///
/// # Errors
///
/// As [`write()`].
pub fn write_together(files: &[(PathBuf, Vec<u8>)], overwrite: Overwrite) -> Result<()> {
    for (path, _) in files {
        check(path, overwrite)?;
    }
    let ready: Vec<Option<UnfinishedFile>> = files
        .iter()
        .map(|(path, bytes)| prepare(path, bytes, None))
        .collect::<Result<_>>()?;
    for ((path, _), part) in files.iter().zip(ready) {
        arrive(part, path, overwrite)?;
    }
    Ok(())
}

fn place(path: &Path, bytes: &[u8], overwrite: Overwrite, mode: Option<u32>) -> Result<()> {
    check(path, overwrite)?;
    arrive(prepare(path, bytes, mode)?, path, overwrite)
}

/// Writes the bytes to a temporary file; a pipe or a device gets them at once.
fn prepare(path: &Path, bytes: &[u8], mode: Option<u32>) -> Result<Option<UnfinishedFile>> {
    let fail = |e: std::io::Error| {
        if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            let next = "Make room, or name a file on another disk. What was there is as it was.";
            Error::bad_file(path, format!("the disk is full ({e})"), next)
        } else {
            Error::io(path, e)
        }
    };
    let found = std::fs::symlink_metadata(path).ok();
    if is_stream(path) || found.as_ref().is_some_and(is_endless) {
        let mut stream = open_stream(path)?;
        return stream.write_all(bytes).map(|()| None).map_err(fail);
    }
    let mut part = UnfinishedFile::beside(path, mode.unwrap_or(0o666)).map_err(fail)?;
    if let (None, Some(old)) = (mode, found.filter(Metadata::is_file)) {
        let kept = Permissions::from_mode(old.permissions().mode() & 0o777);
        part.file.set_permissions(kept).map_err(fail)?;
    }
    part.file
        .write_all(bytes)
        .and_then(|()| part.file.sync_all())
        .map_err(fail)?;
    Ok(Some(part))
}

/// Renames a temporary file to its final name.
fn arrive(part: Option<UnfinishedFile>, path: &Path, overwrite: Overwrite) -> Result<()> {
    let Some(part) = part else {
        return Ok(());
    };
    match part.take(path, overwrite) {
        // Another process has created the file in the meantime.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            check(path, overwrite)?;
            Err(Error::io(path, e))
        }
        other => other.map_err(|e| Error::io(path, e)),
    }
}

/// Gives a file that was written under another name in the same folder its final name; it stays where it is if that cannot be.
///
/// # Errors
///
/// Those of [`check`], and errors of the file system.
pub fn move_to(part: &Path, path: &Path, overwrite: Overwrite) -> Result<()> {
    check(path, overwrite)?;
    let file = File::open(part).map_err(|e| Error::io(part, e))?;
    let part = UnfinishedFile {
        path: part.to_path_buf(),
        file,
        // It is not deleted where it cannot be renamed.
        arrived: true,
    };
    arrive(Some(part), path, overwrite)
}

/// A temporary file, which is deleted unless it is renamed.
struct UnfinishedFile {
    path: PathBuf,
    file: File,
    arrived: bool,
}

impl UnfinishedFile {
    /// A new temporary file in the folder of `path`, with a name that nobody can have prepared.
    fn beside(path: &Path, mode: u32) -> std::io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!(".lmscope-{}-{count}.part", std::process::id());
            let part = path.with_file_name(name);
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&part);
            match file {
                Ok(file) => {
                    return Ok(Self {
                        path: part,
                        file,
                        arrived: false,
                    });
                }
                // Left over from a killed process with the same process id.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn take(mut self, path: &Path, overwrite: Overwrite) -> std::io::Result<()> {
        match overwrite {
            Overwrite::Allowed => std::fs::rename(&self.path, path)?,
            Overwrite::Never => self.link_if_free(path)?,
        }
        self.arrived = true;
        Ok(())
    }

    /// Renames the file, if the name is free, in one atomic step.
    fn link_if_free(&self, path: &Path) -> std::io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            use rustix::io::Errno;
            match renameat_with(CWD, &self.path, CWD, path, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                // The file system does not support this.
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // A hard link claims the name as well; if those are not supported either, an empty file does.
        match std::fs::hard_link(&self.path, path) {
            Ok(()) => std::fs::remove_file(&self.path),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(e),
            Err(_) => {
                OpenOptions::new().write(true).create_new(true).open(path)?;
                std::fs::rename(&self.path, path)
            }
        }
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if !self.arrived {
            let _absent = std::fs::remove_file(&self.path);
        }
    }
}

/// The name of a file beside another one: `unfinished` beside `x.json` is `x.json.unfinished`.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// Whether a path names a pipe or a device, beside which no other file can stand.
pub fn is_pipe(path: &Path) -> bool {
    is_stream(path) || std::fs::metadata(path).is_ok_and(|found| is_endless(&found))
}

/// Whether a path names an open file: `/dev/stdout`, `/dev/fd/3` (a shell's `>(...)` or `<(...)`).
fn is_stream(path: &Path) -> bool {
    let named = ["/dev/stdin", "/dev/stdout", "/dev/stderr"];
    let numbered = ["/dev/fd", "/proc/self/fd"];
    named.iter().any(|n| path == Path::new(n))
        || path
            .parent()
            .is_some_and(|p| numbered.iter().any(|n| p == Path::new(n)))
}

/// Whether a file is a pipe or a character device.
fn is_endless(found: &Metadata) -> bool {
    let kind = found.file_type();
    kind.is_fifo() || kind.is_char_device() || kind.is_socket()
}

/// Opens a pipe or a device for writing. The wait for a pipe's reader is limited to a few seconds.
fn open_stream(path: &Path) -> Result<File> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let unread = rustix::io::Errno::NXIO.raw_os_error();
    let began = Instant::now();
    loop {
        let opened = OpenOptions::new()
            .append(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path);
        match opened {
            Ok(stream) => {
                // A reader that is there may be slow, so writing blocks from now on.
                rustix::fs::fcntl_getfl(&stream)
                    .and_then(|flags| rustix::fs::fcntl_setfl(&stream, flags - OFlags::NONBLOCK))
                    .map_err(|e| fail(e.into()))?;
                return Ok(stream);
            }
            Err(e) if e.raw_os_error() == Some(unread) && began.elapsed() < READER => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) if e.raw_os_error() == Some(unread) => {
                let next = "Start what reads it first, or name a file.";
                return Err(Error::bad_file(
                    path,
                    "it is a pipe that nobody reads",
                    next,
                ));
            }
            Err(e) => return Err(fail(e)),
        }
    }
}

/// Refuses anything but a regular file, for callers that cannot wait: a pipe or a device may block forever.
///
/// # Errors
///
/// When the path is that of a pipe, a device or an open file.
pub fn check_is_file(path: &Path) -> Result<()> {
    let found = std::fs::symlink_metadata(path);
    if is_stream(path) || found.is_ok_and(|found| is_endless(&found)) {
        let what = "it is a pipe or a device, which may never take what is written";
        return Err(Error::bad_file(path, what, "Name a file."));
    }
    Ok(())
}

/// Creates a folder that only the owner can open, with its parents; an existing folder is not changed.
///
/// # Errors
///
/// When it cannot be created.
pub fn private_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Creates a new file that only the owner can read, for appending.
///
/// # Errors
///
/// When the name is taken, even by a link, or the file cannot be created.
pub fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(path)
}

/// Opens a file that only the owner can read, for appending; a link is refused.
///
/// # Errors
///
/// When it is a link, or cannot be opened.
pub fn append_private(path: &Path) -> std::io::Result<File> {
    let refuse = |why: &str| std::io::Error::new(ErrorKind::InvalidInput, why);
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            return Err(refuse("it is a link, and nothing is written through one"));
        }
        Ok(found) if !found.is_file() => return Err(refuse("it is not a file")),
        Ok(_) | Err(_) => {}
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(PRIVATE)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
    }
    Ok(file)
}

/// Opens a file to read it in pieces: a regular file, or a stream that the shell opened. Anything else is refused, because
/// opening a pipe may block forever and a device has no end.
///
/// # Errors
///
/// When it does not exist, or is not such a file.
pub fn open(path: &Path) -> Result<File> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let found = std::fs::metadata(path).map_err(fail)?;
    if !found.is_file() && !found.is_dir() && !is_stream(path) {
        let what = "it is a pipe or a device, which may never end";
        return Err(Error::bad_file(path, what, "Name a file."));
    }
    File::open(path).map_err(fail)
}

/// Reads a whole file of at most `most` bytes.
///
/// Streams that the shell opened (`<(...)`, `/dev/stdin`) and devices are read as well, with the same limit. A named pipe is
/// refused, because opening it may block forever.
///
/// # Errors
///
/// When it does not exist, is a folder or a pipe, or is longer.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let found = std::fs::metadata(path).map_err(fail)?;
    let kind = found.file_type();
    if (kind.is_fifo() || kind.is_socket()) && !is_stream(path) {
        let what = "it is a pipe, which may never end";
        return Err(Error::bad_file(path, what, "Name a file."));
    }
    let long = || {
        Error::bad_file(
            path,
            format!("it has more than {}", crate::text::size(most)),
            "Is it the file that was meant?",
        )
    };
    if found.len() > most {
        return Err(long());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > most {
        return Err(long());
    }
    Ok(bytes)
}

/// Reads a whole file as [`read`] does; none if it does not exist.
///
/// # Errors
///
/// Those of [`read`], except for a file that does not exist.
pub fn read_if_there(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    match read(path, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a whole text file of at most [`WORDS`] bytes, without its byte-order mark.
///
/// # Errors
///
/// Those of [`read`], and when it is not UTF-8; names the encoding if it can be recognised.
pub fn words(path: &Path) -> Result<String> {
    words_of(path, WORDS)
}

/// As [`words`], with another size limit in bytes.
///
/// # Errors
///
/// As [`words`].
pub fn words_of(path: &Path, most: u64) -> Result<String> {
    crate::text::decode(read(path, most)?).map_err(|(what, next)| Error::bad_file(path, what, next))
}

/// Standard input where a path is `-`, as other programs have it.
pub fn or_standard_input(path: &Path) -> &Path {
    if path == Path::new("-") {
        Path::new("/dev/stdin")
    } else {
        path
    }
}

/// The prompts in a file: one in each line, without empty lines.
///
/// # Errors
///
/// When the file cannot be read or contains none.
pub fn prompts(path: &Path) -> Result<Vec<String>> {
    let text = words(path)?;
    let lines = text.lines().filter(|l| !l.trim().is_empty());
    let prompts: Vec<String> = lines.map(ToString::to_string).collect();
    if prompts.is_empty() {
        return Err(Error::bad_file(
            path,
            "it holds no prompts",
            "Write one prompt a line.",
        ));
    }
    Ok(prompts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_taken_name_is_refused_and_consent_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write(&path, b"one", Overwrite::Never).unwrap();
        let error = write(&path, b"two", Overwrite::Never).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("taken") && said.contains("--force"), "{said}");
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        write(&path, b"three", Overwrite::Allowed).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "who may read it stays");
        assert!(write(&folder.path().join("no/such"), b"x", Overwrite::Never).is_err());
        assert!(write(folder.path(), b"x", Overwrite::Allowed).is_err());
        assert_eq!(names(folder.path()), ["x"], "no part stays behind");
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
        let dangling = folder.path().join("dangling");
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        symlink(folder.path().join("not-there"), &dangling).unwrap();
        for link in [&link, &dangling] {
            let said = write(link, b"x", Overwrite::Never).unwrap_err().to_string();
            assert!(said.contains("link"), "{said}");
            write(link, b"x", Overwrite::Allowed).unwrap();
            assert!(std::fs::symlink_metadata(link).unwrap().is_file());
        }
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(names(folder.path()), ["dangling", "link", "victim"]);
    }

    #[test]
    fn of_many_writers_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let won = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8u8)
                .map(|i| {
                    scope.spawn({
                        let path = &path;
                        move || {
                            write(path, &[i; 4096], Overwrite::Never)
                                .is_ok()
                                .then_some(i)
                        }
                    })
                })
                .collect();
            all.into_iter()
                .filter_map(|t| t.join().unwrap())
                .collect::<Vec<u8>>()
        });
        assert_eq!(won.len(), 1);
        assert_eq!(std::fs::read(&path).unwrap(), [won[0]; 4096]);
        assert_eq!(names(folder.path()), ["x"]);
    }

    #[test]
    fn devices_and_streams_are_written_directly() {
        write(Path::new("/dev/null"), b"x", Overwrite::Never).unwrap();
        if Path::new("/dev/full").exists() {
            let error = write(Path::new("/dev/full"), b"x", Overwrite::Never);
            assert!(error.unwrap_err().to_string().contains("disk is full"));
        }
    }

    #[test]
    fn what_never_ends_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|s| s.success()) {
            let said = words(&pipe).unwrap_err().to_string();
            assert!(said.contains("pipe"), "{said}");
            assert!(open(&pipe).is_err());
        }
        let said = read(Path::new("/dev/zero"), 1 << 20)
            .unwrap_err()
            .to_string();
        assert!(said.contains("more than 1.0 MiB"), "{said}");
        assert!(open(Path::new("/dev/zero")).is_err());
        assert_eq!(words(Path::new("/dev/null")).unwrap(), "");
        assert!(
            read_if_there(&folder.path().join("no"), 9)
                .unwrap()
                .is_none()
        );
        let long = folder.path().join("long");
        File::create(&long).unwrap().set_len(WORDS + 1).unwrap();
        assert!(words(&long).unwrap_err().to_string().contains("64.0 MiB"));
        std::fs::write(&long, b"ab\xff").unwrap();
        assert!(words(&long).unwrap_err().to_string().contains("byte 2"));
    }

    #[test]
    fn a_pipe_without_a_reader_is_not_waited_for_by_those_who_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let began = Instant::now();
        for path in [
            pipe.as_path(),
            Path::new("/dev/stdout"),
            Path::new("/dev/null"),
        ] {
            assert!(check_is_file(path).is_err(), "{}", path.display());
        }
        let log = append_private(&pipe).unwrap_err().to_string();
        assert!(log.contains("not a file"), "{log}");
        assert!(began.elapsed() < Duration::from_secs(1));
        assert!(check_is_file(&folder.path().join("new")).is_ok());
        // The command line waits a little for a reader that comes late, and delivers everything.
        let late = pipe.clone();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            std::fs::read(late).unwrap()
        });
        let many = vec![b'x'; 1 << 20];
        write(&pipe, &many, Overwrite::Never).unwrap();
        assert_eq!(reader.join().unwrap(), many);
        let said = write(&pipe, b"x", Overwrite::Never).unwrap_err();
        assert!(said.to_string().contains("nobody reads"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn private_files_are_private_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        private_folder(&inner).unwrap();
        private_folder(&inner).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        let path = inner.join("s");
        create_private(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(create_private(&path).is_err());
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        append_private(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let link = inner.join("link");
        symlink(&path, &link).unwrap();
        assert!(create_private(&link).is_err() && append_private(&link).is_err());
        write_private(&inner.join("p"), b"x", Overwrite::Never).unwrap();
        assert_eq!(mode(&inner.join("p")), 0o600);
    }
}
