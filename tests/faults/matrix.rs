//! The matrix: what is done, onto which storage, and what goes wrong.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::lab::{Dump, Lab, Run, Side, assert_same, assert_settled, have_dovecot, run};

/// Steps tried for each kind of run in the default tests.
const SPREAD: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The destination is as the last run left it.
    Backup,
    /// Somebody has delivered to the destination, and removed and flagged mails there.
    BackupOntoChanged,
    TwoWay,
}

/// Two sides before the run, and what shall come of it.
struct Base {
    lab: Lab,
    a: Side,
    b: Side,
    work: Work,
    before: [Dump; 2],
    after: Content,
}

/// Mailbox, subject, flags; how often.
type Content = BTreeMap<(String, String, Vec<String>), usize>;

fn content(dump: &Dump) -> Content {
    let mut out = Content::new();
    for (name, seen) in &dump.boxes {
        for mail in seen.mails.values() {
            let subject = mail.text.lines().find_map(|l| l.strip_prefix("Subject: ")).unwrap_or("?");
            *out.entry((name.clone(), subject.to_owned(), mail.flags.clone())).or_default() += 1;
        }
    }
    out
}

impl Work {
    const fn verb(self) -> &'static [&'static str] {
        match self {
            Self::Backup | Self::BackupOntoChanged => &["backup"],
            Self::TwoWay => &["sync"],
        }
    }
}

impl Base {
    fn new(work: Work, from: &str, to: &str) -> Self {
        let lab = Lab::new();
        // `sdbox ALT` has an alternative storage with mails in it.
        let side = |name: &str, driver: &str| match driver.strip_suffix(" ALT") {
            Some(driver) => lab.side(name, driver).with(":ALT=@/alt"),
            None => lab.side(name, driver),
        };
        let (a, b) = (side("a", from), side("b", to));
        let move_some = |side: &Side, driver: &str, subjects: &[&str]| {
            for subject in subjects.iter().filter(|_| driver.ends_with(" ALT")) {
                side.doveadm(&["altmove", "mailbox", "*", "subject", subject]);
                side.doveadm(&["purge"]);
            }
        };
        {
            let mut imap = a.imap();
            for n in 1..=6 {
                imap.append("INBOX", if n % 2 == 0 { "\\Seen kw1" } else { "" }, &format!("m{n}"));
            }
            for name in ["Work", "Old", "Ren"] {
                imap.ok(&format!("CREATE {name}"));
                imap.append(name, "", &format!("{name}1"));
                imap.append(name, "\\Flagged", &format!("{name}2"));
            }
            imap.ok("SUBSCRIBE Work");
        }
        move_some(&a, from, &["m1", "m2", "m3", "Work1"]);
        a.dsync(&["sync"], &b).quiet();
        {
            let mut imap = a.imap();
            imap.append("INBOX", "\\Seen $new", "m7");
            imap.append("INBOX", "", "m8");
            imap.append("INBOX", "\\Draft", "m9");
            imap.ok("SELECT INBOX");
            imap.ok("UID STORE 1 +FLAGS (\\Answered kw2)");
            imap.ok("UID STORE 2 FLAGS (\\Flagged)");
            imap.ok("UID STORE 3 +FLAGS (\\Deleted)");
            imap.ok("UID EXPUNGE 3");
            imap.ok("UID COPY 4 Work");
            imap.ok("UNSELECT");
            imap.ok("CREATE New/Below");
            imap.append("New/Below", "", "n1");
            imap.append("New/Below", "\\Seen", "n2");
            imap.ok("DELETE Old");
            imap.ok("RENAME Ren Renamed");
            imap.append("Renamed", "", "r3");
            imap.ok("SUBSCRIBE Renamed");
        }
        move_some(&a, from, &["m7", "n1"]);
        if work != Work::Backup {
            let mut imap = b.imap();
            imap.append("INBOX", "\\Flagged", "x7");
            imap.append("INBOX", "", "x8");
            imap.append("Work", "", "x9");
            imap.ok("SELECT INBOX");
            imap.ok("UID STORE 6 +FLAGS (\\Deleted)");
            imap.ok("UID EXPUNGE 6");
            imap.ok("UID STORE 5 +FLAGS (\\Flagged kw3)");
            imap.ok("UNSELECT");
            imap.ok("CREATE Theirs");
            imap.append("Theirs", "", "t1");
        }
        if work != Work::Backup {
            move_some(&b, to, &["x7", "t1"]);
        }
        let before = [a.dump(), b.dump()];
        // What comes of it when nothing goes wrong.
        let (x, y) = (a.copy("x"), b.copy("y"));
        x.dsync(work.verb(), &y).quiet();
        let after = content(&assert_same(&x, &y));
        assert_settled(&x, work.verb(), &y);
        lab.silent();
        if work == Work::TwoWay {
            assert_eq!(after.values().sum::<usize>(), 6 - 2 + 3 + 2 + 1 + 3 + 2 + 3 + 1, "{after:?}");
        } else {
            assert_eq!(after, content(&before[0]));
        }
        Self { lab, a, b, work, before, after }
    }

    /// Both sides, to be spoilt.
    fn sides(&self) -> (Side, Side) {
        // The steps of a careful run.
        (self.a.copy("x").set(&["mail_fsync=optimized"]), self.b.copy("y"))
    }

    /// The changes to the file system that the run makes.
    fn steps(&self) -> Vec<String> {
        let (x, y) = self.sides();
        let (run, steps) = self.logged(&mut x.command(self.work.verb(), &y));
        run.quiet();
        if shows() {
            eprintln!("{}", steps.join("\n"));
        }
        steps
    }

    /// Runs our program and says which steps it took.
    fn logged(&self, command: &mut Command) -> (Run, Vec<String>) {
        let log = self.lab.path().join("steps");
        std::fs::write(&log, "").expect("a file");
        std::fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
        let run = run(command.env("DSYNC_FAULT_LOG", &log));
        let steps = std::fs::read_to_string(&log).expect("the steps");
        let mut steps: Vec<String> = steps.lines().map(str::to_owned).collect();
        // Both sides of a run write at the same time: a step may have been counted before another and logged after it.
        steps.sort_by_key(|step| step.split_once(' ').and_then(|(n, _)| n.parse::<usize>().ok()));
        (run, steps)
    }

    /// One run that goes wrong at step `n`, and all that follows.
    fn case(&self, n: usize, kind: &str) {
        let (x, y) = self.sides();
        let (spoilt, steps) = self.logged(x.command(self.work.verb(), &y).env("DSYNC_FAULT", format!("{n}:{kind}")));
        if shows() {
            eprintln!("{n}:{kind} {:?} {spoilt:?}", steps.get(n - 1));
        }
        judge_end(&spoilt, kind);
        time_passes(&x);
        time_passes(&y);
        // Dovecot 2.3 takes a torn write to a log for damage of the whole log (index.md 6.3), which is why it is always one
        // write of ours, and why we are the first to look here: we cut the rest off.
        let torn = kind == "short" && steps.get(n - 1).is_some_and(|s| s.contains(" write ") && s.ends_with(".log"));
        if !torn {
            // Half of the times Dovecot is the next to open the mail, else it sees a copy and we are the next.
            let seen = if n.is_multiple_of(2) { (x.clone(), y.clone()) } else { (x.copy("seen-x"), y.copy("seen-y")) };
            let now = [seen.0.dump(), seen.1.dump()];
            assert_eq!(self.lab.log(), "", "Dovecot complained after the spoilt run");
            self.nothing_is_lost(&now);
        }

        let next = x.dsync(self.work.verb(), &y);
        assert_eq!(next.code, Some(0), "the next run: {}", next.err);
        let after = content(&assert_same(&x, &y));
        assert_eq!(diff(&self.after, &after), "", "the next run came to something else");
        assert_settled(&x, self.work.verb(), &y);
        assert_eq!(self.lab.log(), "", "Dovecot complained after the next run");
    }

    /// What a side had and shall have in the end is there all the time; the mailbox it is in may have its old or its new name.
    fn nothing_is_lost(&self, now: &[Dump; 2]) {
        let mut wanted = BTreeMap::<&str, usize>::new();
        for ((_, subject, _), n) in &self.after {
            *wanted.entry(subject).or_default() += n;
        }
        for (before, now) in self.before.iter().zip(now) {
            let (before, now) = (before.all_subjects(), now.all_subjects());
            for (subject, n) in before {
                let least = n.min(wanted.get(subject.as_str()).copied().unwrap_or(0));
                let there = now.get(&subject).copied().unwrap_or(0);
                assert!(there >= least, "{subject} is there {there} times instead of {least}: {now:?}");
            }
        }
        if self.work != Work::TwoWay {
            assert_eq!(content(&self.before[0]), content(&now[0]), "the source was changed");
        }
    }
}

/// Dotlocks of a process that is gone are taken for what they are after two seconds; after two minutes where it did not come
/// to write its whole name into them, or where they become the new file. Nobody waits for that here.
fn time_passes(side: &Side) {
    let host = nix::unistd::gethostname().expect("a name");
    let is_dotlock = |p: &Path| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name == "dovecot-uidlist.lock" || name == "subscriptions.lock" || name.ends_with(".newlock")
    };
    for (path, (_, _, bytes)) in side.files().into_iter().filter(|(p, _)| is_dotlock(p)) {
        let holder = bytes.split(|b| *b == b':').collect::<Vec<_>>();
        if holder.get(1).is_some_and(|h| *h == host.as_encoded_bytes()) {
            let then = SystemTime::now() - Duration::from_secs(10);
            std::fs::File::options().write(true).open(&path).expect("the lock").set_modified(then).expect("its time");
        } else {
            std::fs::remove_file(&path).expect("the lock");
        }
    }
}

/// For whoever looks into a failure: all steps and what each run said.
fn shows() -> bool {
    std::env::var_os("FAULT_SHOW").is_some()
}

fn diff(wanted: &Content, got: &Content) -> String {
    let lacks: Vec<_> = wanted.iter().filter(|(k, n)| got.get(k) != Some(n)).collect();
    let has: Vec<_> = got.iter().filter(|(k, n)| wanted.get(k) != Some(n)).collect();
    if lacks.is_empty() && has.is_empty() { String::new() } else { format!("wanted {lacks:?} got {has:?}") }
}

/// A run that fails says which file, and ends with the code of the reason.
fn judge_end(run: &Run, kind: &str) {
    let code = match kind {
        "kill" | "short" => {
            // It ended before it came that far, or was killed.
            assert!(matches!(run.code, None | Some(0)), "{run:?}");
            return;
        }
        "ENOSPC" | "EDQUOT" => 73,
        "EACCES" => 77,
        _ => 75,
    };
    // What fails may be something that does not matter, such as removing a temporary file.
    if run.code != Some(0) {
        assert_eq!(run.code, Some(code), "{kind}: {}", run.err);
        assert!(run.err.lines().any(|l| l.contains("/tmp/dsync-rows-")), "no file is named: {}", run.err);
    }
    assert!(!run.err.contains("panicked"), "{}", run.err);
}

fn matrix(work: Work, from: &str, to: &str, kinds: &[&str], spread: Option<usize>) {
    if !have_dovecot() {
        return;
    }
    let base = Base::new(work, from, to);
    let names = base.steps();
    let steps = names.len();
    let mut cases: Vec<(usize, &str)> = kinds.iter().flat_map(|k| (1..=steps).map(move |n| (n, *k))).collect();
    // Only writes can be short; else it is the same as a kill. Some steps do not want room.
    let op = |n: usize| names[n - 1].split(' ').nth(1).unwrap_or_default();
    cases.retain(|&(n, kind)| match kind {
        "short" => op(n) == "write",
        "ENOSPC" | "EDQUOT" => !["unlink", "rmdir", "truncate", "fsync"].contains(&op(n)),
        _ => true,
    });
    if let Some(spread) = spread {
        // Every kind takes its turn, and all parts of the run are met.
        let tried = |i: usize| (1 + i * steps / spread, kinds[i % kinds.len()]);
        cases = (0..spread).map(tried).collect();
    }
    let only = std::env::var("FAULT_ONLY").ok();
    cases.retain(|(n, k)| only.as_ref().is_none_or(|o| o.split(',').any(|o| *o == format!("{n}:{k}"))));
    let mut failed = Vec::new();
    for &(n, kind) in &cases {
        let begun = std::time::Instant::now();
        if let Err(e) = catch_unwind(AssertUnwindSafe(|| base.case(n, kind))) {
            let text = e.downcast_ref::<String>().cloned().or_else(|| e.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            failed.push(format!("{n}:{kind}: {}\n{}", text.unwrap_or_default(), base.lab.log()));
            // What Dovecot said belongs to this one.
            let _ = std::fs::remove_file(base.lab.path().join("dovecot.log"));
        }
        if begun.elapsed().as_secs() >= 5 {
            eprintln!("{work:?} {from} to {to}: {n}:{kind} took {:?}", begun.elapsed());
        }
    }
    eprintln!("{work:?} {from} to {to}: {steps} steps, {} cases, {} failed", cases.len(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

const KINDS: [&str; 6] = ["kill", "short", "ENOSPC", "EDQUOT", "EIO", "EACCES"];

macro_rules! combinations {
    ($($name:ident, $all:ident: $work:ident $from:literal $to:literal;)*) => { $(
        #[test]
        fn $name() {
            matrix(Work::$work, $from, $to, &KINDS, Some(SPREAD));
        }

        #[test]
        #[ignore = "takes minutes"]
        fn $all() {
            matrix(Work::$work, $from, $to, &KINDS, None);
        }
    )* };
}

combinations! {
    backup_to_maildir, all_backup_to_maildir: Backup "mdbox" "maildir";
    backup_to_sdbox, all_backup_to_sdbox: Backup "maildir" "sdbox";
    backup_to_mdbox, all_backup_to_mdbox: Backup "maildir" "mdbox";
    rebuild_of_maildir, all_rebuild_of_maildir: BackupOntoChanged "sdbox" "maildir";
    rebuild_of_sdbox, all_rebuild_of_sdbox: BackupOntoChanged "mdbox" "sdbox";
    rebuild_of_mdbox, all_rebuild_of_mdbox: BackupOntoChanged "mdbox" "mdbox";
    two_way_maildir_mdbox, all_two_way_maildir_mdbox: TwoWay "maildir" "mdbox";
    two_way_sdbox_maildir, all_two_way_sdbox_maildir: TwoWay "sdbox" "maildir";
    two_way_mdbox_sdbox, all_two_way_mdbox_sdbox: TwoWay "mdbox" "sdbox";
    backup_to_sdbox_with_alt, all_backup_to_sdbox_with_alt: Backup "mdbox ALT" "sdbox ALT";
    rebuild_of_sdbox_with_alt, all_rebuild_of_sdbox_with_alt: BackupOntoChanged "sdbox ALT" "sdbox ALT";
    two_way_with_alt, all_two_way_with_alt: TwoWay "sdbox ALT" "mdbox ALT";
}
