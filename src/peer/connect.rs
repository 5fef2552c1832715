//! Finding and connecting to an address (wire.md 8.1).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::socket::Socket;
use super::{Error, Limits};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A UNIX socket.
    Path(PathBuf),
    /// A host and a port.
    Host {
        /// Name or address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Address {
    /// Reads `host[:port]`, `[v6]:port`, or a path, which has a `/`.
    ///
    /// # Errors
    /// [`Error::Port`].
    pub fn parse(text: &str, default_port: u16) -> Result<Self, Error> {
        if text.contains('/') {
            return Ok(Self::Path(text.into()));
        }
        let wrong = || Error::Port(text.into());
        let port = |port: &str| port.parse::<u16>().map_err(|_| wrong());
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            let port = match rest.strip_prefix(':') {
                Some(text) => port(text)?,
                None if rest.is_empty() => default_port,
                None => return Err(wrong()),
            };
            (host, port)
        } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
            (text, default_port)
        } else {
            match text.rsplit_once(':') {
                Some((host, text)) => (host, port(text)?),
                None => (text, default_port),
            }
        };
        Ok(Self::Host { host: host.into(), port })
    }
}

/// Connects.
pub(super) fn connect(address: &Address, limits: &Limits) -> Result<Socket, Error> {
    match address {
        Address::Path(path) => match UnixStream::connect(path) {
            Ok(stream) => Ok(Socket::new(stream)),
            Err(source) => Err(Error::Unix { path: path.clone(), source }),
        },
        Address::Host { host, port } => Ok(Socket::new(connect_host(host, *port, limits)?)),
    }
}

/// Connects to the first address that answers. What is told is why the first one did not.
pub(super) fn connect_host(host: &str, port: u16, limits: &Limits) -> Result<TcpStream, Error> {
    let deadline = Instant::now() + limits.connect;
    let mut first = None;
    for address in lookup(host, port, limits.connect)? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                // Whole messages are written at once.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(source) => {
                let address = match address.ip() {
                    IpAddr::V4(ip) => format!("{ip}:{port}"),
                    IpAddr::V6(ip) => format!("[{ip}]:{port}"),
                };
                first.get_or_insert(Error::Connect { address, source });
            }
        }
    }
    Err(first.unwrap_or_else(|| Error::Lookup { host: host.into(), reason: "No addresses".into() }))
}

fn lookup(host: &str, port: u16, timeout: Duration) -> Result<Vec<SocketAddr>, Error> {
    let failed = |reason: String| Error::Lookup { host: host.into(), reason };
    if host.is_empty() {
        return Err(failed("Name or service not known".into()));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    // The system's resolver knows no time limit. A thread that is left behind ends with the process.
    let (sender, answer) = mpsc::channel();
    let name = host.to_owned();
    std::thread::spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        let _ = sender.send(found);
    });
    match answer.recv_timeout(timeout) {
        Ok(found) => found.map_err(|e: io::Error| {
            let text = e.to_string();
            failed(text.rsplit_once(": ").map_or(text.as_str(), |(_, reason)| reason).into())
        }),
        Err(_) => Err(failed("Timed out".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let host = |host: &str, port| Address::Host { host: host.into(), port };
        for (text, address) in [
            ("mx2", host("mx2", 24245)),
            ("mx2:1", host("mx2", 1)),
            ("127.0.0.1:80", host("127.0.0.1", 80)),
            ("[::1]:80", host("::1", 80)),
            ("[::1]", host("::1", 24245)),
            ("::1", host("::1", 24245)),
            ("/run/x", Address::Path("/run/x".into())),
            ("run/x:1", Address::Path("run/x:1".into())),
        ] {
            assert_eq!(Address::parse(text, 24245).unwrap(), address, "{text}");
        }
        for text in ["mx2:xx", "mx2:", "mx2:65536", "[::1]x", "[::1", "127.0.0.1:-1"] {
            let error = Address::parse(text, 0).unwrap_err().to_string();
            assert_eq!(error, format!("Port not known for {text}. Either set proxy_port or use {text}:port"));
        }
    }

    #[test]
    fn nobody_there() {
        let limits = Limits::of(None, &crate::os::stop::Stop::new());
        let error = |address: &Address| connect(address, &limits).unwrap_err().to_string();
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let address = Address::Host { host: "127.0.0.1".into(), port };
        assert_eq!(error(&address), format!("connect(127.0.0.1:{port}) failed: Connection refused"));
        assert_eq!(
            error(&Address::Path("/nonexistent/s".into())),
            "net_connect_unix(/nonexistent/s) failed: No such file or directory"
        );
        let unknown = error(&Address::Host { host: "nosuch.invalid".into(), port: 1 });
        assert!(unknown.starts_with("Lookup of host nosuch.invalid failed: "), "{unknown}");
    }
}
