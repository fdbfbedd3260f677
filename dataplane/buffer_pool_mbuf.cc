// SPDX-License-Identifier: Apache-2.0
#include "dataplane/buffer_pool_mbuf.h"

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_memzone.h>
#include <rte_ring.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <utility>

#include "dataplane/port_factory.h"

namespace vx {
namespace {

constexpr unsigned kDataRoomBytes = RTE_PKTMBUF_HEADROOM + kXdpHeadroomBytes + kFrameRoomBytes;
constexpr unsigned kCachedPerLcore = 256, kCachedLarge = 32;
constexpr unsigned kMaxBulk = 512;

// Mempool driver: a ring, as rte_mempool's own "ring_mp_mc", that can note what one thread takes and gives.
constexpr const char* kOpsName = "vx_ring";
struct Store {
  rte_ring* ring = nullptr;
  std::atomic<std::set<void*>*> recorder{nullptr};
  std::thread::id recorded_thread;  // written before recorder

  [[nodiscard]] std::set<void*>* recording() const noexcept {
    std::set<void*>* set = recorder.load(std::memory_order_acquire);
    return set != nullptr && recorded_thread == std::this_thread::get_id() ? set : nullptr;
  }
};
Store& store_of(const rte_mempool* pool) noexcept { return *static_cast<Store*>(pool->pool_data); }

int store_alloc(rte_mempool* pool) {
  const std::string name = std::string("RG_") + pool->name;
  rte_ring* ring = rte_ring_create(name.c_str(), rte_align32pow2(pool->size + 1), pool->socket_id, 0);
  if (ring == nullptr) return -rte_errno;
  auto* store = new Store;
  store->ring = ring;
  pool->pool_data = store;
  return 0;
}
void store_free(rte_mempool* pool) {
  rte_ring_free(store_of(pool).ring);
  delete &store_of(pool);
}
int store_enqueue(rte_mempool* pool, void* const* objects, unsigned n) {
  Store& store = store_of(pool);
  if (std::set<void*>* set = store.recording()) [[unlikely]]
    for (unsigned i = 0; i < n; ++i) set->erase(objects[i]);
  return rte_ring_mp_enqueue_bulk(store.ring, objects, n, nullptr) == 0 ? -ENOBUFS : 0;
}
int store_dequeue(rte_mempool* pool, void** objects, unsigned n) {
  Store& store = store_of(pool);
  if (rte_ring_mc_dequeue_bulk(store.ring, objects, n, nullptr) == 0) return -ENOBUFS;
  if (std::set<void*>* set = store.recording()) [[unlikely]]
    set->insert(objects, objects + n);
  return 0;
}
unsigned store_count(const rte_mempool* pool) { return rte_ring_count(store_of(pool).ring); }

// Chooses our driver; makes it known to DPDK first when this is the process's first pool.
int use_store(rte_mempool* pool) {
  if (rte_mempool_set_ops_byname(pool, kOpsName, nullptr) == 0) return 0;
  rte_mempool_ops ops{};
  std::strncpy(ops.name, kOpsName, sizeof ops.name - 1);
  ops.alloc = store_alloc;
  ops.free = store_free;
  ops.enqueue = store_enqueue;
  ops.dequeue = store_dequeue;
  ops.get_count = store_count;
  if (const int index = rte_mempool_register_ops(&ops); index < 0) return index;
  return rte_mempool_set_ops_byname(pool, kOpsName, nullptr);
}

// What this thread keeps for itself goes to the common store.
void flush_cache(rte_mempool* pool) {
  if (rte_mempool_cache* cache = rte_mempool_default_cache(pool, rte_lcore_id()); cache != nullptr)
    rte_mempool_cache_flush(cache, pool);
}

void free_zone(rte_mempool_memhdr*, void* zone) { rte_memzone_free(static_cast<const rte_memzone*>(zone)); }

[[noreturn]] void fail(const std::string& name, unsigned buffers, const char* what) {
  throw std::runtime_error("buffer pool " + name + ": " + what + " for " + std::to_string(buffers) +
                           " buffers: " + rte_strerror(rte_errno) + "; give more with --memory");
}

// A pool of mbufs with `room` bytes each, in one memory zone of its own.
rte_mempool* make_pool(const std::string& name, unsigned buffers, unsigned room, unsigned cached, const rte_memzone*& zone) {
  // NO_IOVA_CONTIG here means "do not leave gaps at page boundaries"; the zone below is IOVA-contiguous all the same.
  rte_mempool* pool = rte_mempool_create_empty(name.c_str(), buffers, sizeof(rte_mbuf) + room, cached,
                                               sizeof(rte_pktmbuf_pool_private), static_cast<int>(rte_socket_id()),
                                               RTE_MEMPOOL_F_NO_IOVA_CONTIG);
  if (pool == nullptr) fail(name, buffers, "no memory");
  const auto give_up = [&](int error, const char* what) {
    rte_mempool_free(pool);
    rte_errno = error;
    fail(name, buffers, what);
  };
  if (const int error = use_store(pool); error != 0) give_up(-error, "no mempool driver");
  rte_pktmbuf_pool_private layout{};
  layout.mbuf_data_room_size = static_cast<std::uint16_t>(std::min(room, 0xffffu));  // all that an mbuf can say
  rte_pktmbuf_pool_init(pool, &layout);

  const std::size_t object = pool->header_size + pool->elt_size + pool->trailer_size;
  const unsigned contiguous = rte_eal_iova_mode() == RTE_IOVA_PA ? RTE_MEMZONE_IOVA_CONTIG : 0;
  zone = rte_memzone_reserve_aligned(name.c_str(), object * buffers, static_cast<int>(rte_socket_id()), contiguous,
                                     static_cast<unsigned>(::getpagesize()));
  if (zone == nullptr) give_up(rte_errno, "no contiguous memory");
  const int added = rte_mempool_populate_iova(pool, static_cast<char*>(zone->addr), zone->iova, zone->len, free_zone,
                                              const_cast<rte_memzone*>(zone));
  if (added != static_cast<int>(buffers)) give_up(ENOMEM, "memory zone too small");
  rte_mempool_obj_iter(pool, rte_pktmbuf_init, nullptr);
  pool->flags &= ~static_cast<unsigned>(RTE_MEMPOOL_F_NO_IOVA_CONTIG | RTE_MEMPOOL_F_NON_IO);
  return pool;
}

// `count` descriptors from `pool`, each with `room` bytes behind the headroom.
unsigned take(rte_mempool* pool, std::uint32_t room, Packet* out, unsigned count) noexcept {
  std::array<void*, kMaxBulk> mbufs;
  unsigned done = 0;
  while (done < count) {
    unsigned n = std::min(count - done, kMaxBulk);
    if (rte_mempool_get_bulk(pool, mbufs.data(), n) != 0) {
      n = 1;  // nearly empty: what is left, one by one
      if (rte_mempool_get(pool, mbufs.data()) != 0) break;
    }
    for (unsigned i = 0; i < n; ++i) {
      const auto* mbuf = static_cast<const rte_mbuf*>(mbufs[i]);
      Packet& packet = out[done++];
      packet = Packet{};
      packet.data = static_cast<std::uint8_t*>(mbuf->buf_addr) + RTE_PKTMBUF_HEADROOM;
      packet.buffer = mbufs[i];
      packet.headroom = RTE_PKTMBUF_HEADROOM;
      packet.tailroom = room;
    }
  }
  return done;
}

}  // namespace

MbufPool::MbufPool(const std::string& name, unsigned buffers) {
  const rte_memzone* zone = nullptr;
  pool_ = make_pool(name, buffers, kDataRoomBytes, std::min(kCachedPerLcore, buffers * 2 / 3), zone);
  memory_ = static_cast<std::uint8_t*>(zone->addr);
  const unsigned large = std::clamp(buffers / kBuffersPerLarge, kLeastLarge, kMostLarge);
  try {
    large_ = make_pool(name + "_large", large, kLargeRoomBytes, std::min(kCachedLarge, large / 4), zone);
  } catch (...) {
    rte_mempool_free(pool_);
    throw;
  }
  large_memory_ = static_cast<std::uint8_t*>(zone->addr);
  large_bytes_ = zone->len;
}

MbufPool::~MbufPool() {
  rte_mempool_free(large_);
  rte_mempool_free(pool_);
}

unsigned MbufPool::allocate(Packet* out, unsigned count) noexcept {
  return take(pool_, kDataRoomBytes - RTE_PKTMBUF_HEADROOM, out, count);
}
unsigned MbufPool::allocate_large(Packet* out, unsigned count) noexcept {
  return take(large_, kLargeRoomBytes - RTE_PKTMBUF_HEADROOM, out, count);
}

void MbufPool::free(Packet* const* packets, unsigned count) noexcept {
  std::array<void*, kMaxBulk> mbufs, large;
  while (count > 0) {
    const unsigned taken = std::min(count, kMaxBulk);
    unsigned n = 0, n_large = 0;
    for (unsigned i = 0; i < taken; ++i) {
      void* mbuf = packets[i]->buffer;
      if (is_large(mbuf)) [[unlikely]] large[n_large++] = mbuf;
      else mbufs[n++] = mbuf;
    }
    if (n != 0) rte_mempool_put_bulk(pool_, mbufs.data(), n);
    if (n_large != 0) rte_mempool_put_bulk(large_, large.data(), n_large);
    packets += taken;
    count -= taken;
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

MbufPool::Recording::Recording(MbufPool& pool) : pool_(pool) {
  flush_cache(pool_.pool_);
  Store& store = store_of(pool_.pool_);
  store.recorded_thread = std::this_thread::get_id();
  store.recorder.store(&missing_, std::memory_order_release);
}
MbufPool::Recording::~Recording() { store_of(pool_.pool_).recorder.store(nullptr, std::memory_order_release); }
void MbufPool::Recording::put_back() noexcept {
  flush_cache(pool_.pool_);
  const std::set<void*> lost = std::exchange(missing_, {});
  for (void* mbuf : lost) rte_mempool_put(pool_.pool_, mbuf);
}

std::unique_ptr<BufferPool> make_mbuf_pool(const std::string& name, unsigned buffers) {
  return std::make_unique<MbufPool>(name, buffers);
}

}  // namespace vx
