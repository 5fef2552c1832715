//! The recorded scenarios of the engine (sync.md 18), played between two locations of one machine: Dovecot's files as they were
//! before, Dovecot's operations in between, our runs, and Dovecot's look at the outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::lab::{Dump, Lab, Side, UID, changed, have_dovecot};

/// Not played, with the reason.
const LEFT_OUT: &[(&str, &str)] = &[
    ("hdrhash-fixed", "mbox"),
    ("hdrhash-local", "mbox"),
    ("hdrhash-mbox", "mbox"),
    ("attr-basic", "a local run has one dictionary for both sides"),
    ("attr-conflict", "a local run has one dictionary for both sides"),
    ("attr-nodict", "a local run has one dictionary for both sides"),
    ("sieve", "a local run has one home for both sides"),
    ("sieve-file", "a local run has one home for both sides"),
    ("names-sep", "the sides' separators differ, which a local run cannot have"),
    ("ns-default", "the sides' namespaces differ, which a local run cannot have"),
    ("ns-prefix", "the sides' namespaces differ, which a local run cannot have"),
    ("ns-prefix-missing", "the sides' namespaces differ, which a local run cannot have"),
    ("race-delete-box", "something happens in the middle of a dialogue, which a local run has not"),
    ("race-expunge-src", "something happens in the middle of a dialogue, which a local run has not"),
    ("race-flag", "something happens in the middle of a dialogue, which a local run has not"),
    ("race-save-A", "something happens in the middle of a dialogue, which a local run has not"),
    ("race-save-B", "something happens in the middle of a dialogue, which a local run has not"),
];

/// Where we end elsewhere on purpose, and what must hold instead.
const BETTER: &[(&str, Instead, &str)] = &[
    ("backup-dest-expunged", Instead::Backup("A"), "one run is enough, the mailbox is not sent again"),
    ("backup-dest-newmail2", Instead::Backup("A"), "one run is enough, the mailbox is not sent again"),
    ("backup-guid", Instead::Backup("A"), "directories that the source does not have go too"),
    ("backup-maildir-inbox-expunged", Instead::Backup("A"), "Dovecot cannot delete INBOX and loses all of it"),
    ("backup-reverse", Instead::Backup("B"), "Dovecot cannot delete INBOX and loses all of it"),
    ("filter-both", Instead::Kept, "-t and -e are both obeyed"),
    ("filter-both-local", Instead::Kept, "UIDNEXT waits for mails that a filter holds back"),
    ("filter-flag", Instead::Kept, "mails keep their UIDs"),
    ("filter-since", Instead::Equal, "Dovecot loses the mail that the filter held back"),
    ("filter-since-panic", Instead::Kept, "Dovecot dies"),
    ("mail-changed-skip", Instead::Equal, "equal counters prove nothing"),
    ("mail-midmismatch-flags", Instead::Equal, "one run is enough"),
    ("mail-uidvalidity2", Instead::Equal, "mails keep their UIDs when UIDVALIDITY changes"),
    ("mbox-specialuse", Instead::Kept, "-m with a special-use flag finds the mailbox"),
    ("names-listsep", Instead::Texts, "reversible names"),
    ("names-percent", Instead::Texts, "reversible names, where Dovecot makes random ones and renames in vain"),
    ("names-reserved", Instead::Texts, "the names stay on the side that can hold them"),
    ("oneway-rename", Instead::Kept, "Dovecot passes over the renamed mailbox in silence"),
    ("oneway-uidvalidity", Instead::Kept, "the source stays as it is"),
    ("state-stale", Instead::Equal, "a stale state is no reason to do nothing"),
    ("state-uidvalidity", Instead::Equal, "a stale state is no reason to do nothing"),
    ("tree-exclude", Instead::Less, "-x with a special-use flag excludes"),
    ("tree-rename-parent", Instead::Equal, "a directory that nobody has is not made a mailbox"),
    ("tree-samename-maildir", Instead::Equal, "Dovecot's Maildirs swap their identities for ever"),
    ("tree-temp-suffix", Instead::Equal, "one run is enough; the suffix is random"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// The sides are equal, with all that Dovecot's outcome has; another run does nothing.
    Equal,
    /// Both sides are what this one was before; another run does nothing.
    Backup(&'static str),
    /// Each side has all that it had and all that Dovecot's outcome has; another run does nothing.
    Kept,
    /// As [`Instead::Kept`], but with less than Dovecot's outcome.
    Less,
    /// As [`Instead::Equal`], but for names and what hangs on them.
    Texts,
}

/// The mails of a dump, by the numbers they were made with.
fn numbers(dump: &Dump) -> Vec<String> {
    let number = |t: &&str| t.split_once("Message-ID: <").and_then(|t| t.1.split_once('@')).map(|t| t.0.to_owned());
    let mut all: Vec<String> = dump.texts().iter().filter_map(number).collect();
    all.sort();
    all
}

/// The mails of a recorded side.
fn recorded(side: &Value) -> Vec<String> {
    let boxes = side["mailboxes"].as_array().into_iter().flatten();
    let mails = boxes.flat_map(|m| m["messages"].as_array().into_iter().flatten());
    let mut all: Vec<String> = mails.filter_map(|m| m["msgid"].as_str()).map(str::to_owned).collect();
    all.sort();
    all
}

/// What of `these` is not in `those`, each counted.
fn missing(these: &[String], those: &[String]) -> Vec<String> {
    let count = |all: &[String], one: &String| all.iter().filter(|x| *x == one).count();
    these.iter().filter(|one| count(these, one) > count(those, one)).cloned().collect()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sync")
}

struct Play {
    lab: Lab,
    sides: BTreeMap<String, Side>,
    scenario: Value,
    labels: BTreeMap<(char, String), String>,
    raws: BTreeMap<(char, String), String>,
    state: String,
}

impl Play {
    fn begin(id: &str) -> Self {
        let text = fs::read(fixtures().join(format!("scenarios/{id}.json"))).expect("a scenario");
        let scenario: Value = serde_json::from_slice(&text).expect("json");
        let namespace = match scenario["ns"]["A"].as_str() {
            Some(ns) => ns.to_owned(),
            None => "namespace inbox {\n  inbox = yes\n  separator = /\n}\n".into(),
        };
        let lab = Lab::configured(&namespace);
        let archive = fixtures().join(format!("snapshots/{id}.tar.gz"));
        assert!(Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(lab.path()).status().expect("tar").success());
        let mut sides = BTreeMap::new();
        for name in ["A", "B"] {
            let driver = match scenario["formats"][name].as_str() {
                Some("maildir") => "maildir",
                Some("sdbox") => "sdbox",
                _ => "mdbox",
            };
            let dir = if driver == "maildir" { "Maildir" } else { driver };
            let mut side = lab.place(name, dir, driver);
            side.location = format!("{driver}:{}", side.dir.display());
            let owner = format!("{UID}:{UID}");
            assert!(Command::new("chown").arg("-R").arg(owner).arg(&side.home).status().expect("chown").success());
            sides.insert(name.to_owned(), side);
        }
        Self { lab, sides, scenario, labels: BTreeMap::new(), raws: BTreeMap::new(), state: String::new() }
    }

    fn operate(&self, ops: &Value) {
        for op in ops.as_array().into_iter().flatten() {
            if let Some(seconds) = op["sleep"].as_f64() {
                std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
            } else if let Some(words) = op["doveadm"].as_array() {
                let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                let input = op["stdin"].as_str().map(|f| fs::read(fixtures().join("mails").join(f)).expect("a mail"));
                let out = self.sides[op["on"].as_str().expect("a side")].try_doveadm(&words, &input.unwrap_or_default());
                assert_eq!(out.status.code(), Some(op["rc"].as_i64().unwrap_or(0) as i32), "{words:?} {out:?}");
            }
        }
    }

    fn run(&mut self, run: &Value) -> crate::lab::Ran {
        let master = run["master"].as_str().expect("a side");
        let other = if master == "A" { "B" } else { "A" };
        if self.state.is_empty() {
            self.state = run["state_in"].as_str().unwrap_or_default().into();
        }
        let words = run["command"].as_array().expect("words").iter().skip(1).filter_map(Value::as_str);
        let words: Vec<String> = words.map(|w| if w == "$STATE" { self.state.clone() } else { w.to_owned() }).collect();
        let args: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = self.lab.dsync(&self.sides[master], &self.sides[other], &args);
        if words.iter().any(|w| w == "-s") {
            self.state = ran.stdout.trim().into();
        }
        ran
    }

    /// Equal labels are equal values, different labels different ones.
    fn bind(&mut self, kind: char, label: &str, raw: String) -> Result<(), String> {
        let known = self.labels.entry((kind, label.into())).or_insert_with(|| raw.clone()).clone();
        let back = self.raws.entry((kind, raw.clone())).or_insert_with(|| label.into()).clone();
        // Dates are equal or not by the second; two labels may be one second on a fast machine.
        if known != raw || back != label && kind != 'R' {
            return Err(format!("{label} is {raw}, not {known} ({back})"));
        }
        Ok(())
    }

    /// What of one side is not as recorded.
    fn compare(&mut self, name: &str, want: &Value) -> Vec<String> {
        let side = self.sides[name].clone();
        let seen = side.dump();
        let mut wrong = Vec::new();
        let listed: BTreeSet<String> = side.doveadm(&["mailbox", "list"]).lines().map(str::to_owned).collect();
        let all = want["mailboxes"].as_array().expect("mailboxes");
        let names: BTreeSet<String> = all.iter().map(|m| m["name"].as_str().expect("a name").to_owned()).collect();
        // INBOX is there as soon as somebody looks.
        let without_inbox = |names: &BTreeSet<String>| names.iter().filter(|n| *n != "INBOX").cloned().collect::<Vec<_>>();
        if without_inbox(&listed) != without_inbox(&names) {
            wrong.push(format!("{name}: mailboxes {listed:?} instead of {names:?}"));
        }
        for mailbox in all.iter().filter(|m| m["noselect"] != true) {
            let box_name = mailbox["name"].as_str().expect("a name");
            let Some(there) = seen.boxes.get(box_name) else {
                wrong.push(format!("{name}: no {box_name}"));
                continue;
            };
            let place = format!("{name} {box_name}");
            let mut check = |result: Result<(), String>| wrong.extend(result.err().map(|e| format!("{place}: {e}")));
            check(self.bind('M', mailbox["guid"].as_str().unwrap_or_default(), there.guid.clone()));
            check(self.bind('V', mailbox["uidvalidity"].as_str().unwrap_or_default(), there.uidvalidity.to_string()));
            if mailbox["uidnext"] != u64::from(there.uidnext) {
                check(Err(format!("uidnext {} instead of {}", there.uidnext, mailbox["uidnext"])));
            }
            let told = |m: &crate::lab::Seen| {
                let id = m.text.split_once("Message-ID: <").and_then(|t| t.1.split_once('@')).map_or("", |t| t.0);
                format!("{} {id} {:?}", m.uid, m.flags)
            };
            let expected = |m: &Value| {
                let both = [&m["flags"], &m["keywords"]].into_iter().flat_map(|f| f.as_array().into_iter().flatten());
                let mut flags: Vec<&str> = both.filter_map(Value::as_str).filter(|f| *f != "\\Recent").collect();
                flags.sort_unstable();
                format!("{} {} {flags:?}", m["uid"], m["msgid"].as_str().unwrap_or_default())
            };
            let empty = Vec::new();
            let messages = mailbox["messages"].as_array().unwrap_or(&empty);
            let (have, want): (Vec<String>, Vec<String>) =
                (there.mails.iter().map(told).collect(), messages.iter().map(expected).collect());
            if have != want {
                check(Err(format!("mails {have:?} instead of {want:?}")));
                continue;
            }
            for (m, w) in there.mails.iter().zip(messages) {
                check(self.bind('g', w["guid"].as_str().unwrap_or_default(), m.guid.clone()));
                check(self.bind('R', w["received"].as_str().unwrap_or_default(), m.received.to_string()));
                if w["pop3_uidl"].as_str().unwrap_or_default() != m.uidl {
                    check(Err(format!("UID {}: UIDL {}", m.uid, m.uidl)));
                }
            }
        }
        let subscribed: Vec<&str> = want["subscriptions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut subscribed: Vec<String> = subscribed.into_iter().map(str::to_owned).collect();
        subscribed.sort();
        if subscribed != seen.subscriptions {
            wrong.push(format!("{name}: subscriptions {:?} instead of {subscribed:?}", seen.subscriptions));
        }
        wrong
    }

    fn dumps(&self) -> (Dump, Dump) {
        (self.sides["A"].dump().without_saved(), self.sides["B"].dump().without_saved())
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.sides.values().flat_map(Side::files).collect()
    }
}

/// Plays one; says what is not as it should be.
fn play(id: &str) -> Vec<String> {
    let mut play = Play::begin(id);
    let instead = BETTER.iter().find(|b| b.0 == id).map(|b| b.1);
    let mut wrong = Vec::new();
    let before = play.scenario["before"].clone();
    for name in ["A", "B"] {
        wrong.extend(play.compare(name, &before[name]).into_iter().map(|w| format!("before: {w}")));
    }
    let (a, b) = play.dumps();
    let runs = play.scenario["runs"].clone();
    let runs = runs.as_array().expect("runs");
    for (n, run) in runs.iter().enumerate() {
        play.operate(&run["ops_before"]);
        let ran = play.run(run);
        if ran.stderr.contains("panicked") {
            wrong.push(format!("run {n}: {}", ran.stderr));
        }
        if instead.is_some() {
            if ran.code != 0 {
                wrong.push(format!("run {n}: {} {}", ran.code, ran.stderr));
            }
            continue;
        }
        if run["exit"] != i64::from(ran.code) {
            wrong.push(format!("run {n}: exit {} instead of {}: {}", ran.code, run["exit"], ran.stderr));
        }
        for name in ["A", "B"] {
            wrong.extend(play.compare(name, &run["after"][name]).into_iter().map(|w| format!("run {n}: {w}")));
        }
    }
    if let Some(instead) = instead {
        let (x, y) = play.dumps();
        let outcome = &runs.last().expect("a run")["after"];
        let (nx, ny) = (numbers(&x), numbers(&y));
        let mut expect = |what: &str, lost: Vec<String>| {
            if !lost.is_empty() {
                wrong.push(format!("{what}: {lost:?}"));
            }
        };
        let differences = |a: &Dump, b: &Dump| a.differences(b).lines().map(str::to_owned).collect::<Vec<_>>();
        match instead {
            Instead::Equal => expect("the sides differ", differences(&x, &y)),
            Instead::Texts => expect("the sides differ", [missing(&nx, &ny), missing(&ny, &nx)].concat()),
            Instead::Backup(source) => {
                let source = if source == "A" { &a } else { &b };
                expect("A is not the source", differences(source, &x));
                expect("B is not the source", differences(source, &y));
            }
            Instead::Kept | Instead::Less => {
                expect("A lost", missing(&numbers(&a), &nx));
                expect("B lost", missing(&numbers(&b), &ny));
            }
        }
        if !matches!(instead, Instead::Backup(_) | Instead::Less) {
            expect("A has not what it has with Dovecot", missing(&recorded(&outcome["A"]), &nx));
            expect("B has not what it has with Dovecot", missing(&recorded(&outcome["B"]), &ny));
        }
        let quiet = play.files();
        let ran = play.run(runs.last().expect("a run"));
        let touched = changed(&quiet, &play.files());
        if ran.code != 0 || !touched.is_empty() {
            wrong.push(format!("not quiet: {} {} {touched:?}", ran.code, ran.stderr));
        }
    }
    let log = play.lab.log();
    if !log.is_empty() {
        wrong.push(format!("Dovecot said {log}"));
    }
    wrong.into_iter().map(|w| format!("{id}: {w}")).collect()
}

#[test]
fn recorded_scenarios() {
    if !have_dovecot() {
        return;
    }
    let mut ids: Vec<String> = fs::read_dir(fixtures().join("scenarios"))
        .expect("scenarios")
        .filter_map(|e| Some(e.ok()?.file_name().to_str()?.strip_suffix(".json")?.to_owned()))
        .collect();
    ids.sort();
    for (id, reason) in LEFT_OUT {
        eprintln!("left out: {id}: {reason}");
    }
    for (id, ..) in BETTER {
        assert!(ids.iter().any(|i| i == id), "{id}");
    }
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = play(id);
                    wrong.lock().expect("nobody panics with it").extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("nobody panics with it");
    eprintln!("{} scenarios played, {} of them end elsewhere on purpose", ids.len(), BETTER.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
