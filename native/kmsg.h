// SPDX-License-Identifier: MIT
// The kernel's own log.
#ifndef OOMLAB_KMSG_H_
#define OOMLAB_KMSG_H_

#include <napi.h>

namespace oomlab {

// readKmsg(fd, max): { records, lost }
Napi::Function MakeReadKmsg(Napi::Env env);
Napi::Value SeekEnd(const Napi::CallbackInfo& info);

}  // namespace oomlab

#endif  // OOMLAB_KMSG_H_
