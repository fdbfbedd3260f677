# SPDX-License-Identifier: Apache-2.0
"""Nodes that are not of the system tests' kinds, with their interface: OVS-DPDK from Debian's packages, and testpmd, the floor.

Both run in the node's namespace with files, sockets and memory of their own; a service of the machine is neither used nor
touched. They take no hugepages (nor does vxplane here): what is compared is then the same on every machine.
"""

import contextlib
import os
import shutil
import subprocess
import time

from cases import Failed, eventually
from lab import UNDERLAY_DEVICE, core_of, run, wire_offloads_off
from nodes import Node, make_node

VSWITCHD = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
MEMORY_MB = 1024
SECONDS_TO_START = 15


def cores_of(node_number):
    """(the worker's CPU, another one for what only commands it)."""
    worker = core_of(node_number)
    others = sorted(os.sched_getaffinity(0) - {worker})
    return worker, others[0] if others else worker


class Program:
    """A process in a node's namespace, its output in a log of the node's directory."""

    def __init__(self, node, name, *command, environment=None):
        self.name, self.log = name, os.path.join(node.run_dir, f"{name}.log")
        with open(self.log, "a") as log:
            self.process = node.namespace.popen(*command, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **(environment or {})})

    def tail(self, lines=6):
        with open(self.log, errors="replace") as file:
            return file.read().splitlines()[-lines:]

    def check_runs(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with {self.process.returncode}: {' | '.join(self.tail())}")

    def stop(self):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(18)  # SIGCONT: it may be paused
                self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        self.process.stdin.close()


class ProgramNode(Node):
    """A node that is one or more programs. Frames reach its ports as bytes: no unfinished checksums, no super-frames."""

    takes_bytes_only = True

    def __init__(self, lab, name, number, wire, remotes=(), **options):
        super().__init__(lab, name, number, wire, **options)
        self.remotes, self.programs = list(remotes), []
        self.prefix = f"vxcompare{os.getpid()}-{os.path.basename(lab.directory)}"  # of DPDK's files, which know no namespace
        self.run_dir = os.path.join(lab.directory, f"{self.name}{number}")
        os.makedirs(self.run_dir, exist_ok=True)
        wire_offloads_off(self.namespace, UNDERLAY_DEVICE)

    def start_program(self, *words, **options):
        self.programs.append(Program(self, *words, **options))
        return self.programs[-1]

    def processes(self):
        return [program.process for program in self.programs]

    def wait_port(self, name, state="up", seconds=10):
        pass

    def show_logs(self):
        for program in self.programs:
            for line in program.tail(12):
                print(f"     {self.name}/{program.name}: {line}")

    def close(self):
        for program in reversed(self.programs):
            program.stop()
        shutil.rmtree(f"/var/run/dpdk/{self.prefix}", ignore_errors=True)


class OvsNode(ProgramNode):
    """OVS with the userspace datapath: br-int with the guests' ports and a vxlan port, br-phy with the NIC and the VTEP's address.
    `ports_by`: net_af_xdp, net_af_packet (DPDK's drivers) or afxdp (OVS's own)."""

    def __init__(self, lab, name, number, wire, remotes=(), ports_by="net_af_xdp", **options):
        for path in (VSWITCHD, SCHEMA):
            if not os.path.exists(path):
                raise Failed(f"no {path}: package openvswitch-switch-dpdk is not installed")
        super().__init__(lab, name, number, wire, remotes, **options)
        self.ports_by, self.ports = ports_by, 0
        self._start()
        self._make_bridges()

    def _start(self):
        folder = self.run_dir
        self.database = f"unix:{folder}/db.sock"
        environment = {f"OVS_{word}DIR": folder for word in ("RUN", "LOG", "DB", "SYSCONF")}
        worker, other = cores_of(self.number)
        run("ovsdb-tool", "create", f"{folder}/conf.db", SCHEMA)
        self.start_program("ovsdb-server", "ovsdb-server", f"{folder}/conf.db", f"--remote=p{self.database}", f"--unixctl={folder}/ovsdb.ctl",
                           environment=environment)
        eventually(lambda: os.path.exists(f"{folder}/db.sock"), SECONDS_TO_START, "ovsdb-server does not serve")
        self.vsctl("--no-wait", "init")
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:dpdk-init=true", f"other_config:dpdk-lcore-mask={1 << other:#x}",
                   f"other_config:pmd-cpu-mask={1 << worker:#x}", "other_config:flow-limit=400000",
                   f'other_config:dpdk-extra="--no-huge --legacy-mem -m {MEMORY_MB} --no-pci --file-prefix={self.prefix}"')
        switch = self.start_program("ovs-vswitchd", VSWITCHD, self.database, f"--unixctl={folder}/switch.ctl", environment=environment)

        def ready():
            switch.check_runs()
            return self.vsctl("get", "Open_vSwitch", ".", "dpdk_initialized", check=False).stdout.strip() == "true"
        eventually(ready, SECONDS_TO_START, lambda: f"OVS does not start DPDK: {' | '.join(switch.tail())}", 0.1)

    def vsctl(self, *words, **options):
        return run("ovs-vsctl", f"--db={self.database}", f"--timeout={SECONDS_TO_START}", *words, **options)

    def appctl(self, *words, **options):
        return run("ovs-appctl", "-t", f"{self.run_dir}/switch.ctl", *words, **options).stdout

    def _make_bridges(self):
        mac = self.mac()
        self.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev", f'other-config:hwaddr="{mac}"')
        self.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev", "other-config:mac-table-size=400000",
                   f"other-config:mac-aging-time={self.ageing}")
        self.add_port("br-phy", UNDERLAY_DEVICE)
        ns = self.namespace
        ns.ip("addr", "add", f"{self.vtep}/24", "dev", "br-phy")
        ns.ip("link", "set", "br-phy", "up")
        for remote in self.remotes:
            self.vsctl("add-port", "br-int", f"vx{remote}", "--", "set", "Interface", f"vx{remote}", "type=vxlan", f"options:remote_ip={self.vtep_of(remote)}",
                       f"options:local_ip={self.vtep}", f"options:key={self.vni}", "options:csum=true")

    def add_port(self, bridge, device):
        """`device` as a port of a bridge; fails when OVS cannot open it."""
        name, self.ports = f"p{self.ports}", self.ports + 1
        if self.ports_by == "net_af_packet":
            # Without an XDP program a veth has NAPI only with GRO, and the generator's XDP frames need it. Frames are UDP: nothing is merged.
            self.namespace.run("ethtool", "-K", device, "gro", "on")
        if self.ports_by == "afxdp":
            self.open_port(bridge, device, "type=afxdp", "options:n_rxq=1")
        else:
            self.open_dpdk_port(bridge, name, f"{self.ports_by}{self.ports},iface={device}")

    def open_dpdk_port(self, bridge, name, devargs):
        self.open_port(bridge, name, "type=dpdk", f"options:dpdk-devargs={devargs}")

    def open_port(self, bridge, name, *words):
        """`words`: of the Interface, its type and options."""
        self.vsctl("add-port", bridge, name, "--", "set", "Interface", name, *words)
        error = self.vsctl("get", "Interface", name, "error").stdout.strip()
        if error not in ("[]", ""):
            raise Failed(f"OVS does not open {name}, {' '.join(words)}: {error}")

    def adopt(self, port):
        wire_offloads_off(self.namespace, port)
        self.add_port("br-int", port)

    def neighbour(self, address, mac):
        self.appctl("tnl/neigh/set", "br-phy", address, mac)

    def wait_ready(self):
        for program in self.programs:
            program.check_runs()

    def known_macs(self):
        """Learned MACs of the bridge with the guests: a set."""
        rows = [line.split() for line in self.appctl("fdb/show", "br-int").splitlines()[1:]]
        return {row[2] for row in rows if len(row) >= 4}

    def count_macs(self):
        for line in self.appctl("fdb/stats-show", "br-int").splitlines():
            if "Current/maximum MAC entries" in line:
                return int(line.split(":")[1].split("/")[0])
        return len(self.known_macs())

    def fdb(self):
        return sorted(self.known_macs())


class BareNode(ProgramNode):
    """dpdk-testpmd that moves frames between the NIC and the one guest's port, and nothing else: what any program with these
    ports needs. Not a VTEP: what comes out is what went in."""

    PROGRAM = "/usr/bin/dpdk-testpmd"

    def __init__(self, lab, name, number, wire, remotes=(), ports_by="net_af_xdp", **options):
        if not os.path.exists(self.PROGRAM):
            raise Failed(f"no {self.PROGRAM}: package dpdk is not installed")
        super().__init__(lab, name, number, wire, remotes, **options)
        self.ports_by = ports_by

    def adopt(self, port):
        wire_offloads_off(self.namespace, port)
        worker, other = cores_of(self.number)
        names = (UNDERLAY_DEVICE, port)
        devices = [f"--vdev={self.ports_by}{index},iface={device}" for index, device in enumerate(names)]
        lcores = f"--lcores=0@{other},1@{worker}"
        program = self.start_program("dpdk-testpmd", self.PROGRAM, lcores, "--main-lcore=0", "--no-huge", "-m", MEMORY_MB, "--no-pci", "--no-telemetry",
                                     f"--file-prefix={self.prefix}", *devices, "--", "--forward-mode=io", "--auto-start", "--nb-cores=1",
                                     "--total-num-mbufs=32768")

        def ready():
            program.check_runs()
            with open(program.log, errors="replace") as log:
                return "io packet forwarding" in log.read()
        eventually(ready, SECONDS_TO_START, lambda: f"testpmd does not forward: {' | '.join(program.tail())}", 0.05)
        time.sleep(0.2)

    def wait_ready(self):
        pass

    def fdb(self):
        return []


def make_any(kind, *arguments, **options):
    """make_node() with the two kinds of this file: `ovs` and `bare`, also as `ovs:DRIVER`."""
    name, _, driver = kind.partition(":")
    if name in ("ovs", "bare"):
        for key in ("own", "ports", "settings", "dataplane_flags", "start", "csum"):
            options.pop(key, None)
        return (OvsNode if name == "ovs" else BareNode)(*arguments, **options, **({"ports_by": driver} if driver else {}))
    return make_node(kind, *arguments, **options)
