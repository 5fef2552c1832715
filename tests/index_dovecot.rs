//! What the index room writes, judged by a real Dovecot: it reads it without a line in its log, and we read what it writes.
//!
//! The mailboxes are sdbox, whose flags live in the index only; a "new mail" is a copy of another mail's file.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use dsync::index::{
    Bits, CacheEntry, CacheField, Durability, ExtSpec, Files, Index, Options, Settings, Transaction, cached_number,
};
use dsync::mail::{Flags, Guid128, Keyword, ModSeq, Timestamp, Uid, UidValidity};
use dsync::os::LockMethod;
use dsync::os::fs::Modes;

const OWNER: u32 = 1000;
const IMAP: &str = "/usr/lib/dovecot/imap";

struct Lab {
    root: tempfile::TempDir,
    lock_method: LockMethod,
}

impl Lab {
    /// A user with an sdbox that has `mails` mails; `None` where there is no Dovecot.
    fn new(mails: usize, lock_method: LockMethod) -> Option<Self> {
        let there = Command::new("doveadm").arg("help").output().is_ok();
        if !there || !Path::new(IMAP).exists() {
            eprintln!("skipped: no Dovecot here");
            return None;
        }
        let root = tempfile::Builder::new().prefix("dsync-index-").tempdir().expect("scratch directory");
        let dir = root.path().display();
        let method = match lock_method {
            LockMethod::Fcntl => "fcntl",
            LockMethod::Flock => "flock",
            LockMethod::Dotlock => "dotlock",
        };
        let me = std::fs::metadata(root.path()).expect("just made").uid();
        let owner = if me == 0 { OWNER } else { me };
        let conf = format!(
            "base_dir = {dir}/run\nstate_dir = {dir}/run\nlog_path = {dir}/dovecot.log\ninfo_log_path = {dir}/info.log\n\
             ssl = no\nfirst_valid_uid = 1\nfirst_valid_gid = 1\nmail_uid = {owner}\nmail_gid = {owner}\nmail_home = {dir}/home\n\
             mail_location = sdbox:~/mail\nlock_method = {method}\nnamespace inbox {{\n  inbox = yes\n  separator = /\n}}\n"
        );
        std::fs::write(root.path().join("dovecot.conf"), conf).expect("room");
        std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("own");
        for sub in ["run", "home"] {
            let path = root.path().join(sub);
            std::fs::create_dir(&path).expect("room");
            let _ = chown(&path, Some(owner), Some(owner));
        }
        let lab = Self { root, lock_method };
        for n in 1..=mails {
            lab.doveadm_with(&["save", "-m", "INBOX"], format!("Subject: mail {n}\n\ntext {n}\n").as_bytes());
        }
        Some(lab)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.root.path().join("dovecot.conf"))
            .env("USER", "u1")
            .env("HOME", self.root.path().join("home"))
            .current_dir("/");
        command
    }

    fn doveadm_with(&self, args: &[&str], input: &[u8]) -> String {
        let mut command = self.command("doveadm");
        let mut child =
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("there");
        child.stdin.take().expect("piped").write_all(input).expect("it reads");
        let out = child.wait_with_output().expect("it ends");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn doveadm(&self, args: &[&str]) -> String {
        self.doveadm_with(args, b"")
    }

    /// Rows of the wanted fields of all mails.
    fn fetch(&self, fields: &str) -> Vec<Vec<String>> {
        let out = self.doveadm(&["-f", "tab", "fetch", fields, "mailbox", "INBOX", "all"]);
        out.lines().skip(1).map(|l| l.split('\t').map(str::to_owned).collect()).collect()
    }

    fn status(&self, field: &str) -> String {
        let out = self.doveadm(&["-f", "tab", "mailbox", "status", field, "INBOX"]);
        out.lines().nth(1).and_then(|l| l.split('\t').nth(1)).unwrap_or_default().to_owned()
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("home/mail/mailboxes/INBOX/dbox-Mails")
    }

    fn open(&self) -> Index {
        let modes = Modes::like(&std::fs::metadata(self.dir()).expect("Dovecot made it"));
        let settings = Settings { lock_method: self.lock_method, ..Settings::default() };
        Index::open(Files::new(self.dir(), Files::MAILBOX), Options { backup: true, ..Options::new(settings, modes) })
            .expect("Dovecot's index")
    }

    /// Puts the file of a mail that does not exist yet in place.
    fn file_for(&self, uid: u32) {
        let (from, to) = (self.dir().join("u.1"), self.dir().join(format!("u.{uid}")));
        std::fs::copy(&from, &to).expect("room");
        let like = std::fs::metadata(&from).expect("is there");
        let _ = chown(&to, Some(like.uid()), Some(like.gid()));
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.root.path().join("dovecot.log")).unwrap_or_default();
        text.lines().filter(|l| !l.contains("chdir(")).collect::<Vec<_>>().join("\n")
    }

    fn session(&self) -> Session {
        let mut child =
            self.command(IMAP).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("there");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut session = Session { child, input: Some(input), output, tag: 0 };
        let mut greeting = String::new();
        session.output.read_line(&mut greeting).expect("it greets");
        assert!(greeting.contains("PREAUTH"), "{greeting}");
        session
    }
}

/// A live IMAP session.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    tag: usize,
}

impl Session {
    /// Untagged lines and the final one; nothing if the session is gone.
    fn try_ask(&mut self, line: &str) -> Option<(Vec<String>, String)> {
        self.tag += 1;
        let tag = format!("t{} ", self.tag);
        writeln!(self.input.as_mut()?, "{tag}{line}\r").ok()?;
        let mut lines = Vec::new();
        loop {
            let mut reply = String::new();
            if self.output.read_line(&mut reply).ok()? == 0 {
                return None;
            }
            let reply = reply.trim_end().to_owned();
            match reply.strip_prefix(&tag) {
                Some(result) => return Some((lines, result.to_owned())),
                None => lines.push(reply),
            }
        }
    }

    fn ask(&mut self, line: &str) -> Vec<String> {
        let (lines, result) = self.try_ask(line).unwrap_or_else(|| panic!("{line}: the session died"));
        assert!(result.starts_with("OK"), "{line}: {result}");
        lines
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

fn uid(n: u32) -> Uid {
    Uid::new(n).expect("not 0")
}

/// Flags, keywords and modseq of each mail as our reader sees them, in the words of `doveadm fetch`.
fn ours(index: &Index) -> Vec<Vec<String>> {
    let s = index.state();
    let mail = |row: usize| {
        let flags = format!("{:?}", s.flags(row));
        let mut words: Vec<String> = flags.trim_matches(['(', ')']).split_whitespace().map(str::to_owned).collect();
        words.extend(s.keywords(row).iter().map(|k| k.as_str().to_owned()));
        words.sort();
        vec![s.uid(row).to_string(), words.join(" "), s.modseq(row).to_string()]
    };
    (0..s.len()).map(mail).collect()
}

fn theirs(lab: &Lab) -> Vec<Vec<String>> {
    let mut rows = lab.fetch("uid flags modseq");
    for row in &mut rows {
        let mut words: Vec<&str> = row[1].split_whitespace().filter(|f| *f != "\\Recent").collect();
        words.sort_unstable();
        row[1] = words.join(" ");
    }
    rows
}

#[test]
fn dovecot_reads_what_we_write() {
    for method in [LockMethod::Fcntl, LockMethod::Flock, LockMethod::Dotlock] {
        let Some(lab) = Lab::new(4, method) else { return };
        let mut index = lab.open();
        let mut session = lab.session();
        session.ask("SELECT INBOX");

        let mut on = Transaction::new(Bits::INTERNAL);
        on.keep_modseqs();
        let mut save = Transaction::new(Bits::EXTERNAL_SYNC);
        for n in [10, 11, 12, 20] {
            lab.file_for(n);
            save.append(uid(n), Flags::SEEN.bits());
            save.keyword(uid(n), &Keyword::new("$Imported"), true);
            save.modseq(uid(n), ModSeq(1000 + u64::from(n)));
        }
        save.keyword(uid(11), &Keyword::new("second"), true);
        save.next_uid(uid(30));
        save.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &20u32.to_le_bytes());
        let mut locked = index.lock().expect("free");
        let entries = [10, 11].map(|n| CacheEntry { uid: uid(n), saved: Some(Timestamp(1_500_000_000 + n)), guid: None });
        for (uid, offset) in locked.cache(&entries).expect("room") {
            save.cache_offset(uid, offset);
        }
        locked.commit_all(&[on, save], Durability::Mail).expect("room");
        let mut edit = Transaction::new(Bits::INTERNAL_SYNC);
        edit.flags(uid(1), Flags::FLAGGED, Flags::NONE);
        edit.keyword(uid(2), &Keyword::new("SECOND"), true);
        edit.modseq(uid(1), ModSeq(5000));
        edit.expunge(uid(3), Guid128([7; 16]));
        locked.commit(&edit, Durability::Lazy).expect("room");
        let mut raise = Transaction::new(Bits::INTERNAL);
        raise.raise_modseq(ModSeq(7000));
        locked.commit(&raise, Durability::Lazy).expect("room");
        drop(locked);
        assert_eq!(index.state().highest_modseq(), ModSeq(7000));

        let seen = session.ask("NOOP");
        assert!(seen.iter().any(|l| l == "* 7 EXISTS") || seen.iter().any(|l| l == "* 8 EXISTS"), "{seen:?}");
        let rows = theirs(&lab);
        index.refresh().expect("valid");
        assert_eq!(ours(&index), rows, "{method:?}");
        assert!(!lab.dir().join("u.3").exists(), "the request was carried out");
        assert_eq!(index.state().row(uid(3)), None);
        assert_eq!((lab.status("uidnext"), rows[0][2].as_str()), ("30".into(), "5000"));
        assert!(rows.iter().any(|r| r[0] == "20" && r[1] == "$Imported \\Seen" && r[2] == "1020"), "{rows:?}");
        let saved: BTreeMap<String, String> =
            lab.fetch("uid date.saved.unixtime").into_iter().map(|r| (r[0].clone(), r[1].clone())).collect();
        assert_eq!((saved["10"].as_str(), saved["11"].as_str()), ("1500000010", "1500000011"));

        // Our snapshot and our rotation, under the nose of the session.
        index.lock().expect("free").write_snapshot().expect("room");
        assert_eq!(ours(&index), theirs(&lab));
        session.ask("UID STORE 1 +FLAGS (\\Answered mine)");
        index.lock().expect("free").rotate().expect("room");
        assert_eq!(ours(&index), theirs(&lab));
        session.ask("UID STORE 2 +FLAGS (\\Draft)");
        session.ask("NOOP");
        lab.doveadm(&["flags", "remove", "mine", "mailbox", "INBOX", "uid", "1"]);
        index.refresh().expect("valid");
        assert_eq!(ours(&index), theirs(&lab));
        let cache = index.cache().expect("readable").expect("valid");
        let mut dates = 0;
        cache
            .read(index.state(), 0..index.state().len(), &[CacheField::Saved], |row, _, data| {
                dates += u32::from(index.state().uid(row) == uid(10) && cached_number(data) == 1_500_000_010);
            })
            .expect("readable");
        assert_eq!(dates, 1);
        drop(session);
        lab.doveadm(&["index", "INBOX"]);
        assert_eq!(lab.log(), "", "{method:?}");
    }
}

#[test]
fn an_incomplete_tail_is_cut_before_dovecot_trips_over_it() {
    let Some(lab) = Lab::new(2, LockMethod::Fcntl) else { return };
    let mut index = lab.open();
    let log = lab.dir().join("dovecot.index.log");
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).expect("is there");
    file.write_all(&[0x80, 0x80, 0x80, 0x90, 2, 0, 0, 0x10, 9, 0, 0]).expect("room");
    let mut t = Transaction::new(Bits::INTERNAL);
    t.flags(uid(1), Flags::FLAGGED, Flags::NONE);
    index.lock().expect("free").commit(&t, Durability::Lazy).expect("room");
    assert_eq!(theirs(&lab), ours(&index));
    lab.doveadm(&["flags", "add", "\\Seen", "mailbox", "INBOX", "all"]);
    assert_eq!(lab.log(), "");
}

#[test]
fn many_writers_beside_live_sessions() {
    for method in [LockMethod::Fcntl, LockMethod::Dotlock] {
        let Some(lab) = Lab::new(6, method) else { return };
        lab.doveadm(&["fetch", "modseq", "mailbox", "INBOX", "all"]);
        std::thread::scope(|s| {
            for writer in 0..2u32 {
                let lab = &lab;
                s.spawn(move || {
                    let mut index = lab.open();
                    for n in 0..60u32 {
                        let mut t = Transaction::new(if n % 2 == 0 { Bits::INTERNAL_SYNC } else { Bits::EXTERNAL_SYNC });
                        let mut locked = index.lock().expect("in time");
                        if n % 10 == 9 {
                            let new = locked.state().next_uid();
                            lab.file_for(new.get());
                            t.append(new, 0);
                        } else {
                            t.keyword(uid(1 + n % 6), &Keyword::new(&format!("w{writer}-{}", n % 7)), n % 3 != 0);
                            t.flags(uid(1 + n % 6), Flags::FLAGGED, Flags::SEEN);
                        }
                        locked.commit(&t, Durability::Lazy).expect("room");
                        match n % 15 {
                            4 => locked.write_snapshot().expect("room"),
                            14 if locked.state().is_synced() => locked.rotate().expect("room"),
                            _ => locked.maintain().expect("room"),
                        }
                    }
                });
            }
            s.spawn(|| {
                let mut session = lab.session();
                session.ask("SELECT INBOX (CONDSTORE)");
                for n in 0..80 {
                    session.ask(&format!(
                        "UID STORE {} {}FLAGS (\\Seen s{})",
                        1 + n % 6,
                        if n % 2 == 0 { '+' } else { '-' },
                        n % 5
                    ));
                    session.ask("NOOP");
                }
            });
            s.spawn(|| {
                for _ in 0..6 {
                    lab.doveadm(&["flags", "add", "doveadm", "mailbox", "INBOX", "uid", "1:3"]);
                    lab.doveadm(&["flags", "remove", "doveadm", "mailbox", "INBOX", "uid", "1:3"]);
                }
            });
        });
        assert_eq!(lab.log(), "", "{method:?}");
        let index = lab.open();
        assert_eq!(ours(&index), theirs(&lab), "{method:?}");
        assert_eq!(index.state().len(), 18);
    }
}

#[test]
fn a_new_beginning_under_a_live_session() {
    let Some(lab) = Lab::new(5, LockMethod::Fcntl) else { return };
    lab.doveadm(&["fetch", "modseq", "mailbox", "INBOX", "all"]);
    let (mut reader, mut writer) = (lab.session(), lab.session());
    reader.ask("SELECT INBOX");
    writer.ask("SELECT INBOX");
    let mut index = lab.open();
    let guid = lab.status("guid");
    let s = index.state();
    let header = s.ext_header(s.ext("dbox-hdr").expect("an sdbox")).to_vec();
    let validity = s.uid_validity().expect("set");
    let keep: Vec<(u32, ModSeq)> = [1u32, 2, 4].iter().map(|&n| (n, s.modseq(s.row(uid(n)).expect("there")))).collect();

    let mut first = Transaction::new(Bits::EXTERNAL);
    first.ext_header(ExtSpec::header("dbox-hdr", 24), 0, &header);
    first.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &[0; 4]);
    first.uid_validity(validity);
    let mut on = Transaction::new(Bits::INTERNAL);
    on.keep_modseqs();
    let mut mails = Transaction::new(Bits::EXTERNAL_SYNC);
    for (n, modseq) in &keep {
        mails.append(uid(*n), Flags::FLAGGED.bits());
        mails.modseq(uid(*n), *modseq);
    }
    mails.next_uid(uid(5));
    index.lock().expect("free").reset(&[first, on, mails]).expect("room");
    assert_eq!(ours(&index), theirs(&lab));
    assert_eq!((lab.status("uidnext"), lab.status("guid")), ("5".into(), guid));
    assert_eq!(lab.status("uidvalidity"), UidValidity::get(validity).to_string());

    // Sessions notice: they say BYE, for the client to come back. A STORE that was under way names UIDs, and meets the mails
    // that have them now.
    for (session, line) in [(&mut reader, "NOOP"), (&mut writer, "UID STORE 2:4 +FLAGS (\\Deleted)")] {
        if session.try_ask(line).is_some()
            && let Some((lines, _)) = session.try_ask("UID FETCH 1:* (FLAGS)")
        {
            assert_eq!(lines.iter().filter(|l| l.contains("\\Flagged")).count(), 3, "{lines:?}");
        }
    }
    drop((reader, writer));
    index.refresh().expect("valid");
    assert_eq!(theirs(&lab), ours(&index));
    assert_eq!(index.state().uids(), [1, 2, 4]);
    lab.doveadm(&["flags", "add", "\\Seen", "mailbox", "INBOX", "all"]);
    index.refresh().expect("valid");
    assert_eq!(ours(&index), theirs(&lab));
    assert_eq!(lab.log(), "");
}
