# SPDX-License-Identifier: Apache-2.0
"""The wire that every contender gets: one guest's port, one NIC, and the generator at the far ends of both.

    gen:g0 <-- veth or tap --> guest's port [contender] NIC <-- veth --> gen:u0

g0 stands for a guest (10.0.0.x), u0 for the other VTEP (172.18.1.2): what goes in at one end comes out at the other, in VXLAN or
out of it. The contender's worker has one CPU, the generator another; interrupts of a veth run where its sender runs, for all alike.
"""

import contextlib
import signal

from cases import Failed, eventually
from compare_lib.contenders import cores_of, make_any
from lab import UNDERLAY_DEVICE, Cable, Lab, nic_offloads, wire_offloads_off

PORT = "tap101i0"
GENERATOR_MAC = "02:00:00:35:00:02"
GUEST_MAC = "52:54:00:00:00:01"
VNI = 1000


class Contender:
    """`kind`: as make_any() knows it; `underlay`: of a vxplane's; `guest`: what the guest's port is. `main`: in every table; the
    others only where cells have room for all (`wide`) or with --full."""

    def __init__(self, key, title, kind, underlay=None, guest=None, rank="main", poll="adaptive", rps=False):
        self.key, self.title, self.kind, self.underlay, self.guest, self.rank, self.poll, self.rps = key, title, kind, underlay, guest, rank, poll, rps

    @property
    def is_vxplane(self):
        return self.kind == "vxplane"


CONTENDERS = [
    Contender("bare", "bare: testpmd io, net_af_xdp", "bare"),
    Contender("kernel", "kernel: vxlan + bridge", "kernel", rps=True),
    Contender("ovs", "OVS-DPDK, net_af_xdp", "ovs:net_af_xdp"),
    Contender("vx-dpdk", "vxplane af_xdp, guest dpdk:net_af_xdp", "vxplane", "af_xdp", "dpdk"),
    Contender("vx-netdev", "vxplane af_xdp, guest netdev", "vxplane", "af_xdp", "netdev"),
    Contender("vx-tap", "vxplane af_xdp, guest tap", "vxplane", "af_xdp", "tap", "wide"),
    Contender("vx-udp", "vxplane udp, guest netdev", "vxplane", "udp", "netdev", "wide"),
    Contender("vx-udp-tap", "vxplane udp, guest tap", "vxplane", "udp", "tap", "full"),
    Contender("vx-busy", "vxplane af_xdp, guest netdev, poll = busy", "vxplane", "af_xdp", "netdev", "idle", "busy"),
    Contender("kernel-1cpu", "kernel, all of it on the sender's CPU", "kernel", rank="full"),
    Contender("ovs-afxdp", "OVS-DPDK, its own afxdp", "ovs:afxdp", rank="full"),
    Contender("ovs-packet", "OVS-DPDK, net_af_packet", "ovs:net_af_packet", rank="full"),
]
BY_KEY = {contender.key: contender for contender in CONTENDERS}


class Bed:
    """One contender on its wire. Paused after it was made: `running()` lets it run."""

    def __init__(self, contender):
        self.contender = contender
        self.lab = Lab()
        self.lab.__enter__()
        try:
            self._make()
            self.pause()
        except BaseException:
            self.close()
            raise

    def _make(self):
        contender, lab = self.contender, self.lab
        worker, _ = cores_of(1)
        cable = Cable(lab)
        settings = {"underlay": {"driver": contender.underlay}, "dataplane": {"poll": contender.poll, "lcores": worker},
                    "bridge": {"fdb-max-learned": 400000}} if contender.is_vxplane else {}
        line = {"netdev": f"{PORT} driver=netdev", "tap": f"{PORT} driver=tap", "dpdk": f"{PORT} driver=dpdk:net_af_xdp7,iface={PORT}"}.get(contender.guest)
        self.generator = lab.namespace("gen")
        # The guest's cable first: a DPDK port has to be there when its driver opens it.
        make = {"start": False} if contender.is_vxplane else {}
        self.node = make_any(contender.kind, lab, "dut", 1, cable, remotes=[2], settings=settings, ports=[line] if line else [], dataplane_flags=["--no-huge"], **make)
        self.node_mac = self.node.mac()
        self._plug_underlay(cable)
        if contender.guest != "tap":
            self._plug_guest()
        if contender.is_vxplane:
            self.node.start()
        self.node.wait_ready()
        if contender.guest == "tap":
            self._take_tap()
        elif not contender.is_vxplane:
            self.node.adopt(PORT)
        self.node.wait_port(PORT)
        self._know_far_vtep()
        if contender.rps:
            self._steer_to(worker)

    def _plug_underlay(self, cable):
        cable.plug(self.generator, device="u0")
        self.generator.ip("link", "set", "u0", "address", GENERATOR_MAC)
        wire_offloads_off(self.generator, "u0")
        if hasattr(self.node, "neighbour"):
            return
        self.node.namespace.ip("neigh", "replace", self.node.vtep_of(2), "lladdr", GENERATOR_MAC, "dev", UNDERLAY_DEVICE, "nud", "permanent")

    def _plug_guest(self):
        node = self.node.namespace
        node.ip("link", "add", PORT, "type", "veth", "peer", "name", "g0", "netns", self.generator.name)
        nic_offloads(node, PORT)  # a NIC as Linux has it; the generator's frames need the veth's NAPI, which GRO turns on
        node.run("sysctl", "-qw", f"net.ipv6.conf.{PORT}.disable_ipv6=1")
        node.ip("link", "set", PORT, "mtu", 1500, "up")
        self._dress_guest()

    def _take_tap(self):
        node = self.node.namespace
        eventually(lambda: PORT in node.links(), 10, f"no tap {PORT}")
        node.ip("link", "set", PORT, "netns", self.generator.name, "name", "g0")
        self._dress_guest()

    def _dress_guest(self):
        wire_offloads_off(self.generator, "g0")
        self.generator.run("sysctl", "-qw", "net.ipv6.conf.g0.disable_ipv6=1", "net.ipv6.conf.u0.disable_ipv6=1")
        self.generator.ip("link", "set", "g0", "address", GUEST_MAC, "mtu", 1332 + 4, "up")

    def _know_far_vtep(self):
        """Nobody answers ARP at u0: the generator is not a host."""
        if hasattr(self.node, "neighbour"):
            self.node.neighbour(self.node.vtep_of(2), GENERATOR_MAC)
        if self.contender.is_vxplane:
            eventually(lambda: all(row["state"] == "reachable" for row in self.node.json("vtep")), 10, lambda: f"the VTEP is not reachable: {self.node.json('vtep')}")

    def _steer_to(self, cpu):
        """The kernel's forwarding on the worker's CPU, as the others' is: by RPS, not by the sender's own softirq."""
        mask = f"{1 << cpu:x}"
        for device in (PORT, UNDERLAY_DEVICE):
            self.node.namespace.run("sh", "-c", f"echo {mask} > /sys/class/net/{device}/queues/rx-0/rps_cpus")

    @property
    def outer(self):
        """Of a frame from the far VTEP: VNI, addresses, MACs, as the generator takes it."""
        return f"{VNI},{self.node.vtep_of(2)},{self.node.vtep},{GENERATOR_MAC},{self.node_mac}"

    def end(self, name):
        return f"{self.generator.name}:{name}"

    def outer_words(self, way):
        """What tells the generator which end speaks VXLAN. Through `bare` nothing does."""
        if self.contender.kind == "bare":
            return []
        return ["--outer-at-sink" if way == "encap" else "--outer", self.outer]

    # ---- pausing ----

    def _signal(self, number):
        for process in self.node.processes() if hasattr(self.node, "processes") else []:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def pause(self):
        self._signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def running(self):
        self._signal(signal.SIGCONT)
        try:
            yield self
        finally:
            self.pause()

    # ---- what it knows ----

    def count_macs(self):
        """MACs learned."""
        if self.contender.is_vxplane:
            return self.node.json("fdb", "count")["current"]
        if hasattr(self.node, "count_macs"):
            return self.node.count_macs()
        if self.contender.kind == "kernel":
            done = self.node.namespace.run("bridge", "fdb", "show", "br", "mainvx", "dynamic")
            return sum(1 for line in done.stdout.splitlines() if " master " in line)
        raise Failed("it has no FDB")

    def flush(self):
        """Forgets what it learned."""
        if self.contender.is_vxplane:
            self.node.ctl("fdb", "flush")
        elif hasattr(self.node, "appctl"):
            self.node.appctl("fdb/flush", "br-int")
        elif self.contender.kind == "kernel":
            self.node.namespace.ip("link", "set", "mainvx", "type", "bridge", "fdb_flush")

    def close(self):
        with contextlib.suppress(AttributeError):
            self._signal(signal.SIGCONT)
        self.lab.__exit__(None, None, None)


class AloneBed:
    """The generator's own cost: its frames cross one veth to nobody. What they cost here is not the contender's."""

    def __init__(self):
        self.lab = Lab()
        self.lab.__enter__()
        try:
            self.generator = self.lab.namespace("alone")
            self.generator.ip("link", "add", "g0", "type", "veth", "peer", "name", "u0")
            for device in ("g0", "u0"):
                wire_offloads_off(self.generator, device)
                self.generator.run("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")
                self.generator.ip("link", "set", device, "up")
        except BaseException:
            self.close()
            raise

    def end(self, name):
        return f"{self.generator.name}:{name}"

    def outer_words(self, way):
        return []

    def close(self):
        self.lab.__exit__(None, None, None)
