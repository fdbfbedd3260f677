// SPDX-License-Identifier: Apache-2.0
// `vxctl fdb`: the mirror decides what there is, a fresh dump of the dataplane says how old it is.
#include <fmt/format.h>

#include <algorithm>

#include "control/requests.h"
#include "control/text.h"

namespace vx::control {

namespace {

struct Ages {
  std::uint64_t key = 0;
  std::uint16_t used = 0, updated = 0;
};

// Sorted by key. Empty when the dataplane is away.
std::vector<Ages> ages_of(Control& control, const Overlay& overlay) {
  std::vector<Ages> ages;
  if (!control.client().is_connected() || !control.installer().overlays().contains(overlay.index)) return ages;
  std::uint64_t cursor = 0;
  control.installer().dump(overlay.index, 0, cursor, 1u << 20, [&](std::span<const protocol::FdbRecord> records) {
    for (const auto& record : records) ages.push_back({record.key, record.used_age_s, record.updated_age_s});
  });
  std::sort(ages.begin(), ages.end(), [](const Ages& a, const Ages& b) { return a.key < b.key; });
  return ages;
}

const Ages* find_ages(const std::vector<Ages>& ages, std::uint64_t key) {
  const auto at = std::lower_bound(ages.begin(), ages.end(), key, [](const Ages& a, std::uint64_t k) { return a.key < k; });
  return at != ages.end() && at->key == key ? &*at : nullptr;
}

Json with_ages(Json object, const Ages* ages) {
  if (ages == nullptr) return object;
  Json out;
  // The documented order: used and updated behind vlan.
  for (auto& [name, value] : object.items()) {
    if (name == "flags") {
      out["used"] = ages->used;
      out["updated"] = ages->updated;
    }
    out[name] = std::move(value);
  }
  return out;
}

Json flood_entry(const Overlay& overlay, const IpAddress& address) {
  return Json{{"mac", "00:00:00:00:00:00"},   {"ifname", overlay.name()}, {"dst", format_ip(address)},
              {"flags", Json::array({"self"})}, {"state", "permanent"}};
}

std::optional<std::uint16_t> vlan_of(const Json& request) {
  const auto vlan = api::field<std::uint16_t>(request, "vlan");
  return vlan && *vlan >= 1 && *vlan <= kMaxVid ? vlan : std::nullopt;
}

std::string vlan_text(std::uint64_t key) {
  return fmt::format("{} vlan {}", format_mac(fdb_key_mac(key)), fdb_key_vid(key));
}

}  // namespace

// What show, get, del and flush select by. An argument of the wrong form is an error, not a filter.
struct Requests::FdbFilter {
  std::optional<MacAddress> mac;
  std::optional<std::uint16_t> vlan;
  std::optional<std::string> dev, kind;
  std::optional<IpAddress> dst;
  std::string error;

  explicit FdbFilter(const Json& request) {
    if (const auto text = api::field<std::string>(request, "mac")) {
      mac = parse_mac(*text);
      if (!mac) error = fmt::format("\"{}\" is not a MAC address", *text);
    }
    if (request.contains("vlan")) {
      vlan = vlan_of(request);
      if (!vlan) error = "vlan: 1 to 4094";
    }
    if (const auto text = api::field<std::string>(request, "dst")) {
      dst = parse_ip(*text);
      if (!dst) error = fmt::format("\"{}\" is not an IP address", *text);
    }
    dev = api::field<std::string>(request, "dev");
    kind = api::field<std::string>(request, "kind");
  }

  [[nodiscard]] bool matches_kind(const FdbEntry& entry) const {
    if (!kind || *kind == "all") return true;
    return (*kind == "dynamic") == entry.is_learned();
  }
  [[nodiscard]] bool matches(const Overlay& overlay, const PortManager& ports, std::uint64_t key,
                             const FdbEntry& entry) const {
    if (mac && fdb_key_mac(key) != *mac) return false;
    if (vlan && fdb_key_vid(key) != *vlan) return false;
    if (!matches_kind(entry)) return false;
    const bool is_blackhole = (entry.flags & FdbValue::kBlackhole) != 0;
    const bool is_remote = !is_blackhole && entry.location.is_vtep();
    if (dst) {
      const auto address = is_remote ? overlay.vteps.address_of(entry.location.index()) : std::nullopt;
      if (!address || *address != *dst) return false;
    }
    if (!dev) return true;
    if (is_remote) return overlay.name() == *dev;
    return (is_blackhole ? overlay.settings.bridge.name : ports.name_of_slot(entry.location.index())) == *dev;
  }
  [[nodiscard]] bool matches_flood(const Overlay& overlay, const IpAddress& address) const {
    if (vlan || (mac && !mac->is_zero()) || (kind && *kind == "dynamic")) return false;
    return (!dst || *dst == address) && (!dev || *dev == overlay.name());
  }
};

Json fdb_entry_json(const Overlay& overlay, const PortManager& ports, std::uint64_t key, const FdbEntry& entry) {
  const bool is_blackhole = (entry.flags & FdbValue::kBlackhole) != 0;
  const bool is_remote = !is_blackhole && entry.location.is_vtep();
  const std::string& bridge = overlay.settings.bridge.name;
  const std::string& port = is_remote ? overlay.name() : ports.name_of_slot(entry.location.index());
  Json object{{"mac", format_mac(fdb_key_mac(key))}};
  const std::string& ifname = is_blackhole ? (bridge.empty() ? overlay.name() : bridge) : port;
  if (!ifname.empty()) object["ifname"] = ifname;
  if (is_remote)
    if (const auto address = overlay.vteps.address_of(entry.location.index())) object["dst"] = format_ip(*address);
  if (overlay.settings.bridge.vlan_filtering) object["vlan"] = fdb_key_vid(key);
  Json flags = Json::array();
  if (overlay.is_netdev_mode()) flags.push_back("self");
  if ((entry.flags & FdbValue::kSticky) != 0) flags.push_back("sticky");
  if (is_blackhole) flags.push_back("blackhole");
  if (entry.is_external()) flags.push_back("extern_learn");
  object["flags"] = std::move(flags);
  if (!overlay.is_netdev_mode() && !bridge.empty()) object["master"] = bridge;
  object["state"] = entry.is_static() ? "static" : "";
  return object;
}

std::string Requests::fdb_show(const Json& request) {
  const FdbFilter filter(request);
  if (!filter.error.empty()) return api::encode(api::error(filter.error, api::Exit::kUsage));
  // Written as it goes: a million entries as a document would take a gigabyte.
  std::string line = "{\"ok\":true,\"result\":[";
  bool is_first = true;
  const auto append = [&](const Json& object) {
    if (!is_first) line += ',';
    is_first = false;
    line += object.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  for (const auto& overlay : control_.overlays()) {
    std::vector<std::pair<std::uint64_t, FdbEntry>> found;
    overlay->learner.for_each([&](std::uint64_t key, const FdbEntry& entry) {
      if (filter.matches(*overlay, control_.ports(), key, entry)) found.emplace_back(key, entry);
    });
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const auto ages = found.empty() ? std::vector<Ages>() : ages_of(control_, *overlay);
    for (const auto& [key, entry] : found)
      append(with_ages(fdb_entry_json(*overlay, control_.ports(), key, entry), find_ages(ages, key)));
    for (const auto& [address, vtep] : overlay->vteps.all())
      if (vtep.flood && filter.matches_flood(*overlay, address)) append(flood_entry(*overlay, address));
  }
  line += "]}\n";
  return line;
}

Json Requests::fdb_get(const Json& request) {
  const FdbFilter filter(request);
  if (!filter.error.empty()) return api::error(filter.error, api::Exit::kUsage);
  if (!filter.mac) return api::error("fdb get: a MAC address is needed", api::Exit::kUsage);
  for (const auto& overlay : control_.overlays()) {
    const std::uint64_t key = fdb_key(filter.vlan.value_or(overlay->settings.bridge.pvid), *filter.mac);
    const FdbEntry* entry = overlay->learner.find(key);
    if (entry == nullptr || !filter.matches(*overlay, control_.ports(), key, *entry)) continue;
    const auto ages = ages_of(control_, *overlay);
    return api::ok(Json::array(
        {with_ages(fdb_entry_json(*overlay, control_.ports(), key, *entry), find_ages(ages, key))}));
  }
  return api::error(fmt::format("no entry for {}{}", format_mac(*filter.mac),
                                filter.vlan ? fmt::format(" in VLAN {}", *filter.vlan) : ""));
}

Json Requests::fdb_add(const Json& request) {
  const FdbFilter args(request);
  if (!args.error.empty()) return api::error(args.error, api::Exit::kUsage);
  if (!args.mac || args.mac->is_group() || args.mac->is_zero())
    return api::error("fdb add: a unicast MAC address is needed", api::Exit::kUsage);
  const bool is_blackhole = api::field<bool>(request, "blackhole").value_or(false);
  std::string error;
  Overlay* overlay = nullptr;
  FdbEntry entry;
  entry.flags = args.kind == "sticky" ? FdbValue::kSticky : FdbValue::kStatic;
  if (is_blackhole) {
    entry.flags |= FdbValue::kBlackhole;
    overlay = pick_overlay(args.dev, error);
    if (overlay == nullptr && args.dev) {
      for (auto& one : control_.overlays())
        if (one->settings.bridge.name == *args.dev) overlay = one.get();
    }
  } else if (args.dst) {
    overlay = pick_overlay(args.dev, error);
    if (overlay == nullptr) return api::error(error);
    const RemoteVtep* vtep = overlay->vteps.find(*args.dst);
    if (vtep == nullptr)
      return api::error(fmt::format("{} is not a VTEP of {}: vxctl vtep add it first", format_ip(*args.dst), overlay->name()));
    entry.location = Location::vtep(vtep->index);
  } else if (args.dev) {
    overlay = overlay_of_port(*args.dev);
    if (overlay == nullptr) {
      if (pick_overlay(args.dev, error) != nullptr) return api::error(fmt::format("{} is the tunnel: say dst IP", *args.dev));
      return api::error(fmt::format("no port {}", *args.dev));
    }
    if (is_uplink(overlay->settings, *args.dev))
      return api::error(fmt::format("{} is the tunnel of a kernel bridge: its FDB holds remote entries only, say dst IP", *args.dev));
    entry.location = Location::port(control_.ports().find(*args.dev)->slot);
  } else {
    return api::error("fdb add: say dev PORT, dst IP or blackhole", api::Exit::kUsage);
  }
  if (overlay == nullptr) return api::error(error);
  const std::uint16_t vlan = args.vlan.value_or(overlay->settings.bridge.pvid);
  if (vlan == kNoPvid) return api::error("bridge-pvid is none: say vlan V");
  const std::uint64_t key = fdb_key(vlan, *args.mac);
  Overlay& tunnel = control_.tunnel_of(*overlay, vlan);  // several of one bridge share its ports
  if (args.dst && !is_blackhole && &tunnel != overlay)
    return api::error(fmt::format("VLAN {} is that of {}, not of {}", vlan, tunnel.name(), overlay->name()));
  switch (tunnel.learner.add(key, entry)) {
    case AddResult::kRefusedExists: return api::error(fmt::format("{} exists: vxctl fdb del it first", vlan_text(key)));
    case AddResult::kFull: return api::error(fmt::format("{} entries of the operator's are the most", Learner::kMaxOperatorEntries));
    default: break;
  }
  control_.on_operator_change();
  return api::ok();
}

Json Requests::fdb_del(const Json& request) {
  const FdbFilter filter(request);
  if (!filter.error.empty()) return api::error(filter.error, api::Exit::kUsage);
  if (!filter.mac) return api::error("fdb del: a MAC address is needed", api::Exit::kUsage);
  for (auto& overlay : control_.overlays()) {
    const std::uint64_t key = fdb_key(filter.vlan.value_or(overlay->settings.bridge.pvid), *filter.mac);
    const FdbEntry* entry = overlay->learner.find(key);
    if (entry == nullptr || !filter.matches(*overlay, control_.ports(), key, *entry)) continue;
    if (overlay->learner.remove(key) == RemoveResult::kKernels)
      return api::error(fmt::format("{} is the kernel bridge's: bridge fdb del it", vlan_text(key)));
    control_.on_operator_change();
    return api::ok();
  }
  return api::error(fmt::format("no entry for {}{}", format_mac(*filter.mac),
                                filter.vlan ? fmt::format(" in VLAN {}", *filter.vlan) : ""));
}

Json Requests::fdb_flush(const Json& request) {
  FdbFilter filter(request);
  if (!filter.error.empty()) return api::error(filter.error, api::Exit::kUsage);
  if (!filter.kind) filter.kind = "dynamic";
  std::size_t removed = 0;
  for (auto& overlay : control_.overlays()) {
    removed += overlay->learner.flush([&](std::uint64_t key, const FdbEntry& entry) {
      return filter.matches(*overlay, control_.ports(), key, entry);
    });
  }
  control_.on_operator_change();
  return api::ok(Json{{"removed", removed}});
}

Json Requests::fdb_count() {
  FdbCounts sum;
  for (const auto& overlay : control_.overlays()) {
    const FdbCounts one = overlay->learner.counts();
    sum.current += one.current;
    sum.static_entries += one.static_entries;
    sum.limit += one.limit;
    sum.learned += one.learned;
    sum.expired += one.expired;
    sum.evicted += one.evicted;
    sum.moved += one.moved;
    sum.refused += one.refused;
  }
  return api::ok(Json{{"current", sum.current}, {"static", sum.static_entries}, {"limit", sum.limit},
                      {"learned", sum.learned}, {"expired", sum.expired}, {"evicted", sum.evicted},
                      {"moved", sum.moved}, {"refused", sum.refused}});
}

void Control::emit(const Overlay& overlay, const FdbEvent& event) {
  const char* what = "added";
  switch (event.kind) {
    case FdbEventKind::kLearned:
    case FdbEventKind::kAdded: what = "added"; break;
    case FdbEventKind::kMoved: what = "moved"; break;
    case FdbEventKind::kExpired: what = "expired"; break;
    case FdbEventKind::kDeleted: what = "deleted"; break;
    case FdbEventKind::kRefused:
    case FdbEventKind::kViolation: what = "refused"; break;
    case FdbEventKind::kHeld: what = "held"; break;
    case FdbEventKind::kReleased: what = "released"; break;
  }
  Json out{{"what", what}};
  const Json fields = fdb_entry_json(overlay, ports_, event.key, event.entry);
  for (const auto& [name, value] : fields.items()) out[name] = value;
  monitor_(out);
}

}  // namespace vx::control
