#include "train/process_group.h"

#include <fmt/format.h>

#include <cstdlib>

#include "train/runtime.h"
#if defined(CORTEX_WITH_GLOO) || defined(CORTEX_WITH_NCCL)
#include "train/process_group_c10d.h"
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
  explicit LoneGroup(torch::Device device) : device_(device) {}
  int rank() const override { return 0; }
  int ranks() const override { return 1; }
  torch::Device device() const override { return device_; }
  std::unique_ptr<Pending> all_gather(torch::Tensor whole, torch::Tensor part) override {
    whole.copy_(part);
    return std::make_unique<Done>();
  }
  std::unique_ptr<Pending> reduce_scatter(torch::Tensor whole, torch::Tensor part) override {
    part.copy_(whole);
    return std::make_unique<Done>();
  }
  std::vector<double> sum(const torch::Tensor& values) override {
    const torch::Tensor host = values.to(torch::kCPU, torch::kFloat64).contiguous();
    return {host.data_ptr<double>(), host.data_ptr<double>() + host.numel()};
  }

 private:
  struct Done final : Pending {
    void wait() override {}
  };
  torch::Device device_;
};

Error cannot_join(ErrorCode code, const RankEnvironment& e, const std::string& why) {
  return {code,
          fmt::format("rank {} cannot join {} others at {}:{}: {}", e.rank, e.ranks - 1,
                      e.master_address, e.master_port, why),
          "rank"};
}

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
  if (std::getenv("LOCAL_RANK") != nullptr) {
    const auto local = whole_number("LOCAL_RANK", 0, out.ranks - 1);
    if (!local) return local.error();
    out.local_rank = *local;
  }
  out.rank = *rank;
  out.master_port = *port;
  out.master_address = address;
  return out;
}

Result<torch::Device> rank_device(const std::string& name, const RankEnvironment& environment) {
  const auto picked = pick_device(name);
  if (!picked || picked->is_cpu() || name.rfind("cuda:", 0) == 0) return picked;
  const int seen = static_cast<int>(torch::cuda::device_count());
  return pick_device(fmt::format(
      "cuda:{}", environment.local_rank >= 0 ? environment.local_rank : environment.rank % seen));
}

double ProcessGroup::sum(double value) {
  return sum(torch::full({1}, value,
                         torch::TensorOptions().dtype(torch::kFloat64).device(device())))
      .front();
}

std::unique_ptr<ProcessGroup> lone_group(torch::Device device) {
  return std::make_unique<LoneGroup>(device);
}

Result<std::unique_ptr<ProcessGroup>> join_group(const RankEnvironment& environment,
                                                 torch::Device device,
                                                 std::chrono::milliseconds timeout) {
  try {
    if (device.is_cuda()) {
#ifdef CORTEX_WITH_NCCL
      return nccl_group(environment, device, timeout);
#else
      return cannot_join(ErrorCode::unsupported, environment,
                         "this build has no NCCL (" CORTEX_NCCL_LACKS
                         " was not found); --device cpu uses Gloo");
#endif
    }
#ifdef CORTEX_WITH_GLOO
    return gloo_group(environment, timeout);
#else
    return cannot_join(ErrorCode::unsupported, environment,
                       "this build has no c10d with Gloo (libgloo-dev and a LibTorch with c10d's "
                       "headers)");
#endif
  } catch (const Exception& e) {
    return e.error;
  } catch (const std::exception& e) {
    return cannot_join(ErrorCode::unavailable, environment, e.what());
  }
}

}  // namespace cortex::train
