# SPDX-License-Identifier: Apache-2.0
"""A Debian kernel in qemu (TCG, no KVM) as a host on the wire: with VLAN-aware bridge and 802.1q devices, which the
kernel under these tests may lack. Its NICs are taps opened in the wire's and the guests' namespaces."""

import contextlib
import fcntl
import glob
import json
import os
import re
import select
import shutil
import stat
import subprocess
import time

from cases import Failed, Skip
from lab import REPOSITORY, open_tap, run, wire_offloads_off

CACHE = os.path.join(REPOSITORY, "build", "system", "qemu")
MODULES = ["virtio_pci", "virtio_net", "8021q", "bridge", "vxlan"]
APPLETS = ("sh", "mount", "cat", "insmod", "setsid", "stty", "echo", "sleep", "poweroff", "nc", "httpd", "dd", "sha256sum")

INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module || echo "insmod $module failed"; done
echo 1 > /proc/sys/kernel/printk
stty -F /dev/ttyS0 -echo
exec setsid sh -c 'export PS1= PATH=/bin; echo VM-READY; exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
"""


def _packages():
    """The kernel's package and busybox unpacked in the cache; made once."""
    root = os.path.join(CACHE, "root")
    if os.path.exists(os.path.join(root, ".complete")):
        return root
    kernel = None
    for attempt in range(2):
        kernel = re.search(r"Depends: (linux-image-\S+)", run("apt-cache", "depends", "linux-image-amd64", check=False).stdout)
        if kernel or attempt:
            break
        run("apt-get", "-q", "update", check=False, seconds=60)
    if not kernel:
        raise Skip("apt knows no linux-image-amd64")
    for package in (kernel[1], "busybox-static"):
        if glob.glob(os.path.join(CACHE, f"{package}_*.deb")):
            continue
        done = run("apt-get", "-o", "APT::Sandbox::User=root", "download", package, check=False, seconds=80, cwd=CACHE)
        if done.returncode:
            raise Skip(f"cannot download {package}: {done.stderr.strip().splitlines()[-1]}")
    shutil.rmtree(root, ignore_errors=True)
    for package in glob.glob(os.path.join(CACHE, "*.deb")):
        run("dpkg-deb", "-x", package, root, seconds=80)
    version = os.listdir(os.path.join(root, "lib", "modules"))[0]
    run("depmod", "-b", root, version)
    with open(os.path.join(root, ".complete"), "w"):
        pass
    return root


def _with_libraries(program):
    files = {program: os.path.realpath(program)}
    for line in run("ldd", program).stdout.splitlines():
        match = re.search(r"(/\S+)", line.split("=>")[-1])
        if match:
            files[match[1]] = os.path.realpath(match[1])
    return files


def cpio(files):
    """A newc archive of {path: (mode, bytes)}, folders made as needed."""
    entries = {}
    for path, entry in files.items():
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            entries.setdefault("/".join(parts[:depth]), (stat.S_IFDIR | 0o755, b""))
        entries[path.strip("/")] = entry
    out = bytearray()
    for number, (path, (mode, data)) in enumerate([*entries.items(), ("TRAILER!!!", (0, b""))], 1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


@contextlib.contextmanager
def cache_locked():
    """One process at a time makes what is in the cache: scripts with a VM may run beside each other."""
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Kernel:
    """Debian's kernel in the unpacked packages at `root`: its image, its modules, and initramfs archives for it."""

    def __init__(self, root):
        self.root, self.modules = root, os.path.join(root, "lib", "modules")
        self.version = os.listdir(self.modules)[0]
        self.image = os.path.join(root, "boot", f"vmlinuz-{self.version}")
        with open(os.path.join(self.modules, self.version, "modules.dep")) as file:
            self.needs = {os.path.basename(line.split(":")[0])[:-3]: line.replace(":", "").split() for line in file}

    def paths_of(self, names):
        """The files of these modules and of those they need, in the order in which they can be loaded."""
        order = []
        for name in names:
            for path in [*reversed(self.needs[name][1:]), self.needs[name][0]]:
                if path not in order:
                    order.append(path)
        return [os.path.join(self.modules, self.version, path) for path in order]

    def initramfs(self, init, modules, applets, tools=(), folders=()):
        """The bytes of one: /init, /modules with their `order`, busybox under its names, programs of this machine with their libraries."""
        paths = self.paths_of(modules)
        files = {"/init": regular(init.encode(), 0o755), "/bin/busybox": from_file(os.path.join(self.root, "bin", "busybox"), 0o755),
                 "/modules/order": regular("\n".join(map(os.path.basename, paths)).encode())}
        files.update({f"/modules/{os.path.basename(path)}": from_file(path) for path in paths})
        files.update({f"/bin/{applet}": (stat.S_IFLNK | 0o777, b"busybox") for applet in applets})
        for tool in tools:
            for path, source in _with_libraries(shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")).items():
                files[f"/bin/{tool}" if os.path.basename(path) == tool else path] = from_file(source, 0o755)
        for folder in ("proc", "sys", "dev", *folders):
            files[f"/{folder}/.keep"] = regular(b"")
        return cpio(files)


def regular(data, mode=0o644):
    return (stat.S_IFREG | mode, data)


def from_file(path, mode=0o644):
    with open(path, "rb") as file:
        return regular(file.read(), mode)


def debian_kernel():
    """From the cache; to be called under its lock."""
    return Kernel(_packages())


def write_whole(path, data):
    """At once for whoever reads it."""
    part = f"{path}.{os.getpid()}"
    with open(part, "wb") as file:
        file.write(data)
    os.rename(part, path)
    return path


def build_initramfs():
    """(kernel image, initramfs), from the cache."""
    with cache_locked():
        kernel = debian_kernel()
        return kernel.image, write_whole(os.path.join(CACHE, "initramfs"), kernel.initramfs(INIT, MODULES, APPLETS, ("ip", "bridge", "ethtool")))


class VirtualMachine:
    """Boots with one virtio NIC per descriptor (eth0, eth1, ...); `run` gives a command to its shell."""

    BOOT_SECONDS = 60
    CPU = "max"
    MOST_SILENT = 2  # commands without an end; after those it is given up, or each case would wait for it anew

    def __init__(self, lab, descriptors):
        if not shutil.which("qemu-system-x86_64"):
            raise Skip("no qemu-system-x86_64 (package qemu-system-x86)")
        self.process, self.descriptors = None, []
        lab.closers.append(self.close)
        self.words = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", self.CPU, "-nodefaults", "-display", "none", "-no-reboot", *self.hardware(lab)]
        for number, descriptor in enumerate(descriptors):
            self.descriptors.append(os.dup(descriptor))
            self.words += ["-netdev", f"tap,id=n{number},fd={self.descriptors[-1]}",
                           "-device", f"virtio-net-pci,netdev=n{number},mac={nic_mac(number)},romfile="]
        self.start()

    def start(self):
        self.launch()
        self.wait_booted()

    def launch(self):
        # Not without this script, however that ends.
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, pass_fds=self.descriptors)
        self.started, self.text, self.count, self.silent = time.monotonic(), "", 0, 0

    def hardware(self, _lab):
        """qemu's words for everything but the NICs; the shell is at its standard input and output."""
        kernel, initramfs = build_initramfs()
        return ["-m", "256", "-serial", "stdio", "-kernel", kernel, "-initrd", initramfs,
                "-append", "console=ttyS0 quiet panic=-1 no_timer_check net.ifnames=0"]

    def wait_booted(self):
        self._until("VM-READY", self.BOOT_SECONDS)
        self.run('ip() { /bin/ip "$@"; }')  # busybox's shell would take its own applet

    def _until(self, marker, seconds):
        deadline = time.monotonic() + seconds
        while marker not in self.text:
            left = deadline - time.monotonic()
            ready = select.select([self.process.stdout], [], [], max(left, 0))[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise Failed(f"the VM did not print {marker} within {seconds} s; last: {self.text[-400:]!r}")
            self.text += data.decode(errors="replace").replace("\r", "")
        before, self.text = self.text.split(marker, 1)
        return before

    def run(self, command, check=True, seconds=20):
        if self.silent == self.MOST_SILENT:
            raise Failed("the VM has not answered before and is not asked again")
        self.silent += 1
        self.count += 1  # so that what an earlier command, given up, says at last is not taken for this one's end
        with contextlib.suppress(BrokenPipeError):  # what it said last is in _until's text
            self.process.stdin.write(f'{command}; echo "VM-""DONE {self.count} $?;"\n'.encode())
            self.process.stdin.flush()
        output = self._until(f"VM-DONE {self.count} ", seconds)
        code = int(self._until(";", 5))
        self.silent = 0
        if check and code:
            raise Failed(f"in the VM: {command}: exit {code}: {output.strip()}")
        return output.strip()

    def json(self, command):
        return json.loads(self.run(command) or "[]")

    def end(self):
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)

    def close(self):
        if self.process:
            self.end()
        while self.descriptors:
            os.close(self.descriptors.pop())


def nic_mac(number):
    return f"02:00:00:0c:00:{number:02x}"


def plug_guest(lab, guest, number):
    """The guest's eth0 is the far end of the VM's NIC `number`; its descriptor."""
    descriptor = open_tap(guest.namespace, "eth0")
    guest.port = f"eth{number}"
    guest.dress()
    return descriptor


def plug_wire(wire):
    port = f"w{len(wire.ports)}"
    wire.ports.append(port)
    descriptor = open_tap(wire.namespace, port)
    wire_offloads_off(wire.namespace, port)
    wire.namespace.ip("link", "set", port, "mtu", wire.mtu, "master", "switch", "up")
    return descriptor
