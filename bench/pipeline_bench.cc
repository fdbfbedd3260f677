// SPDX-License-Identifier: Apache-2.0
// Cycles per packet of the encap way and the decap way through the real worker loop (Worker::poll_once) with ports
// in memory, beside the I/O floor: the same ports and bursts, received and sent without anything in between.
//
//   pipeline_bench [--benchmark_filter=...]     cycles = TSC cycles (its rate is printed), medians of repetitions
//
// A port hands out bursts of 64 frames from a ring of buffers and stamps the two MACs of each, as a NIC would
// write a frame: that belongs to the floor. "MACs": entries of the FDB, half of them on the guest port and half
// behind the VTEP (one: one of each), in random order. Each frame is another flow.
#include <benchmark/benchmark.h>
#include <x86intrin.h>

#include <algorithm>
#include <cstdio>
#include <random>

#include "dataplane/encap.h"
#include "dataplane/worker.h"

namespace vx {
namespace {

constexpr unsigned kRing = 512;            // buffers in use, as a mempool's cache would keep them
constexpr unsigned kBufferBytes = 2048;
constexpr unsigned kStride = kBufferBytes + kHeadroomBytes + 64;  // not a power of two: no cache-set collisions

class NoPool : public BufferPool {
 public:
  unsigned allocate(Packet*, unsigned) noexcept override { return 0; }
  unsigned allocate_large(Packet*, unsigned) noexcept override { return 0; }
  void free(Packet* const*, unsigned count) noexcept override { freed += count; }
  std::uint64_t freed = 0;
};

struct MacPair {
  MacPair(MacAddress destination, MacAddress source) {
    std::copy(destination.bytes.begin(), destination.bytes.end(), ethernet.begin());
    std::copy(source.bytes.begin(), source.bytes.end(), ethernet.begin() + 6);
    ethernet[12] = 8;
    ethernet[14] = 0x45;
  }
  // Destination, source, the IPv4 ethertype and the first two bytes of the IPv4 header.
  std::array<std::uint8_t, 16> ethernet{};
  std::uint16_t udp_checksum = 0;             // decap: the outer one, raw
};

// Sends nothing anywhere, receives kMaxBurst frames at every call.
class LoopPort : public Port {
 public:
  explicit LoopPort(std::string name) : Port(std::move(name)) {}
  void load(const std::vector<std::uint8_t>& frame, std::vector<MacPair> pairs, std::uint32_t mac_offset,
            std::uint32_t port_offset, std::uint32_t checksum_offset = 0) {
    memory_.assign(std::size_t{kRing} * kStride, 0);
    for (unsigned i = 0; i < kRing; ++i) {
      std::uint8_t* data = at(i);
      std::copy(frame.begin(), frame.end(), data);
      data[port_offset] = static_cast<std::uint8_t>(i >> 8);
      data[port_offset + 1] = static_cast<std::uint8_t>(i);
      // Its complement beside it: frames differ in flow and not in checksum.
      data[port_offset + 2] = static_cast<std::uint8_t>(~data[port_offset]);
      data[port_offset + 3] = static_cast<std::uint8_t>(~data[port_offset + 1]);
    }
    length_ = static_cast<std::uint32_t>(frame.size());
    pairs_ = std::move(pairs);
    mac_offset_ = mac_offset;
    checksum_offset_ = checksum_offset;
  }
  unsigned rx(std::uint16_t, Packet* out, unsigned count) noexcept override {
    if (length_ == 0) return 0;
    for (unsigned i = 0; i < count; ++i) {
      std::uint8_t* data = at(next_buffer_);
      next_buffer_ = (next_buffer_ + 1) % kRing;
      const MacPair& pair = pairs_[next_pair_];
      next_pair_ = next_pair_ + 1 == pairs_.size() ? 0 : next_pair_ + 1;
      // One store, as wide as the loads that will follow: no stall that a NIC's frames would not have.
      std::memcpy(data + mac_offset_, pair.ethernet.data(), 16);
      if (checksum_offset_ != 0) std::memcpy(data + checksum_offset_, &pair.udp_checksum, 2);
      out[i] = Packet{};
      out[i].data = data;
      out[i].buffer = data;
      out[i].length = length_;
      out[i].headroom = kHeadroomBytes;
      out[i].tailroom = kBufferBytes - length_;
    }
    return count;
  }
  unsigned tx(std::uint16_t, Packet* const* packets, unsigned count) noexcept override {
    for (unsigned i = 0; i < count; ++i) bytes_sent += packets[i]->length;
    return count;
  }
  std::uint16_t rx_queues() const noexcept override { return 1; }
  std::uint16_t tx_queues() const noexcept override { return 1; }
  int rx_fd(std::uint16_t) const noexcept override { return -1; }
  std::uint64_t bytes_sent = 0;

 private:
  std::uint8_t* at(unsigned i) noexcept { return memory_.data() + std::size_t{i} * kStride + kHeadroomBytes; }
  std::vector<std::uint8_t> memory_;
  std::vector<MacPair> pairs_;
  std::uint32_t length_ = 0, mac_offset_ = 0, checksum_offset_ = 0;
  unsigned next_buffer_ = 0;
  std::size_t next_pair_ = 0;
};

std::vector<std::uint8_t> guest_frame(std::size_t bytes) {
  std::vector<std::uint8_t> frame(bytes, 0x5a);
  auto* ip = view<Ipv4Header>(frame.data() + 14);
  view<EthernetHeader>(frame.data())->type = ether_type::kIpv4;
  *ip = Ipv4Header{};
  ip->version_ihl = 0x45;
  ip->total_length = Be16(static_cast<std::uint16_t>(bytes - 14));
  ip->ttl = 64;
  ip->protocol = ip_protocol::kUdp;
  ip->source = {10, 0, 0, 1};
  ip->destination = {10, 0, 0, 2};
  return frame;
}

enum Way { kEncap, kDecap };

struct Bench {
  NoPool pool;
  ForwardingState state;
  Assignment assignment;
  std::shared_ptr<LoopPort> underlay = std::make_shared<LoopPort>("underlay"), guest = std::make_shared<LoopPort>("guest");
  Worker worker{WorkerConfig{}, pool};

  Bench(Way way, std::size_t inner_bytes, std::size_t macs, bool udp_csum) {
    const IpAddress here = IpAddress::v4(172, 18, 1, 1), there = IpAddress::v4(172, 18, 1, 2);
    state.underlay.port = 0;
    state.underlay.mtu = 1500;
    state.underlay.local = {here};
    VlanTable vlans;
    vlans.pvid = 1;
    vlans.members.insert_range(1, 4094);
    vlans.untagged.insert(1);
    OverlayState overlay;
    overlay.exists = true;
    overlay.vni = 1000;
    overlay.local = here;
    overlay.udp_csum = udp_csum;
    overlay.fdb = std::make_shared<Fdb>(std::max<std::size_t>(macs + 1, 65536));
    overlay.tunnel_vlans = std::make_shared<const VlanTable>(vlans);
    overlay.ports = {1};
    OuterHeaderFields fields{};
    fields.source_mac = MacAddress::from_u48(0x020000000001);
    fields.next_hop = MacAddress::from_u48(0x020000000002);
    fields.source = here;
    fields.destination = there;
    fields.vni = 1000;
    Vtep vtep;
    build_outer_header(fields, vtep);
    vtep.exists = vtep.resolved = vtep.flood = true;
    vtep.outer_mtu = 1500;
    vtep.address = there;
    overlay.vteps = VtepTable({vtep});
    state.overlays.push_back(overlay);
    state.ports.resize(2);
    state.ports[0].port = underlay;
    state.ports[0].is_underlay = true;
    state.ports[1].port = guest;
    state.ports[1].overlay = 0;
    state.ports[1].vlans = overlay.tunnel_vlans;
    assignment.tx = {{underlay.get(), 0, nullptr}, {guest.get(), 0, nullptr}};

    const std::size_t half = std::max<std::size_t>(macs / 2, 1);
    std::mt19937_64 random(42);
    std::vector<MacAddress> local(half), remote(half);
    for (std::size_t i = 0; i < half; ++i) {
      local[i] = MacAddress::from_u48((random() & 0xffffff) << 24 | 0x020000000000 | i);
      remote[i] = MacAddress::from_u48((random() & 0xffffff) << 24 | 0x020000800000 | i);
      local[i].bytes[0] = remote[i].bytes[0] = 2;
      const auto now = clock_seconds();
      if (overlay.fdb->put(fdb_key(1, local[i]), Location::port(1), 0, now, now) != FdbResult::kAdded ||
          overlay.fdb->put(fdb_key(1, remote[i]), Location::vtep(0), 0, now, now) != FdbResult::kAdded)
        std::abort();
    }
    std::shuffle(local.begin(), local.end(), random);
    std::vector<MacPair> pairs;
    for (std::size_t i = 0; i < half; ++i)
      pairs.push_back(way == kEncap ? MacPair(remote[i], local[i]) : MacPair(local[i], remote[i]));
    const auto inner = guest_frame(inner_bytes);
    if (way == kEncap) {
      guest->load(inner, pairs, 0, 34);
      assignment.rx = {{guest.get(), 1, 0, nullptr}};
    } else {
      auto outer = outer_frame(vtep, inner);
      std::fill_n(outer.begin() + 50 + 34, 2, 0);
      std::fill_n(outer.begin() + 50 + 36, 2, 0xff);
      if (udp_csum)
        for (auto& pair : pairs) pair.udp_checksum = udp_checksum(outer, pair);
      underlay->load(outer, pairs, 50, 50 + 34, udp_csum ? 40 : 0);
      assignment.rx = {{underlay.get(), 0, 0, nullptr}};
    }
    worker.publish(&state, &assignment);
  }

  static std::vector<std::uint8_t> outer_frame(const Vtep& vtep, const std::vector<std::uint8_t>& inner) {
    std::vector<std::uint8_t> memory(kHeadroomBytes + inner.size());
    std::copy(inner.begin(), inner.end(), memory.begin() + kHeadroomBytes);
    Packet packet;
    packet.data = memory.data() + kHeadroomBytes;
    packet.length = static_cast<std::uint32_t>(inner.size());
    packet.headroom = kHeadroomBytes;
    EncapSettings settings;
    settings.udp_csum = false;
    if (encap(packet, vtep, settings) != DropReason::kNone) std::abort();
    std::vector<std::uint8_t> frame(packet.data, packet.data + packet.length);
    // As the peer sends it to us.
    auto* ip = view<Ipv4Header>(frame.data() + 14);
    std::swap(ip->source, ip->destination);
    return frame;
  }
  // Of the outer IPv4 frame once `pair` is stamped into it.
  static std::uint16_t udp_checksum(std::vector<std::uint8_t>& outer, const MacPair& pair) {
    std::memcpy(&outer[50], pair.ethernet.data(), 16);
    outer[40] = outer[41] = 0;
    const std::uint8_t protocol[4] = {0, ip_protocol::kUdp, outer[38], outer[39]};
    const auto pseudo = checksum_partial(protocol, 4, checksum_partial(&outer[26], 8));
    return static_cast<std::uint16_t>(~checksum_fold(checksum_partial(&outer[34], outer.size() - 34, pseudo)));
  }
  [[nodiscard]] std::uint64_t sent_packets() {
    const auto counters = worker.snapshot(std::chrono::milliseconds(1));
    std::uint64_t sent = 0;
    for (const auto& port : counters->ports) sent += port.tx_packets;
    for (const auto drop : counters->drops)
      if (drop != 0) std::abort();  // a bench that drops measures nothing
    return sent;
  }
};

// Least of many equal rounds: the machine is shared, what is above the least is other people's work.
struct Cycles {
  double median = 0, least = 0;
};
template <typename Round>
Cycles measure(Round&& round, unsigned packets_per_round, unsigned rounds) {
  std::vector<double> samples;
  samples.reserve(rounds);
  for (unsigned i = 0; i < rounds / 10 + 1; ++i) round();
  for (unsigned i = 0; i < rounds; ++i) {
    const auto start = __rdtsc();
    round();
    samples.push_back(static_cast<double>(__rdtsc() - start) / packets_per_round);
  }
  std::sort(samples.begin(), samples.end());
  return {samples[samples.size() / 2], samples[0]};
}

constexpr unsigned kBurstsPerRound = 64;

Cycles measure_floor(Bench& bench, unsigned rounds) {
  alignas(64) static thread_local std::array<Packet, kMaxBurst> burst;
  static thread_local std::array<Packet*, kMaxBurst> list;
  Port* in = bench.assignment.rx[0].port;
  Port* out = in == bench.guest.get() ? static_cast<Port*>(bench.underlay.get()) : bench.guest.get();
  return measure(
      [&] {
        for (unsigned b = 0; b < kBurstsPerRound; ++b) {
          const unsigned count = in->rx(0, burst.data(), kMaxBurst);
          for (unsigned i = 0; i < count; ++i) list[i] = &burst[i];
          benchmark::DoNotOptimize(out->tx(0, list.data(), count));
        }
      },
      kBurstsPerRound * kMaxBurst, rounds);
}

void run(benchmark::State& state, Way way) {
  Bench bench(way, static_cast<std::size_t>(state.range(0)), static_cast<std::size_t>(state.range(1)), state.range(2) != 0);
  constexpr unsigned kRounds = 400;
  Cycles floor, work;
  for (auto _ : state) {
    floor = measure_floor(bench, kRounds);
    work = measure(
        [&] {
          for (unsigned b = 0; b < kBurstsPerRound; ++b) (void)bench.worker.poll_once();
        },
        kBurstsPerRound * kMaxBurst, kRounds);
  }
  if (bench.sent_packets() == 0) std::abort();
  state.counters["floor"] = floor.median;
  state.counters["total"] = work.median;
  state.counters["above_floor"] = work.median - floor.median;
  state.counters["above_least"] = work.least - floor.least;
}

void sizes(benchmark::internal::Benchmark* b) {
  for (const std::int64_t csum : {0, 1})
    for (const std::int64_t bytes : {64, 1332})
      for (const std::int64_t macs : {1, 1000, 100000}) b->Args({bytes, macs, csum});
  b->ArgNames({"bytes", "macs", "csum"})->Iterations(1)->Repetitions(3)->ReportAggregatesOnly(true)->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(run, encap, kEncap)->Apply(sizes);
BENCHMARK_CAPTURE(run, decap, kDecap)->Apply(sizes);

}  // namespace
}  // namespace vx

BENCHMARK_MAIN();
