#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""vxplane-traffic over a cable, a bridge that loses what it is told to, and the kernel's vxlan: what it says is what happened."""

import contextlib
import json
import re
import signal
import subprocess
import time

from cases import Suite, check, eventually
from lab import Lab, binary, run, wire_offloads_off

SENDERS = ("af_xdp", "af_packet", "xdp_live")
SHORT = ("--seconds", "0.25", "--warmup", "0.05")
VNI, TUNNEL = 1000, 4789
OUTER_MACS = ("02:00:00:00:01:01", "02:00:00:00:01:02")  # of the node's underlay device, of its peer
OUTER_IPS = ("172.18.1.1", "172.18.1.2")


class Net:
    """Namespaces of a generator and a sink, by the devices they have."""

    def __init__(self, lab):
        self.lab = lab
        self.generator, self.sink, self.middle = lab.namespace("gen"), lab.namespace("sink"), lab.namespace("mid")
        # Nothing but our frames: no ND, no MLD.
        for namespace in (self.generator, self.sink, self.middle):
            namespace.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")

    def cable(self, one, device, other, peer):
        one.ip("link", "add", "name", device, "type", "veth", "peer", "name", peer, "netns", other.name)
        for namespace, name in ((one, device), (other, peer)):
            wire_offloads_off(namespace, name)
            namespace.ip("link", "set", name, "up")

    def traffic(self, *words, code=0, short=SHORT):
        command = [binary("vxplane-traffic"), "--from", f"{self.generator.name}:gen", "--to", f"{self.sink.name}:sink", "--json", *short, *words]
        done = run(*command, check=False)
        check(done.returncode == code, f"exit {done.returncode}: {done.stderr}")
        if code:
            return done.stderr
        report = json.loads(done.stdout)
        if "sent" in report:
            check(report["sent"] == report["received"] + report["lost"], f"does not add up: {report}")
        return report

    def popen(self, *words):
        command = [binary("vxplane-traffic"), "--from", f"{self.generator.name}:gen", "--to", f"{self.sink.name}:sink", "--json", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def has_xdp(self):
        return "xdp" in self.sink.links()["sink"]


@contextlib.contextmanager
def cable():
    with Lab() as lab:
        net = Net(lab)
        net.cable(net.generator, "gen", net.sink, "sink")
        yield net


@contextlib.contextmanager
def bridge():
    """A kernel bridge with the two and a third port behind which nobody is."""
    with Lab() as lab:
        net = Net(lab)
        net.cable(net.generator, "gen", net.middle, "in")
        net.cable(net.sink, "sink", net.middle, "out")
        net.cable(net.middle, "aside", net.middle, "nobody")
        net.middle.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        net.middle.ip("link", "set", "br0", "up")
        for port in ("in", "out", "aside"):
            net.middle.ip("link", "set", port, "master", "br0")
        net.middle.run("ethtool", "-K", "in", "gro", "on")  # as --sender xdp_live needs it
        yield net


@contextlib.contextmanager
def vxlan(is_encap):
    """The kernel's vxlan and bridge; the generator at the guest's port and the sink at the underlay, or the other way."""
    with Lab() as lab:
        net = Net(lab)
        guest, underlay = (("gen", net.generator), ("sink", net.sink)) if is_encap else (("sink", net.sink), ("gen", net.generator))
        node = net.middle
        net.cable(guest[1], guest[0], node, "guest")
        net.cable(underlay[1], underlay[0], node, "under")
        node.ip("link", "set", "under", "address", OUTER_MACS[0])
        node.ip("addr", "add", f"{OUTER_IPS[0]}/24", "dev", "under")
        node.ip("neigh", "replace", OUTER_IPS[1], "lladdr", OUTER_MACS[1], "dev", "under", "nud", "permanent")
        node.ip("link", "add", "vx", "type", "vxlan", "id", VNI, "dstport", TUNNEL, "local", OUTER_IPS[0], "remote", OUTER_IPS[1])
        node.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        for name in ("guest", "vx"):
            node.ip("link", "set", name, "master", "br0", "up")
        node.ip("link", "set", "br0", "up")
        yield net


def outer(vni=VNI):
    """What the peer VTEP sends with."""
    return ",".join(map(str, (vni, OUTER_IPS[1], OUTER_IPS[0], OUTER_MACS[1], OUTER_MACS[0])))


def rated(net):
    """each sender at 2000 frames a second: that many, none lost, and a latency"""
    for sender in SENDERS:
        report = net.traffic("--sender", sender, "--rate", 2000, "--flows", 10)
        check(report["sink"] == "native", f"{report}")
        # A machine busy with something else lets frames be skipped, which is said.
        check(abs(report["sent"] + report["skipped"] - 500) <= 2 and report["sent"] >= 50, f"not 500 frames: {report}")
        check(report["lost"] == 0 and report["duplicated"] == 0 and report["reordered"] == 0 and report["unknown"] == 0, f"{report}")
        latency = report["latency_us"]
        check(0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"], f"{latency}")


def saturated(net):
    """each sender as fast as it can, 1000 flows of 1346 bytes: more than 20,000 frames a second, nothing doubled"""
    for sender in SENDERS:
        report = net.traffic("--sender", sender, "--flows", 1000, "--size", 1346)
        check(report["pps_sent"] > 20_000 and report["received"] > 0, f"{report}")
        check(report["duplicated"] == 0 and report["unknown"] == 0, f"{report}")


def tagged(net):
    """tagged frames are found; the smallest one has 64 bytes"""
    report = net.traffic("--vlan", 100, "--size", 64, "--rate", 1000)
    check(report["received"] == report["sent"] > 0, f"{report}")


def own_cpu(net):
    """--cpu-send and --cpu-receive: the sink in a kernel thread there, and not afterwards"""
    report = net.traffic("--cpu-send", 0, "--cpu-receive", 0, "--rate", 1000)
    check(report["received"] == report["sent"] > 0, f"{report}")
    done = net.sink.run("cat", "/sys/class/net/sink/threaded")
    check(done.stdout.strip() == "0", f"threaded is left at {done.stdout}")


def ended_early(net):
    """SIGTERM and SIGINT end it within a second with a result; whatever ends it, no XDP program stays"""
    for sender, number in (*((sender, signal.SIGTERM) for sender in SENDERS), ("af_xdp", signal.SIGINT), ("xdp_live", signal.SIGKILL)):
        process = net.popen("--sender", sender, "--seconds", "20", "--rate", "1000")
        try:
            eventually(net.has_xdp, 5, "no XDP program at the sink")
            time.sleep(0.5)
            start = time.monotonic()
            process.send_signal(number)
            text, errors = process.communicate(timeout=10)
        finally:
            process.kill()
        check(time.monotonic() - start < 2, f"{sender}: {number.name} took {time.monotonic() - start:.1f} s")
        if number != signal.SIGKILL:
            check(process.returncode == 0 and json.loads(text)["interrupted"], f"{sender}: exit {process.returncode} {text} {errors}")
        eventually(lambda: not net.has_xdp(), 2, f"{number.name} leaves an XDP program")


def refused(net):
    """bad words: one line, exit 2; what is not there, or taken by another XDP program: one line, exit 1"""
    for words, text in ((("--size", "59"), "--size 59"), (("--seconds", "61"), "--seconds 61"), (("--vlan", "x"), "--vlan x")):
        error = net.traffic(*words, code=2, short=())
        check(re.fullmatch(rf"vxplane-traffic: {re.escape(text)}.*\n", error), error)
    for place in (f"{net.generator.name}:nodev", "nonamespace:gen"):
        done = run(binary("vxplane-traffic"), "--from", place, "--to", f"{net.sink.name}:sink", check=False)
        check(done.returncode == 1 and done.stderr.count("\n") == 1 and place.split(":")[0] in done.stderr, f"{done}")
    process = net.popen("--seconds", "5", "--rate", "100")
    try:
        eventually(net.has_xdp, 5, "no XDP program at the sink")
        error = net.traffic(code=1)
        check("another XDP program" in error and error.count("\n") == 1, error)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def fdb(net, device):
    """MACs that the bridge has learned at a port."""
    done = net.middle.run("bridge", "-json", "fdb", "show", "br0", "br0")
    return {entry["mac"] for entry in json.loads(done.stdout) if entry.get("ifname") == device and entry.get("state") not in ("permanent", "static")}


def flooded(net):
    counters = json.loads(net.middle.ip("-json", "-statistics", "link", "show", "aside").stdout)[0]["stats64"]["tx"]
    return counters["packets"]


def taught(net):
    """the bridge knows all 50 MACs before the first frame: none is flooded, none lost"""
    net.traffic("--announce", "--macs", 50, "--source-macs", 3)
    check(len(fdb(net, "out")) == 50 and len(fdb(net, "in")) == 3, f"learned {len(fdb(net, 'out'))} and {len(fdb(net, 'in'))}")
    before = flooded(net)
    report = net.traffic("--macs", 50, "--flows", 200, "--source-macs", 3, "--rate", 2000, "--no-announce")
    check(report["announced"] == 0 and report["lost"] == 0 and report["flows"] == 200, f"{report}")
    check(flooded(net) == before, f"{flooded(net) - before} frames of {report['sent']} flooded")
    net.middle.ip("link", "set", "br0", "type", "bridge", "fdb_flush")
    net.traffic("--announce", "--macs", 50, "--source-macs", 3, "--mac-set", 1)
    found = fdb(net, "out")
    check(len(found) == 50 and all(mac.startswith("02:76:78:1") for mac in found), f"announced with --mac-set 1: {sorted(found)[:3]} ...")


def loss_is_seen(net):
    """one of four MACs is bridged elsewhere: its flow's frames are lost, all of them and no others"""
    lost = "02:76:78:00:00:02"
    net.middle.run("bridge", "fdb", "replace", lost, "dev", "aside", "master", "static", "sticky")
    try:
        for sender in SENDERS:
            report = net.traffic("--macs", 4, "--rate", 2000, "--sender", sender)
            check(abs(report["lost"] - report["sent"] / 4) <= 1 and report["sent"] >= 50, f"{report}")
            check(report["flows_with"] == {"loss": 1, "duplicates": 0, "reordering": 0, "unknown": 0}, f"{report}")
    finally:
        net.middle.run("bridge", "fdb", "del", lost, "dev", "aside", "master")


def searched(net):
    """--search: a quarter is always lost, so no rate is without loss, and 30 % allowed pass at some rate"""
    lost = "02:76:78:00:00:02"
    net.middle.run("bridge", "fdb", "replace", lost, "dev", "aside", "master", "static", "sticky")
    try:
        result = net.traffic("--macs", 4, "--search", 0, "--search-seconds", "0.05")["search"]
        check(result["pps"] == 0 and not result["confirmed"] and len(result["trials"]) <= 20, f"{result}")
        check(all(not trial["passed"] for trial in result["trials"]), f"{result}")
        report = net.traffic("--macs", 4, "--search", "0.3", "--search-seconds", "0.1")
        result = report["search"]
        check(result["pps"] > 1000 and any(trial["passed"] for trial in result["trials"]), f"{result}")
    finally:
        net.middle.run("bridge", "fdb", "del", lost, "dev", "aside", "master")


def learned(net):
    """--learn: the bridge has learned as many sources as frames were sent"""
    for sender in SENDERS:
        net.middle.run("ip", "link", "set", "in", "type", "bridge_slave", "fdb_flush")
        report = net.traffic("--learn", 2000, "--sender", sender)
        check(report["sent"] >= 50 and report["rate"] == 2000, f"{sender}: {report}")
        sources = {mac for mac in fdb(net, "in") if mac.startswith("02:6c:")}
        # Those of the warm-up too.
        check(report["sent"] <= len(sources) <= report["sent"] + 120, f"{sender}: {report['sent']} sent, {len(sources)} learned")


def encapsulated(net):
    """the sink finds its frames in the kernel's VXLAN packets; the MACs that it announced came through the tunnel"""
    for sender in SENDERS[:2]:
        report = net.traffic("--outer-at-sink", outer(), "--macs", 20, "--rate", 2000, "--sender", sender)
        check(report["received"] == report["sent"] > 0, f"{report}")
    check(len(fdb(net, "vx")) == 20, f"{fdb(net, 'vx')}")
    check(net.traffic("--outer-at-sink", 1001, "--rate", 1000)["received"] == 0, "frames of another VNI")


def decapsulated(net):
    """VXLAN packets that the generator sends come out as frames at the guest's port"""
    for sender in SENDERS[:2]:
        report = net.traffic("--outer", outer(), "--macs", 20, "--source-macs", 2, "--rate", 2000, "--sender", sender)
        check(report["received"] == report["sent"] > 0, f"{report}")
    check(len(fdb(net, "vx")) == 2 and len(fdb(net, "guest")) == 20, f"{fdb(net, 'vx')} {fdb(net, 'guest')}")
    report = net.traffic("--outer", outer(1001), "--rate", 1000)
    check(report["received"] == 0 and report["lost"] == report["sent"] > 0, f"{report}")


def main():
    suite = Suite("traffic_gen")
    suite.group("cable", cable, [rated, saturated, tagged, own_cpu, ended_early, refused])
    suite.group("bridge", bridge, [taught, loss_is_seen, searched, learned])
    suite.group("encap", lambda: vxlan(True), [encapsulated])
    suite.group("decap", lambda: vxlan(False), [decapsulated])
    suite.main()


if __name__ == "__main__":
    main()
