// SPDX-License-Identifier: Apache-2.0
// vxplane-control: options, signals, and the event loop around Control and ApiServer.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/program_options.hpp>
#include <cerrno>
#include <filesystem>
#include <iostream>

#include "config/load.h"
#include "control/api_server.h"
#include "control/control.h"
#include "control/log.h"
#include "control/takeover_check.h"
#include "dataplane/service_notify.h"

namespace po = boost::program_options;

namespace vx::control {
namespace {

struct Options {
  std::string run_dir = std::string(api::kDefaultRunDir);
  std::vector<std::string> files;
  std::vector<std::string> bridges;
  bool is_check = false;
};

// Empty with `exit` set: there is nothing to run.
std::optional<Options> read_options(int argc, char** argv, int& exit) {
  Options options;
  po::options_description all("vxplane-control [--run-dir D] {--config FILE | --takeover BRIDGE}... [--check]");
  all.add_options()("run-dir", po::value(&options.run_dir)->value_name("D"), "where the sockets are (/run/vxplane)")(
      "config", po::value(&options.files)->value_name("FILE")->composing(), "a configuration file; one for each VNI")(
      "takeover", po::value(&options.bridges)->value_name("BRIDGE")->composing(),
      "a bridge of the kernel with a vxlan port: the whole configuration, and the standby")(
      "check", po::bool_switch(&options.is_check), "print the effective configuration and every problem, and exit")(
      "version", "print the version")("help,h", "print this");
  try {
    po::variables_map given;
    po::store(po::parse_command_line(argc, argv, all), given);
    po::notify(given);
    exit = 0;
    if (given.count("help") != 0) return std::cout << all, std::nullopt;
    if (given.count("version") != 0) return std::cout << "vxplane-control " VXPLANE_VERSION "\n", std::nullopt;
    exit = 2;
    if (options.files.empty() && options.bridges.empty())
      return std::cerr << "vxplane-control: --config FILE or --takeover BRIDGE is needed (see --help)\n", std::nullopt;
    return options;
  } catch (const po::error& error) {
    exit = 2;
    std::cerr << "vxplane-control: " << error.what() << " (see --help)\n";
    return std::nullopt;
  }
}

config::LoadAllResult load(const Options& options) {
  return config::load_all(options.files, config::live_host_facts(), options.bridges);
}

// What systemd hears. Ready is when nothing is missing any more; what stays missing (a guest's port that comes later, a VTEP
// without a route) holds up no boot, it is the status then.
class ServiceReport {
 public:
  explicit ServiceReport(Control& control) : control_(control), started_at_(EventLoop::now()) {}

  void tick(Milliseconds now) {
    service_.alive();
    if (now - looked_at_ < kLookEvery) return;
    looked_at_ = now;
    const std::string missing = what_is_missing(), kernel = why_the_kernel_forwards();
    // What the operator asked for is nothing to wait for.
    const bool is_whole = missing.empty() && (kernel.empty() || kernel == "vxctl bypass on");
    const std::string status = !kernel.empty() ? "the kernel forwards: " + kernel
                               : missing.empty() ? "everything is installed" : "waiting: " + missing;
    if (is_whole || service_.is_ready() || now - started_at_ >= kReadyAfter) service_.ready(status);
    else service_.say(status);
  }
  void reloading() { service_.reloading(); }
  void reloaded() { service_.ready("configuration re-read"); }
  void stopping() { service_.stopping(); }

 private:
  static constexpr Milliseconds kLookEvery = 500, kReadyAfter = 3000;

  [[nodiscard]] std::string why_the_kernel_forwards() const {
    return control_.client().is_connected() ? control_.bypass_reason() : std::string();
  }
  [[nodiscard]] std::string what_is_missing() const {
    auto problems = control_.problems();
    std::erase_if(problems, [](const std::string& one) { return one.starts_with("the kernel forwards: "); });
    if (problems.empty()) return {};
    return fmt::format("{}{}", problems[0], problems.size() == 1 ? "" : fmt::format(" (and {} more)", problems.size() - 1));
  }

  Control& control_;
  ServiceNotify service_;
  Milliseconds started_at_, looked_at_ = 0;
};

int run(const Options& options) {
  const auto loader = [options] { return load(options); };
  auto loaded = loader();
  for (const auto& problem : loaded.problems) {
    if (problem.severity == config::Severity::kError) log_error(config::to_string(problem));
    else log_warning(config::to_string(problem));
  }
  if (loaded.settings.empty()) return 2;

  std::error_code made;
  std::filesystem::create_directories(options.run_dir, made);
  if (made) throw std::system_error(made, options.run_dir);

  sigset_t signals;
  sigemptyset(&signals);
  for (const int one : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, one);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signal_fd < 0) throw std::system_error(errno, std::generic_category(), "signalfd");

  EventLoop loop;
  Control control(loop, options.run_dir, std::move(loaded.settings), loader);
  ApiServer server(loop, control, options.run_dir);
  ServiceReport service(control);
  loop.every(100, [&](Milliseconds now) { service.tick(now); });
  loop.add(signal_fd, EPOLLIN, [&](std::uint32_t) {
    signalfd_siginfo info{};
    if (read(signal_fd, &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return;
    if (info.ssi_signo != SIGHUP) return loop.stop();
    service.reloading();
    const auto result = control.reload();
    service.reloaded();
    for (const auto& problem : result.problems) {
      if (result.is_done) log_warning(problem);
      else log_error(problem);
    }
    if (result.is_done) log_info("configuration re-read");
    else log_error("the configuration has errors: the former one stays");
  });
  log_info("running in " + options.run_dir);
  loop.run();
  service.stopping();
  loop.remove(signal_fd);
  close(signal_fd);
  log_info("stopped; the dataplane goes on forwarding");
  return 0;
}

}  // namespace
}  // namespace vx::control

int main(int argc, char** argv) {
  using namespace vx::control;
  int exit = 0;
  const auto options = read_options(argc, argv, exit);
  if (!options) return exit;
  try {
    if (options->is_check) return print_effective(load(*options), std::cout, std::cerr);
    return run(*options);
  } catch (const std::exception& error) {
    log_error(error.what());
    return 1;
  }
}
