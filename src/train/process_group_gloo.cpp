#include <functional>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "train/process_group_c10d.h"

namespace cortex::train {
namespace {

using torch::Tensor;

class AllPending final : public ProcessGroup::Pending {
 public:
  /// `then`: what is done once all of `works` are over.
  AllPending(std::vector<c10::intrusive_ptr<c10d::Work>> works, std::function<void()> then)
      : works_(std::move(works)), then_(std::move(then)) {}
  void wait() override {
    together([&] {
      for (const auto& work : works_) work->wait();
    });
    then_();
  }

 private:
  std::vector<c10::intrusive_ptr<c10d::Work>> works_;
  std::function<void()> then_;
};

class GlooGroup final : public ProcessGroup {
 public:
  GlooGroup(const RankEnvironment& e, std::chrono::milliseconds timeout)
      : rank_(e.rank), ranks_(e.ranks) {
    const auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    // Where the master is this machine, no other interface need be opened.
    options->devices.push_back(e.master_address == "127.0.0.1" || e.master_address == "localhost"
                                   ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                                   : c10d::ProcessGroupGloo::createDefaultDevice());
    options->threads = 2;
    group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(connect(e, timeout, /*first=*/true),
                                                         e.rank, e.ranks, options);
  }

  int rank() const override { return rank_; }
  int ranks() const override { return ranks_; }
  torch::Device device() const override { return torch::kCPU; }

  std::unique_ptr<Pending> all_gather(Tensor whole, Tensor part) override {
    std::vector<std::vector<Tensor>> out = {whole.chunk(ranks_)};
    std::vector<Tensor> in = {part};
    return together([&] { return std::make_unique<C10dPending>(group_->allgather(out, in)); });
  }

  std::unique_ptr<Pending> reduce_scatter(Tensor whole, Tensor part) override {
    // Gloo has no reduce-scatter: one reduction a slice, all under way at once.
    const std::vector<Tensor> slices = whole.chunk(ranks_);
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    together([&] {
      for (int r = 0; r < ranks_; ++r) {
        c10d::ReduceOptions options;
        options.rootRank = r;
        std::vector<Tensor> slice = {slices[static_cast<std::size_t>(r)]};
        works.push_back(group_->reduce(slice, options));
      }
    });
    return std::make_unique<AllPending>(std::move(works),
                                        [part, mine = slices[static_cast<std::size_t>(rank_)]] {
                                          const torch::NoGradGuard no_grad;
                                          part.copy_(mine);
                                        });
  }

  std::vector<double> sum(const Tensor& values) override {
    std::vector<Tensor> total = {values.to(torch::kFloat64, /*non_blocking=*/false, /*copy=*/true)};
    together([&] { group_->allreduce(total)->wait(); });
    const auto* at = total[0].data_ptr<double>();
    return {at, at + total[0].numel()};
  }

 private:
  int rank_;
  int ranks_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace

std::unique_ptr<ProcessGroup> gloo_group(const RankEnvironment& environment,
                                         std::chrono::milliseconds timeout) {
  return std::make_unique<GlooGroup>(environment, timeout);
}

}  // namespace cortex::train
