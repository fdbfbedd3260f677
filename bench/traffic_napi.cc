// SPDX-License-Identifier: Apache-2.0
#include "bench/traffic_napi.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace vx::traffic {
namespace {

[[noreturn]] void fail(const std::string& what) { throw std::system_error(errno, std::system_category(), "--cpu-receive: " + what); }

// A netdev's directory in sysfs is seen where sysfs was mounted in its namespace: in a mount namespace that ends with a thread.
FileDescriptor open_switch(const Place& place) {
  FileDescriptor fd;
  std::exception_ptr error;
  std::thread([&] {
    try {
      const Inside inside(place);
      if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
          ::mount("sysfs", "/sys", "sysfs", 0, nullptr) != 0)
        fail("sysfs");
      const std::string path = "/sys/class/net/" + place.device + "/threaded";
      fd = FileDescriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC));
      if (!fd) fail(path);
    } catch (...) {
      error = std::current_exception();
    }
  }).join();
  if (error) std::rethrow_exception(error);
  return fd;
}

std::set<int> threads_of(const std::string& device) {
  std::set<int> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", std::filesystem::directory_options::skip_permission_denied)) {
    const int pid = std::atoi(entry.path().filename().c_str());
    std::string name;
    if (pid > 0 && std::getline(std::ifstream(entry.path() / "comm"), name) && name.starts_with("napi/" + device + "-")) pids.insert(pid);
  }
  return pids;
}

}  // namespace

ThreadedNapi::ThreadedNapi(const Place& place, int cpu) : switch_(open_switch(place)) {
  char value = '0';
  was_on_ = ::pread(switch_.get(), &value, 1, 0) == 1 && value != '0';
  const auto before = threads_of(place.device);
  if (was_on_ && before.size() != 1) throw std::runtime_error("--cpu-receive: " + place.device + ": threaded already, its threads are not known");
  if (!was_on_ && ::pwrite(switch_.get(), "1", 1, 0) != 1) fail(place.device + ": cannot make its NAPI threaded");
  unsigned pinned = 0;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  for (const int pid : threads_of(place.device))
    if (was_on_ || !before.contains(pid)) pinned += ::sched_setaffinity(pid, sizeof set, &set) == 0;
  if (pinned != 0) return;
  if (!was_on_) [[maybe_unused]] const auto written = ::pwrite(switch_.get(), "0", 1, 0);
  throw std::runtime_error("--cpu-receive: " + place.device + " has no NAPI");
}

ThreadedNapi::~ThreadedNapi() {
  if (!was_on_) [[maybe_unused]] const auto written = ::pwrite(switch_.get(), "0", 1, 0);
}

}  // namespace vx::traffic
