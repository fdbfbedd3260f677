#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ports: VLANs per port, taps, netdevs that come and go, patterns, netdev mode in a kernel bridge, several workers, hugepages."""

import contextlib
import os
import struct
import time

import frames
from cases import Skip, Suite, check, eventually
from lab import OVERLAY_MTU, Guest, Lab, Wire
from nodes import KernelNode, Network, VxplaneNode, in_lab

BROADCAST = "ff:ff:ff:ff:ff:ff"


class VlanNet(Network):
    """krypton, vxplane: a trunk with PVID 1 (guest 1), access 100 (2), 10-20 with PVID 10 and 11 untagged (5), PVID none (7).
    xenon, vxplane: the same with guests 3, 4, 6, 8."""

    LINES = ["tap{}i0 driver=netdev", "tap{}i0 driver=netdev bridge-access=100",
             "tap{}i0 driver=netdev bridge-vids=10-20 bridge-pvid=10 bridge-untagged=11",
             "tap{}i0 driver=netdev bridge-vids=100 bridge-pvid=none"]

    def __init__(self, lab):
        self.lab, self.wire = lab, Wire(lab)
        self.guests = {number: Guest(lab, number) for number in range(1, 9)}
        numbers = {"krypton": (1, 2, 5, 7), "xenon": (3, 4, 6, 8)}
        self.nodes = []
        for name, number, remote in (("krypton", 1, 2), ("xenon", 2, 1)):
            lines = [line.format(100 + guest) for line, guest in zip(self.LINES, numbers[name])]
            node = VxplaneNode(lab, name, number, self.wire, remotes=[remote], ports=lines)
            for guest in numbers[name]:
                self.guests[guest].plug_veth(node, f"tap{100 + guest}i0")
            self.nodes.append(node)
        for guest in self.guests.values():
            guest.node.wait_ready()
            guest.node.wait_port(guest.port)

    def send(self, sender, tag=None, pcp=0, tpid=0x8100, ethertype=0x88B5, wait=0.25):
        """Broadcasts one frame; {guest: bytes 12-18 of what it got} of those that got it (its own too)."""
        marker = os.urandom(12)
        with contextlib.ExitStack() as stack:
            captures = {number: stack.enter_context(frames.Capture(guest.namespace, "eth0")) for number, guest in self.guests.items()}
            frames.send(self.guests[sender], frames.ethernet(BROADCAST, self.guests[sender].mac, ethertype, marker + bytes(48), tag, pcp, tpid))
            time.sleep(wait)
        return {number: frame[12:18] for number, capture in captures.items() for _, frame in capture.frames if marker in frame}


UNTAGGED = struct.pack("!H", 0x88B5)


def tagged(vlan, pcp=0):
    return struct.pack("!HHH", 0x8100, vlan | pcp << 13, 0x88B5)


def expect(got, want):
    """`want`: {guest: None for untagged, else bytes 12-18}."""
    check(set(got) == set(want), f"got it: {sorted(got)}, should: {sorted(want)}")
    for number, tag in want.items():
        check(got[number] == tag if tag else got[number][:2] == UNTAGGED, f"guest {number} got it with {got[number].hex()}")


def untagged_is_pvid(net):
    """an untagged frame belongs to the PVID and reaches the PVID's members untagged"""
    expect(net.send(1), {3: None})


def access_to_trunk(net):
    """an access port's frames are tagged on trunks, here and across, untagged on access ports"""
    expect(net.send(2), {1: tagged(100), 3: tagged(100), 4: None, 7: tagged(100), 8: tagged(100)})


def trunk_to_access(net):
    """a tagged frame loses its tag on access ports and keeps VLAN and PCP on trunks"""
    expect(net.send(3, tag=100, pcp=5), {1: tagged(100, 5), 2: None, 4: None, 7: tagged(100, 5), 8: tagged(100, 5)})


def untagged_set(net):
    """a VLAN in bridge-untagged leaves untagged; the others of the port tagged"""
    expect(net.send(1, tag=11), {3: tagged(11), 5: None, 6: None})
    expect(net.send(1, tag=12, pcp=3), {3: tagged(12, 3), 5: tagged(12, 3), 6: tagged(12, 3)})


def other_pvid(net):
    """a port's own PVID takes its untagged frames"""
    expect(net.send(5), {1: tagged(10), 3: tagged(10), 6: None})


def pvid_none(net):
    """without a PVID untagged frames are dropped and counted vlan_not_member"""
    before = net.nodes[0].drops()["vlan_not_member"]
    expect(net.send(7), {})
    eventually(lambda: net.nodes[0].drops()["vlan_not_member"] > before, 2, "not counted")


def not_a_member(net):
    """a tag that the port is no member of is dropped and counted vlan_not_member"""
    before = net.nodes[0].drops()["vlan_not_member"]
    expect(net.send(5, tag=99), {})
    expect(net.send(2, tag=55), {})
    eventually(lambda: net.nodes[0].drops()["vlan_not_member"] >= before + 2, 2, "not counted")


def priority_tagged(net):
    """a priority-tagged frame (VID 0) belongs to the PVID and keeps its PCP where the egress is tagged"""
    expect(net.send(1, tag=0, pcp=6), {3: None})
    expect(net.send(2, tag=0, pcp=6), {1: tagged(100, 6), 3: tagged(100, 6), 4: None, 7: tagged(100, 6), 8: tagged(100, 6)})


def service_tagged(net):
    """an 802.1ad frame passes as payload of its PVID"""
    got = net.send(1, tag=300, tpid=0x88A8)
    check(set(got) == {3} and got[3] == struct.pack("!HHH", 0x88A8, 300, 0x88B5), f"{got}")


def same_mac_two_vlans(net):
    """the same MAC in two VLANs has two entries"""
    one, other = net.guests[1], net.nodes[0]
    net.send(1)
    net.send(1, tag=100)
    vlans = {entry["vlan"] for entry in other.fdb(one.mac)}
    check({1, 100} <= vlans, f"vlans {vlans}")


def access_guests_ping(net):
    """guests on access ports of VLAN 100 ping across, IPv4 and IPv6, 1332 bytes; 1333 do not pass"""
    a, b = net.guests[2], net.guests[4]
    a.ping(b)
    b.ping(a.ipv6)
    for guest in (a, b):
        guest.namespace.ip("link", "set", "eth0", "mtu", 1500)
    a.ping(b, size=OVERLAY_MTU)
    before = net.nodes[0].drops()["mtu_exceeded"]
    check(not a.ping(b, size=OVERLAY_MTU + 1, seconds=0.5, check=False), "1333 bytes passed")
    check(net.nodes[0].drops()["mtu_exceeded"] > before, "not counted")


def tap_in_a_guest():
    """a tap of the dataplane, moved into its guest, carries traffic; after kill -9 the new one does"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], ports=["guest1 driver=tap"])
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        a, b = Guest(lab, 1), Guest(lab, 3)
        b.plug_veth(xenon, "tap103i0")
        krypton.wait_ready()
        check(eventually(lambda: krypton.namespace.links().get("guest1"), 5, "no tap")["mtu"] == OVERLAY_MTU, "the tap's MTU is not the overlay's")
        a.take_tap(krypton, "guest1")
        a.wait_ping(b)
        a.ping(b.ipv6)
        a.ping(b, size=OVERLAY_MTU)
        krypton.kill("dataplane")
        krypton.start_dataplane()
        a.take_tap(krypton, "guest1", 15)
        a.wait_ping(b)
        krypton.check_conservation()


def tap_stays_over_crash():
    """a tap's netdev stays over a crash of the dataplane with its address, and goes at a clean stop"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], ports=["guest1 driver=tap"])
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        b = Guest(lab, 3)
        b.plug_veth(xenon, "tap103i0")
        krypton.wait_ready()
        before = eventually(lambda: krypton.namespace.links().get("guest1"), 5, "no tap")
        krypton.namespace.ip("addr", "add", "10.0.0.77/24", "dev", "guest1")
        eventually(lambda: b.ping("10.0.0.77", count=1, check=False), 10, "the tap does not answer")
        krypton.kill("dataplane")
        time.sleep(0.3)
        after = krypton.namespace.links().get("guest1")
        check(after and after["ifindex"] == before["ifindex"], "the tap went with the crash")
        krypton.start_dataplane()
        eventually(lambda: b.ping("10.0.0.77", count=1, check=False), 10, "the tap does not answer after the restart")
        krypton.stop()
        eventually(lambda: "guest1" not in krypton.namespace.links(), 3, "the tap outlived a clean stop")


def netdev_comes_and_goes():
    """a netdev port waits until its veth appears, attaches, goes with it and returns with it"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], ports=["tap101i0 driver=netdev", "fwpr*p? driver=netdev"])
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        a, p, b = Guest(lab, 1), Guest(lab, 2), Guest(lab, 3)
        b.plug_veth(xenon, "tap103i0")
        krypton.wait_ready()
        krypton.wait_port("tap101i0", "waiting")
        for _ in range(2):
            a.plug_veth(krypton, "tap101i0")
            krypton.wait_port("tap101i0", "up", 5)
            a.wait_ping(b, 5)
            a.unplug()
            krypton.wait_port("tap101i0", "waiting", 5)
            check(krypton.fdb(a.mac) == [], "its entries outlived the port")
        p.plug_veth(krypton, "fwpr100p0")  # a pattern's port
        krypton.wait_port("fwpr100p0", "up", 5)
        p.wait_ping(b, 5)
        p.unplug()
        eventually(lambda: "fwpr100p0" not in [port["name"] for port in krypton.json("port") if port["state"] == "up"], 5, "still up")
        krypton.check_conservation()


def netdev_frames_are_taken():
    """frames of a netdev port do not also enter the kernel's own path"""
    with Lab() as lab:
        krypton = VxplaneNode(lab, "krypton", 1, Wire(lab), remotes=[2], ports=["tap101i0 driver=netdev"])
        a = Guest(lab, 1)
        a.plug_veth(krypton, "tap101i0")
        krypton.namespace.ip("addr", "add", "10.0.0.200/24", "dev", "tap101i0")
        krypton.wait_ready()
        krypton.wait_port("tap101i0")
        check(not a.ping("10.0.0.200", count=2, seconds=0.5, check=False), "the host's own stack answered on the port's netdev")


def netdev_mode(replace):
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], ports=["vxlan_mainvx driver=tap"], start=False,
                              settings={"vxlan": {"replace-kernel": "yes"}} if replace else None)
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        ns = krypton.namespace
        ns.ip("link", "add", "mainvx", "mtu", OVERLAY_MTU, "type", "bridge", "mcast_snooping", "0")
        ns.run("sysctl", "-qw", "net.ipv6.conf.mainvx.disable_ipv6=1")
        ns.ip("link", "set", "mainvx", "mtu", OVERLAY_MTU, "up")
        if replace:
            ns.ip("link", "add", "vxlan_mainvx", "type", "vxlan", "id", "1000", "local", krypton.vtep, "dstport", 4789)
            ns.ip("link", "set", "vxlan_mainvx", "mtu", OVERLAY_MTU, "master", "mainvx", "up")
        a, b = Guest(lab, 1), Guest(lab, 3)
        b.plug_veth(xenon, "tap103i0")
        krypton.start()
        krypton.wait_ready()
        eventually(lambda: ns.links().get("vxlan_mainvx", {}).get("linkinfo", {}).get("info_kind") == "tun", 5, "no tap vxlan_mainvx")
        if replace:
            eventually(lambda: ns.links()["vxlan_mainvx"].get("master") == "mainvx", 3, "the tap did not take the vxlan's place in the bridge")
        else:
            ns.ip("link", "set", "vxlan_mainvx", "master", "mainvx")
        check(ns.links()["vxlan_mainvx"]["mtu"] == OVERLAY_MTU, "the tap's MTU is not the overlay's")
        a.namespace.ip("link", "del", "eth0", check=False)
        ns.ip("link", "add", "tap101i0", "type", "veth", "peer", "name", "eth0", "netns", a.namespace.name)
        ns.ip("link", "set", "tap101i0", "master", "mainvx", "up")
        a.dress()
        a.wait_ping(b)
        a.ping(b.ipv6)
        a.ping(b, size=OVERLAY_MTU)
        entry = eventually(lambda: krypton.fdb(b.mac), 3, "the remote guest is not in the FDB")[0]
        check(entry["dst"] == xenon.vtep and "self" in entry["flags"], f"{entry}")
        check(krypton.fdb(a.mac) == [], "a local guest is in the FDB, which holds remote entries only")
        check(f"{b.mac} dev vxlan_mainvx dst {xenon.vtep} vlan 1 self" in krypton.ctl("fdb").splitlines(), krypton.ctl("fdb"))
        krypton.kill("dataplane")
        time.sleep(0.2)
        check(ns.links()["vxlan_mainvx"].get("master") == "mainvx", "a crash took the tap out of the bridge")
        krypton.start_dataplane()
        a.wait_ping(b)
        krypton.check_conservation()


def netdev_mode_in_bridge():
    """netdev mode: the tap vxlan_mainvx in a kernel bridge stands in for the kernel's vxlan, over a crash too"""
    netdev_mode(replace=False)


def netdev_mode_replaces_kernel():
    """netdev mode, replace-kernel = yes: a kernel vxlan device is replaced and the tap takes its place in the bridge"""
    netdev_mode(replace=True)


def netdev_mode_refuses_kernel():
    """netdev mode: a kernel vxlan device of that name is refused with one line and left alone"""
    with Lab() as lab:
        krypton = VxplaneNode(lab, "krypton", 1, Wire(lab), remotes=[2], ports=["vxlan_mainvx driver=tap"], start=False)
        krypton.namespace.ip("link", "add", "vxlan_mainvx", "type", "vxlan", "id", "1000", "local", krypton.vtep, "dstport", 4789)
        krypton.start()
        eventually(lambda: "replace-kernel" in krypton.log("vxplane-control"), 10, "no line says what to do")
        time.sleep(0.5)
        check(krypton.namespace.links()["vxlan_mainvx"]["linkinfo"]["info_kind"] == "vxlan", "it was taken away")


def af_xdp_guest_port():
    """a guest's veth as an af_xdp port"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], ports=["tap101i0 driver=af_xdp"])
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        a, b = Guest(lab, 1), Guest(lab, 3)
        a.plug_veth(krypton, "tap101i0")
        b.plug_veth(xenon, "tap103i0")
        krypton.wait_ready()
        krypton.wait_port("tap101i0")
        a.wait_ping(b)
        b.ping(a.ipv6)
        a.ping(b, size=OVERLAY_MTU)
        krypton.check_conservation()


SECTION_1 = {
    "interfaces": """auto enp35s0.4003
iface enp35s0.4003 inet static
        address 172.18.1.1/24
        vlan-raw-device enp35s0
        mtu 1400

source {folder}/sdn
""",
    "sdn": """auto vxlan_mainvx
iface vxlan_mainvx
        vxlan-id 1000
        vxlan_remoteip 172.18.1.2
        mtu 1332

auto mainvx
iface mainvx
        bridge_ports vxlan_mainvx
        bridge_stp off
        bridge_fd 0
        bridge-vlan-aware yes
        bridge-vids 2-4094
        mtu 1332
""",
}


def ifupdown2_files():
    """the two ifupdown2 files of a Proxmox host are a whole configuration: netdev mode, VLAN 4003, own address from the subnet"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, own=True, vlan=4003, start=False)
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1], vlan=4003)
        for name, text in SECTION_1.items():
            with open(krypton.config_path(name), "w") as file:
                file.write(text.format(folder=krypton.run_dir))
        with open(krypton.config_path(), "w") as file:
            file.write(f"interfaces = {krypton.config_path('interfaces')}\n[underlay]\nvtep-address = own\n")
        ns = krypton.namespace
        ns.ip("link", "add", "mainvx", "mtu", OVERLAY_MTU, "type", "bridge", "mcast_snooping", "0")
        ns.ip("link", "set", "mainvx", "mtu", OVERLAY_MTU, "up")
        krypton.start()
        krypton.wait_ready()
        eventually(lambda: "vxlan_mainvx" in ns.links(), 5, "no tap vxlan_mainvx")
        ns.ip("link", "set", "vxlan_mainvx", "master", "mainvx")
        a, b = Guest(lab, 1), Guest(lab, 3)
        b.plug_veth(xenon, "tap103i0")
        ns.ip("link", "add", "tap101i0", "type", "veth", "peer", "name", "eth0", "netns", a.namespace.name)
        ns.ip("link", "set", "tap101i0", "master", "mainvx", "up")
        a.dress()
        a.wait_ping(b)
        krypton.check_conservation()


def dpdk_pcap_port():
    """a guest port on DPDK's net_pcap: its frames cross the tunnel, and what is sent to it is in its file"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], start=False)
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        b = Guest(lab, 3)
        b.plug_veth(xenon, "tap103i0")
        incoming, outgoing = (os.path.join(lab.directory, name) for name in ("in.pcap", "out.pcap"))
        frames.write_pcap(incoming, [frames.ethernet(BROADCAST, "52:54:00:70:ca:70", 0x88B5, b"from-pcap" + bytes(46))] * 3)
        krypton.start()
        krypton.wait_ready()
        with frames.Capture(b.namespace, "eth0") as seen:
            krypton.ctl("port", "add", "pcap0", f"driver=dpdk:net_pcap0,rx_pcap={incoming},tx_pcap={outgoing}")
            check(seen.wait(lambda frame: b"from-pcap" in frame, 5), "frames of the file did not cross")
        eventually(lambda: krypton.fdb("52:54:00:70:ca:70"), 2, "not learned")
        frames.send(b, frames.ethernet("52:54:00:70:ca:70", b.mac, 0x88B5, b"to-pcap" + bytes(46)))
        time.sleep(0.5)
        krypton.check_conservation()
        krypton.stop()  # flushes the file
        check(any(b"to-pcap" in packet for packet in frames.read_pcap(outgoing)), "the frame is not in the file")


def dpdk_memif_underlay():
    """an underlay on DPDK's net_memif between two vxplane nodes, which own their addresses"""
    with Lab() as lab:
        wire, nodes = Wire(lab), []
        path = os.path.join(lab.directory, "memif.sock")
        for name, number, remote, role in (("krypton", 1, 2, "server"), ("xenon", 2, 1, "client")):
            underlay = {"device": "memif0", "driver": f"dpdk:net_memif0,role={role},id=0,socket={path},socket-abstract=no,mac=02:00:00:0a:00:0{number}",
                        "mtu": 1500}
            nodes.append(VxplaneNode(lab, name, number, wire, remotes=[remote], own=True, vlan=4003, settings={"underlay": underlay},
                                     ports=["tap*i* driver=netdev"]))
        guests = [Guest(lab, 1), Guest(lab, 3)]
        for guest, node in zip(guests, nodes):
            guest.plug_veth(node, f"tap10{guest.number}i0")
        for guest, node in zip(guests, nodes):
            node.wait_ready()
            node.wait_port(guest.port)
        guests[0].wait_ping(guests[1])
        guests[1].ping(guests[0].ipv6)
        for node in nodes:
            node.check_conservation()


def two_workers():
    """two workers and ports with two queues: every packet arrives, both workers work, totals balance"""
    with Lab() as lab:
        wire = Wire(lab)
        options = {"ports": ["tap*i* driver=netdev"], "dataplane_flags": ["--lcores", "0,1"], "queues": 2}
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], **options)
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        guests = [Guest(lab, number, queues=2) for number in (1, 2)]
        b = Guest(lab, 3)
        for guest in guests:
            guest.plug_veth(krypton, f"tap10{guest.number}i0")
        b.plug_veth(xenon, "tap103i0")
        krypton.wait_ready()
        for guest in guests:
            krypton.wait_port(guest.port)
            guest.wait_ping(b)
        check(len(krypton.stats()["workers"]) == 2, f"{krypton.stats()['workers']}")
        flows = [guest.namespace.popen("ping", "-n", "-q", "-i", "0.005", "-c", "200", "-W", "1", target.ipv4, stdout=-1)
                 for guest, target in ((guests[0], b), (guests[1], b), (guests[0], guests[1]))]
        for flow in flows:
            text = flow.communicate(timeout=20)[0]
            check(" 0% packet loss" in text, text.strip())
        workers = krypton.stats()["workers"]
        check(all(worker["packets"] for worker in workers), f"an idle worker: {workers}")
        krypton.check_conservation()


def two_queue_tap():
    """a tap of two workers has two queues"""
    with Lab() as lab:
        krypton = VxplaneNode(lab, "krypton", 1, Wire(lab), remotes=[2], ports=["guest1 driver=tap"], dataplane_flags=["--lcores", "0,1"])
        krypton.wait_ready()
        krypton.wait_port("guest1")
        port = next(port for port in krypton.json("port") if port["name"] == "guest1")
        check((port["rx_queues"], port["tx_queues"]) == (2, 2), f"{port}")


def set_hugepages(number):
    path = "/proc/sys/vm/nr_hugepages"
    with open(path) as file:
        before = int(file.read())
    with open(path, "w") as file:
        file.write(str(number))
    with open(path) as file:
        return before, int(file.read())


def with_hugepages():
    """with hugepages the dataplane uses them and says so, traffic passes, and it gives them back"""
    before, now = set_hugepages(512)
    try:
        if now < 512:
            raise Skip(f"the kernel gave {now} hugepages")
        with Lab() as lab:
            krypton, a, b = node_with_guest(lab)
            check(krypton.json("status")["dataplane"]["hugepages"] is True, "hugepages are not used")
            a.wait_ping(b)
            krypton.stop()
            with open("/proc/meminfo") as file:
                free = [line.split()[1] for line in file if line.startswith("HugePages_Free")]
            check(int(free[0]) >= now, f"{free[0]} of {now} hugepages are free after the stop")
    finally:
        set_hugepages(before)


def with_too_few_hugepages():
    """with fewer hugepages than it would need the dataplane goes on without them by itself"""
    for number in (16, 140, 256):
        before, now = set_hugepages(number)
        try:
            if now < number:
                raise Skip(f"the kernel gave {now} hugepages")
            with Lab() as lab:
                krypton, a, b = node_with_guest(lab)
                a.wait_ping(b)
                krypton.check_conservation()
        finally:
            set_hugepages(before)


def node_with_guest(lab):
    wire = Wire(lab)
    krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], ports=["tap101i0 driver=netdev"])
    xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
    a, b = Guest(lab, 1), Guest(lab, 3)
    a.plug_veth(krypton, "tap101i0")
    b.plug_veth(xenon, "tap103i0")
    krypton.wait_ready()
    krypton.wait_port("tap101i0")
    return krypton, a, b


def idle_is_cheap():
    """an idle adaptive dataplane uses at most 2 % of a core"""
    with Lab() as lab:
        krypton = VxplaneNode(lab, "krypton", 1, Wire(lab), remotes=[2])
        krypton.wait_ready()
        pid = krypton.json("status")["dataplane"]["pid"]

        def busy():
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        time.sleep(1)
        before = busy()
        time.sleep(5)
        used = (busy() - before) / 5 * 100
        check(used <= 2, f"{used:.1f} % of a core")


if __name__ == "__main__":
    suite = Suite("ports")
    suite.group("VLANs, vxplane-vxplane", lambda: in_lab(VlanNet), [untagged_is_pvid, access_to_trunk, trunk_to_access, untagged_set, other_pvid, pvid_none,
                                                     not_a_member, priority_tagged, service_tagged, same_mac_two_vlans, access_guests_ping])
    suite.group("ports", None, [tap_in_a_guest, tap_stays_over_crash, netdev_comes_and_goes, netdev_frames_are_taken, netdev_mode_in_bridge,
                                netdev_mode_replaces_kernel, netdev_mode_refuses_kernel, af_xdp_guest_port, ifupdown2_files, dpdk_pcap_port, dpdk_memif_underlay, two_workers, two_queue_tap, with_hugepages, with_too_few_hugepages, idle_is_cheap])
    suite.main()
