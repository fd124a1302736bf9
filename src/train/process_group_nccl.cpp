#include <c10/cuda/CUDAFunctions.h>
#include <torch/version.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <thread>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "train/process_group_c10d.h"

namespace cortex::train {
namespace {

using torch::Tensor;
using SteadyClock = std::chrono::steady_clock;

constexpr auto kBeatEvery = std::chrono::milliseconds(500);
constexpr auto kSilence = std::chrono::seconds(10);

/// NCCL does not notice that the process on the other GPU has died: each rank counts up a key of
/// its own in the store, and watches those of the others.
class Heartbeat {
 public:
  /// `gone` is called once, on another thread, with what was noticed.
  Heartbeat(c10::intrusive_ptr<c10d::Store> store, int rank, int ranks,
            std::function<void(const std::string&)> gone)
      : store_(std::move(store)),
        rank_(rank),
        ranks_(ranks),
        gone_(std::move(gone)),
        thread_([this] { run(); }) {}
  ~Heartbeat() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

 private:
  struct Heard {
    std::int64_t beats = -1;
    SteadyClock::time_point at = SteadyClock::now();
  };

  static std::string key(int rank) { return fmt::format("beats/{}", rank); }

  void run() {
    std::vector<Heard> heard(static_cast<std::size_t>(ranks_));
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kBeatEvery, [this] { return stopping_; })) {
      lock.unlock();
      const std::string noticed = beat(heard);
      if (!noticed.empty()) return gone_(noticed);
      lock.lock();
    }
  }

  std::string beat(std::vector<Heard>& heard) {
    try {
      (void)store_->add(key(rank_), 1);
      for (int r = 0; r < ranks_; ++r) {
        Heard& last = heard[static_cast<std::size_t>(r)];
        const std::int64_t beats = store_->add(key(r), 0);
        if (beats != last.beats) last = {beats, SteadyClock::now()};
        if (SteadyClock::now() - last.at > kSilence)
          return fmt::format("rank {} is silent for {} s", r, kSilence.count());
      }
    } catch (const std::exception& e) {
      return fmt::format("the store of rank 0 does not answer: {}", e.what());
    }
    return {};
  }

  c10::intrusive_ptr<c10d::Store> store_;
  int rank_;
  int ranks_;
  std::function<void(const std::string&)> gone_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

class NcclGroup final : public ProcessGroup {
 public:
  NcclGroup(const RankEnvironment& e, torch::Device device, std::chrono::milliseconds timeout)
      : rank_(e.rank), ranks_(e.ranks), device_(device) {
    // Or this process takes memory of device 0 for a context.
    c10::cuda::set_device(device.index());
    // On a timeout c10d ends the collective, not the process, and writes no dump before that.
    ::setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2", /*overwrite=*/0);
    ::setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", /*overwrite=*/0);
    const auto store = connect(e, timeout, /*first=*/true);
    // What the next stage needs goes before what is computed of this one.
    const auto options = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
    options->timeout = timeout;
    group_ = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, e.rank, e.ranks, options);
    // Over a connection of its own: a request that waits holds up those behind it.
    heartbeat_ = std::make_unique<Heartbeat>(
        connect(e, timeout, /*first=*/false), e.rank, e.ranks,
        [this](const std::string& noticed) { end_collectives(noticed); });
    barrier();
  }
  ~NcclGroup() override {
    heartbeat_.reset();
    abort();
  }

  int rank() const override { return rank_; }
  int ranks() const override { return ranks_; }
  torch::Device device() const override { return device_; }

  std::unique_ptr<Pending> all_gather(Tensor whole, Tensor part) override {
    return begin([&] { return group_->_allgather_base(whole, part); });
  }
  std::unique_ptr<Pending> reduce_scatter(Tensor whole, Tensor part) override {
    return begin([&] { return group_->_reduce_scatter_base(part, whole); });
  }

  std::vector<double> sum(const Tensor& values) override {
    // A collective that was ended early leaves anything: the last value tells whether all came.
    const Tensor one = torch::ones({1}, values.options().dtype(torch::kFloat64));
    std::vector<Tensor> total = {torch::cat({values.to(torch::kFloat64), one})};
    begin([&] { return group_->allreduce(total); })->wait();
    const Tensor host = total[0].to(torch::kCPU);
    const auto* at = host.data_ptr<double>();
    const auto n = host.numel() - 1;
    if (at[n] == static_cast<double>(ranks_)) return {at, at + n};
    throw_if_ended();
    throw Exception{
        {ErrorCode::unavailable, "another rank is gone: it has not come in time", "rank"}};
  }

 private:
  template <class Collective>
  std::unique_ptr<Pending> begin(Collective&& collective) {
    throw_if_ended();
    return together([&] { return std::make_unique<C10dPending>(collective()); });
  }

  void throw_if_ended() {
    if (!ended_) return;
    const std::lock_guard lock(mutex_);
    throw Exception{{ErrorCode::unavailable, "another rank is gone: " + noticed_, "rank"}};
  }

  void end_collectives(const std::string& noticed) {
    {
      const std::lock_guard lock(mutex_);
      noticed_ = noticed;
    }
    ended_ = true;
    abort();
  }

  /// Ends kernels that wait for another rank; what they were to write is lost.
  void abort() noexcept {
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
    try {
      group_->abort();
    } catch (const std::exception&) {
      // The communicator is as gone as it can be.
    }
#endif
  }

  int rank_;
  int ranks_;
  torch::Device device_;
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> group_;
  std::atomic<bool> ended_{false};
  std::mutex mutex_;
  std::string noticed_;
  std::unique_ptr<Heartbeat> heartbeat_;
};

}  // namespace

std::unique_ptr<ProcessGroup> nccl_group(const RankEnvironment& environment, torch::Device device,
                                         std::chrono::milliseconds timeout) {
  return std::make_unique<NcclGroup>(environment, device, timeout);
}

}  // namespace cortex::train
