// SPDX-License-Identifier: MIT
// Kernel logs: the kernel's own, and one in a file.
#ifndef OOMLAB_KMSG_H_
#define OOMLAB_KMSG_H_

#include <napi.h>

namespace oomlab {

// readKmsg(fd, max): { records, lost }
Napi::Function MakeReadKmsg(Napi::Env env);
Napi::Value SeekEnd(const Napi::CallbackInfo& info);

// survey(fd, offset, blocks, blockSize, threads): { next(): Int32Array, close(): void }
Napi::Value SurveyLog(const Napi::CallbackInfo& info);

}  // namespace oomlab

#endif  // OOMLAB_KMSG_H_
