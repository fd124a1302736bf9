#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

/// Where tests find files. CORTEX_SHARED_DIR in the environment overrides what CMake was told.
///
///     if (!cortex::testing::has_shared("data/reach/center_out_98.nwb")) GTEST_SKIP() << "...";
namespace cortex::testing {

inline std::filesystem::path shared_path(const std::string& relative) {
  const char* given = std::getenv("CORTEX_SHARED_DIR");
  return std::filesystem::path(given != nullptr ? given : CORTEX_SHARED_DIR) / relative;
}

inline bool has_shared(const std::string& relative) {
  return std::filesystem::exists(shared_path(relative));
}

inline std::filesystem::path source_path(const std::string& relative) {
  return std::filesystem::path(CORTEX_SOURCE_DIR) / relative;
}

/// An empty folder of its own, removed with everything in it at the end of the scope.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "cortex-test-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace cortex::testing
