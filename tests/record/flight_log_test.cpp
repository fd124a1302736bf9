// A flight log as a crash, a full disk or a stranger leaves it.
#include "record/flight_log.h"

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <random>
#include <span>
#include <string>

#include "record/format.h"
#include "record/record_fixture.h"

namespace cortex::record {
namespace {

using testing::bytes_of_file;
using testing::events_at;
using testing::eventually;
using testing::outputs_at;
using testing::record_step;
using testing::small_model;

constexpr std::chrono::milliseconds kAtOnce{1};
constexpr std::chrono::milliseconds kNever{60'000};

class FlightLogTest : public ::testing::Test {
 protected:
  std::unique_ptr<Recorder> recorder(std::chrono::milliseconds sync_every,
                                     std::size_t ring_bytes = 1 << 16) {
    return Recorder::create(path_, small_model(),
                            {.ring_bytes = ring_bytes, .sync_every = sync_every}, counters_)
        .value_or_throw();
  }

  /// A log of `blocks` blocks besides the first: two steps of each of two sessions in each.
  std::vector<std::byte> several_blocks(int blocks) {
    const auto made = recorder(kAtOnce);
    made->opened({.id = 1}, {});
    made->opened({.id = 2}, {.unit_ids = {"12", "7"}, .first_step = 0});
    std::int64_t records = 0;
    for (std::int64_t n = 0; n < 2 * blocks; n += 2) {
      for (const SessionId id : {1, 2})
        for (std::int64_t i = n; i < n + 2; ++i) record_step(*made, id, i);
      records += 8;
      EXPECT_TRUE(eventually([&] { return counters_.written.value() == records; }));
    }
    return bytes_of_file(path_);
  }

  Error error_of(std::span<const std::byte> bytes) const {
    const auto log = parse_flight_log(bytes, "the.log");
    EXPECT_FALSE(log);
    return log ? Error{} : log.error();
  }

  testing::TempDir folder_;
  const std::string path_ = folder_.file("some.cortexlog");
  RecorderCounters counters_;
};

/// Where each block begins, and the end.
std::vector<std::size_t> block_starts(std::span<const std::byte> bytes) {
  std::vector<std::size_t> starts = {sizeof(FileHeader)};
  while (starts.back() < bytes.size()) {
    BlockHeader header;
    std::memcpy(&header, bytes.data() + starts.back(), sizeof header);
    starts.push_back(starts.back() + sizeof header + header.bytes);
  }
  return starts;
}

TEST_F(FlightLogTest, WhatWasRecordedIsReadBack) {
  {
    const auto made = recorder(kNever);
    made->opened({.id = 5}, {.unit_ids = {"12", "7"},
                             .allow_missing_units = true,
                             .first_step = 40,
                             .drop_out_of_step = true});
    for (std::int64_t n = 40; n < 90; ++n) record_step(*made, 5, n);
    record_step(*made, 5, 90, false);
    Error lost{ErrorCode::unavailable, "gone", ""};
    StepAnswer answer;
    answer.session = 5;
    answer.sequence = 90;
    answer.status = StepStatus::refused;
    answer.error = &lost;
    made->answer(answer);
    made->closed(5, {});
  }
  const FlightLog log = read_flight_log(path_).value_or_throw();
  EXPECT_EQ(log.model.digest, "0123456789abcdef");
  EXPECT_EQ(log.model.backend, "cpu avx2");
  EXPECT_EQ(log.model.unit_ids, small_model().unit_ids);
  ASSERT_EQ(log.model.outputs.size(), 3U);
  EXPECT_EQ(log.model.outputs[2].unit, "N");
  EXPECT_EQ(log.model.bins_per_step, 4);
  EXPECT_EQ(log.gaps(), std::vector<std::string>{});
  ASSERT_EQ(log.sessions.size(), 1U);
  const RecordedSession& session = log.sessions[0];
  EXPECT_EQ(session.id, 5U);
  EXPECT_TRUE(session.is_closed);
  EXPECT_EQ(session.options.first_step, 40);
  EXPECT_TRUE(session.options.allow_missing_units);
  EXPECT_TRUE(session.options.drop_out_of_step);
  EXPECT_EQ(session.options.unit_ids, (std::vector<std::string>{"12", "7"}));
  ASSERT_EQ(session.steps.size(), 51U);
  for (std::int64_t n = 40; n < 90; ++n) {
    const RecordedStep& step = session.steps[static_cast<std::size_t>(n - 40)];
    EXPECT_EQ(step.sequence, n);
    EXPECT_EQ(events_of(step), events_at(n));
    const auto outputs = outputs_of(step);
    const auto expected = outputs_at(n);
    EXPECT_TRUE(
        std::ranges::equal(std::as_bytes(std::span(outputs)), std::as_bytes(std::span(expected))));
    EXPECT_EQ(step.submitted_ns, 1000 * n);
    EXPECT_EQ(step.finished_ns, 1000 * n + 7);
  }
  EXPECT_EQ(session.steps.back().error, ErrorCode::unavailable);
  EXPECT_EQ(session.steps.back().status, StepStatus::refused);
}

TEST_F(FlightLogTest, AnAnswerMayStandBeforeItsStep) {
  {
    const auto made = recorder(kNever);
    made->opened({.id = 1}, {});
    StepAnswer answer;
    answer.session = 1;
    const auto outputs = outputs_at(0);
    answer.behavior = outputs;
    made->answer(answer);
    made->step({.session = 1, .sequence = 0});
  }
  const FlightLog log = read_flight_log(path_).value_or_throw();
  ASSERT_EQ(log.sessions[0].steps.size(), 1U);
  EXPECT_TRUE(log.sessions[0].steps[0].answered);
  EXPECT_EQ(outputs_of(log.sessions[0].steps[0]), outputs_at(0));
}

TEST_F(FlightLogTest, CutAtAnyByteItLosesTheBlockThatIsCutAndSaysSo) {
  several_blocks(3);
  const auto bytes = bytes_of_file(path_);
  const auto starts = block_starts(bytes);
  ASSERT_GE(starts.size(), 6U) << "about, at least three blocks, and the end";
  const FlightLog whole = parse_flight_log(bytes, "the.log").value_or_throw();
  ASSERT_EQ(whole.sessions.size(), 2U);
  ASSERT_EQ(whole.sessions[0].steps.size(), 6U);
  EXPECT_EQ(whole.gaps(), std::vector<std::string>{});
  std::size_t most = 0;
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    const auto log = parse_flight_log(std::span(bytes).first(cut), "the.log");
    if (cut < starts[1]) {
      ASSERT_FALSE(log) << cut;
      EXPECT_EQ(log.error().code, ErrorCode::corrupt_data);
      continue;
    }
    ASSERT_TRUE(log) << cut << " " << log.error().message;
    const auto whole_blocks =
        std::upper_bound(starts.begin(), starts.end(), cut) - starts.begin() - 1;
    EXPECT_EQ(log->blocks, whole_blocks) << cut;
    const bool at_an_edge = std::find(starts.begin(), starts.end(), cut) != starts.end();
    EXPECT_EQ(log->cut.has_value(), !at_an_edge) << cut;
    ASSERT_EQ(log->gaps().size(), 1U) << cut;
    EXPECT_NE(log->gaps()[0].find(at_an_edge ? "has no end" : "cut off: block"), std::string::npos);
    if (log->cut) {
      EXPECT_NE(log->cut->find("at byte " +
                               std::to_string(starts[static_cast<std::size_t>(whole_blocks)])),
                std::string::npos)
          << *log->cut;
    }
    // What is there is what was written.
    for (std::size_t s = 0; s < log->sessions.size(); ++s) {
      const auto& steps = log->sessions[s].steps;
      if (cut < starts[starts.size() - 2]) most = std::max(most, steps.size());
      for (std::size_t i = 0; i < steps.size(); ++i)
        EXPECT_EQ(events_of(steps[i]), events_at(static_cast<std::int64_t>(i)));
    }
  }
  EXPECT_GE(most, 4U) << "no more than the last block is lost";
}

TEST_F(FlightLogTest, AnyByteChangedInTheMiddleIsRefusedWithItsPlace) {
  auto bytes = several_blocks(3);
  const auto starts = block_starts(bytes);
  const std::size_t last = starts[starts.size() - 2];
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    if (at >= offsetof(FileHeader, reserved) && at < sizeof(FileHeader)) continue;
    bytes[at] ^= std::byte{0x20};
    const auto log = parse_flight_log(bytes, "the.log");
    if (at < last) {
      ASSERT_FALSE(log) << at;
      EXPECT_EQ(log.error().code, ErrorCode::corrupt_data);
      if (at >= sizeof(FileHeader)) {
        const auto block = std::upper_bound(starts.begin(), starts.end(), at) - starts.begin() - 1;
        const std::string place = "the.log: block " + std::to_string(block) + " at byte " +
                                  std::to_string(starts[static_cast<std::size_t>(block)]) + ": ";
        EXPECT_EQ(log.error().message.rfind(place, 0), 0U) << at << " " << log.error().message;
      }
    } else {
      // Nothing tells a changed last block from one that was never synced.
      ASSERT_TRUE(log) << at;
      EXPECT_TRUE(log->cut) << at;
    }
    bytes[at] ^= std::byte{0x20};
  }
}

TEST_F(FlightLogTest, GarbageBehindTheLastBlockIsTheEndOfTheLog) {
  auto bytes = several_blocks(2);
  const auto blocks = parse_flight_log(bytes, "the.log").value_or_throw().blocks;
  std::mt19937 random(1);
  for (int i = 0; i < 5000; ++i) bytes.push_back(static_cast<std::byte>(random()));
  const auto log = parse_flight_log(bytes, "the.log");
  ASSERT_TRUE(log) << log.error().message;
  EXPECT_EQ(log->blocks, blocks);
  EXPECT_TRUE(log->cut);
}

TEST_F(FlightLogTest, ABlockThatIsMissingOrTwiceThereIsRefused) {
  const auto bytes = several_blocks(3);
  const auto starts = block_starts(bytes);
  const auto part = [&](std::size_t block) {
    return std::vector<std::byte>(bytes.begin() + static_cast<std::ptrdiff_t>(starts[block]),
                                  bytes.begin() + static_cast<std::ptrdiff_t>(starts[block + 1]));
  };
  std::vector<std::byte> missing(bytes.begin(),
                                 bytes.begin() + static_cast<std::ptrdiff_t>(starts[1]));
  std::vector<std::byte> twice = missing;
  for (const std::byte b : part(2)) missing.push_back(b);
  EXPECT_NE(error_of(missing).message.find("it says that it is block 2"), std::string::npos);
  for (const std::size_t block : {1, 1, 2})
    for (const std::byte b : part(block)) twice.push_back(b);
  EXPECT_NE(error_of(twice).message.find("it says that it is block 1"), std::string::npos)
      << error_of(twice).message;
}

TEST_F(FlightLogTest, NothingFollowsTheEnd) {
  several_blocks(1);
  auto bytes = bytes_of_file(path_);
  const auto blocks = static_cast<std::uint32_t>(block_starts(bytes).size() - 1);
  const RecordHeader end{sizeof(RecordHeader), Kind::end, 0};
  BlockHeader header{kBlockMagic, sizeof end, blocks, 0};
  const std::span<const std::byte> record = std::as_bytes(std::span(&end, 1));
  header.crc = block_crc(header, record.data());
  for (const auto part : {std::as_bytes(std::span(&header, 1)), record})
    bytes.insert(bytes.end(), part.begin(), part.end());
  EXPECT_NE(error_of(bytes).message.find("it comes after the log's end"), std::string::npos);
}

TEST_F(FlightLogTest, RecordsThatMakeNoSenseAreRefusedThoughTheirBlockIsWhole) {
  const auto bytes = several_blocks(1);
  const auto starts = block_starts(bytes);
  std::mt19937 random(5);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    // A block's records changed at random places, and its checksum made right again.
    auto changed = bytes;
    const std::size_t block = random() % (starts.size() - 1);
    const std::size_t begin = starts[block] + sizeof(BlockHeader);
    for (int i = 0; i < 1 + round % 4; ++i)
      changed[begin + random() % (starts[block + 1] - begin)] = static_cast<std::byte>(random());
    BlockHeader header;
    std::memcpy(&header, changed.data() + starts[block], sizeof header);
    header.crc = block_crc(header, changed.data() + begin);
    std::memcpy(changed.data() + starts[block], &header, sizeof header);
    const auto log = parse_flight_log(changed, "the.log");
    if (log) continue;
    ++refused;
    EXPECT_EQ(log.error().code, ErrorCode::corrupt_data);
    EXPECT_NE(log.error().message.find("byte"), std::string::npos) << log.error().message;
  }
  EXPECT_GT(refused, 300);
}

TEST_F(FlightLogTest, NumbersThatNoRecorderWritesAreRefused) {
  const auto bytes = several_blocks(1);
  const auto blocks = static_cast<std::uint32_t>(block_starts(bytes).size() - 1);
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  // What a block with these in it makes of the log.
  const auto with_lost = [&](const std::vector<std::int64_t>& lost) {
    std::vector<std::byte> records;
    const auto append = [](std::vector<std::byte>& to, const auto& value) {
      const auto* begin = reinterpret_cast<const std::byte*>(&value);
      to.insert(to.end(), begin, begin + sizeof value);
    };
    for (const std::int64_t n : lost) {
      append(records, RecordHeader{sizeof(RecordHeader) + sizeof(LostBody), Kind::lost, 0});
      append(records, LostBody{n});
    }
    BlockHeader header{kBlockMagic, static_cast<std::uint32_t>(records.size()), blocks, 0};
    header.crc = block_crc(header, records.data());
    auto whole = bytes;
    append(whole, header);
    whole.insert(whole.end(), records.begin(), records.end());
    return whole;
  };
  EXPECT_EQ(parse_flight_log(with_lost({3, 4}), "the.log").value_or_throw().lost, 7);
  for (const std::vector<std::int64_t>& wrong :
       {std::vector<std::int64_t>{kMost}, {-1}, {kMost / 4, kMost / 4}})
    EXPECT_NE(error_of(with_lost(wrong)).message.find("lost: "), std::string::npos);
}

TEST_F(FlightLogTest, WhatIsNoFlightLogIsNamed) {
  EXPECT_EQ(read_flight_log("/no/such.cortexlog").error().code, ErrorCode::not_found);
  std::ofstream(path_) << "";
  EXPECT_NE(read_flight_log(path_).error().message.find("it is empty"), std::string::npos);
  std::ofstream(path_) << "unit,time_s\n4,0.5\n";
  EXPECT_NE(read_flight_log(path_).error().message.find("not a flight log"), std::string::npos);
  EXPECT_FALSE(Recorder::create(path_, small_model(), {}, counters_)) << "it is there already";
  EXPECT_FALSE(Recorder::create("/no/such/folder/x", small_model(), {}, counters_));
}

TEST_F(FlightLogTest, WhatDoesNotFitIsCountedAndTheLogSaysSo) {
  constexpr std::int64_t kSteps = 20'000;
  {
    const auto made = recorder(kNever, 1 << 14);
    made->opened({.id = 1}, {});
    for (std::int64_t n = 0; n < kSteps; ++n) record_step(*made, 1, n);
  }
  const FlightLog log = read_flight_log(path_).value_or_throw();
  EXPECT_GT(counters_.written.value(), 0);
  EXPECT_GT(counters_.lost.value(), 0);
  EXPECT_EQ(counters_.written.value() + counters_.lost.value(), 2 * kSteps);
  EXPECT_EQ(log.lost, counters_.lost.value());
  EXPECT_LT(log.sessions[0].steps.size(), static_cast<std::size_t>(kSteps));
}

/// The largest size that a file of this process may have, until the end of the scope.
class FileLimit {
 public:
  explicit FileLimit(std::size_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit now = before_;
    now.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &now);
  }
  ~FileLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  rlimit before_{};
};

TEST_F(FlightLogTest, ADiskThatIsFullForAWhileLeavesAGapThatTheLogNames) {
  std::int64_t next = 0;
  {
    const auto made = recorder(kAtOnce);
    made->opened({.id = 1}, {});
    for (; next < 20; ++next) record_step(*made, 1, next);
    ASSERT_TRUE(eventually([&] { return counters_.written.value() == 40; }));
    {
      const FileLimit full(bytes_of_file(path_).size() + 100);
      made->opened({.id = 2}, {});
      ASSERT_TRUE(eventually([&] {
        record_step(*made, 1, next++);
        return counters_.failing == 1 && counters_.lost.value() > 0;
      }));
      EXPECT_EQ(parse_flight_log(bytes_of_file(path_), "the.log").value_or_throw().sessions.size(),
                1U)
          << "what was there is whole";
    }
    ASSERT_TRUE(eventually([&] {
      record_step(*made, 1, next++);
      return counters_.failing == 0;
    }));
    record_step(*made, 2, 0);
  }
  const FlightLog log = read_flight_log(path_).value_or_throw();
  EXPECT_FALSE(log.cut);
  EXPECT_EQ(log.lost, counters_.lost.value());
  EXPECT_EQ(counters_.written.value() + counters_.lost.value(), 2 * (next + 1));
  ASSERT_EQ(log.sessions.size(), 2U) << "that it opened is told when there is room";
  EXPECT_EQ(log.sessions[1].steps.size(), 1U);
  const auto& steps = log.sessions[0].steps;
  EXPECT_EQ(steps.back().sequence, next - 1);
  EXPECT_LT(static_cast<std::int64_t>(steps.size()), next);
}

}  // namespace
}  // namespace cortex::record
