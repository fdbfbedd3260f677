// SPDX-License-Identifier: Apache-2.0
// What the two ends of vxplane-bench say to each other.
//
// Control: one JSON object a line over TCP, at most kMaxLineBytes. A connection's first line is `hello` (a client) or `data` (the
// TCP stream of a phase, which has the client's token). UDP: kHeaderBytes of header with the token, then padding.
// Rates are bits per second and sizes bytes, both of whole IP packets. Pure; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>

namespace vx::bench {

using Json = nlohmann::ordered_json;

inline constexpr std::uint16_t kDefaultPort = 4788;
inline constexpr unsigned kVersion = 1;
inline constexpr std::size_t kMaxLineBytes = 4096;
inline constexpr unsigned kMaxIpBytes = 65535;
// Room for the IPv6, UDP and our own header: smaller packets carry no sequence number.
inline constexpr unsigned kMinPacketBytes = 84;
inline constexpr std::uint64_t kMinRate = 10'000, kMaxRate = 1'000'000'000'000;
inline constexpr unsigned kMaxSeconds = 60;
// Of one phase; the receiver remembers a bit for each.
inline constexpr std::uint64_t kMaxPackets = 1ULL << 28;

// The run cannot go on; the text is the one line that the user gets.
class LinkError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using Token = std::array<std::uint8_t, 16>;
[[nodiscard]] std::string to_hex(const Token& token);
[[nodiscard]] std::optional<Token> token_from_hex(std::string_view text);

// ---- UDP ----

enum class PacketKind : std::uint8_t { kOpen = 1, kProbe = 2, kEchoRequest = 3, kEchoReply = 4, kData = 5 };

struct PacketHeader {
  PacketKind kind = PacketKind::kOpen;
  std::uint8_t phase = 0;         // a packet of another phase is late, and ignored
  std::uint64_t sequence = 0;     // of a probe: its own size
  std::uint64_t sent_ns = 0;      // the sender's clock; an echo reply has the request's
};
inline constexpr std::size_t kHeaderBytes = 16 + 4 + 8 + 8;

void encode(const Token& token, const PacketHeader& header, std::uint8_t* out) noexcept;  // kHeaderBytes, big endian
// Nothing unless it has the token and a known kind.
[[nodiscard]] std::optional<PacketHeader> decode(const Token& token, std::span<const std::uint8_t> bytes) noexcept;

// ---- control ----

// What a server lets a client ask for.
struct Limits {
  std::uint64_t rate = 1'000'000'000;
  unsigned seconds = kMaxSeconds;
};

struct Flow {
  std::uint8_t phase = 0;
  bool is_tcp = false;
  bool is_down = false;    // the server sends
  std::uint64_t rate = 0;
  unsigned seconds = 0;
  unsigned bytes = 0;      // of UDP's packets
};

struct Hello { unsigned version = 0; };
struct Data { Token token{}; };
struct Probe { unsigned bytes = 0; };    // send me one of this size
struct Start { Flow flow; };
struct Sent { std::uint64_t packets = 0; };  // the client has sent all of an upward flow
struct Bye {};
using Request = std::variant<Hello, Data, Probe, Start, Sent, Bye>;

// A client's line. Throws LinkError with what is wrong; the peer's own text is never in it.
[[nodiscard]] Request parse_request(std::string_view line);
[[nodiscard]] Json to_json(const Flow& flow);
// Empty, or why a server with these limits refuses it.
[[nodiscard]] std::string refusal(const Flow& flow, const Limits& limits);

// A server's line, for the client: an object with `type`. Throws LinkError.
[[nodiscard]] Json parse_reply(std::string_view line);
// A number that must be there, from 0 to `max`. Throws LinkError naming the key.
[[nodiscard]] std::uint64_t number_of(const Json& message, const char* key, std::uint64_t max);
// At most 200 printable characters of what a peer wrote.
[[nodiscard]] std::string printable(std::string_view text);

// "100M", "1.5G", "64k", "9600": bits per second, decimal units. Nothing when it is no rate from kMinRate to kMaxRate.
[[nodiscard]] std::optional<std::uint64_t> parse_rate(std::string_view text);
[[nodiscard]] std::string rate_text(double bits_per_second);  // "100 Mbit/s"

}  // namespace vx::bench
