// SPDX-License-Identifier: Apache-2.0
// How large a packet a path really carries: a search over packets that are sent with DF set and answered or not. Pure:
// answers and time in, packets to send out; who sends them is path_probe_schedule.h's business. One thread.
//
//   contact   the smallest size, kTries times, by each way in turn: does anybody answer?
//   whole     the size that is needed: nearly always answered, and that is all
//   narrow    kSizesAtOnce sizes between the largest answered and the smallest not answered, until these are neighbours
//   confirm   the result, the next size up and the needed size once more
//
// Each size is sent up to kTries times before it counts as not passing, the needed one twice as often. A path is called smaller
// only if a size was answered in the same round in which every larger one was not: a lost packet, or a path that went away in
// between, never makes it so. Late, repeated and reordered answers all count, for the size that they answer.
#pragma once

#include <cstdint>
#include <vector>

#include "control/event_loop.h"

namespace vx::control {

enum class ProbeMethod : std::uint8_t {
  kTunnel,  // inside the tunnel, answered by a vxplane peer (dataplane/probe_format.h)
  kEcho,    // ICMP echo to the VTEP's address
};

// Sizes are outer IP packets, bytes.
struct ProbeWay {
  ProbeMethod method{};
  std::uint16_t smallest = 0;  // says whether somebody answers
  std::uint16_t largest = 0;   // that can be sent this way
  friend bool operator==(const ProbeWay&, const ProbeWay&) = default;
};
struct ProbePlan {
  std::uint16_t needed = 0;    // what the path has to carry
  std::vector<ProbeWay> ways;  // in the order in which they are tried
  friend bool operator==(const ProbePlan&, const ProbePlan&) = default;
};

struct ProbeShot {
  std::uint32_t sequence = 0;  // from 1 on, each once
  ProbeMethod method{};
  std::uint16_t size = 0;
};

enum class ProbeVerdict : std::uint8_t {
  kRunning,
  kPasses,   // all that is needed, or all that can be sent where that is less: then passes < needed
  kSmaller,  // `passes` and no more
  kSilent,   // nobody answers
  kUnsure,   // answers stopped while it was measured: nothing is known
};
struct ProbeResult {
  ProbeVerdict verdict = ProbeVerdict::kRunning;
  ProbeMethod method{};        // by which it was answered
  std::uint16_t needed = 0;
  std::uint16_t passes = 0;    // the largest size that was answered; 0: none
  Milliseconds rtt = 0;        // of the first answer
};

class PathProbe {
 public:
  static constexpr unsigned kTries = 3;
  static constexpr unsigned kSizesAtOnce = 7;               // narrows eightfold a round
  static constexpr Milliseconds kContactGap = 150, kContactWait = 300;
  static constexpr Milliseconds kLongest = 4500;            // then it is over, whatever is known

  PathProbe(ProbePlan plan, Milliseconds now);

  // What to send now, and where time has run out, what follows from that.
  [[nodiscard]] std::vector<ProbeShot> tick(Milliseconds now);
  // When tick() has something to do at the latest.
  [[nodiscard]] Milliseconds due() const noexcept;
  // An answer; tick() may have more to send then. Anything that was not sent is ignored.
  void answered(std::uint32_t sequence, Milliseconds now);
  // It could not be sent, being larger than the own device carries: as good as not answered, with no more tries.
  void too_large(std::uint32_t sequence);

  [[nodiscard]] bool is_done() const noexcept { return result_.verdict != ProbeVerdict::kRunning; }
  [[nodiscard]] const ProbeResult& result() const noexcept { return result_; }

 private:
  enum class Phase : std::uint8_t { kContact, kWhole, kNarrow, kConfirm };
  struct Size {
    std::uint16_t bytes = 0;
    bool is_answered = false, is_too_large = false;
  };
  struct Sent {
    ProbeMethod method{};
    std::uint16_t size = 0;
    Milliseconds at = 0;
  };

  void begin(Phase phase, std::vector<std::uint16_t> sizes, Milliseconds now);
  void contact(std::size_t way, Milliseconds now);
  void narrow(Milliseconds now);
  void end_round(Milliseconds now);
  void finish(ProbeVerdict verdict);
  [[nodiscard]] bool is_round_over(Milliseconds now) const;
  [[nodiscard]] bool is_answered(std::uint16_t size) const;

  const ProbePlan plan_;
  const Milliseconds started_at_;
  ProbeResult result_;
  Phase phase_ = Phase::kContact;
  std::size_t way_ = 0;                // of plan_.ways
  std::uint16_t top_ = 0;              // the largest size that is tried
  std::uint16_t not_answered_ = 0;     // smallest size that is taken not to pass
  unsigned confirmations_ = 0;
  std::vector<Size> round_;
  unsigned tries_ = 0;
  Milliseconds gap_ = 0, wait_ = 0;    // between tries, and behind the last
  Milliseconds next_try_ = 0, round_end_ = 0;
  std::vector<Sent> sent_;             // by sequence - 1
};

}  // namespace vx::control
