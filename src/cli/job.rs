//! One user's job: who they are, where both sides lie (cli-config.md 3.6, 3.7, 7.4, 7.7, 9.5, 18).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Span;

use super::destination::{Destination, two_locations};
use super::flags::{CommonArgs, Global};
use super::reach::{self, Whom};
use super::request::Request;
use super::{Failure, exit};
use crate::config::{AccountError, Config, Side};
use crate::mail::Selection;
use crate::os::stop::Stop;
use crate::run::{self, Job, Peer, Reopen, check};
use crate::store::Account;
use crate::store::list::Location;
use crate::sync::dovecot::Settings;
use crate::users::{self, User, Who};

/// What log lines begin with.
pub(super) fn span(program: &str, user: &str) -> tracing::Span {
    tracing::error_span!("user", prefix = format!("{program}({user}): "))
}

/// The name of the one user that is meant.
pub(super) fn user_name(config: &Config, common: &CommonArgs) -> Result<String, Failure> {
    if let Some(user) = &common.user {
        return Ok(user.clone());
    }
    let variable = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let process = || users::name_of_process().filter(|_| !config.has_file());
    variable.or_else(process).ok_or_else(|| Failure::usage("USER environment is missing and -u option not used".into()))
}

/// Who called, and how.
pub(super) struct Caller<'a> {
    pub(super) config: &'a Config,
    pub(super) global: &'a Global,
    pub(super) common: &'a CommonArgs,
    pub(super) stop: &'a Stop,
}

/// What is to be done, with whom, and what log lines begin with meanwhile.
pub(super) struct Ready<'a> {
    pub(super) job: Job,
    pub(super) peer: Peer<'a>,
    pub(super) span: Span,
}

/// Finds the user, opens the way to the other side, becomes the user, and looks at both sides without opening any mail.
/// Errors have been said.
pub(super) fn prepare<'a>(caller: &'a Caller<'_>, request: Request, name: &'a str) -> Result<Ready<'a>, Failure> {
    let found = span("doveadm", name).in_scope(|| first_side(caller, request, name).map_err(Failure::say))?;
    let FirstSide { request, user, account, second } = found;
    let config = caller.config;
    let (peer, span) = match second {
        Second::Local(location) => {
            let span = span("dsync", name);
            let account = span.in_scope(|| second_account(config, &request, &user, location).map_err(Failure::say))?;
            (Peer::Local(Box::new(account)), span)
        }
        Second::Remote(peer, destination) => {
            let timeout = request.stream.timeout;
            let was_named = caller.common.user.is_some();
            let again = move || reach::again(caller, timeout, &destination, &Whom { name, was_named });
            let prefix = config.expanded("mail_log_prefix", &user.vars).unwrap_or_default();
            (Peer::Remote(peer, Reopen(Box::new(again))), tracing::error_span!("user", prefix))
        }
    };
    let mut options = request.options;
    options.commit_interval = match config.uint("dsync_commit_msgs_interval") {
        0 => u32::MAX,
        n => n.max(options.commit_interval),
    };
    let stream = stream_settings(caller, request.stream.timeout);
    Ok(Ready { job: Job { account, options, stream, rawlog: request.stream.rawlog }, peer, span })
}

/// A job without its second side.
struct FirstSide {
    request: Request,
    user: User,
    account: Account,
    second: Second,
}

enum Second {
    /// At this location.
    Local(String),
    /// Behind a stream.
    Remote(crate::peer::Peer, Destination),
}

fn first_side(caller: &Caller<'_>, mut request: Request, name: &str) -> Result<FirstSide, Failure> {
    let Caller { config, common, .. } = *caller;
    let two = two_locations(&request.words).filter(|_| !config.has_file() && !request.default_destination);
    let (source, destination) = match two {
        Some((a, b)) => (Some(a.to_owned()), Some(Destination::Local(b.into()))),
        None => {
            let words = request.words.as_slice();
            (None, Destination::of_words(words, common.legacy_dsync).filter(|_| !request.default_destination))
        }
    };
    config.check_user().map_err(|e| temporary(format!("User lookup failed: {e}")))?;

    let who = who(config, common, name, false);
    let user = User::find(&who, config).map_err(|e| {
        let hint = if e.is_missing_ids() && !config.has_file() {
            let sides = source.as_deref().map_or_else(|| config.text("mail_location").into(), str::to_owned);
            let there = match &destination {
                Some(Destination::Local(location)) => Some(location.clone()),
                _ => None,
            };
            owner_hint(&[Some(sides), there])
        } else {
            String::new()
        };
        user_error(&e, &hint)
    })?;
    let destination = match destination {
        Some(destination) => destination,
        None => replica(config, &user)?,
    };
    let is_remote = !matches!(destination, Destination::Local(_));
    if is_remote && !request.destination_options.is_empty() {
        return Err(temporary("-p sets settings of a destination on this machine only".into()));
    }
    if request.dates_are_reversed() {
        return Err(Failure::fatal("start date is later than end date".into()));
    }
    let whom = Whom { name, was_named: common.user.is_some() };
    let second = match (reach::open(caller, request.stream.timeout, &destination, &whom)?, destination) {
        (Some(peer), destination) => Second::Remote(peer, destination),
        (None, Destination::Local(location)) => Second::Local(location),
        (None, _) => return Err(temporary("The destination cannot be reached".into())),
    };
    user.become_user(config).map_err(|e| Failure::error(e.to_string(), exit::of_class(e.class())))?;

    if request.options.namespaces == Selection::All && !is_remote {
        return Err(Failure::fatal("-N parameter requires syncing with remote host".into()));
    }
    let location = match source {
        Some(source) => source,
        None => source_location(config, &user, &who)?,
    };
    let account = account(config, &user, location)?;
    check::locations(&account, has_namespaces(config)).map_err(|e| unusable(&e))?;
    let selected = check::namespaces(&request.options.namespaces, &account).map_err(|e| {
        // Dovecot gives up at once where no namespace is left, and goes on to the next user after an unknown prefix.
        if request.options.namespaces == Selection::Default { Failure::fatal(e.to_string()) } else { unusable(&e) }
    })?;
    check::tell_namespaces(&selected, &account);
    request.options.namespaces = selected;
    Ok(FirstSide { request, user, account, second })
}

/// The user's mail at a location, as the configuration has it.
pub(super) fn account(config: &Config, user: &User, location: String) -> Result<Account, Failure> {
    // zlib and listescape are built in. The others are Dovecot's to load: the mails are read and written without them.
    let foreign: Vec<_> = config.words("mail_plugins").into_iter().filter(|p| !["zlib", "listescape"].contains(p)).collect();
    if !foreign.is_empty() {
        tracing::info!("Plugins that are not used here: {}", foreign.join(" "));
    }
    let side = Side { owner: user.owner.clone(), location, separator: default_separator(config) };
    config.account(side, &user.vars).map_err(|e| account_error(&e))
}

fn second_account(config: &Config, request: &Request, user: &User, location: String) -> Result<Account, Failure> {
    let side = Side { owner: user.owner.clone(), location, separator: default_separator(config) };
    let second = if request.destination_options.is_empty() {
        config.account(side, &user.vars)
    } else {
        let with = config.with(&request.destination_options);
        let (config, warnings) = with.map_err(|e| temporary(format!("Failed to initialize user: {e}")))?;
        warnings.iter().for_each(|text| tracing::warn!("{}", text.replacen("-o", "-p", 1)));
        config.account(side, &user.vars)
    };
    let second = second.map_err(|e| account_error(&e))?;
    check::locations(&second, has_namespaces(config)).map_err(|e| temporary(format!("Failed to initialize user: {e}")))?;
    Ok(second)
}

/// What a stream needs to know.
pub(super) fn stream_settings(caller: &Caller<'_>, timeout: Option<Duration>) -> Settings {
    let config = caller.config;
    let hashed = config.words("dsync_hashed_headers").into_iter().map(str::to_owned).collect();
    run::settings(Settings {
        hashed_headers: hashed,
        alt_char: config.text("dsync_alt_char").chars().next().unwrap_or('_'),
        empty_header_workaround: config.words("dsync_features").iter().any(|f| f.eq_ignore_ascii_case("empty-header-workaround")),
        timeout,
        debug: caller.global.debug,
        temp_dir: PathBuf::from(config.text("mail_temp_dir")),
        ..Settings::default()
    })
}

pub(super) fn user_error(e: &users::Error, hint: &str) -> Failure {
    let code = if matches!(e, users::Error::NotFound) { exit::NO_USER } else { exit::of_class(e.class()) };
    Failure::error(format!("{e}{hint}"), code)
}

pub(super) fn has_namespaces(config: &Config) -> bool {
    config.count("namespace") > 0
}

pub(super) fn temporary(text: String) -> Failure {
    Failure::error(text, exit::TEMPORARY)
}

pub(super) fn unusable(e: &run::check::Unusable) -> Failure {
    Failure::error(e.to_string(), exit::of_class(e.class()))
}

fn account_error(e: &AccountError) -> Failure {
    Failure::error(e.to_string(), exit::of_class(e.class()))
}

/// Who that is. A user whose name came from somewhere else than `USER` is looked up.
pub(super) fn who(config: &Config, common: &CommonArgs, name: &str, was_told: bool) -> Who {
    if common.user.is_some() || was_told {
        return Who::Named(name.into());
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    // Dovecot 2.4, where the option comes from, knows mail_home only.
    let home = home.filter(|_| !common.no_userdb_lookup || config.text("mail_home").is_empty());
    Who::Current { name: name.into(), home }
}

/// `-d`
fn replica(config: &Config, user: &User) -> Result<Destination, Failure> {
    let replica = config
        .plugin_expanded("mail_replica", &user.vars)
        .map_err(|e| temporary(format!("Failed to expand plugin setting mail_replica: {e}")))?;
    match replica.filter(|replica| !replica.is_empty()) {
        Some(replica) => Ok(Destination::of_location(&replica)),
        None => {
            let code = exit::of_class(crate::mail::Class::NotFound);
            Err(Failure::error("User has no mail_replica in userdb".into(), code))
        }
    }
}

/// The location of the first side; empty: to be found out.
pub(super) fn source_location(config: &Config, user: &User, who: &Who) -> Result<String, Failure> {
    let location = config
        .expanded("mail_location", &user.vars)
        .map_err(|source| account_error(&AccountError::Expand { setting: "mail_location", source }))?;
    if !location.is_empty() {
        return Ok(location);
    }
    if let Some(driver) = config.own("mail_driver") {
        return Ok(format!("{driver}:{}", config.own("mail_path").unwrap_or_default()));
    }
    let variable = |name| std::env::var(name).ok().filter(|text| matches!(who, Who::Current { .. }) && !text.is_empty());
    Ok(variable("MAIL").or_else(|| variable("MAILDIR").map(|dir| format!("maildir:{dir}"))).unwrap_or_default())
}

/// Without a configuration nobody needs to know that layouts differ in their separators (cli-config.md 9.5).
fn default_separator(config: &Config) -> Option<char> {
    (!config.has_file()).then_some('/')
}

/// If both places belong to one user who is not root: what to add to the command line.
fn owner_hint(locations: &[Option<String>]) -> String {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let owner = crate::store::Owner { name: String::new(), home };
    let owner_of = |text: &String| {
        let root = Location::parse(text, &owner).ok()?.root;
        // A destination that is not there yet will be made in the first directory that is.
        let there = root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        there.metadata().ok().map(|m| (m.uid(), m.gid()))
    };
    let owners: Vec<_> = locations.iter().flatten().map(owner_of).collect();
    match owners.first() {
        Some(Some((uid, gid))) if *uid != 0 && owners.iter().all(|o| o.is_some_and(|(u, _)| u == *uid)) => {
            format!("; the mail belongs to UID {uid}: add -o mail_uid={uid} -o mail_gid={gid}")
        }
        _ => String::new(),
    }
}
