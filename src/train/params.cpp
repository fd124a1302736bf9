#include "train/params.h"

#include <cstring>

namespace cortex::train {
namespace {

// Every tensor starts on a cache line, so that vector code meets the same alignment everywhere.
constexpr std::int64_t kAlign = 16;

bool is_constant(const std::string& name) { return name.rfind("output.", 0) == 0; }

}  // namespace

ParameterSet::ParameterSet(const std::vector<TensorSpec>& specs, torch::Device device,
                           torch::Dtype dtype, std::int64_t multiple) {
  std::int64_t total = 0;
  for (const TensorSpec& spec : specs) {
    if (is_constant(spec.name)) continue;
    Slot slot;
    slot.offset = total;
    slot.shape = spec.shape;
    count_ += element_count(spec.shape);
    total += (element_count(spec.shape) + kAlign - 1) / kAlign * kAlign;
    slots_.emplace(spec.name, std::move(slot));
  }
  length_ = total;
  total = (total + multiple - 1) / multiple * multiple;
  const auto options = torch::TensorOptions().dtype(dtype).device(device);
  flat_ = torch::zeros({total}, options);
  grad_ = torch::zeros({total}, options);
  for (auto& [name, slot] : slots_) {
    const std::int64_t n = element_count(slot.shape);
    slot.leaf = flat_.narrow(0, slot.offset, n).view(slot.shape).detach();
    slot.leaf.set_requires_grad(true);
    slot.leaf.mutable_grad() = grad_.narrow(0, slot.offset, n).view(slot.shape);
  }
}

torch::Tensor ParameterSet::decay_mask() const {
  torch::Tensor mask = torch::zeros_like(flat_);
  for (const auto& [name, slot] : slots_)
    if (slot.shape.size() > 1) mask.narrow(0, slot.offset, element_count(slot.shape)).fill_(1);
  return mask;
}

torch::Tensor ParameterSet::mask_of(const std::vector<std::string>& names) const {
  torch::Tensor mask = torch::zeros_like(flat_);
  for (const std::string& name : names) {
    const Slot& slot = slots_.at(name);
    mask.narrow(0, slot.offset, element_count(slot.shape)).fill_(1);
  }
  return mask;
}

const torch::Tensor& ParameterSet::at(const std::string& name) const {
  const auto found = slots_.find(name);
  if (found == slots_.end())
    throw Exception{{ErrorCode::internal, "no parameter '" + name + "'", name}};
  return found->second.leaf;
}

void ParameterSet::load(const std::map<std::string, Tensor>& tensors) {
  const torch::NoGradGuard no_grad;
  for (auto& [name, slot] : slots_) {
    const auto found = tensors.find(name);
    if (found == tensors.end() || found->second.shape() != slot.shape)
      throw Exception{
          {ErrorCode::corrupt_data, "tensor '" + name + "' is missing or misshapen", name}};
    const auto scale = tensors.find(scale_name(name));
    slot.leaf.copy_(
        to_torch(to_float(found->second, scale == tensors.end() ? nullptr : &scale->second)));
  }
}

std::map<std::string, Tensor> ParameterSet::save(const torch::Tensor& flat) const {
  std::map<std::string, Tensor> out;
  for (const auto& [name, slot] : slots_)
    out.emplace(
        name, from_torch(flat.narrow(0, slot.offset, element_count(slot.shape)).view(slot.shape)));
  return out;
}

bool ParameterSet::gradients_are_flat() const {
  for (const auto& [name, slot] : slots_) {
    const auto& g = slot.leaf.grad();
    if (!g.defined() || g.storage().data_ptr() != grad_.storage().data_ptr()) return false;
  }
  return true;
}

void ParameterSet::take_memory(const torch::Tensor& of, const torch::Tensor& from) {
  at::DataPtr none(nullptr, of.device());
  of.storage().set_data_ptr_noswap(from.defined() ? from.storage().set_data_ptr(std::move(none))
                                                  : std::move(none));
}

torch::Tensor to_torch(const Tensor& tensor) {
  auto out = torch::empty(tensor.shape(), torch::kFloat32);
  std::memcpy(out.data_ptr<float>(), tensor.data(), tensor.bytes());
  return out;
}

Tensor from_torch(const torch::Tensor& tensor) {
  const auto host = tensor.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  Tensor out(Shape(host.sizes().begin(), host.sizes().end()));
  std::memcpy(out.data(), host.data_ptr<float>(), out.bytes());
  return out;
}

}  // namespace cortex::train
