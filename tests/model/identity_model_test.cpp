#include "model/identity_model.h"

#include <gtest/gtest.h>

namespace cortex {
namespace {

using Events = std::vector<std::array<std::int32_t, 3>>;  // unit, value, offset

struct Step {
  std::int64_t number;
  Events earlier;
  Events present;
};

Step one_step(std::int64_t number, Events earlier, Events present) {
  return {number, std::move(earlier), std::move(present)};
}

std::vector<float> run(const Step& step) {
  constexpr std::int64_t kEnd = 1'000;
  IdentityStream model(1);
  model.batch().clear();
  for (const Events* events : {&step.earlier, &step.present}) {
    std::vector<Event> bins;
    for (const auto& [unit, value, offset] : *events)
      bins.push_back({unit, value, kEnd - 1 - offset});
    model.batch().add_events(bins, kEnd);
  }
  model.batch().add_step(step.number, std::array<std::int32_t, 1>{0}, 0, 1);
  const auto y = model.forward();
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
  IdentityWindow model(3, 3);
  WindowBatch& batch = model.begin_batch(3, 3);
  for (const Event& e : {Event{3, 1, 7}, Event{4, 2, 8}, Event{3, 1, 7}})
    batch.add_window({&e, 1}, 100);
  const auto y = model.forward();
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
