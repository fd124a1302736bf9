#include "model/identity_model.h"

#include <gtest/gtest.h>

namespace cortex {
namespace {

StreamBatch one_step(std::int64_t step, std::vector<std::array<std::int32_t, 3>> earlier,
                     std::vector<std::array<std::int32_t, 3>> present) {
  StreamBatch batch;
  batch.reserve(1, 16, 1);
  batch.clear();
  const auto add = [&](const auto& events) {
    for (const auto& [unit, value, offset] : events) {
      batch.unit.push_back(unit);
      batch.value.push_back(value);
      batch.offset.push_back(offset);
    }
  };
  add(earlier);
  batch.present.push_back(static_cast<std::int32_t>(batch.unit.size()));
  add(present);
  batch.indptr.push_back(static_cast<std::int32_t>(batch.unit.size()));
  batch.step.push_back(step);
  batch.steps = 1;
  return batch;
}

std::vector<float> run(const StreamBatch& batch) {
  IdentityStream model(1);
  const auto y = model.forward(batch);
  return {y.begin(), y.end()};
}

TEST(IdentityModel, CountsTheSpikesOfThePresentStep) {
  EXPECT_EQ(run(one_step(4, {{1, 9, 5}}, {{2, 3, 0}, {5, 1, 1}}))[0], 4);
  EXPECT_EQ(run(one_step(4, {}, {}))[0], 0);
}

TEST(IdentityModel, ItsMixTellsStepsAndEventsApart) {
  const float plain = run(one_step(4, {{1, 1, 5}}, {{2, 1, 0}}))[1];
  EXPECT_EQ(plain, run(one_step(4, {{1, 1, 5}}, {{2, 1, 0}}))[1]);
  EXPECT_NE(plain, run(one_step(5, {{1, 1, 5}}, {{2, 1, 0}}))[1]);
  EXPECT_NE(plain, run(one_step(4, {}, {{2, 1, 0}}))[1]);
  EXPECT_NE(plain, run(one_step(4, {{1, 1, 5}}, {{3, 1, 0}}))[1]);
  EXPECT_NE(plain, run(one_step(4, {{1, 1, 5}}, {{2, 2, 0}}))[1]);
  EXPECT_NE(plain, run(one_step(4, {{1, 1, 5}}, {{2, 1, 1}}))[1]);
  EXPECT_LT(plain, 1 << 24);  // a whole number that float32 holds
}

TEST(IdentityModel, WindowsOfABatchDoNotMeet) {
  WindowBatch batch;
  batch.neuron = {3, 4, 3};
  batch.bin = {7, 8, 7};
  batch.value = {1, 2, 1};
  batch.indptr = {0, 1, 2, 3};
  batch.window_bins = {100, 100, 100};
  IdentityWindow model(3);
  const auto y = model.forward(batch);
  ASSERT_EQ(y.size(), 6U);
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[2], 2);
  EXPECT_EQ(y[1], y[5]);
  EXPECT_NE(y[1], y[3]);
}

TEST(IdentityModel, IsAskedForByNameAlone) {
  EXPECT_TRUE(is_identity_name("identity"));
  EXPECT_TRUE(is_identity_name("identity-window"));
  EXPECT_FALSE(is_identity_name("./identity"));
  EXPECT_FALSE(is_identity_name(""));
}

}  // namespace
}  // namespace cortex
