//! The first line of a dbox file and the header in front of each message (dbox.md 1.1). Nothing is opened here.

use std::fmt::Write as _;

use super::Damage;
use crate::mail::Timestamp;

/// Size of a message header as every writer makes it.
pub const MESSAGE_HEADER_SIZE: usize = 0x1e;

/// The longest message header that is believed; only 30 was ever written.
const MAX_MESSAGE_HEADER: usize = 4096;

const MESSAGE_MAGIC: [u8; 2] = [1, 2];

/// The first line of a dbox file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    /// 1 or 2. Only files of version 2 may be appended to.
    pub version: u8,
    /// Size of each message header in this file, bytes.
    pub message_header_size: usize,
    /// `C`: when the file was made; 0 if that is missing or not a number.
    pub created: Timestamp,
    /// Length of the line with its LF, bytes: the first message's offset.
    pub len: usize,
}

impl FileHeader {
    /// The longest first line that is believed, bytes.
    pub const MAX_LEN: usize = 1024;

    /// Reads the line at the front of `bytes`, which should hold [`Self::MAX_LEN`] bytes or the whole file.
    ///
    /// # Errors
    /// [`Damage::Version`], [`Damage::NoHeaderSize`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let end = memchr::memchr(b'\n', &bytes[..bytes.len().min(Self::MAX_LEN)]).ok_or(Damage::Version)?;
        let line = &bytes[..end];
        let [version @ (b'1' | b'2'), b' ', fields @ ..] = line else { return Err(Damage::Version) };
        let mut size = None;
        let mut created = 0;
        for field in fields.split(|&c| c == b' ') {
            match field.split_first() {
                Some((b'M', hex)) => size = parse_hex(hex),
                Some((b'C', hex)) => created = parse_hex(hex).unwrap_or(0),
                _ => {}
            }
        }
        let size = size
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (MESSAGE_HEADER_SIZE..=MAX_MESSAGE_HEADER).contains(n))
            .ok_or(Damage::NoHeaderSize)?;
        Ok(Self {
            version: version - b'0',
            message_header_size: size,
            created: Timestamp(u32::try_from(created).unwrap_or(u32::MAX)),
            len: end + 1,
        })
    }

    /// The line of a new file.
    #[must_use]
    pub fn line(created: Timestamp) -> Vec<u8> {
        format!("2 M{MESSAGE_HEADER_SIZE:x} C{:x}\n", created.0).into_bytes()
    }
}

/// The header in front of a message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHeader {
    /// Bytes of the body on disk.
    pub body_size: u64,
}

impl MessageHeader {
    /// Reads a header; `bytes` has exactly the size that the file's first line tells, or less at the end of the file.
    ///
    /// # Errors
    /// Too short, wrong magic, no LF at its end. Nothing else is looked at (dbox.md 1.3); a size that is no number reads as 0.
    pub fn parse(bytes: &[u8], want: usize) -> Result<Self, Damage> {
        let Some(header) = bytes.get(..want).filter(|h| h.len() >= MESSAGE_HEADER_SIZE) else {
            return Err(Damage::ShortHeader { got: bytes.len(), want });
        };
        if header[..2] != MESSAGE_MAGIC {
            return Err(Damage::HeaderMagic);
        }
        if header[want - 1] != b'\n' {
            return Err(Damage::HeaderEnd);
        }
        Ok(Self { body_size: parse_hex(&header[13..29]).unwrap_or(0) })
    }

    /// The 30 bytes of this header.
    #[must_use]
    pub fn encode(&self) -> [u8; MESSAGE_HEADER_SIZE] {
        let mut text = String::with_capacity(MESSAGE_HEADER_SIZE);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\x01\x02N {:8} {:016X}", "", self.body_size);
        let mut out = [0; MESSAGE_HEADER_SIZE];
        out.copy_from_slice(text.as_bytes());
        out
    }
}

/// A hexadecimal number of 1 to 16 digits in any case.
pub(super) fn parse_hex(digits: &[u8]) -> Option<u64> {
    let significant = digits.iter().position(|&c| c != b'0').map_or(0, |zeros| digits.len() - zeros);
    if digits.is_empty() || significant > 16 {
        return None;
    }
    digits.iter().try_fold(0u64, |n, &c| Some(n << 4 | u64::from((c as char).to_digit(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_specification() {
        // dbox.md 1.6
        let header = FileHeader::parse(b"2 M1e C6b01fb01\n\x01\x02N").expect("valid");
        assert_eq!(header, FileHeader { version: 2, message_header_size: 30, created: Timestamp(0x6b01_fb01), len: 16 });
        assert_eq!(FileHeader::line(Timestamp(0x6b01_fb01)), b"2 M1e C6b01fb01\n");

        let bytes = b"\x01\x02N          000000000000009A\n";
        assert_eq!(MessageHeader { body_size: 0x9a }.encode(), *bytes);
        assert_eq!(MessageHeader::parse(bytes, 30), Ok(MessageHeader { body_size: 0x9a }));
    }

    #[test]
    fn fields_in_any_order_and_unknown_ones() {
        let header = FileHeader::parse(b"1 A2f Xyz Cff M20 \n").expect("valid");
        assert_eq!((header.version, header.message_header_size, header.created.0), (1, 32, 255));
        assert_eq!(FileHeader::parse(b"2 M1e\n").expect("valid").created.0, 0);
    }

    #[test]
    fn bad_first_lines() {
        for (bytes, damage) in [
            (&b""[..], Damage::Version),
            (b"2 M1e C1", Damage::Version),
            (b"3 M1e C1\n", Damage::Version),
            (b"\n", Damage::Version),
            (b"2 C1\n", Damage::NoHeaderSize),
            (b"2 M0 C1\n", Damage::NoHeaderSize),
            (b"2 Mfffffffff C1\n", Damage::NoHeaderSize),
        ] {
            assert_eq!(FileHeader::parse(bytes), Err(damage), "{bytes:?}");
        }
    }

    #[test]
    fn bad_message_headers() {
        let good = MessageHeader { body_size: 5 }.encode();
        for cut in 0..good.len() {
            assert_eq!(MessageHeader::parse(&good[..cut], 30), Err(Damage::ShortHeader { got: cut, want: 30 }));
        }
        assert_eq!(MessageHeader::parse(&[0; 30], 30), Err(Damage::HeaderMagic));
        let mut bad = good;
        bad[29] = b' ';
        assert_eq!(MessageHeader::parse(&bad, 30), Err(Damage::HeaderEnd));
        bad = good;
        bad[20] = b'x';
        assert_eq!(MessageHeader::parse(&bad, 30), Ok(MessageHeader { body_size: 0 }));
    }
}
