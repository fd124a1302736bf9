#include "scheduler/policies.h"

#include <algorithm>
#include <map>

namespace cortex {
namespace {

class CortexPolicy final : public SchedulingPolicy {
 public:
  CortexPolicy(const PolicyOptions& options, std::span<const BatchCost> measured)
      : scheduler_({.max_batch = options.max_batch,
                    .max_windows = options.max_queued,
                    .max_tenants = kTenants,
                    .max_utilisation = options.max_utilisation,
                    .max_tenant_utilisation = options.max_utilisation},
                   CostModel(options.max_batch, measured)) {}

  std::string_view name() const override { return "cortex"; }
  bool open_session(int session, double rate_hz, TimeNs now) override {
    StepFlow flow{.rate_hz = rate_hz};
    if (scheduler_.admit_session(flow, now).door != Scheduler::Door::open) return false;
    flows_.emplace(session, flow);
    return true;
  }
  bool offer(const Pending& pending, TimeNs now) override {
    const Request& r = pending.request;
    if (r.session >= 0) {
      scheduler_.push_step(
          {.key = pending.id, .arrived = r.arrived, .deadline = r.deadline, .keys = r.keys},
          flows_.at(r.session));
      return true;
    }
    return scheduler_.offer(
               {.key = pending.id, .deadline = r.deadline, .keys = r.keys, .tenant = r.tenant},
               now) == Verdict::taken;
  }
  std::span<const std::uint64_t> next(TimeNs now) override {
    const FormedBatch& batch =
        scheduler_.steps_ready() ? scheduler_.next_steps(now) : scheduler_.next_windows(now);
    taken_.clear();
    shed_.clear();
    in_flight_.clear();
    for (const Work& work : batch.taken) {
      taken_.push_back(work.key);
      if (work.window) in_flight_.push_back(work.tenant);
    }
    for (const Work& work : batch.shed) {
      shed_.push_back(work.key);
      scheduler_.release_window(work.tenant);
    }
    return taken_;
  }
  std::span<const std::uint64_t> shed() const override { return shed_; }
  void finished(TimeNs now) override {
    scheduler_.finished(now);
    for (const std::uint32_t tenant : in_flight_) scheduler_.release_window(tenant);
  }

 private:
  static constexpr int kTenants = 64;
  Scheduler scheduler_;
  std::map<int, StepFlow> flows_;
  std::vector<std::uint64_t> taken_;
  std::vector<std::uint64_t> shed_;
  std::vector<std::uint32_t> in_flight_;  // tenants
};

enum class Order { arrival, deadline };

class QueuePolicy final : public SchedulingPolicy {
 public:
  QueuePolicy(std::string_view name, const PolicyOptions& options, Order order, TimeNs window)
      : name_(name), options_(options), order_(order), window_(window) {}

  std::string_view name() const override { return name_; }
  bool offer(const Pending& pending, TimeNs /*now*/) override {
    const Request& r = pending.request;
    if (r.session < 0 && waiting_.size() >= static_cast<std::size_t>(options_.max_queued))
      return false;
    waiting_.emplace(std::pair{order_ == Order::arrival ? r.arrived : r.deadline, pending.id},
                     r.arrived);
    return true;
  }
  std::span<const std::uint64_t> next(TimeNs now) override {
    batch_.clear();
    if (const auto at = wake(); at && *at > now) return {};
    while (!waiting_.empty() && batch_.size() < static_cast<std::size_t>(options_.max_batch)) {
      batch_.push_back(waiting_.begin()->first.second);
      waiting_.erase(waiting_.begin());
    }
    return batch_;
  }
  std::optional<TimeNs> wake() const override {
    if (window_ == 0 || waiting_.empty() ||
        waiting_.size() >= static_cast<std::size_t>(options_.max_batch))
      return std::nullopt;
    return waiting_.begin()->second + window_;
  }

 private:
  std::string_view name_;
  PolicyOptions options_;
  Order order_;
  TimeNs window_;
  std::map<std::pair<TimeNs, std::uint64_t>, TimeNs> waiting_;  // (order, id): arrived
  std::vector<std::uint64_t> batch_;
};

}  // namespace

std::unique_ptr<SchedulingPolicy> make_cortex_policy(const PolicyOptions& options,
                                                     std::span<const BatchCost> measured) {
  return std::make_unique<CortexPolicy>(options, measured);
}

std::unique_ptr<SchedulingPolicy> make_fifo_policy(const PolicyOptions& options) {
  return std::make_unique<QueuePolicy>("fifo", options, Order::arrival, 0);
}

std::unique_ptr<SchedulingPolicy> make_fixed_window_policy(const PolicyOptions& options,
                                                           TimeNs window) {
  return std::make_unique<QueuePolicy>("fixed_window", options, Order::arrival, window);
}

std::unique_ptr<SchedulingPolicy> make_plain_edf_policy(const PolicyOptions& options) {
  return std::make_unique<QueuePolicy>("edf", options, Order::deadline, 0);
}

}  // namespace cortex
