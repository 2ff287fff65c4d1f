// SPDX-License-Identifier: MIT
#include "memory.h"

#include <alloca.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace oomlab {
namespace {

constexpr uint64_t kHugePage = 2 << 20;
constexpr uint64_t kKernelStack = 16 << 10;
constexpr size_t kBuffer = 32 << 10;

constexpr struct {
  const char* name;
  bool resident;
  bool parallel;
  bool mapped;
  bool reserved;
} kKinds[kKindCount] = {
    {"anon", true, true, true, true},
    {"shared", true, true, true, true},
    {"file", false, true, false, false},
    {"file-write", false, true, false, false},
    {"shmem", true, true, true, false},
    {"tmpfs", false, true, false, false},
    {"shm", true, true, true, true},
    {"mlock", true, true, true, true},
    {"hugetlb", false, true, true, false},
    {"stack", true, false, false, false},
    {"brk", true, true, true, true},
    {"pipes", false, false, false, false},
    {"sockets", false, false, false, false},
    {"tcp", false, false, false, false},
    {"kernel-stacks", false, false, false, false},
};

Failure Failed(const char* op) { return {op, errno}; }

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

uint64_t Random(uint64_t* state) {
  uint64_t x = *state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return *state = x;
}

// volatile: a compiler may drop stores to memory that nobody reads, and then nothing is charged.
void TouchPages(char* base, uint64_t from, uint64_t to, const Touch& touch) {
  uint64_t state = reinterpret_cast<uint64_t>(base) + from + 1;
  volatile char* bytes = base;
  for (uint64_t at = RoundUp(from, touch.stride); at < to; at += touch.stride) {
    switch (touch.content) {
      case Content::kPattern:
        bytes[at] = 'Z';
        break;
      case Content::kZero:
        bytes[at] = 0;
        break;
      case Content::kRandom:
        bytes[at] = static_cast<char>(Random(&state));
        break;
    }
  }
}

void Fill(char* from, uint64_t size, Content content) {
  uint64_t state = reinterpret_cast<uint64_t>(from) + size + Now();
  uint64_t value = content == Content::kZero ? 0 : 0x5a5a5a5a5a5a5a5a;
  volatile char* bytes = from;
  uint64_t at = 0;
  for (; at < size && reinterpret_cast<uint64_t>(from + at) % sizeof value; ++at) {
    bytes[at] = static_cast<char>(value);
  }
  for (; at + sizeof value <= size; at += sizeof value) {
    if (content == Content::kRandom) value = Random(&state);
    *reinterpret_cast<volatile uint64_t*>(from + at) = value;
  }
  for (; at < size; ++at) bytes[at] = static_cast<char>(value);
}

uint64_t TouchedBy(uint64_t from, uint64_t to, const Touch& touch) {
  if (touch.every || touch.stride <= kPage) return to - from;
  const uint64_t first = RoundUp(from, touch.stride);
  return first >= to ? 0 : ((to - 1 - first) / touch.stride + 1) * kPage;
}

Failure PressMapped(Region* region, uint64_t from, uint64_t to, uint64_t* touched) {
  if (region->kind == Kind::kMlock) {
    // The system call: sanitizers make libc's mlock do nothing.
    while (syscall(SYS_mlock, region->base + from, to - from) != 0) {
      if (errno != EINTR && errno != EAGAIN) return Failed("mlock");
    }
  }
  bool populated = false;
  if (region->touch.populate) {
    const uint64_t length = RoundUp(to - from, kPage);
    while (madvise(region->base + from, length, MADV_POPULATE_WRITE) != 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      if (errno != EINVAL && errno != ENOSYS) return Failed("madvise");
      region->touch.populate = false;
      break;
    }
    populated = region->touch.populate;
  }
  if (region->touch.every) {
    Fill(region->base + from, to - from, region->touch.content);
  } else if (!populated || region->touch.content != Content::kPattern) {
    TouchPages(region->base, from, to, region->touch);
  }
  *touched += populated ? to - from : TouchedBy(from, to, region->touch);
  return {};
}

Failure Map(Region* region, int flags, int fd) {
  const bool huge = region->touch.huge_pages == HugePages::kOn;
  if (!region->reserve) flags |= MAP_NORESERVE;
  region->mapped = RoundUp(region->size, kPage) + (huge ? kHugePage : 0);
  void* base = mmap(nullptr, region->mapped, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (base == MAP_FAILED) return Failed("mmap");
  region->base = static_cast<char*>(base);
  if (huge) {
    // Only whole aligned huge pages are backed by one: move the start to a border.
    const auto address = reinterpret_cast<uint64_t>(base);
    const uint64_t head = RoundUp(address, kHugePage) - address;
    const uint64_t tail = kHugePage - head;
    if (head) munmap(base, head);
    region->base += head;
    region->mapped -= kHugePage;
    if (tail) munmap(region->base + region->mapped, tail);
    madvise(region->base, region->mapped, MADV_HUGEPAGE);
  }
  if (region->touch.huge_pages == HugePages::kOff) {
    madvise(region->base, region->mapped, MADV_NOHUGEPAGE);
  }
  return {};
}

Failure OpenHugetlb(Region* region) {
  char text[4096];
  uint64_t page = kHugePage;
  if (ReadFile("/proc/meminfo", text, sizeof text)) {
    if (const char* at = strstr(text, "Hugepagesize:")) {
      uint64_t kilobytes = 0;
      for (at += strlen("Hugepagesize:"); *at == ' '; ++at) {
      }
      for (; *at >= '0' && *at <= '9'; ++at) kilobytes = kilobytes * 10 + uint64_t(*at - '0');
      if (kilobytes) page = kilobytes << 10;
    }
  }
  region->mapped = RoundUp(region->size, page);
  void* base = mmap(nullptr, region->mapped, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (base == MAP_FAILED) return Failed("mmap");
  region->base = static_cast<char*>(base);
  return {};
}

Failure OpenShm(Region* region) {
  const int reserve = region->reserve ? 0 : SHM_NORESERVE;
  const int id = shmget(IPC_PRIVATE, region->size, IPC_CREAT | reserve | 0600);
  if (id < 0) return Failed("shmget");
  void* base = shmat(id, nullptr, 0);
  const int error = errno;
  // Removed while attached: it goes with us, however we end.
  shmctl(id, IPC_RMID, nullptr);
  if (base == reinterpret_cast<void*>(-1)) return {"shmat", error};
  region->base = static_cast<char*>(base);
  region->mapped = RoundUp(region->size, kPage);
  return {};
}

Failure OpenBrk(Region* region) {
  const long now = syscall(SYS_brk, 0);
  const auto base = RoundUp(static_cast<uint64_t>(now), kPage);
  const uint64_t wanted = base + RoundUp(region->size, kPage);
  // A heap cannot go without reservation, but the heuristics judge each request by itself.
  constexpr uint64_t kSmall = 16 << 20;
  const uint64_t step = region->reserve ? wanted - base : kSmall;
  for (uint64_t end = base; end < wanted;) {
    end = wanted - end < step ? wanted : end + step;
    if (static_cast<uint64_t>(syscall(SYS_brk, end)) != end) return {"brk", ENOMEM};
  }
  region->base = reinterpret_cast<char*>(base);
  region->mapped = wanted - base;
  if (region->touch.huge_pages != HugePages::kDefault) {
    const bool on = region->touch.huge_pages == HugePages::kOn;
    madvise(region->base, region->mapped, on ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  }
  return {};
}

Failure OpenStack(Region* region) {
  rlimit limit;
  getrlimit(RLIMIT_STACK, &limit);
  const uint64_t wanted = region->size + (1 << 20);
  if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < wanted) {
    limit.rlim_cur = wanted;
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < wanted) limit.rlim_max = wanted;
    if (setrlimit(RLIMIT_STACK, &limit) != 0) return Failed("setrlimit");
  }
  region->base = static_cast<char*>(__builtin_frame_address(0));
  // Frames are closer than any larger stride.
  if (region->touch.stride > kPage) region->touch.stride = kPage;
  return {};
}

// Frames of 64 KiB, one in the other, down to `low`: each writes only to itself, and a kernel
// before 5.0 grows a stack only near its pointer.
__attribute__((noinline)) void GrowStack(const Touch& touch, char* low, char* high) {
  constexpr uint64_t kFrame = 64 << 10;
  auto* frame = static_cast<char*>(alloca(kFrame));
  char* from = frame > low ? frame : low;
  char* to = frame + kFrame < high ? frame + kFrame : high;
  if (from < to && touch.every) {
    Fill(from, static_cast<uint64_t>(to - from), touch.content);
  } else if (from < to) {
    const uint64_t skip = -reinterpret_cast<uint64_t>(from) % kPage;
    TouchPages(from + skip, 0, static_cast<uint64_t>(to - from) - skip, touch);
  }
  if (frame > low) GrowStack(touch, low, high);
  // Keeps the frame, and its memory, from becoming the next one's.
  __asm__ volatile("" ::"r"(frame) : "memory");
}

Failure PressStack(Region* region, uint64_t from, uint64_t to, uint64_t* touched) {
  const auto top = reinterpret_cast<uint64_t>(region->base) / kPage * kPage;
  GrowStack(region->touch, reinterpret_cast<char*>(top - to), reinterpret_cast<char*>(top - from));
  *touched += TouchedBy(from, to, region->touch);
  return {};
}

bool IsMemoryFilesystem(const char* dir) {
  struct statfs fs;
  constexpr uint64_t kTmpfs = 0x01021994, kRamfs = 0x858458f6;
  if (statfs(dir, &fs) != 0) return false;
  const auto type = static_cast<uint64_t>(static_cast<uint32_t>(fs.f_type));
  return type == kTmpfs || type == kRamfs;
}

const char* DefaultDir(Kind kind) {
  if (kind == Kind::kTmpfs) return "/dev/shm";
  const char* const dirs[] = {"/var/tmp", "/tmp"};
  for (const char* dir : dirs) {
    if (access(dir, W_OK) == 0 && !IsMemoryFilesystem(dir)) return dir;
  }
  return ".";
}

Failure OpenFile(Region* region) {
  const char* dir = region->dir ? region->dir : DefaultDir(region->kind);
  if (region->keep) {
    region->fd = open(region->keep, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (region->fd < 0) return Failed("open");
  } else {
    PathText path;
    path << dir << "/.oomlab-stress-" << getpid() << '-' << Now();
    region->fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (region->fd < 0) return Failed("open");
    // Without a name from the start: nothing is left behind, however we end.
    unlink(path.c_str());
  }
  struct statfs fs;
  if (fstatfs(region->fd, &fs) != 0) return Failed("statfs");
  const bool in_memory = IsMemoryFilesystem(region->keep ? region->keep : dir);
  // The cache of a file in memory is the file: asking for the other kind would measure nothing.
  if (in_memory != (region->kind == Kind::kTmpfs)) return {"statfs", EOPNOTSUPP};
  if (region->kind == Kind::kFile && ftruncate(region->fd, static_cast<off_t>(region->size)) != 0) {
    return Failed("ftruncate");
  }
  return {};
}

Failure PressFile(Region* region, uint64_t from, uint64_t to, uint64_t* touched) {
  alignas(8) char buffer[kBuffer];
  const bool write = region->kind != Kind::kFile;
  if (write) Fill(buffer, sizeof buffer, region->touch.content);
  for (uint64_t at = from; at < to;) {
    const size_t want = to - at < sizeof buffer ? to - at : sizeof buffer;
    if (write && region->touch.content == Content::kRandom) Fill(buffer, want, Content::kRandom);
    const ssize_t done = write ? pwrite(region->fd, buffer, want, static_cast<off_t>(at))
                               : pread(region->fd, buffer, want, static_cast<off_t>(at));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return Failed(write ? "write" : "read");
    if (done == 0) return {write ? "write" : "read", EIO};
    at += static_cast<uint64_t>(done);
    *touched += static_cast<uint64_t>(done);
  }
  return {};
}

Failure OpenMemfd(Region* region) {
  region->fd = static_cast<int>(syscall(SYS_memfd_create, "oomlab", 1 /* MFD_CLOEXEC */));
  if (region->fd < 0) return Failed("memfd_create");
  if (ftruncate(region->fd, static_cast<off_t>(region->size)) != 0) return Failed("ftruncate");
  return Map(region, MAP_SHARED, region->fd);
}

Failure OpenDescriptors(Region* region) {
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  constexpr rlim_t kMost = 1 << 20;
  region->fd_capacity = static_cast<uint32_t>(limit.rlim_cur < kMost ? limit.rlim_cur : kMost);
  region->mapped = RoundUp(region->fd_capacity * sizeof(int), kPage);
  void* table = mmap(nullptr, region->mapped, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (table == MAP_FAILED) return Failed("mmap");
  region->fds = static_cast<int*>(table);
  return {};
}

Failure AddPipe(int fds[2]) {
  if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) return Failed("pipe");
  // As large as the system allows; users over their share of pipe pages keep the small default.
  char text[32];
  int size = 1 << 20;
  if (ReadFile("/proc/sys/fs/pipe-max-size", text, sizeof text)) {
    int most = 0;
    for (const char* c = text; *c >= '0' && *c <= '9'; ++c) most = most * 10 + (*c - '0');
    if (most > 0) size = most;
  }
  fcntl(fds[1], F_SETPIPE_SZ, size);
  return {};
}

void EnlargeBuffer(int fd, int option, int forced) {
  const int size = 4 << 20;
  if (setsockopt(fd, SOL_SOCKET, forced, &size, sizeof size) != 0) {
    setsockopt(fd, SOL_SOCKET, option, &size, sizeof size);
  }
}

Failure AddUnixPair(int fds[2]) {
  constexpr int kType = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  if (socketpair(AF_UNIX, kType, 0, fds) != 0) return Failed("socketpair");
  EnlargeBuffer(fds[1], SO_SNDBUF, SO_SNDBUFFORCE);
  return {};
}

Failure AddTcpPair(int fds[2]) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) return Failed("socket");
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* name = reinterpret_cast<sockaddr*>(&address);
  socklen_t length = sizeof address;
  Failure failure;
  fds[0] = fds[1] = -1;
  EnlargeBuffer(listener, SO_RCVBUF, SO_RCVBUFFORCE);
  if (bind(listener, name, length) != 0) {
    failure = Failed("bind");
  } else if (listen(listener, 1) != 0 || getsockname(listener, name, &length) != 0) {
    failure = Failed("listen");
  } else if ((fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) {
    failure = Failed("socket");
  } else if (connect(fds[1], name, length) != 0) {
    failure = Failed("connect");
  } else if ((fds[0] = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC)) < 0) {
    failure = Failed("accept");
  } else {
    EnlargeBuffer(fds[1], SO_SNDBUF, SO_SNDBUFFORCE);
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
  }
  close(listener);
  if (failure) {
    if (fds[1] >= 0) close(fds[1]);
  }
  return failure;
}

Failure AddChannel(Region* region) {
  if (region->fd_count + 2 > region->fd_capacity) return {"pipe", EMFILE};
  int* fds = region->fds + region->fd_count;
  Failure failure;
  if (region->kind == Kind::kPipes) {
    failure = AddPipe(fds);
  } else if (region->kind == Kind::kSockets) {
    failure = AddUnixPair(fds);
  } else {
    failure = AddTcpPair(fds);
  }
  if (!failure) region->fd_count += 2;
  return failure;
}

Failure PressChannels(Region* region, uint64_t from, uint64_t to, uint64_t* touched) {
  alignas(8) char buffer[kBuffer];
  Fill(buffer, sizeof buffer, region->touch.content);
  for (uint64_t left = to - from; left > 0;) {
    if (region->fd_count == 0) {
      if (Failure failure = AddChannel(region)) return failure;
    }
    const size_t want = left < sizeof buffer ? left : sizeof buffer;
    const ssize_t put = write(region->fds[region->fd_count - 1], buffer, want);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EAGAIN) {
      if (Failure failure = AddChannel(region)) return failure;
      continue;
    }
    if (put < 0) return Failed("write");
    left -= static_cast<uint64_t>(put);
    *touched += static_cast<uint64_t>(put);
  }
  return {};
}

// Threads that only have a kernel stack: they sleep until the round they were started in is over.
// Private futexes; musl comes without the kernel's headers.
constexpr int kFutexWait = 128 | 0, kFutexWake = 128 | 1;
uint32_t sleepers_round = 0;
uint32_t sleepers = 0;

// The round is the creator's: the thread may begin when it is already over.
void* SleepOneRound(void* argument) {
  const auto round = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(argument));
  while (__atomic_load_n(&sleepers_round, __ATOMIC_ACQUIRE) == round) {
    syscall(SYS_futex, &sleepers_round, kFutexWait, round, nullptr, nullptr, 0);
  }
  __atomic_sub_fetch(&sleepers, 1, __ATOMIC_RELEASE);
  return nullptr;
}

void EndSleepers() {
  __atomic_add_fetch(&sleepers_round, 1, __ATOMIC_RELEASE);
  syscall(SYS_futex, &sleepers_round, kFutexWake, INT_MAX, nullptr, nullptr, 0);
  const timespec moment = {0, 1000000};
  while (__atomic_load_n(&sleepers, __ATOMIC_ACQUIRE) > 0) nanosleep(&moment, nullptr);
}

Failure PressKernelStacks(uint64_t from, uint64_t to, uint64_t* touched) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 16 << 10);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  Failure failure;
  const uint32_t round = __atomic_load_n(&sleepers_round, __ATOMIC_RELAXED);
  for (uint64_t at = from / kKernelStack; at < RoundUp(to, kKernelStack) / kKernelStack; ++at) {
    pthread_t thread;
    __atomic_add_fetch(&sleepers, 1, __ATOMIC_RELAXED);
    const int error = pthread_create(&thread, &attributes, SleepOneRound,
                                     reinterpret_cast<void*>(static_cast<uintptr_t>(round)));
    if (error) {
      __atomic_sub_fetch(&sleepers, 1, __ATOMIC_RELAXED);
      failure = {"clone", error};
      break;
    }
    *touched += kKernelStack;
  }
  pthread_attr_destroy(&attributes);
  return failure;
}

}  // namespace

const char* KindName(Kind kind) { return kKinds[static_cast<int>(kind)].name; }
bool IsResident(Kind kind) { return kKinds[static_cast<int>(kind)].resident; }
bool IsParallel(Kind kind) { return kKinds[static_cast<int>(kind)].parallel; }
bool IsMapped(Kind kind) { return kKinds[static_cast<int>(kind)].mapped; }
bool IsReserved(Kind kind) { return kKinds[static_cast<int>(kind)].reserved; }
bool IsFile(Kind kind) {
  return kind == Kind::kFile || kind == Kind::kFileWrite || kind == Kind::kTmpfs;
}

Failure Open(Region* region) {
  switch (region->kind) {
    case Kind::kAnon:
    case Kind::kMlock:
      return Map(region, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    case Kind::kShared:
      return Map(region, MAP_SHARED | MAP_ANONYMOUS, -1);
    case Kind::kFile:
    case Kind::kFileWrite:
    case Kind::kTmpfs:
      return OpenFile(region);
    case Kind::kShmem:
      return OpenMemfd(region);
    case Kind::kShm:
      return OpenShm(region);
    case Kind::kHugetlb:
      return OpenHugetlb(region);
    case Kind::kStack:
      return OpenStack(region);
    case Kind::kBrk:
      return OpenBrk(region);
    case Kind::kPipes:
    case Kind::kSockets:
    case Kind::kTcp:
      return OpenDescriptors(region);
    case Kind::kKernelStacks:
      return {};
  }
  return {};
}

Failure Press(Region* region, uint64_t from, uint64_t to, uint64_t* touched) {
  if (from >= to) return {};
  switch (region->kind) {
    case Kind::kAnon:
    case Kind::kShared:
    case Kind::kShmem:
    case Kind::kShm:
    case Kind::kMlock:
    case Kind::kHugetlb:
    case Kind::kBrk:
      return PressMapped(region, from, to, touched);
    case Kind::kFile:
    case Kind::kFileWrite:
    case Kind::kTmpfs:
      return PressFile(region, from, to, touched);
    case Kind::kStack:
      return PressStack(region, from, to, touched);
    case Kind::kPipes:
    case Kind::kSockets:
    case Kind::kTcp:
      return PressChannels(region, from, to, touched);
    case Kind::kKernelStacks:
      return PressKernelStacks(from, to, touched);
  }
  return {};
}

Failure Retouch(Region* region, uint64_t to) {
  uint64_t touched = 0;
  switch (region->kind) {
    case Kind::kFile:
    case Kind::kFileWrite:
    case Kind::kTmpfs:
      return PressFile(region, 0, to, &touched);
    case Kind::kStack:
      return PressStack(region, 0, to, &touched);
    case Kind::kPipes:
    case Kind::kSockets:
    case Kind::kTcp:
    case Kind::kKernelStacks:
      return {};
    default:
      if (region->touch.every) {
        Fill(region->base, to, region->touch.content);
      } else {
        TouchPages(region->base, 0, to, region->touch);
      }
      return {};
  }
}

void Close(Region* region) {
  if (region->fds) {
    for (uint32_t i = 0; i < region->fd_count; ++i) close(region->fds[i]);
    munmap(region->fds, region->mapped);
  } else if (region->kind == Kind::kStack && region->base) {
    const auto top = reinterpret_cast<uint64_t>(region->base) / kPage * kPage;
    const auto low = (reinterpret_cast<uint64_t>(&region) - (16 << 10)) / kPage * kPage;
    const uint64_t bottom = top - region->size;
    if (low > bottom) madvise(reinterpret_cast<void*>(bottom), low - bottom, MADV_DONTNEED);
  } else if (region->kind == Kind::kBrk && region->base) {
    syscall(SYS_brk, region->base);
  } else if (region->kind == Kind::kKernelStacks) {
    EndSleepers();
  } else if (region->kind == Kind::kShm && region->base) {
    shmdt(region->base);
  } else if (region->base) {
    munmap(region->base, region->mapped);
  }
  if (region->fd >= 0) close(region->fd);
  region->base = nullptr;
  region->fds = nullptr;
  region->fd = -1;
  region->fd_count = 0;
}

}  // namespace oomlab
