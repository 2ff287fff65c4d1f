// SPDX-License-Identifier: MIT
// Sizes and times of the command line.
#ifndef OOMLAB_QUANTITIES_H_
#define OOMLAB_QUANTITIES_H_

#include <stdint.h>

namespace oomlab {

// The tool's: a whole number and one letter; what is not a digit counts as its end. Ends the
// process for an unknown letter.
int64_t ToolSize(const char* text);
int64_t ToolTime(const char* text);

// Ours, up to `end`: bytes of 1.5Gi, microseconds of 500ms; false when it is none or too big.
bool ReadSize(const char* text, const char* end, uint64_t* bytes);
bool ReadTime(const char* text, const char* end, uint64_t* us);

// Bytes of N%, which is of MemoryLimit().
bool ReadPercentage(const char* text, const char* end, uint64_t* bytes);

}  // namespace oomlab

#endif  // OOMLAB_QUANTITIES_H_
