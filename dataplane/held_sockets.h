// SPDX-License-Identifier: Apache-2.0
// The kernel UDP sockets on our VTEP addresses and ports (design section 3, Fragments): which there
// should be, which there are, and when a refused one is tried again.
//
// Threads: management thread. Time is a parameter: milliseconds of any steady clock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/switch_model.h"

namespace vx {

using HeldSocketFactory = std::function<std::shared_ptr<Port>(
    const IpAddress& local, std::uint16_t udp_port, std::uint16_t vlan, const MacAddress& mac,
    std::string& reason, const HeldSocketOptions& options)>;

class HeldSockets {
 public:
  explicit HeldSockets(HeldSocketFactory factory) : factory_(std::move(factory)) {}

  // Lets go of what `model` no longer wants; the caller then publishes a state without them, and
  // only after quiescence opens others (the same address may be among them).
  void drop_unwanted(const SwitchModel& model);
  // Opens what is wanted and not there, unless it was refused less than kRetryMs ago. True:
  // something was opened.
  bool open_wanted(const SwitchModel& model, std::int64_t now_ms);
  [[nodiscard]] std::vector<std::shared_ptr<Port>> ports() const;
  // Datagrams that all of them, those that went too, have lost: the underlay's rx_missed.
  [[nodiscard]] std::uint64_t missed() const;
  // With driver=udp all that the tunnel brings comes through these sockets: why one is not there,
  // one line; empty: all are, or none is needed.
  [[nodiscard]] std::string missing(const SwitchModel& model) const;

  static constexpr std::int64_t kRetryMs = 3000;

 private:
  struct Key {
    IpAddress local;
    std::uint16_t udp_port = 0;
    std::uint16_t vlan = 0;
    MacAddress mac;
    std::uint16_t queues = 1;  // more than one, and bundles: driver=udp only
    bool takes_bundles = false;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Slot {
    std::shared_ptr<Port> port;
    std::string refusal;  // logged once per text
    std::int64_t retry_at_ms = 0;
  };
  [[nodiscard]] static std::vector<Key> wanted(const SwitchModel& model);

  HeldSocketFactory factory_;
  std::map<Key, Slot> slots_;
  std::uint64_t missed_before_ = 0;  // by sockets that went
};

}  // namespace vx
