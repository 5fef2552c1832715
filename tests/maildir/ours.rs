//! Our side of the tests: a Maildir opened through the contracts.

use std::path::Path;
use std::sync::Arc;

use dsync::mail::{
    Body, Edit, EditKind, Facts, Flags, Keyword, Keywords, MailGuid, Mailbox, MailboxName, ModSeq, NewMail, Timestamp, Uid,
    UidValidity,
};
use dsync::os::fs::Modes;
use dsync::store::Settings;
use dsync::store::format::{Format, Place};
use dsync::store::maildir::Maildir;

pub fn format() -> Maildir {
    format_with(Settings::default())
}

pub fn format_with(settings: Settings) -> Maildir {
    Maildir::new(settings, true, Arc::new(|_, _| Ok(UidValidity::new(4711).expect("not 0"))))
}

/// The place of a Maildir whose index and control files are in it.
pub fn place(mailbox: &Path) -> Place {
    let leaf = mailbox.file_name().expect("a name").to_string_lossy().into_owned();
    let storage_name = leaf.strip_prefix('.').unwrap_or("INBOX").to_owned();
    Place {
        name: MailboxName::parse(&storage_name, '.').expect("a name"),
        inbox: storage_name == "INBOX",
        storage_name,
        mailbox: mailbox.to_owned(),
        index: mailbox.to_owned(),
        cache: mailbox.to_owned(),
        control: mailbox.to_owned(),
        alt: None,
        control_root: mailbox.to_owned(),
        volatile: None,
        names_in_index: false,
        modes: Modes::like(&std::fs::metadata(mailbox).expect("there")),
    }
}

#[track_caller]
pub fn open(mailbox: &Path) -> Box<dyn Mailbox> {
    format().open(&place(mailbox)).expect("opens")
}

pub fn uid(n: u32) -> Uid {
    Uid::new(n).expect("not 0")
}

pub fn keywords(names: &[&str]) -> Keywords {
    names.iter().map(|n| Keyword::new(n)).collect()
}

pub fn guid(text: &str) -> MailGuid {
    MailGuid::new(text).expect("not empty")
}

/// A mail with nothing special about it.
pub fn new_mail(n: u32, guid_text: &str) -> NewMail {
    NewMail {
        uid: uid(n),
        guid: guid(guid_text),
        flags: Flags::NONE,
        keywords: Keywords::NONE,
        modseq: ModSeq(0),
        received: Timestamp(1_600_000_000 + n),
        saved: Timestamp(0),
        pop3_uidl: None,
        pop3_order: 0,
        in_alt: false,
    }
}

pub fn text(n: u32) -> String {
    format!("From: a{n}@example.org\nSubject: mail {n}\nMessage-ID: <{n}@example.org>\n\nThis is mail {n}.\n")
}

pub fn body(n: u32) -> Body {
    Body::from_bytes(text(n))
}

pub fn flags(n: u32, add: Flags, remove: Flags) -> Edit {
    keyword_edit(n, add, remove, &[], &[])
}

pub fn keyword_edit(n: u32, add: Flags, remove: Flags, plus: &[&str], minus: &[&str]) -> Edit {
    let kind = EditKind::Flags { add, remove, add_keywords: keywords(plus), remove_keywords: keywords(minus), modseq: ModSeq(0) };
    Edit { uid: uid(n), expect: None, kind }
}

pub fn expunge(n: u32) -> Edit {
    Edit { uid: uid(n), expect: None, kind: EditKind::Expunge }
}

/// A mail as we see it, in the words of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    pub uid: u32,
    pub guid: String,
    pub flags: Vec<String>,
    pub modseq: u64,
    pub facts: Facts,
    pub text: String,
}

/// All mails of the view, with their texts in LF form.
#[track_caller]
pub fn all(mailbox: &mut dyn Mailbox) -> Vec<Ours> {
    let mails = mailbox.mails().to_vec();
    mails
        .into_iter()
        .map(|mail| {
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut mailbox.body(mail.uid).expect("a body").reader, &mut text).expect("readable");
            Ours {
                uid: mail.uid.get(),
                guid: mailbox.guid(mail.uid).expect("a GUID").to_string(),
                flags: flag_names(mail.flags, &mail.keywords),
                modseq: mail.modseq.0,
                facts: mailbox.facts(mail.uid).expect("facts"),
                text: String::from_utf8_lossy(&text).replace("\r\n", "\n"),
            }
        })
        .collect()
}

pub fn flag_names(flags: Flags, keywords: &Keywords) -> Vec<String> {
    let system = ["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"];
    let mut names: Vec<String> = system
        .iter()
        .filter(|name| flags.contains(Flags::by_name(name).expect("a flag")))
        .map(|name| (*name).to_owned())
        .collect();
    names.extend(keywords.iter().map(ToString::to_string));
    names.sort();
    names
}
