//! An item as values by column: reading with the sender's columns, writing with ours.

use std::borrow::Cow;

use super::columns::{Headers, Kind};
use super::{Error, text};
use crate::mail::MailboxGuid;

/// The most columns of a kind that we know.
const WIDEST: usize = 26;

/// A received item: its values by our own column numbers.
pub(super) struct Row<'a> {
    kind: Kind,
    values: [Option<Cow<'a, [u8]>>; WIDEST],
}

impl<'a> Row<'a> {
    /// Reads what stands behind the letter.
    pub fn parse(kind: Kind, rest: &'a [u8], headers: &Headers) -> Result<Self, Error> {
        let mut row = Self { kind, values: Default::default() };
        if !rest.is_empty() {
            // Surplus values are ignored.
            for (text, column) in rest.split(|b| *b == b'\t').zip(headers.order(kind)) {
                if let Some(column) = *column {
                    row.values[column] = text::value(text);
                }
            }
        }
        let (columns, required) = kind.columns();
        match (0..required).find(|&c| row.values[c].is_none()) {
            Some(c) => Err(Error::MissingValue { kind: kind.name(), column: columns[c] }),
            None => Ok(row),
        }
    }

    pub fn bad(&self, column: usize) -> Error {
        let text = String::from_utf8_lossy(self.bytes(column).unwrap_or_default());
        let value = text.chars().take(100).collect();
        Error::Value { kind: self.kind.name(), column: self.kind.columns().0[column], value }
    }

    pub fn bytes(&self, column: usize) -> Option<&[u8]> {
        self.values[column].as_deref()
    }

    pub fn take(&mut self, column: usize) -> Option<Vec<u8>> {
        self.values[column].take().map(Cow::into_owned)
    }

    pub fn text(&self, column: usize) -> Option<String> {
        self.bytes(column).map(|b| String::from_utf8_lossy(b).into_owned())
    }

    pub fn flag(&self, column: usize) -> bool {
        self.values[column].is_some()
    }

    /// A decimal number; NULL is `None`.
    pub fn number<T: TryFrom<u64>>(&self, column: usize) -> Result<Option<T>, Error> {
        let Some(digits) = self.bytes(column) else { return Ok(None) };
        let n = decimal(digits).and_then(|n| T::try_from(n).ok());
        n.map(Some).ok_or_else(|| self.bad(column))
    }

    pub fn required<T: TryFrom<u64>>(&self, column: usize) -> Result<T, Error> {
        self.number(column)?.ok_or_else(|| self.bad(column))
    }

    /// Seconds since 1970, which may lie before.
    pub fn time(&self, column: usize) -> Result<Option<i64>, Error> {
        let Some(text) = self.bytes(column) else { return Ok(None) };
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let n = decimal(digits).and_then(|n| i64::try_from(n).ok()).ok_or_else(|| self.bad(column))?;
        Ok(Some(if digits.len() < text.len() { -n } else { n }))
    }

    /// A hexadecimal number.
    pub fn hex(&self, column: usize) -> Result<Option<u64>, Error> {
        let Some(text) = self.bytes(column) else { return Ok(None) };
        let ok = !text.is_empty() && text.len() <= 16 && text.iter().all(u8::is_ascii_hexdigit);
        let n = std::str::from_utf8(text).ok().filter(|_| ok).and_then(|t| u64::from_str_radix(t, 16).ok());
        n.map(Some).ok_or_else(|| self.bad(column))
    }

    pub fn guid(&self, column: usize) -> Result<Option<MailboxGuid>, Error> {
        let Some(text) = self.bytes(column) else { return Ok(None) };
        guid(text).map(Some).ok_or_else(|| self.bad(column))
    }

    pub fn required_guid(&self, column: usize) -> Result<MailboxGuid, Error> {
        self.guid(column)?.ok_or_else(|| self.bad(column))
    }

    /// One octet; `None` for an empty value, too.
    pub fn char(&self, column: usize) -> Result<Option<u8>, Error> {
        match self.bytes(column) {
            None | Some([]) => Ok(None),
            Some([c]) => Ok(Some(*c)),
            Some(_) => Err(self.bad(column)),
        }
    }

    /// The one bit mask of flags; NULL is 0.
    pub fn mask(&self, column: usize) -> Result<u8, Error> {
        let mask = self.hex(column)?.unwrap_or(0);
        u8::try_from(mask).map_err(|_| self.bad(column))
    }
}

/// A number of digits only.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// 32 hex digits that are not all zero.
pub(super) fn guid(text: &[u8]) -> Option<MailboxGuid> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// An item to be sent: its values by our own column numbers.
pub(super) struct Out<'a> {
    kind: Kind,
    values: [Option<Cow<'a, [u8]>>; WIDEST],
}

impl<'a> Out<'a> {
    pub fn new(kind: Kind) -> Self {
        Self { kind, values: Default::default() }
    }

    pub fn bytes(&mut self, column: usize, value: impl Into<Cow<'a, [u8]>>) {
        self.values[column] = Some(value.into());
    }

    pub fn some(&mut self, column: usize, value: Option<&'a [u8]>) {
        self.values[column] = value.map(Cow::Borrowed);
    }

    pub fn show(&mut self, column: usize, value: impl std::fmt::Display) {
        self.values[column] = Some(Cow::Owned(value.to_string().into_bytes()));
    }

    pub fn show_some(&mut self, column: usize, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.show(column, value);
        }
    }

    pub fn hex_some(&mut self, column: usize, value: Option<u64>) {
        if let Some(value) = value {
            self.values[column] = Some(Cow::Owned(format!("{value:x}").into_bytes()));
        }
    }

    pub fn mask(&mut self, column: usize, mask: u8) {
        self.hex_some(column, Some(u64::from(mask)).filter(|m| *m > 0));
    }

    pub fn flag(&mut self, column: usize, value: bool) {
        if value {
            self.values[column] = Some(Cow::Borrowed(b""));
        }
    }

    /// The item as a line, with the columns of `headers`; without letter and LF for what stands inside another value.
    pub fn write(&self, out: &mut Vec<u8>, headers: &Headers, bare: bool) {
        if !bare {
            out.push(self.kind.letter());
        }
        let order = headers.order(self.kind);
        let set = |column: &Option<usize>| column.is_some_and(|c| self.values[c].is_some());
        let used = order.iter().rposition(set).map_or(0, |last| last + 1);
        for (n, column) in order[..used].iter().enumerate() {
            if n > 0 {
                out.push(b'\t');
            }
            text::value_into(out, column.and_then(|c| self.values[c].as_deref()));
        }
        if !bare {
            out.push(b'\n');
        }
    }
}
