//! Items over two ends of a pipe or socket. Neither direction ever waits for the other: one thread reads, one writes, and
//! the session itself waits only for what it cannot do without (wire.md 4).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ahead::{Ahead, Begun};
use super::{Decoder, Ends, Error, Event, Headers, Item, Stuffer};
use crate::os::stop::Stop;

/// So much may be read ahead; then the other side has to wait.
const READ_AHEAD: usize = 4 << 20;
/// More than this is not queued where the sender can wait instead.
const ROOM: usize = 256 << 10;
/// Octets a second that are taken without packing them: about what a gigabit line carries.
const FAST: f64 = 100e6;
/// What is collected before it is given to the writer.
const FLUSH: usize = 64 << 10;
/// How often a waiting session looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(200);
/// How long somebody who does not listen any more is listened to.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the end of a session may take to be written.
const CLOSING: Duration = Duration::from_secs(30);

/// Why a session over a stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    /// The other side speaks something else.
    #[error(transparent)]
    Protocol(#[from] Error),
    /// It has closed without a word.
    #[error("read({name}) failed: EOF ({position})")]
    Eof {
        /// The other side.
        name: String,
        /// How far the session was.
        position: String,
    },
    /// It has said that it closes on purpose.
    #[error("Remote closed the session ({0})")]
    Closed(String),
    /// Reading failed.
    #[error("read({name}) failed: {error} ({position})")]
    Read {
        /// The other side.
        name: String,
        /// Why.
        error: io::Error,
        /// How far the session was.
        position: String,
    },
    /// Nothing came, and nothing could be sent, for too long.
    #[error("I/O has stalled, no activity for {seconds} seconds ({position})")]
    Stalled {
        /// How long.
        seconds: u64,
        /// How far the session was.
        position: String,
    },
    /// A signal.
    #[error("Killed with signal {0}")]
    Stopped(usize),
}

#[derive(Default)]
struct Queues {
    input: VecDeque<Vec<u8>>,
    input_size: usize,
    end: Option<Option<io::Error>>,
    output: VecDeque<Vec<u8>>,
    output_size: usize,
    /// Since when the writer cannot write any more.
    broken: Option<Instant>,
    /// Nothing more will be written.
    closing: bool,
    /// Nothing that could still be said would be understood.
    silenced: bool,
    /// The writer has ended.
    written: bool,
    active: Option<Instant>,
    rate: Rate,
    /// What is sent ahead while this side is at work.
    ahead: Option<Ahead>,
    /// This side does nothing but wait.
    waiting: bool,
    /// When something was written last.
    last_write: Option<Instant>,
}

/// How fast the line takes what is written, of late.
#[derive(Default)]
struct Rate {
    octets: f64,
    seconds: f64,
}

impl Rate {
    fn add(&mut self, octets: usize, time: Duration) {
        // Older parts count less and less.
        self.octets = self.octets * 0.75 + f64::from(u32::try_from(octets).unwrap_or(u32::MAX));
        self.seconds = self.seconds * 0.75 + time.as_secs_f64();
    }

    fn is_slow(&self) -> bool {
        self.octets < FAST * self.seconds
    }
}

impl Queues {
    /// Octets that are to show that this side is still there.
    fn due(&mut self) -> Option<Vec<u8>> {
        let silent = self.last_write.map_or(Duration::ZERO, |at| at.elapsed());
        self.ahead.as_mut().filter(|_| !self.waiting)?.next_part(silent)
    }
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queues: MutexGuard<'a, Queues>, time: Duration) -> MutexGuard<'a, Queues> {
        self.changed.wait_timeout(queues, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn read(&self, mut from: Box<dyn Read + Send>) {
        let mut buffer = vec![0; FLUSH];
        loop {
            let result = from.read(&mut buffer);
            let mut queues = self.lock();
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Ok(n) if n > 0 => {
                    queues.active = Some(Instant::now());
                    queues.input.push_back(buffer[..n].to_vec());
                    queues.input_size += n;
                }
                other => {
                    queues.end = Some(other.err());
                    self.changed.notify_all();
                    return;
                }
            }
            self.changed.notify_all();
            while queues.input_size > READ_AHEAD {
                if queues.closing {
                    return;
                }
                queues = self.wait(queues, LOOK);
            }
        }
    }

    fn write(&self, mut to: Box<dyn Write + Send>) {
        let mut queues = self.lock();
        loop {
            if let Some(part) = queues.output.pop_front() {
                drop(queues);
                let began = Instant::now();
                let result = to.write_all(&part).and_then(|()| to.flush());
                let time = began.elapsed();
                queues = self.lock();
                queues.rate.add(part.len(), time);
                queues.output_size -= part.len();
                queues.active = Some(Instant::now());
                queues.last_write = queues.active;
                // What is read tells what has happened; until then everything goes on.
                if result.is_err() {
                    queues.broken.get_or_insert_with(Instant::now);
                    queues.output.clear();
                    queues.output_size = 0;
                }
                self.changed.notify_all();
            } else if queues.closing || queues.broken.is_some() {
                break;
            } else if let Some(part) = queues.due() {
                queues.output_size += part.len();
                queues.output.push_back(part);
            } else {
                queues = self.wait(queues, LOOK);
            }
        }
        drop(queues);
        drop(to);
        self.lock().written = true;
        self.changed.notify_all();
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until something comes.
    Input,
    /// Until something comes or more can be sent.
    InputOrRoom,
    /// Not at all.
    No,
}

/// A session's way to the other side.
pub struct Conn {
    shared: Arc<Shared>,
    decoder: Decoder,
    headers: Headers,
    out: Vec<u8>,
    stuffer: Option<Stuffer>,
    timeout: Option<Duration>,
    stop: Stop,
    name: String,
    sent: Option<&'static str>,
    received: Option<&'static str>,
    sent_end: bool,
    received_end: bool,
}

impl Conn {
    /// Starts both directions. Nothing is sent yet.
    #[must_use]
    pub fn new(ends: Ends, timeout: Option<Duration>, stop: &Stop) -> Self {
        let shared = Arc::new(Shared::default());
        let (reader, writer) = (Arc::clone(&shared), Arc::clone(&shared));
        let (read, write) = (ends.read, ends.write);
        // The reader may wait for octets that never come: it is left to itself then and ends with its descriptor.
        std::thread::spawn(move || reader.read(read));
        std::thread::spawn(move || writer.write(write));
        Self {
            shared,
            decoder: Decoder::default(),
            headers: Headers::ours(),
            out: Vec::new(),
            stuffer: None,
            timeout,
            stop: stop.clone(),
            name: ends.name,
            sent: None,
            received: None,
            sent_end: false,
            received_end: false,
        }
    }

    /// The other side's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The other side has told its name.
    pub fn set_name(&mut self, name: String) {
        self.name = name;
    }

    /// What the other side has announced.
    #[must_use]
    pub const fn peer(&self) -> &Headers {
        self.decoder.headers()
    }

    /// Queues VERSION and header block.
    pub fn send_headers(&mut self) {
        self.out.extend(self.headers.encode());
    }

    /// Queues an item.
    pub fn send(&mut self, item: &Item) {
        let begun = self.stop_ahead();
        if begun.is_some() && *item == Item::Close {
            // In the middle of another item it says nothing. The end of the stream does.
            return;
        }
        if *item == Item::End {
            self.sent_end = true;
        } else {
            (self.sent, self.sent_end) = (Some(item.name()), false);
        }
        match begun {
            None => item.write(&mut self.out, &self.headers),
            Some(begun) => {
                let mut line = Vec::new();
                item.write(&mut line, &self.headers);
                match begun.rest(&line) {
                    Some(rest) => self.out.extend(rest),
                    // Another item than the one that was begun: the other side must not take this for the rest of that one. It sees
                    // the end of the stream in the middle of a line, of which nothing counts.
                    None => {
                        let mut queues = self.shared.lock();
                        queues.silenced = true;
                        queues.closing = true;
                        self.shared.changed.notify_all();
                    }
                }
            }
        }
        self.flush_if(FLUSH);
    }

    /// This side is going to be at work before it says anything. As long as that takes, so much is said ahead that the other
    /// side does not take the silence for the end. Nothing but what `ahead` stands for may be sent next.
    pub fn work(&mut self, ahead: Ahead) {
        self.flush();
        let mut queues = self.shared.lock();
        // What has been begun has to go on.
        if queues.ahead.as_ref().is_some_and(Ahead::has_begun) {
            return;
        }
        queues.last_write = Some(Instant::now());
        queues.ahead = Some(ahead.within(self.timeout));
        self.shared.changed.notify_all();
    }

    /// The work is done. True if something was said ahead: then that has to be said next.
    #[must_use]
    pub fn worked(&mut self) -> bool {
        let mut queues = self.shared.lock();
        match &mut queues.ahead {
            Some(ahead) => ahead.pause(),
            None => false,
        }
    }

    /// What was begun of the next item.
    fn stop_ahead(&mut self) -> Option<Begun> {
        self.shared.lock().ahead.take().and_then(Ahead::begun)
    }

    /// Queues a part of the stream that belongs to the item sent last.
    pub fn send_data(&mut self, data: &[u8]) {
        self.stuffer.get_or_insert_default().add(data, &mut self.out);
        self.flush_if(FLUSH);
    }

    /// Ends the stream.
    pub fn send_data_end(&mut self) {
        self.stuffer.take().unwrap_or_default().end(&mut self.out);
        self.flush_if(FLUSH);
    }

    /// A stream is half sent.
    #[must_use]
    pub const fn is_in_stream(&self) -> bool {
        self.stuffer.is_some()
    }

    /// Queues octets of another protocol.
    pub fn send_raw(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
        self.flush_if(FLUSH);
    }

    /// Little enough is queued to produce more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.lock().output_size + self.out.len() < ROOM
    }

    /// Octets wait to be written, and the line is slower than packing them would be.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        let queues = self.shared.lock();
        queues.output_size > 0 && queues.rate.is_slow()
    }

    /// Gives everything that was queued to the writer.
    pub fn flush(&mut self) {
        self.flush_if(1);
    }

    fn flush_if(&mut self, least: usize) {
        if self.out.len() < least {
            return;
        }
        let part = std::mem::take(&mut self.out);
        let mut queues = self.shared.lock();
        if queues.broken.is_none() && !queues.silenced {
            queues.output_size += part.len();
            queues.output.push_back(part);
            self.shared.changed.notify_all();
        }
    }

    /// How far the session is, in Dovecot's words.
    #[must_use]
    pub fn position(&self) -> String {
        let Some(received) = self.received else {
            let headers = self.decoder.headers().has(super::Kind::Handshake, "hostname");
            return if headers { "handshake not received" } else { "version not received" }.into();
        };
        let end = |on: bool| if on { " (EOL)" } else { "" };
        let sent = self.sent.unwrap_or("handshake");
        format!("last sent={sent}{}, last recv={received}{}", end(self.sent_end), end(self.received_end))
    }

    /// What comes next. `None` if there is nothing and `wait` does not ask for more patience.
    ///
    /// # Errors
    /// The other side has ended, or is silent for too long, or speaks another protocol; a signal came.
    pub fn next(&mut self, wait: Wait) -> Result<Option<Event>, ConnError> {
        loop {
            if let Some(event) = self.decoder.next_event()? {
                match &event {
                    Event::Item(Item::End) => self.received_end = true,
                    Event::Item(item) => (self.received, self.received_end) = (Some(item.name()), false),
                    _ => {}
                }
                return Ok(Some(event));
            }
            match self.octets(wait)? {
                Some(octets) => self.decoder.feed(&octets),
                None => return Ok(None),
            }
        }
    }

    /// Octets as they come, for another protocol, after [`Self::unread`].
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn octets(&mut self, wait: Wait) -> Result<Option<Vec<u8>>, ConnError> {
        // Nothing is held back while something is waited for.
        if wait != Wait::No {
            self.flush();
        }
        let shared = Arc::clone(&self.shared);
        let mut queues = shared.lock();
        queues.waiting = wait != Wait::No;
        let (mut queues, result) = self.take_octets(&shared, queues, wait);
        // Whatever is done with them is work.
        queues.waiting = false;
        queues.last_write = Some(Instant::now());
        result
    }

    fn take_octets<'a>(
        &self,
        shared: &'a Shared,
        mut queues: MutexGuard<'a, Queues>,
        wait: Wait,
    ) -> (MutexGuard<'a, Queues>, Result<Option<Vec<u8>>, ConnError>) {
        let began = Instant::now();
        loop {
            if let Some(octets) = queues.input.pop_front() {
                queues.input_size -= octets.len();
                shared.changed.notify_all();
                return (queues, Ok(Some(octets)));
            }
            if let Some(end) = &mut queues.end {
                let (name, position) = (self.name.clone(), self.position());
                let error = match end.take() {
                    None => ConnError::Eof { name, position },
                    Some(error) if error.kind() == io::ErrorKind::ConnectionReset => ConnError::Eof { name, position },
                    Some(error) => ConnError::Read { name, error, position },
                };
                return (queues, Err(error));
            }
            match wait {
                Wait::No => return (queues, Ok(None)),
                Wait::InputOrRoom if queues.output_size < ROOM => return (queues, Ok(None)),
                _ => {}
            }
            match self.patience(&queues, began) {
                Ok(patience) => queues = shared.wait(queues, patience),
                Err(e) => return (queues, Err(e)),
            }
        }
    }

    /// How long may be waited before one has to look again.
    fn patience(&self, queues: &Queues, began: Instant) -> Result<Duration, ConnError> {
        if let Some(signal) = self.stop.requested() {
            return Err(ConnError::Stopped(signal));
        }
        // Who does not listen any more may have said why; but not for long.
        if queues.broken.is_some_and(|since| since.elapsed() >= LAST_WORDS) {
            return Err(ConnError::Eof { name: self.name.clone(), position: self.position() });
        }
        let Some(timeout) = self.timeout else { return Ok(LOOK) };
        let silent = queues.active.map_or(began, |active| active.max(began)).elapsed();
        if silent >= timeout {
            return Err(ConnError::Stalled { seconds: timeout.as_secs(), position: self.position() });
        }
        Ok(LOOK.min(timeout - silent))
    }

    /// Waits until the other side has read so much that more can be queued. For who is asked again and again; one who asks and
    /// answers at the same time waits for [`Wait::InputOrRoom`].
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn wait_for_room(&mut self) -> Result<(), ConnError> {
        self.flush();
        let shared = Arc::clone(&self.shared);
        let mut queues = shared.lock();
        let began = Instant::now();
        while queues.output_size >= ROOM && queues.broken.is_none() {
            let patience = self.patience(&queues, began)?;
            queues = shared.wait(queues, patience);
        }
        Ok(())
    }

    /// What has been received and not been looked at.
    #[must_use]
    pub fn unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.decoder).into_rest()
    }

    /// Writes what is queued and closes the own direction. That the other side does not read any more is no matter.
    pub fn close(&mut self) {
        self.flush();
        let mut queues = self.shared.lock();
        queues.closing = true;
        self.shared.changed.notify_all();
        let began = Instant::now();
        let patience = self.timeout.map_or(CLOSING, |t| t.min(CLOSING));
        while !queues.written && began.elapsed() < patience {
            queues = self.shared.wait(queues, LOOK.min(patience));
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let mut queues = self.shared.lock();
        queues.closing = true;
        queues.output.clear();
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// A socket's direction ends when that is said, not when one of its descriptors is closed.
    struct Half(UnixStream);

    impl Write for Half {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.write(data)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Drop for Half {
        fn drop(&mut self) {
            let _ = self.0.shutdown(std::net::Shutdown::Write);
        }
    }

    fn pair(timeout: Option<Duration>) -> (Conn, Conn) {
        let (a, b) = UnixStream::pair().expect("sockets");
        let ends = |s: UnixStream| Ends {
            read: Box::new(s.try_clone().expect("a descriptor")),
            write: Box::new(Half(s)),
            name: "remote".into(),
        };
        (Conn::new(ends(a), timeout, &Stop::new()), Conn::new(ends(b), timeout, &Stop::new()))
    }

    fn send_big(conn: &mut Conn) {
        conn.send_headers();
        for n in 0..20_000 {
            conn.send(&Item::Request(super::super::Request { guid: Some(vec![b'x'; 500]), uid: Some(n) }));
        }
        conn.send(&Item::End);
    }

    fn receive_all(conn: &mut Conn) -> usize {
        let mut items = 0;
        loop {
            match conn.next(Wait::Input).expect("alive").expect("something") {
                Event::Item(Item::End) => return items,
                Event::Item(_) => items += 1,
                _ => {}
            }
        }
    }

    #[test]
    fn both_may_send_much_before_they_read() {
        let (mut a, mut b) = pair(Some(Duration::from_secs(20)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                send_big(&mut a);
                assert_eq!(receive_all(&mut a), 20_000);
                a.close();
            });
            send_big(&mut b);
            assert_eq!(receive_all(&mut b), 20_000);
            b.close();
        });
    }

    #[test]
    fn silence_ends_the_session() {
        let (mut a, mut b) = pair(Some(Duration::from_millis(300)));
        b.send_headers();
        b.flush();
        assert!(matches!(a.next(Wait::Input), Ok(Some(Event::Headers))));
        let began = Instant::now();
        let error = a.next(Wait::Input).expect_err("nothing comes").to_string();
        assert_eq!(error, "I/O has stalled, no activity for 0 seconds (handshake not received)");
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn an_end_is_told() {
        let (mut a, mut b) = pair(Some(Duration::from_secs(20)));
        b.close();
        drop(b);
        let error = a.next(Wait::Input).expect_err("it has closed").to_string();
        assert_eq!(error, "read(remote) failed: EOF (version not received)");
    }

    #[test]
    fn what_was_begun_goes_on_or_nothing_does() {
        let guid = "00112233445566778899aabbccddeeff".parse().expect("hex");
        let refusal = Item::Mailbox(Box::new(super::super::MailboxItem::refusal(guid, false)));
        for keeps_its_word in [true, false] {
            let (mut a, mut b) = pair(Some(Duration::from_millis(400)));
            a.send_headers();
            a.send(&Item::End);
            a.work(Ahead::mailbox());
            std::thread::sleep(Duration::from_millis(500));
            assert!(a.worked());
            if !keeps_its_word {
                a.send(&Item::End);
            }
            a.send(&refusal);
            a.send(&Item::Close);
            a.close();
            assert!(matches!(b.next(Wait::Input), Ok(Some(Event::Headers))));
            assert!(matches!(b.next(Wait::Input), Ok(Some(Event::Item(Item::End)))), "what was queued before is said");
            let next = b.next(Wait::Input);
            if keeps_its_word {
                assert_eq!(next.expect("a line"), Some(Event::Item(refusal.clone())));
                assert!(matches!(b.next(Wait::Input), Ok(Some(Event::Item(Item::Close)))));
            } else {
                assert!(matches!(next, Err(ConnError::Eof { .. })), "{next:?}");
            }
        }
    }
}
