// SPDX-License-Identifier: MIT
// Descriptors watched on Node's event loop.
#ifndef OOMLAB_WATCH_H_
#define OOMLAB_WATCH_H_

#include <napi.h>

#include <functional>

namespace oomlab {

// What lives as long as one JavaScript environment: the main thread's or a worker thread's. The
// functions below find it as their data.
struct Environment;
Environment* NewEnvironment(napi_env env);

// poll(fd, event, callback): { close(): void }
Napi::Value Poll(const Napi::CallbackInfo& info);

// Calls back once, with what `take` makes of the readable descriptor; while that is empty it waits
// on. `take` may close the descriptor.
void WatchOnce(const Napi::CallbackInfo& info, int fd, const char* name, Napi::Function callback,
               std::function<Napi::Value(Napi::Env)> take);

}  // namespace oomlab

#endif  // OOMLAB_WATCH_H_
