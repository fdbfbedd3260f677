// SPDX-License-Identifier: Apache-2.0
#include "dataplane/buffer_pool_mbuf.h"

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_memzone.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "dataplane/port_factory.h"

namespace vx {
namespace {

constexpr unsigned kDataRoomBytes = RTE_PKTMBUF_HEADROOM + kXdpHeadroomBytes + kFrameRoomBytes;
constexpr unsigned kCachedPerLcore = 256;
constexpr unsigned kMaxBulk = 512;

void free_zone(rte_mempool_memhdr*, void* zone) { rte_memzone_free(static_cast<const rte_memzone*>(zone)); }

[[noreturn]] void fail(const std::string& name, unsigned buffers, const char* what) {
  throw std::runtime_error("buffer pool " + name + ": " + what + " for " + std::to_string(buffers) +
                           " buffers: " + rte_strerror(rte_errno) + "; give more with --memory");
}

}  // namespace

MbufPool::MbufPool(const std::string& name, unsigned buffers) {
  // NO_IOVA_CONTIG here means "do not leave gaps at page boundaries"; the zone below is IOVA-contiguous all the same.
  pool_ = rte_mempool_create_empty(name.c_str(), buffers, sizeof(rte_mbuf) + kDataRoomBytes,
                                   std::min(kCachedPerLcore, buffers * 2 / 3), sizeof(rte_pktmbuf_pool_private),
                                   static_cast<int>(rte_socket_id()), RTE_MEMPOOL_F_NO_IOVA_CONTIG);
  if (pool_ == nullptr) fail(name, buffers, "no memory");
  if (const int error = rte_mempool_set_ops_byname(pool_, rte_mbuf_best_mempool_ops(), nullptr); error != 0) {
    rte_mempool_free(pool_);
    rte_errno = -error;
    fail(name, buffers, "no mempool driver");
  }
  rte_pktmbuf_pool_private layout{};
  layout.mbuf_data_room_size = kDataRoomBytes;
  rte_pktmbuf_pool_init(pool_, &layout);

  const std::size_t object = pool_->header_size + pool_->elt_size + pool_->trailer_size;
  const unsigned contiguous = rte_eal_iova_mode() == RTE_IOVA_PA ? RTE_MEMZONE_IOVA_CONTIG : 0;
  const rte_memzone* zone =
      rte_memzone_reserve_aligned(name.c_str(), object * buffers, static_cast<int>(rte_socket_id()),
                                  contiguous, static_cast<unsigned>(::getpagesize()));
  if (zone == nullptr) {
    const int error = rte_errno;
    rte_mempool_free(pool_);
    rte_errno = error;
    fail(name, buffers, "no contiguous memory");
  }
  const int added = rte_mempool_populate_iova(pool_, static_cast<char*>(zone->addr), zone->iova, zone->len, free_zone,
                                              const_cast<rte_memzone*>(zone));
  if (added != static_cast<int>(buffers)) {
    rte_mempool_free(pool_);
    rte_errno = ENOMEM;
    fail(name, buffers, "memory zone too small");
  }
  memory_ = static_cast<std::uint8_t*>(zone->addr);
  rte_mempool_obj_iter(pool_, rte_pktmbuf_init, nullptr);
  pool_->flags &= ~static_cast<unsigned>(RTE_MEMPOOL_F_NO_IOVA_CONTIG | RTE_MEMPOOL_F_NON_IO);
}

MbufPool::~MbufPool() { rte_mempool_free(pool_); }

unsigned MbufPool::allocate(Packet* out, unsigned count) noexcept {
  std::array<void*, kMaxBulk> mbufs;
  unsigned done = 0;
  while (done < count) {
    unsigned n = std::min(count - done, kMaxBulk);
    if (rte_mempool_get_bulk(pool_, mbufs.data(), n) != 0) {
      n = 1;  // nearly empty: what is left, one by one
      if (rte_mempool_get(pool_, mbufs.data()) != 0) break;
    }
    for (unsigned i = 0; i < n; ++i) {
      const auto* mbuf = static_cast<const rte_mbuf*>(mbufs[i]);
      Packet& packet = out[done++];
      packet = Packet{};
      packet.data = static_cast<std::uint8_t*>(mbuf->buf_addr) + RTE_PKTMBUF_HEADROOM;
      packet.buffer = mbufs[i];
      packet.headroom = RTE_PKTMBUF_HEADROOM;
      packet.tailroom = static_cast<std::uint16_t>(mbuf->buf_len - RTE_PKTMBUF_HEADROOM);
    }
  }
  return done;
}

void MbufPool::free(Packet* const* packets, unsigned count) noexcept {
  std::array<void*, kMaxBulk> mbufs;
  while (count > 0) {
    const unsigned n = std::min(count, kMaxBulk);
    for (unsigned i = 0; i < n; ++i) mbufs[i] = packets[i]->buffer;
    rte_mempool_put_bulk(pool_, mbufs.data(), n);
    packets += n;
    count -= n;
  }
}

void MbufPool::take_back(const std::set<std::uint64_t>& offsets) noexcept {
  const std::size_t object = pool_->header_size + pool_->elt_size + pool_->trailer_size;
  for (const std::uint64_t offset : offsets) {
    // Rings are shared with the kernel: only what is a buffer's place is believed.
    if (offset % object != 0 || offset / object >= pool_->size) continue;
    rte_mempool_put(pool_, memory_ + offset + pool_->header_size);
  }
}

std::unique_ptr<BufferPool> make_mbuf_pool(const std::string& name, unsigned buffers) {
  return std::make_unique<MbufPool>(name, buffers);
}

}  // namespace vx
