# SPDX-License-Identifier: Apache-2.0
"""What is measured, on whom, how often, and how long that takes. Pure: nothing here touches the machine.

A cell is one figure or a few of one contender under one load. Cells run in rounds, every contender in turn, so that what else the
machine does meets all of them; a cell's figures are medians over the rounds.
"""

from compare_lib.bed import CONTENDERS

BUDGET_SECONDS, QUICK_SECONDS = 600, 55
ROUNDS, FULL_ROUNDS, QUICK_ROUNDS = 3, 3, 1
TRIAL_SECONDS = 0.5  # counted time of a trial of packets
OVERHEAD_SECONDS = 0.55  # starting the generator, warm-up, waiting for the last frame
SETUP_SECONDS = {"bed": 1.5, "network": 3.0, "memory": 5.0, "report": 3.0}
OVS_START_SECONDS, KNOW_SECONDS, MEMORY_CELL_SECONDS = 2.0, 1e-4, 2.3  # to start; to be told a MAC; a cell in memory of two switches

SIZES, MACS = (64, 512, 1332), (1, 1000, 100000)
WAYS = ("encap", "decap")
TCP_SECONDS = 1
MEMORY_CELLS = [(way, size, macs) for way in WAYS for size, macs in ((64, 1), (64, 1000), (64, 100000), (1332, 1000))]
FULL_MEMORY_CELLS = [(way, size, macs) for way in WAYS for size in (64, 1332) for macs in MACS]


class Cell:
    """`group`: what measures it; `arguments`: of that; `on`: keys of contenders (beds) or of TCP networks; `seconds`: one trial of
    one of them; `rounds`: None: as many as there are."""

    def __init__(self, group, key, title, on, seconds, rounds=None, **arguments):
        self.group, self.key, self.title, self.on, self.seconds, self.rounds, self.arguments = group, f"{group}/{key}", title, list(on), seconds, rounds, arguments

    @property
    def needs_network(self):
        """Guests with TCP at both ends; a bed otherwise."""
        return self.group in ("tcp", "ping", "tcp_profile")


def keys(*ranks):
    return [contender.key for contender in CONTENDERS if contender.rank in ranks]


def count_text(macs):
    return {1: "1 MAC", 1000: "1k MACs", 100000: "100k MACs"}.get(macs, f"{macs} MACs")


def rate_cells(full):
    main, wide = keys("main"), keys("main", "wide", *(["full"] if full else []))
    cells = []
    for way in (*WAYS, "both"):
        for size in SIZES:
            for macs in MACS:
                is_corner = size == 64 or macs == 1000
                if not full and (not is_corner or (way == "both" and (size, macs) != (64, 1000)) or (way == "decap" and size == 512)):
                    continue
                everyone = full or (size in (64, 1332) and macs == 1000 and way != "both")
                cells.append(Cell("rate", f"{way}/{size}/{macs}", f"{way}, {size} B, {count_text(macs)}", wide if everyone else main,
                                  TRIAL_SECONDS + OVERHEAD_SECONDS + (1.3 if macs == 100000 else 0), way=way, size=size, macs=macs))
    return cells


def load_cells(full):
    """What needs the rates first: zero loss, cost, latency under load."""
    on, cells = keys("main", *(["wide", "full"] if full else [])), []
    for way in WAYS if full else ("encap",):
        cells.append(Cell("zeroloss", f"{way}/64/1000", f"zero loss, {way}, 64 B, 1k MACs", on, 3.8, None if full else 2, way=way, size=64, macs=1000))
    for way in WAYS:
        cells.append(Cell("cost", f"{way}/64/1000", f"CPU cost, {way}, 64 B, 1k MACs", on, 1.65, way=way, size=64, macs=1000))
    cells.append(Cell("latency", "idle", "one-way latency, 1,000 frames/s", on, 0.95, load="idle"))
    cells.append(Cell("latency", "half", "one-way latency at half the zero-loss rate", on, 0.95, load="half"))
    return cells


def table_cells():
    forwarding = [key for key in keys("main") if key != "bare"]
    return [
        Cell("learn", "new", "new source MACs, known flows beside them", forwarding, 4.2),
        Cell("move", "mac", "a MAC moves from the far VTEP to the guest's port", forwarding, 0.4),
        Cell("idle", "share", "CPU share without traffic, of one CPU", keys("main", "idle"), 1.1, 2),
        Cell("idle", "first", "latency of a frame after 50 ms of silence", keys("main", "idle"), 1.6, 2),
    ]


def profile_cells():
    """Where a frame's cycles go, instead of everything else."""
    cells = [Cell("profile", f"{way}/64/1000", f"{way}, 64 B, 1,000 MACs", keys("main", "wide"), 3.8, way=way, size=64, macs=1000) for way in WAYS]
    return cells + [Cell("tcp_profile", way, f"1 stream, IPv4, offloads on: {word}", ["kernel", "vx-af_xdp", "vx-udp"], 4.5, way=way)
                    for way, word in (("send", "sending"), ("receive", "receiving"))]


def tcp_cells(full):
    cells, all_on, off = [], ["kernel", "vx-af_xdp", "vx-udp"], ["kernel", "vx-af_xdp", "vx-udp", "ovs"]
    rows = [("1 stream, IPv4, offloads on", all_on, 4, True, 1), ("1 stream, IPv6, offloads on", all_on, 6, True, 1),
            ("8 streams, IPv4, offloads on", all_on, 4, True, 8), ("1 stream, IPv4, offloads off", off, 4, False, 1)]
    if full:
        rows += [("8 streams, IPv6, offloads on", all_on, 6, True, 8), ("1 stream, IPv6, offloads off", off, 6, False, 1),
                 ("8 streams, IPv4, offloads off", off, 4, False, 8)]
    for title, on, family, offloads, streams in rows:
        for way in ("send", "receive"):
            key = f"{way}/{streams}/ipv{family}/{'on' if offloads else 'off'}"
            # Kernel to kernel is the same both ways.
            cells.append(Cell("tcp", key, f"{title}: {'sending' if way == 'send' else 'receiving'}", on if way == "send" else on[1:], TCP_SECONDS + 0.2,
                              way=way, family=family, offloads=offloads, streams=streams))
    cells.append(Cell("ping", "row", "round-trip time of lone pings in a row", off, 0.6, 2))
    return cells


class Plan:
    """`cells` in the order of a round; `seconds()`: what it will take."""

    def __init__(self, full=False, quick=False, only=(), profile=False):
        self.full, self.quick = full, quick
        self.rounds = QUICK_ROUNDS if quick else FULL_ROUNDS if full else ROUNDS
        self.budget = QUICK_SECONDS if quick else None if full else BUDGET_SECONDS
        cells = profile_cells() if profile else rate_cells(full) + load_cells(full) + table_cells() + tcp_cells(full)
        if quick:
            cells = quick_cells(cells)
        self.cells = [cell for cell in cells if all(word in f"{cell.key} {cell.title}" for word in only)]
        self.memory = not quick and not profile and all(word in "memory in-memory" for word in only)
        self.memory_cells = (FULL_MEMORY_CELLS if full else MEMORY_CELLS) if self.memory else []
        self._complete(cells)

    def _complete(self, cells):
        """A load at a share of a rate needs that rate."""
        chosen = {cell.key for cell in self.cells}
        wanted = {"zeroloss": ["rate/encap/64/1000"], "cost": [f"rate/{way}/64/1000" for way in WAYS], "latency": ["rate/encap/64/1000", "zeroloss/encap/64/1000"]}
        groups = {cell.group for cell in self.cells}
        missing = {key for group in groups for key in wanted.get(group, []) if key not in chosen}
        self.cells = [cell for cell in cells if cell.key in missing or cell.key in chosen]

    def beds(self):
        return list(dict.fromkeys(key for cell in self.cells if not cell.needs_network for key in cell.on))

    def networks(self):
        return list(dict.fromkeys(key for cell in self.cells if cell.needs_network for key in cell.on))

    def rounds_of(self, cell):
        return min(self.rounds, cell.rounds or self.rounds)

    def seconds(self):
        """Builds and packages are not counted."""
        measured = sum(cell.seconds * len(cell.on) * self.rounds_of(cell) for cell in self.cells)
        alone = 8 if any(cell.group == "cost" for cell in self.cells) else 0
        setup = len(self.beds()) * SETUP_SECONDS["bed"] + len(self.networks()) * SETUP_SECONDS["network"] + SETUP_SECONDS["report"]
        return measured + alone + setup + self.memory_seconds()

    def memory_seconds(self):
        """pipeline_bench; then an OVS for each way, which is told half of its MACs, and twice asks its slow path about the most."""
        if not self.memory:
            return 0
        ways = dict.fromkeys(way for way, *_ in self.memory_cells)
        told = sum(KNOW_SECONDS * max(macs for one, _, macs in self.memory_cells if one == way) for way in ways)
        return SETUP_SECONDS["memory"] + OVS_START_SECONDS * len(ways) + told / 2 + MEMORY_CELL_SECONDS * len(self.memory_cells)


def quick_cells(cells):
    """For a test: kernel and vxplane, a trial of each kind."""
    wanted = {"rate/encap/64/1000", "rate/decap/64/1000", "cost/encap/64/1000", "latency/idle", "move/mac", "learn/new", "idle/share", "tcp/send/1/ipv4/on", "ping/row",
              "profile/encap/64/1000", "tcp_profile/send"}
    on = {"kernel", "vx-netdev", "vx-udp"}
    kept = [cell for cell in cells if cell.key in wanted]
    for cell in kept:
        cell.on = [key for key in cell.on if key in on and not (key == "vx-udp" and not cell.needs_network)]
    return kept
