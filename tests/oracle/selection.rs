//! Parts of the mail: mailboxes, namespaces, filters, states. What is not selected stays as it is, and a later whole run completes.

use std::collections::BTreeSet;

use crate::lab::{Dump, Lab, Side, assert_idle, assert_same, changed, have_dovecot, mail};

const STORAGES: [(&str, &str); 3] = [("maildir", "mdbox"), ("mdbox", "sdbox"), ("sdbox", "maildir")];

const SPECIAL: &str = "namespace inbox {\n  inbox = yes\n  separator = /\n  mailbox Trash {\n    special_use = \\Trash\n  }\n  \
                       mailbox Spam {\n    special_use = \\Junk\n  }\n}\n";

fn names(dump: &Dump) -> Vec<&str> {
    dump.boxes.keys().map(String::as_str).collect()
}

fn subjects(dump: &Dump) -> BTreeSet<String> {
    let subject = |t: &&str| t.split_once("Subject: ").and_then(|t| t.1.split_once('\n')).map(|t| t.0.trim().to_owned());
    dump.texts().iter().filter_map(subject).collect()
}

/// Mailboxes with a mail each.
fn many(lab: &Lab, driver: &'static str) -> Side {
    let side = lab.side("a", driver);
    let mut imap = side.imap();
    for (n, name) in ["INBOX", "Work", "Work/Sub", "Trash", "Spam", "Skip-1", "Skip-2"].into_iter().enumerate() {
        if name != "INBOX" {
            imap.ok(&format!("CREATE {name}"));
        }
        imap.append(name, "(\\Seen)", &mail(n as u32 + 1));
    }
    drop(imap);
    side
}

#[test]
fn which_mailboxes() {
    if !have_dovecot() {
        return;
    }
    for (first, second) in STORAGES {
        let guid = |a: &Side| a.dump().boxes["Work/Sub"].guid.clone();
        let whole = ["INBOX", "Skip-1", "Skip-2", "Spam", "Trash", "Work", "Work/Sub"];
        type Args<'a> = &'a [&'a str];
        let cases: [(Args, &[&str]); 8] = [
            (&["-m", "Work"], &["Work"]),
            (&["-m", "Work*"], &["Work", "Work/Sub"]),
            (&["-m", "\\Trash"], &["Trash"]),
            (&["-x", "Skip-*", "-x", "\\Junk"], &["INBOX", "Trash", "Work", "Work/Sub"]),
            (&["-x", "Work/*"], &["INBOX", "Skip-1", "Skip-2", "Spam", "Trash", "Work"]),
            (&["-g", "GUID"], &["Work/Sub"]),
            (&["-m", ""], &[]),
            (&["-n", ""], &whole),
        ];
        let lab = Lab::configured(SPECIAL);
        let a = many(&lab, first);
        let guid = guid(&a);
        let before = a.dump();
        for (n, (args, with_mail)) in cases.iter().enumerate() {
            let b = lab.side(&format!("b{n}"), second);
            let args: Vec<&str> = args.iter().map(|w| if *w == "GUID" { guid.as_str() } else { w }).collect();
            for command in ["sync", "backup"] {
                lab.dsync(&a, &b, &[&[command], &args[..]].concat()).fine();
            }
            let there = b.dump();
            let filled: Vec<&str> = there.boxes.iter().filter(|(_, b)| !b.mails.is_empty()).map(|(n, _)| n.as_str()).collect();
            assert_eq!(&filled[..], *with_mail, "{args:?}");
            for name in filled {
                assert_eq!(there.boxes[name].mails.len(), before.boxes[name].mails.len());
            }
            // What was left out before is not taken for deleted afterwards.
            lab.dsync(&a, &b, &["sync"]).fine();
            assert_eq!(names(&assert_same(&a, &b)), whole);
            // Nor is it deleted by a backup of a part.
            b.save("INBOX", &mail(50));
            lab.dsync(&a, &b, &["backup", "-m", "Work"]).fine();
            assert_eq!(b.dump().boxes["INBOX"].mails.len(), 2);
        }
        assert_eq!(a.dump(), before);
        lab.silent();
    }
}

#[test]
fn which_mails() {
    if !have_dovecot() {
        return;
    }
    let all: BTreeSet<String> = (1..=6).map(|n| format!("mail {n}")).collect();
    let cases: [(&[&str], &[u32]); 7] = [
        (&["-t", "2020-06-01"], &[4, 5, 6]),
        (&["-e", "2020-06-01"], &[1, 2, 3]),
        (&["-t", "2018-06-01", "-e", "2021-06-01"], &[2, 3, 4]),
        (&["-t", "01-Jun-2020", "-I", "5k"], &[5, 6]),
        (&["-O", "\\Flagged"], &[2, 5]),
        (&["-O", "-\\Flagged"], &[1, 3, 4, 6]),
        (&["-O", "todo", "-I", "100k"], &[3]),
    ];
    for (pair, (first, second)) in STORAGES.into_iter().enumerate() {
        let lab = Lab::new();
        let a = lab.side("a", first);
        {
            let mut imap = a.imap();
            for n in 1..=6_u32 {
                let flags =
                    [(2, "(\\Flagged)"), (5, "(\\Flagged)"), (3, "(todo)")].iter().find(|f| f.0 == n).map_or("()", |f| f.1);
                let text = if n == 4 { format!("{}{}", mail(n), "big ".repeat(4000)) } else { mail(n) };
                imap.append("INBOX", &format!("{flags} \"01-Jan-{} 10:00:00 +0000\"", 2017 + n), &text);
            }
        }
        let before = a.dump();
        for (n, (args, wanted)) in cases.iter().enumerate() {
            // Each mode meets each filter, at one of the pairs.
            for (m, mode) in [&["sync"][..], &["sync", "-1"], &["backup"]].into_iter().enumerate() {
                if (n + m) % STORAGES.len() != pair {
                    continue;
                }
                let case = format!("{first} {second} {mode:?} {args:?}");
                let b = lab.side(&format!("b{n}{m}"), second);
                let args = [mode, args].concat();
                lab.dsync(&a, &b, &args).fine();
                let wanted: BTreeSet<String> = wanted.iter().map(|n| format!("mail {n}")).collect();
                assert_eq!(subjects(&b.dump()), wanted, "{case}");
                lab.dsync(&a, &b, &args).fine();
                assert_eq!(subjects(&b.dump()), wanted, "{case}");
                assert_eq!(subjects(&a.dump()), all, "{case}");
                // Without the filter everything comes, and nothing goes.
                lab.dsync(&a, &b, &["sync"]).fine();
                let now = assert_same_texts(&a, &b, &case);
                assert_eq!(subjects(&now), all, "{case}");
                lab.dsync(&a, &b, &["sync"]).fine();
                assert_eq!(subjects(&assert_same_texts(&a, &b, &case)), all, "{case}");
            }
        }
        assert_eq!(subjects(&before), all);
        lab.silent();
    }
}

fn assert_same_texts(a: &Side, b: &Side, case: &str) -> Dump {
    let (a, b) = (a.dump().without_saved(), b.dump().without_saved());
    let differences = a.differences(&b);
    assert!(differences.is_empty(), "{case}: {differences}");
    a
}

/// A state goes round: from us to us, from doveadm to us, from us to doveadm.
#[test]
fn states() {
    if !have_dovecot() {
        return;
    }
    for (first, second) in STORAGES {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", first), lab.side("b", second));
        for n in 1..4 {
            a.save("INBOX", &mail(n));
        }
        let doveadm = |state: &str| a.doveadm(&["sync", "-s", state, &b.location]).trim().to_owned();
        let ours = |state: &str| {
            let ran = lab.dsync(&a, &b, &["sync", "-s", state]);
            ran.fine();
            ran.stdout.trim().to_owned()
        };
        // doveadm gives copies a saved date of its own.
        let same = || assert_same_texts(&a, &b, first);
        let mut state = ours("");
        same();
        for (n, next) in [(10, &ours as &dyn Fn(&str) -> String), (11, &doveadm), (12, &ours), (13, &ours), (14, &doveadm)] {
            a.save("INBOX", &mail(n));
            a.doveadm(&["flags", "add", "\\Seen", "mailbox", "INBOX", "uid", "1"]);
            state = next(&state);
            assert!(!state.is_empty());
            same();
        }
        // Nothing happened: the state says so, and nothing is written.
        let quiet = (a.files(), b.files());
        let state = ours(&state);
        let touched = [changed(&quiet.0, &a.files()), changed(&quiet.1, &b.files())].concat();
        assert!(touched.is_empty(), "{touched:?}");
        // What the other side did since is seen too.
        b.doveadm(&["expunge", "mailbox", "INBOX", "uid", "2"]);
        b.save("INBOX", &mail(20));
        let state = ours(&state);
        assert_eq!(same().texts().len(), 8);
        // A state of another time is no reason to do less.
        a.save("INBOX", &mail(21));
        ours("");
        b.save("INBOX", &mail(22));
        ours(&state);
        assert_eq!(same().texts().len(), 10);
        assert_idle(&lab, &a, &b, &["sync"]);
        lab.silent();
    }
}

/// -P frees the destination's space; -l leaves no lock behind; a mail that cannot be read gives 2, a whole run 0.
#[test]
fn purge_and_codes() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "sdbox"), lab.side("b", "mdbox"));
    for n in 1..4 {
        a.save("INBOX", &format!("{}{}", mail(n), "0123456789abcdef\n".repeat(5000)));
    }
    lab.dsync(&a, &b, &["sync", "-l", "5"]).fine();
    let size =
        || b.files().iter().filter(|(p, _)| p.to_string_lossy().contains("storage/m.")).map(|(_, b)| b.len()).sum::<usize>();
    let full = size();
    a.doveadm(&["expunge", "mailbox", "INBOX", "uid", "1:2"]);
    lab.dsync(&a, &b, &["sync"]).fine();
    assert_eq!(size(), full, "nothing is freed without -P");
    lab.dsync(&a, &b, &["sync", "-P", "-l", "5"]).fine();
    assert!(size() < full / 2, "{} of {full}", size());
    assert!(!a.home.join(".dovecot-sync.lock").exists());
    assert_eq!(assert_same(&a, &b).texts().len(), 1);
    a.save("INBOX", &mail(9));
    std::fs::write(a.dir.join("mailboxes/INBOX/dbox-Mails/u.4"), "no mail").expect("written");
    lab.dsync(&a, &b, &["sync"]).says(2, &["UID 4", "u.4"]);
    assert_eq!(b.dump().texts().len(), 1);
    lab.silent();
}

/// `LAYOUT=index` names directories by GUIDs: one of two INBOXes gets another, and what a filter holds back stays known.
#[test]
fn a_filter_and_layout_index() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let by_guid = |name: &str, driver: &'static str| {
        let mut side = lab.side(name, driver);
        side.location.push_str(":LAYOUT=index");
        side
    };
    let (a, b) = (by_guid("a", "sdbox"), by_guid("b", "mdbox"));
    let mut imap = a.imap();
    for n in 1..=5_u32 {
        imap.append("INBOX", &format!("() \"01-Jan-{} 10:00:00 +0000\"", 2017 + n), &mail(n));
    }
    drop(imap);
    b.save("INBOX", &mail(6));
    lab.dsync(&a, &b, &["sync", "-t", "2020-06-01"]).fine();
    let count = |side: &Side| side.doveadm(&["mailbox", "status", "messages", "INBOX"]).trim().to_owned();
    assert_eq!([count(&a), count(&b)], ["INBOX messages=6", "INBOX messages=3"]);
    lab.dsync(&a, &b, &["sync"]).fine();
    assert_eq!([count(&a), count(&b)], ["INBOX messages=6", "INBOX messages=6"]);
    lab.silent();
}

/// A name that is a file of the destination's: only this mailbox stays out.
#[test]
fn a_mailbox_in_the_place_of_a_file() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, mut b) = (lab.side("a", "mdbox"), lab.side("b", "maildir"));
    b.location.push_str(":LAYOUT=fs");
    let mut imap = a.imap();
    for name in ["Alpha", "dovecot-uidlist", "Zeta"] {
        imap.ok(&format!("CREATE {name}"));
        imap.append(name, "", &mail(1));
    }
    imap.ok("APPEND INBOX {1+}\r\nx");
    drop(imap);
    for command in ["sync", "backup"] {
        lab.dsync(&a, &b, &[command]).says(65, &["Can't create mailbox dovecot-uidlist: ", "it is left out, the others go on"]);
        let there: Vec<_> = b.dump().boxes.into_iter().map(|(name, b)| (name, b.mails.len())).collect();
        assert_eq!(there, [("Alpha".to_owned(), 1), ("INBOX".into(), 1), ("Zeta".into(), 1)]);
        assert!(a.dump().boxes.contains_key("dovecot-uidlist"));
    }
    lab.silent();
}
