//! What this machine is called towards another one (wire.md 5.7).

/// The name that decides which side takes the user lock: `DOVECOT_HOSTDOMAIN`, else the full name as far as it is known,
/// else the short one. It must come out as Dovecot's does.
#[must_use]
pub fn hostname() -> String {
    if let Some(name) = std::env::var("DOVECOT_HOSTDOMAIN").ok().filter(|name| !name.is_empty()) {
        return name;
    }
    let short = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    canonical(&short).unwrap_or(short)
}

fn canonical(name: &str) -> Option<String> {
    // The value is the same on all systems with getaddrinfo: RFC 3493, 6.1.
    const CANONNAME: i32 = 2;
    let hints = dns_lookup::AddrInfoHints { flags: CANONNAME, ..Default::default() };
    let mut found = dns_lookup::getaddrinfo(Some(name), None, Some(hints)).ok()?;
    found.next()?.ok()?.canonname.filter(|name| !name.is_empty())
}
