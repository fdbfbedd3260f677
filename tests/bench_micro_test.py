#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""bench/micro as its user meets it, with the programs that $VXPLANE_BUILD has: the list, short cases as table and as JSON, a word that
no case has, a program that fails."""

import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
BENCH = os.path.join(os.path.dirname(HERE), "bench")
sys.path.insert(0, BENCH)

import compare_lib  # noqa: E402, F401
from lab import build_directory  # noqa: E402

PROGRAMS = ("step", "pipeline", "fdb", "offload", "multicore", "learn")
SHORT = {"pipeline/run/encap/bytes:64/macs:1/csum:0": {"cycles", "least", "floor", "total"}, "fdb/find/entries:1/hits:100": {"cycles", "least"}}


def micro(*words, build=None):
    environment = {**os.environ, "VXPLANE_BUILD": build or build_directory(), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, os.path.join(BENCH, "micro"), "--no-build", *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60)


@unittest.skipUnless(all(os.path.exists(os.path.join(build_directory(), f"{name}_bench")) for name in PROGRAMS), "this build has no benchmarks")
class Micro(unittest.TestCase):
    def test_the_list_names_cases_of_every_program_once(self):
        done = micro("--list")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        names = done.stdout.splitlines()
        self.assertEqual({name.split("/")[0] for name in names}, set(PROGRAMS))
        self.assertEqual(len(names), len(set(names)))
        self.assertLessEqual(set(SHORT), set(names))
        self.assertEqual([name for name in names if re.search("repeats|iterations|real_time", name)], [])

    def test_a_case_alone_is_a_table_of_one_row(self):
        name = "pipeline/run/encap/bytes:64/macs:1/csum:0"
        done = micro("--only", name)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        machine, _, header, row, *rest = done.stdout.splitlines()
        self.assertRegex(machine, r"\d+ CPUs, load ")
        self.assertEqual(header.split(), ["pipeline", "cycles", "least", "floor", "total"])
        self.assertEqual(row.split()[0], name.removeprefix("pipeline/"))
        cycles, least, floor, total = (float(value) for value in row.split()[1::2])
        self.assertTrue(0 < floor < total and 0 < cycles < total and 0 < least < total, row)
        self.assertEqual("".join(rest), "")

    def test_json_has_the_machine_and_every_case_asked_for(self):
        done = micro("--json", *(word for name in SHORT for word in ("--only", name)))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        report = json.loads(done.stdout)
        self.assertLessEqual({"cpu", "cpus", "kernel", "load", "date"}, set(report["machine"]))
        self.assertEqual({f"{row['program']}/{row['case']}" for row in report["results"]}, set(SHORT))
        for row in report["results"]:
            for name, figure in row["figures"].items():
                self.assertEqual(set(figure), {"median", "spread"}, f"{row['case']}: {name}")
                self.assertGreater(figure["median"], 0, f"{row['case']}: {name}")
        self.assertIn("above_floor", report["results"][0]["figures"])

    def test_a_word_that_no_case_has_is_refused_in_one_line(self):
        done = micro("--only", "nothing-of-this-name")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (1, "", "bench/micro: no case has such a word in its name (--list)\n"))

    def test_an_unknown_option_is_a_usage_error(self):
        self.assertEqual(micro("--onyl", "fdb").returncode, 2)


class Failing(unittest.TestCase):
    def test_a_program_that_ends_badly_is_named_with_its_last_line(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in PROGRAMS:
                path = os.path.join(folder, f"{name}_bench")
                with open(path, "w") as file:
                    file.write("#!/bin/sh\ncase $1 in --benchmark_list_tests=true) echo case/iterations:1;; *) echo a fault >&2; exit 3;; esac\n")
                os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
            done = micro("--only", "fdb/", build=folder)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr, "bench/micro: fdb_bench ended with 3: ['a fault']\n")


if __name__ == "__main__":
    unittest.main(verbosity=2)
