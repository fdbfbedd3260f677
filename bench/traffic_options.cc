// SPDX-License-Identifier: Apache-2.0
#include "bench/traffic_options.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <sched.h>

#include <boost/program_options.hpp>
#include <charconv>
#include <cstdio>
#include <sstream>

namespace vx::traffic {
namespace {

namespace po = boost::program_options;

constexpr double kMostSeconds = 60, kMostSearchSeconds = 30;
constexpr double kMostPps = 100e6;

po::options_description description() {
  po::options_description options("Options");
  const auto text = [](const char* name) { return po::value<std::string>()->value_name(name); };
  options.add_options()
      ("from", text("NETNS:DEV"), "where frames are sent; NETNS as of `ip netns`, a path, or empty: our own")
      ("to", text("NETNS:DEV"), "where they are to arrive")
      ("size", text("BYTES")->default_value("60"), "of the Ethernet frame as a guest sends it: tag included, FCS and VXLAN not")
      ("macs", text("N")->default_value("1"), "destination MACs; there are at least as many flows")
      ("source-macs", text("N")->default_value("1"), "source MACs")
      ("mac-set", text("N")->default_value("0"), "MACs of another set, 0 to 15: runs side by side do not take each other's")
      ("flows", text("N")->default_value("1"), "UDP flows; each frame is of the next, in a random order that repeats")
      ("vlan", text("VID"), "frames are tagged")
      ("rate", text("PPS")->default_value("0"), "frames a second; 0: as many as the sender can")
      ("seconds", text("S")->default_value("2"), "at most 60")
      ("warmup", text("S")->default_value("0.2"), "sent before and not counted")
      ("sender", text("KIND")->default_value("af_xdp"), "af_xdp, af_packet or xdp_live")
      ("outer", text("SPEC"), "VNI,SRC-IP,DST-IP,SRC-MAC,DST-MAC[,PORT]: sends VXLAN packets, from the underlay")
      ("outer-at-sink", text("SPEC"), "VNI, or as --outer: expects VXLAN packets; the longer form is what --to announces with")
      ("no-announce", po::bool_switch(), "do not teach MACs before")
      ("announce", po::bool_switch(), "teach MACs and do nothing else")
      ("announce-rate", text("PPS")->default_value("10000"), "of the frames that teach MACs")
      ("learn", text("PPS"), "every frame has a source MAC never used before; the rate, instead of --rate")
      ("search", text("LOSS"), "the highest rate with at most this share of frames lost (RFC 2544), 0 to 0.5")
      ("search-seconds", text("S")->default_value("2"), "of a trial")
      ("cpu-send", text("N"), "CPU of the sender")
      ("cpu-receive", text("N"), "CPU of the sink: threaded NAPI of --to")
      ("json", po::bool_switch(), "the result in one line")
      ("help", po::bool_switch(), "this text");
  return options;
}

template <typename Number>
Number number(const std::string& name, const std::string& text, Number least, Number most) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !(value >= least && value <= most))
    throw UsageError(fmt::format("--{} {}: expected {} to {}", name, text, least, most));
  return value;
}

Place place(const std::string& name, const po::variables_map& values) {
  if (values.count(name) == 0) throw UsageError(fmt::format("--{} is missing", name));
  const auto& text = values[name].as<std::string>();
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || colon + 1 == text.size()) throw UsageError(fmt::format("--{} {}: expected NETNS:DEV", name, text));
  return {text.substr(0, colon), text.substr(colon + 1)};
}

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words(1);
  for (const char c : text) {
    if (c == ',') words.emplace_back();
    else words.back().push_back(c);
  }
  return words;
}

IpAddress ipv4(const std::string& name, const std::string& text) {
  in_addr address{};
  if (::inet_pton(AF_INET, text.c_str(), &address) != 1) throw UsageError(fmt::format("--{}: {}: expected an IPv4 address", name, text));
  return IpAddress::from_v4_bytes(&address);
}

MacAddress mac(const std::string& name, const std::string& text) {
  MacAddress address;
  auto& b = address.bytes;
  int end = 0;
  if (std::sscanf(text.c_str(), "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) != 6 ||
      static_cast<std::size_t>(end) != text.size())
    throw UsageError(fmt::format("--{}: {}: expected a MAC address", name, text));
  return address;
}

Outer outer(const std::string& name, const std::string& text) {
  const auto words = words_of(text);
  if (words.size() != 5 && words.size() != 6)
    throw UsageError(fmt::format("--{} {}: expected VNI,SRC-IP,DST-IP,SRC-MAC,DST-MAC[,PORT]", name, text));
  Outer value{number<std::uint32_t>(name, words[0], 0, 0xffffff), ipv4(name, words[1]), ipv4(name, words[2]), mac(name, words[3]),
              mac(name, words[4]), kVxlanPort};
  if (words.size() == 6) value.port = number<std::uint16_t>(name, words[5], 1, 65535);
  return value;
}

SenderKind sender(const std::string& text) {
  if (text == "af_xdp") return SenderKind::kAfXdp;
  if (text == "af_packet") return SenderKind::kAfPacket;
  if (text == "xdp_live") return SenderKind::kXdpLive;
  throw UsageError(fmt::format("--sender {}: expected af_xdp, af_packet or xdp_live", text));
}

int cpu(const std::string& name, const po::variables_map& values) {
  if (values.count(name) == 0) return -1;
  const auto& text = values[name].as<std::string>();
  const int value = number<int>(name, text, 0, CPU_SETSIZE - 1);
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0 && !CPU_ISSET(value, &set))
    throw UsageError(fmt::format("--{} {}: not a CPU that this process may use", name, text));
  return value;
}

FrameShape shape(const po::variables_map& values) {
  const auto text = [&](const char* name) { return values[name].as<std::string>(); };
  FrameShape shape;
  if (values.count("vlan") != 0) shape.vlan = number<std::uint16_t>("vlan", text("vlan"), 1, 4094);
  shape.size = number<unsigned>("size", text("size"), kLeastBytes + (shape.vlan != 0 ? kVlanTagBytes : 0), kMostBytes);
  shape.macs = number<std::uint32_t>("macs", text("macs"), 1, VXT_MAX_FLOWS);
  shape.source_macs = number<std::uint32_t>("source-macs", text("source-macs"), 1, VXT_MAX_FLOWS);
  shape.first_mac = number<std::uint32_t>("mac-set", text("mac-set"), 0, 15) << 20;
  shape.flows = number<std::uint32_t>("flows", text("flows"), 1, VXT_MAX_FLOWS);
  if (values.count("outer") != 0) shape.outer = outer("outer", text("outer"));
  return shape;
}

po::variables_map stored(int argc, const char* const* argv) {
  po::variables_map values;
  try {
    // No guessing: an abbreviation that works today is an ambiguity tomorrow.
    const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(argc, argv).options(description()).positional({}).style(style).run(), values);
  } catch (const po::error& error) {
    throw UsageError(error.what());
  }
  return values;
}

}  // namespace

std::string help_text() {
  std::ostringstream text;
  text << "Usage: vxplane-traffic --from NETNS:DEV --to NETNS:DEV [OPTION...]\n"
          "Sends numbered frames into one netdev, counts them at another and prints one JSON object. SIGINT and SIGTERM end it early.\n\n"
       << description();
  return text.str();
}

TrafficOptions parse_options(int argc, const char* const* argv) {
  const po::variables_map values = stored(argc, argv);
  const auto text = [&](const char* name) { return values[name].as<std::string>(); };
  TrafficOptions options;
  options.show_help = values["help"].as<bool>();
  if (options.show_help) return options;
  options.from = place("from", values);
  options.to = place("to", values);
  options.shape = shape(values);
  options.sender = sender(text("sender"));
  options.rate = number<double>("rate", text("rate"), 0, kMostPps);
  options.seconds = number<double>("seconds", text("seconds"), 0.01, kMostSeconds);
  options.warmup = number<double>("warmup", text("warmup"), 0, kMostSeconds);
  options.announce_rate = number<double>("announce-rate", text("announce-rate"), 1, kMostPps);
  if (values.count("outer-at-sink") != 0) {
    const std::string spec = text("outer-at-sink");
    if (spec.find(',') != std::string::npos) options.sink_outer = outer("outer-at-sink", spec);
    options.sink_vni = options.sink_outer ? options.sink_outer->vni : number<std::uint32_t>("outer-at-sink", spec, 0, 0xffffff);
  }
  if (values.count("learn") != 0) options.learn = number<double>("learn", text("learn"), 1, kMostPps);
  if (values.count("search") != 0) options.search = number<double>("search", text("search"), 0, 0.5);
  options.search_seconds = number<double>("search-seconds", text("search-seconds"), 0.05, kMostSearchSeconds);
  options.is_announced = !values["no-announce"].as<bool>();
  options.is_announce_only = values["announce"].as<bool>();
  options.cpu_send = cpu("cpu-send", values);
  options.cpu_receive = cpu("cpu-receive", values);
  options.is_one_line = values["json"].as<bool>();
  if (options.search && options.learn) throw UsageError("--search and --learn: only one of them");
  if (options.search && options.rate != 0) throw UsageError("--search and --rate: only one of them");
  if (options.learn && options.rate != 0) throw UsageError("--learn and --rate: only one of them");
  if (options.is_announce_only && !options.is_announced) throw UsageError("--announce and --no-announce: only one of them");
  return options;
}

}  // namespace vx::traffic
