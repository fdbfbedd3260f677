// SPDX-License-Identifier: Apache-2.0
#include "bench/link_protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

namespace vx::bench {
namespace {

void put(std::uint8_t* out, std::uint64_t value) noexcept {
  for (int i = 0; i < 8; ++i) out[i] = static_cast<std::uint8_t>(value >> (56 - 8 * i));
}
std::uint64_t get(const std::uint8_t* in) noexcept {
  std::uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | in[i];
  return value;
}

Json parse_object(std::string_view line, const char* who) {
  Json message = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!message.is_object() || !message.contains("type") || !message["type"].is_string())
    throw LinkError(fmt::format("{} sent a line that is no control message", who));
  return message;
}

std::string word_of(const Json& message, const char* key) {
  const auto found = message.find(key);
  if (found == message.end() || !found->is_string()) throw LinkError(fmt::format("a control message without a valid `{}`", key));
  return found->get<std::string>();
}

Flow flow_of(const Json& message) {
  Flow flow;
  const std::string transport = word_of(message, "transport"), direction = word_of(message, "direction");
  if (transport != "udp" && transport != "tcp") throw LinkError("a control message with an unknown transport");
  if (direction != "up" && direction != "down") throw LinkError("a control message with an unknown direction");
  flow.is_tcp = transport == "tcp";
  flow.is_down = direction == "down";
  flow.phase = static_cast<std::uint8_t>(number_of(message, "phase", 255));
  flow.rate = number_of(message, "rate", kMaxRate);
  flow.seconds = static_cast<unsigned>(number_of(message, "seconds", kMaxSeconds));
  if (!flow.is_tcp) flow.bytes = static_cast<unsigned>(number_of(message, "bytes", kMaxIpBytes));
  return flow;
}

}  // namespace

std::string to_hex(const Token& token) { return fmt::format("{:02x}", fmt::join(token, "")); }

std::optional<Token> token_from_hex(std::string_view text) {
  Token token;
  if (text.size() != 2 * token.size()) return std::nullopt;
  for (std::size_t i = 0; i < token.size(); ++i) {
    const char* at = text.data() + 2 * i;
    if (std::from_chars(at, at + 2, token[i], 16).ptr != at + 2) return std::nullopt;
  }
  return token;
}

void encode(const Token& token, const PacketHeader& header, std::uint8_t* out) noexcept {
  std::copy(token.begin(), token.end(), out);
  out[16] = static_cast<std::uint8_t>(header.kind);
  out[17] = header.phase;
  out[18] = out[19] = 0;
  put(out + 20, header.sequence);
  put(out + 28, header.sent_ns);
}

std::optional<PacketHeader> decode(const Token& token, std::span<const std::uint8_t> bytes) noexcept {
  if (bytes.size() < kHeaderBytes || !std::equal(token.begin(), token.end(), bytes.begin())) return std::nullopt;
  if (bytes[16] < static_cast<std::uint8_t>(PacketKind::kOpen) || bytes[16] > static_cast<std::uint8_t>(PacketKind::kData)) return std::nullopt;
  return PacketHeader{static_cast<PacketKind>(bytes[16]), bytes[17], get(bytes.data() + 20), get(bytes.data() + 28)};
}

Request parse_request(std::string_view line) {
  const Json message = parse_object(line, "the client");
  const std::string type = message["type"].get<std::string>();
  if (type == "hello") return Hello{static_cast<unsigned>(number_of(message, "version", 65535))};
  if (type == "data") {
    const std::optional<Token> token = token_from_hex(word_of(message, "token"));
    if (!token) throw LinkError("a control message without a valid `token`");
    return Data{*token};
  }
  if (type == "probe") return Probe{static_cast<unsigned>(number_of(message, "bytes", kMaxIpBytes))};
  if (type == "start") return Start{flow_of(message)};
  if (type == "sent") return Sent{number_of(message, "packets", kMaxPackets)};
  if (type == "bye") return Bye{};
  throw LinkError("a control message of unknown type");
}

Json to_json(const Flow& flow) {
  Json message = {{"type", "start"},     {"phase", flow.phase}, {"transport", flow.is_tcp ? "tcp" : "udp"}, {"direction", flow.is_down ? "down" : "up"},
                  {"rate", flow.rate}, {"seconds", flow.seconds}};
  if (!flow.is_tcp) message["bytes"] = flow.bytes;
  return message;
}

std::string refusal(const Flow& flow, const Limits& limits) {
  if (flow.rate < kMinRate) return "the rate is too low";
  if (flow.rate > limits.rate) return fmt::format("the server allows at most {} (its --max-rate)", rate_text(static_cast<double>(limits.rate)));
  if (flow.seconds < 1 || flow.seconds > limits.seconds) return fmt::format("the server allows 1 to {} seconds (its --max-seconds)", limits.seconds);
  if (flow.is_tcp) return {};
  if (flow.bytes < kMinPacketBytes) return fmt::format("packets have at least {} bytes", kMinPacketBytes);
  if (flow.rate / 8 * flow.seconds / flow.bytes >= kMaxPackets) return "too many packets: a lower rate, fewer seconds or a larger size";
  return {};
}

Json parse_reply(std::string_view line) { return parse_object(line, "the server"); }

std::uint64_t number_of(const Json& message, const char* key, std::uint64_t max) {
  const auto found = message.find(key);
  // A positive number that is written without a sign, point or exponent is what is_number_unsigned says.
  if (found == message.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() > max)
    throw LinkError(fmt::format("a control message without a valid `{}`", key));
  return found->get<std::uint64_t>();
}

std::string printable(std::string_view text) {
  std::string out(text.substr(0, 200));
  std::replace_if(out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c > 0x7e; }, '?');
  return out;
}

std::optional<std::uint64_t> parse_rate(std::string_view text) {
  double value = 0, unit = 1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error != std::errc{}) return std::nullopt;
  const std::string_view suffix = text.substr(static_cast<std::size_t>(end - text.data()));
  if (suffix == "k" || suffix == "K") unit = 1e3;
  else if (suffix == "M" || suffix == "m") unit = 1e6;
  else if (suffix == "G" || suffix == "g") unit = 1e9;
  else if (!suffix.empty()) return std::nullopt;
  value *= unit;
  if (!(value >= static_cast<double>(kMinRate) && value <= static_cast<double>(kMaxRate))) return std::nullopt;
  return static_cast<std::uint64_t>(std::llround(value));
}

std::string rate_text(double rate) {
  if (rate >= 1e9) return fmt::format("{:.4g} Gbit/s", rate / 1e9);
  if (rate >= 1e6 || rate == 0) return fmt::format("{:.4g} Mbit/s", rate / 1e6);
  return fmt::format("{:.4g} kbit/s", rate / 1e3);
}

}  // namespace vx::bench
