// SPDX-License-Identifier: MIT
#include "survey.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <new>
#include <system_error>
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace oomlab {
namespace {

// Bytes before and after a place that decide on it.
constexpr size_t kBefore = 32;
constexpr size_t kAfter = 128;

// A small k that can make a record: oom-kill, _kill_process, no killable, killing the task, kill
// process; before or after a terminal's escape sequence. As aroundKill() in src/kmsg/find.ts.
bool AroundKill(uint8_t before, uint8_t next) {
  return before == '-' || before == 'K' || before == 'm' || next == 27 ||
         (before == '_' && next == '_') ||
         (before == ' ' && (next == 'a' || next == 'i' || next == ' '));
}

bool IsCandidate(const uint8_t* at) {
  switch (at[0]) {
    case 'k':
      return memcmp(at, "kill", 4) == 0 && AroundKill(at[-1], at[4]);
    case 'K':
      return memcmp(at, "Kill", 4) == 0 && (at[4] == 'e' || at[4] <= 32);
    case 'O':
      return memcmp(at, "OOM", 3) == 0 || memcmp(at, "Out ", 4) == 0;
    case 'M':
      return memcmp(at, "Memo", 4) == 0 && at[7] == 'c';
    case 'T':
      return memcmp(at, "Task", 4) == 0;
    default:
      return false;
  }
}

// All that passes vectors is inlined: there is no call whose convention could change.
#pragma GCC diagnostic ignored "-Wpsabi"

// Both return -1 where there is a candidate. `size`: a multiple of kStep; kAfter bytes behind it
// are there.
constexpr size_t kStep = 128;
// A byte counts to 255 at most.
constexpr size_t kCounted = 63 * kStep;

// GCC's vectors: SSE2 or NEON.
typedef uint8_t Bytes __attribute__((vector_size(32), aligned(1), may_alias));
typedef uint64_t Words __attribute__((vector_size(32)));

inline __attribute__((always_inline)) Bytes At(const uint8_t* data) {
  return *reinterpret_cast<const Bytes*>(data);
}

// Which of 32 bytes begin a candidate, by their first and third; what is found is looked at
// closely.
inline __attribute__((always_inline)) Bytes Coarse(const uint8_t* at) {
  const Bytes first = At(at);
  const Bytes third = At(at + 2);
  return reinterpret_cast<Bytes>(
      (((first | 0x20) == 'k') & (third == 'l')) | ((first == 'T') & (third == 's')) |
      ((first == 'M') & (third == 'm')) | ((first == 'O') & ((third == 'M') | (third == 't'))));
}

inline __attribute__((always_inline)) bool Any(Bytes bytes) {
  const auto words = reinterpret_cast<Words>(bytes);
  return (words[0] | words[1] | words[2] | words[3]) != 0;
}

int32_t SearchPlain(const uint8_t* data, size_t size) {
  int64_t lines = 0;
  for (size_t at = 0; at < size;) {
    Bytes count = {};
    const size_t stop = std::min(size, at + kCounted);
    for (; at < stop; at += kStep) {
      const uint8_t* here = data + at;
      if (Any(Coarse(here) | Coarse(here + 32) | Coarse(here + 64) | Coarse(here + 96))) {
        for (size_t i = 0; i < kStep; i++) {
          if (IsCandidate(here + i)) return -1;
        }
      }
      for (size_t i = 0; i < kStep; i += 32) {
        count -= reinterpret_cast<Bytes>(At(here + i) == '\n');
      }
    }
    for (size_t i = 0; i < sizeof count; i++) lines += count[i];
  }
  return static_cast<int32_t>(lines);
}

#ifdef __x86_64__
// A bit for each of the pairs that begin a candidate and stand two bytes on: k or K and l, T and s,
// M and m, O and M or t. Looked up by a byte's halves; what both have is the byte's.
struct Lookup {
  __m256i low, high;
};

#define AVX2 __attribute__((target("avx2")))
#define INLINE_AVX2 inline __attribute__((always_inline, target("avx2")))

INLINE_AVX2 __m256i Twice(__m128i table) { return _mm256_broadcastsi128_si256(table); }

// A byte beyond ASCII is nothing: the shuffle makes 0 of it.
INLINE_AVX2 __m256i Classes(__m256i bytes, const Lookup& of) {
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(0x0f));
  return _mm256_and_si256(_mm256_shuffle_epi8(of.low, bytes), _mm256_shuffle_epi8(of.high, high));
}

INLINE_AVX2 __m256i Load(const uint8_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

AVX2 int32_t SearchAvx2(const uint8_t* data, size_t size) {
  const Lookup first = {
      Twice(_mm_setr_epi8(0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 4, 0, 8)),
      Twice(_mm_setr_epi8(0, 0, 0, 0, 1 | 4 | 8, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
  };
  const Lookup third = {
      Twice(_mm_setr_epi8(0, 0, 0, 2, 8, 0, 0, 0, 0, 0, 0, 0, 1, 4 | 8, 0, 0)),
      Twice(_mm_setr_epi8(0, 0, 0, 0, 8, 0, 1 | 4, 2 | 8, 0, 0, 0, 0, 0, 0, 0, 0)),
  };
  const __m256i newline = _mm256_set1_epi8('\n');
  const __m256i zero = _mm256_setzero_si256();
  int64_t lines = 0;
  for (size_t at = 0; at < size;) {
    __m256i count = zero;
    const size_t stop = std::min(size, at + kCounted);
    for (; at < stop; at += kStep) {
      __m256i found[kStep / 32];
      __m256i any = zero;
      for (size_t i = 0; i < kStep / 32; i++) {
        const uint8_t* here = data + at + i * 32;
        const __m256i bytes = Load(here);
        count = _mm256_sub_epi8(count, _mm256_cmpeq_epi8(bytes, newline));
        found[i] = _mm256_and_si256(Classes(bytes, first), Classes(Load(here + 2), third));
        any = _mm256_or_si256(any, found[i]);
      }
      if (_mm256_testz_si256(any, any)) continue;
      for (size_t i = 0; i < kStep / 32; i++) {
        const __m256i none = _mm256_cmpeq_epi8(found[i], zero);
        // 32 bits: one for each byte that may begin a candidate.
        for (uint32_t left = ~static_cast<uint32_t>(_mm256_movemask_epi8(none)); left != 0;
             left &= left - 1) {
          if (IsCandidate(data + at + i * 32 + __builtin_ctz(left))) return -1;
        }
      }
    }
    const __m256i sums = _mm256_sad_epu8(count, zero);
    lines += _mm256_extract_epi64(sums, 0) + _mm256_extract_epi64(sums, 1) +
             _mm256_extract_epi64(sums, 2) + _mm256_extract_epi64(sums, 3);
  }
  return static_cast<int32_t>(lines);
}

#undef AVX2
#undef INLINE_AVX2

// The compiler's own question for this is answered by a library that musl has not.
bool HasAvx2() {
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return false;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  // The system saves SSE's and AVX's registers.
  if ((low & 6) != 6) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_AVX2) != 0;
}
#endif

auto* Choose() {
#ifdef __x86_64__
  if (HasAvx2()) return &SearchAvx2;
#endif
  return &SearchPlain;
}

// The bytes from `offset` on: how many were got.
size_t ReadAt(int fd, uint8_t* into, size_t size, uint64_t offset) {
  size_t got = 0;
  while (got < size) {
    const ssize_t more = pread(fd, into + got, size - got, static_cast<off_t>(offset + got));
    if (more < 0 && errno == EINTR) continue;
    if (more <= 0) break;
    got += static_cast<size_t>(more);
  }
  return got;
}

}  // namespace

// Blocks that a thread takes at once: each time costs a lock, and often somebody's waking up.
constexpr uint64_t kGroup = 32;
// So many groups are searched before their results are taken: what is read is soon read again.
constexpr uint64_t kAhead = 32;

Survey::Survey(int fd, uint64_t offset, uint64_t blocks, size_t block_size, unsigned threads)
    : fd_(fd),
      offset_(offset),
      blocks_(blocks),
      groups_((blocks + kGroup - 1) / kGroup),
      block_size_(block_size / kStep * kStep),
      results_(kAhead) {
  try {
    // 0: as many as there are processors for; four take all that the page cache gives.
    const unsigned count =
        threads > 0 ? threads : std::clamp(std::thread::hardware_concurrency(), 1u, 4u);
    for (unsigned i = 0; i < count; i++) threads_.emplace_back([this] { Work(); });
  } catch (const std::system_error&) {
    // Where the system gives no more threads, fewer do the work.
    if (threads_.empty()) throw;
  }
}

Survey::~Survey() { Stop(); }

void Survey::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
  }
  taken_on_.notify_all();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

void Survey::Work() {
  const std::unique_ptr<uint8_t[]> buffer(new (std::nothrow)
                                              uint8_t[kBefore + block_size_ + kAfter]);
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    taken_on_.wait(lock,
                   [this] { return stopped_ || next_ == groups_ || next_ < taken_ + kAhead; });
    if (stopped_ || next_ == groups_) return;
    const uint64_t group = next_++;
    lock.unlock();
    std::vector<int32_t> found;
    const uint64_t end = std::min(blocks_, (group + 1) * kGroup);
    for (uint64_t block = group * kGroup; block < end; block++) {
      found.push_back(buffer ? Look(block, buffer.get()) : -1);
    }
    lock.lock();
    results_[group % kAhead] = std::move(found);
    if (group == taken_) found_.notify_one();
  }
}

int32_t Survey::Look(uint64_t block, uint8_t* buffer) const {
  static const auto search = Choose();
  const uint64_t start = offset_ + block * block_size_;
  const size_t before = static_cast<size_t>(std::min<uint64_t>(kBefore, start));
  uint8_t* const data = buffer + kBefore;
  memset(buffer, 0, kBefore);
  const size_t got = ReadAt(fd_, data - before, before + block_size_ + kAfter, start - before);
  if (got < before + block_size_) return -1;
  memset(data - before + got, 0, before + block_size_ + kAfter - got);
  return search(data, block_size_);
}

std::vector<int32_t> Survey::Next() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (taken_ == groups_) return {};
  auto& result = results_[taken_ % kAhead];
  found_.wait(lock, [&result] { return !result.empty(); });
  std::vector<int32_t> taken;
  taken.swap(result);
  taken_++;
  lock.unlock();
  taken_on_.notify_all();
  return taken;
}

}  // namespace oomlab
