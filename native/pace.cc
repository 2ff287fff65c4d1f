// SPDX-License-Identifier: MIT
#include "pace.h"

#include <errno.h>
#include <stddef.h>
#include <time.h>

#include "report.h"
#include "usage.h"

namespace oomlab {
namespace {

constexpr uint64_t kChunk = 8 << 20;
constexpr uint64_t kRateStep = 10000;
constexpr uint64_t kProgressInterval = 100000;

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
uint32_t slice_count = 0;
uint64_t touched_before = 0;
uint64_t last_progress = 0;
uint64_t last_touched = 0;
bool slow = false;

void ReportProgress(bool last) {
  if (!IsReported()) return;
  const uint64_t now = Now();
  if (!last && now - last_progress < kProgressInterval) return;
  const uint64_t touched = TouchedSoFar();
  if (last && touched == last_touched) return;
  last_progress = now;
  last_touched = touched;
  Event("progress")
      .Add("kind", KindName(slices[0].region->kind))
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

}  // namespace

void UseThreads(uint32_t count) {
  if (count > 1) slices = static_cast<Slice*>(MapOrFail(count * sizeof(Slice)));
}

void BeginRound() {
  touched_before = 0;
  last_touched = 0;
  slice_count = 0;
}

Failure PressRegion(const Options& options, Region* region) {
  touched_before = TouchedSoFar();
  slice_count = 0;
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
  slice_count = count;
  Failure failure;
  uint32_t started = 1;
  for (; started < count && !failure; ++started) {
    Slice* slice = &slices[started];
    const int error = StartThread(&slice->thread, PressSlice, slice);
    if (error) {
      failure = {"clone", error};
      break;
    }
  }
  if (!failure) PressSlice(&slices[0]);
  for (uint32_t i = 0; i < started; ++i) {
    Slice* slice = &slices[i];
    if (i > 0) pthread_join(slice->thread, nullptr);
    if (slice->failure && !failure) failure = slice->failure;
    slow |= slice->slow;
  }
  ReportProgress(true);
  return failure;
}

uint64_t TouchedSoFar() {
  uint64_t touched = touched_before;
  for (uint32_t i = 0; i < slice_count; ++i) {
    touched += __atomic_load_n(&slices[i].touched, __ATOMIC_RELAXED);
  }
  return touched;
}

bool WasSlow() { return slow; }

void SleepUntil(uint64_t deadline) {
  const timespec until = {static_cast<time_t>(deadline / 1000000),
                          static_cast<long>(deadline % 1000000 * 1000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

int StartThread(pthread_t* thread, void* (*run)(void*), void* argument) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 128 << 10);
  const int error = pthread_create(thread, &attributes, run, argument);
  pthread_attr_destroy(&attributes);
  return error;
}

}  // namespace oomlab
