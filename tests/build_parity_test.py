#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""CMake and Meson build the same thing: options, targets, source files, compiler flags, tests, installed files.

Configures both afresh in a temporary directory (nothing is compiled) and compares what they say they would do."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
PREFIX = "/opt/vxplane"
# Flags that say what the code means or what is warned about; the rest (-I order, -o, dependency files) may differ.
COMPARED = re.compile(r"-(W|D|std=|f|O|g|march|mtune|include)")
# What Meson adds by itself, with no effect here: colours, 64-bit file offsets (always so on 64-bit), precompiled headers;
# and Boost's macros for linkers of other systems, where the two differ.
IGNORED = re.compile(r"-fdiagnostics-color|-D_FILE_OFFSET_BITS|-Winvalid-pch|-D_GLIBCXX_ASSERTIONS|-DBOOST_")
PROGRAMS = ("vxplane-dataplane", "vxplane-control", "vxctl", "vxplane-bench")
OWN_OPTIONS = {"tests", "bench", "werror", "sanitize"}


def run(*command):
    done = subprocess.run(command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}")
    return done.stdout


def compile_flags(folder):
    """Source file: its compared flags, for C++ files of this repository."""
    with open(os.path.join(folder, "compile_commands.json"), encoding="utf-8") as file:
        commands = json.load(file)
    out = {}
    for command in commands:
        path = os.path.relpath(os.path.realpath(os.path.join(command["directory"], command["file"])), REPOSITORY)
        words = re.sub(r'\\"|\\\\"', '"', command["command"]).replace("-include rte_config.h", "-includerte_config.h").split()
        flags = {word.strip("'").replace('"', "") for word in words if COMPARED.match(word.strip("'")) and not IGNORED.match(word.strip("'"))}
        if not path.startswith(".."):
            out.setdefault(path, set()).update(flags)
    return out


def includes_system(folder, pattern):
    """Source files whose command has a plain -I of a directory that `pattern` matches."""
    with open(os.path.join(folder, "compile_commands.json"), encoding="utf-8") as file:
        return sorted({command["file"] for command in json.load(file) if re.search(r" -I ?\S*" + pattern, command["command"])})


class Parity(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="vxplane-parity.")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.cmake, cls.meson = os.path.join(cls.folder, "cmake"), os.path.join(cls.folder, "meson")
        run("cmake", "-G", "Ninja", "-S", REPOSITORY, "-B", cls.cmake, "-Dwerror=ON", f"-DCMAKE_INSTALL_PREFIX={PREFIX}")
        run("meson", "setup", cls.meson, REPOSITORY, "-Dwerror=true", f"-Dprefix={PREFIX}")
        cls.targets = json.loads(run("meson", "introspect", "--targets", cls.meson))
        cls.options = json.loads(run("meson", "introspect", "--buildoptions", cls.meson))

    def test_options_have_the_same_names_and_defaults(self):
        # Defaults of a fresh configuration: of CMake from its file, as the cache already has -Dwerror.
        with open(os.path.join(REPOSITORY, "CMakeLists.txt"), encoding="utf-8") as file:
            text = file.read()
        cmake = {name: value == "ON" for name, value in re.findall(r'^option\((\w+) "[^"]*" (ON|OFF)\)', text, re.MULTILINE)}
        cmake.update(re.findall(r'^set\((\w+) "([^"]*)" CACHE STRING', text, re.MULTILINE))
        with open(os.path.join(REPOSITORY, "meson_options.txt"), encoding="utf-8") as file:
            text = file.read()
        values = {"true": True, "false": False}
        meson = {name: values.get(value, value.strip("'"))
                 for name, value in re.findall(r"option\('(\w+)',.*?\bvalue: ('\w+'|true|false)", text, re.DOTALL)}
        meson["werror"] = False  # Meson's own option, off unless asked for
        self.assertEqual(cmake, meson)
        self.assertEqual(set(cmake), OWN_OPTIONS)

    def test_targets_are_the_same(self):
        listed = run("ninja", "-C", self.cmake, "-t", "targets", "all")
        suffixes = r"(?:lib(\w+)\.a|([\w-]+)): CXX_(?:STATIC_LIBRARY|EXECUTABLE)_LINKER"
        cmake = {library or program for library, program in re.findall(r"^" + suffixes, listed, re.MULTILINE)}
        cmake |= set(re.findall(r"^([\w-]+\.bpf\.o): CUSTOM_COMMAND", listed, re.MULTILINE))
        self.assertEqual(sorted(cmake), sorted(target["name"] for target in self.targets))

    def test_sources_have_the_same_flags(self):
        cmake, meson = compile_flags(self.cmake), compile_flags(self.meson)
        self.assertEqual(sorted(cmake), sorted(meson))
        for path, flags in cmake.items():
            self.assertEqual(sorted(flags), sorted(meson[path]), path)

    def test_dpdk_headers_are_system_headers(self):
        for folder in (self.cmake, self.meson):
            self.assertEqual(includes_system(folder, "/dpdk"), [])

    def test_tests_are_the_same(self):
        cmake = {test["name"] for test in json.loads(run("ctest", "--test-dir", self.cmake, "--show-only=json-v1"))["tests"]}
        meson = {test["name"] for test in json.loads(run("meson", "introspect", "--tests", self.meson))}
        self.assertEqual(sorted(cmake), sorted(meson))
        self.assertIn("build_parity_test", cmake)

    def test_installed_files_are_the_same(self):
        """Both really install, into a directory each; what would be compiled is any program here."""
        for folder in (self.cmake, self.meson):
            for name in (*PROGRAMS, *(target["name"] for target in self.targets if target["name"].endswith(".bpf.o"))):
                shutil.copy("/bin/true", os.path.join(folder, name))
        roots = {name: os.path.join(self.folder, f"installed-by-{name}") for name in ("cmake", "meson")}
        run("env", f"DESTDIR={roots['cmake']}", "cmake", "--install", self.cmake)
        run("meson", "install", "-C", self.meson, "--no-rebuild", "--destdir", roots["meson"])
        installed = {name: {os.path.relpath(os.path.join(folder, file), root): oct(os.stat(os.path.join(folder, file)).st_mode)
                            for folder, _, files in os.walk(root) for file in files} for name, root in roots.items()}
        self.assertEqual(installed["cmake"], installed["meson"])
        for path in ("sbin/vxplane-dataplane", "sbin/vxplane-control", "bin/vxctl", "bin/vxplane-bench", "lib/vxplane/vxplane_xdp.bpf.o",
                     "lib/systemd/system/vxplane-control.service", "share/man/man8/vxctl.8", "share/man/man8/vxplane-bench.8",
                     "share/bash-completion/completions/vxctl"):
            self.assertIn(PREFIX[1:] + "/" + path, installed["cmake"])
        self.assertEqual([path for path in installed["cmake"] if not path.startswith(PREFIX[1:] + "/")], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
