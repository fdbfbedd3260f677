// SPDX-License-Identifier: Apache-2.0
// Takeover: which writes keep `bridge fdb show` on the kernel's bridge true to what vxplane has learned, so that the
// kernel can carry on at any moment. Pure: keys that changed and the time go in, writes come out (rtnetlink_fdb.cc
// does them). One per overlay; one thread.
//
// Exported are the learned entries (dynamic: the kernel ages them by itself should vxplane be gone) and the operator's
// static ones (static; a blackhole has no like there; sticky ones as learned). An entry at a port is one row of the
// bridge; one at a VTEP is a row of the bridge towards the vxlan device, and a row of that device's own table, which
// knows MACs without VIDs: of several (VID, MAC) that want one row, the newest has it. The kernel's own and external
// entries are the kernel's truth: never written, never deleted.
//
// Work is bounded: a changed key waits in a queue and is looked up when its turn comes, so the newest state is what is
// written, and once. Rows are made young again between a sixth and a third of the kernel's ageing, each
// at a time of its own. A delete is due only for what was written here, and names the place it was written to: the
// kernel refuses it (ENOENT) when the row points elsewhere by now.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "control/event_loop.h"
#include "control/learner.h"
#include "control/rtnetlink.h"

namespace vx::control {

struct FdbExportSettings {
  std::uint32_t ageing_s = 300;    // the shorter of the bridge's and the vxlan device's, as the kernel has them
  bool has_vlan_filtering = true;  // false: the bridge's rows have no VID
  friend bool operator==(const FdbExportSettings&, const FdbExportSettings&) = default;
};

class FdbExport {
 public:
  // Where the kernel has it: a port's ifindex, or the vxlan device's and the VTEP's address.
  struct Place {
    int ifindex = 0;
    std::optional<IpAddress> dst;
    friend bool operator==(const Place&, const Place&) = default;
  };
  // Empty: the kernel has no such place now; changed_at() when it has.
  using PlaceOf = std::function<std::optional<Place>(Location)>;
  static constexpr std::size_t kMostWritesAKey = 4;

  // `learner` outlives this. Its on_changed is to call changed().
  FdbExport(const Learner& learner, PlaceOf place_of) : learner_(learner), place_of_(std::move(place_of)) {}
  void set(const FdbExportSettings& settings);  // all is written again if they differ

  void changed(std::uint64_t key);  // cheap; any number of times
  // The kernel may have lost what was written (the port was down, a dump says so): all there is written again.
  void changed_at(Location location);
  void changed_all();

  // The next writes, `max` (at least kMostWritesAKey) at most, in the order they are to be done; they count as done
  // unless failed() says otherwise. Call it every 20 to 200 ms. A quarter of `max` is kept for making young again.
  [[nodiscard]] std::vector<BridgeFdbWrite> take_writes(Milliseconds now, std::size_t max);
  // It did not work: it is due again in a sixth of the ageing. (A delete is not: what it named is gone.)
  void failed(const BridgeFdbWrite& write, Milliseconds now);

  // While the kernel itself forwards and learns (bypass): nothing is written, and dynamic rows are the kernel's own.
  void pause();
  // From now on the learner's word counts again: tell it first what the kernel has learned meanwhile, or rows that
  // moved there are put back.
  void resume();
  [[nodiscard]] bool is_paused() const noexcept { return is_paused_; }

  // The kernel has dropped that row (somebody deleted it, its port was down for a moment): if it was written here and
  // is still wanted, it is written again.
  void lost(const BridgeFdbEntry& entry);
  // The row says what was written here: not the kernel's word, even if it is static.
  [[nodiscard]] bool wrote(const BridgeFdbEntry& entry) const;
  [[nodiscard]] std::size_t waiting() const noexcept { return queue_.size() - queue_done_; }
  [[nodiscard]] std::size_t rows() const noexcept { return rows_.size(); }

 private:
  // MAC in bits 0-47, VID (0: none) in 48-59, bit 63: the vxlan device's own table.
  using RowKey = std::uint64_t;
  struct Hash {
    std::size_t operator()(std::uint64_t key) const noexcept {
      key *= 0x9e3779b97f4a7c15u;
      return key ^ key >> 32;
    }
  };
  struct Row {
    std::uint64_t owner = 0;            // the learner's key that has it; 0: nobody
    std::vector<std::uint64_t> others;  // that want it as well, newest last
    Place written;                      // ifindex 0: nothing
    bool is_static = false;             // as written
    bool is_lost = false;               // to be written even if nothing changed
    Milliseconds due = 0;               // to be made young again; 0: not scheduled
  };
  using Rows = std::unordered_map<RowKey, Row, Hash>;
  using Writes = std::vector<BridgeFdbWrite>;

  [[nodiscard]] RowKey bridge_row(std::uint64_t key) const noexcept;
  [[nodiscard]] static RowKey tunnel_row(std::uint64_t key) noexcept;
  // What `key` wants in that row; empty: nothing.
  [[nodiscard]] std::optional<Place> wanted(std::uint64_t key, RowKey row_key, bool& is_static) const;
  [[nodiscard]] bool is_kernels(std::uint64_t key, RowKey row_key) const;
  void write_again(std::uint64_t key);
  void settle_key(std::uint64_t key, Milliseconds now, Writes& writes);
  void settle_row(RowKey row_key, std::uint64_t key, Milliseconds now, Writes& writes);
  void write(RowKey row_key, Row& row, const Place& place, bool is_static, Milliseconds now, Writes& writes);
  void erase(RowKey row_key, Row& row, Writes& writes);
  void schedule(RowKey row_key, Row& row, Milliseconds now);
  void refresh(Milliseconds now, std::size_t max, Writes& writes);

  const Learner& learner_;
  PlaceOf place_of_;
  FdbExportSettings settings_;
  Rows rows_;
  std::vector<std::uint64_t> queue_;
  std::size_t queue_done_ = 0;       // of these, already looked at
  std::size_t tidy_at_ = 65536;      // length at which repeated keys are taken out
  std::set<std::pair<Milliseconds, RowKey>> due_;
  Writes orphans_;  // deletes of rows that go by another name now
  std::uint64_t spread_ = 0;
  bool is_paused_ = false;
};

}  // namespace vx::control
