//! Beside a Dovecot that saves, copies, expunges, reads and purges all the time.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dsync::mail::{Body, Class, Edit, EditKind, Flags, ModSeq, NewMail, Original};
use dsync::store::Settings;
use dsync::store::format::Format;

use crate::common::{self, keywords, new_mail, place};
use crate::judge::{After, check};
use crate::lab::{Lab, have_dovecot};

/// How long both are at work.
const TIME: Duration = Duration::from_secs(4);

/// Dovecot's part: shell commands in a loop until the file `stop` is there. Prints every answer that is an error.
const LOOP: &str = r#"
n=0
while [ ! -e "$STOP" ]; do
  n=$((n+1))
  printf 'From: d@example.org\nSubject: dovecot %s %s\n\n%s\n' $1 $n "$(seq 1 $((n % 200)))" | $D save -m INBOX || echo "save: $?"
  $D copy Copies mailbox INBOX uid "$((n % 7 + 1)):$((n % 7 + 3))" || echo "copy: $?"
  $D expunge mailbox INBOX uid "$n" || echo "expunge: $?"
  $D expunge mailbox Copies uid "$((n*2)):$((n*2+1))" || echo "expunge: $?"
  $D flags add '\Flagged Dovecot' mailbox INBOX uid '1:*' || echo "flags: $?"
  $D fetch 'uid text' mailbox '*' all >/dev/null || echo "fetch: $?"
  [ $((n % 4)) = 0 ] && { $D purge || echo "purge: $?"; }
done
"#;

fn start(lab: &Lab, name: &str, stop: &std::path::Path) -> std::process::Child {
    Command::new("sh")
        .args(["-c", LOOP, "loop", name])
        .env("STOP", stop)
        .env("D", format!("doveadm -c {}", lab.path().join("dovecot.conf").display()))
        .env("USER", "u1")
        .env("HOME", lab.path().join("home"))
        .current_dir("/")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a shell")
}

/// What may happen because a mail went while we were at it; the next round sees it.
fn is_ordinary(e: &dsync::mail::Error) -> bool {
    e.class() == Class::Expunged || e.to_string().contains("was removed")
}

/// One round of what a sync does. Gives how many mails it saved.
fn round(lab: &Lab, n: u32, format: &mut dsync::store::mdbox::Mdbox) -> Result<usize, dsync::mail::Error> {
    let name = if n.is_multiple_of(2) { "INBOX" } else { "Copies" };
    let mut mailbox = format.open(&place(&lab.root(), name))?;
    let uids: Vec<_> = mailbox.mails().iter().map(|m| m.uid).collect();
    let next = mailbox.status().identity.uid_next.get();
    for (i, &uid) in uids.iter().enumerate() {
        match mailbox.facts(uid).and_then(|_| mailbox.body(uid)) {
            Ok(body) => {
                let text = common::read(body);
                assert!(text.starts_with(b"From: "), "{:?}", String::from_utf8_lossy(&text));
            }
            Err(e) if is_ordinary(&e) => {}
            Err(e) => return Err(e),
        }
        if i == uids.len() / 2 && i > 2 {
            let facts = mailbox.facts(uid)?;
            let mail = NewMail { guid: mailbox.guid(uid)?, received: facts.received, ..new_mail(next + 50, "x") };
            let original = if n.is_multiple_of(3) { Original::Keep } else { Original::Expunge };
            match mailbox.stage_copy(mail, uid, original) {
                Err(dsync::mail::SaveError::Store(e)) => return Err(e),
                Err(e) => panic!("{e}"),
                Ok(()) => {}
            }
        }
    }
    for i in 0..3 {
        let mut mail = new_mail(next + i * 2, &format!("{:032x}", n * 8 + i));
        mail.keywords = keywords(&["Ours"]);
        let body = Body::from_bytes(format!("From: o@example.org\nSubject: ours {n} {i}\n\n{}\n", "y".repeat(n as usize % 500)));
        mailbox.stage(mail, body).expect("staged");
    }
    let saved = mailbox.commit(dsync::mail::Uid::LAST)?.saved.len();
    mailbox.refresh()?;
    let flags = EditKind::Flags {
        add: Flags::SEEN,
        remove: Flags::FLAGGED,
        add_keywords: keywords(&["Both"]),
        remove_keywords: keywords(&["Dovecot"]),
        modseq: ModSeq(u64::from(n)),
    };
    let mails = mailbox.mails();
    let mut edits: Vec<Edit> = mails.iter().take(2).map(|m| Edit { uid: m.uid, expect: None, kind: EditKind::Expunge }).collect();
    edits.extend(mails.iter().skip(3).step_by(3).map(|m| Edit { uid: m.uid, expect: None, kind: flags.clone() }));
    mailbox.edit(&edits)?;
    if n.is_multiple_of(5) {
        format.purge()?;
    }
    Ok(saved)
}

#[test]
fn nobody_is_disturbed() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    lab.save("INBOX", b"From: x\n\nx\n");
    lab.doveadm(&["mailbox", "create", "Copies"]);
    let stop = lab.path().join("stop");
    let children = [start(&lab, "a", &stop), start(&lab, "b", &stop)];
    let stopped = AtomicBool::new(false);
    let begin = Instant::now();
    let ours = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2u32)
            .map(|t| {
                let (lab, stopped) = (&lab, &stopped);
                scope.spawn(move || {
                    let (mut n, mut saved) = (t, 0);
                    let mut format = common::begin(&lab.root(), &Settings::default()).expect("sound");
                    while !stopped.load(Ordering::Relaxed) {
                        match round(lab, n, &mut format) {
                            Ok(count) => saved += count,
                            Err(e) if is_ordinary(&e) => {}
                            Err(e) => panic!("round {n}: {e}"),
                        }
                        n += 2;
                    }
                    saved
                })
            })
            .collect();
        while begin.elapsed() < TIME && threads.iter().all(|t| !t.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
        }
        stopped.store(true, Ordering::Relaxed);
        std::fs::write(&stop, b"").expect("written");
        threads.into_iter().map(|t| t.join()).collect::<Vec<_>>()
    });
    for child in children {
        let out = child.wait_with_output().expect("ends");
        assert_eq!(String::from_utf8_lossy(&out.stdout), "", "{}", lab.log());
    }
    let saved: Vec<usize> = ours.into_iter().map(|r| r.expect("no panic")).collect();
    assert!(saved.iter().all(|&n| n > 10), "{saved:?}");
    lab.silent();
    check(&lab, After::Calm);
    lab.doveadm(&["purge"]);
    check(&lab, After::Calm);
}
