//! CRLF to LF, as dbox stores text (dbox.md 1.4).

use memchr::{memchr, memchr_iter};

/// Folds a stream piece by piece: one CR directly before LF is dropped, once; everything else stays.
#[derive(Debug, Default)]
pub(super) struct Fold {
    /// A CR at the end of what was fed, not given out yet.
    held: bool,
    /// The last byte given out was a CR.
    after_cr: bool,
    /// Bytes given out.
    size: u64,
    /// LFs given out that are not behind a CR.
    bare_lfs: u64,
}

impl Fold {
    /// Folds a piece into `out`.
    pub fn feed(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        if self.held
            && let Some(&first) = piece.first()
        {
            self.held = false;
            if first != b'\n' {
                self.give(b"\r", out);
            }
        }
        while let Some(cr) = memchr(b'\r', piece) {
            match piece.get(cr + 1) {
                None => {
                    self.give(&piece[..cr], out);
                    self.held = true;
                    return;
                }
                Some(b'\n') => {
                    self.give(&piece[..cr], out);
                    piece = &piece[cr + 1..];
                }
                Some(_) => {
                    self.give(&piece[..=cr], out);
                    piece = &piece[cr + 1..];
                }
            }
        }
        self.give(piece, out);
    }

    /// Ends the stream: a CR at the very end stays.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.held) {
            self.give(b"\r", out);
        }
    }

    /// Bytes given out so far.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The same with every line end counted as CRLF.
    pub const fn virtual_size(&self) -> u64 {
        self.size + self.bare_lfs
    }

    /// `bytes` have a CR at their end only, if at all: `feed` cuts there.
    fn give(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return };
        let lfs = memchr_iter(b'\n', bytes).count() as u64;
        self.bare_lfs += lfs - u64::from(first == b'\n' && self.after_cr);
        self.after_cr = last == b'\r';
        self.size += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fold(pieces: &[&[u8]]) -> (Vec<u8>, u64) {
        let (mut fold, mut out) = (Fold::default(), Vec::new());
        for piece in pieces {
            fold.feed(piece, &mut out);
        }
        fold.finish(&mut out);
        assert_eq!(fold.size(), out.len() as u64);
        (out, fold.virtual_size())
    }

    #[test]
    fn the_example_of_the_specification() {
        // dbox.md 1.4, checked there against Dovecot: V = size + 3
        let (out, virtual_size) = fold(&[b"x\r\r\n\n\r\na\r\r\nb\rc\n"]);
        assert_eq!(out, b"x\r\n\n\na\r\nb\rc\n");
        assert_eq!(virtual_size, out.len() as u64 + 3);
    }

    proptest! {
        #[test]
        fn as_the_rule_says_however_it_is_cut(
            text in prop::collection::vec(prop::sample::select(vec![b'\r', b'\n', b'a', 0]), 0..40),
            cuts in prop::collection::vec(0..40usize, 0..6),
        ) {
            let mut want = Vec::new();
            let mut want_virtual = 0;
            for (i, &c) in text.iter().enumerate() {
                if c == b'\r' && text.get(i + 1) == Some(&b'\n') {
                    continue;
                }
                if c == b'\n' && want.last() != Some(&b'\r') {
                    want_virtual += 1;
                }
                want.push(c);
                want_virtual += 1;
            }
            // The CR that was dropped does not make the LF behind it a CRLF on disk, one in front of it does.
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&text[from..cut]);
                from = cut;
            }
            pieces.push(&text[from..]);
            prop_assert_eq!(fold(&pieces), (want, want_virtual));
        }
    }
}
