#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The underlay: fragments from Linux peers, other VNIs on the same port, unknown VTEPs, hostile frames, several VNIs in one
instance, path MTU."""

import contextlib
import socket
import struct

import frames
from cases import Suite, check, eventually
from lab import OVERLAY_MTU, UNDERLAY_DEVICE, Guest, Lab, Wire
from nodes import KernelNode, VxplaneNode, pair


def fragments_arrive(net):
    """outer fragments of a kernel peer are not lost, IPv4 and IPv6 inside, and answers return"""
    sender, receiver = net.guests[2], net.guests[0]  # 3 is on the kernel node xenon
    sender.ping(receiver)
    # A smaller MTU on the peer's route makes its kernel fragment what it encapsulates.
    net.xenon.namespace.ip("route", "replace", f"{net.krypton.vtep}/32", "dev", UNDERLAY_DEVICE, "src", net.xenon.vtep, "mtu", "lock", "1300")
    try:
        with frames.Capture(net.wire.namespace, net.xenon.wire_port) as wire:
            sender.ping(receiver, size=OVERLAY_MTU, count=10, dont_fragment=False)
        pieces = [frame for frame in wire.of(net.xenon.wire_port) if frame[12:14] == b"\x08\x00" and struct.unpack_from("!H", frame, 20)[0] & 0x3FFF]
        check(pieces, "the kernel did not fragment: the case shows nothing")
        done = sender.namespace.run("ping", "-n", "-q", "-c", 20, "-i", "0.02", "-W", 1, "-M", "dont", "-s", OVERLAY_MTU - 28, receiver.ipv4, check=False)
        check(" 0% packet loss" in done.stdout, done.stdout.strip())
        # And the way back from the vxplane side, which sends no fragments.
        receiver.ping(sender, size=OVERLAY_MTU, count=5)
    finally:
        net.xenon.namespace.ip("route", "del", f"{net.krypton.vtep}/32", "dev", UNDERLAY_DEVICE, check=False)
        net.xenon.namespace.ip("route", "flush", "cache", check=False)


def no_port_unreachable(net):
    """no ICMP port-unreachable answers passed VXLAN (a fragment's, another VNI's)"""
    with frames.Capture(net.wire.namespace, net.krypton.wire_port) as wire:
        with frames.RawSocket(net.xenon.namespace, UNDERLAY_DEVICE) as raw:
            for vni in (1000, 4711):
                raw.send(outer_frame(net.xenon, net.krypton, vni))
        with contextlib.suppress(Exception):
            fragments_arrive(net)
    icmp = [frame for frame in wire.of(net.krypton.wire_port) if frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 3]
    check(not icmp, f"{len(icmp)} ICMP unreachable messages on the wire")


def outer_frame(source, destination, vni=1000, flags=8, reserved=0, reserved2=0, source_address=None, inner=None, udp_checksum=0, udp_length=None,
                port=4789):
    """A VXLAN frame by hand from one node's NIC to another's."""
    inner = inner or frames.ethernet("ff:ff:ff:ff:ff:ff", "52:54:00:66:66:66", 0x88B5, b"by-hand" + bytes(46))
    vxlan = struct.pack("!BBHI", flags, reserved, 0, vni << 8 | reserved2)
    length = 8 + len(vxlan) + len(inner)
    udp = struct.pack("!HHHH", 50000, port, udp_length or length, udp_checksum) + vxlan + inner
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0, 64, 17, 0, socket.inet_aton(source_address or source.vtep),
                       socket.inet_aton(destination.vtep))
    head = head[:10] + struct.pack("!H", frames.checksum(head)) + head[12:]
    return frames.ethernet(destination.mac(), source.mac(), frames.IPV4, head + udp)


def own_fragments(net):
    """with vtep-address = own, fragments are made whole by vxplane and counted"""
    before = net.krypton.stats()["fragments"]
    fragments_arrive(net)
    after = net.krypton.stats()["fragments"]
    # 30 pings came in two pieces each, and the answers to 5.
    check(after["reassembled"] >= before["reassembled"] + 30 and after["received"] >= before["received"] + 60, f"before {before}, after {after}")
    check(after["lost"] == before["lost"], f"{after['lost'] - before['lost']} fragments lost")


def fragments_of(frame, pieces):
    """An untagged IPv4 frame with a header of 20 bytes in fragments [(first, end)], bytes of its IP payload."""
    payload = frame[34:]
    for first, end in pieces:
        more = 0x2000 if end < len(payload) else 0
        head = frame[14:16] + struct.pack("!HHHBBH", 20 + end - first, 77, more | first // 8, 64, 17, 0) + frame[26:34]
        head = head[:10] + struct.pack("!H", frames.checksum(head)) + head[12:]
        yield frame[:14] + head + payload[first:end]


def own_fragments_by_hand(net):
    """with vtep-address = own, fragments out of order are joined, overlapping ones and those left alone are dropped and counted"""
    node, whole = net.krypton, outer_frame(net.xenon, net.krypton)
    end = len(whole) - 34
    with frames.RawSocket(net.xenon.namespace, UNDERLAY_DEVICE) as raw:
        def send(pieces, wait=0.5):
            with frames.Capture(net.guests[0].namespace, "eth0") as seen:
                for piece in fragments_of(whole, pieces):
                    raw.send(piece)
                return seen.wait(lambda frame: b"by-hand" in frame, wait) is not None

        net.guests[2].ping(net.guests[0])
        check(send([(48, end), (0, 24), (24, 48)]), "fragments out of order did not arrive")
        lost = node.stats()["fragments"]["lost"]
        check(not send([(0, 48), (40, end)]), "overlapping fragments arrived")
        check(node.stats()["fragments"]["lost"] == lost + 2, "overlapping fragments were not counted as lost")
        check(not send([(0, 48)]), "half a datagram arrived")
        eventually(lambda: node.stats()["fragments"]["lost"] == lost + 3, 3, "a fragment that stayed alone was not given up")
    node.check_conservation()


HOSTILE = [  # what, how, drop reason or XDP exit of which one must count it
    ("I flag clear", {"flags": 0}, ("vxlan_bad_flags", "bad_flags")),
    ("a reserved bit set", {"flags": 0x88}, ("vxlan_bad_flags", "bad_flags")),
    ("the reserved byte behind the VNI set", {"reserved2": 1}, ("vxlan_bad_flags", "bad_flags")),
    ("an unknown VNI", {"vni": 4711}, ("vxlan_unknown_vni", "unknown_vni")),
    ("a wrong UDP checksum", {"udp_checksum": 0x1234}, ("outer_bad_checksum",)),
    ("a stranger as source", {"source_address": "172.18.1.77"}, ("vxlan_unknown_vtep",)),
    ("our own address as source", {"source_address": "172.18.1.1"}, ("outer_own_source",)),
    ("an inner frame of 10 bytes", {"inner": bytes(10)}, ("inner_truncated",)),
    ("a UDP length beyond the packet", {"udp_length": 400}, ("outer_truncated", "truncated")),
    ("a group address as inner source", {"inner": frames.ethernet("ff:ff:ff:ff:ff:ff", "53:54:00:66:66:66", 0x88B5, b"by-hand" + bytes(46))},
     ("smac_invalid",)),
]


def hostile_frames(net):
    """every malformed outer frame is dropped, not flooded, and counted under its reason"""
    node = net.krypton
    net.guests[2].ping(net.guests[0])
    wrong = []
    with frames.RawSocket(net.xenon.namespace, UNDERLAY_DEVICE) as raw:
        for what, how, reasons in HOSTILE:
            def counted():
                stats = node.stats()
                return {**stats.get("xdp", {}), **stats["drops"]}
            before = counted()
            with frames.Capture(net.guests[0].namespace, "eth0") as seen:
                for _ in range(3):
                    raw.send(outer_frame(net.xenon, net.krypton, **how))
                with contextlib.suppress(Exception):
                    eventually(lambda: any(counted().get(reason, 0) >= before.get(reason, 0) + 3 for reason in reasons), 1, "")
            after = counted()
            if not any(after.get(reason, 0) >= before.get(reason, 0) + 3 for reason in reasons):
                grown = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
                wrong.append(f"{what}: not counted as {' or '.join(reasons)} but {grown}")
            if any(b"by-hand" in frame for _, frame in seen.frames):
                wrong.append(f"{what}: reached a guest")
    check(not wrong, "; ".join(wrong))


def good_frame_by_hand(net):
    """the same frame without a fault reaches the guest (UDP checksum zero)"""
    with frames.RawSocket(net.xenon.namespace, UNDERLAY_DEVICE) as raw, frames.Capture(net.guests[0].namespace, "eth0") as seen:
        raw.send(outer_frame(net.xenon, net.krypton))
        check(seen.wait(lambda frame: b"by-hand" in frame), "it did not arrive")


def kernel_vni_beside():
    """a kernel vxlan device that already holds the port keeps its other VNI working, and vxplane's VNI works"""
    beside({}, before_start=True)


def kernel_vni_comes_later():
    """hold-port = no leaves the port free for a kernel vxlan device that comes later"""
    beside({"vxlan": {"hold-port": "no"}}, before_start=False)


def beside(settings, before_start):
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], settings=settings, ports=["tap*i* driver=netdev"], start=False)
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])

        def add(node, other):
            node.namespace.ip("link", "add", "vxlan42", "type", "vxlan", "id", 42, "local", node.vtep, "remote", other.vtep, "dstport", 4789)
            node.namespace.ip("addr", "add", f"10.42.0.{node.number}/24", "dev", "vxlan42")
            node.namespace.ip("link", "set", "vxlan42", "mtu", OVERLAY_MTU, "up")

        add(xenon, krypton)
        if before_start:
            add(krypton, xenon)
        a, b = Guest(lab, 1), Guest(lab, 3)
        krypton.start()
        krypton.wait_ready()
        if not before_start:
            add(krypton, xenon)
        a.plug_veth(krypton, "tap101i0")
        b.plug_veth(xenon, "tap103i0")
        krypton.wait_port("tap101i0")
        a.wait_ping(b)
        for node, address in ((krypton, "10.42.0.2"), (xenon, "10.42.0.1")):
            def answered():
                return node.namespace.run("ping", "-n", "-q", "-c", 2, "-i", "0.05", "-W", 1, address, check=False).returncode == 0
            eventually(answered, 5, f"VNI 42 of the kernel does not work from {node.name}")
        a.ping(b)


def vtep_learning():
    """vtep-learning: no drops an unknown VTEP's frames, yes answers it, flood also floods to it"""
    for mode, answered, flooded in (("no", False, False), ("yes", True, False), ("flood", True, True)):
        with Lab() as lab:
            wire = Wire(lab)
            krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], settings={"vxlan": {"vtep-learning": mode}}, ports=["tap*i* driver=netdev"])
            stranger = KernelNode(lab, "stranger", 3, wire, remotes=[1])
            a, c = Guest(lab, 1), Guest(lab, 5)
            a.plug_veth(krypton, "tap101i0")
            c.plug_veth(stranger, "tap105i0")
            krypton.wait_ready()
            krypton.wait_port("tap101i0")
            reached = False
            for _try in range(4):
                reached = reached or c.ping(a, count=1, seconds=1, check=False)
            check(reached == answered, f"vtep-learning = {mode}: the stranger's guest was {'' if reached else 'not '}answered")
            if mode == "no":
                check(krypton.drops()["vxlan_unknown_vtep"] > 0, "not counted vxlan_unknown_vtep")
                continue
            with frames.Capture(c.namespace, "eth0") as seen:
                frames.send(a, frames.ethernet("ff:ff:ff:ff:ff:ff", a.mac, 0x88B5, b"to-all" + bytes(46)))
                got = seen.wait(lambda frame: b"to-all" in frame, 1) is not None
            check(got == flooded, f"vtep-learning = {mode}: a broadcast was {'' if got else 'not '}flooded to the stranger")
            vteps = {vtep["dst"]: vtep for vtep in krypton.json("vtep")}
            check(stranger.vtep in vteps and vteps[stranger.vtep]["flood"] == flooded, f"vtep-learning = {mode}: vxctl vtep says {vteps}")
            krypton.check_conservation()


def three_nodes():
    """head-end replication: a broadcast reaches both remote VTEPs once and never returns to the tunnel"""
    with Lab() as lab:
        wire = Wire(lab)
        nodes = [VxplaneNode(lab, "krypton", 1, wire, remotes=[2, 3], ports=["tap*i* driver=netdev"]),
                 KernelNode(lab, "xenon", 2, wire, remotes=[1, 3]),
                 VxplaneNode(lab, "argon", 3, wire, remotes=[1, 2], ports=["tap*i* driver=netdev"])]
        guests = [Guest(lab, number) for number in (1, 2, 3)]
        for guest, node in zip(guests, nodes):
            guest.plug_veth(node, f"tap10{guest.number}i0")
        for node in nodes:
            node.wait_ready()
        for guest, node in ((guests[0], nodes[0]), (guests[2], nodes[2])):
            node.wait_port(guest.port)
        for a in guests:
            for b in guests:
                if a is not b:
                    a.wait_ping(b)
        captures = [frames.Capture(guest.namespace, "eth0") for guest in guests]
        with captures[0], captures[1], captures[2]:
            frames.send(guests[0], frames.ethernet("ff:ff:ff:ff:ff:ff", guests[0].mac, 0x88B5, b"once-only" + bytes(46)))
        counts = [sum(b"once-only" in frame for _, frame in capture.frames) for capture in captures]
        check(counts == [0, 1, 1], f"copies seen by guests 1, 2, 3: {counts}")
        for node in (nodes[0], nodes[2]):
            node.check_conservation()


def two_vnis():
    """two VNIs in one instance, one configuration file each, stay apart"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], ports=["tap101i0 driver=netdev"], start=False)
        second = krypton.effective_settings()
        second["vxlan"].update({"name": "vxlan_second", "vxlan-id": 2000})
        second["bridge"]["name"] = "second"
        krypton.extra_configs = [krypton.write_config(krypton.config_path("second.conf"), second, ["tap102i0 driver=netdev"])]
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        xenon.add_vxlan("vxlan_second", 2000)
        xenon.namespace.ip("link", "add", "second", "mtu", OVERLAY_MTU, "type", "bridge", "mcast_snooping", "0")
        xenon.namespace.ip("link", "set", "vxlan_second", "mtu", OVERLAY_MTU, "master", "second", "up")
        xenon.namespace.ip("link", "set", "second", "up")
        xenon.add_remote(krypton.vtep, "vxlan_second")
        guests = {number: Guest(lab, number) for number in (1, 2, 3, 4)}
        for number, node in ((1, krypton), (2, krypton), (3, xenon), (4, xenon)):
            guests[number].plug_veth(node, f"tap10{number}i0")
        xenon.namespace.ip("link", "set", "tap104i0", "master", "second")
        krypton.start()
        krypton.wait_ready()
        guests[1].wait_ping(guests[3])
        guests[2].wait_ping(guests[4])
        for one, other in ((1, 4), (2, 3), (1, 2)):
            check(not guests[one].ping(guests[other], count=2, seconds=0.5, check=False), f"guest {one} reaches guest {other} of another VNI")
        krypton.check_conservation()


def path_mtu(net):
    """a smaller path MTU that the kernel learned lowers the VTEP's ceiling, and such frames are counted underlay_mtu_exceeded"""
    node, sender = net.krypton, net.guests[0]

    def passes(size):
        sender.forget_paths()  # it is told what passes, and would not try again
        return sender.ping(net.guests[2], size=size, count=1, seconds=0.3, check=False)

    eventually(lambda: passes(OVERLAY_MTU), 2, "1332 bytes do not pass")
    node.namespace.ip("route", "replace", f"{net.xenon.vtep}/32", "dev", UNDERLAY_DEVICE, "src", node.vtep, "mtu", "1300")
    try:
        before = node.drops()["underlay_mtu_exceeded"]
        eventually(lambda: not passes(OVERLAY_MTU), 5, "1332 bytes still pass a path of 1300")
        check(passes(1250) or passes(1250), "1250 bytes do not pass")
        check(not passes(1251), "1251 bytes pass a path of 1300")
        check(node.drops()["underlay_mtu_exceeded"] > before, "not counted")
    finally:
        node.namespace.ip("route", "del", f"{net.xenon.vtep}/32", "dev", UNDERLAY_DEVICE, check=False)
    eventually(lambda: passes(OVERLAY_MTU), 10, "1332 bytes do not pass again")


if __name__ == "__main__":
    suite = Suite("underlay")
    suite.group("kernel-kernel", lambda: pair("kernel", "kernel"), [fragments_arrive, no_port_unreachable, good_frame_by_hand],
                needs_vxplane=False)
    suite.group("vxplane-kernel", lambda: pair("vxplane", "kernel"), [fragments_arrive, no_port_unreachable, good_frame_by_hand, hostile_frames,
                                                                      path_mtu])
    suite.group("vxplane-kernel, own address", lambda: pair("vxplane", "kernel", own=True), [own_fragments, own_fragments_by_hand])
    # Of DPDK's software drivers for a netdev, net_af_packet has the kernel reassemble; this one leaves fragments as they are.
    dpdk = {"settings": {"underlay": {"driver": f"dpdk:net_pcap0,iface={UNDERLAY_DEVICE}"}}}
    suite.group("vxplane-kernel, dpdk underlay", lambda: pair("vxplane", "kernel", own=True, krypton=dpdk), [own_fragments, own_fragments_by_hand])
    suite.group("several", None, [kernel_vni_beside, kernel_vni_comes_later, vtep_learning, three_nodes, two_vnis])
    suite.main()
