// SPDX-License-Identifier: Apache-2.0
#include "dataplane/packet_ring.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cstring>

#include "dataplane/netdev.h"

namespace vx {
namespace {

// A slot holds a frame of an MTU of 1500, in front of it the kernel's 76 bytes. No power of two: slots would share few sets of the
// caches. 3.4 MB a ring, 2 to 7 ms of frames.
constexpr unsigned kSlotBytes = 1664, kBlockBytes = 1 << 16, kBlocks = 52;
constexpr unsigned kSlotsOfBlock = kBlockBytes / kSlotBytes, kSlots = kSlotsOfBlock * kBlocks;
constexpr std::size_t kRingBytes = std::size_t{kBlockBytes} * kBlocks;
constexpr unsigned kAhead = 4;  // slots; the lines come from another CPU's cache

void set(const std::string& netdev, int socket, int option, int value) {
  if (::setsockopt(socket, SOL_PACKET, option, &value, sizeof value) != 0)
    throw_errno(netdev, "cannot set packet socket option " + std::to_string(option));
}

}  // namespace

PacketRing::PacketRing(const std::string& netdev, int socket) {
  set(netdev, socket, PACKET_VERSION, TPACKET_V2);
  set(netdev, socket, PACKET_COPY_THRESH, 1);
  const tpacket_req request{kBlockBytes, kBlocks, kSlotBytes, kSlots};
  if (::setsockopt(socket, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) != 0)
    throw_errno(netdev, "cannot have a receive ring of " + std::to_string(kRingBytes >> 10) + " KB");
  void* memory = ::mmap(nullptr, kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, socket, 0);
  if (memory == MAP_FAILED) throw_errno(netdev, "cannot map its receive ring");
  memory_ = static_cast<std::uint8_t*>(memory);
}

PacketRing::~PacketRing() { ::munmap(memory_, kRingBytes); }

std::uint8_t* PacketRing::slot(unsigned ahead) const noexcept {
  unsigned i = next_ + ahead;
  if (i >= kSlots) i -= kSlots;
  return memory_ + std::size_t{i / kSlotsOfBlock} * kBlockBytes + std::size_t{i % kSlotsOfBlock} * kSlotBytes;
}

unsigned PacketRing::peek(Frame* out, unsigned count) const noexcept {
  for (unsigned i = 0; i < count; ++i) {
    const std::uint8_t* at = slot(i);
    const auto* header = reinterpret_cast<const tpacket2_hdr*>(at);
    const std::uint32_t status = __atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE);
    if ((status & TP_STATUS_USER) == 0) return i;
    const std::uint8_t* ahead = slot(i + kAhead);
    __builtin_prefetch(ahead);
    __builtin_prefetch(ahead + 64);
    __builtin_prefetch(ahead + 128);
    Frame& frame = out[i];
    frame.data = at + header->tp_mac;
    frame.length = header->tp_len;
    std::memcpy(&frame.vnet, frame.data - sizeof frame.vnet, sizeof frame.vnet);
    const bool has_tag = (status & TP_STATUS_VLAN_VALID) != 0;
    frame.tpid = !has_tag ? 0 : (status & TP_STATUS_VLAN_TPID_VALID) != 0 ? header->tp_vlan_tpid : ETH_P_8021Q;
    frame.tci = header->tp_vlan_tci;
    frame.is_queued = (status & TP_STATUS_COPY) != 0;
    frame.is_whole = header->tp_snaplen == header->tp_len;
  }
  return count;
}

void PacketRing::release(unsigned count) noexcept {
  for (unsigned i = 0; i < count; ++i)
    __atomic_store_n(&reinterpret_cast<tpacket2_hdr*>(slot(i))->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
  next_ += count;
  if (next_ >= kSlots) next_ -= kSlots;
}

}  // namespace vx
