// SPDX-License-Identifier: MIT
#ifndef OOMLAB_LIMIT_H_
#define OOMLAB_LIMIT_H_

#include <stdint.h>

namespace oomlab {

// What a percentage is of: the smallest memory limit above us, or the machine's memory.
uint64_t MemoryLimit();

}  // namespace oomlab

#endif  // OOMLAB_LIMIT_H_
