//! The bytes of a mail on their way from one storage to another.

use std::fs::File;
use std::io::Read;
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
        }
    }

    /// A mail in memory, for tests and small generated ones.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { size: Some(bytes.len() as u64), reader: Box::new(std::io::Cursor::new(bytes)), virtual_size: None, range: None }
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
        use std::os::unix::fs::FileExt;
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
