//! Writing dbox files: always new ones, under a temp name, one or many messages each (dbox.md 1.4, 2.4 steps 1 to 3).
//!
//! Order: temp file created; file header, messages and metadata written in large pieces, a message's header last where the
//! message did not fit into one piece; synced by [`Writer::sync`]. Whoever owns the directory then renames the file.
//! A kill after any of these leaves a `.temp.*` file, which nobody reads and which Dovecot removes by itself.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::fold::Fold;
use super::header::{FileHeader, MESSAGE_HEADER_SIZE, MessageHeader};
use super::metadata::NewMetadata;
use super::{Damage, DboxFile, Message, Metadata, temp_name};
use crate::mail::{self, Body, SaveError, Timestamp};
use crate::os::fs::{self, Modes};
use crate::store::decode;

/// Bytes that are gathered before they are written, and read at once.
const BUFFER: usize = 256 * 1024;

/// A mail to be appended.
#[derive(Debug, Clone, Copy)]
pub struct NewMessage<'a> {
    /// Its metadata except the sizes.
    pub metadata: NewMetadata<'a>,
    /// Readers look for compressed bodies here (dbox.md 4.2): a text that looks like one is compressed, so that they see it.
    pub guard_magic: bool,
}

/// What was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Where its header is.
    pub offset: u64,
    /// Bytes of header, body and metadata: what a map record says.
    pub size: u64,
    /// Size of the plain text with LF line ends.
    pub plain_size: u64,
    /// The same with every line end counted as CRLF.
    pub virtual_size: u64,
}

/// Why a mail could not be appended. The file is as before it.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The text could not be read to its end, or a value cannot be stored: only this mail is concerned.
    #[error("{0}")]
    Body(std::io::Error),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] fs::Error),
}

impl From<AppendError> for SaveError {
    fn from(e: AppendError) -> Self {
        match e {
            AppendError::Body(e) => Self::Body(e),
            AppendError::Write(e) => Self::Store(mail::Error::io(e)),
        }
    }
}

/// A temp file that goes when it is dropped before it got its final name.
#[derive(Debug)]
pub struct Temp {
    path: PathBuf,
    published: bool,
}

impl Temp {
    /// A file with a temp name that is there already.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, published: false }
    }

    /// Its path, as long as it has its temp name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the file to a name that must be free.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system says; the temp file then stays until this value is dropped.
    pub fn publish(&mut self, to: &Path) -> fs::Result<()> {
        fs::rename_new(&self.path, to)?;
        self.published = true;
        Ok(())
    }
}

impl Temp {
    /// Renames the file over another one, or to a free name.
    ///
    /// # Errors
    /// What the system says; the temp file is removed then.
    pub fn replace(mut self, to: &Path) -> fs::Result<()> {
        fs::rename(&self.path, to)?;
        self.published = true;
        // A rename onto a further link of the same file does nothing at all.
        fs::unlink_if_there(&self.path)?;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: Dovecot removes what stays behind.
            let _ = fs::unlink_if_there(&self.path);
        }
    }
}

/// A dbox file in the making.
#[derive(Debug)]
pub struct Writer {
    file: File,
    temp: Temp,
    /// What is not written yet.
    pending: Vec<u8>,
    /// What is: the offset of `pending`.
    written: u64,
}

impl Writer {
    /// Makes a temp file in a directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(dir: &Path, modes: &Modes) -> fs::Result<Self> {
        let temp = Temp::new(dir.join(temp_name()));
        let file = fs::create_new(temp.path(), modes)?;
        Ok(Self { file, temp, pending: FileHeader::line(Timestamp::now()), written: 0 })
    }

    /// The temp file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Its size so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Gives up the open file and keeps the temp file. Call [`Self::sync`] before.
    #[must_use]
    pub fn close(self) -> Temp {
        self.temp
    }

    /// Appends a mail, folding CRLF to LF.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(&mut self, mail: &NewMessage<'_>, body: Body) -> Result<Written, AppendError> {
        mail.metadata.check().map_err(invalid)?;
        let offset = self.size();
        let appended = self.append_at(offset, mail, body);
        if appended.is_err() {
            self.cut(offset)?;
        }
        appended
    }

    fn append_at(&mut self, offset: u64, mail: &NewMessage<'_>, mut body: Body) -> Result<Written, AppendError> {
        self.pending.extend_from_slice(&[0; MESSAGE_HEADER_SIZE]);
        let body_at = self.pending.len();
        let mut fold = Fold::default();
        let mut encoder: Option<decode::Encoder> = None;
        let mut read = 0;
        let mut plain = Vec::new();
        let whole = body.whole.take();
        let mut buffer = Vec::new();
        if whole.is_none() {
            // One byte more than the size tells: so its end is seen without a second turn.
            let wanted = body.size.map_or(BUFFER, |n| usize::try_from(n).map_or(BUFFER, |n| n.saturating_add(1).min(BUFFER)));
            buffer.resize(wanted, 0);
        }
        loop {
            let (piece, last) = match &whole {
                Some(whole) => (whole.as_ref(), true),
                None => {
                    let n = fill(&mut *body.reader, &mut buffer).map_err(AppendError::Body)?;
                    (&buffer[..n], n < buffer.len())
                }
            };
            let first = read == 0;
            read += piece.len() as u64;
            if let Some(encoder) = &mut encoder {
                fold.feed(piece, &mut plain);
                if last {
                    fold.finish(&mut plain);
                }
                encoder.write_all(&plain).map_err(AppendError::Body)?;
                self.pending.append(encoder.get_mut());
                plain.clear();
            } else {
                fold.feed(piece, &mut self.pending);
                if last {
                    fold.finish(&mut self.pending);
                }
                if first && mail.guard_magic && decode::Method::of(&self.pending[body_at..]).is_some() {
                    let mut started = decode::encoder();
                    started.write_all(&self.pending.split_off(body_at)).map_err(AppendError::Body)?;
                    encoder = Some(started);
                }
            }
            if last {
                break;
            }
            if self.pending.len() >= BUFFER {
                self.flush()?;
            }
        }
        if body.size.is_some_and(|size| size != read) {
            return Err(AppendError::Body(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                format!("the text should have {} bytes and has {read}", body.size.unwrap_or_default()),
            )));
        }
        let mut plain_size = None;
        if let Some(encoder) = encoder {
            self.pending.append(&mut encoder.finish().map_err(AppendError::Body)?);
            plain_size = Some(fold.size());
        }
        let stored = self.size() - offset - MESSAGE_HEADER_SIZE as u64;
        mail.metadata.encode(plain_size.filter(|&plain| plain != stored), fold.virtual_size(), &mut self.pending);
        self.put_header(offset, stored)?;
        Ok(Written { offset, size: self.size() - offset, plain_size: fold.size(), virtual_size: fold.virtual_size() })
    }

    /// Appends a message of another dbox file with its stored body as it is, and this metadata.
    ///
    /// # Errors
    /// What the system says; the source file may be the culprit.
    pub fn append_stored(&mut self, from: &DboxFile, message: &Message, metadata: &Metadata) -> fs::Result<Written> {
        let offset = self.size();
        self.pending.extend_from_slice(&MessageHeader { body_size: message.body_size }.encode());
        let appended = self.copy_body(from, message).map(|()| {
            metadata.encode(&mut self.pending);
            Written {
                offset,
                size: self.size() - offset,
                plain_size: message.plain_size(),
                virtual_size: message.metadata.virtual_size().unwrap_or(0),
            }
        });
        if appended.is_err() {
            self.cut(offset)?;
        }
        appended
    }

    fn copy_body(&mut self, from: &DboxFile, message: &Message) -> fs::Result<()> {
        let range = from.stored_body(message);
        if range.len <= BUFFER as u64 {
            let mut piece = vec![0; usize::try_from(range.len).unwrap_or(0)];
            range.file.read_exact_at(&mut piece, range.offset).map_err(|e| fs::Error::new("read", from.path(), e))?;
            self.pending.extend_from_slice(&piece);
        } else {
            self.flush()?;
            fs::copy_range(&range.file, range.offset, range.len, &mut self.file, self.temp.path())?;
            self.written += range.len;
        }
        if self.pending.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is still in memory. The file is complete then, but not durable.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&mut self) -> fs::Result<()> {
        if !self.pending.is_empty() {
            fs::write_all(&mut self.file, self.temp.path(), &self.pending)?;
            self.written += self.pending.len() as u64;
            self.pending.clear();
        }
        Ok(())
    }

    /// Writes what is still in memory and makes the content durable.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&mut self) -> fs::Result<()> {
        self.flush()?;
        fs::fsync(&self.file, self.temp.path())
    }

    /// The open file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    fn put_header(&mut self, offset: u64, body_size: u64) -> fs::Result<()> {
        let header = MessageHeader { body_size }.encode();
        match offset.checked_sub(self.written).and_then(|at| usize::try_from(at).ok()) {
            Some(at) => {
                self.pending[at..at + MESSAGE_HEADER_SIZE].copy_from_slice(&header);
                Ok(())
            }
            None => fs::write_all_at(&self.file, self.temp.path(), &header, offset),
        }
    }

    /// Takes back everything from an offset on.
    fn cut(&mut self, offset: u64) -> fs::Result<()> {
        if let Some(keep) = offset.checked_sub(self.written) {
            self.pending.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
            return Ok(());
        }
        self.pending.clear();
        fs::truncate(&self.file, self.temp.path(), offset)?;
        std::io::Seek::seek(&mut self.file, std::io::SeekFrom::Start(offset))
            .map_err(|e| fs::Error::new("seek in", self.temp.path(), e))?;
        self.written = offset;
        Ok(())
    }
}

/// Reads until the buffer is full or the text ends.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn invalid(damage: Damage) -> AppendError {
    AppendError::Body(std::io::Error::new(std::io::ErrorKind::InvalidData, damage.to_string()))
}
