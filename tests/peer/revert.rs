//! Backups to a Dovecot whose mailboxes have changed on their own. What it cannot take back it deletes, and ends the session.

use crate::lab::Ran;
use crate::matrix::{Pair, Who};
use crate::oracle::{Side, assert_equal, have_dovecot, mail};

/// Mails of its own under UIDs of the source, a mail less, other flags.
fn go_astray(side: &Side, names: &[&str]) {
    for name in names {
        side.doveadm(&["expunge", "mailbox", name, "uid", "1"]);
        side.save(name, &mail(700));
        side.save(name, &mail(701));
        side.doveadm(&["flags", "add", "\\Flagged astray", "mailbox", name, "all"]);
    }
}

fn backup(pair: &Pair) -> Ran {
    let server = pair.server_words(Who::Doveadm);
    let words: Vec<&str> = ["backup"].into_iter().chain(server.iter().map(String::as_str)).collect();
    pair.run(Who::Ours, &words)
}

fn astray(format: &'static str, names: &[&str]) -> Pair {
    let pair = Pair::new(["maildir", format]);
    for n in 10..14 {
        pair.client.save("Work", &mail(n));
        pair.client.save("INBOX", &mail(10 + n));
    }
    backup(&pair).fine();
    go_astray(&pair.server, names);
    pair.client.save("Work", &mail(30));
    pair.client.save("INBOX", &mail(31));
    pair
}

#[test]
fn one_run_makes_the_destination_equal_again() {
    if !have_dovecot() {
        return;
    }
    for (format, names) in [("mdbox", &["INBOX", "Work"][..]), ("sdbox", &["INBOX", "Work"]), ("maildir", &["Work"])] {
        let pair = astray(format, names);
        let before = pair.client.dump();
        let ran = backup(&pair);
        assert_eq!(ran.code, 0, "{format}: {ran:?}");
        assert_equal(&pair.client.dump().without_saved(), &pair.server.dump().without_saved());
        assert_equal(&before, &pair.client.dump());
        backup(&pair).fine();
        pair.lab.silent();
    }
}

/// Dovecot cannot delete the INBOX of a Maildir. All mails are there afterwards, and it is said that they are not the same.
#[test]
fn the_inbox_of_a_maildir_gets_all_mails() {
    if !have_dovecot() {
        return;
    }
    let pair = astray("maildir", &["INBOX", "Work"]);
    let source = pair.client.dump().without_saved();
    for _ in 0..2 {
        let ran = backup(&pair);
        ran.says(2, &["INBOX of the destination cannot be made equal, because Dovecot cannot delete it"]);
        let (mut a, mut b) = (pair.client.dump().without_saved(), pair.server.dump().without_saved());
        assert_equal(&source, &a);
        let texts = |dump: &crate::oracle::Dump| {
            let mut texts: Vec<_> = dump.boxes["INBOX"].mails.iter().map(|m| m.text.clone()).collect();
            texts.sort();
            texts
        };
        let (ours, theirs) = (texts(&a), texts(&b));
        assert_eq!(ours, theirs, "{ran:?}");
        a.boxes.remove("INBOX");
        b.boxes.remove("INBOX");
        assert_equal(&a, &b);
    }
}

/// Every mailbox costs a session, but no session looks again at what the ones before have made equal.
#[test]
fn many_mailboxes_are_not_looked_at_again_and_again() {
    if !have_dovecot() {
        return;
    }
    let names: Vec<String> = (0..8).map(|n| format!("Box{n}")).collect();
    let pair = Pair::new(["maildir", "mdbox"]);
    for name in &names {
        pair.client.doveadm(&["mailbox", "create", name]);
        (1..4).for_each(|n| pair.client.save(name, &mail(n)));
    }
    backup(&pair).fine();
    for name in &names {
        pair.server.doveadm(&["expunge", "mailbox", name, "uid", "1"]);
        pair.server.save(name, &mail(700));
        (10..13).for_each(|n| pair.client.save(name, &mail(n)));
    }
    let log = pair.lab.make_dir("raw").join("log");
    let server = pair.server_words(Who::Doveadm);
    let words = ["backup", "-r", log.to_str().unwrap()].into_iter().chain(server.iter().map(String::as_str));
    let ran = pair.run(Who::Ours, &words.collect::<Vec<_>>());
    assert_eq!((ran.code, ran.stderr.matches("begins it anew").count()), (0, names.len()), "{ran:?}");
    let log = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
    let offered = log.lines().filter(|l| l.split_once(" O: B").is_some_and(|(_, b)| b.starts_with(|c: char| c.is_ascii_digit())));
    // Each twice, and INBOX and the two others of the lab once.
    assert_eq!(offered.count(), 2 * names.len() + 3, "{log}");
    assert_equal(&pair.client.dump().without_saved(), &pair.server.dump().without_saved());
    pair.lab.silent();
}
