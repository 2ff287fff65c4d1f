// SPDX-License-Identifier: MIT
// The Node-API addon. src/native.ts is the contract; options are made sense of there, not here.
#include <napi.h>

#include "allocate.h"
#include "children.h"
#include "kmsg.h"
#include "system.h"
#include "watch.h"

namespace oomlab {
namespace {

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  Environment* environment = NewEnvironment(env);
  auto method = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name, environment));
  };
  method("spawn", SpawnChild);
  method("onExit", OnExit);
  method("signal", Signal);
  method("poll", Poll);
  method("eventfd", Eventfd);
  method("pipe", Pipe);
  method("socketpair", Socketpair);
  method("sendDatagram", SendDatagram);
  exports.Set("readKmsg", MakeReadKmsg(env));
  method("seekEnd", SeekEnd);
  method("fsMagic", FsMagic);
  method("xattr", Xattr);
  method("lock", Lock);
  method("mountDetached", MountDetached);
  method("watchSignals", WatchSignals);
  method("setParentDeathSignal", SetParentDeathSignal);
  method("setChildSubreaper", SetChildSubreaper);
  method("setClock", SetClock);
  method("reapOrphans", ReapOrphans);
  method("capabilities", Capabilities);
  exports.Set("allocate", MakeAllocate(env));
  return exports;
}

}  // namespace
}  // namespace oomlab

Napi::Object InitOomlab(Napi::Env env, Napi::Object exports) { return oomlab::Init(env, exports); }

NODE_API_MODULE(NODE_GYP_MODULE_NAME, InitOomlab)
