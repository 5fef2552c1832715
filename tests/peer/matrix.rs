//! Both programs in both roles over every way there is: afterwards Dovecot sees the same on both sides.

use std::cell::Cell;
use std::process::Command;

use crate::lab::{Dovecot, Ran, Sshd, certificates, have};
use crate::oracle::{Lab, Side, assert_equal, have_dovecot, mail};

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Ours,
    Doveadm,
}
use Who::{Doveadm, Ours};

pub const BOTH: [Who; 2] = [Ours, Doveadm];

impl Who {
    const fn program(self) -> &'static str {
        match self {
            Ours => env!("CARGO_BIN_EXE_dsync"),
            Doveadm => "doveadm",
        }
    }
}

/// Two sides that were equal once, and go their own ways between runs.
pub struct Pair {
    pub lab: Lab,
    pub client: Side,
    pub server: Side,
    changes: Cell<u32>,
}

impl Pair {
    pub fn new(drivers: [&'static str; 2]) -> Self {
        let lab = Lab::new();
        let (client, server) = (lab.side("client", drivers[0]), lab.side("server", drivers[1]));
        client.doveadm(&["mailbox", "create", "-s", "Work", "Work/Sub"]);
        for (name, n) in [("INBOX", 1), ("INBOX", 2), ("Work", 3)] {
            client.save(name, &mail(n));
        }
        // Of two INBOXes that were made apart Dovecot's first run copes with one only.
        client.doveadm(&["sync", &server.location]);
        Self::of(lab, client, server)
    }

    /// Two sides as they are.
    pub const fn of(lab: Lab, client: Side, server: Side) -> Self {
        Self { lab, client, server, changes: Cell::new(0) }
    }

    /// Something new on both sides.
    pub fn change(&self) {
        let n = self.changes.get() + 1;
        self.changes.set(n);
        for (k, side, name) in [(0, &self.client, "client"), (1, &self.server, "server")] {
            let new = format!("{name}{n}");
            side.doveadm(&["mailbox", "create", "-s", &new]);
            side.save(&new, &mail(100 * n + 10 * k));
            side.save("INBOX", &mail(100 * n + 10 * k + 1));
            if k == 1 {
                // Mailboxes with equal counters are equal to Dovecot.
                side.save("INBOX", &mail(100 * n + 12));
            }
            side.doveadm(&["flags", "add", &format!("\\Seen kw-{name}{n}"), "mailbox", "INBOX", "uid", "1"]);
        }
    }

    fn conf(&self) -> String {
        std::fs::read_to_string(self.lab.path().join("dovecot.conf")).expect("conf")
    }

    /// The words that run a side's `dsync-server`, for a command or for a shell.
    pub fn server_words(&self, who: Who) -> Vec<String> {
        let home = self.server.home.display();
        let mut words = vec![
            "env".into(),
            "-i".into(),
            "PATH=/usr/bin:/bin".into(),
            "USER=u1".into(),
            format!("HOME={home}"),
            who.program().into(),
        ];
        words.extend(self.server.options());
        words.push("dsync-server".into());
        words
    }

    pub fn dovecot(&self) -> Dovecot {
        let settings =
            self.conf().replace("mail_location = maildir:~/unset", &format!("mail_location = {}", self.server.location));
        // Mail is looked at by whom the userdb names.
        let settings: String = settings.lines().filter(|l| !l.starts_with("ssl ")).map(|l| format!("{l}\n")).collect();
        let uid = crate::oracle::UID;
        Dovecot::start(self.lab.path(), &settings, &format!("u1:x:{uid}:{uid}::{}::\n", self.server.home.display()))
    }

    pub fn run(&self, who: Who, words: &[&str]) -> Ran {
        self.run_with(who, words, &[])
    }

    /// With more environment.
    pub fn run_with(&self, who: Who, words: &[&str], environment: &[(&str, &str)]) -> Ran {
        let mut command = self.client.ours(words);
        if who == Doveadm {
            let ours = command;
            command = Command::new("doveadm");
            command.args(ours.get_args());
            for (name, value) in ours.get_envs() {
                command.env(name, value.unwrap_or_default());
            }
            command.env_remove("LOG_STDERR_TIMESTAMP").current_dir("/");
        }
        command.envs(environment.iter().copied());
        Ran::of(&command.output().expect("it runs"))
    }

    /// Changes on both sides are on both sides after a run. Two of Dovecot's own need a second one at times.
    #[track_caller]
    fn syncs(&self, who: Who, there: Who, options: &[&str], destination: &[&str]) {
        self.change();
        let words = [options, &["sync"], destination].concat();
        let mut ran = self.run(who, &words);
        if (who, there, ran.code) == (Doveadm, Doveadm, 2) {
            ran = self.run(who, &words);
        }
        assert!(ran.code == 0 && ran.stderr.is_empty(), "{who:?} to {there:?} by {destination:?}: {ran:?}");
        let (a, b) = (self.client.dump().without_saved(), self.server.dump().without_saved());
        assert_equal(&a, &b);
        let n = self.changes.get();
        assert_eq!((a.texts().len(), a.boxes.len()), (3 + 5 * n as usize, 3 + 2 * n as usize));
        let flags = &a.boxes["INBOX"].mails[0].flags;
        for name in ["client", "server"] {
            assert!(flags.contains(&format!("kw-{name}{n}")), "{flags:?}");
        }
        self.lab.silent();
    }
}

#[test]
fn commands() {
    if !have_dovecot() {
        return;
    }
    for drivers in [["maildir", "mdbox"], ["sdbox", "maildir"]] {
        let pair = Pair::new(drivers);
        for who in BOTH {
            for there in BOTH {
                let words = pair.server_words(there);
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                pair.syncs(who, there, &[], &words);
            }
        }
    }
}

#[test]
fn ssh() {
    if !have_dovecot() || !have("/usr/bin/ssh") {
        return;
    }
    let pair = Pair::new(["sdbox", "maildir"]);
    let dir = pair.lab.path();
    let Some(sshd) = Sshd::start(dir) else { return };
    let d = dir.display();
    for who in BOTH {
        for there in BOTH {
            let command = format!(
                "dsync_remote_cmd=ssh -F none -i {d}/id -o IdentityAgent=none -o UserKnownHostsFile={d}/known_hosts -p {} \
                 %{{host}} {}",
                sshd.port,
                pair.server_words(there).join(" ")
            );
            pair.syncs(who, there, &["-o", &command], &["remote:127.0.0.1"]);
        }
    }
}

/// Only we have an ssh client of our own.
#[cfg(feature = "ssh")]
#[test]
fn own_ssh() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["mdbox", "maildir"]);
    let dir = pair.lab.path();
    let Some(sshd) = Sshd::start(dir) else { return };
    let d = dir.display();
    for there in BOTH {
        let command = format!("dsync_remote_cmd=ssh %{{host}} {}", pair.server_words(there).join(" "));
        let destination = format!("ssh://127.0.0.1:{}?identity={d}/id&known_hosts={d}/known_hosts", sshd.port);
        pair.syncs(Ours, there, &["-o", &command], &[&destination]);
    }
}

/// The server is always Dovecot's.
#[test]
fn doveadm_servers() {
    if !have_dovecot() || !have("/usr/bin/openssl") {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let dir = pair.lab.path();
    certificates(dir, "DNS:localhost,IP:127.0.0.1", "30");
    let dovecot = pair.dovecot();
    let ca = format!("ssl_client_ca_file={}/ca.crt", dir.display());
    for who in BOTH {
        for destination in [
            format!("tcp:127.0.0.1:{}", dovecot.plain),
            format!("tcps:localhost:{}", dovecot.tls),
            format!("tcp:{}", dovecot.socket),
        ] {
            pair.syncs(who, Doveadm, &["-o", "doveadm_password=topsecret", "-o", &ca], &[&destination]);
        }
    }
}

/// `-S`: Dovecot does it all.
#[test]
fn forwarded() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let dovecot = pair.dovecot();
    for who in BOTH {
        pair.change();
        let words = ["sync", "-S", &dovecot.socket, "-u", "u1", &pair.client.location];
        let (first, second) = (pair.run(who, &words), pair.run(who, &words));
        assert!([0, 2].contains(&first.code), "{who:?}: {first:?}");
        assert!(second.code == 0 && second.stderr.is_empty(), "{who:?}: {second:?}");
        assert_equal(&pair.client.dump().without_saved(), &pair.server.dump().without_saved());
    }
}

/// The name by which Dovecot decides who takes the user's lock.
#[test]
fn this_machine_has_the_name_that_dovecot_gives_it() {
    if !have_dovecot() {
        return;
    }
    let pair = Pair::new(["maildir", "sdbox"]);
    let script = pair.lab.path().join("listen");
    std::fs::write(&script, "#!/bin/sh\nwhile IFS= read -r line; do case $line in H*) last=$line; n=$((n+1)); [ \"$n\" = 2 ] && break;; esac; done\nprintf '%s\\n' \"$last\" >&2\nexit 75\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ran = pair.run(Doveadm, &["sync", script.to_str().unwrap()]);
    let name = ran.stderr.lines().find_map(|l| l.strip_prefix('H')).unwrap_or_default().split('\t').next().unwrap_or_default();
    assert_eq!(name, dsync::peer::hostname(), "{}", ran.stderr);
}
