#include <gtest/gtest.h>

#include <filesystem>

#include "kernels/backend.h"
#include "support/paths.h"
#include "support/process.h"

namespace cortex {
namespace {

testing::Ran tune(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {CORTEX_BINARY, "tune"});
  return testing::run(std::move(arguments));
}

TEST(CliTune, WithoutAGpuItFailsAndWritesNothing) {
  if (make_backend("cuda:0", {})) GTEST_SKIP() << "there is a GPU";
  const testing::TempDir folder;
  const testing::Ran ran = tune({"--out", folder.file("table.json")});
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.err.rfind("cortex: device 'cuda:0': ", 0), 0U) << ran.err;
  EXPECT_NE(ran.err.find("no "), std::string::npos) << ran.err;
  EXPECT_FALSE(std::filesystem::exists(folder.file("table.json")));
}

TEST(CliTune, ADeviceThatIsNoGpuIsNamed) {
  for (const char* device : {"cpu", "auto", "cuda:", "cuda:-1", "cuda:x"}) {
    const testing::Ran ran = tune({"--device", device});
    EXPECT_EQ(ran.code, 1);
    EXPECT_EQ(ran.err, "cortex: device is '" + std::string(device) + "', not cuda:N\n");
  }
}

TEST(CliTune, HelpHasAnExample) {
  const testing::Ran ran = tune({"--help"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_NE(ran.out.find("cortex tune --device cuda:0 --out"), std::string::npos) << ran.out;
}

}  // namespace
}  // namespace cortex
