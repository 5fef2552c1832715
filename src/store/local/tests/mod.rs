mod fake;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::mail::{DeletionKey, Existence, NameHash, Node};
use crate::store::{NamespaceSettings, Owner};
use fake::Fake;

struct Lab {
    home: tempfile::TempDir,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Lab {
    fn new() -> Self {
        Self { home: tempfile::tempdir().expect("scratch"), calls: Arc::default() }
    }

    fn account(&self, location: &str, namespaces: Vec<NamespaceSettings>) -> Account {
        let owner = Owner { name: "u".into(), home: Some(self.home.path().into()) };
        Account { owner, location: location.into(), namespaces, settings: Settings::default() }
    }

    fn open(&self, account: &Account, open_for: OpenFor) -> Result<LocalStore> {
        let make = |location: &Location, _: &Account| -> Result<Box<dyn Format>> {
            Ok(Box::new(Fake { driver: location.driver, calls: self.calls.clone() }))
        };
        LocalStore::open(account, open_for, &make)
    }

    fn store(&self, location: &str) -> LocalStore {
        self.open(&self.account(location, vec![slash()]), OpenFor::Destination).expect("opens")
    }

    fn files(&self) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        let mut dirs = vec![self.home.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).expect("readable") {
                let path = entry.expect("entry").path();
                if path.is_dir() && !path.is_symlink() {
                    dirs.push(path.clone());
                }
                out.insert(path.strip_prefix(self.home.path()).expect("inside").to_string_lossy().into_owned());
            }
        }
        out
    }
}

fn slash() -> NamespaceSettings {
    NamespaceSettings { separator: Some('/'), ..NamespaceSettings::default() }
}

fn name(text: &str) -> MailboxName {
    MailboxName::parse(text, '/').expect("name")
}

fn guid(n: u8) -> MailboxGuid {
    MailboxGuid::new([n; 16]).expect("not zero")
}

fn validity(n: u32) -> UidValidity {
    UidValidity::new(n).expect("not zero")
}

fn scan(store: &mut LocalStore) -> Tree {
    store.scan(&Selection::Default).expect("scans")
}

/// `Foo=01` for a mailbox with that GUID, `Foo/` for a directory, `+` behind a subscribed one.
fn shown(tree: &Tree) -> Vec<String> {
    let one = |n: &Node| {
        let what = match (n.existence, n.identity) {
            (Existence::Unreadable, _) => "!".to_owned(),
            (_, Some(i)) => format!("={:02x}", i.guid.bytes()[0]),
            (Existence::Exists, None) => "/".to_owned(),
            (Existence::Nonexistent, None) => "?".to_owned(),
        };
        format!("{}{what}{}", n.name, if n.subscribed { "+" } else { "" })
    };
    let mut out: Vec<_> = tree.nodes.iter().map(one).collect();
    out.sort();
    out
}

const LOCATIONS: [&str; 9] = [
    "maildir:~/M",
    "maildir:~/M:INDEX=~/I:CONTROL=~/C",
    "maildir:~/M:LAYOUT=fs",
    "maildir:~/M:LAYOUT=imapdir",
    "sdbox:~/S",
    "sdbox:~/S:INDEX=~/I:CONTROL=~/C:ALT=~/A",
    "sdbox:~/S:FULLDIRNAME=dbox-Mails:INDEX=~/I",
    "mdbox:~/D:LAYOUT=index",
    "mdbox:~/D:LAYOUT=index:INDEX=~/I:VOLATILEDIR=~/V",
];

#[test]
fn mailboxes_come_move_and_go_in_every_layout() {
    for location in LOCATIONS {
        let lab = Lab::new();
        let mut store = lab.store(location);
        assert!(scan(&mut store).nodes.is_empty());
        assert_eq!(lab.files(), BTreeSet::new(), "{location}: nothing is made before it is needed");

        for (i, n) in ["INBOX", "Ärger/日本", "Foo", "Foo/Bar/Baz", "Other"].iter().enumerate() {
            let i = u8::try_from(i).expect("few") + 1;
            store.create(&name(n), guid(i), validity(u32::from(i))).unwrap_or_else(|e| panic!("{location} {n}: {e}"));
            assert_eq!(store.create(&name(n), guid(99), validity(9)).expect_err("is there").class(), Class::Exists, "{location}");
        }
        let flat = store.rules().no_directories;
        let dirs = |mut with: Vec<&str>, dirs: &[&'static str]| -> Vec<String> {
            with.extend(dirs.iter().filter(|_| !flat));
            with.sort_unstable();
            with.into_iter().map(str::to_owned).collect()
        };
        let all = ["INBOX=01", "Ärger/日本=02", "Foo=03", "Foo/Bar/Baz=04", "Other=05"];
        assert_eq!(shown(&scan(&mut store)), dirs(all.to_vec(), &["Ärger/", "Foo/Bar/"]), "{location}");
        let made = lab.files();

        // To a place below a new parent, with the child.
        store.rename(&name("Foo"), &name("New/Deep"), Timestamp(7)).unwrap_or_else(|e| panic!("{location}: {e}"));
        let moved = ["INBOX=01", "Ärger/日本=02", "New/Deep=03", "New/Deep/Bar/Baz=04", "Other=05"];
        let tree = scan(&mut store);
        assert_eq!(shown(&tree), dirs(moved.to_vec(), &["Ärger/", "New/", "New/Deep/Bar/"]), "{location}");
        assert_eq!(tree.nodes.iter().find(|n| n.name == name("New/Deep")).expect("there").renamed, Timestamp(7));
        for taken in ["INBOX", "Other", "New/Deep/Bar/Baz"] {
            assert_eq!(
                store.rename(&name("Other"), &name(taken), Timestamp(7)).expect_err("taken").class(),
                match taken {
                    "Other" => store.rename(&name("Other"), &name("Other"), Timestamp(7)).expect_err("itself").class(),
                    _ => Class::Exists,
                }
            );
        }
        assert_eq!(store.rename(&name("Nope"), &name("Other2"), Timestamp(7)).expect_err("missing").class(), Class::NotFound);
        store.rename(&name("New/Deep"), &name("Foo"), Timestamp(8)).unwrap_or_else(|e| panic!("{location}: {e}"));
        let logs = |files: &BTreeSet<String>| -> BTreeSet<String> {
            files.iter().filter(|f| !f.contains("mailbox.log") && !f.contains("V")).cloned().collect()
        };
        assert_eq!(logs(&lab.files()), logs(&made), "{location}: nothing is left of the way there and back");

        // A parent with its child staying, then the child, then the rest.
        let e = store.delete(&name("Foo"), guid(77), Timestamp(5)).expect_err("another mailbox");
        assert_eq!(e.class(), Class::NotFound);
        store.delete(&name("Foo"), guid(3), Timestamp(9)).unwrap_or_else(|e| panic!("{location}: {e}"));
        let tree = scan(&mut store);
        let mut left = vec!["INBOX=01", "Ärger/日本=02", "Foo/Bar/Baz=04", "Other=05"];
        // Nothing is there any more, but the time of its renaming is known.
        left.extend(flat.then_some("Foo?"));
        assert_eq!(shown(&tree), dirs(left, &["Ärger/", "Foo/", "Foo/Bar/"]), "{location}");
        assert!(tree.deletions.iter().any(|d| d.key == DeletionKey::Mailbox(guid(3)) && d.time == Timestamp(9)), "{location}");
        store.create(&name("Foo"), guid(6), validity(6)).unwrap_or_else(|e| panic!("{location}: {e}"));
        store.delete(&name("Foo"), guid(6), Timestamp(10)).expect("deletes");
        store.delete(&name("Foo/Bar/Baz"), guid(4), Timestamp(9)).expect("deletes");
        for dir in ["Foo/Bar", "Foo"] {
            assert_eq!(store.delete_dir(&name(dir), Timestamp(11)).is_ok(), !flat, "{location}");
        }
        let tree = scan(&mut store);
        assert_eq!(shown(&tree), dirs(vec!["INBOX=01", "Ärger/日本=02", "Other=05"], &["Ärger/"]), "{location}");
        assert!(tree.deletions.iter().any(|d| d.key == DeletionKey::Directory(NameHash::of("Foo/Bar/Baz"))), "{location}");
        let rest = lab.files();
        assert!(!rest.iter().any(|f| f.contains("Foo") || f.contains("TRASH") || f.contains("TrasH")), "{location}: {rest:?}");
    }
}

#[test]
fn the_format_is_told() {
    let lab = Lab::new();
    let mut store = lab.store("sdbox:~/S");
    store.create(&name("a"), guid(1), validity(1)).expect("new");
    store.rename(&name("a"), &name("b"), Timestamp(1)).expect("free");
    store.delete(&name("b"), guid(1), Timestamp(1)).expect("there");
    assert_eq!(*lab.calls.lock().expect("no panic"), ["create a", "renamed b", "empty b"]);
}

#[test]
fn inbox_of_a_maildir_stays() {
    let lab = Lab::new();
    let mut store = lab.store("maildir:~/M");
    store.create(&name("INBOX"), guid(1), validity(1)).expect("new");
    assert_eq!(store.delete(&name("INBOX"), guid(1), Timestamp(1)).expect_err("no").class(), Class::NotPossible);
    assert_eq!(store.rename(&name("INBOX"), &name("x"), Timestamp(1)).expect_err("no").class(), Class::NotPossible);
    assert_eq!(shown(&scan(&mut store)), ["INBOX=01"]);
}

#[test]
fn directories() {
    let lab = Lab::new();
    let mut store = lab.store("sdbox:~/S");
    store.create_dir(&name("a/b")).expect("makes");
    store.create_dir(&name("a/b")).expect("is there");
    assert_eq!(shown(&scan(&mut store)), ["a/", "a/b/"]);
    assert_eq!(store.delete_dir(&name("a"), Timestamp(1)).expect_err("not empty").class(), Class::Exists);
    store.create(&name("a"), guid(1), validity(1)).expect("becomes a mailbox");
    assert_eq!(store.delete_dir(&name("a"), Timestamp(1)).expect_err("a mailbox").class(), Class::Exists);
    assert_eq!(store.delete_dir(&name("nope"), Timestamp(1)).expect_err("missing").class(), Class::NotFound);
    let lab = Lab::new();
    let mut flat = lab.store("maildir:~/M");
    flat.create_dir(&name("a/b")).expect("makes a mailbox");
    flat.create_dir(&name("a/b")).expect("is there");
    let tree = scan(&mut flat);
    assert_eq!(tree.nodes.len(), 1);
    assert!(tree.nodes[0].identity.is_some(), "a flat layout has no pure directories");
}

#[test]
fn a_missing_source_is_an_error_and_an_empty_one_is_not() {
    let lab = Lab::new();
    let account = lab.account("sdbox:~/S", vec![slash()]);
    let mut source = lab.open(&account, OpenFor::Source).expect("opens");
    let e = source.scan(&Selection::Default).expect_err("not there");
    assert_eq!(e.class(), Class::Temporary);
    assert!(e.to_string().contains("/S is not there"), "{e}");
    std::fs::create_dir(lab.home.path().join("S")).expect("mkdir");
    assert!(source.scan(&Selection::Default).expect("empty").nodes.is_empty());
    let side = source.side(&Selection::Default).expect("has one");
    assert_eq!((side.separator, side.mail_root), ('/', lab.home.path().join("S")));
}

#[test]
fn a_lost_list_index_is_not_an_empty_user() {
    let lab = Lab::new();
    let mut store = lab.store("mdbox:~/D:LAYOUT=index");
    store.create(&name("a"), guid(1), validity(1)).expect("new");
    std::fs::remove_file(lab.home.path().join("D/dovecot.list.index.log")).expect("there");
    assert!(store.scan(&Selection::Default).expect_err("lost").to_string().contains("list index"));
}

#[test]
fn an_unreadable_mailbox_is_named_and_the_others_go_on() {
    let lab = Lab::new();
    let mut store = lab.store("sdbox:~/S");
    store.create(&name("a"), guid(1), validity(1)).expect("new");
    store.create(&name("b"), guid(2), validity(1)).expect("new");
    std::fs::write(lab.home.path().join("S/mailboxes/a/dbox-Mails/dovecot.index"), "rubbish").expect("write");
    // Begun, but never finished: not a mailbox yet.
    std::fs::create_dir_all(lab.home.path().join("S/mailboxes/c/dbox-Mails")).expect("mkdir");
    let tree = scan(&mut store);
    assert_eq!(shown(&tree), ["a!", "b=02", "c/"]);
    assert_eq!(tree.problems.len(), 1);
    store.create(&name("c"), guid(3), validity(1)).expect("is completed");
    assert_eq!(shown(&scan(&mut store)), ["a!", "b=02", "c=03"]);
}

#[test]
fn twins_get_guids_of_their_own() {
    let lab = Lab::new();
    let mut store = lab.store("maildir:~/M");
    for n in ["a", "b", "c"] {
        store.create(&name(n), guid(5), validity(3)).expect("new");
    }
    let tree = scan(&mut store);
    let guids: BTreeSet<_> = tree.nodes.iter().filter_map(|n| n.identity).map(|i| i.guid).collect();
    assert_eq!(guids.len(), 3);
    assert_eq!(tree.nodes.iter().find(|n| n.name == name("c")).and_then(|n| n.identity).map(|i| i.guid), Some(guid(5)));
    assert_eq!(shown(&scan(&mut store)), shown(&tree), "it was written");
}

#[test]
fn the_odd_maildir() {
    let lab = Lab::new();
    let tar = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/list/odd-maildirpp.tar");
    let unpacked = std::process::Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(lab.home.path()).status();
    if !unpacked.is_ok_and(|s| s.success()) {
        eprintln!("skipped: no tar");
        return;
    }
    let before = lab.files();
    let mut store = lab.store("maildir:~/Maildir");
    let tree = scan(&mut store);
    let names: Vec<String> = tree.nodes.iter().map(|n| n.name.to_string()).collect();
    // What Dovecot lists, without symbolic links, mere parents and names that cannot be opened.
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/fixtures/list/expected.json")).expect("is JSON");
    let listed = all["odd-maildirpp.tar"]["mailbox_list"].as_array().expect("list").iter().map(|v| v.as_str().expect("text"));
    let left_out =
        ["Link", "Dangling", "/", "//three", "a", "a/", "a//b", "trailing", "trailing/", "~tilde", "Shared", "Shared/link", "No"];
    let mut theirs: Vec<String> = listed.filter(|n| !left_out.contains(n)).map(str::to_owned).collect();
    // Two directories mean `A&B`: `.A&B` is no canonical name. It is renamed by Dovecot's listing on the way.
    theirs.push("raw\u{fffd}".into());
    let ours: BTreeSet<_> = names.into_iter().collect();
    assert_eq!(ours, theirs.into_iter().collect::<BTreeSet<_>>());
    let mut problems: Vec<String> = tree.problems.iter().map(|(n, e)| format!("{} {e}", n.join('|'))).collect();
    problems.sort();
    assert_eq!(
        problems,
        [
            "..three Invalid mailbox name: Begins with hierarchy separator",
            "a..b Invalid mailbox name: Has adjacent hierarchy separators",
            "trailing. Invalid mailbox name: Ends with hierarchy separator",
            "~tilde Invalid mailbox name: Begins with '~'",
        ]
    );
    // Odd names lead to their own directories.
    for odd in ["A&AOQ", "Ä", "raw\u{fffd}", "A&B"] {
        store.open(&name(odd)).unwrap_or_else(|e| panic!("{odd}: {e}"));
    }
    let new: Vec<_> =
        lab.files().difference(&before).filter(|f| !["cur", "new", "tmp"].iter().any(|d| f.ends_with(d))).cloned().collect();
    assert!(new.iter().all(|f| f.ends_with("/dovecot.index")), "no directory was made: {new:?}");
}

#[test]
fn links_that_lead_out_of_the_mail_root_are_told_of() {
    let lab = Lab::new();
    for location in ["maildir:~/M", "maildir:~/F:LAYOUT=fs"] {
        let mut store = lab.store(location);
        store.create(&name("a"), guid(1), validity(1)).expect("new");
        let root = store.spaces[0].list().expect("usable").location.root.clone();
        let dot = if location.ends_with("fs") { "" } else { "." };
        let elsewhere = lab.home.path().join("elsewhere");
        std::fs::create_dir_all(elsewhere.join("cur")).expect("made");
        for (link, to) in [("far", &*elsewhere), ("near", &root.join(format!("{dot}a"))), ("nowhere", Path::new("gone"))] {
            std::os::unix::fs::symlink(to, root.join(format!("{dot}{link}"))).expect("made");
        }
        let listing = store.listing(0).expect("lists");
        assert_eq!(listing.links, [(root.join(format!("{dot}far")), elsewhere.canonicalize().expect("there"))], "{location}");
        assert_eq!(shown(&scan(&mut store)), ["a=01"], "{location}");
    }
}

#[test]
fn subscriptions_of_a_namespace_without_a_file() {
    let lab = Lab::new();
    let child = |prefix: &str, location: &str| NamespaceSettings {
        prefix: prefix.into(),
        location: location.into(),
        subscriptions: false,
        inbox: false,
        ..slash()
    };
    let account = lab.account("maildir:~/M", vec![slash(), child("Archive/", "maildir:~/A"), child("Deep/Fs/", "sdbox:~/B")]);
    let mut store = lab.open(&account, OpenFor::Destination).expect("opens");
    store.scan(&Selection::All).expect("scans");
    for n in ["Archive/2024/xÄ", "Deep/Fs/a.b/cÖ", "Foo/Bar", "INBOX"] {
        store.set_subscribed(&name(n), true, Timestamp(4)).unwrap_or_else(|e| panic!("{n}: {e}"));
    }
    // Byte by byte what Dovecot writes (verified live).
    let file = lab.home.path().join("M/subscriptions");
    let theirs = "V\t2\n\nArchive/2024\tx&AMQ-\nDeep/Fs/a\tb/c&ANY-\nFoo\tBar\nINBOX\n";
    assert_eq!(std::fs::read_to_string(&file).expect("there"), theirs);
    let tree = store.scan(&Selection::All).expect("scans");
    let subscribed: BTreeSet<_> = tree.nodes.iter().filter(|n| n.subscribed).map(|n| n.name.to_string()).collect();
    assert_eq!(subscribed, ["Archive/2024/xÄ", "Deep/Fs/a.b/cÖ", "Foo/Bar", "INBOX"].map(str::to_owned).into());
    assert!(tree.nodes.iter().filter(|n| n.subscribed).all(|n| n.subscription_changed == Timestamp(4)));
    // Without the namespaces in the run their entries are nobody's.
    let few = store.scan(&Selection::Default).expect("scans");
    assert_eq!(few.nodes.iter().filter(|n| n.subscribed).count(), 2);
    store.scan(&Selection::All).expect("scans");
    store.set_subscribed(&name("Archive/2024/xÄ"), false, Timestamp(5)).expect("there");
    let tree = store.scan(&Selection::All).expect("scans");
    assert!(tree.deletions.iter().any(|d| d.key == DeletionKey::Subscription(NameHash::of("Archive/2024/xÄ"))));
}

#[test]
fn which_namespaces_take_part() {
    let lab = Lab::new();
    let ns = |prefix: &str, location: &str| NamespaceSettings {
        prefix: prefix.into(),
        location: location.into(),
        inbox: prefix.is_empty(),
        ..slash()
    };
    let hidden = NamespaceSettings { hidden: true, list: Some(false), ..ns("H/", "sdbox:~/H") };
    let alias = NamespaceSettings { alias_for: Some(String::new()), ..ns("mail/", "") };
    let account = lab.account("sdbox:~/S", vec![ns("Public/", "sdbox:~/P"), ns("", ""), hidden, alias, ns("broken/", "foo:~/x")]);
    let store = lab.open(&account, OpenFor::Destination).expect("opens");
    let chosen = |s: &Selection| -> Vec<&str> {
        store.select(s).expect("some").into_iter().map(|i| store.spaces[i].settings.prefix.as_str()).collect()
    };
    assert_eq!(chosen(&Selection::Default), [""]);
    assert_eq!(chosen(&Selection::Prefixes(vec!["Public/".into()])), ["Public/"]);
    assert_eq!(chosen(&Selection::Prefixes(vec!["Public".into(), "H/".into()])), ["Public/", "H/"]);
    assert_eq!(chosen(&Selection::Prefixes(vec!["nosuch/".into()])), [""], "as Dovecot has it");
    let e = store.select(&Selection::All).expect_err("one cannot be used");
    assert_eq!(e.to_string(), "Namespace 'broken/': Unknown mail storage driver foo");

    // They are the same mailboxes twice.
    for same in [ns("Again/", ""), ns("Again/", "sdbox:~/S:LISTINDEX=other")] {
        let twice = lab.account("sdbox:~/S", vec![ns("", ""), same]);
        let e = lab.open(&twice, OpenFor::Destination).expect("opens").select(&Selection::All).expect_err("the same");
        assert!(e.to_string().starts_with("Namespaces '' and 'Again/' have the same mailboxes"), "{e}");
    }

    let private = lab.account("sdbox:~/S:INDEXPVT=~/P", vec![ns("", "")]);
    let e = lab.open(&private, OpenFor::Destination).expect("opens").select(&Selection::Default).expect_err("private flags");
    assert!(e.to_string().starts_with("Namespace '': INDEXPVT is not supported"), "{e}");

    let all_located = lab.account("sdbox:~/S", vec![NamespaceSettings { inbox: true, ..ns("", "sdbox:~/x") }]);
    let store = lab.open(&all_located, OpenFor::Destination).expect("opens");
    let e = store.select(&Selection::Default).expect_err("none");
    assert!(e.to_string().starts_with("All your namespaces have a location setting."), "{e}");

    let dots = NamespaceSettings { separator: Some('.'), ..ns("Dots.", "sdbox:~/y") };
    let mixed = lab.account("sdbox:~/S", vec![ns("", ""), dots]);
    let store = lab.open(&mixed, OpenFor::Destination).expect("opens");
    let e = store.select(&Selection::All).expect_err("conflict");
    assert_eq!(e.to_string(), "Synced namespaces have conflicting separators ('/' for prefix=\"\", '.' for prefix=\"Dots.\")");

    let two = lab.account("sdbox:~/S", vec![ns("", ""), NamespaceSettings { inbox: true, ..ns("B/", "") }]);
    assert!(lab.open(&two, OpenFor::Destination).is_err());
}

#[test]
fn a_prefix_of_the_inbox() {
    let lab = Lab::new();
    let ns = NamespaceSettings { prefix: "INBOX/".into(), ..slash() };
    let mut store = lab.open(&lab.account("maildir:~/M", vec![ns]), OpenFor::Destination).expect("opens");
    store.create(&name("INBOX"), guid(1), validity(1)).expect("new");
    store.create(&name("INBOX/x"), guid(2), validity(1)).expect("new");
    assert_eq!(store.create(&name("Foo"), guid(3), validity(1)).expect_err("no namespace").class(), Class::Temporary);
    assert_eq!(shown(&scan(&mut store)), ["INBOX/x=02", "INBOX=01"]);
    assert!(lab.files().contains("M/.x"));
}

#[test]
fn an_unmounted_mail_root_is_not_made_anew() {
    let lab = Lab::new();
    let mut store = lab.store("maildir:~/M:INDEX=~/I");
    store.create(&name("a"), guid(1), validity(1)).expect("new");
    std::fs::write(lab.home.path().join("I/dovecot.list.index.log"), "").expect("write");
    std::fs::rename(lab.home.path().join("M"), lab.home.path().join("elsewhere")).expect("moves");
    let e = store.create(&name("b"), guid(2), validity(1)).expect_err("not mounted");
    assert!(e.to_string().contains("is it mounted?"), "{e}");
}

#[test]
fn a_mailbox_that_gets_another_name_meanwhile_is_neither_missed_nor_seen_twice() {
    const MANY: u8 = 60;
    for (location, top, old, new) in [
        ("sdbox:~/mail", "mail/mailboxes", "a", "z"),
        ("maildir:~/mail", "mail", ".a", ".z"),
        ("sdbox:~/mail", "mail/mailboxes", "z", "a"),
    ] {
        let lab = Lab::new();
        let mut store = lab.store(location);
        for n in 1..=MANY {
            store.create(&name(&format!("{}{n}", old.trim_start_matches('.'))), guid(n), validity(u32::from(n))).expect("made");
        }
        let root = lab.home.path().join(top);
        let users = std::thread::spawn(move || {
            for n in 1..=MANY {
                std::fs::rename(root.join(format!("{old}{n}")), root.join(format!("{new}{n}"))).expect("renamed");
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let mut scans = 0;
        while !users.is_finished() {
            // It may also say that it cannot tell.
            let Ok(tree) = store.scan(&Selection::Default) else { continue };
            let mut guids: Vec<_> = tree.nodes.iter().filter_map(|n| n.identity.map(|i| i.guid)).collect();
            guids.sort_unstable();
            assert_eq!(guids, (1..=MANY).map(guid).collect::<Vec<_>>(), "{location}");
            assert!(tree.problems.is_empty(), "{:?}", tree.problems);
            scans += 1;
        }
        users.join().expect("they end");
        assert!(scans > 0, "{location}");
    }
}
