//! Two sides in memory, random histories: what one run must bring about.

mod copies;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::at_hand::AtHand;
use super::flow::Flow;
use super::last_copy::LastCopies;
use super::message::{Channel, Link as _, Message};
use super::model::{ModelBox, ModelMail, ModelStore};
use super::round::{self, Round, RoundReport, Start, offer};
use super::tree::Side;
use super::{Algorithm, Filter, Mode, Options, Report, Source, facts};
use crate::mail::{
    Class, Flags, Floors, Keyword, Keywords, MailGuid, MailboxGuid, MailboxName, ModSeq, Renumbered, Store as _, Timestamp, Uid,
    UidValidity,
};
use crate::os::stop::Stop;

/// Something a user does.
#[derive(Debug, Clone)]
enum Op {
    Append {
        flags: u8,
    },
    /// Copies a mail inside the mailbox: a second instance of its GUID.
    Copy(usize),
    Flag {
        mail: usize,
        bits: u8,
        add: bool,
    },
    Keyword {
        mail: usize,
        which: u8,
        add: bool,
    },
    Expunge {
        mail: usize,
        with_guid: bool,
    },
}

/// Something that happens between two runs, or a run.
#[derive(Debug, Clone)]
enum Event {
    Users(Vec<Op>, Vec<Op>),
    /// A side is remembered, or put back to what it was.
    Snapshot(bool),
    Restore(bool),
    /// The n-th mail's text becomes readable or unreadable.
    Damage(bool, usize),
    Run {
        mode: Mode,
        full: bool,
        since: Option<u32>,
        /// A side that has room for so many changes only.
        room: Option<(bool, u32)>,
        /// A side that gets a mail right before its n-th change.
        arrives: Option<(bool, u32)>,
        /// A side that does not find the n-th text it looks for.
        elusive: Option<(bool, u32)>,
    },
    /// A side's log is rotated away.
    Rotate(bool),
}

fn event() -> impl Strategy<Value = Event> {
    let mode = prop_oneof![
        4 => Just(Mode::TwoWay),
        1 => Just(Mode::OneWay(Source::Master)),
        1 => Just(Mode::OneWay(Source::Slave)),
        1 => Just(Mode::Backup(Source::Master)),
        1 => Just(Mode::Backup(Source::Slave)),
    ];
    let since = prop_oneof![2 => Just(None), 1 => (0u32..40).prop_map(Some)];
    let room = prop_oneof![2 => Just(None), 1 => (any::<bool>(), 0u32..8).prop_map(Some)];
    let run = (mode, any::<bool>(), since, room).prop_map(|(mode, full, since, room)| Event::Run {
        mode,
        full,
        since,
        room,
        arrives: None,
        elusive: None,
    });
    // An expunge that does not say of which mail, a filter and `sync -1` together can be told from nothing.
    let users = (ops_without_copies(), ops_without_copies()).prop_map(|(a, b)| Event::Users(named(a), named(b)));
    prop_oneof![
        4 => users,
        6 => run,
        1 => any::<bool>().prop_map(Event::Snapshot),
        1 => any::<bool>().prop_map(Event::Restore),
        1 => (any::<bool>(), any::<usize>()).prop_map(|(on_a, n)| Event::Damage(on_a, n)),
    ]
}

/// Only what can be told apart when no log tells it.
fn event_beside_users() -> impl Strategy<Value = Event> {
    let arrives = prop::option::of((any::<bool>(), 0u32..8));
    let elusive = prop::option::of((any::<bool>(), 0u32..4));
    let run = (arrives, elusive).prop_map(|(arrives, elusive)| Event::Run {
        mode: Mode::TwoWay,
        full: true,
        since: None,
        room: None,
        arrives,
        elusive,
    });
    prop_oneof![
        2 => (ops_without_copies(), ops_without_copies()).prop_map(|(a, b)| Event::Users(a, b)),
        2 => run,
        1 => any::<bool>().prop_map(Event::Rotate),
    ]
}

/// Copies of mails at work everywhere, and logs that tell.
fn event_with_copies() -> impl Strategy<Value = Event> {
    let arrives = prop::option::of((any::<bool>(), 0u32..8));
    let run = arrives.prop_map(|arrives| Event::Run {
        mode: Mode::TwoWay,
        full: true,
        since: None,
        room: None,
        arrives,
        elusive: None,
    });
    prop_oneof![
        2 => (ops(), ops()).prop_map(|(a, b)| Event::Users(named(a), named(b))),
        2 => run,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u8..32).prop_map(|flags| Op::Append { flags }),
        1 => any::<usize>().prop_map(Op::Copy),
        3 => (any::<usize>(), 1u8..32, any::<bool>()).prop_map(|(mail, bits, add)| Op::Flag { mail, bits, add }),
        2 => (any::<usize>(), 0u8..3, any::<bool>()).prop_map(|(mail, which, add)| Op::Keyword { mail, which, add }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(mail, with_guid)| Op::Expunge { mail, with_guid }),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..8)
}

fn ops_without_copies() -> impl Strategy<Value = Vec<Op>> {
    ops().prop_map(|ops| ops.into_iter().filter(|o| !matches!(o, Op::Copy(_))).collect())
}

fn named(mut ops: Vec<Op>) -> Vec<Op> {
    for op in &mut ops {
        if let Op::Expunge { with_guid, .. } = op {
            *with_guid = true;
        }
    }
    ops
}

/// A pair of sides with one mailbox, and what their users know.
struct Pair {
    a: ModelStore,
    b: ModelStore,
    counter: u32,
    /// Texts that a user has expunged somewhere.
    removed: BTreeSet<Vec<u8>>,
    /// All texts there ever were.
    all: BTreeSet<Vec<u8>>,
    state: Option<String>,
    snapshots: [Option<ModelBox>; 2],
}

impl Pair {
    fn new(same_identity: bool) -> Self {
        let (a, b) = (ModelStore::default(), ModelStore::default());
        let guid = |n: u8| MailboxGuid::new([n; 16]).expect("not zero");
        let validity = |n: u32| UidValidity::new(n).expect("not zero");
        a.world().boxes.insert(MailboxName::inbox(), ModelBox::new(guid(1), validity(100)));
        b.world().boxes.insert(MailboxName::inbox(), ModelBox::new(guid(1), validity(if same_identity { 100 } else { 200 })));
        Self { a, b, counter: 0, removed: BTreeSet::new(), all: BTreeSet::new(), state: None, snapshots: [None, None] }
    }

    fn act(&mut self, on_a: bool, ops: &[Op]) {
        for op in ops {
            self.counter += 1;
            let store = if on_a { &self.a } else { &self.b };
            let mut world = store.world();
            let mailbox = world.boxes.get_mut(&MailboxName::inbox()).expect("never deleted here");
            let pick = |n: usize| mailbox.mails.keys().nth(n % mailbox.mails.len().max(1)).copied();
            match *op {
                Op::Append { flags } => {
                    let mail = numbered_mail(self.counter, flags);
                    self.all.insert(mail.text.clone());
                    mailbox.append(None, mail);
                }
                Op::Copy(n) => {
                    if let Some(uid) = pick(n) {
                        let copy = mailbox.mails[&uid].clone();
                        mailbox.append(None, copy);
                    }
                }
                Op::Flag { mail, bits, add } => {
                    if let Some(uid) = pick(mail) {
                        let bits = Flags::from_bits(bits);
                        let (add, remove) = if add { (bits, Flags::NONE) } else { (Flags::NONE, bits) };
                        mailbox.set_flags(uid, add, remove, (&Keywords::NONE, &Keywords::NONE), ModSeq(0), false);
                    }
                }
                Op::Keyword { mail, which, add } => {
                    if let Some(uid) = pick(mail) {
                        let some: Keywords = [Keyword::new(["Junk", "$a", "later"][usize::from(which)])].into_iter().collect();
                        let none = Keywords::NONE;
                        let change = if add { (&some, &none) } else { (&none, &some) };
                        mailbox.set_flags(uid, Flags::NONE, Flags::NONE, change, ModSeq(0), false);
                    }
                }
                Op::Expunge { mail, with_guid } => {
                    if let Some(uid) = pick(mail) {
                        self.removed.insert(mailbox.mails[&uid].text.clone());
                        mailbox.expunge(uid, with_guid, false);
                    }
                }
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let name = MailboxName::inbox();
        let store = |on_a: bool| if on_a { self.a.clone() } else { self.b.clone() };
        match event {
            Event::Users(on_a, on_b) => {
                self.act(true, on_a);
                self.act(false, on_b);
            }
            Event::Snapshot(on_a) => self.snapshots[usize::from(*on_a)] = store(*on_a).world().boxes.get(&name).cloned(),
            Event::Restore(on_a) => {
                let Some(old) = self.snapshots[usize::from(*on_a)].clone() else { return };
                let before = texts(&store(*on_a));
                store(*on_a).world().boxes.insert(name, old);
                // What nobody else has is gone with the disk.
                let left = &texts(&self.a) | &texts(&self.b);
                self.removed.extend(before.difference(&left).cloned());
            }
            Event::Damage(on_a, n) => {
                let store = store(*on_a);
                let mut world = store.world();
                let mails = &mut world.boxes.get_mut(&name).expect("never deleted here").mails;
                let n = n % mails.len().max(1);
                if let Some(mail) = mails.values_mut().nth(n) {
                    mail.unreadable = !mail.unreadable;
                }
            }
            Event::Rotate(on_a) => inbox(&store(*on_a), ModelBox::forget_log),
            Event::Run { mode, full, since, room, arrives, elusive } => {
                if let Some((on_a, before)) = arrives {
                    self.counter += 1;
                    let mail = numbered_mail(self.counter, 0);
                    self.all.insert(mail.text.clone());
                    store(*on_a).world().arriving.push((*before, mail));
                }
                if let Some((on_a, n)) = elusive {
                    store(*on_a).world().elusive = Some(*n);
                }
                if let Some((on_a, room)) = room {
                    store(*on_a).world().room = Some(*room);
                }
                if let Mode::Backup(source) = mode {
                    let (of, to) = (store(*source == Source::Master), store(*source != Source::Master));
                    self.removed.extend(texts(&to).difference(&texts(&of)).cloned());
                }
                let algorithm = if *full { Algorithm::Full } else { Algorithm::Changed };
                let filter = Filter { since: since.map(Timestamp), ..Filter::default() };
                self.sync(&Options { filter, commit_interval: 2, ..options(*mode, algorithm) });
                for store in [&self.a, &self.b] {
                    let mut world = store.world();
                    (world.room, world.elusive) = (None, None);
                    // What did not come in time comes now.
                    for (_, mail) in std::mem::take(&mut world.arriving) {
                        world.deliver(&mail);
                    }
                }
            }
        }
    }

    fn sync(&mut self, options: &Options) -> (RoundReport, RoundReport) {
        let (link_a, link_b) = Channel::pair();
        let b = self.b.clone();
        let saved = self.state.as_deref().and_then(|s| super::State::decode(s).ok()).unwrap_or_default();
        let reports = std::thread::scope(|scope| {
            let saved = &saved;
            let slave = scope.spawn(move || one_side(Side::Slave, options, &b, link_b, saved));
            let master = one_side(Side::Master, options, &self.a, link_a, saved);
            (master, slave.join().expect("the slave does not panic"))
        });
        if let Some(m) = reports.0.state {
            let mut report = Report::default();
            report.state.0.insert(MailboxGuid::new([1; 16]).expect("not zero"), m);
            self.state = Some(report.state.encode());
        }
        reports
    }

    fn writes(&self) -> u32 {
        self.a.world().writes + self.b.world().writes
    }
}

fn one_side(side: Side, options: &Options, store: &ModelStore, mut link: Channel, saved: &super::State) -> RoundReport {
    let name = MailboxName::inbox();
    let mut store = store.clone();
    let mut mailbox = store.open(&name).expect("it is there");
    let guids = facts::guids(&mut *mailbox);
    let saved = saved.0.get(&mailbox.status().identity.guid).copied();
    let stop = Stop::new();
    let start = Start { side, options, saved, fresh: false, unified: false, stop: &stop };
    let own = offer(&*mailbox, &guids, &start);
    link.send(Message::Offer(Ok(Box::new(own.clone())))).expect("the other side lives");
    let Ok(Message::Offer(Ok(peer))) = link.recv() else { panic!("an offer") };
    let mut report = RoundReport::default();
    if start.nothing_to_do(&own, &peer) {
        report.state = Some(start.state_of(&own, &peer));
        let floors = start.floors(own.status, peer.status);
        if floors != Floors::default() {
            // A side may have been given room for no change at all.
            assert!(mailbox.raise(&floors).map_or_else(|e| e.class() == Class::NoRoom, |()| true));
        }
        return report;
    }
    let mut rounds = [Ok(Round::new(start, mailbox, None, &name))];
    let mut last = LastCopies::default();
    round::run(&mut rounds, &mut Flow::new(&mut link), &mut AtHand::default(), &mut last).expect("the other side lives");
    let [Ok(round)] = rounds else { panic!("the model never fails") };
    assert!(round.report.failed.as_ref().is_none_or(|e| e.class() == Class::NoRoom), "{:?}", round.report.failed);
    round.report
}

/// Source and destination; in reverse the second is the source.
fn source_first([a, b]: [&ModelStore; 2], reverse: bool) -> (ModelStore, ModelStore) {
    if reverse { (b.clone(), a.clone()) } else { (a.clone(), b.clone()) }
}

type Seen = Vec<(Uid, MailGuid, Flags, Keywords, Vec<u8>)>;

fn seen(store: &ModelStore) -> (Seen, Uid, UidValidity) {
    let world = store.world();
    let b = &world.boxes[&MailboxName::inbox()];
    let mails = b.mails.iter().map(|(u, m)| (*u, m.guid.clone(), m.flags, m.keywords.clone(), m.text.clone())).collect();
    (mails, b.uid_next, b.uidvalidity)
}

fn texts(store: &ModelStore) -> BTreeSet<Vec<u8>> {
    seen(store).0.into_iter().map(|m| m.4).collect()
}

fn options(mode: Mode, algorithm: Algorithm) -> Options {
    Options { mode, algorithm, ..Options::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_way_one_run_makes_both_sides_equal(
        same in any::<bool>(), stateful in any::<bool>(),
        history in prop::collection::vec((ops(), ops()), 1..4),
    ) {
        let mut pair = Pair::new(same);
        for (on_a, on_b) in &history {
            pair.act(true, on_a);
            pair.act(false, on_b);
            let algorithm = match &pair.state {
                Some(s) if stateful => Algorithm::State(s.clone()),
                _ => Algorithm::Changed,
            };
            let how = options(Mode::TwoWay, algorithm);
            let (m, s) = pair.sync(&how);
            prop_assert!(!m.unsettled && !s.unsettled);
            prop_assert_eq!(seen(&pair.a), seen(&pair.b));
            let must: BTreeSet<_> = pair.all.difference(&pair.removed).cloned().collect();
            prop_assert!(texts(&pair.a).is_superset(&must), "lost {:?}", must.difference(&texts(&pair.a)).collect::<Vec<_>>());
            let (ha, hb) = (pair.a.world().boxes[&MailboxName::inbox()].highest, pair.b.world().boxes[&MailboxName::inbox()].highest);
            prop_assert_eq!(ha, hb, "highest modseqs");
            let before = pair.writes();
            pair.sync(&how);
            prop_assert_eq!(pair.writes(), before, "a second run has nothing to do");
        }
    }

    #[test]
    fn two_way_does_not_care_who_is_master(on_a in ops(), on_b in ops(), more_a in ops(), more_b in ops()) {
        let run = |swap: bool| {
            let mut pair = Pair::new(true);
            pair.act(true, &on_a);
            pair.act(false, &on_b);
            pair.sync(&options(Mode::TwoWay, Algorithm::Changed));
            pair.act(true, &more_a);
            pair.act(false, &more_b);
            if swap {
                std::mem::swap(&mut pair.a, &mut pair.b);
            }
            pair.sync(&options(Mode::TwoWay, Algorithm::Changed));
            // Flags that two sides set differently at equal modseqs are the master's; all else is the same.
            seen(&pair.a).0.into_iter().map(|(u, g, _, _, t)| (u, g, t)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(false), run(true));
    }

    #[test]
    fn backup_makes_the_destination_the_source(
        same in any::<bool>(), reverse in any::<bool>(),
        history in prop::collection::vec((ops(), ops()), 1..4),
    ) {
        let mut pair = Pair::new(same);
        let how = options(Mode::Backup(if reverse { Source::Slave } else { Source::Master }), Algorithm::Changed);
        for (on_a, on_b) in &history {
            pair.act(true, on_a);
            pair.act(false, on_b);
            let (source, dest) = source_first([&pair.a, &pair.b], reverse);
            let (before, writes) = (seen(&source), source.world().writes);
            pair.sync(&how);
            prop_assert_eq!(&seen(&source), &before);
            prop_assert_eq!(source.world().writes, writes, "the source is not touched");
            prop_assert_eq!(&seen(&dest), &before);
            let before = pair.writes();
            pair.sync(&how);
            prop_assert_eq!(pair.writes(), before, "a second run has nothing to do");
        }
    }

    #[test]
    fn one_way_brings_everything_and_loses_nothing(
        reverse in any::<bool>(),
        // Which of several instances of one mail belong together is not determined where UIDs differ: flags of
        // instances may settle in a later run only.
        history in prop::collection::vec((ops_without_copies(), ops_without_copies()), 1..4),
    ) {
        let mut pair = Pair::new(true);
        let how = options(Mode::OneWay(if reverse { Source::Slave } else { Source::Master }), Algorithm::Changed);
        for (on_a, on_b) in &history {
            pair.act(true, on_a);
            pair.act(false, on_b);
            let (source, dest) = source_first([&pair.a, &pair.b], reverse);
            let (before, writes) = (seen(&source), source.world().writes);
            pair.sync(&how);
            prop_assert_eq!(&seen(&source), &before);
            prop_assert_eq!(source.world().writes, writes, "the source is not touched");
            let must: BTreeSet<_> = pair.all.difference(&pair.removed).cloned().collect();
            prop_assert!(texts(&dest).is_superset(&must), "lost {:?}", must.difference(&texts(&dest)).collect::<Vec<_>>());
            let (after, writes) = (seen(&dest), pair.writes());
            pair.sync(&how);
            prop_assert_eq!(&seen(&dest), &after);
            prop_assert_eq!(pair.writes(), writes, "a second run has nothing to do");
        }
    }

    #[test]
    fn what_a_filter_holds_back_survives(on_a in ops(), on_b in ops(), since in 0u32..12) {
        let mut pair = Pair::new(true);
        pair.act(true, &on_a);
        pair.act(false, &on_b);
        let filter = Filter { since: Some(Timestamp(since)), ..Filter::default() };
        pair.sync(&Options { filter, ..options(Mode::TwoWay, Algorithm::Changed) });
        pair.sync(&options(Mode::TwoWay, Algorithm::Changed));
        prop_assert_eq!(seen(&pair.a), seen(&pair.b));
        let must: BTreeSet<_> = pair.all.difference(&pair.removed).cloned().collect();
        prop_assert!(texts(&pair.a).is_superset(&must));
    }

    #[test]
    fn whatever_happened_nothing_is_lost_or_doubled(events in prop::collection::vec(event(), 1..10)) {
        live_through(&events);
    }

    #[test]
    fn what_arrives_during_a_run_stays(events in prop::collection::vec(event_beside_users(), 1..10)) {
        live_through(&events);
    }

    #[test]
    fn what_arrives_among_copies_stays(same in any::<bool>(), events in prop::collection::vec(event_with_copies(), 1..10)) {
        let mut pair = Pair::new(same);
        for event in &events {
            pair.event(event);
        }
        pair.sync(&options(Mode::TwoWay, Algorithm::Full));
        prop_assert_eq!(seen(&pair.a), seen(&pair.b));
        let must: BTreeSet<_> = pair.all.difference(&pair.removed).cloned().collect();
        prop_assert!(texts(&pair.a).is_superset(&must), "lost {:?}", must.difference(&texts(&pair.a)).collect::<Vec<_>>());
    }
}

/// GUIDs are in no order of time.
fn numbered_mail(n: u32, flags: u8) -> ModelMail {
    ModelMail {
        guid: MailGuid::new(format!("{:x}", n.wrapping_mul(2_654_435_761))).expect("not empty"),
        flags: Flags::from_bits(flags),
        keywords: Keywords::NONE,
        modseq: ModSeq(0),
        text: format!("mail {n}").into_bytes(),
        received: Timestamp(n),
        unreadable: false,
    }
}

fn user_mail(n: u8) -> ModelMail {
    ModelMail {
        guid: MailGuid::new(format!("mail-{n}")).expect("not empty"),
        flags: Flags::NONE,
        keywords: Keywords::NONE,
        modseq: ModSeq(0),
        text: vec![n],
        received: Timestamp(1),
        unreadable: false,
    }
}

fn inbox<T>(store: &ModelStore, f: impl FnOnce(&mut ModelBox) -> T) -> T {
    f(store.world().boxes.get_mut(&MailboxName::inbox()).expect("there"))
}

fn uid(n: u32) -> Uid {
    Uid::new(n).expect("not zero")
}

/// Two mails that both sides have. One is to get the UID 9 on b, where a run was killed then.
fn half_renumbered() -> Pair {
    let mut pair = Pair::new(true);
    inbox(&pair.a, |a| [1, 2].map(|n| a.append(None, user_mail(n))));
    pair.sync(&options(Mode::TwoWay, Algorithm::Changed));
    pair
}

#[test]
fn a_mail_expunged_while_it_got_another_uid_elsewhere_does_not_come_back() {
    let mut pair = half_renumbered();
    inbox(&pair.b, |b| {
        b.append(Some(uid(9)), user_mail(2));
        b.expunge(uid(2), true, true);
        b.renumbered.push(Renumbered { from: uid(2), first: uid(9), last: uid(9) });
    });
    inbox(&pair.a, |a| a.expunge(uid(2), true, false));
    pair.sync(&options(Mode::TwoWay, Algorithm::Changed));
    assert_eq!((texts(&pair.a), texts(&pair.b)), ([vec![1]].into(), [vec![1]].into()));
}

#[test]
fn a_mail_that_came_back_by_another_way_stays() {
    let mut pair = half_renumbered();
    // A third place has brought it, long after it was expunged everywhere.
    inbox(&pair.a, |a| a.expunge(uid(2), true, false));
    pair.sync(&options(Mode::TwoWay, Algorithm::Changed));
    inbox(&pair.b, |b| b.append(Some(uid(9)), user_mail(2)));
    pair.sync(&options(Mode::TwoWay, Algorithm::Changed));
    assert_eq!((texts(&pair.a), texts(&pair.b)), ([vec![1], vec![2]].into(), [vec![1], vec![2]].into()));
}

#[test]
fn a_mail_expunged_behind_the_end_of_the_common_past_does_not_come_back() {
    let mut pair = Pair::new(true);
    inbox(&pair.a, |a| a.append(None, user_mail(1)));
    inbox(&pair.b, |b| {
        b.append(None, user_mail(2));
        b.append(Some(uid(5)), user_mail(3));
    });
    inbox(&pair.a, |a| {
        a.append(Some(uid(5)), user_mail(3));
        a.expunge(uid(5), true, false);
    });
    pair.sync(&options(Mode::TwoWay, Algorithm::Changed));
    assert_eq!((texts(&pair.a), texts(&pair.b)), ([vec![1], vec![2]].into(), [vec![1], vec![2]].into()));
}

/// In the end one whole run makes both sides equal, with each mail that nobody has deleted, once.
fn live_through(events: &[Event]) {
    let mut pair = Pair::new(true);
    for event in events {
        pair.event(event);
    }
    for store in [&pair.a, &pair.b] {
        for mail in store.world().boxes.values_mut().flat_map(|b| b.mails.values_mut()) {
            mail.unreadable = false;
        }
    }
    let (m, s) = pair.sync(&options(Mode::TwoWay, Algorithm::Full));
    assert!(!m.unsettled && !s.unsettled);
    assert_eq!(seen(&pair.a), seen(&pair.b));
    let must: BTreeSet<_> = pair.all.difference(&pair.removed).cloned().collect();
    assert!(texts(&pair.a).is_superset(&must), "lost {:?}", must.difference(&texts(&pair.a)).collect::<Vec<_>>());
    assert_eq!(seen(&pair.a).0.len(), texts(&pair.a).len(), "doubled");
}

#[test]
fn histories_that_once_lost_or_doubled_mails() {
    let mails = |a, b| Event::Users(vec![Op::Append { flags: 0 }; a], vec![Op::Append { flags: 0 }; b]);
    let run = |mode| Event::Run { mode, full: false, since: None, room: None, arrives: None, elusive: None };
    let since = |mode, since, room| Event::Run { mode, full: false, since: Some(since), room, arrives: None, elusive: None };
    let full = |mode, room| Event::Run { mode, full: false, since: None, room: Some(room), arrives: None, elusive: None };
    let (one_way, back) = (Mode::OneWay(Source::Master), Mode::Backup(Source::Slave));
    // The disk was full between a rebuild and the note of what a filter held back.
    live_through(&[mails(3, 2), since(back, 5, Some((true, 1)))]);
    // The same between two batches, for a filter and for an unreadable mail.
    live_through(&[mails(6, 0), since(Mode::TwoWay, 3, Some((false, 2)))]);
    live_through(&[mails(6, 0), Event::Damage(true, 1), full(Mode::TwoWay, (false, 2))]);
    // A backup that was stopped had sent again what the destination had under other UIDs.
    live_through(&[mails(4, 5), run(one_way), mails(0, 2), full(back, (true, 2))]);
    // A mail that both sides had under different UIDs, unreadable on one of them.
    let reverse = Mode::OneWay(Source::Slave);
    let damaged = Event::Damage(false, 0);
    live_through(&[mails(1, 1), run(reverse), since(Mode::TwoWay, 3, None), damaged, run(Mode::TwoWay)]);
    let both = || vec![Op::Append { flags: 0 }];
    let expunged = Op::Expunge { mail: 1, with_guid: false };
    live_through(&[
        mails(1, 1),
        Event::Damage(true, 0),
        run(one_way),
        Event::Damage(false, 0),
        mails(0, 4),
        Event::Users([both(), vec![expunged]].concat(), [both(), both()].concat()),
        run(reverse),
        mails(0, 2),
    ]);
}

/// What ended the common past makes room, and the flags behind it meet in the same run.
#[test]
fn flags_behind_a_mail_that_makes_room_meet() {
    let mut pair = Pair::new(true);
    let append = || Op::Append { flags: 0 };
    let expunge = |mail, with_guid| Op::Expunge { mail, with_guid };
    let junk = Op::Keyword { mail: 2, which: 0, add: true };
    for (on_a, on_b) in [
        (vec![append()], vec![append(), expunge(0, false)]),
        (vec![append(), append(), append()], vec![]),
        (vec![junk, expunge(0, false), expunge(0, true)], vec![]),
    ] {
        pair.act(true, &on_a);
        pair.act(false, &on_b);
        pair.sync(&options(Mode::OneWay(Source::Master), Algorithm::Changed));
    }
    let keywords = inbox(&pair.b, |b| b.mails[&uid(3)].keywords.clone());
    assert_eq!(keywords, [Keyword::new("Junk")].into_iter().collect());
    let before = pair.writes();
    pair.sync(&options(Mode::OneWay(Source::Master), Algorithm::Changed));
    assert_eq!(pair.writes(), before);
}

/// A user who keeps a copy of a mail and expunges the original has expunged that, although the log names no mail; but what a log without
/// names tells of a UID that was never the other side's says nothing.
#[test]
fn one_way_nobody_is_taken_at_an_unnamed_word() {
    let mut pair = Pair::new(true);
    let how = options(Mode::OneWay(Source::Slave), Algorithm::Changed);
    let append = || Op::Append { flags: 0 };
    let expunge = |mail| Op::Expunge { mail, with_guid: false };
    pair.act(true, &[append(), expunge(0)]);
    pair.act(false, &[append()]);
    pair.sync(&how);
    pair.act(false, &[append(), expunge(1), append()]);
    pair.sync(&how);
    let (after, writes) = (seen(&pair.a), pair.writes());
    pair.sync(&how);
    assert_eq!((seen(&pair.a), pair.writes()), (after, writes));

    // A sync has brought again what was expunged; or each side has expunged another one of two instances. What is left gets its last
    // UID in the next run.
    let how = options(Mode::OneWay(Source::Master), Algorithm::Changed);
    let again = vec![(vec![append()], vec![]), (vec![], vec![expunge(0)]), (vec![append(), expunge(1), append()], vec![])];
    let crossed = vec![(vec![append(), Op::Copy(0)], vec![]), (vec![expunge(1), append()], vec![expunge(0)])];
    for history in [again, crossed] {
        let mut pair = Pair::new(true);
        for (on_a, on_b) in history {
            pair.act(true, &on_a);
            pair.act(false, &on_b);
            pair.sync(&how);
        }
        pair.sync(&how);
        let (after, writes) = (seen(&pair.b), pair.writes());
        pair.sync(&how);
        assert_eq!((seen(&pair.b), pair.writes()), (after, writes));
    }

    let mut pair = Pair::new(true);
    pair.act(true, &[append()]);
    pair.sync(&options(Mode::OneWay(Source::Master), Algorithm::Changed));
    pair.act(false, &[Op::Copy(0), expunge(0)]);
    pair.sync(&options(Mode::OneWay(Source::Master), Algorithm::Changed));
    let left: Vec<Uid> = seen(&pair.b).0.iter().map(|m| m.0).collect();
    assert_eq!(left, [uid(2)], "the copy alone");
}
