//! A user of a real Dovecot in a scratch home.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dsync::mail::{Identity, MailboxGuid, MailboxName, Selection, Store, Tree, UidValidity};
use dsync::store::local::{LocalStore, OpenFor};
use dsync::store::{Account, NamespaceSettings, Owner, Settings};

/// The mail of the lab belongs to this user and group.
const UID: u32 = 1000;

pub struct Lab {
    dir: tempfile::TempDir,
    pub location: String,
}

impl Lab {
    /// `None`, said on stderr, without Dovecot or without the right to be another user.
    pub fn new(location: &str) -> Option<Self> {
        let found = Command::new("doveadm").arg("help").output().is_ok();
        if !found || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs doveadm, and root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("dsync-list-").tempdir().expect("scratch");
        let lab = Self { dir, location: location.replace("~", "{home}") };
        for d in ["", "run", "home"] {
            let path = lab.dir.path().join(d);
            let _ = std::fs::create_dir(&path);
            std::os::unix::fs::chown(&path, Some(UID), Some(UID)).expect("root");
        }
        lab.configure("");
        Some(lab)
    }

    pub fn configure(&self, extra: &str) {
        let root = self.dir.path().display();
        let text = format!(
            "base_dir = {root}/run\nstate_dir = {root}/run\nlog_path = /dev/stderr\nssl = no\nfirst_valid_uid = 1\n\
             first_valid_gid = 1\nmail_uid = {UID}\nmail_gid = {UID}\nmail_home = {root}/home\nmail_fsync = never\n\
             stats_writer_socket_path =\nmail_attribute_dict = file:%h/attributes\n{extra}\n\
             namespace inbox {{\n  inbox = yes\n  separator = /\n}}\n"
        );
        std::fs::write(self.dir.path().join("dovecot.conf"), text).expect("written");
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub fn location(&self) -> String {
        self.location.replace("{home}", &self.home().display().to_string())
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new("doveadm")
            .arg("-c")
            .arg(self.dir.path().join("dovecot.conf"))
            .args(["-o", &format!("mail_location={}", self.location())])
            .args(args)
            .env("USER", "u")
            .env("HOME", self.home())
            .current_dir("/")
            .output()
            .expect("doveadm runs")
    }

    /// Runs doveadm, which must succeed and have nothing to say.
    #[track_caller]
    pub fn doveadm(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let log = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && log.is_empty(), "{}: doveadm {args:?}: {:?}\n{log}", self.location, out.status);
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    pub fn deliver(&self, mailbox: &str, n: u32) {
        let file = self.dir.path().join("mail");
        std::fs::write(&file, format!("Message-ID: <{n}@x>\n\nbody {n}\n")).expect("written");
        self.doveadm(&["save", "-m", mailbox, file.to_str().expect("UTF-8")]);
    }

    /// What Dovecot sees: GUID, UIDVALIDITY and number of mails by name.
    #[track_caller]
    pub fn boxes(&self) -> Boxes {
        parse(&self.doveadm(&STATUS))
    }

    /// The same after a crash: a mailbox that is half deleted is an error, which is no other mailbox's fault, and a stale entry
    /// of the list is one that mends itself at the second look.
    pub fn boxes_after_crash(&self) -> Boxes {
        self.run(&STATUS);
        parse(&String::from_utf8_lossy(&self.run(&STATUS).stdout))
    }

    #[track_caller]
    pub fn lines(&self, args: &[&str]) -> Vec<String> {
        let mut out: Vec<String> = self.doveadm(args).lines().map(str::to_owned).collect();
        out.sort();
        out
    }

    pub fn account(&self) -> Account {
        account(&self.home(), &self.location())
    }

    #[track_caller]
    pub fn open(&self) -> LocalStore {
        dsync::store::open(&self.account(), OpenFor::Destination).expect("opens")
    }

    /// What we see, in the form of [`Lab::boxes`] without the number of mails.
    #[track_caller]
    pub fn seen(&self) -> BTreeMap<String, (String, u32)> {
        let tree = scan(&mut self.open());
        let one = |i: Identity| (i.guid.to_string(), i.uidvalidity.get());
        tree.nodes.iter().filter_map(|n| n.identity.map(|i| (n.name.to_string(), one(i)))).collect()
    }

    /// Both see the same mailboxes with the same identities.
    #[track_caller]
    pub fn assert_agreed(&self) {
        let theirs: BTreeMap<_, _> = self.boxes().into_iter().map(|(n, (g, v, _))| (n, (g, v))).collect();
        assert_eq!(self.seen(), theirs, "{}", self.location);
    }
}

/// GUID, UIDVALIDITY and number of mails by name.
pub type Boxes = BTreeMap<String, (String, u32, u32)>;

const STATUS: [&str; 6] = ["-f", "tab", "mailbox", "status", "guid uidvalidity messages", "*"];

#[track_caller]
fn parse(out: &str) -> Boxes {
    let mut lines = out.lines();
    let head: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let at = |name: &str| head.iter().position(|h| *h == name).unwrap_or_else(|| panic!("no {name} in {out}"));
    lines
        .map(|line| {
            let f: Vec<&str> = line.split('\t').collect();
            let number = |n: &str| f[at(n)].parse().expect("a number");
            (f[at("mailbox")].to_owned(), (f[at("guid")].to_owned(), number("uidvalidity"), number("messages")))
        })
        .collect()
}

pub fn account(home: &Path, location: &str) -> Account {
    let namespace = NamespaceSettings { separator: Some('/'), ..NamespaceSettings::default() };
    let dict = format!("file:{}/attributes", home.display());
    Account {
        owner: Owner { name: "u".into(), home: Some(home.into()) },
        location: location.into(),
        namespaces: vec![namespace],
        settings: Settings { attribute_dict: Some(dict), ..Settings::default() },
    }
}

#[track_caller]
pub fn scan(store: &mut LocalStore) -> Tree {
    let tree = store.scan(&Selection::Default).expect("scans");
    assert!(tree.problems.is_empty(), "{:?}", tree.problems);
    tree
}

pub fn name(text: &str) -> MailboxName {
    MailboxName::parse(text, '/').expect("a name")
}

pub fn guid(n: u8) -> MailboxGuid {
    MailboxGuid::new([n; 16]).expect("not zero")
}

pub fn validity(n: u32) -> UidValidity {
    UidValidity::new(n).expect("not zero")
}
