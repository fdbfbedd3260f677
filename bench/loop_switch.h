// SPDX-License-Identifier: Apache-2.0
// A switch of one worker on LoopPorts: the underlay with one VTEP, guest ports, an FDB that knows every MAC that is used.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/forwarding.h"
#include "bench/frames.h"
#include "dataplane/worker.h"

namespace vx::bench {

enum class Way {
  kEncap,   // guest 1 to the VTEP
  kDecap,   // the VTEP to guest 1
  kBridge,  // guest 1 to guest 2
  kFlood,   // guest 1 to everybody, the VTEP included
};

struct Work {
  Way way = Way::kEncap;
  std::size_t inner_bytes = 64;
  std::size_t macs = 1;  // entries of the FDB, half of them here, half behind the VTEP (kBridge: at guest 2); one: one of each
  bool udp_csum = false;
  unsigned guests = 2;
};

class LoopSwitch {
 public:
  explicit LoopSwitch(const Work& work) : udp_csum_(work.udp_csum) {
    const std::size_t half = std::max<std::size_t>(work.macs / 2, 1);
    fdb = std::make_shared<Fdb>(std::max<std::size_t>(work.macs + 1, 65536));
    make_state(work.guests);
    const auto here = make_macs(half, false), there = make_macs(half, true);
    put(here, Location::port(1));
    put(there, work.way == Way::kBridge ? Location::port(2) : Location::vtep(0));
    if (work.way == Way::kDecap) {
      underlay->load(tunnel_load(work.inner_bytes, make_pairs(here, there), work.udp_csum));
      assignment.rx = {{underlay.get(), 0, 0, nullptr}};
    } else {
      const std::vector<MacAddress> all(half, MacAddress::from_u48(0xffffffffffff));
      guests[0]->load(guest_load(work.inner_bytes, make_pairs(work.way == Way::kFlood ? all : there, here)));
      assignment.rx = {{guests[0].get(), 1, 0, nullptr}};
    }
    worker.publish(&state, &assignment);
  }

  void put(const std::vector<MacAddress>& macs, Location place) const {
    const auto now = clock_seconds();
    for (const auto& mac : macs)
      if (fdb->put(fdb_key(1, mac), place, 0, now, now) != FdbResult::kAdded) std::abort();
  }
  // One burst in and out again with nothing in between.
  void pass_through() {
    Port* in = assignment.rx[0].port;
    Port* out = in == underlay.get() ? guests[0].get() : underlay.get();
    const unsigned count = in->rx(0, burst_.data(), kMaxBurst);
    for (unsigned i = 0; i < count; ++i) list_[i] = &burst_[i];
    sink_ += out->tx(0, list_.data(), count);
  }
  // Aborts on drops: a bench that drops measures nothing.
  [[nodiscard]] std::uint64_t sent_packets() {
    const auto counters = worker.snapshot(std::chrono::milliseconds(1));
    std::uint64_t sent = 0;
    for (const auto& port : counters->ports) sent += port.tx_packets;
    for (const auto drop : counters->drops)
      if (drop != 0) std::abort();
    return sent;
  }

  RingPool pool;
  ForwardingState state;
  Assignment assignment;
  std::shared_ptr<Fdb> fdb;
  std::shared_ptr<LoopPort> underlay = std::make_shared<LoopPort>("underlay");
  std::vector<std::shared_ptr<LoopPort>> guests;
  Worker worker{WorkerConfig{}, pool};

 private:
  void make_state(unsigned guest_count) {
    for (unsigned i = 1; i <= guest_count; ++i) guests.push_back(std::make_shared<LoopPort>("guest" + std::to_string(i)));
    fill_state(state, assignment, underlay, {guests.begin(), guests.end()}, fdb, udp_csum_);
  }

  bool udp_csum_;
  alignas(64) std::array<Packet, kMaxBurst> burst_;
  std::array<Packet*, kMaxBurst> list_{};
  std::uint64_t sink_ = 0;
};

}  // namespace vx::bench
