// SPDX-License-Identifier: Apache-2.0
// Everything that DPDK drives: net_af_xdp on a netdev the kernel keeps, and `dpdk:DEVARGS`.
// The only file that includes rte_ethdev.
//
// net_af_xdp attaches our program only where there is none: leftovers of our own go first (xdp_steering.h).
#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_ethdev.h>
#include <rte_log.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "dataplane/af_xdp_sockets.h"
#include "dataplane/buffer_pool_mbuf.h"
#include "dataplane/clock.h"
#include "dataplane/interrupt_thread.h"
#include "dataplane/ip_reassembly.h"
#include "dataplane/log.h"
#include "dataplane/mbuf_offload.h"
#include "dataplane/netdev.h"
#include "dataplane/port_drivers.h"
#include "dataplane/train_socket.h"
#include "dataplane/xdp_steering.h"

namespace vx {
namespace {

constexpr std::uint16_t kAfXdpRingSize = 2048;  // what the PMD's own fill and completion rings have
constexpr std::uint16_t kDpdkRingSize = 1024;
constexpr std::uint32_t kMostMbufBytes = 0xffff;  // in one piece: rte_mbuf::data_len
// What is under way to the sockets when steering ends gets there within this time.
constexpr std::chrono::milliseconds kDrainTime{2};
// The kernel unbinds a closed AF_XDP socket from its queue later, in a work queue; till then the queue is busy.
constexpr std::chrono::milliseconds kUnbindTime{30};
constexpr int kBindAttempts = 30;

// What DPDK logs while this lives, kept back: one fault is one line, ours.
class CapturedLog {
 public:
  CapturedLog() : former_(rte_log_get_stream()), stream_(::open_memstream(&text_, &length_)) {
    if (stream_ != nullptr) rte_openlog_stream(stream_);
  }
  ~CapturedLog() {
    rte_openlog_stream(former_);
    if (stream_ != nullptr) std::fclose(stream_);
    std::free(text_);
  }
  CapturedLog(const CapturedLog&) = delete;
  CapturedLog& operator=(const CapturedLog&) = delete;
  // The first line, which tells the cause, in brackets; empty when nothing was logged.
  [[nodiscard]] std::string cause() const {
    if (stream_ != nullptr) std::fflush(stream_);
    const std::string_view all = text_ == nullptr ? std::string_view() : std::string_view(text_, length_);
    const std::string_view line = all.substr(0, all.find('\n'));
    return line.empty() ? "" : fmt::format(" ({})", line);
  }

 private:
  char* text_ = nullptr;
  std::size_t length_ = 0;
  FILE* former_;
  FILE* stream_;
};

// The kernel does not bind a socket to the netdev's queue, perhaps only not yet.
struct QueueBusy : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct EthdevSettings {
  std::uint16_t queues = 1;      // wanted; the device may have fewer
  std::uint16_t descriptors = kDpdkRingSize;
  std::uint16_t mtu = 0;         // 0: the device's default
  std::uint32_t ifindex = 0;     // af_xdp: the netdev it must stay
  bool is_guest = false;         // gets every frame, and offload metadata where the device can
  bool is_underlay = false;      // outer fragments are reassembled
};

class EthdevPort final : public Port {
 public:
  // `device`: the vdev's or PCI device's name; `arguments`: the rest of its devargs.
  EthdevPort(const std::string& name, const std::string& bus, const std::string& device, const std::string& arguments,
             const EthdevSettings& settings, MbufPool& pool)
      : Port(name), pool_(pool), device_(device), ifindex_(settings.ifindex) {
    const CapturedLog log;
    MbufPool::Recording recording(pool);
    sockets_.begin();
    errno = 0;  // net_af_xdp takes a former EOPNOTSUPP for its own and then sees one queue only
    if (const int error = rte_eal_hotplug_add(bus.c_str(), device.c_str(), arguments.c_str()); error != 0)
      throw std::runtime_error(fmt::format("{}: DPDK does not take device '{},{}': {}{}", name, device, arguments,
                                           std::strerror(error < 0 ? -error : error), log.cause()));
    try {
      start(settings);
    } catch (const std::exception& e) {
      const std::string text = e.what() + log.cause();
      remove(Stranded::kKnown);
      recording.put_back();
      if (text.find("create xsk socket") != std::string::npos) throw QueueBusy(text);
      throw std::runtime_error(text);
    }
  }
  ~EthdevPort() override { remove(Stranded::kInRings); }

  [[nodiscard]] unsigned rx(std::uint16_t queue, Packet* out, unsigned count) noexcept override {
    std::array<rte_mbuf*, kMaxBurst> mbufs;
    const std::uint16_t n =
        rte_eth_rx_burst(port_, queue, mbufs.data(), static_cast<std::uint16_t>(std::min(count, kMaxBurst)));
    unsigned received = 0;
    for (std::uint16_t i = 0; i < n; ++i) {
      if (i + 4 < n) rte_prefetch0(mbufs[i + 4]);
      if (i + 2 < n && !reassembly_.empty()) rte_prefetch0(rte_pktmbuf_mtod(mbufs[i + 2], void*));  // is_fragment() reads
      rte_mbuf* mbuf = mbufs[i];
      const std::uint64_t flags = mbuf->ol_flags;
      const bool asks = offloads_.tells_partial && has_request(flags);
      const std::uint16_t segment_size = asks ? mbuf->tso_segsz : 0;
      if (mbuf->pool != pool_.mempool() || mbuf->nb_segs != 1 || rte_mbuf_refcnt_read(mbuf) != 1 || !RTE_MBUF_DIRECT(mbuf)) [[unlikely]] {
        if (!adopt(mbuf, out[received])) continue;
      } else {
        MbufPool::view_mbuf(mbuf, out[received]);
      }
      if (asks) take_over(flags, segment_size, out[received]);
      if (!reassembly_.empty() && IpReassembly::is_fragment(out[received]) && !pool_.is_large(out[received].buffer)) [[unlikely]] {
        if (!reassembly_[queue]->take(out[received], monotonic_ns())) continue;
      }
      ++received;
    }
    // Rounds without a frame come here too.
    if (!reassembly_.empty() && reassembly_[queue]->holds()) [[unlikely]] reassembly_[queue]->expire(monotonic_ns());
    return received;
  }

  [[nodiscard]] unsigned tx(std::uint16_t queue, Packet* const* packets, unsigned count) noexcept override {
    std::array<rte_mbuf*, kMaxBurst> mbufs;
    unsigned sent = 0;
    for (DropReason refused = DropReason::kNone; sent < count && refused == DropReason::kNone;) {
      unsigned most = std::min(count - sent, kMaxBurst);
      if (!trains_.empty()) {
        // In order: by copy the AF_XDP socket has sent what it was given before the burst returns.
        if (packets[sent]->offload.is_super_frame()) {
          if (!trains_[queue]->send(*packets[sent])) break;
          pool_.free(packets + sent, 1);
          ++sent;
          continue;
        }
        const auto end = std::find_if(packets + sent, packets + sent + most, [](const Packet* p) { return p->offload.is_super_frame(); });
        most = static_cast<unsigned>(end - (packets + sent));
      }
      unsigned n = 0;
      for (; n < most && refused == DropReason::kNone; ++n) refused = prepare(*packets[sent + n], mbufs[n]);
      if (refused != DropReason::kNone) --n;
      const std::uint16_t accepted = rte_eth_tx_burst(port_, queue, mbufs.data(), static_cast<std::uint16_t>(n));
      sent += accepted;
      if (accepted < n) break;
      if (refused != DropReason::kNone) packets[sent]->reason = refused;
    }
    return sent;
  }

  // Encapsulated super-frames leave as UDP trains from now on, where an AF_XDP socket would send each segment by copy.
  void use_trains() {
    if (sockets_.is_zero_copy() || !takes_udp_trains()) return;
    for (std::uint16_t q = 0; q < tx_queues_; ++q) trains_.push_back(std::make_unique<TrainSocket>(name(), ifindex_));
  }

  [[nodiscard]] TxOffloads tx_offloads() const noexcept override {
    return trains_.empty() ? offloads_.taken() : TxOffloads{.tunnel = true};
  }
  [[nodiscard]] std::uint16_t rx_queues() const noexcept override { return rx_queues_; }
  [[nodiscard]] std::uint16_t tx_queues() const noexcept override { return tx_queues_; }
  [[nodiscard]] int rx_fd(std::uint16_t queue) const noexcept override { return sockets_.descriptor(queue); }
  [[nodiscard]] int rx_interrupt_fd(std::uint16_t queue) const noexcept override { return has_interrupts_ ? interrupt_fds_[queue] : -1; }
  [[nodiscard]] bool ask_for_rx_interrupt(std::uint16_t queue, bool is_wanted) noexcept override {
    return (is_wanted ? rte_eth_dev_rx_intr_enable(port_, queue) : rte_eth_dev_rx_intr_disable(port_, queue)) == 0;
  }
  [[nodiscard]] bool is_alive() const noexcept override {
    return ifindex_ != 0 ? netdev::index(name()) == ifindex_ : rte_eth_dev_is_valid_port(port_) != 0;
  }
  [[nodiscard]] LostFrames lost() const noexcept override {
    LostFrames sum = sockets_.lost();
    for (const auto& train : trains_) sum.tx_errors += train->errors();
    sum.rx_missed += foreign_lost_.load(std::memory_order_relaxed);
    if (sockets_.count() != 0) return sum;
    rte_eth_stats stats{};
    if (rte_eth_stats_get(port_, &stats) != 0) return sum;
    // What tx() did not take is the worker's tx_full: oerrors of the software PMDs count just that.
    sum.rx_missed += stats.imissed + stats.ierrors + stats.rx_nombuf;
    return sum;
  }
  [[nodiscard]] Fragments fragments() const noexcept override {
    Fragments sum;
    for (const auto& queue : reassembly_) {
      const IpReassembly::Counters c = queue->counters();
      sum.received += c.taken;
      sum.lost += c.refused + c.expired;
      sum.reassembled += c.reassembled;
    }
    return sum;
  }
  [[nodiscard]] MacAddress mac() const noexcept {
    rte_ether_addr address{};
    MacAddress result;
    if (rte_eth_macaddr_get(port_, &address) == 0)
      std::memcpy(result.bytes.data(), address.addr_bytes, result.bytes.size());
    return result;
  }

 private:
  void check(int error, const char* what) const {
    if (error == 0) return;
    const std::string hint = ifindex_ != 0 && error != -EBUSY ? "; are there buffers enough (--memory; 4096 for each queue)?" : "";
    throw std::runtime_error(fmt::format("{}: {}: {}{}", name(), what, std::strerror(error < 0 ? -error : error), hint));
  }

  void start(const EthdevSettings& settings) {
    check(rte_eth_dev_get_port_by_name(device_.c_str(), &port_), "DPDK made no port for it");
    rte_eth_dev_info info{};
    check(rte_eth_dev_info_get(port_, &info), "cannot ask for its limits");
    rx_queues_ = std::min({settings.queues, info.max_rx_queues, std::uint16_t{VXP_MAX_QUEUES}});
    tx_queues_ = std::min({settings.queues, info.max_tx_queues, std::uint16_t{VXP_MAX_QUEUES}});
    if (rx_queues_ == 0 || tx_queues_ == 0) throw std::runtime_error(name() + ": the device has no queues");

    for (std::uint16_t q = 0; settings.is_underlay && q < rx_queues_; ++q)
      reassembly_.push_back(std::make_unique<IpReassembly>(pool_));
    // Drivers without interrupts, and devices bound to a kernel driver without, say so here or when they start.
    if (ifindex_ != 0 || !start_device(settings, info, true)) (void)start_device(settings, info, false);
    sockets_.end();
  }

  // False: not with interrupts. Without, what fails is thrown.
  bool start_device(const EthdevSettings& settings, const rte_eth_dev_info& info, bool with_interrupts) {
    rte_eth_conf conf{};
    conf.intr_conf.rxq = with_interrupts;
    conf.rxmode.mtu = settings.mtu;
    if (settings.is_guest) offloads_ = offloads_of(info);
    conf.txmode.offloads = offloads_.tx;
    conf.rxmode.offloads = offloads_.rx;
    const std::uint64_t hash = RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_TCP;
    if (rx_queues_ > 1 && (info.flow_type_rss_offloads & hash) != 0) {
      conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
      conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & hash;
    }
    const int configured = rte_eth_dev_configure(port_, rx_queues_, tx_queues_, &conf);
    if (configured != 0 && with_interrupts) return false;
    check(configured, "cannot configure the device");
    std::uint16_t rx_ring = settings.descriptors, tx_ring = settings.descriptors;
    check(rte_eth_dev_adjust_nb_rx_tx_desc(port_, &rx_ring, &tx_ring), "cannot size its rings");
    const auto socket = static_cast<unsigned>(rte_eth_dev_socket_id(port_));
    for (std::uint16_t q = 0; q < rx_queues_; ++q)
      check(rte_eth_rx_queue_setup(port_, q, rx_ring, socket, nullptr, pool_.mempool()), "cannot set up a receive queue");
    for (std::uint16_t q = 0; q < tx_queues_; ++q)
      check(rte_eth_tx_queue_setup(port_, q, tx_ring, socket, nullptr), "cannot set up a send queue");
    if (settings.is_guest) (void)rte_eth_promiscuous_enable(port_);  // software devices have none to switch
    const int started = rte_eth_dev_start(port_);
    if (!with_interrupts) check(started, "cannot start the device");
    if (started == 0 && with_interrupts) take_interrupts();
    return started == 0;
  }

  // All queues or none: a worker with one that only naps can find would nap anyway.
  void take_interrupts() noexcept {
    has_interrupts_ = true;
    for (std::uint16_t q = 0; q < rx_queues_; ++q) {
      interrupt_fds_[q] = rte_eth_dev_rx_intr_ctl_q_get_fd(port_, q);
      has_interrupts_ = has_interrupts_ && interrupt_fds_[q] >= 0 && ask_for_rx_interrupt(q, true) && ask_for_rx_interrupt(q, false);
    }
  }

  // How buffers are found that the PMD keeps at its end: in the rings, or the caller knows them.
  enum class Stranded { kInRings, kKnown };
  void remove(Stranded where) noexcept {
    if (sockets_.count() == 0) sockets_.end();  // start() did not come to its end
    std::set<std::uint64_t> stranded;
    if (where == Stranded::kInRings) stranded = sockets_.buffers_in_rings();
    const CapturedLog log;  // a netdev that went is no news
    rte_eth_dev_info info{};
    if (rte_eth_dev_is_valid_port(port_) != 0 && rte_eth_dev_info_get(port_, &info) == 0) {
      stop_and_close(info.driver_name);
      if (info.device != nullptr) (void)rte_dev_remove(info.device);
    } else {
      (void)rte_eal_hotplug_remove("vdev", device_.c_str());
    }
    reassembly_.clear();
    sockets_.release();
    pool_.take_back(stranded);
  }

  // net_memif's handlers run in EAL's interrupt thread without a lock against a close in another: both free the control
  // channel (seen with 22.11: SIGSEGV in rte_intr_instance_free). So it is closed there.
  void stop_and_close(const char* driver_name) noexcept {
    if (driver_name == nullptr || std::strcmp(driver_name, "net_memif") != 0) {
      (void)rte_eth_dev_stop(port_);
      return;
    }
    run_on_interrupt_thread([this] {
      (void)rte_eth_dev_stop(port_);
      (void)rte_eth_dev_close(port_);
    });
  }

  // A frame in foreign, shared or scattered buffers, copied into one of ours; false and counted when that cannot be.
  [[gnu::cold]] bool adopt(rte_mbuf* foreign, Packet& packet) noexcept {
    const std::uint32_t length = foreign->pkt_len;
    const bool is_whole = length <= kFrameRoomBytes ? pool_.allocate(&packet, 1) == 1
                                                    : length <= kMaxFrameBytes && pool_.allocate_large(&packet, 1) == 1;
    if (is_whole) {
      std::uint32_t at = 0;
      for (const rte_mbuf* part = foreign; part != nullptr; at += part->data_len, part = part->next)
        std::memcpy(packet.data + at, rte_pktmbuf_mtod(part, const std::uint8_t*), part->data_len);
      packet.length = length;
      packet.tailroom -= length;
    } else {
      foreign_lost_.fetch_add(1, std::memory_order_relaxed);
    }
    rte_pktmbuf_free(foreign);
    return is_whole;
  }

  // The mbuf to send for a packet, or why it cannot be sent. Packets in large buffers go as they are, but not to AF_XDP,
  // whose memory is the ordinary ones: a small frame among them is copied.
  DropReason prepare(Packet& packet, rte_mbuf*& mbuf) noexcept {
    if (pool_.is_large(packet.buffer)) [[unlikely]] {
      if (packet.length > (is_af_xdp() ? kFrameRoomBytes : kMostMbufBytes)) return DropReason::kMtuExceeded;
      if (is_af_xdp() && !move_to_ordinary(packet)) return DropReason::kNoBuffer;
    }
    mbuf = MbufPool::to_mbuf(packet);
    return packet.offload.is_plain() ? DropReason::kNone : describe(offloads_, packet, *mbuf);
  }
  [[gnu::cold]] bool move_to_ordinary(Packet& packet) noexcept {
    Packet ordinary;
    if (pool_.allocate(&ordinary, 1) != 1) return false;
    std::memcpy(ordinary.data, packet.data, packet.length);
    Packet former = packet;
    packet.data = ordinary.data;
    packet.buffer = ordinary.buffer;
    packet.headroom = ordinary.headroom;
    packet.tailroom = ordinary.tailroom - packet.length;
    Packet* const unused = &former;
    pool_.free(&unused, 1);
    return true;
  }
  [[nodiscard]] bool is_af_xdp() const noexcept { return ifindex_ != 0; }

  MbufPool& pool_;
  std::string device_;
  AfXdpSockets sockets_;
  std::uint32_t ifindex_ = 0;  // 0: no af_xdp
  MbufOffloads offloads_;
  std::vector<std::unique_ptr<TrainSocket>> trains_;       // one a transmit queue, or none
  std::vector<std::unique_ptr<IpReassembly>> reassembly_;  // one a receive queue; none: not an underlay
  std::uint16_t port_ = RTE_MAX_ETHPORTS;
  std::uint16_t rx_queues_ = 0, tx_queues_ = 0;
  std::array<int, VXP_MAX_QUEUES> interrupt_fds_{};
  bool has_interrupts_ = false;
  std::atomic<std::uint64_t> foreign_lost_{0};
};

MbufPool& mbuf_pool(const PortContext& context, const std::string& name) {
  auto* pool = dynamic_cast<MbufPool*>(context.pool);
  if (pool == nullptr) throw std::runtime_error(name + ": DPDK ports need the pool of make_mbuf_pool");
  return *pool;
}

// `base` followed by the first number that makes it no port's name. Some PMDs put the name into
// names of 32 bytes, so it is kept short.
std::string unused_device_name(const std::string& base) {
  for (unsigned n = 0;; ++n) {
    std::string name = base + "_" + std::to_string(n);
    std::uint16_t port = 0;
    if (rte_eth_dev_get_port_by_name(name.c_str(), &port) != 0) return name;
  }
}

// An af_xdp port with its steering; what was changed on the netdev is put back when it goes.
class AfXdp {
 public:
  AfXdp(const std::string& name, const protocol::PortConfig& config, const PortContext& context)
      : name_(name), ifindex_(netdev::index(name)) {
    if (ifindex_ == 0) throw std::runtime_error(name + ": no such netdev");
    const netdev::Channels channels = netdev::channels(name);
    if (channels.rx > channels.combined)
      log_warning("{}: has {} rx queues of which net_af_xdp takes {}; frames of the others go to the kernel (xdp no_socket)",
                 name, channels.rx, channels.combined);
    if (channels.combined > VXP_MAX_QUEUES)
      throw std::runtime_error(fmt::format("{}: has {} queues, at most {} are taken; run `ethtool -L {} combined {}`", name,
                                           channels.combined, VXP_MAX_QUEUES, name, VXP_MAX_QUEUES));
    if (config.takeover == 0) netdev::set_up(name);
    const bool left_off = (clear_leftover_xdp(name, ifindex_) & VXP_FLAG_RESTORE_RXVLAN) != 0;
    const bool on = netdev::rxvlan(name);
    restore_rxvlan_ = on || left_off;

    EthdevSettings settings;
    settings.queues = static_cast<std::uint16_t>(channels.combined);
    settings.descriptors = kAfXdpRingSize;
    settings.ifindex = ifindex_;
    settings.is_underlay = config.role == protocol::PortRole::kUnderlay;
    const std::string arguments = fmt::format("iface={},start_queue=0,queue_count={},xdp_prog={}/{},busy_budget=0", name,
                                              channels.combined, context.bpf_directory, VXP_XDP_OBJECT);
    for (int attempt = 1; port_ == nullptr; ++attempt) {
      try {
        port_ = std::make_unique<EthdevPort>(name, "vdev", unused_device_name("net_af_xdp"), arguments, settings,
                                             mbuf_pool(context, name));
      } catch (const QueueBusy&) {
        if (attempt == kBindAttempts) throw;
        std::this_thread::sleep_for(kUnbindTime);
      }
    }
    steering_ = make_xdp_steering(name, ifindex_, restore_rxvlan_ ? VXP_FLAG_RESTORE_RXVLAN : 0,
                                  config.attach_xdp_take_all != 0);
    if (on) turn_rxvlan_off();
    if (settings.is_underlay) port_->use_trains();
  }
  ~AfXdp() {
    if (steering_ != nullptr) {
      try {
        steering_->off();
        std::this_thread::sleep_for(kDrainTime);
      } catch (const std::exception&) {  // the program goes in a moment anyway
      }
    }
    port_.reset();
    std::this_thread::sleep_for(kUnbindTime);
    if (restore_rxvlan_ && netdev::index(name_) == ifindex_ && netdev::set_rxvlan(name_, true))
      log_info("{}: rxvlan is on again", name_);
  }
  AfXdp(const AfXdp&) = delete;
  AfXdp& operator=(const AfXdp&) = delete;

  [[nodiscard]] EthdevPort& port() noexcept { return *port_; }
  [[nodiscard]] const std::shared_ptr<XdpSteering>& steering() const noexcept { return steering_; }
  [[nodiscard]] std::uint32_t ifindex() const noexcept { return ifindex_; }

 private:
  void turn_rxvlan_off() {
    if (netdev::set_rxvlan(name_, false)) {
      log_info("{}: rxvlan turned off, so that XDP sees VLAN tags; on again at a clean stop", name_);
      return;
    }
    log_warning("{}: rxvlan cannot be turned off; frames with a VLAN tag will pass to the kernel", name_);
    restore_rxvlan_ = false;
  }

  std::string name_;
  std::uint32_t ifindex_ = 0;
  bool restore_rxvlan_ = false;
  std::unique_ptr<EthdevPort> port_;
  std::shared_ptr<XdpSteering> steering_;
};

}  // namespace

MadePort make_af_xdp_port(const protocol::PortConfig& config, const PortContext& context) {
  const std::string name(protocol::text_of(config.name));
  auto xdp = std::make_shared<AfXdp>(name, config, context);
  MadePort made;
  made.ifindex = xdp->ifindex();
  made.mac = netdev::mac(name);
  made.steering = xdp->steering();
  EthdevPort* port = &xdp->port();
  made.port = std::shared_ptr<Port>(std::move(xdp), port);
  return made;
}

MadePort make_dpdk_port(const protocol::PortConfig& config, const PortContext& context) {
  const std::string name(protocol::text_of(config.name));
  const std::string devargs(protocol::text_of(config.devargs));
  const std::size_t comma = devargs.find(',');
  std::string device = devargs.substr(0, comma);
  const std::string arguments = comma == std::string::npos ? "" : devargs.substr(comma + 1);
  if (device.empty()) throw std::runtime_error(name + ": dpdk: needs a device, e.g. dpdk:0000:01:00.0 or dpdk:net_null");
  const bool is_vdev = device.find(':') == std::string::npos;
  if (is_vdev) device = unused_device_name(device);

  EthdevSettings settings;
  settings.queues = std::max<std::uint16_t>(1, config.queues != 0 ? config.queues : context.workers);
  settings.is_underlay = config.role == protocol::PortRole::kUnderlay;
  settings.is_guest = config.role == protocol::PortRole::kGuest;
  settings.mtu = is_vdev ? 0 : config.mtu;
  auto port = std::make_shared<EthdevPort>(name, is_vdev ? "vdev" : "pci", device, arguments, settings, mbuf_pool(context, name));
  MadePort made;
  made.mac = port->mac();
  made.port = std::move(port);
  return made;
}

}  // namespace vx
