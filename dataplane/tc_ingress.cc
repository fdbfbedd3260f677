// SPDX-License-Identifier: Apache-2.0
#include "dataplane/tc_ingress.h"

#include <array>
#include <cerrno>
#include <stdexcept>

#include "dataplane/netdev.h"

namespace vx {
namespace {

// Where our filter sits: first of all, so that nothing acts on frames that we take.
constexpr std::uint32_t kHandle = 1;
constexpr std::uint32_t kPriority = 1;

// From Linux 6.6 on; the headers of Debian 12 do not have them.
constexpr auto kTcxIngress = static_cast<bpf_attach_type>(46);  // BPF_TCX_INGRESS
constexpr __u32 kBefore = 1U << 3;                              // BPF_F_BEFORE all others

void refuse_living(const std::string& netdev, const BpfProgram& program) {
  if (somebody_beats(program)) throw std::runtime_error(netdev + ": another running vxplane takes its frames; stop that first");
}

bpf_tc_opts filter() noexcept {
  bpf_tc_opts opts{};
  opts.sz = sizeof opts;
  opts.handle = kHandle;
  opts.priority = kPriority;
  return opts;
}

std::runtime_error of_another_build(const bpf_object* object, const char* name) {
  return std::runtime_error(std::string(::bpf_object__name(object)) + " has no " + name + ": it is of another build");
}

}  // namespace

BpfObject open_bpf_object(const std::string& netdev, const std::string& directory, const char* file) {
  const QuietLibbpf quiet;
  const std::string path = directory + "/" + file;
  BpfObject object(::bpf_object__open_file(path.c_str(), nullptr));
  if (object == nullptr) throw_errno(netdev, "cannot read " + path);
  return object;
}

void load_bpf_object(const std::string& netdev, bpf_object* object) {
  const QuietLibbpf quiet;
  if (::bpf_object__load(object) != 0) throw_errno(netdev, std::string("cannot load ") + ::bpf_object__name(object));
}

int map_of(const bpf_object* object, const char* name) {
  const int fd = ::bpf_object__find_map_fd_by_name(object, name);
  if (fd < 0) throw of_another_build(object, name);
  return fd;
}

int program_of(const bpf_object* object, const char* name) {
  const bpf_program* program = ::bpf_object__find_program_by_name(object, name);
  if (program == nullptr) throw of_another_build(object, name);
  return ::bpf_program__fd(program);
}

TcIngress::TcIngress(const std::string& netdev, std::uint32_t ifindex, const std::string& name, int program_fd, Kind kind)
    : netdev_(netdev), name_(name), program_fd_(program_fd), kind_(kind) {
  const QuietLibbpf quiet;
  hook_.sz = sizeof hook_;
  hook_.ifindex = static_cast<int>(ifindex);
  hook_.attach_point = BPF_TC_INGRESS;
  attach();
}

void TcIngress::attach() {
  if (kind_ == Kind::kClsact || !attach_link()) attach_filter();
}

void TcIngress::attach_again() {
  const QuietLibbpf quiet;
  link_.reset();
  if (has_filter()) remove_filter();
  attach();
}

// False: this kernel has no TCX. A dead vxplane's link goes by itself, a living one's is no leftover.
bool TcIngress::attach_link() {
  std::array<__u32, 64> ids{};
  __u32 count = ids.size();
  if (::bpf_prog_query(hook_.ifindex, kTcxIngress, 0, nullptr, ids.data(), &count) != 0) return false;
  for (__u32 i = 0; i < count; ++i)
    if (const BpfProgram program = open_bpf_program(ids[i]); program.name == name_) refuse_living(netdev_, program);
  bpf_link_create_opts opts{};
  opts.sz = sizeof opts;
  opts.flags = kBefore;
  link_ = FileDescriptor(::bpf_link_create(program_fd_, hook_.ifindex, kTcxIngress, &opts));
  if (!link_) throw_errno(netdev_, "cannot attach " + name_ + " to its ingress");
  return true;
}

void TcIngress::attach_filter() {
  const int error = ::bpf_tc_hook_create(&hook_);
  if (error != 0 && error != -EEXIST) {
    errno = -error;
    throw_errno(netdev_, "cannot make its tc ingress hook");
  }
  // One that was there may be an operator's: our filter in it, even a crashed run's, makes it none of ours.
  made_qdisc_ = error == 0;
  if (!made_qdisc_) check_place();
  bpf_tc_opts mine = filter();
  mine.prog_fd = program_fd_;
  mine.flags = BPF_TC_F_REPLACE;
  if (const int failed = ::bpf_tc_attach(&hook_, &mine); failed != 0) {
    if (made_qdisc_) remove_qdisc();
    errno = -failed;
    throw_errno(netdev_, "cannot attach " + name_ + " to its tc ingress");
  }
}

TcIngress::~TcIngress() {
  if (link_) return;
  const QuietLibbpf quiet;
  if (!has_filter()) return;  // somebody took it away: whose qdisc is there now is not known
  remove_filter();
  if (made_qdisc_) remove_qdisc();
}

// The place of our filter is free or holds a leftover of our own; throws when it is somebody's.
void TcIngress::check_place() const {
  bpf_tc_opts there = filter();
  if (::bpf_tc_query(&hook_, &there) != 0) return;
  const BpfProgram program = open_bpf_program(there.prog_id);
  if (program.name != name_)
    throw std::runtime_error(netdev_ + ": its tc ingress already has a filter at prio 1 handle 1 ('" + program.name +
                             "'); move it with `tc filter`");
  refuse_living(netdev_, program);
}

// The filter in our place is this one.
bool TcIngress::has_filter() const noexcept {
  bpf_tc_hook hook = hook_;
  bpf_tc_opts there = filter();
  bpf_prog_info info{};
  __u32 bytes = sizeof info;
  return ::bpf_tc_query(&hook, &there) == 0 && ::bpf_obj_get_info_by_fd(program_fd_, &info, &bytes) == 0 && there.prog_id == info.id;
}

void TcIngress::remove_filter() noexcept {
  bpf_tc_opts mine = filter();
  (void)::bpf_tc_detach(&hook_, &mine);
}

void TcIngress::remove_qdisc() noexcept {
  bpf_tc_hook hook = hook_;
  hook.attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS);  // both: the qdisc itself
  (void)::bpf_tc_hook_destroy(&hook);
}

}  // namespace vx
