// SPDX-License-Identifier: MIT
#include "options.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flags.h"
#include "quantities.h"
#include "say.h"

namespace oomlab {
namespace {

[[noreturn]] void Wrong(const Flag& flag, const char* value, const char* wanted) {
  Die(__LINE__, Text() << "--" << flag.name << ": `" << value << "' is not " << wanted);
}

uint64_t Size(const Flag& flag, const char* text) {
  uint64_t value;
  const char* end = text + strlen(text);
  if (!ReadPercentage(text, end, &value) && !ReadSize(text, end, &value)) {
    Wrong(flag, text, "a size: bytes, 64Mi, 1.5Gi, 200M, 50%");
  }
  if (value == 0) Wrong(flag, text, "a size above 0");
  return value;
}

uint64_t Time(const Flag& flag, const char* text) {
  uint64_t value;
  if (!ReadTime(text, text + strlen(text), &value)) Wrong(flag, text, "a time: 500ms, 5s, 2m, 1h");
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
  if (!slash || !ReadSize(text, slash, size) || *size == 0) Wrong(flag, text, wanted);
  if (rate) {
    if (strcmp(slash + 1, "s") != 0) Wrong(flag, text, wanted);
  } else if (!ReadTime(slash + 1, text + strlen(text), time) || *time == 0) {
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
      !ReadSize(value, text + strlen(text), &limit.value)) {
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
    case Id::kHelp:
      Help();
    case Id::kVersion: {
      const Text text =
          Text() << "stress " OOMLAB_VERSION " (oomlab; memory flags of stress 1.0.7)\n";
      _exit(write(1, text.c_str(), text.size()) < 0);
    }
    case Id::kVerbose:
      SayUpTo(Level::kDebug);
      break;
    case Id::kQuiet:
      SayUpTo(Level::kFail);
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
    case Id::kNoReserve:
      options->reserve = false;
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
  bool mapped = false, reserved = false, stack = false, file = false, kept = false;
  for (int i = 0; i < options.part_count; ++i) {
    const Kind kind = options.parts[i].kind;
    mapped |= IsMapped(kind);
    reserved |= IsReserved(kind);
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
  if (!options.reserve && !reserved) {
    Useless("--no-reserve", "--anon, --shared, --shm, --mlock and --brk");
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
      flag = FlagByName(name, equals ? static_cast<size_t>(equals - name) : strlen(name));
      if (equals) value = equals + 1;
      if (flag && value && !flag->argument) flag = nullptr;
    } else if (argument[0] == '-') {
      // Letters without an argument may stand together; one with an argument ends the word.
      const char* letter = argument + 1;
      flag = FlagByLetter(*letter);
      while (flag && !flag->argument && letter[1]) {
        Apply(*flag, nullptr, options, &given);
        flag = FlagByLetter(*++letter);
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
    Help();
  }
}

}  // namespace oomlab
