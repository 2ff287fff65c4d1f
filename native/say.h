// SPDX-License-Identifier: MIT
// The stress tool's messages: `stress: info: [pid] ...`; line numbers as the tool prints its own.
#ifndef OOMLAB_SAY_H_
#define OOMLAB_SAY_H_

#include "base.h"

namespace oomlab {

enum class Level { kFail, kWarn, kInfo, kDebug };
void Say(Level level, int line, const Text& text);
[[noreturn]] void Die(int line, const Text& text);

// strerror as glibc words it, whatever the library.
const char* Reason(int error);

// The last level that is said; kInfo at first.
void SayUpTo(Level level);

}  // namespace oomlab

#endif  // OOMLAB_SAY_H_
