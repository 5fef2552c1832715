//! Line ends of a mail on its way into a file (maildir.md 3.5), and the two sizes that go into its name. No I/O.

/// What is stored at the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// LF: CRLF loses its CR, a CR elsewhere stays (`mail_save_crlf=no`).
    Lf,
    /// CRLF: a LF alone gets a CR (`mail_save_crlf=yes`).
    CrLf,
}

/// How large a stored mail is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Bytes as they are stored (uncompressed): `S`.
    pub physical: u64,
    /// Bytes with every LF alone counted as CRLF: `W`.
    pub with_crlf: u64,
}

/// Counts both sizes of bytes as they are stored.
#[derive(Debug, Default)]
pub(super) struct Counter {
    sizes: Sizes,
    ends_in_cr: bool,
}

impl Counter {
    /// Counts the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        let lf = memchr::memchr_iter(b'\n', bytes).count();
        let crlf = memchr::memchr_iter(b'\r', bytes).filter(|&at| bytes.get(at + 1) == Some(&b'\n')).count()
            + usize::from(self.ends_in_cr && bytes[0] == b'\n');
        self.ends_in_cr = *last == b'\r';
        self.sizes.physical += bytes.len() as u64;
        self.sizes.with_crlf += (bytes.len() + lf - crlf) as u64;
    }

    /// The sizes of all that was counted.
    pub const fn sizes(&self) -> Sizes {
        self.sizes
    }
}

/// Brings the line ends of a stream of bytes into one form.
#[derive(Debug)]
pub(super) struct Folder {
    to: LineEnd,
    // A CR was read and not written yet: what follows decides.
    held_cr: bool,
}

impl Folder {
    /// Towards this line end.
    pub const fn new(to: LineEnd) -> Self {
        Self { to, held_cr: false }
    }

    /// Appends the stored form of the next bytes to `out`.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        match self.to {
            LineEnd::Lf => {
                if self.held_cr && !bytes.is_empty() {
                    self.held_cr = false;
                    if bytes[0] != b'\n' {
                        out.push(b'\r');
                    }
                }
                while let Some(at) = memchr::memchr(b'\r', bytes) {
                    out.extend_from_slice(&bytes[..at]);
                    match bytes.get(at + 1) {
                        Some(b'\n') => {}
                        Some(_) => out.push(b'\r'),
                        None => self.held_cr = true,
                    }
                    bytes = &bytes[at + 1..];
                }
                out.extend_from_slice(bytes);
            }
            LineEnd::CrLf => {
                while let Some(at) = memchr::memchr(b'\n', bytes) {
                    out.extend_from_slice(&bytes[..at]);
                    let after_cr = if at > 0 { bytes[at - 1] == b'\r' } else { self.held_cr };
                    out.extend_from_slice(if after_cr { b"\n" } else { b"\r\n" });
                    self.held_cr = false;
                    bytes = &bytes[at + 1..];
                }
                out.extend_from_slice(bytes);
                if let Some(last) = bytes.last() {
                    // Written already; only remembered.
                    self.held_cr = *last == b'\r';
                }
            }
        }
    }

    /// Appends what was held back at the end.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.to == LineEnd::Lf && self.held_cr {
            out.push(b'\r');
        }
    }

    /// Whether bytes that continue those before stay as they are. To be asked for all parts of a mail in turn.
    pub fn leaves(&mut self, bytes: &[u8]) -> bool {
        let Some(last) = bytes.last() else { return true };
        let after_cr = std::mem::replace(&mut self.held_cr, *last == b'\r');
        match self.to {
            LineEnd::Lf => {
                !(after_cr && bytes[0] == b'\n') && memchr::memchr_iter(b'\r', bytes).all(|at| bytes.get(at + 1) != Some(&b'\n'))
            }
            LineEnd::CrLf => memchr::memchr_iter(b'\n', bytes).all(|at| if at > 0 { bytes[at - 1] == b'\r' } else { after_cr }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fold(to: LineEnd, parts: &[&[u8]]) -> Vec<u8> {
        let mut folder = Folder::new(to);
        let mut out = Vec::new();
        for part in parts {
            folder.feed(part, &mut out);
        }
        folder.finish(&mut out);
        out
    }

    fn sizes(bytes: &[u8]) -> Sizes {
        let mut counter = Counter::default();
        counter.feed(bytes);
        counter.sizes()
    }

    #[test]
    fn a_bare_cr_stays() {
        assert_eq!(fold(LineEnd::Lf, &[b"a\r\nb\rc\r\r\nd\r"]), b"a\nb\rc\r\nd\r");
        assert_eq!(fold(LineEnd::CrLf, &[b"a\r\nb\n\nc\rd"]), b"a\r\nb\r\n\r\nc\rd");
    }

    #[test]
    fn both_sizes() {
        assert_eq!(sizes(b"a\nb\r\nc"), Sizes { physical: 6, with_crlf: 7 });
        assert_eq!(sizes(b""), Sizes::default());
    }

    proptest! {
        #[test]
        fn parts_do_not_matter(text in "[a\r\n]{0,30}", cut in 0usize..30, cut2 in 0usize..30) {
            let bytes = text.as_bytes();
            let (a, b) = (cut.min(bytes.len()), cut2.min(bytes.len()));
            let (a, b) = (a.min(b), a.max(b));
            for to in [LineEnd::Lf, LineEnd::CrLf] {
                let whole = fold(to, &[bytes]);
                prop_assert_eq!(&fold(to, &[&bytes[..a], &bytes[a..b], &bytes[b..]]), &whole);

                let mut asked = Folder::new(to);
                let leaves = [&bytes[..a], &bytes[a..b], &bytes[b..]].map(|part| asked.leaves(part)).iter().all(|l| *l);
                prop_assert_eq!(leaves, whole == bytes);

                let mut counter = Counter::default();
                counter.feed(&whole[..a.min(whole.len())]);
                counter.feed(&whole[a.min(whole.len())..]);
                prop_assert_eq!(counter.sizes(), sizes(&whole));
            }
            let crlf = text.replace("\r\n", "\n").replace('\n', "\r\n");
            prop_assert_eq!(sizes(bytes).with_crlf, crlf.len() as u64);
        }
    }
}
