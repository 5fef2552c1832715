//! Standard input and output as a stream, for `dsync-server` (wire.md 10).

use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::event::PollFlags;

use super::socket::Pipe;
use super::timed::Timed;
use super::{Clock, Ending, Kind, Limits, Peer};
use crate::wire::Ends;

/// Longest name of a user.
const NAME: usize = 1024;

/// Standard input and output. Nothing else may use them from here on.
///
/// Peers of `remoteprefix:` send the user's name as a line before the protocol: a line that is `user` is skipped.
///
/// # Errors
/// Standard input or output is closed.
pub fn stdio(user: Option<&str>, limits: &Limits) -> io::Result<Peer> {
    let clock = Clock::new(limits);
    let input = Pipe::borrowed(io::stdin().as_fd().try_clone_to_owned()?, PollFlags::IN)?;
    let output = Pipe::borrowed(io::stdout().as_fd().try_clone_to_owned()?, PollFlags::OUT)?;
    let input = Timed { inner: input, clock: clock.clone() };
    let line = user.map(|user| format!("{user}\n").into_bytes()).unwrap_or_default();
    Ok(Peer {
        ends: Ends {
            name: "local".into(),
            read: Box::new(Skipping { inner: input, line, seen: Vec::new(), passed: 0 }),
            write: Box::new(Timed { inner: output, clock }),
        },
        end: Ending(Kind::Nothing),
    })
}

/// Reads the line with the user's name that `remoteprefix:` puts before the protocol, and no byte more.
///
/// # Errors
/// The stream ends, or what comes is no name.
pub fn read_user(limits: &Limits) -> io::Result<String> {
    let input = Pipe::borrowed(io::stdin().as_fd().try_clone_to_owned()?, PollFlags::IN)?;
    user_line(&mut Timed { inner: input, clock: Clock::new(limits) })
}

fn user_line(input: &mut impl Read) -> io::Result<String> {
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        if input.read(&mut byte)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "EOF (user name not received)"));
        }
        match byte[0] {
            b'\n' => break,
            byte if line.len() < NAME => line.push(byte),
            _ => return Err(wrong("the line is too long for a user name")),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let name = String::from_utf8(line).map_err(|_| wrong("the user name is not valid UTF-8"))?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(wrong("no user name, but something else came first"));
    }
    Ok(name)
}

/// Leaves out one line at the beginning, if it is there.
struct Skipping<T> {
    inner: T,
    /// What to leave out; empty when that is decided.
    line: Vec<u8>,
    /// What was read to decide that, and is to be given on.
    seen: Vec<u8>,
    passed: usize,
}

impl<T: Read> Read for Skipping<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.line.is_empty() {
            let mut some = [0; 512];
            let n = self.inner.read(&mut some)?;
            self.seen.extend_from_slice(&some[..n]);
            let common = self.seen.len().min(self.line.len());
            if self.seen[..common] != self.line[..common] || n == 0 {
                self.line.clear();
            } else if common == self.line.len() {
                self.line.clear();
                self.passed = common;
            }
        }
        if self.passed < self.seen.len() {
            let n = buffer.len().min(self.seen.len() - self.passed);
            buffer[..n].copy_from_slice(&self.seen[self.passed..self.passed + n]);
            self.passed += n;
            return Ok(n);
        }
        self.inner.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = buffer.len().min(1);
            self.0.read(&mut buffer[..n])
        }
    }

    #[test]
    fn the_users_own_line_is_left_out() {
        let read = |bytes: &[u8], slow: bool| {
            let mut out = Vec::new();
            let line = b"jane\n".to_vec();
            let (seen, passed) = (Vec::new(), 0);
            if slow {
                Skipping { inner: Slow(bytes), line, seen, passed }.read_to_end(&mut out).unwrap();
            } else {
                Skipping { inner: bytes, line, seen, passed }.read_to_end(&mut out).unwrap();
            }
            out
        };
        for slow in [true, false] {
            assert_eq!(read(b"jane\nVERSION\tdsync\n", slow), b"VERSION\tdsync\n");
            assert_eq!(read(b"VERSION\tdsync\n", slow), b"VERSION\tdsync\n");
            assert_eq!(read(b"jane\njane\n", slow), b"jane\n");
            assert_eq!(read(b"jan", slow), b"jan");
            assert_eq!(read(b"bob\nVERSION", slow), b"bob\nVERSION");
            assert_eq!(read(b"", slow), b"");
        }
    }

    #[test]
    fn a_user_name_is_read_without_touching_what_follows() {
        let mut input = &b"jane\nVERSION\tdsync\t3\t5\n"[..];
        assert_eq!(user_line(&mut input).unwrap(), "jane");
        assert_eq!(input, b"VERSION\tdsync\t3\t5\n");
        for wrong in [&b""[..], b"jane", b"\n", b"VERSION\tdsync\t3\t5\n", b"\xff\n", &[b'x'; 2000]] {
            assert!(user_line(&mut &*wrong).is_err());
        }
    }
}
