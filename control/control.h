// SPDX-License-Identifier: Apache-2.0
// vxplane-control as an object: configuration in, a configured dataplane out, kept so.
//
// Everything is level-triggered: events (rtnetlink, learn events, operator's commands, a dataplane that came
// back) change what is wanted; sync() then sends the difference to what the dataplane has been told. So a
// restart of either process is nothing special. One thread, the event loop's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "config/load.h"
#include "control/bridge_snapshot.h"
#include "control/convert.h"
#include "control/dataplane_client.h"
#include "control/event_loop.h"
#include "control/installer.h"
#include "control/kernel_mirror.h"
#include "control/overlay.h"
#include "control/own_resolver.h"
#include "control/path_probe_schedule.h"
#include "control/path_probe_socket.h"
#include "control/port_manager.h"
#include "control/rtnetlink.h"
#include "control/takeover.h"
#include "control/underlay.h"

namespace vx::control {

class Control {
 public:
  // Reads the configuration anew, for reload().
  using Loader = std::function<config::LoadAllResult()>;
  using Monitor = std::function<void(const nlohmann::ordered_json& event)>;

  // Throws std::system_error when there is no netlink or epoll. `settings` has at least one element.
  Control(EventLoop& loop, std::string run_dir, std::vector<config::Settings> settings, Loader loader);
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // Re-reads the configuration and applies the differences. An error leaves everything as it was.
  struct ReloadResult {
    bool is_done = false;
    std::vector<std::string> problems;  // errors if not done, else warnings
    std::vector<std::string> changes;
  };
  ReloadResult reload();

  // Sends the dataplane what it lacks, now.
  void sync();
  // Writes the state file if what it holds has changed.
  void save();
  // Told of every FDB event; empty: nobody listens.
  void set_monitor(Monitor monitor);

  // ---- for requests.h ----
  [[nodiscard]] std::vector<std::unique_ptr<Overlay>>& overlays() noexcept { return overlays_; }
  [[nodiscard]] PortManager& ports() noexcept { return ports_; }
  [[nodiscard]] DataplaneClient& client() noexcept { return client_; }
  [[nodiscard]] Installer& installer() noexcept { return installer_; }
  [[nodiscard]] const config::UnderlaySettings& underlay_settings() const noexcept { return underlay_settings_; }
  [[nodiscard]] Milliseconds started_at() const noexcept { return started_at_; }
  [[nodiscard]] std::vector<std::string> problems() const;
  // Path to a VTEP as the dataplane is told it.
  [[nodiscard]] const protocol::VtepConfig* told_vtep(const Overlay& overlay, const RemoteVtep& vtep) const;
  [[nodiscard]] const PathProber& prober() const noexcept { return prober_; }
  // Null with vtep-address = own.
  [[nodiscard]] const Underlay* underlay() const noexcept { return underlay_.get(); }
  // Measures the path to a VTEP; `done` is called once, when its consequences have been drawn, perhaps before this returns.
  // False: no such VTEP.
  [[nodiscard]] bool measure_path(const IpAddress& vtep, PathProber::Done done);
  // Why a VTEP cannot be asked now, one line; empty: it can.
  [[nodiscard]] std::string why_unreachable(const IpAddress& vtep) const;
  // What vxctl adds and removes changed: to be kept, and to be installed.
  void on_operator_change();
  // The wanted ports of all overlays, after ports were added or removed.
  void configure_ports();
  // Takeover (control_takeover.cc). Whether any configuration takes over a kernel's bridge.
  [[nodiscard]] bool has_takeover() const;
  // The operator's `vxctl bypass on|off`: kept over restarts of either process.
  void set_bypass(bool is_on);
  // Why the kernel forwards now, one line; empty: vxplane does.
  [[nodiscard]] const std::string& bypass_reason() const noexcept { return bypass_reason_; }
  // Of the tunnels of `overlay`'s bridge: the index of the one that has the ports, and the one that has a VLAN.
  [[nodiscard]] OverlayIndex home_of(const Overlay& overlay) const;
  [[nodiscard]] Overlay& tunnel_of(Overlay& overlay, std::uint16_t vid);
  // A dataplane location as control's, and back; nowhere when there is no such place.
  [[nodiscard]] Location from_dataplane(std::uint16_t raw) const;
  [[nodiscard]] Location to_dataplane(Location location) const;

 private:
  void apply(std::vector<config::Settings> files);
  void adopt_settings(std::vector<config::Settings> settings);
  void restore_overlay(Overlay& overlay);
  // takeover (control_takeover.cc)
  [[nodiscard]] std::vector<config::Settings> read_kernel();
  void follow_kernel(Milliseconds now);
  void mirror_fdbs();
  void mirror_fdb(Overlay& overlay, const KernelFdb& wanted);
  void import_learned();
  void start_export(Overlay& overlay);
  void stop_takeover(Overlay& overlay);
  void give_back();
  void run_exports(Milliseconds now);
  [[nodiscard]] bool does_kernel_forward() const;
  [[nodiscard]] std::string why_bypassed() const;
  [[nodiscard]] bool has_left(const Overlay& overlay, const config::PortSettings& port) const;
  void update_fail_open();
  void on_kernel_event(const nlmsghdr* message, Milliseconds now, bool& links_changed);
  bool read_kernel_events(Milliseconds now);
  void resync_kernel(Milliseconds now);
  void watch_vteps(Milliseconds now);
  void derive_locals();
  [[nodiscard]] std::vector<IpAddress> locals() const;
  void mirror_kernel();

  void try_connect();
  void on_connected();
  // False: the dataplane starts over with other lcores, or is gone.
  bool set_workers();
  void take_over_vteps(Overlay& overlay);
  void assign_indices();
  void read_fdb(Overlay& overlay, bool is_first);
  void on_disconnected();

  void on_dataplane_events();
  void on_learn_events(std::span<const std::byte> message);
  void learn(const protocol::LearnEvent& event);
  void on_punt(std::span<const std::byte> message);
  void on_port_events(std::span<const std::byte> message);

  void install_overlays();
  void run_port_actions();
  void delete_overlays();
  void install_underlay();
  void install_vteps();
  void install_fdb();
  void install_fdb(Overlay& overlay);
  [[nodiscard]] protocol::VtepConfig wanted_vtep(const Overlay& overlay, const IpAddress& address,
                                                 const RemoteVtep& vtep) const;
  void inject_frames(Milliseconds now);
  void inject(const Frame& frame);
  // path probes (control_paths.cc)
  void plan_probes(Milliseconds now);
  void run_probes(Milliseconds now);
  [[nodiscard]] ProbePlan probe_plan(const Overlay& overlay, const IpAddress& address, const RemoteVtep& vtep) const;
  [[nodiscard]] ProbeSent send_probe(const IpAddress& vtep, const ProbeShot& shot, ProbeId id);
  [[nodiscard]] ProbeSent send_echo(const Overlay& overlay, const IpAddress& vtep, const ProbeShot& shot, ProbeId id);
  [[nodiscard]] EchoSocket* echo_socket(const IpAddress& local);
  void close_echo_socket(const IpAddress& local);
  void draw_path_consequences();
  // The VTEP of that address in the first overlay that can reach it; null: in none.
  [[nodiscard]] std::pair<const Overlay*, const RemoteVtep*> find_vtep(const IpAddress& address) const;
  void age(Milliseconds now);
  void age(Overlay& overlay, Milliseconds now);
  void forget_idle_vteps(Milliseconds now);
  [[nodiscard]] Overlay* overlay_at(OverlayIndex index);
  void note(std::string what);  // a fault of sync(): logged when it is new, shown by status until it is over
  void emit(const Overlay& overlay, const FdbEvent& event);
  void on_hold(const Overlay& overlay, const FdbEvent& event);
  [[nodiscard]] std::string place_text(const Overlay& overlay, Location location) const;

  EventLoop& loop_;
  const std::string run_dir_;
  Loader loader_;
  RouteSocket kernel_;
  DataplaneClient client_;
  Installer installer_;
  KernelMirror mirror_;
  BridgeFollower follower_;
  std::vector<config::Settings> files_;      // the configuration as it was read
  std::vector<config::Settings> effective_;  // with what the kernel says; those that cannot be done are left out
  std::vector<Takeover> takeovers_;          // by effective_'s and files_' order, those files only
  bool is_bypassed_ = false;                 // by the operator
  std::string bypass_reason_;
  std::optional<protocol::FailOpenConfig> told_fail_open_;
  PortManager ports_;
  OwnResolver resolver_;
  PathProber prober_;
  std::map<IpAddress, std::unique_ptr<EchoSocket>> echo_sockets_;  // by our address
  std::string echo_problem_;
  std::unique_ptr<Underlay> underlay_;  // null: vtep-address = own
  config::UnderlaySettings underlay_settings_;
  config::DataplaneSettings dataplane_settings_;
  std::vector<std::unique_ptr<Overlay>> overlays_;
  Monitor monitor_;
  std::map<std::pair<OverlayIndex, IpAddress>, Milliseconds> vtep_useful_at_;  // learned VTEPs: last had MACs
  std::map<int, std::string> link_names_;
  StoredState stored_;  // of overlays that are not there (yet)
  bool was_connected_ = false;          // since control started
  bool is_state_dirty_ = false;
  bool is_mirror_due_ = true;
  bool are_missing_vacated_ = true;
  std::uint64_t instance_ = 0;
  Milliseconds started_at_ = 0, connected_at_ = 0;
  std::vector<std::string> faults_, faults_before_, state_problems_;
  bool has_asked_to_restart_ = false;  // and not seen since whether that helped
  std::string workers_problem_, workers_note_;
};

}  // namespace vx::control
