//! The inputs that once did harm, and the seeds, as ordinary tests.

use std::path::{Path, PathBuf};

use super::disk::join;
use super::{DOORS, door};
use crate::sync::{Mode, Source};

/// `tests/fuzz/kept/TARGET/`: minimized inputs that made a parser panic, hang, or eat memory.
#[test]
fn what_did_harm_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/kept");
    let targets = std::fs::read_dir(root).expect("the kept inputs").flatten();
    for target in targets.filter(|t| t.file_type().is_ok_and(|kind| kind.is_dir())) {
        let name = target.file_name().into_string().expect("a target");
        if name.starts_with('.') {
            continue;
        }
        let door = door(&name).unwrap_or_else(|| panic!("{name} is no target"));
        for input in std::fs::read_dir(target.path()).expect("readable").flatten() {
            eprintln!("{}", input.path().display());
            door(&std::fs::read(input.path()).expect("readable"));
        }
    }
}

/// Every target reads its seeds. `FUZZ_SEEDS=DIR` writes them for the fuzzer.
#[test]
fn every_target_has_seeds_and_reads_them() {
    let to = std::env::var_os("FUZZ_SEEDS").map(PathBuf::from);
    let decoders = ["gz", "bz2", "xz", "lz4", "zstd"];
    for name in DOORS.iter().map(|d| d.0).chain(decoders) {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (n, seed) in seeds.iter().enumerate() {
            door(name).expect("a target")(seed);
            if let Some(to) = &to {
                std::fs::create_dir_all(to.join(name)).expect("a directory");
                std::fs::write(to.join(name).join(format!("seed-{n}")), seed).expect("a file");
            }
        }
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The fixtures whose path the function wants, as far as they are small.
fn files(wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let (mut out, mut todo) = (Vec::new(), vec![fixtures()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).expect("readable").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("readable"));
            if kind.is_dir() {
                todo.push(path);
            } else if kind.is_file() && wanted(&path) && entry.metadata().is_ok_and(|m| m.len() <= 32 << 10) {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

fn named(ends: &[&str]) -> Vec<Vec<u8>> {
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files(|p| ends.iter().any(|e| name(p) == *e || e.starts_with('*') && name(p).ends_with(&e[1..])))
        .iter()
        .map(|p| read(p))
        .collect()
}

/// The index files of every directory that has some of this stem, and something behind them.
fn indexes(stem: &str, behind: &dyn Fn(&Path) -> Vec<u8>) -> Vec<Vec<u8>> {
    let log = format!("{stem}.log");
    let one = |path: PathBuf| {
        let dir = path.parent().expect("in a directory").to_owned();
        let part = |end: &str| read(&dir.join(format!("{stem}{end}")));
        join(&[&part(""), &part(".log"), &part(".log.2"), &behind(&dir)])
    };
    files(|p| p.file_name().is_some_and(|n| *n == *log)).into_iter().map(one).collect()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}

/// Recorded streams of Dovecots, those that are not long.
fn captured(wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let packed = include_bytes!("../../tests/fixtures/wire/captures.zst");
    let mut rest = &zstd::decode_all(&packed[..]).expect("our own file")[..];
    let mut out = Vec::new();
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let line = std::str::from_utf8(&rest[..end]).expect("a name and a size");
        let (name, size) = line.split_once(' ').expect("a name and a size");
        let (file, next) = rest[end + 1..].split_at(size.parse().expect("a size"));
        if name.ends_with(".bin") && file.len() <= 16 << 10 && wanted(name) {
            out.push(file.to_vec());
        }
        rest = next;
    }
    out
}

/// The number of a mode, and both directions.
fn own_sessions() -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let (m, s) = (Source::Master, Source::Slave);
    let modes = [Mode::TwoWay, Mode::OneWay(m), Mode::OneWay(s), Mode::Backup(m), Mode::Backup(s)];
    let session = |(n, mode)| {
        let (up, down) = crate::sync::dovecot::fuzz::own_session(mode).expect("pipes");
        (n, up, down)
    };
    [0, 2, 3, 4, 5].into_iter().zip(modes).map(session).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "snapshot" => named(&["dovecot.index", "dovecot.map.index", "dovecot.list.index"]),
        "log" => named(&["*.log", "*.log.2"]).into_iter().filter(|b| b.first() == Some(&1)).collect(),
        "records" => vec![vec![0, 2, 1, 0, 0, 0, 0, 0, 0, 0], vec![1, 0x42, 1, 0, 0, 0, 1, 0, 0, 0]],
        "index_files" => indexes("dovecot.index", &|dir| read(&dir.join("dovecot.index.cache"))),
        "list_index" => indexes("dovecot.list.index", &|_| Vec::new()),
        "mdbox_storage" => indexes("dovecot.map.index", &|dir| read(&dir.join("m.1"))),
        "cache" => {
            let offset = |b: Vec<u8>| [&[32, 0, 0, 0, 64, 0, 0, 0], &b[..]].concat();
            named(&["*.cache"]).into_iter().map(offset).collect()
        }
        "mailbox_log" => named(&["dovecot.mailbox.log", "dovecot.mailbox.log.2"]),
        "uidlist" => {
            let mut all = named(&["dovecot-uidlist"]);
            all.extend(texts(&[
                "3 V5 N3 G0123456789abcdef0123456789abcdef\n1 W5 S4 P :1.M2P3.host\n2 Gx :name,S=5:2,FS\n",
                "1 5 3\n1 name\n2 other:2,S\n",
            ]));
            all
        }
        "keywords" => texts(&["0 $Forwarded\n1 NonJunk\n25 z\n"]),
        "maildir_name" => texts(&["1583.M5P6.host,S=10,W=12:2,FSab/1583.M6P6.host:2,", "x:2,DFRST,foreign/y"]),
        "line_ends" => texts(&["\u{5}From: a\r\n\rb\n\n\r"]),
        "dbox_file" => files(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(['u', 'm'])))
            .iter()
            .map(|p| read(p))
            .filter(|b| b.starts_with(b"2 ") || b.starts_with(b"1 "))
            .collect(),
        "dbox_external" => texts(&["100 200 B76C aa/bb/aabb-cc", "1 2 - aa/bb/cc 5 6 B4 aa/bb/dd"]),
        "subscriptions" => {
            let mut all = named(&["subscriptions"]);
            all.extend(texts(&["V\t2\n\nA\tB\nC\u{1}tD\n", "A/B\nC\n"]));
            all
        }
        "attributes" => texts(&["priv/555aa535b526026b3d36000083ecc375/comment\nhello\u{1}n\n"]),
        "config" => named(&["*.conf"]).into_iter().map(|b| join(&[&b, b"mail_location=sdbox:~/m\n"])).collect(),
        "variables" => texts(&[
            "%u %{user} %Ld %1.2n %{home} %{if;%u;eq;x;yes;no}",
            "%{pkcs5;salt=x,rounds=10:user} %{md5:user} %{userdb:quota} %16Hu %{sha1;rounds=2,truncate=8:user}",
        ]),
        "location" => texts(&[
            "maildir:~/Maildir:INBOX=~/in:LAYOUT=fs:UTF-8",
            "mdbox:/m:INDEX=/i:CONTROL=/c:ALT=/a:VOLATILEDIR=/v:DIRNAME=x:SUBSCRIPTIONS=s:ITERINDEX",
            "sdbox:/m::x:INDEXPVT=/p:NO-NOSELECT:BROKENCHAR=%:FULLDIRNAME=y:LISTINDEX=/x",
        ]),
        "state" => texts(&["RFNUAAAAAAA=", "AAAAAA==", "a record of forty-four bytes is needed here.."]),
        "names" => texts(&["aA/B", "b&AOQ-rger/x", "c.A.B", "dA%2fB", "eINBOX/Sub", "\u{73}Pre/A\\2eB"]),
        "items" => captured(|_| true),
        "server" => {
            let mut all = captured(|name| name.ends_with("client-to-server.bin"));
            all.extend(own_sessions().into_iter().map(|s| s.1));
            all
        }
        "client" => {
            let said = captured(|name| name.ends_with("server-to-client.bin"));
            let dovecots = said.iter().enumerate().map(|(n, said)| [&[n as u8 % 6], &said[..]].concat());
            dovecots.chain(own_sessions().into_iter().map(|s| [&[s.0], &s.2[..]].concat())).collect()
        }
        "header" => texts(&["Date Message-ID\nDate: x\n y\r\nSubject: z\nMessage-ID: <\u{fc}>\n\nbody\n"]),
        "gz" | "bz2" | "xz" | "lz4" | "zstd" => crate::store::decode::tests::compressed(target),
        _ => Vec::new(),
    }
}
