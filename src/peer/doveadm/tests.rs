//! Recorded sessions of 2.3.19.1 and 2.4.4: their servers' bytes are played to us, and what comes out is what their
//! recorder decoded.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::*;
use crate::os::stop::Stop;

#[derive(Deserialize)]
struct Expected {
    exit_status: Option<i32>,
    server_lines_before_multiplex: Vec<String>,
    #[serde(default)]
    channel_0_reply: String,
    client_lines: Vec<String>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peer").join(name)
}

fn read(name: &str, file: &str) -> Vec<u8> {
    std::fs::read(fixture(name).join(file)).unwrap()
}

/// A server that says what was recorded, whatever it hears, and then returns what it heard.
fn play(bytes: Vec<u8>) -> (u16, std::thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        // A client that has given up does not read everything.
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard);
        heard
    });
    (port, server)
}

fn server(port: u16, password: &str) -> Server {
    let address = Address::Host { host: "127.0.0.1".into(), port };
    Server { target: format!("127.0.0.1:{port}"), address, tls: None, user: "doveadm".into(), password: password.into() }
}

fn limits() -> Limits {
    Limits::of(Some(std::time::Duration::from_secs(5)), &Stop::new())
}

#[test]
fn recorded_sessions() {
    let mut streams = 0;
    for name in [
        "40-tcp-password",
        "41-tcp-debug",
        "42-tcp-nouser",
        "43-tcp-wrong-password",
        "44-unix-preauth",
        "45-tcp-noreplicate",
        "v24-10-tcp-from-23",
        "v24-11-tcp-to-23",
        "v24-12-tcp-both",
        "v24-13-tcp-replicator-option",
        "v24-14-tcp-nouser",
        "v24-15-tcp-wrong-password",
    ] {
        let expected: Expected = serde_json::from_slice(&read(name, "expected.json")).unwrap();
        let (port, handle) = play(read(name, "server-to-client.bin"));
        let user = match name {
            "42-tcp-nouser" | "v24-14-tcp-nouser" => "bob",
            "45-tcp-noreplicate" => "norep",
            _ => "jane",
        };
        let password = if name.ends_with("wrong-password") { "wrong" } else { "topsecret" };
        let order = Order::dsync_server(user, name == "41-tcp-debug" || name == "v24-12-tcp-both", name.contains("replic"));
        let started = server(port, password).start(order, &limits());
        let code = match started {
            Ok(mut peer) => {
                streams += 1;
                let mut stream = Vec::new();
                peer.ends.read.read_to_end(&mut stream).unwrap();
                assert_eq!(stream, channel_0(name, &expected), "{name}");
                assert!(stream.starts_with(b"VERSION\tdsync\t3\t5\n"), "{name}");
                0
            }
            Err(e) => match e.status() {
                Status::Temporary => 75,
                Status::UnknownUser => 67,
                Status::Remote(n) => i32::from(n),
            },
        };
        match name {
            // The recorded initiator died of it.
            "45-tcp-noreplicate" => assert_eq!(code, 1001),
            _ => assert_eq!(Some(code), expected.exit_status, "{name}"),
        }
        let heard = String::from_utf8(handle.join().unwrap()).unwrap();
        // A client of 2.4 speaks minor 3; ours says what one of 2.3 says.
        let lines: Vec<_> = heard.lines().collect();
        assert_eq!(lines[0], "VERSION\tdoveadm-server\t1\t2");
        if !name.starts_with("v24") || name == "v24-10-tcp-from-23" {
            let wanted: Vec<_> = expected.client_lines.iter().map(String::as_str).collect();
            assert_eq!(lines, wanted, "{name}");
        }
        if name == "v24-13-tcp-replicator-option" {
            assert_eq!(lines.last(), Some(&"\tjane\tdsync-server\t-ujane"), "-U is not for a server of 2.4");
        }
    }
    assert_eq!(streams, 6);
}

use super::super::Status;

/// What the frames of channel 0 hold behind the reply, cut by the lengths of the recorded bytes.
fn channel_0(name: &str, expected: &Expected) -> Vec<u8> {
    let bytes = read(name, "server-to-client.bin");
    let plain: usize = expected.server_lines_before_multiplex.iter().map(|l| l.len() + 1).sum();
    let mut rest = &bytes[plain..];
    let mut out = Vec::new();
    while let [channel, a, b, c, d, tail @ ..] = rest {
        let (data, tail) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        if *channel == 0 {
            out.extend_from_slice(data);
        }
        rest = tail;
    }
    out.split_off(expected.channel_0_reply.len())
}

fn started(bytes: &[u8], password: &str) -> Result<Vec<u8>, String> {
    let (port, handle) = play(bytes.to_vec());
    let result = server(port, password).start(Order::dsync_server("jane", false, true), &limits()).map_err(|e| e.to_string());
    let result = result.and_then(|mut peer| {
        let mut stream = Vec::new();
        peer.ends.read.read_to_end(&mut stream).map_err(|e| e.to_string())?;
        Ok(stream)
    });
    handle.join().unwrap();
    result
}

#[test]
fn all_orders_of_the_version_line() {
    // 2.2.33 with a password, and on a trusted socket.
    let frame = b"\0\0\0\0\x06\n+\nVER";
    let frame = &[&frame[..], b"L\0\0\0\x03\x04x\nQ\0\0\0\x02??\0\0\0\0\x02SI\0\0\0\0\0\0\0\0\0\x02ON"].concat()[..];
    for before in [
        &b"-\nVERSION\tdoveadm-client\t1\t1\n+\n"[..],
        b"+\nVERSION\tdoveadm-client\t1\t1\n",
        b"VERSION\tdoveadm-client\t1\t2\n+\n",
    ] {
        assert_eq!(started(&[before, frame].concat(), "x").unwrap(), b"VERSION");
    }
    // A server without versions sends plain bytes.
    assert_eq!(started(b"-\n+\n\n+\nVERSION\tdsync", "x").unwrap(), b"VERSION\tdsync");
}

#[test]
fn servers_that_make_no_sense() {
    for (bytes, password, error) in [
        (&b""[..], "x", "Disconnected from remote: EOF"),
        (b"-\n", "", "Disconnected from remote: EOF"),
        (b"-\n-\n", "x", "Disconnected from remote: EOF"),
        (b"220 mx2 ESMTP\r\n", "x", "Disconnected from remote: Unexpected input: 220 mx2 ESMTP\r"),
        (b"VERSION\tdoveadm-client\t2\t0\n", "x", "Disconnected from remote: doveadm server's major version is 2, we speak 1"),
        (b"VERSION\timap\t1\t0\n", "x", "Disconnected from remote: not a doveadm server: VERSION\timap\t1\t0"),
        (b"+\n\n-", "x", "Disconnected from remote: EOF"),
        (b"+\n\n-64\n", "x", "Failed to start remote dsync-server command: Remote exit_code=64 64"),
        (b"+\n\n-\n", "x", "Failed to start remote dsync-server command: Remote exit_code=75 "),
        (b"+\n\n-67\n", "x", "Unknown user in remote"),
        (b"+\n\nhello\n", "x", "Disconnected from remote: Unexpected input: hello"),
        (b"VERSION\tdoveadm-client\t1\t2\n+\n\0\0\0\0\x09\n+\n", "x", "EOF in a frame"),
        (b"VERSION\tdoveadm-client\t1\t2\n+\n\0\0\0\0\x03\n+\n\0\0", "x", "EOF in the header of a frame"),
    ] {
        match started(bytes, password) {
            Err(e) => assert_eq!(e, error, "{}", String::from_utf8_lossy(bytes)),
            Ok(_) => panic!("{bytes:?}"),
        }
    }
}

#[test]
fn a_server_that_talks_for_ever_is_given_up() {
    let version = b"VERSION\tdoveadm-client\t1\t2\n".repeat(1000);
    assert_eq!(started(&version, "x").unwrap_err(), "Disconnected from remote: the server does not come to the point");
    let line = [&b"+"[..], &[b'x'; 200_000]].concat();
    assert!(started(&line, "x").unwrap_err().starts_with("Disconnected from remote: Unexpected input: +xxx"));
    let empty = [&b"VERSION\tdoveadm-client\t1\t2\n+\n"[..], &[0; 70 << 20]].concat();
    assert_eq!(started(&empty, "x").unwrap_err(), "Disconnected from remote: nothing but log lines comes");
}

#[test]
fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let limits = Limits::of(Some(std::time::Duration::from_millis(300)), &Stop::new());
    let began = std::time::Instant::now();
    let error = server(port, "x").start(Order::dsync_server("jane", false, false), &limits).unwrap_err().to_string();
    assert!(error.starts_with("Disconnected from remote: I/O has stalled"), "{error}");
    assert!(began.elapsed() < std::time::Duration::from_secs(3));
}

#[test]
fn replies_with_rows() {
    let reply = |text: &str| read_reply(&mut text.as_bytes()).unwrap();
    let rows = |rows: &[&[&str]]| rows.iter().map(|r| r.iter().map(|v| (*v).to_owned()).collect()).collect::<Vec<Vec<_>>>();
    let ok = |r| Reply { rows: rows(r), status: 0, text: String::new() };
    assert_eq!(reply("\n+\n"), ok(&[]));
    assert_eq!(reply("AQ\x01t==\t\n+\n"), ok(&[&["AQ\t=="]]));
    assert_eq!(reply("AQ==\tjane\t\n\n+\n"), ok(&[&["AQ==", "jane"]]));
    assert_eq!(reply("a\t\nb\t\n\n-UNKNOWN\n"), Reply { rows: rows(&[&["a"], &["b"]]), status: 75, text: "UNKNOWN".into() });
    assert_eq!(reply("\n-CHANGED\n").status, 2);
}
