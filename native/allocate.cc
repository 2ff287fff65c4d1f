// SPDX-License-Identifier: MIT
#include "allocate.h"

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>

#include "memory.h"
#include "values.h"

namespace oomlab {
namespace {

class MemoryRegion : public Napi::ObjectWrap<MemoryRegion> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "MemoryRegion",
                       {
                           InstanceAccessor<&MemoryRegion::Size>("size", napi_enumerable),
                           InstanceAccessor<&MemoryRegion::Touched>("touched", napi_enumerable),
                           InstanceMethod<&MemoryRegion::TouchNext>("touch"),
                           InstanceMethod<&MemoryRegion::TouchAgain>("retouch"),
                           InstanceMethod<&MemoryRegion::Free>("free"),
                       });
  }

  explicit MemoryRegion(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MemoryRegion>(info) {
    const double size = ToNumber(info[0], "size");
    if (!(size >= 1) || size > 9007199254740991.0 || size != std::floor(size)) {
      Reject(info.Env(), "size", "a positive integer of bytes");
    }
    region_.size = static_cast<uint64_t>(size);
    if (!info[1].IsUndefined()) {
      const Napi::Object options = ToObject(info[1], "options");
      if (Has(options, "hugePages")) {
        if (!options.Get("hugePages").IsBoolean()) {
          Reject(info.Env(), "options.hugePages", "a boolean");
        }
        region_.touch.huge_pages =
            options.Get("hugePages").ToBoolean() ? HugePages::kOn : HugePages::kOff;
      }
      if (Has(options, "reserve")) {
        if (!options.Get("reserve").IsBoolean()) {
          Reject(info.Env(), "options.reserve", "a boolean");
        }
        region_.reserve = options.Get("reserve").ToBoolean();
      }
      if (Has(options, "content")) {
        const std::string content = ToText(options.Get("content"), "options.content");
        if (content != "zero" && content != "pattern" && content != "random") {
          Reject(info.Env(), "options.content", "zero, pattern or random");
        }
        region_.touch.content = content == "zero"     ? Content::kZero
                                : content == "random" ? Content::kRandom
                                                      : Content::kPattern;
        region_.touch.every = true;
      }
    }
    if (const Failure failure = Open(&region_)) {
      throw SystemError(info.Env(),
                        "allocate " + std::to_string(region_.size) + " bytes: ", failure.op,
                        failure.error);
    }
  }

  ~MemoryRegion() override { Close(&region_); }

 private:
  Napi::Value Size(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(region_.size));
  }

  Napi::Value Touched(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(at_));
  }

  Napi::Value TouchNext(const Napi::CallbackInfo& info) {
    const double bytes = ToNumber(info[0], "bytes");
    if (!(bytes >= 0)) Reject(info.Env(), "bytes", "a non-negative number");
    Check(info.Env());
    const uint64_t left = region_.size - at_;
    const uint64_t step = bytes < static_cast<double>(left) ? static_cast<uint64_t>(bytes) : left;
    uint64_t touched = 0;
    // A page that an earlier step ended in has been touched; its content may be unfinished.
    const uint64_t from = (at_ + (region_.touch.every ? 0 : kPage - 1)) / kPage * kPage;
    if (const Failure failure = Press(&region_, from, at_ + step, &touched)) {
      throw SystemError(info.Env(), "", failure.op, failure.error);
    }
    at_ += step;
    return Napi::Number::New(info.Env(), static_cast<double>(step));
  }

  Napi::Value TouchAgain(const Napi::CallbackInfo& info) {
    Check(info.Env());
    if (const Failure failure = Retouch(&region_, at_)) {
      throw SystemError(info.Env(), "", failure.op, failure.error);
    }
    return info.Env().Undefined();
  }

  Napi::Value Free(const Napi::CallbackInfo& info) {
    Close(&region_);
    at_ = 0;
    return info.Env().Undefined();
  }

  void Check(Napi::Env env) {
    if (!region_.base) throw Napi::Error::New(env, "the memory has been freed");
  }

  Region region_;
  uint64_t at_ = 0;
};

}  // namespace

Napi::Function MakeAllocate(Napi::Env env) {
  auto region =
      std::make_shared<Napi::FunctionReference>(Napi::Persistent(MemoryRegion::Define(env)));
  return Napi::Function::New(
      env,
      [region](const Napi::CallbackInfo& info) {
        return region->New({info[0], info[1]});
      },
      "allocate");
}

}  // namespace oomlab
