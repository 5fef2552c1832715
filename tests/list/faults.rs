//! A kill at every step of creating, renaming, deleting and subscribing: the mail is there, Dovecot and we see it, and doing it
//! again completes it.

use std::path::Path;
use std::process::Command;

use dsync::mail::{Class, MailboxName, Selection, Store, Timestamp};
use dsync::store::local::{LocalStore, OpenFor};

use crate::lab::{Lab, account, guid, name, validity};

const CHILD: &str = "DSYNC_LIST_CHILD";

#[derive(Debug, Clone, Copy)]
enum Act {
    Create,
    Rename,
    Delete,
    Subscribe,
}

fn open(home: &Path, location: &str) -> LocalStore {
    let mut store = dsync::store::open(&account(home, location), OpenFor::Destination).expect("opens");
    store.scan(&Selection::Default).expect("scans");
    store
}

/// Does what is asked for, or what is left of it to be done.
fn act(act: Act, store: &mut LocalStore) {
    let result = match act {
        Act::Create => store.create(&name("New/Kid"), guid(9), validity(2000)),
        Act::Rename => store.rename(&name("Foo"), &name("New/Deep"), Timestamp(7)),
        Act::Delete => store.delete(&name("Gone"), guid(3), Timestamp(8)),
        Act::Subscribe => store.set_subscribed(&name("Foo"), true, Timestamp(9)),
    };
    match result {
        Err(e) if matches!(e.class(), Class::Exists | Class::NotFound) => {}
        other => other.unwrap_or_else(|e| panic!("{act:?}: {e}")),
    }
}

/// Not a test of its own: what the others run and kill.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (which, rest) = what.split_once(' ').expect("two words");
    let (home, location) = rest.split_once(' ').expect("two words");
    let which = [Act::Create, Act::Rename, Act::Delete, Act::Subscribe][which.parse::<usize>().expect("a number")];
    act(which, &mut open(Path::new(home), location));
}

fn run_child(which: usize, home: &Path, location: &str, env: &[(&str, String)]) -> bool {
    let mut command = Command::new(std::env::current_exe().expect("known"));
    command.args(["--exact", "faults::child", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, format!("{which} {} {location}", home.display()));
    for (key, value) in env {
        command.env(key, value);
    }
    command.output().expect("runs").status.success()
}

/// A user with `Foo`, `Foo/Kid` (one mail each) and `Gone`.
fn prepare(location: &str) -> Option<Lab> {
    let lab = Lab::new(location)?;
    let mut store = lab.open();
    for (i, n) in ["Foo", "Foo/Kid", "Gone", "INBOX"].iter().enumerate() {
        store.create(&name(n), guid(u8::try_from(i).expect("few") + 1), validity(1000)).expect("new");
    }
    for n in ["Foo", "Foo/Kid", "INBOX"] {
        lab.deliver(n, 1);
    }
    Some(lab)
}

/// What time does to the lock files of a process that was killed. Says whether there is one that Dovecot would wait for: it
/// looks at the time of the last change of the inode, which cannot be set back.
fn age_locks(dir: &Path) -> bool {
    let mut waits = false;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            waits |= age_locks(&path);
        } else if path.extension().is_some_and(|e| e == "lock" || e == "newlock") || path.ends_with("dovecot-uidlist") {
            let file = std::fs::File::open(&path).expect("readable");
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600)).expect("ours");
            waits |= path.extension().is_some_and(|e| e == "newlock");
        }
    }
    waits
}

/// Names of the mailboxes that have a GUID of `prepare`, as we see them.
fn where_is(store: &mut LocalStore, n: u8, at: &str) -> Vec<MailboxName> {
    let tree = store.scan(&Selection::Default).unwrap_or_else(|e| panic!("{at}: {e}"));
    assert!(tree.problems.is_empty(), "{at}: {:?}", tree.problems);
    tree.nodes.iter().filter(|x| x.identity.is_some_and(|i| i.guid == guid(n))).map(|x| x.name.clone()).collect()
}

fn kill_at_every_step(location: &str) {
    let Some(lab) = prepare(location) else { return };
    let copy = lab.home().with_file_name("copy");
    // What the mailboxes keep of themselves is relative to nothing: the copy takes the home's place.
    let home = lab.home();
    let restore = || {
        let _ = std::fs::remove_dir_all(&home);
        assert!(Command::new("cp").args(["-a"]).arg(&copy).arg(&home).status().expect("runs").success());
    };
    assert!(Command::new("cp").args(["-a"]).arg(&home).arg(&copy).status().expect("runs").success());
    let location = lab.location();
    for (which, what) in [Act::Create, Act::Rename, Act::Delete, Act::Subscribe].into_iter().enumerate() {
        let log = home.with_file_name(format!("steps-{which}"));
        restore();
        assert!(run_child(which, &home, &location, &[("DSYNC_FAULT_LOG", log.display().to_string())]), "{location} {what:?}");
        let steps = std::fs::read_to_string(&log).expect("written").lines().count();
        assert!(steps > 2, "{location} {what:?}: only {steps} steps");
        for n in 1..=steps {
            let at = format!("{location} {what:?} killed at step {n} of {steps}");
            restore();
            assert!(!run_child(which, &home, &location, &[("DSYNC_FAULT", format!("{n}:kill"))]), "{at}: not killed");
            let dovecot_waits = age_locks(&home);

            let mut store = open(&home, &location);
            for mailbox in [1, 2, 4] {
                assert_eq!(where_is(&mut store, mailbox, &at).len(), 1, "{at}: mailbox {mailbox}");
            }
            // Every third state is shown to Dovecot; that is enough to have each kind of it seen.
            if n % 3 == which % 3 && !dovecot_waits {
                let mails: u32 = lab.boxes_after_crash().values().map(|b| b.2).sum();
                assert_eq!(mails, 3, "{at}");
            }
            // Dovecot takes a deletion that was begun back after half a minute; so long the mailbox is nobody's.
            act(what, &mut open(&home, &location));
            let mut store = open(&home, &location);
            match what {
                Act::Rename => {
                    // A kill between parent and child leaves the child behind, as it leaves it with Dovecot.
                    let kid = where_is(&mut store, 2, &at).pop().expect("one");
                    if kid == name("Foo/Kid") {
                        store.rename(&kid, &name("New/Deep/Kid"), Timestamp(7)).unwrap_or_else(|e| panic!("{at}: {e}"));
                    }
                    assert_eq!(where_is(&mut store, 1, &at), [name("New/Deep")], "{at}");
                    assert_eq!(where_is(&mut store, 2, &at), [name("New/Deep/Kid")], "{at}");
                }
                Act::Create => {
                    // Made as far as that, it may have got an identity of its own: the engine changes that.
                    if where_is(&mut store, 9, &at).is_empty() {
                        let mut mailbox = store.open(&name("New/Kid")).unwrap_or_else(|e| panic!("{at}: {e}"));
                        mailbox.set_identity(guid(9), validity(2000)).unwrap_or_else(|e| panic!("{at}: {e}"));
                    }
                    assert_eq!(where_is(&mut store, 9, &at), [name("New/Kid")], "{at}");
                }
                Act::Delete => assert_eq!(where_is(&mut store, 3, &at), [] as [MailboxName; 0], "{at}"),
                Act::Subscribe => {
                    let tree = store.scan(&Selection::Default).expect("scans");
                    assert!(tree.nodes.iter().any(|x| x.name == name("Foo") && x.subscribed), "{at}");
                }
            }
        }
    }
    assert_eq!(lab.boxes().values().map(|b| b.2).sum::<u32>(), 3);
}

#[test]
fn sdbox_with_separate_roots() {
    kill_at_every_step("sdbox:~/mail:INDEX=~/index:CONTROL=~/control:ALT=~/alt");
}

#[test]
fn sdbox_by_guid() {
    kill_at_every_step("sdbox:~/mail:LAYOUT=index");
}

#[test]
fn maildir() {
    kill_at_every_step("maildir:~/mail:INDEX=~/index:CONTROL=~/control");
}
