//! The man page's conversion without downtime, and a backup that is brought back.

use std::os::unix::fs::chown;

use crate::lab::{Lab, Side, UID, assert_equal, assert_idle, assert_same, changed, have_dovecot, mail};

/// Mail with all that a mail can have. Dovecot itself made the storage, from a Maildir for the sake of the UIDLs.
fn populate(lab: &Lab, side: &Side) {
    let seed = if side.driver == "maildir" { side.clone() } else { lab.side("seed", "maildir") };
    {
        let mut imap = seed.imap();
        for (name, first) in [("INBOX", 1), ("Work", 20), ("Work/Sub", 30), ("&AMQ-rger", 40), ("Archive", 50)] {
            if name != "INBOX" {
                imap.ok(&format!("CREATE \"{name}\""));
            }
            for n in first..first + 6 {
                let flags = ["()", "(\\Seen)", "(\\Flagged $Label1)", "(\\Answered todo)", "(\\Draft \\Seen later)", "(todo)"];
                let how = format!("{} \"{:02}-Mar-2019 10:00:00 +0000\"", flags[n as usize % 6], 1 + n % 28);
                assert!(imap.append(name, &how, &mail(n)).contains(" OK "));
            }
            imap.ok(&format!("SUBSCRIBE \"{name}\""));
        }
        // A gap among the UIDs, and one at the end.
        imap.ok("SELECT INBOX");
        imap.ok("UID STORE 3,6 +FLAGS (\\Deleted)");
        imap.ok("EXPUNGE");
        imap.ok("UNSUBSCRIBE Archive");
    }
    // UIDLs from an old POP3 server.
    let list = seed.dir.join("dovecot-uidlist");
    let text = std::fs::read_to_string(&list).expect("uidlist");
    let text: String = text
        .lines()
        .enumerate()
        .map(|(i, line)| if i == 0 { format!("{line}\n") } else { line.replacen(" :", &format!(" Pold-uidl-{i} :"), 1) + "\n" })
        .collect();
    std::fs::write(&list, text).expect("uidlist");
    chown(&list, Some(UID), Some(UID)).expect("chown");
    if side.driver != "maildir" {
        seed.doveadm(&["sync", &format!("{}:{}", side.driver, side.dir.display())]);
    }
}

fn convert(from: &'static str, to: &'static str) {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (old, new) = (lab.place("alice", "old", from), lab.place("alice", "new", to));
    populate(&lab, &old);
    let before = old.dump();
    assert_eq!(before.texts().len(), 28);
    assert!(before.boxes["INBOX"].mails.iter().all(|m| m.uidl.starts_with("old-uidl-")), "{:?}", before.boxes["INBOX"]);

    // 1. Everything is copied, while the user is at work.
    let mut session = old.imap();
    session.ok("SELECT INBOX");
    lab.dsync(&old, &new, &["sync"]).fine();
    assert_equal(&before, &assert_same(&old, &new));

    // 2. Mail has arrived, flags have changed, ... Subscriptions have times in seconds; of one second the subscribed one wins.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    session.ok("NOOP");
    session.ok("STORE 1 -FLAGS (\\Seen \\Flagged)");
    session.ok("STORE 2 +FLAGS (\\Answered new-keyword)");
    session.ok("UID STORE 5 +FLAGS (\\Deleted)");
    session.ok("UID EXPUNGE 5");
    session.ok("COPY 1:2 Work");
    session.ok("MOVE 2 Archive");
    session.ok("CREATE Late/Box");
    session.ok("SUBSCRIBE Late/Box");
    // Clients move the subscription along. (Without that Dovecot's rules subscribe the new name and keep the old one.)
    session.ok("RENAME Work/Sub Projects");
    session.ok("UNSUBSCRIBE Work/Sub");
    session.ok("SUBSCRIBE Projects");
    session.ok("DELETE &AMQ-rger");
    assert!(session.append("INBOX", "(\\Seen)", &mail(100)).contains(" OK "));
    assert!(session.append("Late/Box", "(kw) \"01-Jan-2001 00:00:00 +0100\"", &mail(101)).contains(" OK "));
    old.save("Projects", &mail(102));
    let middle = old.dump();
    lab.dsync(&old, &new, &["sync"]).fine();
    assert_equal(&middle, &assert_same(&old, &new));

    // 3. Dovecot uses the new place now; the session that still has the old one open goes on for a moment.
    let mut switched = new.imap();
    switched.ok("SELECT INBOX");
    switched.ok("STORE 1 +FLAGS (\\Flagged)");
    assert!(switched.append("INBOX", "()", &mail(200)).contains(" OK "));
    assert!(session.append("INBOX", "()", &mail(201)).contains(" OK "));
    session.ok("SELECT Work");
    session.ok("STORE 1 +FLAGS (late-flag)");
    drop(session);
    old.save("Work", &mail(202));
    lab.dsync(&new, &old, &["sync"]).fine();
    let last = assert_same(&new, &old);
    switched.ok("NOOP");
    drop(switched);

    let gone = ["mail 3\r", "mail 6\r", "mail 5\r", "mail 40\r", "mail 45\r"];
    for n in (1..=6).chain(20..=25).chain(30..=35).chain(50..=55).chain([100, 101, 102, 200, 201, 202]) {
        let subject = format!("Subject: mail {n}\n");
        let count = last.texts().iter().filter(|t| t.replace('\r', "").contains(&subject)).count();
        let copied = [1, 2].contains(&n);
        let expected = if gone.contains(&format!("mail {n}\r").as_str()) { 0 } else { 1 + usize::from(copied) };
        assert_eq!(count, expected, "mail {n}");
    }
    assert!(last.boxes["Work"].mails.iter().any(|m| m.flags.contains(&"late-flag".into())));
    assert!(last.boxes["INBOX"].mails[0].flags.contains(&"\\Flagged".into()));
    assert!(last.subscriptions.contains(&"Late/Box".into()) && !last.boxes.contains_key("Work/Sub"));
    // The session has seen what came from the old place: that is no longer recent.
    lab.dsync(&new, &old, &["sync"]).fine();
    assert_idle(&lab, &new, &old, &["sync"]);
    lab.silent();

    // The old place can go.
    std::fs::remove_dir_all(&old.dir).expect("rm");
    assert_equal(&last, &new.dump());
    lab.silent();
}

#[test]
fn maildir_becomes_mdbox() {
    convert("maildir", "mdbox");
}

#[test]
fn maildir_becomes_sdbox() {
    convert("maildir", "sdbox");
}

#[test]
fn mdbox_becomes_maildir() {
    convert("mdbox", "maildir");
}

#[test]
fn sdbox_becomes_mdbox() {
    convert("sdbox", "mdbox");
}

/// Nightly backups, an accident, and the mail is back.
#[test]
fn a_backup_is_brought_back() {
    if !have_dovecot() {
        return;
    }
    for (from, to) in [("maildir", "mdbox"), ("mdbox", "sdbox"), ("sdbox", "maildir")] {
        let lab = Lab::new();
        let (live, vault) = (lab.side("alice", from), lab.side("vault", to));
        populate(&lab, &live);
        lab.dsync(&live, &vault, &["backup", "-l", "60"]).fine();
        assert_same(&live, &vault);
        assert_idle(&lab, &live, &vault, &["backup", "-l", "60"]);

        let mut imap = live.imap();
        imap.ok("SELECT INBOX");
        imap.ok("STORE 1:* +FLAGS (touched)");
        imap.ok("EXPUNGE");
        imap.ok("RENAME Archive Elsewhere");
        assert!(imap.append("Work", "(\\Seen)", &mail(300)).contains(" OK "));
        lab.dsync(&live, &vault, &["backup", "-l", "60"]).fine();
        let good = assert_same(&live, &vault);

        // Somebody meddles with the backup: the next one undoes it.
        vault.doveadm(&["expunge", "mailbox", "INBOX", "uid", "1"]);
        vault.doveadm(&["flags", "add", "\\Flagged", "mailbox", "Work", "all"]);
        vault.doveadm(&["mailbox", "create", "-s", "Foreign"]);
        vault.save("Foreign", &mail(301));
        vault.save("INBOX", &mail(302));
        lab.dsync(&live, &vault, &["backup"]).fine();
        assert_equal(&good, &assert_same(&live, &vault));

        // The accident, and mail that came after it.
        imap.ok("SELECT INBOX");
        imap.ok("STORE 1:* +FLAGS (\\Deleted)");
        imap.ok("EXPUNGE");
        imap.ok("DELETE Work");
        imap.ok("UNSUBSCRIBE INBOX");
        lab.dsync(&live, &vault, &["backup", "-R"]).fine();
        assert_equal(&good, &assert_same(&live, &vault));
        // Mails that are back under their old UIDs end a session that saw them go.
        imap.any("NOOP");
        drop(imap);
        // And into an empty home.
        let fresh = lab.side("fresh", from);
        lab.dsync(&fresh, &vault, &["backup", "-R"]).fine();
        assert_equal(&good, &fresh.dump());
        lab.silent();
    }
}

/// Places without index files: UIDs and GUIDs are in the uidlist, flags in the names.
#[test]
fn maildirs_without_indexes() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let without = |name: &str| {
        let mut side = lab.side(name, "maildir");
        side.location.push_str(":INDEX=MEMORY");
        side
    };
    let (a, b, c) = (lab.side("a", "mdbox"), without("b"), lab.side("c", "sdbox"));
    populate(&lab, &a);
    // When a mail was saved is the time of a Maildir's file, or in the cache, which is an index file.
    let equal = |x: &Side, y: &Side| assert_equal(&x.dump().without_saved(), &y.dump().without_saved());
    for (from, to) in [(&a, &b), (&b, &c)] {
        lab.dsync(from, to, &["backup"]).fine();
        equal(from, to);
        let quiet = to.files();
        lab.dsync(from, to, &["backup"]).fine();
        assert!(changed(&quiet, &to.files()).is_empty());
        from.doveadm(&["flags", "add", "\\Flagged changed", "mailbox", "INBOX", "uid", "2"]);
        from.doveadm(&["expunge", "mailbox", "INBOX", "uid", "4"]);
        from.save("Work", &mail(90));
        lab.dsync(from, to, &["backup"]).fine();
        equal(from, to);
    }
    // What a filter holds back could not be remembered, and a later run would take it for deleted.
    let count = |side: &Side| side.doveadm(&["mailbox", "status", "messages", "INBOX"]);
    let all = count(&b);
    for args in [&["sync", "-t", "2021-01-01"][..], &["sync", "-1", "-I", "1"]] {
        let d = without("d");
        lab.dsync(&b, &d, args).says(65, &["Mailbox INBOX: ", "INDEX=MEMORY"]);
        lab.dsync(&b, &d, &["sync"]).fine();
        assert_eq!([count(&b), count(&d)], [all.clone(), all.clone()]);
        std::fs::remove_dir_all(&d.dir).expect("rm");
    }
    assert!(b.files().keys().all(|p| !p.to_string_lossy().contains("dovecot.index")));
    lab.silent();
    let ran = lab.dsync_to(&a, &["backup", &format!("sdbox:{}:INDEX=MEMORY", lab.path().join("d").display())]);
    ran.says(75, &["sdbox cannot work without index files"]);
}
