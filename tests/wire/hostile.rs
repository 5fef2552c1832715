//! Peers that mean harm, or are something else: refused in bounded time, with a message, and nothing changed.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::captures::files;
use crate::oracle::{Lab, Ran, Side, have_dovecot, mail};

/// Says `octets` to our server, `more` without end if there is any, and waits for its end.
fn say(side: &Side, octets: &[u8], more: &[u8], close: bool) -> (Ran, u64, Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dsync"));
    command.args(side.options()).args(["dsync-server", "-T", "2"]);
    command.env("USER", "u1").env("HOME", &side.home).current_dir("/");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let began = Instant::now();
    let mut input = child.stdin.take().expect("piped");
    let mut output = child.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = output.read_to_end(&mut all);
    });
    let pid = child.id();
    let watch = std::thread::spawn(move || {
        let mut most = 0;
        while let now @ 1.. = memory(pid) {
            most = most.max(now);
            std::thread::sleep(Duration::from_millis(5));
        }
        most
    });
    let _ = input.write_all(octets);
    while !more.is_empty() && input.write_all(more).is_ok() && began.elapsed() < Duration::from_secs(60) {}
    let input = (!close).then_some(input);
    let out = child.wait_with_output().expect("it ends");
    let time = began.elapsed();
    drop(input);
    reader.join().expect("readable");
    (Ran::of(&out), watch.join().expect("it ends with the process"), time)
}

/// Peak memory in KiB, as long as the process lives.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn header() -> Vec<u8> {
    files()["51-handshakes/header-lines.bin"].clone()
}

fn session(rest: &[u8]) -> Vec<u8> {
    [&header()[..], b"Hevil\t\x02\t\x02\t\x02\tc\t\x02\t\x02\t\x02\t\n", rest].concat()
}

#[test]
fn hostile_masters_are_refused() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let side = lab.side("a", "mdbox");
    side.save("INBOX", &mail(1));
    let before = side.dump();
    let guid = before.boxes["INBOX"].guid.clone();
    let tree = |rest: String| session(format!(".\nD/\t%\n{rest}").as_bytes());
    let lists = |rest: &str| tree(format!("B{guid}\t1\t9\t3\t1\t5\t0\n{rest}"));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("noise", b"Welcome to host\n".to_vec(), "Remote dsync doesn't use compatible protocol"),
        ("another version", b"VERSION\tdsync\t4\t0\n".to_vec(), "Remote dsync doesn't use compatible protocol"),
        ("no handshake", [&header()[..], b".\n"].concat(), "Received unexpected input . != handshake"),
        ("an odd type", [&header()[..], b"Hx\t\x02\t\x02\t\x02\tq\n"].concat(), "handshake: Invalid sync_type: q"),
        ("a wrong item", session(b"Rabc\n"), "Received unexpected input R != mailbox_tree_node"),
        ("no D", session(b".\n.\n"), "Received unexpected input . != mailbox_delete"),
        ("UIDVALIDITY 0", tree(format!("B{guid}\t0\t1\t0\t1\t1\t0\n")), "mailbox: Invalid uid_validity: 0"),
        ("UIDs falling", lists(".\nCs\t2\tx\nCs\t1\ty\n"), "mail_change: Invalid uid: 1"),
        ("no GUID", lists(".\nCs\t2\n"), "Invalid input to mail_change: Missing required field guid"),
        ("flags out of place", lists(".\nCf\t2\tx\n"), "mail_change: Invalid type: Flags for UID 2"),
        ("an empty attribute", lists("As\tkey\n"), "mailbox_attribute: Invalid value"),
        ("an unknown request", lists(".\n.\nRdeadbeef\n"), "Remote requested unexpected GUID deadbeef"),
        ("mails unasked", lists(".\n.\nMx\n"), "Received unexpected input M != mail_request"),
    ];
    for (what, octets, wanted) in cases {
        let (ran, _, time) = say(&side, &octets, b"", true);
        assert!(time < Duration::from_secs(10), "{what}: {time:?}");
        ran.says(75, &[wanted]);
    }
    assert_eq!(side.dump().boxes["INBOX"].mails, before.boxes["INBOX"].mails);
}

#[test]
fn silence_and_endless_talk_come_to_an_end() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let side = lab.side("a", "maildir");
    side.save("INBOX", &mail(1));
    for octets in [Vec::new(), header(), session(b""), session(b".\n")] {
        let (ran, _, time) = say(&side, &octets, b"", false);
        ran.says(75, &["I/O has stalled, no activity for 2 seconds", "Timeout during state="]);
        assert!(time < Duration::from_secs(12), "{time:?}");
    }
    let endless: [(&str, Vec<u8>, Vec<u8>); 4] = [
        ("line", session(b"N"), vec![b'a'; 1 << 16]),
        ("version", Vec::new(), vec![b'a'; 1 << 16]),
        ("header", b"VERSION\tdsync\t3\t5\nH".to_vec(), b"\tcolumn".repeat(9000)),
        ("levels", session(b"Na"), b"\x01ta".repeat(20_000)),
    ];
    for (what, octets, more) in endless {
        let (ran, memory, time) = say(&side, &octets, &more, true);
        ran.says(75, &["Remote"]);
        assert!(memory < 64 << 10 && time < Duration::from_secs(50), "{what}: {memory} KiB, {time:?}");
    }
}

/// Lists of good items without an end. What a test says is much, not endless.
#[test]
fn endless_lists_are_refused() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let side = lab.side("a", "maildir");
    side.save("INBOX", &mail(1));
    let dump = side.dump();
    let inbox = &dump.boxes["INBOX"];
    let tree = format!(".\nD/\t%\nB{}\t{}\t9\t3\t1\t5\t0\n", inbox.guid, inbox.uidvalidity);
    let lists = |rest: &str| session((tree.clone() + rest).as_bytes());
    let mail = |uid| format!("Cs\t{uid}\t{uid:032x}\t\x02\t1\t\x02\t\x02\t\x02\t8\t\x02\t=one\x01t=two\n");
    let gone = |uid| format!("Ce\t{uid}\t{uid:032x}\n");
    let many = |item: &dyn Fn(u32) -> String| (1..400_000).map(item).collect::<String>().into_bytes();
    let key = "k".repeat(40);
    let states = [&header()[..], b"Hevil\t\x02\t\x02\t\x02\ts\t\x02\t\x02\t\x02\t\n"].concat();
    let wanted = format!("R{}\n", inbox.mails[0].guid);
    let strange = "B00112233445566778899aabbccddeeff\t1\t9\t3\t1\t5\t0\n";
    let cases: [(&str, Vec<u8>, Vec<u8>, &str); 10] = [
        ("states", states, many(&|n| format!("S{n:032x}\t1\t1\t1\t1\n")), "mailbox states"),
        ("nodes", session(b""), many(&|n| format!("Nname{n}\ty\t{n:032x}\t1\t1\n")), "mailboxes"),
        ("levels", session(b""), many(&|n| format!("Na{}\ty\t{n:032x}\t1\t1\n", "\x01ta".repeat(99))), "mailboxes"),
        ("deletions", session(b".\nD/\t%\t"), format!("{} 1 ", inbox.guid).repeat(2000).into(), "octets in one line"),
        ("attributes", lists(""), many(&|n| format!("Ap\t{key}{n}\t{key}\n")), "attributes"),
        ("an attribute", lists("Ap\tkey\t\x02\ts\n"), "text\n".repeat(10_000).into(), "octets in attributes"),
        ("mails", lists(".\n"), many(&mail), "mail changes"),
        ("expunges", lists(".\n"), many(&gone), "mail changes"),
        ("requests", lists(".\n.\n"), wanted.repeat(1000).into(), "mail requests"),
        ("mailboxes", session(b".\nD/\t%\n"), strange.repeat(1000).into(), "mailboxes"),
    ];
    for (what, octets, more, wanted) in cases {
        let (ran, memory, time) = say(&side, &octets, &more, true);
        eprintln!("endless {what}: {memory} KiB, {time:?}");
        ran.says(75, &[&format!("Remote sent too many or too long {wanted}")]);
        assert!(memory < 64 << 10 && time < Duration::from_secs(50), "{what}: {memory} KiB, {time:?}");
    }
    assert_eq!(side.dump().boxes["INBOX"].mails, inbox.mails);
}

/// Every recorded master, said to our server in one go: whatever it makes of a store that is not the recorded one, it ends.
#[test]
fn recorded_masters_come_to_an_end() {
    if !have_dovecot() {
        return;
    }
    for (name, octets) in files().into_iter().filter(|(n, _)| n.ends_with("client-to-server.bin")) {
        let lab = Lab::new();
        let side = lab.side("a", "mdbox");
        let (ran, _, time) = say(&side, &octets, b"", true);
        assert!(!ran.stderr.contains("panicked") && time < Duration::from_secs(20), "{name}: {time:?} {}", ran.stderr);
        if name.starts_with("06-backup/") {
            // All that a destination asks for is in the recording: it ends as recorded.
            ran.fine();
            let seen = side.dump();
            assert_eq!(seen.boxes["INBOX"].mails.len(), 2);
            assert_eq!(seen.boxes["INBOX"].guid.len(), 32);
            assert_eq!(seen.boxes["Archive"].mails.len(), 1);
            lab.silent();
        }
    }
}
