#pragma once

namespace cortex::testing {

/// Makes the current CUDA device fail, for everybody in this process. True: it did.
bool break_device();

}  // namespace cortex::testing
