// SPDX-License-Identifier: Apache-2.0
// Several workers on one switchboard and one FDB, each with queues of its own of the underlay and of the guest's port, in
// memory: packets per second of all, and the efficiency, rate(N) / (N * rate(1)). Every worker uses every MAC, and sees each
// second first or not: the activity times in the FDB are written as with real traffic. Meanwhile the management
// thread puts 1,000 entries again every 10 ms, as when control confirms what was learned.
//
//   multicore_bench [--benchmark_filter=...]
//
// Workers are bound to the CPUs that this process may use; with fewer CPUs than workers a case is skipped. One worker and all
// take turns in slices of 100 ms, so that the machine's other users meet both; figures are medians of the slices.
#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <thread>

#include "bench/frames.h"
#include "bench/loop_switch.h"
#include "bench/measure.h"
#include "dataplane/switchboard.h"

namespace vx::bench {
namespace {

constexpr unsigned kSlices = 10, kPutsAtOnce = 1000;
constexpr std::chrono::milliseconds kSlice{100}, kPutEvery{10};

std::vector<int> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  (void)sched_getaffinity(0, sizeof set, &set);
  std::vector<int> cpus;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) cpus.push_back(i);
  return cpus;
}

// The real switchboard: what workers share is laid out as in the dataplane.
class Switch {
 public:
  Switch(Way way, unsigned workers, std::size_t macs, std::size_t inner_bytes) : queues_(static_cast<std::uint16_t>(workers)) {
    for (unsigned i = 0; i < workers; ++i) {
      pools_.push_back(std::make_unique<RingPool>());
      workers_.push_back(std::make_unique<Worker>(WorkerConfig{}, *pools_.back()));
      pointers_.push_back(workers_.back().get());
    }
    BackEnds back_ends;
    back_ends.make_port = [this](const protocol::PortConfig& config) {
      MadePort made;
      made.port = ports_.emplace_back(std::make_shared<LoopPort>(std::string(protocol::text_of(config.name)), queues_));
      return made;
    };
    back_ends.make_held_socket = [](auto&&...) { return nullptr; };
    back_ends.set_mtu = [](const std::string&, unsigned) {};
    board_ = std::make_unique<Switchboard>(pointers_, back_ends);
    configure(macs);

    const std::size_t half = std::max<std::size_t>(macs / 2, 1);
    const auto here = make_macs(half, false), there = make_macs(half, true);
    put(here, Location::port(guest_));
    put(there, Location::vtep(0));
    const Load load = way == Way::kEncap ? guest_load(inner_bytes, make_pairs(there, here))
                                         : tunnel_load(inner_bytes, make_pairs(here, there), false);
    for (std::uint16_t queue = 0; queue < queues_; ++queue) ports_[way == Way::kEncap ? 1 : 0]->load(load, queue);
  }

  // Packets a second of the first `count` workers together, each on a CPU of its own.
  double run(unsigned count, const std::vector<int>& cpus) {
    std::atomic<unsigned> ready{0};
    std::atomic<bool> go{false}, stop{false};
    std::vector<double> rates(count);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < count; ++i)
      threads.emplace_back([&, i] {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpus[i], &set);
        (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
        ++ready;
        while (!go.load(std::memory_order_acquire)) __builtin_ia32_pause();
        std::uint64_t packets = 0;
        const auto start = std::chrono::steady_clock::now();
        while (!stop.load(std::memory_order_relaxed))
          for (unsigned n = 0; n < 64; ++n) packets += workers_[i]->poll_once();
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        rates[i] = static_cast<double>(packets) / took.count();
      });
    while (ready != count) std::this_thread::yield();
    const auto end = std::chrono::steady_clock::now() + kSlice;
    go.store(true, std::memory_order_release);
    while (std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(kPutEvery);
      (void)board_->put_fdb({&records_[next_put_], std::min<std::size_t>(kPutsAtOnce, records_.size() - next_put_)}, clock_seconds());
      next_put_ = next_put_ + kPutsAtOnce < records_.size() ? next_put_ + kPutsAtOnce : 0;
    }
    stop.store(true, std::memory_order_relaxed);
    for (auto& thread : threads) thread.join();
    double sum = 0;
    for (const double rate : rates) sum += rate;
    return sum;
  }
  [[nodiscard]] bool has_dropped() {
    for (Worker* worker : pointers_) {
      const auto counters = worker->snapshot(std::chrono::milliseconds(1));
      for (const auto drop : counters->drops)
        if (drop != 0) return true;
    }
    return false;
  }

 private:
  void configure(std::size_t macs) {
    VlanTable vlans;
    vlans.pvid = 1;
    vlans.members.insert_range(1, 4094);
    vlans.untagged.insert(1);
    protocol::PortConfig underlay_port;
    protocol::set_text(underlay_port.name, "underlay");
    underlay_port.role = protocol::PortRole::kUnderlay;
    underlay_port.driver = protocol::PortDriver::kAfXdp;
    underlay_port.queues = queues_;
    board_->add_port(underlay_port);
    protocol::OverlayConfig overlay;
    overlay.index = 0;
    overlay.vni = kVni;
    overlay.local = kHere;
    overlay.mtu = 1350;
    overlay.fdb_capacity = static_cast<std::uint32_t>(std::max<std::size_t>(macs + 1, 65536));
    overlay.tunnel_vlans = vlans;
    board_->set_overlay(overlay);
    protocol::UnderlayConfig underlay;
    protocol::set_text(underlay.port, "underlay");
    underlay.mtu = 1500;
    underlay.mac = MacAddress::from_u48(0x020000000001);
    underlay.local_count = 1;
    underlay.local[0] = kHere;
    board_->set_underlay(underlay);
    protocol::VtepConfig vtep;
    vtep.overlay = 0;
    vtep.index = 0;
    vtep.address = kThere;
    vtep.flood = vtep.resolved = 1;
    vtep.next_hop = MacAddress::from_u48(0x020000000002);
    board_->set_vteps({&vtep, 1});
    protocol::PortConfig guest;
    protocol::set_text(guest.name, "guest");
    guest.overlay = 0;
    guest.queues = queues_;
    guest.vlans = vlans;
    guest_ = board_->add_port(guest).index;
  }
  void put(const std::vector<MacAddress>& macs, Location place) {
    std::vector<protocol::FdbRecord> records;
    for (const auto& mac : macs) {
      protocol::FdbRecord record;
      record.key = fdb_key(1, mac);
      record.overlay = 0;
      record.location = place.raw();
      records.push_back(record);
    }
    if (board_->put_fdb(records, clock_seconds()).full != 0) std::abort();
    records_.insert(records_.end(), records.begin(), records.end());
  }

  std::uint16_t queues_;
  std::vector<std::unique_ptr<RingPool>> pools_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> pointers_;
  std::vector<std::shared_ptr<LoopPort>> ports_;
  std::unique_ptr<Switchboard> board_;
  PortIndex guest_ = kNoIndex;
  std::vector<protocol::FdbRecord> records_;
  std::size_t next_put_ = 0;
};

void run(benchmark::State& state, Way way) {
  const auto cpus = usable_cpus();
  const auto workers = static_cast<unsigned>(state.range(1));
  if (cpus.size() < workers) return state.SkipWithError("fewer CPUs than workers");
  Switch loop(way, workers, static_cast<std::size_t>(state.range(0)), 64);
  std::vector<double> one, all, efficiency;
  for (auto _ : state) {
    (void)loop.run(workers, cpus);
    for (unsigned i = 0; i < kSlices; ++i) {
      // The one worker's CPU in turn: they need not be equally busy with other things.
      one.push_back(loop.run(1, {cpus[i % workers]}));
      all.push_back(loop.run(workers, cpus));
      efficiency.push_back(all.back() / workers / one.back());
    }
  }
  if (loop.has_dropped()) return state.SkipWithError("packets were dropped");
  const auto median = [](std::vector<double>& rates) {
    std::sort(rates.begin(), rates.end());
    return rates[rates.size() / 2];
  };
  state.counters["Mpps_1"] = median(one) / 1e6;
  state.counters["Mpps_all"] = median(all) / 1e6;
  state.counters["efficiency"] = median(efficiency);
  state.counters["efficiency_best"] = all.back() / workers / one.back();  // of the best slices: least disturbed
}

void cases(benchmark::internal::Benchmark* b) {
  for (const std::int64_t macs : {1, 1000, 100'000}) b->Args({macs, 2});
  b->ArgNames({"macs", "workers"})->Iterations(1)->Repetitions(3)->ReportAggregatesOnly(true);
}

BENCHMARK_CAPTURE(run, encap, Way::kEncap)->Apply(cases);
BENCHMARK_CAPTURE(run, decap, Way::kDecap)->Apply(cases);

}  // namespace
}  // namespace vx::bench

BENCHMARK_MAIN();
