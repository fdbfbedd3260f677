#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""bench/compare as its user meets it: a quick run, a contender that does not start, two switches without a wire, contenders of --full, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from cases import Suite, check
from lab import REPOSITORY, build_directory, run

COMPARE = os.path.join(REPOSITORY, "bench", "compare")
ENVIRONMENT = {**os.environ, "VXPLANE_BUILD": build_directory(), "PYTHONDONTWRITEBYTECODE": "1"}
QUICK_SECONDS = 80


def remains(pid):
    """Namespaces, run directories and DPDK's files of a run that has ended, and processes in its namespaces."""
    names = [name for name in os.listdir("/run/netns") if name.startswith(f"vxt{pid}-")] if os.path.isdir("/run/netns") else []
    folders = [name for place in ("/run/vxplane-test", "/var/run/dpdk") if os.path.isdir(place) for name in os.listdir(place) if re.match(rf"(vxcompare)?{pid}-", name)]
    processes = run("pgrep", "-f", f"vxt{pid}-|vxplane-test/{pid}-", check=False).stdout.split()
    return names + folders + processes


def compare(folder, *words):
    """The run to its end: (CompletedProcess, its pid)."""
    process = subprocess.Popen([COMPARE, "--no-install", "--out", folder, *words], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, error = process.communicate(timeout=85)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error), process.pid


def quick():
    """--quick measures kernel and vxplane in about a minute and writes tables, figures and plots"""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        done, pid = compare(folder, "--quick")
        took = time.monotonic() - began
        check(done.returncode == 0, done.stderr)
        check(took < QUICK_SECONDS, f"it took {took:.0f} s")
        with open(os.path.join(folder, "report.json")) as file:
            report = json.load(file)
        for cell, rows in report["results"].items():
            for key, row in rows.items():
                check("not_run" not in row, f"{cell}: {key}: {row.get('not_run')}")
        for way in ("encap", "decap"):
            for key in ("kernel", "vx-netdev"):
                rate = report["results"][f"rate/{way}/64/1000"][key]["figures"]["pps"]["median"]
                check(rate > 1000, f"{key} {way}: {rate} frames/s")
        learned = report["results"]["learn/new"]["vx-netdev"]["figures"]["share"]["median"]
        check(learned > 0.5, f"{learned:.0%} of the new MACs were learned")
        with open(os.path.join(folder, "report.md")) as file:
            check("| kernel: vxlan + bridge (`kernel`) |" in file.read(), "no table with the kernel")
        check(os.path.exists(os.path.join(folder, "encap-size.svg")), f"plots: {os.listdir(folder)}")
    check(not remains(pid), f"left: {remains(pid)}")


def refused():
    """a contender whose program is missing is a line of the report, not the end of the run"""
    script = ("import sys; sys.argv = ['compare', '--no-install', '--out', sys.argv[1], '--only', 'idle/share']; sys.path.insert(0, %r)\n"
              "from compare_lib import contenders\ncontenders.VSWITCHD = contenders.BareNode.PROGRAM = '/nonexistent'\n"
              "import importlib.util, importlib.machinery\nloader = importlib.machinery.SourceFileLoader('compare', %r)\n"
              "module = importlib.util.module_from_spec(importlib.util.spec_from_loader('compare', loader)); loader.exec_module(module)\nsys.exit(module.main())\n"
              % (os.path.dirname(COMPARE), COMPARE))
    with tempfile.TemporaryDirectory() as folder:
        done = run("/usr/bin/python3", "-c", script, folder, env=ENVIRONMENT, seconds=85, check=False)
        check(done.returncode == 0, done.stderr)
        with open(os.path.join(folder, "report.md")) as file:
            text = file.read()
        for key, package in (("ovs", "openvswitch-switch-dpdk"), ("bare", "dpdk")):
            check(re.search(rf"- `{key}`: no /nonexistent: package {package} is not installed", text), text)
        check("| vxplane af_xdp, guest netdev (`vx-netdev`) |" in text, "vxplane was not measured")


def interrupted():
    """Ctrl-C, early or late, leaves nothing but a report"""
    for seconds in (1.0, 6.0):
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen([COMPARE, "--no-install", "--out", folder, "--quick"], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True)
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGINT)
            code = process.wait(40)
            check(code in (130, -2), f"exit code {code}")
            check(not remains(process.pid), f"after {seconds} s left: {remains(process.pid)}")


def profiled():
    """--profile finds the cycles of a frame where they must be: in vxplane's code, its guest's socket, its AF_XDP"""
    with tempfile.TemporaryDirectory() as folder:
        done, _ = compare(folder, "--profile", "--quick", "--only", "encap")
        check(done.returncode == 0, done.stderr)
        with open(os.path.join(folder, "report.json")) as file:
            rows = json.load(file)["results"]["profile/encap/64/1000"]
        for key, wanted in (("vx-netdev", ("own code", "packet socket, receive", "AF_XDP, send")), ("kernel", ("bridge, vxlan, IP, UDP",))):
            check("not_run" not in rows[key], f"{key}: {rows[key].get('not_run')}")
            found = {part: figure["median"] for part, figure in rows[key]["figures"].items()}
            for part in wanted:
                check(found.get(part, 0) > 100, f"{key}: no cycles for {part}: {found}")
        check("AF_XDP, send" not in rows["kernel"]["figures"], f"the kernel sends by AF_XDP: {rows['kernel']}")
        with open(os.path.join(folder, "report.md")) as file:
            text = file.read()
        check("## Where they go: encap" in text and "## Goals" not in text, text)


def without_a_wire():
    """vxplane and OVS-DPDK on DPDK's ports in memory: every frame comes out; without OVS vxplane alone"""
    sys.path.insert(0, os.path.dirname(COMPARE))
    from compare_lib import contenders, in_memory
    cells, reasons = [("encap", 64, 1000), ("decap", 64, 1), ("encap", 1332, 1)], []
    found = in_memory.measure(cells, lambda *words: reasons.append(words))
    check(not reasons, f"{reasons}")
    for name in ("vxplane", "ovs"):
        check(set(found[name]) == {f"{way}/{size}/{macs}" for way, size, macs in cells}, f"{name}: {found}")
        for key, row in found[name].items():
            check(row["floor"] > 5 and row["total"] > 20, f"{name}, {key}: {row}")
    contenders.VSWITCHD, program = "/nonexistent", contenders.VSWITCHD
    try:
        found = in_memory.measure(cells[:1], lambda *words: reasons.append(words))
    finally:
        contenders.VSWITCHD = program
    check(reasons == [("in memory, OVS-DPDK", "no /nonexistent: package openvswitch-switch-dpdk is not installed")], f"{reasons}")
    check(found["ovs"] == {} and list(found["vxplane"]) == ["encap/64/1000"], f"{found}")


def only_in_full():
    """what only --full has starts, and frames come out at the other end, both ways"""
    sys.path.insert(0, os.path.dirname(COMPARE))
    from compare_lib import bed, traffic
    contenders = [contender for contender in bed.CONTENDERS if contender.rank == "full"]
    check(contenders, "there are none")
    for contender in contenders:
        one = bed.Bed(contender)
        try:
            with one.running():
                time.sleep(0.1)
                for way in ("encap", "decap"):
                    traffic.announce(one, way, 10)
                for way in ("encap", "decap"):
                    result = traffic.run(one, way, "--no-announce", macs=10, rate=2000, seconds=0.3)
                    check(result["received"] >= 0.5 * result["sent"] > 0, f"{contender.key}, {way}: {result}")
        finally:
            one.close()


if __name__ == "__main__":
    suite = Suite("compare")
    suite.group("compare", None, [quick, refused, profiled, without_a_wire, only_in_full, interrupted])
    suite.main()
