//! Random histories: Dovecot and we work on one Maildir by turns, and both must see the same afterwards.

use dsync::mail::{Edit, EditKind, Flags, Keyword, Keywords, Mailbox, ModSeq, Original, Timestamp, Uid};

use crate::lab::{Imap, Lab, have_dovecot};
use crate::live::agree;
use crate::ours::{body, expunge, new_mail, open, text};

/// A generator whose whole state is a number: a history that fails can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).expect("31 bits") % sides
    }

    fn flags(&mut self) -> Flags {
        Flags::from_bits(u8::try_from(self.roll(32)).expect("small")).without(Flags::DELETED)
    }

    fn keywords(&mut self) -> Keywords {
        (0..self.roll(3)).map(|_| Keyword::new(&format!("kw{}", self.roll(40)))).collect()
    }

    fn pick(&mut self, mailbox: &dyn Mailbox) -> Option<Uid> {
        let mails = mailbox.mails();
        if mails.is_empty() { None } else { Some(mails[self.roll(u32::try_from(mails.len()).expect("few")) as usize].uid) }
    }
}

fn ours(dice: &mut Dice, mailbox: &mut dyn Mailbox, n: u32) {
    mailbox.refresh().expect("refreshes");
    match (dice.roll(10), dice.pick(mailbox)) {
        (0..=3, _) | (_, None) => {
            let next = mailbox.status().identity.uid_next.get();
            for i in 0..=dice.roll(3) {
                let mut mail = new_mail(next + i * 2, &format!("{:032x}", n * 10 + i));
                mail.flags = dice.flags();
                mail.keywords = dice.keywords();
                mail.modseq = ModSeq(dice.roll(300).into());
                mail.saved = Timestamp(1_500_000_000 + n);
                mailbox.stage(mail, body(n * 10 + i)).expect("staged");
            }
            mailbox.commit(Uid::LAST).expect("committed");
        }
        (4..=6, Some(uid)) => {
            let kind = EditKind::Flags {
                add: dice.flags(),
                remove: dice.flags(),
                add_keywords: dice.keywords(),
                remove_keywords: dice.keywords(),
                modseq: ModSeq(dice.roll(300).into()),
            };
            mailbox.edit(&[Edit { uid, expect: None, kind }]).expect("edited");
        }
        (7, Some(uid)) => mailbox.edit(&[expunge(uid.get())]).expect("edited"),
        (kind, Some(uid)) => {
            let facts = mailbox.facts(uid).expect("facts");
            let wanted = mailbox.status().identity.uid_next.get() + dice.roll(3);
            let mut mail = new_mail(wanted, &mailbox.guid(uid).expect("a GUID").to_string());
            (mail.received, mail.saved, mail.flags) = (facts.received, facts.saved, dice.flags());
            let original = if kind == 8 { Original::Keep } else { Original::Expunge };
            mailbox.stage_copy(mail, uid, original).expect("staged");
            mailbox.commit(Uid::LAST).expect("committed");
        }
    }
}

fn theirs(dice: &mut Dice, lab: &Lab, imap: &mut Imap, n: u32) {
    let names = |keywords: &Keywords| keywords.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let system = ["\\Seen", "\\Flagged", "\\Answered", "\\Draft"][dice.roll(4) as usize];
    let sign = ["+", "-", ""][dice.roll(3) as usize];
    let one = dice.roll(12) + 1;
    match dice.roll(9) {
        0..=2 => {
            let keywords = names(&dice.keywords());
            imap.append("INBOX", &format!("({system} {keywords})"), &text(n + 7000).replace('\n', "\r\n"));
        }
        // Of a mail that is not there, now and then: a BAD is fine.
        3..=5 => drop(imap.cmd(&format!("STORE {one} {sign}FLAGS ({system} {})", names(&dice.keywords())))),
        6 => {
            imap.cmd(&format!("STORE {one} +FLAGS (\\Deleted)"));
            imap.ok("EXPUNGE");
        }
        7 => drop(imap.cmd(&format!("COPY {one} INBOX"))),
        _ => lab.save("INBOX", text(n + 8000).as_bytes()),
    }
    imap.ok("NOOP");
}

fn history(seed: u64) {
    let lab = Lab::new();
    lab.save("INBOX", text(1).as_bytes());
    let mut mailbox = open(&lab.inbox());
    let mut imap = lab.imap();
    imap.ok("SELECT INBOX");
    let mut dice = Dice(seed);
    for n in 1..=60 {
        if dice.roll(2) == 0 {
            ours(&mut dice, &mut *mailbox, n);
        } else {
            theirs(&mut dice, &lab, &mut imap, n);
        }
        if n % 20 == 0 {
            agree(&lab, &mut *mailbox);
        }
    }
    // An index made anew from names and uidlist says the same but for what only an index can know.
    drop(imap);
    let seen = agree(&lab, &mut *mailbox);
    assert!(!seen.mails.is_empty());
}

#[test]
fn by_turns() {
    if !have_dovecot() {
        return;
    }
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for seed in 1..=seeds {
        println!("seed {seed}");
        history(seed);
    }
}
