#include "train/process_group.h"

#include <fmt/format.h>

#include <cstdlib>

#ifdef CORTEX_WITH_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#endif

namespace cortex::train {
namespace {

Error bad_variable(const char* name, const std::string& what) {
  return {ErrorCode::invalid_argument, fmt::format("{} {}", name, what), name};
}

Result<int> whole_number(const char* name, int low, int high) {
  const char* text = std::getenv(name);
  if (text == nullptr) return bad_variable(name, "is not set, but WORLD_SIZE is");
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (end == text || *end != 0 || value < low || value > high)
    return bad_variable(name, fmt::format("is '{}', allowed are {} to {}", text, low, high));
  return static_cast<int>(value);
}

class LoneGroup final : public ProcessGroup {
 public:
  int rank() const override { return 0; }
  int ranks() const override { return 1; }
  std::unique_ptr<Pending> all_gather(torch::Tensor whole, torch::Tensor part) override {
    whole.copy_(part);
    struct Done final : Pending {
      void wait() override {}
    };
    return std::make_unique<Done>();
  }
  void reduce_scatter(torch::Tensor whole, torch::Tensor part) override { part.copy_(whole); }
  double sum(double value) override { return value; }
  void barrier() override {}
};

#ifdef CORTEX_WITH_GLOO

template <class F>
auto together(F body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::exception& e) {
    throw Exception{
        {ErrorCode::unavailable, fmt::format("another rank is gone: {}", e.what()), "rank"}};
  }
}

class GlooPending final : public ProcessGroup::Pending {
 public:
  explicit GlooPending(c10::intrusive_ptr<c10d::Work> work) : work_(std::move(work)) {}
  void wait() override {
    together([&] { work_->wait(); });
  }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
};

class GlooGroup final : public ProcessGroup {
 public:
  GlooGroup(const RankEnvironment& e, std::chrono::milliseconds timeout)
      : rank_(e.rank), ranks_(e.ranks) {
    c10d::TCPStoreOptions store;
    store.port = static_cast<std::uint16_t>(e.master_port);
    store.isServer = e.rank == 0;
    store.numWorkers = static_cast<std::size_t>(e.ranks);
    store.timeout = timeout;
    const auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    // Where the master is this machine, no other interface need be opened.
    options->devices.push_back(e.master_address == "127.0.0.1" || e.master_address == "localhost"
                                   ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                                   : c10d::ProcessGroupGloo::createDefaultDevice());
    options->threads = 2;
    group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(
        c10::make_intrusive<c10d::TCPStore>(e.master_address, store), e.rank, e.ranks, options);
  }

  int rank() const override { return rank_; }
  int ranks() const override { return ranks_; }

  std::unique_ptr<Pending> all_gather(torch::Tensor whole, torch::Tensor part) override {
    std::vector<std::vector<torch::Tensor>> out = {whole.chunk(ranks_)};
    std::vector<torch::Tensor> in = {part};
    return together([&] { return std::make_unique<GlooPending>(group_->allgather(out, in)); });
  }

  void reduce_scatter(torch::Tensor whole, torch::Tensor part) override {
    // Gloo has no reduce-scatter: one reduction a slice, all under way at once.
    const std::vector<torch::Tensor> slices = whole.chunk(ranks_);
    together([&] {
      std::vector<c10::intrusive_ptr<c10d::Work>> works;
      for (int r = 0; r < ranks_; ++r) {
        c10d::ReduceOptions options;
        options.rootRank = r;
        std::vector<torch::Tensor> slice = {slices[static_cast<std::size_t>(r)]};
        works.push_back(group_->reduce(slice, options));
      }
      for (const auto& work : works) work->wait();
    });
    part.copy_(slices[static_cast<std::size_t>(rank_)]);
  }

  double sum(double value) override {
    std::vector<torch::Tensor> total = {torch::tensor({value}, torch::kFloat64)};
    together([&] { group_->allreduce(total)->wait(); });
    return total[0].item<double>();
  }
  void barrier() override { (void)sum(0); }

 private:
  int rank_;
  int ranks_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

#endif

}  // namespace

Result<RankEnvironment> rank_environment() {
  RankEnvironment out;
  if (std::getenv("WORLD_SIZE") == nullptr) return out;
  const auto ranks = whole_number("WORLD_SIZE", 1, 4096);
  if (!ranks) return ranks.error();
  out.ranks = *ranks;
  if (out.ranks == 1) return out;
  const auto rank = whole_number("RANK", 0, out.ranks - 1);
  if (!rank) return rank.error();
  const auto port = whole_number("MASTER_PORT", 1, 65535);
  if (!port) return port.error();
  const char* address = std::getenv("MASTER_ADDR");
  if (address == nullptr || *address == 0) return bad_variable("MASTER_ADDR", "is not set");
  out.rank = *rank;
  out.master_port = *port;
  out.master_address = address;
  return out;
}

std::unique_ptr<ProcessGroup> lone_group() { return std::make_unique<LoneGroup>(); }

Result<std::unique_ptr<ProcessGroup>> join_group(const RankEnvironment& environment,
                                                 std::chrono::milliseconds timeout) {
#ifdef CORTEX_WITH_GLOO
  try {
    return std::unique_ptr<ProcessGroup>(std::make_unique<GlooGroup>(environment, timeout));
  } catch (const std::exception& e) {
    return Error{ErrorCode::unavailable,
                 fmt::format("rank {} cannot join {} others at {}:{}: {}", environment.rank,
                             environment.ranks - 1, environment.master_address,
                             environment.master_port, e.what()),
                 "rank"};
  }
#else
  return Error{ErrorCode::unsupported,
               fmt::format("WORLD_SIZE is {}, but this build has no c10d with Gloo "
                           "(libgloo-dev and a LibTorch with c10d's headers)",
                           environment.ranks),
               "rank"};
#endif
}

}  // namespace cortex::train
