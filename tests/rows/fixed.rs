//! What Dovecot has fixed since 2.3.19.1, and what must not come back with us.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::lab::{Lab, Side, assert_same, assert_settled, changed, have_dovecot, run};

const NOTHING: [PathBuf; 0] = [];

/// The changes to the file system of a run.
fn steps(a: &Side, verb: &[&str], b: &Side) -> Vec<String> {
    let log = a.dir.join("steps");
    run(a.command(verb, b).env("DSYNC_FAULT_LOG", &log)).exits(0);
    let text = std::fs::read_to_string(&log).expect("a debug build counts its steps");
    std::fs::remove_file(&log).expect("it is there");
    text.lines().map(|l| l.split_once(' ').expect("a number").1.to_owned()).collect()
}

fn position(steps: &[String], what: &str, file: &str) -> usize {
    let found = steps.iter().position(|s| s.starts_with(what) && s.contains(file));
    found.unwrap_or_else(|| panic!("no {what} of {file} in {steps:#?}"))
}

#[test]
fn f1_a_namespace_that_is_called_inbox() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::with("namespace inbox {\n  inbox = yes\n  separator = /\n  prefix = INBOX/\n}\n");
    let (a, b) = (lab.side("a", "mdbox"), lab.side("b", "maildir"));
    a.save("INBOX", "m1");
    a.doveadm(&["mailbox", "create", "INBOX/Work"]);
    a.save("INBOX/Work", "w1");
    for verb in ["backup", "sync"] {
        a.dsync(&[verb], &b).exits(0);
        let both = assert_same(&a, &b);
        assert_eq!((both.subjects("INBOX"), both.subjects("INBOX/Work")), (vec!["m1".into()], vec!["w1".into()]));
        assert_eq!(both.boxes.len(), 2, "{:?}", both.boxes.keys());
        assert_settled(&a, &[verb], &b);
    }
    b.save("INBOX", "m2");
    a.dsync(&["sync"], &b).exits(0);
    assert_eq!(assert_same(&a, &b).subjects("INBOX"), ["m1", "m2"]);
    lab.silent();
}

#[test]
fn f5_equal_positions_are_never_equal_mails() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "sdbox"));
    for n in 1..=2 {
        a.save("INBOX", &format!("left{n}"));
        b.save("INBOX", &format!("right{n}"));
    }
    a.dsync(&["sync"], &b).exits(0);
    assert_eq!(assert_same(&a, &b).subjects("INBOX"), ["left1", "left2", "right1", "right2"]);
    assert_settled(&a, &["sync"], &b);
    lab.silent();
}

#[test]
fn f6_renames_that_cross_each_other() {
    if !have_dovecot() {
        return;
    }
    for (left, right) in [("maildir", "mdbox"), ("sdbox", "mdbox")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", left), lab.side("b", right));
        a.dump();
        for name in ["A", "B", "C", "A/Sub"] {
            a.doveadm(&["mailbox", "create", name]);
            a.save(name, &format!("was {name}"));
        }
        a.dsync(&["sync"], &b).exits(0);
        for (from, to) in [("A", "T"), ("B", "A"), ("T", "B")] {
            a.doveadm(&["mailbox", "rename", from, to]);
        }
        b.doveadm(&["mailbox", "rename", "C", "B/C"]);
        a.dsync(&["sync"], &b).exits(0);
        let both = assert_same(&a, &b);
        let all = both.all_subjects();
        assert_eq!(all.keys().map(String::as_str).collect::<Vec<_>>(), ["was A", "was A/Sub", "was B", "was C"]);
        assert!(all.values().all(|n| *n == 1), "{all:?}");
        assert_settled(&a, &["sync"], &b);
        lab.silent();
    }
}

#[test]
fn f8_mails_are_committed_in_batches_on_the_receiving_side() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "mdbox"));
    let mut imap = a.imap();
    for n in 1..=120 {
        imap.append("INBOX", "", &format!("m{n}"));
    }
    drop(imap);
    let careful = a.set(&["mail_fsync=optimized"]);
    let flushes = steps(&careful, &["backup"], &b).iter().filter(|s| s.starts_with("fsync")).count();
    assert!(flushes < 20, "{flushes} flushes for 120 mails");
    assert_same(&a, &b);
    lab.silent();
}

#[test]
fn f9_a_maildir_without_any_modseq() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "mdbox"));
    // As another program delivers: no index, no uidlist.
    for dir in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(a.mail().join(dir)).expect("mkdir");
    }
    for n in 1..=3 {
        std::fs::write(a.mail().join(format!("cur/150000000{n}.M1P1.host:2,S")), crate::lab::mail(&format!("m{n}")))
            .expect("write");
    }
    lab.own(&a);
    a.dsync(&["sync"], &b).exits(0);
    assert_eq!(assert_same(&a, &b).subjects("INBOX"), ["m1", "m2", "m3"]);
    b.doveadm(&["flags", "add", "\\Flagged", "mailbox", "INBOX", "uid", "2"]);
    a.dsync(&["sync"], &b).exits(0);
    assert_eq!(assert_same(&a, &b).boxes["INBOX"].mails[&2].flags, ["\\Flagged", "\\Seen"]);
    assert_settled(&a, &["sync"], &b);
    lab.silent();
}

#[test]
fn f14_what_a_run_has_done_is_no_work_for_the_next_one() {
    if !have_dovecot() {
        return;
    }
    for (left, right) in [("maildir", "sdbox"), ("mdbox", "maildir")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", left), lab.side("b", right));
        for n in 1..=3 {
            a.save("INBOX", &format!("m{n}"));
        }
        let first = a.dsync(&["sync", "-s", ""], &b);
        first.exits(0);
        a.doveadm(&["flags", "add", "\\Flagged", "mailbox", "INBOX", "uid", "1"]);
        b.doveadm(&["expunge", "mailbox", "INBOX", "uid", "2"]);
        let second = a.dsync(&["sync", "-s", first.out.trim()], &b);
        second.exits(0);
        assert_same(&a, &b);
        let before = (a.files(), b.files());
        let third = a.dsync(&["sync", "-s", second.out.trim()], &b);
        third.exits(0);
        assert_eq!(third.out, second.out);
        assert_eq!((changed(&before.0, &a.files()), changed(&before.1, &b.files())), (vec![], vec![]));
        lab.silent();
    }
}

#[test]
fn f19_file_then_directory_then_map_then_mailbox() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "mdbox"));
    a.save("INBOX", "m1");
    a.dsync(&["backup"], &b).exits(0);
    b.doveadm(&["purge"]);
    a.save("INBOX", "m2");
    let careful = a.set(&["mail_fsync=optimized", "mdbox_rotate_size=1"]);
    let steps = steps(&careful, &["backup"], &b);
    let order = [
        position(&steps, "write", "/storage/"),
        position(&steps, "fsync", "/storage/"),
        position(&steps, "fsync", "dovecot.map.index.log"),
        position(&steps, "fsync", "/INBOX/dbox-Mails/dovecot.index.log"),
    ];
    assert!(order.is_sorted(), "{order:?} {steps:#?}");
    let mailbox_write = position(&steps, "write", "/INBOX/dbox-Mails/dovecot.index.log");
    assert!(order[2] < mailbox_write, "{steps:#?}");
    lab.silent();
}

#[test]
fn f21_a_damaged_storage_is_neither_rebuilt_nor_taken_for_empty() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "mdbox"), lab.side("b", "sdbox"));
    a.save("INBOX", "m1");
    a.dsync(&["backup"], &b).exits(0);
    let map = a.mail().join("storage/dovecot.map.index.log");
    std::fs::write(&map, b"this is no log").expect("write");
    let before = (a.files(), b.files());
    a.dsync(&["backup"], &b).exits(75).says("dovecot.map.index");
    assert_eq!((changed(&before.0, &a.files()), changed(&before.1, &b.files())), (vec![], vec![]));
}

#[test]
fn f23_a_body_whose_attachment_cannot_be_found_is_never_copied_with_a_hole() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "sdbox"), lab.side("b", "maildir"));
    let with = a.set(&[&format!("mail_attachment_dir={}", a.dir.join("att").display()), "mail_attachment_min_size=1k"]);
    let part = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0\n".repeat(200);
    let text = format!(
        "From: a@example.org\nSubject: big\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nHello.\n--b\n\
         Content-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n{part}--b--\n"
    );
    a.save("INBOX", "plain");
    let saved = with.try_doveadm(&["save", "-m", "INBOX"], text.as_bytes());
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    assert!(a.dir.join("att").exists(), "the lab's attachment went into the mail itself");
    a.dsync(&["backup"], &b).exits(2).says("UID 2");
    assert_eq!(b.subjects("INBOX"), ["plain"]);
    // Nothing is wrong with the mail: with the setting it arrives whole.
    with.dsync(&["backup"], &b).exits(0);
    assert!(b.dump().boxes["INBOX"].mails[&2].text.contains(part.trim_end()));
}

#[test]
fn f24_an_sdbox_whose_index_directory_is_lost_is_not_empty() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "sdbox").with(":INDEX=@/index"), lab.side("b", "maildir"));
    a.save("INBOX", "m1");
    a.doveadm(&["mailbox", "create", "Work"]);
    a.save("Work", "w1");
    a.dsync(&["backup"], &b).exits(0);
    std::fs::rename(a.dir.join("index"), a.dir.join("lost")).expect("rename");
    let before = b.files();
    a.dsync(&["backup"], &b).exits(75);
    assert_eq!(changed(&before, &b.files()), NOTHING);
}

#[test]
fn f26_two_mailboxes_of_one_guid_lose_nothing() {
    if !have_dovecot() {
        return;
    }
    for (from, to) in [("sdbox", "maildir"), ("maildir", "mdbox")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", from), lab.side("b", to));
        a.dump();
        a.doveadm(&["mailbox", "create", "Work"]);
        a.save("Work", "w1");
        // Somebody has copied a folder with all its files.
        let dir = if from == "maildir" { a.mail().join(".Work") } else { a.mail().join("mailboxes/Work") };
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(&dir)
            .arg(dir.with_file_name(if from == "maildir" { ".Again" } else { "Again" }))
            .status();
        assert!(copied.expect("cp runs").success());
        a.save("Again", "a1");
        for _ in 0..2 {
            let r = a.dsync(&["backup"], &b);
            assert!(matches!(r.code, Some(0 | 2)), "{r:?}");
            let there = b.dump();
            assert_eq!(there.subjects("Work"), ["w1"], "{from} {to} {r:?}");
            assert_eq!(there.subjects("Again"), ["a1", "w1"], "{from} {to} {r:?}");
        }
    }
}

#[test]
fn f27_a_renamed_hierarchy_leaves_no_root_behind() {
    if !have_dovecot() {
        return;
    }
    for driver in ["maildir", "sdbox"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "mdbox"), lab.side("b", driver).with(":INDEX=@/index:CONTROL=@/control"));
        a.doveadm(&["mailbox", "create", "Oldname/Sub"]);
        a.save("Oldname/Sub", "s1");
        a.dsync(&["backup"], &b).exits(0);
        assert!(b.files().keys().any(|p| p.starts_with(b.dir.join("index")) && p.to_string_lossy().contains("Oldname")));
        a.doveadm(&["mailbox", "rename", "Oldname", "Newname"]);
        a.dsync(&["backup"], &b).exits(0);
        assert_eq!(b.subjects("Newname/Sub"), ["s1"]);
        let left: Vec<_> = b.files().into_keys().filter(|p| p.to_string_lossy().contains("Oldname")).collect();
        assert_eq!(left, NOTHING, "{driver}");
        assert_settled(&a, &["backup"], &b);
        lab.silent();
    }
}

#[test]
fn f28_f29_odd_names_in_a_list_that_is_an_index() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "sdbox").with(":LAYOUT=index"), lab.side("b", "mdbox").with(":LAYOUT=index"));
    a.dump();
    for name in ["50%", "a.b", "~x", "über", "a/b c", "dbox-Mails", "%2f", "a^b", "x^2fy", "~", "p/~q", "g/.."] {
        let made = a.try_doveadm(&["mailbox", "create", name], b"");
        if made.status.success() {
            a.save(name, &format!("in {}", name.replace('ü', "u")));
        }
    }
    for verb in ["backup", "sync"] {
        a.dsync(&[verb], &b).exits(0);
        let both = assert_same(&a, &b);
        assert!(both.boxes.len() >= 12, "{:?}", both.boxes.keys());
        assert_settled(&a, &[verb], &b);
    }
    lab.silent();
}

#[test]
fn f30_subscriptions_keep_their_bytes() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "mdbox"));
    a.dump();
    // One composed, one decomposed.
    let names = ["\u{e9}t\u{e9}", "e\u{301}te\u{301}2"];
    for name in names {
        a.doveadm(&["mailbox", "create", name]);
        a.doveadm(&["mailbox", "subscribe", name]);
    }
    let subscribed = a.dump().subscribed;
    assert_eq!(subscribed.len(), 2);
    for verb in ["backup", "sync"] {
        a.dsync(&[verb], &b).exits(0);
        assert_eq!((a.dump().subscribed, b.dump().subscribed), (subscribed.clone(), subscribed.clone()));
        assert_settled(&a, &[verb], &b);
    }
    lab.silent();
}

#[test]
fn f31_maildirfolder_only_in_folders() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "mdbox"), lab.side("b", "maildir"));
    a.save("INBOX", "m1");
    a.doveadm(&["mailbox", "create", "Work"]);
    a.dsync(&["backup"], &b).exits(0);
    assert!(!b.mail().join("maildirfolder").exists());
    assert!(b.mail().join(".Work/maildirfolder").exists());
}

#[test]
fn f32_a_lost_uidlist_loses_and_doubles_nothing() {
    if !have_dovecot() {
        return;
    }
    for verb in ["backup", "sync"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "sdbox"), lab.side("b", "maildir"));
        for n in 1..=3 {
            a.save("INBOX", &format!("m{n}"));
        }
        a.dsync(&[verb], &b).exits(0);
        std::fs::remove_file(b.mail().join("dovecot-uidlist")).expect("it was there");
        let before = (a.files(), b.files());
        a.dsync(&[verb], &b).exits(75).says("dovecot-uidlist is missing");
        assert_eq!((changed(&before.0, &a.files()), changed(&before.1, &b.files())), (vec![], vec![]));
        // Dovecot gives new UIDs and GUIDs once somebody opens the mailbox. A backup puts that right; for a two-way run they
        // are other mails then.
        b.imap().ok("SELECT INBOX");
        a.dsync(&[verb], &b).exits(0);
        let mut subjects = assert_same(&a, &b).subjects("INBOX");
        if verb == "sync" {
            subjects.dedup();
        }
        assert_eq!(subjects, ["m1", "m2", "m3"], "{verb}");
        assert_settled(&a, &[verb], &b);
    }
}

fn set_writable(dir: &Path, writable: bool) {
    let mut all = vec![dir.to_owned()];
    let mut at = 0;
    while let Some(path) = all.get(at).cloned() {
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        let mode = if writable { mode | 0o200 } else { mode & !0o222 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        if path.is_dir() {
            all.extend(std::fs::read_dir(&path).expect("a directory").map(|e| e.expect("an entry").path()));
        }
        at += 1;
    }
}

#[test]
fn f33_a_source_that_nobody_can_write_to() {
    if !have_dovecot() {
        return;
    }
    for from in ["maildir", "sdbox", "mdbox"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", from), lab.side("b", "maildir"));
        a.save("INBOX", "m1");
        a.doveadm(&["mailbox", "create", "Work"]);
        a.save("Work", "w1");
        let seen = a.dump().common();
        set_writable(&a.mail(), false);
        let before = a.files();
        a.dsync(&["backup"], &b).quiet();
        assert_eq!(changed(&before, &a.files()), NOTHING);
        assert_eq!(b.dump().common().boxes, seen.boxes, "{from}");
        assert_settled(&a, &["backup"], &b);
        set_writable(&a.mail(), true);
        lab.silent();
    }
}

#[test]
fn f35_a_log_that_is_just_being_rotated() {
    if !have_dovecot() {
        return;
    }
    for (from, to) in [("sdbox", "mdbox"), ("mdbox", "maildir")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", from), lab.side("b", to));
        a.save("INBOX", "m1");
        a.dsync(&["sync"], &b).exits(0);
        a.save("INBOX", "m2");
        // The moment after the old log got its second name.
        for side in [&a, &b] {
            let log = side.index("INBOX").join("dovecot.index.log");
            let second = log.with_extension("log.2");
            let _ = std::fs::remove_file(&second);
            std::fs::hard_link(&log, &second).expect("link");
        }
        a.dsync(&["sync"], &b).exits(0);
        assert_eq!(assert_same(&a, &b).subjects("INBOX"), ["m1", "m2"]);
        lab.silent();
    }
}

#[test]
fn f36_an_unfinished_record_is_not_damage() {
    if !have_dovecot() {
        return;
    }
    for from in ["sdbox", "mdbox", "maildir"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", from), lab.side("b", "mdbox"));
        for n in 1..=2 {
            a.save("INBOX", &format!("m{n}"));
        }
        let log = a.index("INBOX").join("dovecot.index.log");
        let torn = |run: &str| {
            let whole = std::fs::metadata(&log).expect("a log").len();
            std::fs::OpenOptions::new().append(true).open(&log).and_then(|mut file| file.write_all(&[0; 6])).expect("write");
            let r = a.dsync(&[run], &b);
            r.exits(0);
            assert!(r.err.contains("cutting off an incomplete transaction"), "{from} {run}: {}", r.err);
            assert_eq!(b.subjects("INBOX"), ["m1", "m2"], "{from} {run}");
            // (A Maildir's log also learns of the mails that were delivered meanwhile.)
            assert!(from == "maildir" || std::fs::metadata(&log).expect("a log").len() == whole, "{from} {run}");
        };
        torn("backup");
        // Dovecot 2.3 would throw the whole log away at its next change; we cut the rest off, though nothing else is to be done.
        for run in ["backup", "sync"] {
            torn(run);
            a.doveadm(&["flags", "add", if run == "backup" { "\\Seen" } else { "\\Flagged" }, "mailbox", "INBOX", "all"]);
            a.dsync(&[run], &b).exits(0);
            assert_eq!(assert_same(&a, &b).subjects("INBOX"), ["m1", "m2"], "{from} {run}");
            lab.silent();
        }
    }
}

#[test]
fn f37_absurd_numbers_in_a_header_are_an_error() {
    if !have_dovecot() {
        return;
    }
    // Offsets of the header's message count and record size (index.md 2.2).
    for (at, value) in [(52, u32::MAX), (8, 0), (8, u32::MAX), (12, u32::MAX)] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "sdbox"), lab.side("b", "mdbox"));
        for n in 1..=2 {
            a.save("INBOX", &format!("m{n}"));
        }
        a.dsync(&["backup"], &b).exits(0);
        // It takes a small limit to have the index written.
        a.set(&["mail_index_rewrite_min_log_bytes=1", "mail_index_rewrite_max_log_bytes=1"]).save("INBOX", "m3");
        let file = a.index("INBOX").join("dovecot.index");
        let mut bytes = std::fs::read(&file).expect("Dovecot has written the index");
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&file, bytes).expect("write");
        let kept = b.subjects("INBOX");
        let r = a.dsync(&["backup"], &b);
        assert!(!r.err.contains("panicked"), "{}", r.err);
        // The log may hold all that is needed; else nothing is touched.
        match r.code {
            Some(0) => assert_eq!(b.subjects("INBOX"), ["m1", "m2", "m3"], "{at} {value}"),
            Some(75) => assert_eq!(b.subjects("INBOX"), kept, "{at} {value}"),
            _ => panic!("{at} {value}: {r:?}"),
        }
    }
}
