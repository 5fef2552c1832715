//! Reading a dbox file: single messages by offset, or all of them (dbox.md 1.3). Nothing is searched for: a message is
//! where an offset or the one before it says.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::header::{FileHeader, MessageHeader};
use super::metadata::Metadata;
use super::{Damage, Error};
use crate::mail::{FileRange, Piece, SMALL, zeroes};
use crate::os::fs;

/// The largest metadata block that is believed; external references (`X`) can be many.
const MAX_METADATA: usize = 16 << 20;

/// An open dbox file whose first line is good.
#[derive(Debug, Clone)]
pub struct DboxFile {
    file: Arc<File>,
    path: Arc<Path>,
    header: FileHeader,
    window: Window,
}

/// Bytes that are known already. Others are read when they are needed.
#[derive(Debug, Clone)]
struct Window {
    at: u64,
    bytes: Arc<[u8]>,
}

impl Window {
    fn empty() -> Self {
        Self { at: 0, bytes: Arc::new([]) }
    }

    /// Where an offset is in it.
    fn position(&self, offset: u64) -> Option<usize> {
        usize::try_from(offset.checked_sub(self.at)?).ok().filter(|&at| at <= self.bytes.len())
    }

    fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let at = self.position(offset)?;
        self.bytes.get(at..at.checked_add(len)?)
    }
}

/// One message of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where its header begins.
    pub offset: u64,
    /// Where its stored body begins.
    pub body_offset: u64,
    /// Bytes of the stored body.
    pub body_size: u64,
    /// Its metadata.
    pub metadata: Metadata,
    /// The offset behind the metadata block: the next message, or the end of the file.
    pub end: u64,
}

impl Message {
    /// Size of the plain text: `Z`, else the stored body's (dbox.md 1.3).
    #[must_use]
    pub fn plain_size(&self) -> u64 {
        self.metadata.plain_size().unwrap_or(self.body_size)
    }

    /// Bytes of header, body and metadata: what a map record says.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end - self.offset
    }
}

impl DboxFile {
    /// Opens a file for reading and reads its first line.
    ///
    /// # Errors
    /// Not there, not readable, bad first line.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| fs::Error::new("open", path, e))?;
        Self::new(Arc::new(file), path)
    }

    /// A file that is open already. `path` is for messages only.
    ///
    /// # Errors
    /// Not readable, bad first line.
    pub fn new(file: Arc<File>, path: &Path) -> Result<Self, Error> {
        let bad = |e| fs::Error::new("read", path, e);
        // Most mails of an sdbox are in what is read at first.
        let len = file.metadata().map_err(bad)?.len().min(SMALL);
        let bytes = read_piece(&file, 0, len).map_err(bad)?;
        let header = FileHeader::parse(&bytes).map_err(|damage| Error::Damaged { path: path.to_owned(), offset: 0, damage })?;
        Ok(Self { file, path: path.into(), header, window: Window { at: 0, bytes } })
    }

    /// The same file with the bytes of a message in memory, if it is a small one: `size` is what a map record says.
    ///
    /// # Errors
    /// Not readable.
    pub fn around(&self, offset: u64, size: u64) -> Result<Self, Error> {
        let bad = |e| fs::Error::new("read", &*self.path, e);
        let bytes = if size > SMALL { Arc::new([]) } else { read_piece(&self.file, offset, size).map_err(bad)? };
        Ok(Self { window: Window { at: offset, bytes }, ..self.clone() })
    }

    /// The same file, of which nothing that was read is remembered: others append to it. What was read while they did is a
    /// half-written message, or one that was taken back.
    #[must_use]
    pub fn that_grows(self) -> Self {
        Self { window: Window::empty(), ..self }
    }

    /// Its first line.
    #[must_use]
    pub const fn header(&self) -> &FileHeader {
        &self.header
    }

    /// Its path as it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    #[must_use]
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The message at an offset; 0 means the first one. Reads header and metadata, not the body.
    ///
    /// # Errors
    /// Not readable, or no message there.
    pub fn message(&self, offset: u64) -> Result<Message, Error> {
        let offset = if offset == 0 { self.header.len as u64 } else { offset };
        let size = self.header.message_header_size;
        let bytes = self.bytes(offset, size)?;
        let header = MessageHeader::parse(&bytes, size).map_err(|damage| self.damaged(offset, damage))?;
        let body_offset = offset + size as u64;
        let metadata_offset = body_offset
            .checked_add(header.body_size)
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or_else(|| self.damaged(offset, Damage::ShortBody(header.body_size)))?;
        let (metadata, len) = self.metadata(metadata_offset, header.body_size)?;
        Ok(Message { offset, body_offset, body_size: header.body_size, metadata, end: metadata_offset + len as u64 })
    }

    /// All messages from the first one on, until the end of the file or the first damage.
    #[must_use]
    pub const fn messages(&self) -> Messages<'_> {
        Messages { file: self, next: Some(self.header.len as u64) }
    }

    /// The stored body of a message: text, or its compressed or encrypted form.
    #[must_use]
    pub fn stored_body(&self, message: &Message) -> FileRange {
        FileRange { file: Arc::clone(&self.file), offset: message.body_offset, len: message.body_size }
    }

    /// A part of the file, if it is in memory.
    #[must_use]
    pub fn piece(&self, range: &FileRange) -> Option<Piece> {
        let from = self.window.position(range.offset)?;
        Piece::new(Arc::clone(&self.window.bytes), from..from.checked_add(usize::try_from(range.len).ok()?)?)
    }

    /// An error at an offset of this file.
    #[must_use]
    pub fn damaged(&self, offset: u64, damage: Damage) -> Error {
        Error::Damaged { path: self.path.to_path_buf(), offset, damage }
    }

    fn metadata(&self, offset: u64, body_size: u64) -> Result<(Metadata, usize), Error> {
        if let Some(rest) = self.window.position(offset).and_then(|at| self.window.bytes.get(at..))
            && let Ok(Some(found)) = Metadata::parse(rest)
        {
            return Ok(found);
        }
        let mut want = 1024;
        loop {
            let bytes = self.bytes(offset, want)?;
            match Metadata::parse(&bytes) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) if bytes.len() < want => {
                    let damage = if bytes.len() < 4 { Damage::ShortBody(body_size) } else { Damage::MetadataEnd };
                    return Err(self.damaged(offset, damage));
                }
                Ok(None) if want >= MAX_METADATA => {
                    return Err(self.damaged(offset, Damage::MetadataTooLarge(MAX_METADATA)));
                }
                Ok(None) => want = (want * 8).min(MAX_METADATA),
                Err(damage) => return Err(self.damaged(offset, damage)),
            }
        }
    }

    /// `want` bytes at an offset, fewer only at the end of the file.
    fn bytes(&self, offset: u64, want: usize) -> Result<std::borrow::Cow<'_, [u8]>, Error> {
        if let Some(bytes) = self.window.get(offset, want) {
            return Ok(bytes.into());
        }
        let mut bytes = vec![0; want];
        let n = read_up_to(&self.file, &mut bytes, offset).map_err(|e| fs::Error::new("read", &*self.path, e))?;
        bytes.truncate(n);
        Ok(bytes.into())
    }
}

/// Walks over the messages of a file. Ends behind the first error, since nothing tells where the next message is.
#[derive(Debug)]
pub struct Messages<'f> {
    file: &'f DboxFile,
    next: Option<u64>,
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.next.take()?;
        match self.file.bytes(offset, 1) {
            Ok(bytes) if bytes.is_empty() => return None,
            Ok(_) => {}
            Err(e) => return Some(Err(e)),
        }
        let message = self.file.message(offset);
        self.next = message.as_ref().ok().map(|m| m.end);
        Some(message)
    }
}

/// As many of `len` bytes as there are.
fn read_piece(file: &File, offset: u64, len: u64) -> io::Result<Arc<[u8]>> {
    let mut bytes = zeroes(usize::try_from(len).unwrap_or(0));
    let Some(room) = Arc::get_mut(&mut bytes) else { return Ok(bytes) };
    let n = read_up_to(file, room, offset)?;
    Ok(if n < bytes.len() { bytes[..n].into() } else { bytes })
}

fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
