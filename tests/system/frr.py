# SPDX-License-Identifier: Apache-2.0
"""Debian's FRR on a node of the lab: a zebra and a bgpd in the node's namespace, with everything of theirs (sockets, pid
files, logs) in a folder of the node's own, so that any number of instances run beside each other and beside the machine's.

The daemons start empty and get the file from `vtysh -b`, as Debian's frrinit does it.
"""

import contextlib
import json
import os
import shutil
import subprocess

from cases import Failed, eventually

DAEMONS = "/usr/lib/frr"
# -s: the receive buffer of zebra's rtnetlink socket, as in /etc/frr/daemons.
FLAGS = {"zebra": ["-s", "90000000"], "bgpd": []}


class Frr:
    """FRR on `node`, ended by the lab. `configuration`: the path of an frr.conf. zebra starts here, all else in `load`."""

    def __init__(self, node, configuration):
        if not os.access(os.path.join(DAEMONS, "bgpd"), os.X_OK):
            raise Failed(f"no {DAEMONS}/bgpd: tests/install-packages installs Debian's frr")
        self.node, self.daemons = node, {}
        self.directory = os.path.join(node.lab.directory, f"frr{node.number}")
        os.makedirs(self.directory)
        shutil.copy(configuration, self.path("frr.conf"))
        shutil.chown(self.directory, "frr", "frr")  # whom both daemons become once they run
        node.lab.closers.append(self.close)
        self.spawn("zebra")

    def path(self, name):
        return os.path.join(self.directory, name)

    def spawn(self, name):
        """Starts `zebra` or `bgpd`; does not wait."""
        for socket in (f"{name}.vty", *(["zserv.api"] if name == "zebra" else [])):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(socket))
        with open(self.path(f"{name}.out"), "a") as out, open(self.path(f"{name}.conf"), "a"):
            self.daemons[name] = self.node.namespace.popen(
                os.path.join(DAEMONS, name), "-f", self.path(f"{name}.conf"), "-i", self.path(f"{name}.pid"), "-z", self.path("zserv.api"),
                "--vty_socket", self.directory, "-P", 0, "--log", f"file:{self.path(name + '.log')}", *FLAGS[name], stdout=out, stderr=out)

    def load(self):
        """Starts bgpd and gives both the file, each what is its own."""
        # A bgpd that does not find zebra at once tries again after 10 s.
        self.wait_socket("zebra", "zserv.api")
        if "bgpd" not in self.daemons:
            self.spawn("bgpd")
        for name in FLAGS:
            self.wait_socket(name, f"{name}.vty")
        self._vtysh("--config_dir", self.directory, "-b")

    def wait_socket(self, name, path):
        eventually(lambda: os.path.exists(self.path(path)), 10, lambda: f"{self.node.name}: {name} does not start: {self.log(name)}")

    def _vtysh(self, *words):
        return self.node.namespace.run("vtysh", "--vty_socket", self.directory, *words).stdout

    def vtysh(self, *commands):
        """What these commands print."""
        return self._vtysh(*[word for command in commands for word in ("-c", command)])

    def json(self, command):
        return json.loads(self.vtysh(f"{command} json") or "{}")

    # ---- what it knows ----

    def established(self):
        """Addresses of the peers whose session is up."""
        peers = self.json("show bgp l2vpn evpn summary").get("peers", {})
        return {address for address, peer in peers.items() if peer.get("state") == "Established"}

    def place_of(self, guest):
        """Where EVPN has the guest's MAC: ("port", NAME), ("vtep", ADDRESS) or None."""
        entry = self.json(f"show evpn mac vni {self.node.vni}").get("macs", {}).get(guest.mac)
        if not entry:
            return None
        return ("port", entry["intf"]) if entry["type"] == "local" else ("vtep", entry.get("remoteVtep"))

    def wait_port(self, name):
        """zebra has this netdev in the bridge: it takes no MACs of one that it does not know yet, and is not told of them twice."""
        eventually(lambda: "Master interface: mainvx" in self.vtysh(f"show interface {name}"), 5, f"{self.node.name}: zebra has no bridge port {name}")

    def log(self, name):
        text = ""
        for suffix in ("out", "log"):
            with contextlib.suppress(OSError), open(self.path(f"{name}.{suffix}")) as file:
                text += file.read()
        return text

    # ---- how it ends ----

    def kill(self, name):
        """kill -9, as a crash would end it."""
        process = self.daemons.pop(name)
        process.kill()
        process.wait(5)

    def close(self):
        for process in self.daemons.values():
            process.terminate()
        for process in self.daemons.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        self.daemons = {}
