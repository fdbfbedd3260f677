// SPDX-License-Identifier: Apache-2.0
// vxplane-bench: what a peer may say, and what becomes of a peer that says something else; the command line.
#include "bench/link_protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "bench/link_control.h"
#include "bench/link_options.h"

namespace vx::bench {
namespace {

using testing::HasSubstr;

const Token kToken = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255};

TEST(LinkPacket, IsReadBackWithItsTokenOnly) {
  std::array<std::uint8_t, kHeaderBytes> bytes{};
  encode(kToken, {PacketKind::kData, 7, 0x0102030405060708, 99}, bytes.data());
  EXPECT_EQ(bytes[20], 1);
  EXPECT_EQ(bytes[27], 8);  // big endian
  const auto read = decode(kToken, bytes);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->kind, PacketKind::kData);
  EXPECT_EQ(read->phase, 7);
  EXPECT_EQ(read->sequence, 0x0102030405060708U);
  EXPECT_EQ(read->sent_ns, 99U);

  Token other = kToken;
  other[15] ^= 1;
  EXPECT_FALSE(decode(other, bytes));
  EXPECT_FALSE(decode(kToken, std::span(bytes).first(kHeaderBytes - 1)));
  EXPECT_FALSE(decode(kToken, {}));
  for (const int kind : {0, 6, 255}) {
    bytes[16] = static_cast<std::uint8_t>(kind);
    EXPECT_FALSE(decode(kToken, bytes)) << kind;
  }
}

TEST(LinkToken, IsHex) {
  EXPECT_EQ(to_hex(kToken), "0102030405060708090a0b0c0d0e0fff");
  EXPECT_EQ(token_from_hex(to_hex(kToken)), kToken);
  for (const char* text : {"", "01", "0102030405060708090a0b0c0d0e0fffff", "0102030405060708090a0b0c0d0e0fgg", "0102030405060708090a0b0c0d0e0f-1"})
    EXPECT_FALSE(token_from_hex(text)) << text;
}

TEST(LinkRequest, EveryKindIsRead) {
  EXPECT_EQ(std::get<Hello>(parse_request(R"({"type":"hello","version":1,"more":[]})")).version, 1U);
  EXPECT_EQ(std::get<Data>(parse_request(R"({"type":"data","token":"0102030405060708090a0b0c0d0e0fff"})")).token, kToken);
  EXPECT_EQ(std::get<Probe>(parse_request(R"({"type":"probe","bytes":1332})")).bytes, 1332U);
  EXPECT_EQ(std::get<Sent>(parse_request(R"({"type":"sent","packets":5})")).packets, 5U);
  EXPECT_TRUE(std::holds_alternative<Bye>(parse_request(R"({"type":"bye"})")));
  const Flow flow{3, false, true, 100'000'000, 5, 1332};
  const Flow read = std::get<Start>(parse_request(to_json(flow).dump())).flow;
  EXPECT_EQ(read.phase, 3);
  EXPECT_FALSE(read.is_tcp);
  EXPECT_TRUE(read.is_down);
  EXPECT_EQ(read.rate, 100'000'000U);
  EXPECT_EQ(read.seconds, 5U);
  EXPECT_EQ(read.bytes, 1332U);
}

TEST(LinkRequest, HostileLinesAreErrorsOfOneLineWithoutTheirText) {
  const std::string deep(2000, '[');
  for (const std::string& line : std::initializer_list<std::string>{
           "", "\x1b[2J", "GET / HTTP/1.1", "[]", "null", "7", "{", "{}", R"({"type":7})", R"({"type":"evil\u0007"})", R"({"type":"hello"})",
           R"({"type":"hello","version":-1})", R"({"type":"hello","version":1.5})", R"({"type":"hello","version":1e300})",
           R"({"type":"hello","version":"1"})", R"({"type":"hello","version":18446744073709551616})", R"({"type":"data"})", R"({"type":"data","token":7})",
           R"({"type":"data","token":"00"})", R"({"type":"probe"})", R"({"type":"probe","bytes":65536})", R"({"type":"sent","packets":268435457})",
           R"({"type":"start"})", R"({"type":"start","phase":256,"transport":"udp","direction":"up","rate":1,"seconds":1,"bytes":100})",
           R"({"type":"start","phase":1,"transport":"icmp","direction":"up","rate":1,"seconds":1})",
           R"({"type":"start","phase":1,"transport":"tcp","direction":"left","rate":1,"seconds":1})",
           R"({"type":"start","phase":1,"transport":"tcp","direction":"up","rate":1,"seconds":61})",
           R"({"type":"start","phase":1,"transport":"tcp","direction":"up","rate":1000000000001,"seconds":1})",
           R"({"type":"start","phase":1,"transport":"udp","direction":"up","rate":1,"seconds":1})", "\xff\xfe{\"type\":\"bye\"}", deep, "{\"type\":" + deep}) {
    try {
      (void)parse_request(line);
      ADD_FAILURE() << "accepted: " << line;
    } catch (const LinkError& error) {
      EXPECT_EQ(printable(error.what()), error.what());
      EXPECT_THAT(error.what(), testing::Not(HasSubstr("evil")));
    }
  }
}

TEST(LinkReply, NumbersAreChecked) {
  const Json message = parse_reply(R"({"type":"result","a":5,"b":-5,"c":"5","d":5.0})");
  EXPECT_EQ(number_of(message, "a", 5), 5U);
  EXPECT_THROW((void)number_of(message, "a", 4), LinkError);
  for (const char* key : {"b", "c", "d", "e"}) EXPECT_THROW((void)number_of(message, key, 100), LinkError) << key;
  EXPECT_THROW((void)parse_reply("[1]"), LinkError);
  EXPECT_EQ(printable("a\x1b[1mb\n"), "a?[1mb?");
  EXPECT_EQ(printable(std::string(500, 'x')).size(), 200U);
}

TEST(LinkLimits, BoundWhatAServerSends) {
  const Limits limits{1'000'000'000, 10};
  const auto why = [&](std::uint64_t rate, unsigned seconds, unsigned bytes, bool is_tcp = false) { return refusal({1, is_tcp, true, rate, seconds, bytes}, limits); };
  EXPECT_EQ(why(1'000'000'000, 10, 1332), "");
  EXPECT_THAT(why(1'000'000'001, 10, 1332), HasSubstr("--max-rate"));
  EXPECT_THAT(why(1'000'000'001, 10, 0, true), HasSubstr("--max-rate"));
  EXPECT_THAT(why(1000, 10, 1332), HasSubstr("too low"));
  EXPECT_THAT(why(1'000'000, 11, 1332), HasSubstr("--max-seconds"));
  EXPECT_THAT(why(1'000'000, 0, 1332), HasSubstr("--max-seconds"));
  EXPECT_THAT(why(1'000'000, 1, kMinPacketBytes - 1), HasSubstr("at least"));
  EXPECT_EQ(why(1'000'000, 1, 0, true), "");
  EXPECT_THAT(refusal({1, false, true, kMaxRate, 60, 84}, {kMaxRate, 60}), HasSubstr("too many packets"));
}

TEST(LinkRate, HasDecimalUnits) {
  EXPECT_EQ(parse_rate("100M"), 100'000'000U);
  EXPECT_EQ(parse_rate("1.5G"), 1'500'000'000U);
  EXPECT_EQ(parse_rate("64k"), 64'000U);
  EXPECT_EQ(parse_rate("10000"), 10'000U);
  for (const char* text : {"", "M", "-1M", "1T", "100 M", "100Mbit", "9999", "1001G", "nan", "inf", "0x10000", "1e9"}) EXPECT_FALSE(parse_rate(text)) << text;
  EXPECT_EQ(rate_text(100e6), "100 Mbit/s");
  EXPECT_EQ(rate_text(2.5e9), "2.5 Gbit/s");
}

// A channel and the other end of its connection.
struct ChannelTest : testing::Test {
  ChannelTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    channel.emplace(FileDescriptor(ends[0]), "the peer");
    peer = FileDescriptor(ends[1]);
  }
  void say(const std::string& text) const { ASSERT_EQ(send(peer.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size())); }
  void turn(TimePoint now = Clock::now()) {
    const pollfd ready{channel->fd(), POLLIN, POLLIN};
    channel->step(now, {&ready, 1});
  }
  std::string error(TimePoint now = Clock::now()) {
    try {
      turn(now);
      return "";
    } catch (const LinkError& problem) {
      return problem.what();
    }
  }
  std::optional<ControlChannel> channel;
  FileDescriptor peer;
};

TEST_F(ChannelTest, GivesLinesInOrderWithoutSignsOfLife) {
  say("{\"type\":\"alive\"}\none\ntw");
  turn();
  say("o\n");
  turn();
  EXPECT_EQ(channel->take(), "one");
  EXPECT_EQ(channel->take(), "two");
  EXPECT_EQ(channel->take(), std::nullopt);
}

TEST_F(ChannelTest, LongLinesEndIt) {
  say(std::string(kMaxLineBytes, 'x'));
  EXPECT_EQ(error(), "");
  say("x");
  EXPECT_EQ(error(), "the peer sent a control line longer than 4096 bytes");
}

TEST_F(ChannelTest, LongLinesThatEndEndItToo) {
  say(std::string(kMaxLineBytes + 1, 'x') + "\n");
  EXPECT_EQ(error(), "the peer sent a control line longer than 4096 bytes");
}

TEST_F(ChannelTest, AFloodOfLinesEndsIt) {
  say(std::string(2000, '\n'));
  EXPECT_EQ(error(), "the peer sends more than is asked");
}

TEST_F(ChannelTest, AClosedConnectionEndsItAfterItsLastLine) {
  say("last\n");
  peer.reset();
  EXPECT_EQ(error(), "");
  EXPECT_EQ(channel->take(), "last");
  EXPECT_EQ(error(), "the peer closed the connection");
}

TEST_F(ChannelTest, SilenceEndsItUnlessSomethingIsInTheSocket) {
  const TimePoint now = Clock::now();
  EXPECT_EQ(error(now + std::chrono::milliseconds(3900)), "");
  say("{\"type\":\"alive\"}\n");
  EXPECT_EQ(error(now + std::chrono::seconds(60)), "");  // it stood still itself
  EXPECT_EQ(error(now + std::chrono::seconds(65)), "the peer has been silent for 4 s");
  channel->heard(now + std::chrono::seconds(64));
  EXPECT_EQ(error(now + std::chrono::seconds(65)), "");
}

TEST(LinkOptions, DefaultsAreSafe) {
  const Options client = read_options({"client", "10.0.0.3"});
  EXPECT_EQ(client.mode, Options::Mode::kClient);
  EXPECT_EQ(client.client.rate, 100'000'000U);
  EXPECT_EQ(client.client.seconds, 5U);
  EXPECT_FALSE(client.client.is_unlimited);
  EXPECT_TRUE(client.client.has_up && client.client.has_down && client.client.has_udp && client.client.has_tcp);
  const Options server = read_options({"server"});
  EXPECT_EQ(server.server.limits.rate, 1'000'000'000U);
  EXPECT_EQ(server.server.limits.seconds, 60U);
  EXPECT_EQ(server.server.port, 4788);
}

TEST(LinkOptions, WordsAreRead) {
  const Options options = read_options({"client", "fd00::3", "--rate", "1G", "--seconds=2", "--size", "1000", "--direction", "down", "--udp", "-j", "--port", "9"});
  EXPECT_EQ(options.client.address, "fd00::3");
  EXPECT_EQ(options.client.rate, 1'000'000'000U);
  EXPECT_EQ(options.client.bytes, 1000U);
  EXPECT_EQ(options.client.port, 9);
  EXPECT_TRUE(options.client.has_down && options.client.has_udp && options.is_json);
  EXPECT_FALSE(options.client.has_up || options.client.has_tcp);
  EXPECT_THAT(read_options({"client", "--help"}).text, HasSubstr("path_mtu_bytes"));
  EXPECT_THAT(read_options({"--version"}).text, HasSubstr("vxplane-bench"));
}

TEST(LinkOptions, WhatIsWrongIsAUsageError) {
  using Words = std::vector<std::string>;
  for (const Words& words : {Words{}, {"run"}, {"client"}, {"client", "a", "b"}, {"client", "a", "--rate", "fast"}, {"client", "a", "--seconds", "61"},
                             {"client", "a", "--seconds", "0"}, {"client", "a", "--seconds", "x"}, {"client", "a", "--size", "83"}, {"client", "a", "--size", "-1"},
                             {"client", "a", "--direction", "left"}, {"client", "a", "--tcp", "--udp"}, {"client", "a", "--udp", "--unlimited"},
                             {"client", "a", "--port", "0"}, {"client", "a", "--max-rate", "1G"}, {"server", "a"}, {"server", "--rate", "1G"},
                             {"server", "--max-seconds", "100"}, {"server", "--port", "65536"}, {"server", "--nonsense"}})
    EXPECT_THROW((void)read_options(words), UsageError) << testing::PrintToString(words);
}

}  // namespace
}  // namespace vx::bench
