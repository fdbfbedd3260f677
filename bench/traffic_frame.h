// SPDX-License-Identifier: Apache-2.0
// The frames of vxplane-traffic: Ethernet, at most one tag, IPv4, UDP and the stamp that the sink looks for; as a guest sends
// them, or inside VXLAN over IPv4 as a VTEP does. Headers are made once per flow; a frame is a copy of them and a stamp. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "bench/traffic_shared.h"
#include "dataplane/wire.h"

namespace vx::traffic {

// Frame lengths are those of the inner Ethernet frame without FCS, as the guest hands it to its device, tag included.
inline constexpr unsigned kLeastBytes = 14 + 20 + 8 + sizeof(vxt_stamp);  // 60: RFC 2544's frame of 64 bytes has an FCS
inline constexpr unsigned kMostBytes = 1900;
inline constexpr unsigned kHeaderRoom = 128;  // of a flow's headers: 50 + 18 + 28 at most

struct Outer {
  std::uint32_t vni = 0;
  IpAddress source, destination;  // IPv4
  MacAddress source_mac, destination_mac;
  std::uint16_t port = kVxlanPort;
};

struct FrameShape {
  unsigned size = kLeastBytes;
  std::uint32_t macs = 1, source_macs = 1, flows = 1;
  std::uint32_t first_mac = 0; // of both kinds; runs side by side need MACs of their own
  std::uint16_t vlan = 0;      // 0: untagged
  std::optional<Outer> outer;  // of what the sender sends; UDP checksum 0 (RFC 7348 section 4.1)
};

// 02:76:78:xx:xx:xx and 02:76:73:xx:xx:xx; a learned source is 02:6c:xx:xx:xx:xx.
[[nodiscard]] MacAddress destination_mac(std::uint32_t index) noexcept;
[[nodiscard]] MacAddress source_mac(std::uint32_t index) noexcept;
[[nodiscard]] MacAddress learned_mac(std::uint32_t index) noexcept;

// One frame that makes a bridge learn `from`: IPv4 UDP without a stamp, 60 bytes (64 with a tag), to `to`.
[[nodiscard]] std::vector<std::uint8_t> announcement(MacAddress from, MacAddress to, std::uint16_t vlan,
                                                     const std::optional<Outer>& outer);

// Makes the frames of one run after another, each of the next flow in a random order that repeats. One thread.
class FrameMaker {
 public:
  explicit FrameMaker(const FrameShape& shape);

  // Of the frame on the wire: `size`, and 50 more in VXLAN.
  [[nodiscard]] unsigned length() const noexcept { return length_; }
  [[nodiscard]] unsigned header_bytes() const noexcept { return header_bytes_; }
  [[nodiscard]] std::uint32_t flows() const noexcept { return static_cast<std::uint32_t>(order_.size()); }

  // Sequence numbers from 0 again, of another run (1 to 255).
  void begin(std::uint8_t run) noexcept;
  // Every frame from here on has a source MAC of its own.
  void learn() noexcept { is_learning_ = true; }
  [[nodiscard]] bool is_learning() const noexcept { return is_learning_; }
  [[nodiscard]] unsigned source_mac_at() const noexcept { return source_mac_at_; }  // bytes into the frame
  // What all frames share: zeros. Once for each buffer of length() bytes.
  void prepare(std::uint8_t* frame) const noexcept;
  // Headers and stamp of the next frame into a prepared buffer.
  void write_next(std::uint8_t* frame, std::uint64_t now_ns) noexcept;

  // By flow, in the run.
  [[nodiscard]] std::span<const std::uint32_t> sent() const noexcept { return sent_; }
  // The headers of a flow, kHeaderRoom apart, and the order of flows: for a sender that makes frames elsewhere.
  [[nodiscard]] std::span<const std::uint8_t> headers() const noexcept { return headers_; }
  [[nodiscard]] std::span<const std::uint32_t> order() const noexcept { return order_; }

 private:
  unsigned length_, header_bytes_, source_mac_at_;
  bool is_learning_ = false;
  std::uint8_t run_ = 1;
  std::uint32_t next_ = 0, learned_ = 0;
  std::vector<std::uint8_t> headers_;
  std::vector<std::uint32_t> order_, sent_;
};

}  // namespace vx::traffic
