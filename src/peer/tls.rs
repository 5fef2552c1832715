//! TLS from the first byte, for `tcps:` (wire.md 8.1).

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::PollFlags;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::reason;
use super::socket::Socket;
use super::timed::Pollable;
use super::{Clock, Error};

/// The `ssl_*` settings that concern a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `ssl_client_ca_file`
    pub ca_file: Option<PathBuf>,
    /// `ssl_client_ca_dir`
    pub ca_dir: Option<PathBuf>,
    /// `ssl_client_cert` and `ssl_client_key`: their contents (PEM).
    pub identity: Option<(String, String)>,
    /// `ssl_client_require_valid_cert`
    pub require_valid_cert: bool,
    /// `ssl_min_protocol` asks for TLS 1.3.
    pub only_newest: bool,
}

/// Both halves of an encrypted connection.
pub(super) struct Tls {
    connection: Mutex<ClientConnection>,
    socket: Socket,
}

impl TlsSettings {
    /// Makes sure of the other side.
    pub(super) fn connect(&self, socket: Socket, host: &str, clock: &Clock) -> Result<Arc<Tls>, Error> {
        let failed = |text: String| Error::Tls(format!("SSL connection to {host} failed: {text}"));
        let name = ServerName::try_from(host.to_owned()).map_err(|_| failed("not a valid host name".into()))?;
        let config = Arc::new(self.config()?);
        let connection = ClientConnection::new(config, name).map_err(|e| failed(e.to_string()))?;
        let tls = Arc::new(Tls { connection: Mutex::new(connection), socket });
        loop {
            let flags = {
                let mut connection = tls.lock();
                let pushed = push(&mut connection, &tls.socket);
                if !connection.is_handshaking() {
                    break;
                }
                match pushed.and_then(|()| pull(&mut connection, &tls.socket)) {
                    Ok(0) => return Err(failed("the server closed the connection".into())),
                    Ok(_) => continue,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(failed(explain(&e))),
                }
                if connection.wants_write() { PollFlags::OUT | PollFlags::IN } else { PollFlags::IN }
            };
            clock.wait(tls.socket.as_fd(), flags).map_err(|e| failed(reason(&e)))?;
        }
        Ok(tls)
    }

    fn config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let all = [&rustls::version::TLS13, &rustls::version::TLS12];
        let versions = if self.only_newest { &all[..1] } else { &all[..] };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|e| Error::Tls(format!("Couldn't initialize SSL client context: {e}")))?;
        let verifier = Arc::new(Verifier::new(self, provider)?);
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let Some((cert, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let failed = |what: &str, e: String| {
            Error::Tls(format!("Couldn't initialize SSL client context: Can't load SSL {what} (ssl_client_{what} setting): {e}"))
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| failed("cert", e.to_string()))?;
        if chain.is_empty() {
            return Err(failed("cert", "there is no certificate in it".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| failed("key", e.to_string()))?;
        builder.with_client_auth_cert(chain, key).map_err(|e| failed("key", e.to_string()))
    }

    /// The certificates that are trusted. A directory may hold anything; a file may not.
    fn trusted(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let mut all = Vec::new();
        if let Some(file) = &self.ca_file {
            let failed = |text: String| {
                Error::Tls(format!("Couldn't initialize SSL client context: Can't load CA certs from {}: {text}", file.display()))
            };
            let text = std::fs::read(file).map_err(|e| failed(reason(&e)))?;
            let found: Vec<_> =
                CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|e| failed(e.to_string()))?;
            if found.is_empty() {
                return Err(failed("there is no certificate in it".into()));
            }
            all.extend(found);
        }
        if let Some(dir) = &self.ca_dir {
            all.extend(certificates_in(dir).map_err(|e| {
                Error::Tls(format!(
                    "Couldn't initialize SSL client context: Can't load CA certs from directory {}: {}",
                    dir.display(),
                    reason(&e)
                ))
            })?);
        }
        Ok(all)
    }
}

fn certificates_in(dir: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    // The same certificate is there under a name and under a hash.
    let mut all = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file()
            && let Ok(text) = std::fs::read(&path)
        {
            all.extend(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).map(|c| c.to_vec()));
        }
    }
    Ok(all.into_iter().map(CertificateDer::from).collect())
}

/// Trusts what the settings trust, and what they name themselves.
#[derive(Debug)]
struct Verifier {
    /// `None`: there is nothing that could be trusted.
    chain: Option<Arc<WebPkiServerVerifier>>,
    named: Vec<CertificateDer<'static>>,
    required: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(settings: &TlsSettings, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let named = settings.trusted()?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(named.iter().cloned());
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().ok();
        Ok(Self { chain, named, required: settings.require_valid_cert, provider })
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let Some(chain) = &self.chain else { return Err(unknown) };
        match chain.verify_server_cert(end_entity, intermediates, name, &[], now) {
            Ok(_) => Ok(()),
            // A self-signed certificate that the settings name is its own authority, which the general rules do not allow.
            Err(rustls::Error::InvalidCertificate(e)) if self.named.iter().any(|c| c == end_entity) && is_about_issuer(&e) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)
            }
            Err(e) => Err(e),
        }
    }
}

fn is_about_issuer(e: &rustls::CertificateError) -> bool {
    matches!(e, rustls::CertificateError::UnknownIssuer | rustls::CertificateError::Other(_))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.check(end_entity, intermediates, server_name, now) {
            Err(e) if !self.required => tracing::info!("SSL certificate of {}: {e}", server_name.to_str()),
            result => result?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn explain(e: &io::Error) -> String {
    match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(e)) => format!("Invalid certificate: {e}"),
        Some(e) => e.to_string(),
        None => reason(e),
    }
}

/// Sends what there is to send.
fn push(connection: &mut ClientConnection, socket: &Socket) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(&mut socket.clone())?;
    }
    Ok(())
}

/// Takes in what has come: the number of encrypted bytes.
fn pull(connection: &mut ClientConnection, socket: &Socket) -> io::Result<usize> {
    let n = connection.read_tls(&mut socket.clone())?;
    if let Err(e) = connection.process_new_packets() {
        // The other side shall know why.
        let _ = push(connection, socket);
        return Err(io::Error::new(io::ErrorKind::InvalidData, e));
    }
    Ok(n)
}

impl Tls {
    fn lock(&self) -> MutexGuard<'_, ClientConnection> {
        // Whoever panicked with it: the connection itself is whole or reports errors from here on.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving half.
pub(super) struct TlsInput(pub(super) Arc<Tls>);

impl Read for TlsInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut connection = self.0.lock();
        loop {
            match connection.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // Dovecot closes without saying goodbye. Whether all has come is for the protocol to know.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            match push(&mut connection, &self.0.socket) {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                _ => {}
            }
            pull(&mut connection, &self.0.socket)?;
        }
    }
}

impl Pollable for TlsInput {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }

    fn waits_for(&self) -> PollFlags {
        PollFlags::IN
    }
}

/// The sending half.
pub(super) struct TlsOutput(pub(super) Arc<Tls>);

impl Write for TlsOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut connection = self.0.lock();
        push(&mut connection, &self.0.socket)?;
        match connection.writer().write(bytes)? {
            0 if !bytes.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        push(&mut self.0.lock(), &self.0.socket)
    }
}

impl Pollable for TlsOutput {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }

    fn waits_for(&self) -> PollFlags {
        PollFlags::OUT
    }
}

impl Drop for TlsOutput {
    fn drop(&mut self) {
        let mut connection = self.0.lock();
        connection.send_close_notify();
        let _ = push(&mut connection, &self.0.socket);
        drop(connection);
        let _ = rustix::net::shutdown(self.0.socket.as_fd(), rustix::net::Shutdown::Write);
    }
}
