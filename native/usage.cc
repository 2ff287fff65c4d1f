// SPDX-License-Identifier: MIT
#include "usage.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"

namespace oomlab {
namespace {

uint64_t Kilobytes(const char* text, const char* key) {
  const char* at = strstr(text, key);
  return at ? strtoull(at + strlen(key), nullptr, 10) << 10 : 0;
}

}  // namespace

// thread-self: /proc/self is the main thread, which has no memory any more once it has ended.
uint64_t ReadRss() {
  char text[128];
  if (!ReadFile("/proc/thread-self/statm", text, sizeof text)) return 0;
  const char* second = strchr(text, ' ');
  return second ? strtoull(second + 1, nullptr, 10) * kPage : 0;
}

Usage ReadUsage() {
  char text[4096];
  Usage usage;
  if (!ReadFile("/proc/thread-self/status", text, sizeof text)) return usage;
  usage.known = true;
  usage.rss = ReadRss();
  usage.hwm = Kilobytes(text, "VmHWM:");
  usage.swap = Kilobytes(text, "VmSwap:");
  usage.hugetlb = Kilobytes(text, "HugetlbPages:");
  return usage;
}

uint64_t ReadWalked() {
  char text[4096];
  if (!ReadFile("/proc/thread-self/smaps_rollup", text, sizeof text)) return 0;
  return Kilobytes(text, "\nRss:") + Kilobytes(text, "\nSwap:");
}

}  // namespace oomlab
