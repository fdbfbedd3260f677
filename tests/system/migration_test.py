#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Live migration between hosts whose bridges vxplane has taken over: while both have the VM's port plugged nothing loops or is doubled,
and the VM's new place wins on its first frame. A MAC that flaps is held. The kernel alone runs the same first."""

import contextlib
import time

import frames
from cases import Suite, check, eventually
from lab import Guest, Wire, tag_edge, wire_offloads_off
from nodes import Network, TakeoverNode, in_lab, make_node
from pinger import Probes
from takeover import reached

FIRST_FRAME_MS = 20  # an announcement's way to every node of a busy machine
RARP = 0x8035


class Trio(Network):
    """krypton, xenon and argon in a full mesh; guest n on node n, guest 4 on krypton too; and a VM with a port on krypton and one
    on xenon: `eth0` and `eth1` of one namespace, with the same MAC."""

    def __init__(self, lab, kinds):
        self.lab, self.wire = lab, Wire(lab)
        names = ("krypton", "xenon", "argon")
        self.nodes = [make_node(kind, lab, name, number, self.wire, remotes=[other for other in (1, 2, 3) if other != number])
                      for number, (kind, name) in enumerate(zip(kinds, names), 1)]
        self.krypton, self.xenon, self.argon = self.nodes
        self.guests = [Guest(lab, number) for number in (1, 2, 3, 4)]
        for guest, node in zip(self.guests, [*self.nodes, self.krypton]):
            guest.plug_veth(node, f"tap10{guest.number}i0")
        for node in self.nodes:
            node.wait_ready()
        for guest in self.guests:
            guest.node.wait_port(guest.port)
        self.vm = Vm(lab, self.krypton, self.xenon, self.guests)


class Vm(Guest):
    """One device is the running VM's; the other, of the host where it is not, takes and gives nothing, as a paused QEMU."""

    def __init__(self, lab, krypton, xenon, peers):
        super().__init__(lab, 9)
        self.places = {"eth0": krypton, "eth1": xenon}
        names = {"eth0": "tap109i0", "eth1": "tap109i0"}
        self.plug_veth(krypton, names["eth0"])
        krypton.wait_port(self.port)
        xenon.namespace.ip("link", "add", names["eth1"], "type", "veth", "peer", "name", "eth1", "netns", self.namespace.name)
        wire_offloads_off(xenon.namespace, names["eth1"])
        wire_offloads_off(self.namespace, "eth1")
        xenon.namespace.run("sysctl", "-qw", f"net.ipv6.conf.{names['eth1']}.disable_ipv6=1")
        self.namespace.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1", "net.ipv6.conf.eth1.disable_ipv6=1", "net.ipv4.conf.all.arp_ignore=1",
                           "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth1.rp_filter=0")
        xenon.namespace.ip("link", "set", names["eth1"], "mtu", 1500, "up")
        self.namespace.ip("link", "set", "eth1", "address", self.mac, "mtu", self.mtu, "up")
        for device in self.places:  # its memory moves with it
            for peer in peers:
                self.namespace.ip("neigh", "replace", peer.ipv4, "lladdr", peer.mac, "dev", device, "nud", "permanent")
        for peer in peers:
            peer.namespace.ip("neigh", "replace", self.ipv4, "lladdr", self.mac, "dev", "eth0", "nud", "permanent")
        self.device = "eth0"
        self.freeze("eth1")
        self.senders = {device: frames.RawSocket(self.namespace, device) for device in self.places}
        lab.closers.extend(raw.close for raw in self.senders.values())

    @property
    def place(self):
        return self.places[self.device]

    @property
    def other(self):
        return "eth1" if self.device == "eth0" else "eth0"

    def freeze(self, device):
        tag_edge(self.namespace, device, 4000)  # a VLAN that nobody uses: nothing comes in

    def thaw(self, device):
        for way in ("ingress", "egress"):
            self.namespace.run("tc", "filter", "del", "dev", device, way)

    def enslave(self, device):
        self.places[device].namespace.ip("link", "set", "tap109i0", "master", "mainvx")

    def free(self, device):
        self.places[device].namespace.ip("link", "set", "tap109i0", "nomaster")

    def migrate(self, announcement):
        """Paused here, resumed there, announced there: (when it was paused, when it was announced)."""
        old, new = self.device, self.other
        paused = time.monotonic()
        self.freeze(old)
        # The routes to the peers go with the address; permanent neighbours stay with their devices.
        self.namespace.run("ip", "-batch", "-", input=f"addr del {self.ipv4}/24 dev {old}\naddr add {self.ipv4}/24 dev {new}\n", stdin=None)
        self.thaw(new)
        self.device = new
        announced = time.monotonic()
        self.senders[new].send(announcement)
        return paused, announced


def rarp(vm):
    body = bytes([0, 1, 8, 0, 6, 4, 0, 3]) + frames.mac_bytes(vm.mac) + bytes(4) + frames.mac_bytes(vm.mac) + bytes(4)
    return frames.ethernet("ff:ff:ff:ff:ff:ff", vm.mac, RARP, body + bytes(18))


def arp(vm):
    return frames.gratuitous_arp(vm.mac, vm.ipv4)


def taken_over(net):
    return [node for node in net.nodes if isinstance(node, TakeoverNode)]


def live_migration(net):
    """a VM moves there and back, by RARP and by gratuitous ARP: its first frame moves it, and nothing else is lost, doubled or moved"""
    vm, (on_krypton, on_xenon, on_argon, _) = net.vm, net.guests
    for guest in net.guests[:3]:
        guest.wait_ping(vm)
    report = []
    for announcement in (rarp(vm), arp(vm)) if vm.device == "eth0" else (arp(vm),):
        source, target = vm.device, vm.other
        moves = {node: node.json("fdb", "count")["moved"] for node in taken_over(net)}
        with Probes((on_krypton, vm), (on_xenon, vm), (on_argon, vm), (on_argon, on_krypton)) as probes:
            vm.enslave(target)
            time.sleep(0.5)  # both are plugged
            for sender in net.guests[:3]:
                others = [guest for guest in net.guests if guest is not sender]
                got = reached(sender, "ff:ff:ff:ff:ff:ff", others)
                check(got == {guest.number for guest in others}, f"a broadcast of guest {sender.number} reached {got} while both ports are plugged")
            paused, announced = vm.migrate(announcement)
            time.sleep(0.5)
            vm.free(source)
            time.sleep(0.3)
            streams = probes.stop()
        for stream in streams[:3]:
            settled = announced + FIRST_FRAME_MS / 1000
            before, after = stream.window(until=paused), stream.window(since=settled)
            moving = stream.window(paused, settled)
            report.append(max([at + ms / 1000 - announced for _, _, at, ms in moving.gaps], default=0.0))
            check(not after.lost and report[-1] < FIRST_FRAME_MS / 1000,
                  lambda: f"to {target}: {stream.name} lost packets after the announcement at {announced:.3f}: {moving.gaps} {after.gaps}")
            check(not before.lost, lambda: f"to {target}: {stream.name} lost {before.lost} before the VM was paused")
            check(not stream.extras, lambda: stream.fault(duplicates_only=True))
        beside = streams[3]
        check(not beside.window().lost and not beside.extras, beside.fault())
        for node, count in moves.items():
            moved = node.json("fdb", "count")["moved"] - count
            check(moved <= 1, f"{node.name}: {moved} moves for one migration")
        for node in net.nodes:
            want = ("port", "tap109i0") if node is vm.place else ("vtep", vm.place.vtep)
            eventually(lambda node=node, want=want: node.place_of(vm) == want, 1, lambda node=node, want=want: f"{node.name}: {node.place_of(vm)}, not {want}")
    print(f"     back {max(report) * 1000:.1f} ms after the announcement at worst of {len(report)} streams", flush=True)


def call(raw, mac):
    raw.send(frames.ethernet("ff:ff:ff:ff:ff:ff", mac, 0x88B5, b"flapping" + bytes(40)))


@contextlib.contextmanager
def raw_ends(*guests):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(frames.RawSocket(guest.namespace, "eth0")) for guest in guests]


def flapping_is_held(net):
    """a MAC whose frames come from two ports in turn, 20 a second, is held at one of them and reported; then released"""
    node, other = net.krypton, net.guests[3]
    local, remote = "52:54:00:00:99:01", "52:54:00:00:99:02"
    with raw_ends(net.guests[0], other, net.guests[2]) as (first, second, far):
        for number in range(40):
            call((first, second)[number % 2], local)
            call((first, far)[number % 2], remote)
            time.sleep(0.05)
        held_at = time.monotonic()
        for mac, ends in ((local, (first, second)), (remote, (first, far))):
            check(is_held(node, mac), lambda mac=mac: f"{mac} is not held: {node.fdb(mac)}, {node.ctl('status')}")
            moved = node.json("fdb", "count")["moved"]
            place = node.fdb(mac)
            for number in range(10):
                call(ends[number % 2], mac)
                time.sleep(0.02)
            check(node.json("fdb", "count")["moved"] == moved, f"{mac} moved while it was held")
            check([entry["ifname"] for entry in node.fdb(mac)] == [entry["ifname"] for entry in place], "its place changed")
        check(local in node.log("vxplane-control"), "the log does not name it")
    live_migration(net)  # beside it a VM may move
    eventually(lambda: not is_held(node, local) and not is_held(node, remote), held_at + 33 - time.monotonic(), "it is still held after 33 s", 0.2)
    with raw_ends(other) as (second,):
        call(second, local)
        eventually(lambda: [entry["ifname"] for entry in node.fdb(local)] == [other.port], 2, lambda: f"released, it does not move: {node.fdb(local)}")


def is_held(node, mac):
    return mac in node.ctl("status")


if __name__ == "__main__":
    suite = Suite("migration")
    suite.group("kernel", lambda: in_lab(Trio, ("kernel",) * 3), [live_migration], needs_vxplane=False)
    suite.group("takeover-takeover-kernel", lambda: in_lab(Trio, ("takeover", "takeover", "kernel")), [live_migration, flapping_is_held])
    suite.main()
