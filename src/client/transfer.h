#pragma once

#include <cstddef>
#include <string>

namespace cortex {

/// What came of a read or write that does not wait.
struct Transfer {
  std::size_t bytes = 0;
  bool would_block = false;
  std::string failed = {};  ///< why the connection is over; empty while it is not
};

}  // namespace cortex
