//! Both programs in both roles over every way there is: afterwards Dovecot sees the same on both sides.

use std::process::Command;

use crate::lab::{Dovecot, Ran, Sshd, certificates, have};
use crate::oracle::{Lab, Side, assert_same, have_dovecot, mail};

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Ours,
    Doveadm,
}
use Who::{Doveadm, Ours};

const BOTH: [Who; 2] = [Ours, Doveadm];

impl Who {
    const fn program(self) -> &'static str {
        match self {
            Ours => env!("CARGO_BIN_EXE_dsync"),
            Doveadm => "doveadm",
        }
    }
}

/// Two sides, and a Dovecot that serves the second one.
struct Pair {
    lab: Lab,
    client: Side,
    server: Side,
}

impl Pair {
    /// Each side has a mail and a mailbox that the other one does not have, and one that both have.
    fn new(drivers: [&'static str; 2]) -> Self {
        let lab = Lab::new();
        let (client, server) = (lab.side("client", drivers[0]), lab.side("server", drivers[1]));
        for (n, side, name) in [(1, &client, "From client"), (2, &server, "From server")] {
            side.doveadm(&["mailbox", "create", "-s", name, &format!("{name}/Sub")]);
            side.save(name, &mail(n));
            side.save("INBOX", &mail(10 + n));
            side.doveadm(&["flags", "add", "\\Seen kw", "mailbox", name, "all"]);
        }
        Self { lab, client, server }
    }

    fn conf(&self) -> String {
        std::fs::read_to_string(self.lab.path().join("dovecot.conf")).expect("conf")
    }

    /// The words that run a side's `dsync-server`, for a command or for a shell.
    fn server_words(&self, who: Who) -> Vec<String> {
        let conf = self.lab.path().join("dovecot.conf");
        let home = self.server.home.display();
        let words = [
            "env".into(),
            "-i".into(),
            "PATH=/usr/bin:/bin".into(),
            "USER=u1".into(),
            format!("HOME={home}"),
            who.program().into(),
            "-c".into(),
            conf.display().to_string(),
            "-o".into(),
            format!("mail_location={}", self.server.location),
            "-o".into(),
            format!("mail_home={home}"),
            "dsync-server".into(),
        ];
        words.into()
    }

    fn dovecot(&self) -> Dovecot {
        let settings =
            self.conf().replace("mail_location = maildir:~/unset", &format!("mail_location = {}", self.server.location));
        // Mail is looked at by whom the userdb names.
        let settings: String = settings.lines().filter(|l| !l.starts_with("ssl ")).map(|l| format!("{l}\n")).collect();
        let uid = crate::oracle::UID;
        Dovecot::start(self.lab.path(), &settings, &format!("u1:x:{uid}:{uid}::{}::\n", self.server.home.display()))
    }

    fn run(&self, who: Who, words: &[&str]) -> Ran {
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
        Ran::of(&command.output().expect("it runs"))
    }

    /// Two runs, the second of which finds nothing to do.
    #[track_caller]
    fn syncs(&self, who: Who, options: &[&str], destination: &[&str]) {
        for round in ["first", "second"] {
            let ran = self.run(who, &[options, &["sync"], destination].concat());
            assert!(ran.code == 0 && ran.stderr.is_empty(), "{round} run of {who:?} to {destination:?}: {ran:?}");
            let same = assert_same(&self.client, &self.server);
            assert_eq!(same.texts().len(), 4, "{who:?} {destination:?}");
            assert_eq!(same.subscriptions.len(), 4);
        }
        self.lab.silent();
    }
}

#[test]
fn commands() {
    if !have_dovecot() {
        return;
    }
    for (who, there, drivers) in [
        (Doveadm, Doveadm, ["maildir", "mdbox"]),
        (Ours, Doveadm, ["maildir", "sdbox"]),
        (Doveadm, Ours, ["sdbox", "mdbox"]),
        (Ours, Ours, ["mdbox", "maildir"]),
    ] {
        let pair = Pair::new(drivers);
        let words = pair.server_words(there);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        pair.syncs(who, &[], &words);
    }
}

#[test]
fn ssh() {
    if !have_dovecot() || !have("/usr/bin/ssh") {
        return;
    }
    for who in BOTH {
        for there in BOTH {
            let pair = Pair::new(["sdbox", "maildir"]);
            let dir = pair.lab.path();
            let Some(sshd) = Sshd::start(dir) else { return };
            let behind = pair.server_words(there).join(" ");
            let d = dir.display();
            let command = format!(
                "dsync_remote_cmd=ssh -F none -i {d}/id -o IdentityAgent=none -o UserKnownHostsFile={d}/known_hosts -p {} \
                 %{{host}} {behind}",
                sshd.port
            );
            pair.syncs(who, &["-o", &command], &["remote:127.0.0.1"]);
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
    for there in BOTH {
        let pair = Pair::new(["mdbox", "maildir"]);
        let dir = pair.lab.path();
        let Some(sshd) = Sshd::start(dir) else { return };
        let command = format!("dsync_remote_cmd=ssh %{{host}} {}", pair.server_words(there).join(" "));
        let d = dir.display();
        let destination = format!("ssh://127.0.0.1:{}?identity={d}/id&known_hosts={d}/known_hosts", sshd.port);
        pair.syncs(Ours, &["-o", &command], &[&destination]);
    }
}

/// The server is always Dovecot's.
#[test]
fn doveadm_servers() {
    if !have_dovecot() || !have("/usr/bin/openssl") {
        return;
    }
    for who in BOTH {
        for way in ["tcp", "tcps", "socket"] {
            let pair = Pair::new(["maildir", "sdbox"]);
            let dir = pair.lab.path();
            certificates(dir, "DNS:localhost,IP:127.0.0.1", "30");
            let dovecot = pair.dovecot();
            let ca = format!("ssl_client_ca_file={}/ca.crt", dir.display());
            let destination = match way {
                "tcp" => format!("tcp:127.0.0.1:{}", dovecot.plain),
                "tcps" => format!("tcps:localhost:{}", dovecot.tls),
                _ => format!("tcp:{}", dovecot.socket),
            };
            pair.syncs(who, &["-o", "doveadm_password=topsecret", "-o", &ca], &[&destination]);
        }
    }
}

/// `-S`: Dovecot does it all, between its own side and a location, or our dsync-server.
#[test]
fn forwarded() {
    if !have_dovecot() {
        return;
    }
    for who in BOTH {
        let pair = Pair::new(["maildir", "sdbox"]);
        let dovecot = pair.dovecot();
        let ran = pair.run(who, &["sync", "-S", &dovecot.socket, "-u", "u1", &pair.client.location]);
        assert!(ran.code == 0 && ran.stderr.is_empty(), "{who:?}: {ran:?}");
        assert_same(&pair.client, &pair.server);
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
