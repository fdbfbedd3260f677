// SPDX-License-Identifier: Apache-2.0
// A switchboard on fake ports and workers that run only when a test polls them.
#pragma once

#include <gtest/gtest.h>
#include <net/if.h>

#include <atomic>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "dataplane/request_error.h"
#include "dataplane/switchboard.h"
#include "tests/testkit.h"

namespace vx::testkit {

class FakeSteering : public XdpSteering {
 public:
  void steer(const Target& target) override {
    current = target;
    ++calls;
  }
  void off() override { current.reset(), ++calls; }
  void set_rule(const FailOpenRule& told) override { rule = told; }
  std::array<std::uint64_t, VXP_EXIT_COUNT> exits() const override { return counts; }
  volatile vxp_beat* heartbeat(std::uint16_t queue) noexcept override {
    return queue < 4 ? &beats[queue] : nullptr;
  }

  std::optional<Target> current;
  FailOpenRule rule;
  unsigned calls = 0;
  std::array<std::uint64_t, VXP_EXIT_COUNT> counts{};
  vxp_beat beats[4]{};
};

class FakeTake : public TakePrograms {
 public:
  void set_rule(const FailOpenRule& told) override {
    rule = told;
    ++calls;
  }
  std::array<std::uint64_t, VXP_TAKE_COUNT> exits() const override { return counts; }
  bool is_followed() const noexcept override { return followed; }
  void follow_again() override {
    ++attached;
    if (!why_not.empty()) throw std::runtime_error(why_not);
    followed = true;
  }

  FailOpenRule rule;
  unsigned calls = 0;
  std::array<std::uint64_t, VXP_TAKE_COUNT> counts{};
  std::atomic<bool> followed = true;
  unsigned attached = 0;
  std::string why_not;
};

// Queues and life as a test sets them; tells when it is destroyed.
class FakePort : public MemoryPort {
 public:
  FakePort(std::string name, HeapPool& pool, std::vector<std::string>& destroyed)
      : MemoryPort(std::move(name), pool), destroyed_(destroyed) {}
  ~FakePort() override { destroyed_.push_back(name()); }
  std::uint16_t rx_queues() const noexcept override { return rx_count; }
  std::uint16_t tx_queues() const noexcept override { return tx_count; }
  bool is_alive() const noexcept override { return alive; }
  LostFrames lost() const noexcept override { return {missed, 0}; }
  Fragments fragments() const noexcept override { return in_pieces; }

  std::uint16_t rx_count = 1, tx_count = 1;
  std::uint64_t missed = 0;
  Fragments in_pieces;
  std::atomic<bool> alive = true;  // a server's thread reads it

 private:
  std::vector<std::string>& destroyed_;
};

struct SwitchboardRig {
  explicit SwitchboardRig(unsigned worker_count = 1,
                          WorkerRules rules = {{0, 1, 2, 3}, false, false}) {
    for (unsigned i = 0; i < worker_count; ++i) {
      WorkerConfig config;
      config.lcore = i;
      workers.push_back(std::make_unique<Worker>(config, pool));
      pointers.push_back(workers.back().get());
    }
    BackEnds back_ends;
    back_ends.make_port = [this](const protocol::PortConfig& config) { return make(config); };
    back_ends.make_held_socket = [this](const IpAddress&, std::uint16_t port, std::uint16_t,
                                        const MacAddress&, std::string& reason,
                                        const HeldSocketOptions& options) {
      hold_options = options;
      return hold(port, reason);
    };
    back_ends.set_mtu = [this](const std::string& name, unsigned mtu) { mtus[name] = mtu; };
    back_ends.workers = rules;
    board = std::make_unique<Switchboard>(pointers, back_ends);
  }

  MadePort make(const protocol::PortConfig& config) {
    const std::string name(protocol::text_of(config.name));
    if (name == "broken") throw std::runtime_error("broken: no such device");
    auto port = std::make_shared<FakePort>(name, pool, destroyed);
    port->rx_count = port->tx_count = config.queues != 0 ? config.queues : 1;
    ports[name] = port.get();
    MadePort made;
    made.port = port;
    made.ifindex = has_netdevs ? ::if_nametoindex(name.c_str()) : static_cast<std::uint32_t>(ports.size());
    if (config.driver == protocol::PortDriver::kAfXdp)
      made.steering = steering = std::make_shared<FakeSteering>();
    if (config.driver == protocol::PortDriver::kNetdev)
      made.take = takes[name] = std::make_shared<FakeTake>();
    return made;
  }
  HeldSocketOptions hold_options;  // of the last attempt
  std::shared_ptr<Port> hold(std::uint16_t udp_port, std::string& reason) {
    ++hold_attempts;
    if (busy) {
      reason = "held by a kernel vxlan device";
      return nullptr;
    }
    auto port = std::make_shared<FakePort>("held" + std::to_string(udp_port), pool, destroyed);
    held = port.get();
    return port;
  }
  void poll() {
    for (const auto& worker : workers) (void)worker->poll_once();
  }

  static protocol::PortConfig guest(const std::string& name, std::uint16_t queues = 0) {
    protocol::PortConfig config;
    protocol::set_text(config.name, name);
    config.overlay = 0;
    config.queues = queues;
    config.vlans = vlans(1, 2, 4094);
    return config;
  }
  static protocol::PortConfig underlay_port(const std::string& name = "eth0") {
    protocol::PortConfig config;
    protocol::set_text(config.name, name);
    config.role = protocol::PortRole::kUnderlay;
    config.driver = protocol::PortDriver::kAfXdp;
    return config;
  }
  static protocol::UnderlayConfig underlay(bool own_address = false) {
    protocol::UnderlayConfig config;
    protocol::set_text(config.port, "eth0");
    config.mtu = 1400;
    config.mac = kOurMac;
    config.own_address = own_address ? 1 : 0;
    config.local_count = 1;
    config.local[0] = kLocal4;
    return config;
  }
  static protocol::OverlayConfig overlay(OverlayIndex index = 0, std::uint32_t vni = 1000) {
    protocol::OverlayConfig config;
    config.index = index;
    config.vni = vni;
    config.local = kLocal4;
    config.mtu = 1332;
    config.fdb_capacity = 1024;
    config.tunnel_vlans = vlans(1, 2, 4094);
    return config;
  }
  static protocol::VtepConfig vtep(VtepIndex index, const IpAddress& address) {
    protocol::VtepConfig config;
    config.overlay = 0;
    config.index = index;
    config.address = address;
    config.flood = config.resolved = 1;
    config.next_hop = kPeerMac;
    return config;
  }
  static protocol::FdbRecord record(MacAddress address, Location location, std::uint8_t flags = 0) {
    protocol::FdbRecord record;
    record.key = fdb_key(1, address);
    record.overlay = 0;
    record.location = location.raw();
    record.flags = flags;
    return record;
  }
  protocol::FdbPutReply put(const protocol::FdbRecord& entry, std::uint16_t now = 100) {
    return board->put_fdb(std::span(&entry, 1), now);
  }
  [[nodiscard]] std::vector<protocol::FdbRecord> dump(std::uint16_t idle_s = 0,
                                                      std::uint16_t now = 100) const {
    std::vector<protocol::FdbRecord> all;
    protocol::FdbDumpRequest request;
    request.overlay = 0;
    request.idle_s = idle_s;
    do request.cursor = board->dump_fdb(request, now, 1000, all);
    while (request.cursor != 0);
    return all;
  }
  // eth0 the underlay, overlay 0, VTEP 0, guests g1 and g2.
  void set_up() {
    board->add_port(underlay_port());
    board->set_overlay(overlay());
    board->set_underlay(underlay());
    const auto remote = vtep(0, kRemote4);
    board->set_vteps(std::span(&remote, 1));
    g1 = board->add_port(guest("g1")).index;
    g2 = board->add_port(guest("g2")).index;
  }

  HeapPool pool;
  std::vector<std::string> destroyed;
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<Worker*> pointers;
  std::map<std::string, FakePort*> ports;  // alive unless in `destroyed`
  std::map<std::string, unsigned> mtus;
  std::shared_ptr<FakeSteering> steering;
  std::map<std::string, std::shared_ptr<FakeTake>> takes;  // of netdev ports
  FakePort* held = nullptr;
  unsigned hold_attempts = 0;
  bool busy = false;
  bool has_netdevs = false;  // ports are named after real ones, which control compares
  PortIndex g1 = kNoIndex, g2 = kNoIndex;
  std::unique_ptr<Switchboard> board;
};

// The errno of the RequestError that `action` throws; 0: none.
template <typename Action>
int error_of(Action&& action) {
  try {
    action();
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()), "");
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.code();
  }
  return 0;
}

}  // namespace vx::testkit
