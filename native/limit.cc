// SPDX-License-Identifier: MIT
#include "limit.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"

namespace oomlab {
namespace {

bool ReadNumber(const char* path, uint64_t* value) {
  char text[64];
  if (!ReadFile(path, text, sizeof text) || text[0] < '0' || text[0] > '9') return false;
  *value = strtoull(text, nullptr, 10);
  return true;
}

// The smallest limit on the way from `path` below the mount up to the mount itself.
void LowerToLimits(const char* mount, const char* path, const char* file, uint64_t* limit) {
  char cut[PATH_MAX];
  strncpy(cut, path, sizeof cut - 1);
  cut[sizeof cut - 1] = 0;
  for (;;) {
    PathText name;
    name << mount << cut << '/' << file;
    uint64_t value;
    if (ReadNumber(name.c_str(), &value) && value < *limit) *limit = value;
    char* slash = strrchr(cut, '/');
    if (!slash) break;
    *slash = 0;
  }
}

// Where the hierarchy is mounted: its line of mountinfo, found by filesystem type and, on v1,
// option.
bool FindMount(const char* type, const char* option, char* mount, char* root) {
  char text[64 << 10];
  if (!ReadFile("/proc/self/mountinfo", text, sizeof text)) return false;
  for (char* line = strtok(text, "\n"); line; line = strtok(nullptr, "\n")) {
    const char* tail = strstr(line, " - ");
    if (!tail || strncmp(tail + 3, type, strlen(type)) != 0 || tail[3 + strlen(type)] != ' ') {
      continue;
    }
    if (option) {
      const char* at = strstr(tail, option);
      const char after = at ? at[strlen(option)] : 'x';
      if (!at || (at[-1] != ',' && at[-1] != ' ') || (after != ',' && after != 0)) continue;
    }
    // id parent major:minor ROOT MOUNT options...
    char* field = line;
    for (int i = 0; i < 3 && field; ++i) field = strchr(field + 1, ' ');
    char* end = field ? strchr(field + 1, ' ') : nullptr;
    char* last = end ? strchr(end + 1, ' ') : nullptr;
    if (!last) continue;
    *end = *last = 0;
    strncpy(root, field + 1, PATH_MAX - 1);
    strncpy(mount, end + 1, PATH_MAX - 1);
    return true;
  }
  return false;
}

void LowerToCgroup(const char* prefix, const char* type, const char* option, const char* file,
                   char* cgroups, uint64_t* limit) {
  char mount[PATH_MAX] = {}, root[PATH_MAX] = {};
  if (!FindMount(type, option, mount, root)) return;
  for (char* line = cgroups; line && *line;) {
    char* end = strchr(line, '\n');
    if (end) *end = 0;
    char* list = strchr(line, ':');
    char* path = list ? strchr(list + 1, ':') : nullptr;
    bool found = false;
    if (path) {
      *path++ = 0;
      const char* at = strstr(list + 1, prefix);
      const char after = at ? at[strlen(prefix)] : 'x';
      found = *prefix ? at && (after == 0 || after == ',') : list[1] == 0;
      if (found) {
        // In a container the mount's root may be our own cgroup, whose path then is the mount
        // itself.
        const size_t length = strlen(root);
        if (length > 1 && strncmp(path, root, length) == 0) path += length;
        LowerToLimits(mount, strcmp(path, "/") == 0 ? "" : path, file, limit);
      }
      path[-1] = ':';
    }
    if (end) *end = '\n';
    line = end ? end + 1 : nullptr;
    if (found) return;
  }
}

}  // namespace

uint64_t MemoryLimit() {
  char text[16 << 10];
  uint64_t limit = UINT64_MAX;
  if (ReadFile("/proc/meminfo", text, sizeof text)) {
    if (const char* at = strstr(text, "MemTotal:")) limit = strtoull(at + 9, nullptr, 10) << 10;
  }
  if (ReadFile("/proc/self/cgroup", text, sizeof text)) {
    LowerToCgroup("memory", "cgroup", "memory", "memory.limit_in_bytes", text, &limit);
    LowerToCgroup("", "cgroup2", nullptr, "memory.max", text, &limit);
  }
  return limit;
}

}  // namespace oomlab
