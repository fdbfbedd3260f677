#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Two workers, a few dense flows one way and both ways at once: both workers work, and no flow's packets are out of order or doubled.

The guest's port has two queues; so has the underlay through UDP sockets, whose flows the kernel spreads. net_af_xdp takes one queue of a
veth: there one worker has it, and the other the guest's port.

    gen:g0 <-- veth, or tap --> guest's port [krypton] NIC <-- veth --> gen:u0
"""

import contextlib
import json
import os
import subprocess
import time

from cases import Failed, Skip, Suite, check, eventually
from lab import UNDERLAY_DEVICE, Lab, binary, wire_offloads_off
from nodes import FAVOURED, VxplaneNode

PORT, QUEUES, VNI = "tap101i0", 2, 1000
GENERATOR_MAC, GUEST_MAC = "02:00:00:35:00:02", "52:54:00:00:00:01"
FLOWS, RATE = 15, 20_000  # odd: taking turns between queues is then no way to keep a flow in one
BURST = ("--rate", 150_000, "--seconds", 0.3, "--warmup", 0)
TRIES = 3


class Wire:
    """The NIC's cable; its other end is the generator's u0."""

    def __init__(self, generator):
        self.generator = generator

    def plug(self, namespace, device=UNDERLAY_DEVICE, queues=1, mtu=None):
        cable(self.generator, "u0", namespace, device, queues)
        self.generator.ip("link", "set", "u0", "address", GENERATOR_MAC)
        return "u0"


def cable(generator, end, namespace, device, queues):
    queues = ["numrxqueues", queues, "numtxqueues", queues]
    generator.ip("link", "add", end, *queues, "type", "veth", "peer", "name", device, *queues, "netns", namespace.name)
    for one, name in ((generator, end), (namespace, device)):
        wire_offloads_off(one, name)
        one.ip("link", "set", name, "mtu", 1500, "up")


class Bed:
    def __init__(self, lab, underlay, guest):
        self.generator = lab.namespace("gen")
        self.generator.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        self.node = VxplaneNode(lab, "krypton", 1, Wire(self.generator), remotes=[2], ports=[f"{PORT} driver={guest}"], start=False,
                                settings={"underlay": {"driver": underlay}}, dataplane_flags=["--lcores", "0,1"])
        self.node.launcher = {"vxplane-dataplane": FAVOURED}
        node = self.node.namespace
        node.ip("neigh", "replace", self.node.vtep_of(2), "lladdr", GENERATOR_MAC, "dev", UNDERLAY_DEVICE, "nud", "permanent")
        if guest == "netdev":
            node.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
            cable(self.generator, "g0", node, PORT, QUEUES)
        self.node.start()
        self.node.wait_ready()
        if guest == "tap":
            eventually(lambda: PORT in node.links(), 10, f"no tap {PORT}")
            node.ip("link", "set", PORT, "netns", self.generator.name, "name", "g0")
            wire_offloads_off(self.generator, "g0")
        self.generator.ip("link", "set", "g0", "address", GUEST_MAC, "mtu", 1336, "up")
        self.node.wait_port(PORT)
        eventually(lambda: all(row["state"] == "reachable" for row in self.node.json("vtep")), 10, lambda: f"{self.node.json('vtep')}")
        self.outer = f"{VNI},{self.node.vtep_of(2)},{self.node.vtep},{GENERATOR_MAC},{self.node.mac()}"

    def start(self, way, *words):
        """The generator, one way, each way from another CPU."""
        cpus = sorted(os.sched_getaffinity(0))
        source, sink = ("g0", "u0") if way == "encap" else ("u0", "g0")
        outer = ["--outer-at-sink" if way == "encap" else "--outer", self.outer]
        command = [binary("vxplane-traffic"), "--from", f"{self.generator.name}:{source}", "--to", f"{self.generator.name}:{sink}", "--json", "--sender", "af_packet",
                   "--cpu-send", cpus[0] if way == "encap" else cpus[-1], "--mac-set", int(way == "decap"), "--macs", 3, "--flows", FLOWS, *outer, *words]
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def traffic(self, *words, ways=("encap", "decap")):
        """Both ways at once: {way: what the generator found}."""
        started = {way: self.start(way, *words) for way in ways}
        found = {}
        for way, process in started.items():
            out, error = process.communicate(timeout=40)
            if process.returncode:
                raise Failed(f"{way}: {error.strip()}")
            found[way] = json.loads(out)
        return found

    def packets(self):
        return [worker["packets"] for worker in self.node.stats()["workers"]]

    def wait_drained(self):
        """Until nothing of this run is under way: the next would find it among its own."""
        seen = [self.packets()]

        def is_still():
            time.sleep(0.1)
            seen.append(self.packets())
            return seen[-1] == seen[-2]
        eventually(is_still, 10, "packets come and come")

    def stale(self):
        """Frames that the BPF programs left to the kernel because a worker had not beaten for too long."""
        return sum(count for name, count in self.node.stats()["xdp"].items() if name == "stale")


def bed(underlay, guest):
    @contextlib.contextmanager
    def made():
        with Lab() as lab:
            bed = Bed(lab, underlay, guest)
            for way in ("encap", "decap"):
                bed.traffic("--announce", ways=[way])
            yield bed
    return made


def check_order(bed, ways, *words, least=0.5):
    for _ in range(TRIES):
        before, stale = bed.packets(), bed.stale()
        found = bed.traffic("--no-announce", *words, ways=ways)
        bed.wait_drained()
        if bed.stale() == stale:
            break
    else:
        raise Skip("workers did not get their turn in 50 ms: the kernel had frames meanwhile, on a way of its own")
    shares = [after - earlier for after, earlier in zip(bed.packets(), before)]
    for way, report in found.items():
        check(report["received"] >= least * report["sent"] > 0, f"{way}: {report}")
        check((report["reordered"], report["duplicated"], report["unknown"]) == (0, 0, 0), f"{way}: {report}")
    # Flows are spread by a hash: not by halves, but far from all to one.
    check(len(shares) == QUEUES and min(shares) > sum(shares) / 10, f"packets of the workers: {shares}")
    rows = bed.node.ctl("stats")[bed.node.ctl("stats").index("LCORE"):].splitlines()
    check([row.split()[0] for row in rows[1:1 + QUEUES]] == ["0", "1"], f"no row for each worker: {rows}")


def both_ways(bed):
    """20,000 packets a second each way in 15 flows: most arrive, each flow in order, from both workers"""
    check_order(bed, ("encap", "decap"), "--rate", RATE, "--seconds", 1)


def encap(bed):
    """a burst from the guest, more than the workers keep up with: what gets through is in order"""
    check_order(bed, ("encap",), *BURST, least=0.01)


def decap(bed):
    """a burst to the guest"""
    check_order(bed, ("decap",), *BURST, least=0.01)


def conserved(bed):
    """and the counters balance"""
    bed.node.check_conservation()


if __name__ == "__main__":
    suite = Suite("flow_order")
    for underlay, guest in (("udp", "netdev"), ("udp", "tap"), ("af_xdp", "netdev")):
        one_way = [encap, decap] if underlay == "udp" else []
        suite.group(f"{underlay} and {guest}", bed(underlay, guest), [both_ways, *one_way, conserved])
    suite.main()
