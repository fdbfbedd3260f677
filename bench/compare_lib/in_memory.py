# SPDX-License-Identifier: Apache-2.0
"""Cycles a packet without a wire: vxplane (dpdk_bench) and OVS-DPDK on the same ports, DPDK's net_pcap and net_null, with the same frames.

What a pcap file has comes in over and over (infinite_rx) and goes nowhere. Each of the two is measured twice, as a VTEP and as what
only passes frames from port to port (the floor): the difference is its own work, without what such ports cost.
"""

import contextlib
import json
import os
import random
import re
import socket
import statistics
import struct
import subprocess
import time

from cases import Failed, eventually
from compare_lib import machine
from compare_lib.contenders import OvsNode, cores_of
from compare_lib.moving import in_vxlan, ipv4_header
from frames import write_pcap
from lab import Cable, Lab, binary, run

NODE_MAC, FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
VNI, VTEP, FAR_VTEP = 1000, "172.18.1.1", "172.18.1.2"
SLOW_FLOOR, SLOW_COST, MOST_TRIES = 1.2, 1.05, 6
LEAST_FRAMES = 512  # of a file: so many flows there are with one MAC, too
WINDOWS, WINDOW_SECONDS = 12, 0.03
MOST_SETTLE_SECONDS = 12
CALLS_UNDER_WAY = 64
LEAST_CARRIED = 0.9  # the two counts are not of the same moment


# ---- frames: pure ----

def macs_of(macs):
    """(addresses of guests here, addresses behind the far VTEP): half of `macs` each, one of one; as pipeline_bench has them."""
    chance = random.Random(42)
    half = max(macs // 2, 1)

    def some(first):
        return [bytes([2, first | chance.getrandbits(7), chance.getrandbits(8)]) + struct.pack("!I", index)[1:] for index in range(half)]
    here, there = some(0), some(0x80)
    chance.shuffle(here)
    chance.shuffle(there)
    return here, there


def guest_frame(to, source, size, flow):
    """UDP over IPv4, `size` bytes in all, another flow for each number."""
    frame = to + source + b"\x08\x00" + ipv4_header("10.0.0.1", "10.0.0.2", size - 14) + struct.pack("!HHHH", 1024 + flow % 60000, 9, size - 34, 0)
    return frame + bytes(size - len(frame))


def frames_of(way, size, macs):
    here, there = macs_of(macs)
    for flow in range(max(len(here), LEAST_FRAMES)):
        to, source = (there, here) if way == "encap" else (here, there)
        inner = guest_frame(to[flow % len(to)], source[flow % len(source)], size, flow)
        yield inner if way == "encap" else in_vxlan(inner, f"{VNI},{FAR_VTEP},{VTEP},{FAR_MAC},{NODE_MAC}", 0xC000 | flow % 0x4000)


# ---- vxplane ----

def pipeline_rows(output):
    """{"encap/64/1000": (cycles of the floor, cycles above it)}, medians, checksum off, of pipeline_bench's JSON."""
    rows = {}
    for row in output["benchmarks"]:
        words = dict(word.split(":", 1) for word in row["name"].split("/") if ":" in word)
        way = next((part for part in row["name"].split("/") if part in ("encap", "decap")), None)
        if way and row.get("aggregate_name") == "median" and words.get("csum", "0") == "0" and "above_floor" in row:
            rows[f"{way}/{words['bytes']}/{words['macs']}"] = (row["floor"], row["above_floor"])
    return rows


def slow_keys(rows):
    """Those measured while the machine was slow, for a neighbour of a virtual one or for its frequency: the floor, which is the same
    work for all of a way, says so; or the same way with more MACs cost less, which cannot be."""
    least = {way: min(floor for key, (floor, _) in rows.items() if key.startswith(way)) for way in {key.split("/")[0] for key in rows}}

    def costs_more_than_with_more(key):
        way, size, macs = key.split("/")
        beyond = [rows[other][1] for other in rows if other.startswith(f"{way}/{size}/") and int(other.split("/")[2]) > int(macs)]
        return bool(beyond) and rows[key][1] > SLOW_COST * min(beyond)
    return [key for key, (floor, _) in rows.items() if floor > SLOW_FLOOR * least[key.split("/")[0]] or costs_more_than_with_more(key)]


def better(one, other):
    """Of two (floor, cycles above it) of a cell the less disturbed: the lower floor by far, else the fewer cycles."""
    if max(one[0], other[0]) > SLOW_FLOOR * min(one[0], other[0]):
        return min(one, other)
    return min(one, other, key=lambda row: row[1])


def measure_pipeline():
    """{"encap/64/1000": cycles above the floor} of pipeline_bench; what a slow machine measured is measured again."""
    wanted, rows = "(encap|decap)/.*csum:0", {}
    for _ in range(MOST_TRIES):
        done = subprocess.run([binary("pipeline_bench"), f"--benchmark_filter={wanted}", "--benchmark_format=json"], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise Failed(f"pipeline_bench: exit {done.returncode}")
        for key, row in pipeline_rows(json.loads(done.stdout)).items():
            rows[key] = better(row, rows.get(key, row))
        if not (slow := slow_keys(rows)):
            break
        wanted = "|".join("/".join((way, f"bytes:{size}", f"macs:{macs}", "csum:0")) for way, size, macs in (key.split("/") for key in slow))
    return {key: above for key, (_, above) in rows.items()}


def measure_vxplane(way, path):
    worker, _ = cores_of(1)
    done = subprocess.run([binary("dpdk_bench"), way, path, str(worker)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Failed(f"dpdk_bench: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(done.stdout)
    return {"floor": found["floor"], "total": found["total"], "above": found["above_floor"]}


# ---- OVS ----

class Unixctl:
    """What ovs-appctl speaks, over one connection and many calls at once: 50,000 MACs are told in seconds."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(20)
        self.decoder, self.text, self.number = json.JSONDecoder(), "", 0

    def call(self, method, *words):
        return self.calls([(method, words)])[0]

    def calls(self, wanted):
        """The answers of [(method, words)], in order."""
        answers, sent = [], 0
        while len(answers) < len(wanted):
            batch = wanted[sent:len(answers) + CALLS_UNDER_WAY]
            sent += len(batch)
            self.socket.sendall("".join(json.dumps({"id": self.number + index, "method": method, "params": list(words)}) for index, (method, words) in enumerate(batch)).encode())
            self.number += len(batch)
            answers += self._answers()
        return answers

    def _answers(self):
        data = self.socket.recv(65536)
        if not data:
            raise Failed("OVS has ended")
        self.text += data.decode()
        found = []
        while self.text:
            try:
                answer, end = self.decoder.raw_decode(self.text)
            except ValueError:
                break  # the rest of it is under way
            self.text = self.text[end:].lstrip()
            if answer["error"]:
                raise Failed(f"OVS: {answer['error'].strip()}")
            found.append(answer["result"])
        return found

    def close(self):
        self.socket.close()


def figures_of_pmd(text):
    """(packets, cycles they took, of them those that went to the slow path) of pmd-stats-show: the busiest thread's."""
    def numbers(pattern):
        return [int(number) for number in re.findall(pattern, text)]
    packets, cycles = numbers(r"packets received: (\d+)"), numbers(r"avg processing cycles per packet: [\d.]+ \((\d+)/")
    upcalls = numbers(r"miss with success upcall: (\d+)")
    return (max(packets, default=0), max(cycles, default=0), max(upcalls, default=0))


class MemoryOvs(OvsNode):
    """br-int with a guest's port, br-phy with the underlay's, br-floor, which passes frames from port to port; each has a net_null."""

    def mac(self):
        return NODE_MAC

    def add_port(self, bridge, device):
        """Not the NIC: there is none."""

    def _make_bridges(self):
        super()._make_bridges()
        for remote in self.remotes:
            self.vsctl("set", "Interface", f"vx{remote}", "options:csum=false")
        self.vsctl("add-br", "br-floor", "--", "set", "bridge", "br-floor", "datapath_type=netdev")
        for bridge in ("br-int", "br-phy", "br-floor"):
            self.open_dpdk_port(bridge, f"n-{bridge}", f"net_null_{bridge[3:]},no-rx=1")
        run("ovs-ofctl", "add-flow", f"unix:{self.run_dir}/br-floor.mgmt", "priority=9,actions=output:1")
        self.neighbour(self.vtep_of(self.remotes[0]), FAR_MAC)
        self.control = Unixctl(f"{self.run_dir}/switch.ctl")
        # It begins with 10,000 and grows by 1,000 each half second.
        self.control.call("upcall/set-flow-limit", "400000")

    @contextlib.contextmanager
    def reading(self, bridge, path):
        """With a port of that bridge at which the file comes in."""
        self.ports += 1
        self.open_dpdk_port(bridge, "in", f"net_pcap{self.ports},rx_pcap={path},infinite_rx=1")
        try:
            yield
        finally:
            self.vsctl("del-port", bridge, "in", check=False)

    def know(self, cells):
        """Where frames of all these cells go. Before there are flows: each MAC has them all looked at again."""
        places = {}
        for way, _, macs in cells:
            here, there = macs_of(macs)
            places.update(dict.fromkeys(there, f"vx{self.remotes[0]}") if way == "encap" else dict.fromkeys(here, "n-br-int"))
        self.control.calls([("fdb/add", ("br-int", port, "0", ":".join(f"{byte:02x}" for byte in mac))) for mac, port in places.items()])

    # ---- measuring ----

    def _waited_ns(self):
        """How long its polling thread has been ready to run and did not."""
        folder = f"/proc/{self.processes()[-1].pid}/task"
        for task in os.listdir(folder):
            with open(f"{folder}/{task}/comm") as file:
                if not file.read().startswith("pmd-"):
                    continue
            with open(f"{folder}/{task}/schedstat") as file:
                return int(file.read().split()[1])
        raise Failed("OVS polls nothing")

    def window(self):
        """(cycles a packet, upcalls) of one window, less the cycles in which others had the CPU."""
        waited = self._waited_ns()
        self.control.call("dpif-netdev/pmd-stats-clear")
        time.sleep(WINDOW_SECONDS)
        packets, cycles, upcalls = figures_of_pmd(self.control.call("dpif-netdev/pmd-stats-show"))
        waited = (self._waited_ns() - waited) * machine.tsc_hz() / 1e9
        return (cycles - min(waited, cycles)) / max(packets, 1), upcalls if packets else 1

    def cycles(self, many):
        """Once every flow has its entry; `many` flows: once its cache has settled as well."""
        eventually(lambda: self.window()[1] == 0, MOST_SETTLE_SECONDS, "OVS still asks its slow path")
        if many:
            time.sleep(0.8)
        return statistics.median(self.window()[0] for _ in range(WINDOWS))

    def _sent(self, port):
        """Frames that left through a port so far."""
        lines = self.control.call("dpctl/show", "-s", "netdev@ovs-netdev").splitlines()
        at = next((index for index, line in enumerate(lines) if f": {port} (" in line), None)
        if at is None:
            raise Failed(f"OVS has no port {port}")
        return int(next(line for line in lines[at:] if "TX packets:" in line).split("TX packets:")[1].split()[0])

    def check_carries(self, port):
        """What comes in leaves there: else nothing was measured."""
        before = self._sent(port)
        self.control.call("dpif-netdev/pmd-stats-clear")
        time.sleep(WINDOW_SECONDS)
        packets, *_ = figures_of_pmd(self.control.call("dpif-netdev/pmd-stats-show"))
        sent = self._sent(port) - before
        if not packets or sent < packets * LEAST_CARRIED:
            raise Failed(f"of {packets} frames OVS sent {sent} out of {port}")

    def measure(self, way, path, macs):
        bridge, out = ("br-int", "n-br-phy") if way == "encap" else ("br-phy", "n-br-int")
        many = macs > 10000
        # The floor first: later there are the flows of the other to be cleared away.
        with self.reading("br-floor", path):
            floor = self.cycles(False)
            self.check_carries("n-br-floor")
        with self.reading(bridge, path):
            total = self.cycles(many)
            self.check_carries(out)
        return {"floor": floor, "total": total, "above": total - floor}

    def close(self):
        with contextlib.suppress(AttributeError):
            self.control.close()
        super().close()


# ---- both ----

def measure(cells, note):
    """{"vxplane" and "ovs": {"WAY/SIZE/MACS": {"floor", "total", "above"}}} of cells [(way, size, macs)]. `note(name, reason)`: one that
    does not run; the other does all the same."""
    found = {"vxplane": {}, "ovs": {}}
    # An OVS for each way: to know twice as many MACs takes it more than twice as long.
    for way in dict.fromkeys(way for way, *_ in cells):
        with Lab() as lab:
            mine = [cell for cell in cells if cell[0] == way]
            path = os.path.join(lab.directory, "frames.pcap")
            ovs = None
            try:
                ovs = MemoryOvs(lab, "memory", 1, Cable(lab), remotes=[2])
                ovs.know(mine)
            except (Failed, OSError, subprocess.SubprocessError) as reason:
                ovs = None
                note("in memory, OVS-DPDK", str(reason))
            for _, size, macs in mine:
                key = f"{way}/{size}/{macs}"
                write_pcap(path, frames_of(way, size, macs))
                for name, figure in (("vxplane", lambda: measure_vxplane(way, path)), ("ovs", lambda: ovs.measure(way, path, macs))):
                    if name == "ovs" and ovs is None:
                        continue
                    try:
                        found[name][key] = figure()
                    except (Failed, OSError, ValueError, subprocess.SubprocessError) as reason:
                        note(f"in memory, {name}, {key}", str(reason))
    return found
