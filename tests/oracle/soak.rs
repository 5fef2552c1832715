//! The soak: users at work on both sides, deliveries, a run of ours every second, and some of the runs are killed.
//!
//! `DSYNC_SOAK=SECONDS cargo test --test oracle soak -- --ignored --nocapture --test-threads=1`; half an hour each without
//! the variable. At the end one run brings both sides together, and nothing is lost, doubled, or complained of.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::company::{Dice, id_of};
use crate::lab::{Dump, Imap, Lab, Ran, Side, UID, assert_equal, assert_idle, have_dovecot, mail};

/// Mails live and move here.
const BOXES: [&str; 3] = ["INBOX", "Work", "Lists/dev"];
/// Copies are made here and stay.
const COPIES: &str = "Copies";
/// A session looks at so many of the newest mails of a mailbox.
const WINDOW: usize = 40;
const LDA: &str = "/usr/lib/dovecot/dovecot-lda";

/// What was done to all mails by anybody.
#[derive(Default)]
struct Book {
    next: AtomicU32,
    counts: Mutex<BTreeMap<&'static str, u32>>,
    mails: Mutex<Mails>,
    /// Mailboxes below `Keep/` that were made and renamed.
    kept: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// All that was done, for whoever looks into a failure: `book.log`.
    log: Mutex<Option<std::fs::File>>,
}

#[derive(Default)]
struct Mails {
    /// Accepted by Dovecot.
    saved: BTreeSet<u32>,
    /// Somebody wants them gone, or they never got a clear answer: there or not, but never twice.
    loose: BTreeSet<u32>,
    /// Copied, and moved: each once at most, whoever does it.
    copied: BTreeSet<u32>,
    moved: BTreeSet<u32>,
    /// Copies that never got a clear answer.
    loose_copies: BTreeSet<u32>,
}

impl Book {
    fn new_id(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, what: &str, mailbox: &str, answer: &str) {
        if let Some(log) = &mut *self.log.lock().unwrap() {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let answer = answer.lines().last().unwrap_or("(nothing)");
            let _ = writeln!(log, "{}.{:03} {what} [{mailbox}] {answer}", now.as_secs() % 100_000, now.subsec_millis());
        }
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    /// A new mail; `done` tells what became of it: `None` without a clear answer.
    fn save(&self, what: &'static str, loose: bool, done: impl FnOnce(&str) -> Option<bool>) {
        let id = self.new_id();
        let saved = done(&mail(id));
        let mut mails = self.mails.lock().unwrap();
        if saved != Some(false) {
            mails.saved.insert(id);
        }
        if loose || saved.is_none() {
            mails.loose.insert(id);
        }
        drop(mails);
        if saved == Some(true) {
            self.count(what);
        }
    }

    fn first_to(&self, set: impl FnOnce(&mut Mails) -> &mut BTreeSet<u32>, id: u32) -> bool {
        set(&mut self.mails.lock().unwrap()).insert(id)
    }

    /// A mailbox that was made or renamed.
    fn kept(&self, dice: &mut Dice) -> Option<String> {
        let kept = self.kept.lock().unwrap();
        (!kept.is_empty()).then(|| kept[dice.below(kept.len())].clone())
    }
}

/// The answer was OK, or not; `None` if there was none.
fn answer(text: &str) -> Option<bool> {
    let last = text.lines().last()?;
    match last.split(' ').nth(1) {
        Some("OK") => Some(true),
        Some("NO" | "BAD") => Some(false),
        _ => None,
    }
}

/// A user at work until told to stop. Sessions that end begin again.
fn session(side: &Side, book: &Book, seed: u64) {
    let mut dice = Dice(seed);
    let mut imap = side.imap();
    while book.goes_on() {
        if dice.below(12) == 0 {
            mailboxes(&mut imap, book, &mut dice);
        }
        let name = match book.kept(&mut dice).filter(|_| dice.below(4) == 0) {
            Some(kept) => kept,
            None => BOXES[dice.below(BOXES.len())].to_owned(),
        };
        let selected = imap.any(&format!("SELECT \"{name}\""));
        match answer(&selected) {
            Some(true) => {}
            Some(false) => continue,
            None => {
                drop(std::mem::replace(&mut imap, side.imap()));
                continue;
            }
        }
        for _ in 0..3 + dice.below(6) {
            std::thread::sleep(Duration::from_millis(30));
            if work(&mut imap, &name, book, &mut dice).is_none() {
                break;
            }
        }
    }
}

/// One thing that a user does in the selected mailbox. `None`: the session has ended.
fn work(imap: &mut Imap, name: &str, book: &Book, dice: &mut Dice) -> Option<()> {
    let exists = imap.any("NOOP");
    answer(&exists)?;
    let mails = newest(imap)?;
    let chosen = (!mails.is_empty()).then(|| mails[dice.below(mails.len())]);
    match (dice.below(12), chosen) {
        (0..3, _) | (_, None) => {
            let flags = ["()", "(\\Seen)", "(kw1 kw2)", "(\\Flagged)"][dice.below(4)];
            book.save("appended", false, |text| {
                let told = imap.append(name, flags, text);
                book.note(&format!("append {:?}", id_of(text)), name, &told);
                answer(&told)
            });
        }
        (3..6, Some((uid, _))) => {
            let sign = ["+", "-"][dice.below(2)];
            let flag = ["\\Seen", "\\Answered", "kw1", "kw3", "\\Flagged"][dice.below(5)];
            answer(&imap.any(&format!("UID STORE {uid} {sign}FLAGS ({flag})")))?;
            book.count("flagged");
        }
        (6..9, Some((uid, id))) => {
            // Before, so that a mail that is gone is always known to be wanted gone.
            book.mails.lock().unwrap().loose.insert(id);
            answer(&imap.any(&format!("UID STORE {uid} +FLAGS (\\Deleted)")))?;
            let told = imap.any(&format!("UID EXPUNGE {uid}"));
            book.note(&format!("expunge {id} uid {uid}"), name, &told);
            answer(&told)?;
            book.count("expunged");
        }
        (9..11, Some((uid, id))) => {
            let others: Vec<&str> = BOXES.into_iter().filter(|b| *b != name).collect();
            if book.first_to(|m| &mut m.moved, id) {
                let to = others[dice.below(others.len())];
                let text = imap.any(&format!("UID MOVE {uid} \"{to}\""));
                book.note(&format!("move {id} uid {uid} to {to}"), name, &text);
                let moved = answer(&text);
                if moved.is_none() {
                    book.mails.lock().unwrap().loose.insert(id);
                }
                book.count("moved");
                // A mail that gets another UID between the two halves of a MOVE, copy and expunge, is in both mailboxes. Nobody
                // but its user can know that one of them was to go.
                answer(&imap.any("NOOP"))?;
                // Nor is there a half of a MOVE that found nothing: the mail is there under the other UID.
                if moved != Some(true) || text.contains("No messages found") {
                    return Some(());
                }
                let left = imap.any(&format!("UID SEARCH HEADER X-Id \"={id}.\""));
                let left = left.lines().find_map(|l| l.strip_prefix("* SEARCH ")).unwrap_or_default();
                if let Some(uid) = left.split_whitespace().next() {
                    answer(&imap.any(&format!("UID STORE {uid} +FLAGS (\\Deleted)")))?;
                    let told = imap.any(&format!("UID EXPUNGE {uid}"));
                    book.note(&format!("expunge left {id} uid {uid}"), name, &told);
                    answer(&told)?;
                    book.count("renumbered within a move");
                }
            }
        }
        (_, Some((uid, id))) => {
            if book.first_to(|m| &mut m.copied, id) {
                let text = imap.any(&format!("UID COPY {uid} {COPIES}"));
                match answer(&text) {
                    Some(true) if text.contains("COPYUID") => book.count("copied"),
                    // It was gone already, or refused.
                    Some(_) => drop(book.mails.lock().unwrap().copied.remove(&id)),
                    None => drop(book.mails.lock().unwrap().loose_copies.insert(id)),
                }
            }
        }
    }
    Some(())
}

/// UIDs and numbers of the newest mails of the selected mailbox.
fn newest(imap: &mut Imap) -> Option<Vec<(u32, u32)>> {
    let all = imap.any("UID SEARCH ALL");
    answer(&all)?;
    let found = all.lines().find_map(|l| l.strip_prefix("* SEARCH"))?;
    let uids: Vec<u32> = found.split_whitespace().filter_map(|u| u.parse().ok()).collect();
    let Some(&first) = uids.get(uids.len().saturating_sub(WINDOW)) else { return Some(Vec::new()) };
    let fetched = imap.any(&format!("UID FETCH {first}:* (UID BODY.PEEK[HEADER.FIELDS (X-Id)])"));
    answer(&fetched)?;
    let mut out = Vec::new();
    for part in fetched.split("* ").skip(1) {
        let uid = part.split_once("UID ").and_then(|(_, u)| u.split([' ', ')']).next()?.parse().ok());
        if let (Some(uid), Some(id)) = (uid, id_of(part)) {
            out.push((uid, id));
        }
    }
    Some(out)
}

/// Mailboxes are made, renamed and deleted. What lies in those of `Keep/` is kept, whatever their names become.
fn mailboxes(imap: &mut Imap, book: &Book, dice: &mut Dice) {
    let n = book.new_id();
    match dice.below(4) {
        0 => {
            let name = format!("Keep/k{n}");
            if Imap::is_ok(&imap.any(&format!("CREATE \"{name}\""))) {
                book.save("appended", false, |text| {
                    let told = imap.append(&name, "()", text);
                    book.note(&format!("append {:?}", id_of(text)), &name, &told);
                    answer(&told)
                });
                book.kept.lock().unwrap().push(name);
                book.count("created");
            }
        }
        1 => {
            let name = format!("Gone/g{n}");
            if Imap::is_ok(&imap.any(&format!("CREATE \"{name}\""))) {
                book.save("appended", true, |text| answer(&imap.append(&name, "()", text)));
                std::thread::sleep(Duration::from_millis(700));
                if Imap::is_ok(&imap.any(&format!("DELETE \"{name}\""))) {
                    book.count("deleted");
                }
            }
        }
        _ => {
            let (Some(old), new) = (book.kept(dice), format!("Keep/r{n}")) else { return };
            let told = imap.any(&format!("RENAME \"{old}\" \"{new}\""));
            book.note(&format!("rename to {new}"), &old, &told);
            if Imap::is_ok(&told) {
                book.count("renamed");
                let mut kept = book.kept.lock().unwrap();
                kept.retain(|name| *name != old);
                kept.push(new);
            }
        }
    }
}

/// Deliveries and housekeeping.
fn deliveries(side: &Side, book: &Book, seed: u64) {
    let mut dice = Dice(seed);
    while book.goes_on() {
        std::thread::sleep(Duration::from_millis(150));
        let name = BOXES[dice.below(BOXES.len())];
        match dice.below(8) {
            0..5 => book.save("delivered", false, |text| deliver(side, name, text)),
            5 => book.save("saved by doveadm", false, |text| {
                side.try_doveadm(&["save", "-m", name], text.as_bytes()).status.success().then_some(true)
            }),
            6 => drop(side.try_doveadm(&["purge"], b"")),
            _ => drop(side.try_doveadm(&["index", name], b"")),
        }
    }
}

/// Through Dovecot's delivery agent, as the user.
fn deliver(side: &Side, mailbox: &str, text: &str) -> Option<bool> {
    let mut command = side.command(LDA);
    command.args(["-f", "a@example.org", "-m", mailbox]).uid(UID).gid(UID);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = piped.spawn().expect("dovecot-lda runs");
    let _ = child.stdin.take().expect("piped").write_all(text.as_bytes());
    child.wait().expect("it ends").success().then_some(true)
}

/// All runs of ours.
#[derive(Default)]
struct Runs {
    codes: BTreeMap<String, u32>,
    odd: Vec<Ran>,
    longest: Duration,
    total: Duration,
    whole: u32,
}

impl Runs {
    /// A run that is killed after this time, if it still goes on then.
    fn run(&mut self, mut command: Command, kill_after: Option<Duration>, trace: &mut std::fs::File) {
        let begun = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("we run");
        if let Some(time) = kill_after {
            std::thread::sleep(time);
            let _ = child.kill();
        }
        let output = child.wait_with_output().expect("it ends");
        let took = begun.elapsed();
        let ran = Ran::of(&output);
        let how = output.status.signal().map_or_else(|| ran.code.to_string(), |_| "killed".into());
        if output.status.signal().is_none() && kill_after.is_none() {
            (self.longest, self.total, self.whole) = (self.longest.max(took), self.total + took, self.whole + 1);
        }
        let _ = write!(trace, "== {how} after {took:?} {kill_after:?}\n{}", ran.stderr);
        // Who was killed has said nothing wrong; locks that it left may be in the next one's way for a moment.
        if how != "killed" && (![0, 2].contains(&ran.code) || ran.stderr.contains(": Error: ") || ran.stderr.contains("panicked"))
        {
            self.odd.push(ran);
        }
        *self.codes.entry(how).or_default() += 1;
    }
}

fn count(dump: &Dump, wanted: impl Fn(&str) -> bool) -> BTreeMap<u32, Vec<String>> {
    let mut counts: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (name, mailbox) in dump.boxes.iter().filter(|(name, _)| wanted(name)) {
        for mail in &mailbox.mails {
            counts.entry(id_of(&mail.text).expect("one of ours")).or_default().push(format!("{name}/{}", mail.uid));
        }
    }
    counts
}

/// What is wrong with what is there in the end, and which moves have left the mail where it was.
///
/// A user's MOVE is a copy and an expunge. A mail that gets another UID in between, because both sides had given out its own,
/// is not expunged, and nobody can tell any more that it was to go: it is in both mailboxes. Such moves are counted.
fn audit(book: &Book, dump: &Dump) -> (String, Vec<u32>) {
    let mails = book.mails.lock().unwrap();
    let (mut wrong, mut half_moved) = (String::new(), Vec::new());
    let there = count(dump, |name| name != COPIES);
    for id in &mails.saved {
        let places = there.get(id).map_or(&[][..], Vec::as_slice);
        if places.len() == 2 && mails.moved.contains(id) {
            half_moved.push(*id);
        } else if places.len() > 1 || places.is_empty() && !mails.loose.contains(id) {
            wrong += &format!("mail {id} is there {} times: {places:?}\n", places.len());
        }
    }
    let copies = count(dump, |name| name == COPIES);
    for id in &mails.copied {
        let places = copies.get(id).map_or(&[][..], Vec::as_slice);
        if places.len() > 1 || places.is_empty() && !mails.loose_copies.contains(id) {
            wrong += &format!("the copy of {id} is there {} times: {places:?}\n", places.len());
        }
    }
    (wrong, half_moved)
}

fn soak(first: &'static str, second: &'static str) {
    if !have_dovecot() {
        return;
    }
    let seconds = std::env::var("DSYNC_SOAK").ok().and_then(|s| s.parse().ok()).unwrap_or(1800);
    let seed: u64 = std::env::var("DSYNC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut lab = Lab::new();
    let (a, b) = (lab.side("a", first), lab.side("b", second));
    // The delivery agent runs as the user, all else of Dovecot's as root.
    for log in ["dovecot.log", "info.log"] {
        let path = lab.path().join(log);
        std::fs::write(&path, "").expect("a log");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
    }
    let book = Book::default();
    *book.log.lock().unwrap() = std::fs::File::create(lab.path().join("book.log")).ok();
    for name in BOXES.into_iter().skip(1).chain([COPIES]) {
        a.doveadm(&["mailbox", "create", name]);
    }
    lab.dsync(&a, &b, &["sync"]).fine();

    let begun = Instant::now();
    let mut runs = Runs::default();
    let mut trace = std::fs::File::create(lab.path().join("runs.log")).expect("a file");
    std::thread::scope(|scope| {
        let book = &book;
        for (n, side) in [&a, &b, &a, &b].into_iter().enumerate() {
            scope.spawn(move || session(side, book, seed * 100 + n as u64));
        }
        for (n, side) in [&a, &b].into_iter().enumerate() {
            scope.spawn(move || deliveries(side, book, seed * 100 + 11 + n as u64));
        }
        let mut dice = Dice(seed * 100 + 50);
        while begun.elapsed() < Duration::from_secs(seconds) {
            let next = Instant::now() + Duration::from_secs(1);
            let kill = (dice.below(3) == 0).then(|| Duration::from_millis(dice.below(250) as u64));
            let (x, y) = if dice.below(4) == 0 { (&b, &a) } else { (&a, &b) };
            let verb: &[&str] = if dice.below(5) == 0 { &["sync", "-f"] } else { &["sync"] };
            runs.run(x.ours(&[&["-D"], verb, &[&y.location]].concat()), kill, &mut trace);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        book.stop.store(true, Ordering::Relaxed);
    });

    let last = lab.dsync(&a, &b, &["sync"]);
    let (x, y) = (a.dump().without_saved(), b.dump().without_saved());
    let (mut wrong, half_moved) = audit(&book, &x);
    let moved = book.mails.lock().unwrap().moved.len();
    let differences = x.differences(&y);
    let mails: usize = x.boxes.values().map(|b| b.mails.len()).sum();
    eprintln!(
        "{first} and {second}, {seconds} s, seed {seed}: {:?}; runs {:?}, {} odd, {:?} on average, {:?} at most; {} mailboxes with {mails} mails in the end; \
         {} moves left the mail where it was, too",
        book.counts.lock().unwrap(),
        runs.codes,
        runs.odd.len(),
        runs.total / runs.whole.max(1),
        runs.longest,
        x.boxes.len(),
        half_moved.len(),
    );
    if half_moved.len() > moved / 50 + 1 {
        wrong += &format!("too many moves left the mail where it was: {half_moved:?}\n");
    }
    for ran in runs.odd.iter().take(20) {
        let told = ran.stderr.lines().filter(|l| !l.contains(": Debug: ") && !l.contains(": Info: ")).collect::<Vec<_>>();
        wrong += &format!("exit {}: {}\n", ran.code, told.join("\n"));
    }
    let log = lab.log();
    if !(wrong.is_empty() && differences.is_empty() && log.is_empty()) {
        eprintln!("kept: {}", lab.keep().display());
    }
    assert!(wrong.is_empty() && differences.is_empty() && log.is_empty(), "{wrong}\n{differences}\nDovecot: {log}");
    last.fine();
    assert_equal(&x, &y);
    assert_idle(&lab, &a, &b, &["sync"]);
    lab.silent();
}

macro_rules! pairs {
    ($($name:ident: $first:literal $second:literal;)*) => { $(
        #[test]
        #[ignore = "half an hour, or DSYNC_SOAK seconds"]
        fn $name() {
            soak($first, $second);
        }
    )* };
}

pairs! {
    soak_of_maildir_and_mdbox: "maildir" "mdbox";
    soak_of_sdbox_and_mdbox: "sdbox" "mdbox";
    soak_of_sdbox_and_maildir: "sdbox" "maildir";
    soak_of_mdbox_and_mdbox: "mdbox" "mdbox";
    soak_of_maildir_and_maildir: "maildir" "maildir";
}
