#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The noble cluster on one machine: nodes krypton and xenon joined by a wire that carries VLAN 4003, two guests on each.

    noble up [--peer kernel]         build, make, start, show; stays up
    noble status                     processes, pings, FDBs
    noble shell NODE [COMMAND...]    a shell (or a command) on krypton, xenon, or a guest (krypton-vm1, ...); vxctl works there
    noble down                       removes all

Needs root and Debian 12; `up` installs the packages. --peer kernel makes xenon a plain Linux vxlan + bridge host.
Guests: vm1 untagged (10.1.0.0/24, fd00:1::/64); vm2 in VLAN 100 (10.100.0.0/24, fd00:100::/64). krypton-vm1 and xenon-vm2 hang
on a veth (driver netdev), krypton-vm2 and xenon-vm1 on a tap of the dataplane (driver tap). krypton-vm2 is on an access port
(bridge-access=100), xenon-vm2 tags its frames itself.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "system"))

from cases import Failed  # noqa: E402
from lab import REPOSITORY, Namespace, build_directory, core_of, run, tag_edge, wire_offloads_off  # noqa: E402

STATE = "/run/vxplane-lab"
LOCK = "/run/vxplane-lab.lock"
DEVICE, OUTER_VLAN, VNI, UNDERLAY_MTU, OVERLAY_MTU = "enp35s0", 4003, 1000, 1400, 1332
NODES = {"krypton": 2, "xenon": 1}  # as in design section 1: xenon has 172.18.1.1
# guest: node, port, driver, VLAN of its network, tags its frames itself, host number
GUESTS = {
    "krypton-vm1": ("krypton", "tap100i0", "netdev", None, False, 20),
    "krypton-vm2": ("krypton", "guest2", "tap", 100, False, 21),
    "xenon-vm1": ("xenon", "guest1", "tap", None, False, 10),
    "xenon-vm2": ("xenon", "tap101i0", "netdev", 100, True, 11),
}
TARGETS = ["vxplane-dataplane", "vxplane-control", "vxctl", "bpf"]


def say(text):
    print(f"noble: {text}", flush=True)


def peer_of(node):
    return "xenon" if node == "krypton" else "krypton"


def vtep(node):
    return f"172.18.1.{NODES[node]}"


def addresses(guest):
    vlan, number = GUESTS[guest][3], GUESTS[guest][5]
    return f"10.{vlan or 1}.0.{number}", f"fd00:{vlan or 1}::{number}"


def guest_mac(guest):
    return f"52:54:00:aa:00:{GUESTS[guest][5]:02x}"


def namespace(name):
    return Namespace(name, make=False)


def peer_kind():
    with contextlib.suppress(OSError), open(f"{STATE}/peer") as file:
        return file.read().strip()
    return None


def is_vxplane(node):
    return not (node == "xenon" and peer_kind() == "kernel")


# ---- up ----

def install_packages():
    script = os.path.join(REPOSITORY, "tests", "install-packages")
    if not os.path.exists(script):
        return
    say("packages")
    subprocess.run([script], check=True)  # quick when all are there


def build():
    folder = build_directory()
    if os.environ.get("VXPLANE_BUILD"):
        say(f"binaries of {folder}")
        return
    say(f"build in {folder}")
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        # As tests/run does it, so that neither builds again what the other has built.
        subprocess.run(["cmake", "-G", "Ninja", "-S", REPOSITORY, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", "-Dwerror=ON",
                        "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"], check=True)
    environment = {"CCACHE_BASEDIR": REPOSITORY, "CCACHE_NOHASHDIR": "true", **os.environ}
    subprocess.run(["ninja", "-C", folder, *TARGETS], check=True, env=environment)


def make_network():
    say(f"namespaces krypton and xenon, wire {DEVICE}")
    for node in NODES:
        Namespace(node)
    run("ip", "link", "add", DEVICE, "netns", "krypton", "type", "veth", "peer", "name", DEVICE, "netns", "xenon")
    for node, number in NODES.items():
        ns = namespace(node)
        ns.ip("link", "set", DEVICE, "address", f"02:00:00:35:00:{number:02x}")
        wire_offloads_off(ns, DEVICE)
        ns.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")  # the host does not speak on its guests' taps
        ns.ip("link", "set", DEVICE, "up")
        ns.ip("addr", "add", f"192.0.2.{number}/24", "dev", DEVICE)  # the host's public address
    for guest, (node, port, driver, *_) in GUESTS.items():
        Namespace(guest)
        if driver == "netdev" or not is_vxplane(node):
            ns = namespace(node)
            ns.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", guest)
            ns.run("sysctl", "-qw", f"net.ipv6.conf.{port}.disable_ipv6=1")
            ns.ip("link", "set", port, "mtu", OVERLAY_MTU, "up")  # as Proxmox gives it the bridge's
            dress(guest)


def dress(guest):
    """The guest's own network settings, as its operating system would make them."""
    ns, (ipv4, ipv6) = namespace(guest), addresses(guest)
    ns.ip("link", "set", "eth0", "address", guest_mac(guest), "mtu", OVERLAY_MTU, "up")
    ns.ip("addr", "replace", f"{ipv4}/24", "dev", "eth0")
    ns.ip("addr", "replace", f"{ipv6}/64", "dev", "eth0", "nodad")
    if GUESTS[guest][4]:
        tag_edge(ns, "eth0", GUESTS[guest][3])


def make_kernel_peer(node):
    """What section 1 of the design's two files make of a node, with the 4003 tag by a BPF program."""
    ns = namespace(node)
    ns.ip("addr", "flush", "dev", DEVICE)
    tag_edge(ns, DEVICE, OUTER_VLAN)
    ns.ip("link", "set", DEVICE, "mtu", UNDERLAY_MTU)
    ns.ip("addr", "add", f"{vtep(node)}/24", "dev", DEVICE)
    ns.ip("link", "add", "mainvx", "type", "bridge", "mcast_snooping", "0")
    ns.ip("link", "add", "vxlan_mainvx", "type", "vxlan", "id", VNI, "local", vtep(node), "remote", vtep(peer_of(node)), "dstport", 4789,
          "ttl", 64)
    for port in ["vxlan_mainvx", *(guest[1] for guest in GUESTS.values() if guest[0] == node)]:
        ns.ip("link", "set", port, "mtu", OVERLAY_MTU, "master", "mainvx", "up")
    ns.ip("link", "set", "mainvx", "mtu", OVERLAY_MTU, "up")


def write_config(node):
    lines = ["[vxlan]", "name = vxlan_mainvx", f"vxlan-id = {VNI}", f"vxlan-local-tunnelip = {vtep(node)}",
             f"vxlan-remoteip = {vtep(peer_of(node))}", f"mtu = {OVERLAY_MTU}",
             "[underlay]", f"device = {DEVICE}", "driver = af_xdp", f"vlan = {OUTER_VLAN}", "vtep-address = own", f"mtu = {UNDERLAY_MTU}",
             "[dataplane]", f"lcores = {core_of(1 + list(NODES).index(node))}",
             "[bridge]", "name = mainvx", "bridge-vids = 2-4094", "bridge-pvid = 1", "[port]"]
    for port, driver, vlan, tags in (guest[1:5] for guest in GUESTS.values() if guest[0] == node):
        lines.append(f"port = {port} driver={driver}" + (f" bridge-access={vlan}" if vlan and not tags else ""))
    with open(f"{STATE}/{node}/vxplane.conf", "w") as file:
        file.write("\n".join(lines) + "\n")


def write_tools(node):
    """`vxctl` of this node first in PATH."""
    os.makedirs(f"{STATE}/{node}/bin", exist_ok=True)
    path = f"{STATE}/{node}/bin/vxctl"
    with open(path, "w") as file:
        file.write(f'#!/bin/sh\nexec {build_directory()}/vxctl --run-dir {STATE}/{node} "$@"\n')
    os.chmod(path, 0o755)


def start_node(node):
    with open(f"{STATE}/{node}/supervisor.log", "a") as log:
        namespace(node).popen(sys.executable, os.path.realpath(__file__), "supervise", node, stdout=log, stderr=log, start_new_session=True)


def up(arguments):
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    with locked():
        install_packages()
        build()
        remove()  # what an earlier lab left, running or killed
        try:
            os.makedirs(STATE, exist_ok=True)
            with open(f"{STATE}/peer", "w") as file:
                file.write(arguments.peer)
            for node in NODES:
                os.makedirs(f"{STATE}/{node}", exist_ok=True)
                write_tools(node)
            make_network()
            for node in NODES:
                if is_vxplane(node):
                    write_config(node)
                    say(f"vxplane on {node}")
                    start_node(node)
                else:
                    say(f"kernel vxlan and bridge on {node}")
                    make_kernel_peer(node)
            wait_until_guests_talk(30)
            good = show()
        except BaseException:
            show_logs()
            say("not up: removing what was made")
            remove()
            raise
    print("\nnoble is up. Try:  noble shell krypton vxctl fdb   noble shell krypton-vm1   noble status   noble down")
    return 0 if good else 1


def wait_until_guests_talk(seconds):
    say("waiting for the guests to reach each other")
    deadline = time.monotonic() + seconds
    for source, destination in (("krypton-vm1", "xenon-vm1"), ("krypton-vm2", "xenon-vm2")):
        while not ping(source, addresses(destination)[0], count=1, seconds=1):
            if time.monotonic() > deadline:
                raise Failed(f"{source} does not reach {destination} after {seconds} s")


# ---- show ----

def ping(guest, address, count=3, seconds=2):
    done = namespace(guest).run("ping", "-n", "-q", "-c", count, "-i", "0.1", "-W", seconds, address, check=False)
    return done.returncode == 0


def show():
    """Pings and FDBs; False if a ping failed."""
    good = True
    print("\nPings")
    for label, family, one, other in (("IPv4 untagged", 0, "krypton-vm1", "xenon-vm1"), ("IPv6 untagged", 1, "krypton-vm1", "xenon-vm1"),
                                      ("IPv4 VLAN 100", 0, "krypton-vm2", "xenon-vm2"), ("IPv6 VLAN 100", 1, "krypton-vm2", "xenon-vm2")):
        for source, destination in ((one, other), (other, one)):
            answered = ping(source, addresses(destination)[family])
            good = good and answered
            print(f"  {label}  {source:11} -> {destination:11} {addresses(destination)[family]:15} {'ok' if answered else 'NO ANSWER'}")
    for node in NODES:
        command = ["vxctl", "fdb"] if is_vxplane(node) else ["bridge", "fdb", "show", "br", "mainvx", "dynamic"]
        print(f"\n{node}# {' '.join(command)}")
        if is_vxplane(node):
            command[0] = f"{STATE}/{node}/bin/vxctl"
        done = namespace(node).run(*command, check=False)
        print(done.stdout + done.stderr, end="", flush=True)
    return good


def show_logs():
    for node in NODES:
        for name in ("vxplane-dataplane", "vxplane-control", "supervisor"):
            with contextlib.suppress(OSError), open(f"{STATE}/{node}/{name}.log") as file:
                for line in file.readlines()[-8:]:
                    print(f"  {node} {name}: {line.rstrip()}", file=sys.stderr)


def status(_arguments):
    if peer_kind() is None:
        say("is down")
        return 1
    for node in NODES:
        print(f"\n{node}: " + (f"vxplane, {STATE}/{node}" if is_vxplane(node) else "Linux kernel vxlan and bridge"))
        if is_vxplane(node):
            done = run(f"{STATE}/{node}/bin/vxctl", "status", check=False)
            print(done.stdout + done.stderr, end="")
    return 0 if show() else 1


def shell(arguments):
    name = arguments.node
    if name not in (*NODES, *GUESTS):
        sys.exit(f"noble: no node or guest {name}: one of {' '.join((*NODES, *GUESTS))}")
    if peer_kind() is None or not os.path.exists(f"/run/netns/{name}"):
        sys.exit("noble: is down: start it with 'noble up'")
    node = GUESTS[name][0] if name in GUESTS else name
    environment = {**os.environ, "VXPLANE_RUN_DIR": f"{STATE}/{node}", "PATH": f"{STATE}/{node}/bin:{os.environ['PATH']}",
                   "PS1": f"{name}# "}
    command = arguments.command or ["bash", "--norc"]
    os.execvpe("ip", ["ip", "netns", "exec", name, *command], environment)


# ---- supervise: what systemd is on a real host ----

def supervise(arguments):
    """Runs in the node's namespace: keeps both processes running, hands taps to their guests."""
    node, stop, started, running = arguments.node, [], {}, {}
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.append(True))
    commands = {
        "vxplane-dataplane": ["--run-dir", f"{STATE}/{node}"],
        "vxplane-control": ["--run-dir", f"{STATE}/{node}", "--config", f"{STATE}/{node}/vxplane.conf"],
    }
    while not stop:
        for name, flags in commands.items():
            if name in running and running[name].poll() is None:
                continue
            if name in running and time.monotonic() - started[name] < 1:
                continue  # RestartSec=1
            if name in running:
                print(f"{name} ended with {running[name].returncode}: restarting it", flush=True)
            with open(f"{STATE}/{node}/{name}.log", "a") as log:
                running[name] = subprocess.Popen([os.path.join(build_directory(), name), *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            started[name] = time.monotonic()
        with contextlib.suppress(Failed):
            hand_over_taps(node)
        time.sleep(0.2)
    for name in ("vxplane-control", "vxplane-dataplane"):
        if name in running:
            running[name].terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running[name].wait(5)
    return 0


def hand_over_taps(node):
    """A tap that the dataplane made, again after its restart, becomes its guest's eth0."""
    devices = os.listdir("/sys/class/net")
    for guest, (home, port, driver, *_) in GUESTS.items():
        if home == node and driver == "tap" and port in devices:
            namespace(guest).ip("link", "del", "eth0", check=False)
            run("ip", "link", "set", port, "netns", guest, "name", "eth0")
            dress(guest)


# ---- down ----

@contextlib.contextmanager
def locked():
    with open(LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit("noble: another noble up or down is at work")
        yield


def remove():
    """Everything of the lab, whatever state it is in. Supervisors first, that nothing is restarted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        for name in (*NODES, *GUESTS):
            if os.path.exists(f"/run/netns/{name}"):
                namespace(name).delete()
        shutil.rmtree(STATE, ignore_errors=True)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(130))


def down(_arguments):
    with locked():
        was_up = peer_kind() is not None
        remove()
    say("removed" if was_up else "was not up")
    return 0


def main():
    parser = argparse.ArgumentParser(prog="noble", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command_name", required=True, metavar="up | status | shell | down")
    commands.add_parser("up").add_argument("--peer", choices=("vxplane", "kernel"), default="vxplane", help="what xenon is")
    commands.add_parser("status")
    commands.add_parser("down")
    entry = commands.add_parser("shell")
    entry.add_argument("node")
    entry.add_argument("command", nargs=argparse.REMAINDER)
    commands.add_parser("supervise").add_argument("node")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("noble: needs root: sudo tests/lab/noble ...")
    try:
        sys.exit({"up": up, "status": status, "shell": shell, "down": down, "supervise": supervise}[arguments.command_name](arguments))
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failed, subprocess.CalledProcessError) as error:
        sys.exit(f"noble: {error}")


if __name__ == "__main__":
    main()
