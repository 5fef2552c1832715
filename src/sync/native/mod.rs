//! What two of our own kind say to each other over a stream, once the handshake has shown that both are (wire.md 2.4): the
//! messages of the engine itself, in `blocks` of octets, written as in `code`.
//!
//! The engine asks for a round trip only where it needs one: all mailboxes are compared in one, and mails are sent ahead.

mod blocks;
mod code;
mod metered;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::code::{MailSaid, Said};
use super::budget::Budget;
use super::message::{Link, LinkError, MailText, Message};
use super::{Algorithm, Options};
use crate::mail::{Body, FileRange};
use crate::os::fs::{self, Modes};
use crate::wire::{Ahead, Conn, ConnError, Wait};

/// A part of a text.
const PART: usize = 64 << 10;
/// Mails that may be on their way.
const WINDOW: u32 = 1024;
/// Texts that wait in memory; more wait in a file.
const IN_MEMORY: usize = 4 << 20;

/// Something that one of our own kind would not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side sent {0}")]
pub(super) struct NativeError(&'static str);

/// The way to another of our own kind.
pub(super) struct NativeLink<'a> {
    conn: &'a mut Conn,
    reader: blocks::Reader,
    input: Vec<u8>,
    output: Vec<u8>,
    /// With what they take in memory.
    arrived: VecDeque<(Message, usize)>,
    /// What has been taken since the last mailboxes were done, mails not counted.
    taken: usize,
    /// What came last of that.
    last: usize,
    /// For all.
    budget: Budget,
    /// One on its way in, with what it takes without its text.
    mail: Option<(MailSaid, Text, usize)>,
    waiting: usize,
    spill: Spill,
    /// Parts of texts on their way out.
    buffer: Vec<u8>,
    part: Vec<u8>,
}

/// Texts that wait, one behind the other in a file that nobody else sees.
struct Spill {
    dir: PathBuf,
    file: Option<Arc<File>>,
    path: PathBuf,
    end: u64,
}

/// A text on its way in.
enum Text {
    Memory(Vec<u8>),
    File { offset: u64, len: u64 },
}

impl Spill {
    fn append(&mut self, data: &[u8]) -> crate::os::fs::Result<u64> {
        if self.file.is_none() {
            let id = hex::encode(crate::mail::generate_guid());
            self.path = self.dir.join(format!("dsync.{id}.tmp"));
            let file = fs::create_new(&self.path, &Modes { file: 0o600, ..Modes::default() })?;
            fs::unlink(&self.path)?;
            self.file = Some(Arc::new(file));
            self.end = 0;
        }
        let at = self.end;
        if let Some(file) = &self.file {
            fs::write_all_at(file, &self.path, data, at)?;
        }
        self.end += data.len() as u64;
        Ok(at)
    }
}

/// A text whose sender could not read it to its end.
struct Broken(String);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(self.0.clone()))
    }
}

/// What may be said between any two blocks: an empty one.
pub(super) fn ahead() -> Ahead {
    let mut block = Vec::new();
    blocks::write(&[], false, &mut block);
    Ahead::nothing(&block)
}

impl<'a> NativeLink<'a> {
    /// Goes on where the handshake ended.
    pub fn new(conn: &'a mut Conn, temp_dir: &Path) -> Result<Self, LinkError> {
        let mut link = Self {
            reader: blocks::Reader::default(),
            input: Vec::new(),
            output: Vec::new(),
            arrived: VecDeque::new(),
            taken: 0,
            last: 0,
            budget: Budget::of_own_kind(),
            mail: None,
            waiting: 0,
            spill: Spill { dir: temp_dir.to_owned(), file: None, path: PathBuf::new(), end: 0 },
            buffer: Vec::new(),
            part: Vec::new(),
            conn,
        };
        let rest = link.conn.unread();
        link.reader.feed(&rest);
        link.conn.work(ahead());
        Ok(link)
    }

    /// Says what the handshake has no words for.
    pub fn send_hello(&mut self, options: &Options) -> Result<(), LinkError> {
        self.say(&Said::Hello(code::Hello {
            state: match &options.algorithm {
                Algorithm::State(text) => Some(text.clone()),
                _ => None,
            },
            allow_empty_source: options.allow_empty_source,
            commit_interval: options.commit_interval,
            more: code::HelloMore { placement: options.placement },
        }))
    }

    /// Waits for that.
    pub fn recv_hello(&mut self, options: &mut Options) -> Result<(), LinkError> {
        loop {
            if let Some(got) = code::read(&self.input, self.budget.left_for_one()).map_err(failed)? {
                self.input.drain(..got.used);
                let Said::Hello(hello) = got.said else { return Err(failed(NativeError("a message out of turn"))) };
                options.allow_empty_source = hello.allow_empty_source;
                options.commit_interval = hello.commit_interval;
                options.placement = hello.more.placement;
                if let Some(state) = hello.state {
                    options.algorithm = Algorithm::State(state);
                }
                return Ok(());
            }
            if !self.reader.unpack(&mut self.input).map_err(failed)? {
                self.read(Wait::Input)?;
            }
        }
    }

    fn say(&mut self, said: &Said) -> Result<(), LinkError> {
        code::write(said, &mut self.output).map_err(failed)?;
        if self.output.len() >= blocks::BLOCK / 2 {
            self.pack(true);
        }
        Ok(())
    }

    /// Gives what was said to the connection, in whole blocks or, at the `end`, all of it.
    fn pack(&mut self, end: bool) {
        let most = blocks::BLOCK / 2;
        let mut rest = &self.output[..];
        let mut out = Vec::new();
        while rest.len() >= most || end && !rest.is_empty() {
            let (block, after) = rest.split_at(rest.len().min(most));
            // What waits for a slow line anyway may as well be made smaller.
            let slow = self.conn.is_slow();
            blocks::write(block, slow, &mut out);
            self.conn.send_raw(&out);
            out.clear();
            rest = after;
        }
        let used = self.output.len() - rest.len();
        self.output.drain(..used);
    }

    /// Waits for more and takes it in.
    fn read(&mut self, wait: Wait) -> Result<(), LinkError> {
        if wait != Wait::No {
            self.pack(true);
        }
        let octets = self.conn.octets(wait).map_err(|e| match e {
            ConnError::Eof { .. } => LinkError::Closed,
            other => LinkError::Failed(other.to_string()),
        })?;
        if let Some(octets) = octets {
            self.reader.feed(&octets);
        }
        Ok(())
    }

    /// Takes whole messages out of what has come in.
    fn sort(&mut self) -> Result<(), LinkError> {
        self.sort_unpacked()?;
        while self.reader.unpack(&mut self.input).map_err(failed)? {
            self.sort_unpacked()?;
        }
        Ok(())
    }

    fn sort_unpacked(&mut self) -> Result<(), LinkError> {
        let mut at = 0;
        // A part of a text is always welcome.
        while let Some(got) = code::read(&self.input[at..], self.budget.left_for_one().max(8 * PART)).map_err(failed)? {
            at += got.used;
            match got.said {
                Said::Mail(mail) => {
                    let text = if self.waiting < IN_MEMORY {
                        Text::Memory(Vec::new())
                    } else {
                        Text::File { offset: self.spill.end, len: 0 }
                    };
                    self.mail = Some((mail, text, got.weight));
                }
                Said::Text(part) => self.text(part)?,
                Said::TextEnd(result) => self.text_end(result)?,
                other => {
                    let message = code::message(other).map_err(failed)?;
                    match &message {
                        Message::Tree(Ok(tree)) => self.budget.tree(tree.nodes.len()),
                        Message::Offer(Ok(offer)) => {
                            self.budget.offer(offer.status.messages, offer.status.identity.uid_next.get());
                        }
                        _ => {}
                    }
                    self.arrive(message, got.weight)?;
                }
            }
        }
        self.input.drain(..at);
        Ok(())
    }

    /// A message waits. One that is no text of a mail has its weight.
    fn arrive(&mut self, message: Message, weight: usize) -> Result<(), LinkError> {
        self.budget.take(weight).map_err(|_| failed(NativeError("too much at once")))?;
        self.arrived.push_back((message, weight));
        Ok(())
    }

    /// A message is taken by the engine, which keeps the tree to the end, and all else that is not a mail until it is done with
    /// the mailbox or says otherwise.
    fn taken(&mut self, message: &Message, weight: usize) {
        self.last = 0;
        match message {
            Message::Tree(_) => {}
            Message::Mail(_) | Message::Known(_) | Message::Gone | Message::Credit(_) => self.budget.give_back(weight),
            Message::Locked => self.budget.give_back(weight + std::mem::take(&mut self.taken)),
            _ => {
                self.taken += weight;
                self.last = weight;
            }
        }
    }

    fn text(&mut self, part: Vec<u8>) -> Result<(), LinkError> {
        let spilled = |e: crate::os::fs::Error| LinkError::Failed(e.to_string());
        match &mut self.mail {
            None => return Err(failed(NativeError("a text without a mail"))),
            Some((_, Text::Memory(data), _)) if data.len() + part.len() <= IN_MEMORY => {
                self.waiting += part.len();
                if data.is_empty() {
                    *data = part;
                } else {
                    data.extend_from_slice(&part);
                }
            }
            Some((_, text, _)) => {
                if let Text::Memory(data) = text {
                    self.waiting -= data.len();
                    let offset = self.spill.append(data).map_err(spilled)?;
                    *text = Text::File { offset, len: data.len() as u64 };
                }
                let at = self.spill.append(&part).map_err(spilled)?;
                if let Text::File { offset, len } = text {
                    if *len == 0 {
                        *offset = at;
                    }
                    *len += part.len() as u64;
                }
            }
        }
        Ok(())
    }

    fn text_end(&mut self, result: Result<(), String>) -> Result<(), LinkError> {
        let Some((mail, text, weight)) = self.mail.take() else { return Err(failed(NativeError("a text without a mail"))) };
        let mut body = match (result, text, &self.spill.file) {
            (Err(why), ..) => Body::from_reader(Box::new(Broken(why)), None, None),
            (Ok(()), Text::Memory(data), _) => Body::from_bytes(data),
            (Ok(()), Text::File { offset, len }, Some(file)) if len > 0 => {
                Body::from_range(FileRange { file: Arc::clone(file), offset, len }, None)
            }
            (Ok(()), Text::File { .. }, _) => Body::from_bytes(Vec::new()),
        };
        body.virtual_size = mail.virtual_size;
        let mail = MailText { uid: mail.uid, guid: mail.guid, facts: mail.facts, body };
        self.arrive(Message::Mail(Box::new(mail)), weight)
    }

    fn send_text(&mut self, mut body: Body) -> Result<(), LinkError> {
        if let Some(whole) = &body.whole {
            for part in whole.as_ref().chunks(PART) {
                self.send_part(part)?;
            }
            return self.say(&Said::TextEnd(Ok(())));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(PART, 0);
        let result = loop {
            match body.reader.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(n) => self.send_part(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e.to_string()),
            }
        };
        self.buffer = buffer;
        self.say(&Said::TextEnd(result))
    }

    fn send_part(&mut self, part: &[u8]) -> Result<(), LinkError> {
        // One piece of memory for all of them.
        let mut copy = std::mem::take(&mut self.part);
        copy.clear();
        copy.extend_from_slice(part);
        let said = Said::Text(copy);
        self.say(&said)?;
        if let Said::Text(copy) = said {
            self.part = copy;
        }
        self.make_room()
    }

    /// Waits until more can be queued, taking in what comes meanwhile: the other side may be sending as much.
    fn make_room(&mut self) -> Result<(), LinkError> {
        while !self.conn.has_room() {
            self.read(Wait::InputOrRoom)?;
            self.sort()?;
        }
        Ok(())
    }

    /// Sends what was said last.
    pub fn end(&mut self) {
        self.pack(true);
        self.conn.flush();
    }
}

fn failed(e: NativeError) -> LinkError {
    LinkError::Failed(e.to_string())
}

impl Link for NativeLink<'_> {
    fn send(&mut self, message: Message) -> Result<(), LinkError> {
        // What was told of the mailboxes before these is gone; of this one, all but what is needed for the next round.
        if matches!(message, Message::Locked | Message::Done(Ok(_))) {
            self.budget.give_back(std::mem::take(&mut self.taken));
        }
        match &message {
            // The other side may offer whatever is in this one, too.
            Message::Tree(Ok(tree)) => self.budget.tree(tree.nodes.len()),
            Message::Mail(_) | Message::Known(_) => self.budget.give(),
            _ => {}
        }
        self.say(&code::said(&message))?;
        if let Message::Mail(mail) = message {
            self.send_text(mail.body)?;
        }
        Ok(())
    }

    fn recv(&mut self) -> Result<Message, LinkError> {
        loop {
            self.sort()?;
            if let Some((message, weight)) = self.arrived.pop_front() {
                self.taken(&message, weight);
                if let Message::Mail(mail) = &message
                    && mail.body.range.is_none()
                {
                    self.waiting -= usize::try_from(mail.body.size.unwrap_or(0)).unwrap_or(0).min(self.waiting);
                }
                // Nothing that waits is in the file any more: it can begin anew.
                if self.arrived.is_empty() && self.mail.is_none() && self.spill.end > (256 << 20) {
                    self.spill.file = None;
                }
                return Ok(message);
            }
            self.read(Wait::Input)?;
        }
    }

    fn forget(&mut self) {
        let weight = std::mem::take(&mut self.last).min(self.taken);
        self.taken -= weight;
        self.budget.give_back(weight);
    }

    fn window(&self) -> u32 {
        WINDOW
    }
}

#[cfg(test)]
mod tests;
