// SPDX-License-Identifier: MIT
#include "kmsg.h"

#include <errno.h>
#include <unistd.h>

#include <cstdint>
#include <unordered_set>

#include "values.h"

namespace oomlab {
namespace {

// `gaps`: descriptors whose next record comes after a gap that has not been told yet.
Napi::Value ReadKmsg(const Napi::CallbackInfo& info, std::unordered_set<int>* gaps) {
  Napi::Env env = info.Env();
  const int fd = ToInt(info[0], "fd");
  const uint32_t max = ToUnsigned(info[1], "max");
  Napi::Array records = Napi::Array::New(env);
  bool lost = gaps->erase(fd) > 0;
  // printk/internal.h, PRINTKRB_RECORD_MAX is 1 kB; extended records are at most 8 KiB.
  char buffer[16 << 10];
  for (uint32_t count = 0; count < max;) {
    const ssize_t size = read(fd, buffer, sizeof buffer);
    if (size > 0) {
      const size_t end = static_cast<size_t>(size) - (buffer[size - 1] == '\n' ? 1 : 0);
      records.Set(count++, Napi::String::New(env, buffer, end));
    } else if (size < 0 && errno == EPIPE) {
      // A gap after records of this call belongs before the next call's first record.
      if (count > 0) {
        gaps->insert(fd);
        break;
      }
      lost = true;
    } else if (size < 0 && errno == EINTR) {
      continue;
    } else if (size == 0 || errno == EAGAIN) {
      break;
    } else {
      throw SystemError(env, "", "read", errno, "/dev/kmsg");
    }
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("records", records);
  result.Set("lost", lost);
  return result;
}

}  // namespace

Napi::Function MakeReadKmsg(Napi::Env env) {
  const auto gaps = std::make_shared<std::unordered_set<int>>();
  return Napi::Function::New(
      env, [gaps](const Napi::CallbackInfo& info) { return ReadKmsg(info, gaps.get()); },
      "readKmsg");
}

Napi::Value SeekEnd(const Napi::CallbackInfo& info) {
  if (lseek(ToInt(info[0], "fd"), 0, SEEK_END) < 0) {
    throw SystemError(info.Env(), "", "lseek", errno);
  }
  return info.Env().Undefined();
}

}  // namespace oomlab
