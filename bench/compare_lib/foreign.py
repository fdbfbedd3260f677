# SPDX-License-Identifier: Apache-2.0
"""How much CPU time processes that are not ours take while something is measured: a trial beside which others worked is run again."""

import os

TICKS = os.sysconf("SC_CLK_TCK")
KTHREADD = 2


def processes():
    """{pid: (parent, CPU seconds of it and of its children that have ended)}."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has just ended
        found[int(name)] = (int(fields[1]), sum(map(int, fields[11:15])) / TICKS)
    return found


def foreign(table, own):
    """CPU seconds of all in the table but kernel threads (they work for us), `own` and what descends from it. When one ends, its
    seconds go to its parent: the sum stays."""
    total = 0.0
    for pid, (parent, seconds) in table.items():
        if pid == KTHREADD or parent == KTHREADD:
            continue
        while pid not in (own, 0, None):
            pid = table[pid][0] if pid in table else None
        if pid != own:
            total += seconds
    return total


class Watch:
    """What others took since it was made: `seconds()` of CPU, or as a `share()` of one CPU."""

    def __init__(self, clock):
        self.clock, self.began, self.before = clock, clock(), foreign(processes(), os.getpid())

    def seconds(self):
        return max(foreign(processes(), os.getpid()) - self.before, 0.0)

    def share(self):
        return self.seconds() / max(self.clock() - self.began, 1e-3)
