// SPDX-License-Identifier: Apache-2.0
#include "bench/link_tcp.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace vx::bench {
namespace {

constexpr std::size_t kBlockBytes = 128 * 1024;
constexpr unsigned kTimestampBytes = 12;
constexpr std::chrono::milliseconds kDrain{1000};
// Unsent data in the socket: enough for the fastest link between two turns, little when the time is over.
constexpr int kUnsentBytes = 256 * 1024;

std::optional<tcp_info> info_of(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return std::nullopt;
  return info;
}

}  // namespace

TcpSender::TcpSender(const FileDescriptor& fd, const Flow& flow, TimePoint now)
    : fd_(fd.get()), end_(now + std::chrono::seconds(flow.seconds)), next_(end_), block_(kBlockBytes, 0x5a) {
  const std::optional<tcp_info> info = info_of(fd_);
  const double mss = info && info->tcpi_snd_mss > 0 ? info->tcpi_snd_mss : 1200;
  const double headers = (local_address(fd_).is_v6() ? 40 : 20) + 20 + kTimestampBytes;
  const auto payload_rate = static_cast<std::uint64_t>(static_cast<double>(flow.rate) / 8 * mss / (mss + headers));
  most_bytes_ = payload_rate * flow.seconds;
  const unsigned long pace = payload_rate;
  if (setsockopt(fd_, SOL_SOCKET, SO_MAX_PACING_RATE, &pace, sizeof pace) != 0) throw LinkError(fmt::format("SO_MAX_PACING_RATE: {}", std::strerror(errno)));
  setsockopt(fd_, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &kUnsentBytes, sizeof kUnsentBytes);
}

std::uint64_t TcpSender::retransmits() const {
  const std::optional<tcp_info> info = info_of(fd_);
  return info ? info->tcpi_total_retrans : 0;
}

void TcpSender::watch(std::vector<pollfd>& all) const {
  if (is_writing_) all.push_back({fd_, POLLOUT, 0});
}

void TcpSender::step(TimePoint now, std::span<const pollfd> ready) {
  if (is_over_) return;
  if (is_writing_ && !ready.empty() && ready[0].revents != 0) write();
  if (is_writing_ && (now >= end_ || bytes_ >= most_bytes_)) {
    is_writing_ = false;
    shutdown(fd_, SHUT_WR);
    end_ = now + kDrain;
    next_ = now;
  }
  if (is_writing_ || now < next_) return;
  int unacknowledged = 0;
  is_over_ = now >= end_ || ioctl(fd_, SIOCOUTQ, &unacknowledged) != 0 || unacknowledged == 0;
  next_ = now + std::chrono::milliseconds(5);
}

void TcpSender::write() {
  for (int i = 0; i < 8 && bytes_ < most_bytes_; ++i) {
    const std::size_t size = std::min<std::uint64_t>(block_.size(), most_bytes_ - bytes_);
    const ssize_t count = send(fd_, block_.data(), size, MSG_NOSIGNAL);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count < 0) throw LinkError(fmt::format("the TCP stream broke: {}", std::strerror(errno)));
    bytes_ += static_cast<std::uint64_t>(count);
  }
}

TcpReceiver::TcpReceiver(const FileDescriptor& fd) : fd_(fd.get()), block_(2 * kBlockBytes) {}

void TcpReceiver::watch(std::vector<pollfd>& all) const {
  if (!is_over_) all.push_back({fd_, POLLIN, 0});
}

void TcpReceiver::step(TimePoint, std::span<const pollfd> ready) {
  if (is_over_ || ready.empty() || ready[0].revents == 0) return;
  for (int i = 0; i < 8; ++i) {
    const ssize_t count = recv(fd_, block_.data(), block_.size(), 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) {
      is_over_ = true;
      return;
    }
    last_ns_ = to_ns(Clock::now());
    if (bytes_ == 0) first_ns_ = last_ns_;
    bytes_ += static_cast<std::uint64_t>(count);
  }
}

void close_hard(FileDescriptor& fd) {
  const linger none{1, 0};
  if (fd) setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &none, sizeof none);
  fd.reset();
}

}  // namespace vx::bench
