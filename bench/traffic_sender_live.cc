// SPDX-License-Identifier: Apache-2.0
// The sender in the kernel: traffic_live.bpf.c, run by one long system call that a signal ends.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <net/if.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "bench/traffic_object.h"
#include "bench/traffic_sender.h"
#include "dataplane/clock.h"

namespace vx::traffic {
namespace {

constexpr double kNsPerSecond = 1e9, kUnitsPerNs = 65536;
constexpr int kForever = 1 << 30;  // pages; a signal is to end it

struct Constants {  // as traffic_live.bpf.c declares them
  std::uint32_t header_bytes, ifindex, flow_count, learn_at;
};

class XdpLiveSender final : public Sender {
 public:
  XdpLiveSender(const FrameMaker& frames, const Place& place)
      : place_(place), flows_(frames.flows()), page_(frames.length()),
        object_(VXT_SEND_OBJECT, Constants{frames.header_bytes(), ::if_nametoindex(place.device.c_str()), flows_, frames.is_learning() ? frames.source_mac_at() : 0},
                {{"vxt_out", flows_}, {"vxt_order", flows_}}),
        out_(object_.map("vxt_out"), sizeof(vxt_out) * flows_), order_(object_.map("vxt_order"), sizeof(std::uint64_t) * flows_) {
    for (std::uint32_t i = 0; i < flows_; ++i) {
      std::memcpy(out(i).headers, frames.headers().data() + std::size_t{i} * kHeaderRoom, frames.header_bytes());
      // Values of an array stand 8 bytes apart at least.
      std::memcpy(order_.bytes() + sizeof(std::uint64_t) * i, &frames.order()[i], sizeof(std::uint32_t));
    }
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, nullptr);
  }

  void begin(std::uint8_t run) override {
    run_ = run;
    for (std::uint32_t i = 0; i < flows_; ++i) out(i).sequence = 0;
  }

  Sent send(double pps, double seconds, const std::atomic<bool>& stop) override {
    vxt_pace pace = read();
    pace.start_ns = 0;
    pace.duration_ns = static_cast<std::uint64_t>(seconds * kNsPerSecond);
    pace.interval = pps > 0 ? static_cast<std::uint64_t>(kNsPerSecond * kUnitsPerNs / pps) : 0;
    pace.most_debt = std::max<std::uint64_t>(static_cast<std::uint64_t>(kMostDebtSeconds * kNsPerSecond * kUnitsPerNs), kBatch * pace.interval);
    pace.due = pace.skipped = 0;
    pace.run = run_;
    write(pace);
    std::atomic<bool> is_done = false;
    const pthread_t self = ::pthread_self();
    std::thread alarm([&] {
      while (!is_over(read()) && !stop && !is_done) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      // Again and again: one that comes before the call would be lost.
      for (; !is_done; std::this_thread::sleep_for(std::chrono::milliseconds(1))) ::pthread_kill(self, SIGUSR1);
    });
    const int error = run();
    is_done = true;
    alarm.join();
    if (error != 0 && error != -EINTR)
      throw std::system_error(-error, std::system_category(), place_.device + ": BPF_F_TEST_XDP_LIVE_FRAMES");
    pace = read();
    const std::uint64_t sending = pace.start_ns != 0 ? std::min<std::uint64_t>(monotonic_ns() - pace.start_ns, pace.duration_ns) : 0;
    // What the interval says was due, less what was dealt with, was skipped too: nobody ran when it ended.
    const std::uint64_t late = pace.interval != 0 && sending << 16 > pace.due ? ((sending << 16) - pace.due) / pace.interval : 0;
    return {static_cast<double>(sending) / kNsPerSecond, pace.skipped + late};
  }

  [[nodiscard]] std::vector<std::uint32_t> sent() const override {
    std::vector<std::uint32_t> numbers(flows_);
    for (std::uint32_t i = 0; i < flows_; ++i) numbers[i] = out(i).sequence;
    return numbers;
  }

 private:
  // The index that the program redirects to is looked up in the caller's namespace.
  int run() {
    const Inside inside(place_);
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = page_.data(), .data_size_in = static_cast<__u32>(page_.size()), .repeat = kForever,
                .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = kBatch);
    return ::bpf_prog_test_run_opts(object_.program(VXT_SEND_PROGRAM), &options);
  }
  static bool is_over(const vxt_pace& pace) { return pace.start_ns != 0 && monotonic_ns() - pace.start_ns >= pace.duration_ns; }
  [[nodiscard]] vxt_out& out(std::uint32_t flow) const noexcept { return reinterpret_cast<vxt_out*>(out_.bytes())[flow]; }
  [[nodiscard]] vxt_pace read() const {
    vxt_pace pace{};
    const std::uint32_t zero = 0;
    if (::bpf_map_lookup_elem(object_.map("vxt_pace"), &zero, &pace) != 0) throw std::system_error(errno, std::system_category(), "vxt_pace");
    return pace;
  }
  void write(const vxt_pace& pace) const {
    const std::uint32_t zero = 0;
    if (::bpf_map_update_elem(object_.map("vxt_pace"), &zero, &pace, BPF_ANY) != 0)
      throw std::system_error(errno, std::system_category(), "vxt_pace");
  }

  Place place_;
  std::uint32_t flows_;
  std::vector<std::uint8_t> page_;
  Object object_;
  MapMemory out_, order_;
  std::uint8_t run_ = 0;
};

}  // namespace

std::unique_ptr<Sender> make_xdp_live_sender(const FrameMaker& frames, const Place& place) {
  return std::make_unique<XdpLiveSender>(frames, place);
}

}  // namespace vx::traffic
