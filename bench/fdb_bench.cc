// SPDX-License-Identifier: Apache-2.0
// Cycles per lookup in the FDB by its size and by how many lookups hit, keys in random order: each by itself, and in bursts of
// 64 as the packet's way does it (all prefetched, then all looked up). And cycles per change by the writer: an entry put
// again, and one removed and another added.
//
//   fdb_bench [--benchmark_filter=...]     cycles = TSC cycles, medians of repetitions
#include <benchmark/benchmark.h>

#include <map>
#include <memory>

#include "bench/frames.h"
#include "bench/measure.h"
#include "dataplane/fdb.h"

namespace vx::bench {
namespace {

constexpr unsigned kLookups = 4096, kRounds = 200, kBurst = 64;

// A table of that size and keys of its entries and of none, in random order. Kept: filling a million takes a while.
struct Filled {
  explicit Filled(std::size_t size) : fdb(size + 1) {
    for (const auto& mac : make_macs(size, false)) present.push_back(fdb_key(1, mac));
    for (const auto& mac : make_macs(std::max<std::size_t>(size, kLookups), true)) absent.push_back(fdb_key(1, mac));
    for (const auto key : present)
      if (fdb.put(key, Location::port(1), 0, 1, 1) != FdbResult::kAdded) std::abort();
  }
  Fdb fdb;
  std::vector<std::uint64_t> present, absent;
};

Filled& filled(std::size_t size) {
  static std::map<std::size_t, std::unique_ptr<Filled>> all;
  auto& one = all[size];
  if (!one) one = std::make_unique<Filled>(size);
  return *one;
}

// Keys to look up, so many percent of them present, one round after another through the whole table.
class Keys {
 public:
  Keys(const Filled& table, unsigned hit_percent) {
    std::mt19937_64 random(7);
    const std::size_t count = std::max<std::size_t>(table.present.size(), kLookups) / kLookups * kLookups;
    for (std::size_t i = 0; i < count; ++i)
      keys_.push_back(random() % 100 < hit_percent ? table.present[i % table.present.size()] : table.absent[i % table.absent.size()]);
  }
  [[nodiscard]] const std::uint64_t* next() noexcept {
    at_ = at_ == keys_.size() ? 0 : at_;
    at_ += kLookups;
    return &keys_[at_ - kLookups];
  }

 private:
  std::vector<std::uint64_t> keys_;
  std::size_t at_ = 0;
};

template <typename Work>
void measure(benchmark::State& state, Keys& keys, Work&& work) {
  Compared result;
  for (auto _ : state)
    result = compare(
        [&] {
          const std::uint64_t* at = keys.next();
          for (unsigned i = 0; i < kLookups; ++i) benchmark::DoNotOptimize(at[i]);
        },
        [&] { work(keys.next()); }, kLookups, kRounds);
  state.counters["above_floor"] = result.above_floor;
  state.counters["above_least"] = result.above_least();
}

void find(benchmark::State& state) {
  Filled& table = filled(static_cast<std::size_t>(state.range(0)));
  Keys keys(table, static_cast<unsigned>(state.range(1)));
  measure(state, keys, [&](const std::uint64_t* at) {
    for (unsigned i = 0; i < kLookups; ++i) benchmark::DoNotOptimize(table.fdb.find(at[i]).slot);
  });
}

void find_in_bursts(benchmark::State& state) {
  Filled& table = filled(static_cast<std::size_t>(state.range(0)));
  Keys keys(table, static_cast<unsigned>(state.range(1)));
  measure(state, keys, [&](const std::uint64_t* at) {
    for (unsigned burst = 0; burst < kLookups; burst += kBurst) {
      for (unsigned i = 0; i < kBurst; ++i) table.fdb.prefetch(at[burst + i]);
      for (unsigned i = 0; i < kBurst; ++i) benchmark::DoNotOptimize(table.fdb.find(at[burst + i]).slot);
    }
  });
}

void put_again(benchmark::State& state) {
  Filled& table = filled(static_cast<std::size_t>(state.range(0)));
  Keys keys(table, 100);
  measure(state, keys, [&](const std::uint64_t* at) {
    for (unsigned i = 0; i < kLookups; ++i) benchmark::DoNotOptimize(table.fdb.put(at[i], Location::port(1), 0, 1, 1));
  });
}

// Both together are one: what comes and goes.
void remove_and_add(benchmark::State& state) {
  Filled& table = filled(static_cast<std::size_t>(state.range(0)));
  Keys keys(table, 100);
  measure(state, keys, [&](const std::uint64_t* at) {
    for (unsigned i = 0; i < kLookups; ++i) {
      benchmark::DoNotOptimize(table.fdb.remove(at[i]));
      benchmark::DoNotOptimize(table.fdb.put(at[i], Location::port(1), 0, 1, 1));
    }
  });
}

constexpr std::int64_t kSizes[] = {1, 1000, 100'000, 1'000'000};
void in_short(benchmark::internal::Benchmark* b) { b->Iterations(1)->Repetitions(3)->ReportAggregatesOnly(true); }
void sizes(benchmark::internal::Benchmark* b) {
  for (const auto size : kSizes) b->Arg(size);
  b->ArgName("entries");
  in_short(b);
}
void sizes_and_hits(benchmark::internal::Benchmark* b) {
  for (const auto size : kSizes)
    for (const std::int64_t hits : {100, 50, 0}) b->Args({size, hits});
  b->ArgNames({"entries", "hits"});
  in_short(b);
}

BENCHMARK(find)->Apply(sizes_and_hits);
BENCHMARK(find_in_bursts)->Apply(sizes_and_hits);
BENCHMARK(put_again)->Apply(sizes);
BENCHMARK(remove_and_add)->Apply(sizes);

}  // namespace
}  // namespace vx::bench

BENCHMARK_MAIN();
