#pragma once

#include <torch/torch.h>

#include <map>
#include <string>
#include <vector>

#include "model/weights.h"

namespace cortex::train {

/// The trained tensors of a model as views of one flat buffer, and their gradients as views of
/// another, so that clipping, AdamW, EMA and checkpoints are single operations on one vector.
/// `output.mean` and `output.std` are not among them: they are constants of the data.
class ParameterSet {
 public:
  ParameterSet(const std::vector<TensorSpec>& specs, torch::Device device,
               torch::Dtype dtype = torch::kFloat32);
  ParameterSet(const ParameterSet&) = delete;
  ParameterSet& operator=(const ParameterSet&) = delete;

  const torch::Tensor& at(const std::string& name) const;
  void load(const std::map<std::string, Tensor>& tensors);
  /// The tensors of `flat` (the parameters themselves, or a moving average of them) by name.
  std::map<std::string, Tensor> save(const torch::Tensor& flat) const;

  torch::Tensor& flat() { return flat_; }
  torch::Tensor& grad() { return grad_; }
  /// 1 where weight decay applies: matrices, not gains and biases.
  const torch::Tensor& decay_mask() const { return decay_mask_; }
  /// Whether backward() kept writing into the flat gradient.
  bool gradients_are_flat() const;
  torch::Device device() const { return flat_.device(); }
  std::int64_t count() const { return count_; }

 private:
  struct Slot {
    std::int64_t offset = 0;
    Shape shape;
    torch::Tensor leaf;
  };
  std::map<std::string, Slot> slots_;
  torch::Tensor flat_;
  torch::Tensor grad_;
  torch::Tensor decay_mask_;
  std::int64_t count_ = 0;
};

/// A copy of a runtime tensor (float32) as a LibTorch one.
torch::Tensor to_torch(const Tensor& tensor);
/// A float32 host copy of a LibTorch tensor.
Tensor from_torch(const torch::Tensor& tensor);

}  // namespace cortex::train
