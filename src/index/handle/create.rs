//! A new index (spec: index.md 4.6), and a new beginning for one that exists.

use std::time::Duration;

use super::{Index, Options};
use crate::index::error::{Error, Result};
use crate::index::files::Files;
use crate::index::log::{Bits, Header, Write, kind, put};
use crate::index::state::{Field, Position, Source, State};
use crate::index::transaction::{Transaction, encode};
use crate::mail::Timestamp;
use crate::os::Fsync;
use crate::os::dotlock::{self, Replacement};

/// What [`Index::create`] came to.
#[derive(Debug)]
pub enum Created {
    /// It is ours.
    New(Index),
    /// Somebody was faster, or it was there already: this is theirs.
    Found(Index),
}

impl Created {
    /// The index, whoever made it.
    #[must_use]
    pub fn index(self) -> Index {
        match self {
            Self::New(index) | Self::Found(index) => index,
        }
    }
}

/// The bytes of a log that starts a history with these transactions, not fewer than asked for.
pub(super) fn first_log(header: &Header, path: &std::path::Path, first: &[Transaction], least: u64) -> Result<Vec<u8>> {
    let at = u32::from(Header::SIZE);
    let mut state = State::empty(header.indexid, Position { seq: header.file_seq, offset: at }, header.initial_modseq);
    let mut bytes = header.bytes().to_vec();
    for transaction in first {
        let offset = state.position().offset;
        let new = encode(transaction, &state).map_err(|what| Error::refused(path, what))?;
        let log = Source { path, minor: header.minor, seq: header.file_seq };
        state.replay(log, &new, offset).map_err(|damage| Error::refused(path, damage.what))?;
        bytes.extend_from_slice(&new);
    }
    while (bytes.len() as u64) < least {
        let validity = state.base.get(Field::UID_VALIDITY).to_le_bytes();
        let write = Write { offset: u32::from(Field::UID_VALIDITY.0), data: &validity };
        put::record(&mut bytes, kind::HEADER_UPDATE, Bits::EXTERNAL, |out| put::write(out, write, false));
    }
    Ok(bytes)
}

/// Making a log takes milliseconds: a place that nobody has touched for so long was left behind by a process that died. Dovecot
/// waits 180 s; a user's next sync shall not.
const LEFT_BEHIND: Duration = Duration::from_secs(10);

/// Takes the place of a new log, which keeps others from making one. `locked`: the present log is locked, so that nobody else
/// can be making a new one, and what is in the place was left behind.
pub(super) fn new_log(files: &Files, options: &Options, locked: bool) -> Result<Replacement> {
    let lock = dotlock::Options {
        modes: options.modes,
        timeout: options.settings.lock_timeout,
        stale: if locked { Duration::ZERO } else { LEFT_BEHIND },
        use_excl: options.settings.dotlock_use_excl,
        watched: None,
    };
    Ok(Replacement::acquire_as(&files.newlock(), &files.log(), &lock)?)
}

impl Index {
    /// Makes an index with this first content, complete before anybody sees it. The directory must be there; making the new
    /// name in it durable is the caller's.
    ///
    /// # Errors
    /// As [`Index::open`], [`Error::Refused`], and what the system says.
    pub fn create(files: Files, options: Options, first: &[Transaction]) -> Result<Created> {
        if files.exist() {
            return Self::open(files, options).map(Created::Found);
        }
        let now = Timestamp::now().0;
        let header = Header::new(now, 2, (0, 0), now, 1);
        let bytes = first_log(&header, &files.log(), first, 0)?;
        let mut log = new_log(&files, &options, false)?;
        if files.exist() {
            drop(log);
            return Self::open(files, options).map(Created::Found);
        }
        log.write(&bytes)?;
        match log.commit_new(options.settings.fsync != Fsync::Never) {
            Ok(()) => Self::open(files, options).map(Created::New),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Self::open(files, options).map(Created::Found),
            Err(e) => Err(e.into()),
        }
    }
}
