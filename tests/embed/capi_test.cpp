#include <cortex/cortex.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

namespace {
std::atomic<int> allocations{0};
}  // namespace

#ifndef CORTEX_SANITIZED  // which has an allocator of its own
// What libcortex allocates on any thread is counted as well: it has no operators of its own.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* at = std::malloc(bytes != 0 ? bytes : 1)) return at;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* at) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, std::size_t) noexcept { std::free(at); }
#endif

namespace {

const std::string kModel = std::string(CORTEX_SOURCE_DIR) + "/models/stream-nano.safetensors";

class CApi : public ::testing::Test {
 protected:
  void SetUp() override {
    cortex_options options{};
    options.size = sizeof(options);
    options.device = "cpu";
    ASSERT_EQ(cortex_load(kModel.c_str(), &options, &engine_), CORTEX_OK) << cortex_error();
    ASSERT_EQ(cortex_open(engine_, nullptr, 0, &session_), CORTEX_OK) << cortex_error();
  }
  void TearDown() override {
    cortex_close(session_);
    cortex_free(engine_);
  }
  std::vector<cortex_event> events_of(std::int64_t step) const {
    const auto bin = step * cortex_bins_per_step(engine_);
    return {{static_cast<std::int32_t>(step * 7 % 90), 1, bin}, {3, 2, bin}};
  }
  std::vector<float> step(cortex_session* session, const std::vector<cortex_event>& events) {
    std::vector<float> y(cortex_output_count(engine_), -1e9F);
    EXPECT_EQ(cortex_step(session, events.data(), events.size(), y.data(), y.size()), CORTEX_OK)
        << cortex_error();
    return y;
  }

  cortex_engine* engine_ = nullptr;
  cortex_session* session_ = nullptr;
};

TEST_F(CApi, DescribesTheModel) {
  EXPECT_EQ(cortex_abi_version(), CORTEX_ABI_VERSION);
  ASSERT_EQ(cortex_output_count(engine_), 2U);
  EXPECT_STRNE(cortex_output_name(engine_, 0), "");
  EXPECT_STRNE(cortex_output_unit(engine_, 1), "");
  EXPECT_EQ(cortex_output_name(engine_, 2), nullptr);
  EXPECT_GT(cortex_unit_count(engine_), 90U);
  EXPECT_EQ(cortex_unit_id(engine_, cortex_unit_count(engine_)), nullptr);
  EXPECT_GT(cortex_bin_ms(engine_), 0);
}

TEST_F(CApi, SkippedStepsAreSilentOnes) {
  cortex_session* other = nullptr;
  ASSERT_EQ(cortex_open(engine_, nullptr, 0, &other), CORTEX_OK);
  for (std::int64_t s = 0; s < 5; ++s) {
    const auto events = events_of(s);
    EXPECT_EQ(step(session_, events), step(other, events));
  }
  for (int i = 0; i < 3; ++i) step(session_, {});
  ASSERT_EQ(cortex_skip(other, 3), CORTEX_OK);
  EXPECT_EQ(cortex_next_step(other), 8);
  EXPECT_EQ(step(session_, events_of(8)), step(other, events_of(8)));
  EXPECT_EQ(cortex_next_step(session_), cortex_next_step(other));
  cortex_close(other);
}

TEST_F(CApi, BadInputNamesTheValueAndTakesNothing) {
  const auto refused = [&](std::vector<cortex_event> events, const char* word,
                           cortex_status status = CORTEX_INVALID_ARGUMENT) {
    float y[2];
    EXPECT_EQ(cortex_step(session_, events.data(), events.size(), y, 2), status);
    EXPECT_NE(std::string(cortex_error()).find(word), std::string::npos) << cortex_error();
  };
  step(session_, events_of(0));
  refused({{100'000, 1, 4}}, "100000");
  refused({{1, 0, 4}}, "0");
  refused({{1, 1, 1'000'000}}, "1000000");
  float y[2];
  EXPECT_EQ(cortex_step(session_, nullptr, 3, y, 2), CORTEX_INVALID_ARGUMENT);
  EXPECT_EQ(cortex_step(session_, nullptr, 0, y, 1), CORTEX_INVALID_ARGUMENT);
  EXPECT_EQ(cortex_step(session_, nullptr, 0, nullptr, 2), CORTEX_INVALID_ARGUMENT);
  EXPECT_EQ(cortex_step(nullptr, nullptr, 0, y, 2), CORTEX_INVALID_ARGUMENT);
  EXPECT_EQ(cortex_skip(session_, -1), CORTEX_INVALID_ARGUMENT);
  EXPECT_EQ(cortex_next_step(session_), 1);
  cortex_session* other = nullptr;
  ASSERT_EQ(cortex_open(engine_, nullptr, 0, &other), CORTEX_OK);
  step(other, events_of(0));
  EXPECT_EQ(step(session_, events_of(1)), step(other, events_of(1)));
  cortex_close(other);
  const char* unknown[] = {"no such unit"};
  EXPECT_EQ(cortex_open(engine_, unknown, 1, &other), CORTEX_INVALID_ARGUMENT);
  EXPECT_EQ(other, nullptr);
  EXPECT_NE(std::string(cortex_error()).find("no such unit"), std::string::npos);
}

TEST_F(CApi, AStepAllocatesNothing) {
#ifdef CORTEX_SANITIZED
  GTEST_SKIP() << "allocations are not counted under a sanitizer";
#endif
  std::vector<std::vector<cortex_event>> steps;
  for (std::int64_t s = 0; s < 200; ++s) steps.push_back(events_of(s));
  std::vector<float> y(cortex_output_count(engine_));
  const auto run = [&](std::size_t from, std::size_t to) {
    for (std::size_t s = from; s < to; ++s)
      ASSERT_EQ(cortex_step(session_, steps[s].data(), steps[s].size(), y.data(), y.size()),
                CORTEX_OK);
  };
  run(0, 100);
  const int before = allocations;
  run(100, 200);
  EXPECT_EQ(allocations - before, 0);
  cortex_session* other = nullptr;
  ASSERT_EQ(cortex_open(engine_, nullptr, 0, &other), CORTEX_OK);
  EXPECT_GT(allocations - before, 0) << "the library's allocations are not counted";
  cortex_close(other);
}

TEST(CApiLoad, WhatIsNoModelIsAnErrorThatNamesIt) {
  cortex_engine* engine = nullptr;
  EXPECT_EQ(cortex_load("/no/such/file.safetensors", nullptr, &engine), CORTEX_NOT_FOUND);
  EXPECT_NE(std::string(cortex_error()).find("/no/such/file"), std::string::npos);
  EXPECT_EQ(engine, nullptr);
  EXPECT_EQ(cortex_load("identity-window", nullptr, &engine), CORTEX_UNSUPPORTED);
  EXPECT_EQ(cortex_load(nullptr, nullptr, &engine), CORTEX_INVALID_ARGUMENT);
  EXPECT_EQ(cortex_load(kModel.c_str(), nullptr, nullptr), CORTEX_INVALID_ARGUMENT);
  cortex_options options{};
  options.size = 3;
  EXPECT_EQ(cortex_load(kModel.c_str(), &options, &engine), CORTEX_INVALID_ARGUMENT);
  options.size = sizeof(options);
  options.max_sessions = -1;
  EXPECT_EQ(cortex_load(kModel.c_str(), &options, &engine), CORTEX_INVALID_ARGUMENT);
  cortex_free(nullptr);
  cortex_close(nullptr);
}

}  // namespace
