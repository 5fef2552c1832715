//! Runs over a pipe: we, and a Dovecot, at either end. Dovecot prepares the sides and judges them.

use crate::oracle::{Dump, Lab, Ran, Side, assert_equal, assert_same, have_dovecot, mail};
use std::process::{Command, Stdio};

/// Who is at an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Ours,
    Dovecot,
}

impl Who {
    fn program(self) -> &'static str {
        match self {
            Self::Ours => env!("CARGO_BIN_EXE_dsync"),
            Self::Dovecot => "doveadm",
        }
    }
}

/// All pairs with one of us in it.
pub const PAIRS: [(Who, Who); 3] = [(Who::Ours, Who::Dovecot), (Who::Dovecot, Who::Ours), (Who::Ours, Who::Ours)];

/// The words that start a server for a side.
pub fn server(who: Who, side: &Side) -> Vec<String> {
    let mut words = vec![who.program().to_owned()];
    words.extend(side.options());
    words.push("dsync-server".to_owned());
    words
}

/// Starts a run with these words as the destination.
pub fn run_to(who: Who, side: &Side, args: &[&str], destination: &[String]) -> Ran {
    let mut command = Command::new(who.program());
    command.args(side.options()).args(args).args(destination).stdin(Stdio::null());
    command.env("USER", "u1").env("HOME", &side.home).env_remove("LOG_STDERR_TIMESTAMP").current_dir("/");
    Ran::of(&command.output().expect("it runs"))
}

fn run(ends: (Who, Who), master: &Side, slave: &Side, args: &[&str]) -> Ran {
    run_to(ends.0, master, args, &server(ends.1, slave))
}

/// Something on both sides, some of it the same after a first run.
fn two_sides(lab: &Lab, ends: (Who, Who), formats: (&'static str, &'static str)) -> (Side, Side) {
    let (a, b) = (lab.side("a", formats.0), lab.side("b", formats.1));
    for n in 1..=4 {
        a.save("INBOX", &mail(n));
    }
    a.doveadm(&["mailbox", "create", "-s", "Lists/rust"]);
    a.save("Lists/rust", ".leading dot\n\n..two\n.\nend without a line end");
    b.doveadm(&["mailbox", "create", "Only here"]);
    b.save("Only here", &mail(20));
    run(ends, &a, &b, &["sync"]).fine();
    assert_same(&a, &b);
    (a, b)
}

/// The same on both sides. A mail that has made room for another was saved anew, by a Dovecot at another second than by us.
fn assert_alike(a: &Side, b: &Side) -> Dump {
    let (a, b) = (a.dump().without_saved(), b.dump().without_saved());
    assert_equal(&a, &b);
    a
}

#[test]
fn two_ways_in_one_run() {
    if !have_dovecot() {
        return;
    }
    for (n, ends) in PAIRS.into_iter().enumerate() {
        let formats = [("maildir", "mdbox"), ("sdbox", "maildir"), ("mdbox", "sdbox")][n];
        let lab = Lab::new();
        let (a, b) = two_sides(&lab, ends, formats);
        // Flags on both sides, an expunge on each, new mails under one UID, a rename, a subscription.
        a.doveadm(&["flags", "add", "\\Seen kw1", "mailbox", "INBOX", "uid", "1"]);
        b.doveadm(&["flags", "add", "\\Flagged", "mailbox", "INBOX", "uid", "1"]);
        a.doveadm(&["expunge", "mailbox", "INBOX", "uid", "2"]);
        b.doveadm(&["expunge", "mailbox", "INBOX", "uid", "4"]);
        a.save("INBOX", &mail(5));
        b.save("INBOX", &mail(6));
        a.doveadm(&["mailbox", "rename", "Lists/rust", "Lists/crates"]);
        b.doveadm(&["mailbox", "subscribe", "Only here"]);
        run(ends, &a, &b, &["sync"]).fine();
        let seen = assert_alike(&a, &b);
        let inbox = &seen.boxes["INBOX"];
        assert_eq!(inbox.mails.len(), 4, "{ends:?}");
        assert_eq!(inbox.mails[0].flags, ["\\Flagged", "\\Seen", "kw1"], "{ends:?}");
        assert!(seen.boxes.contains_key("Lists/crates") && seen.subscriptions.contains(&"Only here".to_owned()), "{ends:?}");
        run(ends, &a, &b, &["sync", "-f"]).fine();
        assert_eq!(assert_alike(&a, &b), seen, "another run changes nothing: {ends:?}");
        lab.silent();
    }
}

#[test]
fn backups_both_ways_and_one_way() {
    if !have_dovecot() {
        return;
    }
    for ends in PAIRS {
        let lab = Lab::new();
        let (a, b) = two_sides(&lab, ends, ("mdbox", "mdbox"));
        a.save("INBOX", &mail(7));
        a.doveadm(&["mailbox", "delete", "Only here"]);
        run(ends, &a, &b, &["backup"]).fine();
        assert_same(&a, &b);
        b.save("INBOX", &mail(8));
        run(ends, &a, &b, &["backup", "-R"]).fine();
        let seen = assert_same(&a, &b);
        assert_eq!(seen.boxes["INBOX"].mails.len(), 6, "{ends:?}");
        a.save("INBOX", &mail(9));
        // Two: equally many on both sides are overlooked wherever a Dovecot is asked (sync.md 5.3).
        b.save("INBOX", &mail(10));
        b.save("INBOX", &mail(11));
        run(ends, &a, &b, &["sync", "-1"]).fine();
        assert_eq!(a.dump().boxes["INBOX"].mails.len(), 7, "a source gets nothing: {ends:?}");
        assert_eq!(b.dump().boxes["INBOX"].mails.len(), 9, "{ends:?}");
        lab.silent();
    }
}

#[test]
fn our_backup_destination_is_put_right_in_place() {
    if !have_dovecot() {
        return;
    }
    // What a Dovecot would delete, or fail at: a mail too many, a mail too few, another mail under a UID.
    for ends in [(Who::Dovecot, Who::Ours), (Who::Ours, Who::Ours)] {
        for format in ["maildir", "mdbox"] {
            let lab = Lab::new();
            let (a, b) = two_sides(&lab, ends, (format, format));
            b.doveadm(&["expunge", "mailbox", "INBOX", "uid", "2"]);
            b.save("INBOX", &mail(30));
            a.save("INBOX", &mail(31));
            b.save("Lists/rust", &mail(32));
            run(ends, &a, &b, &["backup"]).fine();
            assert_same(&a, &b);
            lab.silent();
        }
    }
}

#[test]
fn states_are_exchangeable_with_dovecots() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = two_sides(&lab, (Who::Ours, Who::Dovecot), ("mdbox", "sdbox"));
    let step = |ends: (Who, Who), state: &str| {
        let ran = run(ends, &a, &b, &["sync", "-s", state]);
        ran.fine();
        ran.stdout.trim().to_owned()
    };
    let mut state = step((Who::Ours, Who::Dovecot), "");
    for (n, ends) in PAIRS.into_iter().cycle().take(6).enumerate() {
        let n = u32::try_from(n).expect("few");
        a.save("INBOX", &mail(40 + n));
        a.doveadm(&["flags", "add", &format!("kw{n}"), "mailbox", "INBOX", "uid", "1"]);
        state = step(ends, &state);
        assert_same(&a, &b);
    }
    let unusable = run((Who::Ours, Who::Dovecot), &a, &b, &["sync", "-s", "!!"]);
    unusable.says(0, &["Saved sync state is invalid, falling back to full sync: Invalid base64 data"]);
    lab.silent();
}

#[test]
fn what_was_chosen_and_nothing_else() {
    if !have_dovecot() {
        return;
    }
    for ends in PAIRS {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "mdbox"), lab.side("b", "maildir"));
        for name in ["Work", "Work/old", "Trash"] {
            a.doveadm(&["mailbox", "create", name]);
            a.save(name, &mail(1));
        }
        a.save("INBOX", &mail(2));
        run(ends, &a, &b, &["sync", "-m", "Work*", "-x", "*/old"]).fine();
        let names = |s: &Side| s.dump().boxes.into_keys().filter(|n| n != "INBOX").collect::<Vec<_>>();
        assert_eq!(names(&b), ["Work"], "{ends:?}");
        run(ends, &a, &b, &["sync", "-m", ""]).fine();
        let seen = b.dump();
        assert_eq!(names(&b), ["Trash", "Work", "Work/old"], "{ends:?}");
        assert!(seen.boxes["Trash"].mails.is_empty(), "trees only: {ends:?}");
        let guid = a.dump().boxes["Trash"].guid.clone();
        run(ends, &a, &b, &["sync", "-g", &guid]).fine();
        assert_eq!(b.dump().boxes["Trash"].mails.len(), 1, "{ends:?}");
        assert!(b.dump().boxes.get("Work/old").is_some_and(|m| m.mails.is_empty()), "{ends:?}");
        lab.silent();
    }
}

#[test]
fn a_big_mail_and_many_small_ones_both_ways_at_once() {
    if !have_dovecot() {
        return;
    }
    for ends in PAIRS {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "mdbox"), lab.side("b", "mdbox"));
        for (side, from) in [(&a, 100), (&b, 300)] {
            let mut imap = side.imap();
            for n in 0..60 {
                imap.append("INBOX", "", &mail(from + n));
            }
            drop(imap);
            side.save("INBOX", &format!("Subject: big {from}\n\n{}", "0123456789abcdef\n".repeat(400_000)));
        }
        run(ends, &a, &b, &["sync"]).fine();
        let seen = assert_alike(&a, &b);
        assert_eq!(seen.boxes["INBOX"].mails.len(), 122, "{ends:?}");
        lab.silent();
    }
}
