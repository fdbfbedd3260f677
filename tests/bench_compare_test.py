#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""bench/compare without a machine: figures, the plan and its budget, goals, report and plots of a canned run."""

import json
import os
import socket
import struct
import sys
import tempfile
import threading
import time
import unittest
import xml.etree.ElementTree as ElementTree

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "bench"))

from compare_lib import figures, in_memory, moving, plots, profile, report, targets  # noqa: E402
from cases import Failed  # noqa: E402
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

    def test_the_memory_cells_are_counted_and_those_of_quick_are_none(self):
        plan = Plan(only=["memory"])
        self.assertEqual((plan.cells, Plan(quick=True).memory_cells), ([], []))
        self.assertEqual({(way, size, macs) for way, size, macs in plan.memory_cells if size == 64}, {(way, 64, macs) for way in ("encap", "decap") for macs in (1, 1000, 100000)})
        self.assertLess(plan.memory_seconds(), 40)
        self.assertLess(set(plan.memory_cells), set(Plan(full=True).memory_cells))

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


class Profiles(unittest.TestCase):
    OWN, WORKER = {70}, 1

    def part(self, stack, pid=70, thread="vxplane-w1", cpu=WORKER):
        return profile.part_of(thread, pid, cpu, stack.split(), self.OWN, self.WORKER)

    def test_the_innermost_known_function_says_what_was_done(self):
        # A worker's send, in whose time the far end of the wire receives.
        send = "__xsk_generic_xmit xsk_sendmsg __x64_sys_sendto"
        self.assertEqual(self.part(f"sock_alloc_send_pskb {send}"), "AF_XDP, send")
        self.assertEqual(self.part(f"bpf_prog_1_vxt_sink veth_xdp_rcv_skb veth_poll net_rx_action do_softirq {send}"), profile.FAR)
        self.assertEqual(self.part("netif_skb_features __dev_queue_xmit packet_snd packet_sendmsg"), "packet socket, send")
        self.assertEqual(self.part("__netif_rx veth_xmit dev_hard_start_xmit __dev_direct_xmit packet_direct_xmit packet_snd"), profile.NEAR)
        # The generator's CPU, in whose time the contender's port receives.
        generator = "veth_poll net_rx_action do_softirq xdp_test_run_batch bpf_test_run_xdp_live"
        for stack, part in ((f"bpf_prog_2_vxplane_filter tpacket_rcv __netif_receive_skb_core {generator}", "packet socket, receive"),
                            (f"xsk_generic_rcv xdp_do_redirect {generator}", "AF_XDP, receive"), (f"inet_gro_receive dev_gro_receive {generator}", profile.NEAR),
                            (f"fdb_find_rcu br_forward br_handle_frame {generator}", "bridge, vxlan, IP, UDP"), ("page_pool_alloc xdp_test_run_batch", profile.GENERATOR)):
            self.assertEqual(self.part(stack, 60, "vxplane-traffic", 0), part, stack)

    def test_what_no_function_tells_belongs_to_the_process(self):
        self.assertEqual([self.part(""), self.part("entry_SYSCALL_64"), self.part("", 60, "vxplane-traffic"), self.part("pv_native_safe_halt do_idle", 0, "swapper"),
                          self.part("asm_exc_page_fault", 61, "cc1plus")], [profile.OWN, profile.CALLS, profile.GENERATOR, profile.IDLE, profile.OTHERS])

    def test_tcp_and_its_segments_are_told_apart(self):
        for name, part in (("tcp_sendmsg_locked", "guests' TCP"), ("tcp_gso_segment", "segmentation, checksums"), ("tcp_v4_rcv", "guests' TCP"), ("udp_sendmsg", "bridge, vxlan, IP, UDP"),
                           ("tun_get_user", "tap"), ("__skb_udp_tunnel_segment", "segmentation, checksums"), ("packet_recvmsg", "packet socket, receive")):
            self.assertEqual(self.part(f"memcpy {name} do_syscall_64"), part, name)

    def test_samples_are_read_and_shared_by_time(self):
        one = "vxplane-w1 70 [001] {}: \n\tffffffff81e1 tpacket_rcv.isra.0+0x10 ([kernel.kallsyms])\n\t          1018 syscall (libc.so.6)\n\n"
        two = "lcore worker 2 70 [001] {}: \n\t    55e1 tpacket_rcv of ours (vxplane-dataplane)\n\n"
        text = "".join((one if at % 4 else two).format(f"{100 + at / profile.HERTZ:.6f}") for at in range(4001))
        self.assertEqual(next(profile.samples(one.format("7.5"))), ("vxplane-w1", 70, 1, 7.5, ["tpacket_rcv"]))
        found = profile.shares(text, self.OWN, self.WORKER)
        self.assertEqual({part: round(share, 2) for part, share in found.items()}, {"packet socket, receive": 0.75, profile.OWN: 0.25})
        with self.assertRaises(Failed):
            profile.shares(one.format("7.5"), self.OWN, self.WORKER)

    def test_the_plan_is_of_its_own(self):
        plan = Plan(profile=True)
        self.assertEqual({cell.group for cell in plan.cells}, {"profile", "tcp_profile"})
        self.assertFalse(plan.memory)
        self.assertLess(plan.seconds(), 300)
        self.assertFalse({cell.group for cell in Plan(full=True).cells} & {"profile", "tcp_profile"})

    def test_a_report_has_a_table_for_each_load_and_no_goals(self):
        trial = {"pps": 5e5, profile.OWN: 300.0, "AF_XDP, send": 900.0, profile.FAR: 1000.0, profile.IDLE: 5.0}
        cell = {"key": "profile/encap/64/1000", "group": "profile", "title": "encap, 64 B", "on": ["bare", "vx-dpdk"]}
        rows = {"vx-dpdk": {"figures": figures.summarise([trial]), "trials": [trial]}, "bare": {"figures": {}, "trials": [], "not_run": "no perf"}}
        text = report.text_of({**canned(), "cells": [cell], "results": {cell["key"]: rows}, "memory": None, "memory_ports": {}, "refused": {}})
        self.assertNotIn("## Goals", text)
        for line in ("## Where they go: encap, 64 B", "| cycles a frame | `vx-dpdk` |", "| own code | 300 |", "| AF_XDP, send | 900 |", "| the wire's far end and sink | 1000 |",
                     "| in all, as far as it is the frame's | 1200 |", "| kpps | 500 |", "- `bare`, profile/encap/64/1000: no perf"):
            self.assertIn(line, text)


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
            return {"name": f"run/{name}/iterations:1/repeats:3_{aggregate}", "aggregate_name": aggregate, "floor": 10.0, "above_floor": value}
        output = {"benchmarks": [row("encap/bytes:64/macs:1000/csum:0", "median", 70.0), row("encap/bytes:64/macs:1000/csum:0", "mean", 71.0),
                                 row("encap/bytes:64/macs:1000/csum:1", "median", 82.0), row("decap/bytes:1332/macs:1/csum:0", "median", 79.0)]}
        self.assertEqual(in_memory.pipeline_rows(output), {"encap/64/1000": (10.0, 70.0), "decap/1332/1": (10.0, 79.0)})

    def test_what_a_slow_machine_measured_is_known_by_its_floor(self):
        rows = {"encap/64/1": (10.0, 38.0), "encap/64/1000": (19.0, 107.0), "encap/1332/1": (11.5, 40.0), "decap/64/1": (12.5, 40.0), "decap/64/1000": (21.0, 119.0)}
        self.assertEqual(in_memory.slow_keys(rows), ["encap/64/1000", "decap/64/1000"])
        self.assertEqual(in_memory.slow_keys({}), [])

    def test_what_costs_more_than_with_more_macs_is_measured_again(self):
        rows = {"encap/64/1": (10.0, 36.0), "encap/64/1000": (10.0, 68.0), "encap/64/100000": (10.0, 63.0), "encap/1332/1000": (10.0, 70.0), "decap/64/1000": (10.0, 96.0),
                "decap/64/100000": (10.5, 95.0)}
        self.assertEqual(in_memory.slow_keys(rows), ["encap/64/1000"])
        self.assertEqual([in_memory.better((10.0, 68.0), (10.4, 59.0)), in_memory.better((10.0, 68.0), (19.0, 40.0)), in_memory.better((10.0, 60.0), (10.0, 61.0))],
                         [(10.4, 59.0), (10.0, 68.0), (10.0, 60.0)])

    def test_half_of_the_macs_are_here_and_no_two_are_the_same(self):
        for macs, half in ((1, 1), (1000, 500), (100000, 50000)):
            here, there = in_memory.macs_of(macs)
            self.assertEqual([len(set(here)), len(set(there)), len({*here, *there})], [half, half, 2 * half])
            self.assertTrue(all(mac[0] == 2 and len(mac) == 6 for mac in here + there))

    def test_a_files_frames_go_where_the_way_goes_each_in_a_flow_of_its_own(self):
        here, there = (set(macs) for macs in in_memory.macs_of(1000))
        for way, at, to, source in (("encap", 0, there, here), ("decap", 50, here, there)):
            frames = list(in_memory.frames_of(way, 64, 1000))
            self.assertEqual({len(frame) for frame in frames}, {64 + at})
            self.assertEqual(({frame[at:at + 6] for frame in frames}, {frame[at + 6:at + 12] for frame in frames}), (to, source))
            self.assertEqual(len({frame[34:36] for frame in frames}), in_memory.LEAST_FRAMES)  # source ports, decap's those outside
        self.assertEqual(len(list(in_memory.frames_of("decap", 1332, 1))), in_memory.LEAST_FRAMES)

    def test_a_file_is_a_pcap(self):
        with tempfile.NamedTemporaryFile() as file:
            in_memory.write_pcap(file.name, [b"a" * 60, b"b" * 64])
            data = file.read()
        self.assertEqual((len(data), data[:4], data[20:24]), (24 + 16 + 60 + 16 + 64, struct.pack("=I", 0xA1B2C3D4), struct.pack("=I", 1)))
        self.assertEqual(struct.unpack_from("=II", data, 24 + 8), (60, 60))

    def test_of_the_threads_the_busiest_counts(self):
        text = """pmd thread numa_id 0 core_id 1:
  packets received: 6898976
  miss with success upcall: 3
  avg processing cycles per packet: 250.07 (1725212799/6898976)
main thread:
  packets received: 7
  miss with success upcall: 2
  avg processing cycles per packet: 9.00 (63/7)
"""
        self.assertEqual(in_memory.figures_of_pmd(text), (6898976, 1725212799, 3))
        self.assertEqual(in_memory.figures_of_pmd("main thread:\n  packets received: 0\n"), (0, 0, 0))

    def test_answers_that_arrive_in_pieces_are_put_together_and_a_refusal_is_told(self):
        ends = socket.socketpair()
        control = in_memory.Unixctl.__new__(in_memory.Unixctl)
        control.socket, control.decoder, control.text, control.number = ends[0], json.JSONDecoder(), "", 0
        with ends[0], ends[1] as switch:
            def serve():
                switch.recv(65536)
                for part in ('{"id":0,"result":"one","error":null}{"id":1,"res', 'ult":"two","error":null}'):
                    switch.sendall(part.encode())
                    time.sleep(0.02)
                switch.recv(65536)
                switch.sendall(b'{"id":2,"result":null,"error":"no such bridge\\n"}')
            server = threading.Thread(target=serve)
            server.start()
            self.assertEqual(control.calls([("a", ()), ("b", ("c",))]), ["one", "two"])
            with self.assertRaisesRegex(Failed, "OVS: no such bridge"):
                control.call("d")
            server.join()


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

    def test_without_ovs_the_memory_table_is_vxplanes_and_the_reason_is_told(self):
        made = canned()
        made["memory_ports"]["ovs"] = {}
        made["refused"]["in memory, OVS-DPDK"] = "no /usr/lib/openvswitch"
        text = report.text_of(made)
        self.assertIn("| encap, 64 B, 1,000 MACs | 70.6 | 76.0 | 142 | 66.0 |", text)
        self.assertNotIn("| OVS-DPDK, in all", text)
        self.assertIn("- `in memory, OVS-DPDK`: no /usr/lib/openvswitch", text)
        self.assertNotIn("net_null", report.text_of({**made, "memory_ports": {}}))

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
