#include <gtest/gtest.h>

#include "support/process.h"

namespace cortex::train {
namespace {

// See cmake/FindCortexTorch.cmake.
TEST(Linking, TheStandardLibraryIsSearchedBeforeLibTorch) {
  // In the order in which the dynamic linker looks into them.
  const auto libraries = cortex::testing::run({"ldd", CORTEX_TRAIN_EXE});
  ASSERT_EQ(libraries.code, 0) << libraries.err;
  const auto standard = libraries.out.find("libstdc++.so");
  const auto torch = libraries.out.find("libtorch_cpu.so");
  ASSERT_NE(standard, std::string::npos) << libraries.out;
  ASSERT_NE(torch, std::string::npos) << libraries.out;
  EXPECT_LT(standard, torch) << libraries.out;
}

}  // namespace
}  // namespace cortex::train
