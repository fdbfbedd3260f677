// SPDX-License-Identifier: Apache-2.0
// Counters as tables of at most 80 columns (longer only when a name or number is).
#include <fmt/format.h>

#include <algorithm>

#include "control/format.h"
#include "dataplane/drop_reason.h"

namespace vx::control {
namespace {

using format::child;
using format::number;
using format::text;

constexpr std::size_t kColumns = 80;

std::string_view sentence_of(std::string_view reason) {
  const auto it = std::ranges::find(kDropReasonTexts, reason, &DropReasonText::name);
  return it == kDropReasonTexts.end() ? std::string_view{} : it->sentence;
}

// `sentence` behind `indent` columns that are already written, continued on lines of its own.
std::string wrap(std::string_view sentence, std::size_t indent) {
  std::string out;
  std::size_t column = indent;
  while (!sentence.empty()) {
    const auto end = std::min(sentence.find(' '), sentence.size());
    const std::string_view word = sentence.substr(0, end);
    if (column != indent && column + 1 + word.size() > kColumns) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
    } else if (column != indent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    sentence.remove_prefix(std::min(end + 1, sentence.size()));
  }
  return out;
}

std::string ports_table(const Json& ports) {
  format::Table table({"PORT", "DIR", "PACKETS", "BYTES", "DROPPED"});
  for (const auto& [name, counters] : ports.items()) {
    for (const std::string direction : {"rx", "tx"}) {
      table.add({name, direction, text(counters, direction + "_packets"),
                 text(counters, direction + "_bytes"), text(counters, direction + "_dropped")});
    }
  }
  return table.empty() ? "" : table.str();
}

std::string workers_table(const Json& workers) {
  format::Table table({"LCORE", "POLLS", "BUSY%", "PACKETS"});
  for (const auto& worker : workers) {
    const auto polls = number(worker, "polls");
    const double busy = polls == 0 ? 0.0
                                   : 100.0 * static_cast<double>(number(worker, "busy_polls")) /
                                         static_cast<double>(polls);
    table.add({text(worker, "lcore"), text(worker, "polls"), fmt::format("{:.1f}", busy),
               text(worker, "packets")});
  }
  return table.empty() ? "" : table.str();
}

// Counters by name, in one table; those that are zero only when `zeros`.
std::string names_table(std::string_view heading, const Json& counters, bool zeros) {
  format::Table table({std::string(heading), "PACKETS"});
  for (const auto& [name, value] : counters.items()) {
    if (zeros || number(counters, name) != 0) table.add({name, text(counters, name)});
  }
  return table.empty() ? "" : table.str();
}

void append_section(std::string& out, const std::string& section) {
  if (!out.empty() && !section.empty()) out += '\n';
  out += section;
}

std::uint64_t gain(const Json& before, const Json& after, std::string_view key) {
  const auto was = number(before, key), is = number(after, key);
  return is >= was ? is - was : is;
}

}  // namespace

std::string format_drops(const Json& result, const FormatOptions& options) {
  std::string out;
  std::size_t count_width = 5, name_width = 0;
  for (const auto& [name, value] : result.items()) {
    count_width = std::max(count_width, text(result, name).size());
    name_width = std::max(name_width, name.size());
  }
  for (const auto& [name, value] : result.items()) {
    if (!options.statistics && number(result, name) == 0) continue;
    const std::string begin =
        fmt::format("{:<{}}  {:>{}}", name, name_width, text(result, name), count_width);
    const std::string_view sentence = sentence_of(name);
    out += begin + (sentence.empty() ? "" : "  " + wrap(sentence, begin.size() + 2)) + '\n';
  }
  return out;
}

std::string format_stats(const Json& result, const FormatOptions& options) {
  std::string out;
  append_section(out, ports_table(child(result, "ports")));
  append_section(out, names_table("TOTAL", child(result, "totals"), true));
  append_section(out, names_table("DROPPED", child(result, "drops"), options.statistics));
  append_section(out, names_table("TOO BIG", child(result, "too_big"), options.statistics));
  append_section(out, names_table("FRAGMENTS", child(result, "fragments"), options.statistics));
  append_section(out, names_table("TAKE", child(result, "take"), options.statistics));
  append_section(out, names_table("XDP", child(result, "xdp"), options.statistics));
  append_section(out, workers_table(child(result, "workers")));
  return out;
}

std::string format_rates(const Json& before, const Json& after, double seconds) {
  format::Table table({"PORT", "RX-PPS", "RX-MBIT/S", "TX-PPS", "TX-MBIT/S", "DROPS/S"});
  const auto per_second = [seconds](std::uint64_t n) {
    return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
  };
  for (const auto& [name, now] : child(after, "ports").items()) {
    const Json& then = child(child(before, "ports"), name);
    const auto packets = [&](std::string_view key) {
      return fmt::format("{:.0f}", per_second(gain(then, now, key)));
    };
    const auto megabits = [&](std::string_view key) {
      return fmt::format("{:.1f}", per_second(gain(then, now, key)) * 8 / 1e6);
    };
    const auto drops = gain(then, now, "rx_dropped") + gain(then, now, "tx_dropped");
    table.add({name, packets("rx_packets"), megabits("rx_bytes"), packets("tx_packets"),
               megabits("tx_bytes"), fmt::format("{:.0f}", per_second(drops))});
  }
  std::uint64_t dropped = 0;
  for (const auto& [reason, value] : child(after, "drops").items())
    dropped += gain(child(before, "drops"), child(after, "drops"), reason);
  return (table.empty() ? "" : table.str()) +
         fmt::format("drops in all: {:.0f}/s\n", per_second(dropped));
}

}  // namespace vx::control
