#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""driver = udp: against a kernel node and against af_xdp, over a wire and over a router, through crashes and link flaps, and what it
must not do: touch the NIC, or go on in silence when somebody else holds the port."""

import contextlib
import signal

import traffic_test as traffic
from cases import Suite, check, eventually
from lab import OVERLAY_MTU, UNDERLAY_DEVICE, Guest, Lab, Wire, wire_offloads_off
from nodes import KernelNode, VxplaneNode, pair

UDP = {"underlay": {"driver": "udp"}}
GATEWAY = "172.18.1.254"


def sixty_four_ports(net):
    """100 flows leave from at least 40 of the 64 source ports, each always from one"""
    a, b = net.guests[0], net.guests[2]
    a.ping(b)
    outers = traffic.outer_of(net, a, lambda: traffic.frames.send(
        a, *[traffic.udp_frame(a, b, 10000 + flow) for _ in range(2) for flow in range(100)]))
    flows = {}
    for outer in outers:
        if outer.inner[12:14] == b"\x08\x00" and outer.inner[23] == 17:
            flows.setdefault(outer.inner[34:36], set()).add(outer.source_port)
    check(len(flows) == 100, f"{len(flows)} of 100 flows seen")
    check(all(len(ports) == 1 for ports in flows.values()), "a flow changed its source port")
    distinct = {port for ports in flows.values() for port in ports}
    check(40 <= len(distinct) <= 64, f"100 flows share {len(distinct)} source ports")


def nic_is_untouched(net):
    """no XDP program on the NIC, rxvlan as it was, no MAC in vtep show"""
    link = net.krypton.namespace.links()[UNDERLAY_DEVICE]
    check("xdp" not in link, f"XDP on the NIC: {link.get('xdp')}")
    vteps = net.krypton.json("vtep")
    check([vtep["state"] for vtep in vteps] == ["reachable"] and "mac" not in vteps[0], f"{vteps}")


def dataplane_dies(net):
    """kill -9 of the dataplane, a new one: guests reach each other again, control unaided"""
    a, b = net.guests[0], net.guests[2]
    net.krypton.kill("dataplane")
    net.krypton.start_dataplane()
    net.krypton.wait_port(a.port)
    a.wait_ping(b)


def control_restarts(net):
    """a restart of control loses no ping"""
    a, b = net.guests[0], net.guests[2]
    a.ping(b)
    pinging = a.namespace.popen("ping", "-n", "-q", "-c", 60, "-i", "0.02", "-W", 1, b.ipv4, stdout=-1)
    net.krypton.kill("control")
    net.krypton.start_control()
    text, _ = pinging.communicate(timeout=10)
    check(" 0% packet loss" in text, text.strip())
    net.krypton.wait_ready()


def link_flaps(net):
    """the link goes and comes: unreachable, then guests reach each other again"""
    a, b = net.guests[0], net.guests[2]
    net.krypton.namespace.ip("link", "set", UNDERLAY_DEVICE, "down")
    try:
        eventually(lambda: net.krypton.json("vtep")[0]["state"] == "unresolved", 3, "the VTEP is reachable without a link")
        check("no route" in net.krypton.ctl("status"), net.krypton.ctl("status"))
    finally:
        net.krypton.namespace.ip("link", "set", UNDERLAY_DEVICE, "up")
        net.krypton.address()
    a.wait_ping(b)


@contextlib.contextmanager
def routed(hop_mtu=1500):
    """krypton (vxplane, udp) and xenon (kernel), each on a wire of its own to one router."""
    with Lab() as lab:
        wires = [Wire(lab), Wire(lab)]
        krypton = VxplaneNode(lab, "krypton", 1, wires[0], remotes=[2], settings=UDP, ports=["tap*i* driver=netdev"], start=False)
        xenon = KernelNode(lab, "xenon", 2, wires[1], remotes=[1])
        router = lab.namespace("router")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for number, (node, wire) in enumerate(zip((krypton, xenon), wires), 1):
            device = f"r{number}"
            wire.plug(router, device)
            router.ip("addr", "add", f"{GATEWAY}/32", "dev", device)
            router.ip("route", "add", f"{node.vtep}/32", "dev", device)
            ns = node.namespace
            ns.ip("addr", "del", f"{node.vtep}/24", "dev", UNDERLAY_DEVICE)
            ns.ip("addr", "add", f"{node.vtep}/32", "dev", UNDERLAY_DEVICE)
            ns.ip("route", "add", f"{GATEWAY}/32", "dev", UNDERLAY_DEVICE, "scope", "link")
            ns.ip("route", "add", "172.18.1.0/24", "via", GATEWAY, "src", node.vtep)
            wire_offloads_off(router, device)
        router.ip("link", "set", "r2", "mtu", hop_mtu)
        guests = [Guest(lab, 1), Guest(lab, 3)]
        try:
            krypton.start()
            krypton.wait_ready()
            guests[0].plug_veth(krypton, "tap101i0")
            guests[1].plug_veth(xenon, "tap103i0")
            krypton.wait_port("tap101i0")
            guests[0].wait_ping(guests[1])
            yield krypton, xenon, router, guests
        except BaseException:
            lab.show_logs()
            raise


def over_a_router():
    """a router between the VTEPs: pings of 1332 pass both ways, 1333 do not"""
    with routed() as (krypton, _, _, (a, b)):
        for one, other in ((a, b), (b, a)):
            for address in (other.ipv4, other.ipv6):
                one.ping(address, size=OVERLAY_MTU)
        for guest in (a, b):
            guest.namespace.ip("link", "set", "eth0", "mtu", 1500)
        check(not a.ping(b, size=OVERLAY_MTU + 1, seconds=0.5, check=False), "1333 bytes passed")
        krypton.check_conservation()


def path_mtu_is_learnt():
    """a hop that carries less: its ICMP reaches the kernel's socket, and what is too big is dropped here with a reason"""
    with routed(hop_mtu=1300) as (krypton, _, _, (a, b)):
        def refused():
            a.ping(b, size=OVERLAY_MTU, count=2, seconds=0.3, check=False)
            return krypton.drops()["underlay_mtu_exceeded"] > 0
        eventually(refused, 8, lambda: f"{krypton.drops()}")
        a.ping(b, size=1250)  # 1300 - 50
        check(not a.ping(b, size=1251, seconds=0.3, check=False), "1251 bytes passed")
        krypton.check_conservation()


def port_is_held():
    """a kernel vxlan device that holds the port: status names it; once it is gone all is well unaided"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], settings=UDP, ports=["tap*i* driver=netdev"], start=False)
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        krypton.namespace.ip("link", "add", "vxlan42", "type", "vxlan", "id", 42, "local", krypton.vtep, "remote", xenon.vtep, "dstport", 4789)
        krypton.namespace.ip("link", "set", "vxlan42", "up")
        krypton.start()
        krypton.wait_ready()
        eventually(lambda: "held by the kernel's vxlan device vxlan42" in krypton.ctl("status"), 5, lambda: krypton.ctl("status"))
        krypton.namespace.ip("link", "del", "vxlan42")
        a, b = Guest(lab, 1), Guest(lab, 3)
        a.plug_veth(krypton, "tap101i0")
        b.plug_veth(xenon, "tap103i0")
        a.wait_ping(b)
        eventually(lambda: "held by" not in krypton.ctl("status"), 5, lambda: krypton.ctl("status"))


def driver_changes():
    """a reload from udp to af_xdp and back: guests reach each other after each"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], settings=UDP, ports=["tap*i* driver=netdev"])
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        a, b = Guest(lab, 1), Guest(lab, 3)
        krypton.wait_ready()
        a.plug_veth(krypton, "tap101i0")
        b.plug_veth(xenon, "tap103i0")
        krypton.wait_port("tap101i0")
        a.wait_ping(b)
        for driver in ("af_xdp", "udp"):
            krypton.settings = {"underlay": {"driver": driver}}
            krypton.write_config()
            krypton.signal("control", signal.SIGHUP)
            eventually(lambda: any(port["driver"] == driver and port["state"] == "up" for port in krypton.json("port")), 8,
                       lambda: krypton.ctl("port"))
            a.wait_ping(b)
            check(("xdp" in krypton.namespace.links()[UNDERLAY_DEVICE]) == (driver == "af_xdp"), f"XDP with {driver}")


BASIC = [traffic.ping_ipv4, traffic.ping_ipv6, traffic.tcp_transfer, traffic.payload_1332_passes, traffic.payload_1333_does_not]

if __name__ == "__main__":
    suite = Suite("udp")
    suite.group("udp-kernel", lambda: pair("vxplane", "kernel", settings=UDP),
                [*BASIC, traffic.outer_header, sixty_four_ports, traffic.ecn_is_copied, nic_is_untouched, dataplane_dies, control_restarts, link_flaps])
    suite.group("udp-af_xdp", lambda: pair("vxplane", "vxplane", krypton={"settings": UDP}), BASIC)
    suite.group("udp-kernel IPv6 underlay", lambda: pair("vxplane", "kernel", settings=UDP, family=6, underlay_mtu=1500),
                [*BASIC, traffic.outer_header])
    suite.group("udp-udp guests that tag VLAN 100", lambda: pair("vxplane", "vxplane", settings=UDP, tags=(100,) * 4), BASIC)
    suite.group("udp", None, [over_a_router, path_mtu_is_learnt, port_is_held, driver_changes])
    suite.main()
