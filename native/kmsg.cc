// SPDX-License-Identifier: MIT
#include "kmsg.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <system_error>
#include <unordered_set>
#include <vector>

#include "survey.h"
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

Napi::Value SurveyLog(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto natural = [&](size_t at, const char* name) {
    const double number = ToNumber(info[at], name);
    if (number != std::floor(number) || number < 0 || number > 9007199254740991.0) {
      Reject(env, name, "a non-negative integer");
    }
    return static_cast<uint64_t>(number);
  };
  const uint32_t size = ToUnsigned(info[3], "blockSize");
  if (size == 0 || size % 128 != 0) Reject(env, "blockSize", "a multiple of 128");
  const int fd = ToInt(info[0], "fd");
  const uint64_t offset = natural(1, "offset");
  const uint64_t blocks = natural(2, "blocks");
  const uint32_t threads = ToUnsigned(info[4], "threads");
  const auto survey = std::make_shared<std::unique_ptr<Survey>>();
  try {
    survey->reset(new Survey(fd, offset, blocks, size, threads));
  } catch (const std::system_error& error) {
    throw SystemError(env, "", "thread", error.code().value());
  }
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("next", Napi::Function::New(env, [survey](const Napi::CallbackInfo& call) {
               const std::vector<int32_t> found =
                   *survey ? (*survey)->Next() : std::vector<int32_t>();
               Napi::Int32Array result = Napi::Int32Array::New(call.Env(), found.size());
               std::copy(found.begin(), found.end(), result.Data());
               return result;
             }));
  handle.Set("close",
             Napi::Function::New(env, [survey](const Napi::CallbackInfo&) { survey->reset(); }));
  return handle;
}

}  // namespace oomlab
