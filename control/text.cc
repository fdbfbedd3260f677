// SPDX-License-Identifier: Apache-2.0
#include "control/text.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>

namespace vx::control {

std::string format_mac(const MacAddress& mac) {
  const auto& b = mac.bytes;
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4], b[5]);
}

std::optional<MacAddress> parse_mac(std::string_view text) {
  MacAddress mac;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (std::size_t i = 0; i < 6; ++i) {
    if (i > 0) {
      if (at == end || (*at != ':' && *at != '-')) return std::nullopt;
      ++at;
    }
    const auto [next, error] = std::from_chars(at, end - at > 2 ? at + 2 : end, mac.bytes[i], 16);
    if (error != std::errc() || next == at) return std::nullopt;
    at = next;
  }
  if (at != end) return std::nullopt;
  return mac;
}

std::string format_ip(const IpAddress& ip) {
  char text[INET6_ADDRSTRLEN];
  if (ip.is_v4()) {
    inet_ntop(AF_INET, ip.v4_bytes(), text, sizeof text);
  } else {
    inet_ntop(AF_INET6, ip.bytes.data(), text, sizeof text);
  }
  return text;
}

std::optional<IpAddress> parse_ip(std::string_view text) {
  const std::string terminated(text);
  std::uint8_t bytes[16];
  if (inet_pton(AF_INET, terminated.c_str(), bytes) == 1) return IpAddress::from_v4_bytes(bytes);
  if (inet_pton(AF_INET6, terminated.c_str(), bytes) == 1) return IpAddress::from_v6_bytes(bytes);
  return std::nullopt;
}

std::optional<unsigned> parse_number(std::string_view text, unsigned max) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > max) return std::nullopt;
  return value;
}

}  // namespace vx::control
