// SPDX-License-Identifier: Apache-2.0
// Cycles per packet of the encap, decap and local-bridge ways through the real worker loop (Worker::poll_once) with ports
// in memory, above the I/O floor: the same ports and bursts, received and sent without anything in between.
//
//   pipeline_bench [--benchmark_filter=...]     cycles = TSC cycles, medians of repetitions
//
// "MACs": entries of the FDB, half of them on the guest port and half behind the VTEP (one: one of each), in random
// order. Each frame is another flow. `above_floor` is the median; `above_least` compares the best rounds of both: what is above it
// is other people's work on the machine.
#include <benchmark/benchmark.h>

#include "bench/loop_switch.h"
#include "bench/measure.h"

namespace vx::bench {
namespace {

constexpr unsigned kBurstsPerRound = 64, kRounds = 400;

void measure(benchmark::State& state, const Work& work, unsigned rounds) {
  LoopSwitch loop(work);
  Compared result;
  for (auto _ : state) {
    result = compare(
        [&] {
          for (unsigned b = 0; b < kBurstsPerRound; ++b) loop.pass_through();
        },
        [&] {
          for (unsigned b = 0; b < kBurstsPerRound; ++b) (void)loop.worker.poll_once();
        },
        kBurstsPerRound * kMaxBurst, rounds);
  }
  if (loop.sent_packets() == 0) std::abort();
  state.counters["floor"] = result.floor.median;
  state.counters["total"] = result.work.median;
  state.counters["above_floor"] = result.above_floor;
  state.counters["above_least"] = result.above_least();
}

void run(benchmark::State& state, Way way) {
  Work work{way, static_cast<std::size_t>(state.range(0)), static_cast<std::size_t>(state.range(1))};
  work.udp_csum = way != Way::kBridge && state.range(2) != 0;
  measure(state, work, kRounds);
}

// To so many guests and the VTEP; cycles per frame received, not per copy.
void flood(benchmark::State& state) {
  Work work{Way::kFlood, static_cast<std::size_t>(state.range(0))};
  work.guests = static_cast<unsigned>(state.range(1)) + 1;
  measure(state, work, kRounds / 4);
}

void in_short(benchmark::internal::Benchmark* b) {
  b->Iterations(1)->Repetitions(3)->ReportAggregatesOnly(true)->Unit(benchmark::kMillisecond);
}
void sizes(benchmark::internal::Benchmark* b) {
  for (const std::int64_t csum : {0, 1})
    for (const std::int64_t bytes : {64, 1332})
      for (const std::int64_t macs : {1, 1000, 100000}) b->Args({bytes, macs, csum});
  b->ArgNames({"bytes", "macs", "csum"});
  in_short(b);
}
void bridge_sizes(benchmark::internal::Benchmark* b) {
  for (const std::int64_t macs : {1, 1000, 100000}) b->Args({64, macs});
  b->ArgNames({"bytes", "macs"});
  in_short(b);
}

BENCHMARK_CAPTURE(run, encap, Way::kEncap)->Apply(sizes);
BENCHMARK_CAPTURE(run, decap, Way::kDecap)->Apply(sizes);
BENCHMARK_CAPTURE(run, bridge, Way::kBridge)->Apply(bridge_sizes);
BENCHMARK(flood)->ArgNames({"bytes", "guests"})->Args({64, 1})->Args({64, 8})->Args({1332, 8})->Apply(in_short);

}  // namespace
}  // namespace vx::bench

BENCHMARK_MAIN();
