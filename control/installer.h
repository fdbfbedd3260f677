// SPDX-License-Identifier: Apache-2.0
// What the dataplane has been told, and the differences to what it should be told. Every setter compares first:
// after a restart of control nothing that is right is sent again. One thread.
//
// A setter returns false when the dataplane refused or went away; complaint() then says why, one line.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "control/dataplane_client.h"
#include "control/learner.h"

namespace vx::control {

class Installer {
 public:
  explicit Installer(DataplaneClient& client) : client_(client) {}

  // Asks the dataplane for everything but the FDBs.
  bool read_back();
  [[nodiscard]] const std::vector<protocol::PortInfo>& ports_read_back() const noexcept { return ports_; }

  bool set_underlay(const protocol::UnderlayConfig& config);
  bool set_overlay(const protocol::OverlayConfig& config);
  bool delete_overlay(OverlayIndex index);
  // All VTEPs of the overlay: others are deleted, after the new ones are set.
  bool set_vteps(OverlayIndex overlay, const std::vector<protocol::VtepConfig>& wanted);

  [[nodiscard]] const protocol::UnderlayConfig& underlay() const noexcept { return underlay_; }
  [[nodiscard]] const std::map<OverlayIndex, protocol::OverlayConfig>& overlays() const noexcept { return overlays_; }
  // Null when the dataplane has no such VTEP.
  [[nodiscard]] const protocol::VtepConfig* vtep(OverlayIndex overlay, VtepIndex index) const;
  [[nodiscard]] std::vector<protocol::VtepConfig> vteps(OverlayIndex overlay) const;

  struct PutResult {
    bool is_sent = false;
    std::uint32_t full = 0;  // of the puts, those the table had no room for
  };
  PutResult put(std::span<const protocol::FdbRecord> records);
  bool remove(std::span<const protocol::FdbDelete> records, std::vector<std::uint8_t>* results = nullptr);
  // Calls `visit` with batches of what the FDB holds. `cursor`: 0 to begin, and where to go on; 0: the end.
  // Asks `messages` times at most.
  bool dump(OverlayIndex overlay, std::uint16_t idle_s, std::uint64_t& cursor, unsigned messages,
            const std::function<void(std::span<const protocol::FdbRecord>)>& visit);

  [[nodiscard]] const std::string& complaint() const noexcept { return complaint_; }

 private:
  bool check(bool is_done);

  DataplaneClient& client_;
  std::vector<protocol::PortInfo> ports_;
  protocol::UnderlayConfig underlay_;
  std::map<OverlayIndex, protocol::OverlayConfig> overlays_;
  std::map<OverlayIndex, std::map<VtepIndex, protocol::VtepConfig>> vteps_;
  std::string complaint_;
};

// PODs without padding that matters are compared field by field, here.
[[nodiscard]] bool is_equal(const protocol::UnderlayConfig& a, const protocol::UnderlayConfig& b);
[[nodiscard]] bool is_equal(const protocol::OverlayConfig& a, const protocol::OverlayConfig& b);
[[nodiscard]] bool is_equal(const protocol::VtepConfig& a, const protocol::VtepConfig& b);

}  // namespace vx::control
