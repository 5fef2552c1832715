//! Edits of mails, and raised counters, as transactions. What changes nothing is left out.

use std::collections::HashMap;

use crate::index::log::Bits;
use crate::index::state::State;
use crate::index::transaction::Transaction;
use crate::mail::{Edit, EditKind, Flags, Floors, Guid128, Keywords, Uid};

/// What edits come to.
#[derive(Debug)]
pub struct EditPlan {
    /// Changes of flags, keywords and modseqs, in pieces of advised size.
    pub changes: Vec<Transaction>,
    /// Mails to be expunged, ascending, with the GUID as far as it is known.
    pub expunges: Vec<(Uid, Guid128)>,
}

impl EditPlan {
    /// There is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.expunges.is_empty()
    }

    /// The expunges as transactions of advised size.
    #[must_use]
    pub fn expunge_transactions(&self, bits: Bits) -> Vec<Transaction> {
        let mut pieces = Pieces::new(bits);
        for &(uid, guid) in &self.expunges {
            pieces.room().expunge(uid, guid);
        }
        pieces.finish()
    }
}

/// Transactions, a new one begun whenever the last one has the advised size.
struct Pieces {
    bits: Bits,
    done: Vec<Transaction>,
    current: Transaction,
}

impl Pieces {
    fn new(bits: Bits) -> Self {
        Self { bits, done: Vec::new(), current: Transaction::new(bits) }
    }

    fn room(&mut self) -> &mut Transaction {
        if self.current.size_hint() > Transaction::ADVISED_SIZE {
            self.done.push(std::mem::replace(&mut self.current, Transaction::new(self.bits)));
        }
        &mut self.current
    }

    fn finish(mut self) -> Vec<Transaction> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

/// What these edits come to in this state, which is to be that under the lock. Edits of mails that are gone, or that are
/// other ones than expected, are left out, and so is all that is so already.
///
/// `bits` is for the changes of flags; `guid` tells the GUID of a row where that needs no opening of the mail.
pub fn plan_edits(state: &State, edits: &[Edit], bits: Bits, mut guid: impl FnMut(usize) -> Option<Guid128>) -> EditPlan {
    let mut pieces = Pieces::new(bits);
    let mut expunges = Vec::new();
    // What earlier edits have made of a row.
    let mut made: HashMap<usize, (Flags, Keywords)> = HashMap::new();
    for edit in edits {
        let Some(row) = state.row(edit.uid) else { continue };
        let known = if edit.expect.is_some() || matches!(edit.kind, EditKind::Expunge) { guid(row) } else { None };
        if let (Some(known), Some(expected)) = (known, edit.expect)
            && known != expected
        {
            continue;
        }
        match &edit.kind {
            EditKind::Expunge => expunges.push((edit.uid, known.or(edit.expect).unwrap_or(Guid128::ZERO))),
            EditKind::Flags { add, remove, add_keywords, remove_keywords, modseq } => {
                let (flags, keywords) =
                    made.get(&row).cloned().unwrap_or_else(|| (state.flags(row), state.keywords(row).clone()));
                let add = add.without(flags);
                let remove = remove.without(add) & flags;
                let plus = add_keywords.without(&keywords);
                let minus = remove_keywords.without(add_keywords).common(&keywords);
                let changes = !(add | remove).is_empty() || !plus.is_empty() || !minus.is_empty();
                // A change gives the mail the next modseq by itself.
                let enough = if changes { state.highest_modseq() } else { state.modseq(row) };
                if !changes && *modseq <= enough {
                    continue;
                }
                let t = pieces.room();
                if !(add | remove).is_empty() {
                    t.flags(edit.uid, add, remove);
                }
                plus.iter().for_each(|k| t.keyword(edit.uid, k, true));
                minus.iter().for_each(|k| t.keyword(edit.uid, k, false));
                if *modseq > enough {
                    t.modseq(edit.uid, *modseq);
                }
                if changes {
                    made.insert(row, ((flags | add).without(remove), keywords.union(&plus).without(&minus)));
                }
            }
        }
    }
    expunges.sort_unstable_by_key(|e: &(Uid, Guid128)| e.0);
    expunges.dedup_by_key(|e| e.0);
    EditPlan { changes: pieces.finish(), expunges }
}

/// The transaction that raises these counters; empty if they are high enough.
#[must_use]
pub fn raise(state: &State, floors: &Floors, bits: Bits) -> Transaction {
    let mut t = Transaction::new(bits);
    let next = floors.uid_next.map_or(state.next_uid(), |n| n.max(state.next_uid()));
    if floors.highest_modseq > state.highest_modseq() {
        t.raise_modseq(floors.highest_modseq);
    }
    if next > state.next_uid() {
        t.next_uid(next);
    }
    // Beyond UIDNEXT it would be damage (index.md 2.6).
    if let Some(first) = floors.first_recent.map(|f| f.min(next)).filter(|f| *f > state.first_recent()) {
        t.first_recent(first);
    }
    t
}
