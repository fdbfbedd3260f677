// SPDX-License-Identifier: Apache-2.0
// `vxctl mtu` and `vxctl mtu probe`.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "config/mtu_arithmetic.h"
#include "control/path_words.h"
#include "control/requests.h"
#include "control/text.h"

namespace vx::control {

namespace {

// What does not add up, and what to do.
struct Findings {
  struct Finding {
    config::Severity severity;
    std::string text, remedy;
    [[nodiscard]] std::string line() const { return text + "; " + remedy; }
  };
  std::vector<Finding> all;

  void error(std::string text, std::string remedy) { all.push_back({config::Severity::kError, std::move(text), std::move(remedy)}); }
  void warning(std::string text, std::string remedy) { all.push_back({config::Severity::kWarning, std::move(text), std::move(remedy)}); }
  // Errors first.
  void write_to(Json& object) {
    std::ranges::stable_sort(all, [](const Finding& a, const Finding& b) { return a.severity == config::Severity::kError && b.severity != config::Severity::kError; });
    const bool has_error = !all.empty() && all.front().severity == config::Severity::kError;
    object["verdict"] = all.empty() ? "ok" : has_error ? "error" : "warning";
    if (!all.empty()) object["text"] = all.front().line();
    Json lines = Json::array();
    for (const auto& finding : all) lines.push_back(finding.line());
    object["problems"] = std::move(lines);
  }
};

// The netdev that limits what leaves the underlay; null: not known.
const Link* underlay_link(Control& control) {
  const Link* nic = control.ports().link_of(control.underlay_settings().device);
  const Link* own = control.underlay() != nullptr ? control.underlay()->device_link() : nullptr;  // may be a VLAN device on it
  if (nic == nullptr || own == nullptr) return own != nullptr ? own : nic;
  return own->mtu <= nic->mtu ? own : nic;
}

void check_device(Control& control, Json& object, Findings& findings) {
  const Link* link = underlay_link(control);
  if (link == nullptr || link->mtu == 0) return;
  const unsigned configured = control.underlay_settings().mtu;
  object["device_mtu"] = link->mtu;
  if (link->mtu < configured)
    findings.error(fmt::format("{} has an MTU of {}, [underlay] mtu says {}", link->name, link->mtu, configured),
                   fmt::format("raise that of {} (ip link set dev {} mtu {}), or lower [underlay] mtu", link->name, link->name, configured));
}

// The netdev of a guest port. Ports without one here (a socket, a tap in another namespace) have nothing to compare.
void check_port(const Link& link, unsigned mtu, Json& ports, Findings& findings) {
  if (link.mtu == mtu || link.mtu == 0) return;
  ports.push_back(Json{{"name", link.name}, {"mtu", link.mtu}});
  const auto both = fmt::format("{} has an MTU of {}, the overlay {}", link.name, link.mtu, mtu);
  const auto set_it = fmt::format("set {} on {} and in its guest (ip link set dev {} mtu {})", mtu, link.name, link.name, mtu);
  if (link.mtu > mtu) findings.warning(both + ", so its guest may send what is dropped", set_it);
  else findings.error(both + ", so larger packets do not reach its guest", set_it);
}

std::string path_remedy(unsigned fits) {
  return fmt::format("repair the path, or lower [vxlan] mtu to {} on all nodes and in all guests", fits);
}

// A path that is smaller than the underlay: told to the dataplane by a route or a probe.
Json smaller_path(Control& control, const Overlay& overlay, const IpAddress& address, unsigned path_mtu, Findings& findings) {
  const auto& settings = overlay.settings;
  const auto ceilings = config::mtu_ceilings(path_mtu, !address.is_v4());
  const PathKnown* measured = control.prober().find(address);
  const bool is_measured = measured != nullptr && measured->is_smaller && measured->passes == path_mtu;
  const unsigned fits = config::ceiling_that_counts(ceilings, settings.bridge);
  if (fits < settings.vxlan.mtu)
    findings.error(fmt::format("{}: {}", format_ip(address), path_words(settings.underlay.mtu, static_cast<std::uint16_t>(path_mtu))), path_remedy(fits));
  return Json{{"dst", format_ip(address)}, {"mtu", path_mtu}, {"ceiling", ceilings.untagged}, {"by", is_measured ? "probe" : "route"}};
}

std::string_view verdict_text(ProbeVerdict verdict) {
  switch (verdict) {
    case ProbeVerdict::kPasses: return "ok";
    case ProbeVerdict::kSmaller: return "small";
    case ProbeVerdict::kSilent: return "silent";
    default: return "unsure";
  }
}

std::string result_text(const ProbeResult& result, const std::string& unreachable) {
  switch (result.verdict) {
    case ProbeVerdict::kSilent:
      return fmt::format("{} needed, no answer: {}", result.needed,
                         unreachable.empty() ? "neither to probes in the tunnel nor to ping" : unreachable);
    case ProbeVerdict::kPasses:
      if (result.passes >= result.needed) return path_words(result.needed, result.needed);
      return fmt::format("{} needed, {} passes: larger ones cannot be sent from here", result.needed, result.passes);
    case ProbeVerdict::kSmaller: return path_words(result.needed, result.passes);
    default: return fmt::format("{} needed, {} passed before the answers stopped: try again", result.needed, result.passes);
  }
}

Json result_json(const IpAddress& address, const ProbeResult& result, const std::string& unreachable) {
  Json object{{"dst", format_ip(address)}, {"needed", result.needed}};
  if (result.passes != 0) {
    object["passes"] = result.passes;
    object["method"] = result.method == ProbeMethod::kTunnel ? "tunnel" : "echo";
    object["rtt_ms"] = result.rtt;
  }
  object["verdict"] = verdict_text(result.verdict);
  object["text"] = fmt::format("{}: {}", format_ip(address), result_text(result, unreachable));
  return object;
}

// What to do about a path that was measured; empty: nothing.
std::string advice_on(Control& control, const IpAddress& address, const ProbeResult& result) {
  if (result.verdict == ProbeVerdict::kPasses) return "";
  if (result.verdict == ProbeVerdict::kUnsure) return fmt::format("{}: the answers stopped while it was measured: try again", format_ip(address));
  if (result.verdict == ProbeVerdict::kSilent)
    return fmt::format("{} does not answer: see that it is up, and that no firewall on the way drops VXLAN's UDP port or ICMP echo", format_ip(address));
  for (const auto& overlay : control.overlays()) {
    if (overlay->vteps.find(address) == nullptr) continue;
    const unsigned fits = config::ceiling_that_counts(config::mtu_ceilings(result.passes, !address.is_v4()), overlay->settings.bridge);
    if (fits < overlay->settings.vxlan.mtu) return fmt::format("{}: {}", format_ip(address), path_remedy(fits));
  }
  return fmt::format("{}: guests' packets still fit: repair the path, or set [underlay] mtu = {}", format_ip(address), result.passes);
}

// `advice`: one line, empty when all is well.
Json reply_of(Json result, const std::string& advice) {
  Json reply = api::ok(std::move(result));
  if (advice.empty()) return reply;
  reply["exit"] = static_cast<int>(api::Exit::kRefused);
  reply["advice"] = advice;
  return reply;
}

}  // namespace

Json Requests::mtu_show() {
  Json all = Json::array();
  std::string advice;
  for (const auto& overlay : control_.overlays()) {
    const auto& settings = overlay->settings;
    const bool is_v6 = overlay->local && !overlay->local->is_v4();
    const auto ceilings = config::mtu_ceilings(settings.underlay.mtu, is_v6);
    Findings findings;
    Json object{{"ifname", overlay->name()}, {"mtu", settings.vxlan.mtu}, {"underlay_mtu", settings.underlay.mtu},
                {"device", settings.underlay.device}, {"family", is_v6 ? "ipv6" : "ipv4"}};
    object["overhead"] = Json{{"ip", is_v6 ? 40 : 20}, {"udp", 8}, {"vxlan", 8}, {"ethernet", 14},
                              {"total", is_v6 ? kOverheadIpv6 : kOverheadIpv4}};
    object["ceiling"] = Json{{"untagged", ceilings.untagged}, {"tagged", ceilings.one_tag}, {"double_tagged", ceilings.two_tags}};
    const unsigned safe = config::ceiling_that_counts(ceilings, settings.bridge);
    object["margin"] = static_cast<int>(safe) - static_cast<int>(settings.vxlan.mtu);
    if (const auto verdict = overlay->local ? config::judge_mtu(settings) : std::nullopt) {
      const auto text = "overlay MTU " + verdict->text, remedy = fmt::format("set [vxlan] mtu = {}", safe);
      if (verdict->severity == config::Severity::kError) findings.error(text, remedy);
      else findings.warning(text, remedy);
    }
    check_device(control_, object, findings);
    Json ports = Json::array(), vteps = Json::array();
    for (const auto& [name, port] : control_.ports().ports())
      if (const Link* link = control_.ports().link_of(name); link != nullptr && overlay_of_port(name) == overlay.get())
        check_port(*link, settings.vxlan.mtu, ports, findings);
    for (const auto& [address, vtep] : overlay->vteps.all())
      if (const auto* told = control_.told_vtep(*overlay, vtep); told != nullptr && told->mtu != 0)
        vteps.push_back(smaller_path(control_, *overlay, address, told->mtu, findings));
    findings.write_to(object);
    if (advice.empty() && !findings.all.empty()) advice = fmt::format("{} does not add up: {}", overlay->name(), findings.all.front().remedy);
    object["ports"] = std::move(ports);
    object["vteps"] = std::move(vteps);
    all.push_back(std::move(object));
  }
  return reply_of(std::move(all), advice);
}

void Requests::mtu_probe(const Json& request, const Reply& reply) {
  std::vector<IpAddress> wanted;
  if (const auto text = api::field<std::string>(request, "dst")) {
    const auto address = parse_ip(*text);
    if (!address) return reply(api::encode(api::error("mtu probe: an IP address is needed", api::Exit::kUsage)));
    wanted.push_back(*address);
  } else {
    for (const auto& overlay : control_.overlays())
      for (const auto& [address, vtep] : overlay->vteps.all())
        if (std::ranges::find(wanted, address) == wanted.end()) wanted.push_back(address);
  }
  // One reply when all are measured, in the order in which they were asked.
  struct Collected {
    Json results;
    std::size_t missing = 0;
    std::string advice;  // on the first of those that need one
  };
  const auto collected = std::make_shared<Collected>();
  collected->results = Json::array_t(wanted.size());
  collected->missing = wanted.size() + 1;
  const auto finish_one = [collected, reply] {
    if (--collected->missing == 0) reply(api::encode(reply_of(std::move(collected->results), collected->advice)));
  };
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto done = [this, collected, finish_one, i, address = wanted[i]](ProbeResult result) {
      if (result.needed == 0) result.needed = control_.underlay_settings().mtu;
      collected->results[i] = result_json(address, result, control_.why_unreachable(address));
      if (collected->advice.empty()) collected->advice = advice_on(control_, address, result);
      finish_one();
    };
    if (control_.measure_path(wanted[i], done)) continue;
    const bool is_vtep = std::ranges::any_of(control_.overlays(), [&](const auto& overlay) { return overlay->vteps.find(wanted[i]) != nullptr; });
    if (!is_vtep) return reply(api::encode(api::error(fmt::format("{} is not a VTEP", format_ip(wanted[i])))));
    done({ProbeVerdict::kSilent});  // no local address towards it
  }
  finish_one();
}

}  // namespace vx::control
