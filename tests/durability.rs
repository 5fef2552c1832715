//! What is on the disk, and in which order it gets there: both programs are watched at the same job under strace, with all
//! values of `mail_fsync`, into all storages.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

const UID: u32 = 1000;
const STORAGES: [&str; 3] = ["mdbox", "sdbox", "maildir"];

/// What a file is, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    /// Mails' texts.
    Text,
    /// The directory entry of a text.
    Entry,
    /// The log of an mdbox's map.
    Map,
    /// The log of a mailbox's index.
    Log,
    /// A Maildir's list of UIDs.
    Uidlist,
    /// The list of subscriptions.
    Subscriptions,
}

fn kind(path: &str) -> Option<Kind> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let is_numbered = |prefix: &str| name.strip_prefix(prefix).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let is_text = is_numbered("m.") || is_numbered("u.") || name.starts_with(".temp.");
    match name {
        _ if is_text || ["/cur/", "/new/", "/tmp/"].iter().any(|d| path.contains(d)) => Some(Kind::Text),
        "dovecot.map.index.log" => Some(Kind::Map),
        "dovecot.index.log" => Some(Kind::Log),
        "dovecot-uidlist" | "dovecot-uidlist.tmp" => Some(Kind::Uidlist),
        "subscriptions" | "subscriptions.lock" => Some(Kind::Subscriptions),
        _ => None,
    }
}

/// It has its final name.
fn is_mail(path: &str) -> bool {
    kind(path) == Some(Kind::Text) && !path.contains("/tmp/") && !path.contains("/.temp.")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |p| p.0)
}

/// What a destination's disk has of what was written to it.
#[derive(Default)]
struct Disk {
    /// Files whose last write was not flushed.
    dirty: HashSet<String>,
    /// Directories with entries of mails that were not flushed.
    entries: HashSet<String>,
    /// Mails that were given their names.
    named: usize,
    /// How many flushes.
    flushes: usize,
    /// What a power failure at some moment would have made wrong.
    wrong: Vec<String>,
    /// How often a log that makes mails visible was flushed.
    shown: usize,
}

impl Disk {
    /// Kinds of which something was not flushed at the end.
    fn left(&self) -> BTreeSet<Kind> {
        let files = self.dirty.iter().filter_map(|path| kind(path));
        files.chain(self.entries.iter().map(|_| Kind::Entry)).collect()
    }

    fn is_dirty(&self, wanted: Kind) -> bool {
        self.dirty.iter().any(|path| kind(path) == Some(wanted))
    }

    fn write(&mut self, path: &str) {
        if kind(path).is_some() {
            self.dirty.insert(path.to_owned());
        }
    }

    fn flush(&mut self, path: &str) {
        self.flushes += 1;
        self.dirty.remove(path);
        self.entries.remove(path);
        if kind(path) == Some(Kind::Log) {
            self.shown += 1;
            if self.is_dirty(Kind::Text) || self.is_dirty(Kind::Map) {
                self.wrong.push(format!("{path} was flushed before what it refers to: {:?}", self.dirty));
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let dirty = self.dirty.remove(from);
        if dirty {
            self.dirty.insert(to.to_owned());
        }
        if is_mail(to) {
            self.named += 1;
            self.entries.insert(parent(to).to_owned());
            if dirty {
                self.wrong.push(format!("{to} got its name before it was flushed"));
            }
        }
    }

    /// Replays what strace has seen, as far as it is about files below `dir`.
    fn after(trace: &str, dir: &str) -> Self {
        let mut disk = Self::default();
        let mut begun: HashMap<&str, String> = HashMap::new();
        for line in trace.lines() {
            let (thread, text) = line.split_once(' ').expect("a thread's number comes first");
            let text = text.trim_start();
            // A call during which another thread made one stands in two pieces.
            let call = if let Some((first, _)) = text.split_once(" <unfinished ...>") {
                begun.insert(thread, first.to_owned());
                continue;
            } else if let Some((_, rest)) = text.split_once(" resumed>") {
                begun.remove(thread).expect("it was begun") + rest
            } else {
                text.to_owned()
            };
            disk.step(&call, dir);
        }
        disk
    }

    fn step<'c>(&mut self, call: &'c str, dir: &str) {
        let Some((name, rest)) = call.split_once('(') else { return };
        if rest.contains(" = -1 ") {
            return;
        }
        // `fd<path>`, or quoted paths; here as seen from the destination.
        let below = |path: &'c str| path.strip_prefix(dir);
        let opened = |nth: usize| below(rest.split('<').nth(nth)?.split_once('>')?.0);
        let named: Vec<&str> = rest.split('"').skip(1).step_by(2).filter_map(below).collect();
        match (name, &named[..]) {
            ("fsync" | "fdatasync", _) => opened(1).into_iter().for_each(|path| self.flush(path)),
            ("rename" | "renameat" | "renameat2" | "link" | "linkat", [from, to]) => self.rename(from, to),
            ("copy_file_range", _) => opened(2).into_iter().for_each(|path| self.write(path)),
            ("write" | "writev" | "pwrite64" | "pwritev" | "ftruncate" | "sendfile", _) => {
                opened(1).into_iter().for_each(|path| self.write(path));
            }
            _ => {}
        }
    }
}

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dsync-durable-").tempdir_in("/tmp").expect("scratch directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let lab = Self { dir };
        let r = lab.dir.path().display();
        let conf = format!(
            "base_dir = {r}/run\nstate_dir = {r}/run\nlog_path = /dev/stderr\nssl = no\nfirst_valid_uid = 1\nmail_home = {r}\n\
             mail_uid = {UID}\nmail_gid = {UID}\nmail_location = maildir:~/unset\nstats_writer_socket_path =\n\
             namespace inbox {{\n  inbox = yes\n  separator = /\n}}\n"
        );
        std::fs::write(lab.path("dovecot.conf"), conf).expect("conf");
        lab.own(lab.dir.path());
        lab.make("run");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn own(&self, path: &Path) {
        chown(path, Some(UID), Some(UID)).expect("chown");
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("mkdir");
        self.own(&path);
        path
    }

    /// A Maildir with a few mails in two mailboxes.
    fn source(&self, name: &str) -> String {
        let root = self.make(name);
        for mailbox in ["", ".Work"] {
            for dir in ["", "/cur", "/new", "/tmp"] {
                self.make(&format!("{name}/{mailbox}{dir}"));
            }
            for n in 0..5 {
                let path = root.join(mailbox).join(format!("cur/17000000{n}.M{n}P1.host:2,S"));
                std::fs::write(&path, format!("Subject: {mailbox} {n}\n\n{}", "text\n".repeat(n * 100))).expect("a mail");
                self.own(&path);
            }
        }
        std::fs::write(root.join("subscriptions"), "Work\n").expect("subscriptions");
        self.own(&root.join("subscriptions"));
        format!("maildir:{}", root.display())
    }

    /// Runs a program's `backup` from a new source into a new destination.
    fn watch(&self, program: &str, storage: &str, fsync: &str) -> Disk {
        let name = format!("{}-{storage}-{fsync}", Path::new(program).file_name().and_then(|n| n.to_str()).expect("a name"));
        let source = self.source(&format!("{name}-src"));
        let dir = self.path(&format!("{name}-dst")).display().to_string();
        let trace = self.path(&name);
        let calls = "fsync,fdatasync,rename,renameat,renameat2,link,linkat,write,writev,pwrite64,pwritev,ftruncate,sendfile,copy_file_range";
        let run = Command::new("strace")
            .args(["-f", "-y", "-qq", "-s", "0", "-e", &format!("trace={calls}"), "-o"])
            .arg(&trace)
            .arg(program)
            .arg("-c")
            .arg(self.path("dovecot.conf"))
            .args(["-o", &format!("mail_location={source}"), "-o", &format!("mail_fsync={fsync}")])
            .args(["backup", &format!("{storage}:{dir}")])
            .env("USER", "someone")
            .env("HOME", self.dir.path())
            .output()
            .expect("strace runs");
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
        let disk = Disk::after(&String::from_utf8_lossy(&std::fs::read(&trace).expect("a trace")), &dir);
        assert!(disk.named > 0, "{name}: no mail was seen to appear");
        disk
    }
}

/// Root, because the mail's owner is another user; says what is missing.
fn can_watch() -> bool {
    let strace = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|s| s.success());
    let root = rustix::process::geteuid().is_root();
    if !strace || !root {
        eprintln!("skipped: this test needs root and a strace that may trace");
    }
    strace && root
}

const OURS: &str = env!("CARGO_BIN_EXE_dsync");

#[test]
fn nothing_is_named_or_shown_before_it_is_on_the_disk() {
    if !can_watch() {
        return;
    }
    let lab = Lab::new();
    for storage in STORAGES {
        for fsync in ["optimized", "always"] {
            let disk = lab.watch(OURS, storage, fsync);
            assert!(disk.wrong.is_empty(), "{storage}, {fsync}: {:#?}", disk.wrong);
            assert!(storage == "maildir" || disk.shown > 0, "{storage}, {fsync}: no log was flushed");
            let left = disk.left();
            for kind in [Kind::Text, Kind::Entry, Kind::Uidlist, Kind::Subscriptions] {
                assert!(!left.contains(&kind), "{storage}, {fsync}: {kind:?} is not on the disk at the end: {:?}", disk.dirty);
            }
        }
    }
}

#[test]
fn nothing_is_flushed_where_that_is_not_wanted() {
    if !can_watch() {
        return;
    }
    let lab = Lab::new();
    for storage in STORAGES {
        assert_eq!(lab.watch(OURS, storage, "never").flushes, 0, "{storage}");
    }
}

#[test]
fn at_the_end_all_is_on_the_disk_that_doveadm_has_there() {
    if !can_watch() {
        return;
    }
    if Command::new("doveadm").arg("help").output().is_err() {
        eprintln!("skipped: this test needs Dovecot's doveadm");
        return;
    }
    let lab = Lab::new();
    for storage in STORAGES {
        for fsync in ["optimized", "always", "never"] {
            let (ours, theirs) = (lab.watch(OURS, storage, fsync), lab.watch("doveadm", storage, fsync));
            let more: BTreeSet<_> = ours.left().difference(&theirs.left()).copied().collect();
            assert!(more.is_empty(), "{storage}, {fsync}: doveadm flushes {more:?}, we do not");
            assert!(ours.flushes <= theirs.flushes, "{storage}, {fsync}: {} flushes, doveadm {}", ours.flushes, theirs.flushes);
        }
    }
}

#[test]
fn the_judge_tells_right_from_wrong() {
    let trace = "7 write(3</d/storage/.temp.1>, \"\"..., 5) = 5\n\
                 7 renameat2(AT_FDCWD</x>, \"/d/storage/.temp.1\", AT_FDCWD</x>, \"/d/storage/m.1\", RENAME_NOREPLACE) = 0\n\
                 8 fdatasync(4</d/a/dovecot.index.log> <unfinished ...>\n\
                 7 fsync(5</elsewhere/storage>) = 0\n\
                 8 <... fdatasync resumed>) = 0\n";
    let disk = Disk::after(trace, "/d");
    assert_eq!((disk.named, disk.flushes, disk.shown), (1, 1, 1));
    assert_eq!(disk.wrong.len(), 2, "named and shown too early: {:?}", disk.wrong);
    assert_eq!(disk.left(), BTreeSet::from([Kind::Text, Kind::Entry]));

    let better =
        trace.replacen("7 renameat2", "7 fdatasync(3</d/storage/.temp.1>) = 0\n7 renameat2", 1) + "7 fsync(5</d/storage>) = 0\n";
    let disk = Disk::after(&better, "/d");
    assert!(disk.wrong.is_empty() && disk.left().is_empty(), "{:?} {:?}", disk.wrong, disk.left());
}
