//! A scratch Maildir driven by real Dovecot: what Dovecot sees, what its IMAP does, and whether it complained.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

/// The mail user of the lab.
pub const UID: u32 = 1000;
const IMAP: &str = "/usr/lib/dovecot/imap";

pub struct Lab {
    dir: tempfile::TempDir,
}

/// A mail as `doveadm fetch` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub uid: u32,
    pub guid: String,
    pub flags: Vec<String>,
    pub modseq: u64,
    pub received: u32,
    pub saved: u32,
    pub physical: u64,
    pub virtual_size: u64,
    pub uidl: String,
    pub order: String,
    pub text: String,
}

/// A mailbox as Dovecot tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeenBox {
    pub guid: String,
    pub uidvalidity: u32,
    pub uidnext: u32,
    pub highestmodseq: u64,
    pub mails: Vec<Seen>,
}

impl SeenBox {
    pub fn mail(&self, uid: u32) -> &Seen {
        self.mails.iter().find(|m| m.uid == uid).unwrap_or_else(|| panic!("no UID {uid} in {self:?}"))
    }

    pub fn uids(&self) -> Vec<u32> {
        self.mails.iter().map(|m| m.uid).collect()
    }
}

/// `false` when there is no Dovecot here; says so on stderr.
pub fn have_dovecot() -> bool {
    let root = rustix::process::geteuid().is_root();
    // Its exit code says nothing: there is no option that only shows the version.
    if root && Path::new(IMAP).exists() && Command::new("doveadm").arg("help").output().is_ok() {
        return true;
    }
    eprintln!("skipped: this test needs root and Dovecot's doveadm and imap");
    false
}

impl Lab {
    pub fn new() -> Self {
        Self::with("", "")
    }

    /// A lab with additional settings, and options behind the location.
    pub fn with(extra: &str, options: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("dsync-maildir-").tempdir().expect("scratch directory");
        let root = dir.path();
        std::fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        for d in ["run", "home"] {
            std::fs::create_dir(root.join(d)).expect("mkdir");
            chown(root.join(d), Some(UID), Some(UID)).expect("chown");
        }
        let r = root.display();
        let conf = format!(
            "base_dir = {r}/run\nstate_dir = {r}/run\nlog_path = {r}/dovecot.log\ninfo_log_path = {r}/info.log\nssl = no\n\
             first_valid_uid = 1\nfirst_valid_gid = 1\nmail_uid = {UID}\nmail_gid = {UID}\nmail_home = {r}/home\n\
             mail_location = maildir:{r}/home/Maildir{options}\nmail_fsync = never\nstats_writer_socket_path =\n{extra}\n\
             namespace inbox {{\n  inbox = yes\n  separator = /\n}}\n"
        );
        std::fs::write(root.join("dovecot.conf"), conf).expect("conf");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// The directory of the INBOX.
    pub fn inbox(&self) -> PathBuf {
        self.home().join("Maildir")
    }

    fn env(&self, c: &mut Command) {
        c.env("USER", "u1").env("HOME", self.home()).current_dir("/");
    }

    pub fn try_doveadm(&self, args: &[&str], input: &[u8]) -> Output {
        let mut c = Command::new("doveadm");
        c.arg("-c").arg(self.path().join("dovecot.conf")).args(args);
        self.env(&mut c);
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("doveadm runs");
        child.stdin.take().expect("piped").write_all(input).expect("doveadm reads");
        child.wait_with_output().expect("doveadm ends")
    }

    /// Runs doveadm, which must succeed.
    #[track_caller]
    pub fn doveadm(&self, args: &[&str]) -> String {
        self.doveadm_with(args, b"")
    }

    #[track_caller]
    pub fn doveadm_with(&self, args: &[&str], input: &[u8]) -> String {
        let out = self.try_doveadm(args, input);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "doveadm {args:?}: {} {err} {}", out.status, self.log());
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    pub fn save(&self, mailbox: &str, text: &[u8]) {
        self.doveadm_with(&["save", "-m", mailbox], text);
    }

    /// All that Dovecot logged so far, except what the lab itself causes.
    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read(self.path().join(name)).unwrap_or_default();
        let text = [read("dovecot.log"), read("imap.log")].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter(|l| !l.contains("chdir(") && !l.contains(": Info: ")).map(|l| format!("{l}\n")).collect()
    }

    #[track_caller]
    pub fn silent(&self) {
        assert_eq!(self.log(), "", "Dovecot complained");
    }

    /// A mailbox as Dovecot sees it; Dovecot must not complain.
    #[track_caller]
    pub fn dump(&self, mailbox: &str) -> SeenBox {
        let status = self.doveadm(&["-f", "json", "mailbox", "status", "guid uidvalidity uidnext highestmodseq", mailbox]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("json");
        let b = &status.as_array().expect("a list")[0];
        let mut seen = SeenBox {
            guid: text(b, "guid"),
            uidvalidity: number(b, "uidvalidity"),
            uidnext: number(b, "uidnext"),
            highestmodseq: number(b, "highestmodseq"),
            mails: Vec::new(),
        };
        let fields = "uid guid flags modseq date.received.unixtime date.saved.unixtime size.physical size.virtual \
                      pop3.uidl pop3.order text";
        let mails = self.doveadm(&["-f", "json", "fetch", fields, "mailbox", mailbox, "all"]);
        let mails: serde_json::Value = serde_json::from_str(&mails).expect("json");
        for m in mails.as_array().expect("a list") {
            let flags = text(m, "flags");
            let mut flags: Vec<String> =
                flags.split(' ').filter(|f| !f.is_empty() && *f != "\\Recent").map(str::to_owned).collect();
            flags.sort();
            seen.mails.push(Seen {
                uid: number(m, "uid"),
                guid: text(m, "guid"),
                flags,
                modseq: number(m, "modseq"),
                received: number(m, "date.received.unixtime"),
                saved: number(m, "date.saved.unixtime"),
                physical: number(m, "size.physical"),
                virtual_size: number(m, "size.virtual"),
                uidl: text(m, "pop3.uidl"),
                order: text(m, "pop3.order"),
                text: text(m, "text"),
            });
        }
        seen.mails.sort_by_key(|m| m.uid);
        seen
    }

    pub fn imap(&self) -> Imap {
        let mut c = Command::new(IMAP);
        c.arg("-c").arg(self.path().join("dovecot.conf"));
        self.env(&mut c);
        // Without a master process it complains on stderr, whatever log_path says.
        let log = std::fs::File::options().create(true).append(true).open(self.path().join("imap.log")).expect("writable");
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().expect("imap runs");
        let (to, from) = (child.stdin.take().expect("piped"), BufReader::new(child.stdout.take().expect("piped")));
        let mut imap = Imap { child, to, from, n: 0 };
        imap.line();
        imap
    }
}

/// A preauthenticated IMAP session.
pub struct Imap {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    n: u32,
}

impl Imap {
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.from.read_until(b'\n', &mut line).expect("imap answers");
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// The answer's last line without its tag, and the untagged lines.
    pub fn cmd(&mut self, line: &str) -> (String, Vec<String>) {
        self.n += 1;
        let tag = format!("t{} ", self.n);
        if self.to.write_all(format!("{tag}{line}\r\n").as_bytes()).is_err() {
            return ("BAD died".into(), Vec::new());
        }
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                return ("BAD died".into(), lines);
            }
            match line.strip_prefix(&tag) {
                Some(status) => return (status.to_owned(), lines),
                None => lines.push(line),
            }
        }
    }

    #[track_caller]
    pub fn ok(&mut self, line: &str) -> Vec<String> {
        let (status, lines) = self.cmd(line);
        assert!(status.starts_with("OK"), "{line}: {status} {lines:?}");
        lines
    }

    #[track_caller]
    pub fn append(&mut self, mailbox: &str, what: &str, text: &str) {
        self.ok(&format!("APPEND {mailbox} {what} {{{}+}}\r\n{text}", text.len()));
    }
}

impl Drop for Imap {
    fn drop(&mut self) {
        let _ = self.to.write_all(b"x LOGOUT\r\n");
        let _ = self.child.wait();
    }
}

fn text(v: &serde_json::Value, key: &str) -> String {
    v[key].as_str().unwrap_or_else(|| panic!("{key} in {v}")).to_owned()
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug> + Default>(v: &serde_json::Value, key: &str) -> T {
    let t = text(v, key);
    if t.is_empty() { T::default() } else { t.parse().unwrap_or_else(|e| panic!("{key}={t}: {e:?}")) }
}

/// The file of a fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/maildir").join(name)
}

/// Unpacks an archive of the fixtures.
pub fn unpack(name: &str, to: &Path) {
    let status = Command::new("tar").arg("-xf").arg(fixture(name)).arg("-C").arg(to).status();
    assert!(status.expect("tar runs").success());
}

/// All files below a directory, with what tells whether they were touched.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut out = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(d) = todo.pop() {
        for entry in std::fs::read_dir(&d).expect("a directory") {
            let entry = entry.expect("an entry");
            let meta = entry.metadata().expect("metadata");
            let modified = meta.modified().expect("a time");
            if meta.is_dir() {
                todo.push(entry.path());
            }
            let bytes = if meta.is_file() { std::fs::read(entry.path()).expect("a file") } else { Vec::new() };
            out.insert(entry.path(), (bytes, modified));
        }
    }
    out
}
