#include "serve/model_registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

namespace cortex {
namespace {

constexpr std::size_t kLongestName = 128;
/// Loads and unloads that may wait; only administrators ask for them.
constexpr int kMostQueued = 16;

Error unknown_model(std::string_view name, const std::vector<ModelRegistry::Entry>& entries) {
  std::string known;
  for (const auto& entry : entries) known += (known.empty() ? "" : ", ") + entry.source.name;
  return {ErrorCode::not_found,
          fmt::format("no model '{}' here; there {}", name.substr(0, kLongestName),
                      known.empty() ? "is none" : "is " + known),
          "model"};
}

}  // namespace

bool is_model_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

/// A load or an unload on its way to the worker and back.
struct ModelRegistry::Job final : Mailbox::Item {
  ModelRegistry* registry = nullptr;
  bool is_load = true;
  NamedModel source;
  Done done;
  std::optional<Result<std::unique_ptr<Engine>>> outcome;

  void deliver() override {
    const std::unique_ptr<Job> self(this);
    registry->finish(*this);
  }
};

ModelRegistry::ModelRegistry(EngineFactory factory, std::string repository, Tracer& tracer,
                             Mailbox& mailbox)
    : factory_(std::move(factory)),
      repository_(std::move(repository)),
      tracer_(tracer),
      mailbox_(mailbox),
      worker_(std::make_unique<Worker>()) {}

ModelRegistry::~ModelRegistry() { shut_down(); }

ModelRegistry::Entry* ModelRegistry::find_entry(std::string_view name) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& e) { return e.source.name == name; });
  return found == entries_.end() ? nullptr : &*found;
}

const ModelRegistry::Entry* ModelRegistry::entry(std::string_view name) const {
  if (name.empty()) return entries_.empty() ? nullptr : &entries_.front();
  return const_cast<ModelRegistry*>(this)->find_entry(name);
}

void ModelRegistry::declare(const NamedModel& source) {
  if (find_entry(source.name) == nullptr) entries_.push_back({.source = source});
}

void ModelRegistry::attach(const std::string& name, Engine& engine) {
  declare({name, engine.model().path});
  Entry& entry = *find_entry(name);
  entry.current = make_model(entry, nullptr, &engine);
  entry.status = Status::ready;
}

ModelRef ModelRegistry::make_model(Entry& entry, std::unique_ptr<Engine> owned, Engine* engine) {
  auto* model = new ServedModel;
  model->name = entry.source.name;
  model->version = ++entry.loads;
  model->engine = engine;
  model->owned = std::move(owned);
  // An engine that ends joins threads and returns memory: not on the network thread.
  ModelRef ref(model, [this](ServedModel* gone) {
    gone->batches.flush(tracer_);
    if (worker_ && gone->owned)
      worker_->run([gone] { delete gone; });
    else
      delete gone;
  });
  std::erase_if(alive_, [](const auto& weak) { return weak.expired(); });
  alive_.push_back(ref);
  return ref;
}

Result<ModelRegistry::Entry*> ModelRegistry::entry_to_load(const std::string& name) {
  if (Entry* entry = find_entry(name)) {
    if (factory_) return entry;
    return Error{ErrorCode::unsupported, "this server cannot load models", "model"};
  }
  if (repository_.empty() || !factory_) return unknown_model(name, entries_);
  if (!is_model_name(name))
    return Error{ErrorCode::invalid_argument,
                 "a model's name has letters, digits, '.', '_' and '-', and begins with no dot",
                 "model"};
  declare({name, fmt::format("{}/{}.safetensors", repository_, name)});
  return find_entry(name);
}

void ModelRegistry::load(const std::string& name, Done done) {
  const auto entry = entry_to_load(name);
  if (!entry) return done(entry.error());
  if (queued_ >= kMostQueued)
    return done(Error{ErrorCode::resource_exhausted, "too many models are being loaded", "model"});
  ++queued_;
  (*entry)->status = (*entry)->current ? Status::ready : Status::loading;
  auto* job = new Job;
  job->registry = this;
  job->source = (*entry)->source;
  job->done = std::move(done);
  worker_->run([this, job] {
    job->outcome.emplace(factory_(job->source));
    mailbox_.post(*job);
  });
}

void ModelRegistry::unload(const std::string& name, Done done) {
  if (find_entry(name) == nullptr) return done(unknown_model(name, entries_));
  if (queued_ >= kMostQueued)
    return done(Error{ErrorCode::resource_exhausted, "too many models are being loaded", "model"});
  ++queued_;
  auto* job = new Job;
  job->registry = this;
  job->is_load = false;
  job->source.name = name;
  job->done = std::move(done);
  // Through the worker, so that it takes effect after the loads that were asked for before.
  worker_->run([this, job] { mailbox_.post(*job); });
}

void ModelRegistry::finish(Job& job) {
  --queued_;
  if (shut_) return job.done(Error{ErrorCode::unavailable, "the server is shutting down", ""});
  Entry& entry = *find_entry(job.source.name);
  if (!job.is_load) {
    entry.current.reset();
    entry.status = Status::unavailable;
    entry.reason = "unloaded";
    return job.done(ModelRef());
  }
  if (!*job.outcome) {
    entry.reason = job.outcome->error().message;
    entry.status = entry.current ? Status::ready : Status::unavailable;
    return job.done(job.outcome->error());
  }
  std::unique_ptr<Engine> engine = std::move(**job.outcome);
  Engine* const raw = engine.get();
  entry.current = make_model(entry, std::move(engine), raw);
  entry.status = Status::ready;
  entry.reason.clear();
  job.done(entry.current);
}

Result<ModelRef> ModelRegistry::find(std::string_view name) const {
  const Entry* found = entry(name);
  if (found == nullptr) {
    if (!name.empty()) return unknown_model(name, entries_);
    return Error{ErrorCode::unavailable, "the model is still loading", ""};
  }
  if (found->current) return found->current;
  if (found->status == Status::loading)
    return Error{ErrorCode::unavailable, "the model is still loading", ""};
  return Error{ErrorCode::not_found,
               fmt::format("the model '{}' is not loaded: {}", found->source.name, found->reason),
               "model"};
}

std::vector<ModelRef> ModelRegistry::alive() const {
  std::vector<ModelRef> models;
  for (const auto& weak : alive_)
    if (auto model = weak.lock()) models.push_back(std::move(model));
  return models;
}

bool ModelRegistry::is_ready() const {
  bool any = false;
  for (const Entry& entry : entries_) {
    if (entry.status == Status::loading) return false;
    any = any || entry.current != nullptr;
  }
  return any;
}

void ModelRegistry::shut_down() {
  shut_ = true;
  worker_.reset();
  for (const ModelRef& model : alive()) {
    model->engine = nullptr;
    model->owned.reset();
  }
}

}  // namespace cortex
