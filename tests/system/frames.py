# SPDX-License-Identifier: Apache-2.0
"""Frames by hand: raw sockets inside a guest or on the wire, with VLAN tags put back where the kernel took them off."""

import socket
import struct
import threading
import time

SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING = 263, 8, 4
ETH_P_ALL = 3
ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100


def mac_bytes(text):
    return bytes.fromhex(text.replace(":", ""))


def mac_text(data):
    return ":".join(f"{byte:02x}" for byte in data)


def ethernet(destination, source, ethertype, payload, tag=None, pcp=0, tpid=VLAN):
    """`tag` None: untagged; else this VLAN (0: priority-tagged) with `pcp`."""
    head = mac_bytes(destination) + mac_bytes(source)
    if tag is not None:
        head += struct.pack("!HH", tpid, tag | pcp << 13)
    return head + struct.pack("!H", ethertype) + payload


def gratuitous_arp(mac, address, tag=None, pcp=0):
    sender = mac_bytes(mac) + socket.inet_aton(address)
    body = struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + sender + bytes(6) + socket.inet_aton(address)
    return ethernet("ff:ff:ff:ff:ff:ff", mac, ARP, body, tag, pcp)


class RawSocket:
    """An AF_PACKET socket on one device of a namespace."""

    def __init__(self, namespace, device):
        with namespace.entered():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
            self.socket.bind((device, ETH_P_ALL))

    def send(self, frame):
        self.socket.send(frame)

    def receive(self, seconds):
        """One frame that came in (not one that went out), whole, its tag in place; None when none came in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data, ancillary, _, address = self.socket.recvmsg(65536, socket.CMSG_SPACE(20))
            except (socket.timeout, BlockingIOError):
                return None
            if address[2] == PACKET_OUTGOING:
                continue
            for level, kind, value in ancillary:
                if level == SOL_PACKET and kind == PACKET_AUXDATA:
                    status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", value[:20])
                    if status & 0x10:
                        data = data[:12] + struct.pack("!HH", tpid if status & 0x40 else VLAN, tci) + data[12:]
            return data
        return None

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def send(guest, *frames):
    with RawSocket(guest.namespace, "eth0") as raw:
        for frame in frames:
            raw.send(frame)


class Capture:
    """Everything that enters the given devices of a namespace, from `with` on; `frames` as (device, bytes), `times` likewise."""

    def __init__(self, namespace, *devices):
        self.sockets = {device: RawSocket(namespace, device) for device in devices}
        self.frames, self.times, self.running, self.threads = [], [], True, []

    def __enter__(self):
        for device, raw in self.sockets.items():
            thread = threading.Thread(target=self._read, args=(device, raw), daemon=True)
            thread.start()
            self.threads.append(thread)
        return self

    def _read(self, device, raw):
        while self.running:
            frame = raw.receive(0.1)
            if frame is not None:
                self.times.append(time.monotonic())  # of several devices: nearly the frame's
                self.frames.append((device, frame))

    def __exit__(self, *_):
        time.sleep(0.15)  # what is on its way
        self.running = False
        for thread in self.threads:
            thread.join(2)
        for raw in self.sockets.values():
            raw.close()

    def of(self, device):
        return [frame for name, frame in self.frames if name == device]

    def wait(self, wanted, seconds=3):
        """The first frame for which `wanted(frame)` is true, or None."""
        deadline = time.monotonic() + seconds
        seen = 0
        while time.monotonic() < deadline:
            frames = self.frames[seen:]
            for _, frame in frames:
                if wanted(frame):
                    return frame
            seen += len(frames)
            time.sleep(0.01)
        return None


class Outer:
    """The outer headers of a VXLAN frame as plain values; raises ValueError if it is none."""

    def __init__(self, frame):
        self.frame = frame
        self.destination, self.source = mac_text(frame[:6]), mac_text(frame[6:12])
        ethertype, at = struct.unpack_from("!H", frame, 12)[0], 14
        self.vlan = self.pcp = None
        if ethertype == VLAN:
            tci, ethertype = struct.unpack_from("!HH", frame, 14)
            self.vlan, self.pcp, at = tci & 0xFFF, tci >> 13, 18
        if ethertype == IPV4:
            self.family = 4
            self.version_ihl, self.tos, self.total_length, self.id, fragment, self.ttl, protocol, _ = struct.unpack_from("!BBHHHBBH", frame, at)
            self.dont_fragment, self.is_fragment = bool(fragment & 0x4000), bool(fragment & 0x3FFF)
            self.addresses = tuple(socket.inet_ntoa(frame[at + 12 + 4 * i:at + 16 + 4 * i]) for i in (0, 1))
            header = (self.version_ihl & 15) * 4
            self.ip_checksum_good = checksum(frame[at:at + header]) == 0
            pseudo = frame[at + 12:at + 20]
            at += header
        elif ethertype == IPV6:
            self.family = 6
            first, length, protocol, self.ttl = struct.unpack_from("!IHBB", frame, at)
            self.tos, self.flow_label, self.total_length = first >> 20 & 0xFF, first & 0xFFFFF, length + 40
            self.dont_fragment, self.is_fragment, self.ip_checksum_good = True, protocol == 44, True
            self.addresses = tuple(socket.inet_ntop(socket.AF_INET6, frame[at + 8 + 16 * i:at + 24 + 16 * i]) for i in (0, 1))
            pseudo = frame[at + 8:at + 40]
            at += 40
        else:
            raise ValueError("not IP")
        if protocol != 17 or self.is_fragment:
            raise ValueError("not UDP")
        self.source_port, self.destination_port, self.udp_length, self.udp_checksum = struct.unpack_from("!HHHH", frame, at)
        if self.destination_port != 4789:
            raise ValueError("not VXLAN")
        udp = frame[at:at + self.udp_length]
        self.udp_checksum_good = checksum(pseudo + struct.pack("!HH", 17, self.udp_length) + udp) == 0
        self.flags, self.reserved, vni = frame[at + 8], frame[at + 9:at + 12], struct.unpack_from("!I", frame, at + 12)[0]
        self.vni, self.reserved2 = vni >> 8, vni & 0xFF
        self.inner = frame[at + 16:at + self.udp_length]


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def vxlan_frames(frames):
    """Those of `frames` that are VXLAN, parsed."""
    outers = []
    for frame in frames:
        try:
            outers.append(Outer(frame))
        except (ValueError, struct.error):
            pass
    return outers


def write_pcap(path, packets):
    with open(path, "wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for packet in packets:
            file.write(struct.pack("=IIII", 0, 0, len(packet), len(packet)) + packet)


def read_pcap(path):
    with open(path, "rb") as file:
        data = file.read()
    packets, at = [], 24
    while at + 16 <= len(data):
        length = struct.unpack_from("=I", data, at + 8)[0]
        packets.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return packets
