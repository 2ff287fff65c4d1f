// SPDX-License-Identifier: MIT
// Children of this process: those that were spawned here, and orphans that came to it.
#ifndef OOMLAB_CHILDREN_H_
#define OOMLAB_CHILDREN_H_

#include <napi.h>

namespace oomlab {

Napi::Value SpawnChild(const Napi::CallbackInfo& info);
Napi::Value Signal(const Napi::CallbackInfo& info);
Napi::Value OnExit(const Napi::CallbackInfo& info);
Napi::Value ReapOrphans(const Napi::CallbackInfo& info);

}  // namespace oomlab

#endif  // OOMLAB_CHILDREN_H_
