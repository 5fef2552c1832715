//! What the words behind the options mean (cli-config.md 7.1).

/// The other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// A mail location on this machine.
    Local(String),
    /// `[user@]host`, reached by `dsync_remote_cmd`.
    Host(String),
    /// `remote:` or `remoteprefix:`, reached by `dsync_remote_cmd`.
    Ssh { target: String, prefix: bool },
    /// `tcp:` or `tcps:`, a doveadm server.
    Tcp { target: String, tls: bool },
    /// A command to run.
    Command(Vec<String>),
}

impl Destination {
    /// `None` without words.
    pub(super) fn of_words(words: &[String]) -> Option<Self> {
        let [word] = words else {
            return (!words.is_empty()).then(|| Self::Command(words.to_vec()));
        };
        Some(if has_driver(word) {
            Self::of_location(word)
        } else if word.contains([' ', '/']) {
            // No quoting of any kind; two spaces are an empty word.
            Self::Command(word.split(' ').map(Into::into).collect())
        } else {
            Self::Host(word.clone())
        })
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
            _ => Self::Local(word.into()),
        }
    }

    /// What is not built yet, in words.
    pub(super) fn unsupported(&self) -> Option<String> {
        Some(match self {
            Self::Local(_) => return None,
            Self::Host(host) => format!("destination '{host}' is a remote host"),
            Self::Ssh { target, prefix: false } => format!("destination 'remote:{target}' is a remote host"),
            Self::Ssh { target, prefix: true } => format!("destination 'remoteprefix:{target}' is a remote host"),
            Self::Tcp { target, tls: false } => format!("destination 'tcp:{target}' is a doveadm server"),
            Self::Tcp { target, tls: true } => format!("destination 'tcps:{target}' is a doveadm server"),
            Self::Command(words) => format!("destination '{}' is a command", words.join(" ")),
        })
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
        let of = |words: &[&str]| Destination::of_words(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
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
        assert_eq!(of(&["~/x"]), command(&["~/x"]));
        assert_eq!(of(&["ssh h  x"]), command(&["ssh", "h", "", "x"]));
        assert_eq!(of(&["mdbox:~/a", "sdbox:~/b"]), command(&["mdbox:~/a", "sdbox:~/b"]));
        assert_eq!(of(&["tcp:h:1"]), Some(Destination::Tcp { target: "h:1".into(), tls: false }));
        assert_eq!(of(&["tcps:h"]), Some(Destination::Tcp { target: "h".into(), tls: true }));
        assert_eq!(of(&["remote:a@h"]), Some(Destination::Ssh { target: "a@h".into(), prefix: false }));
        assert_eq!(of(&["remoteprefix:h"]), Some(Destination::Ssh { target: "h".into(), prefix: true }));
    }
}
