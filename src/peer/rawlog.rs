//! `-r`: everything that goes over a stream, line by line with time and direction (wire.md 11.1).

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use super::connect::connect;
use super::error::reason;
use super::socket::SocketOutput;
use super::timed::Timed;
use super::{Address, Clock, Limits};
use crate::os::fs;
use crate::wire::Ends;

/// A line without an end is cut here.
const CHUNK: usize = 8192;

/// Where it goes: both directions into one.
pub(super) struct Rawlog(Arc<Mutex<dyn Write + Send>>);

impl Rawlog {
    /// Opens the file for appending, or connects. The error is complete.
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Self, String> {
        if let Some(target) = path.to_str().and_then(|p| p.strip_prefix("tcp:")) {
            let address = Address::parse(target, 0).map_err(|e| e.to_string())?;
            let socket = connect(&address, limits).map_err(|e| e.to_string())?;
            let sink = Timed { inner: SocketOutput(socket), clock: Clock::new(limits) };
            return Ok(Self(Arc::new(Mutex::new(sink))));
        }
        match fs::open_log(path) {
            Ok(file) => Ok(Self(Arc::new(Mutex::new(file)))),
            Err(e) => Err(format!("creat({}) failed: {}", path.display(), reason(&e.source))),
        }
    }

    pub(super) fn around(&self, ends: Ends) -> Ends {
        let direction = |letter| Direction { sink: Arc::clone(&self.0), letter, pending: Vec::new(), broken: false };
        Ends {
            read: Box::new(Logged { inner: ends.read, log: direction('I') }),
            write: Box::new(Logged { inner: ends.write, log: direction('O') }),
            name: ends.name,
        }
    }
}

struct Direction {
    sink: Arc<Mutex<dyn Write + Send>>,
    letter: char,
    /// The beginning of a line.
    pending: Vec<u8>,
    broken: bool,
}

impl Direction {
    fn log(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            let room = CHUNK - self.pending.len();
            let end = memchr::memchr(b'\n', &bytes[..bytes.len().min(room)]).map(|i| i + 1);
            let (head, rest) = bytes.split_at(end.unwrap_or(room.min(bytes.len())));
            self.pending.extend_from_slice(head);
            bytes = rest;
            if end.is_some() || self.pending.len() == CHUNK {
                self.line(if end.is_some() { ':' } else { '>' });
            }
        }
    }

    fn line(&mut self, mark: char) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = format!("{}.{:06} {}{mark} ", now.as_secs(), now.subsec_micros(), self.letter).into_bytes();
        line.append(&mut self.pending);
        // A panic in another thread does not make the log wrong.
        let mut sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(e) = sink.write_all(&line) {
            drop(sink);
            tracing::error!("write(rawlog) failed: {}", reason(&e));
            self.broken = true;
        }
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        if !self.pending.is_empty() && !self.broken {
            self.line('>');
        }
    }
}

struct Logged<T> {
    inner: T,
    log: Direction,
}

impl<T: Read> Read for Logged<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.log.log(&buffer[..n]);
        Ok(n)
    }
}

impl<T: Write> Write for Logged<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.log.log(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::stop::Stop;

    #[test]
    fn one_letters_lines_put_together_are_that_direction() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raw");
        let limits = Limits::of(None, &Stop::new());
        let sent: Vec<u8> = [b"VERSION\tdsync\t3\t5\n".to_vec(), vec![b'x'; 20_000], b"\n.\nrest".to_vec()].concat();
        for _ in 0..2 {
            let log = Rawlog::open(&path, &limits).unwrap();
            let read = Box::new(io::Cursor::new(b"one\ntwo\n".to_vec()));
            let mut ends = log.around(Ends { read, write: Box::new(io::sink()), name: String::new() });
            ends.write.write_all(&sent).unwrap();
            io::copy(&mut ends.read, &mut io::sink()).unwrap();
        }
        let text = std::fs::read(&path).unwrap();
        let (mut i, mut o, mut cut) = (Vec::new(), Vec::new(), 0);
        let mut rest = &text[..];
        // A cut line has no LF of its own: the next record follows at once. Records are found by their stamps.
        while !rest.is_empty() {
            let space = memchr::memchr(b' ', rest).unwrap();
            let (letter, mark) = (rest[space + 1], rest[space + 2]);
            let body = &rest[space + 4..];
            let len = if mark == b':' {
                memchr::memchr(b'\n', body).unwrap() + 1
            } else {
                cut += 1;
                if body.starts_with(b"rest") { 4 } else { CHUNK }
            };
            if letter == b'I' {
                i.extend_from_slice(&body[..len])
            } else {
                o.extend_from_slice(&body[..len])
            }
            rest = &body[len..];
        }
        assert_eq!(i, b"one\ntwo\none\ntwo\n");
        assert_eq!(o, [&sent[..], &sent[..]].concat());
        assert_eq!(cut, 6);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
