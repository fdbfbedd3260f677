# SPDX-License-Identifier: Apache-2.0
"""TCP streams and lone pings from guest to guest over two nodes, and the CPU time that they cost."""

import json
import os
import re
import signal
import statistics
import subprocess
import time

from cases import Failed, eventually
from compare_lib.foreign import TICKS
from instance import Instance
from lab import Cable, Guest, Lab, core_of
from nodes import make_node
from transfer import address_of

BUSY_SHARE = 0.10  # a measurement waits until the rest of the machine uses less


class Network:
    """krypton and xenon on a cable. Guests 1 (krypton) and 3 (xenon) have their offloads on, 2 and 4 off; on
    a vxplane krypton guest 5 is on a tap of the dataplane instead of a veth, offloads on."""

    def __init__(self, name, kinds, driver, poll, make=make_node, flags=()):
        """`kinds`: of krypton and xenon, as `make` knows them; `flags`: of a vxplane's dataplane."""
        self.name, self.vxplane = name, "vxplane" in kinds
        self.lab = Lab()
        self.lab.__enter__()
        try:
            self._make(kinds, driver, poll, make, flags)
        except BaseException:
            self.close()
            raise

    def _make(self, kinds, driver, poll, make, flags):
        def settings(number):
            return {"underlay": {"driver": driver}, "dataplane": {"poll": poll, "lcores": core_of(number)}}
        cable = Cable(self.lab)
        ports = ["tap*i* driver=netdev"]
        self.nodes = [make(kind, self.lab, node, number, cable, remotes=[3 - number], settings=settings(number), dataplane_flags=flags,
                           ports=ports + (["guest5 driver=tap"] if number == 1 else []))
                      for kind, node, number in zip(kinds, ("krypton", "xenon"), (1, 2))]
        self.guests = {}
        for number in (1, 2, 3, 4):
            guest = self.guests[number] = Guest(self.lab, number, offloads=number in (1, 3))
            guest.plug_veth(self.nodes[number > 2], f"tap10{number}i0")
            if not guest.offloads and not getattr(guest.node, "takes_bytes_only", False):  # the host's end is a NIC to which single frames come: GRO
                guest.node.namespace.run("ethtool", "-K", guest.port, "tx", "on", "sg", "on", "tso", "on", "gso", "on", "gro", "on")
        for node in self.nodes:
            node.wait_ready()
        for guest in self.guests.values():
            guest.node.wait_port(guest.port)
        if kinds[0] == "vxplane":
            self.guests[5] = Guest(self.lab, 5, offloads=True)
            self.guests[5].take_tap(self.nodes[0], "guest5")
        for number in (1, 2):
            if number == 2 or not getattr(self.nodes[0], "takes_bytes_only", False):
                self.guests[number].wait_ping(self.guests[number + 2])
        if 5 in self.guests:
            self.guests[5].wait_ping(self.guests[3])
        # Guests whose frames reach both nodes as they are: a node that takes bytes only has none with offloads on.
        self.usable = [number for number in self.guests if number in (2, 4) or not getattr(self.nodes[0], "takes_bytes_only", False)]
        self.pause()

    def _signal(self, number):
        for node in self.lab.nodes:
            for process in node.processes() if hasattr(node, "processes") else []:
                process.send_signal(number)

    def pause(self):
        """Its processes take no time, not even a poll loop's."""
        self._signal(signal.SIGSTOP)

    def resume(self, sender, receiver):
        self._signal(signal.SIGCONT)
        for address in (receiver.ipv4, receiver.ipv6):
            eventually(lambda: sender.ping(address, count=1, seconds=0.3, check=False), 10, f"{self.name}: {address} does not answer")

    def counters(self):
        """What the vxplane nodes did with the stream, summed: totals, and drops that are not zero."""
        totals, drops = {}, {}
        for node in self.nodes:
            if isinstance(node, Instance):
                stats = node.stats()
                for key, value in stats["totals"].items():
                    totals[key] = totals.get(key, 0) + value
                for key, value in stats["drops"].items():
                    drops[key] = drops.get(key, 0) + value
        return {"totals": totals, "drops": drops}

    def close(self):
        self._signal(signal.SIGCONT)
        self.lab.__exit__(None, None, None)


class Case:
    """One stream: from guest to guest of a network, IPv4 or IPv6."""

    def __init__(self, title, network, sender, receiver, family=4, baseline=None):
        self.network, self.sender, self.receiver, self.family = network, sender, receiver, family
        self.title = f"{title}, IPv{family}"
        self.baseline = baseline and f"{baseline}, IPv{family}"
        self.results = []

    def run(self, seconds, quiet):
        sender, receiver = (self.network.guests[number] for number in (self.sender, self.receiver))
        self.network.resume(sender, receiver)
        try:
            foreign = quiet.wait()
            before = self.network.counters() if self.network.vxplane else None
            result = stream(sender, receiver, address_of(receiver, self.family), seconds)
            if before:
                after = self.network.counters()
                result["vxplane"] = {kind: {key: after[kind][key] - before[kind][key] for key in after[kind] if after[kind][key] != before[kind][key]}
                                     for kind in after}
        finally:
            self.network.pause()
        self.results.append({**result, "foreign_busy": foreign, "load": os.getloadavg()[0]})

    def median(self, key):
        return statistics.median(result[key] for result in self.results)


def cpu_times():
    """(busy, all) seconds of all CPUs since boot. Not busy: what the host took for others (steal), and what processes with a
    positive nice value used: nothing that is measured here has one."""
    with open("/proc/stat") as file:
        user, nice, system, idle, iowait, irq, softirq = map(int, file.readline().split()[1:8])
    busy = user + system + irq + softirq
    return busy / TICKS, (busy + nice + idle + iowait) / TICKS


class Quiet:
    """Waits, in all at most `budget` seconds, for moments in which nothing else keeps the CPUs busy."""

    def __init__(self, budget):
        self.budget = budget

    def wait(self):
        """The share of all CPUs that is busy now, with this network idle."""
        while True:
            busy, total = cpu_times()
            time.sleep(0.2)
            busy_now, total_now = cpu_times()
            share = (busy_now - busy) / max(total_now - total, 0.01)
            if share < BUSY_SHARE or self.budget <= 0:
                return share
            self.budget -= 0.2


def listening(namespace, port):
    done = namespace.run("ss", "-Hltn", f"sport = :{port}", check=False)
    return bool(done.stdout.strip())


def stream(sender, receiver, address, seconds, parallel=1):
    server = receiver.namespace.popen("iperf3", "-s", "-1", "-p", 5201, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: listening(receiver.namespace, 5201), 3, "iperf3 does not listen", interval=0.02)
        busy, _ = cpu_times()
        done = sender.namespace.run("iperf3", "-c", address, "-t", seconds, "-P", parallel, "-J", check=False, seconds=seconds + 15)
        busy = cpu_times()[0] - busy
    finally:
        server.terminate()
        server.wait(5)
    report = json.loads(done.stdout or "{}")
    if done.returncode or "error" in report:
        raise Failed(f"iperf3: {report.get('error', done.stderr.strip())}")
    received, sent = report["end"]["sum_received"], report["end"]["sum_sent"]
    return {"gbit": received["bits_per_second"] / 1e9, "cpu_per_gb": busy / max(received["bytes"] / 1e9, 1e-6), "retransmits": sent["retransmits"]}


PINGS = {"row": (1000, 0), "idle": (150, 0.004)}  # how many, seconds between them; 0: the next when the last is answered


def lone_ping_times(sender, receiver, kind):
    """{"p50", "p99", "answers"} of round-trip times in us; None when nobody answered."""
    count, interval = PINGS[kind]
    done = sender.namespace.run("ping", "-n", "-c", count, "-i", interval, "-W", 1, receiver.ipv4, check=False)
    times = sorted(float(word) * 1000 for word in re.findall(r"time=([\d.]+) ms", done.stdout))
    return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100], "answers": len(times)} if times else None


def lone_ping(network, sender, receiver):
    """Round-trip times in us of pings that are alone on the path: one after the other, and met by sleeping CPUs."""
    a, b = network.guests[sender], network.guests[receiver]
    network.resume(a, b)
    try:
        return {kind: times for kind in PINGS if (times := lone_ping_times(a, b, kind))}
    finally:
        network.pause()
