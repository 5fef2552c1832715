//! Two places of mail driven by a real Dovecot, and our program between them.
//!
//! All that happens to a side before and after our program runs is done by Dovecot, so that our program is judged by what
//! Dovecot sees.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

/// The mail user of the lab.
pub const UID: u32 = 1000;

/// `false` when there is no Dovecot here; says so on stderr.
pub fn have_dovecot() -> bool {
    if rustix::process::geteuid().is_root() && Command::new("doveadm").arg("help").output().is_ok() {
        return true;
    }
    eprintln!("skipped: this test needs root and Dovecot's doveadm");
    false
}

/// A scratch directory with a configuration.
pub struct Lab {
    dir: tempfile::TempDir,
}

/// How `doveadm` and our program are told of a side.
#[derive(Debug, Clone)]
pub struct Side {
    lab: PathBuf,
    pub dir: PathBuf,
    driver: String,
    /// What follows the path in the location.
    opts: String,
    /// More `-o` for Dovecot, and for our program when this is the first side.
    extra: Vec<String>,
}

/// What Dovecot sees of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    pub guid: String,
    pub uidvalidity: u32,
    pub uidnext: u32,
    pub modseq: u64,
    pub mails: BTreeMap<u32, Mail>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    pub guid: String,
    pub flags: Vec<String>,
    pub received: String,
    pub text: String,
}

/// All mailboxes and subscriptions of a side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dump {
    pub boxes: BTreeMap<String, Seen>,
    pub subscribed: Vec<String>,
}

/// How our program ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.err);
        self
    }

    #[track_caller]
    pub fn quiet(&self) -> &Self {
        self.exits(0);
        assert_eq!((self.out.as_str(), self.err.as_str()), ("", ""));
        self
    }

    #[track_caller]
    pub fn says(&self, what: &str) -> &Self {
        assert!(self.err.contains(what), "{what:?} is not said in {:?}", self.err);
        self
    }
}

const INBOX: &str = "namespace inbox {\n  inbox = yes\n  separator = /\n}\n";

impl Lab {
    pub fn new() -> Self {
        Self::with(INBOX)
    }

    /// With other namespaces or more settings.
    pub fn with(conf: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("dsync-rows-").tempdir_in("/tmp").expect("scratch directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        for d in ["run", "home"] {
            make_dir(&dir.path().join(d));
        }
        let r = dir.path().display();
        let text = format!(
            "base_dir = {r}/run\nstate_dir = {r}/run\nlog_path = {r}/dovecot.log\ninfo_log_path = {r}/info.log\nssl = no\n\
             first_valid_uid = 1\nfirst_valid_gid = 1\nmail_uid = {UID}\nmail_gid = {UID}\nmail_home = {r}/home\n\
             mail_location = maildir:{r}/unset\nmail_fsync = never\nstats_writer_socket_path =\n{conf}"
        );
        std::fs::write(dir.path().join("dovecot.conf"), text).expect("conf");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn side(&self, name: &str, driver: &str) -> Side {
        let dir = self.path().join(name);
        make_dir(&dir);
        Side { lab: self.path().to_owned(), dir, driver: driver.into(), opts: String::new(), extra: Vec::new() }
    }

    /// Gives everything of a side to the mail user.
    pub fn own(&self, side: &Side) {
        assert!(
            Command::new("chown").arg("-R").arg(format!("{UID}:{UID}")).arg(&side.dir).status().expect("chown runs").success()
        );
    }

    /// All that Dovecot logged so far, except what the lab itself causes.
    pub fn log(&self) -> String {
        let text = std::fs::read(self.path().join("dovecot.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter(|l| !l.contains("chdir(")).map(|l| format!("{l}\n")).collect()
    }

    #[track_caller]
    pub fn silent(&self) {
        assert_eq!(self.log(), "", "Dovecot complained");
    }
}

fn make_dir(dir: &Path) {
    std::fs::create_dir_all(dir).expect("mkdir");
    chown(dir, Some(UID), Some(UID)).expect("chown");
}

impl Side {
    /// With more in its location; `@` is the side's directory.
    pub fn with(self, opts: &str) -> Self {
        Self { opts: opts.into(), ..self }
    }

    /// The same with more settings.
    pub fn set(&self, settings: &[&str]) -> Self {
        Self { extra: settings.iter().map(|s| (*s).to_owned()).collect(), ..self.clone() }
    }

    /// Where the mail is.
    pub fn mail(&self) -> PathBuf {
        self.dir.join("mail")
    }

    pub fn location(&self) -> String {
        format!("{}:{}{}", self.driver, self.mail().display(), self.opts.replace("@", &self.dir.display().to_string()))
    }

    /// The directory of a mailbox's index files.
    pub fn index(&self, mailbox: &str) -> PathBuf {
        match self.driver.as_str() {
            "maildir" if mailbox == "INBOX" => self.mail(),
            "maildir" => self.mail().join(format!(".{}", mailbox.replace('/', "."))),
            _ => self.mail().join("mailboxes").join(mailbox).join("dbox-Mails"),
        }
    }

    fn settings(&self) -> Vec<String> {
        let mut all = vec![
            "-c".into(),
            self.lab.join("dovecot.conf").display().to_string(),
            "-o".into(),
            format!("mail_location={}", self.location()),
            "-o".into(),
            format!("mail_home={}", self.dir.display()),
        ];
        for e in &self.extra {
            all.extend(["-o".into(), e.clone()]);
        }
        all
    }

    /// The same mail at another place.
    pub fn copy(&self, name: &str) -> Self {
        let to = self.lab.join(name);
        let _ = std::fs::remove_dir_all(&to);
        let ok = Command::new("cp").arg("-a").arg(&self.dir).arg(&to).status().expect("cp runs").success();
        assert!(ok, "cp");
        let link = to.join("mail/dbox-alt-root");
        if let Ok(target) = std::fs::read_link(&link) {
            let target = to.join(target.strip_prefix(&self.dir).expect("below the side"));
            std::fs::remove_file(&link).and_then(|()| std::os::unix::fs::symlink(target, &link)).expect("the link");
        }
        Self { dir: to, ..self.clone() }
    }

    pub fn try_doveadm(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new("doveadm")
            .args(self.settings())
            .args(args)
            .env("USER", "u1")
            .env("HOME", &self.dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("doveadm runs");
        let _ = child.stdin.take().expect("piped").write_all(input);
        child.wait_with_output().expect("doveadm ends")
    }

    /// Runs doveadm, which must succeed.
    #[track_caller]
    pub fn doveadm(&self, args: &[&str]) -> String {
        let out = self.try_doveadm(args, b"");
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "doveadm {args:?}: {} {err}", out.status);
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    #[track_caller]
    pub fn save(&self, mailbox: &str, subject: &str) {
        let out = self.try_doveadm(&["save", "-m", mailbox], mail(subject).as_bytes());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    pub fn imap(&self) -> Imap {
        Imap::new(self)
    }

    /// Our program with this as its first side.
    pub fn command(&self, verb: &[&str], other: &Self) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_dsync"));
        c.args(self.settings()).args(verb).arg(other.location());
        c.env("USER", "u1").env("HOME", &self.dir).current_dir("/").stdin(Stdio::null());
        c
    }

    pub fn dsync(&self, verb: &[&str], other: &Self) -> Run {
        run(&mut self.command(verb, other))
    }

    /// What Dovecot sees.
    #[track_caller]
    pub fn dump(&self) -> Dump {
        self.imap().dump()
    }

    /// The texts in a mailbox, sorted.
    #[track_caller]
    pub fn subjects(&self, mailbox: &str) -> Vec<String> {
        self.dump().subjects(mailbox)
    }

    /// All files with their bytes and times, and all directories.
    pub fn files(&self) -> BTreeMap<PathBuf, (i64, i64, Vec<u8>)> {
        let mut out = BTreeMap::new();
        let mut todo = vec![self.dir.clone()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(&dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                let meta = std::fs::symlink_metadata(&path).expect("it is there");
                let bytes = if meta.is_file() { std::fs::read(&path).expect("a file") } else { Vec::new() };
                if meta.is_dir() {
                    todo.push(path.clone());
                    // Locks come and go in it.
                    out.insert(path, (0, 0, bytes));
                } else {
                    out.insert(path, (meta.mtime(), meta.mtime_nsec(), bytes));
                }
            }
        }
        out
    }
}

/// Names of files that differ.
pub fn changed<T: PartialEq>(a: &BTreeMap<PathBuf, T>, b: &BTreeMap<PathBuf, T>) -> Vec<PathBuf> {
    let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|n| a.get(*n) != b.get(*n)).cloned().collect()
}

pub fn run(command: &mut Command) -> Run {
    let out = command.output().expect("our program runs");
    Run {
        code: out.status.code(),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// A small mail of this subject.
pub fn mail(subject: &str) -> String {
    format!(
        "From: Sender <s@example.org>\nTo: you@example.org\nSubject: {subject}\nMessage-ID: <{}@example.org>\n\
         Date: Mon, 14 Sep 2020 10:00:00 +0000\n\nThis is {subject}.\n",
        subject.replace(' ', ".")
    )
}

fn subject(text: &str) -> String {
    text.lines().find_map(|l| l.strip_prefix("Subject: ")).unwrap_or("?").to_owned()
}

impl Dump {
    pub fn subjects(&self, mailbox: &str) -> Vec<String> {
        let mut all: Vec<_> =
            self.boxes.get(mailbox).into_iter().flat_map(|b| b.mails.values()).map(|m| subject(&m.text)).collect();
        all.sort();
        all
    }

    /// Subjects of everything, each with how often.
    pub fn all_subjects(&self) -> BTreeMap<String, usize> {
        let mut out = BTreeMap::new();
        for m in self.boxes.values().flat_map(|b| b.mails.values()) {
            *out.entry(subject(&m.text)).or_default() += 1;
        }
        out
    }

    /// Without what a side has for itself.
    pub fn common(mut self) -> Self {
        for b in self.boxes.values_mut() {
            b.modseq = 0;
        }
        self
    }

    /// What differs, for people.
    pub fn diff(&self, other: &Self) -> String {
        let mut out = String::new();
        let names: std::collections::BTreeSet<_> = self.boxes.keys().chain(other.boxes.keys()).collect();
        for name in names {
            let (a, b) = match (self.boxes.get(name), other.boxes.get(name)) {
                (Some(a), Some(b)) => (a, b),
                (a, _) => {
                    let _ = writeln!(out, "{name} only on the {}", if a.is_some() { "left" } else { "right" });
                    continue;
                }
            };
            if (&a.guid, a.uidvalidity, a.uidnext, a.modseq) != (&b.guid, b.uidvalidity, b.uidnext, b.modseq) {
                let of = |s: &Seen| format!("{} {} {} {}", s.guid, s.uidvalidity, s.uidnext, s.modseq);
                let _ = writeln!(out, "{name}: {} / {}", of(a), of(b));
            }
            let uids: std::collections::BTreeSet<_> = a.mails.keys().chain(b.mails.keys()).collect();
            for uid in uids.into_iter().filter(|u| a.mails.get(u) != b.mails.get(u)) {
                let of =
                    |s: &Seen| s.mails.get(uid).map(|m| format!("{} {} {:?} {}", subject(&m.text), m.guid, m.flags, m.received));
                let _ = writeln!(out, "{name} {uid}: {:?} / {:?}", of(a), of(b));
            }
        }
        if self.subscribed != other.subscribed {
            let _ = writeln!(out, "subscribed: {:?} / {:?}", self.subscribed, other.subscribed);
        }
        out
    }
}

/// Both sides are the same to a client: names, GUIDs, UIDVALIDITY, UIDNEXT, UIDs, flags, dates, texts, subscriptions.
#[track_caller]
pub fn assert_same(a: &Side, b: &Side) -> Dump {
    let (x, y) = (a.dump().common(), b.dump().common());
    assert!(x == y, "the sides differ:\n{}", x.diff(&y));
    x
}

/// Another run is quiet, exits 0 and leaves every byte and time of both sides alone.
#[track_caller]
pub fn assert_settled(a: &Side, verb: &[&str], b: &Side) {
    let before = (a.files(), b.files());
    let r = a.dsync(verb, b);
    r.quiet();
    let after = (a.files(), b.files());
    let (x, y) = (changed(&before.0, &after.0), changed(&before.1, &after.1));
    assert!(x.is_empty() && y.is_empty(), "another run changed {x:?} {y:?}");
}

/// An IMAP session of a side's user.
pub struct Imap {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    count: u32,
}

impl Imap {
    fn new(side: &Side) -> Self {
        let mut child = Command::new("/usr/lib/dovecot/imap")
            .args(side.settings())
            .env("USER", "u1")
            .env("HOME", &side.dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("imap runs");
        let (to, mut from) = (child.stdin.take().expect("piped"), BufReader::new(child.stdout.take().expect("piped")));
        from.read_line(&mut String::new()).expect("a greeting");
        Self { child, to, from, count: 0 }
    }

    /// A command's answer: lines, a literal being part of its line.
    #[track_caller]
    pub fn ok(&mut self, command: &str) -> Vec<String> {
        let (result, all) = self.any(command);
        assert!(result.starts_with("OK"), "{command}: {result}");
        all
    }

    #[track_caller]
    fn any(&mut self, command: &str) -> (String, Vec<String>) {
        self.count += 1;
        let tag = format!("t{} ", self.count);
        self.to.write_all(format!("{tag}{command}\r\n").as_bytes()).expect("imap reads");
        let mut all = Vec::new();
        loop {
            let line = self.line().unwrap_or_else(|| panic!("imap died: {command}: {all:?}"));
            if let Some(result) = line.strip_prefix(&tag) {
                return (result.to_owned(), all);
            }
            all.push(line);
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut whole = Vec::new();
        loop {
            let mut line = Vec::new();
            if self.from.read_until(b'\n', &mut line).ok()? == 0 {
                return None;
            }
            while line.last().is_some_and(|b| matches!(b, b'\r' | b'\n')) {
                line.pop();
            }
            let size = line.strip_suffix(b"}").and_then(|l| {
                let open = l.iter().rposition(|b| *b == b'{')?;
                std::str::from_utf8(&l[open + 1..]).ok()?.parse::<usize>().ok()
            });
            whole.extend_from_slice(&line);
            let Some(size) = size else { return Some(String::from_utf8_lossy(&whole).into_owned()) };
            let mut literal = vec![0; size];
            self.from.read_exact(&mut literal).ok()?;
            whole.push(b'\n');
            whole.extend_from_slice(&literal);
            whole.push(b'\n');
        }
    }

    #[track_caller]
    pub fn append(&mut self, mailbox: &str, flags: &str, subject: &str) {
        let text = mail(subject).replace('\n', "\r\n");
        self.ok(&format!("APPEND \"{mailbox}\" ({flags}) {{{}+}}\r\n{text}", text.len()));
    }

    #[track_caller]
    fn dump(&mut self) -> Dump {
        let mut dump = Dump::default();
        let name = |l: &str| l.split(" \"/\" ").nth(1).map(unquote);
        for line in self.ok("LIST \"\" \"*\"") {
            if line.contains("\\Noselect") || line.contains("\\NonExistent") {
                continue;
            }
            let Some(name) = name(&line) else { continue };
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            let mut seen = Seen::default();
            let (result, status) = self.any(&format!("STATUS \"{quoted}\" (UIDVALIDITY UIDNEXT HIGHESTMODSEQ X-GUID)"));
            if result.starts_with("NO") && result.contains("deleted under us") {
                // A deletion that did not come to its end; Dovecot ends it, or we do.
                continue;
            }
            assert!(result.starts_with("OK"), "STATUS {name}: {result}");
            let status = status.iter().rev().find(|l| l.starts_with("* STATUS")).expect("a status");
            let words: Vec<&str> = status.rsplit_once('(').expect("a list").1.trim_end_matches(')').split(' ').collect();
            for pair in words.chunks(2) {
                let value = pair[1];
                match pair[0] {
                    "UIDVALIDITY" => seen.uidvalidity = value.parse().expect("a number"),
                    "UIDNEXT" => seen.uidnext = value.parse().expect("a number"),
                    "HIGHESTMODSEQ" => seen.modseq = value.parse().expect("a number"),
                    _ => seen.guid = value.to_owned(),
                }
            }
            self.ok(&format!("EXAMINE \"{quoted}\""));
            for line in self.ok("UID FETCH 1:* (FLAGS INTERNALDATE X-GUID BODY.PEEK[])") {
                if let Some((uid, mail)) = fetched(&line) {
                    seen.mails.insert(uid, mail);
                }
            }
            dump.boxes.insert(name, seen);
        }
        dump.subscribed = self.ok("LSUB \"\" \"*\"").iter().filter_map(|l| name(l)).collect();
        dump.subscribed.sort();
        dump
    }
}

fn unquote(name: &str) -> String {
    match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(n) => n.replace("\\\"", "\"").replace("\\\\", "\\"),
        // As a literal.
        None => name.split_once('\n').map_or(name, |(_, n)| n.trim_end()).to_owned(),
    }
}

fn fetched(line: &str) -> Option<(u32, Mail)> {
    let (head, text) = line.split_once(" BODY[] ")?;
    let after = |key: &str| head.split_once(key).map(|(_, rest)| rest);
    let uid = after("UID ")?.split([' ', ')']).next()?.parse().ok()?;
    let flags = after("FLAGS (")?.split(')').next()?;
    let mut flags: Vec<String> = flags.split(' ').filter(|f| !f.is_empty() && *f != "\\Recent").map(str::to_owned).collect();
    flags.sort();
    let guid = after("X-GUID ")?.split(' ').next()?.to_owned();
    let received = after("INTERNALDATE \"")?.split('"').next()?.to_owned();
    let text = text.split_once('\n').map_or(text, |(_, t)| t).replace("\r\n", "\n");
    Some((uid, Mail { guid, flags, received, text: text.trim_end_matches(')').trim_end().to_owned() }))
}

impl Drop for Imap {
    fn drop(&mut self) {
        let _ = self.to.write_all(b"x LOGOUT\r\n");
        let mut rest = Vec::new();
        let _ = self.from.read_to_end(&mut rest);
        let _ = self.child.wait();
    }
}
