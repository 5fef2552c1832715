//! Values as text: escaping, NULL, lists (wire.md 2.2, 2.3, 2.5).

use std::borrow::Cow;

const ESCAPE: u8 = 0x01;
const NULL: u8 = 0x02;

const fn escaped(b: u8) -> Option<u8> {
    Some(match b {
        0x00 => b'0',
        0x01 => b'1',
        b'\t' => b't',
        b'\r' => b'r',
        b'\n' => b'n',
        _ => return None,
    })
}

const fn unescaped(b: u8) -> u8 {
    match b {
        b'0' => 0x00,
        b'1' => 0x01,
        b't' => b'\t',
        b'r' => b'\r',
        b'n' => b'\n',
        other => other,
    }
}

/// Adds `value`, tab-escaped, to `out`.
pub fn escape_into(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|b| escaped(*b).is_some()) {
        out.extend_from_slice(&rest[..at]);
        out.extend([ESCAPE, escaped(rest[at]).unwrap_or_default()]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// The value, tab-escaped.
#[must_use]
pub fn escape(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    escape_into(&mut out, value);
    out
}

/// What was escaped. A lone escape octet at the end is dropped.
#[must_use]
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(ESCAPE, text) else { return Cow::Borrowed(text) };
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while let Some((&b, after)) = rest.split_first() {
        if b != ESCAPE {
            let end = memchr::memchr(ESCAPE, rest).unwrap_or(rest.len());
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        } else if let Some((&code, after)) = after.split_first() {
            out.push(unescaped(code));
            rest = after;
        } else {
            break;
        }
    }
    Cow::Owned(out)
}

/// Adds a value, or NULL, as it stands between two TABs.
pub fn value_into(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => out.push(NULL),
        Some(v) => {
            if v.first() == Some(&NULL) {
                out.push(NULL);
            }
            escape_into(out, v);
        }
    }
}

/// What stands between two TABs: a value, or NULL. Dovecot's values end at a NUL, and so do ours.
#[must_use]
pub fn value(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut value = match text {
        [NULL] => return None,
        [NULL, rest @ ..] => unescape(rest),
        text => unescape(text),
    };
    if let Some(end) = memchr::memchr(0, &value) {
        value = match value {
            Cow::Borrowed(v) => Cow::Borrowed(&v[..end]),
            Cow::Owned(mut v) => {
                v.truncate(end);
                Cow::Owned(v)
            }
        };
    }
    Some(value)
}

/// The elements of a list value; none of an empty one.
#[must_use]
pub fn split_list(value: &[u8]) -> Vec<Vec<u8>> {
    if value.is_empty() {
        return Vec::new();
    }
    value.split(|b| *b == b'\t').map(|e| unescape(e).into_owned()).collect()
}

/// As [`split_list`]; `None` if there are more elements than `most`.
#[must_use]
pub fn split_short_list(value: &[u8], most: usize) -> Option<Vec<Vec<u8>>> {
    (memchr::memchr_iter(b'\t', value).count() < most).then(|| split_list(value))
}

/// A list value of these elements.
pub fn join_list<T: AsRef<[u8]>>(elements: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, element) in elements.into_iter().enumerate() {
        if n > 0 {
            out.push(b'\t');
        }
        escape_into(&mut out, element.as_ref());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_special_octet_has_its_letter() {
        assert_eq!(escape(b"\0\x01\t\r\nx\x80"), b"\x010\x011\x01t\x01r\x01nx\x80");
        assert_eq!(unescape(b"a\x01"), &b"a"[..]);
        assert_eq!(unescape(b"\x01q"), &b"q"[..]);
    }

    #[test]
    fn null_and_empty_differ() {
        let written = |v: Option<&[u8]>| {
            let mut out = Vec::new();
            value_into(&mut out, v);
            out
        };
        assert_eq!(written(None), [2]);
        assert_eq!(written(Some(b"")), b"");
        assert_eq!(written(Some(b"\x02")), [2, 2]);
        assert_eq!(value(&[2]), None);
        assert_eq!(value(&[2, 2]).as_deref(), Some(&[2][..]));
        assert_eq!(value(b"a\x010b").as_deref(), Some(&b"a"[..]), "cut at a NUL");
    }

    proptest! {
        #[test]
        fn values_come_back(v in proptest::option::of(proptest::collection::vec(1u8.., 0..20))) {
            let mut out = Vec::new();
            value_into(&mut out, v.as_deref());
            prop_assert!(!out.contains(&b'\n') && !out.contains(&b'\t'));
            prop_assert_eq!(value(&out).map(Cow::into_owned), v);
        }

        #[test]
        fn lists_come_back(list in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..5), 0..5)) {
            prop_assert_eq!(split_list(&join_list(&list)), list);
        }

        #[test]
        fn hostile_text_never_panics(v in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = value(&v);
            let _ = split_list(&v);
        }
    }
}
