// SPDX-License-Identifier: Apache-2.0
#include "dataplane/cpu_list.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace vx {
namespace {

constexpr unsigned kMaxWorkers = 64;  // VXP_MAX_QUEUES

unsigned parse_cpu(std::string_view text, const std::string& what) {
  unsigned cpu = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), cpu);
  if (error != std::errc{} || end != text.data() + text.size())
    throw std::invalid_argument(
        fmt::format("{}: expected CPU numbers such as 1 or 1,2 or 1-3", what));
  return cpu;
}

}  // namespace

std::vector<unsigned> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<unsigned> cpus;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return {0};
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

std::vector<unsigned> parse_cpu_list(std::string_view label, std::string_view list,
                                     const std::vector<unsigned>& usable) {
  const std::string what = fmt::format("{}{}", label, list);
  std::vector<unsigned> cpus;
  std::string_view rest = list;
  for (bool more = true; more;) {
    const auto comma = rest.find(',');
    const auto item = rest.substr(0, comma);
    more = comma != std::string_view::npos;
    if (more) rest.remove_prefix(comma + 1);
    const auto dash = item.find('-');
    const unsigned first = parse_cpu(item.substr(0, dash), what);
    const unsigned last =
        dash == std::string_view::npos ? first : parse_cpu(item.substr(dash + 1), what);
    if (last < first)
      throw std::invalid_argument(fmt::format("{}: {} is a range backwards", what, item));
    for (unsigned cpu = first; cpu <= last; ++cpu) {
      if (std::find(usable.begin(), usable.end(), cpu) == usable.end())
        throw std::invalid_argument(fmt::format("{}: CPU {} is not here; this process may use {}",
                                                what, cpu, fmt::join(usable, ",")));
      if (std::find(cpus.begin(), cpus.end(), cpu) != cpus.end())
        throw std::invalid_argument(fmt::format("{}: CPU {} is named twice", what, cpu));
      cpus.push_back(cpu);
    }
  }
  if (cpus.size() > kMaxWorkers)
    throw std::invalid_argument(fmt::format("{}: at most {} workers", what, kMaxWorkers));
  return cpus;
}

}  // namespace vx
