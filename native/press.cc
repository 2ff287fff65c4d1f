// SPDX-License-Identifier: MIT
#include "press.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"

namespace oomlab {
namespace {

constexpr uint64_t kChunk = 8 << 20;
constexpr uint64_t kRateStep = 10000;
constexpr uint64_t kProgressInterval = 100000;
constexpr size_t kThreadStack = 128 << 10;

// ---- reports

int report_fd = -1;

// One event, one line, one write: workers share the descriptor.
class Event {
 public:
  explicit Event(const char* type) {
    text_ << "{\"type\":\"" << type << "\"";
    Add("pid", static_cast<uint64_t>(getpid()));
  }
  Event& Add(const char* key, uint64_t value) {
    text_ << ",\"" << key << "\":" << value;
    return *this;
  }
  Event& Add(const char* key, const char* value) {
    text_ << ",\"" << key << "\":";
    value ? text_ << '"' << value << '"' : text_ << "null";
    return *this;
  }
  Event& AddTrue(const char* key) {
    text_ << ",\"" << key << "\":true";
    return *this;
  }

  // Never waits for a reader: what does not fit is dropped, progress long before the rest.
  void Send(bool progress = false) {
    if (report_fd < 0) return;
    Add("t", Now());
    text_ << "}\n";
    int queued = 0;
    constexpr int kRoomForTheRest = 32 << 10;
    if (progress && ioctl(report_fd, FIONREAD, &queued) == 0 && queued > kRoomForTheRest) return;
    const ssize_t sent = send(report_fd, text_.c_str(), text_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0 || errno != ENOTSOCK) return;
    pollfd writable = {report_fd, POLLOUT, 0};
    if (poll(&writable, 1, 0) != 1 || !(writable.revents & POLLOUT)) return;
    const ssize_t put = write(report_fd, text_.c_str(), text_.size());
    (void)put;
  }

 private:
  Text text_;
};

// ---- what the kernel says of us

struct Usage {
  bool known = false;
  uint64_t rss = 0;
  uint64_t hwm = 0;
  uint64_t swap = 0;
  uint64_t hugetlb = 0;
};

uint64_t Kilobytes(const char* text, const char* key) {
  const char* at = strstr(text, key);
  return at ? strtoull(at + strlen(key), nullptr, 10) << 10 : 0;
}

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

// What a walk over our page tables finds, resident or swapped out. The counts above are cheaper,
// and may be too low: the kernel batches them (up to 64 pages a thread before 6.2, a batch a CPU
// since), and VmSwap leaves out shared memory.
uint64_t ReadWalked() {
  char text[4096];
  if (!ReadFile("/proc/thread-self/smaps_rollup", text, sizeof text)) return 0;
  return Kilobytes(text, "\nRss:") + Kilobytes(text, "\nSwap:");
}

// ---- pressing

// What one thread presses, and how far it has come.
struct Slice {
  Region* region = nullptr;
  uint64_t from = 0;
  uint64_t to = 0;
  uint64_t rate = 0;
  uint64_t step = 0;
  uint64_t interval = 0;
  uint64_t start = 0;
  uint64_t touched = 0;
  Failure failure;
  bool slow = false;
  bool reports = false;
  pthread_t thread = {};
};

// The first is the one that nearly always is the only one; the others are mapped once they are
// used.
Slice first_slice;
Slice* slices = &first_slice;
pid_t* sharers = nullptr;
Region regions[sizeof Options::parts / sizeof *Options::parts];

struct {
  const Options* options = nullptr;
  uint32_t slice_count = 0;
  uint32_t current = 0;
  uint64_t touched_before = 0;
  uint64_t last_progress = 0;
  uint64_t last_touched = 0;
  bool slow = false;
  uint32_t sharer_count = 0;
} presser;

uint64_t TouchedSoFar() {
  uint64_t touched = presser.touched_before;
  for (uint32_t i = 0; i < presser.slice_count; ++i) {
    touched += __atomic_load_n(&slices[i].touched, __ATOMIC_RELAXED);
  }
  return touched;
}

void SleepUntil(uint64_t deadline) {
  const timespec until = {static_cast<time_t>(deadline / 1000000),
                          static_cast<long>(deadline % 1000000 * 1000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

void ReportProgress(bool last) {
  if (report_fd < 0) return;
  const uint64_t now = Now();
  if (!last && now - presser.last_progress < kProgressInterval) return;
  const uint64_t touched = TouchedSoFar();
  if (last && touched == presser.last_touched) return;
  presser.last_progress = now;
  presser.last_touched = touched;
  Event("progress")
      .Add("kind", KindName(regions[presser.current].kind))
      .Add("touched", touched)
      .Add("rss", ReadRss())
      .Send(!last);
}

void PressTo(Slice* slice, uint64_t* at, uint64_t end) {
  while (*at < end && !slice->failure) {
    const uint64_t next = end - *at > kChunk ? *at + kChunk : end;
    uint64_t touched = 0;
    slice->failure = Press(slice->region, *at, next, &touched);
    __atomic_store_n(&slice->touched, slice->touched + touched, __ATOMIC_RELAXED);
    *at = next;
    if (slice->reports) ReportProgress(false);
  }
}

uint64_t MultiplyDivide(uint64_t a, uint64_t b, uint64_t by) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b / by);
}

// Each step begins when the one before is due and is done by its own deadline. Deadlines are
// absolute, so that being late once is not being late ever after.
void PressByRate(Slice* slice) {
  const uint64_t total = slice->to - slice->from;
  const uint64_t duration = MultiplyDivide(total, 1000000, slice->rate);
  uint64_t at = slice->from;
  for (uint64_t due = 0; due < duration && !slice->failure;) {
    SleepUntil(slice->start + due);
    due = due + kRateStep < duration ? due + kRateStep : duration;
    const uint64_t allowed = MultiplyDivide(slice->rate, due, 1000000) / kPage * kPage;
    PressTo(slice, &at, due == duration || allowed > total ? slice->to : slice->from + allowed);
  }
  PressTo(slice, &at, slice->to);
  const uint64_t tolerance = duration / 100 + kRateStep;
  slice->slow = Now() > slice->start + duration + tolerance;
  if (!slice->failure) SleepUntil(slice->start + duration);
}

void PressBySteps(Slice* slice) {
  uint64_t at = slice->from;
  for (uint64_t k = 0; at < slice->to && !slice->failure; ++k) {
    SleepUntil(slice->start + k * slice->interval);
    const uint64_t allowed = (k + 1) * slice->step / kPage * kPage;
    PressTo(slice, &at, allowed < slice->to - slice->from ? slice->from + allowed : slice->to);
    if (Now() > slice->start + (k + 1) * slice->interval) slice->slow = true;
  }
}

void* PressSlice(void* argument) {
  auto* slice = static_cast<Slice*>(argument);
  uint64_t at = slice->from;
  if (slice->rate) {
    PressByRate(slice);
  } else if (slice->step) {
    PressBySteps(slice);
  } else {
    PressTo(slice, &at, slice->to);
  }
  return nullptr;
}

uint64_t Share(uint64_t whole, uint32_t count) {
  const uint64_t part = whole / count;
  return whole && !part ? 1 : part;
}

Failure PressRegion(Region* region) {
  const Options& options = *presser.options;
  const uint64_t pages = (region->size + kPage - 1) / kPage;
  uint32_t count = IsParallel(region->kind) ? options.threads : 1;
  if (count > pages) count = static_cast<uint32_t>(pages);
  const uint64_t start = options.rate || options.step ? Now() : 0;
  const uint64_t share = pages / count * kPage;
  for (uint32_t i = 0; i < count; ++i) {
    Slice* slice = &slices[i];
    *slice = Slice();
    slice->region = region;
    slice->from = i * share;
    slice->to = i + 1 == count ? region->size : (i + 1) * share;
    slice->rate = Share(options.rate, count);
    slice->step = Share(options.step, count);
    slice->interval = options.step_interval;
    slice->start = start;
    slice->reports = i == 0;
  }
  presser.slice_count = count;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kThreadStack);
  Failure failure;
  uint32_t started = 1;
  for (; started < count && !failure; ++started) {
    Slice* slice = &slices[started];
    const int error = pthread_create(&slice->thread, &attributes, PressSlice, slice);
    if (error) {
      failure = {"clone", error};
      break;
    }
  }
  pthread_attr_destroy(&attributes);
  if (!failure) PressSlice(&slices[0]);
  for (uint32_t i = 0; i < started; ++i) {
    Slice* slice = &slices[i];
    if (i > 0) pthread_join(slice->thread, nullptr);
    if (slice->failure && !failure) failure = slice->failure;
    presser.slow |= slice->slow;
  }
  ReportProgress(true);
  return failure;
}

[[noreturn]] void Fail(const Failure& failure, const char* kind, uint64_t bytes) {
  const uint64_t touched = TouchedSoFar();
  Event("error")
      .Add("op", failure.op)
      .Add("kind", kind)
      .Add("errno", ErrnoName(failure.error))
      .Add("bytes", bytes)
      .Add("touched", touched)
      .Send();
  Say(Level::kFail, __LINE__,
      Text() << (kind ? kind : "start") << ": " << failure.op << ": " << ErrnoName(failure.error)
             << ": " << Reason(failure.error) << " (" << touched << " of " << bytes
             << " bytes touched)");
  syscall(SYS_exit_group, 1);
  __builtin_unreachable();
}

void* MapOrFail(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) Fail({"mmap", errno}, nullptr, size);
  return memory;
}

// Memory that was promised and is not there: a full tmpfs, or hugetlb pages that others took.
void OnBusError(int) {
  const Region& region = regions[presser.current];
  Fail({"touch", region.kind == Kind::kHugetlb ? ENOMEM : ENOSPC}, KindName(region.kind),
       region.size);
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
    Fail({"verify", ENODATA}, KindName(options.parts[0].kind), claimed);
  }
  if (misses(usage.hugetlb, hugetlb)) Fail({"verify", ENODATA}, "hugetlb", hugetlb);
}

void ReportState(const char* type, bool ended) {
  if (report_fd < 0) return;
  const Usage usage = ReadUsage();
  Event event(type);
  event.Add("touched", TouchedSoFar()).Add("rss", usage.rss).Add("hwm", usage.hwm);
  if (ended) event.Add("code", static_cast<uint64_t>(0));
  if (!ended && presser.slow) event.AddTrue("slow");
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
        Fail(failure, KindName(region->kind), region->size);
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
    if (pid < 0) Fail({"clone", errno}, nullptr, 0);
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
  presser.touched_before = 0;
  presser.last_touched = 0;
  presser.slice_count = 0;
  for (int i = 0; i < options.part_count; ++i) {
    Region* region = &regions[i];
    *region = Region();
    region->kind = options.parts[i].kind;
    region->size = options.parts[i].size;
    region->touch = options.touch;
    region->dir = options.dir;
    if (IsFile(region->kind) && region->kind != Kind::kFile) {
      region->keep = options.keep_file;
    }
    presser.current = static_cast<uint32_t>(i);
    presser.touched_before = TouchedSoFar();
    presser.slice_count = 0;
    Failure failure = Open(region);
    if (!failure) failure = PressRegion(region);
    if (failure) Fail(failure, KindName(region->kind), region->size);
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
  if (identity) Fail(identity, nullptr, TotalBytes());
  struct sigaction bus = {};
  bus.sa_handler = OnBusError;
  sigaction(SIGBUS, &bus, nullptr);
  if (options.threads > 1) {
    slices = static_cast<Slice*>(MapOrFail(options.threads * sizeof(Slice)));
  }
  Event("start").Add("worker", index).Add("bytes", TotalBytes()).Send();
  if (options.delay) SleepUntil(Now() + options.delay);
  if (!options.exit_main_thread) return PressAll();
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kThreadStack);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, PressInThread,
                                   reinterpret_cast<void*>(static_cast<intptr_t>(parent)));
  if (error) Fail({"clone", error}, nullptr, TotalBytes());
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

const char* Reason(int error) {
  return error == ENOMEM ? "Cannot allocate memory" : strerror(error);
}

int Press(const Options& options) {
  if (options.dry_run) {
    PrintPlan(options);
    return 0;
  }
  presser.options = &options;
  report_fd = options.report_fd;
  if (report_fd >= 0) signal(SIGPIPE, SIG_IGN);
  const pid_t parent = getppid();
  return options.workers > 1 ? Lead(parent) : PressAsWorker(0, parent);
}

}  // namespace oomlab
