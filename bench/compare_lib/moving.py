# SPDX-License-Identifier: Apache-2.0
"""How long a contender sends a MAC's frames to where it no longer is."""

import socket
import struct
import time

from cases import Failed

MAC, ETHERTYPE = bytes.fromhex("525400ee0001"), 0x88B5
MOST_SECONDS = 2.0
GAP_SECONDS = 50e-6


def frame(to, source, number):
    return to + source + struct.pack("!HI", ETHERTYPE, number) + bytes(46)


def ipv4_header(source, to, length):
    """UDP's, DF, without options; `length`: of the packet, this header in it."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(to))
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]


def in_vxlan(inner, outer, port=55555):
    """`outer`: as Bed.outer. UDP without checksum: RFC 7348 allows it."""
    vni, source, to, source_mac, to_mac = outer.split(",")
    mac = [bytes.fromhex(text.replace(":", "")) for text in (to_mac, source_mac)]
    udp = struct.pack("!HHHH", port, 4789, 16 + len(inner), 0) + struct.pack("!II", 0x08000000, int(vni) << 8) + inner
    return mac[0] + mac[1] + b"\x08\x00" + ipv4_header(source, to, 20 + len(udp)) + udp


def packet_socket(bed, device, protocol=0):
    with bed.generator.entered():
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        end.bind((device, protocol))
    return end


def converge(bed):
    """Seconds from MAC's first frame at the guest's port to the first frame for MAC that arrives there. Before that MAC was behind the
    tunnel, and known to be: then frames for it from the tunnel do not come to the guest."""
    other = bytes.fromhex("525400ee0002")
    with packet_socket(bed, "g0", ETHERTYPE) as guest, packet_socket(bed, "u0") as far:
        far.send(in_vxlan(frame(b"\xff" * 6, MAC, 0), bed.outer))
        time.sleep(0.05)
        drain(guest)
        for number in (1, 2, 3):
            far.send(in_vxlan(frame(MAC, other, number), bed.outer))
        time.sleep(0.03)
        if any(ours(data) for data in drain(guest)):
            raise Failed("frames for a MAC behind the tunnel came to the guest")
        guest.send(frame(b"\xff" * 6, MAC, 0))
        began, sent = time.monotonic(), []
        while time.monotonic() - began < MOST_SECONDS:
            sent.append(time.monotonic())
            far.send(in_vxlan(frame(MAC, other, 1000 + len(sent) - 1), bed.outer))
            for data in drain(guest):
                if ours(data) and (number := number_of(data)) >= 1000:
                    return sent[number - 1000] - began
            time.sleep(GAP_SECONDS)
    raise Failed(f"after {MOST_SECONDS} s frames for the MAC still do not arrive")


def drain(end):
    frames = []
    while True:
        try:
            frames.append(end.recv(2048, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return frames


def ours(data):
    return data[:6] == MAC and len(data) >= 18 and data[12:14] == struct.pack("!H", ETHERTYPE)


def number_of(data):
    return struct.unpack_from("!I", data, 14)[0]
