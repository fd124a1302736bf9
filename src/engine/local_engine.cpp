#include "engine/local_engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/realtime.h"
#include "kernels/backend.h"
#include "model/identity_model.h"
#include "model/linear_model.h"

namespace cortex {
namespace {

// Parameters from which a forward is worth a second core. A stream's step reads each of them once,
// a window's uses each for every latent; between cores that are far apart a stream-xs step
// takes 1.6 times as long on two as on one, and a tenth less between cores that are close.
constexpr std::int64_t kShareWindowParameters = 2'000'000;
constexpr std::int64_t kShareStreamParameters = 8'000'000;
// More cores than this meet more often than they work.
constexpr int kMostDefaultThreads = 4;
// Stateless requests that run at once as streams of their own on a stream model.
constexpr int kDecoders = 2;
// Bytes of an error's text that the compute thread writes without allocating.
constexpr std::size_t kErrorText = 256;

int threads_for(const ModelFile& file, const EngineOptions& options) {
  if (options.threads > 0) return options.threads;
  const std::int64_t least =
      file.config.streams() ? kShareStreamParameters : kShareWindowParameters;
  if (file.parameter_count() < least) return 1;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMostDefaultThreads);
}

ModelInfo describe(const ModelFile& file, const EngineOptions& options) {
  const ModelConfig& c = file.config;
  ModelInfo info;
  info.path = options.model_path;
  info.digest = file.digest;
  info.kind = to_string(c.streams() ? ModelKind::stream : ModelKind::window);
  info.preset = c.preset;
  info.precision = precision_name(file.precision());
  info.parameters = file.parameter_count();
  for (int i = 0; i < c.outputs(); ++i)
    info.outputs.push_back(
        {c.output_names[static_cast<std::size_t>(i)], c.output_units[static_cast<std::size_t>(i)]});
  info.bin_ms = c.bin_ms;
  info.training_json = c.training_json;
  if (c.streams()) {
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

/// `options` with a max_batch and batches_in_flight. A core's time grows with a batch from the
/// first row on; a GPU's hardly does until the rows fill it.
EngineOptions with_batch(EngineOptions options, ModelKind kind, bool on_gpu) {
  constexpr int kOfCpu = 16, kWindowsOfGpu = 64, kStreamsOfGpu = 1024;
  if (options.batches_in_flight == 0) options.batches_in_flight = on_gpu ? 2 : 1;
  if (options.max_batch == 0)
    options.max_batch = !on_gpu                     ? kOfCpu
                        : kind == ModelKind::window ? kWindowsOfGpu
                                                    : std::min(options.max_sessions, kStreamsOfGpu);
  return options;
}

SchedulerOptions scheduler_options(const EngineOptions& options, bool streams) {
  return {.fifo = options.policy == SchedulerPolicy::fifo,
          .max_batch = options.max_batch,
          .max_windows = options.max_queued_windows,
          .max_streams = streams ? options.max_sessions + kDecoders : 0,
          .max_tenants = options.max_tenants,
          .max_tenant_windows = options.max_tenant_windows,
          .max_tenant_sessions = options.max_tenant_sessions,
          .max_utilisation = options.max_utilisation,
          .max_tenant_utilisation = options.max_tenant_utilisation};
}

}  // namespace

CpuOptions cpu_options(const ModelFile& file, const EngineOptions& options) {
  CpuOptions cpu;
  cpu.threads = threads_for(file, options);
  if (options.realtime)
    cpu.on_helper = [threads = cpu.threads](int thread) {
      (void)make_this_thread_realtime(compute_cores(threads)[static_cast<std::size_t>(thread)]);
    };
  return cpu;
}

Result<std::unique_ptr<Engine>> Engine::create(const EngineOptions& options) {
  for (const auto& [field, value] : {std::pair{"max_sessions", options.max_sessions},
                                     {"max_queued_steps", options.max_queued_steps},
                                     {"max_queued_windows", options.max_queued_windows},
                                     {"max_window_events", options.max_window_events},
                                     {"max_tenants", options.max_tenants}})
    if (value < 1)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{} is {}, not at least 1", field, value), field};
  for (const auto& [field, value] :
       {std::pair{"max_batch", options.max_batch}, {"busy_poll_us", options.busy_poll_us}})
    if (value < 0)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{} is {}, not at least 0", field, value), field};
  if (options.batches_in_flight < 0 || options.batches_in_flight > kMostFlights)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("batches_in_flight is {}, not 0 to {}", options.batches_in_flight,
                             kMostFlights),
                 "batches_in_flight"};
  auto file = is_identity_name(options.model_path)
                  ? Result<ModelFile>(identity_model(options.model_path))
                  : load_model(options.model_path);
  if (!file) return file.error();
  auto engine = LocalEngine::create(options, *file);
  if (!engine) return engine.error();
  return std::unique_ptr<Engine>(*std::move(engine));
}

Result<std::unique_ptr<LocalEngine>> LocalEngine::create(const EngineOptions& options,
                                                         const ModelFile& file) {
  try {
    if (options.fp8 && file.config.streams())
      return Error{ErrorCode::invalid_argument,
                   "fp8 is for window models: a stream keeps its bits in any batch", "fp8"};
    // A linear decoder's step is a few thousand products: not worth a device.
    const std::string device = file.config.linear() ? "cpu" : options.device;
    auto backend = make_backend(device, cpu_options(file, options),
                                {.fp8 = options.fp8, .gemm_table = options.gemm_table});
    if (!backend) return backend.error();
    return std::make_unique<LocalEngine>(options, file, *std::move(backend));
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::resource_exhausted,
                 fmt::format("not enough memory for {} sessions of {}", options.max_sessions,
                             options.model_path),
                 "max_sessions"};
  }
}

LocalEngine::LocalEngine(const EngineOptions& options, const ModelFile& file, Backend backend,
                         const Clock& clock)
    : options_(with_batch(options, file.config.kind, backend.on_gpu)),
      config_(file.config),
      clock_(clock),
      info_(describe(file, options)),
      ops_(std::move(backend.ops)),
      too_late_{ErrorCode::deadline_exceeded, "the answer would have come after its deadline",
                "deadline_ms"} {
  info_.backend = backend.name;
  info_.backend_note = backend.note;
  info_.threads = backend.on_gpu ? 1 : threads_for(file, options);
  if (options_.fp8) info_.precision = "fp8";
  lanes_ = options_.batches_in_flight;
  device_ = backend.name.substr(0, backend.name.find(' '));
  if (backend.on_gpu) kept_ = clone(file);
  const auto batch = static_cast<std::size_t>(options_.max_batch);
  for (Flight& flight : flights_) {
    flight.taken.reserve(batch);
    flight.sessions.reserve(batch);
  }
  finished_.reserve(batch);
  // Those of a batch keep their places while they run.
  window_jobs_.resize(static_cast<std::size_t>(options_.max_queued_windows) + batch);
  for (WindowJob& job : window_jobs_)
    job.events.reserve(static_cast<std::size_t>(options_.max_window_events));
  for (std::uint64_t i = window_jobs_.size(); i-- > 0;) free_window_jobs_.push_back(i);
  offers_.reserve(static_cast<std::size_t>(options_.max_sessions));
  taken_offers_.reserve(static_cast<std::size_t>(options_.max_sessions));
  refused_.reserve(window_jobs_.size() + kDecoders);
  text_error_.message.reserve(kErrorText);
  text_error_.field.reserve(kErrorText);
  if (streams()) reserve_streams(file);
  place_model(file);
  warm_up();
  scheduler_.emplace(scheduler_options(options_, streams()),
                     CostModel(options_.max_batch, measure_batches()));
  thread_ = std::thread([this] { run(); });
  state_ = EngineState::ready;
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
  // The pages of stateless requests are set aside for good and belong to no session.
  const std::int32_t per_session = layout_.pages_per_session();
  const std::int32_t pages = options_.max_sessions * per_session;
  sessions_.emplace(pages, per_session);
  pool_bytes_ = static_cast<std::size_t>(layout_.page_bytes()) *
                static_cast<std::size_t>(pages + kDecoders * per_session);
  for (int i = 0; i < kDecoders; ++i) {
    decoders_.push_back(
        std::make_unique<Session>(SessionId{0}, config_, SessionOptions{}, 1, std::size_t{0}));
    decoders_.back()->window_events.reserve(static_cast<std::size_t>(options_.max_window_events));
    decoders_.back()->internal = true;
    for (std::int32_t p = 0; p < per_session; ++p)
      decoders_.back()->pages.push_back(pages + i * per_session + p);
    free_decoders_.push_back(decoders_.back().get());
  }
}

void LocalEngine::place_model(const ModelFile& file) {
  if (!streams()) {
    const auto events = static_cast<std::int64_t>(options_.max_batch) * options_.max_window_events;
    if (file.is_identity)
      window_ = std::make_unique<IdentityWindow>(options_.max_batch, events);
    else
      window_ = std::make_unique<WindowModel>(file, *ops_, options_.max_batch, events);
    return;
  }
  pool_memory_ = ops_->allocate(pool_bytes_);
  ops_->clear(pool_memory_);
  const StreamPages pool{pool_memory_.as<std::byte>(), layout_.page_bytes(), layout_.page_steps,
                         ops_->cache_dtype(file.precision())};
  if (file.is_identity)
    stream_ = std::make_unique<IdentityStream>(options_.max_batch);
  else if (file.config.linear())
    stream_ = make_linear_stream(file, options_.max_batch, pool);
  else
    stream_ = std::make_unique<StreamModel>(file, *ops_, options_.max_batch, pool, lanes_);
}

LocalEngine::~LocalEngine() {
  {
    const std::lock_guard lock(queue_mutex_);
    stopping_ = true;
  }
  call_compute();
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
  for (Counter* c : {&count_.batches, &count_.batch_rows, &count_.windows}) c->add(-c->value());
  for (Counter& c : count_.batch_sizes) c.add(-c.value());
}

}  // namespace cortex
