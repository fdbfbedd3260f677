// SPDX-License-Identifier: Apache-2.0
// The UDP side of a session: one socket, and what sends through it on time. Sizes are bytes of whole IP packets.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "bench/link_accounting.h"
#include "bench/link_pacer.h"
#include "bench/link_socket.h"
#include "bench/link_tasks.h"

namespace vx::bench {

// Receives what has the session's token and comes from the peer; all else is as if it had not come. Answers echo requests when it is
// the server's: with as many bytes as came, to where they came from.
class UdpEndpoint : public Task {
 public:
  enum class Sent { kYes, kFull, kTooBig };

  // `peer`: with its port, or (the server) with port 0: it is then that of the first packet.
  UdpEndpoint(const Address& local, const Address& peer, const Token& token);

  // Of every packet with the token, `now` in ns.
  std::function<void(const PacketHeader&, unsigned bytes, std::uint64_t now_ns)> on_packet;

  [[nodiscard]] bool knows_peer() const { return peer_.port() != 0; }
  [[nodiscard]] std::uint16_t port() const { return local_address(fd_.get()).port(); }
  [[nodiscard]] std::uint64_t dropped() const { return dropped_by_socket(fd_.get()); }
  Sent send(const PacketHeader& header, unsigned bytes);
  // `count` packets of data, numbered from `sequence`; how many the kernel took. Throws LinkError when they do not fit the interface.
  unsigned send_data(std::uint8_t phase, std::uint64_t sequence, unsigned bytes, unsigned count, std::uint64_t now_ns);

  void watch(std::vector<pollfd>& all) const override { all.push_back({fd_.get(), POLLIN, 0}); }
  void step(TimePoint now, std::span<const pollfd> ready) override;

 private:
  static constexpr unsigned kBatch = 32;
  void received(std::span<const std::uint8_t> head, unsigned payload_bytes, const Address& from, std::uint64_t now_ns);

  FileDescriptor fd_;
  Address peer_;
  Token token_;
  bool is_server_;
  std::vector<std::uint8_t> padding_;
};

// The sender of a flow.
class UdpSender : public Task {
 public:
  UdpSender(UdpEndpoint& endpoint, const Flow& flow, TimePoint now);
  [[nodiscard]] bool is_over() const { return is_over_; }
  [[nodiscard]] std::uint64_t packets() const { return sequence_; }
  [[nodiscard]] TimePoint due() const override;
  void step(TimePoint now, std::span<const pollfd> ready) override;

 private:
  UdpEndpoint& endpoint_;
  Flow flow_;
  Pacer pacer_;
  std::uint64_t sequence_ = 0;
  TimePoint next_;
  bool is_over_ = false;
};

// Echo requests at a steady pace, and the round trips of their answers; the client's. What is not answered when the results are
// looked at is lost.
class Echoes : public Task {
 public:
  static constexpr unsigned kBytes = kMinPacketBytes;

  // Until `end` and no more than `limit`.
  Echoes(UdpEndpoint& endpoint, std::uint8_t phase, std::chrono::milliseconds interval, unsigned limit, TimePoint start, TimePoint end);
  void answered(const PacketHeader& reply, std::uint64_t now_ns);  // others than its own are ignored
  [[nodiscard]] unsigned sent() const { return sent_; }
  [[nodiscard]] bool is_over() const { return next_ >= end_; }
  [[nodiscard]] const RoundTrips& round_trips() const { return round_trips_; }
  [[nodiscard]] TimePoint due() const override { return is_over() ? TimePoint::max() : next_; }
  void step(TimePoint now, std::span<const pollfd> ready) override;

 private:
  UdpEndpoint& endpoint_;
  std::uint8_t phase_;
  std::chrono::milliseconds interval_;
  unsigned limit_, sent_ = 0;
  TimePoint next_, end_;
  std::vector<std::uint64_t> sent_ns_;  // 0 once answered
  RoundTrips round_trips_;
};

}  // namespace vx::bench
