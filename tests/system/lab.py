# SPDX-License-Identifier: Apache-2.0
"""Hosts for the system tests and the noble lab: namespaces, a wire that behaves as one, guests, and two
kinds of node with one interface: KernelNode (Linux vxlan + bridge, the oracle) and VxplaneNode.

Everything made is registered with a Lab and removed when it closes, in whatever way the script ends. Every wait is
bounded. Names carry the script's pid, so tests run side by side; remains of a killed script are swept at start.
Needs root, iproute2, ethtool, iputils-ping, clang (for the tag-pushing BPF program).
"""

import contextlib
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

from cases import Failed, Skip, eventually

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))
COMMAND_SECONDS = 20
OVERLAY_MTU = 1332
UNDERLAY_MTU = 1400
UNDERLAY_DEVICE = "enp35s0"
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def build_directory():
    """Where the binaries are: $VXPLANE_BUILD, else build/release of the repository."""
    return os.environ.get("VXPLANE_BUILD") or os.path.join(REPOSITORY, "build", "release")


def binary(name):
    path = os.path.join(build_directory(), name)
    if not os.access(path, os.X_OK):
        raise Failed(f"no {path}: build it first, or set VXPLANE_BUILD to the build directory")
    return path


def run(*command, check=True, seconds=COMMAND_SECONDS, **options):
    """Runs a command to its end; its CompletedProcess with text output."""
    options.setdefault("stdin", subprocess.DEVNULL)
    try:
        done = subprocess.run([str(word) for word in command], text=True, capture_output=True, timeout=seconds, **options)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(map(str, command))}: no end after {seconds} s") from None
    if check and done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def debian_package(folder):
    """The build's Debian package, made in `folder`; its path."""
    config = os.path.join(build_directory(), "CPackConfig.cmake")
    if not os.path.exists(config):
        raise Skip(f"no {config}: only CMake makes packages")
    run("cpack", "-G", "DEB", "--config", config, "-B", folder, seconds=300)
    paths = glob.glob(os.path.join(folder, "vxplane_*.deb"))
    if not paths:
        raise Failed(f"cpack made {os.listdir(folder)}")
    return paths[0]


class Namespace:
    """A network namespace by name. Made at once; `delete` ends what still runs in it."""

    def __init__(self, name, make=True):
        self.name = name
        if make:
            self.make()

    def make(self):
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        # Addresses are usable at once, and only what a test sends is on the wire.
        self.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
                 "net.ipv6.conf.default.router_solicitations=0", "net.ipv6.conf.default.accept_ra=0")

    def ip(self, *words, **options):
        return run("ip", "-n", self.name, *words, **options)

    def run(self, *command, **options):
        return run("ip", "netns", "exec", self.name, *command, **options)

    def popen(self, *command, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(["ip", "netns", "exec", self.name, *map(str, command)], text=True, **options)

    @contextlib.contextmanager
    def entered(self):
        """This thread is inside for the duration: sockets made here stay in the namespace."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.name}") as inside:
            _setns(inside)
            try:
                yield self
            finally:
                _setns(before)

    def pids(self):
        done = run("ip", "netns", "pids", self.name, check=False)
        return [int(word) for word in done.stdout.split()]

    def links(self):
        done = self.run("ip", "-json", "-details", "link", check=False)
        return {link["ifname"]: link for link in json.loads(done.stdout or "[]")}

    def delete(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 3
            pids = self.pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, number)
            while pids and self.pids() and time.monotonic() < deadline:
                time.sleep(0.02)
        run("ip", "netns", "del", self.name, check=False)


def _setns(file):
    if _libc.setns(file.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def wire_offloads_off(namespace, device):
    """What leaves `device` is what a physical wire would carry: whole checksums, one packet a frame, tags in the bytes."""
    namespace.run("ethtool", "-K", device, "rx", "off", "tx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off",
                  "rxvlan", "off", "txvlan", "off", check=False)


class Lab:
    """Owns what a script makes. Use as a context manager; `prefix` makes names unique (at most 5 characters are added to a name)."""

    def __init__(self, prefix=None):
        sweep()
        self.prefix = prefix if prefix is not None else f"vxt{os.getpid()}-"
        self.directory = f"/run/vxplane-test/{os.getpid()}-{next(_counter)}"
        os.makedirs(self.directory, mode=0o755)
        self.namespaces, self.nodes, self.closers = [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half of it behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for close in reversed(self.closers):
            with contextlib.suppress(Exception):
                close()
        for node in self.nodes:
            with contextlib.suppress(Exception):
                node.close()
        for namespace in reversed(self.namespaces):
            with contextlib.suppress(Exception):
                namespace.delete()
        shutil.rmtree(self.directory, ignore_errors=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))

    def namespace(self, name):
        namespace = Namespace(f"{self.prefix}{next(_counter)}{name}", make=False)
        self.namespaces.append(namespace)  # before it is there: a Ctrl-C meanwhile must not leave it
        namespace.make()
        return namespace

    def show_logs(self):
        for node in self.nodes:
            node.show_logs()


def _numbers():
    number = 0
    while True:
        number += 1
        yield number


_counter = _numbers()


def sweep():
    """Removes what killed test scripts left: namespaces and run directories whose pid is gone."""
    if os.path.isdir("/run/netns"):
        for name in os.listdir("/run/netns"):
            match = re.match(r"vxt(\d+)-", name)
            if match and not os.path.isdir(f"/proc/{match[1]}"):
                Namespace(name, make=False).delete()
    if os.path.isdir("/run/vxplane-test"):
        for name in os.listdir("/run/vxplane-test"):
            if not os.path.isdir(f"/proc/{name.split('-')[0]}"):
                shutil.rmtree(f"/run/vxplane-test/{name}", ignore_errors=True)


class Wire:
    """A switch in its own namespace, so that captures see what AF_XDP sends and receives (taps on the nodes do not)."""

    def __init__(self, lab, mtu=1500):
        self.lab, self.mtu, self.ports = lab, mtu, []
        self.namespace = lab.namespace("wire")
        self.namespace.ip("link", "add", "switch", "mtu", mtu, "type", "bridge", "mcast_snooping", "0")
        self.namespace.ip("link", "set", "switch", "up")

    def plug(self, namespace, device=UNDERLAY_DEVICE, queues=1, mtu=None):
        """A cable from `namespace`'s new `device` to this switch; the name of the switch's port."""
        port = f"w{len(self.ports)}"
        self.ports.append(port)
        self.namespace.ip("link", "add", port, "numrxqueues", queues, "numtxqueues", queues, "type", "veth",
                          "peer", "name", device, "numrxqueues", queues, "numtxqueues", queues, "netns", namespace.name)
        wire_offloads_off(self.namespace, port)
        wire_offloads_off(namespace, device)
        self.namespace.ip("link", "set", port, "mtu", self.mtu, "master", "switch", "up")
        namespace.ip("link", "set", device, "mtu", mtu or self.mtu, "up")
        return port

    def macs(self):
        """Source MACs the switch has learned: what a fabric with a limit per port would count."""
        done = self.namespace.run("bridge", "-json", "fdb", "show", "br", "switch")
        return {entry["mac"] for entry in json.loads(done.stdout) if entry.get("state") != "permanent"}


def nic_offloads(namespace, device):
    """A wire as above, met by a NIC as Linux has it: GRO, which is software, is on. (Without it the kernel's own vxlan is a third
    slower, and no UDP socket gets more than one datagram at a time.)"""
    wire_offloads_off(namespace, device)
    namespace.run("ethtool", "-K", device, "gro", "on", "sg", "on", check=False)


class Cable:
    """A wire without a switch between two nodes: nothing but the two of them takes part, which is what a benchmark needs."""

    def __init__(self, lab, mtu=1500):
        self.mtu, self.ports = mtu, []
        self.namespace = lab.namespace("cable")
        self.namespace.ip("link", "add", "c0", "type", "veth", "peer", "name", "c1")
        for port in ("c0", "c1"):
            nic_offloads(self.namespace, port)

    def plug(self, namespace, device=UNDERLAY_DEVICE, queues=1, mtu=None):
        """The next end becomes `namespace`'s `device`. One queue: a veth pair made in one piece has no other."""
        port = f"c{len(self.ports)}"
        self.ports.append(port)
        self.namespace.ip("link", "set", port, "netns", namespace.name, "name", device)
        namespace.ip("link", "set", device, "mtu", mtu or self.mtu, "up")
        return port


def _compiled(file_name, suffix, *command):
    """What `command` makes of a source of this folder; its path (kept under the build directory)."""
    folder = os.path.join(REPOSITORY, "build", "system")
    os.makedirs(folder, exist_ok=True)
    source = os.path.join(HERE, file_name)
    with open(source, "rb") as file:
        digest = hashlib.sha256(file.read() + repr(command).encode()).hexdigest()[:12]
    target = os.path.join(folder, f"{file_name.split('.')[0]}-{digest}{suffix}")
    if not os.path.exists(target):
        part = f"{target}.{os.getpid()}"
        run(*command, source, "-o", part, seconds=60)
        os.rename(part, target)
    return target


def compile_bpf(name, *defines):
    """NAME.bpf.c of this folder; the object's path."""
    return _compiled(f"{name}.bpf.c", ".o", "clang", "-O2", "-target", "bpf", f"-I/usr/include/{os.uname().machine}-linux-gnu", *defines, "-c")


def compile_c(name):
    """NAME.c of this folder; the program's path."""
    return _compiled(f"{name}.c", "", "cc", "-O2", "-Wall", "-Wextra", "-Werror")


def tag_edge(namespace, device, vlan, pcp=0, pass_others=False):
    """Makes `device` an 802.1Q access to `vlan`, as a VLAN device would be (this kernel may have none)."""
    edge = compile_bpf("vlan_edge", f"-DTCI={vlan | pcp << 13}", f"-DPASS_OTHERS={int(pass_others)}")
    namespace.run("tc", "qdisc", "replace", "dev", device, "clsact")
    for way, section in (("egress", "push"), ("ingress", "pop")):
        namespace.run("tc", "filter", "replace", "dev", device, way, "prio", "1", "handle", "1", "bpf", "da", "obj", edge,
                      "sec", section)


TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000


def open_tap(namespace, name, offloads=False):
    """A tap made in `namespace`; its descriptor, to be handed to qemu. It goes with the descriptor. `offloads`: with the
    virtio-net header, so that qemu lets its guest leave segmentation and checksums to the tap; else whole frames only."""
    with namespace.entered():
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if offloads else 0)))
    return descriptor


def core_of(number):
    """The CPU on which node `number` (1, 2, ...) polls: each on one of its own, as on a machine of its own. Two dataplanes on one
    take turns of milliseconds, and the wire overflows."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-number % len(cores)]


class Guest:
    """A VM's stand-in: its own namespace with eth0. Its port on the node is the other end of a veth, or a tap that
    the dataplane owns and whose netdev is moved in here.

    `tag`: everything it sends carries this VLAN tag (pcp likewise). `number` n gives 10.0.0.n, fd00::n, MAC 52:54:00:00:00:n.
    `offloads`: its devices stay as Linux makes them (TSO, GSO, checksums left to the device); else all of it is off.
    """

    def __init__(self, lab, number, tag=None, pcp=0, queues=1, mtu=OVERLAY_MTU, subnet=0, offloads=False):
        self.offloads = offloads
        self.lab, self.number, self.tag, self.pcp, self.queues, self.mtu = lab, number, tag, pcp, queues, mtu
        self.mac = f"52:54:00:00:{subnet:02x}:{number:02x}"
        self.ipv4, self.ipv6 = f"10.0.{subnet}.{number}", f"fd00:{subnet + 1:x}::{number:x}"
        self.namespace = lab.namespace(f"g{number}")
        self.node = self.port = None

    def plug_veth(self, node, port):
        """(Re)moves the guest's cable to `node`, where its end is called `port`."""
        self.unplug()
        queues = ["numrxqueues", self.queues, "numtxqueues", self.queues]
        node.namespace.ip("link", "add", port, *queues, "type", "veth", "peer", "name", "eth0", *queues, "netns", self.namespace.name)
        if not self.offloads:
            wire_offloads_off(node.namespace, port)
        # The port's netdev is as Proxmox makes it: no addresses of the host, the bridge's MTU and room for a tag.
        node.namespace.run("sysctl", "-qw", f"net.ipv6.conf.{port}.disable_ipv6=1")
        node.namespace.ip("link", "set", port, "mtu", 1500, "up")
        self.node, self.port = node, port
        self.dress()
        node.adopt(port)

    def plug_held(self, node, port):
        """A VM's network: `port` is a tap that another process holds and gives to the guest (held_tap.py)."""
        self.unplug()
        words = [] if self.offloads else ["no-offloads"]
        holder = subprocess.Popen([os.path.join(HERE, "held_tap.py"), node.namespace.name, port, self.namespace.name, "eth0", *words],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lab.closers.append(lambda: (holder.stdin.close(), holder.wait(5)))
        if holder.stdout.readline() != "ready\n":
            raise Failed(f"held_tap.py for {port} did not start")
        node.namespace.run("sysctl", "-qw", f"net.ipv6.conf.{port}.disable_ipv6=1")
        node.namespace.ip("link", "set", port, "mtu", 1500, "up")
        self.node, self.port = node, port
        self.dress()
        node.adopt(port)

    def take_tap(self, node, port, seconds=10):
        """Fetches the tap `port` that the dataplane of `node` made."""
        eventually(lambda: port in node.namespace.links(), seconds, f"no tap {port} on {node.name}")
        self.unplug()
        node.namespace.ip("link", "set", port, "netns", self.namespace.name, "name", "eth0")
        self.node, self.port = node, port
        self.dress()

    def dress(self):
        device = self.namespace
        if not self.offloads:
            wire_offloads_off(device, "eth0")
        device.ip("link", "set", "eth0", "address", self.mac, "mtu", self.mtu, "up")
        device.ip("addr", "add", f"{self.ipv4}/24", "dev", "eth0")
        device.ip("addr", "add", f"{self.ipv6}/64", "dev", "eth0", "nodad")
        if self.tag is not None:
            tag_edge(device, "eth0", self.tag, self.pcp)

    def unplug(self):
        """Pulls the cable: both its ends go."""
        self.namespace.ip("link", "del", "eth0", check=False)
        self.node = self.port = None

    def ping(self, target, count=2, size=None, dont_fragment=True, seconds=2, interval=0.05, check=True):
        """Pings another guest (its IPv4) or an address; True if at least one answer came. `size`: IP packet bytes."""
        address = target.ipv4 if isinstance(target, Guest) else target
        command = ["ping", "-n", "-q", "-c", count, "-i", interval, "-W", seconds]
        if size is not None:
            command += ["-s", size - (48 if ":" in address else 28)]
        command += ["-M", "do" if dont_fragment else "dont", address]
        done = self.namespace.run(*command, check=False, seconds=60)
        if done.returncode and (check or "ping: invalid" in done.stderr):
            raise Failed(f"guest {self.number} ({self.ipv4}) cannot reach {address}: {done.stdout.strip()} {done.stderr.strip()}")
        return done.returncode == 0

    def wait_ping(self, target, seconds=15):
        eventually(lambda: self.ping(target, count=1, seconds=0.5, check=False), seconds,
                   f"guest {self.number} does not reach {getattr(target, 'ipv4', target)}")

    def forget_paths(self):
        """What its kernel has learned of path MTUs from packet-too-big messages."""
        for family in ("-4", "-6"):
            self.namespace.run("ip", family, "route", "flush", "cache", check=False)

    def forget_neighbours(self):
        self.namespace.ip("neigh", "flush", "all", check=False)

    def announce(self):
        """One gratuitous ARP request, as a VM's hypervisor sends it after live migration."""
        import frames
        frames.send(self, frames.gratuitous_arp(self.mac, self.ipv4, self.tag, self.pcp))
