//! Scratch sides that only real Dovecot prepares and judges; our program runs in between, as an administrator runs it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub use self::imap::Imap;
pub use self::ran::Ran;

#[path = "../shared/imap.rs"]
#[allow(dead_code, reason = "no target uses all")]
mod imap;
#[path = "../shared/ran.rs"]
#[allow(dead_code, reason = "no target uses all")]
mod ran;

/// The mail user of the lab.
pub const UID: u32 = 1000;

/// A scratch directory with a configuration and Dovecot's log.
pub struct Lab {
    dir: tempfile::TempDir,
}

/// One place of mail, with the home of its user.
#[derive(Clone)]
pub struct Side {
    pub home: PathBuf,
    /// Where the mail lies.
    pub dir: PathBuf,
    pub driver: &'static str,
    pub location: String,
    conf: PathBuf,
    /// Further settings for Dovecot and for us.
    extra: Vec<String>,
}

/// A mail as `doveadm fetch` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub uid: u32,
    pub guid: String,
    pub flags: Vec<String>,
    pub received: u32,
    pub saved: u32,
    pub size: u64,
    pub uidl: String,
    pub text: String,
}

/// A mailbox as Dovecot tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeenBox {
    pub guid: String,
    pub uidvalidity: u32,
    pub uidnext: u32,
    pub mails: Vec<Seen>,
}

/// A side as Dovecot tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dump {
    pub boxes: BTreeMap<String, SeenBox>,
    pub subscriptions: Vec<String>,
}

/// `false` when there is no Dovecot here; says so on stderr.
pub fn have_dovecot() -> bool {
    let root = rustix::process::geteuid().is_root();
    if root && Path::new(IMAP).exists() && Command::new("doveadm").arg("help").output().is_ok() {
        return true;
    }
    eprintln!("skipped: this test needs root, Dovecot's doveadm and {IMAP}");
    false
}

const IMAP: &str = "/usr/lib/dovecot/imap";

impl Lab {
    pub fn new() -> Self {
        Self::with("")
    }

    /// With more lines in the configuration.
    pub fn with(extra: &str) -> Self {
        let namespace = "namespace inbox {\n  inbox = yes\n  separator = /\n}\n";
        Self::configured(&format!("{namespace}{extra}"))
    }

    /// With these lines instead of the ordinary namespace.
    pub fn configured(extra: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("dsync-oracle-").tempdir_in("/tmp").expect("scratch directory");
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let lab = Self { dir };
        lab.make_dir("run");
        let r = lab.path().display();
        let conf = format!(
            "base_dir = {r}/run\nstate_dir = {r}/run\nlog_path = {r}/dovecot.log\ninfo_log_path = {r}/info.log\nssl = no\n\
             first_valid_uid = 1\nfirst_valid_gid = 1\nmail_uid = {UID}\nmail_gid = {UID}\n\
             mail_location = maildir:~/unset\nmail_fsync = never\nstats_writer_socket_path =\n{extra}"
        );
        std::fs::write(lab.path().join("dovecot.conf"), conf).expect("conf");
        lab
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a directory of the mail user.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).expect("mkdir");
        chown(&path, Some(UID), Some(UID)).expect("chown");
        path
    }

    /// A side with a home of its own.
    pub fn side(&self, name: &str, driver: &'static str) -> Side {
        let home = self.make_dir(name);
        let dir = home.join("mail");
        let location = format!("{driver}:{}", dir.display());
        Side { home, dir, driver, location, conf: self.path().join("dovecot.conf"), extra: Vec::new() }
    }

    /// A place in the home of a user who may have others there.
    pub fn place(&self, user: &str, dir: &str, driver: &'static str) -> Side {
        let home = self.make_dir(user);
        Side { location: format!("{driver}:~/{dir}"), dir: home.join(dir), home, ..self.side(user, driver) }
    }

    /// Runs us: the first side's location in the settings, the second side's as the destination.
    pub fn dsync(&self, first: &Side, second: &Side, args: &[&str]) -> Ran {
        self.dsync_to(first, &[args, &[&second.location]].concat())
    }

    /// Runs us with all words as they stand.
    pub fn dsync_to(&self, first: &Side, words: &[&str]) -> Ran {
        Ran::of(&first.ours(words).output().expect("we run"))
    }

    /// All that Dovecot logged so far, except what the lab itself causes.
    pub fn log(&self) -> String {
        let text = std::fs::read(self.path().join("dovecot.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter(|l| !l.contains("chdir(")).map(|l| format!("{l}\n")).collect()
    }

    /// The directory stays for whoever looks into a failure.
    pub fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }

    #[track_caller]
    pub fn silent(&self) {
        assert_eq!(self.log(), "", "Dovecot complained");
    }
}

impl Side {
    /// With one more setting, for Dovecot and for us.
    pub fn with(mut self, setting: &str) -> Self {
        self.extra.push(setting.into());
        self
    }

    /// The options that make a program, Dovecot's or ours, work on this side.
    pub fn options(&self) -> Vec<String> {
        let mut out = vec!["-c".to_owned(), self.conf.display().to_string()];
        let sides = [format!("mail_location={}", self.location), format!("mail_home={}", self.home.display())];
        for setting in sides.into_iter().chain(self.extra.iter().cloned()) {
            out.extend(["-o".to_owned(), setting]);
        }
        out
    }

    fn settings(&self, command: &mut Command) {
        command.args(self.options());
        command.env("USER", "u1").env("HOME", &self.home).env_remove("LOG_STDERR_TIMESTAMP").current_dir("/");
    }

    /// A program of Dovecot's for this side.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.settings(&mut command);
        command
    }

    /// Our program for this side.
    pub fn ours(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsync"));
        self.settings(&mut command);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs doveadm, however it ends.
    pub fn try_doveadm(&self, args: &[&str], input: &[u8]) -> Output {
        use std::io::Write;
        let mut command = Command::new("doveadm");
        self.settings(&mut command);
        let piped = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("doveadm runs");
        // A command that does not read its input may be gone already.
        let _ = child.stdin.take().expect("piped").write_all(input);
        child.wait_with_output().expect("doveadm ends")
    }

    /// Runs doveadm, which must succeed and be silent.
    #[track_caller]
    pub fn doveadm(&self, args: &[&str]) -> String {
        self.doveadm_with(args, b"")
    }

    #[track_caller]
    pub fn doveadm_with(&self, args: &[&str], input: &[u8]) -> String {
        let out = self.try_doveadm(args, input);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && err.is_empty(), "doveadm {args:?}: {} {err}", out.status);
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    pub fn save(&self, mailbox: &str, text: &str) {
        self.doveadm_with(&["save", "-m", mailbox], text.as_bytes());
    }

    pub fn imap(&self) -> Imap {
        let mut command = Command::new(IMAP);
        self.settings(&mut command);
        Imap::start(&mut command)
    }

    /// Everything that Dovecot sees.
    #[track_caller]
    pub fn dump(&self) -> Dump {
        // Without Dovecot's cache: of two Maildirs that were made in one second and then swap their names it tells the
        // wrong one's GUID.
        let cached = if self.location.contains(":LAYOUT=index") { "yes" } else { "no" };
        let uncached = ["-o", &format!("mailbox_list_index={cached}"), "-f", "json"];
        let status = self.doveadm(&[&uncached[..], &["mailbox", "status", "guid uidvalidity uidnext", "*"]].concat());
        let status: serde_json::Value = serde_json::from_str(&status).expect("json");
        let mut boxes = BTreeMap::new();
        for b in status.as_array().expect("a list") {
            let (guid, uidvalidity, uidnext) = (text(b, "guid"), number(b, "uidvalidity"), number(b, "uidnext"));
            boxes.insert(text(b, "mailbox"), SeenBox { guid, uidvalidity, uidnext, mails: Vec::new() });
        }
        let fields = "mailbox uid guid flags date.received.unixtime date.saved.unixtime size.virtual pop3.uidl text";
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
                received: number(m, "date.received.unixtime"),
                saved: number(m, "date.saved.unixtime"),
                size: number(m, "size.virtual"),
                uidl: text(m, "pop3.uidl"),
                text: text(m, "text"),
            };
            boxes.get_mut(&text(m, "mailbox")).expect("a mailbox of the status").mails.push(seen);
        }
        for b in boxes.values_mut() {
            b.mails.sort_by_key(|m| m.uid);
        }
        let listed = self.doveadm(&["mailbox", "list", "-s", "*"]);
        let mut subscriptions: Vec<String> = listed.lines().map(str::to_owned).collect();
        subscriptions.sort();
        Dump { boxes, subscriptions }
    }

    /// Every file and directory below, with its bytes. What a mere look of Dovecot's may change is left out.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files(&self.home)
    }
}

/// All files and directories below a directory, with bytes.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path.clone());
                out.insert(path, Vec::new());
            } else {
                let bytes = std::fs::read(&path).unwrap_or_default();
                out.insert(path, bytes);
            }
        }
    }
    out
}

/// The names of what differs.
pub fn changed(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|n| before.get(*n) != after.get(*n)).cloned().collect()
}

impl Dump {
    pub fn texts(&self) -> Vec<&str> {
        self.boxes.values().flat_map(|b| &b.mails).map(|m| m.text.as_str()).collect()
    }

    /// Without the saved dates: a Maildir has them in its cache only, else it is the time of the last renaming.
    pub fn without_saved(mut self) -> Self {
        for mail in self.boxes.values_mut().flat_map(|b| &mut b.mails) {
            mail.saved = 0;
        }
        self
    }

    /// What differs, for people.
    pub fn differences(&self, other: &Self) -> String {
        let mut out = String::new();
        let names: std::collections::BTreeSet<_> = self.boxes.keys().chain(other.boxes.keys()).collect();
        for name in names {
            let (Some(a), Some(b)) = (self.boxes.get(name), other.boxes.get(name)) else {
                let _ = writeln!(out, "{name} is on one side only (first: {})", self.boxes.contains_key(name));
                continue;
            };
            if (&a.guid, a.uidvalidity, a.uidnext) != (&b.guid, b.uidvalidity, b.uidnext) {
                let tell = |x: &SeenBox| format!("{} {} {}", x.guid, x.uidvalidity, x.uidnext);
                let _ = writeln!(out, "{name}: {} and {}", tell(a), tell(b));
            }
            let uids: std::collections::BTreeSet<_> = a.mails.iter().chain(&b.mails).map(|m| m.uid).collect();
            for uid in uids {
                let find = |x: &SeenBox| x.mails.iter().find(|m| m.uid == uid).cloned();
                let (x, y) = (find(a), find(b));
                if x != y && out.lines().count() < 20 {
                    let short = |m: Option<Seen>| m.map(|m| Seen { text: m.text.chars().take(150).collect(), ..m });
                    let _ = writeln!(out, "{name} {uid}:\n   {:?}\n   {:?}", short(x), short(y));
                }
            }
        }
        if self.subscriptions != other.subscriptions {
            let _ = writeln!(out, "subscriptions {:?} and {:?}", self.subscriptions, other.subscriptions);
        }
        out
    }
}

/// Dovecot sees the same on both sides: names, GUIDs, UIDs, flags, keywords, dates, UIDLs, texts, subscriptions.
#[track_caller]
pub fn assert_same(a: &Side, b: &Side) -> Dump {
    let (a, b) = (a.dump(), b.dump());
    assert_equal(&a, &b);
    a
}

#[track_caller]
pub fn assert_equal(a: &Dump, b: &Dump) {
    let differences = a.differences(b);
    assert!(differences.is_empty(), "{differences}");
}

/// Another run finds nothing to do: no file changes on either side.
#[track_caller]
pub fn assert_idle(lab: &Lab, a: &Side, b: &Side, args: &[&str]) {
    // Dovecot's own look at the sides may have changed something.
    let before = (a.files(), b.files());
    lab.dsync(a, b, args).fine();
    let after = (a.files(), b.files());
    let changed = [changed(&before.0, &after.0), changed(&before.1, &after.1)].concat();
    assert!(changed.is_empty(), "an idle run changed {changed:?}");
}

pub fn text(v: &serde_json::Value, key: &str) -> String {
    v[key].as_str().unwrap_or_else(|| panic!("{key} in {v}")).to_owned()
}

pub fn number<T: std::str::FromStr<Err: std::fmt::Debug> + Default>(v: &serde_json::Value, key: &str) -> T {
    let t = text(v, key);
    if t.is_empty() { T::default() } else { t.parse().unwrap_or_else(|e| panic!("{key}={t}: {e:?}")) }
}

/// A mail with a number that no other mail of a test has.
pub fn mail(n: u32) -> String {
    let fill = "the quick brown fox\n".repeat(n as usize * 13 % 50);
    format!(
        "From: sender{n}@example.org\nTo: you@example.org\nMessage-ID: <{n}@example.org>\nSubject: mail {n}\n\
         X-Id: ={n}.\nDate: Fri, 14 Jul 2017 02:40:00 +0000\n\nbody of mail {n}\n{fill}"
    )
}
