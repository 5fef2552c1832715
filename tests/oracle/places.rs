//! Places that are laid out in ways that are not met every day.

use std::os::unix::fs::chown;

use crate::lab::{Lab, Side, UID, assert_same, have_dovecot, mail};

fn at(lab: &Lab, name: &str, driver: &'static str, options: &str) -> Side {
    let mut side = lab.side(name, driver);
    side.location.push_str(options);
    side
}

fn fill(side: &Side, names: &[&str]) {
    let mut imap = side.imap();
    for (n, name) in (1..).zip(names) {
        imap.ok(&format!("CREATE \"{name}\""));
        assert!(imap.append(name, "()", &mail(n)).contains(" OK "), "{name}");
    }
}

/// A directory whose name begins with a dot is a folder in a Maildir++ only: elsewhere a mailbox has `cur/`.
#[test]
fn a_hidden_directory_in_a_tree_is_no_mailbox() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (at(&lab, "a", "maildir", ":LAYOUT=fs"), lab.side("b", "mdbox"));
    fill(&a, &["Work", "Work/.box"]);
    let hidden = a.dir.join(".ssh");
    std::fs::create_dir(&hidden).expect("made");
    chown(&hidden, Some(UID), Some(UID)).expect("chown");
    for _ in 0..2 {
        lab.dsync(&a, &b, &["sync"]).fine();
        let seen = assert_same(&a, &b);
        assert_eq!(seen.boxes.keys().collect::<Vec<_>>(), ["INBOX", "Work", "Work/.box"]);
    }
    assert_eq!(std::fs::read_dir(&hidden).expect("there").count(), 0, "nothing was put into it");
    lab.silent();
}

/// There every directory is one, as in a Maildir++.
#[test]
fn an_empty_directory_of_an_imapdir_is_a_mailbox() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (at(&lab, "a", "maildir", ":LAYOUT=imapdir"), lab.side("b", "mdbox"));
    fill(&a, &["Work"]);
    let empty = a.dir.join("Empty");
    std::fs::create_dir(&empty).expect("made");
    chown(&empty, Some(UID), Some(UID)).expect("chown");
    lab.dsync(&a, &b, &["backup"]).fine();
    assert!(assert_same(&a, &b).boxes.contains_key("Empty"));
    lab.silent();
}

/// `LAYOUT=index` escapes by itself, and the listescape plugin leaves it alone.
#[test]
fn escapes_are_none_in_a_list_index() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::with("mail_plugins = listescape\n");
    let names = ["~x", "..", "a\\\\b", "a\\\\7eb", "q/~z", "a^b", "a.b"];
    let (a, b) = (at(&lab, "a", "sdbox", ":LAYOUT=index"), at(&lab, "b", "mdbox", ":LAYOUT=index"));
    fill(&a, &names);
    for _ in 0..2 {
        lab.dsync(&a, &b, &["sync"]).fine();
        assert_eq!(assert_same(&a, &b).texts().len(), names.len());
    }
    // Where the plugin escapes, the names are the same.
    let c = lab.side("c", "sdbox");
    lab.dsync(&a, &c, &["backup"]).fine();
    assert_same(&a, &c);
    lab.silent();
}

/// Dovecot keeps dates before 1970; ours begin there. The mail is what counts.
#[test]
fn dates_at_the_edge() {
    if !have_dovecot() {
        return;
    }
    for (from, to) in [("sdbox", "maildir"), ("mdbox", "sdbox")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", from), lab.side("b", to));
        for (n, date) in (1..).zip(["01-Jan-1970 00:00:00 +0000", "01-Jan-1960 00:00:00 +0000", "01-Jan-2024 00:00:00 +0000"]) {
            assert!(a.imap().append("INBOX", &format!("() \"{date}\""), &mail(n)).contains(" OK "), "{date}");
        }
        lab.dsync(&a, &b, &["backup"]).fine();
        let received: Vec<u32> = b.dump().boxes["INBOX"].mails.iter().map(|m| m.received).collect();
        assert_eq!(received, [0, 0, 1_704_067_200], "{from} {to}");
        lab.silent();
    }
}
