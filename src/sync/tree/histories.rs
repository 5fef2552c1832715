//! Random histories on both sides: after one run both have the same mailboxes, and a second run does nothing.

use std::collections::HashSet;

use proptest::prelude::*;

use crate::mail::{DeletionKey, Identity, MailboxGuid, MailboxName, Store, Timestamp, Uid, UidValidity};
use crate::sync::{Mode, Source};

use super::model::{Layout, Model};
use super::{Plan, Side, TreeAction, TreeOptions, execute};

/// Something a user does. Names are numbers, so that they shrink.
#[derive(Debug, Clone)]
enum Op {
    Create(Vec<u8>),
    Delete(Vec<u8>),
    Rename(Vec<u8>, Vec<u8>),
    /// INBOX is renamed; a new one appears.
    MoveInbox(Vec<u8>),
    MakeDir(Vec<u8>),
    RemoveDir(Vec<u8>),
    Subscribe(Vec<u8>),
    Unsubscribe(Vec<u8>),
}

/// A case: what both have at first, and what happens then at which side and when.
#[derive(Debug, Clone)]
struct History {
    layouts: [Layout; 2],
    inbox: [bool; 2],
    odd: bool,
    initial: Vec<Vec<u8>>,
    ops: Vec<(bool, u32, Op)>,
}

/// Plain names, or such that a Maildir++ cannot hold or that fall together there.
const LEVELS: [[&str; 4]; 2] = [["a", "b", "c", "d"], ["a.b", "a_b", "é", "dbox-Mails"]];

/// A name as the side can hold it.
fn name_at(side: &Model, odd: bool, levels: &[u8]) -> MailboxName {
    let levels = levels.iter().map(|l| LEVELS[usize::from(odd)][usize::from(*l)].to_owned());
    let name = MailboxName::new(levels.collect()).expect("at least one level");
    side.state().rules.nearest(&name)
}

fn levels() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..4, 1..=4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => levels().prop_map(Op::Create),
        3 => levels().prop_map(Op::Delete),
        8 => (levels(), levels()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => levels().prop_map(Op::MoveInbox),
        1 => levels().prop_map(Op::MakeDir),
        1 => levels().prop_map(Op::RemoveDir),
        1 => levels().prop_map(Op::Subscribe),
        1 => levels().prop_map(Op::Unsubscribe),
    ]
}

fn history() -> impl Strategy<Value = History> {
    let layout = || prop_oneof![Just(Layout::Dbox), Just(Layout::Tidy), Just(Layout::Flat)];
    let inbox = prop_oneof![3 => Just([true, true]), 1 => any::<[bool; 2]>()];
    let initial = prop::collection::vec(levels(), 0..8);
    let ops = prop::collection::vec((any::<bool>(), 0u32..9, op()), 0..10);
    ([layout(), layout()], inbox, any::<bool>(), initial, ops).prop_map(|(layouts, inbox, odd, initial, ops)| History {
        layouts,
        inbox,
        odd,
        initial,
        ops,
    })
}

fn identity(n: usize) -> Identity {
    // Scattered, so that the order of GUIDs is not the order of creation.
    let byte = u8::try_from(n * 37 % 251 + 1).expect("below 252");
    let guid = MailboxGuid::new([byte; 16]).expect("not zero");
    Identity { guid, uidvalidity: UidValidity::new(u32::from(byte)).expect("not zero"), uid_next: Uid::new(5).expect("not zero") }
}

/// Both sides as they are before the run.
fn played(history: &History) -> [Model; 2] {
    let sides = history.layouts.map(Model::new);
    let mut guids = 0..250;
    let mut next = || identity(guids.next().expect("few mailboxes"));
    for levels in &history.initial {
        let id = next();
        for side in &sides {
            let _ = side.put(&name_at(side, history.odd, levels), id);
        }
    }
    let id = next();
    for (side, layout, inbox) in [(0, history.layouts[0], history.inbox[0]), (1, history.layouts[1], history.inbox[1])] {
        if layout == Layout::Flat || inbox {
            let own = if history.inbox[0] == history.inbox[1] { id } else { next() };
            sides[side].put(&MailboxName::inbox(), own).expect("it is not there yet");
        }
    }
    for (second, time, op) in &history.ops {
        let mut side = sides[usize::from(*second)].clone();
        let time = Timestamp(1000 + time);
        let at = side.clone();
        let name = |levels: &[u8]| name_at(&at, history.odd, levels);
        // What the store refuses has not happened.
        let _ = match op {
            Op::Create(n) => side.put(&name(n), next()),
            Op::Delete(n) => {
                let name = name(n);
                let there = side.state().disk.names.get(&name).copied().flatten();
                there.map_or(Ok(()), |guid| side.delete(&name, guid, time))
            }
            Op::Rename(a, b) => side.rename(&name(a), &name(b), time),
            Op::MoveInbox(n) => {
                side.rename(&MailboxName::inbox(), &name(n), time).and_then(|()| side.put(&MailboxName::inbox(), next()))
            }
            Op::MakeDir(n) => side.create_dir(&name(n)),
            Op::RemoveDir(n) => side.delete_dir(&name(n), time),
            // Subscriptions to nothing under names that fall together settle in later runs only.
            Op::Subscribe(_) | Op::Unsubscribe(_) if history.odd => Ok(()),
            Op::Subscribe(n) => side.set_subscribed(&name(n), true, time),
            Op::Unsubscribe(n) => side.set_subscribed(&name(n), false, time),
        };
    }
    sides
}

fn plans(sides: &[Model; 2], mode: Mode) -> [Plan; 2] {
    plans_patiently(sides, mode, super::merge::PATIENCE)
}

fn plans_patiently(sides: &[Model; 2], mode: Mode, patience: usize) -> [Plan; 2] {
    let trees = [sides[0].tree(), sides[1].tree()];
    let options = |side| TreeOptions { allow_empty_source: true, ..TreeOptions::new(mode, side) };
    let one =
        |s: usize, side| super::plan_patiently(&trees[s], &trees[1 - s], &options(side), patience).expect("there is a plan");
    [one(0, Side::Master), one(1, Side::Slave)]
}

/// One run. Every step must work.
fn run(sides: &[Model; 2], mode: Mode) -> Result<[Plan; 2], TestCaseError> {
    carry_out(sides, plans(sides, mode))
}

fn carry_out(sides: &[Model; 2], plans: [Plan; 2]) -> Result<[Plan; 2], TestCaseError> {
    for (side, plan) in sides.iter().zip(&plans) {
        let outcome = execute(&mut side.clone(), &plan.actions);
        let desync = outcome.map(|o| o.desync);
        prop_assert!(desync.as_ref().is_ok_and(Vec::is_empty), "{desync:?} of {:#?}", plan.actions);
    }
    Ok(plans)
}

/// Both sides have the same, as far as both can hold it.
fn same_names(sides: &[Model; 2], odd: bool) -> Result<(), TestCaseError> {
    if odd && sides[0].state().rules != sides[1].state().rules {
        prop_assert_eq!(guids(&sides[..1]), guids(&sides[1..]));
        prop_assert_eq!(sides[0].subscriptions().len(), sides[1].subscriptions().len());
        return Ok(());
    }
    let directories = sides.iter().all(|s| !s.state().disk.flat);
    prop_assert_eq!(sides[0].names(directories), sides[1].names(directories));
    prop_assert_eq!(sides[0].subscriptions(), sides[1].subscriptions());
    Ok(())
}

fn idle(plans: &[Plan; 2]) -> Result<(), TestCaseError> {
    for plan in plans {
        prop_assert!(plan.actions.is_empty(), "a second run wants {:#?}", plan.actions);
        prop_assert!(!plan.notes.iter().any(super::Note::is_problem), "{:?}", plan.notes);
        prop_assert!(plan.mailboxes.iter().all(|m| !m.fresh));
    }
    Ok(())
}

fn guids(sides: &[Model]) -> HashSet<MailboxGuid> {
    sides.iter().flat_map(|s| s.names(false)).filter_map(|(_, g)| g).collect()
}

/// More with `PROPTEST_CASES`.
fn cases(n: u32) -> ProptestConfig {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { n };
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 200_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn two_way_converges_in_one_run(history in history()) {
        let sides = played(&history);
        let swapped = [sides[1].fork(), sides[0].fork()];
        let before = guids(&sides);
        let logged: HashSet<MailboxGuid> = sides.iter().flat_map(|s| s.tree().deletions).filter_map(|d| match d.key {
            DeletionKey::Mailbox(guid) => Some(guid),
            _ => None,
        }).collect();

        let plans = run(&sides, Mode::TwoWay)?;
        same_names(&sides, history.odd)?;
        let unified: HashSet<MailboxGuid> = plans.iter().flat_map(|p| &p.actions).filter_map(|a| match a {
            TreeAction::SetGuid { from, .. } => Some(*from),
            _ => None,
        }).collect();
        let after = guids(&sides);
        for guid in &before {
            prop_assert!(after.contains(guid) || logged.contains(guid) || unified.contains(guid), "{guid} was lost");
        }
        let pairs = |p: &Plan| p.mailboxes.iter().map(|m| (m.guid, m.fresh)).collect::<Vec<_>>();
        prop_assert_eq!(pairs(&plans[0]), pairs(&plans[1]));
        prop_assert_eq!(plans[0].mailboxes.len(), sides[0].names(false).len());
        idle(&self::plans(&sides, Mode::TwoWay))?;

        run(&swapped, Mode::TwoWay)?;
        prop_assert_eq!(swapped[0].names(true), sides[1].names(true));
        prop_assert_eq!(swapped[1].names(true), sides[0].names(true));
    }

    #[test]
    fn also_endless_renames_come_to_an_end(history in history()) {
        let sides = played(&history);
        let plans = plans_patiently(&sides, Mode::TwoWay, 0);
        carry_out(&sides, plans)?;
        same_names(&sides, history.odd)?;
        idle(&self::plans(&sides, Mode::TwoWay))?;
    }

    #[test]
    fn backup_gives_the_source_in_one_run(history in history(), reverse in any::<bool>()) {
        let sides = played(&history);
        let mode = Mode::Backup(if reverse { Source::Slave } else { Source::Master });
        let source = usize::from(reverse);
        let before = (sides[source].names(true), sides[source].subscriptions());
        run(&sides, mode)?;
        prop_assert_eq!(&before, &(sides[source].names(true), sides[source].subscriptions()));
        if before.0.contains_key("INBOX") {
            same_names(&sides, history.odd)?;
        }
        for plan in self::plans(&sides, mode) {
            prop_assert!(plan.actions.is_empty(), "a second run wants {:#?}", plan.actions);
        }
    }

    #[test]
    fn one_way_changes_only_the_destination(history in history(), reverse in any::<bool>()) {
        let sides = played(&history);
        let mode = Mode::OneWay(if reverse { Source::Slave } else { Source::Master });
        let source = usize::from(reverse);
        let before = (sides[source].names(true), sides[source].subscriptions());
        let logged: HashSet<MailboxGuid> = sides.iter().flat_map(|s| s.tree().deletions).filter_map(|d| match d.key {
            DeletionKey::Mailbox(guid) => Some(guid),
            _ => None,
        }).collect();
        run(&sides, mode)?;
        prop_assert_eq!(&before, &(sides[source].names(true), sides[source].subscriptions()));
        let there = guids(&sides[1 - source..2 - source]);
        for (name, guid) in sides[source].names(false) {
            let guid = guid.expect("a mailbox");
            prop_assert!(there.contains(&guid) || logged.contains(&guid), "{name} ({guid}) is not at the destination");
        }
        // The source does not follow, so what contradicts it is looked at again, level by level; but not for ever.
        for _ in 0..6 {
            run(&sides, mode)?;
        }
        for plan in self::plans(&sides, mode) {
            prop_assert!(plan.actions.is_empty(), "a second run wants {:#?}", plan.actions);
        }
    }
}

/// A directory that gets a name on its way is not made under it: that would be another mailbox in each run.
#[test]
fn one_way_makes_no_directory_that_the_source_does_not_know() {
    let history = History {
        layouts: [Layout::Dbox, Layout::Flat],
        inbox: [true, true],
        odd: true,
        initial: vec![vec![1, 0, 0], vec![1]],
        ops: vec![(true, 0, Op::Delete(vec![0])), (true, 0, Op::Rename(vec![0, 0, 0], vec![0]))],
    };
    let sides = played(&history);
    let before = sides[1].names(true);
    let plans = run(&sides, Mode::OneWay(Source::Master)).expect("every step works");
    assert!(plans.iter().all(|plan| plan.actions.is_empty()), "{plans:#?}");
    assert_eq!(sides[1].names(true), before);
}

/// A user's INBOX was renamed to where the other side has made a mailbox: that one keeps its mails under a name of its own.
#[test]
fn an_inbox_comes_to_where_another_mailbox_is() {
    let history = History {
        layouts: [Layout::Dbox, Layout::Dbox],
        inbox: [true, true],
        odd: false,
        initial: Vec::new(),
        ops: vec![(false, 0, Op::Create(vec![2])), (true, 0, Op::MoveInbox(vec![2]))],
    };
    for initial in 0..8 {
        let sides = played(&History { initial: vec![vec![0]; initial], ..history.clone() });
        let before = guids(&sides);
        run(&sides, Mode::TwoWay).expect("every step works");
        same_names(&sides, false).expect("the same on both sides");
        assert_eq!(guids(&sides), before, "a mailbox has gone");
        idle(&plans(&sides, Mode::TwoWay)).expect("nothing is left to do");
    }
}
