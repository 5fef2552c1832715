//! Reading from a mailbox what the decision needs.

use std::sync::Arc;

use sha1::{Digest, Sha1};

use super::merge::{Expunged, Facts, FlagLog, Item};
use super::{Filter, MailboxState};
use crate::mail::{Changes, Class, Guid128, LogChange, Mail, MailList, Mailbox, ModSeq, Uid};

/// A mail that cannot be read, and why.
#[derive(Debug)]
pub struct BadMail {
    /// Its UID.
    pub uid: Uid,
    /// Why.
    pub error: crate::mail::Error,
}

/// The GUIDs of all mails of a view; none for those that cannot be read.
pub struct Guids {
    mails: Arc<dyn MailList>,
    // In the order of the view. None where the index has them all.
    read: Option<Vec<Option<Guid128>>>,
    /// Which cannot be read.
    pub bad: Vec<BadMail>,
}

impl Guids {
    /// That of the mail at a position of the view.
    pub fn get(&self, at: usize) -> Option<Guid128> {
        match &self.read {
            Some(read) => read.get(at).copied().flatten(),
            None => self.mails.guid(at),
        }
    }

    /// That of the mail with this UID.
    pub fn of(&self, uid: Uid) -> Option<Guid128> {
        self.get(self.mails.position(uid)?)
    }

    /// How many mails the view has.
    pub fn len(&self) -> usize {
        self.mails.len()
    }

    /// All could be read.
    pub fn are_all_known(&self) -> bool {
        self.read.as_ref().is_none_or(|read| read.iter().all(Option::is_some))
    }
}

/// Reads all GUIDs.
pub fn guids(mailbox: &mut dyn Mailbox) -> Guids {
    let mails = mailbox.list();
    let mut out = Guids { read: None, bad: Vec::new(), mails: Arc::clone(&mails) };
    if mails.has_guids() {
        return out;
    }
    let mut read = Vec::with_capacity(mails.len());
    for uid in (0..mails.len()).map(|at| mails.uid(at)) {
        match mailbox.guid128(uid) {
            Ok(guid) => read.push(Some(guid)),
            Err(error) => {
                read.push(None);
                if error.class() != Class::Expunged {
                    out.bad.push(BadMail { uid, error });
                }
            }
        }
    }
    Guids { read: Some(read), ..out }
}

/// So many bytes are digested at once.
const DIGESTED: usize = 4096;

/// Digest over UIDs, flags and keywords, and over GUIDs where they are given: equal digests, equal mails.
pub fn digest(mails: &dyn MailList, guids: Option<&Guids>) -> [u8; 20] {
    let mut hash = Sha1::new();
    let mut lines = Vec::with_capacity(DIGESTED + 256);
    for n in 0..mails.len() {
        let mail = mails.mail(n);
        lines.extend_from_slice(&mail.uid.get().to_le_bytes());
        lines.push(mail.flags.bits());
        if let Some(guids) = guids {
            lines.extend_from_slice(&guids.get(n).unwrap_or(Guid128::ZERO).0);
        }
        for keyword in &mail.keywords {
            lines.extend(keyword.as_str().bytes().map(|b| b.to_ascii_lowercase()));
            lines.push(0);
        }
        lines.push(0xff);
        if lines.len() >= DIGESTED {
            hash.update(&lines);
            lines.clear();
        }
    }
    hash.update(&lines);
    hash.finalize().into()
}

/// The facts of a mailbox whose log has been read.
pub fn with_changes(mailbox: &mut dyn Mailbox, guids: &Guids, changes: Changes, filter: &Filter) -> Facts {
    let (log, mut out) = begin(mailbox, changes, guids.len());
    let mut log = log.into_iter().peekable();
    let mails = mailbox.list();
    for n in 0..mails.len() {
        let mail = mails.mail(n);
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

fn item(mail: Mail, guids: &Guids, at: usize) -> Item {
    Item {
        uid: mail.uid,
        guid: guids.get(at),
        flags: mail.flags,
        keywords: mail.keywords,
        modseq: mail.modseq,
        log: None,
        filtered: false,
    }
}

/// What has come to pass since a run that ended in this state: the mails that the log names, and those behind the last common
/// UID. None unless state, log and index fit together exactly: each mail that was there then is there or was expunged.
pub fn since_state(mailbox: &dyn Mailbox, guids: &Guids, changes: &Changes, saved: &MailboxState) -> Option<Facts> {
    let (status, mails) = (mailbox.status(), mailbox.list());
    let last = saved.last_common;
    let plain = saved.modseq != ModSeq(0)
        && saved.uidvalidity == Some(status.identity.uidvalidity)
        && last < Some(status.identity.uid_next)
        && mailbox.capabilities().keeps_modseqs
        && changes.too_old.is_none()
        && changes.renumbered.is_empty()
        && mailbox.held_back().is_empty()
        && guids.len() == mails.len()
        && guids.are_all_known();
    if !plain {
        return None;
    }
    let known = last.map_or(0, |last| mails.first_from(last.next()));
    let position = |uid: Uid| mails.position(uid).filter(|&n| n < known);
    let (log, mut out) = begin(mailbox, changes.clone(), mails.len() - known + changes.mails.len());
    for change in log {
        match position(change.uid()) {
            Some(n) => out.items.push(Item { log: flag_log(change), ..item(mails.mail(n), guids, n) }),
            None => note_expunged(&mut out.expunged, &change),
        }
    }
    // What a sync has brought from elsewhere is news to this other side.
    let synced = changes.synced_flags.iter().filter_map(|&uid| position(uid));
    let synced: Vec<Item> = synced.map(|n| item(mails.mail(n), guids, n)).collect();
    out.items.extend(synced.into_iter().filter(|i| changes.mails.binary_search_by_key(&i.uid, LogChange::uid).is_err()));
    out.items.sort_unstable_by_key(|i| i.uid);
    out.items.extend((known..mails.len()).map(|n| item(mails.mail(n), guids, n)));
    out.partial = true;
    (u32::try_from(known + out.expunged.len()) == Ok(saved.messages)).then_some(out)
}

/// Adds the mails that the other side's facts name.
pub fn add_those_of(own: &Facts, peer: &Facts, mailbox: &dyn Mailbox, guids: &Guids) -> Facts {
    let mut out = own.clone();
    let named = peer.items.iter().map(|i| i.uid).chain(peer.expunged.iter().map(|e| e.uid));
    let mails = mailbox.list();
    for uid in named.filter(|&uid| own.item(uid).is_none()) {
        if let Some(n) = mails.position(uid) {
            out.items.push(item(mails.mail(n), guids, n));
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
