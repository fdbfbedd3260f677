#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""xenon of the design's section 1 as it would be: a Debian in qemu whose ifupdown2 makes VLAN 4003, vxlan and VLAN-aware bridge from the
design's two files, guests plugged as Proxmox plugs them. First its kernel forwards, then the Debian package is installed and its
services take over; the same cases hold, and the host's own sessions live through all of it."""

import contextlib
import hashlib
import os
import re
import socket
import threading
import time

from cases import Suite, check
from lab import Lab, OVERLAY_MTU, debian_package
from vm_host import SDN, PingStream, VmNetwork, vlans_of

FOLLOW_MS = 100  # within which a change of the kernel's is in force,
NOISE_MS = 250   # and what an emulated machine of a busy one adds
STALE_MS = 500   # an emulated CPU of a busy machine does stand still for 50
SILENCE_SECONDS = 3  # of a TCP session; above that it would be the network, not the emulator


@contextlib.contextmanager
def machine():
    with Lab() as lab:
        yield VmNetwork(lab, debian_package(lab.directory))


machine.limit_seconds = 600  # it may have to make its Debian first


# ---- what holds whoever forwards ----

def everybody_talks(net):
    """untagged, access-port and self-tagging guests reach their peers, IPv4 and IPv6, both ways, up to 1332 bytes"""
    net.vm.run("for g in g1 g11 g21; do ip -n $g neigh flush all; done")
    words = {}
    for inside, outside in net.pairs:
        outside.forget_neighbours()
        for address, over in ((outside.ipv4, 28), (outside.ipv6, 48)):
            words[f"{inside.number} > {address}"] = (inside, f"-c 2 -i 0.3 -w 10 -M do -s {OVERLAY_MTU - over} {address}")
    lost = net.vm.pings(words)
    check(not lost, lambda: f"no answer: {lost}")
    for inside, outside in net.pairs:
        outside.forget_neighbours()
        for address in (inside.ipv4, inside.ipv6):
            outside.ping(address)
            outside.ping(address, size=OVERLAY_MTU)


def vlans_are_apart(net):
    """guests of different VLANs do not reach each other"""
    words = {f"{inside.number} > {outside.number}": (inside, f"-c 2 -i 0.3 -w 2 {outside.ipv4}")
             for inside in net.inside.values() for _, outside in net.pairs if outside.number != inside.number + 1}
    words.update({f"{one.number} > {other.number}": (one, f"-c 2 -i 0.3 -w 2 {other.ipv4}")
                  for one in net.inside.values() for other in net.inside.values() if one is not other})
    reached = sorted(set(words) - set(net.vm.pings(words)))
    check(not reached, lambda: f"across VLANs: {reached}")


@contextlib.contextmanager
def larger_guests(net):
    """Guests that believe in 1400 bytes."""
    def set_mtu(mtu):
        for inside, outside in net.pairs:
            outside.namespace.ip("link", "set", "eth0", "mtu", mtu)
            net.vm.run(f"ip -n {inside.name} link set eth0 mtu {mtu}")
    set_mtu(1400)
    try:
        yield
    finally:
        set_mtu(OVERLAY_MTU)
        net.vm.run("; ".join(f"ip -n {inside.name} route flush cache" for inside, _ in net.pairs))
        for _, outside in net.pairs:
            outside.forget_paths()


def mtu_is_told(net):
    """1333 bytes do not pass, tagged or not, and the sender is told 1332"""
    with larger_guests(net):
        for inside, outside in net.pairs[:2]:
            answer = inside.run(f"ping -n -c 1 -W 3 -M do -s {OVERLAY_MTU + 1 - 28} {outside.ipv4}", check=False)
            check(f"mtu = {OVERLAY_MTU}" in answer or f"mtu={OVERLAY_MTU}" in answer, lambda: f"guest {inside.number} is not told: {answer}")


def transfers(net):
    """3 MB arrive whole from a guest with its offloads on and back, untagged and on an access port"""
    for inside, outside in net.pairs[:2]:
        data = os.urandom(3 << 20)
        with outside.namespace.entered():
            listener = socket.create_server((outside.ipv4, 5001))
        listener.settimeout(30)
        result = []

        def serve():
            client, _ = listener.accept()
            with client:
                client.settimeout(60)
                threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
                got = bytearray()
                while len(got) < len(data) and (part := client.recv(1 << 16)):
                    got += part
                result.append(bytes(got))
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with listener:
            inside.run(f"python3 /root/mirror.py {outside.ipv4} 5001", seconds=80)
            server.join(20)
        check(result and hashlib.sha256(result[0]).digest() == hashlib.sha256(data).digest(),
              lambda: f"guest {inside.number}: {len(result[0]) if result else 'nothing'} of {len(data)} bytes came back, or others")


def host_talks(net):
    """the host's own address on the NIC and its VLAN 4001 answer"""
    for namespace, address in ((net.operator, "192.0.2.1"), (net.replica, "10.40.1.1")):
        namespace.run("ping", "-n", "-q", "-c", 3, "-i", 0.1, "-W", 3, address)
    for talk in net.talks:
        silence = talk.longest_silence()
        check(silence < SILENCE_SECONDS * net.vm.slowness, lambda: f"a TCP session to the host was silent for {silence:.1f} s")


# ---- changes, and how long they take to be in force ----

ANSWERED = "for _ in {1..60}; do [ $(grep -c time= /root/pings) -ge 10 ] && break; sleep 0.1; done"


def change_while_pinging(net, guest, target, changes, is_reached):
    """[when sent, of answered pings every 10 ms], [when each of the changes was done, the first item: when they began]; seconds of
    the VM's clock. `is_reached`: it is so before the changes, and ends with them; else the other way round."""
    before, after = (ANSWERED, "sleep 1") if is_reached else ("sleep 1", ANSWERED)
    text = net.vm.run(f"ip netns exec {guest.name} ping -n -D -i 0.01 {target} >/root/pings 2>&1 & {before}; "
                      f"bash -c 'echo T$EPOCHREALTIME; {' '.join(f'{change}; echo T$EPOCHREALTIME;' for change in changes)}'; {after}; "
                      "kill -INT $!; wait $!; cat /root/pings")
    times = [float(when) for when in re.findall(r"^T([\d.]+)$", text, re.MULTILINE)]
    answers = re.findall(r"^\[([\d.]+)\].*?from .*time=([\d.]+) ms", text, re.MULTILINE)
    return sorted(float(at) - float(took) / 1000 for at, took in answers), times


def live_vlans(net):
    """a port moved to another VLAN by `bridge vlan`: the new VLAN's guests are reached, and no longer, within 100 ms (and the noise)"""
    guest, other = net.inside[11], net.outside[22]
    guest.run(f"ip neigh replace {other.ipv4} lladdr {other.mac} dev eth0 nud permanent")
    other.namespace.ip("neigh", "replace", guest.ipv4, "lladdr", guest.mac, "dev", "eth0", "nud", "permanent")
    there = [f"bridge vlan del dev {guest.port} vid 100", f"bridge vlan add dev {guest.port} vid 200 pvid untagged"]
    back = [f"bridge vlan del dev {guest.port} vid 200", f"bridge vlan add dev {guest.port} vid 100 pvid untagged"]
    try:
        sent, times = change_while_pinging(net, guest, other.ipv4, there, False)
        check(sent, "the guest does not reach the VLAN that its port was moved to")
        check(sent[0] > times[0] - 0.05, "the guest reached the other VLAN before")
        gained = (sent[0] - times[2]) * 1000
        sent, times = change_while_pinging(net, guest, other.ipv4, back, True)
        check(sent and sent[0] < times[0], "the guest no longer reached the VLAN before its port was moved back")
        lost = (sent[-1] - times[1]) * 1000
    finally:
        net.vm.run("; ".join([*back, f"ip -n {guest.name} neigh flush all nud permanent"]), check=False)
        other.namespace.ip("neigh", "flush", "all", "nud", "permanent", check=False)
    print(f"     bridge vlan add: in force after {gained:.0f} ms, del: after {lost:.0f} ms", flush=True)
    check(max(gained, lost) < FOLLOW_MS + NOISE_MS * net.vm.slowness, f"bridge vlan add took {gained:.0f} ms, del {lost:.0f} ms")


def set_remotes(net, *remotes):
    """By an edited sdn file and `ifreload -a`. Debian 12's ifupdown2 demands `bridge-access` of a vxlan in a VLAN-aware bridge and takes out
    of the bridge what its files do not name; Proxmox's does neither. What it took is put back here, as is what it leaves out."""
    lines = "".join(f"\\n        vxlan_remoteip {remote}" for remote in remotes)
    net.vm.run(f"sed -i -e '/vxlan_remoteip/d' -e 's/^ *vxlan-id .*/&{lines}/' {SDN}")
    started = time.monotonic()
    said = net.vm.run("ifreload -a", check=False)
    print(f"     ifreload -a took {time.monotonic() - started:.1f} s", flush=True)
    errors = [line for line in said.splitlines() if line.startswith("error") and "bridge-access" not in line]
    check(not errors, "; ".join(errors))
    kept = {port["ifname"] for port in net.vm.json("bridge -j link show")}
    net.give_tunnel_vlans()
    for guest in net.inside.values():
        if guest.port not in kept:
            print(f"     ifreload took {guest.port} out of mainvx", flush=True)
            guest.plug()


def remote_by_ifreload(net):
    """`ifreload -a` with one remote more: the guests behind it are reached, and the others still are"""
    third = net.outside[3]
    set_remotes(net, "172.18.1.2", "172.18.1.3")
    net.within(lambda: not net.vm.pings({"third": (net.inside[1], f"-c 1 -W 2 {third.ipv4}")}), 10, "guest 1 does not reach guest 3")
    third.ping(net.inside[1].ipv4, size=OVERLAY_MTU)
    everybody_talks(net)


# ---- the kernel ----

def made_by_ifupdown2(net):
    """ifupdown2 makes the design's devices from its two files at boot"""
    links = {link["ifname"]: link for link in net.vm.json("ip -j -d link")}
    vlan, vxlan, bridge = links["enp35s0.4003"], links["vxlan_mainvx"], links["mainvx"]
    seen = (vlan["linkinfo"]["info_data"]["id"], vlan["mtu"], vxlan["linkinfo"]["info_data"]["id"], vxlan["master"], vxlan["mtu"],
            bridge["linkinfo"]["info_data"]["vlan_filtering"], bridge["mtu"])
    check(seen == (4003, 1400, 1000, "mainvx", 1332, 1, 1332), lambda: str(seen))
    check("172.18.1.1/24" in net.vm.run("ip -o -4 addr show dev enp35s0.4003"), "no address on enp35s0.4003")
    check("dst 172.18.1.2" in net.vm.run("bridge fdb show dev vxlan_mainvx"), "no remote")
    vids = net.vm.json("bridge -j vlan show dev vxlan_mainvx")
    version = net.vm.run("dpkg-query -W -f '${Version}' ifupdown2")
    print(f"     ifupdown2 {version} gives vxlan_mainvx {vids[0]['vlans'] if vids else 'no VLANs'}", flush=True)
    net.plug_guests()
    net.start_talks()


# ---- vxplane ----

def installed_and_started(net):
    """the package is installed, --check says what it will do, the services start: nothing is lost or doubled meanwhile"""
    net.vm.run("if command -v vxctl; then dpkg -P vxplane; fi")  # where this is tried again
    stream = PingStream(net.outside[2], net.inside[1])
    net.vm.run("dpkg -i /root/vxplane.deb")
    check(net.vm.run("systemctl is-active vxplane-dataplane vxplane-control", check=False).split() == ["inactive", "inactive"], "started without being asked")
    net.vm.run(f"printf '[bridge]\\ntakeover = mainvx\\n[dataplane]\\nstale-after = {STALE_MS}\\n' > /etc/vxplane/vxplane.conf")
    effective = net.vm.run("vxplane-control --config /etc/vxplane/vxplane.conf --check")
    for line in ("vxlan-id = 1000", "vxlan-remoteip = 172.18.1.2", "vlan = 4003", "device = enp35s0"):
        check(line in effective, lambda: f"--check does not say {line}: {effective}")
    stream.mark("started")
    net.vm.run("systemctl enable -q --now vxplane-dataplane vxplane-control")
    net.wait_forwarded_by("vxplane")
    report(net, stream, {"started": 0})


def report(net, stream, allowed_ms):
    """Prints what each step cost; fails where it is more than it may (0: nothing is lost)."""
    wrong = []
    for step, sent, lost, copies, outage in stream.stop():
        print(f"     {step:34} {sent:5} pings, {lost} lost, {outage:.0f} ms without an answer, {copies} copies", flush=True)
        if copies or outage > allowed_ms[step] * net.vm.slowness:
            wrong.append(f"{step}: {lost} lost, {outage:.0f} ms without an answer, {copies} copies")
    check(not wrong, lambda: "; ".join(wrong))


def kernel_counts(net, device="vxlan_mainvx"):
    return sum(map(int, net.vm.run(f"cat /sys/class/net/{device}/statistics/[rt]x_packets").split()))


def vxplane_counts(net, *ports):
    stats = net.json("stats")["ports"]
    return sum(stats[port]["rx_packets"] + stats[port]["tx_packets"] for port in ports)


def vxplane_forwards(net):
    """frames go through vxplane and not through the kernel's devices; in bypass it is the other way round"""
    ports = ("enp35s0", "fwpr11p0")

    def moved():
        before = kernel_counts(net), vxplane_counts(net, *ports)
        net.outside[12].ping(net.inside[11].ipv4, count=100, interval=0.01)
        return kernel_counts(net) - before[0], vxplane_counts(net, *ports) - before[1]
    by_kernel, by_vxplane = moved()
    check(by_vxplane >= 396 and by_kernel < 50, f"of 100 pings vxplane's ports count {by_vxplane} packets, the kernel's vxlan {by_kernel}")
    net.vxctl("bypass on")
    try:
        by_kernel, by_vxplane = moved()
    finally:
        net.vxctl("bypass off")
        net.wait_forwarded_by("vxplane")
    check(by_kernel >= 198 and by_vxplane < 50, f"in bypass, of 100 pings vxplane's ports count {by_vxplane} packets, the kernel's vxlan {by_kernel}")


def fdb_is_true(net):
    """`bridge fdb` has each guest at its place, local and behind its VTEP"""
    wanted = []
    for inside, outside in net.pairs:
        vlan = inside.vlan or inside.own_tag or 1
        wanted += [(f"bridge fdb get {mac} br mainvx vlan {vlan}", f" dev {device} ") for mac, device in ((inside.mac, inside.port), (outside.mac, "vxlan_mainvx"))]
        wanted.append((f"bridge fdb get {outside.mac} dev vxlan_mainvx self", "dst 172.18.1.2 "))

    def missing():
        places = net.vm.run("; ".join(f"echo $({command} 2>&1)" for command, _ in wanted), check=False).splitlines()
        return [f"{command}: {place}" for (command, word), place in zip(wanted, places) if word not in f"{place} "]
    net.within(lambda: not missing(), 5, lambda: "; ".join(missing()))


def tap_comes_later(net):
    """a VM's tap that is plugged while vxplane forwards is taken: its guest reaches the others"""
    def is_taken():
        return any(port["name"] == "tap141i0" and port["state"] == "up" for port in net.json("port"))
    net.vm.script("ip netns add g41", "/root/tap_pair tap141i0 g41 eth0", "ip -n g41 link set lo up",
                  "ip -n g41 link set eth0 address 52:54:00:00:00:41 mtu 1332 up", "ip -n g41 addr add 10.0.0.41/24 dev eth0",
                  "ip link set tap141i0 mtu 1332 up master mainvx", *vlans_of("tap141i0", 100))
    try:
        net.outside[12].wait_ping("10.0.0.41", 10 * net.vm.slowness)
        net.within(is_taken, 10, lambda: f"vxplane does not have tap141i0: {net.vxctl('port')}")
        net.outside[12].ping("10.0.0.41", size=OVERLAY_MTU)
        lost = net.vm.pings({"11": (net.inside[11], "-c 2 -i 0.3 -w 5 10.0.0.41")})
        check(not lost, "a local guest of its VLAN does not reach it")
    finally:
        net.vm.run("ip link del tap141i0; ip netns del g41", check=False)
    net.within(lambda: not is_taken(), 10, lambda: f"vxplane still has tap141i0: {net.vxctl('port')}")


def steps(net):
    """bypass, kill -9, restart, stop and start under pings: no copies, nothing lost by what is planned"""
    def kill():
        net.vm.run("systemctl kill -s KILL vxplane-dataplane")
        time.sleep(0.5)

    plan = [("bypass on", lambda: net.vxctl("bypass on"), 0, "kernel"), ("bypass off", lambda: net.vxctl("bypass off"), 0, "vxplane"),
            ("kill -9 of the dataplane", kill, NOISE_MS, "vxplane"),
            ("systemctl restart of the dataplane", lambda: net.vm.run("systemctl restart vxplane-dataplane"), 0, "vxplane"),
            ("stop of both", lambda: net.vm.run("systemctl stop vxplane-control vxplane-dataplane"), 0, None),
            ("start of both", lambda: net.vm.run("systemctl start vxplane-dataplane vxplane-control"), 0, "vxplane")]
    started = time.monotonic()
    stream = PingStream(net.outside[2], net.inside[1])
    time.sleep(0.5)
    for name, action, _, forwarder in plan:
        stream.mark(name)
        action()
        if forwarder:
            net.wait_forwarded_by(forwarder)
        time.sleep(0.5)
    report(net, stream, {name: allowed for name, _, allowed, _ in plan})
    for talk in net.talks:
        silence = talk.longest_silence(started)
        check(silence < SILENCE_SECONDS * net.vm.slowness, lambda: f"a TCP session to the host was silent for {silence:.1f} s")
    everybody_talks(net)


steps.limit_seconds = 200


def second_tunnel(net):
    """a second vxlan port of VNI 2000 comes with VLAN 200: that VLAN's guests reach theirs by it, nobody else's pings are lost; it goes again"""
    def missed(outside):
        return net.vm.pings({"200": (net.inside[21], f"-c 2 -i 0.3 -w 3 {outside.ipv4}")})
    stream = PingStream(net.outside[12], net.inside[11])
    stream.mark("second vxlan port comes")
    far = net.make_second_tunnel()
    net.within(lambda: not missed(far), 10, "VLAN 200 does not reach the guest of VNI 2000")
    far.ping(net.inside[21].ipv4, size=OVERLAY_MTU)
    check(missed(net.outside[22]), "VLAN 200 still goes by VNI 1000")
    before = kernel_counts(net, "vxlan200"), vxplane_counts(net, "enp35s0")
    far.ping(net.inside[21].ipv4, count=50, interval=0.01)
    by_kernel, by_vxplane = kernel_counts(net, "vxlan200") - before[0], vxplane_counts(net, "enp35s0") - before[1]
    check(by_vxplane >= 98 and by_kernel < 25, f"of 50 pings vxplane's ports count {by_vxplane} packets, the kernel's vxlan200 {by_kernel}")
    row = net.vm.run(f"bridge fdb get {far.mac} br mainvx vlan 200", check=False)
    check("dev vxlan200 " in row, f"the kernel's FDB: {row}")
    stream.mark("second vxlan port goes")
    net.remove_second_tunnel()
    net.within(lambda: not missed(net.outside[22]), 10, "VLAN 200 does not come back to VNI 1000")
    report(net, stream, {"second vxlan port comes": 0, "second vxlan port goes": 0})


second_tunnel.limit_seconds = 200


def after_a_reboot(net):
    """after a reboot ifupdown2 makes the bridge, then vxplane starts and forwards for it; nothing has failed"""
    for talk in net.talks:
        talk.close()
    net.talks = []
    net.vm.reboot()
    net.plug_guests()
    net.wait_forwarded_by("vxplane")
    everybody_talks(net)
    check(vxplane_counts(net, "fwpr11p0"), "no frame of a guest went through vxplane")
    failed = net.vm.run("systemctl --failed --plain --no-legend", check=False)
    check(not failed, f"failed units: {failed}")
    ready = [int(net.vm.run(f"systemctl show -P {when} {unit}"))
             for unit, when in (("networking", "ActiveEnterTimestampMonotonic"), ("vxplane-dataplane", "ExecMainStartTimestampMonotonic"),
                                ("vxplane-control", "ExecMainStartTimestampMonotonic"))]
    check(0 < ready[0] <= ready[1] <= ready[2], f"networking was done, dataplane and control were started at {ready} us")


after_a_reboot.limit_seconds = 400


def by(whom, case):
    def wrapped(net):
        case(net)
    wrapped.__doc__, wrapped.__name__ = f"{whom}: {case.__doc__.splitlines()[0]}", case.__name__
    wrapped.limit_seconds = getattr(case, "limit_seconds", 120)
    return wrapped


if __name__ == "__main__":
    suite = Suite("vm_takeover")
    kernel = [made_by_ifupdown2, everybody_talks, vlans_are_apart, live_vlans, host_talks]
    vxplane = [installed_and_started, everybody_talks, fdb_is_true, vlans_are_apart, mtu_is_told, vxplane_forwards, transfers, live_vlans,
               tap_comes_later, remote_by_ifreload, steps, second_tunnel, host_talks, after_a_reboot]
    suite.group("Debian in qemu", machine, [*[by("kernel", case) for case in kernel], *[by("vxplane", case) for case in vxplane]])
    suite.main()
