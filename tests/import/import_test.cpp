#include "import/import.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <string>

#include "data/nwb.h"
#include "import/csv.h"
#include "import/nev.h"
#include "support/paths.h"

namespace cortex {
namespace {

template <class T>
void expect_error(const Result<T>& result, const std::string& what,
                  ErrorCode code = ErrorCode::corrupt_data) {
  ASSERT_FALSE(result) << what;
  EXPECT_EQ(result.error().code, code) << result.error().message;
  EXPECT_NE(result.error().message.find(what), std::string::npos) << result.error().message;
}

TEST(Csv, EventsInAnyOrderBecomeUnitsInTheOrderOfTheirIds) {
  const auto units =
      csv::read_events("\xEF\xBB\xBFtime_s, unit\r\n2.5,7\r\n\r\n1e-1,7\n0.25 , -3\n", "x.csv");
  ASSERT_TRUE(units) << units.error().message;
  ASSERT_EQ(units->size(), 2U);
  EXPECT_EQ((*units)[0].id, "-3");
  EXPECT_EQ((*units)[1].spike_times_s, (std::vector<double>{0.1, 2.5}));
}

TEST(Csv, WhatIsNoEventNamesLineAndColumn) {
  for (const auto& [text, what] : std::vector<std::pair<std::string, std::string>>{
           {"", "is empty"},
           {"unit,time_s\n", "no spikes"},
           {"unit,time\n1,2\n", "line 1: columns unit, time; expected unit and time_s"},
           {"unit,time_s,count\n1,2,3\n", "expected unit and time_s alone"},
           {"unit,unit\n1,2\n", "column 'unit' comes twice"},
           {"unit,,time_s\n", "column 2 has no name"},
           {"unit,time_s\n1,0.5\n1\n", "line 3: 1 cells, the header has 2"},
           {"unit,time_s\n1.5,0.5\n", "column 'unit': '1.5' is no integer"},
           {"unit,time_s\n1,0.5s\n", "column 'time_s': '0.5s' is no finite number"},
           {"unit,time_s\n1,inf\n", "'inf' is no finite number"},
           {"unit,time_s\n1,\n", "'' is no finite number"},
           {"unit,time_s\n99999999999999999999,1\n", "is no integer"}})
    expect_error(csv::read_events(text, "x.csv"), what);
}

TEST(Csv, BehaviorHasOneUnitAndAscendingTimes) {
  const auto series =
      csv::read_behavior("time_s,x[mm/s],y[mm/s]\n0,1,2\n0.5,,4\n", "v.csv", "hand_vel");
  ASSERT_TRUE(series) << series.error().message;
  EXPECT_EQ(series->unit, "mm/s");
  EXPECT_EQ(series->dims, 2U);
  EXPECT_TRUE(std::isnan(series->values[2]));
  EXPECT_EQ(series->values[3], 4);
  for (const auto& [text, what] : std::vector<std::pair<std::string, std::string>>{
           {"x[mm]\n1\n", "expected time_s"},
           {"time_s,x\n0,1\n", "column 'x' is not of the form NAME[UNIT]"},
           {"time_s,x[mm],y[cm]\n0,1,2\n", "column 'y[cm]' is in cm, the first in mm"},
           {"time_s,x[mm]\n0,1\n0,1\n", "line 3: time_s 0 is not after 0"},
           {"time_s,x[mm]\n0,one\n", "'one' is no finite number"},
           {"time_s,x[mm]\n", "no samples"}})
    expect_error(csv::read_behavior(text, "v.csv", "v"), what);
}

TEST(Csv, TrialsKeepTheirColumns) {
  const auto trials =
      csv::read_trials("start_s,stop_s,split,move_onset_time\n0,1,train,0.5\n1,2,val,\n", "t.csv");
  ASSERT_TRUE(trials) << trials.error().message;
  EXPECT_EQ((*trials)[0].columns.at("move_onset_time"), 0.5);
  EXPECT_TRUE(std::isnan((*trials)[1].columns.at("move_onset_time")));
  EXPECT_EQ((*trials)[1].split, "val");
  expect_error(csv::read_trials("start_s,stop_s\n2,1\n", "t.csv"), "stop_s 1 is before start_s 2");
  expect_error(csv::read_trials("start_s\n2\n", "t.csv"), "expected start_s, stop_s");
  expect_error(csv::read_trials("start_s,stop_s,kind\n1,2,left\n", "t.csv"), "column 'kind'");
}

/// A NEV file as Blackrock lays it out.
struct NevFile {
  bool wide = false;  // 3.0
  int major = 2, minor = 3;
  std::uint32_t packet = 104, ticks = 30'000;
  std::vector<std::string> extended;
  std::string packets;

  template <class T>
  static std::string raw(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static std::string padded(std::string text, std::size_t size) {
    text.resize(size, '\0');
    return text;
  }
  void header(const std::string& kind, const std::string& body = "") {
    extended.push_back(padded(padded(kind, 8) + body, 32));
  }
  void spike(std::uint64_t stamp, int electrode, int unit_class) {
    const std::string time = wide ? raw(stamp) : raw(static_cast<std::uint32_t>(stamp));
    packets += padded(
        time + raw(static_cast<std::uint16_t>(electrode)) + static_cast<char>(unit_class), packet);
  }
  std::string bytes() const {
    std::string out = wide ? "BREVENTS" : "NEURALEV";
    out += static_cast<char>(major);
    out += static_cast<char>(minor);
    out += raw(std::uint16_t{1});
    out += raw(static_cast<std::uint32_t>(336 + 32 * extended.size()));
    out += raw(packet) + raw(ticks) + raw(std::uint32_t{30'000});
    for (const int part : {2024, 2, 4, 29, 13, 14, 15, 160})
      out += raw(static_cast<std::uint16_t>(part));
    out += padded("app", 32) + padded("comment", 256);
    out += raw(static_cast<std::uint32_t>(extended.size()));
    for (const std::string& each : extended) out += each;
    return out + packets;
  }
  Result<Recording> read() const { return read_of(bytes()); }
  static Result<Recording> read_of(const std::string& text) {
    return read_nev(std::as_bytes(std::span(text.data(), text.size())), "x.nev");
  }
};

TEST(Nev, UnitsAreElectrodeAndClassAndTimesSeconds) {
  for (const auto& [minor, major, wide] :
       {std::tuple(2, 2, false), std::tuple(3, 2, false), std::tuple(0, 3, true)}) {
    NevFile file;
    file.wide = wide;
    file.major = major;
    file.minor = minor;
    file.header("ARRAYNME", "M1");
    file.header("NEUEVWAV", NevFile::raw(std::uint16_t{3}));
    file.header("NEUEVLBL");
    file.spike(30'000, 3, 1);
    file.spike(60'000, 96, 0);
    file.spike(59'900, 3, 1);
    file.spike(60'001, 3, 255);
    file.spike(90'000, 0, 0);      // digital
    file.spike(90'000, 65535, 0);  // comment
    const auto r = file.read();
    ASSERT_TRUE(r) << r.error().message;
    ASSERT_EQ(r->units.size(), 2U);
    EXPECT_EQ(r->units[0].id, "301");
    EXPECT_EQ(r->units[0].spike_times_s, (std::vector<double>{1.0, 59'900.0 / 30'000}));
    EXPECT_EQ(r->units[1].id, "9600");
    EXPECT_EQ(r->electrodes[static_cast<std::size_t>(*r->units[1].electrode)].id, 96);
    EXPECT_EQ(r->electrodes[0].group, "M1");
    EXPECT_EQ(r->session_start_time, "2024-02-29T13:14:15.160+00:00");
  }
}

TEST(Nev, AClockOfTheEpochStartsAtTheFirstSpike) {
  NevFile file;
  file.wide = true;
  file.major = 3;
  file.minor = 0;
  file.ticks = 1'000'000'000;
  const std::uint64_t now = 1'700'000'000'123'456'789;
  file.spike(now, 1, 0);
  file.spike(now + 250'000'000, 1, 0);
  const auto r = file.read();
  ASSERT_TRUE(r) << r.error().message;
  EXPECT_EQ(r->units[0].spike_times_s, (std::vector<double>{0, 0.25}));
}

TEST(Nev, WhatIsNotUnderstoodIsNamedWithItsByte) {
  NevFile good;
  good.spike(1, 1, 1);
  ASSERT_TRUE(good.read());
  const auto with = [&](auto change) {
    NevFile file = good;
    change(file);
    return file.read();
  };
  expect_error(with([](NevFile& f) { f.minor = 1; }), "byte 8: NEURALEV version 2.1",
               ErrorCode::unsupported);
  expect_error(with([](NevFile& f) { f.major = 3; }), "version 3.3", ErrorCode::unsupported);
  expect_error(with([](NevFile& f) { f.header("SURPRISE"); }),
               "byte 336: extended header 'SURPRISE' is not known", ErrorCode::unsupported);
  expect_error(with([](NevFile& f) { f.spike(2, 5000, 0); }), "packet with id 5000",
               ErrorCode::unsupported);
  expect_error(with([](NevFile& f) { f.spike(2, 7, 17); }), "electrode 7 has class 17");
  expect_error(with([](NevFile& f) { f.ticks = 0; }), "a clock of 0 Hz");
  expect_error(with([](NevFile& f) { f.packet = 7; }), "packets of 7 bytes");
  expect_error(with([](NevFile& f) { f.packet = 1u << 31; }), "packets of 2147483648 bytes");
  expect_error(with([](NevFile& f) { f.packets += "rest"; }), "the last packet has 4 of 104 bytes");
  expect_error(with([](NevFile& f) { f.packets.clear(); }), "no spikes");
  expect_error(with([](NevFile& f) {
                 f.spike(900'000, 1, 1);
                 f.spike(5, 1, 1);
               }),
               "the clock goes back from 900000 to 5");
  std::string bytes = good.bytes();
  bytes[12] = 1;
  expect_error(NevFile::read_of(bytes), "headers of");
  bytes = good.bytes();
  bytes[0] = 'X';
  expect_error(NevFile::read_of(bytes), "'XEURALEV'", ErrorCode::unsupported);
  bytes = good.bytes();
  bytes[30] = 13;
  expect_error(NevFile::read_of(bytes), "no date");
}

TEST(Nev, NoTruncationIsMistakenForAFile) {
  NevFile file;
  file.header("ARRAYNME");
  file.spike(1, 1, 1);
  const std::string whole = file.bytes();
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(NevFile::read_of(whole.substr(0, size))) << size;
}

TEST(Import, TablesBecomeARecordingThatNwbKeeps) {
  const testing::TempDir folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder.file(name)) << text;
    return folder.file(name);
  };
  ImportOptions options;
  options.behavior = {write("hand_vel.csv", "time_s,x[mm/s]\n0,1\n1,2\n")};
  options.trials = write("t.csv", "start_s,stop_s,split\n0,1,train\n");
  const std::string events = write("day1.CSV", "unit,time_s\n1,0.5\n");
  const auto r = import_recording(events, options);
  ASSERT_TRUE(r) << r.error().message;
  ASSERT_TRUE(write_nwb(folder.file("a.nwb"), *r));
  const Recording read = read_nwb(folder.file("a.nwb")).value_or_throw();
  EXPECT_EQ(read.identifier, "day1");
  EXPECT_EQ(read.units.size(), 1U);
  EXPECT_EQ(read.trials[0].split, "train");
  EXPECT_EQ(read.behavior[0].unit, "mm/s");
  options.behavior.push_back(options.behavior[0]);
  expect_error(import_recording(events, options), "a series 'hand_vel' already",
               ErrorCode::invalid_argument);
  expect_error(import_recording(write("a.txt", ""), {}), "'.txt' is not",
               ErrorCode::invalid_argument);
  expect_error(import_recording(folder.file("none.nev"), {}), "none.nev", ErrorCode::not_found);
}

}  // namespace
}  // namespace cortex
