//! The bytes of a mail on their way from one storage to another.

use std::fs::File;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A part of a file that holds exactly the bytes of a mail as the storage keeps them, uncompressed and unencrypted.
#[derive(Debug, Clone)]
pub struct FileRange {
    /// The open file.
    pub file: Arc<File>,
    /// Where the mail begins.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// Texts up to this size are read in one piece by whoever gives them: bounds what mails on their way hold in memory.
pub const SMALL: u64 = 64 * 1024;

impl FileRange {
    /// All of it, if it is [`SMALL`].
    ///
    /// # Errors
    /// What the system says, `UnexpectedEof` when the file is shorter.
    pub fn small(&self) -> std::io::Result<Option<Piece>> {
        if self.len > SMALL {
            return Ok(None);
        }
        let mut bytes = zeroes(usize::try_from(self.len).unwrap_or(0));
        if let Some(room) = Arc::get_mut(&mut bytes) {
            self.file.read_exact_at(room, self.offset)?;
        }
        Ok(Some(Piece { range: 0..bytes.len(), bytes }))
    }
}

/// Shared memory that is still nobody else's.
#[must_use]
pub fn zeroes(len: usize) -> Arc<[u8]> {
    std::iter::repeat_n(0, len).collect()
}

/// A part of something that was read into memory.
#[derive(Debug, Clone)]
pub struct Piece {
    bytes: Arc<[u8]>,
    range: Range<usize>,
}

impl Piece {
    /// A part of these bytes; none if it is not within them.
    #[must_use]
    pub fn new(bytes: Arc<[u8]>, range: Range<usize>) -> Option<Self> {
        bytes.get(range.clone())?;
        Some(Self { bytes, range })
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

/// One mail's text: header and body, with whatever line ends the source has stored. The receiver folds CRLF to LF.
pub struct Body {
    /// The bytes, streamed; never held whole because of their size.
    pub reader: Box<dyn Read + Send>,
    /// How many bytes `reader` gives, where that is known for certain.
    pub size: Option<u64>,
    /// The size with every line end counted as CRLF, where the source has recorded it.
    pub virtual_size: Option<u64>,
    /// The same bytes in a file, where they lie there as they are: lets the kernel move them.
    pub range: Option<FileRange>,
    /// The same bytes once more, where they are in memory already.
    pub whole: Option<Piece>,
}

impl Body {
    /// A mail that lies in a file as it is.
    #[must_use]
    pub fn from_range(range: FileRange, virtual_size: Option<u64>) -> Self {
        Self {
            reader: Box::new(RangeReader { range: range.clone(), at: 0 }),
            size: Some(range.len),
            virtual_size,
            range: Some(range),
            whole: None,
        }
    }

    /// A mail in memory.
    #[must_use]
    pub fn from_piece(piece: Piece, virtual_size: Option<u64>) -> Self {
        Self {
            size: Some(piece.as_ref().len() as u64),
            reader: Box::new(Cursor::new(piece.clone())),
            virtual_size,
            range: None,
            whole: Some(piece),
        }
    }

    /// A mail in memory, for tests and small generated ones.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Arc<[u8]> = bytes.into().into();
        Self::from_piece(Piece { range: 0..bytes.len(), bytes }, None)
    }

    /// A mail that comes from somewhere else: of these bytes, if that is known for certain.
    #[must_use]
    pub fn from_reader(reader: Box<dyn Read + Send>, size: Option<u64>, virtual_size: Option<u64>) -> Self {
        Self { reader, size, virtual_size, range: None, whole: None }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("size", &self.size).field("range", &self.range).finish_non_exhaustive()
    }
}

struct RangeReader {
    range: FileRange,
    at: u64,
}

impl Read for RangeReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let left = self.range.len - self.at;
        let n = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if n == 0 {
            return Ok(0);
        }
        let n = self.range.file.read_at(&mut buf[..n], self.range.offset + self.at)?;
        if n == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the file is shorter than recorded"));
        }
        self.at += n as u64;
        Ok(n)
    }
}
