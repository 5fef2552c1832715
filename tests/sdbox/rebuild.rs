//! A mailbox gets exactly another content: at once, beside a live Dovecot, whatever it had.

use std::path::Path;

use dsync::mail::{
    Flags, Identity, Mailbox, ModSeq, NewMail, Original, Rebuild, RebuildFrom, RebuildMail, Timestamp, UidValidity,
};
use dsync::store::Settings;
use dsync::store::format::{Format, Place};
use dsync::store::sdbox::Sdbox;

use crate::beside::Imap;
use crate::common::{assert_we_see, have_dovecot, keywords, lab, new_mail, open, place, uid};
use crate::lab::{Lab, SeenBox};
use crate::live::{create, stage, text};

const OLD: &str = "00112233445566778899aabbccddeeff";
const NEW: &str = "ffeeddccbbaa99887766554433221100";

/// Mails 1 to 6 with texts of their own.
fn six(lab: &Lab) {
    create(lab, "INBOX", OLD, 1_600_000_000);
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    for i in 1..=6 {
        stage(&mut *mailbox, NewMail { flags: Flags::SEEN, ..new_mail(i, &format!("guid-{i}")) }, &text(i));
    }
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
}

fn mail(n: u32, guid: u32) -> NewMail {
    NewMail {
        received: Timestamp(1_600_000_000 + guid),
        saved: Timestamp(1_650_000_000 + guid),
        ..new_mail(n, &format!("guid-{guid}"))
    }
}

/// 1 stays, 2 goes, 3 becomes 2, 4 and 5 change places, 6 is overwritten by a new one and appears twice behind it.
fn plan(mailbox: &mut dyn Mailbox, guid: &str) -> Rebuild {
    stage(mailbox, new_mail(90, "not wanted"), "nobody wants this\n");
    stage(mailbox, mail(6, 77), &text(77));
    let entry = |mail, from| RebuildMail { mail, from };
    let present = |n, old| entry(mail(n, old), RebuildFrom::Present(uid(old)));
    Rebuild {
        identity: Identity {
            guid: guid.parse().expect("a GUID"),
            uidvalidity: UidValidity::new(1_600_000_001).expect("not 0"),
            uid_next: uid(9),
        },
        first_recent: uid(3),
        highest_modseq: ModSeq(500),
        mails: vec![
            entry(
                NewMail { flags: Flags::FLAGGED, keywords: keywords(&["Work"]), modseq: ModSeq(400), ..mail(1, 1) },
                RebuildFrom::Present(uid(1)),
            ),
            present(2, 3),
            present(4, 5),
            present(5, 4),
            entry(mail(6, 77), RebuildFrom::Staged(1)),
            entry(NewMail { pop3_uidl: Some("u7".into()), pop3_order: 3, ..mail(7, 6) }, RebuildFrom::Present(uid(6))),
            present(8, 6),
        ],
    }
}

#[track_caller]
fn assert_as_planned(seen: &SeenBox, guid: &str) {
    assert_eq!((seen.guid.as_str(), seen.uidvalidity, seen.uidnext), (guid, 1_600_000_001, 9));
    assert_eq!(seen.highestmodseq, 500);
    let want = [(1, 1), (2, 3), (4, 5), (5, 4), (6, 77), (7, 6), (8, 6)];
    assert_eq!(seen.mails.len(), want.len());
    for (mail, (uid, guid)) in seen.mails.iter().zip(want) {
        assert_eq!((mail.uid, mail.guid.clone()), (uid, format!("guid-{guid}")));
        assert_eq!((mail.received, mail.saved), (1_600_000_000 + guid, 1_650_000_000 + guid), "{uid}");
        assert_eq!(mail.text.replace('\r', ""), text(guid).replace('\r', ""), "{uid}");
    }
    assert_eq!(seen.mails[0].flags, ["Work", "\\Flagged"]);
    assert_eq!(seen.mails[0].modseq, 400);
    assert!(seen.mails[1].flags.is_empty());
    assert_eq!((seen.mails[5].uidl.as_str(), seen.mails[5].order.as_str()), ("u7", "3"));
}

/// Nothing but the new content lies there.
#[track_caller]
fn assert_clean(place: &Place, root: &Path) {
    let mut names: Vec<String> = std::fs::read_dir(&place.mailbox)
        .expect("there")
        .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|n| !n.starts_with("dovecot"))
        .collect();
    names.sort();
    assert_eq!(names, ["u.1", "u.2", "u.4", "u.5", "u.6", "u.7", "u.8"]);
    for entry in std::fs::read_dir(root).expect("there") {
        let name = entry.expect("an entry").file_name();
        assert!(!name.to_string_lossy().contains("rebuild"), "{name:?}");
    }
}

#[test]
fn by_exchange_of_directories() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    six(&lab);
    let before = lab.dump().remove("INBOX").expect("INBOX");
    assert_eq!(before.mails.len(), 6);
    let place = place(&lab.root(), "INBOX");
    std::fs::write(place.mailbox.join("dovecot-acl"), "owner lr\n").expect("written");
    std::fs::create_dir(place.mailbox.join("other-plugin")).expect("made");
    let inode =
        |n: u32| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(place.mailbox.join(format!("u.{n}"))).expect("there"));
    let (old_one, old_three) = (inode(1), inode(3));
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    mailbox.lock(std::time::Duration::from_secs(1)).expect("free");
    let plan = plan(&mut *mailbox, NEW);
    mailbox.rebuild(plan).expect("rebuilt");
    let seen = lab.dump().remove("INBOX").expect("INBOX");
    assert_as_planned(&seen, NEW);
    assert_we_see(&mut *mailbox, &seen);
    assert_eq!((old_one, old_three), (inode(1), inode(2)), "texts are linked, not copied");
    assert!(place.mailbox.join(".dovecot-box-sync.lock").exists(), "other runs are still kept away");
    // It goes on as an ordinary mailbox.
    stage(&mut *mailbox, mail(9, 9), &text(9));
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    drop(mailbox);
    assert!(!place.mailbox.join(".dovecot-box-sync.lock").exists());
    lab.save("INBOX", text(10).as_bytes());
    assert_eq!(lab.dump()["INBOX"].mails.len(), 9);
    assert!(place.mailbox.join("dovecot-acl").exists() && place.mailbox.join("other-plugin").exists());
    std::fs::remove_file(place.mailbox.join("u.9")).and(std::fs::remove_file(place.mailbox.join("u.10"))).expect("there");
    std::fs::remove_dir(place.mailbox.join("other-plugin")).expect("there");
    assert_clean(&place, &lab.root());
    lab.silent();
}

#[test]
fn with_the_index_elsewhere() {
    if !have_dovecot() {
        return;
    }
    let mut lab = lab();
    let index = lab.path().join("home/index");
    let location = format!("mail_location=sdbox:{}:INDEX={}", lab.root().display(), index.display());
    lab.extra = vec![location];
    for n in 1..=6 {
        lab.save("INBOX", text(n).as_bytes());
    }
    let mut place = place(&lab.root(), "INBOX");
    place.index = index.join("mailboxes/INBOX");
    place.cache.clone_from(&place.index);
    assert!(place.index.join("dovecot.index.log").exists());
    let mut mailbox = Sdbox::new(Settings::default()).open(&place).expect("opened");
    let mut plan = plan(&mut *mailbox, NEW);
    // Their GUIDs are Dovecot's; what was planned is what comes.
    let guids: Vec<_> = (1..=6).map(|n| mailbox.guid(uid(n)).expect("readable")).collect();
    for m in &mut plan.mails {
        if let RebuildFrom::Present(old) = m.from {
            m.mail.guid = guids[old.get() as usize - 1].clone();
        }
    }
    let wanted: Vec<_> = plan.mails.iter().map(|m| (m.mail.uid.get(), m.mail.guid.to_string())).collect();
    mailbox.rebuild(plan).expect("rebuilt");
    let seen = lab.dump().remove("INBOX").expect("INBOX");
    assert_eq!(seen.mails.iter().map(|m| (m.uid, m.guid.clone())).collect::<Vec<_>>(), wanted);
    assert_eq!((seen.guid.as_str(), seen.uidnext, seen.highestmodseq), (NEW, 9, 500));
    for (mail, n) in seen.mails.iter().zip([1, 3, 5, 4, 77, 6, 6]) {
        assert_eq!(mail.text.replace('\r', ""), text(n).replace('\r', ""));
        assert_eq!(mail.saved, 1_650_000_000 + n);
    }
    assert_we_see(&mut *mailbox, &seen);
    assert_clean(&place, &lab.root());
    lab.save("INBOX", text(10).as_bytes());
    lab.silent();
}

#[test]
fn sessions_open_it_again_and_dovecot_says_nothing() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    six(&lab);
    let Some(mut imap) = Imap::start(&lab) else { return };
    assert!(imap.say("SELECT INBOX").contains("6 EXISTS"));
    assert!(imap.say("FETCH 1:6 (FLAGS BODY[TEXT])").contains("line two of 6"));
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    let plan = plan(&mut *mailbox, NEW);
    mailbox.rebuild(plan).expect("rebuilt");
    let answer = imap.say("NOOP");
    assert!(answer.contains("BYE") || answer.is_empty(), "{answer}");
    drop(imap);
    assert_as_planned(&lab.dump()["INBOX"], NEW);
    lab.silent();
}

#[test]
fn a_mail_that_is_gone_leaves_everything_as_it_was() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    six(&lab);
    let before = lab.dump();
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    let plan = plan(&mut *mailbox, NEW);
    lab.doveadm(&["expunge", "mailbox", "INBOX", "uid", "3"]);
    mailbox.rebuild(plan).expect_err("3 was wanted");
    let mut after = lab.dump();
    after.get_mut("INBOX").expect("INBOX").highestmodseq = before["INBOX"].highestmodseq;
    let mut want = before;
    want.get_mut("INBOX").expect("INBOX").mails.remove(2);
    assert_eq!(after, want);
    drop(mailbox);
    let names = std::fs::read_dir(lab.root()).expect("there").map(|e| e.expect("an entry").file_name());
    assert!(names.into_iter().all(|n| !n.to_string_lossy().contains("rebuild")));
    let left = std::fs::read_dir(place(&lab.root(), "INBOX").mailbox).expect("there").map(|e| e.expect("an entry").file_name());
    assert!(left.into_iter().all(|n| !n.to_string_lossy().starts_with(".temp")));
    lab.silent();
}

#[test]
fn an_old_uid_may_come_again_and_copies_stay_links() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    six(&lab);
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    mailbox.stage_copy(mail(7, 6), uid(6), Original::Keep).expect("staged");
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    mailbox.refresh().expect("refreshed");
    let entry = |n, old: u32, guid| RebuildMail { mail: mail(n, guid), from: RebuildFrom::Present(uid(old)) };
    let plan = Rebuild {
        identity: Identity {
            guid: OLD.parse().expect("a GUID"),
            uidvalidity: UidValidity::new(1_600_000_000).expect("not 0"),
            uid_next: uid(8),
        },
        first_recent: uid(1),
        highest_modseq: ModSeq(1),
        mails: vec![entry(6, 7, 6), entry(7, 6, 6)],
    };
    mailbox.rebuild(plan).expect("rebuilt");
    let seen = lab.dump().remove("INBOX").expect("INBOX");
    assert_eq!(seen.mails.iter().map(|m| (m.uid, m.refs)).collect::<Vec<_>>(), [(6, 2), (7, 2)]);
    assert_we_see(&mut *mailbox, &seen);
    lab.silent();
}

#[test]
fn with_every_kind_of_lock() {
    use dsync::os::LockMethod;
    if !have_dovecot() {
        return;
    }
    for (method, name) in [(LockMethod::Flock, "flock"), (LockMethod::Dotlock, "dotlock")] {
        let mut lab = lab();
        lab.extra.push(format!("lock_method={name}"));
        six(&lab);
        let index = dsync::index::Settings { lock_method: method, ..dsync::index::Settings::default() };
        let settings = Settings { index, ..Settings::default() };
        let mut mailbox = open(&lab.root(), "INBOX", &settings);
        mailbox.lock(std::time::Duration::from_secs(1)).expect("free");
        let plan = plan(&mut *mailbox, NEW);
        mailbox.rebuild(plan).expect("rebuilt");
        let seen = lab.dump().remove("INBOX").expect("INBOX");
        assert_as_planned(&seen, NEW);
        stage(&mut *mailbox, mail(9, 9), &text(9));
        mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
        lab.save("INBOX", text(10).as_bytes());
        drop(mailbox);
        let left = std::fs::read_dir(place(&lab.root(), "INBOX").mailbox).expect("there");
        let locks = left.filter(|e| e.as_ref().expect("an entry").file_name().to_string_lossy().contains(".lock")).count();
        assert_eq!(locks, 0);
        lab.silent();
    }
}
