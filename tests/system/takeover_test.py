#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`takeover = mainvx`: a kernel bridge and vxlan that vxplane forwards for. The frames go through vxplane, the host's own traffic keeps
working, the kernel's FDBs stay true, and a stop leaves the kernel as it was. Each case runs on the kernel alone first."""

import time

import frames
import underlay_test
from cases import Suite, check, eventually
from heal_test import device_state, difference
from lab import OVERLAY_MTU, UNDERLAY_DEVICE
from nodes import pair
from pinger import End, Probes
from takeover import PROBE, all_talk, both_ways, bypassed, host_addresses, in_takeover, reached
from transfer import transfer



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


def host_answers_to_ports(net):
    """the host behind the bridge answers to the bridge's address, and on each port, the tunnel too, to that port's own, not to another's"""
    with host_addresses(net) as (host, _):
        local, other, remote, _ = net.guests
        links = net.krypton.namespace.links()

        def answers(guest, device):
            guest.namespace.ip("neigh", "replace", host.ipv4, "lladdr", links[device]["address"], "dev", "eth0", "nud", "permanent")
            try:
                return guest.namespace.run("ping", "-n", "-q", "-c", 2, "-i", 0.2, "-W", 0.5, host.ipv4, check=False).returncode == 0
            finally:
                guest.namespace.ip("neigh", "del", host.ipv4, "dev", "eth0")

        def ask():
            # A bridge without an address of its own has that of its first port.
            for guest, device, want in ((local, "mainvx", True), (local, local.port, True), (other, other.port, True), (remote, "mainvx", True),
                                        (remote, "vxlan_mainvx", True), (local, other.port, False), (remote, other.port, False)):
                if want or links[device]["address"] != links["mainvx"]["address"]:
                    check(answers(guest, device) == want, f"{guest.number} to the address of {device}: {'no answer' if want else 'an answer'}")
        both_ways(net, ask)


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


FORWARDING = [everybody_talks, transfers, fragments_and_other_vni, host_talks, host_transfers, host_answers_to_ports]

if __name__ == "__main__":
    suite = Suite("takeover")
    suite.group("kernel-kernel", lambda: pair("kernel", "kernel"), FORWARDING + [kernel_fdb_true, standby_knows], needs_vxplane=False)
    suite.group("takeover-kernel", lambda: pair("takeover", "kernel"),
                [vxplane_forwards, *FORWARDING, kernel_fdb_true, standby_knows, clean_stop_leaves_the_kernel])
    suite.group("takeover-takeover", lambda: pair("takeover", "takeover"), [vxplane_forwards, everybody_talks, transfers, host_talks, host_transfers])
    for kind in ("kernel", "takeover"):
        suite.group(f"{kind}-kernel, guests with offloads", lambda kind=kind: pair(kind, "kernel", offloads=True), [transfers, host_transfers],
                    needs_vxplane=kind != "kernel")
        suite.group(f"{kind}-kernel, ageing 2 s", lambda kind=kind: pair(kind, "kernel", ageing=2), [kernel_fdb_ages], needs_vxplane=kind != "kernel")
    suite.main()
