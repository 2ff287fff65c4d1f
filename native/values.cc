// SPDX-License-Identifier: MIT
#include "values.h"

#include <string.h>

#include <cmath>
#include <limits>

#include "base.h"

namespace oomlab {

Napi::Error SystemError(Napi::Env env, const std::string& prefix, const char* syscall, int error,
                        const std::string& path) {
  const char* code = ErrnoName(error);
  Napi::Error result =
      Napi::Error::New(env, prefix + syscall + ": " + code + ": " + strerror(error));
  result.Set("code", Napi::String::New(env, code));
  // Negative, as in the errors of Node's own modules.
  result.Set("errno", Napi::Number::New(env, -error));
  result.Set("syscall", Napi::String::New(env, syscall));
  if (!path.empty()) result.Set("path", Napi::String::New(env, path));
  return result;
}

void Reject(Napi::Env env, const std::string& what, const char* wanted) {
  throw Napi::TypeError::New(env, what + " must be " + wanted);
}

double ToNumber(Napi::Value value, const std::string& what) {
  if (!value.IsNumber()) Reject(value.Env(), what, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

int ToInt(Napi::Value value, const std::string& what) {
  const double number = ToNumber(value, what);
  if (number != std::floor(number) || std::fabs(number) > std::numeric_limits<int>::max()) {
    Reject(value.Env(), what, "an integer");
  }
  return static_cast<int>(number);
}

uint32_t ToUnsigned(Napi::Value value, const std::string& what) {
  const double number = ToNumber(value, what);
  if (number != std::floor(number) || number < 0 || number > 4294967295.0) {
    Reject(value.Env(), what, "a non-negative integer");
  }
  return static_cast<uint32_t>(number);
}

std::string ToText(Napi::Value value, const std::string& what) {
  if (!value.IsString()) Reject(value.Env(), what, "a string");
  std::string text = value.As<Napi::String>().Utf8Value();
  // The kernel would silently stop at it.
  if (text.find('\0') != std::string::npos) Reject(value.Env(), what, "a string without NUL bytes");
  return text;
}

Napi::Object ToObject(Napi::Value value, const std::string& what) {
  if (!value.IsObject()) Reject(value.Env(), what, "an object");
  return value.As<Napi::Object>();
}

Napi::Function ToFunction(Napi::Value value, const std::string& what) {
  if (!value.IsFunction()) Reject(value.Env(), what, "a function");
  return value.As<Napi::Function>();
}

bool Has(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  return !value.IsUndefined() && !value.IsNull();
}

}  // namespace oomlab
