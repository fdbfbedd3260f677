// SPDX-License-Identifier: Apache-2.0
// /etc/network/interfaces as ifupdown2 reads it: stanzas with their attributes and lines. Reads
// files, nothing else of the machine. What the attributes mean for a tunnel is stanza_import's.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "config/host_facts.h"
#include "config/settings.h"

namespace vx::config {

struct Attribute {
  std::string key;    // '-' for '_'
  std::string value;  // blanks around it removed, continuation lines joined
  Origin origin;
};

// `iface NAME ...`; several stanzas of one name are one, as for ifupdown2.
struct Stanza {
  std::string name;
  Origin origin;
  std::vector<Attribute> attributes;

  [[nodiscard]] const Attribute* find(std::string_view key) const;  // the last one wins; null: none
  [[nodiscard]] std::vector<const Attribute*> find_all(std::string_view key) const;
};

struct Interfaces {
  std::vector<Stanza> stanzas;  // in the order of their first appearance
  std::vector<Problem> problems;
  std::set<std::string> files;  // already read, by real path: a file named twice is read once

  [[nodiscard]] const Stanza* find(std::string_view name) const;
};

// Adds the stanzas of `path` and of what it sources (globs; relative to the file that says so).
// `asked_at` is where the path was given; a file that cannot be read is an error there under `key`,
// but one found by a pattern only a warning.
void read_interfaces(const std::string& path, const Origin& asked_at, const std::string& key,
                     Interfaces& out);

struct AddressAt {
  InterfaceAddress address;
  Origin origin;
};
// `address A/N`, or `address A` and `netmask M`; wrong ones are left out and told.
[[nodiscard]] std::vector<AddressAt> addresses_of(const Stanza& stanza,
                                                  std::vector<Problem>& problems);

struct VlanOf {
  std::string raw_device;  // the stanza's own name when it is no 802.1Q device
  std::uint16_t vid = 0;
};
// By `vlan-raw-device` with `vlan-id` or a number at the end of the name, else by a name NIC.VID.
[[nodiscard]] VlanOf vlan_of(const Stanza& stanza);

}  // namespace vx::config
