//! LZ4 as Dovecot frames it: magic, largest chunk size, then chunks of a length and an LZ4 block (dbox.md 4.2).

use std::io::{self, Read};

/// What such a body begins with.
pub(super) const MAGIC: &[u8] = b"Dovecot-LZ4\x0d\x2a\x9b\xc5";

/// The largest chunk that is believed, bytes; Dovecot writes 65536.
const MAX_CHUNK: usize = 1 << 20;

pub(super) struct Decoder<R> {
    stored: R,
    /// Largest size of a chunk's text; `None` before the header was read.
    max: Option<usize>,
    block: Vec<u8>,
    text: Vec<u8>,
    /// What of `text` was given out.
    given: usize,
}

impl<R: Read> Decoder<R> {
    pub const fn new(stored: R) -> Self {
        Self { stored, max: None, block: Vec::new(), text: Vec::new(), given: 0 }
    }

    fn header(&mut self) -> io::Result<usize> {
        let mut header = [0; MAGIC.len() + 4];
        self.stored.read_exact(&mut header)?;
        let (magic, max) = header.split_at(MAGIC.len());
        let max = u32::from_be_bytes([max[0], max[1], max[2], max[3]]) as usize;
        if magic != MAGIC || max == 0 || max > MAX_CHUNK {
            return Err(invalid(format!("lz4: bad header, or chunks of {max} bytes")));
        }
        Ok(max)
    }

    /// The next chunk's text; false at the end.
    fn chunk(&mut self) -> io::Result<bool> {
        let max = if let Some(max) = self.max { max } else { self.header()? };
        self.max = Some(max);
        let mut len = [0; 4];
        let n = loop {
            match self.stored.read(&mut len[..1]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if n == 0 {
            return Ok(false);
        }
        self.stored.read_exact(&mut len[1..])?;
        let len = u32::from_be_bytes(len) as usize;
        if len == 0 || len > lz4_flex::block::get_maximum_output_size(max) {
            return Err(invalid(format!("lz4: chunk of {len} bytes")));
        }
        self.block.resize(len, 0);
        self.stored.read_exact(&mut self.block)?;
        self.text.resize(max, 0);
        let size = lz4_flex::block::decompress_into(&self.block, &mut self.text);
        // After an error nothing of the chunk may be given out.
        self.text.truncate(*size.as_ref().unwrap_or(&0));
        self.given = 0;
        size.map(|_| true).map_err(|e| invalid(format!("lz4: {e}")))
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // A chunk may be empty.
        while self.given == self.text.len() {
            if !self.chunk()? {
                return Ok(0);
            }
        }
        let n = buf.len().min(self.text.len() - self.given);
        buf[..n].copy_from_slice(&self.text[self.given..self.given + n]);
        self.given += n;
        Ok(n)
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
