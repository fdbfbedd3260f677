#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What each change between the kernel and vxplane costs: probes of 1 kHz and a TCP stream run through every step of a service's life,
and a table says how many packets each step lost, beside its bound."""

import contextlib
import os
import shutil
import signal
import time

from cases import Suite, check
from lab import binary
from nodes import pair
from pinger import End, Probes
from takeover import all_talk, host_addresses
from transfer import Flow

SETTLE_SECONDS = 0.5
IN_FLIGHT_SECONDS = 0.02  # what was sent this long before a step may be lost by it
# The heartbeat's 50 ms, and what a busy machine of two CPUs adds before the kernel has its frames back.
FAIL_OPEN_MS = 120


class Step:
    """A change, and what it may cost: `lost` packets of each stream, and an outage of `outage_ms` (lost or late), None: any."""

    def __init__(self, name, action, lost=0, outage_ms=None):
        self.name, self.action, self.lost, self.outage_ms = name, action, lost, outage_ms
        self.since = self.until = 0

    def bound(self):
        return "0 lost" if self.lost == 0 else f"<= {self.outage_ms} ms"


def other_binary(node):
    """The dataplane at another path, as an upgrade would put it."""
    path = os.path.join(node.run_dir, f"vxplane-dataplane-{time.monotonic_ns()}")
    shutil.copy2(binary("vxplane-dataplane"), path)
    # It finds the BPF programs beside itself.
    for name in os.listdir(os.path.dirname(binary("vxplane-dataplane"))):
        if name.endswith(".bpf.o"):
            shutil.copy2(os.path.join(os.path.dirname(binary("vxplane-dataplane")), name), node.run_dir)
    return path


def steps_of(node):
    def start():
        node.start()
        node.wait_ready()

    def restart():
        node.start_dataplane()
        node.wait_ready()

    def replace():
        node.programs["vxplane-dataplane"] = other_binary(node)
        node.stop("dataplane")
        restart()

    def replace_bypassed():
        node.ctl("bypass", "on")
        node.programs["vxplane-dataplane"] = other_binary(node)
        node.stop("dataplane")
        node.start_dataplane()
        node.wait_ready(armed=False)
        node.ctl("bypass", "off")
        node.wait_ready()

    def hang():
        node.signal("dataplane", signal.SIGSTOP)
        time.sleep(0.3)
        node.signal("dataplane", signal.SIGCONT)

    def control_killed():
        node.kill("control")
        time.sleep(0.3)
        node.start_control()
        node.wait_ready()

    def killed(which):
        return lambda: node.kill(which)

    fail_open = {"lost": FAIL_OPEN_MS, "outage_ms": FAIL_OPEN_MS}
    return [
        Step("the kernel alone", lambda: time.sleep(0.5)),
        Step("takeover starts", start),
        Step("vxplane alone", lambda: time.sleep(1)),
        Step("bypass on", lambda: node.ctl("bypass", "on")),
        Step("bypass off", lambda: (node.ctl("bypass", "off"), node.wait_ready())),
        Step("clean stop of the dataplane", lambda: node.stop("dataplane")),
        Step("its start", restart),
        Step("kill -9 of the dataplane", killed("dataplane"), **fail_open),
        Step("its start", restart),
        Step("SIGSTOP for 300 ms, SIGCONT", hang, **fail_open),
        Step("upgrade, bypassed meanwhile", replace_bypassed),
        Step("upgrade, stop and start", replace),
        Step("kill -9 of control, start", control_killed),
        Step("kill -9 of both", lambda: (node.kill("control"), node.kill("dataplane")), **fail_open),
        Step("start of both", start),
        Step("clean stop of both", node.stop),
    ]


def table(steps, streams, flow, host):
    """Prints the table; what is beyond its bound, as texts."""
    wrong = []
    print(f"     {'step':31} {'lost':>5} {'outage':>9} {'latest':>9} {'TCP still':>10} {'copies':>6}  bound")
    for step in steps:
        windows = [(stream, stream.window(step.since, step.until)) for stream in streams]
        lost = max(window.lost for _, window in windows)
        outage = max(window.outage_ms for _, window in windows)
        copies = sum(len(window.duplicates) for _, window in windows)
        latest = max(window.slowest_ms for _, window in windows)
        still = flow.longest_silence(step.since - 0.2, step.until + 0.2) * 1000
        print(f"     {step.name:31} {lost:5} {outage:6.1f} ms {latest:6.1f} ms {still:7.0f} ms {copies:6}  {step.bound()}, no copies", flush=True)
        for stream, window in windows:
            allowed = 0 if stream is host else step.lost
            gaps = ", ".join(f"{count} from {at - step.since:+.3f} s" for _, count, at, _ in window.gaps[:4])
            if window.lost > allowed or step.outage_ms and window.outage_ms > step.outage_ms:
                wrong.append(f"{step.name}: {stream.name} lost {window.lost} ({window.lost_there} on the way there; {gaps}), outage {window.outage_ms:.1f} ms")
            if window.duplicates:
                wrong.append(f"{step.name}: {stream.name}: {len(window.duplicates)} copies, the first at the {window.duplicates[0][1]} end")
    reordered = {stream.name: stream.reordered for stream in streams if stream.reordered}
    print(f"     out of order in all: {reordered or 'none'}", flush=True)
    return wrong


def switch_over(net):
    """nothing is lost or doubled by any planned change, and a crash costs no more than its bound (table)"""
    node, (a, b, c, d) = net.krypton, net.guests
    all_talk(net)
    steps = steps_of(node) if hasattr(node, "control") else [Step("the kernel alone", lambda: time.sleep(2))]
    with contextlib.ExitStack() as stack:
        stack.callback(stop_all, node)
        bridge_host, _ = stack.enter_context(host_addresses(net))
        bridge_host.wait_ping(b)
        c.wait_ping(bridge_host)
        nic = [End(one.namespace, one.host_address) for one in net.nodes]
        one, other = nic
        one.namespace.run("ping", "-n", "-q", "-c", 1, "-W", 2, other.address)
        probes = stack.enter_context(Probes((one, other), (a, c), (d, b), (a, b), (bridge_host, b), (c, bridge_host), seconds=80))
        flow = Flow(b, d)
        for step in steps:
            time.sleep(SETTLE_SECONDS)
            step.since = time.monotonic()
            step.action()
        time.sleep(SETTLE_SECONDS)
        for step, following in zip(steps, [*[step.since for step in steps[1:]], time.monotonic()]):
            step.until = following - IN_FLIGHT_SECONDS
        for step in steps:
            step.since -= IN_FLIGHT_SECONDS
        streams = probes.stop()
        wrong = table(steps, streams, flow, streams[0])
        check(not wrong, lambda: "; ".join(wrong))
        flow.finish()


def many_in_a_row(net):
    """switched over and back every few milliseconds with a TCP stream and probes of 2 kHz: nothing is lost, nothing is doubled"""
    node, (a, b, c, d) = net.krypton, net.guests
    node.revive()
    node.wait_ready()
    all_talk(net)
    switches = 0
    with host_addresses(net) as (bridge_host, _):
        bridge_host.wait_ping(b)
        c.wait_ping(bridge_host)
        try:
            with Probes((a, c), (d, b), (a, b), (bridge_host, b), (c, bridge_host), period_us=500) as probes:
                flow, start = Flow(b, d), time.monotonic()
                while (gone := time.monotonic() - start) < 2 or switches < 20 and gone < 20:  # two workers leave vxctl little of two CPUs
                    node.ctl("bypass", ("on", "off")[switches % 2])
                    switches += 1
                    time.sleep(0.01 * (switches % 4))
                streams = probes.stop()
                flow.finish()
        finally:
            node.ctl("bypass", "off")
    print(f"     {switches} switches, {sum(len(stream.sent) for stream in streams)} probes", flush=True)
    faults = [stream.fault() for stream in streams if stream.window().lost or stream.extras]
    check(not faults, lambda: "; ".join(faults))


def stop_all(node):
    if hasattr(node, "control"):
        node.programs.clear()
        node.close()


if __name__ == "__main__":
    suite = Suite("switchover")
    suite.group("kernel-kernel", lambda: pair("kernel", "kernel"), [switch_over], needs_vxplane=False)
    suite.group("takeover-kernel", lambda: pair("takeover", "kernel", krypton={"start": False}), [switch_over, many_in_a_row])
    suite.group("takeover-takeover", lambda: pair("takeover", "takeover", krypton={"start": False}), [switch_over])
    suite.group("takeover-kernel, two workers and queues",
                lambda: pair("takeover", "kernel", queues=2, krypton={"dataplane_flags": ["--lcores", "0,1"], "start": False}), [switch_over, many_in_a_row])
    suite.main()
