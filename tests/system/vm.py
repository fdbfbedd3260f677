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


def _cpio(files):
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


def build_initramfs():
    """(kernel image, initramfs), from the cache. One process at a time makes it: two scripts with a VM may run beside each other."""
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build_initramfs()


def _build_initramfs():
    root = _packages()
    target = os.path.join(CACHE, "initramfs")
    modules = os.path.join(root, "lib", "modules")
    version = os.listdir(modules)[0]
    kernel = os.path.join(root, "boot", f"vmlinuz-{version}")
    with open(os.path.join(modules, version, "modules.dep")) as file:
        needs = {os.path.basename(line.split(":")[0])[:-3]: line.replace(":", "").split() for line in file}
    order = []
    for name in MODULES:
        for path in [*reversed(needs[name][1:]), needs[name][0]]:
            if path not in order:
                order.append(path)
    files = {"/init": (stat.S_IFREG | 0o755, INIT.encode())}
    for path in order:
        with open(os.path.join(modules, version, path), "rb") as file:
            files[f"/modules/{os.path.basename(path)}"] = (stat.S_IFREG | 0o644, file.read())
    files["/modules/order"] = (stat.S_IFREG | 0o644, "\n".join(os.path.basename(path) for path in order).encode())
    with open(os.path.join(root, "bin", "busybox"), "rb") as file:
        files["/bin/busybox"] = (stat.S_IFREG | 0o755, file.read())
    for applet in ("sh", "mount", "cat", "insmod", "setsid", "stty", "echo", "sleep", "poweroff", "nc", "httpd", "dd", "sha256sum"):
        files[f"/bin/{applet}"] = (stat.S_IFLNK | 0o777, b"busybox")
    for tool in ("ip", "bridge", "ethtool"):
        for path, source in _with_libraries(shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")).items():
            with open(source, "rb") as file:
                files[f"/bin/{tool}" if os.path.basename(path) == tool else path] = (stat.S_IFREG | 0o755, file.read())
    for folder in ("proc", "sys", "dev"):
        files[f"/{folder}/.keep"] = (stat.S_IFREG | 0o644, b"")
    part = f"{target}.{os.getpid()}"
    with open(part, "wb") as file:
        file.write(_cpio(files))
    os.rename(part, target)
    return kernel, target


class VirtualMachine:
    """Boots with one virtio NIC per descriptor (eth0, eth1, ...); `run` gives a command to its shell."""

    def __init__(self, lab, descriptors):
        if not shutil.which("qemu-system-x86_64"):
            raise Skip("no qemu-system-x86_64 (package qemu-system-x86)")
        kernel, initramfs = build_initramfs()
        words = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
                 "-serial", "stdio", "-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1 net.ifnames=0"]
        for number, descriptor in enumerate(descriptors):
            words += ["-netdev", f"tap,id=n{number},fd={descriptor}",
                      "-device", f"virtio-net-pci,netdev=n{number},mac=02:00:00:0c:00:{number:02x},romfile="]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        pass_fds=descriptors)
        lab.closers.append(self.close)
        self.text = ""
        self._until("VM-READY", 60)
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
        self.process.stdin.write(f'{command}; echo "VM-""DONE $?;"\n'.encode())
        self.process.stdin.flush()
        output = self._until("VM-DONE ", seconds)
        code = int(self._until(";", 5))
        if check and code:
            raise Failed(f"in the VM: {command}: exit {code}: {output.strip()}")
        return output.strip()

    def json(self, command):
        return json.loads(self.run(command) or "[]")

    def close(self):
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)


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
