#pragma once

#include <torch/torch.h>

#include <map>
#include <string>
#include <vector>

#include "model/weights.h"

namespace cortex::train {

/// Where a network finds its tensors.
class Parameters {
 public:
  virtual ~Parameters() = default;
  virtual const torch::Tensor& at(const std::string& name) const = 0;
  virtual torch::Device device() const = 0;
};

/// The trained tensors of a model as views of one flat buffer, and their gradients as views of
/// another, so that clipping, AdamW, EMA and checkpoints are single operations on one vector.
/// `output.mean` and `output.std` are not among them: they are constants of the data.
class ParameterSet final : public Parameters {
 public:
  /// The flat buffers are as long as the tensors need, rounded up to a multiple of `multiple`.
  ParameterSet(const std::vector<TensorSpec>& specs, torch::Device device,
               torch::Dtype dtype = torch::kFloat32, std::int64_t multiple = 1);
  ParameterSet(const ParameterSet&) = delete;
  ParameterSet& operator=(const ParameterSet&) = delete;

  const torch::Tensor& at(const std::string& name) const override;
  bool has(const std::string& name) const { return slots_.count(name) > 0; }
  void load(const std::map<std::string, Tensor>& tensors);
  /// The tensors of `flat` (the parameters themselves, or a moving average of them) by name.
  std::map<std::string, Tensor> save(const torch::Tensor& flat) const;

  torch::Tensor& flat() { return flat_; }
  torch::Tensor& grad() { return grad_; }
  /// 1 where weight decay applies: matrices, not gains and biases.
  torch::Tensor decay_mask() const;
  /// 1 on the tensors that are named.
  torch::Tensor mask_of(const std::vector<std::string>& names) const;
  /// Whether backward() kept writing into the flat gradient.
  bool gradients_are_flat() const;

  /// Lets the memory of the parameters or of their gradients go, though graphs of autograd may hold
  /// tensors of it: nothing may touch them until there is memory again.
  void let_go() { take_memory(flat_, {}); }
  void let_gradients_go() { take_memory(grad_, {}); }
  /// Makes `values`, as long as flat(), the parameters, by taking its memory.
  void take(const torch::Tensor& values) { take_memory(flat_, values); }
  /// Gradients of 0.
  void make_gradients() { take_memory(grad_, torch::zeros_like(grad_)); }

  torch::Device device() const override { return flat_.device(); }
  std::int64_t count() const { return count_; }
  /// Of the flat buffers before they were rounded up to `multiple`.
  std::int64_t length() const { return length_; }

 private:
  /// `of` and all its views lie in the memory of `from`, which has none afterwards, as have both if
  /// `from` is undefined.
  static void take_memory(const torch::Tensor& of, const torch::Tensor& from);

  struct Slot {
    std::int64_t offset = 0;
    Shape shape;
    torch::Tensor leaf;
  };
  std::map<std::string, Slot> slots_;
  torch::Tensor flat_;
  torch::Tensor grad_;
  std::int64_t count_ = 0;
  std::int64_t length_ = 0;
};

/// A copy of a runtime tensor (float32) as a LibTorch one.
torch::Tensor to_torch(const Tensor& tensor);
/// A float32 host copy of a LibTorch tensor.
Tensor from_torch(const torch::Tensor& tensor);

}  // namespace cortex::train
