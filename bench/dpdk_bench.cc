// SPDX-License-Identifier: Apache-2.0
// Cycles per packet of the encap and decap ways on DPDK's ports without a wire: what a pcap file has comes in over and over
// (net_pcap, infinite_rx) and leaves through net_null, both as `dpdk:` ports. bench/compare gives another switch the same
// ports and the same file. The floor: the same two ports, received and sent without anything in between.
//
//   dpdk_bench encap|decap FILE CPU      one worker on that CPU; prints {"floor", "total", "above_floor", ...} as JSON
//
// Encap's frames are a guest's, decap's are from the VTEP kThere to kHere in VNI kVni. The FDB knows every MAC in the file:
// destinations where the frames go, sources where they come from. Exit 1 when a frame is dropped: then nothing was measured.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>

#include "bench/forwarding.h"
#include "bench/measure.h"
#include "dataplane/eal.h"
#include "dataplane/port_factory.h"
#include "dataplane/worker.h"

namespace vx::bench {
namespace {

constexpr unsigned kBurstsPerRound = 64, kRounds = 400;
constexpr unsigned kSpareBuffers = 4096;             // besides those that net_pcap keeps: one a frame of the file
constexpr std::size_t kFileHeader = 24, kRecordHeader = 16;

struct Macs {
  std::set<std::uint64_t> here, there;
  unsigned frames = 0;
};

// Of a pcap file of this machine's byte order.
Macs read_macs(const std::string& path, bool is_encap) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const std::size_t at = is_encap ? 0 : kOuter;
  Macs macs;
  for (std::size_t record = kFileHeader; record + kRecordHeader <= bytes.size(); ++macs.frames) {
    std::uint32_t length = 0;
    std::memcpy(&length, &bytes[record + 8], sizeof length);
    if (length < at + sizeof(EthernetHeader) || record + kRecordHeader + length > bytes.size()) throw std::runtime_error(path + ": a frame is cut off");
    MacAddress to, from;
    std::memcpy(to.bytes.data(), &bytes[record + kRecordHeader + at], to.bytes.size());
    std::memcpy(from.bytes.data(), &bytes[record + kRecordHeader + at + 6], from.bytes.size());
    (is_encap ? macs.there : macs.here).insert(to.to_u48());
    (is_encap ? macs.here : macs.there).insert(from.to_u48());
    record += kRecordHeader + length;
  }
  if (macs.frames == 0) throw std::runtime_error(path + ": no frames in it");
  return macs;
}

std::shared_ptr<Port> make_dpdk(const std::string& name, const std::string& devargs, protocol::PortRole role, const PortContext& context) {
  protocol::PortConfig config;
  if (!protocol::set_text(config.name, name) || !protocol::set_text(config.devargs, devargs)) throw std::runtime_error(devargs + ": too long a path");
  config.driver = protocol::PortDriver::kDpdk;
  config.role = role;
  return make_port(config, context).port;
}

class DpdkSwitch {
 public:
  DpdkSwitch(bool is_encap, const std::string& path) : macs_(read_macs(path, is_encap)), pool_(make_mbuf_pool("frames", macs_.frames + kSpareBuffers)) {
    const PortContext context{pool_.get(), 1, "bench", ""};
    const std::string in = "net_pcap,rx_pcap=" + path + ",infinite_rx=1", out = "net_null,no-rx=1";
    underlay_ = make_dpdk("underlay", is_encap ? out : in, protocol::PortRole::kUnderlay, context);
    guest_ = make_dpdk("guest", is_encap ? in : out, protocol::PortRole::kGuest, context);
    fdb_ = std::make_shared<Fdb>(std::max<std::size_t>(macs_.here.size() + macs_.there.size(), 65536));
    put(macs_.here, Location::port(1));
    put(macs_.there, Location::vtep(0));
    fill_state(state_, assignment_, underlay_, {guest_}, fdb_, false);
    // Both are polled, as in a dataplane.
    assignment_.rx = {{underlay_.get(), 0, 0, nullptr}, {guest_.get(), 1, 0, nullptr}};
    worker_ = std::make_unique<Worker>(WorkerConfig{}, *pool_);
    worker_->publish(&state_, &assignment_);
    in_ = is_encap ? guest_.get() : underlay_.get();
    out_ = is_encap ? underlay_.get() : guest_.get();
  }

  void run() {
    result = compare([this] { pass_through(); },
                     [this] {
                       for (unsigned b = 0; b < kBurstsPerRound; ++b) (void)worker_->poll_once();
                     },
                     kBurstsPerRound * kMaxBurst, kRounds);
    const auto counters = worker_->snapshot(std::chrono::milliseconds(1));
    for (const auto& port : counters->ports) sent += port.tx_packets;
    for (const auto drop : counters->drops) dropped += drop;
  }

  Compared result;
  std::uint64_t sent = 0, dropped = 0;
  [[nodiscard]] unsigned frames() const noexcept { return macs_.frames; }

 private:
  void put(const std::set<std::uint64_t>& macs, Location place) const {
    const auto now = clock_seconds();
    for (const auto mac : macs)
      if (fdb_->put(fdb_key(1, MacAddress::from_u48(mac)), place, 0, now, now) != FdbResult::kAdded) throw std::runtime_error("the FDB is full");
  }
  void pass_through() noexcept {
    for (unsigned b = 0; b < kBurstsPerRound; ++b) {
      const unsigned count = in_->rx(0, burst_.data(), kMaxBurst);
      for (unsigned i = 0; i < count; ++i) list_[i] = &burst_[i];
      (void)out_->tx(0, list_.data(), count);
    }
  }

  Macs macs_;
  std::unique_ptr<BufferPool> pool_;
  std::shared_ptr<Port> underlay_, guest_;
  std::shared_ptr<Fdb> fdb_;
  ForwardingState state_;
  Assignment assignment_;
  std::unique_ptr<Worker> worker_;
  Port *in_ = nullptr, *out_ = nullptr;
  alignas(64) std::array<Packet, kMaxBurst> burst_;
  std::array<Packet*, kMaxBurst> list_{};
};

int run_on_worker(void* bench) {
  static_cast<DpdkSwitch*>(bench)->run();
  return 0;
}

int measure(bool is_encap, const std::string& path, unsigned cpu) {
  EalSettings settings;
  settings.cpus = {cpu};
  settings.no_huge = true;
  settings.memory_mb = 512;
  settings.file_prefix = "dpdk_bench" + std::to_string(::getpid());
  Eal eal(settings);
  DpdkSwitch bench(is_encap, path);
  eal.launch(0, run_on_worker, &bench);
  eal.join();
  if (bench.dropped != 0 || bench.sent == 0) {
    std::fprintf(stderr, "dpdk_bench: %lu frames sent, %lu dropped\n", static_cast<unsigned long>(bench.sent), static_cast<unsigned long>(bench.dropped));
    return 1;
  }
  const auto& [floor, work, above_floor] = bench.result;
  std::printf("{\"frames\": %u, \"floor\": %.2f, \"total\": %.2f, \"above_floor\": %.2f, \"above_least\": %.2f}\n", bench.frames(), floor.median, work.median, above_floor,
              bench.result.above_least());
  return 0;
}

}  // namespace
}  // namespace vx::bench

int main(int argc, char** argv) {
  const std::string way = argc == 4 ? argv[1] : "";
  if (way != "encap" && way != "decap") {
    std::fprintf(stderr, "dpdk_bench: encap|decap FILE CPU\n");
    return 2;
  }
  try {
    return vx::bench::measure(way == "encap", argv[2], static_cast<unsigned>(std::atoi(argv[3])));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "dpdk_bench: %s\n", e.what());
    return 1;
  }
}
