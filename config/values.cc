// SPDX-License-Identifier: Apache-2.0
// Values of the configuration: text to number, address, VLAN set and back.
#include "config/values.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>

namespace vx::config {
namespace {

constexpr std::size_t kMaxNetdevName = 15;  // IFNAMSIZ less its NUL

struct DriverName {
  Driver driver;
  std::string_view name;
  bool is_available;  // false: named by the design, not in this version
};
constexpr DriverName kDrivers[] = {
    {Driver::kAfXdp, "af_xdp", true},
    {Driver::kUdp, "udp", true},
    {Driver::kTap, "tap", true},
    {Driver::kNetdev, "netdev", true},
    {Driver::kVhostUser, "vhost-user", false},
};
constexpr std::string_view kDpdkPrefix = "dpdk:";

}  // namespace

Complaint read_uint(std::string_view text, std::uint64_t min, std::uint64_t max,
                    std::uint64_t& out) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value < min ||
      value > max)
    return fmt::format("'{}' is not a whole number from {} to {}", text, min, max);
  out = value;
  return {};
}

Complaint read_bool(std::string_view text, bool& out) {
  for (const std::string_view word : {"yes", "on", "true", "1"})
    if (text == word) return out = true, Complaint{};
  for (const std::string_view word : {"no", "off", "false", "0"})
    if (text == word) return out = false, Complaint{};
  return fmt::format("'{}' is neither yes nor no", text);
}

Complaint read_ip(std::string_view text, IpAddress& out) {
  const std::string terminated(text);
  std::uint8_t bytes[16];
  if (inet_pton(AF_INET, terminated.c_str(), bytes) == 1) {
    out = IpAddress::from_v4_bytes(bytes);
  } else if (inet_pton(AF_INET6, terminated.c_str(), bytes) == 1) {
    out = IpAddress::from_v6_bytes(bytes);
  } else {
    return fmt::format("'{}' is not an IPv4 or IPv6 address", text);
  }
  return {};
}

Complaint read_vtep_ip(std::string_view text, IpAddress& out) {
  IpAddress ip;
  if (Complaint complaint = read_ip(text, ip); !complaint.empty()) return complaint;
  if (ip.is_unspecified()) return fmt::format("'{}' is no host's address", text);
  const std::uint8_t first = ip.is_v4() ? *ip.v4_bytes() : ip.bytes[0];
  const bool is_group = ip.is_v4() ? (first & 0xf0) == 0xe0 : first == 0xff;
  if (is_group)
    return fmt::format(
        "'{}' is a multicast group: name each VTEP instead, flooding replicates to them", text);
  if (ip == IpAddress::v4(255, 255, 255, 255))
    return fmt::format("'{}' is a broadcast address", text);
  if (!ip.is_v4() && first == 0xfe && (ip.bytes[1] & 0xc0) == 0x80)
    return fmt::format("'{}' is link-local: use an address that needs no interface beside it",
                       text);
  out = ip;
  return {};
}

Complaint read_vids(std::string_view text, VidSet& out) {
  VidSet vids;
  for (const std::string& word : split_words(text, " \t\r,")) {
    const std::size_t dash = word.find('-');
    std::uint16_t first = 0, last = 0;
    Complaint complaint = read_number(word.substr(0, dash), 1, kMaxVid, first);
    if (complaint.empty() && dash != std::string::npos)
      complaint = read_number(word.substr(dash + 1), 1, kMaxVid, last);
    if (!complaint.empty()) return fmt::format("VLAN list '{}': {}", text, complaint);
    if (dash == std::string::npos) last = first;
    if (last < first) return fmt::format("VLAN list '{}': {} runs backwards", text, word);
    vids.insert_range(first, last);
  }
  if (vids.is_empty()) return "is an empty VLAN list";
  out = vids;
  return {};
}

Complaint read_pvid(std::string_view text, std::uint16_t& out) {
  if (text == "none") return out = kNoPvid, Complaint{};
  Complaint complaint = read_number(text, 1, kMaxVid, out);
  return complaint.empty() ? complaint : complaint + ", nor none";
}

Complaint read_netdev_name(std::string_view text, std::string& out) {
  if (!is_plain_word(text) || text.size() > kMaxNetdevName ||
      text.find_first_of("/:*?[]=") != std::string_view::npos || text == "." || text == "..")
    return fmt::format(
        "'{}' cannot be a network device's name (1 to {} characters, no blank, none of / : * ? [ ] "
        "= #)",
        text, kMaxNetdevName);
  out = text;
  return {};
}

bool is_plain_word(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](char c) { return c > ' ' && c < 0x7f && c != '#'; });
}

Complaint read_driver(std::string_view text, Driver& out, std::string& devargs) {
  if (text.starts_with(kDpdkPrefix)) {
    if (text.size() == kDpdkPrefix.size())
      return "dpdk: needs DEVARGS behind it, e.g. dpdk:0000:01:00.0 or dpdk:net_null0";
    if (!is_plain_word(text)) return "DEVARGS have no blanks, no # and ASCII characters only";
    out = Driver::kDpdk;
    devargs = text.substr(kDpdkPrefix.size());
    return {};
  }
  for (const DriverName& known : kDrivers) {
    if (known.name != text && dashed(known.name) != dashed(text)) continue;
    if (!known.is_available) return fmt::format("driver {} is not in this version", known.name);
    out = known.driver;
    devargs.clear();
    return {};
  }
  return fmt::format("'{}' is not a driver (af_xdp, udp, tap, netdev, dpdk:DEVARGS)", text);
}

Complaint read_interface_address(std::string_view text, InterfaceAddress& out) {
  const std::size_t slash = text.find('/');
  InterfaceAddress address;
  if (Complaint complaint = read_ip(text.substr(0, slash), address.ip); !complaint.empty())
    return complaint;
  address.prefix = address.ip.is_v4() ? 32 : 128;
  if (slash != std::string_view::npos)
    if (Complaint complaint = read_netmask(text.substr(slash + 1), address); !complaint.empty())
      return complaint;
  out = address;
  return {};
}

Complaint read_netmask(std::string_view text, InterfaceAddress& address) {
  const bool is_v4 = address.ip.is_v4();
  IpAddress mask;
  if (!is_v4 || text.find('.') == std::string_view::npos)
    return read_number(text, 0, is_v4 ? 32 : 128, address.prefix);
  if (Complaint complaint = read_ip(text, mask); !complaint.empty()) return complaint;
  const std::uint8_t* b = mask.v4_bytes();
  const std::uint32_t bits =
      std::uint32_t{b[0]} << 24 | std::uint32_t{b[1]} << 16 | std::uint32_t{b[2]} << 8 | b[3];
  const auto ones = static_cast<unsigned>(__builtin_popcount(bits));
  if (ones != 0 && bits != ~std::uint32_t{0} << (32 - ones))
    return fmt::format("'{}' is not a netmask", text);
  address.prefix = ones;
  return {};
}

std::string to_text(bool value) { return value ? "yes" : "no"; }

std::string to_text(const IpAddress& ip) {
  char text[INET6_ADDRSTRLEN];
  if (ip.is_v4())
    inet_ntop(AF_INET, ip.v4_bytes(), text, sizeof text);
  else
    inet_ntop(AF_INET6, ip.bytes.data(), text, sizeof text);
  return text;
}

std::string to_text(const VidSet& vids, char separator) {
  std::string text;
  for (std::uint16_t vid = 1; vid <= kMaxVid; ++vid) {
    if (!vids.contains(vid)) continue;
    const std::uint16_t first = vid;
    while (vid < kMaxVid && vids.contains(static_cast<std::uint16_t>(vid + 1))) ++vid;
    if (!text.empty()) text += separator;
    text += first == vid ? fmt::format("{}", vid) : fmt::format("{}-{}", first, vid);
  }
  return text;
}

std::string pvid_text(std::uint16_t pvid) {
  return pvid == kNoPvid ? "none" : std::to_string(pvid);
}

std::string driver_text(Driver driver, const std::string& devargs) {
  if (driver == Driver::kDpdk) return std::string(kDpdkPrefix) + devargs;
  for (const DriverName& known : kDrivers)
    if (known.driver == driver) return std::string(known.name);
  return {};
}

bool is_in_subnet(const IpAddress& ip, const InterfaceAddress& subnet) {
  if (ip.is_v4() != subnet.ip.is_v4()) return false;
  unsigned bits = subnet.prefix + (ip.is_v4() ? 96 : 0);  // IPv4 sits in the last 4 of 16 bytes
  for (std::size_t i = 0; i < 16 && bits > 0; ++i) {
    const unsigned here = std::min(bits, 8u);
    const auto mask = static_cast<std::uint8_t>(0xff00u >> here);
    if (((ip.bytes[i] ^ subnet.ip.bytes[i]) & mask) != 0) return false;
    bits -= here;
  }
  return true;
}

std::vector<std::string> split_words(std::string_view text, std::string_view separators) {
  std::vector<std::string> words;
  while (true) {
    const std::size_t begin = text.find_first_not_of(separators);
    if (begin == std::string_view::npos) return words;
    text.remove_prefix(begin);
    const std::size_t length = std::min(text.find_first_of(separators), text.size());
    words.emplace_back(text.substr(0, length));
    text.remove_prefix(length);
  }
}

std::string dashed(std::string_view key) {
  std::string text(key);
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance =
      std::max<std::size_t>(2, word.size() / 3) + 1;  // further away is no typing error
  for (const std::string& candidate : known) {
    if (word.size() > 1 && candidate.ends_with("-" + std::string(word)))
      return candidate;                                  // "ttl" for "vxlan-ttl"
    std::vector<std::size_t> row(candidate.size() + 1);  // Levenshtein, one row at a time
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        const std::size_t substituted = diagonal + (word[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace vx::config
