//! Mail streams: octets that end with a line of a dot (wire.md 2.6, 2.8).

/// Adds the sender's dots.
#[derive(Debug)]
pub struct Stuffer {
    line_start: bool,
}

impl Default for Stuffer {
    fn default() -> Self {
        // A leading dot is always stuffed: every receiver takes it away, and an unstuffed one ends some streams (wire.md 2.8).
        Self { line_start: true }
    }
}

impl Stuffer {
    /// Adds a part of the data to `out`.
    pub fn add(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let mut rest = data;
        while !rest.is_empty() {
            if self.line_start && rest[0] == b'.' {
                out.push(b'.');
            }
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |n| n + 1);
            out.extend_from_slice(&rest[..end]);
            self.line_start = rest[end - 1] == b'\n';
            rest = &rest[end..];
        }
    }

    /// Ends the stream.
    pub fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n.\r\n");
    }
}

/// Takes the sender's dots away. Knows the senders that leave a leading dot as it is.
#[derive(Debug, Default)]
pub(super) struct Unstuffer {
    /// Within a line; else at its start.
    inside: bool,
    /// Some octets have been seen.
    begun: bool,
    /// A line end that belongs to the data unless the end of the stream follows.
    line_end: &'static [u8],
}

impl Unstuffer {
    /// Where only the end of the stream is left.
    pub const fn at_end() -> Self {
        Self { inside: false, begun: true, line_end: b"" }
    }

    /// Reads from `input`, appending to `out`. Returns how many octets were used up, and whether the stream has ended. What
    /// is not used up must be given again, with more behind it.
    pub fn read(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            if !self.inside {
                if rest[0] == b'.' {
                    match (self.begun, rest) {
                        (true, [b'.', b'\n', ..]) => return (at + 2, true),
                        (true, [b'.', b'\r', b'\n', ..]) => return (at + 3, true),
                        (_, [b'.'] | [b'.', b'\r']) => return (at, false),
                        // A sender that does not stuff a leading dot sends it as it is; one that does sends two.
                        (false, [b'.', b'.', ..]) | (true, _) => at += 1,
                        (false, _) => {}
                    }
                }
                self.emit_line_end(out);
                self.inside = true;
                self.begun = true;
                // The dot that was taken away may have been all of it.
                if at == input.len() {
                    break;
                }
            }
            let rest = &input[at..];
            match memchr::memchr(b'\n', rest) {
                Some(n) => {
                    let crlf = n > 0 && rest[n - 1] == b'\r';
                    out.extend_from_slice(&rest[..n - usize::from(crlf)]);
                    self.line_end = if crlf { b"\r\n" } else { b"\n" };
                    self.inside = false;
                    at += n + 1;
                }
                None => {
                    // A CR may be the first half of a line end.
                    let held = usize::from(rest.last() == Some(&b'\r'));
                    out.extend_from_slice(&rest[..rest.len() - held]);
                    return (input.len() - held, false);
                }
            }
        }
        (at, false)
    }

    fn emit_line_end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.line_end);
        self.line_end = b"";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuffed(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut stuffer = Stuffer::default();
        stuffer.add(data, &mut out);
        stuffer.end(&mut out);
        out
    }

    /// Feeds so many octets at a time.
    fn unstuffed(wire: &[u8], step: usize) -> Option<(Vec<u8>, usize)> {
        let (mut state, mut out, mut at, mut end) = (Unstuffer::default(), Vec::new(), 0, 0);
        loop {
            end = (end + step).min(wire.len());
            let (used, done) = state.read(&wire[at..end], &mut out);
            at += used;
            if done {
                return Some((out, at));
            }
            if end == wire.len() {
                return None;
            }
        }
    }

    #[test]
    fn streams_end_where_they_should() {
        assert_eq!(stuffed(b""), b"\r\n.\r\n");
        assert_eq!(stuffed(b".a\n.\n"), b"..a\n..\n\r\n.\r\n");
        for step in 1..8 {
            let read = |wire: &[u8]| unstuffed(wire, step).map(|(data, _)| data);
            assert_eq!(read(b"\r\n.\r\n").as_deref(), Some(&b""[..]));
            assert_eq!(read(b"a\n.\n").as_deref(), Some(&b"a"[..]), "by LF alone");
            // Senders that do not stuff a leading dot (CVE-2026-33606).
            assert_eq!(read(b".\nbody\n\r\n.\r\n").as_deref(), Some(&b".\nbody\n"[..]));
            assert_eq!(read(b".x\n\r\n.\r\n").as_deref(), Some(&b".x\n"[..]));
            assert_eq!(read(b"..x\n\r\n.\r\n").as_deref(), Some(&b".x\n"[..]));
            assert_eq!(read(b"a\n.\r"), None, "cut");
        }
    }

    proptest! {
        #[test]
        fn data_comes_back(data in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..60), step in 1usize..9) {
            let mut wire = stuffed(&data);
            let len = wire.len();
            wire.extend_from_slice(b"Sxyz\n");
            prop_assert_eq!(unstuffed(&wire, step), Some((data, len)));
        }
    }
}
