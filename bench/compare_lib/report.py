# SPDX-License-Identifier: Apache-2.0
"""report.json as Markdown. Pure: the same JSON gives the same text."""

import statistics

from compare_lib import figures, profile, targets
from compare_lib.figures import digits, si, spread

KILO = 1000


def text_of(report, plots=()):
    parts = [head(report), target_table(report), memory_table(report), *plot_lines(plots), *tables(report), *profiles(report), not_run(report), CAVEATS]
    return "\n\n".join(part for part in parts if part) + "\n"


def head(report):
    machine, plan = report["machine"], report["plan"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    kind = "full grid, " if plan["full"] else "quick, " if plan["quick"] else ""
    return (f"# vxplane, the Linux kernel and OVS-DPDK on one machine\n\n`sudo bench/compare`, {machine['date']}: {machine['cpu']}"
            f"{' (virtual machine)' if machine['virtual'] else ''}, {machine['cpus']} CPUs, Linux {machine['kernel']}; {versions}; "
            f"{kind}medians of {plan['rounds']} interleaved trials, in brackets the least and the greatest. TSC {report['tsc_hz'] / 1e9:.2f} GHz, "
            f"load before {machine['load']:.1f}; beside the trials others used {others(report):.0%} of a CPU (median).")


def others(report):
    found = [row["figures"]["others"]["median"] for rows in report["results"].values() for row in rows.values() if "others" in row["figures"]]
    return statistics.median(found) if found else 0.0


def table(header, rows):
    return "\n".join([f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}", *(f"| {' | '.join(row)} |" for row in rows)])


def target_table(report):
    rows = [[row.group, row.text, row.goal, (targets.show(row.value) if row.value is not None else "-") + (f" (`{row.note}`)" if row.note else ""), row.verdict]
            for row in targets.rows(report)]
    if all(row[-1] == "no figure" for row in rows):
        return ""
    met = sum(row[-1] == "met" for row in rows)
    return f"## Goals: {met} of {len(rows)} met\n\n" + table(["", "what", "goal", "here", ""], rows)


def memory_table(report):
    """What was measured without a wire: vxplane's work alone, and beside it that of both on DPDK's ports."""
    memory, ports = report.get("memory") or {}, report.get("memory_ports") or {}
    keys = [f"{way}/{size}/{macs}" for way in ("encap", "decap") for size in (64, 1332) for macs in (1, 1000, 100000)]
    names = [name for name in ("vxplane", "ovs") if ports.get(name)]
    rows = []
    for key in keys:
        if key not in memory and not any(key in ports[name] for name in names):
            continue
        way, size, macs = key.split("/")
        cells = [digits(memory[key]) if key in memory else "-"]
        for figure in ("above", "total", "floor"):
            cells += [digits(ports[name][key][figure]) if key in ports[name] else "-" for name in names]
        rows.append([f"{way}, {size} B, {figures.count(int(macs))}", *cells])
    if not rows:
        return ""
    titles = {"vxplane": "vxplane", "ovs": "OVS-DPDK"}
    header = ["cycles a packet", "vxplane, rings in memory", *(f"{titles[name]}, {word}" for word in ("above the floor", "in all", "floor") for name in names)]
    text = "TSC cycles a packet above the I/O floor, outer checksum off (`pipeline_bench`): vxplane's own work, without any driver."
    if names:
        text += (" Beside it the same on DPDK's ports: a file's frames come in over and over (`net_pcap`, infinite_rx) and leave through `net_null`, "
                 "each frame another flow, one worker. The floor is the same switch on the same ports that only passes them on: for vxplane receive and send, "
                 "for OVS one flow to `output`; it parses and looks up even then, so that less of its work is above its floor. OVS's figures are those of `pmd-stats-show`.")
    return f"## In memory\n\n{text}\n\n{table(header, rows)}"


def figure_of(report, cell, contender, key):
    return report["results"].get(cell, {}).get(contender, {}).get("figures", {}).get(key)


def titles_of(report, cells, prefix=""):
    """(key, title) of those on whom the cells are, in their order."""
    order = list(dict.fromkeys(key for cell in cells for key in cell["on"]))
    return [(key, report["titles"].get(prefix + key, key)) for key in order]


def grid(report, cells, key, scale=1, show=digits, prefix="", unit=None):
    """Contenders down, cells across."""
    header = [unit or "", *(cell["title"] for cell in cells)]
    rows = []
    for contender, title in titles_of(report, cells, prefix):
        row = [f"{title} (`{contender}`)"]
        for cell in cells:
            figure = figure_of(report, cell["key"], contender, key)
            row.append(spread({name: value / scale if name != "n" else value for name, value in figure.items()}, show) if figure else "-")
        if any(text != "-" for text in row[1:]):
            rows.append(row)
    return table(header, rows) if rows else ""


def in_group(report, group, **having):
    return [cell for cell in report["cells"] if cell["group"] == group and all(cell.get(key) == value for key, value in having.items())]


def section(title, text, *grids):
    grids = [one for one in grids if one]
    return f"## {title}\n\n" + "\n\n".join([text, *grids]) if grids else ""


def tables(report):
    found = []
    for way, words in (("encap", "guest to wire"), ("decap", "wire to guest"), ("both", "both at once, summed")):
        cells = [{**cell, "title": f"{cell['size']} B, {figures.count(cell['macs'])}"} for cell in in_group(report, "rate", way=way)]
        found.append(section(f"Packets a second, {way}", f"{words}, saturated, thousands that arrived", grid(report, cells, "pps", KILO, unit="kpps")))
    found.append(section("Zero loss", "RFC 2544: the highest rate of which no frame is lost, thousands a second", grid(report, in_group(report, "zeroloss"), "pps", KILO, unit="kpps")))
    found.append(section("CPU cost", "cycles of all CPUs a frame, interrupts and softirq included wherever they run, at 80 % of the contender's own saturated rate; not the generator, nor the veth end and sink where frames arrive, measured alone",
                         grid(report, in_group(report, "cost"), "cycles", unit="cycles")))
    latencies = [grid(report, in_group(report, "latency"), f"us_{name}", unit=f"us, p{name[1:].replace('_', '.')}") for name in ("p50", "p99", "p99_9")]
    found.append(section("Latency", "one way, encap, 64 B", *latencies))
    pings = [grid(report, in_group(report, "ping"), f"us_{name}", prefix="tcp ", unit=f"us, {name}") for name in ("p50", "p99")]
    found.append(section("Ping", "round trip from guest to guest, the far node a kernel", *pings))
    for family in (4, 6):
        cells = [{**cell, "title": cell["title"].replace(f", IPv{family}", "")} for cell in in_group(report, "tcp", family=family)]
        found.append(section(f"TCP over IPv{family}", "Gbit/s from guest to guest, the far node a kernel; kernel to kernel is the same both ways",
                             grid(report, cells, "gbit", prefix="tcp ", unit="Gbit/s"), grid(report, cells, "cpu_per_gb", prefix="tcp ", unit="CPU s/GB")))
    learning = in_group(report, "learn")
    named = [{**cell, "title": title} for cell in learning for title in ["rate"]]
    found.append(section("Learning", "new source MACs a second from one frame each until the FDB has them, and how many the generator could offer (one CPU, the known flows beside them); the share of those sent that it has; what known flows the other way keep of their rate",
                         grid(report, named, "per_second", unit="MACs/s", show=si), grid(report, named, "offered", unit="offered/s", show=si), grid(report, named, "share", unit="share learned"), grid(report, named, "known_kept", unit="kept")))
    found.append(section("A MAC moves", "ms until frames for it arrive at its new place", grid(report, in_group(report, "move"), "ms", unit="ms")))
    idle = in_group(report, "idle")
    found.append(section("Idle", "CPU of the contender's processes without traffic (1 is a whole core; the kernel has none), and how late a frame is after 50 ms of silence",
                         grid(report, [cell for cell in idle if cell["key"].endswith("share")], "share", unit="cores"),
                         grid(report, [cell for cell in idle if cell["key"].endswith("first")], "us_p50", unit="us, p50"),
                         grid(report, [cell for cell in idle if cell["key"].endswith("first")], "us_p99", unit="us, p99")))
    return found


def profiles(report):
    """Parts down, contenders across: a table for each load."""
    found = []
    for group, prefix, unit, measured in (("profile", "", "cycles a frame", "pps"), ("tcp_profile", "tcp ", "CPU s/GB", "gbit")):
        for cell in in_group(report, group):
            columns = [key for key, _ in titles_of(report, [cell], prefix) if figure_of(report, cell["key"], key, measured)]
            medians = {key: {name: figure["median"] for name, figure in report["results"][cell["key"]][key]["figures"].items()} for key in columns}
            if not columns:
                continue
            rows = [[part, *(digits(medians[key][part]) if part in medians[key] else "-" for key in columns)]
                    for part in profile.ORDER if any(part in medians[key] for key in columns)]
            rows.append(["in all, as far as it is the frame's", *(digits(sum(medians[key].get(part, 0) for part in profile.OF_THE_FRAME)) for key in columns)])
            rows.append(["kpps", *(digits(medians[key]["pps"] / KILO) for key in columns)] if group == "profile" else ["Gbit/s", *(digits(medians[key]["gbit"]) for key in columns)])
            found.append(f"## Where they go: {cell['title']}\n\n{PROFILE_TEXT}\n\n" + table([unit, *(f"`{key}`" for key in columns)], rows))
    return found


def plot_lines(plots):
    return ["\n".join(f"![{title}]({name})" for name, title in plots)] if plots else []


def not_run(report):
    lines = [f"- `{key}`: {reason}" for key, reason in report["refused"].items()]
    whole = {key.removeprefix("tcp ") for key in report["refused"]}
    for cell, rows in report["results"].items():
        for key, row in rows.items():
            if "not_run" in row and key not in whole:
                lines.append(f"- `{key}`, {cell}: {row['not_run']}")
            elif "failed_once" in row:
                lines.append(f"- `{key}`, {cell}: {len(row['trials'])} trials only: {row['failed_once']}")
    return "## Not run\n\n" + "\n".join(line.replace("|", "/") for line in lines) if lines else ""


PROFILE_TEXT = ("Saturated, all CPUs, by perf's samples (cpu-clock), each counted as the innermost kernel function of its stack that is known; on whose time a softirq ran "
                "does not matter. `own code` is what the contender's programs do outside of the kernel, asking their ports in vain with it.")

CAVEATS = """## What these figures do not mean

- They compare on one machine, in one run. Ratios carry over to another machine better than rates do; neither says what a NIC of 100 Gbit/s would show.
- The wire is a veth: AF_XDP copies on it, and the softirq that receives a frame runs where it was sent. Most of what a frame costs here is this wire; `bare` is that part.
- The generator has one CPU, the contender's worker the other. The kernel's forwarding is steered to the worker's CPU (RPS), so that it has the same two CPUs as the others; left on the sender's it carried no more when tried (`kernel-1cpu`, with --full).
- Frames are counted where they arrive. Sizes are those of the guest's frame without FCS; encap's wire carries 50 bytes more. `bare` carries them as they are.
- vxplane, kernel and OVS put a UDP checksum on what they send (the kernel's default); the generator's own VXLAN has none, so decap has none to verify.
- OVS and testpmd poll: their cost at less than saturation is that of a whole core, shared by fewer frames. OVS takes DPDK's AF_XDP ports with bytes only: its guests have offloads off.
- No hugepages, for nobody. No NUMA, no hardware queues, one worker."""
