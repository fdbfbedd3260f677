#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Full-size guests: TCP of guests whose kernels leave segmentation and checksums to the device, and UDP super-frames, move
bulk data whole, both ways, without a wrong checksum, a drop or a retransmit.

Guests hang on the three kinds of port: `netdev` on a veth, a `tap` of the dataplane, and `netdev` on a tap that another process
holds, as QEMU does. Most cases move 50 MB each way, one of each network 1 GB; --full: all 1 GB.
"""

import contextlib
import sys

from cases import Failed, Suite, check
from lab import OVERLAY_MTU, Cable, Guest
from nodes import Network, VxplaneNode, dropped_since, in_lab, make_node
from transfer import MEGABYTE, errors_of, keep_order, lost_by_devices, prepare, send_uso, snmp, transfer

SMALL, LARGE = 50 * MEGABYTE, 1000 * MEGABYTE
LATE = 60  # segments of one case that may be sent again for being late: a super-frame
KINDS = ("netdev", "tap", "held")


class OffloadNet(Network):
    """krypton has an untagged and a VLAN-100 guest of each kind; xenon one of both, on netdev veths (a vxplane xenon: tap and held)."""

    def __init__(self, lab, kinds, driver, **options):
        self.lab = lab
        cable = Cable(lab)
        names = [f"guest{number} driver=tap" for number in range(1, 20)]
        settings = {"underlay": {"driver": driver}}
        self.krypton, self.xenon = (make_node(kind, lab, name, number, cable, remotes=[3 - number], settings=settings, **options,
                                              ports=["tap*i* driver=netdev", *(names[2:4] if number == 1 else names[10:11])])
                                    for kind, name, number in zip(kinds, ("krypton", "xenon"), (1, 2)))
        self.nodes = [self.krypton, self.xenon]
        for node in self.nodes:
            node.wait_ready()
        self.local, self.remote, number = {}, {}, 0
        for kind in KINDS:
            for tag in (None, 100):
                number += 1
                self.local[kind, tag] = self.plug(self.krypton, number, kind, tag)
        for number, kind, tag in ((11, "tap", None), (12, "held", 100)):
            self.remote[tag] = self.plug(self.xenon, number, kind if isinstance(self.xenon, VxplaneNode) else "netdev", tag)
        for guest in self.guests():
            guest.node.wait_port(guest.port)
        for place in [*self.nodes, *self.guests()]:
            keep_order(place.namespace)
        for (_, tag), guest in self.local.items():
            guest.wait_ping(self.remote[tag])

    def plug(self, node, number, kind, tag):
        guest = Guest(self.lab, number, tag=tag, offloads=True)
        prepare(guest)
        guest.kind = kind
        if kind == "tap" and isinstance(node, VxplaneNode):
            guest.take_tap(node, f"guest{number}")
        elif kind == "netdev":
            guest.plug_veth(node, f"tap{100 + number}i0")
        else:
            guest.plug_held(node, f"tap{100 + number}i0")
        return guest

    def guests(self):
        return [*self.local.values(), *self.remote.values()]

    def totals(self):
        return [node.stats()["totals"] for node in self.vxplane_nodes]

    @contextlib.contextmanager
    def faultless(self, *guests):
        """What happens inside costs no drop and no retransmit, and no kernel sees a wrong checksum."""
        places = [*guests, *self.nodes]
        before, devices = [snmp(place.namespace) for place in places], [lost_by_devices(place.namespace) for place in places]
        late = handed_over(self.vxplane_nodes)
        drops, ports = [node.drops() for node in self.vxplane_nodes], [node.port_losses() for node in self.vxplane_nodes]
        yield
        late = handed_over(self.vxplane_nodes) - late
        wrong = []
        for place, old, lost in zip(places, before, devices):
            name = getattr(place, "name", None) or f"guest {place.number}"
            grown = {group: {key: value - old.get(group, {}).get(key, 0) for key, value in values.items()} for group, values in snmp(place.namespace).items()}
            wrong += [f"{name}: {text}" for text in errors_of(grown)]
            # What was sent again although it had arrived (the receiver says so, RFC 2883) was late, not lost: with more to do than
            # the CPUs can that happens now and then. Often: somebody changes the order. A worker that had no CPU for 50 ms has its
            # frames from the kernel's socket, behind those of its own ring.
            again, timers = grown["Tcp"]["RetransSegs"], grown["TcpExt"]
            if again > timers["TCPDSACKRecvSegs"] + late or again > LATE + late:
                wrong.append(f"{name}: {again} retransmits ({timers['TCPTimeouts']} timeouts, {timers['TCPFastRetrans']} fast), "
                             f"{timers['TCPDSACKRecvSegs']} of what had arrived")
            more = {" ".join(key): count - lost.get(key, 0) for key, count in lost_by_devices(place.namespace).items() if count != lost.get(key, 0)}
            if more:
                wrong.append(f"{name}'s devices lost {more}")
        for node, old, lost in zip(self.vxplane_nodes, drops, ports):
            dropped = dropped_since(node, old)
            if dropped:
                wrong.append(f"{node.name} dropped {dropped}")
            if node.port_losses() != lost:
                wrong.append(f"{node.name}'s ports lost {node.port_losses()}, before {lost}")
        check(not wrong, f"{'; '.join(wrong)} (XDP handed {late} frames to the kernel)")


def moves(kind, tag, family, size):
    """A case: `size` bytes by TCP each way between a guest of this kind and one on the other node."""
    size = LARGE if "--full" in sys.argv else size

    def case(net):
        a, b = net.local[kind, tag], net.remote[tag]
        rates = []
        with net.faultless(a, b):
            for sender, receiver in ((a, b), (b, a)):
                rates.append(transfer(sender, receiver, size, family))
        if "--rates" in sys.argv:
            print(f"     {rates[0]:.2f} and {rates[1]:.2f} Gbit/s")
    case.limit_seconds = 150
    where = "the host itself" if kind == "host" else f"guest on {kind}"
    case.title = f"{size // MEGABYTE} MB both ways, {where}, {'VLAN 100' if tag else 'untagged'}, IPv{family}"
    return case


def bulk(large, kinds=KINDS):
    """All kinds of guest, tagged and not, IPv4 and IPv6; those in `large` with 1 GB."""
    return [moves(kind, tag, family, LARGE if (kind, tag, family) in large else SMALL)
            for kind in kinds for tag in (None, 100) for family in (4, 6)]


def udp_super_frames(net):
    """UDP super-frames of a guest (UDP_SEGMENT) arrive complete, every datagram as it was, IPv4 and IPv6, both ways"""
    for kind in KINDS:
        a, b = net.local[kind, None], net.remote[None]
        for family in (4, 6):
            for sender, receiver in ((a, b), (b, a)):
                with net.faultless(sender, receiver):
                    arrived, sent = send_uso(sender, receiver, family)
                check(arrived == sent, f"guest {sender.number} to {receiver.number}, IPv{family}: {arrived} of {sent} datagrams")


def handed_over(nodes):
    """Frames that XDP gave to the kernel because a worker did not say in time that it is there."""
    return sum(node.stats()["xdp"]["stale"] for node in nodes)


@contextlib.contextmanager
def named(what):
    """A failure inside says what it was at."""
    try:
        yield
    except Failed as reason:
        raise Failed(f"{what}: {reason}") from None


def local_stays_whole(net):
    """between two ports of one node super-frames stay super-frames: `segmented` stays 0, and far fewer frames pass than segments"""
    for sender, receiver in (("netdev", "tap"), ("tap", "held"), ("held", "netdev")):
        for family in (4, 6):
            a, b = net.local[sender, None], net.local[receiver, None]
            a.wait_ping(b)
            before = net.krypton.stats()["totals"]
            with named(f"{sender} to {receiver}, IPv{family}"), net.faultless(a, b):
                transfer(a, b, SMALL, family)
            after = net.krypton.stats()["totals"]
            made = after["segmented"] - before["segmented"]
            check(made == 0, f"{sender} to {receiver}, IPv{family}: {made} segments were made")
            frames = after["received"] - before["received"]
            check(frames < SMALL / 1300 / 2, f"{sender} to {receiver}, IPv{family}: {frames} frames for {SMALL} bytes: the guests' offloads were off")


def coalesces(net):
    """what comes out of the tunnel reaches guests on tap and netdev as super-frames"""
    for kind in KINDS:
        for family in (4, 6):
            a, b = net.remote[None], net.local[kind, None]
            before = net.krypton.stats()["totals"]
            transfer(a, b, SMALL, family)
            joined = net.krypton.stats()["totals"]["coalesced"] - before["coalesced"]
            check(joined > SMALL / 1300 / 4, f"{kind}, IPv{family}: {joined} segments of {SMALL} bytes were joined to others")


MAIN = {("af_xdp", "kernel"): {("netdev", None, 4), ("held", 100, 6)}, ("udp", "kernel"): {("tap", None, 6)},
        ("af_xdp", "vxplane"): {("tap", 100, 4)}, ("udp", "vxplane"): set()}


class BridgeNet(OffloadNet):
    """krypton in netdev mode: its only port is the tap vxlan_mainvx in a kernel bridge, as on a Proxmox host; a guest on the
    bridge (krypton's `local`) and the host itself, with an address on the bridge. xenon: the kernel's, with guest 11."""

    def __init__(self, lab, driver):
        self.lab = lab
        cable = Cable(lab)
        self.krypton = VxplaneNode(lab, "krypton", 1, cable, remotes=[2], ports=["vxlan_mainvx driver=tap"], settings={"underlay": {"driver": driver}})
        self.xenon = make_node("kernel", lab, "xenon", 2, cable, remotes=[1])
        self.nodes = [self.krypton, self.xenon]
        self.krypton.wait_ready()
        host = self.krypton.namespace
        host.ip("link", "add", "mainvx", "mtu", OVERLAY_MTU, "type", "bridge", "mcast_snooping", "0")
        host.ip("link", "set", "vxlan_mainvx", "master", "mainvx")
        host.ip("link", "set", "mainvx", "mtu", OVERLAY_MTU, "up")
        self.remote = {None: self.plug(self.xenon, 11, "netdev", None)}
        guest = Guest(lab, 1, offloads=True)
        prepare(guest)
        host.ip("link", "add", "tap101i0", "type", "veth", "peer", "name", "eth0", "netns", guest.namespace.name)
        host.ip("link", "set", "tap101i0", "mtu", OVERLAY_MTU, "master", "mainvx", "up")
        guest.dress()
        self.local = {("bridge", None): guest, ("host", None): Host(self.krypton)}
        for place in [*self.nodes, *self.guests()]:
            keep_order(place.namespace)
        for guest in self.local.values():
            self.remote[None].wait_ping(guest.ipv4)


class Host:
    """A host that takes part in its own overlay."""

    def __init__(self, node):
        self.namespace, self.number, self.ipv4, self.ipv6 = node.namespace, node.number, "10.0.0.101", "fd00:1::101"
        prepare(self)
        node.namespace.ip("addr", "add", f"{self.ipv4}/24", "dev", "mainvx")
        node.namespace.ip("addr", "add", f"{self.ipv6}/64", "dev", "mainvx", "nodad")


if __name__ == "__main__":
    suite = Suite("offload")
    suite.group("kernel-kernel", lambda: in_lab(OffloadNet, ("kernel", "kernel"), None), [*bulk(set(), ("netdev", "held")), udp_super_frames], needs_vxplane=False)
    for (driver, peer), large in MAIN.items():
        suite.group(f"vxplane-{peer} {driver}", lambda kinds=("vxplane", peer), driver=driver: in_lab(OffloadNet, kinds, driver),
                    [*bulk(large), udp_super_frames, coalesces, *([local_stays_whole] if peer == "kernel" else [])])
    few = [moves(kind, None, family, SMALL) for kind in ("netdev", "tap") for family in (4, 6)]
    pair = ("vxplane", "kernel")
    suite.group("vxplane-kernel af_xdp, VLAN 4003, own address", lambda: in_lab(OffloadNet, pair, "af_xdp", vlan=4003, own=True), few)
    for driver in ("af_xdp", "udp"):
        suite.group(f"vxplane-kernel {driver}, IPv6 underlay", lambda driver=driver: in_lab(OffloadNet, pair, driver, family=6, underlay_mtu=1500), few)
    suite.group("vxplane in a kernel bridge", lambda: in_lab(BridgeNet, "af_xdp"), [moves(kind, None, family, SMALL) for kind in ("bridge", "host") for family in (4, 6)])
    suite.main()
