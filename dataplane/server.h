// SPDX-License-Identifier: Apache-2.0
// The management thread's loop: serves dataplane.sock, hands learn events, punted frames and
// vanished ports to the newest subscriber, and keeps house (FDB sweep, dead ports, refused
// sockets).
//
// No client can block it: sockets are non-blocking; a client that does not read its replies is not
// read from, a subscriber that does not keep up loses learn events and punts (counted; workers
// report again).
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "dataplane/file_descriptor.h"
#include "dataplane/learn_batch.h"
#include "dataplane/request_handler.h"
#include "dataplane/switchboard.h"

namespace vx {

struct ServerDescriptors {
  int events = -1;  // eventfd that workers write (WorkerConfig::events_fd); borrowed
  int stop = -1;    // readable: run() returns (a signalfd; an eventfd in tests); borrowed
};

class Server {
 public:
  // `listener`: a listening SOCK_SEQPACKET socket. Throws std::system_error.
  Server(FileDescriptor listener, const ServerDescriptors& descriptors, Switchboard& switchboard,
         const protocol::HelloReply& hello);

  // Called every 100 ms while run() runs, at the end of its housekeeping.
  void on_tick(std::function<void()> call) { on_tick_ = std::move(call); }
  // Until `stop`, or until the process is to start over (Switchboard::restart_lcores()).
  void run();

 private:
  struct Client {
    FileDescriptor fd;
    std::deque<std::vector<std::byte>> unsent;  // non-empty: not read from until it is
    bool is_subscriber = false;
  };

  void watch(int fd, std::uint32_t events, int operation);
  void accept_clients();
  void serve(Client& client, std::uint32_t events);
  void receive(Client& client);
  void flush(Client& client);
  // True: sent or queued. Without `may_queue` a full socket means false.
  bool send(Client& client, std::vector<std::byte> message, bool may_queue);
  void drop_client(int fd);
  void update_watch(const Client& client);
  [[nodiscard]] Client* subscriber();

  // Empties the workers' queues within bounds; true: there was something.
  bool drain_workers();
  bool drain_learn_events(Worker& worker, unsigned& budget);
  bool drain_punts(Worker& worker);
  void send_batch();
  void tick();
  void handle_event(int fd, std::uint32_t events, bool& is_running);
  [[nodiscard]] RequestHandler::Times times() const;

  Switchboard& switchboard_;
  RequestHandler handler_;
  ServerDescriptors descriptors_;
  FileDescriptor listener_, epoll_, timer_;
  std::map<int, Client> clients_;
  std::vector<int> subscribers_;  // oldest first
  std::vector<int>
      dropped_;  // closed after the round: a later event of it may name the same number
  LearnBatch batch_;
  std::vector<std::byte> receive_buffer_;
  bool is_draining_ =
      false;  // events seen less than a millisecond ago: batches then, not single events
  std::int64_t started_ms_ = 0;
  std::uint64_t ticks_ = 0;
  std::function<void()> on_tick_;
  std::uint64_t learn_events_lost_ = 0, punts_lost_ = 0;
};

}  // namespace vx
