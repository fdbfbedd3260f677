#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of the tree that a compiler does not know: who may include whom, sizes, lists, licence lines.

Headers are compiled alone with the flags of the build in $VXPLANE_BUILD (skipped without it)."""

import concurrent.futures
import glob
import json
import os
import re
import subprocess
import unittest

REPOSITORY = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
FOLDERS = ("dataplane", "control", "config", "ebpf", "bench", "tests")
SHIPPED = ("dataplane", "control", "config", "ebpf")
MAX_LINES = {"tests": 800}  # of a file; a test file holds the cases of several
MAX_LINES_SHIPPED = 500

# A back end's headers and the only files that may include them. Names are regular expressions of whole paths.
BACK_ENDS = {
    r"rte_.*": r"dataplane/(buffer_pool_mbuf|mbuf_offload|interrupt_thread|ip_reassembly|port_ethdev|port_factory|eal|main)\.(h|cc)",
    r"(bpf|xdp)/.*|linux/(bpf|if_xdp)\.h": r"dataplane/(xdp_steering|tc_ingress|tc_take|af_xdp_sockets)\.(h|cc)|ebpf/.*",
    r"linux/if_tun\.h": r"dataplane/(port_tap|netdev)\.cc",
    r"linux/if_packet\.h|netpacket/packet\.h": r"dataplane/(packet_ring|port_netdev|train_socket)\.cc",
    r"systemd/.*": r"dataplane/service_notify\.h",
    r"libmnl/.*": r"control/rtnetlink\w*\.(h|cc)",
}
# What control/ and config/ take from dataplane/: wire formats, the protocol and what those stand on.
CONTROL_MAY = {"wire.h", "drop_reason.h", "protocol.h", "packet.h", "vlan_table.h", "counters.h", "fdb.h", "checksum.h",
               "message_codec.h", "log.h", "file_descriptor.h", "run_dir.h", "probe_format.h", "service_notify.h"}
CONFIG_MAY = {"wire.h", "vlan_table.h"}
# A step decides on one packet: it sees tables, not ports, workers or sockets.
STEPS = {"classify", "bridge", "flood", "mtu", "encap", "decap", "own_address", "probe", "layer3", "egress_tag", "packet_too_big",
         "segment", "coalesce", "mss_clamp", "ip_packet"}
STEPS_MAY_NOT = {"port.h", "port_factory.h", "worker.h", "server.h", "switchboard.h", "pipeline.h", "eal.h"}


def files(*folders, suffixes=(".h", ".cc")):
    for folder in folders:
        for path in sorted(glob.glob(os.path.join(REPOSITORY, folder, "*"))):
            if path.endswith(suffixes):
                yield os.path.relpath(path, REPOSITORY)


def text_of(path):
    with open(os.path.join(REPOSITORY, path), encoding="utf-8") as file:
        return file.read()


def includes(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text_of(path), re.MULTILINE)


def listed(folder):
    """(target, file) of a folder's sources.list."""
    lines = [line.split() for line in text_of(f"{folder}/sources.list").splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(words) for words in lines]


class Layers(unittest.TestCase):
    def test_back_end_headers_stay_in_their_files(self):
        wrong = [f"{path} includes {name}" for path in files(*SHIPPED) for name in includes(path)
                 for header, allowed in BACK_ENDS.items() if re.fullmatch(header, name) and not re.fullmatch(allowed, path)]
        self.assertEqual(wrong, [])

    def test_nothing_shipped_includes_tests_or_bench(self):
        wrong = [f"{path} includes {name}" for path in files(*SHIPPED) for name in includes(path) if re.match(r"(tests|bench)/|gtest|gmock|benchmark/", name)]
        self.assertEqual(wrong, [])

    def test_folders_import_downwards_only(self):
        wrong = []
        for path in files(*SHIPPED):
            folder = path.split("/")[0]
            for name in includes(path):
                target, _, header = name.partition("/")
                if target not in FOLDERS or target == folder or name == "ebpf/shared.h" and folder == "dataplane":
                    continue
                allowed = {"control": {"dataplane": CONTROL_MAY, "config": None, "ebpf": {"shared.h"}}, "config": {"dataplane": CONFIG_MAY}}
                rule = allowed.get(folder, {}).get(target, set())
                if rule is not None and header not in rule:
                    wrong.append(f"{path} includes {name}")
        self.assertEqual(wrong, [])

    def test_steps_see_no_ports_and_no_workers(self):
        wrong = [f"{path} includes {name}" for path in files("dataplane") if os.path.splitext(os.path.basename(path))[0] in STEPS
                 for name in includes(path) if name.removeprefix("dataplane/") in STEPS_MAY_NOT]
        self.assertEqual(wrong, [])

    def test_includes_do_not_go_in_circles(self):
        graph = {path: [name for name in includes(path) if os.path.exists(os.path.join(REPOSITORY, name))] for path in files(*SHIPPED, suffixes=(".h",))}
        done, way = set(), []

        def visit(path):
            self.assertNotIn(path, way, " -> ".join([*way, path]))
            if path in done:
                return
            way.append(path)
            for name in graph.get(path, []):
                visit(name)
            way.pop()
            done.add(path)

        for path in graph:
            visit(path)


class Files(unittest.TestCase):
    def test_lists_name_files_that_exist_once(self):
        for folder in FOLDERS:
            rows = listed(folder)
            self.assertEqual([row for row in rows if len(row) != 2], [], f"{folder}/sources.list: not `TARGET FILE`")
            self.assertEqual([name for _, name in rows if not os.path.exists(os.path.join(REPOSITORY, folder, name))], [], folder)
            self.assertEqual(sorted({row for row in rows if rows.count(row) > 1}), [], f"{folder}/sources.list: twice")

    def test_every_source_is_listed(self):
        for folder in FOLDERS:
            names = {name for _, name in listed(folder)}
            lost = [path for path in files(folder, suffixes=(".cc", ".bpf.c", "_test.py")) if os.path.basename(path) not in names]
            self.assertEqual(lost, [], f"not in {folder}/sources.list")

    def test_tests_and_benchmarks_are_named_after_their_kind(self):
        self.assertEqual([target for target, _ in listed("tests") if not target.endswith("_test")], [])
        self.assertEqual([target for target, _ in listed("bench") if not re.fullmatch(r"\w+_bench|vxplane-traffic|vx_traffic|vxplane-bench|vx_link|\w+\.bpf\.o", target)], [])

    def test_no_file_is_long(self):
        long = {path: count for path in files(*FOLDERS, suffixes=(".h", ".cc", ".c", ".py"))
                if (count := text_of(path).count("\n")) > MAX_LINES.get(path.split("/")[0], MAX_LINES_SHIPPED)}
        self.assertEqual(long, {})

    def test_every_file_says_its_licence(self):
        missing = [path for path in files(*FOLDERS, suffixes=(".h", ".cc", ".c", ".py"))
                   if "SPDX-License-Identifier: Apache-2.0" not in "".join(text_of(path).splitlines()[:2]) and not re.search("GPL", text_of(path)[:200])]
        self.assertEqual(missing, [])

    def test_headers_are_included_once(self):
        self.assertEqual([path for path in files(*FOLDERS, suffixes=(".h",)) if not re.search(r"^#(pragma once|ifndef \w+_H)", text_of(path), re.MULTILINE)], [])

    def test_headers_compile_alone(self):
        """A header whose .cc includes it first is proven by that; the others are compiled."""
        build = os.environ.get("VXPLANE_BUILD")
        if not build:
            self.skipTest("no VXPLANE_BUILD")
        bare = []
        for path in files(*FOLDERS, suffixes=(".h",)):
            source = path.removesuffix(".h") + ".cc"
            if not os.path.exists(os.path.join(REPOSITORY, source)) or includes(source)[:1] != [path]:
                bare.append(path)
        with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
            commands = {os.path.realpath(os.path.join(entry["directory"], entry["file"])): entry for entry in json.load(file)}
        # Flags of a test: they know every folder's dependencies.
        entry = next(entry for path, entry in commands.items() if "/tests/" in path)
        if "-fsanitize=" in entry["command"]:
            return  # done in the build without
        words = re.sub(r"(?<= )(-[oc] \S+|-M[DP]|-M[FQT] \S+|-fsanitize=\S+|-O\w|-g\w*)(?= |$)", "", entry["command"])
        words = re.sub(r"^\S*ccache ", "", words)

        def compile_alone(path):
            # Not as the main file: its #pragma once and its unused static functions would be warned about.
            done = subprocess.run(f"{words} -Werror -fsyntax-only -x c++ -", shell=True, cwd=entry["directory"], text=True,
                                  input=f'#include "{path}"\n', capture_output=True, check=False)
            return f"{path}: {re.findall('.*error.*', done.stderr)[:2]}" if done.returncode != 0 else ""

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            self.assertEqual([error for error in pool.map(compile_alone, bare) if error], [])


class Readme(unittest.TestCase):
    def test_every_drop_reason_is_documented(self):
        if not os.path.exists(os.path.join(REPOSITORY, "README.md")):
            self.skipTest("no README.md")
        readme = text_of("README.md")
        reasons = re.findall(r'^    \{"(\w+)", "', text_of("dataplane/drop_reason.h"), re.MULTILINE)
        self.assertGreaterEqual(len(reasons), 26)
        self.assertEqual([reason for reason in reasons if f"`{reason}`" not in readme], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
