//! Reads words as getopt does, by the flags that clap has: clusters (`-1fPRU`), attached and separate arguments,
//! unambiguous abbreviations of long names, an end at the first other word (cli-config.md 2, 3.1).
//!
//! The result is the same in plain words, `--name=value` each, which clap cannot misread. Error texts are getopt's.

use clap::{Arg, ArgAction, Command};

/// How to read.
pub(super) struct Rules<'c> {
    /// Whose flags.
    pub(super) command: &'c Command,
    /// Put in front of errors.
    pub(super) name: &'c str,
    /// Options may stand behind other words (`dsync-server`).
    pub(super) mixed: bool,
    /// Long names that are not known are errors of a short option `-`, as in programs that have no long names.
    pub(super) short_program: bool,
}

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// The options in plain words.
    pub(super) options: Vec<String>,
    /// The other words.
    pub(super) rest: Vec<String>,
}

enum Named<'c> {
    One(&'c Arg),
    Many(Vec<&'c str>),
    None,
}

impl<'c> Rules<'c> {
    /// Reads the words.
    ///
    /// # Errors
    /// getopt's message.
    pub(super) fn read(&self, words: &[String]) -> Result<Words, String> {
        let mut out = Words::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                out.rest.extend(words.cloned());
                break;
            }
            if let Some(long) = word.strip_prefix("--") {
                self.long(long, &mut words, &mut out.options)?;
            } else if word.len() > 1 && word.starts_with('-') {
                self.cluster(&word[1..], &mut words, &mut out.options)?;
            } else {
                out.rest.push(word.clone());
                if !self.mixed {
                    out.rest.extend(words.cloned());
                    break;
                }
            }
        }
        Ok(out)
    }

    fn cluster<'w>(
        &self,
        cluster: &str,
        words: &mut impl Iterator<Item = &'w String>,
        options: &mut Vec<String>,
    ) -> Result<(), String> {
        for (i, letter) in cluster.char_indices() {
            let arg = self.command.get_arguments().find(|a| a.get_short() == Some(letter));
            let Some(arg) = arg else { return Err(format!("{}: invalid option -- '{letter}'", self.name)) };
            if !takes_value(arg) {
                options.push(plain(arg, None));
                continue;
            }
            let attached = &cluster[i + letter.len_utf8()..];
            let value = if attached.is_empty() { words.next().map(String::as_str) } else { Some(attached) };
            let missing = || format!("{}: option requires an argument -- '{letter}'", self.name);
            options.push(plain(arg, Some(value.ok_or_else(missing)?)));
            return Ok(());
        }
        Ok(())
    }

    fn long<'w>(
        &self,
        word: &str,
        words: &mut impl Iterator<Item = &'w String>,
        options: &mut Vec<String>,
    ) -> Result<(), String> {
        let (typed, attached) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let arg = match self.named(typed) {
            Named::One(arg) => arg,
            Named::Many(names) => {
                let names: Vec<_> = names.iter().map(|name| format!("'--{name}'")).collect();
                return Err(format!("{}: option '--{typed}' is ambiguous; possibilities: {}", self.name, names.join(" ")));
            }
            Named::None if self.short_program => return Err(format!("{}: invalid option -- '-'", self.name)),
            Named::None => return Err(format!("{}: unrecognized option '--{typed}'", self.name)),
        };
        let name = arg.get_long().unwrap_or(typed);
        match (takes_value(arg), attached) {
            (false, None) => options.push(plain(arg, None)),
            (false, Some(_)) => return Err(format!("{}: option '--{name}' doesn't allow an argument", self.name)),
            (true, attached) => {
                let value = attached.or_else(|| words.next().map(String::as_str));
                let missing = || format!("{}: option '--{name}' requires an argument", self.name);
                options.push(plain(arg, Some(value.ok_or_else(missing)?)));
            }
        }
        Ok(())
    }

    fn named(&self, typed: &str) -> Named<'c> {
        let longs = || self.command.get_arguments().filter_map(|a| a.get_long().map(|long| (a, long)));
        if let Some((arg, _)) = longs().find(|(_, long)| *long == typed) {
            return Named::One(arg);
        }
        let fitting: Vec<_> = longs().filter(|(_, long)| long.starts_with(typed)).collect();
        match fitting[..] {
            [] => Named::None,
            [(arg, _)] => Named::One(arg),
            _ => Named::Many(fitting.iter().map(|(_, long)| *long).collect()),
        }
    }
}

pub(super) fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The option as clap cannot misread it.
fn plain(arg: &Arg, value: Option<&str>) -> String {
    match (arg.get_long(), value) {
        (Some(long), Some(value)) => format!("--{long}={value}"),
        (Some(long), None) => format!("--{long}"),
        (None, value) => format!("-{}{}", arg.get_short().unwrap_or_default(), value.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::flags::Cli;

    fn read(command: &str, words: &[&str]) -> Result<Words, String> {
        let cli = Cli::command();
        let command = cli.find_subcommand(command).unwrap();
        let rules =
            Rules { command, name: command.get_name(), mixed: command.get_name() == "dsync-server", short_program: false };
        rules.read(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    fn options(command: &str, words: &[&str]) -> Vec<String> {
        read(command, words).unwrap().options
    }

    #[test]
    fn options_are_read_as_getopt_does() {
        assert_eq!(options("sync", &["-1fm", "INBOX"]), ["--oneway-sync", "--full-sync", "--mailbox=INBOX"]);
        assert_eq!(options("sync", &["-fmINBOX"]), ["--full-sync", "--mailbox=INBOX"]);
        assert_eq!(options("sync", &["--full", "--mailbox", "-x"]), ["--full-sync", "--mailbox=-x"]);
        assert_eq!(options("sync", &["--mailbox=", "-m", ""]), ["--mailbox=", "--mailbox="]);
        assert_eq!(options("sync", &["-D"]), ["-D"]);
        let words = read("sync", &["-f", "cmd", "-f", "--", "x"]).unwrap();
        assert_eq!((words.options.len(), words.rest.len()), (1, 4));
        let words = read("dsync-server", &["x", "-U", "--", "-y"]).unwrap();
        assert_eq!((words.options, words.rest), (vec!["--replicator-notify".into()], vec!["x".into(), "-y".into()]));
    }

    #[test]
    fn errors_are_getopts() {
        for (command, words, error) in [
            ("sync", &["-Z"][..], "sync: invalid option -- 'Z'"),
            ("sync", &["-m"], "sync: option requires an argument -- 'm'"),
            ("sync", &["--mailbox"], "sync: option '--mailbox' requires an argument"),
            ("sync", &["--nosuch"], "sync: unrecognized option '--nosuch'"),
            ("sync", &["--full-sync=yes"], "sync: option '--full-sync' doesn't allow an argument"),
            ("sync", &["--mail", "x"], "sync: option '--mail' is ambiguous; possibilities: '--mailbox' '--mailbox-guid'"),
            ("backup", &["-1"], "backup: invalid option -- '1'"),
            ("backup", &["--oneway-sync"], "backup: unrecognized option '--oneway-sync'"),
            ("dsync-server", &["-f"], "dsync-server: invalid option -- 'f'"),
        ] {
            assert_eq!(read(command, words).unwrap_err(), error);
        }
    }
}
