// SPDX-License-Identifier: Apache-2.0
#include "dataplane/port_stats.h"

#include <algorithm>
#include <chrono>

namespace vx {
namespace {

constexpr std::chrono::milliseconds kSnapshotTimeout{200};
static_assert(VXP_EXIT_COUNT <= protocol::kMaxXdpExits);
static_assert(VXP_TAKE_COUNT <= protocol::kMaxTakeExits);

void add(PortCounters& sum, const PortCounters& other) {
  sum.rx_packets += other.rx_packets;
  sum.rx_bytes += other.rx_bytes;
  sum.tx_packets += other.tx_packets;
  sum.tx_bytes += other.tx_bytes;
  sum.rx_dropped += other.rx_dropped;
  sum.tx_dropped += other.tx_dropped;
}

// Not below zero: a worker that did not answer is missing in `a`.
PortCounters difference(const PortCounters& a, const PortCounters& b) {
  const auto less = [](std::uint64_t x, std::uint64_t y) { return x > y ? x - y : 0; };
  return {less(a.rx_packets, b.rx_packets), less(a.rx_bytes, b.rx_bytes),
          less(a.tx_packets, b.tx_packets), less(a.tx_bytes, b.tx_bytes),
          less(a.rx_dropped, b.rx_dropped), less(a.tx_dropped, b.tx_dropped)};
}

void add(WorkerCounters& sum, const WorkerCounters& other) {
  for (std::size_t i = 0; i < sum.drops.size(); ++i) sum.drops[i] += other.drops[i];
  for (std::size_t i = 0; i < sum.ports.size(); ++i) add(sum.ports[i], other.ports[i]);
  sum.cloned += other.cloned;
  sum.generated += other.generated;
  sum.segmented += other.segmented;
  sum.consumed += other.consumed;
  sum.coalesced += other.coalesced;
  sum.held += other.held;
  sum.learn_events += other.learn_events;
  sum.learn_events_lost += other.learn_events_lost;
  sum.punts_lost += other.punts_lost;
  sum.too_big_told += other.too_big_told;
  sum.too_big_limited += other.too_big_limited;
}

void fill(protocol::StatsReply& reply, const WorkerCounters& sum) {
  reply.drops = sum.drops;
  Totals& totals = reply.totals;
  for (const auto& port : sum.ports) {
    totals.received += port.rx_packets;
    totals.sent += port.tx_packets;
  }
  for (const auto drops : sum.drops) totals.dropped += drops;
  totals.cloned = sum.cloned;
  totals.generated = sum.generated;
  totals.segmented = sum.segmented;
  totals.consumed = sum.consumed;
  totals.coalesced = sum.coalesced;
  totals.held = sum.held;
  reply.learn_events = sum.learn_events;
  reply.learn_events_lost = sum.learn_events_lost;
  reply.punts_lost = sum.punts_lost;
  reply.too_big_told = sum.too_big_told;
  reply.too_big_limited = sum.too_big_limited;
}

void add(Port::Fragments& sum, const Port::Fragments& other) {
  sum.received += other.received;
  sum.lost += other.lost;
  sum.reassembled += other.reassembled;
}

// What the port's BPF programs have counted.
void add_exits(std::span<std::uint64_t> xdp, std::span<std::uint64_t> take, const PortEntry& entry) {
  const auto add_all = [](std::span<std::uint64_t> sum, const auto& exits) {
    for (std::size_t i = 0; i < exits.size(); ++i) sum[i] += exits[i];
  };
  if (entry.made.steering) add_all(xdp, entry.made.steering->exits());
  if (entry.made.take) add_all(take, entry.made.take->exits());
}

bool has_counted(const protocol::PortStats& stats) {
  const PortCounters& c = stats.counters;
  return (c.rx_packets | c.tx_packets | c.rx_dropped | c.tx_dropped | stats.rx_missed |
          stats.tx_errors) != 0;
}

}  // namespace

SwitchStats PortStatsKeeper::collect(std::span<Worker* const> workers,
                                     std::span<const std::shared_ptr<PortEntry>> ports) const {
  SwitchStats stats;
  WorkerCounters sum;
  for (Worker* worker : workers) {
    const auto snapshot = worker->snapshot(kSnapshotTimeout);
    if (!snapshot) {
      stats.reply.complete = 0;
      continue;
    }
    add(sum, *snapshot);
    stats.workers.push_back(
        {worker->config().lcore, 0, snapshot->polls, snapshot->busy_polls, snapshot->packets});
  }
  fill(stats.reply, sum);
  protocol::PortStats removed;
  protocol::set_text(removed.name, protocol::kRemovedPorts);
  for (const auto& counters : removed_) add(removed.counters, counters);
  removed.rx_missed = removed_lost_.rx_missed;
  removed.tx_errors = removed_lost_.tx_errors;
  stats.reply.xdp_exits = VXP_EXIT_COUNT;
  stats.reply.take_exits = VXP_TAKE_COUNT;
  std::copy(removed_exits_.begin(), removed_exits_.end(), stats.reply.xdp.begin());
  std::copy(removed_takes_.begin(), removed_takes_.end(), stats.reply.take.begin());
  Port::Fragments fragments = removed_fragments_;
  for (const auto& entry : ports) {
    if (!entry) continue;
    add(fragments, entry->made.port->fragments());
    const auto lost = entry->made.port->lost();
    stats.ports.push_back({entry->config.name,
                           difference(sum.ports[entry->index], removed_[entry->index]),
                           lost.rx_missed, lost.tx_errors});
    add_exits(stats.reply.xdp, stats.reply.take, *entry);
  }
  stats.reply.fragments_received = fragments.received;
  stats.reply.fragments_reassembled = fragments.reassembled;
  stats.reply.fragments_lost = fragments.lost;
  if (has_counted(removed)) stats.ports.push_back(removed);
  return stats;
}

void PortStatsKeeper::retire(std::span<Worker* const> workers, const PortEntry& entry) {
  PortCounters counted;
  bool complete = true;
  for (Worker* worker : workers) {
    const auto snapshot = worker->snapshot(kSnapshotTimeout);
    if (snapshot)
      add(counted, snapshot->ports[entry.index]);
    else
      complete = false;
  }
  // Without an answer the next user of the index inherits the figures: sums stay right.
  if (complete) removed_[entry.index] = counted;
  const auto lost = entry.made.port->lost();
  removed_lost_.rx_missed += lost.rx_missed;
  removed_lost_.tx_errors += lost.tx_errors;
  add(removed_fragments_, entry.made.port->fragments());
  add_exits(removed_exits_, removed_takes_, entry);
}

}  // namespace vx
