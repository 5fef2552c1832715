//! Mails in two mailboxes, whole runs: the last copy of a mail stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::super::message::{Channel, Link, LinkError, Message};
use super::super::model::{ModelBox, ModelStore};
use super::super::tree::Side;
use super::super::{Algorithm, Filter, FlagFilter, FlagOrKeyword, Mode, Options, Report, Source, run};
use super::{numbered_mail, options, source_first};
use crate::mail::{Flags, MailGuid, MailboxGuid, MailboxName, Uid, UidValidity};
use crate::os::stop::Stop;

const NAMES: [&str; 3] = ["INBOX", "kept", "old"];

/// Something a user does; mailboxes and mails by number.
#[derive(Debug, Clone)]
enum Op {
    Append(usize),
    /// In Maildir a copy has a GUID of its own.
    Copy {
        from: usize,
        to: usize,
        mail: usize,
        own_guid: bool,
    },
    Expunge(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..NAMES.len();
    prop_oneof![
        2 => at().prop_map(Op::Append),
        3 => (at(), at(), 0usize..6, any::<bool>()).prop_map(|(from, to, mail, own_guid)| Op::Copy { from, to, mail, own_guid }),
        4 => (at(), 0usize..6).prop_map(|(at, mail)| Op::Expunge(at, mail)),
    ]
}

fn name(n: usize) -> MailboxName {
    MailboxName::new(vec![NAMES[n].to_owned()]).expect("a name")
}

struct Pair {
    a: ModelStore,
    b: ModelStore,
    counter: u32,
}

impl Pair {
    fn new() -> Self {
        let (a, b) = (ModelStore::default(), ModelStore::default());
        for store in [&a, &b] {
            for n in 0..NAMES.len() {
                let guid = MailboxGuid::new([n as u8 + 1; 16]).expect("not zero");
                store.world().boxes.insert(name(n), ModelBox::new(guid, UidValidity::new(100).expect("not zero")));
            }
        }
        Self { a, b, counter: 0 }
    }

    fn act(&mut self, on_a: bool, ops: &[Op]) {
        for op in ops {
            self.counter += 1;
            let mut world = if on_a { self.a.world() } else { self.b.world() };
            let pick = |b: &ModelBox, n: usize| b.mails.keys().nth(n % b.mails.len().max(1)).copied();
            match *op {
                Op::Append(at) => {
                    world.boxes.get_mut(&name(at)).expect("there").append(None, numbered_mail(self.counter, 0));
                }
                Op::Copy { from, to, mail, own_guid } => {
                    let Some(uid) = pick(&world.boxes[&name(from)], mail) else { continue };
                    let mut copy = world.boxes[&name(from)].mails[&uid].clone();
                    if own_guid {
                        copy.guid = MailGuid::new(format!("copy {}", self.counter)).expect("not empty");
                    }
                    world.boxes.get_mut(&name(to)).expect("there").append(None, copy);
                }
                Op::Expunge(at, mail) => {
                    let mailbox = world.boxes.get_mut(&name(at)).expect("there");
                    if let Some(uid) = pick(mailbox, mail) {
                        mailbox.expunge(uid, true, false);
                    }
                }
            }
        }
    }

    fn sync(&self, options: &Options, far: bool) {
        let (a, b) = Channel::pair();
        let (mut a, mut b) = (Way(a, far), Way(b, far));
        std::thread::scope(|scope| {
            let slave = scope.spawn(move || run(Side::Slave, options, &mut self.b.clone(), &mut b, &Stop::new()));
            let master = run(Side::Master, options, &mut self.a.clone(), &mut a, &Stop::new());
            for report in [master, slave.join().expect("the slave does not panic")] {
                let Report { failed, desync, skipped, .. } = report;
                assert_eq!((failed, desync, skipped), (None, None, 0));
            }
        });
    }

    fn writes(&self) -> u32 {
        self.a.world().writes + self.b.world().writes
    }
}

/// A way that a brain takes for a wire, or not: then mailboxes go one by one.
struct Way(Channel, bool);

impl Link for Way {
    fn send(&mut self, message: Message) -> Result<(), LinkError> {
        self.0.send(message)
    }

    fn recv(&mut self) -> Result<Message, LinkError> {
        self.0.recv()
    }

    fn is_near(&self) -> bool {
        !self.1
    }
}

type Seen = BTreeMap<MailboxName, (Vec<(Uid, MailGuid, Vec<u8>)>, Uid)>;

fn seen(store: &ModelStore) -> Seen {
    let mails = |b: &ModelBox| b.mails.iter().map(|(u, m)| (*u, m.guid.clone(), m.text.clone())).collect();
    store.world().boxes.iter().map(|(name, b)| (name.clone(), (mails(b), b.uid_next))).collect()
}

fn texts(store: &ModelStore) -> BTreeSet<Vec<u8>> {
    seen(store).into_values().flat_map(|b| b.0).map(|m| m.2).collect()
}

fn has_all(store: &ModelStore, must: &BTreeSet<Vec<u8>>) {
    let lost: Vec<_> = must.difference(&texts(store)).map(|t| String::from_utf8_lossy(t).into_owned()).collect();
    assert!(lost.is_empty(), "lost {lost:?}");
}

/// What no run may lose: what is new, and what is on both sides, be it in different mailboxes.
fn precious(pair: &Pair, old: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
    let (a, b) = (texts(&pair.a), texts(&pair.b));
    &(&(&a | &b) - old) | &(&a & &b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_way_keeps_the_last_copy(
        far in any::<bool>(),
        history in prop::collection::vec((prop::collection::vec(op(), 0..8), prop::collection::vec(op(), 0..8)), 1..5),
        // The run of this number is stopped after so many messages, or when a side has made so many changes.
        stop in prop::option::of((0usize..4, prop_oneof![(0usize..60).prop_map(Ok), (any::<bool>(), 0u32..12).prop_map(Err)])),
    ) {
        let mut pair = Pair::new();
        let how = options(Mode::TwoWay, Algorithm::Full);
        for (n, (on_a, on_b)) in history.iter().enumerate() {
            let old = &texts(&pair.a) | &texts(&pair.b);
            pair.act(true, on_a);
            pair.act(false, on_b);
            let must = precious(&pair, &old);
            match stop.filter(|stop| stop.0 == n) {
                Some((_, Ok(messages))) => stopped(&pair, far, messages),
                Some((_, Err((on_a, room)))) => {
                    (if on_a { &pair.a } else { &pair.b }).world().room = Some(room);
                    stopped(&pair, far, usize::MAX);
                }
                None => {}
            }
            pair.sync(&how, far);
            prop_assert_eq!(seen(&pair.a), seen(&pair.b));
            has_all(&pair.a, &must);
            let before = pair.writes();
            pair.sync(&how, far);
            prop_assert_eq!(pair.writes(), before, "a second run has nothing to do");
        }
    }

    #[test]
    fn one_way_keeps_the_last_copy(
        far in any::<bool>(), reverse in any::<bool>(),
        first in prop::collection::vec(op(), 0..12),
        on_a in prop::collection::vec(op(), 0..8), on_b in prop::collection::vec(op(), 0..8),
    ) {
        let mut pair = Pair::new();
        pair.act(true, &first);
        pair.sync(&options(Mode::TwoWay, Algorithm::Full), far);
        let old = &texts(&pair.a) | &texts(&pair.b);
        pair.act(true, &on_a);
        pair.act(false, &on_b);
        let must = precious(&pair, &old);
        let how = options(Mode::OneWay(if reverse { Source::Slave } else { Source::Master }), Algorithm::Full);
        let (source, dest) = source_first([&pair.a, &pair.b], reverse);
        let before = seen(&source);
        pair.sync(&how, far);
        prop_assert_eq!(seen(&source), before, "the source is as it was");
        has_all(&dest, &must);
        let writes = pair.writes();
        pair.sync(&how, far);
        prop_assert_eq!(pair.writes(), writes, "a second run has nothing to do");
    }
}

/// Both have a mail in two mailboxes; each expunges it in another one.
fn crossed(own_guid: bool) -> Pair {
    let mut pair = Pair::new();
    pair.act(true, &[Op::Append(0), Op::Copy { from: 0, to: 1, mail: 0, own_guid }]);
    pair.sync(&options(Mode::TwoWay, Algorithm::Full), false);
    pair.act(true, &[Op::Expunge(0, 0)]);
    pair.act(false, &[Op::Expunge(1, 0)]);
    pair
}

#[test]
fn a_mail_that_each_side_has_in_another_mailbox_stays_in_one() {
    for own_guid in [false, true] {
        for far in [false, true] {
            let pair = crossed(own_guid);
            pair.sync(&options(Mode::TwoWay, Algorithm::Full), far);
            assert_eq!(seen(&pair.a), seen(&pair.b));
            let left: usize = seen(&pair.a).values().map(|b| b.0.len()).sum();
            assert_eq!(left, 1, "not in both");
        }
    }
}

#[test]
fn what_was_copied_elsewhere_does_not_come_back() {
    for own_guid in [false, true] {
        let mut pair = crossed(own_guid);
        pair.act(true, &[Op::Copy { from: 1, to: 2, mail: 0, own_guid }]);
        pair.sync(&options(Mode::TwoWay, Algorithm::Full), false);
        assert_eq!(seen(&pair.a), seen(&pair.b));
        let left: Vec<usize> = seen(&pair.a).values().map(|b| b.0.len()).collect();
        assert_eq!(left, [0, 0, 1], "in the third mailbox alone");
    }
}

/// A way that ends after so many messages, counted over both directions.
struct Cut(Option<Channel>, bool, Arc<AtomicUsize>);

impl Link for Cut {
    fn send(&mut self, message: Message) -> Result<(), LinkError> {
        let left = self.2.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if left.is_err() {
            self.0 = None;
        }
        self.0.as_mut().ok_or(LinkError::Closed)?.send(message)
    }

    fn recv(&mut self) -> Result<Message, LinkError> {
        self.0.as_mut().ok_or(LinkError::Closed)?.recv()
    }

    fn is_near(&self) -> bool {
        !self.1
    }
}

/// A run that may end anywhere.
fn stopped(pair: &Pair, far: bool, messages: usize) {
    let how = options(Mode::TwoWay, Algorithm::Full);
    let left = Arc::new(AtomicUsize::new(messages));
    let (a, b) = Channel::pair();
    let (mut a, mut b) = (Cut(Some(a), far, Arc::clone(&left)), Cut(Some(b), far, left));
    std::thread::scope(|scope| {
        let how = &how;
        scope.spawn(move || run(Side::Slave, how, &mut pair.b.clone(), &mut b, &Stop::new()));
        run(Side::Master, how, &mut pair.a.clone(), &mut a, &Stop::new());
        drop(a);
    });
    for store in [&pair.a, &pair.b] {
        store.world().room = None;
    }
}

/// A run that may end anywhere, then a whole one: one copy is left.
fn stopped_and_run_again(pair: &Pair, far: bool, messages: usize) {
    stopped(pair, far, messages);
    pair.sync(&options(Mode::TwoWay, Algorithm::Full), far);
    assert_eq!(seen(&pair.a), seen(&pair.b));
    // Where a run was stopped between the two, both may stay.
    let left: usize = seen(&pair.a).values().map(|b| b.0.len()).sum();
    assert!((1..=2).contains(&left), "{left} left after {messages} messages");
}

#[test]
fn a_run_that_is_stopped_does_not_lose_the_last_copy() {
    for (far, own_guid) in [(false, false), (false, true), (true, false), (true, true)] {
        (0..60).for_each(|n| stopped_and_run_again(&crossed(own_guid), far, n));
        for (on_a, room) in (0..8).flat_map(|n| [(false, n), (true, n)]) {
            let pair = crossed(own_guid);
            (if on_a { &pair.a } else { &pair.b }).world().room = Some(room);
            stopped_and_run_again(&pair, far, usize::MAX);
        }
    }
}

/// What a filter would not let pass is copied all the same when it is the last copy: the other one goes.
#[test]
fn a_filter_does_not_cost_the_last_copy() {
    let flag = FlagFilter { wanted: true, flag: FlagOrKeyword::Flag(Flags::FLAGGED) };
    let filter = Filter { flag: Some(flag), ..Filter::default() };
    let how = Options { filter, ..options(Mode::TwoWay, Algorithm::Full) };
    for (far, own_guid) in [(false, false), (false, true), (true, false), (true, true)] {
        let pair = crossed(own_guid);
        for _ in 0..3 {
            pair.sync(&how, far);
        }
        assert!(!texts(&pair.a).is_empty() && !texts(&pair.b).is_empty(), "far {far}, GUID of its own {own_guid}");
    }
}

/// A mailbox whose UIDVALIDITY was changed loses mails like any other.
#[test]
fn another_uidvalidity_does_not_cost_the_last_copy() {
    for (far, own_guid) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut pair = Pair::new();
        pair.act(true, &[Op::Append(0), Op::Append(0), Op::Copy { from: 0, to: 1, mail: 0, own_guid }, Op::Append(1)]);
        pair.sync(&options(Mode::TwoWay, Algorithm::Full), far);
        pair.act(true, &[Op::Expunge(0, 0)]);
        pair.act(false, &[Op::Expunge(1, 0)]);
        let another = UidValidity::new(101).expect("not zero");
        pair.b.world().boxes.get_mut(&name(0)).expect("there").uidvalidity = another;
        let before = texts(&pair.a);
        pair.sync(&options(Mode::TwoWay, Algorithm::Full), far);
        has_all(&pair.a, &before);
    }
}
