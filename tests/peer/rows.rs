//! One test per row of what people who use `doveadm sync` between machines suffer from; each fails where we behave as the row
//! describes. In other places:
//! - F8: `rows/fixed.rs` for two places on one machine, here for the other one.
//! - F15: `options::the_users_name_goes_ahead` (a server told `-U`, `-E` and `-d`), `options::nothing_has_to_be_set` (we do not ask for `-U`).
//! - S2: `options::the_users_lock_is_taken_on_one_machine`, with equal names, too.
//! - S26: `tcp::a_self_signed_certificate_that_is_named_is_trusted`. S27: `options::a_read_only_server`.
//! - S25 (many users at once over one connection) is not built.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::lab::Ran;
use crate::matrix::{Pair, Who};
use crate::oracle::{Lab, Side, assert_equal, have_dovecot, mail};

const ENDS: [(Who, Who); 3] = [(Who::Ours, Who::Doveadm), (Who::Doveadm, Who::Ours), (Who::Ours, Who::Ours)];

/// A run with bounds for whoever is at either end: a Dovecot that goes round and round must not take the machine with it.
fn bounded(pair: &Pair, who: Who, options: &[&str], server: &[String]) -> Ran {
    let words: Vec<&str> = options.iter().copied().chain(server.iter().map(String::as_str)).collect();
    let run = pair.client.ours(&words);
    let program = if who == Who::Ours { env!("CARGO_BIN_EXE_dsync") } else { "doveadm" };
    let mut command = Command::new("prlimit");
    command.args(["--as=1500000000", "--cpu=20", program]).args(run.get_args()).current_dir("/");
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Ran::of(&command.env_remove("LOG_STDERR_TIMESTAMP").output().expect("prlimit runs"))
}

#[test]
fn f4_separators_that_differ_while_names_are_removed() {
    if !have_dovecot() {
        return;
    }
    for (who, there) in ENDS {
        for removed_by_server in [false, true] {
            let lab = Lab::new();
            let client = lab.side("client", "mdbox");
            let server = lab.side("server", "mdbox").with("namespace/inbox/separator=.");
            client.doveadm(&["mailbox", "create", "-s", "Lists", "Lists/rust", "Lists/rust/old", "Gone"]);
            client.save("Lists/rust", &mail(1));
            let pair = Pair::of(lab, client, server);
            let words = pair.server_words(there);
            let first = bounded(&pair, who, &["sync"], &words);
            assert_eq!(first.code, 0, "{who:?} {there:?} {first:?}");
            let (by, separator) = if removed_by_server { (&pair.server, '.') } else { (&pair.client, '/') };
            let name = |levels: &str| levels.replace('/', &separator.to_string());
            by.doveadm(&["mailbox", "delete", "-s", &name("Lists/rust/old")]);
            by.doveadm(&["mailbox", "delete", "-s", "Gone"]);
            by.doveadm(&["mailbox", "unsubscribe", "Lists"]);
            let began = Instant::now();
            let ran = bounded(&pair, who, &["sync"], &words);
            assert_eq!(ran.code, 0, "{who:?} {there:?} {removed_by_server}: {ran:?}");
            assert!(began.elapsed() < Duration::from_secs(15), "{who:?} {there:?}");
            let names = |side: &Side| -> Vec<String> {
                let all = side.dump().boxes.into_keys().map(|n| n.replace('.', "/"));
                all.filter(|n| n != "INBOX").collect()
            };
            assert_eq!(names(&pair.client), ["Lists", "Lists/rust"], "{who:?} {there:?} {removed_by_server}");
            assert_eq!(names(&pair.client), names(&pair.server));
            pair.lab.silent();
        }
    }
}

#[test]
fn f8_mails_are_committed_in_batches_on_the_receiving_side() {
    if !have_dovecot() {
        return;
    }
    for pushed in [true, false] {
        let lab = Lab::new();
        let (client, server) = if pushed { ("maildir", "mdbox") } else { ("mdbox", "maildir") };
        let (client, server) = (lab.side("client", client), lab.side("server", server));
        let pair = Pair::of(lab, client, server);
        let source = if pushed { &pair.client } else { &pair.server };
        let mut imap = source.imap();
        for n in 1..=120 {
            imap.append("INBOX", "", &mail(n));
        }
        drop(imap);
        let log = pair.lab.make_dir("steps").join("log");
        let counted = format!("DSYNC_FAULT_LOG={}", log.display());
        let careful = ["-o", "mail_fsync=optimized"];
        let mut words = pair.server_words(Who::Ours);
        let at = words.iter().position(|w| w.ends_with("dsync")).unwrap();
        words.splice(at + 1..at + 1, careful.map(String::from));
        if pushed {
            words.insert(at, counted.clone());
        }
        let verb: &[&str] = if pushed { &["backup"] } else { &["backup", "-R"] };
        let all: Vec<&str> = [&careful[..], verb].concat().into_iter().chain(words.iter().map(String::as_str)).collect();
        let environment = [("DSYNC_FAULT_LOG", log.to_str().unwrap())];
        pair.run_with(Who::Ours, &all, if pushed { &[] } else { &environment }).fine();
        let steps = std::fs::read_to_string(&log).expect("a debug build counts its steps");
        let flushes = steps.lines().filter(|l| l.split(' ').nth(1).is_some_and(|op| op.starts_with("fsync"))).count();
        assert!((1..20).contains(&flushes), "{flushes} flushes for 120 mails, pushed: {pushed}");
        assert_equal(&pair.client.dump().without_saved(), &pair.server.dump().without_saved());
    }
}

/// `-v` tells the namespaces. Which ones go by default depends on the style of the settings: in 2.3's those without a location
/// of their own, in 2.4's (which has no `mail_location`) the one with the INBOX.
#[test]
fn f11_the_namespaces_that_go_by_default() {
    if !have_dovecot() {
        return;
    }
    for (style, chosen) in [(&[][..], "'Old/'"), (&["-o", "mail_driver=mdbox", "-o", "mail_path=~/mail"], "''")] {
        let lab = Lab::with("namespace old {\n  prefix = Old/\n  separator = /\n}\n");
        let side = |name| lab.side(name, "mdbox").with("namespace/inbox/location=mdbox:~/inbox");
        let (client, server) = (side("client"), side("server"));
        client.save("INBOX", &mail(1));
        client.doveadm(&["mailbox", "create", "Old/Letters"]);
        client.save("Old/Letters", &mail(2));
        let pair = Pair::of(lab, client, server);
        let mut words = pair.server_words(Who::Ours);
        let at = words.iter().position(|w| w.ends_with("dsync")).unwrap();
        words.splice(at + 1..at + 1, std::iter::once("-v").chain(style.iter().copied()).map(String::from));
        let words: Vec<&str> = [style, &["-v", "sync"]].concat().into_iter().chain(words.iter().map(String::as_str)).collect();
        let ran = pair.run(Who::Ours, &words);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.stderr.matches(&format!("Info: Namespaces: {chosen}\n")).count(), 2, "{ran:?}");
        for (mailbox, wanted) in [("Old/Letters", style.is_empty()), ("INBOX", !style.is_empty())] {
            let there = pair.server.try_doveadm(&["search", "mailbox", mailbox, "all"], b"");
            let found = String::from_utf8_lossy(&there.stdout).lines().count();
            assert_eq!(found, usize::from(wanted), "{chosen}: {mailbox}");
        }
    }
}

/// A 2.3 sends `-t` in the place of `-e`, so what it asks for cannot be known; we send what was meant.
#[test]
fn f12_until_is_until() {
    if !have_dovecot() {
        return;
    }
    for there in [Who::Doveadm, Who::Ours] {
        let who = Who::Ours;
        let pair = Pair::new(["mdbox", "sdbox"]);
        let mut imap = pair.client.imap();
        for (n, year) in [(60, 2001), (61, 2011), (62, 2021)] {
            imap.append("Work", &format!("\"10-Jan-{year} 12:00:00 +0000\""), &mail(n));
        }
        drop(imap);
        let server = pair.server_words(there);
        let words: Vec<&str> =
            ["sync", "-t", "2005-01-01", "-e", "2015-01-01"].into_iter().chain(server.iter().map(String::as_str)).collect();
        let ran = pair.run(who, &words);
        assert!([0, 2].contains(&ran.code), "{who:?} {there:?} {ran:?}");
        let came: Vec<u32> = pair.server.dump().boxes["Work"].mails.iter().map(|m| m.received).collect();
        let wanted = |received: &&u32| **received < 1_500_000_000;
        let came: Vec<&u32> = came.iter().filter(wanted).collect();
        assert_eq!(came, [&1_294_660_800], "{who:?} {there:?}");
    }
}

fn with_attributes(drivers: [&'static str; 2]) -> Pair {
    let lab = Lab::with("mail_attribute_dict = file:%h/attributes\n");
    let (client, server) = (lab.side("client", drivers[0]), lab.side("server", drivers[1]));
    client.doveadm(&["mailbox", "create", "-s", "Work"]);
    client.save("Work", &mail(1));
    let pair = Pair::of(lab, client, server);
    let server = pair.server_words(Who::Ours);
    let words: Vec<&str> = ["backup"].into_iter().chain(server.iter().map(String::as_str)).collect();
    pair.run(Who::Ours, &words).fine();
    pair
}

fn set(side: &Side, key: &str, value: &str) {
    side.doveadm(&["mailbox", "metadata", "set", "Work", key, value]);
}

fn get(side: &Side, key: &str) -> String {
    let out = side.try_doveadm(&["mailbox", "metadata", "get", "Work", key], b"");
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

#[test]
fn f16_a_backup_takes_away_what_only_the_destination_has_noted() {
    if !have_dovecot() {
        return;
    }
    for pulled in [false, true] {
        let pair = with_attributes(["mdbox", "sdbox"]);
        let (from, to) = if pulled { (&pair.server, &pair.client) } else { (&pair.client, &pair.server) };
        set(from, "/private/comment", "the source's");
        set(to, "/private/comment", "changed at the destination, later");
        set(to, "/shared/comment", "only there");
        let server = pair.server_words(Who::Ours);
        let verb: &[&str] = if pulled { &["backup", "-R"] } else { &["backup"] };
        let words: Vec<&str> = verb.iter().copied().chain(server.iter().map(String::as_str)).collect();
        pair.run(Who::Ours, &words).fine();
        for side in [&pair.client, &pair.server] {
            assert_eq!((get(side, "/private/comment"), get(side, "/shared/comment")), ("the source's".into(), String::new()));
        }
        pair.lab.silent();
    }
}

/// Two scripts of one second with a long common beginning.
#[test]
fn f17_a_large_value_is_stored_whole() {
    if !have_dovecot() {
        return;
    }
    for (who, there) in ENDS {
        for client_first in [true, false] {
            let pair = with_attributes(["mdbox", "sdbox"]);
            let common = "keep; # a long beginning\n".repeat(2000);
            let values = [format!("{common}one end"), format!("{common}the other end\n{common}")];
            let (a, b) = if client_first { (0, 1) } else { (1, 0) };
            set(&pair.client, "/private/comment", &values[a]);
            set(&pair.server, "/private/comment", &values[b]);
            let server = pair.server_words(there);
            let words: Vec<&str> = ["sync", "-f"].into_iter().chain(server.iter().map(String::as_str)).collect();
            let ran = pair.run(who, &words);
            assert!([0, 2].contains(&ran.code), "{who:?} {there:?} {ran:?}");
            let ours = if who == Who::Ours { &pair.client } else { &pair.server };
            assert!(values.iter().any(|v| *v.trim_end() == get(ours, "/private/comment")), "{who:?} {there:?}");
            if (who, there) == (Who::Ours, Who::Ours) {
                assert_eq!(get(&pair.client, "/private/comment"), get(&pair.server, "/private/comment"));
            }
        }
    }
}

/// A folder that an old program has made with octets that are no UTF-8.
#[test]
fn f18_a_name_that_is_no_utf8_breaks_nothing() {
    use std::os::unix::ffi::OsStrExt;
    if !have_dovecot() {
        return;
    }
    for (who, there) in ENDS {
        let pair = Pair::new(["maildir", "mdbox"]);
        let odd = pair.client.dir.join(std::ffi::OsStr::from_bytes(b".caf\xe9"));
        for part in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(odd.join(part)).unwrap();
        }
        std::fs::write(odd.join("cur/1.odd:2,S"), mail(70)).unwrap();
        let owned = Command::new("chown").arg("-R").arg("1000:1000").arg(&odd).status().unwrap();
        assert!(owned.success());
        pair.server.save("Work", &mail(71));
        let server = pair.server_words(there);
        let words: Vec<&str> = ["sync"].into_iter().chain(server.iter().map(String::as_str)).collect();
        let ran = pair.run(who, &words);
        assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("died"), "{who:?} {there:?} {ran:?}");
        assert!(odd.join("cur/1.odd:2,S").exists(), "{who:?} {there:?}");
        // Everything else has arrived.
        let there_now = pair.client.doveadm(&["search", "mailbox", "Work", "all"]);
        assert_eq!(there_now.lines().count(), 2, "{who:?} {there:?} {ran:?}");
    }
}

/// Whatever a user's or host's name is made of, no shell and no option of ssh gets to see it.
#[test]
fn s21_words_stay_words() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let dir = pair.lab.path();
    let here = pair.lab.make_dir("here");
    let d = dir.display();
    let ssh = format!("#!/bin/sh\nfor word; do echo \"[$word]\" >>{d}/ssh.log; done\nexit 3\n");
    std::fs::write(here.join("ssh"), ssh).unwrap();
    std::fs::set_permissions(here.join("ssh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::File::create(dir.join("ssh.log")).unwrap();
    std::os::unix::fs::chown(dir.join("ssh.log"), Some(1000), Some(1000)).unwrap();
    let path = format!("{}:/usr/bin:/bin", here.display());
    let touched = dir.join("run/touched");
    for destination in [
        format!("remote:mx2;touch {}", touched.display()),
        format!("remote:$(touch {})@mx2", touched.display()),
        "remote:-oProxyCommand=x".into(),
    ] {
        let ran = pair.run_with(Who::Ours, &["sync", "-u", "u1", &destination], &[("PATH", &path)]);
        assert_ne!(ran.code, 0, "{ran:?}");
    }
    assert!(!touched.exists());
    let seen = std::fs::read_to_string(dir.join("ssh.log")).unwrap();
    assert!(seen.contains(&format!("[mx2;touch {}]", touched.display())), "{seen}");
    assert!(!seen.contains("[-oProxyCommand=x]"), "{seen}");
}

/// A lock file that somebody else holds, of the kind that Dovecot's are.
fn hold(path: &std::path::Path) -> std::fs::File {
    let file = std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).unwrap();
    std::os::unix::fs::chown(path, Some(crate::oracle::UID), Some(crate::oracle::UID)).unwrap();
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

/// One side waits for a lock three times as long as the other one bears silence. Who is at work is not silent.
#[test]
fn s15_who_is_at_work_is_not_silent() {
    if !have_dovecot() {
        return;
    }
    for (who, there) in ENDS {
        for users_lock in [true, false] {
            for held_by_server in [true, false] {
                // A Dovecot at work says nothing.
                if (if held_by_server { there } else { who }) == Who::Doveadm {
                    continue;
                }
                let pair = Pair::new(["maildir", "sdbox"]);
                pair.change();
                let (locker, name) = if held_by_server { (&pair.server, "b") } else { (&pair.client, "a") };
                let path = if users_lock {
                    locker.home.join(".dovecot-sync.lock")
                } else if held_by_server {
                    locker.dir.join("mailboxes/INBOX/dbox-Mails/.dovecot-box-sync.lock")
                } else {
                    locker.dir.join(".dovecot-box-sync.lock")
                };
                let file = hold(&path);
                let mut server = pair.server_words(there);
                server.insert(2, format!("DOVECOT_HOSTDOMAIN=a{}", if name == "b" { "" } else { "b" }));
                if there == Who::Doveadm {
                    let at = server.iter().position(|w| w == "doveadm").unwrap();
                    server.insert(at + 1, "-k".into());
                }
                server.extend(["-T".into(), "1".into()]);
                let words: Vec<&str> =
                    ["-k", "sync", "-T", "1", "-l", "20"].into_iter().chain(server.iter().map(String::as_str)).collect();
                let released = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_secs(3));
                    std::fs::remove_file(path).unwrap();
                    drop(file);
                });
                let began = Instant::now();
                let ran = pair.run_with(who, &words, &[("DOVECOT_HOSTDOMAIN", "aa")]);
                let time = began.elapsed();
                released.join().unwrap();
                let what = format!("{who:?} {there:?} user: {users_lock} server: {held_by_server}");
                assert!(ran.code == 0 && ran.stderr.is_empty(), "{what}: {ran:?}");
                assert!(time > Duration::from_secs(2), "{what}: nobody waited for the lock");
                assert_equal(&pair.client.dump().without_saved(), &pair.server.dump().without_saved());
                pair.lab.silent();
            }
        }
    }
}

/// A mailbox goes away while its lock is waited for, longer than the other side bears silence: the others are synchronised.
#[test]
fn s15_a_mailbox_that_goes_away_meanwhile() {
    if !have_dovecot() {
        return;
    }
    for (there, options) in [(Who::Ours, &[][..]), (Who::Doveadm, &[]), (Who::Doveadm, &["-f"]), (Who::Doveadm, &["-1"])] {
        let pair = Pair::new(["maildir", "sdbox"]);
        pair.change();
        pair.run(Who::Ours, &[&["sync"], &pair.server_words(there).iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
        for name in ["INBOX", "Work"] {
            pair.client.save(name, &mail(77));
        }
        let dir = pair.client.dir.join(".Work");
        let file = hold(&dir.join(".dovecot-box-sync.lock"));
        let mut server = pair.server_words(there);
        server.extend(["-T".into(), "1".into()]);
        let words: Vec<&str> =
            ["sync", "-T", "1", "-l", "20"].iter().chain(options).copied().chain(server.iter().map(String::as_str)).collect();
        let released = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(3));
            std::fs::remove_dir_all(dir).unwrap();
            drop(file);
        });
        let began = Instant::now();
        let ran = pair.run(Who::Ours, &words);
        assert!(began.elapsed() > Duration::from_secs(2), "nobody waited for the lock");
        released.join().unwrap();
        assert!([0, 2].contains(&ran.code), "{there:?} {options:?}: {ran:?}");
        let at_server = pair.server.dump();
        let arrived = at_server.boxes["INBOX"].mails.len() == pair.client.dump().boxes["INBOX"].mails.len();
        assert!(arrived && at_server.boxes.contains_key("Work"), "{there:?} {options:?}: {ran:?}");
        pair.lab.silent();
    }
}
