#include <gtest/gtest.h>
#include <simdjson.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/clock.h"
#include "core/file.h"
#include "core/json_writer.h"
#include "support/paths.h"

namespace cortex::testing {
namespace {

std::span<const std::byte> as_bytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

TEST(JsonWriter, WhatItWritesParsesBackToTheSameValues) {
  JsonWriter w;
  const std::string text = "quote \" slash \\ tab \t bell \x07 \xc3\xa9";
  w.begin_object().key("text").value(text).key("list").begin_array();
  w.value(0.1).value(-3).value(true).null().end_array();
  w.key("empty").begin_object().end_object().key("nan").value(std::nan("")).end_object();
  simdjson::dom::parser parser;
  simdjson::dom::element root = parser.parse(w.text());
  EXPECT_EQ(std::string_view(root["text"]), text);
  EXPECT_EQ(double(root["list"].at(0)), 0.1);
  EXPECT_EQ(int64_t(root["list"].at(1)), -3);
  EXPECT_TRUE(root["nan"].is_null());
}

TEST(WriteFileAtomic, ReplacesAFileWhole) {
  const TempDir folder;
  const std::string path = folder.file("a");
  ASSERT_TRUE(write_file_atomic(path, as_bytes("old and long")));
  ASSERT_TRUE(write_file_atomic(path, as_bytes("new")));
  const auto bytes = read_file(path).value_or_throw();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), "new");
  EXPECT_EQ(std::distance(
                std::filesystem::directory_iterator(std::filesystem::path(path).parent_path()), {}),
            1);
}

TEST(WriteFileAtomic, AFullDiskIsAnErrorThatNamesTheFileAndKeepsTheOldOne) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TempDir folder;
  const std::string path = folder.file("a");
  ASSERT_TRUE(write_file_atomic(path, as_bytes("old")));
  // The part file's name is predictable so that this test can put a full disk in its place.
  const std::string part = path + "." + std::to_string(::getpid()) + ".part";
  std::filesystem::create_symlink("/dev/full", part);
  const auto failed = write_file_atomic(path, as_bytes("new"));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::io_error);
  EXPECT_NE(failed.error().message.find(part), std::string::npos);
  EXPECT_EQ(read_file(path).value_or_throw().size(), 3U);
}

TEST(ReadFile, AMissingFileIsNamed) {
  const auto missing = read_file("/no/such/file");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::not_found);
  EXPECT_NE(missing.error().message.find("/no/such/file"), std::string::npos);
}

TEST(VirtualClock, MovesOnlyWhenTold) {
  VirtualClock clock;
  EXPECT_EQ(clock.now(), 0);
  clock.advance(5);
  EXPECT_EQ(clock.now(), 5);
}

}  // namespace
}  // namespace cortex::testing
