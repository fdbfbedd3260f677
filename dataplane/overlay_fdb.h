// SPDX-License-Identifier: Apache-2.0
// What the management thread keeps about one overlay's FDB beside the table: where the static
// entries are (they survive flushes, so a port that goes must take its own along), and how far the
// background sweep is.
//
// Threads: the management thread, the table's one writer. Times are seconds modulo 65536 of the
// dataplane's clock.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "dataplane/fdb.h"
#include "dataplane/protocol.h"

namespace vx {

class OverlayFdb {
 public:
  explicit OverlayFdb(std::size_t capacity) : table_(std::make_shared<Fdb>(capacity)) {}

  [[nodiscard]] const std::shared_ptr<Fdb>& table() const noexcept { return table_; }

  // Installs or replaces; the record's ages are turned into times. The caller has checked key and
  // location.
  FdbResult put(const protocol::FdbRecord& record, std::uint16_t now);
  // With only_if_idle: kRefreshed, and the entry stays, when it was updated less than idle_s
  // seconds ago.
  FdbResult remove(const protocol::FdbDelete& request, std::uint16_t now);
  // O(1): all non-static entries of `location`, or of the table.
  void flush(Location location) noexcept;
  void flush_all() noexcept;
  // Static entries too: the place is gone and its index will mean another one.
  void forget(Location location);
  // Appends up to `room` live entries from request.cursor on that were not updated for
  // request.idle_s seconds; looks at a bounded number of entries. Returns where to go on, 0 at the
  // end.
  std::uint64_t dump(const protocol::FdbDumpRequest& request, std::uint16_t now, std::size_t room,
                     std::vector<protocol::FdbRecord>& out) const;
  // One slice of the background sweep: a larger one while flushed entries wait to be reclaimed.
  void sweep_slice(std::uint16_t now) noexcept;

 private:
  std::shared_ptr<Fdb> table_;
  std::unordered_map<std::uint64_t, Location> statics_;
  std::size_t cursor_ = 0;
  unsigned rounds_to_reclaim_ =
      0;  // passes through cursor 0 until every slot flushed so far has been visited
};

}  // namespace vx
