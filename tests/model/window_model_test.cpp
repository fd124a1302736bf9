#include "model/window_model.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/forwarding_ops.h"

#include <gtest/gtest.h>
#include <simdjson.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "support/paths.h"

namespace cortex::testing {
namespace {

ModelConfig tiny_window_config() {
  ModelConfig c = preset_config("cortex-xs").value_or_throw();
  c.dim = 32;
  c.layers = 2;
  c.heads = 2;
  c.head_dim = 16;
  c.latents = 12;
  c.max_neurons = 20;
  c.max_bins = 64;
  c.window_bins = 60;
  return c;
}

std::vector<Event> random_window(std::mt19937_64& random, int n) {
  std::vector<Event> events(static_cast<std::size_t>(n));
  for (Event& e : events) {
    e.unit = static_cast<int>(random() % 20);
    e.bin = static_cast<int>(random() % 60);
    e.value = static_cast<int>(random() % 9);
  }
  return events;
}

std::vector<std::vector<Event>> random_windows(std::mt19937_64& random,
                                               const std::vector<int>& sizes) {
  std::vector<std::vector<Event>> windows(sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) windows[i] = random_window(random, sizes[i]);
  return windows;
}

/// Weights large enough that events matter.
ModelFile lively_window_model(ModelConfig config) {
  ModelFile model = random_model(std::move(config), 4);
  for (auto& [name, tensor] : model.tensors)
    if (name.find("norm") == std::string::npos)
      for (float& v : tensor.f32()) v *= 10;
  return model;
}

/// All windows in one batch.
std::vector<float> decode_batch(WindowModel& model, const std::vector<std::vector<Event>>& windows,
                                double bins = 60) {
  std::size_t events = 0;
  for (const auto& window : windows) events += window.size();
  WindowBatch& batch =
      model.begin_batch(static_cast<int>(windows.size()), static_cast<std::int64_t>(events));
  for (const auto& window : windows) batch.add_window(window, bins);
  const auto out = model.forward();
  return {out.begin(), out.end()};
}

std::vector<float> decode(WindowModel& model, const std::vector<Event>& events) {
  return decode_batch(model, {events});
}

double relative(std::span<const float> got, const std::vector<double>& want) {
  double error = 0;
  double scale = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error = std::max(error, std::abs(got[i] - want[i]));
    scale = std::max(scale, std::abs(want[i]));
  }
  return error / scale;
}

/// As a GPU: memory that the host does not see, and padded sizes whose calls are kept.
class DeviceOps final : public ForwardingOps {
 public:
  using ForwardingOps::ForwardingOps;

  SharedBuffer allocate_shared(SharedUse use, std::size_t bytes) override {
    SharedBuffer shared = base_.allocate_shared(use, bytes);
    auto* const host = new double[bytes / sizeof(double) + 1];
    shared.host = Buffer(host, bytes, [](void* p) { delete[] static_cast<double*>(p); });
    for (const Buffer* side : {&shared.device, &shared.host})
      std::memset(side->as<void>(), 0xff, bytes);
    return shared;
  }
  void send(const SharedBuffer& buffer, std::size_t offset, std::size_t bytes) override {
    std::memcpy(buffer.device.as<std::byte>() + offset, buffer.host.as<std::byte>() + offset,
                bytes);
  }
  void receive(const SharedBuffer& buffer, std::size_t bytes) override {
    std::memcpy(buffer.host.as<std::byte>(), buffer.device.as<std::byte>(), bytes);
  }
  bool keeps_calls() const override { return true; }
  std::int64_t rounded_items(std::int64_t count) const override { return (count + 3) / 4 * 4; }
  std::int64_t rounded_events(std::int64_t count) const override {
    return static_cast<std::int64_t>(std::bit_ceil(std::max<std::uint64_t>(64, count)));
  }
  bool begin_calls(const ForwardKey& key) override {
    key_ = {key.items, key.events};
    return true;
  }
  void project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                      MatrixView out) override {
    const auto [kept, is_new] = events_at_.emplace(key_, tokens.neuron);
    EXPECT_EQ(kept->second, tokens.neuron) << "a call that is kept reads where it first did";
    EXPECT_EQ(tokens.events, key_.second);
    base_.project_tokens(tokens, projection, out);
  }
  std::size_t keys() const { return events_at_.size(); }

 private:
  std::pair<std::int64_t, std::int64_t> key_;
  std::map<std::pair<std::int64_t, std::int64_t>, const std::int32_t*> events_at_;
};

/// Every backend and instruction set that this machine runs.
class WindowModelOn : public ::testing::TestWithParam<std::string> {
 protected:
  static std::unique_ptr<Ops> make() {
    if (GetParam() == "reference") return make_reference_ops();
    return make_cpu_ops({.threads = 2, .isa = GetParam()});
  }
};

std::vector<std::string> backends() {
  std::vector<std::string> all = cpu_isas();
  all.emplace_back("reference");
  return all;
}
INSTANTIATE_TEST_SUITE_P(Backends, WindowModelOn, ::testing::ValuesIn(backends()),
                         [](const auto& backend) { return backend.param; });

TEST_P(WindowModelOn, EqualsThePublishedImplementationOnItsOwnWeights) {
  if (!has_shared("fixtures/window_layernorm_tiny/cases.json"))
    GTEST_SKIP() << "needs fixtures/window_layernorm_tiny beside the repository";
  const auto file =
      load_model(shared_path("fixtures/window_layernorm_tiny").string()).value_or_throw();
  const auto ops = make();
  WindowModel model(file, *ops, 8, 4096);
  simdjson::dom::parser parser;
  simdjson::dom::element cases =
      parser.load(shared_path("fixtures/window_layernorm_tiny/cases.json").string());
  std::vector<std::vector<Event>> windows;
  std::vector<double> behavior;
  std::vector<double> logits;
  for (simdjson::dom::element w : cases["windows"]) {
    std::vector<Event>& events = windows.emplace_back();
    for (std::size_t i = 0; i < simdjson::dom::array(w["neuron_id"]).size(); ++i)
      events.push_back({static_cast<int>(int64_t(w["neuron_id"].at(i))),
                        static_cast<int>(int64_t(w["value"].at(i))), int64_t(w["time_bin"].at(i))});
    for (double v : simdjson::dom::array(w["behavior"])) behavior.push_back(v);
    for (double v : simdjson::dom::array(w["masked_spike_logits"])) logits.push_back(v);
  }
  ASSERT_EQ(windows.size(), 5U);
  EXPECT_LT(relative(decode_batch(model, windows, 128), behavior), 1e-4);
  EXPECT_LT(relative(model.masked_spike_logits(), logits), 1e-4);
}

TEST_P(WindowModelOn, AWindowHasTheSameBitsAloneAndInABatch) {
  const auto ops = make();
  WindowModel model(lively_window_model(tiny_window_config()), *ops, 8, 4096);
  std::mt19937_64 random(2);
  const auto windows = random_windows(random, {0, 1, 7, 300, 40});
  const std::vector<float> together = decode_batch(model, windows);
  for (std::size_t i = 0; i < windows.size(); ++i) {
    const auto alone = decode(model, windows[i]);
    for (std::size_t output = 0; output < 2; ++output)
      EXPECT_EQ(std::bit_cast<std::uint32_t>(alone[output]),
                std::bit_cast<std::uint32_t>(together[2 * i + output]))
          << i;
  }
}

TEST_P(WindowModelOn, AReceptiveFieldThatCoversTheWindowEqualsTheDenseModel) {
  const auto ops = make();
  ModelConfig config = tiny_window_config();
  WindowModel dense(lively_window_model(config), *ops, 1, 4096);
  config.receptive_ms = 64 * config.bin_ms;
  WindowModel sparse(lively_window_model(config), *ops, 1, 4096);
  std::mt19937_64 random(3);
  const auto events = random_window(random, 200);
  EXPECT_EQ(decode(dense, events), decode(sparse, events));
}

TEST_P(WindowModelOn, AnEventOutOfEveryLatentsReachChangesNothing) {
  const auto ops = make();
  ModelConfig config = tiny_window_config();
  config.window_bins = 60;
  config.receptive_ms = 1 * config.bin_ms;  // latents sit at bins 0, 5, .., 55
  WindowModel model(lively_window_model(config), *ops, 1, 4096);
  std::mt19937_64 random(4);
  auto events = random_window(random, 100);
  const auto before = decode(model, events);
  auto with_unseen = events;
  for (const int bin : {2, 3, 8, 57, 59}) with_unseen.push_back({1, 1, bin});
  EXPECT_EQ(decode(model, with_unseen), before);
  auto with_seen = events;
  with_seen.push_back({1, 1, 4});
  EXPECT_NE(decode(model, with_seen), before);
}

TEST_P(WindowModelOn, WithNoEventInReachAttentionIsZero) {
  const auto ops = make();
  ModelConfig config = tiny_window_config();
  config.receptive_ms = 1 * config.bin_ms;
  WindowModel model(lively_window_model(config), *ops, 1, 4096);
  const auto empty = decode(model, {});
  for (const float v : empty) EXPECT_TRUE(std::isfinite(v));
  EXPECT_EQ(decode(model, {{3, 1, 2}, {4, 2, 58}}), empty);
}

TEST_P(WindowModelOn, ABatchBeyondItsRoomIsAnErrorAndTheNextIsDecoded) {
  const auto ops = make();
  WindowModel model(lively_window_model(tiny_window_config()), *ops, 2, 8);
  std::mt19937_64 random(5);
  const auto events = random_window(random, 4);
  const auto want = decode(model, events);
  EXPECT_THROW(model.begin_batch(3, 8), std::length_error);
  EXPECT_THROW(model.begin_batch(2, 9), std::length_error);
  WindowBatch& batch = model.begin_batch(1, 4);
  EXPECT_THROW(batch.add_window(random_window(random, 5), 60), std::length_error);
  batch.add_window(events, 60);
  EXPECT_THROW(batch.add_window({}, 60), std::length_error);
  const auto got = model.forward();
  EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin(), got.end()));
}

TEST_P(WindowModelOn, ABatchOfLessThanWasBegunIsDecoded) {
  const auto ops = make();
  WindowModel model(lively_window_model(tiny_window_config()), *ops, 4, 64);
  std::mt19937_64 random(6);
  const auto many = random_window(random, 60), few = random_window(random, 5);
  const auto want = decode(model, few);
  (void)decode(model, many);  // what lies behind the batch is of no account
  model.begin_batch(4, 64).add_window(few, 60);
  const auto got = model.forward();
  EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin(), got.end()));
}

TEST_P(WindowModelOn, OnADeviceWithMemoryOfItsOwnAPaddedBatchHasTheSameBits) {
  const auto ops = make();
  DeviceOps device(*ops);
  ModelConfig config = tiny_window_config();
  config.receptive_ms = 20 * config.bin_ms;
  WindowModel plain(lively_window_model(config), *ops, 8, 1024);
  WindowModel padded(lively_window_model(config), device, 8, 1024);
  padded.warm_up();
  const std::size_t warm = device.keys();
  std::mt19937_64 random(7);
  // Small behind large: what an earlier batch left must not show.
  for (const std::vector<int>& sizes :
       {std::vector{100, 128, 0, 90, 50, 1, 128, 128}, {3}, {0}, {128, 128}, {70, 2}}) {
    const auto windows = random_windows(random, sizes);
    EXPECT_EQ(decode_batch(padded, windows), decode_batch(plain, windows)) << sizes.size();
  }
  EXPECT_EQ(device.keys(), warm) << "a size that was not warmed up";
}

}  // namespace
}  // namespace cortex::testing
