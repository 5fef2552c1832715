//! Writing mails to `tmp/`, where nobody sees them (maildir.md 8.1, first line).
//!
//! Per mail: 1 `tmp/NAME` is created, 2 the text is written, 3 its modification time becomes the received date, 4 it is
//! synced. A kill after any of these leaves a file in `tmp/` that Dovecot removes after 36 hours (9.4).
//!
//! Step 4 is done for many mails together, after all of them were written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::lines::{Counter, Folder, LineEnd, Sizes};
use super::name::{self, TmpName};
use crate::mail::{Body, Error, FileRange, SaveError, Timestamp};
use crate::os::Fsync;
use crate::os::fs::{self, Modes};
use crate::store::Settings;
use crate::store::decode::{Encoder, Method, Plugins, encoder};

/// Texts up to this size are read once into a buffer; larger ones are worth a look whether the kernel can copy them.
const CHUNK: usize = 128 * 1024;
/// So many written files are kept open until they are synced together.
const GROUP: usize = 128;

/// How texts are stored.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    line_end: LineEnd,
    fsync: Fsync,
    plugins: Plugins,
}

impl Rules {
    /// As the settings want it.
    pub fn of(settings: &Settings) -> Self {
        Self {
            line_end: if settings.save_crlf { LineEnd::CrLf } else { LineEnd::Lf },
            fsync: settings.index.fsync,
            plugins: Plugins::of(settings),
        }
    }
}

/// A text in `tmp/`. It is removed when this is dropped before [`Text::published`].
#[derive(Debug)]
pub(super) struct Text {
    /// From it the final name is made.
    pub name: TmpName,
    /// Where it is now.
    pub path: PathBuf,
    /// `S` of the final name.
    pub physical: u64,
    /// `W` of the final name, if it is known.
    pub with_crlf: Option<u64>,
    // Open as long as it is not synced.
    file: Option<File>,
    published: bool,
}

impl Text {
    /// The file has its final name.
    pub const fn published(&mut self) {
        self.published = true;
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        if !self.published
            && let Err(e) = fs::unlink_if_there(&self.path)
        {
            tracing::warn!("{e}");
        }
    }
}

/// Where texts are written.
#[derive(Debug)]
pub(super) struct Stage {
    tmp: PathBuf,
    modes: Modes,
    rules: Rules,
    unsynced: usize,
}

impl Stage {
    /// The `tmp/` of a mailbox.
    pub fn new(mailbox: &Path, modes: Modes, rules: Rules) -> Self {
        Self { tmp: mailbox.join("tmp"), modes, rules, unsynced: 0 }
    }

    fn create(&self) -> Result<(Text, File), Error> {
        let name = name::generate();
        let path = self.tmp.join(name.to_string());
        let file = fs::create_new(&path, &self.modes)?;
        Ok((Text { name, path, physical: 0, with_crlf: None, file: None, published: false }, file))
    }

    /// Writes a text. `others` are those written before it, of which a group is synced now and then.
    ///
    /// # Errors
    /// The text ended early or cannot be read ([`SaveError::Body`]), or cannot be written.
    pub fn write<'t>(
        &mut self,
        body: Body,
        received: Timestamp,
        others: impl Iterator<Item = &'t mut Text>,
    ) -> Result<Text, SaveError> {
        let (mut text, mut file) = self.create()?;
        let sizes = self.copy(body, &mut file, &text.path)?;
        (text.physical, text.with_crlf) = (sizes.physical, Some(sizes.with_crlf));
        fs::set_mtime(&file, &text.path, time_of(received)).map_err(Error::io)?;
        if self.rules.fsync != Fsync::Never {
            if self.unsynced >= GROUP {
                self.sync(others)?;
            }
            text.file = Some(file);
            self.unsynced += 1;
        }
        Ok(text)
    }

    /// Another name for a mail file. Its sizes are taken from the caller.
    ///
    /// # Errors
    /// What the system says; the caller may then copy.
    pub fn link(&self, from: &Path, physical: u64, with_crlf: Option<u64>) -> Result<Text, fs::Error> {
        let name = name::generate();
        let path = self.tmp.join(name.to_string());
        fs::link(from, &path)?;
        Ok(Text { name, path, physical, with_crlf, file: None, published: false })
    }

    /// Makes all written texts durable.
    ///
    /// # Errors
    /// I/O: none of them may be published.
    pub fn sync<'t>(&mut self, texts: impl Iterator<Item = &'t mut Text>) -> Result<(), Error> {
        let waiting: Vec<_> = texts.filter_map(|t| Some((t.file.take()?, &*t.path))).collect();
        fs::each(&waiting, |(file, path)| fs::fsync(file, path))?;
        self.unsynced = 0;
        Ok(())
    }

    fn copy(&self, body: Body, file: &mut File, path: &Path) -> Result<Sizes, SaveError> {
        if let Some(piece) = &body.whole
            && body.size == Some(piece.as_ref().len() as u64)
            && !self.looks_compressed(piece.as_ref())
            && Folder::new(self.rules.line_end).leaves(piece.as_ref())
        {
            fs::write_all(file, path, piece.as_ref()).map_err(Error::io)?;
            let mut counter = Counter::default();
            counter.feed(piece.as_ref());
            return Ok(counter.sizes());
        }
        if let Some(range) = body.range.as_ref().filter(|r| r.len > CHUNK as u64)
            && let Some(sizes) = self.as_it_is(range)?
        {
            fs::copy_range(&range.file, range.offset, range.len, file, path).map_err(Error::io)?;
            return Ok(sizes);
        }
        self.convert(body, file, path)
    }

    /// The sizes of a text whose bytes need no change.
    fn as_it_is(&self, range: &FileRange) -> Result<Option<Sizes>, SaveError> {
        let (mut folder, mut counter) = (Folder::new(self.rules.line_end), Counter::default());
        let mut reader = Body::from_range(range.clone(), None).reader;
        let mut buffer = vec![0; CHUNK];
        let mut first = true;
        loop {
            let n = fill(&mut reader, &mut buffer).map_err(SaveError::Body)?;
            if n == 0 {
                return Ok(Some(counter.sizes()));
            }
            if std::mem::take(&mut first) && self.looks_compressed(&buffer[..n]) || !folder.leaves(&buffer[..n]) {
                return Ok(None);
            }
            counter.feed(&buffer[..n]);
        }
    }

    /// With the plugin Dovecot would take a plain text that begins so for a compressed one (dbox.md 4.2, last point).
    fn looks_compressed(&self, first: &[u8]) -> bool {
        self.rules.plugins.compression && Method::of(first).is_some()
    }

    fn convert(&self, mut body: Body, file: &mut File, path: &Path) -> Result<Sizes, SaveError> {
        let (mut folder, mut counter) = (Folder::new(self.rules.line_end), Counter::default());
        let room = body.size.map_or(CHUNK, |n| usize::try_from(n).map_or(CHUNK, |n| n.saturating_add(1).clamp(1, CHUNK)));
        let mut buffer = vec![0; room];
        let mut out = Vec::with_capacity(room);
        let mut read = 0u64;
        let mut compressed: Option<Encoder> = None;
        let mut first = true;
        loop {
            let n = fill(&mut body.reader, &mut buffer).map_err(SaveError::Body)?;
            read += n as u64;
            out.clear();
            folder.feed(&buffer[..n], &mut out);
            let end = n < buffer.len();
            if end {
                std::mem::replace(&mut folder, Folder::new(self.rules.line_end)).finish(&mut out);
            }
            if std::mem::take(&mut first) && self.looks_compressed(&out) {
                compressed = Some(encoder());
            }
            counter.feed(&out);
            match &mut compressed {
                None if out.is_empty() => {}
                None => fs::write_all(file, path, &out).map_err(Error::io)?,
                Some(encoder) => {
                    encoder.write_all(&out).map_err(|e| memory(path, e))?;
                    let ready = std::mem::take(encoder.get_mut());
                    fs::write_all(file, path, &ready).map_err(Error::io)?;
                }
            }
            if end {
                break;
            }
        }
        if let Some(encoder) = compressed {
            let rest = encoder.finish().map_err(|e| memory(path, e))?;
            fs::write_all(file, path, &rest).map_err(Error::io)?;
        }
        if body.size.is_some_and(|size| size != read) {
            let text = format!("the text has {read} bytes instead of {}", body.size.unwrap_or_default());
            return Err(SaveError::Body(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
        Ok(counter.sizes())
    }
}

fn memory(path: &Path, e: io::Error) -> Error {
    Error::io(fs::Error::new("compress", path, e))
}

/// A time of a file, or the nearest that can be told.
pub(super) fn seconds(time: i64) -> Timestamp {
    Timestamp(u32::try_from(time.max(0)).unwrap_or(u32::MAX))
}

/// The time of a received date.
pub(super) fn time_of(t: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(t.0.into())
}

/// Reads until the buffer is full or the text ends.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use super::*;

    fn stage(settings: &Settings) -> (tempfile::TempDir, Stage) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("tmp")).expect("writable");
        let stage = Stage::new(dir.path(), Modes::default(), Rules::of(settings));
        (dir, stage)
    }

    fn range(dir: &Path, bytes: &[u8]) -> Body {
        let path = dir.join("source");
        std::fs::write(&path, bytes).expect("writable");
        let file = Arc::new(File::open(path).expect("there"));
        Body::from_range(FileRange { file, offset: 0, len: bytes.len() as u64 }, None)
    }

    #[test]
    fn line_ends_sizes_and_date() {
        let (_dir, mut stage) = stage(&Settings::default());
        let text = stage.write(Body::from_bytes("a: b\r\n\r\nc\n"), Timestamp(1_500_000_000), [].into_iter()).expect("written");
        assert_eq!(std::fs::read(&text.path).expect("there"), b"a: b\n\nc\n");
        assert_eq!((text.physical, text.with_crlf), (8, Some(11)));
        assert_eq!(std::fs::metadata(&text.path).expect("there").mtime(), 1_500_000_000);
        let path = text.path.clone();
        drop(text);
        assert!(!path.exists());
    }

    #[test]
    fn large_texts_are_copied_or_converted() {
        let lf = "x".repeat(99) + "\n";
        let lf = lf.repeat(5000);
        let crlf = lf.replace('\n', "\r\n");
        for save_crlf in [false, true] {
            let (dir, mut stage) = stage(&Settings { save_crlf, ..Settings::default() });
            for source in [&lf, &crlf] {
                let text = stage.write(range(dir.path(), source.as_bytes()), Timestamp(0), [].into_iter()).expect("written");
                let expected = if save_crlf { &crlf } else { &lf };
                assert!(std::fs::read(&text.path).expect("there") == expected.as_bytes());
                assert_eq!((text.physical, text.with_crlf), (expected.len() as u64, Some(crlf.len() as u64)));
            }
        }
    }

    #[test]
    fn a_text_that_ends_early_is_the_texts_fault_and_leaves_nothing() {
        let (dir, mut stage) = stage(&Settings::default());
        let mut body = Body::from_bytes("short\n");
        body.size = Some(100);
        assert!(matches!(stage.write(body, Timestamp(0), [].into_iter()), Err(SaveError::Body(_))));
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).expect("there").count(), 0);
    }

    #[test]
    fn a_text_that_looks_compressed_is_compressed_where_that_matters() {
        let body = b"BZh9 is how this mail begins\n".as_slice();
        let (_dir, mut plain) = stage(&Settings::default());
        let text = plain.write(Body::from_bytes(body), Timestamp(0), [].into_iter()).expect("written");
        assert_eq!(std::fs::read(&text.path).expect("there"), body);
        let (_dir, mut stage) = stage(&Settings { plugins: vec!["zlib".into()], ..Settings::default() });
        let text = stage.write(Body::from_bytes(body), Timestamp(0), [].into_iter()).expect("written");
        let mut out = Vec::new();
        let stored = File::open(&text.path).expect("there");
        flate2::read::GzDecoder::new(stored).read_to_end(&mut out).expect("gz");
        assert_eq!((out.as_slice(), text.physical), (body, body.len() as u64));
    }
}
