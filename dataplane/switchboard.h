// SPDX-License-Identifier: Apache-2.0
// The management thread's side of the dataplane: does what requests ask, turns every change into a
// new forwarding state, publishes it to the workers, and frees what they no longer use.
//
// Threads: management thread only; talks to workers through worker.h. Errors: RequestError with an
// errno and one line; nothing has changed then. Time is a parameter.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/held_sockets.h"
#include "dataplane/port_stats.h"
#include "dataplane/switch_model.h"
#include "dataplane/worker.h"

namespace vx {

// What kWorkersSet may change.
struct WorkerRules {
  std::vector<unsigned> usable_cpus;
  bool is_lcores_given = false, is_poll_given = false;  // on the command line, which wins
};

// How the switchboard reaches the world; fakes in tests.
struct BackEnds {
  std::function<MadePort(const protocol::PortConfig&)> make_port;
  HeldSocketFactory make_held_socket;
  // Sets the MTU of a port's netdev (kPortSet with another mtu). Throws std::system_error.
  std::function<void(const std::string& netdev, unsigned mtu)> set_mtu;
  WorkerRules workers;
};

class Switchboard {
 public:
  // The workers outlive the switchboard and may not run yet: an empty state is published to each at
  // once.
  Switchboard(std::vector<Worker*> workers, BackEnds back_ends);
  // The workers have stopped. Ports that shut_down() has not destroyed are.
  ~Switchboard() = default;
  Switchboard(const Switchboard&) = delete;
  Switchboard& operator=(const Switchboard&) = delete;

  protocol::PortInfo add_port(const protocol::PortConfig& config);
  void delete_port(std::string_view name);
  protocol::PortInfo set_port(const protocol::PortConfig& config);
  [[nodiscard]] std::vector<protocol::PortInfo> ports() const;  // by index

  // With driver=udp and a UDP port that somebody else holds this and set_overlay() do what they
  // are asked and then throw EADDRINUSE: the port is tried again every few seconds, and by asking
  // again control learns when all is well.
  void set_underlay(const protocol::UnderlayConfig& config);
  [[nodiscard]] const protocol::UnderlayConfig& underlay() const noexcept {
    return model_.underlay;
  }
  // Told to all BPF programs before it returns.
  void set_fail_open(const protocol::FailOpenConfig& config);
  [[nodiscard]] const protocol::FailOpenConfig& fail_open() const noexcept {
    return model_.fail_open;
  }
  void set_overlay(const protocol::OverlayConfig& config);
  void delete_overlay(OverlayIndex index);
  [[nodiscard]] std::vector<protocol::OverlayConfig> overlays() const;  // by index
  void set_vteps(std::span<const protocol::VtepConfig> configs);        // all or none
  void delete_vtep(OverlayIndex overlay, VtepIndex index);
  [[nodiscard]] std::vector<protocol::VtepConfig> vteps(OverlayIndex overlay) const;  // by index

  [[nodiscard]] protocol::FdbPutReply put_fdb(std::span<const protocol::FdbRecord> records,
                                              std::uint16_t now);
  [[nodiscard]] FdbResult delete_fdb(const protocol::FdbDelete& request, std::uint16_t now);
  void flush_fdb(const protocol::FdbFlush& request);
  // Appends at most `room` records; returns the next cursor.
  [[nodiscard]] std::uint64_t dump_fdb(const protocol::FdbDumpRequest& request, std::uint16_t now,
                                       std::size_t room,
                                       std::vector<protocol::FdbRecord>& out) const;

  [[nodiscard]] SwitchStats stats();
  // The one change that a refusal may have made: with EBUSY the poll mode is set all the same.
  protocol::WorkersReply set_workers(const protocol::WorkersConfig& config);
  // Non-empty: the process is to start over with these lcores, as soon as it can.
  [[nodiscard]] const std::string& restart_lcores() const noexcept { return restart_lcores_; }
  void inject(std::string_view port, std::span<const std::uint8_t> frame);
  // False: the place an event names is gone since.
  [[nodiscard]] bool is_current(const protocol::LearnEvent& event) const noexcept;
  [[nodiscard]] std::string_view port_name(PortIndex index) const noexcept;  // empty: gone
  [[nodiscard]] const std::vector<Worker*>& workers() const noexcept { return workers_; }

  // ---- housekeeping ----
  // Removes ports whose netdev vanished; returns them with state kLost.
  [[nodiscard]] std::vector<protocol::PortInfo> remove_dead_ports();
  // Attaches anew what somebody detached of netdev ports' programs, at the second call that finds it so: whoever replaces
  // a qdisc has put the new one in its place by then. Call it every second.
  void follow_again();
  // A slice of every FDB's sweep, refused sockets again, what a slow worker kept from being freed.
  void tick(std::uint16_t now_s, std::int64_t now_ms);
  // The kernel has its frames back, what was taken till then is forwarded, ports are destroyed. The
  // workers run.
  void shut_down() noexcept;

 private:
  // What workers may be reading; freed as a whole.
  struct Published {
    std::unique_ptr<ForwardingState> state;
    std::vector<std::unique_ptr<Assignment>> assignments;
    std::vector<std::shared_ptr<PortEntry>> ports;
    std::vector<std::shared_ptr<Port>> held;
  };

  void check_receives() const;
  void change();  // publish, wait, free, open held sockets, steer
  void publish();
  void collect();  // frees former states once all workers have passed a quiescent point
  void steer();
  void remove_port(PortEntry& entry);
  void tell_fail_open();
  void give_back(std::span<const std::shared_ptr<PortEntry>> ports) noexcept;
  [[nodiscard]] PortIndex allocate_index();
  [[nodiscard]] OverlayEntry& overlay_or_throw(OverlayIndex index) const;
  [[nodiscard]] bool is_place(const OverlayEntry& overlay, Location location) const noexcept;
  void check_port(const protocol::PortConfig& config) const;
  void check_fail_open(const protocol::FailOpenConfig& config) const;
  void check_underlay(const protocol::UnderlayConfig& config) const;
  void check_overlay(const protocol::OverlayConfig& config) const;
  void check_vtep(const protocol::VtepConfig& config, const OverlayEntry& overlay) const;

  std::vector<Worker*> workers_;
  BackEnds back_ends_;
  SwitchModel model_;
  HeldSockets held_;
  PortStatsKeeper stats_;
  std::unique_ptr<Published> current_;
  std::vector<std::unique_ptr<Published>> former_;    // workers may still read these
  std::vector<std::shared_ptr<PortEntry>> retiring_;  // removed ports whose index is not free yet
  std::deque<PortIndex>
      free_indices_;  // reused late, so that an event in flight does not name a newcomer
  std::uint64_t version_ = 0;
  std::int64_t now_ms_ = 0;  // of the last tick
  bool is_worker_late_ = false;
  std::string restart_lcores_;
};

// PortInfo as told to control.
[[nodiscard]] protocol::PortInfo info_of(const PortEntry& entry,
                                         protocol::PortState state) noexcept;

}  // namespace vx
