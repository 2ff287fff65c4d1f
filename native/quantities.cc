// SPDX-License-Identifier: MIT
#include "quantities.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "limit.h"
#include "say.h"

namespace oomlab {
namespace {

[[noreturn]] void UnknownSuffix(char suffix) {
  Die(__LINE__, Text() << "unrecognized suffix: " << suffix);
}

int64_t ToolNumber(const char* text, int64_t (*unit)(char suffix)) {
  const size_t length = strlen(text);
  if (length == 0) Die(__LINE__, Text() << "invalid string");
  const char last = text[length - 1];
  int64_t factor = 1;
  if (last < '0' || last > '9') {
    factor = unit(last);
    if (factor == 0) UnknownSuffix(last);
  }
  const auto number = static_cast<uint64_t>(strtoll(text, nullptr, 10));
  return static_cast<int64_t>(number * static_cast<uint64_t>(factor));
}

// The last of a list has no name.
struct Unit {
  const char* name;
  uint64_t factor;
};

constexpr Unit kSizes[] = {
    {"", 1},
    {"k", 1000},
    {"M", 1000000},
    {"G", 1000000000},
    {"T", 1000000000000},
    {"Ki", 1ULL << 10},
    {"Mi", 1ULL << 20},
    {"Gi", 1ULL << 30},
    {"Ti", 1ULL << 40},
    {},
};
constexpr Unit kTimes[] = {
    {"us", 1}, {"ms", 1000}, {"s", 1000000}, {"m", 60000000}, {"h", 3600000000}, {},
};
constexpr Unit kPercent[] = {{"%", 1000000}, {}};

// `text` up to `end` as number and unit, 1.5Gi for example; false when it is none of these or too
// big.
bool Quantity(const char* text, const char* end, const Unit* units, uint64_t* value) {
  unsigned __int128 number = 0;
  uint64_t scale = 1;
  bool digits = false, point = false;
  const char* at = text;
  for (; at < end && ((*at >= '0' && *at <= '9') || (*at == '.' && !point)); ++at) {
    if (*at == '.') {
      point = true;
      continue;
    }
    digits = true;
    number = number * 10 + static_cast<unsigned>(*at - '0');
    if (point) scale *= 10;
    if (number > UINT64_MAX || scale > 1000000000) return false;
  }
  const auto length = static_cast<size_t>(end - at);
  for (const Unit* unit = units; unit->name; ++unit) {
    if (strlen(unit->name) != length || strncmp(unit->name, at, length) != 0) continue;
    number = number * unit->factor / scale;
    *value = static_cast<uint64_t>(number);
    return digits && number <= INT64_MAX;
  }
  return false;
}

}  // namespace

int64_t ToolSize(const char* text) {
  return ToolNumber(text, [](char suffix) -> int64_t {
    switch (suffix) {
      case 'b':
      case 'B':
        return 1;
      case 'k':
      case 'K':
        return 1 << 10;
      case 'm':
      case 'M':
        return 1 << 20;
      case 'g':
      case 'G':
        return 1 << 30;
      default:
        return 0;
    }
  });
}

int64_t ToolTime(const char* text) {
  return ToolNumber(text, [](char suffix) -> int64_t {
    switch (suffix) {
      case 's':
      case 'S':
        return 1;
      case 'm':
      case 'M':
        return 60;
      case 'h':
      case 'H':
        return 60 * 60;
      case 'd':
      case 'D':
        return 60 * 60 * 24;
      case 'y':
      case 'Y':
        return 60 * 60 * 24 * 365;
      default:
        return 0;
    }
  });
}

bool ReadSize(const char* text, const char* end, uint64_t* bytes) {
  return Quantity(text, end, kSizes, bytes);
}

bool ReadTime(const char* text, const char* end, uint64_t* us) {
  return Quantity(text, end, kTimes, us);
}

bool ReadPercentage(const char* text, const char* end, uint64_t* bytes) {
  uint64_t value;
  if (!Quantity(text, end, kPercent, &value)) return false;
  *bytes = static_cast<uint64_t>(static_cast<unsigned __int128>(MemoryLimit()) * value / 100000000);
  return true;
}

}  // namespace oomlab
