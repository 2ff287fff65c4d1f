// SPDX-License-Identifier: MIT
// Runs what the command line asks for; both return the exit status.
#ifndef OOMLAB_PRESS_H_
#define OOMLAB_PRESS_H_

#include <sys/types.h>

#include "options.h"

namespace oomlab {

// Presses the kinds once (or --repeat times), and reports.
int Press(const Options& options);

// Loops as the stress tool does.
int Loop(const Options& options);

// Who presses: oom_score_adj, rlimits, user and name of this process.
Failure TakeIdentity(const Options& options);

// Dies with `parent`, and at once if that has already gone.
void DieWith(pid_t parent);

}  // namespace oomlab

#endif  // OOMLAB_PRESS_H_
