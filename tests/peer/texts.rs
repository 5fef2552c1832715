//! Where mails come to lie at the other end, and texts that need not travel.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::lab::noise;
use crate::matrix::{Pair, Who};
use crate::options::direction;
use crate::oracle::{Lab, Side, assert_equal, files, have_dovecot, mail};

/// `--alt` reaches the side that was not given it.
#[test]
fn where_mails_shall_lie_is_told() {
    if !have_dovecot() {
        return;
    }
    for (how, wanted) in [("keep", (2, 2)), ("primary", (4, 0)), ("older-than=2037-01-01", (0, 4))] {
        let lab = Lab::new();
        let with_alt = |name| {
            let mut side: Side = lab.side(name, "sdbox");
            side.location += &format!(":ALT={}", side.home.join("alt").display());
            side
        };
        let (client, server) = (with_alt("client"), with_alt("server"));
        for n in 1..=4 {
            client.save("INBOX", &mail(n));
        }
        client.doveadm(&["altmove", "mailbox", "INBOX", "uid", "1:2"]);
        let pair = Pair::of(lab, client, server);
        let server = pair.server_words(Who::Ours);
        let words: Vec<&str> = ["backup", "--alt", how].into_iter().chain(server.iter().map(String::as_str)).collect();
        pair.run(Who::Ours, &words).fine();
        let mails = |dir: &Path| {
            let is_mail = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("u."));
            files(dir).into_iter().filter(|(p, _)| is_mail(p)).count()
        };
        assert_eq!((mails(&pair.server.dir), mails(&pair.server.home.join("alt"))), wanted, "{how}");
        assert_equal(&pair.client.dump(), &pair.server.dump());
        pair.lab.silent();
    }
}

/// `-a`: what a side has in its mailbox with all mails is not sent to it again.
#[test]
fn what_is_in_the_mailbox_with_all_mails_does_not_travel() {
    if !have_dovecot() {
        return;
    }
    // Who runs, who answers, and whether the side that has started the run gets the mails.
    for (who, there, pulled) in [
        (Who::Ours, Who::Ours, true),
        (Who::Ours, Who::Ours, false),
        (Who::Ours, Who::Doveadm, true),
        (Who::Doveadm, Who::Ours, false),
    ] {
        let pair = Pair::new(["mdbox", "sdbox"]);
        let (from, to) = if pulled { (&pair.server, &pair.client) } else { (&pair.client, &pair.server) };
        let text = |n: u64| {
            // Nothing that can be packed.
            let lines: String = noise(n).take(3000).map(|random| format!("{random:x}\n")).collect();
            mail(u32::try_from(n).unwrap()) + &lines
        };
        from.doveadm(&["mailbox", "create", "All"]);
        for n in 50..53 {
            from.save("All", &text(n));
        }
        let server = pair.server_words(there);
        let run = |options: &[&str]| {
            let words: Vec<&str> = options.iter().copied().chain(server.iter().map(String::as_str)).collect();
            pair.run(who, &words)
        };
        assert!([0, 2].contains(&run(&["sync"]).code));
        for (name, options, most) in [("Known", &["sync", "-a", "All"][..], 50_000), ("Sent", &["sync"], usize::MAX)] {
            from.doveadm(&["mailbox", "create", name]);
            from.doveadm(&["copy", name, "mailbox", "All", "all"]);
            let raw = pair.lab.make_dir("raw").join(name);
            let ran = run(&[options, &["-r", raw.to_str().unwrap()]].concat());
            assert!(ran.code == 0 && ran.stderr.is_empty(), "{who:?} {there:?} {ran:?}");
            let came = direction(&raw, if pulled { 'I' } else { 'O' }).len();
            assert!(came < most && (most < usize::MAX || came > 150_000 / 2), "{who:?} {there:?} {name}: {came}");
            let (a, b) = (pair.client.dump().without_saved(), pair.server.dump().without_saved());
            assert_equal(&a, &b);
            assert_eq!(a.boxes[name].mails.len(), 3);
        }
        // A mail that is in its index and cannot be read comes in the usual way.
        from.doveadm(&["mailbox", "create", "Again"]);
        from.doveadm(&["copy", "Again", "mailbox", "All", "all"]);
        if to.driver == "sdbox" && who == Who::Ours {
            for (path, _) in files(&to.dir).into_iter().filter(|(p, _)| p.to_string_lossy().contains("/All/dbox-Mails/u.2")) {
                std::fs::remove_file(path).unwrap();
            }
            let ran = run(&["sync", "-a", "All"]);
            assert!(!ran.stderr.contains("panicked"), "{ran:?}");
            let texts = |side: &Side| side.doveadm(&["fetch", "uid guid text", "mailbox", "Again", "all"]);
            assert_eq!(texts(from), texts(to), "{ran:?}");
        }
    }
}

/// A mail whose text cannot be given stays where it is and under its UID, and goes when it can be read.
#[test]
fn a_mail_that_cannot_be_read_for_a_while_is_not_lost() {
    if !have_dovecot() {
        return;
    }
    let dovecots = [(Who::Ours, Who::Doveadm), (Who::Doveadm, Who::Ours)];
    for (driver, who, there) in ["maildir", "sdbox", "mdbox"].into_iter().flat_map(|driver| dovecots.map(|(a, b)| (driver, a, b)))
    {
        let case = format!("{driver} {who:?} {there:?}");
        let lab = Lab::new();
        // Each mail in a file of its own.
        let side = |name| lab.side(name, driver).with("mdbox_rotate_size=1");
        let (client, server, first) = (side("client"), side("server"), side("first"));
        let ours = if who == Who::Ours { client.clone() } else { server.clone() };
        for n in 1..=3 {
            first.save("INBOX", &mail(n));
        }
        // It knows their GUIDs without opening them.
        lab.dsync(&first, &ours, &["sync"]).fine();
        let pair = Pair::of(lab, client, server);
        let is_second = |(path, text): &(PathBuf, Vec<u8>)| {
            !path.to_string_lossy().contains("dovecot") && text.windows(5).any(|w| w == b"<2@ex")
        };
        let second = || ours.dir.join(files(&ours.dir).into_iter().find(is_second).expect("the second mail").0);
        std::fs::set_permissions(second(), std::fs::Permissions::from_mode(0o000)).expect("chmod");
        let server = pair.server_words(there);
        let words: Vec<&str> = ["sync"].into_iter().chain(server.iter().map(String::as_str)).collect();
        for n in 0..3 {
            if n == 2 {
                // Another one behind it.
                ours.save("INBOX", &mail(4));
            }
            let ran = pair.run(who, &words);
            assert!(ran.stderr.contains("UID 2"), "{case} {n} {ran:?}");
            // Its UID is its name, or it has none.
            assert!(driver != "sdbox" || second().ends_with("u.2"), "{case} {n}: {:?}", second());
        }
        std::fs::set_permissions(second(), std::fs::Permissions::from_mode(0o600)).expect("chmod");
        // It gets a new UID, and is given.
        pair.run(who, &words);
        pair.run(who, &words);
        let (a, b) = (pair.client.dump().without_saved(), pair.server.dump().without_saved());
        assert_equal(&a, &b);
        assert_eq!(a.boxes["INBOX"].mails.len(), 4, "{case}");
    }
}
