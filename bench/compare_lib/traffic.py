# SPDX-License-Identifier: Apache-2.0
"""Runs vxplane-traffic on a bed and makes figures of what it prints."""

import json
import os
import subprocess
import time

from cases import Failed
from compare_lib.contenders import cores_of
from compare_lib.foreign import TICKS, Watch
from lab import binary

WARMUP_SECONDS = 0.15
ANNOUNCE_RATE = 250000
WAY_OUT_SECONDS = 20  # more than the generator takes, whatever happens to its frames


class Traffic:
    """One run of the generator, started at once; `result()` waits for it. `way`: encap (g0 to u0) or decap (u0 to g0). `sender`:
    by default the kernel's own, which fills a veth from one CPU and leaves it some time for the far end of the wire."""

    def __init__(self, bed, way, *words, size=64, macs=1, rate=0, seconds=0.5, warmup=WARMUP_SECONDS, sender="xdp_live"):
        _, cpu = cores_of(1)
        source, sink = ("g0", "u0") if way == "encap" else ("u0", "g0")
        command = [binary("vxplane-traffic"), "--from", bed.end(source), "--to", bed.end(sink), "--size", size, "--macs", macs, "--rate", round(rate),
                   "--seconds", seconds, "--warmup", warmup, "--cpu-send", cpu, "--mac-set", int(way == "decap"), "--sender", sender, "--json", *bed.outer_words(way), *words]
        self.seconds, self.warmup = seconds, warmup
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self, seconds=None):
        try:
            out, error = self.process.communicate(timeout=(seconds or self.seconds + self.warmup) + WAY_OUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise Failed("vxplane-traffic did not end") from None
        if self.process.returncode:
            raise Failed(f"vxplane-traffic: {error.strip().splitlines()[-1] if error.strip() else self.process.returncode}")
        return json.loads(out)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate()


def run(*arguments, **options):
    traffic = Traffic(*arguments, **options)
    try:
        return traffic.result()
    finally:
        traffic.stop()


def announce(bed, way, macs):
    """The contender learns where the MACs of this load are, once: a trial does not pay for it."""
    run(bed, way, "--announce", "--announce-rate", ANNOUNCE_RATE, macs=macs)


def figures_of(result):
    """What is kept of one run: frames a second that arrived, what was lost, latency."""
    latency = result.get("latency_us", {})
    return {"pps": result["pps_received"], "sent_pps": result["pps_sent"], "loss": result["lost"] / max(result["sent"], 1), "duplicated": result["duplicated"],
            "reordered": result["reordered"], **{f"us_{key.replace('.', '_')}": latency[key] for key in ("p50", "p99", "p99.9") if key in latency and result["received"]}}


def cpu_ticks():
    """{cpu: (seconds of processes, seconds of interrupts and softirq)} since boot. What processes with a positive nice value used is
    not in it: nothing that is measured here has one."""
    found = {}
    with open("/proc/stat") as file:
        for line in file:
            words = line.split()
            if words[0].startswith("cpu") and words[0] != "cpu":
                user, _, system, _, _, irq, softirq = map(int, words[1:8])
                found[int(words[0][3:])] = ((user + system) / TICKS, (irq + softirq) / TICKS)
    return found


def forwarding_share(traffic, start, seconds):
    """CPU seconds a second that frames cost in a window in the middle of a run, the generator's own work left out: interrupts and softirq
    on every CPU, wherever they were moved to, and processes on every CPU but the generator's, where it spins. Not those of others."""
    _, sender = cores_of(1)
    time.sleep(start)
    before, watch, began = cpu_ticks(), Watch(time.monotonic), time.monotonic()
    time.sleep(seconds)
    after, elapsed, others = cpu_ticks(), time.monotonic() - began, watch.share()
    if traffic.process.poll() is not None:
        raise Failed("the run ended before its CPU time was read")
    spent = sum(after[cpu][1] - before[cpu][1] + (after[cpu][0] - before[cpu][0] if cpu != sender else 0.0) for cpu in after)
    return max(spent / elapsed - others, 0.0)


def pids_of(node):
    """Of the contender's programs; the kernel has none."""
    return [process.pid for process in (node.processes() if hasattr(node, "processes") else [])]


def process_seconds(pids):
    """CPU seconds of processes so far, their threads included; to the nanosecond: clock ticks are half of what is looked for."""
    total = 0
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
    return total / 1e9
