//! Beside living users: sessions, deliveries, maintenance and other runs of ours work on both sides while we synchronise.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::lab::{Dump, Imap, Lab, Ran, Side, assert_equal, assert_idle, assert_same, have_dovecot, mail};

/// What was done to all mails by anybody.
#[derive(Default)]
struct Book {
    next: AtomicU32,
    /// Mails that were accepted.
    saved: Mutex<BTreeSet<u32>>,
    /// Mails that somebody wanted to expunge: they may be there or not, but never twice.
    expunged: Mutex<BTreeSet<u32>>,
    /// Copies that were accepted.
    copied: Mutex<BTreeSet<u32>>,
    stop: AtomicBool,
}

/// Mailboxes where mails are saved and expunged; copies go to [`COPIES`] and stay there.
const BOXES: [&str; 2] = ["INBOX", "Work"];
const COPIES: &str = "Copies";

impl Book {
    fn new_mail(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// A small generator of numbers; tests shall be repeatable as far as time allows.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// The number of a mail of ours.
pub fn id_of(text: &str) -> Option<u32> {
    text.split_once("X-Id: =")?.1.split_once('.')?.0.parse().ok()
}

/// UIDs and numbers of the mails of the selected mailbox.
fn listing(imap: &mut Imap) -> Vec<(u32, u32)> {
    let answer = imap.any("UID FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (X-Id)])");
    let mut out = Vec::new();
    for part in answer.split("* ").skip(1) {
        let uid = part.split_once("UID ").and_then(|(_, u)| u.split([' ', ')']).next()?.parse().ok());
        if let (Some(uid), Some(id)) = (uid, id_of(part)) {
            out.push((uid, id));
        }
    }
    out
}

/// A user at work until told to stop. Sessions that end (their mailbox was rebuilt) begin again.
fn session(side: &Side, book: &Book, seed: u64) {
    let mut dice = Dice(seed);
    let mut imap = side.imap();
    while book.goes_on() {
        let name = BOXES[dice.below(BOXES.len())];
        if !Imap::is_ok(&imap.any(&format!("SELECT {name}"))) {
            drop(std::mem::replace(&mut imap, side.imap()));
            continue;
        }
        for _ in 0..3 + dice.below(5) {
            std::thread::sleep(Duration::from_millis(20));
            let mails = listing(&mut imap);
            let chosen = (!mails.is_empty()).then(|| mails[dice.below(mails.len())]);
            match (dice.below(10), chosen) {
                (0..4, _) | (_, None) => {
                    let n = book.new_mail();
                    let flags = ["()", "(\\Seen)", "(kw1 kw2)", "(\\Flagged)"][dice.below(4)];
                    if Imap::is_ok(&imap.append(name, flags, &mail(n))) {
                        book.saved.lock().unwrap().insert(n);
                    }
                }
                (4..7, Some((uid, _))) => {
                    let sign = ["+", "-"][dice.below(2)];
                    let flag = ["\\Seen", "\\Answered", "kw1", "kw3", "\\Flagged"][dice.below(5)];
                    imap.any(&format!("UID STORE {uid} {sign}FLAGS ({flag})"));
                }
                (7..8, Some((uid, id))) => {
                    // Before, so that a mail that is gone is always known to be wanted gone.
                    book.expunged.lock().unwrap().insert(id);
                    imap.any(&format!("UID STORE {uid} +FLAGS (\\Deleted)"));
                    imap.any(&format!("UID EXPUNGE {uid}"));
                }
                (_, Some((uid, id))) => {
                    // Each is copied once only, whoever does it.
                    if book.copied.lock().unwrap().insert(id) {
                        let answer = imap.any(&format!("UID COPY {uid} {COPIES}"));
                        if !answer.contains("COPYUID") {
                            book.copied.lock().unwrap().remove(&id);
                        }
                    }
                }
            }
        }
    }
}

/// Deliveries and housekeeping.
fn maintenance(side: &Side, book: &Book, seed: u64) {
    let mut dice = Dice(seed);
    while book.goes_on() {
        std::thread::sleep(Duration::from_millis(50));
        let name = BOXES[dice.below(BOXES.len())];
        match dice.below(8) {
            0..4 => {
                let n = book.new_mail();
                if side.try_doveadm(&["save", "-m", name], mail(n).as_bytes()).status.success() {
                    book.saved.lock().unwrap().insert(n);
                }
            }
            4..6 => {
                let id = *book.saved.lock().unwrap().iter().nth(dice.below(20)).unwrap_or(&1);
                book.expunged.lock().unwrap().insert(id);
                side.try_doveadm(&["expunge", "mailbox", name, "header", "X-Id", &format!("={id}.")], b"");
            }
            6 => drop(side.try_doveadm(&["purge"], b"")),
            // In an mdbox it doubles copies that are made meanwhile, without any dsync; see below for the others.
            _ if side.driver == "maildir" => drop(side.try_doveadm(&["force-resync", name], b"")),
            _ => drop(side.try_doveadm(&["index", name], b"")),
        }
    }
}

fn count(dump: &Dump, boxes: &[&str]) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for name in boxes {
        for mail in &dump.boxes[*name].mails {
            *counts.entry(id_of(&mail.text).expect("one of ours")).or_default() += 1;
        }
    }
    counts
}

/// Nothing lost, nothing doubled.
#[track_caller]
fn audit(book: &Book, dump: &Dump) -> String {
    let saved = book.saved.lock().unwrap();
    let expunged = book.expunged.lock().unwrap();
    let copied = book.copied.lock().unwrap();
    let counts = count(dump, &BOXES);
    let mut wrong = String::new();
    for id in saved.iter() {
        let found = counts.get(id).copied().unwrap_or(0);
        if found > 1 || found == 0 && !expunged.contains(id) {
            wrong += &format!("mail {id} is there {found} times\n");
        }
    }
    let copies = count(dump, &[COPIES]);
    for id in copied.iter() {
        let found = copies.get(id).copied().unwrap_or(0);
        if found != 1 {
            wrong += &format!("the copy of {id} is there {found} times\n");
        }
    }
    let still = expunged.iter().filter(|id| counts.contains_key(id)).count();
    assert!(wrong.is_empty(), "{wrong}");
    format!(
        "{} saved, {} wanted gone ({still} still there), {} copied, {} left",
        saved.len(),
        expunged.len(),
        copied.len(),
        counts.len()
    )
}

fn crowd(first: &'static str, second: &'static str) {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", first), lab.side("b", second));
    let book = Book::default();
    for name in ["Work", COPIES] {
        a.doveadm(&["mailbox", "create", name]);
    }
    for _ in 0..10 {
        let n = book.new_mail();
        a.save(BOXES[n as usize % 2], &mail(n));
        book.saved.lock().unwrap().insert(n);
    }
    lab.dsync(&a, &b, &["sync"]).fine();

    let ran = std::thread::scope(|scope| {
        for (n, side) in [&a, &b, &a, &b].into_iter().enumerate() {
            let book = &book;
            scope.spawn(move || session(side, book, n as u64 + 1));
        }
        for (n, side) in [&a, &b].into_iter().enumerate() {
            let book = &book;
            scope.spawn(move || maintenance(side, book, n as u64 + 11));
        }
        // A second run of ours at the same time, from the other side.
        let (lab, book, a, b) = (&lab, &book, &a, &b);
        let other = scope.spawn(move || {
            let mut ran = Vec::new();
            while book.goes_on() {
                ran.push(lab.dsync(b, a, &["sync", "-l", "20"]));
                std::thread::sleep(Duration::from_millis(150));
            }
            ran
        });
        let mut ran = Vec::new();
        let begun = Instant::now();
        while (ran.len() < 20 || begun.elapsed() < Duration::from_secs(6)) && begun.elapsed() < Duration::from_secs(25) {
            ran.push(lab.dsync(a, b, if ran.len() % 5 == 4 { &["sync", "-f"] } else { &["sync"] }));
        }
        book.stop.store(true, Ordering::Relaxed);
        ran.extend(other.join().expect("the other run"));
        ran
    });
    let codes: Vec<i32> = ran.iter().map(|r| r.code).collect();
    let odd: Vec<&Ran> = ran.iter().filter(|r| r.code != 0 && r.code != 2 || r.stderr.contains("Error")).collect();
    lab.dsync(&a, &b, &["sync"]).fine();
    let (x, y) = (a.dump().without_saved(), b.dump().without_saved());
    eprintln!("{first} and {second}: {}; {} runs ended with {codes:?}", audit(&book, &x), ran.len());
    assert_equal(&x, &y);
    assert!(odd.is_empty(), "{odd:#?}");
    assert_idle(&lab, &a, &b, &["sync"]);
    lab.silent();
}

#[test]
fn a_crowd_at_maildir_and_mdbox() {
    crowd("maildir", "mdbox");
}

#[test]
fn a_crowd_at_sdbox_and_mdbox() {
    crowd("sdbox", "mdbox");
}

#[test]
fn a_crowd_at_sdbox_and_maildir() {
    crowd("sdbox", "maildir");
}

/// While Dovecot rebuilds a mailbox again and again, runs may fail for now; nothing is lost or doubled, and it ends well.
#[test]
fn rebuilds_all_the_time() {
    if !have_dovecot() {
        return;
    }
    for driver in ["sdbox", "mdbox"] {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", "maildir"), lab.side("b", driver));
        a.save("INBOX", &mail(1));
        lab.dsync(&a, &b, &["sync"]).fine();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let rebuild = || {
                while !stop.load(Ordering::Relaxed) {
                    drop(b.try_doveadm(&["force-resync", "INBOX"], b""));
                }
            };
            let rebuilding = [scope.spawn(rebuild), scope.spawn(rebuild)];
            for n in 2..30 {
                a.save("INBOX", &mail(n));
                let ran = lab.dsync(&a, &b, &["sync"]);
                assert!([0, 2, 75].contains(&ran.code), "{ran:?}");
            }
            stop.store(true, Ordering::Relaxed);
            rebuilding.into_iter().for_each(|r| r.join().expect("it ends"));
        });
        lab.dsync(&a, &b, &["sync"]).fine();
        let (x, y) = (a.dump().without_saved(), b.dump().without_saved());
        assert_equal(&x, &y);
        let mut ids: Vec<u32> = x.texts().iter().filter_map(|t| id_of(t)).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..30).collect::<Vec<_>>(), "{driver}");
    }
}

/// Holds a lock as another process would, until it is dropped.
struct Holder(std::process::Child);

impl Holder {
    fn of(path: &std::path::Path) -> Self {
        use std::io::Read;
        let script = "import fcntl,sys,time\nf=open(sys.argv[1],'a+')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('y',flush=True)\ntime.sleep(60)\n";
        let mut command = std::process::Command::new("python3");
        command.arg("-c").arg(script).arg(path).uid(crate::lab::UID).gid(crate::lab::UID).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("the lock");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Somebody else has the lock: said with the holder, nothing is done, exit 75; and it works once they have gone.
#[test]
fn a_held_lock_is_told() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = (lab.side("a", "maildir"), lab.side("b", "mdbox"));
    a.doveadm(&["mailbox", "create", "Work"]);
    for (n, name) in [(1, "INBOX"), (2, "Work")] {
        a.save(name, &mail(n));
    }
    lab.dsync(&a, &b, &["sync", "-l", "5"]).fine();
    a.save("INBOX", &mail(3));
    a.save("Work", &mail(4));
    let before = b.dump();

    let user = a.home.join(".dovecot-sync.lock");
    assert!(!user.exists(), "the lock file stays behind");
    {
        let holder = Holder::of(&user);
        let pid = format!("pid {}", holder.0.id());
        lab.dsync(&a, &b, &["sync", "-l", "1"])
            .says(75, &["Couldn't lock", user.to_str().unwrap(), "Timed out after 1 second", &pid]);
        assert_equal(&before, &b.dump());
        // A run without -l does not notice it.
    }
    {
        let mailbox = b.dir.join("mailboxes/INBOX/dbox-Mails/.dovecot-box-sync.lock");
        let holder = Holder::of(&mailbox);
        let pid = format!("pid {}", holder.0.id());
        let ran = lab.dsync(&a, &b, &["sync", "-l", "1"]);
        ran.says(75, &["INBOX", mailbox.to_str().unwrap(), "Timed out after 1 second", &pid]);
        // The other mailboxes go on.
        let now = b.dump();
        assert_eq!((now.boxes["INBOX"].mails.len(), now.boxes["Work"].mails.len()), (1, 2));
    }
    lab.dsync(&a, &b, &["sync", "-l", "1"]).fine();
    assert_eq!(crate::lab::assert_same(&a, &b).texts().len(), 4);
    lab.silent();
}

/// Marks the mailbox of an index as deleted, as whoever is then stopped leaves it.
fn mark_deleted(dir: &Path) {
    use dsync::index::{Bits, Durability, Files, Index, Options, Settings, Transaction};
    let modes = dsync::os::fs::Modes::like(&std::fs::metadata(dir).expect("Dovecot made it"));
    let options = Options::new(Settings::default(), modes);
    let mut index = Index::open(Files::new(dir, Files::MAILBOX), options).expect("Dovecot's index");
    let mut locked = index.lock().expect("nobody else is there");
    for bits in [Bits::INTERNAL, Bits::EXTERNAL] {
        let mut transaction = Transaction::new(bits);
        transaction.mark_deleted();
        locked.commit(&transaction, Durability::Lazy).expect("written");
    }
}

#[test]
fn a_deletion_that_nobody_completes_is_given_up() {
    if !have_dovecot() {
        return;
    }
    for (driver, place) in [("maildir", ".Left"), ("sdbox", "mailboxes/Left/dbox-Mails"), ("mdbox", "mailboxes/Left/dbox-Mails")]
    {
        let lab = Lab::new();
        let (a, b) = (lab.side("a", driver), lab.side("b", "mdbox"));
        a.doveadm(&["mailbox", "create", "Left"]);
        a.save("Left", &mail(1));
        a.save("INBOX", &mail(2));
        let dir = a.dir.join(place);
        mark_deleted(&dir);
        lab.dsync(&a, &b, &["sync"]).fine();
        assert!(!b.dump().boxes.contains_key("Left"), "{driver}: it is being deleted");

        let log = std::fs::File::options().write(true).open(dir.join("dovecot.index.log")).expect("the log");
        log.set_modified(SystemTime::now() - Duration::from_secs(31)).expect("a time");
        lab.dsync(&a, &b, &["sync"]).fine();
        let both = assert_same(&a, &b);
        assert_eq!(both.boxes["Left"].mails.len(), 1, "{driver}");
        assert_idle(&lab, &a, &b, &["sync"]);
        lab.silent();
    }
}
