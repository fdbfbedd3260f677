#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""EVPN by Debian's FRR on three nodes with the configuration of config/noble/frr: who is where comes from BGP, not from what
the tunnel carries. Each case runs with three kernel nodes (the oracle), with takeover on one, and with takeover on all."""

import json
import os
import socket
import struct
import subprocess
import time

import frames
from cases import Suite, check, eventually
from frr import Frr
from lab import REPOSITORY, UNDERLAY_DEVICE, Guest, Wire
from nodes import KernelNode, Network, TakeoverNode, in_lab
from pinger import Probes
from takeover_test import kernel_counts

NAMES = ("xenon", "krypton", "argon")
FLOOD = "00:00:00:00:00:00"
# A move is known everywhere: the way over two zebras and two bgpds takes 60 ms (bgpd gathers for 50), and this machine has other work.
CONVERGED_SECONDS = 3
# Started once the tunnel is as EVPN wants it. Who is where is at stake here, not how long a starved worker may be silent.
TAKEOVER = {"start": False, "settings": {"dataplane": {"stale-after": 1000}}}


class Someone:
    """A MAC without a guest: frames with it come from where a case sends them."""

    count = 0

    def __init__(self):
        Someone.count += 1
        self.number, self.mac = f"nobody {Someone.count}", f"52:54:00:ee:00:{Someone.count:02x}"


class Loopback:
    """For a node whose VTEP address is on `lo`, as in a routed underlay: the NIC has another, and routes lead to the others' VTEPs."""

    def address(self, host=True, vtep=True):
        self.namespace.ip("addr", "replace", f"10.9.0.{self.number}/24", "dev", UNDERLAY_DEVICE)
        self.namespace.ip("addr", "replace", f"{self.vtep}/32", "dev", "lo")
        for other in {1, 2, 3} - {self.number}:
            self.namespace.ip("route", "replace", self.vtep_of(other), "via", f"10.9.0.{other}", "src", self.vtep)

    def add_vxlan(self, name, vni, csum=True):
        self.namespace.ip("link", "add", name, "type", "vxlan", "id", vni, "local", self.vtep, "dstport", 4789, "ttl", 64)


class LoopbackTakeoverNode(Loopback, TakeoverNode):
    pass


class Evpn(Network):
    """Nodes 1 to 3 on one wire, guest n on node n; `kinds`: a node's class each."""

    def __init__(self, lab, *kinds):
        self.lab, self.wire = lab, Wire(lab)
        self.nodes = [kind(lab, name, number, self.wire, **(TAKEOVER if issubclass(kind, TakeoverNode) else {}))
                      for kind, name, number in zip(kinds, NAMES, (1, 2, 3))]
        for node in self.nodes:
            node.namespace.ip("link", "set", "vxlan_mainvx", "type", "vxlan", "nolearning")
            node.namespace.run("bridge", "link", "set", "dev", "vxlan_mainvx", "learning", "off", "neigh_suppress", "off")
        for node in self.taken_over:
            node.start()
        self.guests = [Guest(lab, number) for number in (1, 2, 3)]
        self.frrs = [Frr(node, os.path.join(REPOSITORY, "config", "noble", "frr", f"{node.name}.conf")) for node in self.nodes]
        for frr in self.frrs:
            frr.load()
        for guest, node in zip(self.guests, self.nodes):
            guest.plug_veth(node, f"tap10{guest.number}i0")
        for node in self.nodes:
            node.wait_ready()
        self.wait_sessions()
        for node in self.taken_over:
            wait_forwards(node)

    @property
    def taken_over(self):
        return [node for node in self.nodes if isinstance(node, TakeoverNode)]

    def check_conservation(self):
        for node in self.taken_over:
            node.check_conservation()

    def wait_sessions(self):
        for frr in self.frrs:
            eventually(lambda: len(frr.established()) == 2, 15, lambda: f"{frr.node.name} has sessions with {frr.established()}")
        for node in self.nodes:
            eventually(lambda: flood_list(node) == self.vteps_but(node), 5, lambda: f"{node.name} floods to {flood_list(node)}")

    def vteps_but(self, *nodes):
        return {node.vtep for node in self.nodes if node not in nodes}

    def place(self, node, port, at):
        """Where `node` is to have a MAC that is behind `port` of the node `at`."""
        return ("port", port) if node is at else ("vtep", at.vtep)

    def wrong(self, guest, port=None, at=None, zebra=True):
        """Texts of all tables that do not have `guest` (whatever has a mac) behind `port` of the node `at`; `at` None: that have it at all."""
        texts = []
        for node, frr in zip(self.nodes, self.frrs):
            want = self.place(node, port, at) if at else None
            for table, place_of in [*tables(node), *([("zebra", frr.place_of)] if zebra else [])]:
                if (place := place_of(guest)) != want:
                    texts.append(f"{node.name}'s {table} has {guest.mac} at {place}, not {want}")
                    break
        return texts

    def wait_place(self, guest, port=None, at=None, seconds=CONVERGED_SECONDS, zebra=True):
        eventually(lambda: not self.wrong(guest, port, at, zebra), seconds, lambda: "; ".join(self.wrong(guest, port, at, zebra)), 0.005)

    def all_known(self):
        """Every guest has spoken and is known everywhere (zebra, which takes longer to ask, is not asked)."""
        for guest in self.guests:
            guest.announce()
        for guest in self.guests:
            self.wait_place(guest, guest.port, guest.node, zebra=False)


def tables(node):
    """(what, place_of) of what forwards on this node and of what stands by."""
    return [("kernel", lambda guest: node.kernel_place(guest.mac)), *([("vxplane", node.place_of)] if isinstance(node, TakeoverNode) else [])]


def wait_forwards(node):
    """vxplane is not in bypass: frames go its way."""
    eventually(lambda: node.json("bypass")["forwards"] == "vxplane", 10, lambda: f"{node.name}: the kernel forwards: {node.ctl('bypass')}")


def vxlan_entries(node, mac):
    """The kernel's entries of `mac` on the tunnel: the bridge's and the vxlan's own."""
    entries = json.loads(node.namespace.run("bridge", "-json", "fdb", "show", "dev", "vxlan_mainvx").stdout or "[]")
    return [entry for entry in entries if entry["mac"] == mac]


def flood_list(node):
    """VTEPs to which this node floods; kernel and vxplane, where it has both, are of one mind."""
    kernels = {entry["dst"] for entry in vxlan_entries(node, FLOOD)}
    return kernels if not isinstance(node, TakeoverNode) or kernels == {vtep["dst"] for vtep in node.json("vtep") if vtep["flood"]} else None


def others(net, guest):
    return [other for other in net.guests if other is not guest]


def frame_from(someone, marker=b"evpn", to="ff:ff:ff:ff:ff:ff"):
    return frames.ethernet(to, someone.mac, 0x88B5, marker + bytes(46))


# ---- cases ----


def everyone_knows(net):
    """flood lists and MACs come from EVPN, to all tables of all nodes; guests reach each other, IPv4 and IPv6"""
    net.all_known()
    for a in net.guests:
        net.wait_place(a, a.port, a.node)
        for b in others(net, a):
            a.ping(b, count=1)
            a.ping(b.ipv6, count=1)
    for node in net.nodes:
        check(flood_list(node) == net.vteps_but(node), f"{node.name} floods to {flood_list(node)}")
        for guest in net.guests:
            if guest.node is not node:
                entries = vxlan_entries(node, guest.mac)
                check(len(entries) == 2 and all("extern_learn" in entry["flags"] for entry in entries), f"{node.name}: not EVPN's: {entries}")


def known_is_not_flooded(net):
    """what is for a known guest goes to its VTEP only"""
    net.all_known()
    with Probes(*[(a, b) for a in net.guests for b in others(net, a)]) as probes:
        time.sleep(0.2)  # neighbours are resolved, which takes broadcasts
        before = [(node, kernel_counts(node)) for node in net.taken_over]
        with frames.Capture(net.wire.namespace, *net.wire.ports) as capture:
            time.sleep(0.3)
        faults = probes.faults()
    check(not faults, "; ".join(faults))
    for node, count in before:
        check(kernel_counts(node) - count < 20, f"{node.name}'s kernel moved {kernel_counts(node) - count} packets of the tunnel itself")
    outers = frames.vxlan_frames([frame for _, frame in capture.frames])
    check(len(outers) > 500, f"only {len(outers)} frames in the tunnels")
    places = {guest.mac: guest.node.vtep for guest in net.guests}
    strays = [(frames.mac_text(outer.inner[:6]), outer.addresses) for outer in outers
              if places.get(frames.mac_text(outer.inner[:6]), outer.addresses[1]) != outer.addresses[1]]
    check(not strays, f"{len(strays)} of {len(outers)} to a VTEP that has not the guest: {strays[:3]}")


def tunnel_teaches_nothing(net):
    """source MACs of what comes out of the tunnel are not believed"""
    net.all_known()
    node, liar = net.nodes[0], net.nodes[1]
    stranger = Someone()
    with liar.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((liar.vtep, 55555))
        with frames.Capture(net.guests[0].namespace, "eth0") as seen:
            for source in (stranger, net.guests[2]):
                sender.sendto(struct.pack("!II", 0x08000000, node.vni << 8) + frame_from(source, b"a lie"), (node.vtep, 4789))
            check(seen.wait(lambda frame: b"a lie" in frame), "what the tunnel carried did not arrive")
    time.sleep(0.3)
    wrong = net.wrong(stranger) + net.wrong(net.guests[2], net.guests[2].port, net.nodes[2])
    check(not wrong, "; ".join(wrong))


def mac_moves(net):
    """a MAC that appears on another node is there for everyone at once, for its old node too, and nobody floods to it"""
    wanderer, took = Someone(), []
    for number in (0, 1, 0, 2):  # back where it was as well: the kernel tells less of that
        guest = net.guests[number]
        started = time.monotonic()
        frames.send(guest, frame_from(wanderer))
        net.wait_place(wanderer, guest.port, guest.node, zebra=False)
        took.append(1000 * (time.monotonic() - started))
        with frames.Capture(net.wire.namespace, *net.wire.ports) as capture, frames.Capture(guest.namespace, "eth0") as here:
            for other in others(net, guest):
                frames.send(other, frame_from(other, b"to the wanderer", wanderer.mac))
            check(here.wait(lambda frame: b"to the wanderer" in frame), f"{wanderer.mac} on {guest.node.name} gets nothing")
        copies = sum(b"to the wanderer" in frame for _, frame in here.frames)
        strays = [outer.addresses for outer in frames.vxlan_frames([frame for _, frame in capture.frames])
                  if b"to the wanderer" in outer.inner and outer.addresses[1] != guest.node.vtep]
        check(copies == 2 and not strays, f"on {guest.node.name}: {copies} of 2 frames; to others: {strays}")
    net.wait_place(wanderer, net.guests[2].port, net.nodes[2])
    print(f"     appeared, then moved three times; known everywhere after {', '.join(f'{ms:.0f}' for ms in took)} ms", flush=True)


def sticky_stays(net):
    """a MAC that is sticky at its node is so everywhere: a frame from elsewhere does not move it"""
    anchored, home, thief = Someone(), net.guests[0], net.guests[1]
    home.node.namespace.run("bridge", "fdb", "add", anchored.mac, "dev", home.port, "master", "dynamic", "sticky")
    try:
        net.wait_place(anchored, home.port, home.node)
        frames.send(thief, frame_from(anchored))
        time.sleep(0.5)
        wrong = net.wrong(anchored, home.port, home.node)
        check(not wrong, "; ".join(wrong))
    finally:
        home.node.namespace.run("bridge", "fdb", "del", anchored.mac, "dev", home.port, "master")
    net.wait_place(anchored)


def guest_moves(net):
    """a guest moves to another node and says so once: traffic follows within a second; and back"""
    guest = net.guests[0]
    net.all_known()
    try:
        move(net, guest, 1, "tap111i0")
    finally:
        move(net, guest, 0, "tap101i0")


def move(net, guest, number, port):
    guest.plug_veth(net.nodes[number], port)
    guest.node.wait_port(port)
    net.frrs[number].wait_port(port)
    guest.announce()
    net.wait_place(guest, port, guest.node)
    for other in others(net, guest):
        other.wait_ping(guest, 1)


def ageing(net):
    """who is silent stays known for as long as his own node has him, who talks is never withdrawn; who is forgotten is flooded to"""
    silent, owner, rest = Someone(), net.nodes[2], net.nodes[:2]
    net.all_known()
    frames.send(net.guests[2], frame_from(silent))
    net.wait_place(silent, net.guests[2].port, owner)
    talkers = net.guests[:2]
    try:
        with Probes(talkers, period_us=20000) as probes:
            for node in rest:
                set_ageing(node, 2)
            with owner.namespace.popen("bridge", "monitor", "fdb", stdout=subprocess.PIPE) as monitor:
                time.sleep(3)
                monitor.terminate()
                events = [line for line in monitor.stdout.read().splitlines() if any(guest.mac in line for guest in talkers)]
            faults = probes.faults()
        check(not events and not faults, f"{owner.name} heard {events[:4]}; {faults}")
        for node in rest:
            places = [place_of(silent) for _, place_of in tables(node)]
            check(set(places) == {("vtep", owner.vtep)}, f"{node.name} has it at {places}")
        set_ageing(owner, 1)
        net.wait_place(silent, seconds=5)
        with frames.Capture(net.guests[2].namespace, "eth0") as seen:
            frames.send(net.guests[0], frame_from(net.guests[0], b"wake up", silent.mac))
            check(seen.wait(lambda frame: b"wake up" in frame), "a forgotten guest is not flooded to")
    finally:
        for node in net.nodes:
            set_ageing(node, 300)


def set_ageing(node, seconds):
    node.namespace.ip("link", "set", "mainvx", "type", "bridge", "ageing_time", seconds * 100)


def bgpd_dies(net):
    """kill -9 of a node's bgpd: all it told is withdrawn, others go on; its restart brings all back"""
    net.all_known()
    dead, guest = net.nodes[2], net.guests[2]
    with Probes((net.guests[0], net.guests[1])) as probes:
        net.frrs[2].kill("bgpd")
        for node in net.nodes[:2]:
            eventually(lambda: flood_list(node) == net.vteps_but(node, dead), 3, lambda: f"{node.name} still floods to {flood_list(node)}")
            eventually(lambda: all(place_of(guest) is None for _, place_of in tables(node)), 3, f"{node.name} still has guest 3")
        eventually(lambda: not flood_list(dead), 3, lambda: f"{dead.name} floods to {flood_list(dead)}")
        net.frrs[2].load()
        net.wait_sessions()
        net.wait_place(guest, guest.port, dead)
        faults = probes.faults()
    check(not faults, "; ".join(faults))
    guest.wait_ping(net.guests[0], 2)


def host_dies(net):
    """a node that is cut off is forgotten after BGP's hold time, and back when its cable is"""
    net.all_known()
    dead, guest = net.nodes[1], net.guests[1]
    net.wire.namespace.ip("link", "set", dead.wire_port, "nomaster")
    try:
        for node in (net.nodes[0], net.nodes[2]):
            eventually(lambda: flood_list(node) == net.vteps_but(node, dead), 6, lambda: f"{node.name} still floods to {flood_list(node)}")
            eventually(lambda: all(place_of(guest) is None for _, place_of in tables(node)), 3, f"{node.name} still has guest 2")
    finally:
        net.wire.namespace.ip("link", "set", dead.wire_port, "master", "switch")
    net.wait_sessions()
    net.wait_place(guest, guest.port, dead)
    guest.wait_ping(net.guests[0], 2)


def dataplane_dies(net):
    """kill -9 of vxplane-dataplane: the kernel forwards at once, by a FDB in which nobody is missing; nothing is withdrawn or flooded"""
    net.all_known()
    node, guest, other = net.nodes[0], net.guests[0], net.guests[1]
    set_stale_after(node, 50)  # the kernel closes a killed process' sockets only when it has taken its memory away, which may take longer
    try:
        with Probes((guest, other), (net.guests[2], guest)) as probes, frames.Capture(net.wire.namespace, *net.wire.ports) as capture:
            time.sleep(0.3)
            killed = time.monotonic()
            node.kill("dataplane")
            time.sleep(0.5)
            wrong = [text for one in net.guests for text in net.wrong(one, one.port, one.node)]
            streams = probes.stop()
    finally:
        node.start_dataplane()
        node.wait_ready()
        set_stale_after(node, 1000)
        wait_forwards(node)
    check(not any("kernel" in text or "zebra" in text for text in wrong), "; ".join(wrong))
    for stream in streams:
        gap = stream.window(killed - 0.05, killed + 0.5).longest_gap_ms
        check(not stream.extras and gap < 150, f"{gap:.0f} ms after the kill; {stream.fault()}")
    strays = [outer.addresses for outer in frames.vxlan_frames([frame for _, frame in capture.frames])
              if any(frames.mac_text(outer.inner[:6]) == one.mac and outer.addresses[1] != one.node.vtep for one in net.guests)]
    check(not strays, f"{len(strays)} frames for known guests went to others: {strays[:3]}")
    net.all_known()


def set_stale_after(node, ms):
    node.settings = {"dataplane": {"stale-after": ms}}
    node.control_flags()  # writes the file
    node.ctl("reload")


def moves_in_bypass(net):
    """in bypass the kernel learns; when vxplane goes on it has a MAC that came, and one that left, meanwhile"""
    came, left = Someone(), Someone()
    frames.send(net.guests[0], frame_from(left))
    net.wait_place(left, net.guests[0].port, net.nodes[0])
    for node in net.taken_over:
        node.ctl("bypass", "on")
    try:
        frames.send(net.guests[0], frame_from(came))
        frames.send(net.guests[1], frame_from(left))
        for one, number in ((came, 0), (left, 1)):
            eventually(lambda: net.nodes[0].kernel_place(one.mac) == net.place(net.nodes[0], net.guests[number].port, net.nodes[number]), 3,
                       lambda: f"{net.nodes[0].name}'s kernel has {one.mac} at {net.nodes[0].kernel_place(one.mac)}")
    finally:
        for node in net.taken_over:
            node.ctl("bypass", "off")
            wait_forwards(node)
    for one, number in ((came, 0), (left, 1)):
        net.wait_place(one, net.guests[number].port, net.nodes[number])


def control_away(net):
    """a MAC that moves while control is dead is where EVPN has it once control is back; it is not drawn back"""
    node, wanderers = net.nodes[0], [Someone(), Someone()]
    homes = [(wanderers[0], net.guests[0], net.guests[1]), (wanderers[1], net.guests[2], net.guests[1])]
    for wanderer, old, _ in homes:
        frames.send(old, frame_from(wanderer))
        net.wait_place(wanderer, old.port, old.node)
    node.kill("control")
    for wanderer, _, new in homes:
        frames.send(new, frame_from(wanderer))
        eventually(lambda: node.kernel_place(wanderer.mac) == ("vtep", new.node.vtep), 3, lambda: f"the kernel has it at {node.kernel_place(wanderer.mac)}")
    node.start_control()
    node.wait_ready()
    wait_forwards(node)
    for wanderer, _, new in homes:
        net.wait_place(wanderer, new.port, new.node)
    time.sleep(1)
    wrong = [text for wanderer, _, new in homes for text in net.wrong(wanderer, new.port, new.node)]
    check(not wrong, "; ".join(wrong))


CASES = [everyone_knows, known_is_not_flooded, tunnel_teaches_nothing, mac_moves, sticky_stays, guest_moves, ageing, bgpd_dies]
CASES_TAKEOVER = [host_dies, moves_in_bypass, control_away, dataplane_dies]

if __name__ == "__main__":
    suite = Suite("evpn")
    suite.group("three kernel nodes", lambda: in_lab(Evpn, *[KernelNode] * 3), CASES, needs_vxplane=False)
    suite.group("takeover on xenon", lambda: in_lab(Evpn, TakeoverNode, KernelNode, KernelNode), [everyone_knows, mac_moves, guest_moves])
    suite.group("takeover on all", lambda: in_lab(Evpn, *[TakeoverNode] * 3), [*CASES, *CASES_TAKEOVER])
    suite.group("takeover on all, VTEPs on lo", lambda: in_lab(Evpn, *[LoopbackTakeoverNode] * 3), [everyone_knows, known_is_not_flooded])
    suite.main()
