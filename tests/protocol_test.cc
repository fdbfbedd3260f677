// SPDX-License-Identifier: Apache-2.0
#include "dataplane/protocol.h"

#include <gtest/gtest.h>

#include <random>

#include "dataplane/learn_batch.h"
#include "dataplane/message_codec.h"

namespace vx::protocol {
namespace {

// Records with every byte different from zero, so that a field lost on the way is seen.
template <typename Record>
Record filled(std::uint8_t seed) {
  Record record;
  auto* bytes = reinterpret_cast<std::uint8_t*>(&record);
  for (std::size_t i = 0; i < sizeof record; ++i)
    bytes[i] = static_cast<std::uint8_t>(seed + i * 7 + 1);
  return record;
}

template <typename Record>
class ProtocolRecord : public testing::Test {};
using Records =
    testing::Types<ErrorText, HelloReply, PortConfig, PortInfo, PortRef, DumpFrom, UnderlayConfig,
                   OverlayConfig, OverlayRef, VtepConfig, VtepRef, FdbRecord, FdbPutReply,
                   FdbDelete, FdbDeleteReply, FdbFlush, FdbDumpRequest, FdbDumpReply, StatsReply,
                   PortStats, WorkerStats, InjectFrame, LearnEvent, PuntFrame, FailOpenConfig>;
TYPED_TEST_SUITE(ProtocolRecord, Records);

TYPED_TEST(ProtocolRecord, SurvivesTheRoundTrip) {
  MessageBuilder builder(MessageType::kFdbPut, 77, 5);
  const auto a = filled<TypeParam>(1), b = filled<TypeParam>(100);
  ASSERT_TRUE(builder.append(a) && builder.append(b));
  const auto message = builder.take();
  const auto header = read_header(message);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->type, MessageType::kFdbPut);
  EXPECT_EQ(header->sequence, 77u);
  EXPECT_EQ(header->status, 5);
  EXPECT_EQ(header->count, 2u);
  const auto records = read_records<TypeParam>(message);
  ASSERT_TRUE(records);
  ASSERT_EQ(records->size(), 2u);
  EXPECT_EQ(std::memcmp(&(*records)[0], &a, sizeof a), 0);
  EXPECT_EQ(std::memcmp(&(*records)[1], &b, sizeof b), 0);
  const auto second = read_record<TypeParam>(message, 0, 1);
  ASSERT_TRUE(second);
  EXPECT_EQ(std::memcmp(&*second, &b, sizeof b), 0);
}

TYPED_TEST(ProtocolRecord, TruncationAtEveryLengthIsRefused) {
  MessageBuilder builder(MessageType::kFdbPut, 1);
  builder.append(filled<TypeParam>(1));
  const auto whole = builder.take();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const std::vector<std::byte> cut(
        whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));  // ASan guards its end
    EXPECT_FALSE(read_records<TypeParam>(cut)) << length;
    EXPECT_FALSE(read_record<TypeParam>(cut, 0)) << length;
    EXPECT_EQ(read_header(cut).has_value(), length >= sizeof(MessageHeader));
  }
  auto longer = whole;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(read_records<TypeParam>(longer));
}

TYPED_TEST(ProtocolRecord, MessageStopsGrowingAtItsLimit) {
  MessageBuilder builder(MessageType::kFdbPut, 1);
  std::size_t count = 0;
  while (builder.append(filled<TypeParam>(1))) ++count;
  const auto message = builder.take();
  EXPECT_LE(message.size(), kMaxMessageBytes);
  EXPECT_EQ(read_header(message)->count, count);
}

TEST(Protocol, OtherVersionsAreRefused) {
  auto message = MessageBuilder(MessageType::kHello, 1).take();
  EXPECT_TRUE(read_header(message));
  message[0] = std::byte{kVersion + 1};
  EXPECT_FALSE(read_header(message));
}

TEST(Protocol, OverlongMessagesAreRefused) {
  auto message = MessageBuilder(MessageType::kHello, 1).take();
  message.resize(kMaxMessageBytes);
  EXPECT_TRUE(read_header(message));
  message.resize(kMaxMessageBytes + 1);
  EXPECT_FALSE(read_header(message));
}

TEST(Protocol, TextIsCutAtItsPlaceAndAlwaysEnds) {
  Name name{};
  EXPECT_TRUE(set_text(name, "tap100i0"));
  EXPECT_EQ(text_of(name), "tap100i0");
  EXPECT_FALSE(set_text(name, std::string(40, 'x')));
  EXPECT_EQ(text_of(name), std::string(31, 'x'));
  name.fill('y');  // a peer's unterminated text
  EXPECT_EQ(text_of(name).size(), name.size());
}

TEST(Protocol, ErrorReplyCarriesItsLine) {
  const auto reply = error_reply(MessageType::kPortAdd, 9, 17, "port x exists already");
  EXPECT_EQ(read_header(reply)->status, 17);
  EXPECT_EQ(text_of(read_record<ErrorText>(reply, 0)->text), "port x exists already");
}

LearnEvent mac_event(std::uint64_t key, std::uint16_t location) {
  LearnEvent event;
  event.key = key;
  event.overlay = 0;
  event.location = location;
  return event;
}

TEST(LearnBatch, ReportsEachMacOnceWhereItWasSeenLast) {
  LearnBatch batch;
  EXPECT_TRUE(batch.add(mac_event(5, 1)));
  EXPECT_TRUE(batch.add(mac_event(6, 1)));
  EXPECT_TRUE(batch.add(mac_event(5, 2)));
  ASSERT_EQ(batch.events().size(), 2u);
  EXPECT_EQ(batch.events()[0].location, 2);
  const auto message = batch.message();
  EXPECT_EQ(read_records<LearnEvent>(message)->size(), 2u);
  batch.clear();
  EXPECT_TRUE(batch.events().empty());
  EXPECT_TRUE(batch.add(mac_event(5, 3)));
  EXPECT_EQ(batch.events().size(), 1u);
}

TEST(LearnBatch, OverlaysAndVtepsAreApart) {
  LearnBatch batch;
  auto other = mac_event(5, 1);
  other.overlay = 1;
  auto vtep = mac_event(5, 1);
  vtep.kind = LearnKind::kVtep;
  vtep.address = IpAddress::v4(1, 2, 3, 4);
  auto vtep2 = vtep;
  vtep2.address = IpAddress::v4(1, 2, 3, 5);
  for (const auto& event : {mac_event(5, 1), other, vtep, vtep2, vtep})
    EXPECT_TRUE(batch.add(event));
  EXPECT_EQ(batch.events().size(), 4u);
}

TEST(LearnBatch, SaysWhenItIsFull) {
  LearnBatch batch;
  for (std::size_t i = 0; i < LearnBatch::kCapacity; ++i)
    ASSERT_TRUE(batch.add(mac_event(i + 1, 1)));
  EXPECT_FALSE(batch.add(mac_event(1'000'000, 1)));
  EXPECT_TRUE(batch.add(mac_event(7, 2))) << "a known MAC needs no room";
  EXPECT_LE(batch.message().size(), kMaxMessageBytes);
  EXPECT_EQ(batch.events()[6].location, 2);
}

}  // namespace
}  // namespace vx::protocol
