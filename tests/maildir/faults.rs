//! Stopped at every change to the file system, a Maildir is valid for Dovecot, has all its mails, and the next run completes
//! the work without doubling one.
//!
//! The work is done by this test program itself, started anew with a fault plan.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use dsync::mail::{
    Body, Class, Flags, Identity, Mailbox, MailboxGuid, ModSeq, NewMail, Original, Rebuild, RebuildFrom, RebuildMail, Timestamp,
    UidValidity,
};
use dsync::os::Fsync;
use dsync::store::Settings;
use dsync::store::format::Format;

use crate::lab::{Lab, SeenBox, have_dovecot};
use crate::ours::{body, expunge, format, format_with, guid, keyword_edit, keywords, new_mail, open, place, text, uid};

/// GUID of the n-th mail that a work saves.
fn id(n: u32) -> String {
    format!("{n:032x}")
}

/// Ends the child as a run with an error ends.
fn or_exit<T, E>(done: Result<T, E>) -> T {
    done.unwrap_or_else(|_| std::process::exit(3))
}

fn present(mailbox: &mut dyn Mailbox, wanted: &str) -> Option<u32> {
    let uids: Vec<_> = mailbox.mails().iter().map(|m| m.uid).collect();
    uids.into_iter().find(|&u| mailbox.guid(u).is_ok_and(|g| g == guid(wanted))).map(|u| u.get())
}

/// Saves what is not there yet.
fn save(mailbox: &mut dyn Mailbox) {
    for n in 4..=6 {
        if present(mailbox, &id(n)).is_none() {
            let mail = NewMail { keywords: keywords(&["Fresh"]), saved: Timestamp(1_400_000_000), ..new_mail(n, &id(n)) };
            or_exit(mailbox.stage(mail, body(n)));
        }
    }
    or_exit(mailbox.commit(dsync::mail::Uid::LAST));
}

fn edit(mailbox: &mut dyn Mailbox) {
    let edits = [keyword_edit(1, Flags::SEEN, Flags::NONE, &["Fresh"], &[]), expunge(2)];
    or_exit(mailbox.edit(&edits));
}

/// Gives mail 1 another UID.
fn renumber(mailbox: &mut dyn Mailbox) {
    if mailbox.mails().iter().any(|m| m.uid == uid(1)) {
        let mail = NewMail { flags: Flags::FLAGGED, ..new_mail(9, &mailbox.guid(uid(1)).expect("a GUID").to_string()) };
        or_exit(mailbox.stage_copy(mail, uid(1), Original::Expunge));
        or_exit(mailbox.commit(dsync::mail::Uid::LAST));
    }
}

const REBUILT: UidValidity = UidValidity::new(77).expect("not 0");

/// The mails 1 and 3 as 2 and 1, and a new one between them and the end.
fn rebuild(mailbox: &mut dyn Mailbox, kept: &[String]) {
    let mut mails = Vec::new();
    let mut staged = 0;
    for (n, (wanted, text_of)) in [(&kept[2], 3), (&kept[0], 1), (&id(50), 50)].into_iter().enumerate() {
        let n = u32::try_from(n).expect("small") + 1;
        let mail = NewMail { keywords: keywords(&["Fresh"]), flags: Flags::SEEN, ..new_mail(n, wanted) };
        let from = match present(mailbox, wanted) {
            Some(there) => RebuildFrom::Present(uid(there)),
            None => {
                or_exit(mailbox.stage(mail.clone(), body(text_of)));
                staged += 1;
                RebuildFrom::Staged(staged - 1)
            }
        };
        mails.push(RebuildMail { mail, from });
    }
    let guid = MailboxGuid::new([9; 16]).expect("not zero");
    let identity = Identity { guid, uidvalidity: REBUILT, uid_next: uid(4) };
    let plan = Rebuild { identity, first_recent: uid(1), highest_modseq: ModSeq(5), mails };
    or_exit(mailbox.rebuild(plan));
}

/// Not a test: the work of a child process.
#[test]
fn child() {
    let (Ok(work), Ok(dir)) = (std::env::var("MAILDIR_WORK"), std::env::var("MAILDIR_DIR")) else { return };
    // Without syncs: a killed process loses nothing that the kernel has, and the tests are several times as fast.
    let mut settings = Settings::default();
    settings.index.fsync = Fsync::Never;
    let mut mailbox = or_exit(format_with(settings).open(&place(Path::new(&dir))));
    let kept: Vec<String> = std::env::var("MAILDIR_KEPT").unwrap_or_default().split(' ').map(str::to_owned).collect();
    match work.as_str() {
        "look" => {
            print!("{:?}", mailbox.status());
            for mail in mailbox.mails().to_vec() {
                let guid = mailbox.guid(mail.uid).expect("a GUID");
                let text = mailbox.body(mail.uid).expect("a body").size;
                print!("{} {guid} {:?} {:?} {text:?};", mail.uid, mail.flags, mail.keywords);
            }
            println!();
            return;
        }
        "save" => save(&mut *mailbox),
        "edit" => edit(&mut *mailbox),
        "renumber" => renumber(&mut *mailbox),
        "rebuild" => rebuild(&mut *mailbox, &kept),
        other => panic!("{other}"),
    }
    // As a run ends.
    or_exit(mailbox.refresh());
}

struct Work {
    name: &'static str,
    dir: std::path::PathBuf,
    kept: Vec<String>,
}

impl Work {
    /// Runs it, stopped as the plan says. `true`: it came to its end.
    fn run(&self, fault: Option<&str>, log: Option<&Path>) -> bool {
        let mut c = Command::new(std::env::current_exe().expect("this program"));
        c.args(["--exact", "faults::child", "--test-threads=1", "-q"]).env("MAILDIR_WORK", self.name);
        c.env("MAILDIR_DIR", &self.dir).env("MAILDIR_KEPT", self.kept.join(" "));
        if let Some(fault) = fault {
            c.env("DSYNC_FAULT", fault);
        }
        if let Some(log) = log {
            c.env("DSYNC_FAULT_LOG", log);
        }
        let out = c.output().expect("the child runs");
        // The lock of a dead process; Dovecot would wait two seconds before it looks whether the process lives.
        let _ = std::fs::remove_file(self.dir.join("dovecot-uidlist.lock"));
        // Whoever finds this one waits three minutes (index.md 3.9).
        let _ = std::fs::remove_file(self.dir.join("dovecot.index.log.newlock"));
        assert!(
            out.status.success() || out.status.signal() == Some(9) || out.status.code() == Some(3),
            "{} {fault:?}: {}",
            self.name,
            String::from_utf8_lossy(&out.stdout)
        );
        out.status.success()
    }
}

fn prepared() -> Lab {
    let lab = Lab::new();
    let mut imap = lab.imap();
    for n in 1..=3 {
        imap.append("INBOX", &format!("(k{n}) \"01-Feb-2024 10:00:00 +0000\""), &text(n).replace('\n', "\r\n"));
    }
    drop(imap);
    drop(open(&lab.inbox()));
    // A keywords file of the present second, or dated forward already, would be dated forward again: one step more.
    let keywords = std::fs::File::options().write(true).open(lab.inbox().join("dovecot-keywords")).expect("there");
    keywords.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(60)).expect("settable");
    lab
}

/// Starts again from the same mail.
fn reset(lab: &Lab, saved: &Path) {
    std::fs::remove_dir_all(lab.inbox()).expect("removed");
    let ok = Command::new("cp").arg("-a").arg(saved).arg(lab.inbox()).status().expect("cp runs");
    assert!(ok.success());
    let _ = std::fs::remove_file(lab.path().join("dovecot.log"));
}

/// Does the work with every possible stop. `valid` judges what a stop leaves, `complete` what the next run makes of it.
fn every_stop(name: &'static str, valid: impl Fn(&SeenBox, &SeenBox, &str), complete: impl Fn(&SeenBox, &SeenBox, &str)) {
    if !have_dovecot() {
        return;
    }
    let lab = prepared();
    let before = lab.dump("INBOX");
    let saved = lab.path().join("saved");
    assert!(Command::new("cp").arg("-a").arg(lab.inbox()).arg(&saved).status().expect("cp runs").success());
    let work = Work { name, dir: lab.inbox(), kept: before.mails.iter().map(|m| m.guid.clone()).collect() };
    let log = lab.path().join("steps");
    assert!(work.run(None, Some(&log)));
    let steps = std::fs::read_to_string(&log).expect("steps");
    let steps: Vec<&str> = steps.lines().collect();
    assert!(steps.len() > 5, "{steps:?}");
    for (n, step) in (1..).zip(&steps) {
        let writes = step.split(' ').nth(1) == Some("write");
        for kind in ["kill", "short", "ENOSPC", "EIO"] {
            // A full disk matters to few steps, and what fails once fails like its neighbour.
            let skipped = match kind {
                "short" => !writes,
                "ENOSPC" => !writes && !step.contains(" create "),
                "EIO" => n % 4 != 0,
                _ => false,
            };
            if skipped {
                continue;
            }
            reset(&lab, &saved);
            let stopped = format!("{name} {kind} at {step}");
            let ended = work.run(Some(&format!("{n}:{kind}")), None);
            assert!(!ended || kind == "ENOSPC" || kind == "EIO", "{stopped}");
            // Dovecot gives up a log with a torn record (index.md 6.3): practically no write is, but here one can be made so.
            // Our next run cuts it off. At every other step that one comes first, too.
            let torn = kind == "short" && step.ends_with(".log");
            if !torn && n % 2 == 0 {
                let left = lab.dump("INBOX");
                valid(&before, &left, &stopped);
                lab.silent();
            }
            assert!(work.run(None, None), "{stopped}");
            let after = lab.dump("INBOX");
            complete(&before, &after, &stopped);
            lab.silent();
        }
    }
}

fn check_text(seen: &SeenBox, uid: u32, n: u32, place: &str) {
    assert_eq!(seen.mail(uid).text.replace("\r\n", "\n"), text(n), "{place}");
}

#[test]
fn saving_is_all_or_nothing_for_each_mail() {
    let valid = |before: &SeenBox, left: &SeenBox, place: &str| {
        assert_eq!((&left.guid, left.uidvalidity), (&before.guid, before.uidvalidity), "{place}");
        assert_eq!(left.mails[..3], before.mails[..], "{place}");
        for mail in &left.mails[3..] {
            let n = (4..=6).find(|&n| id(n) == mail.guid).unwrap_or_else(|| panic!("{place}: foreign {mail:?}"));
            check_text(left, mail.uid, n, place);
            assert_eq!((mail.flags.join(" "), mail.received), ("Fresh".to_owned(), 1_600_000_000 + n), "{place}");
        }
    };
    every_stop("save", valid, |before, after, place| {
        valid(before, after, place);
        let guids: Vec<_> = after.mails[3..].iter().map(|m| m.guid.clone()).collect();
        assert_eq!(guids.iter().collect::<BTreeSet<_>>().len(), 3, "{place}: {guids:?}");
        assert_eq!(guids.len(), 3, "{place}: {guids:?}");
    });
}

#[test]
fn edits_happen_or_do_not() {
    let valid = |before: &SeenBox, left: &SeenBox, place: &str| {
        let old: Vec<_> = before.mails.iter().map(|m| (m.uid, &m.guid)).collect();
        let now: Vec<_> = left.mails.iter().map(|m| (m.uid, &m.guid)).collect();
        assert!(now == old || now == [old[0], old[2]], "{place}: {now:?}");
        let flags = left.mail(1).flags.join(" ");
        assert!(["k1", "Fresh k1", "\\Seen k1", "Fresh \\Seen k1"].contains(&flags.as_str()), "{place}: {flags}");
        assert_eq!(left.mail(3), before.mail(3), "{place}");
    };
    every_stop("edit", valid, |before, after, place| {
        valid(before, after, place);
        assert_eq!((after.uids(), after.mail(1).flags.join(" ")), (vec![1, 3], "Fresh \\Seen k1".to_owned()), "{place}");
    });
}

#[test]
fn a_new_uid_is_given_or_is_not() {
    let valid = |before: &SeenBox, left: &SeenBox, place: &str| {
        let guids: Vec<_> = left.mails.iter().map(|m| m.guid.clone()).collect();
        let moved = left.mails.iter().find(|m| m.guid == before.mail(1).guid).unwrap_or_else(|| panic!("{place}: lost"));
        assert_eq!(guids.len(), 3, "{place}: {guids:?}");
        assert!(moved.uid == 1 || moved.uid >= 9, "{place}");
        check_text(left, moved.uid, 1, place);
        assert_eq!((left.mail(2), left.mail(3)), (before.mail(2), before.mail(3)), "{place}");
    };
    every_stop("renumber", valid, |before, after, place| {
        valid(before, after, place);
        assert!(after.mails[2].uid >= 9, "{place}");
    });
}

#[test]
fn a_rebuild_leaves_the_old_or_the_new_content() {
    let valid = |before: &SeenBox, left: &SeenBox, place: &str| {
        let ids = [&before.mail(3).guid, &before.mail(1).guid, &id(50)];
        if left.uidvalidity == REBUILT.get() {
            for (mail, (guid, n)) in left.mails.iter().zip(ids.iter().zip([3, 1, 50])) {
                assert_eq!(&&mail.guid, guid, "{place}");
                check_text(left, mail.uid, n, place);
            }
            assert!(left.uids().starts_with(&[1, 2, 3]), "{place}: {:?}", left.uids());
            // What is foreign may have come back until the next run, but only that.
            assert!(left.mails[3..].iter().all(|m| m.guid == before.mail(2).guid), "{place}: {:?}", left.mails);
        } else {
            assert_eq!((&left.guid, left.uidvalidity), (&before.guid, before.uidvalidity), "{place}");
            for n in 1..=3 {
                assert_eq!(left.mail(n).guid, before.mail(n).guid, "{place}");
                check_text(left, n, n, place);
            }
            assert!(left.mails[3..].iter().all(|m| m.guid == id(50)), "{place}: {:?}", left.mails);
        }
    };
    every_stop("rebuild", valid, |before, after, place| {
        valid(before, after, place);
        assert_eq!((after.uidvalidity, after.uids(), after.uidnext), (REBUILT.get(), vec![1, 2, 3], 4), "{place}");
        assert!(after.mails.iter().all(|m| m.flags.join(" ") == "Fresh \\Seen"), "{place}: {:?}", after.mails);
    });
}

/// A Maildir that Dovecot never saw, on a medium that cannot be written: the same in every run.
#[test]
fn a_read_only_source_is_read() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    crate::lab::unpack("plain-before.tar", scratch.path());
    let dir = scratch.path().join("Maildir");
    let before = crate::lab::contents(&dir);
    let look = || {
        let mut c = Command::new(std::env::current_exe().expect("this program"));
        c.args(["--exact", "faults::child", "--test-threads=1", "--nocapture", "-q"]);
        c.env("MAILDIR_WORK", "look").env("MAILDIR_DIR", &dir).env("DSYNC_FAULT", "1:EACCES");
        let out = c.output().expect("the child runs");
        assert!(out.status.success(), "{out:?}");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.lines().find(|l| l.contains("Status")).expect("a status").to_owned()
    };
    let first = look();
    assert!(first.contains("messages: 8") && first.contains("3 1700000002.y.host.example.org () {} Some(203);"), "{first}");
    assert_eq!(look(), first);
    assert_eq!(crate::lab::contents(&dir), before);
}

/// Creating stopped half-way is taken up again.
#[test]
fn a_mailbox_half_created_is_completed() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let dir = scratch.path().join(".Half");
    std::fs::create_dir_all(dir.join("cur")).expect("writable");
    let identity = (MailboxGuid::generate(), UidValidity::new(5).expect("not 0"));
    format().create(&place(&dir), identity.0, identity.1).expect("created");
    std::fs::remove_file(dir.join("dovecot.index.log")).expect("there");
    format().create(&place(&dir), identity.0, identity.1).expect("created");
    let mut mailbox = open(&dir);
    assert_eq!((mailbox.status().identity.guid, mailbox.status().identity.uidvalidity), identity);
    mailbox.stage(new_mail(1, &id(1)), Body::from_bytes(text(1))).expect("staged");
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    let again = format().create(&place(&dir), MailboxGuid::generate(), identity.1).expect_err("not empty");
    assert_eq!(again.class(), Class::Exists);
}
