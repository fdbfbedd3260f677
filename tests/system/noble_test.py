#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The noble lab as its user meets it: up, status, shell, down; against a kernel peer; over crashes; stopped half-way."""

import os
import re
import signal
import subprocess
import time

from cases import Skip, Suite, check, eventually
from lab import REPOSITORY, build_directory, run

NOBLE = os.path.join(REPOSITORY, "tests", "lab", "noble")
NAMES = ["krypton", "xenon", "krypton-vm1", "krypton-vm2", "xenon-vm1", "xenon-vm2"]
ENVIRONMENT = {**os.environ, "VXPLANE_BUILD": build_directory()}


def noble(*words, **options):
    return run(NOBLE, *words, env=ENVIRONMENT, seconds=80, **options)


def remains():
    """What is there of a lab: namespaces, run directory, processes."""
    names = [name for name in NAMES if os.path.exists(f"/run/netns/{name}")]
    processes = run("pgrep", "-f", "/run/vxplane-lab/|noble.py supervise", check=False).stdout.split()
    return names + processes + (["/run/vxplane-lab"] if os.path.exists("/run/vxplane-lab") else [])


def pid_of(program, node):
    return [int(pid) for pid in run("pgrep", "-f", f"{program} --run-dir /run/vxplane-lab/{node}", check=False).stdout.split()]


def up_and_down():
    """up shows pings and FDBs and stays up; a second up takes seconds; status, shell; down leaves nothing"""
    try:
        text = noble("up").stdout
        check(text.count(" ok\n") == 8 and "NO ANSWER" not in text, text)
        check(re.search(r"52:54:00:aa:00:14 dev tap100i0 vlan 1 master mainvx", text), f"krypton-vm1 is not in krypton's FDB: {text}")
        check(re.search(r"52:54:00:aa:00:0b dev vxlan_mainvx dst 172.18.1.1 vlan 100 master mainvx", text), "xenon-vm2 is not in VLAN 100")
        started = time.monotonic()
        noble("up")
        check(time.monotonic() - started < 30, f"a second up took {time.monotonic() - started:.0f} s")
        check(noble("status").returncode == 0, "status")
        check("connected" in noble("shell", "krypton", "vxctl", "status").stdout, "vxctl on krypton")
        check(noble("shell", "xenon-vm1", "ping", "-c", "1", "-W", "2", "10.1.0.20").returncode == 0, "ping in a guest's shell")
        check(noble("shell", "nowhere", check=False).returncode == 1, "a shell on an unknown node")
    finally:
        noble("down")
    check(not remains(), f"left: {remains()}")
    check(noble("status", check=False).returncode == 1, "status of nothing")


def heals():
    """kill -9 of a dataplane, of a control, of both: the lab works again by itself"""
    try:
        noble("up")
        for programs in (["vxplane-dataplane"], ["vxplane-control"], ["vxplane-dataplane", "vxplane-control"]):
            before = [pid for program in programs for pid in pid_of(program, "krypton")]
            check(len(before) == len(programs), f"{before}")
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: all(pid_of(program, "krypton") for program in programs), 10, f"{programs} did not return")
            eventually(lambda: noble("status", check=False).returncode == 0, 20, f"not all pings answer after kill -9 of {programs}", 0.5)
    finally:
        noble("down")
    check(not remains(), f"left: {remains()}")


def kernel_peer():
    """up --peer kernel: the same pings against a plain Linux vxlan host"""
    try:
        text = noble("up", "--peer", "kernel").stdout
        check(text.count(" ok\n") == 8 and "xenon# bridge fdb" in text, text)
    finally:
        noble("down")
    check(not remains(), f"left: {remains()}")


def up_after_crash():
    """up works after kill -9 of everything, and cleans what was left"""
    try:
        noble("up")
        pids = [int(pid) for name in NAMES for pid in run("ip", "netns", "pids", name, check=False).stdout.split()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        check(noble("up").stdout.count(" ok\n") == 8, "not all pings answer")
    finally:
        noble("down")
    check(not remains(), f"left: {remains()}")


def interrupted():
    """Ctrl-C during up, early or late, leaves nothing; so does SIGTERM"""
    for number, seconds in ((signal.SIGINT, 0.4), (signal.SIGINT, 1.5), (signal.SIGTERM, 2.5)):
        process = subprocess.Popen([NOBLE, "up"], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        finished = process.poll() is not None  # a fast machine: then there is nothing to interrupt
        os.killpg(process.pid, number)
        process.wait(30)
        if finished:
            noble("down")
        check(not remains(), f"signal {number} after {seconds} s left: {remains()}")


def guard():
    if remains():
        raise Skip("a noble lab is up on this machine: its names are fixed")


def guarded(case):
    def body():
        guard()
        case()
    body.__doc__, body.__name__ = case.__doc__, case.__name__
    return body


if __name__ == "__main__":
    suite = Suite("noble")
    suite.group("noble", None, [guarded(case) for case in (up_and_down, heals, kernel_peer, up_after_crash, interrupted)])
    suite.main()
