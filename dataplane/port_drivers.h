// SPDX-License-Identifier: Apache-2.0
// The back ends that make_port chooses from, one .cc each. Only port_factory.cc and they include this.
#pragma once

#include <cstring>

#include "dataplane/port_factory.h"

namespace vx {

[[nodiscard]] MadePort make_af_xdp_port(const protocol::PortConfig& config, const PortContext& context);
[[nodiscard]] MadePort make_dpdk_port(const protocol::PortConfig& config, const PortContext& context);
[[nodiscard]] MadePort make_tap_port(const protocol::PortConfig& config, const PortContext& context);
[[nodiscard]] MadePort make_netdev_port(const protocol::PortConfig& config, const PortContext& context);
[[nodiscard]] MadePort make_udp_port(const protocol::PortConfig& config, const PortContext& context);

// Empty buffers at hand for a queue that reads frames one system call at a time; used by the queue's worker only.
class BufferStash {
 public:
  explicit BufferStash(BufferPool& pool) noexcept : pool_(pool) {}
  ~BufferStash() {
    for (unsigned i = 0; i < count_; ++i) {
      Packet* packet = &packets_[i];
      pool_.free(&packet, 1);
    }
  }
  BufferStash(const BufferStash&) = delete;
  BufferStash& operator=(const BufferStash&) = delete;
  // As many of `wanted` as the pool can give; they stay in the stash until taken.
  [[nodiscard]] unsigned fill(unsigned wanted) noexcept {
    if (count_ < wanted) count_ += pool_.allocate(&packets_[count_], wanted - count_);
    return count_ < wanted ? count_ : wanted;
  }
  // The i-th from the top, 0 first.
  [[nodiscard]] Packet& peek(unsigned i) noexcept { return packets_[count_ - 1 - i]; }
  void drop_top(unsigned n) noexcept { count_ -= n; }
  // One that was taken and not used; there is room, as it was here before.
  void put_back(const Packet& packet) noexcept { packets_[count_++] = packet; }

 private:
  BufferPool& pool_;
  unsigned count_ = 0;
  Packet packets_[kMaxBurst];
};

// A frame of `length` bytes that was read into `large`, where it belongs: `out` is `ordinary` with a copy when that can
// hold it (false), else `large`, which then is used up (true). Longer than kMaxFrameBytes: length 0, which the
// pipeline drops as guest_truncated. Copying the small ones is cheaper than having the kernel scatter each over two
// buffers (readv costs 120 ns more than read).
[[nodiscard]] inline bool place_frame(const Packet& ordinary, const Packet& large, std::uint32_t length,
                                      const OffloadMeta& offload, Packet& out) noexcept {
  const bool is_large = length > ordinary.tailroom && length <= kMaxFrameBytes;
  out = is_large ? large : ordinary;
  if (length > kMaxFrameBytes) return false;
  if (!is_large) std::memcpy(ordinary.data, large.data, length);
  out.length = length;
  out.tailroom -= length;
  out.offload = offload;
  return is_large;
}

}  // namespace vx
