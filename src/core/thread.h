#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <string>

namespace cortex {

/// Names the calling thread as `top -H` shows it (15 characters kept).
void name_this_thread(const std::string& name);

/// Binds the calling thread to one core; false where the kernel refused.
bool pin_this_thread(int core);

/// Between two looks at what another thread is about to write.
inline void relax_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace cortex
