// SPDX-License-Identifier: Apache-2.0
// What the management thread knows (ports, overlays, VTEPs, underlay, as control asked for them),
// and how it becomes what workers read: an immutable ForwardingState and one Assignment a worker.
// Pure: no system call, no clock.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dataplane/forwarding_state.h"
#include "dataplane/overlay_fdb.h"
#include "dataplane/port_factory.h"
#include "dataplane/protocol.h"
#include "dataplane/token_bucket.h"
#include "dataplane/worker.h"

namespace vx {

struct PortEntry {
  protocol::PortConfig config;
  PortIndex index = kNoIndex;
  MadePort made;
  std::vector<unsigned> rx_worker;  // by rx queue: the worker that polls it
  std::vector<std::unique_ptr<std::atomic_flag>>
      tx_locks;  // by tx queue; empty: each worker has a queue of its own
  std::shared_ptr<const VlanTable> vlans;
  std::shared_ptr<SharedTokenBucket> storm, too_big;
  // What the XDP program was last told; outer empty: nothing yet, inner empty: to pass everything.
  std::optional<std::optional<XdpSteering::Target>> steered;
  std::optional<FailOpenRule> rule;  // what its BPF programs were last told
  std::string detached;  // what was last logged of its tc program, which is not there; empty: it is

  // The switch in its BPF programs; null: it has none.
  [[nodiscard]] FailOpenSwitch* fail_open() const noexcept {
    if (made.steering) return made.steering.get();
    return made.take.get();
  }

  [[nodiscard]] bool is_underlay() const noexcept {
    return config.role == protocol::PortRole::kUnderlay;
  }
};

struct OverlayEntry {
  protocol::OverlayConfig config;
  std::unique_ptr<OverlayFdb> fdb;
  std::vector<std::optional<protocol::VtepConfig>> vteps;  // by VtepIndex
  std::shared_ptr<const VlanTable> tunnel_vlans;
};

// The overlay whose ports the frames of this one come from and go to.
[[nodiscard]] constexpr OverlayIndex home_of(const protocol::OverlayConfig& config) noexcept {
  return config.home != kNoIndex ? config.home : config.index;
}

struct SwitchModel {
  unsigned workers = 1;
  std::vector<std::shared_ptr<PortEntry>> ports;        // by PortIndex; null: not in use
  std::vector<std::unique_ptr<OverlayEntry>> overlays;  // by OverlayIndex; null: not in use
  protocol::UnderlayConfig underlay;
  protocol::FailOpenConfig fail_open;

  [[nodiscard]] PortEntry* find_port(std::string_view name) const noexcept;
  [[nodiscard]] PortEntry* underlay_port()
      const noexcept;  // the one that UnderlayConfig::port names, or null
  // Whether a kernel bridge or vxlan device stands by for the port.
  [[nodiscard]] bool is_takeover(const PortEntry& entry) const noexcept;
  // The kernel routes and resolves (driver=udp): next hops have no MAC here.
  [[nodiscard]] bool is_underlay_routed() const noexcept;
  [[nodiscard]] OverlayEntry* find_overlay(OverlayIndex index) const noexcept;
};

// Gives every rx queue of `entry` to the worker that has least, and decides whether tx queues need
// locks. Queues of the underlay weigh more: each carries what many guests send. What is polled
// already stays where it is.
void assign_queues(const SwitchModel& model, PortEntry& entry);

[[nodiscard]] std::unique_ptr<ForwardingState> build_state(const SwitchModel& model,
                                                           std::uint64_t version);

// One Assignment a worker. `held` are the held sockets, polled as if they were the underlay port:
// queue by queue by worker 0 and on.
[[nodiscard]] std::vector<std::unique_ptr<Assignment>> build_assignments(
    const SwitchModel& model, std::span<const std::shared_ptr<Port>> held);

// What the underlay's XDP program is to steer now; empty: everything passes.
[[nodiscard]] std::optional<XdpSteering::Target> steering_target(const SwitchModel& model);

}  // namespace vx
