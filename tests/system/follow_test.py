#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A takeover follows the kernel: every change that ip and bridge make to the bridge, its ports, the tunnel and the FDBs is in force
within 100 ms. Each case runs on the kernel alone first."""

import contextlib
import threading
import time

import frames
from cases import Suite, check, eventually
from lab import OVERLAY_MTU, UNDERLAY_DEVICE, Guest
from nodes import pair
from pinger import Probes
from takeover import PROBE, all_talk, in_takeover, reached

FOLLOW_SECONDS = 0.1  # within which a change of the kernel's is in force
NOISE_SECONDS = 0.15  # what a busy machine adds to a measurement of it


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
            begun = time.monotonic()
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
        window = streams[2].window(begun, tunnel + 2)
        check(not window.lost, lambda: f"{window.lost} packets between local guests were lost while the tunnel was made anew: {window.gaps}")
    finally:
        for guest in net.guests:
            guest.namespace.ip("neigh", "flush", "all", "nud", "permanent", check=False)
        if "vxlan_mainvx" not in node.namespace.links():
            node.make_tunnel()
    print("     made anew: " + ", ".join(f"{name} whole after {ms:.0f} ms" for name, ms in figures.items()), flush=True)
    late = {name: ms for name, ms in figures.items() if ms > 1500}
    check(not late, f"lost packets until {late}")
    all_talk(net)
    if in_takeover(net):
        check(net.krypton.json("bypass")["forwards"] == "vxplane", lambda: f"{net.krypton.json('bypass')}")


def among_many_netdevs(net):
    """on a host with 120 other netdevs, some of which come and go all the time, nothing is lost and no port is attached anew"""
    node, (a, _, c, _) = net.krypton, net.guests
    all_talk(net)
    many = [f"veth{number}" for number in range(60)]

    def batch(*lines):
        node.namespace.run("ip", "-batch", "-", input="".join(line + "\n" for line in lines), stdin=None, seconds=60)

    def attached():
        return node.log("vxplane-control").count("attached") if in_takeover(net) else 0
    batch(*[f"link add {name} type veth peer name {name}p" for name in many])
    try:
        with fifth_guest(net) as guest:  # its port comes last in the kernel's list
            node.namespace.ip("link", "set", guest.port, "master", "mainvx")
            node.wait_port(guest.port)
            node.wait_ready()
            before = attached()
            with Probes((a, c), (c, guest), (guest, a)) as probes:
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    batch(*["link add churn type veth peer name churnp", "link del churn"] * 20)
                faults = [stream.fault() for stream in probes.stop() if stream.window().lost or stream.extras]
            check(not faults, lambda: "; ".join(faults))
            check(attached() == before, lambda: f"{attached() - before} times a port was attached again")
    finally:
        batch(*[f"link del {name}" for name in many])


FOLLOWING = [among_many_netdevs, ports_come_and_go, remotes_come_and_go, mtu_followed, port_flags, static_entries, thousand_entries, devices_made_anew]

if __name__ == "__main__":
    suite = Suite("follow")
    suite.group("kernel", lambda: pair("kernel", "kernel"), FOLLOWING, needs_vxplane=False)
    suite.group("takeover", lambda: pair("takeover", "kernel"), FOLLOWING)
    suite.main()
