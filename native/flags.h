// SPDX-License-Identifier: MIT
// Which flags the worker has, and what --help says of them.
#ifndef OOMLAB_FLAGS_H_
#define OOMLAB_FLAGS_H_

#include <stddef.h>
#include <stdint.h>

#include "memory.h"

namespace oomlab {

enum class Id : uint8_t {
  kHelp,
  kVersion,
  kVerbose,
  kQuiet,
  kDryRun,
  kTimeout,
  kBackoff,
  kVm,
  kVmBytes,
  kVmStride,
  kVmHang,
  kVmKeep,
  kForeign,
  kKind,
  kTouch,
  kStride,
  kContent,
  kPopulate,
  kHugePages,
  kNoReserve,
  kRate,
  kSteps,
  kDelay,
  kHold,
  kRetouch,
  kRepeat,
  kWorkers,
  kThreads,
  kShareVm,
  kExitMainThread,
  kDir,
  kKeepFile,
  kOomScoreAdj,
  kUid,
  kRlimit,
  kName,
  kReportFd,
  kSyncFd,
};

// Whose flag: both's, the tool's loop, or ours that presses once.
enum class Mode : uint8_t { kBoth, kLoop, kPress };

struct Flag {
  const char* name;
  char letter;
  bool argument;
  Id id;
  Mode mode;
  Kind kind = Kind::kAnon;
};

// A long name in full, or as much of it as no other flag starts with.
const Flag* FlagByName(const char* name, size_t length);
const Flag* FlagByLetter(char letter);

// Prints what --help says and ends the process.
[[noreturn]] void Help();

}  // namespace oomlab

#endif  // OOMLAB_FLAGS_H_
