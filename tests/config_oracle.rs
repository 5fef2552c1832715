//! Files made of odd lines, read by us and by a real doveconf 2.3: the same settings, or the same complaint.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use dsync::config::{Config, Source};

/// A small generator with a fixed seed: the same files in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'t>(&mut self, words: &[&'t str]) -> &'t str {
        words[self.roll(words.len())]
    }

    fn some(&mut self, words: &[&str], most: usize) -> String {
        (0..self.roll(most + 1)).map(|_| self.pick(words)).collect()
    }
}

const KEYS: &[&str] = &["mail_home", "mail_server_comment", "hostname", "mail_plugins", "mail_access_groups"];
const PIECES: &[&str] = &[
    "a",
    "b c",
    " ",
    "  ",
    "\t",
    "\"",
    "'",
    "\\\"",
    "\\",
    "#",
    " #",
    "$mail_home",
    " $mail_plugins ",
    "$hostname",
    "$ENV:DSYNC_TEST",
    "=",
    "{",
    "}",
    "%u",
    "x\\y",
    "~/",
];

/// One line, or a few that belong together.
fn line(dice: &mut Dice) -> String {
    let value = dice.some(PIECES, 5);
    let key = dice.pick(KEYS);
    let end = dice.pick(&["\n", "\n", "\n", "\r\n", " \n", "\\\n", " # c\n"]);
    // A continuation in a section would swallow its end.
    let inner = value.trim_end_matches(['\\', ' ', '\t']);
    let short = if end == "\\\n" { "\n" } else { end };
    match dice.roll(14) {
        0..=5 => format!("{key}{}={}{value}{end}", dice.pick(&["", " ", "\t"]), dice.pick(&["", " ", "\t "])),
        6 => format!("{key} = \"{value}\"{end}"),
        7 => format!("plugin {{\n {} = {inner}{short}}}\n", dice.pick(&["quota", "Key", "x+"])),
        8 => format!(
            "namespace {} {{\n {} = {inner}{short} inbox = yes\n}}\n",
            dice.pick(&["inbox", "\"in box\"", "a/b", ""]),
            dice.pick(&["prefix", "location", "alias_for", "type"])
        ),
        9 => format!("protocol {} {{\n {key} = {inner}{short}}}\n", dice.pick(&["doveadm", "!doveadm", "imap", "!imap"])),
        10 => format!("{}\n", dice.some(&["a", " ", "{", "}", "\"", "=", "#", "namespace {", "plugin {", "!include x"], 4)),
        11 => "# comment\n".into(),
        12 => format!(
            "{} = {}\n",
            dice.pick(&["mail_max_lock_timeout", "mdbox_rotate_size", "first_valid_uid", "mail_debug"]),
            dice.some(&["1", "0", "5", "s", "m", "k", "yes", "no", " ", "M"], 3)
        ),
        _ => "!include_try part*.conf\n".into(),
    }
}

/// What doveconf says: settings, or its last line.
fn doveconf(dir: &Path) -> Result<BTreeMap<String, String>, String> {
    let output = Command::new("doveconf")
        .args(["-c", "t.conf", "-x", "-S", "-f", "service=doveadm"])
        .env("DSYNC_TEST", "from env")
        .current_dir(dir)
        .output()
        .unwrap();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(stderr.lines().last().unwrap_or_default().to_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

#[test]
fn odd_files_are_read_as_doveconf_reads_them() {
    let version = Command::new("doveconf").args(["-c", "/dev/null", "-n"]).output();
    if !version.is_ok_and(|v| v.stdout.starts_with(b"# 2.3.")) {
        eprintln!("skipped: there is no doveconf 2.3 here");
        return;
    }
    let dir = tempfile::Builder::new().prefix("dsync-conf-").tempdir_in("/tmp").unwrap();
    fs::write(dir.path().join("part1.conf"), "mail_plugins = $mail_plugins part1\n").unwrap();
    fs::write(dir.path().join("part2.conf"), "hostname = part2").unwrap();
    let files: u64 = std::env::var("DSYNC_ORACLE_FILES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let (mut settings, mut errors, mut wrong) = (0, 0, Vec::new());
    for seed in 0..files {
        let mut dice = Dice(seed.wrapping_mul(7919).wrapping_add(17));
        let text: String = (0..1 + dice.roll(7)).map(|_| line(&mut dice)).collect();
        let path = dir.path().join("t.conf");
        // Ours has no environment of its own to set.
        fs::write(&path, text.replace("$ENV:DSYNC_TEST", "$ENV:DSYNC_UNSET")).unwrap();
        let theirs = doveconf(dir.path());
        let ours = Config::load(&Source::File(path.clone()), &[]).map(|loaded| loaded.config);
        match (theirs, ours) {
            (Ok(theirs), Ok(ours)) => {
                settings += 1;
                for key in KEYS {
                    let want = theirs.get(*key).map_or("", String::as_str);
                    if ours.text(key) != want {
                        wrong.push(format!("{text:?}\n  {key}: {:?} instead of {want:?}", ours.text(key)));
                    }
                }
                for key in ["quota", "Key", "x+"] {
                    let want = theirs.get(&format!("plugin/{key}")).map(String::as_str);
                    if ours.plugin(key) != want {
                        wrong.push(format!("{text:?}\n  plugin/{key}: {:?} instead of {want:?}", ours.plugin(key)));
                    }
                }
            }
            (Err(theirs), Err(ours)) => {
                errors += 1;
                let ours = format!("doveconf: Fatal: {ours}").replace(&format!("{}/", dir.path().display()), "");
                if theirs != ours {
                    wrong.push(format!("{text:?}\n  {ours}\n  instead of {theirs}"));
                }
            }
            (Ok(_), Err(ours)) => wrong.push(format!("{text:?}\n  refused: {ours}")),
            (Err(theirs), Ok(_)) => wrong.push(format!("{text:?}\n  accepted instead of {theirs}")),
        }
    }
    eprintln!("{settings} read alike, {errors} refused alike");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
