#include "engine/local_engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/thread.h"
#include "engine/validate.h"
#include "kernels/cpu/cpu_ops.h"

namespace cortex {
namespace {

// Keys of a page fill whole vectors, of at most 16 lanes.
constexpr int kPageSteps = 8;
constexpr int kKeyLanes = 16;
// Parameters from which a step is worth a second core.
constexpr std::int64_t kShareParameters = 2'000'000;
// More cores than this meet more often than they work.
constexpr int kMostDefaultThreads = 4;
// Stateless requests that run at once as streams of their own on a stream model.
constexpr int kDecoders = 2;

int page_steps_for(int latents) {
  int steps = kPageSteps;
  while (steps * latents % kKeyLanes != 0) steps += kPageSteps;
  return steps;
}

int threads_for(const ModelFile& file, const EngineOptions& options) {
  if (options.threads > 0) return options.threads;
  if (file.parameter_count() < kShareParameters) return 1;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMostDefaultThreads);
}

const char* precision_name(DType precision) {
  switch (precision) {
    case DType::f32:
      return "fp32";
    case DType::bf16:
      return "bf16";
    case DType::i8:
      return "int8";
  }
  return "fp32";
}

ModelInfo describe(const ModelFile& file, const EngineOptions& options) {
  const ModelConfig& c = file.config;
  ModelInfo info;
  info.path = options.model_path;
  info.digest = file.digest;
  info.kind = to_string(c.kind);
  info.preset = c.preset;
  info.precision = precision_name(file.precision());
  info.parameters = file.parameter_count();
  for (int i = 0; i < c.outputs(); ++i)
    info.outputs.push_back(
        {c.output_names[static_cast<std::size_t>(i)], c.output_units[static_cast<std::size_t>(i)]});
  info.bin_ms = c.bin_ms;
  info.training_json = c.training_json;
  if (c.kind == ModelKind::stream) {
    for (const ModelUnit& u : c.units) info.unit_ids.push_back(u.id);
    info.step_ms = c.step_ms;
    info.bins_per_step = c.bins_per_step();
    info.window_steps = c.window_steps;
    info.context_steps = c.layers * (c.window_steps - 1) + c.receptive_steps;
    info.max_events = c.max_events_per_step;
    info.target_offset_ms = c.target_offset_ms;
  } else {
    info.max_bins = c.max_bins;
    info.max_neurons = c.max_neurons;
    info.max_events = options.max_window_events;
  }
  return info;
}

Error no_session(SessionId id) {
  return {ErrorCode::not_found,
          fmt::format("no session {}: it was closed, or expired and its state is lost; open a new "
                      "one",
                      id),
          "session_id"};
}

Error too_late() {
  return {ErrorCode::deadline_exceeded, "the answer would have come after its deadline",
          "deadline_ms"};
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(const EngineOptions& options) {
  for (const auto& [field, value] : {std::pair{"max_sessions", options.max_sessions},
                                     {"max_batch", options.max_batch},
                                     {"max_queued_steps", options.max_queued_steps},
                                     {"max_queued_windows", options.max_queued_windows},
                                     {"max_window_events", options.max_window_events}})
    if (value < 1)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{} is {}, not at least 1", field, value), field};
  auto file = load_model(options.model_path);
  if (!file) return file.error();
  try {
    return std::unique_ptr<Engine>(std::make_unique<LocalEngine>(options, *file));
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::resource_exhausted,
                 fmt::format("not enough memory for {} sessions of {}", options.max_sessions,
                             options.model_path),
                 "max_sessions"};
  }
}

LocalEngine::LocalEngine(const EngineOptions& options, const ModelFile& file)
    : options_(options),
      config_(file.config),
      info_(describe(file, options)),
      ops_(make_cpu_ops({.threads = threads_for(file, options)})) {
  info_.backend = fmt::format("cpu {}", ops_->name());
  info_.threads = threads_for(file, options);
  window_jobs_.resize(static_cast<std::size_t>(options_.max_queued_windows));
  for (std::uint64_t i = window_jobs_.size(); i-- > 0;) free_window_jobs_.push_back(i);
  ready_windows_.reserve(window_jobs_.size());
  if (streams()) {
    bins_per_step_ = config_.bins_per_step();
    const DType cached = ops_->cache_dtype(file.precision());
    layout_ = {config_.layers,
               config_.latents,
               config_.dim,
               config_.window_steps,
               page_steps_for(config_.latents),
               static_cast<int>(size_of(cached))};
    const int total = options_.max_sessions + kDecoders;
    pages_ = std::make_unique<PagePool>(total * layout_.pages_per_session());
    pool_memory_ = ops_->allocate(static_cast<std::size_t>(layout_.page_bytes()) *
                                  static_cast<std::size_t>(pages_->total()));
    ops_->clear(pool_memory_);
    stream_ = std::make_unique<StreamModel>(
        file, *ops_, options_.max_batch,
        StreamPages{pool_memory_.as<std::byte>(), layout_.page_bytes(), layout_.page_steps,
                    cached});
    stream_batch_.reserve(
        options_.max_batch,
        static_cast<std::int64_t>(config_.receptive_steps) * config_.max_events_per_step,
        layout_.pages_per_session());
    ready_.reserve(static_cast<std::size_t>(total));
    for (int i = 0; i < kDecoders; ++i) {
      auto session =
          make_session(++last_id_, {}, 1, static_cast<std::size_t>(options_.max_window_events));
      session->internal = true;
      session->pages = *pages_->acquire(layout_.pages_per_session());
      free_decoders_.push_back(session->id);
      sessions_.emplace(session->id, std::move(session));
    }
  } else {
    window_ = std::make_unique<WindowModel>(
        file, *ops_, options_.max_batch,
        static_cast<std::int64_t>(options_.max_batch) * options_.max_window_events);
  }
  thread_ = std::thread([this] { run(); });
  warm_up();
}

LocalEngine::~LocalEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  thread_.join();
}

std::unique_ptr<Session> LocalEngine::make_session(SessionId id, const SessionOptions& options,
                                                   int queued, std::size_t job_events) const {
  return std::make_unique<Session>(id, config_, options, queued, job_events);
}

void LocalEngine::warm_up() {
  const Event event{0, 1, 0};
  (void)decode({.events = {&event, 1}});
  for (Counter* c : {&batches_, &steps_, &windows_}) c->add(-c->value());
}

Result<SessionInfo> LocalEngine::open_session(const SessionOptions& options) {
  if (!streams())
    return Error{ErrorCode::unsupported,
                 fmt::format("{} is a window model: it keeps no sessions", info_.path), "session"};
  if (options.first_step < 0 || options.first_step > kMaxStep)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("first_step is {}, allowed are 0 to {}", options.first_step, kMaxStep),
                 "first_step"};
  auto rows = match_units(config_, options);
  if (!rows) return rows.error();
  auto session = make_session(0, options, options_.max_queued_steps,
                              static_cast<std::size_t>(config_.max_events_per_step));
  session->unit_rows = *std::move(rows);
  session->last_active_ns = clock_.now();

  const std::lock_guard lock(mutex_);
  auto taken = pages_->acquire(layout_.pages_per_session());
  if (!taken) {
    Error e = taken.error();
    e.message = fmt::format("all {} sessions are taken ({})", options_.max_sessions, e.message);
    return e;
  }
  session->pages = *std::move(taken);
  session->id = ++last_id_;
  const SessionInfo info{session->id, options.first_step};
  sessions_.emplace(session->id, std::move(session));
  return info;
}

Result<SessionSummary> LocalEngine::close_session(SessionId id) {
  std::unique_lock lock(mutex_);
  auto found = sessions_.find(id);
  if (found == sessions_.end() || found->second->internal) return no_session(id);
  // Its waiting steps go with it; one that is being computed is answered first.
  Session* session = found->second.get();
  std::vector<std::pair<StepSink*, std::int64_t>> dropped;
  while (session->queued > (session->in_flight ? 1U : 0U)) {
    const StreamJob& job = session->back();
    dropped.emplace_back(job.sink, job.last_step);
    --session->queued;
  }
  idle_.wait(lock, [&] { return !session->in_flight; });
  SessionSummary s;
  s.steps = session->steps;
  s.late = session->late;
  s.refused = session->refused;
  s.dropped_events = session->dropped_events;
  s.p50_us = static_cast<double>(session->latency.quantile_ns(0.5)) * 1e-3;
  s.p99_us = static_cast<double>(session->latency.quantile_ns(0.99)) * 1e-3;
  s.p999_us = static_cast<double>(session->latency.quantile_ns(0.999)) * 1e-3;
  s.max_us = static_cast<double>(session->latency.max_ns()) * 1e-3;
  (void)pages_->release(session->pages);
  sessions_.erase(id);
  lock.unlock();
  const Error error = {ErrorCode::unavailable, "the session was closed before this step ran",
                       "session_id"};
  for (auto job = dropped.rbegin(); job != dropped.rend(); ++job) {
    StepAnswer answer;
    answer.session = id;
    answer.sequence = job->second;
    answer.error = &error;
    job->first->on_step(answer);
  }
  return s;
}

Result<void> LocalEngine::submit(const StepRequest& request, StepSink& sink) {
  const std::int64_t now = clock_.now();
  const std::lock_guard lock(mutex_);
  if (stopping_) return Error{ErrorCode::unavailable, "the engine is stopping", ""};
  const auto found = sessions_.find(request.session);
  if (found == sessions_.end() || found->second->internal) return no_session(request.session);
  Session& session = *found->second;
  if (request.gap < 0)
    return Error{ErrorCode::invalid_argument, fmt::format("gap is {}, not at least 0", request.gap),
                 "gap"};
  if (request.sequence < 0 || request.sequence > kMaxStep)
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("sequence_number is {}, allowed are 0 to {}", request.sequence, kMaxStep),
        "sequence_number"};
  if (request.sequence - request.gap != session.expected)
    return Error{ErrorCode::out_of_order,
                 fmt::format("sequence_number is {} with a gap of {}, the session expects {} next",
                             request.sequence, request.gap, session.expected),
                 "sequence_number"};
  if (session.queued == session.ring.size())
    return Error{
        ErrorCode::resource_exhausted,
        fmt::format("{} steps of session {} are waiting already", session.queued, session.id),
        "sequence_number"};
  StreamJob& job = session.back_slot();
  auto dropped = take_step_events(config_, session.options, session.unit_rows, request.sequence,
                                  request.events, job.events);
  if (!dropped) return dropped.error();
  job.last_step = request.sequence;
  job.cursor = 0;
  job.deadline_ns = request.deadline_ns;
  job.best_effort = request.best_effort;
  job.dropped_events = *dropped;
  job.submitted_ns = now;
  job.started_ns = 0;
  job.sink = &sink;
  job.window_sink = nullptr;
  session.expected = request.sequence + 1;
  session.last_active_ns = now;
  if (++session.queued == 1 && !session.in_flight) {
    ready_.push(job.deadline_ns, session.id);
    work_.notify_one();
  }
  return {};
}

Result<void> LocalEngine::submit(const WindowRequest& request, WindowSink& sink) {
  const std::int64_t now = clock_.now();
  if (auto ok = check_window_events(config_, request.events, options_.max_window_events); !ok)
    return ok.error();
  const std::lock_guard lock(mutex_);
  if (stopping_) return Error{ErrorCode::unavailable, "the engine is stopping", ""};
  if (free_window_jobs_.empty())
    return Error{ErrorCode::resource_exhausted,
                 fmt::format("{} requests are waiting already", window_jobs_.size()), ""};
  const std::uint64_t index = free_window_jobs_.back();
  free_window_jobs_.pop_back();
  WindowJob& job = window_jobs_[index];
  job.events.assign(request.events.begin(), request.events.end());
  if (streams()) {
    job.events.resize(canonicalize(job.events));
    if (auto ok = check_step_sizes(config_, job.events); !ok) {
      free_window_jobs_.push_back(index);
      return ok.error();
    }
  }
  job.deadline_ns = request.deadline_ns;
  job.best_effort = request.best_effort;
  job.submitted_ns = now;
  job.sink = &sink;
  ready_windows_.push(job.deadline_ns, index);
  work_.notify_one();
  return {};
}

void LocalEngine::run() {
  name_this_thread("cortex-compute");
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [&] { return stopping_ || !ready_.empty() || !ready_windows_.empty(); });
      if (ready_.empty() && ready_windows_.empty()) return;
      if (streams()) start_decodes();
      EdfQueue& queue = streams() ? ready_ : ready_windows_;
      form_batch(queue, static_cast<std::size_t>(options_.max_batch), batch_keys_);
      if (streams()) {
        batch_sessions_.clear();
        for (const std::uint64_t id : batch_keys_) {
          const auto found = sessions_.find(id);
          // Closed while it waited: its steps were answered then.
          if (found == sessions_.end() || found->second->queued == 0) continue;
          found->second->in_flight = true;
          batch_sessions_.push_back(found->second.get());
        }
      }
    }
    for (const Refusal& r : refusals_) fail_window(*r.sink, r.submitted_ns);
    refusals_.clear();
    if (streams()) {
      run_stream_batch();
    } else {
      run_window_batch();
    }
  }
}

void LocalEngine::start_decodes() {
  while (!ready_windows_.empty() && !free_decoders_.empty()) {
    const std::uint64_t index = ready_windows_.pop().key;
    WindowJob& from = window_jobs_[index];
    free_window_jobs_.push_back(index);
    if (!from.best_effort && clock_.now() > from.deadline_ns) {
      refusals_.push_back({from.sink, from.submitted_ns});
      continue;
    }
    Session& session = *sessions_.at(free_decoders_.back());
    free_decoders_.pop_back();
    StreamJob& job = session.back_slot();
    job.events.swap(from.events);
    const std::int64_t last_bin = job.events.empty() ? 0 : job.events.back().bin;
    job.last_step = last_bin / bins_per_step_;
    job.cursor = 0;
    job.deadline_ns = from.deadline_ns;
    job.best_effort = from.best_effort;
    job.submitted_ns = from.submitted_ns;
    job.started_ns = 0;
    job.sink = nullptr;
    job.window_sink = from.sink;
    session.state.restart(0);
    session.queued = 1;
    ready_.push(job.deadline_ns, session.id);
  }
}

void LocalEngine::run_stream_batch() {
  if (batch_sessions_.empty()) return;
  const std::int64_t started = clock_.now();
  stream_batch_.clear();
  for (Session* session : batch_sessions_) {
    if (session->front().started_ns == 0) session->front().started_ns = started;
    session->advance(bins_per_step_, info_.context_steps);
    session->append_to(stream_batch_, bins_per_step_);
  }
  const auto behavior = stream_->forward(stream_batch_);
  const auto outputs = static_cast<std::size_t>(config_.outputs());
  batches_.add();
  for (std::size_t i = 0; i < batch_sessions_.size(); ++i) {
    Session& session = *batch_sessions_[i];
    if (session.front_finished()) answer_front(session, behavior.subspan(i * outputs, outputs));
  }
  const std::lock_guard lock(mutex_);
  for (Session* session : batch_sessions_) {
    session->in_flight = false;
    if (session->queued > 0) {
      ready_.push(session->front().deadline_ns, session->id);
    } else if (session->internal) {
      free_decoders_.push_back(session->id);
    }
  }
  idle_.notify_all();
}

void LocalEngine::answer_front(Session& session, std::span<const float> behavior) {
  const std::int64_t now = clock_.now();
  StreamJob& front = session.front();
  const bool in_time = now <= front.deadline_ns;
  StepAnswer answer;
  answer.session = session.id;
  answer.sequence = front.last_step;
  answer.status = in_time             ? StepStatus::fresh
                  : front.best_effort ? StepStatus::late
                                      : StepStatus::refused;
  if (answer.status != StepStatus::refused) answer.behavior = behavior;
  answer.dropped_events = front.dropped_events;
  answer.submitted_ns = front.submitted_ns;
  answer.started_ns = front.started_ns;
  answer.finished_ns = now;
  StepSink* const sink = front.sink;
  WindowSink* const window_sink = front.window_sink;
  {
    // The slot is free before the answer leaves, so that its receiver may queue the next step.
    const std::lock_guard lock(mutex_);
    if (!session.internal) {
      ++session.steps;
      if (answer.status == StepStatus::late) ++session.late;
      if (answer.status == StepStatus::refused) ++session.refused;
      session.dropped_events += front.dropped_events;
      session.last_active_ns = now;
      session.latency.record(now - front.submitted_ns);
    }
    session.pop_front();
  }
  if (answer.status == StepStatus::late) late_.add();
  if (answer.status == StepStatus::refused) refused_.add();
  if (sink) {
    steps_.add();
    sink->on_step(answer);
    return;
  }
  windows_.add();
  const Error error = too_late();
  WindowAnswer window;
  window.behavior = answer.behavior;
  window.submitted_ns = answer.submitted_ns;
  window.started_ns = answer.started_ns;
  window.finished_ns = now;
  if (answer.status == StepStatus::refused) window.error = &error;
  window_sink->on_window(window);
}

void LocalEngine::fail_window(WindowSink& sink, std::int64_t submitted_ns) {
  refused_.add();
  const Error error = too_late();
  WindowAnswer answer;
  answer.submitted_ns = submitted_ns;
  answer.finished_ns = clock_.now();
  answer.error = &error;
  sink.on_window(answer);
}

void LocalEngine::run_window_batch() {
  const std::int64_t started = clock_.now();
  window_batch_.clear();
  std::size_t kept = 0;
  for (const std::uint64_t index : batch_keys_) {
    WindowJob& job = window_jobs_[index];
    if (!job.best_effort && started > job.deadline_ns) {
      fail_window(*job.sink, job.submitted_ns);
      const std::lock_guard lock(mutex_);
      free_window_jobs_.push_back(index);
      continue;
    }
    batch_keys_[kept++] = index;
    for (const Event& e : job.events) {
      window_batch_.neuron.push_back(e.unit);
      window_batch_.bin.push_back(static_cast<std::int32_t>(e.bin));
      window_batch_.value.push_back(e.value);
    }
    window_batch_.indptr.push_back(static_cast<std::int32_t>(window_batch_.neuron.size()));
    window_batch_.window_bins.push_back(config_.window_bins > 0 ? config_.window_bins
                                                                : config_.max_bins);
  }
  batch_keys_.resize(kept);
  if (kept == 0) return;
  const auto behavior = window_->forward(window_batch_);
  const auto outputs = static_cast<std::size_t>(config_.outputs());
  batches_.add();
  for (std::size_t i = 0; i < kept; ++i) {
    const WindowJob& job = window_jobs_[batch_keys_[i]];
    const Error error = too_late();
    WindowAnswer answer;
    answer.submitted_ns = job.submitted_ns;
    answer.started_ns = started;
    answer.finished_ns = clock_.now();
    windows_.add();
    if (answer.finished_ns > job.deadline_ns && !job.best_effort) {
      refused_.add();
      answer.error = &error;
    } else {
      if (answer.finished_ns > job.deadline_ns) late_.add();
      answer.behavior = behavior.subspan(i * outputs, outputs);
    }
    job.sink->on_window(answer);
    const std::lock_guard lock(mutex_);
    free_window_jobs_.push_back(batch_keys_[i]);
  }
}

int LocalEngine::expire_idle_sessions() {
  const auto timeout = static_cast<std::int64_t>(options_.idle_timeout_s * 1e9);
  const std::int64_t now = clock_.now();
  std::vector<SessionId> idle;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, session] : sessions_)
      if (!session->internal && session->queued == 0 && !session->in_flight &&
          now - session->last_active_ns > timeout)
        idle.push_back(id);
  }
  for (const SessionId id : idle) (void)close_session(id);
  return static_cast<int>(idle.size());
}

EngineStats LocalEngine::stats() const {
  EngineStats s;
  s.batches = batches_.value();
  s.steps = steps_.value();
  s.windows = windows_.value();
  s.late = late_.value();
  s.refused = refused_.value();
  const std::lock_guard lock(mutex_);
  s.queue_depth = static_cast<std::int64_t>(ready_windows_.size());
  for (const auto& [id, session] : sessions_) {
    if (session->internal) continue;
    ++s.sessions;
    s.queue_depth += static_cast<std::int64_t>(session->queued);
  }
  if (pages_) {
    // The pages of stateless requests are set aside for good and belong to no session.
    const std::int64_t aside = std::int64_t{kDecoders} * layout_.pages_per_session();
    s.pages_used = pages_->used() - aside;
    s.pages_total = pages_->total() - aside;
    s.cache_bytes = static_cast<std::int64_t>(pool_memory_.bytes());
  }
  return s;
}

}  // namespace cortex
