// SPDX-License-Identifier: Apache-2.0
// Cycles per packet of each step of the packet's way, alone: bursts of 64 out of a LoopPort, the step on each packet, above
// the same bursts without it. What several steps share (a loaded cache line, a branch) is in each of them: the
// sum is more than the way (pipeline_bench).
//
//   step_bench [--benchmark_filter=...]     cycles = TSC cycles, medians of repetitions
#include <benchmark/benchmark.h>

#include "bench/loop_switch.h"
#include "bench/measure.h"
#include "dataplane/bridge.h"
#include "dataplane/classify.h"
#include "dataplane/decap.h"
#include "dataplane/egress_tag.h"
#include "dataplane/flood.h"
#include "dataplane/mtu.h"

namespace vx::bench {
namespace {

constexpr unsigned kBurstsPerRound = 16, kRounds = 400;
constexpr std::size_t kMacs = 1000;

// Bursts of `load`, on which `before` and then `step` are done; only `step` counts.
class Bursts {
 public:
  explicit Bursts(const Load& load) { port_.load(load); }

  template <typename Before, typename Step>
  void measure(benchmark::State& state, Before&& before, Step&& step) {
    Compared result;
    for (auto _ : state) {
      result = compare([&] { round(before, [](Packet&) { return 0; }); }, [&] { round(before, step); },
                       kBurstsPerRound * kMaxBurst, kRounds);
    }
    state.counters["above_floor"] = result.above_floor;
    state.counters["above_least"] = result.above_least();
  }
  template <typename Step>
  void measure(benchmark::State& state, Step&& step) {
    measure(state, [](Packet&) { return 0; }, step);
  }

 private:
  template <typename Before, typename Step>
  void round(Before& before, Step&& step) {
    for (unsigned b = 0; b < kBurstsPerRound; ++b) {
      (void)port_.rx(0, burst_.data(), kMaxBurst);
      for (Packet& packet : burst_) benchmark::DoNotOptimize(before(packet));
      benchmark::ClobberMemory();
      for (Packet& packet : burst_) benchmark::DoNotOptimize(step(packet));
      benchmark::ClobberMemory();
    }
  }
  LoopPort port_{"bursts"};
  alignas(64) std::array<Packet, kMaxBurst> burst_;
};

// All that the steps read, as the switch has it.
struct Tables {
  LoopSwitch loop{{Way::kEncap, 64, kMacs}};
  const OverlayState& overlay = loop.state.overlays[0];
  const VlanTable& vlans = *overlay.tunnel_vlans;
  Fdb& fdb = *loop.fdb;
  std::uint16_t now = clock_seconds();

  [[nodiscard]] static Load load(std::size_t bytes = 64) {
    return guest_load(bytes, make_pairs(make_macs(kMacs / 2, true), make_macs(kMacs / 2, false)));
  }
  [[nodiscard]] static Load tagged_load() {
    Load tagged = load();
    auto& frame = tagged.frame;
    const std::uint8_t tag[] = {0x81, 0, 0, 100};
    frame.insert(frame.begin() + 12, tag, tag + sizeof tag);
    tagged.ports_offset += sizeof tag;
    for (auto& pair : tagged.pairs) std::copy(tag, tag + sizeof tag, pair.ethernet.begin() + 12);
    return tagged;
  }
  // A guest's packet that has been classified.
  DropReason enter(Packet& packet) const {
    packet.source = Location::port(1);
    return classify(packet, vlans, DropReason::kGuestTruncated);
  }
};

void classify_untagged(benchmark::State& state) {
  const Tables t;
  Bursts(t.load()).measure(state, [&](Packet& p) { return classify(p, t.vlans, DropReason::kGuestTruncated); });
}
void classify_tagged(benchmark::State& state) {
  const Tables t;
  Bursts(t.tagged_load()).measure(state, [&](Packet& p) { return classify(p, t.vlans, DropReason::kGuestTruncated); });
}
void vlan_membership(benchmark::State& state) {
  const Tables t;
  const auto enter = [&](Packet& p) { return t.enter(p); };
  Bursts(t.load()).measure(state, enter, [&](Packet& p) { return t.vlans.members.contains(p.vid()); });
}
// The source's lookup and its check, as most packets of a burst have it, and as the first one has.
void learn_check_usual(benchmark::State& state) {
  const Tables t;
  BridgeShortcut shortcut;
  const auto enter = [&](Packet& p) { return t.enter(p); };
  Bursts(t.load()).measure(state, enter, [&](Packet& p) { return shortcut.is_known_source(p, t.fdb, t.now); });
}
void learn_check_full(benchmark::State& state) {
  const Tables t;
  const auto enter = [&](Packet& p) { return t.enter(p); };
  Bursts(t.load()).measure(state, enter, [&](Packet& p) { return check_source(p, t.fdb, t.now); });
}
void fdb_lookup_usual(benchmark::State& state) {
  const Tables t;
  BridgeShortcut shortcut;
  shortcut.remember(Location::vtep(0), t.fdb, t.now);
  const auto enter = [&](Packet& p) { return t.enter(p); };
  Bursts(t.load()).measure(state, enter, [&](Packet& p) { return shortcut.is_usual_egress(p, t.fdb); });
}
void fdb_lookup_full(benchmark::State& state) {
  const Tables t;
  const auto enter = [&](Packet& p) { return t.enter(p); };
  Bursts(t.load()).measure(state, enter, [&](Packet& p) { return find_egress(p, t.fdb, t.now); });
}
void mtu(benchmark::State& state) {
  const Tables t;
  Bursts(t.load()).measure(state, [&](Packet& p) { return check_overlay_mtu(p, 1500); });
}
void egress_tag(benchmark::State& state, bool is_tagged) {
  const Tables t;
  const auto enter = [&](Packet& p) { return t.enter(p); };
  VlanTable vlans = t.vlans;
  if (is_tagged) vlans.untagged.erase(1);  // pushed then
  Bursts(t.load()).measure(state, enter, [&](Packet& p) { return apply_egress_tag(p, vlans); });
}
void flood_targets(benchmark::State& state) {
  const Tables t;
  const auto enter = [&](Packet& p) { return t.enter(p); };
  Bursts(t.load()).measure(state, enter, [&](Packet& p) {
    unsigned sum = 0;
    return for_each_flood_target(p, t.overlay, t.loop.state, [&](Location target) { sum += target.raw(); }) + sum;
  });
}
void flow_hash(benchmark::State& state) {
  const Tables t;
  Bursts(t.load()).measure(state, [&](Packet& p) { return inner_flow(p.data, p.length).hash; });
}
void encap(benchmark::State& state) {
  const Tables t;
  EncapSettings settings;
  settings.udp_csum = state.range(1) != 0;
  const Vtep vtep = make_vtep();
  Bursts(t.load(static_cast<std::size_t>(state.range(0)))).measure(state, [&](Packet& p) { return vx::encap(p, vtep, settings); });
}
void decap(benchmark::State& state) {
  const Tables t;
  const bool csum = state.range(1) != 0;
  const auto pairs = make_pairs(make_macs(kMacs / 2, false), make_macs(kMacs / 2, true));
  DecapCache cache;
  IpAddress unknown;
  Bursts(tunnel_load(static_cast<std::size_t>(state.range(0)), pairs, csum)).measure(state, [&](Packet& p) {
    const DropReason reason = vx::decap(p, t.loop.state, cache, unknown).reason;
    if (reason != DropReason::kNone) [[unlikely]] std::abort();
    return reason;
  });
}
// One virtual call for one packet and for a burst: cycles per call, the loop in it included.
void port_call(benchmark::State& state) {
  RingPool pool;
  LoopPort loop("loop");
  Port* port = &loop;
  benchmark::DoNotOptimize(port);
  std::array<Packet, kMaxBurst> packets;
  (void)pool.allocate(packets.data(), kMaxBurst);
  std::array<Packet*, kMaxBurst> list;
  for (unsigned i = 0; i < kMaxBurst; ++i) list[i] = &packets[i];
  const auto count = static_cast<unsigned>(state.range(0));
  Compared result;
  for (auto _ : state)
    result = compare(
        [&] {
          for (unsigned i = 0; i < 1024; ++i) benchmark::DoNotOptimize(i);
        },
        [&] {
          for (unsigned i = 0; i < 1024; ++i) benchmark::DoNotOptimize(port->tx(0, list.data(), count));
        },
        1024, kRounds);
  state.counters["above_floor"] = result.above_floor;
  state.counters["above_least"] = result.above_least();
}

void in_short(benchmark::internal::Benchmark* b) { b->Iterations(1)->Repetitions(5)->ReportAggregatesOnly(true); }
void frames(benchmark::internal::Benchmark* b) {
  for (const std::int64_t csum : {0, 1})
    for (const std::int64_t bytes : {64, 1332}) b->Args({bytes, csum});
  b->ArgNames({"bytes", "csum"});
  in_short(b);
}

BENCHMARK(classify_untagged)->Apply(in_short);
BENCHMARK(classify_tagged)->Apply(in_short);
BENCHMARK(vlan_membership)->Apply(in_short);
BENCHMARK(learn_check_usual)->Apply(in_short);
BENCHMARK(learn_check_full)->Apply(in_short);
BENCHMARK(fdb_lookup_usual)->Apply(in_short);
BENCHMARK(fdb_lookup_full)->Apply(in_short);
BENCHMARK(mtu)->Apply(in_short);
BENCHMARK_CAPTURE(egress_tag, as_it_is, false)->Apply(in_short);
BENCHMARK_CAPTURE(egress_tag, pushed, true)->Apply(in_short);
BENCHMARK(flood_targets)->Apply(in_short);
BENCHMARK(flow_hash)->Apply(in_short);
BENCHMARK(encap)->Apply(frames);
BENCHMARK(decap)->Apply(frames);
BENCHMARK(port_call)->ArgName("packets")->Arg(1)->Arg(64)->Apply(in_short);

}  // namespace
}  // namespace vx::bench

BENCHMARK_MAIN();
