// SPDX-License-Identifier: MIT
// Presses regions one after the other, by threads, at a rate or in steps, and knows how far it is.
#ifndef OOMLAB_PACE_H_
#define OOMLAB_PACE_H_

#include <pthread.h>
#include <stdint.h>

#include "options.h"

namespace oomlab {

// How many threads PressRegion may use; one at first.
void UseThreads(uint32_t count);

// Nothing has been touched, of any region.
void BeginRound();

// Presses all of an open region, and tells of progress.
Failure PressRegion(const Options& options, Region* region);

// Bytes touched in this round.
uint64_t TouchedSoFar();

// Whether the rate or the steps asked for could not be kept, in any round.
bool WasSlow();

// Until Now() is `deadline`.
void SleepUntil(uint64_t deadline);

// pthread_create with a small stack.
int StartThread(pthread_t* thread, void* (*run)(void*), void* argument);

}  // namespace oomlab

#endif  // OOMLAB_PACE_H_
