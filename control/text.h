// SPDX-License-Identifier: Apache-2.0
// Addresses as people write them. Pure; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "dataplane/wire.h"

namespace vx::control {

// "52:54:00:aa:bb:01", lower case.
[[nodiscard]] std::string format_mac(const MacAddress& mac);
// Six two-digit (or one-digit) hexadecimal bytes with ':' or '-'; empty when anything else.
[[nodiscard]] std::optional<MacAddress> parse_mac(std::string_view text);

// Dotted quad, or RFC 5952 for IPv6.
[[nodiscard]] std::string format_ip(const IpAddress& ip);
[[nodiscard]] std::optional<IpAddress> parse_ip(std::string_view text);

// A decimal number 0 to `max`, nothing around it; empty when anything else.
[[nodiscard]] std::optional<unsigned> parse_number(std::string_view text, unsigned max);

}  // namespace vx::control
