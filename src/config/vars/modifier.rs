//! What stands between `%` and the name: width, offset, modifiers (cli-config.md 15.1).

use md5::{Digest, Md5};

/// How a value is changed before it is put in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    offset: i64,
    width: i64,
    zero: bool,
    modifiers: Vec<u8>,
}

const MODIFIERS: &[u8] = b"LUEXRMHNDT";
const MAX_MODIFIERS: usize = 10;

impl Shape {
    /// Reads it; gives also what follows.
    pub(super) fn parse(text: &str) -> (Self, &str) {
        let mut shape = Self::default();
        let (negative, rest) = eat(text, '-');
        let (zero, rest) = eat(rest, '0');
        let (first, rest) = number(rest);
        let (dot, rest) = eat(rest, '.');
        let mut rest = rest;
        if dot {
            shape.offset = if negative { -first } else { first };
            let (zero, negative, width);
            (zero, rest) = eat(rest, '0');
            (negative, rest) = eat(rest, '-');
            (width, rest) = number(rest);
            shape.zero = zero;
            shape.width = if negative { -width } else { width };
        } else {
            shape.zero = zero;
            shape.width = first;
        }
        let count = rest.bytes().take_while(|b| MODIFIERS.contains(b)).take(MAX_MODIFIERS).count();
        shape.modifiers = rest.as_bytes()[..count].to_vec();
        (shape, &rest[count..])
    }

    /// The value in this shape.
    pub(super) fn apply(mut self, mut value: Vec<u8>) -> Vec<u8> {
        for modifier in std::mem::take(&mut self.modifiers) {
            value = match modifier {
                b'L' => value.to_ascii_lowercase(),
                b'U' => value.to_ascii_uppercase(),
                b'E' => escape(&value),
                b'X' => format!("{:x}", decimal(&value)).into_bytes(),
                b'R' => value.into_iter().rev().collect(),
                b'M' => hex::encode(Md5::digest(&value)).into_bytes(),
                b'H' => self.digits(u64::from(hash32(&value))),
                b'N' => {
                    let number = hash64(&value);
                    // Without a modulus Dovecot prints only 32 of the 64 bits.
                    self.digits(if self.width == 0 { number & 0xffff_ffff } else { number })
                }
                b'D' => String::from_utf8_lossy(&value).replace('.', ",dc=").into_bytes(),
                _ => value.trim_ascii_end().to_vec(),
            };
        }
        let mut value = match usize::try_from(self.offset) {
            Ok(front) => value.split_off(front.min(value.len())),
            Err(_) => {
                let keep = usize::try_from(self.offset.unsigned_abs()).unwrap_or(usize::MAX);
                value.split_off(value.len().saturating_sub(keep))
            }
        };
        let width = usize::try_from(self.width.unsigned_abs()).unwrap_or(usize::MAX);
        if self.zero {
            // Widths beyond reason are not worth the memory.
            let missing = width.min(4096).saturating_sub(value.len());
            value.splice(0..0, std::iter::repeat_n(b'0', missing));
        } else if self.width > 0 {
            value.truncate(width);
        } else if self.width < 0 {
            value.truncate(value.len().saturating_sub(width));
        }
        value
    }

    /// A hash in hex: the width is its modulus, the offset the least number of digits. Both are used up.
    fn digits(&mut self, number: u64) -> Vec<u8> {
        let modulus = std::mem::take(&mut self.width).unsigned_abs();
        let digits = usize::try_from(std::mem::take(&mut self.offset).unsigned_abs()).unwrap_or(0).min(64);
        self.zero = false;
        let number = if modulus == 0 { number } else { number % modulus };
        format!("{number:0digits$x}").into_bytes()
    }
}

fn eat(text: &str, c: char) -> (bool, &str) {
    text.strip_prefix(c).map_or((false, text), |rest| (true, rest))
}

fn number(text: &str) -> (i64, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let digits = &text[..end];
    (if digits.is_empty() { 0 } else { digits.parse().unwrap_or(i64::from(i32::MAX)) }, &text[end..])
}

fn decimal(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn escape(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for &b in value {
        if matches!(b, b'"' | b'\'' | b'\\') {
            out.push(b'\\');
        }
        out.push(b);
    }
    out
}

/// The hash of `%H`, needed for existing directory trees.
fn hash32(value: &[u8]) -> u32 {
    value.iter().fold(0_u32, |h, &c| {
        let h = (h << 4).wrapping_add(u32::from(c));
        match h & 0xf000_0000 {
            0 => h,
            g => h ^ (g >> 24) ^ g,
        }
    })
}

/// The hash of `%N`.
fn hash64(value: &[u8]) -> u64 {
    Md5::digest(value)[..8].iter().fold(0, |n, &b| n << 8 | u64::from(b))
}
