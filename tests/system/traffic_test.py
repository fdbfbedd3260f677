#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests on two nodes reach each other; what is on the wire is right; the FDBs name the right places.
Each case runs kernel to kernel (the oracle), kernel to vxplane and vxplane to vxplane."""

import os
import socket
import struct
import threading

import frames
from cases import Suite, check, eventually
from nodes import pair

BROADCAST = "ff:ff:ff:ff:ff:ff"


def mesh(guests):
    return [(a, b) for a in guests for b in guests if a is not b]


def ping_ipv4(net):
    """every guest pings every other over IPv4"""
    net.guests[0].wait_ping(net.guests[2])
    for a, b in mesh(net.guests):
        a.ping(b)


def ping_ipv6(net):
    """every guest pings every other over IPv6"""
    for a, b in mesh(net.guests):
        a.ping(b.ipv6)


def fdb_names_places(net):
    """both FDBs name the port or the VTEP of each guest"""
    for guest in net.guests:
        guest.ping(net.guests[0] if guest is not net.guests[0] else net.guests[2])
    for node in net.nodes:
        other = net.nodes[1 - net.nodes.index(node)]
        for guest in net.guests:
            want = ("port", guest.port) if guest.node is node else ("vtep", other.vtep)
            eventually(lambda: node.place_of(guest) == want, 3,
                       lambda: f"{node.name} has guest {guest.number} at {node.place_of(guest)}, not {want}")


def broadcast_reaches_all(net):
    """a broadcast frame reaches every other guest once and never its sender"""
    flooded(net, BROADCAST)


def multicast_reaches_all(net):
    """a multicast frame reaches every other guest once and never its sender"""
    flooded(net, "01:00:5e:01:02:03")


def unknown_unicast_reaches_all(net):
    """an unknown unicast frame reaches every other guest once and never its sender"""
    flooded(net, "52:54:00:ee:ee:ee")


def flooded(net, destination):
    for sender in (net.guests[0], net.guests[2]):
        marker = b"vxplane-flood-" + bytes(40)
        captures = [frames.Capture(guest.namespace, "eth0") for guest in net.guests]
        for capture in captures:
            capture.__enter__()
        frames.send(sender, frames.ethernet(destination, sender.mac, 0x88B5, marker))
        for guest, capture in zip(net.guests, captures):
            if guest is not sender:
                capture.wait(lambda frame: marker in frame)
        for capture in captures:
            capture.__exit__()
        for guest, capture in zip(net.guests, captures):
            count = sum(marker in frame for _, frame in capture.frames)
            check(count == (guest is not sender), f"guest {guest.number} got {count} copies of guest {sender.number}'s frame")


def known_unicast_is_not_flooded(net):
    """a frame to a known guest goes to that guest only"""
    sender, target, bystander = net.guests[0], net.guests[2], net.guests[1]
    sender.ping(target)
    bystander.ping(target)
    eventually(lambda: net.krypton.place_of(target), 3, "target not learned")
    with frames.Capture(bystander.namespace, "eth0") as seen:
        sender.ping(target, count=5)
    strangers = [frame for _, frame in seen.frames if frames.mac_bytes(target.mac) == frame[:6]]
    check(not strangers, f"the bystander saw {len(strangers)} of the frames")


def no_guest_mac_on_underlay(net):
    """no guest's MAC is ever a source on the underlay"""
    for a, b in mesh(net.guests):
        a.ping(b, count=1)
    guests = {guest.mac for guest in net.guests}
    seen = net.wire.macs()
    check(not seen & guests, f"the switch learned {seen & guests}")
    check(seen <= {node.mac() for node in net.nodes}, f"the switch learned {seen}, not only the two NICs'")


def payload_1332_passes(net):
    """an IP packet of 1332 bytes passes, IPv4 and IPv6, both ways"""
    with_mtu(net, 1500, lambda: [a.ping(address, size=OVERLAY) for a, b in ((net.guests[0], net.guests[2]), (net.guests[2], net.guests[0]))
                                 for address in (b.ipv4, b.ipv6)])


OVERLAY = 1332


def with_mtu(net, mtu, body):
    for guest in net.guests:
        guest.namespace.ip("link", "set", "eth0", "mtu", mtu)
    try:
        body()
    finally:
        for guest in net.guests:
            guest.namespace.ip("link", "set", "eth0", "mtu", OVERLAY)


def payload_1333_does_not(net):
    """an IP packet of 1333 bytes does not pass and is counted mtu_exceeded"""
    def body():
        vxplane = net.vxplane_nodes
        # Linux itself lets four bytes more of a tagged frame through.
        size = OVERLAY + (5 if not vxplane and net.guests[0].tag else 1)
        if vxplane:  # a peer whose MTU is set too large: what it sends must not pass either
            for node in net.nodes:
                if node not in vxplane:
                    for device in ("vxlan_mainvx", "mainvx"):
                        node.namespace.ip("link", "set", device, "mtu", OVERLAY + 8)
        for a, b in ((net.guests[0], net.guests[2]), (net.guests[2], net.guests[0])):
            for address in (b.ipv4, b.ipv6):
                def counted():
                    return sum(node.drops()["mtu_exceeded"] for node in vxplane)
                a.forget_paths()
                a.ping(address)
                before = counted()
                check(not a.ping(address, size=size, count=1, seconds=0.5, check=False), f"{size} bytes passed to {address}")
                if vxplane:
                    eventually(lambda: counted() > before, 2, lambda: f"{address}: mtu_exceeded stayed {before}")
        for node in vxplane:  # port to port too
            local = [guest for guest in net.guests if guest.node is node]
            before = node.drops()["mtu_exceeded"]
            local[0].forget_paths()
            check(not local[0].ping(local[1], size=size, count=1, seconds=0.5, check=False), "1333 bytes passed port to port")
            eventually(lambda: node.drops()["mtu_exceeded"] > before, 2, "port to port is not counted mtu_exceeded")
    with_mtu(net, 1500, body)
    for guest in net.guests:
        guest.forget_paths()
    for node in net.nodes:
        if node not in net.vxplane_nodes:
            for device in ("vxlan_mainvx", "mainvx"):
                node.namespace.ip("link", "set", device, "mtu", OVERLAY)


def outer_of(net, sender, send):
    """The VXLAN frames on the wire that `sender`'s node sends while `send()` runs."""
    with frames.Capture(net.wire.namespace, sender.node.wire_port) as wire:
        send()
    return frames.vxlan_frames(wire.of(sender.node.wire_port))


def outer_header(net):
    """outer headers as the kernel writes them, and DF: VNI, flags, TTL 64, TOS 0, checksums, addresses"""
    for a, b in ((net.guests[0], net.guests[2]), (net.guests[2], net.guests[0])):
        a.ping(b)
        outers = outer_of(net, a, lambda: a.ping(b))
        check(len(outers) >= 2, f"{len(outers)} VXLAN frames seen on the wire")
        vxplane = a.node in net.vxplane_nodes
        for outer in outers:
            seen = (outer.flags, outer.reserved, outer.reserved2, outer.vni)
            check(seen == (8, b"\0\0\0", 0, 1000), f"VXLAN header: flags, reserved, reserved, VNI {seen}")
            check(outer.ttl == 64 and outer.tos == 0, f"TTL {outer.ttl}, TOS {outer.tos}")
            check(outer.addresses == (a.node.vtep, b.node.vtep), f"addresses {outer.addresses}")
            check((outer.source, outer.destination) == (a.node.mac(), b.node.mac()), f"MACs {outer.source} {outer.destination}")
            check(outer.vlan == (a.node.vlan or None), f"outer VLAN {outer.vlan}")
            check(outer.ip_checksum_good, "bad outer IP header checksum")
            check(outer.udp_checksum != 0 and outer.udp_checksum_good, f"outer UDP checksum {outer.udp_checksum:#06x} is absent or wrong")
            if vxplane:
                check(outer.dont_fragment, "DF is not set")
                check(outer.source_port >= 49152, f"source port {outer.source_port}")
            check(outer.total_length == outer.udp_length + (20 if outer.family == 4 else 40), "IP and UDP lengths differ")


def udp_frame(a, b, source_port, tos=0, tag=None):
    """A UDP datagram from guest a to guest b."""
    udp = struct.pack("!HHHH", source_port, 7777, 8 + 32, 0) + bytes(32)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, tos, 20 + len(udp), source_port, 0, 64, 17, 0, socket.inet_aton(a.ipv4), socket.inet_aton(b.ipv4))
    head = head[:10] + struct.pack("!H", frames.checksum(head)) + head[12:]
    return frames.ethernet(b.mac, a.mac, frames.IPV4, head + udp, tag)


def source_port_entropy(net):
    """the outer source port is stable within a flow and spread over flows"""
    a, b = net.guests[0], net.guests[2]
    a.ping(b)
    outers = outer_of(net, a, lambda: frames.send(a, *[udp_frame(a, b, 10000 + flow) for _ in range(3) for flow in range(100)]))
    flows = {}
    for outer in outers:
        if outer.inner[12:14] == b"\x08\x00" and outer.inner[23] == 17:
            flows.setdefault(struct.unpack_from("!H", outer.inner, 34)[0], set()).add(outer.source_port)
    check(len(flows) == 100, f"{len(flows)} of 100 flows seen")
    check(all(len(ports) == 1 for ports in flows.values()), "a flow changed its source port")
    distinct = {port for ports in flows.values() for port in ports}
    check(len(distinct) > 80, f"100 flows share {len(distinct)} source ports")


def ecn_is_copied(net):
    """ECN of the inner packet is on the outer one, DSCP is not"""
    a, b = net.guests[0], net.guests[2]
    a.ping(b)
    for tos in (0, 0xB8, 0x01, 0x02, 0xBA):
        outers = outer_of(net, a, lambda: frames.send(a, udp_frame(a, b, 20000, tos)))
        seen = [outer.tos for outer in outers if outer.inner[12:14] == b"\x08\x00" and outer.inner[23] == 17]
        check(seen == [tos & 3], f"inner TOS {tos:#04x}: outer {seen}")
    if a.node in net.vxplane_nodes:  # the kernel writes ECT(0) here
        outers = outer_of(net, a, lambda: frames.send(a, udp_frame(a, b, 20000, 3)))
        seen = [outer.tos for outer in outers if outer.inner[12:14] == b"\x08\x00" and outer.inner[23] == 17]
        check(seen == [3], f"inner CE: outer {seen}")


def tagged_frames_cross(net):
    """really tagged frames cross with VLAN and PCP kept, and do not reach the untagged"""
    a, b = net.guests[0], net.guests[2]
    marker = b"vxplane-tagged" + bytes(40)
    with frames.Capture(b.namespace, "eth0") as seen:
        frames.send(a, frames.ethernet(BROADCAST, a.mac, 0x88B5, marker, tag=100, pcp=5))
        frame = seen.wait(lambda frame: marker in frame)
    check(frame is not None, "the tagged frame did not arrive")
    check(frame[12:16] == struct.pack("!HH", 0x8100, 100 | 5 << 13), f"it arrived with {frame[12:16].hex()}")


def link_local_frames(net):
    """with STP off BPDUs are forwarded, pause frames are not"""
    a, b = net.guests[0], net.guests[2]
    for last, forwarded in ((0x00, True), (0x01, False), (0x02, False), (0x0E, None)):
        if forwarded is None:
            # LLDP (..:0e): the list of design section 3 says not; the kernel's default group_fwd_mask agrees.
            forwarded = False
        marker = b"vxplane-link-local" + bytes(30)
        with frames.Capture(b.namespace, "eth0") as seen:
            frames.send(a, frames.ethernet(f"01:80:c2:00:00:{last:02x}", a.mac, 0x88B5, marker))
            frame = seen.wait(lambda frame: marker in frame, 2 if forwarded else 0.3)
        check((frame is not None) == forwarded, f"01:80:c2:00:00:{last:02x} was {'not ' if forwarded else ''}forwarded")


def guest_moves(net):
    """a guest moved from krypton to xenon is reached there after one gratuitous ARP"""
    observer, mover = net.guests[0], net.guests[1]
    third = net.guests[2]
    observer.ping(mover)
    third.ping(mover)
    mover.plug_veth(net.xenon, f"tap10{mover.number}i0")
    if net.xenon in net.vxplane_nodes:
        net.xenon.wait_port(mover.port)
    mover.announce()
    try:
        eventually(lambda: net.krypton.place_of(mover) == ("vtep", net.xenon.vtep), 2,
                   lambda: f"krypton has it at {net.krypton.place_of(mover)}")
        eventually(lambda: net.xenon.place_of(mover) == ("port", mover.port), 2,
                   lambda: f"xenon has it at {net.xenon.place_of(mover)}")
        # The neighbour entries of the others are still right: not one ARP more is needed.
        observer.ping(mover)
        third.ping(mover)
    finally:
        mover.plug_veth(net.krypton, f"tap10{mover.number}i0")
        if net.krypton in net.vxplane_nodes:
            net.krypton.wait_port(mover.port)
        mover.announce()
    observer.ping(mover)
    third.ping(mover)


def entries_age_out(net):
    """entries age out after bridge-ageing and traffic keeps them"""
    a, b, quiet = net.guests[0], net.guests[2], net.guests[3]
    for guest in net.guests:  # nothing but what the case sends
        guest.namespace.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
    a.ping(quiet)
    a.ping(b)
    eventually(lambda: all(node.place_of(quiet) for node in net.nodes), 3, "never learned")
    a.ping(b, count=35, interval=0.2)  # 7 s, more than twice the ageing
    for node in net.nodes:
        check(node.place_of(b) and node.place_of(a), f"{node.name} forgot a guest that sends")
        eventually(lambda: node.place_of(quiet) is None, 6, f"{node.name} still has the quiet guest")


def tcp_transfer(net):
    """a large TCP transfer between guests arrives whole, both ways, IPv4 and IPv6"""
    data = os.urandom(1 << 20) * 3
    for a, b in ((net.guests[0], net.guests[2]), (net.guests[3], net.guests[1])):
        for family, address in ((socket.AF_INET, b.ipv4), (socket.AF_INET6, b.ipv6)):
            with b.namespace.entered():
                listener = socket.create_server((address, 5001), family=family)
            with a.namespace.entered():
                client = socket.create_connection((address, 5001), timeout=5)
            server, _ = listener.accept()
            with listener, client, server:
                for end in (client, server):
                    end.settimeout(20)
                sender = threading.Thread(target=lambda end=client: (end.sendall(data), end.shutdown(socket.SHUT_WR)), daemon=True)
                sender.start()
                got = bytearray()
                while part := server.recv(1 << 18):
                    got += part
                sender.join(5)
            check(got == data, f"guest {a.number} to {address}: {len(got)} of {len(data)} bytes, {'equal' if data.startswith(got) else 'different'}")


CASES = [ping_ipv4, ping_ipv6, tcp_transfer, fdb_names_places, broadcast_reaches_all, multicast_reaches_all, unknown_unicast_reaches_all,
         known_unicast_is_not_flooded, no_guest_mac_on_underlay, payload_1332_passes, payload_1333_does_not, outer_header,
         source_port_entropy, ecn_is_copied, tagged_frames_cross, link_local_frames, guest_moves]

if __name__ == "__main__":
    suite = Suite("traffic")
    for kinds in (("kernel", "kernel"), ("vxplane", "kernel"), ("vxplane", "vxplane")):
        oracle = "vxplane" not in kinds
        suite.group("-".join(kinds), lambda kinds=kinds: pair(*kinds), CASES, needs_vxplane=not oracle)
        suite.group("-".join(kinds) + " ageing 3 s", lambda kinds=kinds: pair(*kinds, ageing=3), [entries_age_out],
                    needs_vxplane=not oracle)
    suite.group("kernel-kernel VLAN 4003", lambda: pair("kernel", "kernel", vlan=4003), [ping_ipv4, ping_ipv6, outer_header],
                needs_vxplane=False)
    suite.group("kernel-kernel IPv6 underlay", lambda: pair("kernel", "kernel", family=6, underlay_mtu=1500), CASES, needs_vxplane=False)
    for kinds in (("vxplane", "kernel"), ("vxplane", "vxplane")):
        suite.group("-".join(kinds) + " VLAN 4003, own address", lambda kinds=kinds: pair(*kinds, vlan=4003, own=True), CASES)
        suite.group("-".join(kinds) + " IPv6 underlay", lambda kinds=kinds: pair(*kinds, family=6, underlay_mtu=1500), CASES)
        suite.group("-".join(kinds) + " IPv6 underlay, VLAN 4003, own address",
                    lambda kinds=kinds: pair(*kinds, family=6, underlay_mtu=1500, vlan=4003, own=True), [ping_ipv4, ping_ipv6, outer_header, tcp_transfer])
    for kinds in (("kernel", "kernel"), ("vxplane", "kernel"), ("vxplane", "vxplane")):
        suite.group("-".join(kinds) + " guests that tag VLAN 100", lambda kinds=kinds: pair(*kinds, tags=(100,) * 4),
                    [ping_ipv4, ping_ipv6, payload_1332_passes, payload_1333_does_not, tcp_transfer], needs_vxplane="vxplane" in kinds)
    suite.main()
