"""Makes Maildirs that look like real ones: few large mails and many small ones, flags, keywords, folders.

The same arguments give the same files, names and times everywhere.
"""
import base64
import os
import random

WORDS = ("the meeting invoice release review server backup mailbox please attached regards deadline budget contract branch "
         "failure disk network order ticket reply summary draft tomorrow agenda Grüße naïve résumé привет 会議").split()
PEOPLE = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"]
EPOCH = 1_600_000_000


def lines(r, size):
    out, n = [], 0
    while n < size:
        line = " ".join(r.choice(WORDS) for _ in range(r.randint(3, 12)))
        out.append(line)
        n += len(line.encode()) + 1
    return "\n".join(out).encode()[:size] + b"\n"


def message(r, n, size):
    """A mail of about this many bytes."""
    who, to = r.choice(PEOPLE), r.choice(PEOPLE)
    head = (f"Return-Path: <{who}@example.org>\nDelivered-To: {to}@example.org\n"
            f"Received: from relay{n % 5}.example.org (relay [192.0.2.{n % 250}])\n\tby mx1.example.org (Postfix) with ESMTP\n"
            f"From: {who}@example.org\nTo: {to}@example.org\nSubject: {r.choice(WORDS)} {n}\n"
            f"Message-ID: <{n}.{r.getrandbits(48):x}@example.org>\nDate: Mon, 21 Sep 2020 09:40:30 +0100\nMIME-Version: 1.0\n")
    if size < 20_000:
        return head.encode() + b"Content-Type: text/plain; charset=utf-8\n\n" + lines(r, max(200, size - len(head)))
    data = base64.encodebytes(r.randbytes(max(1000, (size - 3000) * 3 // 4)))
    return (head.encode() + b'Content-Type: multipart/mixed; boundary="=-x"\n\n--=-x\n\n' + lines(r, 1500)
            + b"--=-x\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n" + data + b"--=-x--\n")


def sizes(r, count, total):
    """Heavy-tailed, and of this sum."""
    raw = [r.lognormvariate(0, 1.6) for _ in range(count)]
    scale = total / sum(raw)
    return [max(500, int(x * scale)) for x in raw]


def folder_dir(root, n):
    return root if n == 0 else os.path.join(root, f".Box.{n:03d}")


def make(root, mails, folders, total, seed=1):
    """A Maildir++ tree."""
    r = random.Random(f"{seed}-{mails}-{folders}-{total}")
    for f in range(folders):
        for sub in ("cur", "new", "tmp"):
            os.makedirs(os.path.join(folder_dir(root, f), sub))
        if f:
            open(os.path.join(folder_dir(root, f), "maildirfolder"), "w").close()
            with open(os.path.join(folder_dir(root, f), "dovecot-keywords"), "w") as k:
                k.write("0 $Label1\n1 work\n")
    open(os.path.join(root, "dovecot-keywords"), "w").write("0 $Label1\n1 work\n")
    with open(os.path.join(root, "subscriptions"), "w") as s:
        s.writelines(f"Box.{f:03d}\n" for f in range(1, folders, 2))
    for n, size in enumerate(sizes(r, mails, total)):
        text = message(r, n, size)
        flags = "".join(x for x, p in (("F", .05), ("R", .2), ("S", .8), ("a", .1), ("b", .05)) if r.random() < p)
        put(folder_dir(root, n % folders), "cur", n, text, flags, EPOCH + n * 60)


def put(box, sub, n, text, flags, when, tag=""):
    crlf = len(text) + text.count(b"\n")
    path = os.path.join(box, sub, f"{when}.M{n}P1{tag}.mx1,S={len(text)},W={crlf}" + (f":2,{flags}" if sub == "cur" else ""))
    with open(path, "wb") as f:
        f.write(text)
    os.utime(path, (when, when))


def change(root, folders, flags, saves, expunges, seed):
    """What users do between two runs: flags, new mails, expunges, spread over the folders."""
    r = random.Random(f"change-{seed}")
    names = []
    for f in range(folders):
        cur = os.path.join(folder_dir(root, f), "cur")
        names += [(cur, name) for name in sorted(os.listdir(cur))]
    picked = r.sample(names, min(len(names), flags + expunges))
    for cur, name in picked[:flags]:
        base, _, info = name.partition(":2,")
        info = info.replace("F", "") if "F" in info else "".join(sorted(info + "F"))
        os.rename(os.path.join(cur, name), os.path.join(cur, f"{base}:2,{info}"))
    for cur, name in picked[flags:]:
        os.unlink(os.path.join(cur, name))
    for n in range(saves):
        put(folder_dir(root, r.randrange(folders)), "new", n, message(r, n, 2000 + n), "", 1_790_000_000 + n, f"_{seed}")
