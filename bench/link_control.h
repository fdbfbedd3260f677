// SPDX-License-Identifier: Apache-2.0
// The control connection, at either end: lines out and in, and a sign of life every half second. Throws LinkError from step()
// when the peer closes it, sends a line that is too long, does not read, or is silent for kSilence.
#pragma once

#include <chrono>
#include <deque>
#include <optional>
#include <string>

#include "bench/link_protocol.h"
#include "bench/link_socket.h"
#include "bench/link_tasks.h"

namespace vx::bench {

class ControlChannel : public Task {
 public:
  static constexpr std::chrono::milliseconds kSilence{4000}, kBeat{500};

  // `peer` is what errors call it.
  ControlChannel(FileDescriptor fd, std::string peer);

  void send(const Json& message);
  // The next line, without signs of life.
  [[nodiscard]] std::optional<std::string> take();
  [[nodiscard]] bool has_line() const { return !lines_.empty(); }
  // The peer was heard elsewhere.
  void heard(TimePoint now) { heard_ = now; }
  // Sends what is still queued, as far as the socket takes it.
  void flush();
  [[nodiscard]] int fd() const { return fd_.get(); }

  void watch(std::vector<pollfd>& all) const override;
  [[nodiscard]] TimePoint due() const override { return beat_; }
  void step(TimePoint now, std::span<const pollfd> ready) override;

 private:
  void read(TimePoint now);
  void split();

  FileDescriptor fd_;
  std::string peer_, received_, queued_;
  std::deque<std::string> lines_;
  TimePoint heard_, beat_;
};

}  // namespace vx::bench
