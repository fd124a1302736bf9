#include <gtest/gtest.h>

#include <cstring>

#include "support/paths.h"
#include "tensor/safetensors.h"
#include "train/event_file.h"
#include "train/synthetic.h"
#include "train/tracking.h"

namespace cortex::train {
namespace {

using cortex::testing::TempDir;
using testing::bytes_of;
using testing::synthetic_recording;
using testing::tiny_options;

TEST(EventFile, ChecksumsAreCastagnolis) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);  // RFC 3720's check value
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
}

/// Payloads of all records, whose checksums are checked on the way.
std::vector<std::string> records_of(const std::string& bytes) {
  std::vector<std::string> out;
  const auto masked = [](const std::string& text) {
    const std::uint32_t crc = crc32c(text);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
  };
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    std::uint32_t of_length = 0;
    std::uint32_t of_payload = 0;
    std::memcpy(&length, &bytes[at], 8);
    std::memcpy(&of_length, &bytes[at + 8], 4);
    EXPECT_EQ(of_length, masked(bytes.substr(at, 8)));
    out.push_back(bytes.substr(at + 12, length));
    std::memcpy(&of_payload, &bytes[at + 12 + length], 4);
    EXPECT_EQ(of_payload, masked(out.back()));
    at += 16 + length;
  }
  return out;
}

TEST(EventFile, HoldsAHeaderAndOneRecordAnEvent) {
  const TempDir dir;
  EventFile events(dir.file("events"));
  ASSERT_TRUE(events.append(300, {{"loss", 0.25}, {"r2", -1}}, 1.5));
  // A second writer goes on in the same file, as a resumed run does.
  ASSERT_TRUE(EventFile(dir.file("events")).append(301, {{"loss", 0.5}}, 2.5));
  const auto records = records_of(bytes_of(dir.file("events")));
  ASSERT_EQ(records.size(), 3u);
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  // wall_time 1.5, step 300, summary of 24 bytes: two values with tag and float.
  const std::string expected(
      "\x09\0\0\0\0\0\0\xf8\x3f\x10\xac\x02\x2a\x18"
      "\x0a\x0b\x0a\x04loss\x15\0\0\x80\x3e"
      "\x0a\x09\x0a\x02r2\x15\0\0\x80\xbf",
      38);
  EXPECT_EQ(records[1], expected);
}

TEST(Tracking, ARunSaysWhatItWasMadeOf) {
  const TempDir dir;
  TrainOptions options = tiny_options(dir.file("model.safetensors"));
  const auto report = train(options, {synthetic_recording(6, 16, 4)});
  ASSERT_TRUE(report) << report.error().message;
  const std::string run = report->run_dir + "/";
  const auto checkpoint = read_safetensors(run + "checkpoint.safetensors");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const std::string record = checkpoint->metadata.at("run");
  EXPECT_EQ(record, bytes_of(run + "run.json"));
  for (const char* part : {"\"revision\":", "\"data_digest\":", "\"recordings\":", "\"options\":",
                           "\"config\":", "\"seed\":"})
    EXPECT_NE(record.find(part), std::string::npos) << part;
  EXPECT_NE(record.find(source_revision()), std::string::npos);

  const auto records = records_of(bytes_of(run + "events.out.tfevents.cortex"));
  std::string all;
  for (const std::string& one : records) all += one;
  for (const char* tag : {"train/loss", "train/learning_rate", "train/gradient_norm", "val/r2"})
    EXPECT_NE(all.find(tag), std::string::npos) << tag;

  const std::string card = bytes_of(dir.file("model.card.md"));
  for (const char* part : {"hand_vel", "6 units", "memory.nwb", "seed 1", "R²"})
    EXPECT_NE(card.find(part), std::string::npos) << part;
}

}  // namespace
}  // namespace cortex::train
