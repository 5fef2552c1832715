//! Names, directories, subscriptions and attributes beside a real Dovecot.

use dsync::mail::{Attribute, AttributeKey, DeletionKey, Store, Timestamp};

use crate::lab::{Lab, guid, name, scan, validity};

/// Every layout of the formats, with and without separate roots.
pub const LOCATIONS: [&str; 12] = [
    "mdbox:~/mail:ALT=~/alt:LISTINDEX=list/x.idx",
    "mdbox:~/mail:INDEX=~/index",
    "mdbox:~/mail:LAYOUT=index",
    "sdbox:~/mail",
    "sdbox:~/mail:INDEX=~/index:CONTROL=~/control:ALT=~/alt",
    "sdbox:~/mail:FULLDIRNAME=dbox-Mails:INDEX=~/index",
    "sdbox:~/mail:LAYOUT=index",
    "sdbox:~/mail:LAYOUT=index:INDEX=~/index",
    "maildir:~/mail",
    "maildir:~/mail:INDEX=~/index:CONTROL=~/control",
    "maildir:~/mail:LAYOUT=fs",
    "maildir:~/mail:LAYOUT=imapdir",
];

/// Dovecot 2.3.19.1 cannot delete mailboxes of such a location ("Mailbox doesn't exist").
const NO_DELETE: &str = "LAYOUT=index:INDEX";

#[test]
fn dovecot_sees_what_we_make() {
    for location in LOCATIONS {
        let Some(lab) = Lab::new(location) else { return };
        let mut store = lab.open();
        for (i, n) in ["INBOX", "Ärger/日本", "Foo", "Foo/Bar/Baz", "50%25", "a&b"].iter().enumerate() {
            let i = u8::try_from(i).expect("few") + 1;
            store.create(&name(n), guid(i), validity(1000 + u32::from(i))).unwrap_or_else(|e| panic!("{location} {n}: {e}"));
        }
        let boxes = lab.boxes();
        let all: Vec<&str> = boxes.keys().map(String::as_str).collect();
        assert_eq!(all, ["50%25", "Foo", "Foo/Bar/Baz", "INBOX", "a&b", "Ärger/日本"], "{location}");
        assert_eq!(boxes["Foo"], (guid(3).to_string(), 1003, 0), "{location}");
        lab.assert_agreed();
        for n in ["Foo", "Foo/Bar/Baz", "Ärger/日本"] {
            lab.deliver(n, 1);
        }

        // A rename with children, seen by a Dovecot that has listed before.
        store.rename(&name("Foo"), &name("New/Deep"), Timestamp(7)).unwrap_or_else(|e| panic!("{location}: {e}"));
        let boxes = lab.boxes();
        assert_eq!(boxes["New/Deep"], (guid(3).to_string(), 1003, 1), "{location}");
        assert_eq!(boxes["New/Deep/Bar/Baz"], (guid(4).to_string(), 1004, 1), "{location}");
        assert!(!boxes.keys().any(|n| n.starts_with("Foo")), "{location}: {boxes:?}");
        lab.assert_agreed();
        lab.deliver("New/Deep", 2);

        // A parent goes, its child stays.
        store.delete(&name("New/Deep"), guid(3), Timestamp(8)).unwrap_or_else(|e| panic!("{location}: {e}"));
        let boxes = lab.boxes();
        assert_eq!(boxes["New/Deep/Bar/Baz"], (guid(4).to_string(), 1004, 1), "{location}");
        assert!(!boxes.contains_key("New/Deep"), "{location}");
        lab.assert_agreed();

        // The name is free again, for us and for Dovecot.
        if !location.contains(NO_DELETE) {
            lab.doveadm(&["mailbox", "create", "New/Deep"]);
            lab.assert_agreed();
            lab.doveadm(&["mailbox", "delete", "New/Deep"]);
        }
        store.create(&name("New/Deep"), guid(9), validity(1009)).unwrap_or_else(|e| panic!("{location}: {e}"));
        assert_eq!(lab.boxes()["New/Deep"], (guid(9).to_string(), 1009, 0), "{location}");
    }
}

#[test]
fn we_see_what_dovecot_makes() {
    for location in LOCATIONS.into_iter().filter(|l| !l.contains(NO_DELETE)) {
        let Some(lab) = Lab::new(location) else { return };
        lab.doveadm(&["mailbox", "create", "Ärger/日本", "Foo", "Foo/Bar/Baz", "Gone", "Gone/Kid"]);
        lab.deliver("INBOX", 1);
        lab.deliver("Gone", 1);
        lab.assert_agreed();
        let gone = lab.boxes()["Gone"].0.parse().expect("a GUID");
        lab.doveadm(&["mailbox", "rename", "Foo", "New/Deep"]);
        lab.doveadm(&["mailbox", "subscribe", "Ärger/日本", "Nope"]);
        lab.doveadm(&["mailbox", "subscribe", "Gone/Kid"]);
        lab.doveadm(&["mailbox", "unsubscribe", "Gone/Kid"]);
        lab.doveadm(&["mailbox", "delete", "Gone/Kid"]);
        lab.doveadm(&["mailbox", "delete", "Gone"]);
        lab.assert_agreed();
        let tree = scan(&mut lab.open());
        let node = |n: &str| tree.nodes.iter().find(|x| x.name == name(n));
        assert!(node("New/Deep").is_some_and(|n| n.renamed > Timestamp(1_000_000)), "{location}");
        assert!(node("Ärger/日本").is_some_and(|n| n.subscribed && n.subscription_changed > Timestamp(1_000_000)), "{location}");
        assert!(node("Nope").is_some_and(|n| n.subscribed && n.identity.is_none()), "{location}");
        assert!(node("Gone").is_none_or(|n| n.identity.is_none()), "{location}");
        let deleted = |key| tree.deletions.iter().any(|d| d.key == key);
        assert!(deleted(DeletionKey::Mailbox(gone)), "{location}");
        assert!(deleted(DeletionKey::Subscription(dsync::mail::NameHash::of("Gone/Kid"))), "{location}");
    }
}

#[test]
fn subscriptions_both_ways() {
    for location in ["sdbox:~/mail", "maildir:~/mail", "maildir:~/mail:CONTROL=~/control"] {
        let Some(lab) = Lab::new(location) else { return };
        lab.doveadm(&["mailbox", "subscribe", "INBOX", "a/b"]);
        let mut store = lab.open();
        scan(&mut store);
        store.set_subscribed(&name("Ärger/x"), true, Timestamp(5)).expect("new");
        store.set_subscribed(&name("a/b"), false, Timestamp(6)).expect("there");
        store.set_subscribed(&name("inbox"), true, Timestamp(6)).expect("there already");
        assert_eq!(lab.lines(&["mailbox", "list", "-s"]), ["INBOX", "Ärger/x"], "{location}");
        lab.doveadm(&["mailbox", "unsubscribe", "Ärger/x"]);
        let tree = scan(&mut lab.open());
        assert_eq!(tree.nodes.iter().filter(|n| n.subscribed).count(), 1, "{location}");
    }
}

#[test]
fn a_running_session_sees_new_mailboxes_at_once() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    let Some(lab) = Lab::new("sdbox:~/mail") else { return };
    let imap = "/usr/lib/dovecot/imap";
    if !std::path::Path::new(imap).exists() {
        eprintln!("skipped: no {imap}");
        return;
    }
    let config = lab.home().parent().expect("has one").join("dovecot.conf");
    let mut session = Command::new(imap)
        .arg("-c")
        .arg(config)
        .args(["-o", &format!("mail_location={}", lab.location())])
        .env("USER", "u")
        .env("HOME", lab.home())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let mut input = session.stdin.take().expect("piped");
    let mut output = BufReader::new(session.stdout.take().expect("piped"));
    let mut command = |tag: &str, text: &str| -> String {
        writeln!(input, "{tag} {text}\r").expect("alive");
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).expect("alive") > 0, "{all}");
            all.push_str(&line);
            if line.starts_with(tag) {
                return all;
            }
        }
    };
    command("a", "CREATE Old");
    assert!(command("b", "LIST \"\" *").contains("Old"));
    let mut store = lab.open();
    scan(&mut store);
    store.create(&name("New"), guid(1), validity(7)).expect("new");
    assert!(command("c", "LIST \"\" *").contains("New"));
    store.rename(&name("Old"), &name("Other"), Timestamp(1)).expect("free");
    let list = command("d", "LIST \"\" *");
    assert!(list.contains("Other") && !list.contains("Old"), "{list}");
    assert!(command("e", "SELECT New").contains("UIDVALIDITY 7"));
    command("f", "LOGOUT");
    drop(input);
    session.wait().expect("ends");
}

#[test]
fn attributes_both_ways() {
    let Some(lab) = Lab::new("sdbox:~/mail") else { return };
    lab.doveadm(&["mailbox", "create", "Foo"]);
    lab.doveadm(&["mailbox", "metadata", "set", "Foo", "/private/comment", "hello"]);
    let mut store = lab.open();
    scan(&mut store);
    let foo = lab.boxes()["Foo"].0.parse().expect("a GUID");
    let key = |private, key: &str| AttributeKey { private, key: key.into() };
    let attribute = |private, k: &str, value: Option<&str>| Attribute {
        key: key(private, k),
        value: value.map(|v| v.as_bytes().to_vec()),
        changed: Timestamp::default(),
    };
    let ours = store.attributes(&name("Foo"), foo).expect("readable");
    assert_eq!(ours, Some(vec![attribute(true, "comment", Some("hello"))]));
    store.set_attribute(&name("Foo"), foo, &attribute(true, "comment", None)).expect("removed");
    store.set_attribute(&name("Foo"), foo, &attribute(false, "vendor/vendor.x/k", Some("two\nlines"))).expect("set");
    assert_eq!(lab.doveadm(&["mailbox", "metadata", "get", "Foo", "/shared/vendor/vendor.x/k"]).trim_end(), "two\nlines");
    assert_eq!(lab.doveadm(&["mailbox", "metadata", "get", "Foo", "/private/comment"]).trim_end(), "");
    lab.deliver("Foo", 1);
    assert_eq!(lab.boxes()["Foo"].2, 1);
}

#[test]
fn new_files_belong_to_the_user() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let Some(lab) = Lab::new("maildir:~/mail:INDEX=~/index") else { return };
    std::fs::create_dir(lab.home().join("mail")).expect("new");
    std::os::unix::fs::chown(lab.home().join("mail"), Some(1000), Some(1000)).expect("root");
    std::fs::set_permissions(lab.home().join("mail"), std::fs::Permissions::from_mode(0o2770)).expect("root");
    let mut store = lab.open();
    store.create(&name("a/b"), guid(1), validity(7)).expect("new");
    store.set_subscribed(&name("a/b"), true, Timestamp(5)).expect("new");
    let mut todo = vec![lab.home()];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("there");
        assert_eq!((meta.uid(), meta.gid()), (1000, 1000), "{}", path.display());
        if path != lab.home() {
            let mode = meta.mode() & 0o777;
            let wanted = if meta.is_dir() { 0o770 } else { 0o660 };
            assert_eq!(mode, wanted, "{} has mode {mode:o}", path.display());
            seen += 1;
        }
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).expect("readable").map(|e| e.expect("entry").path()));
        }
    }
    assert!(seen > 8);
    lab.assert_agreed();
}

#[test]
fn a_new_guid_takes_its_directory_along() {
    let Some(lab) = Lab::new("sdbox:~/mail:LAYOUT=index:ALT=~/alt") else { return };
    lab.doveadm(&["mailbox", "create", "a/b"]);
    lab.deliver("a/b", 1);
    let mut store = lab.open();
    scan(&mut store);
    let mut mailbox = store.open(&name("a/b")).expect("there");
    mailbox.set_identity(guid(7), validity(77)).expect("changes");
    drop(mailbox);
    assert_eq!(lab.boxes()["a/b"], (guid(7).to_string(), 77, 1));
    lab.assert_agreed();
    assert!(lab.home().join(format!("mail/mailboxes/{}", guid(7))).is_dir());
    lab.deliver("a/b", 2);
    assert_eq!(lab.boxes()["a/b"].2, 2);
}
