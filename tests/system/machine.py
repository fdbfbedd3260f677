# SPDX-License-Identifier: Apache-2.0
"""A machine with systemd of its own: this machine's files (an overlay, so nothing here changes) in private namespaces, systemd
as process 1 with nothing but the journal enabled, a network of its own.

It ends with its process 1: mounts, network and cgroup go with it. Kernel settings that all namespaces share (sysctl,
modules, devices) are not touched: the units that would set them are removed, /proc/sys is read-only."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

from cases import Failed, Skip, eventually
from lab import run

# $1: a directory of ours.
INSIDE = r"""
set -e
root=$1/root
mount -t tmpfs tmpfs "$1"
mkdir "$1"/upper "$1"/work "$root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1"/upper,workdir="$1"/work "$root"
cd "$root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,rw,bind proc/sys/net
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for place in run tmp dev; do mount -t tmpfs -o mode=0755 tmpfs $place; done
chmod 1777 tmp
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  set -- $node
  mknod -m 666 dev/$1 c $2 $3
done
mkdir dev/net dev/pts dev/shm
mknod -m 666 dev/net/tun c 10 200
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
# Nothing of this machine's is started or set up: the journal is all.
find etc/systemd/system usr/lib/systemd/system -path '*.wants/*' ! -name 'systemd-journald*' -delete
rm -f usr/lib/systemd/system/*.mount usr/lib/systemd/system/*.automount etc/systemd/system/*.mount etc/fstab usr/sbin/policy-rc.d
: > etc/machine-id
hostname vxplane-machine
ip link set lo up
mkdir run/former
pivot_root . run/former
umount -l /run/former
export container=other
exec /lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=no </dev/null
"""


class Machine:
    """Use as a context manager. Raises Skip where such a machine cannot be made."""

    def __init__(self):
        if not os.access("/lib/systemd/systemd", os.X_OK):
            raise Skip("no systemd (tests/install-packages)")
        self.folder = tempfile.mkdtemp(prefix="vxplane-machine.", dir="/run")
        self.group = self._make_group()
        self.init = None
        self.console = open(os.path.join(self.folder, "console"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(["unshare", "-m", "-p", "-f", "-C", "-u", "-i", "-n", "--kill-child", "sh", "-c", INSIDE, "machine", self.folder],
                                        stdin=subprocess.DEVNULL, stdout=self.console, stderr=self.console,
                                        preexec_fn=self._join_group)  # noqa: PLW1509 (no threads here)

    def _make_group(self):
        """A cgroup of its own: systemd makes its groups there and not beside the machine's."""
        with open("/proc/mounts", encoding="utf-8") as file:
            mounts = [line.split()[1] for line in file if line.split()[2] == "cgroup2"]
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = next((line.strip()[3:] for line in file if line.startswith("0::")), None)
        if not mounts or own is None:
            raise Skip("no cgroup2 here")
        group = f"{mounts[0]}{own.rstrip('/')}/vxplane-machine-{os.getpid()}"
        try:
            os.makedirs(group, exist_ok=True)
        except OSError as error:
            raise Skip(f"no cgroup of its own: {error}") from None
        return group

    def _join_group(self):
        with open(os.path.join(self.group, "cgroup.procs"), "w", encoding="utf-8") as file:
            file.write("0")

    def __enter__(self):
        try:
            self.init = int(eventually(lambda: run("pgrep", "-P", self.process.pid, check=False).stdout.strip(), 10, "no process 1"))
            eventually(lambda: self.process.poll() is not None or self("systemctl", "is-active", "basic.target", check=False).stdout.strip() == "active", 60,
                       lambda: f"systemd does not come up: {self.said()}")
            if self.process.poll() is not None:
                raise Skip(f"no systemd in namespaces here: {self.said()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init or self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.console.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        for _ in range(50):  # the last processes leave their groups a little later
            for folder, _, _ in os.walk(self.group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            if not os.path.exists(self.group):
                break
            time.sleep(0.1)

    def said(self):
        self.console.flush()
        with open(self.console.name, encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:].strip() or "nothing on its console"

    def show_logs(self):
        print(self("journalctl", "--no-pager", "-n", 30, check=False).stdout)

    def command(self, *words):
        """What runs `words` inside; a shell and its namespaces, the environment of a login."""
        return ["nsenter", "-t", str(self.init), "-m", "-p", "-C", "-u", "-i", "-n", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *map(str, words)]

    def __call__(self, *words, seconds=60, **options):
        return run(*self.command(*words), seconds=seconds, **options)

    def write(self, path, text):
        self("mkdir", "-p", os.path.dirname(path))
        done = subprocess.run(self.command("tee", path), input=text, text=True, capture_output=True, timeout=20, check=False)
        if done.returncode != 0:
            raise Failed(f"{path}: {done.stderr}")

    def unit(self, name, *properties):
        """Properties of a unit, in the order asked for."""
        text = self("systemctl", "show", name, *[f"--property={one}" for one in properties]).stdout
        values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return [values.get(one, "") for one in properties]
