// SPDX-License-Identifier: Apache-2.0
#include "dataplane/tc_take.h"

#include <cerrno>
#include <vector>

#include "dataplane/netdev.h"
#include "dataplane/tc_ingress.h"

namespace vx {
namespace {

constexpr std::array kSharedMaps{"vxp_take", "vxp_heartbeat", "vxp_exits", "vxp_verdict"};

void check(int error, const std::string& netdev, const char* what) {
  if (error != 0) throw_errno(netdev, std::string(what) + " of " VXP_TC_OBJECT);
}

void put(int map_fd, const void* value, const std::string& netdev) {
  const std::uint32_t zero = 0;
  check(::bpf_map_update_elem(map_fd, &zero, value, BPF_ANY), netdev, "cannot write the configuration");
}

}  // namespace

struct TcTake::Impl {
  std::string netdev;
  bool has_standby = false;
  FailOpenRule rule;
  std::vector<BpfObject> objects;  // by queue: each socket's filter knows its queue; the maps are the first one's
  std::unique_ptr<HeartbeatMap> beats;
  std::unique_ptr<TcIngress> ingress;

  void load(std::uint32_t queue, const std::string& directory) {
    BpfObject object = open_bpf_object(netdev, directory, VXP_TC_OBJECT);
    bpf_map* constants = ::bpf_object__find_map_by_name(object.get(), ".rodata");
    check(constants == nullptr ? -1 : ::bpf_map__set_initial_value(constants, &queue, sizeof queue), netdev, "cannot set the queue");
    if (!objects.empty()) {
      for (const char* name : kSharedMaps)
        check(::bpf_map__reuse_fd(::bpf_object__find_map_by_name(object.get(), name), map_of(first(), name)), netdev, "cannot share the maps");
      if (bpf_program* tc = ::bpf_object__find_program_by_name(object.get(), VXP_TC_PROGRAM); tc != nullptr)
        (void)::bpf_program__set_autoload(tc, false);
    }
    load_bpf_object(netdev, object.get());
    (void)program_of(object.get(), VXP_FILTER_PROGRAM);
    objects.push_back(std::move(object));
  }
  [[nodiscard]] bpf_object* first() const noexcept { return objects.front().get(); }
  void configure(bool is_followed) const {
    const __u32 flags = (rule.bypass ? VXP_FLAG_BYPASS : 0u) | (has_standby ? VXP_FLAG_STANDBY : 0u);
    const vxp_take_config config{flags, is_followed ? 0u : 1u, std::uint64_t{rule.stale_after_ms} * 1'000'000};
    put(map_of(first(), "vxp_take"), &config, netdev);
  }
};

TcTake::TcTake(const std::string& netdev, std::uint32_t ifindex, std::uint16_t queues, const FailOpenRule& rule,
               bool has_standby, const std::string& bpf_directory, TcIngress::Kind kind)
    : impl_(std::make_unique<Impl>()) {
  impl_->netdev = netdev;
  impl_->has_standby = has_standby;
  for (std::uint16_t q = 0; q < queues; ++q) impl_->load(q, bpf_directory);
  set_rule(rule);
  impl_->beats = std::make_unique<HeartbeatMap>(map_of(impl_->first(), "vxp_heartbeat"));
  // The tc program does not look at heartbeats itself; through it another vxplane finds them.
  const int program = program_of(impl_->first(), VXP_TC_PROGRAM);
  check(::bpf_prog_bind_map(program, map_of(impl_->first(), "vxp_heartbeat"), nullptr), netdev, "cannot bind the heartbeats");
  impl_->ingress = std::make_unique<TcIngress>(netdev, ifindex, VXP_TC_PROGRAM, program, kind);
}

TcTake::~TcTake() = default;

int TcTake::filter(std::uint16_t queue) const noexcept {
  return ::bpf_program__fd(::bpf_object__find_program_by_name(impl_->objects[queue].get(), VXP_FILTER_PROGRAM));
}

volatile vxp_beat* TcTake::heartbeat(std::uint16_t queue) noexcept { return impl_->beats->slot(queue); }

void TcTake::set_rule(const FailOpenRule& rule) {
  impl_->rule = rule;
  // Should the filter find itself not followed just now and this overwrite it, it finds that again with its next frame.
  impl_->configure(is_followed());
}

bool TcTake::is_followed() const noexcept {
  const std::uint32_t zero = 0;
  vxp_take_config config{};
  const int map = ::bpf_object__find_map_fd_by_name(impl_->first(), "vxp_take");
  return ::bpf_map_lookup_elem(map, &zero, &config) != 0 || config.unfollowed == 0;
}

// In this order: what the filter left on CPUs that had no frame since must not look like what it finds from now on.
void TcTake::follow_again() {
  impl_->ingress->attach_again();
  const std::uint32_t zero = 0;
  const std::vector<std::uint64_t> verdicts(static_cast<std::size_t>(::libbpf_num_possible_cpus()));  // 8 bytes a CPU
  check(::bpf_map_update_elem(map_of(impl_->first(), "vxp_verdict"), &zero, verdicts.data(), BPF_ANY), impl_->netdev,
        "cannot clear the verdicts");
  impl_->configure(true);
}

std::array<std::uint64_t, VXP_TAKE_COUNT> TcTake::exits() const {
  std::array<std::uint64_t, VXP_TAKE_COUNT> sums{};
  read_counters(map_of(impl_->first(), "vxp_exits"), sums);
  return sums;
}

namespace {

class TcDeliver final : public DeliverProgram {
 public:
  TcDeliver(const std::string& tap, std::uint32_t ifindex, std::uint32_t to_ifindex, const std::string& bpf_directory)
      : tap_(tap), object_(open_bpf_object(tap, bpf_directory, VXP_DELIVER_OBJECT)) {
    load_bpf_object(tap, object_.get());
    deliver_to(to_ifindex);
    ingress_ = std::make_unique<TcIngress>(tap, ifindex, VXP_DELIVER_PROGRAM, program_of(object_.get(), VXP_DELIVER_PROGRAM));
  }
  void deliver_to(std::uint32_t ifindex) override { put(map_of(object_.get(), "vxp_deliver"), &ifindex, tap_); }

 private:
  std::string tap_;
  BpfObject object_;
  std::unique_ptr<TcIngress> ingress_;
};

}  // namespace

std::shared_ptr<DeliverProgram> attach_deliver(const std::string& tap, std::uint32_t ifindex, std::uint32_t to_ifindex,
                                               const std::string& bpf_directory) {
  return std::make_shared<TcDeliver>(tap, ifindex, to_ifindex, bpf_directory);
}

}  // namespace vx
