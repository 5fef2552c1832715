//! Indexes that are closed between two looks: what was read stays good as long as the log is what it was.

use std::collections::HashMap;
use std::path::PathBuf;

use super::load::Counted;
use super::{Index, Look, Options, load};
use crate::index::error::{Error, Result};
use crate::index::files::Files;
use crate::index::log::Header;
use crate::index::state::{DeletedMark, Position, State};

/// Mails in parked indexes at most: bounds memory.
const MAILS: usize = 50_000;
/// How many indexes.
const INDEXES: usize = 1000;

#[derive(Debug)]
struct Parked {
    look: Look,
    header: Header,
    state: State,
    snapshot: Option<Position>,
    counted: Counted,
}

/// Indexes that were read and will be needed again in the same run.
#[derive(Debug, Default)]
pub struct Parking {
    parked: HashMap<PathBuf, Parked>,
    mails: usize,
}

impl Parking {
    /// Closes an index and keeps what was read, as far as there is room.
    pub fn put(&mut self, index: Index) {
        let Some(look) = index.head.seen.filter(|_| !index.stale) else { return };
        let mails = self.mails + index.state.len();
        if mails > MAILS || self.parked.len() >= INDEXES {
            return;
        }
        let Index { state, snapshot, counted, .. } = index;
        let parked = Parked { look, header: index.head.header, state, snapshot, counted };
        if self.parked.insert(index.head.path, parked).is_none() {
            self.mails = mails;
        }
    }

    /// As [`Index::open`]; what was parked is not read again if it still is as it was.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn open(&mut self, files: Files, options: Options) -> Result<Index> {
        let log = files.log();
        if let Some(parked) = self.parked.remove(&log) {
            self.mails = self.mails.saturating_sub(parked.state.len());
            let (file, writable) = match load::open_log(&log) {
                Ok(opened) => opened,
                Err(_) => return Index::open(files, options),
            };
            let look = Look::of(&file.metadata().map_err(|e| Error::read(&log, e))?);
            if look == parked.look && !options.settings.nfs && parked.state.deleted() == DeletedMark::None {
                let Parked { header, state, snapshot, counted, .. } = parked;
                let head = super::Head { file, path: log, header, writable, seen: Some(look), first: Vec::new() };
                let loaded = super::next_load();
                return Ok(Index { files, options, state, head, stale: false, loaded, snapshot, counted });
            }
        }
        Index::open(files, options)
    }
}
