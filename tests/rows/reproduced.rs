//! What was seen live in Dovecot 2.3.19.1.

use std::path::Path;

use crate::lab::{Lab, Side, assert_same, assert_settled, changed, have_dovecot};

const STORAGES: [&str; 3] = ["maildir", "sdbox", "mdbox"];
const NOTHING: [std::path::PathBuf; 0] = [];

#[test]
fn l1_flags_set_on_both_sides_while_the_counters_stay_equal() {
    if !have_dovecot() {
        return;
    }
    for (left, right) in [("maildir", "mdbox"), ("sdbox", "maildir"), ("mdbox", "sdbox")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", left), lab.side("b", right));
        for n in 1..=3 {
            a.save("INBOX", &format!("m{n}"));
        }
        a.dsync(&["sync"], &b).quiet();
        a.doveadm(&["flags", "add", "\\Flagged", "mailbox", "INBOX", "uid", "2"]);
        b.doveadm(&["flags", "add", "\\Answered", "mailbox", "INBOX", "uid", "3"]);
        let (x, y) = (a.dump(), b.dump());
        assert_eq!(x.boxes["INBOX"].modseq, y.boxes["INBOX"].modseq, "the row speaks of equal counters");
        a.dsync(&["sync"], &b).quiet();
        let both = assert_same(&a, &b);
        let flags: Vec<_> = both.boxes["INBOX"].mails.values().map(|m| m.flags.join(" ")).collect();
        assert_eq!(flags, ["", "\\Flagged", "\\Answered"]);
        assert_settled(&a, &["sync"], &b);
        lab.silent();
    }
}

#[test]
fn l2_a_folder_made_on_both_sides_is_merged_in_the_first_run() {
    if !have_dovecot() {
        return;
    }
    let pairs = [
        ("maildir", "mdbox"),
        ("maildir", "sdbox"),
        ("mdbox", "maildir"),
        ("sdbox", "sdbox"),
        ("mdbox", "mdbox"),
        ("maildir", "maildir"),
    ];
    for (left, right) in pairs {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", left), lab.side("b", right));
        for (side, text) in [(&a, "left"), (&b, "right")] {
            side.dump();
            side.doveadm(&["mailbox", "create", "Work"]);
            side.save("Work", text);
        }
        a.dsync(&["sync"], &b).exits(0);
        assert_eq!(assert_same(&a, &b).subjects("Work"), ["left", "right"], "{left} {right}");
        assert_settled(&a, &["sync"], &b);
        lab.silent();
    }
}

#[test]
fn l3_two_maildirs_with_an_inbox_each() {
    if !have_dovecot() {
        return;
    }
    for verb in [&["sync"][..], &["sync", "-f"]] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "maildir"), lab.side("b", "maildir"));
        a.save("INBOX", "left");
        b.save("INBOX", "right");
        a.dsync(verb, &b).exits(0);
        assert_eq!(assert_same(&a, &b).subjects("INBOX"), ["left", "right"]);
        assert_settled(&a, verb, &b);
        lab.silent();
    }
}

#[test]
fn l4_backup_into_a_maildir_whose_inbox_came_into_being_on_its_own() {
    if !have_dovecot() {
        return;
    }
    for to in STORAGES {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "mdbox"), lab.side("b", to));
        for n in 1..=3 {
            a.save("INBOX", &format!("m{n}"));
        }
        a.save("INBOX", "m4");
        b.save("INBOX", "stray");
        a.dsync(&["backup"], &b).exits(0);
        assert_eq!(assert_same(&a, &b).subjects("INBOX"), ["m1", "m2", "m3", "m4"], "{to}");
        assert_settled(&a, &["backup"], &b);
        lab.silent();
    }
}

/// A source that is not there: nothing is taken for "all deleted", and nothing is made in its place (also S30).
#[test]
fn l5_a_source_that_is_not_mounted_empties_nothing() {
    if !have_dovecot() {
        return;
    }
    for from in STORAGES {
        for to in STORAGES {
            let lab = Lab::new();
            let (a, b) = (lab.side("a", from), lab.side("b", to));
            a.save("INBOX", "one");
            a.doveadm(&["mailbox", "create", "Work"]);
            a.save("Work", "two");
            a.dsync(&["backup"], &b).exits(0);
            std::fs::rename(a.mail(), a.dir.join("unmounted")).expect("rename");
            let before = (a.files(), b.files());
            a.dsync(&["backup"], &b).exits(75).says(a.mail().to_str().expect("UTF-8"));
            let after = (a.files(), b.files());
            assert_eq!(changed(&before.1, &after.1), NOTHING, "{from} {to}");
            assert_eq!(changed(&before.0, &after.0), NOTHING, "{from} {to}");
            // A source that somebody has opened in the meantime: empty, and with identities of its own.
            a.dump();
            assert!(a.mail().exists());
            let before = b.files();
            a.dsync(&["backup"], &b).exits(75);
            assert_eq!(changed(&before, &b.files()), NOTHING, "{from} {to}");
            lab.silent();
        }
    }
}

#[test]
fn l6_one_damaged_mail_does_not_keep_the_others_back() {
    if !have_dovecot() {
        return;
    }
    for missing in [true, false] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "sdbox"), lab.side("b", "mdbox"));
        for n in 1..=3 {
            a.save("INBOX", &format!("m{n}"));
        }
        a.doveadm(&["mailbox", "create", "Work"]);
        a.save("Work", "w1");
        let file = a.index("INBOX").join("u.2");
        if missing {
            std::fs::remove_file(&file).expect("it was there");
        } else {
            let bytes = std::fs::read(&file).expect("it is there");
            std::fs::write(&file, &bytes[..20]).expect("write");
        }
        let before = a.files();
        // Every time until it is repaired, and the source is never written to.
        for _ in 0..2 {
            let r = a.dsync(&["backup"], &b);
            r.exits(2).says("INBOX").says("UID 2").says("u.2");
            assert_eq!(changed(&before, &a.files()), NOTHING);
            assert_eq!(b.subjects("INBOX"), ["m1", "m3"]);
            assert_eq!(b.subjects("Work"), ["w1"]);
        }
        lab.silent();
    }
}

#[test]
fn l7_names_with_every_printable_character_stay_as_they_are() {
    if !have_dovecot() {
        return;
    }
    for (from, to) in [("maildir", "mdbox"), ("mdbox", "maildir"), ("mdbox", "sdbox")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", from), lab.side("b", to));
        a.dump();
        let odd: String = (33_u8..127).map(char::from).filter(|c| !"/.*%\"\\&~".contains(*c)).collect();
        let names = ["50%", "%", "a%%b", "%41", odd.as_str(), "with space", "a&-b", "x~"];
        for name in names {
            a.doveadm(&["mailbox", "create", name.replace("&-", "&").as_str()]);
        }
        a.save("50%", "half");
        for verb in ["backup", "sync"] {
            for _ in 0..2 {
                a.dsync(&[verb], &b).quiet();
            }
            let both = assert_same(&a, &b);
            for name in names {
                assert!(both.boxes.contains_key(name), "{from} {to} {name}: {:?}", both.boxes.keys());
            }
            assert_settled(&a, &[verb], &b);
        }
        a.save("50%", "whole");
        a.dsync(&["backup"], &b).quiet();
        assert_eq!(assert_same(&a, &b).subjects("50%"), ["half", "whole"]);
        lab.silent();
    }
}

#[test]
fn l8_a_source_whose_inbox_was_never_opened() {
    if !have_dovecot() {
        return;
    }
    for (from, to) in [("mdbox", "maildir"), ("sdbox", "maildir"), ("sdbox", "mdbox"), ("mdbox", "sdbox")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", from), lab.side("b", to));
        a.doveadm(&["mailbox", "create", "Work"]);
        a.save("Work", "w1");
        let _ = std::fs::remove_dir_all(a.mail().join("mailboxes/INBOX"));
        for round in 0..3 {
            let r = a.dsync(&["backup"], &b);
            assert_eq!(r.code, Some(0), "{from} {to} round {round}: {}", r.err);
            assert_eq!(b.subjects("Work"), ["w1"]);
            assert!(b.dump().boxes.contains_key("INBOX"));
        }
        lab.silent();
    }
}

#[test]
fn l8b_a_dot_in_a_name_is_said_and_survives_the_way_back() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "mdbox"), lab.side("b", "maildir"));
    a.doveadm(&["mailbox", "create", "v1.2 notes"]);
    a.save("v1.2 notes", "n1");
    a.dsync(&["backup"], &b).exits(0).says("v1.2 notes").says("v1_2 notes");
    assert_eq!(b.subjects("v1_2 notes"), ["n1"]);
    a.save("v1.2 notes", "n2");
    a.dsync(&["backup"], &b).exits(0);
    assert_eq!(b.subjects("v1_2 notes"), ["n1", "n2"]);
    let before = b.files();
    a.dsync(&["backup"], &b).exits(0);
    assert_eq!(changed(&before, &b.files()), NOTHING);
    // Two-way goes by GUID: the name comes back as it was.
    b.save("v1_2 notes", "n3");
    a.dsync(&["sync"], &b).exits(0);
    assert_eq!(a.subjects("v1.2 notes"), ["n1", "n2", "n3"]);
    lab.silent();
}

fn size_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with("m.")).map(|e| e.metadata().expect("a file").len()).sum()
}

#[test]
fn l10_mail_in_the_alternative_storage_stays_in_the_alternative_storage() {
    if !have_dovecot() {
        return;
    }
    for driver in ["mdbox", "sdbox"] {
        let lab = Lab::new();
        let (a, b) = (alt_side(&lab, "a", driver), alt_side(&lab, "b", driver));
        half_in_alt(&a);
        a.dsync(&["backup"], &b).exits(0);
        assert_same(&a, &b);
        assert_eq!((mails_in(&a, "mail"), mails_in(&a, "alt")), (2, 2), "the lab's own {driver}");
        assert_eq!((mails_in(&b, "mail"), mails_in(&b, "alt")), (2, 2), "{driver}");
        assert_settled(&a, &["backup"], &b);
        lab.silent();
    }
}

fn alt_side(lab: &Lab, name: &str, driver: &str) -> Side {
    lab.side(name, driver).with(":ALT=@/alt")
}

/// Four mails, the first two of them moved by Dovecot.
fn half_in_alt(side: &Side) {
    for n in 1..=4 {
        side.save("INBOX", &format!("m{n}"));
    }
    side.doveadm(&["altmove", "mailbox", "INBOX", "uid", "1:2"]);
    side.doveadm(&["purge"]);
}

/// How many mails lie in the files below a directory.
fn mails_in(side: &Side, dir: &str) -> usize {
    let is_mail = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(['m', 'u']));
    let files = side.files().into_iter().filter(|(p, _)| p.starts_with(side.dir.join(dir)) && is_mail(p));
    files.map(|(_, f)| String::from_utf8_lossy(&f.2).matches("Subject: ").count()).sum()
}

#[test]
fn l10_placement_between_formats_both_ways_and_as_asked() {
    if !have_dovecot() {
        return;
    }
    for (from, to) in [("mdbox", "sdbox"), ("sdbox", "mdbox")] {
        let lab = Lab::new();
        let (a, b) = (alt_side(&lab, "a", from), alt_side(&lab, "b", to));
        half_in_alt(&a);
        let place = |side: &Side| (mails_in(side, "mail"), mails_in(side, "alt"));
        for (how, wanted) in [("keep", (2, 2)), ("primary", (4, 0)), ("older-than=1d", (4, 0)), ("older-than=2037-01-01", (0, 4))]
        {
            let other = alt_side(&lab, &format!("to-{}", how.replace('=', "-")), to);
            a.dsync(&["sync", "--alt", how], &other).quiet();
            assert_same(&a, &other);
            assert_eq!(place(&other), wanted, "{how}");
            assert_settled(&a, &["sync"], &other);
        }
        a.dsync(&["backup", "--alt", "slow"], &b).exits(64).says("Invalid --alt parameter: slow");

        // A changed destination is taken back to what the source is, where new and present mails keep their places.
        a.dsync(&["sync"], &b).quiet();
        b.save("INBOX", "theirs");
        b.doveadm(&["altmove", "mailbox", "INBOX", "subject", "theirs"]);
        b.doveadm(&["purge"]);
        b.doveadm(&["expunge", "mailbox", "INBOX", "uid", "2"]);
        a.save("INBOX", "m5");
        a.doveadm(&["altmove", "mailbox", "INBOX", "uid", "5"]);
        a.doveadm(&["purge"]);
        a.dsync(&["backup"], &b).quiet();
        assert_same(&a, &b);
        b.doveadm(&["purge"]);
        assert_eq!(place(&b), (2, 3), "{to} after the backup");
        assert_settled(&a, &["backup"], &b);

        // Mails of the destination's own go the other way.
        b.save("INBOX", "m6");
        b.doveadm(&["altmove", "mailbox", "INBOX", "uid", "6"]);
        b.doveadm(&["purge"]);
        a.dsync(&["sync"], &b).quiet();
        assert_eq!((place(&a), place(&b)), ((2, 4), (2, 4)), "{from} to {to}");
        assert_settled(&a, &["sync"], &b);
        lab.silent();
    }
}

/// Where the alternative storage will be mounted nothing is written: the mail goes to the primary storage.
#[test]
fn l10_an_alternative_storage_that_is_not_there_is_not_made() {
    if !have_dovecot() {
        return;
    }
    for driver in ["mdbox", "sdbox"] {
        let lab = Lab::new();
        let (a, b) = (alt_side(&lab, "a", driver), alt_side(&lab, "b", driver));
        b.save("INBOX", "m0");
        b.doveadm(&["expunge", "mailbox", "INBOX", "all"]);
        b.doveadm(&["purge"]);
        let _ = std::fs::remove_dir_all(b.dir.join("alt"));
        half_in_alt(&a);
        a.dsync(&["backup"], &b).quiet();
        assert_same(&a, &b);
        assert_eq!(mails_in(&b, "mail"), 4);
        assert!(!b.dir.join("alt").exists());
        assert_settled(&a, &["backup"], &b);
        lab.silent();
    }
}

#[test]
fn l11_two_copies_of_one_mail_stay_one_stored_body() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "mdbox"), lab.side("b", "mdbox"));
    a.doveadm(&["mailbox", "create", "Copy"]);
    a.save("INBOX", &"long ".repeat(2000));
    a.doveadm(&["copy", "Copy", "mailbox", "INBOX", "all"]);
    a.dsync(&["backup"], &b).exits(0);
    let dump = assert_same(&a, &b);
    assert_eq!((dump.boxes["Copy"].mails.len(), dump.boxes["INBOX"].mails.len()), (1, 1));
    let (x, y) = (size_below(&a.mail().join("storage")), size_below(&b.mail().join("storage")));
    assert!(y < x + x / 4, "{x} became {y} bytes");
    lab.silent();
}

#[test]
fn l12_one_way_keeps_both_mails_of_one_uid_and_says_that_it_renumbered() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "sdbox"));
    for n in 1..=2 {
        a.save("INBOX", &format!("m{n}"));
    }
    a.dsync(&["sync"], &b).quiet();
    a.save("INBOX", "left");
    b.save("INBOX", "right");
    let source = a.dump();
    a.dsync(&["sync", "-1"], &b).exits(0);
    assert_eq!(a.dump().common(), source.common());
    assert_eq!(b.subjects("INBOX"), ["left", "m1", "m2", "right"]);
    assert_settled(&a, &["sync", "-1"], &b);
    // A two-way run afterwards makes them the same again, without doubling.
    a.dsync(&["sync"], &b).exits(0);
    assert_eq!(assert_same(&a, &b).subjects("INBOX"), ["left", "m1", "m2", "right"]);
    lab.silent();
}
