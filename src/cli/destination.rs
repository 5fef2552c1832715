//! What the words behind the options mean (cli-config.md 7.1).

use std::path::PathBuf;

/// The other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// A mail location on this machine.
    Local(String),
    /// `[user@]host`, reached by `dsync_remote_cmd`.
    Host(String),
    /// `remote:` or `remoteprefix:`, reached by `dsync_remote_cmd`.
    Ssh { target: String, prefix: bool },
    /// `ssh://`, reached by our own ssh client.
    OwnSsh(SshWord),
    /// `tcp:` or `tcps:`, a doveadm server.
    Tcp { target: String, tls: bool },
    /// A command to run.
    Command(Vec<String>),
}

impl Destination {
    /// `None` without words. A command gets `dsync-server` appended if it does not end so, or `server` for a peer of the old
    /// `dsync` (`legacy`).
    pub(super) fn of_words(words: &[String], legacy: bool) -> Option<Self> {
        let [word] = words else {
            return (!words.is_empty()).then(|| Self::command(words.to_vec(), legacy));
        };
        Some(if has_driver(word) {
            Self::of_location(word)
        } else if word.contains([' ', '/']) {
            // No quoting of any kind; two spaces are an empty word.
            Self::command(word.split(' ').map(Into::into).collect(), legacy)
        } else {
            Self::Host(word.clone())
        })
    }

    fn command(mut words: Vec<String>, legacy: bool) -> Self {
        if legacy {
            words.push("server".into());
        } else if words.last().is_none_or(|word| word != "dsync-server") {
            words.push("dsync-server".into());
        }
        Self::Command(words)
    }

    /// The value of `mail_replica`: never a command or a mere host.
    pub(super) fn of_location(word: &str) -> Self {
        let (scheme, target) = word.split_once(':').unwrap_or_default();
        let target = target.to_owned();
        match scheme {
            "tcp" => Self::Tcp { target, tls: false },
            "tcps" => Self::Tcp { target, tls: true },
            "remote" => Self::Ssh { target, prefix: false },
            "remoteprefix" => Self::Ssh { target, prefix: true },
            "ssh" => target.strip_prefix("//").map_or_else(|| Self::Local(word.into()), |rest| Self::OwnSsh(SshWord::read(rest))),
            _ => Self::Local(word.into()),
        }
    }
}

/// `[login@]host[:port][/][?identity=FILE&known_hosts=FILE]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SshWord {
    pub(super) login: Option<String>,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) identity: Option<PathBuf>,
    pub(super) known_hosts: Option<PathBuf>,
    /// What is not understood.
    pub(super) wrong: Option<String>,
}

impl SshWord {
    fn read(word: &str) -> Self {
        const PORT: u16 = 22;
        let (place, options) = word.split_once('?').unwrap_or((word, ""));
        let place = place.strip_suffix('/').unwrap_or(place);
        let (login, place) = place.rsplit_once('@').map_or((None, place), |(login, place)| (Some(login.to_owned()), place));
        let mut wrong = None;
        let mut port = |text: &str| {
            text.parse().unwrap_or_else(|_| {
                wrong = Some(format!("port {text}"));
                PORT
            })
        };
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':').map_or(PORT, port)),
            None => place.rsplit_once(':').map_or((place, PORT), |(host, text)| (host, port(text))),
        };
        let mut read = Self { login, host: host.into(), port, identity: None, known_hosts: None, wrong };
        for option in options.split('&').filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some(("identity", file)) => read.identity = Some(file.into()),
                Some(("known_hosts", file)) => read.known_hosts = Some(file.into()),
                _ => read.wrong = Some(format!("option {option}")),
            }
        }
        if read.host.is_empty() {
            read.wrong = Some("no host".into());
        }
        read
    }
}

/// Letters and digits, and then a colon.
fn has_driver(word: &str) -> bool {
    word.split_once(':').is_some_and(|(driver, _)| driver.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Both words are locations: without a configuration they are source and destination (cli-config.md 9.5).
pub(super) fn two_locations(words: &[String]) -> Option<(&str, &str)> {
    let is_local = |word: &String| has_driver(word) && matches!(Destination::of_location(word), Destination::Local(_));
    match words {
        [a, b] if is_local(a) && is_local(b) => Some((a, b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_classified_as_by_doveadm() {
        let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let of = |words: &[&str]| Destination::of_words(&owned(words), false);
        let command = |words: &[&str]| Some(Destination::Command(words.iter().map(|w| (*w).to_owned()).collect()));
        let local = |word: &str| Some(Destination::Local(word.into()));
        let host = |word: &str| Some(Destination::Host(word.into()));
        assert_eq!(of(&[]), None);
        for word in ["mdbox:~/mdbox", ":x", "c:/x", "TCP:x", "maildir:/a b"] {
            assert_eq!(of(&[word]), local(word));
        }
        for word in ["mail_dir:x", "maildir", "", "u2@host1", "10.0.0.1"] {
            assert_eq!(of(&[word]), host(word));
        }
        assert_eq!(of(&["~/x"]), command(&["~/x", "dsync-server"]));
        assert_eq!(of(&["ssh h  x"]), command(&["ssh", "h", "", "x", "dsync-server"]));
        assert_eq!(of(&["x", "dsync-server"]), command(&["x", "dsync-server"]));
        assert_eq!(of(&["mdbox:~/a", "sdbox:~/b"]), command(&["mdbox:~/a", "sdbox:~/b", "dsync-server"]));
        assert_eq!(Destination::of_words(&owned(&["x", "server"]), true), command(&["x", "server", "server"]));
        assert_eq!(of(&["tcp:h:1"]), Some(Destination::Tcp { target: "h:1".into(), tls: false }));
        assert_eq!(of(&["tcps:h"]), Some(Destination::Tcp { target: "h".into(), tls: true }));
        assert_eq!(of(&["remote:a@h"]), Some(Destination::Ssh { target: "a@h".into(), prefix: false }));
        let ssh = SshWord { login: None, host: "h".into(), port: 22, identity: None, known_hosts: None, wrong: None };
        for (word, read) in [
            ("ssh://h", ssh.clone()),
            ("ssh://h:2222/", SshWord { port: 2222, ..ssh.clone() }),
            ("ssh://a@b@[::1]:23", SshWord { login: Some("a@b".into()), host: "::1".into(), port: 23, ..ssh.clone() }),
            (
                "ssh://h?identity=/k&known_hosts=/x/y",
                SshWord { identity: Some("/k".into()), known_hosts: Some("/x/y".into()), ..ssh.clone() },
            ),
            ("ssh://h:x", SshWord { wrong: Some("port x".into()), ..ssh.clone() }),
            ("ssh://h?key=/k", SshWord { wrong: Some("option key=/k".into()), ..ssh.clone() }),
        ] {
            assert_eq!(of(&[word]), Some(Destination::OwnSsh(read)), "{word}");
        }
        assert_eq!(of(&["ssh:h"]), local("ssh:h"));
        assert_eq!(of(&["remoteprefix:h"]), Some(Destination::Ssh { target: "h".into(), prefix: true }));
    }
}
