//! What is known of the mails of a view beyond the index: the metadata in `m.N`. Who asks for one mail after the other gets
//! them read ahead, in the order of the files.

use std::sync::Arc;

use super::files::{Files, OpenError};
use super::record::MapRecord;
use crate::mail::{Guid128, MailGuid, Timestamp};
use crate::store::dbox::{DboxFile, Message};

/// How many mails are read ahead at most.
const AHEAD: usize = 1024;

/// The metadata of a mail, as small as it can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    received: Timestamp,
    /// `u64::MAX`: not recorded.
    virtual_size: u64,
    /// Only if it is not simply the index's 16 bytes in hex.
    guid: Option<MailGuid>,
    /// UIDL and order, which hardly any mail has.
    pop3: Option<Box<(Option<String>, u32)>>,
}

impl Known {
    fn of(message: &Message, guid128: Guid128) -> Result<Self, crate::store::dbox::Damage> {
        let metadata = &message.metadata;
        let guid = metadata.guid()?;
        let pop3 = (metadata.pop3_uidl(), metadata.pop3_order());
        Ok(Self {
            received: metadata.received()?,
            virtual_size: metadata.virtual_size().unwrap_or(u64::MAX),
            guid: (guid != MailGuid::from_bytes(guid128.0)).then_some(guid),
            pop3: (pop3.0.is_some() || pop3.1 != 0).then(|| Box::new(pop3)),
        })
    }

    pub const fn received(&self) -> Timestamp {
        self.received
    }

    pub fn virtual_size(&self) -> Option<u64> {
        (self.virtual_size != u64::MAX).then_some(self.virtual_size)
    }

    pub fn guid(&self, guid128: Guid128) -> MailGuid {
        self.guid.clone().unwrap_or_else(|| MailGuid::from_bytes(guid128.0))
    }

    pub fn pop3_uidl(&self) -> Option<&str> {
        self.pop3.as_ref().and_then(|p| p.0.as_deref())
    }

    pub fn pop3_order(&self) -> u32 {
        self.pop3.as_ref().map_or(0, |p| p.1)
    }
}

/// Why a mail's metadata cannot be had.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The file is not there (any more).
    Missing,
    /// The message is damaged, or its file cannot be read.
    Failed(crate::mail::Error),
}

/// How many mails go together.
const PIECE: usize = 64;

type Piece = [Option<Known>; PIECE];

/// [`Known`] of each mail of a view, by its position.
#[derive(Debug, Default)]
pub(super) struct FactTable {
    /// In pieces, which are there when something is known of one of their mails; empty as long as nothing is known at all.
    pieces: Vec<Option<Box<Piece>>>,
    len: usize,
    /// The position behind what was read last, and how much that was: asked for that one next, more is read at once.
    next: usize,
    ahead: usize,
}

impl FactTable {
    /// For a new view. `kept` tells for each position of the new view where the same mail was in the old one.
    pub fn renew(&mut self, len: usize, kept: impl Iterator<Item = Option<usize>>) {
        self.len = len;
        let mut old = std::mem::take(&mut self.pieces);
        if old.is_empty() {
            return;
        }
        for (at, was) in kept.enumerate() {
            if let Some(known) = was.and_then(|was| old.get_mut(was / PIECE)?.as_mut()?[was % PIECE].take()) {
                self.put(at, known);
            }
        }
    }

    /// Nothing is known of any mail.
    pub const fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn get(&self, at: usize) -> Option<&Known> {
        self.pieces.get(at / PIECE)?.as_ref()?[at % PIECE].as_ref()
    }

    fn put(&mut self, at: usize, known: Known) {
        if self.pieces.is_empty() {
            self.pieces.resize_with(self.len.div_ceil(PIECE), || None);
        }
        if let Some(piece) = self.pieces.get_mut(at / PIECE) {
            piece.get_or_insert_with(|| Box::new([const { None }; PIECE]))[at % PIECE] = Some(known);
        }
    }

    /// Notes what was read of a mail for another reason.
    pub fn learn(&mut self, at: usize, message: &Message, guid128: Guid128) {
        if self.get(at).is_none()
            && let Ok(known) = Known::of(message, guid128)
        {
            self.put(at, known);
        }
    }

    /// Reads the metadata of the mail at `at`, and of more and more behind it as long as the next one is asked for.
    ///
    /// `place` tells where a mail is, if it is known, with its 16-byte GUID. Damage of other mails is left for their turn.
    pub fn read(
        &mut self,
        at: usize,
        files: &mut Files,
        place: impl Fn(usize) -> Option<(MapRecord, Guid128)>,
    ) -> Result<(), Unreadable> {
        let Some((wanted, guid128)) = place(at) else { return Err(Unreadable::Missing) };
        let file = match files.open(wanted.file_id) {
            Ok(file) => file,
            Err(OpenError::Missing) => return Err(Unreadable::Missing),
            Err(OpenError::Failed(e)) => return Err(Unreadable::Failed(e)),
        };
        let known = read_one(&file, wanted.offset, guid128)?;
        if at >= self.len {
            return Err(Unreadable::Missing);
        }
        self.put(at, known);

        self.ahead = if at == self.next { (self.ahead * 4).clamp(1, AHEAD) } else { 0 };
        let end = self.len.min(at + 1 + self.ahead);
        self.next = end;
        let mut others: Vec<(MapRecord, usize, Guid128)> = (at + 1..end)
            .filter(|&i| self.get(i).is_none())
            .filter_map(|i| place(i).map(|(record, guid)| (record, i, guid)))
            .collect();
        others.sort_unstable_by_key(|(record, ..)| (record.file_id, record.offset));
        for group in others.chunk_by(|a, b| a.0.file_id == b.0.file_id) {
            let Ok(file) = files.open(group[0].0.file_id) else { continue };
            for (record, i, guid) in group {
                if let Ok(known) = read_one(&file, record.offset, *guid) {
                    self.put(*i, known);
                }
            }
        }
        Ok(())
    }
}

fn read_one(file: &Arc<DboxFile>, offset: u32, guid128: Guid128) -> Result<Known, Unreadable> {
    let message = file.message(u64::from(offset)).map_err(|e| Unreadable::Failed(e.into()))?;
    Known::of(&message, guid128).map_err(|damage| Unreadable::Failed(file.damaged(message.offset, damage).into()))
}
