//! What is wrong is said with its place and doveadm's exit code; nothing changes because of it, the rest goes on, and a
//! damaged or missing source never empties its backup.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Lab, Side, UID, assert_equal, assert_same, changed, have_dovecot, mail};

/// Two sides with the same mail: three in INBOX, two in Work.
fn settled(lab: &Lab, first: &'static str, second: &'static str) -> (Side, Side) {
    let (a, b) = (lab.side("a", first), lab.side("b", second));
    a.doveadm(&["mailbox", "create", "Work"]);
    for (n, name) in [(1, "INBOX"), (2, "INBOX"), (3, "INBOX"), (4, "Work"), (5, "Work")] {
        a.save(name, &mail(n));
    }
    lab.dsync(&a, &b, &["sync"]).fine();
    assert_same(&a, &b);
    lab.dsync(&a, &b, &["sync"]).fine();
    (a, b)
}

/// The index directory of INBOX.
fn inbox(side: &Side) -> PathBuf {
    if side.driver == "maildir" { side.dir.clone() } else { side.dir.join("mailboxes/INBOX/dbox-Mails") }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("written");
    chown(path, Some(UID), Some(UID)).expect("chown");
}

/// The mail files of INBOX, sorted.
fn mail_files(side: &Side) -> Vec<PathBuf> {
    let dirs = match side.driver {
        "maildir" => vec![side.dir.join("cur"), side.dir.join("new")],
        "sdbox" => vec![inbox(side)],
        _ => vec![side.dir.join("storage")],
    };
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir).expect("mails"));
    let mut out: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    out.retain(|p| {
        let name = p.file_name().and_then(|n| n.to_str()).expect("text");
        side.driver == "maildir" || name.starts_with("u.") || name.starts_with("m.")
    });
    out.sort();
    out
}

struct Damage {
    what: &'static str,
    drivers: &'static [&'static str],
    /// Does it; says which path the message must name.
    harm: fn(&Side) -> PathBuf,
    /// All mailboxes are concerned.
    everything: bool,
    /// It looks like a place where mail was never kept.
    is_empty: bool,
}

const DAMAGES: &[Damage] = &[
    Damage {
        what: "foreign dovecot.index",
        drivers: &["maildir", "sdbox", "mdbox"],
        harm: |side| {
            let path = inbox(side).join("dovecot.index");
            write(&path, &b"This is no index at all. ".repeat(20));
            path
        },
        everything: false,
        is_empty: false,
    },
    Damage {
        what: "truncated dovecot.index",
        drivers: &["maildir", "sdbox", "mdbox"],
        harm: |side| {
            let path = inbox(side).join("dovecot.index");
            write(&path, &[7, 3, 120, 0, 0, 0, 0, 0, 1, 2, 3]);
            path
        },
        everything: false,
        is_empty: false,
    },
    Damage {
        what: "truncated log",
        drivers: &["maildir", "sdbox", "mdbox"],
        harm: |side| {
            let path = inbox(side).join("dovecot.index.log");
            let bytes = fs::read(&path).expect("the log");
            write(&path, &bytes[..20]);
            path
        },
        everything: false,
        is_empty: false,
    },
    Damage {
        what: "foreign log",
        drivers: &["maildir", "sdbox", "mdbox"],
        harm: |side| {
            let path = inbox(side).join("dovecot.index.log");
            write(&path, &b"#!/bin/sh\necho this is no log\n".repeat(30));
            path
        },
        everything: false,
        is_empty: false,
    },
    Damage {
        what: "garbage inside the log",
        drivers: &["maildir", "sdbox", "mdbox"],
        harm: |side| {
            let path = inbox(side).join("dovecot.index.log");
            let mut bytes = fs::read(&path).expect("the log");
            // The type of the first record behind the header.
            bytes[44..48].copy_from_slice(&[0xff, 0xfe, 0xfd, 0x70]);
            write(&path, &bytes);
            path
        },
        everything: false,
        is_empty: false,
    },
    Damage {
        what: "lost index",
        drivers: &["sdbox", "mdbox"],
        harm: |side| {
            for name in ["dovecot.index", "dovecot.index.log", "dovecot.index.log.2", "dovecot.index.backup"] {
                let _ = fs::remove_file(inbox(side).join(name));
            }
            inbox(side)
        },
        everything: false,
        is_empty: false,
    },
    Damage {
        what: "storage without map",
        drivers: &["mdbox"],
        harm: |side| {
            for entry in fs::read_dir(side.dir.join("storage")).expect("storage") {
                let path = entry.expect("an entry").path();
                if path.to_string_lossy().contains("dovecot.map.index") {
                    fs::remove_file(path).expect("rm");
                }
            }
            side.dir.join("storage/dovecot.map.index")
        },
        everything: true,
        is_empty: false,
    },
    Damage {
        what: "foreign map",
        drivers: &["mdbox"],
        harm: |side| {
            let path = side.dir.join("storage/dovecot.map.index.log");
            write(&path, &b"nothing of ours ".repeat(30));
            path
        },
        everything: true,
        is_empty: false,
    },
    Damage {
        what: "broken uidlist",
        drivers: &["maildir"],
        harm: |side| {
            let path = side.dir.join("dovecot-uidlist");
            write(&path, b"\x00\x01\x02garbage\n1 :x\n");
            path
        },
        everything: false,
        is_empty: false,
    },
    Damage {
        what: "source without its root",
        drivers: &["maildir", "sdbox", "mdbox"],
        harm: |side| {
            fs::rename(&side.dir, side.home.join("elsewhere")).expect("mv");
            side.dir.clone()
        },
        everything: true,
        is_empty: true,
    },
    Damage {
        what: "source that is not mounted",
        drivers: &["maildir", "sdbox", "mdbox"],
        harm: |side| {
            fs::rename(&side.dir, side.home.join("elsewhere")).expect("mv");
            fs::create_dir(&side.dir).expect("mkdir");
            chown(&side.dir, Some(UID), Some(UID)).expect("chown");
            PathBuf::new()
        },
        everything: true,
        is_empty: true,
    },
];

/// Each damage, at the source of a backup and at either side of a sync.
#[test]
fn damage_is_told_and_spreads_nowhere() {
    if !have_dovecot() {
        return;
    }
    let mut wrong = Vec::new();
    for driver in ["maildir", "sdbox", "mdbox"] {
        let lab = Lab::new();
        let (a, b) = settled(&lab, driver, if driver == "maildir" { "mdbox" } else { "maildir" });
        a.save("Work", &mail(6));
        let with_six = a.dump();
        let pristine = lab.path().join("pristine");
        copy(&a.home, &pristine.join("a"));
        copy(&b.home, &pristine.join("b"));
        let before = b.dump();
        for damage in DAMAGES.iter().filter(|d| d.drivers.contains(&driver)) {
            for (run, args) in
                [("backup", &["backup"][..]), ("sync", &["sync"]), ("full", &["sync", "-f"]), ("other way", &["sync"])]
            {
                restore(&pristine.join("a"), &a.home);
                restore(&pristine.join("b"), &b.home);
                let path = (damage.harm)(&a);
                let harmed = a.files();
                let untouched = b.files();
                let ran = if run == "other way" { lab.dsync(&b, &a, args) } else { lab.dsync(&a, &b, args) };
                let case = format!("{driver}: {} ({run})", damage.what);
                // A place that is empty is what a sync may fill; a backup must not take it for the user's mail.
                if damage.is_empty && run != "backup" {
                    if ran.code != 0 || !before.differences(&b.dump()).is_empty() {
                        wrong.push(format!("{case}: {} {}", ran.code, ran.stderr));
                    }
                    continue;
                }
                if ran.code != 75 || !ran.stderr.contains(path.to_str().expect("text")) || ran.stderr.contains("panicked") {
                    wrong.push(format!("{case}: {} without {path:?}: {}", ran.code, ran.stderr));
                }
                let touched = changed(&harmed, &a.files());
                let spread = changed(&untouched, &b.files());
                if damage.everything {
                    if !touched.is_empty() || !spread.is_empty() {
                        wrong.push(format!("{case}: changed {touched:?} {spread:?}"));
                    }
                    continue;
                }
                let in_inbox = touched.iter().any(|p| p.starts_with(inbox(&a)) && !p.starts_with(a.dir.join(".Work")));
                if in_inbox {
                    wrong.push(format!("{case}: changed {touched:?}"));
                }
                let mut now = b.dump();
                if now.boxes.get("Work") != with_six.boxes.get("Work") {
                    wrong.push(format!("{case}: Work did not go on: {}", ran.stderr));
                }
                now.boxes.insert("Work".into(), before.boxes["Work"].clone());
                let spread = before.differences(&now);
                if !spread.is_empty() {
                    wrong.push(format!("{case}: {spread}"));
                }
            }
        }
        lab.silent();
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a parent")).expect("mkdir");
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp").success());
}

/// Makes a directory what its copy is; the directory itself stays.
fn restore(from: &Path, to: &Path) {
    fs::remove_dir_all(to).expect("rm");
    copy(from, to);
}

/// One mail cannot be read: it is named, the others are copied, and it stays wherever it is.
#[test]
fn an_unreadable_mail_is_left_out() {
    if !have_dovecot() {
        return;
    }
    type Harm = fn(&Path);
    let no_permission: Harm = |path| {
        chown(path, Some(0), Some(0)).expect("chown");
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).expect("chmod");
    };
    let directory: Harm = |path| {
        fs::remove_file(path).expect("rm");
        fs::create_dir(path).expect("mkdir");
        chown(path, Some(UID), Some(UID)).expect("chown");
    };
    let cut: Harm = |path| {
        let bytes = fs::read(path).expect("a mail");
        write(path, &bytes[..30]);
    };
    let gone: Harm = |path| fs::remove_file(path).expect("rm");
    let cases: [(&str, &'static str, Harm); 8] = [
        ("mode 000", "maildir", no_permission),
        ("mode 000", "sdbox", no_permission),
        ("mode 000", "mdbox", no_permission),
        ("a directory", "sdbox", directory),
        ("cut off", "sdbox", cut),
        ("cut off", "mdbox", cut),
        ("gone", "sdbox", gone),
        ("gone", "mdbox", gone),
    ];
    let assert_same_but_saved = |a: &Side, b: &Side| {
        let (a, b) = (a.dump().without_saved(), b.dump().without_saved());
        assert_equal(&a, &b);
        a
    };
    for (what, driver, harm) in cases {
        let case = format!("{what} in {driver}");
        let lab = Lab::new();
        let (a, b) = (lab.side("a", driver), lab.side("b", if driver == "sdbox" { "mdbox" } else { "sdbox" }));
        // Each mail in a file of its own.
        let a = a.with("mdbox_rotate_size=1");
        for n in 1..4 {
            a.save("INBOX", &mail(n));
        }
        let good = a.dump();
        // Names of one second need not sort as the mails came.
        let second = |p: &PathBuf| fs::read(p).expect("a mail").windows(5).any(|w| w == b"<2@ex");
        let path = mail_files(&a).into_iter().find(second).expect("the second mail");
        harm(&path);
        let harmed = a.files();
        for args in [&["backup"][..], &["sync"], &["sync", "-f"]] {
            let ran = lab.dsync(&a, &b, args);
            ran.says(2, &["INBOX", "UID 2", path.to_str().expect("text")]);
            let there: Vec<u32> = b.dump().boxes["INBOX"].mails.iter().map(|m| m.uid).collect();
            assert_eq!(there, [1, 3], "{case} {args:?}");
        }
        assert!(path.symlink_metadata().is_ok() || what == "gone");
        let touched: Vec<_> = changed(&harmed, &a.files()).into_iter().filter(|p| mail_files(&a).contains(p)).collect();
        assert!(touched.is_empty(), "{case}: {touched:?}");
        // It can be read again: the next run completes.
        if what == "mode 000" {
            chown(&path, Some(UID), Some(UID)).expect("chown");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
            lab.dsync(&a, &b, &["sync"]).fine();
            // It comes after the others there, so it gets a new UID.
            let (now, mut texts) = (assert_same_but_saved(&a, &b), good.texts());
            texts.swap(1, 2);
            assert_eq!(now.texts(), texts, "{case}");
            lab.silent();
        }
    }
}

/// A mail that a backup holds already stays there when the source cannot read it any more.
#[test]
fn a_backup_keeps_what_the_source_cannot_read() {
    if !have_dovecot() {
        return;
    }
    for driver in ["maildir", "sdbox", "mdbox"] {
        let lab = Lab::new();
        let (a, b) = settled(&lab, driver, "sdbox");
        let before = b.dump();
        for path in mail_files(&a) {
            chown(&path, Some(0), Some(0)).expect("chown");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("chmod");
        }
        for args in [&["backup"][..], &["backup", "-f"], &["sync", "-f"], &["sync", "-1"]] {
            let ran = lab.dsync(&a, &b, args);
            assert!([0, 2, 75].contains(&ran.code), "{ran:?}");
            assert_equal(&before, &b.dump());
        }
        lab.silent();
    }
}

/// A name says a wrong size: Dovecot would trust it, we count.
#[test]
fn a_wrong_size_in_a_maildir_name() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "mdbox"));
    a.doveadm(&["mailbox", "create", "Work"]);
    for n in [10_u32, 77_777] {
        let path = a.dir.join(format!("new/170000{n:05}.M1P1.host,S={n},W={n}"));
        write(&path, mail(n).as_bytes());
    }
    let ran = lab.dsync(&a, &b, &["sync"]);
    ran.says(0, &[",S=77777", "wrong"]);
    let texts: Vec<String> = b.dump().boxes["INBOX"].mails.iter().map(|m| m.text.replace('\r', "")).collect();
    assert_eq!(texts, [mail(10), mail(77_777)]);
    lab.silent();
}

/// The destination may not be written.
#[test]
fn no_permission_at_a_side() {
    if !have_dovecot() {
        return;
    }
    for driver in ["maildir", "sdbox", "mdbox"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "sdbox"), lab.side("b", driver));
        a.save("INBOX", &mail(1));
        // A destination that cannot be made, and one that is another user's.
        chown(&b.home, Some(0), Some(0)).expect("chown");
        fs::set_permissions(&b.home, fs::Permissions::from_mode(0o755)).expect("chmod");
        let before = (a.files(), b.files());
        let dir = b.dir.to_str().expect("text");
        lab.dsync(&a, &b, &["sync"]).says(77, &[dir, "Permission denied"]);
        assert!(changed(&before.1, &b.files()).is_empty());
        assert!(changed(&before.0, &a.files()).is_empty());
        // A source that cannot be read.
        chown(&b.home, Some(UID), Some(UID)).expect("chown");
        lab.dsync(&a, &b, &["sync"]).fine();
        let before = b.dump();
        chown(&a.dir, Some(0), Some(0)).expect("chown");
        fs::set_permissions(&a.dir, fs::Permissions::from_mode(0o700)).expect("chmod");
        lab.dsync(&a, &b, &["backup"]).says(77, &[a.dir.to_str().expect("text"), "Permission denied"]);
        assert_equal(&before, &b.dump());
        lab.silent();
    }
}

/// A small file system, unmounted in the end.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size},uid={UID},gid={UID},mode=700");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "dsync-test"]).arg(path);
        command.output().ok().filter(|o| o.status.success()).map(|_| Self(path.to_owned()))
    }

    fn grow(&self, size: &str) {
        let mut command = Command::new("mount");
        assert!(command.args(["-o", &format!("remount,size={size}")]).arg(&self.0).status().expect("mount").success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The disk is full: 73, nothing half is visible, and the next run completes.
#[test]
fn a_full_disk() {
    if !have_dovecot() {
        return;
    }
    for driver in ["maildir", "sdbox", "mdbox"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "maildir"), lab.side("b", driver));
        for n in 1..5 {
            a.save("INBOX", &format!("{}{}", mail(n), "0123456789abcdef\n".repeat(3000)));
        }
        let small = Small::mount(&b.home, "120k");
        let ran = if small.is_some() {
            lab.dsync(&a, &b, &["sync"])
        } else {
            eprintln!("no tmpfs here: the disk is said to be full instead");
            let mut command = a.ours(&["sync", &b.location]);
            crate::lab::Ran::of(&command.env("DSYNC_FAULT", "20:ENOSPC").output().expect("we run"))
        };
        ran.says(73, &[b.dir.to_str().expect("text"), "No space left on device"]);
        if b.dir.exists() {
            let seen = b.try_doveadm(&["-f", "json", "fetch", "text", "all"], b"");
            assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
        }
        if let Some(small) = &small {
            small.grow("10m");
        }
        lab.dsync(&a, &b, &["sync"]).fine();
        assert_eq!(assert_same(&a, &b).texts().len(), 4);
        lab.silent();
    }
}

/// Words that make no sense.
#[test]
fn wrong_words() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = settled(&lab, "maildir", "mdbox");
    a.save("INBOX", &mail(7));
    let user = "dsync(u1): Error: ";
    let (link, again) = (a.home.join("link"), a.home.join("../a/mail"));
    std::os::unix::fs::symlink(&a.dir, &link).expect("symlink");
    let [link, again] = [link, again].map(|path| format!("maildir:{}", path.display()));
    let cases: &[(&[&str], i32, &str)] = &[
        (&["sync", &a.location], 75, "Both source and destination mail_location points to same directory"),
        (&["sync", &link], 75, "Both source and destination mail_location points to same directory"),
        (&["backup", &again], 75, "Both source and destination mail_location points to same directory"),
        (&["sync", "-m", "NoSuchBox", &b.location], 0, ""),
        (&["sync", "-g", "123", &b.location], 75, "Invalid -g parameter: 123"),
        (&["sync", "-g", "00000000000000000000000000000000", &b.location], 75, "Invalid -g parameter"),
        (&["sync", "-g", "0123456789abcdef0123456789abcdef", &b.location], 0, ""),
        (&["sync", "foo:/tmp/bar"], 75, "Unknown mail storage driver foo"),
        (&["sync", "-t", "yesterday-ish", &b.location], 75, "Invalid -t parameter: yesterday-ish"),
        (&["sync", "-t", "2024-01-02", "-e", "2024-01-01", &b.location], 75, "start date is later than end date"),
        (&["sync", "-O", "\\Foo", &b.location], 75, "Invalid system flag given for -O parameter: '\\Foo'"),
        (&["sync", "-I", "xx", &b.location], 75, "Invalid -I parameter 'xx'"),
        (&["sync", "-l", "soon", &b.location], 64, "Invalid -l parameter: soon"),
        (&["sync", "-u", "", &b.location], 67, "User doesn't exist"),
        (&["sync"], 64, ""),
    ];
    for (args, code, text) in cases {
        let before = (a.files(), b.files());
        let ran = lab.dsync_to(&a, args);
        assert_eq!(ran.code, *code, "{args:?} {}", ran.stderr);
        assert!(ran.stderr.contains(text), "{args:?} {}", ran.stderr);
        assert!(*code != 0 || ran.stderr.is_empty(), "{args:?} {}", ran.stderr);
        let touched = [changed(&before.0, &a.files()), changed(&before.1, &b.files())].concat();
        assert!(touched.is_empty(), "{args:?} changed {touched:?}");
    }
    // A state that cannot be read is no state: everything is compared, and the new one is printed.
    let ran = lab.dsync(&a, &b, &["sync", "-s", "garbage!!"]);
    ran.says(0, &[user, "Saved sync state is invalid, falling back to full sync: Invalid base64 data"]);
    assert!(!ran.stdout.trim().is_empty());
    assert_same(&a, &b);

    // No namespace of that name; and no namespace that could take everything.
    let only = "namespace inbox {\n  inbox = yes\n  prefix = Mail/\n  separator = /\n}\n";
    let lab = Lab::configured(only);
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "mdbox"));
    a.save("INBOX", &mail(1));
    let ran = lab.dsync(&a, &b, &["sync", "-n", "Other/"]);
    assert!([64, 68].contains(&ran.code), "{ran:?}");
    assert!(ran.stderr.contains("Namespace not found: 'Other/'"), "{ran:?}");
    assert!(!b.dir.exists());
}

/// The directories of a mailbox are there, its index is not: a run was killed between the two. Then a Dovecot looked at it, and
/// left an index that is no mailbox yet.
#[test]
fn a_creation_that_was_stopped_is_completed() {
    if !have_dovecot() {
        return;
    }
    for driver in ["sdbox", "mdbox"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", driver), lab.side("b", "maildir"));
        a.save("INBOX", &mail(1));
        assert_eq!(lab.dsync(&a, &b, &["sync"]).code, 0);
        b.doveadm(&["mailbox", "create", "Work"]);
        b.save("Work", &mail(2));
        lab.make_dir("a/mail/mailboxes/Work");
        let dir = lab.make_dir("a/mail/mailboxes/Work/dbox-Mails");
        a.imap().ok("LIST \"\" *");
        assert!(dir.join("dovecot.index.log").exists(), "{driver}");
        lab.dsync(&a, &b, &["sync"]).fine();
        assert_same(&a, &b);
    }
}
