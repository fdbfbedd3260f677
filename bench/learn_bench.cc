// SPDX-License-Identifier: Apache-2.0
// MAC addresses learned per second, end to end: a worker receives frames from sources that nobody knows, tells the management
// thread, that tells control over dataplane.sock, control's learner decides and puts them into the FDB by the same
// socket. Everything is the real thing (Worker, Server, Switchboard, Control) but the ports; in one process, the worker and the
// server in threads of their own, control in the main one. Counted is from the first frame to the last entry installed.
//
//   learn_bench [--benchmark_filter=...]
//
// `rate`: MACs per second. `told`: events that the worker told per MAC learned; `lost`: those over its rate or that found the queue full (the
// next frame of the MAC tells again). "per_second" is that rate: 250,000 is the dataplane's setting.
#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "bench/frames.h"
#include "config/load.h"
#include "control/control.h"
#include "dataplane/file_descriptor.h"
#include "dataplane/run_dir.h"
#include "dataplane/server.h"
#include "dataplane/worker.h"

namespace vx::bench {
namespace {

constexpr std::size_t kMacs = 60'000;  // fdb-max-learned is 65,536
const MacAddress kDestination = MacAddress::from_u48(0x02ffffffffff);

// A DPDK underlay needs no netdev.
constexpr const char* kConfiguration = R"([vxlan]
name = vxlan
vxlan-id = 1000
vxlan-local-tunnelip = 172.18.1.1
vxlan-remoteip = 172.18.1.2
[underlay]
device = wire
driver = dpdk:net_null0
vtep-address = own
mtu = 1400
[bridge]
name = bridge
bridge-vids = 2-100
[port]
port = g1 driver=tap
port = g2 driver=tap
)";

config::Settings settings(const std::string& directory) {
  const std::string path = directory + "/bench.conf";
  std::ofstream(path) << kConfiguration;
  const config::LoadResult loaded = config::load(path, {});
  if (!loaded.settings) std::abort();
  return *loaded.settings;
}

// The dataplane's half: ports in memory, one worker, the management thread.
class Dataplane {
 public:
  Dataplane(const std::string& directory, std::uint32_t events_per_second)
      : run_dir_(directory), worker_(worker_config(events_per_second), pool_) {
    BackEnds back_ends;
    back_ends.make_port = [this](const protocol::PortConfig& config) {
      const std::string name(protocol::text_of(config.name));
      MadePort made;
      made.port = ports_[name] = std::make_shared<LoopPort>(name);
      made.ifindex = static_cast<std::uint32_t>(ports_.size());
      return made;
    };
    back_ends.make_held_socket = [](auto&&...) { return nullptr; };
    back_ends.set_mtu = [](const std::string&, unsigned) {};
    board_ = std::make_unique<Switchboard>(std::vector{&worker_}, back_ends);
    protocol::HelloReply hello;
    hello.instance = 1;
    hello.workers = 1;
    server_ = std::make_unique<Server>(run_dir_.listen_on_socket(), ServerDescriptors{events_.get(), stop_.get()}, *board_, hello);
    server_thread_ = std::thread([this] { server_->run(); });
  }
  ~Dataplane() {
    const std::uint64_t one = 1;
    if (write(stop_.get(), &one, sizeof one) != sizeof one) std::abort();
    server_thread_.join();
    stop_worker();
  }
  [[nodiscard]] LoopPort& port(const std::string& name) { return *ports_.at(name); }
  // On the last CPU, as in the dataplane.
  void start_worker() {
    worker_thread_ = std::thread([this] {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(std::thread::hardware_concurrency() - 1, &set);
      (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
      worker_.run();
    });
  }
  void stop_worker() {
    worker_.stop();
    if (worker_thread_.joinable()) worker_thread_.join();
  }
  // Once the worker has stopped.
  [[nodiscard]] WorkerCounters counters() { return *worker_.snapshot(std::chrono::milliseconds(1)); }

 private:
  [[nodiscard]] WorkerConfig worker_config(std::uint32_t events_per_second) const {
    WorkerConfig config;
    config.poll = PollMode::kBusy;
    config.learn_events_per_second = events_per_second;
    config.events_fd = events_.get();
    return config;
  }
  FileDescriptor events_{eventfd(0, EFD_NONBLOCK)}, stop_{eventfd(0, EFD_NONBLOCK)};
  RunDir run_dir_;
  RingPool pool_;
  std::map<std::string, std::shared_ptr<LoopPort>> ports_;
  Worker worker_;
  std::unique_ptr<Switchboard> board_;
  std::unique_ptr<Server> server_;
  std::thread server_thread_, worker_thread_;
};

// One round in a new dataplane and a new control; returns MACs per second.
double learn_all(std::uint32_t events_per_second, WorkerCounters& counters) {
  char directory[] = "/tmp/vxplane-learn-XXXXXX";
  if (mkdtemp(directory) == nullptr) std::abort();
  double seconds = 0;
  {
    Dataplane dataplane(directory, events_per_second);
    control::EventLoop loop;
    control::Control control(loop, directory, {settings(directory)}, [] { return config::LoadAllResult{}; });
    loop.run_for(50);
    control::Learner& learner = control.overlays().at(0)->learner;
    // One MAC at g2, to which all others send.
    LoopPort &g1 = dataplane.port("g1"), &g2 = dataplane.port("g2");
    g2.load(guest_load(64, {MacPair(make_macs(1, true)[0], kDestination)}));
    g2.limit(1);
    g1.load(guest_load(64, make_pairs(std::vector(kMacs, kDestination), make_macs(kMacs, false))));
    g1.limit(0);
    const auto is_learned = [&](std::size_t count) { return learner.size() == count && !learner.has_changes(); };
    dataplane.start_worker();
    for (int i = 0; i < 1000 && !is_learned(1); ++i) loop.run_for(1);
    const auto start = std::chrono::steady_clock::now();
    g1.limit(UINT64_MAX);
    for (int i = 0; i < 10'000 && !is_learned(kMacs + 1); ++i) loop.run_for(1);
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!is_learned(kMacs + 1)) std::abort();
    dataplane.stop_worker();
    counters = dataplane.counters();
  }
  std::filesystem::remove_all(directory);
  return kMacs / seconds;
}

void learn(benchmark::State& state) {
  double rate = 0;
  WorkerCounters counters;
  for (auto _ : state) rate = learn_all(static_cast<std::uint32_t>(state.range(0)), counters);
  state.counters["rate"] = rate;
  state.counters["told"] = static_cast<double>(counters.learn_events) / kMacs;
  state.counters["lost"] = static_cast<double>(counters.learn_events_lost) / kMacs;
}

BENCHMARK(learn)->ArgName("per_second")->Arg(250'000)->Arg(1'000'000)->Iterations(1)->Repetitions(5)->ReportAggregatesOnly(true);

}  // namespace
}  // namespace vx::bench

BENCHMARK_MAIN();
