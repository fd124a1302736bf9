#include "model/identity_model.h"

#include <cstddef>
#include <cstdint>

namespace cortex {
namespace {

constexpr const char* kStreamName = "identity";
constexpr const char* kWindowName = "identity-window";
constexpr int kUnits = 96;
constexpr std::size_t kOutputs = 2;

/// One round of splitmix64.
std::uint64_t mix(std::uint64_t state, std::int64_t value) {
  std::uint64_t z = (state ^ static_cast<std::uint64_t>(value)) + 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

float to_output(std::uint64_t mixed) { return static_cast<float>(mixed >> 40); }

}  // namespace

bool is_identity_name(const std::string& name) {
  return name == kStreamName || name == kWindowName;
}

ModelFile identity_model(const std::string& name) {
  ModelFile file;
  file.is_identity = true;
  file.digest = name;
  ModelConfig& c = file.config;
  c.preset = name;
  // The least that a session can remember: one step of one key.
  c.dim = 4;
  c.layers = 1;
  c.heads = 1;
  c.head_dim = 4;
  c.latents = 1;
  c.window_steps = 1;
  c.output_names = {"spikes", "mix"};
  c.output_units = {"", ""};
  if (name == kWindowName) {
    c.kind = ModelKind::window;
  } else {
    for (int u = 0; u < kUnits; ++u)
      c.units.push_back(
          {.id = "u" + std::to_string(u), .session = {}, .electrode = {}, .rate_hz = 0});
  }
  c.set_defaults();
  return file;
}

IdentityStream::IdentityStream(int capacity) : y_(static_cast<std::size_t>(capacity) * kOutputs) {
  const ModelConfig config = identity_model(kStreamName).config;
  const auto steps = static_cast<std::size_t>(capacity);
  events_.resize(steps * static_cast<std::size_t>(config.receptive_steps) *
                 static_cast<std::size_t>(config.max_events_per_step));
  batch().room = events_;
  batch().reserve(steps, static_cast<std::size_t>(config.window_steps));
}

void IdentityStream::launch(int lane) {
  const StreamBatch& batch = this->batch(lane);
  for (std::size_t s = 0; s < static_cast<std::size_t>(batch.steps); ++s) {
    const auto begin = static_cast<std::size_t>(batch.indptr[s]);
    const auto end = static_cast<std::size_t>(batch.indptr[s + 1]);
    std::int64_t spikes = 0;
    std::uint64_t mixed = mix(0, batch.step[s]);
    for (std::size_t e = begin; e < end; ++e) {
      const StreamEvent& event = batch.room[e];
      mixed = mix(mixed, event.unit);
      mixed = mix(mixed, event.value);
      mixed = mix(mixed, event.offset);
      if (e >= static_cast<std::size_t>(batch.present[s])) spikes += event.value;
    }
    y_[s * kOutputs] = static_cast<float>(spikes);
    y_[s * kOutputs + 1] = to_output(mixed);
  }
}

std::span<const float> IdentityStream::finish(int lane) {
  return std::span(y_).first(static_cast<std::size_t>(batch(lane).steps) * kOutputs);
}

IdentityWindow::IdentityWindow(int capacity, std::int64_t max_events)
    : WindowForward(capacity, max_events),
      room_(WindowBatch::bytes(capacity, max_events) / sizeof(double) + 1),
      y_(static_cast<std::size_t>(capacity) * kOutputs) {
  lay_out_batch(0, 0);
}

void IdentityWindow::lay_out_batch(std::int64_t windows, std::int64_t events) {
  batch_.lay_out(reinterpret_cast<std::byte*>(room_.data()), windows, events);
}

std::span<const float> IdentityWindow::forward() {
  const auto windows = static_cast<std::size_t>(batch_.windows);
  for (std::size_t w = 0; w < windows; ++w) {
    std::int64_t spikes = 0;
    std::uint64_t mixed = 0;
    for (auto e = static_cast<std::size_t>(batch_.indptr[w]);
         e < static_cast<std::size_t>(batch_.indptr[w + 1]); ++e) {
      mixed = mix(mixed, batch_.neuron[e]);
      mixed = mix(mixed, batch_.value[e]);
      mixed = mix(mixed, batch_.bin[e]);
      spikes += batch_.value[e];
    }
    y_[w * kOutputs] = static_cast<float>(spikes);
    y_[w * kOutputs + 1] = to_output(mixed);
  }
  return std::span(y_).first(windows * kOutputs);
}

}  // namespace cortex
