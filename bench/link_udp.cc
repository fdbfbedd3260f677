// SPDX-License-Identifier: Apache-2.0
#include "bench/link_udp.h"

#include <fmt/format.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

namespace vx::bench {

UdpEndpoint::UdpEndpoint(const Address& local, const Address& peer, const Token& token)
    : fd_(open_udp(local)), peer_(peer), token_(token), is_server_(peer.port() == 0), padding_(kMaxIpBytes) {
  // Nothing that a link could compress.
  std::uint32_t state = 0x9e3779b9;
  for (std::uint8_t& byte : padding_) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::uint8_t>(state >> 24);
  }
}

UdpEndpoint::Sent UdpEndpoint::send(const PacketHeader& header, unsigned bytes) {
  std::uint8_t head[kHeaderBytes];
  encode(token_, header, head);
  const std::size_t payload = bytes - peer_.header_bytes();
  iovec parts[2] = {{head, sizeof head}, {padding_.data(), payload - sizeof head}};
  msghdr message{};
  message.msg_name = const_cast<sockaddr*>(peer_.get());
  message.msg_namelen = peer_.length();
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  if (sendmsg(fd_.get(), &message, 0) >= 0) return Sent::kYes;
  // What else is wrong (no route just now, a filter's EPERM) is the path's: the packet is lost.
  return errno == EMSGSIZE ? Sent::kTooBig : Sent::kFull;
}

unsigned UdpEndpoint::send_data(std::uint8_t phase, std::uint64_t sequence, unsigned bytes, unsigned count, std::uint64_t now_ns) {
  std::uint8_t heads[kBatch][kHeaderBytes];
  iovec parts[kBatch][2];
  mmsghdr messages[kBatch] = {};
  count = std::min(count, kBatch);
  for (unsigned i = 0; i < count; ++i) {
    encode(token_, {PacketKind::kData, phase, sequence + i, now_ns}, heads[i]);
    parts[i][0] = {heads[i], kHeaderBytes};
    parts[i][1] = {padding_.data(), bytes - peer_.header_bytes() - kHeaderBytes};
    msghdr& message = messages[i].msg_hdr;
    message.msg_name = const_cast<sockaddr*>(peer_.get());
    message.msg_namelen = peer_.length();
    message.msg_iov = parts[i];
    message.msg_iovlen = 2;
  }
  const int sent = sendmmsg(fd_.get(), messages, count, 0);
  if (sent < 0 && errno == EMSGSIZE) throw LinkError(fmt::format("packets of {} bytes do not fit the sender's interface", bytes));
  return sent < 0 ? 0 : static_cast<unsigned>(sent);
}

void UdpEndpoint::step(TimePoint, std::span<const pollfd> ready) {
  if (ready.empty() || ready[0].revents == 0) return;
  std::uint8_t heads[kBatch][kHeaderBytes];
  iovec parts[kBatch];
  sockaddr_storage froms[kBatch];
  mmsghdr messages[kBatch] = {};
  // Eight rounds: then others have their turn.
  for (int round = 0; round < 8; ++round) {
    for (unsigned i = 0; i < kBatch; ++i) {
      parts[i] = {heads[i], kHeaderBytes};
      msghdr& message = messages[i].msg_hdr;
      message = {};
      message.msg_name = &froms[i];
      message.msg_namelen = sizeof froms[i];
      message.msg_iov = &parts[i];
      message.msg_iovlen = 1;
    }
    // MSG_TRUNC: msg_len is the datagram's own length, whose rest nobody needs.
    const int count = recvmmsg(fd_.get(), messages, kBatch, MSG_DONTWAIT | MSG_TRUNC, nullptr);
    if (count <= 0) return;
    const std::uint64_t now_ns = to_ns(Clock::now());
    for (int i = 0; i < count; ++i) {
      const unsigned length = messages[i].msg_len;
      received({heads[i], std::min<std::size_t>(length, kHeaderBytes)}, length, Address(froms[i], messages[i].msg_hdr.msg_namelen), now_ns);
    }
    if (count < static_cast<int>(kBatch)) return;
  }
}

void UdpEndpoint::received(std::span<const std::uint8_t> head, unsigned payload_bytes, const Address& from, std::uint64_t now_ns) {
  if (!from.is_same_host(peer_)) return;
  const std::optional<PacketHeader> header = decode(token_, head);
  if (!header) return;
  if (!knows_peer()) peer_ = from;
  if (from.port() != peer_.port()) return;
  const unsigned bytes = payload_bytes + peer_.header_bytes();
  if (is_server_ && header->kind == PacketKind::kEchoRequest)
    (void)send({PacketKind::kEchoReply, header->phase, header->sequence, header->sent_ns}, bytes);
  if (on_packet) on_packet(*header, bytes, now_ns);
}

UdpSender::UdpSender(UdpEndpoint& endpoint, const Flow& flow, TimePoint now)
    : endpoint_(endpoint), flow_(flow), pacer_(flow.rate, flow.seconds, flow.bytes, to_ns(now)), next_(now) {}

TimePoint UdpSender::due() const { return is_over_ ? TimePoint::max() : next_; }

void UdpSender::step(TimePoint now, std::span<const pollfd>) {
  if (is_over_ || now < next_) return;
  const std::uint64_t now_ns = to_ns(now);
  // No second look at the clock: what is due by now is sent, the next turn sees to the rest.
  for (unsigned due = pacer_.due(now_ns); due > 0;) {
    const unsigned sent = endpoint_.send_data(flow_.phase, sequence_, flow_.bytes, due, now_ns);
    if (sent == 0) break;  // a full socket: what cannot be sent in time is not sent
    sequence_ += sent;
    due -= sent;
    pacer_.sent(sent);
  }
  is_over_ = pacer_.is_over(now_ns);
  next_ = std::max(from_ns(pacer_.next(now_ns)), now + std::chrono::microseconds(20));
}

Echoes::Echoes(UdpEndpoint& endpoint, std::uint8_t phase, std::chrono::milliseconds interval, unsigned limit, TimePoint start, TimePoint end)
    : endpoint_(endpoint), phase_(phase), interval_(interval), limit_(limit), next_(start), end_(end) {}

void Echoes::answered(const PacketHeader& reply, std::uint64_t now_ns) {
  if (reply.kind != PacketKind::kEchoReply || reply.phase != phase_ || reply.sequence >= sent_ns_.size() || sent_ns_[reply.sequence] == 0) return;
  // By our own memory, not by what the packet says.
  round_trips_.add(now_ns - sent_ns_[reply.sequence]);
  sent_ns_[reply.sequence] = 0;
}

void Echoes::step(TimePoint now, std::span<const pollfd>) {
  if (is_over() || now < next_) return;
  const std::uint64_t now_ns = to_ns(Clock::now());
  (void)endpoint_.send({PacketKind::kEchoRequest, phase_, sent_ns_.size(), now_ns}, kBytes);
  sent_ns_.push_back(now_ns);
  next_ = ++sent_ < limit_ ? std::max(next_ + interval_, now) : end_;
}

}  // namespace vx::bench
