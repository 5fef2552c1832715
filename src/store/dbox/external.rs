//! Attachments that Dovecot stored outside of the message (dbox.md 4.1): what the metadata says, the files they are in,
//! and the text put together again. We never write any: what we save is whole.

use std::collections::VecDeque;
use std::fs::{self as std_fs, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::mail::{MailboxGuid, Uid};
use crate::os::fs;
use crate::store::Settings;
use crate::store::decode::Sized;

/// File bytes that are encoded at once; a multiple of 3, so that padding comes at the very end only.
const PIECE: usize = 48 * 1024;

/// Why attachments cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExternalError {
    /// The message has some and the configuration does not say where.
    #[error("attachments are stored outside of the message, but mail_attachment_dir is not set")]
    NoDirectory,
    /// They are behind a file system driver that is not a plain directory.
    #[error("attachments are stored with mail_attachment_fs={0}, which is not supported")]
    Driver(String),
    /// The `X` line is not as it should be.
    #[error("metadata field X has an invalid value: {0:?}")]
    Invalid(String),
}

/// Where attachments are: `mail_attachment_dir` and `mail_attachment_fs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachments {
    dir: PathBuf,
    /// `sis`: each content has a further link in a `hashes` directory.
    single_instance: bool,
}

impl Attachments {
    /// As the settings say.
    ///
    /// # Errors
    /// No directory, or a driver that does more than keep plain files.
    pub fn of(settings: &Settings) -> Result<Self, ExternalError> {
        let dir = settings.attachment_dir.clone().ok_or(ExternalError::NoDirectory)?;
        let driver = settings.attachment_fs.trim();
        let queue = driver.strip_prefix("sis-queue ").and_then(|rest| rest.split_once(':'));
        let single_instance = match driver {
            "posix" => false,
            "sis posix" => true,
            _ if queue.is_some_and(|(_, parent)| parent == "posix") => true,
            _ => return Err(ExternalError::Driver(driver.to_owned())),
        };
        Ok(Self { dir, single_instance })
    }

    /// The file of an attachment.
    fn file(&self, part: &Part, owner: Option<Owner>) -> PathBuf {
        let mut path = self.dir.join(&part.path).into_os_string();
        if let Some(Owner { mailbox, uid }) = owner {
            path.push(format!("-{mailbox}-{uid}"));
        }
        path.into()
    }

    /// Removes the attachments of a message that is gone, and the shared content where nobody else has it.
    ///
    /// # Errors
    /// What the system says; files that are not there are no error.
    pub fn delete(&self, parts: &External, owner: Option<Owner>) -> fs::Result<()> {
        for part in &parts.0 {
            let path = self.file(part, owner);
            if self.single_instance
                && let Some(shared) = part.shared_name().map(|name| self.dir.join(name))
                && let (Ok(own), Ok(other)) = (std_fs::metadata(&path), std_fs::metadata(&shared))
                && own.nlink() == 2
                && (own.dev(), own.ino()) == (other.dev(), other.ino())
            {
                fs::unlink_if_there(&shared)?;
            }
            fs::unlink_if_there(&path)?;
        }
        Ok(())
    }

    /// Gives the attachments of a message to another mailbox or UID as further links; the metadata stays the same.
    ///
    /// # Errors
    /// What the system says; a link that is there already is none.
    pub fn link(&self, parts: &External, from: Owner, to: Owner) -> fs::Result<()> {
        for part in &parts.0 {
            match fs::link(&self.file(part, Some(from)), &self.file(part, Some(to))) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// The text: the stored one (decompressed) with the attachments put in at their places.
    pub(super) fn insert(&self, parts: &External, owner: Option<Owner>, stored: Box<dyn Read + Send>) -> Box<dyn Read + Send> {
        let parts = parts.0.iter().map(|part| (self.file(part, owner), part.clone())).collect();
        Box::new(Reconstruct { stored, parts, at: 0, current: None })
    }
}

/// Whose attachments they are, in sdbox: part of their file names, but not of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// GUID of the mailbox.
    pub mailbox: MailboxGuid,
    /// UID of the mail.
    pub uid: Uid,
}

/// The external parts of a message, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Where it begins in the complete text.
    start: u64,
    /// How many bytes of the complete text it makes.
    size: u64,
    /// It is stored decoded and becomes base64 with this many characters a line.
    base64: Option<u64>,
    /// Lines of the base64 end with CRLF.
    crlf: bool,
    path: String,
}

impl External {
    /// Reads the value of `X` of a message whose text has `plain_size` bytes.
    ///
    /// # Errors
    /// [`ExternalError::Invalid`]: not four words each, overlapping, beyond the text, or a path that leads elsewhere.
    pub fn parse(value: &[u8], plain_size: u64) -> Result<Self, ExternalError> {
        let invalid = || ExternalError::Invalid(String::from_utf8_lossy(value).into_owned());
        let text = std::str::from_utf8(value).map_err(|_| invalid())?;
        let words: Vec<&str> = text.split(' ').collect();
        let (chunks, rest) = words.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(invalid());
        }
        let mut parts = Vec::with_capacity(chunks.len());
        let mut end = 0;
        for chunk in chunks {
            let part = Part::parse(*chunk).ok_or_else(invalid)?;
            let part_end = part.start.checked_add(part.size).ok_or_else(invalid)?;
            if part.start < end || part_end > plain_size {
                return Err(invalid());
            }
            end = part_end;
            parts.push(part);
        }
        Ok(Self(parts))
    }
}

impl Part {
    fn parse([start, size, options, path]: [&str; 4]) -> Option<Self> {
        let number = |s: &str| s.bytes().all(|c| c.is_ascii_digit()).then(|| s.parse::<u64>().ok()).flatten();
        let (mut base64, mut crlf) = (None, false);
        let mut rest = options.strip_prefix('-').unwrap_or(options);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('C') {
                crlf = true;
                rest = after;
            } else {
                let digits = rest.strip_prefix('B')?;
                let len = digits.bytes().take_while(u8::is_ascii_digit).count();
                let per_line = number(&digits[..len]).filter(|n| *n > 0 && n % 4 == 0)?;
                base64 = Some(per_line);
                rest = &digits[len..];
            }
        }
        // The path comes from a file that anybody may have made: it must stay below the attachment directory.
        let levels: Vec<&str> = path.split('/').collect();
        let good = |level: &str| !level.is_empty() && level != "." && level != ".." && !level.contains('\0');
        let [a, b, _] = levels.as_slice() else { return None };
        if a.len() != 2 || b.len() != 2 || !levels.iter().all(|l| good(l)) {
            return None;
        }
        Some(Self { start: number(start)?, size: number(size)?, base64, crlf, path: path.to_owned() })
    }

    /// The name of the content that all messages with it share: `xx/yy/hashes/HASH`.
    fn shared_name(&self) -> Option<PathBuf> {
        let path = Path::new(&self.path);
        let (hash, _) = path.file_name()?.to_str()?.split_once('-')?;
        Some(path.parent()?.join("hashes").join(hash))
    }
}

struct Reconstruct {
    stored: Box<dyn Read + Send>,
    parts: VecDeque<(PathBuf, Part)>,
    /// Bytes given out.
    at: u64,
    current: Option<Box<dyn Read + Send>>,
}

impl Read for Reconstruct {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(part) = &mut self.current {
                let n = part.read(buf)?;
                if n > 0 {
                    self.at += n as u64;
                    return Ok(n);
                }
                self.current = None;
            }
            let inline = self.parts.front().map(|(_, part)| part.start - self.at);
            if inline == Some(0) {
                if let Some((path, part)) = self.parts.pop_front() {
                    self.current = Some(part.open(&path)?);
                }
                continue;
            }
            let most = inline.map_or(buf.len(), |n| buf.len().min(usize::try_from(n).unwrap_or(usize::MAX)));
            let n = self.stored.read(&mut buf[..most])?;
            if n == 0 && inline.is_some() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stored text ends before an external attachment"));
            }
            self.at += n as u64;
            return Ok(n);
        }
    }
}

impl Part {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let file =
            File::open(path).map_err(|e| io::Error::new(e.kind(), format!("cannot open attachment {}: {e}", path.display())))?;
        Ok(match self.base64 {
            None => Box::new(Sized::new(file, self.size)),
            Some(per_line) => {
                let line_end = if self.crlf { "\r\n" } else { "\n" };
                let encoder = Base64 { file, per_line, line_end, column: 0, raw: Vec::new(), out: Vec::new(), given: 0 };
                Box::new(Sized::new(encoder, self.size))
            }
        })
    }
}

/// A file as lines of base64, joined by line ends.
struct Base64<R> {
    file: R,
    per_line: u64,
    line_end: &'static str,
    column: u64,
    raw: Vec<u8>,
    out: Vec<u8>,
    given: usize,
}

impl<R: Read> Base64<R> {
    fn refill(&mut self) -> io::Result<()> {
        self.raw.clear();
        self.file.by_ref().take(PIECE as u64).read_to_end(&mut self.raw)?;
        let text = STANDARD.encode(&self.raw);
        self.out.clear();
        self.given = 0;
        let mut left = text.as_bytes();
        while !left.is_empty() {
            if self.column == self.per_line {
                self.out.extend_from_slice(self.line_end.as_bytes());
                self.column = 0;
            }
            let n = left.len().min(usize::try_from(self.per_line - self.column).unwrap_or(usize::MAX));
            self.out.extend_from_slice(&left[..n]);
            self.column += n as u64;
            left = &left[n..];
        }
        Ok(())
    }
}

impl<R: Read> Read for Base64<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.given == self.out.len() {
            self.refill()?;
        }
        let n = buf.len().min(self.out.len() - self.given);
        buf[..n].copy_from_slice(&self.out[self.given..self.given + n]);
        self.given += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "01/84/0184f5085e51d2e15af91452721f8cf6d96d8f1e-31872332d7ff016b215f000083ecc375";

    #[test]
    fn references() {
        let value = format!("10 20 B76 {PATH} 30 5 CB4 {PATH} 35 0 - {PATH}");
        let parts = External::parse(value.as_bytes(), 35).expect("valid");
        let short: Vec<_> = parts.0.iter().map(|p| (p.start, p.size, p.base64, p.crlf)).collect();
        assert_eq!(short, [(10, 20, Some(76), false), (30, 5, Some(4), true), (35, 0, None, false)]);
        assert_eq!(parts.0[0].shared_name(), Some(PathBuf::from("01/84/hashes/0184f5085e51d2e15af91452721f8cf6d96d8f1e")));
    }

    #[test]
    fn bad_references() {
        for bad in [
            "",
            "1 2 -",
            "1 2 - p",
            "1 2 B3 aa/bb/c",
            "1 2 B0 aa/bb/c",
            "1 2 Q aa/bb/c",
            "1 2 - ../bb/c",
            "1 2 - aa/bb/..",
            "1 2 - /aa/bb",
            "1 2 - aa/bb/c/d",
            "5 2 - aa/bb/c 6 2 - aa/bb/c",
            "9 2 - aa/bb/c",
            "-1 2 - aa/bb/c",
            "1  2 - aa/bb/c",
            "18446744073709551615 18446744073709551615 - aa/bb/c",
        ] {
            assert!(External::parse(bad.as_bytes(), 10).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_references(words in proptest::collection::vec("[0-9BCabc/.-]{0,12}", 0..12), size: u64) {
            if let Ok(parts) = External::parse(words.join(" ").as_bytes(), size) {
                proptest::prop_assert!(parts.0.iter().all(|p| p.start + p.size <= size && !p.path.contains("..")));
            }
        }
    }

    #[test]
    fn base64_lines_are_joined() {
        for (per_line, bytes, want) in [(4, &b"abcdef"[..], "YWJj\r\nZGVm"), (8, b"abcdefg", "YWJjZGVm\r\nZw=="), (8, b"", "")] {
            let mut text = String::new();
            let mut encoder =
                Base64 { file: bytes, per_line, line_end: "\r\n", column: 0, raw: Vec::new(), out: Vec::new(), given: 0 };
            encoder.read_to_string(&mut text).expect("ascii");
            assert_eq!(text, want);
        }
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut text = String::new();
        let mut encoder =
            Base64 { file: &bytes[..], per_line: 76, line_end: "\n", column: 0, raw: Vec::new(), out: Vec::new(), given: 0 };
        encoder.read_to_string(&mut text).expect("ascii");
        assert!(text.split('\n').rev().skip(1).all(|l| l.len() == 76));
        assert_eq!(STANDARD.decode(text.replace('\n', "")).expect("valid"), bytes);
    }

    #[test]
    fn drivers() {
        let with = |driver: &str| {
            Attachments::of(&Settings { attachment_dir: Some("/a".into()), attachment_fs: driver.into(), ..Settings::default() })
        };
        assert!(!with("posix").expect("plain").single_instance);
        assert!(with("sis posix").expect("plain").single_instance);
        assert!(with("sis-queue /var/queue:posix").expect("plain").single_instance);
        assert_eq!(with("compress gz:6:posix"), Err(ExternalError::Driver("compress gz:6:posix".into())));
        assert!(with("sis-queue /q:crypt:posix").is_err());
        assert_eq!(Attachments::of(&Settings::default()), Err(ExternalError::NoDirectory));
    }
}
