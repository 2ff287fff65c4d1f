// SPDX-License-Identifier: MIT
// The memory engine: how each kind of memory is asked for, touched and given back.
#ifndef OOMLAB_MEMORY_H_
#define OOMLAB_MEMORY_H_

#include <stddef.h>
#include <stdint.h>

#include "base.h"

namespace oomlab {

constexpr uint64_t kPage = 4096;

enum class Kind : uint8_t {
  kAnon,
  kShared,
  kFile,
  kFileWrite,
  kShmem,
  kTmpfs,
  kShm,
  kMlock,
  kHugetlb,
  kStack,
  kBrk,
  kPipes,
  kSockets,
  kTcp,
  kKernelStacks,
};
constexpr int kKindCount = 15;

const char* KindName(Kind kind);

enum class Content : uint8_t { kPattern, kZero, kRandom };
enum class HugePages : uint8_t { kDefault, kOn, kOff };

// How memory is written: one byte each `stride`, or every byte.
struct Touch {
  uint64_t stride = kPage;
  bool every = false;
  Content content = Content::kPattern;
  HugePages huge_pages = HugePages::kDefault;
  // The kernel faults it in (MADV_POPULATE_WRITE) instead of our writes; cleared where it cannot.
  bool populate = false;
};

struct Region {
  Kind kind = Kind::kAnon;
  uint64_t size = 0;
  Touch touch;
  // Whether the kernel is to account for all of it at once, and refuse what it cannot have.
  bool reserve = true;
  // For kinds that are files: where, and the name to leave behind (nullptr: none is left).
  const char* dir = nullptr;
  const char* keep = nullptr;

  char* base = nullptr;
  uint64_t mapped = 0;
  int fd = -1;
  // Descriptors of pipes and sockets, and the end of the last one that takes more.
  int* fds = nullptr;
  uint32_t fd_count = 0;
  uint32_t fd_capacity = 0;
};

// Whether this kind is counted in the RSS of whoever touches it.
bool IsResident(Kind kind);

// Whether several threads may press different ranges of it at once.
bool IsParallel(Kind kind);

// Whether it is a mapping that pages, huge ones too, can be populated in.
bool IsMapped(Kind kind);

// Whether the kernel accounts for it before it is touched, unless asked not to.
bool IsReserved(Kind kind);

// Whether it is a file, made in a directory.
bool IsFile(Kind kind);

// Asks the kernel for it. Nothing is touched yet.
Failure Open(Region* region);

// Touches [from, to), page-aligned but for the end; `touched` grows by what was really touched.
Failure Press(Region* region, uint64_t from, uint64_t to, uint64_t* touched);

// Touches again what Press touched up to `to`.
Failure Retouch(Region* region, uint64_t to);

void Close(Region* region);

}  // namespace oomlab

#endif  // OOMLAB_MEMORY_H_
