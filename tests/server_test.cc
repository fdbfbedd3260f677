// SPDX-License-Identifier: Apache-2.0
// A real socket and the real loop, fake ports behind it.
#include <sys/eventfd.h>

#include <atomic>
#include <cerrno>
#include <random>
#include <thread>

#include "dataplane/run_dir.h"
#include "dataplane/server.h"
#include "tests/dataplane_client_testkit.h"
#include "tests/switchboard_testkit.h"

namespace vx::testkit {
namespace {

using protocol::MessageType;

// The loop in a thread of its own; the workers do not run, so their queues' producer is the test.
class ServerRig : public SwitchboardRig {
 public:
  explicit ServerRig(bool with_ports = true) {
    char pattern[] = "/tmp/vxplane-server-XXXXXX";
    directory = mkdtemp(pattern);
    if (with_ports) set_up();
    run_dir = std::make_unique<RunDir>(directory);
    protocol::HelloReply hello;
    hello.instance = 42;
    hello.workers = 1;
    server = std::make_unique<Server>(run_dir->listen_on_socket(),
                                      ServerDescriptors{events.get(), stop.get()}, *board, hello);
    thread = std::thread([this] { server->run(); });
  }
  ~ServerRig() {
    raise(stop);
    thread.join();
    server.reset();
    run_dir.reset();
    rmdir(directory.c_str());
  }
  static void raise(const FileDescriptor& fd) {
    const std::uint64_t one = 1;
    EXPECT_EQ(write(fd.get(), &one, sizeof one), 8);
  }
  TestClient connect() const { return TestClient(directory + "/dataplane.sock"); }
  void learn(MacAddress address, PortIndex port) {
    protocol::LearnEvent event;
    event.key = fdb_key(1, address);
    event.overlay = 0;
    event.location = Location::port(port).raw();
    EXPECT_TRUE(workers[0]->learn_events().try_push(event));
  }

  std::string directory;
  FileDescriptor events{eventfd(0, EFD_NONBLOCK)}, stop{eventfd(0, EFD_NONBLOCK)};
  std::unique_ptr<RunDir> run_dir;
  std::unique_ptr<Server> server;
  std::thread thread;
};

protocol::MessageHeader header_of(const std::vector<std::byte>& message) {
  return protocol::read_header(message).value_or(protocol::MessageHeader{0, {}, 0, 0, -1});
}

TEST(Server, AnswersHello) {
  ServerRig rig;
  auto client = rig.connect();
  const auto hello = client.ask<protocol::HelloReply>(MessageType::kHello);
  EXPECT_EQ(hello.instance, 42u);
  EXPECT_EQ(hello.workers, 1u);
}

TEST(Server, EveryRequestReachesTheSwitchboard) {
  ServerRig rig(false);
  auto client = rig.connect();
  const auto done = [&client](MessageType type, const auto&... records) {
    client.request(type, records...);
    EXPECT_EQ(client.status(), 0) << static_cast<int>(type) << " " << client.error();
  };
  EXPECT_EQ(client.ask<protocol::PortInfo>(MessageType::kPortAdd, rig.underlay_port()).index, 0);
  done(MessageType::kOverlaySet, rig.overlay());
  done(MessageType::kUnderlaySet, rig.underlay());
  EXPECT_EQ(client.ask<protocol::UnderlayConfig>(MessageType::kUnderlayGet).mac, kOurMac);
  done(MessageType::kVtepSet, rig.vtep(0, kRemote4), rig.vtep(1, kOther4));
  const auto guest = client.ask<protocol::PortInfo>(MessageType::kPortAdd, rig.guest("g1")).index;
  done(MessageType::kPortSet, rig.guest("g1"));
  EXPECT_EQ(header_of(client.request(MessageType::kPortDump)).count, 2);
  EXPECT_EQ(header_of(client.request(MessageType::kPortDump, protocol::DumpFrom{1})).count, 1);
  EXPECT_EQ(header_of(client.request(MessageType::kOverlayDump)).count, 1);
  EXPECT_EQ(header_of(client.request(MessageType::kVtepDump, protocol::OverlayRef{0})).count, 2);
  EXPECT_EQ(header_of(client.request(MessageType::kVtepDump, protocol::VtepRef{0, 1})).count, 1);
  EXPECT_EQ(client
                .ask<protocol::FdbPutReply>(MessageType::kFdbPut,
                                            rig.record(kGuestA, Location::port(guest)),
                                            rig.record(kFar, Location::vtep(0)))
                .added,
            2u);
  protocol::FdbDumpRequest dump;
  dump.overlay = 0;
  EXPECT_EQ(client.ask<protocol::FdbDumpReply>(MessageType::kFdbDump, dump).records, 2u);
  protocol::FdbDelete remove;
  remove.overlay = 0;
  remove.key = fdb_key(1, kFar);
  EXPECT_EQ(client.ask<protocol::FdbDeleteReply>(MessageType::kFdbDelete, remove).result,
            static_cast<std::uint8_t>(FdbResult::kRemoved));
  done(MessageType::kFdbFlush, protocol::FdbFlush{0, kNoIndex});
  const auto stats = client.ask<protocol::StatsReply>(MessageType::kStatsGet);
  EXPECT_EQ(stats.ports, 2u);
  EXPECT_EQ(stats.workers, 1u);
  EXPECT_EQ(stats.complete, 1u);
  protocol::InjectFrame frame;
  protocol::set_text(frame.port, "eth0");
  frame.length = 64;
  done(MessageType::kInject, frame);
  done(MessageType::kVtepDelete, protocol::VtepRef{0, 1});
  protocol::PortRef ref;
  protocol::set_text(ref.name, "g1");
  done(MessageType::kPortDelete, ref);
  done(MessageType::kOverlayDelete, protocol::OverlayRef{0});
  protocol::WorkersConfig workers;
  workers.poll = protocol::WorkerPoll::kBusy;
  done(MessageType::kWorkersSet, workers);
  EXPECT_EQ(rig.workers[0]->poll(), PollMode::kBusy);
}

TEST(Server, RefusalsCarryAnErrnoAndALine) {
  ServerRig rig;
  auto client = rig.connect();
  client.request(MessageType::kPortAdd, rig.guest("g1"));
  EXPECT_EQ(client.status(), EEXIST);
  EXPECT_EQ(client.error(), "port g1 exists already");
  client.request(MessageType::kPortAdd, rig.guest("broken"));
  EXPECT_EQ(client.error(), "broken: no such device");
  protocol::WorkersConfig workers;
  protocol::set_text(workers.lcores, "2");
  client.request(MessageType::kWorkersSet, workers);
  EXPECT_EQ(client.status(), EBUSY);
  EXPECT_EQ(client.error(), "restart vxplane-dataplane to use lcores = 2");
  client.request(MessageType::kHello, protocol::PortRef{});
  EXPECT_EQ(client.status(), EPROTO);
  client.request(MessageType::kLearnEvents);
  EXPECT_EQ(client.status(), EPROTO);
  client.request(static_cast<MessageType>(999));
  EXPECT_EQ(client.status(), EPROTO);
  client.request(MessageType::kHello);
  EXPECT_EQ(client.status(), 0) << "the connection lives on";
}

TEST(Server, WrongCountsOfEveryRequestAreRefused) {
  ServerRig rig;
  auto client = rig.connect();
  for (unsigned type = 1; type <= static_cast<unsigned>(MessageType::kWorkersSet); ++type)
    for (const std::uint16_t count : {1, 2, 65535}) {
      protocol::MessageHeader header;
      header.type = static_cast<MessageType>(type);
      header.count = count;
      std::vector<std::byte> message(sizeof header + 3);  // no record has three bytes
      std::memcpy(message.data(), &header, sizeof header);
      client.send_bytes(message);
      EXPECT_EQ(header_of(client.receive()).status, EPROTO) << type << " " << count;
    }
}

TEST(Server, GarbageNeverStopsIt) {
  ServerRig rig;
  auto client = rig.connect();
  std::mt19937 random(1);  // NOLINT: a fixed seed on purpose
  const std::size_t sizes[] = {sizeof(protocol::PortConfig),
                               sizeof(protocol::UnderlayConfig),
                               sizeof(protocol::OverlayConfig),
                               sizeof(protocol::VtepConfig),
                               sizeof(protocol::FdbRecord),
                               sizeof(protocol::FdbDelete),
                               sizeof(protocol::FdbFlush),
                               sizeof(protocol::FdbDumpRequest),
                               sizeof(protocol::InjectFrame),
                               sizeof(protocol::PortRef),
                               2,
                               4,
                               0};
  for (int i = 0; i < 20000; ++i) {
    protocol::MessageHeader header;
    header.type = static_cast<MessageType>(random() % 19 + 1);  // all but kSubscribe
    header.count = static_cast<std::uint16_t>(random() % 4 == 0 ? random() % 5 : 1);
    const std::size_t length =
        random() % 8 == 0 ? random() % 300 : sizes[random() % std::size(sizes)] * header.count;
    std::vector<std::byte> message(sizeof header + length);
    // Small numbers are what gets past the first checks.
    for (auto& byte : message)
      byte = static_cast<std::byte>(random() % 3 == 0 ? random() : random() % 3);
    std::memcpy(message.data(), &header, sizeof header);
    if (random() % 16 == 0) message.resize(random() % (message.size() + 1));
    if (message.empty()) continue;
    client.send_bytes(message);
    ASSERT_FALSE(client.receive().empty()) << i;
  }
  client.send_bytes(std::vector<std::byte>(protocol::kMaxMessageBytes + 100));
  EXPECT_EQ(header_of(client.receive()).status, EPROTO);
  EXPECT_EQ(client.ask<protocol::HelloReply>(MessageType::kHello).instance, 42u);
}

TEST(Server, ValidRequestsWithBytesChangedNeverStopIt) {
  ServerRig rig;
  auto client = rig.connect();
  std::mt19937 random(2);
  std::vector<std::vector<std::byte>> valid;
  const auto add = [&valid](MessageType type, const auto&... records) {
    protocol::MessageBuilder message(type, 1);
    (message.append(records), ...);
    valid.push_back(message.take());
  };
  add(MessageType::kPortAdd, rig.guest("n"));
  add(MessageType::kPortAdd, rig.underlay_port());
  add(MessageType::kPortSet, rig.guest("g1"));
  add(MessageType::kUnderlaySet, rig.underlay());
  add(MessageType::kOverlaySet, rig.overlay());
  add(MessageType::kVtepSet, rig.vtep(0, kRemote4), rig.vtep(1, kOther4));
  add(MessageType::kFdbPut, rig.record(kGuestA, Location::port(rig.g1)),
      rig.record(kFar, Location::vtep(0)));
  add(MessageType::kFdbDelete, protocol::FdbDelete{fdb_key(1, kFar), 0, 1, 0, 5, {}});
  add(MessageType::kFdbDump, protocol::FdbDumpRequest{0, 0, 0, 0});
  add(MessageType::kFdbFlush, protocol::FdbFlush{0, 0});
  add(MessageType::kVtepDelete, protocol::VtepRef{0, 0});
  add(MessageType::kStatsGet, protocol::DumpFrom{1});
  for (int i = 0; i < 5000; ++i) {
    auto message = valid[random() % valid.size()];
    for (unsigned n = random() % 4; n > 0; --n)
      message[sizeof(protocol::MessageHeader) +
              random() % (message.size() - sizeof(protocol::MessageHeader))] =
          static_cast<std::byte>(random());
    client.send_bytes(message);
    ASSERT_FALSE(client.receive().empty()) << i;
  }
  EXPECT_EQ(client.ask<protocol::HelloReply>(MessageType::kHello).instance, 42u);
}

TEST(Server, SubscriberGetsLearnEventsOnceEachAndSoon) {
  ServerRig rig;
  auto subscriber = rig.connect();
  subscriber.request(MessageType::kSubscribe);
  rig.learn(kGuestA, rig.g1);
  rig.learn(kGuestA, rig.g1);
  rig.learn(kGuestB, 900);  // a port that is gone
  const auto begin = std::chrono::steady_clock::now();
  rig.raise(rig.events);
  const auto message = subscriber.receive();
  EXPECT_LT(std::chrono::steady_clock::now() - begin,
            std::chrono::milliseconds(50));  // 1 ms on an idle machine
  EXPECT_EQ(header_of(message).type, MessageType::kLearnEvents);
  EXPECT_EQ(header_of(message).count, 1);
  EXPECT_EQ(protocol::read_record<protocol::LearnEvent>(message, 0)->key, fdb_key(1, kGuestA));
}

TEST(Server, NewestSubscriberGetsTheEventsAndThenTheFormerOneAgain) {
  ServerRig rig;
  auto older = rig.connect();
  older.request(MessageType::kSubscribe);
  {
    auto newer = rig.connect();
    newer.request(MessageType::kSubscribe);
    rig.learn(kGuestA, rig.g1);
    rig.raise(rig.events);
    EXPECT_FALSE(newer.receive().empty());
    EXPECT_TRUE(older.receive(50).empty());
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  rig.learn(kGuestB, rig.g1);
  rig.raise(rig.events);
  EXPECT_FALSE(older.receive().empty());
}

TEST(Server, PuntedFramesNameTheirPort) {
  ServerRig rig;
  auto subscriber = rig.connect();
  subscriber.request(MessageType::kSubscribe);
  PuntedFrame frame;
  frame.port = 0;
  frame.length = 60;
  frame.bytes[59] = 0x77;
  EXPECT_TRUE(rig.workers[0]->punts().try_push(frame));
  rig.raise(rig.events);
  const auto punt = protocol::read_record<protocol::PuntFrame>(subscriber.receive(), 0);
  ASSERT_TRUE(punt);
  EXPECT_EQ(protocol::text_of(punt->port), "eth0");
  EXPECT_EQ(punt->length, 60u);
  EXPECT_EQ(punt->bytes[59], 0x77);
}

TEST(Server, VanishedPortIsToldToTheSubscriber) {
  ServerRig rig;
  auto subscriber = rig.connect();
  subscriber.request(MessageType::kSubscribe);
  auto client = rig.connect();
  rig.ports["g2"]->alive = false;
  const auto message = subscriber.receive();
  EXPECT_EQ(header_of(message).type, MessageType::kPortEvents);
  const auto info = protocol::read_record<protocol::PortInfo>(message, 0);
  ASSERT_TRUE(info);
  EXPECT_EQ(info->index, rig.g2);
  EXPECT_EQ(info->state, protocol::PortState::kLost);
  EXPECT_EQ(header_of(client.request(MessageType::kPortDump)).count, 2);
}

TEST(Server, SubscriberThatDoesNotReadBlocksNobody) {
  ServerRig rig;
  auto subscriber = rig.connect();
  subscriber.request(MessageType::kSubscribe);
  auto client = rig.connect();
  std::uint64_t lost = 0;
  for (std::uint64_t round = 0; lost == 0 && round < 1000; ++round) {
    for (std::uint64_t i = 0; i < 2000; ++i)
      rig.learn(MacAddress::from_u48(0x020000000000 + round * 2000 + i), rig.g1);
    rig.raise(rig.events);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    lost = client.ask<protocol::StatsReply>(MessageType::kStatsGet).learn_events_lost;
  }
  EXPECT_GT(lost, 0u);
}

TEST(Server, ClientThatDoesNotReadItsRepliesBlocksNobody) {
  ServerRig rig;
  auto lazy = rig.connect();
  protocol::MessageBuilder request(MessageType::kPortDump, 1);
  const auto message = request.take();
  for (int i = 0; i < 5000; ++i)
    if (::send(lazy.fd(), message.data(), message.size(), MSG_DONTWAIT) < 0) break;
  auto client = rig.connect();
  EXPECT_EQ(client.ask<protocol::HelloReply>(MessageType::kHello).instance, 42u);
}

TEST(Server, DumpsLargerThanAMessageGoOn) {
  ServerRig rig;
  auto client = rig.connect();
  for (int i = 0; i < 100; ++i)
    (void)client.ask<protocol::PortInfo>(MessageType::kPortAdd, rig.guest("n" + std::to_string(i)));
  std::set<std::string> names;
  for (std::uint16_t from = 0;;) {
    const auto reply = client.request(MessageType::kPortDump, protocol::DumpFrom{from});
    const auto infos = protocol::read_records<protocol::PortInfo>(reply);
    ASSERT_TRUE(infos);
    if (infos->empty()) break;
    for (const auto& info : *infos) names.emplace(protocol::text_of(info.config.name));
    from = static_cast<std::uint16_t>(infos->back().index + 1);
  }
  EXPECT_EQ(names.size(), 103u);
}

TEST(Server, FdbDumpGoesThroughTheWholeTable) {
  ServerRig rig;
  auto client = rig.connect();
  auto overlay = rig.overlay();
  overlay.fdb_capacity = 10000;
  client.request(MessageType::kOverlaySet, overlay);
  for (std::uint64_t i = 0; i < 10000;) {
    protocol::MessageBuilder put(MessageType::kFdbPut, 1);
    while (i < 10000 &&
           put.append(rig.record(MacAddress::from_u48(0x020000000001 + i), Location::port(rig.g1))))
      ++i;
    client.send_bytes(put.take());
    ASSERT_EQ(header_of(client.receive()).status, 0);
  }
  std::set<std::uint64_t> keys;
  protocol::FdbDumpRequest request;
  request.overlay = 0;
  do {
    const auto reply = client.request(MessageType::kFdbDump, request);
    const auto summary = protocol::read_record<protocol::FdbDumpReply>(reply, 0);
    ASSERT_TRUE(summary);
    ASSERT_EQ(header_of(reply).count, 1 + summary->records);
    for (std::size_t i = 0; i < summary->records; ++i)
      keys.insert(protocol::read_record<protocol::FdbRecord>(reply, sizeof *summary, i)->key);
    request.cursor = summary->cursor;
  } while (request.cursor != 0);
  EXPECT_EQ(keys.size(), 10000u);
}

}  // namespace
}  // namespace vx::testkit
