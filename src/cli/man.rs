//! The page dsync(1). Its options are those of [`super::flags`]; what else stands there is written here.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::flags::Cli;

/// A part of a section.
enum Part {
    /// A paragraph.
    Text(&'static str),
    /// A term and what it means.
    Term(&'static str, &'static str),
    /// Lines as they are typed.
    Typed(&'static str),
}

use Part::{Term, Text, Typed};

const DESTINATION: &[Part] = &[
    Text("The second side. Its form decides how it is reached, as with doveadm:"),
    Term(
        "driver:path[:options]",
        "A mail location on this machine: maildir:, sdbox: or mdbox: with Dovecot's options, such as \
         mdbox:~/mdbox:ALT=/archive/alice. The namespaces and all other settings are those of the first side.",
    ),
    Term(
        "[user@]host, remote:[login@]host, remoteprefix:[login@]host",
        "Another machine, by way of the command in the setting dsync_remote_cmd, which is ssh by default and runs \
         \"doveadm dsync-server\" there. In the first form user is the one whose mail it is, in the others login is the one \
         who logs in. remoteprefix: sends the user's name as a line before the protocol.",
    ),
    Term(
        "ssh://[login@]host[:port][?identity=FILE&known_hosts=FILE]",
        "Another machine, by way of the ssh client that is built in. The host's key must be in ~/.ssh/known_hosts or \
         /etc/ssh/ssh_known_hosts, or in the file given here. The keys of the ssh agent and ~/.ssh/id_ed25519, id_ecdsa and \
         id_rsa are tried, or only the one given here; it must have no passphrase. What runs there are the words behind \
         %{host} in dsync_remote_cmd. ssh's own configuration is not read.",
    ),
    Term(
        "tcp:host[:port], tcp:/path, tcps:host[:port]",
        "A doveadm server of Dovecot 2.2, 2.3 or 2.4, plain, on a UNIX socket, or with TLS. The settings doveadm_port, \
         doveadm_username, doveadm_password, and for TLS ssl_client_ca_file, ssl_client_ca_dir, ssl_client_cert, \
         ssl_client_key, ssl_client_require_valid_cert and ssl_min_protocol hold.",
    ),
    Term(
        "a command with its arguments",
        "More than one word, or one with a slash or a space in it, is a command whose standard input and output lead to \
         dsync-server. \"dsync-server\" is added as its last word. No shell sees it.",
    ),
    Text(
        "A command is started with the rights of whoever started dsync, and with a small part of the environment: PATH, \
         HOME, USER, the language, the ssh agent, and what import_environment names; with -k all of it. What it writes to \
         standard error goes to dsync's.",
    ),
];

const CONFIGURATION: &[Part] = &[
    Text(
        "The configuration is Dovecot's own (version 2.2 and 2.3), from -c, from the environment variable CONFIG_FILE, or \
         from /etc/dovecot/dovecot.conf. As root, mail is opened as the user of mail_uid and mail_gid.",
    ),
    Text(
        "Where that file does not exist, or with -O, built-in defaults hold, and -o mail_location= says where the first side \
         lies; the separator of mailbox names is then \"/\" on both sides. Two locations on the command line are then source \
         and destination.",
    ),
];

const EXIT_STATUS: &[Part] = &[
    Term("0", "Both sides are equal."),
    Term(
        "2",
        "Something is left to do: a mailbox changed during the run, or a mail could not be read. Run dsync again, and read \
         what it said.",
    ),
    Term("64", "The command line is wrong."),
    Term("65", "Something cannot be done with this mailbox or storage."),
    Term("67", "There is no such user."),
    Term("68", "Something that was asked for is not there."),
    Term("73", "The disk or the quota is full."),
    Term("75", "It failed for now: locks, unreadable or damaged files, an unreachable side, a signal. Nothing is lost."),
    Term("77", "Permission denied."),
    Term("89", "The configuration, or an option before the command, is wrong."),
];

const ENVIRONMENT: &[Part] = &[
    Term("USER, HOME", "The user, without -u."),
    Term("CONFIG_FILE", "The configuration, without -c."),
    Term("MAIL, MAILDIR", "The first side, without -u, if mail_location is empty."),
    Term("SSH_AUTH_SOCK", "The ssh agent, for commands and for ssh://."),
    Term(
        "DOVECOT_HOSTDOMAIN",
        "The full name of this machine. Of two machines the one whose name sorts first takes the user's lock (-l).",
    ),
    Term("LOG_STDERR_TIMESTAMP", "A strftime(3) format: each line on standard error begins with the time."),
];

const FILES: &[Part] =
    &[Term("/etc/dovecot/dovecot.conf", "The configuration."), Term("~/.dovecot-sync.lock", "The user's lock (-l).")];

const EXAMPLES: &[Part] = &[
    Text("Convert a user's Maildir to mdbox without downtime. First copy everything, while the user goes on working:"),
    Typed("dsync -o mail_location=maildir:~/Maildir sync mdbox:~/mdbox"),
    Text("Mail has arrived and flags have changed meanwhile: the same again brings the changes over, and is fast:"),
    Typed("dsync -o mail_location=maildir:~/Maildir sync mdbox:~/mdbox"),
    Text("Now let Dovecot use the new place, and end sessions that still have the old one open:"),
    Typed(
        "# in dovecot.conf: mail_location = mdbox:~/mdbox\n\
         doveadm reload\n\
         doveadm kick alice",
    ),
    Text("And once more, in both directions, for what still came in at the old place. Then the old place can go:"),
    Typed("dsync sync maildir:~/Maildir"),
    Text("Keep a backup of a user's mail in another directory, as root, under a lock that other runs respect:"),
    Typed("dsync backup -l 60 -u alice mdbox:/backup/alice/mdbox"),
    Text("And bring it back:"),
    Typed("dsync backup -R -l 60 -u alice mdbox:/backup/alice/mdbox"),
    Text("Without any configuration, for the mail of UID 5000:"),
    Typed("dsync -O -o mail_uid=5000 -o mail_gid=5000 sync maildir:/old/alice mdbox:/new/alice"),
    Text("Move a user to another machine, or keep a replica of the user's mail there:"),
    Typed("dsync sync -u alice remote:mx2.example.org"),
    Text("A backup that the other machine fetches with a key that may do nothing else. There, in ~/.ssh/authorized_keys:"),
    Typed("command=\"dsync dsync-server --read-only -u alice\",restrict ssh-ed25519 AAAA... backup"),
    Text("and here:"),
    Typed("dsync backup -R -u alice ssh://vmail@mx1.example.org?identity=/etc/dsync/backup_key"),
    Text("Copy the newest mails of one mailbox first:"),
    Typed("dsync sync -1 -m INBOX -t \"7 days\" mdbox:~/mdbox"),
];

/// The whole page.
pub(super) fn page() -> String {
    let mut page = Vec::new();
    // Writing to memory cannot fail, and what is written is text.
    let _ = write(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

fn write(out: &mut Vec<u8>) -> io::Result<()> {
    let mut cli = Cli::command();
    cli.build();
    let commands: Vec<Command> = cli.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let man = Man::new(cli).section("1").manual("User Commands");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;

    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for command in &commands {
        let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string);
        term(&mut roff, command.get_name(), &about.unwrap_or_default());
    }
    section(&mut roff, "DESTINATION", DESTINATION);
    roff.to_writer(out)?;

    man.render_options_section(out)?;
    Man::new(all_options(&commands)).render_options_section(out)?;

    let mut roff = Roff::new();
    section(&mut roff, "CONFIGURATION", CONFIGURATION);
    section(&mut roff, "EXIT STATUS", EXIT_STATUS);
    section(&mut roff, "ENVIRONMENT", ENVIRONMENT);
    section(&mut roff, "FILES", FILES);
    section(&mut roff, "EXAMPLES", EXAMPLES);
    section(&mut roff, "SEE ALSO", &[Text("doveadm-sync(1), dsync(1) of Dovecot 2.1, doveconf(1)")]);
    roff.to_writer(out)
}

/// A command with the options of all commands, each once.
fn all_options(commands: &[Command]) -> Command {
    let mut all = Command::new("dsync").disable_help_flag(true);
    for command in commands {
        for arg in command.get_arguments().filter(|a| !a.is_positional() && a.get_long() != Some("help")) {
            if all.get_arguments().any(|known| known.get_id() == arg.get_id()) {
                continue;
            }
            let only = match arg.get_id().as_str() {
                "oneway_sync" => "Of sync only.",
                "allow_empty_source" => "Of backup only.",
                _ => "",
            };
            let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
            let help = if only.is_empty() { help } else { format!("{help}\n\n{only}") };
            all = all.arg(arg.clone().long_help(help));
        }
    }
    all
}

fn section(roff: &mut Roff, title: &str, parts: &[Part]) {
    roff.control("SH", [title]);
    for part in parts {
        match part {
            Text(text) => {
                roff.control("PP", []);
                roff.text([roman(*text)]);
            }
            Term(name, text) => term(roff, name, text),
            Typed(lines) => {
                roff.control("PP", []);
                roff.control("RS", ["4"]);
                roff.control("nf", []);
                for line in lines.lines() {
                    roff.text([roman(line)]);
                }
                roff.control("fi", []);
                roff.control("RE", []);
            }
        }
    }
}

fn term(roff: &mut Roff, name: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    for (i, paragraph) in text.split("\n\n").enumerate() {
        if i > 0 {
            roff.control("IP", []);
        }
        roff.text([roman(paragraph)]);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Compares with a file that is kept; with DSYNC_BLESS in the environment writes it instead.
    fn is_kept(name: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        if std::env::var_os("DSYNC_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == text, "{name} is not what the flags say; DSYNC_BLESS=1 cargo test --lib cli::man writes it anew");
    }

    #[test]
    fn the_man_page_is_current() {
        is_kept("man/dsync.1", &page());
    }

    #[test]
    fn help_is_as_it_was() {
        let mut cli = Cli::command().term_width(100);
        cli.build();
        is_kept("tests/fixtures/cli/help.txt", &cli.render_long_help().to_string());
        for name in ["sync", "backup", "dsync-server"] {
            let command = cli.find_subcommand_mut(name).unwrap();
            is_kept(&format!("tests/fixtures/cli/help-{name}.txt"), &command.render_long_help().to_string());
        }
    }

    #[test]
    fn every_option_is_on_the_page() {
        let page = page();
        let cli = Cli::command();
        let all = cli.get_subcommands().flat_map(Command::get_arguments).chain(cli.get_arguments());
        for arg in all.filter(|a| !a.is_hide_set()) {
            if let Some(long) = arg.get_long() {
                assert!(page.contains(&format!("\\-\\-{}", long.replace('-', "\\-"))), "{long}");
            }
        }
    }
}
