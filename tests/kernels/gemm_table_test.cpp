#include "kernels/cuda/gemm_table.h"

#include <gtest/gtest.h>

#include <fstream>

#include "kernels/backend.h"
#include "support/paths.h"

namespace cortex::cuda {
namespace {

constexpr GemmTableEntry kSmall = {
    GemmType::kBf16, GemmEpilogue::kAddNarrow, 256, 512, 512, kSmall64x64, 4};
constexpr GemmTableEntry kLarge = {
    GemmType::kBf16, GemmEpilogue::kAddNarrow, 1024, 512, 512, kPair64x128, 1};

GemmSm90Config config_at(const GemmTable& table, int m, int n = 512, int k = 512) {
  const GemmTableEntry* const found =
      table.find(GemmType::kBf16, GemmEpilogue::kAddNarrow, m, n, k);
  return found ? found->config : kGemmSm90Configs;
}

TEST(GemmTable, AnEntryServesItsRowsAndDownToHalf) {
  const GemmTable table({kLarge, kSmall});
  EXPECT_EQ(config_at(table, 256), kSmall64x64);
  EXPECT_EQ(config_at(table, 129), kSmall64x64);
  EXPECT_EQ(config_at(table, 128), kGemmSm90Configs);
  EXPECT_EQ(config_at(table, 1024), kPair64x128);
  EXPECT_EQ(config_at(table, 513), kPair64x128);
  EXPECT_EQ(config_at(table, 512), kGemmSm90Configs);
  EXPECT_EQ(config_at(table, 257), kGemmSm90Configs);
  EXPECT_EQ(config_at(table, 1025), kGemmSm90Configs);
}

TEST(GemmTable, ColumnsInputsTypeAndEpilogueAreExact) {
  const GemmTable table({kSmall});
  EXPECT_EQ(config_at(table, 256, 448), kGemmSm90Configs);
  EXPECT_EQ(config_at(table, 256, 512, 448), kGemmSm90Configs);
  EXPECT_EQ(table.find(GemmType::kInt8, GemmEpilogue::kAddNarrow, 256, 512, 512), nullptr);
  EXPECT_EQ(table.find(GemmType::kBf16, GemmEpilogue::kAdd, 256, 512, 512), nullptr);
}

TEST(GemmTable, EveryShippedEntryRunsAndIsFound) {
  const GemmTable& table = shipped_gemm_table();
  ASSERT_FALSE(table.entries().empty());
  for (const GemmTableEntry& e : table.entries()) {
    EXPECT_TRUE(runs(e)) << e.m << " " << e.n << " " << e.k;
    EXPECT_EQ(table.find(e.type, e.epilogue, e.m, e.n, e.k), &e) << e.m << " " << e.n;
  }
}

TEST(GemmTable, TheTilingOfStreamsIsNoCandidate) {
  const auto all = candidates(kSmall);
  EXPECT_GE(all.size(), 6U);
  for (const GemmTableEntry& e : all) {
    EXPECT_NE(e.config, kPair64x128Chain);
    EXPECT_TRUE(runs(e));
  }
}

class GemmTableFile : public ::testing::Test {
 protected:
  Result<GemmTable> load(const std::string& text) {
    std::ofstream(path_) << text;
    return load_gemm_table(path_);
  }
  static std::string entry(const std::string& from = "", const std::string& to = "") {
    std::string text = R"({"type": "bf16", "epilogue": "store", "m": 256, "n": 1536, "k": 512, )"
                       R"("tiling": "small_64x64", "split": 2})";
    if (!from.empty()) text.replace(text.find(from), from.size(), to);
    return text;
  }
  /// Of a table whose second entry is `second`.
  std::string error_of(const std::string& second) {
    const auto table = load("{\"entries\": [" + entry("256", "128") + ", " + second + "]}");
    if (table) return "no error";
    EXPECT_EQ(table.error().code, ErrorCode::corrupt_data);
    EXPECT_EQ(table.error().message.rfind(path_, 0), 0U) << table.error().message;
    return table.error().message.substr(path_.size());
  }

  testing::TempDir folder_;
  std::string path_ = folder_.file("table.json");
};

TEST_F(GemmTableFile, WhatIsWrittenIsRead) {
  const GemmTable& shipped = shipped_gemm_table();
  const auto read = load(gemm_table_json(shipped, "cuda:0 \"card\""));
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->entries().size(), shipped.entries().size());
  EXPECT_EQ(gemm_table_source(*read, ""), gemm_table_source(shipped, ""));
}

TEST_F(GemmTableFile, AnErrorNamesTheEntryAndTheField) {
  EXPECT_EQ(error_of(entry()), "no error");
  EXPECT_EQ(error_of("7"), ": entries[1] is not an object");
  EXPECT_EQ(error_of(entry("bf16", "fp64")),
            ": entries[1]: 'type' is 'fp64', not one of bf16, e4m3, int8");
  EXPECT_EQ(error_of(entry("\"n\"", "\"columns\"")), ": entries[1]: 'n' is missing");
  EXPECT_EQ(error_of(entry("1536", "1500")), ": entries[1]: 'n' is 1500, not a multiple of 64");
  EXPECT_EQ(error_of(entry("256", "0")), ": entries[1]: 'm' is 0, not in 1 to 16777216");
  EXPECT_EQ(error_of(entry("512", "\"512\"")), ": entries[1]: 'k' is not a whole number");
  EXPECT_EQ(error_of(entry("store", "gelu_e4m3")),
            ": entries[1]: 'epilogue' is 'gelu_e4m3', which is of type e4m3 alone");
  EXPECT_NE(
      error_of(entry("small_64x64", "pair_64x128_chain")).find("'tiling' is 'pair_64x128_chain'"),
      std::string::npos);
  EXPECT_EQ(error_of(entry("small_64x64", "pair_64x128")),
            ": entries[1]: 'tiling' is 'pair_64x128' with 'split' 2, which does not run 1536 "
            "columns of 512 inputs");
  EXPECT_EQ(error_of(entry("256", "128")), ": two entries of bf16 store m 128 n 1536 k 512");
}

TEST_F(GemmTableFile, AFileThatIsNoTableIsNamed) {
  for (const char* text : {"", "[]", "{\"entries\": 3}", "{}", "{\"entries\": ["}) {
    const auto table = load(text);
    ASSERT_FALSE(table) << text;
    EXPECT_NE(table.error().message.find(path_), std::string::npos) << table.error().message;
  }
  const auto missing = load_gemm_table(folder_.file("none.json"));
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message.find("none.json"), std::string::npos);
}

TEST_F(GemmTableFile, ABackendReadsItsTableOrSaysWhyNot) {
  std::ofstream(path_) << "{\"entries\": [" << entry() << "]}";
  ASSERT_TRUE(make_backend("cpu", {}, {.gemm_table = path_}));
  ASSERT_EQ(gemm_table().entries().size(), 1U);
  std::ofstream(path_) << "{\"entries\": [4]}";
  const auto refused = make_backend("cpu", {}, {.gemm_table = path_});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, path_ + ": entries[0] is not an object");
  EXPECT_EQ(gemm_table().entries().size(), 1U) << "a bad file replaced the table";
  use_gemm_table(shipped_gemm_table());
}

}  // namespace
}  // namespace cortex::cuda
