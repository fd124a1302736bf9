#pragma once

#include <string>
#include <string_view>

namespace cortex {

/// Whether an Authorization header carries `key`. Takes the same time whichever byte differs.
bool bearer_matches(std::string_view authorization, std::string_view key);

}  // namespace cortex
