//! `tests/fixtures/list/expected.json`, the part about names: what Dovecot makes of 23 names at 16 locations.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{IndexDir, Location, Names};
use crate::mail::MailboxName;
use crate::store::{NamespaceSettings, Owner, Settings};

fn cases() -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../../tests/fixtures/list/expected.json")).expect("is JSON");
    all["names"].as_array().expect("has names").clone()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

struct Case {
    location: Location,
    names: Names,
}

fn open(case: &Value) -> Case {
    let owner = Owner { name: "u".into(), home: Some("/h".into()) };
    let location = Location::parse(text(case, "mail_location"), &owner).expect("is a location");
    let ns = NamespaceSettings { separator: text(case, "separator").chars().next(), ..NamespaceSettings::default() };
    let escape = text(case, "extra").contains("listescape").then_some('\\');
    let names = Names::new(&location, &ns, &[], &Settings { listescape_char: escape, ..Settings::default() });
    Case { location, names }
}

#[test]
fn names_are_refused_and_stored_as_dovecot_does() {
    let mut wrong = Vec::new();
    for case in &cases() {
        let Case { location, names } = open(case);
        let vname = text(case, "vname");
        // A trailing separator asks for a directory.
        let (wanted, dir_only) = match vname.strip_suffix(names.separator) {
            Some(v) if v.len() > 1 => (v, true),
            _ => (vname, false),
        };
        let stored = names.parse(wanted).and_then(|n| names.stored(&n));
        let error = case["create_error"].as_str();
        let refused = error.filter(|e| e.contains("Can't create mailbox"));
        match (&stored, refused) {
            (Err(e), Some(theirs)) => {
                if !theirs.ends_with(&e.to_string()) {
                    wrong.push(format!("{} {vname}: {e}, not {theirs}", case["mail_location"]));
                }
                continue;
            }
            (Ok(_), None) => {}
            (ours, theirs) => {
                wrong.push(format!("{} {vname}: {ours:?}, not {theirs:?}", case["mail_location"]));
                continue;
            }
        }
        let Ok(stored) = stored else { continue };
        let paths = location.paths(&stored);
        let created: BTreeSet<&str> =
            case["created"].as_array().expect("list").iter().map(|v| v.as_str().expect("text").trim_end_matches('/')).collect();
        let made = if dir_only { &paths.dir } else { &paths.mailbox };
        let made = made.strip_prefix("/h").expect("in home").to_str().expect("UTF-8");
        // The fixture leaves `cur new tmp` out by a pattern that also hits mailboxes of these names.
        if error.is_none() && !["cur", "x/new"].contains(&vname) && !created.contains(made) {
            wrong.push(format!("{} {vname}: {made} not in {created:?}", case["mail_location"]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn paths_are_dovecot_s() {
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for case in &cases() {
        let Case { location, names } = open(case);
        let vname = text(case, "vname");
        // `doveadm mailbox path` neither checks names nor folds the case of `inbox/`.
        if case["create_error"].as_str().is_some_and(|e| e.contains("Can't create"))
            || vname.ends_with('/')
            || vname == "Inbox/Sub"
        {
            continue;
        }
        let stored = names.parse(vname).and_then(|n| names.stored(&n)).expect("accepted above");
        let paths = location.paths(&stored);
        for (key, theirs) in case["paths"].as_object().expect("object") {
            let ours = match key.as_str() {
                "mailbox" => Some(paths.mailbox.clone()),
                "alt-mailbox" => paths.alt.clone(),
                "control" => Some(paths.control.clone()),
                "index" => paths.index.clone(),
                other => panic!("{other}"),
            };
            let ours = ours.map(|p| p.to_str().expect("UTF-8").replacen("/h", "~", 1));
            compared += 1;
            if ours.as_deref() != theirs.as_str() {
                wrong.push(format!("{} {vname} {key}: {ours:?}, not {theirs}", case["mail_location"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 400, "only {compared}");
}

#[test]
fn every_stored_name_means_its_name() {
    for case in &cases() {
        let Case { location, names } = open(case);
        let Ok(name) = names.parse(text(case, "vname")) else { continue };
        let Ok(stored) = names.stored(&name) else { continue };
        if !stored.inbox {
            assert_eq!(names.decode(&stored.name), super::Decoded::Name(name), "{location:?}");
        }
    }
    assert_eq!(open(&cases()[cases().len() - 1]).location.index, IndexDir::Memory);
}

#[test]
fn prefixes() {
    let owner = Owner { name: "u".into(), home: Some("/h".into()) };
    let location = Location::parse("maildir:~/M", &owner).expect("fine");
    let ns = NamespaceSettings { prefix: "INBOX/".into(), separator: Some('/'), ..NamespaceSettings::default() };
    let names = Names::new(&location, &ns, &[], &Settings::default());
    let stored = |n: &str| names.stored(&MailboxName::parse(n, '/').expect("name")).map(|s| s.text());
    // Verified live.
    assert_eq!(stored("INBOX"), Ok("INBOX".into()));
    assert_eq!(stored("INBOX/x"), Ok("x".into()));
    assert_eq!(stored("inbox/y"), Ok("y".into()));
    assert!(stored("Foo").is_err());
}

proptest::proptest! {
    /// What the rules call possible can be stored, and comes back from the disk as the same name.
    #[test]
    fn the_nearest_name_can_be_stored(
        levels in proptest::collection::vec("[a-cé./~%&_^\\\\\x01\t-]{1,5}|[xé.]{80,200}|INBOX|inbox|dbox-Mails|cur|x\\.lock", 1..4),
        case in 0_usize..16,
    ) {
        let all = cases();
        let Case { location, names } = open(&all[case * 23]);
        let rules = crate::mail::NameRules { separator: names.separator, alt: '_', namespaces: vec![names.rules()], ..crate::mail::NameRules::default() };
        let near = rules.nearest(&MailboxName::new(levels).expect("no empty level"));
        let stored = names.stored(&near);
        proptest::prop_assert!(stored.is_ok(), "{:?} {near:?}: {stored:?}", location);
        let stored = stored.expect("just looked");
        if !stored.inbox {
            proptest::prop_assert_eq!(names.decode(&stored.name), super::Decoded::Name(near));
        }
    }
}
