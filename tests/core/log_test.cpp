#include "core/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <string>

#include "core/log_writer.h"
#include "support/paths.h"

namespace cortex {
namespace {

std::string content(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(Log, JsonLinesCarryTheirFields) {
  const testing::TempDir dir;
  ASSERT_TRUE(log::configure({.json = true, .file = dir.file("log")}));
  log::write(log::Level::warn, "a \"quoted\"\nline",
             {{"id", "x\ty"}, {"status", std::int64_t{200}}, {"ms", 1.5}});
  log::debug("not shown");
  log::flush();
  const std::string line = content(dir.file("log"));
  EXPECT_TRUE(line.starts_with("{\"time\":\"20")) << line;
  EXPECT_NE(line.find("Z\",\"level\":\"warning\",\"message\":\"a \\\"quoted\\\"\\nline\","
                      "\"id\":\"x\\ty\",\"status\":200,\"ms\":1.5}\n"),
            std::string::npos)
      << line;
  EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line, whatever is in it";
}

TEST(Log, PlainLinesCarryThemToo) {
  const testing::TempDir dir;
  ASSERT_TRUE(log::configure({.json = false, .file = dir.file("log")}));
  log::write(log::Level::info, "request", {{"id", "7"}, {"status", std::int64_t{404}}});
  log::flush();
  EXPECT_NE(content(dir.file("log")).find("info request id=7 status=404\n"), std::string::npos)
      << content(dir.file("log"));
}

TEST(Log, AFullDiskLosesLinesAndNothingElse) {
  ASSERT_TRUE(log::configure({.json = true, .file = "/dev/full"}));
  for (int i = 0; i < 10; ++i) log::info("lost");
  log::flush();
  EXPECT_EQ(log::lost(), 10);
}

TEST(Log, AFileThatCannotBeOpenedIsSaid) {
  EXPECT_FALSE(log::configure({.json = true, .file = "/no/such/folder/log"}));
}

TEST(LogWriter, APipeThatNobodyReadsHoldsNobodyUp) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  {
    log::Writer writer(ends[1]);
    for (int i = 0; i < 20'000; ++i) writer.put(std::string(100, 'x') + "\n");
    EXPECT_GT(writer.lost(), 0);
    writer.flush(std::chrono::milliseconds(10));
  }
  // The write that still waits ends with the pipe; until then the other end is its thread's.
  ::close(ends[0]);
}

}  // namespace
}  // namespace cortex
