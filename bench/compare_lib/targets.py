# SPDX-License-Identifier: Apache-2.0
"""The figures that vxplane is to reach, each judged by a report. Pure."""

from compare_lib import figures

MEMORY = [("encap", 64, 1, 40), ("encap", 64, 1000, 60), ("encap", 64, 100000, 100), ("encap", 1332, 1000, 80), ("encap", 1332, 100000, 170),
          ("decap", 64, 1, 40), ("decap", 64, 1000, 60), ("decap", 64, 100000, 100), ("decap", 1332, 1000, 80), ("decap", 1332, 100000, 170)]
# way, bytes, MACs, of bare, of the kernel
WIRE = [("encap", 64, 1000, 0.92, 3.5), ("encap", 1332, 1000, 0.92, 2.7), ("decap", 64, 1000, 0.88, 2.5)]
MANY_MACS_SHARE = 0.9
TCP = [("on", 1.2), ("off", 1.5)]
PING_US, FIRST_US, IDLE_SHARE = (12, 30), 100, 0.02
LEARN_PER_SECOND, KNOWN_SHARE = 200000, 0.95


class Row:
    """`value` None: no figure. `most`: a figure must not exceed it; else `least`."""

    def __init__(self, group, text, value, least=None, most=None, unit="", note=""):
        self.group, self.text, self.value, self.least, self.most, self.unit, self.note = group, text, value, least, most, unit, note

    @property
    def is_met(self):
        if self.value is None:
            return None
        return self.value >= self.least if self.least is not None else self.value <= self.most

    @property
    def goal(self):
        return (f"at least {show(self.least)}" if self.least is not None else f"at most {show(self.most)}") + self.unit

    @property
    def verdict(self):
        return {True: "met", False: "**not met**", None: "no figure"}[self.is_met]


def show(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def rows(report):
    results = report["results"]
    return [*memory_rows(report), *wire_rows(results), *tcp_rows(results), *other_rows(results)]


def memory_rows(report):
    memory = report.get("memory") or {}
    return [Row("in memory", f"{way}, {size} B, {figures.count(macs)}", memory.get(f"{way}/{size}/{macs}"), most=goal, unit=" cycles above I/O") for way, size, macs, goal in MEMORY]


def best(results, cell, key, reference=None, only=None):
    """(value, contender) of the best vxplane of a cell; (None, "") of none. `reference`: divides it. Not on a tap: that is no veth,
    and the generator's end of it costs less than those that it would be compared with."""
    found = [(value, contender) for contender in results.get(cell, {}) if contender.startswith("vx-") and not contender.endswith("-tap") and only in (None, contender)
             and (value := figures.median(results, cell, contender, key)) is not None]
    value, contender = max(found, default=(None, ""))
    if value is None or reference is None:
        return value, contender
    base = figures.median(results, cell, reference, key)
    return (value / base if base else None), contender


def wire_rows(results):
    found = []
    for way, size, macs, of_bare, of_kernel in WIRE:
        for reference, goal, unit in (("bare", of_bare, " of bare"), ("kernel", of_kernel, " x kernel")):
            # The floor is of testpmd's ports: what is held against it has the same.
            value, contender = best(results, f"rate/{way}/{size}/{macs}", "pps", reference, "vx-dpdk" if reference == "bare" else None)
            found.append(Row("wire", f"{way}, {size} B, 1,000 MACs", value, least=goal, unit=unit, note=contender))
    for way in ("encap", "decap"):
        shares = [(share, contender) for contender in results.get(f"rate/{way}/64/100000", {}) if contender.startswith("vx-")
                  and (share := figures.median(results, f"rate/{way}/64/100000", contender, "of_few")) is not None]
        value, contender = min(shares, default=(None, ""))  # every driver has to keep it
        found.append(Row("wire", f"{way}, 64 B, 100,000 MACs", value, least=MANY_MACS_SHARE, unit=" of ours at 1,000", note=contender))
    return found


def tcp_rows(results):
    found = []
    for offloads, goal in TCP:
        for way, word in (("send", "sending"), ("receive", "receiving")):
            value, contender = best(results, f"tcp/{way}/1/ipv4/{offloads}", "gbit")
            # Kernel to kernel is measured once: it is the same both ways.
            base = figures.median(results, f"tcp/send/1/ipv4/{offloads}", "kernel", "gbit")
            found.append(Row("TCP", f"one stream, IPv4, guests' offloads {offloads}, {word}", value / base if value is not None and base else None,
                             least=goal, unit=" x kernel", note=contender))
    return found


def other_rows(results):
    found = []
    pings = [(p50, figures.median(results, "ping/row", key, "us_p99"), key) for key in results.get("ping/row", {}) if key.startswith("vx-")
             and (p50 := figures.median(results, "ping/row", key, "us_p50")) is not None]
    p50, p99, contender = min(pings, default=(None, None, ""))
    found.append(Row("ping", "lone pings in a row, p50", p50, most=PING_US[0], unit=" us", note=contender))
    found.append(Row("ping", "lone pings in a row, p99", p99, most=PING_US[1], unit=" us", note=contender))
    value, contender = best(results, "learn/new", "per_second")
    found.append(Row("learning", "new MACs a second, end to end", value, least=LEARN_PER_SECOND, unit="/s", note=contender))
    found.append(Row("learning", "rate that known flows keep meanwhile", contender and figures.median(results, "learn/new", contender, "known_kept") or None, least=KNOWN_SHARE, note=contender))
    found.append(Row("idle", "CPU of poll = adaptive", figures.median(results, "idle/share", "vx-netdev", "share"), most=IDLE_SHARE, unit=" of a core", note="vx-netdev"))
    found.append(Row("idle", "first packet after 50 ms, p50", figures.median(results, "idle/first", "vx-netdev", "us_p50"), most=FIRST_US, unit=" us", note="vx-netdev"))
    return found
