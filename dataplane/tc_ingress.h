// SPDX-License-Identifier: Apache-2.0
// One BPF program of ours on the tc ingress hook of a netdev, first of all filters there, and the object file it
// comes from. Threads: management.
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cstdint>
#include <memory>
#include <string>

#include "dataplane/bpf_maps.h"

namespace vx {

struct CloseBpfObject {
  void operator()(bpf_object* object) const noexcept { ::bpf_object__close(object); }
};
using BpfObject = std::unique_ptr<bpf_object, CloseBpfObject>;

// A file of `directory`, opened and not loaded. Throws std::system_error that names the netdev.
[[nodiscard]] BpfObject open_bpf_object(const std::string& netdev, const std::string& directory, const char* file);
void load_bpf_object(const std::string& netdev, bpf_object* object);
// Descriptors that live as long as the object. Throw std::runtime_error when it has none of that name.
[[nodiscard]] int map_of(const bpf_object* object, const char* name);
[[nodiscard]] int program_of(const bpf_object* object, const char* name);

class TcIngress {
 public:
  // A TCX link where the kernel has those (Linux 6.6): it goes with the process, and touches no qdisc, for adding and
  // removing one stops what is sent for milliseconds and keeps others from having theirs. Else a filter of clsact.
  enum class Kind { kBest, kClsact };
  // Attaches `program_fd`, whose program's name is `name`, in place of a leftover of that name for which nobody beats.
  // Throws std::runtime_error or std::system_error.
  TcIngress(const std::string& netdev, std::uint32_t ifindex, const std::string& name, int program_fd, Kind kind = Kind::kBest);
  ~TcIngress();  // detaches; removes the clsact qdisc when it was made here, and still has the program
  TcIngress(const TcIngress&) = delete;
  TcIngress& operator=(const TcIngress&) = delete;
  // Somebody detached it, or put something in front that keeps frames from it: attaches it as at first, before all others.
  // Throws as the constructor does; it may be tried again.
  void attach_again();

 private:
  void attach();
  [[nodiscard]] bool attach_link();
  void attach_filter();
  void check_place() const;
  [[nodiscard]] bool has_filter() const noexcept;
  void remove_filter() noexcept;
  void remove_qdisc() noexcept;

  std::string netdev_, name_;
  int program_fd_;
  Kind kind_;
  FileDescriptor link_;  // empty: a filter
  bpf_tc_hook hook_{};
  bool made_qdisc_ = false;
};

}  // namespace vx
