// SPDX-License-Identifier: MIT
// Memory that JavaScript allocates and touches itself.
#ifndef OOMLAB_ALLOCATE_H_
#define OOMLAB_ALLOCATE_H_

#include <napi.h>

namespace oomlab {

// allocate(size, options): MemoryRegion
Napi::Function MakeAllocate(Napi::Env env);

}  // namespace oomlab

#endif  // OOMLAB_ALLOCATE_H_
