//! Attributes of a mailbox (METADATA, Sieve scripts): which side's value stands (sync.md 7.13).

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use super::message::Attributes;
use super::{Mode, Source};
use crate::mail::{Attribute, AttributeKey, ModSeq, Timestamp};

/// What a side knows of one attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    value: Option<Vec<u8>>,
    changed: Timestamp,
    modseq: ModSeq,
    removed: bool,
}

fn known(attributes: &Attributes) -> BTreeMap<AttributeKey, Known> {
    let mut out: BTreeMap<AttributeKey, Known> = BTreeMap::new();
    for a in &attributes.present {
        out.insert(a.key.clone(), Known { value: a.value.clone(), changed: a.changed, ..Known::default() });
    }
    for c in &attributes.changes {
        let k = out.entry(c.key.clone()).or_default();
        k.modseq = c.modseq;
        k.removed = k.value.is_none() && c.removed;
    }
    out
}

/// What `own` has to set or remove so that both sides have the same: the pure decision, from either side's point of view.
///
/// The later change wins, then the one with the higher modseq in its log, then the greater value. Removals are known only
/// from the log. The destination of a backup gets what the source has.
#[must_use]
pub(super) fn to_change(own: &Attributes, peer: &Attributes, mode: Mode, own_is_source: bool) -> Vec<Attribute> {
    if own_is_source {
        return Vec::new();
    }
    let (own, peer) = (known(own), known(peer));
    let mut out = Vec::new();
    let keys: std::collections::BTreeSet<_> = own.keys().chain(peer.keys()).collect();
    for key in keys {
        let nothing = Known::default();
        let (ours, theirs) = (own.get(key).unwrap_or(&nothing), peer.get(key).unwrap_or(&nothing));
        let take = match mode {
            Mode::Backup(Source::Master | Source::Slave) => true,
            _ => theirs_stands(ours, theirs),
        };
        if take && ours.value != theirs.value {
            out.push(Attribute { key: key.clone(), value: theirs.value.clone(), changed: theirs.changed });
        }
    }
    // A Sieve script comes before what says that it is active, and goes after it: the keys begin with `files/` and `default`.
    let (mut set, removed): (Vec<Attribute>, Vec<_>) = out.into_iter().partition(|a| a.value.is_some());
    set.reverse();
    set.extend(removed);
    set
}

fn theirs_stands(ours: &Known, theirs: &Known) -> bool {
    let is_known = |k: &Known| k.value.is_some() || k.removed;
    if !is_known(theirs) || !is_known(ours) {
        return is_known(theirs);
    }
    (theirs.changed, theirs.modseq, &theirs.value) > (ours.changed, ours.modseq, &ours.value)
}

/// Digest over all attributes: equal digests, equal attributes.
#[must_use]
pub(super) fn digest(present: &[Attribute]) -> [u8; 20] {
    let mut sorted: Vec<_> = present.iter().filter_map(|a| Some((&a.key, a.value.as_ref()?))).collect();
    sorted.sort();
    let mut hash = Sha1::new();
    for (key, value) in sorted {
        hash.update([u8::from(key.private)]);
        hash.update((key.key.len() as u64).to_le_bytes());
        hash.update(&key.key);
        hash.update((value.len() as u64).to_le_bytes());
        hash.update(value);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::AttributeChange;
    use proptest::prelude::*;

    fn side() -> impl Strategy<Value = Attributes> {
        let one = (0u8..3, prop::option::of(0u8..3), 0u32..2, 0u64..3, any::<bool>());
        prop::collection::vec(one, 0..5).prop_map(|list| {
            let mut out = Attributes::default();
            let mut seen = std::collections::BTreeSet::new();
            for (k, value, changed, modseq, logged) in list {
                let key = AttributeKey { private: k == 0, key: format!("k{k}") };
                if !seen.insert(k) {
                    continue;
                }
                let removed = value.is_none();
                if let Some(v) = value {
                    out.present.push(Attribute { key: key.clone(), value: Some(vec![v]), changed: Timestamp(changed) });
                }
                if logged {
                    out.changes.push(AttributeChange { key, removed, modseq: ModSeq(modseq) });
                }
            }
            out
        })
    }

    fn apply(to: &mut Attributes, changes: Vec<Attribute>) {
        for c in changes {
            to.present.retain(|a| a.key != c.key);
            to.changes.retain(|a| a.key != c.key);
            if c.value.is_some() {
                to.present.push(c);
            }
        }
    }

    proptest! {
        #[test]
        fn two_way_both_end_with_the_same(a in side(), b in side()) {
            let (mut a, mut b) = (a, b);
            let for_a = to_change(&a, &b, Mode::TwoWay, false);
            let for_b = to_change(&b, &a, Mode::TwoWay, false);
            apply(&mut a, for_a);
            apply(&mut b, for_b);
            prop_assert_eq!(digest(&a.present), digest(&b.present));
        }

        #[test]
        fn backup_ends_with_the_source(a in side(), b in side()) {
            let mut b = b;
            let mode = Mode::Backup(Source::Master);
            prop_assert!(to_change(&a, &b, mode, true).is_empty());
            let for_b = to_change(&b, &a, mode, false);
            apply(&mut b, for_b);
            prop_assert_eq!(digest(&a.present), digest(&b.present));
        }
    }
}
