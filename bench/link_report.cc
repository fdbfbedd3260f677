// SPDX-License-Identifier: Apache-2.0
#include "bench/link_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

namespace vx::bench {
namespace {

std::string bytes_text(double bytes) { return bytes >= 1e9 ? fmt::format("{:.1f} GB", bytes / 1e9) : fmt::format("{:.1f} MB", bytes / 1e6); }

std::string time_text(double us) { return us >= 10'000 ? fmt::format("{:.1f} ms", us / 1000) : fmt::format("{:.0f} us", us); }

std::string echo_text(const EchoResult& echo) {
  if (echo.lost >= echo.sent) return "no answer";
  return fmt::format("{} / {} / {} / {}", time_text(echo.p50_us), time_text(echo.p90_us), time_text(echo.p99_us), time_text(echo.max_us));
}

std::string lost_text(const EchoResult& echo) { return fmt::format("{} of {} echoes lost", echo.lost, echo.sent); }

void warn_direction(std::vector<std::string>& out, const char* name, const Direction& way) {
  const MtuResult& mtu = way.mtu;
  if (!mtu.path_bytes)
    out.push_back(fmt::format("{}: no UDP probe passes in this direction", name));
  else if (mtu.is_short())
    out.push_back(fmt::format("{}: IP packets above {} bytes are lost, but the sender's interface has MTU {}: small pings work, large transfers hang", name,
                              *mtu.path_bytes, mtu.interface_bytes));
  if (way.udp && way.udp->socket_drops > 0)
    out.push_back(fmt::format("{}: {} of the lost packets reached the receiving host, whose socket was full: it is too slow for this rate, not the path", name,
                              way.udp->socket_drops));
  if (way.udp && way.udp->sent_rate < 0.95 * static_cast<double>(way.udp->asked_rate))
    out.push_back(fmt::format("{}: the sender managed {} of UDP only", name, rate_text(way.udp->sent_rate)));
  if (way.tcp && !way.tcp->is_whole) out.push_back(fmt::format("{}: the TCP stream hung: not all of it arrived within 2 s of its end", name));
}

using Cell = std::function<std::string(const Direction&)>;

struct Row {
  const char* title;
  Cell cell;
};

std::vector<Row> udp_rows() {
  const auto of = [](auto text) -> Cell { return [text](const Direction& way) { return way.udp ? text(*way.udp) : std::string("-"); }; };
  return {{"UDP packets", of([](const UdpResult& u) { return fmt::format("{} bytes at {}", u.packet_bytes, rate_text(static_cast<double>(u.asked_rate))); })},
          {"  arrived", of([](const UdpResult& u) { return rate_text(u.rate); })},
          {"  lost", of([](const UdpResult& u) { return fmt::format("{} of {} ({:.3g} %)", u.lost(), u.sent, u.lost_percent()); })},
          {"  duplicated, reordered", of([](const UdpResult& u) { return fmt::format("{}, {}", u.duplicated, u.reordered); })},
          {"  jitter", of([](const UdpResult& u) { return time_text(u.jitter_us); })},
          {"  round trip meanwhile", of([](const UdpResult& u) { return echo_text(u.loaded); })},
          {"  ", of([](const UdpResult& u) { return lost_text(u.loaded); })}};
}

std::vector<Row> tcp_rows() {
  const auto of = [](auto text) -> Cell { return [text](const Direction& way) { return way.tcp ? text(*way.tcp) : std::string("-"); }; };
  return {{"TCP stream", of([](const TcpResult& t) { return fmt::format("paced at {}", rate_text(static_cast<double>(t.pace))); })},
          {"  payload arrived", of([](const TcpResult& t) { return fmt::format("{}, {}", rate_text(t.rate), bytes_text(static_cast<double>(t.bytes))); })},
          {"  retransmitted", of([](const TcpResult& t) { return fmt::format("{} packets", t.retransmits); })},
          {"  round trip meanwhile", of([](const TcpResult& t) { return echo_text(t.loaded); })},
          {"  ", of([](const TcpResult& t) { return lost_text(t.loaded); })}};
}

std::string mtu_text(const Direction& way) {
  const std::string path = way.mtu.path_bytes ? fmt::format("{} bytes", *way.mtu.path_bytes) : "nothing passes";
  return fmt::format("{} (interface {})", path, way.mtu.interface_bytes);
}

Json echo_json(const EchoResult& echo) {
  Json out = {{"sent_packets", echo.sent}, {"lost_packets", echo.lost}};
  const auto put = [&](const char* key, double us) { out[key] = echo.lost >= echo.sent ? Json(nullptr) : Json(us); };
  put("p50_us", echo.p50_us);
  put("p90_us", echo.p90_us);
  put("p99_us", echo.p99_us);
  put("max_us", echo.max_us);
  return out;
}

Json direction_json(const Direction& way) {
  Json out;
  out["path_mtu_bytes"] = way.mtu.path_bytes ? Json(*way.mtu.path_bytes) : Json(nullptr);
  out["interface_mtu_bytes"] = way.mtu.interface_bytes;
  if (const auto& u = way.udp)
    out["udp"] = {{"packet_bytes", u->packet_bytes}, {"asked_bits_per_second", u->asked_rate}, {"sent_bits_per_second", u->sent_rate},
                  {"received_bits_per_second", u->rate}, {"sent_packets", u->sent}, {"received_packets", u->received}, {"lost_packets", u->lost()},
                  {"lost_percent", u->lost_percent()}, {"duplicated_packets", u->duplicated}, {"reordered_packets", u->reordered},
                  {"receiver_socket_dropped_packets", u->socket_drops}, {"jitter_us", u->jitter_us}, {"round_trip_under_load", echo_json(u->loaded)}};
  if (const auto& t = way.tcp)
    out["tcp"] = {{"pace_bits_per_second", t->pace}, {"payload_bits_per_second", t->rate}, {"payload_bytes", t->bytes}, {"seconds", t->seconds},
                  {"retransmitted_packets", t->retransmits}, {"complete", t->is_whole}, {"round_trip_under_load", echo_json(t->loaded)}};
  return out;
}

}  // namespace

std::vector<std::string> warnings_of(const Report& report) {
  std::vector<std::string> out;
  if (report.up) warn_direction(out, "up", *report.up);
  if (report.down) warn_direction(out, "down", *report.down);
  return out;
}

std::string plan_text(const Report& report) {
  return fmt::format("{} to {} port {}: at most {} in all, {}{}, about {} s", report.local, report.remote, report.port,
                     bytes_text(static_cast<double>(report.planned_bytes)), rate_text(static_cast<double>(report.rate)),
                     report.is_unlimited ? " of UDP, TCP without a limit but the server's (--unlimited)" : "", report.planned_seconds);
}

std::string to_text(const Report& report) {
  std::string out = fmt::format("round trip, idle (p50 / p90 / p99 / max)  {}, {}\n\n", echo_text(report.idle), lost_text(report.idle));
  std::vector<std::pair<const Direction*, std::string>> ways;
  if (report.up) ways.emplace_back(&*report.up, "up, to " + report.remote);
  if (report.down) ways.emplace_back(&*report.down, "down, from " + report.remote);
  std::vector<Row> rows = {{"path MTU, IP packet", mtu_text}};
  const auto has = [&](auto member) { return std::any_of(ways.begin(), ways.end(), [&](const auto& way) { return (way.first->*member).has_value(); }); };
  const auto append = [&](std::vector<Row> more) { rows.insert(rows.end(), more.begin(), more.end()); };
  if (has(&Direction::udp)) append(udp_rows());
  if (has(&Direction::tcp)) append(tcp_rows());

  std::size_t width = ways.front().second.size();
  for (const Row& row : rows) width = std::max(width, row.cell(*ways.front().first).size());
  const auto line = [&](const std::string& title, const std::function<std::string(std::size_t)>& cell) {
    std::string text = fmt::format("{:<24}{:<{}}", title, cell(0), width);
    if (ways.size() > 1) text += "  " + cell(1);
    out += text.substr(0, text.find_last_not_of(' ') + 1) + '\n';
  };
  line("", [&](std::size_t i) { return ways[i].second; });
  for (const Row& row : rows) line(row.title, [&](std::size_t i) { return row.cell(*ways[i].first); });
  for (const std::string& warning : warnings_of(report)) out += "\nwarning: " + warning + '\n';
  return out;
}

Json to_json(const Report& report) {
  Json out = {{"program", "vxplane-bench"}, {"version", VXPLANE_VERSION}, {"local", report.local}, {"remote", report.remote}, {"port", report.port},
              {"rate_bits_per_second", report.rate}, {"unlimited_tcp", report.is_unlimited}, {"seconds", report.seconds},
              {"planned_bytes", report.planned_bytes}, {"round_trip_idle", echo_json(report.idle)}};
  if (report.up) out["up"] = direction_json(*report.up);
  if (report.down) out["down"] = direction_json(*report.down);
  out["warnings"] = warnings_of(report);
  return out;
}

}  // namespace vx::bench
