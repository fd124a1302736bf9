#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "record/flight_log.h"
#include "record/recorder.h"
#include "support/paths.h"

namespace cortex::testing {

/// Whether a condition comes true before long.
inline bool eventually(const std::function<bool()>& holds) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline std::vector<std::byte> bytes_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

inline ModelInfo small_model() {
  ModelInfo model;
  model.path = "small.safetensors";
  model.digest = "0123456789abcdef";
  model.kind = "stream";
  model.precision = "fp32";
  model.backend = "cpu avx2";
  model.outputs = {{"vel_x", "mm/s"}, {"vel_y", "mm/s"}, {"grip", "N"}};
  model.unit_ids = {"7", "8", "12"};
  model.bin_ms = 5;
  model.step_ms = 20;
  model.bins_per_step = 4;
  model.context_steps = 9;
  model.max_events = 64;
  model.target_offset_ms = -10;
  return model;
}

/// What a session's step n holds and is answered, as a function of n.
inline std::vector<Event> events_at(std::int64_t n) {
  std::vector<Event> events;
  events.reserve(5);
  for (int i = 0; i < n % 5; ++i) events.push_back({i % 3, 1 + i, 4 * n + i % 4});
  return events;
}
inline std::vector<float> outputs_at(std::int64_t n) {
  return {0.5F * static_cast<float>(n), -1.0F, 3e-39F};
}

/// Records step n of a session and, unless told not to, its answer.
inline void record_step(record::Recorder& recorder, SessionId session, std::int64_t n,
                        bool answered = true) {
  const auto events = events_at(n);
  const auto outputs = outputs_at(n);
  recorder.step({.session = session, .sequence = n, .events = events});
  if (!answered) return;
  StepAnswer answer;
  answer.session = session;
  answer.sequence = n;
  answer.behavior = outputs;
  answer.submitted_ns = 1000 * n;
  answer.finished_ns = 1000 * n + 7;
  recorder.answer(answer);
}

}  // namespace cortex::testing
