# SPDX-License-Identifier: Apache-2.0
"""Makes the beds and networks of a plan, runs its cells in rounds within the budget, and keeps what they found."""

import contextlib
import json
import os
import subprocess
import sys
import time

from cases import Failed, eventually
from compare_lib import figures, in_memory, machine, measure, traffic
from compare_lib.bed import BY_KEY, AloneBed, Bed
from compare_lib.contenders import make_any
from compare_lib.foreign import Watch
from compare_lib.plan import TCP_SECONDS
from compare_lib.streams import Network
from transfer import address_of

MOST_OTHERS, MOST_TRIES, SPARE_SHARE = 0.1, 3, 0.1  # of a CPU; trials; of the budget
ALONE_RATES = (50000, 200000, 500000, 1000000)
ALONE_SIZES = (64,)
ANNOUNCED_SECONDS = 120  # well below the 300 s after which MACs are forgotten
NETWORKS = {"kernel": ("kernel", None), "vx-af_xdp": ("vxplane", "af_xdp"), "vx-udp": ("vxplane", "udp"), "ovs": ("ovs:net_af_xdp", None)}
NETWORK_TITLES = {"kernel": "kernel: vxlan + bridge", "vx-af_xdp": "vxplane af_xdp, guest netdev", "vx-udp": "vxplane udp, guest netdev", "ovs": "OVS-DPDK, net_af_xdp"}


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)


class Session:
    tcp_seconds = TCP_SECONDS

    def __init__(self, plan, deadline=None, loss=0, search_seconds=0.15):
        self.plan, self.deadline, self.loss, self.search_seconds = plan, deadline, loss, search_seconds
        self.beds, self.networks, self.refused = {}, {}, {}
        self.trials, self.failures = {}, {}  # {cell key: {contender: [...]}}
        self.alone_points, self.announced, self.memory, self.memory_ports = {}, {}, None, {}
        self.tsc = machine.tsc_hz()
        self.spare = SPARE_SHARE * plan.budget if plan.budget else 600.0  # seconds for trials that others have disturbed

    # ---- what cells ask for ----

    def median(self, cell, contender, key):
        found = figures.summarise(self.trials.get(cell, {}).get(contender, [])).get(key)
        return found and found["median"]

    def announce(self, bed, way, macs):
        """Unless these are known already."""
        if bed.contender.kind == "bare":
            return
        known, at = self.announced.get((bed.contender.key, way), (0, 0.0))
        if known >= macs and time.monotonic() - at < ANNOUNCED_SECONDS:
            return
        traffic.announce(bed, way, macs)
        self.announced[bed.contender.key, way] = (macs, time.monotonic())

    def flush(self, bed):
        """Forgets every learned MAC."""
        bed.flush()
        for way in ("encap", "decap"):
            self.announced.pop((bed.contender.key, way), None)

    def alone(self, pps, size):
        """Cycles a frame of the generator's far end at a rate: a veth's softirq and the sink."""
        return figures.interpolate(self.alone_points.get(size) or next(iter(self.alone_points.values()), []), pps) or 0.0

    # ---- making ----

    def make(self, stack):
        for key in self.plan.beds():
            self._try_to_make(stack, key, self.beds, lambda key=key: Bed(BY_KEY[key]))
        for key in self.plan.networks():
            kind, driver = NETWORKS[key]
            self._try_to_make(stack, key, self.networks, lambda key=key, kind=kind, driver=driver:
                              Network(key, (kind, "kernel"), driver, "adaptive", make_any, ["--no-huge"]))

    def _try_to_make(self, stack, key, made, make):
        try:
            made[key] = make()
        except (Failed, OSError, subprocess.SubprocessError) as reason:
            name = f"tcp {key}" if made is self.networks else key
            self.refused[name] = str(reason)
            say(f"{name}: not run: {reason}")
            return
        stack.callback(made[key].close)

    def measure_alone(self):
        """What the far end of the wire costs at a few rates, for `cost` to take off."""
        bed = AloneBed()
        try:
            for size in ALONE_SIZES:
                points = []
                for rate in ALONE_RATES:
                    spent, result = measure.cost_at(bed, "encap", rate, size, 1)
                    points.append((result["sent_pps"], spent * self.tsc / max(result["sent_pps"], 1)))
                self.alone_points[size] = points
        except Failed as reason:
            self.refused["generator alone"] = str(reason)
        finally:
            bed.close()

    # ---- running ----

    def run(self):
        if any(cell.group == "cost" for cell in self.plan.cells):
            self.measure_alone()
        for number in range(self.plan.rounds):
            say(f"round {number + 1} of {self.plan.rounds}, {self.left():.0f} s left" if self.deadline else f"round {number + 1} of {self.plan.rounds}")
            for cell in self.plan.cells:
                if number < self.plan.rounds_of(cell):
                    self._round_of(cell)

    def left(self):
        return self.deadline - time.monotonic() if self.deadline else float("inf")

    def _round_of(self, cell):
        """Every contender once, the first another one each time."""
        shift = len(next(iter(self.trials.get(cell.key, {}).values()), []))
        for index in range(len(cell.on)):
            key = cell.on[(index + shift) % len(cell.on)]
            place = (self.networks if cell.needs_network else self.beds).get(key)
            if place is None:
                continue
            if self.left() < cell.seconds:
                self.failures.setdefault(cell.key, {}).setdefault(key, "no time was left")
                continue
            try:
                self._trial(cell, key, place)
            except (Failed, OSError, subprocess.SubprocessError, KeyError, ValueError) as reason:
                self.failures.setdefault(cell.key, {})[key] = str(reason) or type(reason).__name__
                say(f"{cell.key}: {key}: {reason!r}")

    def _trial(self, cell, key, place):
        """Again, as long as there is time to spare, when others of the machine worked beside it; the least disturbed counts."""
        tried = []
        while True:
            began, watch = time.monotonic(), Watch(time.monotonic)
            with self._let_run(cell, place):
                trial = measure.GROUPS[cell.group](self, place, cell)
            trial["took"], trial["others"] = time.monotonic() - began, watch.share()
            tried.append(trial)
            if trial["others"] < MOST_OTHERS or len(tried) == MOST_TRIES or self.spare < trial["took"]:
                break
            self.spare -= trial["took"]
            time.sleep(0.3)
            self.spare -= 0.3
        self.trials.setdefault(cell.key, {}).setdefault(key, []).append(min(tried, key=lambda one: one["others"]))

    @contextlib.contextmanager
    def _let_run(self, cell, place):
        if cell.needs_network:
            ends = (1, 3) if cell.arguments.get("offloads", 1 in place.usable) else (2, 4)
            sender, receiver = (place.guests[number] for number in ends)
            place.resume(sender, receiver)
            eventually(lambda: sender.ping(address_of(receiver, 4), count=1, seconds=0.3, check=False), 5, "no answer")
            try:
                yield
            finally:
                place.pause()
        else:
            with place.running():
                time.sleep(0.05)  # heartbeats are fresh again
                yield

    def measure_memory(self):
        """pipeline_bench: cycles of vxplane's own work, ports in memory."""
        self.memory = in_memory.measure_pipeline()

    def measure_memory_ports(self):
        """vxplane and OVS-DPDK on DPDK's ports without a wire."""
        def note(name, reason):
            self.refused[name] = reason
            say(f"{name}: not run: {reason}")
        self.memory_ports = in_memory.measure(self.plan.memory_cells, note)

    # ---- telling ----

    def report(self):
        cells = []
        results = {}
        for cell in self.plan.cells:
            cells.append({"key": cell.key, "group": cell.group, "title": cell.title, "on": cell.on, **cell.arguments})
            rows = results[cell.key] = {}
            for key in cell.on:
                trials = self.trials.get(cell.key, {}).get(key, [])
                refused = self.refused.get(f"tcp {key}" if cell.needs_network else key)
                rows[key] = {"figures": figures.summarise(trials), "trials": trials}
                if not trials:
                    rows[key]["not_run"] = refused or self.failures.get(cell.key, {}).get(key, "not measured")
                elif key in self.failures.get(cell.key, {}):
                    rows[key]["failed_once"] = self.failures[cell.key][key]
        titles = {**{key: contender.title for key, contender in BY_KEY.items()}, **{f"tcp {key}": title for key, title in NETWORK_TITLES.items()}}
        return {"machine": machine.describe(), "plan": {"full": self.plan.full, "quick": self.plan.quick, "rounds": self.plan.rounds}, "titles": titles, "cells": cells,
                "results": results, "refused": self.refused, "memory": self.memory, "memory_ports": self.memory_ports, "alone": self.alone_points, "tsc_hz": self.tsc}


def write_json(path, value):
    part = f"{path}.part"
    with open(part, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
    os.replace(part, path)
