//! Stopped at every step of every kind of change: the mailbox is as before or as after, to us and to Dovecot, and the next
//! run completes the work.

use std::path::{Path, PathBuf};
use std::process::Command;

use dsync::mail::{Edit, EditKind, Flags, Identity, ModSeq, NewMail, Original, Rebuild, RebuildFrom, RebuildMail, UidValidity};
use dsync::store::Settings;
use dsync::store::format::{Format, Place};
use dsync::store::sdbox::Sdbox;

use crate::common::{flag_names, have_dovecot, keywords, lab, new_mail, place, read, uid};
use crate::lab::{Lab, copy_tree};
use crate::live::{create, stage, text};

const GUID: &str = "00112233445566778899aabbccddeeff";

/// What is done while it is being stopped.
fn act(scenario: &str, place: &Place) -> dsync::mail::Result<()> {
    let mut format = Sdbox::new(Settings::default());
    let mut mailbox = format.open(place)?;
    match scenario {
        "commit" => {
            for n in 4..=6 {
                let mail = NewMail {
                    flags: Flags::SEEN,
                    keywords: keywords(&["Work", "$Later"]),
                    modseq: ModSeq(100 + u64::from(n)),
                    pop3_uidl: Some(format!("uidl-{n}")),
                    ..new_mail(n, &format!("guid-{n}"))
                };
                stage(&mut *mailbox, mail, &text(n));
            }
            mailbox.commit(dsync::mail::Uid::LAST).map(drop)
        }
        "renumber" => {
            mailbox
                .stage_copy(new_mail(9, "guid-2"), uid(2), Original::Expunge)
                .map_err(|e| dsync::mail::Error::new(dsync::mail::Class::Temporary, e.to_string()))?;
            mailbox.commit(dsync::mail::Uid::LAST).map(drop)
        }
        "edit" => mailbox.edit(&[
            Edit {
                uid: uid(1),
                expect: None,
                kind: EditKind::Flags {
                    add: Flags::FLAGGED,
                    remove: Flags::NONE,
                    add_keywords: keywords(&["Work"]),
                    remove_keywords: keywords(&[]),
                    modseq: ModSeq(50),
                },
            },
            Edit { uid: uid(2), expect: None, kind: EditKind::Expunge },
            Edit { uid: uid(3), expect: None, kind: EditKind::Expunge },
        ]),
        "rebuild" | "rebuild-elsewhere" => {
            stage(&mut *mailbox, new_mail(2, "guid-77"), &text(77));
            let present = |n, old: u32| RebuildMail {
                mail: NewMail { keywords: keywords(&["Again"]), ..renumbered(n, old) },
                from: RebuildFrom::Present(uid(old)),
            };
            let identity = Identity {
                guid: "ffeeddccbbaa99887766554433221100".parse().expect("a GUID"),
                uidvalidity: UidValidity::new(7).expect("not 0"),
                uid_next: uid(5),
            };
            let staged = RebuildMail { mail: new_mail(2, "guid-77"), from: RebuildFrom::Staged(0) };
            let mails = vec![present(1, 3), staged, present(3, 1)];
            mailbox.rebuild(Rebuild { identity, first_recent: uid(1), highest_modseq: ModSeq(900), mails })
        }
        other => panic!("no scenario {other}"),
    }
}

/// A mail under another UID.
fn renumbered(n: u32, old: u32) -> NewMail {
    NewMail { uid: uid(n), ..new_mail(old, &format!("guid-{old}")) }
}

fn place_of(scenario: &str, home: &Path) -> Place {
    let mut place = place(&home.join("mail"), "INBOX");
    if scenario == "rebuild-elsewhere" {
        place.index = home.join("index/mailboxes/INBOX");
        place.cache.clone_from(&place.index);
    }
    place
}

/// Runs one scenario in a process of its own, where it may be killed. Not a test: the tests below start it.
#[test]
#[ignore = "started by the other tests of this module"]
fn driver() {
    let scenario = std::env::var("SDBOX_SCENARIO").expect("started by the tests");
    let home = PathBuf::from(std::env::var_os("SDBOX_HOME").expect("started by the tests"));
    if let Err(e) = act(&scenario, &place_of(&scenario, &home)) {
        panic!("{e}");
    }
}

struct Bench {
    scenario: &'static str,
    lab: Lab,
}

impl Bench {
    fn new(scenario: &'static str) -> Self {
        let mut lab = lab();
        if scenario == "rebuild-elsewhere" {
            let home = lab.path().join("home");
            lab.extra = vec![format!("mail_location=sdbox:{0}/mail:INDEX={0}/index", home.display())];
        }
        Self { scenario, lab }
    }

    /// Three mails.
    fn fill(&self) {
        if self.scenario == "rebuild-elsewhere" {
            for dir in ["mail/mailboxes/INBOX/dbox-Mails", "index/mailboxes/INBOX"] {
                let modes = dsync::os::fs::Modes::like(&std::fs::metadata(self.home()).expect("there"));
                dsync::os::fs::mkdir_all(&self.home().join(dir), &modes).expect("made");
            }
            let validity = UidValidity::new(1_600_000_000).expect("not 0");
            let mut place = self.place();
            place.modes = dsync::os::fs::Modes::like(&std::fs::metadata(self.home()).expect("there"));
            Sdbox::new(Settings::default()).create(&place, GUID.parse().expect("a GUID"), validity).expect("created");
        } else {
            create(&self.lab, "INBOX", GUID, 1_600_000_000);
        }
        let mut mailbox = Sdbox::new(Settings::default()).open(&self.place()).expect("opened");
        for n in 1..=3 {
            stage(&mut *mailbox, new_mail(n, &format!("guid-{n}")), &text(n));
        }
        mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    }

    fn home(&self) -> PathBuf {
        self.lab.path().join("home")
    }

    fn place(&self) -> Place {
        place_of(self.scenario, &self.home())
    }

    fn copy(&self) -> Self {
        let other = Self::new(self.scenario);
        copy_tree(&self.home(), &other.home());
        other
    }

    /// Runs the scenario; says whether it succeeded.
    fn run(&self, fault: Option<&str>, log: Option<&Path>) -> bool {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "faults::driver", "--ignored", "--quiet"]);
        command.env("SDBOX_SCENARIO", self.scenario).env("SDBOX_HOME", self.home());
        command.env_remove("DSYNC_FAULT").env_remove("DSYNC_FAULT_LOG");
        if let Some(fault) = fault {
            command.env("DSYNC_FAULT", fault);
        }
        if let Some(log) = log {
            command.env("DSYNC_FAULT_LOG", log);
        }
        command.output().expect("it starts").status.success()
    }

    /// All that we see of the mailbox.
    fn content(&self) -> Vec<String> {
        let mut mailbox = Sdbox::new(Settings::default()).open(&self.place()).unwrap_or_else(|e| panic!("{e}"));
        let status = mailbox.status();
        let mut out = vec![format!("{} {}", status.identity.guid, status.identity.uidvalidity)];
        for mail in mailbox.mails().to_vec() {
            let facts = mailbox.facts(mail.uid).unwrap_or_else(|e| panic!("{e}"));
            let guid = mailbox.guid(mail.uid).unwrap_or_else(|e| panic!("{e}"));
            let text = read(mailbox.body(mail.uid).unwrap_or_else(|e| panic!("{e}")));
            let saved = if self.scenario == "rebuild-elsewhere" { 0 } else { facts.saved.0 };
            out.push(format!(
                "{} {guid} {:?} {} {saved} {:?} {}",
                mail.uid,
                flag_names(&mail),
                facts.received.0,
                facts.pop3_uidl,
                String::from_utf8_lossy(&text)
            ));
        }
        out
    }

    fn dovecot_sees(&self) -> Vec<(u32, String)> {
        self.lab.dump()["INBOX"].mails.iter().map(|m| (m.uid, m.guid.clone())).collect()
    }

    fn temp_files(&self) -> usize {
        let names = std::fs::read_dir(self.place().mailbox).expect("there").map(|e| e.expect("an entry").file_name());
        names.into_iter().filter(|n| n.to_string_lossy().starts_with(".temp")).count()
    }
}

/// Stops the scenario at each of its steps.
fn every_step(scenario: &'static str) {
    if !have_dovecot() {
        return;
    }
    let start = Bench::new(scenario);
    start.fill();
    let (old, seen_old) = (start.content(), start.copy().dovecot_sees());
    let whole = start.copy();
    let log = whole.lab.path().join("steps");
    assert!(whole.run(None, Some(&log)));
    let (new, seen_new) = (whole.content(), whole.dovecot_sees());
    assert_ne!(old, new);
    assert_eq!(whole.temp_files(), 0, "{scenario} leaves temp files");
    whole.lab.silent();
    let log = std::fs::read_to_string(&log).expect("the steps");
    let steps: Vec<&str> = log.lines().collect();
    assert!(steps.len() >= 5, "{steps:?}");

    for (n, step) in (1..).zip(&steps) {
        let lab = start.copy();
        assert!(!lab.run(Some(&format!("{n}:kill")), None));
        let content = lab.content();
        let whole = content == old || content == new;
        assert!(whole || partly(scenario, &content, &old, &new), "{scenario} killed at {step}: {content:#?}");
        let seen = lab.dovecot_sees();
        if whole {
            assert_eq!(&seen, if content == old { &seen_old } else { &seen_new }, "{scenario} killed at {step}");
        }
        assert_eq!(lab.lab.log(), "", "{scenario} killed at {step}");
        if content != new && finish(&lab, &content, &old, &new, step) {
            assert_eq!(lab.dovecot_sees(), seen_new, "{scenario} completed after {step}");
        }
        assert_eq!(lab.lab.log(), "", "{scenario} completed after {step}");
    }
    for (kind, n, step) in
        ["short", "ENOSPC", "EIO"].into_iter().flat_map(|kind| (1..).zip(&steps).map(move |(n, s)| (kind, n, s)))
    {
        if kind == "short" && !step.contains(" write ") {
            continue;
        }
        let lab = start.copy();
        let done = lab.run(Some(&format!("{n}:{kind}")), None);
        let content = lab.content();
        // A cache that cannot be written costs saved dates only.
        let but_dates = |lines: &[String]| lines.iter().map(|l| strip_saved(l)).collect::<Vec<_>>();
        let known = content == old || but_dates(&content) == but_dates(&new);
        assert!(known || partly(scenario, &content, &old, &new), "{scenario} with {kind} at {step}: {content:#?}");
        assert!(!done || but_dates(&content) == but_dates(&new), "{scenario} with {kind} at {step}: said it was done");
        finish(&lab, &content, &old, &new, step);
    }
}

/// A line of [`Bench::content`] without the saved date.
fn strip_saved(line: &str) -> String {
    line.split(' ')
        .filter(|w| !w.starts_with("165") && !w.starts_with("17") && !w.starts_with("18"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Some of the old, some of the new, nothing else. Allowed only for edits, of which those that were carried out stay, and for
/// the exception of `rebuild/in_place.rs`: mails whose UID another mail gets are gone for a moment.
fn partly(scenario: &str, content: &[String], old: &[String], new: &[String]) -> bool {
    ["edit", "rebuild-elsewhere"].contains(&scenario) && content.iter().all(|line| old.contains(line) || new.contains(line))
}

/// The next run completes what is not complete. `false` if that would need another plan: one that asks again for the mails that
/// are gone.
fn finish(lab: &Bench, content: &[String], old: &[String], new: &[String], step: &str) -> bool {
    let done = content.iter().map(|l| strip_saved(l)).eq(new.iter().map(|l| strip_saved(l)));
    let can = done || content == old || lab.scenario == "edit";
    if can && !done {
        assert!(lab.run(None, None), "{} again after {step}", lab.scenario);
        assert_eq!(lab.content(), new, "{} completed after {step}", lab.scenario);
    }
    can
}

#[test]
fn saving() {
    every_step("commit");
}

#[test]
fn renumbering() {
    every_step("renumber");
}

#[test]
fn editing() {
    every_step("edit");
}

#[test]
fn rebuilding() {
    every_step("rebuild");
}

#[test]
fn rebuilding_with_the_index_elsewhere() {
    every_step("rebuild-elsewhere");
}
