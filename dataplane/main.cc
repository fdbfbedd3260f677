// SPDX-License-Identifier: Apache-2.0
// vxplane-dataplane: puts the parts together, runs the management thread until a signal, takes them
// apart.
#include <fmt/format.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "dataplane/bpf_directory.h"
#include "dataplane/cpu_list.h"
#include "dataplane/eal.h"
#include "dataplane/log.h"
#include "dataplane/netdev.h"
#include "dataplane/options.h"
#include "dataplane/port_factory.h"
#include "dataplane/run_dir.h"
#include "dataplane/server.h"
#include "dataplane/service_notify.h"
#include "dataplane/switchboard.h"
#include "dataplane/worker.h"
#include "dataplane/worker_watch.h"

namespace vx {
namespace {

constexpr std::uint32_t kLearnEventsPerSecond =
    250'000;  // a worker; a flood of random MACs must leave the CPU to others

constexpr int kTicksUntilStuck = 10;  // a starved worker misses one now and then

// SIGTERM, SIGINT and SIGHUP as a descriptor. Before any thread is made, so that all inherit the
// mask.
FileDescriptor stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0)
    throw std::system_error(errno, std::generic_category(), "sigprocmask");
  FileDescriptor fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) throw std::system_error(errno, std::generic_category(), "signalfd");
  return fd;
}

int run_worker(void* worker) {
  static_cast<Worker*>(worker)->run();
  return 0;
}

// Starts the workers' threads and, whatever happens, stops and joins them.
class RunningWorkers {
 public:
  RunningWorkers(Eal& eal, const std::vector<std::unique_ptr<Worker>>& workers)
      : eal_(eal), workers_(workers) {
    for (unsigned i = 0; i < workers_.size(); ++i) eal_.launch(i, run_worker, workers_[i].get());
  }
  ~RunningWorkers() {
    for (const auto& worker : workers_) worker->stop();
    eal_.join();
  }
  RunningWorkers(const RunningWorkers&) = delete;
  RunningWorkers& operator=(const RunningWorkers&) = delete;

 private:
  Eal& eal_;
  const std::vector<std::unique_ptr<Worker>>& workers_;
};

protocol::HelloReply hello_of(const Options& options, const Eal& eal) {
  protocol::HelloReply hello;
  if (getrandom(&hello.instance, sizeof hello.instance, 0) != sizeof hello.instance)
    throw std::system_error(errno, std::generic_category(), "getrandom");
  hello.workers = static_cast<std::uint32_t>(options.cpus.size());
  hello.hugepages = eal.uses_hugepages() ? 1 : 0;
  hello.pid = static_cast<std::uint32_t>(getpid());
  return hello;
}

std::vector<std::unique_ptr<Worker>> make_workers(const Options& options, int events_fd,
                                                  BufferPool& pool) {
  std::vector<std::unique_ptr<Worker>> workers;
  for (const unsigned cpu : options.cpus) {
    WorkerConfig config;
    config.lcore = cpu;
    config.poll = options.poll;
    config.learn_events_per_second = kLearnEventsPerSecond;
    config.events_fd = events_fd;
    workers.push_back(std::make_unique<Worker>(config, pool));
  }
  return workers;
}

std::unique_ptr<BufferPool> make_pool(const Eal& eal, unsigned buffers) {
  try {
    return make_mbuf_pool("vxplane", buffers);
  } catch (const std::runtime_error& error) {
    if (eal.uses_hugepages()) throw HugepagesUnusable(error.what());
    throw;
  }
}

BackEnds make_back_ends(const PortContext& context, const Options& options) {
  BackEnds back_ends;
  back_ends.make_port = [context](const protocol::PortConfig& config) {
    return make_port(config, context);
  };
  back_ends.make_held_socket = [pool = context.pool](const IpAddress& local, std::uint16_t udp_port,
                                                     std::uint16_t vlan, const MacAddress& mac,
                                                     std::string& reason,
                                                     const HeldSocketOptions& held_options) {
    return make_held_socket(local, udp_port, vlan, mac, *pool, reason, held_options);
  };
  back_ends.set_mtu = netdev::set_mtu;
  back_ends.workers = {usable_cpus(), options.is_lcores_given, options.is_poll_given};
  return back_ends;
}

// Until a signal: empty; or until control wants other lcores: those.
std::string run(const Options& options) {
  const FileDescriptor stop = stop_signals();
  RunDir run_dir(options.run_dir);
  const std::string token = run_dir.token();
  Eal eal({options.cpus, options.no_huge, options.memory_mb, "vxplane-" + token,
           options.eal_arguments});
  const unsigned buffers = Eal::buffers_that_fit(options.memory_mb);
  const auto pool = make_pool(eal, buffers);
  const FileDescriptor events(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!events) throw std::system_error(errno, std::generic_category(), "eventfd");
  const auto workers = make_workers(options, events.get(), *pool);
  std::vector<Worker*> worker_pointers;
  for (const auto& worker : workers) worker_pointers.push_back(worker.get());

  PortContext context;
  context.pool = pool.get();
  context.workers = static_cast<std::uint16_t>(workers.size());
  context.name_prefix = "vx" + token;
  context.bpf_directory = find_bpf_directory();
  Switchboard switchboard(worker_pointers, make_back_ends(context, options));
  const RunningWorkers running(eal, workers);  // stopped before what they read is freed
  Server server(run_dir.listen_on_socket(), {events.get(), stop.get()}, switchboard,
                hello_of(options, eal));
  log_info("vxplane-dataplane {}: {} worker(s) on CPU {}, {} buffers, {}, {}/{}", VXPLANE_VERSION,
           workers.size(), fmt::join(options.cpus, ","), buffers,
           eal.uses_hugepages() ? "hugepages" : "no hugepages", run_dir.path(),
           protocol::kSocketName);
  ServiceNotify service;
  const std::string status = fmt::format("forwarding on CPU {}", fmt::join(options.cpus, ","));
  server.on_tick([&service, &status, watch = WorkerWatch(worker_pointers), stuck = 0]() mutable {
    const auto hung = watch.look();
    stuck = hung ? stuck + 1 : 0;
    if (stuck >= kTicksUntilStuck) service.say(fmt::format("the worker on CPU {} does not run", *hung));
    if (hung) return;
    service.say(status);
    service.alive();
  });
  service.ready(status);
  server.run();
  const std::string lcores = switchboard.restart_lcores();
  log_info("{}", lcores.empty() ? "stopping" : "starting over with lcores = " + lcores);
  if (lcores.empty()) service.stopping();
  run_dir.unlink_socket();
  switchboard.shut_down();
  return lcores;
}

// A new image with one more flag, which replaces an earlier one of that name: EAL cannot be initialised
// a second time in this one.
[[noreturn]] void start_over(const std::string& flag, int argc, char** argv) {
  const std::string_view name = std::string_view(flag).substr(0, flag.find('='));
  std::vector<std::string> words{argv[0], flag};
  bool is_ours = true;  // what stands behind -- is EAL's
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    is_ours = is_ours && word != "--";
    if (!is_ours || word.substr(0, word.find('=')) != name) words.emplace_back(word);
  }
  std::vector<char*> arguments;
  for (auto& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);  // EAL may have left some open
  // By its path, so that ps goes on naming it; an image replaced meanwhile has none any more.
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) execv(path.c_str(), arguments.data());
  execv("/proc/self/exe", arguments.data());
  throw std::system_error(errno, std::generic_category(), "execv");
}

}  // namespace
}  // namespace vx

int main(int argc, char** argv) {
  try {
    const vx::Options options = vx::parse_options(argc, argv);
    if (options.show_help || options.show_version) {
      std::fputs(
          options.show_help ? vx::help_text().c_str() : "vxplane-dataplane " VXPLANE_VERSION "\n",
          stdout);
      return 0;
    }
    try {
      if (const std::string lcores = vx::run(options); !lcores.empty())
        vx::start_over(fmt::format("--{}={}", vx::kConfiguredLcores, lcores), argc, argv);
    } catch (const vx::HugepagesUnusable& error) {
      vx::log_warning("{}; going on without hugepages", error.what());
      vx::start_over("--no-huge", argc, argv);
    }
    return 0;
  } catch (const vx::UsageError& error) {
    vx::log_error("vxplane-dataplane: {}; see --help", error.what());
    return 2;
  } catch (const std::exception& error) {
    vx::log_error("vxplane-dataplane: {}", error.what());
    return 1;
  }
}
