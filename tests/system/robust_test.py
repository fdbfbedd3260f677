#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What an operator's day brings: routed underlays, flushed neighbours, NICs that go, files that are damaged, clients that talk
nonsense, a second instance by mistake, thousands of MACs over a restart."""

import contextlib
import os
import socket
import time

import frames
from cases import Suite, check, eventually
from lab import OVERLAY_MTU, UNDERLAY_DEVICE, Guest, Lab, Wire, binary
from nodes import KernelNode, VxplaneNode, pair


def own_address_answers(net):
    """the VTEP address the dataplane owns answers ARP or ND and ping, also large ones, from the peer's kernel"""
    for size in (56, 1300):
        done = net.xenon.namespace.run("ping", "-n", "-q", "-c", 5, "-i", "0.05", "-W", 1, "-s", size, net.krypton.vtep, check=False)
        check(" 0% packet loss" in done.stdout, f"{size} bytes: {done.stdout.strip()}")
    net.xenon.namespace.ip("neigh", "flush", "all", check=False)
    net.guests[2].wait_ping(net.guests[0], 5)


def neighbours_flushed(net):
    """a flushed neighbour table of the host is filled again by itself"""
    net.guests[0].wait_ping(net.guests[2])
    for _ in range(3):
        net.krypton.namespace.ip("neigh", "flush", "all", check=False)
        time.sleep(0.3)
        net.guests[0].wait_ping(net.guests[2], 3)


def port_goes_down_and_up(net):
    """a guest's netdev set down and up again carries traffic again"""
    guest = net.guests[0]
    guest.ping(net.guests[2])
    net.krypton.namespace.ip("link", "set", guest.port, "down")
    time.sleep(0.3)
    check(not guest.ping(net.guests[2], count=1, seconds=0.3, check=False), "traffic passes a port that is down")
    net.krypton.namespace.ip("link", "set", guest.port, "up")
    guest.wait_ping(net.guests[2], 5)
    net.guests[2].ping(guest)


def nonsense_on_sockets(net):
    """nonsense on control.sock and dataplane.sock harms nobody"""
    node = net.krypton
    for name, kind in (("control.sock", socket.SOCK_STREAM), ("dataplane.sock", socket.SOCK_SEQPACKET)):
        for data in (b"\n", b"nonsense\n", b"{}\n", b'{"object":5}\n', b'{"object":"fdb","command":"add","mac":7}\n', os.urandom(4000), b"[" * 60000 + b"\n",
                     b"\x01\0\0\0\x0e\0\xff\xff" + bytes(8)):
            with socket.socket(socket.AF_UNIX, kind) as client, contextlib.suppress(OSError):
                client.settimeout(0.2)
                client.connect(os.path.join(node.run_dir, name))
                client.send(data)
                client.recv(4096)
    check(node.dataplane.poll() is None and node.control.poll() is None, "a process ended")
    net.guests[0].ping(net.guests[2])
    node.ctl("status")


def second_instance_refused(net):
    """a second dataplane or control on the same run directory is refused with one line, the first goes on"""
    node = net.krypton
    for program, flags in (("vxplane-dataplane", []), ("vxplane-control", ["--config", node.config_path()])):
        done = node.namespace.run(binary(program), "--run-dir", node.run_dir, *flags, check=False, seconds=10)
        check(done.returncode not in (0, None) and len(done.stderr.strip().splitlines()) <= 2, f"{program}: exit {done.returncode}: {done.stderr}")
    net.guests[0].ping(net.guests[2])
    node.ctl("status")


def thousands_over_restart(net):
    """3000 learned MACs are still there, and none is flooded, after a restart of control and of the dataplane"""
    node, (a, b, c, _) = net.krypton, net.guests
    with frames.RawSocket(b.namespace, "eth0") as raw:
        for number in range(3000):
            raw.send(frames.ethernet("ff:ff:ff:ff:ff:ff", f"52:54:01:00:{number >> 8:02x}:{number & 255:02x}", 0x88B5, bytes(46)))
            if number % 100 == 99:
                time.sleep(0.05)

    def learned():
        return len([entry for entry in node.fdb("dev", b.port) if entry["mac"].startswith("52:54:01")])
    eventually(lambda: learned() >= 2990, 5, lambda: f"{learned()} of 3000 learned")
    count = learned()
    node.kill("control")
    node.start_control()
    node.wait_ready()
    check(learned() >= count, f"{count} before the restart of control, {learned()} after")
    node.kill("dataplane")
    node.start_dataplane()
    node.wait_ready()
    node.wait_port(b.port)
    a.wait_ping(c)
    check(learned() >= count, f"{count} before the restart of the dataplane, {learned()} after")
    with frames.Capture(c.namespace, "eth0") as seen:
        frames.send(a, *[frames.ethernet(f"52:54:01:00:00:{number:02x}", a.mac, 0x88B5, b"known-mac" + bytes(46)) for number in range(100)])
    flooded = sum(b"known-mac" in frame for _, frame in seen.frames)
    check(flooded == 0, f"{flooded} of 100 frames to known MACs were flooded")
    node.ctl("fdb", "flush", "dev", b.port)


def damaged_state(net):
    """a damaged state file costs a warning, not the service"""
    node = net.krypton
    for data in (b"", b"nonsense", b'{"fdb":[{"mac":5}]}', os.urandom(1000)):
        node.kill("control")
        with open(os.path.join(node.run_dir, "control.state"), "wb") as file:
            file.write(data)
        node.start_control()
        node.wait_ready()
        net.guests[0].ping(net.guests[2])


def config_changed_while_away(net):
    """what left the configuration while control was away is removed when it returns, the rest is untouched"""
    node = net.krypton
    node.ctl("vtep", "show")
    node.remotes = [2, 8]
    node.write_config()
    node.kill("control")
    node.start_control()
    node.wait_ready()
    check({vtep["dst"] for vtep in node.json("vtep")} == {node.vtep_of(2), node.vtep_of(8)}, f"{node.json('vtep')}")
    node.remotes = [2]
    node.write_config()
    node.kill("control")
    node.start_control()
    node.wait_ready()
    check({vtep["dst"] for vtep in node.json("vtep")} == {node.vtep_of(2)}, f"{node.json('vtep')}")
    net.guests[0].ping(net.guests[2])


def port_goes_while_control_is_away(net):
    """a netdev that goes while control is away is noticed when it returns"""
    node, guest = net.krypton, net.guests[1]
    guest.ping(net.guests[2])
    node.kill("control")
    guest.unplug()
    time.sleep(1.5)
    net.guests[0].ping(net.guests[2])
    node.start_control()
    node.wait_ready()
    eventually(lambda: "tap102i0" not in [port["name"] for port in node.json("port") if port["state"] == "up"], 5, "still up")
    guest.plug_veth(node, "tap102i0")
    node.wait_port("tap102i0")
    guest.wait_ping(net.guests[2], 5)


def nic_goes_and_returns(net):
    """the underlay's NIC goes and returns: guests talk again by themselves"""
    node = net.krypton
    net.guests[0].wait_ping(net.guests[2])
    node.namespace.ip("link", "del", UNDERLAY_DEVICE)
    time.sleep(2)
    node.ctl("status")
    node.wire_port = net.wire.plug(node.namespace)
    node.address(vtep=not node.own)
    net.guests[0].wait_ping(net.guests[2], 10)
    net.guests[3].wait_ping(net.guests[1], 5)


def routed_underlay():
    """a VTEP behind a router is reached by the router's MAC; a changed route is followed"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, ports=["tap101i0 driver=netdev"], settings={"vxlan": {"vxlan-remoteip": ["172.19.1.2"]}}, start=False)
        xenon = KernelNode(lab, "xenon", 2, wire)
        for router, last in ((lab.namespace("r1"), 254), (lab.namespace("r2"), 253)):
            wire.plug(router)
            router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", f"net.ipv4.conf.{UNDERLAY_DEVICE}.send_redirects=0")
            router.ip("addr", "add", f"172.18.1.{last}/24", "dev", UNDERLAY_DEVICE)
            router.ip("addr", "add", f"172.19.1.{last}/24", "dev", UNDERLAY_DEVICE)
        ns = xenon.namespace
        ns.ip("addr", "flush", "dev", UNDERLAY_DEVICE)
        ns.ip("addr", "add", "172.19.1.2/24", "dev", UNDERLAY_DEVICE)
        ns.ip("route", "add", "172.18.1.0/24", "via", "172.19.1.254")
        ns.ip("link", "del", "vxlan_mainvx")
        ns.ip("link", "add", "vxlan_mainvx", "type", "vxlan", "id", "1000", "local", "172.19.1.2", "remote", krypton.vtep, "dstport", "4789")
        ns.ip("link", "set", "vxlan_mainvx", "mtu", OVERLAY_MTU, "master", "mainvx", "up")
        krypton.namespace.ip("route", "add", "172.19.1.0/24", "via", "172.18.1.254")
        a, b = Guest(lab, 1), Guest(lab, 3)
        a.plug_veth(krypton, "tap101i0")
        b.plug_veth(xenon, "tap103i0")
        krypton.start()
        krypton.wait_ready()
        a.wait_ping(b)
        first = krypton.json("vtep")[0]["mac"]
        krypton.namespace.ip("route", "replace", "172.19.1.0/24", "via", "172.18.1.253")
        eventually(lambda: krypton.json("vtep")[0].get("mac", first) != first, 2, "the new next hop is not followed")
        a.wait_ping(b, 3)
        krypton.check_conservation()


def many_ports():
    """twenty guests' netdevs by one pattern all work and go again"""
    with Lab() as lab:
        wire = Wire(lab)
        krypton = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], ports=["tap*i* driver=netdev"])
        xenon = KernelNode(lab, "xenon", 2, wire, remotes=[1])
        b = Guest(lab, 100)
        b.plug_veth(xenon, "tap500i0")
        krypton.wait_ready()
        guests = [Guest(lab, number) for number in range(1, 21)]
        for guest in guests:
            guest.plug_veth(krypton, f"tap{100 + guest.number}i0")
        for guest in guests:
            guest.wait_ping(b)
        krypton.check_conservation()
        for guest in guests:
            guest.unplug()
        eventually(lambda: not [port for port in krypton.json("port") if port["role"] == "guest" and port["state"] == "up"], 10, "ports left")
        krypton.check_conservation()


def configuration_errors_are_one_line():
    """a start with a wrong configuration ends with exit 2 and one line a problem"""
    with Lab() as lab:
        node = VxplaneNode(lab, "krypton", 1, Wire(lab), remotes=[2], settings={"vxlan": {"mtu": 1400}}, start=False)
        done = node.namespace.run(binary("vxplane-control"), "--run-dir", node.run_dir, "--config", node.config_path(), check=False)
        check(done.returncode == 2 and "mtu" in done.stderr and len(done.stderr.strip().splitlines()) <= 2, f"exit {done.returncode}: {done.stderr!r}")


if __name__ == "__main__":
    suite = Suite("robust")
    for title, options in (("VLAN 4003, own address", {"vlan": 4003, "own": True}), ("VLAN 4003, own IPv6 address", {"vlan": 4003, "own": True, "family": 6,
                                                                                                                  "underlay_mtu": 1500})):
        suite.group("vxplane-kernel " + title, lambda options=options: pair("vxplane", "kernel", **options), [own_address_answers, nic_goes_and_returns])
    suite.group("vxplane-kernel", lambda: pair("vxplane", "kernel"),
                [neighbours_flushed, port_goes_down_and_up, nonsense_on_sockets, second_instance_refused, thousands_over_restart, damaged_state,
                 config_changed_while_away, port_goes_while_control_is_away, nic_goes_and_returns])
    suite.group("several", None, [routed_underlay, many_ports, configuration_errors_are_one_line])
    suite.main()
