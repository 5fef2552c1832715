//! The log records of the new content: who the mailbox is, its mails, its counters.

use std::collections::BTreeMap;

use super::super::commit::Log;
use super::super::create::first_content;
use super::super::view::{self, IN_ALT};
use super::prepare::{Item, Source};
use crate::index::{Bits, ExtSpec, State, Transaction, raise};
use crate::mail::{Floors, Rebuild, Uid};
use crate::store::dbox::{IndexHeader, Pop3};
use crate::store::format::Place;

/// Where the cached values of mails are.
#[derive(Debug, Default)]
pub(super) struct Cached {
    /// Sequence number of the cache file.
    pub reset_id: u32,
    /// Offsets by the UIDs of the new content.
    pub offsets: BTreeMap<Uid, u32>,
}

pub(super) fn content(place: &Place, old: &State, plan: &Rebuild, items: &[Item<'_>], cached: &Cached) -> Vec<Transaction> {
    let header = view::header(old).unwrap_or_default();
    let had = Pop3::new(&header, old.ext(Pop3::EXTENSION).map(|ext| old.ext_header(ext)));
    let new = IndexHeader { number: header.number.wrapping_add(1), guid: Some(plan.identity.guid), flags: 0, rest: header.rest };
    let mut transactions = first_content(place, &new, plan.identity.uidvalidity);
    let mut max_uid = place.inbox.then_some(0);
    if had.max_uid.is_some() && !place.inbox {
        let mut transaction = Transaction::new(Bits::EXTERNAL);
        transaction.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &[0; Pop3::SIZE]);
        transactions.push(transaction);
        max_uid = Some(0);
    }
    if !cached.offsets.is_empty() {
        let mut transaction = Transaction::new(Bits::EXTERNAL);
        transaction.ext_reset(ExtSpec::CACHE, cached.reset_id, false);
        transactions.push(transaction);
    }
    let mut log = Log::new(true, Pop3 { flags: 0, max_uid });
    for item in items {
        let extra = if matches!(item.source, Source::StaysInAlt) { IN_ALT } else { 0 };
        log.mail(item.mail, item.mail.uid, extra, cached.offsets.get(&item.mail.uid).copied());
    }
    transactions.extend(log.finish());
    transactions
}

/// The counters, which need the state that the rest of the content makes.
pub(super) fn counters(state: &State, plan: &Rebuild) -> Transaction {
    let floors = Floors {
        uid_next: Some(plan.identity.uid_next),
        first_recent: Some(plan.first_recent),
        highest_modseq: plan.highest_modseq,
    };
    raise(state, &floors, Bits::EXTERNAL)
}
