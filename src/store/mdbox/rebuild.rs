//! A mailbox gets another content in one step (backup onto a changed destination). A kill after a step leaves:
//!
//! ```text
//! 1 texts in .temp.* files, each synced; map locked; ids reserved; files renamed    as in `commit`
//! 2 mailbox locked
//! 3 map: new records, rising references: one write, synced    counts too high, and the tail behind: recovery counts anew
//! 4 a new log with the whole new content is renamed over the mailbox's log, synced    the new content; the tail behind
//! 5 map: falling references, tail; unlocked                   the new content
//! ```
//!
//! Before 4 the mailbox has its old content, behind it the new one. No count is ever too low: a mail that both contents
//! have keeps its references throughout.

use std::collections::HashMap;

use super::commit::{MDBOX_HDR_EXT, Sums, append, pop3_after, publish};
use super::create::{BOX_NAME, RENAME_STAMP};
use super::mailbox::{MdboxMailbox, check_writable};
use super::map::RefChanges;
use super::save::Text;
use super::storage::Storage;
use super::view;
use crate::index::{Bits, ExtSpec, State, Transaction};
use crate::mail::{Class, Error, Rebuild, RebuildFrom, RebuildMail, Result, SaveError, Uid};
use crate::store::dbox::{IndexHeader, Pop3};

/// A mail of the new content.
struct Next<'p> {
    plan: &'p RebuildMail,
    text: Text,
    /// The mail of the old content that it comes from, and its map uid then.
    present: Option<(Uid, u32)>,
    map_uid: u32,
}

impl MdboxMailbox {
    /// Steps 1 to 5.
    pub(super) fn rebuild_as(&mut self, plan: Rebuild) -> Result<()> {
        check_plan(&plan)?;
        let mut next = Vec::with_capacity(plan.mails.len());
        for mail in &plan.mails {
            next.push(self.find(mail)?);
        }
        let mut staging = std::mem::take(&mut self.staging);
        let opened = self.identity();
        let mut held = self.storage.get();
        let storage = &mut *held;
        staging.complete(storage.settings.index.fsync)?;
        let used = next.iter().filter_map(|n| n.text.file()).collect();
        let temps = staging.keep_files(&used);

        let Storage { map, files, settings, .. } = &mut *storage;
        let mut map = map.lock()?;
        let mut published = publish(&mut map, files, temps, settings.index.fsync)?;
        let mut locked = self.index.lock()?;
        let state = locked.state();
        check_writable(state, opened, &map, &self.place)?;

        let mut places = Vec::new();
        let mut seen: HashMap<(usize, u32), usize> = HashMap::new();
        let mut sums = Sums::default();
        for row in 0..state.len() {
            if let Some(record) = view::reference(state, row).record {
                sums.add(record.map_uid, -1);
            }
        }
        let first = map.next_uid();
        for n in &mut next {
            if let Some((uid, map_uid)) = n.present {
                let now = state.row(uid).and_then(|row| view::reference(state, row).record);
                if now.is_none_or(|r| r.map_uid != map_uid) || map.lookup(map_uid).is_none() {
                    return Err(Error::new(Class::Expunged, format!("UID {uid}: expunged while its mailbox was rebuilt")));
                }
            }
            n.map_uid = match n.text {
                Text::Reference(map_uid) => map_uid,
                Text::New { file, offset, .. } => {
                    let lost = || Error::new(Class::Temporary, "a staged mail has lost its file");
                    let place = published.place(&n.text).ok_or_else(lost)?;
                    let at = *seen.entry((file, offset)).or_insert_with(|| {
                        places.push((place, 0u16));
                        places.len() - 1
                    });
                    places[at].1 = places[at].1.saturating_add(1);
                    u32::try_from(at).ok().and_then(|at| first.checked_add(at)).ok_or_else(lost)?
                }
            };
            sums.add(n.map_uid, 1);
        }

        // Every message of a file has a record, else nobody could ever purge it.
        for staged in &staging.mails {
            if let (Text::New { file, offset, .. }, Some(place)) = (staged.text, published.place(&staged.text))
                && !seen.contains_key(&(file, offset))
            {
                places.push((place, 0));
            }
        }
        let mut made: RefChanges = sums.rising().into_iter().filter(|(uid, _)| *uid < first).collect();
        if !places.is_empty() || !made.is_empty() {
            map.add(&places, &made)?;
            published.keep();
            made.extend((first..).zip(&places).map(|(uid, (_, refs))| (uid, i32::from(*refs))));
        } else if let Some((uid, _)) = sums.changes().find(|(uid, by)| *by < 0 && map.lookup(*uid).is_some()) {
            map.mark(uid)?;
        }
        let content = content(locked.state(), &plan, &next, map.uid_validity());
        let written = locked.reset(&content);
        drop(locked);
        let rest: RefChanges = match &written {
            Ok(()) => sums.after(&made).changes().collect(),
            Err(_) => made.iter().map(|&(uid, by)| (uid, -by)).collect(),
        };
        let rest = map.possible(rest);
        let finished = map.finish(&rest);
        map.maintain();
        drop(map);
        drop(held);
        written?;
        finished?;
        self.renew_view()
    }

    /// The text of a mail of the new content. A mail that is there already is used as it is, unless something beside the
    /// text is to change.
    fn find<'p>(&mut self, plan: &'p RebuildMail) -> Result<Next<'p>> {
        let (text, present) = match plan.from {
            RebuildFrom::Staged(n) => {
                let none = || Error::new(Class::Params, format!("UID {}: no mail was staged as number {n}", plan.mail.uid));
                (self.staging.mails.get(n).ok_or_else(none)?.text, None)
            }
            RebuildFrom::Present(uid) => {
                let at = self.position(uid)?;
                let text = self.instance(&plan.mail, at).map_err(|e| match e {
                    SaveError::Store(e) => e,
                    SaveError::Body(e) => Error::new(Class::Temporary, format!("UID {uid}: {e}")),
                })?;
                (text, Some((uid, self.map_record(at)?.map_uid)))
            }
        };
        Ok(Next { plan, text, present, map_uid: 0 })
    }
}

fn check_plan(plan: &Rebuild) -> Result<()> {
    let ascending = plan.mails.is_sorted_by(|a, b| a.mail.uid < b.mail.uid);
    let below = plan.mails.last().is_none_or(|m| m.mail.uid < plan.identity.uid_next);
    if ascending && below {
        return Ok(());
    }
    Err(Error::new(Class::Params, "the new content's UIDs do not ascend, or reach its UIDNEXT"))
}

/// The whole new index as log transactions.
fn content(old: &State, plan: &Rebuild, next: &[Next<'_>], map_uid_validity: u32) -> Vec<Transaction> {
    let had_pop3 = old.ext(Pop3::EXTENSION).is_some();
    let before = Pop3 { flags: 0, max_uid: had_pop3.then_some(0) };
    let pop3 = pop3_after(before, next.iter().map(|n| (&n.plan.mail, n.plan.mail.uid)));
    let header =
        IndexHeader { number: map_uid_validity, guid: Some(plan.identity.guid), flags: pop3.flags, ..IndexHeader::default() };

    let mut t = Transaction::new(Bits::EXTERNAL);
    for name in [BOX_NAME, RENAME_STAMP] {
        if let Some(ext) = old.ext(name) {
            let bytes = old.ext_header(ext);
            t.ext_header(ExtSpec::header(name, u32::try_from(bytes.len()).unwrap_or(u32::MAX)), 0, bytes);
        }
    }
    if let Some(max) = pop3.max_uid {
        t.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &max.to_le_bytes());
    }
    t.ext_header(MDBOX_HDR_EXT, 0, &header.encode());
    t.uid_validity(plan.identity.uidvalidity);
    let mut all = vec![t];
    all.extend(old.hold_on(Bits::EXTERNAL));

    let mut t = Transaction::new(Bits::INTERNAL);
    t.keep_modseqs();
    all.push(t);

    let mut t = Transaction::new(Bits::EXTERNAL_SYNC);
    for n in next {
        append(&mut t, &n.plan.mail, n.plan.mail.uid, n.map_uid);
        if t.size_hint() >= Transaction::ADVISED_SIZE {
            all.push(std::mem::replace(&mut t, Transaction::new(Bits::EXTERNAL_SYNC)));
        }
    }
    all.push(t);

    let mut t = Transaction::new(Bits::EXTERNAL);
    t.next_uid(plan.identity.uid_next);
    t.first_recent(plan.first_recent.min(plan.identity.uid_next));
    t.raise_modseq(plan.highest_modseq);
    t.storage_is_synced();
    all.push(t);
    all
}
