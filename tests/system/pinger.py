# SPDX-License-Identifier: Apache-2.0
"""Exact probe streams: a numbered UDP datagram every millisecond from one namespace to another, and its answer back.

One process (pinger.c) holds both ends of all the streams and knows of each datagram when it was sent, arrived and was answered, and
of every further copy, at either end. Nothing is counted as lost before 500 ms have passed after the last one.

    with Probes((guest, other), (other, third)) as probes:
        ...
    lost = probes.streams[0].window().lost
"""

import array
import contextlib
import subprocess
import time

from cases import Failed
from lab import Guest, compile_c

LINGER_SECONDS = 0.5
LATE_MS = 30


class End:
    """A namespace and an address of its own in it; `name` for texts."""

    def __init__(self, namespace, address, name=None):
        self.namespace, self.address, self.name = namespace, address, name or address


def end_of(thing, family=4):
    if isinstance(thing, Guest):
        return End(thing.namespace, thing.ipv4 if family == 4 else thing.ipv6)
    return thing


class Window:
    """What became of the datagrams sent within a time. `gaps`: (number of the first, how many, when it was sent, milliseconds
    until the next one that came back was sent); `duplicates`: (number, "far" or "near", time); times as time.monotonic().
    `outage_ms`: the longest time in which what was sent was lost or came back later than LATE_MS."""

    def __init__(self, sent, gaps, duplicates, slowest_ms, outage_ms, lost_there):
        self.sent, self.gaps, self.duplicates, self.slowest_ms, self.outage_ms, self.lost_there = sent, gaps, duplicates, slowest_ms, outage_ms, lost_there

    @property
    def lost(self):
        return sum(count for _, count, _, _ in self.gaps)

    @property
    def longest_gap_ms(self):
        return max((gap[3] for gap in self.gaps), default=0.0)


class Stream:
    """The record of one stream. Numbers are indices: sent[n], far[n], back[n] in ns, 0 where it never came."""

    def __init__(self, near, far, words):
        self.near, self.far_end = near, far
        count, extras, self.reordered, self.refused = words[:4]
        times = words[4:4 + 3 * count]
        self.sent, self.far, self.back = times[0::3], times[1::3], times[2::3]
        rest = words[4 + 3 * count:4 + 3 * (count + extras)]
        self.extras = [(rest[i], "near" if rest[i + 1] else "far", rest[i + 2] / 1e9) for i in range(0, len(rest), 3)]
        self.length = 4 + 3 * (count + extras)

    @property
    def name(self):
        return f"{self.near.name} > {self.far_end.name}"

    def window(self, since=0.0, until=float("inf")):
        """Of what was sent from `since` until before `until` (time.monotonic()). A gap belongs to where it began."""
        sent, back, gaps, slowest, lost_there, outage, bad_since = self.sent, self.back, [], 0, 0, 0, None
        first = 0
        while first < len(sent) and sent[first] < since * 1e9:
            first += 1
        number = first
        while number < len(sent) and sent[number] < until * 1e9:
            if back[number]:
                took = back[number] - sent[number]
                slowest = max(slowest, took)
                if took > LATE_MS * 1e6:
                    bad_since = bad_since or sent[number]
                elif bad_since:
                    outage, bad_since = max(outage, sent[number] - bad_since), None
                number += 1
                continue
            begin = number
            bad_since = bad_since or sent[number]
            while number < len(sent) and not back[number]:
                lost_there += not self.far[number]
                number += 1
            ended = sent[number] if number < len(sent) else sent[-1]
            gaps.append((begin, number - begin, sent[begin] / 1e9, (ended - sent[begin]) / 1e6))
        if bad_since:
            outage = max(outage, sent[min(number, len(sent) - 1)] - bad_since)
        return Window(number - first, gaps, [extra for extra in self.extras if since <= extra[2] < until], slowest / 1e6, outage / 1e6, lost_there)

    def fault(self, duplicates_only=False):
        """What is not perfect about it, as text; "" if every datagram came back, once, in order."""
        window, words = self.window(), []
        start = self.sent[0] / 1e9 if self.sent else 0
        if window.gaps and not duplicates_only:
            gaps = ", ".join(f"{count} from number {first} at {at - start:.3f} s ({ms:.1f} ms)" for first, count, at, ms in window.gaps[:5])
            words.append(f"{window.lost} of {window.sent} lost, {window.lost_there} of them on the way there: {gaps}")
        if self.extras:
            words.append(f"{len(self.extras)} duplicates: " +
                         ", ".join(f"number {number} at the {end} end at {at - start:.3f} s" for number, end, at in self.extras[:5]))
        if self.reordered and not duplicates_only:
            words.append(f"{self.reordered} out of order")
        return f"{self.name}: {'; '.join(words)}" if words else ""


class Probes:
    """Streams that run from construction to `stop()` (or the end of `with`). `pairs`: (near, far) or (near, far, 6) of Guests
    or Ends, all in namespaces of their own."""

    def __init__(self, *pairs, seconds=60, period_us=1000, size=100):
        self.ends = [(end_of(near, *family), end_of(far, *family)) for near, far, *family in pairs]
        self.streams = []
        words = [word for near, far in self.ends for word in (near.namespace.name, near.address, far.namespace.name, far.address)]
        self.process = subprocess.Popen([compile_c("pinger"), str(period_us), str(seconds), str(size), *words],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if self.process.stdout.readline() != b"ready\n":
            text = self.process.communicate(timeout=5)[1].decode().strip()
            raise Failed(f"no probes: {text}")
        self.started = time.monotonic()

    def stop(self):
        """Ends the streams after what is on its way; the streams with their records."""
        if self.process is None:
            return self.streams
        process, self.process = self.process, None
        # A thread of its own reads: the records do not fit into a pipe.
        process.terminate()
        try:
            out, error = process.communicate(timeout=LINGER_SECONDS + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Failed("the probes did not end") from None
        if process.returncode:
            raise Failed(f"the probes ended with {process.returncode}: {error.decode().strip()}")
        words, at = array.array("q", out), 0
        for near, far in self.ends:
            stream = Stream(near, far, words[at:])
            at += stream.length
            self.streams.append(stream)
        return self.streams

    def faults(self):
        """Ends them; texts of all that is not perfect. Refused is also a stream that never got to send."""
        return [text for stream in self.stop() for text in [stream.fault() or ("" if len(stream.sent) > 20 else f"{stream.name}: too short")] if text]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Failed):
            self.stop()
