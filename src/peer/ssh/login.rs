//! Making sure of the host, and saying who we are.

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use nix::unistd::{User, geteuid};
use ssh2::{CheckResult, HashType, HostKeyType, KnownHostFileKind, MethodType, Session};

use super::super::connect::connect_host;
use super::super::{Error, Limits};
use super::SshTarget;

/// A session that may run commands.
pub(super) struct LoggedIn {
    pub(super) session: Session,
    pub(super) socket: TcpStream,
}

/// A host has several keys, and we may know another one than it offers first.
const KEY_KINDS: [Option<&str>; 4] = [
    None,
    Some("ssh-ed25519"),
    Some("ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521"),
    Some("rsa-sha2-512,rsa-sha2-256,ssh-rsa"),
];
const KEY_FILES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

pub(super) fn log_in(target: &SshTarget, limits: &Limits) -> Result<LoggedIn, Error> {
    let me = User::from_uid(geteuid()).ok().flatten();
    let dot_ssh = me.as_ref().map(|me| me.dir.join(".ssh"));
    let login = target.login.clone().or(me.map(|me| me.name)).unwrap_or_else(|| "root".into());
    let logged_in = meet(target, dot_ssh.as_deref(), limits)?;
    authenticate(target, &logged_in.session, &login, dot_ssh.as_deref())?;
    Ok(logged_in)
}

impl SshTarget {
    fn error(&self, text: impl Into<String>) -> Error {
        Error::Ssh { host: self.host.clone(), text: text.into() }
    }
}

/// Connects until the host shows a key that we know.
fn meet(target: &SshTarget, dot_ssh: Option<&Path>, limits: &Limits) -> Result<LoggedIn, Error> {
    let mut first = None;
    for kinds in KEY_KINDS {
        let socket = connect_host(&target.host, target.port, limits)?;
        match shake_hands(target, &socket, kinds, limits) {
            Ok(session) => match verify(target, &session, dot_ssh) {
                Ok(()) => return Ok(LoggedIn { session, socket }),
                // What is told is the worst: that the key is another one than it was.
                Err((e, changed)) => {
                    if changed || first.is_none() {
                        first = Some(e);
                    }
                }
            },
            // It does not have a key of this kind.
            Err(e) if kinds.is_some() => drop(e),
            Err(e) => return Err(e),
        }
    }
    Err(first.unwrap_or_else(|| target.error("the server has no key that we know")))
}

fn shake_hands(target: &SshTarget, socket: &TcpStream, kinds: Option<&str>, limits: &Limits) -> Result<Session, Error> {
    let failed = |e: ssh2::Error| target.error(format!("the connection cannot be secured: {}", e.message()));
    let mut session = Session::new().map_err(failed)?;
    session.set_timeout(u32::try_from(limits.connect.as_millis()).unwrap_or(u32::MAX));
    if let Some(kinds) = kinds {
        session.method_pref(MethodType::HostKey, kinds).map_err(failed)?;
    }
    let socket = socket.try_clone().map_err(|e| target.error(e.to_string()))?;
    session.set_tcp_stream(socket);
    session.handshake().map_err(failed)?;
    Ok(session)
}

/// The error, and whether the key is another one than it was.
fn verify(target: &SshTarget, session: &Session, dot_ssh: Option<&Path>) -> Result<(), (Error, bool)> {
    let plain = |text: String| (target.error(text), false);
    let (key, kind) = session.host_key().ok_or_else(|| plain("the server has no key".into()))?;
    let digest = session.host_key_hash(HashType::Sha256).unwrap_or_default();
    let digest = base64::engine::general_purpose::STANDARD_NO_PAD.encode(digest);
    let kind = match kind {
        HostKeyType::Rsa => "RSA",
        HostKeyType::Ed25519 => "ED25519",
        HostKeyType::Ecdsa256 | HostKeyType::Ecdsa384 | HostKeyType::Ecdsa521 => "ECDSA",
        _ => "unknown",
    };
    let files = known_hosts(target, dot_ssh);
    let mut changed = false;
    for file in &files {
        let mut known = session.known_hosts().map_err(|e| plain(e.message().into()))?;
        match known.read_file(file, KnownHostFileKind::OpenSSH) {
            Ok(_) => {}
            Err(e) if file.exists() => return Err(plain(format!("{} cannot be read: {}", file.display(), e.message()))),
            Err(_) => continue,
        }
        match known.check_port(&target.host, target.port, key) {
            CheckResult::Match => return Ok(()),
            CheckResult::Mismatch => changed = true,
            CheckResult::NotFound | CheckResult::Failure => {}
        }
    }
    let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
    let names = names.join(", ");
    let text = if changed {
        format!(
            "its {kind} key (SHA256:{digest}) is not the one in {names}: somebody may be eavesdropping, or the key was changed"
        )
    } else {
        format!("its {kind} key (SHA256:{digest}) is not in {names}: add it there if it is the right one")
    };
    Err((target.error(format!("Host key verification failed: {text}")), changed))
}

fn known_hosts(target: &SshTarget, dot_ssh: Option<&Path>) -> Vec<PathBuf> {
    match (&target.known_hosts, dot_ssh) {
        (Some(file), _) => vec![file.clone()],
        (None, dot_ssh) => {
            let own = dot_ssh.map(|dir| dir.join("known_hosts"));
            own.into_iter().chain([PathBuf::from("/etc/ssh/ssh_known_hosts")]).collect()
        }
    }
}

fn authenticate(target: &SshTarget, session: &Session, login: &str, dot_ssh: Option<&Path>) -> Result<(), Error> {
    // Asking is an attempt without any proof, which may be enough.
    let methods = session.auth_methods(login).map_or_else(|_| String::new(), str::to_owned);
    if session.authenticated() {
        return Ok(());
    }
    let mut tried = Vec::new();
    if target.identity.is_none()
        && let Some(keys) = try_agent(session, login)
    {
        if session.authenticated() {
            return Ok(());
        }
        tried.push(format!("{keys} keys of the agent"));
    }
    let files: Vec<_> = match (&target.identity, dot_ssh) {
        (Some(file), _) => vec![file.clone()],
        (None, Some(dir)) => KEY_FILES.iter().map(|name| dir.join(name)).filter(|file| file.exists()).collect(),
        (None, None) => Vec::new(),
    };
    for file in files {
        match session.userauth_pubkey_file(login, None, &file, None) {
            Ok(()) if session.authenticated() => return Ok(()),
            Ok(()) => tried.push(file.display().to_string()),
            Err(e) => tried.push(format!("{} ({})", file.display(), e.message())),
        }
    }
    let tried = if tried.is_empty() { "no key was found".into() } else { format!("tried {}", tried.join(", ")) };
    let methods = if methods.is_empty() { "publickey".into() } else { methods };
    Err(target.error(format!("Authentication failed for {login}: {tried}; the server accepts {methods}")))
}

/// The number of keys; `None` without an agent.
fn try_agent(session: &Session, login: &str) -> Option<usize> {
    let mut agent = session.agent().ok()?;
    agent.connect().ok()?;
    agent.list_identities().ok()?;
    let keys = agent.identities().ok()?;
    for key in &keys {
        if agent.userauth(login, key).is_ok() {
            break;
        }
    }
    Some(keys.len())
}
