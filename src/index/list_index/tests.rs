use super::*;
use crate::index::Settings;
use crate::os::fs::Modes;

fn options() -> Options {
    Options::new(Settings::default(), Modes::default())
}

fn open(dir: &std::path::Path) -> ListIndex {
    ListIndex::open_or_create(Files::new(dir, Files::LIST), options()).expect("opens")
}

fn guid(n: u8) -> MailboxGuid {
    MailboxGuid::new([n; 16]).expect("not zero")
}

fn validity(n: u32) -> UidValidity {
    UidValidity::new(n).expect("not zero")
}

fn names(list: &ListIndex) -> Vec<String> {
    let mut out: Vec<String> = list
        .paths('/')
        .expect("readable")
        .into_iter()
        .map(|(path, n)| format!("{}{}", String::from_utf8_lossy(&path), if n.guid.is_some() { "" } else { "/" }))
        .collect();
    out.sort();
    out
}

#[test]
fn nodes_come_move_and_go() {
    let dir = tempfile::tempdir().expect("scratch");
    let mut list = open(dir.path());
    list.create(&[b"A", b"B"], guid(1), validity(7)).expect("new");
    assert!(matches!(list.create(&[b"A", b"B"], guid(2), validity(7)), Err(NodeError::Exists)));
    list.create(&[b"A"], guid(2), validity(8)).expect("the directory becomes a mailbox");
    list.create(&[b"C"], guid(3), validity(9)).expect("new");
    assert_eq!(names(&list), ["A", "A/B", "C"]);

    assert!(matches!(list.rename(&[b"A"], &[b"A", b"x"]), Err(NodeError::IntoItself)));
    assert!(matches!(list.rename(&[b"A"], &[b"C"]), Err(NodeError::Exists)));
    list.rename(&[b"C"], &[b"D", b"E", b"F"]).expect("free");
    list.rename(&[b"A"], &[b"D", b"A"]).expect("free");
    assert_eq!(names(&list), ["D/", "D/A", "D/A/B", "D/E/", "D/E/F"]);

    assert!(!list.delete(&[b"D", b"A"], Some(guid(2))).expect("there"), "it has a child");
    assert_eq!(names(&list), ["D/", "D/A/", "D/A/B", "D/E/", "D/E/F"]);
    assert!(matches!(list.delete(&[b"D", b"A"], None), Err(NodeError::HasChildren)));
    assert!(matches!(list.delete(&[b"D", b"A", b"B"], Some(guid(9))), Err(NodeError::NotFound)));
    assert!(list.delete(&[b"D", b"A", b"B"], Some(guid(1))).expect("there"));
    list.rename(&[b"D", b"E", b"F"], &[b"G"]).expect("free");
    assert_eq!(names(&list), ["D/", "D/A/", "G"], "the former parent that is empty is gone");

    // Another process sees the same, and a node keeps its number and identity through all of it.
    let other = ListIndex::open(Files::new(dir.path(), Files::LIST), options()).expect("opens").expect("is there");
    assert_eq!(names(&other), names(&list));
    let g = other.nodes().expect("readable").into_iter().find(|n| n.name == b"G").expect("is there");
    assert_eq!((g.guid, g.uidvalidity, g.selectable), (Some(guid(3)), Some(validity(9)), true));
}

#[test]
fn a_cache_forgets_what_is_gone() {
    let dir = tempfile::tempdir().expect("scratch");
    let mut list = open(dir.path());
    list.create(&[b"A", b"B"], guid(1), validity(7)).expect("new");
    list.create(&[b"A"], guid(2), validity(8)).expect("new");
    list.forget(&[b"A"], false).expect("there");
    assert_eq!(names(&list), ["A/", "A/B"]);
    assert!(list.nodes().expect("readable").iter().any(|n| n.name == b"A" && !n.selectable));
    list.forget(&[b"A", b"B"], false).expect("there");
    list.forget(&[b"Nope"], false).expect("nothing to do");
    assert_eq!(names(&list), ["A/"]);
}

#[test]
fn the_refresh_flag_is_set_once() {
    let dir = tempfile::tempdir().expect("scratch");
    let mut list = open(dir.path());
    list.create(&[b"A"], guid(1), validity(7)).expect("new");
    let size = || std::fs::metadata(dir.path().join("dovecot.list.index.log")).expect("stat").len();
    let before = size();
    list.request_refresh().expect("set");
    let after = size();
    assert!(after > before);
    list.request_refresh().expect("nothing to do");
    assert_eq!(size(), after);
    assert_eq!(names(&list), ["A"]);
}

#[test]
fn hostile_headers_are_damage() {
    for header in [&b"\0\x01\0\0\0"[..], b"\0\x01\0\0\0name", b"\0\x02\0\0\0a\0\x01\0\0\0b\0", b"\0\x01\0\0\0\0\0"] {
        assert!(NameTable::parse(header).is_err(), "{header:?}");
    }
    assert!(NameTable::parse(b"").is_ok());
    assert!(NameTable::parse(b"\0\0\0").is_ok());
}

#[test]
fn loops_and_orphans_are_damage() {
    let node = |uid: u32, parent: u32| Node {
        uid: Uid::new(uid).expect("not zero"),
        parent: Uid::new(parent),
        name: vec![b'x'],
        guid: None,
        uidvalidity: None,
        selectable: true,
    };
    assert!(in_order(vec![node(1, 2), node(2, 1)]).is_err());
    assert!(in_order(vec![node(1, 9)]).is_err());
    assert_eq!(in_order(vec![node(1, 2), node(2, 0)]).map(|v| v[0].uid.get()), Ok(2));
}

#[test]
fn dovecot_s_own_lists() {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/list/list-index.json")).expect("is JSON");
    for name in ["backing", "layout-index"] {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/list").join(name);
        let list = ListIndex::open(Files::new(dir, Files::LIST), options()).expect("readable").expect("is there");
        let paths = list.paths('/').expect("readable");
        let theirs = all[name].as_array().expect("list");
        assert_eq!(paths.len(), theirs.len());
        for node in theirs {
            let path = node["path"].as_str().expect("text").as_bytes();
            let (_, ours) = paths.iter().find(|(p, _)| p == path).expect("is there");
            assert_eq!(u64::from(ours.uid.get()), node["uid"].as_u64().expect("number"));
            assert_eq!(ours.parent.map_or(0, Uid::get), u32::try_from(node["parent_uid"].as_u64().expect("n")).expect("32 bits"));
            let guid = ours.guid.map_or_else(|| "0".repeat(32), |g| g.to_string());
            assert_eq!(Some(guid.as_str()), node["guid"].as_str());
            assert_eq!(ours.uidvalidity.map_or(0, UidValidity::get), node["uid_validity"].as_u64().expect("n") as u32);
            assert_eq!(ours.selectable, node["flags"].as_u64().expect("n") & 0x14 == 0);
        }
    }
}
