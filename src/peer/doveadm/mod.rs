//! The connection to a doveadm server: who we are, what it shall run, and the stream that follows (wire.md 8).

mod frames;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;

use base64::Engine as _;

use super::connect::connect;
use super::error::reason;
use super::socket::{SocketInput, SocketOutput};
use super::timed::Timed;
use super::tls::{TlsInput, TlsOutput};
use super::{Address, Clock, Ending, Error, Input, Kind, Limits, Output, Peer, TlsSettings};
use crate::wire::Ends;
use frames::Frames;

/// The version that we speak. From 1 on the server puts its stream into frames, with its log lines between them; with 3
/// commands would have another form.
const MINOR: u32 = 2;
/// The first version that rejects `-U` (2.4).
const NO_REPLICATOR: u32 = 3;
/// The status of a run that left something to do.
const INCOMPLETE: u16 = 2;
/// Most lines before the server has let us in.
const GREETING: usize = 10;
/// Longest line before the stream.
const LINE: u64 = 64 * 1024;
/// The status of a user who is not to be replicated.
pub(super) const NO_REPLICATE: u16 = 1001;

/// A doveadm server and how to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// What it is called in messages: the address as it was given.
    pub target: String,
    /// Where it listens.
    pub address: Address,
    /// TLS from the first byte.
    pub tls: Option<TlsSettings>,
    /// `doveadm_username`
    pub user: String,
    /// `doveadm_password`; empty if there is none.
    pub password: String,
}

/// What the server shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// `D` and `v`.
    pub flags: String,
    /// Whose mail.
    pub user: String,
    /// The command and its arguments.
    pub words: Vec<String>,
}

impl Order {
    /// `dsync-server` for a user.
    #[must_use]
    pub fn dsync_server(user: &str, debug: bool, notify: bool) -> Self {
        let mut words = vec!["dsync-server".to_owned(), format!("-u{user}")];
        words.extend(notify.then(|| "-U".to_owned()));
        Self { flags: if debug { "D".into() } else { String::new() }, user: user.into(), words }
    }

    fn line(&self) -> String {
        let words = self.words.iter().map(|word| format!("\t{}", escape(word)));
        format!("{}\t{}{}\n", self.flags, escape(&self.user), words.collect::<String>())
    }
}

/// How a command ended that a server ran for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it printed: values by rows.
    pub rows: Vec<Vec<String>>,
    /// Its exit status; 0 is success.
    pub status: u16,
    /// The name of the status as the server said it.
    pub text: String,
}

impl Server {
    /// Starts `dsync-server` for a user. The stream that follows is the peer's.
    ///
    /// # Errors
    /// The server cannot be reached, does not let us in, or refuses.
    pub fn start(&self, mut order: Order, limits: &Limits) -> Result<Peer, Error> {
        let mut connection = self.connect(limits)?;
        connection.log_in(&self.user, &self.password)?;
        if connection.minor.is_some_and(|minor| minor >= NO_REPLICATOR) {
            order.words.retain(|word| word != "-U");
        }
        connection.clock.allow(limits.silence);
        let mut input = connection.give(&order)?;
        let reply = read_reply(&mut input)?;
        match (reply.status, reply.text) {
            (0, _) => {}
            (67, _) => return Err(Error::UnknownUser),
            (NO_REPLICATE, _) => return Err(Error::NoReplicate),
            (status, text) => return Err(Error::Refused { status, text }),
        }
        let ends = Ends { name: self.target.clone(), read: Box::new(input), write: connection.output };
        Ok(Peer { ends, end: Ending(Kind::Nothing) })
    }

    /// Has the server run a whole command (`-S`), however long it takes.
    ///
    /// # Errors
    /// As [`Server::start`]; a command that fails is no error here.
    pub fn run(&self, order: &Order, limits: &Limits) -> Result<Reply, Error> {
        let mut connection = self.connect(limits)?;
        connection.log_in(&self.user, &self.password)?;
        connection.clock.allow(None);
        let mut input = connection.give(order)?;
        let mut reply = read_reply(&mut input)?;
        // "Something is left to do" has no name before 2.4; nor have some errors, but those are logged.
        if reply.text == "UNKNOWN" && !input.has_errors() {
            reply.status = INCOMPLETE;
        }
        Ok(reply)
    }

    fn connect(&self, limits: &Limits) -> Result<Connection, Error> {
        let socket = connect(&self.address, limits)?;
        // Until the command runs, only as long as connecting may take.
        let clock = Clock::new(limits);
        clock.allow(Some(limits.connect));
        let (input, output): (Input, Output) = match (&self.tls, &self.address) {
            (Some(tls), Address::Host { host, .. }) => {
                let tls = tls.connect(socket, host, &clock)?;
                let output = Timed { inner: TlsOutput(Arc::clone(&tls)), clock: clock.clone() };
                (Box::new(Timed { inner: TlsInput(tls), clock: clock.clone() }), Box::new(output))
            }
            (Some(_), Address::Path(_)) => return Err(Error::Tls("TLS over a UNIX socket is not supported".into())),
            (None, _) => {
                let output = Timed { inner: SocketOutput(socket.clone()), clock: clock.clone() };
                (Box::new(Timed { inner: SocketInput(socket), clock: clock.clone() }), Box::new(output))
            }
        };
        let target = self.target.clone();
        Ok(Connection { input: Some(BufReader::new(input)), output, target, minor: None, clock })
    }
}

/// Before the stream.
struct Connection {
    /// Taken by the stream.
    input: Option<BufReader<Input>>,
    output: Output,
    target: String,
    /// The server's version, if it said one.
    minor: Option<u32>,
    clock: Clock,
}

fn disconnected(e: &io::Error) -> Error {
    Error::Disconnected(reason(e))
}

impl Connection {
    fn say(&mut self, text: &str) -> Result<(), Error> {
        let said = self.output.write_all(text.as_bytes()).and_then(|()| self.output.flush());
        said.map_err(|e| disconnected(&e))
    }

    fn hear(&mut self) -> Result<String, Error> {
        let Some(input) = &mut self.input else { return Err(Error::Disconnected("EOF".into())) };
        line(input)
    }

    /// Says who we are, until the server says `+`.
    fn log_in(&mut self, user: &str, password: &str) -> Result<(), Error> {
        self.say(&format!("VERSION\tdoveadm-server\t1\t{MINOR}\n"))?;
        let mut tried = false;
        for _ in 0..GREETING {
            match self.hear()?.as_str() {
                "+" => return Ok(()),
                "-" if tried => {
                    tracing::error!("doveadm authentication failed ()");
                    return Err(Error::Disconnected("EOF".into()));
                }
                "-" if password.is_empty() => {
                    tracing::error!("doveadm_password not set, can't authenticate to remote server");
                    return Err(Error::Disconnected("EOF".into()));
                }
                "-" => {
                    tried = true;
                    let text = base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0{password}"));
                    self.say(&format!("PLAIN\t{text}\n"))?;
                }
                // Old servers say it after the first answer.
                other if other.starts_with("VERSION\t") => self.minor = Some(version(other)?),
                other => return Err(Error::Disconnected(format!("Unexpected input: {}", shorten(other)))),
            }
        }
        Err(Error::Disconnected("the server does not come to the point".into()))
    }

    /// Gives the command. What is returned begins with the reply.
    fn give(&mut self, order: &Order) -> Result<Frames, Error> {
        self.say(&order.line())?;
        let Some(mut input) = self.input.take() else { return Err(Error::Disconnected("EOF".into())) };
        let mut minor = self.minor;
        if minor.is_none() && input.fill_buf().map_err(|e| disconnected(&e))?.first() == Some(&b'V') {
            minor = Some(version(&line(&mut input)?)?);
        }
        self.minor = minor;
        Ok(Frames::new(input, minor.is_some_and(|minor| minor >= 1), &self.target))
    }
}

/// The server's minor version.
fn version(line: &str) -> Result<u32, Error> {
    let mut fields = line.split('\t').skip(1);
    let (service, major, minor) = (fields.next(), fields.next(), fields.next().and_then(|m| m.parse().ok()));
    match (service, major, minor) {
        (Some("doveadm-client"), Some("1"), Some(minor)) => Ok(minor),
        (Some("doveadm-client"), Some(major), Some(_)) => {
            Err(Error::Disconnected(format!("doveadm server's major version is {}, we speak 1", shorten(major))))
        }
        _ => Err(Error::Disconnected(format!("not a doveadm server: {}", shorten(line)))),
    }
}

/// One line without its end.
fn line(input: &mut impl BufRead) -> Result<String, Error> {
    let mut line = Vec::new();
    input.take(LINE).read_until(b'\n', &mut line).map_err(|e| disconnected(&e))?;
    if line.pop() != Some(b'\n') {
        let text = if line.is_empty() {
            "EOF".into()
        } else {
            format!("Unexpected input: {}", shorten(&String::from_utf8_lossy(&line)))
        };
        return Err(Error::Disconnected(text));
    }
    String::from_utf8(line).map_err(|_| Error::Disconnected("Unexpected input: not valid UTF-8".into()))
}

/// What a stranger said, as much as a message can hold.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Rows of values, then an empty line, then how it went. A first row of nothing is that empty line.
fn read_reply(input: &mut impl Read) -> Result<Reply, Error> {
    // Byte by byte: what follows belongs to the stream.
    let mut next = || {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match input.read(&mut byte) {
                Ok(0) => return Err(Error::Disconnected("EOF".into())),
                Ok(_) if byte[0] == b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                Ok(_) if line.len() as u64 >= ROWS => return Err(Error::Disconnected("the reply is too long".into())),
                Ok(_) => line.push(byte[0]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(disconnected(&e)),
            }
        }
    };
    let mut rows = Vec::new();
    loop {
        let row = next()?;
        let is_last = !row.ends_with('\t') || row.is_empty();
        let values: Vec<_> = row.strip_suffix('\t').map_or_else(Vec::new, |row| row.split('\t').map(unescape).collect());
        if !values.is_empty() {
            rows.push(values);
        }
        if !is_last {
            continue;
        }
        let verdict = if row.is_empty() { next()? } else { row };
        return match (verdict.strip_prefix('-'), verdict.as_str()) {
            (None, "+") => Ok(Reply { rows, status: 0, text: String::new() }),
            (Some(code), _) => Ok(Reply { rows, status: status(code), text: code.into() }),
            (None, other) => Err(Error::Disconnected(format!("Unexpected input: {}", shorten(other)))),
        };
    }
}

/// Longest row of a reply: a state can be long.
const ROWS: u64 = 64 << 20;

/// The status of a code: names since 2.3, numbers in 2.2 (wire.md 8.3).
fn status(code: &str) -> u16 {
    match code {
        "TEMPFAIL" => 75,
        "USAGE" => 64,
        "NOUSER" => 67,
        "NOPERM" => 77,
        "PROTOCOL" => 76,
        "DATAERR" => 65,
        "NOTFOUND" => 68,
        "CHANGED" => INCOMPLETE,
        "NOREPLICATE" => NO_REPLICATE,
        "REFERRAL" => 1002,
        "EXPIRED" => 1003,
        _ => code.parse().ok().filter(|n| *n != 0).unwrap_or(75),
    }
}

/// Values of the protocol's lines hold no TAB, LF, CR or NUL of their own (wire.md 2.2).
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\x01' => out.push_str("\x011"),
            '\t' => out.push_str("\x01t"),
            '\r' => out.push_str("\x01r"),
            '\n' => out.push_str("\x01n"),
            '\0' => out.push_str("\x010"),
            c => out.push(c),
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x01' => out.extend(chars.next().map(|c| match c {
                '1' => '\x01',
                't' => '\t',
                'r' => '\r',
                'n' => '\n',
                '0' => '\0',
                c => c,
            })),
            c => out.push(c),
        }
    }
    out
}
