#include <cortex/cortex.h>
#include <cortex/engine.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "core/semaphore.h"

static_assert(sizeof(cortex_event) == sizeof(cortex::Event) &&
              offsetof(cortex_event, value) == offsetof(cortex::Event, value) &&
              offsetof(cortex_event, bin) == offsetof(cortex::Event, bin));

struct cortex_engine {
  std::unique_ptr<cortex::Engine> engine;
};

/// A session, and where its one step in flight is answered.
struct cortex_session final : cortex::StepSink {
  cortex_session(cortex_engine& owner, cortex::SessionInfo info)
      : engine(*owner.engine), id(info.id), next(info.next_step) {}

  void on_step(const cortex::StepAnswer& answer) noexcept override {
    std::copy(answer.behavior.begin(), answer.behavior.end(), out);
    failure = answer.error;
    if (answer.error) error = *answer.error;
    settled.post();
  }

  cortex::Engine& engine;
  cortex::SessionId id;
  std::int64_t next;  // step
  std::int64_t gap = 0;
  cortex::Semaphore settled;
  float* out = nullptr;
  bool failure = false;
  cortex::Error error;
};

namespace {

thread_local std::string last_error;

cortex_status fail(const cortex::Error& error) {
  using cortex::ErrorCode;
  last_error = error.message;
  switch (error.code) {
    case ErrorCode::invalid_argument:
      return CORTEX_INVALID_ARGUMENT;
    case ErrorCode::not_found:
      return CORTEX_NOT_FOUND;
    case ErrorCode::out_of_order:
      return CORTEX_OUT_OF_ORDER;
    case ErrorCode::too_large:
      return CORTEX_TOO_LARGE;
    case ErrorCode::resource_exhausted:
      return CORTEX_RESOURCE_EXHAUSTED;
    case ErrorCode::corrupt_data:
      return CORTEX_CORRUPT_DATA;
    case ErrorCode::unsupported:
      return CORTEX_UNSUPPORTED;
    case ErrorCode::deadline_exceeded:
      return CORTEX_DEADLINE_EXCEEDED;
    case ErrorCode::unavailable:
      return CORTEX_UNAVAILABLE;
    case ErrorCode::io_error:
      return CORTEX_IO_ERROR;
    case ErrorCode::internal:
      return CORTEX_INTERNAL;
  }
  return CORTEX_INTERNAL;
}
cortex_status refuse(std::string message) {
  return fail({cortex::ErrorCode::invalid_argument, std::move(message), {}});
}

/// No exception crosses into C.
template <class Call>
cortex_status guarded(const Call& call) noexcept {
  try {
    return call();
  } catch (const cortex::Exception& e) {
    return fail(e.error);
  } catch (const std::bad_alloc&) {
    return fail({cortex::ErrorCode::resource_exhausted, "out of memory", {}});
  } catch (const std::exception& e) {
    return fail({cortex::ErrorCode::internal, e.what(), {}});
  }
}

}  // namespace

extern "C" {

int32_t cortex_abi_version(void) { return CORTEX_ABI_VERSION; }

const char* cortex_error(void) { return last_error.c_str(); }

cortex_status cortex_load(const char* model_path, const cortex_options* options,
                          cortex_engine** engine) {
  if (engine == nullptr) return refuse("engine is NULL");
  *engine = nullptr;
  return guarded([&] {
    if (model_path == nullptr) return refuse("model_path is NULL");
    cortex_options given{};
    if (options != nullptr) {
      if (options->size < offsetof(cortex_options, device) + sizeof(options->device) ||
          options->size > sizeof(given))
        return refuse(fmt::format("options.size is {}, not sizeof(cortex_options), {}",
                                  options->size, sizeof(given)));
      std::memcpy(&given, options, options->size);
    }
    cortex::EngineOptions o;
    o.model_path = model_path;
    if (given.device != nullptr) o.device = given.device;
    if (given.max_sessions != 0) o.max_sessions = given.max_sessions;
    o.threads = given.threads;
    o.realtime = given.realtime != 0;
    o.idle_timeout_s = 1e9;  // a session is its program's until closed
    auto made = cortex::Engine::create(o);
    if (!made) return fail(made.error());
    if ((*made)->model().kind != "stream")
      return fail(
          {cortex::ErrorCode::unsupported,
           fmt::format("{} is a {} model, not a stream model", model_path, (*made)->model().kind),
           {}});
    *engine = new cortex_engine{*std::move(made)};
    return CORTEX_OK;
  });
}

void cortex_free(cortex_engine* engine) { delete engine; }

size_t cortex_output_count(const cortex_engine* engine) {
  return engine->engine->model().outputs.size();
}
const char* cortex_output_name(const cortex_engine* engine, size_t index) {
  const auto& outputs = engine->engine->model().outputs;
  return index < outputs.size() ? outputs[index].name.c_str() : nullptr;
}
const char* cortex_output_unit(const cortex_engine* engine, size_t index) {
  const auto& outputs = engine->engine->model().outputs;
  return index < outputs.size() ? outputs[index].unit.c_str() : nullptr;
}
size_t cortex_unit_count(const cortex_engine* engine) {
  return engine->engine->model().unit_ids.size();
}
const char* cortex_unit_id(const cortex_engine* engine, size_t index) {
  const auto& ids = engine->engine->model().unit_ids;
  return index < ids.size() ? ids[index].c_str() : nullptr;
}
int32_t cortex_bins_per_step(const cortex_engine* engine) {
  return engine->engine->model().bins_per_step;
}
double cortex_bin_ms(const cortex_engine* engine) { return engine->engine->model().bin_ms; }

cortex_status cortex_open(cortex_engine* engine, const char* const* unit_ids, size_t count,
                          cortex_session** session) {
  if (session == nullptr) return refuse("session is NULL");
  *session = nullptr;
  return guarded([&] {
    if (engine == nullptr) return refuse("engine is NULL");
    if (unit_ids == nullptr && count > 0)
      return refuse(fmt::format("unit_ids is NULL, but count is {}", count));
    // A program in process paces itself: it reserves nothing.
    cortex::SessionOptions o{.best_effort = true};
    for (size_t i = 0; i < count; ++i) {
      if (unit_ids[i] == nullptr) return refuse(fmt::format("unit_ids[{}] is NULL", i));
      o.unit_ids.emplace_back(unit_ids[i]);
    }
    auto opened = engine->engine->open_session(o);
    if (!opened) return fail(opened.error());
    *session = new cortex_session(*engine, *opened);
    return CORTEX_OK;
  });
}

void cortex_close(cortex_session* session) {
  if (session == nullptr) return;
  (void)guarded([&] {
    (void)session->engine.close_session(session->id);
    return CORTEX_OK;
  });
  delete session;
}

int64_t cortex_next_step(const cortex_session* session) { return session->next; }

cortex_status cortex_step(cortex_session* session, const cortex_event* events, size_t count,
                          float* behavior, size_t outputs) {
  return guarded([&] {
    if (session == nullptr) return refuse("session is NULL");
    if (events == nullptr && count > 0)
      return refuse(fmt::format("events is NULL, but count is {}", count));
    const size_t needed = session->engine.model().outputs.size();
    if (behavior == nullptr || outputs < needed)
      return refuse(fmt::format("behavior has room for {} values, not {}",
                                behavior == nullptr ? 0 : outputs, needed));
    session->out = behavior;
    const cortex::StepRequest request{
        .session = session->id,
        .sequence = session->next,
        .gap = session->gap,
        .events = {reinterpret_cast<const cortex::Event*>(events), count},
        .best_effort = true};
    if (auto taken = session->engine.submit(request, *session); !taken) return fail(taken.error());
    session->settled.wait();
    ++session->next;
    session->gap = 0;
    return session->failure ? fail(session->error) : CORTEX_OK;
  });
}

cortex_status cortex_skip(cortex_session* session, int64_t steps) {
  return guarded([&] {
    if (session == nullptr) return refuse("session is NULL");
    if (steps < 0 || steps > INT64_MAX - session->next)
      return refuse(fmt::format("steps is {}: none can be skipped", steps));
    session->gap += steps;
    session->next += steps;
    return CORTEX_OK;
  });
}

}  // extern "C"
