//! Random transactions against a model that knows nothing of logs, and the speed of replaying large ones.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;

use super::{open, options};
use crate::index::{Bits, Durability, ExtSpec, Files, Index, Transaction};
use crate::mail::{Flags, Guid128, Keyword, ModSeq, Uid, UidValidity};

#[derive(Debug, Clone)]
enum Op {
    Append(u32, u8),
    Flags(u32, u8, u8),
    Keyword(u32, usize, bool),
    Record(u32, u32),
    Increment(u32, i32),
    Modseq(u32, u64),
    Expunge(u32),
}

const SIZE: ExtSpec = ExtSpec::new("vsize", 0, 4, 4);
const REF: ExtSpec = ExtSpec::new("ref", 8, 2, 2);

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (1u32..5, 0u8..32).prop_map(|(gap, flags)| Op::Append(gap, flags)),
        (1u32..40, 0u8..32, 0u8..32).prop_map(|(uid, add, remove)| Op::Flags(uid, add, remove & !add)),
        (1u32..40, 0usize..20, any::<bool>()).prop_map(|(uid, k, add)| Op::Keyword(uid, k, add)),
        (1u32..40, any::<u32>()).prop_map(|(uid, n)| Op::Record(uid, n)),
        (1u32..40, 0i32..9).prop_map(|(uid, n)| Op::Increment(uid, n)),
        (1u32..40, 1u64..500).prop_map(|(uid, n)| Op::Modseq(uid, n)),
        (1u32..40).prop_map(Op::Expunge),
    ]
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Mail {
    flags: u8,
    keywords: BTreeSet<String>,
    size: u32,
    refs: u16,
    least_modseq: u64,
}

fn uid(n: u32) -> Uid {
    Uid::new(n).expect("not 0")
}

fn shown(index: &Index) -> BTreeMap<u32, Mail> {
    let s = index.state();
    let mail = |row: usize| Mail {
        flags: s.raw_flags(row),
        keywords: s.keywords(row).iter().map(|k| k.as_str().to_owned()).collect(),
        size: s.ext("vsize").map_or(0, |e| s.ext_u32(e, row)),
        refs: s.ext("ref").and_then(|e| s.ext_record(e, row).first_chunk()).map_or(0, |b| u16::from_le_bytes(*b)),
        least_modseq: 0,
    };
    (0..s.len()).map(|row| (s.uid(row).get(), mail(row))).collect()
}

type Transactions = Vec<(Vec<Op>, bool, u8)>;

fn is_read_as_meant(transactions: Transactions) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().expect("scratch directory");
    let mut first = Transaction::new(Bits::EXTERNAL);
    first.uid_validity(UidValidity::new(1).expect("not 0"));
    let mut on = Transaction::new(Bits::INTERNAL);
    on.keep_modseqs();
    let created = Index::create(Files::new(dir.path(), Files::MAILBOX), options(), &[first, on]).expect("scratch");
    let mut index = created.index();
    let mut follower = open(dir.path()).expect("just made");
    let mut model: BTreeMap<u32, Mail> = BTreeMap::new();
    let mut next = 1;
    for (ops, sync, then) in transactions {
        let mut t = Transaction::new(if sync { Bits::EXTERNAL_SYNC } else { Bits::EXTERNAL });
        // One record of each kind for a mail and transaction: the order between kinds is the transaction's own.
        let mut done = HashSet::new();
        let mut gone = Vec::new();
        let before = next;
        for op in ops {
            let target = match op {
                Op::Append(..) => None,
                Op::Flags(u, ..)
                | Op::Keyword(u, ..)
                | Op::Record(u, _)
                | Op::Increment(u, _)
                | Op::Modseq(u, _)
                | Op::Expunge(u) => Some(u),
            };
            let key = (std::mem::discriminant(&op), target, if let Op::Keyword(_, k, _) = op { k } else { 0 });
            if target.is_some_and(|u| u >= before || !done.insert(key)) {
                continue;
            }
            let mut nobody = Mail::default();
            let mail = target.and_then(|u| model.get_mut(&u)).unwrap_or(&mut nobody);
            match op {
                Op::Append(gap, flags) => {
                    next += gap;
                    t.append(uid(next - 1), flags);
                    model.insert(next - 1, Mail { flags, ..Mail::default() });
                }
                Op::Flags(u, add, remove) => {
                    t.flags(uid(u), Flags::from_bits(add), Flags::from_bits(remove));
                    mail.flags = mail.flags & !remove | add;
                }
                Op::Keyword(u, k, add) => {
                    let name = format!("kw{k}");
                    t.keyword(uid(u), &Keyword::new(&name), add);
                    if add {
                        mail.keywords.insert(name);
                    } else {
                        mail.keywords.remove(&name);
                    }
                }
                Op::Record(u, n) => {
                    t.ext_record(SIZE, uid(u), &n.to_le_bytes());
                    mail.size = n;
                }
                Op::Increment(u, n) => {
                    t.ext_increment(REF, uid(u), n);
                    mail.refs += u16::try_from(n).expect("not negative");
                }
                Op::Modseq(u, n) => {
                    t.modseq(uid(u), ModSeq(n));
                    mail.least_modseq = mail.least_modseq.max(n);
                }
                Op::Expunge(u) => {
                    t.expunge(uid(u), Guid128::ZERO);
                    gone.push(u);
                }
            }
        }
        for u in gone {
            model.remove(&u);
        }
        let mut locked = index.lock().expect("free");
        locked.commit(&t, Durability::Later).expect("room");
        match then {
            0 => locked.write_snapshot().expect("room"),
            1 => locked.rotate().expect("room"),
            _ => {}
        }
    }
    follower.refresh().expect("valid");
    let fresh = open(dir.path()).expect("valid");
    for index in [&index, &follower, &fresh] {
        let mut wanted = model.clone();
        for (u, mail) in &mut wanted {
            let row = index.state().row(uid(*u)).expect("shown");
            prop_assert!(index.state().modseq(row).0 >= mail.least_modseq);
            mail.least_modseq = 0;
        }
        prop_assert_eq!(shown(index), wanted);
        prop_assert_eq!(index.state().next_uid(), uid(next));
    }
    prop_assert_eq!(super::fixtures::describe(follower.state()), super::fixtures::describe(fresh.state()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn what_was_meant_is_what_is_read(transactions in prop::collection::vec((prop::collection::vec(op(), 1..12), any::<bool>(), 0u8..8), 1..15)) {
        is_read_as_meant(transactions)?;
    }
}

/// What was once not read as it was meant: a log that is rotated behind one mail, then another.
#[test]
fn one_mail_on_each_side_of_a_rotation() {
    let transactions = vec![(vec![Op::Append(1, 0)], false, 1), (vec![Op::Append(1, 0)], false, 2)];
    is_read_as_meant(transactions).expect("read as meant");
}

#[test]
fn large_mailboxes_are_no_quadratic_matter() {
    let dir = tempfile::tempdir().expect("scratch directory");
    let created = Index::create(Files::new(dir.path(), Files::MAILBOX), options(), &[]).expect("scratch");
    let mut index = created.index();
    let mut on = Transaction::new(Bits::INTERNAL);
    on.keep_modseqs();
    let mut t = Transaction::new(Bits::EXTERNAL_SYNC);
    t.uid_validity(UidValidity::new(1).expect("not 0"));
    for n in 1..=200_000 {
        t.append(uid(n), 0);
        t.modseq(uid(n), ModSeq(u64::from(n)));
        t.ext_record(SIZE, uid(n), &n.to_le_bytes());
        if n % 3 == 0 {
            t.keyword(uid(n), &Keyword::new("often"), true);
        }
    }
    let mut locked = index.lock().expect("free");
    locked.commit_all(&[on, t], Durability::Later).expect("room");
    locked.write_snapshot().expect("room");
    // A megabyte and more of small transactions, expunges among them.
    let mut bytes = Vec::new();
    for n in 1..=12_000u32 {
        let mut t = Transaction::new(Bits::EXTERNAL);
        t.flags(uid(n * 16), Flags::SEEN, Flags::NONE);
        t.keyword(uid(n * 3), &Keyword::new(&format!("k{}", n % 50)), true);
        t.expunge(uid(n * 16 - 1), Guid128::ZERO);
        bytes.extend(crate::index::transaction::encode(&t, locked.state()).expect("fits"));
    }
    drop(locked);
    let mut log = std::fs::OpenOptions::new().append(true).open(dir.path().join("dovecot.index.log")).expect("there");
    std::io::Write::write_all(&mut log, &bytes).expect("room");
    let size = bytes.len();
    let start = std::time::Instant::now();
    let fresh = open(dir.path()).expect("valid");
    let opened = start.elapsed();
    let start = std::time::Instant::now();
    let mails = fresh.state().mails();
    let listed = start.elapsed();
    assert_eq!(mails.len(), 188_000);
    eprintln!("{size} bytes behind the snapshot, {} mails: opened in {opened:?}, listed in {listed:?}", mails.len());
    assert!(opened.as_secs() < 5, "{opened:?}");
}
