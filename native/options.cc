// SPDX-License-Identifier: MIT
#include "options.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

namespace oomlab {
namespace {

Level verbosity = Level::kInfo;

constexpr char kHelp[] =
    "`stress' imposes memory stress on your system\n"
    "\n"
    "Usage: stress [OPTION [ARG]] ...\n"
    " -?, --help         show this help statement\n"
    "     --version      show version statement\n"
    " -v, --verbose      be verbose\n"
    " -q, --quiet        be quiet\n"
    " -n, --dry-run      show what would have been done\n"
    "\n"
    "As the stress tool does, until the timeout:\n"
    " -t, --timeout N    timeout after N seconds\n"
    "     --backoff N    wait factor of N microseconds before work starts\n"
    " -m, --vm N         spawn N workers spinning on malloc()/free()\n"
    "     --vm-bytes B   malloc B bytes per vm worker (default is 256MB)\n"
    "     --vm-stride B  touch a byte every B bytes (default is 4096)\n"
    "     --vm-hang N    sleep N secs before free (default none, 0 is inf)\n"
    "     --vm-keep      redirty memory instead of freeing and reallocating\n"
    "Note: Numbers may be suffixed with s,m,h,d,y (time) or B,K,M,G (size).\n"
    "\n"
    "Once, in this process: the kinds of memory, pressed in the order given\n"
    "     --anon SIZE           anonymous, private\n"
    "     --shared SIZE         anonymous, MAP_SHARED\n"
    "     --brk SIZE            the heap, by brk()\n"
    "     --stack SIZE          the main thread's stack\n"
    "     --mlock SIZE          locked with mlock()\n"
    "     --hugetlb SIZE        hugetlb pages\n"
    "     --shmem SIZE          a memfd, mapped\n"
    "     --shm SIZE            a System V shared memory segment\n"
    "     --tmpfs SIZE          a file on tmpfs, written\n"
    "     --file SIZE           page cache of a file that is read\n"
    "     --file-write SIZE     page cache of a file that is written\n"
    "     --pipes SIZE          full pipes (kernel memory)\n"
    "     --sockets SIZE        full UNIX sockets (kernel memory)\n"
    "     --tcp SIZE            full TCP connections on loopback\n"
    "     --kernel-stacks SIZE  sleeping threads, 16 KiB of kernel stack each\n"
    "SIZE: bytes, k M G T (1000), Ki Mi Gi Ti (1024), or N% of the own cgroup's limit,\n"
    "of the machine's memory where there is none.\n"
    "\n"
    "How it is pressed\n"
    "     --touch page|every    a byte a page (default), or every byte\n"
    "     --stride SIZE         a byte every SIZE bytes\n"
    "     --content WHAT        zero, pattern (default) or random; of every byte\n"
    "     --populate            by the kernel, MADV_POPULATE_WRITE\n"
    "     --huge-pages on|off   madvise() for or against huge pages\n"
    "     --rate SIZE/s         so much a second, in steps of 10 ms\n"
    "     --steps SIZE/TIME     SIZE every TIME (12Mi/10s)\n"
    "     --delay TIME          wait before the first touch\n"
    "     --hold TIME|forever   keep it for so long\n"
    "     --retouch TIME        while it is held, touch all of it again so often\n"
    "     --repeat N            free it and press again, N times in all\n"
    "     --workers N           in N processes that share nothing, SIZE each\n"
    "     --threads N           by N threads at once, SIZE in all\n"
    "     --share-vm N          beside N processes that share the memory (CLONE_VM)\n"
    "     --exit-main-thread    from a thread, `allocthread', after main has ended\n"
    "     --dir PATH            where --file, --file-write and --tmpfs make their file\n"
    "     --keep-file PATH      leave the --tmpfs or --file-write file there\n"
    "TIME: 500ms, 5s, 2m, 1h.\n"
    "\n"
    "Who presses\n"
    "     --oom-score-adj N     -1000 to 1000\n"
    "     --uid N               as this user\n"
    "     --rlimit NAME=VALUE   setrlimit(), NAME without RLIMIT_, VALUE a SIZE or max\n"
    "     --name NAME           the process's name in the kernel's log\n"
    "\n"
    "Who is told\n"
    "     --report-fd FD        events, a JSON object a line\n"
    "     --sync-fd FD          once touched, wait for a byte or EOF here\n"
    "\n"
    "Example: stress --vm 2 --vm-bytes 128M --timeout 10s\n"
    "Example: stress --anon 256Mi --rate 50Mi/s --hold forever\n";

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

constexpr struct Flag {
  const char* name;
  char letter;
  bool argument;
  Id id;
  Mode mode;
  Kind kind = Kind::kAnon;
} kFlags[] = {
    {"help", '?', false, Id::kHelp, Mode::kBoth},
    {"version", 0, false, Id::kVersion, Mode::kBoth},
    {"verbose", 'v', false, Id::kVerbose, Mode::kBoth},
    {"quiet", 'q', false, Id::kQuiet, Mode::kBoth},
    {"dry-run", 'n', false, Id::kDryRun, Mode::kBoth},
    {"timeout", 't', true, Id::kTimeout, Mode::kLoop},
    {"backoff", 0, true, Id::kBackoff, Mode::kLoop},
    {"vm", 'm', true, Id::kVm, Mode::kLoop},
    {"vm-bytes", 0, true, Id::kVmBytes, Mode::kLoop},
    {"vm-stride", 0, true, Id::kVmStride, Mode::kLoop},
    {"vm-hang", 0, true, Id::kVmHang, Mode::kLoop},
    {"vm-keep", 0, false, Id::kVmKeep, Mode::kLoop},
    {"cpu", 'c', true, Id::kForeign, Mode::kBoth},
    {"io", 'i', true, Id::kForeign, Mode::kBoth},
    {"hdd", 'd', true, Id::kForeign, Mode::kBoth},
    {"hdd-bytes", 0, true, Id::kForeign, Mode::kBoth},
    {"anon", 0, true, Id::kKind, Mode::kPress, Kind::kAnon},
    {"shared", 0, true, Id::kKind, Mode::kPress, Kind::kShared},
    {"file", 0, true, Id::kKind, Mode::kPress, Kind::kFile},
    {"file-write", 0, true, Id::kKind, Mode::kPress, Kind::kFileWrite},
    {"shmem", 0, true, Id::kKind, Mode::kPress, Kind::kShmem},
    {"tmpfs", 0, true, Id::kKind, Mode::kPress, Kind::kTmpfs},
    {"shm", 0, true, Id::kKind, Mode::kPress, Kind::kShm},
    {"mlock", 0, true, Id::kKind, Mode::kPress, Kind::kMlock},
    {"hugetlb", 0, true, Id::kKind, Mode::kPress, Kind::kHugetlb},
    {"stack", 0, true, Id::kKind, Mode::kPress, Kind::kStack},
    {"brk", 0, true, Id::kKind, Mode::kPress, Kind::kBrk},
    {"pipes", 0, true, Id::kKind, Mode::kPress, Kind::kPipes},
    {"sockets", 0, true, Id::kKind, Mode::kPress, Kind::kSockets},
    {"tcp", 0, true, Id::kKind, Mode::kPress, Kind::kTcp},
    {"kernel-stacks", 0, true, Id::kKind, Mode::kPress, Kind::kKernelStacks},
    {"touch", 0, true, Id::kTouch, Mode::kPress},
    {"stride", 0, true, Id::kStride, Mode::kPress},
    {"content", 0, true, Id::kContent, Mode::kPress},
    {"populate", 0, false, Id::kPopulate, Mode::kPress},
    {"huge-pages", 0, true, Id::kHugePages, Mode::kPress},
    {"rate", 0, true, Id::kRate, Mode::kPress},
    {"steps", 0, true, Id::kSteps, Mode::kPress},
    {"delay", 0, true, Id::kDelay, Mode::kPress},
    {"hold", 0, true, Id::kHold, Mode::kPress},
    {"retouch", 0, true, Id::kRetouch, Mode::kPress},
    {"repeat", 0, true, Id::kRepeat, Mode::kPress},
    {"workers", 0, true, Id::kWorkers, Mode::kPress},
    {"threads", 0, true, Id::kThreads, Mode::kPress},
    {"share-vm", 0, true, Id::kShareVm, Mode::kPress},
    {"exit-main-thread", 0, false, Id::kExitMainThread, Mode::kPress},
    {"dir", 0, true, Id::kDir, Mode::kPress},
    {"keep-file", 0, true, Id::kKeepFile, Mode::kPress},
    {"oom-score-adj", 0, true, Id::kOomScoreAdj, Mode::kBoth},
    {"uid", 0, true, Id::kUid, Mode::kBoth},
    {"rlimit", 0, true, Id::kRlimit, Mode::kBoth},
    {"name", 0, true, Id::kName, Mode::kBoth},
    {"report-fd", 0, true, Id::kReportFd, Mode::kPress},
    {"sync-fd", 0, true, Id::kSyncFd, Mode::kPress},
};

[[noreturn]] void Wrong(const Flag& flag, const char* value, const char* wanted) {
  Die(__LINE__, Text() << "--" << flag.name << ": `" << value << "' is not " << wanted);
}

// ---- the tool's numbers: a whole number and one letter; what is not a digit counts as its end.

[[noreturn]] void UnknownSuffix(char suffix) {
  Die(__LINE__, Text() << "unrecognized suffix: " << suffix);
}

int64_t ToolNumber(const char* text, int64_t (*unit)(char suffix)) {
  const size_t length = strlen(text);
  if (length == 0) Die(__LINE__, Text() << "invalid string");
  const char last = text[length - 1];
  int64_t factor = 1;
  if (last < '0' || last > '9') {
    factor = unit(last);
    if (factor == 0) UnknownSuffix(last);
  }
  const auto number = static_cast<uint64_t>(strtoll(text, nullptr, 10));
  return static_cast<int64_t>(number * static_cast<uint64_t>(factor));
}

int64_t ToolSize(const char* text) {
  return ToolNumber(text, [](char suffix) -> int64_t {
    switch (suffix) {
      case 'b':
      case 'B':
        return 1;
      case 'k':
      case 'K':
        return 1 << 10;
      case 'm':
      case 'M':
        return 1 << 20;
      case 'g':
      case 'G':
        return 1 << 30;
      default:
        return 0;
    }
  });
}

int64_t ToolTime(const char* text) {
  return ToolNumber(text, [](char suffix) -> int64_t {
    switch (suffix) {
      case 's':
      case 'S':
        return 1;
      case 'm':
      case 'M':
        return 60;
      case 'h':
      case 'H':
        return 60 * 60;
      case 'd':
      case 'D':
        return 60 * 60 * 24;
      case 'y':
      case 'Y':
        return 60 * 60 * 24 * 365;
      default:
        return 0;
    }
  });
}

// ---- our numbers

struct Unit {
  const char* name;
  uint64_t factor;
};

constexpr Unit kSizes[] = {
    {"", 1},
    {"k", 1000},
    {"M", 1000000},
    {"G", 1000000000},
    {"T", 1000000000000},
    {"Ki", 1ULL << 10},
    {"Mi", 1ULL << 20},
    {"Gi", 1ULL << 30},
    {"Ti", 1ULL << 40},
};
constexpr Unit kTimes[] = {
    {"us", 1}, {"ms", 1000}, {"s", 1000000}, {"m", 60000000}, {"h", 3600000000},
};
constexpr Unit kPercent[] = {{"%", 1000000}};

// `text` up to `end` as number and unit, 1.5Gi for example; false when it is none of these or too
// big.
template <size_t N>
bool Quantity(const char* text, const char* end, const Unit (&units)[N], uint64_t* value) {
  unsigned __int128 number = 0;
  uint64_t scale = 1;
  bool digits = false, point = false;
  const char* at = text;
  for (; at < end && ((*at >= '0' && *at <= '9') || (*at == '.' && !point)); ++at) {
    if (*at == '.') {
      point = true;
      continue;
    }
    digits = true;
    number = number * 10 + static_cast<unsigned>(*at - '0');
    if (point) scale *= 10;
    if (number > UINT64_MAX || scale > 1000000000) return false;
  }
  const auto length = static_cast<size_t>(end - at);
  for (const Unit& unit : units) {
    if (strlen(unit.name) != length || strncmp(unit.name, at, length) != 0) continue;
    number = number * unit.factor / scale;
    *value = static_cast<uint64_t>(number);
    return digits && number <= INT64_MAX;
  }
  return false;
}

template <size_t N>
bool Quantity(const char* text, const Unit (&units)[N], uint64_t* value) {
  return Quantity(text, text + strlen(text), units, value);
}

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

// What a percentage is of: the smallest memory limit above us, or the machine's memory.
__attribute__((noinline)) uint64_t MemoryLimit() {
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

uint64_t Size(const Flag& flag, const char* text) {
  uint64_t value;
  if (Quantity(text, kPercent, &value)) {
    const unsigned __int128 bytes = static_cast<unsigned __int128>(MemoryLimit()) * value;
    value = static_cast<uint64_t>(bytes / 100000000);
  } else if (!Quantity(text, kSizes, &value)) {
    Wrong(flag, text, "a size: bytes, 64Mi, 1.5Gi, 200M, 50%");
  }
  if (value == 0) Wrong(flag, text, "a size above 0");
  return value;
}

uint64_t Time(const Flag& flag, const char* text) {
  uint64_t value;
  if (!Quantity(text, kTimes, &value)) Wrong(flag, text, "a time: 500ms, 5s, 2m, 1h");
  return value;
}

int64_t Integer(const Flag& flag, const char* text, int64_t least, int64_t most,
                const char* wanted) {
  char* end;
  errno = 0;
  const long long value = strtoll(text, &end, 10);
  if (!*text || *end || errno || value < least || value > most) Wrong(flag, text, wanted);
  return value;
}

// SIZE/TIME, where a rate's time is `s`.
void SizePerTime(const Flag& flag, const char* text, bool rate, uint64_t* size, uint64_t* time) {
  const char* wanted = rate ? "a rate: 50Mi/s" : "SIZE/TIME: 12Mi/10s";
  const char* slash = strchr(text, '/');
  if (!slash || !Quantity(text, slash, kSizes, size) || *size == 0) Wrong(flag, text, wanted);
  if (rate) {
    if (strcmp(slash + 1, "s") != 0) Wrong(flag, text, wanted);
  } else if (!Quantity(slash + 1, kTimes, time) || *time == 0) {
    Wrong(flag, text, wanted);
  }
}

bool OneOf(const Flag& flag, const char* text, const char* yes, const char* no,
           const char* wanted) {
  if (strcmp(text, yes) == 0) return true;
  if (strcmp(text, no) != 0) Wrong(flag, text, wanted);
  return false;
}

void AddLimit(const Flag& flag, const char* text, Options* options) {
  constexpr char kWanted[] = "NAME=VALUE with a name as in getrlimit(2): AS=64Mi, MEMLOCK=max";
  char name[16];
  const char* equals = strchr(text, '=');
  if (!equals || static_cast<size_t>(equals - text) >= sizeof name) Wrong(flag, text, kWanted);
  memcpy(name, text, static_cast<size_t>(equals - text));
  name[equals - text] = 0;
  Limit limit = {RlimitByName(name), RLIM_INFINITY};
  if (limit.resource < 0) Wrong(flag, text, kWanted);
  const char* value = equals + 1;
  if (strcmp(value, "max") != 0 && strcmp(value, "unlimited") != 0 &&
      !Quantity(value, kSizes, &limit.value)) {
    Wrong(flag, text, kWanted);
  }
  if (options->limit_count == sizeof options->limits / sizeof *options->limits) {
    Die(__LINE__, Text() << "--rlimit: too many of them");
  }
  options->limits[options->limit_count++] = limit;
}

int OpenFd(const Flag& flag, const char* text) {
  const auto fd = static_cast<int>(Integer(flag, text, 0, INT_MAX, "a descriptor's number"));
  struct stat status;
  if (fstat(fd, &status) != 0) Wrong(flag, text, "an open descriptor");
  return fd;
}

// Whether it was said how memory is touched, and what is written: one has a say in the other.
struct Given {
  bool touch = false;
  bool content = false;
};

void Apply(const Flag& flag, const char* value, Options* options, Given* given) {
  switch (flag.id) {
    case Id::kHelp: {
      size_t at = 0;
      while (at < sizeof kHelp - 1) {
        const ssize_t put = write(1, kHelp + at, sizeof kHelp - 1 - at);
        if (put <= 0) break;
        at += static_cast<size_t>(put);
      }
      _exit(0);
    }
    case Id::kVersion: {
      const Text text =
          Text() << "stress " OOMLAB_VERSION " (oomlab; memory flags of stress 1.0.7)\n";
      _exit(write(1, text.c_str(), text.size()) < 0);
    }
    case Id::kVerbose:
      verbosity = Level::kDebug;
      break;
    case Id::kQuiet:
      verbosity = Level::kFail;
      break;
    case Id::kDryRun:
      options->dry_run = true;
      break;
    case Id::kForeign:
      Die(__LINE__, Text() << "--" << flag.name
                           << " is not supported: this stress presses memory only (--vm, --anon, "
                              "--file, ...; see --help)");
    case Id::kTimeout:
      options->timeout = ToolTime(value);
      if (options->timeout <= 0) {
        Die(__LINE__, Text() << "invalid timeout value: " << options->timeout << "s");
      }
      break;
    case Id::kBackoff:
      options->backoff = ToolTime(value);
      if (options->backoff < 0) {
        Die(__LINE__, Text() << "invalid backoff factor: " << options->backoff);
      }
      break;
    case Id::kVm:
      options->vm = ToolSize(value);
      if (options->vm <= 0) Die(__LINE__, Text() << "invalid number of vm hogs: " << options->vm);
      break;
    case Id::kVmBytes:
      options->vm_bytes = ToolSize(value);
      if (options->vm_bytes <= 0) {
        Die(__LINE__, Text() << "invalid vm byte value: " << options->vm_bytes);
      }
      break;
    case Id::kVmStride:
      options->vm_stride = ToolSize(value);
      if (options->vm_stride <= 0) {
        Die(__LINE__, Text() << "invalid stride value: " << options->vm_stride);
      }
      break;
    case Id::kVmHang:
      options->vm_hang = ToolSize(value);
      if (options->vm_hang < 0) Die(__LINE__, Text() << "invalid value: " << options->vm_hang);
      break;
    case Id::kVmKeep:
      options->vm_keep = true;
      break;
    case Id::kKind:
      if (options->part_count == sizeof options->parts / sizeof *options->parts) {
        Die(__LINE__, Text() << "--" << flag.name << ": too many kinds");
      }
      options->parts[options->part_count++] = {flag.kind, Size(flag, value)};
      break;
    case Id::kTouch:
      given->touch = true;
      options->touch.every = OneOf(flag, value, "every", "page", "page or every");
      break;
    case Id::kStride:
      given->touch = true;
      options->touch.stride = Size(flag, value);
      break;
    case Id::kContent:
      if (strcmp(value, "random") == 0) {
        options->touch.content = Content::kRandom;
      } else {
        options->touch.content = OneOf(flag, value, "zero", "pattern", "zero, pattern or random")
                                     ? Content::kZero
                                     : Content::kPattern;
      }
      given->content = true;
      break;
    case Id::kPopulate:
      options->touch.populate = true;
      break;
    case Id::kHugePages:
      options->touch.huge_pages =
          OneOf(flag, value, "on", "off", "on or off") ? HugePages::kOn : HugePages::kOff;
      break;
    case Id::kRate: {
      uint64_t ignored;
      SizePerTime(flag, value, true, &options->rate, &ignored);
      break;
    }
    case Id::kSteps:
      SizePerTime(flag, value, false, &options->step, &options->step_interval);
      break;
    case Id::kDelay:
      options->delay = Time(flag, value);
      break;
    case Id::kHold:
      options->hold = strcmp(value, "forever") == 0 ? kForever : Time(flag, value);
      break;
    case Id::kRetouch:
      options->retouch = Time(flag, value);
      if (options->retouch == 0) Wrong(flag, value, "a time above 0");
      break;
    case Id::kRepeat:
      options->repeat = static_cast<uint32_t>(Integer(flag, value, 1, INT_MAX, "a number from 1"));
      break;
    case Id::kWorkers:
      options->workers = static_cast<uint32_t>(Integer(flag, value, 1, 1 << 20, "a number from 1"));
      break;
    case Id::kThreads:
      options->threads =
          static_cast<uint32_t>(Integer(flag, value, 1, 1024, "a number from 1 to 1024"));
      break;
    case Id::kShareVm:
      options->share_vm =
          static_cast<uint32_t>(Integer(flag, value, 0, 1024, "a number from 0 to 1024"));
      break;
    case Id::kExitMainThread:
      options->exit_main_thread = true;
      break;
    case Id::kDir:
      options->dir = value;
      break;
    case Id::kKeepFile:
      options->keep_file = value;
      break;
    case Id::kOomScoreAdj:
      options->oom_score_adj =
          static_cast<int>(Integer(flag, value, -1000, 1000, "a number from -1000 to 1000"));
      options->has_oom_score_adj = true;
      break;
    case Id::kUid:
      options->uid =
          static_cast<uint32_t>(Integer(flag, value, 0, UINT32_MAX - 1, "a user's number"));
      options->has_uid = true;
      break;
    case Id::kRlimit:
      AddLimit(flag, value, options);
      break;
    case Id::kName:
      if (!*value || strlen(value) > 15) Wrong(flag, value, "a name of 1 to 15 bytes");
      options->name = value;
      break;
    case Id::kReportFd:
      options->report_fd = OpenFd(flag, value);
      break;
    case Id::kSyncFd:
      options->sync_fd = OpenFd(flag, value);
      break;
  }
}

// A long name in full, or as much of it as no other flag starts with.
const Flag* ByName(const char* name, size_t length) {
  const Flag* found = nullptr;
  int count = 0;
  for (const Flag& flag : kFlags) {
    if (strncmp(flag.name, name, length) != 0) continue;
    if (flag.name[length] == 0) return &flag;
    found = &flag;
    ++count;
  }
  return count == 1 && length > 0 ? found : nullptr;
}

const Flag* ByLetter(char letter) {
  for (const Flag& flag : kFlags) {
    if (flag.letter && flag.letter == letter) return &flag;
  }
  return nullptr;
}

[[noreturn]] void Useless(const char* flag, const char* what) {
  Die(__LINE__, Text() << flag << " is for " << what);
}

void CheckTogether(const Options& options, const Flag* loop, const Flag* press) {
  if (options.part_count > 0 && loop) {
    Die(__LINE__, Text() << "--" << loop->name << " cannot be used with --"
                         << KindName(options.parts[0].kind)
                         << ": it belongs to --vm; use --hold, --stride, --delay");
  }
  if (options.vm > 0 && press) {
    Die(__LINE__,
        Text() << "--" << press->name << " cannot be used with --vm; use --anon SIZE in its place");
  }
  if (options.rate && options.step) {
    Die(__LINE__, Text() << "--rate and --steps cannot be used together");
  }
  if (options.keep_file && options.workers > 1) {
    Die(__LINE__, Text() << "--keep-file and --workers cannot be used together");
  }
  bool mapped = false, stack = false, file = false, kept = false;
  for (int i = 0; i < options.part_count; ++i) {
    const Kind kind = options.parts[i].kind;
    mapped |= IsMapped(kind);
    stack |= kind == Kind::kStack;
    file |= IsFile(kind);
    kept |= IsFile(kind) && kind != Kind::kFile;
  }
  if (stack && options.exit_main_thread) {
    Die(__LINE__, Text() << "--stack and --exit-main-thread cannot be used together: the stack is "
                            "the main thread's");
  }
  if (options.part_count == 0) return;
  // What would do nothing is a mistake.
  if (options.touch.populate && !mapped) Useless("--populate", "memory that is mapped: --anon");
  if (options.touch.huge_pages != HugePages::kDefault && !mapped) {
    Useless("--huge-pages", "memory that is mapped: --anon");
  }
  if (options.touch.stride != kPage && !mapped)
    Useless("--stride", "memory that is mapped: --anon");
  if (options.dir && !file) Useless("--dir", "--file, --file-write and --tmpfs");
  if (options.keep_file && !kept) Useless("--keep-file", "--tmpfs and --file-write");
}

}  // namespace

void ParseOptions(int argc, char** argv, Options* options) {
  const Flag* loop = nullptr;
  const Flag* press = nullptr;
  Given given;
  for (int i = 1; i < argc; ++i) {
    const char* argument = argv[i];
    const Flag* flag = nullptr;
    const char* value = nullptr;
    if (argument[0] == '-' && argument[1] == '-') {
      const char* name = argument + 2;
      const char* equals = strchr(name, '=');
      flag = ByName(name, equals ? static_cast<size_t>(equals - name) : strlen(name));
      if (equals) value = equals + 1;
      if (flag && value && !flag->argument) flag = nullptr;
    } else if (argument[0] == '-') {
      // Letters without an argument may stand together; one with an argument ends the word.
      const char* letter = argument + 1;
      flag = ByLetter(*letter);
      while (flag && !flag->argument && letter[1]) {
        Apply(*flag, nullptr, options, &given);
        flag = ByLetter(*++letter);
      }
      if (flag && flag->argument && letter[1]) value = letter + 1;
    }
    if (!flag) Die(__LINE__, Text() << "unrecognized option: " << argument);
    if (flag->argument && !value) {
      if (++i == argc) {
        Die(__LINE__, Text() << "missing argument to option '--" << flag->name << "'");
      }
      value = argv[i];
    }
    if (flag->mode == Mode::kLoop && !loop) loop = flag;
    if (flag->mode == Mode::kPress && !press) press = flag;
    Apply(*flag, value, options, &given);
  }
  // Content is about whole pages, unless it is said how they are touched.
  if (given.content && !given.touch) options->touch.every = true;
  CheckTogether(*options, loop, press);
  if (options->vm == 0 && options->part_count == 0) {
    if (press) {
      Die(__LINE__, Text() << "--" << press->name
                           << " presses nothing by itself: say what, for example --anon 64Mi");
    }
    Apply(kFlags[0], nullptr, options, &given);
  }
}

void Say(Level level, int line, const Text& text) {
  if (level > verbosity) return;
  constexpr const char* kNames[] = {"FAIL", "WARN", "info", "dbug"};
  Text message;
  message << "stress: " << kNames[static_cast<int>(level)] << ": [" << getpid() << "] ";
  if (level <= Level::kWarn) message << '(' << line << ") ";
  message << text.c_str() << '\n';
  const ssize_t put = write(level <= Level::kWarn ? 2 : 1, message.c_str(), message.size());
  (void)put;
}

void Die(int line, const Text& text) {
  Say(Level::kFail, line, text);
  _exit(1);
}

}  // namespace oomlab
