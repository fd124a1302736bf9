#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <future>
#include <thread>

#include "cuda_fixture.h"
#include "kernels/cuda/cuda_ops.h"
#include "model/window_model.h"
#include "support/paths.h"

/// The engine on a GPU against the engine on the CPU, and against itself in other batches. Skipped,
/// with a line that says so, where there is no GPU.
namespace cortex::testing {
namespace {

class CudaEngine : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU: the engine was not run on one";
  }
};

TEST_P(CudaEngine, AStreamEqualsTheCpusOverAWindowThatFillsAndWraps) {
  for (const char* preset : {"stream-nano", "stream-xs"}) {
    const ModelFile file = stream_model(preset, GetParam());
    const TemporaryModel model(file);
    const auto gpu = engine_on(model, "cuda:0", 4);
    EXPECT_EQ(gpu->model().backend.rfind("cuda:0 ", 0), 0U) << gpu->model().backend;
    const auto cpu = engine_on(model, "cpu", 4);
    const Steps steps = steps_of(file.config, 1, 70);
    const Answers on_gpu = run_alone(*gpu, steps), on_cpu = run_alone(*cpu, steps);
    const double error = relative_error(on_gpu, on_cpu);
    RecordProperty(preset, std::to_string(error));
    if (GetParam() != DType::i8) {
      EXPECT_LT(error, GetParam() == DType::f32 ? 1e-5 : 3e-2) << preset;
      continue;
    }
    // A tie that falls the other way moves an int8 activation by a whole step: what counts is that
    // the GPU is no further from the float32 model than the CPU is.
    const TemporaryModel wide(stream_model(preset, DType::f32));
    const Answers exact = run_alone(*engine_on(wide, "cpu", 1), steps);
    const double gpu_error = relative_error(on_gpu, exact),
                 cpu_error = relative_error(on_cpu, exact);
    RecordProperty(std::string(preset) + "_int8_gpu", std::to_string(gpu_error));
    RecordProperty(std::string(preset) + "_int8_cpu", std::to_string(cpu_error));
    EXPECT_LT(gpu_error, 1.5 * cpu_error) << preset;
  }
}

TEST_P(CudaEngine, AStreamHasTheSameBitsAloneAndInAnyBatch) {
  for (const char* preset : {"stream-nano", "stream-xs"}) {
    const ModelFile file = stream_model(preset, GetParam());
    const TemporaryModel model(file);
    constexpr int kStreams = 40, kSteps = 60;
    const auto one = engine_on(model, "cuda:0", 1);
    const auto many = engine_on(model, "cuda:0", 32);
    std::vector<Steps> streams;
    for (int i = 0; i < kStreams; ++i)
      streams.push_back(steps_of(file.config, static_cast<std::uint64_t>(i), kSteps));
    std::vector<std::future<Answers>> running;
    for (const Steps& steps : streams)
      running.push_back(std::async(std::launch::async, [&] { return run_alone(*many, steps); }));
    std::vector<Answers> together;
    for (auto& answers : running) together.push_back(answers.get());
    const auto stats = many->stats();
    EXPECT_LT(stats.batches, stats.steps) << "no batch held more than one stream";
    for (int i = 0; i < kStreams; i += 9) {
      const Answers alone = run_alone(*one, streams[static_cast<std::size_t>(i)]);
      EXPECT_EQ(alone, together[static_cast<std::size_t>(i)]) << preset << ", stream " << i;
    }
  }
}

TEST_P(CudaEngine, AWindowEqualsTheCpus) {
  for (const char* preset : {"cortex-xs", "cortex-s"}) {
    ModelConfig config = preset_config(preset).value_or_throw();
    config.window_bins = 120;
    for (const double reach_ms : {0.0, 75.0}) {
      config.receptive_ms = reach_ms;
      config.layers = 3;
      ModelFile file = random_model(config, 4);
      for (auto& [name, tensor] : file.tensors)
        if (name.find("norm") == std::string::npos)
          for (float& v : tensor.f32()) v *= 2;
      file = narrowed(std::move(file), GetParam());
      const TemporaryModel model(file);
      const auto gpu = engine_on(model, "cuda:0", 4);
      const auto cpu = engine_on(model, "cpu", 4);
      std::mt19937_64 random(5);
      Answers got, want;
      for (const int n : {512, 0, 1, 33, 1500, 512}) {
        std::vector<Event> events;
        for (int i = 0; i < n; ++i)
          events.push_back({static_cast<std::int32_t>(random() % 512),
                            static_cast<std::int32_t>(random() % 12),
                            static_cast<std::int64_t>(random() % 120)});
        got.push_back(gpu->decode({.events = events}).value_or_throw().behavior);
        want.push_back(cpu->decode({.events = events}).value_or_throw().behavior);
      }
      const double error = relative_error(got, want);
      RecordProperty(std::string(preset) + (reach_ms > 0 ? "_band" : "_dense"),
                     std::to_string(error));
      EXPECT_LT(error, GetParam() == DType::f32 ? 1e-4 : 3e-2)
          << preset << " reach " << reach_ms << " ms";
    }
  }
}

TEST(CudaWindows, In8BitFloatsAreCloseToFloat32) {
  if (cuda_devices().empty() || cuda_devices().front().compute_capability != 90)
    GTEST_SKIP() << "no Hopper GPU: 8-bit floats were not tried";
  ModelConfig config = preset_config("cortex-s").value_or_throw();
  config.window_bins = 120;
  const ModelFile file = random_model(config, 4);
  const TemporaryModel model(file);
  EngineOptions options;
  options.model_path = model.path();
  options.device = "cuda:0";
  options.max_batch = 4;
  const auto wide = Engine::create(options).value_or_throw();
  options.fp8 = true;
  auto created = Engine::create(options);
  if (!created && created.error().message.find("a build for sm_90a") != std::string::npos)
    GTEST_SKIP() << "a build without Hopper's kernels: 8-bit floats were not tried";
  const auto narrow = std::move(created).value_or_throw();
  EXPECT_EQ(narrow->model().precision, "fp8");
  std::mt19937_64 random(5);
  Answers got, want;
  for (const int n : {512, 0, 1, 300, 512}) {
    std::vector<Event> events;
    for (int i = 0; i < n; ++i)
      events.push_back({static_cast<std::int32_t>(random() % 512),
                        static_cast<std::int32_t>(random() % 12),
                        static_cast<std::int64_t>(random() % 120)});
    got.push_back(narrow->decode({.events = events}).value_or_throw().behavior);
    want.push_back(wide->decode({.events = events}).value_or_throw().behavior);
  }
  const double error = relative_error(got, want);
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, 1e-1);  // 3 bits of a fraction: 2.5% an element, 7 blocks deep
}

TEST(Devices, AStreamIsNotOfferedIn8BitFloats) {
  const TemporaryModel model(lively_stream_model(tiny_stream_config(), 1));
  const auto engine = Engine::create({.model_path = model.path(), .fp8 = true});
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().field, "fp8");
}

INSTANTIATE_TEST_SUITE_P(Precisions, CudaEngine,
                         ::testing::Values(DType::f32, DType::bf16, DType::i8),
                         [](const auto& p) { return std::string(to_string(p.param)); });

TEST(Devices, AnUnknownDeviceIsAnErrorThatNamesIt) {
  const TemporaryModel model(lively_stream_model(tiny_stream_config(), 1));
  for (const char* device : {"gpu", "cuda:", "cuda:x", "cuda:-1", ""}) {
    const auto engine = Engine::create({.model_path = model.path(), .device = device});
    ASSERT_FALSE(engine) << device;
    EXPECT_EQ(engine.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(engine.error().message.find(std::string("'") + device + "'"), std::string::npos);
  }
  const auto far = Engine::create({.model_path = model.path(), .device = "cuda:99"});
  ASSERT_FALSE(far);
  EXPECT_EQ(far.error().code, ErrorCode::unavailable);
}

TEST(Devices, AutoFallsBackToTheCpuAndSaysSo) {
  if (!cuda_devices().empty()) GTEST_SKIP() << "this machine has a GPU";
  const TemporaryModel model(lively_stream_model(tiny_stream_config(), 1));
  const auto engine = Engine::create({.model_path = model.path()}).value_or_throw();
  EXPECT_EQ(engine->model().backend.rfind("cpu ", 0), 0U);
  EXPECT_NE(engine->model().backend_note.find("no NVIDIA GPU"), std::string::npos)
      << engine->model().backend_note;
}

}  // namespace
}  // namespace cortex::testing
