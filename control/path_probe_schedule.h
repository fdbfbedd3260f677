// SPDX-License-Identifier: Apache-2.0
// Which VTEP's path is measured when, what is known of it since, and what of that is news. Pure but for the sender that it is
// given: plans, answers and time in. One thread.
//
// Every VTEP is measured within kAtFirst after it appears, then every kEvery, a path that is too small every kWhileSmaller, a silent
// one every kAfterSilence, give or take a tenth; and when asked. At most kAtOnce at a time. What was measured stays until something else is: silence is no measurement.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "control/event_loop.h"
#include "control/path_probe.h"
#include "control/path_probe_wire.h"
#include "dataplane/wire.h"

namespace vx::control {

// The last measurement of a path that came to an end with an answer.
struct PathKnown {
  std::uint16_t passes = 0;  // outer IP packet, bytes
  std::uint16_t needed = 0;  // what was needed then
  bool is_smaller = false;   // than needed, by measurement: a ceiling
  ProbeMethod method{};
  Milliseconds at = 0;
};
struct PathChange {
  IpAddress vtep;
  PathKnown now;
  std::optional<PathKnown> before;
};

class PathProber {
 public:
  static constexpr Milliseconds kEvery = 5 * 60 * 1000, kWhileSmaller = 60 * 1000, kAfterSilence = 30 * 1000;
  static constexpr Milliseconds kAtFirst = 500;
  static constexpr std::size_t kAtOnce = 16;

  using Send = std::function<ProbeSent(const IpAddress& vtep, const ProbeShot& shot, ProbeId id)>;
  using Done = std::function<void(const ProbeResult& result)>;

  // `seed`: random; the run numbers and the jitter come from it.
  PathProber(Send send, std::uint64_t seed) : send_(std::move(send)), random_(seed) {}

  // The VTEPs there are and how each can be measured now; one without ways is not measured of itself. Others are forgotten, and who
  // waits for one of these is told that it is silent.
  void watch(const std::map<IpAddress, ProbePlan>& plans, Milliseconds now);
  // Measures soon and calls `done` once: at once when a measurement is under way already, with its result. False: no such VTEP.
  [[nodiscard]] bool measure(const IpAddress& vtep, Done done, Milliseconds now);
  // Something happened at `when` that may have changed the path: measured soon unless it was since. Said again, nothing more happens.
  void suspect(const IpAddress& vtep, Milliseconds when);
  void answered(ProbeId id, Milliseconds now);
  // To be called when is_busy() every 20 ms, else a few times a second.
  void tick(Milliseconds now);
  [[nodiscard]] bool is_busy() const noexcept { return running_ > 0; }

  // Null while nothing is known.
  [[nodiscard]] const PathKnown* find(const IpAddress& vtep) const;
  // Known paths that became larger or smaller since the last call, and smaller ones known for the first time.
  [[nodiscard]] std::vector<PathChange> take_changes() { return std::exchange(changes_, {}); }

 private:
  struct Path {
    ProbePlan plan;
    Milliseconds due = 0, suspected_at = 0;
    std::optional<PathKnown> known;
    std::unique_ptr<PathProbe> probe;  // under way
    std::uint32_t run = 0;
    std::vector<Done> waiting;
  };

  void advance(const IpAddress& vtep, Path& path, Milliseconds now);
  void end(const IpAddress& vtep, Path& path, Milliseconds now);
  std::uint32_t random();

  Send send_;
  std::uint64_t random_;
  std::map<IpAddress, Path> paths_;
  std::size_t running_ = 0;
  std::vector<PathChange> changes_;
};

}  // namespace vx::control
