#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <future>
#include <thread>

#include "engine_fixture.h"

namespace cortex::testing {
namespace {

using Steps = std::vector<std::vector<Event>>;

std::vector<std::vector<float>> stream(Engine& engine, std::int64_t first_step,
                                       const Steps& steps) {
  const auto session = engine.open_session({.first_step = first_step}).value_or_throw();
  std::vector<std::vector<float>> out;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    auto answer = engine.step({.session = session.id,
                               .sequence = first_step + static_cast<std::int64_t>(i),
                               .events = steps[i]});
    out.push_back(std::move(answer).value_or_throw().behavior);
  }
  (void)engine.close_session(session.id);
  return out;
}

/// Largest difference over the largest oracle output, or over an output's standard deviation where
/// that is larger: what the head adds up is of that size, even where little is left of it. (A
/// stream of a single step may come out near 0. Float32's rounding then is some 1e-5 of that
/// output, with the reference backend, which sums in float64, as well.)
double relative_error(const ModelFile& model, const std::vector<std::vector<float>>& got,
                      const std::vector<std::vector<double>>& want) {
  double error = 0;
  const auto std = model.at("output.std").f32();
  double scale = *std::max_element(std.begin(), std.end());
  for (std::size_t s = 0; s < want.size(); ++s) {
    for (std::size_t o = 0; o < want[s].size(); ++o) {
      error = std::max(error, std::abs(got[s][o] - want[s][o]));
      scale = std::max(scale, std::abs(want[s][o]));
    }
  }
  return error / scale;
}

Steps random_steps(std::uint64_t seed, const ModelConfig& config, std::int64_t first_step, int n,
                   double density) {
  std::mt19937_64 random(seed);
  Steps steps;
  for (int i = 0; i < n; ++i) {
    const bool silent = std::uniform_int_distribution<>(0, 4)(random) == 0;
    steps.push_back(random_step(random, config, first_step + i, silent ? 0.0 : density));
  }
  return steps;
}

RC_GTEST_PROP(StreamExactness, StreamingEqualsTheFullRunUnderTheBandMask, ()) {
  ModelConfig config = tiny_stream_config();
  config.latents = *rc::gen::inRange(1, 4);
  config.receptive_steps = *rc::gen::inRange(1, 6);
  config.window_steps = *rc::gen::inRange(1, 12);
  config.layers = *rc::gen::inRange(1, 4);
  const auto seed = *rc::gen::arbitrary<std::uint32_t>();
  const auto first = *rc::gen::element<std::int64_t>(0, 1, 17, 250'000'000, kNoDeadline >> 24);
  const ModelFile model = lively_stream_model(config, seed);
  const TemporaryModel file(model);
  const auto engine = make_engine(file);
  const Steps steps = random_steps(seed, config, first, *rc::gen::inRange(1, 40),
                                   *rc::gen::element(0.5, 6.0, 20.0));
  const double error =
      relative_error(model, stream(*engine, first, steps), run_oracle(model, first, steps));
  RC_LOG() << "relative error " << error;
  RC_ASSERT(error < 1e-5);
}

TEST(StreamExactness, AtBin1e9TheAnswerIsAsGoodAsAtBin0) {
  const ModelConfig config = tiny_stream_config();
  const ModelFile model = lively_stream_model(config, 5);
  const TemporaryModel file(model);
  const auto engine = make_engine(file);
  const std::int64_t far = 1'000'000'000 / config.bins_per_step();
  const Steps near_steps = random_steps(9, config, 0, 30, 6);
  Steps far_steps = near_steps;
  for (auto& step : far_steps)
    for (Event& e : step) e.bin += far * config.bins_per_step();
  const auto far_out = stream(*engine, far, far_steps);
  EXPECT_LT(relative_error(model, far_out, run_oracle(model, far, far_steps)), 1e-5);
  // Only differences of time matter, so the two runs agree with each other as well.
  EXPECT_LT(relative_error(model, far_out, run_oracle(model, 0, near_steps)), 1e-5);
}

TEST(StreamExactness, ABurstOf2000EventsInAStepIsExact) {
  ModelConfig config = tiny_stream_config();
  config.units.clear();
  for (int u = 0; u < 600; ++u) config.units.push_back({"u" + std::to_string(u), "s", {}, 1.0});
  const ModelFile model = lively_stream_model(config, 6);
  const TemporaryModel file(model);
  const auto engine = make_engine(file);
  Steps steps = random_steps(3, config, 0, 12, 8);
  std::mt19937_64 random(4);
  do {
    steps[5] = random_step(random, config, 5, 2000);
  } while (steps[5].size() < 2000);
  EXPECT_LT(relative_error(model, stream(*engine, 0, steps), run_oracle(model, 0, steps)), 1e-5);
}

TEST(StreamExactness, StreamsOfEmptyStepsAloneAreExact) {
  const ModelFile model = lively_stream_model(tiny_stream_config(), 7);
  const TemporaryModel file(model);
  const auto engine = make_engine(file);
  const Steps steps(25);
  EXPECT_LT(relative_error(model, stream(*engine, 0, steps), run_oracle(model, 0, steps)), 1e-5);
}

TEST(StreamExactness, UnitsNeverSeenBeforeAreExactFromTheirFirstSpike) {
  const ModelConfig config = tiny_stream_config();
  const ModelFile model = lively_stream_model(config, 8);
  const TemporaryModel file(model);
  const auto engine = make_engine(file);
  Steps steps(20);
  for (std::int64_t s = 0; s < 20; ++s) {
    steps[s].push_back({0, 1, s * 4});
    if (s >= 15) steps[s].push_back({8, 3, s * 4 + 1});
  }
  EXPECT_LT(relative_error(model, stream(*engine, 0, steps), run_oracle(model, 0, steps)), 1e-5);
}

bool same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i].size() != b[i].size() ||
        std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0)
      return false;
  return true;
}

RC_GTEST_PROP(StreamExactness, AStreamHasTheSameBitsAloneAndInAnyBatch, ()) {
  ModelConfig config = tiny_stream_config();
  config.latents = *rc::gen::inRange(1, 4);
  const auto seed = *rc::gen::arbitrary<std::uint32_t>();
  const int streams = *rc::gen::inRange(2, 9);
  const int n = *rc::gen::inRange(1, 25);
  const TemporaryModel file(lively_stream_model(config, seed));
  const auto alone = make_engine(file, 8, 1);
  const auto together = make_engine(file, 8, *rc::gen::inRange(2, 9));
  std::vector<std::future<std::vector<std::vector<float>>>> running;
  std::vector<Steps> inputs;
  for (int i = 0; i < streams; ++i)
    inputs.push_back(random_steps(seed + static_cast<std::uint64_t>(i), config, i * 1000, n, 6));
  for (int i = 0; i < streams; ++i)
    running.push_back(
        std::async(std::launch::async, [&, i] { return stream(*together, i * 1000, inputs[i]); }));
  for (int i = 0; i < streams; ++i)
    RC_ASSERT(same_bits(running[i].get(), stream(*alone, i * 1000, inputs[i])));
}

TEST(StreamExactness, BitsDoNotDependOnTheOrderOrTheSplittingOfEvents) {
  const ModelConfig config = tiny_stream_config();
  const TemporaryModel file(lively_stream_model(config, 11));
  const auto engine = make_engine(file);
  const Steps steps = random_steps(12, config, 0, 20, 12);
  Steps shuffled = steps;
  std::mt19937_64 random(1);
  for (auto& step : shuffled) {
    std::vector<Event> pieces;
    for (const Event& e : step)
      for (int i = 0; i < e.value; ++i) pieces.push_back({e.unit, 1, e.bin});
    std::shuffle(pieces.begin(), pieces.end(), random);
    step = pieces;
  }
  EXPECT_TRUE(same_bits(stream(*engine, 0, steps), stream(*engine, 0, shuffled)));
}

TEST(StreamExactness, AGapHasTheBitsOfAsManyEmptySteps) {
  const ModelConfig config = tiny_stream_config();
  const TemporaryModel file(lively_stream_model(config, 13));
  const auto engine = make_engine(file);
  for (const int gap : {1, 5, 13, 14, 60, 500}) {
    Steps steps = random_steps(14, config, 0, 10, 8);
    Steps after = random_steps(15, config, 10 + gap, 10, 8);
    Steps all = steps;
    all.resize(static_cast<std::size_t>(10 + gap));
    all.insert(all.end(), after.begin(), after.end());
    const auto want = stream(*engine, 0, all);

    const auto session = engine->open_session({}).value_or_throw();
    std::vector<std::vector<float>> got;
    for (std::size_t i = 0; i < 20; ++i) {
      const bool first_after = i == 10;
      const auto sequence = static_cast<std::int64_t>(i) + (i >= 10 ? gap : 0);
      got.push_back(engine
                        ->step({.session = session.id,
                                .sequence = sequence,
                                .gap = first_after ? gap : 0,
                                .events = all[static_cast<std::size_t>(sequence)]})
                        .value_or_throw()
                        .behavior);
    }
    (void)engine->close_session(session.id);
    for (std::size_t i = 0; i < 10; ++i) {
      const std::vector<std::vector<float>> a = {got[10 + i]};
      EXPECT_TRUE(same_bits(a, {want[10 + static_cast<std::size_t>(gap) + i]}))
          << "gap " << gap << ", step " << i << " after it";
    }
  }
}

TEST(StreamExactness, AStatelessDecodeEqualsTheLastStepOfAFreshSession) {
  const ModelConfig config = tiny_stream_config();
  const TemporaryModel file(lively_stream_model(config, 16));
  const auto engine = make_engine(file);
  for (const int n : {1, 3, 40}) {
    const Steps steps = random_steps(17, config, 0, n, 8);
    std::vector<Event> all;
    for (const auto& step : steps) all.insert(all.end(), step.begin(), step.end());
    all.push_back({0, 1, (n - 1) * 4 + 3});
    Steps with_last = steps;
    with_last.back().push_back({0, 1, (n - 1) * 4 + 3});
    std::vector<std::vector<float>> got = {
        engine->decode({.events = all}).value_or_throw().behavior};
    EXPECT_TRUE(same_bits(got, {stream(*engine, 0, with_last).back()}));
  }
}

}  // namespace
}  // namespace cortex::testing
