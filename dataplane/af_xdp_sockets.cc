// SPDX-License-Identifier: Apache-2.0
#include "dataplane/af_xdp_sockets.h"

#include <dirent.h>
#include <linux/if_xdp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>

namespace vx {
namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const noexcept { ::closedir(directory); }
};

std::set<int> open_descriptors() {
  std::set<int> result;
  const std::unique_ptr<DIR, CloseDirectory> directory(::opendir("/proc/self/fd"));
  if (!directory) return result;
  while (const dirent* entry = ::readdir(directory.get())) {
    int fd = -1;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    if (std::from_chars(entry->d_name, end, fd).ptr == end && fd != ::dirfd(directory.get())) result.insert(fd);
  }
  return result;
}

bool is_xdp_socket(int fd) noexcept {
  int domain = 0;
  socklen_t length = sizeof domain;
  return ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_XDP;
}

// The line of fdinfo that names a BPF object: tells that a descriptor is still the one noted. Empty: not BPF.
std::string bpf_identity(int fd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd));
  for (std::string line; std::getline(info, line);)
    if (line.rfind("map_id:", 0) == 0 || line.rfind("prog_id:", 0) == 0 || line.rfind("btf_id:", 0) == 0) return line;
  return {};
}

// One ring of a socket in our address space. `offset` is the XDP_*PGOFF_* it was mapped with.
struct Mapping {
  std::uintptr_t from = 0, to = 0;
  std::uint64_t offset = 0;
};
std::vector<Mapping> mappings_of(ino_t inode) {
  std::vector<Mapping> result;
  std::ifstream maps("/proc/self/maps");
  const std::string wanted = "socket:[" + std::to_string(inode) + "]";
  for (std::string line; std::getline(maps, line);) {
    unsigned long from = 0, to = 0, offset = 0;
    if (line.find(wanted) != std::string::npos && std::sscanf(line.c_str(), "%lx-%lx %*s %lx", &from, &to, &offset) == 3)
      result.push_back({from, to, offset});
  }
  return result;
}

// Adds the addresses between consumer and producer of a ring.
void add_ring(const Mapping& mapping, const xdp_ring_offset& layout, std::uint32_t entries, std::size_t stride,
              std::set<std::uint64_t>& buffers) {
  if (mapping.to - mapping.from < layout.desc + entries * stride) return;  // not the size we know
  const auto* base = reinterpret_cast<const char*>(mapping.from);
  std::uint32_t producer = 0, consumer = 0;
  std::memcpy(&producer, base + layout.producer, sizeof producer);
  std::memcpy(&consumer, base + layout.consumer, sizeof consumer);
  for (; consumer != producer && producer - consumer <= entries; ++consumer) {
    std::uint64_t address = 0;
    std::memcpy(&address, base + layout.desc + (consumer & (entries - 1)) * stride, sizeof address);
    buffers.insert(address & XSK_UNALIGNED_BUF_ADDR_MASK);
  }
}

}  // namespace

void AfXdpSockets::begin() { before_ = open_descriptors(); }

void AfXdpSockets::end() {
  for (const int fd : open_descriptors()) {
    if (before_.count(fd) != 0) continue;
    struct stat status {};
    if (is_xdp_socket(fd)) {
      if (::fstat(fd, &status) == 0) sockets_.push_back({fd, status.st_ino});
    } else if (std::string identity = bpf_identity(fd); !identity.empty()) {
      programs_.push_back({fd, std::move(identity)});
    }
  }
}

bool AfXdpSockets::is_zero_copy() const noexcept {
  for (const Socket& socket : sockets_) {
    xdp_options options{};
    socklen_t length = sizeof options;
    if (::getsockopt(socket.fd, SOL_XDP, XDP_OPTIONS, &options, &length) == 0 && (options.flags & XDP_OPTIONS_ZEROCOPY) != 0)
      return true;
  }
  return false;
}

Port::LostFrames AfXdpSockets::lost() const noexcept {
  Port::LostFrames sum;
  for (const Socket& s : sockets_) {
    xdp_statistics stats{};
    socklen_t length = sizeof stats;
    if (::getsockopt(s.fd, SOL_XDP, XDP_STATISTICS, &stats, &length) != 0) continue;
    sum.rx_missed += stats.rx_dropped + stats.rx_ring_full;
    sum.tx_errors += stats.tx_invalid_descs;
  }
  return sum;
}

std::set<std::uint64_t> AfXdpSockets::buffers_in_rings() const {
  std::set<std::uint64_t> buffers;
  for (const Socket& s : sockets_) {
    xdp_mmap_offsets layout{};
    socklen_t length = sizeof layout;
    if (::getsockopt(s.fd, SOL_XDP, XDP_MMAP_OFFSETS, &layout, &length) != 0) continue;
    // Sizes as net_af_xdp asks for them: 2048 descriptors, the fill ring twice that.
    for (const Mapping& m : mappings_of(s.inode)) {
      if (m.offset == XDP_UMEM_PGOFF_FILL_RING) add_ring(m, layout.fr, 4096, sizeof(std::uint64_t), buffers);
      if (m.offset == XDP_UMEM_PGOFF_COMPLETION_RING) add_ring(m, layout.cr, 2048, sizeof(std::uint64_t), buffers);
      if (m.offset == XDP_PGOFF_RX_RING) add_ring(m, layout.rx, 2048, sizeof(xdp_desc), buffers);
      if (m.offset == XDP_PGOFF_TX_RING) add_ring(m, layout.tx, 2048, sizeof(xdp_desc), buffers);
    }
  }
  return buffers;
}

void AfXdpSockets::release() noexcept {
  for (const Socket& s : sockets_) {
    // A mapped ring keeps its socket bound even when the descriptor is closed.
    for (const Mapping& m : mappings_of(s.inode)) ::munmap(reinterpret_cast<void*>(m.from), m.to - m.from);
    struct stat status {};
    if (::fstat(s.fd, &status) == 0 && status.st_ino == s.inode && is_xdp_socket(s.fd)) ::close(s.fd);
  }
  for (const Program& p : programs_)
    if (bpf_identity(p.fd) == p.identity) ::close(p.fd);
  sockets_.clear();
  programs_.clear();
}

}  // namespace vx
