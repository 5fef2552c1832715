//! From octets to items, in any portions, within bounded memory.

use super::columns::Headers;
use super::dots::Unstuffer;
use super::item::Item;
use super::row::decimal;
use super::{Error, MAJOR};

/// The longest line. Dovecot has no limit; no honest side comes near this one.
pub const MAX_LINE: usize = 16 << 20;
/// How much of a stream is handed out at once.
const CHUNK: usize = 64 << 10;

/// What the other side has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// VERSION and header block: [`Decoder::headers`] tells.
    Headers,
    /// An item. If it [has a stream](Item::has_stream), that follows.
    Item(Item),
    /// A part of a stream.
    Data(Vec<u8>),
    /// The stream's end.
    DataEnd,
}

#[derive(Debug)]
enum State {
    Version,
    Headers,
    Items,
    Stream(Unstuffer),
}

/// Reads one direction of a session.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// What of the buffer is used up.
    at: usize,
    /// From `at`, so many octets are known to have no LF.
    searched: usize,
    state: State,
    headers: Headers,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buffer: Vec::new(), at: 0, searched: 0, state: State::Version, headers: Headers::none(0) }
    }
}

impl Decoder {
    /// Takes more octets.
    pub fn feed(&mut self, octets: &[u8]) {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(octets);
    }

    /// What the sender has announced, once it has.
    #[must_use]
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Octets that were taken and not looked at, for who goes on with another protocol.
    #[must_use]
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.split_off(self.at)
    }

    /// Nothing is half read, and no stream is open.
    #[must_use]
    pub fn is_between_items(&self) -> bool {
        matches!(self.state, State::Items) && self.at == self.buffer.len()
    }

    /// What comes next, if it is there as a whole.
    ///
    /// # Errors
    /// See [`Error`]. Nothing after it can be understood.
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let State::Stream(unstuffer) = &mut self.state {
                let end = self.buffer.len().min(self.at + CHUNK);
                let mut out = Vec::new();
                let (used, ended) = unstuffer.read(&self.buffer[self.at..end], &mut out);
                self.at += used;
                return Ok(if ended && out.is_empty() {
                    self.state = State::Items;
                    Some(Event::DataEnd)
                } else if !out.is_empty() {
                    if ended {
                        // The end is told at the next call: the terminator is put back.
                        self.at -= used;
                        let terminator = Self::terminator(&self.buffer[self.at..self.at + used]);
                        self.at += used - terminator;
                        self.state = State::Stream(Unstuffer::at_end());
                    }
                    Some(Event::Data(out))
                } else {
                    None
                });
            }
            let Some(line) = self.line()? else { return Ok(None) };
            let line = &self.buffer[line];
            match self.state {
                State::Version => {
                    self.headers = Headers::none(version(line).ok_or(Error::Version)?);
                    self.state = State::Headers;
                }
                State::Headers if line == b"." => {
                    self.headers.end()?;
                    self.state = State::Items;
                    return Ok(Some(Event::Headers));
                }
                State::Headers => self.headers.line(line)?,
                State::Items | State::Stream(_) => {
                    let item = Item::parse(line, &self.headers)?;
                    if item.has_stream() {
                        self.state = State::Stream(Unstuffer::default());
                    }
                    return Ok(Some(Event::Item(item)));
                }
            }
        }
    }

    fn terminator(used: &[u8]) -> usize {
        if used.ends_with(b".\r\n") { 3 } else { 2 }
    }

    /// The next whole line without its end.
    fn line(&mut self) -> Result<Option<std::ops::Range<usize>>, Error> {
        let rest = &self.buffer[self.at..];
        let Some(n) = memchr::memchr(b'\n', &rest[self.searched.min(rest.len())..]).map(|n| n + self.searched) else {
            self.searched = rest.len();
            // Noise in front of VERSION need not be long to be known as such.
            let limit = if matches!(self.state, State::Version) { 8192 } else { MAX_LINE };
            return match (rest.len() > limit, &self.state) {
                (true, State::Version) => Err(Error::Version),
                (true, _) => Err(Error::TooMuch("octets in one line")),
                _ => Ok(None),
            };
        };
        let line = &rest[..n];
        let end = n - usize::from(line.ends_with(b"\r"));
        let range = self.at..self.at + end;
        self.at += n + 1;
        self.searched = 0;
        if n > MAX_LINE {
            return Err(Error::TooMuch("octets in one line"));
        }
        Ok(Some(range))
    }
}

/// The minor version of a VERSION line.
fn version(line: &[u8]) -> Option<u32> {
    let mut words = line.split(|b| *b == b'\t');
    let dsync = words.next() == Some(b"VERSION") && words.next() == Some(b"dsync");
    let major = words.next().and_then(decimal);
    let minor = words.next().and_then(decimal).and_then(|n| u32::try_from(n).ok());
    minor.filter(|_| dsync && major == Some(u64::from(MAJOR)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(wire: &[u8], step: usize) -> Result<Vec<Event>, Error> {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for part in wire.chunks(step) {
            decoder.feed(part);
            while let Some(event) = decoder.next_event()? {
                match (event, out.last_mut()) {
                    (Event::Data(more), Some(Event::Data(data))) => data.extend(more),
                    (event, _) => out.push(event),
                }
            }
        }
        Ok(out)
    }

    fn session(rest: &[u8]) -> Vec<u8> {
        let mut wire = Headers::ours().encode();
        wire.extend_from_slice(rest);
        wire
    }

    #[test]
    fn a_stream_ends_and_items_go_on() {
        let wire = session(b"Mabc\t\x02\t\t\x02\t5\t6\t\nFrom: x\n\n..dot\n\r\n.\r\n.\nX\n");
        for step in [1, 2, 3, 1000] {
            let events = events(&wire, step).expect("well formed");
            assert_eq!(events.len(), 6, "{events:?}");
            assert_eq!(events[2], Event::Data(b"From: x\n\n.dot\n".to_vec()));
            assert_eq!(events[3..], [Event::DataEnd, Event::Item(Item::End), Event::Item(Item::Close)]);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |wire: &[u8]| events(wire, 7).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error(b"Welcome\n"), "Remote dsync doesn't use compatible protocol");
        assert_eq!(error(b"VERSION\tdsync\t2\t5\n"), "Remote dsync doesn't use compatible protocol");
        assert_eq!(
            error(b"VERSION\tdsync\t3\t5\nHdebug\n"),
            "Remote sent invalid handshake for handshake: Header missing required field hostname"
        );
        assert_eq!(error(b"VERSION\tdsync\t3\t5\nHhostname\n.\n"), "Remote didn't handshake deserializer for mailbox_state");
        assert_eq!(error(&session(b"\n")), "Remote sent an empty line");
        assert_eq!(error(&session(b"Q\n")), "Received unexpected input Q != an item");
        assert_eq!(error(&session(b"N\x02\ty\n")), "Invalid input to mailbox_tree_node: Missing required field name");
        assert_eq!(error(&session(b"C0\ts\n")), "mail_change: Invalid uid: 0");
        assert_eq!(error(&session(b"C1\ts\t\t\x02\t1\t\x02\t100\n")), "mail_change: Invalid add_flags: 100");
        assert_eq!(error(&session(b"As\tk\n")), "mailbox_attribute: Invalid value: ");
        assert_eq!(error(&vec![b'x'; 9000]), "Remote dsync doesn't use compatible protocol");
    }

    #[test]
    fn an_endless_line_is_refused_in_bounded_memory() {
        let mut decoder = Decoder::default();
        decoder.feed(&session(b"H"));
        let chunk = vec![b'a'; 1 << 20];
        let mut fed = 0;
        let error = loop {
            decoder.feed(&chunk);
            fed += chunk.len();
            match decoder.next_event() {
                Ok(_) => assert!(fed <= MAX_LINE + (2 << 20), "endless"),
                Err(e) => break e,
            }
        };
        assert_eq!(error, Error::TooMuch("octets in one line"));
    }

    proptest! {
        #[test]
        fn hostile_octets_never_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6), step in 1usize..50) {
            let mut wire = session(b"");
            for (n, line) in lines.iter().enumerate() {
                wire.push(b"HSNDBACRMF.X"[n % 12]);
                wire.extend_from_slice(line);
                wire.push(b'\n');
            }
            let _ = events(&wire, step);
        }
    }
}
