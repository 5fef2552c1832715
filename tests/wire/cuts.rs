//! The line is cut anywhere: both sides stay whole, nothing is lost or doubled, and the next run completes.

use std::collections::BTreeMap;

use crate::live::{PAIRS, Who, run_to, server};
use crate::oracle::{Lab, Side, assert_equal, have_dovecot, mail};

/// A small generator: the same places in every run of the tests.
struct Places(u64);

impl Places {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ")
}

/// How often each text is there.
fn texts(side: &Side) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for mail in side.dump().boxes.into_values().flat_map(|b| b.mails) {
        *out.entry(mail.text).or_default() += 1;
    }
    out
}

fn cut(ends: (Who, Who), rounds: u64, seed: u64) {
    let mut places = Places(seed);
    let lab = Lab::new();
    let first = (lab.side("a", "mdbox"), lab.side("b", "maildir"));
    // Not equally many: equal counters are overlooked wherever a Dovecot is asked (sync.md 5.3).
    for (side, from, count) in [(&first.0, 100, 12), (&first.1, 200, 15)] {
        let mut imap = side.imap();
        for n in 0..count {
            imap.append("INBOX", "", &mail(from + n));
        }
        side.doveadm(&["mailbox", "create", &format!("Box{from}")]);
        side.save(&format!("Box{from}"), &mail(from + 50));
    }
    let all: BTreeMap<String, usize> = texts(&first.0).into_iter().chain(texts(&first.1)).collect();
    for round in 0..rounds {
        let at = 1 + places.next(24_000);
        let upward = round % 2 == 0;
        let copy = |from: &Side, name: &str, driver| {
            let to = lab.side(&format!("{name}{round}"), driver);
            let status = std::process::Command::new("cp").arg("-a").arg(&from.dir).arg(&to.dir).status().expect("cp");
            assert!(status.success());
            to
        };
        let (a, b) = (copy(&first.0, "a", "mdbox"), copy(&first.1, "b", "maildir"));
        let other = server(ends.1, &b);
        let line =
            if upward { format!("head -c {at} | {}", quoted(&other)) } else { format!("{} | head -c {at}", quoted(&other)) };
        let words = ["sh".to_owned(), "-c".to_owned(), line, "dsync-server".to_owned()];
        let what = format!("{ends:?}, {} cut at {at}", if upward { "upward" } else { "downward" });
        // The shell keeps the other direction open: then it is silence that ends the run.
        let ran = run_to(ends.0, &a, &["sync", "-T", "2"], &words);
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        for side in [&a, &b] {
            for (text, n) in texts(side) {
                assert!(n == 1 && all.contains_key(&text), "{what}: doubled");
            }
        }
        for (side, before) in [(&a, &first.0), (&b, &first.1)] {
            let now = texts(side);
            assert!(texts(before).keys().all(|t| now.contains_key(t)), "{what}: lost");
        }
        run_to(ends.0, &a, &["sync"], &other).fine();
        assert_equal(&a.dump().without_saved(), &b.dump().without_saved());
        assert_eq!(texts(&a), all, "{what}");
        let _ = (std::fs::remove_dir_all(&a.dir), std::fs::remove_dir_all(&b.dir));
    }
}

#[test]
fn a_cut_line_loses_nothing() {
    if !have_dovecot() {
        return;
    }
    // More of them: DSYNC_CUTS=200.
    let rounds = std::env::var("DSYNC_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    for (n, ends) in (1..).zip(PAIRS) {
        cut(ends, rounds, n);
    }
}
