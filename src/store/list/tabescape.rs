//! Dovecot's escaping of values in lines: byte 1 in front of a letter that stands for NUL, 1, TAB, CR or LF
//! (mailbox-list.md 9.1). Subscriptions and dictionary files have it.

const TABLE: [(u8, u8); 5] = [(0, b'0'), (1, b'1'), (b'\t', b't'), (b'\r', b'r'), (b'\n', b'n')];

/// Appends the escaped form.
pub fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &b in bytes {
        match TABLE.iter().find(|(plain, _)| *plain == b) {
            Some(&(_, letter)) => out.extend([1, letter]),
            None => out.push(b),
        }
    }
}

/// Appends what an escaped form means. A letter that stands for nothing stands for itself.
pub fn unescape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes.iter();
    while let Some(&b) = rest.next() {
        if b != 1 {
            out.push(b);
        } else if let Some(&letter) = rest.next() {
            out.push(TABLE.iter().find(|(_, l)| *l == letter).map_or(letter, |&(plain, _)| plain));
        }
    }
}

#[cfg(test)]
mod tests {
    proptest::proptest! {
        #[test]
        fn comes_back(bytes in proptest::collection::vec(0_u8..20, 0..20)) {
            let (mut escaped, mut back) = (Vec::new(), Vec::new());
            super::escape(&bytes, &mut escaped);
            super::unescape(&escaped, &mut back);
            proptest::prop_assert!(!escaped.contains(&b'\n'));
            proptest::prop_assert_eq!(back, bytes);
        }
    }
}
