// SPDX-License-Identifier: Apache-2.0
// Super-frames for the tests of super_frame.h, segment.h and coalesce.h, and a second opinion on what the steps make of
// them that shares no code with the steps: slow sums, plain arithmetic on bytes.
#pragma once

#include <random>

#include "dataplane/super_frame.h"
#include "testkit.h"

namespace vx::testkit {

inline std::uint16_t be16(const Bytes& b, std::size_t at) {
  return static_cast<std::uint16_t>(b.at(at) << 8 | b.at(at + 1));
}
inline std::uint32_t be32(const Bytes& b, std::size_t at) {
  return std::uint32_t{be16(b, at)} << 16 | be16(b, at + 2);
}
inline void put16(Bytes& b, std::size_t at, std::uint32_t v) {
  b.at(at) = static_cast<std::uint8_t>(v >> 8);
  b.at(at + 1) = static_cast<std::uint8_t>(v);
}
inline void put32(Bytes& b, std::size_t at, std::uint32_t v) {
  put16(b, at, v >> 16);
  put16(b, at + 2, v & 0xffff);
}
// RFC 1071 by the book, in network order: the folded sum of [from, to) plus `sum`.
inline std::uint16_t slow_sum(const Bytes& b, std::size_t from, std::size_t to, std::uint32_t sum = 0) {
  for (std::size_t i = from; i < to; ++i) {
    sum += (i - from) % 2 == 0 ? std::uint32_t{b.at(i)} << 8 : b.at(i);
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<std::uint16_t>(sum);
}

// A TCP or UDP frame, super or not, to be varied.
struct OffloadSpec {
  bool is_v4 = true, is_tcp = true, dont_fragment = true;
  unsigned tags = 0;             // 0 to 2; two: an S-tag first
  unsigned ip_extra = 0;         // words of IPv4 options; or IPv6 extension headers of 8 bytes
  Bytes options;                 // TCP's; a multiple of 4 bytes
  std::uint8_t flags = 0x10;     // ACK
  std::uint8_t tos = 0, ttl = 64;
  std::uint16_t id = 1000, window = 500, source_port = 40000;
  std::uint32_t sequence = 1, acknowledgment = 77, flow_label = 0;
  Bytes payload;
  std::uint16_t segment_size = 1000;

  [[nodiscard]] std::size_t layer3() const { return 14 + 4 * tags; }
  [[nodiscard]] std::size_t layer4() const { return layer3() + (is_v4 ? 20 + 4 * ip_extra : 40 + 8 * ip_extra); }
  [[nodiscard]] std::size_t payload_at() const { return layer4() + (is_tcp ? 20 + options.size() : 8); }
  [[nodiscard]] std::size_t checksum_at() const { return layer4() + (is_tcp ? 16 : 6); }
  [[nodiscard]] std::uint16_t pseudo_sum(const Bytes& b, std::size_t layer4_bytes) const {
    const std::size_t from = layer3() + (is_v4 ? 12 : 8);
    return slow_sum(b, from, from + (is_v4 ? 8 : 32), static_cast<std::uint32_t>(layer4_bytes) + (is_tcp ? 6u : 17u));
  }

  // All headers and lengths; the layer-4 checksum field is the pseudo header's sum.
  [[nodiscard]] Bytes partial() const {
    Bytes b{0x52, 0x54, 0, 0xaa, 0xbb, 2, 0x52, 0x54, 0, 0xaa, 0xbb, 1};
    for (unsigned tag = 0; tag < tags; ++tag) {
      const std::uint8_t bytes[] = {static_cast<std::uint8_t>(tags == 2 && tag == 0 ? 0x88 : 0x81),
                                    static_cast<std::uint8_t>(tags == 2 && tag == 0 ? 0xa8 : 0x00), 0x60,
                                    static_cast<std::uint8_t>(100 + tag)};
      b.insert(b.end(), bytes, bytes + 4);
    }
    b.push_back(is_v4 ? 0x08 : 0x86);
    b.push_back(is_v4 ? 0x00 : 0xdd);
    b.resize(payload_at());
    const std::uint8_t protocol = is_tcp ? 6 : 17;
    const std::size_t end = b.size() + payload.size(), ip = layer3();
    if (is_v4) {
      b[ip] = static_cast<std::uint8_t>(0x45 + ip_extra);
      b[ip + 1] = tos;
      put16(b, ip + 2, static_cast<std::uint32_t>(end - ip));
      put16(b, ip + 4, id);
      put16(b, ip + 6, dont_fragment ? 0x4000 : 0);
      b[ip + 8] = ttl;
      b[ip + 9] = protocol;
      put32(b, ip + 12, 0x0a010203);
      put32(b, ip + 16, 0x0a090807);
      for (unsigned i = 0; i < 4 * ip_extra; ++i) b[ip + 20 + i] = 1;
      put16(b, ip + 10, static_cast<std::uint16_t>(~slow_sum(b, ip, layer4())));
    } else {
      put32(b, ip, 0x60000000u | std::uint32_t{tos} << 20 | flow_label);
      put16(b, ip + 4, static_cast<std::uint32_t>(end - ip - 40));
      b[ip + 6] = ip_extra != 0 ? 60 : protocol;
      b[ip + 7] = ttl;
      for (unsigned i = 0; i < 32; ++i) b[ip + 8 + i] = static_cast<std::uint8_t>(0xfd + i * 7);
      for (unsigned i = 0; i < ip_extra; ++i) {  // destination options: PadN
        const std::size_t at = ip + 40 + 8 * i;
        b[at] = i + 1 < ip_extra ? 60 : protocol;
        b[at + 2] = 1;
        b[at + 3] = 4;
      }
    }
    put16(b, layer4(), source_port);
    put16(b, layer4() + 2, 443);
    if (is_tcp) {
      put32(b, layer4() + 4, sequence);
      put32(b, layer4() + 8, acknowledgment);
      b[layer4() + 12] = static_cast<std::uint8_t>((20 + options.size()) << 2);
      b[layer4() + 13] = flags;
      put16(b, layer4() + 14, window);
      std::copy(options.begin(), options.end(), b.begin() + static_cast<std::ptrdiff_t>(layer4()) + 20);
    } else {
      put16(b, layer4() + 4, static_cast<std::uint32_t>(end - layer4()));
    }
    put16(b, checksum_at(), pseudo_sum(b, end - layer4()));
    b.insert(b.end(), payload.begin(), payload.end());
    return b;
  }
  // The same with a complete checksum.
  [[nodiscard]] Bytes complete() const {
    Bytes b = partial();
    auto sum = static_cast<std::uint16_t>(~slow_sum(b, layer4(), b.size()));
    if (sum == 0 && !is_tcp) sum = 0xffff;
    put16(b, checksum_at(), sum);
    return b;
  }
  [[nodiscard]] OffloadMeta meta() const {
    OffloadMeta meta;
    meta.flags = OffloadMeta::kNeedsChecksum;
    meta.gso_type = !is_tcp ? OffloadMeta::kGsoUdp : is_v4 ? OffloadMeta::kGsoTcp4 : OffloadMeta::kGsoTcp6;
    if (is_tcp && (flags & 0x80) != 0) meta.gso_type |= OffloadMeta::kGsoEcn;
    meta.header_length = static_cast<std::uint16_t>(payload_at());
    meta.segment_size = segment_size;
    meta.checksum_start = static_cast<std::uint16_t>(layer4());
    meta.checksum_offset = is_tcp ? 16 : 6;
    return meta;
  }
  // What the super-frame stands for, each built from scratch.
  [[nodiscard]] std::vector<Bytes> segments() const {
    std::vector<Bytes> all;
    for (std::size_t at = 0; at < payload.size(); at += segment_size) {
      const std::size_t end = std::min(payload.size(), at + segment_size);
      OffloadSpec one = *this;
      one.payload.assign(payload.data() + at, payload.data() + end);
      one.sequence = static_cast<std::uint32_t>(sequence + at);
      one.id = static_cast<std::uint16_t>(id + all.size());
      if (at != 0) one.flags &= 0x7f;                // CWR
      if (end != payload.size()) one.flags &= 0xf6;  // FIN, PSH
      all.push_back(one.complete());
    }
    return all;
  }
};

inline Bytes random_bytes(std::mt19937& random, std::size_t count) {
  Bytes b(count);
  for (auto& byte : b) byte = static_cast<std::uint8_t>(random());
  return b;
}

// Any super-frame of at least one segment and at most `payload_limit` payload bytes.
inline OffloadSpec random_super_frame(std::mt19937& random, std::size_t payload_limit) {
  OffloadSpec spec;
  const auto bit = [&] { return (random() & 1) != 0; };
  spec.is_v4 = bit();
  spec.is_tcp = random() % 4 != 0;
  spec.dont_fragment = bit();
  spec.tags = random() % 3;
  spec.ip_extra = bit() ? 0 : random() % 4;
  if (spec.is_tcp) spec.options = random_bytes(random, random() % 11 * 4);
  spec.flags = static_cast<std::uint8_t>(0x10 | (random() & 0xc9));  // any of CWR, ECE, PSH, FIN
  spec.tos = static_cast<std::uint8_t>(random());
  spec.ttl = static_cast<std::uint8_t>(random());
  spec.id = static_cast<std::uint16_t>(random());
  spec.window = static_cast<std::uint16_t>(random());
  spec.sequence = static_cast<std::uint32_t>(random());
  spec.acknowledgment = static_cast<std::uint32_t>(random());
  spec.flow_label = random() & 0xfffff;
  spec.payload = random_bytes(random, 1 + random() % payload_limit);
  spec.segment_size = static_cast<std::uint16_t>(1 + random() % (bit() ? 1500 : 64));
  if (spec.payload.size() / spec.segment_size > 200) spec.segment_size = 1400;
  return spec;
}

}  // namespace vx::testkit
