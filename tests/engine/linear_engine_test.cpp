// Ridge and Kalman decoders behind the engine's sessions, against their formulas.
#include <gtest/gtest.h>

#include <map>

#include "engine_fixture.h"
#include "model/linear_model.h"

namespace cortex {
namespace {

using testing::make_engine;
using testing::random_step;
using testing::TemporaryModel;

ModelConfig linear_config(ModelKind kind) {
  ModelConfig c;
  c.kind = kind;
  c.preset = to_string(kind);
  c.set_linear_shape();
  c.bin_ms = 5;
  c.step_ms = 20;
  c.value_buckets = 4;
  c.output_names = {"x", "y"};
  c.output_units = {"mm/s", "mm/s"};
  for (int u = 0; u < 7; ++u) c.units.push_back({"u" + std::to_string(u), "", {}, 0});
  if (kind == ModelKind::ridge) {
    c.receptive_steps = 9;
  } else {
    c.dim = c.head_dim = 3;
    c.window_steps = 300;
    c.skip_empty_steps = true;
  }
  return c;
}

ModelFile linear_model(ModelKind kind) {
  ModelFile file = random_model(linear_config(kind), 5);
  for (auto& [name, tensor] : file.tensors) {
    std::uint32_t state = static_cast<std::uint32_t>(name.size());
    for (float& v : tensor.f32()) {
      state = state * 1664525u + 1013904223u;
      v = static_cast<float>(state >> 8) * 0x1p-24F - 0.5F;
    }
  }
  for (const char* name : {"kalman.predict", "kalman.update"})
    if (file.tensors.contains(name)) {
      const auto m = file.tensors.at(name).f32();
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) m[i * 3 + j] = (i == j ? 0.8F : 0.05F) - (i > j ? 0.1F : 0.0F);
    }
  return file;
}

/// The definition, over all steps since the session began.
class Plain {
 public:
  explicit Plain(const ModelFile& file) : file_(file) {}

  std::vector<double> step(const std::vector<Event>& events) {
    const ModelConfig& c = file_.config;
    std::vector<double> counts(c.units.size(), 0);
    for (const Event& e : events) counts[static_cast<std::size_t>(e.unit)] += e.value;
    history_.push_back(counts);
    std::vector<double> y(2, 0);
    if (c.kind == ModelKind::ridge) {
      for (std::size_t o = 0; o < 2; ++o) {
        y[o] = at("ridge.bias", o);
        for (std::size_t lag = 0; lag < 9 && lag < history_.size(); ++lag)
          for (std::size_t u = 0; u < 7; ++u)
            y[o] +=
                at("ridge.weight", (lag * 7 + u) * 2 + o) * history_[history_.size() - 1 - lag][u];
      }
    } else {
      const bool gap = events.empty();
      std::vector<double> next(3, 0);
      for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t j = 0; j < 3; ++j)
          next[i] += at(gap ? "kalman.predict" : "kalman.update", i * 3 + j) * state_[j];
        if (gap) continue;
        next[i] += at("kalman.offset", i);
        for (std::size_t u = 0; u < 7; ++u) next[i] += at("kalman.gain", u * 3 + i) * counts[u];
      }
      state_ = next;
      for (std::size_t o = 0; o < 2; ++o)
        for (std::size_t i = 0; i < 3; ++i) y[o] += at("kalman.output", o * 3 + i) * state_[i];
    }
    for (std::size_t o = 0; o < 2; ++o) y[o] = y[o] * at("output.std", o) + at("output.mean", o);
    return y;
  }

 private:
  double at(const char* name, std::size_t i) const { return file_.at(name).f32()[i]; }

  const ModelFile& file_;
  std::vector<std::vector<double>> history_;
  std::vector<double> state_ = {0, 0, 0};
};

class LinearEngine : public ::testing::TestWithParam<ModelKind> {};

TEST_P(LinearEngine, EverySessionGetsTheFormulaOverAllItsSteps) {
  const ModelFile file = linear_model(GetParam());
  const TemporaryModel saved(file);
  const auto engine = make_engine(saved, 4, 4);
  EXPECT_EQ(engine->model().kind, "stream");
  EXPECT_EQ(engine->model().preset, to_string(GetParam()));
  std::mt19937_64 random(3);
  std::map<SessionId, Plain> sessions;
  for (int i = 0; i < 3; ++i)
    sessions.emplace(engine->open_session({}).value_or_throw().id, Plain(file));
  for (std::int64_t n = 0; n < 700; ++n)
    for (auto& [id, plain] : sessions) {
      const auto events = random_step(random, file.config, n, n % 11 == 0 ? 0 : 3);
      const auto answer =
          engine->step({.session = id, .sequence = n, .events = events}).value_or_throw();
      const auto expected = plain.step(events);
      for (std::size_t o = 0; o < 2; ++o)
        ASSERT_NEAR(answer.behavior[o], expected[o], 1e-5) << "session " << id << " step " << n;
    }
}

TEST_P(LinearEngine, APlaceThatWasUsedBeforeLeavesNothingBehind) {
  const ModelFile file = linear_model(GetParam());
  const TemporaryModel saved(file);
  const auto engine = make_engine(saved, 1, 1);
  const std::vector<Event> events = {{3, 2, 1}};
  std::vector<float> first;
  for (int i = 0; i < 3; ++i) {
    const auto id = engine->open_session({}).value_or_throw().id;
    const auto answer = engine->step({.session = id, .events = events}).value_or_throw();
    if (i == 0) first = answer.behavior;
    EXPECT_EQ(answer.behavior, first);
    for (std::int64_t n = 1; n < 20; ++n) {
      const std::vector<Event> more = {{static_cast<std::int32_t>(n % 7), 5, 4 * n}};
      (void)engine->step({.session = id, .sequence = n, .events = more}).value_or_throw();
    }
    (void)engine->close_session(id).value_or_throw();
  }
}

TEST_P(LinearEngine, AGapIsThatManyEmptySteps) {
  const ModelFile file = linear_model(GetParam());
  const TemporaryModel saved(file);
  const auto engine = make_engine(saved, 2, 2);
  std::mt19937_64 random(4);
  for (const std::int64_t gap : {3, 40, 2000}) {
    Plain plain(file);
    const auto id = engine->open_session({}).value_or_throw().id;
    std::int64_t n = 0;
    for (; n < 30; ++n) {
      const auto events = random_step(random, file.config, n, 4);
      (void)engine->step({.session = id, .sequence = n, .events = events}).value_or_throw();
      plain.step(events);
    }
    for (std::int64_t i = 0; i < gap; ++i) plain.step({});
    n += gap;
    const auto events = random_step(random, file.config, n, 4);
    const auto answer =
        engine->step({.session = id, .sequence = n, .gap = gap, .events = events}).value_or_throw();
    const auto expected = plain.step(events);
    for (std::size_t o = 0; o < 2; ++o) EXPECT_NEAR(answer.behavior[o], expected[o], 1e-5) << gap;
    (void)engine->close_session(id).value_or_throw();
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, LinearEngine,
                         ::testing::Values(ModelKind::ridge, ModelKind::kalman),
                         [](const auto& kind) { return std::string(to_string(kind.param)); });

TEST(LinearModel, ConfigurationsSurviveTheirFile) {
  for (const ModelKind kind : {ModelKind::ridge, ModelKind::kalman}) {
    const ModelConfig c = linear_config(kind);
    const auto again = parse_config(to_json(c), "memory");
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(to_json(*again), to_json(c));
    EXPECT_EQ(again->receptive_steps, c.receptive_steps);
    EXPECT_EQ(again->window_steps, c.window_steps);
    EXPECT_EQ(again->dim, c.dim);
  }
}

TEST(LinearModel, AFilterThatNeverForgetsIsRefused) {
  ModelFile file = linear_model(ModelKind::kalman);
  const auto update = file.tensors.at("kalman.update").f32();
  std::fill(update.begin(), update.end(), 0.0F);
  update[0] = 1;
  const TemporaryModel saved(file);
  try {
    (void)make_engine(saved);
    FAIL() << "was taken";
  } catch (const Exception& e) {
    EXPECT_NE(e.error.message.find("kalman.update"), std::string::npos) << e.error.message;
  }
}

TEST(LinearModel, MemoryIsCheckedByPowers) {
  const std::vector<float> half = {0.5F, 0, 0, 0.5F};
  EXPECT_TRUE(forgets_within(half, 2, 32));
  EXPECT_FALSE(forgets_within(half, 2, 31));
  const std::vector<float> growing = {2, 0, 0, 0.5F};
  EXPECT_FALSE(forgets_within(growing, 2, 4096));
}

}  // namespace
}  // namespace cortex
