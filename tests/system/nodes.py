# SPDX-License-Identifier: Apache-2.0
"""The kinds of node of the system tests, with one interface.

A node has `namespace`, `number` (n: underlay 172.18.1.n and fd18::n, host address 192.0.2.n on the same NIC), `adopt(port)`
(a guest's netdev joins the bridge), `fdb()` (what it knows, in the form of `bridge -j fdb`), `show_logs()`.
"""

import contextlib
import json
import socket
import time

from cases import Failed, eventually
from instance import Instance
from lab import OVERLAY_MTU, UNDERLAY_DEVICE, UNDERLAY_MTU, Guest, Lab, Wire, core_of, tag_edge

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

    def show_logs(self):
        for words in (("-s", "neigh"), ("-s", "link")):
            for line in self.namespace.ip(*words, check=False).stdout.splitlines():
                print(f"     {self.name} ip {words[1]}: {line.strip()}")

    def __init__(self, lab, name, number, wire, remotes=(), csum=True, **options):
        super().__init__(lab, name, number, wire, **options)
        ns = self.namespace
        ns.ip("link", "set", UNDERLAY_DEVICE, "mtu", self.underlay_mtu)
        if self.vlan:
            tag_edge(ns, UNDERLAY_DEVICE, self.vlan)
        self.address(host=not self.vlan)
        self.remotes, self.csum = remotes, csum
        self.make_bridge()
        self.make_tunnel()

    def make_bridge(self):
        ns = self.namespace
        ns.ip("link", "add", "mainvx", "mtu", OVERLAY_MTU, "type", "bridge", "ageing_time", self.ageing * 100, "mcast_snooping", "0")
        ns.run("sysctl", "-qw", "net.ipv6.conf.mainvx.disable_ipv6=1")
        ns.ip("link", "set", "mainvx", "up")

    def make_tunnel(self):
        """The vxlan device, as a port of the bridge, with its remotes."""
        self.add_vxlan("vxlan_mainvx", self.vni, csum=self.csum)
        self.namespace.ip("link", "set", "vxlan_mainvx", "mtu", OVERLAY_MTU, "master", "mainvx", "up")
        self.namespace.ip("link", "set", "mainvx", "mtu", OVERLAY_MTU)
        for remote in self.remotes:
            self.add_remote(self.vtep_of(remote))

    def add_vxlan(self, name, vni, csum=True):
        words = ["udpcsum" if csum else "noudpcsum"] if self.family == 4 else []
        self.namespace.ip("link", "add", name, "type", "vxlan", "id", vni, "local", self.vtep, "dstport", 4789, "dev", UNDERLAY_DEVICE,
                          "ttl", 64, "ageing", self.ageing, *words)

    def add_remote(self, address, device="vxlan_mainvx"):
        self.namespace.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", device, "dst", address)

    def adopt(self, port):
        self.namespace.ip("link", "set", port, "master", "mainvx")

    def kernel_fdb(self, mac=None):
        """What `bridge fdb show` knows, of one MAC or all, permanent entries left out."""
        done = self.namespace.run("bridge", "-json", "-statistics", "fdb", "show")
        return [entry for entry in json.loads(done.stdout or "[]") if entry.get("state") != "permanent" and mac in (None, entry["mac"])]

    def fdb(self):
        return self.kernel_fdb()

    def kernel_place(self, mac):
        """Where the kernel thinks a MAC is: ("port", NAME), ("vtep", ADDRESS) or None."""
        entries = self.kernel_fdb(mac)
        # The bridge decides the port; the vxlan's own table, which may lag, the VTEP behind it.
        for entry in entries:
            if entry.get("master") == "mainvx" and "dst" not in entry:
                if entry["ifname"] != "vxlan_mainvx":
                    return ("port", entry["ifname"])
                return next((("vtep", other["dst"]) for other in entries if "dst" in other), None)
        return None

    def place_of(self, guest):
        """Where this node thinks the guest is, in the same words."""
        return self.kernel_place(guest.mac)

    def wait_ready(self):
        pass

    def wait_port(self, name, state="up", seconds=10):
        pass


class VxplaneNode(Instance, Node):
    """A host with vxplane-dataplane and vxplane-control. `settings`: {section: {key: value or [values]}} over the defaults
    below; `ports`: lines of [port]. `xdp_device`: the NIC is the kernel's too (vtep-address = kernel) unless `own`."""

    def __init__(self, lab, name, number, wire, remotes=(), own=False, ports=(), settings=None, dataplane_flags=(), start=True, **options):
        super().__init__(lab, name, number, wire, **options)
        self.remotes, self.own, self.ports, self.settings = remotes, own, list(ports), settings or {}
        self.prepare_instance(dataplane_flags)
        self.address(vtep=not own)
        self.extra_configs = []
        self.write_config()
        if start:
            self.start()

    # ---- configuration ----

    def config_path(self, name="vxplane.conf"):
        return f"{self.run_dir}/{name}"

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
        path = path or self.config_path()
        write_ini(path, sections or self.effective_settings(), self.ports if ports is None else ports)
        return path

    def adopt(self, port):
        """A guest's netdev appeared; a configured [port] takes it, any other is added here by vxctl."""
        import fnmatch
        if any(fnmatch.fnmatchcase(port, line.split()[0]) for line in self.ports):
            return
        if self.control is not None:
            self.ctl("port", "add", port, "driver=netdev")

    def control_flags(self):
        return [word for path in [self.config_path(), *self.extra_configs] for word in ("--config", path)]


# As the service unit would have it on a machine that does more than its CPUs can: a dataplane that gets its turn late looks dead to the
# BPF programs. The scheduler groups by session here, and niceness counts within a group only.
FAVOURED = ["setsid", "sh", "-c", 'echo -20 > /proc/self/autogroup; exec nice -n -10 "$0" "$@"']


class TakeoverNode(Instance, KernelNode):
    """A kernel node whose bridge vxplane takes over: nothing is told to vxplane but the bridge's name. `settings`: a configuration
    file's sections beside `[bridge] takeover = mainvx`; without them there is no file."""

    def __init__(self, lab, name, number, wire, settings=None, dataplane_flags=(), start=True, **options):
        super().__init__(lab, name, number, wire, **options)
        self.prepare_instance(dataplane_flags or ["--lcores", core_of(number)])
        self.launcher = {"vxplane-dataplane": FAVOURED}
        self.settings = settings
        if start:
            self.start()

    def control_flags(self):
        if not self.settings:
            return ["--takeover", "mainvx"]
        path = f"{self.run_dir}/vxplane.conf"
        write_ini(path, {"bridge": {"takeover": "mainvx"}, **self.settings})
        return ["--config", path]

    def runs(self):
        return self.control is not None and self.dataplane is not None

    def wait_ready(self, seconds=20, armed=True):
        """With `armed`: and vxplane forwards, not the kernel."""
        if not self.runs():
            return
        super().wait_ready(seconds)
        if armed:
            eventually(lambda: self.json("bypass")["forwards"] == "vxplane", seconds, lambda: f"{self.name}: {self.ctl('bypass').strip()}", 0.02)

    def wait_port(self, name, state="up", seconds=10):
        if self.runs():
            super().wait_port(name, state, seconds)

    def check_conservation(self):
        if self.runs():
            super().check_conservation()


def write_ini(path, sections, ports=()):
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            lines += [f"{key} = {item}" for item in (value if isinstance(value, (list, tuple)) else [value])]
    if ports:
        lines.append("[port]")
        lines += [f"port = {line}" for line in ports]
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


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
        for key in ("own", "ports", "settings", "dataplane_flags", "start"):
            options.pop(key, None)
        return KernelNode(*arguments, **options)
    if kind == "takeover":
        for key in ("own", "ports"):
            options.pop(key, None)
        return TakeoverNode(*arguments, **options)
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
        return [node for node in self.nodes if isinstance(node, Instance)]

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

    def __init__(self, lab, kinds, guests=True, tags=(None,) * 4, offloads=False, queues=1, **options):
        self.lab, self.kinds = lab, kinds
        self.wire = Wire(lab)
        options["queues"] = queues
        common = {key: value for key, value in options.items() if key not in ("krypton", "xenon")}
        ports = ["tap*i* driver=netdev"]
        self.krypton = make_node(kinds[0], lab, "krypton", 1, self.wire, remotes=[2],
                                 **{"ports": ports, **common, **options.get("krypton", {})})
        self.xenon = make_node(kinds[1], lab, "xenon", 2, self.wire, remotes=[1],
                               **{"ports": ports, **common, **options.get("xenon", {})})
        self.nodes = [self.krypton, self.xenon]
        self.guests = []
        if guests:
            self.guests = [Guest(lab, number, tag=tag, offloads=offloads, queues=queues) for number, tag in zip((1, 2, 3, 4), tags)]
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
