//! The flags, each defined once: help, man page and completions are made from this (cli-config.md 2, 3.2).
//!
//! What is here is what was typed; [`super::request`] says what it means. The words reach clap only after
//! [`super::words`] has read them by the rules of getopt.

use clap::{ArgAction, Args, Parser, Subcommand};

const USAGE: &str = "\
dsync [OPTIONS] sync [-1fPRU] [SYNC OPTIONS] DESTINATION
       dsync [OPTIONS] backup [-fPRU] [SYNC OPTIONS] DESTINATION
       dsync [OPTIONS] dsync-server [-EU] [-u USER] [-r PATH] [-T SECS]
       dsync [-fR] [-m MAILBOX] [-u USER] [-C CHAR] [OPTIONS] mirror|backup|server [DESTINATION]";

/// Make two places that hold a user's mail show the same mail
///
/// dsync does what Dovecot's "doveadm sync" and "doveadm backup" do, with their options, their exit codes and Dovecot's
/// own files. The first side is the user's mail as Dovecot's configuration (or -o mail_location=) describes it; the
/// second is the DESTINATION.
///
/// It may run beside a live Dovecot. Where there is no configuration, -o says all that is needed. Called as "doveadm" it
/// understands doveadm's words for sync, backup and dsync-server.
#[derive(Debug, Parser)]
#[command(
    name = "dsync",
    version,
    override_usage = USAGE,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true,
    max_term_width = 100,
    after_help = "\"dsync sync --help\" explains the options of sync, and so on. The man page dsync(1) has examples."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Read this configuration instead of /etc/dovecot/dovecot.conf
    #[arg(short = 'c', long, value_name = "FILE")]
    pub(super) config: Option<String>,

    /// Read no configuration at all: built-in defaults and -o only
    #[arg(short = 'O', long)]
    pub(super) no_config: bool,

    /// Read the configuration of this Dovecot instance
    #[arg(short = 'i', long, value_name = "NAME")]
    pub(super) instance: Option<String>,

    /// Set a setting, whatever the configuration says; repeatable
    ///
    /// The value is taken as it is, without %-variables; "~/" works in locations. Settings in sections are named by their
    /// path: namespace/inbox/separator=/ or plugin/mail_replica=mdbox:~/mdbox
    #[arg(short = 'o', long = "option", value_name = "SETTING=VALUE", action = ArgAction::Append)]
    pub(super) overrides: Vec<String>,

    /// Show what is done, on standard error
    #[arg(short = 'v', long)]
    pub(super) verbose: bool,

    /// Show even more, with time stamps
    #[arg(short = 'D', long)]
    pub(super) debug: bool,

    /// How the state is printed: flow, pager, table, tab or json
    #[arg(short = 'f', long = "formatter", value_name = "FORMATTER")]
    pub(super) formatter: Option<String>,

    /// Print no column titles
    #[arg(short = 'h', long)]
    pub(super) no_titles: bool,

    /// Keep the whole environment for commands that are started
    #[arg(short = 'k', long)]
    pub(super) keep_environment: bool,

    /// Accepted and ignored: messages always go to standard error
    #[arg(short = 'L', long, hide = true)]
    pub(super) log_to_log: bool,

    /// Print help
    #[arg(long, action = ArgAction::HelpLong)]
    help: Option<bool>,

    /// Print the version
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Bring the changes of each side to the other
    ///
    /// Whatever was added, changed, moved or deleted on either side since they were last equal happens on the other side too.
    /// With -1 changes go one way only and nothing is deleted.
    #[command(
        name = "sync",
        override_usage = "dsync [GLOBAL OPTIONS] sync [OPTIONS] DESTINATION...",
        disable_help_flag = true,
        args_override_self = true
    )]
    Sync(SyncArgs),

    /// Make the destination what the source is
    ///
    /// What exists only at the destination is deleted there.
    #[command(
        name = "backup",
        override_usage = "dsync [GLOBAL OPTIONS] backup [OPTIONS] DESTINATION...",
        disable_help_flag = true,
        args_override_self = true
    )]
    Backup(BackupArgs),

    /// Be the other side of a run, on standard input and output
    #[command(
        name = "dsync-server",
        override_usage = "dsync [GLOBAL OPTIONS] dsync-server [OPTIONS]",
        disable_help_flag = true,
        args_override_self = true
    )]
    Server(ServerArgs),
}

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// One way: bring the source's changes to the destination, keep what only the destination has
    #[arg(short = '1', long, help_heading = "What is done")]
    pub(super) oneway_sync: bool,

    #[command(flatten)]
    pub(super) run: RunArgs,

    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    pub(super) run: RunArgs,

    /// Go on if the source has no mail and the destination has other mailboxes that do
    ///
    /// Without it such a run is refused: most likely the source is not where it was thought to be, and the backup would be
    /// emptied.
    #[arg(long, help_heading = "What is done")]
    pub(super) allow_empty_source: bool,

    #[command(flatten)]
    pub(super) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,

    /// Read the user's name from the first line of standard input, as a peer with "remoteprefix:" sends it
    #[arg(long, help_heading = "Which users")]
    pub(super) read_user: bool,

    /// Change nothing here: be the source of a backup -R or a sync -1R, and refuse everything else
    #[arg(long, help_heading = "What is done")]
    pub(super) read_only: bool,

    /// Accepted and ignored
    #[arg(short = 'd', long, hide = true)]
    pub(super) default_destination: bool,

    /// Words that peers append by mistake
    #[arg(hide = true)]
    pub(super) words: Vec<String>,
}

/// Options of sync and backup.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Compare every mailbox mail by mail
    ///
    /// Without it, mailboxes whose counters are equal on both sides are skipped.
    #[arg(short = 'f', long, help_heading = "What is done")]
    pub(super) full_sync: bool,

    /// The destination is the source
    ///
    /// Matters with backup and -1 only.
    #[arg(short = 'R', long, help_heading = "What is done")]
    pub(super) reverse_sync: bool,

    /// Free the space of expunged mails at the destination at the end
    #[arg(short = 'P', long, help_heading = "What is done")]
    pub(super) purge_remote: bool,

    /// Continue from the state that an earlier run printed, and print the new one
    ///
    /// An empty STATE prints the first one. The state goes to standard output, also after a failure.
    #[arg(short = 's', long, value_name = "STATE", help_heading = "What is done")]
    pub(super) state: Option<String>,

    /// Copy mails from this virtual mailbox of all mails instead of transferring them
    #[arg(short = 'a', long, value_name = "MAILBOX", help_heading = "What is done")]
    pub(super) all_mailbox: Option<String>,

    /// Only this mailbox
    ///
    /// A full name, a pattern with * and %, or a special-use flag such as \Trash. Empty: the names of mailboxes only, no mails.
    #[arg(short = 'm', long, value_name = "MAILBOX", help_heading = "Which mailboxes")]
    pub(super) mailbox: Option<String>,

    /// Only the mailbox with this GUID (32 hex digits)
    #[arg(short = 'g', long, value_name = "GUID", help_heading = "Which mailboxes")]
    pub(super) mailbox_guid: Option<String>,

    /// Not this mailbox; repeatable
    ///
    /// A mask with * and ? over the full name, or a special-use flag such as \Junk.
    #[arg(short = 'x', long, value_name = "MAILBOX", action = ArgAction::Append, help_heading = "Which mailboxes")]
    pub(super) exclude_mailbox: Vec<String>,

    /// Only the namespace with this prefix; repeatable
    ///
    /// Without -n and -N: all namespaces without a location of their own.
    #[arg(short = 'n', long, value_name = "PREFIX", action = ArgAction::Append, help_heading = "Which mailboxes")]
    pub(super) namespace: Vec<String>,

    /// All visible namespaces
    #[arg(short = 'N', long, help_heading = "Which mailboxes")]
    pub(super) all_namespaces: bool,

    /// Only mails received at this time or later
    ///
    /// YYYY-MM-DD, an IMAP date (01-Jan-2024), seconds since 1970, or a time before now such as "2 days".
    #[arg(short = 't', long, value_name = "DATE", help_heading = "Which mails")]
    pub(super) sync_since_time: Option<String>,

    /// Only mails received up to this time
    #[arg(short = 'e', long, value_name = "DATE", help_heading = "Which mails")]
    pub(super) sync_until_time: Option<String>,

    /// Only mails with this flag or keyword, with a leading - only those without
    #[arg(short = 'O', long, value_name = "FLAG", help_heading = "Which mails")]
    pub(super) sync_flags: Option<String>,

    /// Skip mails that are larger, such as 10M
    #[arg(short = 'I', long, value_name = "SIZE", help_heading = "Which mails")]
    pub(super) sync_max_size: Option<String>,

    /// Where new mails go if a side has an alternative storage: keep, primary or older-than=TIME
    ///
    /// With keep, which is the default, a mail that lies in the alternative storage (ALT=) of one side goes to that of the
    /// other. With primary none does. With older-than those do that were saved before TIME, which is written as with -t.
    #[arg(long, value_name = "PLACE", help_heading = "What is done")]
    pub(super) alt: Option<String>,

    /// Take the user's lock, waiting at most SECS for it
    ///
    /// Two runs that both take it never work on one user at a time; a run without -l does not notice it. 0 takes no lock, as
    /// if the option were absent.
    #[arg(short = 'l', long, value_name = "SECS", help_heading = "Beside other runs")]
    pub(super) lock_timeout: Option<String>,

    /// Take the destination from the user's setting mail_replica
    #[arg(short = 'd', long, help_heading = "The destination")]
    pub(super) default_destination: bool,

    /// Set a setting for the destination only; repeatable
    #[arg(short = 'p', long, value_name = "SETTING=VALUE", action = ArgAction::Append, help_heading = "The destination")]
    pub(super) destination_option: Vec<String>,

    /// The same as the word DESTINATION
    #[arg(long, value_name = "DESTINATION", action = ArgAction::Append, help_heading = "The destination")]
    pub(super) destination: Vec<String>,

    /// A mail location such as mdbox:~/mdbox; [user@]host, remote:[login@]host, ssh://[login@]host[:port], tcp:host[:port],
    /// tcps:host[:port] or a command line are the other forms
    #[arg(value_name = "DESTINATION")]
    pub(super) words: Vec<String>,

    /// Of Dovecot 2.2: do not synchronise renames
    #[arg(short = 'D', hide = true)]
    pub(super) no_renames: bool,
}

/// Options of all commands.
#[derive(Debug, Args)]
pub(super) struct CommonArgs {
    /// The user; with * or ? all users whose names fit
    ///
    /// Without -u, -A and -F: the user of the environment variables USER and HOME.
    #[arg(short = 'u', long, value_name = "USER", help_heading = "Which users")]
    pub(super) user: Option<String>,

    /// All users
    #[arg(short = 'A', long, help_heading = "Which users")]
    pub(super) all_users: bool,

    /// The users named in this file, one a line; "-" is standard input
    #[arg(short = 'F', long, value_name = "FILE", help_heading = "Which users")]
    pub(super) user_file: Option<String>,

    /// Take the user from USER without any lookup, and the home from mail_home if that is set
    #[arg(long, help_heading = "Which users")]
    pub(super) no_userdb_lookup: bool,

    /// Run in the doveadm server at this address
    #[arg(short = 'S', long, value_name = "ADDRESS", help_heading = "Which users")]
    pub(super) socket_path: Option<String>,

    /// Give up after SECS seconds without any progress of a stream; 0 never
    #[arg(short = 'T', long, value_name = "SECS", help_heading = "Streams")]
    pub(super) timeout: Option<String>,

    /// Append everything that goes over the stream to this file
    #[arg(short = 'r', long, value_name = "PATH", help_heading = "Streams")]
    pub(super) rawlog: Option<String>,

    /// The run is done for Dovecot's replicator
    #[arg(short = 'U', long, help_heading = "Streams")]
    pub(super) replicator_notify: bool,

    /// The run was started under the old name dsync: a command as destination gets "server" appended
    #[arg(short = 'E', long, hide = true)]
    pub(super) legacy_dsync: bool,

    /// Accepted and ignored
    #[arg(long, value_name = "NUMBER", hide = true)]
    pub(super) trans_flags: Option<String>,

    /// Print help
    #[arg(long, action = ArgAction::HelpLong)]
    help: Option<bool>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_agrees_with_the_definitions() {
        Cli::command().debug_assert();
    }
}
