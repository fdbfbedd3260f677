# SPDX-License-Identifier: Apache-2.0
"""The two kinds of node of the system tests, with one interface.

A node has `namespace`, `number` (n: underlay 172.18.1.n and fd18::n, host address 192.0.2.n on the same NIC), `adopt(port)`
(a guest's netdev joins the bridge), `fdb()` (what it knows, in the form of `bridge -j fdb`), `show_logs()`.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time

from cases import Failed, eventually
from lab import OVERLAY_MTU, UNDERLAY_DEVICE, UNDERLAY_MTU, Guest, Lab, Wire, binary, run, tag_edge

VNI = 1000


class Node:
    def __init__(self, lab, name, number, wire, vlan=0, family=4, queues=1, underlay_mtu=UNDERLAY_MTU, ageing=300, vni=VNI):
        self.lab, self.name, self.number, self.wire, self.vlan, self.ageing, self.vni = lab, name, number, wire, vlan, ageing, vni
        self.underlay_mtu, self.family = underlay_mtu, family
        self.host_address = f"192.0.2.{number}"
        self.namespace = lab.namespace(name)
        self.wire_port = wire.plug(self.namespace, queues=queues)
        lab.nodes.append(self)

    @property
    def vtep(self):
        return self.vtep_of(self.number)

    def vtep_of(self, number):
        return f"172.18.1.{number}" if self.family == 4 else f"fd18::{number}"

    def mac(self):
        return self.namespace.links()[UNDERLAY_DEVICE]["address"]

    def address(self, host=True, vtep=True):
        """Gives the kernel of this node its addresses on the NIC."""
        if host:
            self.namespace.ip("addr", "replace", f"{self.host_address}/24", "dev", UNDERLAY_DEVICE)
        if vtep:
            self.namespace.ip("addr", "replace", f"{self.vtep}/{24 if self.family == 4 else 64}", "dev", UNDERLAY_DEVICE, "nodad")

    def show_logs(self):
        pass

    def close(self):
        pass


class KernelNode(Node):
    """A plain Linux host: vxlan device and bridge. With `vlan`, its whole NIC is tagged by a BPF program (then no host address)."""

    def __init__(self, lab, name, number, wire, remotes=(), csum=True, **options):
        super().__init__(lab, name, number, wire, **options)
        ns = self.namespace
        ns.ip("link", "set", UNDERLAY_DEVICE, "mtu", self.underlay_mtu)
        if self.vlan:
            tag_edge(ns, UNDERLAY_DEVICE, self.vlan)
        self.address(host=not self.vlan)
        ns.ip("link", "add", "mainvx", "mtu", OVERLAY_MTU, "type", "bridge", "ageing_time", self.ageing * 100, "mcast_snooping", "0")
        ns.run("sysctl", "-qw", "net.ipv6.conf.mainvx.disable_ipv6=1")
        self.add_vxlan("vxlan_mainvx", self.vni, csum=csum)
        ns.ip("link", "set", "vxlan_mainvx", "mtu", OVERLAY_MTU, "master", "mainvx", "up")
        ns.ip("link", "set", "mainvx", "mtu", OVERLAY_MTU, "up")
        for remote in remotes:
            self.add_remote(self.vtep_of(remote))

    def add_vxlan(self, name, vni, csum=True):
        words = ["udpcsum" if csum else "noudpcsum"] if self.family == 4 else []
        self.namespace.ip("link", "add", name, "type", "vxlan", "id", vni, "local", self.vtep, "dstport", 4789, "dev", UNDERLAY_DEVICE,
                          "ttl", 64, "ageing", self.ageing, *words)

    def add_remote(self, address, device="vxlan_mainvx"):
        self.namespace.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", device, "dst", address)

    def adopt(self, port):
        self.namespace.ip("link", "set", port, "master", "mainvx")

    def fdb(self):
        done = self.namespace.run("bridge", "-json", "-statistics", "fdb", "show")
        return [entry for entry in json.loads(done.stdout or "[]") if entry.get("state") != "permanent"]

    def place_of(self, guest):
        """Where this node thinks the guest is: ("port", NAME), ("vtep", ADDRESS) or None."""
        entries = [entry for entry in self.fdb() if entry["mac"] == guest.mac]
        # The bridge decides the port; the vxlan's own table, which may lag, the VTEP behind it.
        for entry in entries:
            if entry.get("master") == "mainvx" and "dst" not in entry:
                if entry["ifname"] != "vxlan_mainvx":
                    return ("port", entry["ifname"])
                return next((("vtep", other["dst"]) for other in entries if "dst" in other), None)
        return None

    def wait_ready(self):
        pass

    def wait_port(self, name, state="up", seconds=10):
        pass


class VxplaneNode(Node):
    """A host with vxplane-dataplane and vxplane-control. `settings`: {section: {key: value or [values]}} over the defaults
    below; `ports`: lines of [port]. `xdp_device`: the NIC is the kernel's too (vtep-address = kernel) unless `own`."""

    def __init__(self, lab, name, number, wire, remotes=(), own=False, ports=(), settings=None, dataplane_flags=(), start=True, **options):
        super().__init__(lab, name, number, wire, **options)
        self.remotes, self.own, self.ports, self.settings = remotes, own, list(ports), settings or {}
        self.dataplane_flags = list(dataplane_flags)
        self.run_dir = os.path.join(lab.directory, f"{name}{number}")
        os.makedirs(self.run_dir, mode=0o755, exist_ok=True)
        self.address(vtep=not own)
        self.dataplane = self.control = None
        self.extra_configs = []
        self.write_config()
        if start:
            self.start()

    # ---- configuration ----

    def config_path(self, name="vxplane.conf"):
        return os.path.join(self.run_dir, name)

    def effective_settings(self):
        sections = {
            "vxlan": {"name": "vxlan_mainvx", "vxlan-id": self.vni, "vxlan-local-tunnelip": self.vtep,
                      "vxlan-remoteip": [self.vtep_of(remote) for remote in self.remotes], "mtu": OVERLAY_MTU},
            "underlay": {"device": UNDERLAY_DEVICE, "driver": "af_xdp", "mtu": self.underlay_mtu},
            "bridge": {"name": "mainvx", "bridge-vids": "2-4094", "bridge-pvid": 1, "bridge-ageing": self.ageing},
        }
        if self.vlan:
            sections["underlay"]["vlan"] = self.vlan
        if self.own:
            sections["underlay"]["vtep-address"] = "own"
        for section, values in self.settings.items():
            sections.setdefault(section, {}).update(values)
        return sections

    def write_config(self, path=None, sections=None, ports=None):
        lines = []
        for section, values in (sections or self.effective_settings()).items():
            lines.append(f"[{section}]")
            for key, value in values.items():
                lines += [f"{key} = {item}" for item in (value if isinstance(value, (list, tuple)) else [value])]
        if ports is None:
            ports = self.ports
        if ports:
            lines.append("[port]")
            lines += [f"port = {line}" for line in ports]
        path = path or self.config_path()
        with open(path, "w") as file:
            file.write("\n".join(lines) + "\n")
        return path

    def adopt(self, port):
        """A guest's netdev appeared; a configured [port] takes it, any other is added here by vxctl."""
        import fnmatch
        if any(fnmatch.fnmatchcase(port, line.split()[0]) for line in self.ports):
            return
        if self.control is not None:
            self.ctl("port", "add", port, "driver=netdev")

    # ---- processes ----

    def start(self):
        self.start_dataplane()
        self.start_control()

    def _spawn(self, program, *arguments):
        with open(os.path.join(self.run_dir, f"{program}.log"), "a") as log:
            return self.namespace.popen(binary(program), "--run-dir", self.run_dir, *arguments, stdout=log, stderr=log)

    def start_dataplane(self):
        self.dataplane = self._spawn("vxplane-dataplane", *self.dataplane_flags)

    def start_control(self):
        configs = [self.config_path(), *self.extra_configs]
        self.control = self._spawn("vxplane-control", *[word for path in configs for word in ("--config", path)])

    def processes(self):
        return [process for process in (self.control, self.dataplane) if process is not None]

    def signal(self, which, number):
        getattr(self, which).send_signal(number)

    def kill(self, which):
        """kill -9, as a crash would end it."""
        process = getattr(self, which)
        process.kill()
        process.wait(5)

    def stop(self, which=None, seconds=10):
        """SIGTERM and the end; the exit code of the last one."""
        code = None
        for name in ([which] if which else ["control", "dataplane"]):
            process = getattr(self, name)
            if process is None:
                continue
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
                raise Failed(f"{self.name}: {name} did not end within {seconds} s of SIGTERM") from None
            finally:
                setattr(self, name, None)
        return code

    def revive(self):
        """Lets run again what stands still, and starts what has ended."""
        for name in ("dataplane", "control"):
            process = getattr(self, name)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
            else:
                getattr(self, f"start_{name}")()

    def close(self):
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        self.dataplane = self.control = None

    def show_logs(self):
        for name in ("vxplane-dataplane.log", "vxplane-control.log"):
            with contextlib.suppress(OSError), open(os.path.join(self.run_dir, name)) as file:
                for line in file.readlines()[-12:]:
                    print(f"     {self.name}/{name[8:-4]}: {line.rstrip()}")
        for word in ("drops", "vtep"):
            with contextlib.suppress(Failed):  # of a control that hangs: what is shown must not hide what went wrong
                for line in self.vxctl(word, seconds=3).stdout.splitlines():
                    print(f"     {self.name} {word}: {line}")

    def log(self, program):
        with open(os.path.join(self.run_dir, f"{program}.log")) as file:
            return file.read()

    # ---- the operator's command ----

    def vxctl(self, *words, **options):
        options.setdefault("check", False)
        return run(binary("vxctl"), "--run-dir", self.run_dir, *words, **options)

    def ctl(self, *words):
        """vxctl, which must succeed; its text."""
        return self.vxctl(*words, check=True).stdout

    def json(self, *words):
        done = self.vxctl("-j", *words, check=True)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise Failed(f"vxctl -j {' '.join(map(str, words))} printed no JSON: {done.stdout!r}") from None

    def fdb(self, *filters):
        return self.json("fdb", "show", *filters)

    def place_of(self, guest):
        for entry in self.fdb(guest.mac):
            return ("vtep", entry["dst"]) if "dst" in entry else ("port", entry["ifname"])
        return None

    def drops(self):
        return self.json("drops")

    def stats(self):
        return self.json("stats")

    def check_conservation(self):
        """Every packet in has one way out (design section 3). Idle: nothing may be held for long."""
        totals = self.stats()["totals"]
        left = sum(totals[key] for key in ("received", "cloned", "generated", "segmented"))
        right = sum(totals[key] for key in ("sent", "dropped", "consumed", "coalesced", "held"))
        if left != right:
            raise Failed(f"{self.name}: totals do not balance: {left} in, {right} out: {totals}")

    def wait_ready(self, seconds=20):
        """Both processes serve, the underlay is up, and every port that has its netdev is up."""
        def ready():
            for which in ("dataplane", "control"):
                process = getattr(self, which)
                if process is not None and process.poll() is not None:
                    self.show_logs()
                    raise Failed(f"{self.name}: vxplane-{which} ended with {process.returncode}")
            if not os.path.exists(os.path.join(self.run_dir, "control.sock")):
                return False
            done = self.vxctl("-j", "status")
            if done.returncode:
                return False
            status = json.loads(done.stdout)
            return status["dataplane"]["state"] == "connected" and status["underlay"].get("state") == "up"
        eventually(ready, seconds, lambda: f"{self.name} is not ready: {self.vxctl('status').stdout or self.vxctl('status').stderr}")

    def wait_port(self, name, state="up", seconds=10):
        def found():
            return any(port["name"] == name and port["state"] == state for port in self.json("port"))
        eventually(found, seconds, lambda: f"{self.name}: port {name} is not {state}: {self.vxctl('port').stdout}")


class HostTcp:
    """A TCP session between the hosts over the same NIC, such as an operator's SSH: a byte there and back every 10 ms.

    `longest_gap()`: seconds the peer was silent at worst since `mark()`."""

    def __init__(self, server, client):
        import threading
        with server.namespace.entered():
            listener = socket.create_server(("0.0.0.0", 2222))
        with client.namespace.entered():
            self.client = socket.create_connection((server.host_address, 2222), timeout=5)
        self.server, _ = listener.accept()
        listener.close()
        for end in (self.client, self.server):
            end.settimeout(0.05)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.times, self.running = [time.monotonic()], True
        self.thread = threading.Thread(target=self._talk, daemon=True)
        self.thread.start()

    def _talk(self):
        while self.running:
            with contextlib.suppress(socket.timeout):
                self.client.send(b"x")
                self.server.recv(1)
                self.server.send(b"y")
                self.client.recv(1)
                self.times.append(time.monotonic())
            time.sleep(0.01)

    def mark(self):
        self.times = [time.monotonic()]

    def longest_gap(self):
        times = [*self.times, time.monotonic()]
        return max(b - a for a, b in zip(times, times[1:]))

    def close(self):
        self.running = False
        self.thread.join(2)
        self.client.close()
        self.server.close()


def make_node(kind, *arguments, **options):
    if kind == "kernel":
        for key in ("own", "ports", "settings", "dataplane_flags"):
            options.pop(key, None)
        return KernelNode(*arguments, **options)
    return VxplaneNode(*arguments, **options)


# What may be dropped at any time without harm: guests' own neighbour and group chatter.
CHATTER = {"egress_same_port", "no_flood_target", "link_local"}


def dropped_since(node, before):
    """{reason: packets} that the node has dropped since drops() said `before`, chatter left out."""
    return {reason: count - before[reason] for reason, count in node.drops().items() if count != before[reason] and reason not in CHATTER}


class Network:
    """What the cases of a group work on: `lab`, and in it `nodes`."""

    @property
    def vxplane_nodes(self):
        return [node for node in self.nodes if isinstance(node, VxplaneNode)]

    def check_conservation(self):
        for node in self.vxplane_nodes:
            node.check_conservation()

    def show_logs(self):
        self.lab.show_logs()


@contextlib.contextmanager
def in_lab(network, *arguments, **options):
    """`network(lab, ...)` in a lab of its own; when something is in its way, the nodes' logs are shown."""
    with Lab() as lab:
        try:
            yield network(lab, *arguments, **options)
        except BaseException:
            lab.show_logs()
            raise


class Pair(Network):
    """krypton (1) and xenon (2), of the given kinds, on one wire; guests 1 and 2 on krypton, 3 and 4 on xenon."""

    def __init__(self, lab, kinds, guests=True, tags=(None,) * 4, **options):
        self.lab, self.kinds = lab, kinds
        self.wire = Wire(lab)
        common = {key: value for key, value in options.items() if key not in ("krypton", "xenon")}
        ports = ["tap*i* driver=netdev"]
        self.krypton = make_node(kinds[0], lab, "krypton", 1, self.wire, remotes=[2],
                                 **{"ports": ports, **common, **options.get("krypton", {})})
        self.xenon = make_node(kinds[1], lab, "xenon", 2, self.wire, remotes=[1],
                               **{"ports": ports, **common, **options.get("xenon", {})})
        self.nodes = [self.krypton, self.xenon]
        self.guests = []
        if guests:
            self.guests = [Guest(lab, number, tag=tag) for number, tag in zip((1, 2, 3, 4), tags)]
            for guest in self.guests[:2]:
                guest.plug_veth(self.krypton, f"tap10{guest.number}i0")
            for guest in self.guests[2:]:
                guest.plug_veth(self.xenon, f"tap10{guest.number}i0")
        for node in self.nodes:
            node.wait_ready()
        for guest in self.guests:
            guest.node.wait_port(guest.port)


def pair(*kinds, **options):
    return in_lab(Pair, kinds, **options)
