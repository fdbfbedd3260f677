// SPDX-License-Identifier: Apache-2.0
// Sums 32-bit halves in 64-bit lanes, which cannot overflow within a frame; folds once at the end. The outer
// UDP checksum over a full-size inner frame is the dearest part of encap, hence AVX2 where the CPU has it. Low halves are
// taken by blending with zero: a mask would be loaded from memory, and a load whose page offset is that of a store still
// on its way waits for it (measured behind a copy: three times the whole work).
#include "dataplane/checksum.h"

#include <immintrin.h>

// The tuning makes an unaligned load one instruction, as it is fastest on all that have AVX2. Before SSE code that follows the
// upper halves must be clear: gcc leaves that out in front of a tail call, and each instruction then waits (6 times the cycles).
#define VX_AVX2 [[gnu::target("avx2,tune=haswell")]]

namespace vx {
namespace {

std::uint32_t fold64(std::uint64_t sum) noexcept {
  sum = (sum & 0xffffffff) + (sum >> 32);
  return static_cast<std::uint32_t>((sum & 0xffffffff) + (sum >> 32));
}

// Any length; for what is left of the vector loops.
std::uint64_t sum_scalar(const std::uint8_t* bytes, std::size_t length, std::uint64_t sum) noexcept {
  for (; length >= 4; bytes += 4, length -= 4) {
    std::uint32_t word;
    std::memcpy(&word, bytes, 4);
    sum += word;
  }
  if (length >= 2) {
    std::uint16_t word;
    std::memcpy(&word, bytes, 2);
    sum += word;
    bytes += 2;
    length -= 2;
  }
  if (length == 1) sum += *bytes;  // little-endian: the pad is the high byte
  return sum;
}

std::uint64_t sum_sse2(const std::uint8_t* bytes, std::size_t length, std::uint64_t sum) noexcept {
  const __m128i zero = _mm_setzero_si128();
  __m128i a = zero, b = zero;
  for (; length >= 16; bytes += 16, length -= 16) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    a = _mm_add_epi64(a, _mm_blend_epi16(v, zero, 0xcc));
    b = _mm_add_epi64(b, _mm_srli_epi64(v, 32));
  }
  a = _mm_add_epi64(a, b);
  sum += static_cast<std::uint64_t>(_mm_cvtsi128_si64(a)) + static_cast<std::uint64_t>(_mm_extract_epi64(a, 1));
  return sum_scalar(bytes, length, sum);
}

VX_AVX2 std::uint64_t sum_avx2(const std::uint8_t* bytes, std::size_t length,
                                               std::uint64_t sum) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  __m256i a = zero, b = zero, c = zero, d = zero;
  for (; length >= 64; bytes += 64, length -= 64) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32));
    a = _mm256_add_epi64(a, _mm256_blend_epi32(v, zero, 0xaa));
    b = _mm256_add_epi64(b, _mm256_srli_epi64(v, 32));
    c = _mm256_add_epi64(c, _mm256_blend_epi32(w, zero, 0xaa));
    d = _mm256_add_epi64(d, _mm256_srli_epi64(w, 32));
  }
  const __m256i all = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  sum += static_cast<std::uint64_t>(_mm_cvtsi128_si64(half)) + static_cast<std::uint64_t>(_mm_extract_epi64(half, 1));
  _mm256_zeroupper();
  return sum_sse2(bytes, length, sum);
}

// The same three with a store behind each load.
std::uint64_t copy_scalar(std::uint8_t* to, const std::uint8_t* from, std::size_t length, std::uint64_t sum) noexcept {
  for (; length >= 4; from += 4, to += 4, length -= 4) {
    std::uint32_t word;
    std::memcpy(&word, from, 4);
    std::memcpy(to, &word, 4);
    sum += word;
  }
  if (length >= 2) {
    std::uint16_t word;
    std::memcpy(&word, from, 2);
    std::memcpy(to, &word, 2);
    sum += word;
    from += 2;
    to += 2;
    length -= 2;
  }
  if (length == 1) sum += *to = *from;
  return sum;
}

std::uint64_t copy_sse2(std::uint8_t* to, const std::uint8_t* from, std::size_t length, std::uint64_t sum) noexcept {
  const __m128i zero = _mm_setzero_si128();
  __m128i a = zero, b = zero;
  for (; length >= 16; from += 16, to += 16, length -= 16) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), v);
    a = _mm_add_epi64(a, _mm_blend_epi16(v, zero, 0xcc));
    b = _mm_add_epi64(b, _mm_srli_epi64(v, 32));
  }
  a = _mm_add_epi64(a, b);
  sum += static_cast<std::uint64_t>(_mm_cvtsi128_si64(a)) + static_cast<std::uint64_t>(_mm_extract_epi64(a, 1));
  return copy_scalar(to, from, length, sum);
}

VX_AVX2 std::uint64_t copy_avx2(std::uint8_t* to, const std::uint8_t* from, std::size_t length,
                                                std::uint64_t sum) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  __m256i a = zero, b = zero, c = zero, d = zero;
  for (; length >= 64; from += 64, to += 64, length -= 64) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), w);
    a = _mm256_add_epi64(a, _mm256_blend_epi32(v, zero, 0xaa));
    b = _mm256_add_epi64(b, _mm256_srli_epi64(v, 32));
    c = _mm256_add_epi64(c, _mm256_blend_epi32(w, zero, 0xaa));
    d = _mm256_add_epi64(d, _mm256_srli_epi64(w, 32));
  }
  const __m256i all = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  sum += static_cast<std::uint64_t>(_mm_cvtsi128_si64(half)) + static_cast<std::uint64_t>(_mm_extract_epi64(half, 1));
  _mm256_zeroupper();
  return copy_sse2(to, from, length, sum);
}

}  // namespace

std::uint32_t checksum_partial(const std::uint8_t* bytes, std::size_t length, std::uint32_t seed) noexcept {
  if (length >= 128 && __builtin_cpu_supports("avx2")) return fold64(sum_avx2(bytes, length, seed));
  return fold64(sum_sse2(bytes, length, seed));
}

std::uint32_t checksum_copy(std::uint8_t* to, const std::uint8_t* from, std::size_t length,
                            std::uint32_t seed) noexcept {
  if (length >= 128 && __builtin_cpu_supports("avx2")) return fold64(copy_avx2(to, from, length, seed));
  return fold64(copy_sse2(to, from, length, seed));
}

}  // namespace vx
