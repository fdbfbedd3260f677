// SPDX-License-Identifier: Apache-2.0
// What a run found, as a table for a person and as JSON. JSON's keys stay what they are; units are in their names. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bench/link_protocol.h"

namespace vx::bench {

// Round trips, client to server and back.
struct EchoResult {
  std::uint64_t sent = 0, lost = 0;
  double p50_us = 0, p90_us = 0, p99_us = 0, max_us = 0;
};

struct MtuResult {
  unsigned interface_bytes = 0;               // of the sender's interface
  std::optional<unsigned> path_bytes;         // nothing passed: none
  [[nodiscard]] bool is_short() const { return !path_bytes || *path_bytes < interface_bytes; }
};

struct UdpResult {
  unsigned packet_bytes = 0;
  std::uint64_t asked_rate = 0, sent = 0, received = 0, duplicated = 0, reordered = 0, socket_drops = 0;
  double sent_rate = 0, rate = 0, jitter_us = 0;
  EchoResult loaded;
  [[nodiscard]] std::uint64_t lost() const { return sent > received ? sent - received : 0; }
  [[nodiscard]] double lost_percent() const { return sent == 0 ? 0 : 100.0 * static_cast<double>(lost()) / static_cast<double>(sent); }
};

struct TcpResult {
  std::uint64_t pace = 0, bytes = 0, retransmits = 0;
  double rate = 0, seconds = 0;  // of payload
  bool is_whole = false;         // all that was sent arrived within 2 s of the end
  EchoResult loaded;
};

struct Direction {
  MtuResult mtu;
  std::optional<UdpResult> udp;
  std::optional<TcpResult> tcp;
};

struct Report {
  std::string local, remote;
  std::uint16_t port = 0;
  std::uint64_t rate = 0, planned_bytes = 0;  // planned: at most, both directions
  unsigned seconds = 0, planned_seconds = 0;
  bool is_unlimited = false;
  EchoResult idle;
  std::optional<Direction> up, down;
};

// What a user should know before anything else; each a sentence.
[[nodiscard]] std::vector<std::string> warnings_of(const Report& report);
// The line before the load starts.
[[nodiscard]] std::string plan_text(const Report& report);
[[nodiscard]] std::string to_text(const Report& report);
[[nodiscard]] Json to_json(const Report& report);

}  // namespace vx::bench
