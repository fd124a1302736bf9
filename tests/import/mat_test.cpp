#include "import/mat.h"

#include <gtest/gtest.h>
#include <matio.h>

#include <fstream>
#include <string>

#include "support/paths.h"

namespace cortex {
namespace {

/// A file of the variables that a good one has, changed by each test.
class MatFile : public ::testing::Test {
 protected:
  void SetUp() override { file_ = Mat_CreateVer(path_.c_str(), nullptr, MAT_FT_MAT5); }

  matvar_t* numbers(const char* name, std::vector<double> values, std::size_t rows,
                    std::size_t columns) {
    std::size_t dims[] = {rows, columns};
    return Mat_VarCreate(name, MAT_C_DOUBLE, MAT_T_DOUBLE, 2, dims, values.data(), 0);
  }
  void put(matvar_t* variable) {
    Mat_VarWrite(file_, variable, MAT_COMPRESSION_ZLIB);
    Mat_VarFree(variable);
  }
  void put_text(const char* name, std::string text) {
    std::size_t dims[] = {1, text.size()};
    put(Mat_VarCreate(name, MAT_C_CHAR, MAT_T_UTF8, 2, dims, text.data(), 0));
  }
  void put_spikes() {
    matvar_t* cells[] = {numbers(nullptr, {0.5, 0.25}, 1, 2), numbers(nullptr, {1}, 1, 1)};
    std::size_t dims[] = {2, 1};
    put(Mat_VarCreate("spikes", MAT_C_CELL, MAT_T_CELL, 2, dims, cells, 0));
  }
  Result<Recording> read(const std::vector<std::string>& ignore = {}) {
    Mat_Close(file_);
    return read_mat(path_, ignore);
  }
  void expect_error(const std::string& what, ErrorCode code = ErrorCode::corrupt_data) {
    const auto result = read();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, code);
    EXPECT_NE(result.error().message.find(what), std::string::npos) << result.error().message;
  }

  testing::TempDir folder_;
  const std::string path_ = folder_.file("a.mat");
  mat_t* file_ = nullptr;
};

TEST_F(MatFile, VariablesBecomeUnitsBehaviorAndTrials) {
  put_spikes();
  put(numbers("unit_ids", {7, 9}, 2, 1));
  put(numbers("time", {0, 1, 2}, 3, 1));
  put(numbers("hand_vel", {1, 2, 3, 4, 5, 6}, 3, 2));
  put_text("hand_vel_unit", "mm/s");
  put(numbers("trials", {0, 1, 1, 2}, 2, 2));
  put(numbers("split", {0, 1}, 2, 1));
  const auto r = read();
  ASSERT_TRUE(r) << r.error().message;
  EXPECT_EQ(r->units[0].id, "7");
  EXPECT_EQ(r->units[0].spike_times_s, (std::vector<double>{0.25, 0.5}));
  EXPECT_EQ(r->behavior[0].values, (std::vector<float>{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(r->behavior[0].unit, "mm/s");
  EXPECT_EQ(r->trials[1].span.stop_s, 2);
  EXPECT_EQ(r->trials[1].split, "val");
}

TEST_F(MatFile, AnUnknownVariableIsNamedUnlessIgnored) {
  put_spikes();
  put(numbers("lfp", {1}, 1, 1));
  expect_error("variable 'lfp' is not understood", ErrorCode::unsupported);
  EXPECT_TRUE(read_mat(path_, {"lfp"}));
}

TEST_F(MatFile, WithoutSpikesThereIsNothing) {
  put(numbers("time", {1}, 1, 1));
  expect_error("no variable 'spikes'");
}

TEST_F(MatFile, SpikesThatAreNoCellsAreRefused) {
  put(numbers("spikes", {1}, 1, 1));
  expect_error("variable 'spikes' is no cell array");
}

TEST_F(MatFile, ASeriesOfAnotherLengthThanTimeIsRefused) {
  put_spikes();
  put(numbers("time", {0, 1}, 2, 1));
  put(numbers("hand_vel", {1, 2, 3}, 3, 1));
  put_text("hand_vel_unit", "mm/s");
  expect_error("variable 'hand_vel' is 3 x 1 for 2 elements of 'time'");
}

TEST_F(MatFile, ASeriesWithoutItsUnitIsRefused) {
  put_spikes();
  put(numbers("time", {0, 1}, 2, 1));
  put(numbers("hand_vel", {1, 2}, 2, 1));
  expect_error("'hand_vel_unit'");
}

TEST_F(MatFile, TimesThatDoNotAscendAreNamed) {
  put_spikes();
  put(numbers("time", {0, 0}, 2, 1));
  expect_error("does not ascend at element 2");
}

TEST_F(MatFile, WhatIsNoMatlabFileIsRefused) {
  Mat_Close(file_);
  for (const std::string text : {"", "not a file", "MATLAB 5.0 MAT-file but not more than that"}) {
    std::ofstream(path_) << text;
    EXPECT_FALSE(read_mat(path_, {})) << text;
  }
  EXPECT_FALSE(read_mat(folder_.file("none.mat"), {}));
}

}  // namespace
}  // namespace cortex
