//! The index is stopped, or refused, at each of its changes to the file system: it is valid afterwards, with all of a
//! transaction or nothing of it.
//!
//! The work is done by this very program, started again with a fault plan in its environment (`os::faults`).

use std::path::Path;
use std::process::Command;

use dsync::index::{Bits, CacheEntry, Durability, Files, Index, Options, Settings, Transaction};
use dsync::mail::{Flags, Keyword, Timestamp, Uid, UidValidity};
use dsync::os::fs::Modes;

const CHILD: &str = "DSYNC_TEST_INDEX_DIR";

fn uid(n: u32) -> Uid {
    Uid::new(n).expect("not 0")
}

fn options() -> Options {
    Options { backup: true, ..Options::new(Settings::default(), Modes::default()) }
}

/// How many mails there are after each step of the work.
const MAILS: [usize; 6] = [0, 2, 5, 4, 6, 1];

fn first() -> Transaction {
    let mut t = Transaction::new(Bits::EXTERNAL);
    t.uid_validity(UidValidity::new(9).expect("not 0"));
    t
}

fn append(from: u32, to: u32) -> Transaction {
    let mut t = Transaction::new(Bits::EXTERNAL_SYNC);
    for n in from..=to {
        t.append(uid(n), Flags::SEEN.bits());
        t.keyword(uid(n), &Keyword::new("a"), true);
    }
    t
}

/// The work, each step of which changes the number of mails.
fn work(dir: &Path) -> dsync::index::Result<()> {
    let mut index = Index::create(Files::new(dir, Files::MAILBOX), options(), &[first()])?.index();
    let mut locked = index.lock()?;
    locked.commit(&append(1, 2), Durability::Mail)?;
    locked.write_snapshot()?;
    let mut more = append(3, 5);
    let entries = [CacheEntry { uid: uid(3), saved: Some(Timestamp(77)), guid: None }];
    for (uid, offset) in locked.cache(&entries)? {
        more.cache_offset(uid, offset);
    }
    locked.commit(&more, Durability::Mail)?;
    locked.write_snapshot()?;
    locked.rotate()?;
    let mut less = Transaction::new(Bits::EXTERNAL);
    less.expunge(uid(1), dsync::mail::Guid128::ZERO);
    locked.commit(&less, Durability::Mail)?;
    locked.commit(&append(6, 7), Durability::Mail)?;
    locked.rotate()?;
    locked.reset(&[first(), append(1, 1)])
}

#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    if let Err(e) = work(Path::new(&dir)) {
        eprintln!("{e}");
        std::process::exit(75);
    }
}

fn run(dir: &Path, fault: &str, log: Option<&Path>) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(CHILD, dir).env("DSYNC_FAULT", fault);
    if let Some(log) = log {
        command.env("DSYNC_FAULT_LOG", log);
    }
    command.output().expect("it starts")
}

fn mails(dir: &Path) -> Option<(usize, Index)> {
    match Index::open(Files::new(dir, Files::MAILBOX), options()) {
        Ok(index) => Some((index.state().len(), index)),
        Err(e) if e.is_missing() => None,
        Err(e) => panic!("{}: {e}", dir.display()),
    }
}

#[test]
fn stopped_at_every_step() {
    if !cfg!(debug_assertions) {
        eprintln!("skipped: no faults in this build");
        return;
    }
    let dir = tempfile::tempdir().expect("scratch directory");
    let log = dir.path().join("steps");
    let whole = dir.path().join("whole");
    std::fs::create_dir(&whole).expect("room");
    assert!(run(&whole, "0:none", Some(&log)).status.success());
    assert_eq!(mails(&whole).expect("made").0, 1);
    let text = std::fs::read_to_string(&log).expect("written");
    let steps: Vec<&str> = text.lines().filter_map(|l| l.split(' ').nth(1)).collect();
    assert!(steps.len() > 30, "{text}");
    let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|s| {
        for (kind, only) in [("kill", None), ("EIO", None), ("short", Some("write")), ("ENOSPC", Some("write"))] {
            let (steps, root, seen) = (&steps, dir.path(), &seen);
            s.spawn(move || {
                let mut last = 0;
                for (i, _) in steps.iter().enumerate().filter(|(_, op)| only.is_none_or(|o| o == **op)) {
                    last = stop(root, kind, i + 1, last);
                    seen.lock().expect("no panic before").insert(last);
                }
            });
        }
    });
    let seen = seen.into_inner().expect("no panic before");
    assert_eq!(seen.len(), MAILS.len(), "{seen:?}");
}

/// Stops the work at this step and looks at what is left; gives how far it came, which must be `last` at least.
fn stop(root: &Path, kind: &str, n: usize, last: usize) -> usize {
    let what = format!("{kind}-{n}");
    let place = root.join(&what);
    std::fs::create_dir(&place).expect("room");
    assert!(!run(&place, &format!("{n}:{kind}"), None).status.success(), "{what}: it went on");
    let Some((count, mut index)) = mails(&place) else {
        assert_eq!(last, 0, "{what}: the index is gone");
        return 0;
    };
    let step = MAILS.iter().position(|&m| m == count).unwrap_or_else(|| panic!("{what}: {count} mails"));
    assert!(step >= last, "{what}: back to {count} mails");
    // Others can go on, and a third one sees it.
    let next = index.state().next_uid();
    let mut locked = index.lock().unwrap_or_else(|e| panic!("{what}: {e}"));
    locked.commit(&append(next.get(), next.get()), Durability::Lazy).unwrap_or_else(|e| panic!("{what}: {e}"));
    drop(locked);
    assert_eq!(mails(&place).expect("there").0, count + 1, "{what}");
    step
}
