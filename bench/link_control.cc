// SPDX-License-Identifier: Apache-2.0
#include "bench/link_control.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace vx::bench {
namespace {

constexpr std::string_view kAlive = R"({"type":"alive"})";
constexpr std::size_t kMaxQueuedBytes = 1 << 18, kMaxLines = 1024;

}  // namespace

ControlChannel::ControlChannel(FileDescriptor fd, std::string peer)
    : fd_(std::move(fd)), peer_(std::move(peer)), heard_(Clock::now()), beat_(heard_ + kBeat) {}

void ControlChannel::send(const Json& message) {
  queued_ += message.dump(-1, ' ', false, Json::error_handler_t::replace);
  queued_ += '\n';
  if (queued_.size() > kMaxQueuedBytes) throw LinkError(fmt::format("{} does not read what it is told", peer_));
  flush();
}

std::optional<std::string> ControlChannel::take() {
  if (lines_.empty()) return std::nullopt;
  std::string line = std::move(lines_.front());
  lines_.pop_front();
  return line;
}

void ControlChannel::flush() {
  while (!queued_.empty()) {
    const ssize_t count = ::send(fd_.get(), queued_.data(), queued_.size(), MSG_NOSIGNAL);
    if (count <= 0) return;  // a broken connection is found by reading
    queued_.erase(0, static_cast<std::size_t>(count));
  }
}

void ControlChannel::watch(std::vector<pollfd>& all) const {
  all.push_back({fd_.get(), static_cast<short>(POLLIN | (queued_.empty() ? 0 : POLLOUT)), 0});
}

void ControlChannel::step(TimePoint now, std::span<const pollfd> ready) {
  if (!ready.empty() && ready[0].revents != 0) read(now);
  flush();
  // After reading: one that stood still itself finds the signs of life in its socket.
  if (now - heard_ > kSilence) {
    read(now);
    if (now - heard_ > kSilence) throw LinkError(fmt::format("{} has been silent for {} s", peer_, kSilence.count() / 1000));
  }
  if (now >= beat_) {
    beat_ = now + kBeat;
    if (queued_.size() < kMaxLineBytes) queued_ += std::string(kAlive) + '\n';
    flush();
  }
}

void ControlChannel::read(TimePoint now) {
  char buffer[8192];
  for (int i = 0; i < 16; ++i) {
    const ssize_t count = recv(fd_.get(), buffer, sizeof buffer, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0 && !lines_.empty()) return;  // what it said last comes first
    if (count < 0) throw LinkError(fmt::format("{}: {}", peer_, std::strerror(errno)));
    if (count == 0) throw LinkError(fmt::format("{} closed the connection", peer_));
    heard_ = now;
    received_.append(buffer, static_cast<std::size_t>(count));
    split();
  }
}

void ControlChannel::split() {
  for (std::size_t end; (end = received_.find('\n')) != std::string::npos; received_.erase(0, end + 1)) {
    if (end > kMaxLineBytes) break;
    std::string line = received_.substr(0, end);
    if (line != kAlive) lines_.push_back(std::move(line));
  }
  if (received_.size() > kMaxLineBytes) throw LinkError(fmt::format("{} sent a control line longer than {} bytes", peer_, kMaxLineBytes));
  if (lines_.size() > kMaxLines) throw LinkError(fmt::format("{} sends more than is asked", peer_));
}

}  // namespace vx::bench
