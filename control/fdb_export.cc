// SPDX-License-Identifier: Apache-2.0
#include "control/fdb_export.h"

#include <linux/neighbour.h>

#include <algorithm>

namespace vx::control {

namespace {

constexpr std::uint64_t kTunnelBit = std::uint64_t{1} << 63;
constexpr std::size_t kTidyLeast = 65536;
constexpr std::size_t kLooksAWrite = 10;  // keys that need no write cost little, but not nothing

BridgeFdbWrite write_of(std::uint64_t row_key, const FdbExport::Place& place, bool is_static, bool is_delete) {
  const bool is_tunnel = (row_key & kTunnelBit) != 0;
  BridgeFdbWrite write;
  write.ifindex = place.ifindex;
  write.mac = fdb_key_mac(row_key);
  write.vid = fdb_key_vid(row_key);
  if (is_tunnel) write.dst = place.dst;
  write.is_static = is_static;
  write.is_delete = is_delete;
  return write;
}

std::uint64_t row_of(const MacAddress& mac, std::uint16_t vid, bool is_tunnel) {
  return is_tunnel ? fdb_key(0, mac) | kTunnelBit : fdb_key(vid, mac);
}

}  // namespace

FdbExport::RowKey FdbExport::bridge_row(std::uint64_t key) const noexcept {
  return row_of(fdb_key_mac(key), settings_.has_vlan_filtering ? fdb_key_vid(key) : std::uint16_t{0}, false);
}
FdbExport::RowKey FdbExport::tunnel_row(std::uint64_t key) noexcept { return row_of(fdb_key_mac(key), 0, true); }

void FdbExport::set(const FdbExportSettings& settings) {
  if (settings == settings_) return;
  if (settings.has_vlan_filtering != settings_.has_vlan_filtering) {
    // The rows have other names from now on; under the former ones they are deleted.
    for (auto& [row_key, row] : rows_) erase(row_key, row, orphans_);
    due_.clear();
    rows_.clear();
  }
  settings_ = settings;
  changed_all();
}

void FdbExport::changed(std::uint64_t key) {
  if (is_paused_) return;  // resume() looks at everything
  // A key may wait twice: its second turn finds nothing to do. That costs less than looking for it here, and the
  // queue is bounded by making the keys unique whenever it has doubled.
  if (queue_.size() >= tidy_at_) {
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(queue_done_));
    queue_done_ = 0;
    std::sort(queue_.begin(), queue_.end());
    queue_.erase(std::unique(queue_.begin(), queue_.end()), queue_.end());
    tidy_at_ = std::max(kTidyLeast, 2 * queue_.size());
  }
  queue_.push_back(key);
}

void FdbExport::write_again(std::uint64_t key) {
  for (const RowKey row_key : {bridge_row(key), tunnel_row(key)})
    if (const auto at = rows_.find(row_key); at != rows_.end()) at->second.is_lost = true;
  changed(key);
}

void FdbExport::changed_at(Location location) {
  learner_.for_each([&](std::uint64_t key, const FdbEntry& entry) {
    if (entry.location == location) write_again(key);
  });
}

void FdbExport::changed_all() {
  for (auto& [row_key, row] : rows_) {
    row.is_lost = true;
    if (row.owner != 0) changed(row.owner);
  }
  learner_.for_each([&](std::uint64_t key, const FdbEntry&) { changed(key); });
}

void FdbExport::pause() {
  is_paused_ = true;
  queue_.clear();
  queue_done_ = 0;
  due_.clear();
  // What is static stays ours: nothing else will ever delete it.
  std::erase_if(rows_, [](const auto& row) { return row.second.written.ifindex == 0 || !row.second.is_static; });
}

void FdbExport::resume() {
  is_paused_ = false;
  changed_all();
}

bool FdbExport::wrote(const BridgeFdbEntry& entry) const {
  const bool is_tunnel = entry.master == 0 && entry.dst.has_value();
  const auto at = rows_.find(row_of(entry.mac, entry.vid, is_tunnel));
  if (at == rows_.end() || at->second.written.ifindex != entry.ifindex) return false;
  const bool is_kernels_word = (entry.flags & NTF_EXT_LEARNED) != 0 ||
                               ((entry.state & (NUD_NOARP | NUD_PERMANENT)) != 0 && !at->second.is_static);
  return !is_kernels_word && (!is_tunnel || at->second.written.dst == entry.dst);
}

void FdbExport::lost(const BridgeFdbEntry& entry) {
  if (is_paused_ || !wrote(entry)) return;
  Row& row = rows_.at(row_of(entry.mac, entry.vid, entry.master == 0 && entry.dst.has_value()));
  row.is_lost = true;
  if (row.owner != 0) changed(row.owner);
}

bool FdbExport::is_kernels(std::uint64_t key, RowKey row_key) const {
  const FdbEntry* entry = learner_.find(key);
  if (entry == nullptr || entry->origin == FdbOrigin::kDynamic) return false;
  return (row_key & kTunnelBit) == 0 || entry->location.is_vtep();
}

std::optional<FdbExport::Place> FdbExport::wanted(std::uint64_t key, RowKey row_key, bool& is_static) const {
  const FdbEntry* entry = learner_.find(key);
  if (entry == nullptr || entry->origin != FdbOrigin::kDynamic) return std::nullopt;
  if ((entry->flags & FdbValue::kBlackhole) != 0) return std::nullopt;
  if ((row_key & kTunnelBit) != 0 && !entry->location.is_vtep()) return std::nullopt;
  is_static = entry->is_static();
  auto place = place_of_(entry->location);
  if (place && (row_key & kTunnelBit) == 0) place->dst.reset();  // the bridge knows the device only
  return place;
}

void FdbExport::schedule(RowKey row_key, Row& row, Milliseconds now) {
  if (row.due != 0) due_.erase({row.due, row_key});
  // Between a sixth and a third, by a multiplicative sequence: rows written together do not come due together.
  const Milliseconds sixth = std::max<Milliseconds>(settings_.ageing_s * Milliseconds{1000} / 6, 1);
  row.due = now + sixth + (spread_ += 0x9e3779b97f4a7c15u) % sixth;
  due_.insert({row.due, row_key});
}

void FdbExport::erase(RowKey row_key, Row& row, Writes& writes) {
  if (row.written.ifindex != 0) writes.push_back(write_of(row_key, row.written, row.is_static, true));
  row.written = {};
  row.is_static = false;
}

void FdbExport::write(RowKey row_key, Row& row, const Place& place, bool is_static, Milliseconds now, Writes& writes) {
  // "As if a frame had come" leaves a static row static: it has to go first.
  if (row.written.ifindex != 0 && row.is_static && !is_static) erase(row_key, row, writes);
  writes.push_back(write_of(row_key, place, is_static, false));
  row.written = place;
  row.is_static = is_static;
  row.is_lost = false;
  schedule(row_key, row, now);
}

// `key`, which changed, wants the row, no longer wants it, or never did.
void FdbExport::settle_row(RowKey row_key, std::uint64_t key, Milliseconds now, Writes& writes) {
  bool is_static = false;
  auto place = wanted(key, row_key, is_static);
  auto at = rows_.find(row_key);
  if (at == rows_.end()) {
    if (!place) return;
    at = rows_.try_emplace(row_key).first;
  }
  Row& row = at->second;
  std::erase(row.others, key);
  if (place) {
    if (row.owner != 0 && row.owner != key) row.others.push_back(row.owner);
    row.owner = key;
  } else if (is_kernels(key, row_key)) {
    row.owner = 0;  // it is the kernel's own row now
    row.others.clear();
    row.written = {};
  } else if (row.owner == key) {
    row.owner = 0;
  }
  while (!place && row.owner == 0 && !row.others.empty()) {
    const std::uint64_t heir = row.others.back();
    row.others.pop_back();
    place = wanted(heir, row_key, is_static);
    if (place) row.owner = heir;
  }
  if (place) {
    if (row.written != *place || row.is_static != is_static || row.is_lost) write(row_key, row, *place, is_static, now, writes);
  } else if (row.owner == 0) {
    erase(row_key, row, writes);
    if (row.due != 0) due_.erase({row.due, row_key});
    rows_.erase(at);
  }
}

void FdbExport::settle_key(std::uint64_t key, Milliseconds now, Writes& writes) {
  settle_row(tunnel_row(key), key, now, writes);  // first: no frame finds the device without a place
  settle_row(bridge_row(key), key, now, writes);
}

void FdbExport::refresh(Milliseconds now, std::size_t max, Writes& writes) {
  while (!due_.empty() && due_.begin()->first <= now && writes.size() < max) {
    const RowKey row_key = due_.begin()->second;
    due_.erase(due_.begin());
    Row& row = rows_.at(row_key);
    row.due = 0;
    bool is_static = false;
    const auto place = wanted(row.owner, row_key, is_static);
    if (!place || *place != row.written || is_static != row.is_static) {
      changed(row.owner);  // also when writing failed before
    } else if (is_static) {
      continue;  // stays by itself
    } else {
      writes.push_back(write_of(row_key, row.written, false, false));
    }
    schedule(row_key, row, now);
  }
}

std::vector<BridgeFdbWrite> FdbExport::take_writes(Milliseconds now, std::size_t max) {
  Writes writes;
  if (is_paused_) return writes;
  while (!orphans_.empty() && writes.size() < max / 2) {
    writes.push_back(orphans_.back());
    orphans_.pop_back();
  }
  refresh(now, writes.size() + max / 4, writes);
  std::size_t looks = max * kLooksAWrite;
  while (waiting() > 0 && writes.size() + kMostWritesAKey <= max && looks-- > 0) settle_key(queue_[queue_done_++], now, writes);
  if (waiting() == 0) {
    queue_.clear();
    queue_done_ = 0;
  }
  refresh(now, max, writes);
  return writes;
}

void FdbExport::failed(const BridgeFdbWrite& write, Milliseconds now) {
  if (write.is_delete) return;
  const RowKey row_key = row_of(write.mac, write.vid, write.dst.has_value());
  const auto at = rows_.find(row_key);
  if (at == rows_.end() || at->second.written.ifindex != write.ifindex || at->second.written.dst != write.dst) return;
  at->second.written = {};
  at->second.is_static = false;
  schedule(row_key, at->second, now);
}

}  // namespace vx::control
