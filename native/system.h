// SPDX-License-Identifier: MIT
// Single system calls that Node has not.
#ifndef OOMLAB_SYSTEM_H_
#define OOMLAB_SYSTEM_H_

#include <napi.h>

namespace oomlab {

Napi::Value Eventfd(const Napi::CallbackInfo& info);
Napi::Value Pipe(const Napi::CallbackInfo& info);
Napi::Value Socketpair(const Napi::CallbackInfo& info);
Napi::Value SendDatagram(const Napi::CallbackInfo& info);
Napi::Value Lock(const Napi::CallbackInfo& info);
Napi::Value MountDetached(const Napi::CallbackInfo& info);
Napi::Value FsMagic(const Napi::CallbackInfo& info);
Napi::Value Xattr(const Napi::CallbackInfo& info);

// Of this process.
Napi::Value WatchSignals(const Napi::CallbackInfo& info);
Napi::Value SetParentDeathSignal(const Napi::CallbackInfo& info);
Napi::Value SetChildSubreaper(const Napi::CallbackInfo& info);
Napi::Value SetClock(const Napi::CallbackInfo& info);
Napi::Value Capabilities(const Napi::CallbackInfo& info);

}  // namespace oomlab

#endif  // OOMLAB_SYSTEM_H_
