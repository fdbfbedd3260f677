# SPDX-License-Identifier: Apache-2.0
"""Where the cycles of a frame go: perf's samples of all CPUs while a load runs, sorted by what was being done.

A sample belongs to the innermost function of its stack that PARTS knows. What the kernel does in a softirq then counts as that, on
whomever's time it ran; the rest belongs to whose process it is. The cycle counters of a virtual machine are seldom to be had, so
the samples are of time (cpu-clock), told as cycles of the TSC.
"""

import collections
import os
import re
import shutil
import subprocess
import tempfile

from cases import Failed

HERTZ = 1999
KERNEL = "ffffffff"  # what its addresses begin with
GENERATORS = ("vxplane-traffic", "iperf3")

OWN, CALLS, GENERATOR, IDLE, OTHERS = "own code", "system calls, waiting", "generator", "idle", "others of the machine"
NEAR, FAR = "veth, GRO, receive softirq", "the wire's far end and sink"
PARTS = [(title, re.compile(pattern)) for title, pattern in (
    ("segmentation, checksums", r"\w*(skb_segment|gso_segment|tunnel_segment|skb_checksum)\w*$"),
    ("packet socket, receive", r"(t?packet_rcv|packet_recvmsg|packet_poll)\w*$"),
    ("packet socket, send", r"(packet_sendmsg|t?packet_snd|packet_xmit|packet_direct_xmit)\w*$"),
    ("AF_XDP, receive", r"(__)?(xsk_rcv|xsk_map_redirect|xsk_map_flush|xsk_recvmsg|xsk_poll|xsk_generic_rcv)\w*$|xdp_do_(redirect|flush)$"),
    ("AF_XDP, send", r"(__)?xsk_(sendmsg|generic_xmit|build_skb|destruct_skb|wakeup)\w*$"),
    ("tap", r"tun_\w+$"),
    ("bridge, vxlan, IP, UDP", r"(__)?(br|vxlan|iptunnel|ip|ip6|udp|udpv6|neigh|fib|nf|arp)_(?!gro|gso)\w+$|udp_tunnel\w*$"),
    ("guests' TCP", r"(__)?(tcp|tcp_v4|inet)_(?!gro|gso)\w+$"),
    ("far or near", r"veth_(poll|xdp_rcv)\w*$"),
    (NEAR, r"(__)?(netif_receive_skb|netif_rx|process_backlog|enqueue_to_backlog|veth_xmit|veth_forward_skb)\w*$"),
    (GENERATOR, r"(bpf_test_run_xdp_live|xdp_test_run_batch|bpf_prog_test_run_xdp)\w*$"),
    (IDLE, r"(do_idle|cpu_startup_entry)$"),
)]
ORDER = [OWN, CALLS, *dict.fromkeys(title for title, _ in PARTS if title not in ("far or near", GENERATOR, IDLE)), FAR, GENERATOR, IDLE, OTHERS]

OF_THE_FRAME = [part for part in ORDER if part not in (FAR, GENERATOR, IDLE, OTHERS)]

SAMPLE = re.compile(r"(\S.*?)\s+(\d+)\s+\[(\d+)\]\s+([\d.]+):\s*$")


def samples(text):
    """(name of the thread, pid, cpu, seconds, the stack's kernel functions, innermost first) of each, from what `perf script` prints."""
    found = None
    for line in text.splitlines():
        head = SAMPLE.match(line)
        if head:
            found = (head[1], int(head[2]), int(head[3]), float(head[4]), [])
        elif not line.strip():
            if found:
                yield found
            found = None
        elif found:
            address, _, name = line.strip().partition(" ")
            if address.startswith(KERNEL):
                found[-1].append(re.split(r"[+.]", name)[0])  # without .isra.0 and the like
    if found:
        yield found


def part_of(thread, pid, cpu, stack, own, worker):
    """`own`: pids of the contender; `worker`: its CPU."""
    for name in stack:
        for title, pattern in PARTS:
            if pattern.match(name):
                # The near end's frames come on their sender's CPU, and the far end's sender is the worker.
                return (FAR if cpu == worker else NEAR) if title == "far or near" else title
    if pid in own:
        return CALLS if stack else OWN
    return GENERATOR if thread in GENERATORS else IDLE if pid == 0 else OTHERS


def shares(text, own, worker):
    """{part: CPU seconds a second}."""
    counts, times = collections.Counter(), []
    for thread, pid, cpu, at, stack in samples(text):
        counts[part_of(thread, pid, cpu, stack, own, worker)] += 1
        times.append(at)
    if len(times) < 100:
        raise Failed(f"perf took {len(times)} samples")
    return {part: count / HERTZ / (max(times) - min(times)) for part, count in counts.items()}


def record(seconds):
    """What `perf script` prints of that time from now on."""
    if not shutil.which("perf"):
        raise Failed("no perf: package linux-perf is not installed")
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "perf.data")
        for command in (["perf", "record", "-q", "-a", "-g", "-e", "cpu-clock", "-F", str(HERTZ), "-o", data, "--", "sleep", str(seconds)],
                        ["perf", "script", "-i", data, "-F", "comm,pid,cpu,time,ip,sym"]):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60)
            if done.returncode:
                raise Failed(f"{' '.join(command[:2])}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout
