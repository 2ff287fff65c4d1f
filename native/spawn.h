// SPDX-License-Identifier: MIT
// Starts a child without copying this process: what src/native.ts calls SpawnOptions.
#ifndef OOMLAB_SPAWN_H_
#define OOMLAB_SPAWN_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base.h"

namespace oomlab {

struct SpawnRequest {
  std::string file;
  std::vector<std::string> args;
  std::vector<std::string> env;
  std::optional<std::string> cwd;
  int cgroup_fd = -1;
  std::vector<std::string> cgroup_procs;
  std::optional<int> oom_score_adj;
  std::vector<std::pair<int, uint64_t>> rlimits;
  int mempolicy = -1;
  std::vector<uint32_t> nodes;
  std::vector<uint32_t> cpus;
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;
  std::vector<int> stdio;
  bool setsid = false;
  int pdeathsig = 0;
};

struct SpawnResult {
  pid_t pid = -1;
  // -1 where the kernel has no pidfds.
  int pidfd = -1;
  // The step in the child, or the call in the parent, that failed; the file it was about.
  Failure failure;
  std::string path;
};

SpawnResult Spawn(const SpawnRequest& request);

}  // namespace oomlab

#endif  // OOMLAB_SPAWN_H_
