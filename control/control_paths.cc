// SPDX-License-Identifier: Apache-2.0
// The paths to the VTEPs as they are measured: what can be asked how, the sending, and what follows from a result: a VTEP's
// ceiling (wanted_vtep() in control_install.cc), a line in the log, a problem in `vxctl status`.
#include <fmt/format.h>
#include <sys/epoll.h>

#include <system_error>

#include "control/control.h"
#include "control/log.h"
#include "control/path_words.h"
#include "control/text.h"

namespace vx::control {

namespace {
constexpr std::uint16_t kLargestEcho = 65535;
}  // namespace

std::pair<const Overlay*, const RemoteVtep*> Control::find_vtep(const IpAddress& address) const {
  for (const auto& overlay : overlays_) {
    const RemoteVtep* vtep = overlay->local ? overlay->vteps.find(address) : nullptr;
    if (vtep != nullptr && overlay->local->is_v4() == address.is_v4()) return {overlay.get(), vtep};
  }
  return {nullptr, nullptr};
}

std::string Control::why_unreachable(const IpAddress& vtep) const {
  if (!client_.is_connected()) return "the dataplane is not running";
  const ManagedPort* port = ports_.find(underlay_settings_.device);
  if (port == nullptr || !port->info)
    return fmt::format("the underlay {} is not attached{}{}", underlay_settings_.device, port == nullptr || port->text.empty() ? "" : ": ", port == nullptr ? "" : port->text);
  const auto [overlay, remote] = find_vtep(vtep);
  if (overlay == nullptr) return "no local address towards it";
  const auto* told = told_vtep(*overlay, *remote);
  if (told != nullptr && told->resolved != 0) return "";
  if (underlay_)
    if (const auto path = underlay_->paths().find(vtep); path != underlay_->paths().end() && !path->second.problem.empty()) return path->second.problem;
  return "it does not answer ARP or ND";
}

ProbePlan Control::probe_plan(const Overlay& overlay, const IpAddress& address, const RemoteVtep& vtep) const {
  ProbePlan plan;
  plan.needed = underlay_settings_.mtu;
  const auto* told = told_vtep(overlay, vtep);
  if (!why_unreachable(address).empty() || told == nullptr || told->resolved == 0) return plan;
  const ProbeWay tunnel{ProbeMethod::kTunnel, kSmallestProbe, kLargestInjected};
  const ProbeWay echo{ProbeMethod::kEcho, kSmallestProbe, underlay_ ? kLargestEcho : kLargestInjected};
  plan.ways = {tunnel, echo};
  // The dataplane injects frames of protocol::kMaxFrameBytes at most: on a larger underlay the kernel's echo sees further.
  if (plan.needed > tunnel.largest && echo.largest > tunnel.largest) plan.ways = {echo, tunnel};
  return plan;
}

void Control::plan_probes(Milliseconds now) {
  std::map<IpAddress, ProbePlan> plans;
  for (const auto& overlay : overlays_)
    for (const auto& [address, vtep] : overlay->vteps.all())
      if (find_vtep(address).second == &vtep) plans.emplace(address, probe_plan(*overlay, address, vtep));
  prober_.watch(plans, now);
  if (!underlay_) return;
  for (const auto& [address, path] : underlay_->paths())
    if (path.learned_at != 0) prober_.suspect(address, path.learned_at);
}

void Control::run_probes(Milliseconds now) {
  prober_.tick(now);
  draw_path_consequences();
}

bool Control::measure_path(const IpAddress& vtep, PathProber::Done done) {
  const Milliseconds now = EventLoop::now();
  plan_probes(now);
  const auto told = [this, done = std::move(done)](const ProbeResult& result) {
    draw_path_consequences();
    done(result);
  };
  return prober_.measure(vtep, told, now);
}

void Control::draw_path_consequences() {
  const auto changes = prober_.take_changes();
  for (const auto& [vtep, now, before] : changes) {
    const auto line = fmt::format("VTEP {}: {}", format_ip(vtep), path_words(now.needed, now.passes));
    if (now.is_smaller) log_warning(line);
    else log_info(line + " again");
  }
  if (!changes.empty() && client_.is_connected()) install_vteps();
}

// ---- sending ----

ProbeSent Control::send_probe(const IpAddress& vtep, const ProbeShot& shot, ProbeId id) {
  const auto [overlay, remote] = find_vtep(vtep);
  if (overlay == nullptr) return ProbeSent::kFailed;
  if (shot.method == ProbeMethod::kEcho && underlay_) return send_echo(*overlay, vtep, shot, id);
  const auto* told = told_vtep(*overlay, *remote);
  if (told == nullptr || told->resolved == 0) return ProbeSent::kFailed;
  ProbeEnds ends;
  ends.source_mac = installer_.underlay().mac;
  ends.next_hop = told->next_hop;
  ends.local = *overlay->local;
  ends.remote = vtep;
  ends.ttl = overlay->settings.vxlan.ttl;
  ends.udp_port = overlay->settings.vxlan.port;
  ends.vni = overlay->settings.vxlan.vni;
  inject(shot.method == ProbeMethod::kTunnel ? tunnel_probe(ends, shot.size, id) : echo_probe(ends, shot.size, id));
  return ProbeSent::kSent;
}

ProbeSent Control::send_echo(const Overlay& overlay, const IpAddress& vtep, const ProbeShot& shot, ProbeId id) {
  EchoSocket* socket = echo_socket(*overlay.local);
  if (socket == nullptr) return ProbeSent::kFailed;
  const ProbeSent sent = socket->send(vtep, echo_message(!vtep.is_v4(), shot.size, id));
  if (sent == ProbeSent::kFailed) close_echo_socket(*overlay.local);  // its address may have moved: the next one is bound anew
  return sent;
}

EchoSocket* Control::echo_socket(const IpAddress& local) {
  if (const auto at = echo_sockets_.find(local); at != echo_sockets_.end()) return at->second.get();
  try {
    auto socket = std::make_unique<EchoSocket>(local);
    loop_.add(socket->fd(), EPOLLIN, [this, one = socket.get()](std::uint32_t) {
      const Milliseconds now = EventLoop::now();
      for (const auto& id : one->receive()) prober_.answered(id, now);
      draw_path_consequences();
    });
    echo_problem_.clear();
    return (echo_sockets_[local] = std::move(socket)).get();
  } catch (const std::system_error& error) {
    const auto problem = fmt::format("path probes from {}: {}", format_ip(local), error.what());
    if (problem != echo_problem_) log_warning(problem);
    echo_problem_ = problem;
    return nullptr;
  }
}

void Control::close_echo_socket(const IpAddress& local) {
  const auto at = echo_sockets_.find(local);
  if (at == echo_sockets_.end()) return;
  loop_.remove(at->second->fd());
  echo_sockets_.erase(at);
}

}  // namespace vx::control
