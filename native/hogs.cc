// SPDX-License-Identifier: MIT
// The stress tool's --vm: a dispatcher and its hogs, which map, touch and unmap until the timeout.
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "press.h"
#include "say.h"

namespace oomlab {
namespace {

void Debug(const Text& text) { Say(Level::kDebug, __LINE__, text); }

bool IsIntact(const Region& region) {
  const volatile char* bytes = region.base;
  for (uint64_t at = 0; at < region.size; at += region.touch.stride) {
    if (bytes[at] == 'Z') continue;
    Say(Level::kFail, __LINE__, Text() << "memory corruption at offset " << at);
    return false;
  }
  return true;
}

int Hog(const Options& options) {
  Region region;
  region.size = static_cast<uint64_t>(options.vm_bytes);
  region.touch.stride = static_cast<uint64_t>(options.vm_stride);
  for (;;) {
    if (!region.base) {
      Debug(Text() << "allocating " << options.vm_bytes << " bytes ...");
      if (const Failure failure = Open(&region)) {
        Say(Level::kFail, __LINE__, Text() << "hogvm malloc failed: " << Reason(failure.error));
        return 1;
      }
    }
    Debug(Text() << "touching bytes in strides of " << options.vm_stride << " bytes ...");
    uint64_t touched = 0;
    Press(&region, 0, region.size, &touched);
    if (options.vm_hang == 0) {
      Debug(Text() << "sleeping forever with allocated memory");
      for (;;) pause();
    }
    if (options.vm_hang > 0) {
      Debug(Text() << "sleeping for " << options.vm_hang << "s with allocated memory");
      const timespec time = {static_cast<time_t>(options.vm_hang), 0};
      nanosleep(&time, nullptr);
    }
    if (!IsIntact(region)) return 1;
    if (!options.vm_keep) {
      Close(&region);
      Debug(Text() << "freed " << options.vm_bytes << " bytes");
    }
  }
}

[[noreturn]] void RunHog(const Options& options, int64_t timeout, uint64_t backoff, pid_t parent) {
  alarm(static_cast<unsigned>(timeout));
  const Failure identity = TakeIdentity(options);
  DieWith(parent);
  if (identity) {
    Say(Level::kFail, __LINE__, Text() << identity.op << " failed: " << Reason(identity.error));
    _exit(1);
  }
  const timespec pause = {static_cast<time_t>(backoff / 1000000),
                          static_cast<long>(backoff % 1000000 * 1000)};
  nanosleep(&pause, nullptr);
  _exit(options.dry_run ? 0 : Hog(options));
}

}  // namespace

int Loop(const Options& options) {
  const time_t start = time(nullptr);
  const pid_t self = getpid(), parent = getppid();
  const auto count = static_cast<uint64_t>(options.vm);
  DieWith(parent);
  Say(Level::kInfo, __LINE__,
      Text() << "dispatching hogs: 0 cpu, 0 io, " << options.vm << " vm, 0 hdd");
  auto* hogs = static_cast<pid_t*>(mmap(nullptr, count * sizeof(pid_t), PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (hogs == MAP_FAILED) Die(__LINE__, Text() << "fork failed: " << Reason(errno));
  uint64_t forked = 0;
  int failures = 0;
  for (uint64_t left = count; left > 0; --left) {
    const uint64_t backoff = static_cast<uint64_t>(options.backoff) * left;
    Debug(Text() << "using backoff sleep of " << backoff << "us");
    // The run is to take the timeout as a whole, however long the dispatching takes.
    const int64_t timeout = options.timeout - static_cast<int64_t>(time(nullptr) - start);
    if (options.timeout > 0 && timeout <= 0) {
      Say(Level::kWarn, __LINE__, Text() << "used up time before all workers dispatched");
      break;
    }
    if (options.timeout > 0) Debug(Text() << "setting timeout to " << timeout << "s");
    const pid_t hog = fork();
    if (hog == 0) RunHog(options, options.timeout > 0 ? timeout : 0, backoff, self);
    if (hog < 0) {
      Say(Level::kFail, __LINE__, Text() << "fork failed: " << Reason(errno));
      continue;
    }
    Debug(Text() << "--> hogvm worker " << left << " [" << hog << "] forked");
    hogs[forked++] = hog;
  }
  auto reap = [&] {
    Say(Level::kWarn, __LINE__, Text() << "now reaping child worker processes");
    for (uint64_t i = 0; i < forked; ++i) {
      if (hogs[i] > 0) kill(hogs[i], SIGUSR1);
    }
  };
  for (;;) {
    int how;
    const pid_t hog = waitpid(-1, &how, 0);
    if (hog < 0 && errno == EINTR) continue;
    if (hog < 0) break;
    for (uint64_t i = 0; i < forked; ++i) {
      if (hogs[i] == hog) hogs[i] = 0;
    }
    const int code = WIFEXITED(how) ? WEXITSTATUS(how) : 0;
    const int signal = WIFSIGNALED(how) ? WTERMSIG(how) : 0;
    const Text who = Text() << "<-- worker " << hog;
    if (signal == SIGALRM) {
      Debug(Text() << who.c_str() << " signalled normally");
    } else if (signal == SIGUSR1) {
      Debug(Text() << who.c_str() << " reaped");
    } else if (how == 0) {
      Debug(Text() << who.c_str() << " returned normally");
    } else {
      if (signal) {
        Say(Level::kFail, __LINE__, Text() << who.c_str() << " got signal " << signal);
      } else {
        Say(Level::kFail, __LINE__, Text() << who.c_str() << " returned error " << code);
      }
      ++failures;
      reap();
    }
  }
  const auto seconds = static_cast<int64_t>(time(nullptr) - start);
  if (failures > 0) {
    Say(Level::kFail, __LINE__, Text() << "failed run completed in " << seconds << "s");
  } else {
    Say(Level::kInfo, __LINE__, Text() << "successful run completed in " << seconds << "s");
  }
  return failures;
}

}  // namespace oomlab
