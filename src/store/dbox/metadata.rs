//! The metadata block behind a body (dbox.md 1.2): kept as its lines, so that what is unknown survives.

use std::fmt::Write as _;

use super::Damage;
use super::header::parse_hex;
use crate::mail::{MailGuid, Timestamp};

/// What a metadata block begins with. The first LF belongs to it, never to the body.
pub(super) const MAGIC: [u8; 4] = [b'\n', 1, 3, b'\n'];

/// A message's metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The lines with their LF, without the magic and the empty line at the end.
    lines: Vec<u8>,
}

impl Metadata {
    /// Reads a block. `Ok(None)`: it goes on behind these bytes. Else the metadata and the length of the block with its end.
    ///
    /// # Errors
    /// [`Damage::MetadataMagic`].
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Damage> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(Damage::MetadataMagic);
        }
        if known < MAGIC.len() {
            return Ok(None);
        }
        let mut at = MAGIC.len();
        while let Some(len) = memchr::memchr(b'\n', &bytes[at..]) {
            if len == 0 || bytes[at] == b' ' {
                return Ok(Some((Self { lines: bytes[MAGIC.len()..at].to_vec() }, at + len + 1)));
            }
            at += len + 1;
        }
        Ok(None)
    }

    /// Writes magic, lines and end to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.lines);
        out.push(b'\n');
    }

    /// Keys and values in the order of the file, repeated ones included.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.lines.split(|&c| c == b'\n').filter_map(|line| line.split_first()).map(|(&key, value)| (key, value))
    }

    /// The value of a key; the first one where it occurs twice.
    #[must_use]
    pub fn get(&self, key: u8) -> Option<&[u8]> {
        self.fields().find(|&(k, _)| k == key).map(|(_, value)| value)
    }

    /// `Z`: the size of the text, where it differs from the stored body's and can be parsed.
    #[must_use]
    pub fn plain_size(&self) -> Option<u64> {
        self.get(b'Z').and_then(parse_hex)
    }

    /// `V`: the size with CRLF line ends, where it is there and can be parsed.
    #[must_use]
    pub fn virtual_size(&self) -> Option<u64> {
        self.get(b'V').and_then(parse_hex)
    }

    /// `R`: when the mail was received; 0 if that is missing. Dovecot writes dates before 1970 as 64 bits of two's complement:
    /// they, and those that 32 bits cannot hold, become the nearest that can be told.
    ///
    /// # Errors
    /// It is not a number of 64 bits.
    pub fn received(&self) -> Result<Timestamp, Damage> {
        let Some(value) = self.get(b'R') else { return Ok(Timestamp(0)) };
        parse_hex(value)
            .map(|n| Timestamp(u32::try_from(n.cast_signed().max(0)).unwrap_or(u32::MAX)))
            .ok_or_else(|| Damage::Field { key: b'R', value: String::from_utf8_lossy(value).into_owned() })
    }

    /// `P`: the POP3 UIDL; what is no UTF-8 in it is replaced. An empty one is none.
    #[must_use]
    pub fn pop3_uidl(&self) -> Option<String> {
        self.get(b'P').filter(|v| !v.is_empty()).map(|v| String::from_utf8_lossy(v).into_owned())
    }

    /// `O`: the POP3 order; 0 if there is none, or no decimal number.
    #[must_use]
    pub fn pop3_order(&self) -> u32 {
        self.get(b'O').and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    /// `G`: the GUID.
    ///
    /// # Errors
    /// [`Damage::NoGuid`] if it is missing or empty.
    pub fn guid(&self) -> Result<MailGuid, Damage> {
        self.get(b'G').and_then(MailGuid::new).ok_or(Damage::NoGuid)
    }

    /// `B`: storage name of the mailbox that an mdbox mail was first saved to.
    #[must_use]
    pub fn mailbox(&self) -> Option<&[u8]> {
        self.get(b'B')
    }

    /// `X`: the references to external attachments.
    #[must_use]
    pub fn external(&self) -> Option<&[u8]> {
        self.get(b'X').filter(|v| !v.is_empty())
    }

    /// The same with other values for the keys that `new` sets; everything else stays as it is, in its place.
    #[must_use]
    pub fn with(&self, new: &NewMetadata<'_>) -> Self {
        let mut out = Self::default();
        for (key, value) in self.fields().filter(|(key, _)| !b"RPOGB".contains(key)) {
            out.push(key, value);
        }
        let mut at_end = Vec::new();
        new.encode_before_size(&mut at_end);
        new.encode_behind_size(&mut at_end);
        out.lines.extend_from_slice(&at_end);
        out
    }

    fn push(&mut self, key: u8, value: &[u8]) {
        self.lines.push(key);
        self.lines.extend_from_slice(value);
        self.lines.push(b'\n');
    }
}

/// The metadata of a mail to be saved, except its sizes.
#[derive(Debug, Clone, Copy)]
pub struct NewMetadata<'a> {
    /// Received; 0 is legal.
    pub received: Timestamp,
    /// The GUID.
    pub guid: &'a MailGuid,
    /// The POP3 UIDL.
    pub pop3_uidl: Option<&'a str>,
    /// The POP3 order; 0 = none.
    pub pop3_order: u32,
    /// mdbox: storage name of the mailbox. Left out if it cannot stand on a line.
    pub mailbox: Option<&'a str>,
}

impl NewMetadata<'_> {
    /// Everything can stand on a line of its own.
    ///
    /// # Errors
    /// The field that cannot.
    pub(super) fn check(&self) -> Result<(), Damage> {
        let guid = self.guid.text();
        for (key, value) in [(b'G', guid.as_slice()), (b'P', self.pop3_uidl.unwrap_or("").as_bytes())] {
            if value.contains(&b'\n') {
                return Err(Damage::Field { key, value: String::from_utf8_lossy(value).into_owned() });
            }
        }
        Ok(())
    }

    /// The whole block in Dovecot's order Z R V P O G B.
    pub(super) fn encode(&self, plain_size: Option<u64>, virtual_size: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        let mut text = String::new();
        // Writing to a String cannot fail.
        if let Some(size) = plain_size {
            let _ = writeln!(text, "Z{size:x}");
        }
        out.extend_from_slice(text.as_bytes());
        self.encode_before_size(out);
        out.extend_from_slice(format!("V{virtual_size:x}\n").as_bytes());
        self.encode_behind_size(out);
        out.push(b'\n');
    }

    fn encode_before_size(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("R{:x}\n", self.received.0).as_bytes());
    }

    fn encode_behind_size(&self, out: &mut Vec<u8>) {
        let mut line = |key: u8, value: &[u8]| {
            out.push(key);
            out.extend_from_slice(value);
            out.push(b'\n');
        };
        if let Some(uidl) = self.pop3_uidl.filter(|u| !u.is_empty()) {
            line(b'P', uidl.as_bytes());
        }
        if self.pop3_order != 0 {
            line(b'O', self.pop3_order.to_string().as_bytes());
        }
        line(b'G', &self.guid.text());
        if let Some(mailbox) = self.mailbox.filter(|m| !m.contains(['\r', '\n'])) {
            line(b'B', mailbox.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &[u8] = b"\n\x01\x03\nR6b01fb01\nVa1\nqunknown key\nG3950f22601fb016b0431000083ecc375\nGsecond\nBArchive\n\n";

    #[test]
    fn every_prefix_is_unfinished() {
        for cut in 0..BLOCK.len() {
            assert_eq!(Metadata::parse(&BLOCK[..cut]), Ok(None), "{cut}");
        }
        let (metadata, len) = Metadata::parse(BLOCK).expect("valid").expect("whole");
        assert_eq!(len, BLOCK.len());
        let mut again = Vec::new();
        metadata.encode(&mut again);
        assert_eq!(again, BLOCK);
    }

    #[test]
    fn first_wins_and_missing_reads_as_nothing() {
        let (metadata, _) = Metadata::parse(BLOCK).expect("valid").expect("whole");
        assert_eq!(metadata.guid().expect("there").to_string(), "3950f22601fb016b0431000083ecc375");
        assert_eq!(metadata.received(), Ok(Timestamp(0x6b01_fb01)));
        assert_eq!(metadata.virtual_size(), Some(0xa1));
        assert_eq!((metadata.plain_size(), metadata.pop3_uidl(), metadata.pop3_order()), (None, None, 0));
        assert_eq!(Metadata::default().received(), Ok(Timestamp(0)));
        assert_eq!(Metadata::default().guid(), Err(Damage::NoGuid));
    }

    #[test]
    fn a_space_ends_the_block_of_version_1() {
        let (metadata, len) = Metadata::parse(b"\n\x01\x03\nR1\n rest\nmore").expect("valid").expect("whole");
        assert_eq!((metadata.received(), len), (Ok(Timestamp(1)), 13));
    }

    #[test]
    fn a_bad_date_is_an_error_of_that_field() {
        for bad in ["Rxyz", "R", "R11234567812345678"] {
            let (metadata, _) = Metadata::parse(format!("\n\x01\x03\n{bad}\n\n").as_bytes()).expect("valid").expect("whole");
            assert!(metadata.received().is_err(), "{bad}");
        }
    }

    /// The first is what Dovecot writes for 1 January 1960.
    #[test]
    fn a_date_out_of_reach_is_the_nearest() {
        for (line, nearest) in [("Rffffffffed300880", 0), ("R100000000", u32::MAX), ("Rffffffff", u32::MAX)] {
            let (metadata, _) = Metadata::parse(format!("\n\x01\x03\n{line}\n\n").as_bytes()).expect("valid").expect("whole");
            assert_eq!(metadata.received(), Ok(Timestamp(nearest)), "{line}");
        }
    }

    #[test]
    fn unknown_keys_survive_a_change() {
        let (metadata, _) = Metadata::parse(BLOCK).expect("valid").expect("whole");
        let guid = MailGuid::new("other").expect("not empty");
        let new = NewMetadata { received: Timestamp(2), guid: &guid, pop3_uidl: Some("u1"), pop3_order: 12, mailbox: None };
        let mut out = Vec::new();
        metadata.with(&new).encode(&mut out);
        assert_eq!(out, b"\n\x01\x03\nVa1\nqunknown key\nR2\nPu1\nO12\nGother\n\n");
    }

    #[test]
    fn order_of_a_new_block() {
        let guid = MailGuid::new("g").expect("not empty");
        let new =
            NewMetadata { received: Timestamp(2), guid: &guid, pop3_uidl: Some("u"), pop3_order: 10, mailbox: Some("B&x-") };
        let mut out = Vec::new();
        new.encode(Some(255), 256, &mut out);
        assert_eq!(out, b"\n\x01\x03\nZff\nR2\nV100\nPu\nO10\nGg\nBB&x-\n\n");
        assert!(NewMetadata { pop3_uidl: Some("a\nb"), ..new }.check().is_err());
    }
}
