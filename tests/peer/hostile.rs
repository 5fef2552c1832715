//! Servers that are not there, and servers that mean harm: a message, an end within the time of `-T` and in bounded memory, and
//! nothing has changed here. (Masters that mean harm: `wire/hostile.rs`.)

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::lab::{Ran, free_port};
use crate::matrix::Pair;
use crate::oracle::{changed, have_dovecot};

#[test]
fn who_is_not_there_is_named() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let before = pair.client.files();
    let port = free_port();
    let ssh = "dsync_remote_cmd=ssh -F none -o BatchMode=yes %{host} true";
    let nowhere = pair.lab.path().join("no.sock");
    let mut cases = vec![
        (vec!["-o", "doveadm_password=x", "sync", "tcp:nosuch.invalid:5"], vec!["Lookup of host nosuch.invalid failed"]),
        (vec!["-o", "doveadm_password=x", "sync", "tcps:nosuch.invalid:5"], vec!["Lookup of host nosuch.invalid failed"]),
        (vec!["-o", ssh, "sync", "remote:nosuch.invalid"], vec!["Remote command returned error 255"]),
        (vec!["sync", "/nonexistent/program", "dsync-server"], vec!["No such file or directory"]),
        (vec!["sync", "sh", "-c", "kill -9 $$"], vec!["Remote command died with signal 9"]),
        (vec!["sync", "sh", "-c", "exit 70"], vec!["Remote command returned error 70"]),
    ];
    if cfg!(feature = "ssh") {
        cases.push((vec!["sync", "ssh://nosuch.invalid"], vec!["Lookup of host nosuch.invalid failed"]));
    }
    let (tcp, tcps) = (format!("tcp:127.0.0.1:{port}"), format!("tcps:127.0.0.1:{port}"));
    let (own, socket) = (format!("ssh://127.0.0.1:{port}"), format!("tcp:{}", nowhere.display()));
    cases.push((vec!["-o", "doveadm_password=x", "sync", &tcp], vec!["failed: Connection refused"]));
    cases.push((vec!["-o", "doveadm_password=x", "sync", &tcps], vec!["failed: Connection refused"]));
    if cfg!(feature = "ssh") {
        cases.push((vec!["sync", &own], vec!["failed: Connection refused"]));
    }
    cases.push((vec!["sync", &socket], vec!["failed: No such file or directory"]));
    for (words, wanted) in cases {
        let ran = pair.run(crate::matrix::Who::Ours, &words);
        if !(words.contains(&ssh) && ran.stderr.contains("execvp")) {
            ran.says(75, &wanted);
        }
    }
    let changed = changed(&before, &pair.client.files());
    assert!(changed.is_empty(), "{changed:?}");
}

/// What a server has to say, and perhaps something without end. Then it says nothing more.
fn serve(pair: &Pair, verb: &[&str], octets: &[u8], endless: &[u8]) -> (Ran, u64, Duration) {
    let dir = pair.lab.path();
    std::fs::write(dir.join("said"), octets).unwrap();
    std::fs::File::create(dir.join("more")).unwrap().write_all(endless).unwrap();
    let d = dir.display();
    let more = if endless.is_empty() { String::new() } else { format!("while cat {d}/more; do :; done;") };
    let script = format!("cat {d}/said; {more} exec grep -q ^nothing");
    let words = [&["-T", "2"], &["sh", "-c", &script][..]].concat();
    let words = [verb, &words].concat();
    let mut command = pair.client.ours(&words);
    let began = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let watch = std::thread::spawn(move || {
        let mut most = 0;
        while let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
            let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
            let Some(peak) = peak.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()) else { break };
            most = most.max(peak);
            std::thread::sleep(Duration::from_millis(5));
        }
        most
    });
    let ran = Ran::of(&child.wait_with_output().unwrap());
    let time = began.elapsed();
    (ran, watch.join().unwrap(), time)
}

#[test]
fn hostile_servers_are_refused() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let client = pair.client.dump();
    let guid = client.boxes["INBOX"].guid.clone();
    let uidvalidity = client.boxes["INBOX"].uidvalidity;
    let header = dsync::wire::Headers::ours().encode();
    let said = |rest: &str| [&header[..], b"Hevil\n", rest.as_bytes()].concat();
    let tree = |rest: &str| said(&format!("NINBOX\ty\t{guid}\t{uidvalidity}\t9\n.\nD/\t%\n{rest}"));
    let lists = |rest: &str| tree(&format!("B{uidvalidity}\t{guid}\t9\t5\t1\t90\t0\n{rest}"));
    // A name that a blown-up value is cut in pieces for would be a fault, too.
    let long = "a".repeat(1 << 16);
    let cases: Vec<(&str, Vec<u8>, Vec<u8>, &str)> = vec![
        ("no answer", Vec::new(), Vec::new(), "I/O has stalled, no activity for 2 seconds (version not received)"),
        ("half an answer", header.clone(), Vec::new(), "I/O has stalled, no activity for 2 seconds"),
        ("no tree", said(""), Vec::new(), "I/O has stalled, no activity for 2 seconds"),
        ("no mailbox", tree(""), Vec::new(), "I/O has stalled, no activity for 2 seconds"),
        ("a banner", b"Last login: never\n".to_vec(), Vec::new(), "Remote dsync doesn't use compatible protocol"),
        ("another version", b"VERSION\tdsync\t4\t0\n".to_vec(), Vec::new(), "Remote dsync doesn't use compatible protocol"),
        ("a wrong order", said(".\n.\n"), Vec::new(), "Received unexpected input . != mailbox_delete"),
        ("a finish too soon", said("F\n"), Vec::new(), "Received unexpected input F != mailbox_tree_node"),
        (
            "a wrong GUID",
            tree("B1\t00112233445566778899aabbccddeeff\t9\t3\t1\t5\t0\n"),
            Vec::new(),
            "mailbox: Invalid mailbox_guid",
        ),
        ("a huge number", tree(&format!("B99999999999\t{guid}\t9\t3\t1\t5\t0\n")), Vec::new(), "mailbox: Invalid uid_validity"),
        ("a request for nothing", lists(".\n.\nRdeadbeef\n"), Vec::new(), "Remote requested unexpected GUID deadbeef"),
        ("a mail unasked", lists(".\n.\n.\nMdeadbeef\t\x02\t\t\x02\t1\t1\t\nFrom: x\n\r\n.\r\n"), Vec::new(), "I/O has stalled"),
        ("UIDs falling", lists(".\nC2\ts\tx\nC1\ts\ty\n"), Vec::new(), "mail_change: Invalid uid: 1"),
        ("an endless banner", Vec::new(), long.clone().into(), "Remote dsync doesn't use compatible protocol"),
        ("an endless line", said("N"), long.clone().into(), "octets in one line"),
        (
            "an endless block of our kind",
            [&with_own_kind(&header)[..], &[0; 5]].concat(),
            [0xff; 1 << 12].into(),
            "a block that cannot be",
        ),
    ];
    for (what, octets, endless, wanted) in cases {
        let (ran, memory, time) = serve(&pair, &["sync"], &octets, &endless);
        assert!(ran.code == 75 && ran.stderr.contains(wanted), "{what}: {ran:?}");
        assert!(memory < 64 << 10, "{what}: {memory} KiB");
        assert!(time < Duration::from_secs(12), "{what}: {time:?}");
        assert_eq!(client.boxes, pair.client.dump().boxes, "{what}");
    }
}

/// A header block and a handshake that claim to be one of ours.
fn with_own_kind(header: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(header.to_vec()).unwrap();
    let lines: Vec<String> = text
        .lines()
        .map(|l| if l.starts_with("Hhostname") { "Hhostname\tx_dsync_native".to_owned() } else { l.to_owned() })
        .collect();
    (lines.join("\n") + "\nHevil\t2\n").into_bytes()
}

/// One block of what our own kind says, and the beginning of a message of so many octets.
fn block(flags: u8, data: &[u8]) -> Vec<u8> {
    [&[flags], &u32::try_from(data.len()).unwrap().to_le_bytes()[..], data].concat()
}

/// Lists of good items without an end. What a test says is much, not endless.
#[test]
fn endless_lists_are_refused() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let client = pair.client.dump();
    let inbox = &client.boxes["INBOX"];
    let (guid, uidvalidity) = (&inbox.guid, inbox.uidvalidity);
    let header = dsync::wire::Headers::ours().encode();
    let said = |rest: &str| [&header[..], b"Hevil\n", rest.as_bytes()].concat();
    let tree = format!("NINBOX\ty\t{guid}\t{uidvalidity}\t9\n.\nD/\t%\n");
    let lists = |rest: &str| said(&format!("{tree}B{uidvalidity}\t{guid}\t9\t5\t1\t90\t0\n{rest}"));
    let mail = |uid| format!("C{uid}\ts\t{uid:032x}\t\x02\t1\t\x02\t\x02\t\x02\t8\t\x02\t=one\x01t=two\n");
    let gone = |uid| format!("C{uid}\te\t{uid:032x}\n");
    let many = |item: &dyn Fn(u32) -> String| (1..400_000).map(item).collect::<String>().into_bytes();
    let key = "k".repeat(40);
    let wanted = format!("R{}\n", inbox.mails[0].guid);
    let unwanted = "Mdeadbeef\t\x02\t\t\x02\t1\t1\t\nFrom: x\n\r\n.\r\n";
    let refused = |what| format!("Remote sent too many or too long {what}");
    let native = |rest: &[u8]| [&with_own_kind(&header)[..], rest].concat();
    // A message of almost 12 MiB begins: GUIDs that are not there.
    let guids = [&(12_570_000u32).to_le_bytes()[..], &[7, 0xa0, 0xf8, 0xfa, 5]].concat();
    let zeros = vec![0; 1 << 16];
    let packed = zstd::bulk::compress(&vec![0; 1 << 17], 1).unwrap();
    let cases: Vec<(&str, Vec<u8>, Vec<u8>, String)> = vec![
        ("nodes", said(""), many(&|n| format!("Nname{n}\ty\t{n:032x}\t1\t1\n")), refused("mailboxes")),
        ("deletions", said(".\nD/\t%\t"), format!("{guid} 1 ").repeat(2000).into(), refused("octets in one line")),
        ("attributes", lists(""), many(&|n| format!("Ap\t{key}{n}\t{key}\n")), refused("attributes")),
        ("an attribute", lists("Ap\tkey\t\x02\ts\n"), "text\n".repeat(10_000).into(), refused("octets in attributes")),
        ("mails", lists(".\n"), many(&mail), refused("mail changes")),
        ("expunges", lists(".\n"), many(&gone), refused("mail changes")),
        ("requests", lists(".\n.\n"), wanted.repeat(1000).into(), refused("mail requests")),
        ("texts", lists(".\n.\n.\n"), unwanted.repeat(1000).into(), refused("mails that were not asked for")),
        ("a message", native(&block(0, &[0, 0, 0, 8])), vec![0; 1 << 16], "the other side sent too much at once".into()),
        ("GUIDs", native(&block(0, &guids)), block(0, &zeros).repeat(16), "the other side sent too much at once".into()),
        ("packed", native(&block(0, &guids)), block(1, &packed).repeat(1000), "the other side sent too much at once".into()),
    ];
    for (what, octets, endless, wanted) in cases {
        let (ran, memory, time) = serve(&pair, &["sync"], &octets, &endless);
        eprintln!("endless {what}: {memory} KiB, {time:?}");
        assert!(ran.code == 75 && ran.stderr.contains(&wanted), "{what}: {ran:?}");
        assert!(memory < 64 << 10, "{what}: {memory} KiB");
        assert!(time < Duration::from_secs(12), "{what}: {time:?}");
        assert_eq!(client.boxes, pair.client.dump().boxes, "{what}");
    }
}
