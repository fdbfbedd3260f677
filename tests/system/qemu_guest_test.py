#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A real guest: a Debian kernel in qemu with virtio-net and all its offloads on, as they are by default. qemu holds the tap,
vxplane's `netdev` driver serves its other end, and the guest moves data with a namespace guest on another node."""

import contextlib
import hashlib
import os
import re
import socket
import sys
import time

from cases import Suite, check
from lab import OVERLAY_MTU, Cable, Guest, open_tap
from nodes import Network, VxplaneNode, dropped_since, in_lab, make_node
from transfer import MEGABYTE, address_of, errors_of, inet_of, parse_snmp, snmp
from vm import VirtualMachine

SIZE = 30 * MEGABYTE
VM_IPV4, VM_IPV6 = "10.0.0.1", "fd00:1::1"


class VmNet(Network):
    """krypton: the VM on tap101i0. xenon: guest 3 on a veth with its offloads on."""

    def __init__(self, lab, kinds):
        self.lab = lab
        cable = Cable(lab)
        self.nodes = [make_node(kind, lab, name, number, cable, remotes=[3 - number], ports=["tap*i* driver=netdev"])
                      for kind, name, number in zip(kinds, ("krypton", "xenon"), (1, 2))]
        krypton, xenon = self.nodes
        tap = open_tap(krypton.namespace, "tap101i0", offloads=True)
        krypton.namespace.run("sysctl", "-qw", "net.ipv6.conf.tap101i0.disable_ipv6=1")
        krypton.namespace.ip("link", "set", "tap101i0", "mtu", 1500, "up")
        self.vm = VirtualMachine(lab, [tap])
        os.close(tap)
        for node in self.nodes:
            node.wait_ready()
        krypton.adopt("tap101i0")
        self.guest = Guest(lab, 3, offloads=True)
        self.guest.plug_veth(xenon, "tap103i0")
        for node, port in ((krypton, "tap101i0"), (xenon, "tap103i0")):
            node.wait_port(port)
        self.vm.run(f"ip link set eth0 mtu {OVERLAY_MTU} up")
        self.vm.run(f"ip addr add {VM_IPV4}/24 dev eth0")
        self.vm.run(f"ip addr add {VM_IPV6}/64 dev eth0 nodad")
        self.vm.run(f"dd if=/dev/urandom of=/data bs=1M count={SIZE // MEGABYTE} 2>&1", seconds=40)
        self.guest.wait_ping(VM_IPV4)

    def vm_counters(self):
        return parse_snmp(self.vm.run("cat /proc/net/snmp"), self.vm.run("cat /proc/net/snmp6"))

    def frames_from_vm(self):
        krypton = self.nodes[0]
        return krypton.stats()["ports"]["tap101i0"]["rx_packets"] if isinstance(krypton, VxplaneNode) else 0


@contextlib.contextmanager
def faultless(net):
    """Neither kernel sees a wrong checksum, and no node drops what belongs to the transfer."""
    dropped = [node.drops() for node in net.vxplane_nodes]
    yield
    wrong = errors_of(net.vm_counters()) + errors_of(snmp(net.guest.namespace))
    for node, before in zip(net.vxplane_nodes, dropped):
        wrong += [f"{node.name} dropped {count} {reason}" for reason, count in dropped_since(node, before).items()]
    statistics = net.vm.run("ethtool -S eth0", check=False)
    wrong += [f"the VM's {line.strip()}" for line in statistics.splitlines() if re.search(r"(err|csum_(bad|none)).*: [1-9]", line)]
    check(not wrong, "; ".join(wrong))


def has_offloads(net):
    """the VM's virtio-net has its offloads on by itself"""
    features = net.vm.run("ethtool -k eth0")
    for feature in ("tx-checksumming", "tcp-segmentation-offload", "generic-receive-offload"):
        check(f"{feature}: on" in features, f"{feature} is not on: {features}")


def vm_sends(net):
    """30 MB from the VM arrive whole, IPv4 and IPv6, as super-frames as far as vxplane"""
    wanted = net.vm.run("sha256sum /data", seconds=30).split()[0]
    net.vm.run("httpd -h / -p 80")  # it sends files by large pieces; nc by a few KB
    for family, address in ((4, VM_IPV4), (6, VM_IPV6)):
        before = net.frames_from_vm()
        with net.guest.namespace.entered():
            client = socket.socket(inet_of(family), socket.SOCK_STREAM)
        with client, faultless(net):
            started, got, digest = time.monotonic(), 0, hashlib.sha256()
            client.settimeout(15)
            client.connect((address, 80))
            client.sendall(b"GET /data HTTP/1.0\r\n\r\n")
            with client.makefile("rb") as answer:
                while answer.readline().strip():
                    pass
                while part := answer.read(MEGABYTE):
                    digest.update(part)
                    got += len(part)
            note_rate("VM sends", got, time.monotonic() - started)
            check(got == SIZE and digest.hexdigest() == wanted, f"IPv{family}: {got} bytes of {SIZE}, {digest.hexdigest()} for {wanted}")
            frames = net.frames_from_vm() - before
            check(frames < SIZE / 1300 / 2, f"IPv{family}: the VM sent {frames} frames: its offloads were off")
            note(f"VM sent {frames} frames")


def vm_receives(net):
    """30 MB to the VM arrive whole, IPv4 and IPv6"""
    data = os.urandom(SIZE)
    wanted = hashlib.sha256(data).hexdigest()
    for family in (4, 6):
        address = address_of(net.guest, family)
        with net.guest.namespace.entered():
            listener = socket.create_server((address, 5001), family=inet_of(family))
        listener.settimeout(10)
        with listener, faultless(net):
            started = time.monotonic()
            net.vm.process.stdin.write(f'nc {address} 5001 </dev/null >/received; echo "VM-""GOT"\n'.encode())
            net.vm.process.stdin.flush()
            server, _ = listener.accept()
            with server:
                server.settimeout(30)
                server.sendall(data)
            net.vm._until("VM-GOT", 30)
            note_rate("VM receives", SIZE, time.monotonic() - started)
            got = net.vm.run("sha256sum /received", seconds=30).split()[0]
            check(got == wanted, f"IPv{family}: {got} for {wanted}")


def note(text):
    if "--rates" in sys.argv:
        print(f"     {text}")


def note_rate(text, size, seconds):
    note(f"{text}: {size * 8 / seconds / 1e9:.2f} Gbit/s")


if __name__ == "__main__":
    suite = Suite("qemu_guest")
    cases = [has_offloads, vm_sends, vm_receives]
    if "--oracle" in sys.argv:
        suite.group("kernel-kernel", lambda: in_lab(VmNet, ("kernel", "kernel")), cases, needs_vxplane=False)
    suite.group("vxplane-vxplane", lambda: in_lab(VmNet, ("vxplane", "vxplane")), cases)
    suite.main()
