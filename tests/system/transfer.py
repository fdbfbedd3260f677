# SPDX-License-Identifier: Apache-2.0
"""Bulk data between guests, with a hash over it, and the kernel's own counters of what went wrong on the way.

The stream is deterministic: blocks of the same random bytes, each behind its number, so that a block lost, doubled or swapped
changes the hash. One thread sends, one receives; the work is done in the kernel and in the hash, outside of Python's lock.
"""

import contextlib
import hashlib
import json
import os
import socket
import struct
import threading
import time

from cases import Failed

MEGABYTE = 1 << 20
BLOCK = 16 * MEGABYTE
# Less on its way than the shortest queue of the lab holds (a veth ring: 256 frames): then nothing is lost for want of room,
# and a retransmit is somebody's fault.
WINDOW = 96 * 1024
UDP_SEGMENT = 103
_hashes = {}


def _pattern():
    """A memfd with one block of bytes that no checksum error and no shift maps onto itself."""
    if "pattern" not in _hashes:
        descriptor = os.memfd_create("pattern")
        data, out = hashlib.sha256(b"vxplane").digest(), bytearray()
        while len(out) < BLOCK:
            data = hashlib.shake_128(data).digest(MEGABYTE)
            out += data
        os.write(descriptor, out)
        _hashes["pattern"] = descriptor, bytes(out)
    return _hashes["pattern"]


def stream_hash(size):
    """What a stream of `size` payload bytes hashes to."""
    if size not in _hashes:
        pattern, digest = _pattern()[1], hashlib.sha256()
        for number, start in enumerate(range(0, size, BLOCK)):
            digest.update(struct.pack("!Q", number))
            digest.update(memoryview(pattern)[:min(BLOCK, size - start)])
        _hashes[size] = digest.hexdigest()
    return _hashes[size]


def _send(end, size):
    descriptor = _pattern()[0]
    for number, start in enumerate(range(0, size, BLOCK)):
        end.sendall(struct.pack("!Q", number))
        left, offset = min(BLOCK, size - start), 0
        while left:
            sent = os.sendfile(end.fileno(), descriptor, offset, left)
            left, offset = left - sent, offset + sent
    end.shutdown(socket.SHUT_WR)


def address_of(guest, family):
    return guest.ipv4 if family == 4 else guest.ipv6


def inet_of(family):
    return socket.AF_INET if family == 4 else socket.AF_INET6


def prepare(guest):
    """The guest's kernel sends again only what it must: no loss probes, which a busy machine would set off."""
    guest.namespace.run("sysctl", "-qw", "net.ipv4.tcp_early_retrans=0")


def keep_order(namespace):
    """What enters a device of the namespace is handled by one CPU: else the kernel itself changes the order when a sender moves
    from one CPU to another, and the receiver's duplicate ACKs ask for what is not lost."""
    namespace.run("sh", "-c", "for queue in /sys/class/net/*/queues/rx-*/rps_cpus; do echo 1 > $queue; done")


def transfer(sender, receiver, size, family=4, seconds=60, stall=10, window=WINDOW, port=5001):
    """Moves `size` bytes by TCP; Gbit/s. Fails when another hash arrives, or nothing for `stall` seconds."""
    address, inet = address_of(receiver, family), inet_of(family)
    with contextlib.ExitStack() as stack:
        with receiver.namespace.entered():
            listener = stack.enter_context(socket.socket(inet, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if window:
                listener.setsockopt(socket.SOL_SOCKET, 33, window)  # SO_RCVBUFFORCE: what the kernel doubles, it advertises half of
            listener.bind((address, port))
            listener.listen(1)
        with sender.namespace.entered():
            client = stack.enter_context(socket.create_connection((address, port), timeout=5))
        server = stack.enter_context(listener.accept()[0])
        client.settimeout(None)
        # No timeout of Python's (it would make the socket non-blocking): the kernel's.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", stall, 0))
        server.settimeout(None)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", stall, 0))
        errors = []

        def work():
            try:
                _send(client, size)
            except OSError as error:
                errors.append(error)

        started, got, digest = time.monotonic(), 0, hashlib.sha256()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        buffer = bytearray(MEGABYTE)
        view = memoryview(buffer)
        try:
            while count := server.recv_into(buffer):
                digest.update(view[:count])
                got += count
                if time.monotonic() - started > seconds:
                    raise Failed(f"{got} bytes of {size} after {seconds} s")
        except BlockingIOError:
            raise Failed(f"nothing came for {stall} s after {got} bytes of {size}") from None
        finally:
            elapsed = time.monotonic() - started
            for end in (server, client) if got < size else ():  # a sender that waits ends
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            thread.join(5)
    blocks = (size + BLOCK - 1) // BLOCK
    if errors or got != size + 8 * blocks:
        raise Failed(f"{got} of {size + 8 * blocks} bytes arrived{f': {errors[0]}' if errors else ''}")
    if digest.hexdigest() != stream_hash(size):
        raise Failed(f"{size} bytes arrived with another hash")
    return got * 8 / elapsed / 1e9


def send_uso(sender, receiver, family=4, datagrams=1000, payload=1200, a_call=50, port=5002):
    """UDP super-frames (UDP_SEGMENT): the datagrams that arrived, whole and right, of those sent; (arrived, sent)."""
    address, inet = address_of(receiver, family), inet_of(family)
    with receiver.namespace.entered():
        server = socket.socket(inet, socket.SOCK_DGRAM)
    with sender.namespace.entered():
        client = socket.socket(inet, socket.SOCK_DGRAM)
    with server, client:
        server.setsockopt(socket.SOL_SOCKET, 33, 32 * MEGABYTE)
        server.bind((address, port))
        server.settimeout(1)
        client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, payload)
        client.connect((address, port))
        pattern, seen, wrong = _pattern()[1], set(), 0

        def datagram(number):
            # The last one of a call is shorter, as the end of a message is.
            length = payload if (number + 1) % a_call else payload // 3
            return struct.pack("!I", number) + pattern[number:number + length - 4]

        for first in range(0, datagrams, a_call):
            client.send(b"".join(datagram(number) for number in range(first, min(first + a_call, datagrams))))
            time.sleep(0.002)
        try:
            while len(seen) < datagrams:
                data = server.recv(65536)
                number = struct.unpack_from("!I", data)[0]
                if data == datagram(number):
                    seen.add(number)
                else:
                    wrong += 1
        except socket.timeout:
            pass
    if wrong:
        raise Failed(f"{wrong} datagrams with other bytes than were sent")
    return len(seen), datagrams


# ---- what the kernel counted ----

ERRORS = {"Ip": ("InHdrErrors",), "Icmp": ("InCsumErrors",), "Tcp": ("InErrs", "InCsumErrors"), "Udp": ("InCsumErrors",),
          "Ip6": ("InHdrErrors",), "Icmp6": ("InCsumErrors",), "Udp6": ("InCsumErrors",)}


def parse_snmp(text, text6=""):
    """/proc/net/snmp (or netstat) and snmp6 as {"Tcp": {"RetransSegs": 3}}."""
    counters = {}
    lines = [line.split() for line in text.splitlines()]
    for names, values in zip(lines[::2], lines[1::2]):
        counters[names[0].rstrip(":")] = {name: int(value) for name, value in zip(names[1:], values[1:])}
    for line in text6.splitlines():
        name, value = line.split()
        for group in ("Icmp6", "Udp6", "Ip6"):
            if name.startswith(group):
                counters.setdefault(group, {})[name[len(group):]] = int(value)
                break
    return counters


def snmp(namespace):
    text = namespace.run("cat", "/proc/net/snmp", "/proc/net/netstat").stdout
    return parse_snmp(text, namespace.run("cat", "/proc/net/snmp6").stdout)


def errors_of(counters):
    """Those of ERRORS that are not zero, as text."""
    return [f"{group}{name} {counters[group][name]}" for group, names in ERRORS.items() for name in names if counters.get(group, {}).get(name)]


def lost_by_devices(namespace):
    """{(device, counter): frames} that the namespace's devices say they dropped, zeros left out."""
    links = json.loads(namespace.run("ip", "-s", "-j", "link").stdout)
    counts = {(link["ifname"], f"{way}_{kind}"): link["stats64"][way].get(kind, 0)
              for link in links for way in ("rx", "tx") for kind in ("dropped", "errors", "over_errors")}
    return {key: count for key, count in counts.items() if count}


class Flow:
    """A paced TCP stream (about 3 MB/s) that runs in the background until `finish()`, which fails unless every byte arrived,
    once, in order, as sent. `longest_silence(since, until)`: seconds in which nothing arrived, at worst."""

    PIECE, PERIOD = 64 * 1024, 0.02

    def __init__(self, sender, receiver, family=4, port=5003):
        _pattern()  # takes a second, once
        address, inet = address_of(receiver, family), inet_of(family)
        with receiver.namespace.entered(), socket.socket(inet, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(1)
            with sender.namespace.entered():
                self.client = socket.create_connection((address, port), timeout=5)
            self.server = listener.accept()[0]
        self.client.settimeout(20)
        self.server.settimeout(20)
        self.arrivals, self.errors, self.running = [time.monotonic()], [], True
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.sent_bytes = self.received_bytes = 0
        self.threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in (self._send, self._receive)]
        for thread in self.threads:
            thread.start()

    def _guarded(self, work):
        try:
            work()
        except OSError as error:
            self.errors.append(f"{work.__name__.strip('_')}: {error}")

    def _send(self):
        pattern, number = memoryview(_pattern()[1]), 0
        while self.running:
            start = number * 4093 % (BLOCK - self.PIECE)  # other bytes each time
            piece = pattern[start:start + self.PIECE]
            self.client.sendall(piece)
            self.sent.update(piece)
            self.sent_bytes += len(piece)
            number += 1
            time.sleep(self.PERIOD)
        self.client.shutdown(socket.SHUT_WR)

    def _receive(self):
        buffer = bytearray(MEGABYTE)
        view = memoryview(buffer)
        while count := self.server.recv_into(buffer):
            self.received.update(view[:count])
            self.received_bytes += count
            self.arrivals.append(time.monotonic())

    def longest_silence(self, since=0.0, until=float("inf")):
        times = [at for at in self.arrivals if since <= at < until]
        return max((b - a for a, b in zip(times, times[1:])), default=0.0)

    def finish(self):
        """The bytes that were moved."""
        self.running = False
        for thread in self.threads:
            thread.join(25)
        self.client.close()
        self.server.close()
        if self.errors or any(thread.is_alive() for thread in self.threads):
            raise Failed(f"the stream broke after {self.received_bytes} bytes: {'; '.join(self.errors) or 'it does not end'}")
        if self.sent_bytes != self.received_bytes or self.sent.digest() != self.received.digest():
            raise Failed(f"{self.received_bytes} of {self.sent_bytes} bytes arrived, with {'the same' if self.sent.digest() == self.received.digest() else 'another'} hash")
        return self.received_bytes
