#!/usr/bin/env python3
"""Times dsync, side by side with doveadm where that is installed (python3, nothing else).

  tests/bench/run.py                                    everything, in /var/tmp/dsync-bench
  tests/bench/run.py --only w1,w4 --scale 0.1 --runs 3  a quick look
  tests/bench/run.py --work /dev/shm/bench              software alone: flushes cost nothing there

Both programs get the same commands, in turns, from the same state; what counts is the ratio, the median of pair by pair:
below 1 dsync is faster. Times of different runs must not be compared. Every last result is looked at mail by mail.
"""
import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

import mail

HERE = os.path.dirname(os.path.abspath(__file__))
CONF = """log_path = /dev/stderr
first_valid_uid = 0
mail_uid = {uid}
mail_gid = {gid}
base_dir = {work}/run
state_dir = {work}/run
mail_home = {work}/home
mail_location = maildir:~/Maildir
namespace inbox {{
  inbox = yes
  prefix =
  separator = /
}}
"""


class Bench:
    def __init__(self, args):
        self.args, self.work = args, os.path.abspath(args.work)
        for d in ("run", "home", "live", "base"):
            os.makedirs(f"{self.work}/{d}", exist_ok=True)
        self.conf = f"{self.work}/dovecot.conf"
        uid, gid = (args.uid, args.gid) if os.getuid() == 0 else (os.getuid(), os.getgid())
        with open(self.conf, "w") as f:
            f.write(CONF.format(uid=uid, gid=gid, work=self.work))
        self.own = (lambda p: subprocess.check_call(["chown", "-R", f"{uid}:{gid}", p])) if os.getuid() == 0 else lambda p: None
        for d in ("run", "home", "live"):
            self.own(f"{self.work}/{d}")
        self.env = {"PATH": os.environ["PATH"], "LANG": "C", "TZ": "UTC", "USER": "bench", "HOME": f"{self.work}/home"}
        self.programs = {"dsync": os.path.abspath(args.dsync)}
        if doveadm := shutil.which(args.doveadm):
            self.programs["doveadm"] = doveadm
        else:
            print("no doveadm on this machine: absolute times only", file=sys.stderr)

    def n(self, count, least=1):
        return max(least, int(count * self.args.scale))

    def argv(self, program, location, *command):
        return [program, "-c", self.conf, "-o", f"mail_location={location}", *command]

    def call(self, who, location, *command):
        """Untimed. Gives what was printed."""
        r = subprocess.run(self.argv(self.programs[who], location, *command), env=self.env, capture_output=True)
        if r.returncode:
            raise SystemExit(f"{who} {command}: exit {r.returncode}: {r.stderr.decode()[-500:]}")
        return r.stdout.decode()

    def source(self, key, fmt, **kw):
        """A mailbox tree that has been in use: made once, never changed."""
        root = f"{self.work}/base/{key}-{self.args.scale:g}"
        if not os.path.exists(f"{root}/Maildir.ok"):
            shutil.rmtree(root, ignore_errors=True)
            mail.make(f"{root}/Maildir", **kw)
            self.own(root)
            self.call("dsync", f"mdbox:{root}/mdbox", "backup", "-R", f"maildir:{root}/Maildir")
            open(f"{root}/Maildir.ok", "w").close()
        return f"{root}/Maildir" if fmt == "maildir" else f"{root}/mdbox"

    def copy(self, source, name):
        path = f"{self.work}/live/{name}"
        shutil.rmtree(path, ignore_errors=True)
        subprocess.check_call(["cp", "-a", source, path])
        return path

    def fresh(self, name):
        path = f"{self.work}/live/{name}"
        shutil.rmtree(path, ignore_errors=True)
        return path

    def timed(self, argv, probe=None):
        """Wall seconds, CPU seconds, and with a probe what it found."""
        before = []
        if probe == "rss":
            before = ["/usr/bin/time", "-f", "%M", "-o", f"{self.work}/probe"]
        elif probe == "fsync":
            before = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", f"{self.work}/probe"]
        os.sync()
        started = time.perf_counter()
        p = subprocess.Popen(before + argv, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        err = p.stderr.read()
        _, status, usage = os.wait4(p.pid, 0)
        wall = time.perf_counter() - started
        p.returncode = os.waitstatus_to_exitcode(status)
        if p.returncode:
            raise SystemExit(f"{' '.join(argv)}: exit {p.returncode}: {err.decode()[-500:]}")
        found = None
        if probe == "rss":
            found = int(open(f"{self.work}/probe").read().split()[-1]) / 1024
        elif probe == "fsync":
            found = sum(" = 0" in line for line in open(f"{self.work}/probe"))
        return wall, usage.ru_utime + usage.ru_stime, found

    def mails(self, location, name):
        """UID, GUID, flags and text of every mail, as a Maildir shows them that is made of the location."""
        plain = self.fresh(f"look-{name}")
        self.call("dsync", f"maildir:{plain}", "backup", "-R", location)
        out = set()
        for at, _, files in os.walk(plain):
            if os.path.basename(at) != "cur" and os.path.basename(at) != "new":
                continue
            box = os.path.dirname(at)
            uids = {}
            with open(f"{box}/dovecot-uidlist", errors="surrogateescape") as f:
                next(f)
                for line in f:
                    head, _, base = line.rstrip("\n").partition(" :")
                    uid, *fields = head.split(" ")
                    uids[base] = (uid, next((x[1:] for x in fields if x.startswith("G")), base))
            for file in files:
                base, _, info = file.partition(":2,")
                text = open(os.path.join(at, file), "rb").read()
                system = "".join(c for c in info if c.isupper())
                out.add((os.path.relpath(box, plain), *uids[base], system, hashlib.sha256(text).hexdigest()))
        shutil.rmtree(plain)
        return out

    def run(self, case):
        """`case(who)` gives a function that puts the state in order and gives argv, and the two locations to compare."""
        ready = {who: case(who) for who in self.programs}
        times = {who: [] for who in self.programs}
        order = list(self.programs)
        for k in range(self.args.runs + 1):
            for who in order:
                wall, cpu, _ = self.timed(ready[who][0]())
                if k:
                    times[who].append((wall, cpu))
            order.reverse()
        cells = []
        for who in self.programs:
            a, b = ready[who][1]
            if who == "dsync" and self.mails(a, "a") != self.mails(b, "b"):
                raise SystemExit(f"{case.__name__}: {a} and {b} do not have the same mails")
            rss = self.timed(ready[who][0](), "rss")[2] if os.path.exists("/usr/bin/time") else None
            syncs = self.timed(ready[who][0](), "fsync")[2] if self.args.strace else None
            wall, cpu = (statistics.median(x) for x in zip(*times[who]))
            cells.append(f"{who} {wall:8.3f} s  cpu {cpu:7.3f} s" + (f"  {rss:5.0f} MB" if rss else "")
                         + (f"  {syncs} fsyncs" if syncs is not None else "") + told(getattr(ready[who][0], "line", None)))
        ratio = ""
        if len(times) == 2:
            r = [[x[i] / y[i] for x, y in zip(times["dsync"], times["doveadm"])] for i in (0, 1)]
            ratio = f"  ratio {statistics.median(r[0]):.3f} ({min(r[0]):.2f}..{max(r[0]):.2f})  cpu {statistics.median(r[1]):.3f}"
        print(f"{case.__name__:24}{ratio}  |  " + "  |  ".join(cells), flush=True)


def told(line):
    """What the last run said over its line."""
    if not line:
        return ""
    last = json.loads(open(line).read().splitlines()[-1])
    return f"  {last['waits'] / 2:g} round trips, {last['up'] + last['down']} octets"


def cases(b):
    """All workloads: name, and what makes a case of a program."""
    big = dict(mails=b.n(20000), folders=12, total=int(400e6 * b.args.scale))
    many = dict(mails=b.n(20000, 200), folders=200, total=int(80e6 * b.args.scale) + 200_000)
    fifty = dict(mails=b.n(50000, 10), folders=10, total=int(200e6 * b.args.scale) + 10_000)

    def startup(who):
        src, dst = b.copy(b.source("empty", "mdbox", mails=1, folders=1, total=1000), f"{who}-s"), b.fresh(f"{who}-d")
        b.call("dsync", f"mdbox:{src}", "backup", f"mdbox:{dst}")
        return (lambda: b.argv(b.programs[who], f"mdbox:{src}", "backup", f"mdbox:{dst}")), (f"mdbox:{src}", f"mdbox:{dst}")

    def initial(fmt, dfmt, pull, key="big", kw=big):
        def case(who):
            src = f"{fmt}:{b.copy(b.source(key, fmt, **kw), f'{who}-s')}"
            dst = f"{dfmt}:{b.work}/live/{who}-d"

            def ready():
                b.fresh(f"{who}-d")
                a, z = (dst, ("backup", "-R", src)) if pull else (src, ("backup", dst))
                return b.argv(b.programs[who], a, *z)
            return ready, (src, dst)
        return case

    def noop(fmt, dfmt, key, kw, *options):
        def case(who):
            src = f"{fmt}:{b.copy(b.source(key, fmt, **kw), f'{who}-s')}"
            dst = f"{dfmt}:{b.fresh(f'{who}-d')}"
            b.call("dsync", dst, "backup", "-R", src)
            return (lambda: b.argv(b.programs[who], src, "backup", *options, dst)), (src, dst)
        return case

    def changed(fmt, dfmt, state, counts, both):
        """Prepared once with Maildir twins, then put back before every run."""
        def case(who):
            plain = b.source("fifty", "maildir", **fifty)
            twin = b.copy(plain, f"{who}-twin")
            src, dst = f"{b.work}/live/{who}-src", f"{b.work}/live/{who}-dst"
            b.fresh(f"{who}-src"), b.fresh(f"{who}-dst")
            b.call("dsync", f"{fmt}:{src}", "backup", "-R", f"maildir:{twin}")
            b.call("dsync", f"{dfmt}:{dst}", "backup", "-R", f"{fmt}:{src}")
            told = ""
            for _ in range(3 if state else 0):
                told = b.call(who, f"{fmt}:{src}", "sync", "-s", told, f"{dfmt}:{dst}").strip()
            b.call("dsync", f"maildir:{twin}", "sync", f"{fmt}:{src}")
            other = b.copy(twin, f"{who}-twin2")
            for at, seed in [(twin, 1), (other, 2)][:2 if both else 1]:
                mail.change(at, fifty["folders"], *counts, seed)
                b.own(at)
                to = f"{fmt}:{src}" if seed == 1 else f"{dfmt}:{dst}"
                b.call("dsync", f"maildir:{at}", "backup", to)

            def ready():
                s, d = b.copy(src, f"{who}-s"), b.copy(dst, f"{who}-d")
                time.sleep(0.1)
                return b.argv(b.programs[who], f"{fmt}:{s}", "sync", *(["-s", told] if state else []), f"{dfmt}:{d}")
            return ready, (f"{fmt}:{b.work}/live/{who}-s", f"{dfmt}:{b.work}/live/{who}-d")
        return case

    def over_a_line(key, kw, pull, rtt, initial, *options):
        """Each program with its own dsync-server, behind a line that delays."""
        def case(who):
            src = f"mdbox:{b.copy(b.source(key, 'mdbox', **kw), f'{who}-s')}"
            dst = f"mdbox:{b.fresh(f'{who}-d')}"
            here, there = (dst, src) if pull else (src, dst)
            log = f"{b.work}/line-{who}"
            line = [sys.executable, f"{HERE}/relay.py", "--rtt", f"{rtt}", "--log", log, "--"] if rtt else []
            server = line + b.argv(b.programs[who], there, "dsync-server")
            if not initial:
                b.call("dsync", dst, "backup", "-R", src)

            def ready():
                if initial:
                    b.fresh(f"{who}-d")
                return b.argv(b.programs[who], here, "sync" if not initial else "backup", *options, *(["-R"] if pull else []), *server)
            ready.line = log if rtt else None
            return ready, (src, dst)
        return case

    yield "w0.startup", startup
    for name, fmt, dfmt in (("w1", "maildir", "mdbox"), ("w2", "maildir", "maildir"), ("w3", "mdbox", "mdbox")):
        yield f"{name}.push", initial(fmt, dfmt, False)
        yield f"{name}.pull", initial(fmt, dfmt, True)
    for fmt, dfmt in (("mdbox", "mdbox"), ("maildir", "maildir"), ("maildir", "mdbox")):
        yield f"w4.{fmt}-{dfmt}", noop(fmt, dfmt, "many", many)
    for fmt, dfmt in (("mdbox", "mdbox"), ("maildir", "maildir"), ("maildir", "mdbox")):
        yield f"w5.{fmt}-{dfmt}", noop(fmt, dfmt, "fifty", fifty, "-f")
    few, lots = (60, 30, 10), (b.n(500), b.n(200), b.n(100))
    for fmt in ("mdbox", "maildir"):
        yield f"w6.{fmt}", changed(fmt, fmt, True, few, False)
    for fmt, dfmt in (("maildir", "mdbox"), ("mdbox", "mdbox")):
        yield f"w7.{fmt}-{dfmt}", changed(fmt, dfmt, False, lots, True)
    lines = dict(mails=b.n(2000), folders=20, total=b.n(2000) * 8000)
    hundred = dict(mails=b.n(2000, 100), folders=100, total=b.n(2000, 100) * 2000)
    for pull in (False, True):
        yield f"w8.{'pull' if pull else 'push'}", over_a_line("big", big, pull, 0, True)
    for rtt in b.args.rtt:
        for pull in (False, True):
            yield f"w11.init.{'pull' if pull else 'push'}.{rtt}ms", over_a_line("lines", lines, pull, rtt, True)
        for name, options in (("noop", ()), ("noop-full", ("-f",))):
            yield f"w11.{name}.{rtt}ms", over_a_line("hundred", hundred, False, rtt, False, *options)
    for thousands in b.args.huge:
        kw = dict(mails=b.n(thousands * 1000), folders=1, total=b.n(thousands * 1000) * 3000)
        yield f"w9.init.{thousands}k", initial("maildir", "mdbox", True, f"huge{thousands}", kw)
        yield f"w9.noop.{thousands}k", noop("maildir", "mdbox", f"huge{thousands}", kw)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--dsync", default=f"{HERE}/../../target/release/dsync")
    ap.add_argument("--doveadm", default="doveadm", help="the reference; left out where it is not there")
    ap.add_argument("--work", default="/var/tmp/dsync-bench")
    ap.add_argument("--scale", type=float, default=1.0)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--only", default="", help="names or their beginnings, with commas")
    ap.add_argument("--huge", type=lambda s: [int(x) for x in s.split(",")], default=[25, 50, 100, 200], help="w9, thousands of mails")
    ap.add_argument("--rtt", type=lambda s: [int(x) for x in s.split(",")], default=[100], help="w11, milliseconds")
    ap.add_argument("--strace", action="store_true", help="count flushes in a further run")
    ap.add_argument("--uid", type=int, default=65534, help="owner of the mail when root runs this")
    ap.add_argument("--gid", type=int, default=65534)
    ap.add_argument("--keep", action="store_true", help="keep the mailboxes")
    args = ap.parse_args()
    bench = Bench(args)
    only = [x for x in args.only.split(",") if x]
    try:
        for name, case in cases(bench):
            if not only or any(name == x or name.startswith(x + ".") for x in only):
                case.__name__ = name
                bench.run(case)
    finally:
        if not args.keep:
            shutil.rmtree(bench.work, ignore_errors=True)


if __name__ == "__main__":
    main()
