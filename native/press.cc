// SPDX-License-Identifier: MIT
#include "press.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pace.h"
#include "report.h"
#include "say.h"
#include "usage.h"

namespace oomlab {
namespace {

pid_t* sharers = nullptr;
Region regions[sizeof Options::parts / sizeof *Options::parts];

struct {
  const Options* options = nullptr;
  uint32_t current = 0;
  uint32_t sharer_count = 0;
} presser;

// Memory that was promised and is not there: a full tmpfs, or hugetlb pages that others took.
void OnBusError(int) {
  const Region& region = regions[presser.current];
  Fail({"touch", region.kind == Kind::kHugetlb ? ENOMEM : ENOSPC}, KindName(region.kind),
       region.size, TouchedSoFar());
}

// The compiler, the kernel or a bug may make of `touched` a lie: RSS must know of it.
void Verify() {
  uint64_t claimed = 0, hugetlb = 0;
  const Options& options = *presser.options;
  for (int i = 0; i < options.part_count; ++i) {
    const Region& region = regions[i];
    const bool strided = region.touch.stride > kPage && !region.touch.every;
    const uint64_t pages =
        strided ? (region.size - 1) / region.touch.stride + 1 : (region.size + kPage - 1) / kPage;
    if (IsResident(region.kind)) claimed += pages * kPage;
    if (region.kind == Kind::kHugetlb && !strided) hugetlb += region.size;
  }
  // Below it, the worker itself is more.
  constexpr uint64_t kLeast = 1 << 20;
  if (claimed < kLeast && hugetlb == 0) return;
  const Usage usage = ReadUsage();
  if (!usage.known) {
    Event("note").Add("text", "/proc cannot be read: what was touched is not verified").Send();
    return;
  }
  auto misses = [](uint64_t has, uint64_t wanted) { return has < wanted / 100 * 95; };
  if (misses(usage.rss + usage.swap, claimed) && misses(ReadWalked(), claimed)) {
    Fail({"verify", ENODATA}, KindName(options.parts[0].kind), claimed, TouchedSoFar());
  }
  if (misses(usage.hugetlb, hugetlb)) Fail({"verify", ENODATA}, "hugetlb", hugetlb, TouchedSoFar());
}

void ReportState(const char* type, bool ended) {
  if (!IsReported()) return;
  const Usage usage = ReadUsage();
  Event event(type);
  event.Add("touched", TouchedSoFar()).Add("rss", usage.rss).Add("hwm", usage.hwm);
  if (ended) event.Add("code", static_cast<uint64_t>(0));
  if (!ended && WasSlow()) event.AddTrue("slow");
  event.Send();
}

// ---- holding

// Waits for a byte or the end of the other side, at most until the deadline; true when it came.
// `end_only`: bytes are left to the other workers that share the descriptor.
bool WaitForSync(uint64_t deadline, bool end_only = false) {
  const int fd = presser.options->sync_fd;
  if (fd < 0) {
    if (deadline == kForever) {
      for (;;) pause();
    }
    SleepUntil(deadline);
    return false;
  }
  for (;;) {
    int timeout = -1;
    if (deadline != kForever) {
      const uint64_t now = Now();
      if (now >= deadline) return false;
      const uint64_t left = (deadline - now + 999) / 1000;
      timeout = left > INT_MAX ? INT_MAX : static_cast<int>(left);
    }
    pollfd readable = {fd, static_cast<short>(end_only ? 0 : POLLIN), 0};
    if (poll(&readable, 1, timeout) <= 0) continue;
    if (end_only) return true;
    char byte;
    const ssize_t got = read(fd, &byte, 1);
    if (got >= 0 || (errno != EINTR && errno != EAGAIN)) return true;
  }
}

void Hold() {
  const Options& options = *presser.options;
  if (options.hold == 0) return;
  const bool forever = options.hold == kForever;
  const uint64_t end = forever ? kForever : Now() + options.hold;
  uint64_t again = options.retouch ? Now() + options.retouch : kForever;
  for (;;) {
    const uint64_t next = again < end ? again : end;
    if (forever) {
      if (WaitForSync(next, options.workers > 1)) return;
    } else {
      SleepUntil(next);
    }
    if (next == end) return;
    for (int i = 0; i < options.part_count; ++i) {
      Region* region = &regions[i];
      if (const Failure failure = Retouch(region, region->size)) {
        Fail(failure, KindName(region->kind), region->size, TouchedSoFar());
      }
    }
    again += options.retouch;
  }
}

// ---- processes

int Sharer(void* parent) {
  DieWith(static_cast<pid_t>(reinterpret_cast<intptr_t>(parent)));
  for (;;) pause();
}

void StartSharers() {
  constexpr size_t kStack = 16 << 10;
  const uint32_t count = presser.options->share_vm;
  if (count == 0) return;
  auto* stacks = static_cast<char*>(MapOrFail(count * kStack));
  sharers = static_cast<pid_t*>(MapOrFail(count * sizeof(pid_t)));
  for (uint32_t i = 0; i < count; ++i) {
    const pid_t pid = clone(Sharer, stacks + (i + 1) * kStack, CLONE_VM | SIGCHLD,
                            reinterpret_cast<void*>(static_cast<intptr_t>(getpid())));
    if (pid < 0) Fail({"clone", errno}, nullptr, 0, 0);
    sharers[presser.sharer_count++] = pid;
  }
}

void EndSharers() {
  for (uint32_t i = 0; i < presser.sharer_count; ++i) kill(sharers[i], SIGKILL);
  for (uint32_t i = 0; i < presser.sharer_count; ++i) waitpid(sharers[i], nullptr, 0);
}

uint64_t TotalBytes() {
  uint64_t bytes = 0;
  for (int i = 0; i < presser.options->part_count; ++i) bytes += presser.options->parts[i].size;
  return bytes;
}

void PressRound() {
  const Options& options = *presser.options;
  BeginRound();
  for (int i = 0; i < options.part_count; ++i) {
    Region* region = &regions[i];
    *region = Region();
    region->kind = options.parts[i].kind;
    region->size = options.parts[i].size;
    region->touch = options.touch;
    region->reserve = options.reserve;
    region->dir = options.dir;
    if (IsFile(region->kind) && region->kind != Kind::kFile) {
      region->keep = options.keep_file;
    }
    presser.current = static_cast<uint32_t>(i);
    Failure failure = Open(region);
    if (!failure) failure = PressRegion(options, region);
    if (failure) Fail(failure, KindName(region->kind), region->size, TouchedSoFar());
    if (options.touch.populate && !region->touch.populate) {
      Event("note").Add("text", "MADV_POPULATE_WRITE is missing: touched instead").Send();
    }
  }
  Verify();
}

int PressAll() {
  const Options& options = *presser.options;
  StartSharers();
  for (uint32_t round = 0; round < options.repeat; ++round) {
    if (round > 0) {
      for (int i = 0; i < options.part_count; ++i) Close(&regions[i]);
    }
    PressRound();
    ReportState("touched", false);
    if (options.sync_fd >= 0) WaitForSync(kForever);
    Hold();
  }
  ReportState("end", true);
  EndSharers();
  return 0;
}

void* PressInThread(void* parent) {
  // A thread inherits no death signal, and the main thread's goes with it.
  DieWith(static_cast<pid_t>(reinterpret_cast<intptr_t>(parent)));
  prctl(PR_SET_NAME, "allocthread");
  syscall(SYS_exit_group, PressAll());
  __builtin_unreachable();
}

int PressAsWorker(uint32_t index, pid_t parent) {
  const Options& options = *presser.options;
  const Failure identity = TakeIdentity(options);
  DieWith(parent);
  if (identity) Fail(identity, nullptr, TotalBytes(), 0);
  struct sigaction bus = {};
  bus.sa_handler = OnBusError;
  sigaction(SIGBUS, &bus, nullptr);
  UseThreads(options.threads);
  Event("start").Add("worker", index).Add("bytes", TotalBytes()).Send();
  if (options.delay) SleepUntil(Now() + options.delay);
  if (!options.exit_main_thread) return PressAll();
  pthread_t thread;
  const int error =
      StartThread(&thread, PressInThread, reinterpret_cast<void*>(static_cast<intptr_t>(parent)));
  if (error) Fail({"clone", error}, nullptr, TotalBytes(), 0);
  for (;;) syscall(SYS_exit, 0);
}

int Lead(pid_t parent) {
  const Options& options = *presser.options;
  const pid_t self = getpid();
  DieWith(parent);
  int status = 0;
  uint32_t running = 0;
  for (uint32_t i = 0; i < options.workers; ++i) {
    const pid_t child = fork();
    if (child == 0) _exit(PressAsWorker(i, self));
    if (child < 0) {
      const int error = errno;
      Event("error")
          .Add("op", "fork")
          .Add("kind", nullptr)
          .Add("errno", ErrnoName(error))
          .Add("bytes", TotalBytes())
          .Add("touched", static_cast<uint64_t>(0))
          .Send();
      Say(Level::kFail, __LINE__, Text() << "fork failed: " << Reason(error));
      status = 1;
      break;
    }
    ++running;
  }
  for (; running > 0; --running) {
    int how;
    pid_t child;
    while ((child = waitpid(-1, &how, 0)) < 0 && errno == EINTR) {
    }
    if (child < 0) break;
    Event event("child-end");
    event.Add("child", static_cast<uint64_t>(child));
    if (WIFEXITED(how)) {
      event.Add("code", static_cast<uint64_t>(WEXITSTATUS(how))).Add("signal", nullptr);
    } else {
      event.Add("code", nullptr).Add("signal", SignalName(WTERMSIG(how)));
    }
    event.Send();
    if (how != 0) status = 1;
  }
  return status;
}

void PrintPlan(const Options& options) {
  for (int i = 0; i < options.part_count; ++i) {
    Say(Level::kInfo, __LINE__,
        Text() << "would press " << options.parts[i].size << " bytes of "
               << KindName(options.parts[i].kind));
  }
}

}  // namespace

Failure TakeIdentity(const Options& options) {
  if (options.name) prctl(PR_SET_NAME, options.name);
  if (options.has_oom_score_adj) {
    const Text text = Text() << options.oom_score_adj;
    const int error = WriteFile("/proc/self/oom_score_adj", text.c_str(), text.size());
    if (error) return {"oom_score_adj", error};
  }
  for (int i = 0; i < options.limit_count; ++i) {
    const rlimit limit = {options.limits[i].value, options.limits[i].value};
    if (setrlimit(options.limits[i].resource, &limit) != 0) return {"setrlimit", errno};
  }
  if (options.has_uid && setuid(options.uid) != 0) return {"setuid", errno};
  return {};
}

void DieWith(pid_t parent) {
  // Whoever init started, or reparented, has no parent to die with.
  if (parent <= 1) return;
  syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (syscall(SYS_getppid) != parent) syscall(SYS_exit_group, 1);
}

int Press(const Options& options) {
  if (options.dry_run) {
    PrintPlan(options);
    return 0;
  }
  presser.options = &options;
  ReportTo(options.report_fd);
  if (IsReported()) signal(SIGPIPE, SIG_IGN);
  const pid_t parent = getppid();
  return options.workers > 1 ? Lead(parent) : PressAsWorker(0, parent);
}

}  // namespace oomlab
