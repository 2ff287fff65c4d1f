// SPDX-License-Identifier: MIT
// Between JavaScript and C++: arguments, checked, and the errors of system calls.
#ifndef OOMLAB_VALUES_H_
#define OOMLAB_VALUES_H_

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

namespace oomlab {

// As Node's own: `message` is PREFIXsyscall: CODE: text, with code, errno, syscall and path.
Napi::Error SystemError(Napi::Env env, const std::string& prefix, const char* syscall, int error,
                        const std::string& path = {});

// Throws a TypeError: `what` must be `wanted`.
[[noreturn]] void Reject(Napi::Env env, const std::string& what, const char* wanted);

// What is not one of these is rejected; `what` is the argument's name.
double ToNumber(Napi::Value value, const std::string& what);
int ToInt(Napi::Value value, const std::string& what);
uint32_t ToUnsigned(Napi::Value value, const std::string& what);
std::string ToText(Napi::Value value, const std::string& what);
Napi::Object ToObject(Napi::Value value, const std::string& what);
Napi::Function ToFunction(Napi::Value value, const std::string& what);

template <typename Convert>
auto ToList(Napi::Value value, const std::string& what, Convert convert) {
  if (!value.IsArray()) Reject(value.Env(), what, "an array");
  auto array = value.As<Napi::Array>();
  std::vector<decltype(convert(value, what))> list;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    list.push_back(convert(array.Get(i), what + "[" + std::to_string(i) + "]"));
  }
  return list;
}

// Whether it is there and neither undefined nor null.
bool Has(const Napi::Object& object, const char* key);

}  // namespace oomlab

#endif  // OOMLAB_VALUES_H_
