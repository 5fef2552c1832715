//! Scratch sdboxes, driven through the contracts and by real Dovecot.

use std::path::{Path, PathBuf};

use dsync::mail::{Mailbox, MailboxName};
use dsync::os::fs::Modes;
use dsync::store::Settings;
use dsync::store::format::{Format, Place};
use dsync::store::sdbox::Sdbox;

use crate::lab::{Lab, SeenBox};

pub use self::mails::{flag_names, keywords, new_mail, read, uid};

#[path = "../shared/mails.rs"]
mod mails;

/// `false` when there is no Dovecot here; says so on stderr.
pub fn have_dovecot() -> bool {
    let root = rustix::process::geteuid().is_root();
    if root && std::process::Command::new("doveadm").arg("help").output().is_ok() {
        return true;
    }
    eprintln!("skipped: this test needs root and Dovecot's doveadm");
    false
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dbox").join(name)
}

/// A lab whose mail is in an sdbox.
pub fn lab() -> Lab {
    let mut lab = Lab::new();
    let location = format!("mail_location=sdbox:{}", lab.root().display());
    lab.extra.push(location);
    lab
}

/// A mailbox at its default place.
pub fn place(root: &Path, name: &str) -> Place {
    let dir = root.join("mailboxes").join(name).join("dbox-Mails");
    Place {
        name: MailboxName::parse(name, '/').expect("a name"),
        storage_name: name.into(),
        inbox: name == "INBOX",
        mailbox: dir.clone(),
        index: dir.clone(),
        cache: dir.clone(),
        control: dir,
        alt: None,
        control_root: root.to_owned(),
        volatile: None,
        names_in_index: false,
        modes: std::fs::metadata(root).map_or_else(|_| Modes::default(), |m| Modes::like(&m)),
    }
}

/// The names of the mailboxes below a root.
pub fn names(root: &Path) -> Vec<String> {
    let top = root.join("mailboxes");
    let (mut names, mut todo) = (Vec::new(), vec![top.clone()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|n| n == "dbox-Mails") {
                names.push(dir.strip_prefix(&top).expect("below").to_str().expect("UTF-8").to_owned());
            } else if path.is_dir() {
                todo.push(path);
            }
        }
    }
    names.sort();
    names
}

pub fn open(root: &Path, name: &str, settings: &Settings) -> Box<dyn Mailbox> {
    Sdbox::new(settings.clone()).open(&place(root, name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What we see of a mailbox must be what Dovecot sees.
#[track_caller]
pub fn assert_we_see(mailbox: &mut dyn Mailbox, seen: &SeenBox) {
    let status = mailbox.status();
    assert_eq!(status.identity.guid.to_string(), seen.guid);
    assert_eq!(status.identity.uidvalidity.get(), seen.uidvalidity);
    assert_eq!(status.identity.uid_next.get(), seen.uidnext);
    assert_eq!(status.highest_modseq.0, seen.highestmodseq);
    let mails = mailbox.mails().to_vec();
    let uids: Vec<_> = mails.iter().map(|m| m.uid.get()).collect();
    assert_eq!(uids, seen.mails.iter().map(|m| m.uid).collect::<Vec<_>>());
    for (mail, want) in mails.iter().zip(&seen.mails) {
        let at = format!("uid {}", mail.uid);
        assert_eq!(flag_names(mail), want.flags, "{at}");
        assert_eq!(mail.modseq.0, want.modseq, "{at}");
        assert_eq!(mailbox.guid(mail.uid).unwrap_or_else(|e| panic!("{at}: {e}")).to_string(), want.guid, "{at}");
        let facts = mailbox.facts(mail.uid).unwrap_or_else(|e| panic!("{at}: {e}"));
        assert_eq!((facts.received.0, facts.saved.0), (want.received, want.saved), "{at}: received, saved");
        assert_eq!(facts.pop3_uidl.unwrap_or_default(), want.uidl, "{at}");
        assert_eq!(facts.pop3_order, want.order.parse().unwrap_or(0), "{at}");
        assert_eq!(facts.virtual_size, Some(want.virtual_size), "{at}");
        let text = read(mailbox.body(mail.uid).unwrap_or_else(|e| panic!("{at}: {e}")));
        assert_eq!(text.len() as u64, want.physical, "{at}");
        let text = String::from_utf8(text).expect("UTF-8");
        assert_eq!(text.replace("\r\n", "\n"), want.text.replace("\r\n", "\n"), "{at}");
    }
}
