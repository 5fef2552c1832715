//! A reader that must give exactly as many bytes as were recorded.

use std::io::{self, Read};

/// Fails instead of giving more or fewer bytes than it should.
pub struct Sized<R> {
    inner: R,
    size: u64,
    left: u64,
}

impl<R: Read> Sized<R> {
    /// `inner` should give `size` bytes.
    pub const fn new(inner: R, size: u64) -> Self {
        Self { inner, size, left: size }
    }
}

impl<R: Read> Read for Sized<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let mut one = [0];
            return match self.inner.read(&mut one)? {
                0 => Ok(0),
                _ => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the text should have {} bytes and has more", self.size),
                )),
            };
        }
        let most = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buf[..most])?;
        self.left -= n as u64;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the text should have {} bytes and has {}", self.size, self.size - self.left),
            ));
        }
        Ok(n)
    }
}
