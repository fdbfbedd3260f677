#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Crashes, restarts, stops: the lab heals by itself, the host's own traffic on the same NIC never notices, nothing is left behind."""

import contextlib
import os
import signal
import subprocess
import time

import frames
from cases import Suite, check, eventually
from lab import UNDERLAY_DEVICE, Lab, Wire, compile_bpf
from nodes import HostTcp, VxplaneNode, pair
from pinger import Probes

# Longest silence of a host's TCP session that is still "undisturbed": one lost packet costs TCP 0.2 s (its shortest RTO).
UNDISTURBED_SECONDS = 0.19


@contextlib.contextmanager
def put_right(net):
    """However a case ends, the next one (or this one's second try) finds both processes of every node running."""
    try:
        yield
    finally:
        for node in net.vxplane_nodes:
            node.revive()
            node.wait_ready()


def all_talk(net, seconds=6):
    net.guests[0].wait_ping(net.guests[2], seconds)
    net.guests[3].wait_ping(net.guests[1], seconds)


def dataplane_killed(net):
    """kill -9 of a dataplane and its restart: guests talk again by themselves within 5 s"""
    all_talk(net)
    with put_right(net):
        for node in net.vxplane_nodes:
            node.kill("dataplane")
            time.sleep(0.3)
            node.start_dataplane()
            all_talk(net)
            net.guests[0].ping(net.guests[3])


def places(node):
    return {(entry["mac"], entry.get("ifname"), entry.get("dst")) for entry in node.fdb()}


@contextlib.contextmanager
def added(node, mac, *words):
    """An entry of the operator's for the duration, taken back even when the case fails: `fdb add` refuses over a static entry."""
    node.ctl("fdb", "add", mac, *words)
    try:
        yield mac
    finally:
        node.ctl("fdb", "del", mac)


def dataplane_killed_keeps_fdb(net):
    """after kill -9 of the dataplane control puts the whole FDB back, static entries included"""
    node = net.krypton
    all_talk(net)
    with added(node, "52:54:00:12:34:56", "dev", net.guests[0].port) as static, put_right(net):
        before = places(node)
        node.kill("dataplane")
        node.start_dataplane()
        node.wait_ready()
        all_talk(net)
        after = places(node)
        check(before <= after, f"lost: {before - after}")
        # What control shows is what the dataplane does: a frame to the static MAC goes to its port only.
        with frames.Capture(net.guests[1].namespace, "eth0") as other:
            frames.send(net.guests[2], frames.ethernet(static, net.guests[2].mac, 0x88B5, b"static-after-restart" + bytes(30)))
        check(not any(b"static-after-restart" in frame for _, frame in other.frames), "a frame to a static entry was flooded")


def stale_count(net):
    return sum(node.stats()["xdp"]["stale"] for node in net.vxplane_nodes)


def control_away_loses_nothing(net):
    """kill -9 and restart of control: no packet is lost, doubled or out of order, nothing is forgotten"""
    node = net.krypton
    all_talk(net)
    with added(node, "52:54:00:12:34:57", "dst", net.xenon.vtep, "sticky") as sticky, put_right(net):
        before, stale = places(node), stale_count(net)
        with Probes((net.guests[0], net.guests[2]), (net.guests[3], net.guests[1])) as probes:
            time.sleep(0.3)
            node.kill("control")
            time.sleep(1)
            node.start_control()
            node.wait_ready()
            time.sleep(1)
            faults, stale = probes.faults(), stale_count(net) - stale
        # A dataplane that gets no CPU for 50 ms on a busy machine: XDP hands what comes to the kernel. Where the kernel does not
        # have the address that is the end of it; where it does, a socket brings it back, by another way and so perhaps out of order.
        lost = sum(stream.window().lost for stream in probes.streams)
        check(not faults or stale and lost <= stale and not any(stream.extras for stream in probes.streams),
              lambda: f"{'; '.join(faults)} ({stale} frames were handed to the kernel)")
        after = places(node)
        check(before <= after, f"forgotten: {before - after}")
        flags = node.fdb(sticky)[0].get("flags", [])
        check("sticky" in flags, f"the sticky entry came back with flags {flags}")


def control_away_new_macs_flood(net):
    """with control away a new guest's frames still reach everybody"""
    node = net.krypton
    all_talk(net)
    mover = net.guests[0]
    old = mover.mac

    def call_itself(mac):
        mover.mac = mac
        mover.namespace.ip("link", "set", "eth0", "address", mac)
        mover.announce()

    with put_right(net):
        node.kill("control")
        try:
            mover.forget_neighbours()
            call_itself("52:54:00:00:77:01")
            mover.ping(net.guests[2])
            mover.ping(net.guests[1])
        finally:
            call_itself(old)
    all_talk(net)


def both_killed(net):
    """kill -9 of both processes of both nodes, restarted in either order: the lab works again by itself"""
    with put_right(net):
        for first, second in (("dataplane", "control"), ("control", "dataplane")):
            for node in net.vxplane_nodes:
                node.kill("control")
                node.kill("dataplane")
                getattr(node, f"start_{first}")()
                time.sleep(0.5)
                getattr(node, f"start_{second}")()
            for node in net.vxplane_nodes:
                node.wait_ready()
            all_talk(net)


def link_flap(net):
    """the underlay's cable pulled and put back: guests talk again by themselves"""
    all_talk(net)
    net.wire.namespace.ip("link", "set", net.krypton.wire_port, "down")
    try:
        time.sleep(1.5)
        check(not net.guests[0].ping(net.guests[2], count=1, seconds=0.5, check=False), "guests talk without a cable")
    finally:
        net.wire.namespace.ip("link", "set", net.krypton.wire_port, "up")
    all_talk(net)
    net.krypton.wait_ready()


def peer_changes_mac(net):
    """a VTEP's new MAC address is followed within 10 s"""
    all_talk(net)
    mac = "02:00:00:99:00:02" if net.xenon.mac() != "02:00:00:99:00:02" else "02:00:00:99:00:03"  # a new one on a second try too
    net.xenon.namespace.ip("link", "set", UNDERLAY_DEVICE, "address", mac)
    net.guests[0].wait_ping(net.guests[2], 10)
    if net.krypton in net.vxplane_nodes:
        eventually(lambda: net.krypton.json("vtep")[0].get("mac") == mac, 10,
                   lambda: f"vxctl vtep says {net.krypton.json('vtep')}")


def host_tcp_undisturbed(net):
    """a host's TCP session over the same NIC is undisturbed by start, stop, kill -9 and SIGSTOP of vxplane"""
    session, gaps, node = HostTcp(net.krypton, net.xenon), {}, net.krypton
    with put_right(net), contextlib.closing(session):
        time.sleep(0.5)

        def phase(name, *steps):
            session.mark()
            for step in steps:
                step()
                time.sleep(0.7)
            gaps[name] = session.longest_gap()

        phase("quiet")
        phase("stop", node.stop)
        phase("start", node.start, node.wait_ready)
        phase("kill -9 of the dataplane", lambda: node.kill("dataplane"))
        phase("start after the kill", node.start_dataplane, node.wait_ready)
        phase("SIGSTOP", lambda: node.signal("dataplane", signal.SIGSTOP))
        phase("SIGCONT", lambda: node.signal("dataplane", signal.SIGCONT))
        phase("kill -9 of control", lambda: node.kill("control"), node.start_control, node.wait_ready)
    worst = {name: round(gap, 3) for name, gap in gaps.items() if gap > UNDISTURBED_SECONDS}
    check(not worst, f"the session was silent for (s): {worst}")
    all_talk(net)


def stale_heartbeat_passes(net):
    """while the dataplane does not answer (SIGSTOP) XDP passes everything to the kernel and counts it stale"""
    node = net.krypton
    all_talk(net)
    before = node.stats()["xdp"]["stale"]
    node.signal("dataplane", signal.SIGSTOP)
    try:
        time.sleep(0.1)
        net.guests[2].ping(net.guests[0], count=5, seconds=0.3, check=False)
    finally:
        node.signal("dataplane", signal.SIGCONT)
    eventually(lambda: node.stats()["xdp"]["stale"] >= before + 5, 3, lambda: f"stale: {before}, then {node.stats()['xdp']['stale']}")
    all_talk(net)


def late_worker_loses_nothing(net):
    """a dataplane that stands still for 0.3 s (SIGSTOP) keeps pings waiting, both ways, and loses none"""
    node, (near, far) = net.krypton, (net.guests[0], net.guests[2])
    all_talk(net)
    running = [one.namespace.popen("ping", "-n", "-q", "-c", 100, "-i", "0.01", "-W", 2, other.ipv4, stdout=subprocess.PIPE)
               for one, other in ((near, far), (far, near))]
    time.sleep(0.3)
    node.signal("dataplane", signal.SIGSTOP)
    time.sleep(0.3)
    node.signal("dataplane", signal.SIGCONT)
    for process, way in zip(running, ("to the far guest", "from there")):
        said = process.communicate(timeout=20)[0]
        check(" 0% packet loss" in said, f"{way}: {said.strip()}")


def host_reaches_itself(net):
    """the host's own pings, large ones in fragments too, pass beside vxplane"""
    for one, other in ((net.krypton, net.xenon), (net.xenon, net.krypton)):
        for address in (other.host_address, other.vtep):
            for size in (56, 3000):
                done = one.namespace.run("ping", "-n", "-q", "-c", 3, "-i", "0.05", "-W", 1, "-s", size, address, check=False)
                check(done.returncode == 0 and " 0% packet loss" in done.stdout, f"{one.name} to {address}, {size} bytes: {done.stdout.strip()}")


def probes_see_all(net):
    """the probes of these tests see a copy at either end, and which datagrams were lost"""
    all_talk(net)
    krypton, xenon = net.krypton.wire_port, net.xenon.wire_port
    port = net.guests[2].port
    with Probes((net.guests[0], net.guests[2]), (net.guests[0], net.guests[1])) as probes:
        for entered, leaves in ((krypton, xenon), (xenon, krypton)):  # a frame of the stream, and one of its answers, once more
            with frames.RawSocket(net.wire.namespace, entered) as source, frames.RawSocket(net.wire.namespace, leaves) as copy:
                copy.send(source.receive(1))
        time.sleep(0.1)
        net.xenon.namespace.run("bridge", "link", "set", "dev", port, "state", 0)
        down = time.monotonic()
        time.sleep(0.03)
        up = time.monotonic()
        net.xenon.namespace.run("bridge", "link", "set", "dev", port, "state", 3)
        time.sleep(0.1)
        stream, beside = probes.stop()
    check([end for _, end, _ in stream.extras] == ["far", "near"], f"copies seen: {stream.extras}")
    window = stream.window()
    check(len(window.gaps) == 1 and window.gaps[0][3] >= (up - down) * 1000 - 2 and abs(window.gaps[0][2] - down) < 0.1, f"gaps: {window.gaps}")
    check(window.lost == window.lost_there >= 20, f"{window.lost} lost, {window.lost_there} on the way there")
    check(not beside.fault() and len(beside.sent) >= 200, f"{beside.fault()}, {len(beside.sent)} sent")


def device_state(node):
    """What a clean stop has to restore of the host's devices, sockets and files."""
    links = {name: (link.get("promiscuity"), bool(link.get("xdp")), link.get("mtu"), sorted(set(link["flags"]) - {"LOWER_UP"}))
             for name, link in node.namespace.links().items()}
    features = {name: sorted(line.strip() for line in node.namespace.run("ethtool", "-k", name).stdout.splitlines() if "vlan" in line)
                for name in links}
    filters = {name: node.namespace.run("tc", "filter", "show", "dev", name, "ingress", check=False).stdout for name in links}
    with open(f"/proc/{node.holder.pid}/net/udp") as udp, open(f"/proc/{node.holder.pid}/net/packet") as packet:
        sockets = (len(udp.readlines()), len(packet.readlines()))
    return {"links": links, "features": features, "filters": filters, "sockets": sockets}


def clean_stop_leaves_nothing(_):
    """a clean stop leaves no program, promiscuous flag, tap, qdisc filter, socket or rxvlan change; exit code 0"""
    from lab import Guest
    with Lab() as lab:
        wire = Wire(lab)
        node = VxplaneNode(lab, "krypton", 1, wire, remotes=[2], vlan=4003, own=True, start=False,
                           ports=["tap101i0 driver=netdev", "guest9 driver=tap"])
        node.namespace.run("ethtool", "-K", UNDERLAY_DEVICE, "rxvlan", "on", check=False)
        guest = Guest(lab, 1)
        guest.plug_veth(node, "tap101i0")
        node.holder = node.namespace.popen("sleep", "60")
        try:
            before = device_state(node)
            node.start()
            node.wait_ready()
            node.wait_port("tap101i0")
            eventually(lambda: "guest9" in node.namespace.links(), 5, "no tap guest9")
            during = device_state(node)
            check("rx-vlan-offload: off" in during["features"][UNDERLAY_DEVICE], "rxvlan is not off while running: XDP would not see the tag")
            check(during["links"][UNDERLAY_DEVICE][1], "no XDP program on the underlay while running")
            codes = [node.stop("control"), node.stop("dataplane")]
            check(codes == [0, 0], f"exit codes {codes}")
            after = eventually(lambda: device_state(node) == before and before, 3, lambda: difference(before, device_state(node)))
            check(after, "")
            left = [name for name in os.listdir(node.run_dir) if name.endswith(".sock")]
            check(not left, f"left in the run directory: {left}")
        finally:
            node.holder.kill()
            node.holder.wait()


def difference(before, after):
    return "; ".join(f"{key}: {before[key]} became {after[key]}" for key in before if before[key] != after[key])


def dpdk_leaves_no_files(_):
    """a clean stop leaves nothing of EAL under /run/dpdk or /dev/hugepages of this instance"""
    with Lab() as lab:
        def files():
            found = set(os.listdir("/var/run/dpdk")) if os.path.isdir("/var/run/dpdk") else set()
            return found | {name for folder in ("/dev/hugepages", "/dev/shm") if os.path.isdir(folder) for name in os.listdir(folder)}
        node = VxplaneNode(lab, "krypton", 1, Wire(lab), remotes=[2])
        node.wait_ready()
        mine = os.path.basename(os.path.dirname(node.run_dir))
        node.stop()
        left = {name for name in files() if mine in name}
        check(not left, f"left: {left}")


def foreign_program_refused(_):
    """a foreign XDP program on the underlay is refused with one clear line and left in place"""
    with Lab() as lab:
        node = VxplaneNode(lab, "krypton", 1, Wire(lab), remotes=[2], start=False)
        node.namespace.ip("link", "set", "dev", UNDERLAY_DEVICE, "xdp", "obj", compile_bpf("foreign"), "sec", "xdp")
        program = node.namespace.links()[UNDERLAY_DEVICE]["xdp"]["prog"]["id"]
        node.start()
        lines = eventually(lambda: [line for name in ("dataplane", "control") for line in node.log(f"vxplane-{name}").splitlines()
                                    if "XDP" in line and "foreign" in line.lower()], 10, "no line in the logs names the foreign XDP program")
        check(any(UNDERLAY_DEVICE in line for line in lines), f"the line does not name the device: {lines[0]}")
        time.sleep(1)
        count = len([line for line in node.log("vxplane-dataplane").splitlines() if "foreign" in line.lower()])
        check(count <= 2, f"{count} lines for one fault")
        check(node.namespace.links()[UNDERLAY_DEVICE]["xdp"]["prog"]["id"] == program, "the foreign program was replaced")
        # Once it is gone, vxplane comes up unaided.
        node.namespace.ip("link", "set", "dev", UNDERLAY_DEVICE, "xdp", "off")
        node.wait_ready(15)


def own_leftover_replaced(_):
    """our own XDP program left by kill -9 is replaced at the next start"""
    with Lab() as lab:
        node = VxplaneNode(lab, "krypton", 1, Wire(lab), remotes=[2])
        node.wait_ready()
        node.kill("control")
        node.kill("dataplane")
        node.start()
        node.wait_ready()
        node.stop()
        check(not node.namespace.links()[UNDERLAY_DEVICE].get("xdp"), "a program is left")


def unprivileged_text(_):
    """vxctl without control says so in one line and exits 3"""
    with Lab() as lab:
        node = VxplaneNode(lab, "krypton", 1, Wire(lab), remotes=[2], start=False)
        done = node.vxctl("fdb")
        check(done.returncode == 3 and len(done.stderr.strip().splitlines()) == 1, f"exit {done.returncode}: {done.stderr!r}")


@contextlib.contextmanager
def nothing():
    yield None


if __name__ == "__main__":
    suite = Suite("heal")
    suite.group("kernel-kernel", lambda: pair("kernel", "kernel"), [probes_see_all, peer_changes_mac, host_reaches_itself], needs_vxplane=False)
    suite.group("vxplane-vxplane", lambda: pair("vxplane", "vxplane"),
                [dataplane_killed, dataplane_killed_keeps_fdb, control_away_loses_nothing, control_away_new_macs_flood, both_killed, link_flap,
                 host_reaches_itself, stale_heartbeat_passes, late_worker_loses_nothing, host_tcp_undisturbed, peer_changes_mac])
    suite.group("vxplane-vxplane VLAN 4003, own address", lambda: pair("vxplane", "vxplane", vlan=4003, own=True),
                [dataplane_killed, control_away_loses_nothing, both_killed, link_flap, late_worker_loses_nothing, host_tcp_undisturbed, peer_changes_mac])
    for title, options in (("", {}), (" VLAN 4003, own address", {"vlan": 4003, "own": True})):
        suite.group("vxplane-kernel" + title, lambda options=options: pair("vxplane", "kernel", **options), [peer_changes_mac, link_flap])
    suite.group("one node", nothing, [clean_stop_leaves_nothing, dpdk_leaves_no_files, foreign_program_refused, own_leftover_replaced,
                                      unprivileged_text])
    suite.main()
