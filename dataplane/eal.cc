// SPDX-License-Identifier: Apache-2.0
#include "dataplane/eal.h"

#include <fmt/format.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "dataplane/cpu_list.h"
#include "dataplane/log.h"

namespace vx {
namespace {

constexpr unsigned kReservedMb = 48;  // rings, device data, EAL itself
// mbuf, its and AF_XDP's headroom, 2048 bytes of data, mempool's own header; and one in 64 has a large buffer with it
constexpr unsigned kBufferBytes = 2752 + 66'048 / 64;

// EAL logs go through us: journald's prefix, and not to syslog a second time.
ssize_t write_eal_log(void*, const char* text, std::size_t size) {
  std::string_view line(text, size);
  while (!line.empty() && line.back() == '\n') line.remove_suffix(1);
  if (!line.empty()) log_line(LogLevel::kError, line);
  return static_cast<ssize_t>(size);
}

void take_over_logs() {
  cookie_io_functions_t functions{};
  functions.write = write_eal_log;
  FILE* stream = fopencookie(nullptr, "w", functions);
  if (stream == nullptr) return;
  setvbuf(stream, nullptr, _IOLBF, 0);
  rte_openlog_stream(stream);
}

std::string join_numbers(const std::vector<unsigned>& numbers) {
  return fmt::format("{}", fmt::join(numbers, ","));
}

// EAL lcore 0 is the management thread, lcore i + 1 is worker i: CPU numbers may exceed
// RTE_MAX_LCORE.
std::string lcore_map(const EalSettings& settings) {
  std::string map = fmt::format("0@({})", join_numbers(usable_cpus()));
  for (std::size_t i = 0; i < settings.cpus.size(); ++i)
    map += fmt::format(",{}@{}", i + 1, settings.cpus[i]);
  return map;
}

std::vector<std::string> arguments_of(const EalSettings& settings, bool hugepages) {
  std::vector<std::string> arguments{"vxplane-dataplane", "--lcores", lcore_map(settings),
                                     "--main-lcore", "0", "-m", std::to_string(settings.memory_mb),
                                     "--file-prefix", settings.file_prefix, "--no-telemetry",
                                     "--log-level", "*:error",
                                     // Physical addresses would need the pool in one physical
                                     // piece. A NIC without an IOMMU wants them: -- --iova-mode pa.
                                     "--iova-mode", "va"};
  // Nothing stays behind in a hugetlbfs, and several instances never meet. virtio-user wants few
  // segments.
  if (hugepages)
    arguments.insert(arguments.end(), {"--in-memory", "--single-file-segments"});
  else
    arguments.insert(arguments.end(), {"--no-huge", "--no-shconf"});
  // --no-pci would also refuse a port added later by PCI address. Allowing only a device that no
  // driver takes probes nothing now and leaves rte_dev_probe() its way. A host without PCI needs
  // the flag.
  if (std::filesystem::exists("/sys/bus/pci/devices"))
    arguments.insert(arguments.end(), {"-a", "0000:00:00.0"});
  else
    arguments.emplace_back("--no-pci");
  arguments.insert(arguments.end(), settings.extra.begin(), settings.extra.end());
  return arguments;
}

bool names_no_huge(const std::vector<std::string>& arguments) {
  return std::find(arguments.begin(), arguments.end(), "--no-huge") != arguments.end();
}

std::size_t read_number(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::size_t number = 0;
  return file >> number ? number : 0;
}

}  // namespace

bool has_free_hugepages(unsigned memory_mb) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/kernel/mm/hugepages", error)) {
    std::size_t page_kb = 0;  // the name is hugepages-2048kB
    const std::string name = entry.path().filename().string();
    const auto dash = name.find('-');
    if (dash == std::string::npos) continue;
    std::from_chars(name.data() + dash + 1, name.data() + name.size(), page_kb);
    if (read_number(entry.path() / "free_hugepages") * page_kb >= std::size_t{memory_mb} * 1024)
      return true;
  }
  return false;
}

Eal::Eal(const EalSettings& settings) {
  const bool hugepages =
      !settings.no_huge && !names_no_huge(settings.extra) && has_free_hugepages(settings.memory_mb);
  std::vector<std::string> arguments = arguments_of(settings, hugepages);
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  take_over_logs();
  if (rte_eal_init(static_cast<int>(arguments.size()), argv.data()) < 0) {
    const std::string text = fmt::format("EAL does not start: {}", rte_strerror(rte_errno));
    if (hugepages) throw HugepagesUnusable(text);
    throw std::runtime_error(settings.extra.empty() ? text
                                                    : text + "; check the arguments behind --");
  }
  uses_hugepages_ = rte_eal_has_hugepages() != 0;
  // EAL makes it always and removes it never. It is empty (nothing is shared) and not needed again;
  // a crash leaves none.
  rmdir(rte_eal_get_runtime_dir());
}

Eal::~Eal() { rte_eal_cleanup(); }

unsigned Eal::buffers_that_fit(unsigned memory_mb) noexcept {
  const unsigned usable_mb = memory_mb > 2 * kReservedMb ? memory_mb - kReservedMb : memory_mb / 2;
  const auto bytes = std::size_t{usable_mb} << 20;
  return static_cast<unsigned>(bytes / kBufferBytes);
}

void Eal::launch(unsigned index, int (*function)(void*), void* argument) {
  const int result = rte_eal_remote_launch(function, argument, index + 1);
  if (result != 0)
    throw std::runtime_error(
        fmt::format("worker {} does not start: {}", index, rte_strerror(-result)));
}

void Eal::join() noexcept { rte_eal_mp_wait_lcore(); }

}  // namespace vx
