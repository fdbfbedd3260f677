#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Builds vxplane and runs its tests: one line a test, at the end `N passed, N failed, N skipped`.

    sudo tests/run                 all of it
    sudo tests/run PART...         unit, meson, tsan, system
    sudo tests/run NAME...         tests by name: fdb_test (of the unit part), traffic_test (of the system part)

unit    CMake build (warnings are errors, ccache) and its tests, BPF programs and the tree's rules among them
meson   Meson build with AddressSanitizer and UndefinedBehaviorSanitizer, the same tests again
tsan    the tests that use threads under ThreadSanitizer
system  tests/system/*_test*: nodes in network namespaces, a Debian kernel and a whole Debian in qemu

Builds are kept in build/ (release, meson, tsan), output in build/logs; a failed test's output is shown.
A skipped test says why. With CI=true a skip is a failure unless VXPLANE_ALLOW_SKIP has a comma-separated word of its line.
"""

import glob
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

REPOSITORY = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
BUILD = os.path.join(REPOSITORY, "build")
LOGS = os.path.join(BUILD, "logs")
JOBS = str(os.cpu_count() or 1)
SHOWN_LINES = 60
BUILD_SECONDS, TESTS_SECONDS, SCRIPT_SECONDS = 1500, 900, 1200
# Tests in which threads share memory.
THREADED = re.compile(r"^(fdb|worker|flow_order|switchboard|server)_test$")
# System tests that change what there is once on a machine (hugepages, the lab called noble) or need its CPUs, and the order of the others.
ALONE = ("ports_test", "noble_test", "switchover_test", "compare_test")
LONGEST_FIRST = ("vm_takeover_test", "traffic_test", "heal_test", "takeover_test", "follow_test", "evpn_test", "package_test", "migration_test", "offload_test", "qemu_test", "qemu_guest_test", "underlay_test")
# A clone elsewhere finds what this one compiled.
os.environ.setdefault("CCACHE_BASEDIR", REPOSITORY)
os.environ.setdefault("CCACHE_NOHASHDIR", "true")
# Of what the sanitizers see nothing.
PROGRAMS = ("vxplane-dataplane", "vxplane-control", "vxctl", "vxplane-bench", "bpf")


class Report:
    """Counts, and prints a line for each test."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.allowed = [word for word in os.environ.get("VXPLANE_ALLOW_SKIP", "").split(",") if word]
        self.failures = []

    def line(self, verdict, name, seconds=None, why=""):
        text = name + (f" ({seconds:.1f} s)" if seconds is not None else "") + (f": {why}" if why else "")
        if verdict == "skip" and os.environ.get("CI") == "true" and not any(word in text for word in self.allowed):
            verdict, text = "FAIL", text + " (skips are failures with CI=true)"
        if verdict == "ok":
            self.passed += 1
        elif verdict == "skip":
            self.skipped += 1
        else:
            self.failed += 1
            self.failures.append(text)
        print(f"{verdict:4} {text}", flush=True)


def log_path(name):
    os.makedirs(LOGS, exist_ok=True)
    return os.path.join(LOGS, re.sub(r"[^\w.-]", "_", name) + ".log")


def show(text):
    lines = text.rstrip().splitlines()
    if len(lines) > SHOWN_LINES:
        print(f"     | ... {len(lines) - SHOWN_LINES} lines more in build/logs")
    for line in lines[-SHOWN_LINES:]:
        print(f"     | {line}")
    sys.stdout.flush()


def run(command, log, seconds, environment=None):
    """Runs `command` in a process group of its own, output to the file `log`. Its exit code; 124 when it took
    longer than `seconds`."""
    with open(log, "a", encoding="utf-8", errors="replace") as file:
        file.write("$ " + " ".join(command) + "\n")
        file.flush()
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                                   stdout=file, start_new_session=True, env={**os.environ, **(environment or {})})

        def stop(*_):
            os.killpg(process.pid, signal.SIGTERM)

        def give_up(*_):
            stop()
            file.write(f"stopped: it took longer than {seconds} s\n")
            timed_out.append(True)

        timed_out = []
        handlers = {number: signal.signal(number, lambda number, _: (stop(), sys.exit(128 + number)))
                    for number in (signal.SIGINT, signal.SIGTERM)}
        handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, give_up)
        signal.alarm(seconds)
        try:
            code = process.wait()
        finally:
            signal.alarm(0)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return 124 if timed_out else code


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


class Part:
    """One build and its tests."""

    left_again = 2  # tests of a part that may be run once more

    def __init__(self, report, name, folder):
        self.report, self.name, self.folder = report, name, os.path.join(BUILD, folder)
        self.again = None  # runs the one test of that name, True: it passed

    def build(self, *commands):
        """True when all commands succeed; else the part has failed."""
        started = time.monotonic()
        log = log_path(f"{self.name}-build")
        open(log, "w").close()
        for command in commands:
            if run(command, log, BUILD_SECONDS) != 0:
                self.report.line("FAIL", f"{self.name}: build", time.monotonic() - started)
                errors = [line for line in read(log).splitlines() if re.search(r"\berror:|^FAILED|undefined reference", line, re.IGNORECASE)]
                show("\n".join(errors) or read(log))
                return False
        self.report.line("ok", f"{self.name}: build", time.monotonic() - started)
        return True

    def cmake(self, *options, targets=()):
        command = ["cmake", "-G", "Ninja", "-S", REPOSITORY, "-B", self.folder, "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache", "-Dwerror=ON", *options]
        return self.build(command, ["ninja", "-C", self.folder, "-j", JOBS, "-k", "0", *targets])

    def ctest(self, *options, environment=None):
        log, junit = log_path(f"{self.name}-ctest"), os.path.join(LOGS, f"{self.name}.xml")
        for path in (log, junit):
            open(path, "w").close()
        run(["ctest", "--test-dir", self.folder, "-j", JOBS, "--output-junit", junit, "--test-output-size-passed", "1000000",
             "--test-output-size-failed", "1000000", *options], log, TESTS_SECONDS, environment)
        self.again = lambda name: run(["ctest", "--test-dir", self.folder, "-R", f"^{re.escape(name)}$"], log, TESTS_SECONDS, environment) == 0
        self.junit(junit, log)

    def meson_test(self, environment):
        log = log_path(f"{self.name}-test")
        open(log, "w").close()
        run(["meson", "test", "-C", self.folder, "--no-rebuild", "--num-processes", JOBS], log, TESTS_SECONDS, environment)
        lines = re.findall(r"^ *\d+/\d+ (\S+) +(OK|EXPECTEDFAIL|FAIL|SKIP|TIMEOUT|ERROR)\s+([\d.]+)s(.*)$", read(log), re.MULTILINE)
        output = read(os.path.join(self.folder, "meson-logs", "testlog.txt")) if lines else ""
        self.again = lambda name: run(["meson", "test", "-C", self.folder, "--no-rebuild", name], log, TESTS_SECONDS, environment) == 0
        for name, verdict, seconds, _ in lines:
            self.one({"OK": "ok", "SKIP": "skip"}.get(verdict, "FAIL"), name, float(seconds), self.meson_output(output, name))
        if not lines:
            self.report.line("FAIL", f"{self.name}: meson test")
            show(read(log))

    @staticmethod
    def meson_output(output, name):
        """What the test printed, from Meson's log of all of them."""
        for block in re.split(r"^=+ *\d+/\d+ *=+$", output, flags=re.MULTILINE):
            if re.search(rf"^test: +(\S+:)?{re.escape(name)}$", block, re.MULTILINE):
                return block
        return output

    def junit(self, path, log):
        try:
            cases = ElementTree.parse(path).getroot().findall("testcase")
        except ElementTree.ParseError:
            cases = []
        if not cases:
            self.report.line("FAIL", f"{self.name}: no test ran")
            show(read(log))
        for case in cases:
            verdict = {"run": "ok", "notrun": "skip", "disabled": "skip"}.get(case.get("status"), "FAIL")
            self.one(verdict, case.get("name"), float(case.get("time") or 0), case.findtext("system-out") or "")

    def one(self, verdict, name, seconds, output):
        with open(log_path(f"{self.name}-{name}"), "w", encoding="utf-8") as file:
            file.write(output)
        # As with the system tests: one that fails may be run once more, and says so. Clocks run out on a busy machine.
        if verdict == "FAIL" and self.again and self.left_again > 0:
            self.left_again -= 1
            print(f"     again: {self.name}: {name}: build/logs/{os.path.basename(log_path(f'{self.name}-{name}'))}", flush=True)
            if self.again(name):
                verdict = "ok"
        why = (re.findall(r"^skip\w*:? *(.+)$", output, re.MULTILINE | re.IGNORECASE) or ["it says no reason"])[-1] if verdict == "skip" else ""
        self.report.line(verdict, f"{self.name}: {name}", seconds, why)
        if verdict == "FAIL":
            show(output)
        # "FILE:LINE: Skipped\nREASON\n" ... "[  SKIPPED ] SUITE.CASE (0 ms)": single cases inside an executable
        for reason, case in re.findall(r"Skipped\n(.*?)\n(?:.*\n)*?\[  SKIPPED \] (\S+?),? .*ms\)", output):
            self.report.line("skip", f"{self.name}: {name} {case}", None, reason)


RELEASE = "-DCMAKE_BUILD_TYPE=Release"  # as tests/lab/noble configures build/release


def unit(report, names=()):
    part = Part(report, "unit", "release")
    programs = [name for name in names if not os.path.exists(os.path.join(REPOSITORY, "tests", name + ".py"))]
    if part.cmake(RELEASE, targets=programs):
        part.ctest(*(["-R", "^(" + "|".join(map(re.escape, names)) + ")$"] if names else []))


def meson(report):
    part = Part(report, "meson", "meson")
    # What Meson builds is the same as CMake's (build_parity_test), so its build is the one with ASan and UBSan: all
    # tests run in both, and one build fewer is made.
    options = ["-Dwerror=true", "-Dbench=false", "-Dsanitize=address", "-Doptimization=0", "-Ddebug=false", "-Dcpp_args=-g1", "-Db_ndebug=false", "-Db_lundef=false"]
    setup = ["meson", "configure", part.folder, *options] if os.path.exists(os.path.join(part.folder, "build.ninja")) \
        else ["meson", "setup", *options, part.folder, REPOSITORY]
    if part.build(setup, ["ninja", "-C", part.folder, "-j", JOBS, "-k", "0"]):
        part.meson_test(environment={"LSAN_OPTIONS": f"suppressions={REPOSITORY}/tests/lsan.supp:print_suppressions=0",
                                     "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
                                     "UBSAN_OPTIONS": "print_stacktrace=1"})


SANITIZED = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1", "-Dbench=OFF"]


def tsan(report):
    part = Part(report, "tsan", "tsan")
    chosen = sorted({test for test in listed_tests() if THREADED.search(test)})
    if part.cmake("-Dsanitize=thread", *SANITIZED, targets=chosen):
        part.ctest("-R", "^(" + "|".join(chosen) + ")$", environment={"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"})


def system(report, names=()):
    """Each script prints `ok|skip|FAIL TEXT` lines; what it prints between them belongs to the failure before, or to what is tried `again:`."""
    scripts = [path for path in sorted(glob.glob(os.path.join(REPOSITORY, "tests", "system", "*_test*")))
               if os.access(path, os.X_OK) and os.path.isfile(path)]
    chosen = [path for path in scripts if not names or script_name(path) in names]
    if not names or chosen:
        build = Part(report, "system", "release")
        if not os.environ.get("VXPLANE_BUILD") and not build.cmake(RELEASE, targets=PROGRAMS):
            return
    # Two at a time: they wait more than they work. Not those that change what the machine has only once.
    alone = [path for path in chosen if script_name(path) in ALONE]
    run_scripts(report, [path for path in chosen if path not in alone], 2)
    run_scripts(report, alone, 1)


def listed_tests():
    """The tests of tests/sources.list."""
    return [line.split()[0] for line in read(os.path.join(REPOSITORY, "tests", "sources.list")).splitlines() if re.match("[a-z]", line)]


def script_name(path):
    return os.path.splitext(os.path.basename(path))[0]


class Script:
    """One of tests/system, running, its output in a log."""

    def __init__(self, path):
        self.name, self.log = script_name(path), log_path(f"system-{script_name(path)}")
        self.started, self.timed_out = time.monotonic(), False
        environment = {"VXPLANE_BUILD": os.environ.get("VXPLANE_BUILD") or os.path.join(BUILD, "release"), "PYTHONDONTWRITEBYTECODE": "1"}
        with open(self.log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen([path], cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                            start_new_session=True, env={**os.environ, **environment})

    def is_done(self):
        if time.monotonic() - self.started > SCRIPT_SECONDS and self.process.poll() is None:
            self.timed_out = True
            self.stop()
        return self.process.poll() is not None

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def report(self, report):
        verdicts, is_whole, explains = [], False, False
        for line in read(self.log).splitlines():
            is_whole |= re.fullmatch(r"\d+ passed, \d+ failed, \d+ skipped", line) is not None
            match = re.match(r"(ok|skip|FAIL) +(.*)$", line)
            if match:
                verdicts.append(match[1])
                report.line(match[1], f"system: {self.name}: {match[2]}")
                explains = match[1] == "FAIL"
            elif line.startswith("     again: "):
                print(line, flush=True)
                explains = True
            elif explains and not re.match(r"\d+ passed, ", line):
                print(f"     | {line}", flush=True)
        seconds = time.monotonic() - self.started
        # One that died on its way has lost the cases that were still to come, whatever it said before.
        if not verdicts or not is_whole or (self.process.returncode != 0 and "FAIL" not in verdicts):
            how = f"it took longer than {SCRIPT_SECONDS} s" if self.timed_out else f"exit code {self.process.returncode}"
            report.line("FAIL", f"system: {self.name}", seconds, f"{how}, {len(verdicts)} cases ran")
            show(read(self.log))
        else:
            print(f"     {self.name}: {len(verdicts)} cases in {seconds:.0f} s", flush=True)


def run_scripts(report, paths, at_once):
    """Those that took long the last time they were looked at begin first."""
    waiting = sorted(paths, key=lambda path: LONGEST_FIRST.index(script_name(path)) if script_name(path) in LONGEST_FIRST else 99)
    running = []
    handlers = {number: signal.signal(number, lambda number, _: sys.exit(128 + number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(Script(waiting.pop(0)))
            for script in [script for script in running if script.is_done()]:
                running.remove(script)
                script.report(report)
            time.sleep(0.2)
    finally:
        for script in running:
            script.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)


PARTS = {"unit": unit, "meson": meson, "tsan": tsan, "system": system}


def main(words):
    if words and words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    if os.geteuid() != 0:
        print("tests/run: the tests make network namespaces and load BPF programs; run it as root: sudo tests/run", file=sys.stderr)
        return 1
    report, started = Report(), time.monotonic()
    for part in [word for word in words if word in PARTS] or (PARTS if not words else []):
        PARTS[part](report)
    names = [word for word in words if word not in PARTS]
    scripts = {script_name(path) for path in glob.glob(os.path.join(REPOSITORY, "tests", "system", "*_test*"))}
    listed = set(listed_tests())
    for name in names:
        if name not in scripts | listed:
            report.line("FAIL", f"{name}: no such part or test")
    for run_some, known in ((unit, listed), (system, scripts)):
        if chosen := [name for name in names if name in known]:
            run_some(report, chosen)
    if report.failures and report.passed:
        print("failed:" + "".join(f"\n  {text}" for text in report.failures))
    print(f"in {time.monotonic() - started:.0f} s")
    print(f"{report.passed} passed, {report.failed} failed, {report.skipped} skipped")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
