// SPDX-License-Identifier: Apache-2.0
// From the stanzas of a vxlan, of the bridge that has it as a port, and of the interface below it.
#include "config/stanza_import.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/values.h"

namespace vx::config {
namespace {

// The vxlan stanza's attributes that are keys of [vxlan], under the key's name.
struct Mapped {
  std::string_view attribute, key;
};
constexpr Mapped kVxlanAttributes[] = {
    {"vxlan-id", "vxlan-id"},       {"vxlan-local-tunnelip", "vxlan-local-tunnelip"},
    {"vxlan-port", "vxlan-port"},   {"vxlan-learning", "vxlan-learning"},
    {"vxlan-ttl", "vxlan-ttl"},     {"vxlan-tos", "vxlan-tos"},
    {"vxlan-udp-csum", "udp-csum"}, {"mtu", "mtu"},
};
// Each value is a VTEP: groups are then refused by the grammar of addresses.
constexpr std::string_view kRemoteAttributes[] = {
    "vxlan-remoteip", "vxlan-svcnodeip", "vxlan-mcastgrp", "vxlan-svcnodeip6", "vxlan-mcastgrp6"};
constexpr std::string_view kElsewhere[] = {"vxlan-physdev", "vxlan-ageing"};

class Importer {
 public:
  Importer(const Interfaces& interfaces, const ImportRequest& request)
      : interfaces_(interfaces), request_(request) {}

  ImportResult run() {
    if (!pick_vxlan()) {
      result_.has_failed = true;
      return std::move(result_);
    }
    if (vxlan_ != nullptr) {
      import_vxlan();
      import_bridge();
    }
    import_underlay();
    return std::move(result_);
  }

 private:
  void add(std::string_view section, std::string_view key, std::string value,
           const Origin& origin) {
    result_.entries.push_back({std::string(section), std::string(key), std::move(value), origin});
  }
  void add(std::string_view section, std::string_view key, const Attribute* attribute) {
    if (attribute != nullptr) add(section, key, attribute->value, attribute->origin);
  }
  void tell(Severity severity, const Origin& origin, std::string_view key, std::string text) {
    result_.problems.push_back(
        {origin.file, origin.line, std::string(key), std::move(text), severity});
  }

  bool pick_vxlan() {
    std::vector<std::string> names;
    for (const Stanza& stanza : interfaces_.stanzas) {
      if (stanza.find("vxlan-id") == nullptr) continue;
      names.push_back(stanza.name);
      if (request_.name == nullptr || stanza.name == request_.name->value) vxlan_ = &stanza;
    }
    if (request_.name == nullptr && names.size() > 1) {
      tell(Severity::kError, request_.origin, "interfaces",
           fmt::format("several vxlan stanzas ({}): pick one by name = in [vxlan]",
                       fmt::join(names, ", ")));
      return false;
    }
    if (vxlan_ != nullptr || request_.vni != nullptr)
      return true;  // a whole [vxlan] may want the underlay's stanza only
    if (request_.name != nullptr)
      tell(Severity::kError, request_.name->origin, "name",
           names.empty() ? "there is no vxlan stanza (one with vxlan-id) in the imported files"
                         : fmt::format("'{}' is no vxlan stanza of the imported files ({})",
                                       request_.name->value, fmt::join(names, ", ")));
    else
      tell(Severity::kError, request_.origin, "interfaces",
           "there is no vxlan stanza (one with vxlan-id) in the imported files");
    return false;
  }

  void import_vxlan() {
    add("vxlan", "name", vxlan_->name, vxlan_->origin);
    for (const Mapped& mapped : kVxlanAttributes)
      add("vxlan", mapped.key, vxlan_->find(mapped.attribute));
    for (const Attribute& attribute : vxlan_->attributes) {
      const std::string& key = attribute.key;
      if (std::find(std::begin(kRemoteAttributes), std::end(kRemoteAttributes), key) !=
          std::end(kRemoteAttributes)) {
        for (const std::string& word : split_words(attribute.value, " \t,"))
          add("vxlan", "vxlan-remoteip", word, attribute.origin);
        continue;
      }
      const bool is_mapped = std::any_of(std::begin(kVxlanAttributes), std::end(kVxlanAttributes),
                                         [&](const Mapped& m) { return m.attribute == key; });
      const bool is_used =
          std::find(std::begin(kElsewhere), std::end(kElsewhere), key) != std::end(kElsewhere);
      if (key.starts_with("vxlan-") && !is_mapped && !is_used)
        tell(Severity::kWarning, attribute.origin, key, "is not imported");
    }
  }

  void import_bridge() {
    std::size_t ports = 0;
    for (const Stanza& stanza : interfaces_.stanzas) {
      const Attribute* list = stanza.find("bridge-ports");
      if (list == nullptr) continue;
      const std::vector<std::string> words = split_words(list->value);
      if (std::find(words.begin(), words.end(), vxlan_->name) == words.end()) continue;
      bridge_ = &stanza;
      ports = words.size();
      break;
    }
    if (bridge_ == nullptr) return;
    result_.is_bridge_port_alone = ports == 1;
    add("bridge", "name", bridge_->name, bridge_->origin);
    const Attribute* ageing = bridge_->find("bridge-ageing");
    add("bridge", "bridge-ageing", ageing != nullptr ? ageing : vxlan_->find("vxlan-ageing"));
    if (vxlan_->find("mtu") == nullptr) add("vxlan", "mtu", bridge_->find("mtu"));
    import_vlans();
  }

  // The tunnel's VLANs are those of the vxlan as a bridge port, which default to the bridge's.
  void import_vlans() {
    const Attribute* aware = bridge_->find("bridge-vlan-aware");
    bool is_aware = false;
    if (aware == nullptr || !read_bool(aware->value, is_aware).empty() || !is_aware) {
      tell(Severity::kWarning, aware != nullptr ? aware->origin : bridge_->origin,
           "bridge-vlan-aware",
           fmt::format("{} is not VLAN-aware: taken as bridge-vids 2-4094 and bridge-pvid 1",
                       bridge_->name));
      add("bridge", "bridge-vids", "2-4094", bridge_->origin);
      return;
    }
    if (const Attribute* access = vxlan_->find("bridge-access"); access != nullptr) {
      add("bridge", "bridge-pvid", access);
      return;
    }
    for (const std::string_view key : {"bridge-vids", "bridge-pvid"}) {
      const Attribute* own = vxlan_->find(key);
      add("bridge", key, own != nullptr ? own : bridge_->find(key));
    }
  }

  // The interface whose subnet has a remote, or which has the local address, or which [underlay] or
  // vxlan-physdev names.
  void import_underlay() {
    const Stanza* named = underlay_by_name();
    const AddressAt* local = nullptr;
    const Stanza* stanza = nullptr;
    std::vector<std::pair<const Stanza*, AddressAt>> addresses;
    for (const Stanza& candidate : interfaces_.stanzas) {
      if (&candidate == vxlan_ || &candidate == bridge_ ||
          (named != nullptr && named != &candidate))
        continue;
      for (const AddressAt& at : addresses_of(candidate, result_.problems))
        addresses.emplace_back(&candidate, at);
    }
    for (const auto& [candidate, at] : addresses) {
      if (!is_underlay_address(at.address)) continue;
      if (local != nullptr && local->address.prefix >= at.address.prefix) continue;
      local = &at;
      stanza = candidate;
    }
    if (stanza == nullptr) stanza = named;
    if (stanza == nullptr) return;
    if (local != nullptr)
      add("vxlan", "vxlan-local-tunnelip", to_text(local->address.ip), local->origin);
    import_underlay_stanza(*stanza);
  }

  void import_underlay_stanza(const Stanza& stanza) {
    const VlanOf vlan = vlan_of(stanza);
    const Stanza* raw = interfaces_.find(vlan.raw_device);
    add("underlay", "device", vlan.raw_device, stanza.origin);
    // An explicit device with no vlan is untagged there: the stanza's VID is another device's.
    if (vlan.vid != 0 && (request_.device == nullptr || request_.device->value == vlan.raw_device))
      add("underlay", "vlan", std::to_string(vlan.vid), stanza.origin);
    const Attribute* mtu = stanza.find("mtu");
    add("underlay", "mtu", mtu != nullptr || raw == nullptr ? mtu : raw->find("mtu"));
    if (raw != nullptr && raw->find("bridge-ports") != nullptr && request_.device == nullptr)
      tell(Severity::kWarning, stanza.origin, "device",
           fmt::format("{} is a bridge: name the NIC below it by device = in [underlay]",
                       raw->name));
  }

  const Stanza* underlay_by_name() const {
    if (request_.device != nullptr) {
      std::uint16_t vid = 0;
      const bool is_any =
          request_.vlan == nullptr || !read_number(request_.vlan->value, 1, kMaxVid, vid).empty();
      const Stanza* found = nullptr;
      for (const Stanza& stanza : interfaces_.stanzas) {
        const VlanOf vlan = vlan_of(stanza);
        if (vlan.raw_device == request_.device->value && !is_any && vlan.vid == vid)
          found = &stanza;
      }
      return found;
    }
    if (vxlan_ == nullptr) return nullptr;
    const Attribute* physdev = vxlan_->find("vxlan-physdev");
    return physdev == nullptr ? nullptr : interfaces_.find(physdev->value);
  }

  // Explicit words first: they win when read, too.
  bool is_underlay_address(const InterfaceAddress& address) const {
    IpAddress ip;
    const Entry* local = request_.local;
    std::vector<Entry> remotes = request_.remotes;
    for (const Entry& entry : result_.entries) {
      if (entry.key == "vxlan-local-tunnelip" && local == nullptr) local = &entry;
      if (entry.key == "vxlan-remoteip" && request_.remotes.empty()) remotes.push_back(entry);
    }
    if (local != nullptr) return read_ip(local->value, ip).empty() && ip == address.ip;
    return std::any_of(remotes.begin(), remotes.end(), [&](const Entry& remote) {
      return read_ip(remote.value, ip).empty() && is_in_subnet(ip, address);
    });
  }

  const Interfaces& interfaces_;
  const ImportRequest& request_;
  ImportResult result_;
  const Stanza* vxlan_ = nullptr;
  const Stanza* bridge_ = nullptr;
};

}  // namespace

ImportResult import_stanzas(const Interfaces& interfaces, const ImportRequest& request) {
  return Importer(interfaces, request).run();
}

}  // namespace vx::config
