// SPDX-License-Identifier: Apache-2.0
#include <cerrno>

#include "tests/switchboard_testkit.h"

namespace vx::testkit {
namespace {

using Rig = SwitchboardRig;

Bytes frame_from(MacAddress source, MacAddress destination) {
  return FrameBuilder()
      .eth(destination, source)
      .ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2))
      .udp(1, 2)
      .payload(30)
      .build();
}

TEST(Switchboard, ForwardsBetweenPortsAsSoonAsTheyAreAdded) {
  Rig rig;
  rig.set_up();
  rig.ports["g1"]->incoming.push_back(frame_from(kGuestA, kBroadcast));
  rig.poll();
  EXPECT_EQ(rig.ports["g2"]->sent.size(), 1u);
  EXPECT_EQ(rig.ports["eth0"]->sent.size(), 1u);  // the VTEP is on the flood list
  EXPECT_TRUE(rig.ports["g1"]->sent.empty());
}

TEST(Switchboard, UnicastFollowsTheFdb) {
  Rig rig;
  rig.set_up();
  EXPECT_EQ(rig.put(rig.record(kGuestB, Location::port(rig.g2))).added, 1u);
  rig.ports["g1"]->incoming.push_back(frame_from(kGuestA, kGuestB));
  rig.poll();
  EXPECT_EQ(rig.ports["g2"]->sent.size(), 1u);
  EXPECT_TRUE(rig.ports["eth0"]->sent.empty());
}

TEST(Switchboard, RemovedPortIsDestroyedAndForgotten) {
  Rig rig;
  rig.set_up();
  (void)rig.put(rig.record(kGuestB, Location::port(rig.g2)));
  (void)rig.put(rig.record(kFar, Location::port(rig.g2), FdbValue::kStatic));
  (void)rig.put(rig.record(kGuestA, Location::port(rig.g1), FdbValue::kStatic));
  rig.board->delete_port("g2");
  EXPECT_EQ(rig.destroyed, std::vector<std::string>{"g2"});
  ASSERT_EQ(rig.dump().size(), 1u);  // the static entry of the port that went is gone too
  EXPECT_EQ(rig.dump()[0].location, Location::port(rig.g1).raw());
  EXPECT_EQ(error_of([&] { rig.board->delete_port("g2"); }), ENOENT);
  EXPECT_EQ(rig.board->ports().size(), 2u);
}

TEST(Switchboard, PortIndexIsNotReusedAtOnce) {
  Rig rig;
  rig.board->set_overlay(rig.overlay());
  std::set<PortIndex> seen;
  for (int i = 0; i < 16; ++i) {
    EXPECT_TRUE(seen.insert(rig.board->add_port(rig.guest("g")).index).second);
    rig.board->delete_port("g");
  }
}

TEST(Switchboard, PortIndicesAreReusedInTheEnd) {
  Rig rig;
  rig.board->set_overlay(rig.overlay());
  for (int i = 0; i < 2 * kMaxPorts; ++i) {
    ASSERT_LT(rig.board->add_port(rig.guest("g")).index, 64);
    rig.board->delete_port("g");
  }
}

TEST(Switchboard, AllPortIndicesCanBeInUse) {
  Rig rig;
  rig.board->set_overlay(rig.overlay());
  for (int i = 0; i < kMaxPorts; ++i) (void)rig.board->add_port(rig.guest("g" + std::to_string(i)));
  EXPECT_EQ(error_of([&] { rig.board->add_port(rig.guest("more")); }), ENOSPC);
  rig.board->delete_port("g77");
  EXPECT_EQ(rig.board->add_port(rig.guest("more")).index, 77);
}

TEST(Switchboard, CountersOfAReusedIndexStartFromZeroAndSumsStay) {
  Rig rig;
  rig.set_up();
  for (int i = 0; i < 5; ++i) rig.ports["g2"]->incoming.push_back(frame_from(kGuestB, kBroadcast));
  rig.poll();
  rig.ports["g2"]->missed = 7;
  rig.board->delete_port("g2");
  const auto check = [&rig] {
    const auto stats = rig.board->stats();
    std::uint64_t received = 0, sent = 0;
    for (const auto& port : stats.ports) {
      received += port.counters.rx_packets;
      sent += port.counters.tx_packets;
    }
    EXPECT_EQ(received, stats.reply.totals.received);
    EXPECT_EQ(sent, stats.reply.totals.sent);
    EXPECT_TRUE(stats.reply.totals.balances());
    EXPECT_EQ(protocol::text_of(stats.ports.back().name), protocol::kRemovedPorts);
    EXPECT_EQ(stats.ports.back().counters.rx_packets, 5u);
    EXPECT_EQ(stats.ports.back().rx_missed, 7u);
  };
  check();
  for (int i = 0; i < 20; ++i) {  // until the index comes round
    const auto index = rig.board->add_port(rig.guest("n" + std::to_string(i))).index;
    if (index == rig.g2) break;
    rig.board->delete_port("n" + std::to_string(i));
  }
  check();
  for (const auto& port : rig.board->stats().ports)
    if (port.name[0] == 'n') {
      EXPECT_EQ(port.counters.rx_packets, 0u);
    }
}

TEST(Switchboard, FragmentsOfPortsThatWentStayInTheSum) {
  Rig rig;
  rig.set_up();
  rig.ports["g1"]->in_pieces = {10, 1, 4};
  rig.ports["g2"]->in_pieces = {100, 10, 40};
  rig.board->delete_port("g2");
  rig.ports["g1"]->in_pieces.received = 12;
  const auto reply = rig.board->stats().reply;
  EXPECT_EQ(reply.fragments_received, 112u);
  EXPECT_EQ(reply.fragments_lost, 11u);
  EXPECT_EQ(reply.fragments_reassembled, 44u);
}

TEST(Switchboard, SendersThatWereToldOfTheMtuAreCountedOverAllWorkers) {
  Rig rig(2);
  rig.set_up();
  const Bytes frame = FrameBuilder()
                          .eth(kGuestB, kGuestA)
                          .ipv4(IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2))
                          .udp(1, 2)
                          .payload(1400)
                          .build();
  for (int i = 0; i < 300; ++i) rig.ports["g1"]->incoming.push_back(frame);
  for (int i = 0; i < 60; ++i) rig.ports["g2"]->incoming.push_back(frame);
  for (int i = 0; i < 20; ++i) rig.poll();
  const auto reply = rig.board->stats().reply;
  EXPECT_EQ(reply.too_big_told + reply.too_big_limited, 360u);
  EXPECT_EQ(reply.too_big_told, rig.ports["g1"]->sent.size() + rig.ports["g2"]->sent.size());
  EXPECT_GE(reply.too_big_told, 2u) << "each port has a limit of its own";
  EXPECT_GE(reply.too_big_limited, 100u);
  EXPECT_TRUE(reply.totals.balances());
}

TEST(Switchboard, QueuesAreSpreadOverWorkers) {
  Rig rig;
  SwitchModel model;
  model.workers = 2;
  PortEntry entry;
  entry.config = rig.guest("x", 4);
  entry.made.port = std::make_shared<FakePort>("x", rig.pool, rig.destroyed);
  static_cast<FakePort&>(*entry.made.port).rx_count = 4;
  static_cast<FakePort&>(*entry.made.port).tx_count = 1;
  assign_queues(model, entry);
  EXPECT_EQ(entry.rx_worker, (std::vector<unsigned>{0, 1, 0, 1}));
  EXPECT_EQ(entry.tx_locks.size(), 1u);  // one tx queue for two workers: shared under a lock
  static_cast<FakePort&>(*entry.made.port).tx_count = 2;
  assign_queues(model, entry);
  EXPECT_TRUE(entry.tx_locks.empty());
}

TEST(Switchboard, AssignmentsNameEveryQueueOnceAndItsHeartbeat) {
  Rig rig;
  auto underlay = std::make_shared<PortEntry>();
  underlay->config = rig.underlay_port();
  underlay->index = 0;
  underlay->made = rig.make(underlay->config);
  static_cast<FakePort&>(*underlay->made.port).rx_count = 3;
  SwitchModel model;
  model.workers = 2;
  model.underlay = rig.underlay();
  assign_queues(model, *underlay);
  model.ports.push_back(underlay);
  const std::vector<std::shared_ptr<Port>> held{
      std::make_shared<FakePort>("held", rig.pool, rig.destroyed)};
  const auto assignments = build_assignments(model, held);
  ASSERT_EQ(assignments.size(), 2u);
  std::set<std::uint16_t> queues;
  for (const auto& assignment : assignments)
    for (const auto& rx : assignment->rx) {
      EXPECT_EQ(rx.index, 0);  // the held socket counts as the underlay
      if (rx.port == held[0].get()) continue;
      EXPECT_TRUE(queues.insert(rx.queue).second);
      EXPECT_EQ(rx.heartbeat, rig.steering->heartbeat(rx.queue));
    }
  EXPECT_EQ(queues.size(), 3u);
  EXPECT_EQ(assignments[0]->rx.back().port, held[0].get());
}

TEST(Switchboard, MssClampOfAnOverlayIsForwardingState) {
  SwitchModel model;
  for (const std::uint8_t clamp : {0, 1}) {
    auto entry = std::make_unique<OverlayEntry>();
    entry->config = Rig::overlay(clamp, 1000u + clamp);
    entry->config.mss_clamp = clamp;
    entry->fdb = std::make_unique<OverlayFdb>(1024u);
    model.overlays.push_back(std::move(entry));
  }
  const auto state = build_state(model, 1);
  ASSERT_EQ(state->overlays.size(), 2u);
  EXPECT_FALSE(state->overlays[0].mss_clamp);
  EXPECT_TRUE(state->overlays[1].mss_clamp);
}

TEST(Switchboard, SteeringFollowsUnderlayAndOverlays) {
  Rig rig;
  rig.board->add_port(rig.underlay_port());
  EXPECT_FALSE(rig.steering->current);
  rig.board->set_overlay(rig.overlay());
  auto underlay = rig.underlay();
  underlay.vlan = 4003;
  rig.board->set_underlay(underlay);
  ASSERT_TRUE(rig.steering->current);
  EXPECT_EQ(rig.steering->current->vlan, 4003);
  EXPECT_EQ(rig.steering->current->vnis, std::vector<std::uint32_t>{1000});
  EXPECT_EQ(rig.steering->current->locals, std::vector<IpAddress>{kLocal4});
  rig.board->set_overlay(rig.overlay(1, 2000));
  EXPECT_EQ(rig.steering->current->vnis, (std::vector<std::uint32_t>{1000, 2000}));
  const auto calls = rig.steering->calls;
  const auto remote = rig.vtep(0, kRemote4);
  rig.board->set_vteps(std::span(&remote, 1));
  EXPECT_EQ(rig.steering->calls, calls) << "nothing to steer changed";
  rig.board->delete_overlay(0);
  rig.board->delete_overlay(1);
  EXPECT_FALSE(rig.steering->current);
}

TEST(Switchboard, CleanStopTurnsSteeringOffAndDestroysPorts) {
  Rig rig;
  rig.set_up();
  const auto steering = rig.steering;
  rig.board->shut_down();
  EXPECT_FALSE(steering->current);
  EXPECT_EQ(rig.destroyed.size(), 4u);  // eth0, g1, g2 and the held socket
}

TEST(Switchboard, HeldSocketIsOpenedForEachOverlayAddressAndPort) {
  Rig rig;
  rig.set_up();
  EXPECT_EQ(rig.hold_attempts, 1u);
  rig.board->set_overlay(rig.overlay(1, 2000));  // the same address and port: the same socket
  EXPECT_EQ(rig.hold_attempts, 1u);
  rig.held->incoming.push_back(FrameBuilder()
                                   .eth(kOurMac, kPeerMac)
                                   .ipv4(kRemote4, kLocal4)
                                   .udp(50000, kVxlanPort)
                                   .vxlan(1000)
                                   .raw(frame_from(kFar, kBroadcast))
                                   .build());
  rig.poll();
  EXPECT_EQ(rig.ports["g1"]->sent.size(), 1u);
  rig.board->set_underlay(rig.underlay(true));  // own address: the kernel has none to bind
  EXPECT_EQ(rig.destroyed, std::vector<std::string>{"held4789"});
}

TEST(Switchboard, WhatHeldSocketsLoseIsTheUnderlays) {
  Rig rig;
  rig.set_up();
  const auto missed = [&] { return rig.board->stats().ports[0].rx_missed; };
  rig.held->missed = 7;
  EXPECT_EQ(missed(), 7u);
  auto moved = rig.underlay();
  moved.vlan = 4003;  // another socket takes its place
  rig.board->set_underlay(moved);
  rig.held->missed = 2;
  EXPECT_EQ(missed(), 9u);
}

// driver=udp: all comes through that socket, no next hop has a MAC here.
TEST(Switchboard, WithSocketsBelowTheHeldSocketTakesBundlesAndMustBeThere) {
  Rig rig;
  rig.busy = true;
  auto port = rig.underlay_port();
  port.driver = protocol::PortDriver::kUdp;
  rig.board->add_port(port);
  rig.board->set_overlay(rig.overlay());
  auto underlay = rig.underlay();
  underlay.mac = {};
  underlay.hold_port = 0;  // there is no other way in
  EXPECT_EQ(error_of([&] { rig.board->set_underlay(underlay); }), EADDRINUSE);
  EXPECT_TRUE(rig.hold_options.takes_bundles);
  rig.busy = false;
  rig.board->tick(0, HeldSockets::kRetryMs + 1);
  EXPECT_EQ(error_of([&] { rig.board->set_underlay(underlay); }), 0);
  auto remote = rig.vtep(0, kRemote4);
  remote.next_hop = {};
  rig.board->set_vteps(std::span(&remote, 1));
  rig.board->add_port(rig.guest("g1"));
  rig.ports["g1"]->incoming.push_back(frame_from(kGuestA, kBroadcast));
  rig.poll();
  EXPECT_EQ(rig.ports["eth0"]->sent.size(), 1u);
}

TEST(Switchboard, BusyHeldSocketIsTriedAgainLater) {
  Rig rig;
  rig.busy = true;
  rig.set_up();
  const auto attempts = rig.hold_attempts;
  rig.board->tick(0, 1000);
  EXPECT_EQ(rig.hold_attempts, attempts);
  rig.board->tick(0, HeldSockets::kRetryMs + 1);
  EXPECT_EQ(rig.hold_attempts, attempts + 1);
  rig.busy = false;
  rig.board->tick(0, 2 * HeldSockets::kRetryMs + 2);
  EXPECT_NE(rig.held, nullptr);
}

TEST(Switchboard, DeadPortsAreRemovedAndReported) {
  Rig rig;
  rig.set_up();
  EXPECT_TRUE(rig.board->remove_dead_ports().empty());
  rig.ports["g1"]->alive = false;
  const auto lost = rig.board->remove_dead_ports();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].state, protocol::PortState::kLost);
  EXPECT_EQ(lost[0].index, rig.g1);
  EXPECT_EQ(rig.destroyed, std::vector<std::string>{"g1"});
  EXPECT_EQ(rig.board->ports().size(), 2u);
}

TEST(Switchboard, FdbRecordsOfUnknownPlacesAreSkippedAndCounted) {
  Rig rig;
  rig.set_up();
  auto elsewhere = rig.record(kFar, Location::port(rig.g1));
  elsewhere.overlay = 5;
  const std::vector<protocol::FdbRecord> records{
      rig.record(kFar, Location::port(999)),
      rig.record(kFar, Location::vtep(1)),
      rig.record(kFar, Location::port(0)),  // the underlay
      rig.record(kBroadcast, Location::port(rig.g1)),
      rig.record(MacAddress{}, Location::port(rig.g1)),
      elsewhere,
      rig.record(kFar, Location::vtep(0)),
      rig.record(kFar2, Location::from_raw(kNoIndex), FdbValue::kBlackhole)};
  const auto reply = rig.board->put_fdb(records, 100);
  EXPECT_EQ(reply.refused, 6u);
  EXPECT_EQ(reply.added, 2u);
}

TEST(Switchboard, FullFdbSaysSoAndFlushedEntriesMakeRoom) {
  Rig rig;
  rig.set_up();
  for (std::uint64_t i = 1; i <= 1024; ++i)
    ASSERT_EQ(rig.put(rig.record(mac(0x020000100000 + i), Location::port(rig.g1))).added, 1u);
  EXPECT_EQ(rig.put(rig.record(kFar, Location::port(rig.g1))).full, 1u);
  rig.board->flush_fdb({0, kNoIndex});
  EXPECT_TRUE(rig.dump().empty());
  EXPECT_EQ(rig.put(rig.record(kFar, Location::port(rig.g1))).added, 1u);
}

TEST(Switchboard, IdleEntriesAreDumpedAndRemovedByAge) {
  Rig rig;
  rig.set_up();
  (void)rig.put(rig.record(kGuestA, Location::port(rig.g1)), 100);
  auto older = rig.record(kGuestB, Location::port(rig.g1));
  older.updated_age_s = 200;
  (void)rig.put(older, 100);
  EXPECT_EQ(rig.dump(0, 110).size(), 2u);
  ASSERT_EQ(rig.dump(210, 110).size(), 1u);  // exactly that old is idle
  EXPECT_EQ(rig.dump(210, 110)[0].updated_age_s, 210);
  EXPECT_TRUE(rig.dump(211, 110).empty());
  protocol::FdbDelete request;
  request.key = older.key;
  request.overlay = 0;
  request.only_if_idle = 1;
  request.idle_s = 211;
  EXPECT_EQ(rig.board->delete_fdb(request, 110), FdbResult::kRefreshed);
  request.idle_s = 210;
  EXPECT_EQ(rig.board->delete_fdb(request, 110), FdbResult::kRemoved);
  EXPECT_EQ(rig.board->delete_fdb(request, 110), FdbResult::kNotFound);
}

TEST(Switchboard, VtepWithAnotherAddressTakesNoEntriesOver) {
  Rig rig;
  rig.set_up();
  (void)rig.put(rig.record(kFar, Location::vtep(0)));
  auto same = rig.vtep(0, kRemote4);
  same.resolved = 0;
  rig.board->set_vteps(std::span(&same, 1));
  EXPECT_EQ(rig.dump().size(), 1u);
  const auto other = rig.vtep(0, kOther4);
  rig.board->set_vteps(std::span(&other, 1));
  EXPECT_TRUE(rig.dump().empty());
  rig.board->delete_vtep(0, 0);
  EXPECT_TRUE(rig.board->vteps(0).empty());
  EXPECT_EQ(error_of([&] { rig.board->delete_vtep(0, 0); }), ENOENT);
}

TEST(Switchboard, OverlayChangedInPlaceKeepsItsFdb) {
  Rig rig;
  rig.set_up();
  (void)rig.put(rig.record(kFar, Location::vtep(0)));
  auto config = rig.overlay();
  config.mtu = 1300;
  rig.board->set_overlay(config);
  EXPECT_EQ(rig.dump().size(), 1u);
  config.fdb_capacity = 2048;
  rig.board->set_overlay(config);
  EXPECT_TRUE(rig.dump().empty());
}

TEST(Switchboard, RefusesWhatCannotBe) {
  Rig rig;
  rig.set_up();
  EXPECT_EQ(error_of([&] { rig.board->add_port(rig.guest("g1")); }), EEXIST);
  EXPECT_EQ(error_of([&] { rig.board->add_port(rig.guest("")); }), EINVAL);
  EXPECT_EQ(error_of([&] { rig.board->add_port(rig.guest("a/b")); }), EINVAL);
  EXPECT_EQ(error_of([&] { rig.board->add_port(rig.underlay_port("eth1")); }), EBUSY);
  auto port = rig.guest("g3");
  port.overlay = 9;
  EXPECT_EQ(error_of([&] { rig.board->add_port(port); }), ENOENT);
  port = rig.guest("g1");
  port.queues = 3;
  EXPECT_EQ(error_of([&] { rig.board->set_port(port); }), EINVAL);
  EXPECT_EQ(error_of([&] { rig.board->delete_overlay(0); }), EBUSY);
  EXPECT_EQ(error_of([&] { rig.board->set_overlay(rig.overlay(1, 1000)); }), EEXIST);
  EXPECT_EQ(error_of([&] { rig.board->set_overlay(rig.overlay(kMaxOverlays, 3)); }), EINVAL);
  for (const auto& bad : {rig.vtep(1, kRemote4), rig.vtep(1, v6(2)), rig.vtep(kMaxVteps, kOther4)})
    EXPECT_NE(error_of([&] { rig.board->set_vteps(std::span(&bad, 1)); }), 0);
  EXPECT_THROW(rig.board->add_port(rig.guest("broken")), std::runtime_error);
  EXPECT_EQ(rig.board->ports().size(), 3u);
}

TEST(Switchboard, PortSettingsChangeInPlace) {
  Rig rig;
  rig.set_up();
  auto config = rig.guest("g1");
  config.vlans = vlans(100, 100, 100);
  config.mtu = 1332;
  EXPECT_EQ(rig.board->set_port(config).index, rig.g1);
  EXPECT_EQ(rig.mtus["g1"], 1332u);
  rig.ports["g1"]->incoming.push_back(frame_from(kGuestA, kBroadcast));
  rig.poll();
  ASSERT_EQ(rig.ports["g2"]->sent.size(), 1u);
  EXPECT_EQ(rig.ports["g2"]->sent[0][12], 0x81);  // VLAN 100 is tagged there
}

protocol::WorkersConfig workers(const std::string& lcores, protocol::WorkerPoll poll = {}) {
  protocol::WorkersConfig config;
  protocol::set_text(config.lcores, lcores);
  config.poll = poll;
  return config;
}

TEST(Switchboard, PollChangesAtRunTimeLcoresByStartingOverWhileThereAreNoPorts) {
  Rig rig(2);
  const auto same = rig.board->set_workers(workers("0-1", protocol::WorkerPoll::kBusy));
  EXPECT_EQ(same.restarts, 0);
  EXPECT_EQ(protocol::text_of(same.note), "");
  for (const auto& worker : rig.workers) EXPECT_EQ(worker->poll(), PollMode::kBusy);
  EXPECT_EQ(rig.board->set_workers(workers("")).restarts, 0) << "as they are";
  EXPECT_EQ(rig.workers[1]->poll(), PollMode::kAdaptive);
  auto forbidden = workers("2,3");
  forbidden.may_restart = 0;
  EXPECT_EQ(error_of([&] { rig.board->set_workers(forbidden); }), EBUSY);
  EXPECT_EQ(rig.board->restart_lcores(), "");
  EXPECT_EQ(rig.board->set_workers(workers("2,3")).restarts, 1);
  EXPECT_EQ(rig.board->restart_lcores(), "2,3");
}

TEST(Switchboard, LcoresStayWhileThereArePortsAndPollIsSetAllTheSame) {
  Rig rig;
  rig.set_up();
  EXPECT_EQ(error_of([&] { rig.board->set_workers(workers("1", protocol::WorkerPoll::kBusy)); }),
            EBUSY);
  EXPECT_EQ(rig.board->restart_lcores(), "");
  EXPECT_EQ(rig.workers[0]->poll(), PollMode::kBusy);
}

TEST(Switchboard, LcoresAndPollOfTheCommandLineWinAndAreNamed) {
  Rig rig(1, {{0, 1}, true, true});
  const auto reply = rig.board->set_workers(workers("1", protocol::WorkerPoll::kBusy));
  EXPECT_EQ(reply.restarts, 0);
  EXPECT_EQ(protocol::text_of(reply.note),
            "its command line wins: --lcores 0 and --poll adaptive");
  EXPECT_EQ(rig.workers[0]->poll(), PollMode::kAdaptive);
  EXPECT_EQ(protocol::text_of(rig.board->set_workers(workers("0")).note), "");
}

TEST(Switchboard, LcoresThatCannotBeAreOneClearLine) {
  Rig rig;
  for (const auto& [list, line] : std::vector<std::pair<std::string, std::string>>{
           {"9", "lcores = 9: CPU 9 is not here; this process may use 0,1,2,3"},
           {"1,1", "lcores = 1,1: CPU 1 is named twice"},
           {"2-1", "lcores = 2-1: 2-1 is a range backwards"},
           {"1-", "lcores = 1-: expected CPU numbers such as 1 or 1,2 or 1-3"}}) {
    try {
      rig.board->set_workers(workers(list));
      ADD_FAILURE() << list;
    } catch (const RequestError& error) {
      EXPECT_EQ(error.code(), EINVAL);
      EXPECT_EQ(error.what(), line);
    }
  }
  EXPECT_EQ(error_of([&] { rig.board->set_workers(workers("", protocol::WorkerPoll{7})); }),
            EINVAL);
}

}  // namespace
}  // namespace vx::testkit
