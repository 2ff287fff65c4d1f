// SPDX-License-Identifier: MIT
#include "flags.h"

#include <string.h>
#include <unistd.h>

namespace oomlab {
namespace {

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
    "     --no-reserve          map it without reserving it first (MAP_NORESERVE)\n"
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

constexpr Flag kFlags[] = {
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
    {"no-reserve", 0, false, Id::kNoReserve, Mode::kPress},
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

}  // namespace

const Flag* FlagByName(const char* name, size_t length) {
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

const Flag* FlagByLetter(char letter) {
  for (const Flag& flag : kFlags) {
    if (flag.letter && flag.letter == letter) return &flag;
  }
  return nullptr;
}

void Help() {
  size_t at = 0;
  while (at < sizeof kHelp - 1) {
    const ssize_t put = write(1, kHelp + at, sizeof kHelp - 1 - at);
    if (put <= 0) break;
    at += static_cast<size_t>(put);
  }
  _exit(0);
}

}  // namespace oomlab
