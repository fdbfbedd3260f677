// SPDX-License-Identifier: Apache-2.0
// BufferPool over one rte_mempool of mbufs that every port shares, and a small second one of large mbufs.
//
// Invariant: a buffer that is outside a PMD is one direct segment with refcnt 1, next null. So allocate() and free() are
// the mempool's bulk operations and touch no mbuf. Objects lie packed in one memory zone, as net_af_xdp
// assumes of the pool it registers as UMEM (its size there is count times object size, without the gaps that
// rte_mempool leaves at page boundaries by default).
// Threads: any EAL or registered thread; others work, without a cache.
#pragma once

#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <cstdint>
#include <set>
#include <string>

#include "dataplane/port.h"

namespace vx {

// Bytes net_af_xdp's kernel side leaves in front of a received frame: XDP_PACKET_HEADROOM.
inline constexpr unsigned kXdpHeadroomBytes = 256;
// Room for a frame whose start is anywhere the ports put it.
inline constexpr unsigned kFrameRoomBytes = 2048;
static_assert(RTE_PKTMBUF_HEADROOM >= kHeadroomBytes);
// One large buffer for so many ordinary ones, within these bounds.
inline constexpr unsigned kBuffersPerLarge = 64, kLeastLarge = 16, kMostLarge = 512;
inline constexpr unsigned kLargeRoomBytes = (RTE_PKTMBUF_HEADROOM + kMaxFrameBytes + 63) / 64 * 64;

class MbufPool final : public BufferPool {
 public:
  MbufPool(const std::string& name, unsigned buffers);
  ~MbufPool() override;
  MbufPool(const MbufPool&) = delete;
  MbufPool& operator=(const MbufPool&) = delete;

  [[nodiscard]] unsigned allocate(Packet* out, unsigned count) noexcept override;
  [[nodiscard]] unsigned allocate_large(Packet* out, unsigned count) noexcept override;
  void free(Packet* const* packets, unsigned count) noexcept override;

  // Buffers that a closed net_af_xdp port left in its rings, by their offset in the pool's memory.
  void take_back(const std::set<std::uint64_t>& offsets) noexcept;

  // Notes which buffers the calling thread takes from the pool and does not give back, until the end of its life.
  // A PMD whose set-up fails loses those it took: put_back() then. One at a time.
  class Recording {
   public:
    explicit Recording(MbufPool& pool);
    ~Recording();
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;
    void put_back() noexcept;

   private:
    MbufPool& pool_;
    std::set<void*> missing_;
  };

  [[nodiscard]] rte_mempool* mempool() const noexcept { return pool_; }
  [[nodiscard]] bool is_large(const void* mbuf) const noexcept {
    return static_cast<std::size_t>(static_cast<const std::uint8_t*>(mbuf) - large_memory_) < large_bytes_;
  }
  [[nodiscard]] unsigned available_large() const noexcept { return rte_mempool_avail_count(large_); }
  [[nodiscard]] unsigned available() const noexcept { return rte_mempool_avail_count(pool_); }

  // Makes `packet` the view of a received mbuf that obeys the invariant above.
  static void view_mbuf(rte_mbuf* mbuf, Packet& packet) noexcept {
    packet = Packet{};
    packet.data = rte_pktmbuf_mtod(mbuf, std::uint8_t*);
    packet.buffer = mbuf;
    packet.length = mbuf->data_len;
    packet.headroom = mbuf->data_off;
    packet.tailroom = static_cast<std::uint32_t>(mbuf->buf_len - mbuf->data_off - mbuf->data_len);
  }
  // The other way: the mbuf says what the packet says, ready for rte_eth_tx_burst.
  static rte_mbuf* to_mbuf(const Packet& packet) noexcept {
    auto* mbuf = static_cast<rte_mbuf*>(packet.buffer);
    mbuf->data_off = static_cast<std::uint16_t>(packet.data - static_cast<std::uint8_t*>(mbuf->buf_addr));
    mbuf->data_len = static_cast<std::uint16_t>(packet.length);
    mbuf->pkt_len = packet.length;
    mbuf->ol_flags = 0;
    mbuf->tx_offload = 0;
    return mbuf;
  }

 private:
  rte_mempool* pool_ = nullptr;
  std::uint8_t* memory_ = nullptr;  // where the objects lie, page-aligned
  rte_mempool* large_ = nullptr;
  std::uint8_t* large_memory_ = nullptr;
  std::size_t large_bytes_ = 0;
};

}  // namespace vx
