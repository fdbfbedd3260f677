// SPDX-License-Identifier: Apache-2.0
#include "bench/link_options.h"

#include <fmt/format.h>

#include <boost/program_options.hpp>
#include <sstream>

namespace po = boost::program_options;

namespace vx::bench {
namespace {

constexpr const char* kUsage =
    "vxplane-bench server [--bind ADDR] [--port N] [--max-rate 1G] [--max-seconds 60] [--once]\n"
    "vxplane-bench client ADDR [--port N] [--rate 100M] [--seconds 5] [--size BYTES] [--direction both|up|down]\n"
    "                          [--tcp|--udp] [--unlimited] [-j]\n\n"
    "Measures the path between two hosts: path MTU, round trips, UDP loss and TCP throughput, each direction by itself.\n"
    "All rates are bits per second of IP packets as the two hosts send them (an overlay adds its own headers below).\n";

constexpr const char* kJsonHelp =
    "\nJSON: an object with rate_bits_per_second, seconds, planned_bytes, unlimited_tcp, round_trip_idle, up, down, warnings.\n"
    "  round_trip_*: sent_packets lost_packets p50_us p90_us p99_us max_us (null: nothing came back)\n"
    "  up, down:     path_mtu_bytes (null: nothing passes) interface_mtu_bytes udp tcp\n"
    "  udp: packet_bytes asked_/sent_/received_bits_per_second, sent_/received_/lost_/duplicated_/reordered_packets, lost_percent,\n"
    "       receiver_socket_dropped_packets jitter_us round_trip_under_load\n"
    "  tcp: pace_bits_per_second payload_bits_per_second payload_bytes seconds retransmitted_packets complete round_trip_under_load\n"
    "Exit status: 0 done, 1 the run could not be finished (one line on stderr), 2 usage.\n";

std::uint64_t rate_of(const po::variables_map& given, const char* key) {
  const std::string text = given[key].as<std::string>();
  const std::optional<std::uint64_t> rate = parse_rate(text);
  if (!rate) throw UsageError(fmt::format("--{}: {} is no rate from 10k to 1000G", key, printable(text)));
  return *rate;
}

unsigned number_of(const po::variables_map& given, const char* key, unsigned min, unsigned max) {
  const auto value = given[key].as<long>();
  if (value < static_cast<long>(min) || value > static_cast<long>(max)) throw UsageError(fmt::format("--{}: {} is not from {} to {}", key, value, min, max));
  return static_cast<unsigned>(value);
}

po::options_description common_options() {
  po::options_description options("Both");
  options.add_options()("bind", po::value<std::string>()->default_value("")->value_name("ADDR"), "the address of this host to use")(
      "port", po::value<long>()->default_value(kDefaultPort)->value_name("N"), "TCP and UDP port of the server")("version", "print the version")("help,h", "print this");
  return options;
}

po::options_description server_options() {
  po::options_description options("server");
  options.add_options()("max-rate", po::value<std::string>()->default_value("1G")->value_name("RATE"), "no client gets more, --unlimited or not")(
      "max-seconds", po::value<long>()->default_value(kMaxSeconds)->value_name("N"), "of a phase")("once", po::bool_switch(), "end after one client");
  return options;
}

po::options_description client_options() {
  po::options_description options("client");
  options.add_options()("rate", po::value<std::string>()->default_value("100M")->value_name("RATE"), "bits per second, with k, M or G")(
      "seconds", po::value<long>()->default_value(5)->value_name("N"), "of each phase, at most 60")(
      "size", po::value<long>()->value_name("BYTES"), "of UDP's IP packets (default: the path MTU of the direction)")(
      "direction", po::value<std::string>()->default_value("both")->value_name("D"), "both, up (to the server) or down")("tcp", po::bool_switch(), "no UDP flows")(
      "udp", po::bool_switch(), "no TCP streams")("unlimited", po::bool_switch(), "TCP as fast as it goes, up to the server's --max-rate")(
      "json,j", po::bool_switch(), "print the result as JSON");
  return options;
}

po::variables_map parse(const std::vector<std::string>& words, const po::options_description& options, int positions) {
  po::options_description all = options;
  all.add_options()("address", po::value<std::string>());
  po::positional_options_description positional;
  if (positions > 0) positional.add("address", positions);
  po::variables_map given;
  po::store(po::command_line_parser(words).options(all).positional(positional).style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing).run(), given);
  po::notify(given);
  return given;
}

void read_server(const std::vector<std::string>& words, Options& options) {
  const po::variables_map given = parse(words, server_options().add(common_options()), 0);
  options.mode = Options::Mode::kServer;
  options.server.bind = given["bind"].as<std::string>();
  options.server.port = static_cast<std::uint16_t>(number_of(given, "port", 1, 65535));
  options.server.limits = {rate_of(given, "max-rate"), number_of(given, "max-seconds", 1, kMaxSeconds)};
  options.server.is_once = given["once"].as<bool>();
}

void read_client(const std::vector<std::string>& words, Options& options) {
  const po::variables_map given = parse(words, client_options().add(common_options()), 1);
  options.mode = Options::Mode::kClient;
  ClientOptions& client = options.client;
  if (given.count("address") == 0) throw UsageError("client: the server's address is missing");
  client.address = given["address"].as<std::string>();
  client.bind = given["bind"].as<std::string>();
  client.port = static_cast<std::uint16_t>(number_of(given, "port", 1, 65535));
  client.rate = rate_of(given, "rate");
  client.seconds = number_of(given, "seconds", 1, kMaxSeconds);
  if (given.count("size") != 0) client.bytes = number_of(given, "size", kMinPacketBytes, kMaxIpBytes);
  const std::string direction = given["direction"].as<std::string>();
  if (direction != "both" && direction != "up" && direction != "down") throw UsageError("--direction: both, up or down");
  client.has_up = direction != "down";
  client.has_down = direction != "up";
  if (given["tcp"].as<bool>() && given["udp"].as<bool>()) throw UsageError("--tcp and --udp: one of them, or neither for both");
  client.has_udp = !given["tcp"].as<bool>();
  client.has_tcp = !given["udp"].as<bool>();
  client.is_unlimited = given["unlimited"].as<bool>();
  if (client.is_unlimited && !client.has_tcp) throw UsageError("--unlimited is for TCP: --udp is in its way");
  options.is_json = given["json"].as<bool>();
}

}  // namespace

Options read_options(const std::vector<std::string>& words) {
  Options options;
  for (const std::string& word : words) {
    if (word == "--version") options.text = "vxplane-bench " VXPLANE_VERSION "\n";
    if (word == "--help" || word == "-h" || word == "help") {
      std::ostringstream text;
      text << kUsage << '\n' << server_options() << '\n' << client_options() << '\n' << common_options() << kJsonHelp;
      options.text = text.str();
    }
    if (!options.text.empty()) return options;
  }
  if (words.empty() || (words[0] != "server" && words[0] != "client")) throw UsageError("`server`, or `client` with an address (see --help)");
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  try {
    words[0] == "server" ? read_server(rest, options) : read_client(rest, options);
  } catch (const po::error& error) {
    throw UsageError(fmt::format("{} (see --help)", error.what()));
  }
  return options;
}

}  // namespace vx::bench
