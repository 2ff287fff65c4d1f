// SPDX-License-Identifier: MIT
// The command line of the worker: the stress tool's flags for memory, and ours.
#ifndef OOMLAB_OPTIONS_H_
#define OOMLAB_OPTIONS_H_

#include <stdint.h>

#include "memory.h"

namespace oomlab {

constexpr uint64_t kForever = UINT64_MAX;

struct Part {
  Kind kind;
  uint64_t size;
};

struct Limit {
  int resource;
  uint64_t value;
};

struct Options {
  // The tool's.
  int64_t vm = 0;
  int64_t vm_bytes = 256 << 20;
  int64_t vm_stride = 4096;
  int64_t vm_hang = -1;
  bool vm_keep = false;
  int64_t timeout = 0;
  int64_t backoff = 3000;
  bool dry_run = false;

  // Ours; durations in microseconds, sizes in bytes.
  Part parts[16];
  int part_count = 0;
  Touch touch;
  bool reserve = true;
  uint64_t rate = 0;
  uint64_t step = 0;
  uint64_t step_interval = 0;
  uint64_t delay = 0;
  uint64_t hold = 0;
  uint64_t retouch = 0;
  uint32_t repeat = 1;
  uint32_t workers = 1;
  uint32_t threads = 1;
  uint32_t share_vm = 0;
  bool exit_main_thread = false;
  const char* dir = nullptr;
  const char* keep_file = nullptr;
  bool has_oom_score_adj = false;
  int oom_score_adj = 0;
  bool has_uid = false;
  uint32_t uid = 0;
  Limit limits[8];
  int limit_count = 0;
  const char* name = nullptr;
  int report_fd = -1;
  int sync_fd = -1;
};

// Fills `options`. Ends the process for --help, --version and for what it cannot understand.
void ParseOptions(int argc, char** argv, Options* options);

}  // namespace oomlab

#endif  // OOMLAB_OPTIONS_H_
