// SPDX-License-Identifier: Apache-2.0
#include "dataplane/xdp_steering.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "dataplane/bpf_maps.h"
#include "dataplane/netdev.h"

namespace vx {

QuietLibbpf::QuietLibbpf() noexcept : former_(reinterpret_cast<void*>(::libbpf_set_print(nullptr))) {}
QuietLibbpf::~QuietLibbpf() { ::libbpf_set_print(reinterpret_cast<libbpf_print_fn_t>(former_)); }

BpfProgram open_bpf_program(std::uint32_t id) noexcept {
  BpfProgram program;
  program.fd = FileDescriptor(::bpf_prog_get_fd_by_id(id));
  std::array<__u32, 64> maps{};
  bpf_prog_info info{};
  info.nr_map_ids = maps.size();
  info.map_ids = reinterpret_cast<std::uintptr_t>(maps.data());
  __u32 length = sizeof info;
  if (!program.fd || ::bpf_obj_get_info_by_fd(program.fd.get(), &info, &length) != 0) return program;
  program.name = info.name;
  program.map_ids.assign(maps.begin(), maps.begin() + std::min<std::size_t>(info.nr_map_ids, maps.size()));
  return program;
}

FileDescriptor open_bpf_map(const BpfProgram& program, std::string_view map_name) noexcept {
  for (const std::uint32_t id : program.map_ids) {
    FileDescriptor fd(::bpf_map_get_fd_by_id(id));
    bpf_map_info info{};
    __u32 length = sizeof info;
    if (fd && ::bpf_obj_get_info_by_fd(fd.get(), &info, &length) == 0 && map_name == info.name) return fd;
  }
  return {};
}

HeartbeatMap::HeartbeatMap(int map_fd) {
  const auto page = static_cast<std::size_t>(::getpagesize());
  bytes_ = (sizeof(vxp_beat) * VXP_MAX_QUEUES + page - 1) / page * page;
  memory_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
  if (memory_ == MAP_FAILED) throw_errno("vxp_heartbeat", "cannot map the BPF array");
}
HeartbeatMap::~HeartbeatMap() { ::munmap(memory_, bytes_); }
volatile vxp_beat* HeartbeatMap::slot(std::uint16_t queue) noexcept {
  return queue < VXP_MAX_QUEUES ? static_cast<volatile vxp_beat*>(memory_) + queue : nullptr;
}

void read_counters(int map_fd, std::span<std::uint64_t> sums) {
  std::vector<std::uint64_t> per_cpu(static_cast<std::size_t>(std::max(1, ::libbpf_num_possible_cpus())));
  for (std::uint32_t i = 0; i < sums.size(); ++i) {
    if (::bpf_map_lookup_elem(map_fd, &i, per_cpu.data()) != 0) continue;
    for (const std::uint64_t n : per_cpu) sums[i] += n;
  }
}

bool somebody_beats(const BpfProgram& program) {
  const FileDescriptor map = open_bpf_map(program, "vxp_heartbeat");
  if (!map) return false;
  HeartbeatMap beats(map.get());
  std::array<std::uint64_t, VXP_MAX_QUEUES> before{};
  for (std::uint16_t q = 0; q < VXP_MAX_QUEUES; ++q) before[q] = beats.slot(q)->monotonic_ns;
  std::this_thread::sleep_for(std::chrono::milliseconds(60));  // a worker beats at least every 20 ms
  for (std::uint16_t q = 0; q < VXP_MAX_QUEUES; ++q)
    if (beats.slot(q)->monotonic_ns != before[q]) return true;
  return false;
}

namespace {

class MapSteering final : public XdpSteering {
 public:
  MapSteering(const BpfProgram& program, std::uint16_t flags, bool take_all)
      : config_(need(program, "vxp_config")),
        locals_(need(program, "vxp_locals")),
        vnis_(need(program, "vxp_vnis")),
        common_map_(need(program, "vxp_common")),
        exits_(need(program, "vxp_exits")),
        beats_(need(program, "vxp_heartbeat").get()),
        value_{take_all ? VXP_MODE_TAKE_ALL : VXP_MODE_OFF, 0, 0, flags, 0, VXP_STALE_NS} {
    write();
    write_common();
  }

  void steer(const Target& target) override {
    std::vector<vxp_local_key> locals;
    for (const IpAddress& address : target.locals) {
      locals.push_back(key_of(address, 0));
      for (const std::uint16_t port : target.udp_ports) locals.push_back(key_of(address, port));
    }
    replace(locals_, locals, target.vnis, [&] {
      value_.mode = VXP_MODE_STEER;
      value_.own_address = target.own_address ? 1u : 0u;
      value_.vlan = target.vlan;
      write();
      set_common(target);
    });
  }

  void off() override {
    value_.mode = VXP_MODE_OFF;
    write();
  }

  void set_rule(const FailOpenRule& rule) override {
    const unsigned kept = value_.flags & ~unsigned{VXP_FLAG_BYPASS};
    value_.flags = static_cast<__u16>(kept | (rule.bypass ? VXP_FLAG_BYPASS : 0u));
    value_.stale_after_ns = std::uint64_t{rule.stale_after_ms} * 1'000'000;
    write();
  }

  [[nodiscard]] std::array<std::uint64_t, VXP_EXIT_COUNT> exits() const override {
    std::array<std::uint64_t, VXP_EXIT_COUNT> sums{};
    read_counters(exits_.get(), sums);
    return sums;
  }

  [[nodiscard]] volatile vxp_beat* heartbeat(std::uint16_t queue) noexcept override { return beats_.slot(queue); }

 private:
  static FileDescriptor need(const BpfProgram& program, const char* map) {
    FileDescriptor fd = open_bpf_map(program, map);
    if (!fd) throw std::runtime_error(std::string("XDP program has no map ") + map + ": " VXP_XDP_OBJECT " is of another build");
    return fd;
  }
  static vxp_local_key key_of(const IpAddress& address, std::uint16_t port) noexcept {
    vxp_local_key key{};
    std::memcpy(key.address, address.bytes.data(), sizeof key.address);
    key.port = Be16(port).raw();
    return key;
  }
  void write() const {
    const std::uint32_t zero = 0;
    if (::bpf_map_update_elem(config_.get(), &zero, &value_, BPF_ANY) != 0)
      throw_errno("vxp_config", "cannot write the XDP configuration");
  }

  void write_common() const {
    const std::uint32_t zero = 0;
    if (::bpf_map_update_elem(common_map_.get(), &zero, &common_, BPF_ANY) != 0) throw_errno("vxp_common", "cannot write the XDP configuration");
  }
  // The kernel's copy is not one store: a program that runs meanwhile must not take a mixture of two addresses for one of ours.
  void set_common(const Target& target) {
    const vxp_common wanted{target.locals.empty() || target.udp_ports.empty() ? kNone.local : key_of(target.locals[0], target.udp_ports[0]),
                            target.vnis.empty() ? kNone.vni : target.vnis[0]};
    if (std::memcmp(&wanted, &common_, sizeof wanted) == 0) return;
    common_.local.reserved = kNone.local.reserved;
    write_common();
    common_ = wanted;
    common_.local.reserved = kNone.local.reserved;
    write_common();
    common_ = wanted;
    write_common();
  }

  // Adds what is wanted and missing; returns the keys that are there and not wanted.
  template <typename Key>
  static std::vector<Key> add(const FileDescriptor& map, const std::vector<Key>& wanted, const char* name, unsigned limit) {
    const auto same = [](const Key& a, const Key& b) { return std::memcmp(&a, &b, sizeof(Key)) == 0; };
    if (wanted.size() > limit)
      throw std::runtime_error(std::string(name) + ": more than the " + std::to_string(limit) + " entries the XDP program takes");
    std::vector<Key> stale;
    Key key;
    for (const Key* at = nullptr; ::bpf_map_get_next_key(map.get(), at, &key) == 0; at = &stale.back())
      stale.push_back(key);
    std::erase_if(stale, [&](const Key& old) {
      return std::any_of(wanted.begin(), wanted.end(), [&](const Key& w) { return same(w, old); });
    });
    const std::uint32_t one = 1;
    for (const Key& k : wanted)
      if (::bpf_map_update_elem(map.get(), &k, &one, BPF_ANY) != 0) throw_errno(name, "cannot fill the XDP map");
    return stale;
  }
  // Without a gap for what stays: what is new goes in, then the configuration, then what is stale goes out.
  template <typename Configure>
  void replace(const FileDescriptor& locals_map, const std::vector<vxp_local_key>& locals, const std::vector<std::uint32_t>& vnis,
               Configure&& configure) {
    const auto stale_locals = add(locals_map, locals, "vxp_locals", VXP_MAX_LOCALS / 2);
    const auto stale_vnis = add(vnis_, vnis, "vxp_vnis", VXP_MAX_VNIS / 2);
    configure();
    for (const auto& key : stale_locals) ::bpf_map_delete_elem(locals_map.get(), &key);
    for (const auto& key : stale_vnis) ::bpf_map_delete_elem(vnis_.get(), &key);
  }

  static constexpr vxp_common kNone{{{}, 0, 1}, VXP_NO_VNI};

  FileDescriptor config_, locals_, vnis_, common_map_, exits_;
  HeartbeatMap beats_;
  vxp_config value_;  // as the program has it, and
  vxp_common common_ = kNone;
};

struct Attached {
  std::uint32_t id = 0;
  std::uint32_t mode_flag = 0;  // XDP_FLAGS_*_MODE it is attached with
};
Attached attached_to(const std::string& netdev, std::uint32_t ifindex) {
  bpf_xdp_query_opts opts{};
  opts.sz = sizeof opts;
  if (const int error = ::bpf_xdp_query(static_cast<int>(ifindex), 0, &opts); error != 0) {
    errno = -error;
    throw_errno(netdev, "cannot ask for its XDP program");
  }
  if (opts.hw_prog_id != 0) return {opts.hw_prog_id, XDP_FLAGS_HW_MODE};
  if (opts.drv_prog_id != 0) return {opts.drv_prog_id, XDP_FLAGS_DRV_MODE};
  if (opts.skb_prog_id != 0) return {opts.skb_prog_id, XDP_FLAGS_SKB_MODE};
  return {opts.prog_id, 0};
}

}  // namespace

std::uint16_t clear_leftover_xdp(const std::string& netdev, std::uint32_t ifindex) {
  const QuietLibbpf quiet;
  const Attached attached = attached_to(netdev, ifindex);
  if (attached.id == 0) return 0;
  const BpfProgram program = open_bpf_program(attached.id);
  if (program.name != VXP_XDP_PROGRAM)
    throw std::runtime_error(netdev + ": carries the XDP program '" + program.name + "' (id " + std::to_string(attached.id) +
                             ") of somebody else; remove it with `ip link set dev " + netdev +
                             " xdp off` or use driver udp");
  if (somebody_beats(program))
    throw std::runtime_error(netdev + ": another running vxplane has it; one instance per underlay NIC, stop the other first");
  vxp_config config{};
  const std::uint32_t zero = 0;
  if (const FileDescriptor map = open_bpf_map(program, "vxp_config"); map) ::bpf_map_lookup_elem(map.get(), &zero, &config);
  if (const int error = ::bpf_xdp_detach(static_cast<int>(ifindex), attached.mode_flag, nullptr); error != 0) {
    errno = -error;
    throw_errno(netdev, "cannot detach the XDP program a crashed vxplane left; try `ip link set dev " + netdev + " xdp off`");
  }
  return config.flags;
}

std::shared_ptr<XdpSteering> make_xdp_steering(const std::string& netdev, std::uint32_t ifindex, std::uint16_t flags,
                                               bool take_all) {
  const BpfProgram program = open_bpf_program(attached_to(netdev, ifindex).id);
  if (program.name != VXP_XDP_PROGRAM) throw std::runtime_error(netdev + ": our XDP program is not attached");
  return std::make_shared<MapSteering>(program, flags, take_all);
}

std::shared_ptr<XdpSteering> make_xdp_steering(int program_fd, std::uint16_t flags, bool take_all) {
  bpf_prog_info info{};
  __u32 length = sizeof info;
  if (::bpf_obj_get_info_by_fd(program_fd, &info, &length) != 0) throw_errno("XDP program", "cannot read it");
  return std::make_shared<MapSteering>(open_bpf_program(info.id), flags, take_all);
}

}  // namespace vx
