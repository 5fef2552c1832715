//! `-S`: the whole command runs in Dovecot's doveadm server.

use crate::lab::{Lab, certificates, have, have_dovecot};

#[test]
fn a_server_does_it_and_says_how_it_went() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let server = lab.dovecot();
    let tcp = format!("127.0.0.1:{}", server.plain);
    for (i, address) in [server.socket.as_str(), tcp.as_str()].into_iter().enumerate() {
        let there = format!("mdbox:~/copy{i}");
        let ran = lab.run(&["sync", "-S", address, "-u", "jane", "-s", "", &there]);
        ran.fine();
        assert!(ran.stdout.starts_with("AQAAA") && ran.stdout.ends_with("=\n"), "{}", ran.stdout);
        // In the server's home, not in ours.
        assert!(lab.path(&format!("server/jane/copy{i}")).exists());
        assert!(!lab.path(&format!("client/jane/copy{i}")).exists());
        let state = ran.stdout.trim_end();
        let again = lab.run(&["--formatter=tab", "sync", "-S", address, "-u", "jane", "-s", state, &there]);
        again.fine();
        assert!(again.stdout.starts_with("state\nAQAAA"), "{}", again.stdout);
        let backup = lab.run(&["backup", "-S", address, "-l", "5", "-f", "-x", "a b", &there]);
        backup.fine();
        assert_eq!(backup.stdout, "");

        let refused = lab.run(&["sync", "-S", address, "-u", "bob", &there]);
        let line = format!("doveadm(bob): Error: {address}: No such user: bob");
        refused.says(67, &["User doesn't exist", &line]);
        lab.run(&["sync", "-S", address, "-u", "jane", "-n", "nosuch/", "-d"]).says(68, &["User has no mail_replica in userdb"]);
    }
    lab.run(&["sync", "-S", &tcp, "-o", "x", "mdbox:~/m"]).says(64, &["invalid option"]);
    let wrong = lab.run(&["-o", "doveadm_password=wrong", "sync", "-S", &tcp, "-u", "jane", "mdbox:~/m"]);
    wrong.says(75, &["doveadm authentication failed ()"]);
}

/// The settings say on which port, and that TLS is wanted there.
#[test]
fn settings_of_the_server() {
    if !have_dovecot() || !have("/usr/bin/openssl") {
        return;
    }
    let lab = Lab::new();
    certificates(&lab.path(""), "IP:127.0.0.1", "30");
    let server = lab.dovecot();
    let port = format!("doveadm_port={}", server.plain);
    lab.run(&["-o", &port, "sync", "-S", "127.0.0.1", "-u", "jane", "mdbox:~/copy"]).fine();
    lab.run(&["-o", &port, "backup", "-R", "tcp:127.0.0.1"]).fine();
    let port = format!("doveadm_port={}", server.tls);
    let ca = format!("ssl_client_ca_file={}", lab.text("ca.crt"));
    let tls = ["-o", &port, "-o", &ca, "-o", "doveadm_ssl=ssl"];
    lab.run(&[&tls[..], &["sync", "-S", "127.0.0.1", "-u", "jane", "mdbox:~/copy"]].concat()).fine();
    lab.run(&[&tls[..2], &tls[4..], &["sync", "-S", "127.0.0.1", "mdbox:~/copy"]].concat()).says(75, &["UnknownIssuer"]);
    lab.run(&[&tls[..4], &["backup", "-R", "tcps:127.0.0.1"]].concat()).fine();
    lab.run(&["-o", "doveadm_ssl=starttls", "sync", "-S", "127.0.0.1:1", "x:y"]).says(75, &["starttls is not supported"]);
}

#[test]
fn nobody_there() {
    let lab = Lab::new();
    let missing = lab.text("missing");
    let line = format!("doveadm(jane): Fatal: net_connect_unix({missing}) failed: No such file or directory");
    lab.run(&["sync", "-S", &missing, "mdbox:~/m"]).says(75, &[&line]);
    lab.run(&["sync", "-S", "127.0.0.1", "mdbox:~/m"]).says(75, &["Fatal: connect(127.0.0.1:0) failed: Connection refused"]);
}
