//! What each side of a mailbox knows, told as changes (sync.md 6) and read from changes.

use std::collections::BTreeMap;

use md5::{Digest, Md5};

use super::decide::Known;
use crate::mail::{self, Class, Flags, Keyword, Keywords, MailGuid, Mailbox, ModSeq, Status, Timestamp, Uid};
use crate::sync::Filter;
use crate::sync::merge::{Expunged, Facts, FlagLog, Item};
use crate::wire::{Change, ChangeType, MailboxItem, text};

/// \Recent on the wire.
const RECENT: u8 = 0x20;
/// "Not given".
const NO_SIZE: u64 = u64::MAX;

/// How mails are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// By GUID.
    Guid,
    /// By a hash over these headers; none are computed for a side that has nothing to compare.
    Hash { headers: Vec<String>, filtered: bool, empty: bool },
}

/// The own side's mails, with everything that is told of them.
pub(super) struct Own {
    pub facts: Facts,
    /// GUID, by item; none where it cannot be read.
    pub guids: Vec<Option<MailGuid>>,
    /// Header hash, by item, where mails are told apart by that.
    pub hashes: Option<Vec<Option<Vec<u8>>>>,
    /// Mails that are told although they are not here, so that the other side keeps them: those that a filter or an error
    /// has held back, and the other side's place of mails that cannot be read here.
    pub claims: BTreeMap<Uid, Change>,
    /// Received dates and sizes, by item, where filters ask for them.
    pub extra: Vec<(u64, u64)>,
}

/// What is asked of the own side's mails.
pub(super) struct Wanted<'a> {
    pub identity: &'a Identity,
    pub filter: &'a Filter,
    pub last_common: Option<Uid>,
}

impl Own {
    /// Reads what facts alone do not have. Mails that cannot be read are named in the returned list.
    pub fn read(mailbox: &mut dyn Mailbox, facts: Facts, wanted: &Wanted<'_>) -> (Self, Vec<(Uid, mail::Error)>) {
        let mut bad = Vec::new();
        let told = |i: &Item| wanted.last_common.is_none_or(|l| i.uid > l) || i.log.is_some();
        let mut guids = Vec::with_capacity(facts.items.len());
        let mut hashes = matches!(wanted.identity, Identity::Hash { .. }).then(Vec::new);
        let mut extra = Vec::new();
        let dated = wanted.filter.since.is_some() || wanted.filter.until.is_some();
        let sized = wanted.filter.max_size.is_some();
        for item in &facts.items {
            let guid = if told(item) && item.guid.is_some() {
                mailbox.guid(item.uid).map_err(|e| bad.push((item.uid, e))).ok()
            } else {
                None
            };
            if let (Some(list), Identity::Hash { headers, filtered, empty }) = (&mut hashes, wanted.identity) {
                let hash = if *empty || guid.is_none() {
                    Ok(Vec::new())
                } else {
                    mailbox.body(item.uid).and_then(|b| header_hash(b.reader, headers, *filtered))
                };
                list.push(hash.map_err(|e| bad.push((item.uid, e))).ok());
            }
            if dated || sized {
                let facts = if told(item) { mailbox.facts(item.uid).unwrap_or_default() } else { mail::Facts::default() };
                let size = if sized { facts.virtual_size.or_else(|| virtual_size(mailbox, item.uid)) } else { None };
                extra.push((u64::from(facts.received.0).max(1), size.unwrap_or(NO_SIZE)));
            }
            guids.push(guid);
        }
        (Self { facts, guids, hashes, claims: BTreeMap::new(), extra }, bad)
    }

    /// Some mails cannot be told of, because they cannot be read.
    pub fn guids_missing(&self, last_common: Option<Uid>) -> bool {
        self.facts.items.iter().zip(&self.guids).any(|(i, g)| g.is_none() && last_common.is_none_or(|l| i.uid > l))
    }

    /// The index of a mail that is there.
    pub fn index(&self, uid: Uid) -> usize {
        self.facts.items.partition_point(|i| i.uid < uid)
    }

    /// The change that tells of an item; none where nothing is told.
    pub fn change(&self, n: usize, last_common: Option<Uid>, dated: bool) -> Option<Change> {
        let item = &self.facts.items[n];
        let new = last_common.is_none_or(|l| item.uid > l);
        if !new && item.log.is_none() {
            return None;
        }
        let guid = self.guids[n].as_ref()?;
        let log = item.log.as_deref();
        let recent = if item.uid >= self.facts.status.first_recent { RECENT } else { 0 };
        let keywords = keyword_changes(&item.keywords, log);
        let (received, size) = self.extra.get(n).copied().unwrap_or((1, NO_SIZE));
        Some(Change {
            kind: if new { ChangeType::Save } else { ChangeType::Flags },
            uid: item.uid.get(),
            guid: Some(guid.text()),
            hdr_hash: self.hashes.as_ref().map(|list| list.get(n).cloned().flatten().unwrap_or_default()),
            modseq: item.modseq.0,
            private_modseq: 0,
            add_flags: log.map_or(0, |l| l.added.bits()),
            remove_flags: log.map_or(0, |l| l.removed.bits()),
            final_flags: item.flags.bits() | recent,
            keywords_reset: false,
            keywords: (!keywords.is_empty()).then(|| text::join_list(keywords)),
            received: (new && dated).then_some(received),
            virtual_size: new.then_some(size),
        })
    }

    /// The change that tells of an expunged mail. A date is given where filters look at it: a Dovecot dies without
    /// (sync.md 7.9).
    pub fn expunge(expunged: &Expunged, filter: &Filter) -> Change {
        let dated = filter.since.or(filter.until).map(|t| u64::from(t.0.max(1)));
        Change {
            kind: ChangeType::Expunge,
            uid: expunged.uid.get(),
            guid: expunged.guid.filter(|g| !g.is_zero()).map(|g| g.to_string().into_bytes()),
            hdr_hash: None,
            modseq: 0,
            private_modseq: 0,
            add_flags: 0,
            remove_flags: 0,
            final_flags: 0,
            keywords_reset: false,
            keywords: None,
            received: dated,
            virtual_size: None,
        }
    }

    /// What the decision compares: facts, claims included, and a key for each mail.
    pub fn known(&self) -> Known {
        let mut known = Known { facts: self.facts.clone(), keys: Vec::new(), claims: Default::default() };
        for (n, item) in known.facts.items.iter_mut().enumerate() {
            let key = match &self.hashes {
                None => self.guids[n].clone(),
                Some(list) => list.get(n).and_then(|h| MailGuid::new(h.as_ref()?)).filter(|_| self.guids[n].is_some()),
            };
            if let (Some(_), Some(key)) = (&self.hashes, &key) {
                item.guid = Some(key.to_128());
            }
            known.keys.push(key);
        }
        for (uid, claim) in &self.claims {
            let item = item_of(claim, *uid, self.hashes.is_some());
            let at = known.facts.items.partition_point(|i| i.uid < *uid);
            if known.facts.items.get(at).is_some_and(|i| i.uid == *uid) {
                continue;
            }
            known.facts.items.insert(at, item);
            known.keys.insert(at, key_of(claim, self.hashes.is_some()));
            known.claims.insert(*uid);
        }
        known
    }
}

/// `+`, `-`, `=` and `&` (sync.md 6.3).
fn keyword_changes(present: &Keywords, log: Option<&FlagLog>) -> Vec<Vec<u8>> {
    let with = |operator: char, k: &Keyword| format!("{operator}{}", k.as_str()).into_bytes();
    let added = |k: &Keyword| log.is_some_and(|l| l.keywords_added.contains(k));
    let mut out: Vec<Vec<u8>> = present.iter().map(|k| with(if added(k) { '&' } else { '=' }, k)).collect();
    if let Some(log) = log {
        out.extend(log.keywords_removed.without(present).iter().map(|k| with('-', k)));
        out.extend(log.keywords_added.without(present).without(&log.keywords_removed).iter().map(|k| with('+', k)));
    }
    out
}

fn virtual_size(mailbox: &mut dyn Mailbox, uid: Uid) -> Option<u64> {
    crate::sync::facts::virtual_size(mailbox, uid)
}

/// The hash over some headers (sync.md 6.4).
pub(super) fn header_hash(mut from: Box<dyn std::io::Read + Send>, names: &[String], filtered: bool) -> mail::Result<Vec<u8>> {
    const MOST: usize = 4 << 20;
    let mut head = Vec::new();
    let mut buffer = [0; 8192];
    let failed = |e| mail::Error::new(Class::Temporary, format!("reading the header: {e}"));
    let end_of = |h: &[u8]| {
        let empty_first = h.starts_with(b"\n") || h.starts_with(b"\r\n");
        let lf = memchr::memmem::find(h, b"\n\n").map(|n| n + 1);
        let crlf = memchr::memmem::find(h, b"\n\r\n").map(|n| n + 1);
        if empty_first { Some(0) } else { lf.into_iter().chain(crlf).min() }
    };
    let end = loop {
        let n = from.read(&mut buffer).map_err(failed)?;
        head.extend_from_slice(&buffer[..n]);
        if let Some(end) = end_of(&head) {
            break end;
        }
        if n == 0 || head.len() > MOST {
            break head.len();
        }
    };
    let mut hash = Md5::new();
    let mut pending = Vec::new();
    let mut takes = false;
    for line in head[..end].split_inclusive(|b| *b == b'\n') {
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            let name = line.split(|b| *b == b':').next().unwrap_or_default();
            let name = name.trim_ascii_end();
            takes = names.iter().any(|n| !n.is_empty() && n.as_bytes().eq_ignore_ascii_case(name));
        }
        if takes {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            pending.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
            pending.push(b'\n');
        }
    }
    pending.push(b'\n');
    if filtered {
        let mut out = Vec::with_capacity(pending.len());
        let mut in_run = false;
        for b in pending {
            match b {
                b' ' => in_run = false,
                b'\n' | 0x21..=0x3e | 0x40..=0x7e => {
                    out.push(b);
                    in_run = false;
                }
                _ => {
                    if !in_run {
                        out.push(b'?');
                    }
                    in_run = true;
                }
            }
        }
        pending = out;
    }
    hash.update(&pending);
    Ok(hex::encode(hash.finalize()).into_bytes())
}

/// The other side's mails as its changes tell them.
pub(super) struct Theirs {
    pub known: Known,
    /// GUID texts by UID, as they were sent: what is asked for must be spelt so.
    pub guids: BTreeMap<Uid, Option<Vec<u8>>>,
    /// Some change fits neither the state nor the own mails.
    pub mismatch: Option<String>,
}

fn key_of(change: &Change, hash: bool) -> Option<MailGuid> {
    let text = if hash { change.hdr_hash.as_deref() } else { change.guid.as_deref() };
    // What has nothing to be known by is only itself.
    text.and_then(MailGuid::new).or_else(|| MailGuid::new(format!("uid {}", change.uid)))
}

fn item_of(change: &Change, uid: Uid, hash: bool) -> Item {
    let (mut keywords, mut added, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for (operator, name) in change.keyword_changes() {
        let keyword = Keyword::new(&String::from_utf8_lossy(&name));
        match operator {
            b'=' => keywords.push(keyword),
            b'&' => {
                keywords.push(keyword.clone());
                added.push(keyword);
            }
            b'+' => added.push(keyword),
            b'-' => removed.push(keyword),
            _ => {}
        }
    }
    let (add, remove) = (Flags::from_bits(change.add_flags), Flags::from_bits(change.remove_flags));
    let log = FlagLog {
        added: add,
        removed: remove.without(add),
        keywords_added: added.into_iter().collect(),
        keywords_removed: removed.into_iter().collect(),
    };
    Item {
        uid,
        guid: key_of(change, hash).map(|k| k.to_128()),
        flags: Flags::from_bits(change.final_flags),
        keywords: keywords.into_iter().collect(),
        modseq: ModSeq(change.modseq),
        log: (log != FlagLog::default()).then(|| Box::new(log)),
        filtered: false,
    }
}

impl Theirs {
    /// A Dovecot does not tell which of its mails a sync has brought. But one that it has under the UID at which users brought it
    /// here was brought by a sync, and with it or before it those that users had brought here earlier; under their own UIDs, or
    /// it has them elsewhere. So an expunge that it tells of such a UID means our mail (sync.md 7.4).
    pub fn infer_synced(&mut self, own: &Facts) {
        // Users may have expunged it here since.
        let gone = own.expunged.iter().map(|e| (e.uid, e.guid));
        let had = own.items.iter().map(|i| (i.uid, i.guid)).chain(gone).filter(|(_, guid)| guid.is_some());
        let is_pair = |(uid, guid): &(Uid, _)| self.known.facts.item(*uid).is_some_and(|t| t.guid == *guid);
        let Some((last, _)) = had.filter(|(uid, _)| own.is_native(*uid)).filter(is_pair).max_by_key(|(uid, _)| *uid) else {
            return;
        };
        let gone = self.known.facts.expunged.iter().map(|e| e.uid);
        let ours = gone.filter(|uid| *uid < last && own.is_native(*uid) && own.item(*uid).is_some());
        self.known.facts.synced = crate::mail::union_of_uids(ours.map(|uid| (uid, uid)));
    }

    /// Builds the other side's mails from its changes. What a stateful run does not tell, because it has not changed, is as
    /// it is here without what has changed here since.
    pub fn new(
        own: &Own,
        changes: &[Change],
        status: Status,
        last_common: Option<Uid>,
        common_modseq: ModSeq,
        filter: &Filter,
    ) -> Self {
        let hash = own.hashes.is_some();
        let mut facts = Facts::new(status);
        let mut keys = Vec::new();
        let mut guids = BTreeMap::new();
        let mut mismatch = None;
        let mut told = changes.iter().filter_map(|c| Some((Uid::new(c.uid)?, c))).peekable();
        let common = own.facts.items.iter().enumerate().filter(|(_, i)| Some(i.uid) <= last_common && last_common.is_some());
        let mut common = common.peekable();
        loop {
            let next_own = common.peek().map(|(_, i)| i.uid);
            let next_told = told.peek().map(|(uid, _)| *uid);
            let uid = match (next_own, next_told) {
                (Some(a), Some(b)) => a.min(b),
                (Some(a), None) => a,
                (None, Some(b)) => b,
                (None, None) => break,
            };
            let here = common.next_if(|(_, i)| i.uid == uid);
            match (told.next_if(|(u, _)| *u == uid), here) {
                (Some((_, c)), here) if c.kind == ChangeType::Expunge => {
                    let guid = c.guid.as_deref().and_then(MailGuid::new).map(|g| g.to_128());
                    if let (Some(theirs), Some((_, item))) = (guid, here)
                        && item.guid.is_some_and(|ours| ours != theirs)
                        && !hash
                    {
                        mismatch.get_or_insert_with(|| format!("Unexpected GUID mismatch for UID={uid}"));
                    }
                    facts.expunged.push(Expunged { uid, guid: guid.filter(|_| !hash) });
                }
                (Some((_, c)), here) => {
                    let mut item = item_of(c, uid, hash);
                    if let Some((_, ours)) = here {
                        if !hash && ours.guid.is_some() && item.guid != ours.guid {
                            mismatch.get_or_insert_with(|| format!("Unexpected GUID mismatch for UID={uid}"));
                        }
                        item.guid = ours.guid;
                    } else if last_common.is_some_and(|l| uid <= l) {
                        // Gone here: nothing to be done with it.
                        continue;
                    }
                    item.filtered = c.kind == ChangeType::Save && !passes(c, &item, filter);
                    if c.kind == ChangeType::Save {
                        guids.insert(uid, c.guid.clone().filter(|g| !g.is_empty()));
                    }
                    keys.push(key_of(c, hash));
                    facts.items.push(item);
                }
                (None, Some((_, ours))) => {
                    let nothing = FlagLog::default();
                    let log = ours.log.as_deref().unwrap_or(&nothing);
                    facts.items.push(Item {
                        flags: ours.flags.without(log.added) | log.removed,
                        keywords: ours.keywords.without(&log.keywords_added).union(&log.keywords_removed),
                        modseq: common_modseq,
                        log: None,
                        filtered: false,
                        ..ours.clone()
                    });
                    keys.push(None);
                }
                (None, None) => break,
            }
        }
        Self { known: Known { facts, keys, claims: Default::default() }, guids, mismatch }
    }
}

/// Whether the filters let the other side's mail in (sync.md 7.9).
fn passes(change: &Change, item: &Item, filter: &Filter) -> bool {
    if !filter.flag.as_ref().is_none_or(|f| f.passes(item.flags, &item.keywords)) {
        return false;
    }
    let outside = |t: u64| filter.since.is_some_and(|s| t < u64::from(s.0)) || filter.until.is_some_and(|u| t > u64::from(u.0));
    !change.received.is_some_and(outside)
        && !filter.max_size.is_some_and(|max| change.virtual_size.is_some_and(|s| s != NO_SIZE && s > max))
}

/// The counters of a B.
pub(super) fn status(item: &MailboxItem) -> Option<Status> {
    Some(Status {
        identity: mail::Identity {
            guid: item.guid,
            uidvalidity: mail::UidValidity::new(item.uidvalidity)?,
            uid_next: Uid::new(item.uid_next)?,
        },
        messages: item.messages,
        first_recent: Uid::new(item.first_recent.max(1))?,
        highest_modseq: ModSeq(item.highest_modseq),
        highest_private_modseq: ModSeq(item.highest_private_modseq),
    })
}

/// The B of an own mailbox.
pub(super) fn mailbox_item(mailbox: &dyn Mailbox) -> MailboxItem {
    let (status, can) = (mailbox.status(), mailbox.capabilities());
    MailboxItem {
        guid: status.identity.guid,
        uidvalidity: status.identity.uidvalidity.get(),
        uid_next: status.identity.uid_next.get(),
        messages: status.messages,
        first_recent: status.first_recent.min(status.identity.uid_next).get(),
        highest_modseq: if can.keeps_modseqs { status.highest_modseq.0 } else { 0 },
        highest_private_modseq: status.highest_private_modseq.0,
        lost: false,
        ignore: false,
        cache_fields: Some(Vec::new()),
        have_guids: can.has_guids,
        have_save_guids: can.saves_guids,
        have_only_guid128: false,
    }
}

/// A mail's dates.
pub(super) fn timestamp(t: Option<i64>) -> Timestamp {
    Timestamp(t.map_or(0, |t| u32::try_from(t.max(0)).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_hashes_are_dovecots() {
        let names = ["Date".to_owned(), "Message-ID".to_owned()];
        let hash = |text: &str| {
            let reader = Box::new(std::io::Cursor::new(text.to_owned().into_bytes()));
            String::from_utf8(header_hash(reader, &names, true).expect("readable")).expect("hex")
        };
        // wire.md 3.2, C
        let mail = "Subject: x\r\nDate: Mon, 06 Jan 2020 10:00:00 +0000\r\nMESSAGE-ID: <one@example.org>\r\n\r\nDate: no\n";
        assert_eq!(hash(&mail.replace("MESSAGE-ID", "Message-ID")), "c4c3d0102d13da0218a97f34b002fc06");
        assert_eq!(hash("Subject: x\n\nbody\n"), "68b329da9893e34099c7d8ad5cb9c940");
        assert_eq!(hash("\nDate: body\n"), "68b329da9893e34099c7d8ad5cb9c940");
    }
}
