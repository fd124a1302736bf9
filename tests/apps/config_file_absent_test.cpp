// What a build without toml++ makes of a file of settings.
#include <gtest/gtest.h>

#include "config_file.h"

namespace cortex {
namespace {

TEST(WithoutToml, AFileOfSettingsIsRefusedAndThePackageNamed) {
  const auto entries = read_config_file("rig.toml");
  ASSERT_FALSE(entries);
  EXPECT_EQ(entries.error().code, ErrorCode::unsupported);
  EXPECT_EQ(entries.error().message,
            "rig.toml: this build reads no TOML: build it where libtomlplusplus-dev is installed");
}

}  // namespace
}  // namespace cortex
