//! The command lines of the corpus (captured from doveadm 2.3.19.1 as root), given to our binary under the same names.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

#[derive(Deserialize)]
struct Overrides {
    cases: Vec<OverrideCase>,
}

#[derive(Deserialize)]
struct OverrideCase {
    args: Vec<String>,
    rc: i32,
    log: Vec<String>,
}

#[derive(Deserialize)]
struct Corpus {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prog: String,
    args: Vec<String>,
    rc: i32,
    stdout: String,
    stderr: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    unset: Vec<String>,
    #[serde(default)]
    remote: Option<Vec<String>>,
}

/// Where we do something else on purpose: exit code and standard error (cli-config.md 20).
const DIFFERENT: &[(&[&str], i32, &str)] = &[
    // --version and --help are ours.
    (&["--version"], 0, ""),
    // A lock time that silently vanishes is dangerous.
    (&["sync", "-l", "abc"], 64, "Error: Invalid -l parameter: abc: not a number of seconds\n"),
    (&["sync", "-l", "5x"], 64, "Error: Invalid -l parameter: 5x: not a number of seconds\n"),
    (&["sync", "-T", "abc"], 64, "Error: Invalid -T parameter: abc: not a number of seconds\n"),
    // Old scripts carry it.
    (&["sync", "-D"], 0, "Warning: -D after the command is of Dovecot 2.2 and is ignored: renames are synchronised\n"),
    // A mistyped setting must not pass silently.
    (&["-o", "foo=bar"], 0, "Warning: Ignoring -o parameter foo=bar: there is no such setting\n"),
    // A command that cannot be started was never there to be read from.
    (&["mdbox:~/mdbox", "sdbox:~/s"], 75, "doveadm(tim): Fatal: execvp(mdbox:~/mdbox) failed: No such file or directory\n"),
    // doveadm aborts.
    (&["foo:bar"], 75, "dsync(tim): Error: Failed to initialize user: Namespace '': Unknown mail storage driver foo\n"),
    // The engine says it, not the command line: another prefix.
    (
        &["sync", "-s", "AAA"],
        0,
        "dsync(tim): Error: Saved sync state is invalid, falling back to full sync: Invalid base64 data\n",
    ),
    // Attached arguments of the old grammar are accepted, as in Dovecot 2.1.
    (&["-mINBOX", "mirror"], 0, ""),
];

/// The source is not there at all. doveadm makes an empty one; we change nothing (exit 75).
const NO_SOURCE: &[&[&str]] = &[&["-fPR1"], &["backup", "-R"], &["-fRm", "INBOX", "backup"]];

/// Not looked at, with the reason.
const LEFT_OUT: &[(&[&str], &str)] = &[(
    &["empty.conf", "-o", "mail_uid=1000", "-o", "mail_gid=1000", "sync"],
    "the mailbox list takes a ~/Maildir without cur for a Maildir",
)];

/// Our binary as `doveadm` and as `dsync` in a scratch directory as the corpus describes it.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dsync-cli-").tempdir_in("/tmp").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), mode).unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cli");
        for name in ["base.conf", "nosep.conf"] {
            let text = fs::read_to_string(fixtures.join(format!("{name}.in"))).unwrap();
            fs::write(dir.path().join(name), text.replace("@DIR@", dir.path().to_str().unwrap())).unwrap();
        }
        fs::write(dir.path().join("empty.conf"), "").unwrap();
        fs::write(dir.path().join("broken.conf"), "nosuch = 1\n").unwrap();
        for name in ["doveadm", "dsync"] {
            symlink(env!("CARGO_BIN_EXE_dsync"), dir.path().join(name)).unwrap();
        }
        // Says how it was started, and what it hears first.
        let script = format!(
            "#!/bin/sh\nexec 3>{0}\necho \"arg0=$0\" >&3\nn=1\nfor word; do echo \"arg$n=$word\" >&3; n=$((n+1)); done\n\
             IFS= read -r line\necho \"stdin=$line\" >&3\nexit 9\n",
            dir.path().join("seen").display()
        );
        let path = dir.path().join("fake-remote");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let lab = Self { dir };
        lab.fresh_home();
        lab
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Only an empty directory where the Maildir would be.
    fn fresh_home(&self) {
        let _ = fs::remove_dir_all(self.path("home"));
        let _ = fs::remove_file(self.path("seen"));
        for dir in ["run", "home", "home/Maildir"] {
            let _ = fs::create_dir(self.path(dir));
            let _ = chown(self.path(dir), Some(1000), Some(1000));
        }
    }

    fn run(&self, prog: &str, args: &[String], set: &BTreeMap<String, String>, unset: &[String]) -> Output {
        let mut command = Command::new(self.path(prog));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("HOME", self.path("home")).env("USER", "tim");
        for name in ["MAIL", "MAILDIR", "CONFIG_FILE", "LOG_STDERR_TIMESTAMP"] {
            command.env_remove(name);
        }
        command.envs(set);
        for name in unset {
            command.env_remove(name);
        }
        // getopt says the name it was called by.
        std::os::unix::process::CommandExt::arg0(&mut command, prog);
        command.output().unwrap()
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn contains(args: &[String], part: &[&str]) -> bool {
    args.windows(part.len()).any(|window| window.iter().zip(part).all(|(a, b)| a == b))
}

#[test]
fn the_corpus_of_command_lines() {
    if !is_root() {
        eprintln!("skipped: the command lines were captured as root");
        return;
    }
    let corpus: Corpus = serde_json::from_str(include_str!("fixtures/cli/cases.json")).unwrap();
    assert!(corpus.cases.len() > 150);
    let lab = Lab::new();
    let dir = lab.dir.path().to_str().unwrap().to_owned();
    let session = regex::Regex::new("<[0-9]+><[A-Za-z0-9+/]{22}>").unwrap();
    let mut wrong = Vec::new();
    let (mut exact, mut reached) = (0, 0);
    for case in corpus.cases {
        if let Some((_, reason)) = LEFT_OUT.iter().find(|(part, _)| contains(&case.args, part)) {
            eprintln!("left out: {:?}: {reason}", case.args);
            continue;
        }
        lab.fresh_home();
        let here = |text: &String| text.replace("$DIR", &dir);
        let args: Vec<String> = case.args.iter().map(here).collect();
        let set = case.env.iter().map(|(name, text)| (name.clone(), here(text))).collect();
        let output = lab.run(&case.prog, &args, &set, &case.unset);
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        let stderr = session.replace_all(&stderr, "<PID><SESSION>").into_owned();
        let code = output.status.code().unwrap_or(-1);
        let different = DIFFERENT.iter().find(|(part, ..)| contains(&args, part));
        let (want_code, want_stderr) =
            different.map_or_else(|| (case.rc, here(&case.stderr)), |(_, rc, text)| (*rc, (*text).to_owned()));

        if let Some(remote) = &case.remote {
            reached += 1;
            let seen = fs::read_to_string(lab.path("seen")).unwrap_or_default();
            let wanted: String = remote.iter().map(|line| here(line) + "\n").collect();
            if seen != wanted {
                wrong.push(format!("{args:?}\n   started {seen:?}\n   instead of\n   {wanted:?}"));
            }
        }
        if NO_SOURCE.iter().any(|part| contains(&args, part)) {
            if code != 75 || !stderr.contains("is not there. Nothing was changed") {
                wrong.push(format!("{args:?}: {code} {stderr}"));
            }
            continue;
        }
        exact += 1;
        let same_stdout = stdout == case.stdout || case.stdout.contains("<STATE>") || contains(&args, &["--version"]);
        if code != want_code || stderr != want_stderr || !same_stdout {
            wrong.push(format!(
                "{} {args:?}\n   {code} {stdout:?} {stderr:?}\n   instead of\n   {want_code} {:?} {want_stderr:?}",
                case.prog, case.stdout
            ));
        }
    }
    eprintln!("{exact} as doveadm, {reached} with a command");
    assert!(reached > 20);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What -D says about users, namespaces and locations is what doveadm says. Cases with -u need the userdb, which is not
/// asked yet.
#[test]
fn overrides_reach_both_sides() {
    if !is_root() {
        eprintln!("skipped: the overrides were captured as root");
        return;
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/v23-overrides");
    let corpus: Overrides = serde_json::from_slice(&fs::read(fixtures.join("expected.json")).unwrap()).unwrap();
    let lab = Lab::new();
    let dir = lab.dir.path().to_str().unwrap().to_owned();
    let text = fs::read_to_string(fixtures.join("dovecot.conf.in")).unwrap();
    fs::write(lab.path("dovecot.conf"), text.replace("@DIR@", &dir)).unwrap();
    fs::create_dir(lab.path("users")).unwrap();
    let mut compared = 0;
    for case in corpus.cases {
        let args: Vec<_> = case.args.iter().map(|a| a.replace("$DIR", &dir)).collect();
        let output = lab.run("doveadm", &args, &BTreeMap::new(), &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        if args.iter().any(|a| a == "-u") {
            assert_eq!(output.status.code(), Some(75), "{args:?} {stderr}");
            assert!(stderr.contains("asking it (or Dovecot's auth process) is not supported yet"), "{stderr}");
            continue;
        }
        compared += 1;
        for line in case.log {
            // Userdb fields and the engine's own lines are not ours; the identity of the second side is that of the first.
            if line.starts_with("Ignoring") || line.starts_with("brain") {
                continue;
            }
            let line = line.replace("$DIR", &dir);
            assert!(stderr.contains(&format!(": Debug: {line}\n")), "{args:?}: {line:?} is not in\n{stderr}");
        }
        assert!(output.status.code() == Some(case.rc), "{stderr}");
    }
    assert_eq!(compared, 2);
}

/// Without any configuration: one obvious way.
#[test]
fn no_configuration_is_needed() {
    if !is_root() {
        eprintln!("skipped: needs root to become the mail's user");
        return;
    }
    let lab = Lab::new();
    let run = |args: &[&str]| {
        let args: Vec<_> = args.iter().map(|a| (*a).to_owned()).collect();
        let output = lab.run("dsync", &args, &BTreeMap::new(), &[]);
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
    };
    let fine = |(code, stderr): (i32, String)| {
        assert!(code == 0, "{code} {stderr}");
    };
    let ids = ["-o", "mail_uid=1000", "-o", "mail_gid=1000"];
    fine(run(&[&["-O", "-o", "mail_location=maildir:~/Maildir"], &ids[..], &["sync", "mdbox:~/mdbox"]].concat()));
    fine(run(&[&["-O", "-o", "mail_driver=maildir", "-o", "mail_path=~/Maildir"], &ids[..], &["sync", "mdbox:~/m"]].concat()));
    fine(run(&[&["-O"], &ids[..], &["sync", "maildir:~/Maildir", "mdbox:~/two"]].concat()));
    fine(run(&[
        &["-O", "-o", "mail_home=/nonexistent"],
        &ids[..],
        &[
            "sync",
            "-u",
            "nobody special",
            &format!("maildir:{}", lab.path("home/Maildir")),
            &format!("mdbox:{}", lab.path("home/u")),
        ],
    ]
    .concat()));

    let (code, stderr) = run(&["-O", "-o", "mail_location=maildir:~/Maildir", "sync", "mdbox:~/mdbox"]);
    assert_eq!(code, 75);
    assert!(stderr.contains("the mail belongs to UID 1000: add -o mail_uid=1000 -o mail_gid=1000"), "{stderr}");
    let (code, stderr) =
        run(&[&["-O", "-o", "mail_location=maildir:~/M"], &ids[..], &["sync", "-u", "nobody special", "mdbox:~/m"]].concat());
    assert_eq!((code, stderr.as_str()), (67, "doveadm(nobody special): Error: User doesn't exist\n"));
}

/// Forms whose engine is not there are refused before anything is done.
#[test]
fn what_cannot_be_done_yet_is_not_begun() {
    let lab = Lab::new();
    for args in [
        &["sync", "-A", "mdbox:~/m"][..],
        &["sync", "-F", "list", "mdbox:~/m"],
        &["sync", "-u", "*", "mdbox:~/m"],
        &["dsync-server", "-A"],
        &["sync", "mbox:~/mail"],
        &["sync", "imapc:"],
    ] {
        let args: Vec<_> = ["-c", "base.conf"].iter().chain(args).map(|a| (*a).to_owned()).collect();
        let output = lab.run("doveadm", &args, &BTreeMap::new(), &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{args:?} {stderr}");
        assert!(stderr.contains("not supported yet"), "{args:?} {stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(fs::read_dir(lab.path("home")).unwrap().count(), 1);
    }
}
