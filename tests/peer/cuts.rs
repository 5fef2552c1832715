//! Connections that are cut somewhere: the next run completes the work, and nothing is lost or there twice.
//! `DSYNC_CUTS` asks for more of them.

use std::collections::BTreeSet;
use std::process::Command;

use crate::lab::noise;
use crate::matrix::{Pair, Who};
use crate::options::direction;
use crate::oracle::{Dump, Side, assert_equal, have_dovecot, mail};

fn count() -> usize {
    std::env::var("DSYNC_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

/// A mail of this many bytes and more.
fn big(n: u32) -> String {
    mail(n) + &"0123456789 some more text\n".repeat(200 + (n as usize * 37) % 900)
}

fn populated() -> Pair {
    let pair = Pair::new(["maildir", "sdbox"]);
    for (first, side, name) in [(200, &pair.client, "Of client"), (300, &pair.server, "Of server")] {
        side.doveadm(&["mailbox", "create", "-s", name]);
        for n in first..first + 6 {
            side.save(if n % 2 == 0 { name } else { "INBOX" }, &big(n));
        }
        side.doveadm(&["flags", "add", "\\Flagged", "mailbox", "Work", "all"]);
    }
    pair.server.save("INBOX", &big(400));
    pair.client.doveadm(&["expunge", "mailbox", "INBOX", "uid", "2"]);
    pair
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let _ = std::fs::remove_dir_all(to);
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(done.success());
}

/// Every text is there once.
#[track_caller]
fn whole(dump: &Dump, what: &str) {
    let texts: Vec<_> = dump.texts();
    let different: BTreeSet<_> = texts.iter().collect();
    assert_eq!((texts.len(), different.len()), (15, 15), "{what}");
}

fn cut(who: Who, there: Who) {
    if !have_dovecot() {
        return;
    }
    let pair = populated();
    let sides: [&Side; 2] = [&pair.client, &pair.server];
    let kept: Vec<_> = sides.iter().map(|side| side.home.with_extension("kept")).collect();
    for (side, kept) in sides.iter().zip(&kept) {
        copy(&side.home, kept);
    }
    let raw = pair.lab.make_dir("raw").join("log");
    let server = pair.server_words(there).join(" ");
    let run = |a: usize, b: usize, options: &[&str]| {
        // Whatever comes goes on at once, up to so many bytes. Each read counts as a full one.
        let dd = "dd bs=512 iflag=count_bytes status=none count=";
        let script = format!("{dd}{a} | {server} | {dd}{b}");
        let words = [&["sync"], options, &["sh", "-c", &script]].concat();
        pair.run(who, &words)
    };
    let uncut = usize::MAX >> 2;
    let ran = run(uncut, uncut, &["-r", raw.to_str().unwrap()]);
    assert!([0, 2].contains(&ran.code), "{ran:?}");
    let (sent, received) = (direction(&raw, 'O').len(), direction(&raw, 'I').len());
    assert!(sent > 20_000 && received > 20_000, "{sent} {received}");

    for (n, random) in (0..count() * 2).zip(noise(1)) {
        for (side, kept) in sides.iter().zip(&kept) {
            copy(kept, &side.home);
        }
        let place = usize::try_from(random >> 33).unwrap();
        let (a, b) = if n % 2 == 0 { (place % sent, uncut) } else { (uncut, place % received) };
        let what = format!("{who:?} to {there:?}, cut at {a} and {b}");
        // The shell keeps its end open when the last command has ended: that is silence.
        let broken = run(a, b, &["-T", "1"]);
        assert!(!broken.stderr.contains("panicked"), "{what}: {broken:?}");
        let mut ran = run(uncut, uncut, &[]);
        if ran.code == 2 {
            ran = run(uncut, uncut, &[]);
        }
        assert!(ran.code == 0, "{what}: {ran:?} after {broken:?}");
        let (a, b) = (pair.client.dump().without_saved(), pair.server.dump().without_saved());
        assert_equal(&a, &b);
        whole(&a, &what);
    }
    pair.lab.silent();
}

/// What arrived whole before the cut is not sent again.
#[test]
fn a_cut_transfer_goes_on_where_it_was() {
    if !have_dovecot() {
        return;
    }
    for (who, there, pushed) in [
        (Who::Ours, Who::Ours, true),
        (Who::Ours, Who::Ours, false),
        (Who::Ours, Who::Doveadm, false),
        (Who::Doveadm, Who::Ours, true),
    ] {
        let pair = Pair::new(["maildir", "sdbox"]);
        let from = if pushed { &pair.client } else { &pair.server };
        let mut imap = from.imap();
        let mut random = noise(1);
        for n in 500..540 {
            // Little of it can be packed.
            let letter = |random: u64| char::from(b'0' + u8::try_from(random >> 58).unwrap());
            let letters: String = random.by_ref().take(20_000).map(letter).collect();
            let lines: Vec<&str> = (0..200).map(|n| &letters[n * 100..(n + 1) * 100]).collect();
            imap.append("Work", "", &(mail(n) + &lines.join("\n")));
        }
        drop(imap);
        let raw = pair.lab.make_dir("raw");
        let server = pair.server_words(there).join(" ");
        let run = |count: usize, log: &str, options: &[&str]| {
            // Each read counts as a full one, so they are small ones.
            let line = format!("dd bs=256 iflag=count_bytes status=none count={count}");
            let script = if pushed { format!("{line} | {server}") } else { format!("{server} | {line}") };
            let log = raw.join(log);
            let words = [&["sync", "-r", log.to_str().unwrap()], options, &["sh", "-c", &script]].concat();
            let ran = pair.run(who, &words);
            (ran, direction(&log, if pushed { 'O' } else { 'I' }).len())
        };
        let (broken, _) = run(500_000, "cut", &["-T", "2"]);
        assert_ne!(broken.code, 0, "{who:?} {there:?} {broken:?}");
        let (ran, more) = run(usize::MAX >> 2, "rest", &[]);
        assert!([0, 2].contains(&ran.code), "{who:?} {there:?} {ran:?}");
        // 40 mails of 20 kB, a quarter less where they are packed; of those cut off there is one that had begun.
        assert!((100_000..380_000).contains(&more), "{who:?} {there:?} pushed: {pushed}: {more} octets");
        assert_equal(&pair.client.dump().without_saved(), &pair.server.dump().without_saved());
        pair.lab.silent();
    }
}

#[test]
fn ours_to_ours() {
    cut(Who::Ours, Who::Ours);
}

#[test]
fn ours_to_dovecot() {
    cut(Who::Ours, Who::Doveadm);
}

#[test]
fn dovecot_to_ours() {
    cut(Who::Doveadm, Who::Ours);
}
