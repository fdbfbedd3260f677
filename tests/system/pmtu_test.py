#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests with MTU 1500 on an overlay of 1332: they learn what passes from packet-too-big messages alone, or never have to
when the MSS is clamped. Through the kernel's bridge their TCP hangs for good."""

import contextlib
import errno
import os
import re
import socket
import struct
import time

import frames
from cases import Failed, Suite, check, eventually
from lab import OVERLAY_MTU, Cable, Guest
from nodes import Network, VxplaneNode, in_lab, make_node
from transfer import MEGABYTE, address_of, inet_of, snmp, transfer

GUEST_MTU = 1500
TOO_BIG_PER_SECOND = 100
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_WANT, PMTUDISC_DO, PMTUDISC_PROBE = 10, 23, 1, 2, 3


class MtuNet(Network):
    """krypton: guest 1 on a veth, 2 on a tap (a kernel krypton: a held tap), 5 tags VLAN 100; xenon: 3, and 4 in VLAN 100. All have MTU
    1500 and `offloads`."""

    def __init__(self, lab, kinds, offloads=True, settings=None):
        self.lab = lab
        cable = Cable(lab)
        self.nodes = [make_node(kind, lab, name, number, cable, remotes=[3 - number], settings=settings,
                                ports=["tap*i* driver=netdev", *(["guest2 driver=tap"] if number == 1 else [])])
                      for kind, name, number in zip(kinds, ("krypton", "xenon"), (1, 2))]
        self.krypton, self.xenon = self.nodes
        for node in self.nodes:
            node.wait_ready()
        self.guests = {}
        for number in (1, 2, 3, 4, 5):
            guest = self.guests[number] = Guest(lab, number, mtu=GUEST_MTU, tag=100 if number in (4, 5) else None, offloads=offloads)
            node = self.xenon if number in (3, 4) else self.krypton
            if number != 2:
                guest.plug_veth(node, f"tap{100 + number}i0")
            elif isinstance(node, VxplaneNode):
                guest.take_tap(node, "guest2")
            else:
                guest.plug_held(node, "tap102i0")
            node.wait_port(guest.port)
        for one, other in ((1, 3), (2, 3), (5, 4)):
            self.guests[one].wait_ping(self.guests[other])
            self.guests[one].ping(self.guests[other].ipv6)

    def too_big(self):
        return self.krypton.stats()["too_big"]


PAIRS = (("netdev", 1, 3), ("tap", 2, 3), ("VLAN 100", 5, 4))


def learned(guest, other, family):
    """The path MTU that the guest's kernel has learned to the other, or None."""
    text = guest.namespace.run("ip", "route", "get", address_of(other, family)).stdout
    match = re.search(r"cache.*\bmtu (\d+)", text, re.DOTALL) or re.search(r"expires.*\bmtu (\d+)", text)
    return int(match[1]) if match else None


def check_learned(guest, other, family):
    """`ip route get` in the guest shows the overlay's MTU."""
    mtu = learned(guest, other, family)
    check(mtu == OVERLAY_MTU, f"guest {guest.number}, IPv{family}: `ip route get` shows {mtu}")


def tcp_recovers(net):
    """TCP of a guest with MTU 1500 recovers and moves 10 MB, IPv4 and IPv6, and the guest's route shows 1332"""
    for kind, one, other in PAIRS:
        a, b = net.guests[one], net.guests[other]
        for family in (4, 6):
            a.forget_paths()
            before, told = snmp(a.namespace), net.too_big()["told"]
            transfer(a, b, 10 * MEGABYTE, family, seconds=10)
            check_learned(a, b, family)
            check(net.too_big()["told"] > told, f"{kind}, IPv{family}: `too_big` told was not counted")
            after = snmp(a.namespace)
            got = ("Icmp", "InDestUnreachs") if family == 4 else ("Icmp6", "InPktTooBigs")
            check(after[got[0]][got[1]] > before[got[0]].get(got[1], 0), f"{kind}, IPv{family}: the guest has no {''.join(got)}")
            wrong = "Icmp" if family == 4 else "Icmp6"
            check(after[wrong]["InCsumErrors"] == 0 and after[wrong]["InErrors"] == before[wrong]["InErrors"], f"{kind}, IPv{family}: {after[wrong]}")


def udp_recovers(net):
    """UDP: one datagram of 1500 is lost; then a sender with DF is told EMSGSIZE by its kernel, one without is fragmented and arrives"""
    for kind, one, other in PAIRS:
        a, b = net.guests[one], net.guests[other]
        for family in (4, 6):
            inet = inet_of(family)
            level, option = (socket.IPPROTO_IP, IP_MTU_DISCOVER) if family == 4 else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER)
            data = os.urandom(GUEST_MTU - (28 if family == 4 else 48))
            a.forget_paths()
            with b.namespace.entered():
                server = socket.socket(inet, socket.SOCK_DGRAM)
            with a.namespace.entered():
                client = socket.socket(inet, socket.SOCK_DGRAM)
            with server, client:
                server.bind((address_of(b, family), 5003))
                server.settimeout(1)
                client.connect((address_of(b, family), 5003))
                client.setsockopt(level, option, PMTUDISC_DO)
                client.send(data)

                def refused():
                    try:
                        client.send(data)
                    except OSError as error:
                        return error.errno == errno.EMSGSIZE
                    return False

                eventually(refused, 2, f"{kind}, IPv{family}: the sender is not told that {len(data)} bytes do not pass")
                check_learned(a, b, family)
                client.setsockopt(level, option, PMTUDISC_WANT)
                client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # what is left of the message: an error for the next send
                client.send(data)
                try:
                    check(server.recv(65536) == data, f"{kind}, IPv{family}: another datagram arrived")
                except socket.timeout:
                    raise Failed(f"{kind}, IPv{family}: the fragmented datagram did not arrive") from None


def the_message(net):
    """the message: from the address the packet went to, MTU 1332, right checksums, the guest's own tag"""
    for kind, one, other in PAIRS:
        a, b = net.guests[one], net.guests[other]
        for family in (4, 6):
            a.forget_paths()
            with frames.Capture(a.namespace, "eth0") as seen:
                a.ping(address_of(b, family), count=1, size=GUEST_MTU, seconds=0.3, check=False)
                frame = seen.wait(lambda frame: too_big_in(frame) is not None, 2)
            check(frame is not None, f"{kind}, IPv{family}: no message came")
            source, destination, mtu, checksums, tag = too_big_in(frame)
            check((source, destination) == (address_of(b, family), address_of(a, family)), f"{kind}, IPv{family}: from {source} to {destination}")
            check(mtu == OVERLAY_MTU, f"{kind}, IPv{family}: it says {mtu}")
            check(checksums, f"{kind}, IPv{family}: a wrong checksum")
            check(tag == a.tag, f"{kind}, IPv{family}: tag {tag}")
            check(frame[:6] == frames.mac_bytes(a.mac) and frame[6:12] == frames.mac_bytes(b.mac), f"{kind}, IPv{family}: MACs {frame[:12].hex()}")


def too_big_in(frame):
    """(source, destination, MTU, are its checksums right, VLAN) if the frame is a packet-too-big message."""
    ethertype, at, tag = struct.unpack_from("!H", frame, 12)[0], 14, None
    if ethertype == frames.VLAN:
        tag, ethertype, at = struct.unpack_from("!H", frame, 14)[0] & 0xFFF, struct.unpack_from("!H", frame, 16)[0], 18
    if ethertype == frames.IPV4 and frame[at + 9] == 1:
        length, header = struct.unpack_from("!H", frame, at + 2)[0], (frame[at] & 15) * 4
        icmp = frame[at + header:at + length]
        if icmp[:2] != b"\x03\x04":
            return None
        good = frames.checksum(frame[at:at + header]) == 0 and frames.checksum(icmp) == 0
        return (socket.inet_ntoa(frame[at + 12:at + 16]), socket.inet_ntoa(frame[at + 16:at + 20]), struct.unpack_from("!H", icmp, 6)[0], good, tag)
    if ethertype == frames.IPV6 and frame[at + 6] == 58:
        icmp = frame[at + 40:at + 40 + struct.unpack_from("!H", frame, at + 4)[0]]
        if icmp[0] != 2:
            return None
        good = frames.checksum(frame[at + 8:at + 40] + struct.pack("!II", len(icmp), 58) + icmp) == 0
        return (socket.inet_ntop(socket.AF_INET6, frame[at + 8:at + 24]), socket.inet_ntop(socket.AF_INET6, frame[at + 24:at + 40]),
                struct.unpack_from("!I", icmp, 4)[0], good, tag)
    return None


def is_limited(net):
    """at most 100 messages a second go to a port, and what was kept back is counted"""
    a, b = net.guests[1], net.guests[3]
    with a.namespace.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)  # DF, and what was learned is not heeded
        client.connect((b.ipv4, 5004))
        time.sleep(1.1)  # the bucket is full again
        before, heard = net.too_big(), snmp(a.namespace)["Icmp"]["InDestUnreachs"]
        started, sent = time.monotonic(), 0
        while time.monotonic() < started + 2:
            with contextlib.suppress(ConnectionRefusedError, OSError):
                client.send(bytes(GUEST_MTU - 28))
                sent += 1
            time.sleep(0.001)
        seconds = time.monotonic() - started
    time.sleep(0.1)
    after = net.too_big()
    told, limited = after["told"] - before["told"], after["limited"] - before["limited"]
    check(sent > 600, f"only {sent} packets were sent")
    most = TOO_BIG_PER_SECOND * seconds + TOO_BIG_PER_SECOND / 10 + 5  # the bucket holds a tenth of a second's
    check(TOO_BIG_PER_SECOND <= told <= most, f"{told} messages in {seconds:.1f} s for {sent} packets")
    check(limited >= sent - most - 5, f"limited {limited}, told {told}, sent {sent}")
    arrived = snmp(a.namespace)["Icmp"]["InDestUnreachs"] - heard
    check(abs(arrived - told) <= 2, f"{arrived} of {told} messages arrived")
    # Another port has a bucket of its own.
    net.guests[2].forget_paths()
    told = net.too_big()["told"]
    net.guests[2].ping(b, count=1, size=GUEST_MTU, seconds=0.3, check=False)
    check(net.too_big()["told"] == told + 1, "another port's sender was not told")


def nobody_else_is_told(net):
    """nobody is told about multicast and broadcast; it is dropped and counted mtu_exceeded"""
    a = net.guests[1]
    told, dropped = net.too_big()["told"], net.krypton.drops()["mtu_exceeded"]
    with a.namespace.entered():
        for inet, address in ((socket.AF_INET, "239.1.2.3"), (socket.AF_INET, "10.0.0.255"), (socket.AF_INET6, "ff15::77")):
            with socket.socket(inet, socket.SOCK_DGRAM) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
                client.sendto(bytes(1400), (address, 5005))
    eventually(lambda: net.krypton.drops()["mtu_exceeded"] >= dropped + 3, 2, lambda: f"mtu_exceeded grew by {net.krypton.drops()['mtu_exceeded'] - dropped}")
    check(net.too_big()["told"] == told, "somebody was told")


def mss_of(frame):
    """(is it a SYN-ACK, MSS) of a TCP SYN without a tag, else None."""
    ethertype = struct.unpack_from("!H", frame, 12)[0]
    at = {frames.IPV4: 34, frames.IPV6: 54}.get(ethertype)
    if at is None or frame[23 if ethertype == frames.IPV4 else 20] != 6 or not frame[at + 13] & 2:
        return None
    options = frame[at + 20:at + (frame[at + 12] >> 4) * 4]
    while options and options[0]:
        if options[0] == 2:
            return bool(frame[at + 13] & 16), struct.unpack_from("!H", options, 2)[0]
        options = options[1:] if options[0] == 1 else options[options[1]:]
    return None


def mss_is_clamped(net):
    """mss-clamp = yes: SYN and SYN-ACK arrive with an MSS that fits 1332, both ways, and nobody needs to be told anything"""
    told = net.too_big()["told"]
    for one, other in ((1, 3), (3, 1), (2, 3), (3, 2)):
        a, b = net.guests[one], net.guests[other]
        for family in (4, 6):
            with frames.Capture(a.namespace, "eth0") as at_a, frames.Capture(b.namespace, "eth0") as at_b:
                transfer(a, b, 5 * MEGABYTE, family, seconds=10)
            syn = [mss for mss in map(mss_of, at_b.of("eth0")) if mss]
            answer = [mss for mss in map(mss_of, at_a.of("eth0")) if mss]
            fits = OVERLAY_MTU - (40 if family == 4 else 60)
            check(syn[:1] == [(False, fits)], f"guest {one} to {other}, IPv{family}: SYN {syn}")
            check(answer[:1] == [(True, fits)], f"guest {one} to {other}, IPv{family}: SYN-ACK {answer}")
    check(net.too_big()["told"] == told, "somebody had to be told")


def tcp_hangs(net):
    """TCP of a guest with MTU 1500 moves nothing through the kernel's bridge"""
    for family in (4, 6):
        try:
            transfer(net.guests[1], net.guests[3], MEGABYTE, family, stall=2)
        except Failed as why:
            check("nothing came" in str(why), str(why))
            continue
        raise Failed(f"IPv{family}: it does move it")


if __name__ == "__main__":
    suite = Suite("pmtu")
    suite.group("kernel-kernel, guests' offloads off", lambda: in_lab(MtuNet, ("kernel", "kernel"), offloads=False), [tcp_hangs], needs_vxplane=False)
    cases = [tcp_recovers, udp_recovers, the_message, is_limited, nobody_else_is_told]
    suite.group("vxplane-kernel", lambda: in_lab(MtuNet, ("vxplane", "kernel")), cases)
    suite.group("vxplane-kernel, guests' offloads off", lambda: in_lab(MtuNet, ("vxplane", "kernel"), offloads=False), [tcp_recovers, udp_recovers])
    suite.group("vxplane-vxplane", lambda: in_lab(MtuNet, ("vxplane", "vxplane")), [tcp_recovers, udp_recovers])
    suite.group("vxplane-kernel, mss-clamp", lambda: in_lab(MtuNet, ("vxplane", "kernel"), settings={"vxlan": {"mss-clamp": "yes"}}), [mss_is_clamped])
    suite.main()
