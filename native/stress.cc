// SPDX-License-Identifier: MIT
// The worker: presses memory, from a process whose name and size the kernel's log shows as they
// are.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "press.h"

namespace {

using oomlab::Kind;
using oomlab::Options;

// How far a stack may grow is settled at exec: with a higher limit, begin anew.
void MakeRoomForStack(const Options& options, char** argv) {
  uint64_t wanted = 0;
  for (int i = 0; i < options.part_count; ++i) {
    if (options.parts[i].kind == Kind::kStack) wanted = options.parts[i].size + (2 << 20);
  }
  rlimit limit;
  if (wanted == 0) return;
  if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur < wanted && limit.rlim_max >= wanted) {
    limit.rlim_cur = wanted;
    if (setrlimit(RLIMIT_STACK, &limit) == 0) execv("/proc/self/exe", argv);
  }
  // exec has called us after the link's name.
  prctl(PR_SET_NAME, "stress");
}

}  // namespace

int main(int argc, char** argv) {
  // Its pages are touched only as far as the command line fills it.
  static Options options;
  oomlab::ParseOptions(argc, argv, &options);
  if (options.vm > 0) return oomlab::Loop(options);
  if (!options.dry_run) MakeRoomForStack(options, argv);
  return oomlab::Press(options);
}
