//! Reading from a mailbox what the decision needs.

use sha1::{Digest, Sha1};

use super::merge::{Expunged, Facts, FlagLog, Item};
use super::{Filter, MailboxState};
use crate::mail::{Changes, Class, Guid128, LogChange, Mail, Mailbox, ModSeq, Uid};

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
    if let Some(all) = mailbox.all_guids() {
        return Guids { all, bad: Vec::new() };
    }
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

/// The facts of a mailbox whose log has been read.
pub fn with_changes(mailbox: &mut dyn Mailbox, guids: &Guids, changes: Changes, filter: &Filter) -> Facts {
    let (log, mut out) = begin(mailbox, changes, guids.all.len());
    let mut log = log.into_iter().peekable();
    for (n, mail) in mailbox.mails().iter().enumerate() {
        while let Some(change) = log.next_if(|c| c.uid() < mail.uid) {
            note_expunged(&mut out.expunged, &change);
        }
        let flag_log = log.next_if(|c| c.uid() == mail.uid).and_then(flag_log);
        out.items.push(Item { log: flag_log, ..item(mail, guids, n) });
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

/// All but the mails.
fn begin(mailbox: &dyn Mailbox, changes: Changes, capacity: usize) -> (Vec<LogChange>, Facts) {
    let facts = Facts {
        status: mailbox.status(),
        items: Vec::with_capacity(capacity),
        expunged: Vec::new(),
        held_back: mailbox.held_back(),
        native: changes.native,
        synced: changes.synced,
        renumbered: changes.renumbered,
        partial: false,
    };
    (changes.mails, facts)
}

fn item(mail: &Mail, guids: &Guids, at: usize) -> Item {
    Item {
        uid: mail.uid,
        guid: guids.all.get(at).copied().flatten(),
        flags: mail.flags,
        keywords: mail.keywords.clone(),
        modseq: mail.modseq,
        log: None,
        filtered: false,
    }
}

/// What has come to pass since a run that ended in this state: the mails that the log names, and those behind the last common
/// UID. None unless state, log and index fit together exactly: each mail that was there then is there or was expunged.
pub fn since_state(mailbox: &dyn Mailbox, guids: &Guids, changes: &Changes, saved: &MailboxState) -> Option<Facts> {
    let (status, mails) = (mailbox.status(), mailbox.mails());
    let last = saved.last_common;
    let plain = saved.modseq != ModSeq(0)
        && saved.uidvalidity == Some(status.identity.uidvalidity)
        && last < Some(status.identity.uid_next)
        && mailbox.capabilities().keeps_modseqs
        && changes.too_old.is_none()
        && changes.renumbered.is_empty()
        && mailbox.held_back().is_empty()
        && guids.all.len() == mails.len()
        && guids.all.iter().all(Option::is_some);
    if !plain {
        return None;
    }
    let known = mails.partition_point(|m| Some(m.uid) <= last);
    let (log, mut out) = begin(mailbox, changes.clone(), mails.len() - known + changes.mails.len());
    for change in log {
        match mails[..known].binary_search_by_key(&change.uid(), |m| m.uid) {
            Ok(n) => out.items.push(Item { log: flag_log(change), ..item(&mails[n], guids, n) }),
            Err(_) => note_expunged(&mut out.expunged, &change),
        }
    }
    // What a sync has brought from elsewhere is news to this other side.
    let synced = changes.synced_flags.iter().filter_map(|uid| mails[..known].binary_search_by_key(uid, |m| m.uid).ok());
    let synced: Vec<Item> = synced.map(|n| item(&mails[n], guids, n)).collect();
    out.items.extend(synced.into_iter().filter(|i| changes.mails.binary_search_by_key(&i.uid, LogChange::uid).is_err()));
    out.items.sort_unstable_by_key(|i| i.uid);
    out.items.extend((known..mails.len()).map(|n| item(&mails[n], guids, n)));
    out.partial = true;
    (u32::try_from(known + out.expunged.len()) == Ok(saved.messages)).then_some(out)
}

/// Adds the mails that the other side's facts name.
pub fn add_those_of(own: &Facts, peer: &Facts, mailbox: &dyn Mailbox, guids: &Guids) -> Facts {
    let mut out = own.clone();
    let named = peer.items.iter().map(|i| i.uid).chain(peer.expunged.iter().map(|e| e.uid));
    for uid in named.filter(|&uid| own.item(uid).is_none()) {
        if let Ok(n) = mailbox.mails().binary_search_by_key(&uid, |m| m.uid) {
            out.items.push(item(&mailbox.mails()[n], guids, n));
        }
    }
    out.items.sort_unstable_by_key(|i| i.uid);
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
