//! `tcp:` and `tcps:`: Dovecot's doveadm server lets us in, or says why not.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use dsync::os::stop::Stop;
use dsync::peer::doveadm::{Order, Server};
use dsync::peer::{Address, Error, Limits, Peer, TlsSettings};

use crate::lab::{Dovecot, Lab, certificates, have, have_dovecot, openssl};

fn limits() -> Limits {
    Limits { connect: Duration::from_secs(10), silence: Some(Duration::from_secs(10)), stop: Stop::new() }
}

fn server(target: &str, tls: Option<TlsSettings>) -> Server {
    let address = Address::parse(target, 0).expect("an address");
    Server { target: target.into(), address, tls, user: "doveadm".into(), password: "topsecret".into() }
}

fn start(server: &Server, user: &str) -> Result<Peer, Error> {
    server.start(Order::dsync_server(user, false, user == "norep"), &limits())
}

#[track_caller]
fn begins_with_the_protocol(peer: Result<Peer, Error>) {
    let mut peer = peer.expect("let in");
    let mut first = [0; 18];
    peer.ends.read.read_exact(&mut first).expect("it speaks");
    assert_eq!(first, *b"VERSION\tdsync\t3\t5\n");
    drop(peer.ends);
    peer.end.finish(true);
}

#[test]
fn a_real_server_lets_us_in() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let dovecot = lab.dovecot();
    let tcp = server(&format!("127.0.0.1:{}", dovecot.plain), None);
    begins_with_the_protocol(start(&tcp, "jane"));
    begins_with_the_protocol(start(&server(&format!("localhost:{}", dovecot.plain), None), "jane"));
    begins_with_the_protocol(start(&server(&dovecot.socket, None), "jane"));
    begins_with_the_protocol(start(&Server { password: String::new(), ..server(&dovecot.socket, None) }, "jane"));

    assert!(matches!(start(&tcp, "bob"), Err(Error::UnknownUser)));
    assert!(matches!(start(&tcp, "norep"), Err(Error::NoReplicate)));
    for password in ["wrong", ""] {
        let e = start(&Server { password: password.into(), ..tcp.clone() }, "jane").unwrap_err();
        assert_eq!(e.to_string(), "Disconnected from remote: EOF");
    }
    let destination = format!("tcp:127.0.0.1:{}", dovecot.plain);
    lab.run(&["sync", "-u", "bob", &destination]).says(67, &["doveadm(bob): Error: remote(127.0.0.1:", "Unknown user in remote"]);
    lab.run(&["-o", "doveadm_password=", "sync", &destination])
        .says(75, &["doveadm(jane): Error: doveadm_password not set, can't authenticate to remote server"]);
    lab.run(&["-o", "doveadm_password=x", "sync", &destination])
        .says(75, &["doveadm(jane): Error: doveadm authentication failed ()", "Error: Disconnected from remote: EOF"]);
    let quiet = lab.run(&["sync", "-U", "-u", "norep", &destination]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (1001 & 255, ""));
}

fn tls(lab: &Lab, ca: &str) -> TlsSettings {
    TlsSettings { ca_file: Some(lab.path(ca)), require_valid_cert: true, ..TlsSettings::default() }
}

fn refused(dovecot: &Dovecot, host: &str, settings: TlsSettings) -> String {
    start(&server(&format!("{host}:{}", dovecot.tls), Some(settings)), "jane").unwrap_err().to_string()
}

#[test]
fn certificates_are_verified() {
    if !have_dovecot() || !have("/usr/bin/openssl") {
        return;
    }
    let lab = Lab::new();
    certificates(&lab.path(""), "DNS:localhost,IP:127.0.0.1", "30");
    openssl(
        &lab.path(""),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout other.key -out other.crt -subj /CN=other -days 30",
    );
    let dovecot = lab.dovecot();
    let at = |host: &str, settings| start(&server(&format!("{host}:{}", dovecot.tls), Some(settings)), "jane");
    begins_with_the_protocol(at("127.0.0.1", tls(&lab, "ca.crt")));
    begins_with_the_protocol(at("localhost", tls(&lab, "ca.crt")));
    begins_with_the_protocol(at("localhost", TlsSettings { only_newest: true, ..tls(&lab, "ca.crt") }));
    let unverified = TlsSettings { require_valid_cert: false, ..TlsSettings::default() };
    begins_with_the_protocol(at("127.0.0.1", unverified));
    // A directory with other things beside it.
    let dir = lab.path("trusted");
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy(lab.path("ca.crt"), dir.join("ca.pem")).unwrap();
    std::fs::copy(lab.path("other.crt"), dir.join("other.0")).unwrap();
    std::fs::write(dir.join("README"), b"nothing\xff").unwrap();
    let in_dir = |dir: PathBuf| TlsSettings { ca_dir: Some(dir), require_valid_cert: true, ..TlsSettings::default() };
    begins_with_the_protocol(at("127.0.0.1", in_dir(dir)));

    let nothing = TlsSettings { require_valid_cert: true, ..TlsSettings::default() };
    for (host, settings, error) in [
        ("127.0.0.1", tls(&lab, "other.crt"), "failed: Invalid certificate: UnknownIssuer"),
        ("127.0.0.1", nothing, "failed: Invalid certificate: UnknownIssuer"),
        ("127.0.0.1", tls(&lab, "missing"), "missing: No such file or directory"),
        ("127.0.0.1", tls(&lab, "users"), "there is no certificate in it"),
        ("127.0.0.1", in_dir(lab.path("missing")), "missing: No such file or directory"),
    ] {
        let got = refused(&dovecot, host, settings);
        assert!(got.contains(error), "{got:?} has not {error:?}");
    }
    // TLS to a port without, and the other way round.
    let plain = start(&server(&format!("127.0.0.1:{}", dovecot.plain), Some(tls(&lab, "ca.crt"))), "jane");
    assert!(plain.unwrap_err().to_string().starts_with("SSL connection to 127.0.0.1 failed: "));
    let short = Limits { connect: Duration::from_secs(1), silence: Some(Duration::from_secs(1)), stop: Stop::new() };
    let silent = server(&format!("127.0.0.1:{}", dovecot.tls), None).start(Order::dsync_server("jane", false, false), &short);
    assert!(silent.unwrap_err().to_string().starts_with("Disconnected from remote: "));

    let destination = format!("tcps:127.0.0.1:{}", dovecot.tls);
    lab.run(&["sync", &destination]).says(75, &["SSL connection to 127.0.0.1 failed: Invalid certificate"]);
}

#[test]
fn names_and_dates_are_verified() {
    if !have_dovecot() || !have("/usr/bin/openssl") {
        return;
    }
    let lab = Lab::new();
    certificates(&lab.path(""), "DNS:elsewhere.example", "30");
    let dovecot = lab.dovecot();
    for host in ["127.0.0.1", "localhost"] {
        let got = refused(&dovecot, host, tls(&lab, "ca.crt"));
        assert!(got.contains("not valid for name") || got.contains("NotValidForName"), "{got}");
    }
    drop(dovecot);
    for file in ["server.crt", "server.key"] {
        std::fs::remove_file(lab.path(file)).unwrap();
    }
    // It ended yesterday, as far as openssl lets us make such a one.
    certificates(&lab.path(""), "IP:127.0.0.1", "-1");
    let dovecot = lab.dovecot();
    let got = refused(&dovecot, "127.0.0.1", tls(&lab, "ca.crt"));
    assert!(got.contains("xpired"), "{got}");
}

/// A certificate that the settings name is its own authority.
#[test]
fn a_self_signed_certificate_that_is_named_is_trusted() {
    if !have_dovecot() || !have("/usr/bin/openssl") {
        return;
    }
    let lab = Lab::new();
    openssl(
        &lab.path(""),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.crt -subj /CN=x -days 30 -addext subjectAltName=IP:127.0.0.1",
    );
    openssl(
        &lab.path(""),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout other.key -out other.crt -subj /CN=x -days 30 -addext subjectAltName=IP:127.0.0.1",
    );
    let dovecot = lab.dovecot();
    let at = |host: &str, settings| start(&server(&format!("{host}:{}", dovecot.tls), Some(settings)), "jane");
    begins_with_the_protocol(at("127.0.0.1", tls(&lab, "server.crt")));
    assert!(at("localhost", tls(&lab, "server.crt")).is_err());
    assert!(at("127.0.0.1", tls(&lab, "other.crt")).is_err());
    // Our own certificate is shown where it is asked for.
    let identity = Some((lab.read("other.crt"), lab.read("other.key")));
    begins_with_the_protocol(at("127.0.0.1", TlsSettings { identity, ..tls(&lab, "server.crt") }));
    let identity = Some((lab.read("other.crt"), String::new()));
    let wrong = at("127.0.0.1", TlsSettings { identity, ..tls(&lab, "server.crt") }).unwrap_err().to_string();
    assert!(wrong.contains("Can't load SSL key (ssl_client_key setting)"), "{wrong}");
}
