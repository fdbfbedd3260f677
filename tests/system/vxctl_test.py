#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The operator's command against running nodes: entries by hand, limits, exit codes, JSON shapes, monitor, reload, --check."""

import os
import re
import subprocess
import time

import frames
from cases import Suite, check, eventually
from lab import OVERLAY_MTU, REPOSITORY, binary, run
from nodes import pair

MAC = "52:54:00:12:34:56"
BROADCAST = "ff:ff:ff:ff:ff:ff"


def frame_to(destination, source, text=b"to-mac"):
    return frames.ethernet(destination, source, 0x88B5, text + bytes(46))


def seen_by(guests, sender, *sent):
    """Which of `guests` (numbers) get a frame that contains the marker, when `sender` sends."""
    captures = [frames.Capture(guest.namespace, "eth0") for guest in guests]
    for capture in captures:
        capture.__enter__()
    frames.send(sender, *sent)
    time.sleep(0.2)
    for capture in captures:
        capture.__exit__()
    return {guest.number for guest, capture in zip(guests, captures) if any(b"to-mac" in frame for _, frame in capture.frames)}


def static_entry(net):
    """a static entry by hand directs frames to its port or VTEP, and is shown and deleted"""
    node, (a, b, c, d) = net.krypton, net.guests
    node.ctl("fdb", "add", MAC, "dev", b.port)
    check(seen_by([b, c, d], a, frame_to(MAC, a.mac)) == {2}, "a frame for a static MAC did not go to its port only")
    entry = node.fdb(MAC)[0]
    check(entry["ifname"] == b.port and entry["vlan"] == 1 and entry["state"] == "static" and "dst" not in entry, f"{entry}")
    node.ctl("fdb", "del", MAC)
    check(node.fdb(MAC) == [], "it is still there")
    node.ctl("fdb", "add", MAC, "dst", net.xenon.vtep)
    check(2 not in seen_by([b, c, d], a, frame_to(MAC, a.mac)), "a frame for a static MAC behind the VTEP reached the other local port")
    check(node.fdb(MAC)[0]["dst"] == net.xenon.vtep, f"{node.fdb(MAC)}")
    node.ctl("fdb", "del", MAC)


def static_does_not_move(net):
    """a static or sticky MAC seen elsewhere does not move and its frames are counted smac_moved_static"""
    node, (a, b, c, _) = net.krypton, net.guests
    for kind in ("static", "sticky"):
        node.ctl("fdb", "add", MAC, "dev", b.port, kind)
        before = node.drops()["smac_moved_static"]
        check(seen_by([b, c], a, frame_to(BROADCAST, MAC)) == set(), f"a frame from a {kind} MAC's wrong place was forwarded")
        eventually(lambda: node.drops()["smac_moved_static"] == before + 1, 2, f"{kind}: not counted")
        check(node.fdb(MAC)[0]["ifname"] == b.port, f"{kind}: it moved")
        node.ctl("fdb", "del", MAC)


def blackhole(net):
    """frames to a blackhole entry are dropped and counted fdb_blackhole"""
    node, (a, b, c, d) = net.krypton, net.guests
    node.ctl("fdb", "add", MAC, "blackhole")
    before = node.drops()["fdb_blackhole"]
    check(seen_by([b, c, d], a, frame_to(MAC, a.mac)) == set(), "a frame to a blackhole MAC arrived")
    eventually(lambda: node.drops()["fdb_blackhole"] == before + 1, 2, "not counted")
    check("blackhole" in node.fdb(MAC)[0]["flags"], f"{node.fdb(MAC)}")
    node.ctl("fdb", "del", MAC)


def add_over_learned(net):
    """fdb add replaces a learned entry and refuses over a static one; dst must be a VTEP"""
    node, (a, b, *_) = net.krypton, net.guests
    a.ping(b)
    eventually(lambda: node.fdb(b.mac), 2, "not learned")
    node.ctl("fdb", "add", b.mac, "dev", b.port)
    check(node.fdb(b.mac)[0]["state"] == "static", "the learned entry was not replaced")
    done = node.vxctl("fdb", "add", b.mac, "dev", a.port)
    check(done.returncode == 1 and done.stderr.strip(), f"over a static one: exit {done.returncode}: {done.stderr!r}")
    node.ctl("fdb", "del", b.mac)
    done = node.vxctl("fdb", "add", MAC, "dst", "172.18.1.99")
    check(done.returncode == 1 and "172.18.1.99" in done.stderr, f"an unknown VTEP: exit {done.returncode}: {done.stderr!r}")


def fit_ports(node):
    """Guests' netdevs get the overlay's MTU, without which `vxctl mtu` has something to say."""
    for port in ("tap101i0", "tap102i0"):
        node.namespace.ip("link", "set", port, "mtu", OVERLAY_MTU)
    eventually(lambda: node.vxctl("mtu").returncode == 0, 3, lambda: node.vxctl("mtu").stdout)


def exit_codes(net):
    """exit 0 done, 1 refused or not found, 2 usage; the reason is one line on stderr"""
    node = net.krypton
    check(node.vxctl("mtu").returncode == 1, "ports with another MTU than the overlay add up")
    fit_ports(node)
    for words, code in ((["fdb"], 0), (["fdb", "show", MAC], 0), (["fdb", "get", MAC], 1), (["fdb", "del", MAC], 1), (["nonsense"], 2),
                        (["fdb", "add"], 2), (["fdb", "add", "nonsense", "dev", "x"], 2), (["fdb", "add", MAC, "dev", "nowhere"], 1),
                        (["vtep", "del", "172.18.1.99"], 1), (["port", "del", "nowhere"], 1), (["--help"], 0), (["fdb", "help"], 0),
                        (["fdb", "show", "vlan", "5000"], 2), (["status"], 0), (["drops"], 0), (["mtu"], 0), (["vlan"], 0), (["port"], 0)):
        done = node.vxctl(*words)
        check(done.returncode == code, f"vxctl {' '.join(words)}: exit {done.returncode}, not {code}: {done.stderr.strip()}")
        if code == 1:
            check(len(done.stderr.strip().splitlines()) == 1, f"vxctl {' '.join(words)}: {done.stderr!r}")


def text_of_fdb(net):
    """fdb show prints lines in the field order of bridge fdb show, one entry a line"""
    node, (a, b, c, _) = net.krypton, net.guests
    a.ping(c)
    a.ping(b)
    node.ctl("fdb", "add", MAC, "dst", net.xenon.vtep)
    lines = node.ctl("fdb").splitlines()
    check(f"{c.mac} dev vxlan_mainvx dst {net.xenon.vtep} vlan 1 master mainvx" in lines, f"{lines}")
    check(f"{b.mac} dev {b.port} vlan 1 master mainvx" in lines, f"{lines}")
    check(f"{MAC} dev vxlan_mainvx dst {net.xenon.vtep} vlan 1 master mainvx static" in lines, f"{lines}")
    check(f"00:00:00:00:00:00 dev vxlan_mainvx dst {net.xenon.vtep} self permanent" in lines, f"{lines}")
    check(not any(line != line.rstrip() for line in lines), "trailing space")
    timed = node.ctl("-s", "fdb", "show", b.mac).strip()
    check(re.fullmatch(rf"{b.mac} dev {b.port} vlan 1 used \d+/\d+ master mainvx", timed), timed)
    node.ctl("fdb", "del", MAC)


def json_shapes(net):
    """the JSON of every command has the documented keys"""
    node = net.krypton
    net.guests[0].ping(net.guests[2])
    for entry in node.fdb():
        check({"mac", "ifname", "flags", "state"} <= set(entry) and None not in entry.values(), f"fdb: {entry}")
    count = node.json("fdb", "count")
    check(list(count) == ["current", "static", "limit", "learned", "expired", "evicted", "moved", "refused"], f"count: {list(count)}")
    with open(os.path.join(REPOSITORY, "dataplane", "drop_reason.h")) as file:
        reasons = re.findall(r'^    \{"(\w+)",', file.read(), re.M)
    check(list(node.drops()) == reasons, f"drops: {list(node.drops())}")
    for vtep in node.json("vtep"):
        check({"dst", "flood", "state", "port"} <= set(vtep) and vtep["state"] in ("reachable", "unresolved"), f"vtep: {vtep}")
    stats = node.stats()
    check({"ports", "drops", "xdp", "totals", "workers"} <= set(stats), f"stats: {list(stats)}")
    for counters in stats["ports"].values():
        check(set(counters) == {"rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "rx_dropped", "tx_dropped"}, f"{counters}")
    check(set(stats["totals"]) == {"received", "cloned", "generated", "segmented", "sent", "dropped", "consumed", "coalesced", "held"}, "totals")
    check(sum(port["rx_packets"] for port in stats["ports"].values()) == stats["totals"]["received"], "received is not the sum of rx_packets")
    check(sum(port["tx_packets"] for port in stats["ports"].values()) == stats["totals"]["sent"], "sent is not the sum of tx_packets")
    check(sum(stats["drops"].values()) == stats["totals"]["dropped"], "dropped is not the sum of drops")
    check(set(stats["workers"][0]) == {"lcore", "polls", "busy_polls", "packets"}, f"{stats['workers'][0]}")
    fit_ports(node)
    for words in (["status"], ["mtu"], ["vlan"], ["port"]):
        node.json(*words)


def flush_kinds(net):
    """fdb flush takes dynamic entries by default, static ones when told, the flood list never"""
    node, (a, b, c, _) = net.krypton, net.guests
    a.ping(b)
    a.ping(c)
    node.ctl("fdb", "add", MAC, "dev", b.port)
    node.ctl("fdb", "flush", "dev", "vxlan_mainvx")
    left = {entry["mac"] for entry in node.fdb()}
    check(MAC in left and "00:00:00:00:00:00" in left, f"left: {left}")
    node.ctl("fdb", "flush", "static")
    check(node.fdb(MAC) == [], "flush static left it")
    node.ctl("fdb", "flush", "all")
    check({entry["mac"] for entry in node.fdb("dst", net.xenon.vtep)} >= {"00:00:00:00:00:00"}, "flush all took the flood list")
    a.ping(b)
    a.ping(c)


def monitor_events(net):
    """fdb monitor prints one line an event"""
    node = net.krypton
    process = subprocess.Popen([binary("vxctl"), "--run-dir", node.run_dir, "fdb", "monitor"], stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(0.3)
        node.ctl("fdb", "add", MAC, "dev", net.guests[1].port)
        node.ctl("fdb", "del", MAC)
        time.sleep(0.3)
    finally:
        process.terminate()
    lines = [line for line in process.communicate(timeout=5)[0].splitlines() if MAC in line]
    check(len(lines) == 2, f"{lines}")


def vtep_by_hand(net):
    """vtep add and del change the flood list and survive a restart of control"""
    node = net.krypton
    node.ctl("vtep", "add", "172.18.1.7")
    check("172.18.1.7" in [vtep["dst"] for vtep in node.json("vtep")], "not shown")
    node.kill("control")
    node.start_control()
    node.wait_ready()
    check("172.18.1.7" in [vtep["dst"] for vtep in node.json("vtep")], "forgotten")
    node.ctl("vtep", "del", "172.18.1.7")
    check("172.18.1.7" not in [vtep["dst"] for vtep in node.json("vtep")], "still there")


def port_limit(net):
    """a port's limit of learned MACs: known ones keep working, the refused are counted and flooded, none is dropped"""
    node, (a, b, c, _) = net.krypton, net.guests
    node.ctl("port", "del", b.port)
    node.ctl("port", "add", b.port, "driver=netdev", "fdb-max-learned=4")
    node.wait_port(b.port)
    b.ping(c)
    refused = node.json("fdb", "count")["refused"]
    got = seen_by([c], b, *[frame_to(BROADCAST, f"52:54:00:77:00:{n:02x}") for n in range(40)])
    check(got == {3}, "frames from refused MACs were dropped")
    eventually(lambda: node.json("fdb", "count")["refused"] > refused, 2, "refused is not counted")
    learned = [entry for entry in node.fdb("dev", b.port)]
    check(len(learned) <= 4, f"{len(learned)} learned behind a port with limit 4")
    b.ping(c)
    node.ctl("port", "del", b.port)
    node.ctl("port", "add", b.port, "driver=netdev")
    node.wait_port(b.port)
    b.ping(c)


def random_macs_cost_nothing(net):
    """a flood of random MACs costs known flows nothing"""
    node, (a, b, c, d) = net.krypton, net.guests
    a.wait_ping(c)
    ping = a.namespace.popen("ping", "-n", "-q", "-i", "0.01", "-c", "200", "-W", "1", c.ipv4, stdout=-1)
    with frames.RawSocket(b.namespace, "eth0") as raw:
        for number in range(5000):
            raw.send(frame_to("52:54:00:00:99:99", f"52:{number & 255:02x}:{number >> 8:02x}:77:77:77"))
    text = ping.communicate(timeout=20)[0]
    check(" 0% packet loss" in text, text.strip())
    node.ctl("fdb", "flush", "dev", b.port)


def storm_limit(net):
    """storm-pps bounds what a port floods; known unicast is not limited"""
    node, (a, b, c, _) = net.krypton, net.guests
    node.ctl("port", "del", b.port)
    node.ctl("port", "add", b.port, "driver=netdev", "storm-pps=50")
    node.wait_port(b.port)
    b.wait_ping(c)
    time.sleep(1.2)
    before = node.drops()["storm_limit"]
    with frames.RawSocket(b.namespace, "eth0") as raw:
        started = time.monotonic()
        for number in range(600):  # 300 a second for two seconds
            time.sleep(max(0, started + number / 300 - time.monotonic()))
            raw.send(frame_to(BROADCAST, b.mac))
        seconds = time.monotonic() - started
        time.sleep(0.2)
        passed = 600 - (node.drops()["storm_limit"] - before)
        check(50 * seconds * 0.7 <= passed <= 50 * seconds * 1.3 + 50, f"{passed} of 600 broadcast frames passed in {seconds:.1f} s at storm-pps=50")
        b.namespace.run("ping", "-n", "-q", "-c", 50, "-i", "0.002", "-W", 1, c.ipv4)
    node.ctl("port", "del", b.port)
    node.ctl("port", "add", b.port, "driver=netdev")
    node.wait_port(b.port)


def reload_changes(net):
    """reload takes what changed in the file and leaves the rest alone"""
    node = net.krypton
    net.guests[0].ping(net.guests[2])
    node.settings = {"bridge": {"bridge-ageing": 77}}
    node.remotes = [2, 9]
    node.write_config()
    node.ctl("reload")
    check(node.vtep_of(9) in [vtep["dst"] for vtep in node.json("vtep")], "the new remote is not there")
    net.guests[0].ping(net.guests[2])
    node.remotes, node.settings = [2], {}
    node.write_config()
    node.ctl("reload")
    check(node.vtep_of(9) not in [vtep["dst"] for vtep in node.json("vtep")], "the removed remote is still there")


def noble_files_check():
    """--check of config/noble prints a configuration that checks clean again and prints itself"""
    folder = os.path.join(REPOSITORY, "config", "noble")
    files = [name for name in sorted(os.listdir(folder)) if name.endswith(".conf")]
    check(files, "no config/noble/*.conf")
    for name in files:
        done = run(binary("vxplane-control"), "--check", "--config", os.path.join(folder, name), check=False)
        check(done.returncode == 0, f"{name}: exit {done.returncode}: {done.stderr}")
        path = f"/run/vxplane-test/check-{os.getpid()}.conf"
        with open(path, "w") as file:
            file.write(done.stdout)
        again = run(binary("vxplane-control"), "--check", "--config", path, check=False)
        os.unlink(path)
        check(again.returncode == 0 and again.stdout == done.stdout, f"{name}: its own output checks to something else: {again.stderr}")


def check_names_every_problem():
    """--check names every problem at once as FILE:LINE: KEY: text and exits 2"""
    os.makedirs("/run/vxplane-test", exist_ok=True)
    path = f"/run/vxplane-test/wrong-{os.getpid()}.conf"
    with open(path, "w") as file:
        file.write("[vxlan]\nname = v\nvxlan-id = 99999999\nvxlan-remoteip = nonsense\nvxlan-remoteip = 172.18.1.2\nmtu = 1400\n[underlay]\ndevice = d\nmtu = 1400\nwrong-key = 1\n")
    done = run(binary("vxplane-control"), "--check", "--config", path, check=False)
    os.unlink(path)
    check(done.returncode == 2, f"exit {done.returncode}")
    for line, key in ((3, "vxlan-id"), (4, "vxlan-remoteip"), (6, "mtu"), (10, "wrong-key")):
        check(f"{path}:{line}: {key}: " in done.stderr, f"no line {path}:{line}: {key}: in {done.stderr!r}")


if __name__ == "__main__":
    suite = Suite("vxctl")
    suite.group("vxplane-kernel", lambda: pair("vxplane", "kernel", krypton={"ports": ["tap101i0 driver=netdev"]}),
                [static_entry, static_does_not_move, blackhole, add_over_learned, exit_codes, text_of_fdb, json_shapes, flush_kinds, monitor_events,
                 vtep_by_hand, port_limit, storm_limit, random_macs_cost_nothing, reload_changes])
    suite.group("files", None, [noble_files_check, check_names_every_problem])
    suite.main()
