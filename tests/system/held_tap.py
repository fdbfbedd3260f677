#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What QEMU does for a guest, without the guest: holds a tap of the host by its descriptor and carries frames, each with its
virtio-net header and never looked into, between it and a tap in the guest's namespace.

    held_tap.py HOST_NAMESPACE TAP GUEST_NAMESPACE DEVICE [no-offloads]

Prints `ready` when both exist; ends when its standard input does. Both taps go with it.
"""

import ctypes
import fcntl
import os
import signal
import struct
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)

from lab import Namespace, open_tap  # noqa: E402

TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454D0, 0x400454D8
CHECKSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 = 1, 2, 4, 8, 0x20, 0x40
HEADER = 12  # as with mergeable buffers, which is what QEMU and Linux guests agree on
LARGEST = HEADER + 65536 + 32


def hold(namespace, name, offloads):
    descriptor = open_tap(Namespace(namespace, make=False), name, offloads=True)
    fcntl.ioctl(descriptor, TUNSETVNETHDRSZ, struct.pack("i", HEADER))
    wanted = CHECKSUM | TSO4 | TSO6 | TSO_ECN if offloads else 0
    try:
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, wanted | (USO4 | USO6 if offloads else 0))
    except OSError:  # before Linux 6.2
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, wanted)
    return descriptor


def carry(source, target):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not without its parent
    while True:
        try:
            frame = os.read(source, LARGEST)
        except OSError:  # the tap was removed
            os._exit(0)
        try:
            os.write(target, frame)
        except OSError:  # the other end is down, or does not take this frame: lost, as QEMU would lose it
            pass


def main(host, tap, guest, device, *words):
    offloads = "no-offloads" not in words
    ends = hold(host, tap, offloads), hold(guest, device, offloads)
    children = []
    for source, target in (ends, ends[::-1]):
        child = os.fork()
        if child == 0:
            carry(source, target)
        children.append(child)
    print("ready", flush=True)
    try:
        sys.stdin.read()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
