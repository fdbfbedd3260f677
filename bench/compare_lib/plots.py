# SPDX-License-Identifier: Apache-2.0
"""The report's plots, drawn by gnuplot as SVG."""

import subprocess

from compare_lib.report import figure_of, in_group, titles_of

COLOURS = ("#555555", "#d62728", "#ff9f1c", "#1f77b4", "#2ca02c", "#9467bd", "#17becf", "#8c564b", "#e377c2", "#bcbd22")
HEAD = 'set terminal svg size 820,480 dynamic enhanced font "sans-serif,12" background "#ffffff"\nset output\nset grid ytics lc rgb "#dddddd"\nset key outside center top horizontal maxcols 2\nset border 3\nset tics nomirror\n'


def draw(script):
    """The SVG of a gnuplot script; None when there is no gnuplot or it refuses."""
    try:
        done = subprocess.run(["gnuplot"], input=script, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 and "</svg>" in done.stdout else None


def quoted(text):
    """As gnuplot wants it: its own escapes and its markup are not ours."""
    return '"' + text.replace("\\", "").replace('"', "").replace("_", r"\\_").replace("{", "").replace("}", "").replace("\n", "\\n") + '"'


def lines_plot(title, x_label, series, is_log):
    """`series`: [(name, [(x, median, min, max)])], in kpps."""
    script = HEAD + f"set title {quoted(title)}\nset xlabel {quoted(x_label)}\nset ylabel \"kpps\"\nset yrange [0:*]\n"
    if is_log:
        script += "set logscale x 10\nset xrange [0.7:150000]\nset format x \"%.0s %c\"\n"
    series = [(name, points) for name, points in series if points]
    if not series:
        return None
    for index, (_, points) in enumerate(series):
        script += f"$d{index} << EOD\n" + "".join(f"{x} {median} {least} {most}\n" for x, median, least, most in points) + "EOD\n"
    return script + "plot " + ", ".join(f"$d{index} using 1:2:3:4 with yerrorlines lw 2 pt 7 ps 0.6 lc rgb \"{COLOURS[index % len(COLOURS)]}\" title {quoted(name)}"
                                        for index, (name, _) in enumerate(series)) + "\n"


def bars_plot(title, y_label, groups, series):
    """`groups`: names across; `series`: [(name, [(median, min, max) or None])], one for each group."""
    series = [(name, values) for name, values in series if any(values)]
    if not series:
        return None
    script = HEAD + (f"set title {quoted(title)}\nset ylabel {quoted(y_label)}\nset yrange [0:*]\nset style data histogram\nset style histogram errorbars gap 1.5 lw 1\n"
                     "set style fill solid 0.85\nset xtics font \",10\"\n")
    for index, (_, values) in enumerate(series):
        lines = [f"{quoted(group)} {value[0]} {value[1]} {value[2]}" if value else f"{quoted(group)} NaN NaN NaN" for group, value in zip(groups, values)]
        script += f"$d{index} << EOD\n" + "\n".join(lines) + "\nEOD\n"
    return script + "plot " + ", ".join(f"$d{index} using 2:3:4:xtic(1) lc rgb \"{COLOURS[index % len(COLOURS)]}\" title {quoted(name)}" for index, (name, _) in enumerate(series)) + "\n"


def points_of(report, contender, cells, x_key):
    found = []
    for cell in sorted(cells, key=lambda cell: cell[x_key]):
        figure = figure_of(report, cell["key"], contender, "pps")
        if figure:
            found.append((cell[x_key], *(figure[key] / 1000 for key in ("median", "min", "max"))))
    return found


def scripts(report):
    """[(file name, title, gnuplot script)] of all that the report has figures for."""
    found = []
    for way in ("encap", "decap"):
        for name, x_key, having, label in (("size", "size", {"macs": 1000}, "bytes of the guest's frame"), ("macs", "macs", {"size": 64}, "MACs")):
            cells = in_group(report, "rate", way=way, **having)
            series = [(title, points_of(report, key, cells, x_key)) for key, title in titles_of(report, cells)]
            at = "1,000 MACs" if name == "size" else "64 B"
            found.append((f"{way}-{name}.svg", f"{way}, {at}", lines_plot(f"Packets a second, {way}, {at}", label, series, name == "macs")))
    found.append(("cost.svg", "CPU cost", bars(report, "CPU cost of a frame, all CPUs, generator left out", "cycles", in_group(report, "cost"), "cycles")))
    found.append(("tcp.svg", "TCP", bars(report, "TCP from guest to guest", "Gbit/s", in_group(report, "tcp", family=4), "gbit", "tcp ")))
    return [row for row in found if row[2]]


def label(cell):
    """A cell below its bars: in short, in two lines."""
    if cell["group"] != "tcp":
        return cell["title"].split(", 64 B")[0]
    return f"{'sending' if cell['way'] == 'send' else 'receiving'}, {cell['streams']}\n{'super-frames' if cell['offloads'] else 'offloads off'}"


def bars(report, title, y_label, cells, key, prefix=""):
    def values(contender):
        row = [figure_of(report, cell["key"], contender, key) for cell in cells]
        return [(figure["median"], figure["min"], figure["max"]) if figure else None for figure in row]
    return bars_plot(title, y_label, [label(cell) for cell in cells], [(name, values(contender)) for contender, name in titles_of(report, cells, prefix)])
