// SPDX-License-Identifier: Apache-2.0
// lcores and poll of the configuration: the poll mode changes at run time; a worker stays on the
// CPU that EAL gave it, so other lcores mean to start over, which disturbs nobody only while there
// are no ports.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>

#include "dataplane/cpu_list.h"
#include "dataplane/request_error.h"
#include "dataplane/switchboard.h"

namespace vx {
namespace {

PollMode poll_mode(protocol::WorkerPoll poll) {
  switch (poll) {
    case protocol::WorkerPoll::kAdaptive: return PollMode::kAdaptive;
    case protocol::WorkerPoll::kBusy: return PollMode::kBusy;
  }
  throw RequestError(
      EINVAL, fmt::format("poll {}: neither adaptive nor busy", static_cast<unsigned>(poll)));
}

std::vector<unsigned> cpus_of(std::string_view list, const std::vector<unsigned>& usable) {
  try {
    return parse_cpu_list("lcores = ", list, usable);
  } catch (const std::invalid_argument& error) {
    throw RequestError(EINVAL, error.what());
  }
}

}  // namespace

protocol::WorkersReply Switchboard::set_workers(const protocol::WorkersConfig& config) {
  const WorkerRules& rules = back_ends_.workers;
  const PollMode poll = poll_mode(config.poll);
  const std::string_view list = protocol::text_of(config.lcores);
  std::vector<unsigned> cpus;
  for (const Worker* worker : workers_) cpus.push_back(worker->config().lcore);
  const bool differs = !list.empty() && cpus_of(list, rules.usable_cpus) != cpus;

  std::string note;
  if (!rules.is_poll_given) {
    for (Worker* worker : workers_) worker->set_poll(poll);
  } else if (workers_.front()->poll() != poll) {
    note = fmt::format("--poll {}", poll == PollMode::kBusy ? "adaptive" : "busy");
  }
  if (differs && rules.is_lcores_given)
    note = fmt::format("--lcores {}{}{}", fmt::join(cpus, ","), note.empty() ? "" : " and ", note);
  protocol::WorkersReply reply;
  if (!note.empty()) protocol::set_text(reply.note, "its command line wins: " + note);
  if (!differs || rules.is_lcores_given) return reply;

  const bool has_ports = std::any_of(model_.ports.begin(), model_.ports.end(),
                                     [](const auto& entry) { return entry != nullptr; });
  if (has_ports || config.may_restart == 0)
    throw RequestError(EBUSY, fmt::format("restart vxplane-dataplane to use lcores = {}", list));
  restart_lcores_ = list;
  reply.restarts = 1;
  return reply;
}

}  // namespace vx
