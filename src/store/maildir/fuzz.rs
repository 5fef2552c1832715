//! Doors for the fuzz targets of the Maildir files (see [`crate::fuzz`]).

use std::path::Path;

use super::header::ScanHeader;
use super::keywords::Table;
use super::lines::{Counter, Folder, LineEnd};
use super::name;
use super::uidlist::{Entry, Header, Uidlist};

pub(crate) fn uidlist(bytes: &[u8]) {
    let first = memchr::memchr(b'\n', bytes).map_or(bytes, |end| &bytes[..end]);
    let _ = Header::parse(first);
    let Ok((mut list, torn)) = Uidlist::parse(bytes) else { return };
    assert!(torn <= bytes.len());
    let lines = |list: &Uidlist| -> Vec<(u32, Vec<u8>, Vec<u8>)> {
        list.iter().map(|e| (e.uid, e.ext.to_vec(), e.base.to_vec())).collect()
    };
    // Read in two parts it is the same.
    if torn == 0
        && let Some(at) = memchr::memrchr(b'\n', &bytes[..bytes.len() - 1])
        && let Ok((mut begin, 0)) = Uidlist::parse(&bytes[..=at])
        && begin.parse_appended(&bytes[at + 1..]).is_ok_and(|torn| torn == 0)
        && !first.starts_with(b"1 ")
    {
        assert_eq!(lines(&begin), lines(&list));
    }
    for entry in list.iter() {
        let _ = (entry.get(b'W'), entry.guid(), list.find(entry.uid));
    }
    list.drop_duplicates();
    let uid = list.next_uid();
    let added = list.push(Entry { uid, ext: b"W5", base: b"new" });
    assert!(added || uid > super::uidlist::MAX_UID, "{uid}");
    let (again, torn) = Uidlist::parse(&list.serialize()).expect("we read what we write");
    assert_eq!((lines(&again), torn), (lines(&list), 0));
    list.retain(|n, _| n % 2 == 0);
    list.replace(Entry { uid, ext: b"", base: b"other" });
    let _ = list.serialize();
}

pub(crate) fn keywords(bytes: &[u8]) {
    let table = Table::parse(bytes, Path::new("dovecot-keywords"));
    assert_eq!(Table::parse(&table.serialize(), Path::new("dovecot-keywords")), table);
    let _ = ScanHeader::parse(bytes).map(|h| h.bytes());
}

/// Two file names.
pub(crate) fn name(bytes: &[u8]) {
    let (a, b) = bytes.split_at(memchr::memchr(b'/', bytes).unwrap_or(bytes.len()));
    let b = b.strip_prefix(b"/").unwrap_or(b);
    let (flags, letters) = name::flags(a);
    assert!(a.starts_with(name::base(a)));
    let written = name::with_flags(a, flags, letters);
    assert_eq!(name::flags(&written), (flags, letters), "{:?}", String::from_utf8_lossy(&written));
    assert_eq!(name::base(&written), name::base(a));
    let _ = (name::size(a, b'S'), name::size(a, b'W'), name::fits_as_base(a));
    assert_eq!(name::uid_order(a, b), name::uid_order(b, a).reverse());
}

/// A text in two parts has the same line ends and sizes as in one.
pub(crate) fn line_ends(bytes: &[u8]) {
    let Some((&cut, text)) = bytes.split_first() else { return };
    let (a, b) = text.split_at(usize::from(cut).min(text.len()));
    let mut whole = Counter::default();
    whole.feed(text);
    let mut parts = Counter::default();
    parts.feed(a);
    parts.feed(b);
    assert_eq!(whole.sizes(), parts.sizes());
    for to in [LineEnd::Lf, LineEnd::CrLf] {
        let fold = |parts: &[&[u8]]| {
            let (mut folder, mut out) = (Folder::new(to), Vec::new());
            parts.iter().for_each(|p| folder.feed(p, &mut out));
            folder.finish(&mut out);
            out
        };
        let folded = fold(&[text]);
        assert_eq!(fold(&[a, b]), folded);
        let mut check = Folder::new(to);
        let stays = [check.leaves(a), check.leaves(b)];
        assert_eq!(stays == [true; 2], folded == text);
    }
}
