// SPDX-License-Identifier: Apache-2.0
// control.sock: lines of JSON from vxctl to Requests and back (api.h). One thread, the event loop's.
//
// A client that does not read gets no more than kMaxBacklog behind; then it is dropped, as is one whose line
// is longer than api::kMaxRequestBytes.
#pragma once

#include <map>
#include <string>

#include "control/api.h"
#include "control/event_loop.h"
#include "control/requests.h"

namespace vx::control {

class ApiServer {
 public:
  static constexpr std::size_t kMaxBacklog = 8 << 20;  // of monitor events; a reply may be longer
  static constexpr std::size_t kMaxClients = 64;

  // Listens on RUN/control.sock (0660, group vxplane where there is one). Throws std::system_error, or
  // std::runtime_error when another control listens there.
  ApiServer(EventLoop& loop, Control& control, const std::string& run_dir);
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

 private:
  struct Client {
    api::LineBuffer in;
    std::string out;
    std::size_t written = 0;  // of `out`
    bool is_monitor = false;
    bool is_closing = false;  // close when all is written
    std::uint64_t number = 0;  // of the connection: descriptors come again
    bool is_waiting = false;   // for a reply that takes its time: later requests wait too, replies are in order
    bool is_asking = false;    // its request is being handled
  };
  void accept_clients();
  void on_ready(int fd, std::uint32_t events);
  void take_lines(int fd, Client& client);
  void on_line(int fd, Client& client, const std::string& line);
  // Early, while the request is being handled, or late.
  void on_reply(int fd, std::uint64_t number, const std::string& line);
  // False: the client is gone.
  bool write_out(int fd, Client& client);
  void drop(int fd);
  void update_monitor();

  EventLoop& loop_;
  Control& control_;
  Requests requests_;
  std::string path_;
  int listener_ = -1;
  std::uint64_t connections_ = 0;
  std::map<int, Client> clients_;
};

}  // namespace vx::control
