// SPDX-License-Identifier: Apache-2.0
#include "dataplane/tc_take.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <stdexcept>

#include "dataplane/bpf_maps.h"
#include "dataplane/netdev.h"

namespace vx {
namespace {

// Where our filter sits: first of all, so that nothing acts on frames that we take.
constexpr std::uint32_t kHandle = 1;
constexpr std::uint32_t kPriority = 1;

struct CloseObject {
  void operator()(bpf_object* object) const noexcept { ::bpf_object__close(object); }
};

bpf_tc_hook ingress_of(std::uint32_t ifindex) noexcept {
  bpf_tc_hook hook{};
  hook.sz = sizeof hook;
  hook.ifindex = static_cast<int>(ifindex);
  hook.attach_point = BPF_TC_INGRESS;
  return hook;
}
bpf_tc_opts filter() noexcept {
  bpf_tc_opts opts{};
  opts.sz = sizeof opts;
  opts.handle = kHandle;
  opts.priority = kPriority;
  return opts;
}

}  // namespace

struct TcTake::Impl {
  bpf_tc_hook hook{};
  bool made_qdisc = false;
  std::unique_ptr<bpf_object, CloseObject> object;
  std::unique_ptr<HeartbeatMap> beats;

  [[nodiscard]] int map(const char* name) const {
    const int fd = ::bpf_object__find_map_fd_by_name(object.get(), name);
    if (fd < 0) throw std::runtime_error(std::string(VXP_TC_OBJECT " has no map ") + name + ": it is of another build");
    return fd;
  }
  // True when the place of our filter holds a leftover of our own; throws when it is somebody's.
  [[nodiscard]] bool leftover(const std::string& netdev) {
    bpf_tc_opts there = filter();
    if (::bpf_tc_query(&hook, &there) != 0) return false;
    const BpfProgram program = open_bpf_program(there.prog_id);
    if (program.name != VXP_TC_PROGRAM)
      throw std::runtime_error(netdev + ": its tc ingress already has a filter at prio 1 handle 1 ('" + program.name +
                               "'); move it with `tc filter`");
    if (somebody_beats(program)) throw std::runtime_error(netdev + ": another running vxplane takes its frames; stop that first");
    return true;
  }
  void remove() noexcept {
    bpf_tc_opts mine = filter();
    (void)::bpf_tc_detach(&hook, &mine);
    if (!made_qdisc) return;
    hook.attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS);  // both: the qdisc itself
    (void)::bpf_tc_hook_destroy(&hook);
  }
};

TcTake::TcTake(const std::string& netdev, std::uint32_t ifindex, std::uint16_t queues, const std::string& bpf_directory)
    : impl_(std::make_unique<Impl>()) {
  const QuietLibbpf quiet;
  const std::string path = bpf_directory + "/" VXP_TC_OBJECT;
  impl_->object.reset(::bpf_object__open_file(path.c_str(), nullptr));
  if (impl_->object == nullptr) throw_errno(netdev, "cannot read " + path);
  bpf_program* program = ::bpf_object__find_program_by_name(impl_->object.get(), VXP_TC_PROGRAM);
  if (program == nullptr || ::bpf_object__load(impl_->object.get()) != 0) throw_errno(netdev, "cannot load " + path);
  const vxp_take_config config{queues, 0, VXP_STALE_NS};
  const std::uint32_t zero = 0;
  if (::bpf_map_update_elem(impl_->map("vxp_take"), &zero, &config, BPF_ANY) != 0) throw_errno(netdev, "cannot configure " + path);
  impl_->beats = std::make_unique<HeartbeatMap>(impl_->map("vxp_heartbeat"));

  impl_->hook = ingress_of(ifindex);
  const int error = ::bpf_tc_hook_create(&impl_->hook);
  if (error != 0 && error != -EEXIST) {
    errno = -error;
    throw_errno(netdev, "cannot make its tc ingress hook");
  }
  // A crashed run's qdisc is ours too.
  impl_->made_qdisc = error == 0 || impl_->leftover(netdev);
  bpf_tc_opts mine = filter();
  mine.prog_fd = ::bpf_program__fd(program);
  mine.flags = BPF_TC_F_REPLACE;
  if (const int failed = ::bpf_tc_attach(&impl_->hook, &mine); failed != 0) {
    if (impl_->made_qdisc) impl_->remove();
    errno = -failed;
    throw_errno(netdev, "cannot attach " + path + " to its tc ingress");
  }
}

TcTake::~TcTake() {
  const QuietLibbpf quiet;
  impl_->remove();
}

volatile vxp_beat* TcTake::heartbeat(std::uint16_t queue) noexcept { return impl_->beats->slot(queue); }

}  // namespace vx
