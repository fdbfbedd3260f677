// SPDX-License-Identifier: Apache-2.0
// JSON results of api.h as the text that vxctl prints. Pure: JSON in, text out; any thread.
//
// Every function takes what the server sent without trusting its shape: a field that is absent or of another type is left
// out. Each text ends with a newline or is empty; lines have no trailing space.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "control/api.h"

namespace vx::control {

struct FormatOptions {
  bool statistics = false;  // -s
};

// The text of the result of `object` `command`; changes that succeed have none.
[[nodiscard]] std::string format_result(std::string_view object, std::string_view command,
                                        const Json& result, const FormatOptions& options);

// One line of `bridge fdb show`, without newline: MAC dev IF [dst IP] [vlan V] [used A/B] [flags] [master M] [state].
[[nodiscard]] std::string format_fdb_entry(const Json& entry, const FormatOptions& options);
// One line of `vxctl fdb monitor`: the entry, behind "Deleted", "Expired", "Moved" or "Refused" unless it was added.
[[nodiscard]] std::string format_fdb_event(const Json& event, const FormatOptions& options);

// Rates per port from two results of `stats show` taken `seconds` apart. A port that is new counts from zero; one whose
// counters went back (the dataplane restarted) too.
[[nodiscard]] std::string format_rates(const Json& before, const Json& after, double seconds);

// The parts that have files of their own.
[[nodiscard]] std::string format_stats(const Json& result, const FormatOptions& options);
[[nodiscard]] std::string format_drops(const Json& result, const FormatOptions& options);
[[nodiscard]] std::string format_status(const Json& result);
[[nodiscard]] std::string format_mtu(const Json& result);
[[nodiscard]] std::string format_probe(const Json& result);

// ---- for these files: reading JSON without trust, and tables ----
namespace format {

// Text of a scalar; empty for null, absent, arrays and objects.
[[nodiscard]] std::string text(const Json& object, std::string_view key);
[[nodiscard]] std::uint64_t number(const Json& object,
                                   std::string_view key);  // 0 when absent or not a number
[[nodiscard]] const Json& child(const Json& object, std::string_view key);  // null when absent

// "12s", "3m05s", "2h10m", "4d01h".
[[nodiscard]] std::string duration(std::uint64_t seconds);

// Rows of cells to lines: columns as wide as their widest cell, two spaces between, numbers to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  [[nodiscard]] bool empty() const { return rows_.size() == 1; }
  [[nodiscard]] std::string str() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace format
}  // namespace vx::control
