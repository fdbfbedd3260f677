// SPDX-License-Identifier: Apache-2.0
#include "control/dataplane_client.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace vx::control {

using protocol::MessageHeader;
using protocol::MessageType;

namespace {

std::optional<std::vector<std::byte>> receive(int fd, std::vector<std::byte>& buffer, int flags) {
  const auto got = recv(fd, buffer.data(), buffer.size(), flags);
  if (got == 0) errno = ECONNRESET;  // the peer closed
  if (got <= 0) return std::nullopt;
  return std::vector<std::byte>(buffer.begin(), buffer.begin() + got);
}

}  // namespace

DataplaneClient::DataplaneClient(std::string run_dir)
    : path_(std::move(run_dir) + "/" + std::string(protocol::kSocketName)), buffer_(protocol::kMaxMessageBytes + 1) {}

DataplaneClient::~DataplaneClient() { disconnect(); }

bool DataplaneClient::fail(std::string why) {
  error_ = std::move(why);
  disconnect();
  return false;
}

void DataplaneClient::disconnect() {
  if (is_subscribed_ && on_disconnect_) {
    is_subscribed_ = false;
    on_disconnect_();
  }
  if (requests_ >= 0) close(requests_);
  if (events_ >= 0) close(events_);
  requests_ = events_ = -1;
}

int DataplaneClient::open_connection() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof address.sun_path) {
    error_ = fmt::format("{}: path too long for a socket", path_);
    return -1;
  }
  std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    error_ = fmt::format("{}: {}", path_, std::strerror(errno));
    if (fd >= 0) close(fd);
    return -1;
  }
  // Learn events come in bursts while control is busy with something else.
  const int size = 4 << 20;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  return fd;
}

bool DataplaneClient::connect() {
  disconnect();
  requests_ = open_connection();
  if (requests_ < 0) return false;
  const auto hello = request(MessageType::kHello);
  if (!hello) return fail(error_);
  const auto record = hello->record<protocol::HelloReply>();
  if (!record) return fail("the dataplane's hello is too short: versions differ, restart both");
  hello_ = *record;
  // The subscription is a request on the second connection; from its reply on only events come.
  events_ = open_connection();
  if (events_ < 0) return fail(error_);
  std::swap(requests_, events_);
  const bool subscribed = request(MessageType::kSubscribe).has_value();
  std::swap(requests_, events_);
  if (!subscribed) return fail("subscribe: " + error_);
  is_subscribed_ = true;
  return true;
}

std::optional<DataplaneClient::Reply> DataplaneClient::request(MessageType type, const void* records, std::size_t count,
                                                               std::size_t record_bytes, int timeout_ms) {
  if (requests_ < 0) {
    error_ = "the dataplane is not running";
    return std::nullopt;
  }
  MessageHeader header;
  header.type = type;
  header.count = static_cast<std::uint16_t>(count);
  header.sequence = ++sequence_;
  std::vector<std::byte> message(sizeof header + count * record_bytes);
  std::memcpy(message.data(), &header, sizeof header);
  if (count > 0) std::memcpy(message.data() + sizeof header, records, count * record_bytes);

  pollfd ready{requests_, POLLOUT, 0};
  if (poll(&ready, 1, timeout_ms) != 1 ||
      send(requests_, message.data(), message.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(message.size())) {
    fail("the dataplane went away");
    return std::nullopt;
  }
  ready.events = POLLIN;
  int polled = 0;
  while ((polled = poll(&ready, 1, timeout_ms)) < 0 && errno == EINTR) {
  }
  if (polled != 1) {
    fail(fmt::format("the dataplane did not answer within {} ms", timeout_ms));
    return std::nullopt;
  }
  auto reply = receive(requests_, buffer_, 0);
  const auto reply_header = reply ? protocol::read_header(*reply) : std::nullopt;
  if (!reply_header || reply_header->sequence != header.sequence) {
    fail(reply ? "the dataplane's answer is malformed: versions differ, restart both" : "the dataplane went away");
    return std::nullopt;
  }
  if (reply_header->status != 0) {
    const auto text = protocol::read_record<protocol::ErrorText>(*reply, 0);
    error_ = text ? std::string(protocol::text_of(text->text)) : std::strerror(reply_header->status);
    return std::nullopt;
  }
  return Reply{reply_header->count, std::move(*reply)};
}

std::optional<std::vector<std::byte>> DataplaneClient::next_event() {
  if (events_ < 0) return std::nullopt;
  auto message = receive(events_, buffer_, MSG_DONTWAIT);
  if (message) return message;
  if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) fail("the dataplane went away");
  return std::nullopt;
}

}  // namespace vx::control
