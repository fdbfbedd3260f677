// SPDX-License-Identifier: Apache-2.0
// Cycles per segment of segmentation (a 64 KB TCP super-frame into segments for MTU 1332) and of coalescing (the way back),
// beside a plain copy of the same payload: what any of the two costs at least.
//
//   offload_bench [--benchmark_filter=...]     cycles = TSC cycles, medians of repetitions
#include <benchmark/benchmark.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <vector>

#include "dataplane/checksum.h"
#include "dataplane/coalesce.h"
#include "dataplane/segment.h"

namespace vx {
namespace {

constexpr std::uint16_t kSegmentSize = 1280;
constexpr unsigned kSegments = 50;
constexpr std::uint32_t kPayload = kSegmentSize * kSegments;

struct Buffer {
  explicit Buffer(std::uint32_t room) : bytes(kHeadroomBytes + room) {}
  Packet empty() {
    Packet packet;
    packet.data = bytes.data() + kHeadroomBytes;
    packet.buffer = this;
    packet.headroom = kHeadroomBytes;
    packet.tailroom = static_cast<std::uint32_t>(bytes.size()) - kHeadroomBytes;
    return packet;
  }
  std::vector<std::uint8_t> bytes;
};

// Ethernet, IPv4 or IPv6, TCP with a timestamp option; payload of any bytes.
Packet make_super_frame(Buffer& buffer, bool is_v4) {
  Packet packet = buffer.empty();
  const std::uint16_t layer4 = is_v4 ? 34 : 54, headers = static_cast<std::uint16_t>(layer4 + 32);
  std::uint8_t* b = packet.data;
  std::fill_n(b, headers, std::uint8_t{0});
  b[0] = b[6] = 0x52;
  auto* ethernet = view<EthernetHeader>(b);
  ethernet->type = is_v4 ? ether_type::kIpv4 : ether_type::kIpv6;
  const std::uint32_t tcp_bytes = 32 + kPayload;
  if (is_v4) {
    auto* ip = view<Ipv4Header>(b + 14);
    ip->version_ihl = 0x45;
    ip->total_length = Be16(static_cast<std::uint16_t>(20 + tcp_bytes));
    ip->flags_fragment = Be16(kIpv4DontFragment);
    ip->ttl = 64;
    ip->protocol = ip_protocol::kTcp;
    ip->checksum = Be16::from_raw(static_cast<std::uint16_t>(~checksum_fold(checksum_partial(b + 14, 20))));
  } else {
    b[14] = 0x60;
    auto* ip = view<Ipv6Header>(b + 14);
    ip->payload_length = Be16(static_cast<std::uint16_t>(tcp_bytes));
    ip->next_header = ip_protocol::kTcp;
    ip->hop_limit = 64;
  }
  b[layer4 + 12] = 8 << 4;
  b[layer4 + 13] = 0x10;
  const std::uint8_t pseudo_tail[4] = {0, ip_protocol::kTcp, static_cast<std::uint8_t>(tcp_bytes >> 8), static_cast<std::uint8_t>(tcp_bytes)};
  const std::uint32_t addresses = is_v4 ? checksum_partial(b + 26, 8) : checksum_partial(b + 22, 32);
  const std::uint16_t pseudo = checksum_fold(checksum_partial(pseudo_tail, 4, addresses));
  store(b + layer4 + 16, pseudo);
  for (std::uint32_t i = 0; i < kPayload; ++i) b[headers + i] = static_cast<std::uint8_t>(i * 31 + i / 251);
  packet.length = headers + kPayload;
  packet.tailroom -= packet.length;
  packet.offload = {OffloadMeta::kNeedsChecksum, is_v4 ? OffloadMeta::kGsoTcp4 : OffloadMeta::kGsoTcp6, headers, kSegmentSize, layer4, 16};
  return packet;
}

void report(benchmark::State& state, std::uint64_t cycles) {
  state.counters["cycles/segment"] = static_cast<double>(cycles) / static_cast<double>(state.iterations()) / kSegments;
}

void copy(benchmark::State& state) {
  Buffer from(kMaxFrameBytes);
  std::vector<Buffer> to(kSegments, Buffer(2048));
  std::uint64_t cycles = 0;
  for (auto _ : state) {
    const std::uint64_t start = __rdtsc();
    for (unsigned i = 0; i < kSegments; ++i)
      std::memcpy(to[i].bytes.data() + kHeadroomBytes, from.bytes.data() + std::size_t{i} * kSegmentSize, kSegmentSize);
    benchmark::ClobberMemory();
    cycles += __rdtsc() - start;
  }
  report(state, cycles);
}

void segment(benchmark::State& state) {
  Buffer buffer(kMaxFrameBytes);
  const Packet super = make_super_frame(buffer, state.range(0) == 4);
  std::vector<Buffer> to(kSegments, Buffer(2048));
  std::uint64_t cycles = 0;
  for (auto _ : state) {
    const std::uint64_t start = __rdtsc();
    SuperFrame at;
    if (parse_super_frame(super, at) != DropReason::kNone) return state.SkipWithError("not a super-frame");
    const Segmenter cut(super, at);
    for (unsigned i = 0; i < kSegments; ++i) {
      Packet out = to[i].empty();
      benchmark::DoNotOptimize(cut.make(i, out));
    }
    cycles += __rdtsc() - start;
  }
  report(state, cycles);
}

void coalesce(benchmark::State& state) {
  Buffer buffer(kMaxFrameBytes), large_buffer(kMaxFrameBytes);
  const Packet super = make_super_frame(buffer, state.range(0) == 4);
  std::vector<Buffer> to(kSegments, Buffer(2048));
  std::vector<Packet> segments(kSegments);
  SuperFrame at;
  if (parse_super_frame(super, at) != DropReason::kNone) return state.SkipWithError("not a super-frame");
  const Segmenter cut(super, at);
  for (unsigned i = 0; i < kSegments; ++i) {
    segments[i] = to[i].empty();
    (void)cut.make(i, segments[i]);
  }
  std::uint64_t cycles = 0;
  for (auto _ : state) {
    Packet large = large_buffer.empty();
    const std::uint64_t start = __rdtsc();
    OpenFlow flow;
    unsigned joined = 0;
    for (unsigned i = 0; i < kSegments; ++i) {
      TcpSegment found;
      if (!parse_tcp_segment(segments[i], found)) break;
      if (i == 0) flow = open_flow(segments[0], found);
      else if (!may_join(flow, segments[i], found)) break;
      else if (i == 1) joined += join_first(flow, large, segments[i], found);
      else joined += join(flow, segments[i], found);
    }
    finish(flow);
    cycles += __rdtsc() - start;
    if (joined != kSegments - 1) return state.SkipWithError("did not join");
  }
  report(state, cycles);
}

BENCHMARK(copy)->Repetitions(5)->ReportAggregatesOnly();
BENCHMARK(segment)->Arg(4)->Arg(6)->Repetitions(5)->ReportAggregatesOnly();
BENCHMARK(coalesce)->Arg(4)->Arg(6)->Repetitions(5)->ReportAggregatesOnly();

}  // namespace
}  // namespace vx

BENCHMARK_MAIN();
