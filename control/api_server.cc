// SPDX-License-Identifier: Apache-2.0
#include "control/api_server.h"

#include <fmt/format.h>
#include <grp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

namespace vx::control {

namespace {

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error(path + ": path too long for a socket: use a shorter --run-dir");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

bool is_answered(const sockaddr_un& address) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool is = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return is;
}

}  // namespace

ApiServer::ApiServer(EventLoop& loop, Control& control, const std::string& run_dir)
    : loop_(loop), control_(control), requests_(control), path_(run_dir + "/" + std::string(api::kSocketName)) {
  const sockaddr_un address = address_of(path_);
  if (is_answered(address)) throw std::runtime_error(path_ + ": another vxplane-control runs here: stop it, or use another --run-dir");
  unlink(path_.c_str());
  listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const mode_t before = umask(0117);
  const bool is_bound = bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  const int error = errno;
  umask(before);
  if (!is_bound || listen(listener_, 16) != 0) {
    close(listener_);
    throw std::system_error(is_bound ? errno : error, std::generic_category(), path_);
  }
  if (const group* vxplane = getgrnam("vxplane"))
    if (chown(path_.c_str(), static_cast<uid_t>(-1), vxplane->gr_gid) != 0) {
      // Root alone may use it then, which is safe.
    }
  loop_.add(listener_, EPOLLIN, [this](std::uint32_t) { accept_clients(); });
}

ApiServer::~ApiServer() {
  control_.set_monitor({});
  while (!clients_.empty()) drop(clients_.begin()->first);
  loop_.remove(listener_);
  close(listener_);
  unlink(path_.c_str());
}

void ApiServer::accept_clients() {
  for (;;) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    if (clients_.size() >= kMaxClients) {
      close(fd);
      continue;
    }
    clients_[fd].number = ++connections_;
    loop_.add(fd, EPOLLIN, [this, fd](std::uint32_t events) { on_ready(fd, events); });
  }
}

void ApiServer::on_ready(int fd, std::uint32_t events) {
  Client& client = clients_.at(fd);
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !client.is_closing) {
    char buffer[16384];
    const auto got = recv(fd, buffer, sizeof buffer, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return drop(fd);
    if (got > 0) client.in.append({buffer, static_cast<std::size_t>(got)});
    take_lines(fd, client);
    if (client.in.pending_bytes() > api::kMaxRequestBytes) return drop(fd);
  }
  if (!write_out(fd, client)) return;
  update_monitor();
}

void ApiServer::take_lines(int fd, Client& client) {
  while (!client.is_closing && !client.is_waiting) {
    const auto line = client.in.next();
    if (!line) return;
    on_line(fd, client, *line);
  }
}

void ApiServer::on_reply(int fd, std::uint64_t number, const std::string& line) {
  const auto at = clients_.find(fd);
  if (at == clients_.end() || at->second.number != number) return;  // it did not wait
  Client& client = at->second;
  client.is_waiting = false;
  client.out += line;
  if (client.is_asking) return;  // who asked goes on
  take_lines(fd, client);
  (void)write_out(fd, client);
}

void ApiServer::on_line(int fd, Client& client, const std::string& line) {
  const auto request = api::decode(line);
  if (!request) {
    client.out += api::encode(api::error("the request is not a JSON object", api::Exit::kUsage));
    client.is_closing = true;
    return;
  }
  if (api::field<std::string>(*request, "object") == "fdb" && api::field<std::string>(*request, "command") == "monitor") {
    client.is_monitor = true;
    client.out += api::encode(api::ok());
    return;
  }
  client.is_waiting = client.is_asking = true;
  requests_.handle(*request, [this, fd, number = client.number](const std::string& reply) { on_reply(fd, number, reply); });
  client.is_asking = false;
}

bool ApiServer::write_out(int fd, Client& client) {
  while (client.written < client.out.size()) {
    const auto sent = send(fd, client.out.data() + client.written, client.out.size() - client.written,
                           MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) {
      drop(fd);
      return false;
    }
    if (sent < 0) break;
    client.written += static_cast<std::size_t>(sent);
  }
  if (client.written == client.out.size()) {
    client.out.clear();
    client.written = 0;
  }
  if (client.out.empty() && client.is_closing) {
    drop(fd);
    return false;
  }
  loop_.change(fd, client.out.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
  return true;
}

void ApiServer::drop(int fd) {
  loop_.remove(fd);
  clients_.erase(fd);
  close(fd);
  update_monitor();
}

void ApiServer::update_monitor() {
  bool is_wanted = false;
  for (const auto& [fd, client] : clients_) is_wanted = is_wanted || client.is_monitor;
  if (!is_wanted) return control_.set_monitor({});
  control_.set_monitor([this](const Json& what) {
    const std::string line = api::encode(api::event(what));
    for (auto& [fd, client] : clients_) {
      if (!client.is_monitor || client.is_closing) continue;
      client.out += line;
      // Far behind: cut off; what it has is written first.
      if (client.out.size() - client.written > kMaxBacklog) client.is_closing = true;
      loop_.change(fd, EPOLLIN | EPOLLOUT);
    }
  });
}

}  // namespace vx::control
