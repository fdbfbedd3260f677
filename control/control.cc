// SPDX-License-Identifier: Apache-2.0
// Configuration, kernel and connection: what is wanted, and when the dataplane comes and goes. What it is then
// told is in control_install.cc, what it tells in control_learn.cc.
#include "control/control.h"

#include <linux/rtnetlink.h>
#include <sys/epoll.h>

#include <algorithm>
#include <random>
#include <utility>

#include "control/log.h"
#include "control/path_words.h"
#include "control/text.h"

namespace vx::control {

namespace {
constexpr Milliseconds kConnectEvery = 100, kTickEvery = 200, kHousekeepingEvery = 20, kSaveEvery = 1000;
const char kStateName[] = "/control.state";
}  // namespace

Control::Control(EventLoop& loop, std::string run_dir, std::vector<config::Settings> settings, Loader loader)
    : loop_(loop), run_dir_(std::move(run_dir)), loader_(std::move(loader)), client_(run_dir_), installer_(client_),
      mirror_(kernel_), follower_(kernel_),
      prober_([this](const IpAddress& vtep, const ProbeShot& shot, ProbeId id) { return send_probe(vtep, shot, id); },
              std::random_device{}()),
      started_at_(EventLoop::now()) {
  follower_.set_is_ours([this](const BridgeFdbEntry& row) {
    return std::any_of(overlays_.begin(), overlays_.end(),
                       [&](const auto& overlay) { return overlay->fdb_export && overlay->fdb_export->wrote(row); });
  });
  stored_ = read_state(run_dir_ + kStateName, state_problems_);
  is_bypassed_ = stored_.is_bypassed;
  for (const auto& problem : state_problems_) log_warning(problem);
  apply(std::move(settings));
  resync_kernel(started_at_);
  configure_ports();

  client_.on_disconnect([this] { on_disconnected(); });
  loop_.add(kernel_.event_fd(), EPOLLIN, [this](std::uint32_t) {
    if (read_kernel_events(EventLoop::now())) sync();
  });
  loop_.every(kConnectEvery, [this](Milliseconds) { try_connect(); });
  loop_.every(kTickEvery, [this](Milliseconds now) {
    if (underlay_) underlay_->tick(now);
    derive_locals();
    watch_vteps(now);
    inject_frames(now);
    forget_idle_vteps(now);
    sync();
    plan_probes(now);
    run_probes(now);
  });
  loop_.every(kHousekeepingEvery, [this](Milliseconds now) {
    // What the kernel has said before it is written to.
    if (has_takeover() && read_kernel_events(now)) sync();
    if (has_takeover() && follower_.is_due()) follow_kernel(now);
    age(now);
    if (has_takeover()) run_exports(now);
    if (prober_.is_busy()) run_probes(now);
  });
  loop_.every(kSaveEvery, [this](Milliseconds) {
    save();
    if (has_takeover()) follower_.audit();
  });
  try_connect();
}

Control::~Control() {
  client_.on_disconnect({});
  if (client_.event_fd() >= 0) loop_.remove(client_.event_fd());
  while (!echo_sockets_.empty()) close_echo_socket(echo_sockets_.begin()->first);
  loop_.remove(kernel_.event_fd());
  save();
}

void Control::apply(std::vector<config::Settings> files) {
  files_ = std::move(files);
  dataplane_settings_ = files_[0].dataplane;
  if (has_takeover()) follower_.resync();
  adopt_settings(read_kernel());
}

void Control::adopt_settings(std::vector<config::Settings> settings) {
  effective_ = settings;
  const config::UnderlaySettings wanted = settings.empty() ? config::UnderlaySettings{} : settings[0].underlay;
  const auto device_of = [](const config::UnderlaySettings& underlay) {
    return Underlay::Device{underlay.device, underlay.vlan, underlay.driver == config::Driver::kUdp};
  };
  const bool is_new_device = device_of(wanted) != device_of(underlay_settings_);
  underlay_settings_ = wanted;
  if (wanted.own_address || settings.empty()) underlay_.reset();
  else if (!underlay_ || is_new_device) underlay_ = std::make_unique<Underlay>(kernel_, device_of(wanted));

  std::vector<std::unique_ptr<Overlay>> former = std::move(overlays_);
  overlays_.clear();
  for (auto& one : settings) {
    const auto same = std::find_if(former.begin(), former.end(), [&](const auto& overlay) {
      return overlay && overlay->settings.vxlan.vni == one.vxlan.vni && overlay->settings.vxlan.name == one.vxlan.name;
    });
    const bool is_new = same == former.end();
    auto overlay = is_new ? std::make_unique<Overlay>() : std::move(*same);
    if (one.vxlan.local) overlay->local = one.vxlan.local;
    overlay->settings = std::move(one);
    overlay->learner.set_limits({overlay->settings.bridge.ageing_s, overlay->settings.bridge.fdb_max_learned});
    overlay->learner.set_follows_kernel(overlay->is_takeover());
    overlay->learner.set_hold_sink([this, one = overlay.get()](const FdbEvent& event) { on_hold(*one, event); });
    overlay->configure_vteps();
    if (overlay->is_takeover() && !overlay->fdb_export) start_export(*overlay);
    if (!overlay->is_takeover() && overlay->fdb_export) stop_takeover(*overlay);
    if (is_new) restore_overlay(*overlay);
    overlays_.push_back(std::move(overlay));
  }
  // A bridge that is down or being made anew takes what the operator added along.
  for (const auto& gone : former)
    if (gone && gone->is_takeover()) stored_.overlays.push_back(store(*gone, ports_));
  if (was_connected_) assign_indices();
  set_monitor(std::move(monitor_));  // new overlays report too
  is_mirror_due_ = true;
}

void Control::restore_overlay(Overlay& overlay) {
  std::erase_if(stored_.overlays, [&](const StoredOverlay& one) {
    if (one.name != overlay.name()) return false;
    restore(overlay, one, ports_);
    return true;
  });
}

Control::ReloadResult Control::reload() {
  ReloadResult result;
  auto loaded = loader_();
  const bool is_refused = loaded.settings.empty() || config::has_error(loaded.problems);
  for (const auto& problem : loaded.problems)
    if (!is_refused || problem.severity == config::Severity::kError) result.problems.push_back(to_string(problem));
  if (is_refused) return result;
  result.is_done = true;
  const auto ports_before = ports_.ports().size();
  std::size_t vteps_before = 0, vteps_after = 0;
  for (const auto& overlay : overlays_) vteps_before += overlay->vteps.all().size();
  const auto overlays_before = overlays_.size();
  const bool goes_on = std::any_of(loaded.settings.begin(), loaded.settings.end(), [](const auto& one) { return one.mode == config::Mode::kTakeover; });
  if (has_takeover() && !goes_on) give_back();
  apply(std::move(loaded.settings));
  for (const auto& overlay : overlays_) vteps_after += overlay->vteps.all().size();
  resync_kernel(EventLoop::now());
  configure_ports();
  mirror_fdbs();
  if (client_.is_connected() && set_workers() && !workers_problem_.empty()) result.problems.push_back(workers_problem_);
  sync();
  save();
  const auto tell = [&](std::string_view what, std::size_t before, std::size_t after) {
    if (before != after) result.changes.push_back(fmt::format("{}: {} -> {}", what, before, after));
  };
  tell("overlays", overlays_before, overlays_.size());
  tell("vteps", vteps_before, vteps_after);
  tell("ports", ports_before, ports_.ports().size());
  return result;
}

void Control::configure_ports() {
  std::vector<WantedPort> wanted;
  if (!underlay_settings_.device.empty()) wanted.push_back(underlay_port(underlay_settings_));
  for (const auto& overlay : overlays_) {
    for (const auto& port : overlay->all_ports()) {
      wanted.push_back(guest_port(port, overlay->settings, home_of(*overlay)));
      if (is_uplink(overlay->settings, port.name)) wanted.back().blocked = overlay->blocked;
    }
  }
  ports_.configure(std::move(wanted));
}

// ---- the kernel ----

void Control::resync_kernel(Milliseconds now) {
  const auto links = kernel_.links();
  link_names_.clear();
  for (const auto& link : links) link_names_[link.ifindex] = link.name;
  ports_.set_links(links);
  if (underlay_) underlay_->resync(now);
  watch_vteps(now);
  derive_locals();
  is_mirror_due_ = true;
}

// True: something to sync() for.
bool Control::read_kernel_events(Milliseconds now) {
  bool links_changed = false;
  if (!kernel_.read_events([&](const nlmsghdr* message) { on_kernel_event(message, now, links_changed); })) {
    resync_kernel(now);
    if (has_takeover()) follower_.resync();
    for (auto& overlay : overlays_)
      if (overlay->fdb_export) overlay->fdb_export->changed_all();
  }
  if (links_changed) is_mirror_due_ = true;
  if (underlay_) underlay_->tick(now);
  return links_changed || (underlay_ && underlay_->take_changed());
}

void Control::on_kernel_event(const nlmsghdr* message, Milliseconds now, bool& links_changed) {
  if (underlay_) underlay_->on_event(message, now);
  if (has_takeover()) {
    follower_.on_event(message);
    if (message->nlmsg_type == RTM_DELNEIGH)
      if (const auto row = parse_bridge_fdb(message))
        for (auto& overlay : overlays_)
          if (overlay->fdb_export) overlay->fdb_export->lost(*row);
  }
  const auto link = parse_link(message);
  if (!link) return;
  links_changed = true;
  std::string& name = link_names_[link->ifindex];
  const bool is_gone = message->nlmsg_type == RTM_DELLINK;
  if (is_gone || (!name.empty() && name != link->name)) ports_.on_link_gone(name.empty() ? link->name : name);
  if (is_gone) {
    link_names_.erase(link->ifindex);
    return;
  }
  name = link->name;
  ports_.on_link(*link);
}

void Control::watch_vteps(Milliseconds now) {
  std::map<IpAddress, std::optional<IpAddress>> remotes;
  for (const auto& overlay : overlays_)
    for (const auto& [address, vtep] : overlay->vteps.all()) remotes.try_emplace(address, overlay->local);
  if (underlay_) {
    underlay_->watch(remotes, now);
    return;
  }
  std::vector<IpAddress> addresses;
  for (const auto& [address, local] : remotes) addresses.push_back(address);
  resolver_.watch(addresses);
}

void Control::derive_locals() {
  if (!underlay_) return;
  for (auto& overlay : overlays_) {
    if (overlay->local || overlay->vteps.all().empty()) continue;
    overlay->local = underlay_->local_towards(overlay->vteps.all().begin()->first);
    if (overlay->local) log_info(fmt::format("{}: local address {}", overlay->name(), format_ip(*overlay->local)));
  }
}

std::vector<IpAddress> Control::locals() const {
  std::vector<IpAddress> locals;
  for (const auto& overlay : overlays_)
    if (overlay->local && std::find(locals.begin(), locals.end(), *overlay->local) == locals.end())
      locals.push_back(*overlay->local);
  return locals;
}

// ---- the connection ----

void Control::try_connect() {
  if (client_.is_connected() || !client_.connect()) return;
  on_connected();
}

void Control::on_disconnected() {
  loop_.remove(client_.event_fd());
  ports_.on_disconnected();
  told_fail_open_.reset();
  if (!has_asked_to_restart_) log_warning("the dataplane is gone; waiting for it");
}

void Control::on_connected() {
  const bool is_first = !was_connected_;
  const bool is_same = instance_ == client_.hello().instance;
  log_info(fmt::format("dataplane: pid {}, {} worker{}, up {} s{}", client_.hello().pid, client_.hello().workers,
                       client_.hello().workers == 1 ? "" : "s", client_.hello().uptime_s,
                       is_first || is_same ? "" : "; restarted: everything is installed again"));
  loop_.add(client_.event_fd(), EPOLLIN, [this](std::uint32_t) { on_dataplane_events(); });
  connected_at_ = EventLoop::now();
  are_missing_vacated_ = false;
  is_mirror_due_ = true;
  if (!set_workers()) return;
  if (!installer_.read_back()) return client_.disconnect();
  if (const auto reply = client_.request(protocol::MessageType::kFailOpenGet)) told_fail_open_ = reply->record<protocol::FailOpenConfig>();
  instance_ = client_.hello().instance;
  was_connected_ = true;
  assign_indices();
  if (is_first)
    for (auto& overlay : overlays_) take_over_vteps(*overlay);
  configure_ports();
  for (const auto& info : installer_.ports_read_back()) ports_.adopt(info);
  mirror_fdbs();
  for (auto& overlay : overlays_) {
    if (installer_.overlays().contains(overlay->index)) {
      read_fdb(*overlay, is_first);
    } else {
      overlay->learner.mark_dirty();
    }
    if (!client_.is_connected()) return;
  }
  sync();
}

// Before anything else is sent: only a dataplane without ports takes other lcores, by starting over. It is asked
// once: one that comes back without them (they do not work there) is not sent round in circles.
bool Control::set_workers() {
  protocol::WorkersConfig config;
  protocol::set_text(config.lcores, dataplane_settings_.lcores);
  config.poll = dataplane_settings_.poll == config::Poll::kBusy ? protocol::WorkerPoll::kBusy : protocol::WorkerPoll::kAdaptive;
  config.may_restart = std::exchange(has_asked_to_restart_, false) ? 0 : 1;
  const auto reply = client_.request(protocol::MessageType::kWorkersSet, config);
  if (!client_.is_connected()) return false;
  const auto answer = reply ? reply->record<protocol::WorkersReply>() : std::nullopt;
  std::string problem = answer ? "" : "dataplane: " + client_.error();
  if (!problem.empty() && problem != workers_problem_) log_warning(problem);
  workers_problem_ = std::move(problem);
  if (!answer) return true;
  std::string note(protocol::text_of(answer->note));
  if (!note.empty() && note != workers_note_) log_info("dataplane: " + note);
  workers_note_ = std::move(note);
  has_asked_to_restart_ = answer->restarts != 0;
  if (!has_asked_to_restart_) return true;
  log_info(fmt::format("dataplane: starts over with lcores = {}", dataplane_settings_.lcores));
  client_.disconnect();
  return false;
}

void Control::assign_indices() {
  std::vector<bool> used(kMaxOverlays, false);
  for (const auto& [index, told] : installer_.overlays())
    if (index < kMaxOverlays) used[index] = true;
  for (auto& overlay : overlays_) {
    for (const auto& [index, told] : installer_.overlays())
      if (told.vni == overlay->settings.vxlan.vni) overlay->index = index;
    if (overlay->index < kMaxOverlays) used[overlay->index] = true;
  }
  for (auto& overlay : overlays_) {
    if (overlay->index != kNoIndex) continue;
    const auto free = std::find(used.begin(), used.end(), false);
    overlay->index = static_cast<OverlayIndex>(free - used.begin());
    if (free != used.end()) *free = true;
  }
}

// The dataplane knows VTEPs by indices that a former control chose, and its FDB uses them: they are kept.
void Control::take_over_vteps(Overlay& overlay) {
  const auto told = installer_.vteps(overlay.index);
  if (told.empty()) return;
  const StoredOverlay stored = store(overlay, ports_);
  const VtepRegistry before = overlay.vteps;
  overlay.learner.clear();
  overlay.kernel_fdb.clear();
  follower_.set_due();
  overlay.vteps = {};
  for (const auto& vtep : told) {
    const RemoteVtep* known = before.find(vtep.address);
    if (known == nullptr && overlay.settings.vxlan.vtep_learning == config::VtepLearning::kNo) continue;
    overlay.vteps.add(vtep.address, known != nullptr ? known->origin : VtepOrigin::kLearned,
                      known != nullptr ? known->flood : vtep.flood != 0 && overlay.settings.vxlan.vtep_learning == config::VtepLearning::kFlood,
                      vtep.index);
  }
  overlay.configure_vteps();
  restore(overlay, stored, ports_);
  watch_vteps(EventLoop::now());
  for (const auto& vtep : told)
    if (vtep.resolved != 0) resolver_.assume(vtep.address, vtep.next_hop);
}

void Control::read_fdb(Overlay& overlay, bool is_first) {
  constexpr std::uint8_t kKept = FdbValue::kStatic | FdbValue::kSticky | FdbValue::kBlackhole;
  std::vector<std::pair<std::uint64_t, FdbEntry>> content;
  std::uint64_t cursor = 0;
  installer_.dump(overlay.index, 0, cursor, 1u << 20, [&](std::span<const protocol::FdbRecord> records) {
    for (const auto& record : records) {
      FdbEntry entry;
      entry.flags = record.flags & kKept;
      if ((entry.flags & FdbValue::kBlackhole) == 0) entry.location = from_dataplane(record.location);
      content.emplace_back(record.key, entry);
    }
  });
  if (!is_first) return overlay.learner.reconcile(content);
  for (const auto& [key, entry] : content) {
    const bool has_place = entry.location != Location() || (entry.flags & FdbValue::kBlackhole) != 0;
    if (has_place && !(entry.is_learned() && overlay.learner.limits().ageing_s == 0)) {
      overlay.learner.adopt(key, entry);
    } else {
      overlay.learner.mark_dirty_key(key);
    }
  }
}

Location Control::from_dataplane(std::uint16_t raw) const {
  const Location location = Location::from_raw(raw);
  if (!location.is_port()) return location;
  const PortIndex slot = ports_.slot_of_index(location.index());
  return slot == kNoIndex ? Location() : Location::port(slot);
}

Location Control::to_dataplane(Location location) const {
  if (!location.is_port()) return location;
  const PortIndex index = ports_.index_of_slot(location.index());
  return index == kNoIndex ? Location() : Location::port(index);
}

// ---- what is kept ----

void Control::on_operator_change() {
  is_state_dirty_ = true;
  watch_vteps(EventLoop::now());
  sync();
  save();
}

void Control::save() {
  if (!is_state_dirty_) return;
  StoredState state;
  state.is_bypassed = is_bypassed_;
  for (const auto& overlay : overlays_) state.overlays.push_back(store(*overlay, ports_));
  state.overlays.insert(state.overlays.end(), stored_.overlays.begin(), stored_.overlays.end());
  state_problems_.clear();
  const std::string why = write_state(run_dir_ + kStateName, state);
  is_state_dirty_ = !why.empty();
  if (!why.empty()) state_problems_.push_back(why);
}

void Control::note(std::string what) {
  const bool is_new = std::find(faults_before_.begin(), faults_before_.end(), what) == faults_before_.end() &&
                      std::find(faults_.begin(), faults_.end(), what) == faults_.end();
  if (is_new) log_warning(what);
  faults_.push_back(std::move(what));
}

std::vector<std::string> Control::problems() const {
  std::vector<std::string> problems = state_problems_;
  if (!client_.is_connected()) {
    problems.push_back("dataplane: " + client_.error());
  } else {
    problems.insert(problems.end(), faults_before_.begin(), faults_before_.end());
    if (!workers_problem_.empty()) problems.push_back(workers_problem_);
  }
  for (const auto& [name, port] : ports_.ports())
    if (port.status != PortStatus::kUp && client_.is_connected())
      problems.push_back(port.text.starts_with(name + ":") ? "port " + port.text : fmt::format("port {}: {}", name, port.text));
  for (const auto& takeover : takeovers_) problems.insert(problems.end(), takeover.problems.begin(), takeover.problems.end());
  if (has_takeover() && client_.is_connected() && !bypass_reason_.empty()) problems.push_back("the kernel forwards: " + bypass_reason_);
  if (underlay_) {
    if (const auto problem = underlay_->problem()) problems.push_back(*problem);
    for (const auto& [address, path] : underlay_->paths())
      if (!path.problem.empty()) problems.push_back(path.problem);
  }
  for (const auto& overlay : overlays_) {
    if (!overlay->local) problems.push_back(fmt::format("{}: no local address yet: the underlay has none towards the VTEPs", overlay->name()));
    for (const auto& [address, vtep] : overlay->vteps.all())
      if (const PathKnown* path = prober_.find(address); path != nullptr && path->is_smaller)
        problems.push_back(fmt::format("VTEP {}: {}", format_ip(address), path_words(path->needed, path->passes)));
    if (underlay_) continue;
    for (const auto& [address, vtep] : overlay->vteps.all())
      if (!resolver_.mac_of(address)) problems.push_back(fmt::format("VTEP {}: no answer to ARP or ND", format_ip(address)));
  }
  return problems;
}

}  // namespace vx::control
