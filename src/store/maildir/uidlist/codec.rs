//! The bytes of a `dovecot-uidlist` and its content in memory, about 20 bytes a mail beside its line. Nothing is opened here.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::mail::{MailboxGuid, UidValidity};
use crate::store::maildir::name;

/// The highest UID that a mail can have.
pub(in crate::store::maildir) const MAX_UID: u32 = u32::MAX - 1;

/// What makes a uidlist useless (5.2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(in crate::store::maildir) struct Broken {
    /// Counted from 1.
    pub line: usize,
    /// In words.
    pub reason: String,
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store::maildir) struct Header {
    /// `V`.
    pub uidvalidity: UidValidity,
    /// `N` as it was last written: too low as soon as lines were appended ([`Uidlist::next_uid`]).
    pub next: u32,
    /// `G`. Without one the list has to be rewritten.
    pub guid: Option<MailboxGuid>,
    /// Fields that we do not know, each with a blank in front.
    pub other: Vec<u8>,
}

impl Header {
    /// That of a new list.
    pub const fn new(uidvalidity: UidValidity, guid: MailboxGuid) -> Self {
        Self { uidvalidity, next: 1, guid: Some(guid), other: Vec::new() }
    }

    /// Understands a first line, LF not included. Says whether it is of version 1.
    pub fn parse(line: &[u8]) -> Result<(Self, bool), Broken> {
        let broken = |reason: String| Broken { line: 1, reason };
        let (version, rest) = match memchr::memchr(b' ', line) {
            Some(space) => line.split_at(space),
            None => return Err(broken("no header".into())),
        };
        let mut fields = rest.split(|&c| c == b' ').filter(|f| !f.is_empty());
        let number = |digits: &[u8]| name::number(digits).and_then(|n| u32::try_from(n).ok());
        match version {
            b"3" => {
                let (mut uidvalidity, mut next, mut guid, mut other) = (None, None, None, Vec::new());
                for field in fields {
                    match (field[0], &field[1..]) {
                        (b'V', value) => uidvalidity = number(value),
                        (b'N', value) => next = number(value),
                        (b'G', value) => {
                            let text = String::from_utf8_lossy(value);
                            guid = Some(text.parse().map_err(|_| broken(format!("invalid mailbox GUID {text:?}")))?);
                        }
                        _ => {
                            other.push(b' ');
                            other.extend_from_slice(field);
                        }
                    }
                }
                match (uidvalidity.and_then(UidValidity::new), next.filter(|&n| n > 0)) {
                    (Some(uidvalidity), Some(next)) => Ok((Self { uidvalidity, next, guid, other }, false)),
                    _ => Err(broken("UIDVALIDITY (V) or next UID (N) is missing or no valid number".into())),
                }
            }
            b"1" => match (fields.next().and_then(number).and_then(UidValidity::new), fields.next().and_then(number)) {
                (Some(uidvalidity), Some(next)) if next > 0 => {
                    Ok((Self { uidvalidity, next, guid: None, other: Vec::new() }, true))
                }
                _ => Err(broken("UIDVALIDITY or next UID is missing or no valid number".into())),
            },
            _ => Err(broken(format!("unsupported version {:?}", String::from_utf8_lossy(&version[..version.len().min(20)])))),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Record {
    uid: u32,
    // Where in the text the extensions begin; BASE follows them.
    at: u32,
    ext_len: u32,
    base_len: u32,
}

/// A uidlist in memory.
#[derive(Debug, Clone)]
pub(in crate::store::maildir) struct Uidlist {
    /// The first line.
    pub header: Header,
    // Extensions and BASE of all records, one behind the other.
    text: Vec<u8>,
    records: Vec<Record>,
    needs_rewrite: bool,
}

/// A line.
#[derive(Debug, Clone, Copy)]
pub(in crate::store::maildir) struct Entry<'a> {
    /// The UID.
    pub uid: u32,
    /// The extensions, one blank between two.
    pub ext: &'a [u8],
    /// BASE of the file's name.
    pub base: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The value of an extension; may be empty.
    pub fn get(&self, key: u8) -> Option<&'a [u8]> {
        self.ext.split(|&c| c == b' ').find(|field| field.first() == Some(&key)).map(|field| &field[1..])
    }

    /// The mail's GUID: extension `G`, else BASE (3.1).
    pub fn guid(&self) -> &'a [u8] {
        self.get(b'G').filter(|g| !g.is_empty()).unwrap_or(self.base)
    }

    /// The line, LF included.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.uid.to_string().as_bytes());
        out.push(b' ');
        if !self.ext.is_empty() {
            out.extend_from_slice(self.ext);
            out.push(b' ');
        }
        out.push(b':');
        out.extend_from_slice(self.base);
        out.push(b'\n');
    }
}

impl Uidlist {
    /// Without any mail.
    pub const fn new(header: Header) -> Self {
        Self { header, text: Vec::new(), records: Vec::new(), needs_rewrite: true }
    }

    /// Understands a whole file. Bytes behind the last line end are no record (their number is the second value): then
    /// nothing may be appended, only rewritten (5.3, torn last line).
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), Broken> {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            return Err(Broken { line: 1, reason: if bytes.is_empty() { "the file is empty" } else { "incomplete" }.into() });
        };
        let (header, version1) = Header::parse(&bytes[..end])?;
        let mut list = Self { needs_rewrite: version1 || header.guid.is_none(), ..Self::new(header) };
        // A place for each line, and no more: they stay as long as the mailbox is open.
        list.text.reserve(bytes.len());
        list.records.reserve_exact(memchr::memchr_iter(b'\n', &bytes[end + 1..]).count());
        let torn = list.parse_lines(&bytes[end + 1..], 2, version1)?;
        list.text.shrink_to_fit();
        list.needs_rewrite |= torn > 0;
        Ok((list, torn))
    }

    /// Understands lines that were appended behind those known. Returns how many bytes stand behind the last line end.
    pub fn parse_appended(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let first = self.records.len() + 2;
        let torn = self.parse_lines(bytes, first, false)?;
        self.needs_rewrite |= torn > 0;
        Ok(torn)
    }

    fn parse_lines(&mut self, mut bytes: &[u8], first_line: usize, version1: bool) -> Result<usize, Broken> {
        let mut line = first_line;
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.parse_line(&bytes[..end], version1).map_err(|reason| Broken { line, reason })?;
            bytes = &bytes[end + 1..];
            line += 1;
        }
        Ok(bytes.len())
    }

    fn parse_line(&mut self, line: &[u8], version1: bool) -> Result<(), String> {
        let space = memchr::memchr(b' ', line).ok_or("no blank behind the UID")?;
        let uid = name::number(&line[..space]).and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0 && n <= MAX_UID);
        let uid = uid.ok_or("invalid UID")?;
        if let Some(last) = self.records.last().filter(|last| uid <= last.uid) {
            return Err(format!("UIDs not ordered ({uid} >= {})", last.uid));
        }
        let mut rest = &line[space + 1..];
        let at = self.text.len();
        if version1 {
            if uid >= self.header.next {
                return Err(format!("UID {uid} is not below the next UID {}", self.header.next));
            }
        } else {
            rest = loop {
                match rest.first() {
                    Some(b' ') => rest = &rest[1..],
                    Some(b':') => break &rest[1..],
                    Some(_) => {
                        let end = memchr::memchr(b' ', rest).ok_or("no file name")?;
                        self.keep_extension(at, &rest[..end], uid);
                        rest = &rest[end + 1..];
                    }
                    None => return Err("no file name".into()),
                }
            };
        }
        let base = name::base(rest);
        if base.is_empty() || memchr::memchr(b'/', rest).is_some() {
            return Err(format!("broken file name {:?}", String::from_utf8_lossy(&rest[..rest.len().min(255)])));
        }
        let ext_len = self.text.len() - at;
        self.text.extend_from_slice(base);
        self.add_record(uid, at, ext_len, base.len())
    }

    fn keep_extension(&mut self, at: usize, field: &[u8], uid: u32) {
        // An empty GUID is an error that Dovecot removes as well (3.1); an empty UIDL has a meaning (3.3).
        if !field[0].is_ascii_uppercase() || field == b"G" {
            tracing::warn!("dovecot-uidlist: UID {uid}: removing the invalid field {:?}", String::from_utf8_lossy(field));
            self.needs_rewrite = true;
            return;
        }
        if self.text.len() > at {
            self.text.push(b' ');
        }
        self.text.extend_from_slice(field);
    }

    fn add_record(&mut self, uid: u32, at: usize, ext_len: usize, base_len: usize) -> Result<(), String> {
        let small = |n: usize| u32::try_from(n).map_err(|_| "the file is too large".to_owned());
        self.records.push(Record { uid, at: small(at)?, ext_len: small(ext_len)?, base_len: small(base_len)? });
        Ok(())
    }

    /// Adds a line behind the others. `false` if the UID is not higher than theirs, or there is no room for more.
    #[must_use]
    pub fn push(&mut self, entry: Entry<'_>) -> bool {
        if entry.uid < self.next_after_last() || entry.uid > MAX_UID {
            return false;
        }
        let at = self.text.len();
        self.text.extend_from_slice(entry.ext);
        self.text.extend_from_slice(entry.base);
        self.add_record(entry.uid, at, entry.ext.len(), entry.base.len()).is_ok()
    }

    /// Gives a UID that is there another file and other fields. From now on the list has to be rewritten.
    pub fn replace(&mut self, entry: Entry<'_>) {
        let Some(n) = self.position(entry.uid) else { return };
        let at = self.text.len();
        self.text.extend_from_slice(entry.ext);
        self.text.extend_from_slice(entry.base);
        if self.add_record(entry.uid, at, entry.ext.len(), entry.base.len()).is_ok() {
            self.records.swap_remove(n);
        }
        self.needs_rewrite = true;
    }

    fn next_after_last(&self) -> u32 {
        self.records.last().map_or(1, |r| r.uid.saturating_add(1))
    }

    /// The lowest UID that is free (5.1).
    pub fn next_uid(&self) -> u32 {
        self.header.next.max(self.next_after_last())
    }

    /// How many lines.
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// The n-th line.
    pub fn get(&self, n: usize) -> Option<Entry<'_>> {
        self.records.get(n).map(|r| self.entry(r))
    }

    /// Which line has this UID.
    pub fn position(&self, uid: u32) -> Option<usize> {
        self.records.binary_search_by_key(&uid, |r| r.uid).ok()
    }

    /// The line of this UID.
    pub fn find(&self, uid: u32) -> Option<Entry<'_>> {
        self.position(uid).and_then(|n| self.get(n))
    }

    fn entry(&self, r: &Record) -> Entry<'_> {
        // Records are made from this text only, and it never shrinks while they live.
        let (at, ext, base) = (r.at as usize, r.ext_len as usize, r.base_len as usize);
        Entry { uid: r.uid, ext: &self.text[at..at + ext], base: &self.text[at + ext..at + ext + base] }
    }

    /// All lines, by ascending UID.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.records.iter().map(|r| self.entry(r))
    }

    /// Which line has this BASE.
    pub fn by_base(&self) -> HashMap<&[u8], usize> {
        self.iter().enumerate().map(|(n, entry)| (entry.base, n)).collect()
    }

    /// Drops the lower UID of every BASE that stands there twice (5.2).
    pub fn drop_duplicates(&mut self) {
        let by_base = self.by_base();
        if by_base.len() == self.len() {
            return;
        }
        let keep: Vec<bool> = self.iter().enumerate().map(|(n, entry)| by_base.get(entry.base) == Some(&n)).collect();
        for entry in self.iter().zip(&keep).filter(|(_, keep)| !**keep).map(|(entry, _)| entry) {
            tracing::warn!(
                "dovecot-uidlist: duplicate entry of file {}, UID {} dropped",
                String::from_utf8_lossy(entry.base),
                entry.uid
            );
        }
        self.retain(|n, _| keep[n]);
    }

    /// Keeps the lines that the function wants, and from now on has to be rewritten.
    pub fn retain(&mut self, mut keep: impl FnMut(usize, Entry<'_>) -> bool) {
        let wanted: Vec<bool> = self.iter().enumerate().map(|(n, entry)| keep(n, entry)).collect();
        let mut wanted = wanted.into_iter();
        // Never used up before the records are: it was made from them.
        self.records.retain(|_| wanted.next().unwrap_or(true));
        self.needs_rewrite = true;
    }

    /// The list cannot be brought up to date by appending to the file.
    pub const fn needs_rewrite(&self) -> bool {
        self.needs_rewrite
    }

    /// From now on it has to be rewritten.
    pub const fn set_needs_rewrite(&mut self, needs: bool) {
        self.needs_rewrite = needs;
    }

    /// The whole file, version 3, with the header's next UID raised to the true one.
    pub fn serialize(&self) -> Vec<u8> {
        let mut header = format!("3 V{} N{}", self.header.uidvalidity, self.next_uid());
        if let Some(guid) = &self.header.guid {
            // Writing to a String cannot fail.
            let _ = write!(header, " G{guid}");
        }
        let mut out = Vec::with_capacity(header.len() + self.text.len() + self.records.len() * 12);
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&self.header.other);
        out.push(b'\n');
        for entry in self.iter() {
            entry.write(&mut out);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIVE: &[u8] = b"3 V1795293326 N7 G680bc8378e00026b2109000076ce35a6\n\
        1 P000000016b02008e :1795293326.M935857P2337.mx1.example.org,S=206,W=214\n\
        4 :1795293326.M941682P2337.mx1.example.org,S=209,W=217\n\
        6 G1795293326.M935857P2337.mx1.example.org,S=206,W=214 P000000066b02008e :1795293326.M960218P2345.mx1.example.org,S=206,W=214\n";

    fn ok(bytes: &[u8]) -> Uidlist {
        let (list, torn) = Uidlist::parse(bytes).expect("a sound list");
        assert_eq!(torn, 0);
        list
    }

    #[test]
    fn the_example_of_the_specification() {
        let list = ok(LIVE);
        assert_eq!(list.len(), 3);
        let last = list.find(6).expect("there");
        assert_eq!(last.guid(), list.find(1).expect("there").base);
        assert_eq!(last.get(b'P'), Some(&b"000000066b02008e"[..]));
        assert_eq!(list.next_uid(), 7);
        assert!(!list.needs_rewrite());
        assert_eq!(list.serialize(), LIVE);
    }

    #[test]
    fn version_1_is_read_and_becomes_3() {
        // corpus/maildir/v1-before.tar
        let list = ok(b"1 1234567890 12\n3 1700000001.a.host.example.org:2,S\n7 1700000002.b.host.example.org\n");
        assert!(list.needs_rewrite());
        assert_eq!(list.find(3).expect("there").base, b"1700000001.a.host.example.org");
        assert!(list.serialize().starts_with(b"3 V1234567890 N12\n"));
        assert!(Uidlist::parse(b"1 5 2\n2 x\n").is_err());
    }

    #[test]
    fn broken_lists_name_their_line() {
        let cases: [(&[u8], usize); 12] = [
            (b"", 1),
            (b"3 V1234 N5", 1),
            (b"3 V1234 N5 Gzz\n", 1),
            (b"3 V0 N5\n", 1),
            (b"3 V5 N0\n", 1),
            (b"2 V1234 N2\n", 1),
            (b"3 V1 N1\n4 :a\n2 :b\n", 3),
            (b"3 V1 N1\n1 1700000001.a.host\n", 2),
            (b"3 V1 N1\n1 :../x\n", 2),
            (b"3 V1 N1\n4294967295 :x\n", 2),
            (b"3 V1 N1\n1 :\n", 2),
            (b"3 V1 N1\n0 :x\n", 2),
        ];
        for (bytes, line) in cases {
            assert_eq!(Uidlist::parse(bytes).expect_err("broken").line, line, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn unknown_fields_stay_invalid_ones_go() {
        // corpus/maildir/expected.json, unknown-keys and empty-guid-ext
        let list =
            ok(b"3 V1234 N5 G00112233445566778899aabbccddeeff Xfoo Zbar\n1 Ax Bz zlow :a\n2 Gabc  Ppop O3 S10 W12 :b\n3 G :c\n");
        assert!(list.needs_rewrite());
        assert_eq!(
            list.serialize(),
            b"3 V1234 N5 G00112233445566778899aabbccddeeff Xfoo Zbar\n1 Ax Bz :a\n2 Gabc Ppop O3 S10 W12 :b\n3 :c\n"
        );
        assert_eq!(list.find(3).expect("there").guid(), b"c");
    }

    #[test]
    fn a_torn_line_is_none() {
        let (list, torn) = Uidlist::parse(b"3 V1234 N2\n1 :a\n2 :1700000002.b").expect("sound so far");
        assert_eq!((list.len(), torn), (1, 15));
        assert!(list.needs_rewrite());
    }

    #[test]
    fn the_later_uid_of_a_doubled_file_stays() {
        let mut list = ok(b"3 V1234 N2 G00112233445566778899aabbccddeeff\n1 :a\n2 :a\n3 :b\n");
        list.drop_duplicates();
        assert_eq!(list.iter().map(|e| e.uid).collect::<Vec<_>>(), [2, 3]);
        assert!(list.needs_rewrite());
    }

    #[test]
    fn appended_lines_continue() {
        let mut list = ok(LIVE);
        assert_eq!(list.parse_appended(b"9 :x\n10 :y").expect("sound"), 5);
        assert_eq!(list.next_uid(), 10);
        assert_eq!(list.parse_appended(b"9 :z\n").expect_err("not ascending").line, 6);
    }

    fn entry() -> impl Strategy<Value = (u32, Vec<u8>, Vec<u8>)> {
        (1u32..1000, "([A-FH-Z][!-~]{0,3}( [A-FH-Z][!-~]{0,3}){0,2})?", "[!-.0-9;-~][ !-.0-9;-~]{0,9}")
            .prop_map(|(step, ext, base)| (step, ext.into_bytes(), base.into_bytes()))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entries in proptest::collection::vec(entry(), 0..20)) {
            let guid = MailboxGuid::new([7; 16]).expect("not zero");
            let mut list = Uidlist::new(Header::new(UidValidity::new(9).expect("not 0"), guid));
            let mut uid = 0;
            for (step, ext, base) in &entries {
                uid += step;
                let pushed = list.push(Entry { uid, ext, base });
                prop_assert!(pushed);
            }
            let bytes = list.serialize();
            let again = ok(&bytes);
            prop_assert_eq!(again.len(), entries.len());
            prop_assert_eq!(again.serialize(), bytes);
        }

        #[test]
        fn hostile_bytes_are_an_error_or_a_list(bytes in "3 V1 N2\n([0-9]{1,3} ([A-Cg][a:/]? ){0,2}:[a-b/:]{0,2}\n?){0,6}") {
            if let Ok((list, _)) = Uidlist::parse(bytes.as_bytes()) {
                let written = list.serialize();
                prop_assert_eq!(ok(&written).serialize(), written);
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Uidlist::parse(&bytes);
            let _ = ok(LIVE).parse_appended(&bytes);
        }
    }
}
