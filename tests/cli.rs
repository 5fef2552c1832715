//! The command lines of the corpus (captured from doveadm 2.3.19.1 as root), given to our binary under the same names.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

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
    // doveadm aborts.
    (&["foo:bar"], 75, "dsync(tim): Error: Failed to initialize user: Namespace '': Unknown mail storage driver foo\n"),
    // Attached arguments of the old grammar are accepted, as in Dovecot 2.1.
    (&["-mINBOX", "mirror"], 0, ""),
];

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
    let mut wrong = Vec::new();
    let (mut exact, mut refused, mut without_engine) = (0, 0, 0);
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
        let code = output.status.code().unwrap_or(-1);
        let different = DIFFERENT.iter().find(|(part, ..)| contains(&args, part));
        let (want_code, want_stderr) =
            different.map_or_else(|| (case.rc, here(&case.stderr)), |(_, rc, text)| (*rc, (*text).to_owned()));

        let last = args.last().map_or("", String::as_str);
        let is_remote = case.remote.is_some() || last.starts_with("tcp") || contains(&args, &["mdbox:~/mdbox", "sdbox:~/s"]);
        if is_remote {
            // Another machine, a server, a command: refused before anything is done.
            refused += 1;
            if code != 75 || !stderr.contains("not supported yet; nothing was done") || !stdout.is_empty() {
                wrong.push(format!("{args:?}: {code} {stderr}"));
            }
            continue;
        }
        if stderr.contains("the engine is not built in yet") {
            // Everything up to the engine is right if doveadm got as far.
            without_engine += 1;
            if want_code != 0 {
                wrong.push(format!("{args:?}: got to the engine instead of {want_code} {want_stderr}"));
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
    eprintln!("{exact} as doveadm, {refused} refused, {without_engine} right up to the engine");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
