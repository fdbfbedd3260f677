# SPDX-License-Identifier: Apache-2.0
"""One running vxplane on a node of the system tests: its two processes and vxctl."""

import contextlib
import json
import os
import signal
import subprocess

from cases import Failed, eventually
from lab import binary, run


class Instance:
    """For a Node with `control_flags()`: what vxplane-control is started with. `programs`: {name: path} of binaries elsewhere
    than in the build directory; `launcher`: {name: words before it}."""

    def prepare_instance(self, dataplane_flags=()):
        self.run_dir = os.path.join(self.lab.directory, f"{self.name}{self.number}")
        os.makedirs(self.run_dir, mode=0o755, exist_ok=True)
        self.dataplane_flags = list(dataplane_flags)
        self.programs, self.launcher = {}, {}
        self.dataplane = self.control = None

    # ---- processes ----

    def start(self):
        self.start_dataplane()
        self.start_control()

    def _spawn(self, program, *arguments):
        with open(os.path.join(self.run_dir, f"{program}.log"), "a") as log:
            return self.namespace.popen(*self.launcher.get(program, []), self.programs.get(program) or binary(program), "--run-dir", self.run_dir, *arguments, stdout=log, stderr=log)

    def start_dataplane(self):
        self.dataplane = self._spawn("vxplane-dataplane", *self.dataplane_flags)

    def start_control(self):
        self.control = self._spawn("vxplane-control", *self.control_flags())

    def processes(self):
        return [process for process in (self.control, self.dataplane) if process is not None]

    def signal(self, which, number):
        getattr(self, which).send_signal(number)

    def kill(self, which):
        """kill -9, as a crash would end it."""
        process = getattr(self, which)
        process.kill()
        process.wait(5)

    def stop(self, which=None, seconds=10):
        """SIGTERM and the end; the exit code of the last one."""
        code = None
        for name in ([which] if which else ["control", "dataplane"]):
            process = getattr(self, name)
            if process is None:
                continue
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
                raise Failed(f"{self.name}: {name} did not end within {seconds} s of SIGTERM") from None
            finally:
                setattr(self, name, None)
        return code

    def revive(self):
        """Lets run again what stands still, and starts what has ended."""
        for name in ("dataplane", "control"):
            process = getattr(self, name)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
            else:
                getattr(self, f"start_{name}")()

    def close(self):
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        self.dataplane = self.control = None

    def show_logs(self):
        for name in ("vxplane-dataplane.log", "vxplane-control.log"):
            with contextlib.suppress(OSError), open(os.path.join(self.run_dir, name)) as file:
                for line in file.readlines()[-12:]:
                    print(f"     {self.name}/{name[8:-4]}: {line.rstrip()}")
        for word in ("drops", "vtep"):
            with contextlib.suppress(Failed):  # of a control that hangs: what is shown must not hide what went wrong
                for line in self.vxctl(word, seconds=3).stdout.splitlines():
                    print(f"     {self.name} {word}: {line}")

    def log(self, program):
        with open(os.path.join(self.run_dir, f"{program}.log")) as file:
            return file.read()

    # ---- the operator's command ----

    def vxctl(self, *words, **options):
        options.setdefault("check", False)
        return run(binary("vxctl"), "--run-dir", self.run_dir, *words, **options)

    def ctl(self, *words):
        """vxctl, which must succeed; its text."""
        return self.vxctl(*words, check=True).stdout

    def json(self, *words):
        done = self.vxctl("-j", *words, check=True)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise Failed(f"vxctl -j {' '.join(map(str, words))} printed no JSON: {done.stdout!r}") from None

    def fdb(self, *filters):
        return self.json("fdb", "show", *filters)

    def place_of(self, guest):
        for entry in self.fdb(guest.mac):
            return ("vtep", entry["dst"]) if "dst" in entry else ("port", entry["ifname"])
        return None

    def drops(self):
        return self.json("drops")

    def port_losses(self):
        """{port: (rx_missed, tx_errors)}: what kernel or device lost before or after the dataplane had it; ports without left out."""
        losses = {port["name"]: (port.get("rx_missed", 0), port.get("tx_errors", 0)) for port in self.json("port", "show")}
        return {name: lost for name, lost in losses.items() if any(lost)}

    def stats(self):
        return self.json("stats")

    def check_conservation(self):
        """Every packet in has one way out (design section 3). Idle: nothing may be held for long."""
        totals = self.stats()["totals"]
        left = sum(totals[key] for key in ("received", "cloned", "generated", "segmented"))
        right = sum(totals[key] for key in ("sent", "dropped", "consumed", "coalesced", "held"))
        if left != right:
            raise Failed(f"{self.name}: totals do not balance: {left} in, {right} out: {totals}")

    def wait_ready(self, seconds=20):
        """Both processes serve, the underlay is up, and every port that has its netdev is up."""
        def ready():
            for which in ("dataplane", "control"):
                process = getattr(self, which)
                if process is not None and process.poll() is not None:
                    self.show_logs()
                    raise Failed(f"{self.name}: vxplane-{which} ended with {process.returncode}")
            if not os.path.exists(os.path.join(self.run_dir, "control.sock")):
                return False
            done = self.vxctl("-j", "status")
            if done.returncode:
                return False
            status = json.loads(done.stdout)
            return status["dataplane"]["state"] == "connected" and status["underlay"].get("state") == "up"
        eventually(ready, seconds, lambda: f"{self.name} is not ready: {self.vxctl('status').stdout or self.vxctl('status').stderr}")

    def wait_port(self, name, state="up", seconds=10):
        def found():
            return any(port["name"] == name and port["state"] == state for port in self.json("port"))
        eventually(found, seconds, lambda: f"{self.name}: port {name} is not {state}: {self.vxctl('port').stdout}")
