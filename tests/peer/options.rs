//! Options that matter to a stream, with Dovecot and with ourselves at the other end.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::lab::Ran;
use crate::matrix::{BOTH, Pair, Who};
use crate::oracle::{Side, UID, assert_equal, changed, files, have_dovecot, mail};

fn words<'a>(options: &[&'a str], server: &'a [String]) -> Vec<&'a str> {
    options.iter().copied().chain(server.iter().map(String::as_str)).collect()
}

#[track_caller]
fn same(pair: &Pair) {
    assert_equal(&pair.client.dump().without_saved(), &pair.server.dump().without_saved());
}

/// The words of a server with these at their end.
fn and(mut server: Vec<String>, more: &[&str]) -> Vec<String> {
    server.extend(more.iter().map(|w| (*w).to_owned()));
    server
}

/// On the machine whose name sorts first, whoever started the run.
#[test]
fn the_users_lock_is_taken_on_one_machine() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let hold = |side: &Side| {
        let path = side.home.join(".dovecot-sync.lock");
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        chown(&path, Some(UID), Some(UID)).unwrap();
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        (file, path)
    };
    for (who, there) in [(Who::Ours, Who::Doveadm), (Who::Doveadm, Who::Ours), (Who::Ours, Who::Ours)] {
        for (client, server) in [("a.example", "b.example"), ("b.example", "a.example"), ("a.example", "a.example")] {
            let mut command = pair.server_words(there);
            command.insert(2, format!("DOVECOT_HOSTDOMAIN={server}"));
            if there == Who::Doveadm {
                let at = command.iter().position(|w| w == "doveadm").unwrap();
                command.insert(at + 1, "-k".into());
            }
            let words = words(&["-k", "sync", "-l", "1"], &command);
            let run = || pair.run_with(who, &words, &[("DOVECOT_HOSTDOMAIN", client)]);
            let (locker, other) = if client <= server { (&pair.client, &pair.server) } else { (&pair.server, &pair.client) };
            let (file, path) = hold(locker);
            let ran = run();
            assert!(ran.code == 75 && ran.stderr.contains("Couldn't lock"), "{who:?} {there:?} {client} {server}: {ran:?}");
            assert!(ran.stderr.contains(path.to_str().unwrap()), "{ran:?}");
            drop(file);
            let (_file, path) = hold(other);
            let ran = run();
            assert!([0, 2].contains(&ran.code), "{who:?} {there:?} {client} {server}: {ran:?}");
            std::fs::remove_file(path).unwrap();
            assert!(!locker.home.join(".dovecot-sync.lock").exists());
        }
    }
}

/// `-P`: the other side's storage, not ours.
#[test]
fn the_other_side_is_purged() {
    if !have_dovecot() {
        return;
    }
    let storage = |side: &Side| -> u64 {
        let files = files(&side.dir.join("storage"));
        files
            .iter()
            .filter(|(p, _)| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("m.")))
            .map(|(_, b)| b.len() as u64)
            .sum()
    };
    for (who, there) in [(Who::Ours, Who::Doveadm), (Who::Doveadm, Who::Ours), (Who::Ours, Who::Ours)] {
        let pair = Pair::new(["mdbox", "mdbox"]);
        for side in [&pair.client, &pair.server] {
            for n in 50..53 {
                side.save("Work", &mail(n).repeat(50));
            }
        }
        let server = pair.server_words(there);
        for options in [&["sync"][..], &["sync", "-P"]] {
            pair.client.doveadm(&["expunge", "mailbox", "Work", "1:3"]);
            pair.client.save("INBOX", &mail(60));
            let before = (storage(&pair.client), storage(&pair.server));
            let ran = pair.run(who, &words(options, &server));
            assert!([0, 2].contains(&ran.code), "{ran:?}");
            if options.len() > 1 {
                assert!(storage(&pair.server) + 10_000 < before.1, "{who:?} {there:?} {before:?} {}", storage(&pair.server));
                assert!(storage(&pair.client) >= before.0);
            }
        }
        pair.lab.silent();
    }
}

/// The destination that the user's settings name.
#[test]
fn the_users_replica() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    for there in BOTH {
        pair.change();
        let command = format!("dsync_remote_cmd={}", pair.server_words(there).join(" "));
        pair.run(Who::Ours, &["-o", &command, "-o", "plugin/mail_replica=remote:mx2", "sync", "-d"]).fine();
        same(&pair);
    }
    let dovecot = pair.dovecot();
    pair.change();
    let replica = format!("plugin/mail_replica=tcp:{}", dovecot.socket);
    pair.run(Who::Ours, &["-o", &replica, "sync", "-d", "-U"]).fine();
    same(&pair);
}

/// `dsync-server -U` tells a replicator, with a state that it can go on from.
#[test]
fn the_replicator_is_told() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let path = pair.lab.path().join("run/replicator-doveadm");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let heard = || {
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    };
    for who in BOTH {
        pair.change();
        let server = and(pair.server_words(Who::Ours), &["-U"]);
        // doveadm appends the command's name once more, after the options.
        let ran = pair.run(who, &words(&["sync", "-s", ""], &server));
        assert_eq!(ran.code, 0, "{ran:?}");
        let text = heard();
        let state =
            text.strip_prefix("VERSION\treplicator-doveadm-client\t1\t0\nNOTIFY\tu1\t\t").and_then(|t| t.strip_suffix('\n'));
        let state = state.unwrap_or_else(|| panic!("{text:?}"));
        // The state is as good as the one that the first side prints.
        let ran = pair.run(who, &words(&["sync", "-s", state], &pair.server_words(Who::Ours)));
        ran.fine();
        let full = pair.run(who, &words(&["sync", "-f"], &server));
        assert_eq!(full.code, 0, "{full:?}");
        assert!(heard().starts_with("VERSION\treplicator-doveadm-client\t1\t0\nNOTIFY\tu1\tf\t"));
    }
}

/// One letter's lines, put together.
pub fn direction(path: &Path, letter: char) -> Vec<u8> {
    let text = std::fs::read(path).unwrap();
    let mark = format!(" {letter}: ").into_bytes();
    let mut out = Vec::new();
    for line in text.split_inclusive(|b| *b == b'\n') {
        let at = line.iter().position(|b| *b == b' ').unwrap();
        if line[at..].starts_with(&mark) {
            out.extend_from_slice(&line[at + 4..]);
        }
    }
    out
}

/// `-r` on both sides: what one has sent the other has received.
#[test]
fn both_sides_log_the_same() {
    if !have_dovecot() {
        return;
    }
    for (who, there) in [(Who::Ours, Who::Doveadm), (Who::Doveadm, Who::Ours), (Who::Ours, Who::Ours)] {
        let pair = Pair::new(["maildir", "sdbox"]);
        pair.change();
        let logs = pair.lab.make_dir("logs");
        let (a, b) = (logs.join("a"), logs.join("b"));
        let server = and(pair.server_words(there), &["-r", b.to_str().unwrap()]);
        let ran = pair.run(who, &words(&["sync", "-r", a.to_str().unwrap()], &server));
        assert!(ran.code == 0 && ran.stderr.is_empty(), "{ran:?}");
        let (sent, received) = (direction(&a, 'O'), direction(&b, 'I'));
        assert!(sent == received && sent.starts_with(b"VERSION\tdsync\t3\t5\nH"), "{who:?} {there:?}");
        // The master closes when it has what it wants.
        let (sent, received) = (direction(&b, 'O'), direction(&a, 'I'));
        assert!(sent.starts_with(&received) && received.len() + 10 > sent.len(), "{who:?} {there:?}");
        assert_eq!(std::fs::metadata(&a).unwrap().permissions().mode() & 0o777, 0o600);
        let missing = pair.run(who, &words(&["sync", "-r", "/nonexistent/raw"], &pair.server_words(there)));
        assert!(
            missing.code == 0 && missing.stderr.contains("creat(/nonexistent/raw) failed: No such file or directory"),
            "{missing:?}"
        );
    }
}

/// `remoteprefix:` says the user's name first: to a wrapper, to `--read-user`, or to a server that knows it already.
#[test]
fn the_users_name_goes_ahead() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let wrapper = pair.lab.path().join("wrapper");
    let server = pair.server_words(Who::Doveadm).join(" ");
    // The shell reads byte by byte up to the end of the line.
    std::fs::write(&wrapper, format!("#!/bin/sh\nIFS= read -r user\n[ \"$user\" = u1 ] || exit 99\nexec {server}\n")).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ours = pair.server_words(Who::Ours);
    for (who, command) in [
        (Who::Ours, wrapper.to_str().unwrap().to_owned()),
        (Who::Doveadm, and(ours.clone(), &["--read-user"]).join(" ")),
        (Who::Ours, and(ours.clone(), &["--read-user", "-U", "-E", "-d"]).join(" ")),
        (Who::Doveadm, and(ours.clone(), &["-u", "u1", "dsync-server"]).join(" ")),
        (Who::Ours, and(ours.clone(), &["-T", "20", "-uu1"]).join(" ")),
    ] {
        pair.change();
        let setting = format!("dsync_remote_cmd={command}");
        let ran = pair.run(who, &["-o", &setting, "sync", "remoteprefix:mx2"]);
        assert!(ran.code == 0 && ran.stderr.is_empty(), "{command}: {ran:?}");
        same(&pair);
    }
    // Another name than the one the server was started for.
    let setting = format!("dsync_remote_cmd={}", and(ours, &["-u", "u2"]).join(" "));
    let ran = pair.run(Who::Ours, &["-o", &setting, "sync", "remoteprefix:mx2"]);
    assert_eq!(ran.code, 75, "{ran:?}");
}

#[test]
fn modes() {
    if !have_dovecot() {
        return;
    }
    for (who, there) in [(Who::Ours, Who::Doveadm), (Who::Doveadm, Who::Ours), (Who::Ours, Who::Ours)] {
        let pair = Pair::new(["maildir", "mdbox"]);
        let server = pair.server_words(there);
        let run = |options: &[&str]| {
            let mut ran = pair.run(who, &words(options, &server));
            // A backup of Dovecot's deletes in one run and copies in the next.
            for _ in 0..3 {
                if ran.code == 2 {
                    ran = pair.run(who, &words(options, &server));
                }
            }
            assert!(ran.code == 0, "{who:?} {there:?} {options:?}: {ran:?}");
        };
        pair.change();
        let (client, theirs) = (pair.client.dump().without_saved(), pair.server.dump().without_saved());
        run(&["sync", "-1"]);
        assert_equal(&client, &pair.client.dump().without_saved());
        assert_eq!(pair.server.dump().boxes.len(), client.boxes.len() + 1, "{who:?} {there:?}");
        run(&["backup"]);
        assert_equal(&client, &pair.client.dump().without_saved());
        same(&pair);
        if who == Who::Doveadm {
            // Its engine cannot revert an INBOX.
            continue;
        }
        pair.change();
        let theirs_now = pair.server.dump().without_saved();
        assert_ne!(theirs, theirs_now);
        run(&["backup", "-R"]);
        assert_equal(&theirs_now, &pair.server.dump().without_saved());
        same(&pair);
    }
}

/// Nothing is set: ssh is found by the search path, and runs what is called doveadm there.
#[test]
fn nothing_has_to_be_set() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let dir = pair.lab.path();
    let location = format!("mail_location = {}\nmail_home = {}", pair.server.location, pair.server.home.display());
    let conf = std::fs::read_to_string(dir.join("dovecot.conf")).unwrap().replace("mail_location = maildir:~/unset", &location);
    std::fs::write(dir.join("there.conf"), conf).unwrap();
    let (here, there) = (pair.lab.make_dir("here"), pair.lab.make_dir("there"));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dsync"), there.join("doveadm")).unwrap();
    let d = dir.display();
    let ssh =
        format!("#!/bin/sh\necho \"$@\" >>{d}/ssh.log\nshift\nexport PATH={d}/there CONFIG_FILE={d}/there.conf\nexec \"$@\"\n");
    std::fs::write(here.join("ssh"), ssh).unwrap();
    std::fs::set_permissions(here.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    pair.change();
    let path = format!("{}:/usr/bin:/bin", here.display());
    for destination in ["remote:mx2", "mx2", "jane@mx2"] {
        pair.run_with(Who::Ours, &["sync", "-u", "u1", destination], &[("PATH", &path)]).fine();
    }
    same(&pair);
    let started = std::fs::read_to_string(dir.join("ssh.log")).unwrap();
    assert_eq!(started, "mx2 doveadm dsync-server -uu1\nmx2 doveadm dsync-server -uu1\nmx2 doveadm dsync-server -ujane\n");
}

/// A signal ends the wait for somebody who says nothing.
#[test]
fn a_signal_ends_a_run() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let before = pair.client.files();
    let mut command = pair.client.ours(&["sync", "sh", "-c", "exec sleep 10"]);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let began = Instant::now();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    Ran::of(&child.wait_with_output().unwrap()).says(75, &["Killed with signal 15"]);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(before, pair.client.files());
}

/// A server that is there for backups only.
#[test]
fn a_read_only_server() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "mdbox"]);
    pair.server.doveadm(&["expunge", "mailbox", "Work", "all"]);
    let server = and(pair.server_words(Who::Ours), &["--read-only"]);
    for who in BOTH {
        pair.server.save("INBOX", &mail(900));
        let before = pair.server.files();
        for options in [&["sync"][..], &["backup"], &["sync", "-1"]] {
            let ran = pair.run(who, &words(options, &server));
            assert_eq!(ran.code, 75, "{ran:?}");
            assert!(ran.stderr.contains("This server is read-only"), "{ran:?}");
        }
        for options in [&["sync", "-1R"][..], &["backup", "-P", "-R"]] {
            let ran = pair.run(who, &words(options, &server));
            assert!(ran.code == 0 && ran.stderr.is_empty(), "{who:?} {options:?} {ran:?}");
        }
        let changed = changed(&before, &pair.server.files());
        assert!(changed.is_empty(), "{changed:?}");
        same(&pair);
    }
}

/// Whatever goes wrong, both sides stay as they are and nobody waits for ever.
#[test]
fn failures_change_nothing() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    pair.change();
    let before = (pair.client.files(), pair.server.files());
    let script = |body: &str| {
        let path = pair.lab.path().join("bad");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let header = "printf 'VERSION\\tdsync\\t3\\t5\\n'";
    for (body, parts) in [
        ("exit 0", &["Error: read(remote) failed: EOF (version not received)"][..]),
        ("kill -9 $$", &["Error: Remote command died with signal 9"]),
        ("echo no such thing >&2; exit 75", &["no such thing\n", "EOF (version not received)"]),
        ("echo Welcome", &["Remote dsync doesn't use compatible protocol"]),
        ("printf 'VERSION\\tdsync\\t4\\t0\\n.\\n'", &["Remote dsync doesn't use compatible protocol"]),
        (header, &["Error: read(remote) failed: EOF ("]),
        ("sleep 20", &["I/O has stalled, no activity for 1 seconds (version not received)", "Timeout during state="]),
        (&format!("{header}; sleep 20"), &["I/O has stalled, no activity for 1 seconds ("]),
        ("yes", &["Remote dsync doesn't use compatible protocol"]),
        ("yes | tr -d '\\n'", &["Remote dsync doesn't use compatible protocol"]),
        ("exec cat", &["Error: "]),
    ] {
        let began = Instant::now();
        let ran: Ran = pair.run(Who::Ours, &["sync", "-T", "1", &script(body)]);
        ran.says(75, parts);
        assert!(began.elapsed() < Duration::from_secs(6), "{body}: {:?}", began.elapsed());
    }
    let server = pair.server_words(Who::Ours);
    for (more, code, part) in [
        (&["-u", "u1", "a", "b"][..], 64, "Extraneous arguments found: b"),
        (&["-A"], 75, "not supported yet"),
        (&["-S", "/x"], 64, "-S is not for dsync-server"),
        (&["-Z"], 64, "dsync-server: invalid option -- 'Z'"),
        (&["-T", "x"], 64, "not a number of seconds"),
    ] {
        let all = and(server.clone(), more);
        let ran = pair.run(Who::Ours, &words(&["sync"], &and(all, &["dsync-server"])));
        ran.says(75, &[part, "EOF (version not received)"]);
        let expected = format!("Remote command returned error {code}");
        assert!(code == 75 || ran.stderr.contains(&expected), "{ran:?}");
    }
    // A server whose own side cannot be used.
    let at = server.iter().position(|w| w.starts_with("mail_location=")).unwrap();
    let mut broken = server;
    broken[at] = "mail_location=foo:/x".into();
    let ran = pair.run(Who::Ours, &words(&["sync"], &broken));
    ran.says(75, &["Unknown mail storage driver foo", "Error: read(remote) failed: EOF (version not received)"]);
    assert_eq!(before, (pair.client.files(), pair.server.files()));
}

/// One way from a Dovecot, which does not tell where its mails came from: what it has expunged goes here, too, if the mail was
/// brought there from here; a mail of ours that it may never have had stays.
#[test]
fn expunges_of_a_dovecot_flow_one_way() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["mdbox", "sdbox"]);
    for n in 10..13 {
        pair.client.save("INBOX", &mail(n));
    }
    pair.client.doveadm(&["sync", &pair.server.location]);
    pair.server.doveadm(&["expunge", "mailbox", "INBOX", "uid", "1,3"]);
    pair.client.save("INBOX", &mail(20));
    let ran = pair.run(Who::Ours, &words(&["sync", "-1", "-R"], &pair.server_words(Who::Doveadm)));
    assert!(ran.code == 0 && ran.stderr.is_empty(), "{ran:?}");
    let uids: Vec<u32> = pair.client.dump().boxes["INBOX"].mails.iter().map(|m| m.uid).collect();
    assert_eq!(uids, [2, 4, 5, 6]);
}
