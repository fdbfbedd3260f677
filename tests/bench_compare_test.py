#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""bench/compare without a machine: figures, the plan and its budget, goals, report and plots of a canned run."""

import json
import os
import sys
import unittest
import xml.etree.ElementTree as ElementTree

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "bench"))

from compare_lib import figures, moving, plots, report, session, targets  # noqa: E402
from compare_lib.foreign import KTHREADD, foreign  # noqa: E402
from compare_lib.plan import BUDGET_SECONDS, QUICK_SECONDS, Plan  # noqa: E402

CANNED, GOLDEN = (os.path.join(HERE, "data", name) for name in ("compare_report.json", "compare_report.md"))


def canned():
    with open(CANNED) as file:
        return json.load(file)


class Figures(unittest.TestCase):
    def test_medians_and_spread(self):
        trials = [{"pps": 3.0, "loss": 0.5}, {"pps": 1.0}, {"pps": 2.0, "loss": None}]
        self.assertEqual(figures.summarise(trials), {"pps": {"median": 2.0, "min": 1.0, "max": 3.0, "n": 3}, "loss": {"median": 0.5, "min": 0.5, "max": 0.5, "n": 1}})
        self.assertIsNone(figures.summary([]))

    def test_no_more_digits_than_are_known(self):
        self.assertEqual([figures.digits(value) for value in (1234.5, 123.45, 99.96, 12.345, 9.999, 1.2345, 0.12345, 0)], ["1234", "123", "100", "12.3", "10.0", "1.23", "0.123", "0"])
        self.assertEqual([figures.si(value) for value in (999, 1234, 1.5e6)], ["999", "1.23 k", "1.50 M"])

    def test_a_single_trial_has_no_spread(self):
        self.assertEqual(figures.spread(figures.summary([5])), "5.00")
        self.assertEqual(figures.spread(figures.summary([4, 5, 6])), "5.00 (4.00..6.00)")
        self.assertEqual(figures.spread(None), "-")

    def test_interpolation_stays_between_its_points(self):
        points = [(100, 10.0), (300, 30.0), (200, 40.0)]
        self.assertEqual([figures.interpolate(points, x) for x in (0, 100, 150, 250, 900)], [10.0, 10.0, 25.0, 35.0, 30.0])
        self.assertIsNone(figures.interpolate([], 1))


class Plans(unittest.TestCase):
    def test_the_default_plan_fits_its_budget_with_room_for_disturbed_trials(self):
        plan = Plan()
        self.assertLess(plan.seconds(), BUDGET_SECONDS)
        self.assertTrue(all(plan.rounds_of(cell) >= 2 for cell in plan.cells))
        self.assertTrue(all(plan.rounds_of(cell) >= 3 for cell in plan.cells if cell.group in ("rate", "tcp", "cost", "learn")))

    def test_the_quick_plan_fits_its_own_and_needs_no_foreign_package(self):
        plan = Plan(quick=True)
        self.assertLess(plan.seconds(), QUICK_SECONDS)
        self.assertEqual({kind for key in plan.beds() + plan.networks() for kind in [key.split("-")[0]]}, {"kernel", "vx"})

    def test_full_has_every_cell_of_the_default(self):
        self.assertLessEqual({cell.key for cell in Plan().cells}, {cell.key for cell in Plan(full=True).cells})

    def test_keys_are_unique_and_every_goal_has_its_cell(self):
        keys = [cell.key for cell in Plan().cells]
        self.assertEqual(len(keys), len(set(keys)))
        wanted = {f"rate/{way}/{size}/{macs}" for way, size, macs, *_ in targets.WIRE} | {f"rate/{way}/64/100000" for way in ("encap", "decap")}
        wanted |= {f"tcp/{way}/1/ipv4/{offloads}" for way in ("send", "receive") for offloads, _ in targets.TCP}
        wanted |= {"ping/row", "learn/new", "idle/share", "idle/first"}
        self.assertEqual(wanted - set(keys), set())

    def test_only_brings_the_rates_that_a_load_is_a_share_of(self):
        self.assertEqual([cell.key for cell in Plan(only=["cost/decap"]).cells], ["rate/encap/64/1000", "rate/decap/64/1000", "cost/decap/64/1000"])
        self.assertEqual([cell.key for cell in Plan(only=["tcp/send/8"]).cells], ["tcp/send/8/ipv4/on"])
        self.assertEqual(Plan(only=["tcp/send/8"]).beds(), [])


class Foreign(unittest.TestCase):
    def test_kernel_threads_and_our_descendants_are_ours(self):
        table = {1: (0, 1.0), KTHREADD: (0, 2.0), 14: (KTHREADD, 4.0), 50: (1, 8.0), 51: (50, 16.0), 52: (51, 32.0), 60: (1, 64.0), 61: (60, 128.0)}
        self.assertEqual(foreign(table, 50), 1.0 + 64.0 + 128.0)

    def test_a_parent_that_has_ended_is_no_circle(self):
        self.assertEqual(foreign({7: (6, 3.0)}, 50), 3.0)


class Vxlan(unittest.TestCase):
    def test_a_frame_in_vxlan_has_right_lengths_and_header_checksum(self):
        data = moving.in_vxlan(bytes(60), "1000,172.18.1.2,172.18.1.1,02:00:00:35:00:02,02:00:00:35:00:01")
        self.assertEqual(len(data), 60 + 50)
        total = sum(int.from_bytes(data[14 + at:16 + at], "big") for at in range(0, 20, 2))
        self.assertEqual((total & 0xFFFF) + (total >> 16), 0xFFFF)
        self.assertEqual(data[46:50], (1000 << 8).to_bytes(4, "big"))


class Memory(unittest.TestCase):
    def test_medians_without_checksum_are_taken_from_pipeline_bench(self):
        def row(name, aggregate, value):
            return {"name": f"run/{name}/iterations:1/repeats:3_{aggregate}", "aggregate_name": aggregate, "above_floor": value}
        output = {"benchmarks": [row("encap/bytes:64/macs:1000/csum:0", "median", 70.0), row("encap/bytes:64/macs:1000/csum:0", "mean", 71.0),
                                 row("encap/bytes:64/macs:1000/csum:1", "median", 82.0), row("decap/bytes:1332/macs:1/csum:0", "median", 79.0)]}
        self.assertEqual(session.memory_rows(output), {"encap/64/1000": 70.0, "decap/1332/1": 79.0})


class Goals(unittest.TestCase):
    def test_at_least_and_at_most(self):
        self.assertEqual([targets.Row("", "", value, least=1.0).is_met for value in (0.99, 1.0, None)], [False, True, None])
        self.assertEqual([targets.Row("", "", value, most=1.0).is_met for value in (1.01, 1.0, None)], [False, True, None])

    def test_the_floor_is_held_against_the_same_ports_and_the_kernel_against_the_best_veth(self):
        def rows(**values):
            return {"rate/encap/64/1000": {key.replace("_", "-"): {"figures": {"pps": figures.summary([value])}} for key, value in values.items()}}
        found = targets.wire_rows(rows(bare=500.0, kernel=100.0, vx_dpdk=400.0, vx_netdev=450.0, vx_tap=900.0))
        self.assertEqual([(row.value, row.note) for row in found[:2]], [(0.8, "vx-dpdk"), (4.5, "vx-netdev")])

    def test_a_report_without_a_figure_judges_nothing(self):
        empty = {"results": {}, "memory": None}
        self.assertEqual({row.is_met for row in targets.rows(empty)}, {None})


class Reports(unittest.TestCase):
    maxDiff = None

    def test_markdown_is_the_golden_one(self):
        text = report.text_of(canned(), [("encap-size.svg", "encap")])
        if os.environ.get("VXPLANE_UPDATE_GOLDEN"):
            with open(GOLDEN, "w") as file:
                file.write(text)
        with open(GOLDEN) as file:
            self.assertEqual(text, file.read())

    def test_what_did_not_run_is_told_with_its_reason(self):
        text = report.text_of(canned())
        self.assertIn("`ovs`: package openvswitch-switch-dpdk is not installed", text)

    def test_plots_are_well_formed_and_name_everybody(self):
        found = plots.scripts(canned())
        self.assertGreaterEqual({name for name, *_ in found}, {"encap-size.svg", "encap-macs.svg", "cost.svg", "tcp.svg"})
        for name, title, script in found:
            with self.subTest(name):
                svg = plots.draw(script)
                if svg is None and plots.draw("set terminal svg\nset output\nplot 1\n") is None:
                    self.skipTest("no gnuplot")
                self.assertIsNotNone(svg, f"gnuplot refuses {title}: {script}")
                root = ElementTree.fromstring(svg)
                self.assertTrue(root.tag.endswith("svg"))
                self.assertIn("kernel", "".join(root.itertext()))

    def test_no_figures_no_plots(self):
        self.assertEqual(plots.scripts({**canned(), "cells": []}), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
