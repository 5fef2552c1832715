//! A command as the other side.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use dsync::os::stop::Stop;
use dsync::peer::{Command, Limits};

use crate::lab::{Lab, is_root};

fn limits(seconds: u64) -> Limits {
    Limits { connect: Duration::from_secs(seconds), silence: Some(Duration::from_secs(seconds)), stop: Stop::new() }
}

fn command(words: &[&str]) -> Command {
    let words = words.iter().map(|w| (*w).to_owned()).collect();
    Command {
        words,
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        prefix: b"jane\n".to_vec(),
        name: "remote".into(),
    }
}

/// More than any pipe holds, both ways at once.
#[test]
fn bytes_go_both_ways() {
    let peer = command(&["cat"]).start(&limits(20)).unwrap();
    let (mut read, mut write) = (peer.ends.read, peer.ends.write);
    let bytes: Vec<u8> = (0..5_000_000_u32).flat_map(|n| [n.to_le_bytes()[0], (n % 251) as u8]).collect();
    let copy = bytes.clone();
    let writer = std::thread::spawn(move || write.write_all(&copy).unwrap());
    let mut back = Vec::new();
    read.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert_eq!(&back[..5], b"jane\n");
    assert!(back[5..] == bytes);
    drop(read);
    peer.end.finish(true);
}

#[test]
fn silence_ends() {
    let peer = command(&["sleep", "30"]).start(&limits(1)).unwrap();
    let (mut read, write) = (peer.ends.read, peer.ends.write);
    let began = Instant::now();
    let e = read.read(&mut [0; 10]).unwrap_err();
    assert_eq!(e.to_string(), "I/O has stalled, no activity for 1 seconds");
    assert!(began.elapsed() < Duration::from_secs(4));
    drop((read, write));
    // Not waited for: it is ended.
    drop(peer.end);
    assert!(began.elapsed() < Duration::from_secs(6));
}

/// One byte now and then is no silence.
#[test]
fn any_byte_counts() {
    let peer = command(&["sh", "-c", "for i in 1 2 3 4 5 6; do printf x; sleep 0.4; done"]).start(&limits(1)).unwrap();
    let mut read = peer.ends.read;
    let mut all = Vec::new();
    read.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"xxxxxx");
}

/// Somebody wants us to stop while we wait.
#[test]
fn a_request_to_stop_ends_the_wait() {
    let stop = Stop::new();
    let peer = command(&["sleep", "30"]).start(&Limits::of(None, &stop)).unwrap();
    let mut read = peer.ends.read;
    let waiting = std::thread::spawn(move || read.read(&mut [0; 10]).unwrap_err().to_string());
    std::thread::sleep(Duration::from_millis(300));
    stop.slot().store(15, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(waiting.join().unwrap(), "Killed with signal 15");
}

/// What the command says goes on to whoever started us, and its end is reported as doveadm does.
#[test]
fn errors_of_commands() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let script = lab.script("peer", "eval \"$DSYNC_TEST\"");
    let run = |body: &str| {
        let script = lab.script("peer", body);
        lab.run(&["sync", &script])
    };
    run("echo oops >&2; printf 'no end' >&2; exit 75").says(75, &["oops\n", "no end\n"]);
    let silent = run("exit 3");
    silent.says(75, &[&format!("Error: Remote command returned error 3: {script} dsync-server\n")]);
    run("kill -9 $$").says(75, &[&format!("Error: Remote command died with signal 9: {script} dsync-server\n")]);
    run("exit 64").says(75, &["Remote command returned error 64"]);
    lab.run(&["sync", "/nonexistent/x", "y"]).says(75, &["Fatal: execvp(/nonexistent/x) failed: No such file or directory"]);
    lab.run(&["sync", "-p", "mail_fsync=never", &script]).says(75, &["-p sets settings of a destination on this machine only"]);
    lab.run(&["-o", "dsync_remote_cmd=x %{nosuch}", "sync", "mx2"])
        .says(75, &["Failed to expand dsync_remote_cmd=x %{nosuch}: Unknown variable '%nosuch'"]);
    for destination in ["remote:-oProxyCommand=x", "-x@mx2", "remote:-l@mx2", "ssh://-x"] {
        let ran = lab.run(&["sync", "--", destination]);
        if destination != "-x@mx2" {
            ran.says(75, &["begins with -"]);
        }
    }
    let hint = lab.script("old", "exit 64");
    lab.run(&["-o", &format!("dsync_remote_cmd={hint} -U"), "sync", "mx2"])
        .says(75, &["Remote command returned error 64", "Dovecot 2.4 does not know -U any more"]);
}

/// A peer that has no configuration of its own must not take ours, and ssh needs its agent.
#[test]
fn the_environment_of_commands() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let script = lab.script("peer", "env >&2; exit 75");
    let run = |words: &[&str]| {
        let mut command = lab.command(&[words, &["sync", &script]].concat());
        command.env("DOVECONF_ENV", "1").env("DOVECOT_CONFIG_FD", "3").env("MAIL_LOCATION", "x").env("SSH_AUTH_SOCK", "/agent");
        command.env("LC_TIME", "C").env("SOMETHING", "else");
        let ran = Lab::output(command);
        ran.stderr
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let plain = run(&[]);
    for (name, value) in [("SSH_AUTH_SOCK", "/agent"), ("LC_TIME", "C"), ("USER", "jane")] {
        assert_eq!(plain.get(name).map(String::as_str), Some(value), "{plain:?}");
    }
    assert!(plain.contains_key("PATH") && plain.contains_key("HOME"));
    for name in ["DOVECONF_ENV", "DOVECOT_CONFIG_FD", "MAIL_LOCATION", "SOMETHING"] {
        assert!(!plain.contains_key(name), "{name}");
    }
    let all = run(&["-k"]);
    assert_eq!(all.get("SOMETHING").map(String::as_str), Some("else"));
    assert!(!all.contains_key("DOVECONF_ENV") && !all.contains_key("DOVECOT_CONFIG_FD"));
    let imported = run(&["-o", "import_environment=SOMETHING DOVECOT_HOSTDOMAIN=mx1.example"]);
    assert_eq!(imported.get("SOMETHING").map(String::as_str), Some("else"));
    assert_eq!(imported.get("DOVECOT_HOSTDOMAIN").map(String::as_str), Some("mx1.example"));
}
