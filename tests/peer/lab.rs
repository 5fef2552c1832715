//! Scratch homes, our program, a private Dovecot and a private sshd on loopback ports.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use crate::oracle::Ran;

/// The mail user of the lab.
pub const UID: u32 = 1000;

/// Numbers that look like chance, and are the same each time.
pub fn noise(seed: u64) -> impl Iterator<Item = u64> {
    let next = |n: &u64| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(0x2545_f491_4f6c_dd1d_u64.wrapping_mul(seed)), next).skip(1)
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root to become the mail's user");
    }
    root
}

pub fn have_dovecot() -> bool {
    if is_root() && Path::new("/usr/sbin/dovecot").exists() {
        return true;
    }
    eprintln!("skipped: this test needs root and Dovecot's server");
    false
}

pub fn have(program: &str) -> bool {
    if Path::new(program).exists() {
        return true;
    }
    eprintln!("skipped: this test needs {program}");
    false
}

/// A port that nobody uses now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port()
}

/// A scratch directory with a client's configuration.
pub struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dsync-peer-").tempdir_in("/tmp").expect("scratch directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let lab = Self { dir };
        for home in ["client/jane", "server/jane"] {
            lab.mail_dir(home);
        }
        let text = lab.conf("client", "client.log");
        lab.write("client.conf", &format!("{text}doveadm_password = topsecret\n"), 0o644);
        lab
    }

    /// What both sides have.
    fn conf(&self, side: &str, log: &str) -> String {
        let r = self.dir.path().display();
        format!(
            "base_dir = {r}/{side}-run\nstate_dir = {r}/{side}-run\nlog_path = {r}/{log}\ninfo_log_path = {r}/{side}.info\n\
             first_valid_uid = 1\nfirst_valid_gid = 1\nmail_uid = {UID}\nmail_gid = {UID}\nmail_fsync = never\n\
             mail_home = {r}/{side}/%u\nmail_location = maildir:~/Maildir\nstats_writer_socket_path =\n\
             namespace inbox {{\n  inbox = yes\n  separator = /\n}}\n"
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn read(&self, name: &str) -> String {
        read(self.dir.path(), name)
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) -> String {
        write(self.dir.path(), name, text, mode).to_str().expect("UTF-8").to_owned()
    }

    /// A script.
    pub fn script(&self, name: &str, body: &str) -> String {
        self.write(name, &format!("#!/bin/sh\n{body}\n"), 0o755)
    }

    fn mail_dir(&self, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("mkdir");
        let _ = chown(&path, Some(UID), Some(UID));
    }

    /// Our program as jane of the client's configuration.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsync"));
        command.args(["-c", &self.text("client.conf")]).args(words).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("USER", "jane").env("HOME", self.path("client/jane"));
        for name in ["LOG_STDERR_TIMESTAMP", "SSH_AUTH_SOCK", "CONFIG_FILE", "MAIL"] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        Ran::of(&self.command(words).output().expect("we run"))
    }

    pub fn output(mut command: Command) -> Ran {
        Ran::of(&command.output().expect("it runs"))
    }

    /// A Dovecot for jane and norep of the server's home.
    pub fn dovecot(&self) -> Dovecot {
        let r = self.dir.path().display();
        let users =
            format!("jane:x:{UID}:{UID}::{r}/server/jane::\nnorep:x:{UID}:{UID}::{r}/server/jane::userdb_noreplicate=1\n");
        Dovecot::start(self.dir.path(), &self.conf("server", "server.log"), &users)
    }
}

/// Somebody listens on this port of 127.0.0.1.
fn listens(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| line.contains(&format!(" 0100007F:{port:04X} 00000000:0000 0A ")))
}

fn read(dir: &Path, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(dir.join(name)).unwrap_or_default()).into_owned()
}

fn write(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    path
}

pub fn openssl(dir: &Path, words: &str) {
    let done = Command::new("openssl").args(words.split(' ')).current_dir(dir).output().expect("openssl runs");
    assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority, and a server whose certificate it has signed for these names.
pub fn certificates(dir: &Path, names: &str, days: &str) {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    if !dir.join("ca.crt").exists() {
        openssl(dir, &format!("req -x509 {KEY} -keyout ca.key -out ca.crt -subj /CN=authority -days 30"));
    }
    openssl(dir, &format!("req {KEY} -keyout server.key -out server.csr -subj /CN=mail.example"));
    write(dir, "ext", &format!("subjectAltName={names}\n"), 0o644);
    let signed = "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -extfile ext -days";
    openssl(dir, &format!("{signed} {days}"));
}

pub fn wait_for(done: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(15) {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// A running Dovecot.
pub struct Dovecot {
    child: Child,
    pub plain: u16,
    pub tls: u16,
    pub socket: String,
}

impl Dovecot {
    /// Starts one with these settings, and a doveadm service: on a TCP port, with TLS on another one if `server.crt` and
    /// `server.key` are there, and on its UNIX socket.
    pub fn start(dir: &Path, settings: &str, users: &str) -> Self {
        let (plain, tls) = (free_port(), free_port());
        let r = dir.display();
        let has_cert = dir.join("server.crt").exists();
        let ssl = if has_cert {
            format!("ssl = yes\nssl_cert = <{r}/server.crt\nssl_key = <{r}/server.key\n")
        } else {
            "ssl = no\n".into()
        };
        let listener = if has_cert {
            format!("inet_listener secure {{\n port = {tls}\n ssl = yes\n address = 127.0.0.1\n}}\n")
        } else {
            String::new()
        };
        write(dir, "users", users, 0o644);
        let conf = format!(
            "{settings}{ssl}protocols =\nlisten = 127.0.0.1\ndoveadm_password = topsecret\n\
             passdb {{\n driver = static\n args = nopassword\n}}\nuserdb {{\n driver = passwd-file\n args = {r}/users\n}}\n\
             service doveadm {{\n inet_listener {{\n port = {plain}\n address = 127.0.0.1\n}}\n{listener}\
             unix_listener doveadm-server {{\n mode = 0600\n}}\n}}\n"
        );
        let conf = write(dir, "server.conf", &conf, 0o644);
        let log = fs::File::create(dir.join("server.out")).expect("log");
        let mut command = Command::new("/usr/sbin/dovecot");
        command.args(["-F", "-c"]).arg(&conf).stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        let child = command.spawn().expect("dovecot starts");
        let base = settings.lines().find_map(|l| l.strip_prefix("base_dir = ")).expect("a base_dir");
        let server = Self { child, plain, tls, socket: format!("{base}/doveadm-server") };
        // A connection that says nothing would be logged.
        let ready = wait_for(|| listens(plain) && (!has_cert || listens(tls)) && Path::new(&server.socket).exists());
        assert!(ready, "Dovecot does not come up: {} {}", read(dir, "server.out"), read(dir, "server.log"));
        server
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// A running sshd.
pub struct Sshd {
    child: Child,
    pub port: u16,
}

impl Sshd {
    /// Makes keys in a directory, and starts an sshd that knows them. `None` where there is none, with a word about it.
    pub fn start(dir: &Path) -> Option<Self> {
        const SSHD: &str = "/usr/sbin/sshd";
        if !have(SSHD) || !have("/usr/bin/ssh-keygen") || !have("/usr/bin/ssh") {
            return None;
        }
        if is_root() {
            let _ = fs::create_dir_all("/run/sshd");
        }
        for (name, kind) in [("host_ed25519", "ed25519"), ("host_ecdsa", "ecdsa"), ("id", "ed25519"), ("stranger", "ed25519")] {
            let made =
                Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-C", "lab", "-f"]).arg(dir.join(name)).status();
            assert!(made.expect("ssh-keygen runs").success());
        }
        write(dir, "authorized_keys", &read(dir, "id.pub"), 0o600);
        let port = free_port();
        let r = dir.display();
        let conf = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {r}/host_ed25519\nHostKey {r}/host_ecdsa\nPidFile none\n\
             AuthorizedKeysFile {r}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin yes\nLogLevel ERROR\n"
        );
        let conf = write(dir, "sshd.conf", &conf, 0o600);
        let log = fs::File::create(dir.join("sshd.log")).expect("log");
        let mut command = Command::new(SSHD);
        command.args(["-D", "-e", "-f"]).arg(&conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("sshd starts");
        let server = Self { child, port };
        assert!(wait_for(|| TcpStream::connect(("127.0.0.1", port)).is_ok()), "sshd does not come up: {}", read(dir, "sshd.log"));
        let key = read(dir, "host_ed25519.pub");
        write(dir, "known_hosts", &format!("[127.0.0.1]:{port} {key}"), 0o644);
        Some(server)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Asks, so that its own children end as well.
fn stop(child: &mut Child) {
    let pid = i32::try_from(child.id()).expect("process ids are small");
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    for _ in 0..250 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}
