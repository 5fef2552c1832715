//! Octets in blocks, packed where the line is slower than the processor.
//!
//! ```text
//! block = flags(1) length(4, little endian) data(length octets)
//! ```
//! Flag 1: the data is packed with zstd. Unpacked, a block has at most [`BLOCK`] octets.

use super::NativeError;

/// The most octets of a block.
pub(super) const BLOCK: usize = 128 << 10;
const PACKED: u8 = 1;
const LEVEL: i32 = 1;
/// Smaller ones are not worth it.
const LEAST: usize = 512;

/// Writes one block.
pub(super) fn write(data: &[u8], pack: bool, out: &mut Vec<u8>) {
    let packed = (pack && data.len() >= LEAST).then(|| zstd::bulk::compress(data, LEVEL).ok()).flatten();
    let (flags, data) = match &packed {
        Some(packed) if packed.len() < data.len() => (PACKED, &packed[..]),
        _ => (0, data),
    };
    out.push(flags);
    out.extend(u32::try_from(data.len()).expect("holds because a block is short").to_le_bytes());
    out.extend_from_slice(data);
}

/// Reads blocks in any portions. One at a time is unpacked: few octets can hold many.
#[derive(Default)]
pub(super) struct Reader {
    buffer: Vec<u8>,
    at: usize,
}

impl Reader {
    /// Takes octets.
    pub fn feed(&mut self, octets: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(octets);
    }

    /// Adds what the next block holds to `out`. False if it is not there as a whole.
    pub fn unpack(&mut self, out: &mut Vec<u8>) -> Result<bool, NativeError> {
        let rest = &self.buffer[self.at..];
        let Some((flags, len)) = head(rest) else { return Ok(false) };
        if flags & !PACKED != 0 || len > BLOCK {
            return Err(NativeError("a block that cannot be"));
        }
        let Some(data) = rest.get(5..5 + len) else { return Ok(false) };
        if flags & PACKED == 0 {
            out.extend_from_slice(data);
        } else {
            let data = zstd::bulk::decompress(data, BLOCK).map_err(|_| NativeError("a damaged block"))?;
            out.extend(data);
        }
        self.at += 5 + len;
        Ok(true)
    }
}

fn head(octets: &[u8]) -> Option<(u8, usize)> {
    let [flags, a, b, c, d, ..] = *octets else { return None };
    Some((flags, u32::from_le_bytes([a, b, c, d]) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn octets_come_back(parts in proptest::collection::vec((proptest::collection::vec(0u8..4, 0..2000), any::<bool>()), 0..6), step in 1usize..3000) {
            let (mut wire, mut all) = (Vec::new(), Vec::new());
            for (data, pack) in &parts {
                write(data, *pack, &mut wire);
                all.extend_from_slice(data);
            }
            let (mut reader, mut out) = (Reader::default(), Vec::new());
            for part in wire.chunks(step) {
                reader.feed(part);
                while reader.unpack(&mut out).expect("well formed") {}
            }
            prop_assert_eq!(out, all);
        }

        #[test]
        fn hostile_octets_never_panic(wire in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (mut reader, mut out) = (Reader::default(), Vec::new());
            reader.feed(&wire);
            while let Ok(true) = reader.unpack(&mut out) {}
        }
    }
}
