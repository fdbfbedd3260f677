// SPDX-License-Identifier: Apache-2.0
#include "dataplane/server.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "dataplane/clock.h"
#include "dataplane/log.h"

namespace vx {
namespace {

constexpr long kTickMs = 100;
constexpr std::uint64_t kTicksPerLivenessCheck = 10;
constexpr int kBatchIntervalMs = 1;       // a lone event goes at once, the following ones together
constexpr unsigned kDrainBudget = 16384;  // learn events taken in one go
constexpr unsigned kPuntBudget = 64;
constexpr std::size_t kMaxClients = 64;
constexpr std::size_t kMaxUnsent = 256;
constexpr int kSubscriberBufferBytes = 1 << 20;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::int64_t monotonic_ms() noexcept { return static_cast<std::int64_t>(monotonic_ns() / 1'000'000); }

void read_away(int fd) noexcept {
  std::uint64_t count;
  [[maybe_unused]] const auto got = read(fd, &count, sizeof count);
}

}  // namespace

Server::Server(FileDescriptor listener, const ServerDescriptors& descriptors,
               Switchboard& switchboard, const protocol::HelloReply& hello)
    : switchboard_(switchboard),
      handler_(switchboard, hello),
      descriptors_(descriptors),
      listener_(std::move(listener)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      timer_(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)),
      receive_buffer_(protocol::kMaxMessageBytes + 1),
      started_ms_(monotonic_ms()) {
  if (!epoll_ || !timer_) fail("management thread: epoll, timerfd");
  const timespec interval{kTickMs / 1000, kTickMs % 1000 * 1'000'000};
  const itimerspec spec{interval, interval};
  if (timerfd_settime(timer_.get(), 0, &spec, nullptr) != 0) fail("timerfd_settime");
  for (const int fd : {listener_.get(), timer_.get(), descriptors_.events, descriptors_.stop})
    watch(fd, EPOLLIN, EPOLL_CTL_ADD);
}

void Server::watch(int fd, std::uint32_t events, int operation) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.get(), operation, fd, &event) != 0) fail("epoll_ctl");
}

RequestHandler::Times Server::times() const {
  return {clock_seconds(), static_cast<std::uint64_t>(monotonic_ms() - started_ms_) / 1000,
          learn_events_lost_, punts_lost_};
}

void Server::run() {
  std::array<epoll_event, 32> events;
  for (bool is_running = true; is_running && switchboard_.restart_lcores().empty();) {
    const int count = epoll_wait(epoll_.get(), events.data(), events.size(),
                                 is_draining_ ? kBatchIntervalMs : -1);
    if (count < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < count; ++i)
      handle_event(events[static_cast<std::size_t>(i)].data.fd,
                   events[static_cast<std::size_t>(i)].events, is_running);
    if (is_draining_ && count <= 0 && !drain_workers()) {
      is_draining_ = false;
      watch(descriptors_.events, EPOLLIN, EPOLL_CTL_MOD);
    }
    for (const int fd : dropped_) clients_.erase(fd);
    dropped_.clear();
  }
}

void Server::handle_event(int fd, std::uint32_t events, bool& is_running) {
  if (fd == descriptors_.stop) {
    is_running = false;
  } else if (fd == listener_.get()) {
    accept_clients();
  } else if (fd == timer_.get()) {
    read_away(fd);
    tick();
    if (on_tick_) on_tick_();
  } else if (fd == descriptors_.events) {
    read_away(fd);
    if (!drain_workers()) return;
    is_draining_ = true;  // more will come: look again in a millisecond instead of at every event
    watch(fd, 0, EPOLL_CTL_MOD);
  } else if (const auto client = clients_.find(fd); client != clients_.end() && client->second.fd) {
    serve(client->second, events);
  }
}

// ---- clients ----

void Server::accept_clients() {
  for (;;) {
    FileDescriptor fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) return;  // EAGAIN; anything else shows again at the next event
    if (clients_.size() >= kMaxClients) {
      log_warning("dataplane.sock: more than {} clients, one refused", kMaxClients);
      continue;
    }
    const int number = fd.get();
    watch(number, EPOLLIN, EPOLL_CTL_ADD);
    clients_[number].fd = std::move(fd);
  }
}

void Server::serve(Client& client, std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush(client);
  if ((events & EPOLLIN) != 0 && client.unsent.empty() && !client.is_subscriber)
    return receive(client);
  if ((events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) drop_client(client.fd.get());
}

void Server::receive(Client& client) {
  const auto got =
      recv(client.fd.get(), receive_buffer_.data(), receive_buffer_.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return drop_client(client.fd.get());
  auto reply = handler_.handle({receive_buffer_.data(), static_cast<std::size_t>(got)}, times());
  if (reply.subscribes) {
    client.is_subscriber = true;
    subscribers_.push_back(client.fd.get());
    setsockopt(client.fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kSubscriberBufferBytes,
               sizeof kSubscriberBufferBytes);
    update_watch(client);
  }
  send(client, std::move(reply.message), true);
}

bool Server::send(Client& client, std::vector<std::byte> message, bool may_queue) {
  if (!client.fd) return false;
  if (client.unsent.empty()) {
    if (::send(client.fd.get(), message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
      return true;
    if (errno != EAGAIN && errno != ENOBUFS && errno != EINTR) {
      drop_client(client.fd.get());
      return false;
    }
  }
  if (!may_queue || client.unsent.size() >= kMaxUnsent) return false;
  client.unsent.push_back(std::move(message));
  update_watch(client);
  return true;
}

void Server::flush(Client& client) {
  while (!client.unsent.empty()) {
    const auto& message = client.unsent.front();
    if (::send(client.fd.get(), message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
      break;
    client.unsent.pop_front();
  }
  update_watch(client);
}

void Server::update_watch(const Client& client) {
  std::uint32_t events = EPOLLRDHUP;
  if (!client.unsent.empty())
    events |= EPOLLOUT;
  else if (!client.is_subscriber)
    events |= EPOLLIN;
  watch(client.fd.get(), events, EPOLL_CTL_MOD);
}

void Server::drop_client(int fd) {
  // The descriptor stays open until the end of the round, so that its number is not given to a new
  // client meanwhile.
  if (std::find(dropped_.begin(), dropped_.end(), fd) != dropped_.end()) return;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  std::erase(subscribers_, fd);
  dropped_.push_back(fd);
}

Server::Client* Server::subscriber() {
  return subscribers_.empty() ? nullptr : &clients_.at(subscribers_.back());
}

// ---- events ----

bool Server::drain_workers() {
  unsigned budget = kDrainBudget;
  bool found = false;
  for (Worker* worker : switchboard_.workers()) {
    found |= drain_learn_events(*worker, budget);
    found |= drain_punts(*worker);
  }
  send_batch();
  return found;
}

bool Server::drain_learn_events(Worker& worker, unsigned& budget) {
  protocol::LearnEvent event;
  bool found = false;
  for (; budget > 0 && worker.learn_events().try_pop(event); --budget) {
    found = true;
    if (!switchboard_.is_current(event)) continue;
    if (batch_.add(event)) continue;
    send_batch();
    (void)batch_.add(event);
  }
  return found;
}

bool Server::drain_punts(Worker& worker) {
  PuntedFrame frame;
  bool found = false;
  for (unsigned i = 0; i < kPuntBudget && worker.punts().try_pop(frame); ++i) {
    found = true;
    protocol::PuntFrame punt;
    punt.length =
        std::min<std::uint32_t>(frame.length, static_cast<std::uint32_t>(frame.bytes.size()));
    std::copy_n(frame.bytes.begin(), punt.length, punt.bytes.begin());
    protocol::set_text(punt.port, switchboard_.port_name(frame.port));
    protocol::MessageBuilder message(protocol::MessageType::kPunt, 0);
    message.append(punt);
    Client* client = subscriber();
    if (client == nullptr || !send(*client, message.take(), false)) ++punts_lost_;
  }
  return found;
}

void Server::send_batch() {
  if (batch_.events().empty()) return;
  Client* client = subscriber();
  if (client == nullptr || !send(*client, batch_.message(), false))
    learn_events_lost_ += batch_.events().size();
  batch_.clear();
}

void Server::tick() {
  if (!is_draining_) drain_workers();  // in case a wake-up was missed
  switchboard_.tick(clock_seconds(), monotonic_ms());
  if (++ticks_ % kTicksPerLivenessCheck != 0) return;
  switchboard_.follow_again();
  const auto lost = switchboard_.remove_dead_ports();
  for (const auto& info : lost)
    log_info("port {}: its netdev is gone, removed", protocol::text_of(info.config.name));
  for (std::size_t i = 0; i < lost.size();) {
    protocol::MessageBuilder message(protocol::MessageType::kPortEvents, 0);
    while (i < lost.size() && message.append(lost[i])) ++i;
    if (Client* client = subscriber()) send(*client, message.take(), true);
  }
}

}  // namespace vx
