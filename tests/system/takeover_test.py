#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`takeover = mainvx`: a kernel bridge and vxlan that vxplane forwards for. The frames go through vxplane, the host's own traffic keeps
working, every change made by ip and bridge is followed, and the kernel's FDBs stay true. Each case runs on the kernel alone first."""

import contextlib
import threading
import time

import frames
import underlay_test
from cases import Suite, check, eventually
from lab import OVERLAY_MTU, UNDERLAY_DEVICE, Guest
from nodes import TakeoverNode, pair
from pinger import End, Probes
from transfer import transfer

FOLLOW_SECONDS = 0.1  # within which a change of the kernel's is in force
NOISE_SECONDS = 0.15  # what a busy machine adds to a measurement of it
PROBE = (0x88B5, b"takeover-probe" + bytes(40))


def all_talk(net, seconds=6):
    for a, b in ((0, 2), (3, 1), (0, 1)):
        net.guests[a].wait_ping(net.guests[b], seconds)


def in_takeover(net):
    return isinstance(net.krypton, TakeoverNode) and net.krypton.runs()


@contextlib.contextmanager
def bypassed(node):
    node.ctl("bypass", "on")
    try:
        yield
    finally:
        node.ctl("bypass", "off")


def both_ways(net, what):
    """`what()` in takeover, and again while bypassed."""
    what()
    if in_takeover(net):
        with bypassed(net.krypton):
            what()


# ---- who forwards ----

def kernel_counts(node):
    """Frames that the kernel's own tunnel device has moved."""
    stats = node.namespace.run("cat", *[f"/sys/class/net/vxlan_mainvx/statistics/{way}_packets" for way in ("rx", "tx")]).stdout.split()
    return sum(map(int, stats))


def vxplane_counts(node, *ports):
    stats = node.stats()["ports"]
    return sum(stats[port]["rx_packets"] + stats[port]["tx_packets"] for port in ports)


def vxplane_forwards(net):
    """armed, frames go through vxplane and not through the kernel's devices; in bypass it is the other way round; both without a loss"""
    node, (a, b, c, _) = net.krypton, net.guests
    all_talk(net)

    def moved():
        before = kernel_counts(node), vxplane_counts(node, a.port, b.port, UNDERLAY_DEVICE)
        with Probes((a, c), (a, b)) as probes:
            time.sleep(0.3)
            faults = probes.faults()
        check(not faults, lambda: "; ".join(faults))
        sent = [len(stream.sent) for stream in probes.streams]
        return sent, kernel_counts(node) - before[0], vxplane_counts(node, a.port, b.port, UNDERLAY_DEVICE) - before[1]

    (far, near), by_kernel, by_vxplane = moved()
    # a to c: in at a's port and out at the NIC, the answer likewise; a to b: in and out, there and back.
    check(by_vxplane >= 4 * (far + near), f"{far} + {near} probes there and back, and vxplane's ports count {by_vxplane} packets")
    check(by_kernel < 20, f"the kernel's vxlan device moved {by_kernel} packets meanwhile")
    with bypassed(node):
        (far, near), by_kernel, by_vxplane = moved()
    check(by_kernel >= 2 * far, f"in bypass the kernel's vxlan device moved {by_kernel} packets of {far} probes there and back")
    check(by_vxplane < 20, f"in bypass vxplane counts {by_vxplane} packets")


def everybody_talks(net):
    """guests talk, IPv4 and IPv6, every one with every other, before, during and after"""
    def talk():
        for one in net.guests:
            one.forget_neighbours()
        for one in net.guests:
            for other in net.guests:
                if one is not other:
                    one.ping(other)
                    one.ping(other.ipv6)
    both_ways(net, talk)


def transfers(net):
    """a TCP stream of 20 MB arrives whole between local guests and through the tunnel, both ways"""
    a, b, c, _ = net.guests

    def move():
        for sender, receiver in ((a, c), (c, a), (a, b)):
            transfer(sender, receiver, 20 << 20)
    both_ways(net, move)


def fragments_and_other_vni(net):
    """outer fragments of the peer arrive; a second kernel vxlan with another VNI on the same port works beside it"""
    underlay_test.fragments_arrive(net)
    nodes = net.nodes
    for node, peer in zip(nodes, nodes[::-1]):
        node.add_vxlan("vxlan_other", 2000)
        node.namespace.ip("addr", "add", f"10.9.0.{node.number}/24", "dev", "vxlan_other")
        node.namespace.ip("link", "set", "vxlan_other", "mtu", OVERLAY_MTU, "up")
        node.add_remote(peer.vtep, "vxlan_other")
    try:
        def talk():
            with Probes(*[(End(one.namespace, f"10.9.0.{one.number}"), End(two.namespace, f"10.9.0.{two.number}")) for one, two in (nodes, nodes[::-1])],
                        (net.guests[0], net.guests[2])) as probes:
                time.sleep(0.3)
                faults = probes.faults()
            check(not faults, lambda: "; ".join(faults))
        nodes[0].namespace.run("ping", "-n", "-q", "-c", 1, "-W", 2, "10.9.0.2")
        both_ways(net, talk)
    finally:
        for node in nodes:
            node.namespace.ip("link", "del", "vxlan_other")


# ---- the host's own traffic ----

class BridgeHost(Guest):
    """The host itself, by an address on its bridge, with what a guest has for pings and transfers."""

    def __init__(self, node):  # pylint: disable=super-init-not-called
        self.node, self.namespace, self.number = node, node.namespace, 100 + node.number
        self.ipv4, self.ipv6 = f"10.0.0.{self.number}", f"fd00:1::{self.number:x}"
        node.namespace.run("sysctl", "-qw", "net.ipv6.conf.mainvx.disable_ipv6=0")
        node.namespace.ip("addr", "add", f"{self.ipv4}/24", "dev", "mainvx")
        node.namespace.ip("addr", "add", f"{self.ipv6}/64", "dev", "mainvx", "nodad")
        self.mac = node.namespace.links()["mainvx"]["address"]

    def forget_neighbours(self):
        self.namespace.ip("neigh", "flush", "dev", "mainvx", check=False)


@contextlib.contextmanager
def host_addresses(net):
    hosts = [BridgeHost(node) for node in net.nodes]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.namespace.ip("addr", "flush", "dev", "mainvx")
            host.namespace.run("sysctl", "-qw", "net.ipv6.conf.mainvx.disable_ipv6=1")
            for guest in net.guests:
                guest.forget_neighbours()


def host_talks(net):
    """the host's address on the bridge: from cold ARP and ND, both ways, with local and remote guests and the other host, no copies"""
    with host_addresses(net) as (krypton, xenon):
        local, remote = net.guests[0], net.guests[2]

        def talk():
            for one, other in ((krypton, local), (krypton, remote), (krypton, xenon)):
                for first, second in ((one, other), (other, one)):
                    for address in (second.ipv4, second.ipv6):
                        first.forget_neighbours()
                        second.forget_neighbours()
                        first.ping(address, count=1, seconds=1)
            with Probes((krypton, local), (remote, krypton), (krypton, xenon), (local, krypton, 6), (krypton, remote, 6)) as probes:
                time.sleep(0.3)
                faults = probes.faults()
            check(not faults, lambda: "; ".join(faults))
        both_ways(net, talk)


def host_transfers(net):
    """TCP with large segments between the host's address on the bridge and local and remote guests, both ways"""
    with host_addresses(net) as (host, _):
        def move():
            for guest in (net.guests[0], net.guests[2]):
                guest.wait_ping(host)
                for sender, receiver in ((guest, host), (host, guest)):
                    transfer(sender, receiver, 20 << 20)
        both_ways(net, move)


# ---- following ----

def first_back_ms(stream, at):
    """Milliseconds from `at` (time.monotonic()) until the first probe that came back was sent."""
    return next(((sent / 1e9 - at) * 1000 for sent, back in zip(stream.sent, stream.back) if back and sent >= at * 1e9), float("inf"))


def follows_within(figures, text):
    late = {name: round(ms, 1) for name, ms in figures.items() if ms > 1000 * (FOLLOW_SECONDS + NOISE_SECONDS)}
    worst = max(figures, key=figures.get)
    print(f"     {text}: {worst} after {figures[worst]:.1f} ms at worst of {len(figures)}", flush=True)
    check(not late, f"{text}: {late} ms")


def know_each_other(*guests):
    """Permanent neighbours: what is measured is the way of frames, not ARP's patience."""
    for one in guests:
        for other in guests:
            if one is not other:
                one.namespace.ip("neigh", "replace", other.ipv4, "lladdr", other.mac, "dev", "eth0", "nud", "permanent")


@contextlib.contextmanager
def fifth_guest(net, port="tap105i0"):
    """A guest whose netdev is there but in no bridge."""
    guest = Guest(net.lab, 5)
    adopt = net.krypton.adopt
    net.krypton.adopt = lambda name: None
    try:
        guest.plug_veth(net.krypton, port)
        know_each_other(guest, net.guests[0], net.guests[2])
        yield guest
    finally:
        net.krypton.adopt = adopt
        guest.unplug()
        for other in net.guests:
            other.namespace.ip("neigh", "flush", "all", "nud", "permanent", check=False)
            other.forget_neighbours()
        guest.namespace.delete()
        net.lab.namespaces.remove(guest.namespace)


def ports_come_and_go(net):
    """a port enslaved, renamed, freed and enslaved again at run time is followed within 100 ms"""
    all_talk(net)
    local, remote = net.guests[0], net.guests[2]
    ip = net.krypton.namespace.ip
    with fifth_guest(net) as guest, Probes((remote, guest), (guest, remote), (local, guest)) as probes:
        begun, done = [], []

        def step(*words):
            time.sleep(0.5)
            begun.append(time.monotonic())
            ip(*words)
            done.append(time.monotonic())
        step("link", "set", "tap105i0", "master", "mainvx")
        step("link", "set", "tap105i0", "name", "fwpr105p0")
        step("link", "set", "fwpr105p0", "nomaster")
        step("link", "set", "fwpr105p0", "master", "mainvx")
        time.sleep(0.5)
        streams = probes.stop()
    figures = {}
    for stream in streams:
        enslaved, renamed, freed, again = done
        figures[f"enslaved {stream.name}"] = first_back_ms(stream, enslaved)
        figures[f"renamed {stream.name}"] = max(first_back_ms(stream, renamed), stream.window(begun[1], begun[2] - 0.05).longest_gap_ms)
        gone = [sent for sent, back in zip(stream.sent, stream.back) if back and freed * 1e9 < sent < begun[3] * 1e9]
        figures[f"freed {stream.name}"] = (gone[-1] / 1e9 - freed) * 1000 if gone else 0.0
        figures[f"again {stream.name}"] = first_back_ms(stream, again)
        check(not stream.extras, stream.fault())
    follows_within(figures, "ports")


class Caller:
    """A guest that sends a broadcast every 2 ms until the end of `with`."""

    def __init__(self, guest):
        self.guest, self.running = guest, True
        self.thread = threading.Thread(target=self._call, daemon=True)

    def _call(self):
        with frames.RawSocket(self.guest.namespace, "eth0") as raw:
            while self.running:
                raw.send(frames.ethernet("ff:ff:ff:ff:ff:ff", self.guest.mac, *PROBE))
                time.sleep(0.002)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.running = False
        self.thread.join(2)


def remotes_come_and_go(net):
    """a remote added and taken away by `bridge fdb` is flooded to, and no longer, within 100 ms"""
    node, address = net.krypton, net.krypton.vtep_of(9)
    node.namespace.ip("neigh", "replace", address, "lladdr", "02:00:00:00:99:09", "dev", UNDERLAY_DEVICE)

    def to_ninth(frame):
        return any(outer.addresses[1] == address for outer in frames.vxlan_frames([frame]))
    try:
        with Caller(net.guests[0]), frames.Capture(net.wire.namespace, node.wire_port) as wire:
            time.sleep(0.1)
            check(not any(to_ninth(frame) for frame in wire.of(node.wire_port)), "flooded before it was added")
            node.add_remote(address)
            added = time.monotonic()
            check(wire.wait(to_ninth, 3), "a remote that was added gets nothing")
            node.namespace.run("bridge", "fdb", "del", "00:00:00:00:00:00", "dev", "vxlan_mainvx", "dst", address)
            taken_away = time.monotonic()
            time.sleep(0.5)
        times = [at for at, (_, frame) in zip(wire.times, wire.frames) if to_ninth(frame)]
        check(len(wire.frames) > 3 * len(times), "hardly a frame to the other remote after that")
    finally:
        node.namespace.run("bridge", "fdb", "del", "00:00:00:00:00:00", "dev", "vxlan_mainvx", "dst", address, check=False)
        node.namespace.ip("neigh", "del", address, "dev", UNDERLAY_DEVICE, check=False)
    follows_within({"added": (times[0] - added) * 1000, "taken away": (times[-1] - taken_away) * 1000}, "remotes")


def mtu_followed(net):
    """the tunnel's and the bridge's MTU set to 1200 and back: larger packets stop, and pass again"""
    ip, (a, _, c, _) = net.krypton.namespace.ip, net.guests

    def set_mtu(mtu):
        for device in ("vxlan_mainvx", "mainvx"):
            ip("link", "set", device, "mtu", mtu)
        time.sleep(FOLLOW_SECONDS + NOISE_SECONDS)
    a.ping(c, size=1300)
    try:
        set_mtu(1200)
        a.ping(c, size=1200)
        check(not a.ping(c, size=1201, count=2, seconds=0.3, check=False), "1201 bytes pass an MTU of 1200")
    finally:
        set_mtu(OVERLAY_MTU)
        a.forget_paths()
    a.ping(c, size=OVERLAY_MTU)


def reached(sender, destination, guests, source=None, wait=0.15):
    """Numbers of those of `guests` whom a frame by hand reaches."""
    marker = b"flags-" + str(time.monotonic_ns()).encode() + bytes(40)
    with contextlib.ExitStack() as stack:
        seen = [(guest, stack.enter_context(frames.Capture(guest.namespace, "eth0"))) for guest in guests]
        frames.send(sender, frames.ethernet(destination, source or sender.mac, 0x88B5, marker))
        time.sleep(wait)
    counts = {guest.number: sum(marker in frame for _, frame in capture.frames) for guest, capture in seen}
    check(max(counts.values()) <= 1, f"copies: {counts}")
    return {number for number, count in counts.items() if count}


def port_flags(net):
    """`bridge link set` isolated, learning and flood of a port are followed"""
    node, (a, b, c, d) = net.krypton, net.guests
    all_talk(net)

    def flag(port, name, value):
        node.namespace.run("bridge", "link", "set", "dev", port, name, value)

    def settle():
        time.sleep(FOLLOW_SECONDS + NOISE_SECONDS)
    everyone, wrong, stranger = [b, c, d], [], "52:54:00:00:88:01"
    try:
        for guest in (a, b):
            flag(guest.port, "isolated", "on")
        settle()
        for what, destination in (("broadcast", "ff:ff:ff:ff:ff:ff"), ("unknown unicast", "52:54:00:ee:00:01"), ("known unicast", b.mac)):
            want = set() if destination == b.mac else {c.number, d.number}
            got = reached(a, destination, everyone)
            if got != want:
                wrong.append(f"isolated, {what}: reached {got}, not {want}")
        if reached(c, b.mac, [a, b]) != {b.number}:
            wrong.append("isolated: a remote guest does not reach it")
        for guest in (a, b):
            flag(guest.port, "isolated", "off")
        flag(b.port, "flood", "off")
        settle()
        if (got := reached(a, "52:54:00:ee:00:02", everyone)) != {c.number, d.number}:
            wrong.append(f"flood off: unknown unicast reached {got}")
        if (got := reached(a, "ff:ff:ff:ff:ff:ff", everyone)) != {b.number, c.number, d.number}:
            wrong.append(f"flood off: broadcast reached {got}")
        flag(b.port, "flood", "on")
        flag(b.port, "learning", "off")
        settle()
        frames.send(b, frames.ethernet("ff:ff:ff:ff:ff:ff", stranger, *PROBE))
        time.sleep(0.1)
        if (got := reached(c, stranger, [a, b])) != {a.number, b.number}:
            wrong.append(f"learning off: a frame to its MAC reached {got}, as if learned")
        flag(b.port, "learning", "on")
        settle()
        frames.send(b, frames.ethernet("ff:ff:ff:ff:ff:ff", stranger, *PROBE))
        time.sleep(0.1)
        if (got := reached(c, stranger, [a, b])) != {b.number}:
            wrong.append(f"learning on again: a frame to its MAC reached {got}")
    finally:
        for guest in (a, b):
            for name, value in (("isolated", "off"), ("flood", "on"), ("learning", "on")):
                flag(guest.port, name, value)
        settle()
    check(not wrong, "; ".join(wrong))


def static_entries(net):
    """`bridge fdb add ... master static` counts within 100 ms, and no more when it is deleted"""
    node, (a, b, c, _) = net.krypton, net.guests
    mac = "52:54:00:00:88:02"
    check(reached(c, mac, [a, b]) == {a.number, b.number}, "an unknown MAC is not flooded")
    node.namespace.run("bridge", "fdb", "add", mac, "dev", a.port, "master", "static")
    try:
        time.sleep(FOLLOW_SECONDS + NOISE_SECONDS)
        check((got := reached(c, mac, [a, b])) == {a.number}, f"a frame to a static entry reached {got}")
        if in_takeover(net):
            check([entry["ifname"] for entry in node.fdb(mac)] == [a.port], f"vxctl fdb: {node.fdb(mac)}")
    finally:
        node.namespace.run("bridge", "fdb", "del", mac, "dev", a.port, "master")
    time.sleep(FOLLOW_SECONDS + NOISE_SECONDS)
    check((got := reached(c, mac, [a, b])) == {a.number, b.number}, f"after its deletion a frame to it reached {got}")


def thousand_entries(net):
    """a burst of 1000 static entries arrives complete, and goes again"""
    node, port = net.krypton, net.guests[0].port
    macs = [f"52:54:02:00:{number >> 8:02x}:{number & 255:02x}" for number in range(1000)]

    def batch(verb):
        node.namespace.run("bridge", "-batch", "-", input="".join(f"fdb {verb} {mac} dev {port} master static\n" for mac in macs), stdin=None)

    def known():
        return {entry["mac"] for entry in (node.fdb("dev", port) if in_takeover(net) else node.kernel_fdb())} & set(macs)
    started = time.monotonic()
    batch("add")
    done = time.monotonic()
    try:
        eventually(lambda: len(known()) == 1000, 3, lambda: f"{len(known())} of 1000 arrived")
        arrived = time.monotonic()
        check(reached(net.guests[2], macs[-1], net.guests[:2]) == {1}, "a frame to the last of them was flooded")
    finally:
        batch("del")
    print(f"     1000 entries: added in {done - started:.2f} s, all seen {arrived - done:.2f} s later", flush=True)
    eventually(lambda: not known(), 3, lambda: f"{len(known())} of 1000 are left")
    check(reached(net.guests[2], macs[-1], net.guests[:2]) == {1, 2}, "a frame to a deleted entry is not flooded")


def devices_made_anew(net):
    """the vxlan device, then the bridge too, deleted and made anew as ifreload does: everything works again"""
    node, (a, b, c, d) = net.krypton, net.guests
    all_talk(net)
    know_each_other(*net.guests)
    figures = {}
    try:
        with Probes((a, c), (d, b), (a, b), seconds=30) as probes:
            time.sleep(0.3)
            node.namespace.ip("link", "del", "vxlan_mainvx")
            time.sleep(0.3)
            node.make_tunnel()
            tunnel = time.monotonic()
            time.sleep(2.5)
            node.namespace.ip("link", "del", "mainvx")
            time.sleep(0.3)
            node.make_bridge()
            node.namespace.ip("link", "set", "vxlan_mainvx", "master", "mainvx")
            for guest in (a, b):
                node.namespace.ip("link", "set", guest.port, "master", "mainvx")
            bridge = time.monotonic()
            time.sleep(2.5)
            streams = probes.stop()
        for stream in streams:
            for what, at, until in (("tunnel", tunnel, tunnel + 2), ("bridge", bridge, float("inf"))):
                window = stream.window(at, until)
                figures[f"{what} anew, {stream.name}"] = max([gap[2] * 1000 + gap[3] - at * 1000 for gap in window.gaps], default=0.0)
            check(not stream.extras, stream.fault())
    finally:
        for guest in net.guests:
            guest.namespace.ip("neigh", "flush", "all", "nud", "permanent", check=False)
        if "vxlan_mainvx" not in node.namespace.links():
            node.make_tunnel()
    print("     made anew: " + ", ".join(f"{name} whole after {ms:.0f} ms" for name, ms in figures.items()), flush=True)
    late = {name: ms for name, ms in figures.items() if ms > 1500}
    check(not late, f"lost packets until {late}")
    all_talk(net)
    vxplane_forwards(net) if in_takeover(net) else None


# ---- the kernel's FDBs ----

class Station:
    """A MAC that exists in frames by hand only: it never answers, and nothing but them makes it known."""

    def __init__(self, number):
        self.mac = f"52:54:00:00:66:{number:02x}"

    def call(self, guest):
        frames.send(guest, frames.ethernet("ff:ff:ff:ff:ff:ff", self.mac, *PROBE))


def wait_place(node, mac, want, seconds=2):
    eventually(lambda: node.kernel_place(mac) == want, seconds, lambda: f"the kernel of {node.name} has {mac} at {node.kernel_place(mac)}, not {want}: "
               f"{node.kernel_fdb(mac)}")


def kernel_fdb_true(net):
    """`bridge fdb show` has what was learned, local and remote, follows a move, and flushes"""
    node, (a, b, c, _) = net.krypton, net.guests
    local, remote = Station(1), Station(2)
    local.call(a)
    remote.call(c)
    wait_place(node, local.mac, ("port", a.port))
    wait_place(node, remote.mac, ("vtep", net.xenon.vtep))
    local.call(b)
    wait_place(node, local.mac, ("port", b.port))
    local.call(c)
    wait_place(node, local.mac, ("vtep", net.xenon.vtep))
    remote.call(a)
    wait_place(node, remote.mac, ("port", a.port))
    # The vxlan's own entry of a MAC that is local now would be what a neighbour of the tunnel sees: it goes, or points nowhere we use.
    local.call(a)
    wait_place(node, local.mac, ("port", a.port))


def kernel_fdb_ages(net):
    """a silent MAC leaves the kernel's FDBs when it has aged, local or remote; one that talks stays"""
    node, (a, _, c, _) = net.krypton, net.guests
    silent, far, talker, far_talker = Station(11), Station(12), Station(13), Station(14)
    silent.call(a)
    far.call(c)
    wait_place(node, silent.mac, ("port", a.port))
    wait_place(node, far.mac, ("vtep", net.xenon.vtep))
    end = time.monotonic() + 3 * node.ageing
    while time.monotonic() < end:
        talker.call(a)
        far_talker.call(c)
        time.sleep(0.4)
        if time.monotonic() > end - 2 * node.ageing:
            check(node.kernel_place(talker.mac) == ("port", a.port), f"a talking MAC is at {node.kernel_place(talker.mac)}")
            check(node.kernel_place(far_talker.mac) == ("vtep", net.xenon.vtep), f"a talking remote MAC is at {node.kernel_place(far_talker.mac)}")
    for station in (silent, far):
        eventually(lambda station=station: not node.kernel_fdb(station.mac), 3 * node.ageing, lambda station=station: f"still there: {node.kernel_fdb(station.mac)}")


def standby_knows(net):
    """after kill -9 the kernel forwards frames to known MACs to their places: nothing is flooded"""
    node, (a, b, c, d) = net.krypton, net.guests
    local, remote = Station(21), Station(22)
    local.call(a)
    remote.call(c)
    wait_place(node, local.mac, ("port", a.port))
    wait_place(node, remote.mac, ("vtep", net.xenon.vtep))
    if in_takeover(net):
        node.kill("dataplane")
    try:
        check((got := reached(d, local.mac, [a, b])) == {a.number}, f"a frame to a local MAC reached {got}")
        check((got := reached(a, remote.mac, [b, c, d])) == {c.number}, f"a frame to a remote MAC reached {got}")
        for guest in (a, b):  # a frame to a guest's own MAC, at once after the kill
            other = c if guest is a else d
            check((got := reached(other, guest.mac, [a, b])) == {guest.number}, f"a frame to guest {guest.number} reached {got}")
    finally:
        if in_takeover(net):
            node.revive()
            node.wait_ready()
    all_talk(net)


# ---- nothing is left ----

def clean_stop_leaves_the_kernel(net):
    """a clean stop leaves the kernel's devices as they were: no program, filter, tap, flag, socket; forwarding goes on"""
    from heal_test import device_state, difference
    node = net.krypton
    all_talk(net)
    node.holder = node.namespace.popen("sleep", "60")
    try:
        node.stop()
        stopped = device_state(node)
        all_talk(net)
        node.start()
        node.wait_ready()
        all_talk(net)
        check(device_state(node)["filters"] != stopped["filters"], "no program takes frames while running")
        check([node.stop("control"), node.stop("dataplane")] == [0, 0], "exit codes")
        eventually(lambda: device_state(node) == stopped, 3, lambda: difference(stopped, device_state(node)))
        links = node.namespace.links()
        check(set(links) == {"lo", UNDERLAY_DEVICE, "mainvx", "vxlan_mainvx", *[guest.port for guest in net.guests[:2]]}, f"devices: {sorted(links)}")
        check(not links[UNDERLAY_DEVICE].get("xdp"), "an XDP program is left")
        check(not any("bpf" in text for text in stopped["filters"].values()), f"filters are left: {stopped['filters']}")
    finally:
        node.holder.kill()
        node.holder.wait()
        node.revive()
        node.wait_ready()


FORWARDING = [everybody_talks, transfers, fragments_and_other_vni, host_talks, host_transfers]
FOLLOWING = [ports_come_and_go, remotes_come_and_go, mtu_followed, port_flags, static_entries, thousand_entries, devices_made_anew]

if __name__ == "__main__":
    suite = Suite("takeover")
    suite.group("kernel-kernel", lambda: pair("kernel", "kernel"), FORWARDING + FOLLOWING + [kernel_fdb_true, standby_knows], needs_vxplane=False)
    suite.group("takeover-kernel", lambda: pair("takeover", "kernel"),
                [vxplane_forwards, *FORWARDING, *FOLLOWING, kernel_fdb_true, standby_knows, clean_stop_leaves_the_kernel])
    suite.group("takeover-takeover", lambda: pair("takeover", "takeover"), [vxplane_forwards, everybody_talks, transfers, host_talks, host_transfers])
    for kind in ("kernel", "takeover"):
        suite.group(f"{kind}-kernel, ageing 2 s", lambda kind=kind: pair(kind, "kernel", ageing=2), [kernel_fdb_ages], needs_vxplane=kind != "kernel")
    suite.main()
