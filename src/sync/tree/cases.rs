//! Cases that histories do not reach: selections, names that cannot be read, INBOX, identities crosswise, refusals.

use crate::mail::{
    Class, Deletion, DeletionKey, Error, Existence, Identity, MailboxGuid, MailboxName, NameHash, NameRules, NamespaceRules,
    Node, Store, Timestamp, Tree, Uid, UidValidity,
};
use crate::sync::{Mode, Only, Source};

use super::model::{Layout, Model};
use super::{Note, NoteKind, Peer, Plan, Side, TreeAction, TreeError, TreeOptions, execute, plan};

fn name(text: &str) -> MailboxName {
    MailboxName::parse(text, '/').expect("a name")
}

fn guid(n: u8) -> MailboxGuid {
    MailboxGuid::new([n; 16]).expect("not zero")
}

fn validity(n: u32) -> UidValidity {
    UidValidity::new(n).expect("not zero")
}

fn node(text: &str, n: u8) -> Node {
    let uid_next = Uid::new(7).expect("not zero");
    Node {
        name: name(text),
        existence: Existence::Exists,
        identity: (n > 0).then(|| Identity { guid: guid(n), uidvalidity: validity(1), uid_next }),
        renamed: Timestamp(0),
        subscribed: false,
        subscription_changed: Timestamp(0),
        special_use: Vec::new(),
    }
}

/// Names with the number of their GUID, 0 for directories.
fn tree(rows: &[(&str, u8)]) -> Tree {
    let nodes = rows.iter().map(|(text, n)| node(text, *n)).collect();
    Tree { nodes, deletions: Vec::new(), rules: NameRules::default(), problems: Vec::new() }
}

fn at<'t>(tree: &'t mut Tree, text: &str) -> &'t mut Node {
    tree.nodes.iter_mut().find(|n| n.name == name(text)).expect("it is there")
}

fn maildir() -> NameRules {
    let space = NamespaceRules { storage_separator: '.', flat: true, ..NamespaceRules::default() };
    NameRules { namespaces: vec![space], no_directories: true, ..NameRules::default() }
}

const BACKUP: Mode = Mode::Backup(Source::Master);

fn both(a: &Tree, b: &Tree, options: &TreeOptions) -> [Plan; 2] {
    let of = |side| TreeOptions { side, ..options.clone() };
    [plan(a, b, &of(Side::Master)).expect("a plan"), plan(b, a, &of(Side::Slave)).expect("a plan")]
}

fn run(a: &Tree, b: &Tree, mode: Mode) -> [Plan; 2] {
    both(a, b, &TreeOptions::new(mode, Side::Master))
}

fn rename(from: &str, to: &str, time: u32) -> TreeAction {
    TreeAction::Rename { from: name(from), to: name(to), time: Timestamp(time) }
}

fn create(text: &str, n: u8) -> TreeAction {
    TreeAction::Create { name: name(text), guid: guid(n), uidvalidity: validity(1) }
}

fn set_guid(text: &str, from: u8, to: u8) -> TreeAction {
    TreeAction::SetGuid { name: name(text), from: guid(from), to: guid(to) }
}

fn delete(text: &str, n: u8) -> TreeAction {
    TreeAction::Delete { name: name(text), guid: guid(n), time: Timestamp(0) }
}

fn pairs(plan: &Plan) -> Vec<(String, String, bool)> {
    plan.mailboxes.iter().map(|p| (p.local.to_string(), p.remote.to_string(), p.fresh)).collect()
}

#[test]
fn nobody_touches_what_cannot_be_read() {
    for listed in [true, false] {
        let mut a = tree(&[("P", 1), ("Q", 2)]);
        if listed {
            a.nodes.push(Node { existence: Existence::Unreadable, ..node("P/x", 0) });
        } else {
            a.problems.push((name("P/x"), Error::new(Class::Permission, "P/x: Permission denied")));
        }
        let mut b = tree(&[("R", 1), ("P/x", 3), ("Q", 2)]);
        at(&mut b, "R").renamed = Timestamp(50);
        let [ours, theirs] = run(&a, &b, Mode::TwoWay);
        assert_eq!(ours.actions, []);
        // P cannot follow here, and there the directory of what must stay is in R's way.
        assert_eq!(theirs.actions, []);
        assert_eq!(pairs(&ours), [("P".into(), "R".into(), false), ("Q".into(), "Q".into(), false)]);
        let kinds: Vec<_> = ours.notes.iter().map(|n| n.kind.clone()).collect();
        assert_eq!(kinds, [NoteKind::Unreadable, NoteKind::CannotMove(name("P"))]);
        assert!(ours.notes.iter().all(Note::is_problem));

        let [_, theirs] = run(&a, &tree(&[("Q", 2), ("Gone", 4), ("P/x", 3)]), BACKUP);
        assert_eq!(theirs.actions, [create("P", 1)]);
        assert!(theirs.notes.iter().any(|n| n.name == name("Gone") && n.kind == NoteKind::KeptBecauseOfProblems));
    }
}

#[test]
fn a_selection_deletes_nothing_and_renames_by_guid() {
    let a = tree(&[("Foo", 1), ("Other", 2)]);
    let mut b = tree(&[("Bar", 1), ("Extra", 3), ("Foo/sub", 4)]);
    at(&mut b, "Bar").renamed = Timestamp(9);
    let only = |text: &str| TreeOptions { only: Only::Name(text.into()), ..TreeOptions::new(Mode::TwoWay, Side::Master) };
    let [ours, theirs] = both(&a, &b, &only("Foo"));
    assert_eq!((ours.actions, theirs.actions), (vec![rename("Foo", "Bar", 9)], vec![]));

    let backup = TreeOptions { mode: BACKUP, ..only("Foo") };
    let [_, theirs] = both(&a, &b, &backup);
    assert_eq!(theirs.actions, [], "Foo/sub is in the way and not to be touched");
    assert_eq!(pairs(&theirs), [("Bar".into(), "Foo".into(), false)]);
    let [_, theirs] = both(&a, &tree(&[("Bar", 1), ("Extra", 3)]), &backup);
    assert_eq!(theirs.actions, [rename("Bar", "Foo", 0)]);

    let one = TreeOptions { only: Only::Guid(guid(2)), ..TreeOptions::new(BACKUP, Side::Master) };
    let [_, theirs] = both(&a, &b, &one);
    assert_eq!(theirs.actions, [create("Other", 2)]);

    let without = TreeOptions { exclude: vec!["F*".into(), "Ex*".into()], ..TreeOptions::new(BACKUP, Side::Master) };
    let [_, theirs] = both(&a, &b, &without);
    assert_eq!(theirs.actions, [create("Other", 2)]);
}

#[test]
fn special_use_selects_on_either_side() {
    let mut a = tree(&[("Spam", 1), ("Foo", 2)]);
    at(&mut a, "Spam").special_use = vec!["\\Junk".into()];
    let b = tree(&[("Spam", 3)]);
    let options = |only, exclude| TreeOptions { only, exclude, ..TreeOptions::new(Mode::TwoWay, Side::Master) };
    let [ours, theirs] = both(&a, &b, &options(Only::Name("\\junk".into()), vec![]));
    assert_eq!((ours.actions, theirs.actions), (vec![set_guid("Spam", 1, 3)], vec![]));
    let [ours, theirs] = both(&a, &b, &options(Only::All, vec!["\\Junk".into()]));
    assert_eq!((ours.actions, theirs.actions), (vec![], vec![create("Foo", 2)]));
}

#[test]
fn an_inbox_that_was_renamed_is_told_from_the_new_one() {
    let mut a = tree(&[("INBOX", 1)]);
    let b = tree(&[("INBOX", 2), ("Old", 1)]);
    let [ours, theirs] = run(&a, &b, Mode::TwoWay);
    assert_eq!((ours.actions, theirs.actions), (vec![set_guid("INBOX", 1, 2), create("Old", 1)], vec![]));
    a.rules.inbox_moves = true;
    let [ours, _] = run(&a, &b, Mode::TwoWay);
    assert_eq!(ours.actions, [rename("INBOX", "Old", 0), create("INBOX", 2)]);
}

#[test]
fn a_backup_makes_identities_right_in_place() {
    // INBOX cannot move; Foo and Bar have each other's GUID, so that they are renamed; Baz is another mailbox.
    let a = tree(&[("INBOX", 1), ("X", 2), ("Foo", 3), ("Bar", 4), ("Baz", 5)]);
    let b = tree(&[("INBOX", 2), ("X", 1), ("Foo", 4), ("Bar", 3), ("Baz", 6), ("Foreign", 7)]);
    let [ours, theirs] = run(&a, &b, BACKUP);
    assert_eq!(ours.actions, []);
    let guids: Vec<_> = theirs.actions.iter().filter(|a| matches!(a, TreeAction::SetGuid { .. })).collect();
    assert_eq!(guids.len(), 4, "INBOX and X with one step aside, and Baz: {guids:?}");
    assert_eq!(theirs.actions[0], delete("Foreign", 7));
    assert!(theirs.actions.iter().all(|a| !matches!(a, TreeAction::Create { .. })));
    assert_eq!(theirs.mailboxes.len(), 5);
    assert!(theirs.mailboxes.iter().all(|m| m.fresh));
}

#[test]
fn a_backup_keeps_an_inbox_that_the_source_lacks() {
    let [_, theirs] = run(&tree(&[("Foo", 1)]), &tree(&[("INBOX", 2), ("Foo", 1)]), BACKUP);
    assert_eq!(theirs.actions, []);
    assert_eq!(theirs.notes[0].kind, NoteKind::InboxKept);
}

#[test]
fn a_source_that_looks_new_is_refused() {
    let mut empty = tree(&[("INBOX", 1)]);
    at(&mut empty, "INBOX").identity.as_mut().expect("set").uid_next = Uid::FIRST;
    let full = tree(&[("INBOX", 2), ("Foo", 3)]);
    let mut options = TreeOptions::new(BACKUP, Side::Master);
    assert_eq!(plan(&empty, &full, &options), Err(TreeError::EmptySource));
    assert_eq!(plan(&full, &empty, &TreeOptions { side: Side::Slave, ..options.clone() }), Err(TreeError::EmptySource));
    options.allow_empty_source = true;
    assert!(plan(&empty, &full, &options).is_ok());
    // It has been backed up before.
    at(&mut empty, "INBOX").identity.as_mut().expect("set").guid = guid(2);
    assert!(plan(&empty, &full, &TreeOptions::new(BACKUP, Side::Master)).is_ok());
}

#[test]
fn each_side_acts_under_its_own_names() {
    let mut a = tree(&[("v1.2", 1), ("v1.2/deep.er", 2)]);
    at(&mut a, "v1.2").subscribed = true;
    let mut b = tree(&[]);
    b.rules = maildir();
    let [ours, theirs] = run(&a, &b, Mode::TwoWay);
    assert_eq!(ours.actions, []);
    let subscribe = TreeAction::Subscribe { name: name("v1_2"), time: Timestamp(0) };
    assert_eq!(theirs.actions, [create("v1_2", 1), create("v1_2/deep_er", 2), subscribe]);
    assert_eq!(pairs(&ours)[1], ("v1.2/deep.er".into(), "v1_2/deep_er".into(), true));
    assert!(ours.notes.iter().all(|n| !n.is_problem()) && ours.notes.len() == 2);

    // Renamed at the side that cannot hold the name.
    let mut b = tree(&[("v1_2", 1), ("new", 2)]);
    b.rules = maildir();
    at(&mut b, "v1_2").subscribed = true;
    at(&mut b, "new").renamed = Timestamp(5);
    let [ours, theirs] = run(&a, &b, Mode::TwoWay);
    assert_eq!((ours.actions, theirs.actions), (vec![rename("v1.2/deep.er", "new", 5)], vec![]));
}

#[test]
fn a_name_too_long_for_the_other_side_gets_a_place_there() {
    let long = ["x".repeat(200), "y".repeat(200)].join("/");
    let a = tree(&[(&long, 1)]);
    let mut b = tree(&[]);
    b.rules = maildir();
    let [ours, theirs] = run(&a, &b, Mode::TwoWay);
    let [TreeAction::Create { name: held, .. }] = &theirs.actions[..] else { panic!("{:?}", theirs.actions) };
    assert_eq!(ours.mailboxes[0].local, name(&long));
    assert_eq!(&ours.mailboxes[0].remote, held);
    let mut later = tree(&[(&held.to_string(), 1)]);
    later.rules = maildir();
    for plan in run(&a, &later, Mode::TwoWay) {
        assert_eq!(plan.actions, []);
        assert_eq!(plan.mailboxes.len(), 1);
    }
}

#[test]
fn a_directory_record_may_hash_the_storage_name() {
    let removal = |text: &str| Deletion { key: DeletionKey::Directory(NameHash::of(text)), time: Timestamp(9) };
    for text in ["Entwürfe/alt", "Entw&APw-rfe/alt"] {
        let mut a = tree(&[]);
        a.deletions.push(removal(text));
        let b = tree(&[("Entwürfe/alt", 0)]);
        let [ours, theirs] = run(&a, &b, Mode::TwoWay);
        assert_eq!(ours.actions, []);
        assert_eq!(theirs.actions, [TreeAction::DeleteDir { name: name("Entwürfe/alt"), time: Timestamp(9) }]);
    }
    let mut a = tree(&[]);
    a.rules.namespaces[0].prefix = vec!["Mail".into()];
    a.deletions.push(removal("alt"));
    let [_, theirs] = run(&a, &tree(&[("Mail/alt", 0), ("Mail", 0)]), Mode::TwoWay);
    assert_eq!(theirs.actions, [TreeAction::DeleteDir { name: name("Mail/alt"), time: Timestamp(9) }]);
}

#[test]
fn one_way_merges_take_the_sources_identity() {
    let a = tree(&[("INBOX", 1), ("Foo", 3)]);
    let b = tree(&[("INBOX", 2), ("Old", 1), ("Foo", 4), ("Mine", 5)]);
    let [ours, theirs] = run(&a, &b, Mode::OneWay(Source::Master));
    assert_eq!(ours.actions, []);
    assert!(theirs.actions.contains(&set_guid("INBOX", 2, 1)) && theirs.actions.contains(&set_guid("Foo", 4, 3)));
    assert!(theirs.actions.iter().all(|a| matches!(a, TreeAction::SetGuid { .. })), "{:?}", theirs.actions);
    assert_eq!(pairs(&theirs), [("Foo".into(), "Foo".into(), true), ("INBOX".into(), "INBOX".into(), true)]);
}

#[test]
fn one_way_finds_renamed_mailboxes() {
    let a = tree(&[("Foo", 1)]);
    let mut b = tree(&[("Newer", 1)]);
    at(&mut b, "Newer").renamed = Timestamp(9);
    let [ours, theirs] = run(&a, &b, Mode::OneWay(Source::Master));
    assert_eq!((&ours.actions[..], &theirs.actions[..]), (&[][..], &[][..]));
    assert_eq!(pairs(&ours), [("Foo".into(), "Newer".into(), false)]);
}

#[test]
fn twins_are_refused() {
    let twins = tree(&[("A", 1), ("B", 1)]);
    let options = TreeOptions { peer: Peer::Dovecot, ..TreeOptions::new(Mode::TwoWay, Side::Master) };
    let error = plan(&twins, &tree(&[]), &options).expect_err("two mailboxes, one GUID");
    assert!(error.to_string().starts_with("Duplicate mailbox GUID 0101"), "{error}");
    let again = tree(&[("A", 1), ("A", 2)]);
    assert_eq!(plan(&tree(&[]), &again, &options), Err(TreeError::DuplicateName(name("A"))));
}

#[test]
fn what_has_changed_meanwhile_is_a_conflict() {
    let mut store = Model::new(Layout::Dbox);
    store.create(&name("There"), guid(9), validity(1)).expect("free");
    let actions = [
        rename("Gone", "Else", 1),
        delete("Gone", 1),
        TreeAction::DeleteDir { name: name("Gone"), time: Timestamp(1) },
        create("There", 2),
        set_guid("There", 3, 4),
        set_guid("Gone", 3, 4),
        set_guid("There", 9, 8),
    ];
    let outcome = execute(&mut store, &actions).expect("conflicts only");
    let g = |n| guid(n).to_string();
    assert_eq!(
        outcome.desync,
        [
            "Mailbox Gone mailbox_rename conflict: Mailbox doesn't exist".to_owned(),
            format!("Mailbox Gone GUID {} deletion conflict: Mailbox was already deleted", g(1)),
            "Mailbox There mailbox_create conflict: Mailbox already exists".to_owned(),
            format!("Mailbox There GUID {} was lost", g(3)),
            format!("Mailbox Gone GUID {} was lost", g(3)),
        ]
    );
    assert_eq!(store.names(true).get("There"), Some(&Some(guid(8))));
    let refused = execute(&mut store, &[rename("There", "INBOX", 1)]).expect_err("not possible");
    assert_eq!(refused.to_string(), "Mailbox There sync: mailbox_rename failed: Renaming INBOX isn't supported.");
}

#[test]
fn a_large_folder_moves_in_one_step() {
    let rows = |top: &str, n: u8| -> Vec<(String, u8)> {
        let all = (1..=n).map(|i| (format!("{top}/{}/f{i}", i % 7), i));
        let directories = (0..7).map(|i| (format!("{top}/{i}"), 0)).chain([(top.to_owned(), 0)]);
        directories.chain(all).collect()
    };
    let of = |rows: &[(String, u8)]| tree(&rows.iter().map(|(t, n)| (t.as_str(), *n)).collect::<Vec<_>>());
    let a = of(&rows("work", 250));
    let mut b = of(&rows("archive/old", 250));
    b.nodes.push(node("archive", 0));
    at(&mut b, "archive/old").renamed = Timestamp(44);
    let [ours, theirs] = run(&a, &b, Mode::TwoWay);
    assert_eq!((ours.actions, theirs.actions), (vec![rename("work", "archive/old", 44)], vec![]));
}
