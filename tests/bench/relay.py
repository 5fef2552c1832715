#!/usr/bin/env python3
"""A slow line: stands between a program and the command at the other end (python3, nothing else).

  relay.py --rtt 100 --log FILE -- dsync -o mail_location=... dsync-server

Every piece of octets arrives half the round trip after it was sent, in order. To the log one line of JSON is added: octets up
and down, `turns` (how often the direction changed) and `waits`: pieces sent while nothing was on its way, which nothing
overlaps. Two waits are a round trip.
"""
import argparse, json, os, queue, subprocess, sys, threading, time


class Line:
    def __init__(self, rtt):
        self.half, self.lock = rtt / 2000, threading.Lock()
        self.on_way = self.turns = self.waits = 0
        self.octets, self.last = [0, 0], None

    def sent(self, way, n):
        with self.lock:
            self.turns += self.last != way
            self.waits += self.on_way == 0
            self.last, self.on_way = way, self.on_way + 1
            self.octets[way] += n

    def arrived(self):
        with self.lock:
            self.on_way -= 1

    def carry(self, way, source, target):
        """One direction, to its end."""
        pieces = queue.Queue()

        def read():
            while data := source.read1(1 << 18):
                self.sent(way, len(data))
                pieces.put((time.monotonic() + self.half, data))
            pieces.put((0, b""))

        threading.Thread(target=read, daemon=True).start()
        try:
            while True:
                due, data = pieces.get()
                if not data:
                    break
                time.sleep(max(0.0, due - time.monotonic()))
                self.arrived()
                target.write(data)
                target.flush()
        except BrokenPipeError:
            pass
        finally:
            try:
                target.close()
            except BrokenPipeError:
                pass


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rtt", type=float, default=0, help="milliseconds")
    ap.add_argument("--log")
    ap.add_argument("command", nargs="+")
    args = ap.parse_args()
    child = subprocess.Popen(args.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    line = Line(args.rtt)
    up = threading.Thread(target=line.carry, args=(0, sys.stdin.buffer, child.stdin), daemon=True)
    up.start()
    line.carry(1, child.stdout, sys.stdout.buffer)
    code = child.wait()
    if args.log:
        said = {"up": line.octets[0], "down": line.octets[1], "turns": line.turns, "waits": line.waits}
        with open(args.log, "a") as f:
            f.write(json.dumps(said) + "\n")
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
