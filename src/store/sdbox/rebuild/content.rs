//! The log records of the new content: who the mailbox is, its mails, its counters.

use super::super::cache::{self, NewRecord};
use super::super::commit::Log;
use super::super::create::first_content;
use super::super::view::{self, IN_ALT};
use super::prepare::{Item, Source};
use crate::index::{Bits, Durability, ExtSpec, Locked, State, Transaction};
use crate::mail::{Rebuild, Result, Timestamp};
use crate::store::dbox::{IndexHeader, Pop3};
use crate::store::format::Place;

/// The transactions of a new history. What is cached of mails whose file does not change stays cached.
pub(super) fn content(place: &Place, old: &State, plan: &Rebuild, items: &[Item<'_>]) -> Vec<Transaction> {
    let header = view::header(old).unwrap_or_default();
    let had = view::pop3(old, &header);
    let new = IndexHeader { number: header.number.wrapping_add(1), guid: Some(plan.identity.guid), flags: 0, rest: header.rest };
    let mut transactions = first_content(place, &new, plan.identity.uidvalidity);
    let mut more = Transaction::new(Bits::EXTERNAL);
    if had.max_uid.is_some() && !place.inbox {
        more.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &[0; Pop3::SIZE]);
    }
    let cache = old.ext(ExtSpec::CACHE.name);
    if let Some(cache) = cache {
        more.ext_reset(ExtSpec::CACHE, old.ext_reset_id(cache), false);
    }
    transactions.push(more);
    transactions.extend(old.hold_on(Bits::EXTERNAL));

    let max_uid = (had.max_uid.is_some() || place.inbox).then_some(0);
    let mut log = Log::new(true, Pop3 { flags: 0, max_uid });
    for item in items {
        let extra = if matches!(item.source, Source::StaysInAlt) { IN_ALT } else { 0 };
        let row = item.present.filter(|_| !matches!(item.source, Source::Temp(_))).and_then(|uid| old.row(uid));
        let cached = row.zip(cache).map(|(row, cache)| old.ext_u32(cache, row)).filter(|&offset| offset != 0);
        log.mail(item.mail, item.mail.uid, extra, cached);
    }
    transactions.extend(log.finish());

    let mut counters = Transaction::new(Bits::EXTERNAL);
    counters.raise_modseq(plan.highest_modseq);
    counters.next_uid(plan.identity.uid_next);
    // Beyond UIDNEXT it would be damage.
    counters.first_recent(plan.first_recent.min(plan.identity.uid_next));
    transactions.push(counters);
    transactions
}

/// Begins the new history, with the saved dates in the cache.
pub(super) fn begin(locked: &mut Locked<'_>, content: &[Transaction], items: &[Item<'_>]) -> Result<()> {
    locked.reset(content)?;
    let record = |item: &Item<'_>| NewRecord {
        uid: item.mail.uid,
        saved: if item.mail.saved.0 == 0 { Timestamp::now() } else { item.mail.saved },
        guid: Some(item.mail.guid.clone()),
    };
    let records: Vec<_> = items.iter().map(record).collect();
    let mut transaction = Transaction::new(Bits::EXTERNAL);
    for (uid, offset) in cache::write(locked, &records)? {
        transaction.cache_offset(uid, offset);
    }
    locked.commit(&transaction, Durability::Mail)?;
    Ok(())
}
