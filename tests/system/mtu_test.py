#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""vxctl mtu and vxctl mtu probe: the sum, and paths that eat bytes in silence.

Between the nodes stands a router whose link may have a smaller MTU than both ends think, and whose ICMP never arrives: a black hole."""

import contextlib
import json
import time

import frames
from cases import Suite, check, eventually
from lab import UNDERLAY_DEVICE, Guest, compile_bpf, wire_offloads_off
from nodes import KernelNode, Network, VxplaneNode, in_lab


class Router:
    """Stands where Wire stands: every node gets a cable of its own, and answers for the others' addresses (proxy ARP and ND).
    Nodes think they share a subnet; between them is a hop with MTUs, and no ICMP error comes back from it."""

    def __init__(self, lab, numbers=(1, 2)):
        self.lab, self.numbers, self.ports = lab, numbers, []
        self.namespace = lab.namespace("router")
        self.namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0",
                           "net.ipv4.conf.default.rp_filter=0")
        self.filter = compile_bpf("icmp_errors")

    def plug(self, namespace, device=UNDERLAY_DEVICE, queues=1, mtu=None):
        number = self.numbers[len(self.ports)]
        port = f"r{number}"
        self.ports.append(port)
        ns = self.namespace
        ns.ip("link", "add", port, "type", "veth", "peer", "name", device, "netns", namespace.name)
        wire_offloads_off(ns, port)
        wire_offloads_off(namespace, device)
        ns.run("sysctl", "-qw", f"net.ipv4.conf.{port}.proxy_arp=1", f"net.ipv4.conf.{port}.proxy_arp_pvlan=1", f"net.ipv6.conf.{port}.proxy_ndp=1",
               f"net.ipv4.neigh.{port}.proxy_delay=0", f"net.ipv6.neigh.{port}.proxy_delay=0")
        ns.ip("link", "set", port, "mtu", 1500, "up")
        for prefix in ("172.18.1.", "fd18::"):
            ns.ip("route", "add", f"{prefix}{number}", "dev", port)
        for other in self.numbers:
            if other != number:
                ns.ip("neigh", "add", "proxy", f"fd18::{other}", "dev", port)
        ns.run("tc", "qdisc", "replace", "dev", port, "clsact")
        self.install_filter(port)
        namespace.ip("link", "set", device, "mtu", 1500, "up")
        return port

    def set_mtu(self, mtu):
        """Of the links between the nodes, both directions."""
        for port in self.ports:
            self.namespace.ip("link", "set", port, "mtu", mtu)

    @contextlib.contextmanager
    def talking(self):
        """Its ICMP errors arrive, for once."""
        self.namespace.ip("addr", "replace", "198.51.100.1/32", "dev", "lo")
        for port in self.ports:
            self.namespace.run("tc", "filter", "del", "dev", port, "egress", "prio", "1")
        try:
            yield
        finally:
            for port in self.ports:
                self.install_filter(port)

    def install_filter(self, port):
        self.namespace.run("tc", "filter", "replace", "dev", port, "egress", "prio", "1", "handle", "1", "bpf", "da", "obj", self.filter, "sec", "errors")

    @contextlib.contextmanager
    def black_hole(self, mtu=1372):
        self.set_mtu(mtu)
        try:
            yield
        finally:
            self.set_mtu(1500)


class Net(Network):
    """krypton runs vxplane, xenon what `kind` says; guests 1 and 3 on them."""

    def __init__(self, lab, kind, family=4, **options):
        self.lab = lab
        self.router = Router(lab)
        # 1332 bytes of guest and 70 of VXLAN over IPv6 do not fit 1400.
        self.needed = 1400 if family == 4 else 1420
        common = {"family": family, "underlay_mtu": self.needed, "ports": ["tap*i* driver=netdev"], **options}
        self.krypton = VxplaneNode(lab, "krypton", 1, self.router, remotes=[2], **common)
        if kind == "kernel":
            self.xenon = KernelNode(lab, "xenon", 2, self.router, remotes=[1], family=family, underlay_mtu=self.needed)
            # Every group address that a bridge can be told to forward: our probes are not among them.
            self.xenon.namespace.ip("link", "set", "mainvx", "type", "bridge", "group_fwd_mask", "0xfff8")
        else:
            self.xenon = VxplaneNode(lab, "xenon", 2, self.router, remotes=[1], **common)
        self.nodes = [self.krypton, self.xenon]
        self.guests = [Guest(lab, 1), Guest(lab, 3)]
        for guest, node in zip(self.guests, self.nodes):
            guest.plug_veth(node, f"tap10{guest.number}i0")
            node.namespace.ip("link", "set", guest.port, "mtu", 1332)
        for node in self.nodes:
            node.wait_ready()
        self.krypton.wait_port("tap101i0")

    @property
    def peer(self):
        return self.xenon.vtep

    @property
    def good_words(self):
        return f"{self.peer}: {self.needed} needed, {self.needed} passes"

    @property
    def bad_words(self):
        return f"{self.peer}: {self.needed} needed, 1372 passes: your path eats {self.needed - 1372} bytes"

    @property
    def method(self):
        return "echo" if isinstance(self.xenon, KernelNode) else "tunnel"

    def probe(self, *words):
        """vxctl mtu probe: exit code and text. Exit 1 says on stderr in one line what to do."""
        text = self.krypton.vxctl("mtu", "probe", *words)
        check(len(text.stderr.splitlines()) == (1 if text.returncode else 0), f"stderr: {text.stderr!r}")
        return text.returncode, text.stdout.strip()

    def probe_json(self):
        done = self.krypton.vxctl("-j", "mtu", "probe", self.peer)
        return done.returncode, json.loads(done.stdout)[0]

    def vtep(self):
        return self.krypton.json("vtep")[0]


def warnings(node):
    return [line for line in node.log("vxplane-control").splitlines() if "needed" in line]


def measured_at_start(net):
    """every VTEP is measured soon after the start, unasked, and vxctl vtep shows it"""
    eventually(lambda: "path_mtu" in net.vtep(), 6, lambda: f"vxctl vtep: {net.vtep()}")
    vtep = net.vtep()
    check(vtep["path_mtu"] == net.needed and vtep["path_mtu_age"] < 10, f"{vtep}")
    check(net.peer in net.krypton.ctl("vtep") and str(net.needed) in net.krypton.ctl("vtep"), net.krypton.ctl("vtep"))
    check(not warnings(net.krypton), f"a good path is warned of: {warnings(net.krypton)}")


def good_path(net):
    """a path of 1400 passes 1400, with and without an address, exit 0"""
    for words in ([net.peer], []):
        code, text = net.probe(*words)
        check((code, text) == (0, net.good_words), f"exit {code}: {text}")
    code, one = net.probe_json()
    check(code == 0 and one["verdict"] == "ok" and one["passes"] == net.needed and one["method"] == net.method, f"exit {code}: {one}")


def black_hole(net):
    """a black hole of 1372 is found, named, warned of once, told to guests and forgotten when it heals"""
    node, before = net.krypton, len(warnings(net.krypton))
    with net.router.black_hole():
        code, text = net.probe(net.peer)
        check((code, text) == (1, net.bad_words), f"exit {code}: {text}")
        code, one = net.probe_json()
        check(code == 1 and one["verdict"] == "small" and (one["needed"], one["passes"]) == (net.needed, 1372) and one["method"] == net.method, f"exit {code}: {one}")
        check(net.vtep()["path_mtu"] == 1372, f"vxctl vtep: {net.vtep()}")
        check(len(warnings(node)) == before + 1 and "<4>VTEP " + net.bad_words in warnings(node)[-1], f"log: {warnings(node)}")
        check(any(net.bad_words in line for line in node.json("status")["problems"]), f"status: {node.json('status')['problems']}")
        done = node.vxctl("mtu")
        check(done.returncode == 1 and net.bad_words in done.stdout, f"vxctl mtu: exit {done.returncode}: {done.stdout}")
        # The dataplane no longer sends what the path eats: the ceiling is 1372 - 50 for untagged guests over IPv4.
        ceiling = 1372 - (50 if node.family == 4 else 70)
        drops = node.drops()["underlay_mtu_exceeded"]
        check(not net.guests[0].ping(net.guests[1], size=ceiling + 1, count=1, seconds=0.3, check=False), f"{ceiling + 1} bytes pass")
        check(node.drops()["underlay_mtu_exceeded"] > drops, "not counted underlay_mtu_exceeded")
        net.guests[0].forget_paths()
        net.guests[0].ping(net.guests[1], size=ceiling, count=2)
    code, text = net.probe(net.peer)
    check((code, text) == (0, net.good_words), f"healed: exit {code}: {text}")
    check(net.vtep()["path_mtu"] == net.needed, f"healed: {net.vtep()}")
    check(len(warnings(node)) == before + 2 and warnings(node)[-1].endswith(f"{net.needed} passes again"), f"log: {warnings(node)}")
    net.guests[0].forget_paths()
    net.guests[0].ping(net.guests[1], size=1332, count=2)


def invisible(net):
    """no guest sees a probe, on either end, whatever its size; nothing is dropped for it, and no guest's MAC comes of it"""
    drops = net.krypton.drops()["link_local"]
    captures = [frames.Capture(guest.namespace, "eth0") for guest in net.guests]
    with captures[0], captures[1], net.router.black_hole():
        code, _text = net.probe(net.peer)
        check(code == 1, "the case shows nothing")
        net.guests[0].ping(net.guests[1])
    for capture in captures:
        check(any(frame[12:14] == b"\x08\x00" for _, frame in capture.frames), "the capture saw not even the ping")
        seen = [frame[:60].hex() for _, frame in capture.frames if frame[12:14] == b"\x88\xb5" or frame[:5] == b"\x01\x80\xc2\x00\x00"]
        check(not seen, f"a guest saw {seen[:2]}")
    check(net.krypton.drops()["link_local"] == drops, "answers to probes are counted as dropped")
    macs = [entry["mac"] for entry in net.krypton.fdb() if entry["mac"].startswith("02:56:")]
    check(not macs, f"learned from probes: {macs}")
    net.probe(net.peer)


def kernel_remembers(net):
    """a path MTU that the kernel learned by ICMP and keeps for ten minutes gives way to what was measured since"""
    node = net.krypton
    net.probe(net.peer)

    def route_mtu():
        return "mtu 1372" in node.namespace.ip("route", "get", net.peer).stdout
    with net.router.talking(), net.router.black_hole():
        # A packet of the host's own that the path does not carry: DF, 1376 bytes (the veth itself drops more).
        node.namespace.run("ping", "-n", "-q", "-c", 1, "-W", 1, "-M", "do", "-s", 1376 - 28, "-I", node.vtep, net.peer, check=False)
        eventually(route_mtu, 3, "the kernel learned nothing: the case shows nothing")
        # Nobody asks for it: the change of the route does.
        eventually(lambda: net.vtep()["path_mtu"] == 1372, 8, lambda: f"{net.vtep()}")
        check(node.vxctl("mtu").returncode == 1, "vxctl mtu sees nothing")
    check(route_mtu(), "the kernel has forgotten already: the case shows nothing")
    code, text = net.probe(net.peer)
    check((code, text) == (0, net.good_words), f"healed: exit {code}: {text}")
    check(node.vxctl("mtu").returncode == 0, node.vxctl("mtu").stdout)
    net.guests[0].forget_paths()
    net.guests[0].ping(net.guests[1], size=1332, count=2)
    node.namespace.ip("route", "flush", "cache", check=False)


def silent_peer(net):
    """a peer that does not answer is said to be silent, within five seconds, and changes nothing that is known"""
    net.probe(net.peer)
    before = net.vtep()["path_mtu"]
    net.router.namespace.ip("link", "set", net.router.ports[1], "down")
    try:
        started = time.monotonic()
        code, text = net.probe(net.peer)
        seconds = time.monotonic() - started
        check(code == 1 and text.startswith(f"{net.peer}: {net.needed} needed, no answer"), f"exit {code}: {text}")
        check(seconds < 5, f"that took {seconds:.1f} s")
        check(net.vtep()["path_mtu"] == before, f"{net.vtep()}")
    finally:
        net.router.namespace.ip("link", "set", net.router.ports[1], "up")
        net.router.namespace.ip("route", "replace", net.peer, "dev", net.router.ports[1])
    eventually(lambda: net.probe(net.peer)[0] == 0, 10, lambda: f"{net.probe(net.peer)}")
    code, text = net.probe("192.0.2.77")
    check(code == 1 and text == "", f"a stranger: exit {code}: {text}")


def the_sum(net):
    """vxctl mtu: exit 0 when it adds up; 1 with what to do for a port's, the device's and a route's MTU"""
    node = net.krypton
    done = node.vxctl("mtu")
    check(done.returncode == 0 and "vxlan_mainvx: ok" in done.stdout, f"exit {done.returncode}: {done.stdout}")
    one = node.json("mtu")[0]
    check(one["margin"] == 14 and one["device_mtu"] == 1500 and one["ports"] == [] and one["problems"] == [], f"{one}")

    def wrong(change, back, *words):
        node.namespace.ip(*change)
        try:
            def seen():
                done = node.vxctl("mtu")
                return done.returncode == 1 and all(word in done.stdout for word in words) and len(done.stderr.splitlines()) == 1
            eventually(seen, 3, lambda: f"{change}: {node.vxctl('mtu').stdout}")
        finally:
            node.namespace.ip(*back)
        eventually(lambda: node.vxctl("mtu").returncode == 0, 3, lambda: node.vxctl("mtu").stdout)

    def mtu_of(device, mtu):
        return ("link", "set", device, "mtu", mtu)

    wrong(mtu_of("tap101i0", 1500), mtu_of("tap101i0", 1332), "tap101i0 has an MTU of 1500, the overlay 1332", "ip link set dev tap101i0 mtu 1332")
    wrong(mtu_of("tap101i0", 1300), mtu_of("tap101i0", 1332), "tap101i0 has an MTU of 1300, the overlay 1332")
    wrong(mtu_of(UNDERLAY_DEVICE, 1390), mtu_of(UNDERLAY_DEVICE, 1500),
          f"{UNDERLAY_DEVICE} has an MTU of 1390, [underlay] mtu says 1400", f"raise that of {UNDERLAY_DEVICE}")
    route = ("route", "replace", net.peer, "dev", UNDERLAY_DEVICE)
    wrong((*route, "mtu", 1372), ("route", "del", *route[2:]), net.bad_words)


if __name__ == "__main__":
    suite = Suite("mtu")
    ways = [measured_at_start, good_path, black_hole, invisible, silent_peer]
    suite.group("vxplane-vxplane", lambda: in_lab(Net, "vxplane"), [*ways, the_sum])
    suite.group("vxplane-kernel", lambda: in_lab(Net, "kernel"), [*ways, kernel_remembers])
    suite.group("vxplane-vxplane, IPv6", lambda: in_lab(Net, "vxplane", family=6), [measured_at_start, good_path, black_hole])
    suite.group("vxplane-kernel, IPv6", lambda: in_lab(Net, "kernel", family=6), [measured_at_start, black_hole])
    suite.group("own address, vxplane-vxplane", lambda: in_lab(Net, "vxplane", own=True), [measured_at_start, black_hole])
    suite.group("own address, vxplane-kernel", lambda: in_lab(Net, "kernel", own=True), [measured_at_start, black_hole])
    udp = {"underlay": {"driver": "udp"}}
    suite.group("udp driver, vxplane-vxplane", lambda: in_lab(Net, "vxplane", settings=udp), [measured_at_start, good_path, black_hole])
    suite.main()
