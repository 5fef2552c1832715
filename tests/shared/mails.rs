//! Mails to be saved, and what was saved, through the contracts.

use std::io::Read;

use dsync::mail::{Body, Flags, Keyword, Keywords, Mail, MailGuid, ModSeq, NewMail, Timestamp, Uid};

pub fn uid(n: u32) -> Uid {
    Uid::new(n).expect("not 0")
}

pub fn read(mut body: Body) -> Vec<u8> {
    let mut out = Vec::new();
    body.reader.read_to_end(&mut out).unwrap_or_else(|e| panic!("the text: {e}"));
    if let Some(size) = body.size {
        assert_eq!(size, out.len() as u64);
    }
    out
}

/// A mail to be saved, with nothing special about it.
pub fn new_mail(n: u32, guid: &str) -> NewMail {
    NewMail {
        uid: uid(n),
        guid: MailGuid::new(guid).expect("not empty"),
        flags: Flags::default(),
        keywords: Keywords::default(),
        modseq: ModSeq(1),
        received: Timestamp(1_600_000_000 + n),
        saved: Timestamp(1_650_000_000 + n),
        pop3_uidl: None,
        pop3_order: 0,
        in_alt: false,
    }
}

pub fn keywords(names: &[&str]) -> Keywords {
    names.iter().map(|n| Keyword::new(n)).collect()
}

/// Flags and keywords as Dovecot prints them, sorted.
pub fn flag_names(mail: &Mail) -> Vec<String> {
    let system = ["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"];
    let mut out: Vec<String> = system
        .iter()
        .filter(|n| mail.flags.contains(Flags::by_name(n).expect("a flag")))
        .map(|n| (*n).to_owned())
        .chain(mail.keywords.iter().map(|k| k.as_str().to_owned()))
        .collect();
    out.sort();
    out
}
