//! The way in: under which name the program was called, the options before the command, the old `dsync` grammar
//! (cli-config.md 1, 2, 5).

use std::path::Path;

use clap::{Command, CommandFactory};

use super::flags::Cli;
use super::words::{Rules, Words, takes_value};
use super::{Failure, exit};

/// A command line cut into its parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invocation {
    /// The options before the command, in plain words.
    pub(super) global: Vec<String>,
    /// The command by its present name; `None` if only help or the version is wanted.
    pub(super) command: Option<String>,
    /// What is behind the command, with the options that stood before it in the old grammar.
    pub(super) words: Vec<String>,
}

impl Invocation {
    /// Cuts. `argv` begins with the program's name.
    pub(super) fn read(argv: &[String]) -> Result<Self, Failure> {
        let (program, words) = argv.split_first().map_or(("dsync", argv), |(first, rest)| (first.as_str(), rest));
        let is_dsync = Path::new(program).file_name().is_some_and(|name| name.to_string_lossy().contains("dsync"));
        if is_dsync { legacy(program, words) } else { doveadm(program, words) }
    }

    /// Help or the version is wanted, which needs nothing else.
    pub(super) fn wants_help(&self) -> bool {
        self.global.iter().any(|word| word == "--help" || word == "--version")
    }
}

/// What stands before the command is read without the command's flags.
fn globals(cli: &Command, program: &str, words: &[String]) -> Result<Words, Failure> {
    let rules = Rules { command: cli, name: program, mixed: false, short_program: true };
    rules.read(words).map_err(|text| Failure::plain(text, exit::CONFIG))
}

fn doveadm(program: &str, words: &[String]) -> Result<Invocation, Failure> {
    let cli = Cli::command();
    let Words { options, mut rest } = globals(&cli, program, words)?;
    let command = if rest.is_empty() { None } else { Some(rest.remove(0)) };
    let invocation = Invocation { global: options, command, words: rest };
    let known = invocation.command.as_deref().is_some_and(|name| cli.find_subcommand(name).is_some());
    if known || invocation.wants_help() {
        return Ok(invocation);
    }
    let usage = cli.clone().render_help().to_string();
    Err(Failure::plain(usage.trim_end().into(), exit::USAGE))
}

/// The grammar of Dovecot 2.0 and 2.1: options of the command before it, `mirror` and `server`. `sync` and `dsync-server`
/// are doveadm's.
fn legacy(program: &str, words: &[String]) -> Result<Invocation, Failure> {
    let cli = Cli::command();
    let mut global = Vec::new();
    let mut options = Vec::new();
    let mut words = words.iter();
    let verb = loop {
        let Some(word) = words.next() else {
            if global.iter().any(|word| word == "--help" || word == "--version") {
                return Ok(Invocation { global, command: None, words: Vec::new() });
            }
            return Err(Failure::fatal("Missing mirror or backup parameter".into()));
        };
        if word == "--" {
            continue;
        }
        if let Some(long) = word.strip_prefix("--") {
            // Ours: the old program had no long options.
            let mut two = vec![word.clone()];
            let name = long.split('=').next().unwrap_or_default();
            let arg = cli.get_arguments().find(|a| a.get_long().is_some_and(|long| long.starts_with(name)));
            if arg.is_some_and(takes_value) && !long.contains('=') {
                two.extend(words.next().cloned());
            }
            global.extend(globals(&cli, program, &two)?.options);
            continue;
        }
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else { break word };
        for (i, letter) in letters.char_indices() {
            let attached = &letters[i + letter.len_utf8()..];
            let argument = match letter {
                'f' | 'R' => {
                    options.push(format!("-{letter}"));
                    continue;
                }
                'm' | 'u' | 'C' => {
                    let next = || words.next().map(String::as_str);
                    let argument = Some(attached).filter(|a| !a.is_empty()).or_else(next);
                    argument.ok_or_else(|| Failure::fatal(format!("-{letter} missing parameter")))?
                }
                _ => {
                    let mut two = vec![format!("-{letter}{attached}")];
                    let arg = cli.get_arguments().find(|a| a.get_short() == Some(letter));
                    if !arg.is_some_and(takes_value) {
                        two = vec![format!("-{letter}")];
                    } else if attached.is_empty() {
                        two.extend(words.next().cloned());
                    }
                    global.extend(globals(&cli, program, &two)?.options);
                    if arg.is_some_and(takes_value) {
                        break;
                    }
                    continue;
                }
            };
            match letter {
                'C' => global.push(format!("--option=dsync_alt_char={argument}")),
                _ => options.extend([format!("-{letter}"), argument.into()]),
            }
            break;
        }
    };
    let (command, legacy) = match verb.as_str() {
        "mirror" => ("sync", true),
        "backup" => ("backup", true),
        "server" => ("dsync-server", true),
        "sync" | "dsync-server" => (verb.as_str(), false),
        other => return Err(Failure::fatal(format!("Invalid parameter: {other}"))),
    };
    if legacy {
        options.insert(0, "-E".into());
    }
    options.extend(words.cloned());
    Ok(Invocation { global, command: Some(command.into()), words: options })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Invocation, String> {
        let argv: Vec<_> = words.iter().map(|w| (*w).to_owned()).collect();
        Invocation::read(&argv).map_err(|failure| failure.to_string())
    }

    fn parts(words: &[&str]) -> (String, String, String) {
        let i = read(words).unwrap();
        (i.global.join(" "), i.command.unwrap_or_default(), i.words.join(" "))
    }

    fn are(global: &str, command: &str, words: &str) -> (String, String, String) {
        (global.into(), command.into(), words.into())
    }

    #[test]
    fn the_old_grammar_becomes_the_new_one() {
        for (words, expected) in [
            (&["dsync", "mirror", "x:y"][..], are("", "sync", "-E x:y")),
            (&["/usr/bin/dsync", "-fRm", "INBOX", "backup", "x:y"], are("", "backup", "-E -f -R -m INBOX x:y")),
            (&["dsync", "-mINBOX", "-u", "tim", "mirror"], are("", "sync", "-E -m INBOX -u tim")),
            (&["dsync", "-v", "-f", "-m", "INBOX", "mirror", "x:y"], are("--verbose", "sync", "-E -f -m INBOX x:y")),
            (&["dsync", "-C", "x", "mirror"], are("--option=dsync_alt_char=x", "sync", "-E")),
            (&["dsync", "-Dc", "f", "-oa=b", "server"], are("--debug --config=f --option=a=b", "dsync-server", "-E")),
            (&["dsync", "--", "mirror", "-f", "x:y"], are("", "sync", "-E -f x:y")),
            (&["dsync", "-f", "sync", "-1", "x:y"], are("", "sync", "-f -1 x:y")),
            (&["dsync", "-O", "--option", "a=b", "sync", "x:y"], are("--no-config --option=a=b", "sync", "x:y")),
            (&["dsync", "--help"], are("--help", "", "")),
        ] {
            assert_eq!(parts(words), expected, "{words:?}");
        }
        for (words, error) in [
            (&["dsync"][..], "Fatal: Missing mirror or backup parameter"),
            (&["dsync", "-u"], "Fatal: -u missing parameter"),
            (&["dsync", "convert", "x:y"], "Fatal: Invalid parameter: convert"),
            (&["dsync", "-x", "mirror"], "dsync: invalid option -- 'x'"),
            (&["dsync", "mirror", "-o"], ""),
        ] {
            match read(words) {
                Err(got) => assert_eq!(got, error),
                Ok(_) => assert_eq!(error, "", "{words:?}"),
            }
        }
    }

    #[test]
    fn doveadm_takes_options_before_the_command() {
        assert_eq!(
            parts(&["doveadm", "-Dv", "-c", "f", "-ftab", "sync", "-f", "x:y"]),
            are("--debug --verbose --config=f --formatter=tab", "sync", "-f x:y")
        );
        assert_eq!(read(&["doveadm", "-o"]).unwrap_err(), "doveadm: option requires an argument -- 'o'");
        assert_eq!(read(&["doveadm", "--nothing"]).unwrap_err(), "doveadm: invalid option -- '-'");
        assert!(read(&["doveadm", "nosuch"]).unwrap_err().contains("Usage:"));
        assert!(read(&["doveadm"]).unwrap_err().contains("Usage:"));
        assert!(read(&["doveadm", "--version"]).unwrap().wants_help());
    }
}
