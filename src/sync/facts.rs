//! Reading from a mailbox what the decision needs.

use sha1::{Digest, Sha1};

use super::Filter;
use super::merge::{Expunged, Facts, FlagLog, Item};
use crate::mail::{Changes, Class, Guid128, LogChange, Mail, Mailbox, Result, Since, Uid};

/// A mail that cannot be read, and why.
#[derive(Debug)]
pub struct BadMail {
    /// Its UID.
    pub uid: Uid,
    /// Why.
    pub error: crate::mail::Error,
}

/// The GUIDs of all mails of the view, in their order; none for those that cannot be read.
pub struct Guids {
    /// In the order of the view.
    pub all: Vec<Option<Guid128>>,
    /// Which cannot be read.
    pub bad: Vec<BadMail>,
}

/// Reads all GUIDs.
pub fn guids(mailbox: &mut dyn Mailbox) -> Guids {
    let uids: Vec<Uid> = mailbox.mails().iter().map(|m| m.uid).collect();
    let mut out = Guids { all: Vec::with_capacity(uids.len()), bad: Vec::new() };
    for uid in uids {
        match mailbox.guid128(uid) {
            Ok(guid) => out.all.push(Some(guid)),
            Err(error) => {
                out.all.push(None);
                if error.class() != Class::Expunged {
                    out.bad.push(BadMail { uid, error });
                }
            }
        }
    }
    out
}

/// Digest over UIDs, flags and keywords, and over GUIDs where they are given: equal digests, equal mails.
pub fn digest(mails: &[Mail], guids: Option<&[Option<Guid128>]>) -> [u8; 20] {
    let mut hash = Sha1::new();
    let mut line = Vec::with_capacity(64);
    for (n, mail) in mails.iter().enumerate() {
        line.clear();
        line.extend_from_slice(&mail.uid.get().to_le_bytes());
        line.push(mail.flags.bits());
        if let Some(guids) = guids {
            line.extend_from_slice(&guids.get(n).copied().flatten().unwrap_or(Guid128::ZERO).0);
        }
        for keyword in &mail.keywords {
            line.extend(keyword.as_str().bytes().map(|b| b.to_ascii_lowercase()));
            line.push(0);
        }
        line.push(0xff);
        hash.update(&line);
    }
    hash.finalize().into()
}

/// Reads a mailbox's facts. Its log is read only where `since` is given: a backup has no use for it.
///
/// # Errors
/// Damage, I/O.
pub fn facts(mailbox: &mut dyn Mailbox, guids: &Guids, since: Option<Since>, filter: &Filter) -> Result<Facts> {
    let changes = since.map(|s| mailbox.changes(s)).transpose()?.unwrap_or_default();
    Ok(with_changes(mailbox, guids, changes, filter))
}

/// The facts of a mailbox whose log has been read.
pub fn with_changes(mailbox: &mut dyn Mailbox, guids: &Guids, changes: Changes, filter: &Filter) -> Facts {
    let mut log = changes.mails.into_iter().peekable();
    let mut out = Facts {
        status: mailbox.status(),
        items: Vec::with_capacity(guids.all.len()),
        expunged: Vec::new(),
        held_back: mailbox.held_back(),
        native: changes.native,
        synced: changes.synced,
        renumbered: changes.renumbered,
    };
    for (n, mail) in mailbox.mails().iter().enumerate() {
        while let Some(change) = log.next_if(|c| c.uid() < mail.uid) {
            note_expunged(&mut out.expunged, &change);
        }
        let flag_log = log.next_if(|c| c.uid() == mail.uid).and_then(flag_log);
        out.items.push(Item {
            uid: mail.uid,
            guid: guids.all.get(n).copied().flatten(),
            flags: mail.flags,
            keywords: mail.keywords.clone(),
            modseq: mail.modseq,
            log: flag_log,
            filtered: false,
        });
    }
    for change in log {
        note_expunged(&mut out.expunged, &change);
    }
    if !filter.is_empty() {
        for item in &mut out.items {
            item.filtered = !passes(mailbox, item, filter);
        }
    }
    out
}

fn note_expunged(list: &mut Vec<Expunged>, change: &LogChange) {
    if let LogChange::Expunged { uid, guid } = *change {
        list.push(Expunged { uid, guid: guid.filter(|g| !g.is_zero()) });
    }
}

fn flag_log(change: LogChange) -> Option<Box<FlagLog>> {
    match change {
        LogChange::Flags { added, removed, keywords_added, keywords_removed, .. } => {
            Some(Box::new(FlagLog { added, removed, keywords_added, keywords_removed }))
        }
        LogChange::Expunged { .. } => None,
    }
}

/// Whether the filters let a mail be copied (sync.md 7.9). One that cannot be read passes: its turn to fail comes.
fn passes(mailbox: &mut dyn Mailbox, item: &Item, filter: &Filter) -> bool {
    if !filter.flag.as_ref().is_none_or(|f| f.passes(item.flags, &item.keywords)) {
        return false;
    }
    if filter.since.is_none() && filter.until.is_none() && filter.max_size.is_none() {
        return true;
    }
    let Ok(facts) = mailbox.facts(item.uid) else { return true };
    if filter.since.is_some_and(|t| facts.received < t) || filter.until.is_some_and(|t| facts.received > t) {
        return false;
    }
    let Some(max) = filter.max_size else { return true };
    facts.virtual_size.or_else(|| virtual_size(mailbox, item.uid)).is_none_or(|size| size <= max)
}

/// Counts a mail's size with CRLF line ends by reading it.
pub(super) fn virtual_size(mailbox: &mut dyn Mailbox, uid: Uid) -> Option<u64> {
    use std::io::Read;
    let mut body = mailbox.body(uid).ok()?;
    let mut buffer = vec![0; 64 * 1024];
    let (mut size, mut last) = (0u64, 0u8);
    loop {
        let n = body.reader.read(&mut buffer).ok()?;
        if n == 0 {
            return Some(size);
        }
        for &b in &buffer[..n] {
            size += 1 + u64::from(b == b'\n' && last != b'\r');
            last = b;
        }
    }
}
