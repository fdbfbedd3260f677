// SPDX-License-Identifier: Apache-2.0
// The grammar of values, once for INI files, port lines and imported stanzas, reading and printing.
//
// Every read_* puts the value into `out` and returns an empty string, or leaves `out` as it was and
// returns a sentence saying what is wrong. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/host_facts.h"
#include "config/settings.h"

namespace vx::config {

using Complaint = std::string;  // empty: fine

[[nodiscard]] Complaint read_uint(std::string_view text, std::uint64_t min, std::uint64_t max,
                                  std::uint64_t& out);

template <typename Number>
[[nodiscard]] Complaint read_number(std::string_view text, std::uint64_t min, std::uint64_t max,
                                    Number& out) {
  std::uint64_t value = 0;
  Complaint complaint = read_uint(text, min, max, value);
  if (complaint.empty()) out = static_cast<Number>(value);
  return complaint;
}

[[nodiscard]] Complaint read_bool(std::string_view text,
                                  bool& out);  // yes no on off true false 1 0
[[nodiscard]] Complaint read_ip(std::string_view text, IpAddress& out);  // no prefix, no scope
[[nodiscard]] Complaint read_vtep_ip(std::string_view text,
                                     IpAddress& out);  // and one that a VTEP can have
[[nodiscard]] Complaint read_vids(std::string_view text, VidSet& out);  // "2-10 20,30"; 1-4094
[[nodiscard]] Complaint read_pvid(std::string_view text, std::uint16_t& out);  // 1-4094 or none
[[nodiscard]] Complaint read_netdev_name(std::string_view text,
                                         std::string& out);  // what Linux accepts
// Known drivers that this version has. `devargs` is set for dpdk:DEVARGS, else cleared.
[[nodiscard]] Complaint read_driver(std::string_view text, Driver& out, std::string& devargs);
// "A.B.C.D/N", "X::Y/N", or an address without a prefix (then `prefix` is the whole address).
[[nodiscard]] Complaint read_interface_address(std::string_view text, InterfaceAddress& out);
// What follows "netmask": bits, or 255.255.255.0.
[[nodiscard]] Complaint read_netmask(std::string_view text, InterfaceAddress& address);

[[nodiscard]] std::string to_text(bool value);
[[nodiscard]] std::string to_text(const IpAddress& ip);
[[nodiscard]] std::string to_text(const VidSet& vids, char separator);  // ranges; empty set: ""
[[nodiscard]] std::string pvid_text(std::uint16_t pvid);
[[nodiscard]] std::string driver_text(Driver driver, const std::string& devargs);

// Printable ASCII without blanks and '#', at least one: what an INI file can say and a line can show.
[[nodiscard]] bool is_plain_word(std::string_view text);
[[nodiscard]] bool is_in_subnet(const IpAddress& ip, const InterfaceAddress& subnet);

[[nodiscard]] std::vector<std::string> split_words(std::string_view text,
                                                   std::string_view separators = " \t\r");
[[nodiscard]] std::string dashed(std::string_view key);  // '_' is read as '-'
// The known word nearest to `word`, for "did you mean"; empty when none is near.
[[nodiscard]] std::string nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace vx::config
