# SPDX-License-Identifier: Apache-2.0
"""The machine: packages and build that a run needs, and what its report says about where it ran."""

import datetime
import os
import shutil
import subprocess
import time

from compare_lib import REPOSITORY
from lab import build_directory

TARGETS = ["vxplane-dataplane", "vxplane-control", "vxctl", "bpf", "vxplane-traffic", "pipeline_bench", "dpdk_bench"]


def install_packages():
    """Quick when all are there."""
    subprocess.run([os.path.join(REPOSITORY, "tests", "install-packages")], check=True, stdout=subprocess.DEVNULL if is_complete() else None)


def is_complete():
    return all(shutil.which(name) for name in ("iperf3", "gnuplot", "perf", "cmake", "ninja", "ovsdb-server"))


def build():
    """build/release, made or brought up to date; $VXPLANE_BUILD is taken as it is."""
    if not os.environ.get("VXPLANE_BUILD"):
        make(build_directory(), TARGETS)


def make(folder, targets, output=None):
    """The targets in that build directory, which is made when it is not there. What the tools say goes to `output`."""
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        # As tests/run does it, so that neither builds again what the other has built.
        subprocess.run(["cmake", "-G", "Ninja", "-S", REPOSITORY, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", "-Dwerror=ON",
                        "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"], check=True, stdout=subprocess.DEVNULL)
    environment = {"CCACHE_BASEDIR": REPOSITORY, "CCACHE_NOHASHDIR": "true", **os.environ}
    subprocess.run(["ninja", "-C", folder, *targets], check=True, env=environment, stdout=output)


def first_line(*command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout or done.stderr).strip().splitlines()[0] if (done.stdout or done.stderr).strip() else None


def package_version(name):
    return first_line("dpkg-query", "-W", "-f", "${Version}", name)


def cpu_model():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else os.uname().machine


def is_virtual():
    with open("/proc/cpuinfo") as file:
        return " hypervisor" in file.read()


def tsc_hz():
    """Cycles a second in which CPU time is told here: the nominal rate, which the cycle counter has on anything recent."""
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("cpu MHz"):
                return float(line.split(":")[1]) * 1e6
    return 1e9


def describe():
    return {"date": datetime.date.today().isoformat(), "time": time.strftime("%H:%M %Z"), "cpu": cpu_model(), "virtual": is_virtual(),
            "cpus": len(os.sched_getaffinity(0)), "kernel": os.uname().release, "machine": os.uname().machine, "load": os.getloadavg()[0],
            "versions": {"vxplane": first_line("git", "-C", REPOSITORY, "describe", "--always", "--dirty"), "openvswitch-switch-dpdk": package_version("openvswitch-switch-dpdk"),
                         "dpdk": package_version("dpdk"), "iperf3": package_version("iperf3"), "iproute2": package_version("iproute2")}}
