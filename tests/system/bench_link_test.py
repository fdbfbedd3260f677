#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""vxplane-bench between two hosts: over a veth, whose faults it has to find, and over a vxplane overlay."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

from cases import Failed, Suite, check, eventually
from lab import OVERLAY_MTU, Lab, binary, compile_bpf, wire_offloads_off
from nodes import pair

PORT = 4788


class Server:
    """`vxplane-bench server` in a namespace; its lines, as far as it has written them."""

    def __init__(self, namespace, *words):
        self.process = namespace.popen(binary("vxplane-bench"), "server", *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.wait_line("listening on")

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_line(self, text, seconds=5):
        return eventually(lambda: next((line for line in self.lines if text in line), None), seconds, lambda: f"the server did not say `{text}`: {self.lines}")

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("the server does not end on SIGTERM") from None


@contextlib.contextmanager
def serving(namespace, *words):
    server = Server(namespace, *words)
    try:
        yield server
    finally:
        code = server.close()
    check(code == 0, f"the server ended with {code}: {server.lines}")


def client(namespace, *words):
    return namespace.popen(binary("vxplane-bench"), "client", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, seconds=30):
    """(exit code, stdout, stderr)"""
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed(f"the client did not end in {seconds} s") from None
    return process.returncode, out, errors


def measure(namespace, *words):
    code, out, errors = finish(client(namespace, *words, "-j"))
    check(code == 0, f"exit {code}: {errors.strip()}")
    return json.loads(out)


def lossy(namespace, device, max_ip_bytes=0, drop_percent=0):
    """What comes to `device` suffers from now on."""
    program = compile_bpf("lossy", f"-DMAX_IP_BYTES={max_ip_bytes}", f"-DDROP_PERCENT={drop_percent}")
    namespace.run("tc", "qdisc", "replace", "dev", device, "clsact")
    namespace.run("tc", "filter", "replace", "dev", device, "ingress", "prio", "1", "handle", "1", "bpf", "da", "obj", program, "sec", "lossy")


def healthy(namespace, device):
    namespace.run("tc", "qdisc", "del", "dev", device, "clsact", check=False)


class Link:
    """Two hosts, 10.9.0.1 (and fd09::1) and 10.9.0.2, on one cable of MTU 1500."""

    def __init__(self, lab):
        self.near, self.far = lab.namespace("near"), lab.namespace("far")
        self.near.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.far.name)
        for number, namespace in ((1, self.near), (2, self.far)):
            wire_offloads_off(namespace, "eth0")
            namespace.ip("link", "set", "eth0", "up")
            namespace.ip("addr", "add", f"10.9.0.{number}/24", "dev", "eth0")
            namespace.ip("addr", "add", f"fd09::{number}/64", "dev", "eth0", "nodad")


@contextlib.contextmanager
def link():
    with Lab() as lab:
        yield Link(lab)


class Meter(threading.Thread):
    """The most bits per second that came to and left a device in any half second, Ethernet headers and all."""

    def __init__(self, namespace, device):
        super().__init__(daemon=True)
        with namespace.entered():
            # Opened inside: the file stays that device's.
            self.file = open("/proc/thread-self/net/dev", encoding="ascii")
        self.device, self.samples, self.running = device, [], True

    def run(self):
        while self.running:
            self.file.seek(0)
            words = next(line for line in self.file.read().splitlines() if line.strip().startswith(self.device + ":")).split(":")[1].split()
            self.samples.append((time.monotonic(), int(words[0]), int(words[8])))
            time.sleep(0.05)

    def peaks(self):
        self.running = False
        self.join(2)
        best = [0.0, 0.0]
        for i, start in enumerate(self.samples):
            end = next((sample for sample in self.samples[i:] if sample[0] >= start[0] + 0.5), None)
            if end is None:
                break
            for way in (0, 1):
                best[way] = max(best[way], (end[1 + way] - start[1 + way]) * 8 / (end[0] - start[0]))
        return best


def check_flow(way, rate, name):
    udp, tcp = way["udp"], way["tcp"]
    check(udp["lost_percent"] < 2 and udp["duplicated_packets"] == 0, f"{name}: {udp}")
    check(0.7 * rate < udp["received_bits_per_second"] < 1.05 * rate, f"{name}: {udp}")
    check(tcp["complete"] and 0.7 * rate < tcp["payload_bits_per_second"] < 1.05 * rate, f"{name}: {tcp}")
    for trips in (udp["round_trip_under_load"], tcp["round_trip_under_load"]):
        check(trips["sent_packets"] > 50 and 0 < trips["p50_us"] <= trips["p99_us"] <= trips["max_us"], f"{name}: {trips}")


def a_healthy_link(net):
    """a healthy link: every figure, and on the wire never more than 1.05 times the default rate of 100 Mbit/s"""
    with serving(net.far, "--once"):
        meter = Meter(net.far, "eth0")
        meter.start()
        found = measure(net.near, "10.9.0.2", "--seconds", "1")
        peaks = meter.peaks()
    check(found["rate_bits_per_second"] == 100_000_000 and not found["unlimited_tcp"] and found["planned_bytes"] == 50_000_000, f"{found}")
    check(found["warnings"] == [] or all("managed" in text for text in found["warnings"]), f"{found['warnings']}")
    check(found["round_trip_idle"]["sent_packets"] == 200 and found["round_trip_idle"]["lost_packets"] == 0, f"{found['round_trip_idle']}")
    for name in ("up", "down"):
        check(found[name]["path_mtu_bytes"] == found[name]["interface_mtu_bytes"] == 1500, f"{name}: {found[name]}")
        check_flow(found[name], 100e6, name)
    check(70e6 < max(peaks) < 105e6 and min(peaks) > 70e6, f"on the wire: {peaks}")


def ipv6(net):
    """IPv6, its path MTU down to one that is not a multiple of anything, and a table for people"""
    with serving(net.far, "--bind", "fd09::2"):
        lossy(net.near, "eth0", max_ip_bytes=1347)
        code, out, errors = finish(client(net.near, "fd09::2", "--udp", "--seconds", "1", "--rate", "10M"))
        healthy(net.near, "eth0")
    check(code == 0, f"exit {code}: {errors}")
    check(out.startswith("fd09::1 to fd09::2 port 4788: at most 2.5 MB in all, 10 Mbit/s"), out)
    check(re.search(r"path MTU, IP packet +1500 bytes \(interface 1500\) +1347 bytes \(interface 1500\)", out), out)
    check("warning: down: IP packets above 1347 bytes are lost" in out and "warning: up" not in out, out)


def loss(net):
    """loss is seen in the direction that has it"""
    with serving(net.far):
        lossy(net.far, "eth0", drop_percent=10)
        found = measure(net.near, "10.9.0.2", "--udp", "--seconds", "1", "--rate", "50M")
        healthy(net.far, "eth0")
    up, down = found["up"]["udp"], found["down"]["udp"]
    check(6 < up["lost_percent"] < 14 and up["lost_packets"] == up["sent_packets"] - up["received_packets"], f"up: {up}")
    check(down["lost_percent"] < 2, f"down: {down}")


def a_black_hole(net):
    """small pings work, large transfers hang: path MTU and TCP say so, upwards only"""
    with serving(net.far):
        lossy(net.far, "eth0", max_ip_bytes=1400)
        found = measure(net.near, "10.9.0.2", "--tcp", "--seconds", "1", "--rate", "20M")
        healthy(net.far, "eth0")
    check((found["up"]["path_mtu_bytes"], found["down"]["path_mtu_bytes"]) == (1400, 1500), f"{found}")
    check(not found["up"]["tcp"]["complete"] and found["up"]["tcp"]["retransmitted_packets"] > 0 and found["down"]["tcp"]["complete"], f"{found}")
    check(len(found["warnings"]) == 2 and "1400" in found["warnings"][0] and "hung" in found["warnings"][1], f"{found['warnings']}")


def talk(net, *lines, seconds=5):
    """What the server answers to these lines until it closes the connection; what came by UDP meanwhile."""
    with net.near.entered():
        control = socket.create_connection(("10.9.0.2", PORT), timeout=seconds)
    with control:
        with contextlib.suppress(ConnectionError):
            for line in lines:
                control.sendall(line)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := control.recv(65536):
                answer += more
    return answer


def hostile(net):
    """garbage, limits and strangers: a line in the server's log each, and it goes on; no UDP before a packet with the token"""
    hello, start = b'{"type":"hello","version":1}\n', b'{"type":"start","phase":1,"transport":"%s","direction":"down","rate":%d,"seconds":1,"bytes":1000}\n'
    with serving(net.far, "--max-rate", "10M") as server:
        with net.near.entered():
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with stranger:
            stranger.settimeout(0.3)
            for lines, logged in (((b"GET / HTTP/1.1\r\n\r\n",), "refused 10.9.0.1: the client sent a line that is no control message"),
                                  ((b"\n",), "refused 10.9.0.1: the client sent a line"), ((b"x" * 5000,), "refused 10.9.0.1: the first line is too long"),
                                  ((b'{"type":"bye"}\n',), "refused 10.9.0.1: the first line is no hello"), ((b'{"type":"hello","version":2}\n',), "version 1, the client 2"),
                                  ((b'{"type":"data","token":"%s"}\n' % (b"00" * 16),), "a data stream that nobody waits for"),
                                  ((hello, b"[" * 4000 + b"\n"), "closed 10.9.0.1: the client sent a line"), ((hello, b"y" * 9000), "control line longer than 4096"),
                                  ((hello, hello), "closed 10.9.0.1: a control message that does not belong here"),
                                  ((hello, b'{"type":"probe","bytes":1000}\n'), "a probe is wanted before a UDP packet came"),
                                  ((hello, start % (b"udp", 1_000_000)), "closed 10.9.0.1: no UDP packet came"),
                                  ((hello, start % (b"tcp", 20_000_000)), "closed 10.9.0.1: the server allows at most 10 Mbit/s (its --max-rate)")):
                answer = talk(net, *lines)
                server.wait_line(logged)
                check(b"\x1b" not in answer and len(answer) < 5000, f"{lines}: {answer}")
            stranger.sendto(b"\0" * 100, ("10.9.0.2", PORT))
            try:
                raise Failed(f"a stranger is answered: {stranger.recv(2000)}")
            except (socket.timeout, ConnectionRefusedError):
                pass
        check(server.process.poll() is None, f"the server is gone: {server.lines}")
        code, _, errors = finish(client(net.near, "10.9.0.2"))
        check((code, errors) == (1, "vxplane-bench: the server allows at most 10 Mbit/s (its --max-rate)\n"), f"exit {code}: {errors}")
        # Who says nothing keeps nobody out, and is sent away.
        with net.near.entered():
            silent = [socket.create_connection(("10.9.0.2", PORT)) for _ in range(3)]
        found = measure(net.near, "10.9.0.2", "--udp", "--direction", "up", "--rate", "1M", "--seconds", "1")
        check(found["up"]["udp"]["received_packets"] > 0, f"{found}")
        server.wait_line("refused 10.9.0.1: nothing was said")
        for end in silent:
            end.close()


def one_at_a_time(net):
    """a second client is refused, and disturbs the first in nothing"""
    with serving(net.far) as server:
        first = client(net.near, "10.9.0.2", "--udp", "--direction", "down", "--rate", "10M", "--seconds", "1", "-j")
        server.wait_line("serving 10.9.0.1")
        code, out, errors = finish(client(net.near, "10.9.0.2"), 5)
        check((code, out, errors) == (1, "", "vxplane-bench: the server refuses: busy: serving 10.9.0.1\n"), f"exit {code}: {out}{errors}")
        server.wait_line("refused 10.9.0.1: busy: serving 10.9.0.1")
        code, out, errors = finish(first)
        check(code == 0 and json.loads(out)["down"]["udp"]["lost_percent"] < 2, f"exit {code}: {out}{errors}")


def the_peer_dies(net):
    """a peer that is killed or hangs ends the run within 5 s with one line; the server goes on to the next client"""
    words = ["10.9.0.2", "--seconds", "20", "--rate", "5M", "--direction"]
    with serving(net.far) as server:
        dying = client(net.near, *words, "up")
        time.sleep(1)
        dying.kill()
        dying.communicate()
        server.wait_line("closed 10.9.0.1: the client closed the connection", 1)
        hanging = client(net.near, *words, "down")
        time.sleep(1.5)
        server.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        code, _, errors = finish(hanging, 10)
        seconds = time.monotonic() - started
        check((code, errors) == (1, "vxplane-bench: the server has been silent for 4 s\n") and seconds < 5, f"exit {code} after {seconds:.1f} s: {errors}")
        server.process.send_signal(signal.SIGCONT)
    server = Server(net.far)
    orphan = client(net.near, *words, "up")
    time.sleep(1.5)
    server.process.kill()
    server.process.wait()
    started = time.monotonic()
    code, _, errors = finish(orphan, 10)
    check(code == 1 and re.fullmatch(r"vxplane-bench: the server.*(closed the connection|reset by peer)\n", errors) and time.monotonic() - started < 1, f"exit {code}: {errors}")


def nobody_there(net):
    """nobody listens; wrong words: exit 1 and 2, one line"""
    code, _, errors = finish(client(net.near, "10.9.0.2"))
    check((code, errors) == (1, "vxplane-bench: 10.9.0.2 port 4788: Connection refused\n"), f"exit {code}: {errors}")
    code, _, errors = finish(client(net.near, "10.9.0.2", "--rate", "fast"))
    check(code == 2 and len(errors.splitlines()) == 1, f"exit {code}: {errors}")


def over_vxplane(net):
    """between guests over vxplane: the overlay's MTU both ways, then less in one"""
    one, three = net.guests[0], net.guests[2]
    one.wait_ping(three)
    with serving(three.namespace):
        found = measure(one.namespace, three.ipv4, "--seconds", "1", "--rate", "20M", "--direction", "up")
        check(found["up"]["path_mtu_bytes"] == found["up"]["interface_mtu_bytes"] == OVERLAY_MTU, f"{found['up']}")
        check_flow(found["up"], 20e6, "up")
        lossy(three.namespace, "eth0", max_ip_bytes=1300)
        found = measure(one.namespace, three.ipv6, "--udp", "--seconds", "1", "--rate", "1M")
        check((found["up"]["path_mtu_bytes"], found["down"]["path_mtu_bytes"]) == (1300, OVERLAY_MTU), f"{found}")


def main():
    suite = Suite("bench_link")
    suite.group("veth", link, [a_healthy_link, ipv6, loss, a_black_hole, hostile, one_at_a_time, the_peer_dies, nobody_there])
    suite.group("vxplane-vxplane", lambda: pair("vxplane", "vxplane"), [over_vxplane])
    suite.main()


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    main()
