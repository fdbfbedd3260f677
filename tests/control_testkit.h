// SPDX-License-Identifier: Apache-2.0
// A dataplane that can be stopped and started: the real server and switchboard on fake ports, in a thread.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>

#include "dataplane/run_dir.h"
#include "dataplane/server.h"
#include "tests/switchboard_testkit.h"

namespace vx::testkit {

class FakeDataplane {
 public:
  explicit FakeDataplane(std::string directory, bool has_netdevs = false)
      : directory_(std::move(directory)), has_netdevs_(has_netdevs) {
    start();
  }
  ~FakeDataplane() { stop(); }

  // As after kill -9: everything it had been told is gone.
  void start() {
    rig_ = std::make_unique<SwitchboardRig>();
    rig_->has_netdevs = has_netdevs_;
    events_ = std::make_unique<FileDescriptor>(eventfd(0, EFD_NONBLOCK));
    stop_ = std::make_unique<FileDescriptor>(eventfd(0, EFD_NONBLOCK));
    run_dir_ = std::make_unique<RunDir>(directory_);
    protocol::HelloReply hello;
    hello.instance = ++instance_;
    hello.workers = 1;
    server_ = std::make_unique<Server>(run_dir_->listen_on_socket(), ServerDescriptors{events_->get(), stop_->get()},
                                       *rig_->board, hello);
    thread_ = std::thread([this] { server_->run(); });
  }
  void stop() {
    if (!thread_.joinable()) return;
    raise(*stop_);
    thread_.join();
    server_.reset();
    run_dir_.reset();
    rig_.reset();
  }
  void restart() {
    stop();
    start();
  }
  // As a worker would; the workers do not run.
  void tell(const protocol::LearnEvent& event) {
    EXPECT_TRUE(rig_->workers[0]->learn_events().try_push(event));
    raise(*events_);
  }
  void learn(std::uint64_t key, Location place, OverlayIndex overlay = 0) {
    protocol::LearnEvent event;
    event.key = key;
    event.overlay = overlay;
    event.location = place.raw();
    tell(event);
  }
  void remote(std::uint64_t key, const IpAddress& vtep) {
    protocol::LearnEvent event;
    event.key = key;
    event.overlay = 0;
    event.address = vtep;
    tell(event);
  }
  // Control asks synchronously and runs in the test's thread: while a test looks in here, no request is under way.
  [[nodiscard]] SwitchboardRig& rig() { return *rig_; }
  // Of overlay 0; empty before there is one.
  [[nodiscard]] std::vector<protocol::FdbRecord> entries() {
    return rig_->board->overlays().empty() ? std::vector<protocol::FdbRecord>() : rig_->dump();
  }
  [[nodiscard]] PortIndex index_of(const std::string& name) {
    for (const auto& info : rig_->board->ports())
      if (protocol::text_of(info.config.name) == name) return info.index;
    return kNoIndex;
  }

 private:
  static void raise(const FileDescriptor& fd) {
    const std::uint64_t one = 1;
    EXPECT_EQ(write(fd.get(), &one, sizeof one), 8);
  }

  std::string directory_;
  bool has_netdevs_;
  std::uint64_t instance_ = 100;
  std::unique_ptr<SwitchboardRig> rig_;
  std::unique_ptr<FileDescriptor> events_, stop_;
  std::unique_ptr<RunDir> run_dir_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

}  // namespace vx::testkit
