// SPDX-License-Identifier: MIT
// What the kernel says this process uses, in bytes.
#ifndef OOMLAB_USAGE_H_
#define OOMLAB_USAGE_H_

#include <stdint.h>

namespace oomlab {

struct Usage {
  bool known = false;
  uint64_t rss = 0;
  uint64_t hwm = 0;
  uint64_t swap = 0;
  uint64_t hugetlb = 0;
};

Usage ReadUsage();

// Its `rss` alone.
uint64_t ReadRss();

// What a walk over our page tables finds, resident or swapped out. The counts above are cheaper,
// and may be too low: the kernel batches them (up to 64 pages a thread before 6.2, a batch a CPU
// since), and VmSwap leaves out shared memory.
uint64_t ReadWalked();

}  // namespace oomlab

#endif  // OOMLAB_USAGE_H_
