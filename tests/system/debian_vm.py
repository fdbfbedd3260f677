# SPDX-License-Identifier: Apache-2.0
"""A whole Debian in qemu (TCG, no KVM): the release and kernel of this machine's Debian, systemd, ifupdown2, and the libraries that
vxplane is linked with. Made once by mmdebstrap, kept as a file system image beside the other VM's initramfs; each VM has a copy of its own.

What one test adds (its `seed`: {path: bytes}) is copied into the root before systemd starts, at the first boot.
"""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time

from cases import Failed, Skip
from lab import run
from vm import CACHE, VirtualMachine, cache_locked, cpio, debian_kernel, nic_mac, regular, write_whole

PACKAGES = ["systemd-sysv", "udev", "ifupdown2", "bridge-utils", "iproute2", "ethtool", "iputils-ping", "procps", "kmod"]
BOOT_MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "ext4", "crc32c_generic"]
MODULES = ["virtio_net", "8021q", "bridge", "vxlan", "veth", "tun", "sch_ingress", "cls_bpf", "autofs4"]
INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module || echo "insmod $module failed"; done
mount -t ext4 -o noatime /dev/vda /root
[ -e /root/seeded ] || { cp -a /seed/. /root/; : > /root/seeded; }
umount /proc /sys
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
"""
APPLETS = ("sh", "[", "mount", "umount", "cat", "insmod", "echo", "cp", "switch_root")
# With neither colours nor a pager, and without the terminal's limit of 4096 characters a line.
SHELL = """[Unit]
Description=Shell of the test
After=basic.target network.target networking.service
[Service]
ExecStart=/bin/sh -c 'stty -echo -icanon -onlcr; echo VM-READY; exec bash 2>/dev/null'
StandardInput=tty
StandardOutput=tty
StandardError=tty
TTYPath=/dev/hvc0
WorkingDirectory=/root
Environment=TERM=dumb HOME=/root SYSTEMD_COLORS=0 SYSTEMD_PAGER=
[Install]
WantedBy=multi-user.target
"""
UNITS = "/etc/systemd/system"
FILES = {
    "/etc/fstab": "",
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/etc/resolv.conf": "",
    "/etc/systemd/journald.conf.d/vm.conf": "[Journal]\nStorage=volatile\n",
    # The first NIC has the name that it has on the host of the design.
    "/etc/systemd/network/10-underlay.link": f"[Match]\nMACAddress={nic_mac(0)}\n[Link]\nName=enp35s0\n",
    f"{UNITS}/vm-shell.service": SHELL,
}
# None of it has to do with networks, and each costs the emulated CPU its part of a second.
MASKED = """apt-daily.timer apt-daily-upgrade.timer console-getty.service dev-mqueue.mount dpkg-db-backup.timer e2scrub_all.timer
e2scrub_reap.service fstrim.timer getty.target ldconfig.service modprobe@efi_pstore.service proc-sys-fs-binfmt_misc.automount
serial-getty@hvc0.service serial-getty@ttyS0.service sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-tracing.mount
systemd-ask-password-console.path systemd-ask-password-wall.path systemd-binfmt.service systemd-firstboot.service
systemd-hwdb-update.service systemd-journal-flush.service systemd-logind.service systemd-machine-id-commit.service
systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-pstore.service systemd-random-seed.service systemd-repart.service
systemd-sysusers.service systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-user-sessions.service""".split()


def dependencies(package):
    """The names of what a .deb depends on; of alternatives the first."""
    text = run("dpkg-deb", "-f", package, "Depends").stdout
    return [re.match(r"[a-z0-9.+-]+", part.strip())[0] for part in text.split(",") if part.strip()]


def _source():
    """(sources.list line, name of the release) of this machine's Debian."""
    with open("/etc/os-release") as file:
        release = re.search(r"^VERSION_CODENAME=(\w+)", file.read(), re.MULTILINE)
    lines = run("apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages", check=False).stdout
    for line in lines.splitlines():
        words = line.split()
        if release and words[:3] == ["Debian", release[1], "main"]:
            return f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {words[3]} {release[1]} main", release[1]
    raise Skip("this machine's apt knows no Debian release of its own")


def _put(root, path, text):
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    with open(root + path, "w") as file:
        file.write(text)


def _unpack(root, packages, source, release):
    settings = os.path.join(CACHE, "apt.conf")  # what this machine needs to reach its mirror
    with open(settings, "w") as file:
        file.write(run("apt-config", "dump", "--format", '%F "%v";%n', "Acquire").stdout)
    exclude = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale", "info", "lintian")]
    done = run("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase", f"--include={','.join(packages)}", f"--aptopt={settings}",
               '--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io", *exclude, release, root, source, check=False, seconds=600)
    if done.returncode:
        raise Skip(f"mmdebstrap: {(done.stderr.strip() or 'failed').splitlines()[-1]}")


def _dress(root, kernel):
    for path in kernel.paths_of(MODULES):
        target = root + path[len(kernel.root):]
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(path, target)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(os.path.join(kernel.modules, kernel.version, name), os.path.join(root, "lib", "modules", kernel.version, name))
    run("depmod", "-b", root, kernel.version)
    for path, text in FILES.items():
        _put(root, path, text)
    for unit in MASKED:
        os.symlink("/dev/null", f"{root}{UNITS}/{unit}")
    os.makedirs(f"{root}{UNITS}/multi-user.target.wants", exist_ok=True)
    os.symlink(f"{UNITS}/vm-shell.service", f"{root}{UNITS}/multi-user.target.wants/vm-shell.service")


def _root_image(kernel, packages):
    source, release = _source()
    with open(os.path.realpath(__file__), "rb") as file:
        recipe = file.read().split(b"\nclass ")[0]
    key = hashlib.sha256(recipe + repr((sorted(packages), release, kernel.version)).encode()).hexdigest()[:12]
    target = os.path.join(CACHE, f"debian-{key}.ext4")
    if os.path.exists(target):
        return target
    root, part = os.path.join(CACHE, "debian"), target + ".part"
    for remains in (root, *glob.glob(os.path.join(CACHE, "debian-*"))):
        shutil.rmtree(remains, ignore_errors=True) if os.path.isdir(remains) else os.path.exists(remains) and os.unlink(remains)
    _unpack(root, packages, source, release)
    _dress(root, kernel)
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-d", root, part, "1G", seconds=120)
    shutil.rmtree(root)
    os.rename(part, target)
    return target


class DebianMachine(VirtualMachine):
    """`packages` beside PACKAGES are in its Debian; `seed` is what it finds at boot. Its NICs are enp35s0, eth1, eth2, ...
    `slowness`: what bounds of time in it are to be multiplied by, from how long its boot took; 1 on two idle cores."""

    BOOT_SECONDS = 240
    BOOT_SECONDS_IDLE = 25
    KERNEL_SECONDS = 60  # until systemd runs; 3 on two idle cores
    # Enough for DPDK. What "max" has beside it (5 levels of page tables, SMAP, the state of AVX) costs an emulated boot a third more.
    CPU = "Nehalem,+rdrand,+rdseed,+tsc-deadline,+invtsc"

    def __init__(self, lab, descriptors, packages=(), seed=None, name="vm"):
        self.packages, self.seed, self.name, self.slowness = packages, {"/etc/hostname": f"{name}\n".encode(), **(seed or {})}, name, 1
        super().__init__(lab, descriptors)

    def hardware(self, lab):
        if not shutil.which("mmdebstrap"):
            raise Skip("no mmdebstrap")
        with cache_locked():
            kernel = debian_kernel()
            image = _root_image(kernel, [*PACKAGES, *self.packages])
            # Without a name: it goes with the descriptors, in whatever way the script and qemu end.
            with tempfile.TemporaryFile(dir=CACHE) as disk:
                self.descriptors.append(os.dup(disk.fileno()))
            run("cp", "--sparse=always", image, f"/proc/self/fd/{self.descriptors[0]}", pass_fds=self.descriptors, seconds=60)
        files = {f"/seed{path}": data if isinstance(data, tuple) else regular(data) for path, data in self.seed.items()}
        initramfs = kernel.initramfs(INIT, BOOT_MODULES, APPLETS, folders=("root",)) + cpio(files)
        self.serial = os.path.join(lab.directory, f"{self.name}.serial")
        return ["-smp", "2", "-m", "1024", "-drive", f"file=/proc/self/fd/{self.descriptors[0]},format=raw,if=virtio,cache=unsafe",
                "-device", "virtio-rng-pci", "-serial", f"file:{self.serial}", "-device", "virtio-serial-pci",
                "-chardev", "stdio,id=shell,signal=off", "-device", "virtconsole,chardev=shell", "-kernel", kernel.image,
                "-initrd", write_whole(os.path.join(lab.directory, f"{self.name}.initramfs"), initramfs),
                "-append", "console=ttyS0 panic=-1 no_timer_check net.ifnames=0 tsc=reliable mitigations=off audit=0 apparmor=0 systemd.show_status=0"]

    def start(self):
        """Once more if the emulated kernel stands still before systemd runs: seen once in some hundred boots, without a word from it."""
        self.launch()
        deadline = time.monotonic() + self.KERNEL_SECONDS
        while "systemd[1]:" not in self.console() and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.2)
        if "systemd[1]:" not in self.console():
            print(f"     {self.name}'s kernel did not come to systemd within {self.KERNEL_SECONDS} s, booting it again; console: {self.console()[-600:]!r}", flush=True)
            self.end()
            self.launch()
        self.wait_booted()

    def wait_booted(self):
        try:
            self._until("VM-READY", self.BOOT_SECONDS)
        except Failed as failure:
            raise Failed(f"{failure}; console: {self.console()[-600:]!r}") from None
        took = time.monotonic() - self.started
        self.slowness = max(self.slowness, took / self.BOOT_SECONDS_IDLE)
        print(f"     {self.name} has booted in {took:.0f} s", flush=True)

    def console(self):
        with contextlib.suppress(FileNotFoundError), open(self.serial, errors="replace") as file:
            return file.read()
        return ""

    def reboot(self):
        """The same disk in a new qemu: a reset of the old one's two CPUs does not always end in a kernel that runs."""
        self.process.stdin.write(b"systemctl start reboot.target --job-mode=replace-irreversibly --no-block\n")
        self.process.stdin.flush()
        try:
            self.process.wait(90 * self.slowness)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} does not go down; console: {self.console()[-600:]!r}") from None
        self.start()

    def run(self, command, check=True, seconds=60):
        return super().run(f"{{ {command}; }} </dev/null 2>&1", check, seconds * self.slowness)
