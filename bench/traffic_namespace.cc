// SPDX-License-Identifier: Apache-2.0
#include "bench/traffic_namespace.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

namespace vx::traffic {
namespace {

FileDescriptor open_namespace(const std::string& path) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) throw std::system_error(errno, std::system_category(), path);
  return fd;
}

void enter(const FileDescriptor& fd, const std::string& name) {
  if (::setns(fd.get(), CLONE_NEWNET) != 0) throw std::system_error(errno, std::system_category(), name + ": cannot enter");
}

}  // namespace

Inside::Inside(const Place& place) {
  if (!place.netns.empty()) {
    before_ = open_namespace("/proc/thread-self/ns/net");
    const bool is_path = place.netns.find('/') != std::string::npos;
    enter(open_namespace(is_path ? place.netns : "/run/netns/" + place.netns), place.netns);
  }
  if (::if_nametoindex(place.device.c_str()) == 0) {
    const std::string text = place.netns + ":" + place.device;
    if (before_) enter(before_, "the former namespace");
    throw std::system_error(errno, std::system_category(), text);
  }
}

Inside::~Inside() {
  // What follows in the wrong namespace would be wrong without a sign.
  if (before_ && ::setns(before_.get(), CLONE_NEWNET) != 0) std::abort();
}

}  // namespace vx::traffic
