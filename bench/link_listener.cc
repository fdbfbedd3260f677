// SPDX-License-Identifier: Apache-2.0
#include "bench/link_listener.h"

#include <fmt/format.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cerrno>

namespace vx::bench {

void Listener::serve(const Address& client, const Token& token) { served_ = Served{client, token}; }

void Listener::serve_nobody() {
  served_.reset();
  expect_data(false);
}

void Listener::expect_data(bool expected) {
  expects_data_ = expected;
  if (!expected) data_.reset();
}

void Listener::watch(std::vector<pollfd>& all) const {
  all.push_back({fd_.get(), POLLIN, 0});
  for (const Pending& pending : pending_) all.push_back({pending.fd.get(), POLLIN, 0});
}

void Listener::step(TimePoint now, std::span<const pollfd> ready) {
  std::size_t i = 1;
  for (auto pending = pending_.begin(); pending != pending_.end();) {
    bool stays = i >= ready.size() || ready[i].revents == 0 || read(*pending);
    ++i;
    if (stays && now - pending->since >= kPatience) {
      refuse(*pending, "nothing was said");
      stays = false;
    }
    pending = stays ? std::next(pending) : pending_.erase(pending);
  }
  if (!ready.empty() && ready[0].revents != 0) accept_all(now);
}

void Listener::accept_all(TimePoint now) {
  for (std::size_t i = 0; i < kMaxPending; ++i) {
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    FileDescriptor fd(accept4(fd_.get(), reinterpret_cast<sockaddr*>(&storage), &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) return;
    if (pending_.size() >= kMaxPending) {
      refuse(pending_.front(), "too many connections");
      pending_.pop_front();
    }
    const int yes = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    pending_.push_back({std::move(fd), Address(storage, length), now, {}});
  }
}

bool Listener::read(Pending& pending) {
  char buffer[1024];
  const ssize_t count = recv(pending.fd.get(), buffer, sizeof buffer, MSG_PEEK);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (count <= 0) return false;
  // The first line and no byte more: what follows is the stream's, or the session's.
  const std::string_view seen(buffer, static_cast<std::size_t>(count));
  const std::size_t end = seen.find('\n'), length = end == seen.npos ? seen.size() : end + 1;
  if (recv(pending.fd.get(), buffer, length, 0) != static_cast<ssize_t>(length)) return false;
  pending.line += seen.substr(0, std::min(end, length));
  if (pending.line.size() > kMaxLineBytes) {
    refuse(pending, "the first line is too long");
    return false;
  }
  if (end == seen.npos) return true;
  greeted(pending);
  return false;
}

void Listener::greeted(Pending& pending) {
  try {
    const Request request = parse_request(pending.line);
    if (const Data* data = std::get_if<Data>(&request)) {
      if (!served_ || !expects_data_ || data_ || data->token != served_->token || !pending.from.is_same_host(served_->client))
        return refuse(pending, "a data stream that nobody waits for");
      data_ = std::move(pending.fd);
      return;
    }
    const Hello* hello = std::get_if<Hello>(&request);
    if (hello == nullptr) return refuse(pending, "the first line is no hello");
    if (hello->version != kVersion) return refuse(pending, fmt::format("the server speaks version {}, the client {}", kVersion, hello->version));
    if (served_ || client_) return refuse(pending, fmt::format("busy: serving {}", served_ ? served_->client.host() : client_->address.host()));
    client_ = Client{std::move(pending.fd), pending.from};
  } catch (const LinkError& error) {
    refuse(pending, error.what());
  }
}

void Listener::refuse(const Pending& pending, const std::string& why) {
  log_(fmt::format("refused {}: {}", pending.from.host(), why));
  const std::string line = Json{{"type", "refused"}, {"error", why}}.dump() + '\n';
  (void)send(pending.fd.get(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace vx::bench
