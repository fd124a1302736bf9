#include "bench_decode.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "bench_team.h"
#include "cache/page_pool.h"
#include "cache/stream_state.h"
#include "core/clock.h"
#include "model/stream_model.h"
#include "model/window_model.h"

namespace cortex {
namespace {

constexpr int kWarmUps = 2;
constexpr int kLeastIterations = 3;

/// xorshift64*
std::uint64_t next_random(std::uint64_t& state) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 0x2545f4914f6cdd1dULL;
}

std::int64_t below(std::uint64_t& state, std::int64_t end) {
  return static_cast<std::int64_t>(next_random(state) >> 11) % end;
}

Error no_room(std::int64_t events, std::int64_t room, const char* of) {
  return {ErrorCode::invalid_argument,
          fmt::format("{} events do not fit into a {} of this model, {} do", events, of, room),
          "events"};
}

class WindowDecoder final : public BenchDecoder {
 public:
  WindowDecoder(const ModelFile& file, Ops& ops, const DecoderOptions& options)
      : config_(file.config),
        options_(options),
        bytes_(forward_bytes(file, options.batch, DType::f32)),
        model_(file, ops, options.batch,
               options.batch * std::max<std::int64_t>(options.events, 1)) {
    std::uint64_t state = options.seed;
    WindowBatch& batch = model_.begin_batch(options.batch, options.batch * options.events);
    for (int i = 0; i < options.batch; ++i)
      batch.add_window(
          random_events(state, options.events, config_.max_neurons, 0, config_.max_bins),
          config_.nominal_bins());
  }

  void prepare() override {}
  std::span<const float> forward() override { return model_.forward(); }
  ForwardFlops flops() const override {
    return window_flops(config_, options_.batch, options_.events);
  }
  ForwardBytes bytes() const override { return bytes_; }
  std::size_t resident_bytes() const override { return model_.resident_bytes(); }

 private:
  ModelConfig config_;
  DecoderOptions options_;
  ForwardBytes bytes_;
  WindowModel model_;
};

class StreamDecoder final : public BenchDecoder {
 public:
  StreamDecoder(const ModelFile& file, Ops& ops, const DecoderOptions& options)
      : config_(file.config),
        options_(options),
        cached_(ops.cache_dtype(file.precision())),
        bytes_(forward_bytes(file, options.batch, cached_)),
        layout_{config_.layers,
                config_.latents,
                config_.dim,
                config_.window_steps,
                page_steps_for(config_.latents),
                static_cast<int>(size_of(cached_))},
        pool_(ops.allocate(static_cast<std::size_t>(layout_.page_bytes()) *
                           static_cast<std::size_t>(layout_.pages_per_session()) *
                           static_cast<std::size_t>(options.batch))),
        model_(file, ops, options.batch,
               {pool_.as<std::byte>(), layout_.page_bytes(), layout_.page_steps, cached_}),
        random_(options.seed) {
    ops.clear(pool_);
    for (int i = 0; i < options.batch; ++i)
      streams_.emplace_back(0, config_.receptive_steps, config_.window_steps);
    recent_.resize(streams_.size() * static_cast<std::size_t>(config_.receptive_steps));
    for (int s = 0; s < config_.window_steps; ++s) {
      prepare();
      forward();
    }
  }

  void prepare() override {
    const int bins = config_.bins_per_step();
    StreamBatch& batch = model_.batch();
    batch.clear();
    std::vector<std::int32_t> pages(static_cast<std::size_t>(layout_.pages_per_session()));
    std::iota(pages.begin(), pages.end(), 0);
    auto oldest = recent_.begin() + streams_.front().next_step() % config_.receptive_steps;
    for (StreamState& stream : streams_) {
      *oldest = random_events(random_, options_.events, config_.unit_count(),
                              stream.next_step() * bins, bins);
      stream.push(*oldest);
      oldest += config_.receptive_steps;
      for (int i = 0; i < stream.recent_steps(); ++i)
        batch.add_events(stream.recent(i), (stream.step() + 1) * bins);
      batch.add_step(stream.step(), pages, stream.slot(), stream.live_steps());
      for (std::int32_t& page : pages) page += layout_.pages_per_session();
    }
  }

  std::span<const float> forward() override { return model_.forward(); }
  ForwardFlops flops() const override {
    return stream_flops(config_, options_.batch, options_.events);
  }
  ForwardBytes bytes() const override { return bytes_; }
  std::size_t resident_bytes() const override { return model_.resident_bytes(); }

 private:
  ModelConfig config_;
  DecoderOptions options_;
  DType cached_;
  ForwardBytes bytes_;
  PageLayout layout_;
  Buffer pool_;
  StreamModel model_;
  std::vector<StreamState> streams_;
  std::vector<std::vector<Event>> recent_;  // [streams, C]: of step s in s mod C
  std::uint64_t random_;
};

}  // namespace

std::vector<Event> random_events(std::uint64_t& state, std::int64_t count, std::int64_t units,
                                 std::int64_t first_bin, std::int64_t bins) {
  // Floyd's sampling: `count` different cells of [0, cells), every set as likely.
  std::set<std::int64_t> chosen;
  const std::int64_t cells = units * bins;
  for (std::int64_t last = cells - count; last < cells; ++last)
    if (const std::int64_t cell = below(state, last + 1); !chosen.insert(cell).second)
      chosen.insert(last);
  std::vector<Event> events;
  events.reserve(chosen.size());
  for (const std::int64_t cell : chosen)
    events.push_back({.unit = static_cast<std::int32_t>(cell % units),
                      .value = static_cast<std::int32_t>(1 + below(state, 3)),
                      .bin = first_bin + cell / units});
  return events;
}

std::unique_ptr<BenchDecoder> make_bench_decoder(const ModelFile& file, Ops& ops,
                                                 const DecoderOptions& options) {
  const ModelConfig& c = file.config;
  DecoderOptions given = options;
  if (given.seed == 0) given.seed = 1;  // xorshift stays at 0
  if (c.kind == ModelKind::window) {
    const std::int64_t room = std::int64_t{c.max_neurons} * c.max_bins;
    if (given.events > room) throw Exception{no_room(given.events, room, "window")};
    return std::make_unique<WindowDecoder>(file, ops, given);
  }
  const std::int64_t room = std::min<std::int64_t>(
      c.max_events_per_step, std::int64_t{c.unit_count()} * c.bins_per_step());
  if (given.events > room) throw Exception{no_room(given.events, room, "step")};
  return std::make_unique<StreamDecoder>(file, ops, given);
}

Timing summarize_times(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  const auto quantile = [&](double q) {
    const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(us.size())));
    return us[std::max<std::size_t>(rank, 1) - 1];
  };
  Timing timing;
  timing.iterations = static_cast<std::int64_t>(us.size());
  timing.p50_us = quantile(0.5);
  timing.p99_us = quantile(0.99);
  timing.mean_us = std::accumulate(us.begin(), us.end(), 0.0) / static_cast<double>(us.size());
  timing.min_us = us.front();
  timing.max_us = us.back();
  return timing;
}

Timing time_decoder(BenchDecoder& decoder, double seconds, double evict_mb, int threads) {
  const Clock& clock = RealClock::instance();
  CacheEvictor evictor(evict_mb, threads);
  for (int i = 0; i < kWarmUps; ++i) {
    decoder.prepare();
    decoder.forward();
  }
  std::vector<double> us;
  const TimeNs begin = clock.now();
  TimeNs now = begin;
  while (us.size() < kLeastIterations || static_cast<double>(now - begin) < seconds * 1e9) {
    decoder.prepare();
    evictor.run();
    const TimeNs start = clock.now();
    decoder.forward();
    now = clock.now();
    us.push_back(static_cast<double>(now - start) * 1e-3);
  }
  return summarize_times(std::move(us));
}

}  // namespace cortex
