# SPDX-License-Identifier: Apache-2.0
"""What the tests of `takeover` share."""

import contextlib
import time

import frames
from cases import check
from lab import Guest
from nodes import TakeoverNode

PROBE = (0x88B5, b"takeover-probe" + bytes(40))


def all_talk(net, seconds=6):
    for a, b in ((0, 2), (3, 1), (0, 1)):
        net.guests[a].wait_ping(net.guests[b], seconds)


def in_takeover(net):
    return isinstance(net.krypton, TakeoverNode) and net.krypton.runs()


@contextlib.contextmanager
def bypassed(node):
    node.ctl("bypass", "on")
    try:
        yield
    finally:
        node.ctl("bypass", "off")


def both_ways(net, what):
    """`what()` in takeover, and again while bypassed."""
    what()
    if in_takeover(net):
        with bypassed(net.krypton):
            what()


class BridgeHost(Guest):
    """The host itself, by an address on its bridge, with what a guest has for pings and transfers."""

    def __init__(self, node):  # pylint: disable=super-init-not-called
        self.node, self.namespace, self.number = node, node.namespace, 100 + node.number
        self.ipv4, self.ipv6 = f"10.0.0.{self.number}", f"fd00:1::{self.number:x}"
        node.namespace.run("sysctl", "-qw", "net.ipv6.conf.mainvx.disable_ipv6=0")
        node.namespace.ip("addr", "add", f"{self.ipv4}/24", "dev", "mainvx")
        node.namespace.ip("addr", "add", f"{self.ipv6}/64", "dev", "mainvx", "nodad")
        self.mac = node.namespace.links()["mainvx"]["address"]

    def forget_neighbours(self):
        self.namespace.ip("neigh", "flush", "dev", "mainvx", check=False)


@contextlib.contextmanager
def host_addresses(net):
    hosts = [BridgeHost(node) for node in net.nodes]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.namespace.ip("addr", "flush", "dev", "mainvx")
            host.namespace.run("sysctl", "-qw", "net.ipv6.conf.mainvx.disable_ipv6=1")
            for guest in net.guests:
                guest.forget_neighbours()


def reached(sender, destination, guests, source=None, wait=0.15):
    """Numbers of those of `guests` whom a frame by hand reaches."""
    marker = b"flags-" + str(time.monotonic_ns()).encode() + bytes(40)
    with contextlib.ExitStack() as stack:
        seen = [(guest, stack.enter_context(frames.Capture(guest.namespace, "eth0"))) for guest in guests]
        frames.send(sender, frames.ethernet(destination, source or sender.mac, 0x88B5, marker))
        time.sleep(wait)
    counts = {guest.number: sum(marker in frame for _, frame in capture.frames) for guest, capture in seen}
    check(max(counts.values()) <= 1, f"copies: {counts}")
    return {number for number, count in counts.items() if count}
