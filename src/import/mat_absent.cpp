#include "import/mat.h"

namespace cortex {

Result<Recording> read_mat(const std::string& path, const std::vector<std::string>&) {
  return Error{ErrorCode::unsupported,
               path +
                   ": this build reads no MATLAB files: it was configured without libmatio "
                   "(Debian: libmatio-dev)",
               "file"};
}

}  // namespace cortex
