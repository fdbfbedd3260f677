# SPDX-License-Identifier: Apache-2.0
"""One trial of each kind of cell. A function per group: (session, place, cell) -> {figure: number or None}.

`place` is a running Bed, or a TCP Network; `session` knows what earlier cells found (`median()`), the rate of the cycle counter
(`tsc`) and what the generator costs alone (`alone()`).
"""

import concurrent.futures
import time

from cases import Failed
from compare_lib import moving, profile, traffic
from compare_lib.contenders import cores_of
from compare_lib.foreign import Watch
from compare_lib.streams import lone_ping_times, stream
from transfer import address_of

LEARN_RATE, LEARN_SECONDS, KNOWN_SHARE = 420000, 0.8, 0.3  # two senders on a CPU: six tenths of it come to be sent
PROFILE_SECONDS = 1.2
COST_SHARE = 0.8  # of the contender's own rate: what it does without loss
MOST_LEARN_TAIL_SECONDS = 1.5


def pair_of(session, bed, ways, **options):
    """Runs of the generator at once, one each way; their results in the order of `ways`."""
    started = [traffic.Traffic(bed, way, "--no-announce", **options) for way in ways]
    try:
        return [run.result() for run in started]
    finally:
        for run in started:
            run.stop()


def rate(session, bed, cell):
    """Saturation: frames a second that arrive when as many are sent as the generator can."""
    way, size, macs = (cell.arguments[key] for key in ("way", "size", "macs"))
    ways = ("encap", "decap") if way == "both" else (way,)
    for one in ways:
        session.announce(bed, one, macs)
    # Flows and tables are warm before anything counts: 100,000 MACs take as many first packets.
    results = pair_of(session, bed, ways, size=size, macs=macs, warmup=traffic.WARMUP_SECONDS if macs < 100000 else 1.0)
    figures = [traffic.figures_of(result) for result in results]
    found = {"pps": sum(one["pps"] for one in figures), "sent_pps": sum(one["sent_pps"] for one in figures),
             "duplicated": sum(one["duplicated"] for one in figures), "reordered": sum(one["reordered"] for one in figures)}
    if macs == 100000 and way != "both" and bed.contender.is_vxplane:
        # The machine's speed changes from minute to minute: what few MACs make of it is measured beside.
        few = traffic.figures_of(traffic.run(bed, way, "--no-announce", size=size, macs=1000))["pps"]
        found["of_few"] = found["pps"] / few if few else None
    return found


def zeroloss(session, bed, cell):
    """RFC 2544: the highest rate at which nothing is lost."""
    way, size, macs = (cell.arguments[key] for key in ("way", "size", "macs"))
    session.announce(bed, way, macs)
    run = traffic.Traffic(bed, way, "--no-announce", "--search", session.loss, "--search-seconds", session.search_seconds, size=size, macs=macs, seconds=0.2, warmup=0.05)
    try:
        found = run.result(15)["search"]
    finally:
        run.stop()
    return {"pps": found["pps"], "confirmed": int(found["confirmed"]), "sender_bound": int(found["sender_bound"])}


def cost(session, bed, cell):
    """Cycles of all CPUs a frame, interrupts included, at a rate that it carries, less what the wire's far end costs alone."""
    way, size, macs = (cell.arguments[key] for key in ("way", "size", "macs"))
    saturated = session.median(f"rate/{way}/{size}/{macs}", bed.contender.key, "pps")
    if not saturated:
        raise Failed("no rate to take a share of")
    session.announce(bed, way, macs)
    spent, result = cost_at(bed, way, saturated * COST_SHARE, size, macs)
    if not result["pps"]:
        raise Failed("no frame arrived")
    a_frame = spent * session.tsc / result["pps"]
    far_end = session.alone(result["sent_pps"], size)
    return {"cycles": a_frame - far_end, "with_far_end": a_frame, "far_end": far_end, "pps": result["pps"], "loss": result["loss"]}


def cost_at(bed, way, pps, size, macs):
    """(CPU seconds a second without the generator's, figures of the run)."""
    run = traffic.Traffic(bed, way, "--no-announce", size=size, macs=macs, rate=pps, seconds=1.2, warmup=0.1)
    try:
        spent = traffic.forwarding_share(run, 0.35, 0.85)
        return spent, traffic.figures_of(run.result())
    finally:
        run.stop()


def latency(session, bed, cell):
    """One way, from the generator's clock to its clock."""
    session.announce(bed, "encap", 1000)
    if cell.arguments["load"] == "idle":
        pps, source = 1000, 1
    else:
        found = session.median("zeroloss/encap/64/1000", bed.contender.key, "pps")
        saturated = session.median("rate/encap/64/1000", bed.contender.key, "pps")
        pps, source = (found / 2, 1) if found else ((saturated or 0) * 0.4, 0)
    if not pps:
        raise Failed("no rate to take a half of")
    result = traffic.figures_of(traffic.run(bed, "encap", "--no-announce", size=64, macs=1000 if pps > 1000 else 1, rate=pps))
    if result["loss"] == 1:
        raise Failed("no frame arrived")
    return {**{key: value for key, value in result.items() if key.startswith("us_")}, "pps": pps, "loss": result["loss"], "of_zero_loss": source}


def learn(session, bed, cell):
    """New source MACs from the guest, a frame each, until the contender's FDB has them; known flows the other way meanwhile."""
    session.flush(bed)
    session.announce(bed, "decap", 1000)
    saturated = session.median("rate/decap/64/1000", bed.contender.key, "pps") or 200000
    known = {"size": 64, "macs": 1000, "rate": saturated * KNOWN_SHARE}
    alone = traffic.figures_of(traffic.run(bed, "decap", "--no-announce", **known, seconds=0.4))
    before = bed.count_macs()
    beside = traffic.Traffic(bed, "decap", "--no-announce", **known, seconds=LEARN_SECONDS + 0.3)
    try:
        began = time.monotonic()
        new = traffic.run(bed, "encap", "--no-announce", "--learn", LEARN_RATE, seconds=LEARN_SECONDS, warmup=0)
        sent_for = new["seconds"]
        learned, tail = settled_count(bed, before)
        kept = traffic.figures_of(beside.result())
    finally:
        beside.stop()
        session.flush(bed)
    return {"learned": learned, "sent": new["sent"], "offered": new["pps_sent"], "share": learned / max(new["sent"], 1), "per_second": learned / max(sent_for + tail, 1e-3),
            "known_kept": (1 - kept["loss"]) / max(1 - alone["loss"], 1e-6), "wall": time.monotonic() - began}


def settled_count(bed, before):
    """(MACs beyond `before`, seconds after the call until the last of them was there)."""
    began = time.monotonic()
    count, grew = bed.count_macs() - before, 0.0
    while (now := time.monotonic() - began) < MOST_LEARN_TAIL_SECONDS and now - grew < 0.3:
        seen = bed.count_macs() - before
        if seen > count:
            count, grew = seen, now
        time.sleep(0.02)
    return count, grew


def move(session, bed, cell):
    """ms from the frame that shows a MAC at the guest's port to the first frame for it that arrives there."""
    return {"ms": moving.converge(bed) * 1000}


def idle(session, bed, cell):
    if cell.key.endswith("/first"):
        session.announce(bed, "encap", 1)
        time.sleep(0.1)
        result = traffic.figures_of(traffic.run(bed, "encap", "--no-announce", rate=20, seconds=0.9, warmup=0.1))
        return {key: value for key, value in result.items() if key in ("us_p50", "us_p99")}
    pids = traffic.pids_of(bed.node)
    time.sleep(0.2)
    before, began = traffic.process_seconds(pids), time.monotonic()
    time.sleep(0.8)
    return {"share": (traffic.process_seconds(pids) - before) / (time.monotonic() - began)}


def tcp(session, network, cell):
    family, offloads, streams, way = (cell.arguments[key] for key in ("family", "offloads", "streams", "way"))
    ends = (1, 3) if offloads else (2, 4)
    sender, receiver = (network.guests[number] for number in (ends if way == "send" else ends[::-1]))
    watch = Watch(time.monotonic)
    result = stream(sender, receiver, address_of(receiver, family), session.tcp_seconds, streams)
    gigabytes = max(result["gbit"] / 8 * session.tcp_seconds, 1e-6)
    return {"gbit": result["gbit"], "cpu_per_gb": max(result["cpu_per_gb"] - watch.seconds() / gigabytes, 0), "retransmits": result["retransmits"]}


def ping(session, network, cell):
    times = lone_ping_times(network.guests[1 if 1 in network.usable else 2], network.guests[3 if 1 in network.usable else 4], "row")
    return {"us_p50": times["p50"], "us_p99": times["p99"]} if times else {}


def profiled(session, bed, cell):
    """Cycles of all CPUs a frame at saturation, by what they went for."""
    way, size, macs = (cell.arguments[key] for key in ("way", "size", "macs"))
    session.announce(bed, way, macs)
    run = traffic.Traffic(bed, way, "--no-announce", size=size, macs=macs, seconds=2.0)
    try:
        time.sleep(0.5)
        found = profile.shares(profile.record(PROFILE_SECONDS), traffic.pids_of(bed.node), cores_of(1)[0])
        pps = traffic.figures_of(run.result())["pps"]
    finally:
        run.stop()
    if not pps:
        raise Failed("no frame arrived")
    return {"pps": pps, **{part: share * session.tsc / pps for part, share in found.items()}}


def tcp_profiled(session, network, cell):
    """CPU seconds a GB of one stream, by what they went for."""
    sender, receiver = (network.guests[number] for number in ((1, 3) if cell.arguments["way"] == "send" else (3, 1)))
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        running = beside.submit(stream, sender, receiver, address_of(receiver, 4), 2.5)
        time.sleep(0.6)
        found = profile.shares(profile.record(PROFILE_SECONDS), traffic.pids_of(network.nodes[0]), cores_of(1)[0])
        gbit = running.result()["gbit"]
    return {"gbit": gbit, **{part: share / (gbit / 8) for part, share in found.items()}}


GROUPS = {"profile": profiled, "tcp_profile": tcp_profiled, "rate": rate, "zeroloss": zeroloss, "cost": cost, "latency": latency, "learn": learn, "move": move, "idle": idle, "tcp": tcp, "ping": ping}
