#include "engine/local_engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/realtime.h"
#include "engine/validate.h"
#include "kernels/backend.h"

namespace cortex {
namespace {

// Parameters from which a step is worth a second core.
constexpr std::int64_t kShareParameters = 2'000'000;
// More cores than this meet more often than they work.
constexpr int kMostDefaultThreads = 4;
// Stateless requests that run at once as streams of their own on a stream model.
constexpr int kDecoders = 2;

int threads_for(const ModelFile& file, const EngineOptions& options) {
  if (options.threads > 0) return options.threads;
  if (file.parameter_count() < kShareParameters) return 1;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMostDefaultThreads);
}

CpuOptions cpu_options(const ModelFile& file, const EngineOptions& options) {
  CpuOptions cpu;
  cpu.threads = threads_for(file, options);
  if (options.realtime)
    cpu.on_helper = [threads = cpu.threads](int thread) {
      (void)make_this_thread_realtime(compute_cores(threads)[static_cast<std::size_t>(thread)]);
    };
  return cpu;
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

Error is_stopping() { return {ErrorCode::unavailable, "the engine is stopping", ""}; }

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
  auto engine = LocalEngine::create(options, *file);
  if (!engine) return engine.error();
  return std::unique_ptr<Engine>(*std::move(engine));
}

Result<std::unique_ptr<LocalEngine>> LocalEngine::create(const EngineOptions& options,
                                                         const ModelFile& file) {
  try {
    auto backend = make_backend(options.device, cpu_options(file, options));
    if (!backend) return backend.error();
    return std::make_unique<LocalEngine>(options, file, *std::move(backend));
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::resource_exhausted,
                 fmt::format("not enough memory for {} sessions of {}", options.max_sessions,
                             options.model_path),
                 "max_sessions"};
  }
}

LocalEngine::LocalEngine(const EngineOptions& options, const ModelFile& file, Backend backend)
    : options_(options),
      config_(file.config),
      info_(describe(file, options)),
      ops_(std::move(backend.ops)),
      too_late_{ErrorCode::deadline_exceeded, "the answer would have come after its deadline",
                "deadline_ms"} {
  info_.backend = backend.name;
  info_.backend_note = backend.note;
  info_.threads = backend.on_gpu ? 1 : threads_for(file, options);
  const auto batch = static_cast<std::size_t>(options_.max_batch);
  batch_keys_.reserve(batch);
  batch_sessions_.reserve(batch);
  window_jobs_.resize(static_cast<std::size_t>(options_.max_queued_windows));
  for (WindowJob& job : window_jobs_)
    job.events.reserve(static_cast<std::size_t>(options_.max_window_events));
  for (std::uint64_t i = window_jobs_.size(); i-- > 0;) free_window_jobs_.push_back(i);
  ready_windows_.reserve(window_jobs_.size());
  refusals_.reserve(window_jobs_.size());
  if (streams())
    reserve_streams(file);
  else
    reserve_windows(file);
  warm_up();
  thread_ = std::thread([this] { run(); });
  run_once();
  if (!options_.realtime) return;
  // Now that every buffer exists.
  realtime_.push_back(prefault_memory());
  realtime_.push_back(lock_memory());
}

void LocalEngine::reserve_streams(const ModelFile& file) {
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
      StreamPages{pool_memory_.as<std::byte>(), layout_.page_bytes(), layout_.page_steps, cached});
  ready_.reserve(static_cast<std::size_t>(total));
  for (int i = 0; i < kDecoders; ++i) {
    decoders_.push_back(
        std::make_unique<Session>(++last_id_, config_, SessionOptions{}, 1,
                                  static_cast<std::size_t>(options_.max_window_events)));
    decoders_.back()->internal = true;
    decoders_.back()->pages = *pages_->acquire(layout_.pages_per_session());
    free_decoders_.push_back(decoders_.back().get());
  }
}

void LocalEngine::reserve_windows(const ModelFile& file) {
  const auto events = static_cast<std::int64_t>(options_.max_batch) * options_.max_window_events;
  window_ = std::make_unique<WindowModel>(file, *ops_, options_.max_batch, events);
  window_batch_.reserve(options_.max_batch, events);
}

LocalEngine::~LocalEngine() {
  {
    const std::lock_guard lock(queue_mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  thread_.join();
}

void LocalEngine::warm_up() {
  if (streams())
    stream_->warm_up();
  else
    window_->warm_up();
}

void LocalEngine::run_once() {
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
  const auto session =
      std::make_shared<Session>(SessionId{0}, config_, options, options_.max_queued_steps,
                                static_cast<std::size_t>(config_.max_events_per_step));
  session->unit_rows = *std::move(rows);
  session->last_active_ns = clock_.now();

  const std::lock_guard lock(registry_mutex_);
  auto taken = pages_->acquire(layout_.pages_per_session());
  if (!taken) {
    Error e = taken.error();
    e.message = fmt::format("all {} sessions are taken ({})", options_.max_sessions, e.message);
    return e;
  }
  session->pages = *std::move(taken);
  session->id = ++last_id_;
  sessions_.emplace(session->id, session);
  return SessionInfo{session->id, options.first_step};
}

std::shared_ptr<Session> LocalEngine::find_session(SessionId id) const {
  const std::lock_guard lock(registry_mutex_);
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : found->second;
}

Result<SessionSummary> LocalEngine::close_session(SessionId id) {
  std::shared_ptr<Session> session;
  {
    const std::lock_guard lock(registry_mutex_);
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return no_session(id);
    session = std::move(found->second);
    sessions_.erase(found);
  }
  {
    const std::lock_guard intake(session->intake);
    session->closed = true;
  }
  struct Dropped {
    StepSink* sink;
    std::int64_t step;
  };
  std::vector<Dropped> dropped;
  dropped.reserve(session->ring.size());
  const auto drop = [&] {
    const StreamJob& job = session->pop_back();
    dropped.push_back({job.sink, job.last_step});
  };
  {
    // Its waiting steps go with it; one that is being computed is answered first, unless it has
    // empty steps yet to run.
    std::unique_lock lock(queue_mutex_);
    while (session->queued > (session->in_flight ? 1U : 0U)) drop();
    idle_.wait(lock, [&] { return !session->in_flight; });
    while (session->queued > 0) drop();
    ready_.erase(key_of(*session));
  }
  {
    const std::lock_guard lock(registry_mutex_);
    (void)pages_->release(session->pages);
  }
  const Error error = {ErrorCode::unavailable, "the session was closed before this step ran",
                       "session_id"};
  for (auto job = dropped.rbegin(); job != dropped.rend(); ++job) {
    StepAnswer answer;
    answer.session = id;
    answer.sequence = job->step;
    answer.error = &error;
    job->sink->on_step(answer);
  }
  SessionSummary s;
  s.steps = session->steps;
  s.late = session->late;
  s.refused = session->refused;
  s.dropped_events = session->dropped_events;
  s.p50_us = static_cast<double>(session->latency.quantile_ns(0.5)) * 1e-3;
  s.p99_us = static_cast<double>(session->latency.quantile_ns(0.99)) * 1e-3;
  s.p999_us = static_cast<double>(session->latency.quantile_ns(0.999)) * 1e-3;
  s.max_us = static_cast<double>(session->latency.max_ns()) * 1e-3;
  return s;
}

Result<void> LocalEngine::submit(const StepRequest& request, StepSink& sink) {
  const std::int64_t now = clock_.now();
  const std::shared_ptr<Session> found = find_session(request.session);
  if (!found) return no_session(request.session);
  Session& session = *found;
  const std::lock_guard intake(session.intake);
  if (session.closed) return no_session(request.session);
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
  if (session.full())
    return Error{
        ErrorCode::resource_exhausted,
        fmt::format("{} steps of session {} are waiting already", session.ring.size(), session.id),
        "sequence_number"};
  StreamJob& job = session.tail_slot();
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
  {
    const std::lock_guard lock(queue_mutex_);
    if (stopping_) return is_stopping();
    session.push_back();
    if (session.queued == 1 && !session.in_flight) ready_.push(job.deadline_ns, key_of(session));
  }
  work_.notify_one();
  return {};
}

Result<std::uint64_t> LocalEngine::take_window_job() {
  {
    const std::lock_guard lock(queue_mutex_);
    if (stopping_) return is_stopping();
    if (!free_window_jobs_.empty()) {
      const std::uint64_t index = free_window_jobs_.back();
      free_window_jobs_.pop_back();
      return index;
    }
  }
  return Error{ErrorCode::resource_exhausted,
               fmt::format("{} requests are waiting already", window_jobs_.size()), ""};
}

Result<void> LocalEngine::submit(const WindowRequest& request, WindowSink& sink) {
  const std::int64_t now = clock_.now();
  if (auto ok = check_window_events(config_, request.events, options_.max_window_events); !ok)
    return ok.error();
  const auto taken = take_window_job();
  if (!taken) return taken.error();
  WindowJob& job = window_jobs_[*taken];
  job.events.assign(request.events.begin(), request.events.end());
  Result<void> checked;
  if (streams()) {
    job.events.resize(canonicalize(job.events));
    checked = check_step_sizes(config_, job.events);
  }
  job.deadline_ns = request.deadline_ns;
  job.best_effort = request.best_effort;
  job.submitted_ns = now;
  job.sink = &sink;
  {
    const std::lock_guard lock(queue_mutex_);
    if (!checked || stopping_) {
      free_window_jobs_.push_back(*taken);
      return checked ? is_stopping() : checked;
    }
    ready_windows_.push(job.deadline_ns, *taken);
  }
  work_.notify_one();
  return {};
}

int LocalEngine::expire_idle_sessions() {
  const auto timeout = static_cast<std::int64_t>(options_.idle_timeout_s * 1e9);
  const std::int64_t now = clock_.now();
  std::vector<SessionId> idle;
  {
    const std::lock_guard lock(registry_mutex_);
    for (const auto& [id, session] : sessions_)
      if (session->queued == 0 && now - session->last_active_ns > timeout) idle.push_back(id);
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
  {
    const std::lock_guard lock(queue_mutex_);
    s.queue_depth = static_cast<std::int64_t>(ready_windows_.size());
  }
  const std::lock_guard lock(registry_mutex_);
  s.sessions = static_cast<std::int64_t>(sessions_.size());
  for (const auto& [id, session] : sessions_)
    s.queue_depth += static_cast<std::int64_t>(session->queued.load());
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
