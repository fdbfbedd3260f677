# SPDX-License-Identifier: Apache-2.0
"""The network of vm_takeover_test: xenon of the design's section 1 as a Debian in qemu, set up by ifupdown2 from the two files in
config/noble/xenon, and around it, in namespaces: krypton and a third node (kernel vxlan, the underlay in VLAN 4003), an operator on the
NIC's untagged address, a replica in VLAN 4001."""

import contextlib
import os
import re
import socket
import subprocess
import threading
import time

from cases import Failed, check, eventually
from debian_vm import DebianMachine, dependencies
from lab import OVERLAY_MTU, REPOSITORY, Guest, Wire, compile_c, tag_edge
from nodes import KernelNode
from vm import from_file, plug_wire

FILES = os.path.join(REPOSITORY, "config", "noble", "xenon")
HOST = """auto enp35s0
iface enp35s0 inet static
        address 192.0.2.1/24

auto enp35s0.4001
iface enp35s0.4001 inet static
        address 10.40.1.1/24
"""
ECHO_SOCKET = "[Socket]\nListenStream=2222\nAccept=yes\nMaxConnections=256\n"
ECHO_SERVICE = "[Service]\nExecStart=/bin/cat\nStandardInput=socket\nStandardError=null\n"
# Sends back what it gets.
MIRROR = """import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as peer:
    while part := peer.recv(1 << 16):
        peer.sendall(part)
"""
SDN = "/etc/network/interfaces.d/sdn"
UNITS = "/etc/systemd/system"


def _file(*path):
    with open(os.path.join(FILES, *path), "rb") as file:
        return file.read()


def seed_of(package):
    # The repository's `source` line is relative, so that it is valid wherever it lies; ifupdown2 takes it from /.
    interfaces = _file("interfaces").replace(b"source interfaces.d/", b"source /etc/network/interfaces.d/")
    with open(package, "rb") as file:
        deb = file.read()
    return {"/etc/network/interfaces": interfaces, SDN: _file("interfaces.d", "sdn"), "/etc/network/interfaces.d/host": HOST.encode(),
            "/root/vxplane.deb": deb, "/root/tap_pair": from_file(compile_c("tap_pair"), 0o755), "/root/mirror.py": MIRROR.encode(),
            f"{UNITS}/echo.socket": ECHO_SOCKET.encode(), f"{UNITS}/echo@.service": ECHO_SERVICE.encode()}


class VmGuest:
    """A guest on the VM: a namespace in it, whose veth is enslaved and gets its VLANs as Proxmox's tap_plug does it. `vlan`: the tag
    of its port; None: a trunk with PVID 1. `own_tag`: the guest sends this tag itself."""

    def __init__(self, vm, number, vlan=None, own_tag=None):
        self.vm, self.number, self.vlan, self.own_tag = vm, number, vlan, own_tag
        self.name, self.port = f"g{number}", f"fwpr{number}p0"
        self.mac = f"52:54:00:00:00:{number:02x}"
        self.ipv4, self.ipv6 = f"10.0.0.{number}", f"fd00:1::{number:x}"

    def make(self):
        inside, device = f"ip -n {self.name}", "eth0" if self.own_tag is None else f"eth0.{self.own_tag}"
        self.vm.script(
            f"ip netns add {self.name}",
            f"ip link add {self.port} type veth peer name eth0 netns {self.name}",
            f"sysctl -qw net.ipv6.conf.{self.port}.disable_ipv6=1",
            f"{inside} link set lo up",
            f"{inside} link set eth0 address {self.mac} mtu {OVERLAY_MTU} up",
            *([] if self.own_tag is None else [f"{inside} link add link eth0 name {device} type vlan id {self.own_tag}", f"{inside} link set {device} up"]),
            f"{inside} addr add {self.ipv4}/24 dev {device}",
            f"{inside} addr add {self.ipv6}/64 dev {device} nodad",
            f"ip link set {self.port} mtu 1500 up")
        self.plug()

    def plug(self):
        self.vm.script(f"ip link set {self.port} up master mainvx", *vlans_of(self.port, self.vlan))

    def run(self, command, **options):
        return self.vm.run(f"ip netns exec {self.name} {command}", **options)


def vlans_of(port, vlan):
    """What Proxmox's tap_plug does."""
    wanted = [f"bridge vlan add dev {port} vid 2-4094"] if vlan is None else []
    return [f"bridge vlan del dev {port} vid 1-4094", *wanted, f"bridge vlan add dev {port} vid {vlan or 1} pvid untagged"]


class Machine(DebianMachine):
    def script(self, *commands):
        """All of them, or the first one that fails."""
        return self.run(" && ".join(commands))

    def pings(self, words):
        """`words`: {key: (guest, ping's words)}, all at once; the keys of those that got no answer."""
        lines = [f"(ip netns exec {guest.name} ping -n -q {rest} >/dev/null 2>&1; echo \"{number} $?\") &"
                 for number, (guest, rest) in enumerate(words.values())]
        codes = dict(line.split() for line in self.run(f"({' '.join(lines)} wait)").splitlines() if re.fullmatch(r"\d+ \d+", line))
        keys = list(words)
        check(len(codes) == len(keys), lambda: f"{len(keys)} pings in the VM, {len(codes)} ended")
        return [keys[int(number)] for number, code in codes.items() if code != "0"]


class Talk:
    """A TCP session such as an operator's SSH: a byte there and back every 20 ms, from `namespace` to the VM's echo server."""

    def __init__(self, namespace, address):
        with namespace.entered():
            self.socket = socket.create_connection((address, 2222), timeout=20)
        self.socket.settimeout(0.1)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.times, self.is_running, self.failure = [time.monotonic()], True, None
        self.thread = threading.Thread(target=self._talk, daemon=True)
        self.thread.start()

    def _talk(self):
        try:
            while self.is_running:
                self.socket.send(b"x")
                while self.is_running:
                    with contextlib.suppress(socket.timeout):
                        if not self.socket.recv(1):
                            raise OSError("closed by the VM")
                        self.times.append(time.monotonic())
                        break
                time.sleep(0.02)
        except OSError as error:
            self.failure = error

    def longest_silence(self, since=0.0):
        """In seconds. Fails if the session has ended."""
        check(self.failure is None, lambda: f"a TCP session to the host ended: {self.failure}")
        times = [when for when in self.times if when >= since]
        times = [since or self.times[0], *times, time.monotonic()]
        return max(after - before for before, after in zip(times, times[1:]))

    def close(self):
        self.is_running = False
        self.thread.join(2)
        self.socket.close()


class PingStream:
    """Pings every 10 ms from an outside guest to a guest in the VM, from construction to `stop()`."""

    def __init__(self, guest, target, interval=0.01):
        self.interval = interval
        self.process = guest.namespace.popen("ping", "-n", "-D", "-i", interval, "-W", 2, target.ipv4, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines, self.marks = [], []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def mark(self, name):
        """What is sent from now on belongs to the step `name`."""
        self.marks.append((name, self._sent()))

    def _sent(self):
        """The number of the last one that was answered, about."""
        for line in reversed(self.lines[-200:]):
            if match := re.search(r"icmp_seq=(\d+)", line):
                return int(match[1]) + 1
        return 1

    def stop(self):
        """[(step, sent, lost, copies, longest time without an answer in ms)]"""
        time.sleep(1)
        self.process.send_signal(2)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("ping did not end") from None
        self.thread.join(5)
        answered, copies = set(), []
        for line in self.lines:
            if match := re.search(r"icmp_seq=(\d+) ttl=.*?(DUP!)?$", line.strip()):
                (copies.append if match[2] else answered.add)(int(match[1]))
        last, rows = max(answered, default=1), []
        self.answered = answered
        for (name, first), (_, end) in zip(self.marks, [*self.marks[1:], ("", last + 1)]):
            lost = [number for number in range(first, end) if number not in answered]
            run = longest = 0
            for number in range(first, end):
                run = 0 if number in answered else run + 1
                longest = max(longest, run)
            rows.append((name, end - first, len(lost), sum(first <= number < end for number in copies), longest * self.interval * 1000))
        return rows


class VmNetwork:
    """xenon, the VM: guests 1 (untagged), 11 (its port in VLAN 100), 21 (tags 200 itself). krypton: 2, 12, 22 likewise. Third: 3."""

    def __init__(self, lab, package):
        self.lab, self.wire = lab, Wire(lab)
        self.krypton = KernelNode(lab, "krypton", 2, self.wire, remotes=[1, 3], vlan=4003)
        self.third = KernelNode(lab, "third", 3, self.wire, remotes=[1, 2], vlan=4003)
        self.outside = {number: Guest(lab, number, tag=tag) for number, tag in ((2, None), (12, 100), (22, 200), (3, None))}
        for number, guest in self.outside.items():
            guest.plug_veth(self.third if number == 3 else self.krypton, f"tap1{number:02}i0")
        self.operator = self.host("operator", "192.0.2.9/24")
        self.replica = self.host("replica", "10.40.1.9/24", vlan=4001)
        descriptor = plug_wire(self.wire)
        self.vm = Machine(lab, [descriptor], packages=dependencies(package), seed=seed_of(package), name="xenon")
        os.close(descriptor)
        self.vm.run("systemctl start echo.socket")
        self.inside = {1: VmGuest(self.vm, 1), 11: VmGuest(self.vm, 11, vlan=100), 21: VmGuest(self.vm, 21, own_tag=200)}
        self.pairs = [(self.inside[number], self.outside[number + 1]) for number in self.inside]
        self.talks = []

    def host(self, name, address, vlan=None):
        namespace = self.lab.namespace(name)
        self.wire.plug(namespace)
        if vlan:
            tag_edge(namespace, "enp35s0", vlan)
        namespace.ip("addr", "add", address, "dev", "enp35s0")
        return namespace

    def plug_guests(self):
        """After ifupdown2, as Proxmox starts guests after it. Debian 12's leaves vxlan_mainvx without VIDs 2-4094; Proxmox's does not."""
        self.give_tunnel_vlans()
        for guest in self.inside.values():
            guest.make()

    def make_second_tunnel(self):
        """`vxlan200`, VNI 2000, in mainvx: VLAN 200's from now on. krypton's kernel has no VLAN filtering: there VNI 2000 has a bridge of
        its own, whose frames are untagged, with guest 32."""
        outside = self.krypton.namespace
        self.krypton.add_vxlan("vxlan200", 2000)
        outside.ip("link", "add", "br200", "mtu", OVERLAY_MTU, "type", "bridge", "mcast_snooping", "0")
        outside.run("sysctl", "-qw", "net.ipv6.conf.br200.disable_ipv6=1")
        outside.ip("link", "set", "br200", "up")
        outside.ip("link", "set", "vxlan200", "mtu", OVERLAY_MTU, "master", "br200", "up")
        self.krypton.add_remote(self.krypton.vtep_of(1), "vxlan200")
        far = Guest(self.lab, 32)
        far.plug_veth(self.krypton, "tap132i0")
        outside.ip("link", "set", "tap132i0", "master", "br200")
        self.vm.script("bridge vlan del dev vxlan_mainvx vid 200",
                       f"ip link add vxlan200 type vxlan id 2000 local {self.krypton.vtep_of(1)} dstport 4789",
                       f"ip link set vxlan200 mtu {OVERLAY_MTU} master mainvx up",
                       "bridge vlan del dev vxlan200 vid 1", "bridge vlan add dev vxlan200 vid 200 pvid untagged",
                       f"bridge fdb append 00:00:00:00:00:00 dev vxlan200 dst {self.krypton.vtep}")
        return far

    def remove_second_tunnel(self):
        self.vm.script("ip link del vxlan200", "bridge vlan add dev vxlan_mainvx vid 200")

    def give_tunnel_vlans(self):
        self.vm.run("bridge vlan add dev vxlan_mainvx vid 2-4094")

    def start_talks(self):
        self.talks = [Talk(self.operator, "192.0.2.1"), Talk(self.replica, "10.40.1.1")]
        self.lab.closers += [talk.close for talk in self.talks]

    def vxctl(self, words, **options):
        return self.vm.run(f"vxctl {words}", **options)

    def json(self, words):
        return self.vm.json(f"vxctl -j {words}")

    def within(self, probe, seconds, text):
        """`eventually`, by the VM's clock."""
        return eventually(probe, seconds * self.vm.slowness, text, 0.3)

    def wait_forwarded_by(self, whom, seconds=30):
        def there():
            done = self.vm.run("vxctl -j bypass", check=False)
            return f'"forwards":"{whom}"' in done.replace(" ", "")
        self.within(there, seconds, lambda: f"{whom} does not forward: {self.vxctl('bypass', check=False)}; {self.vxctl('status', check=False)}")

    def show_logs(self):
        with contextlib.suppress(Failed):
            for command in ("systemctl --no-pager --failed --plain --no-legend", "bridge -compressvlans vlan show", "vxctl status", "vxctl port", "vxctl drops",
                            "journalctl -n 40 -o short-precise -u 'vxplane-*' -u networking"):
                for line in self.vm.run(command, check=False, seconds=20).splitlines():
                    print(f"     xenon: {line}")
        for line in self.vm.console().splitlines()[-15:]:
            print(f"     console: {line}")
