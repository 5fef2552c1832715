//! Killed at every change to the file system, or with a disk that is full from then on: the next run mends the counts,
//! Dovecot has nothing to say, no mail is lost, and doing it again completes it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use dsync::mail::{
    Body, Class, Edit, EditKind, Flags, Identity, Mailbox, MailboxGuid, ModSeq, NewMail, Original, Rebuild, RebuildFrom,
    RebuildMail, Timestamp, Uid, UidValidity,
};
use dsync::store::Settings;
use dsync::store::format::Format;

use crate::common::{self, keywords, new_mail, place, uid};
use crate::judge::{After, check};
use crate::lab::{Lab, have_dovecot};

fn text(n: u32) -> String {
    format!("From: a@example.org\nSubject: mail {n}\n\nbody of mail {n}\n")
}

fn guid(n: u32) -> String {
    format!("aabbccddeeff00112233445566{n:06x}")
}

/// INBOX with mails 1 to 6, `Copies` with references to 2, 3 and 4; 6 and the copy of 4 are expunged.
fn base() -> Lab {
    let lab = Lab::new();
    for n in 1..=6 {
        lab.save("INBOX", text(n).as_bytes());
    }
    lab.doveadm(&["mailbox", "create", "Copies"]);
    lab.doveadm(&["copy", "Copies", "mailbox", "INBOX", "uid", "2:4"]);
    lab.doveadm(&["flags", "add", "\\Seen Old", "mailbox", "INBOX", "uid", "2,5"]);
    lab.doveadm(&["expunge", "mailbox", "INBOX", "uid", "6"]);
    lab.doveadm(&["expunge", "mailbox", "Copies", "uid", "3"]);
    lab
}

/// The present UID of the mail with this text and, if wanted, date.
fn find(mailbox: &mut dyn Mailbox, n: u32, received: Option<u32>) -> Option<Uid> {
    let uids: Vec<Uid> = mailbox.mails().iter().map(|m| m.uid).collect();
    uids.into_iter().find(|&uid| {
        common::read(mailbox.body(uid).expect("readable")) == text(n).as_bytes()
            && received.is_none_or(|r| mailbox.facts(uid).expect("readable").received.0 == r)
    })
}

fn copy_of(mailbox: &mut dyn Mailbox, from: Uid, to: u32) -> NewMail {
    let (guid, facts) = (mailbox.guid(from).expect("known"), mailbox.facts(from).expect("known"));
    NewMail { guid, received: facts.received, saved: facts.saved, ..new_mail(to, "x") }
}

/// What the killed process does. Each can be done again when it was stopped in the middle.
fn act(scenario: &str, root: &Path) -> dsync::mail::Result<()> {
    let mut format = common::begin(root, &Settings::default())?;
    let inbox = |format: &mut dsync::store::mdbox::Mdbox| format.open(&place(root, "INBOX"));
    match scenario {
        "save" => {
            let mut inbox = inbox(&mut format)?;
            for n in 20..23 {
                if find(&mut *inbox, n, None).is_none() {
                    let mut mail = new_mail(n, &guid(n));
                    mail.keywords = keywords(&["New"]);
                    mail.modseq = ModSeq(u64::from(n) * 10);
                    mail.pop3_uidl = Some(format!("uidl{n}"));
                    inbox.stage(mail, Body::from_bytes(text(n))).map_err(store_error)?;
                }
            }
            inbox.commit(Uid::LAST).map(drop)
        }
        "move" => {
            let mut inbox = inbox(&mut format)?;
            for (n, to, date) in [(1, 20, None), (2, 21, None), (3, 22, Some(1000))] {
                if inbox.mails().iter().any(|m| m.uid.get() == to) {
                    continue;
                }
                let from = find(&mut *inbox, n, None).expect("not lost");
                let mut mail = copy_of(&mut *inbox, from, to);
                mail.received = date.map_or(mail.received, Timestamp);
                let original = if n == 1 { Original::Keep } else { Original::Expunge };
                inbox.stage_copy(mail, from, original).map_err(store_error)?;
            }
            inbox.commit(Uid::LAST).map(drop)
        }
        "edit" => {
            let mut inbox = inbox(&mut format)?;
            let flags = EditKind::Flags {
                add: Flags::FLAGGED,
                remove: Flags::SEEN,
                add_keywords: keywords(&["Work"]),
                remove_keywords: keywords(&["Old"]),
                modseq: ModSeq(99),
            };
            let edit = |n, kind| Edit { uid: uid(n), expect: None, kind };
            inbox.edit(&[edit(5, flags), edit(2, EditKind::Expunge), edit(1, EditKind::Expunge)])
        }
        "rebuild" => {
            let mut inbox = inbox(&mut format)?;
            let mut mails = Vec::new();
            for (n, to, date) in [(2, 1, None), (30, 2, None), (3, 3, None), (3, 4, Some(1000))] {
                let known = find(&mut *inbox, n, date).or_else(|| find(&mut *inbox, n, None));
                let (mut mail, from) = match known {
                    Some(from) => (copy_of(&mut *inbox, from, to), RebuildFrom::Present(from)),
                    None => {
                        inbox.stage(new_mail(2, &guid(n)), Body::from_bytes(text(n))).map_err(store_error)?;
                        (new_mail(2, &guid(n)), RebuildFrom::Staged(0))
                    }
                };
                mail.received = date.map_or(mail.received, Timestamp);
                mails.push(RebuildMail { mail, from });
            }
            let identity = Identity { uid_next: uid(5), ..inbox.status().identity };
            inbox.rebuild(Rebuild { identity, first_recent: uid(1), highest_modseq: ModSeq(1), mails })
        }
        "purge" => format.purge(),
        "create" => {
            let mut place = place(root, "New");
            place.modes = dsync::os::fs::Modes::like(&std::fs::metadata(root).expect("the root"));
            let wanted = MailboxGuid::new([3; 16]).expect("not zero");
            match format.create(&place, wanted, UidValidity::new(7).expect("not 0")) {
                Err(e) if e.class() == Class::Exists => {}
                other => other?,
            }
            let mut new = format.open(&place)?;
            if new.mails().is_empty() {
                new.stage(new_mail(1, &guid(1)), Body::from_bytes(text(40))).map_err(store_error)?;
                new.commit(Uid::LAST)?;
            }
            Ok(())
        }
        "empty" => {
            let place = place(root, "Copies");
            if place.index.exists() {
                format.empty(&place)?;
                std::fs::remove_dir_all(root.join("mailboxes/Copies")).expect("removed");
            }
            Ok(())
        }
        "first" => {
            // A storage that is not there yet.
            let mut place = place(root, "INBOX");
            place.modes = dsync::os::fs::Modes::like(&std::fs::metadata(root.parent().expect("home")).expect("home"));
            if !place.index.join("dovecot.index.log").exists() {
                format.create(&place, MailboxGuid::new([3; 16]).expect("not zero"), UidValidity::new(7).expect("not 0"))?;
            }
            let mut new = format.open(&place)?;
            if new.mails().is_empty() {
                new.stage(new_mail(1, &guid(1)), Body::from_bytes(text(40))).map_err(store_error)?;
                new.commit(Uid::LAST)?;
            }
            Ok(())
        }
        other => panic!("no scenario {other}"),
    }
}

fn store_error(e: dsync::mail::SaveError) -> dsync::mail::Error {
    match e {
        dsync::mail::SaveError::Store(e) => e,
        dsync::mail::SaveError::Body(e) => dsync::mail::Error::new(Class::Temporary, e),
    }
}

/// Runs a scenario when this test is started as a process of its own; else nothing.
#[test]
fn driver() {
    let Some(what) = std::env::var_os("DSYNC_MDBOX_SCENARIO") else { return };
    let root = std::env::var_os("DSYNC_MDBOX_ROOT").expect("set together");
    if let Err(e) = act(what.to_str().expect("ascii"), Path::new(&root)) {
        eprintln!("{e}");
        std::process::exit(3);
    }
}

/// Runs a scenario in a process of its own, with a fault. Says whether it got to its end.
fn run(scenario: &str, lab: &Lab, fault: Option<&str>, log: Option<&Path>) -> bool {
    let mut c = Command::new(std::env::current_exe().expect("this test"));
    c.args(["faults::driver", "--exact", "--nocapture", "--test-threads=1"]);
    c.env("DSYNC_MDBOX_SCENARIO", scenario).env("DSYNC_MDBOX_ROOT", lab.root());
    if let Some(fault) = fault {
        c.env("DSYNC_FAULT", fault);
    }
    if let Some(log) = log {
        c.env("DSYNC_FAULT_LOG", log);
    }
    let out = c.output().expect("runs");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(fault.is_some() || out.status.success(), "{scenario}: {text}");
    assert!(!text.contains("panicked"), "{scenario} {fault:?}: {text}");
    out.status.success()
}

/// UID, flags, received, text and references of a mail.
type Told = (u32, Vec<String>, u32, String, u32);

/// What there is to see, without what differs from run to run (saved dates of copies, modseqs after a second attempt).
fn outcome(lab: &Lab) -> BTreeMap<String, Vec<Told>> {
    let mails = |b: crate::lab::SeenBox| {
        b.mails.into_iter().map(|m| (m.uid, m.flags, m.received % 1_000_000_000, m.text, m.refs)).collect()
    };
    lab.dump().into_iter().map(|(name, b)| (name, mails(b))).collect()
}

/// Half-made logs that a killed process left keep others waiting for three minutes: as if those had passed for us. Says
/// whether there are any; Dovecot would start to wait when it sees them.
fn let_time_pass(root: &Path) -> bool {
    let mut some = false;
    let all = if root.exists() { crate::lab::contents(root) } else { BTreeMap::new() };
    for path in all.keys().filter(|p| p.extension().is_some_and(|e| e == "newlock")) {
        let file = std::fs::File::options().write(true).open(path).expect("there");
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(300)).expect("touched");
        some = true;
    }
    some
}

/// Stops a scenario at each step, in each way that concerns it.
fn stop_everywhere(scenario: &str, base: &Lab) {
    let ideal = base.copy();
    let log = ideal.path().join("steps");
    assert!(run(scenario, &ideal, None, Some(&log)));
    let steps = std::fs::read_to_string(&log).expect("the steps");
    let steps: Vec<&str> = steps.lines().collect();
    assert!(steps.len() > 2, "{scenario}: {steps:?}");
    let after = if scenario == "first" { After::Calm } else { After::Crash };
    check(&ideal, after);
    let wanted = outcome(&ideal);

    for (i, step) in steps.iter().enumerate() {
        let op = step.split(' ').nth(1).expect("an operation");
        let mut kinds = vec!["kill"];
        if op == "write" {
            kinds.extend(["short", "ENOSPC"]);
        } else if !matches!(op, "unlink" | "fsync" | "rmdir" | "truncate") {
            kinds.push("EIO");
        }
        for kind in kinds {
            let lab = base.copy();
            let fault = format!("{}:{kind}", i + 1);
            let done = run(scenario, &lab, Some(&fault), None);
            assert!(!done || kind == "EIO" || kind == "ENOSPC", "{scenario} {fault} {step}");
            let waits = let_time_pass(&lab.root());
            if !waits && !matches!(scenario, "empty" | "first") {
                // Our next run comes first, and does no more than look. A Dovecot that meets half a transaction at the end
                // of a log gives that log up; nobody can help that.
                let mut format =
                    common::begin(&lab.root(), &Settings::default()).unwrap_or_else(|e| panic!("{scenario} {fault} {step}: {e}"));
                for place in common::places(&lab.root()) {
                    if place.index.join("dovecot.index.log").exists() {
                        format.open(&place).unwrap_or_else(|e| panic!("{scenario} {fault} {step}: {e}"));
                    }
                }
                check(&lab, After::Crash);
            }
            run(scenario, &lab, None, None);
            check(&lab, After::Crash);
            assert_eq!(outcome(&lab), wanted, "{scenario} {fault} {step}");
        }
    }
}

macro_rules! scenarios {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            if have_dovecot() {
                stop_everywhere(stringify!($name), &base());
            }
        }
    )*};
}

mod stopped {
    use super::{base, have_dovecot, stop_everywhere};

    scenarios!(save edit rebuild purge create empty);

    #[test]
    fn moving() {
        if have_dovecot() {
            stop_everywhere("move", &base());
        }
    }

    #[test]
    fn first() {
        if have_dovecot() {
            stop_everywhere("first", &crate::lab::Lab::new());
        }
    }
}
