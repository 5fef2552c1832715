//! From stored bytes to a mail's text: compression (dbox.md 4.2) and encryption (4.3), shared by dbox and Maildir.
//!
//! No flag marks a compressed body. Readers look at its first bytes, and only if the configuration has a plugin for it; the
//! size of the text that is recorded elsewhere (`Z`, `S=`) tells whether they were right. Everything streams; no input makes
//! a decoder hold more than some megabytes, or give more bytes than were recorded.

mod check;
mod lz4;
mod magic;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use crate::mail::{Body, Class, FileRange, Piece};
use crate::store::Settings;

pub use check::Sized;
pub use magic::{Method, is_encrypted};

/// Compressed bytes read at once.
const BUFFER: usize = 64 * 1024;
/// Most memory that an xz stream may want, bytes: that of its highest level.
const XZ_MEMORY: u64 = 80 << 20;
/// Largest zstd window, as a power of two: what `zstd` itself accepts without being told.
const ZSTD_WINDOW: u32 = 27;

/// Which plugins the configuration has for stored bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plugins {
    /// `zlib`, `mail_compress`: bodies may be compressed.
    pub compression: bool,
    /// `mail_crypt` encrypts what is saved.
    pub encrypts: bool,
}

impl Plugins {
    /// As the settings say.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let has = |name: &str| settings.plugins.iter().any(|p| p == name);
        let version = settings.mail_crypt_save_version.as_deref();
        Self {
            compression: has("zlib") || has("mail_compress"),
            // Without the setting the plugin does not load; 0 is "read only".
            encrypts: has("mail_crypt") && version.is_none_or(|v| v != "0"),
        }
    }
}

/// Why a stored body cannot be read. Only this mail is concerned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// mail_crypt.
    #[error("message is encrypted with mail_crypt, which is not supported")]
    Encrypted,
    /// It looks compressed, has another size than the text should have, and the configuration has no plugin for it.
    #[error("message is compressed ({0}), but no compression plugin configured")]
    NoPlugin(Method),
    /// The first bytes cannot be read, or no decoder be made.
    #[error("cannot read the stored body: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// The class of such an error.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Encrypted | Self::NoPlugin(_) => Class::NotPossible,
            Self::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => Class::Permission,
            Self::Io(_) => Class::Temporary,
        }
    }
}

/// What a stored body is.
pub enum Decoded {
    /// The text as it is.
    Plain,
    /// Compressed; this gives the text. If its size was recorded, the reader fails unless it gives exactly that many bytes.
    Text(Box<dyn Read + Send>),
}

impl std::fmt::Debug for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Text(_) => "Text",
        })
    }
}

/// A stored body, in its file and perhaps in memory as well.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// In its file.
    pub range: &'a FileRange,
    /// All its bytes, if somebody has read them already.
    pub whole: Option<&'a Piece>,
}

/// Looks what a stored body is. `recorded` is the size of its text as the storage recorded it, if it did.
///
/// - Recorded and equal to the stored size: plain, unless it can be decompressed to just as many bytes.
/// - Recorded and different: compressed if the plugin is there and the magic matches. Without the plugin an error if
///   `strict`, else plain, as Dovecot gives it for a Maildir file with a wrong size in its name.
/// - Not recorded: compressed if the plugin is there and the magic matches.
///
/// # Errors
/// See [`Error`].
pub fn decode(stored: Stored<'_>, recorded: Option<u64>, plugins: Plugins, strict: bool) -> Result<Decoded, Error> {
    let Stored { range: stored, whole } = stored;
    let mut buffer = [0; magic::LONGEST];
    let first = match whole {
        Some(piece) => piece.as_ref(),
        None => {
            let n = read_up_to(&stored.file, &mut buffer, stored)?;
            &buffer[..n]
        }
    };
    let differs = recorded.is_some_and(|size| size != stored.len);
    if is_encrypted(first) && (differs || recorded.is_none()) {
        return Err(Error::Encrypted);
    }
    let Some(method) = Method::of(first) else { return Ok(Decoded::Plain) };
    if !plugins.compression {
        return if strict && differs { Err(Error::NoPlugin(method)) } else { Ok(Decoded::Plain) };
    }
    let decoder = || decoder(method, Body::from_range(stored.clone(), None).reader);
    match recorded {
        Some(size) if differs => Ok(Decoded::Text(Box::new(Sized::new(decoder()?, size)))),
        // As good as always a text that merely begins so; to be sure it is read once.
        Some(size) if !gives(decoder()?, size) => Ok(Decoded::Plain),
        Some(size) => Ok(Decoded::Text(Box::new(Sized::new(decoder()?, size)))),
        None => Ok(Decoded::Text(decoder()?)),
    }
}

fn gives(reader: Box<dyn Read + Send>, size: u64) -> bool {
    io::copy(&mut reader.take(size.saturating_add(1)), &mut io::sink()).is_ok_and(|n| n == size)
}

/// The text of a compressed stream.
///
/// # Errors
/// No memory for a decoder.
pub fn decoder(method: Method, stored: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let stored = BufReader::with_capacity(BUFFER, stored);
    Ok(match method {
        Method::Gz => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
        Method::Bz2 => Box::new(bzip2::bufread::MultiBzDecoder::new(stored)),
        Method::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(stored, stream))
        }
        Method::Lz4 => Box::new(lz4::Decoder::new(stored)),
        Method::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(stored)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
    })
}

/// Compresses a text that would be taken for a compressed one if it were stored as it is (dbox.md 4.2, last point).
pub type Encoder = flate2::write::GzEncoder<Vec<u8>>;

/// A new one, into memory.
#[must_use]
pub fn encoder() -> Encoder {
    Encoder::new(Vec::new(), flate2::Compression::default())
}

fn read_up_to(file: &File, buf: &mut [u8], range: &FileRange) -> io::Result<usize> {
    let want = buf.len().min(usize::try_from(range.len).unwrap_or(usize::MAX));
    let mut done = 0;
    while done < want {
        match file.read_at(&mut buf[done..want], range.offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
