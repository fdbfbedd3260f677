# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of one system test: one line a case, a total at the end, exit code 1 if any failed.

A file declares fixtures (context managers that build a network once for several cases) and cases:

    suite = Suite("traffic")
    suite.group("kernel-kernel", lambda: pair("kernel", "kernel"), [ping_both_ways, ...])
    suite.main()

A case is a function of the fixture; its docstring's first line is what is printed. It raises Skip, or Failed,
or any exception (a failure). Arguments of the script: words that must occur in the case's line, --list, --oracle
(only what needs no vxplane binary).
"""

import contextlib
import os
import signal
import sys
import time
import traceback

CASE_LIMIT_SECONDS = 90


class Skip(Exception):
    """The case cannot be run here; the text says why."""


class Failed(AssertionError):
    """The case did not hold; the text says what was seen instead."""


def check(condition, text):
    if not condition:
        raise Failed(text() if callable(text) else text)


def eventually(probe, seconds, text, interval=0.05):
    """Polls `probe` until it is true; its value. Fails with `text` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed(f"{text() if callable(text) else text} (waited {seconds} s)")
        time.sleep(interval)


def _alarm(_signal, _frame):
    raise Failed("took longer than it may")


def _terminate(_signal, _frame):
    sys.exit(130)


class Suite:
    # Cases that may fail once: on a machine with more to do than its CPUs can, clocks run out. One that fails again has failed,
    # and so has the next one. Each says `again:` and why.
    AGAIN = 1

    def __init__(self, name):
        self.name = name
        self.groups = []
        self.passed = self.failed = self.skipped = self.tried_again = 0

    def group(self, title, fixture, cases, needs_vxplane=True):
        """`cases` run in order on what `fixture()` yields, built once. `fixture` None: cases take no argument."""
        self.groups.append((title, fixture or (lambda: contextlib.nullcontext(None)), cases, needs_vxplane,
                            fixture is not None))

    def _line(self, verdict, title, case, started, text=""):
        seconds = time.monotonic() - started
        print(f"{verdict:4} {title}: {describe(case)} ({seconds:.1f} s){': ' + text if text else ''}", flush=True)

    def _one(self, title, case, arguments):
        started = time.monotonic()
        signal.alarm(getattr(case, "limit_seconds", CASE_LIMIT_SECONDS))
        try:
            case(*arguments)
            for argument in arguments:  # every packet of every case has one way out
                if hasattr(argument, "check_conservation"):
                    argument.check_conservation()
            signal.alarm(0)
            self.passed += 1
            self._line("ok", title, case, started)
        except Skip as reason:
            self.skipped += 1
            self._line("skip", title, case, started, str(reason))
        except Exception as error:  # one case must not take the others with it
            signal.alarm(0)
            text = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            is_last = self.tried_again == self.AGAIN
            if is_last:
                self.failed += 1
                self._line("FAIL", title, case, started, text)
            else:
                self.tried_again += 1
                print(f"     again: {title}: {describe(case)}: {text}", flush=True)
            if not isinstance(error, Failed) or os.environ.get("VXPLANE_TRACE"):
                traceback.print_exc()
            for argument in arguments:
                if hasattr(argument, "show_logs"):
                    argument.show_logs()
            if not is_last:
                self._one(title, case, arguments)
        finally:
            signal.alarm(0)

    def main(self):
        words = [word for word in sys.argv[1:] if not word.startswith("--")]
        signal.signal(signal.SIGALRM, _alarm)
        signal.signal(signal.SIGTERM, _terminate)
        if os.geteuid() != 0:
            print(f"skip {self.name}: needs root (network namespaces)")
            print("0 passed, 0 failed, 1 skipped")
            return
        for title, fixture, cases, needs_vxplane, takes_fixture in self.groups:
            if "--oracle" in sys.argv and needs_vxplane:
                continue
            chosen = [case for case in cases if all(word in f"{title}: {describe(case)} {case.__name__}" for word in words)]
            if "--list" in sys.argv:
                for case in chosen:
                    print(f"{title}: {describe(case)}")
                continue
            if chosen:
                self._group(title, fixture, chosen, takes_fixture)
        if "--list" not in sys.argv:
            print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
            sys.exit(1 if self.failed else 0)

    def _group(self, title, fixture, cases, takes_fixture):
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            signal.alarm(getattr(fixture, "limit_seconds", CASE_LIMIT_SECONDS))
            try:
                network = stack.enter_context(fixture())
            except Skip as reason:
                self.skipped += len(cases)
                print(f"skip {title}: all {len(cases)} cases: {reason}", flush=True)
                return
            except Exception as error:
                self.failed += len(cases)
                print(f"FAIL {title}: all {len(cases)} cases: the network did not come up "
                      f"({time.monotonic() - started:.1f} s): {error}", flush=True)
                if not isinstance(error, Failed):
                    traceback.print_exc()
                return
            finally:
                signal.alarm(0)
            for case in cases:
                self._one(title, case, [network] if takes_fixture else [])


def describe(case):
    text = getattr(case, "title", None) or case.__doc__ or case.__name__
    return text.strip().splitlines()[0].rstrip(".")
