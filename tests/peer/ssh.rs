//! The ssh client that is built in, against a private sshd.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use dsync::os::stop::Stop;
use dsync::peer::{Error, Limits, Peer, SshTarget};

use crate::lab::{Lab, Sshd};

fn limits() -> Limits {
    Limits { connect: Duration::from_secs(20), silence: Some(Duration::from_secs(20)), stop: Stop::new() }
}

struct Way<'a> {
    lab: &'a Lab,
    port: u16,
}

impl Way<'_> {
    fn target(&self, identity: &str, known_hosts: &str, command: &str) -> SshTarget {
        SshTarget {
            login: None,
            host: "127.0.0.1".into(),
            port: self.port,
            identity: Some(self.lab.path(identity)),
            known_hosts: Some(self.lab.path(known_hosts)),
            command: command.into(),
        }
    }

    fn start(&self, identity: &str, known_hosts: &str) -> Result<Peer, Error> {
        self.target(identity, known_hosts, "cat").start(&limits())
    }

    #[track_caller]
    fn refuses(&self, identity: &str, known_hosts: &str, parts: &[&str]) {
        let e = self.start(identity, known_hosts).unwrap_err().to_string();
        for part in parts {
            assert!(e.contains(part), "{part:?} is not in {e}");
        }
    }
}

#[track_caller]
fn echoes(peer: Peer, len: u32) {
    let (mut read, mut write) = (peer.ends.read, peer.ends.write);
    let bytes: Vec<u8> = (0..len).flat_map(|n| [n.to_le_bytes()[0], (n % 251) as u8]).collect();
    let copy = bytes.clone();
    let writer = std::thread::spawn(move || write.write_all(&copy).unwrap());
    let mut back = Vec::new();
    read.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == bytes, "{} of {}", back.len(), bytes.len());
    drop(read);
    peer.end.finish(true);
}

#[test]
fn bytes_go_both_ways() {
    let lab = Lab::new();
    let Some(sshd) = Sshd::start(&lab.path("")) else { return };
    let way = Way { lab: &lab, port: sshd.port };
    echoes(way.start("id", "known_hosts").unwrap(), 10);
    echoes(way.start("id", "known_hosts").unwrap(), 10_000_000);
    // Nobody listens at either end.
    let peer = way.target("id", "known_hosts", "head -c 10; yes | head -c 1000000").start(&limits()).unwrap();
    drop(peer.ends);
    peer.end.finish(true);
    // What is not read does not keep anybody.
    let mut peer = way.target("id", "known_hosts", "true").start(&limits()).unwrap();
    let _ = peer.ends.write.write_all(&vec![b'x'; 300_000]);
    assert_eq!(peer.ends.read.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn the_host_must_be_known() {
    let lab = Lab::new();
    let Some(sshd) = Sshd::start(&lab.path("")) else { return };
    let way = Way { lab: &lab, port: sshd.port };
    let place = format!("[127.0.0.1]:{}", sshd.port);
    way.refuses("id", "nothing", &["ssh(127.0.0.1): Host key verification failed", "is not in", "SHA256:"]);
    lab.write("changed", &format!("{place} {}", lab.read("stranger.pub")), 0o644);
    way.refuses("id", "changed", &["Host key verification failed", "is not the one in"]);
    lab.write("elsewhere", &format!("mx9.example {}", lab.read("host_ed25519.pub")), 0o644);
    way.refuses("id", "elsewhere", &["is not in"]);
    // Any of its keys will do, whichever it shows first.
    lab.write("ecdsa", &format!("{place} {}", lab.read("host_ecdsa.pub")), 0o644);
    echoes(way.start("id", "ecdsa").unwrap(), 10);
    // Names are hashed by many.
    let hashed = lab.text("known_hosts");
    assert!(
        Command::new("ssh-keygen")
            .args(["-H", "-f", &hashed])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    echoes(way.start("id", "known_hosts").unwrap(), 10);
}

#[test]
fn keys_open_the_door() {
    let lab = Lab::new();
    let Some(sshd) = Sshd::start(&lab.path("")) else { return };
    let way = Way { lab: &lab, port: sshd.port };
    way.refuses("stranger", "known_hosts", &["Authentication failed for ", "tried ", "stranger", "the server accepts publickey"]);
    way.refuses("missing", "known_hosts", &["Authentication failed for "]);
    let closed = Way { lab: &lab, port: crate::lab::free_port() };
    let e = closed.start("id", "known_hosts").unwrap_err().to_string();
    assert!(e.ends_with("failed: Connection refused"), "{e}");
    let e = SshTarget { host: "nosuch.invalid".into(), ..way.target("id", "known_hosts", "cat") }.start(&limits()).unwrap_err();
    assert!(e.to_string().starts_with("Lookup of host nosuch.invalid failed: "));
    // No ssh server, and one that says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = Way { lab: &lab, port: listener.local_addr().unwrap().port() };
    let short = Limits { connect: Duration::from_secs(1), silence: Some(Duration::from_secs(1)), stop: Stop::new() };
    let began = std::time::Instant::now();
    let e = silent.target("id", "known_hosts", "cat").start(&short).unwrap_err().to_string();
    assert!(e.contains("the connection cannot be secured"), "{e}");
    assert!(began.elapsed() < Duration::from_secs(8));
}

/// The destination on the command line, with a key of the agent.
#[test]
fn from_the_command_line() {
    let lab = Lab::new();
    let Some(sshd) = Sshd::start(&lab.path("")) else { return };
    let socket: PathBuf = lab.path("agent");
    let mut agent =
        Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
    assert!(crate::lab::wait_for(|| socket.exists()));
    let added = Command::new("ssh-add").arg("-q").arg(lab.path("id")).env("SSH_AUTH_SOCK", &socket).status().unwrap();
    assert!(added.success());
    let command = "dsync_remote_cmd=ssh %{host} echo here %u >&2; exit 9";
    let known = lab.text("known_hosts");
    let run = |destination: String, socket: &std::path::Path| {
        let mut ran = lab.command(&["-o", command, "sync", "-u", "jane", &destination]);
        ran.env("SSH_AUTH_SOCK", socket);
        Lab::output(ran)
    };
    let ran = run(format!("ssh://127.0.0.1:{}?known_hosts={known}", sshd.port), &socket);
    let _ = agent.kill();
    let _ = agent.wait();
    ran.says(75, &["here jane\n", "Error: Remote command returned error 9: echo here jane >&2; exit 9"]);
    let ran = run(format!("ssh://127.0.0.1:{}?known_hosts={known}&identity={}", sshd.port, lab.text("id")), &socket);
    ran.says(75, &["here jane\n"]);
    let ran = run(format!("ssh://nobody@127.0.0.1:{}?known_hosts={known}&identity={}", sshd.port, lab.text("stranger")), &socket);
    ran.says(75, &["Error: ssh(127.0.0.1): Authentication failed for nobody"]);
    run("ssh://127.0.0.1:x".into(), &socket).says(75, &["Fatal: Invalid ssh:// destination: port x"]);
}
