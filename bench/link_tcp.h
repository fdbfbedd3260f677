// SPDX-License-Identifier: Apache-2.0
// One TCP stream of a phase. The rate is that of whole IP packets, as UDP's is: TCP's payload is paced that much lower.
#pragma once

#include <memory>
#include <vector>

#include "bench/link_socket.h"
#include "bench/link_tasks.h"

namespace vx::bench {

class TcpSender : public Task {
 public:
  TcpSender(const FileDescriptor& fd, const Flow& flow, TimePoint now);

  // All was acknowledged, or was given a second for it after the flow's end.
  [[nodiscard]] bool is_over() const { return is_over_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }  // written
  [[nodiscard]] std::uint64_t retransmits() const;
  [[nodiscard]] TimePoint due() const override { return is_over_ ? TimePoint::max() : next_; }
  void watch(std::vector<pollfd>& all) const override;
  void step(TimePoint now, std::span<const pollfd> ready) override;

 private:
  void write();

  int fd_;
  std::uint64_t bytes_ = 0, most_bytes_ = 0;
  TimePoint end_, next_;
  bool is_writing_ = true, is_over_ = false;
  std::vector<std::uint8_t> block_;
};

class TcpReceiver : public Task {
 public:
  explicit TcpReceiver(const FileDescriptor& fd);
  [[nodiscard]] bool is_over() const { return is_over_; }  // the sender closed its side, or the connection broke
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  // First to last arrival.
  [[nodiscard]] std::uint64_t nanoseconds() const { return last_ns_ - first_ns_; }
  void watch(std::vector<pollfd>& all) const override;
  void step(TimePoint now, std::span<const pollfd> ready) override;

 private:
  int fd_;
  std::uint64_t bytes_ = 0, first_ns_ = 0, last_ns_ = 0;
  bool is_over_ = false;
  std::vector<std::uint8_t> block_;
};

// What is still in the connection's queues is thrown away on closing: nothing is sent after a phase.
void close_hard(FileDescriptor& fd);

}  // namespace vx::bench
