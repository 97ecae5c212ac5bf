//! Recording what the screen shows, as a file that `asciinema play` replays: asciicast, version 2.
//!
//! Invariant: an event is what one frame sent to the terminal, so that a recording that is cut off anywhere is one of the frames before.
//! Nothing else is in it: no keys, and nothing of what stood in the terminal before. To record another kind of event, add a method to
//! [`Cast`]. Source: the asciicast v2 file format, docs.asciinema.org.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::error::{Error, Result};
use crate::file;

/// A recording that is being made.
#[derive(Debug)]
pub(super) struct Cast {
    file: File,
    path: PathBuf,
    began: Instant,
    size: (u16, u16),
    frames: usize,
}

impl Cast {
    /// Begins a recording of a screen of so many columns and rows, in a new file that only the user may read.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    pub(super) fn begin(path: &Path, size: (u16, u16)) -> Result<Self> {
        file::check_is_file(path)?;
        let mut file = file::create_private(path).map_err(|why| Error::io(path, why))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let header = json!({
            "version": 2, "width": size.0, "height": size.1, "timestamp": now.map_or(0, |now| now.as_secs()), "title": "lmscope",
        });
        writeln!(file, "{header}").map_err(|why| Error::io(path, why))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            began: Instant::now(),
            size,
            frames: 0,
        })
    }

    /// Records the bytes of a frame.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub(super) fn frame(&mut self, bytes: &[u8], size: (u16, u16)) -> Result<()> {
        let time = self.began.elapsed().as_secs_f64();
        let mut lines = String::new();
        if size != self.size {
            let event = json!([time, "r", format!("{}x{}", size.0, size.1)]);
            lines.extend([event.to_string(), "\n".into()]);
            self.size = size;
        }
        if !bytes.is_empty() {
            let event = json!([time, "o", String::from_utf8_lossy(bytes)]);
            lines.extend([event.to_string(), "\n".into()]);
            self.frames += 1;
        }
        let written = self.file.write_all(lines.as_bytes());
        written.map_err(|why| Error::io(&self.path, why))
    }

    /// What was recorded, in a sentence.
    pub(super) fn sentence(&self) -> String {
        format!(
            "recorded: {} of {}; `asciinema play` shows it",
            crate::text::counted(self.frames, "frame"),
            self.path.display()
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn frames_and_sizes_are_events_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.cast");
        let mut cast = Cast::begin(&path, (80, 24)).unwrap();
        cast.frame("\u{1b}[2Ja ␣ 漢".as_bytes(), (80, 24)).unwrap();
        cast.frame(b"", (80, 24)).unwrap();
        cast.frame(b"b", (120, 40)).unwrap();
        assert!(cast.sentence().contains("2 frames"));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(
            (&lines[0]["version"], &lines[0]["width"]),
            (&json!(2), &json!(80))
        );
        let events: Vec<(&str, &str)> = lines[1..]
            .iter()
            .map(|event| (event[1].as_str().unwrap(), event[2].as_str().unwrap()))
            .collect();
        assert_eq!(
            events,
            [("o", "\u{1b}[2Ja ␣ 漢"), ("r", "120x40"), ("o", "b")]
        );
        let times: Vec<f64> = lines[1..]
            .iter()
            .map(|event| event[0].as_f64().unwrap())
            .collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(
            Cast::begin(&path, (80, 24)).is_err(),
            "nothing is overwritten"
        );
    }
}
