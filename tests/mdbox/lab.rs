//! A scratch mdbox driven by real Dovecot: what Dovecot sees, and whether it complained.

use std::collections::BTreeMap;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use self::imap::Imap;

#[path = "../shared/imap.rs"]
#[allow(dead_code, reason = "no target uses all")]
mod imap;

/// The mail user of the lab.
const UID: u32 = 1000;

pub struct Lab {
    dir: tempfile::TempDir,
    pub extra: Vec<String>,
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
    pub refs: u32,
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

/// `false` when there is no Dovecot here; says so on stderr.
pub fn have_dovecot() -> bool {
    let root = rustix::process::geteuid().is_root();
    if root && Command::new("doveadm").arg("help").output().is_ok() {
        return true;
    }
    eprintln!("skipped: this test needs root and Dovecot's doveadm");
    false
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dsync-mdbox-").tempdir().expect("scratch directory");
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
             mail_location = mdbox:{r}/home/mail\nmail_fsync = never\nstats_writer_socket_path =\n\
             namespace inbox {{\n  inbox = yes\n  separator = /\n}}\n"
        );
        std::fs::write(root.join("dovecot.conf"), conf).expect("conf");
        Self { dir, extra: Vec::new() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The mdbox root.
    pub fn root(&self) -> PathBuf {
        self.path().join("home/mail")
    }

    /// A lab with the same mail.
    pub fn copy(&self) -> Self {
        let other = Self::new();
        if self.root().exists() {
            copy_tree(&self.root(), &other.root());
        }
        other
    }

    fn settings(&self, c: &mut Command) {
        c.arg("-c").arg(self.path().join("dovecot.conf"));
        c.env("USER", "u1").env("HOME", self.path().join("home")).current_dir("/");
    }

    pub fn imap(&self) -> Imap {
        let mut command = Command::new("/usr/lib/dovecot/imap");
        self.settings(&mut command);
        Imap::start(&mut command)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new("doveadm");
        self.settings(&mut c);
        for e in &self.extra {
            c.arg("-o").arg(e);
        }
        c.args(args);
        c
    }

    pub fn try_doveadm(&self, args: &[&str], input: &[u8]) -> Output {
        use std::io::Write;
        let mut c = self.command(args);
        let mut child = c
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("doveadm runs");
        child.stdin.take().expect("piped").write_all(input).expect("doveadm reads");
        child.wait_with_output().expect("doveadm ends")
    }

    /// Runs doveadm, which must succeed and be silent.
    pub fn doveadm(&self, args: &[&str]) -> String {
        self.doveadm_with(args, b"")
    }

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
        let text = std::fs::read(self.path().join("dovecot.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter(|l| !l.contains("chdir(")).map(|l| format!("{l}\n")).collect()
    }

    #[track_caller]
    pub fn silent(&self) {
        assert_eq!(self.log(), "", "Dovecot complained");
    }

    /// Everything that Dovecot sees, by mailbox.
    pub fn dump(&self) -> BTreeMap<String, SeenBox> {
        let status = self.doveadm(&["-f", "json", "mailbox", "status", "guid uidvalidity uidnext highestmodseq", "*"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("json");
        let mut boxes = BTreeMap::new();
        for b in status.as_array().expect("a list") {
            boxes.insert(
                text(b, "mailbox"),
                SeenBox {
                    guid: text(b, "guid"),
                    uidvalidity: number(b, "uidvalidity"),
                    uidnext: number(b, "uidnext"),
                    highestmodseq: number(b, "highestmodseq"),
                    mails: Vec::new(),
                },
            );
        }
        let fields = "mailbox uid guid flags modseq date.received.unixtime date.saved.unixtime size.physical size.virtual \
                      pop3.uidl pop3.order refcount text";
        let mails = self.doveadm(&["-f", "json", "fetch", fields, "mailbox", "*", "all"]);
        let mails: serde_json::Value = serde_json::from_str(&mails).expect("json");
        for m in mails.as_array().expect("a list") {
            let mut flags: Vec<String> =
                text(m, "flags").split(' ').filter(|f| !f.is_empty() && *f != "\\Recent").map(str::to_owned).collect();
            flags.sort();
            let seen = Seen {
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
                refs: number(m, "refcount"),
                text: text(m, "text"),
            };
            boxes.get_mut(&text(m, "mailbox")).expect("a mailbox of the status").mails.push(seen);
        }
        for b in boxes.values_mut() {
            b.mails.sort_by_key(|m| m.uid);
        }
        boxes
    }
}

fn text(v: &serde_json::Value, key: &str) -> String {
    v[key].as_str().unwrap_or_else(|| panic!("{key} in {v}")).to_owned()
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug> + Default>(v: &serde_json::Value, key: &str) -> T {
    let t = text(v, key);
    if t.is_empty() { T::default() } else { t.parse().unwrap_or_else(|e| panic!("{key}={t}: {e:?}")) }
}

/// Copies a directory with all in it; everything new belongs to the mail user.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("mkdir");
    if rustix::process::geteuid().is_root() {
        chown(to, Some(UID), Some(UID)).expect("chown");
    }
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let (path, kind) = (to.join(entry.file_name()), entry.file_type().expect("a type"));
        if kind.is_dir() {
            copy_tree(&entry.path(), &path);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).expect("a link"), &path).expect("symlink");
        } else {
            std::fs::copy(entry.path(), &path).expect("copy");
            // Fixtures may be checked out without write permission.
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
            if rustix::process::geteuid().is_root() {
                chown(&path, Some(UID), Some(UID)).expect("chown");
            }
        }
    }
}

/// All files below a directory with their bytes.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(d) = todo.pop() {
        for entry in std::fs::read_dir(&d).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                todo.push(entry.path());
            } else if entry.file_type().expect("a type").is_file() {
                out.insert(entry.path(), std::fs::read(entry.path()).expect("a file"));
            }
        }
    }
    out
}

/// The fixtures of this room.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mdbox").join(name)
}
