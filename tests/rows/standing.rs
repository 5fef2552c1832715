//! Standing limits of dsync, and what people complain about.

use std::process::Stdio;

use crate::lab::{Lab, Side, assert_same, assert_settled, have_dovecot};

#[test]
fn s1_two_runs_at_once_double_nothing() {
    if !have_dovecot() {
        return;
    }
    for (left, right) in [("maildir", "maildir"), ("sdbox", "mdbox")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", left), lab.side("b", right));
        a.dump();
        a.dsync(&["sync"], &b).exits(0);
        let mut expected = Vec::new();
        for round in 0..3 {
            for n in 0..5 {
                a.save("INBOX", &format!("a{round}{n}"));
                b.save("INBOX", &format!("b{round}{n}"));
                expected.extend([format!("a{round}{n}"), format!("b{round}{n}")]);
            }
            let start =
                || a.command(&["sync"], &b).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("our program runs");
            let runs = [start(), start(), start()];
            for run in runs {
                let out = run.wait_with_output().expect("it ends");
                assert!(matches!(out.status.code(), Some(0 | 2)), "{}", String::from_utf8_lossy(&out.stderr));
            }
        }
        let last = a.dsync(&["sync"], &b);
        assert_eq!(last.code, Some(0), "{}", last.err);
        expected.sort();
        assert_eq!(assert_same(&a, &b).subjects("INBOX"), expected, "{left} {right}");
        lab.silent();
    }
}

/// The greatest resident size of a run, in KiB.
fn peak(a: &Side, b: &Side) -> u64 {
    let mut child = a.command(&["backup"], b).spawn().expect("our program runs");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().expect("it can be waited for").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let now = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.trim().split(' ').next()?.parse().ok());
        peak = peak.max(now.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().expect("it ended").success());
    peak
}

#[test]
fn s16_memory_does_not_grow_with_the_size_of_the_mail() {
    if !have_dovecot() {
        return;
    }
    for (from, to) in [("maildir", "mdbox"), ("mdbox", "sdbox")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", from), lab.side("b", to));
        let line = "All work and no play makes a mail a long one, line after line after line.\n";
        let text = format!("{}{}", crate::lab::mail("huge"), line.repeat(1_000_000));
        let out = a.try_doveadm(&["save", "-m", "INBOX"], text.as_bytes());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let peak = peak(&a, &b);
        assert!((1..64 * 1024).contains(&peak), "{peak} KiB");
        assert_same(&a, &b);
    }
}

#[test]
fn s17_a_mail_that_comes_back_in_the_middle() {
    if !have_dovecot() {
        return;
    }
    for to in ["maildir", "sdbox", "mdbox"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "sdbox"), lab.side("b", to));
        for n in 1..=3 {
            a.save("INBOX", &format!("m{n}"));
        }
        let (file, aside) = (a.index("INBOX").join("u.2"), a.dir.join("aside"));
        std::fs::rename(&file, &aside).expect("rename");
        a.dsync(&["backup"], &b).exits(2);
        assert_eq!(b.subjects("INBOX"), ["m1", "m3"]);
        std::fs::rename(&aside, &file).expect("rename");
        a.dsync(&["backup"], &b).exits(0);
        assert_eq!(assert_same(&a, &b).subjects("INBOX"), ["m1", "m2", "m3"], "{to}");
        assert_settled(&a, &["backup"], &b);
        lab.silent();
    }
}

#[test]
fn s18_folders_with_accents_arrive() {
    if !have_dovecot() {
        return;
    }
    for (from, to) in [("mdbox", "maildir"), ("maildir", "mdbox"), ("sdbox", "maildir")] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", from), lab.side("b", to));
        a.dump();
        for (n, name) in ["Gelöschte Einträge", "Отправленные", "下書き/ごみ箱", "Envoyés & lus"].into_iter().enumerate()
        {
            a.doveadm(&["mailbox", "create", name]);
            a.save(name, &format!("m{n}"));
        }
        a.dsync(&["backup"], &b).quiet();
        assert_eq!(assert_same(&a, &b).all_subjects().len(), 4);
        assert_settled(&a, &["backup"], &b);
        lab.silent();
    }
}

#[test]
fn s31_uidvalidity_stays() {
    if !have_dovecot() {
        return;
    }
    for to in ["maildir", "sdbox", "mdbox"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "mdbox"), lab.side("b", to));
        for n in 1..=4 {
            a.save("INBOX", &format!("m{n}"));
        }
        a.dsync(&["sync"], &b).exits(0);
        let before = assert_same(&a, &b).boxes["INBOX"].uidvalidity;
        for (verb, left, right) in [("sync", "l1", "r1"), ("backup", "l2", "r2"), ("sync", "l3", "r3")] {
            a.save("INBOX", left);
            b.save("INBOX", right);
            b.doveadm(&["expunge", "mailbox", "INBOX", "uid", "1"]);
            a.dsync(&[verb], &b).exits(0);
            assert_eq!(assert_same(&a, &b).boxes["INBOX"].uidvalidity, before, "{to} {verb}");
        }
        lab.silent();
    }
}

#[test]
fn s32_flags_that_change_during_the_run_lose_no_mail() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "maildir"));
    let mut imap = a.imap();
    let mut expected = Vec::new();
    for n in 0..60 {
        imap.append("INBOX", "", &format!("m{n}"));
        expected.push(format!("m{n}"));
    }
    expected.sort();
    imap.ok("SELECT INBOX");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flips = scope.spawn(|| {
            let mut n = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                imap.ok(&format!("STORE 1:* {}FLAGS (\\Seen)", if n.is_multiple_of(2) { '+' } else { '-' }));
                n += 1;
            }
            n
        });
        for _ in 0..4 {
            let r = a.dsync(&["backup"], &b);
            assert!(matches!(r.code, Some(0 | 2)), "{r:?}");
            assert_eq!(b.subjects("INBOX"), expected);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(flips.join().expect("no panic") > 0);
    });
    drop(imap);
    a.dsync(&["backup"], &b).exits(0);
    assert_same(&a, &b);
    // Nothing but mail: no copy of the source's temporary files.
    assert_eq!(std::fs::read_dir(b.mail().join("tmp")).expect("a directory").count(), 0);
    lab.silent();
}
