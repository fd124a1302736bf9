#pragma once

#include <string>

namespace cortex {

/// Names the calling thread as `top -H` shows it (15 characters kept).
void name_this_thread(const std::string& name);

/// Binds the calling thread to one core; false where the kernel refused.
bool pin_this_thread(int core);

}  // namespace cortex
