//! The server's bytes in frames: the stream on one channel, log lines on another (wire.md 8.4).

use std::io::{self, BufReader, Read};

use super::Input;

/// The channel of log lines. The stream is on 0; others are skipped.
const LOG: u8 = b'L';
/// A log line is cut here.
const LOG_LINE: usize = 16 * 1024;

/// So much beside the stream, without a byte of it, is no log any more.
const BESIDE: u64 = 64 << 20;

/// The stream, log lines left out and logged.
pub(super) struct Frames {
    inner: BufReader<Input>,
    /// Otherwise the bytes come as they are.
    framed: bool,
    /// What is left of the current frame, and its channel.
    left: u64,
    channel: u8,
    /// How much came beside the stream since its last byte.
    beside: u64,
    log: Log,
}

impl Frames {
    pub(super) fn new(inner: BufReader<Input>, framed: bool, target: &str) -> Self {
        let log = Log { target: target.into(), span: tracing::Span::current(), line: Vec::new(), errors: false };
        Self { inner, framed, left: 0, channel: 0, beside: 0, log }
    }

    /// The server has logged an error.
    pub(super) const fn has_errors(&self) -> bool {
        self.log.errors
    }

    /// False at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        let mut header = [0; 5];
        let mut have = 0;
        while have < header.len() {
            match self.inner.read(&mut header[have..])? {
                0 if have == 0 => return Ok(false),
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "EOF in the header of a frame")),
                n => have += n,
            }
        }
        let [channel, a, b, c, d] = header;
        self.channel = channel;
        self.left = u32::from_be_bytes([a, b, c, d]).into();
        Ok(true)
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.framed || buffer.is_empty() {
            return self.inner.read(buffer);
        }
        loop {
            while self.left == 0 {
                if !self.next_frame()? {
                    return Ok(0);
                }
                // Empty frames count as well.
                self.beside += 5;
                if self.beside > BESIDE {
                    return Err(too_much());
                }
            }
            let mut other = [0; 4096];
            let is_ours = self.channel == 0;
            let room = if is_ours { &mut *buffer } else { &mut other[..] };
            let n = room.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let n = self.inner.read(&mut room[..n])?;
            if n == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "EOF in a frame"));
            }
            self.left -= n as u64;
            if is_ours {
                self.beside = 0;
                return Ok(n);
            }
            self.beside += n as u64;
            if self.beside > BESIDE {
                return Err(too_much());
            }
            if self.channel == LOG {
                self.log.take(&other[..n]);
            }
        }
    }
}

fn too_much() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "nothing but log lines comes")
}

/// Puts log lines together; a frame may hold parts of them.
struct Log {
    target: String,
    span: tracing::Span,
    line: Vec<u8>,
    errors: bool,
}

impl Log {
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() > LOG_LINE {
                self.say();
            }
        }
    }

    fn say(&mut self) {
        let line = std::mem::take(&mut self.line);
        let Some((kind, text)) = line.split_first() else { return };
        let (target, text) = (&self.target, String::from_utf8_lossy(text));
        let text = text.trim_end();
        let _in = self.span.enter();
        match kind {
            1 => tracing::debug!("remote({target}): {text}"),
            2 => tracing::info!("remote({target}): {text}"),
            3 => tracing::warn!("remote({target}): {text}"),
            _ => {
                self.errors = true;
                tracing::error!("remote({target}): {text}");
            }
        }
    }
}
