// SPDX-License-Identifier: Apache-2.0
#include "dataplane/mss_clamp.h"

#include "dataplane/checksum.h"
#include "dataplane/ip_packet.h"

namespace vx {
namespace {

// TCP header, RFC 9293 section 3.1: offsets in bytes.
constexpr std::uint32_t kTcpBytes = 20, kDataOffset = 12, kFlags = 13, kChecksum = 16;
constexpr std::uint8_t kSyn = 0x02;
// Options, section 3.2.
constexpr std::uint8_t kEnd = 0, kNoOperation = 1, kMss = 2;
constexpr std::uint32_t kMssBytes = 4;

// Lowers the value at `tcp` + `at`, two bytes. `at` may be odd: one's complement sums do not mind which way round all
// bytes lie (RFC 1071 section 2 (B)), so the change then counts with its bytes swapped.
void lower(std::uint8_t* tcp, std::uint32_t at, std::uint16_t limit, bool updates_checksum) noexcept {
  const Be16 from = *view<Be16>(tcp + at), to(limit);
  if (from.host() <= limit) return;
  store(tcp + at, to);
  if (!updates_checksum) return;
  const bool is_odd = at % 2 != 0;
  const auto checksum = load<std::uint16_t>(tcp + kChecksum);
  store(tcp + kChecksum, checksum_update(checksum, is_odd ? from.host() : from.raw(), is_odd ? to.host() : to.raw()));
}

}  // namespace

void clamp_mss(Packet& packet, std::uint16_t mtu) noexcept {
  const auto ip = parse_ip(packet.data, packet.length);
  if (!ip || ip->protocol != ip_protocol::kTcp || ip->is_later_fragment || ip->end - ip->layer4 < kTcpBytes) return;
  std::uint8_t* tcp = packet.data + ip->layer4;
  if ((tcp[kFlags] & kSyn) == 0) return;
  const std::uint32_t headers = kTcpBytes + (ip->is_v4 ? sizeof(Ipv4Header) : sizeof(Ipv6Header));
  const std::uint32_t length = (tcp[kDataOffset] >> 4) * 4u;
  if (length < kTcpBytes || length > ip->end - ip->layer4 || mtu <= headers) return;
  const auto limit = static_cast<std::uint16_t>(mtu - headers);

  for (std::uint32_t at = kTcpBytes; at < length;) {
    if (tcp[at] == kEnd) return;
    if (tcp[at] == kNoOperation) {
      ++at;
      continue;
    }
    if (length - at < 2) return;
    const std::uint32_t bytes = tcp[at + 1];
    if (bytes < 2 || bytes > length - at) return;  // what a receiver stops at too
    if (tcp[at] == kMss && bytes == kMssBytes) lower(tcp, at + 2, limit, !packet.offload.needs_checksum());
    at += bytes;
  }
}

}  // namespace vx
